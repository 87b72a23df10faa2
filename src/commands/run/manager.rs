//! The manager of the caller's units: systemd as PID 1 for root, else the user's own. It is spoken to on the bus.

use std::{
    env,
    num::NonZeroU32,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use nix::unistd::Uid;
use tokio::time::{sleep, timeout};
pub(super) use zbus::Variant as Value;
use zbus::{Connection, DynamicType, Message, MessageStream, connection::Builder};

use super::{
    Failure,
    answer::{Heard, hear, object},
};

use crate::machine;
use crate::model::printable;

/// Where a method is: the destination, the object and the interface.
type Place = (&'static str, &'static str, &'static str);
const BUS: Place = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");
const SYSTEMD: Place =
    ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// How long a manager may be silent that is to connect or to start something: as long as for other callers (sd-bus(3)).
const PATIENCE: Duration = Duration::from_secs(25);

/// How often, and after which pause, the only name is tried that a unit may have: one whose processes have just ended
/// keeps its name until its manager has heard of that.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// A property of a unit.
pub(super) type Property<'a> = (&'a str, Value<'a>);

/// A unit that does not exist yet.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// Its full name.
    pub name: String,
    /// Its slice's full name.
    pub slice: String,
    /// What it is, for people.
    pub description: String,
}

/// A unit whose job has ended.
#[derive(Debug)]
pub(super) struct Started {
    /// Its name.
    pub unit: String,
    /// What was heard of it meanwhile; the end of the job is last.
    pub job: Vec<Heard>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Manager {
    connection: Connection,
    messages: MessageStream,
    /// The manager's unique name on the bus, once it has answered. Others could send what looks like its signals.
    name: String,
}

impl Manager {
    /// Connects to the caller's.
    pub(super) async fn connect() -> Result<Self, Failure> {
        let uid = Uid::effective();
        let directory = env::var_os("XDG_RUNTIME_DIR");
        let sockets = sockets(uid, directory.as_deref().map(Path::new));
        let stream = sockets.iter().find_map(|socket| UnixStream::connect(socket).ok());
        let builder = match stream {
            Some(stream) => Builder::unix_stream(stream),
            None if uid.is_root() => Builder::system(),
            None if env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some() => Builder::session(),
            None => return Err(without(uid)),
        };
        let connected = timeout(PATIENCE, builder.build()).await.map_err(|_| silent())?;
        let connection =
            connected.map_err(|error| if is_away(&error) { without(uid) } else { failed(error) })?;
        Ok(Self { messages: MessageStream::from(&connection), connection, name: String::new() })
    }

    /// Starts the first of these units whose name nobody has, and waits until it is started.
    pub(super) async fn start(
        &mut self,
        units: &[Unit],
        more: Vec<Property<'_>>,
    ) -> Result<Started, Failure> {
        self.call(BUS, "AddMatch", &of_systemd(&format!("path='{}',member='JobRemoved'", SYSTEMD.1))).await?;
        let tries = if let [only] = units { vec![only; TRIES] } else { units.iter().collect() };
        for (index, unit) in tries.iter().enumerate() {
            let own = [
                ("Description", Value::from(unit.description.as_str())),
                ("Slice", Value::from(unit.slice.as_str())),
                ("CollectMode", Value::from("inactive-or-failed")),
            ];
            let properties: Vec<(&str, &Value<'_>)> =
                own.iter().chain(&more).map(|(name, value)| (*name, value)).collect();
            let auxiliary: Vec<(&str, Vec<(&str, Value<'_>)>)> = vec![];
            let body = (&unit.name, "fail", properties, auxiliary);
            let call = self.call(SYSTEMD, "StartTransientUnit", &body).await?;
            let job = timeout(PATIENCE, self.job(call, &unit.name)).await.map_err(|_| silent())??;
            match job.last() {
                Some(Heard::Refused(name, _)) if name == UNIT_EXISTS && units.len() > 1 => {}
                Some(Heard::Refused(name, _)) if name == UNIT_EXISTS && index + 1 < TRIES => {
                    sleep(PAUSE).await
                }
                Some(Heard::Refused(name, words)) => return Err(refused(name, words, &unit.name)),
                _ => return Ok(Started { unit: unit.name.clone(), job }),
            }
        }
        Err(Failure::new("all names for its unit are taken: choose one with --unit"))
    }

    /// Asks to hear of the states of units that are to be started.
    pub(super) async fn subscribe(&self, units: &[Unit]) -> Result<(), Failure> {
        for unit in units {
            let rule = of_systemd(&format!("path='{}',member='PropertiesChanged'", object(&unit.name)));
            self.call(BUS, "AddMatch", &rule).await?;
        }
        self.call(SYSTEMD, "Subscribe", &()).await.map(drop)
    }

    /// Sends a signal to all processes of a unit.
    pub(super) async fn kill(&self, unit: &str, signal: i32) -> Result<(), Failure> {
        self.call(SYSTEMD, "KillUnit", &(unit, "all", signal)).await.map(drop)
    }

    /// What is heard up to the job's end or the refusal of the call.
    async fn job(&mut self, call: NonZeroU32, unit: &str) -> Result<Vec<Heard>, Failure> {
        let mut all = Vec::new();
        loop {
            match self.next(Some(call), unit).await? {
                Some(Heard::Accepted(name)) => self.name = name,
                heard => all.extend(heard),
            }
            if matches!(all.last(), Some(Heard::Job(_) | Heard::Refused(..))) {
                return Ok(all);
            }
        }
    }

    /// What the next message says of a unit, or of a call.
    pub(super) async fn next(
        &mut self,
        call: Option<NonZeroU32>,
        unit: &str,
    ) -> Result<Option<Heard>, Failure> {
        let message = self.messages.next().await;
        let message = message.ok_or_else(|| Failure::new("the bus has closed the connection"))?;
        Ok(hear(&message.map_err(failed)?, call, unit, &self.name))
    }

    /// Calls a method; its serial number.
    async fn call(
        &self,
        (destination, path, interface): Place,
        member: &str,
        body: &(impl serde::Serialize + DynamicType),
    ) -> Result<NonZeroU32, Failure> {
        let call = Message::method_call(path, member).destination(destination).interface(interface);
        // A bus that has just been started keeps the call until systemd is on it.
        let call = call.build(body).map_err(failed)?;
        self.connection.send(&call).await.map_err(failed)?;
        Ok(call.primary_header().serial_num())
    }
}

fn of_systemd(rest: &str) -> String {
    format!("type='signal',sender='{}',{rest}", SYSTEMD.0)
}

/// Where the bus may listen that the manager is on. It is not always the session's, as desktops may have a bus of their own.
fn sockets(uid: Uid, runtime_directory: Option<&Path>) -> Vec<PathBuf> {
    if uid.is_root() {
        return vec!["/run/dbus/system_bus_socket".into()];
    }
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    let own = runtime_directory.filter(|own| own.is_absolute() && *own != usual);
    own.into_iter().chain([&*usual]).map(|directory| directory.join("bus")).collect()
}

/// Whether nobody listens there.
fn is_away(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::Connection(..) | zbus::Error::InputOutput(_))
}

/// What to do without a bus that the manager is on.
fn without(uid: Uid) -> Failure {
    let name = || machine::user_name(uid.as_raw()).unwrap_or_else(|| uid.to_string());
    let manager = PathBuf::from(format!("/run/user/{uid}/systemd/private"));
    Failure::new(if !Path::new("/run/systemd/system").exists() {
        "systemd does not run here, as in most containers: run the command by itself".to_owned()
    } else if uid.is_root() {
        "the system bus cannot be reached: systemctl start dbus".to_owned()
    } else if UnixStream::connect(manager).is_ok() {
        "your user manager is on no bus: install dbus-user-session, and log in again".to_owned()
    } else {
        format!(
            "you have no user manager: log in by login, ssh or a desktop, or have it always run by \
             `sudo loginctl enable-linger {}`",
            name()
        )
    })
}

fn refused(name: &str, words: &str, unit: &str) -> Failure {
    const NOT_THERE: [&str; 3] = [
        "org.freedesktop.DBus.Error.ServiceUnknown",
        "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.DBus.Error.Spawn.ChildExited",
    ];
    let uid = Uid::effective();
    let control = if uid.is_root() { "systemctl" } else { "systemctl --user" };
    match name {
        UNIT_EXISTS => Failure::new(format!(
            "there is a unit {unit} already: end it by `{control} stop {unit}`, or choose another name"
        )),
        _ if NOT_THERE.contains(&name) => without(uid),
        _ => Failure::new(format!("systemd does not make {unit}: {}", printable(words))),
    }
}

fn failed(error: zbus::Error) -> Failure {
    Failure::new(format!("systemd cannot be asked: {}", printable(&error.to_string())))
}

fn silent() -> Failure {
    Failure::new(format!("systemd does not answer for {} s", PATIENCE.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_led_to_their_own_manager() {
        let sockets = |uid, directory: Option<&str>| -> Vec<String> {
            let sockets = sockets(Uid::from_raw(uid), directory.map(Path::new));
            sockets.iter().map(|socket| socket.display().to_string()).collect()
        };
        assert_eq!(sockets(0, Some("/run/user/1000")), ["/run/dbus/system_bus_socket"]);
        let usual = "/run/user/1000/bus";
        for directory in [None, Some(""), Some("relative"), Some("/run/user/1000")] {
            assert_eq!(sockets(1000, directory), [usual]);
        }
        assert_eq!(sockets(1000, Some("/elsewhere")), ["/elsewhere/bus", usual]);
    }
}
