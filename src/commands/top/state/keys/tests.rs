use super::*;
use crate::{
    commands::top::{
        rows::Column,
        state::{Event, words_at_bottom},
        testing::{allowance, at, machine, names, press, refusal, status},
    },
    units::selector::Users,
};

#[test]
fn keys_sort_and_filter() {
    let mut state = machine((200, 50));
    let all = [
        "alice:app:org.mozilla.firefox",
        "postfix.service",
        "unbound.service",
        "user:app:signal",
        "backup.service",
    ];
    assert_eq!(names(&state), all, "by bytes a second at first");
    press(&mut state, "r");
    assert_eq!(names(&state)[..2], ["backup.service", "unbound.service"]);
    for _ in 0..UnitColumn::ALL.len() {
        press(&mut state, "<");
    }
    assert_eq!(names(&state), all, "all columns round, and not reversed any more");
    while state.units.column != UnitColumn::Unit as usize {
        press(&mut state, "s");
    }
    assert_eq!(names(&state)[..2], ["alice:app:org.mozilla.firefox", "backup.service"]);
    while state.units.column != UnitColumn::State as usize {
        press(&mut state, ">");
    }
    assert_eq!(names(&state)[0], "unbound.service", "what is wrong is first");
    press(&mut state, "/SIG");
    assert_eq!(names(&state), ["user:app:signal"]);
    press(&mut state, "x\x7f\x7f\x7f\x7f");
    assert_eq!(names(&state).len(), 5);
    press(&mut state, "\x7f");
    assert_eq!(state.mode, Mode::Lists);
    press(&mut state, "/sig\n");
    assert_eq!((names(&state).len(), state.mode.clone()), (1, Mode::Lists));
    press(&mut state, "/nal\x1b");
    assert_eq!(state.filter, "sig", "Esc leaves the filter as it was");
    press(&mut state, "\x1b");
    assert_eq!(names(&state).len(), 5);
}

#[test]
fn hidden_columns_are_not_sorted_by() {
    let mut state = machine((80, 24));
    for _ in 0..20 {
        press(&mut state, "s");
        assert!(!UnitColumn::ALL[state.units.column].is_for_wide());
    }
}

#[test]
fn refusals_are_allowed_after_a_yes_only() {
    let mut state = machine((80, 24));
    assert_eq!(press(&mut state, "a"), Action::Nothing);
    assert!(matches!(state.note, Some(Err(_))), "the list of units has nothing to allow");
    press(&mut state, "\t\t");
    assert_eq!(state.focus, Focus::Refusals);
    while state.refusal().unwrap().port != Some(25) {
        press(&mut state, "j");
    }
    for no in ["an", "a\x1b", "a\n", "aq"] {
        assert_eq!(press(&mut state, no), Action::Nothing);
        assert_eq!(state.mode, Mode::Lists, "{no:?}");
    }
    press(&mut state, "a");
    let Mode::Question(question, _) = &state.mode else { panic!("{:?}", state.mode) };
    assert_eq!(
        question,
        "Let packets of system:backup.service pass to 192.0.2.25, tcp port 25, for 5 minutes?"
    );
    assert_eq!(press(&mut state, "xj"), Action::Nothing, "only y is yes");
    // What is asked about stays the same, whatever comes meanwhile.
    state.take(Event::AllRefusals(vec![refusal("z.service", "192.0.2.1", 1)]), at(3_000));
    let expected = Allow {
        unit: "system:backup.service".to_owned(),
        address: "192.0.2.25".to_owned(),
        protocol: Some("tcp".to_owned()),
        port: Some(25),
        direction: Some(Direction::Out),
        for_ms: 300_000,
    };
    assert_eq!(press(&mut state, "y"), Action::Allow(expected));
    state.take(Event::Answer(Err("polkit does not permit it".to_owned())), at(3_000));
    assert_eq!(words_at_bottom(&state), Some(("polkit does not permit it".to_owned(), true)));
    press(&mut state, "j");
    assert_eq!(words_at_bottom(&state), None);
}

#[test]
fn unknown_units_are_neither_allowed_nor_explained() {
    let mut state = machine((80, 24));
    state.take(
        Event::AllRefusals(vec![Refusal {
            unit: None,
            cgroup: None,
            selector: None,
            annotation: None,
            ..refusal("x.service", "192.0.2.1", 1)
        }]),
        at(3_000),
    );
    press(&mut state, "\t\t");
    for key in ["a", "e", "c"] {
        assert_eq!(press(&mut state, key), Action::Nothing);
        assert!(matches!(state.note, Some(Err(_))), "{key}");
        assert_eq!(state.mode, Mode::Lists);
    }
}

