//! What a policy is made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{domains::Fill, hosts::HostMatch};
use crate::{
    gather::Gather,
    model::{AnnotationId, CgroupPath, ChainRef, Data, Instance, SetRef, TableRef, UnitName},
    text::{Code, FileId, SourceMap, Span, Token, diagnostic::Diagnostic},
    units::selector::{Selector, Selectors, Users, Which, Whose},
};

/// Everything that the files say.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The files.
    pub sources: SourceMap,
    /// The annotations that are well-formed, in the order in which nft would read them.
    pub annotations: Vec<Annotation>,
    /// The variables, in the same order.
    pub defines: Vec<Define>,
    /// What is wrong, in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
    /// What may be done without a warning.
    pub allows: Vec<Allow>,
    /// The sets that are filled with addresses of names.
    pub fills: Vec<Fill>,
    /// The annotations by where they begin.
    by_place: BTreeMap<(FileId, usize), AnnotationId>,
}

/// `# scnpm: allow(…)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// The file.
    pub file: FileId,
    /// The line that may do it (from 1); the whole of an annotation that begins there.
    pub line: usize,
    /// What.
    pub codes: BTreeSet<Code>,
}

impl Policy {
    /// An annotation with its id.
    pub fn annotation(&self, id: AnnotationId) -> &Annotation {
        &self.annotations[id.0]
    }

    /// Keeps an annotation.
    pub(super) fn add(&mut self, mut annotation: Annotation) {
        annotation.shrink(self.annotations.last());
        let begin = (annotation.span.file, annotation.span.start);
        self.by_place.insert(begin, AnnotationId(self.annotations.len()));
        self.annotations.push(annotation);
    }

    /// The annotation that a place is in.
    pub fn annotation_at(&self, place: Span) -> Option<AnnotationId> {
        let (_, id) = self.by_place.range(..=(place.file, place.start)).next_back()?;
        let span = self.annotation(*id).span;
        (span.file == place.file && place.start <= span.end).then_some(*id)
    }

    /// Whether a comment above the line or annotation of a warning says that it is meant so.
    pub fn allows(&self, diagnostic: &Diagnostic) -> bool {
        let begin =
            self.annotation_at(diagnostic.span).map_or(diagnostic.span, |id| self.annotation(id).unit_span);
        let line = self.sources.line_column(begin).0;
        self.allows.iter().any(|allow| {
            allow.file == begin.file && allow.line == line && allow.codes.contains(&diagnostic.code)
        })
    }

    /// Whether an annotation applies to a cgroup, or to one that it is in: it names it, or has no path and is for its unit.
    pub fn is_about(&self, id: AnnotationId, path: &CgroupPath, users: &Users) -> bool {
        let annotation = self.annotation(id);
        let mut paths = annotation.statement.paths().peekable();
        match paths.peek() {
            Some(_) => paths.any(|above| path.is_within(above)),
            None => path.prefixes().any(|prefix| {
                Instance::of(&prefix).is_some_and(|one| annotation.selectors.select(&one, users))
            }),
        }
    }

    /// The chains in which refusals are recorded, each with the directive that names it.
    pub fn records(&self) -> impl Iterator<Item = (AnnotationId, &ChainRef)> {
        let records = self.iter().filter(|(_, annotation)| annotation.is_record());
        records.filter_map(|(id, annotation)| Some((id, &annotation.rule()?.chain)))
    }

    /// The annotations that are about units.
    pub fn of_units(&self) -> impl Iterator<Item = &Annotation> {
        self.annotations.iter().filter(|annotation| !annotation.is_record())
    }

    /// The units that annotations apply to, and those that selectors name.
    pub fn units(&self) -> BTreeSet<UnitName> {
        let selectors = self.of_units().flat_map(|annotation| &annotation.selectors.0);
        let selected = selectors.filter_map(|selector| match &selector.which {
            Which::Unit(unit) => Some(unit.clone()),
            Which::Glob(_) | Which::App(_) | Which::Cage(_) => None,
        });
        self.of_units().map(|annotation| annotation.unit.clone()).chain(selected).gather()
    }

    /// What selects units that are not known ahead.
    pub fn followed(&self) -> BTreeSet<Selectors> {
        self.annotations.iter().filter_map(Annotation::followed).gather()
    }

    /// The users whom annotations name.
    pub fn user_names(&self) -> BTreeSet<&str> {
        self.annotations.iter().flat_map(|annotation| annotation.selectors.user_names()).gather()
    }

