//! cgroupfs by inotify(7): the directories that lead to annotated paths, and no others.
//!
//! Every proper ancestor of a followed path is watched while it exists, so each step of a path is seen
//! as it appears and disappears. A directory is watched first and looked into then: what exists already
//! gives no event. What is reported is what a look at the path finds after the event, not the event.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, iter,
    ops::Bound,
    path::{Path, PathBuf},
    task::{Context, Poll},
};

use super::{inotify, notice, readable::Readable};
use crate::{
    cgroupfs::{is_absence, look_at},
    gather::Gather,
    model::{CGROUP_ROOT, CgroupId, CgroupPath},
};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use litemap::LiteMap;

/// Follows a set of cgroups.
#[derive(Debug)]
pub struct Cgroups {
    root: PathBuf,
    followed: BTreeSet<CgroupPath>,
    watches: Watches,
    /// How often the kernel has dropped events.
    overflows: u32,
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

/// What looks found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Each followed cgroup that was looked at, once, as it is now.
    pub seen: Vec<Seen>,
    /// What to say in the log: overflows, directories that cannot be watched or looked at. Each kind once.
    pub notices: Vec<String>,
}

impl Default for Cgroups {
    /// Follows nothing yet, below [`CGROUP_ROOT`].
    fn default() -> Self {
        Self::with_root(PathBuf::from(CGROUP_ROOT))
    }
}

impl Cgroups {
    /// Follows nothing yet, below another directory than [`CGROUP_ROOT`].
    pub fn with_root(root: PathBuf) -> Self {
        Self {
            root,
            followed: BTreeSet::new(),
            watches: Watches::default(),
            overflows: 0,
            buffer: vec![0; BUFFER_SIZE],
        }
    }

    /// Follows these paths and no others. Returns what each of them is now. Must be called within a tokio runtime.
    pub fn follow(&mut self, paths: BTreeSet<CgroupPath>) -> Drained {
        self.followed = paths;
        let old = std::mem::take(&mut self.watches.by_number);
        self.watches.by_directory.clear();
        let drained = self.rescan();
        for (number, (_, descriptor)) in old {
            if !self.watches.by_number.contains_key(&number) {
                self.watches.remove(descriptor);
            }
        }
        drained
    }

    /// Looks at every followed path, and watches what is not watched yet. Must be called within a tokio runtime.
    pub fn rescan(&mut self) -> Drained {
        self.watches.is_blind = false;
        if let Err(error) = self.watches.listen() {
            self.watches.fail(&self.root, &error);
        }
        let mut look = Look::default();
        self.visit(ROOT, &mut look);
        if !self.watches.is_blind {
            self.watches.told.clear();
        }
        self.drained(look)
    }

    fn drained(&mut self, look: Look) -> Drained {
        let seen = look.ids.into_iter().map(|(path, id)| Seen { path, id }).collect();
        Drained { seen, notices: std::mem::take(&mut self.watches.notices) }
    }

