//! CGROUPS -> FACTS. The only room that reads the cgroup v2 file system (cgroups(7)).
//!
//! "There is none" and "it could not be looked at" are told apart: the second says nothing about the cgroup.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs::{self, Metadata, ReadDir},
    io, iter,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::{
    gather::Gather,
    model::{CGROUP_ROOT, CgroupId, CgroupPath, Instance, Manager},
    units::places,
};

/// The id of a cgroup; nothing if there is none, or if it could not be looked at.
pub fn look(path: &CgroupPath) -> Option<CgroupId> {
    look_at(&path.directory()).ok().flatten()
}

/// The id of the cgroup at this directory, if there is one. A file of cgroupfs is no cgroup.
///
/// # Errors
/// As stat(2), unless the error says that there is no such directory.
pub fn look_at(directory: &Path) -> io::Result<Option<CgroupId>> {
    let found = if_there(fs::metadata(directory))?;
    Ok(found.filter(Metadata::is_dir).map(|metadata| CgroupId(metadata.ino())))
}

/// The cgroups in one, in no order; nothing if it does not exist. Their ids are read with their names, which spares a
/// stat(2) of each.
///
/// # Errors
/// As open(2), unless the error says that there is no such directory.
pub fn children(directory: &Path) -> io::Result<Option<Children>> {
    Ok(if_there(fs::read_dir(directory))?.map(Children))
}

/// Looks at many cgroups at about the same time: of those in one cgroup, at a few one by one, and then at all in its list,
/// which takes a fraction of the time. What comes or goes meanwhile may be seen or not, as with any look.
#[derive(Debug)]
pub struct Glance<'a> {
    root: &'a Path,
    parents: RefCell<BTreeMap<String, Parent>>,
}

/// How often one of its cgroups was looked at, and later, what cgroups it has.
#[derive(Debug)]
enum Parent {
    Looks(usize),
    Listed(BTreeMap<OsString, CgroupId>),
}

/// How many looks take as long as a list: a cgroup's directory has some 50 files besides.
const AS_LONG_AS_A_LIST: usize = 16;

impl<'a> Glance<'a> {
    /// At cgroups below `root`.
    pub fn new(root: &'a Path) -> Self {
        Self { root, parents: RefCell::default() }
    }

