//! NOUNS. The things every room speaks of: units, cgroups, tables, chains, sets and their elements.
//!
//! Plain values with order and display, nothing that reads or decides.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

/// Where the cgroup v2 hierarchy is mounted; libnftables has the same path built in.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// What every object of ours in the kernel is named after.
pub const PREFIX: &str = "scnpm.";

/// A text for a terminal: users name units, cgroups and files, and control characters would command it.
pub fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control() || REORDERING.contains(&c), "\u{fffd}")
}

/// What has a terminal show the text around it in another order or on another line (Unicode's Bidi_Control, and its separators of
/// lines and paragraphs).
const REORDERING: [char; 14] = [
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}',
    '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
];

/// The types of units, as systemd.unit(5) lists them.
pub const UNIT_TYPES: [&str; 11] = [
    "service",
    "socket",
    "device",
    "mount",
    "automount",
    "swap",
    "target",
    "path",
    "timer",
    "slice",
    "scope",
];

/// A unit's full name as in systemd.unit(5), such as `postfix.service`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnitName(pub Arc<str>);

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A cgroup's path below [`CGROUP_ROOT`]: not empty, without NUL, leading, trailing or doubled
/// slashes, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct CgroupPath(Arc<str>);

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for CgroupPath {
    /// Why it is none.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if text.contains('\0') {
            return Err("a NUL in a cgroup's path");
        }
        if parts.is_empty() {
            return Err("the cgroup's path is empty");
        }
        if parts.contains(&"..") {
            return Err("`..` in a cgroup's path");
        }
        Ok(Self(parts.join("/").into()))
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl Borrow<str> for CgroupPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl CgroupPath {
    /// The path relative to the root of the hierarchy.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A cgroup below it.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0).into())
    }

    /// The directory in the file system.
    pub fn directory(&self) -> PathBuf {
        PathBuf::from(CGROUP_ROOT).join(self.as_str())
    }

    /// Whether it is another one or below that.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.strip_prefix(other.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// It and those that it is in, from the top down.
    pub fn prefixes(&self) -> impl Iterator<Item = Self> {
        let ends = self.0.match_indices('/').map(|(at, _)| at).chain([self.0.len()]);
        ends.map(|end| Self(self.0[..end].into()))
    }

    /// Its names from the top down; their number is the level of `socket cgroupv2 level`.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

/// A manager of units: systemd as PID 1, or as a user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// The system's.
    System,
    /// `user@UID.service` of this user.
    User(u32),
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::User(uid) => write!(f, "{uid}"),
        }
    }
}

/// A cgroup that a manager has made for a unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance {
    /// The manager.
    pub manager: Manager,
    /// The unit.
    pub unit: UnitName,
    /// The cgroup.
    pub path: CgroupPath,
}

/// A cgroup's number: the inode number of its directory. Unique, increasing, never reused
/// (kernfs, `fs/kernfs/dir.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CgroupId(pub u64);

impl fmt::Display for CgroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An nft address family, as nft(8) lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4; what nft takes where no family is written.
    Ip,
    /// IPv6.
    Ip6,
    /// IPv4 and IPv6.
    Inet,
    /// ARP.
    Arp,
    /// Frames that cross a bridge.
    Bridge,
    /// Ingress and egress of a device.
    Netdev,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Arp => "arp",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        })
    }
}

impl Family {
    /// Whether packets of IPv6, or of IPv4, come to chains of it.
    pub fn has(self, v6: bool) -> bool {
        match self {
            Self::Inet => true,
            Self::Ip => !v6,
            Self::Ip6 => v6,
            Self::Arp | Self::Bridge | Self::Netdev => false,
        }
    }
}

impl FromStr for Family {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "ip" => Ok(Self::Ip),
            "ip6" => Ok(Self::Ip6),
            "inet" => Ok(Self::Inet),
            "arp" => Ok(Self::Arp),
            "bridge" => Ok(Self::Bridge),
            "netdev" => Ok(Self::Netdev),
            _ => Err(()),
        }
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableRef {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// A chain of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChainRef {
    /// The table that it is in.
    pub table: TableRef,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ChainRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.name)
    }
}

/// Which way a packet goes, seen from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The socket sent it.
    Out,
    /// It was sent to the socket.
    In,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "out",
            Self::In => "in",
        })
    }
}

