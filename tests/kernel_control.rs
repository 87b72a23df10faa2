//! The control socket of a real daemon, asked by the commands, by clients of another user and by hostile ones. Needs root.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use common::sandbox::{self, Sandbox};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// Nobody waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);

const NOBODY: u32 = 65534;

const TABLE: &str = "table inet filter {\n    chain out {\n    }\n}\n";

/// A daemon with its files and socket.
struct Daemon<'a> {
    sandbox: &'a Sandbox,
    directory: PathBuf,
    process: Option<Child>,
}

impl<'a> Daemon<'a> {
    /// Starts one with these lines as its policy, and waits until it answers.
    fn start(sandbox: &'a Sandbox, annotations: &[String]) -> Self {
        sandbox.load(TABLE);
        let directory = std::env::temp_dir().join(sandbox.path("control").to_string().replace('/', "-"));
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let mut daemon = Self { sandbox, directory, process: None };
        daemon.write(annotations);
        daemon.begin();
        daemon
    }

    fn begin(&mut self) {
        let process = Command::new(common::program())
            .arg(self.file())
            .args(["--sources", "cgroup", "--cooldown", "0", "--control"])
            .arg(self.socket())
            .stderr(fs::File::create(self.directory.join("log")).unwrap())
            .spawn()
            .unwrap();
        self.process = Some(process);
        eventually("the daemon answers", || UnixStream::connect(self.socket()).is_ok());
    }

    fn file(&self) -> PathBuf {
        self.directory.join("nftables.conf")
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    fn write(&self, annotations: &[String]) {
        fs::write(self.file(), format!("{TABLE}{}\n", annotations.join("\n"))).unwrap();
    }

    /// An annotation for a cgroup of the sandbox.
    fn rule(&self, unit: &str, port: u16) -> String {
        rule(self.sandbox, unit, port)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(common::program());
        command.args(words).arg("--socket").arg(self.socket()).stdin(Stdio::null()).env("NO_COLOR", "1");
        command
    }

    /// The exit status and what is printed to either stream.
    fn ask(&self, words: &[&str]) -> (i32, String) {
        told(&self.command(words).output().unwrap())
    }

    fn status(&self, words: &[&str]) -> Value {
        let output = self.command(&[&["status", "--json"], words].concat()).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap();
        kill(Pid::from_raw(process.id().try_into().unwrap()), signal).unwrap();
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        self.process.take().unwrap().wait().unwrap();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.directory.join("log")).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn rule(sandbox: &Sandbox, unit: &str, port: u16) -> String {
    let path = sandbox.path(unit);
    format!("# {unit} :: add rule inet filter out socket cgroupv2 level 2 \"{path}\" tcp dport {port} accept")
}

fn told(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).expect("text"))
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(10));
    }
}

/// A client that writes calls by hand.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn connect(daemon: &Daemon) -> Self {
        let stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, call: &Value) {
        let mut message = serde_json::to_vec(call).unwrap();
        message.push(0);
        self.0.get_mut().write_all(&message).unwrap();
    }

    /// The next reply, if the connection goes on.
    fn reply(&mut self) -> Option<Value> {
        let mut message = Vec::new();
        match self.0.read_until(0, &mut message) {
            Ok(_) if message.pop() == Some(0) => Some(serde_json::from_slice(&message).unwrap()),
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.send(&json!({ "method": method, "parameters": parameters }));
        self.reply().expect("a reply")
    }
}

