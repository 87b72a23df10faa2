//! Names for our objects: made from the policy's own words, safe for nft, unique in their table.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ChainRef, PREFIX, TableRef};

const CHAIN_PART: usize = 48;
const UNIT_PART: usize = 56;
const HOST_PART: usize = 100;

/// Gives out names.
#[derive(Debug, Default)]
pub(super) struct Names {
    used: BTreeMap<TableRef, BTreeSet<String>>,
    numbers: BTreeMap<ChainRef, usize>,
}

impl Names {
    /// `scnpm.CHAIN.N`, N counting from 1 in each chain.
    pub(super) fn run(&mut self, chain: &ChainRef) -> String {
        let number = self.numbers.entry(chain.clone()).or_default();
        *number += 1;
        let name = format!("{PREFIX}{}.{number}", safe(&chain.name, CHAIN_PART));
        self.unique(&chain.table, name)
    }

    /// `RUN.UNIT`, or `RUN.active` for a gate.
    pub(super) fn below(&mut self, table: &TableRef, run: &str, name: &str) -> String {
        self.unique(table, format!("{run}.{}", safe(name, UNIT_PART)))
    }

    /// `scnpm.host.ip.NAME` for one host name, `scnpm.hosts.ip` for a list.
    pub(super) fn hosts(&mut self, table: &TableRef, v6: bool, only: Option<&str>) -> String {
        let family = if v6 { "ip6" } else { "ip" };
        let name = match only {
            Some(name) => format!("{PREFIX}host.{family}.{}", safe(name, HOST_PART)),
            None => format!("{PREFIX}hosts.{family}"),
        };
        self.unique(table, name)
    }

    fn unique(&mut self, table: &TableRef, name: String) -> String {
        let used = self.used.entry(table.clone()).or_default();
        let mut free = name.clone();
        let mut copy = 1;
        while !used.insert(free.clone()) {
            copy += 1;
            free = format!("{name}-{copy}");
        }
        free
    }
}

/// An nft identifier holds letters, digits, `/`, `-`, `_` and `.` (nft's `scanner.l`).
fn safe(text: &str, most: usize) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() || "/-_.".contains(c) { c } else { '_' })
        .take(most)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;

    fn chain(name: &str) -> ChainRef {
        ChainRef { table: TableRef { family: Family::Inet, name: "filter".into() }, name: name.into() }
    }

    #[test]
    fn read_like_the_policy() {
        let mut names = Names::default();
        let run = names.run(&chain("vpn.whitelist"));
        assert_eq!(run, "scnpm.vpn.whitelist.1");
        assert_eq!(
            names.below(&chain("x").table, &run, "app-mail.scope"),
            "scnpm.vpn.whitelist.1.app-mail.scope"
        );
        assert_eq!(names.run(&chain("vpn.whitelist")), "scnpm.vpn.whitelist.2");
        assert_eq!(names.run(&chain("out")), "scnpm.out.1");
    }

    #[test]
    fn hostile_unit_names_become_safe_and_stay_apart() {
        let mut names = Names::default();
        let table = chain("c").table;
        let a = names.below(&table, "scnpm.c.1", "a@\"};x.service");
        let b = names.below(&table, "scnpm.c.1", "a:\"};x.service");
        assert_eq!(a, "scnpm.c.1.a____x.service");
        assert_eq!(b, "scnpm.c.1.a____x.service-2");
        let long = names.below(&table, &names_run_long(), &"u".repeat(300));
        assert!(long.len() < 128, "nft's own limit for names");
    }

    fn names_run_long() -> String {
        Names::default().run(&chain(&"c".repeat(250)))
    }
}
