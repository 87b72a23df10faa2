//! The rooms of the crate, and which may know of which: what is pure stays so.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Text to policy, policy to dispatch, events to actions.
const PURE: [&str; 6] = ["model.rs", "policy", "lint", "dispatch", "engine", "watch/shares.rs"];

/// Rooms that touch the machine, the clock or the user.
const IMPURE: [&str; 12] = [
    "nft", "watch", "cgroupfs", "machine", "trial", "report", "effects", "load", "daemon", "commands", "cli",
    "log",
];

/// What a pure room would touch them with.
const MACHINE: [&str; 9] =
    ["fs::", "process::", "thread::", "env::", "Instant", "SystemTime", "tokio::", "HashMap", "HashSet"];

/// The only way in which the parser reads.
const FILES: &str = "policy/files.rs";

#[test]
fn pure_rooms_know_neither_the_machine_nor_the_impure_ones() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for room in PURE {
        for file in sources(&source(room)) {
            seen += 1;
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate() {
                if line.trim_start().starts_with("//") {
                    continue;
                }
                let imports = IMPURE.iter().any(|room| line.contains(&format!("crate::{room}")));
                let touches = MACHINE.iter().any(|word| line.contains(word)) && !file.ends_with(FILES);
                if imports || touches {
                    wrong.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(seen > 15, "only {seen} files: the rooms have moved");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_where_it_is() {
    let allowed = [
        "nft/libnftables.rs",
        "watch/sigbus.rs",
        "watch/pages.rs",
        "watch/readable.rs",
        "daemon/priority.rs",
        "trial/attempt.rs",
    ];
    let with_unsafe: Vec<PathBuf> = sources(&source(""))
        .into_iter()
        .filter(|file| fs::read_to_string(file).unwrap().contains("allow(unsafe_code)"))
        .filter(|file| !allowed.iter().any(|allowed| file.ends_with(allowed)))
        .collect();
    assert_eq!(with_unsafe, Vec::<PathBuf>::new());
}

fn source(room: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room)
}

fn sources(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let of_ours =
        |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|extension| extension == "rs");
    entries.into_iter().filter(of_ours).flat_map(|entry| sources(&entry)).collect()
}
