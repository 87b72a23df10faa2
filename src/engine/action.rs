//! What is to be done, in the imperative.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::{Binding, CgroupId, CgroupPath, SetRef, UnitName};

/// Something that the engine wants done. The answer, if any, comes back as an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Put elements in and take elements out. Answer: [`Event::Committed`](super::Event::Committed).
    Commit(Commit),
    /// See whether a cgroup exists. Answer: [`Event::CgroupSeen`](super::Event::CgroupSeen).
    LookAtCgroup(CgroupPath),
    /// Ask systemd for a unit's state. Answer: [`Event::UnitStateSeen`](super::Event::UnitStateSeen), if it can be had.
    LookAtUnit(UnitName),
    /// Delete what should not be in a set: all ids but `keep`, and in a set that is the user's own only
    /// those that no cgroup has any more.
    Sweep {
        /// The set.
        set: SetRef,
        /// The ids that belong there.
        keep: BTreeSet<CgroupId>,
    },
    /// Load the policy again. Answer: [`Event::PolicyLoaded`](super::Event::PolicyLoaded), unless the old one stays.
    Reload {
        /// Whether to read the files again.
        reread: bool,
        /// Whether `--flush` applies.
        flush: bool,
    },
}

/// The difference between what should be in the kernel and what is. The additions come first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Elements to add, all in one transaction.
    pub add: Vec<Binding>,
    /// Gates to close, all in one transaction.
    pub close: Vec<Binding>,
    /// Elements of dead cgroups to delete by id.
    pub delete: Vec<(Binding, CgroupId)>,
}

impl Commit {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.close.is_empty() && self.delete.is_empty()
    }
}
