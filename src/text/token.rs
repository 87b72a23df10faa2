//! nft's words, as far as this project looks at them: enough to find a span, nothing more.

use std::{net::Ipv6Addr, ops::Range};

use super::{FileId, Span};

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
    pub text: Box<str>,
    /// Where it stands.
    pub span: Span,
    /// Whether white space (or a continued line's end) stands in front of it.
    pub spaced: bool,
}

impl Token {
    /// Whether it is this word or sign.
    pub fn is(&self, text: &str) -> bool {
        self.kind != TokenKind::Quoted && *self.text == *text
    }

    /// Whether it is one of these words or signs.
    pub fn is_any(&self, texts: &[&str]) -> bool {
        texts.iter().any(|text| self.is(text))
    }

    /// Its text without quotes.
    pub fn unquoted(&self) -> &str {
        match self.kind {
            TokenKind::Quoted => self.text.trim_matches('"'),
            _ => &self.text,
        }
    }
}

/// A text joined from pieces of one file, each byte of which knows where it stands there.
#[derive(Debug, Clone)]
pub struct Joined {
    file: FileId,
    text: String,
    /// Where each piece begins: in `text`, and in the file.
    pieces: Vec<(usize, usize)>,
}

impl Joined {
    /// Nothing yet, of this file.
    pub fn new(file: FileId) -> Self {
        Self { file, text: String::new(), pieces: Vec::new() }
    }

    /// Adds what stands at byte `start` of the file, after a space if it isn't the first piece.
    pub fn push(&mut self, piece: &str, start: usize) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.pieces.push((self.text.len(), start));
        self.text.push_str(piece);
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where a range of the text stands in the file; an empty text stands at its beginning.
    pub fn span(&self, range: Range<usize>) -> Span {
        let start = self.place(range.start);
        let end = if range.is_empty() { start } else { self.place(range.end - 1) + 1 };
        Span { file: self.file, start, end }
    }

    /// Whether lines were joined after this place of the file.
    pub fn is_continued_after(&self, place: Span) -> bool {
        self.pieces.last().is_some_and(|&(_, start)| place.start < start)
    }

    /// The empty place after the text.
    pub fn end(&self) -> Span {
        let last = self.pieces.last().map_or(0, |piece| piece.1 + self.text.len() - piece.0);
        Span { file: self.file, start: last, end: last }
    }

    fn place(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|piece| piece.0 <= at);
        self.pieces.get(piece.saturating_sub(1)).map_or(0, |&(text, file)| file + at.saturating_sub(text))
    }
}

/// What [`tokenize`] found.
#[derive(Debug, Clone, Default)]
pub struct Tokenized {
    /// The tokens.
    pub tokens: Vec<Token>,
    /// A quote that nothing closes, with what follows it. There are no tokens after it.
    pub unterminated: Option<Span>,
    /// nft's own comment: a `#` with what follows it. There are no tokens after it.
    pub comment: Option<Span>,
}

/// The tokens of one statement.
pub fn tokenize(joined: &Joined) -> Tokenized {
    let mut found = Tokenized::default();
    for piece in pieces(joined) {
        match piece {
            Piece::Token(token) => found.tokens.push(token),
            Piece::LineEnd => {}
            Piece::Comment(span) => {
                found.comment = Some(span);
                break;
            }
            Piece::Unterminated(quote) => {
                found.unterminated = Some(quote.span.to(joined.end()));
                break;
            }
        }
    }
    found
}

/// What a text consists of, but for blanks.
pub(crate) enum Piece {
    /// A token.
    Token(Token),
    /// A line's end without a `\` in front of it.
    LineEnd,
    /// A `#` and the rest of its line.
    Comment(Span),
    /// A quote that nothing closes. nft takes it as a character of its own, and refuses the file.
    Unterminated(Token),
}

