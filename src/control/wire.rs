//! Bytes to calls, and replies to bytes. Pure: what a client can make of it is what a fuzz target tries.

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    DESCRIPTION, INTERFACE,
    message::{Allow, Call, Confirm, Disallow, GetRefusals, GetStatus, Method, Reload, Revert, Wait},
};

/// The most bytes that a call may have.
pub const CALL_LIMIT: usize = 64 << 10;

/// The most bytes of what a call is about: of a unit's name or of selectors, which are compared with all annotations, and of
/// a path.
const UNIT_LIMIT: usize = 1 << 10;
const PATH_LIMIT: usize = 4 << 10;

/// The most bytes that the name of a host or of a protocol may have.
const NAME_LIMIT: usize = 255;

/// Varlink's own interface, as every service has it (<https://varlink.org/Service>).
const SERVICE: &str = "org.varlink.service";

const SERVICE_DESCRIPTION: &str = "\
# The Varlink Service Interface is provided by every varlink service. It
# describes the service and the interfaces it implements.
interface org.varlink.service

# Get a list of all the interfaces a service provides and information
# about the implementation.
method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)

# Get the description of an interface that is implemented by this service.
method GetInterfaceDescription(interface: string) -> (description: string)

# The requested interface was not found.
error InterfaceNotFound (interface: string)

# The requested method was not found
error MethodNotFound (method: string)

# The interface defines the requested method, but the service does not
# implement it.
error MethodNotImplemented (method: string)

# One of the passed parameters is invalid.
error InvalidParameter (parameter: string)

# Client is denied access
error PermissionDenied ()

# Method is expected to be called with 'more' set to true, but wasn't
error ExpectedMore ()
";

/// What a client has sent and nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// How many of them are known to have no end of a call in them.
    searched: usize,
}

/// What is no call, or too long for one: nothing that follows can be made out.
#[derive(Debug, PartialEq, Eq)]
pub struct NoCall;

impl Inbox {
    /// Takes in what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes it takes up.
    pub fn held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next call, if all of it is there.
    ///
    /// # Errors
    /// There is something else.
    pub fn call(&mut self) -> Result<Option<Call>, NoCall> {
        let Some(end) = self.bytes[self.searched..].iter().position(|byte| *byte == 0) else {
            self.searched = self.bytes.len();
            return if self.bytes.len() > CALL_LIMIT { Err(NoCall) } else { Ok(None) };
        };
        let end = self.searched + end;
        self.searched = 0;
        let call = if end > CALL_LIMIT { None } else { decode(&self.bytes[..end]) };
        self.bytes.drain(..=end);
        if self.bytes.is_empty() {
            // Most clients send one call and wait.
            self.bytes = Vec::new();
        }
        call.map(Some).ok_or(NoCall)
    }
}

fn decode(bytes: &[u8]) -> Option<Call> {
    // Serde takes an array for a structure, too.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    is_object.then(|| serde_json::from_slice(bytes).ok()).flatten()
}

/// What is to be sent to a client that has not taken it yet.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: VecDeque<Arc<[u8]>>,
    /// How much of the first one is sent.
    sent: usize,
    pending: usize,
}

impl Outbox {
    /// Puts a message behind the others.
    pub fn push(&mut self, message: Arc<[u8]>) {
        self.pending += message.len();
        self.queue.push_back(message);
    }

    /// Takes back what the client has not begun to get.
    pub fn cut(&mut self) {
        let begun = if self.sent > 0 { self.queue.pop_front() } else { None };
        self.pending = begun.as_ref().map_or(0, |first| first.len() - self.sent);
        self.queue = begun.into_iter().collect();
    }

    /// The bytes that are next.
    pub fn next(&self) -> Option<&[u8]> {
        self.queue.front().map(|first| &first[self.sent..])
    }

