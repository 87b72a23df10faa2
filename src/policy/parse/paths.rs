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
}

/// How deep variables may refer to variables, and how many paths a list may have: more is no policy
/// that a person wrote, and `define b = { $a, $a }` over and over would fill the memory.
const DEEPEST: usize = 32;
const LONGEST: usize = 4096;

/// The list that begins at `tokens[at]`, and the token after it; `None` if it is something else. What a variable holds
/// twice is there once.
pub(super) fn list(variables: &Variables, tokens: &[Token], at: usize) -> Option<(Vec<Written>, usize)> {
    let mut list = Vec::new();
    let next = List { variables, via: None, found: &mut list }.read(tokens, at, 0)?;
    let mut known = BTreeSet::new();
    list.retain(|written| known.insert(written.clone()));
    Some((list, next))
}

/// A path that cgroups can have.
pub(super) fn check(written: &Written, diagnostics: &mut Vec<Diagnostic>) -> Option<CgroupPath> {
    const EXAMPLE: &str = "write a path such as \"system.slice/postfix.service\"";
    if written.text.contains('\0') {
        diagnostics.push(Diagnostic::new(Code::Path, written.span, "a NUL in a cgroup's path").help(EXAMPLE));
        return None;
    }
    match written.text.parse::<CgroupPath>() {
        Ok(path) => {
            if let Some(rest) = below_mount(&path) {
                diagnostics.push(
                    Diagnostic::new(
                        Code::MountPrefix,
                        written.span,
                        format!("{} is looked for below {CGROUP_ROOT}", quoted(path.as_str())),
                    )
                    .help(format!("leave out {CGROUP_ROOT}"))
                    .fix(written.span, rest),
                );
            }
            Some(path)
        }
        Err(error) => {
            diagnostics.push(Diagnostic::new(Code::Path, written.span, error.to_string()).help(EXAMPLE));
            None
        }
    }
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

struct List<'a> {
    variables: &'a Variables,
    /// The variable in the annotation through which the list is read.
    via: Option<Span>,
    found: &'a mut Vec<Written>,
}

impl List<'_> {
    fn read(&mut self, tokens: &[Token], at: usize, depth: usize) -> Option<usize> {
        if !tokens.get(at)?.is("{") {
            return self.item(tokens, at, depth);
        }
        let mut at = at + 1;
        loop {
            if tokens.get(at)?.is("}") {
                return Some(at + 1);
            }
            at = self.item(tokens, at, depth)?;
            if tokens.get(at)?.is(",") {
                at += 1;
            } else if !tokens[at].is("}") {
                return None;
            }
        }
    }

    fn item(&mut self, tokens: &[Token], at: usize, depth: usize) -> Option<usize> {
        let token = tokens.get(at)?;
        let span = self.via.unwrap_or_else(|| inner(token));
        match token.kind {
            TokenKind::Quoted | TokenKind::Word if self.found.len() < LONGEST => {
                self.found.push(Written { text: token.unquoted().to_owned(), span });
            }
            TokenKind::Variable if depth < DEEPEST => {
                let value = &self.variables.get(&token.text[1..])?.value;
                let mut inside = List { variables: self.variables, via: Some(span), found: self.found };
                if inside.read(value, 0, depth + 1)? != value.len() {
                    return None;
                }
            }
            _ => return None,
        }
        Some(at + 1)
    }
}
