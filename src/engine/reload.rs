//! A load of the policy: asked for, or a repair after somebody else changed the ruleset.
//!
//! Invariants: between two loads that are asked for there is the cooldown, and what is asked for meanwhile is merged into
//! the next one. A load that failed for want of something is tried again with growing pauses. A repair waits until the
//! others are quiet for a moment, but not for long; who undoes each repair makes the pauses between them grow.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Action, FIRST_PAUSE, LONGEST_PAUSE, pause};

/// How long to wait until files that may be half written are read again.
pub const UNSETTLED: Duration = Duration::from_millis(200);

/// How long the others must be quiet before a repair: a command of nft's follows another within this time.
const SETTLE: Duration = Duration::from_millis(3);

/// How long a repair is put off at most while they are not, and how many times as long as the last load took.
const MOST: Duration = Duration::from_millis(100);
const MOST_LOADS: u32 = 4;

/// A change so soon after a load, and not followed by more for so long, undoes it.
const ANSWER: Duration = Duration::from_millis(200);
const SERIES: Duration = Duration::from_millis(20);

/// How much it counts that a load is undone: by the process that did it before, or by another one, as where somebody runs
/// nft again and again. At which sum the pauses begin to grow, by how much for the next step, and when it is a fight.
const BY_THE_SAME: u32 = 64;
const BY_ANOTHER: u32 = 1;
const UNDONE: u32 = 4 * BY_THE_SAME;
const FIGHT: u32 = 10 * BY_THE_SAME;

/// Loads, past and to come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    last: Option<Duration>,
    /// When the next one is to be done.
    pub(super) due: Option<Duration>,
    reread: bool,
    flush: bool,
    /// What the last load was asked to do: to read the files again, and to flush.
    tried: (bool, bool),
    /// How many in a row failed for want of something.
    pub(super) failures: u32,
    /// The first and the last change by others since the last load.
    changed: Option<(Duration, Duration)>,
    /// How long the last load took.
    took: Duration,
    /// How often in a row somebody undid a load at once, as it counts, and who did so last.
    undone: u32,
    by: Option<u32>,
}

impl Reload {
    /// Asks for a load as soon as the cooldown allows.
    pub(super) fn ask(&mut self, now: Duration, cooldown: Duration, reread: bool, flush: bool) {
        let after_cooldown = self.last.map_or(now, |last| last.saturating_add(cooldown));
        self.due = Some(self.due.unwrap_or(now.max(after_cooldown)));
        self.reread |= reread;
        self.flush |= flush;
    }

    /// Notes that somebody else changed the ruleset, and asks for a repair.
    pub(super) fn changed(&mut self, now: Duration, thread: Option<u32>) {
        let first = self.changed.map_or(now, |(first, _)| first);
        let is_answer =
            self.last.is_some_and(|last| now < last.saturating_add(ANSWER.max(self.fight_pause() * 2)))
                && now < first.saturating_add(SERIES);
        match self.changed {
            _ if !is_answer => self.undone = 0,
            None if thread.is_some() && thread == self.by => {
                self.undone = self.undone.saturating_add(BY_THE_SAME)
            }
            None => self.undone = self.undone.saturating_add(BY_ANOTHER),
            Some(_) => {}
        }
        self.by = thread;
        self.changed = Some((first, now));
    }

    /// How long to leave the others alone, after all that they have undone.
    fn fight_pause(&self) -> Duration {
        let steps = self.undone.checked_sub(UNDONE).map(|over| over / BY_THE_SAME + 1);
        steps.map_or(Duration::ZERO, |steps| pause(steps, FIRST_PAUSE, LONGEST_PAUSE))
    }

    /// When a repair is due.
    fn repair_due(&self) -> Option<Duration> {
        let (first, last) = self.changed?;
        let most = MOST.max(self.took.saturating_mul(MOST_LOADS));
        let due = last.saturating_add(SETTLE).min(first.saturating_add(most));
        Some(due.max(self.last.unwrap_or_default().saturating_add(self.fight_pause())))
    }

    /// Whether somebody undoes load after load.
    pub(super) fn is_fight(&self) -> bool {
        self.undone >= FIGHT
    }

    /// Notes that a load succeeded.
    pub(super) fn done(&mut self, now: Duration) {
        self.took = now.saturating_sub(self.last.unwrap_or(now));
        self.last = Some(now);
        self.failures = 0;
        self.changed = None;
    }

    /// Asks for the same again, since files may be half written.
    pub(super) fn postpone(&mut self, now: Duration) {
        self.again(now.saturating_add(UNSETTLED));
    }

    /// Notes that a load failed for want of something, and asks for the same again.
    pub(super) fn failed(&mut self, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        let at = now.saturating_add(pause(self.failures, FIRST_PAUSE, LONGEST_PAUSE));
        self.again(self.due.map_or(at, |due| due.max(at)));
    }

    fn again(&mut self, at: Duration) {
        self.reread |= self.tried.0;
        self.flush |= self.tried.1;
        self.due = Some(at);
    }

    /// When it is to be done.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.due.into_iter().chain(self.repair_due()).min()
    }

    /// The load that is due.
    pub(super) fn due(&mut self, now: Duration) -> Option<Action> {
        let is_asked_for = self.due.take_if(|due| *due <= now).is_some();
        if !is_asked_for && self.repair_due().is_none_or(|due| due > now) {
            return None;
        }
        self.last = Some(now);
        self.changed = None;
        let asked = |what: &mut bool| is_asked_for && std::mem::take(what);
        let (reread, flush) = (asked(&mut self.reread), asked(&mut self.flush));
        self.tried = (reread, flush);
        Some(Action::Reload { reread, flush })
    }
}
