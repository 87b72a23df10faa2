//! The checks of the fuzz targets, for cargo's tests, too. Each takes the bytes of an input.

#![allow(unreachable_pub)]

pub mod control;
pub mod dbus;
pub mod journal;
pub mod netlink;
pub mod selectors;
pub mod state_log;

/// The parts of an input, each with its length in front, in two bytes, the low one first. The last one may be cut short.
fn frames(mut input: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        found.push(&rest[..length]);
        input = &rest[length..];
    }
    found
}
