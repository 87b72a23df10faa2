//! What holds of every policy, whatever bytes its files have. For cargo's tests and for the fuzz target.

// Each program uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use scnpm::{
    dispatch,
    lint::{self, Facts},
    policy::{
        Annotation, Part, Policy, RuleStatement, Statement,
        files::Files,
        hosts::{HostName, Hosts},
        parse,
    },
    text::{Diagnostic, FileId, Outline, Span},
};

/// What stands between the files in an input of [`read`].
pub const SEPARATOR: &[u8] = b"%%%\n";

/// The files that an input makes: the first two are read one after the other, the last only if it is included.
pub const FILES: [&str; 3] = ["/one", "./two", "/etc/three"];

/// Files without a disk. Every pattern matches all of them.
pub struct InMemory(pub BTreeMap<PathBuf, Vec<u8>>);

impl Files for InMemory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn glob(&self, _: &str) -> Vec<PathBuf> {
        self.0.keys().cloned().collect()
    }
}

/// Reads an input: up to three files in one.
pub fn read(input: &[u8]) -> Policy {
    let files: BTreeMap<PathBuf, Vec<u8>> = FILES.iter().map(PathBuf::from).zip(cut(input)).collect();
    let named: Vec<&Path> =
        FILES[..2].iter().map(Path::new).filter(|path| files.contains_key(*path)).collect();
    parse::read(&InMemory(files.clone()), &named).expect("files in memory can be read")
}

/// Panics if something does not hold.
pub fn check(policy: &Policy) {
    policy.diagnostics.iter().for_each(|diagnostic| check_diagnostic(policy, diagnostic));
    assert!(policy.diagnostics.is_sorted_by_key(|diagnostic| diagnostic.span));
    policy.defines.iter().for_each(|define| inside(policy, define.span));
    check_outlines(policy);
    for (_, annotation) in policy.iter() {
        check_annotation(policy, annotation);
    }
    check_dispatch(policy);
    let lints = lint::lint(policy, Facts::default());
    assert!(lints.is_sorted_by_key(|diagnostic| diagnostic.span));
    for diagnostic in &lints {
        check_diagnostic(policy, diagnostic);
        policy.allows(diagnostic);
    }
}

fn cut(input: &[u8]) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    let mut rest = input;
    while files.len() + 1 < FILES.len() {
        let Some(at) = rest.windows(SEPARATOR.len()).position(|bytes| bytes == SEPARATOR) else { break };
        files.push(rest[..at].to_vec());
        rest = &rest[at + SEPARATOR.len()..];
    }
    files.push(rest.to_vec());
    files
}

fn check_outlines(policy: &Policy) {
    for (number, file) in policy.sources.files.iter().enumerate() {
        let outline = Outline::of(FileId(number), &file.text);
        outline.tokens.iter().for_each(|token| inside(policy, token.span));
        outline.blocks.iter().for_each(|block| inside(policy, block.span));
        for item in &outline.items {
            inside(policy, item.span);
            assert_eq!(outline.item_at(item.span), Some(item));
            assert!(!outline.tokens_of(item).is_empty());
        }
    }
}

fn check_diagnostic(policy: &Policy, diagnostic: &Diagnostic) {
    inside(policy, diagnostic.span);
    assert!(!diagnostic.message.contains('\n'), "{:?}", diagnostic.message);
    assert!(diagnostic.render(&policy.sources, false).contains(&diagnostic.message));
    diagnostic.render(&policy.sources, true);
    diagnostic.short(&policy.sources);
    if let Some(fix) = &diagnostic.fix {
        inside(policy, fix.span);
    }
}

fn check_annotation(policy: &Policy, annotation: &Annotation) {
    inside(policy, annotation.span);
    inside(policy, annotation.unit_span);
    match &annotation.statement {
        Statement::Rule(rule) => check_rule(policy, rule),
        Statement::Element(element) => {
            inside(policy, element.set_span);
            assert!(!element.elements.is_empty());
            element.elements.iter().for_each(|(_, span, _)| inside(policy, *span));
        }
    }
}

fn check_rule(policy: &Policy, rule: &RuleStatement) {
    inside(policy, rule.chain_span);
    for part in &rule.body {
        match part {
            Part::Verbatim(token) => inside(policy, token.span),
            Part::Units(span) | Part::Record(span) => inside(policy, *span),
            Part::Cgroup(cgroup) => {
                inside(policy, cgroup.span);
                inside(policy, cgroup.level_span);
                assert!(!cgroup.paths.is_empty());
                cgroup.paths.iter().for_each(|(_, span)| inside(policy, *span));
            }
        }
    }
    for found in &rule.hosts {
        assert!(found.parts.start < found.parts.end && found.parts.end <= rule.body.len());
        assert!(!found.names.is_empty());
        found.names.iter().for_each(|(_, span)| inside(policy, *span));
    }
    assert!(rule.hosts.is_sorted_by(|a, b| a.parts.end < b.parts.start));
}

/// With an address for each host name the policy compiles to one command a line, and all else in comments.
fn check_dispatch(policy: &Policy) {
    let unresolved = dispatch::compile(policy, &BTreeSet::new(), &Hosts::new(), &BTreeMap::new());
    assert_eq!(unresolved.unresolved.is_empty(), !policy.host_matches().any(|found| found.negated));
    let hosts = resolved(policy.host_names());
    let dispatch = dispatch::compile(policy, &BTreeSet::new(), &hosts, &BTreeMap::new());
    assert!(dispatch.unresolved.is_empty());
    assert!(dispatch.hosts.iter().all(|set| !set.content(&hosts).is_empty()));
    let elements: Vec<dispatch::Line> = dispatch.rows.iter().map(dispatch::addition).collect();
    for line in dispatch.script.lines.iter().chain(&elements) {
        let text = line.to_string();
        assert!(is_one_line(&text), "{text:?}");
        assert!(["add ", "insert ", "redefine "].iter().any(|verb| text.starts_with(verb)), "{text:?}");
        for (first, last) in [(1, 1), (text.len() / 2, text.len() / 2), (1, text.len())] {
            line.origin(first, last).into_iter().for_each(|span| inside(policy, span));
        }
    }
    let printed = dispatch.to_string();
    let comments = printed.strip_prefix(&dispatch.script.to_string()).expect("the script comes first");
    let targets: usize = dispatch.patterns.iter().map(|pattern| pattern.targets.len()).sum();
    assert_eq!(comments.lines().count(), dispatch.rows.len() + targets);
    assert!(comments.lines().all(|line| line.starts_with("# ")), "{comments:?}");
}

/// As nft counts: a line's end in quotes is none.
fn is_one_line(text: &str) -> bool {
    text.split('"').step_by(2).all(|outside| !outside.contains('\n'))
}

/// Two addresses for each name, so that one place becomes several elements.
fn resolved(wanted: impl IntoIterator<Item = HostName>) -> Hosts {
    let addresses = |v6| if v6 { ["2001:db8::1", "2001:db8::2"] } else { ["192.0.2.1", "192.0.2.2"] };
    let parsed = |v6| addresses(v6).map(|address| address.parse().expect("it is an address"));
    wanted.into_iter().map(|host| (host.clone(), parsed(host.v6).into())).collect()
}

fn inside(policy: &Policy, span: Span) {
    let text = &policy.sources.file(span.file).text;
    assert!(text.get(span.start..span.end).is_some(), "{} to {} of {text:?}", span.start, span.end);
}
