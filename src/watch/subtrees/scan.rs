//! The work of a turn: events, looks and scans, each no more than there is a share for.

use std::{collections::BTreeSet, ffi::OsStr, time::Duration};

use inotify::EventMask;

use super::{
    RESCAN, RESCAN_WHEN_NUDGED, Subtrees,
    branch::{Branch, Scan},
    listeners::Owner,
    paths::unit_path,
    work,
};
use crate::{
    cgroupfs,
    model::{CgroupId, Manager},
    units::places::{is_slice, top, user_of_manager, user_of_slice},
};

impl Subtrees {
    /// Works for those who share an inotify instance until their share is used. If there are scans to go on with, events
    /// get no more than half of it.
    pub(super) fn serve(&mut self, owner: Owner, share: u64, has_events: bool) {
        let until = self.news.work + share;
        let mine = || self.branches.iter().filter(|(_, branch)| branch.owner == owner);
        let managers: Vec<Manager> = mine().map(|(manager, _)| *manager).collect();
        let has_scans = mine().any(|(_, branch)| branch.has_scans());
        let for_looks = if has_scans { until - share / 2 } else { until };
        if has_events && mine().all(|(_, branch)| branch.touched.is_empty()) {
            self.read(owner);
        }
        for manager in &managers {
            while self.news.work < for_looks
                && let Some(branch) = self.branches.get_mut(manager)
                && let Some(path) = branch.touched.pop_first()
            {
                self.look(*manager, path, None);
                self.drop_if_empty(*manager);
            }
        }
        managers.into_iter().for_each(|manager| self.scan(manager, until));
    }

