//! Policy to kernel: compile, try, blame, leave out, try again.
//!
//! One transaction takes away what an earlier load left and puts the whole dispatch in place, with the elements that are
//! due. When nft refuses it, the annotations that its complaints lead to are left out and the others are tried again.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    dispatch::{self, Bound, Dispatch, HostSet, Levels, Line, Pattern, Script, leftovers, pattern::level},
    engine::Outcome,
    model::{AnnotationId, Binding, CgroupId, CgroupPath, Data, Element, Instance, Key, UnitName, UnitOf},
    nft::{Complaint, Kernel},
    policy::{Annotation, Part, Policy, Statement, hosts::Hosts},
    text::{Code, Diagnostic, Span},
    units::selector::{Selectors, Users},
};

/// How often a load is tried again because the machine changed under it.
const TRIES: usize = 8;

/// After so many refused loads annotations are tried in small groups.
const ROUNDS_TOGETHER: usize = 3;

/// How many annotations are tried together then: the kernel takes milliseconds to undo a script that was only tried,
/// however long it is, and nft is quick to refuse a short one.
const GROUP: usize = 16;

/// What is to be loaded, and what the machine looks like.
pub struct Load<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The addresses of its host names.
    pub hosts: &'a Hosts,
    /// Whether to flush the chains that annotations name.
    pub flush: bool,
    /// Looks at a cgroup.
    pub look: &'a dyn Fn(&CgroupPath) -> Option<CgroupId>,
    /// Whether a unit is active.
    pub active: &'a dyn Fn(&UnitName, UnitOf) -> bool,
    /// The cgroups of units that selectors select.
    pub instances: &'a [Instance],
    /// The users whom selectors name.
    pub users: &'a Users,
}

/// What is in the kernel now.
#[derive(Debug)]
pub struct Loaded {
    /// What the engine is to keep true.
    pub bindings: Vec<Binding>,
    /// What it is to make of units as they come.
    pub patterns: Vec<Pattern>,
    /// The elements that went in with it.
    pub installed: Vec<(Element, Outcome)>,
    /// The sets of host names that went in with it.
    pub hosts: Vec<HostSet>,
    /// What nft refused, in the order of the files, with its words.
    pub diagnostics: Vec<Diagnostic>,
    /// What it was loaded into, as libnftables lists it.
    pub ruleset: Value,
}

/// Nothing was loaded, and no annotation is to blame.
#[derive(Debug)]
pub struct LoadError {
    /// nft's words.
    pub words: Vec<String>,
}

/// The text that a policy is loaded as, without elements, while there are these instances of its units.
pub fn script(policy: &Policy, hosts: &Hosts, instances: &[Instance], users: &Users) -> Dispatch {
    dispatch::compile(policy, &BTreeSet::new(), hosts, &levels(policy, instances, users))
}

/// The levels at which there are instances of the units that `socket cgroupv2 unit` stands for.
fn levels(policy: &Policy, instances: &[Instance], users: &Users) -> Levels {
    let with_units = policy.iter().filter(|(_, annotation)| annotation.units_match().is_some());
    let selectors: BTreeSet<&Selectors> = with_units.map(|(_, annotation)| &annotation.selectors).collect();
    let of = |selectors: &Selectors| {
        let selected = instances.iter().filter(|instance| selectors.select(instance, users));
        (selectors.clone(), selected.map(|instance| level(&instance.path)).collect())
    };
    selectors.into_iter().map(of).collect()
}

