//! A ruleset as libnftables lists it in JSON (libnftables-json(5)), as far as lints look at it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    gather::Gather,
    model::{ChainRef, Family, PREFIX, SetRef, TableRef},
};

/// Chains and their rules.
#[derive(Debug, Clone, Default)]
pub struct Ruleset {
    chains: BTreeMap<ChainRef, Chain>,
    /// The sets and maps.
    sets: BTreeMap<SetRef, SetKind>,
    /// The maps of verdicts whose elements are listed.
    maps: BTreeMap<SetRef, Verdicts>,
}

impl Ruleset {
    /// From the listing of a whole ruleset, with or without the elements of its sets.
    pub fn of(listing: &Value) -> Self {
        let objects = listing["nftables"].as_array().map_or(&[][..], Vec::as_slice);
        let mut ruleset = Self::default();
        for object in objects {
            let (chain, map) = (&object["chain"], &object["map"]);
            let set = reference(&object["set"], "name").or_else(|| reference(map, "name"));
            ruleset.sets.extend(set.map(|set| {
                let kind = SetKind::of(if map.is_null() { &object["set"] } else { map }, !map.is_null());
                (SetRef { table: set.table, name: set.name }, kind)
            }));
            if let Some(name) = reference(chain, "name").filter(|chain| !chain.name.starts_with(PREFIX)) {
                let base = chain["hook"].as_str().map(|hook| Base {
                    hook: hook.to_owned(),
                    is_filter: chain["type"] == "filter",
                    is_route: chain["type"] == "route",
                    refuses: chain["policy"] == "drop",
                });
                ruleset.chains.insert(name, Chain { base, rules: Vec::new() });
            } else if let (Some(name), Some(elements)) = (reference(map, "name"), map.get("elem")) {
                let verdicts = Verdicts::of(&name.table, elements);
                ruleset.maps.insert(SetRef { table: name.table, name: name.name }, verdicts);
            }
        }
        for rule in objects.iter().map(|object| &object["rule"]) {
            let (Some(place), Some(expressions)) = (reference(rule, "chain"), rule["expr"].as_array()) else {
                continue;
            };
            if expressions.iter().any(is_ours) {
                continue;
            }
            let rule = ruleset.rule(&place.table, expressions);
            if let Some(chain) = ruleset.chains.get_mut(&place) {
                chain.rules.push(rule);
            }
        }
        ruleset
    }

    /// A chain, if there is one of this name.
    pub(super) fn chain(&self, chain: &ChainRef) -> Option<&Chain> {
        self.chains.get(chain)
    }

    /// All chains by name, but for scnpm's own.
    pub(super) fn chains(&self) -> impl Iterator<Item = (&ChainRef, &Chain)> {
        self.chains.iter()
    }

    /// Whether there is a set or map of this name.
    pub(super) fn has_set(&self, set: &SetRef) -> bool {
        self.sets.contains_key(set)
    }

    /// What a set or map is.
    pub(super) fn kind(&self, set: &SetRef) -> Option<&SetKind> {
        self.sets.get(set)
    }

    /// The sets that can be filled with addresses.
    pub(super) fn fillable(&self) -> impl Iterator<Item = &SetRef> {
        self.sets.iter().filter(|(_, kind)| kind.has_timeout && !kind.is_map).map(|(set, _)| set)
    }

    /// What is in a map, if that is listed.
    pub(super) fn map(&self, map: &SetRef) -> Option<&Verdicts> {
        self.maps.get(map)
    }

