//! What lets one kind of packets of a unit through: an annotation, as a line of text. Nothing in it but a selector, addresses, names
//! of hosts, protocols and numbers.

use std::{fmt, net::IpAddr};

use super::hosts::is_host_word;
use crate::{
    model::{ChainRef, Direction, WITH_PORTS},
    units::selector::Selectors,
};

/// An annotation that accepts packets of units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The units.
    pub selectors: Selectors,
    /// The chain that it goes to.
    pub chain: ChainRef,
    /// Which packets.
    pub packets: Packets,
}

/// Packets to or from somewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packets {
    /// Which way they go, seen from the unit.
    pub direction: Direction,
    /// Whether they are IPv6.
    pub v6: bool,
    /// The other side: addresses, prefixes or names of hosts, as nft writes them. None for all.
    pub peers: Vec<String>,
    /// Which of them.
    pub kind: Kind,
}

/// Which packets between two hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// All.
    All,
    /// Those of a protocol.
    Protocol(String),
    /// Those of a protocol to these ports, of the unit's own if they come in.
    Ports(String, Vec<u16>),
    /// ICMP of this type.
    Icmp(u8),
}

impl Kind {
    /// That of a packet of a protocol, with the port as it is recorded: ICMP's type and code.
    pub fn of(protocol: u8, port: u16) -> Self {
        let name = protocol_name(protocol);
        match protocol {
            1 | 58 => Self::Icmp(port.to_be_bytes()[0]),
            _ if WITH_PORTS.contains(&name.as_str()) => Self::Ports(name, vec![port]),
            _ => Self::Protocol(name),
        }
    }
}

/// A protocol's name as nft has it, or its number.
pub fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        33 => "dccp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        other => other.to_string(),
    }
}

impl Admission {
    /// The same in a cage: it comes before what closes the cage, and the packets go on to the rules for everybody.
    pub fn out_of_cage(&self) -> String {
        let Self { selectors, chain, packets } = self;
        format!("{selectors} :: insert rule {chain} socket cgroupv2 unit {packets} return")
    }
}

/// As it stands behind the `#`.
impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { selectors, chain, packets } = self;
        write!(f, "{selectors} :: add rule {chain} socket cgroupv2 unit {packets} accept")
    }
}

/// As nft matches them.
impl fmt::Display for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { direction, v6, peers, kind } = self;
        let header = if *v6 { "ip6" } else { "ip" };
        let side = if *direction == Direction::Out { "daddr" } else { "saddr" };
        match peers.is_empty() {
            true => write!(f, "meta nfproto {}", if *v6 { "ipv6" } else { "ipv4" })?,
            false => write!(f, "{header} {side} {}", one_or_set(peers))?,
        }
        match kind {
            Kind::All => Ok(()),
            Kind::Protocol(protocol) => write!(f, " meta l4proto {protocol}"),
            Kind::Ports(protocol, ports) => {
                let header = if WITH_PORTS.contains(&protocol.as_str()) { protocol.as_str() } else { "th" };
                if header == "th" {
                    write!(f, " meta l4proto {protocol}")?;
                }
                write!(f, " {header} dport {}", one_or_set(ports))
            }
            Kind::Icmp(number) => {
                write!(f, " {} type {number}", if *v6 { "icmpv6" } else { "icmp" })
            }
        }
    }
}

/// Packets to or from somebody, as a person says it.
#[derive(Debug, Clone, Copy)]
pub struct Peers<'a> {
    /// Which way they go, seen from the unit.
    pub direction: Direction,
    /// An address, a prefix, or the name of a host.
    pub address: &'a str,
    /// A protocol; without, all are meant, and with a port TCP and UDP.
    pub protocol: Option<&'a str>,
    /// The port that they go to; without, all are meant.
    pub port: Option<u16>,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is no address, prefix or name.
    Address,
    /// It is none that nft knows by its name.
    Protocol,
    /// It is none, or the protocol has none.
    Port,
    /// None of the chains is for such addresses.
    Chains,
}

impl Peers<'_> {
    /// What lets them through: an annotation for each chain, and for each family if a host's name may have addresses of both.
    ///
    /// # Errors
    /// What is wrong.
    pub fn admissions(&self, selectors: &Selectors, chains: &[ChainRef]) -> Result<Vec<Admission>, Wrong> {
        let is_v6 = self.is_v6()?;
        let mut all = Vec::new();
        for chain in chains {
            for v6 in [false, true].into_iter().filter(|v6| is_v6.is_none_or(|is_v6| is_v6 == *v6)) {
                let packets = Packets {
                    direction: self.direction,
                    v6,
                    peers: vec![self.address.to_owned()],
                    kind: self.kind(v6)?,
                };
                if chain.table.family.has(v6) {
                    all.push(Admission { selectors: selectors.clone(), chain: chain.clone(), packets });
                }
            }
        }
        if all.is_empty() { Err(Wrong::Chains) } else { Ok(all) }
    }

    /// Whether the address is one of IPv6; a name may have both.
    fn is_v6(&self) -> Result<Option<bool>, Wrong> {
        let (address, length) = match self.address.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (self.address, None),
        };
        match (address.parse::<IpAddr>(), length) {
            (Ok(address), Some(length)) => {
                let most = if address.is_ipv4() { 32 } else { 128 };
                let is_length = length.parse::<u8>().is_ok_and(|length| length <= most);
                if is_length { Ok(Some(address.is_ipv6())) } else { Err(Wrong::Address) }
            }
            (Ok(address), None) => Ok(Some(address.is_ipv6())),
            (Err(_), None) if is_host_word(address) => Ok(None),
            (Err(_), _) => Err(Wrong::Address),
        }
    }

    fn kind(&self, v6: bool) -> Result<Kind, Wrong> {
        match (self.protocol, self.port) {
            (Some(protocol), _)
                if !WITH_PORTS.contains(&protocol) && !["icmp", "icmpv6"].contains(&protocol) =>
            {
                Err(Wrong::Protocol)
            }
            (_, Some(0)) | (Some("icmp" | "icmpv6"), Some(_)) => Err(Wrong::Port),
            (Some("icmp" | "icmpv6"), None) => {
                Ok(Kind::Protocol(if v6 { "icmpv6" } else { "icmp" }.to_owned()))
            }
            (Some(protocol), None) => Ok(Kind::Protocol(protocol.to_owned())),
            (Some(protocol), Some(port)) => Ok(Kind::Ports(protocol.to_owned(), vec![port])),
            (None, Some(port)) => Ok(Kind::Ports("{ tcp, udp }".to_owned(), vec![port])),
            (None, None) => Ok(Kind::All),
        }
    }
}

