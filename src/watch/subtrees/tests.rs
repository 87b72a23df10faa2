use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, time::Duration};

use inotify::WatchDescriptor;

use super::{paths::unit_path, *};
use crate::{
    model::UnitName,
    units::selector::{Selector, Which, Whose},
};

/// An ordinary directory does for what does not depend on cgroupfs.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("scnpm-subtrees-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn make(&self, path: &str) {
        fs::create_dir_all(self.0.join(path)).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_dir(self.0.join(path)).unwrap();
    }

    fn subtrees(&self, limits: Limits) -> Subtrees {
        let mut subtrees = Subtrees::with_root(self.0.clone()).unwrap();
        subtrees.limits = limits;
        subtrees
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn select<const N: usize>(selectors: [(Whose, &str); N]) -> BTreeSet<Selectors> {
    let unit = |(whose, unit): (Whose, &str)| Selector { whose, which: Which::Unit(UnitName(unit.into())) };
    BTreeSet::from([Selectors(selectors.into_iter().map(unit).collect())])
}

/// All that comes until nothing comes for a while: what is left in the end, and what was said. The clock stands still.
async fn rest(subtrees: &mut Subtrees, now: Duration) -> (BTreeMap<String, bool>, Vec<String>) {
    let (mut found, mut notices) = (BTreeMap::new(), Vec::new());
    while is_due(subtrees, now) || has_events(subtrees).await {
        let drained = subtrees.drain(now);
        let paths = drained.found.into_iter();
        found.extend(paths.map(|found| (found.instance.path.to_string(), found.id.is_some())));
        notices.extend(drained.notices);
    }
    (found, notices)
}

fn is_due(subtrees: &Subtrees, now: Duration) -> bool {
    subtrees.due().is_some_and(|at| at <= now)
}

async fn has_events(subtrees: &Subtrees) -> bool {
    let ready = std::future::poll_fn(|cx| subtrees.poll_ready(cx));
    tokio::time::timeout(Duration::from_millis(50), ready).await.is_ok()
}

/// Follows what selectors select, as the daemon does: what there is of it, and what was said.
fn follow(
    subtrees: &mut Subtrees,
    selectors: &BTreeSet<Selectors>,
    users: &Users,
) -> (Vec<String>, Vec<String>) {
    let known: Vec<Instance> =
        subtrees.instances_of(selectors, users).into_iter().map(|(instance, _)| instance).collect();
    let drained = subtrees.follow(selectors, users, &known);
    let mut notices = drained.notices;
    let mut found: BTreeMap<String, bool> = BTreeMap::new();
    let mut note = |all: Vec<Found>| {
        found.extend(all.into_iter().map(|one| (one.instance.path.to_string(), one.id.is_some())));
    };
    note(drained.found);
    while is_due(subtrees, Duration::ZERO) {
        let drained = subtrees.drain(Duration::ZERO);
        note(drained.found);
        notices.extend(drained.notices);
    }
    (found.into_iter().filter(|(_, exists)| *exists).map(|(path, _)| path).collect(), notices)
}

const NOW: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(1);

fn paths(drained: &Drained) -> Vec<&str> {
    drained.found.iter().map(|found| found.instance.path.as_str()).collect()
}

const A: &str = "user.slice/user-1.slice/user@1.service";
const B: &str = "user.slice/user-2.slice/user@2.service";

#[test]
fn names_that_no_unit_has_lead_nowhere() {
    let path = |name: &[u8]| unit_path("a.slice", OsStr::from_bytes(name));
    assert_eq!(path(b"x.service").as_deref(), Some("a.slice/x.service"));
    assert_eq!(unit_path("", OsStr::new("x.service")).as_deref(), Some("x.service"));
    for name in
        [&b"cgroup"[..], b"..", b".x.service", b"a b.service", b"a;.service", b"\xff.service", b"a\n.service"]
    {
        assert_eq!(path(name), None, "{name:?}");
    }
}

#[test]
fn selectors_tell_which_managers_are_followed() {
    let users = Users::from([("alice".to_owned(), 1)]);
    let follows = |whose: Whose| {
        let wanted = Wanted::new(&select([(whose, "x.service")]), &users, false);
        let managers = [Manager::System, Manager::User(1), Manager::User(2)];
        (wanted.reach.system, managers.map(|manager| wanted.follows(manager)))
    };
    assert_eq!(follows(Whose::Anybody), (true, [true, true, true]));
    assert_eq!(follows(Whose::System), (true, [true, false, false]));
    assert_eq!(follows(Whose::AnyUser), (false, [true, true, true]));
    assert_eq!(follows(Whose::Uid(2)), (false, [true, false, true]));
    assert_eq!(follows(Whose::User("alice".into())), (false, [true, true, false]));
    assert_eq!(follows(Whose::User("nobody".into())), (false, [false, false, false]));
}

#[tokio::test]
async fn only_what_leads_to_selected_units_is_watched() {
    let scratch = Scratch::new("lead");
    for path in [
        "system.slice/x.service",
        "user.slice/user-1.slice/session-1.scope",
        "a.slice/a-b.slice",
        "b-c.slice",
    ] {
        scratch.make(path);
    }
    scratch.make(&format!("{A}/app.slice/x.service/deep.slice"));
    scratch.make(&format!("{B}/app.slice/x.service"));
    let mut subtrees = scratch.subtrees(Limits::default());
    let mut follow = |whose| {
        let (found, _) = follow(&mut subtrees, &select([(whose, "x.service")]), &Users::new());
        (found.len(), subtrees.counts().watches, subtrees.counts().managers)
    };
    // The root, system, user, user-1, user-2, a, a-b; of each user the manager and app.
    assert_eq!(follow(Whose::System), (1, 7, 1));
    assert_eq!(follow(Whose::Anybody), (3, 11, 3));
    assert_eq!(follow(Whose::Uid(2)), (1, 5, 2));
    assert_eq!(follow(Whose::AnyUser), (2, 8, 3));
    assert_eq!(follow(Whose::User("nobody".into())), (0, 0, 0));
}

#[tokio::test]
async fn a_reload_finds_what_is_new_and_keeps_the_watches() {
    let scratch = Scratch::new("reload");
    scratch.make(&format!("{A}/app.slice/x.service"));
    scratch.make(&format!("{A}/app.slice/y.service"));
    let mut subtrees = scratch.subtrees(Limits::default());
    follow(&mut subtrees, &select([(Whose::Uid(1), "x.service")]), &Users::new());
    let watches = |subtrees: &Subtrees| -> Vec<WatchDescriptor> {
        subtrees.listeners.by_owner.values().flat_map(|one| one.watches.keys().cloned()).collect()
    };
    let before = watches(&subtrees);
    let (found, _) = follow(&mut subtrees, &select([(Whose::Uid(1), "y.service")]), &Users::new());
    assert_eq!(found, [format!("{A}/app.slice/y.service")]);
    assert_eq!(watches(&subtrees), before);
    assert_eq!(subtrees.counts().instances, 1);
    scratch.remove(&format!("{A}/app.slice/x.service"));
    scratch.remove(&format!("{A}/app.slice/y.service"));
    let gone = BTreeMap::from([(format!("{A}/app.slice/y.service"), false)]);
    assert_eq!(rest(&mut subtrees, NOW).await, (gone, vec![]));
}

#[tokio::test]
async fn too_many_slices_are_passed_over_until_there_is_room() {
    let scratch = Scratch::new("slices");
    let mut subtrees = scratch.subtrees(Limits { slices: 3, ..Limits::default() });
    scratch.make(A);
    scratch.make(B);
    follow(&mut subtrees, &select([(Whose::AnyUser, "x.service")]), &Users::new());
    for name in ["a", "b", "c", "d", "e"] {
        scratch.make(&format!("{A}/{name}.slice"));
    }
    let (_, notices) = rest(&mut subtrees, NOW).await;
    assert_eq!(notices, ["user 1 has more than 3 slices; the rest is passed over"]);
    scratch.make(&format!("{A}/d.slice/x.service"));
    scratch.make(&format!("{A}/e.slice/x.service"));
    scratch.make(&format!("{B}/app.slice/x.service"));
    let other = BTreeMap::from([(format!("{B}/app.slice/x.service"), true)]);
    assert_eq!(rest(&mut subtrees, NOW).await, (other, vec![]));
    scratch.remove(&format!("{A}/a.slice"));
    scratch.remove(&format!("{A}/b.slice"));
    assert_eq!(rest(&mut subtrees, NOW).await, (BTreeMap::new(), vec![]));
    let (found, notices) = rest(&mut subtrees, LATER).await;
    assert_eq!(
        found.into_keys().collect::<Vec<_>>(),
        ["d", "e"].map(|name| format!("{A}/{name}.slice/x.service"))
    );
    assert_eq!(notices, [""; 0]);
    assert_eq!(subtrees.due(), None);
}

#[tokio::test]
async fn too_deep_slices_are_passed_over() {
    let scratch = Scratch::new("deep");
    let mut subtrees = scratch.subtrees(Limits { depth: 2, ..Limits::default() });
    scratch.make(&format!("{A}/a.slice/a-b.slice/a-b-c.slice/x.service"));
    let (found, notices) = follow(&mut subtrees, &select([(Whose::AnyUser, "x.service")]), &Users::new());
    assert_eq!(found, [""; 0]);
    assert_eq!(notices, ["user 1 has more than 2 slices in one another; the rest is passed over"]);
}

#[tokio::test]
async fn too_many_instances_are_passed_over_until_there_is_room() {
    let scratch = Scratch::new("instances");
    let mut subtrees = scratch.subtrees(Limits { selected: 2, ..Limits::default() });
    for name in ["a", "b", "c"] {
        scratch.make(&format!("{A}/{name}.slice/x.service"));
    }
    scratch.make(&format!("{B}/x.service"));
    let (mut found, notices) = follow(&mut subtrees, &select([(Whose::AnyUser, "x.service")]), &Users::new());
    assert_eq!(found.len(), 3);
    assert_eq!(notices, ["user 1 has more than 2 units that annotations select; the rest is passed over"]);
    let gone = found.remove(0);
    scratch.remove(&gone);
    assert_eq!(rest(&mut subtrees, NOW).await, (BTreeMap::from([(gone, false)]), vec![]));
    let (found, notices) = rest(&mut subtrees, LATER).await;
    assert_eq!((found.len(), notices), (1, vec![]));
    assert_eq!(subtrees.counts().instances, 3);
}

#[tokio::test]
async fn users_share_an_instance_when_there_are_no_more() {
    let scratch = Scratch::new("share");
    let mut subtrees = scratch.subtrees(Limits { listeners: 1, ..Limits::default() });
    let users: Vec<String> =
        (1..=4).map(|uid| format!("user.slice/user-{uid}.slice/user@{uid}.service")).collect();
    users.iter().for_each(|user| scratch.make(user));
    let (_, notices) = follow(&mut subtrees, &select([(Whose::AnyUser, "x.service")]), &Users::new());
    assert_eq!(notices, ["no inotify instance for user 2: 1 users have one. From now on users share one"]);
    assert_eq!(subtrees.listeners.by_owner.len(), 3);
    users.iter().for_each(|user| scratch.make(&format!("{user}/x.service")));
    let (found, _) = rest(&mut subtrees, NOW).await;
    assert_eq!(found.len(), 4);
    subtrees.note_overflow(Owner::Users);
    assert_eq!(rest(&mut subtrees, NOW).await.0, BTreeMap::new());
    scratch.remove(&format!("{}/x.service", users[3]));
    scratch.remove(&users[3]);
    assert_eq!(
        rest(&mut subtrees, NOW).await.0,
        BTreeMap::from([(format!("{}/x.service", users[3]), false)])
    );
    assert_eq!(subtrees.listeners.by_owner[&Owner::Users].watches.len(), 2);
}

#[tokio::test]
async fn a_directory_without_a_watch_is_scanned_and_watched_when_that_works() {
    let scratch = Scratch::new("unwatched");
    scratch.make(&format!("{A}/app.slice"));
    let mut subtrees = scratch.subtrees(Limits::default());
    follow(&mut subtrees, &select([(Whose::AnyUser, "x.service")]), &Users::new());
    assert_eq!(subtrees.due(), None);
    // As if the kernel had refused, after a look just now.
    let (user, slice) = (Manager::User(1), format!("{A}/app.slice"));
    let branch = subtrees.branches.get_mut(&user).unwrap();
    branch.rescanned = Some(NOW);
    let watch = branch.slices.get_mut(&slice).unwrap().watch.take();
    subtrees.listeners.forget(Owner::User(1), watch);
    for _ in 0..2 {
        subtrees.complain(user, &slice, "watched", &io::Error::from_raw_os_error(libc::ENOSPC));
    }
    assert_eq!(subtrees.news.notices.len(), 1);
    assert!(
        subtrees.news.notices[0].ends_with("raise fs.inotify.max_user_watches"),
        "{:?}",
        subtrees.news.notices
    );
    assert_eq!(subtrees.due(), Some(LATER));
    scratch.make(&format!("{slice}/x.service"));
    assert_eq!(rest(&mut subtrees, NOW).await.0, BTreeMap::new());
    assert_eq!(rest(&mut subtrees, LATER).await.0, BTreeMap::from([(format!("{slice}/x.service"), true)]));
    assert_eq!(subtrees.due(), None);
    scratch.remove(&format!("{slice}/x.service"));
    assert_eq!(rest(&mut subtrees, LATER).await.0.len(), 1);
}

#[tokio::test]
async fn a_look_that_fails_is_no_cgroup_that_is_gone() {
    let scratch = Scratch::new("failing");
    scratch.make(&format!("{A}/app.slice/x.service"));
    let mut subtrees = scratch.subtrees(Limits::default());
    follow(&mut subtrees, &select([(Whose::AnyUser, "x.service")]), &Users::new());
    let (service, moved) = (scratch.0.join(A).join("app.slice/x.service"), scratch.0.join("moved"));
    // A look at it fails with ELOOP.
    fs::rename(&service, &moved).unwrap();
    std::os::unix::fs::symlink("x.service", &service).unwrap();
    let path = format!("{A}/app.slice/x.service");
    let branch = subtrees.branches.get_mut(&Manager::User(1)).unwrap();
    branch.touched.insert(path.clone());
    assert_eq!(paths(&subtrees.drain(NOW)), [""; 0]);
    assert_eq!(subtrees.counts().instances, 1);
    fs::remove_file(&service).unwrap();
    assert_eq!(rest(&mut subtrees, LATER).await.0, BTreeMap::from([(path, false)]));
}

#[tokio::test]
async fn nobody_waits_for_a_user_with_very_many_directories() {
    let scratch = Scratch::new("fair");
    scratch.make(A);
    scratch.make(B);
    let mut subtrees = scratch.subtrees(Limits::default());
    follow(&mut subtrees, &select([(Whose::AnyUser, "x.service")]), &Users::new());
    for number in 0..3000 {
        scratch.make(&format!("{A}/{number}.service"));
    }
    scratch.make(&format!("{B}/x.service"));
    assert_eq!(paths(&subtrees.drain(NOW)), [""; 0]);
    assert_eq!(paths(&subtrees.drain(NOW)), [format!("{B}/x.service")]);
    // A part of the events is left.
    assert!(is_due(&subtrees, NOW) || has_events(&subtrees).await);
    rest(&mut subtrees, NOW).await;
    // So with a scan.
    subtrees.note_overflow(Owner::User(1));
    scratch.remove(&format!("{B}/x.service"));
    let both = [subtrees.drain(LATER), subtrees.drain(LATER)];
    assert_eq!(both.iter().flat_map(paths).collect::<Vec<_>>(), [format!("{B}/x.service")]);
    assert!(subtrees.branches[&Manager::User(1)].has_scans());
    rest(&mut subtrees, LATER).await;
}

#[tokio::test]
async fn who_floods_is_served_at_a_rate_and_nobody_else_is_slowed() {
    let scratch = Scratch::new("rate");
    scratch.make(A);
    scratch.make(B);
    let mut subtrees = scratch.subtrees(Limits::default());
    follow(&mut subtrees, &select([(Whose::AnyUser, "x.service")]), &Users::new());
    subtrees.shares = Shares::new(shares::Limits { burst: 5000, ..SHARES });
    let flood = |scratch: &Scratch| {
        for number in 0..100 {
            scratch.make(&format!("{A}/{number}.slice/x.service"));
            scratch.remove(&format!("{A}/{number}.slice/x.service"));
            scratch.remove(&format!("{A}/{number}.slice"));
        }
    };
    let mut floods = 0;
    while subtrees.shares.may_work(Owner::User(1)) {
        flood(&scratch);
        rest(&mut subtrees, NOW).await;
        floods += 1;
        assert!(floods < 100, "a flood that nothing ends");
    }
    // They wake nobody any more until there is something to give.
    flood(&scratch);
    assert!(!has_events(&subtrees).await && !is_due(&subtrees, NOW));
    scratch.make(&format!("{B}/x.service"));
    assert!(has_events(&subtrees).await);
    assert_eq!(paths(&subtrees.drain(NOW)), [format!("{B}/x.service")]);
    let due = subtrees.due().unwrap();
    assert!(due > NOW);
    scratch.make(&format!("{A}/a.slice/x.service"));
    let found = rest(&mut subtrees, due + Duration::from_secs(10)).await.0;
    assert_eq!(found.get(&format!("{A}/a.slice/x.service")), Some(&true));
}

#[tokio::test]
async fn a_root_that_is_not_there_is_looked_for() {
    let scratch = Scratch::new("root");
    let mut subtrees = Subtrees::with_root(scratch.0.join("later")).unwrap();
    assert_eq!(subtrees.due(), None);
    follow(&mut subtrees, &select([(Whose::System, "x.service")]), &Users::new());
    assert_eq!(subtrees.due(), Some(LATER));
    scratch.make("later/system.slice/x.service");
    let found = rest(&mut subtrees, LATER).await.0;
    assert_eq!(found, BTreeMap::from([("system.slice/x.service".to_owned(), true)]));
    assert_eq!(subtrees.due(), None);
}

#[tokio::test]
async fn what_a_policy_would_follow_is_found_without_following_it() {
    let scratch = Scratch::new("apart");
    scratch.make(&format!("{A}/app.slice/x.service"));
    scratch.make(&format!("{A}/app.slice/y.service"));
    let mut subtrees = scratch.subtrees(Limits::default());
    follow(&mut subtrees, &select([(Whose::Uid(1), "x.service")]), &Users::new());
    let found = subtrees.instances_of(&select([(Whose::Uid(1), "y.service")]), &Users::new());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0.path.as_str(), format!("{A}/app.slice/y.service"));
    scratch.remove(&format!("{A}/app.slice/x.service"));
    scratch.remove(&format!("{A}/app.slice/y.service"));
    let gone = BTreeMap::from([(format!("{A}/app.slice/x.service"), false)]);
    assert_eq!(rest(&mut subtrees, NOW).await, (gone, vec![]));
}

