//! SOURCES. Where the daemon learns that something changed. None of them decides anything.

pub mod cgroups;
pub mod dbus;
pub mod hosts;
pub mod journal;
pub mod readable;
pub mod sigbus;
pub mod units;
