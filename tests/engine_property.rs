//! Whatever happens to cgroups, and however badly the sources tell of it: after a final look at each cgroup the kernel
//! (its fake in memory) holds exactly what the policy says.

use std::{cell::Cell, collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use scnpm::{
    effects,
    engine::{Action, Engine, Event, Outcome, PolicyLoaded, Settings},
    model::{
        Binding, CgroupPath, Condition, Data, Element, Family, Key, Location, SetRef, Source, TableRef,
        UnitName, UnitState,
    },
    nft::{
        Kernel,
        fake::{Cgroups, Fake, KeyInKernel},
    },
};

const UNITS: usize = 5;

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
    State { unit: usize, active: bool },
    /// The loop gets its turn, with the machine changing between the wish and the deed.
    Turn { meanwhile: Option<usize> },
    /// The policy is loaded again, of which the kernel keeps the users' own sets only.
    Load,
}

fn step() -> impl Strategy<Value = Step> {
    let unit = 0..UNITS;
    let heard = prop::bool::weighted(0.8);
    prop_oneof![
        4 => (unit.clone(), heard).prop_map(|(unit, heard)| Step::Make { unit, heard }),
        3 => (unit.clone(), heard).prop_map(|(unit, heard)| Step::Remove { unit, heard }),
        2 => (unit.clone(), heard).prop_map(|(unit, heard)| Step::Restart { unit, heard }),
        3 => any::<prop::sample::Index>().prop_map(|event| Step::Replay { event }),
        1 => unit.clone().prop_map(|unit| Step::Mention { unit }),
        1 => (unit.clone(), any::<bool>()).prop_map(|(unit, active)| Step::State { unit, active }),
        5 => prop::option::weighted(0.3, unit).prop_map(|meanwhile| Step::Turn { meanwhile }),
        1 => Just(Step::Load),
    ]
}

fn unit(number: usize) -> UnitName {
    UnitName(format!("u{number}.service"))
}

fn path(number: usize) -> CgroupPath {
    format!("system.slice/u{number}.service").parse().unwrap()
}

fn set(name: &str) -> SetRef {
    SetRef { table: TableRef { family: Family::Inet, name: "filter".into() }, name: name.into() }
}

/// A map of ours, a set of the user's, a gate over two cgroups, and one over a unit's state.
fn bindings() -> Vec<Binding> {
    let bind = |number, name: &str, key: Key, data, condition| Binding {
        element: Element { set: set(name), key, data },
        condition,
        unit: unit(number),
        location: Location { file: "nftables.conf".into(), line: 1 },
    };
    let cgroup = |number| Key::Cgroup(path(number));
    let mut bindings: Vec<Binding> = (0..UNITS)
        .flat_map(|number| {
            let due = Condition::Cgroup(path(number));
            let jump = Some(Data::Jump(format!("scnpm.out.1.u{number}")));
            [
                bind(number, "scnpm.out.1", cgroup(number), jump, due.clone()),
                bind(number, "mine", cgroup(number), None, due),
            ]
        })
        .collect();
    let both = Condition::AllCgroups(BTreeSet::from([path(0), path(1)]));
    bindings.push(bind(0, "scnpm.out.2.active", Key::Everything, None, both));
    bindings.push(bind(2, "scnpm.out.3.active", Key::Everything, None, Condition::UnitActive(unit(2))));
    bindings
}

struct Machine {
    engine: Engine,
    kernel: Fake,
    cgroups: Cgroups,
    heard: Vec<Event>,
    active: bool,
    watched: bool,
    now: Duration,
}

impl Machine {
    fn new(watched: bool) -> Self {
        let settings = Settings { cgroups_are_watched: watched, ..Settings::default() };
        let cgroups = Cgroups::default();
        let kernel = Fake::new(cgroups.clone());
        let engine = Engine::new(settings);
        let mut machine =
            Self { engine, kernel, cgroups, heard: vec![], active: false, watched, now: Duration::ZERO };
        machine.load();
        machine
    }

