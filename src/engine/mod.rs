//! EVENTS -> ACTIONS. What should be in the kernel, what is, and the difference.
//!
//! Pure: no I/O, no clock (the caller says what time it is), ordered maps only. Level-triggered: an event only
//! says where to look; the cgroup that exists, with its id, is the truth. So events that are lost, doubled or out of
//! order heal with the next look.
//!
//! The caller hands in events ([`Engine::handle`]), then takes the actions ([`Engine::actions`]), so that what is
//! pending together is committed together.
//!
//! [`table`] has the rows, [`looks`] what is to be looked at, [`reload`] the loads; [`standing`] says how far
//! rows are, [`snapshot`] is all of it as a value.

mod action;
mod event;
mod few;
pub mod hosts;
mod looks;
mod reload;
mod row;
mod snapshot;
mod standing;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    dispatch::Pattern,
    gather::Gather,
    model::{CgroupId, CgroupPath, Instance, Outcome, Row, RowId, Source, UnitName, UnitState},
    units::{Users, selector::Index},
};
pub use action::{Action, Add, Commit, Delete};
pub use event::{Event, PolicyLoaded};
use few::Few;
use looks::Looks;
pub use reload::{Reload, UNSETTLED};
pub use row::Kept;
pub use snapshot::Snapshot;
use standing::Latencies;
pub use standing::{Concern, Standing};
use table::Table;

/// The first pause before something is tried again that the kernel could not do, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What the command line asks of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The least time between two loads of the policy: `--cooldown`.
    pub cooldown: Duration,
    /// Units whose jobs reload the policy: `--reload-with-unit`.
    pub reload_with: BTreeSet<UnitName>,
    /// Units whose jobs load the policy again as it is: `--reapply-with-unit`.
    pub reapply_with: BTreeSet<UnitName>,
    /// Whether cgroupfs itself reports every change of a cgroup.
    pub cgroups_are_watched: bool,
}

/// What the daemon can say of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Elements that the policy speaks of.
    pub elements: usize,
    /// Elements that are in the kernel.
    pub held: usize,
    /// How often each source was the first to tell of a cgroup's change.
    pub first: BTreeMap<Source, u64>,
}

/// The decider.
#[derive(Debug, Clone, Default)]
pub struct Engine {
    settings: Settings,
    seen: Seen,
    table: Table,
    patterns: Vec<Pattern>,
    /// Of the patterns' selectors.
    index: Index,
    users: Users,
    looks: Looks,
    /// Rows that the kernel could not put right, and when they are tried again.
    retries: BTreeSet<(Duration, RowId)>,
    reload: Reload,
    dbus_is_there: bool,
    first: BTreeMap<Source, u64>,
    latencies: Latencies,
}

/// Of the selectors of patterns.
fn index_of(patterns: &[Pattern]) -> Index {
    Index::of(patterns.iter().map(|pattern| &pattern.selectors))
}

/// Cgroups and states of units as they were last seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The cgroups that exist.
    pub cgroups: BTreeMap<CgroupPath, CgroupId>,
    /// The units of the system's manager.
    pub units: BTreeMap<UnitName, UnitState>,
    /// States that others tell of while D-Bus is there, and D-Bus has not told of since. They count once it is lost: it may
    /// have been silent for a while.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unconfirmed: BTreeMap<UnitName, UnitState>,
}

impl Engine {
    /// An engine without a policy.
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// The units whose events matter.
    pub fn units(&self) -> BTreeSet<UnitName> {
        let settings = self.settings.reload_with.iter().chain(&self.settings.reapply_with);
        self.table.paths_of.keys().chain(self.table.by_unit.keys()).chain(settings).cloned().gather()
    }

    /// The units of the system's manager whose state matters by itself.
    pub fn units_with_state(&self) -> BTreeSet<UnitName> {
        self.table.by_unit.keys().cloned().gather()
    }

    /// The cgroups that matter and are known by name, whether or not a pattern selects them, too.
    pub fn paths(&self) -> BTreeSet<CgroupPath> {
        self.table.named_paths()
    }

    /// The state of a unit of the system's manager, if it is known.
    pub fn state(&self, unit: &UnitName) -> Option<UnitState> {
        self.seen.units.get(unit).copied()
    }

    /// A row that is kept.
    pub fn row(&self, row: RowId) -> Option<&Kept> {
        self.table.rows.get(&row).map(Box::as_ref)
    }

    /// Whether the kernel could not do the last load.
    pub fn load_has_failed(&self) -> bool {
        self.reload.failures > 0
    }

    /// Whether somebody undoes load after load.
    pub fn is_fought(&self) -> bool {
        self.reload.is_fight()
    }

    /// What there is to say.
    pub fn figures(&self) -> Figures {
        Figures { elements: self.table.rows.len(), held: self.table.held, first: self.first.clone() }
    }

