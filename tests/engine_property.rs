//! Whatever happens to cgroups and to the policy, however badly the sources tell of it and however often the kernel fails:
//! after a final look at each cgroup the kernel (its fake in memory) holds exactly what the policy says.

#[path = "common/fake.rs"]
mod fake;

use std::{cell::Cell, collections::BTreeSet, sync::Arc, time::Duration};

use proptest::prelude::*;
use scnpm::{
    dispatch::{Pattern, Target},
    effects,
    engine::{Action, Engine, Event, PolicyLoaded, Settings, Snapshot},
    model::{
        AnnotationId, CgroupId, CgroupPath, Condition, Data, Element, Family, Instance, Key, Row, SetRef,
        Source, TableRef, UnitName, UnitState,
    },
    nft::{ElementChange, Kernel},
    record::{Entry, Replay, Step as Logged},
    units::{Selectors, Users},
};

use fake::{Cgroups, Fake, KeyInKernel};

const UNITS: usize = 8;

/// How many sequences there are in each run of the tests; `SCNPM_CASES` says another number.
fn cases() -> u32 {
    std::env::var("SCNPM_CASES").ok().and_then(|number| number.parse().ok()).unwrap_or(2000)
}

/// Something that happens to the machine, or to what is heard of it.
#[derive(Debug, Clone)]
enum Step {
    /// A cgroup is made, and cgroupfs says so, unless that is lost.
    Make { unit: usize, heard: bool },
    /// A cgroup goes, and cgroupfs says so, unless that is lost.
    Remove { unit: usize, heard: bool },
    /// A cgroup is removed and made again before anybody looks.
    Restart { unit: usize, heard: bool },
    /// Something heard earlier arrives only now, or again.
    Replay { event: prop::sample::Index },
    /// D-Bus or the journal speaks of a unit, with or without reason.
    Mention { unit: usize },
    /// A unit's state is seen.
    State { unit: usize, state: UnitState },
    /// The loop gets its turn, with the machine changing between the wish and the deed.
    Turn { meanwhile: Option<usize> },
    /// The next changes of elements fail: some pass, some are refusals of what is good.
    Faults { errnos: Vec<i32> },
    /// Another policy is loaded.
    Load { policy: usize },
    /// Somebody else empties the sets, and this thread is named.
    Reset { thread: u32 },
    /// Somebody asks for a load, which may fail for now.
    Ask { fails: bool },
    /// The daemon goes on from what it had written down.
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    let unit = 0..UNITS;
    let heard = prop::bool::weighted(0.8);
    let state = prop::sample::select(vec![UnitState::Active, UnitState::Inactive, UnitState::Missing]);
    let errno = prop::sample::select(vec![libc::ENOMEM, libc::EBUSY, libc::EINTR, libc::ENOBUFS]);
    prop_oneof![
        6 => (unit.clone(), heard).prop_map(|(unit, heard)| Step::Make { unit, heard }),
        4 => (unit.clone(), heard).prop_map(|(unit, heard)| Step::Remove { unit, heard }),
        2 => (unit.clone(), heard).prop_map(|(unit, heard)| Step::Restart { unit, heard }),
        3 => any::<prop::sample::Index>().prop_map(|event| Step::Replay { event }),
        1 => unit.clone().prop_map(|unit| Step::Mention { unit }),
        2 => (unit.clone(), state).prop_map(|(unit, state)| Step::State { unit, state }),
        6 => prop::option::weighted(0.3, unit).prop_map(|meanwhile| Step::Turn { meanwhile }),
        2 => prop::collection::vec(errno, 1..4).prop_map(|errnos| Step::Faults { errnos }),
        2 => (0..POLICIES).prop_map(|policy| Step::Load { policy }),
        2 => (0_u32..3).prop_map(|thread| Step::Reset { thread }),
        1 => any::<bool>().prop_map(|fails| Step::Ask { fails }),
        1 => Just(Step::Resume),
    ]
}

/// Units of the system, of two users with the same names, and one that a path names and a pattern selects.
fn path(number: usize) -> CgroupPath {
    let user =
        |uid: u32, unit: &str| format!("user.slice/user-{uid}.slice/user@{uid}.service/app.slice/{unit}");
    let text = match number {
        0..=3 => format!("system.slice/u{number}.service"),
        4 => user(1000, "u2.service"),
        5 => user(1001, "u2.service"),
        6 => user(1000, "app-x-1.scope"),
        _ => user(1001, "app-x-1.scope"),
    };
    text.parse().unwrap()
}

fn unit(number: usize) -> UnitName {
    UnitName(path(number).components().last().unwrap().into())
}

