//! `scnpm notify`: tells a desktop's user what of their own applications is refused, and lets them allow it for a while.
//!
//! ```text
//! daemon ──► follow (a thread) ──┐
//! session bus ──► bus (a task) ──┼──► Notifier ──► decide ──► words ──► the notification daemon
//! buttons' work (threads) ───────┘
//! ```

mod bus;
mod copy;
mod decide;
mod follow;
mod words;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use litemap::LiteMap;
use nix::unistd::Uid;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::spawn_blocking,
    time::sleep,
};

use super::{Failure, asking::failure, block_on, now};
use crate::{
    cli,
    control::{
        client::Client,
        message::{Allow, Allowance, Refusal},
    },
    model::printable,
};
use bus::{Bus, Signal};
use copy::Copier;
use decide::{Decider, Tell};
use words::{Abilities, Notification, Words};

/// How long polkit may ask the user for a password, and the load take behind that.
const PATIENCE: Duration = Duration::from_secs(90);

/// How many notifications are known by what they are about, and refusals kept for a notification daemon that is away.
const SHOWN: usize = 64;
const KEPT: usize = 64;

/// How often it is tried to have D-Bus start a notification daemon that is away.
const AGAIN: Duration = Duration::from_secs(30);

/// What happens.
#[derive(Debug)]
enum Event {
    /// The daemon is there, and told of these.
    Refused(Vec<Refusal>),
    /// It cannot be followed for now, or says no, and why.
    Away { says_no: bool, why: String },
    /// Something came from the bus, and who sent it.
    Bus(String, Signal),
    /// The daemon's answer to a press of "Allow".
    Answered(Press, Result<Allowance, String>),
    /// How it went with "Copy".
    Copied(Press, Result<(), Option<String>>),
}

/// A button that was pressed: of which notification, of which notification daemon's, and what it was about.
#[derive(Debug, Clone)]
struct Press {
    id: u32,
    owner: String,
    refusal: Refusal,
}

/// Runs it; it ends with the session bus.
///
/// # Errors
/// There is no session bus.
pub fn run(options: &cli::Notify) -> Result<ExitCode, Failure> {
    block_on(async {
        let (events, receiver) = mpsc::unbounded_channel();
        let bus = Bus::connect(events.clone()).await?;
        let uid = Uid::effective().as_raw();
        let socket = options.reach.socket.clone();
        follow::spawn(socket.clone(), now(), events.clone()).map_err(Failure::new)?;
        let notifier = Notifier {
            bus,
            socket,
            events,
            time: options.time,
            uid,
            decider: Decider::new(uid),
            server: None,
            has_server: None,
            asked: None,
            shown: LiteMap::new(),
            more: None,
            kept: Vec::new(),
            state: None,
        };
        notifier.run(receiver).await
    })
}

struct Notifier {
    bus: Bus,
    socket: PathBuf,
    events: UnboundedSender<Event>,
    time: Duration,
    uid: u32,
    decider: Decider,
    /// The notification daemon, if there is one.
    server: Option<Server>,
    /// Whether there was one when it was last looked.
    has_server: Option<bool>,
    /// When it was last looked whether there is one.
    asked: Option<Instant>,
    /// What notifications are about, by their numbers.
    shown: LiteMap<u32, Refusal>,
    /// The notification of how many more there are.
    more: Option<u32>,
    /// What there was no notification daemon for.
    kept: Vec<Refusal>,
    /// What was said last of the daemon.
    state: Option<State>,
}

/// How the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    There,
    SaysNo,
    Away,
}

/// A notification daemon: its unique name on the bus.
struct Server {
    name: String,
    abilities: Abilities,
}

