//! TEXT -> SELECTORS.

use std::ops::Range;

use super::{Selector, SelectorError, Selectors, Which, Whose, glob};
use crate::model::UnitName;

/// What is wrong with a text, and which bytes of it.
type Diagnostic = (Range<usize>, SelectorError);

/// The longest name of a user, as useradd(8) has it.
const USER_NAME_MAX: usize = 32;

/// Reads selectors between commas, with blanks around each.
pub(super) fn selectors(text: &str) -> Result<Selectors, Diagnostic> {
    let mut at = 0;
    let mut selectors = Vec::new();
    for piece in text.split(',') {
        selectors.push(selector(Part { text: piece, at })?);
        at += piece.len() + 1;
    }
    Ok(Selectors(selectors))
}

/// A part of the text, and the byte that it begins at.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Part<'a> {
    fn trimmed(self) -> Self {
        let text = self.text.trim_start_matches(is_blank);
        let at = self.at + self.text.len() - text.len();
        Self { text: text.trim_end_matches(is_blank), at }
    }

    fn without(self, prefix: &str) -> Option<Self> {
        let text = self.text.strip_prefix(prefix)?;
        Some(Self { text, at: self.at + prefix.len() })
    }

    fn split_at_colon(self) -> Option<(&'a str, Self)> {
        let (before, text) = self.text.split_once(':')?;
        Some((before, Self { text, at: self.at + before.len() + 1 }))
    }

    fn diagnostic(self, error: SelectorError) -> Diagnostic {
        (self.at..self.at + self.text.len(), error)
    }

    /// Every character must be allowed.
    fn check(self, is_allowed: impl Fn(char) -> bool) -> Result<(), Diagnostic> {
        match self.text.char_indices().find(|(_, character)| !is_allowed(*character)) {
            None => Ok(()),
            Some((at, character)) => {
                let at = self.at + at;
                Err((at..at + character.len_utf8(), SelectorError::Character))
            }
        }
    }
}

fn selector(piece: Part<'_>) -> Result<Selector, Diagnostic> {
    let whole = piece.trimmed();
    if whole.text.is_empty() {
        return Err(piece.diagnostic(SelectorError::Empty));
    }
    let manager = whole.split_at_colon().and_then(|(before, rest)| Some((whose(before)?, rest)));
    let (whose, rest) = manager.unwrap_or((Whose::Anybody, whole));
    if rest.text.is_empty() || rest.text == "app:" {
        return Err(whole.diagnostic(SelectorError::Empty));
    }
    Ok(Selector { whose, which: which(rest)? })
}

/// The manager that stands before a colon, if it is one.
fn whose(text: &str) -> Option<Whose> {
    match text {
        "app" => None,
        "system" => Some(Whose::System),
        "user" => Some(Whose::AnyUser),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok().map(Whose::Uid),
        _ => is_user_name(text).then(|| Whose::User(text.to_owned())),
    }
}

/// Whether a user may be called that. Names that end in a dash are left to units: `dbus-:1.2-…`.
fn is_user_name(text: &str) -> bool {
    let name = text.strip_suffix('$').unwrap_or(text);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    text.len() <= USER_NAME_MAX
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && !name.ends_with('-')
        && name.bytes().all(is_allowed)
}

fn which(part: Part<'_>) -> Result<Which, Diagnostic> {
    if let Some(id) = part.without("app:") {
        id.check(is_in_id)?;
        return Ok(Which::App(id.text.to_owned()));
    }
    if !part.text.contains(['*', '?', '[']) {
        part.check(is_in_unit)?;
        return if has_type(part.text) {
            Ok(Which::Unit(UnitName(part.text.into())))
        } else {
            Err(part.diagnostic(SelectorError::NoType))
        };
    }
    part.check(is_in_glob)?;
    if let Some(at) = glob::diagnostic(part.text) {
        return Err((part.at + at..part.at + part.text.len(), SelectorError::Glob));
    }
    if part.text.ends_with('*') || has_type(part.text) {
        Ok(Which::Glob(part.text.to_owned()))
    } else {
        Err(part.diagnostic(SelectorError::NoType))
    }
}

/// Whether a name ends in a dot and letters; which letters is not looked at.
fn has_type(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, kind)| {
        !stem.is_empty() && !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphabetic())
    })
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r')
}

fn is_in_unit(character: char) -> bool {
    character.is_ascii_alphanumeric() || ":-_.\\@".contains(character)
}

fn is_in_glob(character: char) -> bool {
    is_in_unit(character) || "*?[]!^".contains(character)
}

