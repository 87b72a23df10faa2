//! W003 for selectors: units and applications that do not exist, where something is known whose name is near. W043:
//! applications that the session's bus starts in its own unit.
//!
//! A unit's name that stands alone, or behind `system:`, is judged with the names of all annotations.

use std::{cell::Cell, collections::BTreeSet};

use super::{
    cgroups,
    names::{LOOKED_UP, is_from_file},
};
use crate::{
    gather::Gather,
    model::{Manager, UnitName},
    policy::Policy,
    text::{Code, Diagnostic, Span, diagnostic::quoted, nearest::nearest},
    units::{
        Selector, Units,
        escape::unescape,
        places,
        selector::{Which, Whose, app_id, write_app_id},
    },
};

/// An application with a shorter name may have been given it by hand, and many names are near.
const SHORTEST: usize = 6;

/// Each selector that selects nothing which is known.
pub(super) fn lint(policy: &Policy, units: &Units) -> Vec<Diagnostic> {
    let apps = apps(units);
    let selectors = policy.annotations.iter().flat_map(|annotation| {
        let is_judged_alone = annotation.only_unit().is_some();
        cgroups::selected_by(annotation).map(move |found| (found, is_judged_alone))
    });
    let left = Cell::new(LOOKED_UP);
    let unknown = selectors.filter_map(|((selector, span), is_judged_alone)| match &selector.which {
        Which::Unit(unit) => of_users(selector, unit, span, units).or_else(|| {
            if is_judged_alone { None } else { unknown_unit(selector, unit, span, units, &left) }
        }),
        Which::App(id) => {
            bus_started(selector, id, span, units).or_else(|| unknown_app(id, span, &apps, &left))
        }
        Which::Glob(_) | Which::Cage(_) => None,
    });
    unknown.collect()
}

/// Whether a name is still looked for.
fn is_looked_for(left: &Cell<usize>) -> bool {
    let before = left.get();
    left.set(before.saturating_sub(1));
    before > 0
}

/// A unit that only users' managers have, where the system's is meant.
fn of_users(selector: &Selector, unit: &UnitName, span: Span, units: &Units) -> Option<Diagnostic> {
    let mut files = units.files_of(unit).peekable();
    let is_of_users = files.peek().is_some() && files.all(|file| file.is_users);
    if selector.whose != Whose::System || !is_of_users || units.running.contains_key(unit) {
        return None;
    }
    let message =
        format!("{} is a unit of users' managers: the system has none of this name", quoted(&unit.0));
    Some(
        Diagnostic::new(Code::UnknownUnit, span, message)
            .help(format!("write a user's name in front, or `user:{unit}`")),
    )
}

fn unknown_unit(
    selector: &Selector,
    unit: &UnitName,
    span: Span,
    units: &Units,
    left: &Cell<usize>,
) -> Option<Diagnostic> {
    if !is_from_file(unit) || units.files.is_empty() || units.knows(unit) || !is_looked_for(left) {
        return None;
    }
    let is_users = !matches!(selector.whose, Whose::Anybody | Whose::System);
    let files = units.files.iter().filter(|(name, file)| match is_users {
        true => units.of_users.contains_key(*name),
        false => !file.is_users,
    });
    let running = units.running.iter().filter(|(_, paths)| {
        paths.iter().any(|path| (places::owner(path.as_str()).0 != Manager::System) == is_users)
    });
    let names = files.map(|(name, _)| name).chain(running.map(|(name, _)| name));
    let known: BTreeSet<&str> = names.map(|name| &*name.0).gather();
    let kind = places::kind(&unit.0);
    let of_kind = known.into_iter().filter(|name| places::kind(name) == kind);
    let stems = of_kind.filter_map(|name| Some(name.rsplit_once('.')?.0)).filter(|stem| !stem.ends_with('@'));
    let stem = unit.0.rsplit_once('.')?.0;
    let near = nearest(stem, stems);
    // A user's file may be where it cannot be read.
    if near.is_none() && is_users {
        return None;
    }
    let message = format!("neither a unit file nor a running unit is named {}", quoted(&unit.0));
    let place = Span { start: span.end - unit.0.len(), ..span };
    let diagnostic = Diagnostic::new(Code::UnknownUnit, place, message);
    Some(match near {
        Some(near) => {
            let near = format!("{near}.{kind}");
            diagnostic.help(format!("did you mean {}?", quoted(&near))).fix(place, near)
        }
        None => diagnostic
            .help("if it is made while the machine runs, put `# scnpm: allow(W003)` above the annotation"),
    })
}

/// An application that D-Bus can start where no selector of applications selects it.
fn bus_started(selector: &Selector, written: &str, span: Span, units: &Units) -> Option<Diagnostic> {
    let id = String::from_utf8(unescape(written.as_bytes())).ok()?;
    let id = [Some(&*id), id.strip_suffix(".desktop")]
        .into_iter()
        .flatten()
        .find(|id| units.bus_started.contains(*id))?;
    if selector.whose == Whose::System {
        return None;
    }
    let place = Span { start: span.end - written.len(), ..span };
    let message = format!(
        "if D-Bus starts {}, it shares dbus.service with others: the rule is not for it then",
        quoted(id)
    );
    let help = "start it by `scnpm run` from menus, too, or use dbus-broker in place of dbus-daemon";
    Some(Diagnostic::new(Code::BusStarted, place, message).help(help))
}

