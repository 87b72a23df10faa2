//! Which application a unit is of, by the unit's name.
//!
//! Names are as <https://systemd.io/DESKTOP_ENVIRONMENTS/> has them, and as snapd and dbus-broker make them:
//!
//! ```text
//! app[-LAUNCHER]-ID-RANDOM.scope                 GNOME, KDE Frameworks 5, flatpak (app-flatpak-ID-N.scope)
//! app[-LAUNCHER]-ID[@RANDOM].service             KDE Plasma, autostart (app-ID@autostart.service)
//! app[-LAUNCHER]-ID[-RANDOM].service             the same, of an earlier edition
//! app[-LAUNCHER]-ID[-RANDOM].slice               sway, niri; GNOME Terminal
//! app-TEMPLATE.slice                             systemd, for the instances of such a template
//! dbus-:N.N-ID@N.service                         dbus-broker, for what the session's bus activates
//! snap.SNAP.APP-UUID.scope snap.SNAP.APP.service snapd
//! ```
//!
//! A name is cut at its dashes; those that are part of a launcher or an id are written `\x2d`. A name with more dashes
//! than there can be says nothing for certain, and is no application's. So is a snap's hook.

use crate::units::{
    escape::{escaped_byte, unescape},
    places,
};

/// Whether a unit is of the application that is written so behind `app:`, with or without `.desktop` at its end.
pub(super) fn names(written: &str, unit: &str) -> bool {
    let id = unescape(written.as_bytes());
    let is = |id: &[u8]| of_desktop(unit).is_some_and(|own| own == id) || is_of_snap(id, unit);
    is(&id) || id.strip_suffix(b".desktop").is_some_and(is)
}

/// Whether the same application is written so.
pub(super) fn are_same(one: &str, other: &str) -> bool {
    unescape(one.as_bytes()) == unescape(other.as_bytes())
}

/// The id by which a unit's application is known: what a desktop calls it, or its snap. It can have any characters.
pub fn id(unit: &str) -> Option<String> {
    String::from_utf8(bytes(unit)?).ok()
}

/// The same, as it is written behind `app:`.
pub fn written_id(unit: &str) -> Option<String> {
    bytes(unit).map(|id| write(&id))
}

/// An id as it is written behind `app:`: like a part of a unit's name, but that a dash and `@` may stay.
pub fn write(id: &[u8]) -> String {
    let stays = |byte: u8| byte.is_ascii() && byte != b'\\' && places::is_in_name(char::from(byte));
    let written = |&byte: &u8| if stays(byte) { char::from(byte).to_string() } else { escaped_byte(byte) };
    id.iter().map(written).collect()
}

/// What all ids have in common that a unit may be selected by; other ids as a rule have another one. Only a desktop has
/// ids with two dots. Of an id as it is written.
pub fn family(written: &str) -> String {
    family_of(&unescape(written.as_bytes()))
}

/// The family of a unit's application.
pub fn family_of_unit(unit: &str) -> Option<String> {
    bytes(unit).map(|id| family_of(&id))
}

fn family_of(id: &[u8]) -> String {
    let id = String::from_utf8_lossy(id);
    let mut id = &*id;
    while let Some(shorter) = id.strip_suffix(".desktop") {
        id = shorter;
    }
    let family = match id.matches('.').count() {
        0 | 1 => id.split(['.', '_', '+']).next().unwrap_or_default(),
        _ => id,
    };
    family.to_owned()
}

fn bytes(unit: &str) -> Option<Vec<u8>> {
    of_desktop(unit).or_else(|| of_snap(unit).map(|(snap, _)| snap.as_bytes().to_vec()))
}

/// The id that a desktop or a bus has put into a name.
fn of_desktop(unit: &str) -> Option<Vec<u8>> {
    let (stem, kind) = unit.rsplit_once('.')?;
    let (name, random) = match stem.split_once('@') {
        Some((name, random)) if kind == "service" => (name, Some(random)),
        _ => (stem, None),
    };
    let parts: Vec<&str> = name.split('-').collect();
    if parts.iter().any(|part| part.is_empty()) || random.is_some_and(str::is_empty) {
        return None;
    }
    if let ("slice", ["app", part]) = (kind, &parts[..])
        && let Some(id) = of_template(part)
    {
        return Some(id);
    }
    let id = match (kind, random, &parts[..]) {
        ("service", Some(number), ["dbus", bus, id]) if is_bus(bus) && is_number(number) => id,
        ("service", Some(_), ["app", id] | ["app", _, id]) => id,
        ("scope", None, ["app", id, _] | ["app", _, id, _]) => id,
        ("service" | "slice", None, ["app", id, random]) if is_random(random) => id,
        ("service" | "slice", None, ["app", id] | ["app", _, id] | ["app", _, id, _]) => id,
        _ => return None,
    };
    Some(unescape(id.as_bytes()))
}

