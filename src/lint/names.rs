//! W003: units that do not exist.

use std::collections::{BTreeMap, BTreeSet};

use super::cgroups::{self, Written};
use crate::{
    model::{AnnotationId, UnitName},
    policy::Policy,
    text::{Code, Diagnostic, diagnostic::quoted, nearest::nearest},
    units::{Units, fleeting::lasting, places},
};

/// Types whose units come from files, as a rule.
const FROM_FILES: [&str; 5] = ["service", "socket", "timer", "path", "target"];

/// For how many names a near one is looked for: a policy with more is for another machine.
const LOOKED_UP: usize = 32;

/// The units that nothing is known of, and the annotations whose unit is a misspelt name of another.
pub(super) fn lint(policy: &Policy, units: &Units) -> (Vec<Diagnostic>, BTreeSet<AnnotationId>) {
    let mut diagnostics = Vec::new();
    let mut misspelt = BTreeSet::new();
    if units.files.is_empty() {
        return (diagnostics, misspelt);
    }
    // The file of a unit of a user's manager or of a container may be in a home that cannot be read, or on another
    // filesystem.
    let has_manager = |written: &Written<'_>| !cgroups::manager(written.path.as_str()).is_empty();
    let mut meant: BTreeMap<&UnitName, Option<String>> = BTreeMap::new();
    for (id, annotation) in policy.iter() {
        let Some(unit) = annotation.only_unit() else { continue };
        let is_from_file = FROM_FILES.contains(&places::kind(&unit.0)) && lasting(&unit.0).is_none();
        if !is_from_file || units.knows(unit) {
            continue;
        }
        let look_up = meant.len() < LOOKED_UP;
        let meant = meant.entry(unit).or_insert_with(|| look_up.then(|| nearest_unit(unit, units)).flatten());
        if meant.is_none() && cgroups::written(annotation).iter().any(has_manager) {
            continue;
        }
        let message = format!("neither a unit file nor a running unit is named {}", quoted(&unit.0));
        let diagnostic = Diagnostic::new(Code::UnknownUnit, annotation.name_span(), message);
        diagnostics.push(match meant {
            Some(name) => {
                misspelt.insert(id);
                diagnostic
                    .help(format!("did you mean {}?", quoted(name)))
                    .fix(annotation.name_span(), name.as_str())
            }
            None => diagnostic.help(
                "if it is made while the machine runs, put `# scnpm: allow(W003)` above the annotation",
            ),
        });
    }
    (diagnostics, misspelt)
}

/// The known name of the same type that is nearest; for an instance also that of the nearest template.
fn nearest_unit(unit: &UnitName, units: &Units) -> Option<String> {
    let (stem, kind) = unit.0.rsplit_once('.')?;
    let known = units.files.keys().chain(units.running.keys()).filter_map(|name| name.0.rsplit_once('.'));
    let stems = known.filter(|(_, other)| *other == kind).map(|(stem, _)| stem);
    let meant = match stem.split_once('@') {
        Some((prefix, instance)) if !instance.is_empty() => {
            let templates = stems.filter_map(|stem| stem.strip_suffix('@'));
            format!("{}@{instance}", nearest(prefix, templates)?)
        }
        _ => nearest(stem, stems)?.to_owned(),
    };
    Some(format!("{meant}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Facts,
        testing::{file, found, mended, messages, units, with_units},
    };

    fn machine() -> Units {
        let files = ["postfix.service", "openvpn@.service", "backup.timer", "sshd.service"]
            .map(|name| (name, file(None)));
        units(&files, &["system.slice/run-1.service"])
    }

    fn rule(unit: &str) -> String {
        format!("# {unit} :: add rule inet f c oifname \"x\" accept")
    }

    #[test]
    fn unknown_unit_is_told_with_the_nearest_name() {
        let machine = machine();
        let facts = with_units(&machine);
        assert_eq!(
            messages(Code::UnknownUnit, &rule("posftix.service"), facts),
            ["neither a unit file nor a running unit is named `posftix.service`"]
        );
        assert_eq!(mended(Code::UnknownUnit, &rule("posftix.service"), facts), rule("postfix.service"));
        assert_eq!(
            mended(Code::UnknownUnit, &rule("opnevpn@office.service"), facts),
            rule("openvpn@office.service")
        );
        let other = &found(Code::UnknownUnit, &rule("nginx.service"), facts)[0];
        assert_eq!(other.fix, None);
        assert_eq!(
            other.help.as_deref(),
            Some("if it is made while the machine runs, put `# scnpm: allow(W003)` above the annotation")
        );
        assert_eq!(found(Code::UnknownUnit, &rule("backup.service"), facts)[0].fix, None);
    }

    #[test]
    fn known_units_and_those_without_files_are_not_told() {
        let machine = machine();
        for unit in [
            "postfix.service",
            "openvpn@office.service",
            "openvpn@.service",
            "backup.timer",
            "run-1.service",
            "session.scope",
            "session-2.scope",
            "mail.slice",
            "home.mount",
        ] {
            assert_eq!(
                messages(Code::UnknownUnit, &rule(unit), with_units(&machine)),
                [] as [&str; 0],
                "{unit}"
            );
        }
    }

    #[test]
    fn units_of_other_managers_may_be_out_of_sight() {
        let machine = machine();
        let facts = with_units(&machine);
        let said = |unit: &str| {
            let path = format!("user.slice/user-1000.slice/user@1000.service/app.slice/{unit}");
            let rule = format!("# {unit} :: add rule inet f c socket cgroupv2 level 5 \"{path}\" accept");
            let element = format!("# {unit} :: add element inet f s {{ \"{path}\" }}");
            [rule, element].map(|text| messages(Code::UnknownUnit, &text, facts).len())
        };
        assert_eq!(said("nginx.service"), [0, 0]);
        assert_eq!(said("posftix.service"), [1, 1]);
    }

    #[test]
    fn nothing_is_known_without_unit_files() {
        assert_eq!(messages(Code::UnknownUnit, &rule("x.service"), Facts::default()), [] as [&str; 0]);
        let empty = units(&[], &["system.slice/a.service"]);
        assert_eq!(messages(Code::UnknownUnit, &rule("x.service"), with_units(&empty)), [] as [&str; 0]);
    }
}
