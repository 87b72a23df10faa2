//! POLICY -> NFT. Annotations to maps, chains and the few rules that use them.
//!
//! For each chain the annotated rules keep their order. Each maximal run of rules of one level becomes a verdict map
//! from cgroup to a chain of the rest of its rules, and one rule that looks the packet's cgroup up in it. A packet is in
//! one cgroup a level, so rules of different cgroups never compete, and the order within one cgroup stays.
//! A rule that this would change stays in the user's chain ([`form`]). Once this is loaded, nothing changes but the
//! elements of sets and maps.

pub mod form;
pub mod hosts;
pub mod leftovers;
mod names;
pub mod pattern;
pub mod script;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    model::{
        AnnotationId, Binding, CgroupPath, ChainRef, Condition, Data, Element, Instance, Key, SetRef,
        TableRef, UnitName,
    },
    policy::{
        Annotation, CgroupMatch, ElementStatement, Part, Placement, Policy, RuleStatement, Statement,
        hosts::Hosts,
    },
    text::{Token, TokenKind},
    units::selector::{Selectors, Users},
};
use form::{Form, Gate, Match, form, verdict};
pub use hosts::HostSet;
use hosts::HostSets;
use names::Names;
pub use pattern::{Pattern, Target};
pub use script::{Line, Script};

/// What the kernel is to be given for a policy.
#[derive(Debug, Clone, Default)]
pub struct Dispatch {
    /// Sets, maps, chains and rules, without elements.
    pub script: Script,
    /// The maps, sets and chains that the script makes, such as `map inet filter scnpm.out.1`.
    pub objects: BTreeSet<String>,
    /// The elements, and when each is due.
    pub bindings: Vec<Bound>,
    /// Those of units that are not known ahead, each with the annotations that need it.
    pub patterns: Vec<(Pattern, Vec<AnnotationId>)>,
    /// The sets of host names, which the script fills with what is known of them.
    pub hosts: Vec<HostSet>,
    /// Annotations left out because a host name that they must not match has no address.
    pub unresolved: BTreeSet<AnnotationId>,
}

/// The script, and below it, as comments, each element and when it is due.
impl fmt::Display for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.script)?;
        self.bindings.iter().try_for_each(|bound| {
            let element = format!("while {}: {}", bound.binding.condition, element_line(bound));
            // A path may hold a line's end, behind which nft would read on.
            writeln!(f, "# {}", element.replace(char::is_control, " "))
        })?;
        for (pattern, _) in &self.patterns {
            for target in &pattern.targets {
                let unit = pattern.unit.0.replace(char::is_control, " ");
                let data = target.data.as_ref().map(|data| format!(" : {data}")).unwrap_or_default();
                match target.level {
                    Some(level) => writeln!(
                        f,
                        "# for each cgroup of {unit} at level {level}: add element {} {{ ITS PATH{data} }}",
                        target.set
                    )?,
                    None => writeln!(
                        f,
                        "# while {unit} has a cgroup: add element {} {{ {EVERY_MARK}{data} }}",
                        target.set
                    )?,
                }
            }
        }
        Ok(())
    }
}

/// The levels at which instances of selectors were seen, besides those where they are expected.
pub type Levels = BTreeMap<Selectors, BTreeSet<u32>>;

impl Dispatch {
    /// What instances ask for, and what does not depend on any.
    pub fn bound(&self, instances: &[Instance], users: &Users) -> Vec<Bound> {
        let of = |instance: &Instance| {
            let mut bound = Vec::new();
            for (pattern, annotations) in
                self.patterns.iter().filter(|(one, _)| one.selectors.select(instance, users))
            {
                let bind = |binding| Bound { binding, annotations: annotations.clone() };
                bound.extend(pattern.bindings(&instance.path).into_iter().map(bind));
            }
            bound
        };
        self.bindings.iter().cloned().chain(instances.iter().flat_map(of)).collect()
    }
}

/// A binding with the annotations that need it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound {
    /// What the engine keeps true.
    pub binding: Binding,
    /// Whose it is.
    pub annotations: Vec<AnnotationId>,
}

