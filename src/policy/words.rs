//! What nft's words do in a rule, as far as it matters whether they only match. Pure.

use crate::text::Token;

/// Whether tokens in front of a cgroup match are known to be nothing but matches, so that it makes no difference
/// which is tested first. What is not known is taken for an effect.
pub fn only_matches(before: &[&Token]) -> bool {
    before.first().is_none_or(|first| first.is_any(&MATCHES))
        && !before.iter().any(|token| token.is_any(&OTHERS))
}

/// Matches without any effect or memory of their own, by the words that they begin with.
const MATCHES: [&str; 26] = [
    "ip", "ip6", "tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "igmp", "th", "esp", "ah",
    "comp", "meta", "ct", "iif", "oif", "iifname", "oifname", "iiftype", "oiftype", "mark", "skuid", "skgid",
    "fib",
];

/// Words that count, remember, log, change or decide something wherever they stand, or that stand for what is not known
/// here.
const OTHERS: [&str; 38] = [
    "set",
    "counter",
    "limit",
    "quota",
    "log",
    "numgen",
    "count",
    "add",
    "update",
    "delete",
    "last",
    "queue",
    "dup",
    "fwd",
    "notrack",
    "flow",
    "helper",
    "timeout",
    "expectation",
    "synproxy",
    "tproxy",
    "snat",
    "dnat",
    "reset",
    "accept",
    "drop",
    "return",
    "continue",
    "jump",
    "goto",
    "reject",
    "vmap",
    "comment",
    "masquerade",
    "redirect",
    "xt",
    "osf",
    "meter",
];