    /// Whether [`Self::drain`] has something to read; the task is woken when it has.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.watches.inotify.as_ref().map_or(Poll::Pending, |(_, readable)| readable.poll_ready(cx))
    }

    /// Reads what is pending and looks at the cgroups that it mentions. Does not block. After very many
    /// events it stops early, and [`Self::poll_ready`] is ready at once.
    pub fn drain(&mut self) -> Drained {
        let mut touched = BTreeSet::new();
        let mut overflowed = false;
        for _ in 0..READS_AT_ONCE {
            let Some((inotify, readable)) = &mut self.watches.inotify else { break };
            let Ok(events) = readable.read(|| inotify.read_events(&mut self.buffer)) else { break };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    overflowed = true;
                } else if let Some((directory, _)) = self.watches.by_number.get(&number(&event.wd)) {
                    // Without a name it is the directory itself, which is gone.
                    let path = match event.name {
                        Some(name) => name.to_str().map(|name| join(directory, name)),
                        None => Some(directory.clone()),
                    };
                    touched.extend(path.filter(|path| within(&self.followed, path).next().is_some()));
                }
            }
        }
        let mut look = Look::default();
        if overflowed {
            self.note_overflow();
            self.visit(ROOT, &mut look);
        } else {
            // Parents come before their children, so a visit to a parent spares those.
            touched.into_iter().for_each(|path| self.visit(&path, &mut look));
        }
        self.drained(look)
    }

    /// More and more rarely: users must not fill the log.
    fn note_overflow(&mut self) {
        self.overflows = self.overflows.saturating_add(1);
        if self.overflows.is_power_of_two() {
            self.watches.notices.push(format!(
                "inotify events of cgroups that the policy names overflowed (so far: {}); all of them are looked at",
                self.overflows
            ));
        }
    }

    /// Whether some directories could not be watched or looked at: what changes there is only seen by [`Self::rescan`].
    pub fn is_blind(&self) -> bool {
        self.watches.is_blind
    }

    /// Watches the directories at and below a path that lead to followed paths, then looks at these.
    fn visit(&mut self, top: &str, look: &mut Look) {
        if look.ids.contains_key(top) || look.directories.contains_key(top) {
            return;
        }
        let leading = within(&self.followed, top).flat_map(|path| ancestors(path.as_str()));
        let directories: BTreeSet<&str> = leading.filter(|directory| directory.len() >= top.len()).gather();
        for directory in directories {
            let exists = look.exists(directory) && self.watches.watch(directory, &self.root);
            if !exists {
                self.watches.forget(directory);
            }
            look.directories.insert(directory.to_owned(), exists);
        }
        for path in within(&self.followed, top) {
            let directory = self.root.join(path.as_str());
            match if look.exists(path.as_str()) { look_at(&directory) } else { Ok(None) } {
                Ok(id) => drop(look.ids.insert(path.clone(), id)),
                // That says nothing about the cgroup.
                Err(error) => self.watches.fail(&directory, &error),
            }
        }
    }
}

const BUFFER_SIZE: usize = 64 * 1024;

/// Bounds the time that a user who makes directories in a loop can hold the daemon.
const READS_AT_ONCE: usize = 2;

/// The root of the hierarchy, as directories are named here: by their path below it.
const ROOT: &str = "";

fn join(directory: &str, name: &str) -> String {
    if directory == ROOT { name.to_owned() } else { format!("{directory}/{name}") }
}

/// The directories above a path, from the next one to the root.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let above = |path: &&str| path.rfind('/');
    iter::successors(Some(path), move |path| above(path).map(|end| &path[..end])).skip(1).chain([ROOT])
}

/// Those of some paths that are at or below another one.
fn within<'a>(paths: &'a BTreeSet<CgroupPath>, top: &str) -> impl Iterator<Item = &'a CgroupPath> + use<'a> {
    let below = if top == ROOT { String::new() } else { format!("{top}/") };
    let itself = paths.get(top);
    let from = paths.range::<str, _>((Bound::Included(&*below), Bound::Unbounded));
    itself.into_iter().chain(from.take_while(move |path| path.as_str().starts_with(&below)))
}

/// What a round of visits found.
#[derive(Debug, Default)]
struct Look {
    /// The directories that lead to followed paths, and whether they are there.
    directories: BTreeMap<String, bool>,
    ids: BTreeMap<CgroupPath, Option<CgroupId>>,
}

impl Look {
    /// Whether something can exist at a path, as far as the directory above it was visited.
    fn exists(&self, path: &str) -> bool {
        let above = ancestors(path).next().filter(|_| path != ROOT);
        above.and_then(|above| self.directories.get(above)).copied().unwrap_or(true)
    }
}

/// Which directories are watched, under which numbers of the kernel's.
#[derive(Debug, Default)]
struct Watches {
    /// Nothing while the kernel has none for us.
    inotify: Option<(Inotify, Readable)>,
    by_number: LiteMap<i32, (String, WatchDescriptor)>,
    by_directory: LiteMap<String, i32>,
    notices: Vec<String>,
    /// The kinds of errors that have been told of.
    told: BTreeSet<Option<i32>>,
    is_blind: bool,
}

fn number(descriptor: &WatchDescriptor) -> i32 {
    descriptor.get_watch_descriptor_id()
}

impl Watches {
    fn listen(&mut self) -> io::Result<()> {
        if self.inotify.is_none() {
            self.inotify = Some(inotify()?);
        }
        Ok(())
    }