/// The id in the name of the slice that systemd makes for the instances of a template, which has the template's name as one
/// part: `app-dbus\x2d:1.2\x2dID.slice` of `dbus-:1.2-ID@0.service`.
fn of_template(part: &str) -> Option<Vec<u8>> {
    let prefix = String::from_utf8(unescape(part.as_bytes())).ok()?;
    let id = match prefix.split('-').collect::<Vec<_>>()[..] {
        ["dbus", bus, id] if is_bus(bus) => id,
        ["app", id] | ["app", _, id] => id,
        _ => return None,
    };
    (!id.is_empty()).then(|| unescape(id.as_bytes()))
}

/// Whether what ends `app-X-Y` is no id behind a launcher, but the random part behind an id: a process's or a running
/// number, or at least eight hexadecimal digits. An application that is itself called like that is not found behind a
/// launcher without a random part; no known launcher writes such names for one.
fn is_random(part: &str) -> bool {
    const HEXADECIMAL: usize = 8;
    is_number(part) || (part.len() >= HEXADECIMAL && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether it is a name that a bus gives, such as `:1.2`.
fn is_bus(name: &str) -> bool {
    name.strip_prefix(':')
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(major, minor)| is_number(major) && is_number(minor))
}

/// Whether a unit is of this snap, or of this application of a snap: `SNAP`, `SNAP.APP` or `SNAP_APP`, as the .desktop
/// file is called. Of a snap's second installation, `SNAP_KEY`, the file is called `SNAP+KEY_APP`.
fn is_of_snap(id: &[u8], unit: &str) -> bool {
    let (Ok(id), Some((snap, app))) = (str::from_utf8(id), of_snap(unit)) else { return false };
    let is_app = |prefix: &str| {
        id.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(['.', '_'])).is_some_and(|rest| rest == app)
    };
    id == snap || is_app(snap) || (snap.contains('_') && is_app(&snap.replacen('_', "+", 1)))
}

/// The snap and its application that a unit is named after.
fn of_snap(unit: &str) -> Option<(&str, &str)> {
    let (stem, kind) = unit.strip_prefix("snap.")?.rsplit_once('.')?;
    let tag = match kind {
        "service" => stem,
        "scope" => without_uuid(stem)?,
        _ => return None,
    };
    let (snap, app) = tag.split_once('.')?;
    (!snap.is_empty() && !app.is_empty() && !app.contains('.')).then_some((snap, app))
}

