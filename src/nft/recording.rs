//! What the kernel says that a load of ours made, as requests that make the same again. Pure.
//!
//! The kernel tells what it made in its own attributes, which it takes back as they are, but for what it adds itself:
//! handles, counts of users, what counters have counted. A request for a set has a number besides, by which the same
//! transaction refers to an inline set, whose name the kernel chooses anew.
//!
//! Only what is known to be made by this, and to mean the same whenever it is made, is kept; else there is no recording. So
//! there is none of interface indexes, users and hours, which nft makes of words at each load.

use std::collections::{BTreeMap, BTreeSet};

use libc::{
    NFT_MSG_NEWCHAIN, NFT_MSG_NEWOBJ, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE,
};

use super::message::{
    Message, NFT_OBJECT_COUNTER, NFT_OBJECT_LIMIT, NFT_OBJECT_QUOTA, NFTA_CHAIN_NAME, NFTA_COUNTER_BYTES,
    NFTA_COUNTER_PACKETS, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_LIST_ELEM, NFTA_LOOKUP_SET, NFTA_OBJ_DATA,
    NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_QUOTA_CONSUMED, NFTA_RULE_EXPRESSIONS, NFTA_SET, NFTA_SET_ELEM_DATA,
    NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_USERDATA,
    NFTA_SET_FLAGS, NFTA_TABLE, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, attribute, attributes, close, nest,
    opening, value,
};
use crate::model::{PREFIX, TableRef};

/// The most that is kept, in bytes: that of some 3,000 rules.
const MOST: usize = 2 << 20;

/// A message that is longer is not kept: its copy, which may be longer, has to fit into an attribute. In bytes.
const LONGEST: usize = 16 << 10;

const NFTA_SET_ID: u16 = 10;
const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
const NFTA_SET_ELEM_OBJREF: u16 = 9;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_LOOKUP_SET_ID: u16 = 4;
const NFTA_META_KEY: u16 = 2;
const NFTA_SOCKET_KEY: u16 = 1;
const NFTA_OBJREF_SET_NAME: u16 = 4;
const NFT_SET_ANONYMOUS: u32 = 1;
const NFT_SOCKET_CGROUPV2: u32 = 3;

/// The flags of a request for something that must not be there.
const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// The attributes of what a rule may need (nf_tables.h): those that are given back as they are, and those that are the
/// kernel's own. With any other, nothing is kept.
struct Known {
    same: &'static [u16],
    own: &'static [u16],
}

/// Table, name, comment; handle and count of users. One with a hook or flags is not of ours.
const CHAIN: Known = Known { same: &[1, 3, 12], own: &[2, 6] };
/// Table, flags, types and lengths, policy, description, comment; handle, the kernel's kind of set and how many it holds.
const SET: Known = Known { same: &[1, 3, 4, 5, 6, 7, 8, 9, 13], own: &[14, 16, 19, 20] };
/// Table, name, type, comment; count of users, handle.
const OBJECT: Known = Known { same: &[1, 2, 3, 8], own: &[5, 6, 7] };
/// Table, chain, comment; handle, the rule before it.
const RULE: Known = Known { same: &[1, 2, 7], own: &[3, 6, 8] };
const ELEMENT: &[u16] = &[
    NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_DATA,
    NFTA_SET_ELEM_FLAGS,
    NFTA_SET_ELEM_USERDATA,
    NFTA_SET_ELEM_OBJREF,
    NFTA_SET_ELEM_KEY_END,
];

/// Expressions without a state, whose attributes are all that there is of them.
const EXPRESSIONS: &[&[u8]] = &[
    b"bitwise\0",
    b"byteorder\0",
    b"counter\0",
    b"ct\0",
    b"immediate\0",
    b"limit\0",
    b"log\0",
    b"masq\0",
    b"nat\0",
    b"notrack\0",
    b"payload\0",
    b"range\0",
    b"redir\0",
    b"reject\0",
    b"tproxy\0",
];
/// Keys of `meta` (`enum nft_meta_keys`) that nft has for names itself, or none: length, protocol, mark, names and types of
/// interfaces, nftrace, protocols again, names of bridges, packet type, CPU.
const META: &[u32] = &[0, 1, 3, 6, 7, 8, 9, 12, 15, 16, 17, 18, 19, 20];

