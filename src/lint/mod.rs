//! POLICY + FACTS -> MISTAKES. What nft takes and what will not do what its author thinks. Pure.
//!
//! A lint that lacks its facts is silent: those about units need [`Units`], those about what is reached in which order
//! need a [`Ruleset`].

pub mod ruleset;
pub mod units;

use crate::policy::{Mistake, Policy};
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
pub fn lint(_policy: &Policy, _facts: Facts<'_>) -> Vec<Mistake> {
    Vec::new()
}
