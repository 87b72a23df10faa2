//! Which form keeps a rule's meaning.

use super::counters::without_counter;
use crate::{
    model::Data,
    policy::{CgroupMatch, Part, words::only_matches},
    text::{Span, Token, TokenKind},
};

/// How a rule gets into the kernel.
pub(super) enum Form<'a> {
    /// Behind a verdict map: the cgroup match is the look-up, the rest of the rule is in a chain that
    /// the map jumps to.
    Mapped { cgroup: Match<'a>, rest: Vec<&'a Token> },
    /// In the user's chain, its paths replaced by sets, as often as need be behind a gate: a match that
    /// only holds while the rule is due.
    InPlace(Due),
}

/// A match of sockets by their cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match<'a> {
    /// By the paths that it names.
    Paths(&'a CgroupMatch),
    /// By the units that the annotation applies to; where it stands.
    Units(Span),
}

impl Match<'_> {
    /// Where it stands.
    pub(super) fn span(&self) -> Span {
        match self {
            Self::Paths(cgroup) => cgroup.span,
            Self::Units(span) => *span,
        }
    }
}

/// When a rule in the user's chain is due, besides its cgroup matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Always: what is not there, does not match.
    Always,
    /// While any path of the only match exists.
    AnyPath,
    /// While all paths exist.
    AllPaths,
    /// While the unit is active.
    UnitActive,
}

/// The form of a rule with this body.
pub(super) fn form(body: &[Part]) -> Form<'_> {
    let matches: Vec<Match<'_>> = body.iter().filter_map(as_match).collect();
    let Some(last) = body.iter().rposition(|part| as_match(part).is_some()) else {
        return Form::InPlace(Due::UnitActive);
    };
    let pure = only_matches(&tokens(&body[..last]));
    let negated = matches.iter().any(|one| matches!(one, Match::Paths(cgroup) if cgroup.negated));
    if let [cgroup] = matches[..] {
        let rest = tokens(body);
        if !negated && pure && (verdict(&rest).is_some() || may_be_called(&rest)) {
            return Form::Mapped { cgroup, rest };
        }
    }
    Form::InPlace(match (pure, negated, matches.len()) {
        (true, false, _) => Due::Always,
        (false, false, 1) => Due::AnyPath,
        _ => Due::AllPaths,
    })
}

/// The verdict that is all of a rule's rest and means the same in a map as in the rule. A chain that is named is
/// not looked for before the element is added, so `jump` and `goto` are no such verdicts.
pub(super) fn verdict(rest: &[&Token]) -> Option<Data> {
    match rest {
        [] => Some(Data::Continue),
        [word] if word.is("accept") => Some(Data::Accept),
        [word] if word.is("drop") => Some(Data::Drop),
        [word] if word.is("continue") => Some(Data::Continue),
        [word] if word.is("return") => Some(Data::Return),
        _ => None,
    }
}

/// What stands in front of a rule's `socket cgroupv2 unit`, and the rest, if that may be called.
pub(super) fn around_units(body: &[Part]) -> Option<(Vec<&Token>, Vec<&Token>)> {
    let at = body.iter().position(|part| matches!(part, Part::Units(_)))?;
    let rest = tokens(&body[at..]);
    may_be_called(&rest).then(|| (tokens(&body[..at]), rest))
}

/// Whether a packet that went through a rule may go through it again without any difference: matches, and then nothing or
/// a verdict that is final.
pub(super) fn may_be_repeated(rest: &[&Token]) -> bool {
    let rest = without_counter(rest);
    let end = rest.iter().position(is_final).unwrap_or(rest.len());
    only_matches(&rest[..end])
}

/// What becomes of the packets that a rule matches, if it does nothing else: of rules with the same outcome it makes no
/// difference which comes first.
pub(super) fn outcome(rest: &[&Token]) -> Option<String> {
    let rest = without_counter(rest);
    let end = rest.iter().position(is_final)?;
    let (matches, outcome) = rest.split_at(end);
    // Only a comment can follow.
    let outcome = if outcome[0].is("reject") { outcome } else { &outcome[..1] };
    let words: Vec<&str> = outcome.iter().map(|token| &*token.text).collect();
    only_matches(matches).then(|| words.join(" "))
}

fn is_final(token: &&Token) -> bool {
    token.is_any(&["accept", "drop", "reject"])
}

fn as_match(part: &Part) -> Option<Match<'_>> {
    match part {
        Part::Cgroup(cgroup) => Some(Match::Paths(cgroup)),
        Part::Units(span) => Some(Match::Units(*span)),
        Part::Verbatim(_) | Part::Record(_) => None,
    }
}

fn tokens(parts: &[Part]) -> Vec<&Token> {
    parts.iter().filter_map(Part::token).collect()
}

/// Whether a rule means the same in a chain that the user's chain calls: not if it may leave the user's chain by
/// `return` or `goto`, or by a verdict that is not written in it.
fn may_be_called(rest: &[&Token]) -> bool {
    let leaves = |token: &&Token| token.is("return") || token.is("goto");
    let hidden = rest
        .iter()
        .skip_while(|token| !token.is("vmap"))
        .any(|token| matches!(token.kind, TokenKind::SetReference | TokenKind::Variable));
    !rest.iter().any(leaves) && !hidden
}
