//! `scnpm units` on the running kernel, as a user runs it: on a hierarchy of the test's own, and without rights.

mod common;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Command, Output},
};

use common::sandbox::{self, Sandbox, succeed};
use serde_json::{Value, json};

/// A user who exists everywhere, and one who exists nowhere.
const NOBODY: &str = "user.slice/user-65534.slice/user@65534.service/app.slice";
const NAMELESS: &str = "user.slice/user-2147480000.slice/user@2147480000.service/app.slice";

const FILE: &str = "\
table inet filter { chain out { } }
# postfix.service :: add rule inet filter out socket cgroupv2 level 2 \"system.slice/postfix.service\" accept
# system.slice :: add rule inet filter out socket cgroupv2 level 1 \"system.slice\" drop
# broken.service :: add rule inet filter out socket cgroupv2 level 2 accept
";

/// A sandbox's cgroup, which the program sees as the root of the hierarchy, and a directory that everybody may read.
struct Machine<'a> {
    sandbox: &'a Sandbox,
    directory: PathBuf,
}

impl<'a> Machine<'a> {
    fn new(sandbox: &'a Sandbox, cgroups: &[&str]) -> Self {
        for name in cgroups {
            fs::create_dir_all(sandbox.directory().join(name)).unwrap();
        }
        let top = sandbox.directory();
        let name = top.file_name().unwrap().to_str().unwrap();
        let directory = std::env::temp_dir().join(format!("units-{name}"));
        succeed(Command::new("install").args(["-d", "-m", "755"]).arg(&directory));
        // Not by ourselves: a test that forks meanwhile would keep it busy.
        succeed(Command::new("install").args(["-m", "755", common::program()]).arg(directory.join("scnpm")));
        Self { sandbox, directory }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        succeed(Command::new("chmod").arg("644").arg(&path));
        path.display().to_string()
    }

    /// Runs it as root.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(&[], arguments)
    }

    /// Runs it as somebody who may do nothing.
    fn run_as_nobody(&self, arguments: &[&str]) -> Output {
        let somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];
        self.command(&somebody, arguments)
    }

    fn command(&self, prefix: &[&str], arguments: &[&str]) -> Output {
        const MOUNT: &str = r#"mount --bind "$1" /sys/fs/cgroup && shift && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", MOUNT, "sh"]).arg(self.sandbox.directory());
        command.args(prefix).arg(self.directory.join("scnpm")).arg("units").args(arguments);
        // The machine's own nftables.conf is no concern of the test's.
        if !arguments.contains(&"--file") {
            command.args(["--file", "/dev/null"]);
        }
        command.output().unwrap()
    }

    fn id(&self, name: &str) -> u64 {
        fs::metadata(self.sandbox.directory().join(name)).unwrap().ino()
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output).lines().map(str::to_owned).collect()
}

#[test]
fn units_of_all_managers_are_listed_with_their_annotations() {
    sandbox::run(|sandbox| {
        let (firefox, x) = (format!("{NOBODY}/app-gnome-firefox-1.scope"), format!("{NAMELESS}/x.service"));
        let machine = Machine::new(
            sandbox,
            &["system.slice/postfix.service/inner.service", "init.scope", &firefox, &x],
        );
        let file = machine.write("nftables.conf", FILE);
        let output = machine.run(&["--file", &file]);
        let found: Vec<Vec<String>> = lines(&output)
            .iter()
            .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        assert_eq!(found[0], ["UNIT", "MANAGER", "LEVEL", "PATH", "ID", "ANNOTATIONS"]);
        let expected = |unit: &str, manager: &str, path: &str, annotations: &str| {
            let level = path.split('/').count().to_string();
            vec![
                unit.to_owned(),
                manager.to_owned(),
                level,
                path.to_owned(),
                machine.id(path).to_string(),
                annotations.to_owned(),
            ]
        };
        let units: Vec<&str> = found[1..].iter().map(|cells| cells[0].as_str()).collect();
        assert_eq!(
            units,
            [
                "init.scope",
                "system.slice",
                "postfix.service",
                "user.slice",
                "user-2147480000.slice",
                "user@2147480000.service",
                "user-65534.slice",
                "user@65534.service",
                "app.slice",
                "app-gnome-firefox-1.scope",
                "app.slice",
                "x.service",
            ]
        );
        for row in [
            expected("init.scope", "system", "init.scope", "-"),
            expected("system.slice", "system", "system.slice", "nftables.conf:3"),
            expected(
                "postfix.service",
                "system",
                "system.slice/postfix.service",
                "nftables.conf:2,nftables.conf:3",
            ),
            expected("app-gnome-firefox-1.scope", "nobody", &firefox, "-"),
            expected("x.service", "2147480000", &x, "-"),
        ] {
            assert!(found.contains(&row), "{row:?} in {found:?}");
        }
        // The diagnostic in the file is not this command's business.
        assert_eq!(stderr(&output), "");
        assert_eq!(stdout(&machine.run_as_nobody(&["--file", &file])), stdout(&output));
    });
}

