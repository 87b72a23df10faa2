//! cgroupfs by inotify(7): the directories that lead to annotated paths, and no others.
//!
//! Every proper ancestor of a followed path is watched while it exists, so each step of a path is seen
//! as it appears and disappears. A directory is watched first and scanned then: what exists already
//! gives no event. What is reported is what a look at the path finds after the event, not the event.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    task::{Context, Poll},
};

use super::readable::Readable;
use crate::{
    cgroupfs::{is_absence, look_at},
    model::{CGROUP_ROOT, CgroupId, CgroupPath},
};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

/// Follows a set of cgroups.
#[derive(Debug)]
pub struct Cgroups {
    inotify: Inotify,
    readable: Readable,
    root: PathBuf,
    /// The followed paths and those that lead to them, each with a slash at its end, from the root's on, which is empty.
    /// So what is in a directory comes right after it.
    nodes: BTreeMap<String, Node>,
    /// Those that are watched.
    watched: BTreeMap<WatchDescriptor, String>,
    failed: Vec<Unwatched>,
    /// The kinds of errors that have been told of.
    told: BTreeSet<Option<i32>>,
    is_blind: bool,
    buffer: Vec<u8>,
}

#[derive(Debug, Default)]
struct Node {
    followed: Option<CgroupPath>,
    /// Whether it is in the way to others.
    leads_on: bool,
    watch: Option<WatchDescriptor>,
}

/// What a look at a cgroup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its path.
    pub path: CgroupPath,
    /// Its id, if it exists.
    pub id: Option<CgroupId>,
}

/// What [`Cgroups::drain`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Each followed cgroup that something happened to, once, as it is now.
    pub seen: Vec<Seen>,
    /// Whether the kernel dropped events; then all followed cgroups were looked at.
    pub overflowed: bool,
}

/// A directory that could not be watched or looked at.
#[derive(Debug)]
pub struct Unwatched {
    /// The directory.
    pub directory: PathBuf,
    /// Why. `ENOSPC` means that `fs.inotify.max_user_watches` is reached.
    pub error: io::Error,
}

impl Cgroups {
    /// Follows nothing yet, below [`CGROUP_ROOT`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// inotify_init1(2) failed.
    pub fn new() -> io::Result<Self> {
        Self::with_root(PathBuf::from(CGROUP_ROOT))
    }

    /// The same below another directory.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with_root(root: PathBuf) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        Ok(Self {
            readable: Readable::of(&inotify)?,
            inotify,
            root,
            nodes: BTreeMap::new(),
            watched: BTreeMap::new(),
            failed: Vec::new(),
            told: BTreeSet::new(),
            is_blind: false,
            buffer: vec![0; BUFFER_SIZE],
        })
    }

    /// Follows these paths and no others. Returns what each of them is now.
    pub fn follow(&mut self, paths: BTreeSet<CgroupPath>) -> Vec<Seen> {
        let old = std::mem::replace(&mut self.nodes, nodes(paths));
        self.watched.clear();
        let seen = self.rescan();
        for watch in old.into_values().filter_map(|node| node.watch) {
            if !self.watched.contains_key(&watch) {
                // It fails if the directory is gone, and the watch with it.
                let _ = self.inotify.watches().remove(watch);
            }
        }
        seen
    }

    /// Looks at every followed path, and watches what is not watched yet.
    pub fn rescan(&mut self) -> Vec<Seen> {
        self.is_blind = false;
        let seen = self.visit(BTreeSet::from([String::new()]));
        if !self.is_blind {
            self.told.clear();
        }
        seen
    }

    /// Whether [`Self::drain`] has something to read; the task is woken when it has.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.readable.poll_ready(cx)
    }

    /// Reads what is pending and looks at the cgroups that it mentions. Does not block. After very many
    /// events it stops early, and [`Self::poll_ready`] is ready at once.
    pub fn drain(&mut self) -> Drained {
        let mut touched = BTreeSet::new();
        let mut overflowed = false;
        for _ in 0..READS_AT_ONCE {
            let (inotify, buffer) = (&mut self.inotify, &mut self.buffer);
            let Ok(events) = self.readable.read(|| inotify.read_events(buffer)) else { break };
            for event in events {
                overflowed |= event.mask.contains(EventMask::Q_OVERFLOW);
                let Some(directory) = self.watched.get(&event.wd) else { continue };
                touched.insert(match event.name {
                    Some(name) => format!("{directory}{}/", name.to_string_lossy()),
                    // The directory itself, which is gone.
                    None => directory.clone(),
                });
            }
        }
        if overflowed {
            touched = BTreeSet::from([String::new()]);
        }
        Drained { seen: self.visit(touched), overflowed }
    }

    /// Whether some directories could not be watched or looked at: what changes there is only seen by [`Self::rescan`].
    pub fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// The directories that could not be watched or looked at and have not been told of yet; one for each kind of error.
    pub fn unwatched(&mut self) -> Vec<Unwatched> {
        std::mem::take(&mut self.failed)
    }

    /// Watches and looks at those of these directories that matter, and all below them.
    fn visit(&mut self, directories: BTreeSet<String>) -> Vec<Seen> {
        let mut fail = |directory: &Path, error: io::Error| {
            self.is_blind = true;
            if self.told.insert(error.raw_os_error()) {
                self.failed.push(Unwatched { directory: directory.to_owned(), error });
            }
        };
        let mut seen = Vec::new();
        let mut visited: Option<String> = None;
        for top in directories {
            if visited.as_ref().is_some_and(|above| top.starts_with(above)) || !self.nodes.contains_key(&top)
            {
                continue;
            }
            let mut gone: Option<&String> = None;
            let nodes = self.nodes.range_mut(top.clone()..).take_while(|(path, _)| path.starts_with(&top));
            for (path, node) in nodes {
                let directory = self.root.join(path.trim_end_matches('/'));
                let mut watch = None;
                let mut exists = gone.is_none_or(|above| !path.starts_with(above));
                if node.leads_on && exists {
                    let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR;
                    match self.inotify.watches().add(&directory, mask) {
                        Ok(descriptor) => watch = Some(descriptor),
                        Err(error) if is_absence(&error) => {
                            exists = false;
                            gone = Some(path);
                        }
                        Err(error) => fail(&directory, error),
                    }
                }
                // The descriptor stays the same as long as the directory is the same.
                if node.watch != watch {
                    if let Some(old) = node.watch.take() {
                        self.watched.remove(&old);
                        // It fails if the directory is gone, and the watch with it.
                        let _ = self.inotify.watches().remove(old);
                    }
                    self.watched.extend(watch.clone().map(|watch| (watch, path.clone())));
                    node.watch = watch;
                }
                if let Some(followed) = &node.followed {
                    match if exists { look_at(&directory) } else { Ok(None) } {
                        Ok(id) => seen.push(Seen { path: followed.clone(), id }),
                        // That says nothing about the cgroup.
                        Err(error) => fail(&directory, error),
                    }
                }
            }
            visited = Some(top);
        }
        seen
    }
}

