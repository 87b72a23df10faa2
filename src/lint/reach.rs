//! W008 and W009: rules that no packet comes to.

use std::collections::BTreeSet;

use super::{
    calls::{Calls, WITH_CGROUPS},
    ruleset::Chain,
    subject::Subject,
};
use crate::{
    model::ChainRef,
    policy::{Placement, Policy},
    text::{Code, Diagnostic, Span, diagnostic::quoted},
};

/// Rules in chains that are not called, are called from elsewhere, or have decided before.
pub(super) fn lint(policy: &Policy, subjects: &[Subject<'_>], calls: &Calls<'_>) -> Vec<Diagnostic> {
    let mut warned: BTreeSet<&ChainRef> = BTreeSet::new();
    let mut diagnostics = Vec::new();
    for subject in subjects {
        let chain = &subject.rule.chain;
        // What is wrong with a chain is said at its first annotation.
        let of_chain = if warned.contains(chain) { None } else { not_reached(subject, calls) };
        if of_chain.is_some() {
            warned.insert(chain);
        }
        diagnostics.extend(of_chain.or_else(|| after_verdict(policy, subject, calls)));
    }
    diagnostics
}

pub(super) fn not_reached(subject: &Subject<'_>, calls: &Calls<'_>) -> Option<Diagnostic> {
    let chain = &subject.rule.chain;
    let hooks = calls.hooks(chain)?;
    let name = quoted(&chain.to_string());
    let (code, message, help) = if hooks.is_empty() {
        let help = format!("call it in a chain of a hook, with `jump {}`", chain.name);
        (Code::NotReached, format!("nothing calls the chain {name}"), help)
    } else if subject.matches_cgroup() && !WITH_CGROUPS.iter().any(|hook| hooks.contains(hook)) {
        let hooks: Vec<&str> = hooks.iter().copied().collect();
        let hooks = hooks.join(" and ");
        let message = format!("the chain {name} is only reached from {hooks}, where no cgroup matches");
        let help = "cgroups can be matched in the hooks prerouting, input and output: forwarded packets have no socket";
        (Code::NotReached, message, help.to_owned())
    } else {
        let (caller, verdict) = calls.too_late(chain)?;
        let caller = quoted(&caller.to_string());
        let message =
            format!("{caller} calls the chain {name} after a rule that decides every packet: `{verdict}`");
        (Code::AfterVerdict, message, format!("move that rule behind `jump {}`", chain.name))
    };
    Some(Diagnostic::new(code, subject.rule.chain_span, message).help(help))
}

fn after_verdict(policy: &Policy, subject: &Subject<'_>, calls: &Calls<'_>) -> Option<Diagnostic> {
    if subject.rule.placement != Placement::End {
        return None;
    }
    let chain = subject.rule.chain_span;
    let (_, verdict) = calls.ruleset.chain(&subject.rule.chain).and_then(Chain::end)?;
    let name = quoted(&subject.rule.chain.to_string());
    let message =
        format!("the chain {name} decides every packet with `{verdict}` before this rule at its end");
    let help = format!("write `insert rule`, or move the `{verdict}` out, behind the call of the chain");
    // Between the unit and the chain stands `:: add rule`, or less.
    let start = subject.annotation.unit_span.end;
    let (place, text) = match policy.sources.file(chain.file).text[start..chain.start].find("add") {
        Some(at) => (Span { start: start + at, end: start + at + "add".len(), ..chain }, "insert"),
        None => (Span { end: chain.start, ..chain }, "insert rule "),
    };
    Some(Diagnostic::new(Code::AfterVerdict, chain, message).help(help).fix(place, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Ruleset,
        testing::{equals, jump, listing, mended, messages, port, ruleset, verdict, with_ruleset},
    };
    use serde_json::{Value, json};

    const RULE: &str =
        "# a.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/a.service\" accept";

    fn called(hook: &str, rules: Vec<Value>, own: Vec<Value>) -> Ruleset {
        ruleset(&[("b", Some((hook, "accept")), rules), ("c", None, own), ("d", None, vec![])])
    }

    fn said(code: Code, ruleset: &Ruleset) -> Vec<String> {
        messages(code, RULE, with_ruleset(ruleset))
    }

    #[test]
    fn chain_that_nothing_calls_is_told_once() {
        let lonely = called("output", vec![], vec![]);
        assert_eq!(said(Code::NotReached, &lonely), ["nothing calls the chain `inet f c`"]);
        let both = format!("{RULE}\n# b.service :: add rule inet f c tcp dport 25 accept");
        assert_eq!(messages(Code::NotReached, &both, with_ruleset(&lonely)).len(), 1);
        let plain = "# b.service :: add rule inet f c tcp dport 25 accept";
        assert_eq!(messages(Code::NotReached, plain, with_ruleset(&lonely)).len(), 1);
    }

    #[test]
    fn chain_of_another_hook_is_told() {
        let forward = called("forward", vec![json!([jump("c")])], vec![]);
        assert_eq!(
            said(Code::NotReached, &forward),
            ["the chain `inet f c` is only reached from forward, where no cgroup matches"]
        );
        let plain = "# b.service :: add rule inet f c tcp dport 25 accept";
        assert_eq!(messages(Code::NotReached, plain, with_ruleset(&forward)), [] as [&str; 0]);
    }

    #[test]
    fn chains_that_something_may_call_are_not_told() {
        let by_port = json!([{"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}},
            "data": {"set": [[22, jump("c")]]}}}]);
        let by_map = json!([{"vmap": {"key": {"meta": {"key": "mark"}}, "data": "@m"}}]);
        for rule in [json!([port(), jump("c")]), json!([{"goto": {"target": "c"}}]), by_port, by_map] {
            assert_eq!(
                said(Code::NotReached, &called("input", vec![rule.clone()], vec![])),
                [] as [&str; 0],
                "{rule}"
            );
        }
        assert_eq!(
            said(Code::NotReached, &ruleset(&[("c", Some(("prerouting", "accept")), vec![])])),
            [] as [&str; 0]
        );
        assert_eq!(said(Code::NotReached, &ruleset(&[("other", None, vec![])])), [] as [&str; 0]);
    }

    #[test]
    fn map_whose_elements_are_listed_calls_only_those() {
        let mut listing = listing(&[
            (
                "b",
                Some(("input", "accept")),
                vec![json!([{"vmap": {"key": {"meta": {"key": "mark"}}, "data": "@m"}}])],
            ),
            ("c", None, vec![]),
            ("d", None, vec![]),
        ]);
        let map = |target: &str| {
            json!({"map": {"family": "inet", "table": "f", "name": "m", "type": "mark",
            "map": "verdict", "elem": [[1, jump(target)]]}})
        };
        listing["nftables"][1] = map("c");
        assert_eq!(said(Code::NotReached, &Ruleset::of(&listing)), [] as [&str; 0]);
        listing["nftables"][1] = map("d");
        assert_eq!(said(Code::NotReached, &Ruleset::of(&listing)).len(), 1);
        let fed =
            format!("{RULE}\n# a.service :: add element inet f m {{ \"system.slice/a.service\" : jump c }}");
        assert_eq!(messages(Code::NotReached, &fed, with_ruleset(&Ruleset::of(&listing))), [] as [&str; 0]);
    }

    #[test]
    fn annotations_call_chains_too() {
        let lonely = called("output", vec![], vec![]);
        for call in ["jump c", "goto c", "tcp dport vmap { 25 : jump c }", "tcp dport vmap @m"] {
            let text = format!("{RULE}\n# b.service :: add rule inet f b oifname \"x\" {call}");
            assert_eq!(messages(Code::NotReached, &text, with_ruleset(&lonely)), [] as [&str; 0], "{call}");
        }
    }

    #[test]
    fn loops_come_to_an_end() {
        let ruleset = ruleset(&[
            ("c", None, vec![json!([verdict("drop")]), json!([jump("d")])]),
            ("d", None, vec![json!([jump("c")])]),
            ("b", Some(("output", "drop")), vec![json!([verdict("accept")]), json!([jump("d")])]),
        ]);
        assert_eq!(said(Code::NotReached, &ruleset), [] as [&str; 0]);
        assert_eq!(said(Code::AfterVerdict, &ruleset).len(), 1);
    }

    #[test]
    fn rule_behind_a_deciding_one_is_told_and_mended() {
        for own in [
            json!([verdict("drop")]),
            json!([{"counter": {"packets": 0, "bytes": 0}}, {"log": null}, verdict("drop")]),
        ] {
            let ended = called("output", vec![json!([jump("c")])], vec![own]);
            assert_eq!(
                said(Code::AfterVerdict, &ended),
                ["the chain `inet f c` decides every packet with `drop` before this rule at its end"]
            );
            let inserted = RULE.replace(":: add rule", ":: insert rule");
            assert_eq!(mended(Code::AfterVerdict, RULE, with_ruleset(&ended)), inserted);
            let without_verb = RULE.replace(":: add rule", "::");
            assert_eq!(mended(Code::AfterVerdict, &without_verb, with_ruleset(&ended)), inserted);
        }
    }

    #[test]
    fn rules_that_decide_some_packets_only_do_not_count() {
        let reject = json!({"reject": {"type": "tcp reset"}});
        for own in [
            json!([port(), verdict("drop")]),
            json!([{"limit": {"rate": 1, "per": "second"}}, verdict("accept")]),
            json!([equals(json!({"meta": {"key": "l4proto"}}), "tcp"), reject]),
            json!([{"reject": {"type": "icmp", "expr": "host-unreachable"}}]),
            json!([{"counter": {"packets": 0, "bytes": 0}}]),
            json!([jump("d")]),
            json!([{"match": {"op": "==", "left": {"socket": {"key": "cgroupv2"}}, "right": "@scnpm.c.1"}}, verdict("accept")]),
            json!([{"vmap": {"key": {"socket": {"key": "cgroupv2"}}, "data": "@scnpm.c.1"}}]),
        ] {
            let ruleset = called("output", vec![json!([jump("c")])], vec![own.clone()]);
            assert_eq!(said(Code::AfterVerdict, &ruleset), [] as [&str; 0], "{own}");
        }
        let gate =
            json!({"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": "@scnpm.c.1.active"}});
        let ours = called("output", vec![json!([jump("c")])], vec![json!([gate, verdict("accept")])]);
        assert_eq!(said(Code::AfterVerdict, &ours), [] as [&str; 0]);
    }

    #[test]
    fn call_behind_a_deciding_rule_is_told() {
        let late = called("output", vec![json!([verdict("accept")]), json!([jump("c")])], vec![]);
        assert_eq!(
            said(Code::AfterVerdict, &late),
            ["`inet f b` calls the chain `inet f c` after a rule that decides every packet: `accept`"]
        );
        assert_eq!(
            messages(Code::AfterVerdict, &RULE.replace("add", "insert"), with_ruleset(&late)).len(),
            1
        );
        let once = json!([jump("c")]);
        let in_time = called("output", vec![once.clone(), json!([verdict("accept")]), once], vec![]);
        assert_eq!(said(Code::AfterVerdict, &in_time), [] as [&str; 0]);
    }
}
