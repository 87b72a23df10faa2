//! The corpora of the fuzz targets through their checks, as they are in the tree. policy_corpus has that of the parser.

use std::{fs, path::Path};

use scnpm::{model::UnitState, watch::Heard};

#[path = "common/fuzz/mod.rs"]
mod checks;

#[test]
fn kernels_messages_are_understood() {
    let answered = each("netlink", checks::netlink::check);
    assert!(answered.iter().filter(|answers| **answers > 0).count() >= 10, "{answered:?}");
}

#[test]
fn journals_entries_are_heard() {
    let heard = each("journal", checks::journal::check).concat();
    assert!(heard.iter().any(|heard| matches!(heard, Heard::JobDone(_))));
    assert!(heard.iter().any(|heard| matches!(heard, Heard::State(_, UnitState::Active))));
    assert!(heard.iter().any(|heard| matches!(heard, Heard::State(_, UnitState::Inactive))));
}

#[test]
fn systemds_messages_are_heard() {
    let heard = each("dbus", checks::dbus::check).concat();
    assert!(heard.contains(&Heard::Resumed));
    assert!(heard.iter().any(|heard| matches!(heard, Heard::JobDone(_))));
    for state in [UnitState::Active, UnitState::Inactive, UnitState::Missing] {
        assert!(heard.iter().any(|heard| matches!(heard, Heard::State(_, of) if *of == state)), "{state:?}");
    }
}

#[test]
fn state_logs_are_replayed() {
    let lines = each("state_log", checks::state_log::check);
    assert!(lines.iter().sum::<usize>() >= 20, "{lines:?}");
}

#[test]
fn selected_cgroups_have_their_elements() {
    let selected = each("selectors", checks::selectors::check);
    assert!(selected.iter().filter(|count| **count > 0).count() >= 3, "{selected:?}");
}

/// What a check says of each input of a corpus.
fn each<T>(corpus: &str, check: impl Fn(&[u8]) -> T) -> Vec<T> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(corpus);
    let mut inputs: Vec<_> = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!((1..=30).contains(&inputs.len()), "{} files", inputs.len());
    let check = |file| {
        println!("{}", Path::display(file));
        let input = fs::read(file).unwrap();
        assert!(input.len() <= 8192, "{} bytes", input.len());
        check(&input)
    };
    inputs.iter().map(|file| check(file)).collect()
}
