//! What `scnpm reload` prints. Pure.

use std::io::{self, Write};

use crate::{
    cli::Format,
    control::message::{Finding, Reloaded},
    model::printable,
};
use serde::Serialize;

#[derive(Serialize)]
struct Object<'a> {
    version: u32,
    loaded: bool,
    words: Option<&'a str>,
    findings: &'a [Finding],
}

/// Writes what is wrong with the files. Fails as `out` does.
pub fn write(reloaded: &Reloaded, format: Format, out: &mut dyn Write) -> io::Result<()> {
    let Reloaded { loaded, words, findings, text } = reloaded;
    match format {
        Format::Full => write!(out, "{}", harmless(text)),
        Format::Short => findings.iter().try_for_each(|one| {
            let Finding { code, severity, message, file, line, column, .. } = one;
            let line = format!("{file}:{line}:{column}: {severity}[{code}]: {message}");
            writeln!(out, "{}", printable(&line))
        }),
        Format::Json => {
            let object = Object { version: 1, loaded: *loaded, words: words.as_deref(), findings };
            serde_json::to_writer_pretty(&mut *out, &object)?;
            writeln!(out)
        }
    }
}

/// A text of several lines with nothing but colours for a terminal in it (console_codes(4), "ECMA-48 Select Graphic
/// Rendition").
fn harmless(text: &str) -> String {
    let mut lines = text.split("\x1b[");
    let plain = |text: &str| text.replace(|one: char| one.is_control() && !"\n\t".contains(one), "\u{fffd}");
    let mut safe = plain(lines.next().unwrap_or_default());
    for after in lines {
        let end = after.find(|one: char| !one.is_ascii_digit() && one != ';').unwrap_or(after.len());
        let is_colour = after[end..].starts_with('m');
        safe.push_str(if is_colour { "\x1b[" } else { "\u{fffd}[" });
        safe.push_str(&plain(after));
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_colours_reaches_the_terminal() {
        for (text, expected) in [
            ("a\n\tb", "a\n\tb"),
            ("\x1b[1;31merror\x1b[0m: a", "\x1b[1;31merror\x1b[0m: a"),
            ("\x1b[2Ja\x1b]0;b\x07\x1b", "\u{fffd}[2Ja\u{fffd}]0;b\u{fffd}\u{fffd}"),
            ("\x1b[31\x1b[31m\u{9b}2J\r", "\u{fffd}[31\x1b[31m\u{fffd}2J\u{fffd}"),
            ("\x1b[", "\u{fffd}["),
        ] {
            assert_eq!(harmless(text), expected);
        }
    }

    #[test]
    fn a_finding_is_a_line() {
        let finding =
            Finding { message: "a\n\x1b[31mb".to_owned(), line: 1, column: 2, ..Finding::default() };
        let reloaded = Reloaded { findings: vec![finding], ..Reloaded::default() };
        let mut out = Vec::new();
        write(&reloaded, Format::Short, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), ":1:2: []: a\u{fffd}\u{fffd}[31mb\n");
    }
}
