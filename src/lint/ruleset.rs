//! A ruleset as libnftables lists it in JSON (libnftables-json(5)), as far as lints look at it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::model::{ChainRef, Family, PREFIX, SetRef, TableRef};

/// Chains and their rules.
#[derive(Debug, Clone, Default)]
pub struct Ruleset {
    chains: BTreeMap<ChainRef, Chain>,
    maps: BTreeMap<SetRef, VerdictMap>,
}

impl Ruleset {
    /// From the listing of a whole ruleset, with or without the elements of its sets.
    pub fn of(listing: &Value) -> Self {
        let objects: Vec<&Value> =
            listing.get("nftables").and_then(Value::as_array).into_iter().flatten().collect();
        let mut ruleset = Self::default();
        for object in &objects {
            if let Some(chain) = object.get("chain") {
                ruleset.add_chain(chain);
            } else if let Some(map) = object.get("map") {
                ruleset.add_map(map);
            }
        }
        for rule in objects.iter().filter_map(|object| object.get("rule")) {
            ruleset.add_rule(rule);
        }
        ruleset
    }

    /// A chain, if there is one of this name.
    pub(super) fn chain(&self, chain: &ChainRef) -> Option<&Chain> {
        self.chains.get(chain)
    }

    /// The name of a chain as the ruleset has it.
    pub(super) fn name(&self, chain: &ChainRef) -> Option<&ChainRef> {
        self.chains.get_key_value(chain).map(|(name, _)| name)
    }

    /// All chains by name, but for scnpm's own.
    pub(super) fn chains(&self) -> impl Iterator<Item = (&ChainRef, &Chain)> {
        self.chains.iter()
    }

    /// A map of verdicts.
    pub(super) fn map(&self, map: &SetRef) -> Option<&VerdictMap> {
        self.maps.get(map)
    }

    fn add_chain(&mut self, chain: &Value) {
        let Some(name) = reference(chain, "name") else { return };
        let base = text(chain, "hook").map(|hook| Base {
            hook: hook.to_owned(),
            is_filter: text(chain, "type") == Some("filter"),
            refuses: text(chain, "policy") == Some("drop"),
        });
        if !name.name.starts_with(PREFIX) {
            self.chains.insert(name, Chain { base, rules: Vec::new() });
        }
    }

    fn add_map(&mut self, map: &Value) {
        let Some(ChainRef { table, name }) = reference(map, "name") else { return };
        let verdicts = VerdictMap {
            calls: map.get("elem").map(targets),
            established: map.get("elem").map(verdict_of_established),
        };
        self.maps.insert(SetRef { table, name }, verdicts);
    }

    fn add_rule(&mut self, rule: &Value) {
        let place = reference(rule, "chain");
        let expressions = rule.get("expr").and_then(Value::as_array);
        let (Some(place), Some(expressions)) = (place, expressions) else { return };
        if expressions.iter().any(is_ours) {
            return;
        }
        let rule = Reader { ruleset: self, table: &place.table }.rule(expressions);
        if let Some(chain) = self.chains.get_mut(&place) {
            chain.rules.push(rule);
        }
    }
}

/// A chain.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    /// Where packets come into it, if not from other chains only.
    pub(super) base: Option<Base>,
    /// Its rules in order, without scnpm's.
    pub(super) rules: Vec<Rule>,
}

impl Chain {
    /// The first rule that decides every packet, and with it what follows.
    pub(super) fn end(&self) -> Option<(usize, &'static str)> {
        self.rules.iter().enumerate().find_map(|(at, rule)| Some((at, rule.decides?)))
    }
}

/// What makes a chain a base chain.
#[derive(Debug, Clone)]
pub(super) struct Base {
    /// The hook.
    pub(super) hook: String,
    /// Whether its type is `filter`.
    pub(super) is_filter: bool,
    /// Whether its policy is `drop`.
    pub(super) refuses: bool,
}

