//! SOURCES. Where the daemon learns that something changed. None of them decides anything.

pub mod cgroups;
pub mod dbus;
pub mod files;
pub mod hosts;
pub mod journal;
pub mod pages;
pub mod readable;
pub mod reader;
pub mod resolver;
pub mod schedule;
pub(crate) mod shares;
pub mod sigbus;
pub mod subtrees;
