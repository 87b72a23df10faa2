//! POLICY -> NFT. Annotations to maps, chains and the few rules that use them.
//!
//! For each chain the annotated rules keep their order. Each maximal run of rules of one level becomes a verdict map
//! from cgroup to a chain of the rest of its rules, and one rule that looks the packet's cgroup up in it. A packet is in
//! one cgroup a level, so rules of different cgroups never compete, and the order within one cgroup stays.
//! A rule that this would change stays in the user's chain ([`form`]). Once this is loaded, nothing changes but the
//! elements of sets and maps.

pub mod form;
pub mod leftovers;
mod names;
pub mod script;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    model::{Binding, CgroupPath, ChainRef, Condition, Data, Element, Key, SetRef, TableRef},
    policy::{
        Annotation, AnnotationId, CgroupMatch, ElementStatement, Part, Placement, Policy, RuleStatement,
        Statement, Token, TokenKind,
        hosts::{self, Hosts, Unresolved},
    },
};
use form::{Form, Gate, form, verdict};
use names::Names;
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
    /// Annotations left out because a host name in them has no address.
    pub unresolved: Vec<(AnnotationId, Vec<Unresolved>)>,
}

/// The script, and below it, as comments, each element and when it is due.
impl fmt::Display for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.script)?;
        self.bindings.iter().try_for_each(|bound| {
            let element = format!("while {}: {}", bound.binding.condition, element_line(bound));
            // A path may hold a line's end, behind which nft would read on.
            writeln!(f, "# {}", element.replace(char::is_control, " "))
        })
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
pub fn compile(policy: &Policy, left_out: &BTreeSet<AnnotationId>, hosts: &Hosts) -> Dispatch {
    let mut compiler = Compiler { policy, names: Names::default(), dispatch: Dispatch::default() };
    let mut chains: Vec<(&ChainRef, Vec<Rule<'_>>)> = Vec::new();
    for (id, annotation) in policy.iter().filter(|(id, _)| !left_out.contains(id)) {
        match &annotation.statement {
            Statement::Element(statement) => compiler.element(id, annotation, statement),
            Statement::Rule(statement) => match hosts::resolve(policy, &statement.body, hosts) {
                Err(unresolved) => compiler.dispatch.unresolved.push((id, unresolved)),
                Ok(body) => {
                    let rule = Rule { id, annotation, statement, body: apart(body) };
                    match chains.iter_mut().find(|(chain, _)| **chain == statement.chain) {
                        Some((_, rules)) => rules.push(rule),
                        None => chains.push((&statement.chain, vec![rule])),
                    }
                }
            },
        }
    }
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

fn element_line(bound: &Bound) -> Line {
    let Element { set, key, data } = &bound.binding.element;
    let key = match key {
        Key::Cgroup(path) => format!("\"{path}\""),
        Key::Everything => "0-4294967295".to_owned(),
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
            Part::Cgroup(_) => after_match = true,
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
    cgroup: &'a CgroupMatch,
    rest: Vec<&'a Token>,
}

/// Rules of the same paths within a run, in order.
struct Group<'a> {
    paths: BTreeSet<&'a CgroupPath>,
    rules: Vec<Mapped<'a>>,
}

enum Step<'a> {
    Run { level: u32, groups: Vec<Group<'a>> },
    InPlace { rule: &'a Rule<'a>, gate: Gate },
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
fn steps<'a>(rules: impl IntoIterator<Item = &'a Rule<'a>>) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    for rule in rules {
        match form(&rule.body) {
            Form::InPlace(gate) => steps.push(Step::InPlace { rule, gate }),
            Form::Mapped { cgroup, rest } => join(&mut steps, Mapped { rule, cgroup, rest }),
        }
    }
    steps
}

fn join<'a>(steps: &mut Vec<Step<'a>>, mapped: Mapped<'a>) {
    let paths: BTreeSet<&CgroupPath> = mapped.cgroup.paths.iter().map(|(path, _)| path).collect();
    let level = mapped.cgroup.level;
    if let Some(Step::Run { level: same, groups }) = steps.last_mut()
        && *same == level
    {
        match groups.iter_mut().find(|group| !group.paths.is_disjoint(&paths)) {
            None => return groups.push(Group { paths, rules: vec![mapped] }),
            Some(group)
                if group.paths == paths
                    && !stands_alone(&mapped)
                    && !group.rules.iter().any(stands_alone) =>
            {
                return group.rules.push(mapped);
            }
            Some(_) => {}
        }
    }
    steps.push(Step::Run { level, groups: vec![Group { paths, rules: vec![mapped] }] });
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
    names: Names,
    dispatch: Dispatch,
}