    /// Watches a directory; says whether it may exist. The number stays the same as long as the directory
    /// is the same.
    fn watch(&mut self, directory: &str, root: &Path) -> bool {
        let Some((inotify, _)) = &self.inotify else { return true };
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR;
        let place = root.join(directory);
        match inotify.watches().add(&place, mask) {
            Ok(descriptor) => {
                let number = number(&descriptor);
                if self.by_directory.get(directory) != Some(&number) {
                    self.forget(directory);
                    self.by_directory.insert(directory.to_owned(), number);
                    self.by_number.insert(number, (directory.to_owned(), descriptor));
                }
                true
            }
            Err(error) if is_absence(&error) => false,
            Err(error) => {
                self.forget(directory);
                self.fail(&place, &error);
                true
            }
        }
    }

    fn fail(&mut self, directory: &Path, error: &io::Error) {
        self.is_blind = true;
        if self.told.insert(error.raw_os_error()) {
            self.notices.push(notice(directory, "watched", error));
        }
    }

    fn forget(&mut self, directory: &str) {
        let Some(number) = self.by_directory.remove(directory) else { return };
        if let Some((_, descriptor)) = self.by_number.remove(&number) {
            self.remove(descriptor);
        }
    }

    fn remove(&self, descriptor: WatchDescriptor) {
        if let Some((inotify, _)) = &self.inotify {
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
        Cgroups::with_root(root.to_path_buf())
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
    fn what_is_within_a_directory_is_told_from_what_only_begins_like_it() {
        let paths = BTreeSet::from(["a.slice", "a.slice-b/x", "a.slice/b", "a.slice/b/c", "b"].map(path));
        let of = |top| within(&paths, top).map(CgroupPath::as_str).collect::<Vec<_>>();
        assert_eq!(of("a.slice"), ["a.slice", "a.slice/b", "a.slice/b/c"]);
        assert_eq!(of("a.slice/b/c"), ["a.slice/b/c"]);
        assert_eq!(of("a.slice-b"), ["a.slice-b/x"]);
        assert_eq!(of("a"), [""; 0]);
        assert_eq!(of(ROOT).len(), 5);
        assert_eq!(ancestors("a/b/c").collect::<Vec<_>>(), ["a/b", "a", ROOT]);
    }

    #[tokio::test]
    async fn only_proper_ancestors_are_watched() {
        let scratch = Scratch::new("ancestors");
        scratch.make("a/b/c");
        let mut cgroups = cgroups(&scratch.0);
        cgroups.follow(BTreeSet::from([path("a/b"), path("x/y")]));
        assert!(cgroups.watches.by_directory.keys().eq([ROOT, "a"]));
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
        assert_eq!(seen.seen, [Seen { path: path("b/x"), id: None }]);
        assert_eq!(cgroups.watches.by_number.len(), 2);
        poll_fn(|cx| cgroups.poll_ready(cx)).await; // the IN_IGNORED of a
        assert_eq!(cgroups.drain(), Drained::default());
        scratch.make("a/x");
        scratch.make("b/x");
        poll_fn(|cx| cgroups.poll_ready(cx)).await;
        assert_eq!(cgroups.drain().seen.len(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_looked_at_is_told_once_and_tried_again() {
        let scratch = Scratch::new("failing");
        let place = scratch.0.join("a");
        // A look at it fails with ELOOP.
        std::os::unix::fs::symlink("a", &place).unwrap();
        let mut cgroups = cgroups(&scratch.0);
        let first = cgroups.follow(BTreeSet::from([path("a")]));
        assert_eq!((first.seen.len(), first.notices.len()), (0, 1), "{:?}", first.notices);
        assert_eq!(cgroups.rescan(), Drained::default());
        assert!(cgroups.is_blind());
        std::fs::remove_file(&place).unwrap();
        assert_eq!(cgroups.rescan().seen, [Seen { path: path("a"), id: None }]);
        assert!(!cgroups.is_blind());
        std::os::unix::fs::symlink("a", &place).unwrap();
        assert_eq!(cgroups.rescan().notices, first.notices);
    }

    #[tokio::test]
    async fn files_are_no_cgroups() {
        let scratch = Scratch::new("files");
        std::fs::write(scratch.0.join("cgroup.procs"), "").unwrap();
        let mut cgroups = cgroups(&scratch.0);
        let paths = BTreeSet::from([path("cgroup.procs"), path("cgroup.procs/x")]);
        let Drained { seen, notices } = cgroups.follow(paths);
        assert!(seen.iter().all(|seen| seen.id.is_none()));
        assert_eq!(notices, [""; 0]);
    }
}
