//! Which word of a statement nft cannot have meant, and which of its words is meant. Pure.

use crate::text::{Token, TokenKind, nearest::nearest};

/// What nft takes behind a word (or behind two), as far as it is a list that one can know.
const AFTER: &[(&str, &[&str])] = &[
    ("with icmp type", CODES),
    ("with icmpv6 type", &["no-route", "admin-prohibited", "addr-unreachable", "port-unreachable"]),
    ("icmpx type", &["port-unreachable", "admin-prohibited", "no-route", "host-unreachable"]),
    ("icmp type", ICMP),
    ("icmpv6 type", ICMPV6),
    ("ether type", &["ip", "ip6", "arp", "vlan"]),
    ("fib type", &["local", "unicast", "broadcast", "multicast", "anycast", "blackhole", "prohibit"]),
    ("with tcp", &["reset"]),
    ("with", &["tcp", "icmp", "icmpv6", "icmpx"]),
    ("tcp flags", &["syn", "fin", "rst", "psh", "ack", "urg", "ecn", "cwr"]),
    ("tcp", &["sport", "dport", "flags", "option", "sequence", "ackseq", "window", "checksum", "doff"]),
    ("udp", &["sport", "dport", "length", "checksum"]),
    ("th", &["sport", "dport"]),
    ("sctp", &["sport", "dport", "chunk", "vtag"]),
    (
        "ip",
        &[
            "saddr",
            "daddr",
            "protocol",
            "version",
            "hdrlength",
            "dscp",
            "ecn",
            "length",
            "id",
            "frag-off",
            "ttl",
            "checksum",
        ],
    ),
    ("ip6", &["saddr", "daddr", "nexthdr", "hoplimit", "version", "dscp", "ecn", "flowlabel", "length"]),
    ("ether", &["saddr", "daddr", "type"]),
    ("arp", &["saddr", "daddr", "operation", "htype", "ptype", "hlen", "plen"]),
    ("ct", CT),
    ("original", CT),
    ("reply", CT),
    ("state", &["established", "related", "new", "invalid", "untracked"]),
    ("status", &["expected", "seen-reply", "assured", "confirmed", "snat", "dnat", "dying"]),
    ("meta", META),
    ("socket", &["cgroupv2", "transparent", "wildcard", "mark"]),
    ("cgroupv2", &["level"]),
    ("icmp", &["type", "code", "checksum", "id", "sequence", "mtu", "gateway"]),
    ("icmpv6", &["type", "code", "checksum", "id", "sequence", "mtu", "parameter-problem", "max-delay"]),
    ("limit", &["rate", "name"]),
    ("rate", &["over"]),
    ("log", &["prefix", "level", "group", "flags", "snaplen", "queue-threshold"]),
    ("level", &["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug", "audit"]),
    ("reject", &["with"]),
    ("policy", &["accept", "drop"]),
    ("hook", &["prerouting", "input", "forward", "output", "postrouting", "ingress", "egress"]),
    ("fib", &["saddr", "daddr", "mark", "iif", "oif", "type"]),
    ("l4proto", PROTOCOLS),
    ("protocol", PROTOCOLS),
    ("nexthdr", PROTOCOLS),
    ("pkttype", &["host", "unicast", "broadcast", "multicast", "other"]),
    ("dport", SERVICES),
    ("sport", SERVICES),
    ("flush", &["ruleset", "table", "chain", "set", "map"]),
    ("list", &["ruleset", "tables", "chains", "sets", "table", "chain", "set", "map"]),
    ("add", OBJECTS),
    ("create", OBJECTS),
    ("insert", &["rule"]),
    ("replace", &["rule"]),
    ("delete", OBJECTS),
    ("destroy", OBJECTS),
    ("table", FAMILIES),
    ("type", TYPES),
    (":", &["accept", "drop", "return", "continue", "jump", "goto", "queue"]),
];

const CT: &[&str] = &[
    "state",
    "status",
    "direction",
    "mark",
    "label",
    "zone",
    "helper",
    "timeout",
    "count",
    "expiration",
    "original",
    "reply",
    "l3proto",
    "protocol",
    "id",
    "bytes",
    "packets",
    "avgpkt",
    "event",
    "expectation",
    "saddr",
    "daddr",
    "ip",
    "ip6",
    "proto-src",
    "proto-dst",
    "secmark",
];

