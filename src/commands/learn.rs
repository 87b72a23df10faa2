//! `scnpm learn`: records for a while what a unit does, and prints the annotations that allow it.
//!
//! The kernel records every socket's packets under all cgroups that it is in. Which of these are the unit's is found here, as they
//! come and go.

mod command;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{pending, poll_fn},
    io::{self, IsTerminal, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    task::Poll,
    time::Duration,
};

use litemap::LiteMap;
use nix::unistd::Uid;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, interval, sleep_until},
};

use super::{
    Failure, block_on,
    denied::{look_up, soon},
    micros, note, output, selectors,
};
use crate::{
    cli::{DEFAULT_FILE, Learn},
    dispatch::learning::{MOST, MOST_OF_ONE},
    gather::Gather,
    lint::{self, Ruleset},
    machine,
    model::{CGROUP_ROOT, CgroupId, CgroupPath, ChainRef, Direction, Instance, Manager, Recorded, printable},
    nft::{Nftables, learning::Learning, probe},
    policy::{
        Policy,
        files::Disk,
        grouping::{Seen, Style},
        hosts::is_host_word,
        parse,
    },
    report::{
        learned::{self, Place},
        status::ago,
    },
    text::nearest::nearest,
    units::{
        places,
        selector::{Selector, Selectors, Users, Which, Whose},
    },
    watch::subtrees::{Drained, Subtrees},
};
use command::Child;

/// The exit status if scnpm itself failed, where that of the command is expected.
const FAILED: u8 = 125;

/// How often it is said how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

/// How many addresses' names are looked up.
const LOOKED_UP: usize = 256;

/// Runs it: exit code 1 if the unit did nothing, with a command that of the command.
///
/// # Errors
/// Nothing can be recorded.
pub fn run(options: &Learn) -> Result<ExitCode, Failure> {
    let least = if options.command.is_empty() { 1 } else { FAILED };
    learn(options).map_err(|failure| Failure { exit_code: failure.exit_code.max(least), ..failure })
}

fn learn(options: &Learn) -> Result<ExitCode, Failure> {
    let mut selectors = selectors(&options.unit)?;
    if !Uid::effective().is_root() {
        let unit = printable(&options.unit);
        return Err(Failure::new(format!(
            "only root can have the kernel record packets: run `sudo scnpm learn {unit}`"
        )));
    }
    probe::require_cgroup2(Path::new(CGROUP_ROOT)).map_err(Failure::new)?;
    let users = machine::users(&selectors.user_names());
    if let Some(name) = selectors.user_names().into_iter().find(|name| !users.contains_key(*name)) {
        return Err(Failure {
            exit_code: 2,
            ..Failure::new(format!("there is no user `{}`", printable(name)))
        });
    }
    let command = match &options.command[..] {
        [] => None,
        words => Some(command::prepare(&mut selectors, words, &options.reach.socket)?),
    };
    let mut nftables = Nftables::open().map_err(Failure::new)?;
    let places = places(options, &mut nftables)?;
    let began = Instant::now();
    let mut learning = Learning::begin(&mut nftables, options.loopback)
        .map_err(|words| Failure::new(format!("the kernel cannot record packets: {words}")))?;
    let followed = Followed { selectors, users, ids: BTreeMap::new() };
    let (followed, child) = block_on(follow(options, followed, command, &mut learning))?;
    let recorded = recorded(&mut learning)?;
    drop(learning);
    let is_anything = print(options, &followed, &recorded, &places, began.elapsed())?;
    Ok(match child {
        Some(mut child) => ExitCode::from(command::exit_code(child.wait()?)),
        None if is_anything => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
    })
}

fn recorded(learning: &mut Learning<'_>) -> Result<Vec<(Direction, Recorded)>, Failure> {
    learning.recorded().map_err(|error| Failure::new(format!("what was recorded cannot be read: {error}")))
}