    /// Reads once from an inotify instance.
    fn read(&mut self, owner: Owner) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let events = self.listeners.by_owner.get_mut(&owner).map(|one| one.inotify.read_events(&mut buffer));
        for event in events.and_then(Result::ok).into_iter().flatten() {
            self.news.work += work::NAME;
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                self.note_overflow(owner);
                continue;
            }
            let Some(listener) = self.listeners.by_owner.get_mut(&owner) else { break };
            if let Some(name) = event.name {
                // Most names of a desktop lead nowhere; only those that may lead somewhere cost a path.
                if let Some((manager, directory)) = listener.watches.get(&event.wd)
                    && let Some(path) = unit_path(directory, name)
                    && let Some(branch) = self.branches.get_mut(manager)
                {
                    branch.touched.insert(path);
                }
            } else if event.mask.contains(EventMask::IGNORED)
                && let Some((manager, directory)) = listener.watches.remove(&event.wd)
                && let Some(branch) = self.branches.get_mut(&manager)
                && let Some(slice) = branch.slices.get_mut(&directory)
                && slice.watch.as_ref() == Some(&event.wd)
            {
                // The directory itself is gone, or at least its watch.
                slice.watch = None;
                self.enter(manager, &directory, None);
            }
        }
        self.buffer = buffer;
    }

    /// Notes that the kernel has dropped events.
    pub(super) fn note_overflow(&mut self, owner: Owner) {
        for (manager, branch) in self.branches.iter_mut().filter(|(_, branch)| branch.owner == owner) {
            branch.lost_events = true;
            branch.overflows = branch.overflows.saturating_add(1);
            // More and more rarely: users must not fill the log.
            if !branch.overflows.is_power_of_two() {
                continue;
            }
            let whose = match manager {
                Manager::System => "the system".to_owned(),
                Manager::User(uid) => format!("user {uid}"),
            };
            self.news.notices.push(format!(
                "inotify events of {whose} overflowed (so far: {}); all its cgroups are looked at",
                branch.overflows
            ));
        }
    }

    /// When a branch is to be scanned again.
    pub(super) fn rescan_due(&self, branch: &Branch) -> Option<Duration> {
        let pause = if self.is_nudged { RESCAN_WHEN_NUDGED } else { RESCAN };
        let is_lossy = branch.lost_events || !self.listeners.hear();
        let is_wanted = is_lossy || !branch.unwatched.is_empty() || !branch.beyond.is_empty();
        (is_wanted && !branch.has_scans())
            .then(|| branch.rescanned.map_or(Duration::ZERO, |last| last + pause))
    }

    /// Has scanned again what no event tells of, if that is due.
    pub(super) fn begin_rescans(&mut self, now: Duration) {
        let due =
            self.branches.iter().filter(|(_, branch)| self.rescan_due(branch).is_some_and(|at| at <= now));
        let due: Vec<Manager> = due.map(|(manager, _)| *manager).collect();
        for manager in due {
            let before = self.news.work;
            let Some(branch) = self.branches.get_mut(&manager) else { continue };
            branch.rescanned = Some(now);
            let (owner, unwatched) = (branch.owner, std::mem::take(&mut branch.unwatched));
            branch.due = std::mem::take(&mut branch.beyond);
            branch.due.extend(unwatched.iter().cloned());
            if std::mem::take(&mut branch.lost_events) || !self.listeners.hear() {
                branch.due.extend(branch.slices.keys().cloned());
            }
            unwatched.iter().for_each(|path| self.enter(manager, path, None));
            if owner != Owner::System {
                self.shares.use_up(owner, self.news.work - before);
            }
            self.is_nudged = false;
        }
    }

    /// Goes on with a manager's scans, as long as there is something of the share left.
    fn scan(&mut self, manager: Manager, until: u64) {
        while self.news.work < until
            && let Some(mut scan) = self.next_scan(manager)
        {
            let is_done = self.go_on(manager, &mut scan, until);
            if let Some(branch) = self.branches.get_mut(&manager) {
                branch.scan = (!is_done).then_some(scan);
                if !branch.has_scans() && branch.beyond.is_empty() {
                    branch.excess_is_told = false;
                }
            }
        }
    }

    /// The scan that is under way, or else the next one that is due.
    fn next_scan(&mut self, manager: Manager) -> Option<Scan> {
        let branch = self.branches.get_mut(&manager)?;
        if let Some(scan) = branch.scan.take() {
            return Some(scan);
        }
        let path = branch.due.pop_first()?;
        let mut unseen = branch.children(&path);
        if manager == Manager::System
            && let Some(user) = user_of_slice(&path).map(Manager::User)
            && self.branches.contains_key(&user)
        {
            unseen.insert(top(user));
        }
        self.news.work += work::DIRECTORY + unseen.len() as u64 * work::NAME;
        let children = match cgroupfs::children(&self.root.join(&path)) {
            Ok(children) => children,
            Err(error) => {
                self.complain(manager, &path, "read", &error);
                // That says nothing about what is in it.
                unseen = BTreeSet::new();
                None
            }
        };
        Some(Scan { path, unseen, children })
    }

    /// Goes on with a scan; whether it is done.
    fn go_on(&mut self, manager: Manager, scan: &mut Scan, until: u64) -> bool {
        while self.news.work < until {
            if let Some(child) = scan.children.as_mut().and_then(Iterator::next) {
                self.news.work += work::NAME;
                match child {
                    Ok((name, id)) => self.see(manager, scan, &name, id),
                    Err(error) => {
                        self.complain(manager, &scan.path, "read", &error);
                        return true;
                    }
                }
            } else if let Some(path) = scan.unseen.pop_first() {
                self.look(manager, path, None);
            } else {
                return true;
            }
        }
        false
    }

    /// Takes note of what is in a slice.
    fn see(&mut self, manager: Manager, scan: &mut Scan, name: &OsStr, id: CgroupId) {
        let Some(path) = unit_path(&scan.path, name) else { return };
        scan.unseen.remove(&path);
        let Some(branch) = self.branches.get(&manager) else { return };
        let is_known = match branch.slices.get(&path) {
            Some(slice) => slice.id == Some(id) && (slice.watch.is_some() || !self.listeners.hear()),
            None => {
                branch.selected.get(&path) == Some(&id)
                    && !is_slice(&path)
                    && user_of_manager(&path).is_none()
            }
        };
        if !is_known {
            self.look(manager, path, Some(id));
        }
    }
}
