//! NAMES FOR NEW UNITS. What a transient unit and its slice are called (systemd.unit(5), systemd.slice(5),
//! <https://systemd.io/DESKTOP_ENVIRONMENTS/>). Errors are what to tell the user.

use super::{
    escape::{escape, unescape},
    places,
    selector::{Selectors, Which, write_app_id},
};
use crate::model::{UNIT_TYPES, printable};

/// The longest name of a unit (`UNIT_NAME_MAX`).
const NAME_MAX: usize = 255;

/// Who starts the units, in their names.
const LAUNCHER: &str = "scnpm";

/// A unit of one application that nobody else has; `app:ID` selects it. `kind` is `scope` or `service`.
///
/// # Errors
/// There can be no such name.
pub fn of_application(id: &[u8], number: u32, kind: &str) -> Result<String, String> {
    if id.is_empty() {
        return Err("the application's id is empty: write one, such as --app firefox".to_owned());
    }
    let separator = if kind == "service" { '@' } else { '-' };
    let name = format!("app-{LAUNCHER}-{}{separator}{number}.{kind}", escape(id));
    if name.len() > NAME_MAX {
        return Err(
            "the application's id is too long for a unit's name: choose a shorter one with --app".to_owned()
        );
    }
    Ok(name)
}

/// A scope of a cage that nobody else has; `cage:NAME` selects it.
///
/// # Errors
/// There can be no such name.
pub fn of_cage(name: &str, number: u32) -> Result<String, String> {
    let unit = format!("cage-{}-{number}.scope", escape(name.as_bytes()));
    if unit.len() > NAME_MAX {
        return Err("the cage's name is too long for a unit's name".to_owned());
    }
    Ok(unit)
}

/// The name of a cage that a user means.
///
/// # Errors
/// No annotation can select such a cage.
pub fn cage_name(text: &str) -> Result<&str, String> {
    if let Some((_, meant)) = text.rsplit_once(':') {
        let hint = if meant.is_empty() { "build" } else { meant };
        return Err(wrong(
            text,
            &format!("a cage's name: write what stands behind `cage:` in annotations, such as {hint}"),
        ));
    }
    match Selectors::parse(&format!("cage:{text}")).as_ref().map(|selectors| &selectors.0[..]) {
        Ok([one]) if one.which == Which::Cage(text.to_owned()) => Ok(text),
        _ => Err(wrong(text, "a cage's name, which has no blanks and no commas in it and none of / * ? [ ]")),
    }
}

/// The id of an application that a user means, written as in annotations, which may be a .desktop file's name: an id in
/// reverse-DNS notation has two dots at least, so `org.telegram.desktop` is one itself.
///
/// # Errors
/// No annotation can select such an application.
pub fn application_id(text: &str) -> Result<Vec<u8>, String> {
    let without =
        text.strip_suffix(".desktop").filter(|rest| !rest.is_empty() && rest.matches('.').count() != 1);
    let id = without.unwrap_or(text);
    if let Some((_, meant)) = id.rsplit_once(':') {
        let hint = if meant.is_empty() { "firefox" } else { meant };
        return Err(wrong(
            text,
            &format!("an application's id: write what stands behind `app:` in annotations, such as {hint}"),
        ));
    }
    match Selectors::parse(&format!("app:{id}")).as_ref().map(|selectors| &selectors.0[..]) {
        Ok([one]) if one.which == Which::App(id.to_owned()) => Ok(unescape(id.as_bytes())),
        _ if id.is_empty() => {
            Err("the application's id is empty: write one, such as --app firefox".to_owned())
        }
        _ => Err(format!(
            "`{}` is not an application's id as annotations have it: write {}",
            printable(text),
            write_app_id(id.as_bytes())
        )),
    }
}

/// A unit's full name from one with or without its type. `kind` is `scope` or `service`.
///
/// # Errors
/// It is none.
pub fn unit(text: &str, kind: &str) -> Result<String, String> {
    let name = match places::kind(text) {
        own if own == kind => text.to_owned(),
        "service" => return Err(format!("`{}` is a service: add --service", printable(text))),
        own if UNIT_TYPES.contains(&own) => return Err(wrong(text, &format!("a {kind}: leave .{own} out"))),
        _ => format!("{text}.{kind}"),
    };
    let stem = &name[..name.len() - kind.len() - 1];
    let parts = stem.split_once('@');
    let is_instance = parts.is_none_or(|(prefix, instance)| !prefix.is_empty() && !instance.is_empty());
    if stem.is_empty() || !is_instance || !stem.chars().all(places::is_in_name) {
        let allowed =
            "a unit's name, which has letters, digits and `:-_.\\@` in it; systemd-escape(1) makes one";
        return Err(wrong(text, allowed));
    }
    if name.len() > NAME_MAX {
        return Err(format!("the unit's name has {} bytes, {NAME_MAX} are allowed", name.len()));
    }
    Ok(name)
}

/// A slice's full name from one with or without its type.
///
/// # Errors
/// It is none.
pub fn slice(text: &str) -> Result<String, String> {
    let name = if places::is_slice(text) { text.to_owned() } else { format!("{text}.slice") };
    let kind = places::kind(text);
    let is_other = kind != "slice" && UNIT_TYPES.contains(&kind);
    let is_name = name.len() <= NAME_MAX && name.chars().all(|c| places::is_in_name(c) && c != '@');
    if is_other || !is_name || places::slice_path(&name).is_none() {
        return Err(wrong(
            text,
            "a slice: write one such as app.slice, or app-untrusted.slice, which is in app.slice",
        ));
    }
    Ok(name)
}

