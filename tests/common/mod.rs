//! What the kernel tests share.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod policy;
pub mod sandbox;

/// A table of the family inet.
pub fn table(name: &str) -> scnpm::model::TableRef {
    scnpm::model::TableRef { family: scnpm::model::Family::Inet, name: name.into() }
}
