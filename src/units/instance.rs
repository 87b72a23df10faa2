//! CGROUP -> INSTANCE. Which manager made a cgroup, and for which unit, from its path alone.
//!
//! A user can make any directory below `user@UID.service`, and whoever is given a unit's cgroup any directory below
//! that. So a manager's units are told by what is above them and cannot be imitated: nothing but slices, up to the
//! manager. What is below anything else is nobody's.

use super::places;
use crate::model::{CgroupPath, Instance, UnitName};

/// The types of units that systemd makes cgroups for.
const CGROUP_TYPES: [&str; 6] = ["service", "scope", "slice", "socket", "mount", "swap"];

/// The longest name of a unit (`UNIT_NAME_MAX`) and of a directory.
const NAME_MAX: usize = 255;

impl Instance {
    /// The unit of a cgroup, if a manager makes a unit's cgroup there.
    pub fn of(path: &CgroupPath) -> Option<Self> {
        let (manager, below) = places::owner(path.as_str());
        let names: Vec<&str> = below.split('/').collect();
        let (last, above) = names.split_last()?;
        let unit = unit_name(last)?;
        let above = above.iter().map(|name| unit_name(name).filter(|unit| places::is_slice(unit)));
        let mut slices = above.collect::<Option<Vec<&str>>>()?;
        slices.extend(Some(unit).filter(|unit| places::is_slice(unit)));
        // Each slice is in the one that its name says.
        if let Some(last) = slices.last()
            && !places::slice_path(last)?.split('/').eq(slices.iter().copied())
        {
            return None;
        }
        Some(Self { manager, unit: UnitName(unit.into()), path: path.clone() })
    }

    /// The unit that a cgroup is of, or is in. What is below a unit that is no slice is its own business.
    pub fn in_which(path: &CgroupPath) -> Option<Self> {
        let mut found: Option<Self> = None;
        for unit in path.prefixes().filter_map(|prefix| Self::of(&prefix)) {
            if found.as_ref().is_some_and(|found| !places::has_units(found)) {
                break;
            }
            found = Some(unit);
        }
        found
    }
}

