//! On the real kernel: what a load puts in place, what it leaves out and says, what it takes away.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::UdpSocket,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use common::sandbox::{self, Sandbox};
use scnpm::{
    cgroupfs::{alive, look},
    load::{Load, LoadError, Loaded},
    model::{CgroupPath, SetRef, UnitName, UnitState},
    nft::{Kernel, Nftables, complaint::Kind},
    policy::{
        Policy,
        hosts::{Addresses, HostName, Hosts},
    },
    text::Diagnostic,
};

const BASE: &str = "
table inet filter {
	set mine {
		type cgroupsv2
	}
	chain wl {
	}
	chain forward {
		type filter hook forward priority 0; policy accept;
		counter
	}
	chain out {
		type filter hook output priority 0; policy accept;
		udp dport 7777 jump wl
		udp dport 7777 drop
	}
}
";

fn policy(text: &str) -> Policy {
    let policy = common::policy::of(text);
    assert!(policy.diagnostics.is_empty(), "{}", policy.diagnostics[0].render(&policy.sources, false));
    policy
}

fn load_with(kernel: &mut Nftables, policy: &Policy, flush: bool) -> Result<Loaded, LoadError> {
    load_with_hosts(kernel, policy, flush, &Hosts::new())
}

fn load_hosts(kernel: &mut Nftables, policy: &Policy, hosts: &Hosts) -> Loaded {
    load_with_hosts(kernel, policy, false, hosts).unwrap_or_else(|error| panic!("{:?}", error.words))
}

fn load_with_hosts(
    kernel: &mut Nftables,
    policy: &Policy,
    flush: bool,
    hosts: &Hosts,
) -> Result<Loaded, LoadError> {
    let state = |unit: &UnitName| Some(UnitState::of(unit.0 == "active.service".into()));
    Load {
        policy,
        hosts,
        flush,
        is_repair: false,
        is_strict: false,
        look: &|path: &CgroupPath| look(path),
        alive: &alive,
        state: &state,
        instances: &[],
        users: &BTreeMap::new(),
    }
    .run(kernel)
}

fn load(kernel: &mut Nftables, text: &str) -> (Policy, Loaded) {
    let policy = policy(text);
    let loaded = load_with(kernel, &policy, false).unwrap_or_else(|error| panic!("{:?}", error.words));
    (policy, loaded)
}

fn ruleset(sandbox: &Sandbox) -> String {
    sandbox.nft(&["list", "ruleset"])
}

#[test]
fn refused_annotations_are_reported_at_their_place_and_the_others_load() {
    sandbox::run(|sandbox| {
        sandbox.load(BASE);
        let mut kernel = Nftables::open().unwrap();
        let (policy, loaded) = load(
            &mut kernel,
            "# a.service :: add rule inet filter wl socket cgroupv2 level 2 \"x.slice/a.service\" accept
# b.service :: add rule inet nowhere wl socket cgroupv2 level 2 \"x.slice/b.service\" accept
# c.service :: add rule inet filter nochain socket cgroupv2 level 2 \"x.slice/c.service\" accept
# d.service :: add rule inet filter wl socket cgroupv2 level 2 \"x.slice/d.service\" \\
#   tcp dprt 25 accept
# e.service :: add rule inet filter forward socket cgroupv2 level 2 \"x.slice/e.service\" accept
# f.service :: add rule inet filter wl socket cgroupv2 level 2 \"x.slice/f.service\" tcp dport 25 accept
# g.service :: add element inet filter notmine { \"x.slice/g.service\" }
# h.service :: add element inet filter mine { \"x.slice/h.service\" }
# i.service :: add rule inet filter wl ip6 daddr 192.0.2.1 accept
",
        );
        let diagnostics: Vec<Diagnostic> =
            loaded.refusals.iter().map(|refusal| refusal.diagnostic(&policy)).collect();
        let places: Vec<(usize, usize)> =
            diagnostics.iter().map(|diagnostic| policy.sources.line_column(diagnostic.span)).collect();
        assert_eq!(
            places.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [2, 3, 5, 6, 8, 10],
            "{places:?}"
        );
        assert_eq!(places[2], (5, 9), "the word that nft stumbles over");
        assert!(diagnostics[0].message.contains("No such file or directory"), "{:?}", diagnostics[0]);
        let ruleset = ruleset(sandbox);
        for (unit, there) in [("a", false), ("b", false), ("d", false), ("e", false), ("f", true)] {
            assert_eq!(
                ruleset.contains(&format!("scnpm.wl.1.{unit}.service")),
                there,
                "{unit} in\n{ruleset}"
            );
        }
        let units: BTreeSet<&str> = loaded.rows.iter().map(|row| &*row.unit.0).collect();
        assert_eq!(units, BTreeSet::from(["a.service", "f.service", "h.service"]));
    });
}

