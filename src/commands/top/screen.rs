//! The loop of `scnpm top`: takes events, does what they ask for, draws.

use std::{
    fs, io,
    process::ExitCode,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, Signal, raise};

use super::{
    feeds::{Feeds, Message, Numbers, signals},
    state::{Action, Event, Now, State},
    terminal::{self, Screen},
};
use crate::{
    cli::Top,
    commands::{
        Failure,
        asking::{PATIENCE, failure},
        now,
    },
    control::{client::Client, message::GetStatus},
    log::colour_on,
    report::denied::services,
};

/// What comes without a key is not drawn more often.
const PAUSE: Duration = Duration::from_millis(250);

/// How it ended.
enum End {
    Quit,
    /// A signal ends it.
    By(Signal),
}

/// Runs it.
///
/// # Errors
/// There is no terminal, the daemon cannot be asked at the start, or the terminal fails.
pub fn run(options: &Top) -> Result<ExitCode, Failure> {
    if let Some(lack) = terminal::lack() {
        return Err(Failure { message: lack.to_owned(), exit_code: 2 });
    }
    let socket = &options.reach.socket;
    let first = Client::connect(socket).and_then(|mut client| {
        client.limit(Some(PATIENCE))?;
        client.call(&GetStatus::default())
    });
    let first = first.map_err(|error| failure(error, socket))?.status;

    let no_terminal = |error: io::Error| Failure::new(format!("the terminal cannot be used: {error}"));
    // Before the terminal is taken over, and before there are threads that would not block them.
    signals().thread_block().map_err(|error| no_terminal(error.into()))?;
    let screen = Screen::open().map_err(no_terminal)?;
    let (feeds, messages) = Feeds::start(socket, options.delay);
    let size = screen.size().map_err(no_terminal)?;
    let mut state = State::new(size, colour_on(&io::stdout()), options.filter.clone().unwrap_or_default());
    state.services = services(&fs::read_to_string("/etc/services").unwrap_or_default());
    let mut session = Session { screen, feeds, state, begun: Instant::now(), loaded: (0, 0) };
    let end = session.take(Numbers::default().event(first)).and_then(|_| session.run(&messages));
    drop(session);
    match end.map_err(no_terminal)? {
        End::Quit => Ok(ExitCode::SUCCESS),
        End::By(signal) => Ok(die(signal)),
    }
}

/// Ends as the signal ends others.
fn die(signal: Signal) -> ExitCode {
    let _ = raise(signal).and_then(|()| SigSet::from(signal).thread_unblock());
    ExitCode::FAILURE
}

struct Session {
    screen: Screen,
    feeds: Feeds,
    state: State,
    begun: Instant,
    /// The daemon, and when it loaded its files.
    loaded: (u32, u64),
}

impl Session {
    fn run(&mut self, messages: &Receiver<Message>) -> io::Result<End> {
        self.screen.draw(&self.state)?;
        let mut drawn = Instant::now();
        let mut is_drawn = true;
        loop {
            let message = match is_drawn {
                true => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => messages.recv_timeout(PAUSE.saturating_sub(drawn.elapsed())),
            };
            let mut is_urgent = matches!(message, Err(RecvTimeoutError::Timeout));
            for message in message.into_iter().chain(messages.try_iter()) {
                is_drawn = false;
                is_urgent |= is_answer(&message);
                if let Some(end) = self.handle(message)? {
                    return Ok(end);
                }
            }
            if is_urgent || drawn.elapsed() >= PAUSE {
                self.screen.draw(&self.state)?;
                (drawn, is_drawn) = (Instant::now(), true);
            }
        }
    }

    fn handle(&mut self, message: Message) -> io::Result<Option<End>> {
        match message {
            Message::Event(event) => self.take(event),
            Message::Signal(Signal::SIGTSTP) => self.suspend(),
            Message::Signal(Signal::SIGCONT) => self.reopen(),
            Message::Signal(signal) => Ok(Some(End::By(signal))),
            Message::NoKeys(error) => Err(error),
        }
    }

    fn take(&mut self, event: Event) -> io::Result<Option<End>> {
        let is_status = matches!(event, Event::Status(..));
        let action = self.state.take(event, self.now());
        if is_status {
            self.feeds.set_counts(self.state.has_counters());
            let loaded = (self.state.status.pid, self.state.status.loaded_at);
            if loaded != self.loaded {
                self.loaded = loaded;
                self.feeds.ask_for_refusals();
            }
        }
        match action {
            Action::Nothing => {}
            Action::Quit => return Ok(Some(End::Quit)),
            Action::Suspend => return self.suspend(),
            Action::Redraw => return self.reopen(),
            Action::Copy(text) => self.screen.copy(&text)?,
            action => self.feeds.begin(action),
        }
        Ok(None)
    }

    fn suspend(&mut self) -> io::Result<Option<End>> {
        self.screen.suspend()?;
        self.resized()
    }

    fn reopen(&mut self) -> io::Result<Option<End>> {
        self.screen.reopen()?;
        self.resized()
    }

    /// The size may be another one by now.
    fn resized(&mut self) -> io::Result<Option<End>> {
        let (width, height) = self.screen.size()?;
        self.state.take(Event::Resized(width, height), self.now());
        Ok(None)
    }

    fn now(&self) -> Now {
        let since_start = self.begun.elapsed().as_millis();
        Now { wall: now(), since_start: u64::try_from(since_start).unwrap_or(u64::MAX) }
    }
}

/// Whether a person waits for it.
fn is_answer(message: &Message) -> bool {
    !matches!(
        message,
        Message::Event(
            Event::Status(..)
                | Event::Gone(_)
                | Event::Sockets(_)
                | Event::AllRefusals(_)
                | Event::MoreRefusals(_)
                | Event::NoRefusals(_)
        )
    )
}
