//! What happened, in the past tense.

use serde::{Deserialize, Serialize};

use crate::{
    dispatch::Pattern,
    model::{Binding, CgroupId, CgroupPath, Element, Instance, Source, UnitName, UnitState},
    units::selector::Users,
};

/// Something that the engine is told. Any of them may be late, doubled, lost or out of order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A new dispatch is in the kernel, and nothing else of ours but elements of users' own sets.
    PolicyLoaded(PolicyLoaded),
    /// Somebody looked at a cgroup that selectors select.
    InstanceSeen {
        /// Which.
        instance: Instance,
        /// Its id, if it exists.
        id: Option<CgroupId>,
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
        /// What it is.
        state: UnitState,
        /// Whether it is a user manager's unit of that name, not the system's.
        user: bool,
        /// Who says so.
        source: Source,
    },
    /// A source is there (again) and may have missed something.
    SourceResumed {
        /// Which.
        source: Source,
    },
    /// A source is gone for now.
    SourceLost {
        /// Which.
        source: Source,
    },
    /// What became of the elements of an [`Action::Commit`](super::Action::Commit).
    Committed {
        /// One by one.
        outcomes: Vec<(Element, Outcome)>,
    },
    /// Somebody else changed the tables, chains or sets that our objects are in or need.
    RulesetChanged,
    /// SIGHUP: the files are to be read again.
    ReloadRequested,
    /// The policy is to be loaded again as it is: a host name has another address.
    ReapplyRequested,
}

/// What a load put in place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLoaded {
    /// All that is to be kept true from now on and is known ahead.
    pub bindings: Vec<Binding>,
    /// What to make of units as they come.
    pub patterns: Vec<Pattern>,
    /// The users whom their selectors name.
    pub users: Users,
    /// The instances that there were.
    pub instances: Vec<Instance>,
    /// The elements that were put in with it.
    pub installed: Vec<(Element, Outcome)>,
}

/// What became of one element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// A cgroup's element is in the kernel. libnftables looks the path up by itself, so the id is sure only if
    /// it was the same just before and just after.
    Added {
        /// The cgroup's id just before.
        before: Option<CgroupId>,
        /// The cgroup's id just after.
        after: Option<CgroupId>,
    },
    /// Its cgroup vanished before it could be added.
    Vanished,
    /// nft refused it; that is reported already.
    Refused,
    /// A cgroup's element with this id is no longer in the kernel.
    Deleted(CgroupId),
    /// A gate's element is in the kernel.
    Opened,
    /// A gate's element is no longer in the kernel.
    Closed,
    /// Nothing is known: it was neither added nor taken away.
    Failed,
}
