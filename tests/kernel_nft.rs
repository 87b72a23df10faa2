//! The room `nft` on the running kernel. Needs root.

mod common;

use std::{
    collections::BTreeSet,
    net::UdpSocket,
    process::Command,
    time::{Duration, Instant},
};

use common::sandbox::{self, Sandbox, succeed};
use scnpm::{
    cgroupfs::look,
    dispatch::Script,
    effects::{self, Done},
    engine::{Add, Commit, Delete},
    model::{CgroupId, CgroupPath, ChainRef, Data, Element, Family, Key, Outcome, RowId, SetRef, TableRef},
    nft::{
        Complaint, Interest, Kernel, Nftables, RulesetMonitor, complaint::Kind, libnftables::Libnftables,
        netlink::Netlink, probe,
    },
};

const RULESET: &str = "
table inet filter {
    chain target { counter; }
    chain other { counter; }
    map scnpm.out.1 { type cgroupsv2 : verdict; }
    map scnpm.out.2 { type cgroupsv2 : verdict; }
    set scnpm.set { type cgroupsv2; }
    set allowed { type cgroupsv2; }
    map ports { type cgroupsv2 : inet_service; }
    map pairs { type cgroupsv2 : ipv4_addr . inet_service; }
    chain output {
        type filter hook output priority 0;
        socket cgroupv2 level 2 vmap @scnpm.out.1
    }
}
";

fn table() -> TableRef {
    TableRef { family: Family::Inet, name: "filter".into() }
}

fn set(name: &str) -> SetRef {
    SetRef { table: table(), name: name.into() }
}

fn chain(name: &str) -> ChainRef {
    ChainRef { table: table(), name: name.into() }
}

fn element(name: &str, path: &CgroupPath, data: Option<Data>) -> Element {
    Element { set: set(name), key: Key::Cgroup(path.clone()), data }
}

fn jump(name: &str, path: &CgroupPath) -> Element {
    element(name, path, Some(Data::Jump("target".into())))
}

fn values(words: &[&str]) -> Option<Data> {
    Some(Data::Value(words.iter().map(|word| (*word).to_owned()).collect()))
}

fn loaded(sandbox: &Sandbox) -> Nftables {
    sandbox.load(RULESET);
    Nftables::open().unwrap()
}

fn ids(kernel: &mut Nftables, name: &str) -> BTreeSet<CgroupId> {
    kernel.elements(&set(name)).unwrap().into_keys().collect()
}

/// Adds elements as the daemon does, by the ids of the cgroups that there are; the rows are their numbers.
fn try_add(kernel: &mut Nftables, elements: &[Element]) -> Done {
    let add = |(number, element): (u64, &Element)| Add {
        row: RowId(number),
        element: element.clone().into(),
        id: element.key.cgroup().and_then(look),
    };
    let add = (0..).zip(elements).map(add).collect();
    effects::commit(kernel, &Commit { add, delete: vec![] }, &look)
}

fn add(kernel: &mut Nftables, elements: &[Element]) {
    let done = try_add(kernel, elements);
    assert_eq!(done.outcomes.len(), elements.len());
    let is_added = |(_, outcome): &(RowId, Outcome)| matches!(outcome, Outcome::Added(_));
    assert!(done.outcomes.iter().all(is_added), "{done:?}");
}

/// Deletes elements; those of gates have no id.
fn delete(kernel: &mut Nftables, elements: &[(SetRef, Option<CgroupId>)]) {
    let delete = |(number, (set, id)): (u64, &(SetRef, Option<CgroupId>))| Delete {
        row: RowId(number),
        set: set.clone(),
        id: *id,
    };
    let delete = (0..).zip(elements).map(delete).collect();
    let done = effects::commit(kernel, &Commit { add: vec![], delete }, &look);
    assert!(done.failures.is_empty(), "{done:?}");
}

/// Sends packets to nobody, through the output chain.
fn send_packets(count: usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..count {
        socket.send_to(b"x", "127.0.0.1:9").unwrap();
    }
}

mod elements {
    use super::*;

    #[test]
    fn elements_of_several_sets_are_added_listed_and_deleted() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (a, a_id) = sandbox.make("a");
            let (b, b_id) = sandbox.make("b");
            let elements = [
                jump("scnpm.out.1", &a),
                element("scnpm.out.1", &b, Some(Data::Accept)),
                element("scnpm.out.2", &b, Some(Data::Goto("other".into()))),
                element("scnpm.set", &a, None),
            ];
            add(&mut kernel, &elements);
            add(&mut kernel, &elements);
            assert_eq!(ids(&mut kernel, "scnpm.out.1"), BTreeSet::from([a_id, b_id]));
            assert_eq!(ids(&mut kernel, "scnpm.set"), BTreeSet::from([a_id]));
            let listed = sandbox.nft(&["list", "map", "inet", "filter", "scnpm.out.1"]);
            assert!(listed.contains(&format!("\"{a}\" : jump target")), "{listed}");
            assert!(listed.contains(&format!("\"{b}\" : accept")), "{listed}");
            let listed = sandbox.nft(&["list", "map", "inet", "filter", "scnpm.out.2"]);
            assert!(listed.contains(&format!("\"{b}\" : goto other")), "{listed}");