/// Requests that make a load's sets, chains, counters and rules again, without elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recording {
    /// Whole messages, whose numbers are still to be given.
    pub(super) messages: Vec<u8>,
    /// How many sets, chains and counters it makes that have a name.
    pub objects: usize,
}

/// Makes a recording of what it hears.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    /// Of a transaction before it is known whose it is.
    pending: Transaction,
    done: Option<Recording>,
    is_lost: bool,
}

/// What a transaction makes.
#[derive(Debug, Default)]
struct Transaction {
    recording: Recording,
    /// How many sets, and the numbers of those that are inline.
    sets: u32,
    inline: BTreeMap<(TableRef, Vec<u8>), u32>,
    is_broken: bool,
}

impl Recorder {
    /// Takes in what belongs to a transaction.
    pub(super) fn take(&mut self, message: &Message) {
        let pending = &mut self.pending;
        if !pending.is_broken && pending.note(message).is_none() {
            *pending = Transaction { is_broken: true, ..Transaction::default() };
        }
    }

    /// Notes that messages were lost.
    pub(super) fn give_up(&mut self) {
        self.is_lost = true;
    }

    /// The transaction is over, and was ours or not.
    pub(super) fn end(&mut self, is_own: bool) {
        let Transaction { recording, is_broken, .. } = std::mem::take(&mut self.pending);
        if is_own {
            self.is_lost |= is_broken;
            if recording != Recording::default() {
                self.is_lost |= self.done.replace(recording).is_some();
            }
        }
    }

    /// What was recorded, if that is all.
    pub(super) fn finish(self) -> Option<Recording> {
        let mut recording = self.done.unwrap_or_default();
        recording.messages.shrink_to_fit();
        (!self.is_lost).then_some(recording)
    }
}

impl Transaction {
    fn note(&mut self, message: &Message) -> Option<()> {
        match message.nf_tables() {
            Some(NFT_MSG_NEWSET) => self.set(message),
            Some(NFT_MSG_NEWCHAIN) => self.object(message, &CHAIN, |_, _, _| None),
            Some(NFT_MSG_NEWOBJ) => self.object(message, &OBJECT, |bytes, kind, data| {
                let kind_of_object = message.number(NFTA_OBJ_TYPE).filter(|_| kind == NFTA_OBJ_DATA)?;
                match kind_of_object {
                    NFT_OBJECT_COUNTER => nest(bytes, kind, zero),
                    NFT_OBJECT_QUOTA => nest(bytes, kind, |bytes| unused(bytes, data)),
                    NFT_OBJECT_LIMIT => value(bytes, kind, data),
                    _ => return None,
                }
                Some(())
            }),
            Some(NFT_MSG_NEWRULE) => self.rule(message),
            Some(NFT_MSG_NEWSETELEM) => self.elements(message),
            Some(NFT_MSG_NEWTABLE) => None,
            _ => Some(()),
        }
    }

    fn object(
        &mut self,
        message: &Message,
        known: &Known,
        other: impl FnMut(&mut Vec<u8>, u16, &[u8]) -> Option<()>,
    ) -> Option<()> {
        self.recording.objects += 1;
        self.keep(message, NEW, known, other)
    }

    fn set(&mut self, message: &Message) -> Option<()> {
        let name = bytes_of(message, NFTA_SET)?;
        let is_inline = is_inline(message);
        self.sets += 1;
        let number = self.sets;
        if is_inline {
            self.inline.insert((message.table()?, name.to_vec()), number);
        } else {
            self.recording.objects += 1;
        }
        self.keep(message, NEW, &SET, |bytes, kind, _| {
            (kind == NFTA_SET).then(|| {
                value(bytes, kind, &if is_inline { template_of(name) } else { name.to_vec() });
                value(bytes, NFTA_SET_ID, &number.to_be_bytes());
            })
        })
    }