/// The ids of applications: of those that are installed, that start with a session, and that run.
fn apps(units: &Units) -> BTreeSet<String> {
    let of_units = units.running.keys().chain(units.of_users.keys()).filter_map(|unit| app_id(&unit.0));
    units.apps.iter().cloned().chain(of_units).gather()
}

fn unknown_app(
    written: &str,
    span: Span,
    known: &BTreeSet<String>,
    left: &Cell<usize>,
) -> Option<Diagnostic> {
    let id = String::from_utf8(unescape(written.as_bytes())).ok()?;
    let id = id.strip_suffix(".desktop").unwrap_or(&id);
    let is_of = |known: &String| *known == id || known.starts_with(&format!("{id}_"));
    if id.contains('_') || known.iter().any(is_of) || !is_looked_for(left) {
        return None;
    }
    let by_last = known
        .iter()
        .find(|known| known.rsplit_once('.').is_some_and(|(_, last)| last.eq_ignore_ascii_case(id)));
    let near = || nearest(id, known.iter().map(String::as_str)).filter(|_| id.len() >= SHORTEST);
    let near = write_app_id(by_last.map(String::as_str).or_else(near)?.as_bytes());
    let place = Span { start: span.end - written.len(), ..span };
    let message = format!("no application is known as {}", quoted(written));
    Some(
        Diagnostic::new(Code::UnknownUnit, place, message)
            .help(format!("did you mean {}?", quoted(&near)))
            .fix(place, near),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lint::testing::{file, found, mended, messages, units, with_units},
        units::UnitFile,
    };

    fn machine() -> Units {
        let users = [("mail-sync.service", UnitFile { is_users: true, ..file(None) })];
        let system = [("nginx.service", file(None)), ("foo@.service", file(None))];
        let running =
            ["user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-evolution-4242.scope"];
        Units {
            of_users: units(&users, &[]).files,
            apps: ["firefox", "org.gnome.Maps", "snapped_snapped"].map(str::to_owned).into(),
            ..units(&[&users[..], &system].concat(), &running)
        }
    }

    fn rule(selectors: &str) -> String {
        format!("# {selectors} :: add rule inet f c socket cgroupv2 unit accept")
    }

    #[test]
    fn application_that_the_bus_starts_in_its_own_unit_is_told() {
        let machine = Units { bus_started: ["org.gnome.Maps".to_owned()].into(), ..machine() };
        for (selectors, expected) in [
            ("user:app:org.gnome.Maps", 1),
            ("user:app:org.gnome.Maps.desktop", 1),
            ("user:app:firefox, alice:app:org.gnome.Maps", 1),
            ("user:app:firefox", 0),
            ("system:app:org.gnome.Maps", 0),
        ] {
            assert_eq!(
                messages(Code::BusStarted, &rule(selectors), with_units(&machine)).len(),
                expected,
                "{selectors}"
            );
        }
    }

    #[test]
    fn slip_is_told_with_what_is_near() {
        let machine = machine();
        for (wrong, right) in [
            ("system:foo@1.service, system:nginxx.service", "system:foo@1.service, system:nginx.service"),
            ("user:mail-snyc.service", "user:mail-sync.service"),
            ("1000:mail-synch.service, user:app:firefox", "1000:mail-sync.service, user:app:firefox"),
            ("user:app:firefx", "user:app:firefox"),
            ("user:app:evoluton", "user:app:evolution"),
            ("user:app:maps", "user:app:org.gnome.Maps"),
        ] {
            assert_eq!(mended(Code::UnknownUnit, &rule(wrong), with_units(&machine)), rule(right));
        }
        let list = "# nginx.service, absent.service :: add rule inet f c tcp dport 1 accept";
        assert_eq!(
            messages(Code::UnknownUnit, list, with_units(&machine)),
            ["neither a unit file nor a running unit is named `absent.service`"]
        );
        let found = found(Code::UnknownUnit, &rule("system:mail-sync.service"), with_units(&machine));
        assert_eq!(
            found[0].message,
            "`mail-sync.service` is a unit of users' managers: the system has none of this name"
        );
    }

    #[test]
    fn what_may_exist_is_not_told() {
        let machine = machine();
        for selectors in [
            "system:nginx.service, user:mail-sync.service",
            "user:ngnix.service",
            "user:own.service",
            "user:app:mail",
            "user:app:browser",
            "user:app:firefox.desktop",
            "user:app:snapped",
            "user:app:evolution",
            "user:app-firefx-*.scope",
            "user:foo@1.service, system:foo@2.service",
            "1000:work.scope, 1000:app.slice",
        ] {
            assert_eq!(
                messages(Code::UnknownUnit, &rule(selectors), with_units(&machine)),
                [] as [&str; 0],
                "{selectors}"
            );
        }
        assert_eq!(
            messages(Code::UnknownUnit, &rule("user:app:firefx"), crate::lint::Facts::default()),
            [] as [&str; 0]
        );
    }
}
