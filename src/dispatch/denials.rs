//! What has the kernel itself record who is refused: dynamic sets of cgroup, address, protocol and port, that a chain of the
//! user's calls in front of its last `reject` or `drop`.
//!
//! A packet first comes to the chain of its socket's depth, so that it is recorded under the socket's own cgroup. There, what is
//! recorded already is counted and refreshed. What is new has to come past limits: of each unit or user (its cgroup at level
//! 2), of each cgroup, and of all together. So a flood of one leaves room for the others, and no set ever becomes full: a full one
//! fails to count what it has, and had a bug in the kernel until 6.19. Each set is changed by a rule of its own, so what cannot
//! be recorded changes nothing.

use std::collections::BTreeMap;

use super::{Compiler, Line, beginning, runs::Rule};
use crate::model::{AnnotationId, Direction, Family, PREFIX, SetRef, TableRef};

/// The protocols that are recorded.
const PROTOCOLS: &str = "tcp, udp, sctp, dccp, udplite, icmp, icmpv6";

/// Sockets deeper than this are recorded under the cgroup at this level that they are in.
const DEEPEST: u32 = 10;

/// How long a refusal stays recorded after the last packet, in seconds.
pub const KEPT: u64 = 60 * 60;

/// The elements that a set may have. In [`KEPT`] at most 8,000 + 10 * 3,600 come past [`LIMITS`].
const SIZE: u32 = 65_536;

/// Those of the sets of limits: 5,000 + 5,000 * 10 cgroups in 10 s at most, and as many units or users as root has.
const LIMITED: [(&str, u32, &str, &str); 3] = [
    ("flood", 4_096, "10m", "rate over 2000/second burst 2000 packets"),
    ("cgroups", SIZE, "10s", "rate over 5/second burst 200 packets"),
    ("units", 4_096, "10m", "rate over 1/second burst 500 packets"),
];

/// The limits for all together: of what is looked at, and of what is recorded.
const LIMITS: [(&str, &str); 2] =
    [("all", "rate over 5000/second burst 5000 packets"), ("pace", "rate over 10/second burst 8000 packets")];

/// A set of what is recorded: of packets that a socket sent or was sent, with IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Book {
    /// Whose address and port are recorded: where the packets went, or where they came from and to which port.
    pub direction: Direction,
    /// Whether it is IPv6.
    pub v6: bool,
}

impl Book {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self { direction: Direction::Out, v6: false },
        Self { direction: Direction::Out, v6: true },
        Self { direction: Direction::In, v6: false },
        Self { direction: Direction::In, v6: true },
    ];

    /// The set in a table.
    pub fn set(self, table: &TableRef) -> SetRef {
        SetRef { table: table.clone(), name: self.name().into() }
    }

    fn name(self) -> String {
        object(&format!("{}.{}", self.direction, self.header()))
    }

    fn header(self) -> &'static str {
        if self.v6 { "ip6" } else { "ip" }
    }

    fn is_in(self, family: Family) -> bool {
        family == Family::Inet || (family == Family::Ip6) == self.v6
    }

    /// What is matched, and the key of such a packet without its cgroup: for TCP and the like, and for ICMP, of which the type and
    /// code are where others have the source port. Other protocols do not come so far.
    fn packets(self) -> Vec<(String, String)> {
        let address = if self.direction == Direction::Out { "daddr" } else { "saddr" };
        let icmp = if self.v6 { "icmpv6" } else { "icmp" };
        let key = |port: &str| format!("{} {address} . meta l4proto . th {port}", self.header());
        let mut packets = vec![(format!("meta l4proto != {icmp}"), key("dport"))];
        // The kernel finds no socket for ICMP that comes in.
        if self.direction == Direction::Out {
            packets.push((format!("meta l4proto {icmp}"), key("sport")));
        }
        packets
    }
}

/// Whether a set outlives a load, with what is in it: `set FAMILY TABLE NAME`.
pub(super) fn is_lasting(set: &str) -> bool {
    let name = set.rsplit(' ').next().unwrap_or_default();
    let rest = name.strip_prefix(&object("")).unwrap_or_default();
    Book::ALL.iter().any(|book| book.name() == name) || LIMITED.iter().any(|(limited, ..)| *limited == rest)
}

/// Matches packets that go that way: they have no interface on the other side.
fn comes(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => "iif 0",
        Direction::In => "oif 0",
    }
}

/// The chain of a level.
fn at(level: u32) -> String {
    object(&format!("level{level}"))
}

fn object(name: &str) -> String {
    format!("{PREFIX}denied.{name}")
}

impl Compiler<'_> {
    /// The chains in which refusals are recorded, and what they call.
    pub(super) fn records(&mut self, records: &[Rule<'_>]) {
        let mut tables: BTreeMap<&TableRef, Vec<AnnotationId>> = BTreeMap::new();
        for record in records {
            tables.entry(&record.statement.chain.table).or_default().push(record.id);
        }
        for (table, ids) in tables {
            Recorder { compiler: self, table, ids }.make();
        }
        for record in records {
            let mut line = beginning(record).of(&[record.id]);
            line.write(format!(" jump {}", object("all")));
            self.dispatch.script.lines.push(line);
        }
    }
}

