//! Comments that are annotations but for a slip: no ` :: `, no type of a unit, no verb.

use std::ops::Range;

use super::{is_blank, is_family};
use crate::{
    model::UNIT_TYPES,
    text::{
        Code, FileId, Span,
        diagnostic::{Diagnostic, quoted},
    },
    units::places,
};

/// What is wrong with a comment, which stands at byte `start` and is no annotation, if it is nearly one.
pub(super) fn read(content: &str, start: usize, file: FileId) -> Option<Diagnostic> {
    let word = &content[..content.find(is_blank).unwrap_or(content.len())];
    let unit = &word[..word.find("::").unwrap_or(word.trim_end_matches(':').len())];
    let after = &content[unit.len()..];
    let statement = after.trim_start_matches(|c| is_blank(c) || c == ':');
    let statement_at = content.len() - statement.len();
    let separator = &content[unit.len()..statement_at];
    if unit.is_empty() || separator.is_empty() || statement.is_empty() {
        return None;
    }
    let words: Vec<&str> = statement.split(is_blank).filter(|word| !word.is_empty()).take(4).collect();
    let has_type = places::has_type(unit) && UNIT_TYPES.contains(&places::kind(unit));
    let is_right = separator.trim_matches(is_blank) == "::"
        && separator.starts_with(is_blank)
        && separator.ends_with(is_blank);
    let (place, what, help, replaced, by) = match (has_type, is_right) {
        (true, false) if is_statement(&words) => {
            let colons = separator.trim_matches(is_blank);
            let at = unit.len() + separator.find(':').unwrap_or_default();
            let help = "write ` :: ` between the unit and the statement";
            let whole = unit.len()..statement_at;
            (at..at + colons.len(), "` :: ` is missing".to_owned(), help, whole, " :: ".to_owned())
        }
        (true, true) if has_other_verb(&words) => {
            let place = statement_at..statement_at + words[0].len();
            let what = format!("{} is no verb", quoted(words[0]));
            (place.clone(), what, "write `add`", place, "add".to_owned())
        }
        (false, true) if is_statement(&words) && is_bare_name(unit) => {
            let place = 0..unit.len();
            let what = format!("the unit's type is missing behind {}", quoted(unit));
            let name = format!("{}.service", unit.trim_end_matches('.'));
            (place.clone(), what, "write the unit's whole name", place, name)
        }
        _ => return None,
    };
    let span = |place: Range<usize>| Span { file, start: start + place.start, end: start + place.end };
    let message = format!("this comment is no annotation: {what}");
    Some(Diagnostic::new(Code::NearMiss, span(place), message).help(help).fix(span(replaced), by))
}

/// Whether it could be a unit's name if it had a type.
fn is_bare_name(unit: &str) -> bool {
    let kind = places::kind(unit);
    unit.chars().all(places::is_in_name)
        && (kind.is_empty() || !kind.bytes().all(|byte| byte.is_ascii_alphabetic()))
}

/// Whether a text's first words look like a statement of an annotation.
fn is_statement(words: &[&str]) -> bool {
    match words {
        ["add" | "insert", "rule" | "element", _, ..] => true,
        ["add" | "insert", family, _, ..] | [family, _, _, _] => is_family(family),
        _ => false,
    }
}

fn has_other_verb(words: &[&str]) -> bool {
    matches!(words, [_, "rule" | "element", family, ..] if is_family(family)) && !is_statement(words)
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
