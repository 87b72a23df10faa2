//! EFFECTS. The kernel's nftables: libnftables in process, a little nfnetlink, and a twin for tests.

pub mod json;
pub mod kernel;
pub mod libnftables;
pub mod netlink;
pub mod twin;

pub use kernel::{AddError, Complaint, Kernel, Nftables};
