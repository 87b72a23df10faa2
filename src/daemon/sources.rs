//! Everything that the loop listens to, in the order in which it is asked, and how much of it is taken in a turn.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, Interval, interval_at, sleep, timeout},
};

use super::{control::Answered, turn::turn};
use crate::{
    cgroupfs::is_mounted,
    cli,
    commands::Failure,
    control::{
        server::{ClientId, Incoming, Sent, Server},
        wire,
    },
    gather::Gather,
    model::{CGROUP_ROOT, Source, UnitName},
    names::Names,
    nft::{Nftables, RulesetMonitor},
    policy::{Policy, hosts::HostName},
    watch::{
        Heard,
        cgroups::{self, Cgroups},
        dbus,
        files::{ConfigFiles, SETTLE},
        readable::Readable,
        reader,
        resolver::{Answer, Resolver},
        schedule::Outcome,
        subtrees::{self, Subtrees},
    },
};

/// Everything that the loop listens to.
pub(super) struct Sources {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    pub(super) cgroups: Option<Cgroups>,
    /// When named cgroups are to be looked at again, if some cannot be watched.
    rescan: Option<Duration>,
    /// When to look whether cgroup v2 is mounted, if it was not at the start.
    pub(super) mount_due: Option<Duration>,
    pub(super) subtrees: Subtrees,
    /// The policy's files, if they are watched, and when they are to be looked at since something changed.
    pub(super) files: Option<ConfigFiles>,
    files_due: Option<Duration>,
    /// When to try again to watch them, if that was not possible.
    files_retry: Option<Duration>,
    dbus: Option<mpsc::Receiver<Heard>>,
    pub(super) dbus_units: watch::Sender<BTreeSet<UnitName>>,
    pub(super) dbus_looks: mpsc::Sender<UnitName>,
    dbus_ends: Option<(watch::Receiver<BTreeSet<UnitName>>, mpsc::Receiver<UnitName>)>,
    /// What has the journal's reader look now, and what it has read.
    pub(super) journal: Option<(mpsc::Sender<()>, mpsc::Receiver<Vec<Heard>>)>,
    pub(super) monitor: RulesetMonitor,
    pub(super) ruleset: Readable,
    pub(super) hosts: Resolver<HostName, Vec<IpAddr>>,
    pub(super) users: Resolver<String, Option<u32>>,
    /// The control socket.
    pub(super) control: Option<Control>,
    /// What tasks and threads have found out for those who ask there.
    pub(super) answers: (mpsc::UnboundedSender<Answered>, mpsc::UnboundedReceiver<Answered>),
    watchdog: Option<Interval>,
}

/// What a source had in a turn.
pub(super) enum News {
    End,
    Hangup,
    /// cgroup v2 is there now.
    Mounted,
    Cgroups(cgroups::Drained),
    Subtrees(subtrees::Drained),
    Files,
    Heard(Source, Vec<Heard>),
    Ruleset,
    Host(Answer<HostName, Vec<IpAddr>>),
    User(Answer<String, Option<u32>>),
    Control(Vec<Incoming>),
    Answered(Answered),
    Timeout,
    Watchdog,
}

/// The control socket as a source.
pub(super) struct Control {
    pub(super) server: Server,
    readable: Readable,
}

impl Control {
    /// None, and a word about it, if there can be none: the daemon does its work without.
    fn open(path: &Path) -> Option<Self> {
        if path.as_os_str().is_empty() {
            return None;
        }
        let open = || {
            let server = Server::bind(path)?;
            io::Result::Ok(Self { readable: Readable::of(&server)?, server })
        };
        open()
            .inspect_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => {
                    tracing::warn!(
                        "{}: another daemon answers there; this one cannot be asked",
                        path.display()
                    );
                }
                _ => tracing::warn!("{}: nobody can ask the daemon: {error}", path.display()),
            })
            .ok()
    }

    fn poll(&mut self, now: Duration, cx: &mut Context<'_>) -> Poll<News> {
        let is_due = self.server.due().is_some_and(|at| at <= now);
        if !is_due && self.readable.poll_ready(cx).is_pending() {
            return Poll::Pending;
        }
        // Whether it would block or not, the next turn has the task woken when there is something.
        let _ = self.readable.read(|| self.server.hear());
        Poll::Ready(News::Control(self.server.take(now)))
    }
}

/// How many messages of a channel are taken in a turn.
const MESSAGES: usize = 32;

/// How often named cgroups that cannot be watched are looked at, and what else is not there.
const RESCAN: Duration = Duration::from_secs(1);

