//! `scnpm top` in a terminal, with a real daemon. Needs root.

// Without the feature there is little to test.
#![cfg_attr(not(feature = "top"), allow(dead_code, unused_imports))]

mod common;

use std::{
    fs::{self, File},
    io::{Read, Write},
    num::NonZero,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use common::sandbox::{self, Sandbox};
use nix::{
    pty::openpty,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use scnpm::model::CgroupPath;

/// Nobody waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon with its files and socket, and a slice for units.
struct Daemon {
    directory: PathBuf,
    slice: CgroupPath,
    process: Option<Child>,
}

impl Daemon {
    /// Starts one that counts packets of a.service, and has an annotation for b.service.
    fn start(sandbox: &Sandbox) -> Self {
        Self::start_with(sandbox, "table inet filter {\n    chain out {\n    }\n}\n")
    }

    /// The same with another table around the chain `out`.
    fn start_with(sandbox: &Sandbox, table: &str) -> Self {
        sandbox.load(table);
        let directory = std::env::temp_dir().join(sandbox.path("top").to_string().replace('/', "-"));
        fs::create_dir_all(&directory).unwrap();
        // Directly below the root, as systemd has them.
        let slice: CgroupPath =
            format!("{}.slice", sandbox.path("x").to_string().replace(['-', '/'], "")).parse().unwrap();
        fs::create_dir(slice.directory()).unwrap();
        let rule = |unit: &str| {
            let path = slice.child(unit);
            format!(
                "# {unit} :: add rule inet filter out socket cgroupv2 level 2 \"{path}\" tcp dport 25 accept\n"
            )
        };
        let text = format!("{table}# scnpm: count\n{}{}", rule("a.service"), rule("b.service"));
        fs::write(directory.join("nftables.conf"), text).unwrap();
        let mut daemon = Self { directory, slice, process: None };
        daemon.begin();
        daemon
    }

    fn begin(&mut self) {
        let process = Command::new(common::program())
            .arg(self.directory.join("nftables.conf"))
            .args(["--sources", "cgroup", "--cooldown", "0", "--control"])
            .arg(self.socket())
            .stderr(File::create(self.directory.join("log")).unwrap())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(begun.elapsed() < PATIENCE, "the daemon does not answer");
            sleep(Duration::from_millis(20));
        }
    }

    /// Makes the cgroup of a unit.
    fn unit(&self, name: &str) -> CgroupPath {
        let path = self.slice.child(name);
        fs::create_dir(path.directory()).unwrap();
        path
    }

    fn reload(&self) {
        let mut command = Command::new(common::program());
        sandbox::succeed(command.args(["reload", "--format", "short", "--socket"]).arg(self.socket()));
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    fn end(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let _ = kill(pid(&process), Signal::SIGTERM);
        let _ = process.wait();
    }

    /// `scnpm top` as a shell would read it.
    fn command(&self) -> String {
        format!("{} top --delay 0.2 --socket {}", common::program(), self.socket().display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        // Whatever a test has left there.
        let _ = fs::write(self.slice.directory().join("cgroup.kill"), "1");
        if thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.directory.join("log")).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.directory);
        let begun = Instant::now();
        while self.slice.directory().exists() && begun.elapsed() < PATIENCE {
            sandbox::remove_tree(&self.slice.directory());
            sleep(Duration::from_millis(20));
        }
    }
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(process.id().try_into().unwrap())
}

/// A terminal, and a program in it.
struct Terminal {
    keyboard: File,
    /// The end that programs have.
    inner: OwnedFd,
    parser: Arc<Mutex<vt100::Parser>>,
    process: Child,
    /// How it was set up before (stty(1)).
    before: String,
}

impl Terminal {
    /// Runs a program as the leader of a session in a terminal of so many columns and lines.
    fn run(words: &str, columns: u16, lines: u16) -> Self {
        let ends = openpty(None, None).unwrap();
        let parser = Arc::new(Mutex::new(vt100::Parser::new(some(lines), some(columns), 0)));
        let keyboard = File::from(ends.master);
        let (mut screen, parsed) = (keyboard.try_clone().unwrap(), Arc::clone(&parser));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                parsed.lock().unwrap().process(&bytes[..length]);
            }
        });
        set_size(&ends.slave, columns, lines);
        let before = stty(&ends.slave, &["-g"]);
        let inner = || Stdio::from(ends.slave.try_clone().unwrap());
        // What runs the tests may ignore some signals.
        let process = Command::new("env")
            .args(["--default-signal", "setsid", "--ctty"])
            .args(words.split(' '))
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(inner())
            .stdout(inner())
            .stderr(inner())
            .spawn()
            .unwrap();
        Self { keyboard, inner: ends.slave, parser, process, before }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&self, columns: u16, lines: u16) {
        self.parser.lock().unwrap().screen_mut().set_size(some(lines), some(columns));
        set_size(&self.inner, columns, lines);
    }

    fn text(&self) -> String {
        self.parser.lock().unwrap().screen().contents()
    }

    fn is_taken(&self) -> bool {
        self.parser.lock().unwrap().screen().alternate_screen()
    }

    /// Waits until the screen is as is wanted.
    fn shows(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.text()) {
            assert!(begun.elapsed() < PATIENCE, "{what}:\n{}", self.text());
            sleep(Duration::from_millis(20));
        }
    }

    fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.text());
            sleep(Duration::from_millis(20));
        }
    }

    /// That nothing of it is left behind.
    fn is_as_before(&self) {
        // What it wrote may still be on its way.
        let begun = Instant::now();
        while self.is_taken() && begun.elapsed() < PATIENCE {
            sleep(Duration::from_millis(20));
        }
        assert_eq!(stty(&self.inner, &["-g"]), self.before);
        let parser = self.parser.lock().unwrap();
        assert!(!parser.screen().alternate_screen() && !parser.screen().hide_cursor());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn some(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap()
}

fn stty(terminal: &OwnedFd, words: &[&str]) -> String {
    sandbox::succeed(Command::new("stty").args(words).stdin(terminal.try_clone().unwrap()))
}

fn set_size(terminal: &OwnedFd, columns: u16, lines: u16) {
    stty(terminal, &["cols", &columns.to_string(), "rows", &lines.to_string()]);
}

/// The line that begins with this.
fn line<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.lines().find(|line| line.starts_with(start))
}