/// A rule.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    /// The chains that it may jump or go to.
    pub(super) calls: BTreeSet<String>,
    /// Whether it may call any chain of its table: a map says which, and what is in that is not known.
    pub(super) calls_any: bool,
    /// The maps of verdicts that it looks things up in.
    pub(super) maps: BTreeSet<String>,
    /// The verdict, if it is one for every packet.
    pub(super) decides: Option<&'static str>,
    /// Whether it looks at more than interfaces, protocols and whether a connection is established.
    pub(super) is_narrow: bool,
    /// Whether it accepts established connections.
    pub(super) accepts_established: bool,
    /// Whether it may refuse a packet of an established connection.
    pub(super) refuses: bool,
}

/// What is in a map of verdicts; `None` if its elements are not listed.
#[derive(Debug, Clone)]
pub(super) struct VerdictMap {
    /// The chains that it leads to.
    pub(super) calls: Option<BTreeSet<String>>,
    established: Option<Established>,
}

/// What becomes of an established connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Established {
    is_accepted: bool,
    is_refused: bool,
}

/// Reads the rules of a table.
struct Reader<'a> {
    ruleset: &'a Ruleset,
    table: &'a TableRef,
}

impl Reader<'_> {
    fn rule(&self, expressions: &[Value]) -> Rule {
        let mut rule = Rule::default();
        let mut state = State::Any;
        let mut has_match = false;
        for (kind, content) in expressions.iter().filter_map(Value::as_object).flat_map(Map::iter) {
            match kind.as_str() {
                "counter" | "log" => {}
                "match" if is_state(content.get("left")) => {
                    has_match = true;
                    state = State::of(content);
                }
                "match" => {
                    has_match = true;
                    rule.is_narrow |= !is_wide(content.get("left"));
                }
                "vmap" => self.look_up(content, &mut rule),
                "mangle" | "notrack" => has_match = true,
                "jump" | "goto" => {
                    rule.calls.extend(text(content, "target").map(str::to_owned));
                    rule.accepts_established |= state == State::Established;
                    rule.decides = (kind == "goto").then_some("goto");
                }
                "accept" => {
                    rule.accepts_established |= state == State::Established;
                    rule.decides = Some("accept");
                }
                "return" => rule.decides = Some("return"),
                "drop" => rule.refuse("drop"),
                "reject" => {
                    rule.refuse("reject");
                    has_match |= !self.is_for_every_packet(content);
                }
                _ => {
                    has_match = true;
                    rule.is_narrow = true;
                }
            }
        }
        if has_match {
            rule.decides = None;
        }
        rule.accepts_established &= !rule.is_narrow;
        rule.refuses &= state != State::Other;
        rule
    }

    fn look_up(&self, look_up: &Value, rule: &mut Rule) {
        let by_state = is_state(look_up.get("key"));
        let established = match look_up.get("data") {
            Some(Value::String(name)) => {
                let name = name.trim_start_matches('@');
                let map = SetRef { table: self.table.clone(), name: name.into() };
                let known = self.ruleset.maps.get(&map);
                match known.and_then(|map| map.calls.clone()) {
                    Some(calls) => rule.calls.extend(calls),
                    None => rule.calls_any = true,
                }
                rule.maps.insert(name.to_owned());
                known.and_then(|map| map.established)
            }
            Some(elements) => {
                rule.calls.extend(targets(elements));
                Some(if by_state {
                    verdict_of_established(elements)
                } else {
                    Established { is_accepted: false, is_refused: holds_key(elements, "drop") }
                })
            }
            None => None,
        };
        // What is in a map that is not listed is taken for the better.
        let established = established.unwrap_or(Established { is_accepted: true, is_refused: false });
        rule.accepts_established |= by_state && established.is_accepted;
        rule.refuses |= established.is_refused;
        rule.is_narrow |= !by_state;
    }

    /// In a table of several protocols some kinds of `reject` are for one protocol only.
    fn is_for_every_packet(&self, reject: &Value) -> bool {
        match text(reject, "type") {
            Some("tcp reset") => false,
            Some("icmp" | "icmpv6") => matches!(self.table.family, Family::Ip | Family::Ip6),
            _ => true,
        }
    }
}

impl Rule {
    fn refuse(&mut self, verdict: &'static str) {
        self.refuses = true;
        self.decides = Some(verdict);
    }
}

