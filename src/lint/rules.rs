//! Lints about a rule by itself: W005, W006, W013, W042.

use super::{amounts::lets_some_through, subject::Subject};
use crate::{
    model::Data,
    policy::{Policy, Statement},
    text::{Code, Diagnostic, diagnostic::quoted},
    units::selector::{Selector, Which},
};

/// `!=`, verdicts that fail open, host names.
pub(super) fn lint(policy: &Policy, subjects: &[Subject<'_>]) -> Vec<Diagnostic> {
    let each = |subject: &Subject<'_>| {
        let negated = negated(subject);
        let refusing = if negated.is_empty() { refusing_rule(subject) } else { None };
        negated.into_iter().chain(refusing).chain(host_name(subject)).collect::<Vec<_>>()
    };
    subjects.iter().flat_map(each).chain(refusing_elements(policy)).collect()
}

fn negated(subject: &Subject<'_>) -> Vec<Diagnostic> {
    let negated = subject.cgroups.iter().filter(|cgroup| cgroup.negated);
    negated
        .map(|cgroup| {
            let depth = match cgroup.level {
                1 => "in the root cgroup".to_owned(),
                level => format!("less than {level} names deep"),
            };
            Diagnostic::new(
                Code::Negated,
                cgroup.span,
                format!("`!=` does not match sockets whose cgroup is {depth}: they pass this rule by"),
            )
            .help("allow the one cgroup with `==` and `accept`, and refuse the rest in nftables.conf")
        })
        .collect()
}

const REFUSE_BY_DEFAULT: &str =
    "refuse by default in nftables.conf, and let annotations accept what may pass";

const REFUSE_ALL: &str = "refuse all in nftables.conf and let annotations accept what may pass, or see that it is started by \
                          `scnpm run --wait` only";

fn refusing_rule(subject: &Subject<'_>) -> Option<Diagnostic> {
    let (verdict, span) = subject.verdict.filter(|_| subject.refuses() && !lets_some_through(subject))?;
    let is_app = |selector: &Selector| matches!(selector.which, Which::App(_));
    if subject.annotation.selectors.0.iter().any(is_app) {
        let message = format!(
            "this `{verdict}` fails open: GNOME and D-Bus start applications in a unit of others, and what they send there passes"
        );
        return Some(Diagnostic::new(Code::LateApplication, span, message).help(REFUSE_ALL));
    }
    let message = format!("this `{verdict}` fails open: while the rule is not applied yet, packets pass");
    Some(Diagnostic::new(Code::FailsOpen, span, message).help(REFUSE_BY_DEFAULT))
}

fn refusing_elements(policy: &Policy) -> impl Iterator<Item = Diagnostic> {
    policy.annotations.iter().filter_map(|annotation| {
        let Statement::Element(statement) = &annotation.statement else { return None };
        let is_drop = |data: &Option<Data>| matches!(data, Some(Data::Drop));
        let (_, span, _) = statement.elements.iter().find(|(_, _, data)| is_drop(data))?;
        let message = "this `drop` fails open: while the element is not there yet, packets pass";
        Some(Diagnostic::new(Code::FailsOpen, *span, message).help(REFUSE_BY_DEFAULT))
    })
}

