//! W008, W038 and W039: sets that are to be filled with addresses of names and can't be, or that nobody looks up.

use super::{
    calls::Calls,
    ruleset::{Ruleset, SetKind},
};
use crate::{
    model::{SetRef, UnitName},
    policy::Policy,
    text::{Code, Diagnostic, Span, diagnostic::quoted, nearest::nearest},
    units::Units,
};

/// The service whose answers are read.
const RESOLVED: &str = "systemd-resolved.service";

/// Sets of `fill` directives, as far as the ruleset is known.
pub(super) fn lint(policy: &Policy, calls: &Calls<'_>) -> Vec<Diagnostic> {
    let sets = policy.fills.iter().flat_map(|fill| &fill.sets);
    sets.filter_map(|(set, span)| {
        cannot_be_filled(set, *span, calls.ruleset).or_else(|| not_looked_up(set, *span, calls))
    })
    .collect()
}

/// The service is not on this machine, as far as that is known.
pub(super) fn without_resolved(policy: &Policy, units: &Units) -> Option<Diagnostic> {
    let fill = policy.fills.first()?;
    if units.files.is_empty() || units.files.contains_key(&UnitName(RESOLVED.into())) {
        return None;
    }
    let message = format!("nobody fills the set: {RESOLVED} is not on this machine, whose answers are read");
    Some(
        Diagnostic::new(Code::NoResolver, fill.span, message)
            .help("install systemd-resolved, or let dnsmasq fill the set: see docs/names.md"),
    )
}

fn cannot_be_filled(set: &SetRef, span: Span, ruleset: &Ruleset) -> Option<Diagnostic> {
    let name = quoted(&set.to_string());
    let says = |message: String| Diagnostic::new(Code::NotFillable, span, message);
    let Some(kind) = ruleset.kind(set) else {
        let known: Vec<String> = ruleset.fillable().map(ToString::to_string).collect();
        let diagnostic = says(format!("there is no set {name} to be filled"));
        let near = nearest(&set.to_string(), known.iter().map(String::as_str)).map(str::to_owned);
        return Some(match near {
            Some(near) => diagnostic.help(format!("did you mean {}?", quoted(&near))).fix(span, near),
            None => diagnostic
                .help(format!("write `set {} {{ type ipv4_addr; flags timeout; }}` in the table", set.name)),
        });
    };
    let SetKind { is_map, holds, has_timeout, has_intervals } = kind;
    match holds.as_deref() {
        _ if *is_map => Some(says(format!("{name} is a map: only a set can be filled with addresses"))),
        Some(holds) if !["ipv4_addr", "ipv6_addr"].contains(&holds) => Some(
            says(format!("{name} holds {}, not addresses", quoted(holds)))
                .help("its type must be `ipv4_addr` or `ipv6_addr`"),
        ),
        _ if *has_intervals => Some(
            says(format!(
                "{name} has `flags interval`: single addresses with times of their own go into a set without"
            ))
            .help("give the addresses of names a set of their own, and look both up"),
        ),
        _ if !has_timeout => Some(
            says(format!("the addresses in {name} cannot expire: it has no `flags timeout`"))
                .help("write `flags timeout;` in the set"),
        ),
        _ => None,
    }
}

