//! What a load puts into a kernel (in memory), what it leaves out and whom it blames, what it takes away.

mod common;
#[path = "common/fake.rs"]
mod fake;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use scnpm::{
    dispatch::{Script, leftovers::Listing},
    load::{Load, LoadError, Loaded},
    model::{Addresses, CgroupId, CgroupPath, ChainRef, Element, SetRef, UnitName, UnitState},
    nft::{Complaint, ElementChange, Kernel},
    policy::{Policy, hosts::Hosts},
    units::Users,
};

use fake::{Cgroups, Fake, KeyInKernel};

struct Machine {
    cgroups: Cgroups,
    kernel: Fake,
}

fn path(text: &str) -> CgroupPath {
    text.parse().unwrap()
}

fn set(name: &str) -> SetRef {
    SetRef { table: common::table("filter"), name: name.into() }
}

fn chain(name: &str) -> ChainRef {
    ChainRef { table: common::table("filter"), name: name.into() }
}

impl Machine {
    fn new() -> Self {
        let cgroups = Cgroups::default();
        let mut kernel = Fake::new(cgroups.clone());
        kernel.load([
            "add table inet filter",
            "add chain inet filter wl",
            "add rule inet filter wl counter",
            "add set inet filter mine { type cgroupsv2; }",
            "add map inet filter marks { type cgroupsv2 : mark; }",
        ]);
        kernel.refusals = vec![("dprt".to_owned(), "syntax error, unexpected string".to_owned())];
        Self { cgroups, kernel }
    }

    fn make(&self, text: &str) -> CgroupId {
        self.cgroups.make(&path(text))
    }

    fn try_load(&mut self, text: &str, flush: bool) -> (Policy, Result<Loaded, LoadError>) {
        Self::load_into(&mut self.kernel, &self.cgroups, text, flush)
    }

    fn load_into(
        kernel: &mut dyn Kernel,
        cgroups: &Cgroups,
        text: &str,
        flush: bool,
    ) -> (Policy, Result<Loaded, LoadError>) {
        let policy = common::policy::of(text);
        let loaded = Load {
            policy: &policy,
            hosts: &Hosts::new(),
            flush,
            is_repair: false,
            is_strict: false,
            look: &|path| cgroups.id(path),
            alive: &|| Ok(cgroups.alive()),
            state: &|unit: &UnitName| Some(UnitState::of(unit.0 == "active.service".into())),
            instances: &[],
            users: &Users::new(),
        }
        .run(kernel);
        (policy, loaded)
    }

    fn load(&mut self, text: &str) -> Loaded {
        self.try_load(text, false).1.unwrap_or_else(|error| panic!("{:?}", error.words))
    }

    fn ids(&self, name: &str) -> BTreeSet<CgroupId> {
        let ids = self.kernel.set(&set(name)).into_iter().flatten().filter_map(|(key, _)| match key {
            KeyInKernel::Cgroup(id) => Some(*id),
            KeyInKernel::Everything => None,
        });
        ids.collect()
    }
}

fn rule(unit: &str, rest: &str) -> String {
    format!("# {unit} :: add rule inet filter wl socket cgroupv2 level 2 \"system.slice/{unit}\" {rest}\n")
}

fn element(set: &str, unit: &str, data: &str) -> String {
    format!("# {unit} :: add element inet filter {set} {{ \"system.slice/{unit}\"{data} }}\n")
}

#[test]
fn flush_leaves_no_old_rule_in_a_chain_of_which_all_annotations_are_refused() {
    let mut machine = Machine::new();
    machine.load(&rule("a.service", "tcp dport 25 accept"));
    let (_, loaded) = machine.try_load(&rule("a.service", "tcp dprt 25 accept"), true);
    assert_eq!(loaded.unwrap().refusals.len(), 1);
    assert_eq!(machine.kernel.rules(&chain("wl")), ["counter"]);
}

#[test]
fn refused_annotations_are_left_out_with_their_places_and_the_others_load() {
    let mut machine = Machine::new();
    let text = rule("a.service", "accept")
        + &rule("b.service", "tcp dprt 25 accept")
        + "# c.service :: add rule inet filter nochain socket cgroupv2 level 2 \"system.slice/c.service\" accept\n"
        + &element("nowhere", "d.service", "")
        + &rule("e.service", "tcp dport 25 accept");
    machine.make("system.slice/d.service");
    let (policy, loaded) = machine.try_load(&text, false);
    let loaded = loaded.unwrap();
    let places: Vec<usize> = loaded
        .refusals
        .iter()
        .map(|found| policy.sources.line_column(found.diagnostic(&policy).span).0)
        .collect();
    assert_eq!(places, [2, 3, 4]);
    let word = loaded.refusals[0].diagnostic(&policy).span;
    assert_eq!(&text[word.start..word.end], "dprt");
    let units: Vec<&str> = loaded.rows.iter().map(|row| &*row.unit.0).collect();
    assert_eq!(units, ["a.service", "e.service"]);
    assert_eq!(machine.kernel.rules(&chain("scnpm.wl.1.e.service")), ["tcp dport 25 accept"]);
}

