//! W034 to W037: what goes with marks that have packets routed again, in chains of `type route`.

use std::collections::BTreeSet;

use super::{calls::Calls, subject::Subject};
use crate::{
    gather::Gather,
    model::{ChainRef, Family, MaskedMark, Routing},
    policy::{Define, Policy},
    text::{
        Code, Diagnostic, FileId, Outline, Span, Token, TokenKind, diagnostic::quoted, outline::ItemKind,
    },
};

/// Judges annotated rules that set the mark of packets which are routed again then, and all rules that look at this mark.
pub(super) fn lint(
    policy: &Policy,
    subjects: &[Subject<'_>],
    calls: &Calls<'_>,
    routing: Option<&Routing>,
) -> Vec<Diagnostic> {
    let marking: Vec<Marking<'_>> =
        subjects.iter().filter_map(|subject| Marking::of(subject, policy, calls)).collect();
    let Some(first) = marking.first() else { return Vec::new() };
    let files = policy.sources.files.iter().enumerate();
    let outlines: Vec<Outline> =
        files.map(|(number, file)| Outline::of(FileId(number), &file.text)).collect();
    let rules: Vec<Rule<'_>> = of_files(&outlines).chain(subjects.iter().map(Rule::of)).collect();
    let marks: BTreeSet<&Mark> = marking.iter().map(|each| &each.mark).gather();
    let output = rules.iter().filter(|rule| is_only_output(rule.chain, calls));
    let mut diagnostics: Vec<Diagnostic> = output.filter_map(|rule| old_link(rule, &marks, policy)).collect();
    if let Some(routing) = routing {
        let mut told = BTreeSet::new();
        let once = marking.iter().filter(|each| told.insert(&each.mark));
        diagnostics.extend(once.filter_map(|each| no_rule(each, &rules, routing)));
    }
    // A transparent proxy's marks lead to this machine itself.
    if !rules.iter().any(|rule| rule.has(&["tproxy"])) {
        diagnostics.extend(no_source(first, &rules));
        diagnostics.extend(marking.iter().filter_map(|each| one_family(each, subjects, &rules, calls)));
    }
    diagnostics
}

/// W034: a rule that wants to know by which link a packet with such a mark leaves, where that is not known yet.
fn old_link(rule: &Rule<'_>, marks: &BTreeSet<&Mark>, policy: &Policy) -> Option<Diagnostic> {
    let at = rule.tokens.iter().position(|token| token.is_any(&["oifname", "oif"]))?;
    let operand = rule.tokens[at + 1..].iter().find(|token| !token.is_any(&["==", "eq", "!=", "ne"]))?;
    let compared = compared_mark(&rule.tokens, policy)?;
    if operand.unquoted() == "lo" || !marks.contains(&compared) {
        return None;
    }
    let word = rule.tokens[at];
    let message = format!(
        "{} is the link from before the mark: in this hook nobody knows the new one",
        quoted(&word.text)
    );
    let help =
        "write the rule in a chain of `type filter hook postrouting`, with `drop` in place of `reject`";
    Some(Diagnostic::new(Code::OldLink, word.span, message).help(help))
}

/// The mark that a rule's packets have.
fn compared_mark(tokens: &[&Token], policy: &Policy) -> Option<Mark> {
    let at = (0..tokens.len()).find(|at| is_mark_of_packet(tokens, *at))?;
    let mut operand = tokens[at + 1..].iter().skip_while(|token| token.is_any(&["==", "eq"]));
    operand.next().filter(|token| !token.is_any(&["set", "!=", "ne"])).map(|token| Mark::of(token, policy))
}

/// W035: a mark that no routing rule asks for, or those of one family only. Where there are no such rules at all and none of
/// the interfaces that are meant, the tunnel may come later, and its rules with it.
fn no_rule(marking: &Marking<'_>, rules: &[Rule<'_>], routing: &Routing) -> Option<Diagnostic> {
    let Mark::Number(mark) = marking.mark else { return None };
    let asks = |marks: &[MaskedMark]| marks.iter().any(|one| one.is_for(mark));
    let is_ready = || {
        let is_there = |rule: &Rule<'_>| rule.links().any(|link| routing.interfaces.contains(link));
        !routing.ipv4.is_empty() || !routing.ipv6.is_empty() || rules.iter().any(is_there)
    };
    let (family, option) = match (asks(&routing.ipv4), asks(&routing.ipv6)) {
        (false, false) if is_ready() => ("", ""),
        (true, false) => (" of IPv6", "-6 "),
        (false, true) => (" of IPv4", ""),
        _ => return None,
    };
    let message = format!("no routing rule{family} on this machine asks for the mark {mark:#x}");
    let both = if family.is_empty() { ", and the same with `ip -6`" } else { "" };
    let help = format!("add one, such as `ip {option}rule add fwmark {mark:#x} lookup 51`{both}");
    Some(Diagnostic::new(Code::NoRoutingRule, marking.span, message).help(help))
}

