//! W032: marks that are set where they do not reroute, and that nothing else looks at.

use std::collections::BTreeSet;

use super::{calls::Calls, subject::Subject};
use crate::{
    policy::Policy,
    text::{Code, Diagnostic, FileId, Outline, Span, Token, diagnostic::quoted},
};

/// Judges annotated rules. A mark that any rule reads is none of our business.
pub(super) fn lint(policy: &Policy, subjects: &[Subject<'_>], calls: &Calls<'_>) -> Vec<Diagnostic> {
    let late: Vec<(&Subject<'_>, Span)> = subjects
        .iter()
        .filter(|subject| is_routed_before(subject, calls))
        .filter_map(|subject| Some((subject, sets_mark(&subject.tokens)?)))
        .collect();
    if late.is_empty()
        || subjects.iter().any(|subject| reads_mark(&subject.tokens))
        || is_read_by_files(policy)
    {
        return Vec::new();
    }
    let diagnostic = |(subject, span): (&Subject<'_>, Span)| {
        let chain = quoted(&subject.rule.chain.to_string());
        let message = format!("this mark does not reroute: packets in {chain} have their route already");
        Diagnostic::new(Code::LateMark, span, message)
            .help("set it in a chain that only `type route hook output` leads to")
    };
    late.into_iter().map(diagnostic).collect()
}

/// Whether a chain is only reached from output, and no chain of its table routes again what its rules change.
fn is_routed_before(subject: &Subject<'_>, calls: &Calls<'_>) -> bool {
    let chain = &subject.rule.chain;
    let reroutes = || {
        let bases = calls.ruleset.chains().filter(|(name, _)| name.table == chain.table);
        bases
            .filter_map(|(_, chain)| chain.base.as_ref())
            .any(|base| base.hook == "output" && !base.is_filter)
    };
    calls.hooks(chain).is_some_and(|hooks| *hooks == BTreeSet::from(["output"])) && !reroutes()
}

/// Where a rule sets the packet's mark, if it saves none with the connection.
fn sets_mark(tokens: &[&Token]) -> Option<Span> {
    let sets = |pair: &[&Token]| pair[0].is("mark") && pair[1].is("set");
    let mut all = tokens.windows(2).enumerate().filter(|(_, pair)| sets(pair)).map(|(at, _)| at);
    let (at, None) = (all.next()?, all.next()) else { return None };
    let before = at.checked_sub(1).map(|before| tokens[before]);
    let first = before.filter(|before| before.is("meta")).unwrap_or(tokens[at]);
    before.is_none_or(|before| !before.is("ct")).then(|| first.span.to(tokens[at + 1].span))
}

/// Whether a mark is compared, looked up, saved or copied, and not only to keep packets from a link.
fn reads_mark(tokens: &[&Token]) -> bool {
    let reads = |(at, token): (usize, &&Token)| {
        token.is("mark") && !tokens.get(at + 1).is_some_and(|next| next.is("set"))
    };
    !is_kill_switch(tokens) && tokens.iter().enumerate().any(reads)
}

/// Whether a rule is about what leaves by another link than it should. Whoever has one wants packets to be routed.
fn is_kill_switch(tokens: &[&Token]) -> bool {
    let is_other = |pair: &[&Token]| pair[0].is_any(&["oifname", "oif"]) && pair[1].is_any(&["!=", "ne"]);
    tokens.windows(2).any(is_other)
}

fn is_read_by_files(policy: &Policy) -> bool {
    let files = policy.sources.files.iter().enumerate().filter(|(_, file)| file.text.contains("mark"));
    files.into_iter().any(|(number, file)| {
        let outline = Outline::of(FileId(number), &file.text);
        outline.items.iter().any(|item| reads_mark(&outline.tokens_of(item).iter().collect::<Vec<_>>()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Ruleset,
        testing::{found, jump, listing, messages, place, with_ruleset},
    };
    use serde_json::json;

    const RULE: &str = "# a.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/a.service\" meta mark set 0x64";

    fn called_from(kind: &str, hook: &str) -> Ruleset {
        let mut listing =
            listing(&[("b", Some((hook, "accept")), vec![json!([jump("c")])]), ("c", None, vec![])]);
        listing["nftables"][2]["chain"]["type"] = json!(kind);
        Ruleset::of(&listing)
    }

    #[test]
    fn mark_behind_the_routing_is_told() {
        let filter = called_from("filter", "output");
        let found = found(Code::LateMark, RULE, with_ruleset(&filter));
        assert_eq!(
            found[0].message,
            "this mark does not reroute: packets in `inet f c` have their route already"
        );
        assert_eq!(place(RULE, &found[0]), "meta mark set");
        let others = format!("{RULE} accept\ntable inet x {{ chain y {{\nmeta mark set 1\n}} }}");
        assert_eq!(messages(Code::LateMark, &others, with_ruleset(&filter)).len(), 1);
        let rule = "meta mark 0x64 oifname != { \"lo\", \"wg0\" } drop";
        let kill_switch = format!("{RULE}\ntable inet f {{ chain d {{\n{rule}\n}} }}");
        assert_eq!(messages(Code::LateMark, &kill_switch, with_ruleset(&filter)).len(), 1);
    }

    #[test]
    fn mark_that_may_do_something_is_not_told() {
        let filter = called_from("filter", "output");
        for text in [
            format!("{RULE} ct mark set 0x64"),
            RULE.replace("meta mark", "ct mark"),
            format!("{RULE}\n# b.service :: add rule inet f c meta mark 0x64 accept"),
            format!("{RULE}\ntable inet f {{ chain d {{\nct mark set mark\n}} }}"),
            format!("{RULE}\ntable inet f {{ chain d {{\nmeta mark 0x64 masquerade\n}} }}"),
        ] {
            assert_eq!(messages(Code::LateMark, &text, with_ruleset(&filter)), [] as [&str; 0], "{text}");
        }
        for other in [called_from("route", "output"), called_from("filter", "prerouting")] {
            assert_eq!(messages(Code::LateMark, RULE, with_ruleset(&other)), [] as [&str; 0]);
        }
    }
}
