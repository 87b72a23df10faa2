//! The daemon's end of the socket: connections, and how much of the daemon each user may have.
//!
//! Nothing here waits for a client. A client that does not take its replies is sent no more of them, and is dropped after a
//! while; what all clients of a user have not taken is bounded. A user's calls take a tenth of the daemon's time at most.

use crate::gather::Gather;
use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsRawFd, RawFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use litemap::LiteMap;
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    socket::{getsockopt, sockopt::PeerCredentials},
};
use serde_json::json;

use super::{
    message::Call,
    wire::{self, Inbox, Outbox},
};

/// How many connections a user may have, and how many all but root may have together. Root's are those of services that
/// wait for their rules, at boot all at once.
const OF_A_USER: usize = 64;
const OF_ROOT: usize = 400;
const OF_ALL: usize = 256;

/// The most bytes that a user's clients may leave untaken, besides one reply.
const UNTAKEN: usize = 8 << 20;

/// How many replies a client may leave untaken before it is dropped, if it watches.
const MISSED: u32 = 16;

/// How many calls are handed out in a turn, each of another user.
const CALLS: usize = 4;

/// How many connections are taken in a turn, and how long the others wait then.
const ACCEPTED: usize = 32;
const BREATH: Duration = Duration::from_millis(1);

/// How many events of epoll are taken in a turn.
const EVENTS: usize = 64;

/// How many times as long as a call took the user's next one waits.
const REST: u32 = 9;

/// How long to wait before connections are taken again when there was no descriptor for one.
const SHORT: Duration = Duration::from_secs(1);

/// What epoll says of the listener.
const LISTENER: u64 = 0;

/// A connection, for as long as the server lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u64);

/// Who is at the other end, as the kernel has it (unix(7), `SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The user.
    pub user: u32,
    /// The process.
    pub process: i32,
}

/// What clients want.
#[derive(Debug)]
pub enum Incoming {
    /// A call of one of our methods. A reply is owed, and no other call comes from there before.
    Call(ClientId, Peer, Call),
    /// A client to whom a reply is owed is gone.
    Gone(ClientId),
    /// A client that missed a reply has taken those before.
    Ready,
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way, and more may follow.
    More,
    /// It is not sent, since the client has not taken those before.
    Missed,
    /// There is nobody who is owed another one.
    Last,
}

/// The socket and its connections.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
    epoll: Epoll,
    connections: LiteMap<ClientId, Connection>,
    last: u64,
    /// The one of which a call was taken last.
    served: ClientId,
    /// Connections that may have sent something.
    with_input: BTreeSet<ClientId>,
    /// Until when nothing is taken from a user.
    rests: LiteMap<u32, Duration>,
    /// Whether somebody may want to connect, and until when nobody is let in.
    is_called: bool,
    retry: Option<Duration>,
    events: Vec<EpollEvent>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    peer: Peer,
    inbox: Inbox,
    outbox: Outbox,
    state: State,
    /// Whether the other end sends no more.
    is_half: bool,
    /// How many replies it was not sent, since it did not take those before.
    missed: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It may send a call.
    Free,
    /// A reply is owed; none is sent if it wants none.
    Owed { oneway: bool },
    /// It ends once all is sent.
    Ending,
}

