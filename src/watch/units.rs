//! Units of user managers, as far as cgroupfs shows them: nobody else tells a system service which are there.

use std::{collections::BTreeSet, fs, path::Path};

use crate::model::{CGROUP_ROOT, UnitName};

/// How deep below `user.slice` units are looked for.
const DEPTH: usize = 8;

/// Those of these units that have a cgroup below a user's manager.
pub fn of_users(units: &BTreeSet<UnitName>) -> BTreeSet<UnitName> {
    let mut found = BTreeSet::new();
    if !units.is_empty() {
        search(&Path::new(CGROUP_ROOT).join("user.slice"), DEPTH, units, &mut found);
    }
    found
}

fn search(directory: &Path, depth: usize, units: &BTreeSet<UnitName>, found: &mut BTreeSet<UnitName>) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        if let Some(unit) = entry.file_name().to_str().map(|name| UnitName(name.to_owned()))
            && units.contains(&unit)
        {
            found.insert(unit);
        }
        if depth > 1 {
            search(&entry.path(), depth - 1, units, found);
        }
    }
}
