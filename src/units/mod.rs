//! WHOSE. Which manager made a cgroup and for which unit, and what selects units. Pure.

mod instance;
pub(crate) mod places;
pub mod selector;

pub use selector::{Selector, Selectors, Users};
