//! The little nfnetlink that libnftables cannot do, or only slowly: put elements in by cgroup id, delete and list
//! them, also when the cgroup is long gone.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv,
            send, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

use super::message::{
    self, Batch, Message, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, RawElement, RawKey, list_elements,
    messages,
};
use crate::{
    model::{CgroupId, SetRef},
    policy::hosts::Addresses,
};

pub use super::message::SetKind;

/// A socket to nf_tables.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    port: u32,
    seq: u32,
    buffer: Vec<u8>,
}

/// How many deletions go into one transaction: their acknowledgements must fit into the socket's buffer.
const DELETIONS: usize = 100;

/// How often a listing is begun anew when the ruleset changes meanwhile.
const LISTINGS: usize = 20;

/// The most that a message to the kernel may have, in bytes.
const SEND_BUFFER: usize = 4 << 20;

/// The kernel's messages have at most 32 KiB.
pub(super) const RECEIVE_BUFFER: usize = 32 << 10;

impl Netlink {
    /// Opens a socket in the current network namespace.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        let (socket, port) = connect(SockFlag::SOCK_CLOEXEC, 0)?;
        // The answers are there before `send` returns; the time limit is for what nobody thought of.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
        // Without the rights, large batches are refused with EMSGSIZE.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
        Ok(Self { socket, port, seq: 1, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// The socket's port, which the kernel's notifications name as the author of a change.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Asks for the ruleset's generation: works for whoever may change the ruleset.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ping(&mut self) -> io::Result<()> {
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        self.send(&message::get_generation(seq))?;
        self.receive(|message| match message.kind {
            NLMSG_ERROR if message.seq == seq => Some(outcome(message)),
            _ => None,
        })
    }

    /// What a set is for.
    ///
    /// # Errors
    /// `NotFound` for no such set.
    pub fn set_kind(&mut self, set: &SetRef) -> io::Result<SetKind> {
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        self.send(&message::get_set(set, seq))?;
        let mut kind = SetKind::Other;
        self.receive(|message| {
            if message.seq != seq {
                return None;
            }
            if message.kind != NLMSG_ERROR {
                kind = message.set_kind();
            }
            Some(outcome(message))
        })?;
        Ok(kind)
    }

    /// Adds elements in one transaction. What is there with the same data is fine.
    ///
    /// # Errors
    /// The first of the kernel's; nothing is added then.
    pub(super) fn add(&mut self, elements: &[RawElement]) -> io::Result<()> {
        let mut batch = Batch::new(self.seq);
        batch.add(elements);
        self.commit(batch)
    }

    /// Deletes all elements of each of the sets, in one transaction. A set that is gone is fine.
    ///
    /// # Errors
    /// The first real failure; the others are empty all the same.
    pub fn flush(&mut self, sets: &[SetRef]) -> io::Result<()> {
        self.all_or_each(sets, |batch, set| batch.flush(set))
    }

    /// Empties a set of addresses and fills it with these ranges, in one transaction.
    ///
    /// # Errors
    /// The first of the kernel's; the set is as it was then.
    pub fn fill(&mut self, set: &SetRef, is_interval: bool, content: &[Addresses]) -> io::Result<()> {
        let address =
            |address, is_end| RawElement { set, key: RawKey::Address { address, is_end }, data: None };
        let mut elements = Vec::new();
        for (first, last) in content {
            elements.push(address(*first, false));
            if is_interval {
                elements.extend(after(*last).map(|end| address(end, true)));
            }
        }
        let mut batch = Batch::new(self.seq);
        batch.flush(set);
        batch.add(&elements);
        self.commit(batch)
    }

    /// Deletes elements by cgroup id, many in one transaction, each by itself if need be. What is gone is fine.
    ///
    /// # Errors
    /// The first real failure; the others are gone all the same.
    pub fn delete(&mut self, elements: &[(SetRef, CgroupId)]) -> io::Result<()> {
        self.all_or_each(elements, |batch, (set, id)| batch.delete(set, *id))
    }

    /// The cgroup ids in a set or map, that is its keys of 8 bytes.
    ///
    /// # Errors
    /// `NotFound` for no such set, `Interrupted` for a ruleset that changes all the time.
    pub fn ids(&mut self, set: &SetRef) -> io::Result<BTreeSet<CgroupId>> {
        for _ in 0..LISTINGS {
            if let Some(ids) = self.listing(set)? {
                return Ok(ids);
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// One listing; `None` if the ruleset changed meanwhile.
    fn listing(&mut self, set: &SetRef) -> io::Result<Option<BTreeSet<CgroupId>>> {
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        self.send(&list_elements(set, seq))?;
        let mut ids = BTreeSet::new();
        let mut whole = true;
        self.receive(|message| {
            if message.seq != seq {
                return None;
            }
            whole &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.kind {
                NLMSG_ERROR | NLMSG_DONE => Some(outcome(message)),
                _ => {
                    ids.extend(message.cgroup_keys());
                    None
                }
            }
        })?;
        Ok(whole.then_some(ids))
    }

    fn all_or_each<T>(&mut self, things: &[T], put: impl Fn(&mut Batch, &T)) -> io::Result<()> {
        let mut result = Ok(());
        for things in things.chunks(DELETIONS) {
            let mut batch = Batch::new(self.seq);
            things.iter().for_each(|thing| put(&mut batch, thing));
            if self.commit(batch).is_ok() {
                continue;
            }
            for thing in things {
                let mut batch = Batch::new(self.seq);
                put(&mut batch, thing);
                match self.commit(batch) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => result = result.and(Err(error)),
                    _ => {}
                }
            }
        }
        result
    }

    /// Sends a batch and waits until all of it is acknowledged, or it is refused as a whole.
    fn commit(&mut self, batch: Batch) -> io::Result<()> {
        let whole = batch.first();
        let mut open: BTreeSet<u32> = batch.acknowledged().collect();
        if open.is_empty() {
            return Ok(());
        }
        let (bytes, next) = batch.finish();
        self.seq = next;
        self.send(&bytes)?;
        let mut first_failure = Ok(());
        self.receive(|message| {
            if message.kind != NLMSG_ERROR {
                return None;
            }
            if message.seq == whole && message.error() != 0 {
                return Some(outcome(message));
            }
            if open.remove(&message.seq) && first_failure.is_ok() {
                first_failure = outcome(message);
            }
            open.is_empty().then_some(Ok(()))
        })?;
        first_failure
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads answers until `take` has an outcome.
    fn receive(&mut self, mut take: impl FnMut(&Message) -> Option<io::Result<()>>) -> io::Result<()> {
        loop {
            let length = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            };
            for message in messages(&self.buffer[..length]) {
                if let Some(outcome) = take(&message) {
                    return outcome;
                }
            }
        }
    }
}

/// The address behind this one, unless it is the last of all.
fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => Some(Ipv4Addr::from(u32::from(address).checked_add(1)?).into()),
        IpAddr::V6(address) => Some(Ipv6Addr::from(u128::from(address).checked_add(1)?).into()),
    }
}

/// A socket to nfnetlink, in these multicast groups (a bit mask), and its port.
pub(super) fn connect(flags: SockFlag, groups: u32) -> io::Result<(OwnedFd, u32)> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    let port = getsockname::<NetlinkAddr>(socket.as_raw_fd())?.pid();
    Ok((socket, port))
}

/// What an answer says of the request; only acknowledgements and the ends of listings can fail.
fn outcome(message: &Message) -> io::Result<()> {
    if !matches!(message.kind, NLMSG_ERROR | NLMSG_DONE) {
        return Ok(());
    }
    match message.error() {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}
