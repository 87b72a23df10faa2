//! A ruleset for tests, and what is read of it.

use serde_json::{Value, json};

use super::{Sent, read};
use crate::{
    dispatch::Dispatch,
    explain::{
        path::{Origins, Outcome, Step},
        ruleset::Ruleset,
        subject::Protocol,
    },
    model::CgroupId,
    policy::Policy,
    units::selector::Users,
};

pub(super) const SET: &str = "@nets";

/// What is read of rules in an output chain, each as its text and statements, whose policy is to drop.
pub(super) fn reads(rules: &[(&str, Value)], to: &str, protocol: Protocol) -> (Outcome, Vec<String>) {
    let chain = |name: &str| json!({"family": "inet", "table": "f", "name": name, "handle": 1});
    let mut base = chain("out");
    for (key, value) in
        [("type", json!("filter")), ("hook", json!("output")), ("prio", json!(0)), ("policy", json!("drop"))]
    {
        base[key] = value;
    }
    let mut objects = vec![
        json!({"chain": chain("called")}),
        json!({"chain": base}),
        json!({"set": {"family": "inet", "table": "f", "name": "nets"}}),
        json!({"rule": {"family": "inet", "table": "f", "chain": "called", "handle": 99, "expr": [{"return": null}]}}),
    ];
    let mut text =
        "table inet f {\n\tchain called {\n\t\treturn # handle 99\n\t}\n\tchain out {\n".to_owned();
    for (number, (words, statements)) in rules.iter().enumerate() {
        objects.push(json!({"rule":
            {"family": "inet", "table": "f", "chain": "out", "handle": number, "expr": statements}}));
        text += &format!("\t\t{words} # handle {number}\n");
    }
    let mut ruleset = Ruleset::of(&[json!({ "nftables": objects })], &format!("{text}\t}}\n}}\n"));
    ruleset.know(
        ruleset.unknown_sets().remove(0),
        json!([{"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": ["192.0.2.1", "192.0.2.9"]}]),
    );
    let (policy, dispatch, users) = (Policy::default(), Dispatch::default(), Users::new());
    let cgroup = "system.slice/a.service".parse().unwrap();
    let origins = Origins { policy: &policy, dispatch: &dispatch, users: &users, cgroup: &cgroup };
    let sent = Sent {
        protocol,
        to: to.parse().unwrap(),
        is_local: false,
        cgroup: &cgroup,
        ids: vec![CgroupId(7), CgroupId(8)],
        user: Some((1000, 100)),
    };
    let path = read(&sent, &ruleset, &origins);
    let line = |step: &Step| {
        let rule = step.rule.as_deref().unwrap_or("policy");
        format!("{rule} -> {}{}", if step.maybe { "maybe " } else { "" }, step.verdict)
    };
    let mut lines: Vec<String> = path.steps.iter().map(line).collect();
    lines.extend(path.decided_by.map(|at| format!("by {at}")));
    (path.outcome, lines)
}

pub(super) fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

pub(super) fn equal(left: Value, right: Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}