const META: &[&str] = &[
    "length",
    "protocol",
    "l4proto",
    "nfproto",
    "priority",
    "mark",
    "iif",
    "oif",
    "iifname",
    "oifname",
    "iiftype",
    "oiftype",
    "skuid",
    "skgid",
    "nftrace",
    "rtclassid",
    "ibrname",
    "obrname",
    "pkttype",
    "cpu",
    "iifgroup",
    "oifgroup",
    "cgroup",
    "random",
    "ipsec",
    "secpath",
    "secmark",
    "iifkind",
    "oifkind",
    "time",
    "day",
    "hour",
    "sdif",
    "sdifname",
];

const PROTOCOLS: &[&str] = &[
    "tcp",
    "udp",
    "icmp",
    "icmpv6",
    "ipv6-icmp",
    "igmp",
    "esp",
    "ah",
    "sctp",
    "udplite",
    "gre",
    "dccp",
    "ospf",
    "vrrp",
    "ip",
    "ip6",
    "arp",
    "vlan",
];

const SERVICES: &[&str] = &[
    "ssh",
    "http",
    "https",
    "domain",
    "smtp",
    "submission",
    "submissions",
    "imap2",
    "imaps",
    "pop3",
    "pop3s",
    "ntp",
    "telnet",
    "ftp",
    "tftp",
    "bootps",
    "bootpc",
    "ldap",
    "ldaps",
    "snmp",
    "syslog",
    "sip",
    "mysql",
    "postgresql",
    "mdns",
    "nfs",
    "sunrpc",
    "openvpn",
    "isakmp",
    "domain-s",
    "rsync",
    "kerberos",
];

const ICMP: &[&str] = &[
    "echo-reply",
    "echo-request",
    "destination-unreachable",
    "source-quench",
    "redirect",
    "time-exceeded",
    "parameter-problem",
    "timestamp-request",
    "timestamp-reply",
    "router-advertisement",
    "router-solicitation",
];

const ICMPV6: &[&str] = &[
    "destination-unreachable",
    "packet-too-big",
    "time-exceeded",
    "parameter-problem",
    "echo-request",
    "echo-reply",
    "mld-listener-query",
    "mld-listener-report",
    "mld-listener-done",
    "nd-router-solicit",
    "nd-router-advert",
    "nd-neighbor-solicit",
    "nd-neighbor-advert",
    "nd-redirect",
    "router-renumbering",
    "mld2-listener-report",
    "ind-neighbor-solicit",
    "ind-neighbor-advert",
];

const CODES: &[&str] = &[
    "net-unreachable",
    "host-unreachable",
    "prot-unreachable",
    "port-unreachable",
    "net-prohibited",
    "host-prohibited",
    "admin-prohibited",
];

/// Words of other languages, and what is meant.
const SYNONYMS: &[(&[&str], &str)] = &[
    (&["allow", "pass", "permit"], "accept"),
    (&["deny", "block", "discard"], "drop"),
    (&["src", "source"], "saddr"),
    (&["dst", "dest", "destination"], "daddr"),
    (&["port", "destination-port"], "dport"),
    (&["source-port"], "sport"),
    (&["uid"], "skuid"),
    (&["gid"], "skgid"),
    (&["ping"], "echo-request"),
    (&["ipv4"], "ip"),
    (&["ipv6"], "ip6"),
    (&["warning"], "warn"),
    (&["error"], "err"),
];

/// Words between two values, and the interface that everybody has.
const OTHERS: &[&str] =
    &["and", "or", "xor", "not", "eq", "ne", "lt", "gt", "le", "ge", "lshift", "rshift", "lo"];

const OBJECTS: &[&str] = &[
    "table",
    "chain",
    "rule",
    "set",
    "map",
    "element",
    "flowtable",
    "counter",
    "quota",
    "limit",
    "ct",
    "secmark",
    "synproxy",
];

const TYPES: &[&str] = &[
    "filter",
    "nat",
    "route",
    "ipv4_addr",
    "ipv6_addr",
    "ether_addr",
    "inet_proto",
    "inet_service",
    "mark",
    "ifname",
    "iface_index",
    "cgroupsv2",
    "ct_state",
    "icmp_type",
    "icmpv6_type",
    "verdict",
    "uid",
    "gid",
];