#[test]
fn many_refused_annotations_are_found_in_groups() {
    let mut machine = Machine::new();
    let text: String = (0..100)
        .map(|n| {
            rule(
                &format!("u{n}.service"),
                if n % 3 == 0 { "tcp dprt 1 accept" } else { "tcp dport 1 accept" },
            )
        })
        .collect();
    let loaded = machine.load(&text);
    assert_eq!((loaded.refusals.len(), loaded.rows.len()), (34, 66));
}

#[test]
fn elements_that_are_due_go_in_with_the_load_and_are_told_by_their_rows() {
    let mut machine = Machine::new();
    let id = machine.make("system.slice/a.service");
    let text = rule("b.service", "tcp dprt 1 accept")
        + &rule("a.service", "accept")
        + "# active.service :: add rule inet filter wl udp dport 1 accept\n"
        + &element("mine", "a.service", "");
    let loaded = machine.load(&text);
    let installed: BTreeSet<(&str, Option<CgroupId>)> =
        loaded.installed.iter().map(|(row, id)| (&*loaded.rows[*row].element.set.name, *id)).collect();
    let expected = [("mine", Some(id)), ("scnpm.wl.1", Some(id)), ("scnpm.wl.2.active", None)];
    assert_eq!(installed, expected.into());
    assert_eq!(machine.ids("mine"), [id].into());
}

#[test]
fn reload_replaces_what_was_there_and_a_second_one_changes_nothing() {
    let mut machine = Machine::new();
    machine.make("system.slice/a.service");
    let before = machine.kernel.tables.clone();
    machine.load(&(rule("a.service", "tcp dport 1 accept") + &rule("b.service", "accept")));
    machine.load(&rule("a.service", "tcp dport 2 accept"));
    assert_eq!(machine.kernel.rules(&chain("scnpm.wl.1.a.service")), ["tcp dport 2 accept"]);
    assert_eq!(machine.kernel.rules(&chain("wl")), ["counter", "socket cgroupv2 level 2 vmap @scnpm.wl.1"]);
    let tables = |machine: &Machine| {
        let mut tables = machine.kernel.tables.clone();
        let chains = tables.values_mut().flat_map(|table| table.chains.values_mut());
        chains.flatten().for_each(|rule| rule.0 = 0);
        tables
    };
    let once = tables(&machine);
    machine.load(&rule("a.service", "tcp dport 2 accept"));
    assert_eq!(tables(&machine), once);
    machine.load("");
    assert_eq!(machine.kernel.tables, before);
}

#[test]
fn counter_stays_as_it_is_while_an_annotation_wants_it() {
    let mut machine = Machine::new();
    let counters = |machine: &Machine| machine.kernel.tables[&common::table("filter")].counters.clone();
    let counted = |text: String| format!("# scnpm: count\n{text}");
    let (a, b) = (rule("a.service", "accept"), rule("b.service", "tcp dport 1 drop"));
    machine.load(&(counted(a.clone()) + &counted(b.clone())));
    let before = counters(&machine);
    assert_eq!(before.len(), 2);
    let count = "counter name \"scnpm.count.a.service\" accept";
    assert_eq!(machine.kernel.rules(&chain("scnpm.wl.1.a.service")), [count]);
    let reordered = counted(rule("c.service", "accept")) + &counted(b) + &counted(rule("a.service", "drop"));
    machine.load(&reordered);
    assert!(before.iter().all(|one| counters(&machine).iter().any(|now| now == one)));
    machine.load(&counted(a.clone()));
    let left: Vec<_> = counters(&machine).into_iter().collect();
    assert_eq!(left, [("scnpm.count.a.service".to_owned(), before["scnpm.count.a.service"])]);
    machine.load(&a);
    assert!(counters(&machine).is_empty());
}

#[test]
fn load_that_nft_refuses_for_nobody_leaves_everything_as_it_was() {
    let mut machine = Machine::new();
    machine.load(&rule("a.service", "accept"));
    let before = machine.kernel.tables.clone();
    for (errno, passing) in [(libc::ENOMEM, true), (libc::EBUSY, true), (libc::EPERM, false)] {
        // The group tries find nobody to blame either.
        machine.kernel.faults = [errno; 4].into();
        let error = machine.try_load(&rule("b.service", "accept"), false).1.unwrap_err();
        assert_eq!(error.passing, passing, "{:?}", error.words);
        assert_eq!(machine.kernel.tables, before);
        machine.kernel.faults.clear();
    }
}

