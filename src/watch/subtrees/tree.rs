//! The slices of one manager, and the units in them that are selected.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use super::{Found, Looked, Wanted, name};
use crate::model::{CgroupId, CgroupPath, Instance, Manager, places::user_of};

/// How many slices of a user are watched, how deep, and how many of a user's units are kept. Everything below
/// `user@UID.service` is that user's to make.
const MOST_SLICES: usize = 1024;
const DEEPEST: usize = 16;
const MOST_INSTANCES: usize = 16_384;

/// What is read at once: a few hundred events, since others are waiting.
const READS_AT_ONCE: usize = 2;
const BUFFER_SIZE: usize = 16 * 1024;

/// Which directories are a manager's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scope {
    manager: Manager,
}

impl Scope {
    pub(super) fn of(manager: Manager) -> Self {
        Self { manager }
    }

    /// Where its units begin; nothing for the root of the hierarchy.
    fn top(self) -> Option<CgroupPath> {
        match self.manager {
            Manager::System => None,
            Manager::User(uid) => format!("user.slice/user-{uid}.slice/user@{uid}.service").parse().ok(),
        }
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The directories that something happened to, ancestors first.
    pub(super) touched: BTreeSet<CgroupPath>,
    /// Whether events were lost.
    pub(super) overflowed: bool,
    /// Whether there may be more.
    pub(super) is_left: bool,
}

/// The slices of one manager.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    scope: Scope,
    pub(super) inotify: io::Result<Inotify>,
    buffer: Vec<u8>,
    /// The watched directories by the kernel's number; nothing is the root of the hierarchy.
    by_number: BTreeMap<i32, (Option<CgroupPath>, WatchDescriptor)>,
    by_path: BTreeMap<Option<CgroupPath>, i32>,
    /// The instances that exist.
    found: BTreeMap<CgroupPath, (Instance, CgroupId)>,
    /// Whether a directory exists that cannot be watched.
    is_blind: bool,
    /// Whether a bound was reached, which is said once.
    is_full: bool,
}

impl Tree {
    pub(super) fn new(root: &Path, scope: Scope) -> Self {
        Self {
            root: root.to_owned(),
            scope,
            inotify: Inotify::init(),
            buffer: vec![0; BUFFER_SIZE],
            by_number: BTreeMap::new(),
            by_path: BTreeMap::new(),
            found: BTreeMap::new(),
            is_blind: false,
            is_full: false,
        }
    }

    /// The instances that exist.
    pub(super) fn found(&self) -> impl Iterator<Item = Found> {
        self.found.values().map(|(instance, id)| Found { instance: instance.clone(), id: Some(*id) })
    }

    /// How many directories are watched.
    pub(super) fn watches(&self) -> usize {
        self.by_number.len()
    }

    /// Whether something can only be seen by [`Self::rescan`].
    pub(super) fn is_blind(&self) -> bool {
        self.is_blind || self.inotify.is_err()
    }