    /// Takes in what happened at `now`, a time on any clock that only goes forward.
    pub fn handle(&mut self, now: Duration, event: Event) {
        match event {
            Event::PolicyLoaded(loaded) => self.policy_loaded(now, loaded),
            Event::LoadFailed { passing: true } => self.reload.failed(now),
            Event::LoadFailed { passing: false } => {}
            Event::FilesUnsettled => self.reload.postpone(now),
            Event::InstanceSeen { instance, id } => self.instance_seen(now, &instance, id),
            Event::CgroupSeen { path, id, source } => self.cgroup_seen(now, &path, id, source),
            Event::LookFailed { path } => self.looks.after_failure(now, path),
            Event::UnitChanged { unit, source } => self.unit_changed(now, &unit, source),
            Event::UnitJobDone { unit, source } => {
                self.unit_changed(now, &unit, source);
                self.reload_with(now, &unit, source);
            }
            Event::UnitStateSeen { unit, state, source } => {
                self.unit_changed(now, &unit, source);
                if source == Source::Dbus || !self.dbus_is_there {
                    self.seen.unconfirmed.remove(&unit);
                    self.unit_state_seen(unit, state);
                } else if self.table.by_unit.contains_key(&unit) {
                    self.seen.unconfirmed.insert(unit, state);
                }
            }
            Event::SourceResumed { source } => {
                self.dbus_is_there |= source == Source::Dbus;
                self.look_at_everything();
            }
            Event::SourceLost { source: Source::Dbus } => {
                self.dbus_is_there = false;
                let unconfirmed = std::mem::take(&mut self.seen.unconfirmed);
                unconfirmed.into_iter().for_each(|(unit, state)| self.unit_state_seen(unit, state));
            }
            Event::SourceLost { .. } => {}
            Event::Committed { outcomes } => {
                outcomes.into_iter().for_each(|(row, outcome)| self.committed(now, row, outcome));
            }
            Event::RulesetChanged { thread } => self.reload.changed(now, thread),
            Event::ReapplyRequested => self.ask_reload(now, false, false),
            Event::ReloadRequested => self.ask_reload(now, true, true),
        }
    }

    /// When [`Self::actions`] is to be called again even if nothing happens.
    pub fn timeout(&self) -> Option<Duration> {
        let retry = self.retries.first().map(|(at, _)| *at);
        retry.into_iter().chain(self.looks.timeout()).chain(self.reload.timeout()).min()
    }