/// The families of tables.
pub(super) const FAMILIES: &[&str] = &["ip", "ip6", "inet", "arp", "bridge", "netdev"];

/// What begins a statement, of a rule, of a block or of a file.
const FIRST: &[&str] = &[
    "accept",
    "drop",
    "return",
    "continue",
    "jump",
    "goto",
    "queue",
    "reject",
    "counter",
    "log",
    "limit",
    "quota",
    "masquerade",
    "redirect",
    "snat",
    "dnat",
    "tproxy",
    "notrack",
    "dup",
    "fwd",
    "synproxy",
    "vmap",
    "map",
    "set",
    "ip",
    "ip6",
    "tcp",
    "udp",
    "udplite",
    "sctp",
    "dccp",
    "icmp",
    "icmpv6",
    "igmp",
    "ether",
    "arp",
    "vlan",
    "meta",
    "ct",
    "socket",
    "fib",
    "iif",
    "oif",
    "iifname",
    "oifname",
    "iifgroup",
    "oifgroup",
    "mark",
    "skuid",
    "skgid",
    "pkttype",
    "th",
    "numgen",
    "jhash",
    "symhash",
    "comment",
    "add",
    "update",
    "create",
    "insert",
    "delete",
    "flush",
    "destroy",
    "list",
    "table",
    "chain",
    "rule",
    "element",
    "elements",
    "flowtable",
    "type",
    "typeof",
    "flags",
    "policy",
    "hook",
    "priority",
    "device",
    "devices",
    "timeout",
    "size",
    "auto-merge",
    "define",
    "redefine",
    "include",
    "esp",
    "ah",
    "rt",
    "tunnel",
    "inet",
    "bridge",
    "netdev",
    "level",
    "prefix",
    "dport",
    "sport",
    "saddr",
    "daddr",
];

/// Words behind which stands something of the user's.
const OPERANDS: &[&str] = &[
    "iif",
    "oif",
    "iifname",
    "oifname",
    "ibrname",
    "obrname",
    "iifgroup",
    "oifgroup",
    "saddr",
    "daddr",
    "jump",
    "goto",
    "name",
    "skuid",
    "skgid",
    "prefix",
    "comment",
    "chain",
    "set",
    "map",
    "flowtable",
    "define",
    "redefine",
    "include",
    "device",
    "devices",
    "mark",
    "typeof",
    "to",
    "zone",
    "label",
    "helper",
    "timeout",
    "by",
    "priority",
    "index",
    "handle",
    "position",
    "element",
    "rule",
    "=",
];

/// How many words are looked at in front of the one where nft stops: a list may have very many.
const LOOKED_AT: usize = 1000;

/// The last misspelt word among the first `end` ones of a statement, where nft stops, and what is meant.
pub(super) fn misspelt<'a>(tokens: &'a [&'a Token], end: usize) -> Option<(&'a Token, &'static str)> {
    (0..end.min(tokens.len())).rev().take(LOOKED_AT).find_map(|at| {
        let word = tokens[at];
        let is_word = word.kind == TokenKind::Word && word.text.contains(|c: char| c.is_ascii_alphabetic());
        let known = if is_word { known(tokens, at) } else { None }?;
        if known.contains(&&*word.text) || OTHERS.contains(&&*word.text) {
            return None;
        }
        meant(&word.text, known).map(|meant| (word, meant))
    })
}

/// Which of the words is meant by this one.
fn meant(word: &str, known: &'static [&'static str]) -> Option<&'static str> {
    let synonym = SYNONYMS.iter().find(|(words, _)| words.contains(&word)).map(|(_, meant)| *meant);
    let near =
        || nearest(word, known.iter().copied()).filter(|near| word.len() > 2 || near.len() > word.len());
    synonym.filter(|meant| known.contains(meant)).or_else(near)
}

/// Whether it is a word of nft's that begins a statement, and so no name.
pub(super) fn is_of_nft(word: &str) -> bool {
    FIRST.contains(&word) || FAMILIES.contains(&word)
}

