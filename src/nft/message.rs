//! nfnetlink messages of nf_tables as bytes, just the few that are needed. Pure.
//!
//! Integers of the netlink layer are in host order, those of nf_tables in network order.

use std::{net::IpAddr, time::Duration};

use libc::{NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, c_int};

use crate::model::{CgroupId, ChainRef, Count, CounterRef, Data, Family, Recorded, SetRef, TableRef};
use crate::{
    answers::{Kept, Version},
    policy::domains::Domain,
};

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_BATCH_GENID: u16 = 1;

/// `NFTA_TABLE_NAME`, and the table's name of all else.
pub(super) const NFTA_TABLE: u16 = 1;
const NFTA_TABLE_OWNER: u16 = 7;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HANDLE: u16 = 2;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
/// `NFTA_SET_NAME` and `NFTA_SET_ELEM_LIST_SET`.
pub(super) const NFTA_SET: u16 = 2;
pub(super) const NFTA_GEN_ID: u16 = 1;
pub(super) const NFTA_GEN_PROC_PID: u16 = 2;
pub(super) const NFTA_GEN_PROC_NAME: u16 = 3;
pub(super) const NFTA_OBJ_NAME: u16 = 2;
pub(super) const NFTA_OBJ_TYPE: u16 = 3;
pub(super) const NFTA_OBJ_DATA: u16 = 4;
pub(super) const NFTA_COUNTER_BYTES: u16 = 1;
pub(super) const NFTA_COUNTER_PACKETS: u16 = 2;
pub(super) const NFT_OBJECT_COUNTER: u32 = 1;
pub(super) const NFT_OBJECT_QUOTA: u32 = 2;
pub(super) const NFT_OBJECT_LIMIT: u32 = 4;
pub(super) const NFTA_QUOTA_CONSUMED: u16 = 4;
pub(super) const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_EXPR_NAME: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;
pub(super) const NFTA_LOOKUP_SET: u16 = 1;
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(super) const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
pub(super) const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_SET_ELEM_EXPR: u16 = 7;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
pub(super) const NFTA_VERDICT_CODE: u16 = 1;
pub(super) const NFTA_VERDICT_CHAIN: u16 = 2;

const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_OBJECT: u32 = 0x40;
/// nft's own numbers for the types ipv4_addr and ipv6_addr (`TYPE_IPADDR`, `TYPE_IP6ADDR`).
const TYPE_IPADDR: u32 = 7;
const TYPE_IP6ADDR: u32 = 8;
/// nft's own number for the type cgroupsv2 (`TYPE_CGROUPV2` in its datatype.h), which the kernel only keeps.
const TYPE_CGROUPV2: u32 = 46;

const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// What libnftables itself writes beside the start of an interval that has no end
/// (`NFTNL_UDATA_SET_ELEM_FLAGS`, 4 bytes, `SET_ELEM_F_INTERVAL_OPEN`), so that nft lists it as a whole range.
const OPEN_INTERVAL: [u8; 6] = [1, 4, 1, 0, 0, 0];

/// nft's own comment of an element (`NFTNL_UDATA_SET_ELEM_COMMENT`, its length, and [`MARK`](crate::dispatch::MARK) with a NUL), which
/// `nft list` shows.
const MARK_OF_OURS: [u8; 8] = [0, 6, b's', b'c', b'n', b'p', b'm', 0];

/// How a comment begins in an element's own data (`NFTNL_UDATA_SET_ELEM_COMMENT`), and the longest one with its NUL
/// (`NFTNL_UDATA_COMMENT_MAXLEN`).
const COMMENT: u8 = 0;
const LONGEST_COMMENT: usize = 128;

/// The most bytes that the elements of one message may take: an attribute's length has 16 bits.
const ROOM: usize = 60_000;

/// An element's key as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RawKey {
    /// The key of a set of type cgroupsv2.
    Cgroup(CgroupId),
    /// The range of all packet marks, in an interval set of type mark.
    AllMarks,
    /// An address, or the first one behind an interval.
    Address { address: IpAddr, is_end: bool },
}

/// An element as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawElement<'a> {
    pub(super) set: &'a SetRef,
    pub(super) key: RawKey,
    pub(super) data: Option<&'a Data>,
}

/// An address in a user's set that goes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timed {
    pub(super) address: IpAddr,
    pub(super) time: Duration,
    /// The name that it is there for.
    pub(super) name: Option<Domain>,
}