    /// The tokens of all annotations, as far as they are nft's business.
    pub fn tokens(&self) -> impl Iterator<Item = &Token> {
        let parts = self.annotations.iter().filter_map(Annotation::rule).flat_map(|rule| &rule.body);
        parts.filter_map(Part::token)
    }

    /// All annotations with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (AnnotationId, &Annotation)> {
        self.annotations.iter().enumerate().map(|(index, annotation)| (AnnotationId(index), annotation))
    }
}

/// A `define NAME = …` of the base file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Define {
    /// The variable's name, unique within the policy: a variable that is defined again gets a
    /// new name, and what follows refers to that.
    pub name: String,
    /// What stands right of the `=`. Variables in it are named uniquely too.
    pub value: Vec<Token>,
    /// Where the statement stands.
    pub span: Span,
}

/// `SELECTORS :: STATEMENT` in a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// The unit, or what else stands left of the `::`, as it is written.
    pub unit: UnitName,
    /// Which units that are.
    pub selectors: Selectors,
    /// Where its name stands.
    pub unit_span: Span,
    /// From the unit's name to the end of the statement.
    pub span: Span,
    /// Whether its packets are counted (`# scnpm: count`): a rule's only.
    pub is_counted: bool,
    /// Whether its units are to start when it is in force (`# scnpm: wait`).
    pub is_waited_for: bool,
    /// How long it still holds, if it is allowed for a while only.
    pub left: Option<Duration>,
    /// What is to be in force.
    pub statement: Statement,
}

/// What an annotation asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `add rule`, `insert rule`.
    Rule(RuleStatement),
    /// `add element`.
    Element(ElementStatement),
}

impl Statement {
    /// The table that it is for.
    pub fn table(&self) -> &TableRef {
        match self {
            Self::Rule(rule) => &rule.chain.table,
            Self::Element(element) => &element.set.table,
        }
    }
}

/// Where in its chain a rule goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// At the end: `add rule`.
    End,
    /// At the beginning: `insert rule`.
    Beginning,
    /// Where nft's `index N`, `handle N` or `position N` says: the verb (`add` or `insert`) and
    /// these two words.
    Explicit(String, Vec<Token>),
}

/// A rule, with the cgroup matches found in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleStatement {
    /// Where it goes.
    pub placement: Placement,
    /// The chain.
    pub chain: ChainRef,
    /// Where the chain is named, from the family on.
    pub chain_span: Span,
    /// The rule itself.
    pub body: Vec<Part>,
    /// What in it is compared with host names, in order.
    pub hosts: Vec<HostMatch>,
}

impl Annotation {
    /// Gives back what it does not need, and shares names within it and with the one before.
    fn shrink(&mut self, before: Option<&Self>) {
        for selector in &mut self.selectors.0 {
            if let Which::Unit(unit) = &mut selector.which
                && *unit == self.unit
            {
                *unit = self.unit.clone();
            }
        }
        self.selectors.0.shrink_to_fit();
        match &mut self.statement {
            Statement::Rule(rule) => {
                rule.body.shrink_to_fit();
                if let Some(Statement::Rule(last)) = before.map(|before| &before.statement)
                    && last.chain == rule.chain
                {
                    rule.chain = last.chain.clone();
                }
            }
            Statement::Element(element) => element.elements.shrink_to_fit(),
        }
    }

    /// The rule, if it is one.
    pub fn rule(&self) -> Option<&RuleStatement> {
        if let Statement::Rule(rule) = &self.statement { Some(rule) } else { None }
    }

    /// Whether it is no unit's, but the directive that has refusals recorded in a chain.
    pub fn is_record(&self) -> bool {
        self.rule().is_some_and(|rule| matches!(rule.body[..], [Part::Record(_)]))
    }

    /// Whether it is a rule with a cgroup match.
    pub fn matches_cgroup(&self) -> bool {
        self.rule().is_some_and(RuleStatement::matches_cgroup)
    }

    /// The unit, if it is the only one that is selected, by name, and none of a user's.
    pub fn only_unit(&self) -> Option<&UnitName> {
        match &self.selectors.0[..] {
            [Selector { whose: Whose::Anybody | Whose::System, which: Which::Unit(unit) }] => Some(unit),
            _ => None,
        }
    }