    /// As a load does it: our own sets are new, with some of what is due in them.
    fn load(&mut self) {
        self.kernel.sets.retain(|set, _| !set.is_ours());
        bindings().iter().for_each(|binding| self.kernel.declare(binding.element.set.clone()));
        let half: Vec<Element> = bindings().into_iter().step_by(2).map(|binding| binding.element).collect();
        let mut installed = Vec::new();
        for element in half.into_iter().filter(|element| matches!(element.key, Key::Cgroup(_))) {
            let Key::Cgroup(path) = &element.key else { continue };
            let id = self.cgroups.id(path);
            if id.is_some() && self.kernel.add(std::slice::from_ref(&element)).is_ok() {
                installed.push((element, Outcome::Added { before: id, after: id }));
            }
        }
        self.tell(Event::PolicyLoaded(PolicyLoaded {
            bindings: bindings(),
            installed,
            ..PolicyLoaded::default()
        }));
    }

    fn tell(&mut self, event: Event) {
        self.now += Duration::from_millis(1);
        self.engine.handle(self.now, event);
    }

    /// cgroupfs speaks of a cgroup: what it says is kept, to be said again.
    fn hear(&mut self, number: usize, really: bool) {
        let id = self.cgroups.id(&path(number));
        let event = Event::CgroupSeen { path: path(number), id, source: Some(Source::Cgroup) };
        self.heard.push(event.clone());
        if really {
            self.tell(event);
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
            Step::State { unit: number, active } => {
                if number == 2 {
                    self.active = active;
                }
                let source = Source::Dbus;
                let state = UnitState::of(active);
                self.tell(Event::UnitStateSeen { unit: unit(number), state, user: false, source });
            }
            Step::Turn { meanwhile } => {
                self.turn(meanwhile);
            }
            Step::Load => self.load(),
        }
    }

    /// Does what the engine wants, once; while it is done, one cgroup is restarted whenever somebody looks at it, up to
    /// three times, and removed at the last.
    fn turn(&mut self, meanwhile: Option<usize>) -> usize {
        let actions = self.engine.actions(self.now);
        let wishes = actions.len();
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
                let outcomes = effects::commit(&mut self.kernel, &commit, &look);
                self.tell(Event::Committed { outcomes });
            }
            Action::LookAtCgroup(path) => {
                let id = cgroups.id(&path);
                self.tell(Event::CgroupSeen { path, id, source: None });
            }
            Action::Sweep { set, keep } => {
                let strays = &self.kernel.ids(&set).unwrap() - &keep;
                let strays: Vec<_> = strays.into_iter().map(|id| (set.clone(), id)).collect();
                self.kernel.delete(&strays).unwrap();
            }
            Action::LookAtUnit(unit) => {
                let state = UnitState::of(unit == self::unit(2) && self.active);
                self.tell(Event::UnitStateSeen { unit, state, user: false, source: Source::Dbus });
            }
            Action::Reload { .. } => unreachable!("nobody asked for it"),
        }
    }

    /// A final look at everything, then quiet.
    fn settle(&mut self) {
        for _ in 0..3 {
            // Sweeps keep a distance.
            self.now += Duration::from_secs(60);
            self.tell(Event::SourceResumed { source: Source::Dbus });
            let mut turns = 0;
            while turns < 40 && (self.turn(None) > 0 || self.engine.timeout().is_some()) {
                self.now = self.now.max(self.engine.timeout().unwrap_or_default());
                turns += 1;
            }
            assert!(!self.watched || turns < 40, "the engine never rests");
        }
    }

    /// What the policy says, from the cgroups that exist.
    fn should_be(&self) -> Vec<(SetRef, KeyInKernel, Option<Data>)> {
        let exists = |path: &CgroupPath| self.cgroups.id(path).is_some();
        let active = |name: &UnitName, _| *name == unit(2) && self.active;
        let mut all: Vec<_> = bindings()
            .into_iter()
            .filter(|binding| binding.condition.holds(exists, active))
            .map(|Binding { element: Element { set, key, data }, .. }| {
                let key = match key {
                    Key::Cgroup(path) => KeyInKernel::Cgroup(self.cgroups.id(&path).unwrap()),
                    Key::Everything => KeyInKernel::Everything,
                };
                (set, key, data)
            })
            .collect();
        all.sort();
        all
    }

    fn is(&self) -> Vec<(SetRef, KeyInKernel, Option<Data>)> {
        let of_set = |(set, elements): (&SetRef, &std::collections::BTreeMap<KeyInKernel, Option<Data>>)| {
            let set = set.clone();
            elements.iter().map(move |(key, data)| (set.clone(), *key, data.clone())).collect::<Vec<_>>()
        };
        self.kernel.sets.iter().flat_map(of_set).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

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
