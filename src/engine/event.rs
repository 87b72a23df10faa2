//! What happened, in the past tense.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::{Binding, CgroupId, CgroupPath, Element, SetRef, Source, UnitName};

/// Something that the engine is told. Any of them may be late, doubled, lost or out of order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A new dispatch is in the kernel, with these elements in it, and nothing else of ours.
    PolicyLoaded {
        /// All that is to be kept true from now on.
        bindings: Vec<Binding>,
        /// The elements that were put in with it, with the id each had just before.
        installed: Vec<(Element, Option<CgroupId>)>,
    },
    /// Somebody looked at a cgroup.
    CgroupSeen {
        /// Its path.
        path: CgroupPath,
        /// Its id, if it exists.
        id: Option<CgroupId>,
        /// Who looked; `None` for a look that the engine asked for.
        source: Option<Source>,
    },
    /// Something happened to a unit: its cgroups are worth a look.
    UnitChanged {
        /// The unit.
        unit: UnitName,
        /// Who says so.
        source: Source,
    },
    /// A job of a unit was done (systemd's job result `done`).
    UnitJobDone {
        /// The unit.
        unit: UnitName,
        /// Who says so.
        source: Source,
    },
    /// A unit's ActiveState was seen.
    UnitStateSeen {
        /// The unit.
        unit: UnitName,
        /// Whether it is neither `inactive` nor `failed`.
        active: bool,
        /// Who says so.
        source: Source,
    },
    /// A source may have missed something: all cgroups (and, for D-Bus, units) are to be looked at.
    SourceResumed {
        /// Which.
        source: Source,
    },
    /// What became of the elements of an [`super::Action::Commit`].
    Committed {
        /// One by one.
        outcomes: Vec<(Element, Outcome)>,
    },
    /// The ids in a set, in answer to [`super::Action::ListSet`].
    SetListed {
        /// The set.
        set: SetRef,
        /// Its ids.
        ids: BTreeSet<CgroupId>,
    },
    /// Somebody else changed the tables, chains or sets that our objects are in or need.
    RulesetChanged,
    /// SIGHUP.
    ReloadRequested,
    /// A reload kept the old policy, or loaded the new one (then `PolicyLoaded` comes too).
    ReloadEnded,
}

/// What became of one element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is in the kernel: its cgroup had the first id just before and the second just after.
    Added(Option<CgroupId>, Option<CgroupId>),
    /// Its cgroup vanished before it could be added.
    Vanished,
    /// nft refused it; it is reported already.
    Refused,
    /// It is no longer in the kernel.
    Removed,
}
