//! WHY. Why packets of a process, a unit or a socket pass or not: facts in, an answer out. Pure.
//!
//! ```text
//! what is asked ──► subject ──► facts of the machine: processes, sockets, cgroups   (machine, nft::sock_diag, cgroupfs)
//!                                 │
//! policy, dispatch, elements ─────┴──► block: cgroup, processes, sockets, annotations ──► answer
//!                                                                                          ▲
//! trace events of a probe, or the ruleset as it reads ──► path ──► verdict ────────────────┘
//! ```
//!
//! [`facts`] are what the machine says, [`annotations`] says of each annotation whether it matches a cgroup and why not,
//! [`containers`] what there is to say of those, [`ruleset`] is the ruleset as it is loaded, [`path`] is a packet's way through it as it
//! was traced, [`reading`] as it reads.

pub mod annotations;
pub mod containers;
pub mod facts;
pub mod path;
pub mod reading;
pub mod ruleset;
pub mod subject;

use serde::Serialize;

use crate::model::{CgroupId, CgroupPath, Instance, Manager};
pub use annotations::{About, Judge};
pub use facts::{Process, Socket};
pub use path::{Outcome, Path};

/// The answer. docs/explain.md has its schema, which only grows.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Changes when a program that reads the object would have to.
    pub version: u32,
    /// What was asked for was taken for this: `pid`, `port`, `address` or `unit`.
    pub taken_for: &'static str,
    /// The files whose annotations are meant.
    pub files: Vec<String>,
    /// What was found, one by one.
    pub subjects: Vec<Block>,
    /// The way of the packet that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<Packet>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// A process, a unit, or the cgroup of a socket.
#[derive(Debug, Clone, Serialize)]
pub struct Block {
    /// What to call it.
    pub name: String,
    /// Its cgroup, if it has one.
    pub cgroup: Option<Cgroup>,
    /// Its processes.
    pub processes: Vec<ShownProcess>,
    /// How many more there are.
    pub more_processes: usize,
    /// Its sockets.
    pub sockets: Vec<ShownSocket>,
    /// How many more there are.
    pub more_sockets: usize,
    /// The annotations that are about it, or nearly so.
    pub annotations: Vec<About>,
    /// How many others there are.
    pub other_annotations: usize,
    /// What else there is to know.
    pub notes: Vec<String>,
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cgroup {
    /// Its path below /sys/fs/cgroup.
    pub path: String,
    /// Its level.
    pub level: usize,
    /// Its id; none if it is gone.
    pub id: Option<CgroupId>,
    /// The unit that it is of.
    pub unit: Option<String>,
    /// `system`, or the number of the user whose manager it is.
    pub manager: Option<String>,
    /// The application.
    pub app: Option<String>,
}

impl Cgroup {
    /// Of a cgroup with this id.
    pub fn of(path: &CgroupPath, id: Option<CgroupId>) -> Self {
        let instance = unit_of(path);
        Self {
            path: path.to_string(),
            level: path.components().count(),
            id,
            unit: instance.as_ref().map(|instance| instance.unit.to_string()),
            manager: instance.as_ref().map(|instance| match instance.manager {
                Manager::System => "system".to_owned(),
                Manager::User(uid) => uid.to_string(),
            }),
            app: instance.and_then(|instance| crate::units::selector::app_id(&instance.unit.0)),
        }
    }
}

/// The unit of a cgroup, or of the nearest one that it is in.
pub fn unit_of(path: &CgroupPath) -> Option<Instance> {
    annotations::instances(path).pop()
}

/// A process as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownProcess {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its command line.
    pub command: String,
    /// The number of its user.
    pub uid: u32,
    /// The name of its user.
    pub user: Option<String>,
}

/// A socket as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownSocket {
    /// `tcp`, `udp` and so on.
    pub protocol: &'static str,
    /// Its address and port.
    pub local: String,
    /// The other end's, if it is connected.
    pub remote: Option<String>,
    /// Its state, in words.
    pub state: &'static str,
    /// The number of its user.
    pub uid: u32,
    /// The processes that have it open.
    pub pids: Vec<u32>,
    /// The path of its cgroup, which rules see.
    pub cgroup: Option<String>,
    /// The id of that.
    pub cgroup_id: Option<CgroupId>,
    /// Whether it was made in another cgroup than the one of the process that has it.
    pub made_elsewhere: bool,
    /// What there is to say of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Serialize)]
pub struct Packet {
    /// The host as it was asked for.
    pub host: String,
    /// The address.
    pub address: String,
    /// The other addresses of the host.
    pub other_addresses: Vec<String>,
    /// The port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The cgroup that it comes from.
    pub cgroup: Option<String>,
    /// Why no packet was traced, if none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untraced: Option<String>,
    /// Its way.
    #[serde(flatten)]
    pub path: Path,
    /// Annotations that would let it through, if it does not pass.
    pub would_pass: Vec<String>,
}
