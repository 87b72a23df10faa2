//! How things stand, as the control socket tells it: what the policy asks for, and what the kernel says that it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use litemap::LiteMap;
use serde_json::json;

use super::Daemon;
use crate::{
    cgroupfs::look,
    control::{
        message::{self, Status},
        wire,
    },
    dispatch,
    engine::{Engine, Kept, Standing},
    gather::{Gather, sort_by},
    model::{AnnotationId, CgroupId, CgroupPath, Count, CounterRef, HostName, Key, SetRef, Source},
    nft::{Content, words_of},
    policy::{Annotation, Policy},
    text::{Diagnostic, Severity},
    units::{
        Users,
        places::may_see,
        selector::{Selectors, Whose},
    },
};

/// The most problems that are told one by one.
const PROBLEMS: usize = 20;

/// The most cgroups of a unit that are told one by one.
const INSTANCES: usize = 1000;

/// What the kernel has, as it was just read.
struct Found {
    sets: LiteMap<SetRef, Content>,
    looked_up: BTreeSet<SetRef>,
    counters: BTreeMap<CounterRef, Count>,
}

/// What annotations of one unit, or with one selector, ask for.
#[derive(Default)]
struct Group {
    annotations: Vec<AnnotationId>,
    cgroups: BTreeMap<CgroupPath, message::Instance>,
    is_active: bool,
    due: usize,
    in_kernel: usize,
    refused: BTreeSet<AnnotationId>,
    /// Its counters, one in each table, and whether the viewer may know what they have counted.
    counters: BTreeMap<CounterRef, bool>,
}

