//! The only loop: event, engine, effect, event.
//!
//! What wakes it, in the order in which it is served: signals, cgroupfs, D-Bus, the journal, nftables, host names, the
//! engine's own timeout, the watchdog. Whoever wakes it, all that cgroupfs has to say is read before anything is done, so
//! that what is pending together is committed together.

mod notices;
mod process;
mod sources;

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

use crate::{
    cli,
    commands::Failure,
    dispatch,
    effects::{self, Done, Failed},
    engine::{Action, Engine, Event, PolicyLoaded, Settings},
    load::{Load, LoadError},
    log, machine,
    model::{CGROUP_ROOT, Instance, Outcome, Row, Source, UnitName, UnitState},
    nft::{Interest, Kernel, Nftables, probe},
    policy::{
        Policy,
        files::Disk,
        hosts::{self, HostName, Hosts},
        parse,
    },
    units::selector::Users,
    watch::{
        cgroups::{alive, look},
        dbus::Heard,
        hosts::Answer,
        journal::{Kind, Told},
        reader::Read,
        subtrees::{Drained, Found, Subtrees},
        units,
    },
};
use notices::{Notices, notify};
use sources::{Sources, Wake};

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
    daemon
        .load(&mut sources, policy, daemon.options.flush, Refusals::Said)
        .map_err(|error| failed_load(&error))?;
    daemon.act(&mut sources);
    if let Err(error) = process::raise_priority() {
        tracing::debug!("cannot take a real-time priority, but may be given one: {error}");
    }
    sources.listen(&daemon.engine);
    sources.resolver.ask(daemon.wanted_hosts());
    daemon.notices.ready(&daemon.policy, &daemon.engine.figures());
    daemon.serve(&mut sources).await;
    notify(&[NotifyState::Stopping]);
    Ok(ExitCode::SUCCESS)
}

fn read(options: &cli::Daemon) -> Result<Policy, Failure> {
    let paths: Vec<&Path> = options.files.iter().map(|path| path.as_path()).collect();
    parse::read(&Disk, &paths).map_err(Failure::new)
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

/// How often cgroups that cannot be watched are looked at.
const RESCAN: Duration = Duration::from_secs(1);

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
    hosts: Hosts,
    kernel: Nftables,
    engine: Engine,
    /// What of the ruleset the policy needs.
    interest: Interest,
    started: Instant,
    /// When what cannot be watched was looked at.
    rescanned: Instant,
    notices: Notices,
    bus_is_lost: bool,
}

