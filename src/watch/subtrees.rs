//! cgroupfs below managers, by inotify(7): units whose names nobody knows ahead.
//!
//! Units are the directories below slices; what is below a unit that is no slice is its own business, and is not looked
//! at. So only slices are watched, however many units there are, and only what selectors select is kept. What a user
//! makes below `user@UID.service` has an inotify instance, a share of each round and bounds of its own, so that nobody
//! can slow the others down.
//!
//! As in [`super::cgroups`], a directory is watched first and scanned then, and what is reported is what a look finds
//! after the event, not the event.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::ReadDir,
    io,
    ops::Bound,
    path::{Path, PathBuf},
    vec,
};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{cgroups::look_at, readable::Readable};
use crate::{
    model::{CGROUP_ROOT, CgroupId, CgroupPath, Instance, Manager},
    policy::selector::{Reach, Selectors, Users},
};

/// An instance that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The instance.
    pub instance: Instance,
    /// Its cgroup's id, if it exists.
    pub id: Option<CgroupId>,
}

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// What has changed of what selectors select, as it is now: each instance once, in their order.
    pub found: Vec<Found>,
    /// What to say in the log: overflows, limits, directories that cannot be watched. Each once.
    pub notices: Vec<String>,
}

/// How much is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Directories that are watched.
    pub watches: usize,
    /// Instances that selectors select.
    pub instances: usize,
    /// Managers, the system's included, that are followed.
    pub managers: usize,
}

/// The subtrees that selectors can match.
#[derive(Debug)]
pub struct Subtrees {
    root: PathBuf,
    limits: Limits,
    wanted: Wanted,
    branches: BTreeMap<Manager, Branch>,
    ears: Ears,
    /// The user who was last served, so that the next one is first.
    last: Manager,
    /// The errors that are in the log already.
    complaints: BTreeSet<Option<i32>>,
    buffer: Vec<u8>,
}

impl Subtrees {
    /// Follows nothing yet, below [`CGROUP_ROOT`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// inotify(7), epoll(7).
    pub fn new() -> io::Result<Self> {
        Self::with_root(PathBuf::from(CGROUP_ROOT))
    }

    /// The same below another directory.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_root(root: PathBuf) -> io::Result<Self> {
        Ok(Self {
            root,
            limits: Limits::default(),
            wanted: Wanted::default(),
            branches: BTreeMap::new(),
            ears: Ears::new()?,
            last: Manager::System,
            complaints: BTreeSet::new(),
            buffer: vec![0; BUFFER_SIZE],
        })
    }

    /// Follows what these selectors select, and no longer anything else. Returns all instances that exist, but for
    /// those of a user who has so many directories that [`Self::drain`] must find the rest.
    pub fn follow(&mut self, selectors: &BTreeSet<Selectors>, users: &Users) -> Drained {
        self.wanted = Wanted::new(selectors, users);
        let mut news = News::default();
        let managers: Vec<Manager> = self.branches.keys().copied().collect();
        for manager in managers {
            if self.wanted.follows(manager) {
                self.prune(manager);
                self.look_again(manager);
            } else {
                self.leave(manager, &mut News::default());
            }
        }
        if self.wanted.follows(Manager::System) {
            self.look_at_manager(Manager::System, &mut news);
        }
        self.scan(Manager::System, usize::MAX, &mut news);
        let users: Vec<Manager> = self.branches.keys().copied().collect();
        for user in users {
            self.scan(user, ENTRIES_AT_FIRST, &mut news);
        }
        for branch in self.branches.values() {
            for (path, id) in &branch.selected {
                news.found(path, Some(*id));
            }
        }
        news.into()
    }

    /// Waits until [`Self::drain`] has something to do. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        if self.branches.values().any(Branch::is_waiting) {
            return Ok(());
        }
        self.ears.readable.ready().await
    }

    /// Reads what is pending, of each manager in turn and not too much of any. Does not block. If it leaves something,
    /// [`Self::ready`] is ready at once.
    pub fn drain(&mut self) -> Drained {
        let mut news = News::default();
        self.read(Owner::System, &mut news);
        for _ in 0..ROUNDS {
            let owners = self.ears.pending();
            if owners.is_empty() {
                break;
            }
            for owner in owners {
                self.read(owner, &mut news);
            }
        }
        self.scan_in_turn(&mut news);
        news.into()
    }

    /// Whether there are directories that cannot be watched: then changes in them are only seen by
    /// [`Self::rescan_unwatched`], which is due every second.
    pub fn has_unwatched(&self) -> bool {
        let is_rootless =
            self.wanted.follows(Manager::System) && !self.branches.contains_key(&Manager::System);
        is_rootless || self.branches.values().any(|branch| !branch.unwatched.is_empty())
    }

    /// Scans the directories that cannot be watched, and tries again to watch them.
    pub fn rescan_unwatched(&mut self) -> Drained {
        let mut news = News::default();
        if self.wanted.follows(Manager::System) && !self.branches.contains_key(&Manager::System) {
            self.look_at_manager(Manager::System, &mut news);
        }
        let managers: Vec<Manager> = self.branches.keys().copied().collect();
        for manager in managers {
            let unwatched =
                self.branches.get(&manager).map_or_else(BTreeSet::new, |branch| branch.unwatched.clone());
            for path in unwatched {
                if let Some(branch) = self.branches.get_mut(&manager) {
                    branch.due.insert(path.clone());
                }
                self.enter(manager, &path, &mut news);
            }
        }
        self.scan_in_turn(&mut news);
        if !self.has_unwatched() {
            self.complaints.clear();
        }
        news.into()
    }

    /// How much is held.
    pub fn counts(&self) -> Counts {
        Counts {
            watches: self.ears.by_owner.values().map(|ear| ear.watches.len()).sum(),
            instances: self.branches.values().map(|branch| branch.selected.len()).sum(),
            managers: self.branches.len(),
        }
    }
}

