//! Which addresses are to be in which set, and until when.
//!
//! A set is the user's own. What it has beside what is written down here is left alone, and what scnpm puts in carries the name
//! that it is there for, so that a later run knows its own elements again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use litemap::LiteMap;

use super::Answer;
use crate::{
    gather::Gather,
    model::SetRef,
    policy::domains::{Domain, Fill},
};

/// How much longer than the answer's time to live an address stays: applications and caches use it up to the end of that.
pub const GRACE: Duration = Duration::from_secs(60);

/// The longest time for which an address stays without another answer.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The most addresses that a set is filled with, and the most of one name in it. What comes when there are so many is not taken:
/// nobody who floods a set can take away what is in use.
pub const OF_A_SET: usize = 1_000;
/// See [`OF_A_SET`].
pub const OF_A_NAME: usize = 64;

/// How many addresses of an answer are looked at for a set.
const TRIED: usize = 2 * OF_A_NAME;

/// What another answer has to gain before it is worth a transaction.
const WORTH: Duration = Duration::from_secs(30);

/// How many names are remembered for each address.
const NAMES: usize = 8;

/// What addresses a set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `ipv4_addr`.
    V4,
    /// `ipv6_addr`.
    V6,
}

impl Version {
    fn is_of(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// An element that is in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Whether scnpm put it in.
    pub is_ours: bool,
    /// The name that it is there for, if that is known.
    pub name: Option<Domain>,
    /// How long it stays.
    pub left: Duration,
}

/// What is to be done to the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Have an address in a set for so long from now on, whether it is there already or not.
    Hold {
        /// The set.
        set: SetRef,
        /// The address.
        address: IpAddr,
        /// How long.
        time: Duration,
        /// The name that it is there for.
        name: Option<Domain>,
    },
    /// Take one out.
    Release {
        /// The set.
        set: SetRef,
        /// The address.
        address: IpAddr,
    },
}

/// What is in the sets.
#[derive(Debug, Default)]
pub struct Book {
    fills: Vec<Fill>,
    sets: LiteMap<SetRef, Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    /// Nothing while the kernel has no such set, or none that can be filled.
    version: Option<Version>,
    held: LiteMap<IpAddr, Held>,
    /// Elements that scnpm did not put in, in order.
    of_others: Vec<IpAddr>,
    /// How many addresses were not taken because there were too many.
    too_many: u64,
}

#[derive(Debug)]
struct Held {
    until: Duration,
    /// The names that it is there for, as far as they are known: the last ones.
    names: Vec<Domain>,
}

impl Book {
    /// The sets that are to be filled.
    pub fn sets(&self) -> impl Iterator<Item = &SetRef> {
        self.sets.keys()
    }

    /// How many addresses there are in all sets, and how many were not taken because there were too many.
    pub fn figures(&self) -> (usize, u64) {
        let figures = self.sets.values().map(|pages| (pages.held.len(), pages.too_many));
        figures.fold((0, 0), |(held, refused), (more, too_many)| (held + more, refused + too_many))
    }

    /// Turns to another policy. What it does not want any more goes.
    pub fn turn_to(&mut self, fills: &[Fill]) -> Vec<Change> {
        self.fills = fills.to_vec();
        let wanted: BTreeSet<&SetRef> = fills.iter().flat_map(|fill| &fill.sets).map(|(set, _)| set).gather();
        let mut changes = Vec::new();
        for (set, pages) in &mut self.sets {
            let addresses = std::mem::take(&mut pages.held);
            let (stay, go) = addresses.into_iter().partition(|(address, held)| {
                wanted.contains(set) && is_wanted(fills, set, *address, &held.names)
            });
            pages.held = stay;
            let go: LiteMap<IpAddr, Held> = go;
            changes.extend(go.into_iter().map(|(address, _)| Change::Release { set: set.clone(), address }));
        }
        self.sets.retain(|set, _| wanted.contains(set));
        for set in wanted {
            self.sets.entry(set.clone()).or_default();
        }
        changes
    }

