//! The only loop: event, engine, effect, event.
//!
//! In each turn every source is asked once, in this order, and has a share of the turn: signals, the cgroups that are
//! known by name, D-Bus, the journal, nftables, names of hosts and
//! users, the cgroups of managers, the engine's own timeout, the
//! watchdog. Then what the engine wants is done, once. So nobody waits for anybody else for longer than a turn, and what
//! is pending together is committed together.

mod notices;
mod process;
mod sources;
mod turn;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use crate::{
    cgroupfs::{self, look},
    cli,
    commands::Failure,
    dispatch,
    effects::{self, Done, Failed},
    engine::{Action, Engine, Event, PolicyLoaded, Settings, hosts::HostSets},
    load::{Load, LoadError},
    log,
    model::{CGROUP_ROOT, Instance, Outcome, Row, Source, UnitName, UnitState},
    nft::{Interest, Kernel, Nftables, probe},
    policy::{Policy, files::Disk, hosts::HostName, parse},
    units::{places::user_of, selector::Users},
    watch::{
        cgroups::{self, Cgroups, Seen},
        dbus::DbusEvent,
        journal::{JournalEvent, Kind},
        reader::Read,
        resolver::Answer,
        subtrees::{self, Found},
    },
};
use notices::{Notices, notify};
use sources::{News, Sources};

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// What keeps it from starting; once it runs, nothing ends it but a signal.
pub async fn run(options: cli::Daemon) -> Result<ExitCode, Failure> {
    process::share_the_heap();
    let policy = read(&options)?;
    let mut kernel = Nftables::open().map_err(Failure::new)?;
    probe::require_net_admin().map_err(Failure::new)?;
    probe::require_cgroup2(Path::new(CGROUP_ROOT)).map_err(Failure::new)?;
    if policy.iter().any(|(_, annotation)| annotation.statement.matches_cgroup()) {
        probe::require_nft_socket(&mut kernel).map_err(Failure::new)?;
    }
    let mut sources = Sources::open(&options, &kernel)?;
    let mut daemon = Daemon::new(options, policy, kernel);
    daemon.notices.files_read(&daemon.policy);
    let policy = Arc::clone(&daemon.policy);
    sources.ask_for(&policy);
    for answer in sources.users.first_answers(FIRST_ANSWERS).await {
        daemon.user_answered(answer);
    }
    daemon
        .load(&mut sources, policy, daemon.options.flush, Refusals::Said)
        .map_err(|error| failed_load(&error))?;
    daemon.settle(&mut sources);
    if let Err(error) = process::raise_priority() {
        tracing::debug!("cannot take a real-time priority, but may be given one: {error}");
    }
    sources.listen(&daemon.engine);
    daemon.notices.ready(&daemon.policy, &daemon.engine.figures());
    daemon.serve(&mut sources).await;
    notify(&[NotifyState::Stopping]);
    sources.close(move || drop(daemon));
    Ok(ExitCode::SUCCESS)
}

fn read(options: &cli::Daemon) -> Result<Policy, Failure> {
    parse::read(&Disk, &options.files).map_err(Failure::new)
}

fn interest(policy: &Policy) -> Interest {
    let (chains, sets) = dispatch::hosting(policy);
    let mut interest = Interest::default();
    chains.into_iter().for_each(|chain| interest.chain(chain));
    sets.into_iter().for_each(|set| interest.set(set));
    interest
}

fn failed_load(error: &LoadError) -> Failure {
    Failure::new(format!("nft refuses the policy: {}", error.words.join("; ")))
}

/// How often the journal is looked at at most because others spoke.
const NUDGE_PAUSE: Duration = Duration::from_millis(10);

/// How many turns there are at most before the daemon is ready.
const TURNS_AT_START: usize = 1000;

/// How long the first load waits for the users whom the policy names: as a rule they are in /etc/passwd.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);

/// How an annotation that nft refuses is to be taken.
#[derive(Debug, Clone, Copy)]
enum Refusals {
    /// As a diagnostic in the files.
    Said,
    /// As what happens while somebody else changes the ruleset.
    Expected,
}

struct Daemon {
    options: cli::Daemon,
    policy: Arc<Policy>,
    hosts: HostSets,
    /// The last answers for the names of users.
    users: Users,
    kernel: Nftables,
    engine: Engine,
    /// What of the ruleset the policy needs.
    interest: Interest,
    started: Instant,
    /// When the journal's reader was last told to look.
    nudged: Instant,
    notices: Notices,
    bus_is_lost: bool,
}

