//! Rules of a chain to runs: as many neighbours as one look-up per level can serve without changing what the rules do.
//!
//! A packet is in one cgroup a level. So rules share a run if they are about the same cgroups, or about cgroups of which
//! no packet can be in two, or can be in two at different levels only, and does the same there whichever comes first.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Levels,
    form::{Due, Form, Match, form, may_be_repeated, outcome, verdict},
};
use crate::{
    gather::Gather,
    model::{AnnotationId, CgroupPath, Data, Instance, UnitName},
    policy::{Annotation, Part, RuleStatement},
    text::Token,
    units::escape::escape,
    units::selector::{Selectors, Which, app_family, app_family_of_unit},
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
            Part::Cgroup(_) | Part::Units(_) | Part::Record(_) => after_match = true,
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
    Run { levels: Vec<u32>, groups: Vec<Group<'a>>, known: BTreeMap<Known, usize>, mixed: Mixed },
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
    /// The family of the application that a unit or a path is of.
    FamilyOf(String),
    /// The family of an application that is selected.
    Family(String),
    /// What the names have in common that a glob is for.
    Beginning(String),
}

/// Groups of one kind can tell what cgroups they have in common.
#[derive(PartialEq, Eq)]
enum Kind {
    /// Of paths, names and applications.
    Named,
    /// Of one glob.
    Glob,
}

/// What is to be known of a run's rules where a packet may be in cgroups of two groups, at different levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mixed {
    /// Whether there may be such packets.
    may_hold_others: bool,
    /// What all rules do, if it is the same and nothing else.
    outcome: Option<String>,
}

impl Mixed {
    fn of(whose: &Whose<'_>, rest: &[&Token]) -> Self {
        Self { may_hold_others: whose.may_hold_others(), outcome: outcome(rest) }
    }

    fn and(&self, other: &Self) -> Self {
        let outcome = self.outcome.clone().filter(|_| self.outcome == other.outcome);
        Self { may_hold_others: self.may_hold_others || other.may_hold_others, outcome }
    }

    /// Whether it makes no difference which of two groups comes first, at these levels.
    fn is_in_any_order(&self, levels: &[u32]) -> bool {
        levels.len() == 1 || !self.may_hold_others || self.outcome.is_some()
    }
}