#[test]
fn status_tells_what_is_in_force_and_what_is_not() {
    sandbox::run(|sandbox| {
        let rules = [rule(sandbox, "a.service", 25), rule(sandbox, "b.service", 26)];
        let (path, id) = sandbox.make("a.service");
        let daemon = Daemon::start(sandbox, &rules);
        let (code, text) = daemon.ask(&["status"]);
        assert_eq!(code, 0, "{text}");
        assert!(
            text.contains("all is in force") && text.contains("a.service  yes      1        1 of 1"),
            "{text}"
        );
        let status = daemon.status(&["a.service"]);
        assert_eq!(
            status["units"][0]["instances"],
            json!([{ "path": path, "id": id.0, "due": 1, "in_kernel": 1 }])
        );
        assert_eq!(status["files"][0]["changed"], false);
        // Somebody takes away the rule that looks units up, while the daemon cannot hear of it.
        sandbox.nft(&["flush", "chain", "inet", "filter", "out"]);
        eventually("the rule is there again", || daemon.ask(&["status"]).0 == 0);
        let rules = sandbox.nft(&["list", "chain", "inet", "filter", "out"]);
        assert!(rules.contains("vmap @scnpm.out"), "{rules}");
        fs::write(daemon.file(), TABLE).unwrap();
        assert_eq!(daemon.status(&[])["files"][0]["changed"], true);
        let (code, text) = daemon.ask(&["status", "nobody.service"]);
        assert!(code == 1 && text.contains("no annotation applies to `nobody.service`"), "{code} {text}");
    });
}

#[test]
fn what_nft_refuses_is_not_in_force_and_does_not_keep_others_from_it() {
    sandbox::run(|sandbox| {
        let broken = rule(sandbox, "b.service", 26).replace("dport", "dprt");
        sandbox.make("a.service");
        let daemon = Daemon::start(sandbox, &[rule(sandbox, "a.service", 25), broken]);
        let (code, text) = daemon.ask(&["status"]);
        assert!(code == 1 && text.contains("nftables.conf:6: b.service:"), "{code} {text}");
        let (code, text) = daemon.ask(&["status", "a.service"]);
        assert!(code == 0 && text.contains("all of this is in force"), "{code} {text}");
        assert_eq!(daemon.ask(&["wait", "b.service"]).0, 1, "its only rule is refused");
        assert_eq!(daemon.ask(&["wait", "a.service"]).0, 0);
    });
}

#[test]
fn wait_ends_when_the_rules_are_in_the_kernel() {
    sandbox::run(|sandbox| {
        let daemon = Daemon::start(sandbox, &[rule(sandbox, "a.service", 25)]);
        for round in 0..20 {
            let (path, id) = sandbox.make("a.service");
            let (code, text) = daemon.ask(&["wait", "--cgroup", path.as_str()]);
            assert_eq!((code, text.as_str()), (0, ""), "round {round}");
            let elements = sandbox.nft(&["-n", "list", "map", "inet", "filter", "scnpm.out.1"]);
            assert!(elements.contains("a.service\""), "{id:?}: {elements}");
            sandbox.remove(&path);
        }
        let (code, text) = daemon.ask(&["wait", "--cgroup", "/sys/fs/cgroup/nobody/has/that"]);
        assert!(code == 0 && text.contains("no annotation applies to"), "{code} {text}");
        assert_eq!(daemon.ask(&["wait", "--self"]), (0, String::new()));
        let (code, text) = daemon.ask(&["wait", "a.service", "--timeout", "0.2"]);
        assert!(code == 4 && text.contains("after 0.2 s"), "{code} {text}");
        let mut waiting = daemon.command(&["wait", "a.service", "--timeout", "30"]).spawn().unwrap();
        sleep(Duration::from_millis(100));
        assert!(waiting.try_wait().unwrap().is_none(), "there is no cgroup yet");
        sandbox.make("a.service");
        assert!(waiting.wait().unwrap().success());
    });
}

