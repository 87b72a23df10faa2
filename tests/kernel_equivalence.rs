//! On the real kernel: a policy compiled by scnpm decides and counts every packet as its rules do when nft loads them as
//! they are written, while the cgroups exist.
//!
//! Two tables hold the same random policy, one plain, one compiled. Sockets in every cgroup send each packet twice;
//! the source port says which table it is for. Verdicts (EPERM is a drop), named counters and final marks must agree.
//!
//! nft has no match for cgroups at several levels, as `socket cgroupv2 unit` is one. But each cgroup's socket has an
//! address of its own: in the plain table the addresses of all sockets in or below a selected cgroup stand for it.

mod common;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::UdpSocket,
    path::Path,
};

use common::{
    policy,
    sandbox::{self, Sandbox, remove_tree},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use scnpm::{
    cgroupfs::{alive, look},
    dispatch,
    load::{Again, Load, script, tables},
    model::{CGROUP_ROOT, CgroupPath, Instance, UnitState},
    nft::{Interest, Kernel, Nftables, RulesetMonitor},
    policy::hosts::Hosts,
    units::selector::{Selectors, Users},
};

const CASES: u32 = 300;
const PLAIN: u16 = 4001;
const COMPILED: u16 = 4002;
const PORTS: [u16; 3] = [1, 2, 3];
const MARKS: u32 = 3;

/// The levels of the user's own maps.
const MAP_LEVELS: [usize; 2] = [2, 3];

/// Cgroups below `TOP`, which is at level 1.
const CGROUPS: [&str; 7] = ["TOP/a", "TOP/a/x", "TOP/a/y", "TOP/b", "TOP/b/x", "TOP/c", "TOP/c/x/z"];

/// Cgroups of units, slices around them, and one below a unit.
const UNITS: [&str; 18] = [
    "TOP.slice",
    "TOP.slice/x.service",
    "TOP.slice/x.service/sub",
    "TOP.slice/z.scope",
    "TOP.slice/TOP-a.slice",
    "TOP.slice/TOP-a.slice/y.service",
    "TOP.slice/TOP-a.slice/v.service",
    "TOP.slice/TOP-a.slice/TOP-a-b.slice",
    "TOP.slice/TOP-a.slice/TOP-a-b.slice/w.service",
    "user.slice/user-UID.slice",
    "user.slice/user-UID.slice/user@UID.service",
    "user.slice/user-UID.slice/user@UID.service/app.slice",
    "user.slice/user-UID.slice/user@UID.service/app.slice/x.service",
    "user.slice/user-UID.slice/user@UID.service/app.slice/app-fx.slice",
    "user.slice/user-UID.slice/user@UID.service/app.slice/app-fx.slice/app-gnome-fx-1.scope",
    "user.slice/user-UID.slice/user@UID.service/app.slice/app-fx.slice/app-gnome-fy-1.scope",
    "user.slice/user-UID.slice/user@UID.service/app.slice/app-gnome-fx-2.scope",
    "user.slice/user-UID.slice/user@UID.service/app.slice/app-gnome-fy-2.scope",
];

/// Selectors of units at levels 2 and 3, some in others, so that many rules could share their maps.
const NESTED: [&str; 4] =
    ["system:TOP-a.slice", "system:TOP-c.slice", "system:y.service", "system:v.service"];

/// Selectors of applications, whose units may be in each other, and of a unit of one.
const APPS: [&str; 4] = ["UID:app:fx", "UID:app:fy", "UID:app:gone", "UID:app-gnome-fy-2.scope"];

/// Globs for scopes of applications, some for the same ones.
const GLOBS: [&str; 5] = [
    "UID:app-gnome-fx-*.scope",
    "UID:app-gnome-fy-*.scope",
    "UID:app-gnome-gone-*.scope",
    "UID:app-gnome-f?-2.scope",
    "UID:app-*.scope",
];

/// Selectors of units at level 2, and their paths.
const OF_ONE_LEVEL: [&str; 3] = ["system:x.service", "system:z.scope", "system:TOP-a.slice"];
const PATHS_OF_ONE_LEVEL: [&str; 3] = ["TOP.slice/x.service", "TOP.slice/z.scope", "TOP.slice/TOP-a.slice"];

const SELECTORS: [&str; 18] = [
    "system:TOP.slice",
    "system:TOP-a.slice",
    "system:TOP-a-b.slice",
    "system:TOP-*.slice",
    "system:x.service",
    "system:y.service",
    "system:v.service",
    "system:w.service",
    "system:z.scope",
    "system:?.service",
    "system:gone.service",
    "system:user@UID.service",
    "UID:app.slice",
    "UID:app:fx",
    "UID:x.service",
    "UID:app-*.scope",
    "user:x.service",
    "user:*",
];

#[test]
fn compiled_policies_decide_and_count_like_plain_rules() {
    sandbox::run(|sandbox| {
        let top = sandbox.path("").to_string();
        compare_many(
            sandbox,
            &Tree { top, uid: String::new(), cgroups: &CGROUPS, made_user_slice: false },
            &rule(&CGROUPS, &[]),
        );
    });
}

#[test]
fn rules_of_units_at_any_level_decide_and_count_in_the_order_of_the_file() {
    sandbox::run(|sandbox| {
        let tree = Tree::of_units();
        compare_many(sandbox, &tree, &rules_of_units());
    });
}

#[test]
fn rules_of_applications_in_each_other_decide_in_the_order_of_the_file() {
    sandbox::run(|sandbox| compare_many(sandbox, &Tree::of_units(), &rules_of_apps()));
}

#[test]
fn earlier_rule_wins_though_its_unit_is_deeper() {
    sandbox::run(|sandbox| {
        let tree = Tree::of_units();
        let machine = Machine::new(sandbox, &tree);
        let rule = |units: [&'static str; 2], after: &[&str], verdict: &str| Rule {
            insert: false,
            before: vec![],
            units: Some(units.into()),
            matches: vec![],
            after: after.iter().map(|statement| (*statement).to_owned()).collect(),
            verdict: verdict.to_owned(),
        };
        // y.service is in TOP-a.slice.
        let rules = [
            rule(["system:TOP-c.slice", "system:y.service"], &["udp dport 1"], "accept"),
            rule(["system:TOP-a.slice", "system:v.service"], &["COUNTER"], "drop"),
        ];
        let elements = Elements { marks: BTreeMap::new(), verdicts: BTreeMap::new() };
        machine.compare(&rules, &elements, Counted::All).unwrap_or_else(|error| panic!("{error}"));
    });
}

fn rules_of_units() -> impl Strategy<Value = Rule> + Clone {
    prop_oneof![
        2 => rule(&UNITS, &[&SELECTORS, &NESTED]),
        1 => rule(&PATHS_OF_ONE_LEVEL, &[&OF_ONE_LEVEL]),
        1 => rules_of_apps(),
    ]
}

/// Rules that mostly do nothing but accept or drop, so that many of them could share their maps.
fn rules_of_apps() -> impl Strategy<Value = Rule> + Clone {
    let verdict = prop::sample::select(vec!["accept", "accept", "accept", "drop"]);
    (rule(&UNITS, &[&APPS, &GLOBS]), verdict, prop::bool::weighted(0.1)).prop_map(
        |(rule, verdict, may_count)| {
            let mut rule = Rule { before: vec![], verdict: verdict.to_owned(), ..rule };
            rule.after.retain(|statement| may_count || !has_effect(statement));
            rule
        },
    )
}

fn compare_many(sandbox: &Sandbox, tree: &Tree, rule: &(impl Strategy<Value = Rule> + Clone)) {
    let machine = Machine::new(sandbox, tree);
    let config =
        Config { cases: CASES, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let counted = prop::sample::select(vec![Counted::None, Counted::EverySecond, Counted::All]);
    let policies = (prop::collection::vec(rule.clone(), 1..14), elements(tree.cgroups), counted);
    let result = TestRunner::new(config)
        .run(&policies, |(rules, elements, counted)| machine.compare(&rules, &elements, counted));
    if let Err(error) = result {
        panic!("{error}");
    }
    let repeated = machine.repeated.get();
    assert!(repeated > CASES / 30, "only {repeated} policies could be made again");
}

/// Cgroups of a test's own. In their names and in selectors, `TOP` and `UID` stand for what is different in each run.
struct Tree {
    top: String,
    uid: String,
    cgroups: &'static [&'static str],
    /// Whether the machine had no `user.slice` before.
    made_user_slice: bool,
}

impl Tree {
    fn of_units() -> Self {
        let pid = std::process::id();
        let uid = (2_000_000_000 + pid).to_string();
        let made_user_slice = fs::create_dir(Path::new(CGROUP_ROOT).join("user.slice")).is_ok();
        Self { top: format!("scnpmtest{pid}"), uid, cgroups: &UNITS, made_user_slice }
    }

    fn fill(&self, text: &str) -> String {
        text.replace("TOP", &self.top).replace("UID", &self.uid)
    }

    fn paths(&self) -> impl Iterator<Item = String> {
        self.cgroups.iter().map(|cgroup| self.fill(cgroup))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.uid.is_empty() {
            remove_tree(&Path::new(CGROUP_ROOT).join(self.fill("TOP.slice")));
            remove_tree(&Path::new(CGROUP_ROOT).join(self.fill("user.slice/user-UID.slice")));
        }
        if self.made_user_slice {
            // Not empty, if another test is at it.
            let _ = fs::remove_dir(Path::new(CGROUP_ROOT).join("user.slice"));
        }
    }
}

/// Which annotations have `# scnpm: count` above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    None,
    EverySecond,
    All,
}