/// How much of a user's subtree is followed.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Slices, and how many of them in one another.
    slices: usize,
    depth: usize,
    /// Instances that selectors select.
    selected: usize,
    /// Users with an inotify instance of their own. The kernel gives root 128, for all that runs as root.
    ears: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { slices: 1024, depth: 16, selected: 16_384, ears: 64 }
    }
}

/// What is read at once of one manager: some 300 events.
const BUFFER_SIZE: usize = 16 * 1024;

/// How often each manager is read, and how many of them each time.
const ROUNDS: usize = 4;
const EARS_AT_ONCE: usize = 8;

/// How many directory entries are gone through for each manager, and for all, before others are served.
const ENTRIES_AT_ONCE: usize = 4096;
const ENTRIES_IN_ALL: usize = 16_384;
const ENTRIES_AT_FIRST: usize = 131_072;

/// What selectors are about.
#[derive(Debug, Default)]
struct Wanted {
    selectors: BTreeSet<Selectors>,
    users: Users,
    reach: Reach,
}

impl Wanted {
    fn new(selectors: &BTreeSet<Selectors>, users: &Users) -> Self {
        let reaches = selectors.iter().map(|selectors| selectors.depend_on(users));
        let reach = reaches.fold(Reach::default(), Reach::or);
        Self { selectors: selectors.clone(), users: users.clone(), reach }
    }

    /// Whether a manager is followed. The system's is, too, on the way to its users'.
    fn follows(&self, manager: Manager) -> bool {
        self.reach.covers(manager) || (manager == Manager::System && self.reach != Reach::default())
    }

    /// Whether a slice is entered.
    fn enters(&self, manager: Manager, path: &str) -> bool {
        match manager {
            Manager::User(_) => true,
            Manager::System if self.reach.system || path == USERS => true,
            Manager::System => user_of_slice(path).is_some_and(|uid| self.follows(Manager::User(uid))),
        }
    }

    fn selects(&self, instance: &Instance) -> bool {
        self.selectors.iter().any(|selectors| selectors.select(instance, &self.users))
    }
}

/// A manager's subtree.
#[derive(Debug)]
struct Branch {
    owner: Owner,
    /// Where it begins.
    top: String,
    /// The slices that exist, and the watches of those that can be watched.
    slices: BTreeMap<String, Option<WatchDescriptor>>,
    /// What selectors select and exists.
    selected: BTreeMap<String, CgroupId>,
    /// Slices that are to be scanned, and the scan that is under way.
    due: BTreeSet<String>,
    scan: Option<Scan>,
    /// Slices whose changes give no events, or that cannot be read.
    unwatched: BTreeSet<String>,
    excess: Excess,
    overflows: u32,
}

/// A look at what a slice has, and had.
#[derive(Debug)]
struct Scan {
    path: String,
    known: vec::IntoIter<String>,
    entries: Option<ReadDir>,
}

/// What is more than a user may have.
#[derive(Debug, Default)]
struct Excess {
    /// Whether something is passed over.
    exists: bool,
    /// How often that began.
    times: u32,
    /// Whether something went since, so that what was passed over may have a place.
    has_room: bool,
    /// Whether all is being looked at again for that reason, and whether something was passed over in that.
    checks: Option<bool>,
}

impl Branch {
    fn new(owner: Owner, top: String) -> Self {
        Self {
            owner,
            top,
            slices: BTreeMap::new(),
            selected: BTreeMap::new(),
            due: BTreeSet::new(),
            scan: None,
            unwatched: BTreeSet::new(),
            excess: Excess::default(),
            overflows: 0,
        }
    }

    fn is_busy(&self) -> bool {
        self.scan.is_some() || !self.due.is_empty()
    }

    /// Whether it waits for its turn.
    fn is_waiting(&self) -> bool {
        self.is_busy() || self.excess.has_room
    }

    /// The names of what is known in a directory.
    fn children(&self, path: &str) -> Vec<String> {
        let prefix = below(path);
        let of = |path: &String| path.strip_prefix(&prefix).filter(|name| is_name(name)).map(str::to_owned);
        let slices = from(&self.slices, &prefix).filter_map(|(path, _)| of(path));
        let selected = from(&self.selected, &prefix).filter_map(|(path, _)| of(path));
        slices.chain(selected).collect()
    }

    /// Passes something over; says whether that is worth a notice. It is each time that it begins, but more and more
    /// rarely: users must not fill the log.
    fn pass_over(&mut self) -> bool {
        self.excess.checks = self.excess.checks.map(|_| true);
        if std::mem::replace(&mut self.excess.exists, true) {
            return false;
        }
        self.excess.times += 1;
        self.excess.times.is_power_of_two()
    }

    /// Notes that something went.
    fn make_room(&mut self) {
        self.excess.has_room = self.excess.exists;
    }

    /// Ends a look at everything that was to find what had been passed over, or begins one.
    fn settle(&mut self) {
        if self.is_busy() {
            return;
        }
        if let Some(has_passed_over) = self.excess.checks.take() {
            self.excess.exists = has_passed_over;
        }
        if std::mem::take(&mut self.excess.has_room) && self.excess.exists {
            self.excess.checks = Some(false);
            self.due = self.slices.keys().cloned().collect();
        }
    }
}

/// Whose an inotify instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    System,
    User(u32),
    /// Users for whom the kernel has no instance left.
    Users,
}