    /// Notes that so many of them are sent.
    pub fn advance(&mut self, sent: usize) {
        self.sent += sent;
        self.pending -= sent;
        if self.queue.front().is_some_and(|first| first.len() <= self.sent) {
            self.queue.pop_front();
            self.sent = 0;
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// How many bytes there are.
    pub fn pending(&self) -> usize {
        self.pending
    }
}

/// The name of the method of ours that is called; none if it is another service's.
pub fn method_of(call: &Call) -> Option<&str> {
    call.method.strip_prefix(INTERFACE)?.strip_prefix('.')
}

/// What a call of our methods asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// How things stand.
    GetStatus(GetStatus),
    /// To be told when rules are in the kernel.
    Wait(Wait),
    /// To read the files again.
    Reload(Reload),
    /// Who was refused.
    GetRefusals(GetRefusals),
    /// To allow something for a while.
    Allow(Allow),
    /// To end that.
    Disallow(Disallow),
    /// To keep the policy that is on trial.
    Confirm,
    /// To put the policy before the trial back.
    Revert,
}

/// What a call of our methods asks for.
///
/// # Errors
/// The answer: there is no such method, or a parameter is wrong.
pub fn ask(mut call: Call) -> Result<Ask, Arc<[u8]>> {
    let given = std::mem::take(&mut call.parameters);
    match method_of(&call) {
        Some(GetStatus::NAME) => {
            let ask: GetStatus = parameters(given)?;
            check("unit", ask.unit.as_ref(), UNIT_LIMIT)?;
            Ok(Ask::GetStatus(ask))
        }
        Some(Wait::NAME) => {
            let ask: Wait = parameters(given)?;
            check("unit", ask.unit.as_ref(), UNIT_LIMIT)?;
            check("cgroup", ask.cgroup.as_ref(), PATH_LIMIT)?;
            Ok(Ask::Wait(ask))
        }
        Some(GetRefusals::NAME) => {
            let ask: GetRefusals = parameters(given)?;
            check("unit", ask.unit.as_ref(), UNIT_LIMIT)?;
            Ok(Ask::GetRefusals(ask))
        }
        Some(Allow::NAME) => {
            let ask: Allow = parameters(given)?;
            check("unit", Some(&ask.unit), UNIT_LIMIT)?;
            check("address", Some(&ask.address), NAME_LIMIT)?;
            check("protocol", ask.protocol.as_ref(), NAME_LIMIT)?;
            let missing = [
                ("unit", ask.unit.is_empty()),
                ("address", ask.address.is_empty()),
                ("for_ms", ask.for_ms == 0),
            ];
            match missing.into_iter().find(|(_, is_missing)| *is_missing) {
                Some((name, _)) => Err(invalid(name)),
                None => Ok(Ask::Allow(ask)),
            }
        }
        Some(Disallow::NAME) => parameters(given).map(Ask::Disallow),
        Some(Reload::NAME) => parameters(given).map(Ask::Reload),
        Some(Confirm::NAME) => parameters(given).map(|Confirm {}| Ask::Confirm),
        Some(Revert::NAME) => parameters(given).map(|Revert {}| Ask::Revert),
        _ => Err(unknown(&call.method)),
    }
}

fn check(name: &str, text: Option<&String>, limit: usize) -> Result<(), Arc<[u8]>> {
    text.filter(|text| text.len() > limit).map_or(Ok(()), |_| Err(invalid(name)))
}

/// The answer to a call of anything but our methods.
pub fn of_the_service(call: &Call) -> Arc<[u8]> {
    of_a_service(call, INTERFACE, DESCRIPTION)
}

/// The answer to a call of anything but the methods of the one interface that a service has, with its description.
pub fn of_a_service(call: &Call, own: &str, description: &str) -> Arc<[u8]> {
    let Call { method, parameters, .. } = call;
    let interface = method.rsplit_once('.').map_or("", |(interface, _)| interface);
    match method.strip_prefix(SERVICE) {
        Some(".GetInfo") => reply(
            &json!({
                "vendor": "scnpm",
                "product": "scnpm",
                "version": env!("CARGO_PKG_VERSION"),
                "url": "",
                "interfaces": [SERVICE, own],
            }),
            false,
        ),
        Some(".GetInterfaceDescription") => match parameters.get("interface").and_then(Value::as_str) {
            Some(name) if name == own => reply(&json!({ "description": description }), false),
            Some(SERVICE) => reply(&json!({ "description": SERVICE_DESCRIPTION }), false),
            Some(other) => service_error("InterfaceNotFound", "interface", other),
            None => service_error("InvalidParameter", "parameter", "interface"),
        },
        Some(_) => unknown(method),
        None => service_error("InterfaceNotFound", "interface", interface),
    }
}

/// The parameters of a method.
///
/// # Errors
/// The answer: which one is wrong.
fn parameters<M: Method + serde::de::DeserializeOwned>(given: Map<String, Value>) -> Result<M, Arc<[u8]>> {
    let fits = |one: Map<String, Value>| serde_json::from_value::<M>(Value::Object(one));
    let wrong = given.iter().find(|(name, value)| {
        let mut alone = Map::new();
        alone.insert((*name).clone(), (*value).clone());
        !M::PARAMETERS.contains(&name.as_str()) || fits(alone).is_err()
    });
    let wrong = wrong.map(|(name, _)| name.clone());
    match (wrong, fits(given)) {
        (None, Ok(method)) => Ok(method),
        (name, _) => Err(invalid(&name.unwrap_or_default())),
    }
}

/// There is no such method.
pub fn unknown(method: &str) -> Arc<[u8]> {
    service_error("MethodNotFound", "method", method)
}

/// A parameter is wrong.
pub fn invalid(parameter: &str) -> Arc<[u8]> {
    service_error("InvalidParameter", "parameter", parameter)
}

/// A method that replies more than once was called without `more`.
pub fn expected_more() -> Arc<[u8]> {
    message(&json!({ "error": format!("{SERVICE}.ExpectedMore"), "parameters": {} }))
}

fn service_error(name: &str, parameter: &str, value: &str) -> Arc<[u8]> {
    message(&json!({ "error": format!("{SERVICE}.{name}"), "parameters": { parameter: value } }))
}

/// A reply.
pub fn reply(parameters: &impl Serialize, continues: bool) -> Arc<[u8]> {
    #[derive(Serialize)]
    struct Reply<'a, P> {
        parameters: &'a P,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        continues: bool,
    }
    message(&Reply { parameters, continues })
}

