//! The checks of the fuzz targets, for cargo's tests, too. Each takes the bytes of an input.

#![allow(unreachable_pub)]

pub mod dbus;
pub mod journal;
pub mod netlink;
pub mod selectors;
pub mod state_log;
