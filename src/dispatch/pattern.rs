//! Rows for units that nobody knows ahead: one for each cgroup that selectors select.

use serde::{Deserialize, Serialize};

use crate::{
    model::{AnnotationId, CgroupPath, Condition, Data, Element, Key, Row, SetRef, UnitName},
    units::selector::Selectors,
};

/// What goes into the kernel for each instance that selectors select.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pattern {
    /// What selects them.
    pub selectors: Selectors,
    /// What goes where.
    pub targets: Vec<Target>,
    /// Only while the system's manager has no unit of this name.
    pub unless: Option<UnitName>,
    /// What stands left of the first annotation's `::`.
    pub unit: UnitName,
    /// The annotations that ask for it, at least one.
    pub annotations: Vec<AnnotationId>,
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
    pub fn rows(&self, path: &CgroupPath) -> impl Iterator<Item = Row> {
        self.targets_of(path).map(|target| self.row(target, path))
    }

    /// The row of a target for the cgroup at a path.
    pub fn row(&self, target: &Target, path: &CgroupPath) -> Row {
        let key = target.level.map_or(Key::Everything, |_| Key::Cgroup(path.clone()));
        let condition = match &self.unless {
            Some(unit) => Condition::UsersUnit(path.clone(), unit.clone()),
            None => Condition::Cgroup(path.clone()),
        };
        Row {
            element: Element { set: target.set.clone(), key, data: target.data.clone() }.into(),
            condition,
            unit: self.unit.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// Whether it has a set for the level of a cgroup, or only a gate.
    pub fn has_level_of(&self, path: &CgroupPath) -> bool {
        self.targets_of(path).next().is_some()
    }

    /// Those for the level of a cgroup.
    fn targets_of(&self, path: &CgroupPath) -> impl Iterator<Item = &Target> {
        let level = level(path);
        self.targets.iter().filter(move |target| target.level.is_none_or(|at| at == level))
    }
}

/// How many names a path has.
pub fn level(path: &CgroupPath) -> u32 {
    u32::try_from(path.components().count()).unwrap_or(u32::MAX)
}
