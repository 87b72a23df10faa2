//! What the engine wants done to the kernel's nftables, done; and what became of it.

use std::io::ErrorKind;

use crate::{
    dispatch,
    engine::{Add, Commit, Delete},
    model::{CgroupId, CgroupPath, Outcome, RowId},
    nft::{Complaint, ElementChange, Kernel, complaint, is_passing, words_of},
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
    let additions = by_id.into_iter().map(|Add { row, element, id }| {
        (*row, ElementChange::Add { set: &element.set, id: *id, data: element.data.as_ref() })
    });
    done.change(kernel, &additions.collect::<Vec<_>>());
    by_words.into_iter().for_each(|add| done.add_by_words(kernel, add, look));
    let deletions = commit.delete.iter();
    let deletions = deletions.map(|Delete { row, set, id }| (*row, ElementChange::Delete { set, id: *id }));
    done.change(kernel, &deletions.collect::<Vec<_>>());
    done
}

impl Done {
    /// Makes changes in one transaction; when the kernel refuses it, in smaller ones until the culprits are found.
    fn change(&mut self, kernel: &mut dyn Kernel, changes: &[(RowId, ElementChange<'_>)]) {
        if changes.is_empty() {
            return;
        }
        let all: Vec<ElementChange<'_>> = changes.iter().map(|(_, change)| *change).collect();
        match (kernel.change(&all), changes) {
            (Ok(()), _) => self.outcomes.extend(changes.iter().map(|(row, change)| (*row, change.done()))),
            (Err(error), _) if is_passing(&error) => {
                changes.iter().for_each(|(row, _)| self.fail(*row, words_of(&error), true));
            }
            (Err(error), [(row, change)]) => match change {
                // Somebody took our set away. The news of it leads to a load, which puts everything back.
                ElementChange::Add { set, .. } if set.is_ours() && error.kind() == ErrorKind::NotFound => {
                    self.fail(*row, words_of(&error), true);
                }
                // What is to be deleted and is gone, is deleted.
                ElementChange::Delete { .. } if error.kind() == ErrorKind::NotFound => {
                    self.outcomes.push((*row, change.done()));
                }
                _ => self.fail(*row, words_of(&error), false),
            },
            (Err(_), _) => {
                let (first, second) = changes.split_at(changes.len() / 2);
                self.change(kernel, first);
                self.change(kernel, second);
            }
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
        let is_same = || path.and_then(look) == add.id;
        if !is_same() {
            self.outcomes.push((add.row, Outcome::Vanished));
            return;
        }
        let set = &add.element.set;
        let before = kernel.elements(set).unwrap_or_default();
        match (kernel.run(&dispatch::element(&add.element), false), is_same()) {
            (Ok(()), true) => self.outcomes.push((add.row, Outcome::Added(add.id))),
            (Err(complaints), true) => {
                let passing = complaints.iter().any(Complaint::is_passing);
                self.fail(add.row, complaint::words(&complaints), passing);
            }
            (Err(_), false) => self.outcomes.push((add.row, Outcome::Vanished)),
            (Ok(()), false) => {
                // It may be of a cgroup that came and went in between.
                let after = kernel.elements(set).unwrap_or_default();
                for id in after.into_keys().filter(|id| !before.contains_key(id)) {
                    let _ = kernel.change(&[ElementChange::Delete { set, id: Some(id) }]);
                }
                self.outcomes.push((add.row, Outcome::Vanished));
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
}
