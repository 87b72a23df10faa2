//! Who was refused: what the kernel has recorded, under the names of the units that it was recorded of.
//!
//! The kernel only knows cgroups by their ids. While refusals are recorded, all units are followed, so that the name of one that is
//! gone is still known for as long as the kernel keeps what it has recorded. The kernel is read on a thread of its own when
//! somebody asks, and once a second for those who want to be told what is new.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::IpAddr,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use litemap::LiteMap;
use serde_json::json;

use super::{Daemon, control::Answered, sources::Sources};
use crate::{
    cgroupfs,
    control::{
        message::{GetRefusals, Refusal, Refusals as Reply},
        server::{ClientId, Peer, Sent},
        wire,
    },
    dispatch::{
        denials::{self, KEPT},
        recorder::Book,
    },
    gather::{Gather, sort_by_key},
    lint::{self, Ruleset},
    model::{CGROUP_ROOT, CgroupId, CgroupPath, ChainRef, Direction, Instance, Manager, Recorded, TableRef},
    nft::{netlink::Netlink, words_of},
    policy::{
        Part, Policy,
        admission::{Admission, Kind, Packets, protocol_name},
    },
    units::{
        fleeting::{Again, again},
        places::user_of_slice,
        selector::{Selector, Selectors, app_id, cage_id},
    },
};

/// How long after a reading the next one begins at the earliest, and when somebody wants to be told what is new.
const PAUSE: Duration = Duration::from_millis(250);
const FOLLOWED: Duration = Duration::from_secs(1);

/// How many times as long as the last answers took nothing is read again: each turn of the loop waits for them.
const SHARE: u32 = 20;

/// How many calls a user may have open, unless it is root.
const OF_A_USER: usize = 4;

/// The most refusals in an answer: the last ones.
const MOST: usize = 8_000;

/// How many names are kept of units that are gone: of the system, and of each user.
const GONE_OF_SYSTEM: usize = 8_192;
const GONE_OF_USER: usize = 1_024;

/// How many levels of cgroups are looked through for what is no unit.
const LEVELS: usize = 32;

/// What is known of refusals, and who wants to know it.
#[derive(Default)]
pub(super) struct Refusals {
    names: Names,
    /// The chains that record, and the hooks that call them as far as it matters.
    chains: Vec<(ChainRef, Vec<String>)>,
    asking: Vec<(ClientId, Asking)>,
    followers: LiteMap<ClientId, Asking>,
    is_reading: bool,
    last: Option<Duration>,
    /// How long the last answers took.
    took: Duration,
    /// How many packets were recorded of each when they were last read.
    before: BTreeMap<Key, u64>,
}

/// Who asks for what.
#[derive(Clone)]
struct Asking {
    peer: Peer,
    ask: GetRefusals,
    more: bool,
}

/// What the kernel counts by itself.
type Key = (TableRef, Direction, CgroupId, IpAddr, u8, u16);

/// What was read from the kernel, and the cgroups that exist.
pub(super) struct Recordings {
    recorded: io::Result<Vec<(TableRef, Direction, Recorded)>>,
    paths: BTreeMap<CgroupId, CgroupPath>,
    /// When, since 1970.
    at: Duration,
}

