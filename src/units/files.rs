//! What is known of the machine's unit files and running units.

use std::collections::{BTreeMap, BTreeSet};

use super::places::template;
use crate::model::{CgroupPath, UnitName};

/// The machine's units: the system's and those of all users.
#[derive(Debug, Clone, Default)]
pub struct Units {
    /// Unit files by name, templates (`foo@.service`) and aliases included. Empty where there is no systemd.
    pub files: BTreeMap<UnitName, UnitFile>,
    /// Those of users' managers, whether or not the system has one of the name.
    pub of_users: BTreeMap<UnitName, UnitFile>,
    /// The ids of installed applications, as far as they have .desktop files.
    pub apps: BTreeSet<String>,
    /// The ids of those of them that the session's bus can start and then starts in its own unit.
    pub bus_started: BTreeSet<String>,
    /// The cgroups that exist, by the last name in their path, as far as that has a unit's type.
    pub running: BTreeMap<UnitName, BTreeSet<CgroupPath>>,
    /// Whether processes have numbers of cgroup v1, which `meta cgroup` compares: net_cls is mounted.
    pub has_class_ids: bool,
}

/// What is of interest in a unit file and its drop-ins (systemd.unit(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFile {
    /// Whether only users' managers have it.
    pub is_users: bool,
    /// Whether it was read; of the others nothing but the name is known.
    pub is_read: bool,
    /// The unit that the file is a link to, whose other name this is.
    pub alias_of: Option<UnitName>,
    /// `Slice=`, specifiers (`%i`) and all.
    pub slice: Option<String>,
    /// The addresses of `ListenStream=`, `ListenDatagram=` and `ListenSequentialPacket=` that are of the network: no
    /// file, no abstract socket, no vsock.
    pub listens_on: Vec<String>,
    /// `Service=` of a socket unit.
    pub service: Option<UnitName>,
    /// The last `ExecStart=` of a service, as it is written.
    pub command: Option<String>,
    /// Of an instance of systemd-nspawn@.service: the text of its machine's .nspawn file, empty if there is none. None if that
    /// cannot be told.
    pub machine: Option<String>,
    /// Whether it may start before the system is set up: `DefaultDependencies=no`.
    pub is_early: bool,
    /// Whether another unit wants or requires it (a link in a `.wants` or `.requires` directory).
    pub is_wanted: bool,
}

impl Units {
    /// What is known of a unit's files: its own, and its template's if it is an instance.
    pub(crate) fn files_of(&self, unit: &UnitName) -> impl Iterator<Item = &UnitFile> {
        files_of(&self.files, unit)
    }

    /// The same, of a user's manager.
    pub(crate) fn users_files_of(&self, unit: &UnitName) -> impl Iterator<Item = &UnitFile> {
        files_of(&self.of_users, unit)
    }

    /// The name that a unit's cgroup has, if this is another one of the same unit.
    pub(crate) fn own_name<'a>(&'a self, unit: &'a UnitName) -> &'a UnitName {
        self.files.get(unit).and_then(|file| file.alias_of.as_ref()).unwrap_or(unit)
    }

    /// Whether there is a unit of this name, as far as is known.
    pub(crate) fn knows(&self, unit: &UnitName) -> bool {
        self.files_of(unit).next().is_some() || self.running.contains_key(unit)
    }

    /// Whether a unit runs, under this name or the one that its cgroup has.
    pub fn runs(&self, unit: &UnitName) -> bool {
        self.cgroups_of(self.own_name(unit)).next().is_some()
    }

    /// The cgroups that exist of a unit. systemd puts a `_` in front of few names.
    pub(crate) fn cgroups_of(&self, unit: &UnitName) -> impl Iterator<Item = &CgroupPath> {
        let escaped = UnitName(format!("_{unit}").into());
        self.running.get(unit).into_iter().chain(self.running.get(&escaped)).flatten()
    }
}

fn files_of<'a>(
    files: &'a BTreeMap<UnitName, UnitFile>,
    unit: &UnitName,
) -> impl Iterator<Item = &'a UnitFile> + use<'a> {
    let template = template(&unit.0).map(|name| UnitName(name.into()));
    files.get(unit).into_iter().chain(template.and_then(|template| files.get(&template)))
}
