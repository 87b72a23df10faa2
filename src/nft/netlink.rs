//! The little nfnetlink that libnftables cannot do, or only slowly: put elements in by cgroup id, delete and list
//! them, also when the cgroup is long gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use libc::{
    NFT_MSG_GETCHAIN, NFT_MSG_GETGEN, NFT_MSG_GETOBJ, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETSETELEM,
    NFT_MSG_GETTABLE, NFT_MSG_NEWGEN, c_int,
};
use litemap::LiteMap;
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
            setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

use super::{
    kernel::ElementChange,
    message::{
        Batch, Message, NFTA_GEN_ID, NFTA_GEN_PROC_NAME, NFTA_GEN_PROC_PID, NLM_F_ACK, NLM_F_DUMP,
        NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, RawElement, RawKey, Timed, messages, request,
    },
    recording::{Recording, Surroundings},
};
use crate::{
    answers::{self, Kept, Version},
    gather::sort_by_key,
    model::{Addresses, CgroupId, Count, CounterRef, PREFIX, Recorded, SetRef, TableRef},
};

/// Requests to nf_tables, and what becomes of them.
#[derive(Debug)]
pub struct Netlink<W = Socket> {
    wire: W,
    seq: u32,
    buffer: Vec<u8>,
}

/// What requests go out by and answers come in by.
pub trait Wire {
    /// Sends a request.
    ///
    /// # Errors
    /// The system's.
    fn send(&mut self, request: &[u8]) -> io::Result<()>;

    /// Waits for a datagram and tells its length.
    ///
    /// # Errors
    /// The system's; `TimedOut` if none comes.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A socket to nf_tables.
#[derive(Debug)]
pub struct Socket(OwnedFd);

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
        let socket = connect(SockProtocol::NetlinkNetFilter, SockFlag::SOCK_CLOEXEC, 0)?;
        // The answers are there before `send` returns; the time limit is for what nobody thought of.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
        // Without the rights, large batches are refused with EMSGSIZE.
        let _ = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
        Ok(Self::over(Socket(socket)))
    }
}

impl<W: Wire> Netlink<W> {
    /// Requests that go over this wire.
    pub fn over(wire: W) -> Self {
        Self { wire, seq: 1, buffer: vec![0; RECEIVE_BUFFER] }
    }