fn set(name: &str) -> SetRef {
    SetRef { table: TableRef { family: Family::Inet, name: "filter".into() }, name: name.into() }
}

const SETS: [(&str, &str); 6] = [
    ("scnpm.out.1", "{ type cgroupsv2 : verdict; }"),
    ("scnpm.out.4", "{ type cgroupsv2 : verdict; }"),
    ("scnpm.out.2.active", "{ type mark; flags interval; }"),
    ("scnpm.out.3.active", "{ type mark; flags interval; }"),
    ("mine", "{ type cgroupsv2; }"),
    ("marks", "{ type cgroupsv2 : mark; }"),
];

const POLICIES: usize = 4;

/// What a policy says: rows that are known ahead, and patterns.
#[derive(Debug, Clone, Default)]
struct Policy {
    rows: Vec<Row>,
    patterns: Vec<Pattern>,
}

/// A map of ours, sets of the user's, a gate over two cgroups, one over a unit that may be a user's, and patterns; some of
/// it in each policy, with other values.
fn policy(number: usize) -> Policy {
    let annotations = vec![AnnotationId(number)];
    let row = |number: usize, name: &str, key: Key, data, condition| Row {
        element: Element { set: set(name), key, data }.into(),
        condition,
        unit: unit(number),
        annotations: annotations.clone(),
    };
    let cgroup = |number| Key::Cgroup(path(number));
    let mut policy = Policy::default();
    for named in [0, 1, 3, 4] {
        let due = Condition::Cgroup(path(named));
        policy.rows.push(row(named, "scnpm.out.1", cgroup(named), Some(Data::Accept), due.clone()));
        if (named + number).is_multiple_of(2) {
            let value = Data::Value(vec![number.to_string()]);
            policy.rows.push(row(named, "marks", cgroup(named), Some(value), due.clone()));
            policy.rows.push(row(named, "mine", cgroup(named), None, due));
        }
    }
    let both = Condition::AllCgroups(BTreeSet::from([path(0), path(1)]));
    policy.rows.push(row(0, "scnpm.out.2.active", Key::Everything, None, both));
    if number < 3 {
        policy.rows.push(row(2, "scnpm.out.3.active", Key::Everything, None, Condition::UnitActive(unit(2))));
        policy.patterns.push(pattern("user:u2.service", "scnpm.out.3.active", None, Some(unit(2))));
    }
    if number > 0 {
        policy.patterns.push(pattern("user:app:x", "scnpm.out.4", Some(5), None));
        policy.patterns.push(pattern("system:u3.service", "scnpm.out.4", Some(2), None));
    }
    policy
}

fn pattern(selectors: &str, name: &str, level: Option<u32>, unless: Option<UnitName>) -> Pattern {
    let data = level.map(|_| Data::Drop);
    Pattern {
        selectors: Selectors::parse(selectors).unwrap(),
        targets: vec![Target { level, set: set(name), data }],
        unless,
        unit: UnitName("x".into()),
        annotations: vec![AnnotationId(9)],
    }
}

impl Policy {
    fn selects(&self, instance: &Instance) -> bool {
        self.patterns.iter().any(|pattern| pattern.selectors.select(instance, &Users::new()))
    }

    fn rows_of(&self, instance: &Instance) -> Vec<Row> {
        let selecting = self.patterns.iter().filter(|one| one.selectors.select(instance, &Users::new()));
        selecting.flat_map(|pattern| pattern.rows(&instance.path)).collect()
    }
}

struct Machine {
    engine: Engine,
    kernel: Fake,
    cgroups: Cgroups,
    policy: Policy,
    /// Which policy that is, and whether the next load fails.
    number: usize,
    fails: bool,
    /// The same once more, from what is logged.
    replay: Replay,
    is_told: bool,
    heard: Vec<Event>,
    /// The state of the system's `u2.service`.
    state: UnitState,
    now: Duration,
}

/// What is in the kernel: set, key, value and whose.
type InKernel = (SetRef, KeyInKernel, Option<String>);

