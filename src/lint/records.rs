//! W033: refusals that are recorded where packets are not refused; and W008 and W009 for the chains of these.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    calls::Calls,
    reach::not_reached,
    ruleset::{Chain, Rule, Ruleset},
    subject::Subject,
};
use crate::{
    gather::Gather,
    model::ChainRef,
    policy::Policy,
    text::{Code, Diagnostic, diagnostic::quoted},
};

/// Chains of `record refusals` that are not called, or not right in front of what refuses.
pub(super) fn lint(records: &[Subject<'_>], calls: &Calls<'_>) -> Vec<Diagnostic> {
    let each = |record: &Subject<'_>| {
        not_reached(record, calls).or_else(|| behind_verdict(record, calls)).or_else(|| passes(record, calls))
    };
    records.iter().filter_map(each).collect()
}

/// The hooks that call each chain that has annotations, or in which refusals are recorded.
pub fn hooks(policy: &Policy, ruleset: &Ruleset) -> BTreeMap<ChainRef, BTreeSet<String>> {
    let rules = super::subject::all(policy);
    let calls = Calls::of(ruleset, policy, &rules);
    let of_chain = |subject: &Subject<'_>| {
        let hooks = calls.hooks(&subject.rule.chain)?;
        Some((subject.rule.chain.clone(), hooks.iter().map(|hook| (*hook).to_owned()).gather()))
    };
    let records = super::subject::records(policy);
    rules.iter().chain(&records).filter_map(of_chain).gather()
}

/// The chain has a rule of its own that decides every packet before it is recorded.
fn behind_verdict(record: &Subject<'_>, calls: &Calls<'_>) -> Option<Diagnostic> {
    let chain = &record.rule.chain;
    let (_, verdict) = calls.ruleset.chain(chain).and_then(Chain::end)?;
    let name = quoted(&chain.to_string());
    let message = format!("the chain {name} decides every packet with `{verdict}` before it is recorded");
    let help = format!("move the `{verdict}` out, behind the call of the chain");
    Some(Diagnostic::new(Code::AfterVerdict, record.rule.chain_span, message).help(help))
}

/// Behind a call packets are let through.
fn passes(record: &Subject<'_>, calls: &Calls<'_>) -> Option<Diagnostic> {
    let chain = &record.rule.chain;
    let passing = |(caller, at)| {
        let of_caller = calls.ruleset.chain(caller)?;
        Some((caller, what_passes(of_caller, at)?))
    };
    let (caller, what) = calls.callers(chain).find_map(passing)?;
    let message = format!(
        "packets that are recorded are not refused: behind its call in {} {what}",
        quoted(&caller.to_string())
    );
    let help = format!("write `jump {}` directly in front of the last `reject` or `drop`", chain.name);
    Some(Diagnostic::new(Code::NotRefused, record.rule.chain_span, message).help(help))
}

/// What lets packets through behind a rule, if anything does.
fn what_passes(chain: &Chain, at: usize) -> Option<&'static str> {
    for Rule { accepts, refuses, decides, .. } in &chain.rules[at + 1..] {
        match decides {
            _ if *accepts => return Some("comes an `accept`"),
            Some("drop" | "reject") => return None,
            _ if *refuses => return None,
            _ => {}
        }
    }
    match &chain.base {
        Some(base) if !base.refuses => Some("comes no `reject` or `drop`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::lint::{Facts, Ruleset, lint, testing::policy_of};

    /// What is said if the hook's chain has these rules, and the chain that records has those of its own.
    fn said(rules: Vec<Value>, own: Vec<Value>, policy: &str) -> Vec<String> {
        let all = json!([
            {"table": {"family": "inet", "name": "f"}},
            {"chain": {"family": "inet", "table": "f", "name": "hook", "type": "filter", "hook": "output", "prio": 0, "policy": policy}},
            {"chain": {"family": "inet", "table": "f", "name": "refused"}},
        ]);
        let rule = |chain: &str, expr: Value| json!({"rule": {"family": "inet", "table": "f", "chain": chain, "expr": expr}});
        let mut objects = all.as_array().unwrap().clone();
        objects.extend(rules.into_iter().map(|expr| rule("hook", expr)));
        objects.extend(own.into_iter().map(|expr| rule("refused", expr)));
        let ruleset = Ruleset::of(&json!({ "nftables": objects }));
        let policy = policy_of(&["# scnpm: record refusals in inet f refused"]);
        let facts = Facts { ruleset: Some(&ruleset), ..Facts::default() };
        lint(&policy, facts).into_iter().map(|one| format!("{}: {}", one.code, one.message)).collect()
    }

    fn call() -> Value {
        json!([{"jump": {"target": "refused"}}])
    }

    fn port(verdict: &str) -> Value {
        let left = json!({"payload": {"protocol": "tcp", "field": "dport"}});
        json!([{"match": {"op": "==", "left": left, "right": 22}}, {verdict: null}])
    }

    #[test]
    fn place_in_front_of_what_refuses_is_right() {
        let reject = json!([{"counter": null}, {"reject": null}]);
        for (rules, policy) in [
            (vec![port("accept"), call(), reject.clone()], "accept"),
            (vec![call(), json!([{"log": null}]), json!([{"drop": null}])], "accept"),
            (vec![call(), port("drop")], "accept"),
            (vec![call()], "drop"),
        ] {
            assert_eq!(said(rules.clone(), vec![], policy), [""; 0], "{rules:?} {policy}");
        }
    }

    #[test]
    fn other_places_are_told() {
        let words = |rules, own| said(rules, own, "accept").join("\n");
        assert!(words(vec![], vec![]).starts_with("W008: nothing calls the chain `inet f refused`"));
        let accept = || json!([{"accept": null}]);
        assert!(words(vec![accept(), call()], vec![]).starts_with("W009: `inet f hook` calls the chain"));
        assert!(
            words(vec![call(), json!([{"drop": null}])], vec![accept()])
                .contains("W009: the chain `inet f refused` decides")
        );
        assert!(words(vec![call()], vec![]).contains("W033: packets that are recorded are not refused"));
        assert!(words(vec![call()], vec![]).contains("comes no `reject` or `drop`"));
        let later = vec![call(), port("accept"), json!([{"drop": null}])];
        assert!(words(later, vec![]).contains("W033"));
    }
}
