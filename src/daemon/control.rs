//! What clients of the control socket ask, and how it is answered: at once, when the kernel has what they wait for, or
//! whenever something changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use litemap::LiteMap;
use nix::unistd::Uid;
use serde_json::json;

use super::{
    Daemon, allowances,
    polkit::{self, Questions},
    refusals::Recordings,
    settle::Texts,
    sources::Sources,
    status::{check_command, finding},
};
use crate::{
    cgroupfs::look,
    control::{
        message::{GetStatus, Nothing, Reload, Reloaded, StatusReply, Wait, Waited},
        server::{ClientId, Incoming, Peer, Sent},
        wire::{self, Ask},
    },
    engine::{Concern, Event, Standing},
    gather::Gather,
    model::{AnnotationId, CgroupPath, Instance, Manager, RowId, Source, UnitName, UnitState},
    policy::Policy,
    text::Diagnostic,
    units::{
        places::may_see,
        selector::{Selectors, Which},
    },
};

/// How long watchers wait at least for the next status, and how many times as long as the last one took to make.
const WATCH_PAUSE: Duration = Duration::from_millis(100);
const WATCH_SHARE: u32 = 20;

/// How many different things a user's watchers may be about, unless it is root: a status is made for each.
const WATCHED: usize = 8;

/// How long a policy may be on trial.
const LONGEST_TRIAL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a reload is tried again before who asked for it is told that it fails.
const RELOAD_PATIENCE: Duration = Duration::from_secs(5);

/// When to try again to put the policy before a trial back, if that fails.
const BACK_PAUSE: Duration = Duration::from_secs(1);

/// An answer that is an error.
type Refusal = Arc<[u8]>;

/// What watchers are told of: who asks, and what about. Those with the same are told the same.
type Watched = (u32, Option<String>);

/// What was found out beside the loop.
pub(super) enum Answered {
    /// Whether polkit permits what a client asked for, or why not.
    Permitted(ClientId, Result<(), String>),
    /// What is found in a policy that was just loaded.
    Findings(Arc<Policy>, Vec<Diagnostic>),
    /// What the kernel has recorded.
    Refusals(Recordings),
}

/// Who is owed an answer.
#[derive(Default)]
pub(super) struct Control {
    waits: LiteMap<ClientId, Waiting>,
    watchers: LiteMap<ClientId, Watcher>,
    /// Who asked for a change that polkit has to say about.
    asking: Questions<ClientId, Change>,
    /// Who waits until the files are read, and who for what is found in them.
    reloads: LiteMap<ClientId, Reading>,
    loaded: LiteMap<ClientId, Reload>,
    is_loading: bool,
    trial: Option<Trial>,
    /// Whether something has happened since watchers were told, who is still to be told of what was before, and when.
    is_changed: bool,
    to_tell: BTreeSet<Watched>,
    watch_due: Duration,
}

/// What somebody asked for who waits until the files are read, and when.
struct Reading {
    ask: Reload,
    since: Duration,
}

/// A change that a client asks for.
enum Change {
    Reload(Reload),
    Confirm,
    Revert,
    Allowances(Peer, allowances::Ask),
}

impl Change {
    /// What polkit calls it.
    fn action(&self) -> &'static str {
        match self {
            Self::Reload(_) | Self::Confirm | Self::Revert => polkit::RELOAD,
            Self::Allowances(..) => polkit::ALLOW,
        }
    }
}

struct Waiting {
    peer: Peer,
    target: Target,
    /// The units whose states are asked of systemd, and not said yet.
    units: BTreeSet<UnitName>,
}

/// What somebody waits for.
enum Target {
    /// The rules of this cgroup.
    Cgroup(CgroupPath),
    /// The rules of these annotations, for whatever cgroups there are.
    Annotations(BTreeSet<AnnotationId>),
}

struct Watcher {
    peer: Peer,
    ask: GetStatus,
    last: Arc<[u8]>,
}

impl Watcher {
    fn watched(&self) -> Watched {
        (self.peer.user, self.ask.unit.clone())
    }
}