    /// Takes in what the kernel has of a set: nothing if there is none, or none that can be filled. What is missing of what has time
    /// left is put in again; what an earlier run has left is taken over, or goes if it is not wanted.
    pub fn found(
        &mut self,
        now: Duration,
        set: &SetRef,
        content: Option<(Version, BTreeMap<IpAddr, Kept>)>,
    ) -> Vec<Change> {
        self.expire(now);
        let Some(pages) = self.sets.get_mut(set) else { return vec![] };
        let Some((version, content)) = content else {
            pages.version = None;
            return vec![];
        };
        pages.version = Some(version);
        pages.of_others =
            content.iter().filter(|(_, kept)| !kept.is_ours).map(|(address, _)| *address).collect();
        pages
            .held
            .retain(|address, _| version.is_of(*address) && pages.of_others.binary_search(address).is_err());
        let mut changes = Vec::new();
        for (address, kept) in content.iter().filter(|(_, kept)| kept.is_ours) {
            if pages.held.contains_key(address) {
                continue;
            }
            let names: Vec<Domain> = kept.name.clone().into_iter().collect();
            if is_wanted(&self.fills, set, *address, &names) {
                pages.held.insert(*address, Held { until: now + kept.left, names });
            } else {
                changes.push(Change::Release { set: set.clone(), address: *address });
            }
        }
        let missing = pages.held.iter().filter(|(address, _)| !content.contains_key(address));
        changes.extend(missing.map(|(address, held)| hold(set, *address, held, now)));
        changes
    }

    /// Takes in an answer.
    pub fn heard(&mut self, now: Duration, answer: &Answer) -> Vec<Change> {
        let mut changes = BTreeMap::new();
        for name in &answer.asked {
            let fills: Vec<&Fill> = self.fills.iter().filter(|fill| fill.wants(name)).collect();
            if fills.is_empty() {
                continue;
            }
            let addresses = answer.addresses(name);
            for fill in fills {
                for (set, _) in &fill.sets {
                    let Some(pages) = self.sets.get_mut(set) else { continue };
                    let Some(version) = pages.version else { continue };
                    let is_for_set = |address| version.is_of(address) && is_fit(address, fill.is_global);
                    let of_set = addresses.iter().filter(|(address, _)| is_for_set(*address));
                    for (number, (address, ttl)) in of_set.enumerate() {
                        if number >= TRIED {
                            pages.too_many += 1;
                        } else if pages.take(now, name, *address, *ttl) {
                            let change = hold(set, *address, &pages.held[address], now);
                            changes.insert((set.clone(), *address), change);
                        }
                    }
                }
            }
        }
        changes.into_values().collect()
    }

    /// Forgets what has gone from the kernel by itself.
    pub fn expire(&mut self, now: Duration) {
        for (_, pages) in &mut self.sets {
            pages.held.retain(|_, held| held.until > now);
        }
    }

    /// Notes that the kernel does not take an address.
    pub fn refused(&mut self, set: &SetRef, address: IpAddr) {
        if let Some(pages) = self.sets.get_mut(set) {
            pages.held.remove(&address);
        }
    }
}

impl Pages {
    /// Whether an address of a name is to be put in, or to stay for longer.
    fn take(&mut self, now: Duration, name: &Domain, address: IpAddr, ttl: u32) -> bool {
        if self.of_others.binary_search(&address).is_ok() {
            return false;
        }
        let until = now + (Duration::from_secs(ttl.into()) + GRACE).min(LONGEST);
        if let Some(held) = self.held.get_mut(&address).filter(|held| held.until > now) {
            if !held.names.contains(name) {
                if held.names.len() == NAMES {
                    held.names.remove(0);
                }
                held.names.push(name.clone());
            }
            let is_worth_it = until > held.until + WORTH;
            if is_worth_it {
                held.until = until;
            }
            return is_worth_it;
        }
        let is_full = |held: &LiteMap<IpAddr, Held>| {
            held.len() >= OF_A_SET
                || held.values().filter(|held| held.names.contains(name)).count() >= OF_A_NAME
        };
        if is_full(&self.held) {
            self.held.retain(|_, held| held.until > now);
            if is_full(&self.held) {
                self.too_many += 1;
                return false;
            }
        }
        self.held.insert(address, Held { until, names: vec![name.clone()] });
        true
    }
}

