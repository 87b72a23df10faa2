//! Files below a root directory, with links followed as if that were `/`.

use std::{
    ffi::OsString,
    fs::{self, DirEntry, File, OpenOptions},
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
    root: PathBuf,
}

impl Tree {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

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
        let directory = self.resolve(directory).map(|directory| self.outside(&directory));
        directory.and_then(|directory| fs::read_dir(directory).ok()).into_iter().flatten().flatten()
    }

    /// A file's text, if it is an ordinary file, can be read and is not too large.
    pub(super) fn read(&self, path: &Path) -> Option<String> {
        let path = self.outside(&self.resolve(path)?);
        // To open a device can have an effect, and a FIFO waits.
        if !fs::symlink_metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path).ok()?;
        read_ordinary(&file)
    }

    fn outside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

fn read_ordinary(file: &File) -> Option<String> {
    let is_ordinary = file.metadata().is_ok_and(|metadata| metadata.is_file());
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).ok()?;
    let is_small = u64::try_from(bytes.len()).is_ok_and(|length| length <= LARGEST);
    (is_ordinary && is_small).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// The names of a path, the first one last.
fn steps(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}
