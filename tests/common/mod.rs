//! What the kernel tests share.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod policy;
pub mod sandbox;
