//! What goes over the wire. io.scnpm.varlink has the meaning of each field.

use std::net::IpAddr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, value::RawValue};

use super::INTERFACE;
use crate::model::{Direction, Location};

/// A call, as it comes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The method with its interface.
    pub method: String,
    /// Its parameters.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Whether more than one reply is wanted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    /// Whether no reply is wanted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub oneway: bool,
    /// Whether the connection is to become another one. That is never done here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub upgrade: bool,
}

// What serde calls has a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

/// A reply, as it goes or comes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The error with its interface, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The method's or the error's parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Box<RawValue>>,
    /// Whether there are more to come.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continues: bool,
}

/// A method of the interface with its parameters.
pub trait Method: Serialize {
    /// Its name.
    const NAME: &'static str;
    /// The names of its parameters.
    const PARAMETERS: &'static [&'static str];
    /// What it replies.
    type Reply: DeserializeOwned;

    /// The call of it.
    ///
    /// # Errors
    /// Its parameters are no JSON object.
    fn call(&self, more: bool) -> serde_json::Result<Call> {
        let parameters = serde_json::from_value(serde_json::to_value(self)?)?;
        let method = format!("{INTERFACE}.{}", Self::NAME);
        Ok(Call { method, parameters, more, oneway: false, upgrade: false })
    }
}

/// Parameters of `GetStatus`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetStatus {
    /// Only units that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

impl Method for GetStatus {
    const NAME: &'static str = "GetStatus";
    const PARAMETERS: &'static [&'static str] = &["unit"];
    type Reply = StatusReply;
}

/// What `GetStatus` replies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// How things stand.
    pub status: Status,
}

/// Parameters of `Wait`: one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// A path below /sys/fs/cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// A unit or a selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

impl Method for Wait {
    const NAME: &'static str = "Wait";
    const PARAMETERS: &'static [&'static str] = &["cgroup", "unit"];
    type Reply = Waited;
}

/// What `Wait` replies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// The annotations that are about it.
    pub annotations: Vec<Location>,
    /// What nft or the kernel refuses of them.
    pub refused: Vec<String>,
}

/// Parameters of `Reload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// For how long the new policy is on trial, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub try_ms: Option<u64>,
    /// Whether the text has colours.
    #[serde(default)]
    pub color: bool,
}

impl Method for Reload {
    const NAME: &'static str = "Reload";
    const PARAMETERS: &'static [&'static str] = &["try_ms", "color"];
    type Reply = Reloaded;
}

/// What `Reload` replies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether the new policy is in force.
    pub loaded: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// What is wrong in the files.
    pub findings: Vec<Finding>,
    /// The same for people.
    pub text: String,
}

/// Parameters of `Confirm`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {}

impl Method for Confirm {
    const NAME: &'static str = "Confirm";
    const PARAMETERS: &'static [&'static str] = &[];
    type Reply = Nothing;
}

/// Parameters of `Revert`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revert {}

impl Method for Revert {
    const NAME: &'static str = "Revert";
    const PARAMETERS: &'static [&'static str] = &[];
    type Reply = Nothing;
}

/// Parameters of `GetRefusals`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRefusals {
    /// Only units that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Only what came later than this, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

impl Method for GetRefusals {
    const NAME: &'static str = "GetRefusals";
    const PARAMETERS: &'static [&'static str] = &["unit", "since"];
    type Reply = Refusals;
}

/// What `GetRefusals` replies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// In the order of time.
    pub refusals: Vec<Refusal>,
}

/// Packets that were refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// When the last one came, in microseconds since 1970.
    pub at: u64,
    /// The unit, unless its cgroup was gone before anybody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The user whose manager or session has the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The id of the application that the unit is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// What selects the unit, or its application, and nobody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The socket's cgroup, as a path below /sys/fs/cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Its id.
    pub cgroup_id: u64,
    /// Which way they went.
    pub direction: Direction,
    /// The protocol by its name in protocols(5), or by its number.
    pub protocol: String,
    /// The other side's address.
    pub address: IpAddr,
    /// The port that they went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The type of ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// A name in the policy that has this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How many there were.
    pub packets: u64,
    /// The chain that they came to: `FAMILY TABLE CHAIN`.
    pub chain: String,
    /// What would let such packets through, as a line to be copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotation: Option<String>,
}

#[cfg(test)]
impl Refusal {
    /// One of a unit of the system, for tests to begin with.
    pub(crate) fn example() -> Self {
        Self {
            at: 0,
            unit: Some("postfix.service".to_owned()),
            uid: None,
            app: None,
            selector: Some("system:postfix.service".to_owned()),
            cgroup: Some("system.slice/postfix.service".to_owned()),
            cgroup_id: 7,
            direction: Direction::Out,
            protocol: "tcp".to_owned(),
            address: std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
            port: Some(25),
            icmp_type: None,
            host: None,
            packets: 1,
            chain: "inet filter refused".to_owned(),
            annotation: None,
        }
    }
}

