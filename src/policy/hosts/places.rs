//! Where nft wants an address: in matches on addresses, in their sets, and as the target of nat.

use std::ops::Range;

use super::{Flat, HostName};
use crate::{
    model::Family,
    text::{Token, TokenKind},
};

/// A host name's place.
#[derive(Debug)]
pub(super) struct Place {
    /// The index of its token.
    pub(super) at: usize,
    /// The name and the family that is wanted.
    pub(super) host: HostName,
    /// The element or value that is written once for each address; `None` where nft wants one only.
    pub(super) list: Option<List>,
}

/// What is written once for each address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    /// Its tokens.
    pub(super) range: Range<usize>,
    /// Whether it is in braces already.
    pub(super) in_braces: bool,
}

/// All places of host names in a rule of a table of this family, in order.
pub(super) fn find(tokens: &[Flat<'_>], family: Family) -> Vec<Place> {
    let mut finder =
        Finder { tokens, table_is_v6: family == Family::Ip6, table: family, found: Vec::new(), depth: 0 };
    let mut at = 0;
    while at < tokens.len() {
        at = finder.step(at);
    }
    finder.found
}

/// For each component of a key whether it is an address, and then whether an IPv6 one.
type Key = Vec<Option<bool>>;

struct Finder<'a> {
    tokens: &'a [Flat<'a>],
    table: Family,
    table_is_v6: bool,
    found: Vec<Place>,
    /// How many braces are open around the element that is looked at.
    depth: usize,
}

/// Braces deeper than this are no policy that a person wrote; each one costs a look at all within.
const DEEPEST: usize = 8;

