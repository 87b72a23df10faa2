//! What is known of one manager's subtree, and what is still to be looked at in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use inotify::WatchDescriptor;

use super::{
    listeners::Owner,
    paths::{below, within},
};
use crate::{cgroupfs::Children, model::CgroupId};

/// A manager's subtree.
#[derive(Debug, Default)]
pub(super) struct Branch {
    pub(super) owner: Owner,
    /// Where it begins.
    pub(super) top: String,
    /// The slices that are followed. None if the manager is gone.
    pub(super) slices: BTreeMap<String, Slice>,
    /// What selectors select and exists.
    pub(super) selected: BTreeMap<String, CgroupId>,
    /// What something happened to, and has not been looked at since.
    pub(super) touched: BTreeSet<String>,
    /// Slices that are to be scanned, and the scan that is under way.
    pub(super) due: BTreeSet<String>,
    pub(super) scan: Option<Scan>,
    /// Why slices are scanned again in a while.
    pub(super) again: Again,
    /// When that was done last.
    pub(super) rescanned: Option<Duration>,
    pub(super) overflows: u32,
    /// Whether the log says that there is more than a user may have, and how often that has begun.
    excess_is_told: bool,
    excesses: u32,
}

/// A slice that exists.
#[derive(Debug, Default)]
pub(super) struct Slice {
    pub(super) watch: Option<WatchDescriptor>,
    /// As it was when it was found in a directory.
    pub(super) id: Option<CgroupId>,
}

/// A look at what a slice has, and had.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) path: String,
    /// What is known and has not been seen in it.
    pub(super) unseen: BTreeSet<String>,
    pub(super) children: Option<Children>,
}

/// What is scanned again once a second, since no event tells of it.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// Everything: events were lost.
    pub(super) all: bool,
    /// Slices that cannot be watched, or that cannot be read.
    pub(super) unwatched: BTreeSet<String>,
    /// Slices with more in them than a user may have.
    pub(super) beyond: BTreeSet<String>,
}

impl Branch {
    pub(super) fn new(owner: Owner, top: String) -> Self {
        Self { owner, top, ..Self::default() }
    }

    pub(super) fn has_scans(&self) -> bool {
        self.scan.is_some() || !self.due.is_empty()
    }

    /// Whether it waits for its turn.
    pub(super) fn is_busy(&self) -> bool {
        self.has_scans() || !self.touched.is_empty()
    }

    /// When it is to be scanned again, if it is.
    pub(super) fn rescan_due(&self, pause: Duration) -> Option<Duration> {
        let Again { all, unwatched, beyond } = &self.again;
        let is_wanted = *all || !unwatched.is_empty() || !beyond.is_empty();
        (is_wanted && !self.has_scans())
            .then(|| self.rescanned.map_or(Duration::ZERO, |rescanned| rescanned + pause))
    }

    /// The paths of what is known in a directory.
    pub(super) fn children(&self, path: &str) -> BTreeSet<String> {
        let start = below(path).len();
        let is_child = |path: &&String| !path[start..].is_empty() && !path[start..].contains('/');
        within(&self.slices, path).chain(within(&self.selected, path)).filter(is_child).cloned().collect()
    }

    /// Notes that something in a slice is passed over; says whether that is worth a notice. It is each time that it
    /// begins, but more and more rarely: users must not fill the log.
    pub(super) fn pass_over(&mut self, slice: &str) -> bool {
        self.again.beyond.insert(slice.to_owned());
        if std::mem::replace(&mut self.excess_is_told, true) {
            return false;
        }
        self.excesses += 1;
        self.excesses.is_power_of_two()
    }

    /// Notes that a scan has ended.
    pub(super) fn settle(&mut self) {
        if !self.has_scans() && self.again.beyond.is_empty() {
            self.excess_is_told = false;
        }
    }
}