#[test]
fn explain_is_asked_about_what_is_selected() {
    let mut state = machine((80, 24));
    let words = |words: &[&str]| Action::Explain(words.iter().map(|word| (*word).to_owned()).collect());
    assert_eq!(press(&mut state, "j\n"), words(&["--", "postfix.service"]));
    assert_eq!(press(&mut state, "\n"), Action::Nothing, "one at a time");
    state.take(
        Event::Output { title: "scnpm explain".to_owned(), text: "one\ntwo\x1b[31m\tthree\n".to_owned() },
        at(0),
    );
    let Mode::Text(text) = &state.mode else { panic!("{:?}", state.mode) };
    assert_eq!(text.lines, ["one", "two\u{fffd}[31m    three"]);
    press(&mut state, "q\t\t");
    while state.refusal().unwrap().port != Some(443) {
        press(&mut state, "j");
    }
    assert_eq!(
        press(&mut state, "e"),
        words(&[
            "--to",
            "[2001:db8:1:2:3:4:5:6]:443",
            "--no-probe",
            "--proto",
            "tcp",
            "--",
            "system:backup.service"
        ])
    );
}

#[test]
fn texts_scroll_within_their_ends() {
    let mut state = machine((80, 24));
    let text: Vec<String> = (0..100).map(|line| line.to_string()).collect();
    state.take(Event::Output { title: String::new(), text: text.join("\n") }, at(0));
    let top = |state: &State| match &state.mode {
        Mode::Text(text) => text.top,
        mode => panic!("{mode:?}"),
    };
    for (keys, expected) in [("j", 1), ("kk", 0), ("G", 78), ("j", 78), ("k", 77), ("g", 0), (" ", 21)] {
        press(&mut state, keys);
        assert_eq!(top(&state), expected, "{keys}");
    }
    state.take(Event::Resized(80, 200), at(0));
    assert_eq!(top(&state), 0, "all of it is in view");
}

#[test]
fn allowances_are_ended_by_their_number() {
    let mut state = machine((80, 24));
    press(&mut state, "u");
    assert!(matches!(state.note, Some(Err(_))));
    assert_eq!(press(&mut state, "\tju"), Action::Disallow(2));
    let mut one = status(vec![]);
    one.allowances = vec![allowance(1, 5_000)];
    state.take(Event::Status(Box::new(one), Users::new()), at(3_000));
    assert_eq!(press(&mut state, "u"), Action::Disallow(1));
    state.take(Event::Status(Box::new(status(vec![])), Users::new()), at(3_000));
    assert_eq!(state.focus, Focus::Units, "there are none any more");
}

#[test]
fn annotation_is_copied_as_it_is() {
    let mut state = machine((80, 24));
    press(&mut state, "\t\t");
    while state.refusal().unwrap().port != Some(25) {
        press(&mut state, "j");
    }
    let line = state.refusal().unwrap().annotation.clone().unwrap();
    assert_eq!(press(&mut state, "c"), Action::Copy(line.clone()));
    let Mode::Text(text) = &state.mode else { panic!("{:?}", state.mode) };
    assert!(text.text.starts_with(&format!("{line}\n")));
    let hostile =
        Refusal { annotation: Some("# a\x1b[31m".to_owned()), ..refusal("a.service", "192.0.2.1", 1) };
    state.take(Event::AllRefusals(vec![hostile]), at(3_000));
    assert_eq!(press(&mut state, "qc"), Action::Nothing);
    assert!(matches!(state.note, Some(Err(_))));
}

#[test]
fn keys_end_it_from_everywhere() {
    for keys in ["", "?", "/a", "\t\ta"] {
        let mut state = machine((80, 24));
        press(&mut state, keys);
        let now = state.now;
        assert_eq!(state.take(Event::Key(Key::Interrupt), now), Action::Quit, "{keys}");
        assert_eq!(state.take(Event::Key(Key::Suspend), now), Action::Suspend, "{keys}");
    }
    let mut state = machine((40, 10));
    assert_eq!(press(&mut state, "a\t/"), Action::Nothing, "nothing happens that cannot be seen");
    assert_eq!(state.mode, Mode::Lists);
    assert_eq!(press(&mut state, "q"), Action::Quit);
}