#[test]
fn wait_outlives_the_daemon() {
    sandbox::run(|sandbox| {
        let mut daemon = Daemon::start(sandbox, &[rule(sandbox, "a.service", 25)]);
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let mut waiting = daemon.command(&["wait", "a.service", "--timeout", "30"]).spawn().unwrap();
            sleep(Duration::from_millis(50));
            daemon.end(signal);
            let (path, _) = sandbox.make("a.service");
            daemon.begin();
            assert!(waiting.wait().unwrap().success(), "{signal}");
            sandbox.remove(&path);
        }
        daemon.end(Signal::SIGTERM);
        let (code, text) = daemon.ask(&["wait", "a.service"]);
        assert!(code == 3 && text.contains("start scnpm"), "{code} {text}");
        let (code, text) = daemon.ask(&["wait", "a.service", "--or-continue"]);
        assert!(code == 0 && text.contains("without waiting"), "{code} {text}");
        for words in [&["status"][..], &["reload"]] {
            let (code, text) = daemon.ask(words);
            assert!(code == 3 && text.contains("start scnpm"), "{words:?}: {code} {text}");
        }
    });
}

#[test]
fn a_daemon_that_is_stopped_is_waited_for_and_one_that_stays_so_is_late() {
    sandbox::run(|sandbox| {
        let daemon = Daemon::start(sandbox, &[rule(sandbox, "a.service", 25)]);
        daemon.signal(Signal::SIGSTOP);
        let (path, _) = sandbox.make("a.service");
        let (code, text) = daemon.ask(&["wait", "--cgroup", path.as_str(), "--timeout", "0.3"]);
        assert_eq!(code, 4, "{text}");
        let mut waiting = daemon.command(&["wait", "--cgroup", path.as_str()]).spawn().unwrap();
        sleep(Duration::from_millis(100));
        daemon.signal(Signal::SIGCONT);
        assert!(waiting.wait().unwrap().success());
    });
}

#[test]
fn reload_prints_what_is_found_and_a_broken_file_leaves_the_old_policy() {
    sandbox::run(|sandbox| {
        sandbox.make("a.service");
        let daemon = Daemon::start(sandbox, &[rule(sandbox, "a.service", 25)]);
        daemon.write(&[daemon.rule("a.service", 77)]);
        let (code, text) = daemon.ask(&["reload", "--format", "short"]);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("nftables.conf:5:"), "warnings are printed as check prints them: {text}");
        let ruleset = || sandbox.nft(&["list", "ruleset"]);
        assert!(ruleset().contains("tcp dport 77 accept"), "{}", ruleset());
        daemon.write(&[
            daemon.rule("a.service", 88),
            "# a.service :: add rule inet filter out tcp dprt 1 accept".into(),
        ]);
        let (code, text) = daemon.ask(&["reload"]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("did you mean `dport`") && text.contains("the old policy stays"), "{text}");
        assert!(
            ruleset().contains("tcp dport 77 accept") && !ruleset().contains("dport 88"),
            "{}",
            ruleset()
        );
        let status = daemon.status(&[]);
        assert!(status["load_error"].is_string() && status["in_force"] == false, "{status}");
        daemon.write(&[daemon.rule("a.service", 99)]);
        let output = daemon.command(&["reload", "--format", "json"]).output().unwrap();
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&object["version"], &object["loaded"]), (&json!(1), &json!(true)));
        assert!(ruleset().contains("tcp dport 99 accept"));
        assert_eq!(daemon.ask(&["status"]).0, 0);
    });
}

