//! Logs of daemons that ran (`--state-log`), told to the engine of today: it decides what actions.txt says. `SCNPM_BLESS=1`
//! writes that file anew.

use std::{env, fmt::Write, fs, path::Path};

use scnpm::record::{Entry, Replay, Step};

fn replayed(log: &str) -> String {
    let mut replay = Replay::default();
    let mut text = String::new();
    for line in log.lines() {
        let entry = Entry::parse(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let today = replay.step(&entry);
        let mark = if matches!(entry.step, Step::Actions(_)) { "  -> " } else { "" };
        let _ = writeln!(text, "{mark}{}", entry.words());
        if let Some(today) = today {
            let _ = writeln!(text, "  today: {}", Entry { at: entry.at, step: Step::Actions(today) }.words());
        }
    }
    text
}

#[test]
fn engine_decides_what_was_reviewed() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine");
    let mut cases: Vec<_> = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    for case in cases {
        let found = replayed(&fs::read_to_string(case.join("events.jsonl")).unwrap());
        let reviewed = case.join("actions.txt");
        if env::var_os("SCNPM_BLESS").is_some() {
            fs::write(&reviewed, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&reviewed).unwrap_or_default(), "{}", case.display());
    }
}

#[test]
fn other_decision_is_shown_beside_that_of_the_log() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine/01-start-stop/events.jsonl");
    let log = fs::read_to_string(case).unwrap();
    assert!(!replayed(&log).contains("today:"));
    let deaf: String =
        log.lines().filter(|line| !line.contains("CgroupSeen")).map(|line| format!("{line}\n")).collect();
    assert!(replayed(&deaf).contains("today:"));
}
