//! EVENTS -> ACTIONS. What should be in the kernel, what is, and the difference.
//!
//! Pure: no I/O, no clock (the caller says what time it is), ordered maps only. Level-triggered: an event only
//! says where to look; the cgroup that exists, with its id, is the truth. So events that are lost, doubled or out of
//! order heal with the next look.
//!
//! The caller hands in events ([`Engine::handle`]), then takes the actions ([`Engine::actions`]), so that what is
//! pending together is committed together.

mod action;
mod event;
pub mod hosts;
mod slot;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    dispatch::{Pattern, pattern::level},
    model::{
        Binding, CgroupId, CgroupPath, Condition, Data, Element, Instance, Key, SetRef, Source, UnitName,
        UnitOf, UnitState,
    },
    units::selector::Users,
};
pub use action::{Action, Commit};
pub use event::{Event, Outcome, PolicyLoaded};
use slot::{Slot, World};

/// Where a cgroup or a unit is looked at again after an event, when no source reports every change: the cgroup
/// of a unit comes and goes a little before or after what is said of it. In milliseconds.
const LOOKS_AFTER: [u64; 4] = [20, 100, 500, 2000];

/// How often a cgroup that exists is looked at when cgroupfs does not report its end: a user's unit that ends by
/// itself leaves nothing in the journal, nor on a bus that we can hear.
const ROUND: Duration = Duration::from_secs(1);

/// What the command line asks of the engine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    slots: BTreeMap<usize, Slot>,
    /// The number of the next slot.
    next: usize,
    patterns: Vec<Pattern>,
    users: Users,
    /// The slots that each instance of a pattern has.
    instances: BTreeMap<CgroupPath, Vec<usize>>,
    /// Instances that are gone, and may still have elements in the kernel.
    ended: BTreeSet<CgroupPath>,
    index: BTreeMap<(SetRef, Key, Option<Data>), usize>,
    by_path: BTreeMap<CgroupPath, BTreeSet<usize>>,
    by_unit: BTreeMap<UnitName, BTreeSet<usize>>,
    paths_of: BTreeMap<UnitName, BTreeSet<CgroupPath>>,
    dirty: BTreeSet<usize>,
    looks: BTreeSet<CgroupPath>,
    unit_looks: BTreeSet<UnitName>,
    later: BTreeSet<(Duration, CgroupPath)>,
    rounds: BTreeMap<CgroupPath, Duration>,
    sweeps: BTreeSet<SetRef>,
    reload: Reload,
    dbus_is_there: bool,
    held: usize,
    first: BTreeMap<Source, u64>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    cgroups: BTreeMap<CgroupPath, CgroupId>,
    system_units: BTreeMap<UnitName, UnitState>,
    user_units: BTreeMap<UnitName, UnitState>,
}

impl World for Seen {
    fn cgroup(&self, path: &CgroupPath) -> Option<CgroupId> {
        self.cgroups.get(path).copied()
    }

    /// A user's unit only counts where the system has none of that name: nobody is to open a system unit's rules by
    /// giving a unit of his own its name.
    fn active(&self, unit: &UnitName, of: UnitOf) -> bool {
        let active = Some(&UnitState::Active);
        match self.system_units.get(unit) {
            Some(UnitState::Missing) if of == UnitOf::Anybody => self.user_units.get(unit) == active,
            system => system == active,
        }
    }
}

/// A load of the policy that is asked for.
#[derive(Debug, Clone, Default)]
struct Reload {
    last: Option<Duration>,
    due: Option<Duration>,
    reread: bool,
    flush: bool,
}

impl Engine {
    /// An engine without a policy.
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// The units whose events matter.
    pub fn units(&self) -> BTreeSet<UnitName> {
        let policy = self.paths_of.keys().chain(self.by_unit.keys());
        policy.chain(&self.settings.reload_with).chain(&self.settings.reapply_with).cloned().collect()
    }

    /// The units whose state matters by itself.
    pub fn units_with_state(&self) -> BTreeSet<UnitName> {
        self.by_unit.keys().cloned().collect()
    }

    /// The cgroups that matter and are known by name, whether or not a pattern selects them, too.
    pub fn paths(&self) -> BTreeSet<CgroupPath> {
        let is_named = |(path, slots): &(&CgroupPath, &BTreeSet<usize>)| {
            let of_instance = self.instances.get(*path);
            of_instance.is_none_or(|of_instance| slots.iter().any(|slot| !of_instance.contains(slot)))
        };
        self.by_path.iter().filter(is_named).map(|(path, _)| path.clone()).collect()
    }

