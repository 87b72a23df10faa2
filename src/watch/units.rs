//! Units that are there already, as far as cgroupfs shows them: for user managers, which nobody tells a system service
//! about, and for the system's units while there is no D-Bus.

use std::{collections::BTreeSet, fs, path::Path};

use crate::model::{CGROUP_ROOT, UnitName};

/// How deep below a slice units are looked for.
const DEPTH: usize = 8;

/// Those of these units that have a cgroup below a user's manager.
pub fn of_users(units: &BTreeSet<UnitName>) -> BTreeSet<UnitName> {
    below("user.slice", units)
}

/// Those of these units that have a cgroup below the system's slice.
pub fn of_the_system(units: &BTreeSet<UnitName>) -> BTreeSet<UnitName> {
    below("system.slice", units)
}

fn below(slice: &str, units: &BTreeSet<UnitName>) -> BTreeSet<UnitName> {
    let mut found = BTreeSet::new();
    if !units.is_empty() {
        search(&Path::new(CGROUP_ROOT).join(slice), DEPTH, units, &mut found);
    }
    found
}

fn search(directory: &Path, depth: usize, units: &BTreeSet<UnitName>, found: &mut BTreeSet<UnitName>) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let unit = entry.file_name().to_str().map(|name| UnitName(name.to_owned()));
        found.extend(unit.filter(|unit| units.contains(unit)));
        if depth > 1 {
            search(&entry.path(), depth - 1, units, found);
        }
    }
}