impl Server {
    /// Listens at a path. What an ended daemon left there is replaced; a directory that is missing is made.
    ///
    /// # Errors
    /// The system's; `AddrInUse` if somebody listens there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).is_ok() {
            return Err(ErrorKind::AddrInUse.into());
        }
        if let Some(directory) = path.parent().filter(|one| !one.as_os_str().is_empty()) {
            fs::create_dir_all(directory)?;
        }
        let fresh = path.with_extension(format!("new.{}", std::process::id()));
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        // Everybody may ask; what is answered depends on who asks.
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o666))?;
        fs::rename(&fresh, path)?;
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, LISTENER))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            epoll,
            connections: LiteMap::new(),
            last: LISTENER,
            served: ClientId(LISTENER),
            with_input: BTreeSet::new(),
            rests: LiteMap::new(),
            is_called: true,
            retry: None,
            events: Vec::new(),
        })
    }

    /// When [`Self::take`] is to be called even if the descriptor is not ready.
    pub fn due(&self) -> Option<Duration> {
        let rest = |id: &ClientId| self.rests.get(&self.connections.get(id)?.peer.user).copied();
        let input = self.with_input.iter().filter(|id| self.may_call(**id));
        input.map(|id| rest(id).unwrap_or_default()).chain(self.retry).min()
    }

    /// Whether a connection is one from which the next call may be taken.
    fn may_call(&self, id: ClientId) -> bool {
        self.connections.get(&id).is_some_and(|one| one.state == State::Free && one.outbox.pending() == 0)
    }

    /// Learns which connections have something.
    ///
    /// # Errors
    /// `WouldBlock` if none has.
    pub fn hear(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        self.events.extend(&events[..count]);
        if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    /// Takes what there is, up to a share. Does not wait.
    pub fn take(&mut self, now: Duration) -> Vec<Incoming> {
        let mut all = Vec::new();
        for event in std::mem::take(&mut self.events) {
            match event.data() {
                LISTENER => self.is_called = true,
                number => all.extend(self.heard(ClientId(number), event.events())),
            }
        }
        self.retry.take_if(|at| *at <= now);
        self.accept(now);
        self.rests.retain(|_, until| *until > now);
        let mut served: Vec<u32> = self.rests.keys().copied().gather();
        let mut calls = 0;
        // Whoever comes after the one that was served last, so that each has its turn.
        let (before, after): (Vec<ClientId>, Vec<ClientId>) =
            self.with_input.iter().filter(|id| self.may_call(**id)).partition(|id| **id <= self.served);
        for id in after.into_iter().chain(before) {
            let Some(user) = self.connections.get(&id).map(|one| one.peer.user) else { continue };
            if calls < CALLS && !served.contains(&user) {
                let begun = Instant::now();
                if self.serve(id, &mut all) {
                    served.push(user);
                    calls += 1;
                    self.served = id;
                }
                self.charge(user, now, begun.elapsed());
            }
        }
        all
    }

    /// How many bytes are held for clients: what they have sent and nobody has taken, and what they have not read.
    pub fn held(&self) -> usize {
        self.connections.values().map(|one| one.inbox.held() + one.outbox.pending()).sum()
    }

    /// Takes a call of one of our methods from a client; whether there was one. Others are answered here.
    fn serve(&mut self, id: ClientId, all: &mut Vec<Incoming>) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        match connection.take() {
            Ok(Some(call)) => {
                connection.state = State::Owed { oneway: call.oneway };
                if wire::method_of(&call).is_some() {
                    all.push(Incoming::Call(id, connection.peer, call));
                } else {
                    let _ = self.answer(id, wire::of_the_service(&call), false);
                }
                true
            }
            Ok(None) => {
                self.with_input.remove(&id);
                false
            }
            Err(_) => {
                self.close(id);
                false
            }
        }
    }

    /// What epoll says of a connection.
    fn heard(&mut self, id: ClientId, events: EpollFlags) -> Option<Incoming> {
        let connection = self.connections.get_mut(&id)?;
        if events.contains(EpollFlags::EPOLLIN) {
            self.with_input.insert(id);
        }
        let is_gone = events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        let was_owed = matches!(connection.state, State::Owed { .. });
        if (is_gone && was_owed) || !self.flush(id) {
            self.close(id);
            return was_owed.then_some(Incoming::Gone(id));
        }
        let connection = self.connections.get(&id)?;
        (was_owed && connection.missed > 0 && connection.outbox.pending() == 0).then_some(Incoming::Ready)
    }

    fn accept(&mut self, now: Duration) {
        for _ in 0..ACCEPTED {
            if !self.is_called || self.retry.is_some() {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => drop(self.welcome(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_called = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Out of descriptors or memory: they wait in the kernel's queue.
                Err(_) => self.retry = Some(now.saturating_add(SHORT)),
            }
        }
        // There may be no end of them.
        self.retry = self.is_called.then(|| now.saturating_add(BREATH));
    }

    fn welcome(&mut self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let credentials = getsockopt(&stream, PeerCredentials)?;
        let peer = Peer { user: credentials.uid(), process: credentials.pid() };
        let of_user = self.connections.values().filter(|one| one.peer.user == peer.user).count();
        let of_all = self.connections.values().filter(|one| one.peer.user != 0).count();
        let most = if peer.user == 0 { OF_ROOT } else { OF_A_USER };
        self.last += 1;
        let id = ClientId(self.last);
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        let mut connection = Connection::new(stream, peer);
        if of_user >= most || (peer.user != 0 && of_all >= OF_ALL) {
            return connection.refuse("too many connections are open: close some, or try again later");
        }
        self.epoll.add(&connection.stream, EpollEvent::new(flags, id.0))?;
        connection.state = State::Free;
        self.connections.insert(id, connection);
        self.with_input.insert(id);
        Ok(())
    }

    /// Notes how long the daemon was busy with a user's call.
    pub fn charge(&mut self, user: u32, now: Duration, took: Duration) {
        // Root can have the daemon do whatever it likes, and the waits of services are root's.
        if user == 0 {
            return;
        }
        let until = self.rests.entry(user).or_insert(now);
        *until = now.max(*until).saturating_add(took.saturating_mul(REST));
    }

    /// Sends a reply that is owed. With `continues` there are more to come.
    pub fn answer(&mut self, id: ClientId, message: Arc<[u8]>, continues: bool) -> Sent {
        let Some(connection) = self.connections.get(&id) else { return Sent::Last };
        let State::Owed { oneway } = connection.state else { return Sent::Last };
        // Who wants no reply is owed no more of them.
        let continues = continues && !oneway;
        let user = connection.peer.user;
        let of_user = self.connections.values().filter(|one| one.peer.user == user);
        let untaken: usize = of_user.map(|one| one.outbox.pending()).sum();
        let Some(connection) = self.connections.get_mut(&id) else { return Sent::Last };
        let is_missed = !oneway && (connection.outbox.pending() > 0 || untaken > UNTAKEN);
        if is_missed {
            connection.missed += 1;
            if connection.missed >= MISSED || !continues {
                connection.drop_with("what was sent before has not been read");
            }
        } else if !oneway {
            connection.missed = 0;
            connection.outbox.push(message);
        }
        if !continues && connection.state != State::Ending {
            connection.state = State::Free;
        }
        let is_owed = matches!(connection.state, State::Owed { .. });
        match (self.flush(id), is_owed) {
            (true, true) if is_missed => Sent::Missed,
            (true, true) => Sent::More,
            (true, false) => Sent::Last,
            (false, _) => {
                self.close(id);
                Sent::Last
            }
        }
    }

    /// Sends what the client takes; whether the connection goes on.
    fn flush(&mut self, id: ClientId) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return true };
        let is_open = connection.send();
        let is_over = connection.outbox.pending() == 0
            && match connection.state {
                State::Ending => true,
                State::Free => connection.is_half && connection.inbox.is_empty(),
                State::Owed { .. } => false,
            };
        is_open && !is_over
    }

    fn close(&mut self, id: ClientId) {
        self.with_input.remove(&id);
        // Closing takes it out of epoll, too.
        self.connections.remove(&id);
    }
}

