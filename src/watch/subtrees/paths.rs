//! Paths of cgroups, as text.

use std::{collections::BTreeMap, ffi::OsStr, ops::Bound};

use crate::model::{CgroupPath, Instance};

/// What paths below a path begin with.
pub(super) fn below(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}/") }
}

/// What a path lies in; nothing for a single name.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Whether the rest of a path is one name.
pub(super) fn is_name(rest: &str) -> bool {
    !rest.is_empty() && !rest.contains('/')
}

/// The entries whose paths begin like this.
pub(super) fn from<'a, T>(
    map: &'a BTreeMap<String, T>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a String, &'a T)> {
    map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(path, _)| path.starts_with(prefix))
}

/// A path in a directory, if its name can be a unit's.
pub(super) fn unit_path(directory: &str, name: &OsStr) -> Option<String> {
    let name = name.to_str()?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    (name.contains('.') && !name.starts_with('.') && name.bytes().all(is_allowed))
        .then(|| below(directory) + name)
}

pub(super) fn instance(path: &str) -> Option<Instance> {
    Instance::of(&path.parse::<CgroupPath>().ok()?)
}
