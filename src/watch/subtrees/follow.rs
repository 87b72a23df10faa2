//! What is followed: managers, slices and what selectors select, as looks find them.

use std::io;

use super::{
    Subtrees,
    branch::{Branch, Slice},
    paths::{below, instance, parent, within},
    work,
};
use crate::{
    cgroupfs::{is_absence, look_at},
    model::{CgroupId, Instance, Manager},
    units::places::{top, user_of_manager},
    watch::notice,
};

impl Subtrees {
    /// Looks at what a path in a slice is now, unless it was just seen in a directory.
    pub(super) fn look(&mut self, manager: Manager, path: String, seen: Option<CgroupId>) {
        self.news.work += work::NAME;
        let Some(instance) = instance(&path).filter(|instance| instance.manager == manager) else { return };
        if self.wanted.enters(&instance) {
            match user_of_manager(&path) {
                Some(uid) => self.look_at_manager(Manager::User(uid)),
                None => self.enter(manager, &path, seen),
            }
        }
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        let known = branch.selected.get(&path).copied();
        if known.is_none() && !self.wanted.selects(&instance) {
            return;
        }
        let id = match seen {
            Some(id) => Some(id),
            None => {
                self.news.work += work::LOOK;
                match look_at(&self.root.join(&path)) {
                    Ok(id) => id,
                    // That says nothing of the cgroup.
                    Err(error) => return self.complain(manager, parent(&path), "read", &error),
                }
            }
        };
        if id != known {
            self.note(instance, id);
        }
    }

    /// Follows an instance that was found without being followed, and tells what has become of it.
    pub(super) fn adopt(&mut self, instance: &Instance) {
        let (manager, path) = (instance.manager, instance.path.as_str());
        self.look_at_manager(manager);
        let top = top(manager).len();
        let follows = |all: &Self, slice: &str| {
            all.branches.get(&manager).is_some_and(|branch| branch.slices.contains_key(slice))
        };
        for slice in path.match_indices('/').map(|(at, _)| &path[..at]) {
            if slice.len() > top && !follows(self, slice) {
                self.enter(manager, slice, None);
            }
        }
        match look_at(&self.root.join(path)) {
            Ok(id) => self.note(instance.clone(), id.filter(|_| follows(self, parent(path)))),
            Err(error) => self.complain(manager, parent(path), "read", &error),
        }
    }

    /// Keeps and tells what an instance is now.
    fn note(&mut self, instance: Instance, id: Option<CgroupId>) {
        let (manager, path) = (instance.manager, instance.path.as_str());
        let is_chosen = self.wanted.chooses(&instance);
        if let Some(branch) = self.branches.get_mut(&manager) {
            let is_new = id.is_some() && !branch.selected.contains_key(path);
            if is_new && !is_chosen && branch.selected.len() >= self.limits.selected / 2 {
                // The rest is for what selectors select.
                return;
            }
            if is_new && manager != Manager::System && branch.selected.len() >= self.limits.selected {
                if let Some(slice) = branch.slices.get_mut(path) {
                    slice.id = None;
                }
                let excess = format!("more than {} units that annotations select", self.limits.selected);
                return self.pass_over(manager, path, &excess);
            }
            match id {
                Some(id) => drop(branch.selected.insert(path.to_owned(), id)),
                None => drop(branch.selected.remove(path)),
            }
        }
        self.news.work += if is_chosen { work::CHANGE } else { work::NAME };
        self.news.found.insert(instance, id);
    }

    /// Notes that something is passed over, since its user would have too much. That is worth a notice each time that it
    /// begins, but more and more rarely: users must not fill the log.
    fn pass_over(&mut self, manager: Manager, path: &str, excess: &str) {
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        branch.beyond.insert(parent(path).to_owned());
        if std::mem::replace(&mut branch.excess_is_told, true) {
            return;
        }
        branch.excesses += 1;
        if branch.excesses.is_power_of_two() {
            self.news.notices.push(format!("user {manager} has {excess}; the rest is passed over"));
        }
    }

    /// Looks whether a manager's cgroup is there.
    pub(super) fn look_at_manager(&mut self, manager: Manager) {
        let top = top(manager);
        if self.branches.get(&manager).is_none_or(|branch| branch.slices.is_empty()) {
            self.news.work += work::LOOK;
            if manager != Manager::System && !matches!(look_at(&self.root.join(&top)), Ok(Some(_))) {
                return;
            }
            let owner = self.listeners.assign(manager, &self.limits, &mut self.news.notices);
            let branch = self.branches.entry(manager).or_default();
            (branch.owner, branch.top) = (owner, top.clone());
        }
        self.enter(manager, &top, None);
    }

