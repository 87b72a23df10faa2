//! What has the kernel record packets of sockets: dynamic sets of cgroup, address, protocol and port, and a chain that fills them.
//!
//! A packet comes to a chain for the depth of its socket. There, what is recorded already is counted and refreshed; what is new
//! has to come past limits. Each set is changed by a rule of its own, so what cannot be recorded changes nothing.

use crate::model::{Direction, Family, SetRef, TableRef};

/// Sockets deeper than this are recorded under the cgroup at this level that they are in.
const DEEPEST: u32 = 10;

/// The protocols that have ports.
const WITH_PORTS: &str = "tcp, udp, sctp, dccp, udplite";

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

    /// Its name, behind the prefix.
    pub(super) fn name(self) -> String {
        format!("{}.{}", self.direction, self.header())
    }

    fn header(self) -> &'static str {
        if self.v6 { "ip6" } else { "ip" }
    }

    fn is_in(self, family: Family) -> bool {
        family == Family::Inet || (family == Family::Ip6) == self.v6
    }

    /// What is matched, and the key of such a packet without its cgroup. ICMP has its type and code where others have the source
    /// port. With `is_whole` also for protocols without ports, of which what follows their header's first bytes means nothing.
    fn packets(self, is_whole: bool) -> Vec<(String, String)> {
        let (address, only) = match self.direction {
            Direction::Out => ("daddr", "iif 0"),
            Direction::In => ("saddr", "oif 0"),
        };
        let key = |port: &str| format!("{} {address} . meta l4proto . th {port}", self.header());
        let mut packets = vec![(format!("{only} meta l4proto {{ {WITH_PORTS} }}"), key("dport"))];
        // The kernel finds no socket for anything else that comes in.
        if self.direction == Direction::Out {
            let protocol = if self.v6 { "icmpv6" } else { "icmp" };
            packets.push((format!("{only} meta l4proto {protocol}"), key("sport")));
            if is_whole {
                packets
                    .push((format!("{only} meta l4proto != {{ {WITH_PORTS}, icmp, icmpv6 }}"), key("dport")));
            }
        }
        packets
    }
}

/// A limit for what is new.
#[derive(Debug)]
pub(super) struct Limit {
    /// Its name, behind the prefix.
    pub name: &'static str,
    /// For whom it is one.
    pub of: Of,
    /// What is too much.
    pub rate: &'static str,
}

/// For whom a limit is one: for all together, or for each of those in a set of so many that are forgotten after a while.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// All together.
    All,
    /// Each unit or user, by the cgroup at level 2.
    Unit { size: u32, timeout: &'static str },
    /// Each cgroup.
    Cgroup { size: u32, timeout: &'static str },
}

/// Under which cgroups a packet is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Levels {
    /// The socket's own.
    Own,
    /// All that the socket is in.
    All,
}

/// What records in a table.
#[derive(Debug)]
pub(super) struct Recorder<'a> {
    pub table: &'a TableRef,
    /// What all names begin with.
    pub prefix: String,
    /// The elements that a set may have.
    pub size: u32,
    /// How long each stays after the last packet, in seconds.
    pub kept: u64,
    /// In the order in which they are asked.
    pub limits: &'static [Limit],
    pub levels: Levels,
    /// Whether protocols without ports are recorded, too.
    pub is_whole: bool,
}

/// What makes a recorder.
#[derive(Debug)]
pub(super) enum Part {
    /// A set, limit or chain, and what it is to be.
    Object(String, String),
    /// A command that adds a rule.
    Rule(String),
}

impl Recorder<'_> {
    /// The set of a book.
    pub(super) fn set(&self, book: Book) -> SetRef {
        SetRef { table: self.table.clone(), name: self.named(&book.name()).into() }
    }

    /// The chain that records packets.
    pub(super) fn chain(&self) -> String {
        self.named("all")
    }

    /// All that there is to be made, in this order.
    pub(super) fn parts(&self) -> Vec<Part> {
        let books: Vec<Book> = Book::ALL.into_iter().filter(|book| book.is_in(self.table.family)).collect();
        let mut parts = Vec::new();
        for book in &books {
            let address = if book.v6 { "ipv6_addr" } else { "ipv4_addr" };
            let key = format!("cgroupsv2 . {address} . inet_proto . inet_service");
            let (size, kept) = (self.size, self.kept);
            let of = format!(" {{ type {key}; size {size}; flags dynamic,timeout; timeout {kept}s; }}");
            parts.push(self.object("set", &book.name(), of));
        }
        for Limit { name, of, rate } in self.limits {
            parts.push(match of {
                Of::All => self.object("limit", name, format!(" {{ {rate}; }}")),
                Of::Unit { size, timeout } | Of::Cgroup { size, timeout } => {
                    let of = format!(
                        " {{ type cgroupsv2; size {size}; flags dynamic,timeout; timeout {timeout}; }}"
                    );
                    self.object("set", name, of)
                }
            });
        }
        // With it a socket's depth is asked for: nothing is in it, but no socket is compared at a level that it does not have.
        parts.push(self.object("set", "none", " { type cgroupsv2; }".to_owned()));
        let levels: Vec<(u32, String)> =
            (1..=DEEPEST).rev().map(|level| (level, format!("level{level}"))).collect();
        for (level, chain) in &levels {
            parts.push(self.object("chain", chain, String::new()));
            self.record(*level, chain, &books, &mut parts);
        }
        parts.push(self.object("chain", "all", String::new()));
        let call = if self.levels == Levels::Own { "goto" } else { "jump" };
        for (level, chain) in &levels {
            let (none, chain) = (self.named("none"), self.named(chain));
            parts.push(self.rule("all", &format!("socket cgroupv2 level {level} != @{none} {call} {chain}")));
        }
        parts
    }

    /// What becomes of the packets of sockets at a level.
    fn record(&self, level: u32, chain: &str, books: &[Book], parts: &mut Vec<Part>) {
        let of_book = |book: &Book| {
            let set = self.named(&book.name());
            let packets = book.packets(self.is_whole).into_iter();
            packets.map(move |(packets, key)| {
                (set.clone(), packets, format!("socket cgroupv2 level {level} . {key}"))
            })
        };
        let kinds: Vec<(String, String, String)> = books.iter().flat_map(of_book).collect();
        for (set, packets, key) in &kinds {
            let rule = format!("{packets} {key} @{set} update @{set} {{ {key} counter }} return");
            parts.push(self.rule(chain, &rule));
        }
        for Limit { name, of, rate } in self.limits {
            let limit = self.named(name);
            let at = match of {
                Of::All => None,
                Of::Unit { .. } => Some(2),
                Of::Cgroup { .. } => Some(level),
            };
            let rule = match at {
                Some(at) => format!("update @{limit} {{ socket cgroupv2 level {at} limit {rate} }} return"),
                None => format!("limit name \"{limit}\" return"),
            };
            parts.push(self.rule(chain, &rule));
        }
        for (set, packets, key) in &kinds {
            parts.push(self.rule(chain, &format!("{packets} update @{set} {{ {key} counter }}")));
        }
    }

    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn object(&self, kind: &str, name: &str, specification: String) -> Part {
        Part::Object(format!("{kind} {} {}", self.table, self.named(name)), specification)
    }

    fn rule(&self, chain: &str, rule: &str) -> Part {
        Part::Rule(format!("add rule {} {} {rule}", self.table, self.named(chain)))
    }
}
