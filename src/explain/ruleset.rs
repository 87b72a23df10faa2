//! The ruleset as it is loaded: chains, hooks and rules from libnftables' JSON (libnftables-json(5)), and the text of each
//! rule, since JSON has no levels of cgroups.

use std::collections::{BTreeMap, BTreeSet};

use litemap::LiteMap;
use serde_json::Value;

use crate::{
    gather::sort_by_key,
    model::{CgroupPath, ChainRef, Count, SetRef, TableRef},
};

/// Chains and their rules.
#[derive(Debug, Clone, Default)]
pub struct Ruleset {
    chains: LiteMap<ChainRef, Chain>,
    /// Sets and maps as they are declared, without elements.
    sets: LiteMap<SetRef, Value>,
    /// What is known to be in maps and sets.
    elements: LiteMap<SetRef, Value>,
    /// The tables whose rules are known as text alone.
    pub unread: BTreeSet<TableRef>,
}

/// A chain.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// Where packets come into it, if not from other chains only.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Base {
    /// Chains of a hook are gone through in this order.
    pub priority: i64,
    /// Those of the same priority in the order of the listing.
    pub number: usize,
    /// The hook.
    pub hook: String,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Whether its policy is `drop`.
    pub refuses: bool,
}

/// A rule.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Its handle.
    pub handle: u64,
    /// What `nft list` prints of it.
    pub text: String,
    /// Its statements in JSON.
    pub statements: Vec<Value>,
}

/// The hooks in which a packet's socket is known.
const WITH_SOCKETS: [&str; 3] = ["prerouting", "input", "output"];

impl Ruleset {
    /// From the listings of tables, with handles: in JSON, and as text.
    pub fn of(listings: &[Value], text: &str) -> Self {
        let texts = texts(text);
        let mut ruleset = Self::default();
        let objects = listings.iter().filter_map(|listing| listing["nftables"].as_array()).flatten();
        for (number, object) in objects.enumerate() {
            let (chain, rule) = (&object["chain"], &object["rule"]);
            if let Some(name) = reference(chain, "name") {
                let base = chain["hook"].as_str().map(|hook| Base {
                    priority: chain["prio"].as_i64().unwrap_or_default(),
                    number,
                    hook: hook.to_owned(),
                    kind: chain["type"].as_str().unwrap_or_default().to_owned(),
                    refuses: chain["policy"] == "drop",
                });
                ruleset.chains.entry(name).or_default().base = base;
            } else if let Some(name) = reference(rule, "chain") {
                let handle = rule["handle"].as_u64().unwrap_or_default();
                let text = texts.get(&(name.clone(), handle)).cloned().unwrap_or_default();
                let statements = rule["expr"].as_array().cloned().unwrap_or_default();
                ruleset.chains.entry(name).or_default().rules.push(Rule { handle, text, statements });
            } else {
                for set in [&object["set"], &object["map"]] {
                    if let Some(name) = reference(set, "name") {
                        ruleset.sets.insert(SetRef { table: name.table, name: name.name }, set.clone());
                    }
                }
            }
        }
        ruleset
    }

    /// The sets and maps whose elements are not known yet.
    pub fn unknown_sets(&self) -> Vec<SetRef> {
        self.sets.keys().filter(|set| !self.elements.contains_key(set)).cloned().collect()
    }

