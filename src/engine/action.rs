//! What is to be done, in the imperative.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{CgroupId, CgroupPath, Element, RowId, SetRef, UnitName};

/// Something that the engine wants done. The answer, if any, comes back as an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Put elements in and take elements out. Answer: [`Event::Committed`](super::Event::Committed).
    Commit(Commit),
    /// See whether a cgroup exists. Answer: [`Event::CgroupSeen`](super::Event::CgroupSeen).
    LookAtCgroup(CgroupPath),
    /// Ask systemd for a unit's state. Answer: [`Event::UnitStateSeen`](super::Event::UnitStateSeen), if it can be had.
    LookAtUnit(UnitName),
    /// Load the policy again. Answer: [`Event::PolicyLoaded`](super::Event::PolicyLoaded) or
    /// [`Event::LoadFailed`](super::Event::LoadFailed).
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
    pub add: Vec<Add>,
    /// Elements to delete, all in one transaction.
    pub delete: Vec<Delete>,
}

/// An element to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// The row that it is for.
    pub row: RowId,
    /// The element.
    pub element: Arc<Element>,
    /// The id of its cgroup; a gate's element has none.
    pub id: Option<CgroupId>,
}

/// An element to delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// The row that it was for.
    pub row: RowId,
    /// The set or map.
    pub set: SetRef,
    /// The id of its cgroup, which may be gone; a gate's element has none.
    pub id: Option<CgroupId>,
}

impl Commit {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.delete.is_empty()
    }
}
