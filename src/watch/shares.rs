//! How much of the daemon's work each user gets: a share of each turn, and a rate. Pure: the caller says what time it is.
//!
//! Work is counted in units of about a microsecond. A user can save some, so that what comes in a burst is done at once;
//! who has used up what was saved gets an equal part of a rate that is the same however many they are. So those who flood
//! slow each other down, and nobody else.

use std::time::Duration;

use litemap::LiteMap;

use crate::gather::sort_by;

/// How much there is to give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Units of work in a second, for all together who have used some of what they had saved.
    pub(crate) rate: u64,
    /// Units that one can save.
    pub(crate) burst: u64,
    /// Units for one in a turn.
    pub(crate) share: u64,
    /// How many are served in a turn.
    pub(crate) at_once: usize,
}

/// What each has used, and who is next.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    limits: Limits,
    accounts: LiteMap<K, Account>,
    /// The number of the last turn.
    turn: u64,
    /// Until when the rate has been given out, and what of it was too little to be divided, in units per 10⁹.
    given: Duration,
    left: u128,
}

#[derive(Debug, Default)]
struct Account {
    /// What was used of what is saved when nothing is.
    used: u64,
    /// Whether it has been used up, and not a whole share is there again.
    waits: bool,
    /// The turn in which it was served last.
    served: u64,
}

const SECOND: u128 = 1_000_000_000;