fn hold(set: &SetRef, address: IpAddr, held: &Held, now: Duration) -> Change {
    let (time, name) = (held.until.saturating_sub(now), held.names.first().cloned());
    Change::Hold { set: set.clone(), address, time, name }
}

/// Whether a set is to have an address of one of these names. One whose name is not known stays until its time is over.
fn is_wanted(fills: &[Fill], set: &SetRef, address: IpAddr, names: &[Domain]) -> bool {
    let mut of_set = fills.iter().filter(|fill| fill.sets.iter().any(|(one, _)| one == set));
    of_set.any(|fill| {
        is_fit(address, fill.is_global) && (names.is_empty() || names.iter().any(|name| fill.wants(name)))
    })
}

/// Whether an address can be a host's, on the Internet if that is asked for.
fn is_fit(address: IpAddr, is_global: bool) -> bool {
    let is_host = match address {
        IpAddr::V4(address) => {
            !(address.is_unspecified() || address.is_multicast() || address.is_broadcast())
        }
        IpAddr::V6(address) => !(address.is_unspecified() || address.is_multicast()),
    };
    is_host && (!is_global || is_on_the_internet(address))
}

/// By the registries of special addresses (RFC 6890, iana-ipv4-special-registry and iana-ipv6-special-registry).
fn is_on_the_internet(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => v4_is_on_the_internet(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => v4_is_on_the_internet(inner),
            None => {
                let [first, second, ..] = address.segments();
                let is_documentation = (first, second) == (0x2001, 0xdb8) || first & 0xfff0 == 0x3ff0;
                let is_protocol = first == 0x2001 && second < 0x200;
                first & 0xe000 == 0x2000 && !is_documentation && !is_protocol
            }
        },
    }
}

/// The IPv4 address that one of NAT64 or 6to4 leads to (RFC 6052, RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => Some(of(g, h)),
        (0x2002, _) => Some(of(b, c)),
        _ => None,
    }
}

fn v4_is_on_the_internet(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b)))
}

#[cfg(test)]
mod tests {
    use super::{super::reply::testing::answer, *};
    use crate::{
        model::{Family, TableRef},
        policy::domains::Names,
        text::{FileId, Span},
    };

    fn set(name: &str) -> SetRef {
        SetRef { table: TableRef { family: Family::Inet, name: "f".into() }, name: name.into() }
    }

