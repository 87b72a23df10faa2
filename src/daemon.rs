//! The only loop: event, engine, effect, event.
//!
//! What wakes it, in the order in which it is served: signals, cgroupfs, D-Bus, the journal, nftables, host names, the
//! engine's own timeout, the watchdog. Whoever wakes it, all that cgroupfs has to say is read before anything is done, so
//! that what is pending together is committed together.

use std::{
    collections::BTreeSet,
    future::pending,
    io,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{Interval, interval_at, sleep},
};

use crate::{
    cli,
    commands::Failure,
    dispatch, effects,
    engine::{Action, Engine, Event, Settings},
    load::{Load, LoadError},
    log,
    model::{Source, UnitName},
    nft::{
        Nftables,
        monitor::{Interest, RulesetMonitor},
        probe,
    },
    policy::{
        Mistake, Part, Policy, Statement,
        files::Disk,
        hosts::{self, HostName, Hosts},
        parse,
    },
    watch::{
        cgroups::{Cgroups, look},
        dbus::{self, Heard},
        hosts::{Answer, Resolver},
        journal::{Drained, Journal, Kind, Told},
        readable::Readable,
        units,
    },
};

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// What keeps it from starting; once it runs, nothing ends it but a signal.
pub async fn run(options: cli::Daemon) -> Result<ExitCode, Failure> {
    let policy = read(&options)?;
    let mut kernel = Nftables::open().map_err(Failure::new)?;
    probe::require_net_admin().map_err(Failure::new)?;
    probe::require_cgroup2(Path::new(crate::model::CGROUP_ROOT)).map_err(Failure::new)?;
    if policy.iter().any(|(_, annotation)| matches_cgroup(&annotation.statement)) {
        probe::require_nft_socket(&mut kernel).map_err(Failure::new)?;
    }
    let mut sources = Sources::open(&options, &kernel)?;
    let mut daemon = Daemon::new(options, policy, kernel);
    daemon.say_mistakes_of_files();
    let policy = daemon.policy.clone();
    daemon.load(&mut sources, policy, daemon.options.flush).map_err(|error| failed_load(&error))?;
    daemon.act(&mut sources);
    sources.listen(&daemon.engine);
    daemon.say_ready();
    daemon.serve(&mut sources).await;
    notify(&[NotifyState::Stopping]);
    Ok(ExitCode::SUCCESS)
}

fn read(options: &cli::Daemon) -> Result<Policy, Failure> {
    let paths: Vec<&Path> = options.files.iter().map(|path| path.as_path()).collect();
    parse::read(&Disk, &paths)
        .map_err(|unreadable| Failure::new(format!("{}: {}", unreadable.path.display(), unreadable.error)))
}

fn matches_cgroup(statement: &Statement) -> bool {
    match statement {
        Statement::Rule(rule) => rule.body.iter().any(|part| matches!(part, Part::Cgroup(_))),
        Statement::Element(_) => false,
    }
}

fn failed_load(error: &LoadError) -> Failure {
    Failure::new(format!("nft refuses the policy: {}", error.words.join("; ")))
}

/// Everything that can wake the loop.
struct Sources {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    cgroups: Option<Cgroups>,
    heard: Option<mpsc::Receiver<Heard>>,
    dbus_units: watch::Sender<BTreeSet<UnitName>>,
    dbus_looks: mpsc::Sender<UnitName>,
    dbus_ends: Option<(watch::Receiver<BTreeSet<UnitName>>, mpsc::Receiver<UnitName>)>,
    journal: Option<Journal>,
    monitor: RulesetMonitor,
    ruleset: Readable,
    resolver: Resolver,
    answers: mpsc::Receiver<Answer>,
    watchdog: Option<Interval>,
}

/// Who woke the loop.
enum Wake {
    End,
    Hangup,
    Cgroups,
    Dbus(Heard),
    Journal,
    Ruleset,
    Answer(Answer),
    Timeout,
    Watchdog,
}

