//! Writes the state log. What cannot be written is said once, and the daemon goes on without.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::Duration,
};

use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

use crate::{
    engine::{Action, Engine, Event},
    record::{Entry, Step},
};

/// How much is written behind a snapshot before the file is renamed to FILE.1 and a new one begun, in bytes.
const MOST: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct StateLog {
    path: PathBuf,
    /// None once it could not be written.
    file: Option<File>,
    written: usize,
    /// Lines that are written when the work of a turn is done.
    pending: String,
    /// Whether the engine was told something since it was last asked.
    is_told: bool,
}

impl StateLog {
    /// Begins a file; one that is there becomes FILE.1.
    ///
    /// # Errors
    /// As open(2), rename(2).
    pub(super) fn begin(path: PathBuf, now: Duration, engine: &Engine) -> io::Result<Self> {
        let mut log = Self { path, file: None, written: 0, pending: String::new(), is_told: false };
        log.rotate(now, engine)?;
        Ok(log)
    }

    pub(super) fn event(&mut self, at: Duration, event: &Event) {
        self.push(at, Step::Event(event.clone()));
        self.is_told = true;
    }

    /// What the engine decided. That it decided on nothing counts, too, if it had something to decide: it was told
    /// something, or `is_due` was.
    pub(super) fn actions(&mut self, at: Duration, actions: &[Action], is_due: bool) {
        if std::mem::take(&mut self.is_told) || is_due || !actions.is_empty() {
            self.push(at, Step::Actions(actions.to_vec()));
        }
    }

    fn push(&mut self, at: Duration, step: Step) {
        if self.file.is_none() {
            return;
        }
        let mut time = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        if let Ok(line) = (Entry { at, step }).line(&time) {
            self.pending.push_str(&line);
            self.pending.push('\n');
        }
    }

    /// Writes what is pending, and begins a new file if this one is large enough.
    pub(super) fn write(&mut self, now: Duration, engine: &Engine) {
        let Some(file) = &mut self.file else { return };
        let lines = std::mem::take(&mut self.pending);
        let done = file.write_all(lines.as_bytes());
        self.written += lines.len();
        let done = done.and_then(|()| if self.written > MOST { self.rotate(now, engine) } else { Ok(()) });
        if let Err(error) = done {
            tracing::warn!("{} is written no longer: {error}", self.path.display());
            self.file = None;
        }
    }

    fn rotate(&mut self, now: Duration, engine: &Engine) -> io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        match fs::rename(&self.path, old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Names of users' units are nobody else's business.
        self.file = Some(OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path)?);
        self.push(now, Step::Snapshot(Box::new(engine.snapshot())));
        let lines = std::mem::take(&mut self.pending);
        self.written = 0;
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(lines.as_bytes()))
    }
}
