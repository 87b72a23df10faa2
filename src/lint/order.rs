//! Lints about annotations with one another: W010, W011, W014.

use std::collections::{BTreeMap, BTreeSet};

use litemap::LiteMap;

use super::{calls::Calls, cgroups, shadows, subject::Subject};
use crate::{
    gather::Gather,
    model::{AnnotationId, CgroupPath, ChainRef, UnitName},
    policy::{CgroupMatch, Part, Policy, Statement},
    text::{Code, Diagnostic, FileId, Token, TokenKind, diagnostic::quoted},
    units::Units,
};

/// Annotations that say a thing twice, that say what is decided already, or that contradict each other.
pub(super) fn lint(
    policy: &Policy,
    subjects: &[Subject<'_>],
    units: &Units,
    calls: Option<&Calls<'_>>,
) -> Vec<Diagnostic> {
    let originals = originals(policy);
    let mut of_rules = contradictions(policy, subjects);
    for (id, diagnostic) in shadows::shadowed(policy, subjects, units, calls, &originals) {
        of_rules.entry(id).or_insert(diagnostic);
    }
    let duplicates = policy.iter().zip(&originals).filter(|((id, _), first)| id != *first);
    let duplicates = duplicates.map(|((_, annotation), first)| {
        let place = policy.sources.location(policy.annotation(*first).unit_span);
        let message = format!("the same annotation as at {place}");
        Diagnostic::new(Code::Duplicate, annotation.unit_span, message).help("leave one of them out")
    });
    duplicates.chain(of_rules.into_iter().map(|(_, diagnostic)| diagnostic)).collect()
}

/// For each annotation the first one that says the same.
fn originals(policy: &Policy) -> Vec<AnnotationId> {
    let mut first: BTreeMap<(&UnitName, Vec<String>), AnnotationId> = BTreeMap::new();
    policy
        .iter()
        .map(|(id, annotation)| *first.entry((&annotation.unit, said(&annotation.statement))).or_insert(id))
        .collect()
}

/// What a statement says, in whatever order and with whatever spaces.
fn said(statement: &Statement) -> Vec<String> {
    match statement {
        Statement::Element(element) => {
            let of_one = |(path, _, data): &(CgroupPath, _, Option<_>)| match data {
                Some(data) => format!("{path} : {data}"),
                None => path.to_string(),
            };
            let elements: BTreeSet<String> = element.elements.iter().map(of_one).gather();
            [format!("element {}", element.set)].into_iter().chain(elements).collect()
        }
        Statement::Rule(rule) => {
            let words = rule.body.iter().map(|part| match part {
                Part::Verbatim(token) => token.text.to_string(),
                Part::Units(_) => "socket unit".to_owned(),
                Part::Record(_) => "record".to_owned(),
                Part::Cgroup(cgroup) => {
                    format!("socket {} {} {:?}", cgroup.level, cgroup.negated, paths(cgroup))
                }
            });
            [format!("rule {}", rule.chain)].into_iter().chain(words).collect()
        }
    }
}

fn paths(cgroup: &CgroupMatch) -> BTreeSet<&str> {
    cgroup.paths.iter().map(|(path, _)| path.as_str()).gather()
}

/// Whether a path is one of these or below one.
fn is_below(path: &str, paths: &BTreeSet<&str>) -> bool {
    cgroups::with_ancestors(path).any(|path| paths.contains(path))
}

/// Whether a match may end in front of this token: `ct state established` is no part of
/// `ct state established,related`.
pub(super) fn is_boundary(tokens: &[&Token], at: usize) -> bool {
    let begins_one = |token: &&Token| token.kind == TokenKind::Word && token.spaced;
    at == 0 || tokens.get(at).is_none_or(begins_one)
}

/// With how many annotations of other files one is compared.
const COMPARED: usize = 32;

/// Annotations of a unit and chain that another file's annotation contradicts.
fn contradictions(policy: &Policy, subjects: &[Subject<'_>]) -> LiteMap<AnnotationId, Diagnostic> {
    type ByFileAndSense<'s, 'a> = BTreeMap<(FileId, bool), Vec<&'s Subject<'a>>>;
    let mut earlier: BTreeMap<(&UnitName, &ChainRef), ByFileAndSense<'_, '_>> = BTreeMap::new();
    let mut found = LiteMap::new();
    for later in subjects {
        let accepts = matches!(later.verdict, Some(("accept", _)));
        let Some((_, span)) = later.verdict.filter(|_| accepts || later.refuses()) else { continue };
        let Subject { annotation, rule, .. } = later;
        let file = annotation.span.file;
        let earlier = earlier.entry((&annotation.unit, &rule.chain)).or_default();
        let opposed = earlier.iter().filter(|((other, sense), _)| *other != file && *sense != accepts);
        let mut opposed = opposed.flat_map(|(_, subjects)| subjects).take(COMPARED);
        if let Some(other) = opposed.find(|other| are_about_the_same(other, later)) {
            let place = policy.sources.location(other.annotation.unit_span);
            let unit = quoted(&annotation.unit.0);
            let message = format!("the annotation at {place} says the opposite for {unit}");
            let diagnostic = Diagnostic::new(Code::Contradiction, span, message)
                .help("the order of the files decides: leave one of the two out");
            found.insert(later.id, diagnostic);
        }
        earlier.entry((file, accepts)).or_default().push(later);
    }
    found
}

fn are_about_the_same(a: &Subject<'_>, b: &Subject<'_>) -> bool {
    let [shorter, longer] = if a.conditions.len() <= b.conditions.len() { [a, b] } else { [b, a] }
        .map(|subject| &subject.conditions[..]);
    let is_prefix =
        longer.iter().zip(shorter).all(|(a, b)| a.text == b.text) && is_boundary(longer, shorter.len());
    is_prefix
        && match [a, b].map(Subject::only_match) {
            [Some(a), Some(b)] => {
                let [a, b] = [a, b].map(paths);
                a.iter().any(|path| is_below(path, &b)) || b.iter().any(|path| is_below(path, &a))
            }
            _ => !a.matches_cgroup() && !b.matches_cgroup(),
        }
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
