//! Messages of nf_tables as they are written: requests, and batches that change elements of sets and maps.

use std::{net::IpAddr, time::Duration};

use libc::{NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, c_int};

use super::{
    COMMENT, MARK_OF_OURS, NFNL_BATCH_GENID, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES,
    NFT_SET_ELEM_INTERVAL_END, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_LIST_ELEM, NFTA_SET,
    NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_TIMEOUT, NFTA_SET_ELEM_USERDATA, NFTA_TABLE, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE,
    NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, aligned, family_number, reading::Message, u16_at,
    u32_at,
};
use crate::{
    model::{CgroupId, Data, SetRef},
    policy::domains::Domain,
};

/// What libnftables itself writes beside the start of an interval that has no end
/// (`NFTNL_UDATA_SET_ELEM_FLAGS`, 4 bytes, `SET_ELEM_F_INTERVAL_OPEN`), so that nft lists it as a whole range.
const OPEN_INTERVAL: [u8; 6] = [1, 4, 1, 0, 0, 0];

/// The longest comment with its NUL (`NFTNL_UDATA_COMMENT_MAXLEN`).
const LONGEST_COMMENT: usize = 128;

/// The most bytes that the elements of one message may take: an attribute's length has 16 bits.
const ROOM: usize = 60_000;

/// An element's key as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::nft) enum RawKey {
    /// The key of a set of type cgroupsv2.
    Cgroup(CgroupId),
    /// The range of all packet marks, in an interval set of type mark.
    AllMarks,
    /// An address, or the first one behind an interval.
    Address { address: IpAddr, is_end: bool },
}

/// An element as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) struct RawElement<'a> {
    pub(in crate::nft) set: &'a SetRef,
    pub(in crate::nft) key: RawKey,
    pub(in crate::nft) data: Option<&'a Data>,
}

/// An address in a user's set that goes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nft) struct Timed {
    pub(in crate::nft) address: IpAddr,
    pub(in crate::nft) time: Duration,
    /// The name that it is there for.
    pub(in crate::nft) name: Option<Domain>,
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

/// Messages that the kernel carries out together or not at all.
#[derive(Debug)]
pub(in crate::nft) struct Batch {
    bytes: Vec<u8>,
    /// The number of the message that opens the batch: what fails the batch as a whole is answered to it.
    pub(in crate::nft) first: u32,
    next: u32,
    /// Where the last message begins.
    opened: usize,
}

impl Batch {
    /// An empty batch; its messages are numbered from `seq` on.
    pub(in crate::nft) fn new(seq: u32) -> Self {
        let mut batch = Self { bytes: Vec::new(), first: seq, next: seq, opened: 0 };
        batch.bracket(NFNL_MSG_BATCH_BEGIN);
        batch
    }

    /// One that the kernel refuses (`ERESTART`) unless the ruleset is still this generation.
    pub(in crate::nft) fn for_generation(seq: u32, generation: u32) -> Self {
        let mut batch = Self::new(seq);
        value(&mut batch.bytes, NFNL_BATCH_GENID, &generation.to_be_bytes());
        close(&mut batch.bytes, 0);
        batch
    }

    /// Adds whole messages, and numbers them.
    pub(in crate::nft) fn repeat(&mut self, messages: &[u8]) {
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
    pub(in crate::nft) fn last(&self) -> Option<u32> {
        let last = self.next.wrapping_sub(1);
        (last != self.first).then_some(last)
    }

    /// Adds elements. Neighbours of the same set share a message as far as it has room.
    pub(in crate::nft) fn add(&mut self, elements: &[RawElement]) {
        self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, elements);
    }

    /// Deletes elements, whatever data they have.
    pub(in crate::nft) fn delete(&mut self, elements: &[RawElement]) {
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
    pub(in crate::nft) fn hold(&mut self, set: &SetRef, elements: &[Timed]) {
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
    pub(in crate::nft) fn flush(&mut self, set: &SetRef) {
        self.open(NFT_MSG_DELSETELEM, 0, set);
        close(&mut self.bytes, self.opened);
    }

    /// The bytes to send, and the number that is free next.
    pub(in crate::nft) fn finish(mut self) -> (Vec<u8>, u32) {
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
pub(in crate::nft) fn request(kind: c_int, flags: u16, seq: u32, set: Option<&SetRef>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = about(&mut bytes, kind, flags, seq, set);
    close(&mut bytes, message);
    bytes
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
pub(in crate::nft) fn opening(bytes: &mut Vec<u8>, message: &Message, flags: u16) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        answers::Kept,
        model::{Family, TableRef},
        nft::message::messages,
    };

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
}
