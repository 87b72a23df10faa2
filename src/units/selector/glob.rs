//! Globs as glob(7) has them, but that `\` is an ordinary character: names of units are full of `\x2d`.
//!
//! Matching takes at most the product of both lengths: only the last `*` is ever tried again.

/// The `[` that nothing closes, or that holds a class by name (`[[:alpha:]]`), which is not understood.
pub(super) fn diagnostic(glob: &str) -> Option<usize> {
    let bytes = glob.as_bytes();
    let mut rest = bytes;
    while let Some((piece, after)) = split(rest) {
        match piece {
            Piece::Byte(b'[') => return Some(bytes.len() - rest.len()),
            Piece::Class { members, .. } if has_name(members) => return Some(bytes.len() - rest.len()),
            _ => rest = after,
        }
    }
    None
}

/// Whether a glob matches the whole of a name.
pub(super) fn matches(glob: &str, name: &str) -> bool {
    let (mut glob, mut name) = (glob.as_bytes(), name.as_bytes());
    let mut again = None;
    loop {
        match split(glob) {
            None if name.is_empty() => return true,
            Some((Piece::Any, after)) => {
                again = Some((after, name));
                glob = after;
            }
            Some((piece, after)) if name.first().is_some_and(|byte| piece.takes(*byte)) => {
                (glob, name) = (after, &name[1..]);
            }
            _ => {
                let Some((after, [_, rest @ ..])) = again else { return false };
                again = Some((after, rest));
                (glob, name) = (after, rest);
            }
        }
    }
}

/// What a glob consists of.
#[derive(Clone, Copy)]
enum Piece<'a> {
    /// `*`
    Any,
    /// `?`
    One,
    /// `[…]`
    Class {
        /// Whether it is `[!…]` or `[^…]`.
        negated: bool,
        /// What is between.
        members: &'a [u8],
    },
    /// What stands for itself.
    Byte(u8),
}

impl Piece<'_> {
    fn takes(self, byte: u8) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Class { negated, members } => has(members, byte) != negated,
            Self::Byte(own) => own == byte,
        }
    }
}

/// A glob's first piece, and the rest.
fn split(glob: &[u8]) -> Option<(Piece<'_>, &[u8])> {
    let (first, rest) = glob.split_first()?;
    Some(match first {
        b'*' => (Piece::Any, rest),
        b'?' => (Piece::One, rest),
        b'[' => class(rest).unwrap_or((Piece::Byte(b'['), rest)),
        byte => (Piece::Byte(*byte), rest),
    })
}

/// What follows a `[`. A `]` that comes first is a member.
fn class(text: &[u8]) -> Option<(Piece<'_>, &[u8])> {
    let (negated, text) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let end = 1 + text.get(1..)?.iter().position(|byte| *byte == b']')?;
    Some((Piece::Class { negated, members: &text[..end] }, &text[end + 1..]))
}

fn has(mut members: &[u8], byte: u8) -> bool {
    loop {
        let (has, rest) = match members {
            [] => return false,
            [from, b'-', to, rest @ ..] => ((*from..=*to).contains(&byte), rest),
            [member, rest @ ..] => (*member == byte, rest),
        };
        if has {
            return true;
        }
        members = rest;
    }
}

fn has_name(members: &[u8]) -> bool {
    members.windows(2).any(|pair| matches!(pair, [b'[', b':' | b'.' | b'=']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn globs_match_as_glob_7_says() {
        for (glob, name) in [
            ("*", ""),
            ("*", "a.service"),
            ("a*c", "abcbc"),
            ("a?c", "abc"),
            ("[abc].x", "b.x"),
            ("[a-c]x", "bx"),
            ("[!a-c]x", "dx"),
            ("[^a-c]x", "dx"),
            ("[]a]", "]"),
            ("[!]a]", "b"),
            ("[a-]", "-"),
            ("[-a]", "-"),
            ("[!-a]", "b"),
            ("a\\x2d*", "a\\x2db"),
            ("[\\]x", "\\x"),
            ("**a**", "bab"),
        ] {
            assert!(matches(glob, name), "{glob} {name}");
            assert_eq!(diagnostic(glob), None, "{glob}");
        }
        for (glob, name) in [
            ("", "a"),
            ("a", ""),
            ("?", ""),
            ("a?c", "ac"),
            ("[abc]", "d"),
            ("[!abc]", "a"),
            ("[z-a]", "b"),
            ("[!a]", ""),
            ("\\*", "*"),
            ("a*b", "abc"),
        ] {
            assert!(!matches(glob, name), "{glob} {name}");
        }
    }

    #[test]
    fn classes_that_are_not_understood_are_told() {
        for (glob, at) in [("a[b", 1), ("[", 0), ("a[]", 1), ("[!]", 0), ("[a][", 3), ("x[[:alpha:]]", 1)] {
            assert_eq!(diagnostic(glob), Some(at), "{glob}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches(&"a*".repeat(2000), &"a".repeat(1999)));
        assert!(!matches(&format!("{}b", "*a".repeat(100)), &"a".repeat(5000)));
    }

    fn by_trying_all(glob: &[u8], name: &[u8]) -> bool {
        match split(glob) {
            None => name.is_empty(),
            Some((Piece::Any, after)) => (0..=name.len()).any(|at| by_trying_all(after, &name[at..])),
            Some((piece, after)) => name
                .split_first()
                .is_some_and(|(first, rest)| piece.takes(*first) && by_trying_all(after, rest)),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_way_to_match_is_found(glob in "([ab]|\\*|\\?|\\[!?[ab]{1,2}\\]|\\[a-b\\]|\\[){0,8}", name in "[abc]{0,8}") {
            prop_assert_eq!(matches(&glob, &name), by_trying_all(glob.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn no_glob_is_too_odd(glob in any::<String>(), name in any::<String>()) {
            diagnostic(&glob);
            matches(&glob, &name);
        }
    }
}