    /// The id of a cgroup; nothing if there is none, or if it could not be looked at.
    pub fn look(&self, path: &CgroupPath) -> Option<CgroupId> {
        let (above, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
        let mut parents = self.parents.borrow_mut();
        if !parents.contains_key(above) {
            parents.insert(above.to_owned(), Parent::Looks(0));
        }
        let parent = parents.get_mut(above)?;
        if let Parent::Looks(looks) = parent {
            *looks += 1;
            let listed =
                (*looks > AS_LONG_AS_A_LIST).then(|| children(&self.root.join(above)).ok().flatten());
            match listed.flatten().and_then(|children| children.try_gather().ok()) {
                Some(list) => *parent = Parent::Listed(list),
                None => return look_at(&self.root.join(path.as_str())).ok().flatten(),
            }
        }
        let Parent::Listed(list) = parent else { return None };
        list.get(OsStr::new(name)).copied()
    }
}

/// All cgroups below one, down to so many levels, each before those below it: its directory and its id, or why one could
/// not be read. Follows no link.
pub fn walk(root: &Path, levels: usize) -> impl Iterator<Item = io::Result<(PathBuf, CgroupId)>> {
    let mut pending = vec![(root.to_owned(), levels)];
    let mut current: Option<(PathBuf, usize, Children)> = None;
    iter::from_fn(move || {
        loop {
            if let Some((above, levels, entries)) = &mut current
                && let Some(child) = entries.next()
            {
                return Some(child.map(|(name, id)| {
                    let directory = above.join(name);
                    pending.push((directory.clone(), *levels));
                    (directory, id)
                }));
            }
            let (above, levels) = pending.pop()?;
            let Some(levels) = levels.checked_sub(1) else { continue };
            match children(&above) {
                Ok(entries) => current = entries.map(|entries| (above, levels, entries)),
                Err(error) => return Some(Err(error)),
            }
        }
    })
}

/// The units that have a cgroup below `root`, which is the hierarchy's root: those of the system's manager and those of
/// users' managers, in no order. `unit` says whose a cgroup is, `enters` whether to look below a slice or a user's
/// manager. Of each user at most `most` cgroups are looked at. What cannot be read is left out.
pub fn units(
    root: &Path,
    most: usize,
    unit: impl Fn(CgroupPath) -> Option<Instance>,
    enters: impl Fn(&Instance) -> bool,
) -> Vec<(Instance, CgroupId)> {
    let mut found = Vec::new();
    let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
    let mut pending = vec![String::new()];
    while let Some(above) = pending.pop() {
        for (name, id) in children(&root.join(&above)).ok().flatten().into_iter().flatten().flatten() {
            let path = places::join(&above, &name.to_string_lossy());
            let Some(instance) = path.parse().ok().and_then(&unit) else { continue };
            if let Manager::User(uid) = instance.manager {
                let seen = seen.entry(uid).or_default();
                *seen += 1;
                if *seen > most {
                    break;
                }
            }
            if places::has_units(&instance) && enters(&instance) {
                pending.push(path);
            }
            found.push((instance, id));
        }
    }
    found
}

/// Whether cgroup v2 is mounted at this directory.
pub fn is_mounted(root: &Path) -> bool {
    statfs(root).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The ids of all cgroups that exist.
///
/// # Errors
/// If one of them cannot be read, or cgroup v2 is not mounted: then nobody knows which are gone.
pub fn alive() -> io::Result<BTreeSet<CgroupId>> {
    let root = Path::new(CGROUP_ROOT);
    if !is_mounted(root) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let below = walk(root, usize::MAX).map(|found| found.map(|(_, id)| id));
    look_at(root)?.into_iter().map(Ok).chain(below).try_gather()
}

/// Whether an error says that there is no such directory. A path that is too long is none to anybody.
pub fn is_absence(error: &io::Error) -> bool {
    let absences = [libc::ENOENT, libc::ENOTDIR, libc::ENODEV, libc::ENAMETOOLONG];
    error.raw_os_error().is_some_and(|number| absences.contains(&number))
}

/// What was found; nothing if there is no such directory.
fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if is_absence(&error) => Ok(None),
        found => found.map(Some),
    }
}

/// The names and ids of the cgroups in one.
#[derive(Debug)]
pub struct Children(ReadDir);

