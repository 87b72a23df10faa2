//! A mistake, its place and its rendering.

use std::fmt;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::text::{SourceMap, Span};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The annotation is left out.
    Error,
    /// It is used, but may not do what its author thinks.
    Warning,
}

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line that starts small and has no full stop.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to write instead.
    pub help: Option<String>,
}

impl Mistake {
    /// An error.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), span, help: None }
    }

    /// A warning.
    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, message: message.into(), span, help: None }
    }

    /// With what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// As rustc prints it: message, `--> file:line:column`, the line and a caret.
    pub fn render(&self, sources: &SourceMap, colour: bool) -> String {
        let file = sources.file(self.span.file);
        let text = file.text.as_str();
        let first = text[..self.span.start].rfind('\n').map_or(0, |at| at + 1);
        let last = text[self.span.end..].find('\n').map_or(text.len(), |at| self.span.end + at);
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let shown = text[first..last].trim_end_matches('\r');
        let [start, end] = [self.span.start, self.span.end].map(|at| (at - first).min(shown.len()));
        let snippet = Snippet::source(shown)
            .line_start(sources.line_column(self.span).0)
            .path(file.path.as_str())
            .annotation(AnnotationKind::Primary.span(start..end));
        let mut report = level.primary_title(self.message.as_str()).element(snippet);
        if let Some(help) = &self.help {
            report = report.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[report]).to_string()
    }

    /// In one line: `file:line:column: error: message`.
    pub fn short(&self, sources: &SourceMap) -> String {
        let (line, column) = sources.line_column(self.span);
        let path = &sources.file(self.span.file).path;
        format!("{path}:{line}:{column}: {}: {}", self.severity, self.message)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A piece of a file's text for a message: in backticks, in one line, not too long.
pub(super) fn quoted(text: &str) -> String {
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

    fn example() -> (SourceMap, Mistake) {
        let mut sources = SourceMap::default();
        let file = sources.add("nftables.conf", "one\ntwo\r\n# ä.service :: add rule \"\"\n");
        let start = sources.file(file).text.find('"').unwrap();
        let mistake = Mistake::error(Span { file, start, end: start + 2 }, "the cgroup's path is empty");
        (sources, mistake.help("write a path such as \"system.slice/postfix.service\""))
    }

    #[test]
    fn mistake_is_rendered_with_line_and_caret() {
        let (sources, mistake) = example();
        assert_eq!(
            mistake.render(&sources, false),
            "error: the cgroup's path is empty
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
        let (sources, mistake) = example();
        assert!(mistake.render(&sources, true).contains('\x1b'));
        assert!(!mistake.render(&sources, false).contains('\x1b'));
    }

    #[test]
    fn short_form_is_one_line() {
        let (sources, mistake) = example();
        assert_eq!(mistake.short(&sources), "nftables.conf:3:25: error: the cgroup's path is empty");
    }

    #[test]
    fn quoted_text_stays_in_one_line() {
        assert_eq!(quoted("a\n\x1b[1mb"), "`a\u{fffd}\u{fffd}[1mb`");
        assert_eq!(quoted(&"x".repeat(61)), format!("`{}…`", "x".repeat(60)));
    }
}