impl Sources {
    fn open(options: &cli::Daemon, kernel: &Nftables) -> Result<Self, Failure> {
        let of = |kind| signal(kind).map_err(Failure::new);
        let (resolver, answers) = Resolver::new();
        let (dbus_units, units) = watch::channel(BTreeSet::new());
        let (dbus_looks, looks) = mpsc::channel(64);
        let wanted = |source| options.sources.contains(&source);
        let cgroups = wanted(Source::Cgroup).then(Cgroups::new).transpose();
        let monitor = RulesetMonitor::open(kernel.port())
            .map_err(|error| Failure::new(format!("nftables cannot be listened to: {error}")))?;
        Ok(Self {
            hangup: of(SignalKind::hangup())?,
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            cgroups: cgroups.map_err(|error| Failure::new(format!("inotify: {error}")))?,
            heard: None,
            dbus_units,
            dbus_looks,
            dbus_ends: wanted(Source::Dbus).then_some((units, looks)),
            journal: wanted(Source::Journal).then(open_journal).flatten(),
            ruleset: Readable::of(&monitor).map_err(Failure::new)?,
            monitor,
            resolver,
            answers,
            watchdog: sd_notify::watchdog_enabled().map(|limit| every(limit / 2)),
        })
    }

    /// Starts what need not be there for the first load.
    fn listen(&mut self, engine: &Engine) {
        self.dbus_units.send_replace(engine.units());
        if let Some((units, looks)) = self.dbus_ends.take() {
            self.heard = Some(dbus::spawn(units, looks));
        }
    }

    async fn wait(&mut self, timeout: Option<Duration>) -> Wake {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Wake::End,
            _ = self.interrupt.recv() => Wake::End,
            _ = self.hangup.recv() => Wake::Hangup,
            () = ready(self.cgroups.as_ref().map(Cgroups::ready)) => Wake::Cgroups,
            heard = next(&mut self.heard) => Wake::Dbus(heard),
            () = journal_ready(self.journal.as_ref()) => Wake::Journal,
            () = ready(Some(self.ruleset.ready())) => Wake::Ruleset,
            Some(answer) = self.answers.recv() => Wake::Answer(answer),
            () = after(timeout) => Wake::Timeout,
            () = tick(&mut self.watchdog) => Wake::Watchdog,
        }
    }
}

fn every(period: Duration) -> Interval {
    interval_at(tokio::time::Instant::now() + period, period)
}

async fn ready(source: Option<impl Future<Output = io::Result<()>>>) {
    match source {
        Some(source) => drop(source.await),
        None => pending().await,
    }
}

async fn journal_ready(journal: Option<&Journal>) {
    match journal {
        Some(journal) => journal.ready().await,
        None => pending().await,
    }
}

async fn next<T>(receiver: &mut Option<mpsc::Receiver<T>>) -> T {
    if let Some(receiver) = receiver
        && let Some(value) = receiver.recv().await
    {
        return value;
    }
    pending().await
}

async fn after(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => sleep(timeout).await,
        None => pending().await,
    }
}

async fn tick(watchdog: &mut Option<Interval>) {
    match watchdog {
        Some(interval) => drop(interval.tick().await),
        None => pending().await,
    }
}

fn open_journal() -> Option<Journal> {
    Journal::open()
        .inspect_err(|error| {
            tracing::warn!("the journal cannot be read, so the other sources must do: {error}")
        })
        .ok()
}

