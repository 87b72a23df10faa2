//! cgroupfs below managers, by inotify(7): units whose names nobody knows ahead.
//!
//! Units are the directories below slices; what is below a unit that is no slice is its own business, and is not looked
//! at. So only slices are watched, however many units there are. What a user makes below `user@UID.service` has an
//! inotify instance and bounds of its own, so that nobody can slow the others down.

mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::readable::Readable;
use crate::{
    model::{CGROUP_ROOT, CgroupId, Instance, Manager},
    policy::selector::{Reach, Selectors, Users},
};
use tree::{Scope, Tree};

/// An instance that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The instance.
    pub instance: Instance,
    /// Its cgroup's id, if it exists.
    pub id: Option<CgroupId>,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Drained {
    /// What was looked at, of what selectors select.
    pub found: Vec<Found>,
    /// What to say in the log: overflows, limits, directories that cannot be watched. Each once.
    pub notices: Vec<String>,
}

/// How often what cannot be watched is looked at.
const RESCAN: Duration = Duration::from_secs(1);

/// The subtrees that selectors can match.
#[derive(Debug)]
pub struct Subtrees {
    root: PathBuf,
    wanted: Wanted,
    /// What managers have made: the system's, and those of users.
    trees: BTreeMap<Manager, Tree>,
    epoll: Epoll,
    readable: Readable,
    rescanned: Instant,
}

/// What is looked for.
#[derive(Debug, Default)]
struct Wanted {
    selectors: BTreeSet<Selectors>,
    users: Users,
    reach: Reach,
}

impl Wanted {
    fn selects(&self, instance: &Instance) -> bool {
        self.selectors.iter().any(|selectors| selectors.select(instance, &self.users))
    }
}

impl Subtrees {
    /// Follows nothing yet, below [`CGROUP_ROOT`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// epoll(7).
    pub fn new() -> io::Result<Self> {
        Self::with_root(PathBuf::from(CGROUP_ROOT))
    }

    /// The same below another directory.
    ///
    /// # Errors
    /// epoll(7).
    pub fn with_root(root: PathBuf) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = Readable::of(&epoll.0)?;
        let (wanted, trees) = (Wanted::default(), BTreeMap::new());
        Ok(Self { root, wanted, trees, epoll, readable, rescanned: Instant::now() })
    }

    /// Follows what these selectors select, and no longer anything else. Returns all instances that exist.
    pub fn follow(&mut self, selectors: &BTreeSet<Selectors>, users: &Users) -> Drained {
        let reach = selectors.iter().map(|one| one.depend_on(users)).fold(Reach::default(), Reach::or);
        self.wanted = Wanted { selectors: selectors.clone(), users: users.clone(), reach };
        if selectors.is_empty() {
            self.trees.clear();
            return Drained::default();
        }
        self.trees.retain(|manager, _| *manager == Manager::System || self.wanted.reach.covers(*manager));
        let mut drained = Drained::default();
        self.rescan(Manager::System, &mut drained);
        for manager in self.trees.keys().copied().filter(|one| *one != Manager::System).collect::<Vec<_>>() {
            self.rescan(manager, &mut drained);
        }
        drained.found = self.trees.values().flat_map(Tree::found).collect();
        drained
    }

    /// Waits until [`Self::drain`] has something to read. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        self.readable.ready().await
    }

    /// How long until [`Self::drain`] is to be called all the same, since something cannot be watched.
    pub fn timeout(&self) -> Option<Duration> {
        let is_blind = self.trees.values().any(Tree::is_blind);
        is_blind.then(|| RESCAN.saturating_sub(self.rescanned.elapsed()))
    }

    /// Reads what is pending, of each manager in turn and not too much of any. Does not block.
    pub fn drain(&mut self) -> Drained {
        let mut drained = Drained::default();
        let managers: Vec<Manager> = self.trees.keys().copied().collect();
        let mut is_left = false;
        for manager in managers {
            is_left |= self.drain_one(manager, &mut drained);
        }
        if self.trees.values().any(Tree::is_blind) && self.rescanned.elapsed() >= RESCAN {
            let blind = self.trees.iter().filter(|(_, tree)| tree.is_blind());
            for manager in blind.map(|(manager, _)| *manager).collect::<Vec<_>>() {
                self.rescan(manager, &mut drained);
            }
            self.rescanned = Instant::now();
        }
        if !is_left {
            let _ = self.readable.read(|| io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
        }
        drained.found.sort();
        drained
    }

    /// How many directories are watched, and how many instances are kept.
    pub fn figures(&self) -> (usize, usize) {
        let of = |(watches, found): (usize, usize), tree: &Tree| {
            (watches + tree.watches(), found + tree.found().count())
        };
        self.trees.values().fold((0, 0), of)
    }

    /// Reads what is pending of a manager; whether something is left.
    fn drain_one(&mut self, manager: Manager, drained: &mut Drained) -> bool {
        let Some(tree) = self.trees.get_mut(&manager) else { return false };
        let read = tree.read();
        if read.overflowed {
            drained
                .notices
                .push(format!("{} made too many cgroups at once; looked at all again", name(manager)));
            self.rescan(manager, drained);
        } else {
            for path in read.touched {
                self.with_tree(manager, drained, |tree, wanted, looked| tree.look_at(&path, wanted, looked));
            }
        }
        read.is_left
    }

    fn rescan(&mut self, manager: Manager, drained: &mut Drained) {
        if let std::collections::btree_map::Entry::Vacant(place) = self.trees.entry(manager) {
            place.insert(open(&self.root, manager, &self.epoll, &mut drained.notices));
        }
        self.with_tree(manager, drained, Tree::rescan);
    }

    /// Lets a tree look at something, and opens and closes those of users as their managers come and go.
    fn with_tree(
        &mut self,
        manager: Manager,
        drained: &mut Drained,
        work: impl FnOnce(&mut Tree, &Wanted, &mut Looked),
    ) {
        let mut looked = Looked::default();
        if let Some(tree) = self.trees.get_mut(&manager) {
            work(tree, &self.wanted, &mut looked);
        }
        drained.found.append(&mut looked.found);
        drained.notices.append(&mut looked.notices);
        for (uid, is_there) in looked.managers {
            let manager = Manager::User(uid);
            if is_there && self.wanted.reach.covers(manager) {
                self.rescan(manager, drained);
            } else if let Some(tree) = self.trees.remove(&manager) {
                drained.found.extend(tree.found().map(|found| Found { id: None, ..found }));
            }
        }
    }
}