impl Counted {
    fn holds(self, number: usize) -> bool {
        self == Self::All || self == Self::EverySecond && number.is_multiple_of(2)
    }
}

/// What the counters of scnpm's own are named after.
const OURS: &str = "scnpm.count.";

/// A rule without its table, chain and top cgroup.
#[derive(Debug, Clone)]
struct Rule {
    insert: bool,
    before: Vec<String>,
    /// The selectors of `socket cgroupv2 unit`, which stands before `after`.
    units: Option<BTreeSet<&'static str>>,
    matches: Vec<Match>,
    after: Vec<String>,
    verdict: String,
}

#[derive(Debug, Clone)]
struct Match {
    negated: bool,
    level: usize,
    paths: BTreeSet<&'static str>,
    between: Option<String>,
}

type Names = &'static [&'static str];

fn rule(cgroups: Names, selectors: &[Names]) -> impl Strategy<Value = Rule> + Clone {
    let matches = prop_oneof![
        12 => prop::collection::vec(cgroup_match(cgroups), 1..2),
        2 => prop::collection::vec(cgroup_match(cgroups), 2..3),
        1 => Just(vec![]),
    ];
    let some_of = |names: &Names| prop::collection::btree_set(prop::sample::select(names.to_vec()), 1..4);
    let units = match selectors {
        [] => Just(None).boxed(),
        _ => {
            let lists: Vec<_> = selectors.iter().map(some_of).collect();
            prop::option::weighted(0.7, prop::strategy::Union::new(lists)).boxed()
        }
    };
    let verdict = prop::sample::select(vec![
        "accept",
        "accept",
        "accept",
        "drop",
        "drop",
        "return",
        "return",
        "goto sub",
        "jump sub",
        "jump sub",
        "continue",
        "",
        "udp dport vmap { 1 : accept, 2 : drop }",
        "udp dport vmap { 1 : return, 3 : jump sub }",
        "udp dport vmap @verdicts",
    ]);
    (
        prop::bool::weighted(0.2),
        prop::collection::vec(statement(), 0..2),
        units,
        matches,
        prop::collection::vec(statement(), 0..3),
        verdict,
    )
        .prop_map(|(insert, before, units, matches, after, verdict)| {
            let matches = if units.is_some() { vec![] } else { matches };
            let mut rule = Rule { insert, before, units, matches, after, verdict: verdict.to_owned() };
            // Not kept at several levels, and documented: a limit is one for each level, what is in front acts for each.
            if rule.units.is_some() && ["return", "goto", "@"].iter().any(|word| verdict.contains(word)) {
                rule.before.retain(|statement| !has_effect(statement));
                rule.after.retain(|statement| !statement.starts_with("limit"));
            }
            rule
        })
}