#[tokio::test]
async fn what_went_between_the_look_and_the_follow_is_told() {
    let scratch = Scratch::new("between");
    let path = format!("{A}/app.slice/x.service");
    scratch.make(&path);
    let mut subtrees = scratch.subtrees(Limits::default());
    let selectors = select([(Whose::Uid(1), "x.service")]);
    let known: Vec<Instance> =
        subtrees.instances_of(&selectors, &Users::new()).into_iter().map(|(instance, _)| instance).collect();
    fs::remove_dir_all(scratch.0.join("user.slice")).unwrap();
    let drained = subtrees.follow(&selectors, &Users::new(), &known);
    assert_eq!(drained.found, [Found { instance: known[0].clone(), id: None }]);
}

#[tokio::test]
async fn without_events_all_is_found_within_a_second_and_sooner_if_somebody_spoke() {
    let scratch = Scratch::new("blind");
    scratch.make(&format!("{A}/app.slice"));
    let mut subtrees = Subtrees::without_events(scratch.0.clone());
    follow(&mut subtrees, &select([(Whose::AnyUser, "x.service")]), &Users::new());
    let path = format!("{A}/app.slice/app-b.slice/x.service");
    scratch.make(&path);
    assert_eq!(rest(&mut subtrees, NOW).await.0, BTreeMap::new());
    assert_eq!(subtrees.due(), Some(LATER));
    assert_eq!(rest(&mut subtrees, LATER).await.0, BTreeMap::from([(path.clone(), true)]));
    fs::remove_dir_all(scratch.0.join(A).join("app.slice")).unwrap();
    subtrees.nudge();
    let soon = LATER + Duration::from_millis(100);
    assert_eq!(subtrees.due(), Some(soon));
    assert_eq!(rest(&mut subtrees, soon).await.0, BTreeMap::from([(path, false)]));
    assert_eq!(subtrees.counts().watches, 0);
}
