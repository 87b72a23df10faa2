//! Quotas and rates that outlive a load. One that is written in a rule would begin anew whenever the rule is loaded again; so
//! it becomes an object with a name, as an annotation could have it in the file, and a load lets an object be that it finds.
//!
//! The name depends on the annotation's own text and on nothing else. The amount of a quota is not a part of it: the kernel
//! takes a new one and keeps what is used. A rate is: the kernel takes no new one for an object that it has.

use std::{collections::BTreeMap, fmt::Write};

use super::counters::object_name;
use crate::{
    model::{AnnotationId, PREFIX},
    policy::{Annotation, Part, RuleStatement},
    text::{Token, TokenKind},
};

const UNITS: [&str; 3] = ["bytes", "kbytes", "mbytes"];

/// The quotas and rates of a policy, while it is compiled.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Each object (`quota FAMILY TABLE NAME`), what it is made with, and the annotation that needs it.
    pub(super) objects: BTreeMap<String, (String, AnnotationId)>,
}

impl Kept {
    /// Puts names in the place of an annotation's quotas and rates. Those in braces belong to elements, and what is not
    /// understood is nft's to judge.
    pub(super) fn put_in(
        &mut self,
        id: AnnotationId,
        annotation: &Annotation,
        statement: &RuleStatement,
        body: &mut Vec<Part>,
    ) {
        let found = found(body);
        let text = text_without_amounts(annotation, statement, body, &found);
        for Found { kind, start, end } in found.into_iter().rev() {
            let words: Vec<&str> =
                body[start + 1..end].iter().filter_map(Part::token).map(|one| &*one.text).collect();
            let specification = words.join(" ");
            let own = match kind {
                "limit" => format!("{text} {specification}"),
                _ => text.clone(),
            };
            let name = self.name(kind, annotation, statement, &own);
            let object = format!("{kind} {} {name}", statement.chain.table);
            self.objects.insert(object, (specification, id));
            let span = body[start].token().map_or(annotation.unit_span, |token| token.span);
            let word =
                |kind, text: String| Part::Verbatim(Token { kind, text: text.into(), span, spaced: true });
            let named = [
                word(TokenKind::Word, kind.to_owned()),
                word(TokenKind::Word, "name".to_owned()),
                word(TokenKind::Quoted, format!("\"{name}\"")),
            ];
            body.splice(start..end, named);
            if let Some(Part::Verbatim(after)) = body.get_mut(start + 3) {
                after.spaced = true;
            }
        }
    }

    /// A name that nobody has: an annotation may have several of the same, and stand there twice.
    fn name(&self, kind: &str, annotation: &Annotation, statement: &RuleStatement, text: &str) -> String {
        let beginning = format!("{PREFIX}{kind}.");
        let mut names = (0..).map(|number| {
            object_name(&beginning, &annotation.unit.0, &format!("{} {text} {number}", statement.chain))
        });
        let is_free =
            |name: &String| !self.objects.contains_key(&format!("{kind} {} {name}", statement.chain.table));
        names.find(is_free).unwrap_or_default()
    }
}

/// A quota or a rate in a rule: its kind, and its parts from the word itself.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    kind: &'static str,
    start: usize,
    end: usize,
}

fn found(body: &[Part]) -> Vec<Found> {
    let mut depth = 0_usize;
    let mut found = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let words: Vec<&Token> = body[at..].iter().map_while(Part::token).take(8).collect();
        let one = match words.first() {
            Some(word) if word.is("{") => {
                depth += 1;
                None
            }
            Some(word) if word.is("}") => {
                depth = depth.saturating_sub(1);
                None
            }
            Some(word) if depth == 0 && word.is("quota") => {
                quota(&words[1..]).map(|length| ("quota", length))
            }
            Some(word) if depth == 0 && word.is("limit") => rate(&words[1..]).map(|length| ("limit", length)),
            _ => None,
        };
        let length = one.map_or(1, |(kind, length)| {
            found.push(Found { kind, start: at, end: at + 1 + length });
            1 + length
        });
        at += length;
    }
    found
}

/// How many words a quota has: `[over | until] NUMBER UNIT [used NUMBER UNIT]`.
fn quota(words: &[&Token]) -> Option<usize> {
    let mode = mode(words);
    let amount = |at: usize| Some(is_number(words.get(at)?) && words.get(at + 1)?.is_any(&UNITS));
    amount(mode).filter(|is_amount| *is_amount)?;
    let end = mode + 2;
    let is_used = words.get(end).is_some_and(|word| word.is("used"));
    match (is_used, amount(end + 1)) {
        (false, _) => Some(end),
        (true, Some(true)) => Some(end + 3),
        (true, _) => None,
    }
}

