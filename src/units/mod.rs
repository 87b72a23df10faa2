//! WHOSE. Which manager made a cgroup and for which unit, and what selects units. Pure.

pub mod container;
pub mod escape;
pub mod files;
pub mod fleeting;
mod instance;
pub(crate) mod places;
pub mod selector;
pub mod shared;
pub mod transient;
pub mod waiting;

pub use files::{UnitFile, Units};
pub use selector::{Selector, Selectors, Users};