/// What stands before a UUID. snapd has a dash between, earlier versions a dot.
fn without_uuid(text: &str) -> Option<&str> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    const LENGTH: usize = 36;
    let (before, uuid) = text.split_at_checked(text.len().checked_sub(LENGTH)?)?;
    let is_uuid = uuid.split('-').map(str::len).eq(GROUPS)
        && uuid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    if is_uuid { before.strip_suffix(['-', '.']) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::Instance,
        units::{
            Selectors,
            selector::{Selector, Users},
        },
    };

    const UUID: &str = "3e7c7b9a-0f53-4d6f-8f0c-5f2a1c6b7d8e";

    #[test]
    fn units_of_an_application_are_told() {
        for (id, unit) in [
            // GNOME Shell and gnome-session.
            ("firefox", "app-gnome-firefox-1234.scope"),
            ("org.gnome.Nautilus", "app-gnome-org.gnome.Nautilus-4321.scope"),
            ("my-app", "app-gnome-my\\x2dapp-1234.scope"),
            ("google-chrome", "app-gnome-google\\x2dchrome-98765.scope"),
            ("firefox_firefox", "app-gnome-firefox_firefox-1234.scope"),
            ("org.gnome.Terminal", "app-org.gnome.Terminal.slice"),
            ("org.gnome.Evince", "app-gnome-org.gnome.Evince-12345.service"),
            ("org.gnome.Evince", "app-gnome-org.gnome.Evince@12345.service"),
            ("org.gnome.Evince", "app-org.gnome.Evince-12345.scope"),
            // KDE: Frameworks 5, then Plasma 6.
            ("org.kde.konsole", "app-org.kde.konsole-3e7c7b9a0f534d6f8f0c5f2a1c6b7d8e.scope"),
            ("org.kde.konsole", "app-org.kde.konsole@3e7c7b9a0f534d6f8f0c5f2a1c6b7d8e.service"),
            ("org.kde.konsole", "app-org.kde.konsole-3e7c7b9a0f534d6f8f0c5f2a1c6b7d8e.service"),
            ("org.kde.okular", "app-KDE-org.kde.okular@12345.service"),
            ("org.kde.amarok", "app-org.kde.amarok.service"),
            ("org.kde.kgpg", "app-org.kde.kgpg@autostart.service"),
            ("gnome-keyring-ssh", "app-gnome\\x2dkeyring\\x2dssh@autostart.service"),
            ("Alacritty", "app-Alacritty-1a2b3c4d.slice"),
            // Others that follow the specification.
            ("foot", "app-sway-foot-7788.scope"),
            ("foot", "app-niri-foot.slice"),
            ("foot", "app-a\\x2db-foot-1.scope"),
            ("org.telegram.desktop", "app-flatpak-org.telegram.desktop-12345.scope"),
            ("org.telegram.desktop.desktop", "app-flatpak-org.telegram.desktop-12345.scope"),
            ("org.mozilla.firefox.desktop", "app-flatpak-org.mozilla.firefox-2001.scope"),
            ("org.example.a-b", "app-flatpak-org.example.a\\x2db-2001.scope"),
            ("org.telegram.desktop", "app-flatpak-org.telegram.desktop@12345.service"),
            // The session's bus.
            ("org.gnome.Nautilus", "dbus-:1.2-org.gnome.Nautilus@0.service"),
            ("org.example.a-b", "dbus-:1.23-org.example.a\\x2db@17.service"),
            ("café", "app-gnome-caf\\xc3\\xa9-1.scope"),
            // systemd's slices for instances.
            ("org.gnome.Nautilus", "app-dbus\\x2d:1.2\\x2dorg.gnome.Nautilus.slice"),
            ("org.example.a-b", "app-dbus\\x2d:1.23\\x2dorg.example.a\\x5cx2db.slice"),
            ("org.gnome.Nautilus", "app-dbus\\x2d:1.2-org.gnome.Nautilus.slice"),
            ("org.kde.konsole", "app-app\\x2dorg.kde.konsole.slice"),
            ("org.kde.okular", "app-app\\x2dKDE\\x2dorg.kde.okular.slice"),
            // As they are written where characters are in the way.
            ("My\\x20Probe", "app-My\\x20Probe@3e7c7b9a0f534d6f8f0c5f2a1c6b7d8e.service"),
            ("a\\x2fb\\x2cc", "app-gnome-a\\x2fb\\x2cc-1.scope"),
            ("caf\\xc3\\xa9", "app-gnome-caf\\xc3\\xa9-1.scope"),
            ("\\xff", "app-gnome-\\xff-1.scope"),
            ("my\\x2dapp", "app-gnome-my\\x2dapp-1234.scope"),
            ("a\\x5cx2db", "app-gnome-a\\x5cx2db-1.scope"),
            ("My\\x20Probe.desktop", "app-My\\x20Probe-1.scope"),
        ] {
            assert!(names(id, unit), "{id} {unit}");
        }
    }

    #[test]
    fn units_of_a_snap_are_told() {
        for (id, unit) in [
            ("firefox", format!("snap.firefox.firefox-{UUID}.scope")),
            ("firefox.firefox", format!("snap.firefox.firefox-{UUID}.scope")),
            ("firefox_firefox", format!("snap.firefox.firefox-{UUID}.scope")),
            ("firefox_firefox.desktop", format!("snap.firefox.firefox-{UUID}.scope")),
            ("firefox", format!("snap.firefox.geckodriver-{UUID}.scope")),
            ("code-insiders", format!("snap.code-insiders.code-insiders.{UUID}.scope")),
            ("a_b", format!("snap.a_b.c-{UUID}.scope")),
            ("a+b_c", format!("snap.a_b.c-{UUID}.scope")),
            ("lxd", "snap.lxd.daemon.service".to_owned()),
            ("lxd.daemon", "snap.lxd.daemon.service".to_owned()),
        ] {
            assert!(names(id, &unit), "{id} {unit}");
        }
    }

    #[test]
    fn id_is_what_desktops_and_snaps_call_an_application() {
        for (unit, expected) in [
            ("app-gnome-firefox-1234.scope", Some("firefox")),
            ("app-gnome-my\\x2dapp-1234.scope", Some("my-app")),
            ("app-org.gnome.Terminal.slice", Some("org.gnome.Terminal")),
            ("app-flatpak-org.telegram.desktop-12345.scope", Some("org.telegram.desktop")),
            (&format!("snap.code.code-{UUID}.scope"), Some("code")),
            ("app-\\xff-1.scope", None),
            ("app.slice", None),
            ("foo.service", None),
        ] {
            assert_eq!(id(unit).as_deref(), expected, "{unit}");
            assert!(expected.is_none_or(|id| names(id, unit)), "{unit}");
        }
    }

    #[test]
    fn units_of_others_are_not() {
        for (id, unit) in [
            ("app", "app-gnome-my-app-1234.scope"),
            ("my-app", "app-gnome-my-app-1234.scope"),
            ("my", "app-gnome-my-app-1234.scope"),
            ("my\\x5cx2dapp", "app-gnome-my\\x2dapp-1234.scope"),
            ("a\\x2db", "app-gnome-a\\x5cx2db-1.scope"),
            ("gnome", "app-gnome-firefox-1234.scope"),
            ("1234", "app-gnome-firefox-1234.scope"),
            ("Firefox", "app-gnome-firefox-1234.scope"),
            ("fire", "app-gnome-firefox-1234.scope"),
            ("firefox-1234", "app-gnome-firefox-1234.scope"),
            ("firefox", "app-firefox.scope"),
            ("firefox", "firefox.service"),
            ("firefox", "firefox-1234.scope"),
            ("firefox", "app-gnome-firefox-.scope"),
            ("firefox", "app--firefox-1234.scope"),
            ("firefox", "app-firefox@.service"),
            ("firefox", "app-gnome-firefox-1234.socket"),
            ("firefox", "app-gnome-firefox@1-2.scope"),
            ("firefox", "xapp-gnome-firefox-1234.scope"),
            ("KDE", "app-KDE-org.kde.okular@12345.service"),
            ("org.telegram", "app-flatpak-org.telegram.desktop-12345.scope"),
            ("flatpak", "app-flatpak-org.telegram.desktop-12345.scope"),
            ("org.example", "dbus-org.example.service"),
            ("org.example", "dbus-:1-org.example@0.service"),
            ("org.example", "dbus-:1.2-org.example@x.service"),
            ("org.example", "dbus-:1.2-org.example-1@0.service"),
            (":1.2", "dbus-:1.2-org.example@0.service"),
            ("dbus-:1.2-org.example", "app-dbus\\x2d:1.2\\x2dorg.example.slice"),
            ("app-org.example", "app-app\\x2dorg.example.slice"),
            ("org.example", "app-dbus\\x2d:1.2\\x2dorg.example-1.scope"),
            ("org.example", "app-dbus\\x2d:1\\x2dorg.example.slice"),
            ("", "app-dbus\\x2d:1.2\\x2d.slice"),
            ("firefox", "snap.firefox.firefox-1234.scope"),
            ("firefox", "snap.firefox.slice"),
            ("firefox", "snap-firefox-1234.mount"),
            ("lxd", "snap.lxd.daemon.unix.socket"),
            ("", "app-gnome--1.scope"),
        ] {
            assert!(!names(id, unit), "{id} {unit}");
        }
        for (id, unit) in [
            ("firefox", format!("snap.firefox.hook.configure-{UUID}.scope")),
            ("geckodriver", format!("snap.firefox.geckodriver-{UUID}.scope")),
            ("firefox.firefox", format!("snap.firefox.geckodriver-{UUID}.scope")),
            ("fire", format!("snap.firefox.firefox-{UUID}.scope")),
            ("firefox", format!("snap.firefox_beta.firefox-{UUID}.scope")),
            ("firefox", format!("snap.firefox-{UUID}.scope")),
        ] {
            assert!(!names(id, &unit), "{id} {unit}");
        }
    }

    proptest! {
        #[test]
        fn no_name_is_too_odd(id in any::<String>(), unit in "(app-|dbus-:1\\.|snap\\.)?.*(\\.scope|@1\\.service)?") {
            names(&id, &unit);
        }

        #[test]
        fn every_id_can_be_written(
            id in prop_oneof![any::<Vec<u8>>(), "[a-z/, *é\\\\x2d.@:-]{1,8}".prop_map(String::into_bytes)],
        ) {
            let unit = format!("app-gnome-{}-1.scope", crate::units::escape::escape(&id));
            let Some(written) = written_id(&unit) else {
                prop_assert!(id.is_empty());
                return Ok(());
            };
            prop_assert!(written.chars().all(places::is_in_name));
            prop_assert!(names(&written, &unit), "{} {}", written, unit);
            prop_assert_eq!(family(&written), family_of_unit(&unit).unwrap());
            let selector = format!("1000:app:{written}");
            let read = Selectors::parse(&selector).unwrap();
            prop_assert_eq!(read.to_string(), selector);
            let path = format!("user.slice/user-1000.slice/user@1000.service/app.slice/{unit}");
            let Some(instance) = Instance::of(&path.parse().unwrap()) else {
                prop_assert!(unit.len() > 255);
                return Ok(());
            };
            prop_assert!(read.select(&instance, &Users::new()));
            prop_assert_eq!(Selector::of(&instance, None), Some(read.0[0].clone()));
        }

        #[test]
        fn escaped_ids_are_found(id in "[a-z.@é/-]{1,12}", launcher in "(gnome-)?") {
            let escaped = crate::units::escape::escape(id.as_bytes());
            for tail in ["-1.scope", "@1.service", "-1.service"] {
                let unit = format!("app-{launcher}{escaped}{tail}");
                prop_assert!(names(&id, &unit), "{}", unit);
            }
        }
    }
}