impl Notifier {
    async fn run(mut self, mut events: UnboundedReceiver<Event>) -> Result<ExitCode, Failure> {
        self.greet().await;
        loop {
            let wait = self.decider.wait(now()).filter(|_| self.server.is_some());
            let event = tokio::select! {
                event = events.recv() => event,
                () = sleep(Duration::from_micros(wait.unwrap_or_default())), if wait.is_some() => {
                    let due = self.decider.due(now());
                    self.tell(due).await;
                    continue;
                }
            };
            match event {
                None => return Ok(ExitCode::SUCCESS),
                Some(Event::Bus(_, Signal::End)) => {
                    return Err(Failure::new("the session bus has closed the connection"));
                }
                Some(event) => self.handle(event).await,
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Refused(refusals) => {
                self.says_state(State::There, "");
                self.refused(refusals).await;
            }
            Event::Away { says_no: true, why } => self.says_state(State::SaysNo, &why),
            Event::Away { says_no: false, why } => self.says_state(State::Away, &why),
            Event::Bus(_, Signal::Owner(owner)) => self.owner(&owner).await,
            Event::Bus(sender, signal) if self.server.as_ref().is_some_and(|one| one.name == sender) => {
                match signal {
                    Signal::Pressed(id, action) => self.pressed(id, &action),
                    Signal::Closed(id) => self.closed(id),
                    Signal::Owner(_) | Signal::End => {}
                }
            }
            Event::Bus(..) => {}
            Event::Answered(press, answer) => self.answered(press, answer).await,
            Event::Copied(press, how) => {
                let notification = self.words().rule(&press.refusal, how);
                self.show_again(press, notification).await;
            }
        }
    }

    /// Says once that the daemon is away or says no, and why, or that it is back.
    fn says_state(&mut self, state: State, why: &str) {
        if self.state.replace(state) == Some(state) {
            return;
        }
        match state {
            State::There => tracing::info!("refusals are told from now on"),
            State::SaysNo | State::Away => {
                tracing::warn!("nothing can be told for now, it is tried again: {why}");
            }
        }
    }

    /// Finds the notification daemon, which may be started by that; says once that there is none.
    async fn greet(&mut self) {
        self.asked = Some(Instant::now());
        let found = self.bus.greet().await;
        let is_there = found.is_ok();
        let was_there = self.has_server.replace(is_there);
        match found {
            Ok((name, abilities)) => {
                if was_there == Some(false) {
                    tracing::info!("there is a notification daemon now");
                }
                self.server = Some(Server { name, abilities });
            }
            Err(error) if was_there != Some(false) => tracing::warn!(
                "no notification daemon answers, what is refused is told once one does: {}",
                printable(&error.to_string())
            ),
            Err(_) => {}
        }
    }

    async fn owner(&mut self, owner: &str) {
        if self.server.as_ref().is_some_and(|server| server.name == owner) {
            return;
        }
        // Another one has other numbers.
        self.server = None;
        self.shown.clear();
        self.more = None;
        if !owner.is_empty() {
            self.greet().await;
            let kept = std::mem::take(&mut self.kept);
            self.refused(kept).await;
        }
    }

    async fn refused(&mut self, refusals: Vec<Refusal>) {
        if refusals.is_empty() {
            return;
        }
        if self.server.is_none() && self.asked.is_none_or(|asked| asked.elapsed() >= AGAIN) {
            self.greet().await;
        }
        if self.server.is_none() {
            self.kept.extend(refusals);
            let too_many = self.kept.len().saturating_sub(KEPT);
            self.kept.drain(..too_many);
            return;
        }
        let tell = self.decider.heard(refusals, now());
        self.tell(tell).await;
    }

    async fn tell(&mut self, tell: impl IntoIterator<Item = Tell>) {
        for one in tell {
            match one {
                Tell::One(refusal) => {
                    let notification = self.words().refused(&refusal);
                    if let Some(id) = self.show(&notification, 0).await {
                        self.remember(id, *refusal);
                    }
                }
                Tell::More(count) => {
                    let notification = self.words().more(count);
                    self.more = self.show(&notification, self.more.unwrap_or_default()).await;
                }
            }
        }
    }

    async fn show(&self, notification: &Notification, in_place_of: u32) -> Option<u32> {
        let server = self.server.as_ref()?;
        match self.bus.notify(notification, in_place_of, server.abilities.keeps).await {
            Ok(id) => Some(id),
            Err(error) => {
                tracing::warn!("a notification was not shown: {}", printable(&error.to_string()));
                None
            }
        }
    }

    /// Shows the answer to a press in place of what was pressed, if that notification daemon is still there.
    async fn show_again(&mut self, press: Press, notification: Notification) {
        let is_same = self.server.as_ref().is_some_and(|server| server.name == press.owner);
        let in_place_of = if is_same { press.id } else { 0 };
        if let Some(id) = self.show(&notification, in_place_of).await {
            self.remember(id, press.refusal);
        }
    }

    fn remember(&mut self, id: u32, refusal: Refusal) {
        self.shown.insert(id, refusal);
        while self.shown.len() > SHOWN
            && let Some((&first, _)) = self.shown.first()
        {
            self.shown.remove(&first);
        }
    }

    fn closed(&mut self, id: u32) {
        self.shown.remove(&id);
        if self.more == Some(id) {
            self.more = None;
            self.decider.more_is_seen();
        }
    }

    /// Does on another thread what a button says, and hears of it later.
    fn pressed(&mut self, id: u32, action: &str) {
        let Some((refusal, server)) = self.shown.get(&id).zip(self.server.as_ref()) else { return };
        let press = Press { id, owner: server.name.clone(), refusal: refusal.clone() };
        let events = self.events.clone();
        match action {
            words::ALLOW => {
                let Some(ask) = self.words().ask(refusal) else { return };
                let socket = self.socket.clone();
                spawn_blocking(move || drop(events.send(Event::Answered(press, allow(&socket, &ask)))));
            }
            words::COPY => {
                let Some(line) = words::rule_line(refusal) else { return };
                spawn_blocking(move || {
                    let how = Copier::find().map_or(Err(None), |copier| copier.copy(&line).map_err(Some));
                    drop(events.send(Event::Copied(press, how)));
                });
            }
            _ => {}
        }
    }

    async fn answered(&mut self, press: Press, answer: Result<Allowance, String>) {
        let notification = match answer {
            Ok(allowance) => {
                self.decider.allowed(&press.refusal, now() + allowance.left_ms * 1000);
                self.words().allowed(&press.refusal)
            }
            Err(why) => self.words().not_allowed(&press.refusal, &why),
        };
        self.show_again(press, notification).await;
    }

    fn words(&self) -> Words {
        let abilities = self.server.as_ref().map(|server| server.abilities).unwrap_or_default();
        Words { abilities, copies: Copier::find().is_some(), time: self.time, uid: self.uid }
    }
}

/// Asks the daemon, and waits for polkit.
fn allow(socket: &Path, ask: &Allow) -> Result<Allowance, String> {
    let asked = Client::connect(socket).and_then(|mut client| {
        client.limit(Some(PATIENCE))?;
        client.call(ask)
    });
    asked.map(|allowed| allowed.allowance).map_err(|error| failure(error, socket).message)
}