/// The states of connections that a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Any,
    Established,
    Other,
}

impl State {
    fn of(state_match: &Value) -> Self {
        let names_it = state_match.get("right").is_some_and(holds_established);
        let negated = text(state_match, "op") == Some("!=");
        if names_it == negated { Self::Other } else { Self::Established }
    }
}

/// `ct state`, also as a part of a concatenation with nothing narrow in it.
fn is_state(expression: Option<&Value>) -> bool {
    let parts = expression.and_then(|expression| expression.get("concat")).and_then(Value::as_array);
    let is_plain = |expression: Option<&Value>| {
        expression.and_then(|expression| expression.get("ct")).and_then(|ct| text(ct, "key")) == Some("state")
    };
    match parts {
        None => is_plain(expression),
        Some(parts) => {
            parts.iter().any(|part| is_plain(Some(part)))
                && parts.iter().all(|part| is_plain(Some(part)) || is_wide(Some(part)))
        }
    }
}

/// Whether what a match looks at leaves whole connections on one side.
fn is_wide(expression: Option<&Value>) -> bool {
    const WIDE: [&str; 10] = [
        "iif", "oif", "iifname", "oifname", "iiftype", "oiftype", "iifgroup", "oifgroup", "l4proto",
        "nfproto",
    ];
    let key = expression.and_then(|expression| expression.get("meta")).and_then(|meta| text(meta, "key"));
    key.is_some_and(|key| WIDE.contains(&key) || key == "protocol")
}

/// From the elements of a map by `ct state`.
fn verdict_of_established(elements: &Value) -> Established {
    let pairs = match elements {
        Value::Object(object) => object.get("set").and_then(Value::as_array),
        other => other.as_array(),
    };
    let mut found = Established::default();
    for pair in pairs.into_iter().flatten().filter_map(Value::as_array) {
        let [key, verdict] = pair.as_slice() else { continue };
        if holds_established(key) {
            found.is_accepted |= ["accept", "jump", "goto"].iter().any(|word| holds_key(verdict, word));
            found.is_refused |= holds_key(verdict, "drop");
        }
    }
    found
}

fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key)?.as_str()
}

fn reference(object: &Value, name: &str) -> Option<ChainRef> {
    let family = text(object, "family")?.parse().ok()?;
    let table = TableRef { family, name: text(object, "table")?.into() };
    Some(ChainRef { table, name: text(object, name)?.into() })
}

/// The chains that verdicts somewhere in it lead to.
fn targets(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    visit(value, &mut |key, inner| {
        if matches!(key, Some("jump" | "goto")) {
            found.extend(text(inner, "target").map(str::to_owned));
        }
    });
    found
}

/// By name, or by number (nft(8), `ct state`).
fn holds_established(value: &Value) -> bool {
    let mut found = false;
    visit(value, &mut |_, inner| found |= inner == "established" || *inner == 2);
    found
}

fn holds_key(value: &Value, wanted: &str) -> bool {
    let mut found = false;
    visit(value, &mut |key, _| found |= key == Some(wanted));
    found
}

/// Whether it refers to an object of scnpm's.
fn is_ours(expression: &Value) -> bool {
    let mut found = false;
    visit(expression, &mut |key, inner| {
        let text = inner.as_str().unwrap_or_default();
        found |= text.strip_prefix('@').is_some_and(|name| name.starts_with(PREFIX));
        found |= key == Some("target") && text.starts_with(PREFIX);
    });
    found
}