fn told(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

#[test]
#[cfg(not(feature = "top"))]
fn without_the_feature_it_says_so() {
    let output = Command::new(common::program()).arg("top").output().unwrap();
    let (code, text) = told(&output);
    assert_eq!(code, 1);
    assert!(text.contains("built without") && text.contains("scnpm status --watch"), "{text}");
}

#[test]
#[cfg(feature = "top")]
fn without_a_terminal_or_a_daemon_it_says_so() {
    let ask = |command: &mut Command| told(&command.stdin(Stdio::null()).output().unwrap());
    let (code, text) = ask(Command::new(common::program()).arg("top"));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("needs a terminal"), "{text}");
    for wrong in [&["--delay", "0"][..], &["--delay", "x"], &["--dely", "1"], &["a", "b"]] {
        let (code, text) = ask(Command::new(common::program()).arg("top").args(wrong));
        assert_eq!(code, 2, "{text}");
    }
    let nobody = format!("{} top --socket /nowhere", common::program());
    let mut terminal = Terminal::run(&nobody, 100, 24);
    assert_eq!(terminal.ended().code(), Some(3));
    terminal.shows("no daemon", |text| text.contains("/nowhere"));
    terminal.is_as_before();
    let mut terminal = Terminal::run(&format!("env TERM=dumb {nobody}"), 100, 24);
    assert_eq!(terminal.ended().code(), Some(2));
    terminal.is_as_before();
}