fn one_or_set(all: &[impl ToString]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    match &all[..] {
        [one] => one.clone(),
        _ => format!("{{ {} }}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, TableRef};

    fn written(direction: Direction, v6: bool, peers: &[&str], kind: Kind) -> String {
        let peers = peers.iter().map(|peer| (*peer).to_owned()).collect();
        Packets { direction, v6, peers, kind }.to_string()
    }

    #[test]
    fn each_kind_of_packets_has_its_words() {
        let ports = |ports: &[u16]| Kind::Ports("tcp".to_owned(), ports.to_vec());
        let (out, inward) = (Direction::Out, Direction::In);
        assert_eq!(written(out, false, &["192.0.2.1"], ports(&[25])), "ip daddr 192.0.2.1 tcp dport 25");
        assert_eq!(
            written(inward, true, &["2001:db8::1", "::2"], ports(&[80, 443])),
            "ip6 saddr { 2001:db8::1, ::2 } tcp dport { 80, 443 }"
        );
        assert_eq!(written(out, true, &["::1"], Kind::Icmp(128)), "ip6 daddr ::1 icmpv6 type 128");
        assert_eq!(written(out, false, &["10.0.0.0/8"], Kind::All), "ip daddr 10.0.0.0/8");
        assert_eq!(
            written(out, false, &[], Kind::Protocol("gre".into())),
            "meta nfproto ipv4 meta l4proto gre"
        );
    }

    #[test]
    fn annotation_is_a_line() {
        let chain = ChainRef { table: TableRef { family: Family::Inet, name: "f".into() }, name: "c".into() };
        let packets = Packets {
            direction: Direction::Out,
            v6: false,
            peers: vec!["192.0.2.1".to_owned()],
            kind: Kind::Ports("udp".to_owned(), vec![53]),
        };
        let selectors = Selectors::parse("alice:app:firefox").unwrap();
        let line = Admission { selectors, chain, packets }.to_string();
        assert_eq!(
            line,
            "alice:app:firefox :: add rule inet f c socket cgroupv2 unit ip daddr 192.0.2.1 udp dport 53 accept"
        );
    }

    fn chain(family: Family) -> ChainRef {
        ChainRef { table: TableRef { family, name: "f".into() }, name: "c".into() }
    }

    fn peers<'a>(address: &'a str, protocol: Option<&'a str>, port: Option<u16>) -> Peers<'a> {
        Peers { direction: Direction::Out, address, protocol, port }
    }

    fn lines(peers: &Peers<'_>, chains: &[ChainRef]) -> Vec<String> {
        let selectors = Selectors::parse("system:a.service").unwrap();
        let all = peers.admissions(&selectors, chains).unwrap();
        all.iter().map(|one| one.packets.to_string()).collect()
    }

    #[test]
    fn each_family_and_chain_has_its_line() {
        let inet = [chain(Family::Inet)];
        assert_eq!(
            lines(&peers("192.0.2.1", None, Some(25)), &inet),
            ["ip daddr 192.0.2.1 meta l4proto { tcp, udp } th dport 25"]
        );
        assert_eq!(
            lines(&peers("2001:db8::/32", Some("icmp"), None), &inet),
            ["ip6 daddr 2001:db8::/32 meta l4proto icmpv6"]
        );
        let name = peers("example.org", Some("tcp"), Some(443));
        assert_eq!(
            lines(&name, &inet),
            ["ip daddr example.org tcp dport 443", "ip6 daddr example.org tcp dport 443"]
        );
        assert_eq!(lines(&name, &[chain(Family::Ip), chain(Family::Ip6)]).len(), 2);
    }

    #[test]
    fn nothing_else_becomes_text_of_nft() {
        let selectors = Selectors::parse("system:a.service").unwrap();
        let inet = [chain(Family::Inet)];
        for (address, protocol, port) in [
            ("192.0.2.1 accept", None, None),
            ("192.0.2.1/33", None, None),
            ("192.0.2.1/", None, None),
            ("::/129", None, None),
            ("a b", None, None),
            ("$x", None, None),
            ("@set", None, None),
            ("a;b", None, None),
            ("accept", None, None),
            ("", None, None),
            ("192.0.2.1", Some("tcp accept"), None),
            ("192.0.2.1", Some("icmp"), Some(1)),
            ("192.0.2.1", Some("tcp"), Some(0)),
        ] {
            let peers = peers(address, protocol, port);
            assert!(peers.admissions(&selectors, &inet).is_err(), "{address} {protocol:?} {port:?}");
        }
    }
}
