//! Every fix is tried before it is offered: it is only good if its finding goes with it and no other one comes.
//!
//! Fixes of different annotations and lines are tried together, those of the same ones apart. If a finding stays or comes,
//! the fixes are done without in whose lines it is; if it is in nobody's lines, each half is tried by itself.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::PathBuf,
};

use super::examine::{Found, Machine, Texts};
use crate::{
    gather::Gather,
    policy::Policy,
    text::{Code, Diagnostic, Edits, FileId, Span},
    trial::Untried,
};

/// How many times the files are loaded to try fixes. What is not known to be good by then is not offered.
const TRIES: usize = 32;

/// Leaves out all fixes that are not good; what there is to say stays.
pub(super) fn keep_good(machine: &Machine<'_>, texts: &Texts, found: &mut Found) {
    let good: BTreeSet<usize> = good(machine, texts, found).flatten().gather();
    for (number, diagnostic) in found.diagnostics.iter_mut().enumerate() {
        diagnostic.fix = diagnostic.fix.take().filter(|_| good.contains(&number));
    }
}

/// The diagnostics in these texts whose fixes are good, by their numbers, in groups that are good together.
pub(super) fn good<'a>(
    machine: &'a Machine<'a>,
    texts: &'a Texts,
    found: &'a Found,
) -> impl Iterator<Item = Vec<usize>> {
    let before = found.diagnostics.iter().map(|diagnostic| Finding::of(found, diagnostic));
    let proof = Proof { machine, texts, found, before: before.collect(), tries: Cell::new(TRIES) };
    apart(found).into_iter().map(move |group| proof.good(&group)).filter(|group| !group.is_empty())
}

/// The texts with some of the fixes.
pub(super) fn with(texts: &Texts, found: &Found, fixes: &[usize]) -> Texts {
    let mut edited = texts.clone();
    for (file, edits) in edits(found, fixes) {
        let file = found.policy.sources.file(file);
        edited.edit(file, &edits.apply(&file.text));
    }
    edited
}

fn edits<'a>(found: &'a Found, fixes: &[usize]) -> BTreeMap<FileId, Edits<'a>> {
    let mut edits: BTreeMap<FileId, Edits<'a>> = BTreeMap::new();
    for fix in fixes.iter().filter_map(|number| found.diagnostics[*number].fix.as_ref()) {
        edits.entry(fix.span.file).or_default().add(fix);
    }
    edits
}