impl Sources {
    pub(super) fn open(options: &cli::Daemon, kernel: &mut Nftables) -> Result<Self, Failure> {
        let of = |kind| signal(kind).map_err(Failure::new);
        let (dbus_units, units) = watch::channel(BTreeSet::new());
        let (dbus_looks, looks) = mpsc::channel(64);
        let wanted = |source| options.sources.contains(&source);
        let journal = wanted(Source::Journal).then(reader::spawn).transpose();
        let root = PathBuf::from(CGROUP_ROOT);
        let subtrees = match wanted(Source::Cgroup) {
            true => Subtrees::with_root(root),
            false => Ok(Subtrees::without_events(root)),
        };
        let of_hosts = options.names.clone().map_or(Names::Here, Names::Service);
        let of_users = of_hosts.clone();
        let own = kernel.generation().map_err(Failure::new)?.thread;
        let monitor = RulesetMonitor::open(own)
            .map_err(|error| Failure::new(format!("nftables cannot be listened to: {error}")))?;
        Ok(Self {
            hangup: of(SignalKind::hangup())?,
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            cgroups: wanted(Source::Cgroup).then(Cgroups::default),
            rescan: None,
            mount_due: None,
            subtrees: subtrees.map_err(|error| Failure::new(format!("epoll: {error}")))?,
            files: options.watch_config.then(ConfigFiles::default),
            files_due: None,
            files_retry: None,
            dbus: None,
            dbus_units,
            dbus_looks,
            dbus_ends: wanted(Source::Dbus).then_some((units, looks)),
            journal: journal.map_err(|error| Failure::new(format!("the journal's reader: {error}")))?,
            ruleset: Readable::of(&monitor).map_err(Failure::new)?,
            monitor,
            control: Control::open(&options.control),
            answers: mpsc::unbounded_channel(),
            hosts: Resolver::new(Arc::new(move |name| of_hosts.host(name)), |_| Outcome::Changed),
            users: Resolver::new(Arc::new(move |name: &String| of_users.user(name)), |user| match user {
                Some(_) => Outcome::Settled,
                None => Outcome::Failed,
            }),
            watchdog: sd_notify::watchdog_enabled()
                .map(|limit| interval_at(Instant::now() + limit / 2, limit / 2)),
        })
    }

    /// Listens to systemd from now on, about these units.
    pub(super) fn listen(&mut self, units: BTreeSet<UnitName>) {
        self.dbus_units.send_replace(units);
        if let Some((units, looks)) = self.dbus_ends.take() {
            self.dbus = Some(dbus::spawn(units, looks));
        }
    }

    /// What systemd says of the states of these units, as far as it says so within `limit`. Nothing if there is no bus yet.
    pub(super) async fn first_states(&mut self, units: BTreeSet<UnitName>, limit: Duration) -> Vec<Heard> {
        let mut heard = Vec::new();
        if !units.is_empty() && dbus::is_there() {
            self.listen(units.clone());
            let mut missing = units;
            let answers = async {
                while !missing.is_empty()
                    && let Some(dbus) = &mut self.dbus
                    && let Some(event) = dbus.recv().await
                {
                    if let Heard::State(unit, _) = &event {
                        missing.remove(unit);
                    }
                    heard.push(event);
                }
            };
            // What is late comes in a later turn.
            let _ = timeout(limit, answers).await;
        }
        heard
    }

    /// Asks for the names in a policy, and no longer for any others.
    pub(super) fn ask_for(&mut self, policy: &Policy) {
        self.hosts.want(policy.host_names());
        self.users.want(policy.user_names().into_iter().map(str::to_owned).gather());
    }

    /// Sends a client an answer.
    pub(super) fn answer(&mut self, client: ClientId, message: Arc<[u8]>, continues: bool) -> Sent {
        let control = self.control.as_mut();
        control.map_or(Sent::Last, |control| control.server.answer(client, message, continues))
    }

    /// Sends a client an error of our interface.
    pub(super) fn refuse(&mut self, client: ClientId, name: &str, words: &str) {
        self.answer(client, wire::error(name, &json!({ "words": words })), false);
    }

    /// Notes how long a user's call took.
    pub(super) fn charge(&mut self, user: u32, now: Duration, took: Duration) {
        if let Some(control) = &mut self.control {
            control.server.charge(user, now, took);
        }
    }

    /// Asks for all names anew.
    pub(super) fn ask_anew(&mut self) {
        self.hosts.ask_anew();
        self.users.ask_anew();
    }

    /// Closes them side by side, and `meanwhile` something else: the kernel takes up to 60 ms to close a socket of
    /// nfnetlink and 40 ms for an inotify instance, and whoever stops the daemon waits for that.
    pub(super) fn close(self, meanwhile: impl FnOnce()) {
        let Self { cgroups, subtrees, journal, .. } = self;
        drop(journal);
        thread::scope(|scope| {
            let _ = thread::Builder::new().spawn_scoped(scope, move || drop(cgroups));
            let _ = thread::Builder::new().spawn_scoped(scope, move || drop(subtrees));
            meanwhile();
        });
    }

