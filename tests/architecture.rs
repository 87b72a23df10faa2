//! The rooms of the crate, and which may import which: what is pure stays so, and nothing points upwards or sideways. And what
//! docs/architecture.md says of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms from the bottom to the top, each with all that it may import: rooms, or one module of a room. Whatever a
/// room may import stands above it in this list.
const ROOMS: &[(&str, &[&str])] = &[
    // For all.
    (ALL, &[]),
    // Nouns, text, policies and decisions.
    ("model", &[]),
    ("text", &["model"]),
    ("units", &["model"]),
    ("policy", &["model", "text", "units"]),
    ("answers", &["model", "policy"]),
    ("dispatch", &["model", "text", "units", "policy"]),
    ("engine", &["model", "units", "dispatch"]),
    ("record", &["model", "engine"]),
    ("lint", &["model", "text", "units", "policy"]),
    ("explain", &["model", "text", "units", "policy", "dispatch"]),
    // The machine.
    ("cgroupfs", &["model", "units"]),
    ("nft", &["model", "policy", "answers", "dispatch", "explain", "cgroupfs"]),
    ("watch", &["model", "units", "policy", "answers", "cgroupfs"]),
    ("names", &["model"]),
    ("machine", &["model", "units", "explain", "cgroupfs", "names"]),
    // Where the two meet.
    ("findings", &["model", "text", "units", "policy", "lint", "nft::complaint"]),
    ("load", &["model", "text", "units", "policy", "dispatch", "cgroupfs", "nft", "findings"]),
    ("log", &["model", "text", "policy", "engine"]),
    ("effects", &["model", "dispatch", "engine", "cgroupfs", "nft", "log"]),
    (
        "trial",
        &[
            "model", "text", "units", "policy", "dispatch", "engine", "lint", "cgroupfs", "nft", "findings",
            "load", "effects",
        ],
    ),
    // The user.
    ("control", &["model"]),
    ("cli", &["model", "text"]),
    ("report", &["model", "text", "units", "policy", "explain", "trial", "control", "cli"]),
    (
        "commands",
        &[
            "model", "text", "units", "policy", "dispatch", "lint", "explain", "cgroupfs", "nft", "watch",
            "machine", "findings", "load", "trial", "log", "effects", "control", "cli", "report", "record",
            "names",
        ],
    ),
    (
        "daemon",
        &[
            "model", "text", "units", "policy", "answers", "dispatch", "engine", "lint", "cgroupfs", "nft",
            "watch", "machine", "findings", "load", "log", "effects", "control", "cli", "commands", "record",
            "names",
        ],
    ),
    ("main", &["cli", "commands", "daemon", "log"]),
];

/// What each room may import.
const ALL: &str = "gather";

/// Imports that the list forbids and that are still there. Each is to go, and its line with it.
const STILL_THERE: &[(&str, &str)] = &[];

/// What touches neither the machine nor the clock, and has the same answer each time: rooms and single files.
const PURE: &[&str] = &[
    "gather.rs",
    "model.rs",
    "answers",
    "text",
    "units",
    "policy",
    "dispatch",
    "engine",
    "lint",
    "record.rs",
    "commands/complete/candidates.rs",
    "commands/complete/line.rs",
    "commands/generate/drop_ins.rs",
    "commands/launchers/entry.rs",
    "commands/notify/decide.rs",
    "commands/notify/words.rs",
    "control/message.rs",
    "commands/run/answer.rs",
    "commands/top/pane.rs",
    "commands/top/rows.rs",
    "commands/top/state.rs",
    "commands/top/state",
    "commands/top/view.rs",
    "commands/top/words.rs",
    "commands/whose.rs",
    "daemon/settle.rs",
    "explain",
    "findings.rs",
    "findings",
    "nft/complaint.rs",
    "report/learned.rs",
    "report/metrics.rs",
    "report/openmetrics.rs",
    "report/systemd.rs",
    "trial/judge.rs",
    "watch/conversation.rs",
    "watch/entry.rs",
    "watch/shares.rs",
];

