//! Golden tests of the parser: `tests/cases/NN-topic/in.conf` to `diagnostics.txt` and `policy.txt`.
//!
//! `SCNPM_BLESS=1 cargo test --test policy_cases` writes what is found; look at the difference then.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use scnpm::{
    policy::{Annotation, Part, Placement, Policy, Statement, files::Disk, parse},
    text::{Token, token::text_of},
};

const CASES: &str = "tests/cases";

#[test]
fn every_case_gives_its_policy_and_diagnostics() {
    let mut cases: Vec<PathBuf> = fs::read_dir(CASES)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() >= 15, "only {} cases in {CASES}", cases.len());
    let differences: Vec<String> = cases.iter().flat_map(|case| differences(case)).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What a case gives otherwise than expected.
fn differences(case: &Path) -> Vec<String> {
    let policy = match parse::read(&Disk, &inputs(case)) {
        Ok(policy) => policy,
        Err(unreadable) => return vec![format!("{}: {}", unreadable.path.display(), unreadable.error)],
    };
    let diagnostics: Vec<String> = policy
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.render(&policy.sources, false) + "\n")
        .collect();
    let found = [("diagnostics.txt", diagnostics.join("\n")), ("policy.txt", dump(&policy))];
    found
        .into_iter()
        .filter_map(|(name, found)| {
            let path = case.join(name);
            if std::env::var_os("SCNPM_BLESS").is_some() {
                fs::write(&path, found).unwrap();
                return None;
            }
            match fs::read_to_string(&path) {
                Ok(expected) if expected == found => None,
                Ok(expected) => Some(format!("{}: expected\n{expected}\nbut found\n{found}", path.display())),
                Err(error) => Some(format!("{}: {error}", path.display())),
            }
        })
        .collect()
}

/// The files named on the command line: `in.conf`, and `in2.conf` if it is there.
fn inputs(case: &Path) -> Vec<&'static Path> {
    ["in.conf", "in2.conf"]
        .into_iter()
        .map(|name| case.join(name))
        .filter(|path| path.ends_with("in.conf") || path.exists())
        .map(|path| &*Box::leak(path.into_boxed_path()))
        .collect()
}

fn dump(policy: &Policy) -> String {
    let mut text = String::new();
    for define in &policy.defines {
        writeln!(text, "define {} = {}", define.name, text_of(&define.value)).unwrap();
    }
    for annotation in &policy.annotations {
        let place = policy.sources.location(annotation.span);
        writeln!(text, "{place}\n  {} :: {}", annotation.unit, statement(annotation)).unwrap();
        let marks = [(annotation.is_counted, "counted"), (annotation.is_waited_for, "waited for")];
        for (_, mark) in marks.iter().filter(|(is_set, _)| *is_set) {
            writeln!(text, "  {mark}").unwrap();
        }
        let Statement::Rule(rule) = &annotation.statement else { continue };
        for found in &rule.hosts {
            let names = found.names.iter().map(|(host, _)| host.name.clone());
            let ranges = found.ranges.iter().map(|(first, last)| format!("{first}-{last}"));
            let all: Vec<String> = names.chain(ranges).collect();
            let (not, family) = (if found.negated { " not" } else { "" }, if found.v6 { 6 } else { 4 });
            writeln!(text, "  hosts, IPv{family}:{not} {}", all.join(", ")).unwrap();
        }
    }
    text
}

fn statement(annotation: &Annotation) -> String {
    match &annotation.statement {
        Statement::Rule(rule) => {
            let verb = match &rule.placement {
                Placement::End => "add".to_owned(),
                Placement::Beginning => "insert".to_owned(),
                Placement::Explicit(verb, words) => format!("{verb} ({})", text_of(words)),
            };
            format!("{verb} {}{}", rule.chain, body(&rule.body))
        }
        Statement::Element(element) => {
            let elements: Vec<String> = element
                .elements
                .iter()
                .map(|(path, _, data)| match data {
                    None => format!("[{path}]"),
                    Some(data) => format!("[{path}] : {data}"),
                })
                .collect();
            format!("add element {} | {}", element.set, elements.join(", "))
        }
    }
}

/// The parts, each run of verbatim tokens and each cgroup match behind a `|`.
fn body(parts: &[Part]) -> String {
    let mut text = String::new();
    let mut verbatim: Vec<&Token> = Vec::new();
    for part in parts {
        match part {
            Part::Verbatim(token) => verbatim.push(token),
            Part::Record(_) => text.push_str(" | record"),
            Part::Units(_) => {
                push_verbatim(&mut text, &mut verbatim);
                text.push_str(" | units");
            }
            Part::Cgroup(cgroup) => {
                push_verbatim(&mut text, &mut verbatim);
                let paths: Vec<&str> = cgroup.paths.iter().map(|(path, _)| path.as_str()).collect();
                let not = if cgroup.negated { " !=" } else { "" };
                write!(text, " | level {}{not} [{}]", cgroup.level, paths.join(", ")).unwrap();
            }
        }
    }
    push_verbatim(&mut text, &mut verbatim);
    text
}

fn push_verbatim(text: &mut String, tokens: &mut Vec<&Token>) {
    if !tokens.is_empty() {
        write!(text, " | {}", text_of(tokens.drain(..))).unwrap();
    }
}
