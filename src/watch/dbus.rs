//! systemd's signals on the system bus: jobs and states of units.
//!
//! One task owns the connection. All that it sends and receives passes through one stream of messages, so
//! an answer about a unit and the signals around it stay in systemd's order.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    env, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, error::Elapsed, sleep, sleep_until, timeout},
};
use zbus::{
    Address, Connection, Message, MessageStream, ObjectPath, OwnedObjectPath, Variant,
    address::transport::{Transport, UnixSocket},
    connection,
    message::{Flags, Header, Type},
};

use super::{Heard, readable::Readable};
use crate::model::{UnitName, UnitState};

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

const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";

/// What the bus is to pass on. `UnitNew` and `UnitRemoved` are left out: they are about units being loaded,
/// come for every unit at every daemon-reload, and even because somebody asked for a unit's state.
const MATCHES: [&str; 5] = [
    "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',\
     member='NameOwnerChanged',arg0='org.freedesktop.systemd1'",
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='JobNew'",
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='JobRemoved'",
    "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
     interface='org.freedesktop.systemd1.Manager',member='Reloading'",
    "type='signal',sender='org.freedesktop.systemd1',path_namespace='/org/freedesktop/systemd1/unit',\
     interface='org.freedesktop.DBus.Properties',member='PropertiesChanged',\
     arg0='org.freedesktop.systemd1.Unit'",
];

/// Errors that only mean that systemd is not on the bus at the moment. The bus says when it is.
const AWAY: [&str; 5] = [
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.Disconnected",
    "org.freedesktop.systemd1.ShuttingDown",
];

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
        let session = Session {
            stream: MessageStream::from(&connection),
            connection,
            listener: self,
            pending: BTreeMap::new(),
            deadline: None,
            owner: String::new(),
            subscribed: false,
            known: BTreeSet::new(),
            names: BTreeMap::new(),
        };
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
        let inotify = Inotify::init()?;
        let readable = Readable::of(&inotify)?;
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

/// What a call asked for.
enum Asked {
    Match,
    Owner,
    Subscribe,
    States(Vec<UnitName>),
}

/// A connection.
struct Session<'a> {
    listener: &'a mut Listener,
    connection: Connection,
    stream: MessageStream,
    pending: BTreeMap<NonZeroU32, Asked>,
    /// When the connection is given up, if something is waited for: an answer, or systemd.
    deadline: Option<Instant>,
    /// systemd's unique name, or nothing. Anybody can send us signals that look like systemd's.
    owner: String,
    subscribed: bool,
    /// The units of interest whose state was asked for.
    known: BTreeSet<UnitName>,
    /// The names that we know a unit by, under the one that systemd has for it and under its object's path.
    names: BTreeMap<String, Vec<UnitName>>,
}

