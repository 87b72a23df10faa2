//! Paths of cgroups, as text.

use std::{collections::BTreeMap, ffi::OsStr};

use crate::model::{CgroupPath, Instance};

/// What paths below a path begin with.
pub(super) fn below(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}/") }
}

/// What a path lies in; nothing for a single name.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// What is in a directory or below it.
pub(super) fn within<'a, T>(
    map: &'a BTreeMap<String, T>,
    directory: &str,
) -> impl Iterator<Item = &'a String> {
    let prefix = below(directory);
    map.range(prefix.clone()..).map(|(path, _)| path).take_while(move |path| path.starts_with(&prefix))
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
