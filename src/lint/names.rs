//! W003: units that do not exist.

use std::collections::{BTreeMap, BTreeSet};

use super::cgroups::{self, Written};
use crate::{
    gather::Gather,
    model::{AnnotationId, CgroupPath, UnitName},
    policy::{Annotation, Policy},
    text::{Code, Diagnostic, Span, diagnostic::quoted, nearest::nearest},
    units::{Units, fleeting::lasting, places},
};

/// Types whose units come from files, as a rule.
const FROM_FILES: [&str; 5] = ["service", "socket", "timer", "path", "target"];

/// For how many names a near one is looked for: a policy with more is for another machine.
pub(super) const LOOKED_UP: usize = 32;

/// Whether a unit has a file, as a rule, and so a name that somebody may have misspelt.
pub(super) fn is_from_file(unit: &UnitName) -> bool {
    FROM_FILES.contains(&places::kind(&unit.0)) && lasting(&unit.0).is_none()
}

/// The units that nothing is known of, and the annotations whose paths are not to be judged by their unit's name.
pub(super) fn lint(policy: &Policy, units: &Units) -> (Vec<Diagnostic>, BTreeSet<AnnotationId>) {
    let mut diagnostics = Vec::new();
    let mut misspelt = BTreeSet::new();
    if units.files.is_empty() {
        return (diagnostics, misspelt);
    }
    let mut known: BTreeMap<(&UnitName, String), Meant> = BTreeMap::new();
    for (id, annotation) in policy.iter() {
        let Some(unit) = annotation.only_unit() else { continue };
        if !is_from_file(unit) || units.knows(unit) {
            continue;
        }
        let paths = cgroups::written(annotation);
        let managers = paths.iter().map(|written| cgroups::manager(written.path.as_str()));
        let manager = managers.max_by_key(|manager| manager.len()).unwrap_or_default();
        let look_up = known.len() < LOOKED_UP;
        let search = || if look_up { meant(unit, units, manager) } else { Meant::Nobody };
        let of_paths = unit_of_paths(unit, &paths, units);
        let found = match &of_paths {
            Some(meant) => meant,
            None => &*known.entry((unit, manager.to_owned())).or_insert_with(search),
        };
        // The file of a unit of a user's manager or of a container may be in a home that cannot be read, or on another
        // filesystem.
        if *found == Meant::Nobody && !manager.is_empty() {
            continue;
        }
        if !matches!(found, Meant::Nobody | Meant::Template(_)) {
            misspelt.insert(id);
        }
        let message = format!("neither a unit file nor a running unit is named {}", quoted(&unit.0));
        let diagnostic = Diagnostic::new(Code::UnknownUnit, annotation.name_span(), message);
        diagnostics.push(match found {
            Meant::Unit(name) => {
                let text = &policy.sources.file(annotation.span.file).text;
                let diagnostic = diagnostic.help(format!("did you mean {}?", quoted(name)));
                diagnostic.fix_all(text, renamed(annotation, &paths, unit, name, text))
            }
            Meant::OfPath(name) => diagnostic.help(format!(
                "the path is that of {}: if the name is only a label, put `# scnpm: allow(W003)` above the annotation; if \
                 not, one of the two is wrong",
                quoted(name)
            )),
            Meant::Template(name) => diagnostic
                .help(format!("{} is a template, which never runs: name one of its instances", quoted(name))),
            Meant::Nobody => diagnostic.help(
                "if it is made while the machine runs, put `# scnpm: allow(W003)` above the annotation",
            ),
        });
    }
    (diagnostics, misspelt)
}

/// What the name of a unit that nothing is known of may stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meant {
    /// This unit.
    Unit(String),
    /// This unit, which the annotation's path is that of, although its name is another.
    OfPath(String),
    /// An instance of this template.
    Template(String),
    Nobody,
}

