//! NAME -> SELECTOR. Names with a part that is another one at each start, and what selects such units whatever it is.

use super::{
    places,
    selector::{Selector, Selectors, Users, Which, Whose, written_app_id},
};
use crate::{
    gather::Gather,
    model::{Instance, Manager},
};

/// How to select a unit so that it is selected when it starts again, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Again {
    /// By this.
    By(Selector),
    /// Its name has nothing that stays.
    Never,
}

/// How to select a unit again. `user` is the name of the user whose it is. None if no annotation can have such a name.
pub fn again(instance: &Instance, user: Option<&str>) -> Option<Again> {
    let own = Selector::of(instance, user)?;
    let Which::Unit(unit) = &own.which else { return Some(Again::By(own)) };
    let Some(text) = lasting(&unit.0) else { return Some(Again::By(own)) };
    if is_nameless(&unit.0) {
        return Some(Again::Never);
    }
    let session = places::user_of_session(instance.path.as_str());
    let users: Users = match (session, instance.manager) {
        (Some(uid), _) | (None, Manager::User(uid)) => {
            user.map(|name| (name.to_owned(), uid)).into_iter().gather()
        }
        (None, Manager::System) => Users::new(),
    };
    let of_session =
        session.into_iter().flat_map(|uid| users.keys().cloned().map(Whose::User).chain([Whose::Uid(uid)]));
    let found = of_session.chain([own.whose.clone()]).find_map(|whose| {
        let Selectors(mut read) = Selectors::parse(&format!("{whose}{text}")).ok()?;
        read.pop().filter(|selector| selector.whose == whose && selector.selects(instance, &users))
    });
    Some(Again::By(found.unwrap_or(own)))
}

/// Whether it is a unit of systemd-run(1)'s that nobody gave a name.
pub fn is_nameless(name: &str) -> bool {
    name.starts_with("run-") && lasting(name).is_some()
}

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
    let app = written_app_id(name).map(|id| format!("app:{id}"));
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
    // kitty's, of a process's number and a running one; systemd-run's, of two numbers of a process.
    for start in ["kitty-", "run-p"] {
        let rest = stem.strip_prefix(start).and_then(|rest| rest.split_once('-'));
        if rest.is_some_and(|(pid, last)| is_number(pid) && is_number(last.trim_start_matches('i'))) {
            return Some(start.trim_end_matches('p').len());
        }
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
            ("run-p1234-i5678.service".to_owned(), "run-*.service"),
            ("run-p1234-i5678.scope".to_owned(), "run-*.scope"),
            ("kitty-4242-0.scope".to_owned(), "kitty-*.scope"),
            (format!("ptyxis-spawn-{UUID}.scope"), "ptyxis-spawn-*.scope"),
            (format!("tmux-spawn-{UUID}.scope"), "tmux-spawn-*.scope"),
            (format!("app-My\\x20Probe@{HASH}.service"), "app:My\\x20Probe"),
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
    fn units_are_selected_again() {
        const USER: &str = "user.slice/user-1000.slice/user@1000.service/app.slice";
        for (path, expected) in [
            ("system.slice/postfix.service".to_owned(), Some("system:postfix.service")),
            (format!("{USER}/app-gnome-firefox-4242.scope"), Some("alice:app:firefox")),
            (format!("{USER}/vte-spawn-{UUID}.scope"), Some("alice:vte-spawn-*.scope")),
            (format!("{USER}/app-a-b-c-d-4242.scope"), Some("alice:app-a-b-c-d-*.scope")),
            (format!("{USER}/run-p1-i2.scope"), None),
            ("system.slice/run-u12.service".to_owned(), None),
            ("user.slice/user-1000.slice/session-2.scope".to_owned(), Some("alice:session-*.scope")),
            (
                "machine.slice/libpod-3e7c7b9a0f534d6f8f0c5f2a1c6b7d8e.scope".to_owned(),
                Some("system:libpod-*.scope"),
            ),
        ] {
            let instance = Instance::of(&path.parse().unwrap()).unwrap();
            let found = match again(&instance, Some("alice")).unwrap() {
                Again::By(selector) => Some(selector.to_string()),
                Again::Never => None,
            };
            assert_eq!(found.as_deref(), expected, "{path}");
        }
        let session = Instance::of(&"user.slice/user-1000.slice/session-2.scope".parse().unwrap()).unwrap();
        let own = Selectors::parse("1000:session-*.scope").unwrap().0.remove(0);
        assert_eq!(again(&session, None), Some(Again::By(own)));
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
            "kitty-a-b.scope",
            "run-parts-daily.service",
            "é-é.scope",
            ".scope",
            "-",
        ] {
            assert_eq!(lasting(name), None, "{name}");
        }
    }
}