/// How many words a rate has: `rate [over | until] NUMBER/TIME | NUMBER UNIT/TIME [burst NUMBER UNIT | packets]`.
fn rate(words: &[&Token]) -> Option<usize> {
    words.first().filter(|word| word.is("rate"))?;
    let mode = 1 + mode(&words[1..]);
    let (first, second) = words.get(mode)?.text.split_once('/').map_or_else(
        || Some((&*words[mode].text, words.get(mode + 1)?.text.split_once('/'))),
        |(number, time)| Some((number, Some(("", time)))),
    )?;
    let (unit, time) = second?;
    let is_rate = first.bytes().all(|byte| byte.is_ascii_digit())
        && !first.is_empty()
        && (unit.is_empty() || UNITS.contains(&unit))
        && ["second", "minute", "hour", "day", "week"].contains(&time);
    is_rate.then_some(())?;
    let end = mode + if unit.is_empty() { 1 } else { 2 };
    if !words.get(end).is_some_and(|word| word.is("burst")) {
        return Some(end);
    }
    let is_burst = is_number(words.get(end + 1)?)
        && words.get(end + 2).is_some_and(|word| word.is("packets") || word.is_any(&UNITS));
    is_burst.then_some(end + 3)
}

fn mode(words: &[&Token]) -> usize {
    words.first().is_some_and(|word| word.is_any(&["over", "until"])).into()
}

fn is_number(token: &&Token) -> bool {
    token.kind == TokenKind::Word && token.text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The text of an annotation, with nothing that depends on where it stands in its file, and without the amounts of quotas.
fn text_without_amounts(
    annotation: &Annotation,
    statement: &RuleStatement,
    body: &[Part],
    found: &[Found],
) -> String {
    let mut text = format!("{} {}", annotation.unit.0, statement.chain);
    for (at, part) in body.iter().enumerate() {
        let is_amount = |one: &Found| one.kind == "quota" && (one.start + 1..one.end).contains(&at);
        // Writing to a string cannot fail.
        let _ = match part {
            Part::Verbatim(token) if found.iter().any(is_amount) && !token.is("over") => Ok(()),
            Part::Verbatim(token) => write!(text, " {}", token.text),
            Part::Units(_) => write!(text, " units"),
            Part::Record(_) => write!(text, " record"),
            Part::Cgroup(cgroup) => {
                let paths: Vec<String> = cgroup.paths.iter().map(|(path, _)| path.to_string()).collect();
                write!(text, " {} {} {paths:?}", cgroup.level, cgroup.negated)
            }
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{
        FileId,
        token::{Joined, tokenize},
    };

    /// What is taken out of a rule.
    fn taken(rule: &str) -> Vec<String> {
        let mut joined = Joined::new(FileId(0));
        joined.push(rule, 0);
        let body: Vec<Part> = tokenize(&joined).tokens.into_iter().map(Part::Verbatim).collect();
        let words = |one: Found| {
            let words: Vec<&str> =
                body[one.start..one.end].iter().filter_map(Part::token).map(|token| &*token.text).collect();
            words.join(" ")
        };
        found(&body).into_iter().map(words).collect()
    }

    #[test]
    fn quotas_and_rates_are_found_whole() {
        for (rule, expected) in [
            ("quota 5 mbytes accept", &["quota 5 mbytes"][..]),
            ("quota until 5 mbytes used 3 bytes accept", &["quota until 5 mbytes used 3 bytes"]),
            ("tcp dport 25 quota over 5 kbytes drop", &["quota over 5 kbytes"]),
            ("limit rate 10/second accept", &["limit rate 10/second"]),
            (
                "limit rate over 10/minute burst 5 packets drop",
                &["limit rate over 10/minute burst 5 packets"],
            ),
            (
                "limit rate 1 mbytes/second burst 9 kbytes accept",
                &["limit rate 1 mbytes/second burst 9 kbytes"],
            ),
            ("limit rate 1/day quota 5 bytes accept", &["limit rate 1/day", "quota 5 bytes"]),
        ] {
            assert_eq!(taken(rule), expected, "{rule}");
        }
    }

    #[test]
    fn what_has_a_name_or_is_an_element_s_or_is_not_understood_stays() {
        for rule in [
            "quota name \"daily\" accept",
            "limit name \"slow\" accept",
            "update @heavy { ip daddr quota over 5 mbytes } drop",
            "add @seen { ip saddr limit rate 1/second } accept",
            "quota 5 gbytes accept",
            "quota 5 mbytes used 1 accept",
            "quota until accept",
            "quota",
            "limit rate 10 accept",
            "limit rate 10/fortnight accept",
            "limit rate x/second accept",
            "limit rate 1/second burst 5 accept",
            "limit",
            "log prefix \"quota 5 mbytes\"",
        ] {
            assert_eq!(taken(rule), [] as [&str; 0], "{rule}");
        }
    }
}