#[test]
#[cfg(feature = "top")]
fn units_are_shown_sorted_filtered_and_explained() {
    sandbox::run(|sandbox| {
        let daemon = Daemon::start(sandbox);
        let mut terminal = Terminal::run(&daemon.command(), 80, 24);
        terminal.shows("all units", |text| {
            line(text, "a.service").is_some() && line(text, "b.service").is_some()
        });
        terminal.shows("what is in force", |text| text.contains("all is in force"));
        terminal.shows("that nothing is recorded", |text| text.contains("nothing is recorded"));
        assert!(terminal.is_taken());
        let is_idle = |text: &str| line(text, "a.service").is_some_and(|line| line.contains(" - "));
        terminal.shows("a unit that is idle", is_idle);

        // A unit starts, listens, and stops.
        let path = daemon.unit("a.service");
        terminal.shows("a unit that runs", |text| {
            line(text, "a.service").is_some_and(|one| one.contains("running"))
        });
        let listen = "import socket; s = socket.create_server(('127.0.0.1', 2525)); c = socket.create_connection(('127.0.0.1', 2525)); input()";
        let script =
            format!("echo 0 > {}/cgroup.procs && exec python3 -c \"{listen}\"", path.directory().display());
        let mut unit = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        terminal.shows("both ends of its connection", |text| {
            line(text, "a.service").is_some_and(|one| one.split_whitespace().nth(2) == Some("2"))
        });
        terminal.press("/b.serv");
        terminal.shows("only what matches", |text| {
            line(text, "b.service").is_some() && line(text, "a.service").is_none()
        });
        terminal.press("\r");
        terminal.shows("the filter", |text| text.contains("filter: b.serv"));
        terminal.press("\x1b");
        terminal.shows("all again", |text| line(text, "a.service").is_some());
        terminal.press("s");
        terminal.shows("the next column", |text| text.contains("BYTES*"));
        terminal.press("<r");
        terminal.shows("the other way round", |text| text.contains("BYTES/S^"));

        terminal.resize(200, 50);
        terminal.shows("more columns and lines", |text| {
            text.contains("CGROUPS") && text.contains("IN KERNEL") && text.lines().count() == 50
        });
        terminal.resize(40, 10);
        terminal.shows("too small a screen", |text| text.contains("too small"));
        terminal.resize(80, 24);
        terminal.shows("the old size", |text| line(text, "a.service").is_some() && !text.contains("CGROUPS"));

        terminal.press("?");
        terminal.shows("help", |text| text.contains("Ctrl-L"));
        terminal.press("q\x1b[H\r");
        // And no longer the help, which has the same words.
        terminal.shows("what explain says", |text| {
            text.contains("scnpm explain") && text.contains("q back") && !text.contains("Ctrl-L")
        });
        terminal.press("q");
        terminal.shows("the lists", |text| text.contains("REFUSED"));
        terminal.press("q");
        assert_eq!(terminal.ended().code(), Some(0));
        terminal.is_as_before();
        drop(unit.stdin.take());
        unit.wait().unwrap();
    });
}

#[test]
#[cfg(feature = "top")]
fn refusal_is_allowed_for_a_while() {
    let table = "\
table inet filter {
    chain out {
    }
    chain refused {
    }
    # scnpm: record refusals in inet filter refused
    chain output {
        type filter hook output priority filter
        jump out
        meta l4proto udp jump refused
        meta l4proto udp reject
    }
}
";
    sandbox::run(|sandbox| {
        let daemon = Daemon::start_with(sandbox, table);
        let path = daemon.unit("a.service");
        let send = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('127.0.0.1', 999)); s.send(b'x')";
        let is_sent = || {
            let script =
                format!("echo 0 > {}/cgroup.procs && exec python3 -c \"{send}\"", path.directory().display());
            Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().unwrap().success()
        };
        let mut terminal = Terminal::run(&daemon.command(), 120, 24);
        terminal.shows("no refusal", |text| text.contains("Nothing was refused"));
        assert!(!is_sent());
        let is_refused =
            |text: &str| text.lines().any(|line| line.contains("a.service") && line.contains("127.0.0.1"));
        terminal.shows("the refusal", is_refused);
        terminal.press("\tc");
        terminal
            .shows("the annotation", |text| text.contains("udp dport 999 accept") && text.contains("q back"));
        terminal.press("qe");
        terminal.shows("why", |text| text.contains("scnpm explain --to 127.0.0.1:999"));
        terminal.press("qan");
        assert!(!is_sent(), "no is no");
        terminal.press("a");
        terminal.shows("the question", |text| text.contains("for 5 minutes? [y/N]"));
        terminal.press("y");
        terminal.shows("what is allowed", |text| text.contains("ALLOWED FOR A WHILE (1)"));
        assert!(is_sent());
        terminal.press("\x1b[Z");
        terminal.shows("the keys for it", |text| text.contains("u end it"));
        terminal.press("u");
        terminal.shows("that it is over", |text| !text.contains("ALLOWED FOR A WHILE"));
        assert!(!is_sent());

        // The files record no longer, and do again.
        let file = daemon.directory.join("nftables.conf");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("# scnpm: record", "# no record")).unwrap();
        daemon.reload();
        terminal.shows("that nothing is recorded", |text| text.contains("nothing is recorded"));
        fs::write(&file, text).unwrap();
        daemon.reload();
        assert!(!is_sent());
        terminal.shows("the refusal again", is_refused);
        terminal.press("q");
        assert_eq!(terminal.ended().code(), Some(0));
        terminal.is_as_before();
    });
}