#[test]
fn a_policy_on_trial_goes_back_unless_it_is_confirmed() {
    sandbox::run(|sandbox| {
        sandbox.make("a.service");
        let daemon = Daemon::start(sandbox, &[rule(sandbox, "a.service", 25)]);
        let has = |port: u16| sandbox.nft(&["list", "ruleset"]).contains(&format!("tcp dport {port} accept"));
        let answered = |answer: &str, limit: &str| {
            let mut process = daemon.command(&["reload", "--try", limit]);
            let mut process =
                process.stdin(Stdio::piped()).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
            eventually("the policy is on trial", || daemon.status(&[])["on_trial_ms"].is_u64());
            process.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
            process.wait().unwrap().code()
        };
        daemon.write(&[daemon.rule("a.service", 77)]);
        assert_eq!(daemon.ask(&["reload", "--try", "0.5"]).0, 1, "nobody answers");
        eventually("the old policy is back", || has(25) && !has(77));
        assert_eq!(daemon.status(&[])["files"][0]["changed"], true);
        assert_eq!(answered("n\n", "600"), Some(1));
        assert!(has(25) && !has(77));
        assert_eq!(answered("y\n", "600"), Some(0));
        assert!(has(77) && !has(25));
        let (code, text) = daemon.ask(&["reload", "--confirm"]);
        assert!(code == 1 && text.contains("nothing is on trial"), "{code} {text}");
        // Somebody whose shell is cut off confirms from another one.
        daemon.write(&[daemon.rule("a.service", 88)]);
        let mut process = daemon.command(&["reload", "--try", "600"]);
        let mut process =
            process.stdin(Stdio::piped()).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        eventually("the policy is on trial", || daemon.status(&[])["on_trial_ms"].is_u64());
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(daemon.ask(&["reload", "--confirm"]).0, 0);
        assert!(has(88) && daemon.status(&[])["on_trial_ms"].is_null());
    });
}

#[test]
fn users_see_what_is_theirs_and_change_nothing() {
    sandbox::run(|sandbox| {
        let annotations = [
            rule(sandbox, "a.service", 25),
            "# 1000:app:secret :: add rule inet filter out tcp dport 26 accept".to_owned(),
            "# 65534:app:own :: add rule inet filter out tcp dport 27 accept".to_owned(),
        ];
        sandbox.make("a.service");
        let daemon = Daemon::start(sandbox, &annotations);
        let as_nobody =
            |words: &[&str]| told(&daemon.command(words).uid(NOBODY).gid(NOBODY).output().unwrap());
        let root = daemon.ask(&["status"]).1;
        assert!(root.contains("app:secret") && root.contains("app:own"), "{root}");
        for words in [&["status"][..], &["status", "--json"]] {
            let (_, text) = as_nobody(words);
            assert!(
                !text.contains("secret") && text.contains("app:own") && text.contains("a.service"),
                "{text}"
            );
        }
        assert_eq!(as_nobody(&["status", "1000:app:secret"]).0, 1);
        let (code, text) = as_nobody(&["reload"]);
        assert!(code == 4 && text.contains("only root"), "{code} {text}");
        assert_eq!(as_nobody(&["reload", "--confirm"]).0, 4);
        assert_eq!(as_nobody(&["wait", "a.service"]), (0, String::new()));
        let (code, text) = as_nobody(&["wait", "--cgroup", "user.slice/user-1000.slice/x.scope"]);
        assert!(code != 0 && text.contains("another user"), "{code} {text}");
    });
}

#[test]
fn watchers_are_told_of_changes() {
    sandbox::run(|sandbox| {
        let daemon = Daemon::start(sandbox, &[rule(sandbox, "a.service", 25)]);
        let mut watcher = Raw::connect(&daemon);
        watcher.send(&json!({ "method": "io.scnpm.GetStatus", "more": true, "parameters": {} }));
        let first = watcher.reply().unwrap();
        assert_eq!(
            (&first["continues"], &first["parameters"]["status"]["in_kernel"]),
            (&json!(true), &json!(0))
        );
        let (path, _) = sandbox.make("a.service");
        while watcher.reply().unwrap()["parameters"]["status"]["in_kernel"] != 1 {}
        sandbox.remove(&path);
        while watcher.reply().unwrap()["parameters"]["status"]["in_kernel"] != 0 {}
    });
}

