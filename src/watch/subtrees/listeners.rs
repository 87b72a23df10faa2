//! inotify instances: one for the system's manager, one for each user while there are enough, and one for the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use inotify::{Inotify, WatchDescriptor, WatchMask};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Limits, News};
use crate::{model::Manager, watch::readable::Readable};

/// How many of them are asked each time; more than there are.
const MOST: usize = 128;

/// Whose an inotify instance is, and who is served together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    System,
    User(u32),
    /// Users for whom the kernel has no instance left.
    Users,
}

impl Owner {
    pub(super) fn number(self) -> u64 {
        match self {
            Self::System => u64::MAX - 1,
            Self::User(uid) => uid.into(),
            Self::Users => u64::MAX,
        }
    }

    pub(super) fn of(number: u64) -> Self {
        match u32::try_from(number) {
            Ok(uid) => Self::User(uid),
            Err(_) if number == u64::MAX => Self::Users,
            Err(_) => Self::System,
        }
    }
}

/// An inotify instance, and what its watches are.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) inotify: Inotify,
    pub(super) watches: BTreeMap<i32, (Manager, String)>,
    /// Whether its events are left where they are for now.
    is_paused: bool,
}

impl Listener {
    pub(super) fn forget(&mut self, descriptor: Option<WatchDescriptor>) {
        let Some(descriptor) = descriptor else { return };
        if self.watches.remove(&descriptor.get_watch_descriptor_id()).is_some() {
            // It fails if the directory is gone, and the watch with it.
            let _ = self.inotify.watches().remove(descriptor);
        }
    }
}

/// All inotify instances, behind one file descriptor.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) by_owner: BTreeMap<Owner, Listener>,
    /// Nothing if inotify is not to be used.
    epoll: Option<(Epoll, Readable)>,
    is_shared: bool,
}

impl Listeners {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = Readable::of(&epoll.0)?;
        let mut listeners = Self::none();
        listeners.epoll = Some((epoll, readable));
        listeners.open(Owner::System)?;
        // While there is one to be had.
        listeners.open(Owner::Users)?;
        Ok(listeners)
    }

    /// Hears nothing and watches nothing.
    pub(super) fn none() -> Self {
        Self { by_owner: BTreeMap::new(), epoll: None, is_shared: false }
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
        let inotify = Inotify::init()?;
        epoll.add(&inotify, EpollEvent::new(EpollFlags::EPOLLIN, owner.number()))?;
        self.by_owner.insert(owner, Listener { inotify, watches: BTreeMap::new(), is_paused: false });
        Ok(())
    }

    /// The instance for a manager.
    pub(super) fn assign(&mut self, manager: Manager, limits: &Limits, news: &mut News) -> Owner {
        let Manager::User(uid) = manager else { return Owner::System };
        let owner = Owner::User(uid);
        // Two are not a user's.
        let opened = if self.by_owner.len() < limits.listeners + 2 {
            self.open(owner)
        } else {
            Err(io::ErrorKind::QuotaExceeded.into())
        };
        match opened {
            Ok(()) => owner,
            Err(error) => {
                if !std::mem::replace(&mut self.is_shared, true) {
                    let reason = match error.raw_os_error() {
                        Some(_) => format!(
                            "no inotify instance for user {uid}: {error}; see fs.inotify.max_user_instances"
                        ),
                        None => {
                            format!("no inotify instance for user {uid}: {} users have one", limits.listeners)
                        }
                    };
                    news.notices.push(format!("{reason}. From now on users share one"));
                }
                Owner::Users
            }
        }
    }

    /// Gives back what a manager was followed by.
    pub(super) fn release(&mut self, owner: Owner, watches: impl Iterator<Item = Option<WatchDescriptor>>) {
        if let Owner::User(_) = owner {
            let Some(listener) = self.by_owner.remove(&owner) else { return };
            if let Some((epoll, _)) = &self.epoll {
                let _ = epoll.delete(&listener.inotify);
            }
            // Closing it waits for all who look at watches in the kernel, for 20 ms at worst.
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || drop(listener))),
                Err(_) => drop(listener),
            }
        } else if let Some(listener) = self.by_owner.get_mut(&owner) {
            watches.for_each(|watch| listener.forget(watch));
        }
    }

    /// Watches a directory, unless nothing is to be heard. The number of a watch stays the same as long as the
    /// directory is the same.
    pub(super) fn watch(&mut self, owner: Owner, directory: &Path) -> io::Result<Option<WatchDescriptor>> {
        let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR | WatchMask::DONT_FOLLOW;
        let listener = self.by_owner.get(&owner);
        listener.map(|listener| listener.inotify.watches().add(directory, mask)).transpose()
    }

    /// Leaves the events of some where they are: they no longer wake anybody.
    pub(super) fn pause(&mut self, is_paused: impl Fn(Owner) -> bool) {
        let Some((epoll, _)) = &self.epoll else { return };
        for (owner, listener) in &mut self.by_owner {
            let pauses = is_paused(*owner);
            if std::mem::replace(&mut listener.is_paused, pauses) != pauses {
                let flags = if pauses { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
                let _ = epoll.modify(&listener.inotify, &mut EpollEvent::new(flags, owner.number()));
            }
        }
    }

    /// Those that have something to read and are not paused.
    pub(super) fn pending(&self) -> BTreeSet<Owner> {
        let Some((epoll, readable)) = &self.epoll else { return BTreeSet::new() };
        let wait = || {
            let mut events = [EpollEvent::empty(); MOST];
            match epoll.wait(&mut events, EpollTimeout::ZERO)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                count => Ok(events[..count].iter().map(|event| Owner::of(event.data())).collect()),
            }
        };
        wait().or_else(|_: io::Error| readable.read(wait)).unwrap_or_default()
    }
}

impl Drop for Listeners {
    /// Closes them side by side: each takes up to 20 ms, and systemd waits for the daemon's end.
    fn drop(&mut self) {
        std::thread::scope(|scope| {
            for listener in std::mem::take(&mut self.by_owner).into_values() {
                let _ = std::thread::Builder::new().spawn_scoped(scope, move || drop(listener));
            }
        });
    }
}
