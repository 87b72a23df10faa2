//! A packet's way through the chains, as the rules read. What cannot be told from their text is "maybe".
//!
//! The packet is the first one of a connection, so `ct state` is `new` where connections are tracked already.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::{
    path::{Event, Origins, Outcome, Path, Step, Verdict, step},
    ruleset::{Base, Rule, Ruleset, chain_of},
    subject::Protocol,
};
use crate::model::{CgroupId, CgroupPath, ChainRef, Family, SetRef};

/// From this priority on connections are tracked (`NF_IP_PRI_CONNTRACK`).
const TRACKING: i64 = -200;

/// How deep chains may call each other (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

/// What is known of the packet.
#[derive(Debug, Clone)]
pub struct Sent<'a> {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it goes.
    pub to: SocketAddr,
    /// Whether that is this machine.
    pub is_local: bool,
    /// The cgroup that it comes from.
    pub cgroup: &'a CgroupPath,
    /// The ids of that and those above it, from level 1.
    pub ids: Vec<CgroupId>,
    /// The number of the user who sends it, and of the user's group.
    pub user: Option<(u32, u32)>,
}

/// The way that the packet goes, as the rules read.
pub fn read(sent: &Sent<'_>, ruleset: &Ruleset, origins: &Origins<'_>) -> Path {
    let hooks: &[&str] = if sent.is_local {
        &["output", "postrouting", "prerouting", "input"]
    } else {
        &["output", "postrouting"]
    };
    let mut reader = Reader {
        sent,
        ruleset,
        origins,
        steps: vec![],
        is_certain: true,
        is_changed: false,
        is_tracked: true,
    };
    let mut outcome = Outcome::Passes;
    for hook in hooks {
        for (name, base) in ruleset.of_hook(hook).filter(|(name, _)| is_for(name.table.family, sent.to.ip()))
        {
            let Some(base) = base.base.as_ref() else { continue };
            let ends = reader.base(name, base);
            if !ends.accepts && !ends.queues {
                return reader.path(Outcome::Refused);
            }
            if ends.drops || ends.queues {
                outcome = Outcome::Unknown;
            }
        }
    }
    if ruleset.unread.is_empty() { reader.path(outcome) } else { reader.path(Outcome::Unknown) }
}

/// Whether chains of a family see packets to an address.
fn is_for(family: Family, to: IpAddr) -> bool {
    match family {
        Family::Inet => true,
        Family::Ip => to.is_ipv4(),
        Family::Ip6 => to.is_ipv6(),
        _ => false,
    }
}

/// An answer with a third one: it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
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

/// What may become of a packet in a chain.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    accepts: bool,
    drops: bool,
    queues: bool,
    /// It comes to the end of the chain, or returns.
    returns: bool,
}

impl Ends {
    fn add(&mut self, other: Self) {
        self.accepts |= other.accepts;
        self.drops |= other.drops;
        self.queues |= other.queues;
        self.returns |= other.returns;
    }

    fn is_final(self) -> bool {
        self.accepts || self.drops || self.queues
    }
}

/// What an expression has for the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fact {
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

/// Goes through the chains.
struct Reader<'a> {
    sent: &'a Sent<'a>,
    ruleset: &'a Ruleset,
    origins: &'a Origins<'a>,
    steps: Vec<Step>,
    /// Whether the packet comes here for certain.
    is_certain: bool,
    /// Whether a rule may have given it another destination.
    is_changed: bool,
    /// Whether its connection is tracked.
    is_tracked: bool,
}

