//! W044 and W045: quotas and rates that most packets do not come to, and those behind which everything passes all the same.

use std::collections::BTreeSet;

use super::{
    calls::Calls,
    established::{Behind, refusing, walks},
    ruleset::Base,
    subject::Subject,
};
use crate::{
    gather::Gather,
    text::{Code, Diagnostic, Token, diagnostic::quoted},
};

/// One warning for each rule.
pub(super) fn lint(subjects: &[Subject<'_>], calls: &Calls<'_>) -> Vec<Diagnostic> {
    let amounts = || subjects.iter().filter_map(|subject| Some((subject, amount(subject)?)));
    if amounts().next().is_none() {
        return Vec::new();
    }
    let refusing = refusing(calls);
    let walks = walks(calls, &refusing, |base: &Base| matches!(&*base.hook, "input" | "output"));
    let others_refuse = subjects.iter().any(|subject| subject.refuses() || calls_others(subject));
    let judged = |(subject, amount): (&Subject<'_>, Amount<'_>)| {
        let hooks = calls.hooks(&subject.rule.chain)?;
        let is_walked = !hooks.is_empty() && hooks.iter().all(|hook| ["input", "output"].contains(hook));
        let behind: BTreeSet<_> = walks
            .iter()
            .filter_map(|(_, walk)| walk.comes_to(subject.rule))
            .map(|behind| behind == Behind::Refuses)
            .gather();
        if !is_walked {
            return None;
        }
        if behind.is_empty() {
            return Some(passed_by(subject, &amount, hooks)).filter(|_| amount.is_of_bytes);
        }
        (amount.lets_the_rest_go_on && !behind.contains(&true) && !others_refuse)
            .then(|| nothing_behind(&amount))
    };
    amounts().filter_map(judged).collect()
}

fn passed_by(subject: &Subject<'_>, amount: &Amount<'_>, hooks: &BTreeSet<&str>) -> Diagnostic {
    let word = &*amount.word.text;
    let hooks: Vec<&str> = hooks.iter().copied().collect();
    let chain = &subject.rule.chain;
    let message = format!(
        "established connections are accepted before this `{word}`: it counts no more than the first packet of each"
    );
    let help = format!(
        "call {} before `ct state established`, in the hook {}; the annotation then refuses what is over it, and leaves the rest to \
         the rules behind",
        quoted(&chain.to_string()),
        hooks.join(" and ")
    );
    Diagnostic::new(Code::PassedBy, amount.word.span, message).help(help)
}

fn nothing_behind(amount: &Amount<'_>) -> Diagnostic {
    let word = &*amount.word.text;
    let message = format!(
        "what is over this `{word}` passes all the same: no rule behind it refuses, and no policy does"
    );
    let over = if amount.word.is("limit") { "limit rate over … drop" } else { "quota over … drop" };
    Diagnostic::new(Code::NothingBehind, amount.word.span, message)
        .help(format!("write `{over}`, or refuse behind it what may pass only so far"))
}

/// Whether a rule lets packets through until there are too many, so that nothing is wrong if it does.
pub(super) fn lets_some_through(subject: &Subject<'_>) -> bool {
    amount(subject).is_some_and(|amount| amount.is_named || amount.is_over)
}

/// A quota or a rate in a rule.
struct Amount<'a> {
    word: &'a Token,
    /// Whether every packet counts by its length.
    is_of_bytes: bool,
    is_named: bool,
    /// Whether it matches what is over the amount.
    is_over: bool,
    /// Whether the rule lets through up to an amount, and leaves what is over it to the rules behind.
    lets_the_rest_go_on: bool,
}

