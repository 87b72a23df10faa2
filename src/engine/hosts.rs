//! Sets of host names: what should be in them, what is, and the difference. Pure, like the rest of the engine.
//!
//! A set is emptied and filled again as a whole, in one transaction: an address may be in a list and stand for a name of
//! it, too, so that no single one may be taken out for itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use litemap::LiteMap;

use super::pause;
use crate::{
    dispatch::HostSet,
    gather::Gather,
    model::{Addresses, HostName, Hosts, SetRef},
};

/// The first pause after a transaction that failed, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A set that is to be emptied and filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// The set.
    pub set: SetRef,
    /// Whether it is one of intervals.
    pub is_interval: bool,
    /// What is to be in it: ranges in order that have no address in common.
    pub content: Vec<Addresses>,
}

/// The host names of a policy and the sets that hold their addresses.
#[derive(Debug, Clone, Default)]
pub struct HostSets {
    known: Hosts,
    /// The sets, and what each has in the kernel.
    sets: BTreeMap<SetRef, (HostSet, Vec<Addresses>)>,
    /// Whether a name has other addresses than when the sets were last looked at.
    is_changed: bool,
    /// When to try a set again that failed so often in a row.
    retries: LiteMap<SetRef, (Duration, u32)>,
}

impl HostSets {
    /// The last addresses of each name.
    pub fn known(&self) -> &Hosts {
        &self.known
    }

    /// A policy that has these names is in force; its sets were filled with what is [known](Self::known).
    pub fn policy_loaded(&mut self, sets: Vec<HostSet>, names: &BTreeSet<HostName>) {
        self.known.retain(|name, _| names.contains(name));
        let filled = |wanted: HostSet| {
            let held = wanted.content(&self.known);
            (wanted.set.clone(), (wanted, held))
        };
        self.sets = sets.into_iter().map(filled).gather();
        self.is_changed = false;
        self.retries.clear();
    }

    /// A name stands for these addresses. Whether it had none before.
    pub fn answered(&mut self, host: HostName, addresses: Vec<IpAddr>) -> bool {
        self.is_changed = true;
        self.known.insert(host, addresses).is_none()
    }

    /// What is to be done at `now`, for [`Self::filled`] to be told of.
    pub fn fills(&mut self, now: Duration) -> Vec<Fill> {
        let is_due = self.timeout().is_some_and(|at| at <= now);
        if !std::mem::take(&mut self.is_changed) && !is_due {
            return vec![];
        }
        let mut fills = Vec::new();
        for (set, (wanted, held)) in &self.sets {
            let content = wanted.content(&self.known);
            if content == *held {
                self.retries.remove(set);
            } else if self.retries.get(set).is_none_or(|(at, _)| *at <= now) {
                fills.push(Fill { set: set.clone(), is_interval: wanted.is_interval(), content });
            }
        }
        fills
    }

    /// What became of a fill. One that failed is tried again, with growing pauses.
    pub fn filled(&mut self, now: Duration, fill: Fill, is_done: bool) {
        let Some((_, held)) = self.sets.get_mut(&fill.set) else { return };
        if is_done {
            *held = fill.content;
            self.retries.remove(&fill.set);
            return;
        }
        let (at, failures) = self.retries.entry(fill.set).or_default();
        *failures = failures.saturating_add(1);
        *at = now + pause(*failures, FIRST_PAUSE, LONGEST_PAUSE);
    }