/// What annotations put into the user's own maps of marks and of verdicts, by path.
#[derive(Debug, Clone)]
struct Elements {
    marks: BTreeMap<&'static str, u32>,
    verdicts: BTreeMap<&'static str, &'static str>,
}

fn elements(cgroups: Names) -> impl Strategy<Value = Elements> {
    let in_map: Vec<&'static str> =
        cgroups.iter().copied().filter(|cgroup| MAP_LEVELS.contains(&level(cgroup))).collect();
    let path = prop::sample::select(in_map);
    let verdict = prop::sample::select(vec!["accept", "drop", "continue", "return", "jump sub", "goto sub"]);
    (
        prop::collection::btree_map(path.clone(), 0..=MARKS, 0..4),
        prop::collection::btree_map(path, verdict, 0..3),
    )
        .prop_map(|(marks, verdicts)| Elements { marks, verdicts })
}

impl Elements {
    /// The statements for a table.
    fn statements(&self, table: &str, tree: &Tree) -> Vec<String> {
        let marks = self.marks.iter().map(|(path, mark)| ("marks", *path, mark.to_string()));
        let verdicts =
            self.verdicts.iter().map(|(path, verdict)| ("unit_verdicts", *path, (*verdict).to_owned()));
        marks
            .chain(verdicts)
            .map(|(map, path, value)| {
                let (level, path) = (level(path), tree.fill(path));
                format!("add element inet {table} {map}{level} {{ \"{path}\" : {value} }}")
            })
            .collect()
    }
}

