//! On the real kernel: a load that somebody undid is made again without nft, byte for byte what nft makes of it; and only
//! where nft would make the same.

mod common;

use common::sandbox::{self, Sandbox};
use scnpm::{
    cgroupfs::{alive, look},
    load::{Again, Load, Loaded, tables},
    model::{Family, Instance, Manager, SetRef, TableRef, UnitName, UnitState},
    nft::{ElementChange, Interest, Kernel, Nftables, Recording, RulesetMonitor},
    policy::{Policy, hosts::Hosts},
    units::Users,
};

const BASE: &str = "flush ruleset
table inet filter {
    set mine { type cgroupsv2; }
    set ports { type inet_service; flags interval; elements = { 80-90 }; }
    map marks { type cgroupsv2 : mark; }
    map verdicts { type cgroupsv2 : verdict; }
    counter seen { }
    chain wl { }
    chain other { counter; }
    chain out {
        type filter hook output priority 0;
        ip daddr { 192.0.2.1, 192.0.2.2 } accept
        jump wl
    }
}
table ip nat {
    chain out { type nat hook output priority -100; }
}
";

/// What follows a cgroup match in a rule, in all forms of nft's that can be made again.
const REST: &[&str] = &[
    "accept comment \"a remark\"",
    "tcp dport 25 counter drop",
    "tcp dport { 80, 443 } counter accept comment \"web\"",
    "udp dport { 1-7, 9-12 } ip daddr 192.0.2.0/24 accept",
    "tcp dport vmap { 1 : accept, 2 : jump other, 3-9 : drop }",
    "ip daddr . tcp dport { 192.0.2.1 . 80, 192.0.2.2 . 90-99 } accept",
    "ip6 daddr { 2001:db8::/32, fe80::1 } tcp dport != { 1, 2 } reject with tcp reset",
    "tcp dport $ports meta mark set 7",
    "tcp dport @ports log prefix \"it's \" level debug flags all accept",
    "log group 3 snaplen 64 queue-threshold 2",
    "limit rate 10/second burst 7 packets accept",
    "limit rate over 2 mbytes/second burst 1 kbytes reject with icmpx admin-prohibited",
    "quota over 5 mbytes drop",
    "ct state established,related ct mark set meta mark accept",
    "counter name \"seen\" oifname { \"tun0\", \"wg*\" } accept",
    "meta l4proto { tcp, udp } th dport 53 ip dscp set cs3 accept",
    "tcp flags & (syn | ack) == syn ip saddr & 255.0.0.255 == 10.0.0.1 tcp dport 3-8 continue",
    "meta mark set ct mark and 0xff or 0x100 notrack",
    "goto other",
    "return",
];

/// What nft may make something else of another time, or what has a state: nft loads it each time.
const BY_NFT: &[&str] = &[
    "oif \"lo\" accept",
    "meta skuid root accept",
    "meta hour \"08:00\"-\"18:00\" accept",
    "quota over 5 mbytes used 3 bytes drop",
    "counter packets 3 bytes 4 accept",
    "fib daddr type local accept",
];

/// A daemon's part: what loads, and what hears of it.
struct Room<'a> {
    sandbox: &'a Sandbox,
    kernel: Nftables,
    monitor: RulesetMonitor,
    policy: Policy,
    instances: Vec<Instance>,
}

impl<'a> Room<'a> {
    /// With a policy, over the base, and the cgroups a and b.
    fn new(sandbox: &'a Sandbox, annotations: &str) -> Self {
        sandbox.load(BASE);
        for name in ["a", "b"] {
            let _ = std::fs::create_dir(sandbox.path(name).directory());
        }
        let top = sandbox.path("a").to_string().trim_end_matches("/a").to_owned();
        let policy = common::policy::of(&annotations.replace("TOP", &top));
        assert!(policy.diagnostics.is_empty(), "{}", policy.diagnostics[0].render(&policy.sources, false));
        let mut kernel = Nftables::open().unwrap();
        let monitor = RulesetMonitor::open(kernel.generation().unwrap().thread).unwrap();
        let (unit, path) = (UnitName("b.service".into()), sandbox.path("b"));
        let instances = vec![Instance { manager: Manager::System, unit, path }];
        Self { sandbox, kernel, monitor, policy, instances }
    }

