//! W007: rules that packets of established connections come to.
//!
//! A walk through each base chain in the order in which a packet goes, until something accepts established
//! connections: the chains met before that are exposed, if something refuses before it is accepted.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    calls::Calls,
    ruleset::{Base, Rule, Ruleset},
    subject::Subject,
};
use crate::{
    model::ChainRef,
    policy::{Placement, RuleStatement},
    text::{Code, Diagnostic, diagnostic::quoted},
};

/// How deep chains may call each other in the kernel (NFT_JUMP_STACK_SIZE).
const DEEPEST: usize = 16;

/// How many base chains are walked through: more have been made to keep us busy.
const BASES: usize = 64;

/// One warning for each chain.
pub(super) fn lint(subjects: &[Subject<'_>], calls: &Calls<'_>) -> Vec<Diagnostic> {
    let is_concerned = |subject: &&Subject<'_>| {
        let lets_through = matches!(subject.verdict, Some(("accept" | "jump" | "goto" | "vmap", _)));
        lets_through && subject.matches_cgroup()
    };
    let concerned: Vec<&Subject<'_>> = subjects.iter().filter(is_concerned).collect();
    if concerned.is_empty() {
        return Vec::new();
    }
    let refusing = refusing(calls);
    let walks = walks(calls, &refusing, |base| base.is_filter && matches!(&*base.hook, "input" | "output"));
    let mut warned: BTreeSet<&ChainRef> = BTreeSet::new();
    let mut diagnostics = Vec::new();
    for Subject { rule, .. } in concerned {
        if warned.contains(&rule.chain) {
            continue;
        }
        let is_exposed = |walk: &Walk<'_>| walk.comes_to(rule) == Some(Behind::Refuses);
        if let Some((base, _)) = walks.iter().find(|(_, walk)| is_exposed(walk)) {
            let base = quoted(&base.to_string());
            warned.insert(&rule.chain);
            let message = format!("nothing in {base} accepts established connections before this rule");
            diagnostics.push(Diagnostic::new(Code::NoEstablished, rule.chain_span, message).help(format!(
                "write `ct state established,related accept` at the top of {base}: SYN-ACKs and other answers of \
                 the kernel belong to no cgroup"
            )));
        }
    }
    diagnostics
}

/// Walks through base chains.
pub(super) fn walks<'a>(
    calls: &Calls<'a>,
    refusing: &'a BTreeSet<&'a ChainRef>,
    is_walked: fn(&Base) -> bool,
) -> Vec<(&'a ChainRef, Walk<'a>)> {
    let walks = calls.ruleset.chains().filter_map(|(name, chain)| {
        let base = chain.base.as_ref().filter(|base| is_walked(base))?;
        let (entered, left) = (BTreeMap::new(), BTreeMap::new());
        let mut walk = Walk { ruleset: calls.ruleset, refusing, time: 1, last_refusal: 0, entered, left };
        if !walk.chain(name, 0) && base.refuses {
            walk.last_refusal = usize::MAX;
        }
        Some((name, walk))
    });
    walks.take(BASES).collect()
}

/// The chains in which, or in what they call, packets of established connections may be refused.
pub(super) fn refusing<'a>(calls: &Calls<'a>) -> BTreeSet<&'a ChainRef> {
    let refusing = calls.ruleset.chains().filter(|(_, chain)| chain.rules.iter().any(|rule| rule.refuses));
    let mut open: Vec<&ChainRef> = refusing.map(|(name, _)| name).collect();
    let mut found = BTreeSet::new();
    while let Some(chain) = open.pop() {
        if found.insert(chain) {
            open.extend(calls.callers(chain).map(|(caller, _)| caller));
        }
    }
    found
}

/// What is behind a rule for packets that it lets go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// Something that may refuse them.
    Refuses,
    /// Nothing that refuses them.
    LetsPass,
}

/// A walk through a base chain. Time is the number of rules met.
pub(super) struct Walk<'a> {
    ruleset: &'a Ruleset,
    refusing: &'a BTreeSet<&'a ChainRef>,
    time: usize,
    last_refusal: usize,
    /// When packets of established connections came to a chain first.
    entered: BTreeMap<&'a ChainRef, usize>,
    /// When they came to its end.
    left: BTreeMap<&'a ChainRef, usize>,
}

