//! EFFECTS. The kernel's nftables: libnftables in process, and a little nfnetlink.

pub mod complaint;
pub mod kernel;
pub mod learning;
pub mod libnftables;
mod listing;
pub(crate) mod message;
pub mod monitor;
pub mod netlink;
pub mod probe;
pub mod recording;
pub mod routing;
pub mod sock_diag;
pub mod trace;

pub use complaint::{Complaint, FileComplaint};
pub use kernel::{ElementChange, Kernel, Nftables, is_passing, words_of};
pub use monitor::{Change, Interest, RulesetMonitor};
pub use netlink::Content;
pub use recording::{Recording, Surroundings};