impl Direction {
    /// The hook in which filters see such packets with their socket.
    pub fn hook(self) -> &'static str {
        match self {
            Self::Out => "output",
            Self::In => "input",
        }
    }
}

/// The protocols with ports that nft knows by the names of their headers, too.
pub const WITH_PORTS: [&str; 5] = ["tcp", "udp", "sctp", "dccp", "udplite"];

/// Packets of a socket that a chain of `record refusals` has recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// The socket's cgroup.
    pub cgroup: CgroupId,
    /// The other side.
    pub address: IpAddr,
    /// The protocol's number (protocols(5)).
    pub protocol: u8,
    /// The port that they went to; of ICMP the type and the code, a byte each.
    pub port: u16,
    /// How many there were.
    pub packets: u64,
    /// How long it stays recorded unless there are more, in ms.
    pub left_ms: u64,
}

/// A set or a map of a table (nft keeps both in one name space).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetRef {
    /// The table that it is in.
    pub table: TableRef,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for SetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.name)
    }
}

impl SetRef {
    /// Whether scnpm made it.
    pub fn is_ours(&self) -> bool {
        self.name.starts_with(PREFIX)
    }
}

/// A counter of ours, a named object of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterRef {
    /// The table that it is in.
    pub table: TableRef,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for CounterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.name)
    }
}

/// What a counter has counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes, from the header of the network layer on.
    pub bytes: u64,
}

/// What an element is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// A cgroup, by its path; in the kernel it has the cgroup's id.
    Cgroup(CgroupPath),
    /// Every packet: the one element of a gate, the range of all packet marks.
    Everything,
}

impl Key {
    /// The cgroup, if it is one.
    pub fn cgroup(&self) -> Option<&CgroupPath> {
        if let Self::Cgroup(path) = self { Some(path) } else { None }
    }
}

/// What a map's element leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Data {
    /// Take the packet.
    Accept,
    /// Discard the packet.
    Drop,
    /// Go on with the next rule.
    Continue,
    /// Go back to the calling chain.
    Return,
    /// Call a chain.
    Jump(String),
    /// Go to a chain for good.
    Goto(String),
    /// A value of the map's data type, in nft's words; several are a concatenation.
    Value(Vec<String>),
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Continue => f.write_str("continue"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Value(parts) => f.write_str(&parts.join(" . ")),
        }
    }
}

/// An element of a set or map, by name: what should be in the kernel under a [`Condition`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Element {
    /// The set or map.
    pub set: SetRef,
    /// What it is found by.
    pub key: Key,
    /// What it leads to, in a map.
    pub data: Option<Data>,
}

/// When an element is due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Condition {
    /// While the cgroup exists.
    Cgroup(CgroupPath),
    /// While all of them exist.
    AllCgroups(BTreeSet<CgroupPath>),
    /// While the ActiveState of the system's unit is neither `inactive` nor `failed`.
    UnitActive(UnitName),
    /// While the cgroup of a user's unit exists and the system has no unit of that name: nobody is to open a system unit's
    /// rules by giving a unit of their own its name.
    UsersUnit(CgroupPath, UnitName),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) | Self::UsersUnit(path, _) => write!(f, "{path} exists"),
            Self::AllCgroups(paths) => {
                let verb = if paths.len() == 1 { "exists" } else { "exist" };
                let names: Vec<&str> = paths.iter().map(CgroupPath::as_str).collect();
                write!(f, "{} {verb}", names.join(" and "))
            }
            Self::UnitActive(unit) => write!(f, "{unit} is active"),
        }
    }
}

impl Condition {
    /// Whether it holds in a world where these cgroups exist and the system's units are in these states, as far as is
    /// known.
    pub fn holds(
        &self,
        exists: impl Fn(&CgroupPath) -> bool,
        state: impl Fn(&UnitName) -> Option<UnitState>,
    ) -> bool {
        match self {
            Self::Cgroup(path) => exists(path),
            Self::AllCgroups(paths) => paths.iter().all(exists),
            Self::UnitActive(unit) => state(unit) == Some(UnitState::Active),
            Self::UsersUnit(path, unit) => exists(path) && state(unit) == Some(UnitState::Missing),
        }
    }

