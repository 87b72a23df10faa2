//! What units were seen to do, as the fewest packets that an annotation can name: nothing is missing, and nothing is in them that was
//! not seen.
//!
//! Addresses that had the same ports are put together, or ports that had the same addresses: whichever takes fewer lines, for
//! each part of what was seen that has nothing in common with the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use litemap::LiteMap;

use super::admission::{Kind, Packets};
use crate::{
    gather::{Gather, sort_by},
    model::Direction,
};

/// Packets of one kind between a unit and another side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Which way they went.
    pub direction: Direction,
    /// The other side.
    pub address: IpAddr,
    /// The protocol's number (protocols(5)).
    pub protocol: u8,
    /// The port that they went to; of ICMP the type and the code, a byte each. Other protocols have none, whatever stands here.
    pub port: u16,
}

/// How addresses are to be written.
#[derive(Debug, Clone, Default)]
pub struct Style {
    /// The lengths of the prefixes that they are grouped by, of IPv4 and IPv6. Without, each is written as it is.
    pub prefixes: Option<(u8, u8)>,
    /// The names that are written in their place.
    pub names: LiteMap<IpAddr, String>,
}

/// Packets that an annotation can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// They.
    pub packets: Packets,
    /// How many were seen.
    pub count: u64,
    /// What may be otherwise the next time.
    pub doubts: Vec<Doubt>,
}

/// What may be otherwise the next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// There was one packet only.
    Once,
    /// A port among those that are given out by chance.
    HighPort,
    /// More ports than a person would list.
    ManyPorts(usize),
    /// More addresses than a person would list.
    ManyAddresses(usize),
    /// A name server, which the network says.
    NameServer,
    /// All hosts of a network.
    Broadcast,
    /// Groups of hosts.
    Multicast,
    /// An address that means another host on another link.
    LinkLocal,
    /// A host's name, which may have other addresses.
    Name,
}

/// As it ends a comment.
impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Once => write!(f, "seen only once"),
            Self::HighPort => write!(f, "a port above {LAST_FIXED} may be another one the next time"),
            Self::ManyPorts(ports) => write!(f, "{ports} ports: perhaps any"),
            Self::ManyAddresses(addresses) => {
                write!(f, "{addresses} addresses: perhaps any, then leave them out")
            }
            Self::NameServer => write!(f, "another network may have another name server"),
            Self::Broadcast => write!(f, "broadcast, to all hosts of the network"),
            Self::Multicast => write!(f, "multicast, to all hosts that listen"),
            Self::LinkLocal => write!(f, "a link-local address may be another host on another link"),
            Self::Name => write!(f, "a name stands for whatever addresses it has when it is looked up"),
        }
    }
}

/// The last port below those that systems give out by chance (`ip_local_port_range` in ip(7)).
const LAST_FIXED: u16 = 32_767;

/// How many addresses or ports a person lists.
const FEW: usize = 8;

/// What was seen as groups, in an order that does not depend on chance.
pub fn groups(seen: &BTreeMap<Seen, u64>, style: &Style) -> Vec<Group> {
    let mut all: Vec<Peer> = seen.keys().map(|one| style.peer(one.address)).collect();
    sort_by(&mut all, Ord::cmp);
    all.dedup();
    let mut kinds: BTreeMap<(Direction, bool, Class), Pairs<'_>> = BTreeMap::new();
    for (one, count) in seen {
        let (class, port) = class(one);
        let of_kind = kinds.entry((one.direction, one.address.is_ipv6(), class)).or_default();
        let peer = style.peer(one.address);
        let peer = all.partition_point(|other| *other < peer);
        of_kind.entry((peer, port.into())).or_default().push((one, *count));
    }
    // Protocols that have the same ports of the same peers share a line.
    let mut lines: BTreeMap<(Direction, bool, Kinds, Block), Shared<'_>> = BTreeMap::new();
    for ((direction, v6, class), mut of_kind) in kinds {
        let (kinds, protocol) = match class {
            Class::Ports(protocol) => (Kinds::Ports, protocol),
            Class::Icmp(number) => (Kinds::Icmp(number), 0),
            Class::Protocol(protocol) => (Kinds::Protocol(protocol), protocol),
        };
        for block in cover(&of_kind.keys().copied().gather()) {
            let pairs = block.0.iter().flat_map(|peer| block.1.iter().map(|port| (*peer, *port)));
            let of_pair = |pair| of_kind.get_mut(&pair).map(std::mem::take).unwrap_or_default();
            let of_block: Vec<_> = pairs.flat_map(of_pair).collect();
            let (protocols, several) = lines.entry((direction, v6, kinds, block)).or_default();
            protocols.push(protocol);
            several.extend(of_block);
        }
    }
    let group = |((direction, v6, kinds, block), of_line): ((_, _, _, Block), Shared<'_>)| {
        let ((peers, ports), (protocols, several)) = (block, of_line);
        let peers: Vec<&Peer> = peers.iter().map(|peer| &all[*peer]).collect();
        let ports: Vec<u16> = ports.iter().map(|port| *port as u16).collect();
        let kind = match kinds {
            Kinds::Ports => Kind::Ports(protocol_names(&protocols), ports.clone()),
            Kinds::Icmp(number) => Kind::Icmp(number),
            Kinds::Protocol(protocol) => Kind::of(protocol, 0),
        };
        Group {
            count: several.iter().map(|(_, count)| count).sum(),
            doubts: doubts(&several, &peers, &ports),
            packets: Packets { direction, v6, peers: peers.iter().map(ToString::to_string).collect(), kind },
        }
    };
    lines.into_iter().map(group).collect()
}

