//! systemd's signals on the system bus: jobs and states of units.
//!
//! One task owns the connection. All that it sends and receives passes through one stream of messages, so
//! an answer about a unit and the signals around it stay in systemd's order.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    env, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use inotify::WatchMask;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, error::Elapsed, sleep, sleep_until, timeout},
};
use zbus::{
    Address, Connection, MessageStream,
    address::transport::{Transport, UnixSocket},
    connection,
};

use super::{
    Heard,
    conversation::{Conversation, Said},
    inotify,
};
use crate::model::UnitName;

/// Starts the task, on the current tokio runtime. It ends when the receiver is dropped.
///
/// Only units in `interest` are heard of, under the names in there, which may be aliases. A unit that
/// arrives in `looks` is asked for, and its state sent; while there is no connection such a request is
/// dropped, since all states are sent once there is one. `looks` is to be filled by `try_send`: the task
/// may be waiting for its own receiver to be read.
pub fn spawn(
    interest: watch::Receiver<BTreeSet<UnitName>>,
    looks: mpsc::Receiver<UnitName>,
) -> mpsc::Receiver<Heard> {
    let (heard, receiver) = mpsc::channel(CHANNEL_SIZE);
    let listener = Listener { interest, looks, heard: heard.clone(), pause: FIRST_PAUSE };
    tokio::spawn(async move {
        tokio::select! {
            () = heard.closed() => {}
            () = listener.run() => {}
        }
    });
    receiver
}

/// Whether there is a system bus to connect to.
pub fn is_there() -> bool {
    address().parse().is_ok_and(|address| socket_path(&address).is_none_or(|socket| socket.exists()))
}

fn address() -> String {
    env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|_| SOCKET.to_owned())
}

const CHANNEL_SIZE: usize = 256;

const SOCKET: &str = "unix:path=/run/dbus/system_bus_socket";
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// For a bus that accepts a connection and then says nothing. At boot it may take long to start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(90);
/// For a bus that falls silent, and for a systemd that does, or that is not on the bus.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often, and how long in all, a connection that is refused is tried again: between bind(2) and listen(2) all are.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
const REFUSED_TRIES: usize = 20;

/// The task, with or without a connection.
struct Listener {
    interest: watch::Receiver<BTreeSet<UnitName>>,
    looks: mpsc::Receiver<UnitName>,
    heard: mpsc::Sender<Heard>,
    /// How long to wait after the end of a connection.
    pause: Duration,
}

