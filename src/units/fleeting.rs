//! NAME -> SELECTOR. Names with a part that is another one at each start, and what selects such units whatever it is.

use super::{places, selector::app_id};

/// What selects a unit whose name has a random part, without whose it is: an application (`app:ID`) or a pattern.
/// `None` for names that stay.
pub fn lasting(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    if !matches!(kind, "service" | "scope" | "slice") {
        return None;
    }
    if let Some(selector) = connection(stem).or_else(|| virtual_machine(stem)) {
        return Some(format!("{selector}.{kind}"));
    }
    let at = random_part(stem, kind)?;
    let app = app_id(name).filter(|id| id.chars().all(places::is_in_name)).map(|id| format!("app:{id}"));
    Some(app.unwrap_or_else(|| format!("{}*.{kind}", &stem[..at])))
}

/// Of what systemd starts for each connection, such as `sshd@7-192.0.2.1:22-192.0.2.2:50000.service`.
fn connection(stem: &str) -> Option<String> {
    let (prefix, instance) = stem.split_once('@')?;
    let [number, own, other] = instance.split('-').collect::<Vec<_>>()[..] else { return None };
    let has_port = |address: &str| address.rsplit_once(':').is_some_and(|(_, port)| is_number(port));
    (is_number(number) && has_port(own) && has_port(other)).then(|| format!("{prefix}@*"))
}

/// Of a machine of libvirt's, such as `machine-qemu\x2d3\x2dweb.scope`.
fn virtual_machine(stem: &str) -> Option<String> {
    const START: &str = "machine-qemu\\x2d";
    let (number, name) = stem.strip_prefix(START)?.split_once("\\x2d")?;
    is_number(number).then(|| format!("{START}*\\x2d{name}"))
}

/// Where the random part begins that ends a name.
fn random_part(stem: &str, kind: &str) -> Option<usize> {
    const UUID: usize = 36;
    if let Some(at) = stem.len().checked_sub(UUID).filter(|at| kind == "scope" && *at > 0)
        && stem.get(at..).is_some_and(is_uuid)
    {
        return Some(at);
    }
    let at = stem.rfind(['-', '@']).map_or(0, |at| at + 1);
    let (before, last) = stem.split_at(at);
    let is_random = match before {
        "session-" => kind == "scope" && is_number(last.strip_prefix('c').unwrap_or(last)),
        "run-" => kind != "slice" && is_of_a_run(last),
        "" => false,
        _ if ["flatpak-", "gnome-launched-", "podman-"].iter().any(|start| before.starts_with(start)) => {
            kind == "scope" && (is_number(last) && last.len() > 2 || is_hexadecimal(last, 8))
        }
        _ if before.starts_with("run-p") => last.strip_prefix('i').is_some_and(is_number),
        _ if before.starts_with("dbus-:") => before.ends_with('@') && is_number(last),
        _ if before.starts_with("app-") => is_hexadecimal(last, 8) || (is_number(last) && last.len() > 2),
        _ => kind == "scope" && before.ends_with('-') && is_hexadecimal(last, 12),
    };
    is_random.then_some(at)
}

/// What systemd-run(1) puts behind `run-`.
fn is_of_a_run(text: &str) -> bool {
    text.strip_prefix(['r', 'u']).is_some_and(|rest| is_number(rest) || is_hexadecimal(rest, 12))
        || (is_number(text) && text.len() > 2)
}

fn is_uuid(text: &str) -> bool {
    text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// Whether these are at least so many hexadecimal digits, and no word.
fn is_hexadecimal(text: &str, least: usize) -> bool {
    text.len() >= least
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte.is_ascii_digit())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Instance,
        units::{Selectors, Users},
    };

    const UUID: &str = "3e7c7b9a-0f53-4d6f-8f0c-5f2a1c6b7d8e";
    const HASH: &str = "3e7c7b9a0f534d6f8f0c5f2a1c6b7d8e";

    #[test]
    fn what_selects_such_a_unit_selects_it() {
        for (name, expected) in [
            ("app-gnome-org.gnome.Evince-4242.scope".to_owned(), "app:org.gnome.Evince"),
            ("app-gnome-my\\x2dapp-4242.scope".to_owned(), "app:my-app"),
            (format!("app-org.kde.konsole-{HASH}.scope"), "app:org.kde.konsole"),
            (format!("app-org.kde.konsole@{HASH}.service"), "app:org.kde.konsole"),
            ("app-Alacritty-1a2b3c4d.slice".to_owned(), "app:Alacritty"),
            ("app-a-b-c-d-4242.scope".to_owned(), "app-a-b-c-d-*.scope"),
            ("dbus-:1.2-org.gnome.Nautilus@0.service".to_owned(), "app:org.gnome.Nautilus"),
            (format!("snap.firefox.firefox-{UUID}.scope"), "app:firefox"),
            (format!("vte-spawn-{UUID}.scope"), "vte-spawn-*.scope"),
            (format!("docker-{HASH}{HASH}.scope"), "docker-*.scope"),
            (format!("libpod-conmon-{HASH}{HASH}.scope"), "libpod-conmon-*.scope"),
            ("session-2.scope".to_owned(), "session-*.scope"),
            ("session-c1.scope".to_owned(), "session-*.scope"),
            (format!("run-r{HASH}.scope"), "run-*.scope"),
            ("run-u12.service".to_owned(), "run-*.service"),
            ("podman-12345.scope".to_owned(), "podman-*.scope"),
            ("sshd@7-192.0.2.1:22-192.0.2.2:50000.service".to_owned(), "sshd@*.service"),
            ("machine-qemu\\x2d3\\x2dmy\\x2dvm.scope".to_owned(), "machine-qemu\\x2d*\\x2dmy\\x2dvm.scope"),
            ("run-p1234-i5678.service".to_owned(), "run-p1234-*.service"),
        ] {
            assert_eq!(lasting(&name).as_deref(), Some(expected), "{name}");
            let selectors = Selectors::parse(&format!("system:{expected}")).unwrap();
            let instance = Instance::of(&format!("system.slice/{name}").parse().unwrap());
            if let Some(instance) = instance.filter(|_| !name.ends_with(".slice")) {
                assert!(selectors.select(&instance, &Users::new()), "{name}");
            }
        }
    }

    #[test]
    fn names_that_stay_are_left_alone() {
        for name in [
            "postfix.service",
            "app-mail.scope",
            "app-org.gnome.Evolution\\x2dalarm.scope",
            "app-org.kde.kgpg@autostart.service",
            "app-python-3.scope",
            "foo@1234.service",
            "user@1000.service",
            "user-1000.slice",
            "getty@tty1.service",
            "machine-web.scope",
            "machine-qemu\\x2dweb.scope",
            "vpn@a-b:c-d.service",
            "apps-web.slice",
            "session.scope",
            "my-session-2.scope",
            "session-manager.scope",
            "run-docker.service",
            "run-user-1000.mount",
            "snap.lxd.daemon.service",
            "init.scope",
            "cafe-deadbeeffeed.scope",
            "system-3e7c7b9a0f534d6f8f0c5f2a1c6b7d8e.slice",
            "é-é.scope",
            ".scope",
            "-",
        ] {
            assert_eq!(lasting(name), None, "{name}");
        }
    }
}
