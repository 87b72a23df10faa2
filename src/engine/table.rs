//! The rows, and the ways to find them.
//!
//! Invariants: there is one row for each element (set, key and data). A path, a unit or an instance is in an index as long
//! as a row depends on it, and no longer. A row that only instances ask for goes with the last of them, once the kernel
//! holds nothing of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Seen, action::Commit, few::Few, row::Kept};
use crate::{
    gather::Gather,
    model::{CgroupPath, Condition, Element, Instance, Key, Outcome, Row, RowId, UnitName},
};

/// All rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) rows: BTreeMap<RowId, Box<Kept>>,
    /// The number of the last row.
    last: u64,
    by_element: BTreeMap<Arc<Element>, RowId>,
    pub(super) by_path: BTreeMap<CgroupPath, Few<RowId>>,
    /// The rows that depend on the state of a unit of the system's manager.
    pub(super) by_unit: BTreeMap<UnitName, Few<RowId>>,
    /// The paths that news of a unit is a reason to look at: those of its annotations, and those that it is named in.
    pub(super) paths_of: BTreeMap<UnitName, Few<CgroupPath>>,
    /// The rows that patterns made of an instance, and whether it is gone.
    pub(super) instances: BTreeMap<CgroupPath, OfInstance>,
    /// The rows whose state in the kernel may be wrong.
    pub(super) dirty: BTreeSet<RowId>,
    /// How many rows the kernel holds something of.
    pub(super) held: usize,
}

#[derive(Debug, Clone)]
pub(super) struct OfInstance {
    unit: UnitName,
    rows: Vec<RowId>,
    has_ended: bool,
}

impl Table {
    /// A table without rows that gives out no number that another one gave out.
    pub(super) fn after(other: &Self) -> Self {
        Self { last: other.last, ..Self::default() }
    }

    /// The cgroups that rows depend on by name, whether or not a pattern selects them, too.
    pub(super) fn named_paths(&self) -> BTreeSet<CgroupPath> {
        let is_named = |(path, rows): &(&CgroupPath, &Few<RowId>)| {
            self.instances
                .get(*path)
                .is_none_or(|of| rows.iter().any(|row| !of.rows.contains(row) || self.stays(*row)))
        };
        self.by_path.iter().filter(is_named).map(|(path, _)| path.clone()).gather()
    }

    /// Keeps a row, which is known ahead or goes with an instance; one for the same element is joined.
    pub(super) fn keep(&mut self, row: Row, is_named: bool) -> RowId {
        let (rows, last) = (&mut self.rows, &mut self.last);
        let id = *self.by_element.entry(row.element.clone()).or_insert_with(|| {
            *last += 1;
            rows.insert(RowId(*last), Box::new(Kept::new(row.element.clone(), row.unit.clone())));
            RowId(*last)
        });
        self.index(id, &row.unit, &row.condition);
        self.dirty.insert(id);
        if let Some(kept) = self.rows.get_mut(&id) {
            kept.is_named |= is_named;
            kept.join(row);
        }
        id
    }

    /// Makes a row found by what one of its conditions depends on.
    fn index(&mut self, id: RowId, unit: &UnitName, condition: &Condition) {
        for path in condition.paths() {
            self.by_path.entry(path.clone()).or_default().insert(id);
            self.paths_of.entry(unit.clone()).or_default().insert(path.clone());
            for name in path.components().filter(|name| name.contains('.') && **name != *unit.0) {
                self.paths_of.entry(UnitName(name.into())).or_default().insert(path.clone());
            }
        }
        if let Some(unit) = condition.unit() {
            self.by_unit.entry(unit.clone()).or_default().insert(id);
        }
    }

    /// The instances that there are, and the rows made of each.
    pub(super) fn instances(&self) -> Vec<(Instance, Vec<RowId>)> {
        let all = self.instances.iter();
        all.filter_map(|(path, of)| Some((Instance::of(path)?, of.rows.clone()))).collect()
    }

    /// Takes over rows and instances as they were.
    pub(super) fn restore(&mut self, rows: BTreeMap<RowId, Kept>, instances: Vec<(Instance, Vec<RowId>)>) {
        for (id, kept) in rows {
            self.last = self.last.max(id.0);
            self.by_element.insert(kept.element.clone(), id);
            kept.conditions.iter().for_each(|condition| self.index(id, &kept.unit, condition));
            self.held += usize::from(!kept.held.is_empty());
            self.dirty.insert(id);
            self.rows.insert(id, Box::new(kept));
        }
        for (instance, rows) in instances {
            let Instance { unit, path, .. } = instance;
            self.instances.insert(path, OfInstance { unit, rows, has_ended: false });
        }
    }

