//! cgroupfs by inotify(7): the directories that lead to annotated paths, and no others.
//!
//! Every proper ancestor of a followed path is watched while it exists, so each step of a path is seen
//! as it appears and disappears. A directory is watched first and scanned then: what exists already
//! gives no event. What is reported is what a look at the path finds after the event, not the event.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    io,
    path::PathBuf,
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
    tree: Tree,
    watches: Watches,
    buffer: Vec<u8>,
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
            tree: Tree::new(root, BTreeSet::new()),
            watches: Watches::default(),
            buffer: vec![0; BUFFER_SIZE],
        })
    }

    /// Follows these paths and no others. Returns what each of them is now.
    pub fn follow(&mut self, paths: BTreeSet<CgroupPath>) -> Vec<Seen> {
        let root = self.tree.nodes.swap_remove(ROOT).directory;
        self.tree = Tree::new(root, paths);
        let old = std::mem::take(&mut self.watches);
        let seen = self.rescan();
        let mut watches = self.inotify.watches();
        for (number, (_, descriptor)) in old.by_number {
            if !self.watches.by_number.contains_key(&number) {
                // It fails if the directory is gone, and the watch with it.
                let _ = watches.remove(descriptor);
            }
        }
        seen
    }

    /// Looks at every followed path, and watches what is not watched yet.
    pub fn rescan(&mut self) -> Vec<Seen> {
        let mut look = Look::default();
        self.watches.is_blind = false;
        self.visit(ROOT, &mut look);
        if !self.watches.is_blind {
            self.watches.told.clear();
        }
        look.into_seen(&self.tree)
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
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    overflowed = true;
                } else if let Some(directory) = self.watches.directory(&event.wd) {
                    match event.name {
                        Some(name) => touched.extend(self.tree.child(directory, name)),
                        // The directory itself, which is gone.
                        None => touched.extend([directory]),
                    }
                }
            }
        }
        let mut look = Look::default();
        if overflowed {
            self.visit(ROOT, &mut look);
        } else {
            // Parents come before their children, so a visit to a parent spares those.
            for node in touched {
                if !look.visited.contains(&node) {
                    self.visit(node, &mut look);
                }
            }
        }
        Drained { seen: look.into_seen(&self.tree), overflowed }
    }

    /// Whether some directories could not be watched or looked at: what changes there is only seen by [`Self::rescan`].
    pub fn is_blind(&self) -> bool {
        self.watches.is_blind
    }

    /// The directories that could not be watched or looked at and have not been told of yet; one for each kind of error.
    pub fn unwatched(&mut self) -> Vec<Unwatched> {
        std::mem::take(&mut self.watches.failed).into_values().collect()
    }

    /// Watches and looks at a node and all below it.
    fn visit(&mut self, index: usize, look: &mut Look) {
        look.visited.insert(index);
        let node = &self.tree.nodes[index];
        let exists = node.children.is_empty() || self.watches.watch(index, node, &self.inotify);
        if node.followed.is_some() {
            match if exists { look_at(&node.directory) } else { Ok(None) } {
                Ok(id) => drop(look.ids.insert(index, id)),
                // That says nothing about the cgroup.
                Err(error) => self.watches.fail(node, error),
            }
        }
        let children: Vec<usize> = node.children.values().copied().collect();
        for child in children {
            if exists {
                self.visit(child, look);
            } else {
                self.leave(child, look);
            }
        }
    }

    /// Notes that a node and all below it are gone, since its parent is.
    fn leave(&mut self, index: usize, look: &mut Look) {
        look.visited.insert(index);
        self.watches.forget(index, &self.inotify);
        let node = &self.tree.nodes[index];
        if node.followed.is_some() {
            look.ids.insert(index, None);
        }
        let children: Vec<usize> = node.children.values().copied().collect();
        for child in children {
            self.leave(child, look);
        }
    }
}

const BUFFER_SIZE: usize = 64 * 1024;

/// Bounds the time that a user who makes directories in a loop can hold the daemon.
const READS_AT_ONCE: usize = 2;

const ROOT: usize = 0;

/// What a round of visits found.
#[derive(Debug, Default)]
struct Look {
    visited: BTreeSet<usize>,
    ids: BTreeMap<usize, Option<CgroupId>>,
}

impl Look {
    fn into_seen(self, tree: &Tree) -> Vec<Seen> {
        let seen = |(index, id): (usize, _)| Some(Seen { path: tree.nodes[index].followed.clone()?, id });
        self.ids.into_iter().filter_map(seen).collect()
    }
}

/// The followed paths and their ancestors. A node's index is greater than its parent's.
#[derive(Debug)]
struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    directory: PathBuf,
    followed: Option<CgroupPath>,
    children: BTreeMap<OsString, usize>,
}