#[test]
fn wrong_hook_is_held_against_its_own_annotations_only() {
    sandbox::run(|sandbox| {
        sandbox.load(BASE);
        let mut kernel = Nftables::open().unwrap();
        let (policy, loaded) = load(
            &mut kernel,
            "# a.service :: add rule inet filter forward socket cgroupv2 level 2 \"x.slice/a.service\" accept
# b.service :: add rule inet filter forward socket cgroupv2 level 2 \"x.slice/b.service\" tcp dport 25 accept
# c.service :: add rule inet filter wl socket cgroupv2 level 2 \"x.slice/c.service\" accept
# d.service :: add rule inet filter wl socket cgroupv2 level 2 \"x.slice/d.service\" tcp dport 25 accept
# e.service :: add rule inet filter out socket cgroupv2 level 2 \"x.slice/e.service\" accept
# f.service :: add rule inet filter forward socket cgroupv2 level 2 != \"x.slice/f.service\" drop
",
        );
        let lines: Vec<usize> = loaded
            .refusals
            .iter()
            .map(|refusal| policy.sources.line_column(refusal.diagnostic(&policy).span).0)
            .collect();
        assert_eq!(lines, [1, 2, 6]);
        let units: Vec<&str> = loaded.rows.iter().map(|row| &*row.unit.0).collect();
        assert_eq!(units, ["c.service", "d.service", "e.service"]);
    });
}

#[test]
fn many_refused_annotations_among_good_ones_are_all_found() {
    sandbox::run(|sandbox| {
        sandbox.load(BASE);
        let mut kernel = Nftables::open().unwrap();
        let text: String = (0..100)
            .map(|n| {
                let bad = ["tcp dprt 1", "ip6 daddr 192.0.2.1", "jump nochain", "tcp dport 1", "tcp dport 2"][n % 5];
                format!("# u{n}.service :: inet filter wl socket cgroupv2 level 2 \"x.slice/u{n}.service\" {bad}\n")
            })
            .collect();
        let (_, loaded) = load(&mut kernel, &text);
        assert_eq!((loaded.refusals.len(), loaded.rows.len()), (60, 40));
    });
}

#[test]
fn elements_that_are_due_come_in_with_the_load() {
    sandbox::run(|sandbox| {
        sandbox.load(BASE);
        let (path, id) = sandbox.make("a.service");
        let mut kernel = Nftables::open().unwrap();
        let (_, loaded) = load(
            &mut kernel,
            &format!(
                "# a.service :: add rule inet filter wl socket cgroupv2 level 2 \"{path}\" accept
# a.service :: add element inet filter mine {{ \"{path}\" }}
# active.service :: add rule inet filter wl udp dport 1 accept
# passive.service :: add rule inet filter wl udp dport 2 accept
"
            ),
        );
        let mut installed: Vec<(&str, bool)> = loaded
            .installed
            .iter()
            .map(|(row, at)| (&*loaded.rows[*row].element.set.name, *at == Some(id)))
            .collect();
        installed.sort();
        assert_eq!(installed, [("mine", true), ("scnpm.wl.1", true), ("scnpm.wl.2.active", false)]);
        let ruleset = ruleset(sandbox);
        assert_eq!(ruleset.matches(&format!("\"{path}\"")).count(), 2, "{ruleset}");
        // nft 1.0 writes `0x00000000/0`, nft 1.1 `0x00000000-0xffffffff`.
        assert_eq!(ruleset.matches("{ 0x00000000").count(), 1, "one open gate in\n{ruleset}");
    });
}