/// Cuts a text where nft's scanner would, or less finely: what it leaves whole, nft may still cut.
pub(crate) fn pieces(joined: &Joined) -> impl Iterator<Item = Piece> + Clone {
    let (mut at, mut spaced) = (0, false);
    std::iter::from_fn(move || {
        loop {
            let rest = &joined.text()[at..];
            let (lexeme, length) = lexeme(rest, rest.chars().next()?);
            let span = joined.span(at..at + length);
            at += length;
            let is_token = matches!(lexeme, Lexeme::Token(_) | Lexeme::Unterminated);
            let spaced = std::mem::replace(&mut spaced, !is_token);
            return Some(match lexeme {
                Lexeme::Blank => continue,
                Lexeme::LineEnd => Piece::LineEnd,
                Lexeme::Comment => Piece::Comment(span),
                Lexeme::Unterminated => {
                    Piece::Unterminated(token(TokenKind::Punctuation, &rest[..length], span, spaced))
                }
                Lexeme::Token(kind) => Piece::Token(token(kind, &rest[..length], span, spaced)),
            });
        }
    })
}

/// The text of tokens, equal to the original in nft's eyes.
pub fn text_of<'a>(tokens: impl IntoIterator<Item = &'a Token>) -> String {
    let mut text = String::new();
    for token in tokens {
        if token.spaced && !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&token.text);
    }
    text
}

/// A token of this text. A variable's blanks after its `$`, which nft allows, go.
fn token(kind: TokenKind, text: &str, span: Span, spaced: bool) -> Token {
    let text = match kind {
        TokenKind::Variable | TokenKind::SetReference => text.replace([' ', '\t'], ""),
        _ => text.to_owned(),
    };
    Token { kind, text: text.into(), span, spaced }
}

/// Whether nft takes a word as the name of a table, chain, set or variable.
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(is_name_start) && text.chars().all(is_name)
}

/// What begins a text.
enum Lexeme {
    /// White space within a line, or a line's end with a `\` in front of it.
    Blank,
    LineEnd,
    Comment,
    Unterminated,
    Token(TokenKind),
}

fn lexeme(rest: &str, first: char) -> (Lexeme, usize) {
    let length_while = |test: fn(char) -> bool| rest.find(|c| !test(c)).unwrap_or(rest.len());
    match first {
        '\n' => (Lexeme::LineEnd, 1),
        ' ' | '\t' | '\r' => (Lexeme::Blank, length_while(is_blank)),
        '#' => (Lexeme::Comment, length_while(|c| c != '\n')),
        '\\' if rest[1..].starts_with('\n') => (Lexeme::Blank, 2),
        '\\' if rest[1..].starts_with("\r\n") => (Lexeme::Blank, 3),
        '"' => match rest[1..].find('"') {
            Some(end) => (Lexeme::Token(TokenKind::Quoted), end + 2),
            None => (Lexeme::Unterminated, 1),
        },
        '$' => sigil(rest, TokenKind::Variable),
        '@' => sigil(rest, TokenKind::SetReference),
        _ => match address(rest).unwrap_or_else(|| word(rest)) {
            0 => (Lexeme::Token(TokenKind::Punctuation), punctuation(rest, first)),
            length => match &rest[..length] {
                "." | "-" | "/" | "*" | "\\" => (Lexeme::Token(TokenKind::Punctuation), length),
                _ => (Lexeme::Token(TokenKind::Word), length),
            },
        },
    }
}

fn sigil(rest: &str, kind: TokenKind) -> (Lexeme, usize) {
    let after = rest[1..].trim_start_matches([' ', '\t']);
    if !after.starts_with(is_name_start) {
        return (Lexeme::Token(TokenKind::Punctuation), 1);
    }
    let name = after.find(|c| !is_name(c)).unwrap_or(after.len());
    (Lexeme::Token(kind), rest.len() - after.len() + name)
}

/// The length of the IPv6 or hardware address at the beginning.
fn address(rest: &str) -> Option<usize> {
    const LONGEST: usize = 45;
    let run = rest.bytes().take(LONGEST).take_while(|b| b.is_ascii_hexdigit() || b":.".contains(b)).count();
    let colon = rest[..run].find(':')?;
    (colon + 1..=run).rev().find(|&length| is_address(&rest[..length]))
}

