//! Numbers, times and texts as they fit into a cell. Pure.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A number in at most five characters: `9999`, `12.3k`, `4.5M`.
pub(super) fn short(number: u64) -> String {
    const STEPS: [(u64, &str); 5] = [
        (1_000_000_000_000_000_000, "E"),
        (1_000_000_000_000_000, "P"),
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
    ];
    let (step, letter) = match number {
        0..10_000 => return number.to_string(),
        10_000..1_000_000 => (1_000, "k"),
        _ => STEPS.into_iter().find(|(step, _)| number >= *step).unwrap_or((1, "")),
    };
    let (whole, tenth) = (number / step, number % step / (step / 10).max(1));
    if whole < 100 { format!("{whole}.{tenth}{letter}") } else { format!("{whole}{letter}") }
}

/// How long something still holds: `4:05`, or `1:04:05` with hours.
pub(super) fn left(millis: u64) -> String {
    let seconds = millis.div_ceil(1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// The text in no more than these columns of a terminal; what does not fit is left out at its end.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let mut used = 0;
    let kept = text.chars().take_while(|c| {
        used += c.width().unwrap_or(0);
        used <= room
    });
    let mut kept: String = kept.collect();
    if width > 0 {
        kept.push('…');
    }
    kept
}

/// The text in lines of no more than these columns, which end between words if they can.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    text.split('\n').flat_map(|line| wrapped_line(line, width.max(2))).collect()
}

fn wrapped_line(line: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = line;
    while rest.width() > width {
        let mut used = 0;
        let end = rest.char_indices().find(|(_, c)| {
            used += c.width().unwrap_or(0);
            used > width
        });
        let Some((end, _)) = end.filter(|(end, _)| *end > 0) else { break };
        // Not within the white space that a line begins with.
        let start = rest.len() - rest.trim_start().len();
        let cut = rest[..end].rfind(' ').map(|at| at + 1).filter(|cut| *cut > start).unwrap_or(end);
        lines.push(rest[..cut].trim_end().to_owned());
        rest = &rest[cut..];
    }
    lines.push(rest.to_owned());
    lines
}

/// What has a terminal put a text on its clipboard (xterm's control sequences, OSC 52).
pub(super) fn to_clipboard(text: &str) -> String {
    format!("\x1b]52;c;{}\x1b\\", base64(text.as_bytes()))
}

/// As RFC 4648 has it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encoded = bytes.chunks(3).flat_map(|chunk| {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        (0..4).map(move |at| match at <= chunk.len() {
            true => char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]),
            false => '=',
        })
    });
    encoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (number, expected) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10.0k"),
            (12_345, "12.3k"),
            (123_456, "123k"),
            (999_999, "999k"),
            (1_000_000, "1.0M"),
            (12_300_000_000, "12.3G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(short(number), expected);
        }
    }

    #[test]
    fn times_are_short() {
        assert_eq!([left(0), left(1), left(300_000), left(3_845_000)], ["0:00", "0:01", "5:00", "1:04:05"]);
    }

    #[test]
    fn texts_fit() {
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abcd", 3), "ab…");
        assert_eq!(fit("日本語", 5), "日本…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!([fit("ab", 1), fit("ab", 0)], ["…", ""]);
    }

    #[test]
    fn lines_end_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("abcdefgh\n\n  ij kl", 5), ["abcde", "fgh", "", "  ij", "kl"]);
        assert_eq!(wrapped("日本語", 4), ["日本", "語"]);
        assert_eq!(wrapped("ab", 0), ["ab"]);
    }

    #[test]
    fn clipboard_is_given_base64() {
        let all = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(all, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
        assert_eq!(to_clipboard("\x1b"), "\x1b]52;c;Gw==\x1b\\");
    }
}