impl Owner {
    fn number(self) -> u64 {
        match self {
            Self::System => u64::MAX - 1,
            Self::User(uid) => uid.into(),
            Self::Users => u64::MAX,
        }
    }

    fn of(number: u64) -> Self {
        match u32::try_from(number) {
            Ok(uid) => Self::User(uid),
            Err(_) if number == u64::MAX => Self::Users,
            Err(_) => Self::System,
        }
    }
}

/// An inotify instance, and what its watches are.
#[derive(Debug)]
struct Ear {
    inotify: Inotify,
    watches: BTreeMap<i32, (Manager, String)>,
}

impl Ear {
    fn forget(&mut self, descriptor: Option<WatchDescriptor>) {
        let Some(descriptor) = descriptor else { return };
        if self.watches.remove(&descriptor.get_watch_descriptor_id()).is_some() {
            // It fails if the directory is gone, and the watch with it.
            let _ = self.inotify.watches().remove(descriptor);
        }
    }
}

/// All inotify instances, behind one file descriptor.
#[derive(Debug)]
struct Ears {
    by_owner: BTreeMap<Owner, Ear>,
    epoll: Epoll,
    readable: Readable,
    is_shared: bool,
}

impl Ears {
    fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = Readable::of(&epoll.0)?;
        let mut ears = Self { by_owner: BTreeMap::new(), epoll, readable, is_shared: false };
        ears.open(Owner::System)?;
        // While there is one to be had.
        ears.open(Owner::Users)?;
        Ok(ears)
    }

    fn open(&mut self, owner: Owner) -> io::Result<()> {
        let inotify = Inotify::init()?;
        self.epoll.add(&inotify, EpollEvent::new(EpollFlags::EPOLLIN, owner.number()))?;
        self.by_owner.insert(owner, Ear { inotify, watches: BTreeMap::new() });
        Ok(())
    }

    /// The instance for a manager.
    fn assign(&mut self, manager: Manager, limits: &Limits, news: &mut News) -> Owner {
        let Manager::User(uid) = manager else { return Owner::System };
        let owner = Owner::User(uid);
        // Two are not a user's.
        let opened = if self.by_owner.len() < limits.ears + 2 {
            self.open(owner)
        } else {
            Err(io::ErrorKind::QuotaExceeded.into())
        };
        match opened {
            Ok(()) => owner,
            Err(error) => {
                if !std::mem::replace(&mut self.is_shared, true) {
                    let reason = match error.raw_os_error() {
                        Some(_) => format!(
                            "no inotify instance for user {uid}: {error}; see fs.inotify.max_user_instances"
                        ),
                        None => format!("no inotify instance for user {uid}: {} users have one", limits.ears),
                    };
                    news.notices.push(format!("{reason}. From now on users share one"));
                }
                Owner::Users
            }
        }
    }

    /// Gives back what a manager was followed by.
    fn release(&mut self, owner: Owner, watches: impl Iterator<Item = Option<WatchDescriptor>>) {
        if let Owner::User(_) = owner
            && let Some(ear) = self.by_owner.remove(&owner)
        {
            let _ = self.epoll.delete(&ear.inotify);
            // Closing it waits for all who look at watches in the kernel, for 20 ms at worst.
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || drop(ear))),
                Err(_) => drop(ear),
            }
        } else if let Some(ear) = self.by_owner.get_mut(&owner) {
            watches.for_each(|watch| ear.forget(watch));
        }
    }

    /// Those that have something to read: some of them, and others the next time.
    fn pending(&self) -> Vec<Owner> {
        let wait = || {
            let mut events = [EpollEvent::empty(); EARS_AT_ONCE];
            match self.epoll.wait(&mut events, EpollTimeout::ZERO)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                count => Ok(events[..count].iter().map(|event| Owner::of(event.data())).collect()),
            }
        };
        wait().or_else(|_: io::Error| self.readable.read(wait)).unwrap_or_default()
    }
}

/// What is to be told.
#[derive(Debug, Default)]
struct News {
    found: BTreeMap<Instance, Option<CgroupId>>,
    notices: Vec<String>,
}

impl News {
    fn found(&mut self, path: &str, id: Option<CgroupId>) {
        if let Some(instance) = instance(path) {
            self.found.insert(instance, id);
        }
    }
}

impl From<News> for Drained {
    fn from(news: News) -> Self {
        let found = news.found.into_iter().map(|(instance, id)| Found { instance, id }).collect();
        Self { found, notices: news.notices }
    }
}

