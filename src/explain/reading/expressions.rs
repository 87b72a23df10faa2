//! The values of the packet that a rule's expressions name, and whether they match what the rule compares them with.
//!
//! The packet is the first one of a connection, so `ct state` is `new` where connections are tracked already.

use std::net::IpAddr;

use serde_json::Value;

use super::Reader;
use crate::{
    explain::ruleset::Base,
    model::{CgroupId, ChainRef, SetRef},
};

/// From this priority on connections are tracked (`NF_IP_PRI_CONNTRACK`).
const TRACKING: i64 = -200;

/// An answer with a third one: it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    No,
    Maybe,
    Yes,
}

impl Told {
    fn of(is_so: bool) -> Self {
        if is_so { Self::Yes } else { Self::No }
    }

    fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }
}

/// What an expression has for the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    Number(u64),
    Address(IpAddr),
    /// Of a protocol, such as `tcp`.
    Protocol(u8),
    /// A bit of `ct state`.
    State(u64),
    Name(&'static str),
    Cgroup(String, Option<CgroupId>),
    /// The packet has no such thing, so the rule does not match.
    None,
    Unknown,
}

impl Reader<'_> {
    /// A match.
    pub(super) fn matches(
        &self,
        chain: &ChainRef,
        value: &Value,
        base: &Base,
        levels: &mut dyn Iterator<Item = u32>,
    ) -> Told {
        let facts = self.facts(&value["left"], base, levels);
        if facts.contains(&Fact::None) {
            return Told::No;
        }
        if let ([Fact::Number(number)], Some("in"), Some(flags)) =
            (&facts[..], value["op"].as_str(), bits(&value["right"]))
        {
            return Told::of(number & flags != 0);
        }
        let found = self.is_one_of(chain, &facts, &value["right"]);
        match value["op"].as_str() {
            Some("==" | "in") => found,
            Some("!=") => found.not(),
            Some(op @ ("<" | ">" | "<=" | ">=")) => match (&facts[..], value["right"].as_u64()) {
                ([Fact::Number(number)], Some(other)) => Told::of(match op {
                    "<" => *number < other,
                    ">" => *number > other,
                    "<=" => *number <= other,
                    _ => *number >= other,
                }),
                _ => Told::Maybe,
            },
            _ => Told::Maybe,
        }
    }

    /// The elements of a set or map with or without a name, if they are known.
    pub(super) fn elements<'v>(&'v self, chain: &ChainRef, value: &'v Value) -> Option<&'v Vec<Value>> {
        match value.as_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => {
                let set = SetRef { table: chain.table.clone(), name: name.into() };
                self.ruleset.elements(&set)?.as_array()
            }
            None => value["set"].as_array(),
        }
    }

    /// Whether facts are, or are among, what stands right of a match.
    pub(super) fn is_one_of(&self, chain: &ChainRef, facts: &[Fact], value: &Value) -> Told {
        if value == "*" {
            return Told::Yes;
        }
        let inner = &value["elem"]["val"];
        if !inner.is_null() {
            return self.is_one_of(chain, facts, inner);
        }
        let is_set = value.as_str().is_some_and(|name| name.starts_with('@')) || !value["set"].is_null();
        if is_set {
            let Some(elements) = self.elements(chain, value) else { return Told::Maybe };
            return any(elements.iter().map(|element| self.is_one_of(chain, facts, element)));
        }
        if let ([Fact::Number(number)], true, Some(flags)) = (facts, value.is_array(), bits(value)) {
            return Told::of(*number == flags);
        }
        if let Some(flags) = value.as_array() {
            return any(flags.iter().map(|flag| self.is_one_of(chain, facts, flag)));
        }
        match (facts, value["concat"].as_array()) {
            ([fact], None) => is(fact, value),
            (facts, Some(values)) if facts.len() == values.len() => {
                facts.iter().zip(values).map(|(fact, value)| is(fact, value)).min().unwrap_or(Told::Maybe)
            }
            _ => Told::Maybe,
        }
    }

    /// What expressions have for the packet: several in a concatenation.
    pub(super) fn facts(
        &self,
        value: &Value,
        base: &Base,
        levels: &mut dyn Iterator<Item = u32>,
    ) -> Vec<Fact> {
        match value["concat"].as_array() {
            Some(parts) => parts.iter().map(|part| self.fact(part, base, levels)).collect(),
            None => vec![self.fact(value, base, levels)],
        }
    }

    fn fact(&self, value: &Value, base: &Base, levels: &mut dyn Iterator<Item = u32>) -> Fact {
        let number = u64::from;
        let text = |kind: &str, field: &str| value[kind][field].as_str().unwrap_or_default().to_owned();
        if let Some([inner, mask]) = value["&"].as_array().map(Vec::as_slice) {
            return match (self.fact(inner, base, levels), bits(mask)) {
                (Fact::Number(number), Some(mask)) => Fact::Number(number & mask),
                (Fact::None, _) => Fact::None,
                _ => Fact::Unknown,
            };
        }
        if !value["payload"].is_null() {
            return self.header(&text("payload", "protocol"), &text("payload", "field"));
        }
        match (text("meta", "key").as_str(), self.sent.user) {
            ("l4proto", _) => return Fact::Protocol(self.sent.protocol.number()),
            ("nfproto", _) => return Fact::Name(if self.sent.to.is_ipv4() { "ipv4" } else { "ipv6" }),
            ("protocol", _) => return Fact::Name(if self.sent.to.is_ipv4() { "ip" } else { "ip6" }),
            ("skuid", Some((uid, _))) if is_on_its_way_out(base) => return Fact::Number(number(uid)),
            ("skgid", Some((_, gid))) if is_on_its_way_out(base) => return Fact::Number(number(gid)),
            ("oif" | "oifname", _) if self.sent.is_local && is_on_its_way_out(base) => {
                return Fact::Name("lo");
            }
            ("iif" | "iifname", _) if self.sent.is_local && !is_on_its_way_out(base) => {
                return Fact::Name("lo");
            }
            _ => {}
        }
        match (text("ct", "key").as_str(), text("socket", "key").as_str()) {
            ("state", _) if base.priority > TRACKING && self.is_tracked => Fact::State(8),
            (_, "cgroupv2") => match levels.next() {
                Some(level) if is_on_its_way_out(base) => self.cgroup(level),
                _ => Fact::Unknown,
            },
            _ => Fact::Unknown,
        }
    }

    /// A field of a packet's header.
    fn header(&self, protocol: &str, field: &str) -> Fact {
        let (to, own) = (self.sent.to, self.sent.protocol);
        match (protocol, field) {
            ("ip", _) if to.is_ipv6() => Fact::None,
            ("ip6", _) if to.is_ipv4() => Fact::None,
            ("ip" | "ip6", "daddr") if !self.is_changed => Fact::Address(to.ip()),
            ("ip", "protocol") | ("ip6", "nexthdr") => Fact::Protocol(own.number()),
            ("tcp" | "udp", _) if protocol != own.as_str() => Fact::None,
            ("tcp" | "udp" | "th", "dport") if !self.is_changed => Fact::Number(to.port().into()),
            // Of the first packet of a connection: SYN alone.
            ("tcp", "flags") => Fact::Number(2),
            ("icmp" | "icmpv6" | "igmp" | "sctp" | "dccp" | "udplite" | "esp" | "ah" | "comp" | "arp", _) => {
                Fact::None
            }
            _ => Fact::Unknown,
        }
    }

    /// The cgroup at a level.
    fn cgroup(&self, level: u32) -> Fact {
        let Some(at) = usize::try_from(level).ok().and_then(|level| level.checked_sub(1)) else {
            return Fact::None;
        };
        match self.sent.cgroup.prefixes().nth(at) {
            Some(path) => Fact::Cgroup(path.to_string(), self.sent.ids.get(at).copied()),
            None => Fact::None,
        }
    }
}