    /// When there is something to try again.
    pub fn timeout(&self) -> Option<Duration> {
        self.retries.values().map(|(at, _)| *at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, TableRef};

    const NOW: Duration = Duration::from_secs(7);

    fn name(text: &str) -> HostName {
        HostName { name: text.into(), v6: false }
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn set(names: &[&str]) -> HostSet {
        let table = TableRef { family: Family::Inet, name: "filter".into() };
        HostSet {
            set: SetRef { table, name: format!("scnpm.host.ip.{}", names.concat()).into() },
            v6: false,
            names: names.iter().map(|text| name(text)).collect(),
            ranges: Vec::new(),
            annotations: vec![],
        }
    }

    /// As texts: set, content.
    fn fills(sets: &mut HostSets, now: Duration) -> Vec<(String, String)> {
        texts(&sets.fills(now))
    }

    fn texts(fills: &[Fill]) -> Vec<(String, String)> {
        let content =
            |fill: &Fill| fill.content.iter().map(|(first, _)| first.to_string()).collect::<Vec<_>>();
        fills.iter().map(|fill| (fill.set.name.to_string(), content(fill).join(" "))).collect()
    }

    fn loaded(sets: &mut HostSets) {
        sets.policy_loaded(vec![set(&["a"]), set(&["a", "b"])], &[name("a"), name("b")].into());
    }

    #[test]
    fn changed_address_fills_each_set_of_its_name_once() {
        let mut sets = HostSets::default();
        assert!(sets.answered(name("a"), addresses(&["10.0.0.1"])));
        loaded(&mut sets);
        assert_eq!(fills(&mut sets, NOW), [], "the load filled them");
        assert!(!sets.answered(name("a"), addresses(&["10.0.0.1"])));
        assert_eq!(fills(&mut sets, NOW), []);
        sets.answered(name("a"), addresses(&["10.0.0.2"]));
        let expected = ["scnpm.host.ip.a", "scnpm.host.ip.ab"].map(|set| (set.into(), "10.0.0.2".into()));
        let under_way = sets.fills(NOW);
        assert_eq!(texts(&under_way), expected);
        under_way.into_iter().for_each(|fill| sets.filled(NOW, fill, true));
        assert_eq!(fills(&mut sets, NOW), []);
        assert!(sets.answered(name("b"), addresses(&["10.0.0.9"])));
        assert_eq!(fills(&mut sets, NOW), [("scnpm.host.ip.ab".into(), "10.0.0.2 10.0.0.9".into())]);
    }

    #[test]
    fn failed_fill_is_tried_again_with_growing_pauses_and_the_newest_addresses() {
        let mut sets = HostSets::default();
        sets.policy_loaded(vec![set(&["a"])], &[name("a")].into());
        sets.answered(name("a"), addresses(&["10.0.0.1"]));
        let mut now = NOW;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let fill = sets.fills(now).pop().unwrap();
            sets.filled(now, fill, false);
            let due = sets.timeout().unwrap();
            assert_eq!(fills(&mut sets, due - Duration::from_nanos(1)), []);
            pauses.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[11], 60_000);
        sets.answered(name("a"), addresses(&["10.0.0.2"]));
        let fill = sets.fills(now).pop().unwrap();
        assert_eq!(fill.content, [("10.0.0.2".parse().unwrap(), "10.0.0.2".parse().unwrap())]);
        sets.filled(now, fill, true);
        assert_eq!((sets.timeout(), fills(&mut sets, now)), (None, vec![]));
    }

    #[test]
    fn what_is_right_again_is_not_tried_again() {
        let mut sets = HostSets::default();
        sets.answered(name("a"), addresses(&["10.0.0.1"]));
        sets.policy_loaded(vec![set(&["a"])], &[name("a")].into());
        sets.answered(name("a"), addresses(&["10.0.0.2"]));
        let fill = sets.fills(NOW).remove(0);
        sets.filled(NOW, fill, false);
        sets.answered(name("a"), addresses(&["10.0.0.1"]));
        assert_eq!((fills(&mut sets, NOW), sets.timeout()), (vec![], None));
    }

    #[test]
    fn answer_between_fill_and_outcome_is_not_lost() {
        let mut sets = HostSets::default();
        loaded(&mut sets);
        sets.answered(name("a"), addresses(&["10.0.0.1"]));
        let under_way = sets.fills(NOW);
        sets.answered(name("a"), addresses(&["10.0.0.2"]));
        under_way.into_iter().for_each(|fill| sets.filled(NOW, fill, true));
        assert_eq!(fills(&mut sets, NOW).len(), 2);
    }

    #[test]
    fn name_that_the_policy_lost_is_forgotten_and_its_set_is_left_alone() {
        let mut sets = HostSets::default();
        loaded(&mut sets);
        sets.answered(name("a"), addresses(&["10.0.0.1"]));
        let late = sets.fills(NOW).remove(0);
        sets.policy_loaded(vec![set(&["b"])], &[name("b")].into());
        assert!(sets.known().is_empty());
        sets.filled(NOW, late, false);
        assert_eq!((fills(&mut sets, NOW), sets.timeout()), (vec![], None));
    }
}
