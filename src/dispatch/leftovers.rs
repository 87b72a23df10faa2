//! What an earlier run left in the kernel, and the script that takes it away.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    denials,
    script::{Line, Script},
};
use crate::{
    gather::Gather,
    model::{PREFIX, SetRef, TableRef},
};

/// A ruleset as libnftables lists it in JSON (libnftables-json(5)), taken apart: what is ours, of which names are enough,
/// and the rest.
#[derive(Debug, Default)]
pub struct Listing {
    /// Rules of others' chains that refer to us: their chain (`FAMILY TABLE CHAIN`), and their handle.
    rules: Vec<(String, Value)>,
    /// Our chains (`FAMILY TABLE NAME`).
    chains: Vec<String>,
    /// Our maps and sets (`map FAMILY TABLE NAME`), maps first.
    sets: Vec<String>,
    /// Our counters, quotas and limits (`counter FAMILY TABLE NAME`).
    counters: Vec<String>,
    /// All that is not ours, in the form of a listing.
    pub others: Value,
}

/// A listing whose objects are still text: thousands of our own chains would take a lot of memory at once.
#[derive(Deserialize)]
struct Unread<'a> {
    #[serde(borrow)]
    nftables: Vec<&'a RawValue>,
}

impl Listing {
    /// Reads libnftables' texts: one of the ruleset, or one of each table.
    ///
    /// # Errors
    /// One is no such listing.
    pub fn read(texts: &[String]) -> serde_json::Result<Self> {
        let unread: Vec<Unread<'_>> =
            texts.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>()?;
        let objects = unread.into_iter().flat_map(|unread| unread.nftables);
        objects.map(|object| serde_json::from_str(object.get())).collect()
    }

    /// The commands that remove every object named `scnpm.*` and every rule of other chains that refers to one. Rules of
    /// chains in `flushed` (`FAMILY TABLE CHAIN`) are left to the flush. Objects in `kept` (`map FAMILY TABLE NAME`) are only
    /// emptied, since the same transaction fills them again: a packet that is on its way through the old rules still finds
    /// its element then. In a map that is deleted it would find nothing as soon as the new generation begins. Counters, quotas and limits in
    /// `kept`, and sets that record who is refused, stay as they are.
    pub fn removal(&self, flushed: &BTreeSet<String>, kept: &BTreeSet<String>) -> Script {
        let mut script = Script::default();
        let mut push = |command: String| script.lines.push(Line::new(command));
        for (chain, handle) in self.rules.iter().filter(|(chain, _)| !flushed.contains(chain)) {
            push(format!("delete rule {chain} handle {handle}"));
        }
        self.chains.iter().for_each(|chain| push(format!("flush chain {chain}")));
        let is_left = |set: &&String| kept.contains(*set) && denials::is_lasting(set);
        for set in self.sets.iter().filter(|set| !is_left(set)) {
            push(format!("{} {set}", if kept.contains(set) { "flush" } else { "delete" }));
        }
        let chains = self.chains.iter().map(|chain| format!("chain {chain}"));
        let unwanted = chains.chain(self.counters.iter().cloned()).filter(|object| !kept.contains(object));
        unwanted.for_each(|object| push(format!("delete {object}")));
        script
    }

    /// The tables that there are.
    pub fn tables(&self) -> BTreeSet<TableRef> {
        let objects = self.others["nftables"].as_array().into_iter().flatten();
        objects.filter_map(|object| table(object.get("table")?, "name")).gather()
    }

    /// The sets and maps of others whose key is a cgroup.
    pub fn sets_of_cgroups(&self) -> Vec<SetRef> {
        let objects = self.others["nftables"].as_array().into_iter().flatten();
        let sets = objects.filter_map(|object| object.get("set").or_else(|| object.get("map")));
        sets.filter(|set| set["type"] == "cgroupsv2").filter_map(reference).collect()
    }
}

impl FromIterator<Value> for Listing {
    fn from_iter<T: IntoIterator<Item = Value>>(objects: T) -> Self {
        let mut listing = Self::default();
        let (mut others, mut sets) = (Vec::new(), Vec::new());
        for listed in objects {
            let Some((kind, object)) = listed.as_object().and_then(|object| object.iter().next()) else {
                continue;
            };
            let name = text(object, if kind == "rule" { "chain" } else { "name" });
            let place = || format!("{} {} {name}", text(object, "family"), text(object, "table"));
            match (kind.as_str(), is_ours(name)) {
                ("rule", true) => {}
                ("rule", false) if refers_to_us(&object["expr"]) => {
                    listing.rules.push((place(), object["handle"].clone()));
                }
                ("chain", true) => listing.chains.push(place()),
                ("map", true) => listing.sets.push(format!("map {}", place())),
                ("counter" | "limit" | "quota", true) => listing.counters.push(format!("{kind} {}", place())),
                ("set", true) => sets.push(format!("set {}", place())),
                _ => others.push(listed),
            }
        }
        listing.sets.append(&mut sets);
        listing.others = json!({ "nftables": others });
        listing
    }
}