impl Reader<'_> {
    fn path(self, outcome: Outcome) -> Path {
        let is_refusal = |step: &Step| matches!(step.verdict.as_str(), "drop" | "reject");
        let is_accepting = |step: &Step| step.verdict == "accept";
        let decided_by = match outcome {
            Outcome::Refused => self.steps.iter().rposition(is_refusal),
            Outcome::Unknown => {
                self.steps.iter().position(|step| is_refusal(step) || step.verdict == "queue")
            }
            Outcome::Passes => {
                let by_rule = self.steps.iter().rposition(|step| is_accepting(step) && step.rule.is_some());
                by_rule.or_else(|| self.steps.iter().rposition(is_accepting))
            }
        };
        Path { found_by: "reading", outcome, steps: self.steps, decided_by }
    }

    /// A base chain: its policy is for what comes to its end.
    fn base(&mut self, name: &ChainRef, base: &Base) -> Ends {
        let came_certainly = self.is_certain;
        let mut ends = self.chain(name, base, 0);
        if ends.returns {
            let verdict = if base.refuses { Verdict::Drop } else { Verdict::Accept };
            let is_maybe = !self.is_certain;
            self.step(name, None, verdict, base, 0, is_maybe);
            ends.drops |= base.refuses;
            ends.accepts |= !base.refuses;
        }
        self.is_certain = came_certainly && !ends.drops && !ends.queues;
        ends
    }

    fn chain(&mut self, name: &ChainRef, base: &Base, depth: usize) -> Ends {
        let mut ends = Ends::default();
        let Some(chain) = self.ruleset.chain(name).filter(|_| depth <= DEEPEST) else {
            return Ends { returns: true, ..ends };
        };
        let came_certainly = self.is_certain;
        for rule in &chain.rules {
            for (told, verdict) in self.rule(name, rule, base) {
                let is_certain = self.is_certain && told == Told::Yes;
                self.step(name, Some(rule), verdict.clone(), base, depth, !is_certain);
                let inner = match &verdict {
                    Verdict::Continue => continue,
                    Verdict::Accept => Ends { accepts: true, ..Ends::default() },
                    Verdict::Drop => Ends { drops: true, ..Ends::default() },
                    // Nobody knows either what comes of the elements of a map that could not be read.
                    Verdict::Queue | Verdict::Other(_) => Ends { queues: true, ..Ends::default() },
                    Verdict::Return => Ends { returns: true, ..Ends::default() },
                    Verdict::Jump(target) | Verdict::Goto(target) => {
                        let before = std::mem::replace(&mut self.is_certain, is_certain);
                        let inner = self.chain(&chain_of(&name.table, target), base, depth + 1);
                        self.is_certain = before;
                        inner
                    }
                };
                let comes_back = matches!(verdict, Verdict::Jump(_)) && inner.returns;
                ends.add(Ends { returns: inner.returns && !comes_back, ..inner });
                if told == Told::Yes && !comes_back {
                    // What calls this chain goes on for certain only if it surely comes back.
                    self.is_certain = came_certainly;
                    return ends;
                }
                self.is_certain &= !(inner.is_final() || (inner.returns && !comes_back));
            }
        }
        self.is_certain = came_certainly && !ends.is_final();
        ends.returns = true;
        ends
    }

    fn step(
        &mut self,
        chain: &ChainRef,
        rule: Option<&Rule>,
        verdict: Verdict,
        base: &Base,
        depth: usize,
        maybe: bool,
    ) {
        let event = Event {
            id: 0,
            chain: chain.clone(),
            rule: rule.map(|rule| rule.handle),
            is_policy: rule.is_none(),
            verdict,
        };
        let at = (base.hook.clone(), base.priority);
        if let Some(step) = step(&event, depth, &at, self.ruleset, self.origins) {
            self.steps.push(Step { maybe, ..step });
        }
    }

    /// The verdicts that a rule may have for the packet: a certain one is the only one.
    fn rule(&mut self, chain: &ChainRef, rule: &Rule, base: &Base) -> Vec<(Told, Verdict)> {
        let mut levels = levels(&rule.text).into_iter();
        let mut told = Told::Yes;
        for statement in &rule.statements {
            let Some((kind, value)) = statement.as_object().and_then(|object| object.iter().next()) else {
                told = told.min(Told::Maybe);
                continue;
            };
            let verdicts = match kind.as_str() {
                "match" => {
                    told = told.min(self.matches(chain, value, base, &mut levels));
                    vec![]
                }
                "vmap" => {
                    let found = self.looked_up(chain, value, base, &mut levels).into_iter();
                    return found.map(|(each, verdict)| (each.min(told), verdict)).collect();
                }
                "counter" | "log" | "comment" | "last" | "dup" | "flow" | "ct helper" | "ct timeout"
                | "ct expectation" | "secmark" | "map" => vec![],
                "notrack" => {
                    self.is_tracked = false;
                    vec![]
                }
                "mangle" => {
                    self.is_changed |= !value["key"]["payload"].is_null();
                    vec![]
                }
                "set" if value["stmt"].is_null() => vec![],
                "dnat" | "redirect" | "tproxy" => {
                    self.is_changed = true;
                    vec![(told, Verdict::Accept)]
                }
                "snat" | "masquerade" => vec![(told, Verdict::Accept)],
                _ => match verdict(statement) {
                    Some(verdict) => vec![(told, verdict)],
                    None => {
                        told = told.min(Told::Maybe);
                        vec![]
                    }
                },
            };
            if told == Told::No {
                return vec![];
            }
            if !verdicts.is_empty() {
                return verdicts;
            }
        }
        vec![(told, Verdict::Continue)]
    }

    /// A match.
    fn matches(
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

    /// The verdicts of a map that may be for the packet.
    fn looked_up(
        &self,
        chain: &ChainRef,
        value: &Value,
        base: &Base,
        levels: &mut dyn Iterator<Item = u32>,
    ) -> Vec<(Told, Verdict)> {
        let facts = self.facts(&value["key"], base, levels);
        if facts.contains(&Fact::None) {
            return vec![];
        }
        let Some(elements) = self.elements(chain, &value["data"]) else {
            return vec![(Told::Maybe, Verdict::Other(0))];
        };
        let mut found = Vec::new();
        for element in elements {
            let told = self.is_one_of(chain, &facts, &element[0]);
            let verdict = verdict(&element[1]).unwrap_or(Verdict::Other(0));
            match told {
                Told::Yes => return vec![(told, verdict)],
                Told::Maybe => found.push((told, verdict)),
                Told::No => {}
            }
        }
        found
    }

    /// The elements of a set or map with or without a name, if they are known.
    fn elements<'v>(&'v self, chain: &ChainRef, value: &'v Value) -> Option<&'v Vec<Value>> {
        match value.as_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => {
                let set = SetRef { table: chain.table.clone(), name: name.into() };
                self.ruleset.elements(&set)?.as_array()
            }
            None => value["set"].as_array(),
        }
    }

    /// Whether facts are, or are among, what stands right of a match.
    fn is_one_of(&self, chain: &ChainRef, facts: &[Fact], value: &Value) -> Told {
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
    fn facts(&self, value: &Value, base: &Base, levels: &mut dyn Iterator<Item = u32>) -> Vec<Fact> {
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

/// A statement that is a verdict.
fn verdict(statement: &Value) -> Option<Verdict> {
    let (kind, value) = statement.as_object()?.iter().next()?;
    let target = || Some(value["target"].as_str()?.to_owned());
    Some(match kind.as_str() {
        "accept" => Verdict::Accept,
        "drop" | "reject" => Verdict::Drop,
        "queue" => Verdict::Queue,
        "continue" => Verdict::Continue,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(target()?),
        "goto" => Verdict::Goto(target()?),
        _ => return None,
    })
}

/// The levels of the matches of cgroups in a rule, in order, which JSON does not have.
fn levels(text: &str) -> Vec<u32> {
    let words: Vec<&str> = text.split('"').step_by(2).flat_map(str::split_whitespace).collect();
    let found = words.windows(4).filter_map(|window| match window {
        ["socket", "cgroupv2", "level", level] => level.parse().ok(),
        _ => None,
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{dispatch::Dispatch, policy::Policy, units::selector::Users};

    const SET: &str = "@nets";

    /// What is read of rules in an output chain, each as its text and statements, whose policy is to drop.
    fn reads(rules: &[(&str, Value)], to: &str, protocol: Protocol) -> (Outcome, Vec<String>) {
        let chain = |name: &str| json!({"family": "inet", "table": "f", "name": name, "handle": 1});
        let mut base = chain("out");
        for (key, value) in [
            ("type", json!("filter")),
            ("hook", json!("output")),
            ("prio", json!(0)),
            ("policy", json!("drop")),
        ] {
            base[key] = value;
        }
        let mut objects = vec![
            json!({"chain": chain("called")}),
            json!({"chain": base}),
            json!({"set": {"family": "inet", "table": "f", "name": "nets"}}),
            json!({"rule": {"family": "inet", "table": "f", "chain": "called", "handle": 99, "expr": [{"return": null}]}}),
        ];
        let mut text =
            "table inet f {\n\tchain called {\n\t\treturn # handle 99\n\t}\n\tchain out {\n".to_owned();
        for (number, (words, statements)) in rules.iter().enumerate() {
            objects.push(json!({"rule":
                {"family": "inet", "table": "f", "chain": "out", "handle": number, "expr": statements}}));
            text += &format!("\t\t{words} # handle {number}\n");
        }
        let mut ruleset = Ruleset::of(&[json!({ "nftables": objects })], &format!("{text}\t}}\n}}\n"));
        ruleset.know(
            ruleset.unknown_sets().remove(0),
            json!([{"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": ["192.0.2.1", "192.0.2.9"]}]),
        );
        let (policy, dispatch, users) = (Policy::default(), Dispatch::default(), Users::new());
        let cgroup = "system.slice/a.service".parse().unwrap();
        let origins = Origins { policy: &policy, dispatch: &dispatch, users: &users, cgroup: &cgroup };
        let sent = Sent {
            protocol,
            to: to.parse().unwrap(),
            is_local: false,
            cgroup: &cgroup,
            ids: vec![CgroupId(7), CgroupId(8)],
            user: Some((1000, 100)),
        };
        let path = read(&sent, &ruleset, &origins);
        let line = |step: &Step| {
            let rule = step.rule.as_deref().unwrap_or("policy");
            format!("{rule} -> {}{}", if step.maybe { "maybe " } else { "" }, step.verdict)
        };
        let mut lines: Vec<String> = path.steps.iter().map(line).collect();
        lines.extend(path.decided_by.map(|at| format!("by {at}")));
        (path.outcome, lines)
    }

    fn payload(protocol: &str, field: &str) -> Value {
        json!({"payload": {"protocol": protocol, "field": field}})
    }

    fn equal(left: Value, right: Value) -> Value {
        json!({"match": {"op": "==", "left": left, "right": right}})
    }

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

    #[test]
    fn way_is_that_of_the_trace() {
        let map = json!({"vmap": {"key": payload("tcp", "dport"), "data": {"set": [[22, {"accept": null}], [25, {"jump": {"target": "called"}}]]}}});
        let rules = [
            ("counter", json!([{"counter": {"packets": 1, "bytes": 2}}])),
            ("vmap", json!([map])),
            ("reject", json!([{"reject": null}])),
            ("late", json!([{"accept": null}])),
        ];
        assert_eq!(
            reads(&rules, "10.1.2.3:25", Protocol::Tcp),
            (
                Outcome::Refused,
                [
                    "counter -> continue",
                    "vmap -> jump called",
                    "return -> return",
                    "reject -> reject",
                    "by 3"
                ]
                .map(str::to_owned)
                .to_vec()
            )
        );
        assert_eq!(reads(&rules, "10.1.2.3:22", Protocol::Tcp).0, Outcome::Passes);
        assert_eq!(
            reads(&[], "10.1.2.3:25", Protocol::Udp),
            (Outcome::Refused, vec!["policy -> drop".to_owned(), "by 0".to_owned()])
        );
    }

    #[test]
    fn what_may_be_is_unknown_unless_all_comes_to_the_same() {
        let marked = |verdict: &str| {
            let statements = json!([equal(json!({"meta": {"key": "mark"}}), json!(1)), {verdict: null}]);
            ("mark", statements)
        };
        let accept = ("accept", json!([{"accept": null}]));
        let to = "10.1.2.3:25";
        let read = |rules: &[(&str, Value)]| reads(rules, to, Protocol::Tcp);
        assert_eq!(read(&[marked("drop")]).0, Outcome::Refused);
        assert_eq!(read(&[marked("accept"), accept.clone()]).0, Outcome::Passes);
        let (outcome, lines) = read(&[marked("drop"), accept.clone()]);
        assert_eq!(outcome, Outcome::Unknown);
        assert_eq!(lines, ["mark -> maybe drop", "accept -> maybe accept", "by 0"]);
        assert_eq!(read(&[marked("return"), accept.clone()]).0, Outcome::Unknown);
        let map = json!([{"vmap": {"key": payload("tcp", "dport"), "data": "@unknown"}}]);
        assert_eq!(read(&[("map", map), accept.clone()]).0, Outcome::Unknown);
        assert_eq!(read(&[("queue", json!([{"queue": {}}])), accept]).0, Outcome::Unknown);
    }
}
