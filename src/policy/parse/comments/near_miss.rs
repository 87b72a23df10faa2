//! Comments that are annotations but for a slip: no ` :: `, no type of a unit, no verb, a blank that is none, units that
//! are quoted or have no comma between them.

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
    let slip = odd_blank(content)
        .or_else(|| odd_units(content))
        .or_else(|| blank_in_id(content))
        .or_else(|| slip(content))?;
    let span = |place: Range<usize>| Span { file, start: start + place.start, end: start + place.end };
    let message = format!("this comment is not an annotation: {}", slip.what);
    let (replaced, by) = slip.fix;
    Some(Diagnostic::new(Code::NearMiss, span(slip.place), message).help(slip.help).fix(span(replaced), by))
}

/// What is wrong with a comment, by its bytes.
struct Slip {
    place: Range<usize>,
    what: String,
    help: &'static str,
    fix: (Range<usize>, String),
}

/// Whether a text is an annotation, or would be but for another slip.
fn is_nearly_one(content: &str) -> bool {
    let statement = content.split_once("::").map_or("", |(_, statement)| statement);
    let words: Vec<&str> = statement.split(is_blank).filter(|word| !word.is_empty()).take(4).collect();
    is_statement(&words) || slip(content).is_some()
}

/// A character that looks like a blank and is none.
fn odd_blank(content: &str) -> Option<Slip> {
    let is_odd =
        |c: char| (c.is_whitespace() && !c.is_ascii()) || matches!(c, '\u{200b}' | '\u{2060}' | '\u{feff}');
    let (at, first) = content.char_indices().find(|(_, c)| is_odd(*c))?;
    let right = content.replace(is_odd, " ");
    let head = right.split(' ').next().unwrap_or_default();
    let is_unit = UNIT_TYPES.contains(&places::kind(head.trim_matches(':'))) || super::is_app(head);
    (is_unit && is_nearly_one(&right)).then(|| Slip {
        place: at..at + first.len_utf8(),
        what: match first {
            '\u{a0}' => "a no-break space (U+00A0) is not a blank".to_owned(),
            _ => format!("the character U+{:04X} is not a blank", u32::from(first)),
        },
        help: "write ordinary blanks",
        fix: (0..content.len(), right),
    })
}

/// Units in quotes, or with something else than a comma between them.
fn odd_units(content: &str) -> Option<Slip> {
    const QUOTES: [char; 9] = ['"', '\'', '`', '“', '”', '‘', '’', '«', '»'];
    let colons = content.find(" :: ")?;
    let (units, statement) = (&content[..colons], &content[colons + " :: ".len()..]);
    let joined = units
        .replace("system: ", "system:")
        .replace("user: ", "user:")
        .replace("app: ", "app:")
        .replace("cage: ", "cage:");
    let words: Vec<&str> = statement.split(is_blank).filter(|word| !word.is_empty()).take(4).collect();
    let pieces = joined.split(|c| is_blank(c) || matches!(c, ',' | ';' | '+' | '&' | '|'));
    let names = pieces.map(|piece| piece.trim_matches(QUOTES));
    let names: Vec<&str> = names.filter(|name| !matches!(*name, "" | "and" | "or")).collect();
    let are_units = names.iter().all(|name| super::may_be_selector(name) && super::names_units(name));
    if names.is_empty() || !are_units || !is_statement(&words) {
        return None;
    }
    let (what, help) = match names.len() {
        _ if joined != units => ("no blank stands behind the `:` of a selector", "leave the blank out"),
        _ if units.contains(QUOTES) => ("a unit's name has no quotes", "leave the quotes out"),
        1 => ("only the unit's name stands in front of the `::`", "leave the rest out"),
        _ => ("units are separated by commas", "write commas between the units"),
    };
    Some(Slip { place: 0..colons, what: what.to_owned(), help, fix: (0..colons, names.join(", ")) })
}

/// An application's id with a blank in it.
fn blank_in_id(content: &str) -> Option<Slip> {
    let colons = content.find(" :: ")?;
    let (selector, statement) = (&content[..colons], &content[colons + " :: ".len()..]);
    let words: Vec<&str> = statement.split(is_blank).filter(|word| !word.is_empty()).take(4).collect();
    let first = selector.split(is_blank).next().unwrap_or_default();
    let is_one = super::is_app(first) && first.len() < selector.len() && !selector.contains(',');
    (is_one && is_statement(&words)).then(|| Slip {
        place: first.len()..colons,
        what: "there is a blank in front of the `::`".to_owned(),
        help: "write a blank in an application's id as `\\x20`",
        fix: (0..colons, selector.trim_end_matches(is_blank).replace(is_blank, "\\x20")),
    })
}