/// A policy on trial: the one before, what its files said, and until when.
struct Trial {
    before: Arc<Policy>,
    texts: Texts,
    until: Duration,
}

impl Control {
    /// When there is something to do even if nothing happens.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let is_to_tell = !self.watchers.is_empty() && (self.is_changed || !self.to_tell.is_empty());
        let watch = is_to_tell.then_some(self.watch_due);
        self.trial.as_ref().map(|trial| trial.until).into_iter().chain(watch).min()
    }

    /// Notes that something has happened.
    pub(super) fn changed(&mut self) {
        self.is_changed = true;
    }

    /// Notes that systemd said what state a unit is in.
    pub(super) fn state_is_known(&mut self, unit: &UnitName) {
        for (_, waiting) in &mut self.waits {
            waiting.units.remove(unit);
        }
    }

    /// Notes that systemd cannot be asked.
    pub(super) fn bus_is_lost(&mut self) {
        self.waits.iter_mut().for_each(|(_, waiting)| waiting.units.clear());
    }

    /// Notes that the files were read and are about to be loaded.
    pub(super) fn loads(&mut self) {
        self.is_loading = !self.reloads.is_empty();
    }

    /// Whether somebody wants to know what is found in the files.
    pub(super) fn wants_findings(&self) -> bool {
        self.is_loading
    }

    /// Whether a user may watch that, too.
    fn may_watch(&self, (user, unit): &Watched) -> bool {
        let of_user = self.watchers.values().map(Watcher::watched).filter(|(other, _)| other == user);
        let others: BTreeSet<Watched> = of_user.filter(|(_, other)| other != unit).gather();
        *user == 0 || others.len() < WATCHED
    }

    /// What watchers are told of next.
    fn next_to_tell(&mut self) -> Option<Watched> {
        if self.to_tell.is_empty() && std::mem::take(&mut self.is_changed) {
            self.to_tell = self.watchers.values().map(Watcher::watched).gather();
        }
        self.to_tell.pop_first()
    }

    /// How long the policy is still on trial.
    pub(super) fn trial_left(&self, now: Duration) -> Option<Duration> {
        self.trial.as_ref().map(|trial| trial.until.saturating_sub(now))
    }

    fn forget(&mut self, client: ClientId) {
        self.waits.remove(&client);
        self.watchers.remove(&client);
        self.asking.take(&client);
        self.reloads.remove(&client);
        self.loaded.remove(&client);
    }
}

impl Daemon {
    /// Hears what clients want.
    pub(super) fn heard_clients(&mut self, sources: &mut Sources, all: Vec<Incoming>) {
        for one in all {
            let (client, peer, call) = match one {
                Incoming::Gone(client) => {
                    self.control.forget(client);
                    self.refusals.forget(client);
                    continue;
                }
                Incoming::Ready => {
                    self.control.changed();
                    continue;
                }
                Incoming::Call(client, peer, call) => (client, peer, call),
            };
            let begun = Instant::now();
            let more = call.more;
            let done = wire::ask(call).and_then(|ask| match ask {
                Ask::GetStatus(ask) => self.status_asked(sources, client, peer, ask, more),
                Ask::Wait(ask) => self.wait_asked(sources, client, peer, &ask),
                Ask::Reload(ask) => self.change_asked(sources, client, peer, Change::Reload(ask)),
                Ask::GetRefusals(ask) => self.refusals_asked(client, peer, ask, more),
                Ask::Allow(ask) => self.allowance_asked(sources, client, peer, allowances::Ask::Allow(ask)),
                Ask::Disallow(ask) => {
                    self.allowance_asked(sources, client, peer, allowances::Ask::Disallow(ask))
                }
                Ask::Confirm => self.change_asked(sources, client, peer, Change::Confirm),
                Ask::Revert => self.change_asked(sources, client, peer, Change::Revert),
            });
            if let Err(refusal) = done {
                sources.answer(client, refusal, false);
            }
            sources.charge(peer.user, self.now(), begun.elapsed());
        }
    }