/// The only way in which the parser reads.
const FILES: &str = "policy/files.rs";

/// Other crates that pure code may use, or parts of them.
const PURE_CRATES: &[&str] = &[
    "annotate_snippets",
    "libc::CLD_EXITED",
    "litemap",
    "nix::errno",
    "ratatui::Frame",
    "ratatui::buffer",
    "ratatui::layout",
    "ratatui::style",
    "serde",
    "serde_json",
    "thiserror",
    "unicode_width",
    "zbus::DynamicType",
    "zbus::Message",
    "zbus::ObjectPath",
    "zbus::OwnedObjectPath",
    "zbus::Result",
    "zbus::Variant",
    "zbus::message",
];

/// What pure code must not name.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::os",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "HashMap",
    "HashSet",
    "TcpStream",
    "ToSocketAddrs",
    "UdpSocket",
    "UnixStream",
    "dbg",
    "eprint",
    "eprintln",
    "print",
    "println",
    "stderr",
    "stdin",
    "stdout",
];

/// nft's words that somebody acts on.
const WORDS: &[&str] = &[
    "Cannot allocate memory",
    "Could not resolve hostname",
    "File exists",
    "Interface does not exist",
    "No such file or directory",
    "Operation not supported",
    "Too many links",
    "cgroupv2 path fails",
    "syntax error",
];

/// Where they are classified.
const WITH_WORDS: &str = "nft/complaint.rs";

/// The files with `unsafe` in them.
const UNSAFE: &[&str] = &[
    "main.rs",
    "commands/run/sigpipe.rs",
    "commands/run/child.rs",
    "nft/libnftables.rs",
    "watch/sigbus.rs",
    "watch/pages.rs",
    "watch/readable.rs",
    "daemon/process.rs",
    "trial/process.rs",
];