impl Daemon {
    /// How things stand, as far as a user may see it: of all units, or of those that match.
    ///
    /// # Errors
    /// The answer: nothing matches.
    pub(super) fn status(&mut self, viewer: u32, unit: Option<&str>) -> Result<Status, Arc<[u8]>> {
        let mut problems = self.problems();
        let found = self.read_kernel(&mut problems);
        let policy = Arc::clone(&self.policy);
        let mut groups = self.groups(&policy, viewer, found.as_ref());
        if let Some(text) = unit {
            keep_matching(&mut groups, text, &policy)?;
        }
        let meant: BTreeSet<AnnotationId> =
            groups.iter().flat_map(|(_, group)| group.annotations.iter().copied()).gather();
        let names: BTreeSet<&str> = groups.iter().map(|(name, _)| *name).gather();
        let (mut due, mut in_kernel) = (0, 0);
        for (name, group) in &groups {
            (due, in_kernel) = (due + group.due, in_kernel + group.in_kernel);
            if group.in_kernel < group.due {
                problems.push(format!(
                    "{name}: {} of {} elements are not in the kernel",
                    group.due - group.in_kernel,
                    group.due
                ));
            }
        }
        for (id, words) in self.refused.iter().filter(|(id, _)| meant.contains(id)) {
            let annotation = policy.annotation(*id);
            problems.push(format!(
                "{}: {}: {words}",
                policy.sources.location(annotation.unit_span),
                annotation.unit
            ));
        }
        if let Some(found) = &found {
            problems.extend(not_looked_up(&self.engine, found, &meant));
        }
        let units = groups
            .into_iter()
            .map(|(name, group)| group.unit(name, &policy, found.as_ref(), unit.is_some()))
            .collect();
        let (errors, warnings, mut findings) = self.notices.found();
        // Of other users' annotations there is none here.
        findings.retain(|one| one.unit.as_deref().is_none_or(|unit| names.contains(unit)));
        if errors > 0 && unit.is_none() {
            let count = if errors == 1 { "an error".to_owned() } else { format!("{errors} errors") };
            let (command, them) = (check_command(&policy), if errors == 1 { "it" } else { "them" });
            problems.insert(0, format!("the files have {count}: {command} explains {them}"));
        }
        let in_force = problems.is_empty();
        if problems.len() > PROBLEMS {
            let more = problems.len() - PROBLEMS;
            problems.truncate(PROBLEMS);
            problems.push(format!("and {more} more"));
        }
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            files: self.files.states().map(|(path, changed)| message::File { path, changed }).collect(),
            loaded_at: micros(self.loaded_at.duration_since(UNIX_EPOCH).unwrap_or_default()),
            load_error: self.load_error.clone(),
            on_trial_ms: self.control.trial_left(self.now()).map(|left| micros(left) / 1000),
            annotations: policy.of_units().count(),
            errors,
            warnings,
            findings,
            sources: self.sources(),
            hosts: self.hosts(),
            units,
            allowances: self.shown_allowances(viewer),
            due,
            in_kernel,
            in_force,
            problems,
        })
    }

    /// What keeps the policy as a whole from being in force.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(words) = &self.load_error {
            problems.push(format!("the last load failed, and the old policy stays: {words}"));
        }
        if self.engine.is_fought() {
            problems.push("somebody undoes what is loaded, again and again: see the log".to_owned());
        } else if !self.engine.is_settled() {
            problems.push("the policy is about to be loaded again".to_owned());
        }
        problems
    }

    /// What the kernel has of the sets that the policy needs. None, and a problem, if it cannot be read.
    fn read_kernel(&mut self, problems: &mut Vec<String>) -> Option<Found> {
        let sets: BTreeSet<SetRef> =
            self.engine.standings().map(|(_, row, _)| row.element.set.clone()).gather();
        let is_counted = self.policy.annotations.iter().any(|annotation| annotation.is_counted);
        let read = || {
            let content = |set: SetRef| match self.kernel.content(&set) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((set, Content::default())),
                other => other.map(|content| (set, content)),
            };
            let sets = sets.into_iter().map(content).try_gather()?;
            let counters = if is_counted { self.kernel.counters()? } else { BTreeMap::new() };
            io::Result::Ok(Found { sets, looked_up: self.kernel.looked_up()?, counters })
        };
        read()
            .inspect_err(|error| {
                problems.push(format!("the kernel's rules cannot be read: {}", words_of(error)))
            })
            .ok()
    }

    /// What annotations ask for, by the unit or selector as it is written, in the order of the files.
    fn groups<'a>(&self, policy: &'a Policy, viewer: u32, found: Option<&Found>) -> Vec<(&'a str, Group)> {
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut groups: Vec<(&str, Group)> = Vec::new();
        let mut of_annotation: Vec<Option<usize>> = Vec::new();
        for (id, annotation) in policy.iter() {
            let is_seen = !annotation.is_record() && annotation_is_seen(annotation, viewer, &self.users);
            of_annotation.push(is_seen.then(|| {
                let number = *numbers.entry(&annotation.unit.0).or_insert_with(|| {
                    groups.push((&annotation.unit.0, Group::default()));
                    groups.len() - 1
                });
                groups[number].1.annotations.push(id);
                number
            }));
        }
        for (id, annotation) in policy.iter() {
            let Some(counter) = dispatch::counter(annotation) else { continue };
            let is_seen = count_is_seen(annotation, viewer, &self.users);
            if let Some(number) = of_annotation[id.0] {
                groups[number]
                    .1
                    .counters
                    .entry(counter)
                    .and_modify(|seen| *seen &= is_seen)
                    .or_insert(is_seen);
            }
        }
        for (id, number) in self.refused.keys().filter_map(|id| Some((id, (*of_annotation.get(id.0)?)?))) {
            let group = &mut groups[number].1;
            group.refused.insert(*id);
            // It has no elements that would tell.
            let mut paths = policy.annotation(*id).statement.paths();
            group.is_active |= paths.any(|path| may_see(viewer, path.as_str()) && look(path).is_some());
        }
        for (_, row, standing) in self.engine.standings() {
            if row.element.key.cgroup().is_some_and(|path| !may_see(viewer, path.as_str())) {
                continue;
            }
            let of_row: BTreeSet<usize> =
                row.annotations.iter().filter_map(|id| *of_annotation.get(id.0)?).gather();
            let is_held = is_held(row, standing, found);
            for number in of_row {
                groups[number].1.take(row, standing, is_held);
            }
        }
        groups
    }

    fn sources(&self) -> Vec<message::Source> {
        let figures = self.engine.figures();
        let latencies: Vec<(Source, Duration)> = self.engine.latencies().collect();
        let of_source = |source: Source| {
            let mut taken: Vec<Duration> =
                latencies.iter().filter(|(of, _)| *of == source).map(|(_, taken)| *taken).collect();
            sort_by(&mut taken, Ord::cmp);
            let is_on = self.options.sources.contains(&source);
            let words = self.lost.get(&source).filter(|_| is_on).cloned();
            let state = match (&words, is_on) {
                (_, false) => "off",
                (Some(_), true) => "lost",
                (None, true) => "working",
            };
            message::Source {
                name: source.as_str().to_owned(),
                state: state.to_owned(),
                words,
                first: figures.first.get(&source).copied().unwrap_or_default(),
                median_us: taken.get(taken.len() / 2).copied().map(micros),
                worst_us: taken.last().copied().map(micros),
            }
        };
        Source::ALL.into_iter().map(of_source).chain(self.fills.source()).collect()
    }

    fn hosts(&self) -> Vec<message::Host> {
        let of_host = |host: HostName| message::Host {
            addresses: self.hosts.known().get(&host).into_iter().flatten().map(ToString::to_string).collect(),
            words: self.notices.why_unresolved(&host),
            name: host.name,
        };
        self.policy.host_names().into_iter().map(of_host).collect()
    }
}