            delete(&mut kernel, &[(set("scnpm.out.1"), Some(a_id)), (set("scnpm.out.2"), Some(b_id))]);
            assert_eq!(ids(&mut kernel, "scnpm.out.1"), BTreeSet::from([b_id]));
            assert_eq!(ids(&mut kernel, "scnpm.out.2"), BTreeSet::new());
        });
    }

    #[test]
    fn every_verdict_arrives_as_nft_itself_would_write_it() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (path, id) = sandbox.make("a");
            for (data, words) in [
                (Data::Accept, "accept"),
                (Data::Drop, "drop"),
                (Data::Continue, "continue"),
                (Data::Return, "return"),
                (Data::Jump("target".into()), "jump target"),
                (Data::Goto("target".into()), "goto target"),
            ] {
                let mut by_libnftables = Libnftables::open().unwrap();
                let element = element("scnpm.out.1", &path, Some(data));
                add(&mut kernel, std::slice::from_ref(&element));
                let listed = sandbox.nft(&["list", "map", "inet", "filter", "scnpm.out.1"]);
                assert!(listed.contains(&format!("\"{path}\" : {words} }}")), "{listed}");
                let script = scnpm::dispatch::element(&element).to_string();
                by_libnftables.run_script(&script, false).expect("the same data is fine");
                delete(&mut kernel, &[(set("scnpm.out.1"), Some(id))]);
            }
        });
    }

    #[test]
    fn values_go_into_the_users_own_maps() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (path, id) = sandbox.make("a");
            let elements = [
                element("allowed", &path, None),
                element("ports", &path, values(&["80"])),
                element("pairs", &path, values(&["10.0.0.1", "443"])),
                jump("scnpm.out.1", &path),
            ];
            add(&mut kernel, &elements);
            add(&mut kernel, &elements);
            let listed = sandbox.nft(&["-n", "list", "ruleset"]);
            assert!(listed.contains(&format!("\"{path}\" comment \"scnpm\" : 80")), "{listed}");
            assert!(listed.contains(&format!("\"{path}\" comment \"scnpm\" : 10.0.0.1 . 443")), "{listed}");
            assert_eq!(ids(&mut kernel, "pairs"), BTreeSet::from([id]));
            delete(
                &mut kernel,
                &[(set("ports"), Some(id)), (set("pairs"), Some(id)), (set("allowed"), Some(id))],
            );
            assert_eq!(ids(&mut kernel, "ports"), BTreeSet::new());
            assert_eq!(ids(&mut kernel, "allowed"), BTreeSet::new());
        });
    }

    #[test]
    fn only_values_and_users_sets_of_more_than_cgroups_need_words() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            sandbox.load(
                "table inet filter {
                    set a { type cgroupsv2; flags timeout; }
                    set b { typeof socket cgroupv2 level 2; size 10; counter; }
                    set c { type cgroupsv2; flags interval; }
                }",
            );
            let (path, id) = sandbox.make("a");
            let needs = |kernel: &mut Nftables, name| kernel.needs_words(&element(name, &path, None));
            assert_eq!(
                ["a", "b", "c", "allowed"].map(|name| needs(&mut kernel, name)),
                [false, false, true, false]
            );
            assert!(kernel.needs_words(&element("ports", &path, values(&["80"]))));
            add(&mut kernel, &[element("a", &path, None), element("c", &path, None)]);
            assert_eq!(ids(&mut kernel, "a"), BTreeSet::from([id]));
            let listed = sandbox.nft(&["list", "set", "inet", "filter", "c"]);
            assert!(listed.contains(&format!("elements = {{ \"{path}\" comment \"scnpm\" }}")), "{listed}");
        });
    }

    #[test]
    fn elements_in_users_sets_have_our_mark_and_others_have_none() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let ((a, a_id), (b, b_id)) = (sandbox.make("a"), sandbox.make("b"));
            sandbox.nft(&[&format!("add element inet filter allowed {{ \"{b}\" comment \"mine\" }}")]);
            add(&mut kernel, &[element("allowed", &a, None), element("allowed", &b, None)]);
            add(&mut kernel, &[element("ports", &a, values(&["80"])), element("scnpm.set", &a, None)]);
            let marks = |kernel: &mut Nftables, name| kernel.elements(&set(name)).unwrap();
            assert_eq!(marks(&mut kernel, "allowed"), [(a_id, true), (b_id, false)].into());
            assert_eq!(marks(&mut kernel, "ports"), [(a_id, true)].into());
            assert_eq!(marks(&mut kernel, "scnpm.set"), [(a_id, false)].into());
            let listed = sandbox.nft(&["list", "set", "inet", "filter", "allowed"]);
            assert!(listed.contains(&format!("\"{a}\" comment \"scnpm\"")), "{listed}");
            assert!(listed.contains(&format!("\"{b}\" comment \"mine\"")), "{listed}");
        });
    }

    #[test]
    fn a_set_with_counters_and_timeouts_takes_elements_as_nft_would_give_them() {
        sandbox::run(|sandbox| {
            sandbox
                .load("table inet filter { set a { type cgroupsv2; flags timeout; timeout 1h; counter; }; }");
            let mut kernel = Nftables::open().unwrap();
            let (path, _) = sandbox.make("a");
            add(&mut kernel, &[element("a", &path, None)]);
            let listed = sandbox.nft(&["list", "set", "inet", "filter", "a"]);
            assert!(listed.contains(&format!("\"{path}\" counter packets 0 bytes 0")), "{listed}");
            assert!(listed.contains("expires"), "{listed}");
        });
    }

    #[test]
    fn what_does_not_fit_a_users_set_is_refused_in_words() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            sandbox.nft(&["add set inet filter eight { type ipv4_addr . mark; }"]);
            let (path, _) = sandbox.make("a");
            for wrong in [element("eight", &path, None), element("allowed", &path, Some(Data::Accept))] {
                let done = try_add(&mut kernel, std::slice::from_ref(&wrong));
                assert_eq!(done.outcomes, [(RowId(0), Outcome::Refused)]);
                assert!(!done.failures[0].passing && !done.failures[0].words.is_empty());
            }
            assert!(!sandbox.nft(&["list", "ruleset"]).contains("elements"));
        });
    }

    #[test]
    fn an_element_of_a_removed_cgroup_is_deleted_by_id() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (path, old) = sandbox.make("a");
            add(&mut kernel, &[jump("scnpm.out.1", &path)]);
            sandbox.remove(&path);
            let (path, new) = sandbox.make("a");
            add(&mut kernel, &[jump("scnpm.out.1", &path)]);
            assert_eq!(ids(&mut kernel, "scnpm.out.1"), BTreeSet::from([old, new]));
            delete(&mut kernel, &[(set("scnpm.out.1"), Some(old))]);
            assert_eq!(ids(&mut kernel, "scnpm.out.1"), BTreeSet::from([new]));
        });
    }

    #[test]
    fn deleting_what_is_gone_is_fine_and_the_rest_goes() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (path, id) = sandbox.make("a");
            add(&mut kernel, &[jump("scnpm.out.1", &path), element("scnpm.set", &path, None)]);
            let elsewhere = TableRef { family: Family::Ip, name: "none".into() };
            delete(
                &mut kernel,
                &[
                    (set("scnpm.out.1"), Some(CgroupId(u64::MAX))),
                    (set("scnpm.out.1"), Some(id)),
                    (set("scnpm.gone"), Some(id)),
                    (SetRef { table: elsewhere, name: "scnpm.gone".into() }, Some(id)),
                    (set("scnpm.set"), Some(id)),
                ],
            );
            assert_eq!(ids(&mut kernel, "scnpm.out.1"), BTreeSet::new());
            assert_eq!(ids(&mut kernel, "scnpm.set"), BTreeSet::new());
            delete(&mut kernel, &[]);
        });
    }

    #[test]
    fn ids_of_a_missing_set_are_not_found() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            assert_eq!(kernel.elements(&set("none")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
            let nowhere =
                SetRef { table: TableRef { family: Family::Ip6, name: "none".into() }, name: "none".into() };
            assert_eq!(kernel.elements(&nowhere).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        });
    }

    #[test]
    fn value_of_a_cgroup_that_vanished_is_not_added() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (path, id) = sandbox.make("a");
            sandbox.remove(&path);
            let add =
                Add { row: RowId(0), element: element("ports", &path, values(&["80"])).into(), id: Some(id) };
            let done = effects::commit(&mut kernel, &Commit { add: vec![add], delete: vec![] }, &look);
            assert_eq!(done.outcomes, [(RowId(0), Outcome::Vanished)]);
            assert!(done.failures.is_empty());
        });
    }

    #[test]
    fn refused_elements_come_with_words_and_the_others_are_added() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (path, id) = sandbox.make("a");
            add(&mut kernel, &[jump("scnpm.out.1", &path)]);
            let clash = element("scnpm.out.1", &path, Some(Data::Drop));
            let homeless = element("gone", &path, None);
            // It comes back with the next load.
            let lost = element("scnpm.gone", &path, None);
            let good = element("scnpm.set", &path, None);
            let mut done = try_add(&mut kernel, &[clash, homeless, good, lost]);
            done.outcomes.sort_by_key(|(row, _)| *row);
            done.failures.sort_by_key(|failed| failed.row);
            let expected = [
                (RowId(0), Outcome::Refused),
                (RowId(1), Outcome::Refused),
                (RowId(2), Outcome::Added(Some(id))),
                (RowId(3), Outcome::Failed),
            ];
            assert_eq!(done.outcomes, expected);
            let words: Vec<&str> = done.failures.iter().map(|failed| failed.words.as_str()).collect();
            assert_eq!(words.len(), 3);
            assert_eq!(words[0], "Could not process rule: File exists");
            assert!(words[1].contains("No such file or directory"), "{words:?}");
            assert_eq!(words[2], "Could not process rule: No such file or directory");
            assert_eq!(ids(&mut kernel, "scnpm.set"), BTreeSet::from([id]));
        });
    }

    #[test]
    fn a_jump_in_a_circle_is_refused_in_words() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (path, _) = sandbox.make("a");
            sandbox.nft(&["add rule inet filter other socket cgroupv2 level 1 vmap @scnpm.out.1"]);
            let done =
                try_add(&mut kernel, &[element("scnpm.out.1", &path, Some(Data::Jump("other".into())))]);
            assert_eq!(done.outcomes, [(RowId(0), Outcome::Refused)]);
            assert_eq!(done.failures[0].words, "Could not process rule: Too many links");
            assert_eq!(ids(&mut kernel, "scnpm.out.1"), BTreeSet::new());
        });
    }

    #[test]
    fn two_thousand_elements_go_in_and_out() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let made: Vec<(CgroupPath, CgroupId)> =
                (0..2000).map(|number| sandbox.make(&format!("unit-{number}.service"))).collect();
            let elements: Vec<Element> = made.iter().map(|(path, _)| jump("scnpm.out.1", path)).collect();
            add(&mut kernel, &elements);
            assert_eq!(ids(&mut kernel, "scnpm.out.1").len(), 2000);
            let deletions: Vec<_> = made.iter().map(|(_, id)| (set("scnpm.out.1"), Some(*id))).collect();
            delete(&mut kernel, &deletions);
            assert_eq!(ids(&mut kernel, "scnpm.out.1").len(), 0);
        });
    }

    #[test]
    fn names_that_mean_something_elsewhere_are_only_names() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let long = "n".repeat(255);
            for name in [
                "a\"b",
                "\"",
                "x;y",
                "sp ace",
                "tab\t",
                "back\\slash",
                "end\\",
                "*",
                "a*",
                "@allowed",
                "$x",
                "{",
                "}",
                "#c",
                "a,b",
                "-",
                "1-5",
                "10",
                "0x10",
                "a:b",
                "any",
                "jump",
                "it's",
                "%s%n",
                "\u{1b}[2J",
                "é",
                "a\\x2db",
                &long,
            ] {
                let (path, id) = sandbox.make(name);
                add(&mut kernel, &[element("scnpm.set", &path, None)]);
                assert_eq!(ids(&mut kernel, "scnpm.set"), BTreeSet::from([id]), "{name}");
                delete(&mut kernel, &[(set("scnpm.set"), Some(id))]);
                sandbox.remove(&path);
            }
            // The kernel has no such directory names at all.
            assert!(std::fs::create_dir(sandbox.path("new\nline").directory()).is_err());
        });
    }

    #[test]
    fn names_at_the_top_of_the_hierarchy_are_only_names() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            for name in ["*", "@allowed", "any", "10"] {
                let path: CgroupPath = name.parse().unwrap();
                std::fs::create_dir(path.directory()).unwrap();
                let done = try_add(&mut kernel, &[element("ports", &path, values(&["80"]))]);
                let found = kernel.elements(&set("ports"));
                sandbox.remove(&path);
                assert!(done.failures.is_empty(), "{done:?}");
                let found = found.unwrap();
                assert_eq!(found.len(), 1, "{name}");
                let deletions: Vec<_> = found.into_keys().map(|id| (set("ports"), Some(id))).collect();
                delete(&mut kernel, &deletions);
            }
        });
    }

    #[test]
    fn packets_of_a_cgroup_follow_its_element() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (path, _) = sandbox.make("a");
            add(&mut kernel, &[jump("scnpm.out.1", &path)]);
            let send = "echo $$ > \"$1\"/cgroup.procs && bash -c 'for i in 1 2 3; do echo x > /dev/udp/127.0.0.1/9; done; \
                        exec true' && echo $$ > /sys/fs/cgroup/cgroup.procs";
            succeed(Command::new("bash").args(["-c", send, "-"]).arg(path.directory()));
            let listed = sandbox.nft(&["list", "chain", "inet", "filter", "target"]);
            assert!(listed.contains("packets 3"), "{listed}");
        });
    }
}

