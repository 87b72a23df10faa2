//! The corpora of the fuzz targets through their checks, as they are in the tree. policy_corpus has that of the parser.

use std::{collections::BTreeSet, fs, path::Path};

use scnpm::{model::UnitState, watch::Heard};

#[path = "common/fuzz/mod.rs"]
mod checks;

#[test]
fn kernels_messages_are_understood() {
    let answered = each("netlink", checks::netlink::check);
    assert!(answered.iter().filter(|answers| **answers > 0).count() >= 10, "{answered:?}");
    let recorded = each("netlink", checks::netlink::recorded_objects);
    assert!(recorded.contains(&Some(4)), "{recorded:?}");
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

#[test]
fn clients_are_answered() {
    let found = each("control", checks::control::check);
    let answers: Vec<_> = found.iter().flat_map(|one| &one.answers).collect();
    let has = |field: &str| answers.iter().any(|answer| answer["parameters"].get(field).is_some());
    for field in ["status", "annotations", "loaded", "interfaces", "description", "change", "filling"] {
        assert!(has(field), "{field}");
    }
    let errors: BTreeSet<&str> = answers.iter().filter_map(|answer| answer["error"].as_str()).collect();
    let of_ours = ["NoSuchUnit", "NothingOnTrial", "TooMuch"].map(|name| format!("io.scnpm.{name}"));
    let of_all = ["InterfaceNotFound", "InvalidParameter", "MethodNotFound"];
    let of_all = of_all.map(|name| format!("org.varlink.service.{name}"));
    assert_eq!(errors, of_ours.iter().chain(&of_all).map(String::as_str).collect());
    let ended: usize = found.iter().map(|one| one.ended).sum();
    assert!(ended >= 10, "{ended} are closed");
    let told: BTreeSet<&str> = found.iter().flat_map(|one| &one.told).map(String::as_str).collect();
    for kind in ["Reply", "Ended", "Older", "Failed", "NotPermitted", "NoSuchUnit", "not understood"] {
        assert!(told.contains(kind), "{kind}: {told:?}");
    }
}

/// What a check says of each input of a corpus.
fn each<T>(corpus: &str, check: impl Fn(&[u8]) -> T) -> Vec<T> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(corpus);
    let mut inputs: Vec<_> = fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!((1..=40).contains(&inputs.len()), "{} files", inputs.len());
    let check = |file| {
        println!("{}", Path::display(file));
        let input = fs::read(file).unwrap();
        assert!(input.len() <= 8192, "{} bytes", input.len());
        check(&input)
    };
    inputs.iter().map(|file| check(file)).collect()
}