#[test]
fn every_load_replaces_the_one_before_and_touches_nothing_else() {
    sandbox::run(|sandbox| {
        sandbox.load(BASE);
        let before = ruleset(sandbox);
        let mut kernel = Nftables::open().unwrap();
        let rule = |unit: &str, rest: &str| {
            format!(
                "# {unit}.service :: insert rule inet filter out socket cgroupv2 level 2 \"x.slice/{unit}\" {rest}\n"
            )
        };
        let first = rule("a", "accept")
            + &rule("b", "tcp dport 1 return")
            + "# c.service :: inet filter wl counter\n";
        let first_time = load(&mut kernel, &first).1.rows.len();
        let once = ruleset(sandbox);
        // As a new process after a crash: nothing is known but what the kernel holds.
        let mut kernel = Nftables::open().unwrap();
        assert_eq!(load(&mut kernel, &first).1.rows.len(), first_time);
        assert_eq!(ruleset(sandbox), once);
        load(&mut kernel, &rule("d", "drop"));
        let other = ruleset(sandbox);
        assert!(!other.contains("b.service") && other.contains("@scnpm.out.1"), "{other}");
        load(&mut kernel, "");
        assert_eq!(ruleset(sandbox), before);
        let removal = kernel.list().unwrap().removal(&BTreeSet::new(), &BTreeSet::new());
        assert_eq!(removal.lines.len(), 0);
    });
}

#[test]
fn flush_empties_the_chains_that_annotations_name_and_no_others() {
    sandbox::run(|sandbox| {
        sandbox.load(&format!("{BASE}\nadd rule inet filter wl udp dport 9 accept\n"));
        let mut kernel = Nftables::open().unwrap();
        let policy =
            policy("# a.service :: inet filter wl socket cgroupv2 level 2 \"x.slice/a.service\" accept\n");
        for _ in 0..2 {
            let loaded = load_with(&mut kernel, &policy, true).unwrap();
            assert!(loaded.refusals.is_empty());
            let list = sandbox.nft(&["list", "chain", "inet", "filter", "wl"]);
            assert!(!list.contains("dport 9") && list.matches("vmap").count() == 1, "{list}");
            assert!(ruleset(sandbox).contains("udp dport 7777 drop"));
        }
    });
}

#[test]
fn no_packet_meets_a_moment_without_policy_during_reloads() {
    sandbox::run(|sandbox| {
        sandbox.load(BASE);
        let (path, _) = sandbox.make("a.service");
        let mut kernel = Nftables::open().unwrap();
        let text = format!(
            "# a.service :: inet filter wl socket cgroupv2 level 2 \"{path}\" udp dport 7777 accept\n"
        );
        load(&mut kernel, &text);
        let home = fs::read_to_string("/proc/self/cgroup").unwrap();
        let home = home.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        let join = |at: &Path| fs::write(at.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        join(&path.directory());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        join(&Path::new("/sys/fs/cgroup").join(home));
        let (sent, refused, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let passed = socket.send_to(b"x", "127.0.0.1:7777").is_ok();
                    sent.fetch_add(1, Ordering::Relaxed);
                    refused.fetch_add(usize::from(!passed), Ordering::Relaxed);
                }
            });
            (0..300).for_each(|_| drop(load(&mut kernel, &text)));
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(refused.into_inner(), 0, "of {} packets", sent.load(Ordering::Relaxed));
        assert!(sent.into_inner() > 100);
    });
}