impl Group {
    fn take(&mut self, row: &Kept, standing: Standing, is_held: bool) {
        let is_due = standing != Standing::NotDue;
        self.due += usize::from(is_due);
        self.in_kernel += usize::from(is_due && is_held);
        self.is_active |= is_due;
        if standing == Standing::Refused {
            self.refused.extend(row.annotations.iter());
        }
        let Some(path) = row.element.key.cgroup().filter(|_| is_due) else { return };
        let id = if let Standing::InForce(Some(CgroupId(id))) = standing { id } else { 0 };
        let instance = self.cgroups.entry(path.clone()).or_insert_with(|| message::Instance {
            path: path.as_str().to_owned(),
            ..message::Instance::default()
        });
        instance.id = instance.id.max(id);
        instance.due += 1;
        instance.in_kernel += usize::from(is_held);
    }

    /// What its counters have counted, those of all tables, if there is one and the viewer may know of all.
    fn count(&self, found: &Found) -> Option<Count> {
        let may_know = self.counters.values().all(|is_seen| *is_seen);
        let counts = self.counters.keys().filter(|_| may_know).filter_map(|one| found.counters.get(one));
        counts.copied().reduce(|one, other| Count {
            packets: one.packets.saturating_add(other.packets),
            bytes: one.bytes.saturating_add(other.bytes),
        })
    }

    fn unit(self, name: &str, policy: &Policy, found: Option<&Found>, in_depth: bool) -> message::Unit {
        let count = found.and_then(|found| self.count(found));
        let place = |id: &AnnotationId| policy.sources.location(policy.annotation(*id).unit_span);
        message::Unit {
            name: name.to_owned(),
            annotations: self.annotations.iter().map(place).collect(),
            running: self.is_active,
            cgroups: self.cgroups.len(),
            due: self.due,
            in_kernel: self.in_kernel,
            missing: self.due - self.in_kernel,
            refused: self.refused.len(),
            packets: count.map(|count| count.packets),
            bytes: count.map(|count| count.bytes),
            refused_packets: None,
            instances: if in_depth { self.cgroups.into_values().take(INSTANCES).collect() } else { vec![] },
            words: vec![],
        }
    }
}

/// The command that explains what is found in a policy's files.
pub(super) fn check_command(policy: &Policy) -> String {
    let files: Vec<&str> = policy.sources.files.iter().map(|file| file.path.as_str()).collect();
    format!("`scnpm check {}`", files.join(" "))
}

