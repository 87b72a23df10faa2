//! W050 and W051: cages that let something past the rest of the policy, and cages that nothing closes.
//!
//! A cage is the annotations for a selector `cage:NAME`. What closes it refuses all that comes so far; the chain that this
//! stands in is the cage's.

use std::collections::BTreeSet;

use super::{
    calls::Calls,
    ruleset::{Chain, Rule},
    subject::Subject,
};
use crate::{
    gather::Gather,
    model::ChainRef,
    policy::Placement,
    text::{Code, Diagnostic, diagnostic::quoted},
    units::selector::{Selector, Which, Whose},
};

/// How many calls one chain is looked through in front of.
const DEEPEST: usize = 16;

/// What is wrong with each cage, and with the places where their chains are called.
pub(super) fn lint(subjects: &[Subject<'_>], calls: Option<&Calls<'_>>) -> Vec<Diagnostic> {
    let of_cages: Vec<&Subject<'_>> =
        subjects.iter().filter(|subject| cages(subject).next().is_some()).collect();
    let closing: Vec<&Subject<'_>> =
        of_cages.iter().copied().filter(|subject| closes(subject, calls)).collect();
    let chains: BTreeSet<&ChainRef> = closing.iter().map(|subject| &subject.rule.chain).gather();
    let mut diagnostics = Vec::new();
    let mut told: BTreeSet<String> = BTreeSet::new();
    for subject in &of_cages {
        let open = cages(subject).find(|cage| !closing.iter().any(|closing| is_for(closing, cage)));
        if let Some(cage) = open.filter(|cage| told.insert(cage.to_string())) {
            diagnostics.push(without_end(subject, cage));
        }
        if let Some(("accept", span)) = subject.verdict.filter(|_| chains.contains(&subject.rule.chain)) {
            let message = "this `accept` lets packets past the rest of the policy: a cage is to narrow it";
            diagnostics.push(
                Diagnostic::new(Code::WideCage, span, message)
                    .help("write `return`: the packets go on to the rules for everybody")
                    .fix(span, "return"),
            );
        }
    }
    if let Some(calls) = calls {
        let mut told: BTreeSet<&ChainRef> = BTreeSet::new();
        let first = closing.iter().filter(|subject| told.insert(&subject.rule.chain));
        diagnostics.extend(first.filter_map(|subject| called_late(subject, calls)));
    }
    diagnostics
}

fn cages<'a>(subject: &Subject<'a>) -> impl Iterator<Item = &'a Selector> + use<'a> {
    subject.annotation.selectors.0.iter().filter(|selector| matches!(selector.which, Which::Cage(_)))
}

/// Whether an annotation is for all whom a selector of a cage selects, as far as is known.
fn is_for(subject: &Subject<'_>, cage: &Selector) -> bool {
    let is_user = !matches!(cage.whose, Whose::System | Whose::Anybody);
    let has = |whose: &Whose| {
        *whose == cage.whose || *whose == Whose::Anybody || is_user && *whose == Whose::AnyUser
    };
    subject.annotation.selectors.0.iter().any(|one| one.which == cage.which && has(&one.whose))
}

/// Whether it refuses every packet of its units.
fn closes(subject: &Subject<'_>, calls: Option<&Calls<'_>>) -> bool {
    let is_for_all = subject.conditions.first().is_none_or(|first| first.is("log"));
    let refuses = match subject.verdict {
        Some(("drop" | "reject", _)) => true,
        Some(("jump" | "goto", _)) => calls.is_none_or(|calls| calls_refusal(subject, calls)),
        _ => false,
    };
    is_for_all && refuses && subject.matches_cgroup()
}

/// Whether the chain that it calls ends with a refusal. Of `reject with tcp reset` in front of another one the last counts.
fn calls_refusal(subject: &Subject<'_>, calls: &Calls<'_>) -> bool {
    let target = subject.tokens.iter().skip_while(|token| !token.is("jump") && !token.is("goto")).nth(1);
    let name = target.map_or("", |token| &*token.text);
    let chain = ChainRef { table: subject.rule.chain.table.clone(), name: name.into() };
    let end = calls.ruleset.chain(&chain).and_then(Chain::end);
    end.is_some_and(|(_, verdict)| matches!(verdict, "drop" | "reject"))
}

fn without_end(subject: &Subject<'_>, cage: &Selector) -> Diagnostic {
    let chain = &subject.rule.chain;
    let which = cage.which.to_string();
    let name = quoted(which.trim_start_matches("cage:"));
    let message = format!("nothing closes the cage {name}: what it does not name is not refused");
    Diagnostic::new(Code::OpenCage, subject.annotation.unit_span, message).help(format!(
        "write `# {cage} :: add rule {chain} socket cgroupv2 unit reject` as its last annotation"
    ))
}

