//! W040 and W041: names that hold a container's ID, and units whose containers' packets do not have their cgroup.

use super::cgroups::{self, Written};
use crate::{
    model::{AnnotationId, Manager, UnitName},
    policy::{Annotation, Policy},
    text::{Code, Diagnostic, Span, diagnostic::quoted},
    units::{
        Selector, Units,
        container::{self, Elsewhere},
        places,
        selector::{Which, Whose},
    },
};

/// Annotations that name a container by its ID.
pub(super) fn names(policy: &Policy) -> Vec<(AnnotationId, Diagnostic)> {
    policy.iter().filter_map(|(id, annotation)| Some((id, of_id(annotation)?))).collect()
}

fn of_id(annotation: &Annotation) -> Option<Diagnostic> {
    let of_path = |written: Written<'_>| {
        let name = written.path.components().find(|name| container::has_id(name))?.to_owned();
        let chosen = container::chosen_slice(written.path).map(|slice| match slice.manager {
            Manager::System => format!("system:{}", slice.unit),
            Manager::User(uid) => format!("{uid}:{}", slice.unit),
        });
        Some((name, chosen, written.span))
    };
    let of_selector = |(selector, span): (&Selector, Span)| match &selector.which {
        Which::Unit(unit) if container::has_id(&unit.0) => Some((unit.to_string(), None, span)),
        _ => None,
    };
    let of_paths = cgroups::written(annotation).into_iter().find_map(of_path);
    let (name, chosen, span) = of_paths.or_else(|| cgroups::selected_by(annotation).find_map(of_selector))?;
    let message = format!("{} holds the ID of one container: the next start has another", quoted(&name));
    let help = match chosen {
        Some(chosen) => {
            format!("write `{chosen}` in front of the `::`, and `socket cgroupv2 unit` as the match")
        }
        None => "run the container with `--cgroup-parent=NAME.slice`, or in a unit with podman's `--cgroups=split`, and \
                 select that slice or unit: see docs/containers.md"
            .to_owned(),
    };
    Some(Diagnostic::new(Code::ContainerId, span, message).help(help))
}

/// Annotations for the cgroup of a unit that runs a container elsewhere.
pub(super) fn units(policy: &Policy, units: &Units) -> Vec<Diagnostic> {
    policy.of_units().filter_map(|annotation| of_unit(annotation, units)).collect()
}

fn of_unit(annotation: &Annotation, units: &Units) -> Option<Diagnostic> {
    let of_path = |written: Written<'_>| {
        let name = written.path.components().filter(|name| places::kind(name) == "service").last()?;
        // A user's manager is a service, too.
        let name = UnitName(name.into());
        let manager = places::owner(written.path.as_str()).0;
        Some((elsewhere(&name, manager != Manager::System, units)?, name, written.span))
    };
    let of_selector = |(selector, span): (&Selector, Span)| {
        let Which::Unit(name) = &selector.which else { return None };
        let is_users = !matches!(selector.whose, Whose::Anybody | Whose::System);
        Some((elsewhere(name, is_users, units)?, name.clone(), span))
    };
    let is_selected = annotation.units_match().is_some();
    let of_paths = cgroups::written(annotation).into_iter().find_map(of_path);
    let selected = || cgroups::selected_by(annotation).filter(|_| is_selected).find_map(of_selector);
    let of_paths = of_paths.map(|found| (found, false));
    let ((elsewhere, name, span), is_selector) = of_paths.or_else(|| Some((selected()?, true)))?;
    let (message, help) = words(&name.0, &elsewhere);
    let diagnostic = Diagnostic::new(Code::ContainerElsewhere, span, message).help(help);
    Some(match elsewhere {
        Elsewhere::Cgroup { lasting: Some(lasting), .. } if is_selector => {
            diagnostic.fix(Span { start: span.end - name.0.len(), ..span }, lasting)
        }
        _ => diagnostic,
    })
}

fn elsewhere(name: &UnitName, is_users: bool, units: &Units) -> Option<Elsewhere> {
    let of_users = units.users_files_of(name).filter(|_| is_users);
    let of_system = units.files_of(name).filter(|file| !is_users && !file.is_users);
    let file = of_users.chain(of_system).find(|file| file.command.is_some())?;
    container::elsewhere(file.command.as_deref()?, is_users, file.machine.as_deref())
}

