//! UNIT -> WHY IT IS SHARED. Units of users' managers in which programs run that are not theirs, so that no selector of an
//! application selects these.

use crate::model::{Instance, Manager};

/// How programs come to be in a unit of others, and what gives each a unit of its own.
pub fn why(instance: &Instance) -> Option<&'static str> {
    if instance.manager == Manager::System {
        return None;
    }
    match &*instance.unit.0 {
        "dbus.service" => Some(
            "dbus-daemon starts applications in it; `scnpm run`, `SystemdService=` in the application's D-Bus service file, or \
             dbus-broker give it a unit of its own",
        ),
        name if name.starts_with("xdg-desktop-portal") => Some(
            "what applications open by the portal, such as links, runs in it; a rule for this unit is for all of that",
        ),
        name if name.starts_with("org.gnome.Shell@") => Some(
            "GNOME Shell starts applications in it, and has them moved a moment later; `scnpm run` starts them in a unit of \
             their own",
        ),
        _ => None,
    }
}

/// That a program is in a unit of others, with so many of them.
pub fn with_others(unit: &str, others: usize, why: &str) -> String {
    format!("shares {unit} with {others} {}: {why}", if others == 1 { "other" } else { "others" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_run_what_is_not_theirs_are_known() {
        const USER: &str = "user.slice/user-1000.slice/user@1000.service";
        let why = |path: &str| why(&Instance::of(&path.parse().unwrap()).unwrap());
        assert!(why(&format!("{USER}/session.slice/dbus.service")).unwrap().contains("scnpm run"));
        assert!(
            why(&format!("{USER}/session.slice/xdg-desktop-portal-gtk.service")).unwrap().contains("links")
        );
        assert!(
            why(&format!("{USER}/session.slice/org.gnome.Shell@wayland.service")).unwrap().contains("moved")
        );
        assert_eq!(why(&format!("{USER}/session.slice/dbus-broker.service")), None);
        assert_eq!(why("system.slice/dbus.service"), None);
        assert_eq!(with_others("a.service", 1, "b"), "shares a.service with 1 other: b");
    }
}
