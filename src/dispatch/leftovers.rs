//! What an earlier run left in the kernel, and the script that takes it away.

use std::collections::BTreeSet;

use serde_json::Value;

use super::script::{Line, Script};
use crate::model::{PREFIX, SetRef, TableRef};

/// The commands that remove every object named `scnpm.*` and every rule of other chains that refers to one, for a ruleset
/// as libnftables lists it in JSON (libnftables-json(5)). Rules of chains in `flushed` (`FAMILY TABLE CHAIN`) are
/// left to the flush. Objects in `kept` (`map FAMILY TABLE NAME`) are only emptied, since the same transaction fills
/// them again: a packet that is on its way through the old rules still finds its element then. In a map that is
/// deleted it would find nothing as soon as the new generation begins.
pub fn removal(ruleset: &Value, flushed: &BTreeSet<String>, kept: &BTreeSet<String>) -> Script {
    let objects: Vec<(&str, &Value)> = ruleset["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .flat_map(|object| object.iter().map(|(kind, value)| (kind.as_str(), value)))
        .collect();
    let ours = |wanted: &'static str| {
        objects.iter().filter(move |(kind, object)| *kind == wanted && is_ours(text(object, "name")))
    };
    let rules = objects.iter().filter(|(kind, rule)| {
        *kind == "rule"
            && !is_ours(text(rule, "chain"))
            && !flushed.contains(&place(rule, "chain"))
            && refers_to_us(&rule["expr"])
    });
    let mut script = Script::default();
    let mut push = |command: String| script.push(Line::new(command));
    for (_, rule) in rules {
        push(format!("delete rule {} handle {}", place(rule, "chain"), rule["handle"]));
    }
    ours("chain").for_each(|(_, chain)| push(format!("flush chain {}", place(chain, "name"))));
    for (kind, object) in ours("map").chain(ours("set")) {
        let object = format!("{kind} {}", place(object, "name"));
        push(format!("{} {object}", if kept.contains(&object) { "flush" } else { "delete" }));
    }
    let chains = ours("chain").map(|(_, chain)| format!("chain {}", place(chain, "name")));
    chains.filter(|chain| !kept.contains(chain)).for_each(|chain| push(format!("delete {chain}")));
    script
}

/// The sets and maps whose key is a cgroup.
pub fn sets_of_cgroups(ruleset: &Value) -> Vec<SetRef> {
    let objects = ruleset["nftables"].as_array().into_iter().flatten();
    let sets = objects.filter_map(|object| object.get("set").or_else(|| object.get("map")));
    sets.filter(|set| set["type"] == "cgroupsv2")
        .filter_map(|set| {
            let table =
                TableRef { family: text(set, "family").parse().ok()?, name: text(set, "table").to_owned() };
            Some(SetRef { table, name: text(set, "name").to_owned() })
        })
        .collect()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn place(object: &Value, name: &str) -> String {
    format!("{} {} {}", text(object, "family"), text(object, "table"), text(object, name))
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether an expression looks up one of our sets or maps, or jumps to one of our chains.
fn refers_to_us(expression: &Value) -> bool {
    match expression {
        Value::String(text) => text.strip_prefix('@').is_some_and(is_ours),
        Value::Array(items) => items.iter().any(refers_to_us),
        Value::Object(fields) => fields.iter().any(|(field, value)| {
            field == "target" && value.as_str().is_some_and(is_ours) || refers_to_us(value)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ruleset() -> Value {
        json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "inet", "name": "filter", "handle": 1}},
            {"chain": {"family": "inet", "table": "filter", "name": "out", "handle": 1}},
            {"chain": {"family": "inet", "table": "filter", "name": "scnpm.out.1.a.service", "handle": 5}},
            {"map": {"family": "inet", "table": "filter", "name": "scnpm.out.1", "type": "cgroupsv2", "map": "verdict"}},
            {"set": {"family": "inet", "table": "filter", "name": "scnpm.out.2.active", "type": "mark"}},
            {"set": {"family": "inet", "table": "filter", "name": "mine", "type": "mark"}},
            {"rule": {"family": "inet", "table": "filter", "chain": "out", "handle": 9,
                "expr": [{"vmap": {"key": {"socket": {"key": "cgroupv2"}}, "data": "@scnpm.out.1"}}]}},
            {"rule": {"family": "inet", "table": "filter", "chain": "out", "handle": 10,
                "expr": [{"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": "@scnpm.out.2.active"}}]}},
            {"rule": {"family": "inet", "table": "filter", "chain": "out", "handle": 11,
                "expr": [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "scnpm.0"}}, {"accept": null}]}},
            {"rule": {"family": "inet", "table": "filter", "chain": "scnpm.out.1.a.service", "handle": 12,
                "expr": [{"accept": null}]}},
        ]})
    }

    #[test]
    fn removes_ours_in_an_order_the_kernel_takes_and_nothing_else() {
        assert_eq!(
            removal(&ruleset(), &BTreeSet::new(), &BTreeSet::new()).to_string(),
            "delete rule inet filter out handle 9\n\
             delete rule inet filter out handle 10\n\
             flush chain inet filter scnpm.out.1.a.service\n\
             delete map inet filter scnpm.out.1\n\
             delete set inet filter scnpm.out.2.active\n\
             delete chain inet filter scnpm.out.1.a.service\n"
        );
    }

    #[test]
    fn leaves_rules_of_a_flushed_chain_to_the_flush() {
        let script = removal(&ruleset(), &BTreeSet::from(["inet filter out".to_owned()]), &BTreeSet::new())
            .to_string();
        assert!(!script.contains("delete rule"), "{script}");
    }

    #[test]
    fn empties_what_is_filled_again() {
        let kept = ["map inet filter scnpm.out.1", "chain inet filter scnpm.out.1.a.service"];
        let kept = kept.map(str::to_owned).into();
        let script = removal(&ruleset(), &BTreeSet::new(), &kept).to_string();
        assert!(script.contains("flush map inet filter scnpm.out.1\n"), "{script}");
        assert!(script.contains("delete set inet filter scnpm.out.2.active\n"), "{script}");
        assert!(!script.contains("delete chain") && !script.contains("delete map"), "{script}");
    }

    #[test]
    fn finds_nothing_in_a_clean_kernel() {
        assert_eq!(removal(&json!({"nftables": []}), &BTreeSet::new(), &BTreeSet::new()), Script::default());
    }
}