/// Whether the packet has not left its own socket's side yet. Behind it, the socket is the receiver's.
fn is_on_its_way_out(base: &Base) -> bool {
    matches!(base.hook.as_str(), "output" | "postrouting")
}

fn any(answers: impl Iterator<Item = Told>) -> Told {
    answers.max().unwrap_or(Told::No)
}

/// Whether a fact is a value, or within a range or prefix.
fn is(fact: &Fact, value: &Value) -> Told {
    if value == "*" {
        return Told::Yes;
    }
    let inner = &value["elem"]["val"];
    if !inner.is_null() {
        return is(fact, inner);
    }
    if let Some([first, last]) = value["range"].as_array().map(Vec::as_slice) {
        return match fact {
            Fact::Number(number) => match (first.as_u64(), last.as_u64()) {
                (Some(first), Some(last)) => Told::of((first..=last).contains(number)),
                _ => Told::Maybe,
            },
            Fact::Address(own) => match (address(first), address(last)) {
                (Some(first), Some(last)) => Told::of((first..=last).contains(own)),
                _ => Told::Maybe,
            },
            _ => Told::Maybe,
        };
    }
    let text = value.as_str();
    match fact {
        Fact::Number(number) => match value.as_u64().or_else(|| bits(value)) {
            Some(other) => Told::of(*number == other),
            None => Told::Maybe,
        },
        Fact::Address(own) => is_address(*own, value),
        Fact::Protocol(own) => match (text, value.as_u64()) {
            (_, Some(number)) => Told::of(number == u64::from(*own)),
            (Some(name), _) => protocol(name).map_or(Told::Maybe, |number| Told::of(number == *own)),
            _ => Told::Maybe,
        },
        Fact::State(own) => match (text.and_then(state), value.as_u64()) {
            (Some(bit), _) | (None, Some(bit)) => Told::of(own & bit != 0),
            _ => Told::Maybe,
        },
        Fact::Name(own) => match text {
            // `lo*` is a pattern.
            Some(name) if !name.contains('*') => Told::of(name == *own),
            _ => Told::Maybe,
        },
        Fact::Cgroup(path, id) => match (text, value.as_u64()) {
            (Some(other), _) => Told::of(other.trim_start_matches('/') == path),
            (None, Some(other)) => id.map_or(Told::Maybe, |id| Told::of(id.0 == other)),
            _ => Told::Maybe,
        },
        Fact::None => Told::No,
        Fact::Unknown => Told::Maybe,
    }
}

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

