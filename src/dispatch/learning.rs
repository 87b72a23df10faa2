//! What has the kernel record for a while what units do: a table that belongs to a process, and goes with it.
//!
//! Nothing in it is named after us: a daemon that runs beside it has nothing to repair.

use super::{
    Script,
    recorder::{Book, Levels, Limit, Of, Part, Recorder},
};
use crate::model::{SetRef, TableRef};

/// How long what was recorded is kept after the last packet, in seconds: a month.
const KEPT: u64 = 30 * 24 * 60 * 60;

/// The elements that a set may have. Not so many come past [`LIMITS`].
const SIZE: u32 = 131_072;

/// The most that is recorded, and of it for one unit or user, each packet once for each cgroup that its socket is in. What one has
/// left is not given to it again as long as it is seen within 10 min.
pub const MOST: usize = 120_000;

/// See [`MOST`].
pub const MOST_OF_ONE: usize = 40_000;

const LIMITS: [Limit; 2] = [
    Limit {
        name: "units",
        of: Of::Unit { size: SIZE, timeout: "10m" },
        rate: "rate over 1/hour burst 40000 packets",
    },
    Limit { name: "room", of: Of::All, rate: "rate over 1/hour burst 120000 packets" },
];

fn recorder(table: &TableRef) -> Recorder<'_> {
    Recorder {
        table,
        prefix: "learn.".to_owned(),
        size: SIZE,
        kept: KEPT,
        limits: &LIMITS,
        levels: Levels::All,
        is_whole: true,
    }
}

/// The set in which packets are recorded.
pub fn set(book: Book, table: &TableRef) -> SetRef {
    recorder(table).set(book)
}

/// Makes the table. What goes out is seen as it is behind a translation of its destination, and before filters at their usual
/// priorities refuse it. Of TCP only what begins a connection is recorded, of all else what conntrack has not seen answered.
pub fn script(table: &TableRef, loopback: bool) -> Script {
    let mut commands = vec![format!("create table {table} {{ flags owner; }}")];
    for part in recorder(table).parts() {
        commands.push(match part {
            Part::Object(object, specification) => format!("add {object}{specification}"),
            Part::Rule(rule) => rule,
        });
    }
    let all = recorder(table).chain();
    for (hook, interface) in [("output", "oifname"), ("input", "iifname")] {
        commands.push(format!("add chain {table} {hook} {{ type filter hook {hook} priority -99; }}"));
        let rules = [
            (!loopback).then(|| format!("{interface} lo return")),
            Some("meta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn return".to_owned()),
            Some("meta l4proto != tcp ct state != { new, untracked } return".to_owned()),
            Some(format!("jump {all}")),
        ];
        commands.extend(rules.into_iter().flatten().map(|rule| format!("add rule {table} {hook} {rule}")));
    }
    Script::of(commands.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, PREFIX};

    #[test]
    fn nothing_in_the_table_is_named_as_if_it_were_the_daemons() {
        let table = TableRef { family: Family::Inet, name: "scnpm.learn.7".into() };
        let script = script(&table, false).to_string();
        let others = script.replace(&table.to_string(), "");
        assert!(!others.contains(PREFIX) && script.contains("flags owner"), "{others}");
    }
}
