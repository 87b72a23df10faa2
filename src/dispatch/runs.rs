//! Rules of a chain to runs: as many neighbours as one look-up per level can serve without changing what the rules do.
//!
//! A packet is in one cgroup a level. So rules share a run if they are about the same cgroups, or about cgroups of which
//! no packet can be in two.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Levels,
    form::{Due, Form, Match, form, may_be_repeated, verdict},
};
use crate::{
    model::{AnnotationId, CgroupPath, Data, Instance, UnitName},
    policy::{Annotation, Part, RuleStatement},
    text::Token,
    units::selector::Selectors,
};

/// A body whose matches may be taken out without joining what stood on both sides.
pub(super) fn apart(mut body: Vec<Part>) -> Vec<Part> {
    let mut after_match = true;
    for part in &mut body {
        match part {
            Part::Verbatim(token) => {
                token.spaced |= after_match;
                after_match = false;
            }
            Part::Cgroup(_) | Part::Units(_) => after_match = true,
        }
    }
    body
}

pub(super) struct Rule<'a> {
    pub(super) id: AnnotationId,
    pub(super) annotation: &'a Annotation,
    pub(super) statement: &'a RuleStatement,
    pub(super) body: Vec<Part>,
}

/// One rule's share of a run: its match and the rest of it.
pub(super) struct Mapped<'a> {
    pub(super) rule: &'a Rule<'a>,
    pub(super) cgroup: Match<'a>,
    pub(super) rest: Vec<&'a Token>,
}

/// Rules of the same cgroups within a run, in order.
pub(super) struct Group<'a> {
    pub(super) whose: Whose<'a>,
    pub(super) rules: Vec<Mapped<'a>>,
}

/// The cgroups that a match is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose<'a> {
    Paths(BTreeSet<&'a CgroupPath>),
    Units(&'a Selectors),
}

pub(super) enum Step<'a> {
    Run { levels: BTreeSet<u32>, groups: Vec<Group<'a>>, known: BTreeMap<Known, usize> },
    InPlace { rule: &'a Rule<'a>, due: Due },
}

/// What is known of the cgroups of a group in a run, to find the group by.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Known {
    /// A path that is named.
    Path(CgroupPath),
    /// The unit whose cgroup a path that is named would be.
    UnitOfPath(UnitName),
    /// A unit that is selected by its name.
    Unit(UnitName),
}

impl<'a> Mapped<'a> {
    /// Whose cgroups it is for, and at which levels they are.
    fn whose(&self, levels: &Levels) -> (Whose<'a>, BTreeSet<u32>) {
        let selectors = &self.rule.annotation.selectors;
        match self.cgroup {
            Match::Paths(cgroup) => {
                (Whose::Paths(cgroup.paths.iter().map(|(path, _)| path).collect()), [cgroup.level].into())
            }
            Match::Units(_) => (Whose::Units(selectors), levels_of(selectors, levels)),
        }
    }
}

impl Whose<'_> {
    /// Whether other units may be below what is meant.
    pub(super) fn may_hold_others(&self) -> bool {
        // Paths that are named are all at one level.
        matches!(self, Self::Units(selectors) if selectors.may_hold_others())
    }

    /// Whether it may share a run of these levels with other groups: a packet must be in one of them at most.
    fn may_share(&self, levels: &BTreeSet<u32>) -> bool {
        let is_unknown = matches!(self, Self::Units(selectors) if selectors.only_names().is_none());
        !is_unknown && (levels.len() == 1 || !self.may_hold_others())
    }

    /// What a group that is found by it may have in common with this one (`of_others`), or what this one is found by.
    fn known(&self, of_others: bool) -> Vec<Known> {
        match self {
            Self::Paths(paths) => {
                let of_path = |path: &&CgroupPath| {
                    let unit = Instance::of(path).map(|instance| instance.unit);
                    let unit = unit.map(if of_others { Known::Unit } else { Known::UnitOfPath });
                    [Some(Known::Path((*path).clone())), unit]
                };
                paths.iter().flat_map(of_path).flatten().collect()
            }
            Self::Units(selectors) => {
                let names = || selectors.only_names().unwrap_or_default().into_iter().cloned();
                let of_paths = names().filter(|_| of_others).map(Known::UnitOfPath);
                names().map(Known::Unit).chain(of_paths).collect()
            }
        }
    }
}

pub(super) fn levels_of(selectors: &Selectors, levels: &Levels) -> BTreeSet<u32> {
    selectors.levels().into_iter().chain(levels.get(selectors).into_iter().flatten().copied()).collect()
}

impl<'a> Group<'a> {
    pub(super) fn ids(&self) -> Vec<AnnotationId> {
        self.rules.iter().map(|mapped| mapped.rule.id).collect()
    }

    pub(super) fn verdict(&self) -> Option<Data> {
        match &self.rules[..] {
            [only] => verdict(&only.rest),
            _ => None,
        }
    }

    /// Whether it makes a difference that a packet goes through the rules twice, since two of its cgroups are selected.
    pub(super) fn needs_guard(&self) -> bool {
        self.whose.may_hold_others()
            && self.verdict().is_none()
            && !self.rules.iter().all(|mapped| may_be_repeated(&mapped.rest))
    }
}

/// Rules in their order, as runs as long as can be.
pub(super) fn steps<'a>(rules: impl IntoIterator<Item = &'a Rule<'a>>, levels: &Levels) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    for rule in rules {
        match form(&rule.body) {
            Form::InPlace(due) => steps.push(Step::InPlace { rule, due }),
            Form::Mapped { cgroup, rest } => join(&mut steps, Mapped { rule, cgroup, rest }, levels),
        }
    }
    steps
}

fn join<'a>(steps: &mut Vec<Step<'a>>, mapped: Mapped<'a>, levels: &Levels) {
    let (whose, levels) = mapped.whose(levels);
    if let Some(Step::Run { levels: same, groups, known }) = steps.last_mut()
        && *same == levels
    {
        let returns = |mapped: &Mapped<'_>| verdict(&mapped.rest) == Some(Data::Return);
        let common = || whose.known(true).iter().find_map(|one| known.get(one).copied());
        match if groups[0].whose == whose { Some(0) } else { common() } {
            None if whose.may_share(&levels) && groups[0].whose.may_share(&levels) => {
                known.extend(whose.known(false).into_iter().map(|one| (one, groups.len())));
                return groups.push(Group { whose, rules: vec![mapped] });
            }
            Some(number)
                // A `return` that a chain of ours calls would be none: it must be the only rule of its group.
                if groups[number].whose == whose
                    && !groups[number].rules.iter().chain([&mapped]).any(returns) =>
            {
                return groups[number].rules.push(mapped);
            }
            _ => {}
        }
    }
    let known = whose.known(false).into_iter().map(|one| (one, 0)).collect();
    steps.push(Step::Run { levels, groups: vec![Group { whose, rules: vec![mapped] }], known });
}
