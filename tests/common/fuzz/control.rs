//! What holds of all that may come over the control socket, and of what may come from it.
//!
//! An input is frames, each with its length in front, in two bytes, the low one first. A frame begins with its kind; in
//! those of a client its number follows, `0` to `3`:
//!
//! ```text
//! s N BYTES          it sends this
//! f N COUNT BYTES    it sends this so often; two bytes, the low one first
//! r N                it reads what there is
//! h N                it sends no more
//! c N                it is gone
//! t                  the daemon has a turn
//! w                  something changes, and watchers are told so
//! e                  there is nothing left to watch, and watchers are told so
//! d BYTES            a daemon sends this to the commands that ask it
//! ```
//!
//! All is done twice: as it stands, with clients that read when they are told to, and then what each client sends by
//! itself, in pieces of several lengths, to a client that reads what it gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use scnpm::{
    cli::Format,
    control::{
        client::{Client, Error},
        message::{
            Allow, Allowed, Call, Confirm, Disallowed, GetRefusals, GetStatus, Method, Nothing, Refusals,
            Reload, Reloaded, StatusReply, Wait, Waited,
        },
        server::{ClientId, Incoming, Sent, Server},
        wire::{self, Ask, CALL_LIMIT},
    },
    report,
};
use serde_json::{Value, json};

use super::frames;

/// How many bytes a frame of many, and all clients together, send at most.
const FILL: usize = 70_000;
const ALL: usize = 300_000;

/// How long the longest answer here is: more than a socket takes (socket(7), `wmem_default`).
const LARGE: usize = 300_000;

/// What was seen.
#[derive(Debug, Default)]
pub struct Found {
    /// The answers to all clients.
    pub answers: Vec<Value>,
    /// How many clients the server has closed.
    pub ended: usize,
    /// What commands made of the answers of a daemon: the kind of error, or `Reply`.
    pub told: Vec<String>,
}

/// Panics if something does not hold.
pub fn check(input: &[u8]) -> Found {
    let steps = steps(input);
    let mut found = Found::default();
    check_as_it_stands(&steps, &mut found);
    check_pieces(&steps, &mut found);
    for step in &steps {
        if let Step::Daemon(bytes) = step {
            check_commands(bytes, &mut found);
        }
    }
    found
}

enum Step<'a> {
    Send(usize, Vec<u8>),
    Read(usize),
    Half(usize),
    Gone(usize),
    Turn,
    Tell { is_last: bool },
    Daemon(&'a [u8]),
}

fn steps(input: &[u8]) -> Vec<Step<'_>> {
    let mut left = ALL;
    frames(input).into_iter().filter_map(|frame| step(frame, &mut left)).collect()
}

fn step<'a>(frame: &'a [u8], left: &mut usize) -> Option<Step<'a>> {
    let (kind, rest) = frame.split_first()?;
    match kind {
        b't' => return Some(Step::Turn),
        b'w' => return Some(Step::Tell { is_last: false }),
        b'e' => return Some(Step::Tell { is_last: true }),
        b'd' => return Some(Step::Daemon(rest)),
        _ => {}
    }
    let (client, rest) = rest.split_first()?;
    let client = usize::from(client.wrapping_sub(b'0') % 4);
    let mut sent = match kind {
        b's' => rest.to_vec(),
        b'f' => {
            let (count, bytes) = rest.split_first_chunk()?;
            let count = usize::from(u16::from_le_bytes(*count)).min(FILL / bytes.len().max(1));
            bytes.repeat(count)
        }
        b'r' => return Some(Step::Read(client)),
        b'h' => return Some(Step::Half(client)),
        b'c' => return Some(Step::Gone(client)),
        _ => return None,
    };
    sent.truncate(*left);
    *left -= sent.len();
    Some(Step::Send(client, sent))
}

/// A daemon that has the real server, and knows a few answers.
struct Daemon {
    server: Server,
    path: PathBuf,
    now: Duration,
    /// Who is owed an answer, and which: those who wait.
    waits: BTreeMap<ClientId, Arc<[u8]>>,
    watchers: BTreeSet<ClientId>,
    told: u32,
}

impl Daemon {
    fn new() -> Self {
        let path = path();
        let server = Server::bind(&path).expect("a path of its own");
        let (waits, watchers) = (BTreeMap::new(), BTreeSet::new());
        Self { server, path, now: Duration::ZERO, waits, watchers, told: 0 }
    }

