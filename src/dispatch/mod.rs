//! POLICY -> NFT. Annotations to maps, chains and the few rules that use them.
//!
//! For each chain the annotated rules keep their order. Each maximal run of rules of one level becomes a verdict map
//! from cgroup to a chain of the rest of its rules, and one rule that looks the packet's cgroup up in it. A packet is in
//! one cgroup a level, so rules of different cgroups never compete, and the order within one cgroup stays. Rules of
//! units at several levels have a map for each and share a run only if none of their cgroups can be below another.
//! A rule that this would change stays in the user's chain ([`form`]). Once this is loaded, nothing changes but the
//! elements of sets and maps.

mod counters;
pub mod denials;
mod form;
pub mod hosts;
mod kept;
pub mod learning;
pub mod leftovers;
mod names;
pub mod pattern;
pub mod recorder;
mod runs;
pub mod script;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

pub use crate::text::token::is_identifier;
use crate::{
    gather::Gather,
    model::{AnnotationId, CgroupPath, ChainRef, Condition, Data, Element, Key, Row, SetRef, TableRef},
    policy::{Annotation, ElementStatement, Part, Placement, Policy, Statement, hosts::Hosts},
    text::{Span, Token, TokenKind},
    units::selector::Selectors,
};
use counters::Counters;
pub use counters::counter;
use form::{Due, Match, around_units};
pub use hosts::HostSet;
use hosts::HostSets;
use kept::Kept;
use names::Names;
pub use pattern::{Pattern, Target};
use runs::{Group, Mapped, Rule, Step, Whose, apart, levels_of, steps};
pub use script::{Line, Script};

/// What the kernel is to be given for a policy.
#[derive(Debug, Clone, Default)]
pub struct Dispatch {
    /// Sets, maps, chains and rules, without elements.
    pub script: Script,
    /// The maps, sets, chains and counters that the script makes, such as `map inet filter scnpm.out.1`.
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
            let element = format!("while {}: {}", row.condition, addition(row));
            // A path may hold a line's end, behind which nft would read on.
            writeln!(f, "# {}", element.replace(char::is_control, " "))
        })?;
        for pattern in &self.patterns {
            let unit = pattern.selectors.to_string().replace(char::is_control, " ");
            let unless = pattern.unless.as_ref().map_or("", |_| " and the system has no such unit");
            for Target { level, set, data } in &pattern.targets {
                let data = behind_key(data);
                match level {
                    Some(level) => writeln!(
                        f,
                        "# for each cgroup of {unit} at level {level}: add element {set} {{ ITS PATH{data} }}"
                    )?,
                    None => writeln!(
                        f,
                        "# while {unit} has a cgroup{unless}: add element {set} {{ {EVERY_MARK}{data} }}"
                    )?,
                }
            }
        }
        Ok(())
    }
}

/// The levels at which instances of selectors were seen, besides those where they are expected.
pub type Levels = BTreeMap<Selectors, Vec<u32>>;

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
        counters: Counters::default(),
        kept: Kept::default(),
        dispatch: Dispatch::default(),
    };
    let mut chains: Vec<Vec<Rule<'_>>> = Vec::new();
    let mut records: Vec<Rule<'_>> = Vec::new();
    for (id, annotation) in policy.iter().filter(|(id, _)| !left_out.contains(id)) {
        match &annotation.statement {
            Statement::Element(statement) => compiler.element(id, annotation, statement),
            Statement::Rule(statement) => {
                let Some(mut body) = compiler.hosts.put_in(id, statement, hosts, &mut compiler.names) else {
                    compiler.dispatch.unresolved.insert(id);
                    continue;
                };
                if !annotation.is_record() {
                    compiler.kept.put_in(id, annotation, statement, &mut body);
                }
                compiler.counters.put_in(id, annotation, &mut body);
                let rule = Rule { id, annotation, statement, body: apart(body) };
                if annotation.is_record() {
                    records.push(rule);
                    continue;
                }
                match chains.iter_mut().find(|rules| rules[0].statement.chain == statement.chain) {
                    Some(rules) => rules.push(rule),
                    None => chains.push(vec![rule]),
                }
            }
        }
    }
    compiler.host_sets(hosts);
    compiler.counters();
    compiler.kept();
    compiler.defines(chains.iter().flatten());
    chains.iter().for_each(|rules| compiler.chain(rules));
    compiler.records(&records);
    compiler.dispatch
}