/// The chains that annotations may go to, the best first.
fn places(options: &Learn, nftables: &mut Nftables) -> Result<Vec<Place>, Failure> {
    if let Some(chain) = &options.chain {
        return Ok(vec![(chain.clone(), None)]);
    }
    // That annotations are wrong is the business of `scnpm check`.
    let policy: Policy = match &options.file[..] {
        [] => parse::read(&Disk, &[DEFAULT_FILE]).unwrap_or_default(),
        files => parse::read(&Disk, files).map_err(Failure::new)?,
    };
    let (records, others): (Vec<_>, Vec<_>) =
        policy.annotations.iter().filter(|one| one.rule().is_some()).partition(|one| one.is_record());
    let chains: Vec<ChainRef> =
        records.into_iter().chain(others).filter_map(|one| Some(one.rule()?.chain.clone())).collect();
    let hooks = match chains.is_empty() {
        true => None,
        false => nftables.listed().map(|listing| lint::records::hooks(&policy, &Ruleset::of(&listing))),
    };
    let hooks_of = |chain: &ChainRef| hooks.as_ref()?.get(chain).filter(|hooks| !hooks.is_empty()).cloned();
    Ok(chains.into_iter().map(|chain| (chain.clone(), hooks_of(&chain))).collect())
}

/// All units, by the cgroups that they have or had, and which of them are meant.
struct Followed {
    selectors: Selectors,
    users: Users,
    ids: BTreeMap<CgroupId, Instance>,
}

impl Followed {
    fn take(&mut self, drained: Drained) {
        self.ids.extend(drained.found.into_iter().filter_map(|found| Some((found.id?, found.instance))));
    }

    /// How much was recorded that no unit has, since its cgroup was gone before anybody could look at it: what the cgroups at the
    /// top have, and the units in them do not.
    fn missed(&self, recorded: &[(Direction, Recorded)]) -> usize {
        let mut missed: BTreeMap<Seen, i64> = BTreeMap::new();
        for (direction, one) in recorded {
            let Some(instance) = self.ids.get(&one.cgroup) else { continue };
            let packets = i64::try_from(one.packets).unwrap_or(i64::MAX);
            let missed = missed.entry(seen(*direction, one)).or_default();
            if instance.path.prefixes().count() == 1 {
                *missed = missed.saturating_add(packets);
            }
            if !places::has_units(instance) {
                *missed = missed.saturating_sub(packets);
            }
        }
        missed.values().filter(|packets| **packets > 0).count()
    }

    /// What was recorded of the units of each selector that an annotation may have.
    fn seen(&self, recorded: &[(Direction, Recorded)]) -> BTreeMap<Selector, BTreeMap<Seen, u64>> {
        let mut by_selector: BTreeMap<Selector, Vec<(CgroupId, &CgroupPath)>> = BTreeMap::new();
        let mut names: BTreeMap<u32, Option<String>> = BTreeMap::new();
        for (id, instance) in &self.ids {
            let selecting = self.selectors.0.iter().find(|one| one.selects(instance, &self.users));
            let user = match instance.manager {
                Manager::System => None,
                Manager::User(uid) => names.entry(uid).or_insert_with(|| machine::user_name(uid)).as_deref(),
            };
            if let Some(selector) = selecting.and_then(|one| named(one, instance, user)) {
                by_selector.entry(selector).or_default().push((*id, &instance.path));
            }
        }
        let of_selector = |(selector, cgroups): (Selector, Vec<(CgroupId, &CgroupPath)>)| {
            // What is in a slice that is meant is counted there.
            let is_inner =
                |path: &CgroupPath| cgroups.iter().any(|(_, other)| *other != path && path.is_within(other));
            let ids: BTreeSet<CgroupId> =
                cgroups.iter().filter(|(_, path)| !is_inner(path)).map(|(id, _)| *id).gather();
            let mut all: BTreeMap<Seen, u64> = BTreeMap::new();
            for (direction, one) in recorded.iter().filter(|(_, one)| ids.contains(&one.cgroup)) {
                *all.entry(seen(*direction, one)).or_default() += one.packets;
            }
            (selector, all)
        };
        by_selector.into_iter().map(of_selector).gather()
    }
}

fn seen(direction: Direction, recorded: &Recorded) -> Seen {
    let Recorded { address, protocol, port, .. } = *recorded;
    Seen { direction, address, protocol, port }
}