impl Subtrees {
    /// Reads once from an inotify instance.
    fn read(&mut self, owner: Owner, news: &mut News) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let events = self.ears.by_owner.get_mut(&owner).map(|ear| ear.inotify.read_events(&mut buffer));
        for event in events.and_then(Result::ok).into_iter().flatten() {
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                self.heal_overflow(owner, news);
                continue;
            }
            let number = event.wd.get_watch_descriptor_id();
            let Some(ear) = self.ears.by_owner.get_mut(&owner) else { break };
            match (ear.watches.get(&number), event.name) {
                (None, _) => {}
                (Some((manager, directory)), Some(name)) => {
                    // Most names of a desktop lead nowhere; only those that may lead somewhere cost a path.
                    if let Some(path) = unit_path(directory, name) {
                        let manager = *manager;
                        self.look(manager, path, news);
                    }
                }
                // The directory itself is gone, or at least its watch.
                (Some(_), None) => {
                    if event.mask.contains(EventMask::IGNORED)
                        && let Some((manager, directory)) = ear.watches.remove(&number)
                    {
                        self.lose_watch(manager, &directory, number, news);
                    }
                }
            }
        }
        self.buffer = buffer;
    }

    /// Looks at what a path in a slice is now.
    fn look(&mut self, manager: Manager, path: String, news: &mut News) {
        let Some(instance) = instance(&path).filter(|instance| instance.manager == manager) else { return };
        if is_slice(&instance) && self.wanted.enters(manager, &path) {
            self.enter(manager, &path, news);
        }
        if manager == Manager::System
            && let Some(user) = user_of_top(&path).map(Manager::User)
            && self.wanted.follows(user)
        {
            self.look_at_manager(user, news);
        }
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        let known = branch.selected.get(&path).copied();
        if known.is_none() && !self.wanted.selects(&instance) {
            return;
        }
        match look_at(&self.root.join(&path)) {
            id if id == known => {
                if id.is_none() {
                    branch.make_room();
                }
            }
            Some(id) => {
                if known.is_none()
                    && let Manager::User(uid) = manager
                    && branch.selected.len() >= self.limits.selected
                {
                    if branch.pass_over() {
                        news.notices.push(format!(
                            "user {uid} has more than {} units that annotations select; the rest is passed over",
                            self.limits.selected
                        ));
                    }
                    return;
                }
                branch.selected.insert(path, id);
                news.found.insert(instance, Some(id));
            }
            None => {
                branch.selected.remove(&path);
                branch.make_room();
                news.found.insert(instance, None);
            }
        }
    }

    /// Notes that a slice can be read: if it is watched, too, nothing is amiss with it.
    fn note_read(&mut self, manager: Manager, path: &str) {
        if let Some(branch) = self.branches.get_mut(&manager)
            && branch.slices.get(path).is_some_and(Option::is_some)
        {
            branch.unwatched.remove(path);
        }
    }

    /// Looks whether a manager's cgroup is there.
    fn look_at_manager(&mut self, manager: Manager, news: &mut News) {
        let top = top(manager);
        if !self.branches.contains_key(&manager) {
            if look_at(&self.root.join(&top)).is_none() {
                return;
            }
            let owner = self.ears.assign(manager, &self.limits, news);
            self.branches.insert(manager, Branch::new(owner, top.clone()));
        }
        self.enter(manager, &top, news);
    }

    /// Watches a slice if it is there, and has it scanned if it is another than before. The number of a watch stays the
    /// same as long as the directory is the same.
    fn enter(&mut self, manager: Manager, path: &str, news: &mut News) {
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        let Some(ear) = self.ears.by_owner.get_mut(&branch.owner) else { return };
        let directory = self.root.join(path);
        if !branch.slices.contains_key(path)
            && let Manager::User(uid) = manager
            && let Some(excess) = self.limits.excess(branch, path)
        {
            if look_at(&directory).is_none() {
                branch.make_room();
            } else if branch.pass_over() {
                news.notices.push(format!("user {uid} has {excess}; the rest is passed over"));
            }
            return;
        }
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR | WatchMask::DONT_FOLLOW;
        match ear.inotify.watches().add(&directory, mask) {
            Ok(descriptor) => {
                let number = descriptor.get_watch_descriptor_id();
                let old = branch.slices.insert(path.to_owned(), Some(descriptor)).flatten();
                if old.as_ref().map(WatchDescriptor::get_watch_descriptor_id) == Some(number) {
                    return;
                }
                ear.forget(old);
                ear.watches.insert(number, (manager, path.to_owned()));
                branch.unwatched.remove(path);
                branch.due.insert(path.to_owned());
            }
            Err(error) if is_absence(&error) || look_at(&directory).is_none() => {
                self.forget(manager, path, news)
            }
            Err(error) => {
                let old = branch.slices.insert(path.to_owned(), None).flatten();
                ear.forget(old);
                branch.due.insert(path.to_owned());
                self.complain(manager, path, "watched", &error, news);
            }
        }
    }

    /// Notes that a watch has ended, and looks why.
    fn lose_watch(&mut self, manager: Manager, path: &str, number: i32, news: &mut News) {
        if let Some(watch) = self.branches.get_mut(&manager).and_then(|branch| branch.slices.get_mut(path))
            && watch.as_ref().is_some_and(|watch| watch.get_watch_descriptor_id() == number)
        {
            *watch = None;
            self.enter(manager, path, news);
        }
    }

    /// Has a slice scanned every second, since it can't be watched or read.
    fn complain(&mut self, manager: Manager, path: &str, verb: &str, error: &io::Error, news: &mut News) {
        if let Some(branch) = self.branches.get_mut(&manager) {
            branch.unwatched.insert(path.to_owned());
        }
        if self.complaints.insert(error.raw_os_error()) {
            let remedy = match error.raw_os_error() {
                Some(libc::ENOSPC) => "raise fs.inotify.max_user_watches",
                Some(libc::EMFILE) => "raise LimitNOFILE= of scnpm.service",
                Some(libc::ENFILE) => "raise fs.file-max",
                _ => "its units may be found up to a second late",
            };
            let directory = self.root.join(path);
            news.notices.push(format!("{} cannot be {verb}: {error}; {remedy}", directory.display()));
        }
    }

    /// Notes that a slice is gone, and all below it with it.
    fn forget(&mut self, manager: Manager, path: &str, news: &mut News) {
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        if path == branch.top {
            self.leave(manager, news);
        } else if branch.slices.contains_key(path) {
            let prefix = below(path);
            let slices: Vec<String> = [path.to_owned()]
                .into_iter()
                .chain(from(&branch.slices, &prefix).map(|(path, _)| path.clone()))
                .collect();
            let selected: Vec<String> =
                from(&branch.selected, &prefix).map(|(path, _)| path.clone()).collect();
            for slice in slices {
                let watch = branch.slices.remove(&slice).flatten();
                if let Some(ear) = self.ears.by_owner.get_mut(&branch.owner) {
                    ear.forget(watch);
                }
                branch.due.remove(&slice);
                branch.unwatched.remove(&slice);
            }
            for path in selected {
                branch.selected.remove(&path);
                news.found(&path, None);
            }
            branch.make_room();
        }
        if manager == Manager::System {
            let prefix = below(path);
            let users = self.branches.iter().filter(|(_, branch)| branch.top.starts_with(&prefix));
            let users: Vec<Manager> =
                users.map(|(user, _)| *user).filter(|user| *user != Manager::System).collect();
            users.into_iter().for_each(|user| self.leave(user, news));
        }
    }

    /// Follows a manager no longer.
    fn leave(&mut self, manager: Manager, news: &mut News) {
        let Some(branch) = self.branches.remove(&manager) else { return };
        branch.selected.keys().for_each(|path| news.found(path, None));
        self.ears.release(branch.owner, branch.slices.into_values());
    }

    /// Drops what selectors select no longer, and slices that lead nowhere any more.
    fn prune(&mut self, manager: Manager) {
        let wanted = &self.wanted;
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        branch.selected.retain(|path, _| instance(path).is_some_and(|instance| wanted.selects(&instance)));
        let top = branch.top.clone();
        let stays = |path: &String| *path == top || wanted.enters(manager, path);
        let gone: Vec<String> = branch.slices.keys().filter(|path| !stays(path)).cloned().collect();
        for path in gone {
            let watch = branch.slices.remove(&path).flatten();
            if let Some(ear) = self.ears.by_owner.get_mut(&branch.owner) {
                ear.forget(watch);
            }
            branch.due.remove(&path);
            branch.unwatched.remove(&path);
        }
        branch.make_room();
    }

    /// Has all that is known of a manager scanned.
    fn look_again(&mut self, manager: Manager) {
        if let Some(branch) = self.branches.get_mut(&manager) {
            branch.due.extend(branch.slices.keys().cloned());
        }
    }

    /// Has everything scanned whose events the kernel may have dropped.
    fn heal_overflow(&mut self, owner: Owner, news: &mut News) {
        let managers: Vec<Manager> = self
            .branches
            .iter()
            .filter(|(_, branch)| branch.owner == owner)
            .map(|(manager, _)| *manager)
            .collect();
        for manager in managers {
            self.look_again(manager);
            let Some(branch) = self.branches.get_mut(&manager) else { continue };
            branch.overflows = branch.overflows.saturating_add(1);
            let whose = match manager {
                Manager::System => "the system".to_owned(),
                Manager::User(uid) if branch.overflows.is_power_of_two() => format!("user {uid}"),
                // More and more rarely: users must not fill the log.
                Manager::User(_) => continue,
            };
            news.notices.push(format!(
                "inotify events of {whose} overflowed (so far: {}); all its cgroups are looked at",
                branch.overflows
            ));
        }
    }

    /// Goes on with scans: the system's first, then the users' in turn.
    fn scan_in_turn(&mut self, news: &mut News) {
        self.scan(Manager::System, ENTRIES_AT_ONCE, news);
        let busy = self.branches.iter().filter(|(_, branch)| branch.is_waiting());
        let (mut later, mut users): (Vec<Manager>, Vec<Manager>) = busy
            .map(|(manager, _)| *manager)
            .filter(|manager| *manager != Manager::System)
            .partition(|user| *user <= self.last);
        users.append(&mut later);
        let mut left = ENTRIES_IN_ALL;
        for user in users {
            if left == 0 {
                break;
            }
            left -= self.scan(user, left.min(ENTRIES_AT_ONCE), news);
            self.last = user;
        }
    }

    /// Goes on with a manager's scans, for so many entries. Returns how many it were.
    fn scan(&mut self, manager: Manager, entries: usize, news: &mut News) -> usize {
        let mut left = entries;
        while left > 0 {
            let Some(mut scan) = self.next_scan(manager) else { break };
            let is_done = loop {
                if left == 0 {
                    break false;
                }
                left -= 1;
                if let Some(name) = scan.known.next() {
                    self.look(manager, below(&scan.path) + &name, news);
                    continue;
                }
                if scan.entries.is_none() {
                    match self.root.join(&scan.path).read_dir() {
                        Ok(opened) => scan.entries = Some(opened),
                        Err(error) if is_absence(&error) => break true,
                        Err(error) => {
                            self.complain(manager, &scan.path, "read", &error, news);
                            break true;
                        }
                    }
                }
                match scan.entries.as_mut().and_then(Iterator::next) {
                    Some(Ok(entry)) => {
                        if entry.file_type().is_ok_and(|kind| kind.is_dir())
                            && let Some(path) = unit_path(&scan.path, &entry.file_name())
                        {
                            self.look(manager, path, news);
                        }
                    }
                    Some(Err(error)) if !is_absence(&error) => {
                        self.complain(manager, &scan.path, "read", &error, news);
                        break true;
                    }
                    _ => {
                        self.note_read(manager, &scan.path);
                        break true;
                    }
                }
            };
            if let Some(branch) = self.branches.get_mut(&manager) {
                if !is_done {
                    branch.scan = Some(scan);
                }
                branch.settle();
            }
        }
        entries - left
    }

    /// The scan that is under way, or else the next one that is due.
    fn next_scan(&mut self, manager: Manager) -> Option<Scan> {
        let branch = self.branches.get_mut(&manager)?;
        if let Some(scan) = branch.scan.take() {
            return Some(scan);
        }
        branch.settle();
        let path = branch.due.pop_first()?;
        let mut known = branch.children(&path);
        if manager == Manager::System
            && let Some(uid) = user_of_slice(&path)
            && self.branches.contains_key(&Manager::User(uid))
        {
            known.push(format!("user@{uid}.service"));
        }
        Some(Scan { path, known: known.into_iter(), entries: None })
    }
}