/// What was seen, and how often.
type Several<'a> = Vec<(&'a Seen, u64)>;

/// What was seen of each port of a peer.
type Pairs<'a> = BTreeMap<Pair, Several<'a>>;

/// The protocols that share a line, and what was seen of them.
type Shared<'a> = (Vec<u8>, Several<'a>);

fn protocol_names(protocols: &[u8]) -> String {
    let names: Vec<String> = protocols.iter().map(|one| super::admission::protocol_name(*one)).collect();
    match &names[..] {
        [one] => one.clone(),
        _ => format!("{{ {} }}", names.join(", ")),
    }
}

/// What can stand in one annotation, but for its addresses and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Ports(u8),
    Icmp(u8),
    Protocol(u8),
}

/// The same, with all protocols that have ports as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kinds {
    Ports,
    Icmp(u8),
    Protocol(u8),
}

/// The class, and the port, which is 0 where there is none.
fn class(one: &Seen) -> (Class, u16) {
    match Kind::of(one.protocol, one.port) {
        Kind::Ports(..) => (Class::Ports(one.protocol), one.port),
        Kind::Icmp(number) => (Class::Icmp(number), 0),
        Kind::Protocol(_) | Kind::All => (Class::Protocol(one.protocol), 0),
    }
}

/// The other side, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    Address(IpAddr),
    Prefix(IpAddr, u8),
    Name(String),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Prefix(address, length) => write!(f, "{address}/{length}"),
            Self::Name(name) => write!(f, "{name}"),
        }
    }
}

impl Style {
    fn peer(&self, address: IpAddr) -> Peer {
        if let Some(name) = self.names.get(&address) {
            return Peer::Name(name.clone());
        }
        match (self.prefixes, address) {
            (None, _) => Peer::Address(address),
            (Some(_), _) if is_special(address) => Peer::Address(address),
            (Some((length, _)), IpAddr::V4(address)) if length < 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Peer::Prefix(Ipv4Addr::from_bits(address.to_bits() & mask).into(), length)
            }
            (Some((_, length)), IpAddr::V6(address)) if length < 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Peer::Prefix(Ipv6Addr::from_bits(address.to_bits() & mask).into(), length)
            }
            (Some(_), _) => Peer::Address(address),
        }
    }
}

