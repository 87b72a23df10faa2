//! Where events come from: threads that wait for the terminal, for signals and for the daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, io,
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{SigSet, Signal},
    unistd::User,
};

use super::{
    state::{Action, Event, Sockets, user_names},
    terminal,
};
use crate::{
    cgroupfs,
    commands::asking::{PATIENCE, failure},
    control::{
        client::{Client, Error},
        message::{Disallow, GetRefusals, GetStatus, Method, Status},
    },
    gather::Gather,
    model::{CGROUP_ROOT, CgroupId, CgroupPath, printable},
    nft::sock_diag,
    units::selector::Users,
};

/// How often is looked whether the daemon is back.
const RETRY: Duration = Duration::from_secs(1);

/// A person may have to be asked for leave.
const LEAVE: Duration = Duration::from_secs(120);

/// Asking takes no more than one part in so many of the time.
const REST: u32 = 9;

/// More of what `scnpm explain` says is not shown, in bytes.
const MOST: usize = 4 << 20;

/// The signals that have to be taken care of.
const SIGNALS: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTSTP, Signal::SIGCONT];

/// What comes from one of the threads.
pub(super) enum Message {
    Event(Event),
    Signal(Signal),
    /// The terminal is gone.
    NoKeys(io::Error),
}

/// The threads.
pub(super) struct Feeds {
    out: Sender<Message>,
    socket: PathBuf,
    /// Whether counters are to be asked for.
    counts: Arc<AtomicBool>,
    /// Has refusals asked for again.
    again: Sender<()>,
    /// The connection on which they are waited for.
    waiting: Waiting,
}

type Waiting = Arc<Mutex<Option<UnixStream>>>;

impl Feeds {
    /// Starts them. Sockets, and counters if there are any, are asked for every `delay`.
    pub(super) fn start(socket: &Path, delay: Duration) -> (Self, Receiver<Message>) {
        let (out, messages) = channel();
        let (again, asked_again) = channel();
        let counts = Arc::new(AtomicBool::new(false));
        let waiting = Waiting::default();
        let feeds = Self { out, socket: socket.to_owned(), counts, again, waiting };
        feeds.run(|_, out| wait_for_signals(out));
        feeds.run(|_, out| wait_for_keys(out));
        feeds.run(watch_status);
        let waiting = Arc::clone(&feeds.waiting);
        feeds.run(move |socket, out| watch_refusals(socket, &asked_again, &waiting, out));
        let counts = Arc::clone(&feeds.counts);
        feeds.run(move |socket, out| poll(socket, delay, &counts, out));
        (feeds, messages)
    }

    fn run(&self, feed: impl FnOnce(&Path, &Sender<Message>) -> Option<()> + Send + 'static) {
        let (socket, out) = (self.socket.clone(), self.out.clone());
        thread::spawn(move || feed(&socket, &out));
    }

    /// Whether counters are to be asked for.
    pub(super) fn set_counts(&self, are_there: bool) {
        self.counts.store(are_there, Ordering::Relaxed);
    }

    /// Has refusals asked for again: other files may record others, or none.
    pub(super) fn ask_for_refusals(&self) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It may have ended by itself.
        let _ = waiting.map(|stream| stream.shutdown(Shutdown::Both));
        let _ = self.again.send(());
    }

    /// Does what takes its time.
    pub(super) fn begin(&self, action: Action) {
        match action {
            Action::Explain(arguments) => self.run(move |socket, out| explain(socket, &arguments, out)),
            Action::Allow(allow) => self.run(move |socket, out| {
                let answer =
                    ask(socket, &allow).map(|allowed| format!("allowed: {}", allowed.allowance.annotation));
                send(out, Event::Answer(answer))
            }),
            Action::Disallow(number) => self.run(move |socket, out| {
                let answer = ask(socket, &Disallow { number: Some(number) }).map(|ended| match ended.ended {
                    0 => "it had ended already".to_owned(),
                    _ => "ended: it is refused again".to_owned(),
                });
                send(out, Event::Answer(answer))
            }),
            Action::Nothing | Action::Quit | Action::Suspend | Action::Redraw | Action::Copy(_) => {}
        }
    }
}

