//! Lists of cgroup paths: `"path"`, `path`, `{ "path", "path" }`, and variables that hold such.

use std::collections::BTreeSet;

use super::variables::Variables;
use crate::{
    model::{CGROUP_ROOT, CgroupPath},
    text::{
        Code, Span, Token, TokenKind,
        diagnostic::{Diagnostic, quoted},
    },
};

/// A path as written, and its place: inside the quotes, or the variable's that holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Written {
    pub(super) text: String,
    pub(super) span: Span,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Quoted,
    Word,
    Variable,
}

impl Written {
    /// With what to write instead, unless that would be in place of a variable, which may hold more.
    fn fixed(&self, diagnostic: Diagnostic, text: impl Into<String>) -> Diagnostic {
        if self.form == Form::Variable { diagnostic } else { diagnostic.fix(self.span, text) }
    }
}

/// How deep variables may refer to variables, and how many paths a list may have: more is no policy
/// that a person wrote, and `define b = { $a, $a }` over and over would fill the memory.
const DEEPEST: usize = 32;
const LONGEST: usize = 4096;

/// The list that begins at `tokens[at]`, and the token after it; `None` if it is something else. What a variable holds
/// twice is there once.
pub(super) fn list(variables: &Variables, tokens: &[Token], at: usize) -> Option<(Vec<Written>, usize)> {
    let mut list = Vec::new();
    let length = read(variables, &tokens[at..], None, 0, &mut list)?;
    let mut known = BTreeSet::new();
    list.retain(|written| known.insert(written.clone()));
    Some((list, at + length))
}

/// A path that cgroups can have.
pub(super) fn check(written: &Written, diagnostics: &mut Vec<Diagnostic>) -> Option<CgroupPath> {
    if written.form != Form::Quoted && written.text.contains(is_curly_quote) {
        let message = "nft takes no other quotes than `\"`";
        let diagnostic = Diagnostic::new(Code::Path, written.span, message);
        let within = written.text.trim_matches(is_curly_quote);
        diagnostics.push(match within.contains(is_curly_quote) {
            false => written.fixed(diagnostic.help("write `\"` on both sides"), format!("\"{within}\"")),
            true => diagnostic,
        });
        return None;
    }
    let path = written.text.parse::<CgroupPath>();
    let diagnostic = match &path {
        Ok(path) => below_mount(path).map(|rest| {
            let message = format!("{} is looked for below {CGROUP_ROOT}", quoted(path.as_str()));
            let diagnostic = Diagnostic::new(Code::MountPrefix, written.span, message);
            written.fixed(diagnostic.help(format!("leave out {CGROUP_ROOT}")), rest)
        }),
        Err(error) => Some(
            Diagnostic::new(Code::Path, written.span, *error)
                .help("write a path such as \"system.slice/postfix.service\""),
        ),
    };
    diagnostics.extend(diagnostic);
    path.ok()
}

/// What word processors and web pages make of `"`.
pub(super) fn is_curly_quote(c: char) -> bool {
    "“”„‟‘’‚‛«»‹›".contains(c)
}

/// What follows in a path that begins with the place where cgroups are mounted.
pub(super) fn below_mount(path: &CgroupPath) -> Option<&str> {
    path.as_str().strip_prefix(&CGROUP_ROOT[1..])?.strip_prefix('/')
}

/// The place inside the quotes; that of the quotes if nothing is in them.
fn inner(token: &Token) -> Span {
    match token.kind {
        TokenKind::Quoted if token.text.len() > 2 => {
            Span { start: token.span.start + 1, end: token.span.end - 1, ..token.span }
        }
        _ => token.span,
    }
}

/// Adds the list that tokens begin with to those found, and says how many tokens it has. What is read by way of a
/// variable in the annotation has that one's place.
fn read(
    variables: &Variables,
    tokens: &[Token],
    via: Option<Span>,
    depth: usize,
    found: &mut Vec<Written>,
) -> Option<usize> {
    let is_braced = tokens.first()?.is("{");
    let mut at = usize::from(is_braced);
    while !(is_braced && tokens.get(at)?.is("}")) {
        let token = tokens.get(at)?;
        let span = via.unwrap_or_else(|| inner(token));
        match token.kind {
            TokenKind::Quoted | TokenKind::Word if found.len() < LONGEST => {
                let form = match (via, token.kind) {
                    (Some(_), _) => Form::Variable,
                    (None, TokenKind::Quoted) => Form::Quoted,
                    (None, _) => Form::Word,
                };
                found.push(Written { text: token.unquoted().to_owned(), span, form });
            }
            TokenKind::Variable if depth < DEEPEST => {
                let value = &variables.get(&token.text[1..])?.value;
                if read(variables, value, Some(span), depth + 1, found)? != value.len() {
                    return None;
                }
            }
            _ => return None,
        }
        at += 1;
        if !is_braced {
            return Some(at);
        }
        match tokens.get(at)? {
            next if next.is(",") => at += 1,
            next if next.is("}") => {}
            _ => return None,
        }
    }
    Some(at + 1)
}
