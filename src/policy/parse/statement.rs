//! An annotation's tokens to what it asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    comments::{is_family, is_other_statement},
    paths::{self, Written},
    variables::Variables,
};
use crate::{
    gather::Gather,
    model::{CgroupPath, ChainRef, Data, Family, SetRef, TableRef},
    policy::{
        annotation::{CgroupMatch, ElementStatement, Part, Placement, RuleStatement, Statement},
        hosts,
        words::is_of_rules,
    },
    text::{
        Code, Span, Token, TokenKind,
        diagnostic::{Diagnostic, Severity, quoted},
        token::{Joined, is_identifier, tokenize},
    },
};

/// Reads an annotation's text; the statement and its last token's place. It is only good if no error is among the
/// diagnostics.
///
/// # Errors
/// What leaves no statement at all.
pub(super) fn read(
    text: &Joined,
    variables: &Variables,
    diagnostics: &mut Vec<Diagnostic>,
) -> Read<(Statement, Span)> {
    let found = tokenize(text);
    if let Some(span) = found.unterminated {
        let quote = Span { end: span.start + 1, ..span };
        let unclosed = Diagnostic::new(Code::Nesting, quote, "nothing closes this quote");
        return Err(match curly_counterpart(text) {
            Some(curly) => unclosed.help("nft takes no other quotes than `\"`").fix(curly, "\""),
            None => unclosed.help("write another `\"`"),
        });
    }
    if let Some(span) = found.comment.filter(|span| text.is_continued_after(*span)) {
        let sign = Span { end: span.start + 1, ..span };
        let message = "this `#` makes a comment of all that follows, continued lines too";
        let diagnostic = Diagnostic::new(Code::CommentInside, sign, message);
        diagnostics.push(diagnostic.help("leave the comment out, or quote the `#`"));
    }
    let mut tokens = found.tokens;
    while tokens.last().is_some_and(|token| token.is(";")) {
        tokens.pop();
    }
    diagnostics.extend(variables.rename(&mut tokens).err().into_iter().flatten());
    let end = tokens.last().map_or(text.end(), |token| token.span);
    let after = Span { start: end.end, ..end };
    let mut reader = Reader { tokens: &tokens, at: 0, after, variables, diagnostics };
    reader.check_shape()?;
    Ok((reader.statement()?, end))
}

/// A curly quote on the other side of the word that the last quote of a text stands at.
fn curly_counterpart(text: &Joined) -> Option<Span> {
    let text_of = text.text();
    let quote = text_of.rfind('"')?;
    let (before, after) = (&text_of[..quote], &text_of[quote + 1..]);
    let is_end = |c: char| c == ' ' || c == '\t' || paths::is_curly_quote(c);
    let next = after.find(is_end).map(|at| quote + 1 + at);
    let places = [next, before.rfind(is_end)].into_iter().flatten();
    let curly = |at: usize| {
        text_of[at..].chars().next().filter(|c| paths::is_curly_quote(*c)).map(|c| at..at + c.len_utf8())
    };
    places.filter_map(curly).next().map(|range| text.span(range))
}

/// A character in a word that looks like a blank and is none, such as a no-break space.
fn odd_blank(token: &Token) -> Option<char> {
    let is_odd = |c: &char| (c.is_whitespace() && !c.is_ascii()) || *c == '\u{200b}';
    token.text.chars().find(is_odd).filter(|_| token.kind != TokenKind::Quoted)
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    /// The empty place behind the last token.
    after: Span,
    variables: &'a Variables,
    diagnostics: &'a mut Vec<Diagnostic>,
}

type Read<T> = Result<T, Diagnostic>;
type Elements = Vec<(CgroupPath, Span, Option<Data>)>;

