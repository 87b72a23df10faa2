//! The routing rules of this network namespace that ask for marks: rtnetlink(7), which everybody may ask.

use std::io;

use nix::sys::socket::SockProtocol;

use super::{
    listing::Listing,
    message::{Message, attribute},
};
use crate::model::MaskedMark;

/// `RTM_GETRULE`.
const GET_RULE: u16 = 34;
/// The length of `struct fib_rule_hdr`, behind which attributes follow.
const HEAD: usize = 12;
/// `FRA_FWMARK`: 4 bytes in host order.
const MARK: u16 = 10;
/// `FRA_FWMASK`: the same.
const MASK: u16 = 16;
const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];

/// The marks that rules ask for: those of IPv4, and those of IPv6. A rule for all but a mark asks for it, too.
///
/// # Errors
/// The system's.
pub fn marks() -> io::Result<[Vec<MaskedMark>; 2]> {
    let mut listing = Listing::of(SockProtocol::NetlinkRoute)?;
    let mut found = [Vec::new(), Vec::new()];
    for (family, marks) in FAMILIES.into_iter().zip(&mut found) {
        let mut head = [0; HEAD];
        head[0] = family;
        listing.read(GET_RULE, &head, |message| marks.extend(mark(message)))?;
    }
    Ok(found)
}

/// The mark that a rule asks for, if it does.
fn mark(message: &Message) -> Option<MaskedMark> {
    let attributes = message.payload.get(HEAD..)?;
    let number = |kind| Some(u32::from_ne_bytes(attribute(attributes, kind)?.try_into().ok()?));
    Some(MaskedMark { mark: number(MARK)?, mask: number(MASK).unwrap_or(u32::MAX) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(payload: &[u8]) -> Option<MaskedMark> {
        mark(&Message { kind: 32, flags: 0, seq: 1, payload })
    }

    /// An attribute with a number of 4 bytes.
    fn number(kind: u16, value: u32) -> Vec<u8> {
        [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_ne_bytes()].concat()
    }

    #[test]
    fn kernel_tells_its_rules() {
        marks().unwrap();
    }

    #[test]
    fn mark_and_mask_of_a_rule_are_read() {
        let rule = [vec![0; HEAD], number(15, 51), number(MARK, 0x51), number(MASK, 0xff)].concat();
        assert_eq!(of(&rule), Some(MaskedMark { mark: 0x51, mask: 0xff }));
        assert_eq!(of(&[vec![0; HEAD], number(15, 254)].concat()), None);
        for length in 0..HEAD + 16 {
            assert_eq!(of(&rule[..length]), None, "{length}");
        }
    }
}