#[test]
fn object_holds_hostile_names_as_they_are_and_the_table_does_not() {
    sandbox::run(|sandbox| {
        let hostile = format!("{NOBODY}/a\"\u{1b}[2J ä\u{202e}.service");
        let machine = Machine::new(sandbox, &[&hostile, &format!("{NOBODY}/app-b;c.slice/d.service")]);
        let name = hostile.rsplit('/').next().unwrap();
        for output in [machine.run(&["--json", "2J"]), machine.run_as_nobody(&["--json", "2J"])] {
            assert!(output.status.success(), "{}", stderr(&output));
            let object: Value = serde_json::from_slice(&output.stdout).unwrap();
            let unit = json!({
                "unit": name, "manager": "user", "uid": 65534, "user": "nobody", "application": null,
                "level": 5, "path": hostile, "id": machine.id(&hostile), "annotations": [],
            });
            assert_eq!(object, json!({ "version": 1, "units": [unit] }));
        }
        let table = stdout(&machine.run(&[]));
        assert!(table.chars().all(|c| c == '\n' || c == '\u{fffd}' || (' '..='~').contains(&c)), "{table}");
        assert!(
            table.contains("\na\u{fffd}\u{fffd}\u{fffd}2J\u{fffd}\u{fffd}\u{fffd}.service   nobody"),
            "{table}"
        );
        assert!(!table.contains('"') && !table.contains(';'), "{table}");
        let output = machine.run(&["--annotate", "--explicit", "app.slice/"]);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
        // One for each of these services, one for the slice.
        assert_eq!(stderr(&output).matches("none is offered").count(), 3, "{}", stderr(&output));
    });
}

#[test]
fn annotation_is_offered_for_what_is_meant() {
    sandbox::run(|sandbox| {
        let below = |name: &str| format!("{NOBODY}/{name}");
        let cgroups =
            ["app-gnome-firefox-1.scope", "app-gnome-firefox-2.scope", "app-gnome-mail-1.scope"].map(below);
        let mut cgroups: Vec<&str> = cgroups.iter().map(String::as_str).collect();
        cgroups.push("system.slice/postfix.service");
        let machine = Machine::new(sandbox, &cgroups);
        let output = machine.run_as_nobody(&["--annotate", "firefox"]);
        let line = |chain| format!("# nobody:app:firefox :: add rule {chain} socket cgroupv2 unit accept");
        assert_eq!(lines(&output), [line("inet filter CHAIN")]);
        assert!(stderr(&output).contains("for CHAIN"), "{}", stderr(&output));
        let file = machine.write("nftables.conf", FILE);
        let output = machine.run_as_nobody(&["--annotate", "nobody:app:firefox", "--file", &file]);
        assert_eq!(lines(&output), [line("inet filter out")]);
        assert_eq!(stderr(&output), "");
        let output = machine.run(&["--annotate", "firefox", "--file", &file, "--chain", "ip f x"]);
        assert_eq!(lines(&output), [line("ip f x")]);
        assert_eq!(
            lines(&machine.run(&["--annotate", "--explicit", "system:postfix.service", "--file", &file])),
            [
                "# system:postfix.service :: add rule inet filter out socket cgroupv2 unit accept",
                "# postfix.service :: add rule inet filter out socket cgroupv2 level 2 \
                 \"system.slice/postfix.service\" accept",
            ]
        );
    });
}

#[test]
fn what_fails_says_what_to_do() {
    sandbox::run(|sandbox| {
        let machine = Machine::new(sandbox, &["system.slice"]);
        for arguments in [&["chromium"][..], &["--annotate", "chromium"], &["--json", "chromium"]] {
            let output = machine.run(arguments);
            assert_eq!(output.status.code(), Some(1));
            assert!(
                stderr(&output).contains("no unit that has a cgroup matches `chromium`"),
                "{}",
                stderr(&output)
            );
            assert_eq!(stderr(&output).lines().count(), 1);
        }
        let output = machine.run(&["--file", "/nowhere"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("/nowhere: No such file"), "{}", stderr(&output));
        assert_eq!(machine.run(&["--explicit"]).status.code(), Some(2));
        let umount = ["sh", "-c", r#"mount -t tmpfs none /sys/fs/cgroup && exec "$@""#, "sh"];
        let output = machine.command(&umount, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("cgroup v2 is not mounted at /sys/fs/cgroup: boot with"));
    });
}
