//! inotify instances: one for the system's manager, one for each user while there are enough, and one for the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsRawFd,
    path::Path,
};

use inotify::{Inotify, WatchDescriptor, WatchMask};
use litemap::LiteMap;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::Limits;
use crate::{
    gather::Gather,
    model::Manager,
    watch::{readable::Readable, shares::Shares},
};

/// How many of them are asked each time; more than there are.
const MOST: usize = 128;

/// Whose an inotify instance is, and who is served together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    #[default]
    System,
    User(u32),
    /// Users for whom the kernel has no instance left.
    Users,
}

/// An inotify instance, and what its watches are.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) inotify: Inotify,
    pub(super) watches: BTreeMap<WatchDescriptor, (Manager, String)>,
    /// Whether its events are left where they are for now.
    is_paused: bool,
}

impl Listener {
    fn number(&self) -> u64 {
        self.inotify.as_raw_fd() as u64
    }
}

/// All inotify instances, behind one file descriptor.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    pub(super) by_owner: LiteMap<Owner, Listener>,
    /// Nothing if inotify is not to be used.
    epoll: Option<(Epoll, Readable)>,
    is_shared: bool,
}

impl Listeners {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = Readable::of(&epoll.0)?;
        let mut listeners = Self::default();
        listeners.epoll = Some((epoll, readable));
        // While there is one to be had; if there is none, the first watch tries again.
        let _ = listeners.open(Owner::System).and_then(|()| listeners.open(Owner::Users));
        Ok(listeners)
    }

    pub(super) fn hear(&self) -> bool {
        self.epoll.is_some()
    }

    pub(super) fn readable(&self) -> Option<&Readable> {
        self.epoll.as_ref().map(|(_, readable)| readable)
    }

    /// Opens the instance of an owner.
    fn open(&mut self, owner: Owner) -> io::Result<()> {
        let Some((epoll, _)) = &self.epoll else { return Ok(()) };
        let listener = Listener { inotify: Inotify::init()?, watches: BTreeMap::new(), is_paused: false };
        epoll.add(&listener.inotify, EpollEvent::new(EpollFlags::EPOLLIN, listener.number()))?;
        self.by_owner.insert(owner, listener);
        Ok(())
    }

    /// The instance for a manager.
    pub(super) fn assign(&mut self, manager: Manager, limits: &Limits, notices: &mut Vec<String>) -> Owner {
        let Manager::User(uid) = manager else { return Owner::System };
        let owner = Owner::User(uid);
        // Two are not a user's.
        let opened = if self.by_owner.len() < limits.listeners + 2 {
            self.open(owner).map_err(|error| format!("{error}; see fs.inotify.max_user_instances"))
        } else {
            Err(format!("{} users have one", limits.listeners))
        };
        let Err(reason) = opened else { return owner };
        if !std::mem::replace(&mut self.is_shared, true) {
            notices
                .push(format!("no inotify instance for user {uid}: {reason}. From now on users share one"));
        }
        Owner::Users
    }

    /// Gives back what a manager was followed by.
    pub(super) fn release(&mut self, owner: Owner, watches: impl Iterator<Item = Option<WatchDescriptor>>) {
        if !matches!(owner, Owner::User(_)) {
            watches.for_each(|watch| self.forget(owner, watch));
        } else if let Some(listener) = self.by_owner.remove(&owner) {
            if let Some((epoll, _)) = &self.epoll {
                let _ = epoll.delete(&listener.inotify);
            }
            // Closing it waits for all who look at watches in the kernel, for 20 ms at worst.
            tokio::task::spawn_blocking(move || drop(listener));
        }
    }

    /// Gives back a watch.
    pub(super) fn forget(&mut self, owner: Owner, watch: Option<WatchDescriptor>) {
        if let Some(listener) = self.by_owner.get_mut(&owner)
            && let Some(watch) = watch
            && listener.watches.remove(&watch).is_some()
        {
            // It fails if the directory is gone, and the watch with it.
            let _ = listener.inotify.watches().remove(watch);
        }
    }

    /// Watches a directory, unless nothing is to be heard. The number of a watch stays the same as long as the
    /// directory is the same.
    pub(super) fn watch(&mut self, owner: Owner, directory: &Path) -> io::Result<Option<WatchDescriptor>> {
        if !self.by_owner.contains_key(&owner) {
            self.open(owner)?;
        }
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR | WatchMask::DONT_FOLLOW;
        let listener = self.by_owner.get(&owner);
        listener.map(|listener| listener.inotify.watches().add(directory, mask)).transpose()
    }

    /// Leaves the events of those who must wait where they are: they no longer wake anybody.
    pub(super) fn pause(&mut self, shares: &Shares<Owner>) {
        let Some((epoll, _)) = &self.epoll else { return };
        for (owner, listener) in &mut self.by_owner {
            let pauses = !shares.may_work(*owner);
            if std::mem::replace(&mut listener.is_paused, pauses) != pauses {
                let flags = if pauses { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
                let _ = epoll.modify(&listener.inotify, &mut EpollEvent::new(flags, listener.number()));
            }
        }
    }

    /// Those that have something to read and are not paused.
    pub(super) fn pending(&self) -> BTreeSet<Owner> {
        let Some((epoll, readable)) = &self.epoll else { return BTreeSet::new() };
        let wait = || {
            let mut events = [EpollEvent::empty(); MOST];
            let count = epoll.wait(&mut events, EpollTimeout::ZERO)?;
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let numbers: BTreeSet<u64> = events[..count].iter().map(EpollEvent::data).gather();
            let pending = self.by_owner.iter().filter(|(_, one)| numbers.contains(&one.number()));
            Ok(pending.map(|(owner, _)| *owner).gather())
        };
        wait().or_else(|_: io::Error| readable.read(wait)).unwrap_or_default()
    }
}

impl Drop for Listeners {
    /// Closes them side by side: each takes up to 20 ms, and systemd waits for the daemon's end.
    fn drop(&mut self) {
        std::thread::scope(|scope| {
            for (_, listener) in std::mem::take(&mut self.by_owner) {
                let _ = std::thread::Builder::new().spawn_scoped(scope, move || drop(listener));
            }
        });
    }
}
