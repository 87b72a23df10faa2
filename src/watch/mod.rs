//! SOURCES. Where the daemon learns that something changed. None of them decides anything.

pub mod answers;
pub mod cgroups;
pub mod conversation;
pub mod dbus;
pub mod entry;
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

use std::{io, path::Path};

use inotify::Inotify;

use crate::model::{UnitName, UnitState};

/// What helps when the kernel refuses a watch, an inotify instance or a file descriptor.
fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::ENOSPC => Some("raise fs.inotify.max_user_watches"),
        libc::EMFILE => Some("raise fs.inotify.max_user_instances or LimitNOFILE= of scnpm.service"),
        libc::ENFILE => Some("raise fs.file-max"),
        _ => None,
    }
}

/// An error and what helps, if something does.
fn with_remedy(error: &io::Error) -> String {
    remedy(error).map_or_else(|| error.to_string(), |remedy| format!("{error}; {remedy}"))
}

/// That a directory cannot be watched, or looked at, and what helps. It is looked at once a second until it can be.
fn notice(directory: &Path, verb: &str, error: &io::Error) -> String {
    let remedy = remedy(error).unwrap_or("units may be found up to a second late");
    format!("{} cannot be {verb}: {error}; {remedy}", directory.display())
}

/// An inotify instance, and when it has something to read. Must be called within a tokio runtime.
fn inotify() -> io::Result<(Inotify, readable::Readable)> {
    let inotify = Inotify::init()?;
    let readable = readable::Readable::of(&inotify)?;
    Ok((inotify, readable))
}

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
