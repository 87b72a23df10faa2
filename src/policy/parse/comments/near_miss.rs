//! Comments that are annotations but for a slip: no ` :: `, no type of a unit, no verb.

use super::{is_blank, is_family};
use crate::{
    model::UNIT_TYPES,
    text::{
        Code, FileId, Span,
        diagnostic::{Diagnostic, quoted},
    },
};

/// What is wrong with a comment, which stands at byte `start` and is no annotation, if it is nearly one.
pub(super) fn read(content: &str, start: usize, file: FileId) -> Option<Diagnostic> {
    let parts = Parts::of(content)?;
    let place = |from: usize, to: usize| Span { file, start: start + from, end: start + to };
    let Parts { unit, separator, statement } = parts;
    let statement_at = content.len() - statement.len();
    let words: Vec<&str> = statement.split(is_blank).filter(|word| !word.is_empty()).take(4).collect();
    match (has_type(unit), is_right(separator), likeness(&words)) {
        (true, false, Likeness::Statement) => {
            let colons = separator.trim_matches(is_blank);
            let colons_at = unit.len() + separator.find(':').unwrap_or_default();
            Some(
                Diagnostic::new(
                    Code::NearMiss,
                    place(colons_at, colons_at + colons.len()),
                    "this comment is no annotation: ` :: ` is missing",
                )
                .help("write ` :: ` between the unit and the statement")
                .fix(place(unit.len(), statement_at), " :: "),
            )
        }
        (true, true, Likeness::OtherVerb) => Some(
            Diagnostic::new(
                Code::NearMiss,
                place(statement_at, statement_at + words[0].len()),
                format!("this comment is no annotation: {} is no verb", quoted(words[0])),
            )
            .help("write `add`")
            .fix(place(statement_at, statement_at + words[0].len()), "add"),
        ),
        (false, true, Likeness::Statement) if is_bare_name(unit) => Some(
            Diagnostic::new(
                Code::NearMiss,
                place(0, unit.len()),
                format!("this comment is no annotation: the unit's type is missing behind {}", quoted(unit)),
            )
            .help("write the unit's whole name")
            .fix(place(0, unit.len()), format!("{}.service", unit.trim_end_matches('.'))),
        ),
        _ => None,
    }
}

/// A comment cut where its unit ends and where its statement begins.
struct Parts<'a> {
    unit: &'a str,
    separator: &'a str,
    statement: &'a str,
}

impl<'a> Parts<'a> {
    fn of(content: &'a str) -> Option<Self> {
        let word = &content[..content.find(is_blank).unwrap_or(content.len())];
        let unit = match word.find("::") {
            Some(end) => &word[..end],
            None => word.trim_end_matches(':'),
        };
        let after = &content[unit.len()..];
        let statement = after.trim_start_matches(|c| is_blank(c) || c == ':');
        let separator = &after[..after.len() - statement.len()];
        let is_whole = !unit.is_empty() && !separator.is_empty() && !statement.is_empty();
        is_whole.then_some(Self { unit, separator, statement })
    }
}

fn is_right(separator: &str) -> bool {
    separator.trim_matches(is_blank) == "::"
        && separator.starts_with(is_blank)
        && separator.ends_with(is_blank)
}

fn has_type(unit: &str) -> bool {
    unit.rsplit_once('.').is_some_and(|(name, suffix)| !name.is_empty() && UNIT_TYPES.contains(&suffix))
}

/// Whether it could be a unit's name if it had a type.
fn is_bare_name(unit: &str) -> bool {
    let has_suffix = unit.rsplit_once('.').is_some_and(|(_, suffix)| {
        !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_alphabetic())
    });
    unit.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c)) && !has_suffix
}

enum Likeness {
    Statement,
    OtherVerb,
    None,
}

/// How much a text's first words look like a statement of an annotation.
fn likeness(words: &[&str]) -> Likeness {
    match words {
        ["add" | "insert", "rule" | "element", _, ..] => Likeness::Statement,
        ["add" | "insert", family, _, ..] if is_family(family) => Likeness::Statement,
        [family, _, _, _] if is_family(family) => Likeness::Statement,
        [_, "rule" | "element", family, ..] if is_family(family) => Likeness::OtherVerb,
        _ => Likeness::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text with its diagnostic mended, and what the diagnostic's span covers.
    fn mended(content: &str) -> Option<(String, &str)> {
        let diagnostic = read(content, 0, FileId(0))?;
        let fix = diagnostic.fix.unwrap();
        let mut text = content.to_owned();
        text.replace_range(fix.span.start..fix.span.end, &fix.text);
        Some((text, &content[diagnostic.span.start..diagnostic.span.end]))
    }

    const RIGHT: &str = "a.service :: add rule inet f c accept";

    #[test]
    fn wrong_separators_are_told() {
        for (wrong, place) in [
            ("a.service : add rule inet f c accept", ":"),
            ("a.service: add rule inet f c accept", ":"),
            ("a.service:: add rule inet f c accept", "::"),
            ("a.service ::add rule inet f c accept", "::"),
            ("a.service::add rule inet f c accept", "::"),
            ("a.service ::: add rule inet f c accept", ":::"),
            ("a.service add rule inet f c accept", ""),
        ] {
            assert_eq!(mended(wrong), Some((RIGHT.to_owned(), place)), "{wrong}");
        }
        assert_eq!(mended("a.service : inet f c accept").unwrap().0, "a.service :: inet f c accept");
    }

    #[test]
    fn a_name_without_type_is_told() {
        assert_eq!(mended("a :: add rule inet f c accept"), Some((RIGHT.to_owned(), "a")));
    }

    #[test]
    fn a_wrong_verb_is_told() {
        assert_eq!(mended("a.service :: ad rule inet f c accept"), Some((RIGHT.to_owned(), "ad")));
    }

    #[test]
    fn prose_is_left_alone() {
        for prose in [
            "postfix.service: handles our mail",
            "nftables.conf :: the main file",
            "Example: add rule inet filter output accept",
            "add rule inet filter output accept",
            "a.service : add more hosts",
            "see postfix.service, add rule by rule",
            "a.service",
            "::",
            ": :",
            "",
            "ä.service ä",
        ] {
            assert!(read(prose, 0, FileId(0)).is_none(), "{prose}");
        }
    }
}
