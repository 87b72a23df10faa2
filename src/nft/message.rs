//! nfnetlink messages of nf_tables as bytes, just the few that are needed. Pure.
//!
//! [`writing`] makes messages, and [`reading`] takes them apart. What both need is here: the kernel's numbers, and how integers,
//! comments and families are encoded.
//!
//! Integers of the netlink layer are in host order, those of nf_tables in network order.

mod reading;
mod writing;

use crate::model::Family;

pub(crate) use reading::{Message, messages};
pub(super) use reading::{attribute, attributes};
pub(super) use writing::{Batch, RawElement, RawKey, Timed, opening, request};
pub(crate) use writing::{close, nest, text, value};

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

/// nft's own comment of an element (`NFTNL_UDATA_SET_ELEM_COMMENT`, its length, and [`MARK`](crate::dispatch::MARK) with a NUL), which
/// `nft list` shows.
const MARK_OF_OURS: [u8; 8] = [0, 6, b's', b'c', b'n', b'p', b'm', 0];

/// How a comment begins in an element's own data (`NFTNL_UDATA_SET_ELEM_COMMENT`).
const COMMENT: u8 = 0;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
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
