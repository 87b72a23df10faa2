//! POLICY + FACTS -> MISTAKES. What nft takes and what will not do what its author thinks. Pure.
//!
//! A lint that lacks its facts is silent: those about units need [`Units`], those about what is reached in which order
//! need a [`Ruleset`].

mod calls;
mod cgroups;
mod established;
mod names;
mod order;
mod paths;
mod reach;
mod rules;
pub mod ruleset;
mod sockets;
mod subject;
#[cfg(test)]
mod testing;
pub mod units;

use crate::policy::{Mistake, Policy};
use calls::Calls;
pub use ruleset::Ruleset;
pub use units::{UnitFile, Units};

/// What is known of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The machine's units.
    pub units: Option<&'a Units>,
    /// The ruleset that the files make, or that they are loaded into. What is scnpm's own in it does not count.
    pub ruleset: Option<&'a Ruleset>,
}

/// All warnings about a policy, in the order of its files. What its comments allow is among them.
pub fn lint(policy: &Policy, facts: Facts<'_>) -> Vec<Mistake> {
    let subjects = subject::all(policy);
    let calls = facts.ruleset.map(|ruleset| Calls::of(ruleset, policy, &subjects));
    let (mut mistakes, misspelt) = names::lint(policy, facts.units);
    mistakes.extend(paths::lint(policy, facts.units, &misspelt));
    mistakes.extend(rules::lint(policy, &subjects));
    mistakes.extend(order::lint(policy, &subjects));
    mistakes.extend(sockets::lint(&subjects, facts.units, calls.as_ref()));
    if let Some(calls) = &calls {
        mistakes.extend(established::lint(&subjects, calls.ruleset));
        mistakes.extend(reach::lint(policy, &subjects, calls));
    }
    mistakes.sort_by_key(|mistake| (mistake.span, mistake.code));
    mistakes
}
