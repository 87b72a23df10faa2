//! EFFECTS. The kernel's nftables: libnftables in process, a little nfnetlink, and a fake for tests.

pub mod complaint;
pub mod fake;
pub mod kernel;
pub mod libnftables;
pub(crate) mod message;
pub mod monitor;
pub mod netlink;
pub mod probe;

pub use complaint::{Complaint, FileComplaint};
pub use kernel::{ElementChange, Kernel, Nftables, is_passing, words_of};
pub use monitor::{Change, Interest, RulesetMonitor};