    /// Those of them that rules look something up in.
    pub fn unknown_sets_of_rules(&self) -> Vec<SetRef> {
        let mut named = BTreeSet::new();
        for (chain, rule) in
            self.chains.iter().flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name, rule)))
        {
            let mut names = BTreeSet::new();
            rule.statements.iter().for_each(|statement| lookups(statement, &mut names));
            named
                .extend(names.into_iter().map(|set| SetRef { table: chain.table.clone(), name: set.into() }));
        }
        self.unknown_sets().into_iter().filter(|set| named.contains(set)).collect()
    }

    /// The packets and bytes that an element's own counter has for a cgroup.
    pub fn counted(&self, set: &SetRef, path: &CgroupPath) -> Option<Count> {
        let elements = self.elements(set)?.as_array()?.iter();
        let keys =
            elements.map(|element| if element.is_array() { &element[0]["elem"] } else { &element["elem"] });
        let mut own = keys.filter(|key| {
            key["val"].as_str().is_some_and(|val| val.trim_start_matches('/') == path.as_str())
        });
        let counter = &own.next()?["counter"];
        Some(Count { packets: counter["packets"].as_u64()?, bytes: counter["bytes"].as_u64()? })
    }

    /// Whether it is a map.
    pub fn is_map(&self, set: &SetRef) -> bool {
        self.sets.get(set).is_some_and(|set| !set["map"].is_null())
    }

    /// Whether it is a map of verdicts.
    pub fn is_of_verdicts(&self, set: &SetRef) -> bool {
        self.sets.get(set).is_some_and(|set| set["map"] == "verdict")
    }

    /// Takes in what is in a set or map (libnftables-json(5), `elem`).
    pub fn know(&mut self, set: SetRef, elements: Value) {
        self.elements.insert(set, elements);
    }

    /// What is in a set or map, if it is known.
    pub fn elements(&self, set: &SetRef) -> Option<&Value> {
        self.elements.get(set)
    }

    /// A chain.
    pub fn chain(&self, name: &ChainRef) -> Option<&Chain> {
        self.chains.get(name)
    }

    /// The base chains of a hook, in the order in which packets go through them.
    pub fn of_hook<'a>(&'a self, hook: &'a str) -> impl Iterator<Item = (&'a ChainRef, &'a Chain)> {
        let mut found: Vec<_> = self
            .chains
            .iter()
            .filter(|(_, chain)| chain.base.as_ref().is_some_and(|base| base.hook == hook))
            .collect();
        sort_by_key(&mut found, |(_, chain)| chain.base.clone());
        found.into_iter()
    }

    /// Why no packet of a socket comes to a chain; nothing if one may.
    pub fn unreached(&self, chain: &ChainRef) -> Option<String> {
        if !self.chains.contains_key(chain) {
            return Some(format!("there is no chain {chain}"));
        }
        let hooks = self.hooks(chain);
        if hooks.is_empty() {
            return Some(format!("no chain of a hook calls {chain}"));
        }
        let words = || hooks.iter().copied().collect::<Vec<_>>().join(" and ");
        let has_sockets = WITH_SOCKETS.iter().any(|hook| hooks.contains(hook));
        (!has_sockets).then(|| format!("{chain} is only reached from {}, where no cgroup matches", words()))
    }

    /// The hooks from which a chain is reached.
    fn hooks(&self, chain: &ChainRef) -> BTreeSet<&str> {
        let mut hooks = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for (start, base) in self.chains.iter().filter_map(|(name, chain)| Some((name, chain.base.as_ref()?)))
        {
            seen.clear();
            let mut open = vec![start.clone()];
            while let Some(one) = open.pop() {
                if one == *chain {
                    hooks.insert(base.hook.as_str());
                    break;
                }
                if seen.insert(one.clone()) {
                    open.extend(self.calls(&one));
                }
            }
        }
        hooks
    }

    /// The chains that a chain's rules may call.
    fn calls(&self, chain: &ChainRef) -> Vec<ChainRef> {
        let mut names = BTreeSet::new();
        let mut maps = BTreeSet::new();
        for rule in self.chains.get(chain).into_iter().flat_map(|chain| &chain.rules) {
            for statement in &rule.statements {
                targets(statement, &mut names);
                maps.extend(statement["vmap"]["data"].as_str().and_then(|name| name.strip_prefix('@')));
            }
        }
        for map in maps {
            let set = SetRef { table: chain.table.clone(), name: map.into() };
            if let Some(elements) = self.elements.get(&set) {
                targets(elements, &mut names);
            }
        }
        names.into_iter().map(|name| chain_of(&chain.table, name)).collect()
    }
}

