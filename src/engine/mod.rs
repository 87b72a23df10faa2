//! EVENTS -> ACTIONS. What should be in the kernel, what is, and the difference.
//!
//! Pure: no I/O, no clock (the caller says what time it is), ordered maps only.

pub mod action;
pub mod event;

pub use action::Action;
pub use event::{Event, Outcome};
