//! nft's words, as far as this project looks at them: enough to find a span, nothing more.

use super::text::Span;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A bare word: a keyword, name, number or address.
    Word,
    /// A string in double quotes.
    Quoted,
    /// `$NAME`; the text has the `$`.
    Variable,
    /// `@NAME`; the text has the `@`.
    SetReference,
    /// Anything else: one operator or bracket, such as `{`, `!=`, `:`.
    Punctuation,
}

/// A token, where it stands, and whether white space stands in front of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Its text as it stands in the file, quotes included.
    pub text: String,
    /// Where it stands.
    pub span: Span,
    /// Whether white space (or a continued line's end) stands in front of it.
    pub spaced: bool,
}

impl Token {
    /// Whether it is this word or sign.
    pub fn is(&self, text: &str) -> bool {
        self.kind != TokenKind::Quoted && self.text == text
    }

    /// Its text without quotes.
    pub fn unquoted(&self) -> &str {
        match self.kind {
            TokenKind::Quoted => self.text.trim_matches('"'),
            _ => &self.text,
        }
    }
}
