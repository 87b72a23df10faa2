//! Which refusals a user is told of, and when. Pure: what time it is is said by the caller, in microseconds since 1970.
//!
//! One of each application and destination, and then not again for an hour, or until the time is over that it was allowed for. At most
//! a few in a minute; of the others only their number is told.

use std::collections::VecDeque;

use litemap::LiteMap;

use crate::{control::message::Refusal, model::Direction};

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;

/// For how long nothing is told again.
const QUIET: u64 = 60 * MINUTE;

/// An end of the quiet that is further away than this was set by a clock that has been put back since.
const LONGEST: u64 = 2 * QUIET;

/// The most that are told in a minute: of one application, and of all.
const OF_ONE: usize = 3;
const OF_ALL: usize = 6;

/// How often the number of the others is told at most.
const MORE: u64 = 10 * SECOND;

/// Of how many is known that they were told.
const KNOWN: usize = 4_096;

/// What to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// A refusal.
    One(Box<Refusal>),
    /// So many more were refused.
    More(u64),
}

/// What is one thing to a user: an application, and where it wants to go or what comes from there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    who: String,
    peer: String,
    direction: Direction,
    protocol: String,
    port: Option<u16>,
    icmp_type: Option<u8>,
}

impl Key {
    fn of(refusal: &Refusal) -> Self {
        Self {
            who: who(refusal),
            peer: refusal.host.clone().unwrap_or_else(|| refusal.address.to_string()),
            direction: refusal.direction,
            protocol: refusal.protocol.clone(),
            port: refusal.port,
            icmp_type: refusal.icmp_type,
        }
    }
}

/// The application, or what else is known of who was refused.
pub(super) fn who(refusal: &Refusal) -> String {
    let Refusal { app, unit, cgroup, .. } = refusal;
    let known = app.as_ref().or(unit.as_ref()).or(cgroup.as_ref());
    known.cloned().unwrap_or_else(|| "a program that has ended".to_owned())
}

/// What was told, to whom.
pub(super) struct Decider {
    uid: u32,
    /// Until when each is not told again.
    quiet: LiteMap<Key, u64>,
    /// The same in the order in which they are forgotten.
    order: VecDeque<Key>,
    /// When who was told of, in the last minute.
    last: Vec<(u64, String)>,
    more: More,
}

/// What only the number is told of.
#[derive(Default)]
struct More {
    count: u64,
    is_told: bool,
    told_at: Option<u64>,
}

impl Decider {
    /// Tells a user of their own applications.
    pub(super) fn new(uid: u32) -> Self {
        let more = More { is_told: true, ..More::default() };
        Self { uid, quiet: LiteMap::new(), order: VecDeque::new(), last: Vec::new(), more }
    }

    /// What to tell of refusals that were heard of now.
    pub(super) fn heard(&mut self, refusals: Vec<Refusal>, now: u64) -> Vec<Tell> {
        let mut tell = Vec::new();
        let uid = Some(self.uid);
        for refusal in refusals.into_iter().filter(|refusal| refusal.uid == uid) {
            let key = Key::of(&refusal);
            if self.is_quiet(&key, refusal.at) {
                continue;
            }
            let may = self.may_tell(&key.who, now);
            self.keep_quiet(key, refusal.at.saturating_add(QUIET));
            if may {
                tell.push(Tell::One(Box::new(refusal)));
            } else {
                self.more.add(now);
            }
        }
        tell.extend(self.due(now));
        tell
    }

    /// Notes that what was refused is allowed until then.
    pub(super) fn allowed(&mut self, refusal: &Refusal, until: u64) {
        self.keep_quiet(Key::of(refusal), until);
    }

    /// The number of the others, if it is time to tell it.
    pub(super) fn due(&mut self, now: u64) -> Option<Tell> {
        if self.wait(now)? > 0 {
            return None;
        }
        self.more.is_told = true;
        self.more.told_at = Some(now);
        Some(Tell::More(self.more.count))
    }

    /// How long it is until then.
    pub(super) fn wait(&self, now: u64) -> Option<u64> {
        let passed = self.more.told_at.map_or(MORE, |at| now.abs_diff(at));
        (!self.more.is_told).then(|| MORE.saturating_sub(passed))
    }

