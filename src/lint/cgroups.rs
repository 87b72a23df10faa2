//! Where systemd puts the cgroups of its units (systemd.slice(5), systemd.unit(5)).

pub(super) use crate::units::places::{default_path, is_slice, join, manager, slice_path};
use crate::{
    model::{CgroupPath, Manager, UnitName},
    units::{
        UnitFile, Units,
        places::{self, user_of},
    },
};

/// Where a unit's cgroup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Here.
    Known(String),
    /// Here, unless a unit file that is not known says something else.
    Default(String),
    /// Anywhere.
    Unknown,
}

/// A name of a path that cannot be where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misplaced {
    /// The name.
    pub(super) name: String,
    /// Where systemd has it.
    pub(super) at: String,
    /// The whole path with it there.
    pub(super) path: String,
}

/// The first name of a path that its slices rule out.
pub(super) fn misplaced(path: &CgroupPath) -> Option<Misplaced> {
    let written: Vec<&str> = path.components().collect();
    let mut right: Vec<String> = Vec::new();
    let mut wrong: Option<(String, String)> = None;
    let mut at = 0;
    for run in written.chunk_by(|a, b| is_slice(a) && is_slice(b)) {
        let above = right.len();
        let last = run[run.len() - 1];
        let expected = if is_slice(last) {
            slice_path(last).map(|path| names(&path))
        } else if at == 0 || written[..at].iter().all(|name| is_slice(name)) {
            user_of(last).map(|uid| {
                right.clear();
                names(&places::top(Manager::User(uid)))
            })
        } else {
            None
        };
        match expected {
            Some(names) => right.extend(names),
            None => right.extend(run.iter().map(|name| (*name).to_owned())),
        }
        at += run.len();
        let is_right = right.iter().map(String::as_str).eq(written[..at].iter().copied());
        if !is_right && wrong.is_none() {
            let above = above.min(right.len());
            let at = if is_slice(last) { right[above..].join("/") } else { right.join("/") };
            wrong = Some((last.to_owned(), at));
        }
    }
    wrong.map(|(name, at)| Misplaced { name, at, path: right.join("/") })
}

/// Where the system's manager puts a unit.
pub(super) fn place(unit: &UnitName, units: Option<&Units>) -> Place {
    let name = &*unit.0;
    if is_slice(name) {
        return slice_path(name).map_or(Place::Unknown, Place::Known);
    }
    if let Some(user) = user_of(name) {
        return Place::Known(places::top(Manager::User(user)));
    }
    let files: Vec<&UnitFile> = units.into_iter().flat_map(|units| units.files_of(unit)).collect();
    if files.is_empty() {
        return if places::template(name).is_some() {
            Place::Default(default_path(name))
        } else {
            Place::Unknown
        };
    }
    if files.iter().any(|file| !file.is_read) {
        return Place::Unknown;
    }
    match files.iter().find_map(|file| file.slice.as_deref()) {
        Some(slice) if slice.contains('%') => Place::Unknown,
        Some(slice) => slice_path(slice).map_or(Place::Unknown, |slice| Place::Known(join(&slice, name))),
        None if matches!(places::kind(name), "service" | "socket") => Place::Known(default_path(name)),
        None => Place::Unknown,
    }
}

/// What a path lies in; nothing for a single name.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Whether a path is another or lies below it.
pub(super) fn is_within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path, and all above it.
pub(super) fn with_ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(parent, _)| parent))
}

fn names(path: &str) -> Vec<String> {
    path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(path: &str) -> Option<String> {
        misplaced(&path.parse().unwrap()).map(|misplaced| misplaced.path)
    }

    #[test]
    fn slices_lie_in_the_slices_of_their_names() {
        for (written, path) in [
            ("a-b.slice/x.service", "a.slice/a-b.slice/x.service"),
            ("system.slice/mail.slice/x.service", "mail.slice/x.service"),
            ("-.slice/system.slice/x.service", "system.slice/x.service"),
            ("user-1000.slice/session-2.scope", "user.slice/user-1000.slice/session-2.scope"),
            (
                "user@1000.service/app.slice/x.service",
                "user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
            ),
            (
                "user.slice/user@1000.service/app-x.slice",
                "user.slice/user-1000.slice/user@1000.service/app.slice/app-x.slice",
            ),
            ("machine.slice/c.scope/payload/a-b.slice", "machine.slice/c.scope/payload/a.slice/a-b.slice"),
        ] {
            assert_eq!(right(written).as_deref(), Some(path), "{written}");
        }
    }

    #[test]
    fn paths_that_systemd_makes_are_right() {
        for path in [
            "system.slice/x.service",
            "system.slice/system-foo\\x2dbar.slice/foo-bar@1.service",
            "user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1-2.scope",
            "user.slice/user-1000.slice/user@1000.service/user.slice/libpod-1.scope",
            "user.slice/user-1000.slice/session-2.scope",
            "machine.slice/systemd-nspawn@c.service/payload/system.slice/x.service",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-1.scope",
            "init.scope",
            "lxc/c1",
        ] {
            assert_eq!(right(path), None, "{path}");
        }
    }

    #[test]
    fn instances_lie_in_a_slice_of_their_template() {
        assert_eq!(default_path("foo@bar.service"), "system.slice/system-foo.slice/foo@bar.service");
        assert_eq!(
            default_path("foo-bar@1-2.service"),
            "system.slice/system-foo\\x2dbar.slice/foo-bar@1-2.service"
        );
        assert_eq!(default_path("foo.service"), "system.slice/foo.service");
    }
}