/// Whether the addresses beside it mean something else.
fn is_special(address: IpAddr) -> bool {
    address.is_multicast() || address.is_loopback() || is_broadcast(address) || is_link_local(address)
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// A peer, as its place among all peers, and a port. Both are plain numbers, so that one code does for peers and ports.
type Pair = (usize, usize);

/// Which peers had which ports.
type Relation = BTreeSet<Pair>;

/// Peers that all had the same ports, and these.
type Block = (Numbers, Numbers);

type Numbers = BTreeSet<usize>;

/// The blocks that have all of it, and nothing else.
fn cover(relation: &Relation) -> Vec<Block> {
    parts(relation).iter().flat_map(cover_part).collect()
}

fn cover_part(part: &Relation) -> Vec<Block> {
    let by_peer = alike(part.iter().copied().collect());
    let by_port = alike(part.iter().map(|(peer, port)| (*port, *peer)).collect());
    if by_port.len() < by_peer.len() {
        by_port.into_iter().map(|(ports, peers)| (peers, ports)).collect()
    } else {
        by_peer
    }
}

/// Those who have the same things, with these.
fn alike(pairs: Vec<Pair>) -> Vec<Block> {
    let mut things: BTreeMap<usize, Numbers> = BTreeMap::new();
    for (who, thing) in pairs {
        things.entry(who).or_default().insert(thing);
    }
    let mut groups: BTreeMap<Numbers, Numbers> = BTreeMap::new();
    for (who, things) in things {
        groups.entry(things).or_default().insert(who);
    }
    groups.into_iter().map(|(things, who)| (who, things)).collect()
}

/// The parts that have neither a peer nor a port in common.
fn parts(relation: &Relation) -> Vec<Relation> {
    let mut peers: BTreeMap<usize, Numbers> = BTreeMap::new();
    let mut ports: BTreeMap<usize, Numbers> = BTreeMap::new();
    for (peer, port) in relation {
        peers.entry(*port).or_default().insert(*peer);
        ports.entry(*peer).or_default().insert(*port);
    }
    let mut parts = Vec::new();
    while let Some((peer, _)) = ports.first_key_value() {
        let mut part = Relation::new();
        let mut pending = vec![*peer];
        while let Some(peer) = pending.pop() {
            for port in ports.remove(&peer).into_iter().flatten() {
                part.insert((peer, port));
                pending.extend(peers.remove(&port).into_iter().flatten());
            }
        }
        parts.push(part);
    }
    parts
}

/// What may be otherwise the next time of what was seen.
fn doubts(seen: &[(&Seen, u64)], peers: &[&Peer], ports: &[u16]) -> Vec<Doubt> {
    const DNS: u16 = 53;
    let any = |is: &dyn Fn(&Seen) -> bool| seen.iter().any(|(one, _)| is(one));
    let has_ports = any(&|one| matches!(class(one).0, Class::Ports(_)));
    let is_out = any(&|one| one.direction == Direction::Out);
    let all = [
        (seen.iter().map(|(_, count)| count).sum::<u64>() == 1, Doubt::Once),
        (has_ports && ports.iter().any(|port| *port > LAST_FIXED), Doubt::HighPort),
        (has_ports && ports.len() > FEW, Doubt::ManyPorts(ports.len())),
        (peers.len() > FEW, Doubt::ManyAddresses(peers.len())),
        (has_ports && is_out && ports.contains(&DNS), Doubt::NameServer),
        (any(&|one| is_broadcast(one.address)), Doubt::Broadcast),
        (any(&|one| one.address.is_multicast()), Doubt::Multicast),
        (any(&|one| is_link_local(one.address)), Doubt::LinkLocal),
        (peers.iter().any(|peer| matches!(peer, Peer::Name(_))), Doubt::Name),
    ];
    all.into_iter().filter(|(is_true, _)| *is_true).map(|(_, doubt)| doubt).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(direction: Direction, address: &str, protocol: u8, port: u16) -> Seen {
        Seen { direction, address: address.parse().unwrap(), protocol, port }
    }

    fn out(address: &str, protocol: u8, port: u16) -> Seen {
        seen(Direction::Out, address, protocol, port)
    }

    fn lines(all: &[Seen], style: &Style) -> Vec<String> {
        let all = all.iter().map(|one| (*one, 2)).collect();
        let mut lines: Vec<String> =
            groups(&all, style).iter().map(|group| group.packets.to_string()).collect();
        lines.sort();
        lines
    }

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    #[test]
    fn what_is_alike_stands_together() {
        let plain = Style::default();
        let web = [("192.0.2.1", 80), ("192.0.2.1", 443), ("192.0.2.2", 80), ("192.0.2.2", 443)];
        let mut all: Vec<Seen> = web.iter().map(|(address, port)| out(address, TCP, *port)).collect();
        assert_eq!(lines(&all, &plain), ["ip daddr { 192.0.2.1, 192.0.2.2 } tcp dport { 80, 443 }"]);
        all.push(out("192.0.2.9", TCP, 25));
        assert_eq!(
            lines(&all, &plain),
            ["ip daddr 192.0.2.9 tcp dport 25", "ip daddr { 192.0.2.1, 192.0.2.2 } tcp dport { 80, 443 }"]
        );
        // By ports takes two lines, by addresses three.
        let all = [(1, 80), (1, 443), (2, 80), (3, 443)]
            .map(|(host, port)| out(&format!("192.0.2.{host}"), TCP, port));
        assert_eq!(
            lines(&all, &plain),
            [
                "ip daddr { 192.0.2.1, 192.0.2.2 } tcp dport 80",
                "ip daddr { 192.0.2.1, 192.0.2.3 } tcp dport 443"
            ]
        );
    }

    #[test]
    fn protocols_directions_and_families_have_their_lines() {
        let all = [
            out("192.0.2.53", TCP, 53),
            out("192.0.2.53", UDP, 53),
            out("2001:db8::53", UDP, 53),
            out("192.0.2.1", 1, 0x0800),
            out("192.0.2.2", 1, 0x0801),
            out("2001:db8::1", 58, 0x8000),
            out("192.0.2.3", 47, 17),
            out("192.0.2.3", 47, 18),
            seen(Direction::In, "192.0.2.4", TCP, 22),
        ];
        let mut expected = [
            "ip daddr 192.0.2.53 meta l4proto { tcp, udp } th dport 53",
            "ip6 daddr 2001:db8::53 udp dport 53",
            "ip daddr { 192.0.2.1, 192.0.2.2 } icmp type 8",
            "ip6 daddr 2001:db8::1 icmpv6 type 128",
            "ip daddr 192.0.2.3 meta l4proto 47",
            "ip saddr 192.0.2.4 tcp dport 22",
        ];
        expected.sort_unstable();
        assert_eq!(lines(&all, &Style::default()), expected);
    }

    #[test]
    fn prefixes_and_names_are_written_where_they_are_asked_for() {
        let all = [
            out("192.0.2.1", TCP, 443),
            out("192.0.2.77", TCP, 443),
            out("198.51.100.7", TCP, 443),
            out("2001:db8::1", TCP, 443),
            out("224.0.0.251", UDP, 5353),
        ];
        let prefixes = Style { prefixes: Some((24, 64)), ..Style::default() };
        assert_eq!(
            lines(&all, &prefixes),
            [
                "ip daddr 224.0.0.251 udp dport 5353",
                "ip daddr { 192.0.2.0/24, 198.51.100.0/24 } tcp dport 443",
                "ip6 daddr 2001:db8::/64 tcp dport 443",
            ]
        );
        let named = ["192.0.2.1", "192.0.2.77", "2001:db8::1"]
            .map(|one| (one.parse().unwrap(), "www.example.org".to_owned()));
        let names = Style { names: named.into_iter().gather(), ..Style::default() };
        assert_eq!(
            lines(&all, &names),
            [
                "ip daddr 224.0.0.251 udp dport 5353",
                "ip daddr { 198.51.100.7, www.example.org } tcp dport 443",
                "ip6 daddr www.example.org tcp dport 443",
            ]
        );
        let all = Style { prefixes: Some((0, 0)), ..Style::default() };
        assert_eq!(lines(&[out("192.0.2.1", TCP, 1)], &all), ["ip daddr 0.0.0.0/0 tcp dport 1"]);
    }

    #[test]
    fn what_is_uncertain_is_said() {
        let of = |all: &[(Seen, u64)]| {
            let mut groups = groups(&all.iter().copied().collect(), &Style::default());
            assert_eq!(groups.len(), 1, "{groups:?}");
            groups.remove(0).doubts
        };
        assert_eq!(of(&[(out("192.0.2.1", TCP, 443), 2)]), []);
        assert_eq!(of(&[(out("192.0.2.1", TCP, 443), 1)]), [Doubt::Once]);
        assert_eq!(of(&[(out("192.0.2.1", TCP, 32_768), 2)]), [Doubt::HighPort]);
        assert_eq!(of(&[(out("192.0.2.1", UDP, 53), 2)]), [Doubt::NameServer]);
        // A server's clients do not ask another one.
        assert_eq!(of(&[(seen(Direction::In, "192.0.2.1", UDP, 53), 2)]), []);
        assert_eq!(of(&[(out("255.255.255.255", UDP, 67), 2)]), [Doubt::Broadcast]);
        assert_eq!(of(&[(out("ff02::fb", UDP, 5353), 2)]), [Doubt::Multicast]);
        assert_eq!(of(&[(out("fe80::1", 58, 0x8000), 2)]), [Doubt::LinkLocal]);
        let many: Vec<_> = (1..=9).map(|host| (out(&format!("192.0.2.{host}"), TCP, 80), 1)).collect();
        assert_eq!(of(&many), [Doubt::ManyAddresses(9)]);
        let many: Vec<_> = (1..=9).map(|port| (out("192.0.2.1", TCP, port), 1)).collect();
        assert_eq!(of(&many), [Doubt::ManyPorts(9)]);
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
        let address = prop_oneof![
            (0_u8..5).prop_map(|host| IpAddr::from([192, 0, 2, host])),
            (0_u16..3).prop_map(|host| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host])),
        ];
        let protocol = prop_oneof![Just(TCP), Just(UDP), Just(1), Just(47)];
        let port = prop_oneof![0_u16..4, Just(0x0800), Just(0x0300)];
        (prop_oneof![Just(Direction::Out), Just(Direction::In)], address, protocol, port)
            .prop_map(|(direction, address, protocol, port)| Seen { direction, address, protocol, port })
    }

    /// What a group lets through, of what can be seen here.
    fn admitted(group: &Group) -> BTreeSet<(Direction, String, String, u16)> {
        let Packets { direction, peers, kind, .. } = &group.packets;
        let services: Vec<(String, u16)> = match kind {
            Kind::Ports(protocols, ports) => {
                let names =
                    protocols.split(|c: char| !c.is_ascii_alphanumeric()).filter(|name| !name.is_empty());
                names.flat_map(|name| ports.iter().map(move |port| (name.to_owned(), *port))).collect()
            }
            Kind::Icmp(number) => vec![("icmp".to_owned(), u16::from(*number))],
            Kind::Protocol(name) => vec![(name.clone(), 0)],
            Kind::All => panic!("everything is let through"),
        };
        let with = |peer: &String| {
            services
                .iter()
                .map(|(name, port)| (*direction, peer.clone(), name.clone(), *port))
                .collect::<Vec<_>>()
        };
        peers.iter().flat_map(with).collect()
    }

    fn wanted(one: &Seen) -> (Direction, String, String, u16) {
        let (name, port) = match one.protocol {
            TCP => ("tcp", one.port),
            UDP => ("udp", one.port),
            1 => ("icmp", u16::from(one.port.to_be_bytes()[0])),
            _ => ("47", 0),
        };
        (one.direction, one.address.to_string(), name.to_owned(), port)
    }

    proptest! {
        #[test]
        fn groups_are_what_was_seen_and_nothing_else(all in prop::collection::btree_map(any_seen(), 1_u64..9, 0..40)) {
            let groups = groups(&all, &Style::default());
            let covered: Vec<_> = groups.iter().flat_map(admitted).collect();
            let set: BTreeSet<_> = covered.iter().cloned().collect();
            prop_assert_eq!(set.len(), covered.len(), "something stands twice");
            prop_assert_eq!(set, all.keys().map(wanted).collect::<BTreeSet<_>>());
            prop_assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), all.values().sum::<u64>());
        }

        #[test]
        fn there_are_no_more_lines_than_hosts_or_than_ports(all in prop::collection::btree_map(any_seen(), 1_u64..9, 0..40)) {
            let of = |all: &BTreeMap<Seen, u64>| groups(all, &Style::default()).len();
            let only = |protocol| all.iter().filter(|(one, _)| one.protocol == protocol && one.direction == Direction::Out && one.address.is_ipv4()).map(|(one, count)| (*one, *count)).collect::<BTreeMap<_, _>>();
            let tcp = only(TCP);
            let hosts: BTreeSet<_> = tcp.keys().map(|one| one.address).collect();
            let ports: BTreeSet<_> = tcp.keys().map(|one| one.port).collect();
            prop_assert!(of(&tcp) <= hosts.len().min(ports.len()));
            prop_assert!(of(&all) <= all.len());
        }
    }
}
