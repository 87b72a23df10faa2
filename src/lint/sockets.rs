//! W012: services whose connections come from a socket unit.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    calls::Calls,
    cgroups::{self, Place},
    subject::Subject,
    units::{self, Units},
};
use crate::{
    model::{ChainRef, UnitName},
    policy::{Code, Mistake, mistake::quoted},
};

/// Rules that may be about connections which a service's socket unit accepts.
pub(super) fn lint(
    subjects: &[Subject<'_>],
    units: Option<&Units>,
    calls: Option<&Calls<'_>>,
) -> Vec<Mistake> {
    let Some(units) = units else { return Vec::new() };
    let sockets = Sockets::of(units);
    let covered: BTreeSet<(&ChainRef, &str)> = subjects.iter().flat_map(covered_sockets).collect();
    let judged = |subject: &Subject<'_>| {
        if !may_be_of_accepted(subject, calls) {
            return None;
        }
        let paths = subject.cgroups.iter().flat_map(|cgroup| &cgroup.paths);
        paths.into_iter().find_map(|(path, span)| {
            let service = path.components().filter(|name| units::kind(name) == "service").last()?;
            let socket = sockets.of_service(service)?;
            if covered.contains(&(&subject.rule.chain, socket.0.as_str())) {
                return None;
            }
            let (service, name) = (quoted(service), quoted(&socket.0));
            let message = format!("{name} listens for {service}, and accepted connections have its cgroup or PID 1's");
            let place = place(socket, path.as_str(), units);
            let level = place.split('/').count();
            Some(Mistake::new(Code::SocketUnit, *span, message).help(format!(
                "for what it accepts, match `{place}` with `level {level}` too, or `init.scope` with `level 1`"
            )))
        })
    };
    subjects.iter().filter_map(judged).collect()
}

/// The socket units in use that listen on the network, by the service that they start.
struct Sockets<'a>(BTreeMap<String, &'a UnitName>);

impl<'a> Sockets<'a> {
    fn of(units: &'a Units) -> Self {
        let mut sockets = BTreeMap::new();
        for (name, file) in &units.files {
            let Some(stem) = name.0.strip_suffix(".socket") else { continue };
            let is_used = file.is_wanted || units.running.contains_key(name);
            if is_used && !file.listens_on.is_empty() {
                let service =
                    file.service.as_ref().map_or_else(|| format!("{stem}.service"), |unit| unit.0.clone());
                sockets.entry(service).or_insert(name);
            }
        }
        Self(sockets)
    }

    fn of_service(&self, service: &str) -> Option<&'a UnitName> {
        self.0.get(service).or_else(|| self.0.get(&units::template(service)?)).copied()
    }
}

/// The socket units that a rule names, in its chain.
fn covered_sockets<'a>(subject: &Subject<'a>) -> impl Iterator<Item = (&'a ChainRef, &'a str)> + use<'a> {
    let chain = &subject.rule.chain;
    let paths = subject.cgroups.clone().into_iter().flat_map(|cgroup| &cgroup.paths);
    let names = paths.flat_map(|(path, _)| path.components());
    names.filter(|name| units::kind(name) == "socket").map(move |name| (chain, name))
}

/// Whether packets of connections that others opened may come to a rule.
fn may_be_of_accepted(subject: &Subject<'_>, calls: Option<&Calls<'_>>) -> bool {
    if subject.tokens.iter().any(|token| token.is("sport")) {
        return true;
    }
    match calls.and_then(|calls| calls.hooks(&subject.rule.chain)) {
        None => true,
        Some(hooks) => hooks.contains("input") || hooks.contains("prerouting"),
    }
}

/// Where a socket unit's cgroup is, whose service's path this is.
fn place(socket: &UnitName, path: &str, units: &Units) -> String {
    let manager = cgroups::manager(path);
    let running = units.cgroups_of(socket).map(|path| path.as_str());
    if let Some(running) = running.into_iter().find(|running| cgroups::manager(running) == manager) {
        return running.to_owned();
    }
    match cgroups::place(socket, Some(units)) {
        Place::Known(place) | Place::Default(place) if manager.is_empty() => place,
        _ if manager.is_empty() => cgroups::default_path(&socket.0),
        _ => format!("{manager}/app.slice/{socket}"),
    }
}