fn wrong(text: &str, what: &str) -> String {
    format!("`{}` is not {what}", printable(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::Instance,
        units::selector::{Users, app_id, cage_id},
    };

    #[test]
    fn units_of_applications_are_named_as_desktops_do() {
        let name = |id: &str, kind| of_application(id.as_bytes(), 4711, kind);
        assert_eq!(name("org.mozilla.firefox", "scope").unwrap(), "app-scnpm-org.mozilla.firefox-4711.scope");
        assert_eq!(name("my-app", "service").unwrap(), "app-scnpm-my\\x2dapp@4711.service");
        assert!(name("", "scope").unwrap_err().contains("empty"));
        assert!(name(&"x".repeat(250), "scope").unwrap_err().contains("too long"));
    }

    #[test]
    fn ids_are_taken_as_they_are_meant() {
        for (text, id) in [
            ("firefox", "firefox"),
            ("firefox.desktop", "firefox"),
            ("org.mozilla.firefox", "org.mozilla.firefox"),
            ("org.mozilla.firefox.desktop", "org.mozilla.firefox"),
            ("org.telegram.desktop", "org.telegram.desktop"),
            ("org.telegram.desktop.desktop", "org.telegram.desktop"),
            (".desktop", ".desktop"),
            ("my-app", "my-app"),
            ("café", "café"),
            ("My\\x20Probe", "My Probe"),
            ("my\\x2dapp", "my-app"),
        ] {
            assert_eq!(application_id(text).unwrap(), id.as_bytes());
        }
        for (text, word) in [
            ("alice:app:firefox", "such as firefox"),
            ("app:", "such as firefox"),
            ("", "empty"),
            ("a b", "write a\\x20b"),
            (" a", "write \\x20a"),
            ("a,b", "write a\\x2cb"),
            ("a/b", "write a\\x2fb"),
            ("fire*", "write fire\\x2a"),
            ("a\u{1b}[31m", "`a\u{fffd}[31m`"),
        ] {
            let error = application_id(text).unwrap_err();
            assert!(error.contains(word) && !error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn cages_are_named_as_they_are_selected() {
        for name in ["build", "my-agent", "a.b", "café"] {
            assert_eq!(cage_name(name), Ok(name));
            assert_eq!(cage_id(&of_cage(name, 4711).unwrap()).as_deref(), Some(name));
        }
        for (text, word) in [
            ("user:cage:build", "such as build"),
            ("cage:", "such as build"),
            ("", "blanks"),
            ("a b", "blanks"),
            ("a,b", "commas"),
            ("../a", "none of"),
            ("a\u{1b}[31m", "`a\u{fffd}[31m`"),
        ] {
            let error = cage_name(text).unwrap_err();
            assert!(error.contains(word) && !error.contains(char::is_control), "{error:?}");
        }
        assert!(of_cage(&"x".repeat(250), 1).unwrap_err().contains("too long"));
    }

    #[test]
    fn names_of_units_get_their_type() {
        for (text, kind, name) in [
            ("mail", "scope", "mail.scope"),
            ("mail.scope", "scope", "mail.scope"),
            ("mail", "service", "mail.service"),
            ("mail.service", "service", "mail.service"),
            ("my.mail", "scope", "my.mail.scope"),
            ("mail@1", "service", "mail@1.service"),
        ] {
            assert_eq!(unit(text, kind).unwrap(), name);
        }
        for (text, kind, word) in [
            ("mail.service", "scope", "add --service"),
            ("mail.scope", "service", "leave .scope out"),
            ("mail.slice", "scope", "leave .slice out"),
            ("", "scope", "systemd-escape"),
            (".scope", "scope", "systemd-escape"),
            ("a b", "scope", "systemd-escape"),
            ("a/b", "scope", "systemd-escape"),
            ("a\n", "scope", "systemd-escape"),
            ("mail@", "scope", "systemd-escape"),
            ("@1", "scope", "systemd-escape"),
            (&"x".repeat(250), "scope", "255"),
        ] {
            let error = unit(text, kind).unwrap_err();
            assert!(error.contains(word) && !error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn slices_get_their_type() {
        for (text, name) in [("app", "app.slice"), ("app-a.slice", "app-a.slice"), ("-.slice", "-.slice")] {
            assert_eq!(slice(text).unwrap(), name);
        }
        for text in
            ["", ".slice", "a--b", "-a", "a-", "a b", "a/b", "a.service", "a@b", "a\n", &"x".repeat(250)]
        {
            assert!(slice(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn selectors_find_what_was_named(id in any::<Vec<u8>>().prop_filter("", |id| !id.is_empty()), number: u32) {
            for kind in ["scope", "service"] {
                let Ok(name) = of_application(&id, number, kind) else { continue };
                prop_assert_eq!(app_id(&name), String::from_utf8(id.clone()).ok());
                let path = format!("user.slice/user-1.slice/user@1.service/app.slice/{name}");
                let instance = Instance::of(&path.parse().unwrap()).expect("a unit");
                prop_assert_eq!(&*instance.unit.0, &name);
                let selectors = Selectors::parse(&format!("1:app:{}", write_app_id(&id))).unwrap();
                prop_assert!(selectors.select(&instance, &Users::new()), "{}", name);
            }
        }

        #[test]
        fn whatever_is_taken_is_a_units_name(text: String) {
            for name in [unit(&text, "scope"), unit(&text, "service")].into_iter().flatten() {
                // systemd puts a `_` in front of names that begin with one.
                let instance = Instance::of(&format!("system.slice/_{name}").parse().unwrap());
                prop_assert_eq!(instance.map(|one| one.unit.0.to_string()), Some(name));
            }
        }
    }
}