fn host_name(subject: &Subject<'_>) -> Option<Diagnostic> {
    let (host, span) = subject.rule.hosts.first()?.names.first()?;
    let message = format!("whoever answers for {} decides what this rule matches", quoted(&host.name));
    let help = "if its address hardly ever changes, write the address";
    Some(Diagnostic::new(Code::HostName, *span, message).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Facts,
        testing::{found, messages, place},
    };

    fn said(code: Code, text: &str) -> Vec<String> {
        messages(code, text, Facts::default())
    }

    const A: &str = "socket cgroupv2 level 2 \"system.slice/a.service\"";

    #[test]
    fn negated_match_is_told() {
        let text = "# a.service :: add rule inet f c socket cgroupv2 level 2 != \"system.slice/a.service\" tcp dport 25 reject";
        assert_eq!(
            said(Code::Negated, text),
            ["`!=` does not match sockets whose cgroup is less than 2 names deep: they pass this rule by"]
        );
        assert_eq!(said(Code::FailsOpen, text), [] as [&str; 0]);
        assert_eq!(
            said(Code::Negated, &format!("# a.service :: add rule inet f c {A} tcp dport != 25 accept")),
            [] as [&str; 0]
        );
    }

    #[test]
    fn rule_that_refuses_is_told_without_turning_its_matches_round() {
        let text = format!(
            "# a.service :: add rule inet f c {A} \\\n#  ip saddr @blacklist \\\n#  reject with tcp reset comment \"x\""
        );
        let found = found(Code::FailsOpen, &text, Facts::default());
        assert_eq!(
            found[0].message,
            "this `reject` fails open: while the rule is not applied yet, packets pass"
        );
        assert_eq!(place(&text, &found[0]), "reject with tcp reset");
        assert_eq!(
            found[0].help.as_deref(),
            Some("refuse by default in nftables.conf, and let annotations accept what may pass")
        );
        assert_eq!(found[0].fix, None);
    }

    #[test]
    fn refusal_of_an_application_has_reasons_of_its_own() {
        let rule = |selectors: &str, verdict: &str| {
            format!("# {selectors} :: add rule inet f c socket cgroupv2 unit tcp dport 1 {verdict}")
        };
        for (selectors, verdict, expected) in [
            ("alice:app:game", "reject", [0, 1]),
            ("alice:a.service, user:app:game", "drop", [0, 1]),
            ("alice:app:game", "accept", [0, 0]),
            ("alice:app-game.slice", "drop", [1, 0]),
        ] {
            let text = rule(selectors, verdict);
            let codes = [Code::FailsOpen, Code::LateApplication];
            assert_eq!(codes.map(|code| said(code, &text).len()), expected, "{text}");
        }
        assert!(
            said(Code::LateApplication, &rule("alice:app:game", "drop"))[0]
                .contains("this `drop` fails open")
        );
    }

    #[test]
    fn refusing_rules_without_cgroups_and_elements_are_told() {
        assert_eq!(
            said(Code::FailsOpen, "# a.service :: add rule inet f c tcp dport 25 counter drop").len(),
            1
        );
        let element = "# a.service :: add element inet f m { \"system.slice/a.service\" : drop }";
        assert_eq!(
            said(Code::FailsOpen, element),
            ["this `drop` fails open: while the element is not there yet, packets pass"]
        );
    }

    #[test]
    fn rules_that_refuse_nothing_are_not_told() {
        for body in [
            "accept",
            "log prefix \"drop\"",
            "log prefix \"drop \" accept",
            "jump drop.x",
            "meta mark set 1",
            "tcp dport vmap { 25 : drop, 26 : accept }",
            "return",
            "dnat ip to 10.0.0.1",
            "quota over 1 mbytes drop",
            "quota name \"daily\" drop",
            "limit rate over 1/second drop",
        ] {
            let text = format!("# a.service :: add rule inet f c {A} {body}");
            assert_eq!(said(Code::FailsOpen, &text), [] as [&str; 0], "{body}");
        }
    }

    #[test]
    fn host_name_is_told_once_where_it_stands() {
        let text =
            format!("# a.service :: add rule inet f c {A} ip daddr {{ mail.local, web.local }} accept");
        let found = found(Code::HostName, &text, Facts::default());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].message, "whoever answers for `mail.local` decides what this rule matches");
        assert_eq!(place(&text, &found[0]), "mail.local");
        let variable =
            format!("define web = web.local\n# a.service :: add rule inet f c {A} ip daddr $web accept");
        assert_eq!(
            place(&variable, &super::super::testing::found(Code::HostName, &variable, Facts::default())[0]),
            "$web"
        );
    }

    #[test]
    fn addresses_and_sets_are_no_host_names() {
        for body in ["ip daddr 10.0.0.1", "ip daddr @mail", "ip6 daddr { fe80::1, ::1 }", "oifname my.vpn"] {
            let text = format!("# a.service :: add rule inet f c {A} {body} accept");
            assert_eq!(said(Code::HostName, &text), [] as [&str; 0], "{body}");
        }
    }
}
