//! inotify instances: one for the system's manager, one for each user while there are enough, and one for the others.

use std::{collections::BTreeMap, io};

use inotify::{Inotify, WatchDescriptor};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Limits, News};
use crate::{model::Manager, watch::readable::Readable};

/// How many of them are read each time.
const EARS_AT_ONCE: usize = 8;

/// Whose an inotify instance is.
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
pub(super) struct Ear {
    pub(super) inotify: Inotify,
    pub(super) watches: BTreeMap<i32, (Manager, String)>,
}

impl Ear {
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
pub(super) struct Ears {
    pub(super) by_owner: BTreeMap<Owner, Ear>,
    epoll: Epoll,
    pub(super) readable: Readable,
    is_shared: bool,
}

impl Ears {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = Readable::of(&epoll.0)?;
        let mut ears = Self { by_owner: BTreeMap::new(), epoll, readable, is_shared: false };
        ears.open(Owner::System)?;
        // While there is one to be had.
        ears.open(Owner::Users)?;
        Ok(ears)
    }

    fn open(&mut self, owner: Owner) -> io::Result<()> {
        let inotify = Inotify::init()?;
        self.epoll.add(&inotify, EpollEvent::new(EpollFlags::EPOLLIN, owner.number()))?;
        self.by_owner.insert(owner, Ear { inotify, watches: BTreeMap::new() });
        Ok(())
    }

    /// The instance for a manager.
    pub(super) fn assign(&mut self, manager: Manager, limits: &Limits, news: &mut News) -> Owner {
        let Manager::User(uid) = manager else { return Owner::System };
        let owner = Owner::User(uid);
        // Two are not a user's.
        let opened = if self.by_owner.len() < limits.ears + 2 {
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
                        None => format!("no inotify instance for user {uid}: {} users have one", limits.ears),
                    };
                    news.notices.push(format!("{reason}. From now on users share one"));
                }
                Owner::Users
            }
        }
    }

    /// Gives back what a manager was followed by.
    pub(super) fn release(&mut self, owner: Owner, watches: impl Iterator<Item = Option<WatchDescriptor>>) {
        if let Owner::User(_) = owner
            && let Some(ear) = self.by_owner.remove(&owner)
        {
            let _ = self.epoll.delete(&ear.inotify);
            // Closing it waits for all who look at watches in the kernel, for 20 ms at worst.
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || drop(ear))),
                Err(_) => drop(ear),
            }
        } else if let Some(ear) = self.by_owner.get_mut(&owner) {
            watches.for_each(|watch| ear.forget(watch));
        }
    }

    /// Those that have something to read: some of them, and others the next time.
    pub(super) fn pending(&self) -> Vec<Owner> {
        let wait = || {
            let mut events = [EpollEvent::empty(); EARS_AT_ONCE];
            match self.epoll.wait(&mut events, EpollTimeout::ZERO)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                count => Ok(events[..count].iter().map(|event| Owner::of(event.data())).collect()),
            }
        };
        wait().or_else(|_: io::Error| self.readable.read(wait)).unwrap_or_default()
    }
}
