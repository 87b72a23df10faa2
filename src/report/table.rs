//! Tables, and that of the units of a policy.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    iter,
};

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::{
    gather::Ordered,
    model::{UnitName, printable},
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
    pub levels: Vec<u32>,
    /// Whether it runs now: a cgroup of its annotations exists, or one of its name.
    pub runs: bool,
    /// How many annotations it has.
    pub rules: usize,
}

impl UnitRow {
    /// The units of a policy, in the order of the files.
    pub fn all(policy: &Policy, runs: impl Fn(&Annotation) -> bool) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        let mut known: BTreeMap<&UnitName, usize> = BTreeMap::new();
        for annotation in policy.of_units() {
            let index = *known.entry(&annotation.unit).or_insert_with(|| {
                rows.push(Self { unit: annotation.unit.0.to_string(), ..Self::default() });
                rows.len() - 1
            });
            let row = &mut rows[index];
            row.rules += 1;
            row.runs = row.runs || runs(annotation);
            match &annotation.statement {
                Statement::Rule(rule) => {
                    row.chains.insert(rule.chain.to_string());
                    let levels = rule.body.iter().filter_map(Part::cgroup).map(|one| one.level);
                    levels.for_each(|level| row.levels.put(level));
                }
                Statement::Element(element) => drop(row.sets.insert(element.set.to_string())),
            }
        }
        rows
    }

    fn cells(&self) -> [String; 5] {
        let places: Vec<&str> = self.chains.iter().chain(&self.sets).map(String::as_str).collect();
        let levels: Vec<String> = self.levels.iter().map(u32::to_string).collect();
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        [
            printable(&self.unit),
            places.join(", "),
            or_dash(levels.join(", ")),
            if self.runs { "yes" } else { "no" }.to_owned(),
            self.rules.to_string(),
        ]
    }
}

pub(super) fn write(rows: &[UnitRow], out: &mut dyn Write) -> io::Result<()> {
    let head = ["UNIT", "CHAINS AND SETS", "LEVEL", "RUNS", "RULES"];
    write_columns(head, rows.iter().map(UnitRow::cells), out)
}

/// Writes lines one below the other, in columns as wide as what is in them.
pub(super) fn write_columns<const COLUMNS: usize>(
    head: [&str; COLUMNS],
    lines: impl Iterator<Item = [String; COLUMNS]>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let lines: Vec<_> = iter::once(head.map(str::to_owned)).chain(lines).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS - 1).map(width).collect();
    for line in &lines {
        for (cell, width) in line.iter().zip(&widths) {
            write!(out, "{cell}{:1$}  ", "", width - cell.width())?;
        }
        writeln!(out, "{}", line[COLUMNS - 1])?;
    }
    Ok(())
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
        let mut out = Vec::new();
        write(&rows, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
UNIT             CHAINS AND SETS       LEVEL  RUNS  RULES
postfix.service  inet filter services  2      yes   12
ä\u{fffd}.scope         ip f s                -      no    1
"
        );
    }
}