impl Machine {
    fn new(watched: bool) -> Self {
        let settings = Settings { cgroups_are_watched: watched, ..Settings::default() };
        let cgroups = Cgroups::default();
        let mut kernel = Fake::new(cgroups.clone());
        kernel.load(["add table inet filter"]);
        let sets: Vec<String> =
            SETS.iter().map(|(name, kind)| format!("add set inet filter {name} {kind}")).collect();
        kernel.load(sets.iter().map(String::as_str));
        let mut machine = Self {
            engine: Engine::new(settings),
            kernel,
            cgroups,
            policy: Policy::default(),
            number: 0,
            fails: false,
            replay: Replay::default(),
            is_told: false,
            heard: vec![],
            state: UnitState::Missing,
            now: Duration::ZERO,
        };
        // An element that the user put there, of a cgroup that no policy names.
        machine
            .kernel
            .change(&[ElementChange::Add { set: &set("scnpm.user"), id: None, data: None }])
            .unwrap_err();
        machine.log_snapshot();
        machine.load(0);
        machine
    }

    fn instances(&self) -> Vec<Instance> {
        let exists = |path: &CgroupPath| self.cgroups.id(path).is_some();
        let all = (0..UNITS).map(path).filter(exists).filter_map(|path| Instance::of(&path));
        all.filter(|instance| self.policy.selects(instance)).collect()
    }

    fn log(&mut self, step: Logged) -> Option<Vec<Action>> {
        self.replay.step(&Entry { at: self.now, step })
    }

    fn log_snapshot(&mut self) {
        let snapshot = Box::new(self.engine.snapshot());
        assert_eq!(self.log(Logged::Snapshot(snapshot)), None);
    }

    fn flush(&mut self) {
        let flush: Vec<String> =
            SETS.iter().map(|(name, _)| format!("flush set inet filter {name}")).collect();
        // Those who fail are our own transactions.
        let faults = std::mem::take(&mut self.kernel.faults);
        self.kernel.load(flush.iter().map(String::as_str));
        self.kernel.faults = faults;
    }

    /// As a load does it: all sets hold what is due of the new policy, but for every second element.
    fn load(&mut self, number: usize) {
        self.number = number;
        self.policy = policy(number);
        self.kernel.faults.clear();
        self.flush();
        let instances: Vec<(Instance, Vec<Row>)> =
            self.instances().into_iter().map(|one| (one.clone(), self.policy.rows_of(&one))).collect();
        let rows: Vec<Row> =
            self.policy.rows.iter().chain(instances.iter().flat_map(|(_, rows)| rows)).cloned().collect();
        let mut installed = Vec::new();
        for (at, row) in rows.iter().enumerate().step_by(2) {
            let Some(id) = row.element.key.cgroup().and_then(|path| self.cgroups.id(path)) else { continue };
            if self.kernel.run(&scnpm::dispatch::element(&row.element), false).is_ok() {
                installed.push((at, Some(id)));
            }
        }
        let Policy { rows, patterns } = self.policy.clone();
        let users = Users::new();
        self.tell(Event::PolicyLoaded(PolicyLoaded { rows, patterns, users, instances, installed }));
    }

    fn tell(&mut self, event: Event) {
        self.now += Duration::from_millis(1);
        self.log(Logged::Event(event.clone()));
        self.is_told = true;
        self.engine.handle(self.now, event);
    }

