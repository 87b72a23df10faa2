//! Units of the system that are there already, as far as cgroupfs shows them: for while there is no D-Bus.

use std::{collections::BTreeSet, path::Path};

use super::cgroups;
use crate::model::{CGROUP_ROOT, UnitName};

/// How deep below a slice units are looked for.
const DEPTH: usize = 8;

/// Those of these units that have a cgroup below the system's slice.
pub fn of_the_system(units: &BTreeSet<UnitName>) -> BTreeSet<UnitName> {
    below("system.slice", units)
}

fn below(slice: &str, units: &BTreeSet<UnitName>) -> BTreeSet<UnitName> {
    if units.is_empty() {
        return BTreeSet::new();
    }
    let names = cgroups::below(&Path::new(CGROUP_ROOT).join(slice), DEPTH)
        .filter_map(|path| Some(UnitName(path.file_name()?.to_str()?.to_owned())));
    names.filter(|unit| units.contains(unit)).collect()
}