    fn elements(&mut self, message: &Message) -> Option<()> {
        let name = bytes_of(message, NFTA_SET)?;
        // Of others the elements are those of now.
        let Some(number) = self.inline.get(&(message.table()?, name.to_vec())).copied() else {
            return Some(());
        };
        self.keep(message, NLM_F_CREATE, &Known { same: &[NFTA_TABLE], own: &[] }, |bytes, kind, list| {
            match kind {
                NFTA_SET => {
                    value(bytes, NFTA_SET, &template_of(name));
                    value(bytes, NFTA_SET_ELEM_LIST_SET_ID, &number.to_be_bytes());
                }
                NFTA_SET_ELEM_LIST_ELEMENTS => {
                    let known = |(kind, _): (u16, _)| ELEMENT.contains(&kind);
                    if !attributes(list).all(|(_, element)| attributes(element).all(known)) {
                        return None;
                    }
                    value(bytes, kind, list);
                }
                _ => return None,
            }
            Some(())
        })
    }

    fn rule(&mut self, message: &Message) -> Option<()> {
        // Kernels that do not say where a rule went do not say this either.
        if message.flags & NLM_F_CREATE == 0 {
            return None;
        }
        let table = message.table()?;
        let inline = std::mem::take(&mut self.inline);
        let number = |name: &[u8]| inline.get(&(table.clone(), name.to_vec())).copied();
        let flags = message.flags & NLM_F_APPEND | NLM_F_CREATE;
        let kept = self.keep(message, flags, &RULE, |bytes, kind, list| {
            (kind == NFTA_RULE_EXPRESSIONS).then_some(())?;
            let mut is_whole = true;
            nest(bytes, kind, |bytes| is_whole = expressions(bytes, list, number).is_some());
            is_whole.then_some(())
        });
        self.inline = inline;
        kept
    }

    /// Keeps a message with the attributes that are known, and the others as `other` writes them.
    fn keep(
        &mut self,
        message: &Message,
        flags: u16,
        known: &Known,
        mut other: impl FnMut(&mut Vec<u8>, u16, &[u8]) -> Option<()>,
    ) -> Option<()> {
        let bytes = &mut self.recording.messages;
        if message.payload.len() > LONGEST {
            return None;
        }
        let start = opening(bytes, message, flags)?;
        for (kind, payload) in attributes(message.payload.get(4..)?) {
            match kind {
                _ if known.same.contains(&kind) => value(bytes, kind, payload),
                _ if known.own.contains(&kind) => {}
                _ => other(bytes, kind, payload)?,
            }
        }
        close(bytes, start);
        (bytes.len() <= MOST).then_some(())
    }
}

/// Writes a rule's expressions. `inline` has the numbers of inline sets.
fn expressions(bytes: &mut Vec<u8>, list: &[u8], inline: impl Fn(&[u8]) -> Option<u32>) -> Option<()> {
    // Whether the packet's cgroup waits to be compared: with a named set, whose elements are those of now, and nothing else.
    let mut has_cgroup = false;
    for (_, expression) in attributes(list) {
        let name = attribute(expression, NFTA_EXPR_NAME)?;
        let data = attribute(expression, NFTA_EXPR_DATA);
        let find = |kind| attribute(data?, kind);
        let number = |kind| Some(u32::from_be_bytes(find(kind)?.try_into().ok()?));
        let is_known = match name {
            b"meta\0" => META.contains(&number(NFTA_META_KEY)?),
            b"objref\0" => find(NFTA_OBJREF_SET_NAME).is_none(),
            b"cmp\0" => !has_cgroup,
            b"lookup\0" => !(std::mem::take(&mut has_cgroup) && inline(find(NFTA_LOOKUP_SET)?).is_some()),
            b"socket\0" => {
                has_cgroup |= number(NFTA_SOCKET_KEY)? == NFT_SOCKET_CGROUPV2;
                true
            }
            name => EXPRESSIONS.contains(&name),
        };
        is_known.then_some(())?;
        nest(bytes, NFTA_LIST_ELEM, |bytes| {
            value(bytes, NFTA_EXPR_NAME, name);
            match (name, data) {
                (b"counter\0", _) => nest(bytes, NFTA_EXPR_DATA, zero),
                (b"lookup\0", Some(data)) => {
                    nest(bytes, NFTA_EXPR_DATA, |bytes| lookup(bytes, data, &inline))
                }
                (_, Some(data)) => value(bytes, NFTA_EXPR_DATA, data),
                (_, None) => {}
            }
        });
    }
    Some(())
}