/// The units of all: what nobody has is found by what everybody has.
fn everybody() -> Selectors {
    let of = |whose| Selector { whose, which: Which::Glob("*".to_owned()) };
    Selectors(vec![of(Whose::System), of(Whose::AnyUser)])
}

/// What an annotation says for an instance that a selector selects: whose it is, and an application by its id.
fn named(selector: &Selector, instance: &Instance, user: Option<&str>) -> Option<Selector> {
    let own = || Selector::of(instance, user);
    match (&selector.which, &selector.whose) {
        (Which::Unit(_), _) => own(),
        (which, Whose::Anybody) => {
            let whose = match instance.manager {
                Manager::System => Whose::System,
                Manager::User(uid) => Whose::Uid(uid),
            };
            // As the unit would be named itself.
            let whose = own().map_or(whose, |own| own.whose);
            Some(Selector { whose, which: which.clone() })
        }
        _ => Some(selector.clone()),
    }
}

/// Follows the units until it is time to end, or a signal or the command's end says so.
async fn follow(
    options: &Learn,
    mut followed: Followed,
    command: Option<std::process::Command>,
    learning: &mut Learning<'_>,
) -> Result<(Followed, Option<Child>), Failure> {
    let on = |kind| signal(kind).map_err(Failure::new);
    let mut signals = [on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?];
    let mut subtrees = Subtrees::with_root(PathBuf::from(CGROUP_ROOT))
        .map_err(|error| Failure::new(format!("cgroups cannot be followed: {error}")))?;
    let wanted = BTreeSet::from([everybody()]);
    let known = subtrees.instances_of(&wanted, &followed.users);
    let instances: Vec<Instance> = known.iter().map(|(instance, _)| instance.clone()).collect();
    followed.ids.extend(known.into_iter().map(|(instance, id)| (id, instance)));
    let news = subtrees.follow(&wanted, &followed.users, &instances);
    followed.take(news);
    let runs = instances.iter().any(|instance| followed.selectors.select(instance, &followed.users));
    if !runs && command.is_none() {
        say_that_none_runs(options);
    }
    let began = Instant::now();
    let mut child = command.map(Child::start).transpose()?;
    let end = options.time.map(|time| began + time);
    let mut progress = Progress::of(options, began);
    let mut ticks = interval(PROGRESS);
    loop {
        let due = subtrees.due();
        let is_due = due.is_some_and(|due| due <= began.elapsed());
        let ready = poll_fn(|cx| if is_due { Poll::Ready(()) } else { subtrees.poll_ready(cx) });
        tokio::select! {
            biased;
            () = ready => {}
            () = until(due.map(|due| began + due)) => {}
            number = any(&mut signals) => match &child {
                // Ctrl-C has reached the command, too.
                Some(child) => child.pass(number),
                None => break,
            },
            () = ended(&mut child) => break,
            () = until(end) => break,
            _ = ticks.tick(), if progress.is_shown => progress.show(&followed, learning),
        }
        followed.take(subtrees.drain(began.elapsed()));
    }
    // What has come at last.
    while !followed.settle(&mut subtrees, began.elapsed()) {}
    progress.clear();
    Ok((followed, child))
}