fn level(path: &str) -> usize {
    path.split('/').count()
}

fn has_effect(statement: &str) -> bool {
    statement == "COUNTER" || ["set ", "limit", "update"].iter().any(|word| statement.contains(word))
}

fn cgroup_match(cgroups: Names) -> impl Strategy<Value = Match> + Clone {
    let paths = prop::collection::btree_set(prop::sample::select(cgroups.to_vec()), 1..3);
    (prop::bool::weighted(0.15), 2..5_usize, paths, prop::option::weighted(0.2, statement())).prop_map(
        |(negated, level, paths, between)| {
            // Mostly the level that the first path has; any other never matches, and that is to be the same too.
            let level = if level == 4 { 3 } else { paths.first().map_or(2, |path| self::level(path)) };
            Match { negated, level, paths, between }
        },
    )
}

/// A match or an effect; `COUNTER` becomes a counter of the rule's own.
fn statement() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        4 => Just("COUNTER".to_owned()),
        4 => prop::sample::select(PORTS.to_vec()).prop_map(|port| format!("udp dport {port}")),
        2 => prop::sample::select(PORTS.to_vec()).prop_map(|port| format!("udp dport != {port}")),
        3 => (0..=MARKS).prop_map(|mark| format!("meta mark set {mark}")),
        3 => (0..=MARKS).prop_map(|mark| format!("meta mark {mark}")),
        1 => Just("ip daddr 127.0.0.0/8".to_owned()),
        1 => Just("ip saddr 192.0.2.0/24".to_owned()),
        1 => Just("limit rate 1/day burst 3 packets".to_owned()),
        1 => Just("meta l4proto udp".to_owned()),
        1 => Just("update @seen { udp dport }".to_owned()),
    ]
}

