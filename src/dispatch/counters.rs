//! Counters for the packets that counted annotations (`# scnpm: count`) decide.
//!
//! Each table has one for what stands left of the `::`, so a unit's annotations share it. Its name depends on nothing else:
//! a load finds the counter that an earlier one left, and lets it be.

use std::collections::BTreeMap;

use crate::{
    model::{AnnotationId, CounterRef, PREFIX},
    policy::{Annotation, Part},
    text::{Span, Token, TokenKind},
};

/// nft takes names of fewer than 128 bytes.
const LONGEST: usize = 127;

/// The bytes of a long name that stay as they are. A hash stands for the rest.
const BEGINNING: usize = 90;

/// Verdicts and other statements with which a rule is done.
const ENDS: [&str; 11] = [
    "accept",
    "drop",
    "reject",
    "return",
    "continue",
    "jump",
    "goto",
    "queue",
    "masquerade",
    "tproxy",
    "synproxy",
];

/// The same, but for `ct status dnat` and `icmp type redirect`, where they are values.
const ENDS_OR_VALUES: [&str; 4] = ["snat", "dnat", "redirect", "fwd"];

/// The counter of an annotation, if its packets are counted.
pub fn counter(annotation: &Annotation) -> Option<CounterRef> {
    let table = || annotation.statement.table().clone();
    annotation.is_counted.then(|| CounterRef { table: table(), name: name(&annotation.unit.0).into() })
}

/// The counters of a policy, while it is compiled.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// The annotations that need each.
    pub(super) of: BTreeMap<CounterRef, Vec<AnnotationId>>,
}

impl Counters {
    /// Has an annotation's packets counted, if it asks for it.
    pub(super) fn put_in(&mut self, id: AnnotationId, annotation: &Annotation, body: &mut Vec<Part>) {
        let Some(counter) = counter(annotation) else { return };
        let at = place(body);
        if let Some(Part::Verbatim(after)) = body.get_mut(at) {
            after.spaced = true;
        }
        body.splice(at..at, words(&counter, annotation.unit_span));
        self.of.entry(counter).or_default().push(id);
    }
}

/// A rule's rest without our counter, if a packet that comes to it is done with the rule.
pub(super) fn without_counter<'t>(rest: &[&'t Token]) -> Vec<&'t Token> {
    let is_ours = |three: &[&Token]| {
        three[0].is("counter") && three[1].is("name") && three[2].unquoted().starts_with(&beginning())
    };
    let mut rest = rest.to_vec();
    if let Some(at) = rest.windows(3).position(is_ours)
        && at + 3 < rest.len()
    {
        rest.drain(at..at + 3);
    }
    rest
}

fn words(counter: &CounterRef, span: Span) -> impl Iterator<Item = Part> {
    let token = move |kind, text: &str| Part::Verbatim(Token { kind, text: text.into(), span, spaced: true });
    let name = format!("\"{}\"", counter.name);
    [token(TokenKind::Word, "counter"), token(TokenKind::Word, "name"), token(TokenKind::Quoted, &name)]
        .into_iter()
}