impl Finder<'_> {
    fn token(&self, at: usize) -> Option<&Token> {
        self.tokens.get(at).and_then(Flat::token)
    }

    fn is(&self, at: usize, text: &str) -> bool {
        self.token(at).is_some_and(|token| token.is(text))
    }

    fn word(&self, at: usize) -> Option<&str> {
        self.token(at).filter(|token| token.kind == TokenKind::Word).map(|token| token.text.as_str())
    }

    /// Looks at one match or statement; the token after what is done with.
    fn step(&mut self, at: usize) -> usize {
        if matches!(self.word(at), Some("dnat" | "snat" | "tproxy" | "dup" | "fwd")) {
            return self.translation(at);
        }
        match self.key(at) {
            Some((key, next)) if key.iter().any(Option::is_some) => self.value(&key, next),
            Some((_, next)) => next,
            None => at + 1,
        }
    }

    /// `SELECTOR . SELECTOR . …` here, and the token after it.
    fn key(&self, at: usize) -> Option<(Key, usize)> {
        let (first, mut next) = self.selector(at)?;
        let mut key = vec![first];
        while self.is(next, ".") {
            let Some((component, after)) = self.selector(next + 1) else { break };
            key.push(component);
            next = after;
        }
        Some((key, next))
    }

    /// One selector here: whether it is an address, and the token after it.
    fn selector(&self, at: usize) -> Option<(Option<bool>, usize)> {
        let first = self.word(at)?;
        let second = self.word(at + 1).unwrap_or_default();
        let is_address = |word: &str| matches!(word, "saddr" | "daddr");
        let selector = match first {
            "ip" | "ip6" if is_address(second) => (Some(first == "ip6"), at + 2),
            "ip" | "ip6" if IP_FIELDS.contains(&second) => (None, at + 2),
            "arp" if is_address(second) => (self.is(at + 2, "ip").then_some(false), at + 3),
            "rt" if matches!(second, "ip" | "ip6") => (Some(second == "ip6"), at + 3),
            "rt" if second == "nexthop" => (Some(self.table_is_v6), at + 2),
            "ct" if matches!(second, "original" | "reply") => match self.word(at + 2) {
                Some(family @ ("ip" | "ip6")) => (Some(family == "ip6"), at + 4),
                Some(field) => (is_address(field).then_some(self.table_is_v6), at + 3),
                None => (None, at + 2),
            },
            "socket" if second == "cgroupv2" => (None, at + 4),
            "tcp" | "dccp" | "ip" if second == "option" => (None, at + 4),
            _ if FIELDS_OF.contains(&first) => (None, at + 2),
            _ if HEADERS.contains(&first) && !is_keyword(second) => (None, at + 2),
            _ if META_FIELDS.contains(&first) => (None, at + 1),
            _ if self.is(at + 1, ".") => (None, at + 1),
            _ => return None,
        };
        (selector.1 <= self.tokens.len()).then_some(selector)
    }

    /// What a key is compared with or set to, from here; the token after it.
    fn value(&mut self, key: &Key, at: usize) -> usize {
        let mut at = at;
        if self.is(at, "set") {
            self.single(at + 1, key[0].unwrap_or_default());
            return at + 2;
        }
        if COMPARISONS.iter().any(|operator| self.is(at, operator)) {
            at += 1;
        }
        if self.is(at, "map") || self.is(at, "vmap") {
            at += 1;
        }
        if self.is(at, "{") { self.elements(at, key, None) } else { self.plain(key, at) }
    }

    /// A value without braces.
    fn plain(&mut self, key: &Key, first: usize) -> usize {
        let mut end = first;
        let mut names = Vec::new();
        for (index, component) in key.iter().enumerate() {
            if index > 0 && !self.is(end, ".") {
                break;
            }
            let at = if index > 0 { end + 1 } else { end };
            if let Some(name) = component.and_then(|v6| self.host(at, v6)) {
                names.push((at, name));
            }
            let is_value = self.token(at).is_some_and(|token| token.kind != TokenKind::Punctuation);
            if !is_value {
                break;
            }
            end = at + 1;
        }
        self.keep(names, &List { range: first..end, in_braces: false });
        end.max(first)
    }

    /// The elements between the braces that open here; the token after them.
    fn elements(&mut self, brace: usize, key: &Key, data: Option<bool>) -> usize {
        let mut depth = 0_usize;
        let mut first = brace + 1;
        let mut at = brace + 1;
        loop {
            let ends = self.tokens.get(at).is_none() || (depth == 0 && self.is(at, "}"));
            if ends || (depth == 0 && self.is(at, ",")) {
                self.element(first..at, key, data);
                first = at + 1;
            }
            if ends {
                return (at + 1).min(self.tokens.len());
            }
            if self.is(at, "{") {
                depth += 1;
            } else if self.is(at, "}") {
                depth -= 1;
            }
            at += 1;
        }
    }

    fn element(&mut self, range: Range<usize>, key: &Key, data: Option<bool>) {
        if self.is(range.start, "{") {
            if self.depth < DEEPEST {
                self.depth += 1;
                self.elements(range.start, key, data);
                self.depth -= 1;
            }
            return;
        }
        let colon = range.clone().find(|&at| self.is(at, ":")).unwrap_or(range.end);
        let mut names = Vec::new();
        let mut at = range.start;
        for component in key {
            let end = (at..colon).find(|&dot| self.is(dot, ".")).unwrap_or(colon);
            let is_single =
                end == at + 1 || (end > at + 1 && ELEMENT_OPTIONS.iter().any(|o| self.is(at + 1, o)));
            if let Some(name) = component.filter(|_| is_single).and_then(|v6| self.host(at, v6)) {
                names.push((at, name));
            }
            at = end + 1;
        }
        self.keep(names, &List { range: range.clone(), in_braces: true });
        let data_is_single = colon + 2 == range.end || self.is(colon + 2, ".");
        if let Some(v6) = data.filter(|_| colon + 1 < range.end && data_is_single) {
            self.single(colon + 1, v6);
        }
    }

    /// `dnat`, `snat`, `tproxy`, `dup`, `fwd` here.
    fn translation(&mut self, at: usize) -> usize {
        let family = self.word(at + 1).filter(|word| matches!(*word, "ip" | "ip6"));
        let names_device = match self.word(at) {
            Some("fwd") => family.is_none(),
            Some("dup") => self.table == Family::Netdev,
            _ => false,
        };
        let v6 = family.map_or(self.table_is_v6, |family| family == "ip6");
        // `dnat ip addr . port to`, `snat ip prefix to`.
        let Some(to) = (at + 1..at + 6).find(|&at| self.is(at, "to")) else { return at + 1 };
        if names_device {
            return to + 1;
        }
        let target = to + 1;
        if let Some((key, next)) = self.key(target).filter(|(_, next)| self.is(*next, "map")) {
            return if self.is(next + 1, "{") { self.elements(next + 1, &key, Some(v6)) } else { next + 1 };
        }
        if matches!(self.word(target), Some("numgen" | "jhash" | "symhash")) {
            const LONGEST: usize = 24;
            let map = (target..target + LONGEST).find(|&at| self.is(at, "map") || self.is(at, "{"));
            return match map {
                Some(map) if self.is(map + 1, "{") => self.elements(map + 1, &Vec::new(), Some(v6)),
                _ => target + 1,
            };
        }
        self.single(target, v6);
        target + 1
    }

    /// A place for one address only.
    fn single(&mut self, at: usize, v6: bool) {
        if let Some(host) = self.host(at, v6) {
            self.found.push(Place { at, host, list: None });
        }
    }

    fn keep(&mut self, names: Vec<(usize, HostName)>, list: &List) {
        self.found.extend(names.into_iter().map(|(at, host)| Place { at, host, list: Some(list.clone()) }));
    }

    fn host(&self, at: usize, v6: bool) -> Option<HostName> {
        let token = self.token(at)?;
        let is_candidate = match token.kind {
            TokenKind::Quoted => true,
            TokenKind::Word => !is_keyword(&token.text) && !self.is_piece_of_address(at),
            _ => false,
        };
        let name = token.unquoted();
        (is_candidate && is_host_name(name)).then(|| HostName { name: name.to_owned(), v6 })
    }

    /// Whether a word such as `dead` stands at a colon, as in a mistyped IPv6 address.
    fn is_piece_of_address(&self, at: usize) -> bool {
        let is_hex = self.word(at).is_some_and(|word| word.bytes().all(|b| b.is_ascii_hexdigit()));
        let follows = at > 0 && self.is(at - 1, ":") && self.token(at).is_some_and(|token| !token.spaced);
        let precedes = self.token(at + 1).is_some_and(|token| token.is(":") && !token.spaced);
        is_hex && (follows || precedes)
    }
}

