use super::*;
use crate::{
    dispatch::Target,
    engine::looks::{AFTER_NEWS, ROUND},
    model::{AnnotationId, Condition, Element, Family, Key, SetRef, TableRef},
    units::selector::Selectors,
};

const MAP: &str = "scnpm.out.1";

fn set(name: &str) -> SetRef {
    SetRef { table: TableRef { family: Family::Inet, name: "filter".into() }, name: name.into() }
}

fn path(text: &str) -> CgroupPath {
    text.parse().unwrap()
}

fn unit(name: &str) -> UnitName {
    UnitName(name.into())
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn row(of: &str, set: SetRef, key: Key, condition: Condition) -> Row {
    let element = Element { set, key, data: None }.into();
    Row { element, condition, unit: unit(of), annotations: vec![AnnotationId(0)] }
}

fn cgroup_row(of: &str, set: SetRef, at: &str) -> Row {
    row(of, set, Key::Cgroup(path(at)), Condition::Cgroup(path(at)))
}

fn gate(of: &str, condition: Condition) -> Row {
    row(of, set("scnpm.g"), Key::Everything, condition)
}

const A: &str = "system.slice/a.service";

/// An engine with a policy, past its first looks.
fn engine(settings: Settings, rows: Vec<Row>) -> Engine {
    let mut engine = Engine::new(settings);
    load(&mut engine, PolicyLoaded { rows, ..PolicyLoaded::default() });
    let _ = engine.actions(ms(0));
    engine
}

fn load(engine: &mut Engine, loaded: PolicyLoaded) {
    engine.handle(ms(0), Event::PolicyLoaded(loaded));
}

fn watched() -> Settings {
    Settings { cooldown: ms(300), cgroups_are_watched: true, ..Settings::default() }
}

fn seen(engine: &mut Engine, at: &str, id: Option<u64>) {
    let event = Event::CgroupSeen { path: path(at), id: id.map(CgroupId), source: Some(Source::Cgroup) };
    engine.handle(ms(1), event);
}

/// The commit among the actions, which has no outcome yet.
fn planned(engine: &mut Engine, now: u64) -> Commit {
    let actions = engine.actions(ms(now));
    let mut commits = actions.into_iter().filter_map(|action| match action {
        Action::Commit(commit) => Some(commit),
        _ => None,
    });
    commits.next().unwrap_or_default()
}

/// What the kernel says of a commit that it carries out.
fn outcomes(commit: &Commit) -> Vec<(RowId, Outcome)> {
    let added = commit.add.iter().map(|add| (add.row, Outcome::Added(add.id)));
    added.chain(commit.delete.iter().map(|delete| (delete.row, Outcome::Deleted(delete.id)))).collect()
}

/// The one commit among the actions, with all outcomes as wished; nothing else may be asked for.
fn commit(engine: &mut Engine) -> Commit {
    let mut actions = engine.actions(ms(1));
    let Some(Action::Commit(commit)) = actions.pop() else { panic!("no commit in {actions:?}") };
    assert_eq!(actions, [], "nothing but a commit");
    engine.handle(ms(1), Event::Committed { outcomes: outcomes(&commit) });
    assert_eq!(engine.actions(ms(1)), [], "quiet after the commit");
    commit
}

fn answer(engine: &mut Engine, now: u64, commit: &Commit, outcome: Outcome) {
    let rows = commit.add.iter().map(|add| add.row).chain(commit.delete.iter().map(|delete| delete.row));
    engine.handle(ms(now), Event::Committed { outcomes: rows.map(|row| (row, outcome)).collect() });
}

#[test]
fn started_unit_gets_its_element_and_stopped_unit_loses_it() {
    let mut engine = engine(watched(), vec![cgroup_row("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    assert_eq!(commit(&mut engine).add.len(), 1);
    seen(&mut engine, A, None);
    let gone = commit(&mut engine);
    assert_eq!(gone.delete.iter().map(|delete| delete.id).collect::<Vec<_>>(), [Some(CgroupId(7))]);
    assert_eq!(gone.add, []);
}

#[test]
fn restarted_unit_trades_its_old_id_for_its_new_one() {
    let mut engine = engine(watched(), vec![cgroup_row("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    commit(&mut engine);
    seen(&mut engine, A, Some(8));
    let both = commit(&mut engine);
    assert_eq!((both.add.len(), both.delete.len()), (1, 1));
    assert_eq!(both.delete[0].id, Some(CgroupId(7)));
}

#[test]
fn doubled_event_does_nothing() {
    let mut engine = engine(watched(), vec![cgroup_row("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    commit(&mut engine);
    seen(&mut engine, A, Some(7));
    assert_eq!(engine.actions(ms(2)), []);
    assert_eq!(engine.figures().first, BTreeMap::from([(Source::Cgroup, 1)]));
}

#[test]
fn what_is_pending_together_is_committed_together() {
    let all: Vec<String> = (0..100).map(|n| format!("system.slice/u{n}.service")).collect();
    let rows = all.iter().map(|at| cgroup_row("u.service", set(MAP), at)).collect();
    let mut engine = engine(watched(), rows);
    for (n, at) in all.iter().enumerate() {
        seen(&mut engine, at, Some(n as u64 + 10));
    }
    assert_eq!(commit(&mut engine).add.len(), 100);
}

#[test]
fn cgroup_that_vanished_before_its_element_was_added_is_looked_at_again() {
    let mut engine = engine(watched(), vec![cgroup_row("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    let commit = planned(&mut engine, 1);
    answer(&mut engine, 2, &commit, Outcome::Vanished);
    assert_eq!(engine.actions(ms(2)), [Action::LookAtCgroup(path(A))]);
}

#[test]
fn what_the_kernel_cannot_do_for_now_is_tried_again_with_growing_pauses() {
    let mut engine = engine(watched(), vec![cgroup_row("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    let mut now = 1;
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let commit = planned(&mut engine, now);
        assert_eq!(commit.add.len(), 1);
        answer(&mut engine, now, &commit, Outcome::Failed);
        assert_eq!(engine.actions(ms(now)), [], "not at once");
        let at = u64::try_from(engine.timeout().unwrap().as_millis()).unwrap();
        pauses.push(at - now);
        now = at;
    }
    assert_eq!(pauses[..4], [10, 20, 40, 80]);
    assert_eq!(pauses[10..], [10_000, 10_000]);
    let commit = planned(&mut engine, now);
    engine.handle(ms(now), Event::Committed { outcomes: outcomes(&commit) });
    assert_eq!((engine.actions(ms(now)), engine.timeout()), (vec![], None));
    assert_eq!(engine.figures().held, 1);
    seen(&mut engine, A, None);
    let gone = planned(&mut engine, now);
    answer(&mut engine, now, &gone, Outcome::Failed);
    assert_eq!(engine.timeout(), Some(ms(now + 10)), "the pauses start anew");
    assert_eq!(planned(&mut engine, now + 10).delete.len(), 1);
}

#[test]
fn element_whose_cgroup_ends_while_it_waits_is_not_tried_again() {
    let mut engine = engine(watched(), vec![cgroup_row("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    let commit = planned(&mut engine, 1);
    answer(&mut engine, 1, &commit, Outcome::Failed);
    seen(&mut engine, A, None);
    assert_eq!(engine.actions(ms(60_000)), []);
}

#[test]
fn look_that_failed_says_nothing_and_is_taken_again() {
    let mut engine = engine(watched(), vec![cgroup_row("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    commit(&mut engine);
    engine.handle(ms(1), Event::LookFailed { path: path(A) });
    assert_eq!(engine.actions(ms(1)), []);
    let at = engine.timeout().unwrap();
    assert_eq!(engine.actions(at), [Action::LookAtCgroup(path(A))]);
}

#[test]
fn load_that_failed_for_now_is_tried_again_and_a_refused_one_is_not() {
    let mut engine = engine(watched(), vec![]);
    engine.handle(ms(1000), Event::LoadFailed { passing: false });
    assert_eq!(engine.timeout(), None);
    engine.handle(ms(1000), Event::LoadFailed { passing: true });
    assert_eq!(engine.actions(ms(1010)), [Action::Reload { reread: false, flush: false }]);
    engine.handle(ms(1010), Event::LoadFailed { passing: true });
    assert_eq!(engine.timeout(), Some(ms(1030)));
}

#[test]
fn files_that_could_not_be_loaded_for_now_are_read_again() {
    let mut engine = engine(watched(), vec![]);
    engine.handle(ms(1000), Event::ReloadRequested);
    assert_eq!(engine.actions(ms(1000)), [Action::Reload { reread: true, flush: true }]);
    engine.handle(ms(1000), Event::LoadFailed { passing: true });
    assert_eq!(engine.actions(ms(1010)), [Action::Reload { reread: true, flush: true }]);
}

#[test]
fn refused_element_is_not_tried_again_before_its_cgroup_changes() {
    let mut engine = engine(watched(), vec![cgroup_row("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    let commit = planned(&mut engine, 1);
    answer(&mut engine, 2, &commit, Outcome::Refused);
    seen(&mut engine, A, Some(7));
    assert_eq!(engine.actions(ms(2)), []);
    seen(&mut engine, A, Some(8));
    assert!(matches!(engine.actions(ms(3))[..], [Action::Commit(_)]));
}

#[test]
fn gate_opens_when_all_its_cgroups_exist() {
    let (a, b) = ("system.slice/a.service", "system.slice/b.service");
    let condition = Condition::AllCgroups(BTreeSet::from([path(a), path(b)]));
    let mut engine = engine(watched(), vec![gate("a.service", condition)]);
    seen(&mut engine, a, Some(1));
    assert_eq!(engine.actions(ms(1)), []);
    seen(&mut engine, b, Some(2));
    assert_eq!(commit(&mut engine).add.len(), 1);
    seen(&mut engine, a, Some(3));
    assert_eq!(engine.actions(ms(1)), [], "another id makes no difference to a gate");
    seen(&mut engine, a, None);
    assert_eq!(commit(&mut engine).delete.len(), 1);
}

#[test]
fn rule_without_a_cgroup_follows_its_units_state() {
    let condition = Condition::UnitActive(unit("a.service"));
    let mut engine = engine(watched(), vec![gate("a.service", condition)]);
    let state = |active, source| {
        let state = UnitState::of(active);
        Event::UnitStateSeen { unit: unit("a.service"), state, source }
    };
    engine.handle(ms(1), Event::SourceResumed { source: Source::Dbus });
    let _ = engine.actions(ms(1));
    engine.handle(ms(1), state(true, Source::Dbus));
    assert_eq!(commit(&mut engine).add.len(), 1);
    engine.handle(ms(2), state(false, Source::Journal));
    assert_eq!(
        engine.actions(ms(2)),
        [Action::LookAtUnit(unit("a.service"))],
        "the journal is late, so systemd itself is asked"
    );
    engine.handle(ms(3), state(false, Source::Dbus));
    assert_eq!(commit(&mut engine).delete.len(), 1);
    engine.handle(ms(4), Event::SourceLost { source: Source::Dbus });
    engine.handle(ms(4), state(true, Source::Journal));
    assert!(matches!(engine.actions(ms(4))[0], Action::Commit(_)), "the journal must do without the bus");
}

#[test]
fn what_the_journal_said_while_the_bus_was_silent_counts_once_the_bus_is_lost() {
    let gates = ["a.service", "b.service"].map(|name| gate(name, Condition::UnitActive(unit(name))));
    let mut engine = engine(watched(), gates.into());
    let state = |name, state, source| Event::UnitStateSeen { unit: unit(name), state, source };
    let lost = || Event::SourceLost { source: Source::Dbus };
    engine.handle(ms(1), Event::SourceResumed { source: Source::Dbus });
    engine.handle(ms(2), state("a.service", UnitState::Active, Source::Journal));
    engine.handle(ms(2), state("b.service", UnitState::Active, Source::Journal));
    engine.handle(ms(3), state("b.service", UnitState::Inactive, Source::Dbus));
    assert_eq!(planned(&mut engine, 3), Commit::default());
    engine.handle(ms(4), lost());
    assert_eq!(planned(&mut engine, 4).add.len(), 1, "the bus has answered about the other unit");
    engine.handle(ms(5), Event::SourceResumed { source: Source::Dbus });
    engine.handle(ms(5), state("a.service", UnitState::Inactive, Source::Dbus));
    engine.handle(ms(6), lost());
    assert_eq!(engine.state(&unit("a.service")), Some(UnitState::Inactive), "nothing is said twice");
}

#[test]
fn units_event_is_a_reason_to_look_at_every_cgroup_named_after_it() {
    let session = "system.slice/sshd.service";
    let rows = vec![cgroup_row("session.scope", set(MAP), session)];
    let mut engine = engine(watched(), rows);
    for name in ["session.scope", "sshd.service"] {
        engine.handle(ms(1), Event::UnitChanged { unit: unit(name), source: Source::Journal });
        assert_eq!(engine.actions(ms(1)), [Action::LookAtCgroup(path(session))], "{name}");
    }
    engine.handle(ms(1), Event::UnitChanged { unit: unit("x.service"), source: Source::Journal });
    assert_eq!(engine.actions(ms(1)), []);
    assert_eq!(engine.timeout(), None, "cgroupfs tells the rest");
}

#[test]
fn without_cgroupfs_a_unit_is_looked_at_a_few_times_more() {
    let settings = Settings { cgroups_are_watched: false, ..watched() };
    let mut engine = engine(settings, vec![cgroup_row("a.service", set(MAP), A)]);
    engine.handle(ms(1000), Event::UnitChanged { unit: unit("a.service"), source: Source::Journal });
    assert_eq!(engine.actions(ms(1000)), [Action::LookAtCgroup(path(A))]);
    let mut looks = 0;
    while let Some(at) = engine.timeout() {
        assert_eq!(engine.actions(at), [Action::LookAtCgroup(path(A))]);
        looks += 1;
    }
    assert_eq!(looks, AFTER_NEWS.len());
}

#[test]
fn reloads_keep_the_cooldown_between_them_and_merge() {
    let reload = |reread, flush| vec![Action::Reload { reread, flush }];
    let settings = Settings { reload_with: BTreeSet::from([unit("nftables.service")]), ..watched() };
    let mut engine = engine(settings, vec![]);
    let done = Event::UnitJobDone { unit: unit("nftables.service"), source: Source::Dbus };
    engine.handle(ms(1000), done.clone());
    assert_eq!(engine.actions(ms(1000)), reload(true, true));
    engine.handle(ms(1001), Event::ReapplyRequested);
    engine.handle(ms(1100), done);
    assert_eq!(engine.actions(ms(1100)), []);
    assert_eq!(engine.timeout(), Some(ms(1300)));
    assert_eq!(engine.actions(ms(1300)), reload(true, true));
    assert_eq!(engine.timeout(), None);
    engine.handle(ms(5000), Event::ReapplyRequested);
    assert_eq!(engine.actions(ms(5000)), reload(false, false), "the files are only read when asked");
}

/// When the engine repairs what was changed at a time, with a load that takes 1 ms.
fn repaired(engine: &mut Engine, changes: &[u64], thread: Option<u32>) -> u64 {
    for at in changes {
        engine.handle(ms(*at), Event::RulesetChanged { thread });
    }
    let due = engine.timeout().unwrap();
    assert_eq!(engine.actions(due), [Action::Reload { reread: false, flush: false }]);
    engine.handle(due + ms(1), Event::PolicyLoaded(PolicyLoaded::default()));
    due.as_millis() as u64
}

#[test]
fn repair_waits_for_a_quiet_moment_but_not_for_the_cooldown_and_not_for_long() {
    let mut engine = engine(watched(), vec![]);
    assert_eq!(repaired(&mut engine, &[1000], Some(1)), 1003);
    assert_eq!(repaired(&mut engine, &[1010, 1012], Some(1)), 1015);
    let storm: Vec<u64> = (2000..2200).step_by(2).collect();
    assert_eq!(repaired(&mut engine, &storm, Some(1)), 2100);
    assert_eq!(engine.timeout(), None);
}

#[test]
fn who_undoes_every_repair_has_to_wait_longer_and_longer() {
    let mut engine = engine(watched(), vec![]);
    let mut at = 1000;
    let mut pauses = Vec::new();
    for _ in 0..30 {
        let repaired = repaired(&mut engine, &[at], Some(1));
        pauses.push(repaired - at);
        at = repaired + 3;
    }
    assert_eq!(pauses[..8], [3, 3, 3, 3, 8, 18, 38, 78]);
    assert_eq!(pauses.last(), Some(&9998));
    assert!(engine.is_fought());
    // Who comes later is somebody else's problem.
    assert_eq!(repaired(&mut engine, &[at + 60_000], Some(1)), at + 60_003);
    assert!(!engine.is_fought());
}

#[test]
fn one_reset_after_the_other_is_no_fight() {
    let mut engine = engine(watched(), vec![]);
    let mut at = 1000;
    for thread in 0..200 {
        let repaired = repaired(&mut engine, &[at], Some(thread));
        assert_eq!(repaired - at, 3);
        at = repaired + 3;
    }
    assert!(!engine.is_fought());
}

#[test]
fn what_a_load_put_in_is_held_and_the_rest_is_put_in_after_it() {
    let rows = || vec![cgroup_row("a.service", set(MAP), A), cgroup_row("a.service", set("mine"), A)];
    let mut engine = engine(watched(), rows());
    seen(&mut engine, A, Some(7));
    assert_eq!(commit(&mut engine).add.len(), 2);
    let installed = vec![(1, Some(CgroupId(7)))];
    load(&mut engine, PolicyLoaded { rows: rows(), installed, ..PolicyLoaded::default() });
    let again = planned(&mut engine, 2);
    assert_eq!(again.add.iter().map(|add| &*add.element.set.name).collect::<Vec<_>>(), [MAP]);
    assert_eq!((again.delete, engine.figures().held), (vec![], 1));
}

#[test]
fn row_of_an_earlier_policy_has_no_outcome_in_a_later_one() {
    let mut engine = engine(watched(), vec![cgroup_row("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    let commit = planned(&mut engine, 1);
    load(
        &mut engine,
        PolicyLoaded { rows: vec![cgroup_row("b.service", set("b"), A)], ..PolicyLoaded::default() },
    );
    engine.handle(ms(2), Event::Committed { outcomes: outcomes(&commit) });
    assert_eq!(engine.figures().held, 0);
}

#[test]
fn events_and_actions_survive_a_log() {
    let event = Event::CgroupSeen { path: path(A), id: Some(CgroupId(7)), source: Some(Source::Cgroup) };
    let text = serde_json::to_string(&event).unwrap();
    assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    let element = cgroup_row("a", set(MAP), A).element;
    let add = vec![Add { row: RowId(1), element, id: Some(CgroupId(7)) }];
    let action = Action::Commit(Commit { add, ..Commit::default() });
    let text = serde_json::to_string(&action).unwrap();
    assert_eq!(serde_json::from_str::<Action>(&text).unwrap(), action);
}

/// A rule without a cgroup for `a.service`, whoever's.
fn pathless() -> PolicyLoaded {
    let whose = Selectors::parse("user:a.service").unwrap();
    let target = Target { level: None, set: set("scnpm.g"), data: None };
    let pattern = Pattern {
        selectors: whose,
        targets: vec![target],
        unless: Some(unit("a.service")),
        unit: unit("a.service"),
        annotations: vec![AnnotationId(0)],
    };
    let rows = vec![gate("a.service", Condition::UnitActive(unit("a.service")))];
    PolicyLoaded { rows, patterns: vec![pattern], ..PolicyLoaded::default() }
}

fn state_seen(engine: &mut Engine, state: UnitState) {
    let event = Event::UnitStateSeen { unit: unit("a.service"), state, source: Source::Dbus };
    engine.handle(ms(1), event);
}

/// The unit `a.service` of a user.
fn of_user(uid: u32) -> Instance {
    let path = format!("user.slice/user-{uid}.slice/user@{uid}.service/app.slice/a.service");
    Instance::of(&path.parse().unwrap()).unwrap()
}

#[test]
fn users_unit_opens_no_rule_of_a_unit_that_the_system_has() {
    let mut engine = Engine::new(watched());
    load(&mut engine, pathless());
    let _ = engine.actions(ms(0));
    instance_seen(&mut engine, &of_user(1000), Some(1));
    assert_eq!(planned(&mut engine, 2), Commit::default(), "before systemd has said that there is none");
    state_seen(&mut engine, UnitState::Inactive);
    assert_eq!(planned(&mut engine, 2), Commit::default());
    state_seen(&mut engine, UnitState::Missing);
    assert_eq!(planned(&mut engine, 2).add.len(), 1);
}

#[test]
fn rule_of_two_users_with_one_units_name_is_in_force_until_the_last_of_them_stops() {
    let mut engine = Engine::new(watched());
    load(&mut engine, pathless());
    state_seen(&mut engine, UnitState::Missing);
    let _ = engine.actions(ms(0));
    for uid in [1000, 1001] {
        instance_seen(&mut engine, &of_user(uid), Some(u64::from(uid)));
    }
    assert_eq!(commit(&mut engine).add.len(), 1);
    instance_seen(&mut engine, &of_user(1001), None);
    assert_eq!(engine.actions(ms(2)), [], "the other user's unit runs on");
    instance_seen(&mut engine, &of_user(1000), None);
    assert_eq!(commit(&mut engine).delete.len(), 1);
    assert_eq!(engine.snapshot().instances, []);
    state_seen(&mut engine, UnitState::Active);
    assert_eq!(commit(&mut engine).add.len(), 1, "the row outlives its instances");
}

#[test]
fn one_job_heard_of_twice_reloads_once() {
    let settings = Settings { reload_with: BTreeSet::from([unit("nftables.service")]), ..watched() };
    let mut engine = engine(settings, vec![]);
    let done = |source| Event::UnitJobDone { unit: unit("nftables.service"), source };
    engine.handle(ms(999), Event::SourceResumed { source: Source::Dbus });
    engine.handle(ms(1000), done(Source::Dbus));
    assert_eq!(engine.actions(ms(1000)).len(), 1);
    engine.handle(ms(1400), done(Source::Journal));
    assert_eq!((engine.actions(ms(1400)), engine.timeout()), (vec![], None));
    engine.handle(ms(2000), Event::SourceLost { source: Source::Dbus });
    engine.handle(ms(2000), done(Source::Journal));
    assert_eq!(engine.actions(ms(2000)).len(), 1);
}

#[test]
fn cgroup_whose_end_nobody_reports_is_looked_at_every_round_while_it_exists() {
    let settings = Settings { cgroups_are_watched: false, ..watched() };
    let mut engine = engine(settings, vec![cgroup_row("a.service", set(MAP), A)]);
    assert_eq!(engine.timeout(), None);
    seen(&mut engine, A, Some(7));
    commit(&mut engine);
    for _ in 0..3 {
        let at = engine.timeout().unwrap();
        assert_eq!(engine.actions(at), [Action::LookAtCgroup(path(A))]);
        assert_eq!(engine.timeout(), None);
        engine.handle(at, Event::CgroupSeen { path: path(A), id: Some(CgroupId(7)), source: None });
        assert_eq!((engine.actions(at), engine.timeout()), (vec![], Some(at + ROUND)));
    }
}

/// An application's scope of a user.
fn scope(uid: u32, number: u32) -> Instance {
    let path = format!("user.slice/user-{uid}.slice/user@{uid}.service/app.slice/app-x-{number}.scope");
    Instance::of(&path.parse().unwrap()).unwrap()
}

fn pattern(selectors: &str, set: SetRef, level: Option<u32>) -> Pattern {
    let targets = vec![Target { level, set, data: None }];
    let selectors = Selectors::parse(selectors).unwrap();
    Pattern { selectors, targets, unless: None, unit: unit("app"), annotations: vec![AnnotationId(0)] }
}

fn engine_of(patterns: Vec<Pattern>) -> Engine {
    let mut engine = Engine::new(watched());
    load(&mut engine, PolicyLoaded { patterns, ..PolicyLoaded::default() });
    engine.actions(ms(0));
    engine
}

fn instance_seen(engine: &mut Engine, instance: &Instance, id: Option<u64>) {
    engine.handle(ms(1), Event::InstanceSeen { instance: instance.clone(), id: id.map(CgroupId) });
}

#[test]
fn selected_instances_get_elements_and_are_forgotten_with_them() {
    let mut engine = engine_of(vec![pattern("1000:app:x", set("scnpm.c.1"), Some(5))]);
    for number in 1..=3 {
        instance_seen(&mut engine, &scope(1000, number), Some(u64::from(number)));
        instance_seen(&mut engine, &scope(1001, number), Some(100 + u64::from(number)));
    }
    assert_eq!(commit(&mut engine).add.len(), 3);
    assert_eq!(engine.figures(), Figures { elements: 3, held: 3, first: [(Source::Cgroup, 3)].into() });
    for number in 1..=3 {
        instance_seen(&mut engine, &scope(1000, number), None);
    }
    assert_eq!(commit(&mut engine).delete.len(), 3);
    let figures = engine.figures();
    assert_eq!((figures.elements, figures.held), (0, 0));
    let snapshot = engine.snapshot();
    assert!(snapshot.rows.is_empty() && snapshot.instances.is_empty() && snapshot.seen.cgroups.is_empty());
    assert!(engine.units().is_empty() && engine.table.by_path.is_empty());
}

#[test]
fn cgroup_that_a_rule_names_and_a_pattern_selects_keeps_both_elements_over_restarts() {
    let named = cgroup_row("a.service", set("scnpm.c.1"), A);
    let instance = Instance::of(&path(A)).unwrap();
    let patterns = vec![pattern("system:a*", set("scnpm.c.2"), Some(2))];
    let mut engine = Engine::new(watched());
    load(&mut engine, PolicyLoaded { rows: vec![named], patterns, ..PolicyLoaded::default() });
    let _ = engine.actions(ms(0));
    for id in [7, 8, 9] {
        instance_seen(&mut engine, &instance, Some(id));
        assert_eq!(commit(&mut engine).add.len(), 2);
        assert!(engine.paths().contains(&path(A)), "it is named while there is an instance");
        instance_seen(&mut engine, &instance, None);
        assert_eq!(commit(&mut engine).delete.len(), 2);
        let figures = engine.figures();
        assert_eq!((figures.elements, figures.held), (1, 0));
        assert!(engine.paths().contains(&path(A)) && engine.units().contains(&unit("a.service")));
    }
}

#[test]
fn gate_is_open_while_any_instance_is_there() {
    let mut engine = engine_of(vec![pattern("user:app:x", set("scnpm.c.1.active"), None)]);
    instance_seen(&mut engine, &scope(1000, 1), Some(1));
    instance_seen(&mut engine, &scope(1001, 1), Some(2));
    assert_eq!(commit(&mut engine).add.len(), 1);
    instance_seen(&mut engine, &scope(1000, 1), None);
    assert_eq!(engine.actions(ms(2)), []);
    instance_seen(&mut engine, &scope(1001, 1), None);
    assert_eq!(commit(&mut engine).delete.len(), 1);
    assert_eq!(engine.figures().elements, 0, "it goes with them");
}

#[test]
fn instance_at_a_level_without_a_map_has_the_policy_loaded_again() {
    let mut engine = engine_of(vec![pattern("1000:app:x", set("scnpm.c.1"), Some(4))]);
    instance_seen(&mut engine, &scope(1000, 1), Some(1));
    let reload = Action::Reload { reread: false, flush: false };
    assert!(engine.timeout().is_some() && engine.actions(ms(1000)).contains(&reload));
}

#[test]
fn the_end_of_very_many_instances_at_once_is_told_once_for_each() {
    let mut engine = engine_of(vec![
        pattern("1000:app:x", set("scnpm.c.1"), Some(5)),
        pattern("user:app:x", set("scnpm.g"), None),
    ]);
    const MANY: u32 = 20_000;
    for number in 1..=MANY {
        instance_seen(&mut engine, &scope(1000, number), Some(u64::from(number)));
    }
    commit(&mut engine);
    for number in 1..=MANY {
        instance_seen(&mut engine, &scope(1000, number), None);
    }
    let gone = commit(&mut engine);
    assert_eq!(gone.delete.len() as u32, MANY + 1);
    assert_eq!(engine.figures().elements, 0);
}

#[test]
fn snapshot_survives_a_log_and_makes_an_engine_that_goes_on() {
    let mut engine = engine_of(vec![pattern("user:app:x", set("scnpm.c.1"), Some(5))]);
    for number in 1..=3 {
        instance_seen(&mut engine, &scope(1000, number), Some(u64::from(number)));
    }
    commit(&mut engine);
    instance_seen(&mut engine, &scope(1000, 4), Some(4));
    let text = serde_json::to_string(&engine.snapshot()).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    assert_eq!(snapshot, engine.snapshot());
    let mut again = Engine::from(snapshot);
    let all: Vec<Action> = (1..=4).map(|n| Action::LookAtCgroup(scope(1000, n).path)).collect();
    let mut actions = again.actions(ms(2));
    assert_eq!(actions.remove(0), engine.actions(ms(2)).remove(0), "what was pending");
    assert_eq!(actions, all, "and a look at everything");
    instance_seen(&mut again, &scope(1000, 1), None);
    assert_eq!(planned(&mut again, 3).delete.len(), 1);
}