impl<'a> Mapped<'a> {
    /// Whose cgroups it is for, and at which levels they are.
    fn whose(&self, levels: &Levels) -> (Whose<'a>, Vec<u32>) {
        let selectors = &self.rule.annotation.selectors;
        match self.cgroup {
            Match::Paths(cgroup) => {
                (Whose::Paths(cgroup.paths.iter().map(|(path, _)| path).gather()), [cgroup.level].into())
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

    /// None if it is not known which cgroups it has in common with others.
    fn kind(&self) -> Option<Kind> {
        let is_glob = |which: &Which| matches!(which, Which::Glob(_) | Which::Cage(_));
        match self {
            Self::Units(selectors) if selectors.0.iter().any(|one| is_glob(&one.which)) => {
                (selectors.0.len() == 1).then_some(Kind::Glob)
            }
            _ => Some(Kind::Named),
        }
    }

    /// A group of the same kind, among those of a run, that this one may have cgroups in common with; the one for the same
    /// cgroups, if there is any.
    fn common(&self, known: &BTreeMap<Known, usize>) -> Option<usize> {
        let own = self.known(true);
        let [Known::Beginning(beginning)] = &own[..] else {
            return own.iter().find_map(|one| known.get(one).copied());
        };
        // None of those that are known begins with another one.
        let shorter = known.range(..=&own[0]).next_back();
        let longer = known.range(&own[0]..).next();
        let is_common = |(other, _): &(&Known, &usize)| match other {
            Known::Beginning(other) => other.starts_with(beginning) || beginning.starts_with(other.as_str()),
            _ => false,
        };
        shorter.filter(is_common).or(longer.filter(is_common)).map(|(_, number)| *number)
    }

    /// What a group that is found by it may have in common with this one (`of_others`), or what this one is found by.
    fn known(&self, of_others: bool) -> Vec<Known> {
        let family = |unit: &UnitName| {
            app_family_of_unit(&unit.0).map(if of_others { Known::Family } else { Known::FamilyOf })
        };
        match self {
            Self::Paths(paths) => {
                let of_path = |path: &&CgroupPath| {
                    let unit = Instance::of(path).map(|instance| instance.unit);
                    let family = unit.as_ref().and_then(family);
                    let unit = unit.map(if of_others { Known::Unit } else { Known::UnitOfPath });
                    [Some(Known::Path((*path).clone())), unit, family]
                };
                paths.iter().flat_map(of_path).flatten().collect()
            }
            Self::Units(selectors) => {
                let of_which = |which: &Which| match which {
                    Which::Unit(name) => {
                        let of_path = Some(Known::UnitOfPath(name.clone())).filter(|_| of_others);
                        [Some(Known::Unit(name.clone())), of_path, family(name)]
                    }
                    Which::App(id) => {
                        let family = app_family(id);
                        let of_units = Some(Known::FamilyOf(family.clone())).filter(|_| of_others);
                        [Some(Known::Family(family)), of_units, None]
                    }
                    Which::Cage(id) => {
                        [Some(Known::Beginning(format!("cage-{}-", escape(id.as_bytes())))), None, None]
                    }
                    Which::Glob(glob) => {
                        let beginning = glob.split(['*', '?', '[']).next().unwrap_or_default();
                        [Some(Known::Beginning(beginning.to_owned())), None, None]
                    }
                };
                selectors.0.iter().flat_map(|selector| of_which(&selector.which)).flatten().collect()
            }
        }
    }
}

pub(super) fn levels_of(selectors: &Selectors, levels: &Levels) -> Vec<u32> {
    selectors.levels().into_iter().chain(levels.get(selectors).into_iter().flatten().copied()).gather()
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
            // It has an end of its own.
            _ if rule.annotation.left.is_some() => steps.push(Step::InPlace { rule, due: Due::Always }),
            Form::InPlace(due) => steps.push(Step::InPlace { rule, due }),
            Form::Mapped { cgroup, rest } => join(&mut steps, Mapped { rule, cgroup, rest }, levels),
        }
    }
    steps
}

fn join<'a>(steps: &mut Vec<Step<'a>>, mapped: Mapped<'a>, levels: &Levels) {
    let (whose, levels) = mapped.whose(levels);
    let own = Mixed::of(&whose, &mapped.rest);
    if let Some(Step::Run { levels: same, groups, known, mixed }) = steps.last_mut()
        && *same == levels
    {
        let both = mixed.and(&own);
        let returns = |mapped: &Mapped<'_>| verdict(&mapped.rest) == Some(Data::Return);
        let is_only = groups.len() == 1 && groups[0].whose == whose;
        match if groups[0].whose == whose { Some(0) } else { whose.common(known) } {
            _ if !is_only && !both.is_in_any_order(&levels) => {}
            None if whose.kind().is_some() && whose.kind() == groups[0].whose.kind() => {
                known.extend(whose.known(false).into_iter().map(|one| (one, groups.len())));
                *mixed = both;
                return groups.push(Group { whose, rules: vec![mapped] });
            }
            Some(number)
                // A `return` that a chain of ours calls would be none: it must be the only rule of its group.
                if groups[number].whose == whose
                    && !groups[number].rules.iter().chain([&mapped]).any(returns) =>
            {
                *mixed = both;
                return groups[number].rules.push(mapped);
            }
            _ => {}
        }
    }
    let known = whose.known(false).into_iter().map(|one| (one, 0)).gather();
    steps.push(Step::Run { levels, groups: vec![Group { whose, rules: vec![mapped] }], known, mixed: own });
}
