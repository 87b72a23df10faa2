//! Hears of changes that others make to the ruleset.
//!
//! What a transaction changed comes first, then the generation that it made, which names the thread that did it. So what is
//! our own is known and not guessed: it is what this thread did.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use libc::{
    NFT_MSG_DELCHAIN, NFT_MSG_DELOBJ, NFT_MSG_DELRULE, NFT_MSG_DELSET, NFT_MSG_DELSETELEM, NFT_MSG_DELTABLE,
    NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE,
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, SockFlag, SockProtocol, recv, setsockopt, sockopt},
};

use super::{
    message::{
        Message, NFTA_CHAIN_HANDLE, NFTA_CHAIN_NAME, NFTA_OBJ_NAME, NFTA_RULE_CHAIN, NLM_F_CREATE, messages,
    },
    netlink::{Generation, RECEIVE_BUFFER, connect},
    recording::{Recorder, Recording},
};
use crate::model::{ChainRef, PREFIX, SetRef, TableRef};

/// What of other people's ruleset matters to us, beside everything that is named after us and the tables of all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interest {
    /// The chains that rules of ours are in, or would be.
    pub chains: BTreeSet<ChainRef>,
    /// The sets that elements of ours are in, or would be.
    pub sets: BTreeSet<SetRef>,
}

impl Interest {
    /// Whether a message tells of something that we need and that came, went or has another name, or of something that was
    /// added to what is ours; if it can be read.
    fn is_touched_by(&self, message: &Message) -> Option<bool> {
        let kind = message.nf_tables()?;
        Some(match kind {
            NFT_MSG_NEWTABLE | NFT_MSG_DELTABLE => self.needs_table(&message.table()?),
            NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN => {
                let chain = message.chain(NFTA_CHAIN_NAME)?;
                // A chain that is there already: whatever was changed of it, it may be its name.
                let is_update = kind == NFT_MSG_NEWCHAIN && message.flags & NLM_F_CREATE == 0;
                self.chains.contains(&chain)
                    || is_ours(&chain.name)
                    || is_update && self.needs_table(&chain.table)
            }
            NFT_MSG_NEWRULE | NFT_MSG_DELRULE => {
                let chain = message.chain(NFTA_RULE_CHAIN)?;
                is_ours(&chain.name) || kind == NFT_MSG_DELRULE && self.chains.contains(&chain)
            }
            NFT_MSG_NEWSET | NFT_MSG_DELSET | NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM => {
                let set = message.set()?;
                set.is_ours() || kind != NFT_MSG_NEWSETELEM && self.sets.contains(&set)
            }
            // One that is in use cannot be deleted: the rule that used it went before.
            NFT_MSG_DELOBJ => is_ours(message.text(NFTA_OBJ_NAME)?),
            _ => false,
        })
    }

    fn needs_table(&self, table: &TableRef) -> bool {
        self.chains.iter().any(|chain| chain.table == *table)
            || self.sets.iter().any(|set| set.table == *table)
    }
}

/// What others did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Who touched something that [`Interest`] names, or something of ours: the name and number of the thread.
    pub by: Option<(String, u32)>,
    /// Messages were lost: anything may have changed.
    pub overflow: bool,
    /// Chains of ours that have another name now.
    pub renamed: BTreeSet<ChainRef>,
}

/// A socket that hears of every change of the ruleset.
#[derive(Debug)]
pub struct RulesetMonitor {
    socket: OwnedFd,
    heard: Heard,
    buffer: Vec<u8>,
}

/// What is known of our chains, and of a transaction before it is known whose it is. Does no I/O.
#[derive(Debug, Default)]
pub struct Heard {
    /// Our own thread, as [`Generation`] names it.
    own: u32,
    /// Our chains, by their handles, whatever their names.
    ours: BTreeMap<TableRef, BTreeSet<u64>>,
    /// Whether the transaction touches what matters.
    has_touched: bool,
    /// Chains that it makes or changes, with their handles.
    chains: Vec<(ChainRef, u64)>,
    /// Makes a recording of what our own thread makes, while there is to be one.
    recorder: Option<Recorder>,
}

/// `NFNLGRP_NFTABLES` as a bit of the mask at bind(2).
const GROUPS: u32 = 1 << (7 - 1);

/// Room for the notifications of a large reload, in bytes; in use only while they wait to be read.
const WAITING_ROOM: usize = 4 << 20;

/// The same without the right to exceed the system's limit.
const MODEST_WAITING_ROOM: usize = 1 << 20;

