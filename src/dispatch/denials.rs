//! What has the kernel itself record who is refused: dynamic sets of cgroup, address, protocol and port, that a chain of the
//! user's calls in front of its last `reject` or `drop`.
//!
//! A packet first comes to the chain of its socket's depth, so that it is recorded under the socket's own cgroup. There, what is
//! recorded already is counted and refreshed. What is new has to come past limits: of each unit or user (its cgroup at level
//! 2), of each cgroup, and of all together. So a flood of one leaves room for the others, and no set ever becomes full: a full one
//! fails to count what it has, and had a bug in the kernel until 6.19. Each set is changed by a rule of its own, so what cannot
//! be recorded changes nothing.

use std::collections::BTreeMap;

use super::{
    Compiler, Line, beginning,
    recorder::{Book, Levels, Limit, Of, Part, Recorder},
    runs::Rule,
};
use crate::model::{AnnotationId, PREFIX, SetRef, TableRef};

/// How long a refusal stays recorded after the last packet, in seconds.
pub const KEPT: u64 = 60 * 60;

/// The elements that a set may have. In [`KEPT`] at most 8,000 + 10 * 3,600 come past [`LIMITS`].
const SIZE: u32 = 65_536;

/// The sets of limits have room for the 5,000 + 5,000 * 10 cgroups that come in 10 s at most, and for as many units or users as root
/// has.
const LIMITS: [Limit; 5] = [
    Limit {
        name: "flood",
        of: Of::Unit { size: 4_096, timeout: "10m" },
        rate: "rate over 2000/second burst 2000 packets",
    },
    Limit { name: "all", of: Of::All, rate: "rate over 5000/second burst 5000 packets" },
    Limit {
        name: "cgroups",
        of: Of::Cgroup { size: SIZE, timeout: "10s" },
        rate: "rate over 1/second burst 200 packets",
    },
    Limit {
        name: "units",
        of: Of::Unit { size: 4_096, timeout: "10m" },
        rate: "rate over 2/second burst 1000 packets",
    },
    Limit { name: "pace", of: Of::All, rate: "rate over 10/second burst 8000 packets" },
];

/// What records refusals in a table.
fn recorder(table: &TableRef) -> Recorder<'_> {
    let prefix = format!("{PREFIX}denied.");
    Recorder { table, prefix, size: SIZE, kept: KEPT, limits: &LIMITS, levels: Levels::Own, is_whole: false }
}

/// The set of a table in which refusals are recorded.
pub fn set(book: Book, table: &TableRef) -> SetRef {
    recorder(table).set(book)
}

/// Whether a set outlives a load, with what is in it: `set FAMILY TABLE NAME`.
pub(super) fn is_lasting(set: &str) -> bool {
    let name = set.rsplit(' ').next().unwrap_or_default();
    let Some(rest) = name.strip_prefix(&format!("{PREFIX}denied.")) else { return false };
    Book::ALL.iter().any(|book| book.name() == rest)
        || LIMITS.iter().any(|limit| limit.of != Of::All && limit.name == rest)
}

impl Compiler<'_> {
    /// The chains in which refusals are recorded, and what they call.
    pub(super) fn records(&mut self, records: &[Rule<'_>]) {
        let mut tables: BTreeMap<&TableRef, Vec<AnnotationId>> = BTreeMap::new();
        for record in records {
            tables.entry(&record.statement.chain.table).or_default().push(record.id);
        }
        for (table, ids) in tables {
            for part in recorder(table).parts() {
                match part {
                    Part::Object(object, specification) => self.make(object, &specification, &ids),
                    Part::Rule(rule) => self.dispatch.script.lines.push(Line::new(rule).of(&ids)),
                }
            }
        }
        for record in records {
            let mut line = beginning(record).of(&[record.id]);
            line.write(format!(" jump {}", recorder(&record.statement.chain.table).chain()));
            self.dispatch.script.lines.push(line);
        }
    }
}