    /// Hears what was found out beside the loop.
    pub(super) fn answered(&mut self, sources: &mut Sources, answer: Answered) {
        match answer {
            Answered::Permitted(client, permitted) => {
                let Some(change) = self.control.asking.take(&client) else { return };
                match permitted {
                    Ok(()) => self.change(sources, client, change),
                    Err(words) => sources.refuse(client, "NotPermitted", &words),
                }
            }
            Answered::Refusals(reading) => self.refusals_are_read(sources, reading),
            Answered::Findings(policy, found) => {
                for (client, ask) in std::mem::take(&mut self.control.loaded) {
                    let reloaded = reloaded(true, None, &policy, &found, ask.color);
                    sources.answer(client, wire::reply(&reloaded, false), false);
                }
            }
        }
    }

    fn status_asked(
        &mut self,
        sources: &mut Sources,
        client: ClientId,
        peer: Peer,
        ask: GetStatus,
        more: bool,
    ) -> Result<(), Refusal> {
        if more && !self.control.may_watch(&(peer.user, ask.unit.clone())) {
            let words =
                format!("a user other than root may watch {WATCHED} units at once: end one, or watch all");
            return Err(wire::error("TooMuch", &json!({ "words": words })));
        }
        self.ruleset_changed(sources);
        let status = self.status(peer.user, ask.unit.as_deref())?;
        let message = wire::reply(&StatusReply { status }, more);
        let last = match sources.answer(client, Arc::clone(&message), more) {
            Sent::More => message,
            Sent::Missed => Arc::default(),
            Sent::Last => return Ok(()),
        };
        self.control.watchers.insert(client, Watcher { peer, ask, last });
        Ok(())
    }

    /// Tells watchers what has changed, unless some were told a moment ago: one after the other those who watch different
    /// things, so that nothing else waits for more than one status.
    pub(super) fn tell_watchers(&mut self, sources: &mut Sources) {
        let now = self.now();
        if self.control.watchers.is_empty() || now < self.control.watch_due {
            return;
        }
        let Some(watched) = self.control.next_to_tell() else { return };
        let (message, more) = match self.status(watched.0, watched.1.as_deref()) {
            Ok(status) => (wire::reply(&StatusReply { status }, true), true),
            Err(refusal) => (refusal, false),
        };
        for (client, mut watcher) in std::mem::take(&mut self.control.watchers) {
            if watcher.watched() == watched && message != watcher.last {
                match sources.answer(client, Arc::clone(&message), more) {
                    Sent::More => watcher.last = Arc::clone(&message),
                    Sent::Missed => {}
                    Sent::Last => continue,
                }
            }
            self.control.watchers.insert(client, watcher);
        }
        let least = if self.control.to_tell.is_empty() { WATCH_PAUSE } else { Duration::ZERO };
        let took = self.now().saturating_sub(now);
        self.control.watch_due = self.now() + least.max(took * WATCH_SHARE);
    }

    fn wait_asked(
        &mut self,
        sources: &mut Sources,
        client: ClientId,
        peer: Peer,
        ask: &Wait,
    ) -> Result<(), Refusal> {
        let target = match (&ask.cgroup, &ask.unit) {
            (Some(path), None) => {
                let path: CgroupPath = path.parse().map_err(|_| wire::invalid("cgroup"))?;
                if !may_see(peer.user, path.as_str()) {
                    let words = "the cgroup is another user's: run it as root";
                    return Err(wire::error("NotPermitted", &json!({ "words": words })));
                }
                self.look_for(sources, &path);
                Target::Cgroup(path)
            }
            (None, Some(unit)) => {
                let selectors = Selectors::parse(unit).map_err(|_| wire::invalid("unit"))?;
                let annotations = self.annotations_for(&selectors, peer.user);
                self.look_for_all(sources, &annotations);
                Target::Annotations(annotations)
            }
            (Some(_), Some(_)) => return Err(wire::invalid("unit")),
            (None, None) => return Err(wire::invalid("cgroup")),
        };
        let units = self.ask_for_states(sources, &target);
        self.control.waits.insert(client, Waiting { peer, target, units });
        Ok(())
    }