/// Keeps the units that match: by name or selector, or else by a part of their name or of a cgroup's path.
///
/// # Errors
/// The answer: nothing matches.
fn keep_matching(groups: &mut Vec<(&str, Group)>, text: &str, policy: &Policy) -> Result<(), Arc<[u8]>> {
    let selectors = Selectors::parse(text).ok();
    let is_meant = |(name, group): &(&str, Group)| {
        let mut all = group.annotations.iter().map(|id| &policy.annotation(*id).selectors);
        *name == text || selectors.as_ref().is_some_and(|wanted| all.any(|one| one.overlap(wanted)))
    };
    let is_part = |(name, group): &(&str, Group)| {
        name.contains(text) || group.cgroups.keys().any(|path| path.as_str().contains(text))
    };
    match groups.iter().any(is_meant) {
        true => groups.retain(is_meant),
        false => groups.retain(is_part),
    }
    match groups.is_empty() {
        true => Err(wire::error("NoSuchUnit", &json!({ "unit": text }))),
        false => Ok(()),
    }
}

/// Whether the kernel has what is due of a row.
fn is_held(row: &Kept, standing: Standing, found: Option<&Found>) -> bool {
    let Standing::InForce(id) = standing else { return false };
    let Some(content) = found.and_then(|found| found.sets.get(&row.element.set)) else { return true };
    match (&row.element.key, id) {
        // A key of other bytes is one of several things, and of a gate.
        (Key::Cgroup(_), Some(id)) => content.ids.contains(&id) || content.others > 0,
        _ => content.others > 0,
    }
}

/// Sets of ours with something in them for these annotations that no rule looks up.
fn not_looked_up(engine: &Engine, found: &Found, meant: &BTreeSet<AnnotationId>) -> Vec<String> {
    let is_due = |row: &Kept, standing| {
        standing != Standing::NotDue && row.annotations.iter().any(|id| meant.contains(id))
    };
    let due = engine.standings().filter(|(_, row, standing)| is_due(row, *standing));
    let ours: BTreeSet<&SetRef> =
        due.map(|(_, row, _)| &row.element.set).filter(|set| set.is_ours()).gather();
    let lost = ours.into_iter().filter(|set| !found.looked_up.contains(*set));
    lost.map(|set| format!("no rule looks anything up in {set}")).collect()
}

/// Whether a user may know of an annotation: it is not about other users alone.
fn annotation_is_seen(annotation: &Annotation, viewer: u32, users: &Users) -> bool {
    let is_own = |whose: &Whose| match whose {
        Whose::Anybody | Whose::System | Whose::AnyUser => true,
        Whose::Uid(uid) => *uid == viewer,
        Whose::User(name) => users.get(name) == Some(&viewer),
    };
    let mut paths = annotation.statement.paths().peekable();
    viewer == 0
        || (annotation.selectors.0.iter().any(|one| is_own(&one.whose))
            && (paths.peek().is_none() || paths.any(|path| may_see(viewer, path.as_str()))))
}

/// Whether a user may know how much an annotation counts: nothing of what other users' units send or get.
fn count_is_seen(annotation: &Annotation, viewer: u32, users: &Users) -> bool {
    let is_own = |whose: &Whose| match whose {
        Whose::System => true,
        Whose::Anybody | Whose::AnyUser => false,
        Whose::Uid(uid) => *uid == viewer,
        Whose::User(name) => users.get(name) == Some(&viewer),
    };
    let mut paths = annotation.statement.paths().peekable();
    viewer == 0
        || match paths.peek() {
            Some(_) => paths.all(|path| may_see(viewer, path.as_str())),
            None => annotation.selectors.0.iter().all(|one| is_own(&one.whose)),
        }
}

/// What is found, for programs.
pub(super) fn finding(diagnostic: &Diagnostic, policy: &Policy) -> message::Finding {
    let (line, column) = policy.sources.line_column(diagnostic.span);
    message::Finding {
        code: diagnostic.code.as_str().to_owned(),
        severity: match diagnostic.severity() {
            Severity::Error => "error".to_owned(),
            Severity::Warning => "warning".to_owned(),
        },
        message: diagnostic.message.clone(),
        file: policy.sources.file(diagnostic.span.file).path.clone(),
        line,
        column,
        unit: policy.annotation_at(diagnostic.span).map(|id| policy.annotation(id).unit.0.to_string()),
        help: diagnostic.help.clone(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
