//! The one way in which the parser reads: real files, or a test's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Reads files and expands globs.
pub trait Files {
    /// A file's bytes.
    ///
    /// # Errors
    /// As [`std::fs::read`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The files that a glob(7) pattern matches, sorted.
    fn glob(&self, pattern: &str) -> Vec<PathBuf>;

    /// What two paths of the same file have in common.
    fn identity(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

/// The machine's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn glob(&self, pattern: &str) -> Vec<PathBuf> {
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let Ok(paths) = glob::glob_with(&as_in_libc(pattern), options) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = paths.flatten().filter(|path| !path.is_dir()).collect();
        paths.sort();
        paths
    }

    fn identity(&self, path: &Path) -> PathBuf {
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    }
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
