//! What a manager's messages say of one unit. Pure.

use std::{collections::BTreeMap, num::NonZeroU32};

use zbus::{Message, ObjectPath, Variant, message::Type};

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The call is answered, by whom the bus calls so.
    Accepted(String),
    /// The call is refused: the error's name, and the manager's words.
    Refused(String, String),
    /// The job has ended with this result: `done` if all is well.
    Job(String),
    /// The unit's `ActiveState`.
    State(String),
    /// How a service's main process ended.
    Main(Ended),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// `CLD_EXITED` and the like (waitid(2)); 0 if it has not ended.
    pub code: i32,
    /// The exit status or the signal.
    pub status: i32,
}

impl Ended {
    /// The exit status that a shell has for it; none if it has not ended.
    pub(super) fn exit_code(self) -> Option<u8> {
        const SIGNAL: i32 = 128;
        let code = match self.code {
            0 => return None,
            libc::CLD_EXITED => self.status,
            _ => SIGNAL + self.status,
        };
        u8::try_from(code).ok()
    }
}

/// What a message says of a unit, or of the call with this serial number. Signals count if the manager sends them.
pub(super) fn hear(message: &Message, call: Option<NonZeroU32>, unit: &str, manager: &str) -> Option<Heard> {
    let header = message.header();
    let body = message.body();
    let sender = header.sender().map_or("", |sender| sender.as_str());
    let is_answer = call.is_some() && header.reply_serial() == call;
    match (header.message_type(), header.member().map(|member| member.as_str())) {
        (Type::MethodReturn, _) if is_answer => Some(Heard::Accepted(sender.to_owned())),
        (Type::Error, _) if is_answer => {
            let name = header.error_name().map_or("", |name| name.as_str());
            Some(Heard::Refused(name.to_owned(), body.deserialize().unwrap_or_default()))
        }
        (Type::Signal, _) if sender != manager => None,
        (Type::Signal, Some("JobRemoved")) => {
            let (_, _, of, result) = body.deserialize::<(u32, ObjectPath<'_>, &str, &str)>().ok()?;
            (of == unit).then(|| Heard::Job(result.to_owned()))
        }
        (Type::Signal, Some("PropertiesChanged")) if header.path()?.as_str() == object(unit) => {
            let (_, changed, _) =
                body.deserialize::<(&str, BTreeMap<&str, Variant<'_>>, Vec<&str>)>().ok()?;
            match (changed.get("ActiveState"), changed.get("ExecMainCode"), changed.get("ExecMainStatus")) {
                (Some(Variant::Str(state)), ..) => Some(Heard::State(state.to_string())),
                (_, Some(Variant::I32(code)), Some(Variant::I32(status))) => {
                    Some(Heard::Main(Ended { code: *code, status: *status }))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The path of a unit's object: what is no letter or digit is `_` and two hexadecimal digits (`sd_bus_path_encode`(3)).
pub(super) fn object(unit: &str) -> String {
    let label = unit.bytes().enumerate().map(|(at, byte)| match byte {
        b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
        b'0'..=b'9' if at > 0 => char::from(byte).to_string(),
        _ => format!("_{byte:02x}"),
    });
    format!("/org/freedesktop/systemd1/unit/{}", label.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGER: &str = "/org/freedesktop/systemd1";
    const UNIT: &str = "app-a@1.service";
    const SENDER: &str = ":1.1";

    fn heard(message: &Message) -> Option<Heard> {
        hear(message, None, UNIT, SENDER)
    }

    fn job(unit: &str, result: &str) -> Message {
        let body = (7_u32, ObjectPath::try_from("/org/freedesktop/systemd1/job/7").unwrap(), unit, result);
        Message::signal(MANAGER, "org.freedesktop.systemd1.Manager", "JobRemoved")
            .sender(SENDER)
            .build(&body)
            .unwrap()
    }

    fn changed(path: &str, properties: BTreeMap<&str, Variant<'_>>) -> Message {
        let none: Vec<&str> = vec![];
        Message::signal(path, "org.freedesktop.DBus.Properties", "PropertiesChanged")
            .sender(SENDER)
            .build(&("org.freedesktop.systemd1.Service", properties, none))
            .unwrap()
    }

    #[test]
    fn only_the_units_own_news_are_heard() {
        assert_eq!(heard(&job(UNIT, "done")), Some(Heard::Job("done".to_owned())));
        assert_eq!(heard(&job("other.service", "done")), None);
        let state =
            || BTreeMap::from([("ActiveState", Variant::from("failed")), ("Id", Variant::from(UNIT))]);
        let path = "/org/freedesktop/systemd1/unit/app_2da_401_2eservice";
        assert_eq!(heard(&changed(path, state())), Some(Heard::State("failed".to_owned())));
        assert_eq!(heard(&changed("/org/freedesktop/systemd1/unit/x", state())), None);
        let main = BTreeMap::from([
            ("ExecMainCode", Variant::from(1_i32)),
            ("ExecMainStatus", Variant::from(7_i32)),
        ]);
        assert_eq!(heard(&changed(path, main)), Some(Heard::Main(Ended { code: 1, status: 7 })));
        assert_eq!(heard(&changed(path, BTreeMap::new())), None);
        assert_eq!(hear(&job(UNIT, "done"), None, UNIT, ":1.2"), None, "somebody else's");
    }

    #[test]
    fn answer_is_that_to_the_own_call() {
        let call = || Message::method_call(MANAGER, "StartTransientUnit").build(&()).unwrap();
        let (own, other) = (call(), call());
        let name = "org.freedesktop.systemd1.UnitExists";
        let error = Message::error(&own.header(), name).build(&"There is one.").unwrap();
        let hear = |message: &Message, call: &Message| {
            hear(message, Some(call.primary_header().serial_num()), UNIT, SENDER)
        };
        let refused = Heard::Refused(name.to_owned(), "There is one.".to_owned());
        assert_eq!(hear(&error, &own), Some(refused));
        assert_eq!(hear(&error, &other), None);
        let answer = Message::method_return(&own.header()).sender(SENDER).build(&()).unwrap();
        assert_eq!(hear(&answer, &own), Some(Heard::Accepted(SENDER.to_owned())));
        assert_eq!(hear(&answer, &other), None);
    }

    #[test]
    fn exit_codes_are_those_of_shells() {
        let code = |code, status| Ended { code, status }.exit_code();
        assert_eq!(code(0, 0), None);
        assert_eq!(code(libc::CLD_EXITED, 7), Some(7));
        assert_eq!(code(libc::CLD_KILLED, 15), Some(143));
        assert_eq!(code(libc::CLD_DUMPED, 11), Some(139));
    }
}