/// What may stand at a place; none where that is the user's business.
fn known(tokens: &[&Token], at: usize) -> Option<&'static [&'static str]> {
    let list = |before: usize| {
        let braces = tokens[..before].iter().rposition(|token| token.is("{") || token.is("}"));
        braces.filter(|brace| tokens[*brace].is("{"))
    };
    let mut before = at;
    // A word of a list goes with what stands in front of the list, but for a value behind its colon.
    match list(at) {
        _ if at > 0 && tokens[at - 1].is(":") => {}
        Some(brace) => before = brace,
        None => {
            while before > 1 && tokens[before - 1].is(",") {
                before -= 2;
            }
        }
    }
    while before > 0 && tokens[before - 1].is_any(&["==", "!=", "!", "vmap", "map", "(", "eq", "ne"]) {
        before -= 1;
    }
    let Some(last) = before.checked_sub(1).map(|last| tokens[last]) else { return Some(FIRST) };
    let row = |key: &str| AFTER.iter().find(|(known, _)| *known == key).map(|(_, words)| *words);
    let behind = |number: usize| {
        let words: Vec<&str> =
            tokens[before.checked_sub(number)?..before].iter().map(|word| &*word.text).collect();
        row(&words.join(" "))
    };
    let is_of_type = last.is_any(&[":", "."]) && tokens[0].is("type");
    let words = is_of_type.then_some(TYPES).or_else(|| (1..=3).rev().find_map(behind));
    match words {
        Some(words) => Some(words),
        None if last.is_any(OPERANDS) || list(at).is_some() => None,
        None => Some(FIRST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{
        FileId,
        token::{Joined, tokenize},
    };

    fn found(text: &str) -> Option<(String, &'static str)> {
        let mut joined = Joined::new(FileId(0));
        joined.push(text, 0);
        let tokens = tokenize(&joined).tokens;
        let tokens: Vec<&Token> = tokens.iter().collect();
        misspelt(&tokens, tokens.len()).map(|(word, meant)| (word.text.to_string(), meant))
    }

    #[test]
    fn misspelt_word_is_found_by_what_stands_before_it() {
        for (text, word, meant) in [
            ("tcp dport 25 acept", "acept", "accept"),
            ("tcp dprot 25", "dprot", "dport"),
            ("udpp dport 53 accept", "udpp", "udp"),
            ("ct stat established", "stat", "state"),
            ("ct state { established, relatd }", "relatd", "related"),
            ("ct state established,relatd", "relatd", "related"),
            ("ct state NEW", "NEW", "new"),
            ("limt rate 3/second", "limt", "limit"),
            ("polcy accept", "polcy", "policy"),
            ("type filtre hook input", "filtre", "filter"),
            ("type filter hook inptu priority 0", "inptu", "input"),
            ("meta l4proto tpc", "tpc", "tcp"),
            ("icmpv6 type nd-neighbour-solicit", "nd-neighbour-solicit", "nd-neighbor-solicit"),
            ("tcp dport vmap { 22 : acept }", "acept", "accept"),
            ("table inett f", "inett", "inet"),
            ("ad rule inet f c", "ad", "add"),
            ("chian c", "chian", "chain"),
            ("tcp dport 22 allow", "allow", "accept"),
            ("ip src 192.0.2.1", "src", "saddr"),
            ("type ipv4_addr : verdct", "verdct", "verdict"),
            ("reject with icmp type port-unreachble", "port-unreachble", "port-unreachable"),
        ] {
            assert_eq!(found(text), Some((word.to_owned(), meant)), "{text}");
        }
    }

    #[test]
    fn what_is_the_user_s_is_no_misspelt_word() {
        for text in [
            "iifname lo tcp dport 22",
            "iifname { lo, acept } tcp dport 22",
            "iifname != acept tcp dport 22",
            "ip saddr lan tcp dport 22",
            "ip saddr @acept tcp dport 22",
            "ip saddr $acept tcp dport 22",
            "log prefix \"acept\" tcp dport 22",
            "tcp dport 22 accept",
            "tcp dport vmap { 22 : jump acept }",
            "jump acept",
            "tcp dport 22 and udp dport 53",
            "in lo accept",
            "define wan = lo bar",
            "meta l4proto { tcp, udp } th dport 53 accept",
            "tcp dport { 22, 80-90 } ct state new limit rate 3/second counter accept",
            "ip saddr . tcp dport { 192.0.2.1 . 22 } accept",
            "type filter hook input priority filter",
            "",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