impl Session<'_> {
    async fn run(mut self) -> zbus::Result<Infallible> {
        for rule in MATCHES {
            self.call((BUS, BUS_PATH, BUS, "AddMatch"), &rule, Asked::Match).await?;
        }
        self.call((BUS, BUS_PATH, BUS, "GetNameOwner"), &SYSTEMD, Asked::Owner).await?;
        loop {
            let is_waiting = !self.pending.is_empty() || !self.subscribed;
            let deadline =
                self.deadline.filter(|_| is_waiting).unwrap_or_else(|| Instant::now() + ANSWER_TIMEOUT);
            self.deadline = is_waiting.then_some(deadline);
            let Listener { interest, looks, .. } = &mut *self.listener;
            tokio::select! {
                message = self.stream.next() => match message {
                    Some(message) => self.receive(message?).await?,
                    None => return Err(zbus::Error::Failure("the bus closed the connection".to_owned())),
                },
                Some(unit) = looks.recv() => self.ask(vec![unit]).await?,
                Ok(()) = interest.changed() => self.ask_for_new().await?,
                () = sleep_until(deadline), if is_waiting => {
                    return Err(zbus::Error::Failure("systemd does not answer on it".to_owned()));
                }
            }
        }
    }

    /// Sends a call, whose answer will come through the stream.
    async fn call<B: serde::Serialize + zbus::DynamicType>(
        &mut self,
        (destination, path, interface, member): (&str, &str, &str, &str),
        body: &B,
        asked: Asked,
    ) -> zbus::Result<()> {
        let message = Message::method_call(path, member)
            .destination(destination)
            .interface(interface)
            .with_flags(Flags::NO_AUTO_START)
            .build(body)?;
        self.pending.insert(message.primary_header().serial_num(), asked);
        timeout(ANSWER_TIMEOUT, self.connection.send(&message)).await.map_err(silent)?
    }

    async fn receive(&mut self, message: Message) -> zbus::Result<()> {
        let header = message.header();
        if header.message_type() == Type::Signal {
            return self.receive_signal(&header, &message).await;
        }
        let asked = header.reply_serial().and_then(|serial| self.pending.remove(&serial));
        let Some(asked) = asked else { return Ok(()) };
        self.deadline = None;
        match (asked, header.error_name().map(|name| name.as_str())) {
            (Asked::Match, None) => Ok(()),
            (Asked::Owner, None) => self.greet(message.body().deserialize()?).await,
            (Asked::Subscribe, None | Some("org.freedesktop.systemd1.AlreadySubscribed")) => {
                self.resume().await
            }
            (Asked::States(units), None) => self.receive_states(units, &message).await,
            (_, Some(name)) if AWAY.contains(&name) => Ok(()),
            (Asked::States(units), Some(_)) => {
                let is_alone = units.len() == 1;
                for unit in units {
                    if is_alone {
                        self.listener.send(Heard::State(unit, UnitState::Inactive)).await;
                    } else {
                        // One bad name spoils the call for all.
                        self.ask(vec![unit]).await?;
                    }
                }
                Ok(())
            }
            (Asked::Match | Asked::Owner | Asked::Subscribe, Some(_)) => Err(message.into()),
        }
    }

    async fn receive_signal(&mut self, header: &Header<'_>, message: &Message) -> zbus::Result<()> {
        let (Some(sender), Some(member)) = (header.sender(), header.member()) else { return Ok(()) };
        let body = message.body();
        if sender.as_str() == BUS && member.as_str() == "NameOwnerChanged" {
            let (name, _, new) = body.deserialize::<(&str, &str, &str)>()?;
            if name == SYSTEMD {
                self.greet(new).await?;
            }
        }
        if sender.as_str() != self.owner {
            return Ok(());
        }
        match member.as_str() {
            "JobNew" => {
                let (_, _, unit) = body.deserialize::<(u32, ObjectPath<'_>, &str)>()?;
                self.send_for(unit, Heard::Changed).await;
            }
            "JobRemoved" => {
                let (_, _, unit, result) = body.deserialize::<(u32, ObjectPath<'_>, &str, &str)>()?;
                self.send_for(unit, if result == "done" { Heard::JobDone } else { Heard::Changed }).await;
            }
            "Reloading" if !body.deserialize::<bool>()? => self.ask_for_all().await?,
            "PropertiesChanged" => {
                let path = header.path().map_or("", |path| path.as_str());
                if self.names_of(path).is_empty() {
                    return Ok(());
                }
                let (interface, changed, _) =
                    body.deserialize::<(&str, HashMap<&str, Variant<'_>>, Vec<&str>)>()?;
                if let Some(Variant::Str(state)) = changed.get("ActiveState")
                    && interface == UNIT
                {
                    let state = UnitState::of(is_active(state));
                    self.send_for(path, |unit| Heard::State(unit, state)).await;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// systemd is on the bus under this unique name; or has left it, if it is empty.
    async fn greet(&mut self, owner: &str) -> zbus::Result<()> {
        self.subscribed = false;
        self.owner = owner.to_owned();
        if owner.is_empty() {
            return Ok(());
        }
        self.call((SYSTEMD, MANAGER_PATH, MANAGER, "Subscribe"), &(), Asked::Subscribe).await
    }

    /// systemd sends signals from now on.
    async fn resume(&mut self) -> zbus::Result<()> {
        self.subscribed = true;
        self.listener.pause = FIRST_PAUSE;
        self.listener.send(Heard::Resumed).await;
        while self.listener.looks.try_recv().is_ok() {}
        self.ask_for_all().await
    }

    async fn ask_for_all(&mut self) -> zbus::Result<()> {
        self.known.clear();
        self.names.clear();
        self.ask_for_new().await
    }

    async fn ask_for_new(&mut self) -> zbus::Result<()> {
        let units = self.listener.interest.borrow_and_update().clone();
        let new = units.difference(&self.known).cloned().collect();
        self.known = units;
        self.ask(new).await
    }

    async fn ask(&mut self, units: Vec<UnitName>) -> zbus::Result<()> {
        if !self.subscribed || units.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = units.iter().map(|unit| unit.0.to_string()).collect();
        let method = (SYSTEMD, MANAGER_PATH, MANAGER, "ListUnitsByNames");
        self.call(method, &names, Asked::States(units)).await
    }

    /// systemd answers in the order of the names.
    async fn receive_states(&mut self, units: Vec<UnitName>, message: &Message) -> zbus::Result<()> {
        let body = message.body();
        let listed: Vec<Listed> = body.deserialize()?;
        for (unit, (name, _, load_state, active_state, _, _, path, ..)) in units.into_iter().zip(listed) {
            for key in [name, path.to_string()] {
                let names = self.names.entry(key).or_default();
                if !names.contains(&unit) {
                    names.push(unit.clone());
                }
            }
            let state = match (load_state.as_str(), is_active(&active_state)) {
                ("not-found", false) => UnitState::Missing,
                (_, active) => UnitState::of(active),
            };
            self.listener.send(Heard::State(unit, state)).await;
        }
        Ok(())
    }

    /// The names of interest of a unit, which has this name or this object path.
    fn names_of(&self, unit: &str) -> Vec<UnitName> {
        let unit = UnitName(unit.into());
        let mut names = self.names.get(&*unit.0).cloned().unwrap_or_default();
        if !names.contains(&unit) {
            names.push(unit);
        }
        names.retain(|name| self.known.contains(name));
        names
    }

    async fn send_for(&self, unit: &str, heard: impl Fn(UnitName) -> Heard) {
        for name in self.names_of(unit) {
            self.listener.send(heard(name)).await;
        }
    }
}

/// A unit in the answer of `ListUnitsByNames`: name, description, load state, active state, sub state,
/// followed unit, object path, job id, job type, job path.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

fn is_active(state: &str) -> bool {
    !matches!(state, "inactive" | "failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inactive_and_failed_units_are_not_active() {
        let active = ["active", "reloading", "activating", "deactivating", "maintenance", "refreshing"];
        assert!(active.into_iter().all(is_active));
        assert!(!is_active("inactive"));
        assert!(!is_active("failed"));
    }

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