/// That something accepts packets before they come to the cage.
fn called_late(subject: &Subject<'_>, calls: &Calls<'_>) -> Option<Diagnostic> {
    let chain = &subject.rule.chain;
    let own = calls.ruleset.chain(chain)?;
    let before = if subject.rule.placement == Placement::Beginning { &[][..] } else { &own.rules };
    let place = if before.iter().any(|rule| accepts(rule, calls, 0)) {
        chain
    } else {
        accepted_before(chain, calls, &mut BTreeSet::new())?
    };
    let message = format!(
        "{} accepts packets before they come to the cage: for those it is none",
        quoted(&place.to_string())
    );
    let help = format!(
        "call the chain {} first, with `jump {}` in front of every `accept`",
        quoted(&chain.to_string()),
        chain.name
    );
    Some(Diagnostic::new(Code::WideCage, subject.rule.chain_span, message).help(help))
}

/// The chain that accepts something in front of a call that leads to this one.
fn accepted_before<'a>(
    chain: &ChainRef,
    calls: &Calls<'a>,
    seen: &mut BTreeSet<&'a ChainRef>,
) -> Option<&'a ChainRef> {
    let callers: Vec<(&'a ChainRef, usize)> = calls.callers(chain).collect();
    callers.into_iter().find_map(|(caller, at)| {
        let rules = &calls.ruleset.chain(caller)?.rules;
        match rules.iter().take(at).any(|rule| accepts(rule, calls, 0)) {
            true => Some(caller),
            false => seen.insert(caller).then(|| accepted_before(caller, calls, seen)).flatten(),
        }
    })
}

/// Whether a rule, or what it calls, accepts something.
fn accepts(rule: &Rule, calls: &Calls<'_>, depth: usize) -> bool {
    let called = rule.calls.iter().filter_map(|chain| calls.ruleset.chain(chain));
    rule.accepts
        || rule.accepts_established
        || depth < DEEPEST
            && called.flat_map(|chain| &chain.rules).any(|rule| accepts(rule, calls, depth + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Facts, Ruleset,
        testing::{established, jump, mended, messages, port, ruleset, verdict, with_ruleset},
    };
    use serde_json::{Value, json};

    const ALLOWED: &str = "# user:cage:build :: add rule inet f c socket cgroupv2 unit tcp dport 25 return\n";
    const END: &str = "# user:cage:build :: add rule inet f c socket cgroupv2 unit reject\n";

    fn first(before: Vec<Value>) -> Ruleset {
        let rules = before.into_iter().chain([json!([jump("c")]), established()]).collect();
        ruleset(&[
            ("b", Some(("output", "accept")), rules),
            ("c", None, vec![]),
            ("refusing", None, vec![json!([verdict("drop")])]),
            ("passing", None, vec![json!([port(), verdict("drop")])]),
            ("accepting", None, vec![json!([port(), verdict("accept")])]),
        ])
    }

    fn said(code: Code, text: &str, ruleset: &Ruleset) -> Vec<String> {
        messages(code, text, with_ruleset(ruleset))
    }

    #[test]
    fn cage_that_narrows_and_is_closed_is_right() {
        let ends = [
            END.to_owned(),
            END.replace("reject", "jump refusing"),
            END.replace("reject", "log prefix \"x\" goto refusing"),
        ];
        for end in ends {
            let text = format!("{ALLOWED}{end}");
            for code in [Code::WideCage, Code::OpenCage] {
                assert_eq!(said(code, &text, &first(vec![])), [] as [&str; 0], "{text}");
            }
        }
        let another = "# user:cage:build :: add rule inet f other socket cgroupv2 unit tcp dport 25 accept\n";
        assert_eq!(messages(Code::WideCage, &format!("{END}{another}"), Facts::default()), [] as [&str; 0]);
        let of_alice = ALLOWED.replace("user:", "alice:");
        assert_eq!(messages(Code::OpenCage, &format!("{of_alice}{END}"), Facts::default()), [] as [&str; 0]);
    }

    #[test]
    fn cage_that_nothing_closes_is_told_once() {
        let told = ["nothing closes the cage `build`: what it does not name is not refused"];
        let ends = [
            "",
            &END.replace("reject", "jump passing"),
            &END.replace("unit reject", "unit tcp dport 25 reject"),
        ];
        for end in ends {
            assert_eq!(
                said(Code::OpenCage, &format!("{ALLOWED}{ALLOWED}{end}"), &first(vec![])),
                told,
                "{end}"
            );
        }
        let of_alice = END.replace("user:", "alice:");
        assert_eq!(messages(Code::OpenCage, &format!("{ALLOWED}{of_alice}"), Facts::default()), told);
    }

    #[test]
    fn accept_in_a_cage_is_told_and_mended() {
        let text = format!("{}{END}", ALLOWED.replace("return", "accept"));
        assert_eq!(mended(Code::WideCage, &text, Facts::default()), format!("{ALLOWED}{END}"));
    }

    #[test]
    fn cage_behind_something_that_accepts_is_told() {
        let told = ["`inet f b` accepts packets before they come to the cage: for those it is none"];
        for before in [established(), json!([port(), verdict("accept")]), json!([jump("accepting")])] {
            assert_eq!(said(Code::WideCage, END, &first(vec![before.clone()])), told, "{before}");
        }
        for before in [json!([port(), verdict("drop")]), json!([jump("refusing")])] {
            assert_eq!(said(Code::WideCage, END, &first(vec![before.clone()])), [] as [&str; 0], "{before}");
        }
    }
}
