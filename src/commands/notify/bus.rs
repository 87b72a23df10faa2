//! The notification daemon, as the session bus has it (Desktop Notifications Specification 1.2, org.freedesktop.Notifications).

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use tokio::sync::mpsc::UnboundedSender;
use zbus::{Connection, Message, MessageStream, Variant, connection::Builder, message::Type};

use super::{
    Event,
    words::{Abilities, Notification},
};
use crate::{commands::Failure, model::printable};

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// How long the bus and the notification daemon may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a notification stays that nothing keeps, in ms; -1 leaves that to the notification daemon.
const SHOWN: i32 = 30_000;
const AS_IT_LIKES: i32 = -1;

/// What comes from the bus.
#[derive(Debug)]
pub(super) enum Signal {
    /// A notification daemon has this unique name now; nobody if it is empty.
    Owner(String),
    /// A button of a notification was pressed.
    Pressed(u32, String),
    /// A notification is no longer there.
    Closed(u32),
    /// The bus is gone.
    End,
}

/// The connection to the session bus.
pub(super) struct Bus(Connection);

impl Bus {
    /// Connects, and has `events` told of all that comes. Without tasks of its own on any other runtime.
    pub(super) async fn connect(events: UnboundedSender<Event>) -> Result<Self, Failure> {
        let connection = Builder::session().method_timeout(PATIENCE).build().await.map_err(no_bus)?;
        let stream = MessageStream::from(&connection);
        let bus = Self(connection);
        let of_daemon = |member: &str| {
            format!("type='signal',sender='{NAME}',interface='{NAME}',path='{PATH}',member='{member}'")
        };
        let of_bus = format!("type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{NAME}'");
        for rule in [of_daemon("ActionInvoked"), of_daemon("NotificationClosed"), of_bus] {
            bus.call(BUS, BUS_PATH, "AddMatch", &rule).await.map_err(no_bus)?;
        }
        tokio::spawn(listen(stream, events));
        Ok(bus)
    }

    /// The unique name of the notification daemon and what it can do; it is started if D-Bus can do that.
    pub(super) async fn greet(&self) -> zbus::Result<(String, Abilities)> {
        let answer = self.call(NAME, PATH, "GetCapabilities", &()).await?;
        let names: Vec<String> = answer.body().deserialize::<(Vec<String>,)>()?.0;
        let owner = answer.header().sender().map(ToString::to_string).unwrap_or_default();
        Ok((owner, Abilities::of(&names)))
    }

    /// Shows a notification in place of another one, or of none (0); its number.
    pub(super) async fn notify(&self, it: &Notification, in_place_of: u32, keeps: bool) -> zbus::Result<u32> {
        let hints: HashMap<&str, Variant<'_>> = HashMap::from([
            // Normal. Critical ones would stay in front of all else.
            ("urgency", Variant::from(1_u8)),
            ("category", Variant::from("network.error")),
        ]);
        let actions: Vec<&str> = it.actions.iter().map(String::as_str).collect();
        let time = if keeps { AS_IT_LIKES } else { SHOWN };
        let (summary, body) = (it.summary.as_str(), it.body.as_str());
        let body = ("scnpm", in_place_of, "security-high", summary, body, actions, hints, time);
        let answer = self.call(NAME, PATH, "Notify", &body).await?;
        Ok(answer.body().deserialize::<(u32,)>()?.0)
    }

    async fn call(
        &self,
        destination: &str,
        path: &str,
        member: &str,
        body: &(impl serde::Serialize + zbus::DynamicType),
    ) -> zbus::Result<Message> {
        self.0.call_method(Some(destination), path, Some(destination), member, body).await
    }
}

/// Passes on what comes; ends with the connection, or once nobody listens.
async fn listen(mut stream: MessageStream, events: UnboundedSender<Event>) {
    while let Some(Ok(message)) = stream.next().await {
        let sender = message.header().sender().map(ToString::to_string).unwrap_or_default();
        if let Some(signal) = signal(&message, &sender)
            && events.send(Event::Bus(sender, signal)).is_err()
        {
            return;
        }
    }
    let _ = events.send(Event::Bus(BUS.to_owned(), Signal::End));
}

/// What a message says. Whether its sender may say that is another question.
fn signal(message: &Message, sender: &str) -> Option<Signal> {
    let header = message.header();
    if header.message_type() != Type::Signal {
        return None;
    }
    let body = message.body();
    match header.member()?.as_str() {
        "NameOwnerChanged" if sender == BUS => {
            let (name, _, owner) = body.deserialize::<(&str, &str, &str)>().ok()?;
            (name == NAME).then(|| Signal::Owner(owner.to_owned()))
        }
        "ActionInvoked" => {
            let (id, action) = body.deserialize::<(u32, &str)>().ok()?;
            Some(Signal::Pressed(id, action.to_owned()))
        }
        "NotificationClosed" => body.deserialize::<(u32, u32)>().ok().map(|(id, _)| Signal::Closed(id)),
        _ => None,
    }
}

fn no_bus(error: zbus::Error) -> Failure {
    let text = printable(&error.to_string());
    let why = text.split(" (os error ").next().unwrap_or_default();
    Failure::new(format!(
        "there is no session bus ({why}): start this in a desktop's session, or by `systemctl --user start scnpm-notify`"
    ))
}