mod gates {
    use super::*;

    #[test]
    fn a_gate_opens_and_closes_in_every_family() {
        sandbox::run(|sandbox| {
            let mut kernel = Nftables::open().unwrap();
            for family in [Family::Ip, Family::Ip6, Family::Inet, Family::Arp, Family::Bridge, Family::Netdev]
            {
                sandbox.load(&format!(
                    "table {family} t {{
                        set scnpm.gate {{ type mark; flags interval; }}
                        set gate {{ type mark; flags interval; }}
                        chain c {{ meta mark @scnpm.gate counter; }}
                    }}"
                ));
                let table = TableRef { family, name: "t".into() };
                let gate = SetRef { table: table.clone(), name: "scnpm.gate".into() };
                let by_libnftables = SetRef { table, name: "gate".into() };
                let open = |set: &SetRef| Element { set: set.clone(), key: Key::Everything, data: None };
                add(&mut kernel, &[open(&gate)]);
                add(&mut kernel, &[open(&gate)]);
                add(&mut kernel, &[open(&by_libnftables)]);
                let family = family.to_string();
                let elements = |name| {
                    let listed = sandbox.nft(&["list", "set", &family, "t", name]);
                    listed.lines().find(|line| line.contains("elements")).map(|line| line.trim().to_owned())
                };
                assert!(elements("scnpm.gate").is_some(), "{family}");
                let unmarked = elements("gate").map(|text| text.replace(" comment \"scnpm\"", ""));
                assert_eq!(elements("scnpm.gate"), unmarked, "{family}");
                delete(&mut kernel, &[(gate.clone(), None), (by_libnftables.clone(), None)]);
                assert_eq!(elements("scnpm.gate"), None, "{family}");
                assert_eq!(elements("gate"), None, "{family}");
                delete(&mut kernel, &[(gate, None)]);
            }
        });
    }

    #[test]
    fn closing_gates_that_are_gone_is_fine_and_the_rest_closes() {
        sandbox::run(|sandbox| {
            let mut kernel = Nftables::open().unwrap();
            sandbox.load("table inet filter { set scnpm.gate { type mark; flags interval; }; }");
            add(&mut kernel, &[Element { set: set("scnpm.gate"), key: Key::Everything, data: None }]);
            delete(
                &mut kernel,
                &[(set("scnpm.gone"), None), (set("scnpm.gate"), None), (set("scnpm.lost"), None)],
            );
            assert!(!sandbox.nft(&["list", "ruleset"]).contains("elements"));
        });
    }

    #[test]
    fn packets_pass_an_open_gate_whatever_their_mark() {
        sandbox::run(|sandbox| {
            let mut kernel = Nftables::open().unwrap();
            sandbox.load(
                "table inet filter {
                    set scnpm.gate { type mark; flags interval; }
                    chain output {
                        type filter hook output priority 0;
                        meta mark set numgen inc mod 2 map { 0 : 0, 1 : 0xffffffff }
                        meta mark @scnpm.gate counter
                    }
                }",
            );
            let counted = || {
                let listed = sandbox.nft(&["list", "chain", "inet", "filter", "output"]);
                let (_, after) = listed.split_once("packets ").unwrap();
                after.split(' ').next().unwrap().parse::<usize>().unwrap()
            };
            // Each refused datagram is answered by ICMP, which is output too.
            send_packets(4);
            assert_eq!(counted(), 0);
            add(&mut kernel, &[Element { set: set("scnpm.gate"), key: Key::Everything, data: None }]);
            send_packets(4);
            let open = counted();
            assert!(open >= 4, "{open}");
            delete(&mut kernel, &[(set("scnpm.gate"), None)]);
            send_packets(4);
            assert_eq!(counted(), open);
        });
    }
}

