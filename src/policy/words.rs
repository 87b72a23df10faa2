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

/// Whether a rule may begin with this word, as far as is known here.
pub fn is_of_rules(token: &Token) -> bool {
    token.is_any(&MATCHES)
        || token.is_any(&OTHERS)
        || token.is_any(&["socket", "ether", "vlan", "rt", "exthdr"])
}

/// Whether a word of a rule, which is no verdict, does something besides matching.
pub fn has_effect(token: &Token) -> bool {
    token.is_any(&OTHERS) && !token.is_any(&["comment", "numgen", "limit", "count"])
}

/// Whether a statement that ends at this byte goes on in the next line, by the looks of that: a comment that begins and
/// ends as a rule's rest does. What lacks is a `\`.
pub fn is_cut_off(text: &str, end: usize) -> bool {
    let mut lines = text[end..].split('\n');
    let is_whole = lines.next().is_some_and(|line| line.trim().is_empty());
    let rest = lines.next().and_then(|line| line.trim().strip_prefix('#')).filter(|_| is_whole);
    rest.is_some_and(|rest| is_rest(rest.trim_start_matches('#').trim().trim_end_matches('\\')))
}

/// Whether a text is a part of a rule up to its verdict, and no prose.
fn is_rest(text: &str) -> bool {
    const VERDICTS: [&str; 8] = ["accept", "drop", "reject", "return", "continue", "jump", "goto", "counter"];
    let words: Vec<&str> = text.split_whitespace().collect();
    let verdict = words.iter().rposition(|word| VERDICTS.contains(word));
    let (Some(first), Some(verdict)) = (words.first(), verdict) else { return false };
    let ends = match words[verdict] {
        "jump" | "goto" => words.len() == verdict + 2,
        _ => words.get(verdict + 1).is_none_or(|next| matches!(*next, "comment" | "with")),
    };
    let begins = match verdict {
        0 => true,
        _ => first.starts_with(['"', '{']) || *first == "socket" || (MATCHES.contains(first) && verdict > 1),
    };
    ends && begins && !words.contains(&"::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_rule_is_told_from_prose() {
        for (below, expected) in [
            ("#   socket cgroupv2 level 2 \"a\" accept", true),
            ("#   tcp dport 22 accept", true),
            ("##\taccept", true),
            ("#   \"system.slice/a.service\" tcp dport 22 reject with tcp reset", true),
            ("#   ip daddr 10.0.0.1 counter \\", true),
            ("# tcp dport 22 jump mail", true),
            ("# tcp dport 22", false),
            ("# accept mail from here", false),
            ("# what we accept", false),
            ("# ip", false),
            ("# a.service :: tcp accept", false),
            ("tcp dport 22 accept", false),
            ("", false),
        ] {
            assert_eq!(is_cut_off(&format!("x\n{below}\ny"), 1), expected, "{below}");
        }
        assert!(!is_cut_off("x # y\n# accept", 1));
        assert!(!is_cut_off("x", 1));
    }
}