/// The chains and sets of the user that a policy names.
pub fn hosting(policy: &Policy) -> (BTreeSet<ChainRef>, BTreeSet<SetRef>) {
    let mut chains = BTreeSet::new();
    let mut sets = BTreeSet::new();
    for annotation in &policy.annotations {
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
        if let Some(rule) = annotation.rule() {
            owners.entry(rule.chain.to_string()).or_default().push(id);
        }
    }
    owners
}

/// The comment by which our elements in users' own sets are told from theirs.
pub const MARK: &str = "scnpm";

/// The only element of a gate.
const EVERY_MARK: &str = "0-4294967295";

/// What adds a row's element, for the transaction that loads the dispatch it belongs to.
pub fn addition(row: &Row) -> Line {
    Line::new(format!("add element {}", element_text(&row.element, ""))).of(&row.annotations)
}

/// What adds the elements of rows to a set of ours at once, which takes nft less time. No part of it stands for anything.
pub fn additions(set: &SetRef, rows: &[&Row]) -> Line {
    let elements: Vec<String> = rows.iter().map(|row| in_set(&row.element, "")).collect();
    Line::new(format!("add element {set} {{ {} }}", elements.join(", ")))
}

/// An element as a script that adds it. A leading slash, since `*` and `@…` mean other things at the start of a string.
pub fn element(element: &Element) -> Script {
    Script::of([&*format!("add element {}", element_text(element, "/"))])
}

/// What deletes a row's element while its cgroup exists.
pub fn deletion(row: &Row) -> Line {
    let key = row.element.key.cgroup().map(|path| format!("\"{path}\"")).unwrap_or_default();
    Line::new(format!("delete element {} {{ {key} }}", row.element.set)).of(&row.annotations)
}

/// What adds an element with the root cgroup in the place of its own, to try whether its set takes it.
pub fn stand_in(element: &Element) -> Script {
    let data = behind_key(&element.data);
    Script::of([&*format!("add element {} {{ \".\"{data} }}", element.set)])
}

/// An element as nft's `add element` takes it.
fn element_text(element: &Element, root: &str) -> String {
    format!("{} {{ {} }}", element.set, in_set(element, root))
}

/// An element as it stands in its set.
fn in_set(Element { set, key, data }: &Element, root: &str) -> String {
    let key = match key {
        Key::Cgroup(path) => format!("\"{root}{path}\""),
        Key::Everything => EVERY_MARK.to_owned(),
    };
    let mark = if set.is_ours() { String::new() } else { format!(" comment \"{MARK}\"") };
    format!("{key}{mark}{}", behind_key(data))
}

/// What stands behind the key of a map's element.
fn behind_key(data: &Option<Data>) -> String {
    data.as_ref().map(|data| format!(" : {data}")).unwrap_or_default()
}

/// The beginning of the line that puts a rule into its chain.
fn beginning(rule: &Rule<'_>) -> Line {
    let (verb, place) = match &rule.statement.placement {
        Placement::Beginning => ("insert", &[][..]),
        Placement::End => ("add", &[][..]),
        Placement::Explicit(verb, place) => (&**verb, &place[..]),
    };
    let mut line = Line::new(format!("{verb} rule "));
    line.write_for(rule.statement.chain.to_string(), rule.statement.chain_span);
    line.write_tokens(place);
    line
}

struct Compiler<'a> {
    policy: &'a Policy,
    levels: &'a Levels,
    names: Names,
    hosts: HostSets,
    counters: Counters,
    kept: Kept,
    dispatch: Dispatch,
}

