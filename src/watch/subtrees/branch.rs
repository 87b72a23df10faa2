//! What is known of one manager's subtree, and what is still to be looked at in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::ReadDir,
    vec,
};

use inotify::WatchDescriptor;

use super::{
    ears::Owner,
    paths::{below, from, is_name},
};
use crate::model::CgroupId;

/// A manager's subtree.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) owner: Owner,
    /// Where it begins.
    pub(super) top: String,
    /// The slices that exist, and the watches of those that can be watched.
    pub(super) slices: BTreeMap<String, Option<WatchDescriptor>>,
    /// What selectors select and exists.
    pub(super) selected: BTreeMap<String, CgroupId>,
    /// Slices that are to be scanned, and the scan that is under way.
    pub(super) due: BTreeSet<String>,
    pub(super) scan: Option<Scan>,
    /// Slices whose changes give no events, or that cannot be read.
    pub(super) unwatched: BTreeSet<String>,
    pub(super) excess: Excess,
    pub(super) overflows: u32,
}

/// A look at what a slice has, and had.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) path: String,
    pub(super) known: vec::IntoIter<String>,
    pub(super) entries: Option<ReadDir>,
}

/// What is more than a user may have.
#[derive(Debug, Default)]
pub(super) struct Excess {
    /// Whether something is passed over.
    pub(super) exists: bool,
    /// How often that began.
    pub(super) times: u32,
    /// Whether something went since, so that what was passed over may have a place.
    pub(super) has_room: bool,
    /// Whether all is being looked at again for that reason, and whether something was passed over in that.
    pub(super) checks: Option<bool>,
}

impl Branch {
    pub(super) fn new(owner: Owner, top: String) -> Self {
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

    pub(super) fn is_busy(&self) -> bool {
        self.scan.is_some() || !self.due.is_empty()
    }

    /// Whether it waits for its turn.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_busy() || self.excess.has_room
    }

    /// The names of what is known in a directory.
    pub(super) fn children(&self, path: &str) -> Vec<String> {
        let prefix = below(path);
        let of = |path: &String| path.strip_prefix(&prefix).filter(|name| is_name(name)).map(str::to_owned);
        let slices = from(&self.slices, &prefix).filter_map(|(path, _)| of(path));
        let selected = from(&self.selected, &prefix).filter_map(|(path, _)| of(path));
        slices.chain(selected).collect()
    }

    /// Passes something over; says whether that is worth a notice. It is each time that it begins, but more and more
    /// rarely: users must not fill the log.
    pub(super) fn pass_over(&mut self) -> bool {
        self.excess.checks = self.excess.checks.map(|_| true);
        if std::mem::replace(&mut self.excess.exists, true) {
            return false;
        }
        self.excess.times += 1;
        self.excess.times.is_power_of_two()
    }

    /// Notes that something went.
    pub(super) fn make_room(&mut self) {
        self.excess.has_room = self.excess.exists;
    }

    /// Ends a look at everything that was to find what had been passed over, or begins one.
    pub(super) fn settle(&mut self) {
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