    /// Whether a unit is known to be active.
    pub fn is_active(&self, unit: &UnitName, of: UnitOf) -> bool {
        self.seen.active(unit, of)
    }

    /// What there is to say.
    pub fn figures(&self) -> Figures {
        Figures { elements: self.slots.len(), held: self.held, first: self.first.clone() }
    }

    /// Takes in what happened at `now`, a time on any clock that only goes forward.
    pub fn handle(&mut self, now: Duration, event: Event) {
        match event {
            Event::PolicyLoaded(loaded) => self.policy_loaded(now, loaded),
            Event::InstanceSeen { instance, id } => self.instance_seen(now, &instance, id),
            Event::CgroupSeen { path, id, source } => self.cgroup_seen(now, &path, id, source),
            Event::UnitChanged { unit, source } => self.unit_changed(now, &unit, source),
            Event::UnitJobDone { unit, source } => {
                self.unit_changed(now, &unit, source);
                self.reload_with(now, &unit, source);
            }
            Event::UnitStateSeen { unit, state, user, source } => {
                self.unit_changed(now, &unit, source);
                if user || source == Source::Dbus || !self.dbus_is_there {
                    self.unit_state_seen(unit, state, user);
                }
            }
            Event::SourceResumed { source } => self.source_resumed(source),
            Event::SourceLost { source } => self.dbus_is_there &= source != Source::Dbus,
            Event::Committed { outcomes } => {
                for (element, outcome) in outcomes {
                    self.committed(now, &element, &outcome);
                }
                self.forget_ended();
            }
            Event::RulesetChanged => self.ask_reload(now, false, false),
            Event::ReloadRequested => self.ask_reload(now, true, true),
            Event::ReapplyRequested => self.ask_reload(now, false, false),
        }
    }

    /// When [`Self::actions`] is to be called again even if nothing happens.
    pub fn timeout(&self) -> Option<Duration> {
        let look = self.later.first().map(|(at, _)| *at);
        look.into_iter().chain(self.rounds.values().copied()).chain(self.reload.due).min()
    }

    /// Everything that is to be done at `now`.
    pub fn actions(&mut self, now: Duration) -> Vec<Action> {
        while let Some((at, path)) = self.later.pop_first() {
            if at > now {
                self.later.insert((at, path));
                break;
            }
            self.looks.insert(path);
        }
        let looks = &mut self.looks;
        self.rounds.retain(|path, at| {
            let waits = *at > now;
            if !waits {
                looks.insert(path.clone());
            }
            waits
        });
        let mut actions = Vec::new();
        let commit = self.plan();
        if !commit.is_empty() {
            actions.push(Action::Commit(commit));
        }
        actions.extend(self.due_sweeps());
        actions.extend(std::mem::take(&mut self.looks).into_iter().map(Action::LookAtCgroup));
        actions.extend(std::mem::take(&mut self.unit_looks).into_iter().map(Action::LookAtUnit));
        actions.extend(self.due_reload(now));
        actions
    }

    fn plan(&mut self) -> Commit {
        let mut commit = Commit::default();
        for index in std::mem::take(&mut self.dirty) {
            if let Some(slot) = self.slots.get_mut(&index) {
                slot.plan(&self.seen, &mut commit);
            }
        }
        commit
    }

    /// A set is swept while no commit to it is under way: only then is it known what belongs there.
    fn due_sweeps(&mut self) -> Vec<Action> {
        let busy =
            |set: &SetRef| self.slots.values().any(|slot| slot.busy && slot.binding.element.set == *set);
        let (later, now) = std::mem::take(&mut self.sweeps).into_iter().partition(busy);
        self.sweeps = later;
        now.into_iter().map(|set| self.sweep(set)).collect()
    }

    fn sweep(&self, set: SetRef) -> Action {
        let slots = self.slots.values().filter(|slot| slot.binding.element.set == set);
        let keep = slots.flat_map(|slot| &slot.held).copied().collect();
        Action::Sweep { set, keep }
    }

