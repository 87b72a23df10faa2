//! The cgroups of units: what is below slices and users' managers. What is below another unit is its own business.

use std::path::Path;

use crate::{
    model::{CgroupId, CgroupPath, Instance, UnitName},
    watch::cgroups,
};

/// Every unit that has a cgroup below `root`, with its number, in no order. What is not UTF-8 in a name is replaced.
pub(super) fn below(root: &Path) -> Vec<(Instance, CgroupId)> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(parent) = pending.pop() {
        for directory in cgroups::below(&parent, 1) {
            let Ok(below) = directory.strip_prefix(root) else { continue };
            let Ok(path) = below.to_string_lossy().parse::<CgroupPath>() else { continue };
            // Only a manager and its slices have units below them, so a walk ends at all others.
            if let (Some(instance), Some(id)) = (instance(path), cgroups::look_at(&directory)) {
                pending.push(directory);
                found.push((instance, id));
            }
        }
    }
    found
}

/// The unit of a cgroup. No manager gives a name with a blank or a quote in it, but a user can make such a directory
/// below theirs, and it looks like a unit's. It is one here, under the name that it has.
fn instance(path: CgroupPath) -> Option<Instance> {
    Instance::of(&path).or_else(|| {
        let is_taken = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@/".contains(c);
        let plain: String = path.as_str().chars().map(|c| if is_taken(c) { c } else { 'x' }).collect();
        let manager = Instance::of(&plain.parse().ok()?)?.manager;
        let unit = UnitName(path.components().last()?.to_owned());
        Some(Instance { manager, unit, path })
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    #[test]
    fn units_of_all_managers_are_found_and_nothing_below_them() {
        let root = std::env::temp_dir().join(format!("scnpm-instances-{}", std::process::id()));
        let user = "user.slice/user-7.slice/user@7.service";
        for name in [
            "init.scope",
            "system.slice/a.service/b.service/c.service",
            "machine.slice/m.scope/payload/system.slice/d.service",
            &format!("{user}/app.slice/app-x.slice/app-x-1.scope/inner.slice"),
            &format!("{user}/init.scope"),
            &format!("{user}/a \"\n.service/b.service"),
            "us\ner.slice/user-7.slice/user@7.service/a.slice",
        ] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("system.slice/file.service"), "").unwrap();
        let found: BTreeSet<String> =
            below(&root).into_iter().map(|(one, _)| format!("{} {}", one.manager, one.path)).collect();
        fs::remove_dir_all(&root).unwrap();
        let expected = [
            "7 user.slice/user-7.slice/user@7.service/a \"\n.service",
            "7 user.slice/user-7.slice/user@7.service/app.slice",
            "7 user.slice/user-7.slice/user@7.service/app.slice/app-x.slice",
            "7 user.slice/user-7.slice/user@7.service/app.slice/app-x.slice/app-x-1.scope",
            "7 user.slice/user-7.slice/user@7.service/init.scope",
            "system init.scope",
            "system machine.slice",
            "system us\ner.slice",
            "system machine.slice/m.scope",
            "system system.slice",
            "system system.slice/a.service",
            "system user.slice",
            "system user.slice/user-7.slice",
            "system user.slice/user-7.slice/user@7.service",
        ];
        assert_eq!(found, expected.map(str::to_owned).into());
    }
}