impl Listener {
    async fn run(mut self) {
        let text = address();
        let address: Address = match text.parse() {
            Ok(address) => address,
            Err(error) => return self.send(Heard::Lost(format!("{text}: {error}"))).await,
        };
        loop {
            if let Some(socket) = socket_path(&address)
                && let Err(error) = appeared(&socket).await
            {
                self.send(Heard::Lost(format!("cannot wait for {}: {error}", socket.display()))).await;
            }
            let Err(error) = self.listen(&address).await;
            self.send(Heard::Lost(error.to_string())).await;
            sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Once nobody listens any more, the task ends by itself.
    async fn send(&self, heard: Heard) {
        let _ = self.heard.send(heard).await;
    }

    /// Connects and listens until the connection ends.
    async fn listen(&mut self, address: &Address) -> zbus::Result<Infallible> {
        let connection = timeout(CONNECT_TIMEOUT, connect(address)).await.map_err(silent)??;
        let conversation = Conversation::begin(self.interest.borrow_and_update().clone())?;
        let stream = MessageStream::from(&connection);
        let session = Session { listener: self, connection, stream, conversation, deadline: None };
        session.run().await
    }
}

fn silent(_: Elapsed) -> zbus::Error {
    zbus::Error::Failure("it does not answer".to_owned())
}

async fn connect(address: &Address) -> zbus::Result<Connection> {
    let mut tries = 1;
    loop {
        match connection::Builder::address(address.clone()).build().await {
            Err(zbus::Error::Connection(error, _))
                if error.kind() == io::ErrorKind::ConnectionRefused && tries < REFUSED_TRIES =>
            {
                tries += 1;
                sleep(REFUSED_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// The path of the bus's socket, if it is at a path.
fn socket_path(address: &Address) -> Option<PathBuf> {
    let Transport::Unix(unix) = address.transport() else { return None };
    let UnixSocket::File(path) = unix.path() else { return None };
    Some(path.into())
}

/// Waits until there is a file at the path.
async fn appeared(path: &Path) -> io::Result<()> {
    while !path.exists() {
        // Each round anew, since directories on the way may have come and gone.
        let (inotify, readable) = inotify()?;
        let mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::DELETE_SELF | WatchMask::ONLYDIR;
        for directory in path.ancestors().skip(1) {
            // Those that don't exist are seen to appear in those that do.
            let _ = inotify.watches().add(directory, mask);
        }
        if !path.exists() {
            // No longer than this, since the kernel may have refused a watch.
            let _ = timeout(LONGEST_PAUSE, readable.ready()).await;
        }
        // Closing it waits for all who look at watches in the kernel, for 20 ms at worst.
        tokio::task::spawn_blocking(move || drop((readable, inotify)));
    }
    Ok(())
}

/// A connection.
struct Session<'a> {
    listener: &'a mut Listener,
    connection: Connection,
    stream: MessageStream,
    conversation: Conversation,
    /// When the connection is given up, if something is waited for: an answer, or systemd.
    deadline: Option<Instant>,
}

impl Session<'_> {
    async fn run(mut self) -> zbus::Result<Infallible> {
        loop {
            for said in self.conversation.take() {
                match said {
                    Said::Call(call) => {
                        timeout(ANSWER_TIMEOUT, self.connection.send(&call)).await.map_err(silent)??;
                    }
                    Said::Heard(heard) => self.pass_on(heard).await,
                }
            }
            let is_waiting = self.conversation.is_waiting();
            let deadline =
                self.deadline.filter(|_| is_waiting).unwrap_or_else(|| Instant::now() + ANSWER_TIMEOUT);
            self.deadline = is_waiting.then_some(deadline);
            let Listener { interest, looks, .. } = &mut *self.listener;
            tokio::select! {
                message = self.stream.next() => match message {
                    Some(message) => {
                        let is_answer = self.conversation.receive(&message?)?;
                        self.deadline = self.deadline.filter(|_| !is_answer);
                    }
                    None => return Err(zbus::Error::Failure("the bus closed the connection".to_owned())),
                },
                Some(unit) = looks.recv() => self.conversation.look_at(unit)?,
                Ok(()) = interest.changed() => {
                    let units = interest.borrow_and_update().clone();
                    self.conversation.turn_to(units)?;
                }
                () = sleep_until(deadline), if is_waiting => {
                    return Err(zbus::Error::Failure("systemd does not answer on it".to_owned()));
                }
            }
        }
    }

    async fn pass_on(&mut self, heard: Heard) {
        let is_resumed = heard == Heard::Resumed;
        self.listener.send(heard).await;
        if is_resumed {
            self.listener.pause = FIRST_PAUSE;
            // All states are asked for.
            while self.listener.looks.try_recv().is_ok() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_is_found_in_the_address() {
        let path = |text: &str| socket_path(&text.parse().unwrap());
        assert_eq!(path(SOCKET).unwrap(), Path::new("/run/dbus/system_bus_socket"));
        assert_eq!(path("unix:abstract=/x"), None);
    }

    #[tokio::test]
    async fn a_socket_is_waited_for_through_missing_directories() {
        let top = env::temp_dir().join(format!("scnpm-socket-{}", std::process::id()));
        let path = top.join("dbus/socket");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { appeared(&path).await }
        });
        sleep(Duration::from_millis(20)).await;
        std::fs::create_dir_all(top.join("dbus")).unwrap();
        sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        std::fs::write(&path, "").unwrap();
        let result = timeout(Duration::from_secs(5), waiting).await;
        std::fs::remove_dir_all(&top).unwrap();
        result.unwrap().unwrap().unwrap();
    }
}
