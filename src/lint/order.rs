//! Lints about annotations with one another: W010, W011, W014.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cgroups,
    subject::{Subject, Verdict},
};
use crate::{
    model::{AnnotationId, CgroupPath, ChainRef, UnitName},
    policy::{Annotation, CgroupMatch, Part, Placement, Policy, Statement, words::only_matches},
    text::{Code, Diagnostic, FileId, Token, TokenKind, diagnostic::quoted},
};

/// Annotations that say a thing twice, that say what is decided already, or that contradict each other.
pub(super) fn lint(policy: &Policy, subjects: &[Subject<'_>]) -> Vec<Diagnostic> {
    let originals = originals(policy);
    let contradictions = contradictions(policy, subjects);
    let shadowed = shadowed(policy, subjects, &originals);
    let duplicates = originals.iter().filter(|(id, first)| id != first).map(|(id, first)| {
        let message = format!("the same annotation as at {}", location(policy, policy.annotation(*first)));
        Diagnostic::new(Code::Duplicate, policy.annotation(*id).unit_span, message)
            .help("leave one of them out")
    });
    let shadowed = shadowed.into_iter().filter(|(id, _)| !contradictions.contains_key(id));
    duplicates
        .chain(shadowed.map(|(_, diagnostic)| diagnostic))
        .chain(contradictions.values().cloned())
        .collect()
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
        Part::Verbatim(token) => vec![token.text.to_string()],
        Part::Units(_) => vec!["socket".to_owned(), "unit".to_owned()],
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
) -> Vec<(AnnotationId, Diagnostic)> {
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
                    let diagnostic = Diagnostic::new(Code::Shadowed, cgroup.span, message)
                        .help("put the narrower rule first, or leave one of them out");
                    found.push((subject.id, diagnostic));
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
    tokens.iter().map(|token| &*token.text).collect()
}

/// With how many annotations of other files one is compared.
const COMPARED: usize = 32;

/// Annotations of a unit and chain that another file's annotation contradicts.
fn contradictions(policy: &Policy, subjects: &[Subject<'_>]) -> BTreeMap<AnnotationId, Diagnostic> {
    let mut groups: BTreeMap<(&UnitName, &ChainRef), Vec<&Subject<'_>>> = BTreeMap::new();
    for subject in subjects {
        groups.entry((&subject.annotation.unit, &subject.rule.chain)).or_default().push(subject);
    }
    let in_group = |group: &Vec<&Subject<'_>>| {
        let mut earlier: BTreeMap<(FileId, bool), Vec<&Subject<'_>>> = BTreeMap::new();
        let mut found = Vec::new();
        for &later in group {
            let Some(accepts) = accepts(later) else { continue };
            let file = later.annotation.span.file;
            let opposed = earlier
                .iter()
                .filter(|((other, other_accepts), _)| *other != file && *other_accepts != accepts);
            let mut opposed = opposed.flat_map(|(_, subjects)| subjects).take(COMPARED);
            if let Some(other) = opposed.find(|other| are_about_the_same(other, later)) {
                found.push((later.id, contradiction(policy, other, later)));
            }
            earlier.entry((file, accepts)).or_default().push(later);
        }
        found
    };
    groups.values().flat_map(in_group).collect()
}

fn contradiction(policy: &Policy, earlier: &Subject<'_>, later: &Subject<'_>) -> Diagnostic {
    let span = later.verdict.map_or(later.annotation.unit_span, |(_, span)| span);
    let unit = quoted(&later.annotation.unit.0);
    let place = location(policy, earlier.annotation);
    Diagnostic::new(
        Code::Contradiction,
        span,
        format!("the annotation at {place} says the opposite for {unit}"),
    )
    .help("the order of the files decides: leave one of the two out")
}

/// Whether a rule accepts, or refuses.
fn accepts(subject: &Subject<'_>) -> Option<bool> {
    let (verdict, _) = subject.verdict?;
    (verdict == Verdict::Accept || verdict.refuses()).then_some(verdict == Verdict::Accept)
}

fn are_about_the_same(a: &Subject<'_>, b: &Subject<'_>) -> bool {
    let [shorter, longer] = if a.conditions.len() <= b.conditions.len() { [a, b] } else { [b, a] };
    let is_prefix = texts(&longer.conditions).starts_with(&texts(&shorter.conditions))
        && is_boundary(&longer.conditions, shorter.conditions.len());
    is_prefix && overlap(a, b)
}

fn overlap(a: &Subject<'_>, b: &Subject<'_>) -> bool {
    if !a.matches_cgroup() && !b.matches_cgroup() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Facts,
        testing::{messages, of_code, policy_of},
    };

    const A: &str = "socket cgroupv2 level 2 \"system.slice/a.service\"";

    fn said(code: Code, lines: &[&str]) -> Vec<String> {
        messages(code, &lines.join("\n"), Facts::default())
    }

    fn rule(statement: &str) -> String {
        format!("# a.service :: {statement}")
    }

    fn said_of(code: Code, statements: &[String]) -> Vec<String> {
        let lines: Vec<String> = statements.iter().map(|statement| rule(statement)).collect();
        said(code, &lines.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[test]
    fn second_annotation_that_says_the_same_is_told() {
        let twice = [format!("add rule inet f c {A} accept"), format!("inet f c {A}   accept")];
        assert_eq!(said_of(Code::Duplicate, &twice), ["the same annotation as at 0.nft:1"]);
        assert_eq!(said_of(Code::Shadowed, &twice), [] as [&str; 0]);
        let element = "add element inet f s { \"system.slice/a.service\" }".to_owned();
        assert_eq!(said_of(Code::Duplicate, &[element.clone(), element]).len(), 1);
    }

    #[test]
    fn annotations_that_differ_are_no_duplicates() {
        for [first, second] in [
            [format!("add rule inet f c {A} accept"), format!("add rule inet f d {A} accept")],
            [format!("add rule inet f c {A} accept"), format!("add rule ip f c {A} accept")],
            [
                format!("add rule inet f c {A} tcp dport 1 accept"),
                format!("add rule inet f c {A} tcp dport 2 accept"),
            ],
            [
                "add element inet f m { \"system.slice/a.service\" : accept }".to_owned(),
                "add element inet f m { \"system.slice/a.service\" : drop }".to_owned(),
            ],
            [
                format!("add rule inet f c {A} accept"),
                "add rule inet f c socket cgroupv2 level 2 != \"system.slice/a.service\" accept".to_owned(),
            ],
        ] {
            assert_eq!(said_of(Code::Duplicate, &[first.clone(), second]), [] as [&str; 0], "{first}");
        }
        let lines = [
            format!("# a.service :: add rule inet f c {A} accept"),
            format!("# b.service :: add rule inet f c {A} accept"),
        ];
        assert_eq!(said(Code::Duplicate, &[&lines[0], &lines[1]]), [] as [&str; 0]);
    }

    #[test]
    fn rule_behind_one_that_decides_is_told() {
        let never = |line: usize| {
            format!("never reached: the annotation at 0.nft:{line} decides these packets before")
        };
        let wide = format!("add rule inet f c {A} counter accept");
        let narrow = format!("add rule inet f c {A} tcp dport 25 drop");
        assert_eq!(said_of(Code::Shadowed, &[wide.clone(), narrow.clone()]), [never(1)]);
        assert_eq!(said_of(Code::Shadowed, &[narrow.clone(), wide.clone()]), [] as [&str; 0]);
        let slice =
            "add rule inet f c socket cgroupv2 level 1 \"system.slice\" tcp dport 25 goto x".to_owned();
        assert_eq!(said_of(Code::Shadowed, &[slice.clone(), narrow.clone()]), [never(1)]);
        assert_eq!(said_of(Code::Shadowed, &[slice, wide.clone()]), [] as [&str; 0]);
        let two = "add rule inet f c socket cgroupv2 level 2 { \"system.slice/a.service\", \"system.slice/b.service\" } accept".to_owned();
        assert_eq!(said_of(Code::Shadowed, &[two.clone(), narrow]), [never(1)]);
        assert_eq!(said_of(Code::Shadowed, &[wide, two]), [] as [&str; 0]);
    }

    #[test]
    fn inserted_rules_come_before_added_ones_the_last_first() {
        let wide = |verb: &str| format!("{verb} rule inet f c {A} accept");
        let narrow = |verb: &str| format!("{verb} rule inet f c {A} tcp dport 25 drop");
        assert_eq!(said_of(Code::Shadowed, &[narrow("add"), wide("insert")]).len(), 1);
        assert_eq!(said_of(Code::Shadowed, &[narrow("insert"), wide("insert")]).len(), 1);
        assert_eq!(said_of(Code::Shadowed, &[wide("insert"), narrow("insert")]), [] as [&str; 0]);
        assert_eq!(said_of(Code::Shadowed, &[wide("add"), narrow("insert")]), [] as [&str; 0]);
    }

    #[test]
    fn rule_is_reached_behind_one_that_does_not_decide_all() {
        let narrow = format!("add rule inet f c {A} ct state established,related drop");
        for first in [
            format!("{A} limit rate 10/second accept"),
            format!("{A} ct state established accept"),
            format!("{A} jump x"),
            format!("{A} continue"),
            format!("{A} counter"),
            format!("{A} meta mark set 1"),
            format!("limit rate 1/second {A} accept"),
            "socket cgroupv2 level 2 != \"system.slice/a.service\" accept".to_owned(),
            "socket cgroupv2 level 2 \"system.slice/b.service\" accept".to_owned(),
            "socket cgroupv2 level 2 \"system.slice/a.servic\" accept".to_owned(),
            "accept".to_owned(),
        ] {
            let both = [format!("add rule inet f c {first}"), narrow.clone()];
            assert_eq!(said_of(Code::Shadowed, &both), [] as [&str; 0], "{first}");
        }
    }

    fn contradicting(first: &str, second: &str) -> Vec<String> {
        let policy = policy_of(&[&rule(first), &format!("\n{}", rule(second))]);
        let found = of_code(Code::Contradiction, &policy, Facts::default());
        assert!(found.is_empty() || of_code(Code::Shadowed, &policy, Facts::default()).is_empty());
        found.into_iter().map(|diagnostic| diagnostic.message).collect()
    }

    #[test]
    fn two_files_that_say_opposite_things_are_told() {
        let opposite = ["the annotation at 0.nft:1 says the opposite for `a.service`"];
        let accept = format!("add rule inet f c {A} accept");
        assert_eq!(contradicting(&accept, &format!("add rule inet f c {A} tcp dport 25 drop")), opposite);
        assert_eq!(
            contradicting("add rule inet f c oifname \"x\" reject", "add rule inet f c oifname \"x\" accept"),
            opposite
        );
        let below = "add rule inet f c socket cgroupv2 level 1 \"system.slice\" reject with tcp reset";
        assert_eq!(contradicting(&accept, below), opposite);
    }

    #[test]
    fn files_that_speak_of_different_packets_do_not_contradict() {
        let accept = format!("add rule inet f c {A} tcp dport 25 accept");
        for second in [
            format!("add rule inet f c {A} tcp dport 26 drop"),
            format!("add rule inet f d {A} tcp dport 25 drop"),
            format!("add rule inet f c {A} tcp dport 25 jump x"),
            "add rule inet f c socket cgroupv2 level 2 \"system.slice/b.service\" tcp dport 25 drop"
                .to_owned(),
            "add rule inet f c tcp dport 25 drop".to_owned(),
        ] {
            assert_eq!(contradicting(&accept, &second), [] as [&str; 0], "{second}");
        }
        let lines = [rule(&accept), rule(&format!("add rule inet f c {A} tcp dport 25 drop"))];
        assert_eq!(said(Code::Contradiction, &[&lines[0], &lines[1]]), [] as [&str; 0]);
    }
}