/// Compiles a policy, without the annotations in `left_out`.
pub fn compile(
    policy: &Policy,
    left_out: &BTreeSet<AnnotationId>,
    hosts: &Hosts,
    levels: &Levels,
) -> Dispatch {
    let mut compiler = Compiler {
        policy,
        levels,
        names: Names::default(),
        hosts: HostSets::default(),
        dispatch: Dispatch::default(),
    };
    let mut chains: Vec<(&ChainRef, Vec<Rule<'_>>)> = Vec::new();
    for (id, annotation) in policy.iter().filter(|(id, _)| !left_out.contains(id)) {
        match &annotation.statement {
            Statement::Element(statement) => compiler.element(id, annotation, statement),
            Statement::Rule(statement) => {
                match compiler.hosts.put_in(id, statement, hosts, &mut compiler.names) {
                    None => drop(compiler.dispatch.unresolved.insert(id)),
                    Some(body) => {
                        let rule = Rule { id, annotation, statement, body: apart(body) };
                        match chains.iter_mut().find(|(chain, _)| **chain == statement.chain) {
                            Some((_, rules)) => rules.push(rule),
                            None => chains.push((&statement.chain, vec![rule])),
                        }
                    }
                }
            }
        }
    }
    compiler.host_sets(hosts);
    compiler.defines(chains.iter().flat_map(|(_, rules)| rules));
    for (chain, rules) in &chains {
        compiler.chain(chain, rules);
    }
    compiler.dispatch
}

/// The chains and sets of the user that a policy's annotations are about.
pub fn hosting(policy: &Policy) -> (BTreeSet<ChainRef>, BTreeSet<SetRef>) {
    let mut chains = BTreeSet::new();
    let mut sets = BTreeSet::new();
    for (_, annotation) in policy.iter() {
        match &annotation.statement {
            Statement::Rule(rule) => drop(chains.insert(rule.chain.clone())),
            Statement::Element(element) => drop(sets.insert(element.set.clone())),
        }
    }
    (chains, sets)
}

/// `flush chain` for the chains that annotations name: what `--flush` does.
pub fn flush(policy: &Policy, left_out: &BTreeSet<AnnotationId>) -> Script {
    let mut owners: BTreeMap<&ChainRef, Vec<AnnotationId>> = BTreeMap::new();
    for (id, annotation) in policy.iter().filter(|(id, _)| !left_out.contains(id)) {
        if let Statement::Rule(rule) = &annotation.statement {
            owners.entry(&rule.chain).or_default().push(id);
        }
    }
    let line = |(chain, ids)| Line::new(format!("flush chain {chain}")).of(ids);
    Script { lines: owners.into_iter().map(line).collect() }
}

/// Elements as a script, for the transaction that loads the dispatch they belong to.
pub fn elements<'a>(bound: impl IntoIterator<Item = &'a Bound>) -> Script {
    Script { lines: bound.into_iter().map(element_line).collect() }
}

/// The only element of a gate.
const EVERY_MARK: &str = "0-4294967295";

fn element_line(bound: &Bound) -> Line {
    let Element { set, key, data } = &bound.binding.element;
    let key = match key {
        Key::Cgroup(path) => format!("\"{path}\""),
        Key::Everything => EVERY_MARK.to_owned(),
    };
    let data = data.as_ref().map(|data| format!(" : {data}")).unwrap_or_default();
    Line::new(format!("add element {set} {{ {key}{data} }}")).of(bound.annotations.iter().copied())
}

/// A body whose matches may be taken out without joining what stood on both sides.
fn apart(mut body: Vec<Part>) -> Vec<Part> {
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

struct Rule<'a> {
    id: AnnotationId,
    annotation: &'a Annotation,
    statement: &'a RuleStatement,
    body: Vec<Part>,
}

/// One rule's share of a run: its match and the rest of it.
struct Mapped<'a> {
    rule: &'a Rule<'a>,
    cgroup: Match<'a>,
    rest: Vec<&'a Token>,
}