impl Iterator for Children {
    type Item = io::Result<(OsString, CgroupId)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match if_there(self.0.next()?).transpose()? {
                Ok(entry) if !entry.file_type().is_ok_and(|kind| kind.is_dir()) => {}
                entry => return Some(entry.map(|entry| (entry.file_name(), CgroupId(entry.ino())))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ordinary directory does for what does not depend on cgroupfs.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("scnpm-cgroupfs-{name}-{}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            Self(directory)
        }

        fn make(&self, name: &str) {
            fs::create_dir_all(self.0.join(name)).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn walk_goes_down_so_many_levels_and_follows_no_link() {
        let scratch = Scratch::new("walk");
        scratch.make("a/b/c");
        fs::write(scratch.0.join("a/file"), "").unwrap();
        std::os::unix::fs::symlink("..", scratch.0.join("a/link")).unwrap();
        let names = |levels| -> Vec<PathBuf> {
            let below = walk(&scratch.0, levels).map(Result::unwrap);
            below.map(|(path, _)| path.strip_prefix(&scratch.0).unwrap().to_owned()).collect()
        };
        assert_eq!(names(0), [""; 0].map(PathBuf::from));
        assert_eq!(names(2), ["a", "a/b"].map(PathBuf::from));
        assert_eq!(names(usize::MAX), ["a", "a/b", "a/b/c"].map(PathBuf::from));
        assert_eq!(walk(&scratch.0.join("gone"), 9).count(), 0);
    }

    #[test]
    fn an_id_is_the_same_however_it_is_looked_at() {
        let scratch = Scratch::new("id");
        scratch.make("a");
        let (name, id) = children(&scratch.0).unwrap().unwrap().next().unwrap().unwrap();
        assert_eq!(name, "a");
        assert_eq!(look_at(&scratch.0.join("a")).unwrap(), Some(id));
    }

    #[test]
    fn a_glance_sees_the_same_as_a_look_at_each() {
        let scratch = Scratch::new("glance");
        let names: Vec<String> = (0..40).map(|number| format!("a/{number}.service")).collect();
        names.iter().step_by(2).for_each(|name| scratch.make(name));
        fs::write(scratch.0.join("a/39.service"), "").unwrap();
        let glance = Glance::new(&scratch.0);
        for name in names.iter().map(String::as_str).chain(["a", "b", "b/c"]) {
            let seen = glance.look(&name.parse().unwrap());
            assert_eq!(seen, look_at(&scratch.0.join(name)).unwrap(), "{name}");
        }
        assert!(matches!(glance.parents.borrow()["a"], Parent::Listed(_)));
        assert!(matches!(glance.parents.borrow()[""], Parent::Looks(2)));
    }

    #[test]
    fn no_cgroup_is_another_thing_than_a_failed_look() {
        let scratch = Scratch::new("errors");
        fs::write(scratch.0.join("file"), "").unwrap();
        std::os::unix::fs::symlink("loop", scratch.0.join("loop")).unwrap();
        let long = "x".repeat(300);
        for name in ["gone", "file", "file/below", &long] {
            assert_eq!(look_at(&scratch.0.join(name)).unwrap(), None, "{name}");
        }
        let error = look_at(&scratch.0.join("loop")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        assert!(children(&scratch.0.join("loop")).is_err());
        assert!(children(&scratch.0.join("gone")).unwrap().is_none());
    }

    #[test]
    fn units_of_all_managers_are_found_and_nothing_below_them() {
        let scratch = Scratch::new("units");
        let user = "user.slice/user-7.slice/user@7.service";
        for name in [
            "init.scope",
            "system.slice/a.service/b.service/c.service",
            "machine.slice/m.scope/payload/system.slice/d.service",
            &format!("{user}/app.slice/app-x.slice/app-x-1.scope/inner.slice"),
            &format!("{user}/init.scope"),
            &format!("{user}/a \".service"),
        ] {
            scratch.make(name);
        }
        fs::write(scratch.0.join("system.slice/file.service"), "").unwrap();
        let found = |most, enters: &dyn Fn(&Instance) -> bool| -> BTreeSet<String> {
            let units = units(&scratch.0, most, |path| Instance::of(&path), enters);
            units.into_iter().map(|(one, _)| format!("{} {}", one.manager, one.path)).collect()
        };
        let of_the_system = [
            "system init.scope",
            "system machine.slice",
            "system machine.slice/m.scope",
            "system system.slice",
            "system system.slice/a.service",
            "system user.slice",
            "system user.slice/user-7.slice",
            "system user.slice/user-7.slice/user@7.service",
        ];
        let of_the_user =
            ["app.slice", "app.slice/app-x.slice", "app.slice/app-x.slice/app-x-1.scope", "init.scope"];
        let mut expected: BTreeSet<String> = of_the_system.map(str::to_owned).into();
        let is_no_user = |one: &Instance| !one.unit.0.starts_with("user@");
        assert_eq!(found(usize::MAX, &is_no_user), expected);
        // Who has too many gets less than the rest.
        assert!(found(1, &|_| true).is_superset(&expected));
        assert!(found(1, &|_| true).len() < expected.len() + of_the_user.len());
        expected.extend(of_the_user.map(|path| format!("7 {user}/{path}")));
        assert_eq!(found(usize::MAX, &|_| true), expected);
    }
}
