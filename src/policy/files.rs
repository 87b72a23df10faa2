//! The one way in which the parser reads: real files, or a test's.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::gather::sort_by;

/// Reads files and expands globs.
pub trait Files {
    /// A file's bytes.
    ///
    /// # Errors
    /// As [`std::fs::read`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The bytes of a file that another one includes.
    ///
    /// # Errors
    /// As [`Self::read`], and if it is not a regular file: nft would wait for it, and since 1.0.9 it refuses it.
    fn read_included(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.read(path)
    }

    /// The files that a glob(7) pattern matches, sorted.
    fn glob(&self, pattern: &str) -> Vec<PathBuf>;

    /// What two paths of the same file have in common.
    fn identity(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }

    /// The absolute path of a directory; none if it does not matter where files are read from.
    fn absolute(&self, _directory: &Path) -> Option<PathBuf> {
        None
    }
}

/// The machine's files, and its standard input.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

/// The name of what comes by the standard input.
pub const STDIN: &str = "<stdin>";

/// How much is read of what is no regular file: it may have no end.
const MOST_OF_A_STREAM: u64 = 64 << 20;

impl Disk {
    /// Whether what has this name can be read only once, such as a pipe.
    pub fn is_stream(path: &str) -> bool {
        path == STDIN || !Path::new(path).is_file()
    }
}

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        if path == Path::new(STDIN) {
            return stream(io::stdin());
        }
        let file = File::open(path)?;
        if file.metadata()?.is_file() { fs::read(path) } else { stream(file) }
    }

    fn read_included(&self, path: &Path) -> io::Result<Vec<u8>> {
        let kind = fs::metadata(path)?.file_type();
        if kind.is_file() || kind.is_dir() {
            return fs::read(path);
        }
        Err(io::Error::other("it is not a regular file"))
    }

    fn glob(&self, pattern: &str) -> Vec<PathBuf> {
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let Ok(paths) = glob::glob_with(&as_in_libc(pattern), options) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = paths.flatten().filter(|path| !path.is_dir()).collect();
        sort_by(&mut paths, Ord::cmp);
        paths
    }

    fn identity(&self, path: &Path) -> PathBuf {
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }
}

/// A path or pattern as the directory that it begins with, up to its last `/`, and the rest. A directory has no wildcards.
pub(crate) fn split_pattern(pattern: &str) -> (&str, &str) {
    let plain = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    pattern.split_at(pattern[..plain].rfind('/').map_or(0, |at| at + 1))
}

fn stream(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MOST_OF_A_STREAM + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_OF_A_STREAM {
        let words = format!("more than {} MiB, and no end of it", MOST_OF_A_STREAM >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
    }
    Ok(bytes)
}

/// glob(3) knows no `**` for any depth, and takes `[^` as `[!`.
fn as_in_libc(pattern: &str) -> String {
    let mut pattern = pattern.replace("[^", "[!");
    while pattern.contains("**") {
        pattern = pattern.replace("**", "*");
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_a_pattern_has_no_wildcards() {
        for (pattern, parts) in [
            ("./a.nft", ("./", "a.nft")),
            ("./d/*.d/a.nft", ("./d/", "*.d/a.nft")),
            ("/a*", ("/", "a*")),
            ("[a]/b", ("", "[a]/b")),
        ] {
            assert_eq!(split_pattern(pattern), parts);
        }
    }

    #[test]
    fn what_has_no_end_is_no_file() {
        assert_eq!(Disk.read(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(Disk::is_stream(STDIN) && Disk::is_stream("/dev/null") && !Disk::is_stream("/proc/self/exe"));
    }

    #[test]
    fn globs_are_sorted_and_leave_out_directories_and_hidden_files() {
        let top = std::env::temp_dir().join(format!("scnpm-files-{}", std::process::id()));
        fs::create_dir_all(top.join("d.conf")).unwrap();
        for name in ["b.conf", "a.conf", ".c.conf", "e.txt"] {
            fs::write(top.join(name), "").unwrap();
        }
        let found = Disk.glob(&format!("{}/**.conf", top.display()));
        fs::remove_dir_all(&top).unwrap();
        assert_eq!(found, [top.join("a.conf"), top.join("b.conf")]);
    }
}
