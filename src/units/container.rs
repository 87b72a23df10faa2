//! CONTAINERS. Names that hold a container's ID, which never come back, and what the command of a unit says of where its
//! container's packets come from (podman-run(1), docker-run(1), systemd-nspawn(1)). docs/containers.md has what was tried.

use super::places;
use crate::model::{CgroupPath, Instance};

/// Whether a cgroup's name holds the ID of a container or of a pod: podman's, docker's, containerd's, CRI-O's and the
/// kubelet's, with systemd's names (`libpod-ID.scope`) and without (`ID`).
pub fn has_id(name: &str) -> bool {
    const DIGITS: usize = 64;
    let stem = name.strip_suffix(".scope").or_else(|| name.strip_suffix(".slice")).unwrap_or(name);
    let is_id = stem.len().checked_sub(DIGITS).and_then(|at| stem.split_at_checked(at)).is_some_and(
        |(before, id)| is_hexadecimal(id) && (before.is_empty() || before.ends_with(['-', '_'])),
    );
    is_id || is_pod(stem)
}

/// The slice that holds a container and that somebody chose (`--cgroup-parent=NAME.slice`), so that its name is known ahead.
pub fn chosen_slice(path: &CgroupPath) -> Option<Instance> {
    let text = path.as_str();
    let above = text.rmatch_indices('/').map(|(at, _)| &text[..at]);
    let slice = above.take_while(|path| is_slice(path)).find(|path| !has_id(last(path)))?;
    let is_chosen = !DEFAULTS.contains(&last(slice)) && !last(slice).starts_with("kubepods");
    Instance::of(&slice.parse().ok()?).filter(|_| is_chosen)
}

/// What to do about a container whose next start has another name.
pub const NO_NAME: &str = "named by a container's ID, which never comes back, so nothing selects the next start: run the container \
                           with `--cgroup-parent=NAME.slice`, or in a unit with podman's `--cgroups=split`; see docs/containers.md";

/// Whether it is the cgroup of the program that waits for a container to end, and sends nothing.
pub fn is_monitor(name: &str) -> bool {
    has_id(name) && ["libpod-conmon-", "crio-conmon-"].iter().any(|start| name.starts_with(start))
}

/// Whether a cgroup is a container's, as far as names tell.
pub fn is_in_one(path: &CgroupPath) -> bool {
    let is_machines = |name: &str| {
        name == "payload"
            || name.starts_with("systemd-nspawn@")
            || name.starts_with("machine-") && places::kind(name) == "scope"
    };
    path.components().any(|name| has_id(name) || is_machines(name))
}

/// Whether a program of this name sends for containers from sockets of its own.
pub fn is_helper(name: &str) -> bool {
    matches!(name, "pasta" | "passt" | "slirp4netns") || name.starts_with("pasta.")
}

/// Where programs put containers if nobody says otherwise.
const DEFAULTS: [&str; 4] = ["machine.slice", "system.slice", "user.slice", "app.slice"];

/// Why packets of the container that a unit runs do not have the unit's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// The container has a cgroup of its own outside of the unit's.
    Cgroup {
        /// What runs it.
        program: &'static str,
        /// The unit that stays to be selected in place of this one.
        lasting: Option<String>,
    },
    /// The container has a network of its own: packets are forwarded, and no socket of the machine sends them.
    Network {
        /// What runs it.
        program: &'static str,
    },
}

/// What a unit's command says of its container. None if it runs none, if the packets have the unit's cgroup, or if that
/// cannot be told. `machine` is the text of the .nspawn file of its machine, empty if there is none, if that is known.
pub fn elsewhere(command: &str, is_users: bool, machine: Option<&str>) -> Option<Elsewhere> {
    let words: Vec<&str> = command
        .split_whitespace()
        .map(|word| word.trim_matches(['"', '\'']))
        .filter(|word| *word != "\\")
        .collect();
    let (first, options) = words.split_first()?;
    let program = first.trim_start_matches(['-', '@', ':', '+', '!', '|']).rsplit('/').next()?;
    let options = Options(options);
    match program {
        "podman" if options.0.contains(&"run") => podman(&options, is_users),
        "docker" if options.0.contains(&"run") => Some(match options.network() {
            Some("host") => Elsewhere::Cgroup { program: "docker", lasting: options.parent() },
            Some(other) if is_anothers(other) => return None,
            _ => Elsewhere::Network { program: "docker" },
        }),
        "systemd-nspawn" => nspawn(&options, machine),
        _ => None,
    }
}

fn podman(options: &Options<'_>, is_users: bool) -> Option<Elsewhere> {
    let is_in_unit = matches!(options.value(&["--cgroups"]), Some("split" | "disabled"));
    // The sockets of a program that stays in the unit.
    let is_helper = |network: &str| ["pasta", "slirp4netns"].iter().any(|name| network.starts_with(name));
    match options.network() {
        None if options.value(&["--pod", "--pod-id-file"]).is_some() => None,
        None if is_users => None,
        Some("host") if is_in_unit => None,
        Some("host") => Some(Elsewhere::Cgroup { program: "podman", lasting: options.parent() }),
        // A user's bridge is behind a helper, which is in the unit of the container that was the first.
        Some(network) if is_helper(network) || is_anothers(network) || is_users => None,
        _ => Some(Elsewhere::Network { program: "podman" }),
    }
}