/// All fixes that can be tried, in groups, within each of which none is about the lines of another one.
fn apart(found: &Found) -> Vec<Vec<usize>> {
    let mut groups: Vec<(BTreeMap<FileId, usize>, Vec<usize>)> = Vec::new();
    for (number, diagnostic) in found.diagnostics.iter().enumerate() {
        let Some((file, lines)) = lines(&found.policy, diagnostic) else { continue };
        let is_behind = |(last, _): &&mut (BTreeMap<FileId, usize>, _)| {
            last.get(&file).is_none_or(|last| last < lines.start())
        };
        match groups.iter_mut().find(is_behind) {
            Some((last, group)) => {
                last.insert(file, *lines.end());
                group.push(number);
            }
            None => groups.push(([(file, *lines.end())].into(), vec![number])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The lines that a fix is about, with those of the annotations that it and its finding are in.
fn lines(policy: &Policy, diagnostic: &Diagnostic) -> Option<(FileId, RangeInclusive<usize>)> {
    let place = diagnostic.fix.as_ref()?.span;
    // What is not UTF-8 in a file is not in its text.
    if !policy.sources.file(place.file).is_utf8 {
        return None;
    }
    let around = |span: Span| [Some(span), policy.annotation_at(span).map(|id| policy.annotation(id).span)];
    let spans = [place, diagnostic.span].into_iter().flat_map(around).flatten();
    let spans: Vec<Span> = spans.filter(|span| span.file == place.file).collect();
    let line = |at: usize| policy.sources.line(place.file, at);
    let first = spans.iter().map(|span| line(span.start)).min()?;
    let last = spans.iter().map(|span| line(span.end)).max()?;
    Some((place.file, first..=last))
}

/// A finding, wherever in its line it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: PathBuf,
    line: usize,
    code: Code,
}

impl Finding {
    fn of(found: &Found, diagnostic: &Diagnostic) -> Self {
        let Span { file, start, .. } = diagnostic.span;
        let line = found.policy.sources.line(file, start);
        Self { file: found.identity(file), line, code: diagnostic.code }
    }
}

struct Proof<'a> {
    machine: &'a Machine<'a>,
    texts: &'a Texts,
    found: &'a Found,
    /// What each of the diagnostics is about.
    before: Vec<Finding>,
    tries: Cell<usize>,
}

impl Proof<'_> {
    /// Those of these fixes that are good.
    fn good(&self, group: &[usize]) -> Vec<usize> {
        if group.is_empty() || self.tries.get() == 0 {
            return vec![];
        }
        self.tries.set(self.tries.get() - 1);
        let Some(wrong) = self.wrong(group) else { return self.halves(group) };
        if wrong.is_empty() {
            return group.to_vec();
        }
        let others: Vec<usize> =
            group.iter().copied().filter(|number| !self.is_to_blame(*number, &wrong)).collect();
        if others.len() < group.len() { self.good(&others) } else { self.halves(group) }
    }

    fn halves(&self, group: &[usize]) -> Vec<usize> {
        match group.split_at(group.len() / 2) {
            ([], _) => vec![],
            (first, second) => [self.good(first), self.good(second)].concat(),
        }
    }

    /// The files and lines of the findings that stay or come with these fixes; nothing if it is worse than that.
    fn wrong(&self, group: &[usize]) -> Option<BTreeSet<(PathBuf, usize)>> {
        let after = self.machine.examine(&with(self.texts, self.found, group)).ok()?;
        let is_less = after.policy.annotations.len() < self.found.policy.annotations.len();
        if is_less || loaded(&after) < loaded(self.found) {
            return None;
        }
        let edits = edits(self.found, group);
        let edits = edits.iter().map(|(file, edits)| (self.found.identity(*file), (*file, edits)));
        let edits: BTreeMap<PathBuf, (FileId, &Edits<'_>)> = edits.gather();
        let mut may_stay: BTreeMap<&Finding, usize> = BTreeMap::new();
        for (_, finding) in
            self.before.iter().enumerate().filter(|(number, _)| group.binary_search(number).is_err())
        {
            *may_stay.entry(finding).or_default() += 1;
        }
        let before = |diagnostic: &Diagnostic| {
            let finding = Finding::of(&after, diagnostic);
            let line = edits.get(&finding.file).map(|(file, edits)| {
                self.found.policy.sources.line(*file, edits.before(diagnostic.span.start))
            });
            Finding { line: line.unwrap_or(finding.line), ..finding }
        };
        let comes = |finding: &Finding| match may_stay.get_mut(finding) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        };
        let coming = after.diagnostics.iter().map(before).filter(comes);
        Some(coming.map(|finding| (finding.file, finding.line)).gather())
    }

    /// Whether something is wrong in the lines of a fix.
    fn is_to_blame(&self, number: usize, wrong: &BTreeSet<(PathBuf, usize)>) -> bool {
        let lines = lines(&self.found.policy, &self.found.diagnostics[number]);
        lines.is_none_or(|(file, lines)| {
            let line = |line: &usize| (self.found.identity(file), *line);
            wrong.range(line(lines.start())..=line(lines.end())).next().is_some()
        })
    }
}

/// How much was loaded.
fn loaded(found: &Found) -> u8 {
    match found.untried {
        None => 2,
        Some(Untried::Annotations) => 1,
        Some(_) => 0,
    }
}