fn lookup(bytes: &mut Vec<u8>, data: &[u8], inline: impl Fn(&[u8]) -> Option<u32>) {
    for (kind, payload) in attributes(data) {
        match inline(payload).filter(|_| kind == NFTA_LOOKUP_SET) {
            None => value(bytes, kind, payload),
            Some(number) => {
                value(bytes, kind, &template_of(payload));
                value(bytes, NFTA_LOOKUP_SET_ID, &number.to_be_bytes());
            }
        }
    }
}

/// What a counter that has counted nothing holds.
fn zero(bytes: &mut Vec<u8>) {
    value(bytes, NFTA_COUNTER_BYTES, &[0; 8]);
    value(bytes, NFTA_COUNTER_PACKETS, &[0; 8]);
}

/// What a quota holds of which nothing is used.
fn unused(bytes: &mut Vec<u8>, data: &[u8]) {
    let others = attributes(data).filter(|(kind, _)| *kind != NFTA_QUOTA_CONSUMED);
    others.for_each(|(kind, payload)| value(bytes, kind, payload));
}

/// What the kernel makes the name of an inline set of: `__set%d` for `__set7`.
fn template_of(name: &[u8]) -> Vec<u8> {
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    [&name[..name.len() - digits], b"%d\0"].concat()
}

/// Whether a set has no name of its own.
fn is_inline(set: &Message) -> bool {
    set.number(NFTA_SET_FLAGS).unwrap_or(0) & NFT_SET_ANONYMOUS != 0
}

fn bytes_of<'a>(message: &Message<'a>, kind: u16) -> Option<&'a [u8]> {
    attribute(message.payload.get(4..)?, kind)
}

/// What there is in some tables besides what is ours: themselves, their chains, named sets and objects as the kernel
/// describes them, but for handles and what counts. nft understands a rule by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    bytes: Vec<u8>,
    /// Whether something of ours is in any table.
    pub(super) has_ours: bool,
}

impl Surroundings {
    /// Takes in what the kernel lists.
    pub(super) fn take(&mut self, message: &Message, tables: &BTreeSet<TableRef>) {
        // Handles and users; what was counted; how many elements a set holds; the state of an object.
        let (name, changing): (_, &[u16]) = match message.nf_tables() {
            Some(NFT_MSG_NEWTABLE) => (NFTA_TABLE, &[3, 4]),
            Some(NFT_MSG_NEWCHAIN) => (NFTA_CHAIN_NAME, &[2, 6, 8]),
            Some(NFT_MSG_NEWSET) => (NFTA_SET, &[16, 20]),
            Some(NFT_MSG_NEWOBJ) => (NFTA_OBJ_NAME, &[NFTA_OBJ_DATA, 5, 6]),
            _ => return,
        };
        let is_table = name == NFTA_TABLE;
        self.has_ours |=
            !is_table && bytes_of(message, name).is_none_or(|name| name.starts_with(PREFIX.as_bytes()));
        if name == NFTA_SET && is_inline(message)
            || bytes_of(message, name).is_some_and(|name| !is_table && name.starts_with(PREFIX.as_bytes()))
            || !message.table().is_some_and(|table| tables.contains(&table))
        {
            return;
        }
        self.bytes.extend([message.kind as u8, message.payload[0]]);
        for (kind, payload) in attributes(&message.payload[4..]).filter(|(kind, _)| !changing.contains(kind))
        {
            value(&mut self.bytes, kind, payload);
        }
    }

    /// Puts what another listing has behind it.
    pub(super) fn join(&mut self, other: Self) {
        self.bytes.extend(other.bytes);
        self.has_ours |= other.has_ours;
    }

    /// Whether it is little enough to be kept.
    pub fn is_small(&self) -> bool {
        self.bytes.len() <= MOST
    }

    /// Whether it is the same as at an earlier load, and nothing of ours is there.
    pub fn are_as_before(&self, at_load: &Self) -> bool {
        !self.has_ours && self.bytes == at_load.bytes
    }
}