#[test]
#[cfg(feature = "top")]
fn daemon_may_go_and_come_back() {
    sandbox::run(|sandbox| {
        let mut daemon = Daemon::start(sandbox);
        let mut terminal = Terminal::run(&daemon.command(), 80, 24);
        terminal.shows("all is in force", |text| text.contains("all is in force"));
        daemon.end();
        terminal.shows("that nobody answers", |text| {
            text.contains("does not answer") && text.contains("a.service")
        });
        daemon.begin();
        terminal.shows("that it is back", |text| text.contains("all is in force"));
        daemon.unit("b.service");
        terminal
            .shows("what is new", |text| line(text, "b.service").is_some_and(|one| one.contains("running")));
        terminal.press("\x03");
        assert_eq!(terminal.ended().code(), Some(0));
        terminal.is_as_before();
    });
}

#[test]
#[cfg(feature = "top")]
fn terminal_is_given_back_however_it_ends() {
    sandbox::run(|sandbox| {
        let daemon = Daemon::start(sandbox);
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            let mut terminal = Terminal::run(&daemon.command(), 80, 24);
            terminal.shows("a unit", |text| text.contains("a.service"));
            kill(pid(&terminal.process), signal).unwrap();
            assert_eq!(terminal.ended().signal(), Some(signal as i32), "{signal}");
            terminal.is_as_before();
        }
    });
}

#[test]
#[cfg(feature = "top")]
fn it_stops_and_goes_on_as_a_job() {
    sandbox::run(|sandbox| {
        let daemon = Daemon::start(sandbox);
        let mut terminal = Terminal::run("bash --norc --noprofile -i", 80, 24);
        terminal.shows("a prompt", |text| text.contains('$') || text.contains('#'));
        terminal.press(&format!("{}\n", daemon.command()));
        terminal.shows("a unit", |text| text.contains("a.service") && text.contains("UNIT"));
        assert!(terminal.is_taken());
        for round in 0..2 {
            terminal.press("\x1a");
            terminal.shows("the shell", |text| text.contains("Stopped"));
            assert!(!terminal.is_taken());
            terminal.press("clear; fg\n");
            terminal.shows("a unit", |text| text.contains("a.service") && text.contains("UNIT"));
            assert!(terminal.is_taken(), "{round}");
        }
        terminal.press("q");
        terminal.shows("the shell", |text| !text.contains("UNIT"));
        terminal.press("echo status=$?\n");
        terminal.shows("how it ended", |text| text.contains("status=0"));
        terminal.press("exit\n");
        terminal.ended();

        // Where nobody could have it go on, it is not stopped.
        let mut terminal = Terminal::run(&daemon.command(), 80, 24);
        terminal.shows("a unit", |text| text.contains("a.service"));
        terminal.press("\x1a/b.serv");
        terminal
            .shows("what matches", |text| text.contains("b.service") && line(text, "a.service").is_none());
        terminal.press("\rq");
        assert_eq!(terminal.ended().code(), Some(0));
        terminal.is_as_before();
    });
}
