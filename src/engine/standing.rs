//! How far the rules are: what somebody asks who waits for them, or who wants to know.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use litemap::LiteMap;

use super::{Engine, Kept, Seen, few::Few};
use crate::{
    gather::Gather,
    model::{AnnotationId, CgroupId, CgroupPath, Condition, Instance, Manager, RowId, Source, UnitName},
};

/// How far a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its cgroups do not exist, or its unit is not active.
    NotDue,
    /// The kernel holds its element, that of this cgroup or of a gate.
    InForce(Option<CgroupId>),
    /// The kernel does not hold it yet, or it is not known yet whether it should.
    Pending,
    /// The kernel refuses it.
    Refused,
}

/// What is about a cgroup or a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Concern {
    /// The rows.
    pub rows: BTreeSet<RowId>,
    /// The annotations that they are for, also those of which there is no row yet.
    pub annotations: BTreeSet<AnnotationId>,
    /// Whether more rows come with a load that is due.
    pub is_partial: bool,
}

/// For how many cgroups it is remembered how long their rules took.
const REMEMBERED: usize = 1000;

/// How long rules took, from when a cgroup was heard of until the kernel had them.
#[derive(Debug, Clone, Default)]
pub(super) struct Latencies {
    begun: LiteMap<CgroupPath, (Duration, Source)>,
    taken: VecDeque<(Source, Duration)>,
}

impl Latencies {
    pub(super) fn begin(&mut self, path: &CgroupPath, now: Duration, source: Source) {
        if self.begun.len() < REMEMBERED {
            self.begun.insert(path.clone(), (now, source));
        }
    }

    /// Forgets what has no end yet.
    pub(super) fn interrupt(&mut self) {
        self.begun.clear();
    }

    pub(super) fn end(&mut self, path: &CgroupPath, now: Duration, is_added: bool) {
        let Some((begun, source)) = self.begun.remove(path).filter(|_| is_added) else { return };
        if self.taken.len() >= REMEMBERED {
            self.taken.pop_front();
        }
        self.taken.push_back((source, now.saturating_sub(begun)));
    }
}

impl Kept {
    fn standing(&self, seen: &Seen) -> Standing {
        let unknown = |condition: &Condition| match condition {
            Condition::UsersUnit(path, unit) => {
                seen.cgroups.contains_key(path) && !seen.units.contains_key(unit)
            }
            Condition::Cgroup(_) | Condition::AllCgroups(_) | Condition::UnitActive(_) => false,
        };
        match self.due(seen) {
            None if self.conditions.iter().any(unknown) => Standing::Pending,
            None => Standing::NotDue,
            Some(id) if self.is_refused() => {
                if self.held.contains(&id) {
                    Standing::InForce(id)
                } else {
                    Standing::Refused
                }
            }
            Some(id) if self.held.contains(&id) => Standing::InForce(id),
            Some(_) => Standing::Pending,
        }
    }
}

impl Engine {
    /// All rows and how far they are.
    pub fn standings(&self) -> impl Iterator<Item = (RowId, &Kept, Standing)> {
        self.table.rows.iter().map(|(id, row)| (*id, &**row, row.standing(&self.seen)))
    }

    /// How far a row is.
    pub fn standing(&self, row: RowId) -> Standing {
        self.table.rows.get(&row).map_or(Standing::NotDue, |row| row.standing(&self.seen))
    }

    /// Whether the kernel holds what the last load put there, as far as is known: nobody has changed it since, and no load is
    /// due.
    pub fn is_settled(&self) -> bool {
        self.reload.timeout().is_none()
    }

    /// Whether rows depend on a cgroup.
    pub fn depends_on(&self, path: &CgroupPath) -> bool {
        self.table.by_path.contains_key(path)
    }

    /// Whether systemd can be heard on D-Bus.
    pub fn dbus_is_there(&self) -> bool {
        self.dbus_is_there
    }

    /// What is about a cgroup: rows that depend on it or on one that it is in, and on the state of its unit.
    pub fn concern_of(&self, path: &CgroupPath) -> Concern {
        let mut concern = Concern::default();
        for prefix in path.prefixes() {
            let rows = self.table.by_path.get(&prefix).into_iter().flat_map(Few::iter);
            concern.rows.extend(rows);
            if let Some(instance) = Instance::of(&prefix) {
                self.add_instance(&instance, &mut concern);
            }
        }
        self.add_annotations(&mut concern);
        concern
    }

    /// What is for any of these annotations.
    pub fn concern_for(&self, annotations: &BTreeSet<AnnotationId>) -> Concern {
        let is_for = |row: &Kept| row.annotations.iter().any(|one| annotations.contains(one));
        let rows = self.table.rows.iter().filter(|(_, row)| is_for(row)).map(|(id, _)| *id).gather();
        let is_partial = self.reload.due.is_some();
        Concern { rows, annotations: annotations.clone(), is_partial }
    }

    /// The units of the system's manager on whose state these rows depend.
    pub fn units_of(&self, concern: &Concern) -> BTreeSet<UnitName> {
        let rows = concern.rows.iter().filter_map(|row| self.table.rows.get(row));
        rows.flat_map(|row| row.conditions.iter()).filter_map(Condition::unit).cloned().gather()
    }

    /// How long it took from hearing of a cgroup until its rules were in the kernel, for the last ones, in order of time.
    pub fn latencies(&self) -> impl Iterator<Item = (Source, Duration)> {
        self.latencies.taken.iter().copied()
    }

    fn add_instance(&self, instance: &Instance, concern: &mut Concern) {
        if instance.manager == Manager::System {
            let of_state = self.table.by_unit.get(&instance.unit).into_iter().flat_map(Few::iter);
            let depends = |row: &&RowId| {
                let active = Condition::UnitActive(instance.unit.clone());
                self.table.rows.get(row).is_some_and(|row| row.conditions.contains(&active))
            };
            concern.rows.extend(of_state.filter(depends));
        }
        let selecting = self.selecting(instance);
        concern.annotations.extend(selecting.iter().flat_map(|pattern| &pattern.annotations));
        concern.is_partial |= !selecting.iter().all(|pattern| pattern.has_level_of(&instance.path));
        // A cgroup that nobody has seen yet has rows all the same.
        concern.is_partial |= !selecting.is_empty() && !self.table.instances.contains_key(&instance.path);
    }

    fn add_annotations(&self, concern: &mut Concern) {
        let rows = concern.rows.iter().filter_map(|row| self.table.rows.get(row));
        concern.annotations.extend(rows.flat_map(|row| row.annotations.iter()));
    }
}