impl Timed {
    fn put(&self, bytes: &mut Vec<u8>) {
        nest(bytes, NFTA_LIST_ELEM, |bytes| {
            nest(bytes, NFTA_SET_ELEM_KEY, |bytes| match self.address {
                IpAddr::V4(address) => value(bytes, NFTA_DATA_VALUE, &address.octets()),
                IpAddr::V6(address) => value(bytes, NFTA_DATA_VALUE, &address.octets()),
            });
            let time = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX).max(1);
            value(bytes, NFTA_SET_ELEM_TIMEOUT, &time.to_be_bytes());
            let mut comment = comment_for(self.name.as_ref()).into_bytes();
            comment.push(0);
            let length = comment.len() as u8;
            value(bytes, NFTA_SET_ELEM_USERDATA, &[&[COMMENT, length], &*comment].concat());
        });
    }
}

/// The comment of an element that is there for a name. nft writes comments in quotes, as they are: a name with anything else than
/// letters, digits, `-` and `_` in it is not written.
fn comment_for(name: Option<&Domain>) -> String {
    let mark = crate::dispatch::MARK;
    let plain = name.and_then(Domain::plain).map(|name| format!("{mark} {name}"));
    plain.filter(|text| text.len() < LONGEST_COMMENT).unwrap_or_else(|| mark.to_owned())
}

/// Whether a comment is one of ours, and the name that it is for.
fn name_of_comment(data: &[u8]) -> Option<Option<Domain>> {
    let [COMMENT, length, text @ ..] = data else { return None };
    let text = str::from_utf8(text.get(..usize::from(*length))?.strip_suffix(&[0])?).ok()?;
    let rest = text.strip_prefix(crate::dispatch::MARK)?;
    if rest.is_empty() {
        return Some(None);
    }
    Some(Some(Domain::of_text(rest.strip_prefix(' ')?)?))
}

/// Messages that the kernel carries out together or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// The number of the message that opens the batch: what fails the batch as a whole is answered to it.
    pub(super) first: u32,
    next: u32,
    /// Where the last message begins.
    opened: usize,
}

impl Batch {
    /// An empty batch; its messages are numbered from `seq` on.
    pub(super) fn new(seq: u32) -> Self {
        let mut batch = Self { bytes: Vec::new(), first: seq, next: seq, opened: 0 };
        batch.bracket(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    /// One that the kernel refuses (`ERESTART`) unless the ruleset is still this generation.
    pub(super) fn for_generation(seq: u32, generation: u32) -> Self {
        let mut batch = Self::new(seq);
        value(&mut batch.bytes, NFNL_BATCH_GENID, &generation.to_be_bytes());
        close(&mut batch.bytes, 0);
        batch
    }

    /// Adds whole messages, and numbers them.
    pub(super) fn repeat(&mut self, messages: &[u8]) {
        let mut at = self.bytes.len();
        self.bytes.extend(messages);
        while let Some(length) = u32_at(&self.bytes, at) {
            self.bytes[at + 8..at + 12].copy_from_slice(&self.next.to_ne_bytes());
            self.opened = at;
            self.next = self.next.wrapping_add(1);
            at += aligned(length as usize);
        }
    }

    /// The number of the last message so far, the only one that is acknowledged if all is well: the acknowledgements of a
    /// large batch would not fit into a socket's buffer. None if there is no message.
    pub(super) fn last(&self) -> Option<u32> {
        let last = self.next.wrapping_sub(1);
        (last != self.first).then_some(last)
    }

    /// Adds elements. Neighbours of the same set share a message as far as it has room.
    pub(super) fn add(&mut self, elements: &[RawElement]) {
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, elements);
    }

    /// Deletes elements, whatever data they have.
    pub(super) fn delete(&mut self, elements: &[RawElement]) {
        self.elements(NFT_MSG_DELSETELEM, 0, elements);
    }

    fn elements(&mut self, kind: c_int, flags: u16, elements: &[RawElement]) {
        for run in elements.chunk_by(|a, b| a.set == b.set) {
            let mut rest = run;
            while let Some(first) = rest.first() {
                self.open(kind, flags, first.set);
                let mut taken = 0;
                nest(&mut self.bytes, NFTA_SET_ELEM_LIST_ELEMENTS, |bytes| {
                    let start = bytes.len();
                    for one in rest {
                        element(bytes, one);
                        taken += 1;
                        if bytes.len() - start > ROOM {
                            break;
                        }
                    }
                });
                close(&mut self.bytes, self.opened);
                rest = &rest[taken..];
            }
        }
    }

    /// Adds addresses that go by themselves to a set, as far as they are not there.
    pub(super) fn hold(&mut self, set: &SetRef, elements: &[Timed]) {
        let mut rest = elements;
        while !rest.is_empty() {
            self.open(NFT_MSG_NEWSETELEM, NLM_F_CREATE, set);
            let mut taken = 0;
            nest(&mut self.bytes, NFTA_SET_ELEM_LIST_ELEMENTS, |bytes| {
                let start = bytes.len();
                for one in rest {
                    one.put(bytes);
                    taken += 1;
                    if bytes.len() - start > ROOM {
                        break;
                    }
                }
            });
            close(&mut self.bytes, self.opened);
            rest = &rest[taken..];
        }
    }

    /// Deletes all elements of a set. An empty one is fine.
    pub(super) fn flush(&mut self, set: &SetRef) {
        self.open(NFT_MSG_DELSETELEM, 0, set);
        close(&mut self.bytes, self.opened);
    }

    /// The bytes to send, and the number that is free next.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let flags = self.opened + 6;
        let acknowledged = u16_at(&self.bytes, flags).unwrap_or_default() | NLM_F_ACK;
        self.bytes[flags..flags + 2].copy_from_slice(&acknowledged.to_ne_bytes());
        self.bracket(NFNL_MSG_BATCH_END);
        (self.bytes, self.next)
    }

