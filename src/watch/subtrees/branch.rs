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
use crate::{cgroupfs::Children, gather::Gather, model::CgroupId};

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
    /// Whether all slices are scanned again once a second, since no event tells of what is new.
    pub(super) lost_events: bool,
    /// Slices that are, since they cannot be watched or read.
    pub(super) unwatched: BTreeSet<String>,
    /// Slices that are, since there is more in them than a user may have.
    pub(super) beyond: BTreeSet<String>,
    /// When that was done last.
    pub(super) rescanned: Option<Duration>,
    pub(super) overflows: u32,
    /// Whether the log says that there is more than a user may have, and how often that has begun.
    pub(super) excess_is_told: bool,
    pub(super) excesses: u32,
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

impl Branch {
    pub(super) fn has_scans(&self) -> bool {
        self.scan.is_some() || !self.due.is_empty()
    }

    /// Whether it waits for its turn.
    pub(super) fn is_busy(&self) -> bool {
        self.has_scans() || !self.touched.is_empty()
    }

    /// The paths of what is known in a directory.
    pub(super) fn children(&self, path: &str) -> BTreeSet<String> {
        let start = below(path).len();
        let is_child = |path: &&String| !path[start..].is_empty() && !path[start..].contains('/');
        within(&self.slices, path).chain(within(&self.selected, path)).filter(is_child).cloned().gather()
    }
}
