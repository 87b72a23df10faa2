//! SOURCES. Where the daemon learns that something changed. None of them decides anything.

pub mod cgroups;
pub mod dbus;
pub mod files;
pub mod journal;
pub mod pages;
pub mod readable;
pub mod reader;
pub mod resolver;
pub mod schedule;
pub(crate) mod shares;
pub mod sigbus;
pub mod subtrees;

use crate::model::{UnitName, UnitState};

/// What systemd says of units, on the bus or in the journal; or about what it is heard by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// News come from now on, and may have been missed before. On the bus the states of all units of interest follow.
    Resumed,
    /// Something happened to the unit; on the bus: a job of it began or ended.
    Changed(UnitName),
    /// A job of the unit ended with the result `done`.
    JobDone(UnitName),
    /// What the unit is, or was when it was written. Of one that is not loaded: not active.
    State(UnitName, UnitState),
    /// Nothing can be heard, for this reason. It is tried again.
    Lost(String),
}
