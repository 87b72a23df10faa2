//! Processes, as proc(5) has them.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{
    explain::facts::{Place, Process, command, inode},
    gather::Gather,
};

/// A process or thread, if there is one.
pub fn process(pid: u32) -> Option<Process> {
    read(Path::new("/proc"), pid)
}

/// All processes that may be seen, in the order of their numbers.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter().filter_map(process).collect()
}

/// The network namespace of this process.
pub fn own_network() -> Option<u64> {
    network(Path::new("/proc/self"))
}

fn read(proc: &Path, pid: u32) -> Option<Process> {
    let directory = proc.join(pid.to_string());
    let text =
        |name: &str| fs::read(directory.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let process = Process::of(&text("status").ok()?)?;
    Some(Process {
        command: command(&fs::read(directory.join("cmdline")).unwrap_or_default()),
        cgroup: Place::of(&text("cgroup").unwrap_or_default()),
        sockets: sockets(&directory),
        network: network(&directory),
        ..process
    })
}

fn sockets(directory: &Path) -> Option<BTreeSet<u64>> {
    let entries = fs::read_dir(directory.join("fd")).ok()?.flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    Some(links.filter_map(|link| inode(link.to_str()?, "socket")).gather())
}

fn network(directory: &Path) -> Option<u64> {
    inode(fs::read_link(directory.join("ns/net")).ok()?.to_str()?, "net")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn own_process_has_its_sockets() {
        let before = process(std::process::id()).unwrap();
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let after = process(std::process::id()).unwrap();
        assert!(after.sockets.unwrap().len() > before.sockets.unwrap().len());
        assert_eq!(after.network, own_network());
        assert!(!after.command.is_empty());
        assert!(all().iter().any(|one| one.pid == std::process::id()));
        assert_eq!(process(u32::MAX), None);
    }
}