/// Labels of letters, digits, `-` and `_` with at least one letter, and no number such as `0x1`.
fn is_host_name(text: &str) -> bool {
    let labels = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let is_number =
        text.len() > 2 && text.starts_with("0x") && text[2..].bytes().all(|b| b.is_ascii_hexdigit());
    labels.split('.').all(is_label) && labels.bytes().any(|b| b.is_ascii_alphabetic()) && !is_number
}

const COMPARISONS: [&str; 12] = ["==", "!=", "eq", "ne", "<", ">", "<=", ">=", "lt", "gt", "le", "ge"];

/// What may follow an element's key.
const ELEMENT_OPTIONS: [&str; 6] = ["timeout", "expires", "comment", "counter", "limit", "quota"];

/// Fields of the IP headers, besides addresses. A list, as `meta protocol ip ip daddr …` is nft too.
const IP_FIELDS: [&str; 14] = [
    "version",
    "hdrlength",
    "dscp",
    "ecn",
    "length",
    "id",
    "frag-off",
    "ttl",
    "protocol",
    "checksum",
    "flowlabel",
    "nexthdr",
    "hoplimit",
    "priority",
];

/// What is always followed by a field's name.
const FIELDS_OF: [&str; 8] = ["ct", "exthdr", "ipsec", "meta", "osf", "rt", "socket", "th"];