/// The known unit of the same type that the paths name.
fn unit_of_paths(unit: &UnitName, paths: &[Written<'_>], units: &Units) -> Option<Meant> {
    let (stem, kind) = unit.0.rsplit_once('.')?;
    let is_known = |name: &&str| units.knows(&UnitName((*name).into()));
    // What stands before the last one is a manager.
    let is_of_kind = |name: &&str| places::kind(name) == kind;
    let mut named = paths.iter().filter_map(|written| written.path.components().filter(is_of_kind).last());
    let name = named.find(is_known)?;
    let named_stem = &name[..name.len() - kind.len() - 1];
    let prefix = named_stem.split_once('@').map_or(named_stem, |(prefix, _)| prefix);
    let is_near = nearest(stem, [named_stem]).is_some() || stem.trim_end_matches('@') == prefix;
    Some(if is_near { Meant::Unit(name.to_owned()) } else { Meant::OfPath(name.to_owned()) })
}

/// The known unit of the same type and manager whose name is nearest. A template is none, but its instances are.
fn meant(unit: &UnitName, units: &Units, manager: &str) -> Meant {
    let Some((stem, kind)) = unit.0.rsplit_once('.') else { return Meant::Nobody };
    let is_of_users = match manager {
        "" => Some(false),
        _ => places::user_of_manager(manager).map(|_| true),
    };
    let files =
        units.files.iter().filter(|(_, file)| Some(file.is_users) == is_of_users).map(|(name, _)| name);
    let is_there = |path: &CgroupPath| cgroups::manager(path.as_str()) == manager;
    let running = units.running.iter().filter(|(_, paths)| paths.iter().any(is_there)).map(|(name, _)| name);
    let names: BTreeSet<&str> = files.chain(running).map(|name| &*name.0).gather();
    let stems = || names.iter().filter_map(|name| name.rsplit_once('.')).filter(|(_, of)| *of == kind);
    let templates = || stems().filter_map(|(stem, _)| stem.strip_suffix('@'));
    let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
    let template = templates().find(|template| *template == prefix);
    let near = if instance.is_empty() && template.is_none() {
        nearest(stem, stems().map(|(stem, _)| stem).filter(|stem| !stem.ends_with('@')))
    } else {
        None
    };
    match (near, template.or_else(|| nearest(prefix, templates()))) {
        (Some(stem), _) => Meant::Unit(format!("{stem}.{kind}")),
        (None, Some(template)) if !instance.is_empty() => {
            Meant::Unit(format!("{template}@{instance}.{kind}"))
        }
        (None, Some(template)) => {
            let is_instance = |stem: &&str| {
                stem.split_once('@').is_some_and(|(of, name)| of == template && !name.is_empty())
            };
            let mut instances = stems().map(|(stem, _)| stem).filter(is_instance);
            match (instances.next(), instances.next()) {
                (Some(only), None) => Meant::Unit(format!("{only}.{kind}")),
                _ => Meant::Template(format!("{template}@.{kind}")),
            }
        }
        (None, None) => Meant::Nobody,
    }
}

/// Another name in the place of an annotation's unit, and in its paths.
fn renamed(
    annotation: &Annotation,
    paths: &[Written<'_>],
    unit: &UnitName,
    name: &str,
    text: &str,
) -> Vec<(Span, String)> {
    let renamed = |path: &str| match path == cgroups::default_path(&unit.0) {
        true => cgroups::default_path(name),
        false => path
            .split('/')
            .map(|part| if *part == *unit.0 { name } else { part })
            .collect::<Vec<_>>()
            .join("/"),
    };
    let written = paths.iter().filter(|written| !text[written.span.start..].starts_with('$'));
    let changed =
        written.map(|written| (written.span, written.path.as_str(), renamed(written.path.as_str())));
    let changed = changed.filter(|(_, before, after)| before != after).map(|(span, _, after)| (span, after));
    [(annotation.name_span(), name.to_owned())].into_iter().chain(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{
        Facts,
        testing::{file, found, mended, messages, units, with_units},
    };
    use crate::units::UnitFile;

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
        let mut machine = machine();
        let file = UnitFile { is_users: true, ..UnitFile::default() };
        machine.files.insert(UnitName("mail-sync.service".into()), file);
        machine.files.insert(UnitName("user@.service".into()), UnitFile::default());
        let facts = with_units(&machine);
        let said = |unit: &str| {
            let path = format!("user.slice/user-1000.slice/user@1000.service/app.slice/{unit}");
            let rule = format!("# {unit} :: add rule inet f c socket cgroupv2 level 5 \"{path}\" accept");
            let element = format!("# {unit} :: add element inet f s {{ \"{path}\" }}");
            [rule, element].map(|text| messages(Code::UnknownUnit, &text, facts).len())
        };
        assert_eq!(said("nginx.service"), [0, 0]);
        assert_eq!(said("mial-sync.service"), [1, 1]);
        // The system's is not meant here, nor the user's there.
        assert_eq!(said("posftix.service"), [0, 0]);
        assert_eq!(found(Code::UnknownUnit, &rule("mial-sync.service"), facts)[0].fix, None);
    }

    #[test]
    fn path_of_a_known_unit_is_right_and_the_name_is_wrong() {
        let machine = machine();
        let facts = with_units(&machine);
        let text = |unit: &str, path: &str| {
            let level = path.split('/').count();
            format!("# {unit} :: add rule inet f c \\\n#   socket cgroupv2 level {level} \"{path}\" accept")
        };
        let right = "system.slice/sshd.service";
        assert_eq!(
            mended(Code::UnknownUnit, &text("shsd.service", right), facts),
            text("sshd.service", right)
        );
        assert_eq!(messages(Code::UnitPath, &text("shsd.service", right), facts), [] as [&str; 0]);
        let of_instance = "system.slice/system-openvpn.slice/openvpn@office.service";
        assert_eq!(
            mended(Code::UnknownUnit, &text("openvpn.service", of_instance), facts),
            text("openvpn@office.service", of_instance)
        );
        let other = &found(Code::UnknownUnit, &text("web.service", right), facts)[0];
        assert!(other.fix.is_none() && other.help.as_ref().unwrap().contains("is that of `sshd.service`"));
        // Both are wrong.
        assert_eq!(
            mended(Code::UnknownUnit, &text("shsd.service", "system.slice/shsd.service"), facts),
            text("sshd.service", right)
        );
        assert_eq!(
            mended(
                Code::UnknownUnit,
                &text("opnevpn@a.service", "system.slice/system-opnevpn.slice/opnevpn@a.service"),
                facts
            ),
            text("openvpn@a.service", "system.slice/system-openvpn.slice/openvpn@a.service")
        );
    }

    #[test]
    fn template_is_no_unit_but_its_only_instance_is() {
        let machine = machine();
        for unit in ["openvpn.service", "opnevpn.service"] {
            let found = found(Code::UnknownUnit, &rule(unit), with_units(&machine));
            assert_eq!(found[0].fix, None);
            assert!(found[0].help.as_ref().unwrap().starts_with("`openvpn@.service` is a template"));
        }
        let mut with_one = machine;
        with_one.files.insert(UnitName("openvpn@office.service".into()), file(None));
        assert_eq!(
            mended(Code::UnknownUnit, &rule("openvpn.service"), with_units(&with_one)),
            rule("openvpn@office.service")
        );
    }

    #[test]
    fn nothing_is_known_without_unit_files() {
        assert_eq!(messages(Code::UnknownUnit, &rule("x.service"), Facts::default()), [] as [&str; 0]);
        let empty = units(&[], &["system.slice/a.service"]);
        assert_eq!(messages(Code::UnknownUnit, &rule("x.service"), with_units(&empty)), [] as [&str; 0]);
    }
}
