//! What has the kernel record packets of sockets: dynamic sets of cgroup, address, protocol and port, and a chain that fills them.
//!
//! A packet comes to a chain for the depth of its socket. There, what is recorded already is counted and refreshed; what is new
//! has to come past limits. Each set is changed by a rule of its own, so what cannot be recorded changes nothing.

use crate::model::{Direction, SetRef, TableRef, WITH_PORTS};

/// Sockets deeper than this are recorded under the cgroup at this level that they are in.
const DEEPEST: u32 = 10;

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

    /// What is matched, and the key of such a packet without its cgroup. ICMP has its type and code where others have the source
    /// port. With `is_whole` also for protocols without ports, of which what follows their header's first bytes means nothing.
    fn packets(self, is_whole: bool) -> Vec<(String, String)> {
        let address = if self.direction == Direction::Out { "daddr" } else { "saddr" };
        let icmp = if self.v6 { "icmpv6" } else { "icmp" };
        let ports = match is_whole {
            true => format!("meta l4proto {{ {} }}", with_ports()),
            // What has neither is left out later, and this is faster.
            false => format!("meta l4proto != {icmp}"),
        };
        let key = |port: &str| format!("{} {address} . meta l4proto . th {port}", self.header());
        let mut packets = vec![(ports, key("dport"))];
        // The kernel finds no socket for anything else that comes in.
        if self.direction == Direction::Out {
            packets.push((format!("meta l4proto {icmp}"), key("sport")));
            if is_whole {
                packets.push((format!("meta l4proto != {{ {}, icmp, icmpv6 }}", with_ports()), key("dport")));
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

/// The protocols that have ports, as nft lists them.
fn with_ports() -> String {
    WITH_PORTS.join(", ")
}

/// The chain of a level.
fn at(level: u32) -> String {
    format!("level{level}")
}

/// Matches packets that go that way: they have no interface on the other side.
fn comes(direction: Direction) -> &'static str {
    match direction {
        Direction::Out => "iif 0",
        Direction::In => "oif 0",
    }
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
        let books: Vec<Book> = Book::ALL.into_iter().filter(|book| self.table.family.has(book.v6)).collect();
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
        (1..=DEEPEST).for_each(|level| self.record(level, &books, &mut parts));
        match self.levels {
            Levels::Own => self.find_own(&mut parts),
            Levels::All => {
                parts.push(self.object("chain", "all", String::new()));
                parts.extend((1..=DEEPEST).rev().map(|level| self.branch("all", level, "jump", &at(level))));
            }
        }
        parts
    }

    /// Finds the chain for the depth of a socket. Those of most services are two levels deep, of sessions three, of applications
    /// five.
    fn find_own(&self, parts: &mut Vec<Part>) {
        let to = |level: u32| (level, at(level));
        let deep = |chain: &str, level: u32| (level, chain.to_owned());
        for (chain, levels, otherwise) in [
            ("deepest", vec![to(10), to(9), to(8), to(7)], at(6)),
            ("deeper", vec![deep("deepest", 6)], at(5)),
            ("deep", vec![deep("deeper", 5), to(4)], at(3)),
            // What has no second level is hardly ever there, so that is not asked for in front.
            ("all", vec![deep("deep", 3)], at(2)),
        ] {
            parts.push(self.object("chain", chain, String::new()));
            parts.extend(levels.iter().map(|(level, to)| self.branch(chain, *level, "goto", to)));
            parts.push(self.rule(chain, &format!("goto {}", self.named(&otherwise))));
        }
        for end in ["", ".in"] {
            parts.push(self.rule(&format!("{}{end}", at(2)), &format!("goto {}", self.named(&at(1)))));
        }
    }

    /// Where packets of sockets that have a level go.
    fn branch(&self, chain: &str, level: u32, call: &str, to: &str) -> Part {
        let (none, to) = (self.named("none"), self.named(to));
        self.rule(chain, &format!("socket cgroupv2 level {level} != @{none} {call} {to}"))
    }

    /// What becomes of the packets of sockets at a level: what is recorded already is counted, and what is new has to come past the
    /// limits.
    fn record(&self, level: u32, books: &[Book], parts: &mut Vec<Part>) {
        let [out, inward, new] = ["", ".in", ".new"].map(|end| format!("{}{end}", at(level)));
        parts.extend([&out, &inward, &new].map(|chain| self.object("chain", chain, String::new())));
        parts.push(self.rule(&out, &format!("{} goto {}", comes(Direction::In), self.named(&inward))));
        if !self.is_whole {
            parts.push(
                self.rule(&new, &format!("meta l4proto != {{ {}, icmp, icmpv6 }} return", with_ports())),
            );
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
            parts.push(self.rule(&new, &rule));
        }
        for book in books {
            let set = self.named(&book.name());
            let known = if book.direction == Direction::Out { &out } else { &inward };
            for (packets, key) in book.packets(self.is_whole) {
                let key = format!("socket cgroupv2 level {level} . {key}");
                // A look-up that finds something would count the packet, one that must not find it does not.
                let is_new = format!("{packets} {key} != @{set} goto {}", self.named(&new));
                parts.push(self.rule(known, &is_new));
                let update = format!("{packets} update @{set} {{ {key} counter }}");
                parts.push(self.rule(known, &format!("{update} return")));
                parts.push(self.rule(&new, &format!("{} {update}", comes(book.direction))));
            }
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