/// What it runs has the network of another container, or one that was made by hand, or none.
fn is_anothers(network: &str) -> bool {
    network == "none" || ["container:", "ns:"].iter().any(|start| network.starts_with(start))
}

fn nspawn(options: &Options<'_>, machine: Option<&str>) -> Option<Elsewhere> {
    let is_veth = |word: &&str| matches!(*word, "-n" | "--network-veth");
    let is_other = |word: &&str| {
        *word == "--private-network"
            || word.starts_with("--network-")
                && !is_veth(word)
                && !word.starts_with("--network-namespace-path")
    };
    let has_veth = options.0.iter().any(is_veth);
    let is_private = options.0.iter().any(is_other)
        || match options.value(&["--settings"]) {
            Some("override") => is_private(machine?, has_veth),
            _ => has_veth,
        };
    if is_private {
        return Some(Elsewhere::Network { program: "systemd-nspawn" });
    }
    if options.0.iter().any(|word| matches!(*word, "--keep-unit" | "--register=no")) {
        return None;
    }
    let name = options.value(&["--machine", "-M"]);
    let name = name.filter(|name| !name.contains('%'));
    let lasting = name.map(|name| format!("machine-{}.scope", super::escape::escape(name.as_bytes())));
    Some(Elsewhere::Cgroup { program: "systemd-nspawn", lasting })
}

/// Whether a .nspawn file gives its machine a network of its own (systemd.nspawn(5)), where a veth is there by default or not.
fn is_private(text: &str, has_veth: bool) -> bool {
    const OTHERS: [&str; 9] = [
        "Private",
        "VirtualEthernetExtra",
        "Interface",
        "MACVLAN",
        "IPVLAN",
        "Bridge",
        "Zone",
        "Port",
        "NamespacePath",
    ];
    let is_no =
        |value: &str| ["", "no", "n", "false", "f", "off", "0"].contains(&&*value.to_ascii_lowercase());
    let assignments = text.lines().filter_map(|line| line.split_once('='));
    let mut assignments = assignments.map(|(key, value)| (key.trim(), value.trim()));
    let veth = assignments.clone().rfind(|(key, _)| *key == "VirtualEthernet");
    veth.map_or(has_veth, |(_, value)| !is_no(value))
        || assignments.any(|(key, value)| OTHERS.contains(&key) && !is_no(value))
}

/// The words of a command behind its program.
struct Options<'a>(&'a [&'a str]);

impl<'a> Options<'a> {
    /// What is said last for an option of one of these names.
    fn value(&self, names: &[&str]) -> Option<&'a str> {
        let of = |(at, word): (usize, &&'a str)| match word.split_once('=') {
            Some((name, value)) if names.contains(&name) => Some(value),
            None if names.contains(word) => self.0.get(at + 1).copied(),
            _ => None,
        };
        self.0.iter().enumerate().rev().find_map(of)
    }

    fn network(&self) -> Option<&'a str> {
        self.value(&["--network", "--net"])
    }

    fn parent(&self) -> Option<String> {
        let slice = self.value(&["--cgroup-parent"])?;
        (places::is_slice(slice) && !slice.contains('%')).then(|| slice.to_owned())
    }
}

/// Of the kubelet's pods, `pod` and a UUID, in slices with `_` in it for `-`.
fn is_pod(stem: &str) -> bool {
    const UUID: usize = 36;
    let at = stem.len().checked_sub(UUID).and_then(|at| stem.split_at_checked(at));
    at.is_some_and(|(before, uuid)| {
        let lengths = uuid.split(['-', '_']).map(str::len);
        (before == "pod" || before.ends_with("-pod"))
            && lengths.eq([8, 4, 4, 4, 12])
            && uuid.split(['-', '_']).all(is_hexadecimal)
    })
}

