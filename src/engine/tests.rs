use std::collections::BTreeSet;

use super::*;
use crate::{
    dispatch::Target,
    model::{Family, Location, TableRef},
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

fn binding(of: &str, set: SetRef, key: Key, condition: Condition) -> Binding {
    let element = Element { set, key, data: None };
    let location = Location { file: "nftables.conf".into(), line: 1 };
    Binding { element, condition, unit: unit(of), location }
}

fn cgroup_binding(of: &str, set: SetRef, at: &str) -> Binding {
    binding(of, set, Key::Cgroup(path(at)), Condition::Cgroup(path(at)))
}

const A: &str = "system.slice/a.service";

/// An engine with a policy, past its first looks.
fn engine(settings: Settings, bindings: Vec<Binding>) -> Engine {
    let mut engine = Engine::new(settings);
    engine.handle(
        ms(0),
        Event::PolicyLoaded(PolicyLoaded { bindings, installed: vec![], ..PolicyLoaded::default() }),
    );
    let _ = engine.actions(ms(0));
    engine
}

fn watched() -> Settings {
    Settings { cooldown: ms(300), cgroups_are_watched: true, ..Settings::default() }
}

fn seen(engine: &mut Engine, at: &str, id: Option<u64>) {
    let event = Event::CgroupSeen { path: path(at), id: id.map(CgroupId), source: Some(Source::Cgroup) };
    engine.handle(ms(1), event);
}

/// The one commit among the actions, with all outcomes as wished; nothing else may be asked for.
fn commit(engine: &mut Engine) -> Commit {
    let mut actions = engine.actions(ms(1));
    let Some(Action::Commit(commit)) = actions.pop() else { panic!("no commit in {actions:?}") };
    assert_eq!(actions, [], "nothing but a commit");
    let mut outcomes = Vec::new();
    for add in &commit.add {
        let outcome = match &add.element.key {
            Key::Cgroup(path) => {
                let id = engine.seen.cgroup(path);
                Outcome::Added { before: id, after: id }
            }
            Key::Everything => Outcome::Opened,
        };
        outcomes.push((add.element.clone(), outcome));
    }
    outcomes.extend(commit.close.iter().map(|gate| (gate.element.clone(), Outcome::Closed)));
    outcomes.extend(commit.delete.iter().map(|(dead, id)| (dead.element.clone(), Outcome::Deleted(*id))));
    engine.handle(ms(1), Event::Committed { outcomes });
    assert_eq!(engine.actions(ms(1)), [], "quiet after the commit");
    commit
}

#[test]
fn started_unit_gets_its_element_and_stopped_unit_loses_it() {
    let mut engine = engine(watched(), vec![cgroup_binding("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    assert_eq!(commit(&mut engine).add.len(), 1);
    seen(&mut engine, A, None);
    let gone = commit(&mut engine);
    assert_eq!(gone.delete.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [CgroupId(7)]);
    assert_eq!(gone.add, []);
}

#[test]
fn restarted_unit_trades_its_old_id_for_its_new_one() {
    let mut engine = engine(watched(), vec![cgroup_binding("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    commit(&mut engine);
    seen(&mut engine, A, Some(8));
    let both = commit(&mut engine);
    assert_eq!((both.add.len(), both.delete.len()), (1, 1));
    assert_eq!(both.delete[0].1, CgroupId(7));
}

#[test]
fn doubled_event_does_nothing() {
    let mut engine = engine(watched(), vec![cgroup_binding("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    commit(&mut engine);
    seen(&mut engine, A, Some(7));
    assert_eq!(engine.actions(ms(2)), []);
    assert_eq!(engine.figures().first, BTreeMap::from([(Source::Cgroup, 1)]));
}

#[test]
fn what_is_pending_together_is_committed_together() {
    let all: Vec<String> = (0..100).map(|n| format!("system.slice/u{n}.service")).collect();
    let bindings = all.iter().map(|at| cgroup_binding("u.service", set(MAP), at)).collect();
    let mut engine = engine(watched(), bindings);
    for (n, at) in all.iter().enumerate() {
        seen(&mut engine, at, Some(n as u64 + 10));
    }
    assert_eq!(commit(&mut engine).add.len(), 100);
}

#[test]
fn cgroup_that_vanished_before_its_element_was_added_is_looked_at_again() {
    let mut engine = engine(watched(), vec![cgroup_binding("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    let Some(Action::Commit(commit)) = engine.actions(ms(1)).pop() else { panic!() };
    let outcomes = vec![(commit.add[0].element.clone(), Outcome::Vanished)];
    engine.handle(ms(2), Event::Committed { outcomes });
    assert_eq!(engine.actions(ms(2)), [Action::LookAtCgroup(path(A))]);
}

#[test]
fn id_that_changed_under_the_commit_is_added_again_and_strays_are_swept() {
    let mut engine = engine(watched(), vec![cgroup_binding("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    let Some(Action::Commit(first)) = engine.actions(ms(1)).pop() else { panic!() };
    let outcome = Outcome::Added { before: Some(CgroupId(7)), after: Some(CgroupId(9)) };
    engine.handle(ms(2), Event::Committed { outcomes: vec![(first.add[0].element.clone(), outcome)] });
    let [Action::Commit(second)] = &engine.actions(ms(2))[..] else { panic!() };
    assert_eq!((second.add.len(), second.delete[0].1), (1, CgroupId(7)));
    let id = Some(CgroupId(9));
    let element = &second.add[0].element;
    let outcomes = vec![
        (element.clone(), Outcome::Added { before: id, after: id }),
        (element.clone(), Outcome::Deleted(CgroupId(7))),
    ];
    engine.handle(ms(3), Event::Committed { outcomes });
    let keep = BTreeSet::from([CgroupId(9)]);
    assert_eq!(engine.actions(ms(3)), [Action::Sweep { set: set(MAP), keep }]);
}

#[test]
fn sweep_waits_for_the_commits_that_are_under_way() {
    let other = "system.slice/b.service";
    let bindings =
        vec![cgroup_binding("a.service", set(MAP), A), cgroup_binding("b.service", set(MAP), other)];
    let mut engine = engine(watched(), bindings);
    seen(&mut engine, A, Some(7));
    let Some(Action::Commit(first)) = engine.actions(ms(1)).pop() else { panic!() };
    seen(&mut engine, other, Some(8));
    let outcome = Outcome::Added { before: Some(CgroupId(7)), after: None };
    engine.handle(ms(2), Event::Committed { outcomes: vec![(first.add[0].element.clone(), outcome)] });
    let actions = engine.actions(ms(2));
    assert!(!actions.iter().any(|action| matches!(action, Action::Sweep { .. })), "{actions:?}");
    let Some(Action::Commit(second)) = actions.first() else { panic!() };
    let id = Some(CgroupId(8));
    let outcome = Outcome::Added { before: id, after: id };
    engine.handle(ms(3), Event::Committed { outcomes: vec![(second.add[0].element.clone(), outcome)] });
    let deleted = (first.add[0].element.clone(), Outcome::Deleted(CgroupId(7)));
    engine.handle(ms(3), Event::Committed { outcomes: vec![deleted] });
    let keep = BTreeSet::from([CgroupId(8)]);
    assert_eq!(engine.actions(ms(3)), [Action::Sweep { set: set(MAP), keep }]);
}

#[test]
fn refused_element_is_not_tried_again_before_its_cgroup_changes() {
    let mut engine = engine(watched(), vec![cgroup_binding("a.service", set(MAP), A)]);
    seen(&mut engine, A, Some(7));
    let Some(Action::Commit(commit)) = engine.actions(ms(1)).pop() else { panic!() };
    let outcomes = vec![(commit.add[0].element.clone(), Outcome::Refused)];
    engine.handle(ms(2), Event::Committed { outcomes });
    seen(&mut engine, A, Some(7));
    assert_eq!(engine.actions(ms(2)), []);
    seen(&mut engine, A, Some(8));
    assert!(matches!(engine.actions(ms(3))[..], [Action::Commit(_)]));
}

#[test]
fn gate_opens_when_all_its_cgroups_exist() {
    let (a, b) = ("system.slice/a.service", "system.slice/b.service");
    let condition = Condition::AllCgroups(BTreeSet::from([path(a), path(b)]));
    let mut engine =
        engine(watched(), vec![binding("a.service", set("scnpm.g"), Key::Everything, condition)]);
    seen(&mut engine, a, Some(1));
    assert_eq!(engine.actions(ms(1)), []);
    seen(&mut engine, b, Some(2));
    assert_eq!(commit(&mut engine).add.len(), 1);
    seen(&mut engine, a, Some(3));
    assert_eq!(engine.actions(ms(1)), [], "another id makes no difference to a gate");
    seen(&mut engine, a, None);
    assert_eq!(commit(&mut engine).close.len(), 1);
}

#[test]
fn rule_without_a_cgroup_follows_its_units_state() {
    let condition = Condition::UnitActive(unit("a.service"));
    let mut engine =
        engine(watched(), vec![binding("a.service", set("scnpm.g"), Key::Everything, condition)]);
    let state = |active, user, source| {
        let state = UnitState::of(active);
        Event::UnitStateSeen { unit: unit("a.service"), state, user, source }
    };
    engine.handle(ms(1), Event::SourceResumed { source: Source::Dbus });
    let _ = engine.actions(ms(1));
    engine.handle(ms(1), state(true, false, Source::Dbus));
    assert_eq!(commit(&mut engine).add.len(), 1);
    engine.handle(ms(2), state(false, false, Source::Journal));
    assert_eq!(
        engine.actions(ms(2)),
        [Action::LookAtUnit(unit("a.service"))],
        "the journal is late, so systemd itself is asked"
    );
    engine.handle(ms(3), state(false, false, Source::Dbus));
    assert_eq!(commit(&mut engine).close.len(), 1);
    engine.handle(ms(4), Event::SourceLost { source: Source::Dbus });
    engine.handle(ms(4), state(true, false, Source::Journal));
    assert!(matches!(engine.actions(ms(4))[0], Action::Commit(_)), "the journal must do without the bus");
}

#[test]
fn units_event_is_a_reason_to_look_at_every_cgroup_named_after_it() {
    let session = "system.slice/sshd.service";
    let bindings = vec![cgroup_binding("session.scope", set(MAP), session)];
    let mut engine = engine(watched(), bindings);
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
    let mut engine = engine(settings, vec![cgroup_binding("a.service", set(MAP), A)]);
    engine.handle(ms(1000), Event::UnitChanged { unit: unit("a.service"), source: Source::Journal });
    assert_eq!(engine.actions(ms(1000)), [Action::LookAtCgroup(path(A))]);
    let mut looks = 0;
    while let Some(at) = engine.timeout() {
        assert_eq!(engine.actions(at), [Action::LookAtCgroup(path(A))]);
        looks += 1;
    }
    assert_eq!(looks, LOOKS_AFTER.len());
}

#[test]
fn reloads_keep_the_cooldown_between_them_and_merge() {
    let reload = |reread, flush| vec![Action::Reload { reread, flush }];
    let settings = Settings { reload_with: BTreeSet::from([unit("nftables.service")]), ..watched() };
    let mut engine = engine(settings, vec![]);
    let done = Event::UnitJobDone { unit: unit("nftables.service"), source: Source::Dbus };
    engine.handle(ms(1000), done.clone());
    assert_eq!(engine.actions(ms(1000)), reload(true, true));
    engine.handle(ms(1001), Event::RulesetChanged);
    engine.handle(ms(1100), done);
    assert_eq!(engine.actions(ms(1100)), []);
    assert_eq!(engine.timeout(), Some(ms(1300)));
    assert_eq!(engine.actions(ms(1300)), reload(true, true));
    assert_eq!(engine.timeout(), None);
    engine.handle(ms(5000), Event::RulesetChanged);
    assert_eq!(engine.actions(ms(5000)), reload(false, false), "the files are only read when asked");
}

#[test]
fn users_own_set_keeps_its_elements_over_a_reload_and_loses_those_no_longer_wanted() {
    let mine = cgroup_binding("a.service", set("mine"), A);
    let mut engine = engine(watched(), vec![mine.clone()]);
    seen(&mut engine, A, Some(7));
    commit(&mut engine);
    engine.handle(
        ms(2),
        Event::PolicyLoaded(PolicyLoaded {
            bindings: vec![mine],
            installed: vec![],
            ..PolicyLoaded::default()
        }),
    );
    let keep = BTreeSet::from([CgroupId(7)]);
    assert_eq!(
        engine.actions(ms(2)),
        [Action::Sweep { set: set("mine"), keep }, Action::LookAtCgroup(path(A))]
    );
    engine.handle(
        ms(3),
        Event::PolicyLoaded(PolicyLoaded { bindings: vec![], installed: vec![], ..PolicyLoaded::default() }),
    );
    let Action::Commit(gone) = &engine.actions(ms(3))[0] else { panic!() };
    assert_eq!(gone.delete[0].1, CgroupId(7));
}

#[test]
fn element_of_ours_is_put_in_again_after_a_load_without_it() {
    let ours = cgroup_binding("a.service", set(MAP), A);
    let mut engine = engine(watched(), vec![ours.clone()]);
    seen(&mut engine, A, Some(7));
    commit(&mut engine);
    engine.handle(
        ms(2),
        Event::PolicyLoaded(PolicyLoaded {
            bindings: vec![ours],
            installed: vec![],
            ..PolicyLoaded::default()
        }),
    );
    let Action::Commit(again) = &engine.actions(ms(2))[0] else { panic!() };
    assert_eq!(again.add.len(), 1);
}

#[test]
fn events_and_actions_survive_a_log() {
    let event = Event::CgroupSeen { path: path(A), id: Some(CgroupId(7)), source: Some(Source::Cgroup) };
    let text = serde_json::to_string(&event).unwrap();
    assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    let action = Action::Commit(Commit { add: vec![cgroup_binding("a", set(MAP), A)], ..Commit::default() });
    let text = serde_json::to_string(&action).unwrap();
    assert_eq!(serde_json::from_str::<Action>(&text).unwrap(), action);
}

#[test]
fn users_unit_opens_no_rule_of_a_unit_that_the_system_has() {
    let condition = Condition::UnitActive(unit("a.service"));
    let mut engine =
        engine(watched(), vec![binding("a.service", set("scnpm.g"), Key::Everything, condition)]);
    let state = |state, user| {
        let source = if user { Source::Journal } else { Source::Dbus };
        Event::UnitStateSeen { unit: unit("a.service"), state, user, source }
    };
    let commits = |engine: &mut Engine| {
        engine.actions(ms(2)).into_iter().filter(|action| matches!(action, Action::Commit(_))).count()
    };
    engine.handle(ms(1), state(UnitState::Active, true));
    assert_eq!(commits(&mut engine), 0, "before systemd has said that there is none");
    engine.handle(ms(1), state(UnitState::Inactive, false));
    assert_eq!(commits(&mut engine), 0);
    engine.handle(ms(1), state(UnitState::Missing, false));
    assert_eq!(commits(&mut engine), 1);
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
    let mut engine = engine(settings, vec![cgroup_binding("a.service", set(MAP), A)]);
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
    let location = Location { file: "nftables.conf".to_owned(), line: 1 };
    let selectors = Selectors::parse(selectors).unwrap();
    Pattern { selectors, targets, unit: unit("app"), location }
}

fn engine_of(patterns: Vec<Pattern>, instances: Vec<Instance>) -> Engine {
    let mut engine = Engine::new(watched());
    engine
        .handle(ms(0), Event::PolicyLoaded(PolicyLoaded { patterns, instances, ..PolicyLoaded::default() }));
    engine.actions(ms(0));
    engine
}

fn instance_seen(engine: &mut Engine, instance: &Instance, id: Option<u64>) {
    engine.handle(ms(1), Event::InstanceSeen { instance: instance.clone(), id: id.map(CgroupId) });
}

#[test]
fn selected_instances_get_elements_and_are_forgotten_with_them() {
    let mut engine = engine_of(vec![pattern("1000:app:x", set("scnpm.c.1"), Some(5))], vec![]);
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
    assert!(engine.slots.is_empty() && engine.by_path.is_empty() && engine.paths_of.is_empty());
    assert!(engine.instances.is_empty() && engine.ended.is_empty() && engine.seen.cgroups.is_empty());
}

#[test]
fn cgroup_that_a_rule_names_and_a_pattern_selects_keeps_both_elements_over_restarts() {
    let named = cgroup_binding("a.service", set("scnpm.c.1"), A);
    let instance = Instance::of(&path(A)).unwrap();
    let patterns = vec![pattern("system:a*", set("scnpm.c.2"), Some(2))];
    let loaded = PolicyLoaded { bindings: vec![named], patterns, ..PolicyLoaded::default() };
    let mut engine = Engine::new(watched());
    engine.handle(ms(0), Event::PolicyLoaded(loaded));
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
    let mut engine = engine_of(vec![pattern("user:app:x", set("scnpm.c.1.active"), None)], vec![]);
    instance_seen(&mut engine, &scope(1000, 1), Some(1));
    instance_seen(&mut engine, &scope(1001, 1), Some(2));
    assert_eq!(commit(&mut engine).add.len(), 1);
    instance_seen(&mut engine, &scope(1000, 1), None);
    assert_eq!(engine.actions(ms(2)), []);
    instance_seen(&mut engine, &scope(1001, 1), None);
    assert_eq!(commit(&mut engine).close.len(), 1);
}

#[test]
fn instance_at_a_level_without_a_map_has_the_policy_loaded_again() {
    let mut engine = engine_of(vec![pattern("1000:app:x", set("scnpm.c.1"), Some(4))], vec![]);
    instance_seen(&mut engine, &scope(1000, 1), Some(1));
    let reload = Action::Reload { reread: false, flush: false };
    assert!(engine.timeout().is_some() && engine.actions(ms(1000)).contains(&reload));
}