    fn policy_loaded(&mut self, now: Duration, loaded: PolicyLoaded) {
        let PolicyLoaded { bindings, patterns, users, instances, installed } = loaded;
        let old = std::mem::take(&mut self.slots);
        self.index.clear();
        self.by_path.clear();
        self.by_unit.clear();
        self.paths_of.clear();
        self.rounds.clear();
        self.instances.clear();
        self.ended.clear();
        (self.patterns, self.users) = (patterns, users);
        for binding in bindings {
            self.bind(binding);
        }
        for instance in &instances {
            self.bind_instance(instance);
        }
        for slot in old.into_values().filter(|slot| !slot.binding.element.set.is_ours()) {
            self.inherit(slot);
        }
        self.held = self.slots.values().filter(|slot| slot.is_held()).count();
        for (element, outcome) in installed {
            self.committed(now, &element, &outcome);
        }
        self.dirty = self.slots.keys().copied().collect();
        self.looks = self.by_path.keys().cloned().collect();
        self.seen.cgroups.retain(|path, _| self.by_path.contains_key(path));
        self.seen.system_units.retain(|unit, _| self.by_unit.contains_key(unit));
        self.seen.user_units.retain(|unit, _| self.by_unit.contains_key(unit));
        self.unit_looks = self.by_unit.keys().cloned().collect();
        self.sweeps.extend(
            self.slots
                .values()
                .map(|slot| &slot.binding.element)
                .filter(|e| !e.set.is_ours())
                .map(|e| e.set.clone()),
        );
        self.reload.last = Some(now);
    }

    fn instance_seen(&mut self, now: Duration, instance: &Instance, id: Option<CgroupId>) {
        let path = &instance.path;
        match id {
            Some(_) => {
                self.ended.remove(path);
                if !self.instances.contains_key(path) && !self.bind_instance(instance) {
                    // There is no map for its level yet.
                    self.ask_reload(now, false, false);
                }
            }
            None if self.instances.contains_key(path) => drop(self.ended.insert(path.clone())),
            None => {}
        }
        self.cgroup_seen(now, path, id, Some(Source::Cgroup));
        self.forget_ended();
    }

    /// Binds what patterns make of an instance; whether they all can.
    fn bind_instance(&mut self, instance: &Instance) -> bool {
        let level = level(&instance.path);
        let (mut bindings, mut is_whole, mut is_selected) = (Vec::new(), true, false);
        for pattern in self.patterns.iter().filter(|one| one.selectors.select(instance, &self.users)) {
            is_selected = true;
            is_whole &= pattern.levels().is_none_or(|levels| levels.contains(&level));
            bindings.extend(pattern.bindings(&instance.path));
        }
        let slots = bindings.into_iter().map(|binding| self.bind(binding)).collect();
        if is_selected {
            self.instances.insert(instance.path.clone(), slots);
        }
        is_whole
    }

    /// Forgets the instances that are gone and of which the kernel holds nothing any more.
    fn forget_ended(&mut self) {
        for path in self.ended.clone() {
            let slots = self.instances.get(&path).cloned().unwrap_or_default();
            let is_done = slots.iter().all(|index| {
                self.slots.get(index).is_none_or(|slot| slot.is_gate() || !(slot.busy || slot.is_held()))
            });
            if is_done {
                self.ended.remove(&path);
                self.unbind_instance(&path, &slots);
            }
        }
    }

    fn unbind_instance(&mut self, path: &CgroupPath, slots: &[usize]) {
        self.instances.remove(path);
        self.forget_path(path, slots);
        for index in slots {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            slot.conditions.retain(|condition| condition.paths().all(|other| other != path));
            if slot.is_gate() {
                self.dirty.insert(*index);
            } else {
                self.index.remove(&name(&slot.binding.element));
                self.slots.remove(index);
                self.dirty.remove(index);
            }
        }
    }

    /// Forgets a path, unless more than these slots depend on it: a rule that names it.
    fn forget_path(&mut self, path: &CgroupPath, slots: &[usize]) {
        let Some(bound) = self.by_path.get_mut(path) else { return };
        bound.retain(|index| !slots.contains(index));
        if !bound.is_empty() {
            return;
        }
        self.by_path.remove(path);
        self.seen.cgroups.remove(path);
        let units = slots.iter().filter_map(|index| Some(self.slots.get(index)?.binding.unit.clone()));
        let names = path.components().map(|name| UnitName(name.to_owned()));
        for unit in names.chain(units) {
            if let Some(paths) = self.paths_of.get_mut(&unit) {
                paths.remove(path);
                if paths.is_empty() {
                    self.paths_of.remove(&unit);
                }
            }
        }
    }

    fn bind(&mut self, binding: Binding) -> usize {
        let index = self.slot(&binding);
        for path in binding.condition.paths() {
            self.by_path.entry(path.clone()).or_default().insert(index);
            self.paths_of.entry(binding.unit.clone()).or_default().insert(path.clone());
            for component in path.components().filter(|name| name.contains('.')) {
                self.paths_of.entry(UnitName(component.to_owned())).or_default().insert(path.clone());
            }
        }
        if let Condition::UnitActive(unit) | Condition::SystemUnitActive(unit) = &binding.condition {
            self.by_unit.entry(unit.clone()).or_default().insert(index);
        }
        if let Some(slot) = self.slots.get_mut(&index) {
            slot.conditions.push(binding.condition);
        }
        index
    }