#[test]
fn value_that_changed_takes_the_place_of_the_old_one_and_what_is_gone_goes() {
    let mut machine = Machine::new();
    let a = machine.make("system.slice/a.service");
    let b = machine.make("system.slice/b.service");
    let value = |machine: &Machine, id| {
        machine.kernel.set(&set("marks")).unwrap()[&KeyInKernel::Cgroup(id)].data.clone()
    };
    machine.load(&(element("marks", "a.service", " : 1") + &element("marks", "b.service", " : 1")));
    let loaded = machine.load(&element("marks", "a.service", " : 2"));
    assert_eq!(loaded.refusals, []);
    assert_eq!(value(&machine, a).as_deref(), Some("2"));
    assert_eq!(machine.ids("marks"), [a].into(), "not {b}");
    machine.load("");
    assert_eq!(machine.ids("marks"), [].into());
}

#[test]
fn users_own_elements_stay_but_for_those_of_cgroups_that_are_gone() {
    let mut machine = Machine::new();
    let own = machine.make("system.slice/own.service");
    let dead = machine.make("system.slice/dead.service");
    machine.kernel.load([
        "add element inet filter mine { \"system.slice/own.service\" }",
        "add element inet filter mine { \"system.slice/dead.service\" }",
    ]);
    machine.cgroups.remove(&path("system.slice/dead.service"));
    machine.load("");
    assert_eq!(machine.ids("mine"), [own, dead].into(), "nobody speaks of the set");
    machine.load(&element("mine", "own.service", ""));
    assert_eq!(machine.ids("mine"), [own].into());
    machine.load(&element("mine", "other.service", ""));
    assert_eq!(machine.ids("mine"), [own].into(), "it was the user's before an annotation named it");
}

#[test]
fn flush_empties_the_chains_that_annotations_name() {
    let mut machine = Machine::new();
    let (_, loaded) = machine.try_load(&rule("a.service", "accept"), true);
    loaded.unwrap();
    assert_eq!(machine.kernel.rules(&chain("wl")), ["socket cgroupv2 level 2 vmap @scnpm.wl.1"]);
}

/// A kernel that is short of memory for so many listings and changes of elements.
struct Short<'a> {
    kernel: &'a mut Fake,
    listings: usize,
    changes: usize,
}

fn take(left: &mut usize) -> io::Result<()> {
    match left.checked_sub(1) {
        Some(less) => {
            *left = less;
            Err(io::Error::from_raw_os_error(libc::ENOMEM))
        }
        None => Ok(()),
    }
}

impl Kernel for Short<'_> {
    fn run(&mut self, script: &Script, check: bool) -> Result<(), Vec<Complaint>> {
        self.kernel.run(script, check)
    }

    fn list(&mut self) -> Result<Listing, Vec<Complaint>> {
        self.kernel.list()
    }

    fn change(&mut self, changes: &[ElementChange<'_>]) -> io::Result<()> {
        take(&mut self.changes)?;
        self.kernel.change(changes)
    }

    fn elements(&mut self, set: &SetRef) -> io::Result<BTreeMap<CgroupId, bool>> {
        take(&mut self.listings)?;
        self.kernel.elements(set)
    }

    fn fill(&mut self, set: &SetRef, is_interval: bool, content: &[Addresses]) -> io::Result<()> {
        self.kernel.fill(set, is_interval, content)
    }

    fn needs_words(&mut self, element: &Element) -> bool {
        self.kernel.needs_words(element)
    }
}

#[test]
fn load_that_cannot_know_whose_elements_are_changes_nothing_and_may_succeed_later() {
    let mut machine = Machine::new();
    let a = machine.make("system.slice/a.service");
    machine.load(&element("marks", "a.service", " : 1"));
    let mut short = Short { kernel: &mut machine.kernel, listings: 1, changes: 0 };
    let changed = element("marks", "a.service", " : 2");
    let (_, loaded) = Machine::load_into(&mut short, &machine.cgroups, &changed, false);
    assert!(loaded.unwrap_err().passing);
    assert_eq!(machine.ids("marks"), [a].into());
    assert_eq!(machine.load(&changed).refusals, []);
}

#[test]
fn load_after_which_an_element_could_not_be_deleted_is_unfinished() {
    let mut machine = Machine::new();
    let a = machine.make("system.slice/a.service");
    machine.load(&element("mine", "a.service", ""));
    let mut short = Short { kernel: &mut machine.kernel, listings: 0, changes: 1 };
    let (_, loaded) = Machine::load_into(&mut short, &machine.cgroups, "", false);
    assert!(loaded.unwrap().unfinished);
    assert_eq!(machine.ids("mine"), [a].into());
    assert!(!machine.load("").unfinished);
    assert_eq!(machine.ids("mine"), [].into());
}