mod scripts {
    use super::*;

    fn complaints(script: &str, check: bool) -> Vec<Complaint> {
        Nftables::open().unwrap().run(&Script::of(script.lines()), check).unwrap_err()
    }

    #[test]
    fn errors_have_their_place_in_the_script() {
        sandbox::run(|sandbox| {
            sandbox.load(RULESET);
            let found = complaints("add table inet a\nadd rule inet a b tcp dport 99999 accept\n", false);
            assert_eq!(found[0].place, Some((2, 29, 33)));
            assert_eq!(found[0].words, "Service out of range");
            // The kernel's own refusal has a place too.
            let found = complaints("add table inet a\nadd rule inet filter target jump output\n", false);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].place.map(|place| place.0), Some(2));
            assert_eq!(found[0].words, "Could not process rule: Operation not supported");
            assert!(!sandbox.nft(&["list", "tables"]).contains("inet a"), "nothing of it is in force");
        });
    }

    #[test]
    fn all_syntax_errors_come_at_once() {
        sandbox::run(|_| {
            let found = complaints("add table inet\nadd chain\nadd table inet a\n", false);
            let lines: BTreeSet<usize> =
                found.iter().filter_map(|complaint| Some(complaint.place?.0)).collect();
            assert_eq!(lines, BTreeSet::from([1, 2]));
        });
    }

    #[test]
    fn a_check_changes_nothing() {
        sandbox::run(|sandbox| {
            let mut kernel = Nftables::open().unwrap();
            kernel.run(&Script::of(["add table inet a"]), true).unwrap();
            assert_eq!(sandbox.nft(&["list", "ruleset"]), "");
            kernel.run(&Script::of(["add table inet a"]), false).unwrap();
            assert_eq!(sandbox.nft(&["list", "tables"]), "table inet a\n");
            let found = kernel.run(&Script::of(["add rule inet a c accept"]), true).unwrap_err();
            assert_eq!(found[0].place.map(|place| place.0), Some(1));
        });
    }

    #[test]
    fn a_missing_cgroup_is_named_by_its_place() {
        sandbox::run(|sandbox| {
            sandbox.load(RULESET);
            let found = complaints("add rule inet filter target socket cgroupv2 level 1 \"gone\"\n", false);
            assert_eq!(found[0].place, Some((1, 53, 58)));
            assert_eq!(found[0].kind, Kind::CgroupMissing, "{}", found[0].words);
        });
    }

    #[test]
    fn host_names_are_not_looked_up_where_nft_can_be_told_so() {
        sandbox::run(|sandbox| {
            sandbox.load(RULESET);
            let start = Instant::now();
            let found = complaints("add rule inet filter target ip daddr no.such.host accept\n", true);
            assert_eq!(found[0].place.map(|place| place.0), Some(1));
            assert!(start.elapsed() < Duration::from_secs(20));
        });
    }

    #[test]
    fn a_nul_byte_is_a_complaint() {
        sandbox::run(|_| {
            let mut library = Libnftables::open().unwrap();
            assert!(library.run_file("\0", true).unwrap_err()[0].words.contains("NUL"));
        });
    }

    #[test]
    fn the_list_has_the_rules_and_their_handles_but_no_elements() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (path, _) = sandbox.make("a");
            add(&mut kernel, &[jump("scnpm.out.1", &path)]);
            sandbox.remove(&path);
            let list = kernel.list().unwrap();
            let objects = list.others["nftables"].as_array().unwrap();
            let map = objects.iter().find_map(|object| object.get("map")).unwrap();
            assert_eq!(
                (&map["family"], &map["table"], &map["name"]),
                (&"inet".into(), &"filter".into(), &"ports".into())
            );
            assert!(map.get("elem").is_none(), "{map}");
            // What is ours is known by name, and a rule that refers to it by its handle.
            let removal = list.removal(&BTreeSet::new(), &BTreeSet::new()).to_string();
            assert!(removal.starts_with("delete rule inet filter output handle "), "{removal}");
            assert!(removal.contains("\ndelete map inet filter scnpm.out.1\n"), "{removal}");
            // The switch of output and input forms leaves no trace.
            kernel.run(&Script::of(["add table inet b"]), false).unwrap();
            assert_eq!(ids(&mut kernel, "scnpm.out.1").len(), 1);
        });
    }
}

