//! The sockets of this network namespace, with their cgroups: sock_diag(7), which everybody may ask.
//!
//! netlink-packet-sock-diag knows no `INET_DIAG_CGROUP_ID` (in version 0.5).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::sys::socket::SockProtocol;

use super::{
    listing::Listing,
    message::{Message, attribute},
};
use crate::{explain::Socket, model::CgroupId};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_CGROUP_ID`: 8 bytes in host order.
const CGROUP_ID: u16 = 21;
/// The length of `struct inet_diag_msg`, behind which attributes follow.
const HEAD: usize = 72;

/// The protocols that a socket can have a port of, and their numbers.
const PROTOCOLS: [(&str, u8); 5] = [("tcp", 6), ("udp", 17), ("udplite", 136), ("sctp", 132), ("raw", 255)];
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// All sockets of the internet protocols, whatever their state. Protocols that the kernel does not have are left out.
///
/// # Errors
/// The system's.
pub fn sockets() -> io::Result<Vec<Socket>> {
    let mut listing = Listing::of(SockProtocol::NetlinkSockDiag)?;
    let mut found = Vec::new();
    for (protocol, number) in PROTOCOLS {
        for family in FAMILIES {
            listing.read(BY_FAMILY, &request(family, number), |message| {
                found.extend(socket(protocol, message))
            })?;
        }
    }
    Ok(found)
}

/// All sockets of a family and protocol: `struct inet_diag_req_v2`.
fn request(family: u8, protocol: u8) -> Vec<u8> {
    [&[family, protocol, 0, 0][..], &u32::MAX.to_ne_bytes(), &[0; 48]].concat()
}

/// What a message says of a socket: `struct inet_diag_msg`.
fn socket(protocol: &'static str, message: &Message) -> Option<Socket> {
    // The kernel's header of 16 bytes is not in the payload.
    let payload = message.payload;
    let [family, state] = *payload.first_chunk()?;
    let port = |at: usize| Some(u16::from_be_bytes(*payload.get(at..)?.first_chunk()?));
    let address = |at: usize| -> Option<IpAddr> {
        if family == FAMILIES[0] {
            Some(Ipv4Addr::from(*payload.get(at..)?.first_chunk::<4>()?).into())
        } else {
            Some(Ipv6Addr::from(*payload.get(at..)?.first_chunk::<16>()?).into())
        }
    };
    let number = |at: usize| Some(u32::from_ne_bytes(*payload.get(at..)?.first_chunk()?));
    let remote = SocketAddr::new(address(24)?, port(6)?);
    let cgroup = attribute(payload.get(HEAD..)?, CGROUP_ID).and_then(|value| value.try_into().ok());
    Some(Socket {
        protocol,
        local: SocketAddr::new(address(8)?, port(4)?),
        remote: Some(remote).filter(|remote| remote.port() != 0 || !remote.ip().is_unspecified()),
        state,
        uid: number(64)?,
        inode: number(68)?.into(),
        cgroup: cgroup.map(|bytes| CgroupId(u64::from_ne_bytes(bytes))),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn own_sockets_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let udp = UdpSocket::bind("[::1]:0").ok();
        let all = sockets().unwrap();
        let find = |local: SocketAddr, protocol: &str| {
            all.iter()
                .find(|one| one.local == local && one.protocol == protocol)
                .unwrap_or_else(|| panic!("{local} in {all:?}"))
        };
        assert_eq!(find(address, "tcp").state_words(), "listening");
        assert_eq!(find(address, "tcp").remote, None);
        let client = find(stream.local_addr().unwrap(), "tcp");
        assert_eq!((client.remote, client.state_words()), (Some(address), "connected"));
        assert!(client.inode != 0 && client.cgroup.is_some());
        assert_eq!(client.uid, nix::unistd::geteuid().as_raw());
        if let Some(udp) = udp {
            assert_eq!(find(udp.local_addr().unwrap(), "udp").state_words(), "open");
        }
    }

    #[test]
    fn messages_that_are_cut_short_are_no_sockets() {
        let payload = [&[2_u8, 1][..], &[0; 70]].concat();
        for length in 0..payload.len() {
            let message = Message { kind: BY_FAMILY, flags: 0, seq: 1, payload: &payload[..length] };
            assert_eq!(socket("tcp", &message), None, "{length}");
        }
    }
}
