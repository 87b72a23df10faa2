//! A script in nft's native syntax whose every piece remembers where it comes from.

use std::fmt;

use crate::{
    model::AnnotationId,
    text::{Span, Token},
};

/// A script, line by line; what [`fmt::Display`] prints is exactly what nft is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// Its lines.
    pub lines: Vec<Line>,
}

/// One command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// Its text in pieces.
    pieces: Vec<Piece>,
    /// The annotations that need it; none for a line that is not about any.
    pub annotations: Vec<AnnotationId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    text: String,
    origin: Option<Span>,
}

impl Script {
    /// Commands of our own words.
    pub fn of<'a>(commands: impl IntoIterator<Item = &'a str>) -> Self {
        Self { lines: commands.into_iter().map(Line::new).collect() }
    }

    /// Appends a line.
    pub fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Appends another script.
    pub fn append(&mut self, other: Self) {
        self.lines.extend(other.lines);
    }

    /// The line with this number, from 1, as nft counts.
    pub fn line(&self, number: usize) -> Option<&Line> {
        self.lines.get(number.checked_sub(1)?)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| f.write_str(&piece.text))
    }
}

impl Line {
    /// A line of our own words.
    pub fn new(text: impl Into<String>) -> Self {
        let mut line = Self::default();
        line.write(text);
        line
    }

    /// For these annotations.
    #[must_use]
    pub fn of(mut self, annotations: impl IntoIterator<Item = AnnotationId>) -> Self {
        self.annotations.extend(annotations);
        self
    }

    /// Appends our own words.
    pub fn write(&mut self, text: impl Into<String>) {
        self.pieces.push(Piece { text: text.into(), origin: None });
    }

    /// Appends words that stand for something in a file.
    pub fn write_for(&mut self, text: impl Into<String>, origin: Span) {
        self.pieces.push(Piece { text: text.into(), origin: Some(origin) });
    }

    /// Appends tokens as they were written, after a space.
    pub fn write_tokens<'t>(&mut self, tokens: impl IntoIterator<Item = &'t Token>) {
        for (number, token) in tokens.into_iter().enumerate() {
            if token.spaced || number == 0 {
                self.write(" ");
            }
            self.write_for(&token.text, token.span);
        }
    }

    /// What columns `first` to `last` (from 1, in bytes, as nft counts) come from: the nearest piece with an
    /// origin that they touch or that follows.
    pub fn origin(&self, first: usize, last: usize) -> Option<Span> {
        let (first, last) = (first.saturating_sub(1), last.max(first));
        let mut start = 0;
        let mut found: Option<Span> = None;
        for piece in &self.pieces {
            let end = start + piece.text.len();
            if let Some(origin) = piece.origin.filter(|_| end > first) {
                match found {
                    None => found = Some(origin),
                    Some(span) if start < last && span.file == origin.file && origin.end >= span.start => {
                        found = Some(span.to(origin));
                    }
                    Some(_) => {}
                }
            }
            if found.is_some() && end >= last {
                break;
            }
            start = end;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::FileId;

    fn span(start: usize, end: usize) -> Span {
        Span { file: FileId(0), start, end }
    }

    #[test]
    fn columns_lead_back_to_the_file() {
        let mut line = Line::new("add rule inet filter c ");
        line.write_for("tcp", span(100, 103));
        line.write(" ");
        line.write_for("dprt", span(104, 108));
        line.write(" accept");
        assert_eq!(line.origin(28, 31), Some(span(104, 108)));
        assert_eq!(line.origin(24, 31), Some(span(100, 108)));
        assert_eq!(line.origin(1, 3), Some(span(100, 103)));
        assert_eq!(line.origin(33, 38), None);
    }

    #[test]
    fn prints_one_command_a_line() {
        let mut script = Script::default();
        script.push(Line::new("add table inet a"));
        script.push(Line::new("add chain inet a b").of([AnnotationId(3)]));
        assert_eq!(script.to_string(), "add table inet a\nadd chain inet a b\n");
        assert_eq!(script.line(2).unwrap().annotations, [AnnotationId(3)]);
        assert!(script.line(0).is_none() && script.line(3).is_none());
    }
}
