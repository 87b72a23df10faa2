//! On the real kernel: what a load puts in place, what it leaves out and says, what it takes away.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::UdpSocket,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use common::sandbox::{self, Sandbox};
use scnpm::{
    cgroupfs::look,
    dispatch::leftovers,
    engine::Outcome,
    load::{Load, LoadError, Loaded},
    model::{CgroupPath, UnitName, UnitOf},
    nft::{Kernel, Nftables},
    policy::{Policy, hosts::Hosts},
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
    let active = |unit: &UnitName, _: UnitOf| unit.0 == "active.service";
    let hosts = Hosts::new();
    Load {
        policy,
        hosts: &hosts,
        flush,
        look: &|path: &CgroupPath| look(path),
        active: &active,
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
        let places: Vec<(usize, usize)> =
            loaded.diagnostics.iter().map(|diagnostic| policy.sources.line_column(diagnostic.span)).collect();
        assert_eq!(
            places.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [2, 3, 5, 6, 8, 10],
            "{places:?}"
        );
        assert_eq!(places[2], (5, 9), "the word that nft stumbles over");
        assert!(
            loaded.diagnostics[0].message.contains("No such file or directory"),
            "{:?}",
            loaded.diagnostics[0]
        );
        let ruleset = ruleset(sandbox);
        for (unit, there) in [("a", false), ("b", false), ("d", false), ("e", false), ("f", true)] {
            assert_eq!(
                ruleset.contains(&format!("scnpm.wl.1.{unit}.service")),
                there,
                "{unit} in\n{ruleset}"
            );
        }
        let units: BTreeSet<&str> = loaded.bindings.iter().map(|binding| binding.unit.0.as_str()).collect();
        assert_eq!(units, BTreeSet::from(["a.service", "f.service", "h.service"]));
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
        assert_eq!((loaded.diagnostics.len(), loaded.bindings.len()), (60, 40));
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
        let id = Some(id);
        let outcomes: Vec<&Outcome> = loaded.installed.iter().map(|(_, outcome)| outcome).collect();
        let added =
            outcomes.iter().filter(|outcome| ***outcome == Outcome::Added { before: id, after: id }).count();
        assert_eq!((added, outcomes.len()), (2, 3), "{outcomes:?}");
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
        let first_time = load(&mut kernel, &first).1.bindings.len();
        let once = ruleset(sandbox);
        // As a new process after a crash: nothing is known but what the kernel holds.
        let mut kernel = Nftables::open().unwrap();
        assert_eq!(load(&mut kernel, &first).1.bindings.len(), first_time);
        assert_eq!(ruleset(sandbox), once);
        load(&mut kernel, &rule("d", "drop"));
        let other = ruleset(sandbox);
        assert!(!other.contains("b.service") && other.contains("@scnpm.out.1"), "{other}");
        load(&mut kernel, "");
        assert_eq!(ruleset(sandbox), before);
        let removal = leftovers::removal(&kernel.list().unwrap(), &BTreeSet::new(), &BTreeSet::new());
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
            assert!(loaded.diagnostics.is_empty());
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