    /// Whether there was anything to do.
    fn turn(&mut self) -> bool {
        let mut is_busy = false;
        while self.server.hear().is_ok() {
            is_busy = true;
        }
        if let Some(due) = self.server.due() {
            self.now = self.now.max(due);
            is_busy = true;
        }
        for one in self.server.take(self.now) {
            is_busy = true;
            match one {
                Incoming::Call(client, _, call) => self.called(client, call),
                Incoming::Gone(client) => {
                    let was_owed = self.waits.remove(&client).is_some() | self.watchers.remove(&client);
                    assert!(was_owed, "who is owed nothing is not missed");
                    assert_eq!(self.server.answer(client, Arc::default(), false), Sent::Last);
                }
                Incoming::Ready => assert!(!self.watchers.is_empty()),
            }
        }
        let most = 2 * (CALL_LIMIT + 4096) + LARGE + CALL_LIMIT;
        assert!(self.server.held() <= 4 * most, "{} bytes are held", self.server.held());
        is_busy
    }

    fn called(&mut self, client: ClientId, call: Call) {
        assert!(!self.waits.contains_key(&client) && !self.watchers.contains(&client), "one at a time");
        let oneway = call.oneway;
        let (kind, message) = answer(call);
        match kind {
            Kind::Last => assert_eq!(self.server.answer(client, message, false), Sent::Last),
            Kind::Later => drop(self.waits.insert(client, message)),
            Kind::Watch => {
                let sent = self.server.answer(client, message, true);
                assert_ne!(sent, Sent::Missed, "all before is read");
                assert!(!oneway || sent == Sent::Last);
                if sent == Sent::More {
                    self.watchers.insert(client);
                }
            }
        }
    }

    /// Whether anybody waited.
    fn answer_waits(&mut self) -> bool {
        let waits = std::mem::take(&mut self.waits);
        for (client, message) in &waits {
            assert_eq!(self.server.answer(*client, Arc::clone(message), false), Sent::Last);
        }
        !waits.is_empty()
    }

    fn tell_watchers(&mut self, is_last: bool) {
        self.told += 1;
        let message =
            if is_last { wire::error("NoSuchUnit", &json!({ "unit": "a" })) } else { change(self.told) };
        for client in std::mem::take(&mut self.watchers) {
            let sent = self.server.answer(client, Arc::clone(&message), !is_last);
            assert!(!is_last || sent == Sent::Last);
            if sent != Sent::Last {
                self.watchers.insert(client);
            }
        }
    }
}

/// A path that nobody else has.
fn path() -> PathBuf {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("scnpm-fuzz-control-{}-{number}", std::process::id()))
}

/// What watchers are told.
fn change(number: u32) -> Arc<[u8]> {
    wire::reply(&json!({ "change": number, "filling": "x".repeat(LARGE / 2) }), true)
}

enum Kind {
    Last,
    Later,
    Watch,
}

/// The answer to a call.
fn answer(call: Call) -> (Kind, Arc<[u8]>) {
    if wire::method_of(&call).is_none() {
        return (Kind::Last, wire::of_the_service(&call));
    }
    let more = call.more;
    match wire::ask(call) {
        Err(refusal) => (Kind::Last, refusal),
        Ok(Ask::GetStatus(GetStatus { unit })) => match unit.as_deref() {
            Some("none") => (Kind::Last, wire::error("NoSuchUnit", &json!({ "unit": "none" }))),
            Some("large") => (Kind::Last, wire::reply(&json!({ "filling": "x".repeat(LARGE) }), false)),
            _ if more => (Kind::Watch, wire::reply(&StatusReply::default(), true)),
            _ => (Kind::Last, wire::reply(&StatusReply::default(), false)),
        },
        Ok(Ask::Wait(Wait { cgroup, unit })) => {
            assert!([&cgroup, &unit].iter().all(|one| one.as_ref().is_none_or(|text| text.len() <= 4096)));
            (Kind::Later, wire::reply(&Waited::default(), false))
        }
        Ok(Ask::GetRefusals(GetRefusals { unit, .. })) => {
            assert!(unit.is_none_or(|unit| unit.len() <= 1024));
            (if more { Kind::Watch } else { Kind::Last }, wire::reply(&Refusals::default(), more))
        }
        Ok(Ask::Allow(Allow { unit, address, for_ms, .. })) => {
            assert!(!unit.is_empty() && unit.len() <= 1024 && !address.is_empty() && for_ms > 0);
            (Kind::Later, wire::reply(&Allowed::default(), false))
        }
        Ok(Ask::Disallow(_)) => (Kind::Later, wire::reply(&Disallowed::default(), false)),
        Ok(Ask::Reload(Reload { color, .. })) => {
            let reloaded = Reloaded { loaded: color, ..Reloaded::default() };
            (Kind::Later, wire::reply(&reloaded, false))
        }
        Ok(Ask::Confirm) => (Kind::Last, wire::error("NothingOnTrial", &json!({ "words": "nothing" }))),
        Ok(Ask::Revert) => (Kind::Last, wire::reply(&Nothing {}, false)),
    }
}

