//! Lints about annotations with one another: W010, W011, W014.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cgroups,
    subject::{Subject, Verdict},
};
use crate::{
    dispatch::form::only_matches,
    model::{CgroupPath, ChainRef, UnitName},
    policy::{
        Annotation, AnnotationId, CgroupMatch, Code, Mistake, Part, Placement, Policy, Statement, Token,
        TokenKind, mistake::quoted,
    },
};

/// Annotations that say a thing twice, that say what is decided already, or that contradict each other.
pub(super) fn lint(policy: &Policy, subjects: &[Subject<'_>]) -> Vec<Mistake> {
    let originals = originals(policy);
    let contradictions = contradictions(policy, subjects);
    let shadowed = shadowed(policy, subjects, &originals);
    let duplicates = originals.iter().filter(|(id, first)| id != first).map(|(id, first)| {
        let message = format!("the same annotation as at {}", location(policy, policy.annotation(*first)));
        Mistake::new(Code::Duplicate, policy.annotation(*id).unit_span, message).help("leave one of them out")
    });
    let shadowed = shadowed.into_iter().filter(|(id, _)| !contradictions.contains_key(id));
    duplicates.chain(shadowed.map(|(_, mistake)| mistake)).chain(contradictions.values().cloned()).collect()
}

fn location(policy: &Policy, annotation: &Annotation) -> String {
    policy.sources.location(annotation.unit_span).to_string()
}

/// For each annotation the first one that says the same.
fn originals(policy: &Policy) -> BTreeMap<AnnotationId, AnnotationId> {
    let mut first: BTreeMap<(&UnitName, String, Vec<String>), AnnotationId> = BTreeMap::new();
    policy
        .iter()
        .map(|(id, annotation)| {
            let (place, words) = match &annotation.statement {
                Statement::Element(element) => (format!("element {}", element.set), elements(element)),
                Statement::Rule(rule) => {
                    (format!("rule {}", rule.chain), rule.body.iter().flat_map(words).collect())
                }
            };
            (id, *first.entry((&annotation.unit, place, words)).or_insert(id))
        })
        .collect()
}

fn elements(statement: &crate::policy::ElementStatement) -> Vec<String> {
    let element = |(path, _, data): &(CgroupPath, _, Option<_>)| match data {
        Some(data) => format!("{path} : {data}"),
        None => path.to_string(),
    };
    let all: BTreeSet<String> = statement.elements.iter().map(element).collect();
    all.into_iter().collect()
}

fn words(part: &Part) -> Vec<String> {
    match part {
        Part::Verbatim(token) => vec![token.text.clone()],
        Part::Cgroup(cgroup) => {
            let paths: BTreeSet<&str> = cgroup.paths.iter().map(|(path, _)| path.as_str()).collect();
            let operator = if cgroup.negated { "!=" } else { "==" };
            let head = ["socket".to_owned(), cgroup.level.to_string(), operator.to_owned()];
            head.into_iter().chain(paths.into_iter().map(str::to_owned)).collect()
        }
    }
}

/// How many tokens an earlier rule's other matches may have: each prefix of a later rule's is looked up.
const LONGEST: usize = 48;

/// The first rule for a path and the same other matches.
type Decided<'a> = BTreeMap<&'a str, BTreeMap<Vec<&'a str>, usize>>;

/// Rules that an earlier one of their chain leaves nothing to decide.
fn shadowed(
    policy: &Policy,
    subjects: &[Subject<'_>],
    originals: &BTreeMap<AnnotationId, AnnotationId>,
) -> Vec<(AnnotationId, Mistake)> {
    let mut found = Vec::new();
    for rules in in_order(subjects) {
        let mut decided = Decided::new();
        for (at, subject) in rules.iter().enumerate() {
            let Some(cgroup) = subject.only_match().filter(|cgroup| can_match(cgroup)) else { continue };
            let conditions = texts(&subject.conditions);
            if let Some(earlier) = decider(&decided, &rules, cgroup, &subject.conditions, &conditions) {
                if originals.get(&earlier.id) != originals.get(&subject.id) {
                    let place = location(policy, earlier.annotation);
                    let message =
                        format!("never reached: the annotation at {place} decides these packets before");
                    let mistake = Mistake::new(Code::Shadowed, cgroup.span, message)
                        .help("put the narrower rule first, or leave one of them out");
                    found.push((subject.id, mistake));
                }
            } else if decides(subject) && conditions.len() <= LONGEST {
                for (path, _) in &cgroup.paths {
                    decided.entry(path.as_str()).or_default().entry(conditions.clone()).or_insert(at);
                }
            }
        }
    }
    found
}

/// Each chain's rules in the order in which the kernel has them.
fn in_order<'s, 'a>(subjects: &'s [Subject<'a>]) -> Vec<Vec<&'s Subject<'a>>> {
    let mut chains: BTreeMap<&ChainRef, [Vec<&Subject<'_>>; 2]> = BTreeMap::new();
    for subject in subjects {
        let [inserted, added] = chains.entry(&subject.rule.chain).or_default();
        match subject.rule.placement {
            Placement::Beginning => inserted.push(subject),
            Placement::End => added.push(subject),
            Placement::Explicit(..) => {}
        }
    }
    chains.into_values().map(|[inserted, added]| inserted.into_iter().rev().chain(added).collect()).collect()
}

/// Whether the level is right.
fn can_match(cgroup: &CgroupMatch) -> bool {
    cgroup.paths.iter().all(|(path, _)| u32::try_from(path.components().count()) == Ok(cgroup.level))
}

/// Whether a rule decides all packets that its matches let in.
fn decides(subject: &Subject<'_>) -> bool {
    subject.verdict.is_some_and(|(verdict, _)| verdict.is_terminal()) && only_matches(&subject.conditions)
}

/// A rule among those before that decides all packets of this one.
fn decider<'s, 'a>(
    decided: &Decided<'_>,
    rules: &[&'s Subject<'a>],
    cgroup: &CgroupMatch,
    tokens: &[&Token],
    conditions: &[&str],
) -> Option<&'s Subject<'a>> {
    let (first, _) = cgroup.paths.first()?;
    let longest = conditions.len().min(LONGEST);
    let whole: Vec<usize> = (0..=longest).filter(|&length| is_boundary(tokens, length)).collect();
    cgroups::with_ancestors(first.as_str())
        .filter_map(|path| decided.get(path))
        .flat_map(|by_conditions| {
            whole.iter().filter_map(|length| by_conditions.get(&conditions[..*length]).copied())
        })
        .map(|at| rules[at])
        .find(|earlier| covers(earlier, cgroup))
}

fn covers(earlier: &Subject<'_>, later: &CgroupMatch) -> bool {
    let Some(cgroup) = earlier.only_match() else { return false };
    if later.paths.len() == 1 {
        return true;
    }
    let above: BTreeSet<&str> = cgroup.paths.iter().map(|(path, _)| path.as_str()).collect();
    let is_below =
        |path: &CgroupPath| cgroups::with_ancestors(path.as_str()).any(|path| above.contains(path));
    later.paths.iter().all(|(path, _)| is_below(path))
}

/// Whether a match may end in front of this token: `ct state established` is no part of
/// `ct state established,related`.
fn is_boundary(tokens: &[&Token], at: usize) -> bool {
    let begins_one = |token: &&Token| token.kind == TokenKind::Word && token.spaced;
    at == 0 || tokens.get(at).is_none_or(begins_one)
}

fn texts<'a>(tokens: &[&'a Token]) -> Vec<&'a str> {
    tokens.iter().map(|token| token.text.as_str()).collect()
}