impl Limits {
    /// What a user would have too much of with one more slice.
    fn excess(&self, branch: &Branch, path: &str) -> Option<String> {
        if path == branch.top {
            return None;
        }
        let depth = path[branch.top.len()..].matches('/').count();
        if depth > self.depth {
            return Some(format!("more than {} slices in one another", self.depth));
        }
        // The first is the manager itself.
        (branch.slices.len() > self.slices).then(|| format!("more than {} slices", self.slices))
    }
}

/// The slice that all users' are in.
const USERS: &str = "user.slice";

/// Where a manager's subtree begins.
fn top(manager: Manager) -> String {
    match manager {
        Manager::System => String::new(),
        Manager::User(uid) => format!("{USERS}/user-{uid}.slice/user@{uid}.service"),
    }
}

/// The user whose slice it is.
fn user_of_slice(path: &str) -> Option<u32> {
    let uid = path.strip_prefix(USERS)?.strip_prefix("/user-")?.strip_suffix(".slice")?.parse().ok()?;
    (path == format!("{USERS}/user-{uid}.slice")).then_some(uid)
}

/// The user whose manager it is.
fn user_of_top(path: &str) -> Option<u32> {
    let uid = user_of_slice(path.rsplit_once('/')?.0)?;
    (path == top(Manager::User(uid))).then_some(uid)
}