/// What somebody is sent who reads all of it, and whether the server ends the connection.
struct Expected {
    answers: Vec<Arc<[u8]>>,
    is_over: bool,
    watches: bool,
}

impl Expected {
    fn of(sent: &[u8], is_half: bool) -> Self {
        let (mut answers, mut rest) = (Vec::new(), sent);
        let over = |answers| Self { answers, is_over: true, watches: false };
        while let Some(end) = rest.iter().position(|byte| *byte == 0) {
            let Some(call) = decoded(&rest[..end]) else { return over(answers) };
            rest = &rest[end + 1..];
            let oneway = call.oneway;
            let (kind, message) = answer(call);
            if !oneway {
                answers.push(message);
            }
            if matches!(kind, Kind::Watch) && !oneway {
                return Self { answers, is_over: false, watches: true };
            }
        }
        Self { answers, is_over: is_half || rest.len() > CALL_LIMIT, watches: false }
    }
}

/// The call that bytes are, if they are one.
fn decoded(bytes: &[u8]) -> Option<Call> {
    let call = serde_json::from_slice::<Call>(bytes).ok().filter(|_| bytes.len() <= CALL_LIMIT)?;
    let is_object = bytes.iter().find(|byte| !b" \t\r\n".contains(byte)) == Some(&b'{');
    is_object.then_some(call)
}

struct ClientEnd {
    stream: UnixStream,
    got: Vec<u8>,
    /// Whether it knows that the server has closed it.
    is_over: bool,
}

impl ClientEnd {
    fn new(daemon: &Daemon) -> Self {
        let stream = UnixStream::connect(&daemon.path).expect("somebody listens");
        stream.set_nonblocking(true).unwrap();
        Self { stream, got: Vec::new(), is_over: false }
    }

    /// Sends what the socket takes; how much that was. Nobody reads the rest if it is all of it.
    fn send(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    let is_closed =
                        [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind());
                    assert!(is_closed, "{error}");
                    return bytes.len();
                }
            }
        }
        sent
    }

    /// Whether there was anything to read.
    fn read(&mut self) -> bool {
        let before = (self.got.len(), self.is_over);
        let mut buffer = vec![0; 1 << 16];
        while !self.is_over {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.is_over = true,
                Ok(count) => self.got.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // What it has sent and the server has not read is lost.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.is_over = true,
                Err(error) => panic!("{error}"),
            }
        }
        before != (self.got.len(), self.is_over)
    }

    /// The messages that it got, each with its end.
    fn messages(&self) -> Vec<&[u8]> {
        assert!(self.got.last().is_none_or(|last| *last == 0), "the last message has its end");
        let messages: Vec<&[u8]> = self.got.split_inclusive(|byte| *byte == 0).collect();
        messages.iter().for_each(|message| drop(value(message)));
        messages
    }
}

/// A message's JSON object.
fn value(message: &[u8]) -> Value {
    let value: Value = serde_json::from_slice(message.strip_suffix(&[0]).unwrap()).expect("JSON");
    assert!(value.is_object() && value.get("parameters").is_some_and(Value::is_object), "{value}");
    value
}

/// Goes on until nothing happens.
fn settle(daemon: &mut Daemon, clients: &mut BTreeMap<usize, ClientEnd>) {
    loop {
        let mut is_busy = daemon.turn() | daemon.answer_waits();
        for client in clients.values_mut() {
            is_busy |= client.read();
        }
        if !is_busy {
            return;
        }
    }
}

