//! What the lints' tests share.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Facts, Ruleset, lint};
use crate::{
    model::UnitName,
    policy::{Policy, files::Files, parse},
    text::{Code, Diagnostic},
    units::{UnitFile, Units},
};

struct InMemory(BTreeMap<PathBuf, String>);

impl Files for InMemory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).map(|text| text.clone().into_bytes()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn glob(&self, _: &str) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// A policy of one file that may be wrong.
pub(crate) fn policy_with_mistakes(text: &str) -> Policy {
    let path = PathBuf::from("0.nft");
    let files = InMemory(BTreeMap::from([(path.clone(), text.to_owned())]));
    parse::read(&files, &[path]).unwrap()
}

/// A policy of several files `0.nft`, `1.nft` ….
pub(crate) fn policy_of(texts: &[&str]) -> Policy {
    let named =
        texts.iter().enumerate().map(|(n, text)| (PathBuf::from(format!("{n}.nft")), (*text).to_owned()));
    let files = InMemory(named.collect());
    let paths: Vec<&Path> = files.0.keys().map(PathBuf::as_path).collect();
    let policy = parse::read(&files, &paths).unwrap();
    assert_eq!(policy.diagnostics, [], "{texts:?}");
    policy
}

/// What one lint says of a text.
pub(super) fn found(code: Code, text: &str, facts: Facts<'_>) -> Vec<Diagnostic> {
    of_code(code, &policy_of(&[text]), facts)
}

/// What one lint says of a policy.
pub(super) fn of_code(code: Code, policy: &Policy, facts: Facts<'_>) -> Vec<Diagnostic> {
    lint(policy, facts).into_iter().filter(|diagnostic| diagnostic.code == code).collect()
}

/// The messages of one lint.
pub(super) fn messages(code: Code, text: &str, facts: Facts<'_>) -> Vec<String> {
    found(code, text, facts).into_iter().map(|diagnostic| diagnostic.message).collect()
}

/// The text with the only diagnostic mended.
pub(super) fn mended(code: Code, text: &str, facts: Facts<'_>) -> String {
    let found = found(code, text, facts);
    let [diagnostic] = found.as_slice() else { panic!("{text}: {found:?}") };
    let fix = diagnostic.fix.as_ref().unwrap_or_else(|| panic!("no fix: {diagnostic:?}"));
    let mended = format!("{}{}{}", &text[..fix.span.start], fix.text, &text[fix.span.end..]);
    assert_eq!(messages(code, &mended, facts), Vec::<String>::new(), "{mended}");
    mended
}

/// The text that a diagnostic is at.
pub(super) fn place<'a>(text: &'a str, diagnostic: &Diagnostic) -> &'a str {
    &text[diagnostic.span.start..diagnostic.span.end]
}

/// Facts of units only.
pub(super) fn with_units(units: &Units) -> Facts<'_> {
    Facts { units: Some(units), ..Facts::default() }
}

/// Facts of a ruleset only.
pub(super) fn with_ruleset(ruleset: &Ruleset) -> Facts<'_> {
    Facts { ruleset: Some(ruleset), ..Facts::default() }
}

/// Units by file, and by the paths of their cgroups.
pub(super) fn units(files: &[(&str, UnitFile)], running: &[&str]) -> Units {
    let mut units = Units::default();
    for (name, file) in files {
        units.files.insert(UnitName((*name).into()), file.clone());
    }
    for path in running {
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        units.running.entry(UnitName(name.into())).or_default().insert(path.parse().unwrap());
    }
    units
}

/// A unit file that was read.
pub(super) fn file(slice: Option<&str>) -> UnitFile {
    UnitFile { is_read: true, slice: slice.map(str::to_owned), ..UnitFile::default() }
}

/// A chain's name, its hook and policy, and its rules.
pub(super) type Chain<'a> = (&'a str, Option<(&'a str, &'a str)>, Vec<Value>);

/// The table `inet f` of these chains.
pub(super) fn ruleset(chains: &[Chain<'_>]) -> Ruleset {
    Ruleset::of(&listing(chains))
}

/// As libnftables lists it.
pub(super) fn listing(chains: &[Chain<'_>]) -> Value {
    let mut objects =
        vec![json!({"metainfo": {"version": "1.0.6"}}), json!({"table": {"family": "inet", "name": "f"}})];
    for (name, base, rules) in chains {
        let mut chain = json!({"family": "inet", "table": "f", "name": name, "handle": 1});
        if let Some((hook, policy)) = base {
            chain["type"] = json!("filter");
            chain["hook"] = json!(hook);
            chain["prio"] = json!(0);
            chain["policy"] = json!(policy);
        }
        objects.push(json!({"chain": chain}));
        for rule in rules {
            objects.push(
                json!({"rule": {"family": "inet", "table": "f", "chain": name, "handle": 2, "expr": rule}}),
            );
        }
    }
    json!({"nftables": objects})
}

/// `accept`, `drop`, `return`.
pub(super) fn verdict(word: &str) -> Value {
    json!({word: null})
}

/// `jump`.
pub(super) fn jump(chain: &str) -> Value {
    json!({"jump": {"target": chain}})
}

/// A match of a meta key or a header's field.
pub(super) fn equals(left: Value, right: &str) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}

/// `tcp dport 22`.
pub(super) fn port() -> Value {
    equals(json!({"payload": {"protocol": "tcp", "field": "dport"}}), "22")
}

/// `ct state established,related accept`.
pub(super) fn established() -> Value {
    json!([
        {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
        {"accept": null}
    ])
}