/// What is wrong, and what to do.
fn words(name: &str, elsewhere: &Elsewhere) -> (String, String) {
    let name = quoted(name);
    match elsewhere {
        Elsewhere::Cgroup { program, lasting } => (
            format!("{name} runs a container of {program}, whose packets have another cgroup than the unit's"),
            match (lasting, *program) {
                (Some(lasting), _) => format!("select `{lasting}`, which the container is in"),
                (None, "podman") => {
                    "add `--cgroups=split` to its `podman run`, and `Delegate=yes` to the unit: see docs/containers.md"
                        .to_owned()
                }
                (None, "systemd-nspawn") => "add `--keep-unit` to its command, and `Delegate=yes` to the unit".to_owned(),
                (None, _) => {
                    "add `--cgroup-parent=NAME.slice` to its command, and select that slice: see docs/containers.md"
                        .to_owned()
                }
            },
        ),
        Elsewhere::Network { program: "systemd-nspawn" } => (
            format!(
                "{name} runs a machine with a network of its own: its packets are forwarded, and no rule can match them by \
                 cgroup"
            ),
            "give it the host's network, with `VirtualEthernet=no` in its .nspawn file, or match its address in a chain of \
             `hook forward`: see docs/containers.md"
                .to_owned(),
        ),
        Elsewhere::Network { program } => (
            format!(
                "{name} runs a container of {program} with a network of its own: its packets are forwarded, and no rule \
                 can match them by cgroup"
            ),
            "give it the host's network, with `--network=host` or `Network=host`, or match its address in a chain of `hook \
             forward`: see docs/containers.md"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lint::{
            Facts,
            testing::{found, mended, messages, place, units as machine, with_units},
        },
        units::UnitFile,
    };

    const ID: &str = "af174edfdd19115160fa269ea3e3bc7ea7f69359379af89e05c4902ea959ce35";

    fn file(command: &str) -> UnitFile {
        UnitFile { is_read: true, command: Some(command.to_owned()), ..UnitFile::default() }
    }

    fn by_path(path: &str) -> String {
        let level = path.split('/').count();
        format!("# web.service :: add rule inet f c socket cgroupv2 level {level} \"{path}\" accept")
    }

    fn selected(selector: &str) -> String {
        format!("# {selector} :: add rule inet f c socket cgroupv2 unit accept")
    }

    fn help(code: Code, text: &str, units: &Units) -> Option<String> {
        found(code, text, with_units(units)).pop()?.help
    }

    #[test]
    fn container_s_id_is_told_and_nothing_else_is_said_of_it() {
        let name = format!("libpod-{ID}.scope");
        let path = format!("machine.slice/{name}/container");
        for text in [by_path(&path), selected(&format!("system:{name}")), by_path(&format!("docker/{ID}"))] {
            let all = crate::lint::lint(&crate::lint::testing::policy_of(&[&text]), Facts::default());
            let codes: Vec<Code> = all.iter().map(|diagnostic| diagnostic.code).collect();
            assert_eq!(codes, [Code::ContainerId], "{text}: {all:?}");
        }
        let text = by_path(&path);
        let found = found(Code::ContainerId, &text, Facts::default());
        assert_eq!(place(&text, &found[0]), path);
        assert!(found[0].message.ends_with("` holds the ID of one container: the next start has another"));
        let chosen = format!("user.slice/user-1000.slice/user@1000.service/web.slice/libpod-{ID}.scope");
        assert_eq!(
            help(Code::ContainerId, &by_path(&chosen), &Units::default()).as_deref(),
            Some("write `1000:web.slice` in front of the `::`, and `socket cgroupv2 unit` as the match")
        );
    }

    #[test]
    fn unit_whose_container_is_elsewhere_is_told() {
        let host = machine(&[("web.service", file("podman run --network=host img"))], &[]);
        for text in [by_path("system.slice/web.service"), selected("system:web.service")] {
            assert_eq!(
                messages(Code::ContainerElsewhere, &text, with_units(&host)),
                [
                    "`web.service` runs a container of podman, whose packets have another cgroup than the unit's"
                ]
            );
        }
        let bridge = machine(&[("web.service", file("podman run --cgroups=split img"))], &[]);
        let said = messages(Code::ContainerElsewhere, &selected("system:web.service"), with_units(&bridge));
        assert!(said[0].contains("its packets are forwarded"), "{said:?}");
        let docker =
            machine(&[("web.service", file("docker run --network=host --cgroup-parent=web.slice img"))], &[]);
        let text = selected("system:web.service");
        let told = help(Code::ContainerElsewhere, &text, &docker);
        assert_eq!(told.as_deref(), Some("select `web.slice`, which the container is in"));
        assert_eq!(
            mended(Code::ContainerElsewhere, &text, with_units(&docker)),
            selected("system:web.slice")
        );
    }

    #[test]
    fn units_whose_packets_have_their_cgroup_are_left_alone() {
        let split = machine(&[("web.service", file("podman run --cgroups=split --network=host img"))], &[]);
        let bridge = machine(&[("web.service", file("podman run img"))], &[]);
        let plain = "# web.service :: add rule inet f c tcp dport 1 accept";
        for (text, units) in [
            (selected("system:web.service"), &split),
            (selected("user:web.service"), &bridge),
            (selected("system:other.service"), &bridge),
            (plain.to_owned(), &bridge),
        ] {
            assert_eq!(messages(Code::ContainerElsewhere, &text, with_units(units)), [""; 0], "{text}");
        }
    }
}
