//! `scnpm: allow(W004, W005)`: what the next line may do without a warning.

use std::collections::BTreeSet;

use crate::text::{
    Code, FileId, Span,
    diagnostic::{Diagnostic, Severity, quoted},
};

/// Whether a comment is one, well-formed or not.
pub(super) fn is(content: &str) -> bool {
    content.strip_prefix("scnpm:").is_some_and(|rest| rest.trim_start().starts_with("allow"))
}

/// The codes of such a comment, which stands at byte `start`, and what is wrong with it.
pub(super) fn read(content: &str, start: usize, file: FileId) -> Option<(BTreeSet<Code>, Vec<Diagnostic>)> {
    if !is(content) {
        return None;
    }
    let place = |from: usize, length: usize| Span { file, start: start + from, end: start + from + length };
    let list = content.split_once('(').and_then(|(before, rest)| {
        let inside = rest.trim_end().strip_suffix(')')?;
        before.trim_end().ends_with("allow").then_some((before.len() + 1, inside))
    });
    let Some((mut at, inside)) = list.filter(|(_, inside)| !inside.trim().is_empty()) else {
        let diagnostic = Diagnostic::new(Code::Allow, place(0, content.len()), "this allows nothing")
            .help("write `scnpm: allow(W004)`, with the codes of warnings between the brackets");
        return Some((BTreeSet::new(), vec![diagnostic]));
    };
    let (mut codes, mut diagnostics) = (BTreeSet::new(), Vec::new());
    for item in inside.split(',') {
        let name = item.trim();
        let span = place(at + item.len() - item.trim_start().len(), name.len());
        at += item.len() + 1;
        match name.parse::<Code>() {
            Ok(code) if code.severity() == Severity::Warning => drop(codes.insert(code)),
            Ok(_) => diagnostics.push(
                Diagnostic::new(Code::Allow, span, "an error cannot be allowed")
                    .help("only warnings can, whose codes begin with W"),
            ),
            Err(_) => diagnostics.push(
                Diagnostic::new(Code::Allow, span, format!("{} is no code", quoted(name)))
                    .help("write the code that the warning has in its brackets, such as W004"),
            ),
        }
    }
    Some((codes, diagnostics))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(content: &str) -> (Vec<&'static str>, Vec<String>) {
        let (codes, diagnostics) = read(content, 0, FileId(0)).unwrap();
        let say = |diagnostic: Diagnostic| {
            format!("{}: {}", &content[diagnostic.span.start..diagnostic.span.end], diagnostic.message)
        };
        (codes.into_iter().map(Code::as_str).collect(), diagnostics.into_iter().map(say).collect())
    }

    #[test]
    fn codes_of_warnings_are_allowed() {
        assert_eq!(found("scnpm: allow(W004)"), (vec!["W004"], vec![]));
        assert_eq!(found("scnpm:allow ( w006 ,W005 ) "), (vec!["W005", "W006"], vec![]));
    }

    #[test]
    fn what_allows_nothing_is_told() {
        assert_eq!(
            found("scnpm: allow(E001, W1)").1,
            ["E001: an error cannot be allowed", "W1: `W1` is no code"]
        );
        for empty in ["scnpm: allow", "scnpm: allow()", "scnpm: allow W004", "scnpm: allow(W004"] {
            assert_eq!(found(empty).1, [format!("{empty}: this allows nothing")]);
        }
        assert!(read("scnpm: is good", 0, FileId(0)).is_none());
    }
}
