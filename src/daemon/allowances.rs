//! What is allowed for a while: annotations that somebody asks for, in front of where refusals are recorded. The kernel ends
//! them by itself; they are kept in a file, so that a new daemon goes on with the time that is left.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Daemon, sources::Sources};
use crate::{
    control::{
        message::{Allow, Allowance, Allowed, Disallow, Disallowed},
        server::{ClientId, Peer},
        wire,
    },
    gather::Gather,
    model::{ChainRef, Direction},
    policy::{
        Policy,
        admission::{Admission, Peers, Wrong},
        parse,
    },
    units::selector::{Selectors, Users, Whose},
};

/// The name of the text that they stand in.
const NAME: &str = "allowed for a while";

/// The name of the file, beside the control socket.
const FILE: &str = "allowed.json";

/// How many there may be, of a user and of all.
const OF_A_USER: usize = 16;
const OF_ALL: usize = 64;

/// For how long something may be allowed.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// When to try again to take one away whose time is over, if that fails. The kernel has ended it then.
const PAUSE: Duration = Duration::from_secs(1);

/// All that are kept.
#[derive(Default)]
pub(super) struct Allowances {
    all: Vec<Held>,
    /// The last number that was given out.
    last: u64,
    file: Option<PathBuf>,
    /// When it may be tried again to take away what is over.
    retry: Duration,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    number: u64,
    /// The user who asked.
    by: u32,
    /// One for each chain and family.
    lines: Vec<Line>,
    /// When it ends, on the clock that goes on while the machine runs, as the kernel's time-outs do, in ms since it was started.
    until_ms: u64,
}

/// What is allowed in a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    chain: ChainRef,
    /// Without the `#`.
    annotation: String,
}

impl Held {
    fn left(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.until_ms.saturating_sub(now_ms))
    }

    fn shown(&self, now_ms: u64) -> Allowance {
        let annotation = self.lines.first().map(|line| format!("# {}", line.annotation)).unwrap_or_default();
        Allowance { number: self.number, annotation, left_ms: self.until_ms.saturating_sub(now_ms) }
    }
}

/// CLOCK_MONOTONIC (clock_gettime(2)), in ms.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Allowances {
    /// Those that an earlier daemon left, in a file beside this socket.
    pub(super) fn of(socket: &Path) -> Self {
        let file = socket.parent().filter(|_| !socket.as_os_str().is_empty()).map(|one| one.join(FILE));
        let read = |path: &PathBuf| serde_json::from_slice::<Vec<Held>>(&fs::read(path).ok()?).ok();
        let mut all = file.as_ref().and_then(read).unwrap_or_default();
        // A clock that was started anew begins at nothing.
        let now = now_ms();
        let longest = u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX);
        all.retain(|one| one.until_ms > now && one.until_ms - now <= longest);
        Self { last: all.iter().map(|one| one.number).max().unwrap_or(0), all, file, retry: Duration::ZERO }
    }

    /// Puts them behind the annotations of a policy, each with the time that it has left.
    pub(super) fn put_into(&self, policy: &Arc<Policy>) -> Arc<Policy> {
        if self.all.is_empty() {
            return Arc::clone(policy);
        }
        let records: BTreeSet<&ChainRef> = policy.records().map(|(_, chain)| chain).gather();
        let mut with = (**policy).clone();
        let now = now_ms();
        for held in self.all.iter().filter(|held| held.until_ms > now) {
            // The files may have another chain for it now, or none.
            for line in held.lines.iter().filter(|line| records.contains(&line.chain)) {
                for id in parse::append(&mut with, NAME, &format!("# {}\n", line.annotation)) {
                    with.annotations[id].left = Some(held.left(now));
                }
            }
        }
        with.into()
    }

    /// How long until the first of them ends.
    fn first_end(&self) -> Option<Duration> {
        let now = now_ms();
        self.all.iter().map(|held| held.left(now)).min()
    }

    /// Keeps them in the file.
    fn keep(&self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Err(io::Error::other("the daemon has no control socket, beside which they are kept"));
        };
        if self.all.is_empty() {
            return match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let new = file.with_extension("json.new");
        fs::write(&new, serde_json::to_vec(&self.all)?)?;
        fs::rename(new, file)
    }
}

/// A change of what is allowed.
pub(super) enum Ask {
    Allow(Allow),
    Disallow(Disallow),
}

/// An answer that is an error.
type Refusal = Arc<[u8]>;

fn wrong(words: &str) -> Refusal {
    wire::error("Failed", &json!({ "words": words }))
}

