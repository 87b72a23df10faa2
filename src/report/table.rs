//! The table of units.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

use crate::{
    model::{CgroupPath, UnitName},
    policy::{Annotation, Part, Policy, Statement},
};

/// A unit, and what annotations say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UnitRow {
    /// Its name.
    pub unit: String,
    /// The chains that its rules are for.
    pub chains: BTreeSet<String>,
    /// The sets and maps that its elements are for.
    pub sets: BTreeSet<String>,
    /// The levels of its cgroup matches.
    pub levels: BTreeSet<u32>,
    /// Whether it runs now: a cgroup of its annotations exists, or one of its name.
    pub runs: bool,
    /// How many annotations it has.
    pub rules: usize,
}

impl UnitRow {
    /// The units of a policy, in the order of the files.
    pub fn all(
        policy: &Policy,
        exists: &dyn Fn(&CgroupPath) -> bool,
        runs: impl Fn(&Annotation) -> bool,
    ) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        let mut known: BTreeMap<&UnitName, usize> = BTreeMap::new();
        for (_, annotation) in policy.iter() {
            let index = *known.entry(&annotation.unit).or_insert_with(|| {
                rows.push(Self {
                    unit: annotation.unit.0.to_string(),
                    runs: runs(annotation),
                    ..Self::default()
                });
                rows.len() - 1
            });
            rows[index].count(&annotation.statement, exists);
        }
        rows
    }

    fn count(&mut self, statement: &Statement, exists: &dyn Fn(&CgroupPath) -> bool) {
        self.rules += 1;
        match statement {
            Statement::Rule(rule) => {
                self.chains.insert(rule.chain.to_string());
                self.levels.extend(rule.body.iter().filter_map(|part| match part {
                    Part::Cgroup(cgroup) => Some(cgroup.level),
                    Part::Verbatim(_) | Part::Units(_) => None,
                }));
                self.runs |= rule.paths().any(exists);
            }
            Statement::Element(element) => {
                self.sets.insert(element.set.to_string());
                self.runs |= element.elements.iter().any(|(path, ..)| exists(path));
            }
        }
    }

    fn cells(&self) -> [String; 5] {
        let places: Vec<&str> = self.chains.iter().chain(&self.sets).map(String::as_str).collect();
        let levels: Vec<String> = self.levels.iter().map(u32::to_string).collect();
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        [
            self.unit.replace(char::is_control, "\u{fffd}"),
            places.join(", "),
            or_dash(levels.join(", ")),
            if self.runs { "yes" } else { "no" }.to_owned(),
            self.rules.to_string(),
        ]
    }
}

/// Units one below the other, in columns.
pub(super) struct Table<'a>(pub(super) &'a [UnitRow]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["UNIT", "CHAINS AND SETS", "LEVEL", "RUNS", "RULES"].map(str::to_owned);
        let rows: Vec<[String; 5]> = std::iter::once(head).chain(self.0.iter().map(UnitRow::cells)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let [unit, places, level, runs] = [0, 1, 2, 3].map(width);
        rows.iter()
            .try_for_each(|[a, b, c, d, e]| writeln!(f, "{a:unit$}  {b:places$}  {c:level$}  {d:runs$}  {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            UnitRow {
                unit: "postfix.service".to_owned(),
                chains: ["inet filter services".to_owned()].into(),
                levels: [2].into(),
                runs: true,
                rules: 12,
                ..UnitRow::default()
            },
            UnitRow {
                unit: "ä\n.scope".to_owned(),
                sets: ["ip f s".to_owned()].into(),
                rules: 1,
                ..UnitRow::default()
            },
        ];
        assert_eq!(
            Table(&rows).to_string(),
            "\
UNIT             CHAINS AND SETS       LEVEL  RUNS  RULES
postfix.service  inet filter services  2      yes   12
ä\u{fffd}.scope         ip f s                -      no    1
"
        );
    }
}