fn not_looked_up(set: &SetRef, span: Span, calls: &Calls<'_>) -> Option<Diagnostic> {
    if !calls.lookups(set).is_empty() {
        return None;
    }
    let message = format!("no rule looks anything up in {}", quoted(&set.to_string()));
    let help = format!("write a rule with `ip daddr @{0}` or `ip6 daddr @{0}`", set.name);
    Some(Diagnostic::new(Code::NotReached, span, message).help(help))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{
        lint::{
            Facts, Ruleset, lint,
            testing::{file, policy_of, units, with_units},
        },
        units::UnitFile,
    };

    const FILL: &str = "# scnpm: fill inet f s with *.example.org\n";

    /// What is said, and mended, if the ruleset has this set and looks it up or not.
    fn said(set: Value, is_looked_up: bool, text: &str) -> Vec<(String, Option<String>)> {
        let left = json!({"payload": {"protocol": "ip", "field": "daddr"}});
        let rule = json!([{"match": {"op": "==", "left": left, "right": "@s"}}, {"accept": null}]);
        let ruleset = Ruleset::of(&json!({"nftables": [
            {"table": {"family": "inet", "name": "f"}},
            set,
            {"chain": {"family": "inet", "table": "f", "name": "c", "type": "filter", "hook": "output", "prio": 0, "policy": "drop"}},
            {"rule": {"family": "inet", "table": "f", "chain": "c", "expr": if is_looked_up { rule } else { json!([{"accept": null}]) }}},
        ]}));
        let policy = policy_of(&[text]);
        let found = lint(&policy, Facts { ruleset: Some(&ruleset), ..Facts::default() });
        found
            .into_iter()
            .map(|one| (format!("{}: {}", one.code, one.message), one.fix.map(|fix| fix.text)))
            .collect()
    }

    fn set(kind: &str, holds: Value, flags: &[&str]) -> Value {
        json!({kind: {"family": "inet", "table": "f", "name": "s", "type": holds, "flags": flags, "map": "verdict"}})
    }

    fn messages(set: Value, is_looked_up: bool) -> String {
        said(set, is_looked_up, FILL).into_iter().map(|(message, _)| message).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn right_sets_are_fine() {
        for holds in ["ipv4_addr", "ipv6_addr"] {
            assert_eq!(messages(set("set", json!(holds), &["timeout"]), true), "");
        }
        // What nft lists of `typeof` may be more than a word.
        assert_eq!(messages(set("set", json!({"typeof": {}}), &["timeout", "dynamic"]), true), "");
    }

    #[test]
    fn sets_that_cannot_be_filled_are_told() {
        let message = |set| messages(set, true);
        assert!(
            message(set("map", json!("ipv4_addr"), &["timeout"])).starts_with("W038: `inet f s` is a map")
        );
        assert!(message(set("set", json!("inet_service"), &["timeout"])).contains("holds `inet_service`"));
        assert!(
            message(set("set", json!(["ipv4_addr", "inet_service"]), &["timeout"])).contains("not addresses")
        );
        assert!(
            message(set("set", json!("ipv4_addr"), &["timeout", "interval"])).contains("`flags interval`")
        );
        assert!(message(set("set", json!("ipv4_addr"), &[])).contains("cannot expire"));
    }

    #[test]
    fn a_misspelt_set_is_mended() {
        let right = set("set", json!("ipv4_addr"), &["timeout"]);
        let other = FILL.replace("inet f s ", "inet f ss ");
        let (message, fix) = said(right.clone(), true, &other).remove(0);
        assert_eq!(
            (message.as_str(), fix.as_deref()),
            ("W038: there is no set `inet f ss` to be filled", Some("inet f s"))
        );
        assert_eq!(said(right, true, &FILL.replace("inet f s ", "ip far away "))[0].1, None);
    }

    #[test]
    fn a_set_that_nothing_looks_up_is_told() {
        let right = || set("set", json!("ipv4_addr"), &["timeout"]);
        assert_eq!(messages(right(), false), "W008: no rule looks anything up in `inet f s`");
        let annotated = format!(
            "{FILL}# system:a.service :: add rule inet f c socket cgroupv2 unit ip daddr @s accept\n"
        );
        let found = said(right(), false, &annotated);
        assert!(found.iter().all(|(message, _)| !message.contains("looks anything up")), "{found:?}");
    }

    #[test]
    fn a_machine_without_resolved_is_told() {
        let policy = policy_of(&[FILL, FILL]);
        let codes = |files: &[(&str, UnitFile)]| -> Vec<&str> {
            let units = units(files, &[]);
            lint(&policy, with_units(&units)).iter().map(|one| one.code.as_str()).collect()
        };
        assert_eq!(codes(&[("a.service", file(None))]), ["W039"]);
        assert_eq!(codes(&[("systemd-resolved.service", file(None))]), [""; 0]);
        assert_eq!(codes(&[]), [""; 0]);
    }
}
