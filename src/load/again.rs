//! The same once more, without nft: what a load made goes into the kernel again as the kernel itself told it.
//!
//! For a ruleset that was flushed and loaded again, which is then whole again in a fraction of the time. It is right
//! because nothing is left to nft's judgement: the policy is the same; nothing of ours is in the kernel; the tables, chains,
//! sets and objects that nft could look at are what they were when it judged; and the kernel itself takes it only while that
//! is still so. Anything else is a load like any other.
//!
//! Elements are those of now, by the ids of their cgroups, which are never used again: that of a cgroup which is gone by then
//! matches nothing, and goes as soon as that is heard of.

use std::collections::BTreeSet;

use super::{Attempt, Blamed, Levels, Load, Loaded, Marked, levels};
use crate::{
    dispatch::{self, Pattern},
    gather::Gather,
    model::{Data, Element, Instance, Row, SetRef, TableRef},
    nft::{ElementChange, Kernel, Recording, Surroundings},
    policy::{Annotation, Part, Placement, Policy, Statement},
    units::selector::Users,
};

/// What a load made of a policy, and what it depended on.
#[derive(Debug)]
pub struct Again {
    recording: Recording,
    surroundings: Surroundings,
    levels: Levels,
    rows: Vec<Row>,
    patterns: Vec<Pattern>,
}

impl Again {
    /// Keeps what was recorded of a load, and what was around it then; nothing if that is not all, or if nft would not make
    /// the same of it each time.
    pub fn of(
        policy: &Policy,
        (instances, users): (&[Instance], &Users),
        loaded: &Loaded,
        recording: Recording,
        surroundings: Surroundings,
    ) -> Option<Self> {
        let is_whole = loaded.refusals.is_empty()
            && !loaded.unfinished
            && recording.objects == loaded.objects
            && surroundings.is_small();
        let mut data = loaded.rows.iter().map(|row| &row.element.data);
        // Others are in words that only nft knows.
        let are_verdicts = data.all(|data| !matches!(data, Some(Data::Value(_))));
        (is_whole && is_repeatable(policy) && are_verdicts).then(|| Self {
            recording,
            surroundings,
            levels: levels(policy, instances, users),
            rows: loaded.rows.clone(),
            patterns: loaded.patterns.clone(),
        })
    }

    /// Whether this is what was recorded.
    pub fn is_same(&self, recording: &Recording) -> bool {
        self.recording == *recording
    }
}

impl Load<'_> {
    /// Does what was done before, if this is the same load and the kernel is as it was before that. None if not, or if the
    /// kernel refuses it; nothing is changed then.
    pub fn repeat(&self, kernel: &mut dyn Kernel, again: &Again) -> Option<Loaded> {
        if self.flush || levels(self.policy, self.instances, self.users) != again.levels {
            return None;
        }
        let (generation, surroundings) = kernel.surroundings(&tables(self.policy)).ok()?;
        let has_mark =
            |set: &SetRef| kernel.elements(set).map_or(true, |ids| ids.into_values().any(|mark| mark));
        if !surroundings.are_as_before(&again.surroundings)
            || dispatch::hosting(self.policy).1.iter().any(has_mark)
        {
            return None;
        }
        let (mut rows, patterns) = (again.rows.clone(), again.patterns.clone());
        let instances = self.add_instances(&mut rows, &patterns);
        let due = self.due(&rows, &Blamed::default());
        let elements = || due.iter().map(|(number, id)| (&*rows[*number].element, *id));
        let mut sets = BTreeSet::new();
        if elements().any(|(element, _)| sets.insert(&element.set) && kernel.needs_words(element)) {
            return None;
        }
        let additions: Vec<ElementChange<'_>> = elements()
            .map(|(Element { set, data, .. }, id)| ElementChange::Add { set, id, data: data.as_ref() })
            .collect();
        kernel.repeat(generation, &again.recording, &additions).ok()?;
        let attempt =
            Attempt { objects: again.recording.objects, patterns, rows, instances, ..Attempt::default() };
        let unfinished = !self.sweep(kernel, &attempt, &due, &Marked::new());
        Some(Loaded { unfinished, is_repeated: true, ..attempt.loaded(due, Blamed::default()) })
    }
}

/// Whether nft makes the same of a policy each time, as long as nothing else has changed.
pub fn is_repeatable(policy: &Policy) -> bool {
    policy.host_names().is_empty() && policy.iter().all(|(_, annotation)| is_constant(annotation))
}

/// The tables that a policy names.
pub fn tables(policy: &Policy) -> BTreeSet<TableRef> {
    policy.iter().map(|(_, annotation)| annotation.statement.table().clone()).gather()
}

/// Whether its rule stands at an end of its chain, has no end in time, and its counters and quotas begin with nothing.
fn is_constant(annotation: &Annotation) -> bool {
    if annotation.left.is_some() || annotation.is_record() {
        return false;
    }
    let Statement::Rule(rule) = &annotation.statement else { return true };
    let words: Vec<&str> = rule.body.iter().filter_map(Part::token).map(|token| &*token.text).collect();
    !matches!(rule.placement, Placement::Explicit(..))
        && !words.contains(&"used")
        && !words.windows(2).any(|pair| pair == ["counter", "packets"])
}