impl Followed {
    /// Whether nothing more is there to be read at once.
    fn settle(&mut self, subtrees: &mut Subtrees, now: Duration) -> bool {
        let drained = subtrees.drain(now);
        let is_over = drained.found.is_empty();
        self.take(drained);
        is_over
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

async fn any(signals: &mut [Signal; 3]) -> i32 {
    let [interrupt, terminate, hangup] = signals;
    tokio::select! {
        _ = interrupt.recv() => libc::SIGINT,
        _ = terminate.recv() => libc::SIGTERM,
        _ = hangup.recv() => libc::SIGHUP,
    }
}

async fn ended(child: &mut Option<Child>) {
    match child {
        Some(child) => pin!(child.ended()).await,
        None => pending().await,
    }
}

/// Says that nothing runs yet that is meant.
fn say_that_none_runs(options: &Learn) {
    let running = machine::instances(Path::new(CGROUP_ROOT));
    let names: BTreeSet<&str> = running.iter().map(|(instance, _)| &*instance.unit.0).gather();
    let meant = nearest(&options.unit, names).map(|name| format!("; did you mean {}?", printable(name)));
    note(format!(
        "`{}` does not run yet: what it does is recorded from its start on{}",
        printable(&options.unit),
        meant.unwrap_or_default()
    ));
}

/// A line on the terminal that says how far it is.
struct Progress {
    is_shown: bool,
    unit: String,
    began: Instant,
    time: Option<Duration>,
}

impl Progress {
    fn of(options: &Learn, began: Instant) -> Self {
        let is_shown = io::stderr().is_terminal() && options.command.is_empty();
        Self { is_shown, unit: printable(&options.unit), began, time: options.time }
    }

    fn show(&self, followed: &Followed, learning: &mut Learning<'_>) {
        let Ok(recorded) = learning.recorded() else { return };
        let kinds: usize = followed.seen(&recorded).values().map(BTreeMap::len).sum();
        let passed = self.began.elapsed();
        let left = match self.time {
            Some(time) => format!("{} left", in_words(time.saturating_sub(passed))),
            None => in_words(passed),
        };
        let _ = write!(
            io::stderr(),
            "\r\x1b[Klearning what {} does ({left}, Ctrl-C ends it): {kinds} so far",
            self.unit
        );
    }

    fn clear(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn in_words(time: Duration) -> String {
    ago(micros(time))
}

/// Prints what was learnt. Whether that is anything.
fn print(
    options: &Learn,
    followed: &Followed,
    recorded: &[(Direction, Recorded)],
    places: &[Place],
    time: Duration,
) -> Result<bool, Failure> {
    let seen = followed.seen(recorded);
    let mut style = Style { prefixes: options.group_by_prefix, ..Style::default() };
    if options.names {
        style.names = names(seen.values().flat_map(BTreeMap::keys).map(|one| one.address).gather());
    }
    let learned = learned::learned(&seen, &style, places);
    let mut notes = notes(options, followed, recorded, &seen);
    let is_anything = !learned.lines.is_empty();
    if !is_anything {
        let rest = if options.loopback {
            ""
        } else {
            "; what goes over the loopback interface counts with --loopback only"
        };
        notes.insert(0, format!("`{}` did nothing in {}{rest}", printable(&options.unit), in_words(time)));
    }
    if learned.lacks_chain {
        notes.push(
            "write the chain that the rule goes to for CHAIN, or say --chain \"inet filter NAME\"".to_owned(),
        );
    }
    if options.json {
        output(|out| learned::write_json(&learned, &options.unit, time, &notes, out))?;
    } else if is_anything {
        output(|out| learned::write(&learned, &options.unit, time, out))?;
    }
    notes.iter().for_each(note);
    Ok(is_anything)
}

/// What may be missing.
fn notes(
    options: &Learn,
    followed: &Followed,
    recorded: &[(Direction, Recorded)],
    learnt: &BTreeMap<Selector, BTreeMap<Seen, u64>>,
) -> Vec<String> {
    let mut notes = Vec::new();
    let missed = followed.missed(recorded);
    if missed > 0 {
        let what = match missed {
            1 => "1 kind of packets is".to_owned(),
            more => format!("{more} kinds of packets are"),
        };
        notes.push(format!(
            "{what} missing, perhaps of `{}`: units ended before anybody could see which they were; learn again",
            printable(&options.unit)
        ));
    }
    let own: usize = learnt.values().map(BTreeMap::len).sum();
    // Each packet is recorded for each cgroup that its socket is in, which may be below the unit's.
    let levels =
        followed.ids.values().map(|instance| instance.path.prefixes().count() + 1).max().unwrap_or(1);
    if recorded.len() > MOST / 10 * 9 || own * levels > MOST_OF_ONE / 10 * 9 {
        notes.push(format!(
            "so much was recorded that something of `{}` may be missing: learn again for a shorter time",
            printable(&options.unit)
        ));
    }
    let is_meant = |one: &&Instance| followed.selectors.select(one, &followed.users);
    let selected: BTreeSet<&Instance> = followed.ids.values().filter(is_meant).gather();
    let unnamed = selected.into_iter().filter(|instance| {
        let user = if let Manager::User(uid) = instance.manager { machine::user_name(uid) } else { None };
        Selector::of(instance, user.as_deref()).is_none()
    });
    notes.extend(unnamed.take(3).map(|instance| {
        format!("{}: an annotation cannot have such a name", printable(instance.path.as_str()))
    }));
    notes
}

/// The names that stand for addresses, and that have them.
fn names(addresses: Vec<IpAddr>) -> LiteMap<IpAddr, String> {
    let of_hosts = addresses.into_iter().filter(|address| !address.is_multicast()).take(LOOKED_UP).collect();
    let found: LiteMap<IpAddr, String> =
        look_up(of_hosts).into_iter().filter(|(_, name)| is_host_word(name)).gather();
    let forward = soon(found.values().cloned().gather(), |name| {
        dns_lookup::lookup_host(name).ok().map(|all| all.into_iter().collect::<Vec<IpAddr>>())
    });
    let has = |(address, name): &(IpAddr, String)| forward.get(name).is_some_and(|all| all.contains(address));
    found.into_iter().filter(has).gather()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = "user.slice/user-1000.slice/user@1000.service";

    fn followed(selectors: &str, paths: &[&str]) -> Followed {
        let instance = |path: &&str| Instance::of(&path.parse().unwrap()).unwrap();
        let ids = (1..).map(CgroupId).zip(paths.iter().map(instance)).collect();
        let users = Users::from([("alice".to_owned(), 1000)]);
        Followed { selectors: Selectors::parse(selectors).unwrap(), users, ids }
    }

    fn recorded(cgroup: u64, port: u16, packets: u64) -> (Direction, Recorded) {
        let address = "192.0.2.1".parse().unwrap();
        let one = Recorded { cgroup: CgroupId(cgroup), address, protocol: 6, port, packets, left_ms: 1 };
        (Direction::Out, one)
    }

    #[test]
    fn what_no_unit_has_is_missing() {
        let app = format!("{USER}/app.slice/app-x-1.scope");
        let all =
            followed("a.service", &["system.slice", "system.slice/a.service", "user.slice", USER, &app]);
        let known = [
            recorded(1, 25, 3),
            recorded(2, 25, 3),
            recorded(3, 25, 2),
            recorded(4, 25, 2),
            recorded(5, 25, 2),
        ];
        assert_eq!(all.missed(&known), 0);
        // Another one did the same once more, and what nobody else did.
        let more = [&known[1..], &[recorded(1, 25, 4), recorded(1, 80, 1), recorded(9, 80, 1)]].concat();
        assert_eq!(all.missed(&more), 2);
    }

    #[test]
    fn only_what_is_meant_counts_and_once() {
        let paths = ["a.slice", "a.slice/a-b.slice", "a.slice/a-b.slice/x.service", "system.slice/y.service"];
        let all = followed("a.slice,a-*.slice,x.service", &paths);
        let seen =
            all.seen(&[recorded(1, 25, 3), recorded(2, 25, 2), recorded(3, 25, 2), recorded(4, 80, 1)]);
        let counts: Vec<_> =
            seen.iter().map(|(selector, seen)| (selector.to_string(), seen.values().sum::<u64>())).collect();
        let expected = [("system:a-*.slice", 2), ("system:a.slice", 3), ("system:x.service", 2)]
            .map(|(name, count)| (name.to_owned(), count));
        assert_eq!(counts.into_iter().collect::<BTreeSet<_>>(), expected.into());
    }

    #[test]
    fn annotations_say_whose_and_name_applications() {
        let app = format!("{USER}/app.slice/app-gnome-firefox-12.scope");
        let instance = Instance::of(&app.parse().unwrap()).unwrap();
        for (given, expected) in [
            ("app-gnome-firefox-12.scope", "alice:app:firefox"),
            ("app:firefox", "alice:app:firefox"),
            ("user:app:firefox", "user:app:firefox"),
            ("app-gnome-*", "alice:app-gnome-*"),
            ("1000:app-*", "1000:app-*"),
        ] {
            let selector = Selectors::parse(given).unwrap().0.remove(0);
            let named = named(&selector, &instance, Some("alice")).unwrap();
            assert_eq!(named.to_string(), expected, "{given}");
        }
    }
}
