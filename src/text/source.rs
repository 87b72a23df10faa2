//! Source files and places in them.

use serde::{Deserialize, Serialize};

use crate::model::Location;

/// A file of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub usize);

/// A run of bytes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// Its first byte.
    pub start: usize,
    /// The byte after its last one.
    pub end: usize,
}

impl Span {
    /// From the beginning of this one to the end of `last`, which is in the same file.
    pub fn to(self, last: Self) -> Self {
        Self { end: last.end, ..self }
    }
}

/// A file as it was read.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Its path, as it was named.
    pub path: String,
    /// Whether another file includes it.
    pub is_included: bool,
    /// Whether it begins with a byte order mark.
    pub has_mark: bool,
    /// Whether it is UTF-8 throughout.
    pub is_utf8: bool,
    /// Its text without the mark; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// Where its lines begin.
    lines: Vec<usize>,
}

impl SourceFile {
    /// Another text, or its own, with the byte order mark that it has.
    pub fn marked(&self, text: &str) -> String {
        format!("{}{text}", if self.has_mark { "\u{feff}" } else { "" })
    }

    /// The first byte of a line (from 1), if there is one.
    pub fn line_start(&self, line: usize) -> Option<usize> {
        self.lines.get(line.checked_sub(1)?).copied()
    }
}

/// All files of a policy.
#[derive(Debug, Clone, Default)]
pub struct SourceMap {
    /// In the order in which they were first read.
    pub files: Vec<SourceFile>,
}

impl SourceMap {
    /// Keeps a file.
    pub fn add(&mut self, path: impl Into<String>, text: impl Into<String>) -> FileId {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.files.push(SourceFile {
            path: path.into(),
            is_included: false,
            has_mark: false,
            is_utf8: true,
            text,
            lines,
        });
        FileId(self.files.len() - 1)
    }

    /// A file.
    pub fn file(&self, id: FileId) -> &SourceFile {
        &self.files[id.0]
    }

    /// The file and line that a span begins in.
    pub fn location(&self, span: Span) -> Location {
        Location { file: self.file(span.file).path.clone(), line: self.line_column(span).0 }
    }

    /// The line (from 1) that a byte of a file is in.
    pub fn line(&self, file: FileId, at: usize) -> usize {
        self.file(file).lines.partition_point(|start| *start <= at)
    }

    /// The line (from 1) and column (from 1, in characters) that a span begins at.
    pub fn line_column(&self, span: Span) -> (usize, usize) {
        let file = self.file(span.file);
        let line = self.line(span.file, span.start);
        let start = file.lines[line - 1];
        (line, file.text[start..span.start].chars().count() + 1)
    }
}
