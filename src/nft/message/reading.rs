//! Messages of nf_tables as they are read: what the kernel tells of tables, chains, sets and their elements.

use std::{net::IpAddr, time::Duration};

use libc::c_int;

use super::{
    COMMENT, MARK_OF_OURS, NFNL_SUBSYS_NFTABLES, NFT_OBJECT_COUNTER, NFT_SET_INTERVAL, NFT_SET_MAP,
    NFT_SET_OBJECT, NFT_SET_TIMEOUT, NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS, NFTA_DATA_VALUE,
    NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_LOOKUP_SET, NFTA_OBJ_DATA, NFTA_OBJ_NAME, NFTA_OBJ_TYPE,
    NFTA_RULE_EXPRESSIONS, NFTA_SET, NFTA_SET_ELEM_EXPIRATION, NFTA_SET_ELEM_EXPR, NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_USERDATA, NFTA_SET_FLAGS, NFTA_SET_KEY_TYPE, NFTA_TABLE,
    NFTA_TABLE_OWNER, NLA_TYPE_MASK, TYPE_CGROUPV2, TYPE_IP6ADDR, TYPE_IPADDR, aligned, family_of, u16_at,
    u32_at,
};
use crate::{
    answers::{Kept, Version},
    model::{CgroupId, ChainRef, Count, CounterRef, Recorded, SetRef, TableRef},
    policy::domains::Domain,
};

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
    pub(in crate::nft) fn nf_tables(&self) -> Option<c_int> {
        (self.kind >> 8 == NFNL_SUBSYS_NFTABLES).then_some((self.kind & 0xff).into())
    }

    /// The table that it is about.
    pub(in crate::nft) fn table(&self) -> Option<TableRef> {
        Some(TableRef { family: family_of(*self.payload.first()?)?, name: self.text(NFTA_TABLE)?.into() })
    }

    /// The chain that it is about, whose name is in this attribute.
    pub(in crate::nft) fn chain(&self, name: u16) -> Option<ChainRef> {
        Some(ChainRef { table: self.table()?, name: self.text(name)?.into() })
    }

    /// The set that it is about.
    pub(in crate::nft) fn set(&self) -> Option<SetRef> {
        Some(SetRef { table: self.table()?, name: self.text(NFTA_SET)?.into() })
    }

    /// The text in one of its attributes.
    pub(in crate::nft) fn text(&self, kind: u16) -> Option<&'a str> {
        let value = attribute(self.payload.get(4..)?, kind)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }

    /// The number of 4 bytes in one of its attributes.
    pub(in crate::nft) fn number(&self, kind: u16) -> Option<u32> {
        let value = attribute(self.payload.get(4..)?, kind)?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    }

    /// The number of 8 bytes in one of its attributes.
    pub(in crate::nft) fn long_number(&self, kind: u16) -> Option<u64> {
        let value = attribute(self.payload.get(4..)?, kind)?;
        Some(u64::from_be_bytes(value.try_into().ok()?))
    }

    /// Whether the table that it describes is for one process alone.
    pub(in crate::nft) fn is_owned(&self) -> bool {
        self.number(NFTA_TABLE_OWNER).is_some()
    }

    /// Whether the set that it describes has ids of cgroups as its keys, and nothing else.
    pub(in crate::nft) fn is_set_of_cgroups(&self) -> bool {
        self.number(NFTA_SET_KEY_TYPE) == Some(TYPE_CGROUPV2)
            && self.number(NFTA_SET_FLAGS).unwrap_or(0) & (NFT_SET_INTERVAL | NFT_SET_OBJECT) == 0
    }

    /// What addresses the set that it describes holds, if they may expire and are single ones.
    pub(in crate::nft) fn version(&self) -> Option<Version> {
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
    pub(in crate::nft) fn addresses(self) -> impl Iterator<Item = (IpAddr, Kept)> + use<'a> {
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
    pub(in crate::nft) fn keys(self) -> impl Iterator<Item = Option<CgroupId>> + use<'a> {
        let list = self.payload.get(4..).and_then(|body| attribute(body, NFTA_SET_ELEM_LIST_ELEMENTS));
        attributes(list.unwrap_or_default()).map(|(_, element)| {
            let value = attribute(attribute(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
            Some(CgroupId(u64::from_ne_bytes(value.try_into().ok()?)))
        })
    }

    /// The sets and maps that the rule which it describes looks something up in.
    pub(in crate::nft) fn looked_up(self) -> impl Iterator<Item = SetRef> + use<'a> {
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
    pub(in crate::nft) fn counter(&self) -> Option<(CounterRef, Count)> {
        if self.number(NFTA_OBJ_TYPE)? != NFT_OBJECT_COUNTER {
            return None;
        }
        let counter = CounterRef { table: self.table()?, name: self.text(NFTA_OBJ_NAME)?.into() };
        let data = attribute(self.payload.get(4..)?, NFTA_OBJ_DATA)?;
        let number = |kind| Some(u64::from_be_bytes(attribute(data, kind)?.try_into().ok()?));
        Some((counter, Count { packets: number(NFTA_COUNTER_PACKETS)?, bytes: number(NFTA_COUNTER_BYTES)? }))
    }

    /// What a list of elements has recorded of packets ([`crate::dispatch::denials`]): cgroup, address, protocol and port.
    pub(in crate::nft) fn recorded(self) -> impl Iterator<Item = Recorded> + use<'a> {
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
    pub(in crate::nft) fn cgroup_keys(self) -> impl Iterator<Item = (CgroupId, bool)> + use<'a> {
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

pub(in crate::nft) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let found = (u16_at(bytes, 2)? & NLA_TYPE_MASK, bytes.get(4..length)?);
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(found)
    })
}

pub(in crate::nft) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Family,
        nft::message::{Batch, RawElement, RawKey},
    };

    #[test]
    fn bytes_that_are_cut_short_end_the_reading() {
        let mut batch = Batch::new(1);
        let set =
            SetRef { table: TableRef { family: Family::Inet, name: "filter".into() }, name: "a".into() };
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
