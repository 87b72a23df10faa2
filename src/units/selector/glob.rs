//! Globs as glob(7) has them, but that `\` is an ordinary character: names of units are full of `\x2d`.
//!
//! Matching takes at most the product of both lengths: only the last `*` is ever tried again.

/// The `[` that nothing closes, or that holds a class by name (`[[:alpha:]]`), which is not understood.
pub(super) fn diagnostic(glob: &str) -> Option<usize> {
    let mut rest = glob.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match class(after) {
            _ if *first != b'[' => after,
            Some((_, members, after)) if !has_name(members) => after,
            _ => return Some(glob.len() - rest.len()),
        };
    }
    None
}

/// Whether a glob matches the whole of a name.
pub(super) fn matches(glob: &str, name: &str) -> bool {
    let (mut glob, mut name) = (glob.as_bytes(), name.as_bytes());
    let mut again = None;
    loop {
        if let [b'*', after @ ..] = glob {
            again = Some((after, name));
            glob = after;
        } else if let [byte, rest @ ..] = name
            && let Some(after) = after_taking(*byte, glob)
        {
            (glob, name) = (after, rest);
        } else if glob.is_empty() && name.is_empty() {
            return true;
        } else {
            let Some((after, [_, rest @ ..])) = again else { return false };
            again = Some((after, rest));
            (glob, name) = (after, rest);
        }
    }
}

/// What follows the beginning of a glob, no `*`, if that takes a byte.
fn after_taking(byte: u8, glob: &[u8]) -> Option<&[u8]> {
    let (first, after) = glob.split_first()?;
    match (first, class(after)) {
        (b'?', _) => Some(after),
        (b'[', Some((negated, members, after))) => (has(members, byte) != negated).then_some(after),
        (own, _) => (*own == byte).then_some(after),
    }
}

/// Whether a class is `[!…]` or `[^…]`, its members, and what follows it; of what follows its `[`. A `]` that comes first
/// is a member.
fn class(text: &[u8]) -> Option<(bool, &[u8], &[u8])> {
    let (negated, text) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let end = 1 + text.get(1..)?.iter().position(|byte| *byte == b']')?;
    Some((negated, &text[..end], &text[end + 1..]))
}

fn has(mut members: &[u8], byte: u8) -> bool {
    while let [from, rest @ ..] = members {
        let (to, rest) = if let [b'-', to, rest @ ..] = rest { (to, rest) } else { (from, rest) };
        if (*from..=*to).contains(&byte) {
            return true;
        }
        members = rest;
    }
    false
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
        match glob {
            [] => name.is_empty(),
            [b'*', after @ ..] => (0..=name.len()).any(|at| by_trying_all(after, &name[at..])),
            _ => name.split_first().is_some_and(|(first, rest)| {
                after_taking(*first, glob).is_some_and(|after| by_trying_all(after, rest))
            }),
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