/// An error of our interface.
pub fn error(name: &str, parameters: &Value) -> Arc<[u8]> {
    message(&json!({ "error": format!("{INTERFACE}.{name}"), "parameters": parameters }))
}

fn message(value: &impl Serialize) -> Arc<[u8]> {
    // Maps with names as keys and plain values: there is nothing that could fail.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(0);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::message::{GetStatus, Reload, Wait};

    fn text(message: &[u8]) -> String {
        String::from_utf8(message.strip_suffix(&[0]).unwrap().to_vec()).unwrap()
    }

    fn call(method: &str, parameters: Value) -> Call {
        let Value::Object(parameters) = parameters else { panic!("{parameters}") };
        Call { method: method.to_owned(), parameters, more: false, oneway: false, upgrade: false }
    }

    #[test]
    fn calls_are_taken_one_by_one_however_they_come() {
        let whole = b"{\"method\":\"a.B\"}\0{\"method\":\"a.C\",\"parameters\":{\"x\":1},\"more\":true}\0";
        for step in 1..=whole.len() {
            let (mut inbox, mut found) = (Inbox::default(), Vec::new());
            for piece in whole.chunks(step) {
                inbox.push(piece);
                while let Some(call) = inbox.call().unwrap() {
                    found.push((call.method, call.more));
                }
            }
            assert_eq!(found, [("a.B".to_owned(), false), ("a.C".to_owned(), true)]);
        }
    }

    #[test]
    fn what_is_no_call_or_too_long_is_told() {
        for wrong in [&b"\0"[..], b"x\0", b"[]\0", b"[\"a.B\"]\0", b"{}\0", b"{\"method\":1}\0", b"\xff\0"] {
            let mut inbox = Inbox::default();
            inbox.push(wrong);
            assert_eq!(inbox.call(), Err(NoCall), "{wrong:?}");
        }
        let mut inbox = Inbox::default();
        inbox.push(&vec![b' '; CALL_LIMIT]);
        assert_eq!(inbox.call(), Ok(None));
        inbox.push(b"  ");
        assert_eq!(inbox.call(), Err(NoCall));
    }

    #[test]
    fn what_the_client_has_begun_to_get_it_gets_to_the_end() {
        let mut outbox = Outbox::default();
        for message in ["first", "second", "third"] {
            outbox.push(message.as_bytes().into());
        }
        outbox.advance(2);
        outbox.cut();
        outbox.push(b"!"[..].into());
        assert_eq!((outbox.next(), outbox.pending()), (Some(&b"rst"[..]), 4));
        outbox.advance(3);
        assert_eq!((outbox.next(), outbox.pending()), (Some(&b"!"[..]), 1));
        outbox.cut();
        assert_eq!((outbox.next(), outbox.pending()), (None, 0));
    }

    #[test]
    fn every_service_says_what_it_is() {
        let answer = |method, parameters| of_the_service(&call(method, parameters));
        let info = text(&answer("org.varlink.service.GetInfo", json!({})));
        assert!(info.contains("\"interfaces\":[\"org.varlink.service\",\"io.scnpm\"]"), "{info}");
        let method = "org.varlink.service.GetInterfaceDescription";
        for interface in [SERVICE, INTERFACE] {
            let description = text(&answer(method, json!({ "interface": interface })));
            assert!(description.contains(&format!("interface {interface}\\n")), "{description}");
        }
        let wrong = text(&answer(method, json!({ "interface": "a.b" })));
        assert_eq!(
            wrong,
            r#"{"error":"org.varlink.service.InterfaceNotFound","parameters":{"interface":"a.b"}}"#
        );
        assert!(text(&answer(method, json!({}))).contains("InvalidParameter"));
        assert!(text(&answer("org.varlink.service.Get", json!({}))).contains("MethodNotFound"));
        assert!(text(&answer("io.scnpmx.GetStatus", json!({}))).contains("\"io.scnpmx\""));
        assert_eq!(method_of(&call("io.scnpm.GetStatus", json!({}))), Some("GetStatus"));
        assert_eq!(method_of(&call("io.scnpmx.GetStatus", json!({}))), None);
    }

    #[test]
    fn what_a_call_is_about_is_not_long() {
        let is_taken = |method, name: &str, length| {
            ask(call(method, json!({ name: "a".repeat(length) })))
                .map_err(|answer| assert!(text(&answer).contains(&format!(r#""parameter":"{name}""#))))
                .is_ok()
        };
        for (method, name, limit) in [
            ("io.scnpm.GetStatus", "unit", UNIT_LIMIT),
            ("io.scnpm.Wait", "unit", UNIT_LIMIT),
            ("io.scnpm.Wait", "cgroup", PATH_LIMIT),
        ] {
            assert!(is_taken(method, name, limit) && !is_taken(method, name, limit + 1), "{method} {name}");
        }
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        let object = |value: Value| value.as_object().unwrap().clone();
        let found = parameters::<GetStatus>(object(json!({ "unit": "a.service" }))).unwrap();
        assert_eq!(found, GetStatus { unit: Some("a.service".to_owned()) });
        assert_eq!(parameters::<Reload>(object(json!({ "try_ms": null }))).unwrap(), Reload::default());
        let wrong = |value| text(&parameters::<Wait>(object(value)).unwrap_err());
        assert!(wrong(json!({ "cgroup": "a", "unit": 5 })).contains(r#""parameter":"unit""#));
        assert!(wrong(json!({ "cgruop": "a" })).contains(r#""parameter":"cgruop""#));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_answered_or_ends_the_connection(bytes in prop::collection::vec(0_u8..128, 0..200)) {
            let mut inbox = Inbox::default();
            inbox.push(&bytes);
            while let Ok(Some(call)) = inbox.call() {
                prop_assert!(of_the_service(&call).ends_with(&[0]));
            }
        }
    }
}
