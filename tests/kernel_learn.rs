//! `scnpm learn` on the running kernel: what is learnt of real traffic allows exactly that. Needs root.

mod common;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use common::sandbox::{self, Sandbox, remove_tree, succeed};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const BASE: &str = "
table inet filter {
	chain refused_out {
	}
	chain refused_in {
	}
	chain output {
		type filter hook output priority 0; policy accept;
		ct state established,related accept
		oif lo accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
		jump refused_out
		counter reject with icmpx admin-prohibited
	}
	chain input {
		type filter hook input priority 0; policy accept;
		ct state established,related accept
		iif lo accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
		jump refused_in
		counter reject with icmpx admin-prohibited
	}
}
# scnpm: record refusals in inet filter refused_out
# scnpm: record refusals in inet filter refused_in
";

/// Sends to `PROTOCOL ADDRESS PORT` of each three arguments, or listens at them.
const PERL: &str = r#"
use strict; use Socket qw(:all);
my ($act, $ready, @todo) = @ARGV;
my %kinds = (tcp => [SOCK_STREAM, 6], udp => [SOCK_DGRAM, 17], icmp => [SOCK_RAW, 1], icmpv6 => [SOCK_RAW, 58], gre => [SOCK_RAW, 47]);
my %data = (icmp => pack("C2n3", 8, 0, 0xf7fd, 1, 1), icmpv6 => pack("C2n3", 128, 0, 0, 1, 1), gre => pack("n2", 0, 0x0800));
my @open;
$SIG{ALRM} = sub {};
while (my ($name, $address, $port) = splice(@todo, 0, 3)) {
    my $family = $address =~ /:/ ? AF_INET6 : AF_INET;
    my ($type, $protocol) = @{$kinds{$name}};
    socket(my $socket, $family, $type, $protocol) or die "socket: $!";
    my $number = $type == SOCK_RAW ? 0 : $port;
    my $at = inet_pton($family, $address);
    my $to = $family == AF_INET ? pack_sockaddr_in($number, $at) : pack_sockaddr_in6($number, $at);
    if ($act eq "serve") {
        bind($socket, $to) or die "bind: $!";
        listen($socket, 9) or die "listen: $!" if $name eq "tcp";
        push @open, $socket;
    } else {
        alarm 2;
        if ($name eq "tcp") { connect($socket, $to) } else { send($socket, $data{$name} // "x", 0, $to) }
        alarm 0;
    }
}
if ($ready) { open(my $file, ">", $ready) or die "ready: $!" }
sleep 1000 if @open;
"#;

/// What a unit of the test does, and what the other side does to it.
const OUT: &str = "tcp 10.9.0.2 25 tcp 10.9.0.2 443 tcp 10.9.0.3 443 tcp fd09::2 443 udp 10.9.0.2 53 tcp 10.9.0.2 53 \
                   udp fd09::2 123 icmp 10.9.0.2 0 icmpv6 fd09::2 0 gre 10.9.0.3 0";
const IN: &str = "tcp 10.9.0.1 8025 tcp fd09::1 8025 udp 10.9.0.1 5300";

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        sleep(Duration::from_millis(20));
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A slice at the top of the hierarchy, where units are, and a network with another side.
struct World<'a> {
    sandbox: &'a Sandbox,
    slice: PathBuf,
    directory: PathBuf,
    peer: Running,
}

impl<'a> World<'a> {
    fn of(sandbox: &'a Sandbox) -> Self {
        let name = sandbox.path("x").to_string().replace(['-', '/'], "");
        let slice = Path::new(scnpm::model::CGROUP_ROOT).join(format!("{name}.slice"));
        fs::create_dir(&slice).unwrap();
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let peer = Running(Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap());
        let pid = peer.0.id().to_string();
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let of_peer = format!("/proc/{pid}/ns/net");
        eventually("the peer has a network", || fs::read_link(&of_peer).is_ok_and(|theirs| theirs != own));
        let world = Self { sandbox, slice, directory, peer };
        let ip = |words: &str| succeed(Command::new("ip").args(words.split(' ')));
        ip(&format!("link add va type veth peer name vb netns {pid}"));
        ip("addr add 10.9.0.1/24 dev va");
        ip("addr add fd09::1/64 dev va nodad");
        ip("link set va up");
        for words in [
            "addr add 10.9.0.2/24 dev vb",
            "addr add 10.9.0.3/24 dev vb",
            "addr add fd09::2/64 dev vb nodad",
            "link set vb up",
            "link set lo up",
        ] {
            succeed(world.at_peer("ip").args(words.split(' ')));
        }
        world
    }

    fn at_peer(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-n", "-t", &self.peer.0.id().to_string(), program]);
        command
    }

    /// What sends or listens, in the cgroup of a unit.
    fn in_unit(&self, unit: &str, act: &str, ready: &str, todo: &str) -> Command {
        let cgroup = self.slice.join(unit);
        fs::create_dir_all(&cgroup).unwrap();
        let mut command = Command::new("bash");
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", cgroup.display());
        command.args(["-ec", &enter, "bash", "perl", "-e", PERL, act, ready]).args(todo.split_whitespace());
        command
    }

    fn send(&self, unit: &str, todo: &str) {
        succeed(&mut self.in_unit(unit, "send", "", todo));
    }

    fn peer_sends(&self, todo: &str) {
        succeed(self.at_peer("perl").args(["-e", PERL, "send", ""]).args(todo.split_whitespace()));
    }

    /// Starts what listens in a unit, and what learns of others.
    fn serve(&self) -> Running {
        let ready = self.directory.join("ready");
        let _ = fs::remove_file(&ready);
        let todo = "tcp 0.0.0.0 8025 tcp fd09::1 8025 udp 0.0.0.0 5300";
        let serving = Running(
            self.in_unit("work.service/deep", "serve", ready.to_str().unwrap(), todo).spawn().unwrap(),
        );
        eventually("it listens", || ready.exists());
        serving
    }

    fn learn(&self, words: &[&str]) -> Running {
        let before = self.learning();
        let mut command = Command::new(common::program());
        command.arg("learn").args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = Running(command.arg("--file").arg(self.file()).spawn().unwrap());
        eventually("it learns", || self.learning() > before);
        // Its table is there before it follows cgroups.
        sleep(Duration::from_secs(1));
        running
    }

    /// How many tables of those that learn there are.
    fn learning(&self) -> usize {
        self.sandbox.nft(&["list", "tables"]).matches("scnpm.learn.").count()
    }

    fn file(&self) -> PathBuf {
        self.directory.join("nftables.conf")
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    fn write(&self, more: &str) {
        fs::write(self.file(), format!("{BASE}{more}")).unwrap();
    }

    fn daemon(&self) -> Running {
        let log = fs::File::create(self.directory.join("log")).unwrap();
        let mut command = Command::new(common::program());
        command
            .arg(self.file())
            .args(["--sources", "cgroup", "--cooldown", "0", "--control"])
            .arg(self.socket());
        let daemon = Running(command.stderr(log).spawn().unwrap());
        let mut status = Command::new(common::program());
        status.arg("status").arg("--socket").arg(self.socket()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = std::cell::RefCell::new(status);
        eventually("the daemon has loaded all", || status.borrow_mut().status().unwrap().success());
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap()
    }

    /// How many packets were refused.
    fn refused(&self) -> u64 {
        let rules = self.sandbox.nft(&["list", "table", "inet", "filter"]);
        let rejects = rules.lines().filter(|line| line.contains("reject"));
        rejects
            .map(|line| {
                line.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap()
            })
            .sum()
    }

    fn generation(&self) -> u64 {
        let mut nftables = scnpm::nft::Nftables::open().unwrap();
        nftables.generation().unwrap().id.into()
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.directory.join("log")).unwrap_or_default());
        }
        let processes = succeed(Command::new("find").arg(&self.slice).args([
            "-name",
            "cgroup.procs",
            "-exec",
            "cat",
            "{}",
            "+",
        ]));
        for process in processes.lines() {
            let _ = kill(Pid::from_raw(process.parse().unwrap()), Signal::SIGKILL);
        }
        sleep(Duration::from_millis(300));
        remove_tree(&self.slice);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Ends what learns; what it says.
fn learnt(mut running: Running) -> Output {
    running.signal(Signal::SIGINT);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    running.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    running.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    let status = running.0.wait().unwrap();
    Output { status, stdout, stderr }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn list_that_was_learnt_refuses_nothing_the_second_time() {
    sandbox::run(|sandbox| {
        let world = World::of(sandbox);
        world.write("");
        sandbox.load(BASE);
        let _daemon = world.daemon();
        let log = world.log();
        let generation = world.generation();

        let of_work = world.learn(&["work.service,brief.service"]);
        let of_other = world.learn(&["system:other.service"]);
        let serving = world.serve();
        world.send("work.service/deep", OUT);
        world.send("work.service", "udp 10.9.0.3 4000");
        world.peer_sends(IN);
        // One that is gone at once.
        world.send("brief.service", "udp 10.9.0.2 514");
        fs::remove_dir(world.slice.join("brief.service")).unwrap();
        world.send("other.service", "tcp 10.9.0.2 6667 udp 127.0.0.1 9");
        let first = world.refused();
        assert!(first > 10, "only {first} were refused");

        let (of_work, of_other) = (learnt(of_work), learnt(of_other));
        assert!(of_work.status.success(), "{of_work:?}");
        let list = text(&of_work);
        assert_eq!(
            text(&of_other)
                .lines()
                .filter(|line| !line.starts_with("# (") && !line.starts_with("# Learnt"))
                .collect::<Vec<_>>(),
            [
                "# system:other.service :: add rule inet filter refused_out socket cgroupv2 unit ip daddr 10.9.0.2 tcp dport 6667 accept"
            ]
        );
        assert!(list.contains("refused_in socket cgroupv2 unit ip saddr 10.9.0.2 udp dport 5300"), "{list}");
        assert!(list.contains("# (uncertain: another network may have another name server"), "{list}");
        assert!(!list.contains("6667"), "{list}");
        // Each learner made and deleted its table, and nothing else was changed.
        assert_eq!(world.learning(), 0);
        assert_eq!(world.log(), log);
        assert_eq!(world.generation(), generation + 4, "{log}");

        // One that goes on does not disturb who reads the ruleset.
        let goes_on = world.learn(&["work.service", "--loopback"]);
        world.write(&list);
        let checked = Command::new(common::program())
            .args(["check", "--no-dns", "--format", "short"])
            .arg(world.file())
            .output()
            .unwrap();
        assert!(checked.status.success() && !text(&checked).contains("W004"), "{list}\n{checked:?}");
        let mut reload = Command::new(common::program());
        let reload = reload.arg("reload").arg("--socket").arg(world.socket()).output().unwrap();
        assert!(reload.status.success(), "{reload:?}");

        let before = world.refused();
        world.send("work.service/deep", OUT);
        world.send("work.service", "udp 10.9.0.3 4000");
        world.peer_sends(IN);
        assert_eq!(world.refused(), before, "{list}");
        // Others are refused as before.
        world.send("other.service", "tcp 10.9.0.2 6667");
        assert!(world.refused() > before);
        assert!(text(&learnt(goes_on)).contains("# system:work.service :: "));
        drop(serving);
    });
}

#[test]
fn units_that_are_gone_at_once_are_named_or_said_to_be_missing() {
    sandbox::run(|sandbox| {
        let world = World::of(sandbox);
        world.write("");
        let learning = world.learn(&["brief-*.service", "--json"]);
        let script = r#"
            use strict; use Socket;
            for my $number (1..100) {
                my $unit = "$ARGV[0]/brief-$number.service";
                mkdir $unit or die "mkdir: $!";
                if (!fork) {
                    open(my $file, ">", "$unit/cgroup.procs"); print $file $$; close $file;
                    socket(my $socket, AF_INET, SOCK_DGRAM, 17);
                    send($socket, "x", 0, pack_sockaddr_in(1000 + $number, inet_aton("10.9.0.2")));
                    exit;
                }
                wait; 1 until rmdir $unit;
            }"#;
        succeed(Command::new("perl").args(["-e", script]).arg(&world.slice));
        let output = learnt(learning);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let packets: u64 =
            said["annotations"].as_array().unwrap().iter().map(|one| one["packets"].as_u64().unwrap()).sum();
        let missed =
            said["notes"].as_array().unwrap().iter().find_map(|note| note.as_str()?.split_once(" kind"));
        let missed = missed.map_or(0, |(number, _)| number.parse::<u64>().unwrap());
        assert_eq!(packets + missed, 100, "{said:#}");
        assert!(packets > 50, "{said:#}");
    });
}

#[test]
fn nothing_stays_of_one_that_is_killed() {
    sandbox::run(|sandbox| {
        let world = World::of(sandbox);
        world.write("");
        let mut running = world.learn(&["work.service"]);
        running.signal(Signal::SIGKILL);
        running.0.wait().unwrap();
        eventually("the kernel deletes its table", || world.learning() == 0);
        assert_eq!(sandbox.nft(&["list", "ruleset"]), "");
    });
}

#[test]
fn unit_that_does_nothing_and_arguments_that_mean_nothing_are_said() {
    sandbox::run(|sandbox| {
        let world = World::of(sandbox);
        world.write("");
        let run = |words: &[&str]| {
            let output = Command::new(common::program()).arg("learn").args(words).output().unwrap();
            (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        // Other tests may have a work.service meanwhile.
        let (code, words) = run(&["idle.service", "--for", "100ms"]);
        assert!(code == 1 && words.contains("did nothing") && words.contains("does not run yet"), "{words}");
        for (words, status, part) in [
            (vec!["work", "--for", "1s"], 2, "ends in its type"),
            (vec!["nosuchuser:app:x", "--for", "1s"], 2, "there is no user"),
            (vec!["work.service", "--for", "soon"], 2, "is not a time"),
            (vec!["work.service", "--chain", "out"], 2, "is not a chain"),
            (vec!["work.service", "--group-by-prefix", "33"], 2, "is not a prefix length"),
            (vec!["a-*.service", "--", "true"], 125, "name one such as"),
        ] {
            let (code, said) = run(&words);
            assert!(code == status && said.contains(part), "{words:?}: {code} {said}");
        }
        assert_eq!(world.learning(), 0);
    });
}