    fn slot(&mut self, binding: &Binding) -> usize {
        let (slots, next) = (&mut self.slots, &mut self.next);
        *self.index.entry(name(&binding.element)).or_insert_with(|| {
            *next += 1;
            slots.insert(*next, Slot::new(binding.clone()));
            *next
        })
    }

    /// What the kernel holds of a user's own set, whether or not the new policy speaks of it.
    fn inherit(&mut self, old: Slot) {
        if old.held.is_empty() {
            return;
        }
        let index = self.slot(&old.binding);
        if let Some(slot) = self.slots.get_mut(&index) {
            slot.held.extend(old.held);
        }
    }

    fn cgroup_seen(
        &mut self,
        now: Duration,
        path: &CgroupPath,
        id: Option<CgroupId>,
        source: Option<Source>,
    ) {
        let Some(slots) = self.by_path.get(path) else { return };
        let known = match id {
            Some(id) => self.seen.cgroups.insert(path.clone(), id),
            None => self.seen.cgroups.remove(path),
        };
        self.dirty.extend(slots);
        if id.is_some() && !self.settings.cgroups_are_watched {
            self.rounds.entry(path.clone()).or_insert(now + ROUND);
        }
        if let Some(source) = source.filter(|_| known != id) {
            *self.first.entry(source).or_default() += 1;
        }
    }

    fn unit_changed(&mut self, now: Duration, unit: &UnitName, source: Source) {
        if let Some(paths) = self.paths_of.get(unit) {
            self.looks.extend(paths.iter().cloned());
            if !self.settings.cgroups_are_watched {
                let later = |path: &CgroupPath| {
                    let path = path.clone();
                    LOOKS_AFTER.map(move |after| (now + Duration::from_millis(after), path.clone()))
                };
                self.later.extend(paths.iter().flat_map(later));
            }
        }
        if source == Source::Journal && self.by_unit.contains_key(unit) {
            self.unit_looks.insert(unit.clone());
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

    fn unit_state_seen(&mut self, unit: UnitName, state: UnitState, user: bool) {
        if let Some(slots) = self.by_unit.get(&unit) {
            self.dirty.extend(slots);
            let units = if user { &mut self.seen.user_units } else { &mut self.seen.system_units };
            units.insert(unit, state);
        }
    }

    fn source_resumed(&mut self, source: Source) {
        self.dbus_is_there |= source == Source::Dbus;
        self.looks.extend(self.by_path.keys().cloned());
        self.unit_looks.extend(self.by_unit.keys().cloned());
    }

    fn committed(&mut self, now: Duration, element: &Element, outcome: &Outcome) {
        let Some(&index) = self.index.get(&name(element)) else { return };
        let Some(slot) = self.slots.get_mut(&index) else { return };
        self.held -= usize::from(slot.is_held());
        let strays = slot.note(outcome);
        self.held += usize::from(slot.is_held());
        self.dirty_unless_failed(index, outcome);
        if strays {
            self.sweeps.insert(element.set.clone());
        }
        let Key::Cgroup(path) = &element.key else { return };
        match outcome {
            Outcome::Added { after, .. } => self.cgroup_seen(now, path, *after, None),
            Outcome::Vanished => {
                self.seen.cgroups.remove(path);
                self.looks.insert(path.clone());
            }
            _ => {}
        }
    }

    fn dirty_unless_failed(&mut self, index: usize, outcome: &Outcome) {
        if *outcome != Outcome::Failed {
            self.dirty.insert(index);
        }
    }

    fn ask_reload(&mut self, now: Duration, reread: bool, flush: bool) {
        let after_cooldown = self.reload.last.map_or(now, |last| last + self.settings.cooldown);
        self.reload.due = Some(self.reload.due.unwrap_or(now.max(after_cooldown)));
        self.reload.reread |= reread;
        self.reload.flush |= flush;
    }

    fn due_reload(&mut self, now: Duration) -> Option<Action> {
        self.reload.due.take_if(|due| *due <= now)?;
        self.reload.last = Some(now);
        let reread = std::mem::take(&mut self.reload.reread);
        let flush = std::mem::take(&mut self.reload.flush);
        Some(Action::Reload { reread, flush })
    }
}

fn name(element: &Element) -> (SetRef, Key, Option<Data>) {
    (element.set.clone(), element.key.clone(), element.data.clone())
}
