//! A load of the policy that is asked for.
//!
//! Invariant: between two loads there is the cooldown, and what is asked for meanwhile is merged into the next one. A load
//! that failed for want of something is tried again with growing pauses.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Action, pause};

/// Loads, past and to come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    last: Option<Duration>,
    due: Option<Duration>,
    reread: bool,
    flush: bool,
    /// What the last load was asked to do: to read the files again, and to flush.
    tried: (bool, bool),
    failures: u32,
}

impl Reload {
    /// Asks for a load as soon as the cooldown allows.
    pub(super) fn ask(&mut self, now: Duration, cooldown: Duration, reread: bool, flush: bool) {
        let after_cooldown = self.last.map_or(now, |last| last + cooldown);
        self.due = Some(self.due.unwrap_or(now.max(after_cooldown)));
        self.reread |= reread;
        self.flush |= flush;
    }

    /// Notes that a load succeeded.
    pub(super) fn done(&mut self, now: Duration) {
        self.last = Some(now);
        self.failures = 0;
    }

    /// Notes that a load failed for want of something, and asks for the same again.
    pub(super) fn failed(&mut self, now: Duration) {
        self.reread |= self.tried.0;
        self.flush |= self.tried.1;
        self.failures = self.failures.saturating_add(1);
        let again = now + pause(self.failures);
        self.due = Some(self.due.map_or(again, |due| due.max(again)));
    }

    /// Whether the last load failed for want of something.
    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// When it is to be done.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.due
    }

    /// The load that is due.
    pub(super) fn due(&mut self, now: Duration) -> Option<Action> {
        self.due.take_if(|due| *due <= now)?;
        self.last = Some(now);
        let reread = std::mem::take(&mut self.reread);
        let flush = std::mem::take(&mut self.flush);
        self.tried = (reread, flush);
        Some(Action::Reload { reread, flush })
    }
}
