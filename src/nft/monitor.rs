//! Hears of changes that others make to the ruleset.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockFlag, recv, setsockopt, sockopt},
};

use super::{
    message::{
        Message, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_TABLE, NFTA_SET_ELEM_LIST_SET,
        NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_NAME, NFTA_SET_TABLE, NFTA_TABLE_NAME, kind, messages,
    },
    netlink::{RECEIVE_BUFFER, connect},
};
use crate::model::{ChainRef, PREFIX, SetRef, TableRef};

/// What of other people's ruleset matters to us, beside everything that is named after us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interest {
    tables: BTreeSet<TableRef>,
    chains: BTreeSet<ChainRef>,
    sets: BTreeSet<SetRef>,
}

impl Interest {
    /// A table that our objects are in, or would be.
    pub fn table(&mut self, table: TableRef) {
        self.tables.insert(table);
    }

    /// A chain that a rule of ours is in, or would be.
    pub fn chain(&mut self, chain: ChainRef) {
        self.tables.insert(chain.table.clone());
        self.chains.insert(chain);
    }

    /// A set that an element of ours is in, or would be.
    pub fn set(&mut self, set: SetRef) {
        self.tables.insert(set.table.clone());
        self.sets.insert(set);
    }

    /// Whether a message tells of something that we need and that came or went.
    fn is_touched_by(&self, message: &Message) -> bool {
        self.touched(message).unwrap_or(false)
    }

    fn touched(&self, message: &Message) -> Option<bool> {
        let kind = message.nf_tables()?;
        Some(match kind {
            kind::NEWTABLE | kind::DELTABLE => self.tables.contains(&table(message, NFTA_TABLE_NAME)?),
            kind::NEWCHAIN | kind::DELCHAIN => {
                let chain = chain(message, NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME)?;
                self.chains.contains(&chain) || (kind == kind::DELCHAIN && is_ours(&chain.name))
            }
            kind::DELRULE => {
                let chain = chain(message, NFTA_RULE_TABLE, NFTA_RULE_CHAIN)?;
                self.chains.contains(&chain) || is_ours(&chain.name)
            }
            kind::NEWSET | kind::DELSET => {
                let set = set(message, NFTA_SET_TABLE, NFTA_SET_NAME)?;
                self.sets.contains(&set) || (kind == kind::DELSET && is_ours(&set.name))
            }
            kind::DELSETELEM => {
                let set = set(message, NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET)?;
                self.sets.contains(&set) || is_ours(&set.name)
            }
            _ => false,
        })
    }
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// Somebody else deleted an object or element of ours or something that ours are in, or created something
    /// that [`Interest`] names.
    pub touched: bool,
    /// Messages were lost: anything may have changed.
    pub overflow: bool,
}

/// A socket that hears of every change of the ruleset.
#[derive(Debug)]
pub struct RulesetMonitor {
    socket: OwnedFd,
    /// The ports of our own sockets.
    own: BTreeSet<u32>,
    /// The port that our loads come from, as far as it is known.
    loader: Option<u32>,
    buffer: Vec<u8>,
}

/// `NFNLGRP_NFTABLES` as a bit of the mask at bind(2).
const GROUPS: u32 = 1 << (7 - 1);

/// Room for the notifications of a large reload, in bytes; in use only while they wait to be read.
const WAITING_ROOM: usize = 4 << 20;

/// The same without the right to exceed the system's limit.
const MODEST_WAITING_ROOM: usize = 1 << 20;

