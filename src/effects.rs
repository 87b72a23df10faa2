//! What the engine wants done to the kernel's nftables, done; and what became of it.

use std::io;

use crate::{
    dispatch,
    engine::{Add, Commit, Delete},
    model::{CgroupId, CgroupPath, Outcome, RowId},
    nft::{ElementChange, Kernel, is_passing, words_of},
};

/// Looks at a cgroup.
pub type Look<'a> = &'a dyn Fn(&CgroupPath) -> Option<CgroupId>;

/// What became of a commit.
#[derive(Debug, Default)]
pub struct Done {
    /// Of each element, by its row.
    pub outcomes: Vec<(RowId, Outcome)>,
    /// What was not done, and why: a refusal stands, what is passing is to be tried again.
    pub failures: Vec<Failed>,
}

/// An element that could not be added or deleted.
#[derive(Debug)]
pub struct Failed {
    /// Its row.
    pub row: RowId,
    /// The kernel's words.
    pub words: String,
    /// Whether it may succeed in a moment.
    pub passing: bool,
}

/// Carries a commit out: additions first, they are what somebody waits for.
pub fn commit(kernel: &mut dyn Kernel, commit: &Commit, look: Look<'_>) -> Done {
    let mut done = Done::default();
    let (by_words, by_id): (Vec<&Add>, Vec<&Add>) =
        commit.add.iter().partition(|add| kernel.needs_words(&add.element));
    let changes: Vec<(RowId, ElementChange<'_>)> =
        by_id.into_iter().map(|add| (add.row, addition(add))).collect();
    done.change(kernel, &changes);
    by_words.into_iter().for_each(|add| done.add_by_words(kernel, add, look));
    let changes: Vec<(RowId, ElementChange<'_>)> =
        commit.delete.iter().map(|delete| (delete.row, deletion(delete))).collect();
    done.change(kernel, &changes);
    done
}

fn addition(add: &Add) -> ElementChange<'_> {
    ElementChange::Add { set: &add.element.set, id: add.id, data: add.element.data.as_ref() }
}

fn deletion(delete: &Delete) -> ElementChange<'_> {
    ElementChange::Delete { set: &delete.set, id: delete.id }
}

impl Done {
    /// Makes changes in one transaction; when the kernel refuses it, in smaller ones until the culprits are found.
    fn change(&mut self, kernel: &mut dyn Kernel, changes: &[(RowId, ElementChange<'_>)]) {
        if changes.is_empty() {
            return;
        }
        let all: Vec<ElementChange<'_>> = changes.iter().map(|(_, change)| *change).collect();
        match kernel.change(&all) {
            Ok(()) => self.outcomes.extend(changes.iter().map(|(row, change)| (*row, change.done()))),
            Err(error) if is_passing(&error) => {
                changes.iter().for_each(|(row, _)| self.fail(*row, words_of(&error), true));
            }
            Err(error) => match changes {
                // Somebody took our set away. The news of it leads to a load, which puts everything back.
                [(row, change)] if change.is_for_a_lost_set(&error) => {
                    self.fail(*row, words_of(&error), true)
                }
                [(row, change)] if change.is_done_already(&error) => {
                    self.outcomes.push((*row, change.done()))
                }
                [(row, _)] => self.fail(*row, words_of(&error), false),
                _ => {
                    let (first, second) = changes.split_at(changes.len() / 2);
                    self.change(kernel, first);
                    self.change(kernel, second);
                }
            },
        }
    }

    fn fail(&mut self, row: RowId, words: String, passing: bool) {
        self.outcomes.push((row, if passing { Outcome::Failed } else { Outcome::Refused }));
        self.failures.push(Failed { row, words, passing });
    }

    /// Adds an element whose value only libnftables can read. It looks the path up by itself, so the id is what it should
    /// be only if it is the same before and after; ids are not reused.
    fn add_by_words(&mut self, kernel: &mut dyn Kernel, add: &Add, look: Look<'_>) {
        let path = add.element.key.cgroup();
        if path.and_then(look) != add.id {
            self.outcomes.push((add.row, Outcome::Vanished));
            return;
        }
        let set = &add.element.set;
        let before = kernel.elements(set).unwrap_or_default();
        match kernel.run(&dispatch::element(&add.element), false) {
            Ok(()) if path.and_then(look) == add.id => self.outcomes.push((add.row, Outcome::Added(add.id))),
            Ok(()) => {
                // It may be of a cgroup that came and went in between.
                let after = kernel.elements(set).unwrap_or_default();
                for id in after.into_keys().filter(|id| !before.contains_key(id)) {
                    let _ = kernel.change(&[ElementChange::Delete { set, id: Some(id) }]);
                }
                self.outcomes.push((add.row, Outcome::Vanished));
            }
            Err(_) if path.and_then(look) != add.id => self.outcomes.push((add.row, Outcome::Vanished)),
            Err(complaints) => {
                let passing = complaints.iter().any(|complaint| complaint.is_passing());
                let words: Vec<&str> = complaints.iter().map(|complaint| complaint.words.as_str()).collect();
                self.fail(add.row, words.join("; "), passing);
            }
        }
    }
}

impl ElementChange<'_> {
    fn done(&self) -> Outcome {
        match self {
            Self::Add { id, .. } => Outcome::Added(*id),
            Self::Delete { id, .. } => Outcome::Deleted(*id),
        }
    }

    fn is_for_a_lost_set(&self, error: &io::Error) -> bool {
        matches!(self, Self::Add { set, .. } if set.is_ours()) && error.kind() == io::ErrorKind::NotFound
    }

    /// What is to be deleted and is gone, is deleted.
    fn is_done_already(&self, error: &io::Error) -> bool {
        matches!(self, Self::Delete { .. }) && error.kind() == io::ErrorKind::NotFound
    }
}