/// Everything in the order in which it stands.
fn check_as_it_stands(steps: &[Step<'_>], found: &mut Found) {
    let mut daemon = Daemon::new();
    let mut clients: BTreeMap<usize, ClientEnd> = BTreeMap::new();
    let (mut sent, mut halves, mut gone) =
        (BTreeMap::<usize, Vec<u8>>::new(), BTreeSet::new(), BTreeSet::new());
    for step in steps {
        if let Step::Send(number, _) | Step::Half(number) | Step::Read(number) = step
            && !gone.contains(number)
        {
            clients.entry(*number).or_insert_with(|| ClientEnd::new(&daemon));
        }
        match step {
            Step::Send(number, bytes) if !halves.contains(number) => {
                let Some(client) = clients.get_mut(number) else { continue };
                let count = client.send(bytes);
                sent.entry(*number).or_default().extend(&bytes[..count]);
            }
            Step::Half(number) if clients.contains_key(number) => {
                halves.insert(*number);
                let _ = clients[number].stream.shutdown(Shutdown::Write);
            }
            Step::Read(number) => drop(clients.get_mut(number).map(ClientEnd::read)),
            Step::Gone(number) => {
                gone.insert(*number);
                clients.remove(number);
            }
            Step::Turn => drop(daemon.turn()),
            Step::Tell { is_last } => daemon.tell_watchers(*is_last),
            Step::Send(..) | Step::Half(_) | Step::Daemon(_) => {}
        }
    }
    settle(&mut daemon, &mut clients);
    for (number, client) in &clients {
        let sent = sent.get(number).map_or(&[][..], Vec::as_slice);
        check_answers(client, &Expected::of(sent, halves.contains(number)));
        found.answers.extend(client.messages().into_iter().map(value));
        found.ended += usize::from(client.is_over);
    }
    clients.clear();
    settle(&mut daemon, &mut clients);
    assert_eq!((daemon.watchers.len(), daemon.server.held()), (0, 0), "nothing is left of who is gone");
}

/// What clients get who do not always read, while something changes.
fn check_answers(client: &ClientEnd, expected: &Expected) {
    let (messages, mut all) = (client.messages(), expected.answers.iter());
    let mut messages = messages.into_iter().peekable();
    while let Some(answer) = all.as_slice().first()
        && messages.peek().is_some_and(|message| *message == &**answer)
    {
        messages.next();
        all.next();
    }
    let rest: Vec<Value> = messages.map(value).collect();
    if rest.is_empty() {
        assert_eq!((all.len(), client.is_over), (0, expected.is_over));
        return;
    }
    // Only who watches gets anything else: changes, each later than the one before, and how that ends.
    let is_dropped = rest.last().is_some_and(|end| end["error"] == "io.scnpm.TooMuch");
    assert!(expected.watches && (all.len() == 0 || is_dropped), "{rest:?}");
    let of = |value: &Value| value["parameters"]["change"].as_u64();
    let changes: Vec<u64> = rest.iter().map_while(of).collect();
    assert!(changes.is_sorted_by(|one, other| one < other), "{changes:?}");
    match &rest[changes.len()..] {
        [] => assert!(!client.is_over),
        [_] if is_dropped => assert!(client.is_over),
        // What it has sent meanwhile is taken up after that.
        [end, ..] => assert_eq!(end["error"], "io.scnpm.NoSuchUnit"),
    }
}

/// What each client sends, in pieces, and whether it sends no more after that.
type Streams<'a> = BTreeMap<usize, (Vec<&'a [u8]>, bool)>;