impl AsRawFd for Server {
    /// A descriptor that is readable when there is something for [`Self::take`].
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.0.as_raw_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Connection {
    fn new(stream: UnixStream, peer: Peer) -> Self {
        let (inbox, outbox) = (Inbox::default(), Outbox::default());
        Self { stream, peer, inbox, outbox, state: State::Free, is_half: false, missed: 0 }
    }

    /// The next call, if there is one.
    fn take(&mut self) -> io::Result<Option<Call>> {
        loop {
            match self.inbox.call() {
                Ok(Some(call)) => return Ok(Some(call)),
                Ok(None) if self.is_half => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(None) => {}
                Err(wire::NoCall) => return Err(ErrorKind::InvalidData.into()),
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => self.is_half = true,
                Ok(count) => self.inbox.push(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends what the client takes; whether it can still be sent something.
    fn send(&mut self) -> bool {
        while let Some(bytes) = self.outbox.next() {
            match self.stream.write(bytes) {
                Ok(count) => self.outbox.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Says why it ends at once. What it has sent is read, and it can send no more: otherwise the kernel would have it see an
    /// error in place of the words (unix(7)).
    fn refuse(&mut self, words: &str) -> io::Result<()> {
        self.stream.write_all(&wire::error("TooMuch", &json!({ "words": words })))?;
        self.stream.shutdown(Shutdown::Read)?;
        while self.stream.read(&mut [0; 4096])? > 0 {}
        Ok(())
    }

    /// Ends it once it has taken what it has begun to take, and this.
    fn drop_with(&mut self, words: &str) {
        self.outbox.cut();
        self.outbox.push(wire::error("TooMuch", &json!({ "words": words })));
        self.state = State::Ending;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    /// A server at a path of its own, and how to connect to it.
    fn server(test: &str) -> (Server, PathBuf) {
        let path = std::env::temp_dir().join(format!("scnpm-server-{test}-{}", std::process::id()));
        (Server::bind(&path).unwrap(), path)
    }

    fn connect(path: &Path) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(path).unwrap())
    }

    fn send(client: &mut BufReader<UnixStream>, message: &[u8]) {
        client.get_mut().write_all(message).unwrap();
    }

    fn reply(client: &mut BufReader<UnixStream>) -> String {
        let mut message = Vec::new();
        client.read_until(0, &mut message).unwrap();
        String::from_utf8(message).unwrap()
    }

    /// What there is, after all that has happened so far, once nobody rests.
    fn taken(server: &mut Server, mut now: Duration) -> Vec<Incoming> {
        while server.hear().is_ok() {}
        let mut all = server.take(now);
        while let Some(due) = server.due() {
            now = now.max(due);
            all.extend(server.take(now));
        }
        all
    }

    const WATCH: &[u8] = b"{\"method\": \"io.scnpm.GetStatus\", \"more\": true}\0";

    fn only_call(all: &[Incoming]) -> ClientId {
        match all {
            [Incoming::Call(client, ..)] => *client,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_reads_nothing_is_dropped_and_told_so() {
        let (mut server, path) = server("dropped");
        let mut client = connect(&path);
        send(&mut client, WATCH);
        let id = only_call(&taken(&mut server, Duration::ZERO));
        let large: Arc<[u8]> = [vec![b'x'; 1 << 20], vec![0]].concat().into();
        assert_eq!(server.answer(id, Arc::clone(&large), true), Sent::More);
        for _ in 1..MISSED {
            assert_eq!(server.answer(id, Arc::clone(&large), true), Sent::Missed);
        }
        assert_eq!(server.answer(id, Arc::clone(&large), true), Sent::Last);
        let reader = std::thread::spawn(move || (reply(&mut client), reply(&mut client), reply(&mut client)));
        while !reader.is_finished() {
            taken(&mut server, Duration::ZERO);
        }
        let (first, second, end) = reader.join().unwrap();
        assert_eq!(first.len(), large.len(), "what was begun is sent to the end");
        assert!(second.contains("io.scnpm.TooMuch"), "{second}");
        assert_eq!(end, "");
        assert!(server.connections.is_empty());
    }

    #[test]
    fn who_has_missed_something_is_heard_of_once_it_has_read() {
        let (mut server, path) = server("missed");
        let mut client = connect(&path);
        send(&mut client, WATCH);
        let id = only_call(&taken(&mut server, Duration::ZERO));
        let large: Arc<[u8]> = [vec![b'x'; 1 << 20], vec![0]].concat().into();
        server.answer(id, Arc::clone(&large), true);
        assert_eq!(server.answer(id, Arc::clone(&large), true), Sent::Missed);
        let reader = std::thread::spawn(move || {
            reply(&mut client);
            client
        });
        while !taken(&mut server, Duration::ZERO).iter().any(|one| matches!(one, Incoming::Ready)) {}
        let mut client = reader.join().unwrap();
        assert_eq!(server.answer(id, [b'y', 0].as_slice().into(), true), Sent::More);
        assert_eq!(reply(&mut client), "y\0");
    }

    #[test]
    fn who_has_no_room_is_told_so_whatever_it_has_sent() {
        let (mut server, path) = server("room");
        let most = if nix::unistd::geteuid().is_root() { OF_ROOT } else { OF_A_USER };
        let mut all: Vec<_> = Vec::new();
        for _ in 0..=most {
            all.push(connect(&path));
            taken(&mut server, Duration::ZERO);
        }
        assert_eq!(server.connections.len(), most);
        let mut late = connect(&path);
        send(&mut late, WATCH);
        assert!(taken(&mut server, Duration::ZERO).is_empty());
        assert!(reply(&mut late).contains("io.scnpm.TooMuch"));
        all.clear();
        taken(&mut server, Duration::ZERO);
        let mut next = connect(&path);
        send(&mut next, WATCH);
        only_call(&taken(&mut server, Duration::ZERO));
    }

    #[test]
    fn a_user_rests_after_a_call_and_each_client_has_its_turn() {
        let (mut server, path) = server("turns");
        let mut clients: Vec<_> = (0..3).map(|_| connect(&path)).collect();
        for client in &mut clients {
            send(client, &[b"{\"method\": \"io.scnpm.GetStatus\"}\0".as_slice(); 2].concat());
        }
        let mut order = Vec::new();
        while server.hear().is_ok() {}
        for turn in 0..6 {
            let all = server.take(Duration::from_secs(turn));
            order.push(only_call(&all));
            let done: Arc<[u8]> = b"{}\0".as_slice().into();
            assert_eq!(server.answer(order[order.len() - 1], done, false), Sent::Last);
        }
        assert_eq!(order[..3], order[3..]);
        server.charge(1, Duration::ZERO, Duration::from_secs(1));
        assert_eq!(server.rests.get(&1), Some(&Duration::from_secs(REST.into())));
        server.charge(0, Duration::ZERO, Duration::from_secs(1));
        assert!(!server.rests.contains_key(&0), "root is never made to wait");
    }

    /// Has the server take everybody for an ordinary user.
    fn demote(server: &mut Server) {
        server.connections.iter_mut().for_each(|(_, one)| one.peer.user = 1);
    }

    #[test]
    fn who_connects_without_end_is_let_in_in_turns() {
        let (mut server, path) = server("flood");
        // No more than an ordinary user may have.
        let clients: Vec<_> = (0..ACCEPTED + 1).map(|_| connect(&path)).collect();
        while server.hear().is_ok() {}
        server.take(Duration::ZERO);
        assert_eq!(server.connections.len(), ACCEPTED);
        let late = connect(&path);
        assert!(server.hear().is_ok());
        server.take(Duration::ZERO);
        assert_eq!(server.connections.len(), ACCEPTED, "another one does not hurry it");
        assert_eq!(server.retry, Some(BREATH));
        assert!(server.due().is_some());
        server.take(BREATH);
        assert_eq!(server.connections.len(), clients.len() + 1);
        assert_eq!(server.retry, None);
        drop(late);
    }

    #[test]
    fn a_user_rests_after_whatever_it_has_sent() {
        let (mut server, path) = server("charged");
        for sent in [&b"{\"method\": \"org.varlink.service.GetInfo\"}\0"[..], b"no call\0", b"a part of one"]
        {
            let mut client = connect(&path);
            while server.hear().is_ok() {}
            server.take(Duration::ZERO);
            demote(&mut server);
            server.rests.clear();
            send(&mut client, sent);
            while server.hear().is_ok() {}
            server.take(Duration::ZERO);
            let rest = server.rests[&1];
            assert!(rest > Duration::ZERO);
            server.charge(1, Duration::ZERO, Duration::from_secs(1));
            assert_eq!(
                server.rests[&1],
                rest + Duration::from_secs(REST.into()),
                "one call after the other counts"
            );
        }
    }

    #[test]
    fn who_wants_no_reply_is_not_told_of_changes() {
        let (mut server, path) = server("oneway");
        let mut client = connect(&path);
        send(&mut client, b"{\"method\": \"io.scnpm.GetStatus\", \"more\": true, \"oneway\": true}\0");
        send(&mut client, WATCH);
        let id = only_call(&taken(&mut server, Duration::ZERO));
        assert_eq!(server.answer(id, [b'x', 0].as_slice().into(), true), Sent::Last);
        assert_eq!(server.answer(id, [b'x', 0].as_slice().into(), true), Sent::Last);
        assert_eq!(only_call(&taken(&mut server, Duration::ZERO)), id);
        assert_eq!(server.answer(id, [b'y', 0].as_slice().into(), true), Sent::More);
        assert_eq!(reply(&mut client), "y\0");
    }
}