fn reference(set: &Value) -> Option<SetRef> {
    Some(SetRef { table: table(set, "table")?, name: text(set, "name").into() })
}

/// The table that an object is, or is in; its name is in that field.
fn table(object: &Value, name: &str) -> Option<TableRef> {
    Some(TableRef { family: text(object, "family").parse().ok()?, name: text(object, name).into() })
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether an expression looks up one of our sets or maps, jumps to one of our chains, or counts with one of our objects.
fn refers_to_us(expression: &Value) -> bool {
    match expression {
        Value::String(text) => text.strip_prefix('@').is_some_and(is_ours),
        Value::Array(items) => items.iter().any(refers_to_us),
        Value::Object(fields) => fields.iter().any(|(field, value)| {
            matches!(&**field, "target" | "counter" | "limit" | "quota")
                && value.as_str().is_some_and(is_ours)
                || refers_to_us(value)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listing() -> Listing {
        let ruleset = json!({"nftables": [
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
            {"counter": {"family": "inet", "table": "filter", "name": "scnpm.count.a.service", "packets": 7, "bytes": 9}},
            {"counter": {"family": "inet", "table": "filter", "name": "mine", "packets": 7, "bytes": 9}},
            {"quota": {"family": "inet", "table": "filter", "name": "scnpm.quota.a.service", "bytes": 7, "used": 1, "inv": false}},
            {"rule": {"family": "inet", "table": "filter", "chain": "out", "handle": 6,
                "expr": [{"quota": "scnpm.quota.a.service"}, {"limit": {"rate": 1, "per": "second"}}]}},
            {"rule": {"family": "inet", "table": "filter", "chain": "out", "handle": 8,
                "expr": [{"counter": "scnpm.count.a.service"}, {"counter": {"packets": 1, "bytes": 2}}]}},
            {"rule": {"family": "inet", "table": "filter", "chain": "out", "handle": 7, "expr": [{"counter": "mine"}]}},
            {"rule": {"family": "inet", "table": "filter", "chain": "out", "handle": 11,
                "expr": [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "scnpm.0"}}, {"accept": null}]}},
            {"rule": {"family": "inet", "table": "filter", "chain": "scnpm.out.1.a.service", "handle": 12,
                "expr": [{"accept": null}]}},
        ]});
        Listing::read(&[ruleset.to_string()]).unwrap()
    }

    #[test]
    fn removes_ours_in_an_order_the_kernel_takes_and_nothing_else() {
        assert_eq!(
            listing().removal(&BTreeSet::new(), &BTreeSet::new()).to_string(),
            "delete rule inet filter out handle 9\n\
             delete rule inet filter out handle 10\n\
             delete rule inet filter out handle 6\n\
             delete rule inet filter out handle 8\n\
             flush chain inet filter scnpm.out.1.a.service\n\
             delete map inet filter scnpm.out.1\n\
             delete set inet filter scnpm.out.2.active\n\
             delete chain inet filter scnpm.out.1.a.service\n\
             delete counter inet filter scnpm.count.a.service\n\
             delete quota inet filter scnpm.quota.a.service\n"
        );
    }

    #[test]
    fn leaves_rules_of_a_flushed_chain_to_the_flush() {
        let script =
            listing().removal(&BTreeSet::from(["inet filter out".to_owned()]), &BTreeSet::new()).to_string();
        assert!(!script.contains("delete rule"), "{script}");
    }

    #[test]
    fn empties_what_is_filled_again() {
        let kept = [
            "map inet filter scnpm.out.1",
            "chain inet filter scnpm.out.1.a.service",
            "counter inet filter scnpm.count.a.service",
        ];
        let kept = kept.map(str::to_owned).into();
        let script = listing().removal(&BTreeSet::new(), &kept).to_string();
        assert!(script.contains("flush map inet filter scnpm.out.1\n"), "{script}");
        assert!(script.contains("delete set inet filter scnpm.out.2.active\n"), "{script}");
        let is_deleted = |kind: &str| script.contains(&format!("delete {kind}"));
        assert!(!["chain", "map", "counter"].into_iter().any(is_deleted), "{script}");
    }

    #[test]
    fn finds_nothing_in_a_clean_kernel() {
        assert_eq!(
            Listing::read(&[]).unwrap().removal(&BTreeSet::new(), &BTreeSet::new()),
            Script::default()
        );
    }
}