impl Rule {
    /// The statement for a table, with counters named after the rule.
    /// `units` is the match that stands for the selected units, `counter` counts what it decides.
    fn text(&self, table: &str, tree: &Tree, units: &str, number: usize, counter: &str) -> String {
        let mut words: Vec<String> = vec![];
        let mut counters = 0;
        let decides_by_map = self.verdict.contains("vmap");
        let (early, late) = if decides_by_map { (counter, "") } else { ("", counter) };
        let mut push = |statement: &str| {
            if statement == "COUNTER" {
                counters += 1;
                words.push(format!("counter name r{number}c{counters}"));
            } else if !statement.is_empty() {
                words.push(statement.to_owned());
            }
        };
        if self.units.is_none() && self.matches.is_empty() {
            push(early);
        }
        self.before.iter().for_each(|statement| push(statement));
        if self.units.is_some() {
            push(units);
            push(early);
        }
        for (place, cgroup) in self.matches.iter().enumerate() {
            let paths: Vec<String> =
                cgroup.paths.iter().map(|path| format!("\"{}\"", tree.fill(path))).collect();
            let paths = match &paths[..] {
                [one] => one.clone(),
                several => format!("{{ {} }}", several.join(", ")),
            };
            let not = if cgroup.negated { "!= " } else { "" };
            push(&format!("socket cgroupv2 level {} {not}{paths}", cgroup.level));
            if place + 1 == self.matches.len() {
                push(early);
            }
            cgroup.between.iter().for_each(|statement| push(statement));
        }
        self.after.iter().for_each(|statement| push(statement));
        push(late);
        push(&self.verdict);
        if words.is_empty() {
            words.push("continue".to_owned());
        }
        let verb = if self.insert { "insert" } else { "add" };
        format!("{verb} rule inet {table} test {}", words.join(" "))
    }
}

struct Machine<'a> {
    sandbox: &'a Sandbox,
    tree: &'a Tree,
    instances: Vec<Instance>,
    sockets: Vec<(String, UdpSocket, UdpSocket)>,
    /// How many loads could be made again.
    repeated: Cell<u32>,
}