#[test]
fn counts_are_exact_and_outlive_the_unit_and_loads_while_they_are_wanted() {
    sandbox::run(|sandbox| {
        sandbox.load(BASE);
        let home = fs::read_to_string("/proc/self/cgroup").unwrap();
        let home = home.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
        let join = |at: &Path| fs::write(at.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        let socket_in = |path: &CgroupPath| {
            join(&path.directory());
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            join(&Path::new("/sys/fs/cgroup").join(&home));
            socket
        };
        let send = |socket: &UdpSocket, times: usize| {
            (0..times).for_each(|_| drop(socket.send_to(b"12345", "127.0.0.1:7777")));
        };
        let (a, _) = sandbox.make("a.service");
        let (b, _) = sandbox.make("b.service");
        let annotation = |path: &CgroupPath, unit: &str, rest: &str| {
            format!("# {unit} :: inet filter wl socket cgroupv2 level 2 \"{path}\" {rest}\n")
        };
        let counted = |text: String| format!("# scnpm: count\n{text}");
        let text = counted(annotation(&a, "a.service", "udp dport 1 drop"))
            + &counted(annotation(&a, "a.service", "accept"))
            + &counted(annotation(&b, "b_x.service", "accept"))
            + &annotation(&b, "c.service", "accept");
        let mut kernel = Nftables::open().unwrap();
        let counts = |kernel: &mut Nftables| -> Vec<(String, u64, u64)> {
            let counters = kernel.counters().unwrap().into_iter();
            counters.map(|(one, count)| (one.to_string(), count.packets, count.bytes)).collect()
        };
        let expected = |a: u64, b: u64| {
            // IPv4 and UDP have headers of 28 bytes.
            let count =
                |name: &str, times: u64| (format!("inet filter scnpm.count.{name}"), times, times * 33);
            vec![count("a.service", a), count("b__x.service", b)]
        };
        let (policy, loaded) = load(&mut kernel, &text);
        assert!(loaded.refusals.is_empty(), "{:?}", loaded.refusals[0].diagnostic(&policy));
        let (from_a, from_b) = (socket_in(&a), socket_in(&b));
        send(&from_a, 5);
        send(&from_b, 3);
        assert_eq!(counts(&mut kernel), expected(5, 3));
        // Reading changes nothing, nor does a load: the same one, by another process, or with other rules.
        assert_eq!(counts(&mut kernel), expected(5, 3));
        load(&mut kernel, &text);
        drop(kernel);
        let mut kernel = Nftables::open().unwrap();
        let edited = counted(annotation(&b, "b_x.service", "accept"))
            + &counted(annotation(&a, "a.service", "udp dport 7777 return"));
        let (_, loaded) = load(&mut kernel, &edited);
        assert!(loaded.refusals.is_empty());
        assert_eq!(counts(&mut kernel), expected(5, 3));
        send(&from_a, 1);
        assert_eq!(counts(&mut kernel), expected(6, 3));
        // The unit starts again.
        drop(from_a);
        sandbox.remove(&a);
        load(&mut kernel, &text);
        assert_eq!(counts(&mut kernel), expected(6, 3));
        sandbox.make("a.service");
        load(&mut kernel, &text);
        send(&socket_in(&a), 4);
        assert_eq!(counts(&mut kernel), expected(10, 3));
        // Somebody flushes the user's chain, or all.
        sandbox.nft(&["flush", "chain", "inet", "filter", "wl"]);
        load(&mut kernel, &text);
        assert_eq!(counts(&mut kernel), expected(10, 3));
        load(&mut kernel, &counted(annotation(&b, "b_x.service", "accept")));
        assert_eq!(counts(&mut kernel), expected(0, 3)[1..]);
        load(&mut kernel, &text);
        assert_eq!(counts(&mut kernel), expected(0, 3), "it is another counter");
        load(&mut kernel, &annotation(&b, "c.service", "accept"));
        assert_eq!(counts(&mut kernel), []);
    });
}

fn range(first: &str, last: &str) -> Addresses {
    (first.parse().unwrap(), last.parse().unwrap())
}

/// Whether an address is in a set.
fn has(set: &str, address: &str) -> bool {
    let element = format!("{{ {address} }}");
    let asked = Command::new("nft").args(["get", "element", "inet", "filter", set, &element]).output();
    asked.unwrap().status.success()
}

#[test]
fn addresses_of_host_names_change_without_a_load() {
    sandbox::run(|sandbox| {
        sandbox.load(BASE);
        let mut kernel = Nftables::open().unwrap();
        let policy = policy(
            "# a.service :: add rule inet filter wl ip daddr mail.x accept
# a.service :: add rule inet filter wl ip6 daddr mail.x accept
# b.service :: add rule inet filter wl ip daddr { mail.x, 10.0.0.0/24, 10.1.0.1-10.1.0.9, 240.0.0.0/4 } accept
# c.service :: add rule inet filter wl ip daddr != mail.y accept
",
        );
        let v4 = |name: &str| HostName { name: name.into(), v6: false };
        let hosts = Hosts::from([(v4("mail.x"), ["192.0.2.1".parse().unwrap()].into())]);
        let loaded = load_hosts(&mut kernel, &policy, &hosts);
        let sets: Vec<&str> = loaded.hosts.iter().map(|set| &*set.set.name).collect();
        assert_eq!(sets, ["scnpm.host.ip.mail.x", "scnpm.host.ip6.mail.x", "scnpm.hosts.ip"]);
        assert!(has(sets[0], "192.0.2.1") && has(sets[2], "192.0.2.1"));
        assert!(!ruleset(sandbox).contains("mail.y"), "`!=` to nothing matches everything");
        let before = sandbox.nft(&["-s", "-t", "list", "ruleset"]);

        let mut fill = |number: usize, content: &[Addresses]| {
            let set = &loaded.hosts[number];
            kernel.fill(&set.set, set.is_interval(), content)
        };
        fill(0, &[range("192.0.2.1", "192.0.2.1"), range("192.0.2.9", "192.0.2.9")]).unwrap();
        fill(1, &[range("2001:db8::1", "2001:db8::1")]).unwrap();
        let hosts =
            Hosts::from([(v4("mail.x"), ["10.0.0.7".parse().unwrap(), "10.1.0.10".parse().unwrap()].into())]);
        fill(2, &loaded.hosts[2].content(&hosts)).unwrap();
        assert!(has(sets[0], "192.0.2.1") && has(sets[0], "192.0.2.9"));
        assert!(has(sets[1], "2001:db8::1"));
        for (address, is_in) in [
            ("192.0.2.1", false),
            ("10.0.0.0", true),
            ("10.0.0.255", true),
            ("10.0.1.0", false),
            ("10.1.0.1", true),
            ("10.1.0.10", true),
            ("10.1.0.11", false),
            ("240.0.0.0", true),
            ("255.255.255.255", true),
        ] {
            assert_eq!(has(sets[2], address), is_in, "{address}\n{}", ruleset(sandbox));
        }
        assert_eq!(sandbox.nft(&["-s", "-t", "list", "ruleset"]), before);

        let mut fill = |content: &[Addresses]| kernel.fill(&loaded.hosts[0].set, false, content);
        fill(&[range("192.0.2.5", "192.0.2.5"), range("::1", "::1")]).unwrap_err();
        assert!(has(sets[0], "192.0.2.1") && !has(sets[0], "192.0.2.5"), "all or nothing");
        fill(&[]).unwrap();
        assert!(!has(sets[0], "192.0.2.1"));
        // What nft lists can be loaded again.
        let listed = ruleset(sandbox);
        sandbox.nft(&["flush", "ruleset"]);
        sandbox.load(&listed);
        assert!(has(sets[2], "255.255.255.255") && !has(sets[2], "10.2.0.0"));
    });
}

#[test]
fn reload_keeps_the_sets_of_host_names_and_takes_those_away_that_no_rule_needs() {
    sandbox::run(|sandbox| {
        sandbox.load(BASE);
        let mut kernel = Nftables::open().unwrap();
        let hosts = |address: &str| {
            Hosts::from([(HostName { name: "a.x".into(), v6: false }, [address.parse().unwrap()].into())])
        };
        let rules = "# a.service :: add rule inet filter wl ip daddr a.x accept
# a.service :: add rule inet filter wl ip daddr { a.x, 10.0.0.0/24 } accept
";
        load_hosts(&mut kernel, &policy(rules), &hosts("192.0.2.1"));
        load_hosts(&mut kernel, &policy(rules), &hosts("10.0.0.2"));
        assert!(has("scnpm.host.ip.a.x", "10.0.0.2") && !has("scnpm.host.ip.a.x", "192.0.2.1"));
        assert!(!has("scnpm.hosts.ip", "192.0.2.1"));
        load_hosts(&mut kernel, &policy("# a.service :: add rule inet filter wl accept"), &hosts("10.0.0.2"));
        assert!(!ruleset(sandbox).contains("scnpm.host"));
    });
}

/// The elements of the user's sets, as nft lists them.
fn elements(sandbox: &Sandbox, name: &str) -> String {
    let kind = if name == "mine" { "set" } else { "map" };
    let listed = sandbox.nft(&["-n", "list", kind, "inet", "filter", name]);
    let elements = listed.split_once("elements = {").map_or("", |(_, rest)| rest);
    elements.split('}').next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

const MAPS: &str = "
table inet filter {
	map marks {
		type cgroupsv2 : mark
	}
	map verdicts {
		type cgroupsv2 : verdict
	}
}
";

#[test]
fn changed_value_of_an_element_takes_the_place_of_the_old_one() {
    sandbox::run(|sandbox| {
        sandbox.load(MAPS);
        let (path, id) = sandbox.make("a.service");
        let text = |mark: u32, verdict: &str| {
            format!(
                "# a.service :: add element inet filter marks {{ \"{path}\" : {mark} }}
# a.service :: add element inet filter verdicts {{ \"{path}\" : {verdict} }}
"
            )
        };
        let mut kernel = Nftables::open().unwrap();
        for (mark, verdict) in [(1, "accept"), (2, "drop"), (2, "drop")] {
            let (_, loaded) = load(&mut kernel, &text(mark, verdict));
            assert_eq!(loaded.refusals, []);
            assert_eq!(loaded.installed.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [Some(id); 2]);
            let found = elements(sandbox, "marks");
            assert_eq!(found, format!("\"{path}\" comment \"scnpm\" : 0x0000000{mark}"));
            assert_eq!(elements(sandbox, "verdicts"), format!("\"{path}\" comment \"scnpm\" : {verdict}"));
        }
        // Another process, after a restart or a crash, knows whose they are.
        let mut kernel = Nftables::open().unwrap();
        assert_eq!(load(&mut kernel, &text(3, "accept")).1.refusals, []);
        assert!(elements(sandbox, "marks").ends_with(": 0x00000003"));
    });
}

#[test]
fn any_load_takes_away_elements_that_no_annotation_asks_for_and_leaves_the_users_own() {
    sandbox::run(|sandbox| {
        sandbox.load(BASE);
        let ((a, _), (b, _), (own, _)) = (sandbox.make("a"), sandbox.make("b"), sandbox.make("own"));
        sandbox.nft(&[&format!("add element inet filter mine {{ \"{own}\", \"{b}\" }}")]);
        let annotation =
            |path: &CgroupPath| format!("# a.service :: add element inet filter mine {{ \"{path}\" }}\n");
        load(&mut Nftables::open().unwrap(), &(annotation(&a) + &annotation(&b)));
        let mine = SetRef { table: common::table("filter"), name: "mine".into() };
        let count = || Nftables::open().unwrap().elements(&mine).unwrap().len();
        assert_eq!(count(), 3);
        // As after a restart with the annotations gone: nothing names the set any more.
        load(&mut Nftables::open().unwrap(), "");
        let listed = elements(sandbox, "mine");
        assert!(!listed.contains(a.as_str()), "{listed}");
        assert!(listed.contains(own.as_str()) && listed.contains(b.as_str()), "{listed}");
    });
}

#[test]
fn element_of_the_user_with_another_value_is_refused_and_stays() {
    sandbox::run(|sandbox| {
        sandbox.load(MAPS);
        let (path, _) = sandbox.make("a.service");
        sandbox.nft(&[&format!("add element inet filter marks {{ \"{path}\" : 7 }}")]);
        let text = format!("# a.service :: add element inet filter marks {{ \"{path}\" : 8 }}\n");
        let (_, loaded) = load(&mut Nftables::open().unwrap(), &text);
        assert_eq!(loaded.refusals[0].kind, Kind::Exists, "{:?}", loaded.refusals);
        assert_eq!(elements(sandbox, "marks"), format!("\"{path}\" : 0x00000007"));
    });
}