    fn rule(&self, table: &TableRef, expressions: &[Value]) -> Rule {
        let words =
            expressions.iter().flat_map(all_in).filter_map(|(_, value)| value.as_str()?.strip_prefix('@'));
        let sets = words.map(|name| SetRef { table: table.clone(), name: name.into() }).gather();
        let mut rule = Rule { sets, ..Rule::default() };
        // Whether it is for established connections, if it looks at their state.
        let mut established = None;
        let mut has_match = false;
        for (kind, content) in expressions.iter().filter_map(Value::as_object).flatten() {
            rule.accepts |= kind == "accept";
            rule.decides = DECIDING.into_iter().find(|verdict| verdict == kind).or(rule.decides);
            match kind.as_str() {
                "counter" | "log" | "return" => {}
                "match" if is_state(&content["left"]) => {
                    has_match = true;
                    established = Some(holds_established(&content["right"]) != (content["op"] == "!="));
                }
                "match" => {
                    has_match = true;
                    rule.is_narrow |= !is_wide(&content["left"]);
                }
                "vmap" => self.look_up(table, content, &mut rule),
                "mangle" | "notrack" => has_match = true,
                "jump" | "goto" | "accept" => {
                    rule.calls.extend(content["target"].as_str().map(|name| chain_of(table, name)));
                    rule.accepts_established |= established == Some(true);
                }
                "drop" => rule.refuses = true,
                "reject" => {
                    rule.refuses = true;
                    has_match |= !is_for_every_packet(table, content);
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
        rule.decides_by = decides_by(table, expressions);
        rule.accepts_established &= !rule.is_narrow;
        rule.refuses &= established != Some(false);
        rule
    }

    fn look_up(&self, table: &TableRef, look_up: &Value, rule: &mut Rule) {
        let by_state = is_state(&look_up["key"]);
        let data = &look_up["data"];
        let verdicts = match data.as_str() {
            Some(name) => {
                let map = SetRef { table: table.clone(), name: name.trim_start_matches('@').into() };
                self.maps.get(&map).cloned()
            }
            None if by_state => Some(Verdicts::of(table, data)),
            None => Some(Verdicts { refuses: holds_key(data, "drop"), ..Verdicts::of(table, data) }),
        };
        rule.is_narrow |= !by_state;
        match verdicts {
            Some(verdicts) => {
                rule.calls.extend(verdicts.calls);
                rule.accepts_established |= by_state && verdicts.accepts;
                rule.refuses |= verdicts.refuses;
            }
            // What is not listed is taken for the better.
            None => {
                rule.calls_any = true;
                rule.accepts_established |= by_state;
            }
        }
    }
}

/// What a set or map is.
#[derive(Debug, Clone)]
pub(super) struct SetKind {
    /// Whether it is a map.
    pub(super) is_map: bool,
    /// The type of its keys, if that is known.
    pub(super) holds: Option<String>,
    /// Whether its elements may expire.
    pub(super) has_timeout: bool,
    /// Whether its keys may be ranges.
    pub(super) has_intervals: bool,
}

impl SetKind {
    fn of(set: &Value, is_map: bool) -> Self {
        let has = |flag: &str| match &set["flags"] {
            Value::Array(flags) => flags.iter().any(|one| one == flag),
            one => one == flag,
        };
        let holds = match &set["type"] {
            Value::String(holds) => Some(holds.clone()),
            Value::Array(parts) => {
                let parts: Option<Vec<&str>> = parts.iter().map(Value::as_str).collect();
                parts.map(|parts| parts.join(" . "))
            }
            _ => None,
        };
        // A set that has a time for its elements may be listed without the flag.
        let has_timeout = has("timeout") || !set["timeout"].is_null();
        Self { is_map, holds, has_timeout, has_intervals: has("interval") }
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
    /// Whether its type is `route`.
    pub(super) is_route: bool,
    /// Whether its policy is `drop`.
    pub(super) refuses: bool,
}

/// A rule.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    /// The chains that it may jump or go to.
    pub(super) calls: BTreeSet<ChainRef>,
    /// Whether it may call any chain of its table: a map says which, and what is in that is not known.
    pub(super) calls_any: bool,
    /// The sets and maps that it looks things up in, or adds to.
    pub(super) sets: BTreeSet<SetRef>,
    /// The set or map of cgroups by which alone it decides.
    pub(super) decides_by: Option<SetRef>,
    /// The verdict, if it is one for every packet.
    pub(super) decides: Option<&'static str>,
    /// Whether it looks at more than interfaces, protocols and whether a connection is established.
    pub(super) is_narrow: bool,
    /// Whether it accepts packets.
    pub(super) accepts: bool,
    /// Whether it accepts established connections.
    pub(super) accepts_established: bool,
    /// Whether it may refuse a packet of an established connection.
    pub(super) refuses: bool,
}

/// The verdicts that leave nothing to the rules behind.
const DECIDING: [&str; 5] = ["accept", "drop", "reject", "return", "goto"];

/// What is in a map of verdicts.
#[derive(Debug, Clone)]
pub(super) struct Verdicts {
    /// The chains that it leads to.
    pub(super) calls: BTreeSet<ChainRef>,
    /// Whether it accepts established connections.
    accepts: bool,
    /// Whether it refuses them.
    refuses: bool,
}

impl Verdicts {
    /// From the elements of a map by `ct state`.
    fn of(table: &TableRef, elements: &Value) -> Self {
        let calls = all_in(elements)
            .filter(|(key, _)| matches!(*key, "jump" | "goto"))
            .filter_map(|(_, call)| Some(chain_of(table, call["target"].as_str()?)));
        let mut verdicts = Self { calls: calls.gather(), accepts: false, refuses: false };
        let pairs = elements.get("set").unwrap_or(elements).as_array().into_iter().flatten();
        for pair in pairs {
            if holds_established(&pair[0]) {
                verdicts.accepts |= ["accept", "jump", "goto"].iter().any(|word| holds_key(&pair[1], word));
                verdicts.refuses |= holds_key(&pair[1], "drop");
            }
        }
        verdicts
    }
}

/// The set of a rule that only looks a cgroup up in it, and decides by that.
fn decides_by(table: &TableRef, expressions: &[Value]) -> Option<SetRef> {
    let is_idle =
        |expression: &&Value| expression.get("counter").is_none() && expression.get("log").is_none();
    let steps: Vec<&Value> = expressions.iter().filter(is_idle).collect();
    let is_verdict =
        |step: &Value| ["accept", "drop", "return", "goto"].iter().any(|verdict| step.get(verdict).is_some());
    let (key, set) = match steps[..] {
        [step, verdict] if is_verdict(verdict) && step["match"]["op"] != "!=" => {
            (&step["match"]["left"], &step["match"]["right"])
        }
        [step] => (&step["vmap"]["key"], &step["vmap"]["data"]),
        _ => return None,
    };
    let name = set.as_str()?.strip_prefix('@').filter(|_| key["socket"]["key"] == "cgroupv2")?;
    Some(SetRef { table: table.clone(), name: name.into() })
}

/// In a table of several protocols some kinds of `reject` are for one protocol only.
fn is_for_every_packet(table: &TableRef, reject: &Value) -> bool {
    match reject["type"].as_str() {
        Some("tcp reset") => false,
        Some("icmp" | "icmpv6") => matches!(table.family, Family::Ip | Family::Ip6),
        _ => true,
    }
}

/// `ct state`, also as a part of a concatenation with nothing narrow in it.
fn is_state(expression: &Value) -> bool {
    let is_plain = |part: &Value| part["ct"]["key"] == "state";
    match expression["concat"].as_array() {
        None => is_plain(expression),
        Some(parts) => parts.iter().any(is_plain) && parts.iter().all(|part| is_plain(part) || is_wide(part)),
    }
}

/// Whether what a match looks at leaves whole connections on one side.
fn is_wide(expression: &Value) -> bool {
    const WIDE: [&str; 11] = [
        "iif", "oif", "iifname", "oifname", "iiftype", "oiftype", "iifgroup", "oifgroup", "l4proto",
        "nfproto", "protocol",
    ];
    expression["meta"]["key"].as_str().is_some_and(|key| WIDE.contains(&key))
}

fn reference(object: &Value, name: &str) -> Option<ChainRef> {
    let family = object["family"].as_str()?.parse().ok()?;
    let table = TableRef { family, name: object["table"].as_str()?.into() };
    Some(ChainRef { table, name: object[name].as_str()?.into() })
}

/// A chain of a table by its name.
pub(super) fn chain_of(table: &TableRef, name: &str) -> ChainRef {
    ChainRef { table: table.clone(), name: name.into() }
}

/// By name, or by number (nft(8), `ct state`).
fn holds_established(value: &Value) -> bool {
    all_in(value).any(|(_, inner)| inner == "established" || *inner == 2)
}

fn holds_key(value: &Value, wanted: &str) -> bool {
    all_in(value).any(|(key, _)| key == wanted)
}

/// Whether it refers to an object of scnpm's.
fn is_ours(expression: &Value) -> bool {
    all_in(expression).any(|(key, inner)| {
        let text = inner.as_str().unwrap_or_default();
        text.strip_prefix('@').is_some_and(|name| name.starts_with(PREFIX))
            || key == "target" && text.starts_with(PREFIX)
    })
}

/// A value and all in it, with their keys.
fn all_in(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let mut open = vec![("", value)];
    std::iter::from_fn(move || {
        let (key, value) = open.pop()?;
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| ("", item))),
            Value::Object(items) => open.extend(items.iter().map(|(key, item)| (key.as_str(), item))),
            _ => {}
        }
        Some((key, value))
    })
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
