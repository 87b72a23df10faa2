//! cgroupfs below managers, by inotify(7): units whose names nobody knows ahead.
//!
//! Units are the directories below slices; what is below a unit that is no slice is its own business, and is not looked
//! at. So only slices are watched, however many units there are, and only what selectors select is kept. What a user
//! makes below `user@UID.service` has an inotify instance, a share of each turn, a rate and bounds of its own, so that
//! nobody can slow the others down. What is beyond them is scanned again once a second, and so is everything where
//! inotify is not to be used.
//!
//! As in [`super::cgroups`], a directory is watched first and scanned then, and what is reported is what a look finds
//! after the event, not the event.

mod branch;
mod follow;
mod listeners;
mod paths;
mod scan;
#[cfg(test)]
mod tests;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    task::{Context, Poll},
    time::Duration,
};

use litemap::LiteMap;

use super::shares::{self, Shares};
use crate::{
    cgroupfs,
    gather::Gather,
    model::{CgroupId, Instance, Manager},
    units::selector::{Selectors, Users},
};
use branch::Branch;
use listeners::{Listeners, Owner};
use wanted::Wanted;

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
    /// Whether the names of all units are wanted, too.
    names: bool,
    branches: LiteMap<Manager, Branch>,
    listeners: Listeners,
    shares: Shares<Owner>,
    /// Whether somebody said that there may be something new.
    is_nudged: bool,
    /// The errors that are in the log already.
    complaints: BTreeSet<Option<i32>>,
    news: News,
    buffer: Vec<u8>,
}

impl Subtrees {
    /// Follows nothing yet, below this directory. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// inotify(7), epoll(7).
    pub fn with_root(root: PathBuf) -> io::Result<Self> {
        Ok(Self::with(root, Listeners::new()?))
    }

    /// Without inotify: everything is scanned once a second, and soon after a [`Self::nudge`].
    pub fn without_events(root: PathBuf) -> Self {
        Self::with(root, Listeners::default())
    }

    fn with(root: PathBuf, listeners: Listeners) -> Self {
        Self {
            root,
            limits: Limits::default(),
            wanted: Wanted::default(),
            names: false,
            branches: LiteMap::new(),
            listeners,
            shares: Shares::new(SHARES),
            is_nudged: false,
            complaints: BTreeSet::new(),
            news: News::default(),
            buffer: vec![0; BUFFER_SIZE],
        }
    }

    /// What these selectors select now. Changes nothing of what is followed. Of a user with very many cgroups it may be
    /// a part.
    pub fn instances_of(&self, selectors: &BTreeSet<Selectors>, users: &Users) -> Vec<(Instance, CgroupId)> {
        let wanted = Wanted::new(selectors, users, false);
        if wanted.is_nothing() {
            return vec![];
        }
        let enters = |instance: &Instance| wanted.enters(instance);
        let all = cgroupfs::units(&self.root, MOST_OF_A_USER, |path| Instance::of(&path), enters);
        all.into_iter().filter(|(instance, _)| wanted.selects(instance)).collect()
    }

    /// Follows what these selectors select, and no longer anything else. `known` is what [`Self::instances_of`] said of
    /// them: returned is what has become of that. What else there is, [`Self::drain`] finds.
    pub fn follow(&mut self, selectors: &BTreeSet<Selectors>, users: &Users, known: &[Instance]) -> Drained {
        self.wanted = Wanted::new(selectors, users, self.names);
        let managers: Vec<Manager> = self.branches.keys().copied().collect();
        for manager in managers {
            if self.wanted.follows(manager) {
                self.prune(manager);
            } else if let Some(branch) = self.branches.remove(&manager) {
                self.let_go(branch);
            }
        }
        let branches = &self.branches;
        self.shares.forget(|owner| branches.values().any(|branch| branch.owner == owner));
        if self.wanted.follows(Manager::System) {
            self.look_at_manager(Manager::System);
        }
        known.iter().for_each(|instance| self.adopt(instance));
        self.told()
    }

    /// Whether [`Self::follow`] is to follow all units, too, so that their names are known. That costs the others little: what no
    /// selector selects comes to little work, and leaves room for what one does.
    pub fn name_all(&mut self, names: bool) {
        self.names = names;
    }

