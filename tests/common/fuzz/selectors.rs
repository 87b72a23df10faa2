//! What holds of all selectors, whatever the cgroups are called that they are matched with.
//!
//! An input is lines: selectors as they stand left of a `::`, then paths of cgroups, which any user may have made.

#![allow(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    time::Duration,
};

use scnpm::{
    dispatch::{Pattern, Target, pattern},
    engine::{Action, Commit, Engine, Event, PolicyLoaded, Settings},
    model::{
        AnnotationId, CgroupId, CgroupPath, Family, Instance, Manager, Outcome, RowId, SetRef, TableRef,
    },
    units::{
        Selector, Selectors, Users,
        selector::{Which, Whose, app_id},
    },
};

/// Panics if something does not hold. How many of the cgroups are selected.
pub fn check(input: &[u8]) -> usize {
    let text = String::from_utf8_lossy(input);
    let (first, paths) = text.split_once('\n').unwrap_or((&text, ""));
    let paths: BTreeSet<CgroupPath> = paths.split('\n').filter_map(|line| line.parse().ok()).collect();
    let instances: Vec<Instance> = paths.iter().filter_map(instance).collect();
    instances.iter().for_each(check_application);
    match Selectors::parse(first) {
        Ok(selectors) => check_selectors(&selectors, &instances),
        Err((place, error)) => {
            assert!(first.get(place).is_some(), "{error}");
            0
        }
    }
}

fn users() -> Users {
    Users::from([("alice".to_owned(), 1000), ("bob".to_owned(), 1001)])
}

fn instance(path: &CgroupPath) -> Option<Instance> {
    assert_eq!(path.as_str().parse().as_ref(), Ok(path));
    let instance = Instance::of(path)?;
    assert_eq!(instance.path, *path);
    assert_eq!(instance.manager, owner(path));
    let name = path.components().last().unwrap();
    assert!(*instance.unit.0 == *name || name.strip_prefix('_') == Some(&instance.unit.0));
    assert!(instance.unit.0.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"/ ".contains(&byte)));
    Some(instance)
}

/// What a user's manager makes, and a user without it, is below `user@UID.service`.
fn owner(path: &CgroupPath) -> Manager {
    let names: Vec<&str> = path.components().collect();
    if let ["user.slice", slice, service, _, ..] = names[..]
        && let Some(uid) = service.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service"))
        && let Ok(number) = uid.parse::<u32>()
        && number.to_string() == uid
        && slice == format!("user-{uid}.slice")
    {
        return Manager::User(number);
    }
    Manager::System
}

/// What an application's unit is listed as selects it.
fn check_application(instance: &Instance) {
    if let Some(id) = app_id(&instance.unit.0) {
        let selector = Selector { whose: Whose::Anybody, which: Which::App(id) };
        assert!(selector.selects(instance, &users()), "{selector}");
    }
}

fn check_selectors(selectors: &Selectors, instances: &[Instance]) -> usize {
    assert_eq!(Selectors::parse(&selectors.to_string()).as_ref(), Ok(selectors));
    let backwards = Selectors(selectors.0.iter().rev().cloned().collect());
    assert_eq!(selectors.levels(), backwards.levels());
    assert_eq!(selectors.may_hold_others(), backwards.may_hold_others());
    let reach = selectors.depend_on(&users());
    assert_eq!(reach, backwards.depend_on(&users()));
    let mut selected = Vec::new();
    for instance in instances {
        let is_selected = selectors.select(instance, &users());
        assert_eq!(is_selected, backwards.select(instance, &users()));
        for one in &selectors.0 {
            assert_eq!(one.selects(instance, &users()), means(one, instance), "{one} {instance:?}");
        }
        assert_eq!(is_selected, selectors.0.iter().any(|one| means(one, instance)), "{selectors}");
        assert!(!is_selected || reach.covers(instance.manager), "{selectors} {instance:?}");
        selected.extend(is_selected.then_some(instance));
    }
    check_engine(selectors, instances, &selected);
    selected.len()
}

/// The same once more, with libc's globs.
fn means(selector: &Selector, instance: &Instance) -> bool {
    let is_whose = match (&selector.whose, instance.manager) {
        (Whose::Anybody, _) | (Whose::System, Manager::System) | (Whose::AnyUser, Manager::User(_)) => true,
        (Whose::Uid(uid), Manager::User(of)) => *uid == of,
        (Whose::User(name), Manager::User(of)) => users().get(name) == Some(&of),
        _ => false,
    };
    is_whose
        && match &selector.which {
            Which::Unit(name) => *name == instance.unit,
            Which::Glob(glob) if glob.matches('*').count() <= 3 => fnmatch(glob, &instance.unit.0),
            // libc takes for ever for a glob of many stars, and does not know applications.
            which => which.names(&instance.unit),
        }
}

fn fnmatch(glob: &str, name: &str) -> bool {
    let [glob, name] = [glob, name].map(|text| CString::new(text).unwrap());
    // SAFETY: both are strings of C's that live until the call is over.
    unsafe { libc::fnmatch(glob.as_ptr(), name.as_ptr(), libc::FNM_NOESCAPE) == 0 }
}