/// The first of a rule that is the rule's own.
fn amount<'a>(subject: &Subject<'a>) -> Option<Amount<'a>> {
    let mut depth = 0_usize;
    let mut own = subject.conditions.iter().enumerate().filter(|(_, token)| {
        depth = match &*token.text {
            "{" => depth + 1,
            "}" => depth.saturating_sub(1),
            _ => depth,
        };
        depth == 0
    });
    let (at, word) = own.find(|(_, token)| token.is("quota") || token.is("limit"))?;
    let rest = &subject.conditions[at + 1..];
    let is_named = rest.first().is_some_and(|next| next.is("name"));
    let is_over = rest.iter().take(2).any(|next| next.is("over"));
    let is_of_bytes = word.is("quota") || rest.iter().take(4).any(|next| next.text.contains("bytes/"));
    let accepts = matches!(subject.verdict, Some(("accept", _)));
    let lets_the_rest_go_on = accepts && !is_named && !is_over;
    Some(Amount { word, is_of_bytes, is_named, is_over, lets_the_rest_go_on })
}

/// Whether it may leave the decision to rules that are not looked at here.
fn calls_others(subject: &Subject<'_>) -> bool {
    matches!(subject.verdict, Some(("jump" | "goto" | "vmap", _)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Ruleset,
        testing::{established, jump, messages, port, ruleset, verdict, with_ruleset},
    };
    use serde_json::{Value, json};

    fn rule(body: &str) -> String {
        format!("# a.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/a.service\" {body}")
    }

    fn called(policy: &str, before: Vec<Value>, behind: Vec<Value>) -> Ruleset {
        let rules = before.into_iter().chain([json!([jump("c")])]).chain(behind).collect();
        ruleset(&[("b", Some(("output", policy)), rules), ("c", None, vec![])])
    }

    fn said(code: Code, body: &str, ruleset: &Ruleset) -> Vec<String> {
        messages(code, &rule(body), with_ruleset(ruleset))
    }

    #[test]
    fn amount_of_bytes_behind_established_connections_is_told() {
        let behind = called("drop", vec![established()], vec![]);
        for (body, word) in [
            ("quota until 1 mbytes accept", "quota"),
            ("quota over 1 mbytes drop", "quota"),
            ("tcp dport 25 quota name \"daily\" drop", "quota"),
            ("limit rate over 1 mbytes/second drop", "limit"),
        ] {
            let expected = format!(
                "established connections are accepted before this `{word}`: it counts no more than the first packet of each"
            );
            assert_eq!(said(Code::PassedBy, body, &behind), [expected], "{body}");
        }
        for body in [
            "limit rate 10/second accept",
            "tcp dport 25 accept",
            "update @q { ip daddr quota over 1 mbytes } drop",
        ] {
            assert_eq!(said(Code::PassedBy, body, &behind), [] as [&str; 0], "{body}");
        }
        let in_front = called("drop", vec![], vec![established()]);
        assert_eq!(said(Code::PassedBy, "quota until 1 mbytes accept", &in_front), [] as [&str; 0]);
    }

    #[test]
    fn amount_behind_which_everything_passes_is_told() {
        let open = called("accept", vec![], vec![]);
        for body in ["quota until 1 mbytes accept", "quota 1 mbytes accept", "limit rate 10/second accept"] {
            assert_eq!(said(Code::NothingBehind, body, &open).len(), 1, "{body}");
        }
        for body in
            ["quota over 1 mbytes drop", "limit rate over 1/second drop", "quota name \"x\" accept", "accept"]
        {
            assert_eq!(said(Code::NothingBehind, body, &open), [] as [&str; 0], "{body}");
        }
        let refused = called("accept", vec![], vec![json!([port(), verdict("drop")])]);
        let by_policy = called("drop", vec![], vec![]);
        for ruleset in [refused, by_policy] {
            assert_eq!(said(Code::NothingBehind, "quota until 1 mbytes accept", &ruleset), [] as [&str; 0]);
        }
        let other = rule("tcp dport 25 drop");
        let both = format!("{}\n{other}", rule("quota until 1 mbytes accept"));
        assert_eq!(messages(Code::NothingBehind, &both, with_ruleset(&open)), [] as [&str; 0]);
    }
}
