//! All that the engine knows, as a value that can be written down, and an engine again from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Engine, Kept, Reload, Seen, Settings, index_of};
use crate::{
    dispatch::Pattern,
    gather::Gather,
    model::{Instance, RowId, Source},
    units::Users,
};

/// What an engine knows. Its schema only grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What the command line asked for.
    pub settings: Settings,
    /// The rows: elements, when each is due, and what of it the kernel holds.
    pub rows: BTreeMap<RowId, Kept>,
    /// What is made of units as they come.
    pub patterns: Vec<Pattern>,
    /// The users whom patterns name.
    pub users: Users,
    /// The instances that there are, and the rows made of each.
    pub instances: Vec<(Instance, Vec<RowId>)>,
    /// Cgroups and states of units as they were last seen.
    pub seen: Seen,
    /// Loads, past and to come.
    pub reload: Reload,
    /// Whether systemd can be heard on D-Bus.
    pub dbus_is_there: bool,
    /// How often each source was the first to tell of a cgroup's change.
    pub first: BTreeMap<Source, u64>,
}

impl Engine {
    /// All that it knows. Looks that are still to be taken are not in it: an engine made of it looks at everything.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            settings: self.settings.clone(),
            rows: self.table.rows.iter().map(|(id, row)| (*id, Kept::clone(row))).gather(),
            patterns: self.patterns.clone(),
            users: self.users.clone(),
            instances: self.table.instances(),
            seen: self.seen.clone(),
            reload: self.reload.clone(),
            dbus_is_there: self.dbus_is_there,
            first: self.first.clone(),
        }
    }
}

impl From<Snapshot> for Engine {
    fn from(snapshot: Snapshot) -> Self {
        let Snapshot { settings, rows, patterns, users, instances, seen, reload, dbus_is_there, first } =
            snapshot;
        let index = index_of(&patterns);
        let mut engine =
            Self { settings, patterns, index, users, seen, reload, dbus_is_there, first, ..Self::default() };
        engine.table.restore(rows, instances);
        engine.look_at_everything();
        engine
    }
}
