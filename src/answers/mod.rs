//! What a resolver answered, and the sets that are filled with it. Pure.
//!
//! [`reply`] reads what systemd-resolved says of its answers, [`book`] decides which addresses are to be in which set, and for
//! how long.

pub mod book;
pub mod reply;

pub use book::{Book, Change, Kept, Version};
pub use reply::{Answer, Reply};