/// Whether an address is one, or has a prefix.
fn is_address(own: IpAddr, value: &Value) -> Told {
    let prefix = &value["prefix"];
    let (Some(other), length) =
        (address(if prefix.is_null() { value } else { &prefix["addr"] }), prefix["len"].as_u64())
    else {
        return Told::Maybe;
    };
    let (own, other, width) = match (own, other) {
        (IpAddr::V4(own), IpAddr::V4(other)) => (u128::from(own.to_bits()), u128::from(other.to_bits()), 32),
        (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
        _ => return Told::No,
    };
    let rest = width - length.unwrap_or(width).min(width);
    Told::of(u32::try_from(rest).is_ok_and(|rest| own.checked_shr(rest) == other.checked_shr(rest)))
}

/// A number, or flags of TCP by their names.
fn bits(value: &Value) -> Option<u64> {
    const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"];
    let several = value.as_array().or_else(|| value["|"].as_array());
    if let Some(parts) = several {
        return parts.iter().map(bits).try_fold(0, |all, bit| Some(all | bit?));
    }
    let by_name = |name: &str| FLAGS.iter().position(|flag| *flag == name).map(|at| 1 << at);
    value.as_u64().or_else(|| by_name(value.as_str()?))
}

fn protocol(name: &str) -> Option<u8> {
    let known = [
        ("icmp", 1),
        ("igmp", 2),
        ("tcp", 6),
        ("udp", 17),
        ("dccp", 33),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
        ("icmpv6", 58),
        ("ipv6-icmp", 58),
        ("comp", 108),
        ("sctp", 132),
        ("udplite", 136),
    ];
    known.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn state(name: &str) -> Option<u64> {
    let known = [("invalid", 1), ("established", 2), ("related", 4), ("new", 8), ("untracked", 64)];
    known.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::explain::{
        Outcome,
        reading::testing::{SET, equal, payload, reads},
        subject::Protocol,
    };

    /// Whether one match holds for a packet by TCP to 10.1.2.3:25.
    fn holds(text: &str, statement: Value) -> &'static str {
        let rules = [(text, json!([statement, {"accept": null}]))];
        match reads(&rules, "10.1.2.3:25", Protocol::Tcp).0 {
            Outcome::Passes => "yes",
            Outcome::Refused => "no",
            Outcome::Unknown => "maybe",
        }
    }

    #[test]
    fn what_is_known_of_the_packet_is_compared() {
        let meta = |key: &str| json!({"meta": {"key": key}});
        let ct = |op: &str, right: Value| json!({"match": {"op": op, "left": {"ct": {"key": "state"}}, "right": right}});
        let not = |left: Value, right: Value| json!({"match": {"op": "!=", "left": left, "right": right}});
        let flags = |op: &str, right: Value| json!({"match": {"op": op, "left": {"&": [payload("tcp", "flags"), {"|": ["fin", "syn", "ack"]}]}, "right": right}});
        let concat = json!({"concat": [payload("ip", "daddr"), payload("tcp", "dport")]});
        let pairs = |port: u16| json!({"set": [{"concat": ["1.1.1.1", 1]}, {"concat": [{"prefix": {"addr": "10.0.0.0", "len": 8}}, port]}]});
        for (expected, statement) in [
            ("yes", equal(payload("ip", "daddr"), json!("10.1.2.3"))),
            ("yes", equal(payload("ip", "daddr"), json!(SET))),
            ("no", not(payload("ip", "daddr"), json!(SET))),
            ("maybe", equal(payload("ip", "daddr"), json!("@unknown"))),
            ("no", equal(payload("ip", "daddr"), json!({"prefix": {"addr": "10.1.2.4", "len": 30}}))),
            ("no", equal(payload("ip6", "daddr"), json!("::1"))),
            ("no", not(payload("ip6", "daddr"), json!("::1"))),
            ("maybe", equal(payload("ip", "saddr"), json!("10.1.2.3"))),
            ("yes", equal(payload("tcp", "dport"), json!({"set": [22, {"range": [20, 30]}]}))),
            ("no", not(payload("tcp", "dport"), json!({"set": [22, {"range": [20, 30]}]}))),
            ("yes", equal(payload("th", "dport"), json!(25))),
            ("no", equal(payload("udp", "dport"), json!(25))),
            ("no", not(payload("udp", "dport"), json!(26))),
            ("maybe", equal(payload("tcp", "sport"), json!(25))),
            ("yes", equal(meta("l4proto"), json!({"set": ["udp", "tcp"]}))),
            ("no", equal(meta("l4proto"), json!(17))),
            ("yes", equal(meta("nfproto"), json!("ipv4"))),
            ("yes", equal(meta("skuid"), json!(1000))),
            ("no", equal(meta("skgid"), json!(1000))),
            ("maybe", equal(meta("skuid"), json!("alice"))),
            ("maybe", equal(meta("mark"), json!(1))),
            ("maybe", equal(meta("oifname"), json!("lo"))),
            ("yes", ct("in", json!(["new", "established"]))),
            ("no", ct("in", json!(["established", "related"]))),
            ("no", ct("==", json!({"set": [2, 4]}))),
            ("yes", flags("==", json!("syn"))),
            ("no", flags("!=", json!("syn"))),
            ("no", flags("==", json!(["syn", "ack"]))),
            ("yes", equal(concat.clone(), pairs(25))),
            ("no", equal(concat, pairs(26))),
            ("maybe", json!({"limit": {"rate": 1, "per": "second"}})),
            ("maybe", json!({"xt": null})),
            ("maybe", json!("odd")),
        ] {
            assert_eq!(holds("rule", statement.clone()), expected, "{statement}");
        }
    }

    #[test]
    fn cgroup_is_compared_at_the_level_of_the_text() {
        let socket = |right: Value| equal(json!({"socket": {"key": "cgroupv2"}}), right);
        for (expected, level, right) in [
            ("yes", 2, json!("system.slice/a.service")),
            ("yes", 1, json!("system.slice")),
            ("yes", 2, json!(8)),
            ("no", 2, json!(7)),
            ("no", 1, json!("system.slice/a.service")),
            ("no", 2, json!("system.slice/b.service")),
            ("no", 3, json!("system.slice/a.service/b")),
        ] {
            let text =
                format!("comment \"socket cgroupv2 level 9\" socket cgroupv2 level {level} \"x\" accept");
            assert_eq!(holds(&text, socket(right.clone())), expected, "level {level} {right}");
        }
        assert_eq!(holds("no level", socket(json!("system.slice"))), "maybe");
    }
}
