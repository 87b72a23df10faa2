//! What there is to say of containers: where the packets of one come from, and what selects it at its next start.

use super::facts::Process;
use crate::{
    model::{CgroupPath, Instance},
    units::{Selector, container},
};

/// How many of what may be the one are named.
const MOST: usize = 3;

/// Of a container's processes that are in another network namespace than `own`; `all` are the machine's.
pub fn of_network(processes: &[Process], own: Option<u64>, all: &[Process]) -> Option<String> {
    let is_elsewhere = |one: &&Process| one.network.is_some() && one.network != own;
    let is_of_container = |one: &Process| one.cgroup.path().is_some_and(container::is_in_one);
    processes.iter().filter(is_elsewhere).find(|one| is_of_container(one))?;
    let helpers = all.iter().filter(|one| one.network == own && container::is_helper(&one.name));
    let helpers: Vec<String> = helpers
        .filter_map(|one| Some(format!("{} (process {}) in {}", one.name, one.pid, one.cgroup.path()?)))
        .collect();
    let more = helpers.len().saturating_sub(MOST);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let said = "it is in a container with a network of its own: what is forwarded for it has no socket here, so no rule can \
                match it by cgroup; see docs/containers.md";
    Some(match &helpers[..] {
        [] => said.to_owned(),
        some => format!(
            "{said}. Where podman's pasta or slirp4netns sends for it, rules see the cgroup of that: {}{more}",
            some[..some.len().min(MOST)].join(", ")
        ),
    })
}

/// Of a unit whose container is not in its cgroup: podman's conmon is there, `paths` are all cgroups.
pub fn outside<'a>(
    unit: &CgroupPath,
    processes: &[Process],
    mut paths: impl Iterator<Item = &'a CgroupPath>,
) -> Option<String> {
    // What a helper in the unit sends for the container has the unit's cgroup.
    let has_helper = processes.iter().any(|one| container::is_helper(&one.name));
    if has_helper || unit.components().any(container::has_id) {
        return None;
    }
    let id = processes.iter().filter(|one| one.name == "conmon").find_map(|one| id_of(&one.command))?;
    let is_it = |path: &&CgroupPath| {
        let last = path.components().last().unwrap_or_default();
        last.strip_suffix(".scope").unwrap_or(last).strip_prefix("libpod-") == Some(id)
    };
    let place = paths.find(is_it).filter(|place| !place.is_within(unit))?;
    Some(format!(
        "the container that it runs is in a cgroup of its own, {place}: no rule for this unit matches it unless \
         `--cgroups=split` keeps it here; see docs/containers.md"
    ))
}

/// Of a cgroup that is a unit's, or no unit's, by a container's ID.
pub fn lasting(path: &CgroupPath) -> Option<String> {
    let is_named = match Instance::in_which(path) {
        Some(unit) => container::has_id(&unit.unit.0),
        None => path.components().any(container::has_id),
    };
    let chosen = || container::chosen_slice(path).and_then(|slice| Selector::of(&slice, None));
    is_named.then(|| match chosen() {
        Some(slice) => {
            format!("it is named by a container's ID, which never comes back: select {slice}, which it is in")
        }
        None => format!("it is {}", container::NO_NAME),
    })
}

/// The cgroups of podman's containers of this name; `paths` are all cgroups.
pub fn named<'a>(
    name: &str,
    processes: &[Process],
    paths: impl Iterator<Item = &'a CgroupPath> + Clone,
) -> Vec<&'a CgroupPath> {
    let monitors =
        processes.iter().filter(|one| one.name == "conmon" && option(&one.command, "-n") == Some(name));
    let ids = monitors.filter_map(|one| id_of(&one.command));
    let of = |id| {
        paths.clone().find(|path| {
            let last = path.components().last().unwrap_or_default();
            let last = last.strip_suffix(".scope").unwrap_or(last);
            ["libpod-", "libpod-payload-"].iter().any(|start| last.strip_prefix(start) == Some(id))
        })
    };
    ids.filter_map(of).collect()
}

/// The container's ID in conmon's command line.
fn id_of(command: &str) -> Option<&str> {
    option(command, "-c").filter(|id| container::has_id(id))
}