    fn bracket(&mut self, kind: u16) {
        let message = header(&mut self.bytes, kind, NLM_F_REQUEST, self.next, 0, NFNL_SUBSYS_NFTABLES);
        close(&mut self.bytes, message);
        self.next = self.next.wrapping_add(1);
    }

    fn open(&mut self, kind: c_int, flags: u16, set: &SetRef) {
        self.opened = about(&mut self.bytes, kind, flags, self.next, Some(set));
        self.next = self.next.wrapping_add(1);
    }
}

/// A message to nf_tables about a set, or about none.
pub(super) fn request(kind: c_int, flags: u16, seq: u32, set: Option<&SetRef>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = about(&mut bytes, kind, flags, seq, set);
    close(&mut bytes, message);
    bytes
}

/// A message as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// The type, with the subsystem in the high byte.
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Its `enum nf_tables_msg_types`, if it is one of nf_tables.
    pub(super) fn nf_tables(&self) -> Option<c_int> {
        (self.kind >> 8 == NFNL_SUBSYS_NFTABLES).then_some((self.kind & 0xff).into())
    }

    /// The table that it is about.
    pub(super) fn table(&self) -> Option<TableRef> {
        Some(TableRef { family: family_of(*self.payload.first()?)?, name: self.text(NFTA_TABLE)?.into() })
    }

    /// The chain that it is about, whose name is in this attribute.
    pub(super) fn chain(&self, name: u16) -> Option<ChainRef> {
        Some(ChainRef { table: self.table()?, name: self.text(name)?.into() })
    }

    /// The set that it is about.
    pub(super) fn set(&self) -> Option<SetRef> {
        Some(SetRef { table: self.table()?, name: self.text(NFTA_SET)?.into() })
    }

    /// The text in one of its attributes.
    pub(super) fn text(&self, kind: u16) -> Option<&'a str> {
        let value = attribute(self.payload.get(4..)?, kind)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }

    /// The number of 4 bytes in one of its attributes.
    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        let value = attribute(self.payload.get(4..)?, kind)?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    }

    /// The number of 8 bytes in one of its attributes.
    pub(super) fn long_number(&self, kind: u16) -> Option<u64> {
        let value = attribute(self.payload.get(4..)?, kind)?;
        Some(u64::from_be_bytes(value.try_into().ok()?))
    }

    /// Whether the table that it describes is for one process alone.
    pub(super) fn is_owned(&self) -> bool {
        self.number(NFTA_TABLE_OWNER).is_some()
    }

    /// Whether the set that it describes has ids of cgroups as its keys, and nothing else.
    pub(super) fn is_set_of_cgroups(&self) -> bool {
        self.number(NFTA_SET_KEY_TYPE) == Some(TYPE_CGROUPV2)
            && self.number(NFTA_SET_FLAGS).unwrap_or(0) & (NFT_SET_INTERVAL | NFT_SET_OBJECT) == 0
    }

    /// What addresses the set that it describes holds, if they may expire and are single ones.
    pub(super) fn version(&self) -> Option<Version> {
        let flags = self.number(NFTA_SET_FLAGS).unwrap_or(0);
        let version = match self.number(NFTA_SET_KEY_TYPE)? {
            TYPE_IPADDR => Version::V4,
            TYPE_IP6ADDR => Version::V6,
            _ => return None,
        };
        let is_fit =
            flags & (NFT_SET_MAP | NFT_SET_OBJECT | NFT_SET_INTERVAL | NFT_SET_TIMEOUT) == NFT_SET_TIMEOUT;
        is_fit.then_some(version)
    }

    /// The addresses in a list of elements.
    pub(super) fn addresses(self) -> impl Iterator<Item = (IpAddr, Kept)> + use<'a> {
        let list = self.payload.get(4..).and_then(|body| attribute(body, NFTA_SET_ELEM_LIST_ELEMENTS));
        attributes(list.unwrap_or_default()).filter_map(|(_, element)| {
            let key = attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
            let address = match key.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(key).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(key).ok()?),
            };
            let left = attribute(element, NFTA_SET_ELEM_EXPIRATION).and_then(|left| left.try_into().ok());
            let name = attribute(element, NFTA_SET_ELEM_USERDATA).and_then(name_of_comment);
            // What never expires was put in by somebody else, whatever its comment says.
            let is_ours = name.is_some() && left.is_some();
            let left = Duration::from_millis(left.map_or(0, u64::from_be_bytes));
            Some((address, Kept { is_ours, name: name.flatten(), left }))
        })
    }

    /// The error number in an acknowledgement or at the end of a dump; 0 for success.
    pub(crate) fn error(&self) -> i32 {
        self.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes).wrapping_neg())
    }

    /// The keys in a list of elements: of 8 bytes, or others.
    pub(super) fn keys(self) -> impl Iterator<Item = Option<CgroupId>> + use<'a> {
        let list = self.payload.get(4..).and_then(|body| attribute(body, NFTA_SET_ELEM_LIST_ELEMENTS));
        attributes(list.unwrap_or_default()).map(|(_, element)| {
            let value = attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
            Some(CgroupId(u64::from_ne_bytes(value.try_into().ok()?)))
        })
    }

    /// The sets and maps that the rule which it describes looks something up in.
    pub(super) fn looked_up(self) -> impl Iterator<Item = SetRef> + use<'a> {
        let list = self.payload.get(4..).and_then(|body| attribute(body, NFTA_RULE_EXPRESSIONS));
        let table = self.table();
        attributes(list.unwrap_or_default()).filter_map(move |(_, expression)| {
            let name = attribute(expression, NFTA_EXPR_NAME)?;
            if name != b"lookup\0" {
                return None;
            }
            let set = attribute(attribute(expression, NFTA_EXPR_DATA)?, NFTA_LOOKUP_SET)?;
            let name = std::str::from_utf8(set.strip_suffix(&[0]).unwrap_or(set)).ok()?;
            Some(SetRef { table: table.clone()?, name: name.into() })
        })
    }

    /// The named counter that it describes, and what that has counted.
    pub(super) fn counter(&self) -> Option<(CounterRef, Count)> {
        if self.number(NFTA_OBJ_TYPE)? != NFT_OBJECT_COUNTER {
            return None;
        }
        let counter = CounterRef { table: self.table()?, name: self.text(NFTA_OBJ_NAME)?.into() };
        let data = attribute(self.payload.get(4..)?, NFTA_OBJ_DATA)?;
        let number = |kind| Some(u64::from_be_bytes(attribute(data, kind)?.try_into().ok()?));
        Some((counter, Count { packets: number(NFTA_COUNTER_PACKETS)?, bytes: number(NFTA_COUNTER_BYTES)? }))
    }

    /// What a list of elements has recorded of packets ([`crate::dispatch::denials`]): cgroup, address, protocol and port.
    pub(super) fn recorded(self) -> impl Iterator<Item = Recorded> + use<'a> {
        let list = self.payload.get(4..).and_then(|body| attribute(body, NFTA_SET_ELEM_LIST_ELEMENTS));
        attributes(list.unwrap_or_default()).filter_map(|(_, element)| {
            let key = attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
            // Each part of a concatenation begins at a multiple of four bytes.
            let (id, rest) = key.split_first_chunk()?;
            let (address, rest): (IpAddr, _) = match rest.len() {
                12 => rest.split_first_chunk::<4>().map(|(bytes, rest)| (IpAddr::from(*bytes), rest))?,
                24 => rest.split_first_chunk::<16>().map(|(bytes, rest)| (IpAddr::from(*bytes), rest))?,
                _ => return None,
            };
            let long = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
            let counter = attribute(attribute(element, NFTA_SET_ELEM_EXPR)?, NFTA_EXPR_DATA)?;
            Some(Recorded {
                cgroup: CgroupId(u64::from_ne_bytes(*id)),
                address,
                protocol: *rest.first()?,
                port: u16::from_be_bytes(*rest.get(4..)?.first_chunk()?),
                packets: long(attribute(counter, NFTA_COUNTER_PACKETS)?)?,
                left_ms: long(attribute(element, NFTA_SET_ELEM_EXPIRATION)?)?,
            })
        })
    }

    /// The keys of 8 bytes in a list of elements, and whether each has our mark.
    pub(super) fn cgroup_keys(self) -> impl Iterator<Item = (CgroupId, bool)> + use<'a> {
        let list = self.payload.get(4..).and_then(|body| attribute(body, NFTA_SET_ELEM_LIST_ELEMENTS));
        attributes(list.unwrap_or_default()).filter_map(|(_, element)| {
            let value = attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
            let id = CgroupId(u64::from_ne_bytes(value.try_into().ok()?));
            Some((id, attribute(element, NFTA_SET_ELEM_USERDATA) == Some(&MARK_OF_OURS)))
        })
    }
}

