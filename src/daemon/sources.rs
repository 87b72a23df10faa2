//! Everything that can wake the loop, and the order in which it is served.

use std::{collections::BTreeSet, future::pending, io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{Interval, interval_at, sleep},
};

use crate::{
    cli,
    commands::Failure,
    engine::Engine,
    machine,
    model::{Source, UnitName},
    nft::{Nftables, RulesetMonitor},
    policy::{Policy, hosts::HostName},
    watch::{
        cgroups::Cgroups,
        dbus::{self, Heard},
        hosts,
        readable::Readable,
        reader::{Read, Reader},
        resolver::{Answer, Pace, Resolver},
        subtrees::Subtrees,
    },
};

/// Everything that can wake the loop.
pub(super) struct Sources {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    pub(super) cgroups: Option<Cgroups>,
    pub(super) subtrees: Option<Subtrees>,
    heard: Option<mpsc::Receiver<Heard>>,
    pub(super) dbus_units: watch::Sender<BTreeSet<UnitName>>,
    pub(super) dbus_looks: mpsc::Sender<UnitName>,
    dbus_ends: Option<(watch::Receiver<BTreeSet<UnitName>>, mpsc::Receiver<UnitName>)>,
    pub(super) journal: Option<Reader>,
    pub(super) monitor: RulesetMonitor,
    pub(super) ruleset: Readable,
    pub(super) hosts: Resolver<HostName, BTreeSet<IpAddr>>,
    pub(super) users: Resolver<String, Option<u32>>,
    watchdog: Option<Interval>,
}

/// Who woke the loop.
pub(super) enum Wake {
    End,
    Hangup,
    Cgroups,
    Dbus(Heard),
    Journal(Read),
    Ruleset,
    Host(Answer<HostName, BTreeSet<IpAddr>>),
    User(Answer<String, Option<u32>>),
    Timeout,
    Watchdog,
}

impl Sources {
    pub(super) fn open(options: &cli::Daemon, kernel: &Nftables) -> Result<Self, Failure> {
        let of = |kind| signal(kind).map_err(Failure::new);
        let (dbus_units, units) = watch::channel(BTreeSet::new());
        let (dbus_looks, looks) = mpsc::channel(64);
        let wanted = |source| options.sources.contains(&source);
        let journal = wanted(Source::Journal).then(Reader::spawn).transpose();
        let cgroups = wanted(Source::Cgroup).then(Cgroups::new).transpose();
        let subtrees = wanted(Source::Cgroup).then(Subtrees::new).transpose();
        let monitor = RulesetMonitor::open(kernel.port())
            .map_err(|error| Failure::new(format!("nftables cannot be listened to: {error}")))?;
        Ok(Self {
            hangup: of(SignalKind::hangup())?,
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            cgroups: cgroups.map_err(|error| Failure::new(format!("inotify: {error}")))?,
            subtrees: subtrees.map_err(|error| Failure::new(format!("inotify: {error}")))?,
            heard: None,
            dbus_units,
            dbus_looks,
            dbus_ends: wanted(Source::Dbus).then_some((units, looks)),
            journal: journal.map_err(|error| Failure::new(format!("the journal's reader: {error}")))?,
            ruleset: Readable::of(&monitor).map_err(Failure::new)?,
            monitor,
            hosts: Resolver::new(Arc::new(hosts::look_up), |_| Pace::Refresh),
            users: Resolver::new(Arc::new(|name: &String| machine::user(name)), |user| match user {
                Some(_) => Pace::Rest,
                None => Pace::Retry,
            }),
            watchdog: sd_notify::watchdog_enabled().map(|limit| every(limit / 2)),
        })
    }

    /// Starts what need not be there for the first load.
    pub(super) fn listen(&mut self, engine: &Engine) {
        self.dbus_units.send_replace(engine.units());
        if let Some((units, looks)) = self.dbus_ends.take() {
            self.heard = Some(dbus::spawn(units, looks));
        }
    }

    /// Asks for the names in a policy, and no longer for any others.
    pub(super) fn ask_for(&mut self, policy: &Policy) {
        self.hosts.want(policy.host_names());
        self.users.want(policy.user_names().into_iter().map(str::to_owned).collect());
    }

    /// Asks for all names anew.
    pub(super) fn ask_anew(&mut self) {
        self.hosts.ask_anew();
        self.users.ask_anew();
    }

    pub(super) async fn wait(&mut self, timeout: Option<Duration>) -> Wake {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Wake::End,
            _ = self.interrupt.recv() => Wake::End,
            _ = self.hangup.recv() => Wake::Hangup,
            () = ready(self.cgroups.as_ref().map(Cgroups::ready)) => Wake::Cgroups,
            heard = next(&mut self.heard) => Wake::Dbus(heard),
            read = read(&mut self.journal) => Wake::Journal(read),
            () = ready(Some(self.ruleset.ready())) => Wake::Ruleset,
            answer = self.hosts.next() => Wake::Host(answer),
            answer = self.users.next() => Wake::User(answer),
            () = ready(self.subtrees.as_ref().map(Subtrees::ready)) => Wake::Cgroups,
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

async fn read(journal: &mut Option<Reader>) -> Read {
    match journal {
        Some(reader) => reader.next().await,
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