fn option<'a>(command: &'a str, name: &str) -> Option<&'a str> {
    let mut words = command.split(' ');
    words.by_ref().find(|word| *word == name)?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::facts::Place;

    const ID: &str = "af174edfdd19115160fa269ea3e3bc7ea7f69359379af89e05c4902ea959ce35";

    fn process(pid: u32, name: &str, network: u64, path: &str) -> Process {
        Process {
            pid,
            name: name.to_owned(),
            network: Some(network),
            cgroup: Place::In(path.parse().unwrap()),
            command: format!("/usr/bin/conmon --api-version 1 -c {ID} -u {ID} -n web"),
            ..Process::default()
        }
    }

    #[test]
    fn container_with_a_network_of_its_own_is_told_with_its_helpers() {
        let inner = [process(7, "nc", 2, &format!("web.slice/libpod-{ID}.scope/container"))];
        let pasta =
            process(8, "pasta.avx2", 1, "user.slice/user-1000.slice/user@1000.service/app.slice/web.service");
        let said = of_network(&inner, Some(1), &inner).unwrap();
        assert!(said.ends_with("see docs/containers.md"), "{said}");
        let said = of_network(&inner, Some(1), &[pasta]).unwrap();
        assert!(said.contains("pasta.avx2 (process 8) in user.slice/"), "{said}");
        assert_eq!(of_network(&inner, Some(2), &[]), None);
        // PrivateNetwork=
        assert_eq!(of_network(&[process(7, "a", 2, "system.slice/a.service")], Some(1), &[]), None);
    }

    #[test]
    fn container_outside_of_its_unit_is_told() {
        let unit: CgroupPath = "system.slice/web.service".parse().unwrap();
        let conmon = [process(7, "conmon", 1, "system.slice/web.service")];
        let own: CgroupPath = format!("machine.slice/libpod-{ID}.scope").parse().unwrap();
        let split: CgroupPath = format!("system.slice/web.service/libpod-payload-{ID}").parse().unwrap();
        let said = outside(&unit, &conmon, [&unit, &own].into_iter()).unwrap();
        assert!(said.contains(own.as_str()), "{said}");
        assert_eq!(outside(&unit, &conmon, [&unit, &split].into_iter()), None);
        let with_helper = [conmon[0].clone(), process(8, "pasta.avx2", 1, "system.slice/web.service")];
        assert_eq!(outside(&unit, &with_helper, [&unit, &own].into_iter()), None);
        let monitor: CgroupPath = format!("machine.slice/libpod-conmon-{ID}.scope").parse().unwrap();
        assert_eq!(outside(&monitor, &[process(7, "conmon", 1, monitor.as_str())], [&own].into_iter()), None);
        assert_eq!(outside(&unit, &[process(7, "nginx", 1, "a.slice")], [&own].into_iter()), None);
    }

    #[test]
    fn container_is_found_by_its_name() {
        let conmon = [process(7, "conmon", 1, "system.slice/web.service")];
        let paths: Vec<CgroupPath> =
            ["system.slice".to_owned(), format!("system.slice/web.service/libpod-payload-{ID}")]
                .map(|path| path.parse().unwrap())
                .into();
        assert_eq!(named("web", &conmon, paths.iter()), [&paths[1]]);
        assert_eq!(named("db", &conmon, paths.iter()), [] as [&CgroupPath; 0]);
        let scope = [format!("machine.slice/libpod-{ID}.scope").parse().unwrap()];
        assert_eq!(named("web", &conmon, scope.iter()), [&scope[0]]);
    }

    #[test]
    fn names_that_never_come_back_are_told() {
        let said = |path: String| lasting(&path.parse().unwrap());
        assert!(said(format!("web.slice/libpod-{ID}.scope")).unwrap().contains("select system:web.slice,"));
        assert!(said(format!("machine.slice/libpod-{ID}.scope")).unwrap().contains("--cgroup-parent"));
        let user = "user.slice/user-1000.slice/user@1000.service";
        assert!(said(format!("{user}/user.slice/libpod-{ID}.scope/container")).is_some());
        assert!(said(format!("{user}/web.slice/libpod-{ID}.scope")).unwrap().contains("1000:web.slice"));
        assert!(said(format!("docker/{ID}")).is_some());
        assert_eq!(said(format!("system.slice/web.service/libpod-payload-{ID}")), None);
        assert_eq!(said("system.slice/web.service".to_owned()), None);
    }
}