impl Load<'_> {
    /// Loads it.
    ///
    /// # Errors
    /// If nft refuses it for something that no annotation is to blame for; the kernel holds what it held then.
    pub fn run(&self, kernel: &mut dyn Kernel) -> Result<Loaded, LoadError> {
        let mut blamed = Blamed::default();
        let mut rounds = 0;
        let levels = levels(self.policy, self.instances, self.users);
        for _ in 0..TRIES + self.policy.annotations.len() {
            let dispatch = dispatch::compile(self.policy, &blamed.left_out(), self.hosts, &levels);
            let bound = dispatch.bound(self.instances, self.users);
            let present = self.present(&bound, &blamed);
            let ruleset = kernel.list().map_err(|complaints| LoadError { words: words(&complaints) })?;
            let removal = self.removal(&ruleset, &dispatch, &blamed);
            let mut script = removal.clone();
            script.append(dispatch.script.clone());
            script.append(dispatch::elements(present.keys().copied()));
            let complaints = match kernel.run(&script.to_string(), false) {
                Ok(()) => {
                    return Ok(self.loaded(kernel, &dispatch, &present, blamed, ruleset));
                }
                Err(complaints) => complaints,
            };
            rounds += 1;
            let progress = self.blame(&complaints, &script, removal.lines.len(), &mut blamed);
            if progress == Progress::None || rounds == ROUNDS_TOGETHER {
                let before = blamed.refused.len();
                self.try_in_groups(kernel, &levels, &mut blamed);
                if progress == Progress::None && blamed.refused.len() == before {
                    return Err(LoadError { words: words(&complaints) });
                }
            }
        }
        Err(LoadError { words: vec!["the ruleset changes faster than it can be loaded".to_owned()] })
    }

    /// The elements that are due, with the id of their cgroup.
    fn present<'d>(&self, bound: &'d [Bound], blamed: &Blamed) -> BTreeMap<&'d Bound, Option<CgroupId>> {
        let mut names = BTreeSet::new();
        let exists = |path: &CgroupPath| !blamed.late.contains(path) && (self.look)(path).is_some();
        let due = |bound: &&Bound| bound.binding.condition.holds(exists, self.active);
        let key = |bound: &Bound| match &bound.binding.element.key {
            Key::Cgroup(path) => (self.look)(path),
            Key::Everything => None,
        };
        bound
            .iter()
            .filter(due)
            .filter(|bound| names.insert((&bound.binding.element.set, &bound.binding.element.key)))
            .map(|bound| (bound, key(bound)))
            .collect()
    }

    /// What goes before the new dispatch: the old one's end, and the flush.
    fn removal(&self, ruleset: &Value, dispatch: &Dispatch, blamed: &Blamed) -> Script {
        if !self.flush {
            return leftovers::removal(ruleset, &BTreeSet::new(), &dispatch.objects);
        }
        let (chains, _) = dispatch::hosting(self.policy);
        let flushed = chains.iter().map(ToString::to_string).collect();
        let mut script = dispatch::flush(self.policy, &blamed.left_out());
        script.append(leftovers::removal(ruleset, &flushed, &dispatch.objects));
        script
    }

    fn loaded(
        &self,
        kernel: &mut dyn Kernel,
        dispatch: &Dispatch,
        present: &BTreeMap<&Bound, Option<CgroupId>>,
        mut blamed: Blamed,
        ruleset: Value,
    ) -> Loaded {
        let outcome = |(bound, before): (&&Bound, &Option<CgroupId>)| {
            let outcome = match &bound.binding.element.key {
                Key::Cgroup(path) => Outcome::Added { before: *before, after: (self.look)(path) },
                Key::Everything => Outcome::Opened,
            };
            (bound.binding.element.clone(), outcome)
        };
        let installed = present.iter().map(outcome).collect();
        self.try_absent_elements(kernel, dispatch, present, &mut blamed);
        let left_out = blamed.left_out();
        let stays = |bound: &&Bound| bound.annotations.iter().any(|id| !left_out.contains(id));
        let bindings = dispatch.bindings.iter().filter(stays).map(|bound| bound.binding.clone()).collect();
        let stays = |(_, annotations): &&(Pattern, Vec<AnnotationId>)| {
            annotations.iter().any(|id| !left_out.contains(id))
        };
        let patterns = dispatch.patterns.iter().filter(stays).map(|(pattern, _)| pattern.clone()).collect();
        let hosts = dispatch.hosts.clone();
        Loaded { bindings, patterns, installed, hosts, diagnostics: blamed.diagnostics(self.policy), ruleset }
    }

    /// Tries the elements of users' own sets whose cgroup does not exist with the root cgroup in its place, so that a
    /// missing set or a wrong type is known now.
    fn try_absent_elements(
        &self,
        kernel: &mut dyn Kernel,
        dispatch: &Dispatch,
        present: &BTreeMap<&Bound, Option<CgroupId>>,
        blamed: &mut Blamed,
    ) {
        let absent = |bound: &&Bound| !bound.binding.element.set.is_ours() && !present.contains_key(bound);
        for bound in dispatch.bindings.iter().filter(absent) {
            let Element { set, data, .. } = &bound.binding.element;
            let data = data.as_ref().map(|data: &Data| format!(" : {data}")).unwrap_or_default();
            let line = Line::new(format!("add element {set} {{ \".\"{data} }}"));
            if let Err(complaints) = kernel.run(&format!("{line}\n"), true) {
                for id in &bound.annotations {
                    blamed.add(*id, None, &complaints[0].words);
                }
            }
        }
    }

    /// Leaves out the annotations that complaints lead to, and the elements whose cgroup just vanished.
    fn blame(
        &self,
        complaints: &[Complaint],
        script: &Script,
        removal: usize,
        blamed: &mut Blamed,
    ) -> Progress {
        let mut progress = Progress::None;
        for complaint in complaints {
            let Some((number, first, last)) = complaint.place else { continue };
            let Some(line) = script.line(number) else { continue };
            if number <= removal && line.annotations.is_empty() {
                progress = progress.max(Progress::MachineChanged);
            }
            if complaint.words.contains("cgroupv2 path fails")
                && let Some(path) = element_path(line)
            {
                progress =
                    progress.max(if blamed.late.insert(path) { Progress::Blamed } else { Progress::None });
                continue;
            }
            let origin = line.origin(first, last);
            for id in &line.annotations {
                let whole = self.policy.annotation(*id).span;
                let is_fit =
                    |place: &Span| self.policy.annotation_at(*place).is_none_or(|found| found.span == whole);
                let place = origin.filter(is_fit);
                if blamed.add(*id, place, &complaint.words) {
                    progress = Progress::Blamed;
                }
            }
        }
        progress
    }

    /// Finds all annotations that nft refuses, without any effect.
    fn try_in_groups(&self, kernel: &mut dyn Kernel, levels: &Levels, blamed: &mut Blamed) {
        let all: Vec<AnnotationId> = self.policy.iter().map(|(id, _)| id).collect();
        for group in all.chunks(GROUP) {
            self.try_group(kernel, group, levels, blamed);
        }
    }

    fn try_group(
        &self,
        kernel: &mut dyn Kernel,
        group: &[AnnotationId],
        levels: &Levels,
        blamed: &mut Blamed,
    ) {
        let group: Vec<AnnotationId> =
            group.iter().copied().filter(|id| !blamed.refused.contains_key(id)).collect();
        let Err(complaints) = self.try_only(kernel, &group, levels, blamed) else { return };
        match &group[..] {
            _ if complaints.is_empty() => self.try_group(kernel, &group, levels, blamed),
            [] => {}
            [id] => drop(blamed.add(*id, None, &complaints[0].words)),
            _ => {
                let (first, second) = group.split_at(group.len() / 2);
                self.try_group(kernel, first, levels, blamed);
                self.try_group(kernel, second, levels, blamed);
            }
        }
    }

    /// Tries some annotations. The error is what nft complains of and nobody can be blamed for.
    fn try_only(
        &self,
        kernel: &mut dyn Kernel,
        group: &[AnnotationId],
        levels: &Levels,
        blamed: &mut Blamed,
    ) -> Result<(), Vec<Complaint>> {
        let others = self.policy.iter().map(|(id, _)| id).filter(|id| !group.contains(id)).collect();
        let dispatch = dispatch::compile(self.policy, &others, self.hosts, levels);
        let bound = dispatch.bound(self.instances, self.users);
        let mut script = dispatch.script.clone();
        script.append(dispatch::elements(self.present(&bound, blamed).keys().copied()));
        let Err(complaints) = kernel.run(&script.to_string(), true) else { return Ok(()) };
        match self.blame(&complaints, &script, 0, blamed) {
            Progress::Blamed => Err(vec![]),
            _ => Err(complaints),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    None,
    MachineChanged,
    Blamed,
}

/// What goes into no further try.
#[derive(Debug, Default)]
struct Blamed {
    /// Annotations that nft refuses: where, and in which words.
    refused: BTreeMap<AnnotationId, (Option<Span>, String)>,
    /// Cgroups that vanished meanwhile; if they come again, the engine adds their elements.
    late: BTreeSet<CgroupPath>,
}

impl Blamed {
    fn add(&mut self, id: AnnotationId, place: Option<Span>, words: &str) -> bool {
        let new = !self.refused.contains_key(&id);
        self.refused.entry(id).or_insert_with(|| (place, words.to_owned()));
        new
    }

    fn left_out(&self) -> BTreeSet<AnnotationId> {
        self.refused.keys().copied().collect()
    }

    fn diagnostics(self, policy: &Policy) -> Vec<Diagnostic> {
        let refusal = |(id, (place, words)): (AnnotationId, (Option<Span>, String))| {
            refusal(policy.annotation(id), place, &words)
        };
        let mut diagnostics: Vec<Diagnostic> = self.refused.into_iter().map(refusal).collect();
        diagnostics.dedup();
        diagnostics
    }
}

/// What nft says of an annotation, as a diagnostic in it.
pub fn refusal(annotation: &Annotation, place: Option<Span>, words: &str) -> Diagnostic {
    let subject = subject(annotation);
    let span = place.unwrap_or(subject);
    let message = format!("nft refuses this annotation: {words}");
    if words.contains("Operation not supported") && needs_only_a_cgroup(&annotation.statement) {
        return Diagnostic::new(Code::Hook, subject, message).help(
            "a socket's cgroup is only known in chains that prerouting, input or output call, and in no others",
        );
    }
    let diagnostic = Diagnostic::new(Code::Refused, span, message);
    if words.contains("Interface does not exist") {
        return diagnostic.help("`iifname` and `oifname` compare names, and take one that does not exist");
    }
    match &annotation.statement {
        Statement::Element(_) if words.contains("Could not resolve hostname") => {
            diagnostic.help("the set is for addresses: an annotation needs one of `type cgroupsv2`")
        }
        _ if span != subject || !words.ends_with("No such file or directory") => diagnostic,
        Statement::Rule(rule) => {
            diagnostic.help(format!("make the chain outside the annotations: `add chain {}`", rule.chain))
        }
        Statement::Element(element) => diagnostic.help(format!(
            "make the set outside the annotations: `add set {} {{ type cgroupsv2; }}`",
            element.set
        )),
    }
}

/// Whether a rule matches cgroups, and has nothing else in it that some hooks do not have.
fn needs_only_a_cgroup(statement: &Statement) -> bool {
    const PARTICULAR: [&str; 10] =
        ["tproxy", "redirect", "masquerade", "snat", "dnat", "dup", "fwd", "synproxy", "reject", "queue"];
    let is_particular =
        |part: &Part| matches!(part, Part::Verbatim(token) if PARTICULAR.iter().any(|word| token.is(word)));
    match statement {
        Statement::Rule(rule) => statement.matches_cgroup() && !rule.body.iter().any(is_particular),
        Statement::Element(_) => false,
    }
}

/// What an annotation is about: the chain or set that it names.
fn subject(annotation: &Annotation) -> Span {
    match &annotation.statement {
        Statement::Rule(rule) => rule.chain_span,
        Statement::Element(element) => element.set_span,
    }
}

fn element_path(line: &Line) -> Option<CgroupPath> {
    let text = line.to_string();
    let rest = text.strip_prefix("add element ")?;
    rest.split('"').nth(1)?.parse().ok()
}

fn words(complaints: &[Complaint]) -> Vec<String> {
    complaints.iter().map(|complaint| complaint.words.clone()).collect()
}