/// The kernel holds an element of each that is selected, in whatever order they are seen and however often.
fn check_engine(selectors: &Selectors, instances: &[Instance], selected: &[&Instance]) {
    let ids =
        |instances: Vec<Instance>| instances.into_iter().zip((1..).map(CgroupId)).collect::<BTreeMap<_, _>>();
    let all = ids(instances.to_vec());
    let expected = content(selectors, &all, selected);
    let forwards: Vec<_> = instances.iter().collect();
    let backwards: Vec<_> = instances.iter().rev().collect();
    let twice: Vec<_> = forwards.iter().chain(&backwards).copied().collect();
    for (order, turns_between) in [(&forwards, true), (&forwards, false), (&backwards, true), (&twice, false)]
    {
        let mut machine = Machine::new(selectors, turns_between);
        order.iter().for_each(|instance| machine.see(instance, Some(all[*instance])));
        assert_eq!(machine.settle(), expected, "{selectors}");
        // The first half goes.
        let (gone, left) = instances.split_at(instances.len() / 2);
        order
            .iter()
            .filter(|instance| gone.contains(instance))
            .for_each(|instance| machine.see(instance, None));
        let left: Vec<&Instance> =
            selected.iter().copied().filter(|instance| left.contains(instance)).collect();
        assert_eq!(machine.settle(), content(selectors, &all, &left), "{selectors}");
        order.iter().for_each(|instance| machine.see(instance, None));
        assert_eq!(machine.settle(), Content::new(), "{selectors}");
        let snapshot = machine.engine.snapshot();
        assert!(snapshot.instances.is_empty() && snapshot.seen.cgroups.is_empty(), "{snapshot:?}");
        assert!(snapshot.rows.is_empty(), "{snapshot:?}");
    }
}

/// What the sets hold, by their names: ids, and for a gate nothing but that it is open.
type Content = BTreeSet<(String, Option<CgroupId>)>;

fn content(selectors: &Selectors, ids: &BTreeMap<Instance, CgroupId>, selected: &[&Instance]) -> Content {
    let levels = selectors.levels();
    let elements = selected.iter().filter_map(|instance| {
        let level = pattern::level(&instance.path);
        levels.contains(&level).then(|| (set(Some(level)).name.to_string(), Some(ids[*instance])))
    });
    let gate = (!selected.is_empty()).then(|| (set(None).name.to_string(), None));
    elements.chain(gate).collect()
}

/// An engine with one policy, and the kernel.
struct Machine {
    engine: Engine,
    now: Duration,
    turns_between: bool,
    kernel: Content,
}

impl Machine {
    fn new(selectors: &Selectors, turns_between: bool) -> Self {
        let levels = selectors.levels().into_iter().map(Some).chain([None]);
        let targets = levels.map(|level| Target { level, set: set(level), data: None }).collect();
        let pattern = Pattern {
            selectors: selectors.clone(),
            targets,
            unless: None,
            unit: selectors.label(),
            annotations: vec![AnnotationId(0)],
        };
        let mut engine = Engine::new(Settings { cgroups_are_watched: true, ..Settings::default() });
        let loaded = PolicyLoaded { patterns: vec![pattern], users: users(), ..PolicyLoaded::default() };
        engine.handle(Duration::ZERO, Event::PolicyLoaded(loaded));
        Self { engine, now: Duration::ZERO, turns_between, kernel: Content::new() }
    }

    fn see(&mut self, instance: &Instance, id: Option<CgroupId>) {
        self.engine.handle(self.now, Event::InstanceSeen { instance: instance.clone(), id });
        if self.turns_between {
            self.settle();
        }
    }

    /// Does what the engine wants until it wants nothing more.
    fn settle(&mut self) -> Content {
        loop {
            self.now += Duration::from_millis(1);
            let actions = self.engine.actions(self.now);
            let commits = actions.into_iter().filter_map(|action| match action {
                Action::Commit(commit) => Some(commit),
                _ => None,
            });
            let outcomes: Vec<(RowId, Outcome)> = commits.flat_map(|commit| self.commit(commit)).collect();
            if outcomes.is_empty() {
                return self.kernel.clone();
            }
            self.engine.handle(self.now, Event::Committed { outcomes });
        }
    }

    fn commit(&mut self, commit: Commit) -> Vec<(RowId, Outcome)> {
        let mut outcomes = Vec::new();
        for add in commit.add {
            assert!(self.kernel.insert((add.element.set.name.to_string(), add.id)), "added twice");
            outcomes.push((add.row, Outcome::Added(add.id)));
        }
        for delete in commit.delete {
            assert!(self.kernel.remove(&(delete.set.name.to_string(), delete.id)), "deleted twice");
            outcomes.push((delete.row, Outcome::Deleted(delete.id)));
        }
        outcomes
    }
}

fn set(level: Option<u32>) -> SetRef {
    let name = level.map_or("scnpm.gate".to_owned(), |level| format!("scnpm.{level}"));
    SetRef { table: TableRef { family: Family::Inet, name: "filter".into() }, name: name.into() }
}
