//! The only loop: event, engine, effect, event.
//!
//! In each turn every source is asked once, in this order, and has a share of the turn: signals, the cgroups that are
//! known by name, D-Bus, the journal, nftables, names of hosts and users, the cgroups of managers, clients of the control
//! socket, the engine's own timeout, the watchdog. Then what the engine wants is done, once, and clients are answered. So
//! nobody waits for anybody else for longer than a turn, and what is pending together is committed together.

mod allowances;
mod control;
mod files;
mod fills;
mod loading;
mod notices;
mod polkit;
mod process;
mod refusals;
mod settle;
mod sources;
mod state_log;
mod status;
mod turn;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use litemap::LiteMap;
use sd_notify::NotifyState;

use crate::{
    cgroupfs::{self, look},
    cli,
    commands::Failure,
    effects::{self, Done, Failed},
    engine::{Action, Engine, Event, Settings, hosts::HostSets},
    gather::Gather,
    load::{self, Again},
    log,
    model::{AnnotationId, CGROUP_ROOT, ChainRef, Instance, Outcome, Source, UnitName, UnitState},
    nft::{Change, Interest, Kernel, Nftables, probe},
    policy::{Policy, hosts::HostName},
    units::{places::user_of, selector::Users},
    watch::{
        Heard,
        cgroups::{self, Seen},
        resolver::Answer,
        subtrees::{self, Found},
    },
};
use allowances::Allowances;
use control::Control;
use files::PolicyFiles;
use fills::Fills;
use notices::{Notices, notify};
use refusals::Refusals;
use sources::{News, Sources};
use state_log::StateLog;

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// What keeps it from starting; once it runs, nothing ends it but a signal.
pub async fn run(options: cli::Daemon) -> Result<ExitCode, Failure> {
    process::share_the_heaps();
    let missing = |missing: String| Failure { exit_code: NOT_CONFIGURED, ..Failure::new(missing) };
    let mut files = PolicyFiles::new(options.files.clone());
    let policy = files.read_settled().await.map_err(|failure| missing(failure.message))?;
    let mut kernel = Nftables::open().map_err(missing)?;
    probe::require_net_admin().map_err(missing)?;
    let unmounted = probe::require_cgroup2(Path::new(CGROUP_ROOT)).err();
    if policy.iter().any(|(_, annotation)| annotation.matches_cgroup()) {
        probe::require_nft_socket(&mut kernel).map_err(missing)?;
    }
    let mut sources = Sources::open(&options, &mut kernel)?;
    files.watch(&mut sources.files);
    if let Some(missing) = unmounted {
        tracing::error!("{missing}; rules that match cgroups wait for it");
        sources.mount_due = Some(Duration::ZERO);
    }
    let fills = Fills::spawn(options.answers.clone())
        .map_err(|error| Failure::new(format!("the answers' reader: {error}")))?;
    let mut daemon = Daemon::new(options, files, policy, kernel, fills);
    if let Some(path) = &daemon.options.state_log {
        let failure = |error| Failure::new(format!("{}: {error}", path.display()));
        let log = StateLog::begin(path.clone(), daemon.now(), &daemon.engine).map_err(failure)?;
        daemon.state_log = Some(log);
    }
    daemon.notices.files_read(&daemon.policy);
    let policy = Arc::clone(&daemon.plain);
    sources.ask_for(&daemon.allowances.put_into(&policy));
    for answer in sources.users.first_answers(FIRST_ANSWERS).await {
        daemon.user_answered(answer);
    }
    let heard = daemon.learn_states(&mut sources).await;
    let loaded = daemon.load_first(&mut sources, policy).await;
    loaded.map_err(|error| Failure::new(format!("nft refuses the policy: {}", error.words)))?;
    daemon.files.loaded();
    heard.into_iter().for_each(|event| daemon.hear(event, Source::Dbus));
    daemon.settle(&mut sources);
    if let Err(error) = process::raise_priority() {
        tracing::debug!("cannot take a real-time priority, but may be given one: {error}");
    }
    sources.listen(daemon.engine.units());
    daemon.notices.ready(&daemon.policy, &daemon.engine.figures());
    daemon.serve(&mut sources).await;
    notify(&[NotifyState::Stopping]);
    sources.close(move || drop(daemon));
    Ok(ExitCode::SUCCESS)
}

/// The exit code for what does not mend itself: no file, no nft, no rights (systemd.exec(5), EXIT_NOTCONFIGURED).
const NOT_CONFIGURED: u8 = 6;

/// How often the journal is looked at at most because others spoke.
const NUDGE_PAUSE: Duration = Duration::from_millis(10);

/// How many turns there are at most before the daemon is ready.
const TURNS_AT_START: usize = 1000;

