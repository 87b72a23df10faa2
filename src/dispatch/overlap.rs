//! Which groups of a run may mean the same cgroup as another match: found without asking all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::Whose;
use crate::model::{CgroupPath, Instance, UnitName};

/// The groups of a run, by what they are for.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    groups: usize,
    by_path: BTreeMap<&'a CgroupPath, usize>,
    /// By the names of units, those of paths too.
    by_unit: BTreeMap<UnitName, BTreeSet<usize>>,
    /// Groups for units that are not told by name alone.
    wide: BTreeSet<usize>,
    /// Groups with a path that no unit has.
    odd: BTreeSet<usize>,
}

impl<'a> Index<'a> {
    /// Notes the next group.
    pub(super) fn add(&mut self, whose: &Whose<'a>) {
        let group = self.groups;
        self.groups += 1;
        match whose {
            Whose::Paths(paths) => {
                for path in paths {
                    self.by_path.entry(*path).or_insert(group);
                    match Instance::of(path) {
                        Some(instance) => drop(self.by_unit.entry(instance.unit).or_default().insert(group)),
                        None => drop(self.odd.insert(group)),
                    }
                }
            }
            Whose::Units(selectors) => match selectors.only_names() {
                Some(names) => {
                    for name in names {
                        self.by_unit.entry(name.clone()).or_default().insert(group);
                    }
                }
                None => drop(self.wide.insert(group)),
            },
        }
    }

    /// The groups that may overlap with this, and perhaps others, in order.
    pub(super) fn candidates(&self, whose: &Whose<'_>) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        match whose {
            Whose::Paths(paths) => {
                found.extend(&self.wide);
                for path in paths {
                    found.extend(self.by_path.get(*path));
                    match Instance::of(path) {
                        Some(instance) => {
                            found.extend(self.by_unit.get(&instance.unit).into_iter().flatten())
                        }
                        None => found.extend(0..self.groups),
                    }
                }
            }
            Whose::Units(selectors) => match selectors.only_names() {
                Some(names) => {
                    found.extend(self.wide.iter().chain(&self.odd));
                    found.extend(names.iter().flat_map(|name| self.by_unit.get(*name).into_iter().flatten()));
                }
                None => found.extend(0..self.groups),
            },
        }
        found
    }
}