mod memory {
    use super::*;

    #[test]
    fn a_kernel_works_on_after_it_gave_its_memory_back() {
        sandbox::run(|sandbox| {
            let mut kernel = loaded(sandbox);
            let (path, id) = sandbox.make("a");
            kernel.list().unwrap();
            kernel.release_memory();
            assert!(kernel.list().unwrap().others.to_string().contains("ports"));
            add(&mut kernel, &[element("ports", &path, values(&["80"]))]);
            assert_eq!(ids(&mut kernel, "ports"), BTreeSet::from([id]));
            let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let before = open();
            (0..10).for_each(|_| kernel.release_memory());
            assert_eq!(open(), before);
        });
    }
}

mod monitor {
    use super::*;

    /// Whether somebody else touched something, and whether messages were lost.
    fn heard(monitor: &mut RulesetMonitor) -> (bool, bool) {
        let change = monitor.drain(&interest()).unwrap();
        assert!(change.by.as_ref().is_none_or(|(name, thread)| name == "nft" && *thread > 0), "{change:?}");
        (change.by.is_some(), change.overflow)
    }

    const QUIET: (bool, bool) = (false, false);
    const TOUCHED: (bool, bool) = (true, false);

    fn interest() -> Interest {
        Interest { chains: [chain("output")].into(), sets: [set("allowed")].into() }
    }