/// Looks at a value and all in it, with their keys.
fn visit<'a>(value: &'a Value, look: &mut dyn FnMut(Option<&str>, &'a Value)) {
    let mut open = vec![(None, value)];
    while let Some((key, value)) = open.pop() {
        look(key, value);
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (None, item))),
            Value::Object(items) => open.extend(items.iter().map(|(key, item)| (Some(key.as_str()), item))),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nft 1.0.6 lists, but for what makes no difference.
    const LISTED: &str = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "filter", "handle": 1}},
        {"map": {"family": "inet", "name": "m", "table": "filter", "type": "mark", "handle": 6, "map": "verdict",
            "elem": [[1, {"jump": {"target": "leaf"}}]]}},
        {"map": {"family": "inet", "name": "unlisted", "table": "filter", "type": "mark", "handle": 7, "map": "verdict"}},
        {"set": {"family": "inet", "name": "scnpm.x.1", "table": "filter", "type": "cgroupsv2", "handle": 9}},
        {"chain": {"family": "inet", "table": "filter", "name": "leaf", "handle": 1}},
        {"chain": {"family": "inet", "table": "filter", "name": "scnpm.vpn.1.a", "handle": 2}},
        {"chain": {"family": "inet", "table": "filter", "name": "input", "handle": 4, "type": "filter",
            "hook": "input", "prio": 0, "policy": "drop"}},
        {"rule": {"family": "inet", "table": "filter", "chain": "leaf", "handle": 11, "comment": "x",
            "expr": [{"counter": {"packets": 0, "bytes": 0}}, {"accept": null}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "leaf", "handle": 12,
            "expr": [{"vmap": {"key": {"socket": {"key": "cgroupv2"}}, "data": "@scnpm.vpn.1"}}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "leaf", "handle": 13, "expr": [{"match": {"op": "==",
            "left": {"socket": {"key": "cgroupv2"}}, "right": "@scnpm.x.1"}}, {"accept": null}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 15, "expr": [{"match": {"op": "in",
            "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"log": null}, {"accept": null}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 20, "expr": [{"vmap": {"key":
            {"concat": [{"meta": {"key": "iifname"}}, {"ct": {"key": "state"}}]}, "data": {"set": [
            [{"concat": ["lo", "established"]}, {"accept": null}], [{"concat": ["eth0", "new"]}, {"drop": null}]]}}}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 30,
            "expr": [{"vmap": {"key": {"meta": {"key": "mark"}}, "data": "@m"}}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 31,
            "expr": [{"vmap": {"key": {"meta": {"key": "mark"}}, "data": "@unlisted"}}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 32, "expr": [{"match": {"op": "==",
            "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}, {"reject": {"type": "tcp reset"}}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 36,
            "expr": [{"reject": {"type": "icmpx", "expr": "port-unreachable"}}]}}
    ]}"#;

    fn chain(name: &str) -> ChainRef {
        let table = TableRef { family: Family::Inet, name: "filter".into() };
        ChainRef { table, name: name.into() }
    }

    #[test]
    fn listing_is_read_without_what_is_scnpm_s() {
        let ruleset = Ruleset::of(&serde_json::from_str(LISTED).unwrap());
        let names: Vec<String> = ruleset.chains().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["inet filter input", "inet filter leaf"]);
        let leaf = ruleset.chain(&chain("leaf")).unwrap();
        assert_eq!((leaf.rules.len(), leaf.end()), (1, Some((0, "accept"))));
        let input = ruleset.chain(&chain("input")).unwrap();
        let base = input.base.as_ref().unwrap();
        assert_eq!((base.hook.as_str(), base.is_filter, base.refuses), ("input", true, true));
        assert_eq!(input.end(), Some((5, "reject")));
    }

    #[test]
    fn rules_are_read_for_what_becomes_of_established_connections() {
        let ruleset = Ruleset::of(&serde_json::from_str(LISTED).unwrap());
        let rules = &ruleset.chain(&chain("input")).unwrap().rules;
        let read = |rule: &Rule| (rule.accepts_established, rule.refuses, rule.calls.len(), rule.calls_any);
        let read: Vec<_> = rules.iter().map(read).collect();
        assert_eq!(
            read,
            [
                (true, false, 0, false),
                (true, false, 0, false),
                (false, false, 1, false),
                (false, false, 0, true),
                (false, true, 0, false),
                (false, true, 0, false),
            ]
        );
    }

    #[test]
    fn what_is_no_listing_is_an_empty_ruleset() {
        for text in
            ["null", "{}", "[]", r#"{"nftables": 1}"#, r#"{"nftables": [1, {"rule": []}, {"chain": {}}]}"#]
        {
            assert_eq!(Ruleset::of(&serde_json::from_str(text).unwrap()).chains().count(), 0, "{text}");
        }
    }
}