    /// Everything that is to be done at `now`.
    pub fn actions(&mut self, now: Duration) -> Vec<Action> {
        while self.retries.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, row)) = self.retries.pop_first()
        {
            self.table.dirty.insert(row);
        }
        let commit = self.table.plan(&self.seen);
        let (cgroups, units) = self.looks.due(now);
        let commit = (!commit.is_empty()).then_some(Action::Commit(commit));
        let looks = cgroups.into_iter().map(Action::LookAtCgroup);
        let units = units.into_iter().map(Action::LookAtUnit);
        commit.into_iter().chain(looks).chain(units).chain(self.reload.due(now)).collect()
    }

    fn policy_loaded(&mut self, now: Duration, loaded: PolicyLoaded) {
        let PolicyLoaded { rows, patterns, users, instances, installed } = loaded;
        (self.index, self.patterns, self.users) = (index_of(&patterns), patterns, users);
        self.table = Table::after(&self.table);
        self.retries.clear();
        self.looks = Looks::default();
        let mut ids: Vec<RowId> = rows.into_iter().map(|row| self.table.keep(row, true)).collect();
        for (instance, rows) in instances {
            ids.extend(self.table.insert_instance(&instance, rows));
        }
        for (row, element) in installed {
            if let Some(id) = ids.get(row) {
                self.table.note(*id, Outcome::Added(element));
                let path = self.table.rows.get(id).and_then(|row| row.element.key.cgroup());
                path.into_iter().for_each(|path| self.latencies.end(path, now, true));
            }
        }
        self.latencies.interrupt();
        self.seen.cgroups.retain(|path, _| self.table.by_path.contains_key(path));
        self.seen.units.retain(|unit, _| self.table.by_unit.contains_key(unit));
        self.seen.unconfirmed.retain(|unit, _| self.table.by_unit.contains_key(unit));
        self.look_at_everything();
        self.reload.done(now);
    }

    fn look_at_everything(&mut self) {
        self.table.by_path.keys().for_each(|path| self.looks.at_cgroup(path));
        self.table.by_unit.keys().for_each(|unit| self.looks.at_unit(unit));
    }

    fn instance_seen(&mut self, now: Duration, instance: &Instance, id: Option<CgroupId>) {
        let path = &instance.path;
        if id.is_some() && !self.table.instances.contains_key(path) {
            let (rows, is_whole) = self.rows_of(instance);
            if !rows.is_empty() || !is_whole {
                self.table.insert_instance(instance, rows);
            }
            if !is_whole {
                // There is no map for its level yet.
                self.ask_reload(now, false, false);
            }
        }
        self.cgroup_seen(now, path, id, Some(Source::Cgroup));
        self.table.instance_seen(path, id.is_some());
        if !self.table.by_path.contains_key(path) {
            self.seen.cgroups.remove(path);
        }
    }

    /// What patterns make of an instance, and whether they all can.
    fn rows_of(&self, instance: &Instance) -> (Vec<Row>, bool) {
        let selecting = self.selecting(instance);
        let rows = selecting.iter().flat_map(|pattern| pattern.rows(&instance.path)).collect();
        (rows, selecting.iter().all(|pattern| pattern.has_level_of(&instance.path)))
    }

    /// Whether an instance is, or was, of those that patterns select.
    pub fn is_about(&self, instance: &Instance) -> bool {
        self.table.instances.contains_key(&instance.path)
            || self.table.by_path.contains_key(&instance.path)
            || !self.selecting(instance).is_empty()
    }

    /// The patterns that select an instance.
    fn selecting(&self, instance: &Instance) -> Vec<&Pattern> {
        let candidates =
            self.index.candidates(&instance.unit).into_iter().map(|number| &self.patterns[number]);
        candidates.filter(|one| one.selectors.select(instance, &self.users)).collect()
    }

    fn cgroup_seen(
        &mut self,
        now: Duration,
        path: &CgroupPath,
        id: Option<CgroupId>,
        source: Option<Source>,
    ) {
        let Some(rows) = self.table.by_path.get(path) else { return };
        let known = match id {
            Some(id) => self.seen.cgroups.insert(path.clone(), id),
            None => self.seen.cgroups.remove(path),
        };
        self.table.dirty.extend(rows.iter());
        // A load has put it there where its cgroup was there before anybody told of it.
        let is_held = |row: &RowId| self.table.rows.get(row).is_some_and(|row| row.held.contains(&id));
        let is_in_kernel = rows.iter().all(is_held);
        if id.is_some() && !self.settings.cgroups_are_watched {
            self.looks.in_rounds(now, path);
        }
        if let Some(source) = source.filter(|_| known != id) {
            *self.first.entry(source).or_default() += 1;
            match id {
                Some(_) if !is_in_kernel => self.latencies.begin(path, now, source),
                Some(_) => {}
                None => self.latencies.end(path, now, false),
            }
        }
    }

    fn unit_changed(&mut self, now: Duration, unit: &UnitName, source: Source) {
        for path in self.table.paths_of.get(unit).into_iter().flat_map(Few::iter) {
            self.looks.at_cgroup(path);
            if !self.settings.cgroups_are_watched {
                self.looks.after_news(now, path);
            }
        }
        if source == Source::Journal && self.table.by_unit.contains_key(unit) {
            self.looks.at_unit(unit);
        }
    }

    /// What the bus says, the journal says again later.
    fn reload_with(&mut self, now: Duration, unit: &UnitName, source: Source) {
        let said_already = source == Source::Journal && self.dbus_is_there;
        if self.settings.reload_with.contains(unit) && !said_already {
            self.ask_reload(now, true, true);
        } else if self.settings.reapply_with.contains(unit) && !said_already {
            self.ask_reload(now, false, true);
        }
    }

    fn unit_state_seen(&mut self, unit: UnitName, state: UnitState) {
        if let Some(rows) = self.table.by_unit.get(&unit) {
            self.table.dirty.extend(rows.iter());
            self.seen.units.insert(unit, state);
        }
    }

    fn committed(&mut self, now: Duration, id: RowId, outcome: Outcome) {
        let path = self.table.rows.get(&id).and_then(|row| row.element.key.cgroup().cloned());
        self.table.note(id, outcome);
        if let Some(path) = &path {
            self.latencies.end(path, now, matches!(outcome, Outcome::Added(_)));
        }
        match outcome {
            Outcome::Failed => {
                let failures = self.table.rows.get(&id).map_or(1, |row| row.failures);
                self.retries.insert((now.saturating_add(pause(failures, FIRST_PAUSE, LONGEST_PAUSE)), id));
            }
            Outcome::Vanished => {
                if let Some(path) = &path {
                    self.seen.cgroups.remove(path);
                    self.looks.at_cgroup(path);
                }
            }
            _ => {}
        }
        if let Some(path) = path.filter(|path| !self.table.by_path.contains_key(path)) {
            self.seen.cgroups.remove(&path);
        }
    }

    fn ask_reload(&mut self, now: Duration, reread: bool, flush: bool) {
        self.reload.ask(now, self.settings.cooldown, reread, flush);
    }
}

/// How long to wait after so many failures in a row: twice as long after each.
fn pause(failures: u32, first: Duration, longest: Duration) -> Duration {
    (first * 2_u32.pow(failures.saturating_sub(1).min(16))).min(longest)
}
