use super::*;
use crate::{
    commands::top::testing::{at, machine, names, press, refusal, status, unit},
    control::message::Unit,
};

fn told(state: &mut State, units: Vec<Unit>, since_start: u64) {
    state.take(Event::Status(Box::new(status(units)), Users::new()), at(since_start));
}

#[test]
fn rates_are_differences_over_time() {
    let mut state = State::new((80, 24), true, String::new());
    let rate = |state: &State| (state.rows[0].packet_rate, state.rows[0].byte_rate);
    told(&mut state, vec![unit("a.service", Some(100))], 0);
    assert_eq!(rate(&state), (None, None), "nothing to compare with");
    told(&mut state, vec![unit("a.service", Some(300))], 2_000);
    assert_eq!(rate(&state), (Some(100), Some(10_000)));
    told(&mut state, vec![unit("a.service", Some(900))], 2_100);
    assert_eq!(rate(&state), (Some(100), Some(10_000)), "too soon to tell");
    told(&mut state, vec![unit("a.service", Some(900))], 4_000);
    assert_eq!(rate(&state), (Some(300), Some(30_000)));
    told(&mut state, vec![unit("a.service", Some(5))], 6_000);
    assert_eq!(rate(&state), (None, None), "the counter was reset");
    told(&mut state, vec![unit("a.service", None)], 8_000);
    assert_eq!(rate(&state), (None, None), "it may not be told any more");
    told(&mut state, vec![unit("a.service", Some(7))], 10_000);
    let mut another = status(vec![unit("a.service", Some(1_000_000))]);
    another.pid = 43;
    state.take(Event::Status(Box::new(another), Users::new()), at(12_000));
    assert_eq!(rate(&state), (None, None), "another daemon");
}

#[test]
fn filter_looks_at_all_of_a_refusal() {
    let mut state = machine((80, 24));
    for (text, expected) in
        [("mirror", 1), ("backup", 2), ("2001:DB8", 1), ("type 8", 1), ("firefox", 1), ("587", 1)]
    {
        press(&mut state, &format!("/{text}\n"));
        assert_eq!(state.refusals.order.len(), expected, "{text}");
        press(&mut state, "\x1b");
    }
}

#[test]
fn sockets_and_refusals_are_counted_for_their_units() {
    let mut state = machine((80, 24));
    let row = |state: &State, name: &str| state.rows.iter().find(|row| row.name == name).unwrap().clone();
    let firefox = row(&state, "alice:app:org.mozilla.firefox");
    assert_eq!(firefox.sockets, Some(Sockets { connected: 12, listening: 1 }));
    assert_eq!(firefox.refusals, Some(3));
    assert_eq!(row(&state, "postfix.service").sockets.map(|sockets| sockets.connected), Some(12));
    assert_eq!(row(&state, "backup.service").refusals, Some(123_459));
    // More packets of what is known already.
    let more = Refusal { packets: 10, ..refusal("backup.service", "192.0.2.25", 25) };
    state.take(Event::MoreRefusals(vec![more]), at(3_000));
    assert_eq!((row(&state, "backup.service").refusals, state.list.len()), (Some(123_466), 4));
    state.take(Event::Sockets(None), at(3_000));
    assert_eq!(row(&state, "postfix.service").sockets, None);
    state.take(Event::NoRefusals(String::new()), at(3_000));
    assert_eq!((row(&state, "backup.service").refusals, state.list.len()), (None, 0));
    state.take(Event::AllRefusals(vec![]), at(3_000));
    assert_eq!(row(&state, "backup.service").refusals, Some(0), "they are recorded now");
}

#[test]
fn daemon_that_is_back_is_believed() {
    let mut state = machine((80, 24));
    state.take(Event::Gone("it is gone".to_owned()), at(3_000));
    assert!(state.gone.is_some() && state.rows.len() == 5, "what was known stays");
    told(&mut state, vec![unit("a.service", None)], 4_000);
    assert!(state.gone.is_none());
    assert_eq!(names(&state), ["a.service"]);
}

#[test]
fn oldest_refusals_go_first() {
    let mut state = machine((80, 24));
    let of = |number: u64| Refusal { cgroup_id: number, at: number, ..refusal("a.service", "192.0.2.1", 1) };
    let most = MOST_REFUSALS as u64;
    state.take(Event::AllRefusals((0..most + 5).map(of).collect()), at(0));
    assert_eq!(state.list.len(), MOST_REFUSALS);
    assert!(state.list.iter().all(|refusal| refusal.at >= 5));
}
