//! W012: services whose connections come from a socket unit.

use std::collections::{BTreeMap, BTreeSet};

use super::{calls::Calls, cgroups, subject::Subject};
use crate::{
    model::{CgroupPath, ChainRef, UnitName},
    text::{Code, Diagnostic, diagnostic::quoted},
    units::{Units, places},
};

/// Rules that may be about connections which a service's socket unit accepts.
pub(super) fn lint(subjects: &[Subject<'_>], units: &Units, calls: Option<&Calls<'_>>) -> Vec<Diagnostic> {
    let sockets = sockets(units);
    let covered: BTreeSet<(&ChainRef, &str)> = subjects.iter().flat_map(covered).collect();
    let judged = |subject: &Subject<'_>| {
        if !may_be_of_accepted(subject, calls) {
            return None;
        }
        let paths = subject.cgroups.iter().flat_map(|cgroup| &cgroup.paths);
        paths.into_iter().find_map(|(path, span)| {
            let service = path.components().filter(|name| places::kind(name) == "service").last()?;
            let socket = sockets.get(service).or_else(|| sockets.get(&places::template(service)?))?;
            if covered.contains(&(&subject.rule.chain, &*socket.0)) {
                return None;
            }
            let (service, name) = (quoted(service), quoted(&socket.0));
            let message = format!("{name} listens for {service}, and accepted connections have its cgroup or PID 1's");
            let place = place(socket, path.as_str(), units);
            let level = place.split('/').count();
            Some(Diagnostic::new(Code::SocketUnit, *span, message).help(format!(
                "for what it accepts, match `{place}` with `level {level}` too, or `init.scope` with `level 1`"
            )))
        })
    };
    subjects.iter().filter_map(judged).collect()
}

/// The socket units in use that listen on the network, by the service that they start.
fn sockets(units: &Units) -> BTreeMap<String, &UnitName> {
    let mut sockets = BTreeMap::new();
    for (name, file) in &units.files {
        let Some(stem) = name.0.strip_suffix(".socket") else { continue };
        if !file.listens_on.is_empty() && (file.is_wanted || units.running.contains_key(name)) {
            let service = file.service.as_ref().map_or(format!("{stem}.service"), UnitName::to_string);
            sockets.entry(service).or_insert(name);
        }
    }
    sockets
}

/// The socket units that a rule names, in its chain.
fn covered<'a>(subject: &Subject<'a>) -> impl Iterator<Item = (&'a ChainRef, &'a str)> + use<'a> {
    let chain = &subject.rule.chain;
    let names = subject.rule.paths().flat_map(CgroupPath::components);
    names.filter(|name| places::kind(name) == "socket").map(move |name| (chain, name))
}

/// Whether packets of connections that others opened may come to a rule.
fn may_be_of_accepted(subject: &Subject<'_>, calls: Option<&Calls<'_>>) -> bool {
    let hooks = calls.and_then(|calls| calls.hooks(&subject.rule.chain));
    subject.tokens.iter().any(|token| token.is("sport"))
        || hooks.is_none_or(|hooks| hooks.contains("input") || hooks.contains("prerouting"))
}

/// Where a socket unit's cgroup is, whose service's path this is.
fn place(socket: &UnitName, path: &str, units: &Units) -> String {
    let manager = cgroups::manager(path);
    let mut running = units.cgroups_of(socket).map(CgroupPath::as_str);
    if let Some(running) = running.find(|running| cgroups::manager(running) == manager) {
        return running.to_owned();
    }
    if !manager.is_empty() {
        return format!("{manager}/app.slice/{socket}");
    }
    cgroups::place(socket, units).map_or_else(|| cgroups::default_path(&socket.0), |(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lint::{
            Facts, Ruleset,
            testing::{found, jump, messages, ruleset, units, with_units},
        },
        units::UnitFile,
    };

    fn socket(is_wanted: bool, service: Option<&str>) -> UnitFile {
        UnitFile {
            is_read: true,
            listens_on: vec!["22".to_owned()],
            service: service.map(|name| UnitName(name.into())),
            is_wanted,
            ..UnitFile::default()
        }
    }

    fn rule(matches: &str) -> String {
        format!(
            "# ssh.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/ssh.service\" {matches} accept"
        )
    }

    fn hooked(hook: &str) -> Ruleset {
        ruleset(&[("b", Some((hook, "accept")), vec![serde_json::json!([jump("c")])]), ("c", None, vec![])])
    }

    fn said(units: &Units, hook: &str, matches: &str) -> Vec<String> {
        let ruleset = hooked(hook);
        messages(Code::SocketUnit, &rule(matches), Facts { units: Some(units), ruleset: Some(&ruleset) })
    }

    const LISTENS: &str =
        "`ssh.socket` listens for `ssh.service`, and accepted connections have its cgroup or PID 1's";

    #[test]
    fn service_whose_socket_unit_listens_is_told() {
        let wanted = units(&[("ssh.socket", socket(true, None))], &[]);
        let running = units(&[("ssh.socket", socket(false, None))], &["system.slice/ssh.socket"]);
        for machine in [&wanted, &running] {
            let found = found(Code::SocketUnit, &rule(""), with_units(machine));
            assert_eq!(found[0].message, LISTENS);
            assert_eq!(
                found[0].help.as_deref(),
                Some(
                    "for what it accepts, match `system.slice/ssh.socket` with `level 2` too, or `init.scope` with `level 1`"
                )
            );
        }
        assert_eq!(said(&wanted, "input", "tcp dport 22"), [LISTENS]);
        assert_eq!(said(&wanted, "output", "tcp sport 22"), [LISTENS]);
        let other = units(&[("listener.socket", socket(true, Some("ssh.service")))], &[]);
        assert_eq!(said(&other, "input", "").len(), 1);
    }

    #[test]
    fn what_the_service_opens_itself_is_its_own() {
        let wanted = units(&[("ssh.socket", socket(true, None))], &[]);
        assert_eq!(said(&wanted, "output", "tcp dport 25"), [] as [&str; 0]);
        assert_eq!(said(&wanted, "forward", ""), [] as [&str; 0]);
    }

    #[test]
    fn sockets_that_are_not_used_or_not_of_the_network_do_not_count() {
        let local = UnitFile { listens_on: vec![], ..socket(true, None) };
        for files in [
            &[("ssh.socket", socket(false, None))][..],
            &[("ssh.socket", local)],
            &[("ssh.socket", socket(true, Some("other.service")))],
            &[("sshd.socket", socket(true, None))],
        ] {
            assert_eq!(said(&units(files, &[]), "input", ""), [] as [&str; 0], "{files:?}");
        }
        assert_eq!(messages(Code::SocketUnit, &rule(""), Facts::default()), [] as [&str; 0]);
    }

    #[test]
    fn author_who_names_the_socket_knows() {
        let wanted = units(&[("ssh.socket", socket(true, None))], &[]);
        let both = format!(
            "{}\n# ssh.service :: add rule inet f c socket cgroupv2 level 2 \"system.slice/ssh.socket\" accept",
            rule("")
        );
        assert_eq!(messages(Code::SocketUnit, &both, with_units(&wanted)), [] as [&str; 0]);
    }
}
