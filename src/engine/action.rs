//! What is to be done, in the imperative.

use serde::{Deserialize, Serialize};

use crate::model::{Binding, CgroupId, CgroupPath, SetRef, UnitName};

/// Something that the engine wants done. The answer, if any, comes back as an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Put elements in and take elements out. Answer: `Committed`.
    Commit {
        /// Elements to delete by id, for a cgroup that is gone.
        delete: Vec<(Binding, CgroupId)>,
        /// Gates to close.
        close: Vec<Binding>,
        /// Elements to add, in one transaction.
        add: Vec<Binding>,
    },
    /// See whether a cgroup exists. Answer: `CgroupSeen`.
    LookAtCgroup(CgroupPath),
    /// Ask systemd for a unit's state. Answer: `UnitStateSeen`, if there is one.
    LookAtUnit(UnitName),
    /// See which ids a set holds. Answer: `SetListed`.
    ListSet(SetRef),
    /// Delete ids that nobody asked for from a set.
    DeleteStray {
        /// The set.
        set: SetRef,
        /// The ids.
        ids: Vec<CgroupId>,
    },
    /// Load the policy again, from the files or as it is. Answer: `ReloadEnded`.
    Reload {
        /// Whether to read the files again.
        reread: bool,
        /// Whether `--flush` applies.
        flush: bool,
    },
}
