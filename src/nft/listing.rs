//! Listings of netlink(7) that everybody may ask for. What is there for nfnetlink reads these messages, too.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, SockFlag, SockProtocol, recv, send, setsockopt, sockopt},
        time::TimeVal,
    },
};

use super::{
    message::{Message, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, close, messages},
    netlink::{RECEIVE_BUFFER, connect},
};

/// A socket to a part of netlink, for one listing after the other. An answer is waited for two seconds.
pub(super) struct Listing {
    wire: OwnedFd,
    buffer: Vec<u8>,
    seq: u32,
}

impl Listing {
    pub(super) fn of(protocol: SockProtocol) -> io::Result<Self> {
        let wire = connect(protocol, SockFlag::SOCK_CLOEXEC, 0)?;
        setsockopt(&wire, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
        Ok(Self { wire, buffer: vec![0; RECEIVE_BUFFER], seq: 0 })
    }

    /// Asks for a list, and hands on its messages. What the kernel does not have is an empty list.
    pub(super) fn read(
        &mut self,
        kind: u16,
        body: &[u8],
        mut take: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        self.seq += 1;
        send(self.wire.as_raw_fd(), &request(kind, self.seq, body), MsgFlags::empty())?;
        loop {
            let length = match recv(self.wire.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                length => length?,
            };
            for message in messages(&self.buffer[..length]).filter(|message| message.seq == self.seq) {
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => return Ok(()),
                    _ => take(&message),
                }
            }
        }
    }
}

/// `struct nlmsghdr`, and the body.
fn request(kind: u16, seq: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend(seq.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    close(&mut bytes, 0);
    bytes
}