    /// What selects the users' units that a rule without a cgroup is about, besides the system's unit of that name: those of
    /// any user, where nobody's manager is named.
    pub fn users_units(&self) -> Option<Selectors> {
        let unit = self.only_unit().filter(|_| self.is_pathless() && self.selectors.is_bare())?;
        Some(Selectors(vec![Selector { whose: Whose::AnyUser, which: Which::Unit(unit.clone()) }]))
    }

    /// What selects its units, if they are not known ahead.
    pub fn followed(&self) -> Option<Selectors> {
        match self.units_match().is_some() || self.is_pathless() && self.only_unit().is_none() {
            true => Some(self.selectors.clone()),
            false => self.users_units(),
        }
    }

    /// Whether it is a rule that is in force while its units run, whatever their cgroups.
    fn is_pathless(&self) -> bool {
        self.rule().is_some_and(|rule| !rule.matches_cgroup())
    }

    /// Where the unit's name stands, without whose it is.
    pub fn name_span(&self) -> Span {
        let name = self.only_unit().map_or(self.unit.0.len(), |unit| unit.0.len());
        Span { start: self.unit_span.end.saturating_sub(name).max(self.unit_span.start), ..self.unit_span }
    }

    /// Each selector, and where it stands.
    pub fn selectors_with_spans(&self) -> impl Iterator<Item = (&Selector, Span)> {
        let written = &*self.unit.0;
        let span = move |piece: &str| {
            let piece = piece.trim();
            let start = self.unit_span.start + (piece.as_ptr().addr() - written.as_ptr().addr());
            Span { start, end: start + piece.len(), ..self.unit_span }
        };
        self.selectors.0.iter().zip(written.split(',').map(span))
    }

    /// Where `socket cgroupv2 unit` stands in it.
    pub fn units_match(&self) -> Option<Span> {
        self.rule()?.body.iter().find_map(Part::units)
    }
}

impl RuleStatement {
    fn matches_cgroup(&self) -> bool {
        self.body.iter().any(|part| part.token().is_none())
    }

    /// The paths of all its cgroup matches.
    pub fn paths(&self) -> impl Iterator<Item = &CgroupPath> {
        self.body.iter().filter_map(Part::cgroup).flat_map(|cgroup| &cgroup.paths).map(|(path, _)| path)
    }
}

/// A piece of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// nft's business.
    Verbatim(Token),
    /// `socket cgroupv2 level N …` with paths.
    Cgroup(Box<CgroupMatch>),
    /// `socket cgroupv2 unit`: the cgroups of the units that are selected, from `socket` to `unit`.
    Units(Span),
    /// All of a rule that records who is refused (`# scnpm: record refusals in CHAIN`).
    Record(Span),
}

impl Part {
    /// What is nft's business.
    pub fn token(&self) -> Option<&Token> {
        if let Self::Verbatim(token) = self { Some(token) } else { None }
    }

    /// A match with paths.
    pub fn cgroup(&self) -> Option<&CgroupMatch> {
        if let Self::Cgroup(cgroup) = self { Some(cgroup) } else { None }
    }

    /// Where `socket cgroupv2 unit` stands.
    pub fn units(&self) -> Option<Span> {
        if let Self::Units(span) = self { Some(*span) } else { None }
    }
}

/// `socket cgroupv2 level N "path"`, also with `!=`, `==` and several paths in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMatch {
    /// The level.
    pub level: u32,
    /// Where it stands.
    pub level_span: Span,
    /// Whether it is `!=`.
    pub negated: bool,
    /// The paths, each once, in order, with their places (inside the quotes, if any).
    pub paths: Vec<(CgroupPath, Span)>,
    /// From `socket` to the path or the closing brace.
    pub span: Span,
}

/// `add element F T SET { … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementStatement {
    /// The user's set or map.
    pub set: SetRef,
    /// Where it is named, from the family on.
    pub set_span: Span,
    /// The elements: path, its place, and the data in a map.
    pub elements: Vec<(CgroupPath, Span, Option<Data>)>,
}

impl Statement {
    /// The cgroups that it names.
    pub fn paths(&self) -> impl Iterator<Item = &CgroupPath> {
        let (rule, element) = match self {
            Self::Rule(rule) => (Some(rule), None),
            Self::Element(element) => (None, Some(element)),
        };
        let of_elements = element.into_iter().flat_map(|element| &element.elements).map(|(path, ..)| path);
        rule.into_iter().flat_map(RuleStatement::paths).chain(of_elements)
    }
}