struct Daemon {
    options: cli::Daemon,
    policy: Policy,
    hosts: Hosts,
    kernel: Nftables,
    engine: Engine,
    started: Instant,
    said: Vec<Mistake>,
    status: String,
    journal_is_lost: bool,
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
            policy,
            hosts: Hosts::new(),
            kernel,
            started: Instant::now(),
            said: Vec::new(),
            status: String::new(),
            journal_is_lost: false,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn serve(&mut self, sources: &mut Sources) {
        loop {
            let timeout = self.engine.timeout().map(|at| at.saturating_sub(self.now()));
            match sources.wait(timeout).await {
                Wake::End => return,
                Wake::Hangup => self.tell(Event::ReloadRequested),
                Wake::Dbus(heard) => self.hear(heard),
                Wake::Ruleset => self.ruleset_changed(sources),
                Wake::Answer(answer) => self.answered(answer),
                Wake::Watchdog => notify(&[NotifyState::Watchdog]),
                Wake::Cgroups | Wake::Journal | Wake::Timeout => {}
            }
            self.act(sources);
            self.read_journal(sources);
            self.act(sources);
            self.say_status();
        }
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
                let outcomes = effects::commit(&mut self.kernel, &commit);
                self.tell(Event::Committed { outcomes });
            }
            Action::LookAtCgroup(path) => {
                let id = look(&path);
                self.tell(Event::CgroupSeen { path, id, source: None });
            }
            Action::LookAtUnit(unit) => drop(sources.dbus_looks.try_send(unit)),
            Action::Sweep { set, keep } => match effects::sweep(&mut self.kernel, &set, &keep) {
                Ok(0) => {}
                Ok(number) => tracing::debug!("deleted {number} dead elements from {set}"),
                Err(error) => tracing::error!("{set} cannot be swept: {error}"),
            },
            Action::Reload { reread, flush } => self.reload(sources, reread, flush && self.options.flush),
        }
    }

    fn read_cgroups(&mut self, sources: &mut Sources) {
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
            Heard::Connected => tracing::debug!("connected to systemd on the system bus"),
            Heard::Resumed => self.tell(Event::SourceResumed { source }),
            Heard::Changed(unit) => self.tell(Event::UnitChanged { unit, source }),
            Heard::JobDone(unit) => self.tell(Event::UnitJobDone { unit, source }),
            Heard::State { unit, active } => {
                self.tell(Event::UnitStateSeen { unit, active, user: false, source });
            }
            Heard::Lost(why) => {
                tracing::debug!("the system bus is not there for now: {why}");
                self.tell(Event::SourceLost { source });
            }
        }
    }

    /// Reads the journal; whoever woke the loop, for journald itself wakes its readers late.
    fn read_journal(&mut self, sources: &mut Sources) {
        let Some(journal) = &mut sources.journal else { return };
        match journal.drain() {
            Ok(Drained { told, resumed }) => {
                self.journal_is_lost = false;
                told.into_iter().for_each(|told| self.told(told));
                if resumed {
                    self.tell(Event::SourceResumed { source: Source::Journal });
                }
            }
            Err(error) if !self.journal_is_lost => {
                self.journal_is_lost = true;
                tracing::warn!("the journal cannot be read for now: {error}");
            }
            Err(_) => {}
        }
    }

    fn told(&mut self, told: Told) {
        let source = Source::Journal;
        let Told { unit, user, kind } = told;
        self.tell(match kind {
            Kind::Changed => Event::UnitChanged { unit, source },
            Kind::JobDone => Event::UnitJobDone { unit, source },
            Kind::Active => Event::UnitStateSeen { unit, active: true, user, source },
            Kind::Inactive => Event::UnitStateSeen { unit, active: false, user, source },
        });
    }

    fn ruleset_changed(&mut self, sources: &mut Sources) {
        let interest = self.interest();
        let mut touched = false;
        let _ = sources.ruleset.read(|| {
            touched = sources.monitor.drain(&interest)?.touched;
            io::Result::<()>::Err(io::ErrorKind::WouldBlock.into())
        });
        if touched {
            tracing::debug!("somebody changed the ruleset that the policy is in");
            self.tell(Event::RulesetChanged);
        }
    }

    fn interest(&self) -> Interest {
        let (chains, sets) = dispatch::hosting(&self.policy);
        let mut interest = Interest::default();
        chains.into_iter().for_each(|chain| interest.chain(chain));
        sets.into_iter().for_each(|set| interest.set(set));
        interest
    }

    fn answered(&mut self, answer: Answer) {
        match answer.addresses {
            Ok(addresses) => {
                if self.hosts.get(&answer.host) != Some(&addresses) {
                    self.hosts.insert(answer.host, addresses);
                    self.tell(Event::ReapplyRequested);
                }
            }
            Err(why) => self.say_unresolved(&answer.host, &why),
        }
    }

    fn reload(&mut self, sources: &mut Sources, reread: bool, flush: bool) {
        notify(&[NotifyState::Reloading, now_for_systemd()]);
        let policy = match reread {
            true => read(&self.options),
            false => Ok(self.policy.clone()),
        };
        match policy {
            Ok(policy) => {
                if reread {
                    self.said.clear();
                    policy.mistakes.iter().for_each(|mistake| log::mistake(mistake, &policy.sources));
                }
                if let Err(error) = self.load(sources, policy, flush) {
                    tracing::error!("the old policy stays: {}", failed_load(&error));
                }
            }
            Err(failure) => tracing::error!("the old policy stays: {failure}"),
        }
        self.say_ready();
    }

    /// Loads a policy and makes it the one that is kept true.
    fn load(&mut self, sources: &mut Sources, policy: Policy, flush: bool) -> Result<(), LoadError> {
        let engine = &self.engine;
        let load = Load {
            policy: &policy,
            hosts: &self.hosts,
            flush,
            look: &look,
            active: &|unit| engine.is_active(unit),
        };
        let loaded = load.run(&mut self.kernel)?;
        self.say_once(&loaded.mistakes, &policy);
        self.policy = policy;
        let interest = self.interest();
        if sources.monitor.discard(&interest).is_ok_and(|change| change.touched) {
            self.tell(Event::RulesetChanged);
        }
        self.warn_if_empty();
        self.tell(Event::PolicyLoaded { bindings: loaded.bindings, installed: loaded.installed });
        self.follow(sources);
        Ok(())
    }

    /// Points the sources at what the engine has to know.
    fn follow(&mut self, sources: &mut Sources) {
        if let Some(cgroups) = &mut sources.cgroups {
            for seen in cgroups.follow(self.engine.paths()) {
                self.tell(Event::CgroupSeen { path: seen.path, id: seen.id, source: Some(Source::Cgroup) });
            }
        }
        sources.dbus_units.send_replace(self.engine.units());
        sources.resolver.ask(self.wanted_hosts());
        for unit in units::of_users(&self.engine.units_with_state()) {
            let source = Source::Cgroup;
            self.tell(Event::UnitStateSeen { unit, active: true, user: true, source });
        }
    }

    fn wanted_hosts(&self) -> BTreeSet<HostName> {
        let policy = &self.policy;
        let wanted = policy.iter().flat_map(|(_, annotation)| hosts::wanted(policy, annotation));
        wanted.filter(|host| !self.hosts.contains_key(host)).collect()
    }

    fn warn_if_empty(&self) {
        if self.policy.annotations.is_empty() {
            let files: Vec<String> =
                self.options.files.iter().map(|path| path.display().to_string()).collect();
            tracing::warn!("no annotation in {}: nothing to do until a reload", files.join(", "));
        }
    }

    fn say_mistakes_of_files(&self) {
        self.policy.mistakes.iter().for_each(|mistake| log::mistake(mistake, &self.policy.sources));
    }

    /// Says what nft refuses, unless it is what was said last time.
    fn say_once(&mut self, mistakes: &[Mistake], policy: &Policy) {
        for mistake in mistakes.iter().filter(|mistake| !self.said.contains(mistake)) {
            log::mistake(mistake, &policy.sources);
        }
        self.said.retain(|said| mistakes.contains(said) || said.message.contains("host name"));
        let new: Vec<Mistake> =
            mistakes.iter().filter(|mistake| !self.said.contains(mistake)).cloned().collect();
        self.said.extend(new);
    }

    fn say_unresolved(&mut self, host: &HostName, why: &str) {
        let mut mistakes = Vec::new();
        for (_, annotation) in self.policy.iter() {
            let Statement::Rule(rule) = &annotation.statement else { continue };
            let Err(unresolved) = hosts::resolve(&self.policy, &rule.body, &self.hosts) else { continue };
            for name in unresolved.into_iter().filter(|name| name.host == *host) {
                let message =
                    format!("the host name `{}` cannot be resolved, will be tried again: {why}", host.name);
                mistakes.push(Mistake::error(name.span, message));
            }
        }
        mistakes.retain(|mistake| !self.said.contains(mistake));
        mistakes.iter().for_each(|mistake| log::mistake(mistake, &self.policy.sources));
        self.said.extend(mistakes);
    }

    fn say_ready(&mut self) {
        self.status = self.status_line();
        notify(&[NotifyState::Ready, NotifyState::Status(&self.status)]);
        tracing::info!("{}", self.status);
    }

    fn say_status(&mut self) {
        let status = self.status_line();
        if status != self.status {
            notify(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    fn status_line(&self) -> String {
        let figures = self.engine.figures();
        let first: Vec<String> = figures.first.iter().map(|(source, n)| format!("{source} {n}")).collect();
        let heard =
            if first.is_empty() { String::new() } else { format!("; heard first from {}", first.join(", ")) };
        format!(
            "{} annotations, {} of {} elements in the kernel{heard}",
            self.policy.annotations.len(),
            figures.held,
            figures.elements
        )
    }
}

/// When a reload begins, as systemd wants to know it (sd_notify(3), `MONOTONIC_USEC=`).
fn now_for_systemd() -> NotifyState<'static> {
    NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Custom(""))
}

/// Tells systemd, if it wants to be told.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd cannot be notified: {error}");
    }
}
