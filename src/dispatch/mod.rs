//! POLICY -> NFT. Annotations to maps, chains and the few rules that use them.
//!
//! For each chain the annotated rules keep their order. Each maximal run of rules of one level becomes a verdict map
//! from cgroup to a chain of the rest of its rules, and one rule that looks the packet's cgroup up in it. A packet is in
//! one cgroup a level, so rules of different cgroups never compete, and the order within one cgroup stays. Rules of
//! units at several levels have a map for each and share a run only if none of their cgroups can be below another.
//! A rule that this would change stays in the user's chain ([`form`]). Once this is loaded, nothing changes but the
//! elements of sets and maps.

pub mod form;
pub mod hosts;
pub mod leftovers;
mod names;
pub mod pattern;
mod runs;
pub mod script;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

pub use crate::text::token::is_identifier;
use crate::{
    model::{AnnotationId, CgroupPath, ChainRef, Condition, Data, Element, Key, Row, SetRef, TableRef},
    policy::{Annotation, CgroupMatch, ElementStatement, Part, Placement, Policy, Statement, hosts::Hosts},
    text::{Span, Token, TokenKind},
    units::selector::Selectors,
};
use form::{Due, Match, around_units};
pub use hosts::HostSet;
use hosts::HostSets;
use names::Names;
pub use pattern::{Pattern, Target};
use runs::{Group, Mapped, Rule, Step, Whose, apart, levels_of, steps};
pub use script::{Line, Script};

/// What the kernel is to be given for a policy.
#[derive(Debug, Clone, Default)]
pub struct Dispatch {
    /// Sets, maps, chains and rules, without elements.
    pub script: Script,
    /// The maps, sets and chains that the script makes, such as `map inet filter scnpm.out.1`.
    pub objects: BTreeSet<String>,
    /// What is to be in the kernel of it, and when each is due.
    pub rows: Vec<Row>,
    /// The rows of units that are not known ahead.
    pub patterns: Vec<Pattern>,
    /// The sets of host names, which the script fills with what is known of them.
    pub hosts: Vec<HostSet>,
    /// Annotations left out because a host name that they must not match has no address.
    pub unresolved: BTreeSet<AnnotationId>,
}

