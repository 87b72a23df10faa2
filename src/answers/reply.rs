//! Messages of systemd-resolved's interface io.systemd.Resolve.Monitor (Varlink, so JSON).
//!
//! Records are read as they are sent (RFC 1035, 3.2.1), without compression: systemd 252 and later have them like this, in
//! `raw`, and only there is the time to live.

use std::{collections::BTreeSet, net::IpAddr};

use serde::Deserialize;

use crate::{gather::Gather, policy::domains::Domain};

/// The most records that are taken of an answer: a message of DNS by UDP has room for 4,096 addresses at most.
const MOST: usize = 4_096;

/// The longest chain of aliases. systemd follows 16.
const ALIASES: usize = 16;

const IN: u16 = 1;
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Answers come from now on.
    Ready,
    /// An answer.
    Answer(Answer),
    /// The answers that are in the cache.
    Cache(Answer),
    /// Something that has no addresses.
    Nothing,
    /// An error, by its name.
    Error(String),
}

/// Names that were asked for, and what was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The names.
    pub asked: BTreeSet<Domain>,
    records: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    owner: Domain,
    /// In seconds.
    ttl: u32,
    data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    Address(IpAddr),
    Alias(Domain),
}

#[derive(Deserialize)]
struct Message {
    error: Option<String>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize, Default)]
struct Parameters {
    #[serde(default)]
    ready: bool,
    state: Option<String>,
    #[serde(default)]
    question: Vec<Key>,
    #[serde(default)]
    answer: Vec<Raw>,
    dump: Option<Vec<Scope>>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(rename = "type")]
    kind: u16,
    name: String,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    raw: String,
}

#[derive(Deserialize)]
struct Scope {
    protocol: String,
    #[serde(default)]
    cache: Vec<Cached>,
}

#[derive(Deserialize)]
struct Cached {
    #[serde(default)]
    rrs: Vec<Raw>,
}

impl Reply {
    /// Reads a message.
    ///
    /// # Errors
    /// It is none.
    pub fn of(message: &[u8]) -> Result<Self, serde_json::Error> {
        let Message { error, parameters } = serde_json::from_slice(message)?;
        if let Some(error) = error {
            return Ok(Self::Error(error));
        }
        let Parameters { ready, state, question, answer, dump } = parameters;
        if let Some(dump) = dump {
            let of_dns = dump.into_iter().filter(|scope| scope.protocol == "dns");
            let records = records(of_dns.flat_map(|scope| scope.cache).flat_map(|cached| cached.rrs));
            let asked = records.iter().map(|record| record.owner.clone()).gather();
            return Ok(Self::Cache(Answer { asked, records }));
        }
        if ready {
            return Ok(Self::Ready);
        }
        let records = records(answer);
        if state.as_deref() != Some("success") || records.is_empty() {
            return Ok(Self::Nothing);
        }
        let of_addresses = question.iter().filter(|key| key.kind == A || key.kind == AAAA);
        Ok(Self::Answer(Answer {
            asked: of_addresses.filter_map(|key| Domain::of_text(&key.name)).gather(),
            records,
        }))
    }
}

impl Answer {
    /// The addresses of a name, each with the time in seconds for which it is known to hold: those that are its own, and those of
    /// the name that it is an alias of.
    pub fn addresses(&self, name: &Domain) -> Vec<(IpAddr, u32)> {
        let (mut name, mut least) = (name, u32::MAX);
        for _ in 0..ALIASES {
            let of_name = || self.records.iter().filter(|record| record.owner == *name);
            let alias = of_name().find_map(|record| match &record.data {
                Data::Alias(target) => Some((target, record.ttl)),
                Data::Address(_) => None,
            });
            match alias {
                Some((target, ttl)) => (name, least) = (target, least.min(ttl)),
                None => {
                    let addresses = of_name().filter_map(|record| match record.data {
                        Data::Address(address) => Some((address, record.ttl.min(least))),
                        Data::Alias(_) => None,
                    });
                    return addresses.collect();
                }
            }
        }
        vec![]
    }
}

fn records(all: impl IntoIterator<Item = Raw>) -> Vec<Record> {
    all.into_iter().filter_map(|one| Record::of(&of_base64(&one.raw)?)).take(MOST).collect()
}