/// Rules of the same cgroups within a run, in order.
struct Group<'a> {
    whose: Whose<'a>,
    rules: Vec<Mapped<'a>>,
}

/// The cgroups that a match is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose<'a> {
    Paths(BTreeSet<&'a CgroupPath>),
    Units(&'a Selectors),
}

enum Step<'a> {
    Run { levels: BTreeSet<u32>, groups: Vec<Group<'a>> },
    InPlace { rule: &'a Rule<'a>, gate: Gate },
}

impl<'a> Mapped<'a> {
    fn whose(&self) -> Whose<'a> {
        match self.cgroup {
            Match::Paths(cgroup) => Whose::Paths(cgroup.paths.iter().map(|(path, _)| path).collect()),
            Match::Units(_) => Whose::Units(&self.rule.annotation.selectors),
        }
    }

    fn levels(&self, levels: &Levels) -> BTreeSet<u32> {
        match self.cgroup {
            Match::Paths(cgroup) => [cgroup.level].into(),
            Match::Units(_) => levels_of(&self.rule.annotation.selectors, levels),
        }
    }
}

impl Whose<'_> {
    /// Whether a cgroup may be meant by both.
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Paths(paths), Self::Paths(others)) => !paths.is_disjoint(others),
            (Self::Units(selectors), Self::Units(others)) => selectors.may_overlap(others),
            (Self::Units(selectors), Self::Paths(paths)) | (Self::Paths(paths), Self::Units(selectors)) => {
                paths.iter().any(|path| selectors.may_name(path))
            }
        }
    }
}

fn levels_of(selectors: &Selectors, levels: &Levels) -> BTreeSet<u32> {
    selectors.levels().into_iter().chain(levels.get(selectors).into_iter().flatten().copied()).collect()
}

/// What of a rule's verdict can't be called from a chain of ours must be the only rule of its group.
fn stands_alone(mapped: &Mapped<'_>) -> bool {
    verdict(&mapped.rest) == Some(Data::Return)
}

impl<'a> Group<'a> {
    fn verdict(&self) -> Option<Data> {
        match &self.rules[..] {
            [only] => verdict(&only.rest),
            _ => None,
        }
    }
}

/// Rules in their order, as runs as long as can be.
fn steps<'a>(rules: impl IntoIterator<Item = &'a Rule<'a>>, levels: &Levels) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    for rule in rules {
        match form(&rule.body) {
            Form::InPlace(gate) => steps.push(Step::InPlace { rule, gate }),
            Form::Mapped { cgroup, rest } => join(&mut steps, Mapped { rule, cgroup, rest }, levels),
        }
    }
    steps
}

fn join<'a>(steps: &mut Vec<Step<'a>>, mapped: Mapped<'a>, levels: &Levels) {
    let (whose, levels) = (mapped.whose(), mapped.levels(levels));
    if let Some(Step::Run { levels: same, groups }) = steps.last_mut()
        && *same == levels
    {
        match groups.iter_mut().find(|group| group.whose.overlaps(&whose)) {
            None => return groups.push(Group { whose, rules: vec![mapped] }),
            Some(group)
                if group.whose == whose
                    && !stands_alone(&mapped)
                    && !group.rules.iter().any(stands_alone) =>
            {
                return group.rules.push(mapped);
            }
            Some(_) => {}
        }
    }
    steps.push(Step::Run { levels, groups: vec![Group { whose, rules: vec![mapped] }] });
}

/// How rules get into a chain.
struct Command<'a> {
    verb: &'a str,
    chain: &'a ChainRef,
    /// `index N` and the like.
    place: &'a [Token],
}

impl Command<'_> {
    /// The beginning of the line that puts a rule there.
    fn line(&self, rule: &Rule<'_>) -> Line {
        let mut line = Line::new(format!("{} rule ", self.verb));
        line.write_for(self.chain.to_string(), rule.statement.chain_span);
        if !self.place.is_empty() {
            line.write_tokens(self.place);
        }
        line
    }
}