    fn fill(sets: &[&str], names: &[&str], is_global: bool) -> Fill {
        let span = Span { file: FileId(0), start: 0, end: 0 };
        let sets = sets.iter().map(|name| (set(name), span)).collect();
        Fill { sets, names: names.iter().map(|name| Names::parse(name).unwrap()).collect(), is_global, span }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A book whose sets s4 and s6 are in the kernel, and empty.
    fn book(fills: &[Fill]) -> Book {
        let mut book = Book::default();
        assert_eq!(book.turn_to(fills), []);
        found(&mut book, 0, &[]);
        book
    }

    /// The kernel has these addresses: of which name, or nobody's, for so many seconds.
    fn found(book: &mut Book, now: u64, content: &[(&str, Option<&str>, u64)]) -> Vec<String> {
        let mut all = Vec::new();
        for (name, version) in [("s4", Version::V4), ("s6", Version::V6)] {
            let kept = |(address, of, left): &(&str, Option<&str>, u64)| {
                let name = of.and_then(Domain::of_text);
                (address.parse().unwrap(), Kept { is_ours: of.is_some(), name, left: at(*left) })
            };
            let content = content.iter().map(kept).filter(|(address, _)| version.is_of(*address)).collect();
            all.extend(book.found(at(now), &set(name), Some((version, content))));
        }
        words(all)
    }

    fn words(changes: Vec<Change>) -> Vec<String> {
        let words = |change| match change {
            Change::Hold { set, address, time, name } => {
                let name = name.and_then(|name| name.plain()).unwrap_or_default();
                format!("{} {address} {} {name}", set.name, time.as_secs())
            }
            Change::Release { set, address } => format!("{} -{address}", set.name),
        };
        changes.into_iter().map(words).collect()
    }

    fn heard(book: &mut Book, now: u64, asked: &[&str], records: &[(&str, u32, &str)]) -> Vec<String> {
        words(book.heard(at(now), &answer(asked, records)))
    }

    fn both() -> Book {
        book(&[fill(&["s4", "s6"], &["example.org", "*.example.org"], false)])
    }

    #[test]
    fn addresses_go_where_their_family_is_and_stay_for_the_answer_s_time_and_a_minute() {
        let records = [
            ("a.example.org", 300, "192.0.2.1"),
            ("a.example.org", 0, "2001:db8::1"),
            ("a.example.org", 999_999, "192.0.2.2"),
        ];
        assert_eq!(
            heard(&mut both(), 7, &["a.example.org"], &records),
            [
                "s4 192.0.2.1 360 a.example.org",
                "s4 192.0.2.2 86400 a.example.org",
                "s6 2001:db8::1 60 a.example.org"
            ]
        );
    }

    #[test]
    fn only_names_that_were_asked_for_and_are_meant_count() {
        let records =
            [("a.example.org", 9, "192.0.2.1"), ("b.net", 9, "192.0.2.2"), ("www.example.org", 9, "b.net")];
        assert_eq!(heard(&mut both(), 0, &["b.net"], &records), [""; 0]);
        assert_eq!(
            heard(&mut both(), 0, &["www.example.org"], &records),
            ["s4 192.0.2.2 69 www.example.org"]
        );
        assert_eq!(
            heard(&mut both(), 0, &["a.example.org", "b.net"], &records),
            ["s4 192.0.2.1 69 a.example.org"]
        );
    }

    #[test]
    fn another_answer_renews_if_that_is_worth_it() {
        let mut book = both();
        let records = [("example.org", 60, "192.0.2.1")];
        assert_eq!(heard(&mut book, 0, &["example.org"], &records).len(), 1);
        assert_eq!(heard(&mut book, 30, &["example.org"], &records), [""; 0]);
        assert_eq!(heard(&mut book, 31, &["example.org"], &records), ["s4 192.0.2.1 120 example.org"]);
        assert_eq!(heard(&mut book, 31, &["example.org"], &[("example.org", 0, "192.0.2.1")]), [""; 0]);
        // And after its time it comes anew.
        assert_eq!(heard(&mut book, 151, &["example.org"], &records), ["s4 192.0.2.1 120 example.org"]);
    }

    #[test]
    fn floods_are_bounded_and_take_nothing_away() {
        let mut book = both();
        let many: Vec<String> = (0..4_000_u32).map(|n| Ipv4Addr::from(0x0a00_0001 + n).to_string()).collect();
        let of_one: Vec<_> = many.iter().map(|address| ("x.example.org", 5, address.as_str())).collect();
        assert_eq!(heard(&mut book, 0, &["x.example.org"], &of_one).len(), OF_A_NAME);
        for (n, address) in many.iter().enumerate().skip(OF_A_NAME) {
            let name = format!("n{n}.example.org");
            heard(&mut book, 0, &[&name], &[(&name, 5, address)]);
        }
        let offered = 2 * many.len() - OF_A_NAME;
        assert_eq!(book.figures(), (OF_A_SET, (offered - OF_A_SET) as u64));
        assert!(book.sets[&set("s4")].held.contains_key(&many[0].parse().unwrap()));
        // When their time is over there is room again.
        assert_eq!(
            heard(&mut book, 66, &["new.example.org"], &[("new.example.org", 5, "192.0.2.1")]).len(),
            1
        );
    }

    #[test]
    fn one_address_of_many_names_remembers_few() {
        let mut book = both();
        for n in 0..1_000 {
            let name = format!("n{n}.example.org");
            heard(&mut book, 0, &[&name], &[(&name, 5, "192.0.2.1")]);
        }
        assert_eq!(book.sets[&set("s4")].held[&IpAddr::from([192, 0, 2, 1])].names.len(), NAMES);
    }

    #[test]
    fn private_addresses_are_refused_if_that_is_asked_for() {
        let records = |address| [("example.org", 5, address)];
        let wide = [
            "192.168.1.1",
            "127.0.0.1",
            "fe80::1",
            "fd00::1",
            "::1",
            "::ffff:192.0.2.1",
            "64:ff9b::a00:1",
            "2002:c0a8:1::1",
            "100.64.0.1",
            "2001:db8::1",
        ];
        for address in wide {
            assert_eq!(heard(&mut both(), 0, &["example.org"], &records(address)).len(), 1, "{address}");
            let mut narrow = book(&[fill(&["s4", "s6"], &["example.org"], true)]);
            assert_eq!(heard(&mut narrow, 0, &["example.org"], &records(address)), [""; 0], "{address}");
        }
        for address in ["9.9.9.9", "2620:fe::fe", "64:ff9b::909:909", "2002:909:909::1"] {
            let mut narrow = book(&[fill(&["s4", "s6"], &["example.org"], true)]);
            assert_eq!(heard(&mut narrow, 0, &["example.org"], &records(address)).len(), 1, "{address}");
        }
        for address in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert_eq!(heard(&mut both(), 0, &["example.org"], &records(address)), [""; 0], "{address}");
        }
    }

