//! Whether files that were just read may be half written. Pure.
//!
//! An editor that writes in place empties the file first, and what is there of it at any moment is a policy: an empty file is
//! a valid one. So what may be a part is read again, until it is the same twice.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use crate::{engine::UNSETTLED, gather::Gather, policy::Policy};

/// After so many readings the last one is taken: somebody writes all the time.
const READINGS: usize = 25;

/// What the files of a policy say, by name: how many bytes, and a hash of them.
pub(super) type Texts = BTreeMap<String, (usize, u64)>;

/// What was read before the reading that counts.
#[derive(Debug, Default)]
pub(super) struct Readings {
    last: Option<Texts>,
    number: usize,
}

/// What to do with what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is all that there is.
    Whole,
    /// It may be a part: to be read again after [`UNSETTLED`].
    Unsettled,
    /// This file had a text and has none now.
    Emptied(String),
}

pub(super) fn texts(policy: &Policy) -> Texts {
    policy.sources.files.iter().map(|file| (file.path.clone(), summary(&file.text))).gather()
}

/// How many bytes a text has, and a hash of it.
pub(super) fn summary(text: &str) -> (usize, u64) {
    (text.trim().len(), BuildHasherDefault::<DefaultHasher>::default().hash_one(text))
}

impl Readings {
    /// Judges a reading. `before` is what the files said when they were last taken, `age` how long ago a file was changed, if
    /// that is known.
    pub(super) fn judge(
        &mut self,
        before: &Texts,
        now: Texts,
        age: impl Fn(&str) -> Option<Duration>,
    ) -> Verdict {
        let shrank = |(name, (length, _)): (&String, &(usize, u64))| {
            before.get(name).is_some_and(|(before, _)| length < before)
        };
        let is_fresh = |name: &String| age(name).is_some_and(|age| age < UNSETTLED);
        let is_suspect = now.iter().any(shrank) || now.keys().any(is_fresh);
        let is_the_same = self.last.as_ref() == Some(&now);
        self.number += 1;
        if is_suspect && !is_the_same && self.number < READINGS {
            self.last = Some(now);
            return Verdict::Unsettled;
        }
        *self = Self::default();
        let is_emptied =
            |name: &&String| now[*name].0 == 0 && before.get(*name).is_some_and(|(before, _)| *before > 0);
        match now.keys().find(is_emptied) {
            Some(name) => Verdict::Emptied(name.clone()),
            None => Verdict::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(length: usize, hash: u64) -> Texts {
        [("a.nft".to_owned(), (length, hash))].into()
    }

    fn old(_: &str) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }

    #[test]
    fn what_is_as_long_and_rests_is_taken_at_once() {
        let mut readings = Readings::default();
        assert_eq!(readings.judge(&file(10, 1), file(12, 2), old), Verdict::Whole);
        assert_eq!(readings.judge(&Texts::new(), file(0, 0), old), Verdict::Whole, "it never had a text");
        assert_eq!(readings.judge(&file(10, 1), Texts::new(), old), Verdict::Whole, "no longer included");
    }

    #[test]
    fn what_shrank_or_was_just_written_is_taken_when_it_is_the_same_twice() {
        let mut readings = Readings::default();
        assert_eq!(readings.judge(&file(10, 1), file(4, 2), old), Verdict::Unsettled);
        assert_eq!(readings.judge(&file(10, 1), file(8, 3), old), Verdict::Unsettled);
        assert_eq!(readings.judge(&file(10, 1), file(8, 3), old), Verdict::Whole);
        let fresh = |_: &str| Some(Duration::from_millis(5));
        assert_eq!(readings.judge(&file(10, 1), file(12, 2), fresh), Verdict::Unsettled);
        assert_eq!(readings.judge(&file(10, 1), file(12, 2), old), Verdict::Whole);
    }

    #[test]
    fn emptied_file_is_named_once_it_stays_empty() {
        let mut readings = Readings::default();
        assert_eq!(readings.judge(&file(10, 1), file(0, 0), old), Verdict::Unsettled);
        assert_eq!(readings.judge(&file(10, 1), file(0, 0), old), Verdict::Emptied("a.nft".to_owned()));
    }

    #[test]
    fn who_writes_all_the_time_is_not_waited_for_for_ever() {
        let mut readings = Readings::default();
        let taken = (0..100).find(|hash| readings.judge(&file(10, 1), file(4, *hash), old) == Verdict::Whole);
        assert_eq!(taken, Some(READINGS as u64 - 1));
    }
}