/// A chain of a table.
pub fn chain_of(table: &TableRef, name: &str) -> ChainRef {
    ChainRef { table: table.clone(), name: name.into() }
}

/// The names of all sets and maps that a value refers to.
fn lookups<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::String(text) => found.extend(text.strip_prefix('@')),
        Value::Array(items) => items.iter().for_each(|item| lookups(item, found)),
        Value::Object(fields) => fields.values().for_each(|item| lookups(item, found)),
        _ => {}
    }
}

/// The targets of all jumps in a value.
fn targets<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| targets(item, found)),
        Value::Object(fields) => {
            for (key, item) in fields {
                if let ("target", Some(name)) = (key.as_str(), item.as_str()) {
                    found.insert(name);
                }
                targets(item, found);
            }
        }
        _ => {}
    }
}

fn reference(object: &Value, name: &str) -> Option<ChainRef> {
    let family = object["family"].as_str()?.parse().ok()?;
    let table = TableRef { family, name: object["table"].as_str()?.into() };
    Some(ChainRef { table, name: object[name].as_str()?.into() })
}

/// The text of each rule, from what `nft -a list ruleset` prints.
fn texts(listing: &str) -> BTreeMap<(ChainRef, u64), String> {
    let mut found = BTreeMap::new();
    let (mut table, mut chain): (Option<TableRef>, Option<ChainRef>) = (None, None);
    for line in listing.lines() {
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        if let (true, ["table", family, name, ..]) = (line.starts_with("table "), &words[..]) {
            table = family.parse().ok().map(|family| TableRef { family, name: (*name).into() });
            chain = None;
        } else if let Some(inner) = line.strip_prefix("\t").filter(|inner| !inner.starts_with('\t')) {
            let name = inner.strip_prefix("chain ").and_then(|rest| rest.split_whitespace().next());
            chain = name.and_then(|name| Some(chain_of(table.as_ref()?, name)));
        } else if let (Some(chain), Some((text, handle))) = (&chain, line.trim().rsplit_once(" # handle "))
            && let Ok(handle) = handle.parse()
        {
            found.insert((chain.clone(), handle), text.to_owned());
        }
    }
    found
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// As nft 1.0.6 lists it, but for what makes no difference.
    pub(in crate::explain) const TEXT: &str = "\
table inet filter { # handle 1
\tmap m { # handle 5
\t\ttype mark : verdict
\t}

\tchain deep { # handle 1
\t\tlog prefix \"a # handle 9\" # handle 6
\t\tip daddr . tcp dport { 10.0.0.1 . 25 } drop # handle 8
\t}

\tchain svc { # handle 2
\t\ttcp dport { 25, 80 } counter packets 0 bytes 0 accept comment \"x # handle 7\" # handle 10
\t\tjump deep # handle 11
\t}

\tchain out { # handle 3
\t\ttype filter hook output priority filter; policy drop;
\t\tct state established,related accept # handle 12
\t\tsocket cgroupv2 level 2 \"system.slice/a.service\" accept # handle 14
\t\tjump svc # handle 15
\t\treject with icmpx admin-prohibited # handle 16
\t}
\tchain lonely { # handle 20
\t}
\tchain fwd { # handle 21
\t\ttype filter hook forward priority filter; policy accept;
\t\tmeta mark vmap @m # handle 22
\t}
\tchain forwarded { # handle 23
\t}
}
";

    pub(in crate::explain) fn ruleset() -> Ruleset {
        let chain =
            |name: &str| serde_json::json!({"chain": {"family": "inet", "table": "filter", "name": name}});
        let base = |name: &str, hook: &str, policy: &str| {
            serde_json::json!({"chain": {"family": "inet", "table": "filter", "name": name, "type": "filter", "hook": hook,
                "prio": 0, "policy": policy}})
        };
        let rule = |chain: &str, handle: u64, expr: Value| serde_json::json!({"rule": {"family": "inet", "table": "filter", "chain": chain, "handle": handle, "expr": expr}});
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let dport = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [25, 80]}}}"#;
        let concat = r#"{"match": {"op": "==", "left": {"concat": [{"payload": {"protocol": "ip", "field": "daddr"}},
            {"payload": {"protocol": "tcp", "field": "dport"}}]}, "right": {"set": [{"concat": ["10.0.0.1", 25]}]}}}"#;
        let objects = vec![
            chain("deep"),
            chain("svc"),
            base("out", "output", "drop"),
            chain("lonely"),
            base("fwd", "forward", "accept"),
            chain("forwarded"),
            serde_json::json!({"map": {"family": "inet", "table": "filter", "name": "m", "type": "mark", "map": "verdict"}}),
            rule("deep", 6, json(r#"[{"log": {"prefix": "a # handle 9"}}]"#)),
            rule("deep", 8, json(&format!("[{concat}, {{\"drop\": null}}]"))),
            rule(
                "svc",
                10,
                json(&format!(
                    "[{dport}, {{\"counter\": {{\"packets\": 0, \"bytes\": 0}}}}, {{\"accept\": null}}]"
                )),
            ),
            rule("svc", 11, json(r#"[{"jump": {"target": "deep"}}]"#)),
            rule(
                "out",
                12,
                json(
                    r#"[{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}]"#,
                ),
            ),
            rule(
                "out",
                14,
                json(
                    r#"[{"match": {"op": "==", "left": {"socket": {"key": "cgroupv2"}}, "right": "system.slice/a.service"}}, {"accept": null}]"#,
                ),
            ),
            rule("out", 15, json(r#"[{"jump": {"target": "svc"}}]"#)),
            rule("out", 16, json(r#"[{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]"#)),
            rule("fwd", 22, json(r#"[{"vmap": {"key": {"meta": {"key": "mark"}}, "data": "@m"}}]"#)),
        ];
        let mut ruleset = Ruleset::of(&[serde_json::json!({ "nftables": objects })], TEXT);
        let set = ruleset.unknown_sets().remove(0);
        ruleset.know(set, json(r#"[[1, {"jump": {"target": "forwarded"}}]]"#));
        ruleset
    }

    pub(in crate::explain) fn chain(name: &str) -> ChainRef {
        chain_of(&TableRef { family: crate::model::Family::Inet, name: "filter".into() }, name)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;

    #[test]
    fn each_rule_has_its_text() {
        let ruleset = ruleset();
        let texts = |name: &str| -> Vec<String> {
            ruleset.chain(&chain(name)).unwrap().rules.iter().map(|rule| rule.text.clone()).collect()
        };
        assert_eq!(
            texts("deep"),
            ["log prefix \"a # handle 9\"", "ip daddr . tcp dport { 10.0.0.1 . 25 } drop"]
        );
        assert_eq!(
            texts("svc")[0],
            "tcp dport { 25, 80 } counter packets 0 bytes 0 accept comment \"x # handle 7\""
        );
        assert_eq!(texts("out").len(), 4);
        let base = ruleset.chain(&chain("out")).unwrap().base.clone().unwrap();
        assert_eq!((base.hook.as_str(), base.refuses), ("output", true));
    }

    #[test]
    fn chain_that_no_socket_comes_to_says_why() {
        let ruleset = ruleset();
        let unreached = |name: &str| ruleset.unreached(&chain(name)).unwrap_or_default();
        assert_eq!(unreached("deep"), "");
        assert_eq!(unreached("out"), "");
        assert_eq!(unreached("lonely"), "no chain of a hook calls inet filter lonely");
        assert_eq!(
            unreached("forwarded"),
            "inet filter forwarded is only reached from forward, where no cgroup matches"
        );
        assert_eq!(unreached("gone"), "there is no chain inet filter gone");
    }
}