/// W036: no rule gives the packets another source address.
fn no_source(marking: &Marking<'_>, rules: &[Rule<'_>]) -> Option<Diagnostic> {
    if rules.iter().any(|rule| rule.has(&["masquerade", "snat"])) {
        return None;
    }
    let message = "these packets keep the source address of the link that they would have left by";
    let help = "add a rule such as `oifname \"wg0\" masquerade` to a chain of `type nat hook postrouting`";
    Some(Diagnostic::new(Code::OldSource, marking.span, message).help(help))
}

/// W037: only packets of one family are marked.
fn one_family(
    marking: &Marking<'_>,
    subjects: &[Subject<'_>],
    rules: &[Rule<'_>],
    calls: &Calls<'_>,
) -> Option<Diagnostic> {
    let subject = marking.subject;
    let only = only_family(subject)?;
    let is_covered = |other: &Subject<'_>| {
        other.annotation.selectors == subject.annotation.selectors && only_family(other) != Some(only)
    };
    let judges_other = calls.ruleset.chains().any(|(name, chain)| {
        name.table.family == only.other().table
            && chain.base.as_ref().is_some_and(|base| base.hook == "output")
    });
    let refuses_other = rules
        .iter()
        .any(|rule| rule.has(&["drop", "reject"]) && rule.has(&[only.other().word, only.other().protocol]));
    if judges_other || refuses_other || subjects.iter().any(is_covered) {
        return None;
    }
    let (marked, other) = (only.name, only.other().name);
    let message = format!("only {marked} is marked: {other} of these units is not routed by this mark");
    let help = format!("use a chain of a table `inet`, or write a rule that marks {other}, too");
    Some(Diagnostic::new(Code::OneFamily, marking.span, message).help(help))
}

/// A family of addresses.
#[derive(Debug, PartialEq, Eq)]
struct Addresses {
    name: &'static str,
    /// What `ip daddr` and `meta protocol` begin with or compare with.
    word: &'static str,
    /// What `meta nfproto` compares with.
    protocol: &'static str,
    table: Family,
}

static IPV4: Addresses = Addresses { name: "IPv4", word: "ip", protocol: "ipv4", table: Family::Ip };
static IPV6: Addresses = Addresses { name: "IPv6", word: "ip6", protocol: "ipv6", table: Family::Ip6 };

impl Addresses {
    fn other(&self) -> &'static Self {
        if *self == IPV4 { &IPV6 } else { &IPV4 }
    }
}

/// The family that a rule is for, unless it is for certain addresses of it.
fn only_family(subject: &Subject<'_>) -> Option<&'static Addresses> {
    let tokens = &subject.conditions;
    let is_address = |at: usize| {
        let field = tokens.get(at + 1).is_some_and(|next| next.is_any(&["daddr", "saddr"]));
        field && tokens[at].is_any(&["ip", "ip6"])
    };
    let addresses: Vec<usize> = (0..tokens.len()).filter(|at| is_address(*at)).collect();
    let is_negated = |at: &usize| tokens.get(at + 2).is_some_and(|sign| sign.is_any(&["!=", "ne"]));
    if !addresses.iter().all(is_negated) {
        return None;
    }
    let is_for = |family: &&Addresses| {
        subject.rule.chain.table.family == family.table
            || tokens.iter().any(|token| token.is(family.protocol))
            || addresses.iter().any(|at| tokens[*at].is(family.word))
    };
    [&IPV4, &IPV6].into_iter().find(is_for)
}

/// A mark's number, or what stands in its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Number(u32),
    Text(Box<str>),
}

impl Mark {
    fn of(token: &Token, policy: &Policy) -> Self {
        let name = token.text.trim_start_matches('$');
        let is_it = |define: &&Define| token.kind == TokenKind::Variable && define.name == name;
        let text = match policy.defines.iter().rfind(is_it).map(|define| &*define.value) {
            Some([value]) => &value.text,
            _ => &token.text,
        };
        let number = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.map_or_else(|_| Self::Text(text.clone()), Self::Number)
    }
}

/// An annotated rule that sets the mark of packets, which are routed again then.
struct Marking<'a> {
    subject: &'a Subject<'a>,
    mark: Mark,
    span: Span,
}

impl<'a> Marking<'a> {
    fn of(subject: &'a Subject<'a>, policy: &Policy, calls: &Calls<'_>) -> Option<Self> {
        let tokens = &subject.tokens;
        let sets = |at: &usize| {
            is_mark_of_packet(tokens, *at) && tokens.get(at + 1).is_some_and(|next| next.is("set"))
        };
        let at = (0..tokens.len()).find(sets)?;
        let value = tokens.get(at + 2)?;
        let marking = Self { subject, mark: Mark::of(value, policy), span: tokens[at].span.to(value.span) };
        is_routed_again(&subject.rule.chain, calls).then_some(marking)
    }
}