impl Daemon {
    /// What is allowed for a while, as far as a user may know.
    pub(super) fn shown_allowances(&self, viewer: u32) -> Vec<Allowance> {
        let now = now_ms();
        let may_see = |held: &&Held| viewer == 0 || held.by == viewer;
        let all = self.allowances.all.iter().filter(may_see).filter(|held| held.until_ms > now);
        all.map(|held| held.shown(now)).collect()
    }

    /// Whether a user may ask for it at all: others than root for their own units only.
    pub(super) fn may_ask(&self, ask: &Ask, peer: Peer) -> Result<(), Refusal> {
        if self.refusals.are_recorded() {
            if let Ask::Allow(allow) = ask {
                selectors(allow, peer.user, &self.users)?;
            }
            return Ok(());
        }
        match ask {
            Ask::Allow(_) => Err(super::refusals::not_recorded(&self.policy)),
            Ask::Disallow(_) => Ok(()),
        }
    }

    /// Does what was asked for and is permitted.
    pub(super) fn change_allowances(
        &mut self,
        sources: &mut Sources,
        client: ClientId,
        peer: Peer,
        ask: Ask,
    ) {
        let done = match ask {
            Ask::Allow(allow) => {
                self.allow(sources, peer, &allow).map(|allowance| wire::reply(&Allowed { allowance }, false))
            }
            Ask::Disallow(Disallow { number }) => {
                self.disallow(sources, peer, number).map(|ended| wire::reply(&Disallowed { ended }, false))
            }
        };
        let answer = done.unwrap_or_else(|refusal| refusal);
        sources.answer(client, answer, false);
    }

    fn allow(&mut self, sources: &mut Sources, peer: Peer, allow: &Allow) -> Result<Allowance, Refusal> {
        let time = Duration::from_millis(allow.for_ms);
        if time > LONGEST {
            return Err(wrong(
                "nothing is allowed for more than 24 hours: `scnpm allow --forever` prints what to write",
            ));
        }
        let selectors = selectors(allow, peer.user, &self.users)?;
        let lines: Vec<Line> = admissions(allow, &selectors, &self.refusals.recording())?
            .into_iter()
            .map(|one| Line { annotation: one.to_string(), chain: one.chain })
            .collect();
        let before = self.allowances.all.clone();
        let count = |of: &dyn Fn(&&Held) -> bool| before.iter().filter(of).count();
        let is_same = |held: &Held| held.by == peer.user && held.lines == lines;
        let is_new = !before.iter().any(is_same);
        if is_new
            && (count(&|_| true) >= OF_ALL
                || peer.user != 0 && count(&|held| held.by == peer.user) >= OF_A_USER)
        {
            return Err(wire::error(
                "TooMuch",
                &json!({ "words": "too much is allowed for a while already: end some of it" }),
            ));
        }
        self.allowances.all.retain(|held| !is_same(held));
        let number = self.allowances.last + 1;
        let until_ms = now_ms() + allow.for_ms;
        self.allowances.all.push(Held { number, by: peer.user, lines, until_ms });
        self.put_allowances_in_force(sources, before)?;
        self.allowances.last = number;
        tracing::info!("allowed for {} s by user {}: {allow:?}", time.as_secs_f64(), peer.user);
        let held = self.allowances.all.last().map(|held| held.shown(now_ms()));
        Ok(held.unwrap_or_default())
    }

    fn disallow(&mut self, sources: &mut Sources, peer: Peer, number: Option<u64>) -> Result<usize, Refusal> {
        let before = self.allowances.all.clone();
        let is_meant = |held: &Held| {
            (peer.user == 0 || held.by == peer.user) && number.is_none_or(|number| held.number == number)
        };
        self.allowances.all.retain(|held| !is_meant(held));
        let ended = before.len() - self.allowances.all.len();
        match (ended, number) {
            (0, Some(number)) => {
                let words =
                    format!("nothing of the number {number} is allowed: `scnpm status` lists what is");
                Err(wrong(&words))
            }
            (0, None) => Ok(0),
            _ => self.put_allowances_in_force(sources, before).map(|()| ended),
        }
    }

    /// Keeps and loads them; what was there `before` comes back if that fails.
    fn put_allowances_in_force(&mut self, sources: &mut Sources, before: Vec<Held>) -> Result<(), Refusal> {
        let result = self.keep_and_load(sources);
        if result.is_err() {
            self.allowances.all = before;
            let _ = self.allowances.keep();
        }
        result.map_err(|words| wrong(&words))
    }

    fn keep_and_load(&mut self, sources: &mut Sources) -> Result<(), String> {
        self.allowances.keep().map_err(|error| format!("what is allowed cannot be kept: {error}"))?;
        let plain = Arc::clone(&self.plain);
        self.load(sources, plain, false, false).map_err(|error| error.words)?;
        let refused = self
            .policy
            .iter()
            .find(|(id, annotation)| annotation.left.is_some() && self.refused.contains_key(id));
        match refused {
            Some((id, _)) => Err(format!("nft refuses it: {}", self.refused[&id])),
            None => Ok(()),
        }
    }

