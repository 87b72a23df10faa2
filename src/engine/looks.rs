//! What is to be looked at, now or later.
//!
//! Invariant: what was asked for is looked at once at most for each time that it becomes due.

use std::{collections::BTreeSet, time::Duration};

use litemap::LiteMap;

use crate::model::{CgroupPath, UnitName};

/// When a cgroup is looked at again after news of its unit, where no source reports every change: the cgroup of a unit
/// comes and goes a little before or after what is said of it. In milliseconds.
pub(super) const AFTER_NEWS: [u64; 4] = [20, 100, 500, 2000];

/// How often a cgroup that exists is looked at where cgroupfs does not report its end: a user's unit that ends by itself
/// leaves nothing in the journal, nor on a bus that we can hear.
pub(super) const ROUND: Duration = Duration::from_secs(1);

/// How long after a look that failed the next one comes.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Looks that are to be taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Looks {
    cgroups: BTreeSet<CgroupPath>,
    units: BTreeSet<UnitName>,
    later: BTreeSet<(Duration, CgroupPath)>,
    rounds: LiteMap<CgroupPath, Duration>,
}

impl Looks {
    /// At a cgroup, now.
    pub(super) fn at_cgroup(&mut self, path: &CgroupPath) {
        self.cgroups.insert(path.clone());
    }

    /// At a unit's state, now.
    pub(super) fn at_unit(&mut self, unit: &UnitName) {
        self.units.insert(unit.clone());
    }

    /// At a cgroup a few times more after news of its unit.
    pub(super) fn after_news(&mut self, now: Duration, path: &CgroupPath) {
        self.later
            .extend(AFTER_NEWS.map(|after| (now.saturating_add(Duration::from_millis(after)), path.clone())));
    }

    /// At a cgroup again, since a look said nothing.
    pub(super) fn after_failure(&mut self, now: Duration, path: CgroupPath) {
        self.later.insert((now.saturating_add(AFTER_FAILURE), path));
    }

    /// At a cgroup once a second while it exists.
    pub(super) fn in_rounds(&mut self, now: Duration, path: &CgroupPath) {
        self.rounds.entry(path.clone()).or_insert(now.saturating_add(ROUND));
    }

    /// When the next look that waits is due.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let later = self.later.first().map(|(at, _)| *at);
        later.into_iter().chain(self.rounds.values().copied()).min()
    }

    /// The cgroups and units to look at now.
    pub(super) fn due(&mut self, now: Duration) -> (BTreeSet<CgroupPath>, BTreeSet<UnitName>) {
        while self.later.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, path)) = self.later.pop_first()
        {
            self.cgroups.insert(path);
        }
        let cgroups = &mut self.cgroups;
        self.rounds.retain(|path, at| {
            let waits = *at > now;
            if !waits {
                cgroups.insert(path.clone());
            }
            waits
        });
        (std::mem::take(&mut self.cgroups), std::mem::take(&mut self.units))
    }
}