impl<'a> Walk<'a> {
    /// What is behind an annotated rule that packets of established connections come to; none if they do not.
    pub(super) fn comes_to(&self, rule: &RuleStatement) -> Option<Behind> {
        let times = if rule.placement == Placement::Beginning { &self.entered } else { &self.left };
        let is_refused = *times.get(&rule.chain)? < self.last_refusal;
        Some(if is_refused { Behind::Refuses } else { Behind::LetsPass })
    }

    /// Walks through a chain; whether established connections are accepted in it.
    fn chain(&mut self, name: &'a ChainRef, depth: usize) -> bool {
        let Some(chain) = self.ruleset.chain(name) else { return false };
        self.entered.insert(name, self.time);
        let mut accepts = false;
        for rule in &chain.rules {
            self.time += 1;
            if rule.refuses && !accepts {
                self.last_refusal = self.time;
            }
            accepts |= self.calls(rule, accepts, depth);
            accepts |= rule.accepts_established;
            if rule.decides.is_some() {
                break;
            }
        }
        self.time += 1;
        if !accepts {
            self.left.insert(name, self.time);
        }
        accepts
    }

    /// Walks through what a rule calls; whether that accepts all established connections.
    fn calls(&mut self, rule: &'a Rule, accepted: bool, depth: usize) -> bool {
        let mut accepts = false;
        for target in &rule.calls {
            let is_new = !self.entered.contains_key(target);
            if is_new && !accepted && !rule.accepts_established && depth < DEEPEST {
                accepts |= self.chain(target, depth + 1);
            } else {
                accepts |= !is_new && !self.left.contains_key(target);
                if self.refusing.contains(target) && !accepted {
                    self.time += 1;
                    self.last_refusal = self.time;
                }
            }
        }
        accepts && !rule.is_narrow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::testing::{established, found, jump, messages, port, ruleset, verdict, with_ruleset};
    use serde_json::{Value, json};

    const RULE: &str =
        "# a.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/a.service\" accept";

    /// What is said of [`RULE`] in a chain `c` with these rules, which the base chain `b` calls after and before others.
    fn said(
        policy: &str,
        before: Vec<Value>,
        call: Value,
        after: Vec<Value>,
        own: Vec<Value>,
    ) -> Vec<String> {
        let rules = before.into_iter().chain([call]).chain(after).collect();
        let ruleset = ruleset(&[
            ("b", Some(("output", policy)), rules),
            ("c", None, own),
            ("first", None, vec![established()]),
        ]);
        messages(Code::NoEstablished, RULE, with_ruleset(&ruleset))
    }

    const TOLD: [&str; 1] = ["nothing in `inet f b` accepts established connections before this rule"];

    #[test]
    fn chain_that_established_connections_come_to_is_told() {
        let call = json!([jump("c")]);
        assert_eq!(said("drop", vec![], call.clone(), vec![], vec![]), TOLD);
        assert_eq!(
            said("accept", vec![], call.clone(), vec![json!([port(), {"reject": null}])], vec![]),
            TOLD
        );
        assert_eq!(said("drop", vec![json!([port(), jump("first")])], call.clone(), vec![], vec![]), TOLD);
        let refused = vec![json!([port(), verdict("drop")]), established()];
        assert_eq!(said("accept", vec![], call.clone(), refused, vec![]), TOLD);
        let limited = json!([established()[0], {"limit": {"rate": 1, "per": "second"}}, verdict("accept")]);
        assert_eq!(said("drop", vec![limited], call, vec![], vec![]), TOLD);
    }

    #[test]
    fn all_forms_of_accepting_count() {
        let state = json!({"ct": {"key": "state"}});
        let accept = verdict("accept");
        let vmap = |verdict: Value| json!([{"vmap": {"key": state, "data": {"set": [["invalid", {"drop": null}], ["established", verdict]]}}}]);
        let wide = json!([
            {"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "eth0"}},
            {"match": {"op": "in", "left": state, "right": "established"}},
            {"counter": {"packets": 0, "bytes": 0}}, {"log": {"prefix": "x"}}, accept
        ]);
        let set = json!([{"match": {"op": "==", "left": state, "right": {"set": ["established", "related"]}}}, accept]);
        let not_new =
            json!([{"match": {"op": "!=", "left": state, "right": {"set": ["new", "invalid"]}}}, accept]);
        let by_map = json!([{"vmap": {"key": state, "data": "@states"}}]);
        for before in [
            established(),
            wide,
            set,
            not_new,
            by_map,
            vmap(accept.clone()),
            vmap(jump("x")),
            json!([jump("first")]),
        ] {
            let said = said("drop", vec![before.clone()], json!([port(), jump("c")]), vec![], vec![]);
            assert_eq!(said, [] as [&str; 0], "{before}");
        }
        assert_eq!(said("drop", vec![], json!([jump("c")]), vec![], vec![established()]), [] as [&str; 0]);
    }

    #[test]
    fn nothing_is_told_where_nothing_is_refused() {
        let invalid = json!([
            {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}, verdict("drop")
        ]);
        assert_eq!(said("accept", vec![], json!([jump("c")]), vec![invalid], vec![]), [] as [&str; 0]);
        let before = json!([port(), verdict("drop")]);
        assert_eq!(said("accept", vec![before], json!([jump("c")]), vec![], vec![]), [] as [&str; 0]);
    }

    #[test]
    fn accepting_them_behind_the_rule_is_in_time_if_nothing_refuses_between() {
        let call = json!([jump("c")]);
        let reject = json!([port(), {"reject": null}]);
        assert_eq!(said("drop", vec![], call.clone(), vec![established()], vec![]), [] as [&str; 0]);
        assert_eq!(said("drop", vec![], call.clone(), vec![established(), reject], vec![]), [] as [&str; 0]);
        assert_eq!(said("drop", vec![], call, vec![json!([jump("first")])], vec![]), [] as [&str; 0]);
    }

    #[test]
    fn rules_that_let_nothing_through_are_not_told() {
        let ruleset = ruleset(&[("c", Some(("input", "drop")), vec![])]);
        for body in [
            "socket cgroupv2 level 1 \"system.slice\" meta mark set 1",
            "socket cgroupv2 level 1 \"system.slice\" drop",
            "tcp dport 25 accept",
        ] {
            let text = format!("# a.service :: add rule inet f c {body}");
            assert_eq!(
                messages(Code::NoEstablished, &text, with_ruleset(&ruleset)),
                [] as [&str; 0],
                "{body}"
            );
        }
        let text = "# a.service :: add rule inet f c socket cgroupv2 level 1 \"system.slice\" jump x";
        assert_eq!(messages(Code::NoEstablished, text, with_ruleset(&ruleset)).len(), 1);
    }

    #[test]
    fn a_chain_is_told_once_and_other_hooks_and_types_are_not() {
        let twice = format!("{RULE}\n{}", RULE.replace("a.service", "b.service"));
        let output = ruleset(&[("c", Some(("output", "drop")), vec![])]);
        assert_eq!(found(Code::NoEstablished, &twice, with_ruleset(&output)).len(), 1);
        let other = ruleset(&[("c", Some(("prerouting", "drop")), vec![])]);
        assert_eq!(messages(Code::NoEstablished, &twice, with_ruleset(&other)), [] as [&str; 0]);
        let nat = json!({"nftables": [{"chain": {"family": "inet", "table": "f", "name": "c", "type": "nat",
            "hook": "output", "prio": -100, "policy": "drop"}}]});
        assert_eq!(messages(Code::NoEstablished, &twice, with_ruleset(&Ruleset::of(&nat))), [] as [&str; 0]);
    }

    #[test]
    fn inserted_rule_comes_before_what_its_chain_accepts() {
        let refused = json!([port(), verdict("drop")]);
        let ruleset = ruleset(&[("c", Some(("output", "drop")), vec![refused, established()])]);
        assert_eq!(messages(Code::NoEstablished, RULE, with_ruleset(&ruleset)), [] as [&str; 0]);
        let inserted = RULE.replace("add", "insert");
        assert_eq!(messages(Code::NoEstablished, &inserted, with_ruleset(&ruleset)).len(), 1);
    }
}
