//! The terminal: taken over, drawn on, and always given back. Keys as they come from it.

use std::{
    io::{self, BufWriter, IsTerminal, Stdout},
    panic,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::sys::signal::{SigSet, Signal, raise};
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        execute,
        style::Print,
        terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
    },
};

use super::{
    state::{Event, Key, State},
    view,
};

/// Whether the terminal is taken over.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// So much goes to the terminal at once: each write may be a packet of ssh.
const BUFFER: usize = 1 << 16;

/// Why there is nothing to draw on.
pub(super) fn lack() -> Option<&'static str> {
    let term = std::env::var_os("TERM").unwrap_or_default();
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Some("this needs a terminal: `scnpm status --watch` writes to anything");
    }
    (term.is_empty() || term == "dumb")
        .then_some("this terminal cannot move its cursor (TERM): `scnpm status --watch` needs no such one")
}

/// The screen, for as long as it lives.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    /// Takes the terminal over.
    pub(super) fn open() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
        take_over()?;
        Ok(Self { terminal: fresh()? })
    }

    pub(super) fn draw(&mut self, state: &State) -> io::Result<()> {
        self.terminal.draw(|frame| view::draw(state, frame)).map(drop)
    }

    /// The number of its columns and lines.
    pub(super) fn size(&self) -> io::Result<(u16, u16)> {
        self.terminal.size().map(|size| (size.width, size.height))
    }

    /// Takes the terminal over again, whatever others did to it meanwhile; the next time all is drawn.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        give_back();
        take_over()?;
        self.terminal = fresh()?;
        Ok(())
    }

    /// Gives the terminal back and stops, as others do at Ctrl-Z; and goes on when somebody says so. Where nobody could, the
    /// system does not stop it.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        give_back();
        let stop = SigSet::from(Signal::SIGTSTP);
        raise(Signal::SIGTSTP)?;
        stop.thread_unblock()?;
        stop.thread_block()?;
        self.reopen()
    }

    /// Has the terminal put a text on its clipboard.
    pub(super) fn copy(&self, text: &str) -> io::Result<()> {
        execute!(io::stdout(), Print(super::words::to_clipboard(text)))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// A screen of which nothing is drawn yet.
fn fresh() -> io::Result<Terminal<CrosstermBackend<BufWriter<Stdout>>>> {
    Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(BUFFER, io::stdout())))
}

fn take_over() -> io::Result<()> {
    IS_TAKEN.store(true, Ordering::SeqCst);
    terminal::enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All), Hide)
}

/// Once for each time that it was taken over. What fails cannot be told to anybody.
fn give_back() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = terminal::disable_raw_mode();
    }
}

/// Waits for a key, or for another size of the screen.
pub(super) fn next() -> io::Result<Event> {
    loop {
        let event = match event::read()? {
            Input::Key(key) if key.kind != KeyEventKind::Release => of_key(key).map(Event::Key),
            Input::Resize(width, height) => Some(Event::Resized(width, height)),
            _ => None,
        };
        if let Some(event) = event {
            return Ok(event);
        }
    }
}

fn of_key(key: KeyEvent) -> Option<Key> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Key::Interrupt),
            KeyCode::Char('z') => Some(Key::Suspend),
            KeyCode::Char('l') => Some(Key::Redraw),
            KeyCode::Char('u') => Some(Key::Erase),
            KeyCode::Char('h') => Some(Key::Backspace),
            _ => None,
        };
    }
    Some(match key.code {
        KeyCode::Char(_) if key.modifiers.contains(KeyModifiers::ALT) => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}
