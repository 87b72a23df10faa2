//! Asking the daemon, and waiting for the answer.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    INTERFACE,
    message::{Call, Method, Reply, Wait, Waited},
};

use crate::model::printable;

/// How often is looked whether it is back, and whether it has room again.
const PAUSE: Duration = Duration::from_millis(10);
const CROWDED_PAUSE: Duration = Duration::from_millis(200);

/// The most bytes that a reply may have.
const REPLY_LIMIT: u64 = 256 << 20;

/// Why the daemon did not do what it was asked.
#[derive(Debug)]
pub enum Error {
    /// Nobody listens: the daemon does not run.
    NotRunning,
    /// The socket may not be opened.
    NotPermitted,
    /// It did not answer in time.
    Late,
    /// It ended while it was asked.
    Ended,
    /// It is an older one that does not know this method.
    Older,
    /// It says no: the error's name without the interface, and its words; without control characters.
    Refused(String, String),
    /// Something else, in words; without control characters.
    Failed(String),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Self::NotRunning,
            ErrorKind::PermissionDenied => Self::NotPermitted,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Late,
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Ended,
            _ => Self::Failed(printable(&error.to_string())),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Failed(printable(&format!("the daemon's answer is not understood: {error}")))
    }
}

/// Waits until the rules of a cgroup or unit are in the kernel, also while the daemon is started anew: one that was killed
/// leaves its socket, and systemd starts it again. One that left none may be `away` for so long.
///
/// # Errors
/// [`Error::Late`] after `limit`; [`Error::NotRunning`] if no daemon comes back; whatever else keeps it from being asked.
pub fn wait_for(socket: &Path, what: &Wait, limit: Duration, away: Duration) -> Result<Waited, Error> {
    let begun = Instant::now();
    let mut alone: Option<Instant> = None;
    loop {
        let left = limit.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
        let answer = Client::connect(socket).and_then(|mut client| {
            alone = None;
            client.limit(Some(left))?;
            client.call(what)
        });
        let may_be_away = if socket.exists() { limit } else { away };
        match answer {
            Err(Error::NotRunning) if alone.get_or_insert_with(Instant::now).elapsed() >= may_be_away => {
                return Err(Error::NotRunning);
            }
            Err(Error::NotRunning | Error::Ended) if begun.elapsed() < limit => thread::sleep(PAUSE),
            Err(Error::Refused(name, _)) if name == "TooMuch" && begun.elapsed() < limit => {
                thread::sleep(CROWDED_PAUSE);
            }
            Err(Error::Ended) => return Err(Error::Late),
            other => return other,
        }
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client(BufReader<UnixStream>);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody is there, or it may not be asked.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        Ok(Self(BufReader::new(UnixStream::connect(socket)?)))
    }

    /// Waits for answers for no longer than this; for as long as it takes without.
    ///
    /// # Errors
    /// The time is none.
    pub fn limit(&mut self, limit: Option<Duration>) -> Result<(), Error> {
        Ok(self.0.get_ref().set_read_timeout(limit)?)
    }

    /// The same connection for somebody who may shut it down while a reply is waited for.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn stream(&self) -> Result<UnixStream, Error> {
        Ok(self.0.get_ref().try_clone()?)
    }

    /// Calls a method and waits for its reply.
    ///
    /// # Errors
    /// Whatever keeps it from being done.
    pub fn call<M: Method>(&mut self, method: &M) -> Result<M::Reply, Error> {
        self.send(&method.call(false)?)?;
        self.reply::<M>().map(|(reply, _)| reply)
    }

    /// Calls a method that replies more than once.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn watch<M: Method>(&mut self, method: &M) -> Result<(), Error> {
        self.send(&method.call(true)?)
    }

    /// The next reply, and whether there are more to come.
    ///
    /// # Errors
    /// Whatever keeps it from being done.
    pub fn reply<M: Method>(&mut self) -> Result<(M::Reply, bool), Error> {
        let mut message = Vec::new();
        self.0.by_ref().take(REPLY_LIMIT).read_until(0, &mut message)?;
        if message.pop() != Some(0) {
            return Err(match message.len() as u64 + 1 < REPLY_LIMIT {
                true => Error::Ended,
                false => Error::Failed("the daemon's answer has no end".to_owned()),
            });
        }
        let reply: Reply = serde_json::from_slice(&message)?;
        let parameters = reply.parameters.as_deref().map_or("{}", |raw| raw.get());
        let Some(error) = reply.error else {
            return Ok((serde_json::from_str(parameters)?, reply.continues));
        };
        Err(match error.strip_prefix(INTERFACE).and_then(|rest| rest.strip_prefix('.')) {
            Some(name) => Error::Refused(printable(name), words(parameters)),
            None if error == "org.varlink.service.MethodNotFound" => Error::Older,
            None => Error::Failed(printable(&error)),
        })
    }

    fn send(&mut self, call: &Call) -> Result<(), Error> {
        let mut message = serde_json::to_vec(call)?;
        message.push(0);
        match self.0.get_mut().write_all(&message) {
            // It may have said why it takes nothing.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }
}

/// What an error says.
fn words(parameters: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(parameters).unwrap_or_default();
    let words = value.get("words").or_else(|| value.get("unit"));
    printable(words.and_then(|words| words.as_str()).unwrap_or_default())
}