    /// When the first of them ends.
    pub(super) fn allowances_timeout(&self) -> Option<Duration> {
        let left = self.allowances.first_end()?;
        Some((self.now() + left).max(self.allowances.retry))
    }

    /// Takes away what is over.
    pub(super) fn end_allowances(&mut self, sources: &mut Sources) {
        if self.allowances_timeout().is_none_or(|due| due > self.now()) {
            return;
        }
        let now = now_ms();
        self.allowances.all.retain(|held| held.until_ms > now);
        if let Err(words) = self.keep_and_load(sources) {
            tracing::warn!("what was allowed for a while is over, and cannot be taken away for now: {words}");
            self.allowances.retry = self.now() + PAUSE;
        }
    }
}

/// The units, whose owner is known.
///
/// # Errors
/// The answer: it is none, or another user's.
fn selectors(allow: &Allow, user: u32, users: &Users) -> Result<Selectors, Refusal> {
    let mut selectors = Selectors::parse(&allow.unit).map_err(|_| wire::invalid("unit"))?;
    for selector in &mut selectors.0 {
        if selector.whose == Whose::Anybody {
            selector.whose = if user == 0 { Whose::System } else { Whose::Uid(user) };
        }
        let is_own = match &selector.whose {
            Whose::Uid(uid) => *uid == user,
            Whose::User(name) => users.get(name) == Some(&user),
            Whose::Anybody | Whose::System | Whose::AnyUser => false,
        };
        if user != 0 && !is_own {
            let words = "you may allow something to your own units only, such as `app:NAME`: run it as root";
            return Err(wire::error("NotPermitted", &json!({ "words": words })));
        }
    }
    Ok(selectors)
}

/// What lets the packets through, in each chain that records.
///
/// # Errors
/// The answer: what is wrong with it.
fn admissions(allow: &Allow, selectors: &Selectors, chains: &[ChainRef]) -> Result<Vec<Admission>, Refusal> {
    let peers = Peers {
        direction: allow.direction.unwrap_or(Direction::Out),
        address: &allow.address,
        protocol: allow.protocol.as_deref(),
        port: allow.port,
    };
    peers.admissions(selectors, chains).map_err(|wrong| match wrong {
        Wrong::Address => wire::invalid("address"),
        Wrong::Protocol => wire::invalid("protocol"),
        Wrong::Port => wire::invalid("port"),
        Wrong::Chains => self::wrong("no chain that records refusals is for such addresses"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, TableRef};

    #[test]
    fn users_may_allow_to_their_own_units_only() {
        let users = Users::from([("alice".to_owned(), 1000)]);
        let of = |unit: &str, user| {
            let allow = Allow { unit: unit.to_owned(), ..Allow::default() };
            selectors(&allow, user, &users).map(|one| one.to_string()).ok()
        };
        assert_eq!(of("a.service", 0).as_deref(), Some("system:a.service"));
        assert_eq!(of("app:firefox", 1000).as_deref(), Some("1000:app:firefox"));
        assert_eq!(of("alice:app:firefox", 1000).as_deref(), Some("alice:app:firefox"));
        for others in
            ["system:a.service", "user:a.service", "1001:app:x", "bob:app:x", "app:a,system:b.service"]
        {
            assert_eq!(of(others, 1000), None, "{others}");
        }
    }

    #[test]
    fn time_that_is_left_goes_into_the_policy() {
        let held = |number, until_ms| Held {
            number,
            by: 0,
            lines: vec![Line {
                chain: ChainRef {
                    table: TableRef { family: Family::Inet, name: "f".into() },
                    name: "c".into(),
                },
                annotation: "system:a.service :: add rule inet f c socket cgroupv2 unit ip daddr ::1 accept"
                    .into(),
            }],
            until_ms,
        };
        let now = now_ms();
        let all = vec![held(1, now.saturating_sub(1)), held(2, now + 60_000)];
        let allowances = Allowances { all, ..Allowances::default() };
        assert_eq!(allowances.put_into(&Arc::default()).annotations, [], "no chain records");
        let mut plain = Policy::default();
        parse::append(&mut plain, "f", "# scnpm: record refusals in inet f c\n");
        let mut with = (*allowances.put_into(&plain.into())).clone();
        with.annotations.remove(0);
        let [annotation] = &with.annotations[..] else { panic!("{:?}", with.annotations) };
        let left = annotation.left.unwrap();
        assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");
        assert_eq!(with.sources.location(annotation.unit_span).file, NAME);
    }
}
