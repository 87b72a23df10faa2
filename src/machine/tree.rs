//! Files below a root directory, with links followed as if that were `/`.

use std::{
    ffi::OsString,
    fs::{self, DirEntry, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

/// The most that a file may hold to be read.
const LARGEST: u64 = 256 * 1024;

/// As many links on the way to a file as the kernel follows.
const MOST_LINKS: usize = 40;

/// What is below a root directory. All paths are as they are there.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
}

impl Tree {
    /// Where a path leads, which need not exist. `None` if its links lead around in a circle.
    pub(super) fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let mut pending: Vec<OsString> = steps(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(step) = pending.pop() {
            if step == ".." {
                at.pop();
                continue;
            }
            at.push(&step);
            let Ok(target) = fs::read_link(self.outside(&at)) else { continue };
            links += 1;
            if links > MOST_LINKS {
                return None;
            }
            at.pop();
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            pending.extend(steps(&target));
        }
        Some(at)
    }

    /// What is in a directory; nothing if it cannot be read.
    pub(super) fn list(&self, directory: &Path) -> impl Iterator<Item = DirEntry> {
        let directory = self.resolve(directory);
        directory.and_then(|at| fs::read_dir(self.outside(&at)).ok()).into_iter().flatten().flatten()
    }

    /// A file's text, if it is an ordinary file, can be read and is not too large.
    pub(super) fn read(&self, path: &Path) -> Option<String> {
        let path = self.outside(&self.resolve(path)?);
        // To open a device can have an effect, and a FIFO waits.
        fs::symlink_metadata(&path).ok().filter(|metadata| metadata.is_file())?;
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= LARGEST).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn outside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The names of a path, the first one last.
fn steps(path: &Path) -> Vec<OsString> {
    let names =
        path.components().rev().filter(|one| matches!(one, Component::Normal(_) | Component::ParentDir));
    names.map(|name| name.as_os_str().to_owned()).collect()
}
