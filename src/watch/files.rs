//! The policy's files, by inotify(7): whatever may change what a reading of them finds.
//!
//! Editors write in place, or make another file and rename it; a name may be a link to a file elsewhere. So directories are
//! watched, not files: those of all files, of the links on the way, and of what `include` looks through.

use crate::gather::Gather;
use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    task::{Context, Poll},
    time::Duration,
};

use inotify::{Inotify, WatchDescriptor, WatchMask};
use litemap::LiteMap;

use super::{inotify, readable::Readable, with_remedy};

/// How long files must rest before they are read: who saves several takes a moment.
pub const SETTLE: Duration = Duration::from_millis(200);

/// How many links are followed on the way to a file (path_resolution(7)).
const LINKS: usize = 40;

const BUFFER_SIZE: usize = 4 * 1024;

/// Watches directories for changes of what is in them. By default, of nothing.
#[derive(Debug, Default)]
pub struct ConfigFiles {
    /// Nothing while the kernel has none for us.
    inotify: Option<(Inotify, Readable)>,
    wanted: BTreeSet<PathBuf>,
    watches: LiteMap<PathBuf, WatchDescriptor>,
    /// Whether some directories exist and could not be watched.
    is_blind: bool,
}

impl ConfigFiles {
    /// Watches the directories that these files are in, or would be in, and no others. Returns what to say of those that
    /// exist and cannot be watched, unless there were such before. Must be called within a tokio runtime.
    pub fn follow<'a>(&mut self, files: impl IntoIterator<Item = &'a Path>) -> Vec<String> {
        self.wanted = files.into_iter().flat_map(directories).gather();
        let was_blind = self.is_blind;
        let why = self.watch().err().filter(|_| !was_blind);
        why.map(|why| format!("the policy's files cannot be watched for changes: {why}"))
            .into_iter()
            .collect()
    }

    /// Whether there are directories that exist and are not watched.
    pub fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// Tries once more to watch what is wanted; whether that is done. Then something may have changed unseen.
    pub fn try_again(&mut self) -> bool {
        self.watch().is_ok()
    }

    /// Watches what is wanted; or says why it cannot.
    fn watch(&mut self) -> Result<(), String> {
        self.is_blind = true;
        let (inotify, _) = match &mut self.inotify {
            Some(open) => open,
            none => none.insert(inotify().map_err(|error| with_remedy(&error))?),
        };
        let mut old = std::mem::take(&mut self.watches);
        let mut failed = Ok(());
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::MOVE_SELF
            | WatchMask::DELETE_SELF
            | WatchMask::ONLYDIR;
        for directory in &self.wanted {
            // The same directory has the same watch.
            match inotify.watches().add(directory, mask) {
                Ok(watch) => {
                    old.remove(directory);
                    self.watches.insert(directory.clone(), watch);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed = Err(format!("{}: {}", directory.display(), with_remedy(&error))),
            }
        }
        let mut watches = inotify.watches();
        for (_, watch) in
            old.into_iter().filter(|(_, watch)| !self.watches.values().any(|kept| kept == watch))
        {
            // It fails if the directory is gone, and the watch with it.
            let _ = watches.remove(watch);
        }
        self.is_blind = failed.is_err();
        failed
    }

    /// Whether something has changed; the task is woken when it has.
    pub fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((inotify, readable)) = &mut self.inotify else { return Poll::Pending };
        if readable.poll_ready(cx).is_pending() {
            return Poll::Pending;
        }
        let mut buffer = [0; BUFFER_SIZE];
        while readable.read(|| inotify.read_events(&mut buffer).map(drop)).is_ok() {}
        Poll::Ready(())
    }
}

/// The directories in which a change may lead to another file under this name: its own, those above it that do not exist,
/// and those of the links on the way.
fn directories(file: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    for _ in 0..LINKS {
        let Some(parent) = path.parent().map(Path::to_owned) else { break };
        // A directory may be a link itself, or may not exist yet.
        let existing = parent.ancestors().find(|directory| directory.exists()).unwrap_or(Path::new("/"));
        found.insert(existing.to_owned());
        found.extend(existing.canonicalize());
        found.extend(
            parent.ancestors().filter(|one| one.is_symlink()).filter_map(Path::parent).map(Path::to_owned),
        );
        match path.read_link() {
            Ok(target) => path = parent.join(target),
            Err(_) => break,
        }
    }
    found
}

/// The directory that a glob(7) pattern looks through, as far as it is named.
pub fn base_of(pattern: &str) -> PathBuf {
    let is_plain =
        |part: &std::path::Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[', '\\']);
    let plain: PathBuf = Path::new(pattern).components().take_while(is_plain).collect();
    // With a name in it, so that the directory itself is watched.
    plain.join(OsString::from("*"))
}

#[cfg(test)]
mod tests {
    use std::{fs, future::poll_fn, os::unix::fs::symlink};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let top = std::env::temp_dir().join(format!("scnpm-config-{name}-{}", std::process::id()));
            fs::create_dir_all(top.join("etc")).unwrap();
            Self(top.canonicalize().unwrap())
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    async fn is_heard(files: &mut ConfigFiles) -> bool {
        let change = poll_fn(|cx| files.poll_change(cx));
        tokio::time::timeout(Duration::from_millis(100), change).await.is_ok()
    }

    #[tokio::test]
    async fn changes_are_heard_however_they_are_made() {
        let scratch = Scratch::new("ways");
        let file = scratch.at("etc/policy.nft");
        fs::write(&file, "a").unwrap();
        symlink("etc/policy.nft", scratch.at("link.nft")).unwrap();
        let mut files = ConfigFiles::default();
        assert!(files.follow([&*scratch.at("link.nft")]).is_empty());
        assert!(!is_heard(&mut files).await);
        fs::write(&file, "b").unwrap();
        assert!(is_heard(&mut files).await, "in place");
        fs::write(scratch.at("etc/new"), "c").unwrap();
        fs::rename(scratch.at("etc/new"), &file).unwrap();
        assert!(is_heard(&mut files).await, "by rename");
        fs::remove_file(scratch.at("link.nft")).unwrap();
        assert!(is_heard(&mut files).await, "another link");
        files.follow([]);
        let _ = is_heard(&mut files).await;
        fs::write(&file, "d").unwrap();
        assert!(!is_heard(&mut files).await, "not any longer");
    }

    #[tokio::test]
    async fn files_that_do_not_exist_yet_are_waited_for() {
        let scratch = Scratch::new("absent");
        let mut files = ConfigFiles::default();
        files.follow([
            &*scratch.at("etc/below/policy.nft"),
            &*base_of(&format!("{}/*.d/*.nft", scratch.0.display())),
        ]);
        fs::create_dir(scratch.at("etc/below")).unwrap();
        assert!(is_heard(&mut files).await);
        fs::create_dir(scratch.at("a.d")).unwrap();
        assert!(is_heard(&mut files).await);
    }

    #[test]
    fn pattern_is_looked_for_from_its_first_wildcard_on() {
        assert_eq!(base_of("/etc/nftables.d/*.nft"), Path::new("/etc/nftables.d/*"));
        assert_eq!(base_of("/etc/[ab]/c"), Path::new("/etc/*"));
    }
}