struct Compiler<'a> {
    policy: &'a Policy,
    levels: &'a Levels,
    names: Names,
    hosts: HostSets,
    dispatch: Dispatch,
}

impl Compiler<'_> {
    fn host_sets(&mut self, hosts: &Hosts) {
        for set in std::mem::take(&mut self.hosts.sets) {
            self.make(format!("set {}", set.set), &set.specification(), &set.annotations);
            self.dispatch.script.lines.extend(set.elements(hosts));
            self.dispatch.hosts.push(set);
        }
    }

    /// The variables that rules use, and those that these use.
    fn defines<'r>(&mut self, rules: impl Iterator<Item = &'r Rule<'r>>) {
        let mut users: BTreeMap<String, BTreeSet<AnnotationId>> = BTreeMap::new();
        for rule in rules {
            for part in &rule.body {
                if let Part::Verbatim(token) = part {
                    note_variable(&mut users, token, [rule.id]);
                }
            }
        }
        for define in self.policy.defines.iter().rev() {
            if let Some(ids) = users.get(&define.name).cloned() {
                define.value.iter().for_each(|token| note_variable(&mut users, token, ids.iter().copied()));
            }
        }
        for define in &self.policy.defines {
            let Some(ids) = users.get(&define.name) else { continue };
            let mut line = Line::new(format!("redefine {} =", define.name)).of(ids.iter().copied());
            line.write_tokens(&define.value);
            self.dispatch.script.push(line);
        }
    }

    fn element(&mut self, id: AnnotationId, annotation: &Annotation, statement: &ElementStatement) {
        for (path, _, data) in &statement.elements {
            let element =
                Element { set: statement.set.clone(), key: Key::Cgroup(path.clone()), data: data.clone() };
            self.bind(annotation, element, Condition::Cgroup(path.clone()), vec![id]);
        }
    }

    fn chain(&mut self, chain: &ChainRef, rules: &[Rule<'_>]) {
        let at =
            |placement: Placement| rules.iter().filter(move |rule| rule.statement.placement == placement);
        for step in steps(at(Placement::Beginning).rev(), self.levels).into_iter().rev() {
            self.step(&Command { verb: "insert", chain, place: &[] }, step);
        }
        for step in steps(at(Placement::End), self.levels) {
            self.step(&Command { verb: "add", chain, place: &[] }, step);
        }
        for rule in rules {
            if let Placement::Explicit(verb, place) = &rule.statement.placement {
                let command = Command { verb, chain, place };
                steps([rule], self.levels).into_iter().for_each(|step| self.step(&command, step));
            }
        }
    }

    fn step(&mut self, command: &Command<'_>, step: Step<'_>) {
        match step {
            Step::Run { levels, groups } => self.run(command, &levels, &groups),
            Step::InPlace { rule, gate } => self.in_place(command, rule, gate),
        }
    }

    /// A map for each level: the cgroups of a unit may be at any of them, and each is at one.
    fn run(&mut self, command: &Command<'_>, levels: &BTreeSet<u32>, groups: &[Group<'_>]) {
        let chain = command.chain;
        let table = &chain.table;
        let everyone: Vec<AnnotationId> =
            groups.iter().flat_map(|group| &group.rules).map(|mapped| mapped.rule.id).collect();
        let mut maps: Vec<(u32, SetRef)> = Vec::new();
        for level in levels {
            let map = SetRef { table: table.clone(), name: self.names.run(chain) };
            self.make(format!("map {map}"), " { type cgroupsv2 : verdict; }", &everyone);
            maps.push((*level, map));
        }
        let Some((_, first_map)) = maps.first().cloned() else { return };
        for group in groups {
            let ids: Vec<AnnotationId> = group.rules.iter().map(|mapped| mapped.rule.id).collect();
            let first = group.rules[0].rule;
            let data = group.verdict().unwrap_or_else(|| {
                let name = self.names.of_unit(table, &first_map.name, &first.annotation.selectors.label());
                self.called_chain(table, &name, group);
                Data::Jump(name)
            });
            match &group.whose {
                Whose::Paths(paths) => {
                    for path in paths {
                        let element = Element {
                            set: first_map.clone(),
                            key: Key::Cgroup((*path).clone()),
                            data: Some(data.clone()),
                        };
                        self.bind(first.annotation, element, Condition::Cgroup((*path).clone()), ids.clone());
                    }
                }
                Whose::Units(_) => {
                    let target = |(level, map): &(u32, SetRef)| Target {
                        level: Some(*level),
                        set: map.clone(),
                        data: Some(data.clone()),
                    };
                    self.bind_pattern(first.annotation, maps.iter().map(target).collect(), ids);
                }
            }
        }
        for (level, map) in maps {
            let mut line = command.line(groups[0].rules[0].rule).of(everyone.iter().copied());
            line.write(" ");
            line.write_for(format!("socket cgroupv2 level {level}"), groups[0].rules[0].cgroup.span());
            line.write(format!(" vmap @{}", map.name));
            self.dispatch.script.push(line);
        }
    }

    fn called_chain(&mut self, table: &TableRef, name: &str, group: &Group<'_>) {
        let ids: Vec<AnnotationId> = group.rules.iter().map(|mapped| mapped.rule.id).collect();
        self.make(format!("chain {table} {name}"), "", &ids);
        for mapped in &group.rules {
            let mut line = Line::new(format!("add rule {table} {name}")).of([mapped.rule.id]);
            line.write_tokens(mapped.rest.iter().copied());
            if mapped.rest.is_empty() {
                line.write(" continue");
            }
            self.dispatch.script.push(line);
        }
    }

    /// The rule itself; once for each level, if its cgroups may be at several.
    fn in_place(&mut self, command: &Command<'_>, rule: &Rule<'_>, gate: Gate) {
        let levels = match rule.annotation.units_match() {
            Some(_) => levels_of(&rule.annotation.selectors, self.levels),
            None => [0].into(),
        };
        levels.into_iter().for_each(|level| self.in_place_at(command, rule, gate, level));
    }

    fn in_place_at(&mut self, command: &Command<'_>, rule: &Rule<'_>, gate: Gate, level: u32) {
        let chain = command.chain;
        let run = self.names.run(chain);
        let mut line = command.line(rule).of([rule.id]);
        if gate != Gate::None {
            let gate = self.gate(&chain.table, &run, rule, gate);
            line.write(format!(" meta mark @{gate}"));
        }
        for part in &rule.body {
            match part {
                Part::Verbatim(token) if token.spaced => line.write_tokens([token]),
                Part::Verbatim(token) => line.write_for(&token.text, token.span),
                Part::Units(span) => {
                    let set = self.units_set(&chain.table, &run, rule, level);
                    line.write(" ");
                    line.write_for(format!("socket cgroupv2 level {level} @{set}"), *span);
                }
                Part::Cgroup(cgroup) => {
                    let set = self.paths_set(&chain.table, &run, rule, cgroup);
                    let not = if cgroup.negated { "!= " } else { "" };
                    line.write(" ");
                    line.write_for(
                        format!("socket cgroupv2 level {} {not}@{set}", cgroup.level),
                        cgroup.span,
                    );
                }
            }
        }
        self.dispatch.script.push(line);
    }

    /// A set that holds the cgroups at a level of the units that are selected.
    fn units_set(&mut self, table: &TableRef, run: &str, rule: &Rule<'_>, level: u32) -> String {
        let name = self.names.of_unit(table, run, &rule.annotation.selectors.label());
        let set = SetRef { table: table.clone(), name: name.clone() };
        self.make(format!("set {set}"), " { type cgroupsv2; }", &[rule.id]);
        self.bind_pattern(
            rule.annotation,
            vec![Target { level: Some(level), set, data: None }],
            vec![rule.id],
        );
        name
    }

    /// A set that holds those of a match's paths that exist.
    fn paths_set(&mut self, table: &TableRef, run: &str, rule: &Rule<'_>, cgroup: &CgroupMatch) -> String {
        let name = self.names.of_unit(table, run, &rule.annotation.selectors.label());
        let set = SetRef { table: table.clone(), name: name.clone() };
        self.make(format!("set {set}"), " { type cgroupsv2; }", &[rule.id]);
        for (path, _) in &cgroup.paths {
            let element = Element { set: set.clone(), key: Key::Cgroup(path.clone()), data: None };
            self.bind(rule.annotation, element, Condition::Cgroup(path.clone()), vec![rule.id]);
        }
        name
    }

    /// A set that holds every packet's mark while the rule is due, and none else.
    fn gate(&mut self, table: &TableRef, run: &str, rule: &Rule<'_>, gate: Gate) -> String {
        let name = self.names.gate(table, run);
        let set = SetRef { table: table.clone(), name: name.clone() };
        self.make(format!("set {set}"), " { type mark; flags interval; }", &[rule.id]);
        let paths: BTreeSet<CgroupPath> = rule
            .body
            .iter()
            .filter_map(|part| match part {
                Part::Cgroup(cgroup) => Some(cgroup.paths.iter().map(|(path, _)| path.clone())),
                Part::Verbatim(_) | Part::Units(_) => None,
            })
            .flatten()
            .collect();
        let is_known_ahead = match gate {
            Gate::Unit => rule.annotation.only_unit().is_some(),
            _ => rule.annotation.units_match().is_none(),
        };
        if !is_known_ahead {
            self.bind_pattern(rule.annotation, vec![Target { level: None, set, data: None }], vec![rule.id]);
            return name;
        }
        let conditions: Vec<Condition> = match gate {
            Gate::None => vec![],
            Gate::AnyPath => paths.into_iter().map(Condition::Cgroup).collect(),
            Gate::AllPaths => vec![Condition::AllCgroups(paths)],
            Gate::Unit => rule
                .annotation
                .only_unit()
                .map(|unit| self.activity(rule.annotation, unit))
                .into_iter()
                .collect(),
        };
        let element = Element { set, key: Key::Everything, data: None };
        for condition in conditions {
            self.bind(rule.annotation, element.clone(), condition, vec![rule.id]);
        }
        name
    }

    fn activity(&self, annotation: &Annotation, unit: &UnitName) -> Condition {
        match annotation.selectors.is_bare() {
            true => Condition::UnitActive(unit.clone()),
            false => Condition::SystemUnitActive(unit.clone()),
        }
    }

    fn bind_pattern(&mut self, annotation: &Annotation, targets: Vec<Target>, ids: Vec<AnnotationId>) {
        let pattern = Pattern {
            selectors: annotation.selectors.clone(),
            targets,
            unit: annotation.unit.clone(),
            location: self.policy.sources.location(annotation.unit_span),
        };
        self.dispatch.patterns.push((pattern, ids));
    }

    /// Makes a map, set or chain.
    fn make(&mut self, object: String, specification: &str, annotations: &[AnnotationId]) {
        let text = format!("add {object}{specification}");
        self.dispatch.objects.insert(object);
        self.dispatch.script.push(Line::new(text).of(annotations.iter().copied()));
    }

    fn bind(
        &mut self,
        annotation: &Annotation,
        element: Element,
        condition: Condition,
        annotations: Vec<AnnotationId>,
    ) {
        let location = self.policy.sources.location(annotation.unit_span);
        let binding = Binding { element, condition, unit: annotation.unit.clone(), location };
        self.dispatch.bindings.push(Bound { binding, annotations });
    }
}

/// Notes who uses a variable. nft also expands `$NAME` in the string of a `log prefix`.
fn note_variable(
    users: &mut BTreeMap<String, BTreeSet<AnnotationId>>,
    token: &Token,
    ids: impl IntoIterator<Item = AnnotationId> + Clone,
) {
    if matches!(token.kind, TokenKind::Variable | TokenKind::Quoted) {
        let end = |c: char| !c.is_ascii_alphanumeric() && !"_/\\.-".contains(c);
        for name in token.text.split('$').skip(1).filter_map(|rest| rest.split(end).next()) {
            users.entry(name.to_owned()).or_default().extend(ids.clone());
        }
    }
}