/// Parameters of `Allow`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// A unit or a selector.
    #[serde(default)]
    pub unit: String,
    /// An address, a prefix, or the name of a host.
    #[serde(default)]
    pub address: String,
    /// A protocol; without, all are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The port; without, all are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Which way; out if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// For how long, in ms.
    #[serde(default)]
    pub for_ms: u64,
}

impl Method for Allow {
    const NAME: &'static str = "Allow";
    const PARAMETERS: &'static [&'static str] =
        &["unit", "address", "protocol", "port", "direction", "for_ms"];
    type Reply = Allowed;
}

/// What `Allow` replies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// What is allowed now.
    pub allowance: Allowance,
}

/// What is allowed for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Its number.
    pub number: u64,
    /// The annotation that says it.
    pub annotation: String,
    /// How long it still holds, in ms.
    pub left_ms: u64,
}

/// Parameters of `Disallow`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disallow {
    /// Which; without, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
}

impl Method for Disallow {
    const NAME: &'static str = "Disallow";
    const PARAMETERS: &'static [&'static str] = &["number"];
    type Reply = Disallowed;
}

/// What `Disallow` replies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disallowed {
    /// How many were ended.
    pub ended: usize,
}

/// No parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// How things stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The files of the policy.
    pub files: Vec<File>,
    /// When they were loaded, in microseconds since 1970.
    pub loaded_at: u64,
    /// Why the last load failed, if it did and the old policy stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_error: Option<String>,
    /// How long the policy is still on trial, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_trial_ms: Option<u64>,
    /// How many annotations there are.
    pub annotations: usize,
    /// How many errors were found in the files.
    pub errors: usize,
    /// How many warnings.
    pub warnings: usize,
    /// What was found, bounded.
    pub findings: Vec<Finding>,
    /// Where the daemon hears of changes.
    pub sources: Vec<Source>,
    /// The host names in the policy.
    pub hosts: Vec<Host>,
    /// The units that match.
    pub units: Vec<Unit>,
    /// What is allowed for a while.
    #[serde(default)]
    pub allowances: Vec<Allowance>,
    /// Elements that are due.
    pub due: usize,
    /// Elements that the kernel has of these.
    pub in_kernel: usize,
    /// Whether all is in force.
    pub in_force: bool,
    /// What is not.
    pub problems: Vec<String>,
}

/// A file of the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its path.
    pub path: String,
    /// Whether it says something else now.
    pub changed: bool,
}

/// Something that is wrong in the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its code.
    pub code: String,
    /// `error` or `warning`.
    pub severity: String,
    /// What is wrong.
    pub message: String,
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
    /// The unit of the annotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Where the daemon hears of changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `cgroup`, `dbus`, `journal`, or `answers` (of systemd-resolved), which is there while sets are filled with addresses of names.
    pub name: String,
    /// `working`, `lost` or `off`.
    pub state: String,
    /// Why it is lost; of `answers` that work, how many addresses there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// How often it was the first to tell.
    pub first: u64,
    /// The median from being heard to the rule in the kernel, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_us: Option<u64>,
    /// The longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_us: Option<u64>,
}

/// A host name in the policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Why it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
}

/// A cgroup of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its path below /sys/fs/cgroup.
    pub path: String,
    /// Its id.
    pub id: u64,
    /// Elements that are due for it.
    pub due: usize,
    /// Elements that the kernel has of these.
    pub in_kernel: usize,
}

/// What annotations say of a unit, or of those that a selector selects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The unit or selector, as it is written.
    pub name: String,
    /// Where the annotations stand.
    pub annotations: Vec<Location>,
    /// Whether there is a cgroup, or the unit is active.
    pub running: bool,
    /// How many cgroups there are.
    pub cgroups: usize,
    /// Elements that are due.
    pub due: usize,
    /// Elements that the kernel has of these.
    pub in_kernel: usize,
    /// Elements that are due and not in the kernel.
    pub missing: usize,
    /// Annotations that nft or the kernel refuses.
    pub refused: usize,
    /// Packets that its annotations have counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Packets of it that are recorded as refused. It is not on the wire: who has asked `GetRefusals`, too, fills it in.
    #[serde(skip)]
    pub refused_packets: Option<u64>,
    /// Its cgroups, if it was asked for.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// What else there is to say of it, if it was asked for.
    #[serde(default)]
    pub words: Vec<String>,
}