fn is_in_id(character: char) -> bool {
    !character.is_whitespace() && !character.is_control() && !"*?[]/".contains(character)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Selector {
        let Selectors(mut selectors) = selectors(text).unwrap();
        assert_eq!(selectors.len(), 1, "{text}");
        selectors.remove(0)
    }

    fn unit(name: &str) -> Which {
        Which::Unit(UnitName(name.into()))
    }

    fn user(name: &str) -> Whose {
        Whose::User(name.to_owned())
    }

    #[test]
    fn each_form_is_read() {
        for (text, whose, which) in [
            ("postfix.service", Whose::Anybody, unit("postfix.service")),
            ("system:postfix.service", Whose::System, unit("postfix.service")),
            ("user:a.service", Whose::AnyUser, unit("a.service")),
            ("1000:a.service", Whose::Uid(1000), unit("a.service")),
            ("alice:app.slice", user("alice"), unit("app.slice")),
            ("Alice.B-c_1:a.scope", user("Alice.B-c_1"), unit("a.scope")),
            ("host$:a.scope", user("host$"), unit("a.scope")),
            ("alice:app:firefox", user("alice"), Which::App("firefox".to_owned())),
            ("app:firefox", Whose::Anybody, Which::App("firefox".to_owned())),
            ("app:org.kde.a:b", Whose::Anybody, Which::App("org.kde.a:b".to_owned())),
            ("user:app:café", Whose::AnyUser, Which::App("café".to_owned())),
            ("app-*.scope", Whose::Anybody, Which::Glob("app-*.scope".to_owned())),
            ("alice:app-[!a]?*", user("alice"), Which::Glob("app-[!a]?*".to_owned())),
            ("*", Whose::Anybody, Which::Glob("*".to_owned())),
            ("a-b\\x2dc.scope", Whose::Anybody, unit("a-b\\x2dc.scope")),
            ("a.foo", Whose::Anybody, unit("a.foo")),
        ] {
            assert_eq!(one(text), Selector { whose, which }, "{text}");
        }
    }

    #[test]
    fn colon_may_be_part_of_a_units_name() {
        for name in [
            "dbus-:1.2-org.example@0.service",
            "a@b:c.service",
            "a\\x2db:c.service",
            ":a.service",
            "99999999999:a.service",
            "1a:b.service",
            "-a:b.service",
            "abcdefghijklmnopqrstuvwxyzabcdefg:a.service",
        ] {
            assert_eq!(one(name), Selector { whose: Whose::Anybody, which: unit(name) }, "{name}");
            let text = format!("alice:{name}");
            assert_eq!(one(&text), Selector { whose: user("alice"), which: unit(name) }, "{text}");
        }
        assert_eq!(one("1000:dbus-:1.2-*.service").which, Which::Glob("dbus-:1.2-*.service".to_owned()));
    }

    #[test]
    fn several_are_separated_by_commas() {
        let text = "system:postfix.service,\tsystem:dovecot.service , app:x";
        let read = selectors(text).unwrap();
        assert_eq!(read.0.len(), 3);
        assert_eq!(read.to_string(), "system:postfix.service,system:dovecot.service,app:x");
    }

    #[test]
    fn diagnostics_are_told_with_their_place() {
        use SelectorError::{Character, Empty, Glob, NoType};
        for (text, place, error) in [
            ("", 0..0, Empty),
            ("  ", 0..2, Empty),
            ("a.service,,b.service", 10..10, Empty),
            ("a.service, ", 10..11, Empty),
            ("a.service, alice:", 11..17, Empty),
            ("alice:app:", 0..10, Empty),
            ("app:", 0..4, Empty),
            ("postfix", 0..7, NoType),
            ("a.service, alice:postfix", 17..24, NoType),
            ("postfix.", 0..8, NoType),
            (".service", 0..8, NoType),
            ("postfix.s2", 0..10, NoType),
            ("app-*.s?", 0..8, NoType),
            ("app-[*]", 0..7, NoType),
            ("alice:app-[a.scope", 10..18, Glob),
            ("app-[[:alpha:]]*", 4..16, Glob),
            ("app-[a,b].scope", 4..6, Glob),
            ("a b.service", 1..2, Character),
            ("alice:é.service", 6..8, Character),
            ("a/b.service", 1..2, Character),
            ("a/*.service", 1..2, Character),
            ("alice:app:a b", 11..12, Character),
            ("app:a*", 5..6, Character),
            ("app:a\u{1b}", 5..6, Character),
        ] {
            assert_eq!(selectors(text), Err((place, error)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_the_same(
            texts in prop::collection::vec(
                "((system|user|app|alice|Bob\\.x|host\\$|0?[0-9]{1,11}|[a-z.$-]{1,3}):){0,3}\
                 [a-z*?@:.\\\\-]{0,6}(\\[!?[]a-c]{1,3}\\])?(\\.service|\\.x|\\*|)[ \t]?",
                1..4,
            ),
        ) {
            if let Ok(read) = selectors(&texts.join(",")) {
                prop_assert_eq!(selectors(&read.to_string()), Ok(read));
            }
        }

        #[test]
        fn no_text_is_too_odd(bytes in any::<Vec<u8>>(), colons in "[a-z0-9:,*\\[\\] .é-]{0,40}") {
            for text in [String::from_utf8_lossy(&bytes).as_ref(), colons.as_str()] {
                if let Err((place, _)) = selectors(text) {
                    prop_assert!(text.get(place).is_some());
                }
            }
        }
    }
}
