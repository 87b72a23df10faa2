//! Where systemd puts the cgroups of units, by their names alone (systemd.slice(5), systemd.unit(5)), and whose a cgroup
//! is, by its path alone.

use crate::model::{Instance, Manager};

/// The slice that those of all users are in.
pub(crate) const USERS: &str = "user.slice";

/// What follows a unit name's last dot: its type.
pub(crate) fn kind(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, kind)| kind)
}

/// Whether a name ends in a dot and letters; which letters is not looked at.
pub(crate) fn has_type(name: &str) -> bool {
    let kind = kind(name);
    !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphabetic()) && name.len() > kind.len() + 1
}

/// Whether units' names may have such a character (systemd.unit(5)).
pub(crate) fn is_in_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || ":-_.\\@".contains(character)
}

/// The template that a unit is an instance of.
pub(crate) fn template(name: &str) -> Option<String> {
    let (prefix, rest) = name.split_once('@')?;
    let (instance, kind) = rest.rsplit_once('.')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{kind}"))
}

/// Whether it is a slice's name.
pub(crate) fn is_slice(name: &str) -> bool {
    kind(name) == "slice"
}

/// The number in `user@N.service`, if it is one as systemd writes it.
pub(crate) fn user_of(name: &str) -> Option<u32> {
    uid(name.strip_prefix("user@")?.strip_suffix(".service")?)
}

/// The user whose slice a path is.
pub(crate) fn user_of_slice(path: &str) -> Option<u32> {
    uid(path.strip_prefix(USERS)?.strip_prefix("/user-")?.strip_suffix(".slice")?)
}

/// The user whose manager has its cgroup at a path.
pub(crate) fn user_of_manager(path: &str) -> Option<u32> {
    user_of(path.rsplit_once('/')?.1).filter(|uid| top(Manager::User(*uid)) == path)
}

/// The user whose login session a path is: logind's scope is in the user's slice, and no manager of theirs can make it.
pub(crate) fn user_of_session(path: &str) -> Option<u32> {
    let (slice, name) = path.rsplit_once('/')?;
    (is_session(name) && kind(name) == "scope").then(|| user_of_slice(slice))?
}

/// Whether a name, or a pattern of names, is of login sessions.
pub(crate) fn is_session(name: &str) -> bool {
    name.starts_with("session-")
}

/// Where a manager's hierarchy begins.
pub(crate) fn top(manager: Manager) -> String {
    match manager {
        Manager::System => String::new(),
        Manager::User(uid) => format!("{USERS}/user-{uid}.slice/user@{uid}.service"),
    }
}

/// The manager that owns a cgroup, and the part of the path that is below it. What a manager is itself is the
/// system's.
pub(crate) fn owner(path: &str) -> (Manager, &str) {
    let third = path.match_indices('/').nth(2).map(|(at, _)| path.split_at(at));
    match third.and_then(|(top, below)| Some((user_of_manager(top)?, below))) {
        Some((uid, below)) => (Manager::User(uid), &below[1..]),
        None => (Manager::System, path),
    }
}

/// The part of a path that ends with the manager that the rest belongs to: a user's or a container's.
pub(crate) fn manager(path: &str) -> &str {
    let names: Vec<&str> = path.split('/').collect();
    let is_manager = |pair: &[&str]| !is_slice(pair[0]) && (user_of(pair[0]).is_some() || is_slice(pair[1]));
    let end = names.windows(2).rposition(is_manager).and_then(|last| path.match_indices('/').nth(last));
    end.map_or("", |(at, _)| &path[..at])
}

/// Whether a user may know of a cgroup: root of all, others of their own and of what is no user's.
pub(crate) fn may_see(viewer: u32, path: &str) -> bool {
    let second = path.match_indices('/').nth(1).map_or(path, |(at, _)| &path[..at]);
    viewer == 0 || user_of_slice(second).is_none_or(|user| user == viewer)
}

/// Whether there may be units below one: it is a slice, or a user's manager.
pub(crate) fn has_units(instance: &Instance) -> bool {
    is_slice(&instance.unit.0) || user_of_manager(instance.path.as_str()).is_some()
}

/// A path with another name at its end.
pub(crate) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

/// A number as systemd writes it.
fn uid(text: &str) -> Option<u32> {
    text.parse().ok().filter(|uid: &u32| uid.to_string() == text)
}

/// The names from the root down to a slice; nothing for `-.slice`, the root itself.
pub(crate) fn slice_path(slice: &str) -> Option<String> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(String::new());
    }
    if stem.split('-').any(str::is_empty) {
        return None;
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Some(ends.map(|end| format!("{}.slice", &stem[..end])).collect::<Vec<_>>().join("/"))
}

/// Where the system's manager puts a unit that says nothing of slices.
pub(crate) fn default_path(name: &str) -> String {
    match template(name).and_then(|template| Some(template.split_once('@')?.0.to_owned())) {
        Some(prefix) => {
            let escaped = prefix.replace('\\', "\\x5c").replace('-', "\\x2d");
            format!("system.slice/system-{escaped}.slice/{name}")
        }
        None => format!("system.slice/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_shape_is_a_users() {
        let user = "user.slice/user-1.slice/user@1.service";
        assert_eq!(top(Manager::User(1)), user);
        assert_eq!(user_of_manager(user), Some(1));
        assert_eq!(user_of_slice("user.slice/user-4294967295.slice"), Some(u32::MAX));
        assert_eq!(owner("user.slice/user-1.slice/user@1.service/a/b"), (Manager::User(1), "a/b"));
        assert_eq!(owner(user), (Manager::System, user));
        for path in [
            "user.slice/user-1.slice/user@2.service",
            "user.slice/user-01.slice/user@01.service",
            "user.slice/user-+1.slice/user@+1.service",
            "user.slice/user-4294967296.slice/user@4294967296.service",
            "user.slice/user-1.slice/user@1.service/app.slice",
            "x.slice/user-1.slice/user@1.service",
            "user.slice/user@1.service",
            "user@1.service",
            "",
        ] {
            assert_eq!(user_of_manager(path), None, "{path}");
        }
    }

    #[test]
    fn managers_are_told_apart() {
        let user = "user.slice/user-1000.slice/user@1000.service";
        assert_eq!(manager(&format!("{user}/app.slice/x.service")), user);
        assert_eq!(manager(&format!("{user}/init.scope")), user);
        assert_eq!(manager(user), "");
        assert_eq!(manager("system.slice/x.service/sub"), "");
        assert_eq!(
            manager("machine.slice/c.scope/payload/system.slice/x.service"),
            "machine.slice/c.scope/payload"
        );
    }
}