impl Compiler<'_> {
    fn host_sets(&mut self, hosts: &Hosts) {
        for set in std::mem::take(&mut self.hosts.sets) {
            let kind = if set.v6 { "ipv6_addr" } else { "ipv4_addr" };
            let flags = if set.is_interval() { "flags interval; " } else { "" };
            let specification = format!(" {{ type {kind}; {flags}}}");
            self.make(format!("set {}", set.set), &specification, &set.annotations);
            self.dispatch.script.lines.extend(set.elements(hosts));
            self.dispatch.hosts.push(set);
        }
    }

    fn counters(&mut self) {
        for (counter, ids) in std::mem::take(&mut self.counters.of) {
            self.make(format!("counter {counter}"), "", &ids);
        }
    }

    fn kept(&mut self) {
        for (object, (specification, id)) in std::mem::take(&mut self.kept.objects) {
            self.make(object, &format!(" {{ {specification}; }}"), &[id]);
        }
    }

    /// The variables that rules use, and those that these use.
    fn defines<'r>(&mut self, rules: impl Iterator<Item = &'r Rule<'r>>) {
        let mut users: BTreeMap<String, BTreeSet<AnnotationId>> = BTreeMap::new();
        for rule in rules {
            for token in rule.body.iter().filter_map(Part::token) {
                note_variable(&mut users, token, [rule.id]);
            }
        }
        for define in self.policy.defines.iter().rev() {
            if let Some(ids) = users.get(&define.name).cloned() {
                define.value.iter().for_each(|token| note_variable(&mut users, token, ids.iter().copied()));
            }
        }
        for define in &self.policy.defines {
            let Some(ids) = users.get(&define.name) else { continue };
            let mut line = Line::new(format!("redefine {} =", define.name));
            line.annotations.extend(ids);
            line.write_tokens(&define.value);
            self.dispatch.script.lines.push(line);
        }
    }

    fn element(&mut self, id: AnnotationId, annotation: &Annotation, statement: &ElementStatement) {
        for (path, _, data) in &statement.elements {
            self.cgroup(annotation, &statement.set, path, data.clone(), vec![id]);
        }
    }

    /// All rules of a chain.
    fn chain(&mut self, rules: &[Rule<'_>]) {
        let at =
            |placement: Placement| rules.iter().filter(move |rule| rule.statement.placement == placement);
        let mut all = steps(at(Placement::Beginning).rev(), self.levels);
        all.reverse();
        all.extend(steps(at(Placement::End), self.levels));
        let explicit =
            rules.iter().filter(|rule| matches!(rule.statement.placement, Placement::Explicit(..)));
        all.extend(explicit.flat_map(|rule| steps([rule], self.levels)));
        for step in all {
            match step {
                Step::Run { levels, groups, .. } => self.run(&levels, &groups),
                Step::InPlace { rule, due } => self.in_place(rule, due),
            }
        }
    }

    /// A map for each level: the cgroups of a unit may be at any of them.
    fn run(&mut self, levels: &[u32], groups: &[Group<'_>]) {
        let first = &groups[0].rules[0];
        let everyone: Vec<AnnotationId> = groups.iter().flat_map(Group::ids).collect();
        let mut line = beginning(first.rule).of(&everyone);
        if let ([group], 2..) = (groups, levels.len())
            && group.needs_guard()
        {
            line.write(format!(" jump {}", self.guarded(levels, group)));
            return self.dispatch.script.lines.push(line);
        }
        let maps = self.maps(first.rule, levels, &everyone);
        groups.iter().for_each(|group| self.fill(&maps, group, Data::Jump));
        for map in &maps {
            self.look_up(line.clone(), map, first.cgroup.span());
        }
    }

    /// Makes a chain that looks the packet's cgroup up at one level after the other. At the first that is found it goes on
    /// to the group's rules, from where there is no way back to the next level, so that they act once. Returns its name.
    fn guarded(&mut self, levels: &[u32], group: &Group<'_>) -> Arc<str> {
        let (first, ids) = (&group.rules[0], group.ids());
        let maps = self.maps(first.rule, levels, &ids);
        self.fill(&maps, group, Data::Goto);
        let SetRef { table, name } = &maps[0].1;
        self.make(format!("chain {table} {name}"), "", &ids);
        for map in &maps {
            let line = Line::new(format!("add rule {table} {name}")).of(&ids);
            self.look_up(line, map, first.cgroup.span());
        }
        Arc::clone(name)
    }

    /// The look-up of a packet's cgroup in the map of a level, for a match that stands at `origin`.
    fn look_up(&mut self, mut line: Line, (level, map): &(u32, SetRef), origin: Span) {
        write_match(&mut line, *level, "", origin);
        line.write(format!(" vmap @{}", map.name));
        self.dispatch.script.lines.push(line);
    }

    fn maps(&mut self, rule: &Rule<'_>, levels: &[u32], ids: &[AnnotationId]) -> Vec<(u32, SetRef)> {
        let map = |level: &u32| {
            let name = self.names.run(&rule.statement.chain);
            (*level, self.set("map", rule, name, "type cgroupsv2 : verdict;", ids))
        };
        levels.iter().map(map).collect()
    }

    /// What leads from maps to a group's rules.
    fn fill(&mut self, maps: &[(u32, SetRef)], group: &Group<'_>, call: fn(String) -> Data) {
        let Some((_, first_map)) = maps.first() else { return };
        let annotation = group.rules[0].rule.annotation;
        let data = group.verdict().unwrap_or_else(|| {
            let table = &first_map.table;
            let name = self.names.below(table, &first_map.name, &annotation.selectors.label().0);
            self.called_chain(table, &name, group);
            call(name)
        });
        match &group.whose {
            Whose::Paths(paths) => {
                for path in paths {
                    self.cgroup(annotation, first_map, path, Some(data.clone()), group.ids());
                }
            }
            Whose::Units(_) => {
                let target = |(level, map): &(u32, SetRef)| Target {
                    level: Some(*level),
                    set: map.clone(),
                    data: Some(data.clone()),
                };
                let targets = maps.iter().map(target).collect();
                self.dispatch.patterns.push(pattern_of(annotation, targets, group.ids()));
            }
        }
    }

    fn called_chain(&mut self, table: &TableRef, name: &str, group: &Group<'_>) {
        self.make(format!("chain {table} {name}"), "", &group.ids());
        for mapped in &group.rules {
            let mut line = Line::new(format!("add rule {table} {name}")).of(&[mapped.rule.id]);
            line.write_tokens(mapped.rest.iter().copied());
            if mapped.rest.is_empty() {
                line.write(" continue");
            }
            self.dispatch.script.lines.push(line);
        }
    }

    /// The rule itself. If its cgroups may be at several levels, what stands in front of the match calls a chain with
    /// the look-ups and the rest, so that each of them acts once. What can't be called is there for each level.
    fn in_place(&mut self, rule: &Rule<'_>, due: Due) {
        let selectors = &rule.annotation.selectors;
        let units = rule.annotation.units_match().map(|span| (span, levels_of(selectors, self.levels)));
        if let Some((span, levels)) = &units
            && levels.len() > 1
            && let Some((before, rest)) = around_units(&rule.body)
        {
            let cgroup = Match::Units(*span);
            let group = Group { whose: Whose::Units(selectors), rules: vec![Mapped { rule, cgroup, rest }] };
            let chain = self.guarded(levels, &group);
            let mut line = self.gated(rule, &chain, due);
            line.write_tokens(before);
            line.write(format!(" jump {chain}"));
            return self.dispatch.script.lines.push(line);
        }
        let run = self.names.run(&rule.statement.chain);
        let line = self.gated(rule, &run, due);
        let Some((_, levels)) = units else { return self.in_place_at(line, rule, &run, &[]) };
        let mut sets = Vec::new();
        for level in levels {
            let set = self.cgroups_set(rule, &run);
            let targets = vec![Target { level: Some(level), set: set.clone(), data: None }];
            self.dispatch.patterns.push(pattern_of(rule.annotation, targets, vec![rule.id]));
            sets.push((level, set));
            self.in_place_at(line.clone(), rule, &run, &sets);
        }
    }

    /// The beginning of a rule that is behind a gate.
    fn gated(&mut self, rule: &Rule<'_>, run: &str, due: Due) -> Line {
        let mut line = beginning(rule).of(&[rule.id]);
        if let Some(left) = rule.annotation.left {
            line.write(format!(" meta mark @{}", self.closing_gate(rule, run, left)));
        }
        if due != Due::Always {
            line.write(format!(" meta mark @{}", self.gate(rule, run, due)));
        }
        line
    }

    /// A rule with a set in place of each match. `units` are the sets of the selected units by their level, up to that
    /// of the last: what is in an earlier one is another copy's business.
    fn in_place_at(&mut self, mut line: Line, rule: &Rule<'_>, run: &str, units: &[(u32, SetRef)]) {
        let in_set = |set: &SetRef, is_negated: bool| match is_negated {
            true => format!(" != @{}", set.name),
            false => format!(" @{}", set.name),
        };
        for part in &rule.body {
            match part {
                Part::Verbatim(token) if token.spaced => line.write_tokens([token]),
                Part::Verbatim(token) => line.write_for(&*token.text, token.span),
                // It is no unit's rule, and in no run.
                Part::Record(_) => {}
                Part::Units(span) => {
                    for (number, (level, set)) in units.iter().rev().enumerate() {
                        write_match(&mut line, *level, &in_set(set, number > 0), *span);
                    }
                }
                Part::Cgroup(cgroup) => {
                    let set = self.cgroups_set(rule, run);
                    for (path, _) in &cgroup.paths {
                        self.cgroup(rule.annotation, &set, path, None, vec![rule.id]);
                    }
                    write_match(&mut line, cgroup.level, &in_set(&set, cgroup.negated), cgroup.span);
                }
            }
        }
        self.dispatch.script.lines.push(line);
    }

    /// A set for those of a match's cgroups that exist.
    fn cgroups_set(&mut self, rule: &Rule<'_>, run: &str) -> SetRef {
        let name = self.names.below(&rule.statement.chain.table, run, &rule.annotation.selectors.label().0);
        self.set("set", rule, name, "type cgroupsv2;", &[rule.id])
    }

    /// A set that holds every packet's mark until the time is over: the kernel ends it. Returns its name.
    fn closing_gate(&mut self, rule: &Rule<'_>, run: &str, left: Duration) -> Arc<str> {
        let name = self.names.below(&rule.statement.chain.table, run, "until");
        let set = self.set("set", rule, name, "type mark; flags interval,timeout;", &[rule.id]);
        // None would be for ever.
        let left = left.as_millis().max(1);
        let element = format!("add element {set} {{ {EVERY_MARK} timeout {left}ms }}");
        self.dispatch.script.lines.push(Line::new(element).of(&[rule.id]));
        set.name
    }

    /// A set that holds every packet's mark while the rule is due, and none else. Returns its name.
    fn gate(&mut self, rule: &Rule<'_>, run: &str, due: Due) -> Arc<str> {
        let Rule { id, annotation, .. } = *rule;
        let name = self.names.below(&rule.statement.chain.table, run, "active");
        let set = self.set("set", rule, name, "type mark; flags interval;", &[id]);
        let name = Arc::clone(&set.name);
        let target = || vec![Target { level: None, set: set.clone(), data: None }];
        let paths: BTreeSet<CgroupPath> = rule.statement.paths().cloned().gather();
        let conditions: Vec<Condition> = match (due, annotation.only_unit()) {
            (Due::Always, _) => vec![],
            (Due::UnitActive, Some(unit)) => {
                if let Some(selectors) = annotation.users_units() {
                    let unless = Some(unit.clone());
                    let pattern = pattern_of(annotation, target(), vec![id]);
                    self.dispatch.patterns.push(Pattern { selectors, unless, ..pattern });
                }
                vec![Condition::UnitActive(unit.clone())]
            }
            _ if paths.is_empty() => {
                self.dispatch.patterns.push(pattern_of(annotation, target(), vec![id]));
                vec![]
            }
            (Due::AnyPath, _) => paths.into_iter().map(Condition::Cgroup).collect(),
            (Due::AllPaths | Due::UnitActive, _) => vec![Condition::AllCgroups(paths)],
        };
        let element = Element { set, key: Key::Everything, data: None };
        for condition in conditions {
            self.row(annotation, element.clone(), condition, vec![id]);
        }
        name
    }

    /// Makes a map, set, chain or counter.
    fn make(&mut self, object: String, specification: &str, annotations: &[AnnotationId]) {
        let text = format!("add {object}{specification}");
        self.dispatch.objects.insert(object);
        self.dispatch.script.lines.push(Line::new(text).of(annotations));
    }

    /// Makes a map or set in the table of a rule's chain.
    fn set(&mut self, kind: &str, rule: &Rule<'_>, name: String, of: &str, ids: &[AnnotationId]) -> SetRef {
        let set = SetRef { table: rule.statement.chain.table.clone(), name: name.into() };
        self.make(format!("{kind} {set}"), &format!(" {{ {of} }}"), ids);
        set
    }

    /// An element for a cgroup, while that exists.
    fn cgroup(
        &mut self,
        annotation: &Annotation,
        set: &SetRef,
        path: &CgroupPath,
        data: Option<Data>,
        ids: Vec<AnnotationId>,
    ) {
        let element = Element { set: set.clone(), key: Key::Cgroup(path.clone()), data };
        self.row(annotation, element, Condition::Cgroup(path.clone()), ids);
    }

    fn row(&mut self, of: &Annotation, element: Element, condition: Condition, ids: Vec<AnnotationId>) {
        let (element, unit) = (element.into(), of.unit.clone());
        self.dispatch.rows.push(Row { element, condition, unit, annotations: ids });
    }
}

fn pattern_of(annotation: &Annotation, targets: Vec<Target>, annotations: Vec<AnnotationId>) -> Pattern {
    let (selectors, unit) = (annotation.selectors.clone(), annotation.unit.clone());
    Pattern { selectors, targets, unless: None, unit, annotations }
}

/// The match of a packet's cgroup at a level, for one that stands at `origin`.
fn write_match(line: &mut Line, level: u32, with: &str, origin: Span) {
    line.write(" ");
    line.write_for(format!("socket cgroupv2 level {level}{with}"), origin);
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