    /// Notes that the user has seen the number: it begins anew.
    pub(super) fn more_is_seen(&mut self) {
        self.more.count = 0;
    }

    fn is_quiet(&self, key: &Key, at: u64) -> bool {
        let left = self.quiet.get(key).and_then(|until| until.checked_sub(at));
        left.is_some_and(|left| left > 0 && left < LONGEST)
    }

    fn keep_quiet(&mut self, key: Key, until: u64) {
        self.order.push_back(key.clone());
        self.quiet.insert(key, until);
        while self.order.len() > KNOWN {
            if let Some(key) = self.order.pop_front() {
                self.quiet.remove(&key);
            }
        }
    }

    fn may_tell(&mut self, who: &str, now: u64) -> bool {
        self.last.retain(|(at, _)| now.abs_diff(*at) < MINUTE);
        let of_one = self.last.iter().filter(|(_, of)| of == who).count();
        let may = self.last.len() < OF_ALL && of_one < OF_ONE;
        if may {
            self.last.push((now, who.to_owned()));
        }
        may
    }
}

impl More {
    fn add(&mut self, now: u64) {
        // What was told long ago is over.
        if self.is_told && self.told_at.is_some_and(|at| now.abs_diff(at) >= MINUTE) {
            self.count = 0;
        }
        self.count += 1;
        self.is_told = false;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000 * SECOND;

    pub(in super::super) fn refusal(app: &str, address: &str, port: u16) -> Refusal {
        let unit = format!("app-{app}-1.scope");
        Refusal {
            at: NOW,
            cgroup: Some(format!("user.slice/user-1000.slice/user@1000.service/app.slice/{unit}")),
            unit: Some(unit),
            uid: Some(1000),
            app: Some(app.to_owned()),
            address: address.parse().unwrap(),
            port: Some(port),
            annotation: Some(format!("# 1000:app:{app} :: add rule inet filter refused …")),
            ..Refusal::example()
        }
    }

    /// How many refusals are told, and the number of the others if that is.
    fn told(tell: &[Tell]) -> (usize, Option<u64>) {
        let more = tell.iter().find_map(|one| match one {
            Tell::More(count) => Some(*count),
            Tell::One(_) => None,
        });
        (tell.iter().filter(|one| matches!(one, Tell::One(_))).count(), more)
    }

    #[test]
    fn each_application_and_destination_is_told_once_an_hour() {
        let mut decider = Decider::new(1000);
        let one = refusal("mail", "192.0.2.1", 25);
        let differing = [
            refusal("chat", "192.0.2.1", 25),
            refusal("mail", "192.0.2.2", 25),
            Refusal { protocol: "udp".to_owned(), ..one.clone() },
        ];
        let same = Refusal {
            unit: Some("app-mail-2.scope".to_owned()),
            cgroup_id: 8,
            packets: 9,
            at: NOW + MINUTE,
            ..one.clone()
        };
        assert_eq!(told(&decider.heard(vec![one.clone(), one.clone()], NOW)), (1, None));
        assert_eq!(told(&decider.heard(vec![same.clone()], NOW + MINUTE)), (0, None));
        assert_eq!(told(&decider.heard(differing.to_vec(), NOW + MINUTE)), (3, None));
        let late = |at| Refusal { at, ..one.clone() };
        assert_eq!(told(&decider.heard(vec![late(NOW + QUIET - 1)], NOW + QUIET)), (0, None));
        assert_eq!(told(&decider.heard(vec![late(NOW + QUIET)], NOW + QUIET)), (1, None));
    }

    #[test]
    fn addresses_of_one_host_are_one_destination() {
        let mut decider = Decider::new(1000);
        let of_host =
            |address| Refusal { host: Some("example.org".to_owned()), ..refusal("mail", address, 25) };
        let both = vec![of_host("192.0.2.1"), of_host("2001:db8::1")];
        assert_eq!(told(&decider.heard(both, NOW)), (1, None));
    }

    #[test]
    fn others_refusals_are_not_told() {
        let mut decider = Decider::new(1000);
        let of = |uid| Refusal { uid, ..refusal("mail", "192.0.2.1", 25) };
        assert_eq!(told(&decider.heard(vec![of(None), of(Some(0)), of(Some(1001))], NOW)), (0, None));
    }

    #[test]
    fn what_was_allowed_is_told_again_when_that_is_over() {
        let mut decider = Decider::new(1000);
        let at = |at| vec![Refusal { at, ..refusal("mail", "192.0.2.1", 25) }];
        assert_eq!(told(&decider.heard(at(NOW), NOW)), (1, None));
        decider.allowed(&at(NOW)[0], NOW + 5 * MINUTE);
        // A daemon that was started anew tells of old ones again.
        assert_eq!(told(&decider.heard(at(NOW + 1), NOW + 6 * MINUTE)), (0, None));
        assert_eq!(told(&decider.heard(at(NOW + 6 * MINUTE), NOW + 6 * MINUTE)), (1, None));
    }

    #[test]
    fn flood_is_a_few_and_a_number() {
        let mut decider = Decider::new(1000);
        let flood: Vec<Refusal> = (1..=1000).map(|port| refusal("scan", "192.0.2.1", port)).collect();
        assert_eq!(told(&decider.heard(flood.clone(), NOW)), (OF_ONE, Some(997)));
        assert_eq!(told(&decider.heard(flood, NOW + SECOND)), (0, None));
        // Another application is told of all the same.
        let other = |port| vec![refusal("mail", "192.0.2.1", port)];
        assert_eq!(told(&decider.heard(other(25), NOW + SECOND)), (1, None));
        // The number is not told each second.
        let more: Vec<Refusal> = (2001..=2010).map(|port| refusal("scan", "192.0.2.1", port)).collect();
        assert_eq!(told(&decider.heard(more, NOW + 2 * SECOND)), (0, None));
        assert_eq!(decider.wait(NOW + 2 * SECOND), Some(8 * SECOND));
        assert_eq!(decider.due(NOW + 9 * SECOND), None);
        assert_eq!(decider.due(NOW + 10 * SECOND), Some(Tell::More(1007)));
        assert_eq!((decider.due(NOW + 30 * SECOND), decider.wait(NOW + 30 * SECOND)), (None, None));
    }

    #[test]
    fn minute_has_only_so_many_of_all() {
        let mut decider = Decider::new(1000);
        let of_many = |ports: std::ops::Range<u16>| -> Vec<Refusal> {
            ports.map(|port| refusal(&format!("app{port}"), "192.0.2.1", port)).collect()
        };
        assert_eq!(told(&decider.heard(of_many(1..11), NOW)), (OF_ALL, Some(4)));
        assert_eq!(told(&decider.heard(of_many(11..12), NOW + MINUTE - 1)), (0, Some(5)));
        assert_eq!(told(&decider.heard(of_many(12..13), NOW + MINUTE)), (1, None));
    }

    #[test]
    fn number_begins_anew_once_it_is_seen_or_old() {
        let mut decider = Decider::new(1000);
        let flood = |decider: &mut Decider, from: u16, now| {
            told(&decider.heard((from..from + 10).map(|port| refusal("scan", "::1", port)).collect(), now)).1
        };
        assert_eq!(flood(&mut decider, 1, NOW), Some(7));
        decider.more_is_seen();
        assert_eq!(flood(&mut decider, 11, NOW + MORE), Some(10));
        assert_eq!(flood(&mut decider, 21, NOW + MORE + 2 * MINUTE), Some(7));
    }

    #[test]
    fn clock_that_is_put_back_silences_nothing() {
        let mut decider = Decider::new(1000);
        let at = |at| vec![Refusal { at, ..refusal("mail", "192.0.2.1", 25) }];
        assert_eq!(told(&decider.heard(at(NOW), NOW)), (1, None));
        let before = NOW - 24 * 60 * MINUTE;
        assert_eq!(told(&decider.heard(at(before), before)), (1, None));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut decider = Decider::new(1000);
        for port in 0..=u16::MAX {
            decider.heard(vec![refusal("scan", "192.0.2.1", port)], NOW);
        }
        assert_eq!((decider.quiet.len(), decider.order.len()), (KNOWN, KNOWN));
        assert_eq!(decider.last.len(), OF_ONE);
    }
}
