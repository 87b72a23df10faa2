//! One element: when it is due, and what of it is in the kernel.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Seen,
    action::{Add, Commit, Delete},
    few::Few,
};
use crate::model::{
    AnnotationId, CgroupId, CgroupPath, Condition, Element, Key, Outcome, Row, RowId, UnitName,
};

/// A row that is kept: with its conditions and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The element. Rows for one element are kept as one.
    pub element: Arc<Element>,
    /// It is due if any of them holds.
    pub conditions: Few<Condition>,
    /// The unit of the first row: news of it is a reason to look.
    pub unit: UnitName,
    /// The annotations that ask for it.
    pub annotations: Few<AnnotationId>,
    /// Whether it is known ahead; others go with the instances that they are for.
    pub is_named: bool,
    /// What the kernel holds of it: ids of cgroups, or the element of a gate (`None`).
    pub held: Few<Option<CgroupId>>,
    /// What the kernel refused; not tried again before something else is wanted.
    refused: Option<Wanted>,
    /// Whether a commit of it is under way, and what that adds.
    busy: Option<Wanted>,
    /// How often in a row the kernel could not do it.
    pub(super) failures: u32,
}

/// What should be in the kernel of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Wanted {
    Nothing,
    /// The element of this cgroup, or that of a gate.
    Element(Option<CgroupId>),
}

impl Kept {
    pub(super) fn new(element: Arc<Element>, unit: UnitName) -> Self {
        Self {
            element,
            conditions: Few::default(),
            unit,
            annotations: Few::default(),
            is_named: false,
            held: Few::default(),
            refused: None,
            busy: None,
            failures: 0,
        }
    }

    /// Takes in one more row for its element.
    pub(super) fn join(&mut self, row: Row) {
        self.conditions.insert(row.condition);
        row.annotations.into_iter().for_each(|id| self.annotations.insert(id));
    }

    fn wanted(&self, seen: &Seen) -> Wanted {
        let exists = |path: &CgroupPath| seen.cgroups.contains_key(path);
        let state = |unit: &UnitName| seen.units.get(unit).copied();
        let holds = |condition: &Condition| condition.holds(exists, state);
        if !self.conditions.iter().any(holds) {
            return Wanted::Nothing;
        }
        match &self.element.key {
            Key::Everything => Wanted::Element(None),
            Key::Cgroup(path) => match seen.cgroups.get(path) {
                Some(id) => Wanted::Element(Some(*id)),
                None => Wanted::Nothing,
            },
        }
    }

    /// Adds to a commit what makes the kernel right about this element.
    pub(super) fn plan(&mut self, row: RowId, seen: &Seen, commit: &mut Commit) {
        if self.busy.is_some() {
            return;
        }
        let wanted = self.wanted(seen);
        self.refused = self.refused.filter(|refused| *refused == wanted);
        if let Wanted::Element(id) = wanted
            && !self.held.contains(&id)
            && self.refused.is_none()
        {
            commit.add.push(Add { row, element: self.element.clone(), id });
            self.busy = Some(wanted);
        }
        for id in self.held.iter().filter(|id| wanted != Wanted::Element(**id)) {
            commit.delete.push(Delete { row, set: self.element.set.clone(), id: *id });
            self.busy = Some(wanted);
        }
        if self.busy.is_none() {
            self.failures = 0;
        }
    }

    /// Notes what became of a commit.
    pub(super) fn note(&mut self, outcome: Outcome) {
        let tried = self.busy.take();
        match outcome {
            Outcome::Added(id) => self.held.insert(id),
            Outcome::Deleted(id) => self.held.remove(&id),
            Outcome::Refused => self.refused = tried,
            Outcome::Failed => self.failures = self.failures.saturating_add(1),
            Outcome::Vanished => {}
        }
    }

    /// The id of the element that should be in the kernel, none for that of a gate; none at all if nothing should.
    pub(super) fn due(&self, seen: &Seen) -> Option<Option<CgroupId>> {
        if let Wanted::Element(id) = self.wanted(seen) { Some(id) } else { None }
    }

    /// Whether the kernel refused what was wanted last.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Whether the kernel could not do the last change of it.
    pub fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether it is the one element of a gate.
    pub(super) fn is_gate(&self) -> bool {
        self.element.key == Key::Everything
    }

    /// Whether the kernel holds nothing of it, and is not being told to.
    pub(super) fn is_gone(&self) -> bool {
        self.held.is_empty() && self.busy.is_none()
    }
}