impl Tree {
    fn new(root: PathBuf, paths: BTreeSet<CgroupPath>) -> Self {
        let mut tree = Self { nodes: vec![Node::new(root)] };
        for path in paths {
            let mut at = ROOT;
            for name in path.components() {
                at = tree.child(at, OsStr::new(name)).unwrap_or_else(|| tree.grow(at, name));
            }
            tree.nodes[at].followed = Some(path);
        }
        tree
    }

    fn child(&self, parent: usize, name: &OsStr) -> Option<usize> {
        self.nodes[parent].children.get(name).copied()
    }

    fn grow(&mut self, parent: usize, name: &str) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Node::new(self.nodes[parent].directory.join(name)));
        self.nodes[parent].children.insert(OsString::from(name), index);
        index
    }
}

impl Node {
    fn new(directory: PathBuf) -> Self {
        Self { directory, followed: None, children: BTreeMap::new() }
    }
}

/// Which nodes are watched, under which numbers of the kernel's.
#[derive(Debug, Default)]
struct Watches {
    by_number: BTreeMap<i32, (usize, WatchDescriptor)>,
    by_node: BTreeMap<usize, i32>,
    failed: BTreeMap<Option<i32>, Unwatched>,
    /// The kinds of errors that have been told of.
    told: BTreeSet<Option<i32>>,
    is_blind: bool,
}

impl Watches {
    fn directory(&self, descriptor: &WatchDescriptor) -> Option<usize> {
        self.by_number.get(&descriptor.get_watch_descriptor_id()).map(|(node, _)| *node)
    }

    /// Watches a directory; says whether it exists. The number stays the same as long as the directory
    /// is the same.
    fn watch(&mut self, index: usize, node: &Node, inotify: &Inotify) -> bool {
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR;
        match inotify.watches().add(&node.directory, mask) {
            Ok(descriptor) => {
                let number = descriptor.get_watch_descriptor_id();
                if self.by_node.get(&index) != Some(&number) {
                    self.forget(index, inotify);
                    self.by_node.insert(index, number);
                    self.by_number.insert(number, (index, descriptor));
                }
                true
            }
            Err(error) => {
                self.forget(index, inotify);
                if is_absence(&error) {
                    return false;
                }
                self.fail(node, error);
                true
            }
        }
    }

    fn fail(&mut self, node: &Node, error: io::Error) {
        self.is_blind = true;
        if self.told.insert(error.raw_os_error()) {
            self.failed.insert(error.raw_os_error(), Unwatched { directory: node.directory.clone(), error });
        }
    }

    fn forget(&mut self, index: usize, inotify: &Inotify) {
        let Some(number) = self.by_node.remove(&index) else { return };
        if let Some((_, descriptor)) = self.by_number.remove(&number) {
            // It fails if the directory is gone, and the watch with it.
            let _ = inotify.watches().remove(descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, path::Path};

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
        let tree = Tree::new(PathBuf::from("/r"), BTreeSet::from(paths));
        assert_eq!(tree.nodes.len(), 4);
        let slice = tree.child(ROOT, OsStr::new("a.slice")).unwrap();
        assert_eq!(tree.nodes[slice].followed, Some(path("a.slice")));
        let service = tree.child(slice, OsStr::new("c.service")).unwrap();
        assert_eq!(tree.nodes[service].directory, Path::new("/r/a.slice/c.service"));
        assert_eq!(tree.child(slice, OsStr::new("d.service")), None);
        assert!(tree.nodes[service].children.is_empty());
    }

    #[tokio::test]
    async fn only_proper_ancestors_are_watched() {
        let scratch = Scratch::new("ancestors");
        scratch.make("a/b/c");
        let mut cgroups = cgroups(&scratch.0);
        cgroups.follow(BTreeSet::from([path("a/b"), path("x/y")]));
        let watched: Vec<usize> = cgroups.watches.by_node.keys().copied().collect();
        let directories: Vec<&Path> = watched.iter().map(|&n| &*cgroups.tree.nodes[n].directory).collect();
        assert_eq!(directories, [scratch.0.as_path(), &scratch.0.join("a")]);
    }

    #[tokio::test]
    async fn paths_that_are_followed_no_longer_are_unwatched() {
        let scratch = Scratch::new("unfollowed");
        scratch.make("a");
        scratch.make("b");
        let mut cgroups = cgroups(&scratch.0);
        cgroups.follow(BTreeSet::from([path("a/x"), path("b/x")]));
        assert_eq!(cgroups.watches.by_number.len(), 3);
        let seen = cgroups.follow(BTreeSet::from([path("b/x")]));
        assert_eq!(seen, [Seen { path: path("b/x"), id: None }]);
        assert_eq!(cgroups.watches.by_number.len(), 2);
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