    fn listening(sandbox: &Sandbox) -> (Nftables, RulesetMonitor) {
        let mut kernel = loaded(sandbox);
        let monitor = RulesetMonitor::open(kernel.generation().unwrap().thread).unwrap();
        (kernel, monitor)
    }

    #[test]
    fn what_others_take_away_is_heard() {
        for command in [
            "flush ruleset",
            "delete table inet filter",
            "flush table inet filter",
            "flush chain inet filter output",
            "flush chain inet filter output; delete map inet filter scnpm.out.1",
            "flush map inet filter scnpm.out.1",
            "flush set inet filter allowed",
            "add element inet filter scnpm.out.1 { \"/\" : accept }",
            "rename chain inet filter output output2",
            "add chain inet filter scnpm.other",
        ] {
            sandbox::run(move |sandbox| {
                let (mut kernel, mut monitor) = listening(sandbox);
                let (path, _) = sandbox.make("a");
                add(&mut kernel, &[jump("scnpm.out.1", &path), element("allowed", &path, None)]);
                assert_eq!(heard(&mut monitor), QUIET);
                sandbox.nft(&[command]);
                assert_eq!(heard(&mut monitor), TOUCHED, "{command}");
                assert_eq!(heard(&mut monitor), QUIET, "{command}");
            });
        }
    }