#[test]
fn watchers_of_different_units_are_told_one_after_the_other_and_of_users_there_are_few() {
    sandbox::run(|sandbox| {
        let units = ["a.service", "b.service"];
        let daemon = Daemon::start(sandbox, &units.map(|unit| rule(sandbox, unit, 25)));
        let watch = |watcher: &mut Raw, unit: &str| {
            let parameters = json!({ "unit": unit });
            watcher.send(&json!({ "method": "io.scnpm.GetStatus", "more": true, "parameters": parameters }));
            watcher.reply().unwrap()
        };
        let mut watchers = units.map(|unit| (unit, Raw::connect(&daemon)));
        watchers.iter_mut().for_each(|(unit, watcher)| drop(watch(watcher, unit)));
        for unit in units {
            sandbox.make(unit);
        }
        for (_, watcher) in &mut watchers {
            while watcher.reply().unwrap()["parameters"]["status"]["in_kernel"] != 1 {}
        }
        let socket = daemon.socket();
        let many = format!(
            "import json, socket\nall = []\nfor n in range(1, 11):\n    s = socket.socket(socket.AF_UNIX)\n    \
             s.connect({socket:?})\n    unit = 'a.service'[:min(n, 9)]\n    s.send(json.dumps({{'method': \
             'io.scnpm.GetStatus', 'more': True, 'parameters': {{'unit': unit}}}}).encode() + b'\\0')\n    \
             print(s.recv(1 << 20)[:29].decode())\n    all.append(s)\n"
        );
        let output = Command::new("python3").args(["-c", &many]).uid(NOBODY).gid(NOBODY).output().unwrap();
        let lines: Vec<&str> = str::from_utf8(&output.stdout).unwrap().lines().collect();
        let refused = lines.iter().filter(|line| line.contains("io.scnpm.TooMuch")).count();
        assert_eq!((lines.len(), refused), (10, 2), "{output:?}");
    });
}

#[test]
fn the_service_says_what_it_is() {
    sandbox::run(|sandbox| {
        let daemon = Daemon::start(sandbox, &[]);
        let mut client = Raw::connect(&daemon);
        let info = client.call("org.varlink.service.GetInfo", &json!({}));
        assert_eq!(info["parameters"]["interfaces"], json!(["org.varlink.service", "io.scnpm"]));
        let about =
            client.call("org.varlink.service.GetInterfaceDescription", &json!({ "interface": "io.scnpm" }));
        let description = about["parameters"]["description"].as_str().unwrap();
        assert_eq!(description, include_str!("../src/control/io.scnpm.varlink"));
        let unknown = client.call("io.scnpm.Fly", &json!({}));
        assert_eq!(unknown["error"], "org.varlink.service.MethodNotFound");
        let wrong = client.call("io.scnpm.Wait", &json!({ "cgruop": "x" }));
        assert_eq!(wrong["error"], "org.varlink.service.InvalidParameter");
    });
}