impl<'a> Reader<'a> {
    fn is(&self, at: usize, text: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is(text))
    }

    fn is_any(&self, at: usize, texts: &[&str]) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_any(texts))
    }

    fn span(&self, at: usize) -> Span {
        self.tokens.get(at).map_or(self.after, |token| token.span)
    }

    /// Braces are closed, and there is one statement only.
    fn check_shape(&self) -> Read<()> {
        let wrong = |token: &Token, message: &str| Diagnostic::new(Code::Nesting, token.span, message);
        let mut open: Vec<&Token> = Vec::new();
        for token in self.tokens {
            if token.is("{") {
                open.push(token);
            } else if token.is("}") && open.pop().is_none() {
                return Err(wrong(token, "nothing opens this brace"));
            } else if token.is(";") && open.is_empty() {
                return Err(wrong(token, "more than one statement in an annotation")
                    .help("write an annotation for each of them"));
            } else if let Some(odd) = odd_blank(token) {
                let blanks: String = token.text.chars().map(|c| if c == odd { ' ' } else { c }).collect();
                let message = format!("the character U+{:04X} is not a blank", u32::from(odd));
                let diagnostic = no_statement(token.span, message).help("write ordinary blanks");
                return Err(diagnostic.fix(token.span, blanks));
            } else if token.kind != TokenKind::Quoted && token.text.ends_with('\\') {
                // At a line's end it would make nft join the next statement to this one.
                return Err(wrong(token, "a `\\` that continues no line").help("leave it out"));
            }
        }
        let unclosed = |brace| Err(wrong(brace, "nothing closes this brace").help("write a `}`"));
        open.pop().map_or(Ok(()), unclosed)
    }

    fn statement(&mut self) -> Read<Statement> {
        let words: Vec<&str> = self.tokens.iter().take(3).map(|token| &*token.text).collect();
        match words[..] {
            [] => Err(self.missing("statement")),
            ["nft", second, ..] if matches!(second, "add" | "insert") || is_family(second) => {
                let whole = Span { end: self.span(1).start, ..self.span(0) };
                Err(no_statement(self.span(0), "`nft` is not part of the statement")
                    .help("leave it out")
                    .fix(whole, ""))
            }
            ["add", "element", ..] => self.element(),
            ["add", "rule", ..] => self.rule("add", 2),
            ["insert", "rule", ..] => self.rule("insert", 2),
            ["insert", second, ..] if is_family(second) => self.rule("insert", 1),
            ["add", ..] if !is_other_statement(&words) => self.rule("add", 1),
            [first, ..] if is_family(first) => self.rule("add", 0),
            [first, ..] if first == "insert" || is_other_statement(&words) => Err(no_statement(
                self.span(0),
                "an annotation can `add rule`, `insert rule` or `add element`",
            )
            .help("write other statements outside the comments")),
            // nft's default family, as the original only puts `add rule` in front of what it finds.
            [_, _, ..] if self.tokens[2..].windows(3).any(is_cgroup_match) => self.rule("add", 0),
            _ => Err(no_statement(
                self.span(0),
                format!("{} is neither a verb nor a family", quoted(words[0])),
            )
            .help("write `add rule FAMILY TABLE CHAIN …`")),
        }
    }

    fn missing(&self, what: &str) -> Diagnostic {
        no_statement(self.after, format!("the {what} is missing"))
            .help("write `add rule FAMILY TABLE CHAIN RULE` or `add element FAMILY TABLE SET { \"PATH\" }`")
    }

    /// A table and the name of what is in it, and their place from the family on. Without a family it is nft's default.
    fn object(&mut self, what: &str) -> Read<(TableRef, Arc<str>, Span)> {
        let start = self.span(self.at);
        self.check_family()?;
        let family = self.tokens.get(self.at).and_then(|token| token.text.parse::<Family>().ok());
        self.at += usize::from(family.is_some());
        let table = self.name("table")?.text.clone();
        let name = self.name(what)?;
        let table = TableRef { family: family.unwrap_or(Family::Ip), name: table.into() };
        Ok((table, name.text.clone().into(), start.to(name.span)))
    }

    /// What looks like a family and has two more names behind it is meant to be one.
    fn check_family(&self) -> Read<()> {
        let [first, _, third, ..] = &self.tokens[self.at..] else { return Ok(()) };
        let meant = match &*first.text {
            "ipv6" => "ip6",
            "ipv4" | "ip4" => "ip",
            "inet4" | "inet6" | "inet46" | "ip46" => "",
            _ => return Ok(()),
        };
        if third.kind != TokenKind::Word || !is_identifier(&third.text) || is_of_rules(third) {
            return Ok(());
        }
        let message = format!("{} is not a family", quoted(&first.text));
        let diagnostic = no_statement(first.span, message);
        Err(match meant {
            "" => diagnostic.help("write the table's own family, such as `inet` for IPv4 and IPv6, or `ip6`"),
            _ => diagnostic.help(format!("write `{meant}`")).fix(first.span, meant),
        })
    }

    fn name(&mut self, what: &str) -> Read<&'a Token> {
        let token = self.tokens.get(self.at).ok_or_else(|| self.missing(&format!("{what}'s name")))?;
        if token.kind != TokenKind::Word || !is_identifier(&token.text) {
            return Err(no_name(token.span, &token.text, what)
                .help("a name is a letter, then letters, digits, `/`, `-`, `_` and `.`"));
        }
        self.at += 1;
        Ok(token)
    }

    fn rule(&mut self, verb: &str, first: usize) -> Read<Statement> {
        self.at = first;
        let (table, name, chain_span) = self.object("chain")?;
        let placement = self.placement(verb)?;
        if self.at == self.tokens.len() {
            return Err(self.missing("rule"));
        }
        let body = self.body()?;
        check_matches(&body)?;
        let hosts = hosts::find(&body, &|name| self.variables.get(name).map(|define| &define.value[..]))?;
        Ok(Statement::Rule(RuleStatement {
            placement,
            chain: ChainRef { table, name },
            chain_span,
            body,
            hosts,
        }))
    }

    fn placement(&mut self, verb: &str) -> Read<Placement> {
        if !self.is_any(self.at, &["index", "handle", "position"]) {
            return Ok(if verb == "insert" { Placement::Beginning } else { Placement::End });
        }
        if self.tokens.get(self.at + 1).is_none_or(|token| number(&token.text).is_none()) {
            let keyword = quoted(&self.tokens[self.at].text);
            return Err(no_statement(self.span(self.at), format!("{keyword} without a number")));
        }
        let words = self.tokens[self.at..self.at + 2].to_vec();
        self.at += 2;
        Ok(Placement::Explicit(verb.to_owned(), words))
    }

    fn body(&mut self) -> Read<Vec<Part>> {
        let mut parts: Vec<Part> = Vec::new();
        let mut depth = 0_usize;
        while let Some(token) = self.tokens.get(self.at) {
            depth = depth + usize::from(token.is("{")) - usize::from(token.is("}"));
            let found = if depth == 0 { self.cgroup_match()? } else { None };
            let (part, next) = found.unwrap_or_else(|| (Part::Verbatim(token.clone()), self.at + 1));
            parts.push(part);
            self.at = next;
        }
        Ok(parts)
    }

    /// `socket cgroupv2 unit` or `socket cgroupv2 level N [==|!=|eq|ne] PATHS` here, and the token after it.
    fn cgroup_match(&mut self) -> Read<Option<(Part, usize)>> {
        let at = self.at;
        if !(self.is(at, "socket") && self.is(at + 1, "cgroupv2")) {
            return Ok(None);
        }
        // A part of a key such as `ip daddr . socket cgroupv2 level 2`.
        let is_in_key = at > 0 && self.is(at - 1, ".");
        if self.is_any(at + 2, &OPERATORS) && self.is(at + 3, "unit") {
            let whole = self.span(at).to(self.span(at + 3));
            return Err(no_statement(whole, "`unit` is compared with nothing")
                .help("write `socket cgroupv2 unit`")
                .fix(whole, "socket cgroupv2 unit"));
        }
        let level = self.tokens.get(at + 3).and_then(|token| number(&token.text));
        let level = level.filter(|_| self.is(at + 2, "level"));
        // At the level 1 it may be the name of a cgroup.
        if level.is_some_and(|level| level != 1) && self.is(at + 4, "unit") {
            let whole = self.span(at).to(self.span(at + 4));
            return Err(no_statement(whole, "`unit` stands for cgroups of any level")
                .help("write `socket cgroupv2 unit`")
                .fix(whole, "socket cgroupv2 unit"));
        }
        if self.is(at + 2, "unit") {
            if is_in_key || self.is(at + 3, ".") {
                return Err(no_statement(self.span(at + 2), "`unit` can't be a part of a key")
                    .help("write `socket cgroupv2 unit` as a match of its own"));
            }
            return Ok(Some((Part::Units(self.span(at).to(self.span(at + 2))), at + 3)));
        }
        let Some(level) = level.filter(|_| !is_in_key) else { return Ok(None) };
        let first = at + 4 + usize::from(self.is_any(at + 4, &OPERATORS));
        if first == self.tokens.len() || self.is_any(first, &STATEMENTS) {
            let before = self.span(first - 1);
            let place = Span { start: before.end, ..before };
            return Err(Diagnostic::new(Code::Path, place, "the cgroup's path is missing")
                .help(format!("write `socket cgroupv2 level {level} \"PATH\"`")));
        }
        if first == at + 4 && self.is_any(first, &OTHER_OPERATORS) {
            return Ok(None);
        }
        let Some((list, next)) = paths::list(self.variables, self.tokens, first) else { return Ok(None) };
        if self.is(next, ".") {
            return Ok(None);
        }
        let span = self.span(at).to(self.span(next - 1));
        let level_span = self.span(at + 3);
        let mut paths = self.paths(&list, level, level_span);
        paths.shrink_to_fit();
        if list.is_empty() {
            self.diagnostics.push(Diagnostic::new(Code::Path, span, "no cgroup's path between the braces"));
        }
        let negated = self.is_any(at + 4, &["!=", "ne"]);
        Ok(Some((Part::Cgroup(Box::new(CgroupMatch { level, level_span, negated, paths, span })), next)))
    }

    fn paths(&mut self, list: &[Written], level: u32, level_span: Span) -> Vec<(CgroupPath, Span)> {
        let mut paths: Vec<(CgroupPath, Span)> = Vec::new();
        let mut known = BTreeSet::new();
        for written in list {
            let Some(path) = paths::check(written, self.diagnostics) else { continue };
            if !known.insert(path.clone()) {
                continue;
            }
            paths.push((path, written.span));
        }
        let depth = |path: &CgroupPath| paths::below_mount(path).unwrap_or(path.as_str()).split('/').count();
        let depths: BTreeSet<usize> = paths.iter().map(|(path, _)| depth(path)).gather();
        for (path, span) in paths.iter().filter(|(path, _)| u32::try_from(depth(path)) != Ok(level)) {
            let names = depth(path);
            let plural = if names == 1 { "" } else { "s" };
            let message = format!("level {level} never matches a path with {names} name{plural}");
            let diagnostic = Diagnostic::new(Code::Level, *span, message);
            let is_gone = path.as_str().bytes().all(|byte| byte.is_ascii_digit());
            self.diagnostics.push(match depths.len() {
                _ if is_gone => diagnostic
                    .help("nft lists a cgroup that is gone as a number: write the path that was meant"),
                1 => diagnostic.help(format!("write `level {names}`")).fix(level_span, names.to_string()),
                _ => diagnostic.help(format!("write an annotation with `level {names}` for it")),
            });
        }
        paths
    }

    fn element(&mut self) -> Read<Statement> {
        self.at = 2;
        let (table, name, set_span) = self.object("set")?;
        let mut elements = Vec::new();
        match self.tokens.get(self.at) {
            None => return Err(self.missing("element")),
            Some(token) if token.is("{") => self.elements(&mut elements)?,
            Some(_) => self.keys(&mut elements)?,
        }
        if let Some(token) = self.tokens.get(self.at) {
            return Err(unsupported(token.span));
        }
        let is_good = self.diagnostics.iter().all(|diagnostic| diagnostic.severity() != Severity::Error);
        if elements.is_empty() && is_good {
            return Err(self.missing("element"));
        }
        self.keep_each_once(&mut elements);
        Ok(Statement::Element(ElementStatement { set: SetRef { table, name }, set_span, elements }))
    }

    fn elements(&mut self, elements: &mut Elements) -> Read<()> {
        self.at += 1;
        while !self.is(self.at, "}") {
            let known = elements.len();
            self.keys(elements)?;
            if self.is(self.at, ":") {
                let data = self.data()?;
                elements[known..].iter_mut().for_each(|element| element.2 = Some(data.clone()));
            }
            if self.is(self.at, ",") {
                self.at += 1;
            } else if !self.is(self.at, "}") {
                return Err(unsupported(self.span(self.at)));
            }
        }
        self.at += 1;
        Ok(())
    }

    fn keep_each_once(&mut self, elements: &mut Elements) {
        let mut known: BTreeMap<CgroupPath, Option<Data>> = BTreeMap::new();
        elements.retain(|(path, span, data)| match known.get(path) {
            None => known.insert(path.clone(), data.clone()).is_none(),
            Some(earlier) => {
                if earlier != data {
                    let message = format!("{} is there already, with another value", quoted(path.as_str()));
                    self.diagnostics.push(no_element(*span, message));
                }
                false
            }
        });
    }

    /// A path, or a variable with one or several, as elements without data.
    fn keys(&mut self, elements: &mut Elements) -> Read<()> {
        let token = &self.tokens[self.at];
        let is_address = |text: &str| text.parse::<IpAddr>().is_ok() || number(text).is_some();
        if token.kind == TokenKind::Word && is_address(&token.text) {
            return Err(no_element(token.span, format!("{} is not a cgroup's path", quoted(&token.text)))
                .help("an annotation adds elements to sets and maps of `type cgroupsv2`"));
        }
        let list = if token.is("{") { None } else { paths::list(self.variables, self.tokens, self.at) };
        if token.kind == TokenKind::Variable && self.variables.get(&token.text[1..]).is_none() {
            // It is reported already.
            self.at += 1;
            return Ok(());
        }
        let Some((list, next)) = list else {
            return Err(match token.kind {
                TokenKind::Variable => {
                    no_element(token.span, "this variable holds something else than paths of cgroups")
                        .help("write `define NAME = { \"PATH\", \"PATH\" }`")
                }
                _ => unsupported(token.span),
            });
        };
        for written in &list {
            if let Some(path) = paths::check(written, self.diagnostics) {
                elements.push((path, written.span, None));
            }
        }
        self.at = next;
        Ok(())
    }

    fn data(&mut self) -> Read<Data> {
        let colon = self.span(self.at);
        let first = self.at + 1;
        while self.at < self.tokens.len() && !self.is_any(self.at, &[",", "}"]) {
            if self.is(self.at, "{") {
                return Err(unsupported(self.span(self.at)));
            }
            self.at += 1;
        }
        let tokens = &self.tokens[first..self.at];
        let words: Vec<&str> = tokens.iter().map(|token| &*token.text).collect();
        match words[..] {
            [] => Err(no_element(colon, "the value after this `:` is missing")),
            ["accept"] => Ok(Data::Accept),
            ["drop"] => Ok(Data::Drop),
            ["continue"] => Ok(Data::Continue),
            ["return"] => Ok(Data::Return),
            [verb @ ("jump" | "goto"), _] => {
                let name = self.value(&tokens[1])?;
                if !is_identifier(&name) {
                    return Err(no_name(tokens[1].span, &name, "chain"));
                }
                Ok(if verb == "jump" { Data::Jump(name) } else { Data::Goto(name) })
            }
            _ => {
                if let Some(token) = tokens.iter().skip(1).step_by(2).find(|token| !token.is(".")) {
                    return Err(unsupported(token.span));
                }
                if tokens.len().is_multiple_of(2) {
                    let dot = tokens[tokens.len() - 1].span;
                    return Err(no_element(dot, "the value after this `.` is missing"));
                }
                let values = tokens.iter().step_by(2).map(|token| self.value(token));
                Ok(Data::Value(values.collect::<Read<_>>()?))
            }
        }
    }

    /// A single value, through variables.
    fn value(&self, token: &Token) -> Read<String> {
        match token.kind {
            TokenKind::Word | TokenKind::Quoted => Ok(token.unquoted().to_owned()),
            TokenKind::Variable => match paths::list(self.variables, std::slice::from_ref(token), 0) {
                Some((list, _)) if list.len() == 1 => Ok(list[0].text.clone()),
                _ => Err(no_element(token.span, "this variable holds more than one word")),
            },
            _ => Err(unsupported(token.span)),
        }
    }
}

