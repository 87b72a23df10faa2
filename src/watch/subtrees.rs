//! cgroupfs below managers, by inotify(7): units whose names nobody knows ahead.
//!
//! Units are the directories below slices; what is below a unit that is no slice is its own business, and is not looked
//! at. So only slices are watched, however many units there are, and only what selectors select is kept. What a user
//! makes below `user@UID.service` has an inotify instance, a share of each round and bounds of its own, so that nobody
//! can slow the others down.
//!
//! As in [`super::cgroups`], a directory is watched first and scanned then, and what is reported is what a look finds
//! after the event, not the event.

mod branch;
mod ears;
mod paths;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

use inotify::{EventMask, WatchDescriptor, WatchMask};

use crate::units::places::{USERS, top, user_of_manager as user_of_top, user_of_slice};
use crate::{
    cgroupfs::is_absence,
    model::{CGROUP_ROOT, CgroupId, Instance, Manager},
    units::selector::{Reach, Selectors, Users},
};
use branch::{Branch, Scan};
use ears::{Ears, Owner};
use paths::{below, from, instance, is_slice, unit_path};

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

/// How often each manager is read.
const ROUNDS: usize = 4;

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

fn look_at(directory: &std::path::Path) -> Option<CgroupId> {
    crate::cgroupfs::look_at(directory).ok().flatten()
}
