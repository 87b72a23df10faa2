//! One element: when it is due, and what of it is in the kernel.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{action::Commit, event::Outcome};
use crate::model::{Binding, CgroupId, CgroupPath, Condition, Key, UnitName, UnitOf};

/// What the world outside the kernel's nftables looks like.
pub(super) trait World {
    /// A cgroup's id, if it exists.
    fn cgroup(&self, path: &CgroupPath) -> Option<CgroupId>;
    /// Whether a unit is active.
    fn active(&self, unit: &UnitName, of: UnitOf) -> bool;
}

/// An element with its conditions and its state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Slot {
    /// The element; of several bindings for one element, the first.
    pub(super) binding: Binding,
    /// It is due if any of them holds.
    pub(super) conditions: Vec<Condition>,
    /// The ids that the kernel holds for it, as far as is known.
    pub(super) held: BTreeSet<CgroupId>,
    /// Whether the kernel holds it, for a gate.
    pub(super) open: bool,
    /// What was last asked of the kernel.
    tried: Wanted,
    /// What nft refused; not tried again before something else is wanted.
    refused: Option<Wanted>,
    /// Whether a commit of it is under way.
    pub(super) busy: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Wanted {
    Nothing,
    Id(CgroupId),
    Open,
}

impl Slot {
    pub(super) fn new(binding: Binding) -> Self {
        Self {
            binding,
            conditions: Vec::new(),
            held: BTreeSet::new(),
            open: false,
            tried: Wanted::Nothing,
            refused: None,
            busy: false,
        }
    }

    fn wanted(&self, world: &impl World) -> Wanted {
        let holds = |condition: &Condition| {
            condition.holds(|path| world.cgroup(path).is_some(), |unit, of| world.active(unit, of))
        };
        if !self.conditions.iter().any(holds) {
            return Wanted::Nothing;
        }
        match &self.binding.element.key {
            Key::Everything => Wanted::Open,
            Key::Cgroup(path) => world.cgroup(path).map_or(Wanted::Nothing, Wanted::Id),
        }
    }

    /// Adds to a commit what makes the kernel right about this element.
    pub(super) fn plan(&mut self, world: &impl World, commit: &mut Commit) {
        if self.busy {
            return;
        }
        let wanted = self.wanted(world);
        self.refused = self.refused.filter(|refused| *refused == wanted);
        self.tried = wanted;
        let missing = match wanted {
            Wanted::Nothing => false,
            Wanted::Id(id) => !self.held.contains(&id),
            Wanted::Open => !self.open,
        };
        if missing && self.refused.is_none() {
            commit.add.push(self.binding.clone());
            self.busy = true;
        }
        if self.open && wanted == Wanted::Nothing {
            commit.close.push(self.binding.clone());
            self.busy = true;
        }
        for id in self.held.iter().filter(|id| wanted != Wanted::Id(**id)) {
            commit.delete.push((self.binding.clone(), *id));
            self.busy = true;
        }
    }

    /// Notes what became of a commit; whether the kernel may hold ids of it that are not known.
    pub(super) fn note(&mut self, outcome: &Outcome) -> bool {
        self.busy = false;
        match outcome {
            Outcome::Added { before, after } => {
                self.held.extend(before);
                return before.is_none() || before != after;
            }
            Outcome::Refused => self.refused = Some(self.tried),
            Outcome::Deleted(id) => {
                self.held.remove(id);
            }
            Outcome::Opened => self.open = true,
            Outcome::Closed => self.open = false,
            Outcome::Vanished | Outcome::Failed => {}
        }
        false
    }

    /// Whether it is the one element of a gate.
    pub(super) fn is_gate(&self) -> bool {
        self.binding.element.key == Key::Everything
    }

    /// Whether the kernel holds anything of it.
    pub(super) fn is_held(&self) -> bool {
        self.open || !self.held.is_empty()
    }
}
