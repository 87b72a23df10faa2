//! On the real kernel: `scnpm check` finds an error in a file exactly if nft refuses it. The files are those that the
//! nftables package installs, and many that are made of pieces in the styles of others, right and wrong ones.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where Debian's package has its examples.
const INSTALLED: &str = "/usr/share/doc/nftables/examples";

/// How many files are made.
const MADE: u64 = 200;

#[test]
fn files_of_the_nftables_package_are_judged_as_nft_does() {
    let files = files_below(Path::new(INSTALLED));
    assert!(files.len() >= 20, "only {} files in {INSTALLED}", files.len());
    let disagreements: Vec<String> = files.iter().filter_map(|file| disagreement(file)).collect();
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

#[test]
fn made_files_are_judged_as_nft_does() {
    let directory = std::env::temp_dir().join(format!("scnpm-foreign-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let mut taken = 0;
    let mut disagreements = Vec::new();
    for seed in 0..MADE {
        let file = directory.join("nftables.conf");
        let text = ruleset(&mut Pieces(seed));
        fs::write(&file, &text).unwrap();
        taken += u64::from(nft_takes(&file));
        disagreements.extend(disagreement(&file).map(|said| format!("seed {seed}: {said}\n{text}")));
    }
    fs::remove_dir_all(&directory).unwrap();
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
    assert!((MADE / 4..MADE).contains(&taken), "nft takes {taken} of {MADE}: nothing is tested");
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let is_text = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "nft" || kind == "conf");
    let below = directories.iter().flat_map(|directory| files_below(directory));
    files.into_iter().filter(is_text).chain(below).collect()
}

/// What `scnpm check` says of a file, if nft says otherwise.
fn disagreement(file: &Path) -> Option<String> {
    let mut command = Command::new(common::program());
    command.args(["check", "--no-dns", "--format", "short"]).arg(file).env("NO_COLOR", "1");
    let output = command.current_dir(file.parent().unwrap()).output().unwrap();
    let expected = i32::from(!nft_takes(file));
    let said = || format!("{}: nft says {expected}, {output:?}", file.display());
    (output.status.code() != Some(expected)).then(said)
}

/// Whether nft loads a file into a network that has nothing yet.
fn nft_takes(file: &Path) -> bool {
    let mut command = Command::new("unshare");
    command.args(["--net", "nft", "-f"]).arg(file).current_dir(file.parent().unwrap());
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

/// Choices that are the same each time (SplitMix64).
struct Pieces(u64);

impl Pieces {
    fn number(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap() % below
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.number(of.len())]
    }

    /// One of the right pieces, or now and then one of the wrong.
    fn mostly<'a>(&mut self, right: &[&'a str], wrong: &[&'a str]) -> &'a str {
        let is_wrong = self.number(100) == 0;
        self.one(if is_wrong { wrong } else { right })
    }
}

const FAMILIES: [&str; 3] = ["inet", "ip", "inet"];
const HOOKS: [&str; 6] = [
    "type filter hook input priority 0; policy accept;",
    "type filter hook output priority filter; policy drop;",
    "type filter hook forward priority filter + 10; policy accept;",
    "type filter hook prerouting priority mangle;",
    "type route hook output priority mangle;",
    "type nat hook postrouting priority srcnat; policy accept;",
];
const WRONG_HOOKS: [&str; 5] = [
    "type filter hook outptu priority 0;",
    "type nat hook forward priority 0;",
    "type filter hook input priority filtr;",
    "type filter hook input priority 0; policy reject;",
    "type nat hook prerouting priority -250;",
];
const OBJECTS: [&str; 8] = [
    "set blocked { type ipv4_addr; flags interval; elements = { 192.0.2.0/24, 198.51.100.7 }; }",
    "set ports { type inet_service; elements = { 22, 80, https }; }",
    "map verdicts { type inet_service : verdict; elements = { 22 : accept, 25 : drop }; }",
    "set pairs { type ipv4_addr . inet_service; elements = { 192.0.2.1 . 53 }; }",
    "set dynamic { type ipv4_addr; size 1024; flags dynamic, timeout; timeout 1m; }",
    "counter hits { }",
    "limit slow { rate 10/second; }",
    "chain called { counter; return; }",
];
const WRONG_OBJECTS: [&str; 5] = [
    "set mixed { type ipv4_addr; elements = { ::1 }; }",
    "set none { type ipv5_addr; }",
    "map half { type inet_service : verdict; elements = { 22 }; }",
    "set overlap { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 10.1.0.0/16 }; }",
    "chain lonely { jump nowhere; }",
];
const MATCHES: [&str; 16] = [
    "ip saddr 192.0.2.1",
    "ip daddr { 192.0.2.1, 198.51.100.0/24 }",
    "tcp dport 22",
    "tcp dport { 80, 443 }",
    "udp sport 1024-65535",
    "meta l4proto { tcp, udp }",
    "ct state established,related",
    "iifname \"eth0\"",
    "oifname != \"lo\"",
    "meta mark 0x1",
    "meta skuid 0",
    "icmp type echo-request",
    "tcp flags syn / syn,rst",
    "limit rate 5/second burst 5 packets",
    "ip protocol icmp",
    "fib daddr type local",
];
const WRONG_MATCHES: [&str; 9] = [
    "tcp dprt 22",
    "ip saddr 300.1.1.1",
    "tcp dport nosuchservice",
    "iif \"nosuchlink0\"",
    "ct stat established",
    "ip saddr @missing",
    "tcp dport $UNDEFINED",
    "socket cgroupv2 level 1 \"nosuch.slice\"",
    "ip saddr ::1",
];
const VERDICTS: [&str; 11] = [
    "accept",
    "drop",
    "counter",
    "counter packets 0 bytes 0 accept",
    "log prefix \"seen: \" drop",
    "meta mark set 0x2",
    "return",
    "ct mark set meta mark",
    "counter comment \"a # in a string; and more\"",
    "log level info",
    "queue num 1 bypass",
];
const WRONG_VERDICTS: [&str; 5] =
    ["acept", "jump nowhere", "drop accept", "log prefix unquoted words", "meta mark set \"x\""];

fn ruleset(pieces: &mut Pieces) -> String {
    let mut text = String::new();
    if pieces.number(2) == 0 {
        text += "#!/usr/sbin/nft -f\n\nflush ruleset\n\n";
    }
    if pieces.number(3) == 0 {
        text += "define WEB = { 80, 443 }\ndefine LAN = 192.0.2.0/24\n";
    }
    for number in 0..=pieces.number(2) {
        text += &table(pieces, number);
    }
    text
}

fn table(pieces: &mut Pieces, number: usize) -> String {
    let family = pieces.one(&FAMILIES);
    let mut text = format!("table {family} t{number} {{\n");
    let mut objects: Vec<&str> = Vec::new();
    for _ in 0..pieces.number(4) {
        let object = pieces.mostly(&OBJECTS, &WRONG_OBJECTS);
        if !objects.contains(&object) {
            objects.push(object);
        }
    }
    objects.iter().for_each(|object| text += &format!("\t{object}\n"));
    for chain in 0..=pieces.number(3) {
        let hook = pieces.mostly(&HOOKS, &WRONG_HOOKS);
        text += &format!("\tchain c{chain} {{\n\t\t{hook}\n");
        for _ in 0..pieces.number(5) {
            text += &format!("\t\t{}\n", rule(pieces));
        }
        text += "\t}\n";
    }
    text + "}\n" + &behind(pieces, family, number)
}

fn rule(pieces: &mut Pieces) -> String {
    let matches: Vec<&str> = (0..pieces.number(3)).map(|_| pieces.mostly(&MATCHES, &WRONG_MATCHES)).collect();
    let verdict = pieces.mostly(&VERDICTS, &WRONG_VERDICTS);
    let comment = if pieces.number(6) == 0 { " # why" } else { "" };
    format!("{} {verdict}{comment}", matches.join(" ")).trim_start().to_owned()
}

/// A command behind a table, as scripts have them.
fn behind(pieces: &mut Pieces, family: &str, number: usize) -> String {
    let rule = rule(pieces);
    match pieces.number(4) {
        0 => format!("add rule {family} t{number} c0 {rule}\n"),
        1 => format!("add table {family} more\nadd chain {family} more c\nadd rule {family} more c {rule}\n"),
        _ => String::new(),
    }
}