/// Whether the packet's own mark stands here, and not that of its connection.
fn is_mark_of_packet(tokens: &[&Token], at: usize) -> bool {
    tokens[at].is("mark") && !at.checked_sub(1).is_some_and(|before| tokens[before].is("ct"))
}

fn is_only_output(chain: &ChainRef, calls: &Calls<'_>) -> bool {
    calls.hooks(chain).is_some_and(|hooks| *hooks == BTreeSet::from(["output"]))
}

/// Whether a chain is only reached from output, and a chain of its table routes again what its rules change.
fn is_routed_again(chain: &ChainRef, calls: &Calls<'_>) -> bool {
    let mut bases = calls.ruleset.chains().filter(|(name, _)| name.table == chain.table);
    is_only_output(chain, calls)
        && bases.any(|(_, chain)| chain.base.as_ref().is_some_and(|base| base.is_route))
}

/// A rule, of the files or annotated.
struct Rule<'a> {
    chain: &'a ChainRef,
    tokens: Vec<&'a Token>,
}

impl<'a> Rule<'a> {
    fn of(subject: &'a Subject<'_>) -> Self {
        Self { chain: &subject.rule.chain, tokens: subject.tokens.clone() }
    }

    /// What stands behind `oifname`, up to the end of the rule: names of links are among it.
    fn links(&self) -> impl Iterator<Item = &str> {
        let behind = self.tokens.iter().skip_while(|token| !token.is_any(&["oifname", "oif"]));
        behind.map(|token| token.unquoted()).filter(|name| *name != "lo")
    }

    fn has(&self, words: &[&str]) -> bool {
        self.tokens.iter().any(|token| token.is_any(words))
    }
}