/// As many descriptors, and kB of memory, as the process has.
fn size_of(daemon: &Daemon) -> (usize, usize) {
    let process = PathBuf::from(format!("/proc/{}", daemon.process.as_ref().unwrap().id()));
    let status = fs::read_to_string(process.join("status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse().unwrap();
    (fs::read_dir(process.join("fd")).unwrap().count(), memory)
}

#[test]
fn hostile_clients_neither_block_nor_grow_the_daemon() {
    sandbox::run(|sandbox| {
        let many: Vec<String> = (0..200).map(|n| rule(sandbox, &format!("n{n}.service"), 1000 + n)).collect();
        let daemon = Daemon::start(sandbox, &many);
        let (descriptors, memory) = size_of(&daemon);
        let status = json!({ "method": "io.scnpm.GetStatus", "more": true, "parameters": {} });
        // Who never reads, who says nothing, who never ends a message, who sends no call.
        let mut watchers: Vec<Raw> = (0..40).map(|_| Raw::connect(&daemon)).collect();
        watchers.iter_mut().for_each(|one| one.send(&status));
        let silent: Vec<Raw> = (0..300).map(|_| Raw::connect(&daemon)).collect();
        let mut endless = Raw::connect(&daemon);
        let _ = endless.0.get_mut().write_all(&vec![b'x'; 4 << 20]);
        let mut wrong = Raw::connect(&daemon);
        let _ = wrong.0.get_mut().write_all(b"no call\0");
        assert!(wrong.reply().is_none() || wrong.reply().is_none(), "the connection ends");
        let mut hasty = Raw::connect(&daemon);
        for _ in 0..2000 {
            let one =
                serde_json::to_vec(&json!({ "method": "io.scnpm.GetStatus", "parameters": {} })).unwrap();
            if hasty.0.get_mut().write_all(&[&one[..], &[0]].concat()).is_err() {
                break;
            }
        }
        for n in 0..200 {
            let (path, _) = sandbox.make(&format!("n{n}.service"));
            if n % 20 == 0 {
                assert_eq!(daemon.ask(&["wait", "--cgroup", path.as_str()]), (0, String::new()));
            }
        }
        drop((silent, hasty, endless));
        eventually("everybody may connect again", || daemon.ask(&["status"]).0 == 0);
        for mut watcher in watchers {
            // The latest state, or that it was dropped.
            while let Some(reply) = watcher.reply() {
                if reply["continues"] != true || reply["parameters"]["status"]["in_kernel"] == 200 {
                    break;
                }
            }
        }
        let (after, grown) = size_of(&daemon);
        assert!(after <= descriptors + 4, "{descriptors} descriptors, then {after}");
        assert!(grown < memory + 24 * 1024, "{memory} kB, then {grown} kB");
        assert_eq!(daemon.status(&[])["in_kernel"], 200);
    });
}

#[test]
fn another_user_s_flood_keeps_root_from_nothing() {
    sandbox::run(|sandbox| {
        let daemon = Daemon::start(sandbox, &[rule(sandbox, "a.service", 25)]);
        let socket = daemon.socket();
        let flood = format!(
            "import socket\nall = []\nfor n in range(1000):\n    s = socket.socket(socket.AF_UNIX)\n    \
             s.connect({socket:?})\n    s.send(b'{{\"method\": \"io.scnpm.GetStatus\", \"parameters\": {{}}}}\\0' * 50)\n    \
             all.append(s)\nprint('connected', flush=True)\ninput()\n"
        );
        let mut process = Command::new("python3");
        process.args(["-c", &flood]).uid(NOBODY).gid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = process.stderr(Stdio::null()).spawn().unwrap();
        let mut line = [0; 4];
        let _ = process.stdout.as_mut().unwrap().read(&mut line);
        for _ in 0..20 {
            let (path, _) = sandbox.make("a.service");
            assert_eq!(daemon.ask(&["wait", "--cgroup", path.as_str()]), (0, String::new()));
            assert_eq!(daemon.ask(&["status"]).0, 0);
            sandbox.remove(&path);
        }
        process.kill().unwrap();
        process.wait().unwrap();
        eventually("the daemon has closed what was left", || size_of(&daemon).0 < 64);
    });
}

#[test]
fn who_has_no_room_is_told_so_and_waits_for_it() {
    sandbox::run(|sandbox| {
        let daemon = Daemon::start(sandbox, &[rule(sandbox, "a.service", 25)]);
        let (path, _) = sandbox.make("a.service");
        let mut silent: Vec<Raw> = (0..500).map(|_| Raw::connect(&daemon)).collect();
        eventually("there is no room", || daemon.ask(&["status"]).0 == 3);
        let (_, text) = daemon.ask(&["status"]);
        assert!(text.contains("too many connections"), "{text}");
        let waiting = daemon.command(&["wait", "--cgroup", path.as_str(), "--timeout", "30"]).spawn();
        assert!(silent.pop().unwrap().reply().is_some_and(|reply| reply["error"] == "io.scnpm.TooMuch"));
        drop(silent);
        assert!(waiting.unwrap().wait().unwrap().success());
    });
}