/// With how many annotations of other files one is compared.
const COMPARED: usize = 32;

/// Annotations of a unit and chain that another file's annotation contradicts.
fn contradictions(policy: &Policy, subjects: &[Subject<'_>]) -> BTreeMap<AnnotationId, Mistake> {
    let mut groups: BTreeMap<(&UnitName, &ChainRef), Vec<&Subject<'_>>> = BTreeMap::new();
    for subject in subjects {
        groups.entry((&subject.annotation.unit, &subject.rule.chain)).or_default().push(subject);
    }
    let mut found = BTreeMap::new();
    for group in groups.values() {
        let files: BTreeSet<_> = group.iter().map(|subject| subject.annotation.span.file).collect();
        if files.len() < 2 {
            continue;
        }
        for (at, later) in group.iter().enumerate() {
            let others = group[..at].iter().filter(|earlier| {
                earlier.annotation.span.file != later.annotation.span.file && are_opposed(earlier, later)
            });
            if let Some(earlier) = others.take(COMPARED).find(|earlier| are_about_the_same(earlier, later)) {
                found.insert(later.id, contradiction(policy, earlier, later));
            }
        }
    }
    found
}

fn contradiction(policy: &Policy, earlier: &Subject<'_>, later: &Subject<'_>) -> Mistake {
    let span = later.verdict.map_or(later.annotation.unit_span, |(_, span)| span);
    let unit = quoted(&later.annotation.unit.0);
    let place = location(policy, earlier.annotation);
    Mistake::new(Code::Contradiction, span, format!("the annotation at {place} says the opposite for {unit}"))
        .help("the order of the files decides: leave one of the two out")
}

/// Whether one accepts and the other refuses.
fn are_opposed(a: &Subject<'_>, b: &Subject<'_>) -> bool {
    let is_accept =
        |subject: &Subject<'_>| subject.verdict.is_some_and(|(verdict, _)| verdict == Verdict::Accept);
    let refuses = |subject: &Subject<'_>| subject.verdict.is_some_and(|(verdict, _)| verdict.refuses());
    (is_accept(a) && refuses(b)) || (refuses(a) && is_accept(b))
}

fn are_about_the_same(a: &Subject<'_>, b: &Subject<'_>) -> bool {
    let [shorter, longer] = if a.conditions.len() <= b.conditions.len() { [a, b] } else { [b, a] };
    let is_prefix = texts(&longer.conditions).starts_with(&texts(&shorter.conditions))
        && is_boundary(&longer.conditions, shorter.conditions.len());
    is_prefix && overlap(a, b)
}

fn overlap(a: &Subject<'_>, b: &Subject<'_>) -> bool {
    if a.cgroups.is_empty() && b.cgroups.is_empty() {
        return true;
    }
    let (Some(a), Some(b)) = (a.only_match(), b.only_match()) else { return false };
    let [a, b] =
        [a, b].map(|cgroup| cgroup.paths.iter().map(|(path, _)| path.as_str()).collect::<BTreeSet<&str>>());
    let any_below = |these: &BTreeSet<&str>, those: &BTreeSet<&str>| {
        these.iter().any(|path| cgroups::with_ancestors(path).any(|path| those.contains(path)))
    };
    any_below(&a, &b) || any_below(&b, &a)
}