/// The signals that are waited for. All threads have to block them.
pub(super) fn signals() -> SigSet {
    SIGNALS.into_iter().collect()
}

/// Nothing if nobody takes events any more.
fn send(out: &Sender<Message>, event: Event) -> Option<()> {
    out.send(Message::Event(event)).ok()
}

fn wait_for_signals(out: &Sender<Message>) -> Option<()> {
    loop {
        out.send(Message::Signal(signals().wait().ok()?)).ok()?;
    }
}

fn wait_for_keys(out: &Sender<Message>) -> Option<()> {
    loop {
        match terminal::next() {
            Ok(event) => send(out, event)?,
            Err(error) => return out.send(Message::NoKeys(error)).ok(),
        }
    }
}

/// How things stand, whenever it changes.
fn watch_status(socket: &Path, out: &Sender<Message>) -> Option<()> {
    let mut numbers = Numbers::default();
    loop {
        let mut watch = || {
            let mut client = Client::connect(socket)?;
            client.watch(&GetStatus::default())?;
            loop {
                let (reply, _) = client.reply::<GetStatus>()?;
                if send(out, numbers.event(reply.status)).is_none() {
                    return Ok::<(), Error>(());
                }
            }
        };
        let Err(error) = watch() else { return None };
        send(out, Event::Gone(failure(error, socket).message))?;
        thread::sleep(RETRY);
    }
}

/// The numbers of users, each looked up once.
#[derive(Default)]
pub(super) struct Numbers(BTreeMap<String, Option<u32>>);

impl Numbers {
    /// A status with the numbers of the users that it names.
    pub(super) fn event(&mut self, status: Status) -> Event {
        let users: Users = user_names(&status).into_iter().filter_map(|name| self.of(name)).gather();
        Event::Status(Box::new(status), users)
    }

    fn of(&mut self, name: String) -> Option<(String, u32)> {
        let look_up = |name: &String| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
        let number = *self.0.entry(name.clone()).or_insert_with_key(look_up);
        Some((name, number?))
    }
}

/// Refusals, and what is new of them whenever there is some. Where that fails for good it waits until
/// it is to try again.
fn watch_refusals(
    socket: &Path,
    again: &Receiver<()>,
    waiting: &Waiting,
    out: &Sender<Message>,
) -> Option<()> {
    loop {
        let watch = || {
            let mut client = Client::connect(socket)?;
            *waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.stream()?);
            client.watch(&GetRefusals::default())?;
            let mut is_first = true;
            loop {
                let (reply, more) = client.reply::<GetRefusals>()?;
                let event = match is_first {
                    true => Event::AllRefusals(reply.refusals),
                    false => Event::MoreRefusals(reply.refusals),
                };
                is_first = false;
                if send(out, event).is_none() || !more {
                    return Ok(());
                }
            }
        };
        let pause = match watch() {
            // The other thread says so, and what was known stays on the screen.
            Ok(()) | Err(Error::NotRunning | Error::Ended) => Some(RETRY),
            Err(error) => {
                let is_so_until_told = matches!(&error, Error::Older)
                    || matches!(&error, Error::Refused(name, _) if name == "NotRecorded");
                send(out, Event::NoRefusals(failure(error, socket).message))?;
                (!is_so_until_told).then_some(RETRY * 10)
            }
        };
        let told = match pause {
            Some(pause) => again.recv_timeout(pause),
            None => again.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        if told == Err(RecvTimeoutError::Disconnected) {
            return None;
        }
        while again.try_recv().is_ok() {}
    }
}