impl<'a> Machine<'a> {
    fn new(sandbox: &'a Sandbox, tree: &'a Tree) -> Self {
        let root = Path::new(CGROUP_ROOT);
        for path in tree.paths() {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        let home = fs::read_to_string("/proc/self/cgroup").unwrap();
        let home = home.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        let places = tree.paths().chain([sandbox.path("").to_string(), String::new()]);
        let sockets = places
            .enumerate()
            .map(|(number, place)| {
                join(&root.join(&place));
                let bind = |port| UdpSocket::bind(format!("127.0.0.{}:{port}", number + 2)).unwrap();
                (place, bind(PLAIN), bind(COMPILED))
            })
            .collect();
        join(&root.join(home));
        let instances = tree.paths().filter_map(|path| Instance::of(&path.parse().unwrap())).collect();
        Self { sandbox, tree, instances, sockets, repeated: Cell::default() }
    }

    /// What left of the `::` selects these units.
    fn selectors(&self, rule: &Rule, number: usize) -> String {
        match &rule.units {
            Some(units) => {
                let units: Vec<String> = units.iter().map(|unit| self.tree.fill(unit)).collect();
                units.join(",")
            }
            None => format!("u{number}.service"),
        }
    }

    /// The match for the addresses of the sockets in and below the selected units' cgroups; none if there is no such unit,
    /// so that the rule is not in force.
    fn addresses(&self, selectors: &str) -> Option<String> {
        let selectors = Selectors::parse(selectors).unwrap();
        let selected: Vec<&str> = self
            .instances
            .iter()
            .filter(|instance| selectors.select(instance, &Users::new()))
            .map(|instance| instance.path.as_str())
            .collect();
        let is_below = |place: &str, path: &str| {
            place.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let addresses: Vec<String> = self
            .sockets
            .iter()
            .filter(|(place, ..)| selected.iter().any(|path| is_below(place, path)))
            .map(|(_, socket, _)| socket.local_addr().unwrap().ip().to_string())
            .collect();
        (!selected.is_empty()).then(|| format!("ip saddr {{ {} }}", addresses.join(", ")))
    }

    fn plain(&self, rule: &Rule, number: usize, counted: Counted) -> Option<String> {
        let counter = match counted.holds(number) {
            true => format!("counter name {}", plain_counter(rule, number)),
            false => String::new(),
        };
        let units = match &rule.units {
            Some(_) => self.addresses(&self.selectors(rule, number))?,
            None => String::new(),
        };
        Some(rule.text("plain", self.tree, &units, number, &counter))
    }

    fn compare(&self, rules: &[Rule], elements: &Elements, counted: Counted) -> Result<(), TestCaseError> {
        let mut kernel = Nftables::open().unwrap();
        let plain = rules.iter().enumerate().filter_map(|(n, rule)| self.plain(rule, n, counted));
        let plain: String =
            plain.chain(elements.statements("plain", self.tree)).map(|statement| statement + "\n").collect();
        let annotations = rules.iter().enumerate().map(|(n, rule)| {
            let text = rule.text("compiled", self.tree, "socket cgroupv2 unit", n, "");
            let directive = if counted.holds(n) { "# scnpm: count\n" } else { "" };
            format!("{directive}# {} :: {text}\n", self.selectors(rule, n))
        });
        let annotations: String = annotations
            .chain(
                elements
                    .statements("compiled", self.tree)
                    .iter()
                    .map(|statement| format!("# e.service :: {statement}\n")),
            )
            .collect();
        let context = || format!("policy:\n{annotations}");
        let base = ["plain", "compiled"].map(|table| base(table, &annotations)).concat();
        run(&mut kernel, &format!("flush ruleset\n{base}"))?;
        let policy = policy::of(&annotations);
        prop_assert_eq!(policy.annotations.len(), annotations.matches(" :: ").count());
        let hosts = Hosts::new();
        let load = Load {
            policy: &policy,
            hosts: &hosts,
            flush: false,
            is_repair: false,
            is_strict: false,
            look: &|path: &CgroupPath| look(path),
            alive: &alive,
            state: &|_| Some(UnitState::Active),
            instances: &self.instances,
            users: &Users::new(),
        };
        let mut monitor = RulesetMonitor::open(kernel.generation()?.thread)?;
        monitor.record();
        let loaded =
            load.run(&mut kernel).map_err(|error| fail(&format!("{:?}\n{}", error.words, context())))?;
        monitor.drain(&Interest::default())?;
        // What can be made again is compared as it is then.
        let surroundings = kernel.surroundings(&tables(&policy))?.1;
        let again = monitor.recorded().and_then(|recording| {
            Again::of(&policy, (&self.instances, &Users::new()), &loaded, recording, surroundings)
        });
        if let Some(again) = again {
            run(&mut kernel, &format!("flush ruleset\n{base}"))?;
            let repeated = load.repeat(&mut kernel, &again).ok_or_else(|| fail(&context()))?;
            self.repeated.set(self.repeated.get() + 1);
            prop_assert_eq!(repeated.installed, loaded.installed.clone());
        }
        let compiled = || script(&policy, &hosts, &self.instances, &Users::new()).script.to_string();
        prop_assert!(
            loaded.refusals.is_empty(),
            "{}\n{}",
            loaded.refusals[0].diagnostic(&policy).render(&policy.sources, false),
            compiled()
        );
        // Only now: nft looks all over cgroupfs for the path of every cgroup in a plain rule that it lists.
        let ours = rules.iter().enumerate().filter(|(n, _)| counted.holds(*n));
        let ours: String =
            ours.map(|(n, rule)| format!("add counter inet plain {}\n", plain_counter(rule, n))).collect();
        run(&mut kernel, &(ours + &plain))?;
        for (place, plain, compiled_socket) in &self.sockets {
            for port in PORTS {
                let as_written = passes(plain, port);
                let by_us = passes(compiled_socket, port);
                prop_assert_eq!(
                    as_written,
                    by_us,
                    "verdict of {} to port {}\n{}\n{}",
                    place,
                    port,
                    context(),
                    compiled()
                );
            }
        }
        let (as_written, by_us) = (counters(self.sandbox, "plain"), counters(self.sandbox, "compiled"));
        let comparable = |counters: &[(String, u64)]| -> Vec<(String, u64)> {
            let is_one = |name: &str| name.strip_prefix(OURS).is_none_or(is_of_paths);
            counters.iter().filter(|(name, _)| is_one(name)).cloned().collect()
        };
        prop_assert_eq!(comparable(&as_written), comparable(&by_us), "{}\n{}", context(), compiled());
        // A packet in cgroups of two selectors with the same verdict is counted for either.
        let sum = |counters: &[(String, u64)]| -> u64 {
            counters.iter().filter(|(name, _)| name.starts_with(OURS)).map(|(_, packets)| packets).sum()
        };
        if counted == Counted::All {
            prop_assert_eq!(sum(&as_written), sum(&by_us), "{}\n{}", context(), compiled());
        }
        Ok(())
    }
}

/// The counter in the plain table of a rule that is counted.
fn plain_counter(rule: &Rule, number: usize) -> String {
    match &rule.units {
        Some(_) => format!("{OURS}units"),
        None => format!("{OURS}u{number}.service"),
    }
}

/// Whether what a counter is named after is a rule with paths.
fn is_of_paths(unit: &str) -> bool {
    unit.strip_prefix('u').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// A table in which every packet to the wrong port for it goes by, and what passes is counted by its mark.
fn base(table: &str, rules: &str) -> String {
    let port = if table == "plain" { PLAIN } else { COMPILED };
    let mut text = format!("add table inet {table}\n");
    let named = rules.split("counter name ").skip(1).filter_map(|rest| rest.split_whitespace().next());
    for counter in named {
        text += &format!("add counter inet {table} {counter}\n");
    }
    for mark in 0..=MARKS {
        text += &format!("add counter inet {table} mark{mark}\n");
    }
    text += &format!("add chain inet {table} sub\nadd chain inet {table} own\n");
    for level in MAP_LEVELS {
        text += &format!(
            "add map inet {table} marks{level} {{ type cgroupsv2 : mark; }}
add map inet {table} unit_verdicts{level} {{ type cgroupsv2 : verdict; }}
add rule inet {table} own meta mark set socket cgroupv2 level {level} map @marks{level}
add rule inet {table} own socket cgroupv2 level {level} vmap @unit_verdicts{level}
"
        );
    }
    text += &format!(
        "add counter inet {table} sub1
add counter inet {table} returned
add counter inet {table} sent
add set inet {table} seen {{ type inet_service; flags dynamic; size 64; timeout 1h; }}
add map inet {table} verdicts {{ type inet_service : verdict; }}
add rule inet {table} sub counter name sub1 udp dport 1 return
add rule inet {table} sub meta mark set 2
add rule inet {table} sub udp dport 3 drop
add chain inet {table} test
add chain inet {table} out {{ type filter hook output priority 0; }}
add chain inet {table} late {{ type filter hook output priority 10; }}
add element inet {table} verdicts {{ 1 : return, 2 : accept }}
add rule inet {table} out meta l4proto != udp accept
add rule inet {table} out udp sport != {port} accept
add rule inet {table} out counter name sent
add rule inet {table} out jump own
add rule inet {table} out jump test
add rule inet {table} out counter name returned
add rule inet {table} late udp sport != {port} accept
"
    );
    for mark in 0..=MARKS {
        text += &format!("add rule inet {table} late meta mark {mark} counter name mark{mark}\n");
    }
    text
}

fn run(kernel: &mut Nftables, script: &str) -> Result<(), TestCaseError> {
    kernel
        .run(&dispatch::Script::of(script.lines()), false)
        .map_err(|complaints| fail(&format!("{}\n{script}", complaints[0].words)))
}

fn fail(text: &str) -> TestCaseError {
    TestCaseError::fail(text.to_owned())
}

/// Sends a packet; whether the output hook let it pass.
fn passes(socket: &UdpSocket, port: u16) -> bool {
    match socket.send_to(b"x", ("127.0.0.1", port)) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
        Err(error) => panic!("{error}"),
    }
}

/// Counters by name, packets.
fn counters(sandbox: &Sandbox, table: &str) -> Vec<(String, u64)> {
    let list = sandbox.nft(&["-j", "list", "counters", "table", "inet", table]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let mut counters: Vec<(String, u64)> = list["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|object| object.get("counter"))
        .map(|counter| (counter["name"].as_str().unwrap().to_owned(), counter["packets"].as_u64().unwrap()))
        .collect();
    counters.sort();
    let sent = counters.iter().find(|(name, _)| name == "sent");
    assert!(sent.is_some_and(|(_, packets)| *packets > 0), "the table sees the packets");
    counters
}

fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}
