//! A ruleset as libnftables lists it in JSON (libnftables-json(5)), as far as lints look at it.

use serde_json::Value;

/// Chains and their rules.
#[derive(Debug, Clone, Default)]
pub struct Ruleset {}

impl Ruleset {
    /// From the listing of a whole ruleset, with or without the elements of its sets.
    pub fn of(_listing: &Value) -> Self {
        Self {}
    }
}
