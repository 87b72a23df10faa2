//! systemd's signals on the system bus: jobs and states of units.
//!
//! One task owns the connection. All that it sends and receives passes through one stream of messages, so
//! an answer about a unit and the signals around it stay in systemd's order.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::{StreamExt, future};
use inotify::{Inotify, WatchMask};
use tokio::sync::{mpsc, watch};
use zbus::{
    Address, Connection, Message, MessageStream, ObjectPath, OwnedObjectPath, Variant,
    address::transport::{Transport, UnixSocket},
    connection,
    message::{Flags, Header, Type},
};

use super::readable::Readable;
use crate::model::{UnitName, UnitState};

/// Something heard from systemd, or about the connection to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DbusEvent {
    /// The bus is there, and systemd on it.
    Connected,
    /// Signals come from now on, and may have been missed before. The states of all units of interest
    /// follow.
    Resumed,
    /// A job of the unit began or ended.
    Changed(UnitName),
    /// A job of the unit ended with the result `done`.
    JobDone(UnitName),
    /// A unit's state. Of a unit that is not loaded: not active.
    State {
        /// The unit.
        unit: UnitName,
        /// What it is.
        state: UnitState,
    },
    /// There is no connection. It is made again by itself.
    Lost(String),
}

/// Starts the task, on the current tokio runtime. It ends when the receiver is dropped.
///
/// Only units in `interest` are heard of, under the names in there, which may be aliases. A unit that
/// arrives in `looks` is asked for, and its state sent; while there is no connection such a request is
/// dropped, since all states are sent once there is one. `looks` is to be filled by `try_send`: the task
/// may be waiting for its own receiver to be read.
pub fn spawn(
    interest: watch::Receiver<BTreeSet<UnitName>>,
    looks: mpsc::Receiver<UnitName>,
) -> mpsc::Receiver<DbusEvent> {
    let (heard, receiver) = mpsc::channel(CHANNEL_SIZE);
    let listener = Listener { interest, looks: Looks(looks), heard };
    tokio::spawn(async move {
        let _ = listener.run().await;
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

const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/";

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

/// Nobody listens any more.
struct Unheard;

/// Why a connection ended.
enum End {
    Unheard,
    Lost(String),
}

impl From<zbus::Error> for End {
    fn from(error: zbus::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<Unheard> for End {
    fn from(_: Unheard) -> Self {
        Self::Unheard
    }
}

/// Requests to look at a unit; none for ever once there is nobody to make any.
struct Looks(mpsc::Receiver<UnitName>);

impl Looks {
    async fn next(&mut self) -> UnitName {
        match self.0.recv().await {
            Some(unit) => unit,
            None => future::pending().await,
        }
    }
}

/// The task, with or without a connection.
struct Listener {
    interest: watch::Receiver<BTreeSet<UnitName>>,
    looks: Looks,
    heard: mpsc::Sender<DbusEvent>,
}

impl Listener {
    async fn run(mut self) -> Result<(), Unheard> {
        let text = address();
        let address: Address = match text.parse() {
            Ok(address) => address,
            Err(error) => return self.send(DbusEvent::Lost(format!("{text}: {error}"))).await,
        };
        let socket = socket_path(&address);
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(socket) = &socket
                && let Err(error) = self.idle(appeared(socket)).await?
            {
                self.send(DbusEvent::Lost(format!("cannot wait for {}: {error}", socket.display()))).await?;
            }
            let (end, subscribed) = self.listen(&address).await;
            if let End::Lost(why) = end {
                self.send(DbusEvent::Lost(why)).await?;
            } else {
                return Err(Unheard);
            }
            if subscribed {
                pause = FIRST_PAUSE;
            }
            self.idle(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits for something other than a connection.
    async fn idle<R>(&mut self, wait: impl Future<Output = R>) -> Result<R, Unheard> {
        tokio::pin!(wait);
        loop {
            tokio::select! {
                result = &mut wait => return Ok(result),
                _ = self.looks.next() => {}
                () = self.heard.closed() => return Err(Unheard),
            }
        }
    }

    async fn send(&self, heard: DbusEvent) -> Result<(), Unheard> {
        self.heard.send(heard).await.map_err(|_| Unheard)
    }

    /// Connects and listens until the connection ends. Also says whether systemd was there.
    async fn listen(&mut self, address: &Address) -> (End, bool) {
        let connect = connection::Builder::address(address.clone()).build();
        let connection = match self.idle(tokio::time::timeout(CONNECT_TIMEOUT, connect)).await {
            Ok(Ok(Ok(connection))) => connection,
            Ok(Ok(Err(error))) => return (error.into(), false),
            Ok(Err(_)) => return (End::Lost("the bus does not answer".to_owned()), false),
            Err(unheard) => return (unheard.into(), false),
        };
        let mut session = Session {
            stream: MessageStream::from(&connection),
            connection,
            listener: self,
            pending: BTreeMap::new(),
            owner: None,
            subscribed: false,
            was_subscribed: false,
            known: BTreeSet::new(),
            aliases: BTreeMap::new(),
        };
        let Err(end) = session.run().await;
        (end, session.was_subscribed)
    }
}

/// The path of the bus's socket, if it is at a path.
fn socket_path(address: &Address) -> Option<PathBuf> {
    match address.transport() {
        Transport::Unix(unix) => match unix.path() {
            UnixSocket::File(path) => Some(path.into()),
            _ => None,
        },
        _ => None,
    }
}

/// Waits until there is a file at the path.
async fn appeared(path: &Path) -> io::Result<()> {
    loop {
        // Each round anew, since directories on the way may have come and gone.
        let inotify = Inotify::init()?;
        let readable = Readable::of(&inotify)?;
        let mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::DELETE_SELF | WatchMask::ONLYDIR;
        for directory in path.ancestors().skip(1) {
            // Those that don't exist are seen to appear in those that do.
            let _ = inotify.watches().add(directory, mask);
        }
        let found = path.exists();
        if !found {
            readable.ready().await?;
        }
        // Closing it waits for all who look at watches in the kernel, for 20 ms at worst.
        tokio::task::spawn_blocking(move || drop((readable, inotify)));
        if found {
            return Ok(());
        }
    }
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
    /// systemd's unique name. Anybody can send us signals that look like systemd's.
    owner: Option<String>,
    subscribed: bool,
    was_subscribed: bool,
    /// The units of interest whose state was asked for.
    known: BTreeSet<UnitName>,
    /// The names that we know a unit by, under the one that systemd has for it.
    aliases: BTreeMap<String, BTreeSet<UnitName>>,
}

impl Session<'_> {
    async fn run(&mut self) -> Result<std::convert::Infallible, End> {
        for rule in MATCHES {
            self.call((BUS, BUS_PATH, BUS, "AddMatch"), &rule, Asked::Match).await?;
        }
        self.call((BUS, BUS_PATH, BUS, "GetNameOwner"), &SYSTEMD, Asked::Owner).await?;
        loop {
            let Listener { interest, looks, heard } = &mut *self.listener;
            tokio::select! {
                message = self.stream.next() => match message {
                    Some(message) => self.receive(&message?).await?,
                    None => return Err(End::Lost("the bus closed the connection".to_owned())),
                },
                unit = looks.next() => self.ask(vec![unit]).await?,
                Ok(()) = interest.changed() => self.ask_for_new().await?,
                () = heard.closed() => return Err(End::Unheard),
            }
        }
    }

    async fn send(&self, heard: DbusEvent) -> Result<(), End> {
        Ok(self.listener.send(heard).await?)
    }

    /// Sends a call, whose answer will come through the stream.
    async fn call<B: serde::Serialize + zbus::DynamicType>(
        &mut self,
        (destination, path, interface, member): (&str, &str, &str, &str),
        body: &B,
        asked: Asked,
    ) -> Result<(), End> {
        let message = Message::method_call(path, member)
            .destination(destination)
            .interface(interface)
            .with_flags(Flags::NO_AUTO_START)
            .build(body)?;
        self.pending.insert(message.primary_header().serial_num(), asked);
        Ok(self.connection.send(&message).await?)
    }

    async fn receive(&mut self, message: &Message) -> Result<(), End> {
        let header = message.header();
        match header.message_type() {
            Type::Signal => self.receive_signal(&header, message).await,
            Type::MethodReturn | Type::Error => {
                let asked = header.reply_serial().and_then(|serial| self.pending.remove(&serial));
                let error = header.error_name().map(|name| name.as_str());
                match (asked, error) {
                    (None, _) => Ok(()),
                    (Some(asked), None) => self.receive_answer(asked, message).await,
                    (Some(asked), Some(name)) => self.receive_error(asked, name, message).await,
                }
            }
            Type::MethodCall => Ok(()),
        }
    }

    async fn receive_answer(&mut self, asked: Asked, message: &Message) -> Result<(), End> {
        match asked {
            Asked::Match => Ok(()),
            Asked::Owner => self.greet(message.body().deserialize::<&str>()?).await,
            Asked::Subscribe => self.resume().await,
            Asked::States(units) => self.receive_states(units, message).await,
        }
    }

    async fn receive_error(&mut self, asked: Asked, name: &str, message: &Message) -> Result<(), End> {
        match asked {
            _ if AWAY.contains(&name) => Ok(()),
            Asked::Subscribe if name == "org.freedesktop.systemd1.AlreadySubscribed" => self.resume().await,
            // One bad name spoils the call for all.
            Asked::States(units) if units.len() > 1 => {
                for unit in units {
                    self.ask(vec![unit]).await?;
                }
                Ok(())
            }
            Asked::States(units) => {
                for unit in units {
                    self.send(DbusEvent::State { unit, state: UnitState::Inactive }).await?;
                }
                Ok(())
            }
            Asked::Match | Asked::Owner | Asked::Subscribe => {
                let body = message.body();
                let text = body.deserialize::<&str>().unwrap_or("no details");
                Err(End::Lost(format!("{name}: {text}")))
            }
        }
    }

    async fn receive_signal(&mut self, header: &Header<'_>, message: &Message) -> Result<(), End> {
        let Some(sender) = header.sender() else { return Ok(()) };
        let member = header.member().map(|member| member.as_str());
        let body = message.body();
        if sender.as_str() == BUS {
            if member == Some("NameOwnerChanged") {
                let (name, _, new) = body.deserialize::<(&str, &str, &str)>()?;
                if name == SYSTEMD {
                    self.greet(new).await?;
                }
            }
            return Ok(());
        }
        if self.owner.as_deref() != Some(sender.as_str()) {
            return Ok(());
        }
        match member {
            Some("JobNew") => {
                let (_, _, unit) = body.deserialize::<(u32, ObjectPath<'_>, &str)>()?;
                self.send_for(unit, DbusEvent::Changed).await
            }
            Some("JobRemoved") => {
                let (_, _, unit, result) = body.deserialize::<(u32, ObjectPath<'_>, &str, &str)>()?;
                let heard = if result == "done" { DbusEvent::JobDone } else { DbusEvent::Changed };
                self.send_for(unit, heard).await
            }
            Some("Reloading") => match body.deserialize::<bool>()? {
                true => Ok(()),
                false => self.ask_for_all().await,
            },
            Some("PropertiesChanged") => {
                let path = header.path().map_or("", |path| path.as_str());
                let Some(unit) = path.strip_prefix(UNIT_PATH).and_then(unescape) else { return Ok(()) };
                if self.names(&unit).is_empty() {
                    return Ok(());
                }
                let (interface, changed, _) =
                    body.deserialize::<(&str, HashMap<&str, Variant<'_>>, Vec<&str>)>()?;
                match changed.get("ActiveState") {
                    Some(Variant::Str(state)) if interface == UNIT => {
                        let state = UnitState::of(is_active(state));
                        self.send_for(&unit, |unit| DbusEvent::State { unit, state }).await
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// systemd is on the bus under this unique name; or has left it, if it is empty.
    async fn greet(&mut self, owner: &str) -> Result<(), End> {
        self.subscribed = false;
        self.owner = (!owner.is_empty()).then(|| owner.to_owned());
        if self.owner.is_some() {
            self.call((SYSTEMD, MANAGER_PATH, MANAGER, "Subscribe"), &(), Asked::Subscribe).await?;
        }
        Ok(())
    }

    /// systemd sends signals from now on.
    async fn resume(&mut self) -> Result<(), End> {
        if !self.was_subscribed {
            self.send(DbusEvent::Connected).await?;
        }
        self.subscribed = true;
        self.was_subscribed = true;
        self.send(DbusEvent::Resumed).await?;
        self.ask_for_all().await
    }

    async fn ask_for_all(&mut self) -> Result<(), End> {
        self.known.clear();
        self.aliases.clear();
        self.ask_for_new().await
    }

    async fn ask_for_new(&mut self) -> Result<(), End> {
        let units = self.listener.interest.borrow_and_update().clone();
        let new = units.difference(&self.known).cloned().collect();
        self.known = units;
        self.ask(new).await
    }

    async fn ask(&mut self, units: Vec<UnitName>) -> Result<(), End> {
        if !self.subscribed || units.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = units.iter().map(|unit| unit.0.to_string()).collect();
        let method = (SYSTEMD, MANAGER_PATH, MANAGER, "ListUnitsByNames");
        self.call(method, &names, Asked::States(units)).await
    }

    /// systemd answers in the order of the names.
    async fn receive_states(&mut self, units: Vec<UnitName>, message: &Message) -> Result<(), End> {
        let body = message.body();
        let listed: Vec<Listed> = body.deserialize()?;
        for (unit, (name, _, load_state, active_state, ..)) in units.into_iter().zip(listed) {
            if self.known.contains(&unit) {
                self.aliases.entry(name).or_default().insert(unit.clone());
            }
            let state = match (load_state.as_str(), is_active(&active_state)) {
                ("not-found", false) => UnitState::Missing,
                (_, active) => UnitState::of(active),
            };
            self.send(DbusEvent::State { unit, state }).await?;
        }
        Ok(())
    }

    /// The names of interest of a unit.
    fn names(&self, unit: &str) -> Vec<UnitName> {
        let unit = UnitName(unit.into());
        let mut names: Vec<UnitName> = Vec::new();
        if let Some(aliases) = self.aliases.get(&*unit.0) {
            names.extend(aliases.iter().filter(|name| self.known.contains(name)).cloned());
        }
        if self.known.contains(&unit) && !names.contains(&unit) {
            names.push(unit);
        }
        names
    }

    async fn send_for(&self, unit: &str, heard: impl Fn(UnitName) -> DbusEvent) -> Result<(), End> {
        for name in self.names(unit) {
            self.send(heard(name)).await?;
        }
        Ok(())
    }
}

/// A unit in the answer of `ListUnitsByNames`: name, description, load state, active state, sub state,
/// followed unit, object path, job id, job type, job path.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

fn is_active(state: &str) -> bool {
    !matches!(state, "inactive" | "failed")
}

/// A unit's name from the last part of its object path, where systemd writes `_2e` for a dot
/// (`bus_label_unescape`).
fn unescape(label: &str) -> Option<String> {
    if label == "_" {
        return Some(String::new());
    }
    let mut name = Vec::with_capacity(label.len());
    let mut bytes = label.bytes();
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'_' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            _ => byte,
        });
    }
    String::from_utf8(name).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    u8::try_from(char::from(byte).to_digit(16)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_paths_give_unit_names() {
        assert_eq!(unescape("postfix_2eservice").unwrap(), "postfix.service");
        assert_eq!(unescape("user_401000_2eservice").unwrap(), "user@1000.service");
        assert_eq!(unescape("a_5cx2db_5fc_2eslice").unwrap(), "a\\x2db_c.slice");
        assert_eq!(unescape("_").unwrap(), "");
        assert_eq!(unescape("a_2"), None);
        assert_eq!(unescape("a_zz"), None);
        assert_eq!(unescape("a_+f"), None);
    }

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
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::fs::create_dir_all(top.join("dbus")).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        std::fs::write(&path, "").unwrap();
        let result = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        std::fs::remove_dir_all(&top).unwrap();
        result.unwrap().unwrap().unwrap();
    }
}
