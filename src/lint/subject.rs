//! Annotations as lints look at them: a rule's cgroup matches, its other matches and its verdict.

use crate::{
    model::AnnotationId,
    policy::{Annotation, CgroupMatch, Part, Policy, RuleStatement},
    text::{Span, Token, TokenKind},
};

/// An annotation that is a rule.
#[derive(Debug, Clone)]
pub(super) struct Subject<'a> {
    pub(super) id: AnnotationId,
    pub(super) annotation: &'a Annotation,
    pub(super) rule: &'a RuleStatement,
    /// Its cgroup matches.
    pub(super) cgroups: Vec<&'a CgroupMatch>,
    /// All other tokens.
    pub(super) tokens: Vec<&'a Token>,
    /// Those in front of the verdict, without counters.
    pub(super) conditions: Vec<&'a Token>,
    /// The word for what it does with a packet, and where that stands; `reject` with what it is done with.
    pub(super) verdict: Option<(&'a str, Span)>,
}

/// The words that are verdicts; `vmap` is what a map says.
const VERDICTS: [&str; 8] = ["accept", "drop", "reject", "return", "continue", "jump", "goto", "vmap"];

impl<'a> Subject<'a> {
    /// Whether it is about cgroups at all.
    pub(super) fn matches_cgroup(&self) -> bool {
        self.annotation.matches_cgroup()
    }

    /// Whether it refuses packets.
    pub(super) fn refuses(&self) -> bool {
        matches!(self.verdict, Some(("drop" | "reject", _)))
    }

    /// The only cgroup match, unless it is negated.
    pub(super) fn only_match(&self) -> Option<&'a CgroupMatch> {
        match self.cgroups[..] {
            [cgroup] if !cgroup.negated => Some(cgroup),
            _ => None,
        }
    }
}

/// All annotations of a policy that are rules of units, in order.
pub(super) fn all(policy: &Policy) -> Vec<Subject<'_>> {
    rules(policy).filter(|subject| !subject.annotation.is_record()).collect()
}

/// The directives that have refusals recorded.
pub(super) fn records(policy: &Policy) -> Vec<Subject<'_>> {
    rules(policy).filter(|subject| subject.annotation.is_record()).collect()
}

fn rules(policy: &Policy) -> impl Iterator<Item = Subject<'_>> {
    policy.iter().filter_map(|(id, annotation)| Some(of(id, annotation, annotation.rule()?)))
}

fn of<'a>(id: AnnotationId, annotation: &'a Annotation, rule: &'a RuleStatement) -> Subject<'a> {
    let cgroups = rule.body.iter().filter_map(Part::cgroup).collect();
    let tokens: Vec<&Token> = rule.body.iter().filter_map(Part::token).collect();
    let found = verdict_at(&tokens);
    let before = &tokens[..found.unwrap_or(tokens.len())];
    let is_named = |at: usize| {
        let next = before.get(at + 1);
        next.is_some_and(|next| next.is("name") || next.is("packets") || next.kind == TokenKind::Quoted)
    };
    let conditions = before.iter().enumerate().filter(|(at, token)| !token.is("counter") || is_named(*at));
    let conditions = conditions.map(|(_, token)| *token).collect();
    let verdict = found.map(|at| {
        let word = tokens[at];
        let rest = tokens[at..].iter().take_while(|token| word.is("reject") && !token.is("comment"));
        (&*word.text, word.span.to(rest.last().unwrap_or(&word).span))
    });
    Subject { id, annotation, rule, cgroups, tokens, conditions, verdict }
}

/// The index of the last word that is a verdict of the rule itself.
fn verdict_at(tokens: &[&Token]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut found = None;
    for (at, token) in tokens.iter().enumerate() {
        match &*token.text {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            word if depth == 0 && VERDICTS.contains(&word) => found = Some(at),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::testing::policy_of;

    /// The conditions, and the verdict as it stands in the text.
    fn read(body: &str) -> (String, Option<(String, String)>) {
        let text = format!("# a.service :: add rule inet f c {body}");
        let policy = policy_of(&[&text]);
        let subject = &all(&policy)[0];
        let conditions: Vec<&str> = subject.conditions.iter().map(|token| &*token.text).collect();
        let verdict = subject
            .verdict
            .map(|(verdict, span)| (verdict.to_owned(), text[span.start..span.end].to_owned()));
        (conditions.join(" "), verdict)
    }

    #[test]
    fn verdict_is_the_rule_s_own_last_one() {
        for (body, conditions, verdict, place) in [
            ("tcp dport 1 counter accept comment \"drop\"", "tcp dport 1", "accept", "accept"),
            ("tcp dport 1 reject with tcp reset", "tcp dport 1", "reject", "reject with tcp reset"),
            ("tcp dport vmap { 1 : drop, 2 : accept }", "tcp dport", "vmap", "vmap"),
            ("jump drop.x", "", "jump", "jump"),
            ("counter name \"x\" drop", "counter name \"x\"", "drop", "drop"),
        ] {
            assert_eq!(
                read(body),
                (conditions.to_owned(), Some((verdict.to_owned(), place.to_owned()))),
                "{body}"
            );
        }
        assert_eq!(read("log prefix \"drop\"").1, None);
        assert_eq!(read("meta mark set 1").1, None);
    }
}