    fn with<T>(&mut self, action: impl FnOnce(Load<'_>, &mut Nftables) -> T) -> T {
        let (hosts, users) = (Hosts::new(), Users::new());
        let load = Load {
            policy: &self.policy,
            hosts: &hosts,
            flush: false,
            is_repair: true,
            is_strict: false,
            look: &look,
            alive: &alive,
            state: &|_| Some(UnitState::Active),
            instances: &self.instances,
            users: &users,
        };
        action(load, &mut self.kernel)
    }

    /// Loads with nft and keeps what that makes, if it may be kept.
    fn load(&mut self) -> (Loaded, Option<Again>) {
        self.monitor.drain(&Interest::default()).unwrap();
        self.monitor.record();
        let loaded = self.with(|load, kernel| load.run(kernel)).unwrap_or_else(|error| panic!("{error:?}"));
        assert!(loaded.refusals.is_empty(), "{:?}", loaded.refusals);
        self.monitor.drain(&Interest::default()).unwrap();
        let surroundings = self.kernel.surroundings(&tables(&self.policy)).unwrap().1;
        let recording = self.monitor.recorded();
        let made = recording.and_then(|recording| {
            Again::of(&self.policy, (&self.instances, &Users::new()), &loaded, recording, surroundings)
        });
        (loaded, made)
    }

    /// Loads with nft, whatever that refuses.
    fn reload(&mut self) -> String {
        self.with(|load, kernel| load.run(kernel)).unwrap_or_else(|error| panic!("{error:?}"));
        self.ruleset()
    }

    /// Makes it again, if that can be done.
    fn repeat(&mut self, again: &Again) -> Option<Loaded> {
        self.monitor.drain(&Interest::default()).unwrap();
        self.monitor.record();
        let loaded = self.with(|load, kernel| load.repeat(kernel, again))?;
        self.monitor.drain(&Interest::default()).unwrap();
        assert!(again.is_same(&self.monitor.recorded().unwrap()), "the kernel says something else this time");
        Some(loaded)
    }

    fn ruleset(&self) -> String {
        self.sandbox.nft(&["list", "ruleset"])
    }
}

/// Every form of a rule, and elements of users' own sets.
fn all_forms() -> String {
    let mut text = "define ports = { 25, 143 }\n".to_owned();
    for (number, rest) in REST.iter().enumerate() {
        let cgroup = if number % 2 == 0 { "a" } else { "b" };
        text += &format!(
            "# {cgroup}.service :: add rule inet filter wl socket cgroupv2 level 2 \"TOP/{cgroup}\" {rest}\n"
        );
    }
    text + "# a.service :: insert rule inet filter wl socket cgroupv2 level 2 \"TOP/a\" tcp dport 1 accept
# a.service :: insert rule inet filter wl tcp dport { 2, 3 } counter socket cgroupv2 level 2 \"TOP/a\" accept
# a.service :: add rule inet filter wl socket cgroupv2 level 2 != \"TOP/a\" tcp dport { 4, 5 } drop
# a.service :: add rule inet filter wl socket cgroupv2 level 1 \"TOP\" socket cgroupv2 level 2 @mine accept
# gone.service :: add rule inet filter wl socket cgroupv2 level 2 \"TOP/gone\" tcp dport { 6, 7 } accept
# vpn.service :: add rule inet filter wl oifname \"tun0\" accept
# scnpm: count
# a.service :: add rule inet filter wl socket cgroupv2 level 2 \"TOP/a\" tcp dport 9 accept
# system:b.service :: add rule inet filter wl socket cgroupv2 unit tcp dport { 10, 11 } accept
# a.service :: add rule ip nat out socket cgroupv2 level 2 \"TOP/a\" tcp dport 80 redirect to :8080
# b.service :: add rule ip nat out socket cgroupv2 level 2 \"TOP/b\" ip protocol udp dnat to 192.0.2.1-192.0.2.9:80
# a.service :: add element inet filter mine { \"TOP/a\" }
# b.service :: add element inet filter verdicts { \"TOP/b\" : jump other }
"
}

#[test]
fn what_is_made_again_is_what_nft_makes() {
    sandbox::run(|sandbox| {
        let mut room = Room::new(sandbox, &all_forms());
        let (loaded, again) = room.load();
        let again = again.expect("all of it can be made again");
        let made_by_nft = room.ruleset();
        assert!(made_by_nft.matches("elements").count() > 10, "{made_by_nft}");
        for _ in 0..2 {
            sandbox.load(BASE);
            let repeated = room.repeat(&again).expect("it is made again");
            assert_eq!(room.ruleset(), made_by_nft);
            assert_eq!((&repeated.rows, &repeated.patterns), (&loaded.rows, &loaded.patterns));
            assert_eq!((&repeated.instances, &repeated.installed), (&loaded.instances, &loaded.installed));
        }
        // Cgroups of now, not those of then.
        sandbox.remove(&room.instances[0].path);
        sandbox.load(BASE);
        sandbox.make("b");
        room.repeat(&again).expect("it is made again");
        let with_new_ids = room.ruleset();
        sandbox.load(BASE);
        room.load();
        assert_eq!(with_new_ids, room.ruleset());
    });
}

#[test]
fn whatever_nft_may_have_to_judge_anew_is_left_to_it() {
    let annotation = "# a.service :: add rule inet filter wl socket cgroupv2 level 2 \"TOP/a\" counter name \"seen\" tcp dport @ports jump other\n";
    let changes = [
        ("type inet_service; flags interval;", "type mark; flags interval;"),
        ("flags interval; elements", "flags interval, timeout; elements"),
        ("hook output priority 0", "hook input priority 0"),
        ("hook output priority 0", "hook output priority 10"),
        ("type filter hook output priority 0", "type route hook output priority 0"),
        ("set ports { type inet_service; flags interval; elements = { 80-90 }; }", ""),
        ("chain other { counter; }", ""),
        ("counter seen { }", "quota seen { 5 mbytes }"),
        ("chain wl { }", "chain wl { type filter hook forward priority 0; }"),
        ("table inet filter {", "table inet filter { flags dormant;"),
        ("chain other {", "chain scnpm.left { } \n chain other {"),
        ("chain other {", "set scnpm.left { type mark; } \n chain other {"),
    ];
    sandbox::run(move |sandbox| {
        let mut room = Room::new(sandbox, annotation);
        let again = room.load().1.expect("it can be made again");
        assert!(room.repeat(&again).is_none(), "nothing is missing");
        for (from, to) in changes {
            assert!(BASE.contains(from), "{from}");
            let base = if to.contains("forward") { BASE.replace("jump wl", "") } else { BASE.to_owned() };
            let changed = base.replace(from, to);
            sandbox.load(&changed);
            let before = room.ruleset();
            assert!(room.repeat(&again).is_none(), "{to}");
            assert_eq!(room.ruleset(), before, "{to}");
            let repaired = room.reload();
            sandbox.load(&changed);
            room.kernel = Nftables::open().unwrap();
            assert_eq!(repaired, room.reload(), "as a new daemon does it");
        }
        // Rules and elements of the user's are nothing that nft looks at.
        sandbox.load(&BASE.replace("jump wl", "tcp dport { 5, 6 } jump wl").replace("80-90", "1-2"));
        assert!(room.repeat(&again).is_some());
        let (generation, _) = room.kernel.surroundings(&tables(&room.policy)).unwrap();
        sandbox.nft(&["add", "table", "inet", "another"]);
        let before = room.ruleset();
        let table = TableRef { family: Family::Inet, name: "filter".into() };
        let set = &SetRef { table, name: "mine".into() };
        let id = look(&sandbox.path("a"));
        let elements = [ElementChange::Add { set, id, data: None }];
        let error = room.kernel.repeat(generation, &Recording::default(), &elements).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ERESTART), "somebody was faster");
        assert_eq!(room.ruleset(), before);
    });
}

#[test]
fn what_nft_makes_of_words_of_the_machine_is_not_kept() {
    sandbox::run(|sandbox| {
        let rules = BY_NFT
            .iter()
            .map(|rest| format!("add rule inet filter wl socket cgroupv2 level 2 \"TOP/a\" {rest}"));
        let rest = [
            "add rule inet filter out index 1 socket cgroupv2 level 2 \"TOP/a\" accept",
            "add element inet filter marks { \"TOP/a\" : 7 }",
        ];
        for statement in rules.chain(rest.map(str::to_owned)) {
            let mut room = Room::new(sandbox, &format!("# a.service :: {statement}\n"));
            assert!(room.load().1.is_none(), "{statement}");
        }
    });
}