impl RulesetMonitor {
    /// Listens in the current network namespace, without ever blocking. What comes from the socket with the port
    /// `own` (see [`super::Nftables::port`]) is not reported.
    ///
    /// # Errors
    /// The system's.
    pub fn open(own: u32) -> io::Result<Self> {
        let (socket, _) = connect(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, GROUPS)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &WAITING_ROOM).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &MODEST_WAITING_ROOM)?;
        }
        Ok(Self { socket, own: BTreeSet::from([own]), loader: None, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Reads all that waits.
    ///
    /// # Errors
    /// The system's.
    pub fn drain(&mut self, interest: &Interest) -> io::Result<Change> {
        let mut change = Change::default();
        let own = &self.own;
        let loader = self.loader;
        change.overflow = read_all(&self.socket, &mut self.buffer, |message| {
            let foreign = !own.contains(&message.port) && loader != Some(message.port);
            change.touched |= foreign && interest.is_touched_by(message);
        })?;
        change.touched |= change.overflow;
        Ok(change)
    }

    /// Reads all that waits right after a load of ours through libnftables, and forgets what the load did.
    /// Only we create objects that are named after us, so the author of the last of them is libnftables; what
    /// others did meanwhile is reported. A load without such objects hides everything, and messages that are
    /// lost here are taken for our own (`overflow` tells).
    ///
    /// # Errors
    /// The system's.
    pub fn discard(&mut self, interest: &Interest) -> io::Result<Change> {
        let mut touching = BTreeSet::new();
        let mut creator = None;
        let overflow = read_all(&self.socket, &mut self.buffer, |message| {
            if creates_ours(message) {
                creator = Some(message.port);
            }
            if interest.is_touched_by(message) {
                touching.insert(message.port);
            }
        })?;
        self.loader = creator;
        let foreign = |port: &u32| Some(*port) != creator && !self.own.contains(port);
        let touched = !overflow && creator.is_some() && touching.iter().any(foreign);
        Ok(Change { touched, overflow })
    }
}

impl AsFd for RulesetMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for RulesetMonitor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// Hands over every message that waits; tells whether some were lost.
fn read_all(socket: &OwnedFd, buffer: &mut [u8], mut hear: impl FnMut(&Message)) -> io::Result<bool> {
    let mut overflow = false;
    loop {
        match recv(socket.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(length) => messages(&buffer[..length]).for_each(|message| hear(&message)),
            Err(Errno::EAGAIN) => return Ok(overflow),
            Err(Errno::ENOBUFS) => overflow = true,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn creates_ours(message: &Message) -> bool {
    let name = match message.nf_tables() {
        Some(kind::NEWCHAIN) => message.text(NFTA_CHAIN_NAME),
        Some(kind::NEWSET) => message.text(NFTA_SET_NAME),
        _ => None,
    };
    name.is_some_and(is_ours)
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
}

fn table(message: &Message, name: u16) -> Option<TableRef> {
    Some(TableRef { family: message.family()?, name: message.text(name)?.into() })
}

fn chain(message: &Message, table_name: u16, name: u16) -> Option<ChainRef> {
    Some(ChainRef { table: table(message, table_name)?, name: message.text(name)?.into() })
}

fn set(message: &Message, table_name: u16, name: u16) -> Option<SetRef> {
    Some(SetRef { table: table(message, table_name)?, name: message.text(name)?.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{CgroupId, Family},
        nft::message::Batch,
    };

    fn set_in(table: &str, name: &str) -> SetRef {
        SetRef { table: TableRef { family: Family::Inet, name: table.into() }, name: name.into() }
    }

    fn touched(interest: &Interest, batch: Batch) -> bool {
        let (bytes, _) = batch.finish();
        messages(&bytes).any(|message| interest.is_touched_by(&message))
    }

    #[test]
    fn elements_deleted_from_our_sets_and_from_those_of_interest_count() {
        let mut interest = Interest::default();
        interest.set(set_in("filter", "allowed"));
        for (set, expected) in [
            (set_in("filter", "scnpm.out.1"), true),
            (set_in("other", "scnpm.out.1"), true),
            (set_in("filter", "allowed"), true),
            (set_in("other", "allowed"), false),
            (set_in("filter", "blocked"), false),
        ] {
            let mut batch = Batch::new(1);
            let key = crate::nft::message::RawKey::Cgroup(CgroupId(1));
            batch.delete(&[crate::nft::message::RawElement { set: &set, key, data: None }]);
            assert_eq!(touched(&interest, batch), expected, "{set}");
        }
    }

    #[test]
    fn added_elements_do_not_count() {
        let set = set_in("filter", "scnpm.out.1");
        let key = crate::nft::message::RawKey::Cgroup(CgroupId(1));
        let mut batch = Batch::new(1);
        batch.add(&[crate::nft::message::RawElement { set: &set, key, data: None }]);
        assert!(!touched(&Interest::default(), batch));
    }
}