/// What paths below a path begin with.
fn below(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}/") }
}

/// Whether the rest of a path is one name.
fn is_name(rest: &str) -> bool {
    !rest.is_empty() && !rest.contains('/')
}

/// The entries whose paths begin like this.
fn from<'a, T>(map: &'a BTreeMap<String, T>, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a T)> {
    map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(path, _)| path.starts_with(prefix))
}

/// A path in a directory, if its name can be a unit's.
fn unit_path(directory: &str, name: &OsStr) -> Option<String> {
    let name = name.to_str()?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    (name.contains('.') && !name.starts_with('.') && name.bytes().all(is_allowed))
        .then(|| below(directory) + name)
}

fn instance(path: &str) -> Option<Instance> {
    Instance::of(&path.parse::<CgroupPath>().ok()?)
}

fn is_slice(instance: &Instance) -> bool {
    Path::new(&instance.unit.0).extension() == Some(OsStr::new("slice"))
}

/// Whether an error says that there is no such directory. A path that is too long is none to anybody.
fn is_absence(error: &io::Error) -> bool {
    let absences = [libc::ENOENT, libc::ENOTDIR, libc::ENODEV, libc::ENAMETOOLONG];
    error.raw_os_error().is_some_and(|number| absences.contains(&number))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::ffi::OsStrExt, time::Duration};

    use super::*;
    use crate::{
        model::UnitName,
        policy::selector::{Selector, Which, Whose},
    };

    /// An ordinary directory does for what does not depend on cgroupfs.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("scnpm-subtrees-{name}-{}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            Self(directory)
        }

        fn make(&self, path: &str) {
            fs::create_dir_all(self.0.join(path)).unwrap();
        }

        fn remove(&self, path: &str) {
            fs::remove_dir(self.0.join(path)).unwrap();
        }

        fn subtrees(&self, limits: Limits) -> Subtrees {
            let mut subtrees = Subtrees::with_root(self.0.clone()).unwrap();
            subtrees.limits = limits;
            subtrees
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn select<const N: usize>(selectors: [(Whose, &str); N]) -> BTreeSet<Selectors> {
        let unit =
            |(whose, unit): (Whose, &str)| Selector { whose, which: Which::Unit(UnitName(unit.into())) };
        BTreeSet::from([Selectors(selectors.into_iter().map(unit).collect())])
    }

    /// All that comes until nothing comes for a while: what is left in the end, and what was said.
    async fn rest(subtrees: &mut Subtrees) -> (BTreeMap<String, bool>, Vec<String>) {
        let (mut found, mut notices) = (BTreeMap::new(), Vec::new());
        while tokio::time::timeout(Duration::from_millis(50), subtrees.ready()).await.is_ok() {
            let drained = subtrees.drain();
            let paths = drained.found.into_iter();
            found.extend(paths.map(|found| (found.instance.path.to_string(), found.id.is_some())));
            notices.extend(drained.notices);
        }
        (found, notices)
    }

    fn paths(drained: &Drained) -> Vec<&str> {
        drained.found.iter().map(|found| found.instance.path.as_str()).collect()
    }

    const A: &str = "user.slice/user-1.slice/user@1.service";
    const B: &str = "user.slice/user-2.slice/user@2.service";

    #[test]
    fn only_the_exact_shape_is_a_users() {
        assert_eq!(user_of_top(A), Some(1));
        assert_eq!(user_of_slice("user.slice/user-4294967295.slice"), Some(u32::MAX));
        for path in [
            "user.slice/user-1.slice/user@2.service",
            "user.slice/user-01.slice/user@01.service",
            "user.slice/user-+1.slice/user@+1.service",
            "user.slice/user-4294967296.slice/user@4294967296.service",
            "user.slice/user-1.slice/user@1.service/app.slice",
            "x.slice/user-1.slice/user@1.service",
            "user.slice/user@1.service",
            "user@1.service",
            "",
        ] {
            assert_eq!(user_of_top(path), None, "{path}");
        }
    }

    #[test]
    fn names_that_no_unit_has_lead_nowhere() {
        let path = |name: &[u8]| unit_path("a.slice", OsStr::from_bytes(name));
        assert_eq!(path(b"x.service").as_deref(), Some("a.slice/x.service"));
        assert_eq!(unit_path("", OsStr::new("x.service")).as_deref(), Some("x.service"));
        for name in [
            &b"cgroup"[..],
            b"..",
            b".x.service",
            b"a b.service",
            b"a;.service",
            b"\xff.service",
            b"a\n.service",
        ] {
            assert_eq!(path(name), None, "{name:?}");
        }
    }

    #[test]
    fn owners_are_told_by_their_numbers() {
        for owner in [Owner::System, Owner::Users, Owner::User(0), Owner::User(u32::MAX)] {
            assert_eq!(Owner::of(owner.number()), owner);
        }
    }

    #[test]
    fn selectors_tell_which_managers_are_followed() {
        let users = Users::from([("alice".to_owned(), 1)]);
        let follows = |whose: Whose| {
            let wanted = Wanted::new(&select([(whose, "x.service")]), &users);
            let managers = [Manager::System, Manager::User(1), Manager::User(2)];
            (wanted.reach.system, managers.map(|manager| wanted.follows(manager)))
        };
        assert_eq!(follows(Whose::Anybody), (true, [true, true, true]));
        assert_eq!(follows(Whose::System), (true, [true, false, false]));
        assert_eq!(follows(Whose::AnyUser), (false, [true, true, true]));
        assert_eq!(follows(Whose::Uid(2)), (false, [true, false, true]));
        assert_eq!(follows(Whose::User("alice".into())), (false, [true, true, false]));
        assert_eq!(follows(Whose::User("nobody".into())), (false, [false, false, false]));
    }

    #[tokio::test]
    async fn only_what_leads_to_selected_units_is_watched() {
        let scratch = Scratch::new("lead");
        for path in [
            "system.slice/x.service",
            "user.slice/user-1.slice/session-1.scope",
            "a.slice/a-b.slice",
            "b-c.slice",
        ] {
            scratch.make(path);
        }
        scratch.make(&format!("{A}/app.slice/x.service/deep.slice"));
        scratch.make(&format!("{B}/app.slice/x.service"));
        let mut subtrees = scratch.subtrees(Limits::default());
        let mut follow = |whose| {
            let drained = subtrees.follow(&select([(whose, "x.service")]), &Users::new());
            (drained.found.len(), subtrees.counts().watches, subtrees.counts().managers)
        };
        // The root, system, user, user-1, user-2, a, a-b; of each user the manager and app.
        assert_eq!(follow(Whose::System), (1, 7, 1));
        assert_eq!(follow(Whose::Anybody), (3, 11, 3));
        assert_eq!(follow(Whose::Uid(2)), (1, 5, 2));
        assert_eq!(follow(Whose::AnyUser), (2, 8, 3));
        assert_eq!(follow(Whose::User("nobody".into())), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_reload_finds_what_is_new_and_keeps_the_watches() {
        let scratch = Scratch::new("reload");
        scratch.make(&format!("{A}/app.slice/x.service"));
        scratch.make(&format!("{A}/app.slice/y.service"));
        let mut subtrees = scratch.subtrees(Limits::default());
        subtrees.follow(&select([(Whose::Uid(1), "x.service")]), &Users::new());
        let watches = |subtrees: &Subtrees| -> Vec<i32> {
            subtrees.ears.by_owner.values().flat_map(|ear| ear.watches.keys().copied()).collect()
        };
        let before = watches(&subtrees);
        let drained = subtrees.follow(&select([(Whose::Uid(1), "y.service")]), &Users::new());
        assert_eq!(paths(&drained), [format!("{A}/app.slice/y.service")]);
        assert_eq!(watches(&subtrees), before);
        assert_eq!(subtrees.counts().instances, 1);
        scratch.remove(&format!("{A}/app.slice/x.service"));
        scratch.remove(&format!("{A}/app.slice/y.service"));
        let gone = BTreeMap::from([(format!("{A}/app.slice/y.service"), false)]);
        assert_eq!(rest(&mut subtrees).await, (gone, vec![]));
    }

    #[tokio::test]
    async fn too_many_slices_are_passed_over_until_there_is_room() {
        let scratch = Scratch::new("slices");
        let mut subtrees = scratch.subtrees(Limits { slices: 3, ..Limits::default() });
        scratch.make(A);
        scratch.make(B);
        subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
        for name in ["a", "b", "c", "d", "e"] {
            scratch.make(&format!("{A}/{name}.slice"));
        }
        let (_, notices) = rest(&mut subtrees).await;
        assert_eq!(notices, ["user 1 has more than 3 slices; the rest is passed over"]);
        scratch.make(&format!("{A}/d.slice/x.service"));
        scratch.make(&format!("{A}/e.slice/x.service"));
        scratch.make(&format!("{B}/app.slice/x.service"));
        let other = BTreeMap::from([(format!("{B}/app.slice/x.service"), true)]);
        assert_eq!(rest(&mut subtrees).await, (other, vec![]));
        scratch.remove(&format!("{A}/a.slice"));
        scratch.remove(&format!("{A}/b.slice"));
        let (found, notices) = rest(&mut subtrees).await;
        assert_eq!(
            found.into_keys().collect::<Vec<_>>(),
            ["d", "e"].map(|name| format!("{A}/{name}.slice/x.service"))
        );
        assert_eq!(notices, [""; 0]);
        assert!(!subtrees.branches[&Manager::User(1)].excess.exists);
    }

    #[tokio::test]
    async fn too_deep_slices_are_passed_over() {
        let scratch = Scratch::new("deep");
        let mut subtrees = scratch.subtrees(Limits { depth: 2, ..Limits::default() });
        scratch.make(&format!("{A}/a.slice/a-b.slice/a-b-c.slice/x.service"));
        let drained = subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
        assert_eq!(drained.found, []);
        assert_eq!(
            drained.notices,
            ["user 1 has more than 2 slices in one another; the rest is passed over"]
        );
    }

    #[tokio::test]
    async fn too_many_instances_are_passed_over_until_there_is_room() {
        let scratch = Scratch::new("instances");
        let mut subtrees = scratch.subtrees(Limits { selected: 2, ..Limits::default() });
        for name in ["a", "b", "c"] {
            scratch.make(&format!("{A}/{name}.slice/x.service"));
        }
        scratch.make(&format!("{B}/x.service"));
        let drained = subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
        assert_eq!(drained.found.len(), 3);
        assert_eq!(
            drained.notices,
            ["user 1 has more than 2 units that annotations select; the rest is passed over"]
        );
        let gone = drained.found[0].instance.path.to_string();
        scratch.remove(&gone);
        let (found, notices) = rest(&mut subtrees).await;
        assert_eq!((found.len(), found[&gone], notices), (2, false, vec![]));
        assert_eq!(subtrees.counts().instances, 3);
    }

    #[tokio::test]
    async fn users_share_an_instance_when_there_are_no_more() {
        let scratch = Scratch::new("share");
        let mut subtrees = scratch.subtrees(Limits { ears: 1, ..Limits::default() });
        let users: Vec<String> =
            (1..=4).map(|uid| format!("user.slice/user-{uid}.slice/user@{uid}.service")).collect();
        users.iter().for_each(|user| scratch.make(user));
        let drained = subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
        assert_eq!(
            drained.notices,
            ["no inotify instance for user 2: 1 users have one. From now on users share one"]
        );
        assert_eq!(subtrees.ears.by_owner.len(), 3);
        users.iter().for_each(|user| scratch.make(&format!("{user}/x.service")));
        let (found, _) = rest(&mut subtrees).await;
        assert_eq!(found.len(), 4);
        subtrees.heal_overflow(Owner::Users, &mut News::default());
        assert_eq!(rest(&mut subtrees).await.0, BTreeMap::new());
        scratch.remove(&format!("{}/x.service", users[3]));
        scratch.remove(&users[3]);
        assert_eq!(rest(&mut subtrees).await.0, BTreeMap::from([(format!("{}/x.service", users[3]), false)]));
        assert_eq!(subtrees.ears.by_owner[&Owner::Users].watches.len(), 2);
    }

    #[tokio::test]
    async fn a_directory_without_a_watch_is_scanned_and_watched_when_that_works() {
        let scratch = Scratch::new("unwatched");
        scratch.make(&format!("{A}/app.slice"));
        let mut subtrees = scratch.subtrees(Limits::default());
        subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
        assert!(!subtrees.has_unwatched());
        // As if the kernel had refused.
        let (user, slice) = (Manager::User(1), format!("{A}/app.slice"));
        let watch = subtrees.branches.get_mut(&user).unwrap().slices.get_mut(&slice).unwrap().take();
        subtrees.ears.by_owner.get_mut(&Owner::User(1)).unwrap().forget(watch);
        let mut news = News::default();
        for _ in 0..2 {
            subtrees.complain(
                user,
                &slice,
                "watched",
                &io::Error::from_raw_os_error(libc::ENOSPC),
                &mut news,
            );
        }
        assert_eq!(news.notices.len(), 1);
        assert!(news.notices[0].ends_with("raise fs.inotify.max_user_watches"), "{:?}", news.notices);
        assert!(subtrees.has_unwatched());
        scratch.make(&format!("{slice}/x.service"));
        assert_eq!(rest(&mut subtrees).await.0, BTreeMap::new());
        assert_eq!(paths(&subtrees.rescan_unwatched()), [format!("{slice}/x.service")]);
        assert!(!subtrees.has_unwatched());
        scratch.remove(&format!("{slice}/x.service"));
        assert_eq!(rest(&mut subtrees).await.0.len(), 1);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_user_with_very_many_directories() {
        let scratch = Scratch::new("fair");
        scratch.make(A);
        scratch.make(B);
        let mut subtrees = scratch.subtrees(Limits::default());
        subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
        for number in 0..3 * ENTRIES_AT_ONCE {
            scratch.make(&format!("{A}/{number}.service"));
        }
        scratch.make(&format!("{B}/x.service"));
        let drained = subtrees.drain();
        assert_eq!(paths(&drained), [format!("{B}/x.service")]);
        // A part of the events is left.
        tokio::time::timeout(Duration::ZERO, subtrees.ready()).await.unwrap().unwrap();
        rest(&mut subtrees).await;
        // So with a scan.
        subtrees.heal_overflow(Owner::User(1), &mut News::default());
        let mut drains = 0;
        while subtrees.branches.values().any(Branch::is_waiting) {
            tokio::time::timeout(Duration::ZERO, subtrees.ready()).await.unwrap().unwrap();
            subtrees.drain();
            drains += 1;
        }
        assert_eq!(drains, 4);
    }

    #[tokio::test]
    async fn a_root_that_is_not_there_is_looked_for() {
        let scratch = Scratch::new("root");
        let mut subtrees = Subtrees::with_root(scratch.0.join("later")).unwrap();
        assert!(!subtrees.has_unwatched());
        subtrees.follow(&select([(Whose::System, "x.service")]), &Users::new());
        assert!(subtrees.has_unwatched());
        scratch.make("later/system.slice/x.service");
        assert_eq!(paths(&subtrees.rescan_unwatched()), ["system.slice/x.service"]);
        assert!(!subtrees.has_unwatched());
    }
}