    /// Looks at one instance now, if a selector selects it, as if the kernel had told of it.
    pub fn look_at(&mut self, instance: &Instance) -> Drained {
        if self.wanted.selects(instance) {
            self.adopt(instance);
        }
        self.told()
    }

    /// Whether the kernel has something for [`Self::drain`].
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.listeners.readable().map_or(Poll::Pending, |readable| readable.poll_ready(cx))
    }

    /// When [`Self::drain`] is to be called even if the kernel has nothing, on its clock.
    pub fn due(&self) -> Option<Duration> {
        let is_waiting = |branch: &Branch| branch.is_busy() && self.shares.may_work(branch.owner);
        if self.branches.values().any(is_waiting) {
            return Some(Duration::ZERO);
        }
        let rescans = self.branches.values().filter_map(|branch| self.rescan_due(branch));
        rescans.chain(self.shares.due()).min()
    }

    /// Reads what is pending, of each user not more than a share of a turn, and not of too many. Does not block. `now` is
    /// the time on any clock that only goes forward.
    pub fn drain(&mut self, now: Duration) -> Drained {
        self.shares.give(now);
        self.begin_rescans(now);
        self.listeners.pause(&self.shares);
        let pending = self.listeners.pending();
        self.serve(Owner::System, SYSTEM_SHARE, pending.contains(&Owner::System));
        let busy = self.branches.values().filter(|branch| branch.is_busy()).map(|branch| branch.owner);
        let mut with_work: BTreeSet<Owner> = busy.chain(pending.iter().copied()).gather();
        with_work.remove(&Owner::System);
        for owner in self.shares.next(with_work) {
            let before = self.news.work;
            self.serve(owner, SHARES.share, pending.contains(&owner));
            self.shares.use_up(owner, self.news.work - before);
        }
        let is_well = |branch: &Branch| branch.unwatched.is_empty() && !branch.has_scans();
        if self.branches.values().all(is_well) {
            self.complaints.clear();
        }
        self.listeners.pause(&self.shares);
        self.told()
    }

    /// Says that there may be something new. Does nothing where events tell of it.
    pub fn nudge(&mut self) {
        self.is_nudged = !self.listeners.hear();
    }

    /// How much is held.
    pub fn counts(&self) -> Counts {
        Counts {
            watches: self.listeners.by_owner.values().map(|listener| listener.watches.len()).sum(),
            instances: self.branches.values().map(|branch| branch.selected.len()).sum(),
            managers: self.branches.len(),
        }
    }

    /// What there is to be told since the last time.
    fn told(&mut self) -> Drained {
        let News { found, notices, .. } = std::mem::take(&mut self.news);
        Drained { found: found.into_iter().map(|(instance, id)| Found { instance, id }).collect(), notices }
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
    listeners: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { slices: 1024, depth: 16, selected: 16_384, listeners: 64 }
    }
}

/// What users get of the daemon's work: a sixteenth of a core for all who flood, as it is counted, and a login of 1,000 units
/// at once.
const SHARES: shares::Limits = shares::Limits { rate: 60_000, burst: 250_000, share: 600, at_once: 1 };

/// What the system's manager gets in each turn.
const SYSTEM_SHARE: u64 = 4096;

/// What things cost, in units of about a microsecond.
mod work {
    /// An event, or a name in a directory that was known before.
    pub(super) const NAME: u64 = 1;
    /// A look at a path.
    pub(super) const LOOK: u64 = 4;
    /// A watch.
    pub(super) const WATCH: u64 = 8;
    /// A directory that is read, with the kernel's files in it.
    pub(super) const DIRECTORY: u64 = 32;
    /// A change that is reported: an element in a transaction, for which the kernel goes through the whole map.
    pub(super) const CHANGE: u64 = 200;
}

/// What is read at once of one inotify instance: some 100 events.
const BUFFER_SIZE: usize = 4 * 1024;

/// How often is scanned again what no event tells of, and how often at most when somebody spoke of something new.
const RESCAN: Duration = Duration::from_secs(1);
const RESCAN_WHEN_NUDGED: Duration = Duration::from_millis(100);

/// How many cgroups of a user are looked at when all that exist are wanted at once.
const MOST_OF_A_USER: usize = 65_536;

/// What is to be told, and the work that it took to find it.
#[derive(Debug, Default)]
struct News {
    found: BTreeMap<Instance, Option<CgroupId>>,
    notices: Vec<String>,
    work: u64,
}
