//! What happened, in the past tense.

use serde::{Deserialize, Serialize};

use crate::{
    dispatch::Pattern,
    model::{CgroupId, CgroupPath, Instance, Outcome, Row, RowId, Source, UnitName, UnitState},
    units::Users,
};

/// Something that the engine is told. Any of them may be late, doubled, lost or out of order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A new dispatch is in the kernel, and nothing else of ours.
    PolicyLoaded(PolicyLoaded),
    /// A load failed, and what was in the kernel is there as before.
    LoadFailed {
        /// Whether it may succeed in a moment: the kernel was short of something.
        passing: bool,
    },
    /// The files that a load was to read may be half written: they are to be read again in a moment.
    FilesUnsettled,
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
    /// A look at a cgroup failed, and says nothing of whether it exists.
    LookFailed {
        /// Its path.
        path: CgroupPath,
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
    /// The ActiveState of a unit of the system's manager was seen.
    UnitStateSeen {
        /// The unit.
        unit: UnitName,
        /// What it is.
        state: UnitState,
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
    /// What became of the elements of an [`Action::Commit`](super::Action::Commit), each of them.
    Committed {
        /// One by one.
        outcomes: Vec<(RowId, Outcome)>,
    },
    /// Somebody else changed the tables, chains or sets that our objects are in or need.
    RulesetChanged {
        /// The thread that did, if it is known.
        thread: Option<u32>,
    },
    /// SIGHUP: the files are to be read again.
    ReloadRequested,
    /// The policy is to be loaded again as it is: a name stands for something else now.
    ReapplyRequested,
}

/// What a load put in place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLoaded {
    /// All that is to be kept true from now on and is known ahead.
    pub rows: Vec<Row>,
    /// What to make of units as they come.
    pub patterns: Vec<Pattern>,
    /// The users whom their selectors name.
    pub users: Users,
    /// The instances that there were, and the rows that patterns made of each.
    pub instances: Vec<(Instance, Vec<Row>)>,
    /// The elements that were put in with it: the number of the row, counted through `rows` and then `instances`, and the
    /// cgroup's id; a gate's element has none.
    pub installed: Vec<(usize, Option<CgroupId>)>,
}