impl<K: Copy + Ord> Shares<K> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, accounts: LiteMap::new(), turn: 0, given: Duration::ZERO, left: 0 }
    }

    /// Gives out what there is to give up to `now`.
    pub(crate) fn give(&mut self, now: Duration) {
        self.left += now.saturating_sub(self.given).as_nanos() * u128::from(self.limits.rate);
        self.given = self.given.max(now);
        loop {
            let owing = self.accounts.values().filter(|account| account.used > 0).count() as u128;
            if owing == 0 {
                self.left = 0;
                break;
            }
            let part = self.left / SECOND / owing;
            if part == 0 {
                break;
            }
            for (_, account) in self.accounts.iter_mut().filter(|(_, account)| account.used > 0) {
                let taken = account.used.min(u64::try_from(part).unwrap_or(u64::MAX));
                account.used -= taken;
                self.left -= u128::from(taken) * SECOND;
            }
        }
        let Limits { burst, share, .. } = self.limits;
        for (_, account) in &mut self.accounts {
            account.waits &= account.used + share > burst;
        }
    }

    /// Who of those with work is served in this turn: those who have waited for the most turns. Each may use
    /// a share.
    pub(crate) fn next(&mut self, with_work: impl IntoIterator<Item = K>) -> Vec<K> {
        let mut ready: Vec<(u64, K)> = with_work
            .into_iter()
            .filter(|key| self.may_work(*key))
            .map(|key| (self.accounts.get(&key).map_or(0, |account| account.served), key))
            .collect();
        sort_by(&mut ready, Ord::cmp);
        ready.truncate(self.limits.at_once);
        self.turn += 1;
        for (_, key) in &ready {
            self.accounts.entry(*key).or_default().served = self.turn;
        }
        ready.into_iter().map(|(_, key)| key).collect()
    }

    /// Notes what was used.
    pub(crate) fn use_up(&mut self, key: K, units: u64) {
        let account = self.accounts.entry(key).or_default();
        account.used += units;
        account.waits |= account.used >= self.limits.burst;
    }

    /// Whether one may be served.
    pub(crate) fn may_work(&self, key: K) -> bool {
        self.accounts.get(&key).is_none_or(|account| !account.waits)
    }

    /// When the first of those who have to wait may be served again, at the latest.
    pub(crate) fn due(&self) -> Option<Duration> {
        let Limits { rate, burst, share, .. } = self.limits;
        let owing = self.accounts.values().filter(|account| account.used > 0).count() as u128;
        let waiting = self.accounts.values().filter(|account| account.waits);
        let least = waiting.map(|account| (account.used + share).saturating_sub(burst)).min()?;
        let nanos = (u128::from(least) * owing * SECOND).saturating_sub(self.left).div_ceil(u128::from(rate));
        Some(self.given + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Forgets those who owe nothing, but for these.
    pub(crate) fn forget(&mut self, stays: impl Fn(K) -> bool) {
        self.accounts.retain(|key, account| account.used > 0 || stays(*key));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { rate: 1000, burst: 500, share: 50, at_once: 2 };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_is_served_at_once_and_the_rest_at_the_rate() {
        let mut shares = Shares::new(LIMITS);
        let mut served = 0;
        while shares.next([1]) == [1] {
            shares.use_up(1, 50);
            served += 50;
        }
        assert_eq!(served, 500);
        assert_eq!(shares.due(), Some(at(50)));
        shares.give(at(49));
        assert!(!shares.may_work(1));
        shares.give(at(50));
        assert_eq!(shares.next([1]), [1]);
    }

    #[test]
    fn who_waits_longest_is_next() {
        let mut shares = Shares::new(LIMITS);
        assert_eq!(shares.next([1, 2, 3, 4, 5]), [1, 2]);
        assert_eq!(shares.next([1, 2, 3, 4, 5]), [3, 4]);
        assert_eq!(shares.next([1, 2, 3, 4, 5]), [5, 1]);
        // One who had nothing to do is before them.
        assert_eq!(shares.next([1, 2, 3, 4, 5, 6]), [6, 2]);
    }

    #[test]
    fn what_is_given_is_shared_by_who_has_used_some() {
        let mut shares = Shares::new(LIMITS);
        shares.use_up(1, 500);
        shares.use_up(2, 500);
        shares.use_up(3, 10);
        // 10 for the third, and the rest for the others.
        shares.give(at(109));
        assert!(!shares.may_work(1) && !shares.may_work(2));
        assert_eq!(shares.due(), Some(at(110)));
        shares.give(at(110));
        assert!(shares.may_work(1) && shares.may_work(2));
        // Long after that nobody owes anything.
        shares.use_up(1, 1000);
        shares.give(at(10_000));
        assert!(shares.may_work(1));
        assert_eq!(shares.due(), None);
        shares.use_up(2, 1);
        shares.forget(|key| key == 1);
        assert_eq!(shares.accounts.keys().copied().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn often_given_is_as_much_as_given_at_once() {
        let mut shares = Shares::new(LIMITS);
        (0..7).for_each(|key| shares.use_up(key, 500));
        // Each time less than one unit for each.
        (0..=350).for_each(|millis| shares.give(at(millis)));
        assert!((0..7).all(|key| shares.may_work(key)));
    }

    proptest! {
        /// Whatever the others do, one with work who may work is served within as many turns as it takes to go round.
        #[test]
        fn everybody_with_work_is_served_within_a_round(
            turns in prop::collection::vec((prop::collection::btree_set(0_u8..9, 0..9), 0_u64..80, 0_u64..40), 1..80),
        ) {
            let mut shares = Shares::new(LIMITS);
            let mut now = 0;
            let mut waited = 0;
            for (others, used, later) in turns {
                now += later;
                shares.give(at(now));
                let served = shares.next(others.into_iter().chain([9]));
                prop_assert!(served.len() <= LIMITS.at_once);
                for key in &served {
                    // The ninth is modest.
                    shares.use_up(*key, if *key == 9 { 0 } else { used });
                }
                waited = if served.contains(&9) { 0 } else { waited + 1 };
                prop_assert!(waited < 10_usize.div_ceil(LIMITS.at_once));
            }
        }

        /// In no time more than what was saved and what is given, but for what one turn goes too far.
        #[test]
        fn work_in_a_time_is_bounded(
            users in 1_u8..6,
            turns in prop::collection::vec((0_u64..70, 0_u64..20), 1..300),
        ) {
            let mut shares = Shares::new(LIMITS);
            let (mut now, mut total) = (0, 0);
            for (used, later) in turns {
                now += later;
                shares.give(at(now));
                for key in shares.next(0..users) {
                    shares.use_up(key, used);
                    total += used;
                }
                let saved = u64::from(users) * (LIMITS.burst + 70);
                prop_assert!(total <= saved + now * LIMITS.rate / 1000);
            }
            // And who waits is served again when it was said.
            if let Some(due) = shares.due() {
                shares.give(due);
                prop_assert!((0..users).any(|key| shares.accounts.get(&key).is_some_and(|one| !one.waits)));
            }
        }
    }
}