    /// Looks at a cgroup, and at those that it is in, so that nothing has to tell of them first.
    fn look_for(&mut self, sources: &mut Sources, path: &CgroupPath) {
        for prefix in path.prefixes() {
            if self.engine.depends_on(&prefix) {
                let id = look(&prefix);
                self.tell(Event::CgroupSeen { path: prefix.clone(), id, source: None });
            }
            if let Some(instance) = Instance::of(&prefix) {
                let drained = sources.subtrees.look_at(&instance);
                self.see_selected(drained);
            }
        }
    }

    /// The same for all cgroups that annotations apply to.
    fn look_for_all(&mut self, sources: &mut Sources, annotations: &BTreeSet<AnnotationId>) {
        let all = annotations.iter().map(|id| self.policy.annotation(*id));
        let selectors = all.clone().filter_map(|one| one.followed()).gather();
        let named: BTreeSet<CgroupPath> = all.flat_map(|one| one.statement.paths().cloned()).gather();
        for path in named {
            self.look_for(sources, &path);
        }
        for (instance, _) in sources.subtrees.instances_of(&selectors, &self.users) {
            let drained = sources.subtrees.look_at(&instance);
            self.see_selected(drained);
        }
    }

    /// Asks systemd for the states of units that matter and are not active as far as is known: they may be about to start.
    fn ask_for_states(&mut self, sources: &Sources, target: &Target) -> BTreeSet<UnitName> {
        let mut units = self.engine.units_of(&self.concern(target));
        units.retain(|unit| self.engine.state(unit) != Some(UnitState::Active));
        if self.engine.dbus_is_there() {
            units.retain(|unit| sources.dbus_looks.try_send(unit.clone()).is_ok());
            return units;
        }
        if let Target::Cgroup(path) = target {
            // What has a cgroup is active.
            let of_path = path
                .prefixes()
                .filter_map(|prefix| Instance::of(&prefix).filter(|_| look(&prefix).is_some()));
            let of_system = of_path.filter(|instance| instance.manager == Manager::System);
            let active: Vec<UnitName> =
                of_system.map(|instance| instance.unit).filter(|unit| units.contains(unit)).collect();
            for unit in active {
                let (state, source) = (UnitState::Active, Source::Cgroup);
                self.tell(Event::UnitStateSeen { unit, state, source });
            }
        }
        BTreeSet::new()
    }

    fn concern(&self, target: &Target) -> Concern {
        match target {
            Target::Cgroup(path) => self.engine.concern_of(path),
            Target::Annotations(annotations) => self.engine.concern_for(annotations),
        }
    }

    /// The annotations that are for what selectors select, as far as names tell, or that name a cgroup of such a unit.
    fn annotations_for(&self, wanted: &Selectors, viewer: u32) -> BTreeSet<AnnotationId> {
        let names: Vec<&UnitName> = wanted
            .0
            .iter()
            .filter_map(|one| if let Which::Unit(name) = &one.which { Some(name) } else { None })
            .collect();
        let is_for = |id: &AnnotationId| {
            let annotation = self.policy.annotation(*id);
            let mut paths = annotation.statement.paths().filter(|path| may_see(viewer, path.as_str()));
            annotation.selectors.overlap(wanted)
                || paths.any(|path| names.iter().any(|name| path.components().any(|part| *part == *name.0)))
        };
        self.policy.iter().map(|(id, _)| id).filter(is_for).gather()
    }

    /// Answers those who wait and whose rules are in the kernel.
    pub(super) fn answer_waits(&mut self, sources: &mut Sources) {
        if self.control.waits.is_empty() {
            return;
        }
        self.ruleset_changed(sources);
        for (client, waiting) in std::mem::take(&mut self.control.waits) {
            match self.waited(&waiting) {
                Some(waited) => drop(sources.answer(client, wire::reply(&waited, false), false)),
                None => drop(self.control.waits.insert(client, waiting)),
            }
        }
    }

