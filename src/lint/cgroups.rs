//! Where systemd puts the cgroups of its units (systemd.slice(5), systemd.unit(5)).

pub(super) use crate::units::places::{default_path, is_slice, join, manager, slice_path};
use crate::{
    model::{CGROUP_ROOT, CgroupPath, Manager, UnitName},
    policy::{Annotation, CgroupMatch, Part, Statement},
    text::Span,
    units::{
        Selector, UnitFile, Units,
        places::{self, user_of},
    },
};

/// A path of an annotation.
pub(super) struct Written<'a> {
    pub(super) path: &'a CgroupPath,
    pub(super) span: Span,
    /// The match that it is in, unless it is an element's key.
    pub(super) cgroup: Option<&'a CgroupMatch>,
}

/// The paths of an annotation, without those that W018 is about: they begin with the mount point.
pub(super) fn written(annotation: &Annotation) -> Vec<Written<'_>> {
    let mut written: Vec<Written<'_>> = match &annotation.statement {
        Statement::Element(statement) => {
            let elements = statement.elements.iter();
            elements.map(|(path, span, _)| Written { path, span: *span, cgroup: None }).collect()
        }
        Statement::Rule(rule) => {
            let matches = rule.body.iter().filter_map(Part::cgroup);
            let paths = matches.flat_map(|cgroup| cgroup.paths.iter().map(move |path| (path, cgroup)));
            paths.map(|((path, span), cgroup)| Written { path, span: *span, cgroup: Some(cgroup) }).collect()
        }
    };
    written.retain(|written| !is_within(written.path.as_str(), &CGROUP_ROOT[1..]));
    written
}

/// The selectors of an annotation, with their places, if they say which cgroups are meant: beside paths they are labels.
pub(super) fn selected_by(annotation: &Annotation) -> impl Iterator<Item = (&Selector, Span)> {
    let are_labels = annotation.statement.paths().next().is_some();
    annotation.selectors_with_spans().filter(move |_| !are_labels)
}

/// The first name of a path that its slices rule out, where systemd has it, and the whole path with it there.
pub(super) fn misplaced(path: &CgroupPath) -> Option<(String, String, String)> {
    let written: Vec<&str> = path.components().collect();
    let mut right = String::new();
    let mut wrong = None;
    let mut at = 0;
    for run in written.chunk_by(|a, b| is_slice(a) && is_slice(b)) {
        let last = run[run.len() - 1];
        let is_below_slices = written[..at].iter().all(|name| is_slice(name));
        at += run.len();
        let (above, place) = match user_of(last).filter(|_| is_below_slices) {
            Some(uid) => ("", Some(places::top(Manager::User(uid)))),
            None => (&*right, slice_path(last)),
        };
        let place = place.unwrap_or_else(|| run.join("/"));
        right = format!("{above}/{place}").trim_matches('/').to_owned();
        if wrong.is_none() && right != written[..at].join("/") {
            wrong = Some((last.to_owned(), place));
        }
    }
    wrong.map(|(name, place)| (name, place, right))
}

/// Where the system's manager puts a unit, as far as is known, and whether that is sure: no unit file that is not known
/// can say something else.
pub(super) fn place(unit: &UnitName, units: &Units) -> Option<(String, bool)> {
    let name = &*unit.0;
    if is_slice(name) {
        return Some((slice_path(name)?, true));
    }
    if let Some(user) = user_of(name) {
        return Some((places::top(Manager::User(user)), true));
    }
    let files: Vec<&UnitFile> = units.files_of(unit).collect();
    if files.is_empty() {
        return places::template(name).map(|_| (default_path(name), false));
    }
    if files.iter().any(|file| !file.is_read) {
        return None;
    }
    match files.iter().find_map(|file| file.slice.as_deref()) {
        Some(slice) if slice.contains('%') => None,
        Some(slice) => Some((join(&slice_path(slice)?, name), true)),
        None if matches!(places::kind(name), "service" | "socket") => Some((default_path(name), true)),
        None => None,
    }
}

/// Where a user's manager puts a unit whose files are known.
pub(super) fn users_place(uid: u32, unit: &UnitName, units: &Units) -> Option<String> {
    let name = &*unit.0;
    let files: Vec<&UnitFile> = units.users_files_of(unit).collect();
    let is_known = !files.is_empty() && files.iter().all(|file| file.is_read && file.alias_of.is_none());
    if !is_known || !matches!(places::kind(name), "service" | "socket") {
        return None;
    }
    let slice = match files.iter().find_map(|file| file.slice.as_deref()) {
        Some(slice) if slice.contains('%') => return None,
        Some(slice) => slice_path(slice)?,
        None if places::template(name).is_some() => {
            default_path(name).rsplit_once('/')?.0.replace("system.slice/system-", "app.slice/app-")
        }
        None => "app.slice".to_owned(),
    };
    Some(format!("{}/{}", places::top(Manager::User(uid)), join(&slice, name)))
}

/// What a path lies in; nothing for a single name.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A path's last name.
pub(super) fn last(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}

/// Whether a path is another or lies below it.
pub(super) fn is_within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path, and all above it.
pub(super) fn with_ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(parent, _)| parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(path: &str) -> Option<String> {
        misplaced(&path.parse().unwrap()).map(|(.., path)| path)
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