fn is_slice(path: &str) -> bool {
    places::is_slice(last(path))
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "af174edfdd19115160fa269ea3e3bc7ea7f69359379af89e05c4902ea959ce35";

    fn chosen(path: &str) -> Option<String> {
        chosen_slice(&path.parse().unwrap()).map(|instance| instance.path.to_string())
    }

    #[test]
    fn names_with_ids_are_known() {
        for name in [
            format!("libpod-{ID}.scope"),
            format!("libpod-conmon-{ID}.scope"),
            format!("libpod-payload-{ID}"),
            format!("libpod-{ID}"),
            format!("machine-libpod_pod_{ID}.slice"),
            format!("docker-{ID}.scope"),
            format!("cri-containerd-{ID}.scope"),
            ID.to_owned(),
            "kubepods-besteffort-pod3e7c7b9a_0f53_4d6f_8f0c_5f2a1c6b7d8e.slice".to_owned(),
            "pod3e7c7b9a-0f53-4d6f-8f0c-5f2a1c6b7d8e".to_owned(),
        ] {
            assert!(has_id(&name), "{name}");
        }
        assert!(
            is_monitor(&format!("libpod-conmon-{ID}.scope")) && !is_monitor(&format!("libpod-{ID}.scope"))
        );
        for name in [
            "web.service".to_owned(),
            "machine.slice".to_owned(),
            "libpod-web.scope".to_owned(),
            format!("libpod{ID}.scope"),
            format!("libpod-{}g.scope", &ID[1..]),
            "vte-spawn-3e7c7b9a-0f53-4d6f-8f0c-5f2a1c6b7d8e.scope".to_owned(),
            "é".repeat(40),
            "é".repeat(18) + "e",
            String::new(),
        ] {
            assert!(!has_id(&name), "{name}");
        }
    }

    #[test]
    fn slice_that_somebody_chose_stays() {
        const USER: &str = "user.slice/user-1000.slice/user@1000.service";
        let pod = format!("web-libpod_pod_{ID}.slice");
        for (path, expected) in [
            (format!("web.slice/libpod-{ID}.scope"), Some("web.slice".to_owned())),
            (format!("web.slice/web-a.slice/docker-{ID}.scope"), Some("web.slice/web-a.slice".to_owned())),
            (format!("web.slice/{pod}/libpod-{ID}.scope"), Some("web.slice".to_owned())),
            (format!("{USER}/web.slice/libpod-{ID}.scope"), Some(format!("{USER}/web.slice"))),
            (format!("{USER}/user.slice/libpod-{ID}.scope"), None),
            (format!("machine.slice/libpod-{ID}.scope"), None),
            (format!("machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope"), None),
            (format!("system.slice/docker-{ID}.scope"), None),
            (format!("kubepods.slice/kubepods-besteffort.slice/cri-containerd-{ID}.scope"), None),
            (format!("docker/{ID}"), None),
            (ID.to_owned(), None),
        ] {
            assert_eq!(chosen(&path), expected, "{path}");
        }
    }

    fn cgroup(program: &'static str, lasting: Option<&str>) -> Option<Elsewhere> {
        Some(Elsewhere::Cgroup { program, lasting: lasting.map(str::to_owned) })
    }

    fn network(program: &'static str) -> Option<Elsewhere> {
        Some(Elsewhere::Network { program })
    }

    #[test]
    fn command_says_where_a_systems_container_is() {
        for (command, expected) in [
            ("/usr/bin/podman run --cgroups=no-conmon --network=host img", cgroup("podman", None)),
            (
                "-/usr/bin/podman run --network host --cgroup-parent=web.slice img",
                cgroup("podman", Some("web.slice")),
            ),
            ("podman run --cgroups=split --network host img", None),
            ("podman run --cgroups=disabled --net=host img", None),
            ("podman run --cgroups=split img", network("podman")),
            ("podman run --network=mine img", network("podman")),
            ("podman run --network=slirp4netns:mtu=1500 img", None),
            ("podman run --network=none img", None),
            ("podman run --network=container:web img", None),
            ("podman run --pod web img", None),
            ("podman run --cgroups=split --pod-id-file %t/web-pod.pod-id img", None),
            ("podman start web", None),
            ("docker run --network=host img", cgroup("docker", None)),
            ("docker run --net host --cgroup-parent web.slice img", cgroup("docker", Some("web.slice"))),
            ("docker run img", network("docker")),
            (
                "systemd-nspawn --machine=my-web --boot",
                cgroup("systemd-nspawn", Some("machine-my\\x2dweb.scope")),
            ),
            ("systemd-nspawn -M web --keep-unit", None),
            ("systemd-nspawn --keep-unit --network-veth -M web", network("systemd-nspawn")),
            ("systemd-nspawn --keep-unit --network-veth --settings=override --machine=%i", None),
            ("/usr/sbin/nginx run", None),
            ("", None),
        ] {
            assert_eq!(elsewhere(command, false, None), expected, "{command}");
        }
    }

    #[test]
    fn users_containers_have_a_helper_in_the_unit() {
        for (command, expected) in [
            ("podman run img", None),
            ("podman run --network=pasta img", None),
            ("podman run --network=host img", cgroup("podman", None)),
            ("podman run --cgroups=split --network=host img", None),
            ("podman run --network=mine img", None),
        ] {
            assert_eq!(elsewhere(command, true, None), expected, "{command}");
        }
    }

    #[test]
    fn machine_s_file_says_whether_it_has_a_network_of_its_own() {
        let command =
            "systemd-nspawn --quiet --keep-unit --boot --network-veth -U --settings=override --machine=%i";
        let own = network("systemd-nspawn");
        for (file, expected) in [
            (None, None),
            (Some(""), own.clone()),
            (Some("[Network]\nVirtualEthernet=no\n"), None),
            (Some("[Network]\nVirtualEthernet = off\n"), None),
            (Some("[Network]\nVirtualEthernet=no\nPrivate=yes\n"), own.clone()),
            (Some("[Network]\nVirtualEthernet=no\nBridge=br0\n"), own.clone()),
            (Some("[Exec]\nBoot=yes\n"), own),
        ] {
            assert_eq!(elsewhere(command, false, file), expected, "{file:?}");
        }
    }
}