/// How long the first load waits for the users whom the policy names: as a rule they are in /etc/passwd.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);

/// How long the first load waits for the states of units. What an earlier daemon left is in force meanwhile, and a systemd that
/// does not answer starts no units either.
const FIRST_STATES: Duration = Duration::from_secs(5);

struct Daemon {
    options: cli::Daemon,
    /// What is in force: what the files say, and behind it what is allowed for a while.
    policy: Arc<Policy>,
    /// What the files say.
    plain: Arc<Policy>,
    allowances: Allowances,
    hosts: HostSets,
    /// The last answers for the names of users.
    users: Users,
    /// The states of units before the first load.
    states: BTreeMap<UnitName, UnitState>,
    kernel: Nftables,
    engine: Engine,
    /// What a load of the policy made, as long as it may have to be made again.
    again: Option<Again>,
    /// What of the ruleset the policy needs.
    interest: Interest,
    /// Chains of ours that others have renamed.
    renamed: BTreeSet<ChainRef>,
    started: Instant,
    /// When the journal's reader was last told to look.
    nudged: Instant,
    notices: Notices,
    state_log: Option<StateLog>,
    bus_is_lost: bool,
    files: PolicyFiles,
    /// Whether the next reading is of files that changed by themselves, which are not loaded if they have errors.
    is_strict: bool,
    /// When memory that is not in use is given back, unless there is a load before.
    calm: Option<Duration>,
    control: Control,
    refusals: Refusals,
    fills: Fills,
    /// When the policy was loaded, what nft refuses of it, and why the last load failed, if it did.
    loaded_at: SystemTime,
    refused: LiteMap<AnnotationId, String>,
    load_error: Option<String>,
    /// The sources that are lost for now, and why.
    lost: LiteMap<Source, String>,
}