/// Where in a rule the packets are those that it decides: in front of its verdict, or at its end. Of a rule with a `vmap`
/// nothing is known but that it comes behind the cgroup.
fn place(body: &[Part]) -> usize {
    let start = body.iter().rposition(|part| part.token().is_none()).map_or(0, |last| last + 1);
    let mut depth = 0_usize;
    let mut before: Option<&Token> = None;
    for (at, token) in body.iter().enumerate().skip(start).filter_map(|(at, part)| Some((at, part.token()?)))
    {
        if token.is_any(&["{", "("]) {
            depth += 1;
        } else if token.is_any(&["}", ")"]) {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && token.is("vmap") {
            return start;
        } else if depth == 0
            && (token.is("comment")
                || token.is_any(&ENDS)
                || token.is_any(&ENDS_OR_VALUES) && !before.is_some_and(wants_value))
        {
            return at;
        }
        before = Some(token);
    }
    body.len()
}

/// Whether a value follows this word or sign.
fn wants_value(token: &Token) -> bool {
    let is_sign = token.kind == TokenKind::Punctuation && !token.is_any(&["}", ")"]);
    is_sign || token.is_any(&["status", "type", "eq", "ne"])
}

fn beginning() -> String {
    format!("{PREFIX}count.")
}

/// The name of something that is a unit's and has this text.
pub(super) fn object_name(beginning: &str, unit: &str, text: &str) -> String {
    let mut name = spelt(beginning, unit);
    name.truncate(BEGINNING);
    // Behind a `_` that stands for no byte.
    name.push_str(&format!("_h{:016x}", hash(text)));
    name
}

/// A unit's name in letters that nft takes.
fn spelt(beginning: &str, unit: &str) -> String {
    let mut name = beginning.to_owned();
    for byte in unit.bytes() {
        match byte {
            b'_' => name.push_str("__"),
            b'-' | b'.' => name.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => name.push(byte.into()),
            _ => name.push_str(&format!("_{byte:02x}")),
        }
    }
    name
}

/// Safe for nft, and never the same for two.
fn name(unit: &str) -> String {
    let mut name = spelt(&beginning(), unit);
    if name.len() > LONGEST {
        name.truncate(BEGINNING);
        // Behind a `_` that is none of the above.
        name.push_str(&format!("_h{:016x}", hash(unit)));
    }
    name
}

/// FNV-1a of 64 bits, the same in every version of the program.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{
        FileId,
        token::{Joined, tokenize},
    };

    /// A rule's rest with a `^` where the counter goes.
    fn placed(rule: &str) -> String {
        let mut joined = Joined::new(FileId(0));
        joined.push(rule, 0);
        let body: Vec<Part> = tokenize(&joined).tokens.into_iter().map(Part::Verbatim).collect();
        let at = place(&body);
        let words = |parts: &[Part]| {
            let words: Vec<&str> = parts.iter().filter_map(Part::token).map(|token| &*token.text).collect();
            words.join(" ")
        };
        format!("{} ^ {}", words(&body[..at]), words(&body[at..])).trim().to_owned()
    }

    #[test]
    fn counter_is_behind_what_matches_and_in_front_of_what_decides() {
        for (rule, expected) in [
            ("accept", "^ accept"),
            ("", "^"),
            ("tcp dport 25 accept", "tcp dport 25 ^ accept"),
            (
                "tcp dport { 25 , 80 } log prefix \"drop\" drop",
                "tcp dport { 25 , 80 } log prefix \"drop\" ^ drop",
            ),
            ("limit rate 1/second jump mail", "limit rate 1/second ^ jump mail"),
            ("meta mark set 1", "meta mark set 1 ^"),
            ("tcp dport 25 comment \"drop it\"", "tcp dport 25 ^ comment \"drop it\""),
            ("ct status dnat accept", "ct status dnat ^ accept"),
            ("ct status != dnat accept", "ct status != dnat ^ accept"),
            ("ct status { dnat , snat } accept", "ct status { dnat , snat } ^ accept"),
            ("icmp type redirect drop", "icmp type redirect ^ drop"),
            ("tcp dport 25 dnat to 10.0.0.1", "tcp dport 25 ^ dnat to 10.0.0.1"),
            ("tcp dport { 25 } redirect to :1", "tcp dport { 25 } ^ redirect to : 1"),
            ("tcp dport vmap { 25 : accept }", "^ tcp dport vmap { 25 : accept }"),
            ("dnat to tcp dport map { 25 : 10.0.0.1 }", "^ dnat to tcp dport map { 25 : 10.0.0.1 }"),
        ] {
            assert_eq!(placed(rule), expected, "{rule}");
        }
    }

    #[test]
    fn names_are_safe_and_differ() {
        assert_eq!(name("postfix.service"), "scnpm.count.postfix.service");
        assert_eq!(name("user:app:firefox"), "scnpm.count.user_3aapp_3afirefox");
        assert_eq!(name("a_3a\"};\n@b"), "scnpm.count.a__3a_22_7d_3b_0a_40b");
        let long = |last: char| name(&format!("{}{last}", "u".repeat(250)));
        assert_ne!(long('a'), long('b'));
        for unit in ["ü".repeat(200), "_".repeat(115), "a".repeat(115), "a".repeat(116)] {
            assert!(name(&unit).len() <= LONGEST, "{unit}");
        }
    }
}
