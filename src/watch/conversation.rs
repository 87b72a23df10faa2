//! What systemd is asked on the bus, and what its answers and signals say. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use litemap::LiteMap;
use zbus::{
    DynamicType, Message, ObjectPath, OwnedObjectPath, Variant,
    message::{Flags, Header, Type},
};

use super::Heard;
use crate::model::{UnitName, UnitState};

/// Something that is to be done, in the order in which it was said.
#[derive(Debug)]
pub enum Said {
    /// A call is to be sent.
    Call(Message),
    /// Something was heard.
    Heard(Heard),
}

/// What is said on one connection.
#[derive(Debug)]
pub struct Conversation {
    /// What was asked, by the number of the call.
    pending: LiteMap<NonZeroU32, Asked>,
    /// systemd's unique name, or nothing. Anybody can send us signals that look like systemd's.
    owner: String,
    subscribed: bool,
    /// The units of interest.
    units: BTreeSet<UnitName>,
    /// The names that we know a unit by, under the one that systemd has for it and under its object's path.
    names: BTreeMap<String, Vec<UnitName>>,
    said: Vec<Said>,
}

/// What a call asked for.
#[derive(Debug)]
enum Asked {
    Match,
    Owner,
    Subscribe,
    States(Vec<UnitName>),
}

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

impl Conversation {
    /// Asks the bus for systemd's signals and name. Only these units are heard of, under these names.
    ///
    /// # Errors
    /// A call cannot be written.
    pub fn begin(units: BTreeSet<UnitName>) -> zbus::Result<Self> {
        let mut new = Self {
            pending: LiteMap::new(),
            owner: String::new(),
            subscribed: false,
            units,
            names: BTreeMap::new(),
            said: Vec::new(),
        };
        for rule in MATCHES {
            new.call((BUS, BUS_PATH, BUS, "AddMatch"), &rule, Asked::Match)?;
        }
        new.call((BUS, BUS_PATH, BUS, "GetNameOwner"), &SYSTEMD, Asked::Owner)?;
        Ok(new)
    }

    /// What was said since the last time.
    pub fn take(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    /// Asks for a unit's state.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn look_at(&mut self, unit: UnitName) -> zbus::Result<()> {
        self.ask(vec![unit])
    }

