//! Finds what matters in nft's own statements of a file: `define`, `include`, and where blocks begin and end.

use crate::text::{
    Span, Token, TokenKind,
    token::{Joined, Piece, is_identifier, pieces},
};

/// A statement of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// `table … {` or `chain … {`: what is defined from here on ends with the block.
    Open,
    /// Another `{`.
    OpenOther,
    /// `}`.
    Close,
    /// `define NAME = …`, `redefine NAME = …`.
    Define(String, Vec<Token>),
    /// `undefine NAME`.
    Undefine(String),
    /// `include "…"`, with the text in the quotes.
    Include(String),
}

/// The statements of a file, in order, with their places.
pub(super) fn find(text: &Joined) -> Vec<(Statement, Span)> {
    let mut reader = Reader { text, pieces: pieces(text), at: 0, found: Vec::new() };
    while reader.at < reader.pieces.len() {
        reader.statement();
    }
    reader.found
}

struct Reader<'a> {
    text: &'a Joined,
    pieces: Vec<Piece>,
    at: usize,
    found: Vec<(Statement, Span)>,
}

impl Reader<'_> {
    fn token(&self, at: usize) -> Option<&Token> {
        self.pieces.get(at).and_then(|piece| piece.0.as_ref())
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.token(at).is_some_and(|token| token.is(text))
    }

    fn name(&self, at: usize) -> Option<String> {
        let token = self.token(at).filter(|token| token.kind == TokenKind::Word)?;
        is_identifier(&token.text).then(|| token.text.to_string())
    }

    /// Keeps a statement that ends before the piece `next`.
    fn keep(&mut self, statement: Statement, next: usize) {
        let range = self.pieces[self.at].1.start..self.pieces[next - 1].1.end;
        self.found.push((statement, self.text.span(range)));
        self.at = next;
    }

    fn statement(&mut self) {
        if self.is(self.at, "}") {
            return self.keep(Statement::Close, self.at + 1);
        }
        if self.is(self.at, "include") {
            if let Some(path) = self.token(self.at + 1).filter(|token| token.kind == TokenKind::Quoted) {
                let path = path.text[1..path.text.len() - 1].to_owned();
                return self.keep(Statement::Include(path), self.at + 2);
            }
        } else if self.is(self.at, "undefine") {
            if let Some(name) = self.name(self.at + 1) {
                return self.keep(Statement::Undefine(name), self.at + 2);
            }
        } else if (self.is(self.at, "define") || self.is(self.at, "redefine")) && self.is(self.at + 2, "=") {
            let (value, next) = self.value(self.at + 3);
            if let (Some(name), false) = (self.name(self.at + 1), value.is_empty()) {
                return self.keep(Statement::Define(name, value), next);
            }
        }
        self.other();
    }

    /// The tokens up to the statement's end, which is no line's end within braces. None if they
    /// would change what follows them: nft refuses such a file.
    fn value(&self, first: usize) -> (Vec<Token>, usize) {
        let mut value: Vec<Token> = Vec::new();
        let mut depth = 0_usize;
        let mut at = first;
        while let Some((token, _)) = self.pieces.get(at) {
            match token {
                None if depth == 0 => break,
                None => {}
                Some(token) if depth == 0 && (token.is(";") || token.is("}")) => break,
                Some(token) => {
                    depth = depth + usize::from(token.is("{")) - usize::from(token.is("}"));
                    value.push(token.clone());
                }
            }
            at += 1;
        }
        if depth > 0 || value.iter().any(spoils_what_follows) {
            value.clear();
        }
        (value, at)
    }

    /// Passes over another statement up to its end or its block's beginning.
    fn other(&mut self) {
        let first = self.at;
        while let Some(token) = self.token(self.at) {
            if token.is("{") {
                let keyword =
                    if self.is(first, "add") || self.is(first, "create") { first + 1 } else { first };
                let has_scope = self.is(keyword, "table") || self.is(keyword, "chain");
                let statement = if has_scope { Statement::Open } else { Statement::OpenOther };
                return self.keep(statement, self.at + 1);
            }
            if token.is("}") {
                return;
            }
            self.at += 1;
            if self.is(self.at - 1, ";") {
                return;
            }
        }
        self.at += 1;
    }
}

/// A quote that nothing closes, or a `\` that may join the next line.
fn spoils_what_follows(token: &Token) -> bool {
    token.is("\"") || (token.kind != TokenKind::Quoted && token.text.ends_with('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{FileId, token::text_of};

    fn found(text: &str) -> Vec<String> {
        let mut joined = Joined::new(FileId(0));
        joined.push(text, 0);
        find(&joined)
            .into_iter()
            .map(|(statement, _)| match statement {
                Statement::Open => "scope".to_owned(),
                Statement::OpenOther => "{".to_owned(),
                Statement::Close => "}".to_owned(),
                Statement::Define(name, value) => format!("{name} = {}", text_of(&value)),
                Statement::Undefine(name) => format!("-{name}"),
                Statement::Include(path) => format!("<{path}>"),
            })
            .collect()
    }

    #[test]
    fn defines_and_includes_are_found_at_any_depth() {
        assert_eq!(
            found(
                "define a = 1; redefine a = \"x\" # b\ninclude \"one\"\ntable inet f {\n define b = { 1,\n 2 }\n\
                 chain c { include \"two\"; }\n}\nundefine a"
            ),
            ["a = 1", "a = \"x\"", "<one>", "scope", "b = { 1, 2 }", "scope", "<two>", "}", "}", "-a"]
        );
    }

    #[test]
    fn values_go_on_after_a_backslash() {
        assert_eq!(found("define a = 1 - \\\n2\ndefine b = \\\r\n 3\r\n"), ["a = 1 - 2", "b = 3"]);
    }

    #[test]
    fn comments_strings_and_other_places_are_passed_over() {
        assert_eq!(
            found("# include \"a\"\nadd rule f c comment \"\ndefine a = 1\n\"\nset define include \"b\"\n"),
            [""; 0]
        );
    }

    #[test]
    fn broken_text_does_not_stop_the_search() {
        assert_eq!(
            found(
                "define\ndefine a\ndefine a =\ndefine 1 = 2\ninclude a\n}\n\"\ndefine b = 1\ndefine f = \\ # x\ndefine c = { 1"
            ),
            ["}", "b = 1", "{"]
        );
    }
}