impl Recordings {
    fn of(tables: &[TableRef]) -> Self {
        let recorded = recorded(tables);
        let found = cgroupfs::walk(Path::new(CGROUP_ROOT), LEVELS).flatten();
        let path = |(directory, id): (std::path::PathBuf, CgroupId)| {
            let path = directory.strip_prefix(CGROUP_ROOT).ok()?.to_str()?.parse().ok()?;
            Some((id, path))
        };
        let paths = match &recorded {
            Ok(all) if !all.is_empty() => found.filter_map(path).gather(),
            _ => BTreeMap::new(),
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { recorded, paths, at }
    }
}

fn recorded(tables: &[TableRef]) -> io::Result<Vec<(TableRef, Direction, Recorded)>> {
    let mut netlink = Netlink::open()?;
    let mut all = Vec::new();
    for table in tables {
        for book in Book::ALL {
            match netlink.recorded(&denials::set(book, table)) {
                Ok(found) => all.extend(found.into_iter().map(|one| (table.clone(), book.direction, one))),
                // A table of one family has no sets of the other.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(all)
}

impl Refusals {
    /// Notes that a unit's cgroup was seen, or is gone.
    pub(super) fn seen(&mut self, instance: &Instance, id: Option<CgroupId>, now: Duration) {
        if !self.chains.is_empty() {
            self.names.seen(instance, id, now);
        }
    }

    /// Whether any chain records.
    pub(super) fn are_recorded(&self) -> bool {
        !self.chains.is_empty()
    }

    /// The chains that record.
    pub(super) fn recording(&self) -> Vec<ChainRef> {
        self.chains.iter().map(|(chain, _)| chain.clone()).collect()
    }

    /// When there is something to do even if nothing happens.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let pause = match (self.is_reading, self.asking.is_empty(), self.followers.is_empty()) {
            (true, ..) | (_, true, true) => return None,
            (_, false, _) => PAUSE,
            (_, true, false) => FOLLOWED,
        };
        Some(self.last.map_or(Duration::ZERO, |last| last + pause.max(self.took * SHARE)))
    }

    pub(super) fn forget(&mut self, client: ClientId) {
        self.asking.retain(|(asking, _)| *asking != client);
        self.followers.remove(&client);
        if self.followers.is_empty() {
            self.before = BTreeMap::new();
        }
    }

    /// The chain in which packets of a table and direction would be let through.
    fn chain(&self, table: &TableRef, direction: Direction) -> Option<&ChainRef> {
        let mut of_table = self.chains.iter().filter(|(chain, _)| chain.table == *table);
        let first = of_table.clone().next();
        let right = of_table.find(|(_, hooks)| hooks.iter().any(|one| one == direction.hook()));
        right.or(first).map(|(chain, _)| chain)
    }
}

impl Daemon {
    /// Notes which chains record from now on. `ruleset` is what the policy was loaded into, if that was just listed.
    pub(super) fn records_are_loaded(
        &mut self,
        sources: &mut Sources,
        policy: &Policy,
        ruleset: Option<&serde_json::Value>,
    ) {
        let before = std::mem::take(&mut self.refusals.chains);
        let records = policy.records().filter(|(id, _)| !self.refused.contains_key(id));
        let chains: Vec<ChainRef> = records.map(|(_, chain)| chain.clone()).collect();
        let hooks = ruleset
            .filter(|_| chains.len() > 1)
            .map(|ruleset| lint::records::hooks(policy, &Ruleset::of(ruleset)));
        let hooks_of = |chain: &ChainRef| match &hooks {
            Some(hooks) => hooks.get(chain).into_iter().flatten().cloned().collect(),
            None => before.iter().find(|(one, _)| one == chain).map_or(vec![], |(_, hooks)| hooks.clone()),
        };
        let with_hooks = chains.into_iter().map(|chain| {
            let hooks = hooks_of(&chain);
            (chain, hooks)
        });
        self.refusals.chains = with_hooks.collect();
        if self.refusals.chains.is_empty() {
            self.refusals.names = Names::default();
            let nobody_more = std::mem::take(&mut self.refusals.followers).into_iter();
            let asking = std::mem::take(&mut self.refusals.asking).into_iter().map(|(client, _)| client);
            let answer = not_recorded(policy);
            for client in nobody_more.map(|(client, _)| client).chain(asking) {
                sources.answer(client, Arc::clone(&answer), false);
            }
        }
    }

    pub(super) fn refusals_asked(
        &mut self,
        client: ClientId,
        peer: Peer,
        ask: GetRefusals,
        more: bool,
    ) -> Result<(), Arc<[u8]>> {
        if self.refusals.chains.is_empty() {
            return Err(not_recorded(&self.policy));
        }
        let others = self.refusals.asking.iter().map(|(_, one)| one).chain(self.refusals.followers.values());
        if peer.user != 0 && others.filter(|one| one.peer.user == peer.user).count() >= OF_A_USER {
            let words = format!("a user other than root may ask {OF_A_USER} times at once who was refused");
            return Err(wire::error("TooMuch", &json!({ "words": words })));
        }
        self.refusals.asking.push((client, Asking { peer, ask, more }));
        Ok(())
    }

    /// Begins to read what the kernel has recorded, if it is time for it.
    pub(super) fn read_refusals(&mut self, sources: &Sources) {
        let now = self.now();
        if self.refusals.timeout().is_none_or(|due| due > now) {
            return;
        }
        let mut tables: Vec<TableRef> =
            self.refusals.chains.iter().map(|(chain, _)| chain.table.clone()).collect();
        tables.dedup();
        let answers = sources.answers.0.clone();
        let work = move || drop(answers.send(Answered::Refusals(Recordings::of(&tables))));
        self.refusals.last = Some(now);
        self.refusals.is_reading = thread::Builder::new().name("refusals".to_owned()).spawn(work).is_ok();
    }

    /// Tells those who asked.
    pub(super) fn refusals_are_read(&mut self, sources: &mut Sources, reading: Recordings) {
        self.refusals.is_reading = false;
        let asking = std::mem::take(&mut self.refusals.asking);
        let recorded = match &reading.recorded {
            Ok(recorded) => recorded,
            Err(error) => {
                let words = format!("what is recorded cannot be read: {}", words_of(error));
                asking.into_iter().for_each(|(client, _)| sources.refuse(client, "Failed", &words));
                return;
            }
        };
        let now = self.now();
        self.refusals.last = Some(now);
        for (.., one) in recorded {
            if let Some(path) = reading.paths.get(&one.cgroup) {
                self.refusals.names.found(one.cgroup, path, now);
            }
        }
        let key = |(table, direction, one): &(TableRef, Direction, Recorded)| {
            (table.clone(), *direction, one.cgroup, one.address, one.protocol, one.port)
        };
        let before = &self.refusals.before;
        let is_new = |one: &&(TableRef, Direction, Recorded)| before.get(&key(one)) != Some(&one.2.packets);
        let all: Vec<_> = recorded.iter().collect();
        let new: Vec<_> = match self.refusals.followers.is_empty() {
            true => vec![],
            false => recorded.iter().filter(is_new).collect(),
        };
        let followers = std::mem::take(&mut self.refusals.followers);
        let followers = followers.into_iter().map(|(client, asking)| (client, asking, &new, false));
        let asking = asking.into_iter().map(|(client, asking)| (client, asking, &all, true));
        let mut stay = LiteMap::new();
        for (client, asking, of, is_first) in followers.chain(asking) {
            let refusals = self.refusals_for(&asking, of, &reading);
            if !is_first && refusals.is_empty() {
                stay.insert(client, asking);
                continue;
            }
            let message = wire::reply(&Reply { refusals }, asking.more);
            if sources.answer(client, message, asking.more) != Sent::Last && asking.more {
                stay.insert(client, asking);
            }
        }
        self.refusals.before = match stay.is_empty() {
            true => BTreeMap::new(),
            false => recorded.iter().map(|one| (key(one), one.2.packets)).gather(),
        };
        self.refusals.followers = stay;
        self.refusals.took = self.now().saturating_sub(now);
    }

    /// What one may know, in the order of time.
    fn refusals_for(
        &self,
        asking: &Asking,
        recorded: &[&(TableRef, Direction, Recorded)],
        reading: &Recordings,
    ) -> Vec<Refusal> {
        let viewer = asking.peer.user;
        let wanted = asking.ask.unit.as_deref().map(|text| (text, Selectors::parse(text).ok()));
        let named = recorded.iter().filter_map(|(table, direction, one)| {
            let path = reading.paths.get(&one.cgroup).or_else(|| self.refusals.names.path(one.cgroup));
            let at = at(reading.at, one);
            let is_seen = viewer == 0 || path.is_some_and(|path| owner(path) == Some(viewer));
            let is_later = asking.ask.since.is_none_or(|since| at > since);
            (is_seen && is_later).then_some((at, table, *direction, one, path))
        });
        let mut named: Vec<_> = named.collect();
        sort_by_key(&mut named, |(at, ..)| *at);
        let of_one = |(at, table, direction, one, path)| self.refusal(at, table, direction, one, path);
        let is_wanted = |refusal: &(Option<Instance>, Refusal)| {
            wanted.as_ref().is_none_or(|(text, selectors)| self.is_meant(text, selectors.as_ref(), refusal))
        };
        let all: Vec<Refusal> =
            named.into_iter().map(of_one).filter(is_wanted).map(|(_, refusal)| refusal).collect();
        let first = all.len().saturating_sub(MOST);
        all.into_iter().skip(first).collect()
    }

    fn is_meant(
        &self,
        text: &str,
        selectors: Option<&Selectors>,
        (instance, refusal): &(Option<Instance>, Refusal),
    ) -> bool {
        let is_selected = instance.as_ref().is_some_and(|instance| {
            selectors.is_some_and(|selectors| selectors.select(instance, &self.users))
        });
        is_selected
            || refusal.app.as_deref() == Some(text)
            || refusal
                .cgroup
                .as_deref()
                .is_some_and(|path| path.starts_with(text) || path.split('/').any(|part| part == text))
    }

    fn refusal(
        &self,
        at: u64,
        table: &TableRef,
        direction: Direction,
        one: &Recorded,
        path: Option<&CgroupPath>,
    ) -> (Option<Instance>, Refusal) {
        let instance = path.and_then(Instance::in_which);
        let chain = self.refusals.chain(table, direction);
        let kind = Kind::of(one.protocol, one.port);
        let user = match instance.as_ref().map(|instance| instance.manager) {
            Some(Manager::User(uid)) => self.user_name(uid),
            _ => None,
        };
        let exact = instance.as_ref().and_then(|instance| Selector::of(instance, user));
        let selector = exact.as_ref().map(ToString::to_string);
        let lasting = match instance.as_ref().and_then(|instance| again(instance, user)) {
            Some(Again::By(lasting)) => Some(lasting),
            Some(Again::Never) => exact,
            None => None,
        };
        let annotation = lasting.zip(chain).map(|(lasting, chain)| {
            let packets = Packets {
                direction,
                v6: one.address.is_ipv6(),
                peers: vec![one.address.to_string()],
                kind: kind.clone(),
            };
            if let Some((selectors, chain)) = instance.as_ref().and_then(|instance| self.cage(instance)) {
                return format!("# {}", Admission { selectors, chain, packets }.out_of_cage());
            }
            let selectors = Selectors(vec![lasting]);
            format!("# {}", Admission { selectors, chain: chain.clone(), packets })
        });
        let known = self.hosts.known().iter().find(|(_, addresses)| addresses.contains(&one.address));
        let refusal = Refusal {
            at,
            unit: instance.as_ref().map(|instance| instance.unit.0.to_string()),
            uid: path.and_then(owner),
            app: instance
                .as_ref()
                .filter(|instance| instance.manager != Manager::System)
                .and_then(|instance| app_id(&instance.unit.0)),
            selector,
            cgroup: path.map(|path| path.as_str().to_owned()),
            cgroup_id: one.cgroup.0,
            direction,
            protocol: protocol_name(one.protocol),
            address: one.address,
            port: if let Kind::Ports(..) = kind { Some(one.port) } else { None },
            icmp_type: if let Kind::Icmp(number) = kind { Some(number) } else { None },
            host: known.map(|(host, _)| host.name.clone()),
            packets: one.packets,
            chain: chain.map(ToString::to_string).unwrap_or_default(),
            annotation,
        };
        (instance, refusal)
    }

    /// What selects the cage that an instance is in, and the chain that makes it one: the first whose annotation accepts nothing.
    fn cage(&self, instance: &Instance) -> Option<(Selectors, ChainRef)> {
        cage_id(&instance.unit.0)?;
        let rules = self.policy.iter().filter_map(|(_, annotation)| Some((annotation, annotation.rule()?)));
        let of_cage = rules.filter(|(annotation, _)| annotation.selectors.select(instance, &self.users));
        let accepts = |part: &Part| part.token().is_some_and(|token| token.is("accept"));
        let mut narrowing = of_cage.filter(|(_, rule)| !rule.body.iter().any(accepts));
        narrowing.next().map(|(annotation, rule)| (annotation.selectors.clone(), rule.chain.clone()))
    }

    /// The name of a user, if the policy has it.
    fn user_name(&self, uid: u32) -> Option<&str> {
        self.users.iter().find(|(_, known)| **known == uid).map(|(name, _)| name.as_str())
    }
}

/// When the last packet came, in microseconds since 1970.
fn at(read: Duration, one: &Recorded) -> u64 {
    let ago = Duration::from_secs(KEPT).saturating_sub(Duration::from_millis(one.left_ms));
    u64::try_from(read.saturating_sub(ago).as_micros()).unwrap_or(u64::MAX)
}

/// The user whose cgroup it is.
fn owner(path: &CgroupPath) -> Option<u32> {
    let second = path.prefixes().nth(1)?;
    user_of_slice(second.as_str())
}

/// The answer where nothing is recorded.
pub(super) fn not_recorded(policy: &Policy) -> Arc<[u8]> {
    let words = match policy.records().next().is_some() {
        true => "nothing is recorded: nft refuses what records, as `scnpm status` says",
        false => {
            "nothing is recorded: write `# scnpm: record refusals in inet filter CHAIN` into the file, with an empty chain that is \
             called in front of the last `reject` or `drop`, and reload; see `man scnpm-denied`"
        }
    };
    wire::error("NotRecorded", &json!({ "words": words }))
}

/// Which cgroups units have or had.
#[derive(Debug, Default)]
struct Names {
    paths: BTreeMap<CgroupId, CgroupPath>,
    ids: BTreeMap<CgroupPath, CgroupId>,
    /// Those that are gone, and since when, by their owner.
    gone: BTreeMap<Option<u32>, VecDeque<(Duration, CgroupId)>>,
}

impl Names {
    fn path(&self, id: CgroupId) -> Option<&CgroupPath> {
        self.paths.get(&id)
    }

    fn seen(&mut self, instance: &Instance, id: Option<CgroupId>, now: Duration) {
        let path = &instance.path;
        let before = match id {
            Some(id) => {
                self.paths.insert(id, path.clone());
                self.ids.insert(path.clone(), id).filter(|before| *before != id)
            }
            None => self.ids.remove(path),
        };
        if let Some(before) = before {
            self.is_gone(before, path, now);
        }
    }

    /// Notes what is no unit's own, or was not known: nothing will tell when it is gone.
    fn found(&mut self, id: CgroupId, path: &CgroupPath, now: Duration) {
        if self.path(id).is_none() {
            self.paths.insert(id, path.clone());
            self.is_gone(id, path, now);
        }
    }

    fn is_gone(&mut self, before: CgroupId, path: &CgroupPath, now: Duration) {
        let owner = owner(path);
        let gone = self.gone.entry(owner).or_default();
        gone.push_back((now, before));
        let most = if owner.is_some() { GONE_OF_USER } else { GONE_OF_SYSTEM };
        let kept = Duration::from_secs(KEPT);
        while gone.front().is_some_and(|(since, _)| gone.len() > most || now.saturating_sub(*since) > kept) {
            if let Some((_, id)) = gone.pop_front() {
                self.paths.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(path: &str) -> Instance {
        Instance::of(&path.parse().unwrap()).unwrap()
    }

    #[test]
    fn names_of_what_is_gone_are_kept_for_a_while() {
        let mut names = Names::default();
        let one = instance("system.slice/a.service");
        let at = Duration::from_secs;
        names.seen(&one, Some(CgroupId(1)), at(0));
        names.seen(&one, None, at(1));
        names.seen(&one, Some(CgroupId(2)), at(2));
        assert_eq!(names.path(CgroupId(1)), Some(&one.path));
        // The next that is gone takes it away.
        names.seen(&one, Some(CgroupId(3)), at(KEPT + 2));
        assert_eq!(names.path(CgroupId(1)), None);
        assert_eq!(names.path(CgroupId(2)), Some(&one.path));
    }

    #[test]
    fn a_user_who_makes_many_cgroups_pushes_out_only_their_own() {
        let mut names = Names::default();
        let system = instance("system.slice/a.service");
        names.seen(&system, Some(CgroupId(1)), Duration::ZERO);
        names.seen(&system, None, Duration::ZERO);
        for number in 0..5_000_u64 {
            let path = format!("user.slice/user-1.slice/user@1.service/app.slice/x{number}.scope");
            names.seen(&instance(&path), Some(CgroupId(100 + number)), Duration::ZERO);
            names.seen(&instance(&path), None, Duration::ZERO);
        }
        assert!(names.path(CgroupId(1)).is_some());
        assert_eq!(names.paths.len(), 1 + GONE_OF_USER);
    }
}