    /// Other units are of interest; the states of those that were not are asked for.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn turn_to(&mut self, units: BTreeSet<UnitName>) -> zbus::Result<()> {
        let new = units.difference(&self.units).cloned().collect();
        self.units = units;
        self.ask(new)
    }

    /// Whether something is waited for: an answer, or systemd.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty() || !self.subscribed
    }

    /// Takes in a message. Says whether it is an answer that was waited for.
    ///
    /// # Errors
    /// The bus or systemd does not speak as it should, or refuses what the conversation needs: there is no sense in going on.
    pub fn receive(&mut self, message: &Message) -> zbus::Result<bool> {
        let header = message.header();
        if header.message_type() == Type::Signal {
            return self.receive_signal(&header, message).map(|()| false);
        }
        let asked = header.reply_serial().and_then(|serial| self.pending.remove(&serial));
        let Some(asked) = asked else { return Ok(false) };
        self.receive_answer(asked, &header, message).map(|()| true)
    }

    /// Makes a call, whose answer is to be received like all else.
    fn call<B: serde::Serialize + DynamicType>(
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
        self.said.push(Said::Call(message));
        Ok(())
    }

    fn receive_answer(&mut self, asked: Asked, header: &Header<'_>, message: &Message) -> zbus::Result<()> {
        match (asked, header.error_name().map(|name| name.as_str())) {
            (Asked::Match, None) => Ok(()),
            (Asked::Owner, None) => self.greet(message.body().deserialize()?),
            (Asked::Subscribe, None | Some("org.freedesktop.systemd1.AlreadySubscribed")) => self.resume(),
            (Asked::States(units), None) => self.receive_states(units, message),
            (_, Some(name)) if AWAY.contains(&name) => Ok(()),
            (Asked::States(units), Some(_)) => {
                let is_alone = units.len() == 1;
                for unit in units {
                    if is_alone {
                        self.hear(Heard::State(unit, UnitState::Inactive));
                    } else {
                        // One bad name spoils the call for all.
                        self.ask(vec![unit])?;
                    }
                }
                Ok(())
            }
            (Asked::Match | Asked::Owner | Asked::Subscribe, Some(_)) => Err(message.clone().into()),
        }
    }

    fn receive_signal(&mut self, header: &Header<'_>, message: &Message) -> zbus::Result<()> {
        let (Some(sender), Some(member)) = (header.sender(), header.member()) else { return Ok(()) };
        let body = message.body();
        if sender.as_str() == BUS && member.as_str() == "NameOwnerChanged" {
            let (name, _, new) = body.deserialize::<(&str, &str, &str)>()?;
            if name == SYSTEMD {
                self.greet(new)?;
            }
        }
        if sender.as_str() != self.owner {
            return Ok(());
        }
        match member.as_str() {
            "JobNew" => {
                let (_, _, unit) = body.deserialize::<(u32, ObjectPath<'_>, &str)>()?;
                self.hear_of(unit, Heard::Changed);
            }
            "JobRemoved" => {
                let (_, _, unit, result) = body.deserialize::<(u32, ObjectPath<'_>, &str, &str)>()?;
                self.hear_of(unit, if result == "done" { Heard::JobDone } else { Heard::Changed });
            }
            "Reloading" if !body.deserialize::<bool>()? => self.ask_for_all()?,
            "PropertiesChanged" => {
                let path = header.path().map_or("", |path| path.as_str());
                if self.names_of(path).is_empty() {
                    return Ok(());
                }
                let (interface, changed, _) =
                    body.deserialize::<(&str, BTreeMap<&str, Variant<'_>>, Vec<&str>)>()?;
                if let Some(Variant::Str(state)) = changed.get("ActiveState")
                    && interface == UNIT
                {
                    let state = UnitState::of(is_active(state));
                    self.hear_of(path, |unit| Heard::State(unit, state));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// systemd is on the bus under this unique name; or has left it, if it is empty.
    fn greet(&mut self, owner: &str) -> zbus::Result<()> {
        self.subscribed = false;
        self.owner = owner.to_owned();
        if owner.is_empty() {
            return Ok(());
        }
        self.call((SYSTEMD, MANAGER_PATH, MANAGER, "Subscribe"), &(), Asked::Subscribe)
    }

    /// systemd sends signals from now on.
    fn resume(&mut self) -> zbus::Result<()> {
        self.subscribed = true;
        self.hear(Heard::Resumed);
        self.ask_for_all()
    }

    fn ask_for_all(&mut self) -> zbus::Result<()> {
        self.names.clear();
        self.ask(self.units.iter().cloned().collect())
    }

    fn ask(&mut self, units: Vec<UnitName>) -> zbus::Result<()> {
        if !self.subscribed || units.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = units.iter().map(|unit| unit.0.to_string()).collect();
        let method = (SYSTEMD, MANAGER_PATH, MANAGER, "ListUnitsByNames");
        self.call(method, &names, Asked::States(units))
    }

    /// systemd answers in the order of the names.
    fn receive_states(&mut self, units: Vec<UnitName>, message: &Message) -> zbus::Result<()> {
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
            self.hear(Heard::State(unit, state));
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
        names.retain(|name| self.units.contains(name));
        names
    }

    fn hear_of(&mut self, unit: &str, heard: impl Fn(UnitName) -> Heard) {
        for name in self.names_of(unit) {
            self.hear(heard(name));
        }
    }

    fn hear(&mut self, heard: Heard) {
        self.said.push(Said::Heard(heard));
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
}
