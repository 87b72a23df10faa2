//! BYTES <-> NAMES. What systemd-escape(1) does to text that becomes part of a unit's name.

/// Writes what a part of a unit's name cannot have, and the dashes and `@` between its parts, as `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let stays = |byte: u8| byte.is_ascii_alphanumeric() || b":_.".contains(&byte);
    let escaped = |&byte: &u8| if stays(byte) { char::from(byte).to_string() } else { escaped_byte(byte) };
    bytes.iter().map(escaped).collect()
}

/// Writes one byte as `\xNN`.
pub fn escaped_byte(byte: u8) -> String {
    format!("\\x{byte:02x}")
}

/// Undoes it. What is no escape stays.
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let mut rest = text;
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = read_byte(rest).unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    bytes
}

fn read_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'\\', b'x', high, low, after @ ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(*high)? << 4 | digit(*low)?, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::places;

    #[test]
    fn dashes_and_what_no_name_has_are_escaped() {
        for (bytes, escaped) in [
            (&b"org.mozilla.firefox"[..], "org.mozilla.firefox"),
            (b"my-app", "my\\x2dapp"),
            (b"a/b c@d\\e", "a\\x2fb\\x20c\\x40d\\x5ce"),
            ("café".as_bytes(), "caf\\xc3\\xa9"),
            (b"\0\n\xff\"'$%", "\\x00\\x0a\\xff\\x22\\x27\\x24\\x25"),
            (b"", ""),
        ] {
            assert_eq!(escape(bytes), escaped);
        }
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(b"a\\x2gb\\x4\\y\\"), b"a\\x2gb\\x4\\y\\");
    }

    proptest! {
        #[test]
        fn escapes_are_undone(bytes in any::<Vec<u8>>()) {
            let escaped = escape(&bytes);
            prop_assert!(escaped.chars().all(|c| places::is_in_name(c) && c != '-' && c != '@'));
            prop_assert_eq!(unescape(escaped.as_bytes()), bytes);
        }
    }
}