    /// What all of them have in a turn. Waits for them for at most `timeout`; not at all if that is nothing.
    pub(super) async fn turn(&mut self, now: &dyn Fn() -> Duration, timeout: Option<Duration>) -> Vec<News> {
        if self.cgroups.as_ref().is_some_and(Cgroups::is_blind) {
            self.rescan.get_or_insert(now() + RESCAN);
        }
        if self.files.as_ref().is_some_and(ConfigFiles::is_blind) {
            self.files_retry.get_or_insert(now() + RESCAN);
        }
        let control = self.control.as_ref().and_then(|control| control.server.due());
        let own =
            [self.rescan, self.mount_due, self.subtrees.due(), self.files_due, self.files_retry, control];
        let own = own.into_iter().flatten();
        let timeout = own.map(|at| at.saturating_sub(now())).chain(timeout).min();
        let mut alarm = pin!(timeout.map(sleep));
        let Self { cgroups, rescan, mount_due, subtrees, files, files_due, files_retry, .. } = self;
        let (mut host, mut user) = (pin!(self.hosts.next()), pin!(self.users.next()));
        turn::<News>(
            &mut [
                &mut |cx| self.terminate.poll_recv(cx).map(|_| News::End),
                &mut |cx| self.interrupt.poll_recv(cx).map(|_| News::End),
                &mut |cx| self.hangup.poll_recv(cx).map(|_| News::Hangup),
                &mut |_| poll_mount(mount_due, now()),
                &mut |cx| if_any(cgroups.as_mut(), |all| poll_cgroups(all, rescan, now(), cx)),
                &mut |cx| {
                    if_any(files.as_mut(), |files| {
                        if files_retry.take_if(|at| *at <= now()).is_some() && files.try_again() {
                            *files_due = Some(now());
                        }
                        poll_files(files, files_due, now(), cx)
                    })
                },
                &mut |cx| if_any(self.dbus.as_mut(), |dbus| messages(dbus, cx)),
                &mut |cx| match self.journal.as_mut().map(|(_, read)| read.poll_recv(cx)) {
                    Some(Poll::Ready(Some(all))) => Poll::Ready(News::Heard(Source::Journal, all)),
                    _ => Poll::Pending,
                },
                &mut |cx| self.ruleset.poll_ready(cx).map(|()| News::Ruleset),
                &mut |cx| host.as_mut().poll(cx).map(News::Host),
                &mut |cx| user.as_mut().poll(cx).map(News::User),
                &mut |cx| {
                    let is_due = subtrees.due().is_some_and(|at| at <= now());
                    if !is_due && subtrees.poll_ready(cx).is_pending() {
                        return Poll::Pending;
                    }
                    Poll::Ready(News::Subtrees(subtrees.drain(now())))
                },
                &mut |cx| {
                    self.answers.1.poll_recv(cx).map(|answer| answer.map_or(News::Timeout, News::Answered))
                },
                &mut |cx| if_any(self.control.as_mut(), |control| control.poll(now(), cx)),
                &mut |cx| if_any(alarm.as_mut().as_pin_mut(), |alarm| alarm.poll(cx).map(|()| News::Timeout)),
                &mut |cx| if_any(self.watchdog.as_mut(), |every| every.poll_tick(cx).map(|_| News::Watchdog)),
            ],
            timeout != Some(Duration::ZERO),
        )
        .await
    }
}

/// What a source has, if there is one.
fn if_any<S>(source: Option<S>, poll: impl FnOnce(S) -> Poll<News>) -> Poll<News> {
    source.map_or(Poll::Pending, poll)
}

/// Whether cgroup v2 is there now.
fn poll_mount(due: &mut Option<Duration>, now: Duration) -> Poll<News> {
    if due.take_if(|at| *at <= now).is_none() {
        return Poll::Pending;
    }
    if is_mounted(Path::new(CGROUP_ROOT)) {
        return Poll::Ready(News::Mounted);
    }
    *due = Some(now + RESCAN);
    Poll::Pending
}

/// What named cgroups have. When some cannot be watched or looked at, all are looked at once a second.
fn poll_cgroups(
    cgroups: &mut Cgroups,
    rescan: &mut Option<Duration>,
    now: Duration,
    cx: &mut Context<'_>,
) -> Poll<News> {
    if rescan.take_if(|at| *at <= now).is_some() {
        return Poll::Ready(News::Cgroups(cgroups.rescan()));
    }
    cgroups.poll_ready(cx).map(|()| News::Cgroups(cgroups.drain()))
}

/// The policy's files, once they rest after a change.
fn poll_files(
    files: &mut ConfigFiles,
    due: &mut Option<Duration>,
    now: Duration,
    cx: &mut Context<'_>,
) -> Poll<News> {
    if files.poll_change(cx).is_ready() {
        *due = Some(now + SETTLE);
        // Has the time that is left counted anew.
        return Poll::Ready(News::Timeout);
    }
    match due.take_if(|due| *due <= now) {
        Some(_) => Poll::Ready(News::Files),
        None => Poll::Pending,
    }
}

/// Some of what the bus said, and never any once its channel is closed.
fn messages(receiver: &mut mpsc::Receiver<Heard>, cx: &mut Context<'_>) -> Poll<News> {
    let mut all = Vec::new();
    while all.len() < MESSAGES
        && let Poll::Ready(Some(message)) = receiver.poll_recv(cx)
    {
        all.push(message);
    }
    if all.is_empty() { Poll::Pending } else { Poll::Ready(News::Heard(Source::Dbus, all)) }
}