/// The unit that a cgroup is named after. systemd puts a `_` in front of what cgroupfs might take for a file of its
/// own, or what begins with a `_` itself (`cg_escape`); which names these are depends on its version.
fn unit_name(name: &str) -> Option<&str> {
    let unit = name.strip_prefix('_').unwrap_or(name);
    let (stem, kind) = unit.rsplit_once('.')?;
    let is_template = stem.split_once('@').is_some_and(|(_, instance)| instance.is_empty());
    (name.len() <= NAME_MAX
        && CGROUP_TYPES.contains(&kind)
        && !stem.is_empty()
        && !stem.starts_with('@')
        && !is_template
        && stem.chars().all(places::is_in_name))
    .then_some(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Manager;

    const USER: &str = "user.slice/user-1000.slice/user@1000.service";

    fn of(path: &str) -> Option<(Manager, String)> {
        let path: CgroupPath = path.parse().unwrap();
        let instance = Instance::of(&path)?;
        assert_eq!(instance.path, path);
        Some((instance.manager, instance.unit.0.to_string()))
    }

    #[test]
    fn units_of_the_system_are_told() {
        for (path, unit) in [
            ("init.scope", "init.scope"),
            ("system.slice", "system.slice"),
            ("system.slice/postfix.service", "postfix.service"),
            ("system.slice/system-foo\\x2dbar.slice/foo-bar@1.service", "foo-bar@1.service"),
            ("system.slice/dbus.socket", "dbus.socket"),
            ("system.slice/-.mount", "-.mount"),
            ("dev.slice/dev-sda2.swap", "dev-sda2.swap"),
            ("system.slice/_memory.service", "memory.service"),
            ("system.slice/_tasks.service", "tasks.service"),
            ("system.slice/__x.service", "_x.service"),
            ("system.slice/_.x.service", ".x.service"),
            ("_memory.slice/memory-a.slice/x.service", "x.service"),
            ("a.slice/a-b.slice/a-b-c.slice", "a-b-c.slice"),
            ("user.slice/user-1000.slice", "user-1000.slice"),
            (USER, "user@1000.service"),
            ("user.slice/user-1000.slice/session-2.scope", "session-2.scope"),
            ("machine.slice/machine-c.scope", "machine-c.scope"),
        ] {
            assert_eq!(of(path), Some((Manager::System, unit.to_owned())), "{path}");
        }
    }

    #[test]
    fn units_of_a_user_are_told() {
        for (path, unit) in [
            ("init.scope", "init.scope"),
            ("app.slice", "app.slice"),
            ("app.slice/app-gnome-firefox-1234.scope", "app-gnome-firefox-1234.scope"),
            ("app.slice/app-org.gnome.Terminal.slice/vte-spawn-1-2.scope", "vte-spawn-1-2.scope"),
            (
                "app.slice/app-dbus\\x2d:1.2\\x2dorg.example.slice/dbus-:1.2-org.example@0.service",
                "dbus-:1.2-org.example@0.service",
            ),
            ("user.slice/libpod-1.scope", "libpod-1.scope"),
            ("user.slice/user-1001.slice", "user-1001.slice"),
        ] {
            assert_eq!(of(&format!("{USER}/{path}")), Some((Manager::User(1000), unit.to_owned())), "{path}");
        }
        assert_eq!(
            of("user.slice/user-0.slice/user@0.service/init.scope"),
            Some((Manager::User(0), "init.scope".to_owned()))
        );
    }

    #[test]
    fn sockets_are_their_units() {
        let unit = |path: &str| Instance::in_which(&path.parse().unwrap()).map(|one| one.unit);
        let named = |name: &str| Some(UnitName(name.into()));
        let user = "user.slice/user-1000.slice/user@1000.service";
        assert_eq!(unit("system.slice/a.service/payload/system.slice/b.service"), named("a.service"));
        assert_eq!(unit(&format!("{user}/app.slice/x.scope/deeper/still")), named("x.scope"));
        assert_eq!(unit("user.slice/user-1000.slice/session-2.scope"), named("session-2.scope"));
        assert_eq!(unit(&format!("{user}/init.scope")), named("init.scope"));
        assert_eq!(unit("somewhere/else"), None);
    }

    #[test]
    fn nothing_else_is_a_unit() {
        let below_user = [
            "user.slice/user-1001.slice/user@1001.service/x.service",
            "user.slice/user-1000.slice/user@1000.service/x.service",
            "x.service/system.slice/postfix.service",
            "system.slice/postfix.service/x.service",
            "app.slice/a.scope/x.service",
            "app-x.slice/y.service",
            "app.slice/../system.slice/x.service",
        ];
        let others = [
            "lxc/c1",
            "system.slice/postfix.service/sub",
            "system.slice/postfix.service/sub.service",
            "machine.slice/c.scope/payload/system.slice/postfix.service",
            "system.slice/a-b.slice/x.service",
            "a-b.slice/x.service",
            "a.slice/b.slice/x.service",
            "a.slice/a.slice/x.service",
            "-.slice/x.service",
            "-.slice",
            "a.slice/a--b.slice",
            "system.slice/foo@.service",
            "system.slice/@foo.service",
            "system.slice/.service",
            "system.slice/_.service",
            "system.slice/_",
            "system.slice/x.target",
            "system.slice/x.timer",
            "system.slice/x.serviceé",
            "system.slice/é.service",
            "system.slice/a b.service",
            "system.slice/a\nb.service",
            "system.slice/a\u{1b}[0m.service",
            "user.slice/user-1000.slice/user@1001.service/x.service",
            "user.slice/user-01000.slice/user@01000.service/x.service",
            "user.slice/user-+1.slice/user@+1.service/x.service",
            "user.slice/user-4294967296.slice/user@4294967296.service/x.service",
            "user.slice/user-1000.slice/_user@1000.service/x.service",
            "_user.slice/user-1000.slice/user@1000.service/x.service",
            "system.slice/user@1000.service/x.service",
            "user@1000.service/x.service",
        ];
        for path in
            below_user.map(|path| format!("{USER}/{path}")).into_iter().chain(others.map(str::to_owned))
        {
            let Ok(parsed) = path.parse() else { continue };
            assert_eq!(Instance::of(&parsed), None, "{path}");
        }
        let long = |length: usize| format!("system.slice/{}.service", "x".repeat(length - ".service".len()));
        assert!(of(&long(255)).is_some());
        assert_eq!(of(&long(256)), None);
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("user.slice".to_owned()),
            Just("system.slice".to_owned()),
            Just("app.slice".to_owned()),
            "user-100[01].slice",
            "user@100[01].service",
            "_?[ab](-[ab]){0,2}\\.(slice|service|scope)",
            "[^/]{1,12}",
        ]
    }

    proptest! {
        #[test]
        fn what_a_user_makes_is_never_anothers(names in prop::collection::vec(name(), 1..8)) {
            if let Ok(path) = format!("{USER}/{}", names.join("/")).parse::<CgroupPath>()
                && path.as_str().starts_with(&format!("{USER}/"))
                && let Some(instance) = Instance::of(&path)
            {
                prop_assert_eq!(instance.manager, Manager::User(1000));
            }
        }

        #[test]
        fn what_is_below_a_unit_is_nobodys(
            above in "system\\.slice|machine\\.slice|a\\.slice/a-b\\.slice",
            names in prop::collection::vec(name(), 1..8),
        ) {
            if let Ok(path) = format!("{above}/x.service/{}", names.join("/")).parse::<CgroupPath>()
                && path.components().any(|name| name == "x.service")
                && path.components().last() != Some("x.service")
            {
                prop_assert_eq!(Instance::of(&path), None);
            }
        }

        #[test]
        fn no_path_is_too_odd(text in any::<String>()) {
            if let Ok(path) = text.parse::<CgroupPath>() {
                Instance::of(&path);
            }
        }
    }
}
