//! Annotations as lints look at them: a rule's cgroup matches, its other matches and its verdict.

use crate::{
    model::AnnotationId,
    policy::{Annotation, CgroupMatch, Part, Policy, RuleStatement, Statement},
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
    /// What it does with a packet, and where that stands.
    pub(super) verdict: Option<(Verdict, Span)>,
}

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Reject,
    Return,
    Continue,
    Jump,
    Goto,
    /// What a map says.
    Map,
}

impl Verdict {
    /// Whether the packet goes on somewhere, or may.
    pub(super) fn lets_through(self) -> bool {
        matches!(self, Self::Accept | Self::Jump | Self::Goto | Self::Map)
    }

    /// Whether it is refused.
    pub(super) fn refuses(self) -> bool {
        matches!(self, Self::Drop | Self::Reject)
    }

    /// Whether the chain's next rules do not get the packet.
    pub(super) fn is_terminal(self) -> bool {
        matches!(self, Self::Accept | Self::Drop | Self::Reject | Self::Return | Self::Goto)
    }
}

impl<'a> Subject<'a> {
    /// Whether it is about cgroups at all.
    pub(super) fn matches_cgroup(&self) -> bool {
        self.annotation.matches_cgroup()
    }

    /// The only cgroup match, unless it is negated.
    pub(super) fn only_match(&self) -> Option<&'a CgroupMatch> {
        match self.cgroups[..] {
            [cgroup] if !cgroup.negated => Some(cgroup),
            _ => None,
        }
    }

    /// The annotation's text in one line, with another text in the place of a part of it.
    pub(super) fn rewritten(&self, policy: &Policy, part: Span, by: &str) -> String {
        let text = &policy.sources.file(part.file).text;
        let Span { start, end, .. } = self.annotation.span;
        let whole = format!("{}{by}{}", &text[start..part.start], &text[part.end..end]);
        let line = |line: &str| line.trim().trim_start_matches('#').trim_end_matches('\\').trim().to_owned();
        let joined: Vec<String> = whole.lines().map(line).filter(|line| !line.is_empty()).collect();
        joined.join(" ").replace(char::is_control, " ")
    }
}

/// All annotations of a policy that are rules, in order.
pub(super) fn all(policy: &Policy) -> Vec<Subject<'_>> {
    policy
        .iter()
        .filter_map(|(id, annotation)| match &annotation.statement {
            Statement::Rule(rule) => Some(of(id, annotation, rule)),
            Statement::Element(_) => None,
        })
        .collect()
}

fn of<'a>(id: AnnotationId, annotation: &'a Annotation, rule: &'a RuleStatement) -> Subject<'a> {
    let mut cgroups = Vec::new();
    let mut tokens = Vec::new();
    for part in &rule.body {
        match part {
            Part::Cgroup(cgroup) => cgroups.push(&**cgroup),
            Part::Units(_) => {}
            Part::Verbatim(token) => tokens.push(token),
        }
    }
    let found = verdict(&tokens);
    let before = &tokens[..found.map_or(tokens.len(), |(_, at)| at)];
    let conditions = without_counters(before);
    let verdict = found.map(|(verdict, at)| (verdict, span_of(verdict, &tokens[at..])));
    Subject { id, annotation, rule, cgroups, tokens, conditions, verdict }
}

/// The last word that is a verdict of the rule itself, and its index.
fn verdict(tokens: &[&Token]) -> Option<(Verdict, usize)> {
    let mut depth = 0_usize;
    let mut found = None;
    for (at, token) in tokens.iter().enumerate() {
        match &*token.text {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            word if depth == 0 && token.kind == TokenKind::Word => {
                found = word_of(word).map(|verdict| (verdict, at)).or(found);
            }
            _ => {}
        }
    }
    found
}

fn word_of(word: &str) -> Option<Verdict> {
    Some(match word {
        "accept" => Verdict::Accept,
        "drop" => Verdict::Drop,
        "reject" => Verdict::Reject,
        "return" => Verdict::Return,
        "continue" => Verdict::Continue,
        "jump" => Verdict::Jump,
        "goto" => Verdict::Goto,
        "vmap" => Verdict::Map,
        _ => return None,
    })
}

/// Where a verdict stands: `reject` with what it is done with.
fn span_of(verdict: Verdict, tokens: &[&Token]) -> Span {
    let length = match verdict {
        Verdict::Reject => tokens.iter().take_while(|token| !token.is("comment")).count(),
        _ => 1,
    };
    tokens[0].span.to(tokens[length - 1].span)
}

fn without_counters<'a>(tokens: &[&'a Token]) -> Vec<&'a Token> {
    let names_one = |at: usize| {
        tokens
            .get(at + 1)
            .is_some_and(|next| next.is("name") || next.is("packets") || next.kind == TokenKind::Quoted)
    };
    tokens
        .iter()
        .enumerate()
        .filter(|&(at, token)| !token.is("counter") || names_one(at))
        .map(|(_, token)| *token)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::testing::policy_of;

    /// The conditions, and the verdict as it stands in the text.
    fn read(body: &str) -> (String, Option<(Verdict, String)>) {
        let text = format!("# a.service :: add rule inet f c {body}");
        let policy = policy_of(&[&text]);
        let subject = &all(&policy)[0];
        let conditions: Vec<&str> = subject.conditions.iter().map(|token| &*token.text).collect();
        let verdict = subject.verdict.map(|(verdict, span)| (verdict, text[span.start..span.end].to_owned()));
        (conditions.join(" "), verdict)
    }

    #[test]
    fn verdict_is_the_rule_s_own_last_one() {
        for (body, conditions, verdict, place) in [
            ("tcp dport 1 counter accept comment \"drop\"", "tcp dport 1", Verdict::Accept, "accept"),
            ("tcp dport 1 reject with tcp reset", "tcp dport 1", Verdict::Reject, "reject with tcp reset"),
            ("tcp dport vmap { 1 : drop, 2 : accept }", "tcp dport", Verdict::Map, "vmap"),
            ("jump drop.x", "", Verdict::Jump, "jump"),
            ("counter name \"x\" drop", "counter name \"x\"", Verdict::Drop, "drop"),
        ] {
            assert_eq!(read(body), (conditions.to_owned(), Some((verdict, place.to_owned()))), "{body}");
        }
        assert_eq!(read("log prefix \"drop\"").1, None);
        assert_eq!(read("meta mark set 1").1, None);
    }
}