    /// The answer, if it is time for it.
    fn waited(&self, waiting: &Waiting) -> Option<Waited> {
        let concern = self.concern(&waiting.target);
        let mut refused: BTreeMap<AnnotationId, String> = self
            .refused
            .iter()
            .filter(|(id, _)| match &waiting.target {
                Target::Cgroup(path) => self.policy.is_about(**id, path, &self.users),
                Target::Annotations(annotations) => annotations.contains(id),
            })
            .map(|(id, words)| (*id, words.clone()))
            .gather();
        let mut annotations = concern.annotations.clone();
        annotations.extend(refused.keys());
        if annotations.is_empty() {
            return Some(Waited::default());
        }
        if !self.engine.is_settled() || concern.is_partial || !waiting.units.is_empty() {
            return None;
        }
        let may_see = |id: &&RowId| {
            let path = self.engine.row(**id).and_then(|row| row.element.key.cgroup());
            path.is_none_or(|path| may_see(waiting.peer.user, path.as_str()))
        };
        let mut are_there = matches!(&waiting.target, Target::Cgroup(path) if look(path).is_some());
        for id in concern.rows.iter().filter(may_see) {
            match self.engine.standing(*id) {
                Standing::Pending => return None,
                Standing::InForce(_) => are_there = true,
                Standing::NotDue => {}
                Standing::Refused => {
                    are_there = true;
                    let of_row = self.engine.row(*id).into_iter().flat_map(|row| row.annotations.iter());
                    let words = || "the kernel refuses its element".to_owned();
                    for annotation in of_row {
                        refused.entry(*annotation).or_insert_with(words);
                    }
                }
            }
        }
        if !are_there && refused.len() < annotations.len() {
            return None;
        }
        let place = |id: &AnnotationId| self.policy.sources.location(self.policy.annotation(*id).unit_span);
        Some(Waited {
            annotations: annotations.iter().map(place).collect(),
            refused: refused.iter().map(|(id, words)| format!("{}: {words}", place(id))).collect(),
        })
    }

    fn allowance_asked(
        &mut self,
        sources: &mut Sources,
        client: ClientId,
        peer: Peer,
        ask: allowances::Ask,
    ) -> Result<(), Refusal> {
        self.may_ask(&ask, peer)?;
        if let allowances::Ask::Disallow(_) = ask {
            // To end what was allowed to oneself needs nobody's leave.
            self.change(sources, client, Change::Allowances(peer, ask));
            return Ok(());
        }
        self.change_asked(sources, client, peer, Change::Allowances(peer, ask))
    }

    /// Root and the daemon's own user may change things; who else may, polkit says.
    fn change_asked(
        &mut self,
        sources: &mut Sources,
        client: ClientId,
        peer: Peer,
        change: Change,
    ) -> Result<(), Refusal> {
        if peer.user == 0 || peer.user == Uid::effective().as_raw() {
            self.change(sources, client, change);
            return Ok(());
        }
        let answers = sources.answers.0.clone();
        let action = change.action();
        let ask = async move {
            let permitted = polkit::permits(peer, action).await;
            let _ = answers.send(Answered::Permitted(client, permitted));
        };
        let asked = self.control.asking.ask(client, peer.user, change, ask);
        asked.map_err(|words| wire::error("TooMuch", &json!({ "words": words })))
    }

    fn change(&mut self, sources: &mut Sources, client: ClientId, change: Change) {
        match change {
            Change::Reload(ask) => {
                let since = self.now();
                self.control.reloads.insert(client, Reading { ask, since });
                self.is_strict = true;
                self.tell(Event::ReloadRequested);
            }
            Change::Allowances(peer, ask) => self.change_allowances(sources, client, peer, ask),
            _ if self.control.trial.is_none() => {
                sources.refuse(client, "NothingOnTrial", "nothing is on trial: the policy in force stays");
            }
            Change::Confirm => {
                tracing::info!("the policy on trial is confirmed");
                self.control.trial = None;
                sources.answer(client, wire::reply(&Nothing {}, false), false);
            }
            Change::Revert => {
                let now = self.now();
                self.control.trial.iter_mut().for_each(|trial| trial.until = now);
                self.end_trial(sources);
                match &self.load_error {
                    None => drop(sources.answer(client, wire::reply(&Nothing {}, false), false)),
                    Some(words) => sources.refuse(client, "Failed", &words.clone()),
                }
            }
        }
    }