/// No ` :: `, no type, no verb.
fn slip(content: &str) -> Option<Slip> {
    let word = &content[..content.find(is_blank).unwrap_or(content.len())];
    let unit = &word[..word.find("::").unwrap_or(word.trim_end_matches(':').len())];
    let after = &content[unit.len()..];
    let statement = after.trim_start_matches(|c| is_blank(c) || ":=>|-–—：∷".contains(c));
    let statement_at = content.len() - statement.len();
    let separator = &content[unit.len()..statement_at];
    if unit.is_empty() || separator.is_empty() || statement.is_empty() {
        return None;
    }
    let words: Vec<&str> = statement.split(is_blank).filter(|word| !word.is_empty()).take(5).collect();
    let has_type = places::has_type(unit) && UNIT_TYPES.contains(&places::kind(unit));
    let is_right = separator.trim_matches(is_blank) == "::"
        && separator.starts_with(is_blank)
        && separator.ends_with(is_blank);
    let (place, what, help, replaced, by) = match (has_type, is_right) {
        (true, false) if is_statement(&words) => {
            let colons = separator.trim_matches(is_blank);
            let at = unit.len() + separator.find(|c| !is_blank(c)).unwrap_or_default();
            let help = "write ` :: ` between the unit and the statement";
            let whole = unit.len()..statement_at;
            (at..at + colons.len(), "` :: ` is missing".to_owned(), help, whole, " :: ".to_owned())
        }
        (true, true) if words[0] == "nft" && is_statement(&words[1..]) => {
            let place = statement_at..statement_at + words[0].len();
            let rest = content[place.end..].trim_start_matches(is_blank);
            let whole = statement_at..content.len() - rest.len();
            (place, "`nft` is not part of the statement".to_owned(), "leave it out", whole, String::new())
        }
        (true, true) if has_other_verb(&words) => {
            let place = statement_at..statement_at + words[0].len();
            let what = format!("{} is not a verb", quoted(words[0]));
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
    Some(Slip { place, what, help, fix: (replaced, by) })
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
        ["add" | "insert", family, _, ..] | [family, _, _, _, ..] => is_family(family),
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
            ("a.service -> add rule inet f c accept", "->"),
            ("a.service = add rule inet f c accept", "="),
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
        assert_eq!(mended("a.service :: nft add rule inet f c accept"), Some((RIGHT.to_owned(), "nft")));
    }

    #[test]
    fn units_that_are_quoted_or_lack_a_comma_are_told() {
        for (wrong, units) in [
            ("\"a.service\" :: add rule inet f c accept", "a.service"),
            ("`a.service` :: inet f c accept", "a.service"),
            ("“a.service” :: add rule inet f c accept", "a.service"),
            ("a.service b.service :: add rule inet f c accept", "a.service, b.service"),
            ("system:a.service and user:app:b :: add rule inet f c accept", "system:a.service, user:app:b"),
            ("a.service; b.scope :: add rule inet f c accept", "a.service, b.scope"),
            ("a.service, :: add rule inet f c accept", "a.service"),
            ("system: a.service :: add rule inet f c accept", "system:a.service"),
            ("user:app: b, system: a.service :: add rule inet f c accept", "user:app:b, system:a.service"),
        ] {
            let right = format!("{units}{}", &wrong[wrong.find(" :: ").unwrap()..]);
            assert_eq!(mended(wrong).map(|found| found.0), Some(right), "{wrong}");
        }
    }

    #[test]
    fn a_blank_in_an_id_is_told() {
        assert_eq!(
            mended("alice:app:My Probe :: add rule inet f c accept"),
            Some(("alice:app:My\\x20Probe :: add rule inet f c accept".to_owned(), " Probe"))
        );
        assert_eq!(mended("alice:app:firefox has rules :: see below"), None);
        assert_eq!(mended("see alice:app:firefox for :: add rule inet f c accept"), None);
    }

    #[test]
    fn blanks_that_are_none_are_told() {
        for wrong in [
            "a.service\u{a0}:: add rule inet f c accept",
            "a.service ::\u{a0}add rule inet f c accept",
            "a.service ::\u{2003}add\u{a0}rule inet f c accept",
            "a.service\u{200b} :: add rule inet f c accept",
        ] {
            let (right, place) = mended(wrong).unwrap();
            assert_eq!(right.split_whitespace().collect::<Vec<_>>().join(" "), RIGHT, "{wrong}");
            assert_eq!(place.chars().count(), 1);
        }
        assert!(read("a.service\u{a0}:: handles our mail", 0, FileId(0)).is_none());
        assert!(read("Voir\u{a0}: add rule inet f c accept", 0, FileId(0)).is_none());
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
            "postfix.service dovecot.service :: the mail",
            "Todo: a.service b.service :: add rule inet f c accept",
            "\"a.service\" :: handles our mail",
            "first a.service :: add rule inet f c accept",
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