    /// Keeps the rows that patterns make of an instance; none for one that only reaches levels without a map.
    pub(super) fn insert_instance(&mut self, instance: &Instance, rows: Vec<Row>) -> Vec<RowId> {
        let rows: Vec<RowId> = rows.into_iter().map(|row| self.keep(row, false)).collect();
        let of = OfInstance { unit: instance.unit.clone(), rows: rows.clone(), has_ended: false };
        self.instances.insert(instance.path.clone(), of);
        rows
    }

    /// Notes whether an instance is there. What is gone is forgotten once the kernel holds nothing of it.
    pub(super) fn instance_seen(&mut self, path: &CgroupPath, exists: bool) {
        if let Some(instance) = self.instances.get_mut(path) {
            instance.has_ended = !exists;
            self.forget_if_over(path);
        }
    }

    /// What makes the kernel right about all rows that may be wrong.
    pub(super) fn plan(&mut self, seen: &Seen) -> Commit {
        let mut commit = Commit::default();
        for id in std::mem::take(&mut self.dirty) {
            if let Some(row) = self.rows.get_mut(&id) {
                row.plan(id, seen, &mut commit);
            }
        }
        commit
    }

    /// Notes what became of a row's element.
    pub(super) fn note(&mut self, id: RowId, outcome: Outcome) {
        let Some(row) = self.rows.get_mut(&id) else { return };
        self.held -= usize::from(!row.held.is_empty());
        row.note(outcome);
        self.held += usize::from(!row.held.is_empty());
        if outcome != Outcome::Failed {
            self.dirty.insert(id);
        }
        let is_over = !row.is_named && row.conditions.is_empty() && row.is_gone();
        match row.element.key.clone() {
            Key::Cgroup(path) => self.forget_if_over(&path),
            Key::Everything if is_over => self.remove(id, &[]),
            Key::Everything => {}
        }
    }

    /// Forgets an instance that is gone and of which the kernel holds nothing any more.
    fn forget_if_over(&mut self, path: &CgroupPath) {
        let Some(instance) = self.instances.get(path).filter(|instance| instance.has_ended) else { return };
        let is_over = |id: &RowId| self.rows.get(id).is_none_or(|row| row.is_gate() || row.is_gone());
        if instance.rows.iter().all(is_over)
            && let Some(OfInstance { unit, rows, .. }) = self.instances.remove(path)
        {
            let own: Vec<RowId> = rows.iter().filter(|id| !self.stays(**id)).copied().collect();
            self.forget_path(path, &own);
            let conditions = [Condition::Cgroup(path.clone()), Condition::UsersUnit(path.clone(), unit)];
            rows.into_iter().for_each(|row| self.remove(row, &conditions));
        }
    }

    /// Whether a row depends on its cgroup whatever becomes of instances.
    fn stays(&self, id: RowId) -> bool {
        self.rows.get(&id).is_some_and(|row| row.is_named && !row.is_gate())
    }

    /// Takes what depends on an instance out of a row's conditions, and the row away if it has no others.
    fn remove(&mut self, id: RowId, conditions: &[Condition]) {
        if self.stays(id) {
            return;
        }
        let Some(row) = self.rows.get_mut(&id) else { return };
        for condition in conditions {
            row.conditions.remove(condition);
        }
        if row.is_named || !row.conditions.is_empty() || !row.is_gone() {
            self.dirty.insert(id);
            return;
        }
        self.by_element.remove(&row.element);
        self.rows.remove(&id);
        self.dirty.remove(&id);
    }

    /// Forgets a path, unless more than these rows depend on it: a rule that names it.
    fn forget_path(&mut self, path: &CgroupPath, rows: &[RowId]) {
        let Some(others) = self.by_path.get_mut(path) else { return };
        rows.iter().for_each(|id| others.remove(id));
        if !others.is_empty() {
            return;
        }
        self.by_path.remove(path);
        let units = rows.iter().filter_map(|id| Some(self.rows.get(id)?.unit.clone()));
        let names = path.components().map(|name| UnitName(name.into()));
        for unit in names.chain(units) {
            if let Some(paths) = self.paths_of.get_mut(&unit) {
                paths.remove(path);
                if paths.is_empty() {
                    self.paths_of.remove(&unit);
                }
            }
        }
    }
}
