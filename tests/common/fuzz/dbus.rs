//! What holds of all that may come from the bus.
//!
//! An input is frames, each with its length in front, in two bytes, the low one first. A frame begins with its kind:
//!
//! ```text
//! m  BYTES                        a message, with its header; no answer
//! a  SIGNATURE 0 BODY             the answer to the oldest call that has none
//! e  NAME                         an error for it
//! s  PATH 0 INTERFACE 0 MEMBER 0 SIGNATURE 0 BODY        a signal of systemd's
//! b  the same                     a signal of the bus
//! o  the same                     a signal of somebody else
//! l  NAME                         the daemon wants to know the unit's state
//! u  NAMES                        other units are of interest, on lines of their own
//! ```
//!
//! Until then `a.service` and `b.service` are of interest. The bus grants the matches at once.

#![allow(unsafe_code)]

use std::{
    collections::{BTreeSet, VecDeque},
    num::NonZeroU32,
};

use scnpm::{
    model::UnitName,
    watch::{
        Heard,
        conversation::{Conversation, Said},
    },
};

use super::frames;
use zbus::{
    Message,
    message::{Builder, Flags},
    wire::{Endian, serialized},
};

const BUS: &str = "org.freedesktop.DBus";
const SYSTEMD: &str = ":1.0";
const SOMEBODY: &str = ":1.66";

/// Panics if something does not hold. What was heard.
pub fn check(input: &[u8]) -> Vec<Heard> {
    let units: BTreeSet<UnitName> = ["a.service", "b.service"].map(|name| UnitName(name.into())).into();
    let conversation = Conversation::begin(units.clone()).expect("it begins");
    let is_somebody_named = input.windows(SOMEBODY.len()).any(|bytes| bytes == SOMEBODY.as_bytes());
    let (calls, heard) = (VecDeque::new(), Vec::new());
    let mut session = Session { conversation, calls, units, is_somebody_named, heard };
    session.take();
    for frame in frames(input) {
        if let Err(error) = session.receive(frame) {
            assert!(!error.to_string().is_empty());
            break;
        }
    }
    session.heard
}

struct Session {
    conversation: Conversation,
    calls: VecDeque<Message>,
    /// The units that were ever asked for.
    units: BTreeSet<UnitName>,
    /// Whether systemd may have somebody's name.
    is_somebody_named: bool,
    heard: Vec<Heard>,
}

impl Session {
    fn receive(&mut self, frame: &[u8]) -> zbus::Result<()> {
        let Some((kind, rest)) = frame.split_first() else { return Ok(()) };
        match kind {
            // The numbers of calls are not the same each time: there are other frames for answers.
            b'm' => {
                self.say(of_bytes(rest.to_vec()).filter(|message| message.header().reply_serial().is_none()))
            }
            b'a' => {
                let Some(call) = self.calls.pop_front() else { return Ok(()) };
                let (signature, body) = cut(rest);
                self.say(build(Message::method_return(&call.header()).sender(SYSTEMD), signature, body))
            }
            b'e' => {
                let Some(call) = self.calls.pop_front() else { return Ok(()) };
                self.say(build(
                    Message::error(&call.header(), text(rest)).sender(SYSTEMD),
                    b"s",
                    b"\0\0\0\0\0",
                ))
            }
            b's' => self.say(signal(SYSTEMD, rest)),
            b'b' => self.say(signal(BUS, rest)),
            b'o' => self.say_nothing(signal(SOMEBODY, rest)),
            // No unit has a NUL in its name.
            b'l' | b'u' if rest.contains(&0) => Ok(()),
            b'l' => {
                let unit = UnitName(text(rest).into());
                self.units.insert(unit.clone());
                self.conversation.look_at(unit)
            }
            b'u' => {
                let units: BTreeSet<UnitName> =
                    text(rest).lines().map(|name| UnitName(name.into())).collect();
                self.units.extend(units.iter().cloned());
                self.conversation.turn_to(units)
            }
            _ => Ok(()),
        }?;
        self.take();
        Ok(())
    }

    /// What cannot be a message is not received.
    fn say(&mut self, message: Option<Message>) -> zbus::Result<()> {
        message.map_or(Ok(()), |message| self.conversation.receive(&message).map(drop))
    }

    /// Nobody else is listened to.
    fn say_nothing(&mut self, message: Option<Message>) -> zbus::Result<()> {
        if !self.is_somebody_named {
            assert!(self.say(message).is_ok());
            assert!(self.conversation.take().is_empty());
        }
        Ok(())
    }

    /// Looks at what was said.
    fn take(&mut self) {
        for said in self.conversation.take() {
            match said {
                Said::Call(call) => self.call(call),
                Said::Heard(heard) => self.hear(heard),
            }
        }
        assert!(self.calls.is_empty() || self.conversation.is_waiting(), "for an answer");
    }

    fn call(&mut self, call: Message) {
        let header = call.header();
        assert!(header.primary().flags().contains(Flags::NO_AUTO_START));
        match header.member().expect("a member").as_str() {
            "AddMatch" => {
                let answer = build(Message::method_return(&header).sender(BUS), b"", b"");
                self.say(answer).expect("a match that is granted");
            }
            "GetNameOwner" | "Subscribe" => self.calls.push_back(call.clone()),
            "ListUnitsByNames" => {
                let names: Vec<String> = call.body().deserialize().expect("names");
                assert!(!names.is_empty());
                assert!(names.into_iter().all(|name| self.units.contains(&UnitName(name.into()))));
                self.calls.push_back(call.clone());
            }
            other => panic!("{other} is called"),
        }
    }

    fn hear(&mut self, heard: Heard) {
        match &heard {
            Heard::Changed(unit) | Heard::JobDone(unit) | Heard::State(unit, _) => {
                assert!(self.units.contains(unit), "{unit} is none of ours");
            }
            Heard::Resumed => {}
            Heard::Lost(why) => panic!("{why}"),
        }
        self.heard.push(heard);
    }
}

fn signal(sender: &'static str, frame: &[u8]) -> Option<Message> {
    let (path, rest) = cut(frame);
    let (interface, rest) = cut(rest);
    let (member, rest) = cut(rest);
    let (signature, body) = cut(rest);
    let (path, interface, member) = (text(path), text(interface), text(member));
    // A number of its own would not be the same the next time.
    let one = NonZeroU32::MIN;
    build(Message::signal(path, interface, member).sender(sender).serial(one), signature, body)
}

/// The longest signature (D-Bus Specification, "Valid Signatures"). zbus panics when it is to send a longer one.
const LONGEST_SIGNATURE: usize = 255;

/// A message as it comes from a socket, if it can be one.
fn build(builder: Builder<'_>, signature: &[u8], body: &[u8]) -> Option<Message> {
    if signature.len() > LONGEST_SIGNATURE {
        return None;
    }
    // SAFETY: the bytes are read again as if they came from elsewhere.
    let built =
        unsafe { builder.endian(Endian::Little).build_raw_body(body, text(signature).as_str(), vec![]) };
    of_bytes(built.ok()?.data().bytes().to_vec())
}

fn of_bytes(bytes: Vec<u8>) -> Option<Message> {
    let endian = if bytes.first() == Some(&b'B') { Endian::Big } else { Endian::Little };
    let data = serialized::Data::new(bytes, serialized::Context::new(endian, 0));
    // SAFETY: what zbus itself does with the bytes that it receives.
    unsafe { Message::from_bytes(data) }.ok()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn cut(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}