#[test]
fn rooms_import_only_what_they_may() {
    let mut wrong = Vec::new();
    let mut edges = BTreeSet::new();
    let mut needed = BTreeSet::new();
    for file in Source::all() {
        for path in file.imports() {
            if path[0] == file.room || path[0] == ALL {
                continue;
            }
            edges.insert((file.room.clone(), path[0].clone()));
            let exception = STILL_THERE.iter().find(|(room, of)| *room == file.room && is_below(&path, of));
            if let Some(exception) = exception {
                needed.insert(exception);
            }
            let may = ROOMS.iter().find(|(room, _)| *room == file.room).map_or(&[][..], |(_, may)| may);
            if exception.is_none() && !may.iter().any(|room| is_below(&path, room)) {
                wrong.push(format!("{} imports {}", file.name, path.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(edges.len() > 50, "only {edges:?}: the parser sees nothing");
    let gone: Vec<_> = STILL_THERE.iter().filter(|exception| !needed.contains(exception)).collect();
    assert!(gone.is_empty(), "delete these exceptions: {gone:?}");
}

#[test]
fn no_room_may_import_one_that_is_above_it_and_each_is_in_the_list() {
    let order: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    for (at, (room, may)) in ROOMS.iter().enumerate() {
        for other in *may {
            let other = other.split("::").next().unwrap();
            assert!(order[..at].contains(&other), "{room} may import {other}, which is not below it");
        }
    }
    let known: BTreeSet<&str> = order.into_iter().collect();
    let rooms: BTreeSet<String> = Source::all().into_iter().map(|file| file.room).collect();
    let unknown: Vec<&String> = rooms.iter().filter(|room| !known.contains(room.as_str())).collect();
    assert!(unknown.is_empty(), "rooms without a line: {unknown:?}");
}

#[test]
fn pure_code_touches_neither_machine_nor_clock() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    let crates = dependencies();
    assert!(crates.contains("tokio"), "{crates:?}");
    let all = Source::all();
    for file in all.iter().filter(|file| file.is_in(PURE) && file.name != FILES) {
        seen += 1;
        let is_module = |name: &String| all.iter().any(|of| of.room == file.room && of.module.contains(name));
        let impure = |path: &&Vec<String>| {
            IMPURE.iter().any(|what| is_below(path, what) || path.iter().any(|name| name == what))
                || path.len() > 1
                    && crates.contains(&path[0])
                    && !is_module(&path[0])
                    && !PURE_CRATES.iter().any(|part| is_below(path, part))
        };
        let paths = file.paths();
        wrong.extend(paths.iter().filter(impure).map(|path| format!("{}: {}", file.name, path.join("::"))));
    }
    assert!(seen > 40, "only {seen} files: the rooms have moved");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn words_of_nft_are_compared_in_one_place() {
    let mut wrong = Vec::new();
    for file in Source::all().into_iter().filter(|file| file.name != WITH_WORDS) {
        let code = file.text.split("#[cfg(test)]").next().unwrap();
        let is_named =
            |word: &&&str| code.contains(&format!("\"{word}")) || code.contains(&format!("{word}\""));
        wrong.extend(WORDS.iter().filter(is_named).map(|word| format!("{}: {word}", file.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_where_it_is() {
    let is_unsafe = |file: &Source| file.text.contains("allow(unsafe_code)");
    let files: BTreeSet<String> = Source::all().into_iter().filter(is_unsafe).map(|file| file.name).collect();
    let allowed: BTreeSet<String> = UNSAFE.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(&files - &allowed, BTreeSet::new());
}

/// The page for contributors.
const PAGE: &str = "docs/architecture.md";

#[test]
fn page_for_contributors_has_each_room_event_and_action() {
    let page = read(PAGE);
    let rooms: BTreeSet<String> = ROOMS.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(named_in_table(&page, "## Rooms"), rooms, "rooms in {PAGE}");
    let events = variants(&read("src/engine/event.rs"), "Event");
    assert_eq!(named_in_table(&page, "### Events"), events, "events in {PAGE}");
    let actions = variants(&read("src/engine/action.rs"), "Action");
    assert_eq!(named_in_table(&page, "### Actions"), actions, "actions in {PAGE}");
}

#[test]
fn page_for_contributors_calls_pure_what_is() {
    let page = read(PAGE);
    let rows = section(&page, "## Rooms").lines().filter(|line| line.starts_with("| `"));
    let said: BTreeSet<&str> =
        rows.filter(|row| row.contains(" | yes")).map(|row| row.split('`').nth(1).unwrap()).collect();
    let is_room = |name: &&str| ROOMS.iter().any(|(room, _)| room == name);
    let pure: BTreeSet<&str> = PURE.iter().map(|name| name.trim_end_matches(".rs")).filter(is_room).collect();
    assert_eq!(said, pure);
}

/// A file of the project.
fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands below a heading of a page, up to the next one.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    rest.find("\n#").map_or(rest, |end| &rest[..end])
}

/// The names in the first column of the table below a heading.
fn named_in_table(page: &str, heading: &str) -> BTreeSet<String> {
    let rows = section(page, heading).lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned()).collect()
}

/// The variants of an enum, from its source as rustfmt writes it.
fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let (_, rest) = source.split_once(&format!("pub enum {name} {{\n")).unwrap();
    let body = &rest[..rest.find("\n}").unwrap()];
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    let found = lines.filter(|line| line.starts_with(char::is_uppercase));
    found.map(|line| line[..line.find([' ', '(', ',', '{']).unwrap()].to_owned()).collect()
}

/// Whether `path` is `of`, or in it.
fn is_below(path: &[String], of: &str) -> bool {
    let of: Vec<&str> = of.split("::").collect();
    path.len() >= of.len() && path.iter().zip(of).all(|(name, other)| name == other)
}

/// The crates that Cargo.toml names, as Rust spells them.
fn dependencies() -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let table = text.split("\n[").find_map(|table| table.strip_prefix("dependencies]\n")).unwrap();
    table.lines().filter_map(|line| Some(line.split_once('=')?.0.trim().replace('-', "_"))).collect()
}

/// A file of the crate, without its tests.
struct Source {
    /// Below `src`.
    name: String,
    room: String,
    /// The names of the modules from the crate's root to it.
    module: Vec<String>,
    text: String,
}

impl Source {
    /// All files but those that are for tests only.
    fn all() -> Vec<Self> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = BTreeMap::new();
        for path in files_below(&top) {
            let name = path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
            files.insert(name.clone(), Self::of(name, fs::read_to_string(path).unwrap()));
        }
        let for_tests: BTreeSet<Vec<String>> =
            files.values().flat_map(|file| code(&file.text, &file.module).for_tests).collect();
        let is_one =
            |file: &Self| (1..=file.module.len()).any(|length| for_tests.contains(&file.module[..length]));
        // lib.rs only lists the rooms.
        files.into_values().filter(|file| !is_one(file) && file.name != "lib.rs").collect()
    }

    fn of(name: String, text: String) -> Self {
        let stem = name.strip_suffix(".rs").unwrap_or(&name);
        let stem = stem.strip_suffix("/mod").unwrap_or(stem);
        let module: Vec<String> = stem.split('/').map(str::to_owned).collect();
        Self { room: module[0].clone(), name, module, text }
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            let rest = self.name.strip_prefix(place);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
        })
    }

    /// All paths that it names, those of this crate from its root on.
    fn paths(&self) -> Vec<Vec<String>> {
        code(&self.text, &self.module).paths.into_iter().map(|(_, path)| path).collect()
    }

    /// The paths into this crate.
    fn imports(&self) -> Vec<Vec<String>> {
        let paths = code(&self.text, &self.module).paths;
        paths.into_iter().filter(|(of_crate, _)| *of_crate).map(|(_, path)| path).collect()
    }
}

fn files_below(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    let of_ours =
        |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|extension| extension == "rs");
    entries.filter(of_ours).flat_map(|entry| files_below(&entry)).collect()
}

/// What a file's code, tests apart, says of other modules.
#[derive(Debug, Default)]
struct Code {
    /// Each path; and whether it is of this crate, from whose root it is then. A single name is a path, too.
    paths: Vec<(bool, Vec<String>)>,
    /// Modules in other files that are for tests only.
    for_tests: Vec<Vec<String>>,
}

fn code(text: &str, module: &[String]) -> Code {
    let mut reader = Reader { tokens: tokens(text), at: 0, module: module.to_vec(), code: Code::default() };
    reader.items();
    reader.code
}

/// Names, `::`, and all other characters one by one; no comments, strings and lifetimes.
fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            _ if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            _ if raw_string(rest).is_some() => raw_string(rest).unwrap(),
            '"' => quoted(rest, '"'),
            // `'x'` and `'\n'` are characters; `'a` is a lifetime, whose name means nothing here.
            '\'' if rest[1..].starts_with('\\') => quoted(rest, '\''),
            '\'' => {
                let inner = rest[1..].chars().next().map_or(0, char::len_utf8);
                if rest[1 + inner..].starts_with('\'') { inner + 2 } else { 1 + name(&rest[1..]) }
            }
            _ if name(rest) > 0 => {
                found.push(rest[..name(rest)].to_owned());
                name(rest)
            }
            _ if rest.starts_with("::") => {
                found.push("::".to_owned());
                2
            }
            _ => {
                if !c.is_whitespace() {
                    found.push(c.to_string());
                }
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    found
}

fn name(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// The length of what is in these quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = true;
    for (at, c) in text.char_indices() {
        if c == quote && !is_escaped {
            return at + 1;
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#` and the like.
fn raw_string(text: &str) -> Option<usize> {
    let text_of = text.strip_prefix('b').unwrap_or(text).strip_prefix('r')?;
    let hashes = text_of.len() - text_of.trim_start_matches('#').len();
    let inner = text_of[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - inner.len();
    Some(inner.find(&end).map_or(text.len(), |at| start + at + end.len()))
}

struct Reader {
    tokens: Vec<String>,
    at: usize,
    /// Where the tokens are: the file's module, and those in it.
    module: Vec<String>,
    code: Code,
}

impl Reader {
    fn peek(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", String::as_str)
    }

    fn starts_with(&self, tokens: &[&str]) -> bool {
        tokens.iter().enumerate().all(|(ahead, token)| self.peek(ahead) == *token)
    }

    /// Reads to the end, or to the `}` that closes an inline module.
    fn items(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.tokens.len() {
            if self.starts_with(&["#", "[", "cfg", "(", "test", ")", "]"]) {
                self.at += 7;
                self.skip_item();
            } else if self.peek(0) == "mod" && self.peek(2) == "{" {
                self.module.push(self.peek(1).to_owned());
                self.at += 3;
                self.items();
                self.module.pop();
            } else if self.peek(0) == "use" && self.peek(1) != "<" {
                self.at += 1;
                self.tree(&[]);
            } else if is_name(self.peek(0)) {
                let path = self.path();
                self.add(path);
            } else {
                match self.peek(0) {
                    "{" => depth += 1,
                    "}" if depth == 0 => {
                        self.at += 1;
                        return;
                    }
                    "}" => depth -= 1,
                    _ => {}
                }
                self.at += 1;
            }
        }
    }

    /// Goes behind an item: behind its `;`, or its block. Other files for tests are written down.
    fn skip_item(&mut self) {
        let begin = self.at;
        let head = self.tokens[begin..].iter().take_while(|token| *token != "{" && *token != ";");
        let head: Vec<String> = head.cloned().collect();
        // The braces of a `use` are not its end.
        let has_block = !head.iter().any(|token| token == "use");
        let mut depth = 0_usize;
        while self.at < self.tokens.len() {
            self.at += 1;
            match self.tokens[self.at - 1].as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => {}
            }
            if has_block && depth == 0 && self.tokens[self.at - 1] == "}" {
                break;
            }
        }
        if let Some(at) = head.iter().position(|token| token == "mod")
            && self.tokens[self.at - 1] == ";"
        {
            self.code.for_tests.push([&self.module[..], &head[at + 1..]].concat());
        }
    }

    /// `a::b::c`, from where it stands. A `::` at its beginning or end belongs to it.
    fn path(&mut self) -> Vec<String> {
        let mut path = vec![self.peek(0).to_owned()];
        self.at += 1;
        while self.peek(0) == "::" && is_name(self.peek(1)) {
            path.push(self.peek(1).to_owned());
            self.at += 2;
        }
        path
    }

    /// What a `use` has below a path: `a::{b, c::*} as d`.
    fn tree(&mut self, above: &[String]) {
        let mut path = above.to_vec();
        loop {
            match self.peek(0) {
                "::" => self.at += 1,
                "{" => {
                    self.at += 1;
                    while !matches!(self.peek(0), "}" | "") {
                        self.tree(&path);
                        if self.peek(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "as" => self.at += 2,
                name if is_name(name) || name == "*" => {
                    path.push(name.to_owned());
                    self.at += 1;
                }
                _ => {
                    self.add(path);
                    return;
                }
            }
        }
    }

    /// Takes a path over, from the crate's root if it is of this crate.
    fn add(&mut self, path: Vec<String>) {
        let mut names = path.iter().map(String::as_str).peekable();
        let mut base = match names.peek() {
            Some(&("crate" | "scnpm")) if path.len() > 1 => vec![],
            Some(&("self" | "super")) if path.len() > 1 => self.module.clone(),
            _ => {
                self.code.paths.push((false, path));
                return;
            }
        };
        while let Some(name) = names.next_if(|name| ["crate", "scnpm", "self", "super"].contains(name)) {
            if name == "super" {
                base.pop();
            }
        }
        base.extend(names.map(str::to_owned));
        if base.last().is_some_and(|name| name == "self") {
            base.pop();
        }
        if !base.is_empty() {
            self.code.paths.push((true, base));
        }
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths into the crate that a file of the module `a::b` names.
    fn imports(text: &str) -> Vec<String> {
        Source::of("a/b.rs".to_owned(), text.to_owned())
            .imports()
            .iter()
            .map(|path| path.join("::"))
            .collect()
    }

    #[test]
    fn braces_are_seen_in_and_through() {
        assert_eq!(
            imports("use crate::{a::B, c::{d, e::{self, F as G}}, h::*};\npub(crate) use crate::i::J;"),
            ["a::B", "c::d", "c::e", "c::e::F", "h::*", "i::J"]
        );
        assert_eq!(
            imports("use scnpm::{\n    cli::{self, Cli}, // x\n    daemon,\n};"),
            ["cli", "cli::Cli", "daemon"]
        );
        assert_eq!(imports("use {crate::c, std::fmt};"), ["c"]);
    }

    #[test]
    fn parents_are_followed() {
        assert_eq!(imports("use super::{c, super::d::{E, f::G}};"), ["a::c", "d::E", "d::f::G"]);
        assert_eq!(imports("fn f() { super::super::d::g(); self::h(); }"), ["d::g", "a::b::h"]);
        assert_eq!(
            imports("mod inner { use super::c; use super::super::super::d; }\nuse super::e;"),
            ["a::b::c", "d", "a::e"]
        );
        let of_folder = Source::of("a/mod.rs".to_owned(), "use super::d;".to_owned());
        assert_eq!((of_folder.room.as_str(), of_folder.imports()), ("a", vec![vec!["d".to_owned()]]));
    }

    #[test]
    fn paths_within_code_are_imports() {
        assert_eq!(
            imports(
                "fn f(x: &'a crate::c::D<crate::e::F>) -> crate::g::H { $crate::i!(\"{}\", crate::j::K) }"
            ),
            ["c::D", "e::F", "g::H", "i", "j::K"]
        );
        assert_eq!(imports("macro_rules! m { () => { crate::c::d() } }"), ["c::d"]);
    }

    #[test]
    fn comments_strings_and_tests_are_none() {
        assert_eq!(
            imports(
                "// use crate::c;\n/* crate::d */ /// [`crate::e`]\nconst T: &str = \"crate::f \\\" crate::g\";\n\
                 const R: &str = r#\"\" crate::h\"#; const C: char = '\"'; const Q: char = '\\''; use crate::i;"
            ),
            ["i"]
        );
        assert_eq!(
            imports(
                "#[cfg(test)]\nuse crate::{c, d};\n#[cfg(test)]\nfn x() { crate::e() }\n#[cfg(test)]\nmod tests { use crate::f; }\n\
                 use crate::g;"
            ),
            ["g"]
        );
        let code = code("#[cfg(test)]\npub(crate) mod testing;\nuse crate::c;", &["a".to_owned()]);
        assert_eq!(code.for_tests, [["a", "testing"]]);
        assert_eq!(code.paths, [(true, vec!["c".to_owned()])]);
    }

    #[test]
    fn names_of_other_crates_are_paths() {
        let source = Source::of(
            "a.rs".to_owned(),
            "use std::{io, fs::{self, File}};\nfn f() { tokio::spawn(); println!() }".to_owned(),
        );
        let paths: Vec<String> = source.paths().iter().map(|path| path.join("::")).collect();
        for path in ["std::io", "std::fs::self", "std::fs::File", "tokio::spawn", "println"] {
            assert!(paths.contains(&path.to_owned()), "{path} in {paths:?}");
        }
    }
}