impl Record {
    fn of(bytes: &[u8]) -> Option<Self> {
        let (owner, rest) = Domain::of_wire(bytes)?;
        let (head, data) = rest.split_first_chunk::<10>()?;
        let short = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let ttl = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if short(2) != IN || usize::from(short(8)) != data.len() {
            return None;
        }
        let data = match short(0) {
            A => Data::Address(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            AAAA => Data::Address(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            CNAME => Data::Alias(Domain::of_wire(data)?.0),
            _ => return None,
        };
        // The highest bit is no part of it (RFC 2181, 8).
        Some(Self { owner, ttl: if ttl > i32::MAX as u32 { 0 } else { ttl }, data })
    }
}

/// The bytes that a text in base64 (RFC 4648, 4) stands for.
fn of_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An answer to a question for these names, with records of a name, its time to live, and an address or alias.
    pub(crate) fn answer(asked: &[&str], records: &[(&str, u32, &str)]) -> Answer {
        let domain = |text: &str| Domain::of_text(text).unwrap();
        let record = |(owner, ttl, data): &(&str, u32, &str)| Record {
            owner: domain(owner),
            ttl: *ttl,
            data: data.parse().map_or_else(|_| Data::Alias(domain(data)), Data::Address),
        };
        Answer {
            asked: asked.iter().map(|name| domain(name)).collect(),
            records: records.iter().map(record).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::answer, *};

    /// As systemd 257 writes it.
    const ALIAS: &str = r#"{"parameters":{"state":"success","question":[{"class":1,"type":1,"name":"www.Example.org."},{"class":1,"type":28,"name":"www.Example.org."}],
        "answer":[{"rr":{"key":{"class":1,"type":5,"name":"www.Example.org"},"name":"edge.cdn.example.net"},"raw":"A3d3dwdFeGFtcGxlA29yZwAABQABAAAAHgAWBGVkZ2UDY2RuB2V4YW1wbGUDbmV0AA=="},
        {"rr":{"key":{"class":1,"type":28,"name":"edge.cdn.example.net"},"address":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1]},"raw":"BGVkZ2UDY2RuB2V4YW1wbGUDbmV0AAAcAAEAAAAeABAAAAAAAAAAAAAAAAAAAAAB"},
        {"rr":{"key":{"class":1,"type":1,"name":"edge.cdn.example.net"},"address":[127,9,0,1]},"raw":"BGVkZ2UDY2RuB2V4YW1wbGUDbmV0AAABAAEAAAAeAAR/CQAB"}]},"continues":true}"#;

    fn addresses(answer: &Answer, name: &str) -> Vec<(String, u32)> {
        let found = answer.addresses(&Domain::of_text(name).unwrap());
        found.into_iter().map(|(address, ttl)| (address.to_string(), ttl)).collect()
    }

    #[test]
    fn an_alias_leads_to_addresses_under_the_name_that_was_asked() {
        let Reply::Answer(found) = Reply::of(ALIAS.as_bytes()).unwrap() else { panic!() };
        let asked: Vec<_> = found.asked.iter().map(|name| name.plain().unwrap()).collect();
        assert_eq!(asked, ["www.example.org"]);
        let expected = [("::1".to_owned(), 30), ("127.9.0.1".to_owned(), 30)];
        assert_eq!(addresses(&found, "www.example.org"), expected);
    }

    #[test]
    fn other_messages_have_no_addresses() {
        let reply = |text: &str| Reply::of(text.as_bytes()).unwrap();
        assert_eq!(reply(r#"{"parameters":{"ready":true},"continues":true}"#), Reply::Ready);
        let down = r#"{"parameters":{"state":"network-down","question":[{"class":1,"type":1,"name":"a.b"}]},"continues":true}"#;
        assert_eq!(reply(down), Reply::Nothing);
        assert_eq!(reply(&ALIAS.replace("success", "rcode-failure")), Reply::Nothing);
        let error = r#"{"error":"io.systemd.InteractiveAuthenticationRequired","parameters":{}}"#;
        assert_eq!(reply(error), Reply::Error("io.systemd.InteractiveAuthenticationRequired".into()));
        for text in ["", "[]", "{\"parameters\":{\"question\":1}}", "\u{1}"] {
            assert!(Reply::of(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn questions_for_other_types_are_for_no_address() {
        let Reply::Answer(found) = Reply::of(
            ALIAS
                .replace("\"type\":28,\"name\":\"www", "\"type\":16,\"name\":\"www")
                .replace("\"type\":1,\"name\":\"www", "\"type\":65,\"name\":\"www")
                .as_bytes(),
        )
        .unwrap() else {
            panic!()
        };
        assert_eq!(found.asked, BTreeSet::new());
    }

    #[test]
    fn what_is_cached_was_asked_for() {
        let dump = r#"{"parameters":{"dump":[{"protocol":"llmnr","cache":[{"key":{"class":1,"type":1,"name":"x"},"rrs":[{"raw":"BHNob3AHZXhhbXBsZQNvcmcAAAEAAQAAAB4ABH8JAAI="}],"until":1}]},
            {"protocol":"dns","cache":[{"key":{"class":1,"type":1,"name":"shop.example.org"},"rrs":[{"raw":"BHNob3AHZXhhbXBsZQNvcmcAAAEAAQAAAB4ABH8JAAE="}],"until":1},
            {"key":{"class":1,"type":28,"name":"shop.example.org"},"type":"nodata","until":1}]}]}}"#;
        let Reply::Cache(found) = Reply::of(dump.as_bytes()).unwrap() else { panic!() };
        assert_eq!(addresses(&found, "shop.example.org"), [("127.9.0.1".to_owned(), 30)]);
    }

    #[test]
    fn foreign_names_in_an_answer_and_circles_lead_nowhere() {
        let found = answer(
            &["a.org"],
            &[
                ("b.org", 5, "192.0.2.2"),
                ("a.org", 5, "192.0.2.1"),
                ("c.org", 1, "d.org"),
                ("d.org", 1, "c.org"),
                ("e.org", 7, "b.org"),
            ],
        );
        assert_eq!(addresses(&found, "a.org"), [("192.0.2.1".to_owned(), 5)]);
        assert_eq!(addresses(&found, "c.org"), []);
        assert_eq!(addresses(&found, "e.org"), [("192.0.2.2".to_owned(), 5)]);
    }

    #[test]
    fn broken_records_are_passed_over() {
        let raw = |bytes: &[u8]| Record::of(bytes);
        let whole = b"\x01a\0\0\x01\0\x01\0\0\0\x05\0\x04\x01\x02\x03\x04";
        assert!(raw(whole).is_some());
        for cut in 0..whole.len() {
            assert_eq!(raw(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(raw(b"\x01a\0\0\x01\0\x01\xff\0\0\x05\0\x04\x01\x02\x03\x04").unwrap().ttl, 0);
        assert_eq!(raw(b"\x01a\0\0\x1c\0\x01\0\0\0\x05\0\x04\x01\x02\x03\x04"), None);
        assert_eq!(of_base64("AAEC/+8="), Some(vec![0, 1, 2, 255, 239]));
        assert_eq!(of_base64("A*"), None);
    }
}