fn of_files(outlines: &[Outline]) -> impl Iterator<Item = Rule<'_>> {
    let items = outlines.iter().flat_map(|outline| outline.items.iter().map(move |item| (outline, item)));
    items.filter_map(|(outline, item)| match &item.kind {
        ItemKind::Rule(chain, _) => Some(Rule { chain, tokens: outline.tokens_of(item).iter().collect() }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Facts, Ruleset,
        testing::{found, jump, listing, messages, place, with_ruleset},
    };
    use serde_json::json;

    const RULE: &str = "# user:app:mail :: add rule inet f c socket cgroupv2 unit meta mark set 0x51";
    const NAT: &str = "table inet f { chain nat {\noifname \"wg0\" masquerade\n} }";

    /// A chain `c` that is called from output, where packets are routed again; and a chain of each other hook.
    fn rerouting() -> Ruleset {
        let base = |hook| Some((hook, "accept"));
        let mut listing = listing(&[
            ("b", base("output"), vec![json!([jump("c")])]),
            ("c", None, vec![]),
            ("out", base("output"), vec![]),
            ("post", base("postrouting"), vec![]),
        ]);
        listing["nftables"][2]["chain"]["type"] = json!("route");
        Ruleset::of(&listing)
    }

    fn said(code: Code, text: &str) -> Vec<String> {
        messages(code, text, with_ruleset(&rerouting()))
    }

    fn in_chain(chain: &str, rule: &str) -> String {
        format!("{RULE}\n{NAT}\ntable inet f {{ chain {chain} {{\n{rule}\n}} }}")
    }

    #[test]
    fn link_from_before_the_mark_is_told() {
        for rule in [
            "meta mark 0x51 oifname != { \"lo\", \"wg0\" } reject",
            "oif != wg0 meta mark == 81 drop",
            "mark 0x00000051 oifname \"eth0\" drop",
        ] {
            let text = in_chain("out", rule);
            let found = found(Code::OldLink, &text, with_ruleset(&rerouting()));
            assert_eq!(found.len(), 1, "{rule}");
            assert!(place(&text, &found[0]).starts_with("oif"), "{rule}");
        }
        let variable =
            format!("define M = 0x51\n{}", in_chain("out", "meta mark $M oifname != \"wg0\" drop"));
        assert_eq!(said(Code::OldLink, &variable).len(), 1);
        let annotated =
            format!("{RULE}\n# a.service :: add rule inet f out meta mark 0x51 oifname wg0 accept");
        assert_eq!(said(Code::OldLink, &annotated).len(), 1);
    }

    #[test]
    fn link_that_is_known_is_not_told() {
        for (chain, rule) in [
            ("post", "meta mark 0x51 oifname != \"wg0\" drop"),
            ("out", "meta mark != 0x51 oifname \"wg0\" reject"),
            ("out", "meta mark 0x52 oifname \"wg0\" accept"),
            ("out", "ct mark 0x51 oifname \"wg0\" accept"),
            ("out", "meta mark 0x51 oifname \"lo\" accept"),
            ("out", "oifname \"wg0\" meta mark set 0x51"),
            ("out", "meta mark 0x51 accept"),
        ] {
            assert_eq!(said(Code::OldLink, &in_chain(chain, rule)), [] as [&str; 0], "{rule}");
        }
        let plain = in_chain("out", "meta mark 0x51 oifname \"wg0\" drop").replace("set 0x51", "0x51 accept");
        assert_eq!(said(Code::OldLink, &plain), [] as [&str; 0]);
    }

    /// What is said on a machine with routing rules for these marks, and with `lo` and `wg0` if the tunnel is up.
    fn said_of_rules(ipv4: &[u32], ipv6: &[u32], is_up: bool) -> Vec<String> {
        let masked =
            |marks: &[u32]| marks.iter().map(|mark| MaskedMark { mark: *mark, mask: 0xff }).collect();
        let interfaces = ["lo", "wg0"].into_iter().take(if is_up { 2 } else { 1 }).map(str::to_owned);
        let routing = Routing { ipv4: masked(ipv4), ipv6: masked(ipv6), interfaces: interfaces.collect() };
        let ruleset = rerouting();
        let facts = Facts { ruleset: Some(&ruleset), routing: Some(&routing), ..Facts::default() };
        messages(Code::NoRoutingRule, &in_chain("post", "oifname != \"lo\" meta mark 0x52 drop"), facts)
    }

    #[test]
    fn mark_that_no_routing_rule_asks_for_is_told() {
        let none = "no routing rule on this machine asks for the mark 0x51";
        assert_eq!(said_of_rules(&[], &[], true), [none]);
        assert_eq!(said_of_rules(&[0x15], &[], false), [none]);
        assert_eq!(said_of_rules(&[0x51], &[], false), [none.replace("rule", "rule of IPv6")]);
        assert_eq!(said_of_rules(&[0x15], &[0x51], true), [none.replace("rule", "rule of IPv4")]);
    }

    #[test]
    fn routing_rules_that_are_there_or_may_come_are_not_told() {
        assert_eq!(said_of_rules(&[0x51, 1], &[0x151], true), [] as [&str; 0]);
        assert_eq!(said_of_rules(&[], &[], false), [] as [&str; 0]);
    }

    #[test]
    fn source_address_that_nothing_changes_is_told_once() {
        assert_eq!(said(Code::OldSource, &format!("{RULE}\n{}", RULE.replace("mail", "game"))).len(), 1);
        let found = found(Code::OldSource, RULE, with_ruleset(&rerouting()));
        assert_eq!(place(RULE, &found[0]), "mark set 0x51");
        for more in [
            NAT,
            "table inet f { chain nat {\nsnat ip to 192.0.2.1\n} }",
            "table inet f { chain p {\ntproxy to :1\n} }",
        ] {
            assert_eq!(said(Code::OldSource, &format!("{RULE}\n{more}")), [] as [&str; 0], "{more}");
        }
        let connection = RULE.replace("meta mark", "ct mark");
        assert_eq!(said(Code::OldSource, &connection), [] as [&str; 0]);
    }

    #[test]
    fn mark_for_one_family_is_told() {
        for condition in ["meta nfproto ipv4", "ip daddr != 192.168.0.0/16", "ip6 daddr != fd00::/8"] {
            let rule = RULE.replace("meta mark", &format!("{condition} meta mark"));
            assert_eq!(said(Code::OneFamily, &format!("{rule}\n{NAT}")).len(), 1, "{condition}");
        }
    }

    #[test]
    fn mark_for_both_families_or_for_certain_addresses_is_not_told() {
        let ipv4 = RULE.replace("meta mark", "meta nfproto ipv4 meta mark");
        for text in [
            RULE.to_owned(),
            RULE.replace("meta mark", "ip daddr 10.0.0.0/8 meta mark"),
            format!("{ipv4}\n{}", ipv4.replace("ipv4", "ipv6")),
            format!("{ipv4}\n{}", RULE.replace("meta mark set 0x51", "meta nfproto ipv6 reject")),
            format!("{ipv4}\ntable inet f {{ chain out {{\nmeta nfproto ipv6 drop\n}} }}"),
        ] {
            assert_eq!(said(Code::OneFamily, &format!("{text}\n{NAT}")), [] as [&str; 0], "{text}");
        }
        let other = format!("{ipv4}\n{}", ipv4.replace("ipv4", "ipv6").replace("mail", "game"));
        assert_eq!(said(Code::OneFamily, &format!("{other}\n{NAT}")).len(), 2);
    }
}