/// What is followed by a field's name, but may be a protocol's name itself.
const HEADERS: [&str; 23] = [
    "ah", "arp", "comp", "dccp", "dst", "esp", "ether", "frag", "geneve", "gre", "gretap", "hbh", "icmp",
    "icmpv6", "igmp", "mh", "rt0", "sctp", "tcp", "udp", "udplite", "vlan", "vxlan",
];

/// Fields of `meta` that stand without it.
const META_FIELDS: [&str; 19] = [
    "cgroup", "cpu", "ibriport", "ibrname", "iif", "iifgroup", "iifname", "iiftype", "mark", "nftrace",
    "obriport", "obrname", "oif", "oifgroup", "oifname", "oiftype", "pkttype", "skgid", "skuid",
];

fn is_keyword(word: &str) -> bool {
    KEYWORDS.binary_search(&word).is_ok()
}

/// Words that nft's scanner doesn't take as a name where an address may be; in order.
const KEYWORDS: [&str; 160] = [
    "accept",
    "add",
    "ah",
    "all",
    "and",
    "arp",
    "bridge",
    "cgroup",
    "chain",
    "comment",
    "comp",
    "constant",
    "continue",
    "counter",
    "cpu",
    "create",
    "ct",
    "day",
    "dccp",
    "define",
    "delete",
    "describe",
    "destroy",
    "device",
    "devices",
    "dnat",
    "drop",
    "dst",
    "dup",
    "dynamic",
    "ecn",
    "element",
    "elements",
    "eq",
    "esp",
    "ether",
    "exists",
    "expires",
    "export",
    "exthdr",
    "fib",
    "flags",
    "flow",
    "flowtable",
    "flush",
    "frag",
    "fwd",
    "ge",
    "geneve",
    "get",
    "goto",
    "gre",
    "gretap",
    "gt",
    "handle",
    "hbh",
    "hook",
    "hour",
    "ibriport",
    "ibrname",
    "icmp",
    "icmpv6",
    "igmp",
    "iif",
    "iifgroup",
    "iifname",
    "iiftype",
    "import",
    "include",
    "index",
    "inet",
    "insert",
    "interval",
    "ip",
    "ip6",
    "ipsec",
    "jhash",
    "jump",
    "last",
    "le",
    "limit",
    "list",
    "log",
    "lshift",
    "lt",
    "map",
    "mark",
    "masquerade",
    "meta",
    "meter",
    "mh",
    "missing",
    "mod",
    "monitor",
    "ne",
    "netdev",
    "nftrace",
    "not",
    "notrack",
    "numgen",
    "obriport",
    "obrname",
    "offload",
    "offset",
    "oif",
    "oifgroup",
    "oifname",
    "oiftype",
    "or",
    "osf",
    "pkttype",
    "policy",
    "position",
    "priority",
    "queue",
    "quota",
    "random",
    "redefine",
    "redirect",
    "reject",
    "rename",
    "replace",
    "reset",
    "return",
    "rshift",
    "rt",
    "rt0",
    "rtclassid",
    "rule",
    "ruleset",
    "sctp",
    "secmark",
    "seed",
    "set",
    "size",
    "skgid",
    "skuid",
    "snat",
    "socket",
    "symhash",
    "synproxy",
    "table",
    "tcp",
    "th",
    "time",
    "timeout",
    "tproxy",
    "tunnel",
    "type",
    "typeof",
    "udp",
    "udplite",
    "undefine",
    "update",
    "vlan",
    "vmap",
    "vni",
    "vxlan",
    "xor",
    "xt",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_in_order() {
        assert!(KEYWORDS.is_sorted());
    }

    #[test]
    fn host_names_are_told_from_addresses() {
        for name in ["localhost", "mail.intranet.local", "a-b.c_d", "1and1.com", "example.org."] {
            assert!(is_host_name(name), "{name}");
        }
        for other in ["10.0.0.1", "10.0.0.0/8", "fe80::1", "0x1f", "80", "a..b", "", ".", "eth*", "a/b", "-a"]
        {
            assert!(!is_host_name(other), "{other}");
        }
    }
}