impl Daemon {
    fn new(options: cli::Daemon, files: PolicyFiles, policy: Policy, kernel: Nftables, fills: Fills) -> Self {
        let names = |units: &[String]| units.iter().map(|unit| UnitName(unit.as_str().into())).gather();
        let settings = Settings {
            cooldown: Duration::from_millis(options.cooldown),
            reload_with: names(&options.reload_with_unit),
            reapply_with: names(&options.reapply_with_unit),
            cgroups_are_watched: options.sources.contains(&Source::Cgroup),
        };
        let plain = Arc::new(policy);
        Self {
            engine: Engine::new(settings),
            allowances: Allowances::of(&options.control),
            options,
            hosts: HostSets::default(),
            users: Users::new(),
            states: BTreeMap::new(),
            kernel,
            again: None,
            interest: Interest::default(),
            renamed: BTreeSet::new(),
            started: Instant::now(),
            nudged: Instant::now(),
            notices: Notices::default(),
            state_log: None,
            bus_is_lost: false,
            files,
            policy: Arc::clone(&plain),
            plain,
            is_strict: false,
            calm: None,
            control: Control::default(),
            refusals: Refusals::default(),
            fills,
            loaded_at: SystemTime::UNIX_EPOCH,
            refused: LiteMap::new(),
            load_error: None,
            lost: [(Source::Dbus, "not connected yet".to_owned())].into_iter().gather(),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Learns in what state the units are that rules depend on, so that the first load leaves open what an earlier daemon
    /// left open. Returns what the bus said.
    async fn learn_states(&mut self, sources: &mut Sources) -> Vec<Heard> {
        let units = load::units_with_state(&self.policy);
        self.states.extend(active(&units).map(|unit| (unit, UnitState::Active)));
        let heard = sources.first_states(units, FIRST_STATES).await;
        for event in &heard {
            if let Heard::State(unit, state) = event {
                self.states.insert(unit.clone(), *state);
            }
        }
        heard
    }

    /// Turn by turn: what each source has, then what the engine wants, once.
    async fn serve(&mut self, sources: &mut Sources) {
        let started = self.started;
        let mut has_acted = true;
        loop {
            let timeout = if has_acted { Some(Duration::ZERO) } else { self.timeout() };
            let all = sources.turn(&|| started.elapsed(), timeout).await;
            let mut journal_knows_more = false;
            for news in all {
                journal_knows_more |= match &news {
                    News::Cgroups(_) | News::Heard(Source::Dbus, _) => true,
                    News::Subtrees(drained) => !drained.found.is_empty(),
                    _ => false,
                };
                match news {
                    News::End => return,
                    News::Hangup => {
                        self.is_strict = false;
                        self.tell(Event::ReloadRequested);
                    }
                    News::Mounted => self.tell(Event::ReapplyRequested),
                    News::Files => self.files_changed(sources),
                    News::Cgroups(drained) => self.see_named(drained),
                    News::Subtrees(drained) => self.see_selected(drained),
                    News::Heard(source, all) => {
                        sources.subtrees.nudge();
                        all.into_iter().for_each(|heard| self.hear(heard, source));
                    }
                    News::Ruleset => self.ruleset_changed(sources),
                    News::Control(all) => self.heard_clients(sources, all),
                    News::Answered(answer) => self.answered(sources, answer),
                    News::Host(answer) => self.host_answered(answer),
                    News::User(answer) => {
                        if self.user_answered(answer) {
                            self.tell(Event::ReapplyRequested);
                        }
                    }
                    News::Watchdog => notify(&[NotifyState::Watchdog]),
                    News::Timeout => {}
                }
            }
            has_acted = self.act(sources);
            self.end_trial(sources);
            self.end_allowances(sources);
            self.answer_waits(sources);
            self.tell_watchers(sources);
            self.read_refusals(sources);
            if let Some((nudge, _)) = sources.journal.as_ref().filter(|_| journal_knows_more)
                && self.nudged.elapsed() >= NUDGE_PAUSE
            {
                let _ = nudge.try_send(());
                self.nudged = Instant::now();
            }
            self.notices.status(&self.policy, &self.engine.figures());
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let own = [
            self.engine.timeout(),
            self.hosts.timeout(),
            self.calm,
            self.control.timeout(),
            self.refusals.timeout(),
            self.allowances_timeout(),
        ];
        let due = own.into_iter().flatten().min();
        due.map(|at| at.saturating_sub(self.now())).into_iter().chain(self.notices.timeout()).min()
    }

    fn tell(&mut self, event: Event) {
        let now = self.now();
        if let Some(log) = &mut self.state_log {
            log.event(now, &event);
        }
        self.engine.handle(now, event);
        self.control.changed();
    }

    /// Does what is left of a load, so that what exists already is served before anybody is told that the daemon is ready.
    fn settle(&mut self, sources: &mut Sources) {
        for _ in 0..TURNS_AT_START {
            let drained = sources.subtrees.drain(self.now());
            self.see_selected(drained);
            let is_busy = sources.subtrees.due().is_some_and(|at| at <= self.now());
            if !self.act(sources) && !is_busy {
                break;
            }
        }
    }

    /// Does what the engine wants now; whether that was anything.
    fn act(&mut self, sources: &mut Sources) -> bool {
        self.fill_hosts();
        if self.calm.is_some_and(|at| at <= self.now()) {
            self.give_back();
        }
        let now = self.now();
        let is_due = self.engine.timeout().is_some_and(|at| at <= now);
        let actions = self.engine.actions(now);
        let has_acted = !actions.is_empty();
        if let Some(log) = &mut self.state_log {
            log.actions(now, &actions, is_due);
        }
        actions.into_iter().for_each(|action| self.execute(action, sources));
        if let Some(log) = &mut self.state_log {
            log.write(now, &self.engine);
        }
        has_acted
    }

    fn execute(&mut self, action: Action, sources: &mut Sources) {
        match action {
            Action::Commit(commit) => {
                let done = effects::commit(&mut self.kernel, &commit, &look);
                self.say_what_was_done(&done);
                self.tell(Event::Committed { outcomes: done.outcomes });
            }
            Action::LookAtCgroup(path) => {
                self.tell(match cgroupfs::look_at(&path.directory()) {
                    Ok(id) => Event::CgroupSeen { path, id, source: None },
                    Err(_) => Event::LookFailed { path },
                });
            }
            Action::LookAtUnit(unit) => drop(sources.dbus_looks.try_send(unit)),
            Action::Reload { reread, flush } => self.reload(sources, reread, flush && self.options.flush),
        }
    }

    /// What became of elements, in the log: failures that will pass only the first time in a row.
    fn say_what_was_done(&self, done: &Done) {
        for (id, outcome) in &done.outcomes {
            let Some(row) = self.engine.row(*id) else { continue };
            match outcome {
                Outcome::Added(id) => log::element("added", row, *id, &self.policy),
                Outcome::Deleted(id) => log::element("deleted", row, *id, &self.policy),
                Outcome::Vanished | Outcome::Refused | Outcome::Failed => {}
            }
        }
        for Failed { row, words, passing } in &done.failures {
            if let Some(row) = self.engine.row(*row)
                && !(*passing && row.has_failed())
            {
                log::failed(row, words, *passing, &self.policy);
            }
        }
    }

    fn see_selected(&mut self, drained: subtrees::Drained) {
        drained.notices.iter().for_each(|notice| tracing::warn!("{notice}"));
        for Found { instance, id } in drained.found {
            self.refusals.seen(&instance, id, self.now());
            if self.engine.is_about(&instance) {
                self.tell(Event::InstanceSeen { instance, id });
            }
        }
    }

    fn see_named(&mut self, drained: cgroups::Drained) {
        drained.notices.iter().for_each(|notice| tracing::warn!("{notice}"));
        for Seen { path, id } in drained.seen {
            self.tell(Event::CgroupSeen { path, id, source: Some(Source::Cgroup) });
        }
    }

    fn hear(&mut self, heard: Heard, source: Source) {
        let event = match heard {
            Heard::Resumed => {
                self.lost.remove(&source);
                if source == Source::Dbus {
                    self.bus_is_lost = false;
                    tracing::debug!("connected to systemd on the system bus");
                }
                Event::SourceResumed { source }
            }
            Heard::Changed(unit) => Event::UnitChanged { unit, source },
            Heard::JobDone(unit) => Event::UnitJobDone { unit, source },
            Heard::State(unit, state) => {
                if source == Source::Dbus {
                    self.control.state_is_known(&unit);
                }
                Event::UnitStateSeen { unit, state, source }
            }
            Heard::Lost(why) => {
                self.lost.insert(source, why.to_string());
                if source == Source::Dbus {
                    self.control.bus_is_lost();
                }
                if source != Source::Dbus {
                    tracing::warn!("the journal cannot be read for now: {why}");
                } else if !std::mem::replace(&mut self.bus_is_lost, true) {
                    tracing::warn!("the system bus is not there for now: {why}");
                }
                Event::SourceLost { source }
            }
        };
        self.tell(event);
    }

    fn ruleset_changed(&mut self, sources: &mut Sources) {
        let mut change = Change::default();
        let _ = sources.ruleset.read(|| {
            change = sources.monitor.drain(&self.interest)?;
            io::Result::<()>::Err(io::ErrorKind::WouldBlock.into())
        });
        self.fills.ruleset_changed();
        self.others_changed(change);
    }

    /// Has what others did put right.
    fn others_changed(&mut self, change: Change) {
        self.renamed.extend(change.renamed);
        if change.by.is_some() || change.overflow {
            let thread = change.by.as_ref().map(|(_, thread)| *thread);
            self.tell(Event::RulesetChanged { thread });
            self.notices.ruleset_changed(change.by, self.engine.is_fought());
        }
    }

    fn host_answered(&mut self, (host, answer): Answer<HostName, Vec<IpAddr>>) {
        match answer {
            Ok(addresses) => {
                // A rule that must not match a name waits for all that it stands for.
                let is_waited_for = self
                    .policy
                    .host_matches()
                    .any(|found| found.negated && found.names.iter().any(|(name, _)| *name == host));
                if self.hosts.answered(host, addresses) && is_waited_for {
                    self.tell(Event::ReapplyRequested);
                }
            }
            Err(why) if self.hosts.known().contains_key(&host) => {
                tracing::debug!("the host name {} keeps its addresses: {why}", host.name);
            }
            Err(why) => self.notices.unresolved(host, why, &self.policy),
        }
    }

    /// Whether the policy selects other users than before.
    fn user_answered(&mut self, (name, answer): Answer<String, Option<u32>>) -> bool {
        match answer {
            Ok(Some(user)) => self.users.insert(name, user) != Some(user),
            Ok(None) => {
                let message = format!("there is no user `{name}`");
                self.notices.unknown_user(name.clone(), message, &self.policy);
                self.users.remove(&name).is_some()
            }
            Err(why) => {
                let message = format!("the user `{name}` cannot be looked up, will be tried again: {why}");
                self.notices.unknown_user(name, message, &self.policy);
                false
            }
        }
    }

    /// Puts changed addresses of host names into their sets.
    fn fill_hosts(&mut self) {
        for fill in self.hosts.fills(self.now()) {
            let done = self.kernel.fill(&fill.set, fill.is_interval, &fill.content);
            match &done {
                Ok(()) => tracing::debug!("{}: {} addresses", fill.set, fill.content.len()),
                Err(error) => tracing::warn!("{} cannot be filled, will be tried again: {error}", fill.set),
            }
            self.hosts.filled(self.now(), fill, done.is_ok());
        }
    }
}

/// Those of the system's units that have a cgroup.
fn active(units: &BTreeSet<UnitName>) -> impl Iterator<Item = UnitName> {
    let is_no_user = |one: &Instance| user_of(&one.unit.0).is_none();
    let all = match units.is_empty() {
        true => vec![],
        false => cgroupfs::units(Path::new(CGROUP_ROOT), usize::MAX, |path| Instance::of(&path), is_no_user),
    };
    all.into_iter().map(|(one, _)| one.unit).filter(|unit| units.contains(unit))
}
