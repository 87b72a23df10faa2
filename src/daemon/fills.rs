//! Fills sets with the addresses of names (`# scnpm: fill SET with NAMES`), on a thread of its own: what a resolver answers never
//! holds up the policy.
//!
//! The thread reads systemd-resolved's monitor and changes the sets itself. It looks at them when it is told that the ruleset was
//! loaded or changed, and puts in what is missing.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    runtime,
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    answers::{Book, Change, Reply},
    control::message,
    model::SetRef,
    nft::{is_passing, netlink::Netlink, words_of},
    policy::{Policy, domains::Fill},
    watch::answers::Answers,
};

/// How the source is named in `scnpm status`.
const NAME: &str = "answers";

/// How long after one look at the sets the next one is at the earliest, and when it is tried again to do what could not be done.
const PAUSE: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_secs(1);

/// How long after the end of a connection another one is tried: at first, and at most. What is answered meanwhile is missed with
/// systemd 252, which does not tell what is in its cache.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(2);

/// Enough for a large answer, in bytes.
const STACK: usize = 512 * 1024;

/// The thread, from outside.
pub(super) struct Fills {
    orders: watch::Sender<Orders>,
    state: Arc<Mutex<State>>,
}

/// What the thread is to do.
#[derive(Debug, Default)]
struct Orders {
    fills: Vec<Fill>,
    /// How often the ruleset was changed, as far as that matters.
    changes: u64,
    /// How often it was loaded.
    loads: u64,
}

/// How the source is.
#[derive(Debug, Default)]
struct State {
    is_working: bool,
    words: Option<String>,
    addresses: usize,
    too_many: u64,
}

impl Fills {
    /// Starts the thread, which reads the monitor at this socket as long as there is a set to be filled.
    ///
    /// # Errors
    /// The system has no thread or no file descriptor left.
    pub(super) fn spawn(monitor: PathBuf) -> io::Result<Self> {
        let (orders, ordered) = watch::channel(Orders::default());
        let state = Arc::<Mutex<State>>::default();
        let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let keeper = Keeper::new(monitor, Arc::clone(&state));
        let work = move || runtime.block_on(keeper.run(ordered));
        thread::Builder::new().name("answers".to_owned()).stack_size(STACK).spawn(work)?;
        Ok(Self { orders, state })
    }

    /// A policy was loaded, anew or again.
    pub(super) fn policy_loaded(&self, policy: &Policy) {
        self.orders.send_if_modified(|orders| {
            if orders.fills.is_empty() && policy.fills.is_empty() {
                return false;
            }
            orders.fills.clone_from(&policy.fills);
            orders.loads += 1;
            true
        });
    }

    /// The ruleset was changed.
    pub(super) fn ruleset_changed(&self) {
        self.orders.send_if_modified(|orders| {
            let is_wanted = !orders.fills.is_empty();
            orders.changes += u64::from(is_wanted);
            is_wanted
        });
    }

    /// For `scnpm status`, if there is a set to be filled.
    pub(super) fn source(&self) -> Option<message::Source> {
        if self.orders.borrow().fills.is_empty() {
            return None;
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words = vec![match state.addresses {
            1 => "1 address of names".to_owned(),
            count => format!("{count} addresses of names"),
        }];
        words.extend((state.too_many > 0).then(|| format!("{} not taken: too many", state.too_many)));
        let lost = || state.words.clone().unwrap_or_else(|| "not connected yet".to_owned());
        Some(message::Source {
            name: NAME.to_owned(),
            state: if state.is_working { "working" } else { "lost" }.to_owned(),
            words: Some(if state.is_working { words.join(", ") } else { lost() }),
            ..message::Source::default()
        })
    }
}

/// The thread itself.
struct Keeper {
    monitor: PathBuf,
    state: Arc<Mutex<State>>,
    began: Instant,
    book: Book,
    netlink: Option<Netlink>,
    /// The generation of the ruleset that the sets were last looked at in, and how many of our own came after it.
    seen: Option<(u32, u32)>,
    looked: Option<Instant>,
    /// When the sets are to be looked at, if nothing happens before.
    due: Option<Instant>,
    /// The sets of which it was said that they can't be filled, or not with everything.
    told: BTreeSet<SetRef>,
    is_loss_told: bool,
    is_flood_told: bool,
}

impl Keeper {
    fn new(monitor: PathBuf, state: Arc<Mutex<State>>) -> Self {
        Self {
            monitor,
            state,
            began: Instant::now(),
            book: Book::default(),
            netlink: None,
            seen: None,
            looked: None,
            due: None,
            told: BTreeSet::new(),
            is_loss_told: false,
            is_flood_told: false,
        }
    }