    /// The ruleset's generation, and this thread as nf_tables names the author of a change. Works for whoever may change the
    /// ruleset.
    ///
    /// # Errors
    /// The kernel's.
    pub fn generation(&mut self) -> io::Result<Generation> {
        let mut generation = None;
        self.ask(NFT_MSG_GETGEN, NLM_F_ACK, None, |message| {
            generation = generation.take().or(Generation::of(message));
        })?;
        generation.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The tables.
    ///
    /// # Errors
    /// The kernel's; `Interrupted` for a ruleset that changes all the time.
    pub fn tables(&mut self) -> io::Result<Vec<Table>> {
        self.list(NFT_MSG_GETTABLE, None, |message, tables: &mut Vec<Table>| {
            tables.extend(message.table().map(|table| Table { table, is_owned: message.is_owned() }));
        })
    }

    /// Whether a set or map has ids of cgroups as its keys, and nothing else.
    ///
    /// # Errors
    /// `NotFound` for no such set.
    pub fn is_set_of_cgroups(&mut self, set: &SetRef) -> io::Result<bool> {
        let mut is_one = false;
        self.ask(NFT_MSG_GETSET, NLM_F_ACK, Some(set), |message| is_one |= message.is_set_of_cgroups())?;
        Ok(is_one)
    }

    /// See [`Kernel::change`](super::Kernel::change). What is to be added and is there with the same data is fine.
    ///
    /// # Errors
    /// The first of the kernel's.
    pub fn change(&mut self, changes: &[ElementChange<'_>]) -> io::Result<()> {
        let mut batch = Batch::new(self.seq);
        put_in(&mut batch, changes);
        self.commit(batch)
    }

    /// See [`Kernel::surroundings`](super::Kernel::surroundings).
    ///
    /// # Errors
    /// The kernel's; `Interrupted` for a ruleset that changes all the time.
    pub fn surroundings(&mut self, tables: &BTreeSet<TableRef>) -> io::Result<Surroundings> {
        let mut all = Surroundings::default();
        for kind in [NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETSET, NFT_MSG_GETOBJ] {
            all.join(self.list(kind, None, |message, found: &mut Surroundings| found.take(message, tables))?);
        }
        Ok(all)
    }

    /// See [`Kernel::repeat`](super::Kernel::repeat).
    ///
    /// # Errors
    /// The first of the kernel's; `ERESTART` if the ruleset is another generation.
    pub fn repeat(
        &mut self,
        generation: u32,
        recording: &Recording,
        elements: &[ElementChange<'_>],
    ) -> io::Result<()> {
        let mut batch = Batch::for_generation(self.seq, generation);
        batch.repeat(&recording.messages);
        put_in(&mut batch, elements);
        self.commit(batch)
    }

    /// See [`Kernel::fill`](super::Kernel::fill).
    ///
    /// # Errors
    /// The first of the kernel's.
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

    /// The cgroup ids in a set or map, that is its keys of 8 bytes, and whether each has our mark.
    ///
    /// # Errors
    /// `NotFound` for no such set, `Interrupted` for a ruleset that changes all the time.
    pub fn elements(&mut self, set: &SetRef) -> io::Result<BTreeMap<CgroupId, bool>> {
        self.list(NFT_MSG_GETSETELEM, Some(set), |message, ids: &mut BTreeMap<_, _>| {
            ids.extend(message.cgroup_keys());
        })
    }

    /// What is in a set or map.
    ///
    /// # Errors
    /// `NotFound` for no such set, `Interrupted` for a ruleset that changes all the time.
    pub fn content(&mut self, set: &SetRef) -> io::Result<Content> {
        self.list(NFT_MSG_GETSETELEM, Some(set), |message, content: &mut Content| {
            for key in message.keys() {
                match key {
                    Some(id) => drop(content.ids.insert(id)),
                    None => content.others += 1,
                }
            }
        })
    }

    /// The addresses in a set of a user's; nothing if there is no such set, or none that addresses can be put into for a time.
    ///
    /// # Errors
    /// The kernel's; `Interrupted` for a ruleset that changes all the time.
    pub fn addresses(&mut self, set: &SetRef) -> io::Result<Option<(Version, BTreeMap<IpAddr, Kept>)>> {
        let mut version = None;
        let asked = self.ask(NFT_MSG_GETSET, NLM_F_ACK, Some(set), |message| {
            version = version.or_else(|| message.version());
        });
        let content = asked.and_then(|()| {
            self.list(NFT_MSG_GETSETELEM, Some(set), |message, all: &mut BTreeMap<_, _>| {
                all.extend(message.addresses());
            })
        });
        match content {
            Ok(content) => Ok(version.map(|version| (version, content))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has addresses in sets, for a time, or not any more, in one transaction. An element that is there keeps its old time unless it
    /// is deleted first (Linux 6.12 and later can change it); and what is deleted must be there, so it is put in first.
    ///
    /// # Errors
    /// The first of the kernel's; nothing is changed then.
    pub fn apply(&mut self, changes: &[answers::Change]) -> io::Result<()> {
        let mut sets: LiteMap<&SetRef, (Vec<Timed>, usize)> = LiteMap::new();
        let mut ordered: Vec<&answers::Change> = changes.iter().collect();
        // What stays comes first.
        sort_by_key(&mut ordered, |change| matches!(change, answers::Change::Release { .. }));
        for change in ordered {
            match change {
                answers::Change::Hold { set, address, time, name } => {
                    let (all, stay) = sets.entry(set).or_default();
                    all.push(Timed { address: *address, time: *time, name: name.clone() });
                    *stay += 1;
                }
                answers::Change::Release { set, address } => {
                    let gone = Timed { address: *address, time: Duration::from_secs(1), name: None };
                    sets.entry(set).or_default().0.push(gone);
                }
            }
        }
        let mut batch = Batch::new(self.seq);
        for (set, (all, stay)) in sets {
            let key = |one: &Timed| RawKey::Address { address: one.address, is_end: false };
            let raw: Vec<RawElement<'_>> =
                all.iter().map(|one| RawElement { set, key: key(one), data: None }).collect();
            batch.hold(set, &all);
            batch.delete(&raw);
            batch.hold(set, &all[..stay]);
        }
        self.commit(batch)
    }

    /// What a set has recorded of packets that were refused.
    ///
    /// # Errors
    /// `NotFound` for no such set, `Interrupted` for a ruleset that changes all the time.
    pub fn recorded(&mut self, set: &SetRef) -> io::Result<Vec<Recorded>> {
        self.list(NFT_MSG_GETSETELEM, Some(set), |message, all: &mut Vec<_>| all.extend(message.recorded()))
    }

    /// The sets and maps that rules look something up in, outside of inline sets.
    ///
    /// # Errors
    /// The kernel's; `Interrupted` for a ruleset that changes all the time.
    pub fn looked_up(&mut self) -> io::Result<BTreeSet<SetRef>> {
        self.list(NFT_MSG_GETRULE, None, |message, sets: &mut BTreeSet<SetRef>| {
            sets.extend(message.looked_up());
        })
    }

    /// Our counters, and what they have counted. They go on from there.
    ///
    /// # Errors
    /// The kernel's; `Interrupted` for a ruleset that changes all the time.
    pub fn counters(&mut self) -> io::Result<BTreeMap<CounterRef, Count>> {
        self.list(NFT_MSG_GETOBJ, None, |message, counters: &mut BTreeMap<CounterRef, Count>| {
            counters.extend(message.counter().filter(|(counter, _)| counter.name.starts_with(PREFIX)));
        })
    }

    /// All of a kind, or all of a set's; the listing is begun anew whenever the ruleset changes meanwhile.
    fn list<T: Default>(
        &mut self,
        kind: c_int,
        set: Option<&SetRef>,
        take: impl Fn(&Message, &mut T),
    ) -> io::Result<T> {
        for _ in 0..LISTINGS {
            let mut found = T::default();
            let mut is_whole = true;
            self.ask(kind, NLM_F_DUMP, set, |message| {
                is_whole &= message.flags & NLM_F_DUMP_INTR == 0;
                take(message, &mut found);
            })?;
            if is_whole {
                return Ok(found);
            }
        }
        Err(Errno::EINTR.into())
    }

    /// Asks something and hears all answers, of which the last says whether it could be done.
    fn ask(
        &mut self,
        kind: c_int,
        flags: u16,
        set: Option<&SetRef>,
        mut hear: impl FnMut(&Message),
    ) -> io::Result<()> {
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        self.wire.send(&request(kind, flags, seq, set))?;
        self.receive(|message| {
            if message.seq != seq {
                return None;
            }
            hear(message);
            matches!(message.kind, NLMSG_ERROR | NLMSG_DONE).then(|| outcome(message))
        })
    }

    /// Sends a batch and waits until the kernel has said what became of it.
    fn commit(&mut self, batch: Batch) -> io::Result<()> {
        let whole = batch.first;
        let Some(last) = batch.last() else { return Ok(()) };
        let (bytes, next) = batch.finish();
        self.seq = next;
        self.wire.send(&bytes)?;
        let mut first_failure = Ok(());
        self.receive(|message| {
            // What is left of a batch that was given up is passed over.
            let is_of_batch = message.seq.wrapping_sub(whole) <= last.wrapping_sub(whole);
            if message.kind != NLMSG_ERROR || !is_of_batch {
                return None;
            }
            if first_failure.is_ok() {
                first_failure = outcome(message);
            }
            let is_end = message.seq == last || (message.seq == whole && message.error() != 0);
            is_end.then_some(Ok(()))
        })?;
        first_failure
    }

    /// Reads answers until `take` has an outcome.
    fn receive(&mut self, mut take: impl FnMut(&Message) -> Option<io::Result<()>>) -> io::Result<()> {
        loop {
            let length = self.wire.receive(&mut self.buffer)?;
            for message in messages(&self.buffer[..length]) {
                if let Some(outcome) = take(&message) {
                    return outcome;
                }
            }
        }
    }
}

impl Wire for Socket {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        loop {
            match send(self.0.as_raw_fd(), request, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn put_in(batch: &mut Batch, changes: &[ElementChange<'_>]) {
    for run in
        changes.chunk_by(|a, b| a.is_addition() == b.is_addition() && a.is_of_cgroup() && b.is_of_cgroup())
    {
        match run {
            [ElementChange::Delete { set, id: None }] => batch.flush(set),
            [first, ..] => {
                let elements: Vec<RawElement<'_>> = run.iter().map(ElementChange::raw).collect();
                if first.is_addition() { batch.add(&elements) } else { batch.delete(&elements) }
            }
            [] => {}
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

/// What is in a set or map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Its keys of 8 bytes.
    pub ids: BTreeSet<CgroupId>,
    /// How many others it has.
    pub others: usize,
}

/// A table, and whether it is for the process alone that made it (nft(8), `flags owner`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The table.
    pub table: TableRef,
    /// Whether it is.
    pub is_owned: bool,
}

/// A state of the ruleset, which each transaction that changes something ends with (`NFT_MSG_NEWGEN`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number: one more than that of the state before.
    pub id: u32,
    /// The thread that made it, or that asks for it, as the kernel numbers it outside of all namespaces.
    pub thread: u32,
    /// The thread's name.
    pub name: String,
}

impl Generation {
    pub(super) fn of(message: &Message) -> Option<Self> {
        message.nf_tables().filter(|kind| *kind == NFT_MSG_NEWGEN)?;
        Some(Self {
            id: message.number(NFTA_GEN_ID)?,
            thread: message.number(NFTA_GEN_PROC_PID)?,
            name: message.text(NFTA_GEN_PROC_NAME).unwrap_or("a process").to_owned(),
        })
    }
}

/// A socket to a part of netlink, in these multicast groups (a bit mask).
pub(crate) fn connect(protocol: SockProtocol, flags: SockFlag, groups: u32) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

/// What an acknowledgement or the end of a listing says of the request.
fn outcome(message: &Message) -> io::Result<()> {
    match message.error() {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}
