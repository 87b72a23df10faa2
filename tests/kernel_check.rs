//! On the real kernel: `scnpm check` as a user runs it. Files of many styles are found right; of wrong ones every word
//! that is printed is kept beside them (`SCNPM_BLESS=1` writes it; review it with git diff).

mod common;

use std::{
    fmt::Write,
    fs,
    io::Write as _,
    net::UdpSocket,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use common::sandbox::{self, succeed};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

/// A command in the directory of a case, with the units of tests/check/root and without colours.
fn check(directory: &Path) -> Command {
    let root = fs::canonicalize("tests/check/root").unwrap();
    let mut command = Command::new(common::program());
    command.current_dir(directory).env("NO_COLOR", "1").arg("check").arg("--root").arg(root);
    if let Ok(arguments) = fs::read_to_string(directory.join("arguments")) {
        command.args(arguments.split_whitespace());
    }
    let files = ["nftables.conf", "second.conf"].into_iter().filter(|name| directory.join(name).exists());
    command.args(files);
    command
}

fn cases(kind: &str) -> Vec<PathBuf> {
    let top = Path::new("tests/check").join(kind);
    let mut cases: Vec<PathBuf> = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn printed(output: &Output) -> String {
    let mut text = String::from_utf8(output.stdout.clone()).unwrap();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    writeln!(text, "exit status {}", output.status.code().unwrap()).unwrap();
    text
}

#[test]
fn right_files_of_many_styles_are_found_right() {
    let cases = cases("clean");
    assert!(cases.len() >= 20, "only {} cases", cases.len());
    let mut wrong = String::new();
    for case in cases {
        let output = check(&case).args(["--deny", "warnings", "--format", "short"]).output().unwrap();
        if !output.status.success() || !output.stdout.is_empty() || !output.stderr.is_empty() {
            writeln!(wrong, "{}:\n{}", case.display(), printed(&output)).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn wrong_files_are_told_about_word_for_word() {
    sandbox::run(|_| {
        // What is said of host names is the same on all machines then.
        let scratch = Scratch::new("words");
        scratch.write_over("/etc/hosts", "127.0.0.1 localhost\n");
        scratch.write_over("/etc/nsswitch.conf", "hosts: files\n");
        let cases = cases("broken");
        assert!(cases.len() >= 100, "only {} cases", cases.len());
        let nft = nft_version();
        let mut wrong = String::new();
        for case in cases {
            let found = without_lists(&printed(&check(&case).output().unwrap()));
            if let Err(expected) = same(&case, &found, &nft) {
                writeln!(wrong, "{}: expected\n{expected}\nbut found\n{found}", case.display()).unwrap();
            }
        }
        assert!(wrong.is_empty(), "{wrong}");
    });
}

#[test]
fn each_fix_is_good_by_itself_and_all_of_them_together() {
    sandbox::run(|_| {
        let scratch = Scratch::new("fixes");
        scratch.write_over("/etc/hosts", "127.0.0.1 localhost\n");
        scratch.write_over("/etc/nsswitch.conf", "hosts: files\n");
        let mut fixes = 0;
        for case in cases("broken") {
            let copy = scratch.0.join(case.file_name().unwrap());
            succeed(Command::new("cp").arg("-r").arg(&case).arg(&copy));
            let found = findings(&copy);
            for (number, fix) in found.iter().enumerate().filter(|(_, finding)| !finding["fix"].is_null()) {
                let file = copy.join(fix["fix"]["file"].as_str().unwrap());
                let before = fs::read_to_string(&file).unwrap();
                fs::write(&file, fixed(&before, &fix["fix"])).unwrap();
                let mut may_stay: Vec<_> =
                    found.iter().map(|known| place_behind(known, &fix["fix"])).collect();
                may_stay.remove(number);
                for finding in findings(&copy) {
                    let known = may_stay.iter().position(|known| *known == owned(place(&finding)));
                    let known = known.unwrap_or_else(|| panic!("{}: {fix} brings {finding}", case.display()));
                    may_stay.swap_remove(known);
                }
                fs::write(&file, before).unwrap();
                fixes += 1;
            }
            if found.iter().all(|finding| finding["fix"].is_null()) {
                continue;
            }
            let is_offered = |finding: &&Value| !finding["fix"].is_null();
            let diff = stdout(&check(&copy).arg("--fix").output().unwrap());
            assert_eq!(findings(&copy), found, "{}: --fix has changed it", case.display());
            let output = check(&copy).args(["--fix", "--write"]).output().unwrap();
            let left = findings(&copy);
            let offered: Vec<_> = found.iter().filter(is_offered).map(place).collect();
            let stays = left.iter().find(|one| is_offered(one) || offered.contains(&place(one)));
            assert_eq!(stays, None, "{}: {}", case.display(), printed(&output));
            let again = check(&copy).arg("--fix").output().unwrap();
            assert!(
                !diff.is_empty() && again.stdout.is_empty(),
                "{}: {diff}{}",
                case.display(),
                printed(&again)
            );
            assert_eq!(output.status, again.status, "{}", case.display());
        }
        assert!(fixes > 40, "only {fixes} fixes");
    });
}

/// What `scnpm check --json` finds in a case.
fn findings(case: &Path) -> Vec<Value> {
    let output = check(case).arg("--json").output().unwrap();
    let object: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)));
    object["findings"].as_array().unwrap().clone()
}

fn place(finding: &Value) -> [&Value; 3] {
    ["file", "line", "code"].map(|field| &finding[field])
}

fn owned(place: [&Value; 3]) -> [Value; 3] {
    place.map(Value::clone)
}

/// Where a finding is once a fix, which may have lines of its own, is applied.
fn place_behind(finding: &Value, fix: &Value) -> [Value; 3] {
    let [file, line, code] = owned(place(finding));
    let number = |value: &Value| value.as_u64().unwrap();
    let lines = fix["text"].as_str().unwrap().matches('\n').count() as u64;
    let is_behind = file == fix["file"] && number(&line) >= number(&fix["end_line"]);
    let line = match is_behind {
        true => Value::from(number(&line) + number(&fix["line"]) + lines - number(&fix["end_line"])),
        false => line,
    };
    [file, line, code]
}

fn fixed(text: &str, fix: &Value) -> String {
    // Places are counted without a byte order mark.
    let (mark, text) = text.split_at(text.len() - text.trim_start_matches('\u{feff}').len());
    let place = |line: &str, column: &str| {
        let [line, column] =
            [line, column].map(|field| usize::try_from(fix[field].as_u64().unwrap()).unwrap());
        let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let column: usize = text[start..].chars().take(column - 1).map(char::len_utf8).sum();
        start + column
    };
    let (start, end) = (place("line", "column"), place("end_line", "end_column"));
    format!("{mark}{}{}{}", &text[..start], fix["text"].as_str().unwrap(), &text[end..])
}

#[test]
fn fixes_are_written_into_the_file_and_what_it_was_is_kept() {
    let scratch = Scratch::new("write");
    let wrong = format!("\u{feff}{BASE}{ODD}");
    let file = scratch.write("real.conf", &wrong);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&file, Some(1), Some(2)).unwrap();
    symlink("real.conf", scratch.0.join("nftables.conf")).unwrap();
    scratch.write("real.conf~", "something else");
    let fix = |arguments: &[&str]| {
        let mut command = Command::new(common::program());
        command.current_dir(&scratch.0).args(["check", "--fix"]).args(arguments).output().unwrap()
    };
    let right = wrong.replace("level 1", "level 2");
    let diff = stdout(&fix(&["nftables.conf"]));
    let lines: Vec<&str> = diff.lines().filter(|line| line.starts_with(['+', '-'])).collect();
    let changed =
        [format!("-{}", ODD.trim_end()), format!("+{}", ODD.trim_end().replace("level 1", "level 2"))];
    assert_eq!(lines, ["--- nftables.conf", "+++ nftables.conf", &changed[0], &changed[1]], "{diff}");
    assert_eq!(fs::read_to_string(&file).unwrap(), wrong);

    let output = fix(&["--write", "nftables.conf"]);
    assert!(printed(&output).contains("real.conf.~1~"), "{}", printed(&output));
    assert_eq!(fs::read_to_string(&file).unwrap(), right);
    assert!(fs::symlink_metadata(scratch.0.join("nftables.conf")).unwrap().is_symlink());
    for (name, text) in [("real.conf", &*right), ("real.conf.~1~", &*wrong), ("real.conf~", "something else")]
    {
        assert_eq!(fs::read_to_string(scratch.0.join(name)).unwrap(), text, "{name}");
    }
    for name in ["real.conf", "real.conf.~1~"] {
        let data = fs::metadata(scratch.0.join(name)).unwrap();
        assert_eq!((data.mode() & 0o7777, data.uid(), data.gid()), (0o640, 1, 2), "{name}");
    }
    assert!(fix(&["nftables.conf"]).stdout.is_empty());

    // A pattern that would match the file that is kept, and a stream.
    fs::create_dir(scratch.0.join("d")).unwrap();
    fs::write(scratch.0.join("d/units"), ODD).unwrap();
    scratch.write("all.conf", &format!("{BASE}include \"./d/*\"\n"));
    assert!(fix(&["--write", "all.conf"]).status.success());
    let mut names: Vec<_> =
        fs::read_dir(scratch.0.join("d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".units~", "units"]);
    let latin1 = [format!("{BASE}{ODD}").as_bytes(), b"# \xe4\n"].concat();
    fs::write(scratch.0.join("latin1.conf"), &latin1).unwrap();
    assert!(fix(&["--write", "latin1.conf"]).status.success());
    assert_eq!(fs::read(scratch.0.join("latin1.conf")).unwrap(), latin1);
    assert_eq!(fix(&["--write", "/dev/stdin"]).status.code(), Some(2));
}

/// Versions of nftables with words of their own, and the files that these are in where they are not those of the
/// version before.
const OUTPUTS: [(&[u32], &str); 3] =
    [(&[1, 0], "output.txt"), (&[1, 1], "output.nft-1.1.txt"), (&[1, 1, 7], "output.nft-1.1.7.txt")];

/// Whether this was expected; what was if not.
fn same(case: &Path, found: &str, nft: &[u32]) -> Result<(), String> {
    let known: Vec<PathBuf> =
        OUTPUTS.iter().filter(|(version, _)| *version <= nft).map(|(_, name)| case.join(name)).collect();
    let (own, others) = known.split_last().expect("a version of nft that is too old");
    let read = |paths: &[PathBuf]| paths.iter().rev().find_map(|path| fs::read_to_string(path).ok());
    if std::env::var_os("SCNPM_BLESS").is_some() {
        match read(others) {
            Some(text) if text == found => drop(fs::remove_file(own)),
            _ => fs::write(own, found).unwrap(),
        }
        return Ok(());
    }
    let expected = read(&known).unwrap_or_default();
    if expected == found { Ok(()) } else { Err(expected) }
}

/// The version of nft, as numbers.
fn nft_version() -> Vec<u32> {
    let printed = succeed(Command::new("nft").arg("--version"));
    let version = printed.split_whitespace().find_map(|word| word.strip_prefix('v'));
    let numbers = version.unwrap_or_default().split('.').map_while(|number| number.parse().ok());
    numbers.collect()
}

/// Without the lists of what nft expected, which are longer in each version that knows more words.
fn without_lists(text: &str) -> String {
    let list = regex_lite::Regex::new(r"\n +\|\n += help: nft expected any of: .*").unwrap();
    list.replace_all(text, "").into_owned()
}

/// What nft itself prints about a file, without the places.
fn nft_says(file: &Path) -> String {
    let output = Command::new("nft").arg("-c").arg("-f").arg(file).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    printed.split_once("Error: ").map(|(_, words)| words.to_owned()).unwrap_or(printed)
}

/// Runs `scnpm check` on a text, as a file in a directory of its own that everybody may read.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("scnpm-check-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        Self(directory)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// Mounts a file with this text over another one, in a sandbox.
    fn write_over(&self, path: &str, text: &str) {
        let target = fs::canonicalize(path).unwrap();
        let source = self.write(target.file_name().unwrap().to_str().unwrap(), text);
        mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }

    /// A copy of the program that everybody may run.
    fn program(&self) -> PathBuf {
        let path = self.0.join("scnpm");
        // Not by ourselves: a test that forks meanwhile would keep it busy.
        succeed(Command::new("install").args(["-m", "755", common::program()]).arg(&path));
        path
    }

    fn check(&self, text: &str, arguments: &[&str]) -> Output {
        self.write("nftables.conf", text);
        let mut command = Command::new(common::program());
        command.current_dir(&self.0).env("NO_COLOR", "1").arg("check").args(arguments).arg("nftables.conf");
        command.output().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

const BASE: &str = "\
table inet filter {
    set mine { type cgroupsv2; }
    chain wl { }
    chain output {
        type filter hook output priority 0; policy accept;
        ct state established,related accept
        oifname vpn jump wl
        oifname vpn reject
    }
}
";

const GOOD: &str =
    "# a.scope :: add rule inet filter wl socket cgroupv2 level 2 \"x.slice/a.scope\" tcp dport 1 accept\n";
const BAD: &str =
    "# b.scope :: add rule inet filter wl socket cgroupv2 level 2 \"x.slice/b.scope\" tcp dprt 1 accept\n";
const ODD: &str = "# c.scope :: add rule inet filter wl socket cgroupv2 level 1 \"x.slice/c.scope\" accept\n";

#[test]
fn exit_status_says_what_was_found() {
    let scratch = Scratch::new("status");
    let status = |text: &str, arguments: &[&str]| scratch.check(text, arguments).status.code().unwrap();
    let file = |annotation: &str| format!("{BASE}{annotation}");
    assert_eq!(status(&file(GOOD), &[]), 0);
    assert_eq!(status(&file(ODD), &[]), 0);
    assert_eq!(status(&file(ODD), &["--deny", "warnings"]), 1);
    assert_eq!(status(&file(ODD), &["--deny", "W001"]), 1);
    assert_eq!(status(&file(ODD), &["--deny", "W005"]), 0);
    assert_eq!(status(&file(&format!("# scnpm: allow(W001)\n{ODD}")), &["--deny", "warnings"]), 0);
    assert_eq!(status(&file(BAD), &[]), 1);
    assert_eq!(status(&file(GOOD), &["--no-such-option"]), 2);
    assert_eq!(status(&file(GOOD), &["no-such-file"]), 3);
    let explained = Command::new(common::program()).args(["check", "--explain", "W004"]).output().unwrap();
    assert!(explained.status.success() && stdout(&explained).starts_with("W004: "));
}

#[test]
fn nothing_of_the_machine_is_touched() {
    sandbox::run(|sandbox| {
        sandbox.load("table inet keep { chain c { }\n}");
        let before = sandbox.nft(&["list", "ruleset"]);
        let scratch = Scratch::new("untouched");
        let output = scratch.check(&format!("flush ruleset\n{BASE}{GOOD}"), &[]);
        assert!(output.status.success(), "{}", printed(&output));
        assert_eq!(sandbox.nft(&["list", "ruleset"]), before);
        let links = succeed(Command::new("ip").args(["-brief", "link"]));
        assert_eq!(links.lines().count(), 1, "{links}");
    });
}

#[test]
fn it_needs_no_rights() {
    let scratch = Scratch::new("rights");
    let (program, file) =
        (scratch.program(), scratch.write("nftables.conf", &format!("{BASE}{GOOD}{BAD}{ODD}")));
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"]);
    let output = command.arg(program).args(["check", "--format", "short"]).arg(file).output().unwrap();
    let codes: Vec<bool> = ["error[E020]: nft refuses this annotation: syntax error", "warning[W001]"]
        .map(|words| stdout(&output).contains(words))
        .into();
    assert_eq!((codes, output.status.code()), (vec![true, true], Some(1)), "{}", printed(&output));
}

#[test]
fn what_only_root_may_do_is_no_verdict() {
    const LARGE: [usize; 2] = [4, 5];
    let scratch = Scratch::new("root");
    let program = scratch.program();
    let as_user = |user: &str, file: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups", "--inh-caps=-all"]);
        command.arg(&program).arg("check").arg(file).output().unwrap()
    };
    let secret = scratch.write("secret.nft", "define x = 1\n");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let directory = scratch.0.join("private");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("a.nft"), "define x = 1\n").unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    let here = scratch.0.display();
    let uses = "table inet filter {\n chain c {\n  tcp dport $x accept\n }\n}\n";
    let addresses: Vec<String> = (0..20_000).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    let set = format!(
        "add table inet filter\nadd set inet filter s {{ type ipv4_addr; }}\nadd element inet filter s {{ {} }}\n",
        addresses.join(", ")
    );
    let annotations: Vec<String> =
        (0..5_000).map(|n| GOOD.replace("a.scope", &format!("a{n}.scope"))).collect();
    for (number, text) in [
        format!("include \"{here}/secret.nft\"\n{uses}"),
        format!("include \"{here}/secr*.nft\"\n{uses}"),
        format!("include \"{here}/private/a.nft\"\n{uses}"),
        format!("include \"{here}/private/*.nft\"\n{uses}"),
        set,
        format!("{BASE}{}", annotations.concat()),
    ]
    .iter()
    .enumerate()
    {
        let file = scratch.write(&format!("{number}.conf"), text);
        assert_eq!(as_user("0", &file).status.code(), Some(0), "{number}");
        let output = printed(&as_user("65534", &file));
        // nftables 1.1 sends much of it in parts.
        if LARGE.contains(&number) && output.ends_with("exit status 0\n") && nft_version() >= vec![1, 1] {
            continue;
        }
        assert!(
            output.contains(": run it as root") && output.ends_with("exit status 3\n"),
            "{number}: {output}"
        );
        assert!(!output.contains("error[E0"), "{number}: {output}");
    }
}

#[test]
fn without_namespaces_it_says_so_and_tells_what_the_text_tells() {
    let scratch = Scratch::new("nowhere");
    let file = scratch.write(
        "nftables.conf",
        &format!("{BASE}{ODD}add rule inet filter output socket cgroupv2 level 2 \"x.slice/none\" tcp dprt 1 drop\n"),
    );
    let run = |file: &Path| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c"]);
        command
            .arg("echo 0 >/proc/sys/user/max_net_namespaces && exec \"$0\" check \"$1\"")
            .arg(common::program())
            .arg(file);
        command.env("NO_COLOR", "1").output().unwrap()
    };
    let output = run(&file);
    let text = printed(&output);
    for words in [
        "warning[W001]",
        "error[E011]",
        "error[E010]: nft refuses the file: syntax error, unexpected string",
        "note: nothing was loaded, so this is only what the files' text tells: namespaces are not allowed here",
        "exit status 1",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    let good = scratch.write("good.conf", &format!("{BASE}{GOOD}"));
    assert_eq!(run(&good).status.code(), Some(3));
}

#[test]
fn interfaces_of_the_machine_are_there_and_others_can_be_assumed() {
    sandbox::run(|_| {
        succeed(Command::new("ip").args(["link", "add", "wan0", "type", "bridge"]));
        let scratch = Scratch::new("interfaces");
        let file = |name: &str| {
            format!(
                "define WAN = {name}\ntable inet filter {{\n chain c {{\n  type filter hook input priority 0\n  iif $WAN drop\n }}\n}}\n\
                 table netdev n {{\n chain i {{\n  type filter hook ingress device \"{name}\" priority 0\n }}\n}}\n"
            )
        };
        // A bridge is made by something, and that is later at boot.
        let warned = scratch.check(&file("wan0"), &["--format", "short"]);
        assert_eq!(
            printed(&warned),
            "nftables.conf:1:14: warning[W027]: this loads only while `wan0` exists: at boot nft runs before it is made\n\
             exit status 0\n"
        );
        for (written, right) in [("iif wan0", "iifname wan0"), ("oif != \"wan0\"", "")] {
            let report = scratch.check(&file("lo").replace("iif $WAN", written), &["--json"]);
            let report: Value = serde_json::from_slice(&report.stdout).unwrap();
            assert_eq!(report["findings"][0]["code"], "W027", "{written}: {report}");
            let fix = report["findings"][0]["fix"]["text"].as_str().unwrap_or_default();
            assert_eq!(fix, right.split(' ').next().unwrap(), "{written}");
        }
        let assumed = scratch.check(&file("wan0"), &["--format", "short", "--interface", "wan0"]);
        assert_eq!(printed(&assumed), "exit status 0\n");
        let annotated = format!("{BASE}{}", GOOD.replace("tcp dport", "oif wan0 tcp dport"));
        assert_eq!(printed(&scratch.check(&annotated, &["--format", "short"])), "exit status 0\n");
        let text = printed(&scratch.check(&file("lan7"), &["--format", "short"]));
        assert!(
            text.contains("nftables.conf:1:14: error[E012]: nft refuses the file: Interface does not exist"),
            "{text}"
        );
        let assumed = scratch.check(&file("lan7"), &["--format", "short", "--interface", "lan7"]);
        assert_eq!(printed(&assumed), "exit status 0\n");
    });
}

#[test]
fn a_plain_rule_of_a_cgroup_that_exists_is_warned_of() {
    sandbox::run(|sandbox| {
        let (path, _) = sandbox.make("a.service");
        let scratch = Scratch::new("plain");
        let rule = format!("add rule inet filter output socket cgroupv2 level 2 \"{path}\" accept\n");
        let text = printed(&scratch.check(&format!("{BASE}{rule}"), &["--format", "short"]));
        assert!(text.contains("warning[W021]: this rule loads only while"), "{text}");
        sandbox.remove(&path);
        let text = printed(&scratch.check(&format!("{BASE}{rule}"), &[]));
        let words = nft_says(&scratch.0.join("nftables.conf")).lines().next().unwrap().to_owned();
        assert!(text.contains(&format!("error[E011]: nft refuses the file: {words}\n")), "{text}");
        assert!(text.contains("help: make it an annotation"), "{text}");
    });
}

#[test]
fn cgroups_that_exist_now_are_found_wherever_nft_looks_one_up() {
    sandbox::run(|sandbox| {
        let (path, _) = sandbox.make("a.service");
        let slice = path.as_str().split('/').next().unwrap().to_owned();
        let scratch = Scratch::new("now");
        let set = |elements: &str| {
            format!(
                "{BASE}table inet filter {{\n set s {{\n  type cgroupsv2 . inet_service; elements = {{ {elements} }}\n }}\n}}\n"
            )
        };
        let rule = |rule: &str| format!("{BASE}add rule inet filter output {rule}\n");
        for (text, found) in [
            (rule(&format!("socket cgroupv2 level 1 \"{slice}\" accept")), 1),
            (rule(&format!("socket cgroupv2 level 1 {slice} accept")), 1),
            (
                rule(&format!(
                    "socket cgroupv2 level 1 != {{ \"{slice}\", \"system.slice\", \"{path}\" }} drop"
                )),
                2,
            ),
            (
                rule(&format!(
                    "socket cgroupv2 level 2 vmap {{ \"{path}\" : accept, \"init.scope\" : drop }}"
                )),
                1,
            ),
            (rule(&format!("meta mark set socket cgroupv2 level 2 map {{ \"{path}\" : 1 }}")), 1),
            (
                rule(&format!(
                    "socket cgroupv2 level 1 . tcp dport {{ \"{slice}\" . 25, \"{slice}\" . 26 }} drop"
                )),
                2,
            ),
            (format!("define P = \"{path}\"\n{}", rule("socket cgroupv2 level 2 $P accept")), 1),
            (set(&format!("\"{path}\" . 25, \"{slice}\" . 26")), 2),
            (
                format!("{BASE}add element inet filter mine {{ \"{slice}\", \"{path}\", \"init.scope\" }}\n"),
                2,
            ),
            (rule("socket cgroupv2 level 1 { \"init.scope\", \"system.slice\" } accept"), 0),
        ] {
            let printed = printed(&scratch.check(&text, &["--format", "short"]));
            assert_eq!(printed.matches("warning[W021]").count(), found, "{text}\n{printed}");
            assert!(printed.ends_with("exit status 0\n") && !printed.contains("error"), "{text}\n{printed}");
        }
    });
}

#[test]
fn an_include_that_only_the_working_directory_has_is_warned_of() {
    let scratch = Scratch::new("include");
    let part = scratch.write("part.nft", BASE);
    let text = "include \"./part.nft\"\ninclude \"./no-*.nft\"\n";
    let told = |directory: &str, file: &str| {
        let mut command = Command::new(common::program());
        let output = command.current_dir(directory).args(["check", "--json", file]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap().clone();
        findings.iter().map(|one| format!("{} {}", one["code"], one["fix"]["text"])).collect::<Vec<String>>()
    };
    let fix = |path: &Path| Value::from(format!("include \"{}\"", path.display()));
    let here = scratch.0.to_str().unwrap();
    let file = scratch.write("nftables.conf", text);
    assert_eq!(told(here, "nftables.conf"), [format!("\"W019\" {}", fix(&part))]);
    assert_eq!(told("/", file.to_str().unwrap()), [format!("\"E010\" {}", fix(&part))]);
    // What matches nothing at boot is no error, and missing all the same.
    scratch.write("nftables.conf", "include \"./p*.nft\"\n");
    let all = fix(&scratch.0.join("p*.nft"));
    for directory in [here, "/"] {
        assert_eq!(told(directory, file.to_str().unwrap()), [format!("\"W019\" {all}")], "{directory}");
    }
    let mended = format!("include \"{}\"\n", part.display());
    assert_eq!(printed(&scratch.check(&mended, &["--format", "short"])), "exit status 0\n");
    scratch.write("nftables.conf", &format!("include \"./{}\"\n", part.strip_prefix("/").unwrap().display()));
    assert_eq!(told("/", file.to_str().unwrap()), Vec::<String>::new());
}

#[test]
fn what_nft_expected_is_the_help() {
    let scratch = Scratch::new("expected");
    let wrong = BASE.replace("ct state", "ct zebra");
    let text = printed(&scratch.check(&wrong, &[]));
    let said = nft_says(&scratch.0.join("nftables.conf"));
    let mut lines = said.lines();
    let words = lines.next().unwrap();
    assert!(text.contains(&format!("error[E010]: nft refuses the file: {words}\n")), "{text}\n{said}");
    let list = lines.next().and_then(|line| line.strip_prefix("expected any of: "));
    let help = list.map(|list| format!("= help: nft expected any of: {list}\n"));
    assert!(help.is_none_or(|help| text.contains(&help)), "{text}\n{said}");
    // nftables 1.1.7 does say so.
    assert!(list.is_some() || nft_version() < vec![1, 1, 7], "{said}");
}

#[test]
fn host_names_are_looked_up_outside() {
    sandbox::run(|_| {
        let scratch = Scratch::new("hosts");
        name_server(&scratch);
        let base =
            BASE.replace("oifname vpn reject", "ip daddr outside.example drop\n        oifname vpn reject");
        let rule = GOOD.replace("tcp dport", "ip daddr inside.example tcp dport");
        let text = printed(&scratch.check(&format!("{base}{rule}"), &["--format", "short"]));
        assert!(
            text.contains("nftables.conf:8:18: warning[W022]: nft looks `outside.example` up when it loads"),
            "{text}"
        );
        assert!(text.contains("warning[W013]") && text.contains("exit status 0"), "{text}");
        let script = stdout(&scratch.check(&format!("{base}{rule}"), &["--dispatch"]));
        assert!(script.contains("scnpm.host.ip.inside.example { 192.0.2.53 }"), "{script}");
        let text = printed(&scratch.check(&format!("{base}{rule}"), &["--no-dns", "--format", "short"]));
        assert_eq!(text.matches("warning[W023]").count(), 2, "{text}");
        let script = stdout(&scratch.check(&format!("{base}{rule}"), &["--no-dns", "--dispatch"]));
        assert!(script.contains("ip daddr @scnpm.host.ip.inside.example tcp dport 1 accept"), "{script}");
        assert!(!script.contains("\nadd element"), "a name that is not looked up has no address: {script}");
    });
}

/// Answers every question with 192.0.2.53, in this network namespace, until the test ends.
fn name_server(scratch: &Scratch) {
    scratch.write_over("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    scratch.write_over("/etc/nsswitch.conf", "hosts: files dns\n");
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&answer(&question[..length]), from);
        }
    });
}