    /// Reads some of what is pending.
    pub(super) fn read(&mut self) -> Read {
        let mut read = Read::default();
        for _ in 0..READS_AT_ONCE {
            let Ok(inotify) = &mut self.inotify else { return read };
            let Ok(events) = inotify.read_events(&mut self.buffer) else { return read };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    read.overflowed = true;
                    continue;
                }
                let number = event.wd.get_watch_descriptor_id();
                let Some((directory, _)) = self.by_number.get(&number) else { continue };
                match event.name.and_then(|name| name.to_str()) {
                    Some(name) => read.touched.extend(child(directory.as_ref(), name)),
                    // The directory itself, which is gone.
                    None if event.name.is_none() => read.touched.extend(directory.clone()),
                    None => {}
                }
            }
        }
        read.is_left = true;
        read
    }

    /// Looks at everything again.
    pub(super) fn rescan(&mut self, wanted: &Wanted, looked: &mut Looked) {
        self.is_blind = false;
        self.is_full = false;
        let top = self.scope.top();
        let mut visited = BTreeSet::new();
        self.look_into(top.as_ref(), wanted, looked, &mut visited);
        let stale: Vec<i32> = self
            .by_path
            .iter()
            .filter(|(path, _)| !visited.contains(*path))
            .map(|(_, number)| *number)
            .collect();
        stale.into_iter().for_each(|number| self.unwatch(number));
        let all: Vec<CgroupPath> = self.found.keys().cloned().collect();
        for path in all {
            let instance = &self.found[&path].0;
            if !wanted.selects(instance) {
                self.found.remove(&path);
            } else if self.id(&path).is_none() {
                self.leave(&path, looked);
            }
        }
    }

    /// Looks at a directory below a slice: it is there, or gone.
    pub(super) fn look_at(&mut self, path: &CgroupPath, wanted: &Wanted, looked: &mut Looked) {
        self.visit(path, wanted, looked, &mut BTreeSet::new());
    }

    fn visit(
        &mut self,
        path: &CgroupPath,
        wanted: &Wanted,
        looked: &mut Looked,
        visited: &mut BTreeSet<Option<CgroupPath>>,
    ) {
        let Some(instance) = Instance::of(path).filter(|one| one.manager == self.scope.manager) else {
            if self.scope.top().as_ref() == Some(path) && self.id(path).is_none() {
                self.leave(path, looked);
            }
            return;
        };
        let uid = user_of(&instance.unit.0).and_then(|uid| uid.parse().ok());
        let is_slice = instance.unit.0.ends_with(".slice");
        let is_selected = wanted.selects(&instance);
        if !is_selected && !is_slice && uid.is_none() {
            return;
        }
        let Some(id) = self.id(path) else {
            looked.managers.extend(uid.map(|uid| (uid, false)));
            return self.leave(path, looked);
        };
        if is_selected {
            self.keep(path, instance, id, looked);
        }
        looked.managers.extend(uid.map(|uid| (uid, true)));
        if is_slice && self.is_wanted(path, wanted) {
            self.look_into(Some(path), wanted, looked, visited);
        }
    }

    /// Whether units can be below a slice that are looked for.
    fn is_wanted(&self, slice: &CgroupPath, wanted: &Wanted) -> bool {
        let mut names = slice.components();
        match self.scope.manager {
            Manager::User(_) => true,
            Manager::System if wanted.reach.system => true,
            Manager::System => match (names.next(), names.next(), names.next()) {
                (Some("user.slice"), None, _) => true,
                (Some("user.slice"), Some(user), None) => {
                    let uid = user.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice"));
                    uid.and_then(|uid| uid.parse().ok())
                        .is_some_and(|uid| wanted.reach.covers(Manager::User(uid)))
                }
                _ => false,
            },
        }
    }

    /// Watches a directory and looks at what is in it; in this order, so that nothing is missed.
    fn look_into(
        &mut self,
        directory: Option<&CgroupPath>,
        wanted: &Wanted,
        looked: &mut Looked,
        visited: &mut BTreeSet<Option<CgroupPath>>,
    ) {
        if !visited.insert(directory.cloned()) || !self.has_room(directory, looked) {
            return;
        }
        self.watch(directory, looked);
        let entries = fs::read_dir(self.place(directory)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if let Some(path) = entry.file_name().to_str().and_then(|name| child(directory, name)) {
                self.visit(&path, wanted, looked, visited);
            }
        }
    }

    fn watch(&mut self, directory: Option<&CgroupPath>, looked: &mut Looked) {
        let place = self.place(directory);
        let Ok(inotify) = &self.inotify else { return };
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR;
        match inotify.watches().add(&place, mask) {
            Ok(descriptor) => {
                let number = descriptor.get_watch_descriptor_id();
                let directory = directory.cloned();
                if let Some(old) = self.by_path.insert(directory.clone(), number).filter(|old| *old != number)
                {
                    self.by_number.remove(&old);
                }
                self.by_number.insert(number, (directory, descriptor));
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => {
                if !std::mem::replace(&mut self.is_blind, true) {
                    looked.notices.push(format!(
                        "{} cannot be watched ({error}), and is looked at every second: raise \
                         fs.inotify.max_user_watches",
                        place.display()
                    ));
                }
            }
        }
    }

    fn unwatch(&mut self, number: i32) {
        let Some((directory, descriptor)) = self.by_number.remove(&number) else { return };
        self.by_path.remove(&directory);
        if let Ok(inotify) = &self.inotify {
            // It fails if the directory is gone, and the watch with it.
            let _ = inotify.watches().remove(descriptor);
        }
    }

    fn keep(&mut self, path: &CgroupPath, instance: Instance, id: CgroupId, looked: &mut Looked) {
        let is_user = self.scope.manager != Manager::System;
        if is_user && self.found.len() >= MOST_INSTANCES && !self.found.contains_key(path) {
            return self.say_full(looked);
        }
        let known = self.found.insert(path.clone(), (instance.clone(), id));
        if known.is_none_or(|(_, known)| known != id) {
            looked.found.push(Found { instance, id: Some(id) });
        }
    }

    /// Notes that a directory is gone, and with it all below.
    fn leave(&mut self, path: &CgroupPath, looked: &mut Looked) {
        let is_below = |other: &CgroupPath| {
            other
                .as_str()
                .strip_prefix(path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let from = self
            .found
            .range(path.clone()..)
            .take_while(|(other, _)| other.as_str().starts_with(path.as_str()));
        let gone: Vec<CgroupPath> = from.map(|(other, _)| other.clone()).filter(is_below).collect();
        for path in gone {
            if let Some((instance, _)) = self.found.remove(&path) {
                looked.found.push(Found { instance, id: None });
            }
        }
        if path.as_str().ends_with(".slice") || self.scope.top().as_ref() == Some(path) {
            let watched = self.by_path.range(Some(path.clone())..);
            let watched = watched.take_while(|(other, _)| {
                other.as_ref().is_some_and(|other| other.as_str().starts_with(path.as_str()))
            });
            let stale: Vec<i32> = watched
                .filter(|(other, _)| other.as_ref().is_some_and(is_below))
                .map(|(_, number)| *number)
                .collect();
            stale.into_iter().for_each(|number| self.unwatch(number));
        }
    }

    /// Whether another slice of a user may be watched.
    fn has_room(&mut self, directory: Option<&CgroupPath>, looked: &mut Looked) -> bool {
        let depth = directory.map_or(0, |path| path.components().count());
        let is_known = self.by_path.contains_key(&directory.cloned());
        let has_room = self.scope.manager == Manager::System
            || is_known
            || (self.by_path.len() < MOST_SLICES && depth <= DEEPEST + 3);
        if !has_room {
            self.say_full(looked);
        }
        has_room
    }

    fn say_full(&mut self, looked: &mut Looked) {
        if !std::mem::replace(&mut self.is_full, true) {
            looked.notices.push(format!(
                "{} has more than {MOST_SLICES} slices or {MOST_INSTANCES} units, or slices more than {DEEPEST} \
                 deep: the rest gets no rules",
                name(self.scope.manager)
            ));
        }
    }

    fn id(&self, path: &CgroupPath) -> Option<CgroupId> {
        let metadata = fs::symlink_metadata(self.place(Some(path))).ok()?;
        metadata.is_dir().then(|| CgroupId(metadata.ino()))
    }

    fn place(&self, directory: Option<&CgroupPath>) -> PathBuf {
        directory.map_or_else(|| self.root.clone(), |path| self.root.join(path.as_str()))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let inotify = std::mem::replace(&mut self.inotify, Err(io::ErrorKind::NotConnected.into()));
        // To close an instance waits for the kernel's grace period, up to 20 ms.
        drop(thread::Builder::new().spawn(move || drop(inotify)));
    }
}

/// A directory's child, if it can be a unit's.
fn child(directory: Option<&CgroupPath>, name: &str) -> Option<CgroupPath> {
    if !name.contains('.') || name == ".." || name == "." {
        return None;
    }
    match directory {
        Some(directory) => Some(directory.child(name)),
        None => name.parse().ok(),
    }
}
