//! On the real kernel: a policy compiled by scnpm decides and counts every packet as its rules do when nft loads them as
//! they are written, while the cgroups exist.
//!
//! Two tables hold the same random policy, one plain, one compiled. Sockets in every cgroup send each packet twice;
//! the source port says which table it is for. Verdicts (EPERM is a drop), named counters and final marks must agree.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::UdpSocket,
    path::Path,
};

use common::{
    policy,
    sandbox::{self, Sandbox},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use scnpm::{
    cgroupfs::look,
    dispatch,
    load::Load,
    model::CgroupPath,
    nft::{Kernel, Nftables},
    policy::hosts::Hosts,
};

const CASES: u32 = 300;
const PLAIN: u16 = 4001;
const COMPILED: u16 = 4002;
const PORTS: [u16; 3] = [1, 2, 3];
const MARKS: u32 = 3;

/// Cgroups below the sandbox's own, which is at level 1.
const CGROUPS: [&str; 7] = ["a", "a/x", "a/y", "b", "b/x", "c", "c/x/z"];

#[test]
fn compiled_policies_decide_and_count_like_plain_rules() {
    sandbox::run(compare_many);
}

fn compare_many(sandbox: &Sandbox) {
    let machine = Machine::new(sandbox);
    let config =
        Config { cases: CASES, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let policies = prop::collection::vec(rule(), 1..14);
    let result = TestRunner::new(config).run(&policies, |rules| machine.compare(&rules));
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// A rule without its table, chain and top cgroup.
#[derive(Debug, Clone)]
struct Rule {
    insert: bool,
    before: Vec<String>,
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

fn rule() -> impl Strategy<Value = Rule> {
    let matches = prop_oneof![
        12 => prop::collection::vec(cgroup_match(), 1..2),
        2 => prop::collection::vec(cgroup_match(), 2..3),
        1 => Just(vec![]),
    ];
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
        matches,
        prop::collection::vec(statement(), 0..3),
        verdict,
    )
        .prop_map(|(insert, before, matches, after, verdict)| Rule {
            insert,
            before,
            matches,
            after,
            verdict: verdict.to_owned(),
        })
}

fn cgroup_match() -> impl Strategy<Value = Match> {
    let paths = prop::collection::btree_set(prop::sample::select(CGROUPS.to_vec()), 1..3);
    (prop::bool::weighted(0.15), 2..5_usize, paths, prop::option::weighted(0.2, statement())).prop_map(
        |(negated, level, paths, between)| {
            // Mostly the level that the first path has; any other never matches, and that is to be the same too.
            let level =
                if level == 4 { 3 } else { paths.first().map_or(2, |path| path.split('/').count() + 1) };
            Match { negated, level, paths, between }
        },
    )
}

/// A match or an effect; `COUNTER` becomes a counter of the rule's own.
fn statement() -> impl Strategy<Value = String> {
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
    fn text(&self, table: &str, top: &str, number: usize) -> String {
        let mut words: Vec<String> = vec![];
        let mut counters = 0;
        let mut push = |statement: &str| {
            if statement == "COUNTER" {
                counters += 1;
                words.push(format!("counter name r{number}c{counters}"));
            } else if !statement.is_empty() {
                words.push(statement.to_owned());
            }
        };
        self.before.iter().for_each(|statement| push(statement));
        for cgroup in &self.matches {
            let paths: Vec<String> = cgroup.paths.iter().map(|path| format!("\"{top}/{path}\"")).collect();
            let paths = match &paths[..] {
                [one] => one.clone(),
                several => format!("{{ {} }}", several.join(", ")),
            };
            let not = if cgroup.negated { "!= " } else { "" };
            push(&format!("socket cgroupv2 level {} {not}{paths}", cgroup.level));
            cgroup.between.iter().for_each(|statement| push(statement));
        }
        self.after.iter().for_each(|statement| push(statement));
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
    top: String,
    sockets: Vec<(String, UdpSocket, UdpSocket)>,
}

impl<'a> Machine<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        let top = sandbox.path("").to_string();
        let root = Path::new("/sys/fs/cgroup");
        for cgroup in CGROUPS {
            fs::create_dir_all(root.join(&top).join(cgroup)).unwrap();
        }
        let home = fs::read_to_string("/proc/self/cgroup").unwrap();
        let home = home.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        let mut places: Vec<String> = CGROUPS.iter().map(|cgroup| format!("{top}/{cgroup}")).collect();
        places.extend([top.clone(), String::new()]);
        let sockets = places
            .into_iter()
            .enumerate()
            .map(|(number, place)| {
                join(&root.join(&place));
                let bind = |port| UdpSocket::bind(format!("127.0.0.{}:{port}", number + 2)).unwrap();
                (place, bind(PLAIN), bind(COMPILED))
            })
            .collect();
        join(&root.join(home));
        Self { sandbox, top, sockets }
    }

    fn compare(&self, rules: &[Rule]) -> Result<(), TestCaseError> {
        let mut kernel = Nftables::open().unwrap();
        let plain: String =
            rules.iter().enumerate().map(|(n, rule)| rule.text("plain", &self.top, n) + "\n").collect();
        let annotations: String = rules
            .iter()
            .enumerate()
            .map(|(n, rule)| format!("# u{n}.service :: {}\n", rule.text("compiled", &self.top, n)))
            .collect();
        let context = || format!("policy:\n{annotations}");
        let base = ["plain", "compiled"].map(|table| base(table, &plain)).concat();
        run(&mut kernel, &format!("flush ruleset\n{base}"))?;
        let policy = policy::of(&annotations);
        prop_assert_eq!(policy.annotations.len(), rules.len());
        let hosts = Hosts::new();
        let load = Load {
            policy: &policy,
            hosts: &hosts,
            flush: false,
            look: &|path: &CgroupPath| look(path),
            active: &|_, _| true,
            instances: &[],
            users: &BTreeMap::new(),
        };
        let loaded =
            load.run(&mut kernel).map_err(|error| fail(&format!("{:?}\n{}", error.words, context())))?;
        let compiled =
            || dispatch::compile(&policy, &BTreeSet::new(), &hosts, &BTreeMap::new()).script.to_string();
        prop_assert!(
            loaded.diagnostics.is_empty(),
            "{}\n{}",
            loaded.diagnostics[0].render(&policy.sources, false),
            compiled()
        );
        // Only now: nft looks all over cgroupfs for the path of every cgroup in a plain rule that it lists.
        run(&mut kernel, &plain)?;
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
        prop_assert_eq!(as_written, by_us, "{}\n{}", context(), compiled());
        Ok(())
    }
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
    text += &format!(
        "add counter inet {table} sub1
add counter inet {table} returned
add counter inet {table} sent
add set inet {table} seen {{ type inet_service; flags dynamic; size 64; timeout 1h; }}
add map inet {table} verdicts {{ type inet_service : verdict; }}
add chain inet {table} sub
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
    kernel.run(script, false).map_err(|complaints| fail(&format!("{}\n{script}", complaints[0].words)))
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