const BUFFER_SIZE: usize = 64 * 1024;

/// Bounds the time that a user who makes directories in a loop can hold the daemon.
const READS_AT_ONCE: usize = 2;

/// What leads to these paths, and they themselves.
fn nodes(paths: BTreeSet<CgroupPath>) -> BTreeMap<String, Node> {
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    for path in paths {
        let mut at = String::new();
        for name in path.components() {
            let below = format!("{at}{name}/");
            nodes.entry(at).or_default().leads_on = true;
            at = below;
        }
        nodes.entry(at).or_default().followed = Some(path);
    }
    nodes
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn path(text: &str) -> CgroupPath {
        text.parse().unwrap()
    }

    fn cgroups(root: &Path) -> Cgroups {
        Cgroups::with_root(root.to_path_buf()).unwrap()
    }

    /// An ordinary directory does for what does not depend on cgroupfs.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("scnpm-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            Self(directory)
        }

        fn make(&self, name: &str) {
            std::fs::create_dir_all(self.0.join(name)).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn tree_shares_the_ancestors_of_its_paths() {
        let paths = ["a.slice/b.service", "a.slice/c.service", "a.slice"].map(path);
        let nodes = nodes(BTreeSet::from(paths));
        assert!(nodes.keys().eq(["", "a.slice/", "a.slice/b.service/", "a.slice/c.service/"]));
        assert_eq!(nodes["a.slice/"].followed, Some(path("a.slice")));
        assert!(nodes["a.slice/"].leads_on && !nodes["a.slice/c.service/"].leads_on);
    }

    #[tokio::test]
    async fn only_proper_ancestors_are_watched() {
        let scratch = Scratch::new("ancestors");
        scratch.make("a/b/c");
        let mut cgroups = cgroups(&scratch.0);
        cgroups.follow(BTreeSet::from([path("a/b"), path("x/y")]));
        assert!(cgroups.watched.values().eq(["", "a/"]));
    }

    #[tokio::test]
    async fn paths_that_are_followed_no_longer_are_unwatched() {
        let scratch = Scratch::new("unfollowed");
        scratch.make("a");
        scratch.make("b");
        let mut cgroups = cgroups(&scratch.0);
        cgroups.follow(BTreeSet::from([path("a/x"), path("b/x")]));
        assert_eq!(cgroups.watched.len(), 3);
        let seen = cgroups.follow(BTreeSet::from([path("b/x")]));
        assert_eq!(seen, [Seen { path: path("b/x"), id: None }]);
        assert_eq!(cgroups.watched.len(), 2);
        poll_fn(|cx| cgroups.poll_ready(cx)).await; // the IN_IGNORED of a
        assert_eq!(cgroups.drain(), Drained::default());
        scratch.make("a/x");
        scratch.make("b/x");
        poll_fn(|cx| cgroups.poll_ready(cx)).await;
        assert_eq!(cgroups.drain().seen.len(), 1);
    }

    #[tokio::test]
    async fn files_are_no_cgroups() {
        let scratch = Scratch::new("files");
        std::fs::write(scratch.0.join("cgroup.procs"), "").unwrap();
        let mut cgroups = cgroups(&scratch.0);
        let paths = BTreeSet::from([path("cgroup.procs"), path("cgroup.procs/x")]);
        assert!(cgroups.follow(paths).iter().all(|seen| seen.id.is_none()));
        assert!(cgroups.unwatched().is_empty());
    }
}
