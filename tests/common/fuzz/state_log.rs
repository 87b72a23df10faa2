//! What holds of each file that is taken for a state log, and of the engine that is told what it says.

use std::time::Duration;

use scnpm::{
    commands::replay::replay,
    engine::{Action, Engine},
    record::{Entry, Step},
};

/// Nobody's clock goes further.
const LATEST: Duration = Duration::from_secs(1 << 40);

/// Panics if something does not hold. How many lines are of a state log.
pub fn check(input: &[u8]) -> usize {
    check_output(input);
    let mut engine = Engine::default();
    let entries =
        input.split(|byte| *byte == b'\n').map_while(|line| Entry::parse(str::from_utf8(line).ok()?).ok());
    entries.map(|entry| check_entry(&mut engine, &entry)).count()
}

/// What is printed is a line for a line, and harms no terminal.
fn check_output(input: &[u8]) {
    let (mut all, mut different) = (Vec::new(), Vec::new());
    let (outcome, _) = replay(input, &mut all, false);
    assert_eq!(outcome, replay(input, &mut different, true).0);
    let all = String::from_utf8(all).expect("text");
    assert!(!all.contains(|character: char| character.is_control() && character != '\n'), "{all:?}");
    let lines = String::from_utf8(different).expect("text").lines().count();
    assert!(different_lines(&outcome).is_none_or(|expected| lines == expected), "{all}");
    if let Err(words) = outcome {
        assert!(!words.contains(char::is_control) && words.contains(": "), "{words:?}");
    }
}

/// Two for each line that is decided otherwise, and the last.
fn different_lines(outcome: &Result<usize, String>) -> Option<usize> {
    outcome.as_ref().ok().map(|different| if *different == 0 { 0 } else { 2 * different + 1 })
}

fn check_entry(engine: &mut Engine, entry: &Entry) {
    let words = entry.words();
    assert!(!words.contains('\n') && !words.contains(" :: "), "{words:?}");
    assert_eq!(Entry::parse(&entry.line("now").unwrap()).unwrap(), *entry);
    match &entry.step {
        Step::Snapshot(snapshot) => *engine = Engine::from((**snapshot).clone()),
        Step::Event(event) => engine.handle(entry.at, event.clone()),
        Step::Actions(_) => check_actions(engine, entry.at),
    }
    check_engine(engine);
}

fn check_actions(engine: &mut Engine, now: Duration) {
    let commits = |actions: Vec<Action>| actions.iter().any(|action| matches!(action, Action::Commit(_)));
    engine.actions(now);
    assert!(!commits(engine.actions(now)), "what is under way is not begun again");
    assert!(now > LATEST || engine.timeout().is_none_or(|at| at > now), "what is due is done");
}

fn check_engine(engine: &Engine) {
    let figures = engine.figures();
    assert!(figures.held <= figures.elements, "{figures:?}");
    let snapshot = engine.snapshot();
    let again = Engine::from(snapshot.clone());
    assert_eq!(again.figures(), figures);
    assert_eq!(again.snapshot(), snapshot);
}