/// However what clients send is split, and whoever else is there, they get the same.
fn check_pieces(steps: &[Step<'_>], found: &mut Found) {
    let mut sent = Streams::new();
    for step in steps {
        match step {
            Step::Send(number, bytes) => sent.entry(*number).or_default().0.push(bytes),
            Step::Half(number) => sent.entry(*number).or_default().1 = true,
            _ => {}
        }
    }
    let whole: BTreeMap<usize, (Vec<u8>, bool)> =
        sent.iter().map(|(number, (pieces, half))| (*number, (pieces.concat(), *half))).collect();
    let expected: BTreeMap<usize, Expected> =
        whole.iter().map(|(number, (sent, half))| (*number, Expected::of(sent, *half))).collect();
    check_eager(&sent, &expected);
    for count in [1, 2, 17] {
        let pieces = |sent: &'_ [u8]| sent.len().div_ceil(count).max(1);
        let split = whole
            .iter()
            .map(|(number, (sent, half))| (*number, (sent.chunks(pieces(sent)).collect(), *half)))
            .collect();
        check_eager(&split, &expected);
    }
    found.answers.extend(expected.values().flat_map(|one| one.answers.iter().map(|answer| value(answer))));
}

/// Clients that read all that they get, each of which sends a piece in turn.
fn check_eager(sent: &Streams<'_>, expected: &BTreeMap<usize, Expected>) {
    let mut daemon = Daemon::new();
    let mut clients: BTreeMap<usize, ClientEnd> =
        sent.keys().map(|number| (*number, ClientEnd::new(&daemon))).collect();
    let turns = sent.values().map(|(pieces, _)| pieces.len()).max().unwrap_or_default();
    for turn in 0..turns {
        for (number, (pieces, _)) in sent {
            let mut rest = pieces.get(turn).copied().unwrap_or_default();
            loop {
                let count = clients.get_mut(number).unwrap().send(rest);
                rest = &rest[count..];
                settle(&mut daemon, &mut clients);
                if rest.is_empty() || (count == 0 && expected[number].watches) {
                    break;
                }
            }
        }
    }
    for (number, (_, half)) in sent {
        if *half {
            let _ = clients[number].stream.shutdown(Shutdown::Write);
        }
    }
    settle(&mut daemon, &mut clients);
    for (number, client) in &clients {
        let answers: Vec<&[u8]> = expected[number].answers.iter().map(|answer| &**answer).collect();
        assert_eq!(client.messages(), answers);
        assert_eq!(client.is_over, expected[number].is_over);
    }
}

/// What commands make of what a daemon sends.
fn check_commands(bytes: &[u8], found: &mut Found) {
    ask::<GetStatus>(bytes, found, |reply| {
        for in_depth in [true, false] {
            check_print(|out| report::status::write(&reply.status, u64::MAX / 2, in_depth, out));
        }
    });
    ask::<Wait>(bytes, found, |_| {});
    ask::<Confirm>(bytes, found, |_| {});
    ask::<Reload>(bytes, found, |reply| {
        for format in [Format::Full, Format::Short, Format::Json] {
            check_print(|out| report::reload::write(reply, format, out));
        }
    });
}

/// Nothing that is printed harms a terminal.
fn check_print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    let text = String::from_utf8(out).expect("text");
    let mut pieces = text.split("\x1b[");
    let is_plain = |text: &str| !text.contains(|one: char| one.is_control() && !"\n\t".contains(one));
    assert!(pieces.next().is_none_or(is_plain), "{text:?}");
    for piece in pieces {
        let (colour, rest) = piece.split_once('m').expect("a colour");
        assert!(colour.bytes().all(|byte| byte.is_ascii_digit() || byte == b';'), "{text:?}");
        assert!(is_plain(rest), "{text:?}");
    }
}

fn ask<M: Method>(bytes: &[u8], found: &mut Found, show: impl Fn(&M::Reply)) {
    let path = path();
    let listener = UnixListener::bind(&path).expect("a path of its own");
    let mut client = Client::connect(&path).expect("somebody listens");
    let (mut daemon, _) = listener.accept().unwrap();
    fs::remove_file(&path).unwrap();
    daemon.write_all(bytes).unwrap();
    drop(daemon);
    for _ in 0..=bytes.len() {
        let kind = match client.reply::<M>() {
            Ok((reply, _)) => {
                show(&reply);
                "Reply".to_owned()
            }
            Err(Error::Refused(name, words)) => {
                assert!(!name.contains(char::is_control) && !words.contains(char::is_control));
                name
            }
            Err(Error::Failed(words)) => {
                assert!(!words.contains(char::is_control), "{words:?}");
                "not understood".to_owned()
            }
            Err(Error::Older) => "Older".to_owned(),
            Err(Error::Ended) => {
                found.told.push("Ended".to_owned());
                return;
            }
            Err(other) => panic!("{other:?}"),
        };
        found.told.push(kind);
    }
    panic!("more answers than bytes");
}