/// What came of a look.
#[derive(Debug, Default)]
struct Looked {
    found: Vec<Found>,
    notices: Vec<String>,
    /// Users whose manager came (again) or is gone.
    managers: Vec<(u32, bool)>,
}

fn open(root: &Path, manager: Manager, epoll: &Epoll, notices: &mut Vec<String>) -> Tree {
    let tree = Tree::new(root, Scope::of(manager));
    match &tree.inotify {
        Ok(inotify) => {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            if let Err(error) = epoll.add(inotify.as_fd(), event) {
                notices.push(format!("{} cannot be listened to: {}", name(manager), error.desc()));
            }
        }
        Err(error) => notices.push(format!(
            "{} cannot be watched ({error}), and is looked at every second: raise fs.inotify.max_user_instances",
            name(manager)
        )),
    }
    tree
}

/// Whose units they are, for the log.
fn name(manager: Manager) -> String {
    match manager {
        Manager::System => "the system's manager".to_owned(),
        Manager::User(uid) => format!("user {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ALICE: &str = "user.slice/user-1000.slice/user@1000.service";
    const BOB: &str = "user.slice/user-1001.slice/user@1001.service";

    /// Ordinary directories do for what does not depend on cgroupfs.
    struct Machine {
        root: PathBuf,
        subtrees: Subtrees,
    }

    impl Machine {
        fn new(name: &str, directories: &[&str], selectors: &[&str]) -> (Self, Vec<(String, bool)>) {
            let root = std::env::temp_dir().join(format!("scnpm-subtrees-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            let mut machine = Self { subtrees: Subtrees::with_root(root.clone()).unwrap(), root };
            directories.iter().for_each(|directory| machine.make(directory));
            let found = machine.follow(selectors);
            (machine, found)
        }

        fn make(&self, directory: &str) {
            fs::create_dir_all(self.root.join(directory)).unwrap();
        }

        fn remove(&self, directory: &str) {
            fs::remove_dir_all(self.root.join(directory)).unwrap();
        }

        fn follow(&mut self, selectors: &[&str]) -> Vec<(String, bool)> {
            let selectors = selectors.iter().map(|text| Selectors::parse(text).unwrap()).collect();
            let users = Users::from([("alice".to_owned(), 1000), ("bob".to_owned(), 1001)]);
            said(self.subtrees.follow(&selectors, &users))
        }

        /// What is found until nothing is left to read.
        fn drain(&mut self) -> Vec<(String, bool)> {
            let mut all = BTreeMap::new();
            for _ in 0..50 {
                all.extend(said(self.subtrees.drain()));
            }
            all.into_iter().collect()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    fn said(drained: Drained) -> Vec<(String, bool)> {
        let say = |found: Found| (found.instance.path.to_string(), found.id.is_some());
        drained.found.into_iter().map(say).collect()
    }

    fn path(manager: &str, rest: &str) -> String {
        format!("{manager}/{rest}")
    }

    #[tokio::test]
    async fn units_come_and_go() {
        let firefox = path(ALICE, "app.slice/app-gnome-firefox-1.scope");
        let (mut machine, found) = Machine::new("come", &[&firefox], &["alice:app:firefox"]);
        assert_eq!(found, [(firefox.clone(), true)]);
        let second = path(ALICE, "app.slice/app-gnome-firefox-2.scope");
        machine.make(&second);
        machine.make(&path(ALICE, "app.slice/app-gnome-other-2.scope"));
        machine.make(&path(BOB, "app.slice/app-gnome-firefox-2.scope"));
        machine.remove(&firefox);
        machine.subtrees.ready().await.unwrap();
        assert_eq!(machine.drain(), [(firefox, false), (second, true)]);
    }

    #[tokio::test]
    async fn users_log_in_and_out_later() {
        let (mut machine, found) = Machine::new("login", &[], &["user:app:mail"]);
        assert_eq!(found, []);
        let mail = path(BOB, "app.slice/app-mail-1.scope");
        machine.make(&mail);
        assert_eq!(machine.drain(), [(mail.clone(), true)]);
        machine.remove(BOB);
        assert_eq!(machine.drain(), [(mail.clone(), false)]);
        machine.make(&mail);
        assert_eq!(machine.drain(), [(mail, true)]);
    }

    #[tokio::test]
    async fn only_what_can_be_selected_is_watched() {
        let directories = [
            "system.slice/a.service/sub.slice",
            "machine.slice",
            &path(ALICE, "app.slice"),
            &path(ALICE, "app.slice/x.scope/y.slice"),
            &path(BOB, "app.slice"),
        ];
        // The root, user.slice and user-1000.slice, the manager and its slice.
        let (machine, _) = Machine::new("watched", &directories, &["1000:app:x"]);
        assert_eq!(machine.subtrees.figures().0, 5);
        // The root and the slices of the system, two of users among them.
        let (mut machine, _) = Machine::new("watched", &directories, &["system:*.service"]);
        assert_eq!(machine.subtrees.figures(), (6, 3));
        machine.follow(&["system:a.service"]);
        assert_eq!(machine.subtrees.figures(), (6, 1));
        machine.follow(&[]);
        assert_eq!(machine.subtrees.figures(), (0, 0));
    }

    #[tokio::test]
    async fn imitations_and_odd_names_are_passed_over() {
        let (mut machine, _) = Machine::new("odd", &[ALICE], &["system:*", "bob:*", "user:app:x"]);
        for odd in [
            "user.slice/user-1001.slice/user@1001.service/app.slice/app-x-1.scope",
            "system.slice/postfix.service",
            "app-x-1.scope/app-x-2.scope",
            "app.slice/app-\"x;y\n-1.scope",
            "app.slice/ app-x-1.scope",
        ] {
            machine.make(&path(ALICE, odd));
        }
        assert_eq!(machine.drain(), [(path(ALICE, "app-x-1.scope"), true)]);
    }

    #[tokio::test]
    async fn lost_events_heal_with_a_rescan() {
        let (mut machine, _) = Machine::new("overflow", &[&path(ALICE, "app.slice")], &["alice:app:x"]);
        for number in 0..20_000 {
            let other = path(ALICE, &format!("app.slice/app-y-{number}.scope"));
            machine.make(&other);
            machine.remove(&other);
        }
        let late = path(ALICE, "app.slice/app-x-1.scope");
        machine.make(&late);
        let mut notices = Vec::new();
        let mut found = Vec::new();
        for _ in 0..500 {
            let drained = machine.subtrees.drain();
            notices.extend(drained.notices.clone());
            found.extend(said(drained));
        }
        assert_eq!(found, [(late, true)]);
        assert_eq!(notices, ["user 1000 made too many cgroups at once; looked at all again"]);
    }

    #[tokio::test]
    async fn one_user_s_bounds_are_no_bounds_for_others() {
        let (mut machine, _) = Machine::new("bounds", &[ALICE, BOB], &["user:app:x"]);
        for number in 0..1100 {
            machine.make(&path(ALICE, &format!("s{number}.slice")));
        }
        let of_bob = path(BOB, "app.slice/app-x-1.scope");
        machine.make(&of_bob);
        let mut notices = Vec::new();
        let mut found = Vec::new();
        for _ in 0..100 {
            let drained = machine.subtrees.drain();
            notices.extend(drained.notices.clone());
            found.extend(said(drained));
        }
        assert_eq!(found, [(of_bob, true)]);
        assert_eq!(notices.len(), 1, "{notices:?}");
    }
}
