//! What the machine says of processes and sockets, from the texts of proc(5).

use std::{collections::BTreeSet, net::SocketAddr};

use crate::model::{CgroupId, CgroupPath};

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// That of the process it is a thread of, if it is no process of its own.
    pub thread_of: Option<u32>,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its command line.
    pub command: String,
    /// Its effective user and group.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Its state: a letter.
    pub state: char,
    /// Whether it is the kernel's.
    pub is_kernels: bool,
    /// Its cgroup.
    pub cgroup: Place,
    /// The inode numbers of the sockets that it has open; none if they may not be read.
    pub sockets: Option<BTreeSet<u64>>,
    /// Its network namespace; none if it may not be read.
    pub network: Option<u64>,
}

/// Where a process is in the hierarchy of cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Place {
    /// It is not known.
    #[default]
    Unknown,
    /// At its root, which no rule matches.
    Root,
    /// In this cgroup.
    In(CgroupPath),
    /// In one that was removed.
    Gone(CgroupPath),
}

impl Place {
    /// From `/proc/PID/cgroup`.
    pub fn of(text: &str) -> Self {
        let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::")) else { return Self::Unknown };
        let gone = path.strip_suffix(" (deleted)");
        match (path, gone.unwrap_or(path).parse::<CgroupPath>()) {
            ("/", _) => Self::Root,
            (_, Ok(path)) if gone.is_some() => Self::Gone(path),
            (_, Ok(path)) => Self::In(path),
            (_, Err(_)) => Self::Unknown,
        }
    }

    /// The cgroup, if it is there.
    pub fn path(&self) -> Option<&CgroupPath> {
        if let Self::In(path) = self { Some(path) } else { None }
    }
}

impl Process {
    /// From `/proc/PID/status`; none if it is no such text.
    pub fn of(status: &str) -> Option<Self> {
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let number = |name: &str| field(name)?.parse::<u32>().ok();
        let effective = |name: &str| field(name)?.split_whitespace().nth(1)?.parse::<u32>().ok();
        let pid = number("Pid")?;
        // Before Linux 6.4 there is no such line: kthreadd and its children.
        let is_kernels = field("Kthread").map_or(pid == 2 || number("PPid") == Some(2), |value| value == "1");
        Some(Self {
            pid,
            thread_of: number("Tgid").filter(|group| *group != pid),
            name: field("Name")?.to_owned(),
            uid: effective("Uid")?,
            gid: effective("Gid")?,
            state: field("State")?.chars().next()?,
            is_kernels,
            ..Self::default()
        })
    }

    /// Whether it has ended and only waits for its parent to notice.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// The number in a link such as `socket:[1234]` or `net:[4026531840]`.
pub fn inode(link: &str, kind: &str) -> Option<u64> {
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

/// The words of a command line, whose arguments end with NULs.
pub fn command(bytes: &[u8]) -> String {
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
}

/// A socket, as sock_diag(7) has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// `tcp`, `udp` and so on.
    pub protocol: &'static str,
    /// Its own end.
    pub local: SocketAddr,
    /// The other end, if it has one.
    pub remote: Option<SocketAddr>,
    /// Its state (`enum` in the kernel's tcp_states.h).
    pub state: u8,
    /// Its user.
    pub uid: u32,
    /// Its inode number; 0 if no process has it.
    pub inode: u64,
    /// Its cgroup.
    pub cgroup: Option<CgroupId>,
}

impl Socket {
    /// Its state, in words.
    pub fn state_words(&self) -> &'static str {
        match (self.protocol, self.state) {
            (_, 1) => "connected",
            ("tcp" | "sctp", 2 | 3) => "connecting",
            ("tcp" | "sctp", 10) => "listening",
            ("tcp", 6) => "closed, waiting",
            ("tcp", 4 | 5 | 8 | 9 | 11) => "closing",
            (_, 7 | 10) if self.protocol != "tcp" => "open",
            _ => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\ta b\\n\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t10\nNgid:\t0\nPid:\t12\nPPid:\t1\n\
                          Uid:\t0\t1000\t0\t0\nGid:\t0\t100\t0\t0\n";

    #[test]
    fn process_is_read() {
        let process = Process::of(STATUS).unwrap();
        assert_eq!((process.pid, process.thread_of, process.uid, process.gid), (12, Some(10), 1000, 100));
        assert_eq!((process.name.as_str(), process.state, process.is_kernels), ("a b\\n", 'S', false));
        assert!(Process::of(&STATUS.replace("PPid:\t1", "PPid:\t2")).unwrap().is_kernels);
        assert!(
            !Process::of(&format!("{}Kthread:\t0\n", STATUS.replace("PPid:\t1", "PPid:\t2")))
                .unwrap()
                .is_kernels
        );
        for length in 0..STATUS.len() {
            let _ = Process::of(&STATUS[..length]);
        }
    }

    #[test]
    fn cgroup_is_that_of_the_unified_hierarchy() {
        let path = |text: &str| text.parse::<CgroupPath>().unwrap();
        assert_eq!(Place::of("0::/system.slice/a.service\n"), Place::In(path("system.slice/a.service")));
        assert_eq!(Place::of("1:net_cls:/x\n0::/a\n"), Place::In(path("a")));
        assert_eq!(Place::of("0::/a (deleted)\n"), Place::Gone(path("a")));
        assert_eq!(Place::of("0::/\n"), Place::Root);
        assert_eq!(Place::of("0::/../b\n"), Place::Unknown);
        assert_eq!(Place::of("1:net_cls:/x\n"), Place::Unknown);
    }

    #[test]
    fn links_and_commands_are_read() {
        assert_eq!(inode("socket:[12]", "socket"), Some(12));
        assert_eq!(inode("anon_inode:[eventfd]", "socket"), None);
        assert_eq!(command(b"a\0--b\0\0c"), "a --b c");
    }
}