    #[test]
    fn what_a_flush_took_away_comes_back_with_the_time_that_is_left() {
        let mut book = both();
        heard(
            &mut book,
            0,
            &["example.org"],
            &[("example.org", 60, "192.0.2.1"), ("example.org", 0, "192.0.2.2")],
        );
        assert_eq!(found(&mut book, 70, &[]), ["s4 192.0.2.1 50 example.org"]);
        assert_eq!(found(&mut book, 71, &[("192.0.2.1", Some("example.org"), 49)]), [""; 0]);
        // While the set is not there nothing is put in, and nothing is forgotten.
        assert_eq!(book.found(at(72), &set("s4"), None), []);
        assert_eq!(heard(&mut book, 72, &["example.org"], &[("example.org", 60, "192.0.2.3")]), [""; 0]);
        assert_eq!(found(&mut book, 73, &[]), ["s4 192.0.2.1 47 example.org"]);
    }

    #[test]
    fn what_others_put_in_is_left_alone() {
        let mut book = both();
        found(&mut book, 0, &[("192.0.2.1", None, 0)]);
        assert_eq!(heard(&mut book, 0, &["example.org"], &[("example.org", 60, "192.0.2.1")]), [""; 0]);
        assert_eq!(words(book.turn_to(&[])), [""; 0]);
    }

    #[test]
    fn an_earlier_run_s_elements_are_taken_over_or_go() {
        let mut book = both();
        let left = [
            ("192.0.2.1", Some("a.example.org"), 40),
            ("192.0.2.2", Some("b.net"), 40),
            ("192.0.2.3", Some(""), 40),
        ];
        assert_eq!(found(&mut book, 10, &left), ["s4 -192.0.2.2"]);
        assert_eq!(found(&mut book, 20, &[]), ["s4 192.0.2.1 30 a.example.org", "s4 192.0.2.3 30 "]);
    }

    #[test]
    fn another_policy_takes_out_what_it_does_not_want() {
        let mut book = both();
        let records = [
            ("a.example.org", 60, "192.0.2.1"),
            ("example.org", 60, "192.168.0.1"),
            ("example.org", 60, "2001:db8::1"),
        ];
        heard(&mut book, 0, &["a.example.org", "example.org"], &records);
        assert_eq!(words(book.turn_to(&[fill(&["s4", "s6"], &["example.org"], false)])), ["s4 -192.0.2.1"]);
        assert_eq!(
            words(book.turn_to(&[fill(&["s4"], &["example.org"], true)])),
            ["s4 -192.168.0.1", "s6 -2001:db8::1"]
        );
        assert_eq!(words(book.turn_to(&[])), [""; 0]);
        assert_eq!(book.sets().count(), 0);
    }
}