    /// cgroupfs speaks of a cgroup: what it says is kept, to be said again.
    fn hear(&mut self, number: usize, really: bool) {
        let path = path(number);
        let id = self.cgroups.id(&path);
        let mut events = vec![Event::CgroupSeen { path: path.clone(), id, source: Some(Source::Cgroup) }];
        let instance = Instance::of(&path).filter(|instance| self.policy.selects(instance));
        events.extend(instance.map(|instance| Event::InstanceSeen { instance, id }));
        for event in events {
            self.heard.push(event.clone());
            if really {
                self.tell(event);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Make { unit, heard } => {
                self.cgroups.make(&path(unit));
                self.hear(unit, heard);
            }
            Step::Remove { unit, heard } => {
                self.cgroups.remove(&path(unit));
                self.hear(unit, heard);
            }
            Step::Restart { unit, heard } => {
                self.cgroups.remove(&path(unit));
                self.cgroups.make(&path(unit));
                self.hear(unit, heard);
            }
            Step::Replay { event } => {
                if !self.heard.is_empty() {
                    let event = event.get(&self.heard).clone();
                    self.tell(event);
                }
            }
            Step::Mention { unit: number } => {
                self.tell(Event::UnitChanged { unit: unit(number), source: Source::Journal });
            }
            Step::State { unit: number, state } => {
                if number == 2 {
                    self.state = state;
                }
                self.tell(Event::UnitStateSeen { unit: unit(number), state, source: Source::Dbus });
            }
            Step::Turn { meanwhile } => drop(self.turn(meanwhile)),
            Step::Faults { errnos } => self.kernel.faults.extend(errnos),
            Step::Load { policy } => self.load(policy),
            Step::Reset { thread } => {
                self.flush();
                self.tell(Event::RulesetChanged { thread: Some(thread) });
            }
            Step::Ask { fails } => {
                self.fails |= fails;
                self.tell(Event::ReloadRequested);
            }
            Step::Resume => {
                let text = serde_json::to_string(&self.engine.snapshot()).unwrap();
                let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
                assert_eq!(snapshot, self.engine.snapshot());
                self.engine = Engine::from(snapshot);
                self.log_snapshot();
            }
        }
    }

    /// Does what the engine wants, once; while it is done, one cgroup is restarted whenever somebody looks at it, up to
    /// three times, and removed at the last.
    fn turn(&mut self, meanwhile: Option<usize>) -> usize {
        let is_due = self.engine.timeout().is_some_and(|at| at <= self.now);
        let actions = self.engine.actions(self.now);
        let wishes = actions.len();
        // As the daemon logs it.
        if std::mem::take(&mut self.is_told) || is_due || wishes > 0 {
            assert_eq!(self.log(Logged::Actions(actions.clone())), None, "a replay decides otherwise");
        }
        for action in actions {
            self.execute(action, meanwhile);
        }
        wishes
    }

    fn execute(&mut self, action: Action, restless: Option<usize>) {
        let cgroups = self.cgroups.clone();
        let changes = Cell::new(3);
        let restless = restless.map(path);
        let look = |path: &CgroupPath| {
            let id = cgroups.id(path);
            if restless.as_ref() == Some(path) && id.is_some() && changes.get() > 0 {
                changes.set(changes.get() - 1);
                cgroups.remove(path);
                if changes.get() > 0 {
                    cgroups.make(path);
                }
            }
            id
        };
        match action {
            Action::Commit(commit) => {
                let done = effects::commit(&mut self.kernel, &commit, &look);
                self.tell(Event::Committed { outcomes: done.outcomes });
            }
            Action::LookAtCgroup(path) => {
                let id = cgroups.id(&path);
                self.tell(Event::CgroupSeen { path, id, source: None });
            }
            Action::LookAtUnit(name) => {
                let state = if name == unit(2) { self.state } else { UnitState::Inactive };
                self.tell(Event::UnitStateSeen { unit: name, state, source: Source::Dbus });
            }
            Action::Reload { .. } if std::mem::take(&mut self.fails) => {
                self.tell(Event::LoadFailed { passing: true });
            }
            Action::Reload { .. } => self.load(self.number),
        }
    }

    /// A final look at everything, then quiet.
    fn settle(&mut self) {
        self.kernel.faults.clear();
        self.tell(Event::SourceResumed { source: Source::Dbus });
        (0..UNITS).for_each(|number| self.hear(number, true));
        for _ in 0..80 {
            if self.turn(None) == 0 {
                match self.engine.timeout() {
                    Some(at) => self.now = self.now.max(at),
                    None => return,
                }
            }
        }
    }

    /// What the policy says, from the cgroups that exist.
    fn should_be(&self) -> BTreeSet<InKernel> {
        let exists = |path: &CgroupPath| self.cgroups.id(path).is_some();
        let state = |name: &UnitName| (*name == unit(2)).then_some(self.state);
        let of_instances = self.instances().into_iter().flat_map(|instance| self.policy.rows_of(&instance));
        let rows = self.policy.rows.iter().cloned().chain(of_instances);
        rows.filter(|row| row.condition.holds(exists, state))
            .map(|row| {
                let Element { set, key, data } = Arc::unwrap_or_clone(row.element);
                let id = key.cgroup().map(|path| self.cgroups.id(path).unwrap_or(CgroupId(0)));
                (
                    set,
                    id.map_or(KeyInKernel::Everything, KeyInKernel::Cgroup),
                    data.map(|data| data.to_string()),
                )
            })
            .collect()
    }

    fn is(&self) -> BTreeSet<InKernel> {
        let of_set = |(name, _): &(&str, &str)| {
            let elements = self.kernel.set(&set(name)).unwrap().iter();
            elements.map(|(key, value)| (set(name), *key, value.data.clone())).collect::<Vec<_>>()
        };
        SETS.iter().flat_map(of_set).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_a_final_look_the_kernel_is_what_the_policy_says(
        watched: bool,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut machine = Machine::new(watched);
        for step in steps {
            machine.step(step);
        }
        machine.settle();
        prop_assert_eq!(machine.is(), machine.should_be());
        let transactions = machine.kernel.transactions;
        machine.settle();
        prop_assert_eq!(machine.kernel.transactions, transactions, "a second look changes nothing");
    }
}
