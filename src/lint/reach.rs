//! W008 and W009: rules that no packet comes to.

use std::collections::BTreeSet;

use super::{
    calls::{Calls, WITH_CGROUPS},
    ruleset::Chain,
    subject::Subject,
};
use crate::{
    model::ChainRef,
    policy::{Code, Mistake, Placement, Policy, Span, mistake::quoted},
};

/// Rules in chains that are not called, are called from elsewhere, or have decided before.
pub(super) fn lint(policy: &Policy, subjects: &[Subject<'_>], calls: &Calls<'_>) -> Vec<Mistake> {
    let mut warned: BTreeSet<&ChainRef> = BTreeSet::new();
    let mut mistakes = Vec::new();
    for subject in subjects {
        let chain = &subject.rule.chain;
        // What is wrong with a chain is said at its first annotation.
        let of_chain = if warned.contains(chain) { None } else { not_reached(subject, calls) };
        match of_chain {
            Some(mistake) => {
                warned.insert(chain);
                mistakes.push(mistake);
            }
            None => mistakes.extend(after_verdict(policy, subject, calls)),
        }
    }
    mistakes
}

fn not_reached(subject: &Subject<'_>, calls: &Calls<'_>) -> Option<Mistake> {
    let chain = &subject.rule.chain;
    let hooks = calls.hooks(chain)?;
    let mistake = |code, message: String| Some(Mistake::new(code, subject.rule.chain_span, message));
    let name = quoted(&chain.to_string());
    if hooks.is_empty() {
        return mistake(Code::NotReached, format!("nothing calls the chain {name}"))?
            .help(format!("call it in a chain of a hook, with `jump {}`", chain.name))
            .into();
    }
    if !subject.cgroups.is_empty() && !WITH_CGROUPS.iter().any(|hook| hooks.contains(hook)) {
        let hooks: Vec<&str> = hooks.iter().copied().collect();
        return mistake(
            Code::NotReached,
            format!("the chain {name} is only reached from {}, where no cgroup matches", hooks.join(" and ")),
        )?
        .help("cgroups can be matched in the hooks prerouting, input and output: forwarded packets have no socket")
        .into();
    }
    let (caller, verdict) = calls.too_late(chain)?;
    let caller = quoted(&caller.to_string());
    mistake(
        Code::AfterVerdict,
        format!("{caller} calls the chain {name} after a rule that decides every packet: `{verdict}`"),
    )?
    .help(format!("move that rule behind `jump {}`", chain.name))
    .into()
}

fn after_verdict(policy: &Policy, subject: &Subject<'_>, calls: &Calls<'_>) -> Option<Mistake> {
    if subject.rule.placement != Placement::End {
        return None;
    }
    let (_, verdict) = calls.ruleset.chain(&subject.rule.chain).and_then(Chain::end)?;
    let name = quoted(&subject.rule.chain.to_string());
    let message =
        format!("the chain {name} decides every packet with `{verdict}` before this rule at its end");
    let mistake = Mistake::new(Code::AfterVerdict, subject.rule.chain_span, message);
    let (place, text) = verb(policy, subject);
    Some(
        mistake
            .help(format!("write `insert rule`, or move the `{verdict}` out, behind the call of the chain"))
            .fix(place, text),
    )
}

/// Where the annotation says `add`, and what it has to say instead to put its rule at the beginning.
fn verb(policy: &Policy, subject: &Subject<'_>) -> (Span, &'static str) {
    let chain = subject.rule.chain_span;
    let start = subject.annotation.unit_span.end;
    let between = &policy.sources.file(chain.file).text[start..chain.start];
    let is_verb = |at: usize| {
        let around = between[..at].chars().next_back().is_none_or(char::is_whitespace)
            && between[at + "add".len()..].starts_with(|c: char| c.is_whitespace() || c == '\\');
        around.then_some(at)
    };
    match between.match_indices("add").find_map(|(at, _)| is_verb(at)) {
        Some(at) => (Span { start: start + at, end: start + at + "add".len(), ..chain }, "insert"),
        None => (Span { end: chain.start, ..chain }, "insert rule "),
    }
}