    /// Ends when nobody gives orders any more.
    async fn run(mut self, mut orders: watch::Receiver<Orders>) {
        let mut answers: Option<Answers> = None;
        let mut pause = FIRST;
        let mut connect_at = Instant::now();
        let (mut fills, mut loads): (Vec<Fill>, u64) = (vec![], 0);
        loop {
            let is_wanted = !fills.is_empty();
            let is_missing = is_wanted && answers.is_none();
            let due = self.due;
            tokio::select! {
                changed = orders.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let (new, is_load) = {
                        let orders = orders.borrow_and_update();
                        (orders.fills.clone(), std::mem::replace(&mut loads, orders.loads) != orders.loads)
                    };
                    if new != fills {
                        self.turn_to(&new);
                    } else if is_load {
                        self.look();
                    } else {
                        self.look_if_changed();
                    }
                    fills = new;
                    if fills.is_empty() {
                        answers = None;
                    }
                }
                replies = next(&mut answers), if is_wanted => match replies {
                    Ok(replies) => {
                        for reply in &replies {
                            if matches!(reply, Reply::Ready) {
                                pause = FIRST;
                                self.resumed();
                            }
                        }
                        if let Err(why) = self.hear(&replies) {
                            self.lost(why);
                            answers = None;
                            connect_at = Instant::now() + LAST;
                        }
                    }
                    Err(error) => {
                        let why = match error.kind() {
                            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                                "systemd-resolved does not run, or has ended the connection".to_owned()
                            }
                            _ => error.to_string(),
                        };
                        self.lost(why);
                        answers = None;
                        connect_at = Instant::now() + pause;
                        pause = (pause * 2).min(LAST);
                    }
                },
                () = sleep_until(connect_at), if is_missing => match Answers::connect(&self.monitor).await {
                    Ok(connected) => answers = Some(connected),
                    Err(error) => {
                        self.lost(cannot_connect(&self.monitor, &error));
                        connect_at = Instant::now() + pause;
                        pause = (pause * 2).min(LAST);
                    }
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.look(),
            }
            self.tell();
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn netlink(&mut self) -> io::Result<&mut Netlink> {
        match &mut self.netlink {
            Some(netlink) => Ok(netlink),
            none => Ok(none.insert(Netlink::open()?)),
        }
    }

    fn turn_to(&mut self, fills: &[Fill]) {
        let changes = self.book.turn_to(fills);
        self.apply(changes);
        self.told.clear();
        self.is_flood_told = false;
        self.look();
    }

    /// Takes in what was answered.
    ///
    /// # Errors
    /// Why nothing is answered.
    fn hear(&mut self, replies: &[Reply]) -> Result<(), String> {
        let now = self.now();
        let mut changes = Vec::new();
        for reply in replies {
            match reply {
                Reply::Answer(answer) | Reply::Cache(answer) => changes.extend(self.book.heard(now, answer)),
                Reply::Ready | Reply::Nothing => {}
                Reply::Error(name) => return Err(format!("systemd-resolved tells root only ({name})")),
            }
        }
        self.apply(changes);
        Ok(())
    }

    /// Looks at the sets if somebody else has changed the ruleset.
    fn look_if_changed(&mut self) {
        let generation = self.netlink().and_then(Netlink::generation);
        if let (Ok(generation), Some((seen, own))) = (generation, self.seen)
            && generation.id == seen.wrapping_add(own)
        {
            return;
        }
        match self.looked.map(|looked| looked + PAUSE).filter(|at| *at > Instant::now()) {
            Some(at) => self.due = Some(self.due.map_or(at, |due| due.min(at))),
            None => self.look(),
        }
    }

    /// Looks at the sets and puts in what is missing.
    fn look(&mut self) {
        self.due = None;
        self.looked = Some(Instant::now());
        self.seen = self.netlink().and_then(Netlink::generation).ok().map(|generation| (generation.id, 0));
        let sets: Vec<SetRef> = self.book.sets().cloned().collect();
        let mut changes = Vec::new();
        for set in sets {
            match self.netlink().and_then(|netlink| netlink.addresses(&set)) {
                Ok(content) => {
                    if content.is_none() && self.told.insert(set.clone()) {
                        tracing::warn!(
                            "{set} is not a set of addresses with `flags timeout`: it is not filled"
                        );
                    } else if content.is_some() {
                        self.told.remove(&set);
                    }
                    changes.extend(self.book.found(self.now(), &set, content));
                }
                Err(error) => {
                    tracing::debug!("{set} cannot be read, will be tried again: {}", words_of(&error));
                    self.due = Some(Instant::now() + RETRY);
                }
            }
        }
        self.apply(changes);
    }

    /// Changes the sets: all at once, or if the kernel does not take that, each by itself.
    fn apply(&mut self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            match change {
                Change::Hold { set, address, time, .. } => {
                    tracing::debug!("{set}: {address} for {} s", time.as_secs());
                }
                Change::Release { set, address } => tracing::debug!("{set}: {address} goes"),
            }
        }
        if self.commit(&changes).is_ok() {
            return;
        }
        for change in changes {
            let Err(error) = self.commit(std::slice::from_ref(&change)) else { continue };
            if error.kind() == io::ErrorKind::NotFound
                || is_passing(&error) && error.raw_os_error() != Some(libc::ENFILE)
            {
                // The set is gone, or the kernel is busy.
                self.due = Some(Instant::now() + RETRY);
                continue;
            }
            if let Change::Hold { set, address, .. } = change {
                self.book.refused(&set, address);
                if self.told.insert(set.clone()) {
                    tracing::warn!("{set} does not take {address}: {}", words_of(&error));
                }
            }
        }
    }

    fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        self.netlink()?.apply(changes)?;
        if let Some((_, own)) = &mut self.seen {
            *own = own.wrapping_add(1);
        }
        Ok(())
    }

    fn resumed(&mut self) {
        self.is_loss_told = false;
        tracing::debug!("connected to systemd-resolved's monitor");
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.is_working, state.words) = (true, None);
    }

    fn lost(&mut self, why: String) {
        if !std::mem::replace(&mut self.is_loss_told, true) {
            tracing::warn!("names fill no set for now: {why}");
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.is_working, state.words) = (false, Some(why));
    }

    /// Brings the state up to date.
    fn tell(&mut self) {
        let now = self.now();
        self.book.expire(now);
        let (addresses, too_many) = self.book.figures();
        if too_many > 0 && !std::mem::replace(&mut self.is_flood_told, true) {
            tracing::warn!(
                "names have too many addresses: those that are there stay, the others are not taken"
            );
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.addresses, state.too_many) = (addresses, too_many);
    }
}

async fn next(answers: &mut Option<Answers>) -> io::Result<Vec<Reply>> {
    match answers {
        Some(answers) => answers.next().await,
        None => std::future::pending().await,
    }
}

fn cannot_connect(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("systemd-resolved is not running: nobody listens at {path}")
        }
        io::ErrorKind::PermissionDenied => format!("only root may connect to {path}"),
        _ => format!("{path}: {error}"),
    }
}