    /// The cgroups that it depends on.
    pub fn paths(&self) -> impl Iterator<Item = &CgroupPath> {
        let (one, all) = match self {
            Self::Cgroup(path) | Self::UsersUnit(path, _) => (Some(path), None),
            Self::AllCgroups(paths) => (None, Some(paths)),
            Self::UnitActive(_) => (None, None),
        };
        one.into_iter().chain(all.into_iter().flatten())
    }

    /// The system's unit whose state it depends on.
    pub fn unit(&self) -> Option<&UnitName> {
        match self {
            Self::UnitActive(unit) | Self::UsersUnit(_, unit) => Some(unit),
            Self::Cgroup(_) | Self::AllCgroups(_) => None,
        }
    }
}

/// An annotation's index in its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AnnotationId(pub usize);

/// The line that a thing comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// An element, when it is due, and whose it is: what a policy wants of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row {
    /// The element.
    pub element: Arc<Element>,
    /// When it is due.
    pub condition: Condition,
    /// The unit of the first of the annotations: news of it is a reason to look at the row's cgroups.
    pub unit: UnitName,
    /// The annotations that ask for it, at least one.
    pub annotations: Vec<AnnotationId>,
}

/// A row's number in the engine, by which outcomes come back. Never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct RowId(pub u64);

impl TryFrom<u64> for RowId {
    type Error = &'static str;

    /// Refuses a number that no engine comes to, so that there is always a next one.
    fn try_from(number: u64) -> Result<Self, Self::Error> {
        if number <= u64::MAX / 2 { Ok(Self(number)) } else { Err("a row's number that is too large") }
    }
}

/// What became of one element that was to be added or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is in the kernel: under this id, or as the element of a gate.
    Added(Option<CgroupId>),
    /// It is no longer in the kernel.
    Deleted(Option<CgroupId>),
    /// Its cgroup was another one when libnftables looked its path up: nothing of it is in the kernel.
    Vanished,
    /// The kernel refuses it.
    Refused,
    /// The kernel could not do it for now; nothing has changed.
    Failed,
}

/// What a manager says of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// Its ActiveState is neither `inactive` nor `failed`.
    Active,
    /// Its ActiveState is `inactive` or `failed`.
    Inactive,
    /// There is no such unit.
    Missing,
}

impl UnitState {
    /// Of an existing unit.
    pub fn of(active: bool) -> Self {
        if active { Self::Active } else { Self::Inactive }
    }
}

/// Where the daemon learns of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// cgroupfs, by inotify(7).
    Cgroup,
    /// systemd's signals on the system bus.
    Dbus,
    /// The journal, by sd-journal(3).
    Journal,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cgroup, Self::Dbus, Self::Journal];

    /// Its name, as a user writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Dbus => "dbus",
            Self::Journal => "journal",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A host name and the family that its place asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostName {
    /// The name as written.
    pub name: String,
    /// Whether IPv6 addresses are wanted, else IPv4.
    pub v6: bool,
}

/// What is known of host names; one that is absent has no address (yet).
pub type Hosts = BTreeMap<HostName, Vec<IpAddr>>;

/// The first and the last address of a range, both of one family.
pub type Addresses = (IpAddr, IpAddr);

/// How a machine routes packets by their marks (ip-rule(8)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routing {
    /// The marks that rules of IPv4 ask for.
    pub ipv4: Vec<MaskedMark>,
    /// The marks that rules of IPv6 ask for.
    pub ipv6: Vec<MaskedMark>,
    /// The names of the interfaces that exist.
    pub interfaces: BTreeSet<String>,
}

/// A mark of which some bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedMark {
    /// The mark.
    pub mark: u32,
    /// The bits that count.
    pub mask: u32,
}

impl MaskedMark {
    /// Whether packets with this mark are meant.
    pub fn is_for(self, mark: u32) -> bool {
        mark & self.mask == self.mark & self.mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commands_a_terminal_is_not_printed() {
        assert_eq!(
            printable("a\u{1b}[2J\nb\u{202e}cod\u{2066}\u{2028}"),
            "a\u{fffd}[2J\u{fffd}b\u{fffd}cod\u{fffd}\u{fffd}"
        );
        assert_eq!(printable("Grüße, שלום 👩‍🚀"), "Grüße, שלום 👩‍🚀");
    }
}