/// The header's flags and counts (RFC 1035, 4.1.1), the question, and for an A record its answer.
fn answer(question: &[u8]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let is_v4 = question[end - 4..end - 2] == [0, 1];
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    if is_v4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 53]);
    }
    answer
}

#[test]
fn the_dispatch_loads_behind_the_file() {
    sandbox::run(|sandbox| {
        let scratch = Scratch::new("dispatch");
        let file = format!(
            "define PORTS = {{ 1, 2 }}\n{BASE}{}{ODD}# d.scope :: add element inet filter mine {{ \"x.slice/d.scope\" }}\n",
            GOOD.replace("dport 1", "dport $PORTS")
        );
        let output = scratch.check(&file, &["--dispatch"]);
        let script = stdout(&output);
        assert!(script.contains("vmap @scnpm.wl.1") && !script.contains("warning"), "{script}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("warning[W001]"));
        // As one script, and where the file is loaded.
        let both = scratch.write("both.nft", &format!("{file}{script}"));
        sandbox.nft(&["-c", "-f", both.to_str().unwrap()]);
        sandbox.load(&file);
        let alone = scratch.write("alone.nft", &script);
        sandbox.nft(&["-c", "-f", alone.to_str().unwrap()]);
    });
}

#[test]
fn the_report_can_be_read_by_programs() {
    let scratch = Scratch::new("json");
    let output = scratch.check(&format!("{BASE}{GOOD}{ODD}"), &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let line = BASE.lines().count() + 2;
    assert_eq!(
        report,
        serde_json::json!({
            "version": 1, "files": ["nftables.conf"], "loaded": true, "not_loaded": null, "errors": 0, "warnings": 1,
            "findings": [{
                "code": "W001", "severity": "warning", "message": "level 1 never matches a path with 2 names",
                "file": "nftables.conf", "line": line, "column": 63, "end_line": line, "end_column": 78,
                "unit": "c.scope", "help": "write `level 2`",
                "fix": { "file": "nftables.conf", "line": line, "column": 60, "end_line": line, "end_column": 61, "text": "2" },
                "more": []
            }],
            "units": [
                { "unit": "a.scope", "chains": ["inet filter wl"], "sets": [], "levels": [2], "runs": false, "rules": 1 },
                { "unit": "c.scope", "chains": ["inet filter wl"], "sets": [], "levels": [1], "runs": false, "rules": 1 }
            ]
        })
    );
}

#[test]
fn what_is_wrong_for_one_reason_is_one_finding_with_all_its_places() {
    let scratch = Scratch::new("more");
    let rule = |port| format!("add rule inet filter output ip saddr @none tcp dport {port} drop\n");
    let text = format!("{BASE}{}{}{}", rule(1), rule(2), rule(3));
    let output = scratch.check(&text, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = BASE.lines().count() + 1;
    let finding = &report["findings"][0];
    assert_eq!((&report["errors"], &finding["line"]), (&1.into(), &first.into()), "{report}");
    let place = |line: usize| {
        serde_json::json!({
            "file": "nftables.conf", "line": line, "column": 38, "end_line": line, "end_column": 43
        })
    };
    assert_eq!(finding["more"], serde_json::json!([place(first + 1), place(first + 2)]));
    let short = printed(&scratch.check(&text, &["--format", "short"]));
    let note = format!("(2 more for the same reason: lines {}, {})\nexit status 1\n", first + 1, first + 2);
    assert!(short.lines().count() == 2 && short.ends_with(&note), "{short}");
}

#[test]
fn what_breaks_the_file_does_not_hide_what_breaks_an_annotation() {
    let scratch = Scratch::new("both");
    let base =
        BASE.replace("policy accept", "policy acept").replace("oifname vpn jump wl", "oifname vpn jmp wl");
    let text = printed(&scratch.check(&format!("{base}{BAD}"), &["--format", "short"]));
    assert_eq!(text.matches("error[E010]").count(), 2, "{text}");
    assert_eq!(text.matches("error[E020]").count(), 1, "{text}");
}

#[test]
fn a_huge_set_is_no_trouble() {
    let scratch = Scratch::new("huge");
    let addresses: Vec<String> =
        (0..50_000).map(|n| format!("10.{}.{}.0/24", n / 256 % 256, n % 256)).collect();
    let set = format!(
        "table inet filter {{\n set blocked {{\n  type ipv4_addr; flags interval; auto-merge\n  elements = {{ {} }}\n }}\n}}\n",
        addresses.join(",\n")
    );
    let output = scratch.check(&format!("{set}{BASE}{GOOD}"), &["--format", "short", "--deny", "warnings"]);
    assert_eq!(printed(&output), "exit status 0\n");
}

#[test]
fn a_mistake_in_a_huge_line_is_found() {
    let scratch = Scratch::new("huge-line");
    let addresses: Vec<String> = (0..20_000).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    let set = format!("set blocked {{ type ipv4_addr; elements = {{ {} }}; }}\n", addresses.join(", "));
    let wrong = set.replace("10.0.0.7,", "10.0.0.7 oops,");
    let text = printed(&scratch.check(&format!("table inet filter {{\n{wrong}}}\n"), &["--format", "short"]));
    assert!(text.contains("nftables.conf:2:") && text.contains("error[E010]"), "{text}");
    assert!(text.ends_with("exit status 1\n") && !text.contains("not checked"), "{text}");
}

/// Flowtables are a module that not every kernel has: what is right is what this one says to nft.
#[test]
fn a_flowtable_is_taken_where_the_kernel_has_them_and_told_of_elsewhere() {
    sandbox::run(|_| {
        let scratch = Scratch::new("flowtable");
        let flowtable = "table inet router {
    flowtable fast {
        hook ingress priority 0
        devices = { lo }
    }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ip protocol tcp flow add @fast
    }
}
";
        let path = scratch.write("flowtable.nft", flowtable);
        let has_them = Command::new("nft").arg("-c").arg("-f").arg(path).output().unwrap().status.success();
        let text = printed(&scratch.check(&format!("{BASE}{flowtable}{BAD}"), &[]));
        assert!(text.contains("error[E020]"), "the annotations are tried all the same: {text}");
        let told = "= help: this kernel has no flowtables: it needs CONFIG_NF_FLOW_TABLE";
        assert_eq!(text.matches(told).count(), usize::from(!has_them), "{text}");
        assert_eq!(text.contains("error[E010]"), !has_them, "{text}");
    });
}

#[test]
fn a_file_can_come_through_a_pipe() {
    let mut command = Command::new(common::program());
    command.args(["check", "--format", "short", "/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let text = format!("{}{GOOD}", BASE.replace("jump wl", "jmp wl"));
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let text = printed(&child.wait_with_output().unwrap());
    assert!(text.starts_with("/dev/stdin:7:21: error[E010]: nft refuses the file: "), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
}

/// The program with these arguments and this standard input.
fn run_with(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(common::program());
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    // It may be enough before all is read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_dash_is_the_standard_input() {
    let text = format!("{}{GOOD}{BAD}", BASE.replace("jump wl", "jmp wl"));
    let text = printed(&run_with(&["check", "--format", "short", "-"], &text));
    assert!(text.starts_with("<stdin>:7:21: error[E010]: nft refuses the file: "), "{text}");
    assert!(text.contains("<stdin>:12:84: error[E020]: "), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    let text = printed(&run_with(&["check", "-"], &format!("{BASE}{GOOD}")));
    assert!(text.ends_with("<stdin>: 1 annotation, no problems found\nexit status 0\n"), "{text}");
}

#[test]
fn what_has_no_end_is_not_checked() {
    let output = Command::new(common::program()).args(["check", "/dev/zero"]).output().unwrap();
    assert_eq!(
        printed(&output),
        "scnpm: error: /dev/zero: more than 64 MiB, and no end of it\nexit status 3\n"
    );
    let scratch = Scratch::new("fifo");
    succeed(Command::new("mkfifo").arg(scratch.0.join("fifo")));
    let include = format!("include \"{}/fifo\"\n", scratch.0.display());
    let policy =
        scnpm::policy::parse::read(&scnpm::policy::files::Disk, &[scratch.write("nftables.conf", &include)])
            .unwrap();
    assert!(policy.diagnostics[0].message.ends_with("cannot be included: it is not a regular file"));
}

#[test]
fn what_is_not_checked_is_never_found_right() {
    let scratch = Scratch::new("honest");
    let output = scratch.check(BASE, &["--json", "missing.conf"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!((&report["loaded"], &report["files"][0]), (&false.into(), &"missing.conf".into()));
    assert_eq!(report["not_loaded"], "missing.conf: No such file or directory");
    let text = printed(&scratch.check(BASE, &["missing.conf"]));
    assert_eq!(text, "scnpm: error: missing.conf: No such file or directory\nexit status 3\n");

    let file = scratch.write("nftables.conf", &format!("{BASE}{GOOD}"));
    let nowhere = |format: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c"]);
        command.arg("echo 0 >/proc/sys/user/max_net_namespaces && exec \"$@\"").args([
            "sh",
            common::program(),
            "check",
        ]);
        command.arg(format!("--format={format}")).arg(&file).env("NO_COLOR", "1").output().unwrap()
    };
    let text = printed(&nowhere("full"));
    assert!(text.ends_with("nftables.conf: 1 annotation, not checked\nexit status 3\n"), "{text}");
    let text = printed(&nowhere("short"));
    assert!(text.starts_with("note: nothing was loaded") && text.ends_with("exit status 3\n"), "{text}");
    let report: Value = serde_json::from_slice(&nowhere("json").stdout).unwrap();
    let why = report["not_loaded"].as_str().unwrap();
    assert!(report["loaded"] == false && why.contains("namespaces are not allowed here"), "{report}");
}

/// A command line of each kind that prints something, and the status that it ends with.
fn all_that_prints(file: &str, log: &str) -> Vec<(Vec<String>, i32)> {
    [
        ("--help", 0),
        ("--version", 0),
        ("check --help", 0),
        ("check --explain E001", 0),
        ("check FILE", 1),
        ("check --format short FILE", 1),
        ("check --json FILE", 1),
        ("check --json missing", 3),
        ("check --dispatch FILE", 1),
        ("replay LOG", 0),
    ]
    .map(|(line, status)| {
        let words = line.split(' ').map(|word| word.replace("FILE", file).replace("LOG", log));
        (words.collect(), status)
    })
    .into()
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure_and_a_full_disk_is_one() {
    let scratch = Scratch::new("pipes");
    let file = scratch.write("nftables.conf", &format!("{BASE}{GOOD}{BAD}"));
    for (arguments, status) in
        all_that_prints(file.to_str().unwrap(), "tests/engine/01-start-stop/events.jsonl")
    {
        let run = |out: Stdio| Command::new(common::program()).args(&arguments).stdout(out).output().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(writer.into());
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", printed(&output));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            arguments.iter().any(|word| word == "--dispatch") || words.is_empty(),
            "{arguments:?}: {words}"
        );
        let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(
            printed(&run(full().into())),
            "scnpm: error: the output cannot be written: No space left on device\nexit status 1\n",
            "{arguments:?}"
        );
        let output = Command::new(common::program()).args(&arguments).stderr(full()).output().unwrap();
        assert!(output.status.code().is_some(), "{arguments:?} is killed if stderr is full");
    }
}

#[test]
fn a_slip_in_a_subcommand_is_met_with_its_name() {
    for (slip, meant) in [("chek", "check"), ("chekc", "check"), ("unit", "units"), ("reply", "replay")] {
        let text = printed(&Command::new(common::program()).args([slip, "a.conf"]).output().unwrap());
        let words = format!("error: there is no file `{slip}`: did you mean `scnpm {meant}`?\n");
        assert!(text.starts_with(&words) && text.ends_with("exit status 2\n"), "{text}");
    }
}

#[test]
fn no_child_outlives_it() {
    let scratch = Scratch::new("child");
    let addresses: Vec<String> =
        (0..100_000).map(|n| format!("10.{}.{}.{}", n / 65_536, n / 256 % 256, n % 256)).collect();
    let set = format!(
        "table ip t {{\n set s {{\n  type ipv4_addr\n  elements = {{ {} }}\n }}\n}}\n",
        addresses.join(",\n")
    );
    let file = scratch.write("nftables.conf", &set);
    let mut check =
        Command::new(common::program()).arg("check").arg(file).stdout(Stdio::null()).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", check.id());
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
    let child = loop {
        assert!(check.try_wait().unwrap().is_none(), "it ended before it could be ended");
        let child = fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
        if !child.is_empty() && namespace(&child).is_ok_and(|own| own != namespace("self").unwrap()) {
            break child;
        }
    };
    // So that it does not end by itself.
    succeed(Command::new("kill").args(["-STOP", &child]));
    check.kill().unwrap();
    check.wait().unwrap();
    let is_there = || {
        let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        state.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    };
    let ended = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        !is_there()
    });
    if !ended {
        succeed(Command::new("kill").args(["-KILL", &child]));
    }
    assert!(ended, "the child outlives it");
}

#[test]
fn editors_find_the_places() {
    let tasks: Value =
        serde_json::from_str(&fs::read_to_string("examples/vscode-tasks.json").unwrap()).unwrap();
    let task = &tasks["tasks"][0];
    let pattern = &task["problemMatcher"]["pattern"];
    let regex = regex_lite::Regex::new(pattern["regexp"].as_str().unwrap()).unwrap();
    let scratch = Scratch::new("editor");
    let file = scratch.write("nftables.conf", &format!("{BASE}{BAD}{ODD}"));
    let arguments =
        task["args"].as_array().unwrap().iter().map(|argument| match argument.as_str().unwrap() {
            "${file}" => file.to_str().unwrap().to_owned(),
            other => other.to_owned(),
        });
    let output = Command::new(common::program()).args(arguments).output().unwrap();
    let text = stdout(&output);
    let group = |found: &regex_lite::Captures<'_>, name: &str| {
        found[usize::try_from(pattern[name].as_u64().unwrap()).unwrap()].to_owned()
    };
    let found: Vec<[String; 4]> = text
        .lines()
        .map(|line| regex.captures(line).unwrap_or_else(|| panic!("{line}")))
        .map(|found| ["file", "line", "severity", "code"].map(|name| group(&found, name)))
        .collect();
    let line = |number: usize| (BASE.lines().count() + number).to_string();
    let file = file.to_str().unwrap().to_owned();
    assert_eq!(
        found,
        [
            [file.clone(), line(1), "error".to_owned(), "E020".to_owned()],
            [file, line(2), "warning".to_owned(), "W001".to_owned()]
        ]
    );
}

#[test]
fn the_git_hook_refuses_what_is_wrong_as_it_is_staged() {
    let scratch = Scratch::new("hook");
    scratch.program();
    let path = format!("{}:{}", scratch.0.display(), std::env::var("PATH").unwrap());
    let repository = scratch.0.join("repository");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&repository).args(["-c", "user.name=a", "-c", "user.email=a@example.org"]);
        command.args(arguments).env("PATH", &path).env_remove("GIT_DIR").env_remove("GIT_INDEX_FILE");
        command.output().unwrap()
    };
    fs::create_dir(&repository).unwrap();
    git(&["init", "--quiet"]);
    fs::copy("examples/git-pre-commit", repository.join(".git/hooks/pre-commit")).unwrap();
    let file = repository.join("nftables.conf");
    fs::write(&file, format!("include \"./base.nft\"\n{BAD}")).unwrap();
    fs::write(repository.join("base.nft"), BASE).unwrap();
    git(&["add", "--all"]);
    // What is in the work tree and not staged does not count.
    fs::write(&file, "").unwrap();
    let refused = git(&["commit", "--quiet", "--message", "one"]);
    let words = printed(&refused);
    assert!(words.contains("error[E020]") && words.contains("not committed"), "{words}");
    assert_ne!(refused.status.code(), Some(0));
    fs::write(&file, format!("include \"./base.nft\"\n{GOOD}{ODD}")).unwrap();
    git(&["add", "--all"]);
    let taken = git(&["commit", "--quiet", "--message", "two"]);
    assert!(taken.status.success(), "{}", printed(&taken));
}