fn is_address(text: &str) -> bool {
    let is_octet =
        |octet: &str| (1..=2).contains(&octet.len()) && octet.bytes().all(|b| b.is_ascii_hexdigit());
    text.parse::<Ipv6Addr>().is_ok() || (text.split(':').count() == 6 && text.split(':').all(is_octet))
}

fn word(rest: &str) -> usize {
    rest.char_indices().find(|&(at, c)| !is_in_word(rest, at, c)).map_or(rest.len(), |(at, _)| at)
}

fn is_in_word(rest: &str, at: usize, c: char) -> bool {
    match c {
        '\\' => !rest[at + 1..].starts_with('\n') && !rest[at + 1..].starts_with("\r\n"),
        '@' => at > 0,
        '*' => true,
        _ => is_name(c) || !(c.is_ascii() || c.is_whitespace()),
    }
}

fn punctuation(rest: &str, first: char) -> usize {
    let double = ["==", "!=", "<=", ">=", "<<", ">>"].iter().any(|operator| rest.starts_with(operator));
    if double { 2 } else { first.len_utf8() }
}

/// Whether it is white space within a line.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '_' | '.')
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str) -> Joined {
        let mut joined = Joined::new(FileId(0));
        joined.push(text, 0);
        joined
    }

    fn words(text: &str) -> Vec<String> {
        tokenize(&joined(text)).tokens.into_iter().map(|token| token.text.into_string()).collect()
    }

    #[test]
    fn rejoined_tokens_are_the_text() {
        for text in [
            "ip daddr { 10.0.0.1/24, 1.2.3.4-1.2.3.9 } tcp dport {25,143} accept",
            "ip6 daddr fe80::1/64 ether saddr 00:11:22:33:44:55 limit rate 10/second burst 1-1024",
            "dnat ip6 to [2001:db8::1]:80 log prefix \"a # b\" meta mark & 0xff00 != 0x1<<8",
            "oifname my-vpn jump vpn.whitelist ct timeout 1d12h iifname eth* @nh,0,32 == $a-$b.c",
            "tcp dport map{80:web.local,443:10.0.0.1} a\\x2db ä öö",
        ] {
            assert_eq!(text_of(&tokenize(&joined(text)).tokens), text);
        }
    }

    #[test]
    fn addresses_names_and_paths_stay_whole() {
        assert_eq!(words("ip6 daddr fe80::1 accept"), ["ip6", "daddr", "fe80::1", "accept"]);
        assert_eq!(words("{00:11:22:33:44:55,::1}"), ["{", "00:11:22:33:44:55", ",", "::1", "}"]);
        assert_eq!(words("system.slice/foo@1.service x"), ["system.slice/foo@1.service", "x"]);
        assert_eq!(words("mail.x . 25"), ["mail.x", ".", "25"]);
        assert_eq!(words("{80:web.local}"), ["{", "80", ":", "web.local", "}"]);
        assert_eq!(words("1.2.3.4:80"), ["1.2.3.4", ":", "80"]);
    }

    #[test]
    fn comment_ends_the_text_but_not_in_quotes() {
        let found = tokenize(&joined("log prefix \"#\" # accept"));
        assert_eq!(text_of(&found.tokens), "log prefix \"#\"");
        assert_eq!(found.comment.map(|span| span.start), Some(15));
    }

    #[test]
    fn quote_without_end_is_told() {
        let found = tokenize(&joined("a \"b c"));
        assert_eq!(found.tokens.len(), 1);
        assert_eq!(found.unterminated.map(|span| (span.start, span.end)), Some((2, 6)));
    }

    #[test]
    fn spans_are_those_of_the_pieces() {
        let mut joined = Joined::new(FileId(0));
        joined.push("add rule", 10);
        joined.push("inet filter", 30);
        let tokens = tokenize(&joined).tokens;
        assert_eq!((tokens[1].span.start, tokens[1].span.end), (14, 18));
        assert_eq!((tokens[2].span.start, tokens[2].span.end), (30, 34));
        assert!(tokens[2].spaced);
    }

    #[test]
    fn blanks_after_a_dollar_sign_go() {
        assert_eq!(words("ip daddr $ web"), ["ip", "daddr", "$web"]);
    }
}