    #[test]
    fn what_others_make_is_heard_when_it_was_waited_for() {
        sandbox::run(|sandbox| {
            let mut monitor = RulesetMonitor::open(0).unwrap();
            sandbox.nft(&["add table ip filter"]);
            assert_eq!(heard(&mut monitor), QUIET);
            for command in [
                "add table inet filter",
                "add chain inet filter output",
                "add set inet filter allowed { type cgroupsv2; }",
            ] {
                sandbox.nft(&[command]);
                assert_eq!(heard(&mut monitor), TOUCHED, "{command}");
            }
        });
    }

    #[test]
    fn the_business_of_others_is_not_heard() {
        sandbox::run(|sandbox| {
            let (_kernel, mut monitor) = listening(sandbox);
            for command in [
                "add rule inet filter output counter",
                "add rule inet filter other counter",
                "flush chain inet filter other",
                "add set inet filter blocked { type ipv4_addr; elements = { 10.0.0.1 }; }",
                "flush set inet filter blocked",
                "delete set inet filter blocked",
                "add table ip filter { chain output { counter; }; }",
                "delete table ip filter",
            ] {
                sandbox.nft(&[command]);
                assert_eq!(heard(&mut monitor), QUIET, "{command}");
            }
        });
    }

    #[test]
    fn our_own_deletions_are_not_heard() {
        sandbox::run(|sandbox| {
            let (mut kernel, mut monitor) = listening(sandbox);
            sandbox.nft(&["add set inet filter scnpm.gate { type mark; flags interval; }"]);
            assert_eq!(heard(&mut monitor), TOUCHED);
            let (path, id) = sandbox.make("a");
            let gate = Element { set: set("scnpm.gate"), key: Key::Everything, data: None };
            add(&mut kernel, &[jump("scnpm.out.1", &path), element("allowed", &path, None), gate]);
            delete(&mut kernel, &[(set("scnpm.out.1"), Some(id)), (set("allowed"), Some(id))]);
            delete(&mut kernel, &[(set("scnpm.gate"), None)]);
            assert_eq!(heard(&mut monitor), QUIET);
        });
    }

    #[test]
    fn our_own_loads_are_not_heard_and_what_comes_between_is() {
        const RELOAD: &str = "
            flush chain inet filter output
            delete map inet filter scnpm.out.1
            add map inet filter scnpm.out.1 { type cgroupsv2 : verdict; }
            add rule inet filter output socket cgroupv2 level 2 vmap @scnpm.out.1
        ";
        sandbox::run(|sandbox| {
            let (mut kernel, mut monitor) = listening(sandbox);
            kernel.run(&Script::of(RELOAD.lines()), false).unwrap();
            assert_eq!(heard(&mut monitor), QUIET);

            kernel.run(&Script::of(RELOAD.lines()), false).unwrap();
            sandbox.nft(&["flush map inet filter scnpm.out.1"]);
            sandbox.nft(&["flush chain inet filter output"]);
            assert_eq!(heard(&mut monitor), TOUCHED);
            assert_eq!(heard(&mut monitor), QUIET);
        });
    }

