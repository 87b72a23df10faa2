//! `scnpm explain` on the running kernel: sockets and their cgroups, and what becomes of a packet.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::sandbox::{self, Sandbox};
use scnpm::{
    cgroupfs::{alive, look},
    load::Load,
    model::{CGROUP_ROOT, CgroupPath},
    nft::Nftables,
};
use serde_json::{Value, json};

const BASE: &str = "
table inet filter {
	set nets {
		type ipv4_addr; flags interval
		elements = { 127.0.0.2-127.0.0.4 }
	}
	chain wl {
	}
	chain deep {
		tcp dport 7003 counter drop
		return
	}
	chain out {
		type filter hook output priority 0; policy accept;
		ct state established,related accept
		ip daddr @nets drop
		meta l4proto vmap { tcp : jump deep }
		tcp dport 7001-7002 jump wl
		tcp dport 7001-7002 reject with tcp reset
	}
}
table ip late {
	chain out {
		type filter hook output priority 100; policy accept;
		udp dport 7004 drop
	}
}
table ip6 strict {
	chain out {
		type filter hook output priority 5; policy drop;
		udp dport 7005 accept
	}
}
";

/// A process, which ends with the test.
struct Running(Child);

impl Running {
    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell that runs this and then waits. It has begun to wait.
fn shell(sandbox: &Sandbox, script: &str) -> Running {
    let ready = sandbox_file(sandbox, "ready");
    let _ = fs::remove_file(&ready);
    let script = format!("{script}\n: > {}\nexec sleep 1000", ready.display());
    let running = Running(Command::new("bash").args(["-ec", &script]).spawn().unwrap());
    eventually("the shell is not ready", || ready.exists());
    fs::remove_file(ready).unwrap();
    running
}

/// A process in a cgroup of the sandbox, which it is the first to be in.
fn sleeper(sandbox: &Sandbox, name: &str) -> (CgroupPath, Running) {
    let (path, _) = sandbox.make(name);
    let running = shell(sandbox, &enter(&path));
    (path, running)
}

fn enter(path: &CgroupPath) -> String {
    format!("echo $$ > {}/cgroup.procs", path.directory().display())
}

fn sandbox_file(sandbox: &Sandbox, name: &str) -> PathBuf {
    let top = sandbox.directory();
    std::env::temp_dir().join(format!("{}-{name}", top.file_name().unwrap().to_str().unwrap()))
}

fn eventually(why: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "{why}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Loads a policy whose file this is, as the daemon does.
fn load(sandbox: &Sandbox, annotations: &str) -> PathBuf {
    sandbox.load(BASE);
    let file = sandbox_file(sandbox, "conf");
    fs::write(&file, annotations).unwrap();
    let policy = common::policy::of(annotations);
    assert!(policy.diagnostics.is_empty(), "{annotations}");
    let loaded = Load {
        policy: &policy,
        hosts: &Default::default(),
        flush: false,
        is_repair: false,
        is_strict: true,
        look: &|path: &CgroupPath| look(path),
        alive: &alive,
        state: &|_| None,
        instances: &[],
        users: &BTreeMap::new(),
    }
    .run(&mut Nftables::open().unwrap());
    assert!(loaded.is_ok_and(|loaded| loaded.refusals.is_empty()));
    file
}

fn allows(path: &CgroupPath, port: u16) -> String {
    format!(
        "# a.service :: add rule inet filter wl socket cgroupv2 level 2 \"{path}\" tcp dport {port} accept\n"
    )
}

/// The program, with no daemon that could answer.
fn explain(file: &Path, pid: u32, arguments: &[&str]) -> Command {
    let mut command = Command::new(common::program());
    command.args(["explain", "--socket", "/nonexistent/control", "--json", "--file"]).arg(file);
    command.arg(format!("pid:{pid}")).args(arguments);
    command
}

fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no object: {}", String::from_utf8_lossy(&output.stderr)))
}

fn processes(path: &CgroupPath) -> String {
    fs::read_to_string(path.directory().join("cgroup.procs")).unwrap()
}

#[test]
fn deciding_rule_is_found_by_trace_and_by_reading() {
    sandbox::run(|sandbox| {
        let (path, running) = sleeper(sandbox, "a.service");
        let file = load(sandbox, &allows(&path, 7001));
        for (to, protocol, code, outcome, verdict, chain, lines) in [
            ("127.0.0.1:7001", "tcp", 0, "passes", "accept", "inet filter scnpm.wl.1.a.service", vec![1]),
            ("127.0.0.1:7002", "tcp", 1, "refused", "reject", "inet filter out", vec![]),
            ("127.0.0.1:7003", "tcp", 1, "refused", "drop", "inet filter deep", vec![]),
            ("127.0.0.1:7003", "udp", 0, "passes", "accept", "", vec![]),
            ("127.0.0.1:7004", "udp", 1, "refused", "drop", "ip late out", vec![]),
            ("127.0.0.3:7001", "tcp", 1, "refused", "drop", "inet filter out", vec![]),
            ("[::1]:7005", "udp", 0, "passes", "accept", "ip6 strict out", vec![]),
            ("[::1]:7001", "tcp", 1, "refused", "drop", "ip6 strict out", vec![]),
        ] {
            let arguments = ["--to", to, "--proto", protocol];
            let traced = explain(&file, running.pid(), &arguments).output().unwrap();
            let read =
                explain(&file, running.pid(), &[&arguments[..], &["--no-probe"]].concat()).output().unwrap();
            for (found_by, output) in [("trace", traced), ("reading", read)] {
                let answer = answer(&output);
                let packet = &answer["packet"];
                let what = format!("{protocol} to {to} by {found_by}: {packet:#}");
                assert_eq!(
                    (&packet["found_by"], &packet["outcome"]),
                    (&json!(found_by), &json!(outcome)),
                    "{what}"
                );
                assert_eq!(output.status.code(), Some(code), "{what}");
                if chain.is_empty() {
                    continue;
                }
                let at = usize::try_from(packet["decided_by"].as_u64().unwrap()).unwrap();
                let step = &packet["steps"][at];
                assert_eq!((&step["verdict"], &step["chain"]), (&json!(verdict), &json!(chain)), "{what}");
                let found: Vec<u64> = step["annotations"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|one| one["line"].as_u64().unwrap())
                    .collect();
                assert_eq!(found, lines, "{what}");
                assert!(
                    packet["steps"].as_array().unwrap().iter().all(|step| step["maybe"] == false),
                    "{what}"
                );
            }
            assert_eq!(processes(&path), format!("{}\n", running.pid()), "what is left in the cgroup");
            assert!(!sandbox.nft(&["list", "tables"]).contains("scnpm.trace"), "the table is left");
        }
    });
}

#[test]
fn offered_rule_comes_before_the_one_that_refuses() {
    sandbox::run(|sandbox| {
        let (path, running) = sleeper(sandbox, "a.service");
        let file = load(sandbox, &allows(&path, 7001));
        let arguments = ["--to", "127.0.0.1:7002"];
        // Outside of systemd's slices it is no unit that an annotation could name.
        let packet = &answer(&explain(&file, running.pid(), &arguments).output().unwrap())["packet"];
        for line in packet["would_pass"].as_array().unwrap() {
            let line = line.as_str().unwrap();
            assert!(line.contains("add rule inet filter wl "), "{line}");
            assert!(line.ends_with(" ip daddr 127.0.0.1 tcp dport 7002 accept"), "{line}");
        }
    });
}

#[test]
fn killed_probe_leaves_nothing() {
    sandbox::run(|sandbox| {
        let (path, running) = sleeper(sandbox, "a.service");
        let file = load(sandbox, &allows(&path, 7001));
        for _ in 0..3 {
            let mut command = explain(&file, running.pid(), &["--to", "127.0.0.1:7003"]);
            let mut child = command.stdout(Stdio::null()).spawn().unwrap();
            let table = format!("scnpm.trace.{}", child.id());
            eventually("no table", || sandbox.nft(&["list", "tables"]).contains(&table));
            child.kill().unwrap();
            child.wait().unwrap();
            eventually("the table stays", || !sandbox.nft(&["list", "tables"]).contains("scnpm.trace"));
            eventually("a process stays", || processes(&path) == format!("{}\n", running.pid()));
        }
    });
}

#[test]
fn two_at_once_see_their_own_packets_only() {
    sandbox::run(|sandbox| {
        let (one, first) = sleeper(sandbox, "a.service");
        let (_, second) = sleeper(sandbox, "b.service");
        let file = load(sandbox, &allows(&one, 7001));
        for _ in 0..3 {
            let started = [first.pid(), second.pid()].map(|pid| {
                let mut command = explain(&file, pid, &["--to", "127.0.0.1:7001"]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            });
            let outcomes = started.map(|child| {
                let answer = answer(&child.wait_with_output().unwrap());
                assert_eq!(answer["packet"]["found_by"], "trace", "{answer:#}");
                answer["packet"]["outcome"].clone()
            });
            assert_eq!(outcomes, [json!("passes"), json!("refused")]);
        }
    });
}

#[test]
fn sockets_of_another_cgroup_say_so() {
    sandbox::run(|sandbox| {
        let (path, _) = sandbox.make("a.service");
        let (before, _) = sandbox.make("before.service");
        let file = load(
            sandbox,
            &(allows(&path, 7001) + &allows(&before, 7002).replace("a.service ::", "before.service ::")),
        );
        let opens = "exec 3<>/dev/udp/127.0.0.1/7777";
        let shown = |running: &Running| {
            let output = explain(&file, running.pid(), &[]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let block = answer(&output)["subjects"][0].clone();
            assert_eq!(block["cgroup"]["path"], path.as_str());
            assert_eq!(block["sockets"].as_array().unwrap().len(), 1, "{block:#}");
            block["sockets"][0].clone()
        };

        let own = shell(sandbox, &format!("{}\n{opens}", enter(&path)));
        let socket = shown(&own);
        assert_eq!((&socket["made_elsewhere"], &socket["cgroup"]), (&json!(false), &json!(path.as_str())));
        drop(own);

        let moved = shell(sandbox, &format!("{}\n{opens}\n{}", enter(&before), enter(&path)));
        let socket = shown(&moved);
        assert_eq!((&socket["made_elsewhere"], &socket["cgroup"]), (&json!(true), &json!(before.as_str())));
        assert!(
            socket["words"].as_str().unwrap().contains(&format!("that is matched by {}:2", file.display())),
            "{socket}"
        );
        sandbox.remove(&before);
        let socket = shown(&moved);
        assert_eq!((&socket["made_elsewhere"], &socket["cgroup"]), (&json!(true), &Value::Null));
        assert!(socket["words"].as_str().unwrap().contains("gone"), "{socket}");
        drop(moved);

        let root = format!("echo $$ > {CGROUP_ROOT}/cgroup.procs");
        let socket = shown(&shell(sandbox, &format!("{root}\n{opens}\n{}", enter(&path))));
        assert_eq!((&socket["made_elsewhere"], &socket["cgroup"]), (&json!(true), &json!("/")));
        assert!(!socket["words"].as_str().unwrap().contains("gone"), "{socket}");
    });
}

#[test]
fn elements_and_their_absence_are_told() {
    sandbox::run(|sandbox| {
        let (path, running) = sleeper(sandbox, "a.service");
        let file = load(sandbox, &allows(&path, 7001));
        let elements = || {
            let answer = answer(&explain(&file, running.pid(), &[]).output().unwrap());
            let about = answer["subjects"][0]["annotations"][0].clone();
            assert_eq!(about["matches"], true, "{about:#}");
            about["elements"].clone()
        };
        assert_eq!(elements()[0]["in_kernel"], true);
        let map = ["inet", "filter", "scnpm.wl.1"];
        sandbox.nft(&[&["flush", "map"][..], &map].concat());
        assert_eq!(elements()[0]["in_kernel"], false);
        let element = format!("{{ \"{path}\" : goto scnpm.wl.1.a.service }}");
        sandbox.nft(&[&["add", "element"][..], &map, &[&element]].concat());
        assert_eq!(elements()[0]["in_kernel"], true);
    });
}

#[test]
fn who_may_not_read_the_rules_is_told_so() {
    sandbox::run(|sandbox| {
        let (path, running) = sleeper(sandbox, "a.service");
        let file = load(sandbox, &allows(&path, 7001));
        // Where everybody may read it, and not by ourselves: a test that forks meanwhile would keep it busy.
        let program = sandbox_file(sandbox, "scnpm");
        sandbox::succeed(Command::new("install").args(["-m", "755", common::program()]).arg(&program));
        let mut command = Command::new(&program);
        command.args(["explain", "--json", "--socket", "/nonexistent/control", "--file"]).arg(&file);
        command.args([&format!("pid:{}", running.pid()), "--to", "127.0.0.1:7001"]).uid(65534).gid(65534);
        let output = command.output().unwrap();
        fs::remove_file(&program).unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
        let answer = answer(&output);
        assert_eq!(answer["subjects"][0]["annotations"][0]["matches"], true);
        assert_eq!(answer["subjects"][0]["annotations"][0]["elements"][0]["in_kernel"], Value::Null);
        assert!(answer["packet"].is_null());
        assert!(answer["notes"].to_string().contains("run it as root"), "{}", answer["notes"]);
    });
}
