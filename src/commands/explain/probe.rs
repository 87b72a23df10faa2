//! One packet from inside a cgroup, whose way the kernel traces.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        prctl::{set_no_new_privs, set_pdeathsig},
        signal::Signal,
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, getsockopt, send,
            socket, sockopt,
        },
    },
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};

use crate::{
    explain::{Process, path::Event, subject::Protocol},
    model::CgroupPath,
    nft::{Nftables, trace::Trace},
    trial::process::run_within,
};

/// How long the child may take.
const TIME: Duration = Duration::from_secs(3);
/// How long it waits for what becomes of its packet. A second one would follow after 1 s.
const WAIT: Duration = Duration::from_millis(200);

/// The events of a packet that a child of this process sends, in the cgroup and as the user of another process; and the
/// name of the table that asked for them.
///
/// # Errors
/// Why there are none.
pub(super) fn trace(
    kernel: &mut Nftables,
    process: &Process,
    cgroup: &CgroupPath,
    protocol: Protocol,
    to: SocketAddr,
) -> Result<(Vec<Event>, String), String> {
    let directory = cgroup.directory();
    // A child that is frozen would never end by itself.
    let events = fs::read_to_string(directory.join("cgroup.events")).unwrap_or_default();
    if events.lines().any(|line| line == "frozen 1") {
        return Err("its cgroup is frozen: no packet can be sent from there".to_owned());
    }
    let port = free_port(protocol, to).map_err(|error| format!("no port is free: {error}"))?;
    let trace = Trace::begin(kernel, protocol, port, to)?;
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    let sent: Result<(), String> = run_within(TIME, || {
        // The first of all, or the socket would be of the wrong cgroup.
        fs::write(directory.join("cgroup.procs"), "0").map_err(|error| entry_words(&error))?;
        give_up(uid, gid).map_err(|error| format!("user {uid} cannot be taken on: {}", error.desc()))?;
        probe(protocol, port, to).map_err(|error| format!("no packet can be sent to {to}: {}", error.desc()))
    })
    .map_err(|lost| lost.to_string())?;
    let events = trace.events().map_err(|error| format!("the kernel's trace cannot be read: {error}"))?;
    match sent {
        Err(words) if events.is_empty() => Err(words),
        _ if events.is_empty() => Err("the kernel traced no packet".to_owned()),
        _ => Ok((events, trace.table().to_owned())),
    }
}

fn entry_words(error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY | Errno::EOPNOTSUPP) => {
            "its cgroup takes no processes, since it has others with controllers below it: name one of these"
                .to_owned()
        }
        _ => format!("its cgroup cannot be entered: {error}"),
    }
}

/// Has this process no more rights than that user, and end with its parent.
fn give_up(uid: Uid, gid: Gid) -> nix::Result<()> {
    set_no_new_privs()?;
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    // Another user is not bound to the parent as before.
    set_pdeathsig(Signal::SIGKILL)
}

fn unspecified(to: SocketAddr, port: u16) -> SocketAddr {
    if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, port).into() } else { (Ipv6Addr::UNSPECIFIED, port).into() }
}

fn free_port(protocol: Protocol, to: SocketAddr) -> std::io::Result<u16> {
    let any = unspecified(to, 0);
    match protocol {
        Protocol::Tcp => TcpListener::bind(any)?.local_addr(),
        Protocol::Udp => UdpSocket::bind(any)?.local_addr(),
    }
    .map(|address| address.port())
}

/// Sends one packet: the first of a connection, or an empty datagram.
fn probe(protocol: Protocol, port: u16, to: SocketAddr) -> nix::Result<()> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(unspecified(to, port)))?;
    let connected = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
    match (protocol, connected) {
        (Protocol::Tcp, Err(Errno::EINPROGRESS)) => {
            thread::sleep(WAIT);
            let error = getsockopt(&socket, sockopt::SocketError)?;
            if error == 0 { Ok(()) } else { Err(Errno::from_raw(error)) }
        }
        (Protocol::Tcp, connected) => connected,
        (Protocol::Udp, connected) => {
            connected?;
            send(socket.as_raw_fd(), &[], MsgFlags::empty())?;
            Ok(())
        }
    }
}
