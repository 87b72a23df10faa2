//! TEXT -> SELECTORS.

use std::ops::Range;

use super::{Selector, SelectorError, Selectors, Which, Whose, glob};
use crate::{
    model::UnitName,
    units::places::{has_type, is_in_name},
};

/// What is wrong with a text, and which part of it.
type Mistake<'a> = (&'a str, SelectorError);

/// The longest name of a user, as useradd(8) has it.
const USER_NAME_MAX: usize = 32;

impl Selectors {
    /// Reads what stands left of the `::`: selectors between commas, with blanks around each.
    ///
    /// # Errors
    /// The first diagnostic, and the bytes of the text that it is about.
    pub fn parse(text: &str) -> Result<Self, (Range<usize>, SelectorError)> {
        text.split(',').map(selector).collect::<Result<_, _>>().map(Self).map_err(|(part, error)| {
            let start = part.as_ptr().addr() - text.as_ptr().addr();
            (start..start + part.len(), error)
        })
    }
}

fn selector(piece: &str) -> Result<Selector, Mistake<'_>> {
    let whole = piece.trim_matches([' ', '\t', '\r']);
    if whole.is_empty() {
        return Err((piece, SelectorError::Empty));
    }
    let manager = whole.split_once(':').and_then(|(before, rest)| Some((whose(before)?, rest)));
    let (whose, rest) = manager.unwrap_or((Whose::Anybody, whole));
    if rest.is_empty() || rest == "app:" || rest == "cage:" {
        return Err((whole, SelectorError::Empty));
    }
    Ok(Selector { whose, which: which(rest)? })
}

/// The manager that stands before a colon, if it is one.
fn whose(text: &str) -> Option<Whose> {
    match text {
        "app" | "cage" => None,
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

fn which(text: &str) -> Result<Which, Mistake<'_>> {
    if let Some(id) = text.strip_prefix("app:") {
        let checked = check(id, is_in_id).map_err(|(at, _)| (at, SelectorError::Escape));
        return checked.map(|()| Which::App(id.to_owned()));
    }
    if let Some(id) = text.strip_prefix("cage:") {
        return check(id, is_in_id).map(|()| Which::Cage(id.to_owned()));
    }
    let is_glob = text.contains(['*', '?', '[']);
    check(text, |character| is_in_name(character) || (is_glob && "*?[]!^".contains(character)))?;
    if let Some(at) = glob::diagnostic(text).filter(|_| is_glob) {
        return Err((&text[at..], SelectorError::Glob));
    }
    if !has_type(text) && !text.ends_with('*') {
        return Err((text, SelectorError::NoType));
    }
    Ok(if is_glob { Which::Glob(text.to_owned()) } else { Which::Unit(UnitName(text.into())) })
}

/// Every character must be allowed.
fn check(text: &str, is_allowed: impl Fn(char) -> bool) -> Result<(), Mistake<'_>> {
    let other = text.char_indices().find(|(_, character)| !is_allowed(*character));
    other.map_or(Ok(()), |(at, character)| {
        Err((&text[at..at + character.len_utf8()], SelectorError::Character))
    })
}

fn is_in_id(character: char) -> bool {
    !character.is_whitespace() && !character.is_control() && !"*?[]/".contains(character)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selectors(text: &str) -> Result<Selectors, (Range<usize>, SelectorError)> {
        Selectors::parse(text)
    }

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
            ("app:My\\x20Probe", Whose::Anybody, Which::App("My\\x20Probe".to_owned())),
            ("user:app:café", Whose::AnyUser, Which::App("café".to_owned())),
            ("user:cage:build", Whose::AnyUser, Which::Cage("build".to_owned())),
            ("cage:my-agent", Whose::Anybody, Which::Cage("my-agent".to_owned())),
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
        use SelectorError::{Character, Empty, Escape, Glob, NoType};
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
            ("alice:app:a b", 11..12, Escape),
            ("app:a*", 5..6, Escape),
            ("app:a\u{1b}", 5..6, Escape),
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