impl Daemon {
    fn new(options: cli::Daemon, policy: Policy, kernel: Nftables) -> Self {
        let names = |units: &[String]| units.iter().map(|unit| UnitName(unit.as_str().into())).collect();
        let settings = Settings {
            cooldown: Duration::from_millis(options.cooldown),
            reload_with: names(&options.reload_with_unit),
            reapply_with: names(&options.reapply_with_unit),
            cgroups_are_watched: options.sources.contains(&Source::Cgroup),
        };
        Self {
            engine: Engine::new(settings),
            options,
            policy: Arc::new(policy),
            hosts: HostSets::default(),
            users: Users::new(),
            kernel,
            interest: Interest::default(),
            started: Instant::now(),
            nudged: Instant::now(),
            notices: Notices::default(),
            bus_is_lost: false,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
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
                    News::Cgroups(_) | News::Dbus(_) => true,
                    News::Subtrees(drained) => !drained.found.is_empty(),
                    _ => false,
                };
                match news {
                    News::End => return,
                    News::Hangup => self.tell(Event::ReloadRequested),
                    News::Cgroups(drained) => self.see_named(drained, sources),
                    News::Subtrees(drained) => self.see_selected(drained),
                    News::Dbus(events) => {
                        sources.subtrees.nudge();
                        events.into_iter().for_each(|event| self.hear(event));
                    }
                    News::Journal(read) => {
                        sources.subtrees.nudge();
                        self.read(read);
                    }
                    News::Ruleset => self.ruleset_changed(sources),
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
            if let Some(reader) = sources.journal.as_ref().filter(|_| journal_knows_more)
                && self.nudged.elapsed() >= NUDGE_PAUSE
            {
                reader.nudge();
                self.nudged = Instant::now();
            }
            self.notices.status(&self.policy, &self.engine.figures());
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let due = self.engine.timeout().into_iter().chain(self.hosts.timeout()).min();
        due.map(|at| at.saturating_sub(self.now())).into_iter().chain(self.notices.timeout()).min()
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(self.now(), event);
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
        let actions = self.engine.actions(self.now());
        let has_acted = !actions.is_empty();
        actions.into_iter().for_each(|action| self.execute(action, sources));
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
        notices::of_source(&drained.notices);
        for Found { instance, id } in drained.found {
            self.tell(Event::InstanceSeen { instance, id });
        }
    }

    fn see_named(&mut self, drained: cgroups::Drained, sources: &mut Sources) {
        for Seen { path, id } in drained.seen {
            self.tell(Event::CgroupSeen { path, id, source: Some(Source::Cgroup) });
        }
        if drained.overflowed {
            tracing::warn!("too many cgroups came and went at once; looked at all of them again");
        }
        for problem in sources.cgroups.iter_mut().flat_map(Cgroups::unwatched) {
            tracing::error!(
                "{} cannot be watched ({}): raise fs.inotify.max_user_watches",
                problem.directory.display(),
                problem.error
            );
        }
    }

    fn hear(&mut self, event: DbusEvent) {
        let source = Source::Dbus;
        match event {
            DbusEvent::Connected => {
                self.bus_is_lost = false;
                tracing::debug!("connected to systemd on the system bus");
            }
            DbusEvent::Resumed => self.tell(Event::SourceResumed { source }),
            DbusEvent::Changed(unit) => self.tell(Event::UnitChanged { unit, source }),
            DbusEvent::JobDone(unit) => self.tell(Event::UnitJobDone { unit, source }),
            DbusEvent::State { unit, state } => self.tell(Event::UnitStateSeen { unit, state, source }),
            DbusEvent::Lost(why) => {
                if !std::mem::replace(&mut self.bus_is_lost, true) {
                    tracing::warn!("the system bus is not there for now: {why}");
                }
                self.tell(Event::SourceLost { source });
            }
        }
    }

    fn read(&mut self, read: Read) {
        match read {
            Read::Events(events) => events.into_iter().for_each(|event| self.read_of_unit(event)),
            Read::Resumed => self.tell(Event::SourceResumed { source: Source::Journal }),
            Read::Lost(why) => tracing::warn!("the journal cannot be read for now: {why}"),
        }
    }

    fn read_of_unit(&mut self, event: JournalEvent) {
        let source = Source::Journal;
        let JournalEvent { unit, user, kind } = event;
        self.tell(match kind {
            // Of users' units only cgroups tell anything, since a user manager logs what its user likes.
            _ if user => Event::UnitChanged { unit, source },
            Kind::Changed => Event::UnitChanged { unit, source },
            Kind::JobDone => Event::UnitJobDone { unit, source },
            Kind::Active => Event::UnitStateSeen { unit, state: UnitState::Active, source },
            Kind::Inactive => Event::UnitStateSeen { unit, state: UnitState::Inactive, source },
        });
    }

    fn ruleset_changed(&mut self, sources: &mut Sources) {
        let interest = &self.interest;
        let mut touched = false;
        let _ = sources.ruleset.read(|| {
            touched = sources.monitor.drain(interest)?.touched;
            io::Result::<()>::Err(io::ErrorKind::WouldBlock.into())
        });
        if touched {
            tracing::info!("somebody changed the ruleset that the policy is in; loading it again");
            self.tell(Event::RulesetChanged);
        }
    }

    fn host_answered(&mut self, (host, answer): Answer<HostName, BTreeSet<IpAddr>>) {
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

    fn reload(&mut self, sources: &mut Sources, reread: bool, flush: bool) {
        notices::reloading();
        let policy = match reread {
            true => read(&self.options).map(Arc::new),
            false => Ok(Arc::clone(&self.policy)),
        };
        match policy {
            Ok(policy) => {
                let refusals = if reread { Refusals::Said } else { Refusals::Expected };
                if reread {
                    self.notices.files_read(&policy);
                }
                if let Err(error) = self.load(sources, policy, flush, refusals) {
                    notices::load_failed(&error, self.engine.load_has_failed());
                    self.tell(Event::LoadFailed { passing: error.passing });
                }
                if reread {
                    sources.ask_anew();
                }
            }
            Err(Failure { message, .. }) => tracing::error!("the old policy stays: {message}"),
        }
        self.notices.ready(&self.policy, &self.engine.figures());
    }

    /// Loads a policy and makes it the one that is kept true.
    fn load(
        &mut self,
        sources: &mut Sources,
        policy: Arc<Policy>,
        flush: bool,
        refusals: Refusals,
    ) -> Result<(), LoadError> {
        let users = self.users.clone();
        // Until the kernel has taken the policy, the sources follow the old one.
        let found = sources.subtrees.instances_of(&policy.followed(), &users);
        let instances: Vec<Instance> = found.into_iter().map(|(instance, _)| instance).collect();
        let engine = &self.engine;
        let load = Load {
            policy: &policy,
            hosts: self.hosts.known(),
            flush,
            look: &look,
            alive: &cgroupfs::alive,
            state: &|unit| engine.state(unit),
            instances: &instances,
            users: &users,
        };
        let loaded = load.run(&mut self.kernel);
        // Before what stays is put where this was.
        self.kernel.release_memory();
        process::trim();
        let loaded = loaded?;
        match refusals {
            Refusals::Said => {
                self.notices.policy_loaded(&policy, &loaded.refusals, loaded.ruleset);
            }
            Refusals::Expected => self.notices.policy_reapplied(&policy, &loaded.refusals),
        }
        self.hosts.policy_loaded(loaded.hosts, &policy.host_names());
        sources.ask_for(&policy);
        self.policy = policy;
        self.interest = interest(&self.policy);
        let change = sources.monitor.discard(&self.interest).unwrap_or_default();
        if change.touched || change.overflow && self.is_gone(&loaded.rows) {
            self.tell(Event::RulesetChanged);
        }
        if self.policy.annotations.is_empty() {
            let files: Vec<String> =
                self.options.files.iter().map(|path| path.display().to_string()).collect();
            self.notices.nothing_to_do(&files);
        }
        self.tell(Event::PolicyLoaded(PolicyLoaded {
            rows: loaded.rows,
            patterns: loaded.patterns,
            users: users.clone(),
            instances: loaded.instances,
            installed: loaded.installed,
        }));
        self.follow(sources, &users, &instances);
        process::trim();
        if loaded.unfinished {
            self.tell(Event::ReapplyRequested);
        }
        Ok(())
    }

    /// Whether somebody took away what was just loaded.
    fn is_gone(&mut self, rows: &[Row]) -> bool {
        let mut sets = rows.iter().map(|row| &row.element.set).filter(|set| set.is_ours());
        sets.next().is_some_and(|set| self.kernel.elements(set).is_err())
    }

    /// Points the sources at what the engine has to know now, and tells it what is there of that.
    fn follow(&mut self, sources: &mut Sources, users: &Users, instances: &[Instance]) {
        let drained = sources.subtrees.follow(&self.policy.followed(), users, instances);
        self.see_selected(drained);
        let paths = self.engine.paths();
        let seen = sources.cgroups.as_mut().map(|cgroups| cgroups.follow(paths));
        self.see_named(cgroups::Drained { seen: seen.unwrap_or_default(), overflowed: false }, sources);
        sources.dbus_units.send_replace(self.engine.units());
        self.find_active();
    }

    /// Looks which of the system's units whose state matters have a cgroup: nobody tells of them while there is no D-Bus.
    fn find_active(&mut self) {
        let units = self.engine.units_with_state();
        if units.is_empty() {
            return;
        }
        let is_no_user = |one: &Instance| user_of(&one.unit.0).is_none();
        let all = cgroupfs::units(Path::new(CGROUP_ROOT), usize::MAX, |path| Instance::of(&path), is_no_user);
        for (Instance { unit, .. }, _) in all.into_iter().filter(|(one, _)| units.contains(&one.unit)) {
            let (state, source) = (UnitState::Active, Source::Cgroup);
            self.tell(Event::UnitStateSeen { unit, state, source });
        }
    }
}