/// The script, and below it, as comments, each element and when it is due.
impl fmt::Display for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.script)?;
        self.rows.iter().try_for_each(|row| {
            let element = format!("while {}: {}", row.condition, element_line(row));
            // A path may hold a line's end, behind which nft would read on.
            writeln!(f, "# {}", element.replace(char::is_control, " "))
        })?;
        for pattern in &self.patterns {
            for target in &pattern.targets {
                let unit = pattern.selectors.to_string().replace(char::is_control, " ");
                let unless = pattern.unless.as_ref().map_or("", |_| " and the system has no such unit");
                let data = target.data.as_ref().map(|data| format!(" : {data}")).unwrap_or_default();
                match target.level {
                    Some(level) => writeln!(
                        f,
                        "# for each cgroup of {unit} at level {level}: add element {} {{ ITS PATH{data} }}",
                        target.set
                    )?,
                    None => writeln!(
                        f,
                        "# while {unit} has a cgroup{unless}: add element {} {{ {EVERY_MARK}{data} }}",
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

/// The chains (`FAMILY TABLE NAME`) that annotations name, and which: what `--flush` flushes.
pub fn chains(policy: &Policy, left_out: &BTreeSet<AnnotationId>) -> BTreeMap<String, Vec<AnnotationId>> {
    let mut owners: BTreeMap<String, Vec<AnnotationId>> = BTreeMap::new();
    for (id, annotation) in policy.iter().filter(|(id, _)| !left_out.contains(id)) {
        if let Statement::Rule(rule) = &annotation.statement {
            owners.entry(rule.chain.to_string()).or_default().push(id);
        }
    }
    owners
}

/// Elements as a script, for the transaction that loads the dispatch they belong to.
pub fn elements<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Script {
    Script { lines: rows.into_iter().map(element_line).collect() }
}

/// The comment by which our elements in users' own sets are told from theirs.
pub const MARK: &str = "scnpm";

/// The only element of a gate.
const EVERY_MARK: &str = "0-4294967295";

fn element_line(row: &Row) -> Line {
    Line::new(format!("add element {}", element_text(&row.element, ""))).of(row.annotations.iter().copied())
}

/// An element as a script that adds it. A leading slash, since `*` and `@…` mean other things at the start of a string.
pub fn element(element: &Element) -> Script {
    Script { lines: vec![Line::new(format!("add element {}", element_text(element, "/")))] }
}

/// What deletes a row's element while its cgroup exists.
pub fn deletion(row: &Row) -> Script {
    let set = &row.element.set;
    let key = row.element.key.cgroup().map(|path| format!("\"{path}\"")).unwrap_or_default();
    let line = Line::new(format!("delete element {set} {{ {key} }}"));
    Script { lines: vec![line.of(row.annotations.iter().copied())] }
}

/// What adds an element with the root cgroup in the place of its own, to try whether its set takes it.
pub fn stand_in(element: &Element) -> Script {
    let data = element.data.as_ref().map(|data| format!(" : {data}")).unwrap_or_default();
    Script { lines: vec![Line::new(format!("add element {} {{ \".\"{data} }}", element.set))] }
}

/// An element as nft's `add element` takes it.
fn element_text(element: &Element, root: &str) -> String {
    let Element { set, key, data } = element;
    let key = match key {
        Key::Cgroup(path) => format!("\"{root}{path}\""),
        Key::Everything => EVERY_MARK.to_owned(),
    };
    let mark = if set.is_ours() { String::new() } else { format!(" comment \"{MARK}\"") };
    let data = data.as_ref().map(|data| format!(" : {data}")).unwrap_or_default();
    format!("{set} {{ {key}{mark}{data} }}")
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
            self.row(annotation, element, Condition::Cgroup(path.clone()), vec![id]);
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
            Step::Run { levels, groups, .. } => self.run(command, &levels, &groups),
            Step::InPlace { rule, due } => self.in_place(command, rule, due),
        }
    }

    /// A map for each level: the cgroups of a unit may be at any of them.
    fn run(&mut self, command: &Command<'_>, levels: &BTreeSet<u32>, groups: &[Group<'_>]) {
        let first = &groups[0].rules[0];
        let everyone: Vec<AnnotationId> = groups.iter().flat_map(Group::ids).collect();
        if let ([group], 2..) = (groups, levels.len())
            && group.needs_guard()
        {
            let chain = self.guarded(command.chain, levels, group);
            let mut line = command.line(first.rule).of(everyone);
            line.write(format!(" jump {chain}"));
            return self.dispatch.script.push(line);
        }
        let maps = self.maps(command.chain, levels, &everyone);
        groups.iter().for_each(|group| self.fill(&maps, group, Data::Jump));
        for map in &maps {
            let mut line = command.line(first.rule).of(everyone.iter().copied());
            look_up(&mut line, map, first.cgroup.span());
            self.dispatch.script.push(line);
        }
    }

    /// Makes a chain that looks the packet's cgroup up at one level after the other. At the first that is found it goes on
    /// to the group's rules, from where there is no way back to the next level, so that they act once. Returns its name.
    fn guarded(&mut self, chain: &ChainRef, levels: &BTreeSet<u32>, group: &Group<'_>) -> String {
        let ids = group.ids();
        let maps = self.maps(chain, levels, &ids);
        self.fill(&maps, group, Data::Goto);
        let name = maps[0].1.name.to_string();
        self.make(format!("chain {} {name}", chain.table), "", &ids);
        for map in &maps {
            let mut line = Line::new(format!("add rule {} {name}", chain.table)).of(ids.iter().copied());
            look_up(&mut line, map, group.rules[0].cgroup.span());
            self.dispatch.script.push(line);
        }
        name
    }

    fn maps(&mut self, chain: &ChainRef, levels: &BTreeSet<u32>, ids: &[AnnotationId]) -> Vec<(u32, SetRef)> {
        let mut maps = Vec::new();
        for level in levels {
            let map = SetRef { table: chain.table.clone(), name: self.names.run(chain).into() };
            self.make(format!("map {map}"), " { type cgroupsv2 : verdict; }", ids);
            maps.push((*level, map));
        }
        maps
    }

    /// What leads from maps to a group's rules.
    fn fill(&mut self, maps: &[(u32, SetRef)], group: &Group<'_>, call: fn(String) -> Data) {
        let Some((_, first_map)) = maps.first() else { return };
        let first = group.rules[0].rule;
        let data = group.verdict().unwrap_or_else(|| {
            let table = &first_map.table;
            let name = self.names.of_unit(table, &first_map.name, &first.annotation.selectors.label());
            self.called_chain(table, &name, group);
            call(name)
        });
        match &group.whose {
            Whose::Paths(paths) => {
                for path in paths {
                    let element = Element {
                        set: first_map.clone(),
                        key: Key::Cgroup((*path).clone()),
                        data: Some(data.clone()),
                    };
                    self.row(first.annotation, element, Condition::Cgroup((*path).clone()), group.ids());
                }
            }
            Whose::Units(_) => {
                let target = |(level, map): &(u32, SetRef)| Target {
                    level: Some(*level),
                    set: map.clone(),
                    data: Some(data.clone()),
                };
                self.pattern(first.annotation, maps.iter().map(target).collect(), group.ids());
            }
        }
    }

    fn called_chain(&mut self, table: &TableRef, name: &str, group: &Group<'_>) {
        self.make(format!("chain {table} {name}"), "", &group.ids());
        for mapped in &group.rules {
            let mut line = Line::new(format!("add rule {table} {name}")).of([mapped.rule.id]);
            line.write_tokens(mapped.rest.iter().copied());
            if mapped.rest.is_empty() {
                line.write(" continue");
            }
            self.dispatch.script.push(line);
        }
    }

    /// The rule itself. If its cgroups may be at several levels, what stands in front of the match calls a chain with
    /// the look-ups and the rest, so that each of them acts once. What can't be called is there for each level.
    fn in_place(&mut self, command: &Command<'_>, rule: &Rule<'_>, due: Due) {
        let Some(span) = rule.annotation.units_match() else {
            let run = self.names.run(command.chain);
            let line = self.gated(command, rule, &run, due);
            return self.in_place_at(line, rule, &run, &[]);
        };
        let levels = levels_of(&rule.annotation.selectors, self.levels);
        if levels.len() > 1
            && let Some((before, rest)) = around_units(&rule.body)
        {
            let whose = Whose::Units(&rule.annotation.selectors);
            let group = Group { whose, rules: vec![Mapped { rule, cgroup: Match::Units(span), rest }] };
            let chain = self.guarded(command.chain, &levels, &group);
            let mut line = self.gated(command, rule, &chain, due);
            line.write_tokens(before);
            line.write(format!(" jump {chain}"));
            return self.dispatch.script.push(line);
        }
        let run = self.names.run(command.chain);
        let line = self.gated(command, rule, &run, due);
        let mut sets = Vec::new();
        for level in levels {
            sets.push((level, self.units_set(&command.chain.table, &run, rule, level)));
            self.in_place_at(line.clone(), rule, &run, &sets);
        }
    }

    /// The beginning of a rule that is behind a gate.
    fn gated(&mut self, command: &Command<'_>, rule: &Rule<'_>, run: &str, due: Due) -> Line {
        let mut line = command.line(rule).of([rule.id]);
        if due != Due::Always {
            let gate = self.gate(&command.chain.table, run, rule, due);
            line.write(format!(" meta mark @{gate}"));
        }
        line
    }

    /// A rule with a set in place of each match. `units` are the sets of the selected units by their level, up to that
    /// of the last: what is in an earlier one is another copy's business.
    fn in_place_at(&mut self, mut line: Line, rule: &Rule<'_>, run: &str, units: &[(u32, String)]) {
        for part in &rule.body {
            match part {
                Part::Verbatim(token) if token.spaced => line.write_tokens([token]),
                Part::Verbatim(token) => line.write_for(&*token.text, token.span),
                Part::Units(span) => {
                    for (number, (level, set)) in units.iter().rev().enumerate() {
                        let not = if number > 0 { "!= " } else { "" };
                        line.write(" ");
                        line.write_for(format!("socket cgroupv2 level {level} {not}@{set}"), *span);
                    }
                }
                Part::Cgroup(cgroup) => {
                    let set = self.paths_set(&rule.statement.chain.table, run, rule, cgroup);
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
        let set = SetRef { table: table.clone(), name: name.clone().into() };
        self.make(format!("set {set}"), " { type cgroupsv2; }", &[rule.id]);
        self.pattern(rule.annotation, vec![Target { level: Some(level), set, data: None }], vec![rule.id]);
        name
    }

    /// A set that holds those of a match's paths that exist.
    fn paths_set(&mut self, table: &TableRef, run: &str, rule: &Rule<'_>, cgroup: &CgroupMatch) -> String {
        let name = self.names.of_unit(table, run, &rule.annotation.selectors.label());
        let set = SetRef { table: table.clone(), name: name.clone().into() };
        self.make(format!("set {set}"), " { type cgroupsv2; }", &[rule.id]);
        for (path, _) in &cgroup.paths {
            let element = Element { set: set.clone(), key: Key::Cgroup(path.clone()), data: None };
            self.row(rule.annotation, element, Condition::Cgroup(path.clone()), vec![rule.id]);
        }
        name
    }

    /// A set that holds every packet's mark while the rule is due, and none else.
    fn gate(&mut self, table: &TableRef, run: &str, rule: &Rule<'_>, due: Due) -> String {
        let name = self.names.gate(table, run);
        let set = SetRef { table: table.clone(), name: name.clone().into() };
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
        let conditions: Vec<Condition> = match (due, rule.annotation.only_unit()) {
            (Due::Always, _) => vec![],
            (Due::UnitActive, Some(unit)) => {
                if let Some(selectors) = rule.annotation.users_units() {
                    self.dispatch.patterns.push(Pattern {
                        selectors,
                        targets: vec![Target { level: None, set: set.clone(), data: None }],
                        unless: Some(unit.clone()),
                        unit: rule.annotation.unit.clone(),
                        annotations: vec![rule.id],
                    });
                }
                vec![Condition::UnitActive(unit.clone())]
            }
            _ if paths.is_empty() => {
                let target = Target { level: None, set, data: None };
                self.pattern(rule.annotation, vec![target], vec![rule.id]);
                return name;
            }
            (Due::AnyPath, _) => paths.into_iter().map(Condition::Cgroup).collect(),
            (Due::AllPaths | Due::UnitActive, _) => vec![Condition::AllCgroups(paths)],
        };
        let element = Element { set, key: Key::Everything, data: None };
        for condition in conditions {
            self.row(rule.annotation, element.clone(), condition, vec![rule.id]);
        }
        name
    }

    fn pattern(&mut self, annotation: &Annotation, targets: Vec<Target>, ids: Vec<AnnotationId>) {
        self.dispatch.patterns.push(Pattern {
            selectors: annotation.selectors.clone(),
            targets,
            unless: None,
            unit: annotation.unit.clone(),
            annotations: ids,
        });
    }

    /// Makes a map, set or chain.
    fn make(&mut self, object: String, specification: &str, annotations: &[AnnotationId]) {
        let text = format!("add {object}{specification}");
        self.dispatch.objects.insert(object);
        self.dispatch.script.push(Line::new(text).of(annotations.iter().copied()));
    }

    fn row(
        &mut self,
        annotation: &Annotation,
        element: Element,
        condition: Condition,
        annotations: Vec<AnnotationId>,
    ) {
        let (element, unit) = (element.into(), annotation.unit.clone());
        self.dispatch.rows.push(Row { element, condition, unit, annotations });
    }
}

/// The look-up of a packet's cgroup in the map of a level, for a match that stands at `origin`.
fn look_up(line: &mut Line, (level, map): &(u32, SetRef), origin: Span) {
    line.write(" ");
    line.write_for(format!("socket cgroupv2 level {level}"), origin);
    line.write(format!(" vmap @{}", map.name));
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