impl Daemon {
    fn new(options: cli::Daemon, policy: Policy, kernel: Nftables) -> Self {
        let names = |units: &[String]| units.iter().cloned().map(UnitName).collect();
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
            hosts: Hosts::new(),
            kernel,
            interest: Interest::default(),
            started: Instant::now(),
            rescanned: Instant::now(),
            notices: Notices::default(),
            bus_is_lost: false,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn serve(&mut self, sources: &mut Sources) {
        loop {
            let is_blind = sources.subtrees.as_ref().is_some_and(Subtrees::has_unwatched);
            let rescan = is_blind.then(|| RESCAN.saturating_sub(self.rescanned.elapsed()));
            let wake = sources.wait(self.timeout().into_iter().chain(rescan).min()).await;
            let journal_knows_more = matches!(wake, Wake::Cgroups | Wake::Dbus(_));
            match wake {
                Wake::End => return,
                Wake::Hangup => self.tell(Event::ReloadRequested),
                Wake::Dbus(heard) => self.hear(heard),
                Wake::Ruleset => self.ruleset_changed(sources),
                Wake::Answer(answer) => self.answered(answer),
                Wake::Watchdog => notify(&[NotifyState::Watchdog]),
                Wake::Journal(read) => self.read(read),
                Wake::Cgroups | Wake::Timeout => {}
            }
            self.act(sources);
            if let Some(reader) = sources.journal.as_ref().filter(|_| journal_knows_more) {
                reader.nudge();
            }
            self.notices.status(&self.policy, &self.engine.figures());
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let engine = self.engine.timeout().map(|at| at.saturating_sub(self.now()));
        engine.into_iter().chain(self.notices.timeout()).min()
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(self.now(), event);
    }

    /// Reads what cgroupfs says and does what the engine wants until both are quiet.
    fn act(&mut self, sources: &mut Sources) {
        loop {
            self.read_cgroups(sources);
            let actions = self.engine.actions(self.now());
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.execute(action, sources);
            }
        }
    }

    fn execute(&mut self, action: Action, sources: &mut Sources) {
        match action {
            Action::Commit(commit) => {
                let done = effects::commit(&mut self.kernel, &commit, &look);
                self.say_what_was_done(&done);
                self.tell(Event::Committed { outcomes: done.outcomes });
            }
            Action::LookAtCgroup(path) => {
                let id = look(&path);
                self.tell(Event::CgroupSeen { path, id, source: None });
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

    fn read_cgroups(&mut self, sources: &mut Sources) {
        if let Some(subtrees) = &mut sources.subtrees {
            let mut drained = subtrees.drain();
            if subtrees.has_unwatched() && self.rescanned.elapsed() >= RESCAN {
                let Drained { found, notices } = subtrees.rescan_unwatched();
                drained.found.extend(found);
                drained.notices.extend(notices);
                self.rescanned = Instant::now();
            }
            notices::of_source(&drained.notices);
            drained.found.into_iter().for_each(|found| self.see(found));
        }
        let Some(cgroups) = &mut sources.cgroups else { return };
        let drained = cgroups.drain();
        let unwatched = cgroups.unwatched();
        for seen in drained.seen {
            self.tell(Event::CgroupSeen { path: seen.path, id: seen.id, source: Some(Source::Cgroup) });
        }
        if drained.overflowed {
            tracing::warn!("too many cgroups came and went at once; looked at all of them again");
        }
        for problem in unwatched {
            tracing::error!(
                "{} cannot be watched ({}): raise fs.inotify.max_user_watches",
                problem.directory.display(),
                problem.error
            );
        }
    }

    fn hear(&mut self, heard: Heard) {
        let source = Source::Dbus;
        match heard {
            Heard::Connected => {
                self.bus_is_lost = false;
                tracing::debug!("connected to systemd on the system bus");
            }
            Heard::Resumed => self.tell(Event::SourceResumed { source }),
            Heard::Changed(unit) => self.tell(Event::UnitChanged { unit, source }),
            Heard::JobDone(unit) => self.tell(Event::UnitJobDone { unit, source }),
            Heard::State { unit, state } => self.tell(Event::UnitStateSeen { unit, state, source }),
            Heard::Lost(why) => {
                if !std::mem::replace(&mut self.bus_is_lost, true) {
                    tracing::warn!("the system bus is not there for now: {why}");
                }
                self.tell(Event::SourceLost { source });
            }
        }
    }

    fn read(&mut self, read: Read) {
        match read {
            Read::Told(told) => told.into_iter().for_each(|told| self.told(told)),
            Read::Resumed => self.tell(Event::SourceResumed { source: Source::Journal }),
            Read::Lost(why) => tracing::warn!("the journal cannot be read for now: {why}"),
        }
    }

    fn told(&mut self, told: Told) {
        let source = Source::Journal;
        let Told { unit, user, kind } = told;
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

    fn answered(&mut self, answer: Answer) {
        match answer.addresses {
            Ok(addresses) => {
                if self.hosts.get(&answer.host) != Some(&addresses) {
                    self.hosts.insert(answer.host, addresses);
                    self.tell(Event::ReapplyRequested);
                }
            }
            Err(why) => self.notices.unresolved(answer.host, why, &self.policy, &self.hosts),
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
                    sources.resolver.ask(self.wanted_hosts());
                }
            }
            Err(failure) => tracing::error!("the old policy stays: {failure}"),
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
        let users = machine::users(&policy.user_names());
        let found = self.find_instances(sources, &policy, &users);
        let instances: Vec<Instance> =
            found.iter().filter(|found| found.id.is_some()).map(|found| found.instance.clone()).collect();
        let engine = &self.engine;
        let load = Load {
            policy: &policy,
            hosts: &self.hosts,
            flush,
            look: &look,
            alive: &alive,
            state: &|unit| engine.state(unit),
            instances: &instances,
            users: &users,
        };
        let loaded = load.run(&mut self.kernel)?;
        match refusals {
            Refusals::Said => {
                self.notices.policy_loaded(&policy, &loaded.refusals, &self.hosts, loaded.ruleset);
            }
            Refusals::Expected => self.notices.policy_reapplied(&policy, &loaded.refusals),
        }
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
            users,
            instances: loaded.instances,
            installed: loaded.installed,
        }));
        found.into_iter().for_each(|found| self.see(found));
        self.follow(sources);
        self.kernel.release_memory();
        process::trim();
        if loaded.unfinished {
            self.tell(Event::ReapplyRequested);
        }
        Ok(())
    }

    /// Follows what a policy's selectors select; what there is of it.
    fn find_instances(&mut self, sources: &mut Sources, policy: &Policy, users: &Users) -> Vec<Found> {
        let followed = policy.followed();
        match &mut sources.subtrees {
            Some(subtrees) => {
                let drained = subtrees.follow(&followed, users);
                notices::of_source(&drained.notices);
                drained.found
            }
            None => {
                if !followed.is_empty() {
                    tracing::warn!(
                        "units that are selected by pattern are not found without the source cgroup"
                    );
                }
                vec![]
            }
        }
    }

    fn see(&mut self, found: Found) {
        self.tell(Event::InstanceSeen { instance: found.instance, id: found.id });
    }

    /// Whether somebody took away what was just loaded.
    fn is_gone(&mut self, rows: &[Row]) -> bool {
        let mut sets = rows.iter().map(|row| &row.element.set).filter(|set| set.is_ours());
        sets.next().is_some_and(|set| self.kernel.elements(set).is_err())
    }

    /// Points the sources at what the engine has to know.
    fn follow(&mut self, sources: &mut Sources) {
        if let Some(cgroups) = &mut sources.cgroups {
            for seen in cgroups.follow(self.engine.paths()) {
                self.tell(Event::CgroupSeen { path: seen.path, id: seen.id, source: Some(Source::Cgroup) });
            }
        }
        sources.dbus_units.send_replace(self.engine.units());
        for unit in units::of_the_system(&self.engine.units_with_state()) {
            let source = Source::Cgroup;
            self.tell(Event::UnitStateSeen { unit, state: UnitState::Active, source });
        }
    }

    fn wanted_hosts(&self) -> BTreeSet<HostName> {
        let policy = &self.policy;
        policy.iter().flat_map(|(_, annotation)| hosts::wanted(policy, annotation)).collect()
    }
}
