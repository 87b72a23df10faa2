//! W012: services whose connections come from a socket unit.

use std::collections::{BTreeMap, BTreeSet};

use super::{calls::Calls, cgroups, subject::Subject};
use crate::{
    gather::Gather,
    model::{CgroupPath, ChainRef, Data, UnitName},
    policy::{Policy, Statement},
    text::{Code, Diagnostic, Span, diagnostic::quoted},
    units::{Selector, Units, places, selector::Which},
};

/// Annotations that may be about connections which a service's socket unit accepts.
pub(super) fn lint(
    policy: &Policy,
    subjects: &[Subject<'_>],
    units: &Units,
    calls: Option<&Calls<'_>>,
) -> Vec<Diagnostic> {
    let sockets = sockets(units);
    if sockets.is_empty() {
        return Vec::new();
    }
    let matches: Vec<Match<'_>> = rules(subjects).chain(elements(policy, calls)).collect();
    let covered: BTreeSet<(&ChainRef, &str)> = matches.iter().flat_map(Match::covered).gather();
    let judged = |found: &Match<'_>| {
        let chains =
            found.chains.iter().filter(|chain| found.has_source_port || may_be_of_accepted(chain, calls));
        let chains: Vec<&ChainRef> = chains.copied().collect();
        found.named.iter().filter(|_| !chains.is_empty()).find_map(|named| {
            let service = named.service()?;
            let socket = sockets.get(service).or_else(|| sockets.get(&places::template(service)?))?;
            if chains.iter().all(|chain| covered.contains(&(*chain, &*socket.0))) {
                return None;
            }
            let (service, name) = (quoted(service), quoted(&socket.0));
            let message =
                format!("{name} listens for {service}, and accepted connections have its cgroup or PID 1's");
            let right = match named.what {
                What::Path(path) => {
                    let place = place(socket, path.as_str(), units);
                    format!("match `{place}` with `level {}` too, or", place.split('/').count())
                }
                What::Unit(selector) => format!("select `{}{socket}` too, or match", selector.whose),
            };
            Some(
                Diagnostic::new(Code::SocketUnit, named.span, message)
                    .help(format!("for what it accepts, {right} `init.scope` with `level 1`")),
            )
        })
    };
    matches.iter().filter_map(judged).collect()
}

/// What matches cgroups: a rule, or the elements of a set.
struct Match<'a> {
    /// Where packets are compared.
    chains: Vec<&'a ChainRef>,
    /// Whether it looks at the port of the sender, as answers need.
    has_source_port: bool,
    named: Vec<Named<'a>>,
}

/// What names a unit, and where it stands.
struct Named<'a> {
    what: What<'a>,
    span: Span,
}

#[derive(Clone, Copy)]
enum What<'a> {
    Path(&'a CgroupPath),
    Unit(&'a Selector),
}

impl<'a> Named<'a> {
    /// The service that it is about.
    fn service(&self) -> Option<&'a str> {
        self.names().into_iter().rfind(|name| places::kind(name) == "service")
    }

    fn names(&self) -> Vec<&'a str> {
        match self.what {
            What::Path(path) => path.components().collect(),
            What::Unit(Selector { which: Which::Unit(unit), .. }) => vec![&*unit.0],
            What::Unit(_) => vec![],
        }
    }
}

impl<'a> Match<'a> {
    /// The socket units that it names, by chain.
    fn covered(&self) -> Vec<(&'a ChainRef, &'a str)> {
        let names = self.named.iter().flat_map(Named::names).filter(|name| places::kind(name) == "socket");
        names.flat_map(|name| self.chains.iter().map(move |chain| (*chain, name))).collect()
    }
}

fn rules<'a>(subjects: &[Subject<'a>]) -> impl Iterator<Item = Match<'a>> {
    subjects.iter().map(|subject| {
        let paths = subject.cgroups.iter().flat_map(|cgroup| &cgroup.paths);
        let paths = paths.map(|(path, span)| Named { what: What::Path(path), span: *span });
        let selects = subject.annotation.units_match().is_some();
        let units = subject.annotation.selectors_with_spans().filter(|_| selects);
        let units = units.map(|(selector, span)| Named { what: What::Unit(selector), span });
        Match {
            chains: vec![&subject.rule.chain],
            has_source_port: subject.tokens.iter().any(|token| token.is("sport")),
            named: paths.chain(units).collect(),
        }
    })
}

fn elements<'a>(policy: &'a Policy, calls: Option<&'a Calls<'_>>) -> impl Iterator<Item = Match<'a>> {
    policy.annotations.iter().filter_map(move |annotation| {
        let Statement::Element(statement) = &annotation.statement else { return None };
        let named = |(path, span, _): &'a (CgroupPath, Span, Option<Data>)| Named {
            what: What::Path(path),
            span: *span,
        };
        Some(Match {
            chains: calls?.lookups(&statement.set).iter().map(|lookup| &lookup.chain).collect(),
            has_source_port: false,
            named: statement.elements.iter().map(named).collect(),
        })
    })
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

/// Whether packets of connections that others opened may come to a chain.
fn may_be_of_accepted(chain: &ChainRef, calls: Option<&Calls<'_>>) -> bool {
    let hooks = calls.and_then(|calls| calls.hooks(chain));
    hooks.is_none_or(|hooks| hooks.contains("input") || hooks.contains("prerouting"))
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
        messages(
            Code::SocketUnit,
            &rule(matches),
            Facts { units: Some(units), ruleset: Some(&ruleset), routing: None },
        )
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
    fn selectors_and_elements_are_about_what_the_service_accepts_too() {
        let wanted = units(&[("ssh.socket", socket(true, None))], &[]);
        let select =
            |unit: &str| format!("# system:{unit} :: add rule inet f c socket cgroupv2 unit accept\n");
        let found = found(Code::SocketUnit, &select("ssh.service"), with_units(&wanted));
        assert_eq!(found[0].message, LISTENS);
        assert_eq!(
            found[0].help.as_deref(),
            Some("for what it accepts, select `system:ssh.socket` too, or match `init.scope` with `level 1`")
        );
        let both = select("ssh.service") + &select("ssh.socket");
        assert_eq!(messages(Code::SocketUnit, &both, with_units(&wanted)), [] as [&str; 0]);
        let element = "# ssh.service :: add element inet f s { \"system.slice/ssh.service\" }";
        let lookup = serde_json::json!([{"match": {"op": "==", "left": {"socket": {"key": "cgroupv2"}}, "right": "@s"}}]);
        for (hook, expected) in [("input", 1), ("output", 0)] {
            let ruleset = ruleset(&[("b", Some((hook, "accept")), vec![lookup.clone()])]);
            let facts = Facts { units: Some(&wanted), ruleset: Some(&ruleset), routing: None };
            assert_eq!(messages(Code::SocketUnit, element, facts).len(), expected, "{hook}");
        }
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