    /// Notes that the files were read and loaded; `before` is the policy that was in force.
    pub(super) fn is_loaded(&mut self, before: &Arc<Policy>) {
        let texts = self.files.loaded();
        self.control.is_loading = false;
        let reloads = std::mem::take(&mut self.control.reloads);
        let limits = reloads.values().filter_map(|one| one.ask.try_ms);
        match limits.map(|limit| Duration::from_millis(limit).min(LONGEST_TRIAL)).min() {
            Some(limit) => {
                // A trial during a trial goes back to what was in force before both.
                let until = self.now() + limit;
                let first = self.control.trial.take();
                self.control.trial = Some(match first {
                    Some(first) => Trial { until, ..first },
                    None => Trial { before: Arc::clone(before), texts, until },
                });
                tracing::info!("the policy is on trial for {} s", limit.as_secs_f64());
            }
            // Who loads something else means it.
            None if !reloads.is_empty() => self.control.trial = None,
            None => {}
        }
        for (client, one) in reloads {
            self.control.loaded.insert(client, one.ask);
        }
    }

    /// Tells those who asked for it that the files are not loaded; `again` is the time now if it will be tried again: then only
    /// those who have waited for long.
    pub(super) fn files_are_not_loaded(
        &mut self,
        sources: &mut Sources,
        policy: Option<&Policy>,
        found: &[Diagnostic],
        words: &str,
        again: Option<Duration>,
    ) {
        let none = Policy::default();
        self.control.is_loading = false;
        for (client, one) in std::mem::take(&mut self.control.reloads) {
            if again.is_some_and(|now| now.saturating_sub(one.since) < RELOAD_PATIENCE) {
                self.control.reloads.insert(client, one);
                continue;
            }
            let (ask, words) = (one.ask, Some(words.to_owned()));
            let reloaded = reloaded(false, words, policy.unwrap_or(&none), found, ask.color);
            sources.answer(client, wire::reply(&reloaded, false), false);
        }
    }

    /// Puts the policy before a trial back when the time is over.
    pub(super) fn end_trial(&mut self, sources: &mut Sources) {
        let now = self.now();
        let Some(trial) = self.control.trial.take_if(|trial| trial.until <= now) else { return };
        let before = Arc::clone(&trial.before);
        self.is_strict = false;
        match self.load(sources, before, self.options.flush, true) {
            Ok(()) => {
                self.files.taken_back(trial.texts);
                tracing::warn!(
                    "nobody confirmed the policy that was on trial: the one before is in force again"
                );
                self.say_ready();
            }
            Err(error) => {
                tracing::error!("the policy before the trial cannot be loaded for now: {}", error.words);
                self.load_error = Some(error.words);
                self.control.trial = Some(Trial { until: now + BACK_PAUSE, ..trial });
            }
        }
    }
}

/// The most findings that are printed for people.
const PRINTED: usize = 100;

fn reloaded(
    loaded: bool,
    words: Option<String>,
    policy: &Policy,
    found: &[Diagnostic],
    color: bool,
) -> Reloaded {
    let mut text = String::new();
    for diagnostic in found.iter().take(PRINTED) {
        text.push_str(&diagnostic.render(&policy.sources, color));
        text.push_str("\n\n");
    }
    if found.len() > PRINTED {
        text.push_str(&format!("and {} more: {} prints all\n", found.len() - PRINTED, check_command(policy)));
    }
    let findings = found.iter().map(|diagnostic| finding(diagnostic, policy)).collect();
    Reloaded { loaded, words, findings, text }
}
