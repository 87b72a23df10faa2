//! What is known of the machine's units.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{CgroupPath, UnitName};

/// The machine's units: the system's and those of all users.
#[derive(Debug, Clone, Default)]
pub struct Units {
    /// Unit files by name, templates (`foo@.service`) and aliases included. Empty where there is no systemd.
    pub files: BTreeMap<UnitName, UnitFile>,
    /// The cgroups that exist, by the last name in their path, as far as that has a unit's type.
    pub running: BTreeMap<UnitName, BTreeSet<CgroupPath>>,
}

/// What is of interest in a unit file and its drop-ins (systemd.unit(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFile {
    /// Whether it was read; of the others nothing but the name is known.
    pub is_read: bool,
    /// `Slice=`, specifiers (`%i`) and all.
    pub slice: Option<String>,
    /// The addresses of `ListenStream=`, `ListenDatagram=` and `ListenSequentialPacket=` that are of the network: no
    /// file, no abstract socket, no vsock.
    pub listens_on: Vec<String>,
    /// `Service=` of a socket unit.
    pub service: Option<UnitName>,
    /// Whether another unit wants or requires it (a link in a `.wants` or `.requires` directory).
    pub is_wanted: bool,
}