/// What records in a table.
struct Recorder<'a, 'c> {
    compiler: &'a mut Compiler<'c>,
    table: &'a TableRef,
    /// The directives.
    ids: Vec<AnnotationId>,
}

impl Recorder<'_, '_> {
    fn make(&mut self) {
        let books: Vec<Book> = Book::ALL.into_iter().filter(|book| book.is_in(self.table.family)).collect();
        for book in &books {
            let address = if book.v6 { "ipv6_addr" } else { "ipv4_addr" };
            let key = format!("cgroupsv2 . {address} . inet_proto . inet_service");
            self.set(
                &book.name(),
                &format!("type {key}; size {SIZE}; flags dynamic,timeout; timeout {KEPT}s;"),
            );
        }
        for (name, size, timeout, _) in LIMITED {
            let of = format!("type cgroupsv2; size {size}; flags dynamic,timeout; timeout {timeout};");
            self.set(&object(name), &of);
        }
        for (name, rate) in LIMITS {
            self.object("limit", &object(name), &format!(" {{ {rate}; }}"));
        }
        // With it a socket's depth is asked for: nothing is in it, but no socket is compared at a level that it does not have.
        self.set(&object("none"), "type cgroupsv2;");
        (1..=DEEPEST).for_each(|level| self.record(level, &books));
        // The sockets of most services are two levels deep, those of sessions three, those of applications five.
        let [all, deep, deeper, deepest] = ["all", "deep", "deeper", "deepest"].map(object);
        let to = |level: u32| (level, at(level));
        self.branch(&deepest, &[to(10), to(9), to(8), to(7)], &at(6));
        self.branch(&deeper, &[(6, deepest)], &at(5));
        self.branch(&deep, &[(5, deeper), to(4)], &at(3));
        self.branch(&all, &[(3, deep)], &at(2));
    }

    /// Where packets of sockets that have a level go; the first that they have is taken.
    fn branch(&mut self, chain: &str, levels: &[(u32, String)], otherwise: &str) {
        self.object("chain", chain, "");
        for (level, to) in levels {
            self.rule(chain, &format!("socket cgroupv2 level {level} != @{} goto {to}", object("none")));
        }
        self.rule(chain, &format!("goto {otherwise}"));
    }

    /// What becomes of the packets of sockets at a level: what is recorded already is counted, and what is new has to come past the
    /// limits.
    fn record(&mut self, level: u32, books: &[Book]) {
        let [out, inward, new] = ["", ".in", ".new"].map(|end| format!("{}{end}", at(level)));
        [&out, &inward, &new].into_iter().for_each(|chain| self.object("chain", chain, ""));
        self.rule(&out, &format!("{} goto {inward}", comes(Direction::In)));
        self.rule(&new, &format!("meta l4proto != {{ {PROTOCOLS} }} return"));
        for (limit, at) in [("flood", 2), ("all", 0), ("cgroups", level), ("units", 2), ("pace", 0)] {
            let of = LIMITED.iter().find(|(name, ..)| *name == limit);
            let limit = object(limit);
            self.rule(
                &new,
                &match of {
                    Some((.., rate)) => {
                        format!("update @{limit} {{ socket cgroupv2 level {at} limit {rate} }} return")
                    }
                    None => format!("limit name \"{limit}\" return"),
                },
            );
        }
        for book in books {
            let (set, known) = (book.name(), if book.direction == Direction::Out { &out } else { &inward });
            for (packets, key) in book.packets() {
                let key = format!("socket cgroupv2 level {level} . {key}");
                // A look-up that finds something would count the packet, one that must not find it does not.
                self.rule(known, &format!("{packets} {key} != @{set} goto {new}"));
                self.rule(known, &format!("{packets} update @{set} {{ {key} counter }} return"));
                let only = comes(book.direction);
                self.rule(&new, &format!("{only} {packets} update @{set} {{ {key} counter }}"));
            }
        }
        if level == 2 {
            // What has no second level is hardly ever there, so it is not asked for in front.
            [&out, &inward].into_iter().for_each(|chain| self.rule(chain, &format!("goto {}", at(1))));
        }
    }

    fn set(&mut self, name: &str, specification: &str) {
        self.object("set", name, &format!(" {{ {specification} }}"));
    }

    fn object(&mut self, kind: &str, name: &str, specification: &str) {
        self.compiler.make(format!("{kind} {} {name}", self.table), specification, &self.ids);
    }

    fn rule(&mut self, chain: &str, rule: &str) {
        let line = Line::new(format!("add rule {} {chain} {rule}", self.table)).of(&self.ids);
        self.compiler.dispatch.script.lines.push(line);
    }
}