impl RulesetMonitor {
    /// Listens in the current network namespace, without ever blocking. What the thread `own` does (see
    /// [`super::Nftables::generation`]) is not reported.
    ///
    /// # Errors
    /// The system's.
    pub fn open(own: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = connect(SockProtocol::NetlinkNetFilter, flags, GROUPS)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &WAITING_ROOM).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &MODEST_WAITING_ROOM)?;
        }
        Ok(Self { socket, heard: Heard::by(own), buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Begins a recording of what our own thread makes from now on, as far as it is drained.
    pub fn record(&mut self) {
        self.heard.record();
    }

    /// Ends the recording; none if not all could be recorded.
    pub fn recorded(&mut self) -> Option<Recording> {
        self.heard.recorded()
    }

    /// Reads all that waits.
    ///
    /// # Errors
    /// The system's.
    pub fn drain(&mut self, interest: &Interest) -> io::Result<Change> {
        let mut change = Change::default();
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => self.heard.take(&self.buffer[..length], interest, &mut change),
                Err(Errno::EAGAIN) => return Ok(change),
                Err(Errno::ENOBUFS) => {
                    change.overflow = true;
                    self.heard.recorder.iter_mut().for_each(Recorder::give_up);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Heard {
    /// Nothing so far, by the thread `own`, of which nothing is reported.
    pub fn by(own: u32) -> Self {
        Self { own, ..Self::default() }
    }

    /// Takes in a datagram, and adds to `change` what others did.
    pub fn take(&mut self, datagram: &[u8], interest: &Interest, change: &mut Change) {
        for message in messages(datagram) {
            self.note(&message, interest);
            if let Some(generation) = Generation::of(&message) {
                self.end(generation, change);
            }
        }
    }

    /// See [`RulesetMonitor::record`].
    pub fn record(&mut self) {
        self.recorder = Some(Recorder::default());
    }

    /// See [`RulesetMonitor::recorded`].
    pub fn recorded(&mut self) -> Option<Recording> {
        self.recorder.take()?.finish()
    }

    fn note(&mut self, message: &Message, interest: &Interest) {
        self.recorder.iter_mut().for_each(|recorder| recorder.take(message));
        self.has_touched |= interest.is_touched_by(message) == Some(true);
        if message.nf_tables() == Some(NFT_MSG_NEWCHAIN)
            && let Some(chain) = message.chain(NFTA_CHAIN_NAME)
            && let Some(handle) = message.long_number(NFTA_CHAIN_HANDLE)
        {
            self.chains.push((chain, handle));
        }
    }

    /// The transaction was the one that made this generation.
    fn end(&mut self, by: Generation, change: &mut Change) {
        self.recorder.iter_mut().for_each(|recorder| recorder.end(by.thread == self.own));
        let has_touched = std::mem::take(&mut self.has_touched);
        let chains = std::mem::take(&mut self.chains).into_iter();
        let (named_ours, others): (Vec<_>, Vec<_>) = chains.partition(|(chain, _)| is_ours(&chain.name));
        if by.thread != self.own {
            let is_renamed = |(chain, handle): &(ChainRef, u64)| {
                self.ours.get(&chain.table).is_some_and(|handles| handles.contains(handle))
            };
            change.renamed.extend(others.into_iter().filter(is_renamed).map(|(chain, _)| chain));
            change.by = change.by.take().or(has_touched.then_some((by.name, by.thread)));
        } else if !named_ours.is_empty() {
            // A load, which makes all of them or speaks of them.
            self.ours.clear();
            for (chain, handle) in named_ours {
                self.ours.entry(chain.table).or_default().insert(handle);
            }
        }
    }
}

impl AsRawFd for RulesetMonitor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
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
        messages(&bytes).any(|message| interest.is_touched_by(&message) == Some(true))
    }

    #[test]
    fn elements_deleted_from_our_sets_and_from_those_of_interest_count() {
        let interest = Interest { sets: [set_in("filter", "allowed")].into(), ..Interest::default() };
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
    fn added_elements_count_in_sets_of_ours_only() {
        for (set, expected) in [(set_in("filter", "scnpm.out.1"), true), (set_in("filter", "allowed"), false)]
        {
            let interest = Interest { sets: [set_in("filter", "allowed")].into(), ..Interest::default() };
            let key = crate::nft::message::RawKey::Cgroup(CgroupId(1));
            let mut batch = Batch::new(1);
            batch.add(&[crate::nft::message::RawElement { set: &set, key, data: None }]);
            assert_eq!(touched(&interest, batch), expected, "{set}");
        }
    }
}