/// The messages in what was received; what is cut short at the end is left out.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            seq: u32_at(bytes, 8)?,
            payload: bytes.get(16..length)?,
        };
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(message)
    })
}

pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let found = (u16_at(bytes, 2)? & NLA_TYPE_MASK, bytes.get(4..length)?);
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(found)
    })
}

pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Begins a message of nf_tables with the set that it is about.
fn about(bytes: &mut Vec<u8>, kind: c_int, flags: u16, seq: u32, set: Option<&SetRef>) -> usize {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | kind as u16;
    let family = set.map_or(0, |set| family_number(set.table.family));
    let start = header(bytes, kind, NLM_F_REQUEST | flags, seq, family, 0);
    if let Some(set) = set {
        text(bytes, NFTA_TABLE, &set.table.name);
        text(bytes, NFTA_SET, &set.name);
    }
    start
}

/// Begins a request of the same kind as a message, without a number, and tells where, for [`close`].
pub(super) fn opening(bytes: &mut Vec<u8>, message: &Message, flags: u16) -> Option<usize> {
    Some(header(bytes, message.kind, NLM_F_REQUEST | flags, 0, *message.payload.first()?, 0))
}

/// Begins a message and tells where, for [`close`].
fn header(bytes: &mut Vec<u8>, kind: u16, flags: u16, seq: u32, family: u8, resource: u16) -> usize {
    let start = bytes.len();
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(seq.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    start
}

pub(crate) fn close(bytes: &mut [u8], start: usize) {
    let length = (bytes.len() - start) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// An attribute, and one that holds others. Nothing here comes near 64 KiB, see [`ROOM`].
pub(crate) fn nest(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend(0_u16.to_ne_bytes());
    bytes.extend((kind | NLA_F_NESTED).to_ne_bytes());
    fill(bytes);
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

pub(crate) fn value(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    bytes.extend((payload.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(aligned(bytes.len()), 0);
}

/// A name. The kernel's names have less than 256 bytes and refuses longer ones.
pub(crate) fn text(bytes: &mut Vec<u8>, kind: u16, name: &str) {
    let mut payload: Vec<u8> = name.bytes().take(1024).collect();
    payload.push(0);
    value(bytes, kind, &payload);
}

fn element(bytes: &mut Vec<u8>, element: &RawElement) {
    nest(bytes, NFTA_LIST_ELEM, |bytes| {
        nest(bytes, NFTA_SET_ELEM_KEY, |bytes| match element.key {
            RawKey::Cgroup(id) => value(bytes, NFTA_DATA_VALUE, &id.0.to_ne_bytes()),
            RawKey::AllMarks => value(bytes, NFTA_DATA_VALUE, &0_u32.to_ne_bytes()),
            RawKey::Address { address: IpAddr::V4(address), .. } => {
                value(bytes, NFTA_DATA_VALUE, &address.octets());
            }
            RawKey::Address { address: IpAddr::V6(address), .. } => {
                value(bytes, NFTA_DATA_VALUE, &address.octets());
            }
        });
        if matches!(element.key, RawKey::Address { is_end: true, .. }) {
            value(bytes, NFTA_SET_ELEM_FLAGS, &NFT_SET_ELEM_INTERVAL_END.to_be_bytes());
        }
        match element.key {
            RawKey::AllMarks => value(bytes, NFTA_SET_ELEM_USERDATA, &OPEN_INTERVAL),
            RawKey::Cgroup(_) if !element.set.is_ours() => {
                value(bytes, NFTA_SET_ELEM_USERDATA, &MARK_OF_OURS)
            }
            RawKey::Cgroup(_) | RawKey::Address { .. } => {}
        }
        if let Some((code, chain)) = element.data.and_then(verdict) {
            nest(bytes, NFTA_SET_ELEM_DATA, |bytes| {
                nest(bytes, NFTA_DATA_VERDICT, |bytes| {
                    value(bytes, NFTA_VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        text(bytes, NFTA_VERDICT_CHAIN, chain);
                    }
                });
            });
        }
    });
}

/// A verdict's number (`enum nft_verdicts`, NF_DROP, NF_ACCEPT) and chain.
fn verdict(data: &Data) -> Option<(i32, Option<&str>)> {
    match data {
        Data::Drop => Some((0, None)),
        Data::Accept => Some((1, None)),
        Data::Continue => Some((-1, None)),
        Data::Jump(chain) => Some((-3, Some(chain))),
        Data::Goto(chain) => Some((-4, Some(chain))),
        Data::Return => Some((-5, None)),
        Data::Value(_) => None,
    }
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ip => 2,
        Family::Arp => 3,
        Family::Netdev => 5,
        Family::Bridge => 7,
        Family::Ip6 => 10,
    }
}

fn family_of(number: u8) -> Option<Family> {
    [Family::Inet, Family::Ip, Family::Arp, Family::Netdev, Family::Bridge, Family::Ip6]
        .into_iter()
        .find(|family| family_number(*family) == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str) -> SetRef {
        SetRef { table: TableRef { family: Family::Inet, name: "filter".into() }, name: name.into() }
    }

    #[test]
    fn keys_of_eight_bytes_are_read_back() {
        let set = set("scnpm.a");
        let jump = Data::Jump("vpn".into());
        let ids = [CgroupId(7), CgroupId(1 << 40)];
        let elements = ids.map(|id| RawElement { set: &set, key: RawKey::Cgroup(id), data: Some(&jump) });
        let mut batch = Batch::new(10);
        batch.add(&elements);
        let (bytes, next) = batch.finish();
        let found: Vec<Message> = messages(&bytes).collect();
        assert_eq!(found.len(), 3);
        assert_eq!(next, 13);
        assert_eq!(found[1].seq, 11);
        assert_eq!(found[1].nf_tables(), Some(NFT_MSG_NEWSETELEM));
        assert_eq!(found[1].set().as_ref(), Some(&set));
        assert_eq!(found[1].cgroup_keys().collect::<Vec<_>>(), ids.map(|id| (id, false)));
    }

    #[test]
    fn elements_of_different_sets_go_into_messages_of_their_own() {
        let (a, b) = (set("a"), set("b"));
        let one = |set, id| RawElement { set, key: RawKey::Cgroup(CgroupId(id)), data: None };
        let mut batch = Batch::new(u32::MAX);
        batch.add(&[one(&a, 1), one(&b, 1), one(&b, 2)]);
        assert_eq!(batch.last(), Some(1));
        let (bytes, _) = batch.finish();
        let acknowledged = messages(&bytes).filter(|message| message.flags & NLM_F_ACK != 0);
        assert_eq!(acknowledged.map(|message| message.seq).collect::<Vec<_>>(), [1]);
        let counts: Vec<usize> = messages(&bytes).map(|message| message.cgroup_keys().count()).collect();
        assert_eq!(counts, [0, 1, 2, 0]);
    }

    #[test]
    fn elements_in_sets_of_users_have_a_mark() {
        let (ours, users) = (set("scnpm.a"), set("mine"));
        let one = |set, id| RawElement { set, key: RawKey::Cgroup(CgroupId(id)), data: None };
        let mut batch = Batch::new(1);
        batch.add(&[one(&ours, 1), one(&users, 2)]);
        let (bytes, _) = batch.finish();
        let keys: Vec<(CgroupId, bool)> =
            messages(&bytes).flat_map(|message| message.cgroup_keys()).collect();
        assert_eq!(keys, [(CgroupId(1), false), (CgroupId(2), true)]);
        assert_eq!(MARK_OF_OURS[2..7], *crate::dispatch::MARK.as_bytes());
    }

    #[test]
    fn empty_batch_has_no_last_message() {
        assert_eq!(Batch::new(7).last(), None);
    }

    #[test]
    fn no_message_outgrows_an_attribute() {
        let set = set("a");
        let jump = Data::Jump("c".repeat(250));
        let elements: Vec<RawElement> = (0..2000)
            .map(|id| RawElement { set: &set, key: RawKey::Cgroup(CgroupId(id)), data: Some(&jump) })
            .collect();
        let mut batch = Batch::new(1);
        batch.add(&elements);
        let (bytes, _) = batch.finish();
        let keys: Vec<(CgroupId, bool)> =
            messages(&bytes).flat_map(|message| message.cgroup_keys()).collect();
        assert_eq!(keys.len(), 2000);
        assert!(messages(&bytes).all(|message| message.payload.len() < usize::from(u16::MAX)));
    }

    #[test]
    fn bytes_that_are_cut_short_end_the_reading() {
        let mut batch = Batch::new(1);
        let set = set("a");
        batch.delete(&[RawElement { set: &set, key: RawKey::Cgroup(CgroupId(5)), data: None }]);
        let (bytes, _) = batch.finish();
        for length in 0..bytes.len() {
            for message in messages(&bytes[..length]) {
                let _ = (message.set(), message.cgroup_keys().count(), message.error());
            }
        }
        assert_eq!(messages(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn timed_addresses_are_read_as_they_are_written() {
        let name = |text: &str| Domain::of_text(text);
        let timed = |address: &str, name| Timed {
            address: address.parse().unwrap(),
            time: Duration::from_millis(61_000),
            name,
        };
        let long = ["a".repeat(63), "b".repeat(63), "org".to_owned()].join(".");
        let all = [
            timed("192.0.2.1", name("a.example.org")),
            timed("2001:db8::1", name("a\".example.org")),
            timed("192.0.2.2", name(&long)),
            timed("192.0.2.3", None),
        ];
        let mut batch = Batch::new(1);
        batch.hold(&set("s"), &all);
        let (bytes, _) = batch.finish();
        let message =
            messages(&bytes).find(|message| message.nf_tables() == Some(NFT_MSG_NEWSETELEM)).unwrap();
        let found: Vec<(String, Kept)> =
            message.addresses().map(|(address, kept)| (address.to_string(), kept)).collect();
        // The kernel tells how long each has left, in another attribute.
        let kept = |name| Kept { is_ours: false, name, left: Duration::ZERO };
        assert_eq!(found[0], ("192.0.2.1".to_owned(), kept(name("a.example.org"))));
        for (at, address) in [(1, "2001:db8::1"), (2, "192.0.2.2"), (3, "192.0.2.3")] {
            assert_eq!(found[at], (address.to_owned(), kept(None)));
        }
        assert_eq!(comment_for(name("a\".example.org").as_ref()), "scnpm");
    }

    #[test]
    fn comments_of_others_are_not_ours() {
        let data = |text: &str| [&[COMMENT, text.len() as u8 + 1], text.as_bytes(), b"\0"].concat();
        assert_eq!(name_of_comment(&data("scnpm")), Some(None));
        assert_eq!(name_of_comment(&data("scnpm a.b")), Some(Domain::of_text("a.b")));
        for text in ["", "scnpmx", "mine", "scnpm "] {
            assert_eq!(name_of_comment(&data(text)), None, "{text}");
        }
        assert_eq!(name_of_comment(&[1, 2, b's', 0]), None);
        assert_eq!(name_of_comment(&[0, 9, b's', 0]), None);
    }
}
