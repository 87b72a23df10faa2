//! POLICY + FACTS -> DIAGNOSTICS. What nft accepts and what will not do what was meant. Pure.
//!
//! A lint that lacks its facts is silent: those about units need [`Units`], those about what is reached in which order
//! need a [`Ruleset`].

mod amounts;
mod cages;
mod calls;
mod cgroups;
mod containers;
mod elements;
mod established;
mod fills;
mod life;
mod marks;
mod names;
mod order;
mod paths;
mod reach;
pub mod records;
mod reroutes;
mod rules;
pub mod ruleset;
mod selected;
mod shadows;
mod sockets;
mod subject;
#[cfg(test)]
pub(crate) mod testing;
mod waiting;

use litemap::LiteMap;

use crate::{
    gather::{Gather, sort_by_key},
    model::Routing,
    policy::Policy,
    text::Diagnostic,
    units::Units,
};
use calls::Calls;
pub use ruleset::Ruleset;

/// What is known of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The machine's units.
    pub units: Option<&'a Units>,
    /// The ruleset that the files make, or that they are loaded into. What is scnpm's own in it does not count.
    pub ruleset: Option<&'a Ruleset>,
    /// How the machine routes by marks, if it is the one that the files are for.
    pub routing: Option<&'a Routing>,
}

/// All warnings about a policy, in the order of its files. What its comments allow is among them.
pub fn lint(policy: &Policy, facts: Facts<'_>) -> Vec<Diagnostic> {
    let subjects = subject::all(policy);
    let calls = facts.ruleset.map(|ruleset| Calls::of(ruleset, policy, &subjects));
    let none = Units::default();
    let units = facts.units.unwrap_or(&none);
    let (mut diagnostics, mut misspelt) = names::lint(policy, units);
    let of_containers: LiteMap<_, _> = containers::names(policy).into_iter().gather();
    let others = life::names(policy).into_iter().filter(|(id, _)| !of_containers.contains_key(id));
    for (id, diagnostic) in others.chain(of_containers.clone()) {
        misspelt.insert(id);
        diagnostics.push(diagnostic);
    }
    diagnostics.extend(paths::lint(policy, units, &misspelt));
    diagnostics.extend(life::rules(policy, &subjects, facts.units));
    diagnostics.extend(containers::units(policy, units));
    diagnostics.extend(selected::lint(policy, units));
    diagnostics.extend(rules::lint(policy, &subjects));
    diagnostics.extend(waiting::lint(policy, units));
    diagnostics.extend(cages::lint(&subjects, calls.as_ref()));
    diagnostics.extend(order::lint(policy, &subjects, units, calls.as_ref()));
    diagnostics.extend(sockets::lint(policy, &subjects, units, calls.as_ref()));
    if let Some(calls) = &calls {
        diagnostics.extend(established::lint(&subjects, calls));
        diagnostics.extend(reach::lint(policy, &subjects, calls));
        diagnostics.extend(amounts::lint(&subjects, calls));
        diagnostics.extend(records::lint(&subject::records(policy), calls));
        diagnostics.extend(elements::lint(policy, calls));
        diagnostics.extend(marks::lint(policy, &subjects, calls));
        diagnostics.extend(fills::lint(policy, calls));
        diagnostics.extend(reroutes::lint(policy, &subjects, calls, facts.routing));
    }
    diagnostics.extend(fills::without_resolved(policy, units));
    sort_by_key(&mut diagnostics, |diagnostic| (diagnostic.span, diagnostic.code));
    diagnostics
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use nix::{
        sys::time::TimeValLike,
        time::{ClockId, clock_gettime},
    };
    use serde_json::json;

    use super::{
        testing::{file, jump, policy_of, ruleset, units},
        *,
    };

    #[test]
    fn warnings_come_in_the_order_of_the_files() {
        let second =
            "# b.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/c.service\" drop";
        let policy = policy_of(&["# a.service :: add rule inet f c tcp dport 1 drop", second]);
        let spans: Vec<_> =
            lint(&policy, Facts::default()).into_iter().map(|diagnostic| diagnostic.span).collect();
        assert_eq!(spans.len(), 3);
        assert!(spans.is_sorted());
    }

    #[test]
    fn policy_without_annotations_has_nothing_to_judge() {
        let ruleset = ruleset(&[("c", Some(("output", "drop")), vec![])]);
        let policy = policy_of(&["table inet f { }\n"]);
        assert_eq!(lint(&policy, Facts { ruleset: Some(&ruleset), ..Facts::default() }), []);
    }

    #[test]
    fn many_annotations_of_one_chain_take_no_time_to_speak_of() {
        let mut text = String::new();
        for n in 0..2000 {
            writeln!(
                text,
                "# a.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/a.service\" tcp dport {n} accept"
            )
            .unwrap();
        }
        let policy = policy_of(&[&text, &text.replace("accept", "drop")]);
        let units = units(&[("b.service", file(None))], &[]);
        let ruleset =
            ruleset(&[("b", Some(("output", "drop")), vec![json!([jump("c")])]), ("c", None, vec![])]);
        // Of this thread's own, so that other work does not count.
        let used = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().num_milliseconds();
        let begin = used();
        let found = lint(&policy, Facts { units: Some(&units), ruleset: Some(&ruleset), routing: None });
        assert!(found.len() > 4000);
        assert!(used() - begin < 10_000, "{} ms", used() - begin);
    }
}
