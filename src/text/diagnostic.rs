//! A diagnostic, its place and its rendering.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use serde::{Deserialize, Serialize};

use super::{Code, SourceFile, SourceMap, Span};
use crate::gather::sort_by;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The annotation is left out.
    Error,
    /// It is used, but may not do what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// What kind.
    pub code: Code,
    /// What is wrong, in one line that starts small and has no full stop.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to do.
    pub help: Option<String>,
    /// What to write instead.
    pub fix: Option<Box<Fix>>,
    /// Where else something is wrong for the same reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<Span>,
}

/// A change of the text that mends a diagnostic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    /// What to replace; what is empty is a place to write at.
    pub span: Span,
    /// What to write there.
    pub text: String,
}

impl Diagnostic {
    /// A diagnostic without help.
    pub fn new(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), span, help: None, fix: None, more: Vec::new() }
    }

    /// With what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// With what to write instead.
    #[must_use]
    pub fn fix(mut self, span: Span, text: impl Into<String>) -> Self {
        self.fix = Some(Box::new(Fix { span, text: text.into() }));
        self
    }

    /// With several changes of a file's text, as one that reaches from the first of them to the last.
    #[must_use]
    pub fn fix_all(self, text: &str, mut changes: Vec<(Span, String)>) -> Self {
        sort_by(&mut changes, Ord::cmp);
        let [(first, _), ..] = &changes[..] else { return self };
        let (mut whole, mut written) = (Span { end: first.start, ..*first }, String::new());
        for (span, by) in &changes {
            written += &text[whole.end..span.start];
            written += by;
            whole.end = span.end;
        }
        self.fix(whole, written)
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// As rustc prints it: message, `--> file:line:column`, the line and a caret, and the help with the line that
    /// would be right.
    pub fn render(&self, sources: &SourceMap, colour: bool) -> String {
        let level = match self.severity() {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let (snippet, range) = snippet(sources, self.span);
        let snippet = snippet.annotation(AnnotationKind::Primary.span(range));
        let mut title = level.primary_title(&*self.message).id(self.code.as_str()).element(snippet);
        if let (Some(help), None) = (&self.help, &self.fix) {
            title = title.element(Level::HELP.message(help.as_str()));
        }
        if let Some(more) = self.more(sources) {
            title = title.element(Level::NOTE.message(more));
        }
        let fix = self.fix.as_ref().map(|fix| render_fix(sources, self.help.as_deref(), fix));
        let report: Vec<Group<'_>> = std::iter::once(title).chain(fix).collect();
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&report).to_string()
    }

    /// In one line: `file:line:column: error: message`.
    pub fn short(&self, sources: &SourceMap) -> String {
        let (line, column) = sources.line_column(self.span);
        let path = &sources.file(self.span.file).path;
        let more = self.more(sources).map(|more| format!(" ({more})")).unwrap_or_default();
        format!("{path}:{line}:{column}: {}[{}]: {}{more}", self.severity(), self.code, self.message)
    }

    /// How often more something is wrong for the same reason, and in which lines.
    fn more(&self, sources: &SourceMap) -> Option<String> {
        const NAMED: usize = 5;
        let place = |span: &Span| match (span.file == self.span.file, sources.location(*span)) {
            (true, location) => location.line.to_string(),
            (false, location) => location.to_string(),
        };
        let mut places: Vec<String> = self.more.iter().map(place).collect();
        places.dedup();
        let what = if places.len() > 1 { "lines" } else { "line" };
        let rest = if places.len() > NAMED { ", …" } else { "" };
        places.truncate(NAMED);
        let number = self.more.len();
        (number > 0).then(|| format!("{number} more for the same reason: {what} {}{rest}", places.join(", ")))
    }
}

fn render_fix<'a>(sources: &'a SourceMap, help: Option<&'a str>, fix: &'a Fix) -> Group<'a> {
    let (snippet, range) = snippet(sources, fix.span);
    let snippet = snippet.patch(Patch::new(range, &*fix.text));
    Level::HELP.secondary_title(help.unwrap_or("write")).element(snippet)
}

/// The lines that a span is in, and where it is in them.
fn snippet<T: Clone>(sources: &SourceMap, span: Span) -> (Snippet<'_, T>, Range<usize>) {
    let SourceFile { path, text, .. } = sources.file(span.file);
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[span.end..].find('\n').map_or(text.len(), |at| span.end + at);
    let lines = text[start..end].trim_end_matches('\r');
    let [from, to] = [span.start, span.end].map(|at| (at - start).min(lines.len()));
    (Snippet::source(lines).line_start(sources.line_column(span).0).path(path), from..to)
}

/// A piece of a file's text for a message: in backticks, in one line, not too long.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.chars().count() > LONGEST {
        short.push('…');
    }
    format!("`{short}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (SourceMap, Diagnostic) {
        let mut sources = SourceMap::default();
        let file = sources.add("nftables.conf", "one\ntwo\r\n# ä.service :: add rule \"\"\n");
        let start = sources.file(file).text.find('"').unwrap();
        let diagnostic =
            Diagnostic::new(Code::Path, Span { file, start, end: start + 2 }, "the cgroup's path is empty");
        (sources, diagnostic.help("write a path such as \"system.slice/postfix.service\""))
    }

    #[test]
    fn diagnostic_is_rendered_with_line_and_caret() {
        let (sources, diagnostic) = example();
        assert_eq!(
            diagnostic.render(&sources, false),
            "error[E005]: the cgroup's path is empty
 --> nftables.conf:3:25
  |
3 | # ä.service :: add rule \"\"
  |                         ^^
  |
  = help: write a path such as \"system.slice/postfix.service\""
        );
    }

    #[test]
    fn colour_is_only_there_on_request() {
        let (sources, diagnostic) = example();
        assert!(diagnostic.render(&sources, true).contains('\x1b'));
        assert!(!diagnostic.render(&sources, false).contains('\x1b'));
    }

    #[test]
    fn short_form_is_one_line() {
        let (sources, diagnostic) = example();
        assert_eq!(diagnostic.short(&sources), "nftables.conf:3:25: error[E005]: the cgroup's path is empty");
    }

    #[test]
    fn what_is_wrong_for_the_same_reason_is_counted() {
        let (mut sources, diagnostic) = example();
        let other = sources.add("other.conf", "x\n");
        let [first, second] = [0, 4].map(|start| Span { file: diagnostic.span.file, start, end: start + 3 });
        let more = vec![first, second, Span { file: other, start: 0, end: 1 }];
        let diagnostic = Diagnostic { more, ..diagnostic };
        let note = "3 more for the same reason: lines 1, 2, other.conf:1";
        assert!(diagnostic.render(&sources, false).ends_with(&format!("\n  = note: {note}")));
        assert!(diagnostic.short(&sources).ends_with(&format!(" ({note})")));
        let one = Diagnostic { more: vec![first], ..diagnostic.clone() };
        assert!(one.short(&sources).ends_with("(1 more for the same reason: line 1)"));
        let many = Diagnostic { more: vec![first, second, first, second, first, second], ..diagnostic };
        assert!(many.short(&sources).ends_with("(6 more for the same reason: lines 1, 2, 1, 2, 1, …)"));
    }

    #[test]
    fn quoted_text_stays_in_one_line() {
        assert_eq!(quoted("a\n\x1b[1mb"), "`a\u{fffd}\u{fffd}[1mb`");
        assert_eq!(quoted(&"x".repeat(61)), format!("`{}…`", "x".repeat(60)));
    }
}