    /// Watches a slice if it is there, and has it scanned if it is another than before. The number of a watch stays the
    /// same as long as the directory is the same.
    pub(super) fn enter(&mut self, manager: Manager, path: &str, seen: Option<CgroupId>) {
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        let directory = self.root.join(path);
        if manager != Manager::System
            && !branch.slices.contains_key(path)
            && let Some(excess) = self.limits.excess(branch, path)
        {
            if seen.is_some() || matches!(look_at(&directory), Ok(Some(_))) {
                self.pass_over(manager, path, &excess);
            }
            return;
        }
        self.news.work += work::WATCH;
        let watched = match self.listeners.watch(branch.owner, &directory) {
            // Without a watch nothing has said that it exists.
            Ok(None) if seen.is_none() => look_at(&directory).map(|id| (id, None)),
            watched => watched.map(|watch| (seen, watch)),
        };
        let (id, watch, error) = match watched {
            Ok((None, None)) => return self.forget(manager, path),
            Ok((id, watch)) => (id, watch, None),
            Err(error) if is_absence(&error) => return self.forget(manager, path),
            Err(error) => (None, None, Some(error)),
        };
        branch.unwatched.remove(path);
        let is_new = !branch.slices.contains_key(path);
        let slice = branch.slices.entry(path.to_owned()).or_default();
        if is_new || error.is_some() || slice.watch != watch || watch.is_none() && slice.id != id {
            self.listeners.forget(branch.owner, slice.watch.take());
            if let Some(listener) = self.listeners.by_owner.get_mut(&branch.owner) {
                listener.watches.extend(watch.clone().map(|watch| (watch, (manager, path.to_owned()))));
            }
            *slice = Slice { watch, id };
            branch.due.insert(path.to_owned());
        } else {
            slice.id = id.or(slice.id);
        }
        if let Some(error) = error {
            self.complain(manager, path, "watched", &error);
        }
    }

    /// Has a slice scanned again in a while, since it can't be watched or read.
    pub(super) fn complain(&mut self, manager: Manager, path: &str, verb: &str, error: &io::Error) {
        if let Some(branch) = self.branches.get_mut(&manager) {
            branch.unwatched.insert(path.to_owned());
        }
        if self.complaints.insert(error.raw_os_error()) {
            self.news.notices.push(notice(&self.root.join(path), verb, error));
        }
    }

    /// Notes that a slice is gone, and all below it with it.
    fn forget(&mut self, manager: Manager, path: &str) {
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        if path == branch.top {
            self.leave(manager);
        } else if branch.slices.contains_key(path) {
            let mut slices: Vec<String> = within(&branch.slices, path).cloned().collect();
            slices.push(path.to_owned());
            // They may be many, so they are looked at when their turn comes.
            branch.touched.extend(within(&branch.selected, path).cloned());
            slices.iter().for_each(|slice| self.drop_slice(manager, slice));
            self.news.work += slices.len() as u64 * work::NAME;
        }
        if manager == Manager::System {
            let prefix = below(path);
            let below = self.branches.iter().filter(|(_, branch)| branch.top.starts_with(&prefix));
            let users: Vec<Manager> = below.map(|(user, _)| *user).collect();
            users.into_iter().for_each(|user| self.leave(user));
        }
    }

    /// Notes that a manager is gone. What was known of it is looked at when its turn comes.
    fn leave(&mut self, manager: Manager) {
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        let left = std::mem::take(branch);
        (branch.owner, branch.top) = (left.owner, left.top.clone());
        branch.touched.extend(left.selected.keys().cloned());
        branch.selected = left.selected.clone();
        if manager == Manager::System {
            // The root may come to be.
            branch.unwatched.insert(String::new());
            branch.rescanned = left.rescanned;
        }
        self.let_go(left);
        self.drop_if_empty(manager);
    }

    /// Gives back what a manager was followed by.
    pub(super) fn let_go(&mut self, branch: Branch) {
        self.listeners.release(branch.owner, branch.slices.into_values().map(|slice| slice.watch));
    }

    /// Forgets a manager that is gone, and of which nothing is left to tell.
    pub(super) fn drop_if_empty(&mut self, manager: Manager) {
        if manager != Manager::System
            && let Some(Branch { slices, selected, touched, .. }) = self.branches.get(&manager)
            && slices.is_empty()
            && selected.is_empty()
            && touched.is_empty()
        {
            self.branches.remove(&manager);
        }
    }

    /// Drops what selectors select no longer, and slices that lead nowhere any more, and has the rest scanned.
    pub(super) fn prune(&mut self, manager: Manager) {
        let wanted = &self.wanted;
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        branch.selected.retain(|path, _| instance(path).is_some_and(|instance| wanted.selects(&instance)));
        let stays = |path: &str| {
            path == branch.top || instance(path).is_some_and(|instance| wanted.enters(&instance))
        };
        let gone: Vec<String> = branch.slices.keys().filter(|path| !stays(path)).cloned().collect();
        gone.iter().for_each(|path| self.drop_slice(manager, path));
        if let Some(branch) = self.branches.get_mut(&manager) {
            for (path, slice) in &mut branch.slices {
                // What was not selected may be now.
                slice.id = None;
                branch.due.insert(path.clone());
            }
        }
    }

    fn drop_slice(&mut self, manager: Manager, path: &str) {
        let Some(branch) = self.branches.get_mut(&manager) else { return };
        let watch = branch.slices.remove(path).and_then(|slice| slice.watch);
        self.listeners.forget(branch.owner, watch);
        branch.due.remove(path);
        branch.unwatched.remove(path);
        branch.beyond.remove(path);
    }
}

impl super::Limits {
    /// What a user would have too much of with one more slice.
    fn excess(&self, branch: &Branch, path: &str) -> Option<String> {
        let depth = path[branch.top.len()..].matches('/').count();
        if depth > self.depth {
            return Some(format!("more than {} slices in one another", self.depth));
        }
        // The first is the manager itself.
        (branch.slices.len() > self.slices).then(|| format!("more than {} slices", self.slices))
    }
}
