//! Interfaces that only have to be there, by rtnetlink(7).

use std::os::fd::AsRawFd;

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockFlag, SockProtocol, recv, send},
};

use crate::nft::{
    message::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NLMSG_ERROR, close, messages, nest, text},
    netlink::connect,
};

// linux/rtnetlink.h, linux/if_link.h
const RTM_NEWLINK: u16 = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const NLM_F_EXCL: u16 = 0x200;
/// The size of `struct nlmsghdr` without its length, type and flags, and of `struct ifinfomsg`.
const ZEROES: usize = 8 + 16;

/// Kinds of interfaces that do: the first that the kernel has.
const KINDS: [&str; 3] = ["dummy", "bridge", "ifb"];

/// Makes an interface of this name, unless there is one.
pub(super) fn make(name: &str) -> nix::Result<()> {
    let is_final = |made: &nix::Result<()>| *made != Err(Errno::EOPNOTSUPP);
    match KINDS.iter().map(|kind| request(name, kind)).find(is_final) {
        Some(Err(Errno::EEXIST)) => Ok(()),
        made => made.unwrap_or(Err(Errno::EOPNOTSUPP)),
    }
}

fn request(name: &str, kind: &str) -> nix::Result<()> {
    let mut bytes = 0_u32.to_ne_bytes().to_vec();
    bytes.extend(RTM_NEWLINK.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).to_ne_bytes());
    bytes.extend([0; ZEROES]);
    text(&mut bytes, IFLA_IFNAME, name);
    nest(&mut bytes, IFLA_LINKINFO, |bytes| text(bytes, IFLA_INFO_KIND, kind));
    close(&mut bytes, 0);
    let socket = connect(SockProtocol::NetlinkRoute, SockFlag::SOCK_CLOEXEC, 0)?;
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
    let mut answer = vec![0; 32 << 10];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match messages(&answer[..length]).find(|message| message.kind == NLMSG_ERROR).map(|found| found.error()) {
        Some(0) => Ok(()),
        Some(number) => Err(Errno::from_raw(number)),
        None => Err(Errno::EBADMSG),
    }
}