fn no_statement(span: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(Code::Statement, span, message)
}

fn no_element(span: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(Code::Element, span, message)
}

fn no_name(span: Span, text: &str, what: &str) -> Diagnostic {
    Diagnostic::new(Code::Name, span, format!("{} can't be the name of a {what}", quoted(text)))
}

fn unsupported(span: Span) -> Diagnostic {
    no_element(span, "this form of an element isn't supported")
        .help("write `{ \"PATH\", \"PATH\" }`, or `{ \"PATH\" : VALUE, \"PATH\" : VALUE }` for a map")
}

/// `unit` stands for what the selectors select, which another match in the same rule could only narrow to nothing.
fn check_matches(body: &[Part]) -> Read<()> {
    let mut matches = body.iter().filter_map(|part| match part {
        Part::Units(span) => Some((true, *span)),
        Part::Cgroup(cgroup) => Some((false, cgroup.span)),
        Part::Verbatim(_) | Part::Record(_) => None,
    });
    match (matches.next(), matches.next()) {
        (Some((first, _)), Some((second, span))) if first || second => {
            Err(no_statement(span, "another cgroup match beside `socket cgroupv2 unit`")
                .help("leave one of them out"))
        }
        _ => Ok(()),
    }
}

/// Whether `socket cgroupv2 level` or `socket cgroupv2 unit` is here.
fn is_cgroup_match(words: &[Token]) -> bool {
    words[0].is("socket") && words[1].is("cgroupv2") && words[2].is_any(&["level", "unit"])
}

/// How a cgroup is compared with paths.
const OPERATORS: [&str; 4] = ["==", "!=", "eq", "ne"];

/// What uses a cgroup in another way.
const OTHER_OPERATORS: [&str; 13] =
    ["map", "vmap", "and", "or", "xor", "lshift", "rshift", "lt", "gt", "le", "ge", "mod", "seed"];

/// What begins another statement of the rule, so that a value is missing before it.
const STATEMENTS: [&str; 10] =
    ["accept", "drop", "reject", "return", "continue", "jump", "goto", "counter", "log", "queue"];

/// As nft reads numbers: `0x` begins a hexadecimal one, `0` an octal one.
fn number(text: &str) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}
