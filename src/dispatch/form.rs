//! Which form keeps a rule's meaning.

use crate::{
    model::Data,
    policy::{CgroupMatch, Part, words::only_matches},
    text::{Span, Token, TokenKind},
};

/// How a rule gets into the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form<'a> {
    /// Behind a verdict map: the cgroup match is the look-up, the rest of the rule is in a chain that
    /// the map jumps to.
    Mapped {
        /// The match.
        cgroup: Match<'a>,
        /// The rest of the rule.
        rest: Vec<&'a Token>,
    },
    /// In the user's chain, its paths replaced by sets, as often as need be behind a gate: a match that
    /// only holds while the rule is due.
    InPlace(Due),
}

/// A match of sockets by their cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match<'a> {
    /// By the paths that it names.
    Paths(&'a CgroupMatch),
    /// By the units that the annotation is about; where it stands.
    Units(Span),
}

impl Match<'_> {
    /// Where it stands.
    pub fn span(&self) -> Span {
        match self {
            Self::Paths(cgroup) => cgroup.span,
            Self::Units(span) => *span,
        }
    }

    fn is_negated(&self) -> bool {
        matches!(self, Self::Paths(cgroup) if cgroup.negated)
    }
}

/// When a rule in the user's chain is due, besides its cgroup matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
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
pub fn form(body: &[Part]) -> Form<'_> {
    let matches: Vec<Match<'_>> = body.iter().filter_map(as_match).collect();
    let Some(last) = body.iter().rposition(|part| as_match(part).is_some()) else {
        return Form::InPlace(Due::UnitActive);
    };
    let before: Vec<&Token> = body[..last].iter().filter_map(as_token).collect();
    let pure = only_matches(&before);
    let negated = matches.iter().any(Match::is_negated);
    if let [cgroup] = matches[..] {
        let rest: Vec<&Token> = body.iter().filter_map(as_token).collect();
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
pub fn verdict(rest: &[&Token]) -> Option<Data> {
    match rest {
        [] => Some(Data::Continue),
        [word] => only_verdict(word),
        _ => None,
    }
}

/// What stands in front of a rule's `socket cgroupv2 unit`, and the rest, if that may be called.
pub fn around_units(body: &[Part]) -> Option<(Vec<&Token>, Vec<&Token>)> {
    let at = body.iter().position(|part| matches!(part, Part::Units(_)))?;
    let rest: Vec<&Token> = body[at..].iter().filter_map(as_token).collect();
    may_be_called(&rest).then(|| (body[..at].iter().filter_map(as_token).collect(), rest))
}

/// Whether a packet that went through a rule may go through it again without any difference: matches, and then nothing or
/// a verdict that is final.
pub fn may_be_repeated(rest: &[&Token]) -> bool {
    let is_final = |token: &&Token| ["accept", "drop", "reject"].iter().any(|word| token.is(word));
    let end = rest.iter().position(is_final).unwrap_or(rest.len());
    only_matches(&rest[..end])
}

fn only_verdict(word: &Token) -> Option<Data> {
    match word {
        word if word.is("accept") => Some(Data::Accept),
        word if word.is("drop") => Some(Data::Drop),
        word if word.is("continue") => Some(Data::Continue),
        word if word.is("return") => Some(Data::Return),
        _ => None,
    }
}

fn as_match(part: &Part) -> Option<Match<'_>> {
    match part {
        Part::Cgroup(cgroup) => Some(Match::Paths(cgroup)),
        Part::Units(span) => Some(Match::Units(*span)),
        Part::Verbatim(_) => None,
    }
}

fn as_token(part: &Part) -> Option<&Token> {
    match part {
        Part::Verbatim(token) => Some(token),
        Part::Cgroup(_) | Part::Units(_) => None,
    }
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
