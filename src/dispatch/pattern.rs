//! Elements for units that nobody knows ahead: one for each cgroup that selectors select.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    model::{Binding, CgroupPath, Condition, Data, Element, Key, Location, SetRef, UnitName},
    units::selector::Selectors,
};

/// What goes into the kernel for each instance that selectors select.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pattern {
    /// What selects them.
    pub selectors: Selectors,
    /// What goes where.
    pub targets: Vec<Target>,
    /// What stands left of the annotation's `::`.
    pub unit: UnitName,
    /// Where the annotation begins.
    pub location: Location,
}

/// One element of each instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// The instances at this level only, each with its own element; none for all of them, who share the one
    /// element of a gate.
    pub level: Option<u32>,
    /// The set or map.
    pub set: SetRef,
    /// What the element leads to, in a map.
    pub data: Option<Data>,
}

impl Pattern {
    /// What the cgroup of an instance that is selected asks for.
    pub fn bindings(&self, path: &CgroupPath) -> Vec<Binding> {
        let level = level(path);
        let of_this_level = |target: &&Target| target.level.is_none_or(|at| at == level);
        self.targets.iter().filter(of_this_level).map(|target| self.binding(target, path)).collect()
    }

    /// The element of a target for the cgroup at a path.
    pub fn binding(&self, target: &Target, path: &CgroupPath) -> Binding {
        let key = target.level.map_or(Key::Everything, |_| Key::Cgroup(path.clone()));
        Binding {
            element: Element { set: target.set.clone(), key, data: target.data.clone() },
            condition: Condition::Cgroup(path.clone()),
            unit: self.unit.clone(),
            location: self.location.clone(),
        }
    }

    /// The levels that there are sets for; all, if there is only a gate.
    pub fn levels(&self) -> Option<BTreeSet<u32>> {
        self.targets.iter().map(|target| target.level).collect()
    }
}

/// How many names a path has.
pub fn level(path: &CgroupPath) -> u32 {
    u32::try_from(path.components().count()).unwrap_or(u32::MAX)
}