    #[test]
    fn chain_of_ours_with_another_name_is_known_again() {
        sandbox::run(|sandbox| {
            let (mut kernel, mut monitor) = listening(sandbox);
            let before = kernel.generations_of_others().unwrap();
            kernel
                .run(&Script::of(["add chain inet filter scnpm.a", "add chain inet filter b"]), false)
                .unwrap();
            assert_eq!(heard(&mut monitor), QUIET);
            assert_eq!(kernel.generations_of_others(), Some(before));
            sandbox.nft(&["rename chain inet filter scnpm.a evil"]);
            sandbox.nft(&["rename chain inet filter b good"]);
            let change = monitor.drain(&interest()).unwrap();
            assert_eq!(change.renamed, [chain("evil")].into());
            assert_eq!(kernel.generations_of_others(), Some(before + 2));
        });
    }

    #[test]
    fn a_flood_is_an_overflow() {
        sandbox::run(|sandbox| {
            let (_kernel, mut monitor) = listening(sandbox);
            let addresses: Vec<String> =
                (0..50_000).map(|number| format!("10.1.{}.{}", number >> 8, number & 255)).collect();
            let elements = addresses.join(", ");
            for number in 0..6 {
                sandbox.load(&format!(
                    "table ip flood {{ set s{number} {{ type ipv4_addr; elements = {{ {elements} }}; }}; }}"
                ));
            }
            assert_eq!(heard(&mut monitor), (false, true));
            assert_eq!(heard(&mut monitor), QUIET);
            sandbox.nft(&["flush ruleset"]);
            assert_eq!(heard(&mut monitor), TOUCHED);
        });
    }
}

mod probes {
    use super::*;

    #[test]
    fn this_machine_has_what_it_takes() {
        sandbox::run(|sandbox| {
            probe::require_net_admin().unwrap();
            probe::require_cgroup2(std::path::Path::new(scnpm::model::CGROUP_ROOT)).unwrap();
            probe::require_nft_socket(&mut Nftables::open().unwrap()).unwrap();
            assert_eq!(sandbox.nft(&["list", "ruleset"]), "", "the probe leaves nothing");
        });
    }

    #[test]
    fn without_rights_the_line_says_what_to_do() {
        if is_inside() {
            return println!("{}", probe::require_net_admin().unwrap_err());
        }
        sandbox::run(|_| {
            let output = as_nobody("without_rights_the_line_says_what_to_do", &[]);
            assert!(
                output.contains(
                    "CAP_NET_ADMIN is missing: run as root, or give the service AmbientCapabilities="
                ),
                "{output}"
            );
        });
    }

    #[test]
    fn an_ordinary_user_with_the_ambient_capability_gets_places_too() {
        if is_inside() {
            let script = "add table inet a\nadd rule inet a b tcp dport 99999 accept\n";
            let complaint =
                Nftables::open().unwrap().run(&Script::of(script.lines()), true).unwrap_err().remove(0);
            let (line, first, last) = complaint.place.unwrap();
            return println!("{line}:{first}-{last} {}", complaint.words);
        }
        sandbox::run(|sandbox| {
            sandbox.load(RULESET);
            let output = as_nobody(
                "an_ordinary_user_with_the_ambient_capability_gets_places_too",
                &["--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin"],
            );
            assert!(output.contains("2:29-33 Service out of range"), "{output}");
        });
    }

    /// What says to a test that it is its own inside: it was run by [`as_nobody`].
    const INSIDE: &str = "SCNPM_INSIDE";

    fn is_inside() -> bool {
        std::env::var_os(INSIDE).is_some()
    }

    /// Runs the test's inside in a process of an ordinary user, in the sandbox of this thread.
    fn as_nobody(test: &str, capabilities: &[&str]) -> String {
        succeed(
            Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .args(capabilities)
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", &format!("probes::{test}"), "--nocapture"])
                .env(INSIDE, "1"),
        )
    }

    #[test]
    fn two_sockets_of_a_thread_have_one_name() {
        sandbox::run(|_| {
            let (mut one, mut other) = (Netlink::open().unwrap(), Netlink::open().unwrap());
            let (one, other) = (one.generation().unwrap(), other.generation().unwrap());
            assert_eq!(one, other);
            assert!(one.thread > 0 && !one.name.is_empty());
        });
    }
}