impl Compiler<'_> {
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
        for step in steps(at(Placement::Beginning).rev()).into_iter().rev() {
            self.step(&Command { verb: "insert", chain, place: &[] }, step);
        }
        for step in steps(at(Placement::End)) {
            self.step(&Command { verb: "add", chain, place: &[] }, step);
        }
        for rule in rules {
            if let Placement::Explicit(verb, place) = &rule.statement.placement {
                let command = Command { verb, chain, place };
                steps([rule]).into_iter().for_each(|step| self.step(&command, step));
            }
        }
    }

    fn step(&mut self, command: &Command<'_>, step: Step<'_>) {
        match step {
            Step::Run { level, groups } => self.run(command, level, &groups),
            Step::InPlace { rule, gate } => self.in_place(command, rule, gate),
        }
    }

    fn run(&mut self, command: &Command<'_>, level: u32, groups: &[Group<'_>]) {
        let chain = command.chain;
        let table = &chain.table;
        let run = self.names.run(chain);
        let everyone: Vec<AnnotationId> =
            groups.iter().flat_map(|group| &group.rules).map(|mapped| mapped.rule.id).collect();
        let map = SetRef { table: table.clone(), name: run.clone() };
        self.make(format!("map {map}"), " { type cgroupsv2 : verdict; }", &everyone);
        for group in groups {
            let ids: Vec<AnnotationId> = group.rules.iter().map(|mapped| mapped.rule.id).collect();
            let first = group.rules[0].rule;
            let data = group.verdict().unwrap_or_else(|| {
                let name = self.names.of_unit(table, &run, &first.annotation.unit);
                self.called_chain(table, &name, group);
                Data::Jump(name)
            });
            for path in &group.paths {
                let element =
                    Element { set: map.clone(), key: Key::Cgroup((*path).clone()), data: Some(data.clone()) };
                let condition = Condition::Cgroup((*path).clone());
                self.bind(first.annotation, element, condition, ids.clone());
            }
        }
        let mut line = command.line(groups[0].rules[0].rule).of(everyone);
        line.write(" ");
        line.write_for(format!("socket cgroupv2 level {level}"), groups[0].rules[0].cgroup.span);
        line.write(format!(" vmap @{run}"));
        self.dispatch.script.push(line);
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

    fn in_place(&mut self, command: &Command<'_>, rule: &Rule<'_>, gate: Gate) {
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

    /// A set that holds those of a match's paths that exist.
    fn paths_set(&mut self, table: &TableRef, run: &str, rule: &Rule<'_>, cgroup: &CgroupMatch) -> String {
        let name = self.names.of_unit(table, run, &rule.annotation.unit);
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
                Part::Verbatim(_) => None,
            })
            .flatten()
            .collect();
        let conditions: Vec<Condition> = match gate {
            Gate::None => vec![],
            Gate::AnyPath => paths.into_iter().map(Condition::Cgroup).collect(),
            Gate::AllPaths => vec![Condition::AllCgroups(paths)],
            Gate::Unit => vec![Condition::UnitActive(rule.annotation.unit.clone())],
        };
        let element = Element { set, key: Key::Everything, data: None };
        for condition in conditions {
            self.bind(rule.annotation, element.clone(), condition, vec![rule.id]);
        }
        name
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
