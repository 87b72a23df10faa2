//! A mistake, its place and its rendering.

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
        let _ = (sources, colour);
        todo!()
    }

    /// In one line: `file:line:column: error: message`.
    pub fn short(&self, sources: &SourceMap) -> String {
        let _ = sources;
        todo!()
    }
}
