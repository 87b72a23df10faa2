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
    text: String,
    pieces: Vec<Piece>,
    /// The annotations that need it, if any.
    pub annotations: Vec<AnnotationId>,
}

/// Bytes of a line that stand for something in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    start: usize,
    end: usize,
    origin: Span,
    /// Whether they are the file's own bytes: then neighbours make one piece.
    is_verbatim: bool,
}

impl Piece {
    /// Whether another piece goes on as the file does.
    fn goes_on(&self, next: &Self) -> bool {
        let follows = self.origin.file == next.origin.file && next.origin.start >= self.origin.end;
        follows
            && self.is_verbatim
            && next.is_verbatim
            && next.start - self.end == next.origin.start - self.origin.end
    }

    /// Where bytes from `first` to `last` of the line stand in the file, as far as they are in the piece.
    fn origin_of(&self, first: usize, last: usize) -> Span {
        if !self.is_verbatim {
            return self.origin;
        }
        let [start, end] =
            [first, last].map(|at| at.clamp(self.start, self.end) - self.start + self.origin.start);
        Span { start, end, ..self.origin }
    }
}

impl Script {
    /// Commands of our own words.
    pub fn of<'a>(commands: impl IntoIterator<Item = &'a str>) -> Self {
        Self { lines: commands.into_iter().map(Line::new).collect() }
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
        f.write_str(&self.text)
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
    pub fn of(mut self, annotations: &[AnnotationId]) -> Self {
        self.annotations.extend(annotations);
        self
    }

    /// Appends our own words.
    pub fn write(&mut self, text: impl Into<String>) {
        self.text.push_str(&text.into());
    }

    /// Appends words that stand for something in a file.
    pub fn write_for(&mut self, text: impl Into<String>, origin: Span) {
        self.append(&text.into(), origin, false);
    }

    /// Appends tokens as they were written, after a space.
    pub fn write_tokens<'t>(&mut self, tokens: impl IntoIterator<Item = &'t Token>) {
        for (number, token) in tokens.into_iter().enumerate() {
            if token.spaced || number == 0 {
                self.write(" ");
            }
            let is_verbatim = token.text.len() == token.span.end - token.span.start;
            self.append(&token.text, token.span, is_verbatim);
        }
    }

    fn append(&mut self, text: &str, origin: Span, is_verbatim: bool) {
        let start = self.text.len();
        self.text.push_str(text);
        let piece = Piece { start, end: self.text.len(), origin, is_verbatim };
        match self.pieces.last_mut() {
            Some(last) if last.goes_on(&piece) => {
                last.end = piece.end;
                last.origin.end = origin.end;
            }
            _ => self.pieces.push(piece),
        }
    }

    /// What columns `first` to `last` (from 1, in bytes, as nft counts) come from: the nearest piece with an
    /// origin that they touch or that follows.
    pub fn origin(&self, first: usize, last: usize) -> Option<Span> {
        let (first, last) = self.characters(first.saturating_sub(1), last.max(first));
        let mut pieces = self.pieces.iter().skip_while(|piece| piece.end <= first);
        let nearest = pieces.next()?;
        let is_touched = nearest.start < last;
        let mut found = if is_touched { nearest.origin_of(first, last) } else { nearest.origin };
        for piece in pieces.take_while(|piece| piece.start < last) {
            let origin = piece.origin_of(first, last);
            if found.file == origin.file && origin.end >= found.start {
                found = found.to(origin);
            }
        }
        Some(found)
    }

    /// The bytes of all characters that these bytes are of: nft stops at the first byte of one that it does not know.
    fn characters(&self, first: usize, last: usize) -> (usize, usize) {
        let end = self.text.len();
        let is_boundary = |at: &usize| self.text.is_char_boundary(*at);
        let first = (0..=first.min(end)).rev().find(is_boundary);
        let last = (last.min(end)..=end).find(is_boundary);
        (first.unwrap_or(0), last.unwrap_or(end))
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
    fn column_within_a_character_leads_to_the_whole_of_it() {
        let mut line = Line::default();
        let token = Token {
            kind: crate::text::TokenKind::Word,
            text: "aéb".into(),
            span: span(100, 104),
            spaced: false,
        };
        line.write_tokens([&token]);
        assert_eq!(line.to_string(), " aéb");
        for (first, last) in [(3, 3), (4, 4), (3, 4)] {
            assert_eq!(line.origin(first, last), Some(span(101, 103)));
        }
        assert_eq!(line.origin(2, 99), Some(span(100, 104)));
    }

    #[test]
    fn tokens_as_they_stand_in_the_file_are_one_piece() {
        let token = |text: &str, start, spaced| Token {
            kind: crate::text::TokenKind::Word,
            text: text.into(),
            span: span(start, start + text.len()),
            spaced,
        };
        let mut line = Line::new("add rule x");
        let tokens = [
            token("tcp", 100, true),
            token("dprt", 104, true),
            token("{", 110, true),
            token("1", 111, false),
        ];
        line.write_tokens(&tokens);
        assert_eq!(line.to_string(), "add rule x tcp dprt {1");
        assert_eq!(line.pieces.len(), 2, "there are two blanks in the file");
        assert_eq!(line.origin(16, 19), Some(span(104, 108)));
        assert_eq!(line.origin(22, 22), Some(span(111, 112)));
        assert_eq!(line.origin(12, 22), Some(span(100, 112)));
    }

    #[test]
    fn prints_one_command_a_line() {
        let mut script = Script::default();
        script.lines.push(Line::new("add table inet a"));
        script.lines.push(Line::new("add chain inet a b").of(&[AnnotationId(3)]));
        assert_eq!(script.to_string(), "add table inet a\nadd chain inet a b\n");
        assert_eq!(script.line(2).unwrap().annotations, [AnnotationId(3)]);
        assert!(script.line(0).is_none() && script.line(3).is_none());
    }
}
