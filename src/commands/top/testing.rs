//! Made-up daemons for tests.

use super::state::{Event, Key, Now, Sockets, State};
use crate::{
    control::message::{Allowance, Refusal, Status, Unit},
    model::{Direction, Location},
    units::selector::Users,
};

/// 200 s after the policy was loaded.
pub(super) const WALL: u64 = 1_000_000_000_000;

pub(super) fn at(since_start: u64) -> Now {
    Now { wall: WALL + since_start * 1000, since_start }
}

pub(super) fn unit(name: &str, packets: Option<u64>) -> Unit {
    Unit {
        name: name.to_owned(),
        annotations: vec![Location { file: "/etc/nftables.conf".to_owned(), line: 31 }],
        running: true,
        cgroups: 1,
        due: 2,
        in_kernel: 2,
        packets,
        bytes: packets.map(|packets| packets * 100),
        ..Unit::default()
    }
}

pub(super) fn status(units: Vec<Unit>) -> Status {
    Status {
        version: "0.1.0".to_owned(),
        pid: 42,
        loaded_at: WALL - 200_000_000,
        due: units.iter().map(|unit| unit.due).sum(),
        in_kernel: units.iter().map(|unit| unit.in_kernel).sum(),
        in_force: true,
        units,
        ..Status::default()
    }
}

pub(super) fn refusal(unit: &str, address: &str, port: u16) -> Refusal {
    Refusal {
        at: WALL - 5_000_000,
        unit: Some(unit.to_owned()),
        selector: Some(format!("system:{unit}")),
        cgroup: Some(format!("system.slice/{unit}")),
        address: address.parse().unwrap(),
        port: Some(port),
        packets: 3,
        chain: "inet filter denied".to_owned(),
        annotation: Some(format!(
            "# system:{unit} :: add rule inet filter allowed socket cgroupv2 unit ip daddr {address} tcp dport {port} accept"
        )),
        ..Refusal::example()
    }
}

pub(super) fn allowance(number: u64, left_ms: u64) -> Allowance {
    let annotation =
        format!("# system:backup.service :: add rule inet filter allowed tcp dport {number} accept");
    Allowance { number, annotation, left_ms }
}

/// A machine with something of everything.
pub(super) fn machine(size: (u16, u16)) -> State {
    let mut state = State::new(size, true, String::new());
    state.services = [((587, "tcp".to_owned()), "submission".to_owned())].into();
    let mut units = vec![
        unit("postfix.service", Some(1_000)),
        unit("alice:app:org.mozilla.firefox", Some(90_000)),
        unit("backup.service", None),
        Unit { running: false, cgroups: 0, due: 0, in_kernel: 0, ..unit("user:app:signal", Some(0)) },
        Unit { in_kernel: 1, missing: 1, ..unit("unbound.service", Some(77)) },
    ];
    let users = || Users::from([("alice".to_owned(), 1000)]);
    state.take(Event::Status(Box::new(status(units.clone())), users()), at(0));
    units[0].packets = Some(1_050);
    units[0].bytes = Some(100_900);
    units[1].packets = Some(100_000);
    units[1].bytes = Some(12_345_678);
    let mut second = status(units);
    second.allowances = vec![allowance(1, 300_000), allowance(2, 61_000)];
    state.take(Event::Status(Box::new(second), users()), at(2_000));
    let firefox = "user.slice/user-1000.slice/user@1000.service/app.slice/app-org.mozilla.firefox-12.scope";
    let mut list = vec![
        refusal("backup.service", "192.0.2.25", 25),
        refusal("backup.service", "2001:db8:1:2:3:4:5:6", 443),
        refusal("postfix.service", "198.51.100.7", 587),
    ];
    list[1].host = Some("mirror.example.org".to_owned());
    list[1].at = WALL - 600_000_000;
    list[1].packets = 123_456;
    list[2] = Refusal {
        unit: Some("app-org.mozilla.firefox-12.scope".to_owned()),
        uid: Some(1000),
        app: Some("org.mozilla.firefox".to_owned()),
        selector: Some("alice:app:org.mozilla.firefox".to_owned()),
        cgroup: Some(firefox.to_owned()),
        annotation: None,
        ..list[2].clone()
    };
    list.push(Refusal {
        direction: Direction::In,
        protocol: "icmp".to_owned(),
        port: None,
        icmp_type: Some(8),
        unit: None,
        selector: None,
        cgroup: None,
        cgroup_id: 4711,
        ..refusal("x.service", "203.0.113.9", 0)
    });
    state.take(Event::AllRefusals(list), at(2_000));
    let sockets = Sockets { connected: 12, listening: 1 };
    let sockets = [
        ("system.slice/postfix.service/deeper".parse().unwrap(), sockets),
        (firefox.parse().unwrap(), sockets),
    ];
    state.take(Event::Sockets(Some(sockets.into())), at(2_000));
    state
}

/// The names of the units that are shown, in their order.
pub(super) fn names(state: &State) -> Vec<&str> {
    state.units.order.iter().map(|line| state.rows[*line].name.as_str()).collect()
}

pub(super) fn press(state: &mut State, keys: &str) -> super::state::Action {
    let now = state.now;
    let mut last = super::state::Action::Nothing;
    for c in keys.chars() {
        let key = match c {
            '\t' => Key::Tab,
            '\n' => Key::Enter,
            '\x1b' => Key::Escape,
            '\x7f' => Key::Backspace,
            c => Key::Char(c),
        };
        last = state.take(Event::Key(key), now);
    }
    last
}