/// What nobody is told of: sockets, and counters.
fn poll(socket: &Path, delay: Duration, counts: &AtomicBool, out: &Sender<Message>) -> Option<()> {
    let mut cgroups = Cgroups::default();
    let mut numbers = Numbers::default();
    let mut client = None;
    loop {
        let begun = Instant::now();
        send(out, Event::Sockets(cgroups.sockets()))?;
        if counts.load(Ordering::Relaxed)
            && let Ok(status) = status(&mut client, socket)
        {
            send(out, numbers.event(status))?;
        }
        thread::sleep(delay.max(begun.elapsed() * REST));
    }
}

/// Asks over a connection that is kept while it works.
fn status(client: &mut Option<Client>, socket: &Path) -> Result<Status, Error> {
    let mut asked = match client.take() {
        Some(client) => client,
        None => Client::connect(socket)?,
    };
    asked.limit(Some(PATIENCE))?;
    let status = asked.call(&GetStatus::default())?.status;
    *client = Some(asked);
    Ok(status)
}

/// The cgroups of this machine by their numbers. They are only looked for if there are sockets of others.
#[derive(Default)]
struct Cgroups {
    paths: BTreeMap<CgroupId, CgroupPath>,
    /// Those of which there is no path: gone, or the root.
    without: BTreeSet<CgroupId>,
}

impl Cgroups {
    fn sockets(&mut self) -> Option<BTreeMap<CgroupPath, Sockets>> {
        let sockets = sock_diag::sockets().ok()?;
        let mut counts: BTreeMap<CgroupId, Sockets> = BTreeMap::new();
        for socket in sockets {
            let Some(cgroup) = socket.cgroup else { continue };
            let count = counts.entry(cgroup).or_default();
            match socket.state_words() {
                "connected" | "connecting" => count.connected += 1,
                "listening" => count.listening += 1,
                _ => {}
            }
        }
        if counts.keys().any(|id| !self.paths.contains_key(id) && !self.without.contains(id)) {
            self.look(counts.keys().copied());
        }
        Some(
            counts.into_iter().filter_map(|(id, count)| Some((self.paths.get(&id)?.clone(), count))).gather(),
        )
    }

    fn look(&mut self, wanted: impl Iterator<Item = CgroupId>) {
        let root = Path::new(CGROUP_ROOT);
        let path = |directory: &Path| directory.strip_prefix(root).ok()?.to_str()?.parse().ok();
        let all = cgroupfs::walk(root, usize::MAX).flatten();
        self.paths = all.filter_map(|(directory, id)| Some((id, path(&directory)?))).gather();
        self.without = wanted.filter(|id| !self.paths.contains_key(id)).gather();
    }
}

/// Asks the daemon for something that may need leave.
fn ask<M: Method>(socket: &Path, method: &M) -> Result<M::Reply, String> {
    let asked = Client::connect(socket).and_then(|mut client| {
        client.limit(Some(LEAVE))?;
        client.call(method)
    });
    asked.map_err(|error| match error {
        Error::Failed(name) if name.ends_with("InvalidParameter") => {
            "packets of this kind cannot be allowed for a while: c shows the annotation that allows them"
                .to_owned()
        }
        error => failure(error, socket).message,
    })
}

fn explain(socket: &Path, arguments: &[String], out: &Sender<Message>) -> Option<()> {
    let program = env::current_exe().unwrap_or_else(|_| "scnpm".into());
    let mut command = Command::new(program);
    command.arg("explain").arg("--socket").arg(socket).args(arguments).stdin(Stdio::null());
    let text = match command.env("NO_COLOR", "1").output() {
        Ok(output) => {
            let mut bytes = [output.stdout, output.stderr].concat();
            bytes.truncate(MOST);
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Err(error) => format!("scnpm cannot be run: {error}"),
    };
    let shown: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "--").collect();
    send(out, Event::Output { title: printable(&format!("scnpm explain {}", shown.join(" "))), text })
}
