use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, time::Duration};

use super::*;
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

/// All that comes until nothing comes for a while: what is left in the end, and what was said.
async fn rest(subtrees: &mut Subtrees) -> (BTreeMap<String, bool>, Vec<String>) {
    let (mut found, mut notices) = (BTreeMap::new(), Vec::new());
    while tokio::time::timeout(Duration::from_millis(50), subtrees.ready()).await.is_ok() {
        let drained = subtrees.drain();
        let paths = drained.found.into_iter();
        found.extend(paths.map(|found| (found.instance.path.to_string(), found.id.is_some())));
        notices.extend(drained.notices);
    }
    (found, notices)
}

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
fn owners_are_told_by_their_numbers() {
    for owner in [Owner::System, Owner::Users, Owner::User(0), Owner::User(u32::MAX)] {
        assert_eq!(Owner::of(owner.number()), owner);
    }
}

#[test]
fn selectors_tell_which_managers_are_followed() {
    let users = Users::from([("alice".to_owned(), 1)]);
    let follows = |whose: Whose| {
        let wanted = Wanted::new(&select([(whose, "x.service")]), &users);
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
        let drained = subtrees.follow(&select([(whose, "x.service")]), &Users::new());
        (drained.found.len(), subtrees.counts().watches, subtrees.counts().managers)
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
    subtrees.follow(&select([(Whose::Uid(1), "x.service")]), &Users::new());
    let watches = |subtrees: &Subtrees| -> Vec<i32> {
        subtrees.ears.by_owner.values().flat_map(|ear| ear.watches.keys().copied()).collect()
    };
    let before = watches(&subtrees);
    let drained = subtrees.follow(&select([(Whose::Uid(1), "y.service")]), &Users::new());
    assert_eq!(paths(&drained), [format!("{A}/app.slice/y.service")]);
    assert_eq!(watches(&subtrees), before);
    assert_eq!(subtrees.counts().instances, 1);
    scratch.remove(&format!("{A}/app.slice/x.service"));
    scratch.remove(&format!("{A}/app.slice/y.service"));
    let gone = BTreeMap::from([(format!("{A}/app.slice/y.service"), false)]);
    assert_eq!(rest(&mut subtrees).await, (gone, vec![]));
}

#[tokio::test]
async fn too_many_slices_are_passed_over_until_there_is_room() {
    let scratch = Scratch::new("slices");
    let mut subtrees = scratch.subtrees(Limits { slices: 3, ..Limits::default() });
    scratch.make(A);
    scratch.make(B);
    subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
    for name in ["a", "b", "c", "d", "e"] {
        scratch.make(&format!("{A}/{name}.slice"));
    }
    let (_, notices) = rest(&mut subtrees).await;
    assert_eq!(notices, ["user 1 has more than 3 slices; the rest is passed over"]);
    scratch.make(&format!("{A}/d.slice/x.service"));
    scratch.make(&format!("{A}/e.slice/x.service"));
    scratch.make(&format!("{B}/app.slice/x.service"));
    let other = BTreeMap::from([(format!("{B}/app.slice/x.service"), true)]);
    assert_eq!(rest(&mut subtrees).await, (other, vec![]));
    scratch.remove(&format!("{A}/a.slice"));
    scratch.remove(&format!("{A}/b.slice"));
    let (found, notices) = rest(&mut subtrees).await;
    assert_eq!(
        found.into_keys().collect::<Vec<_>>(),
        ["d", "e"].map(|name| format!("{A}/{name}.slice/x.service"))
    );
    assert_eq!(notices, [""; 0]);
    assert!(!subtrees.branches[&Manager::User(1)].excess.exists);
}

#[tokio::test]
async fn too_deep_slices_are_passed_over() {
    let scratch = Scratch::new("deep");
    let mut subtrees = scratch.subtrees(Limits { depth: 2, ..Limits::default() });
    scratch.make(&format!("{A}/a.slice/a-b.slice/a-b-c.slice/x.service"));
    let drained = subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
    assert_eq!(drained.found, []);
    assert_eq!(drained.notices, ["user 1 has more than 2 slices in one another; the rest is passed over"]);
}

#[tokio::test]
async fn too_many_instances_are_passed_over_until_there_is_room() {
    let scratch = Scratch::new("instances");
    let mut subtrees = scratch.subtrees(Limits { selected: 2, ..Limits::default() });
    for name in ["a", "b", "c"] {
        scratch.make(&format!("{A}/{name}.slice/x.service"));
    }
    scratch.make(&format!("{B}/x.service"));
    let drained = subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
    assert_eq!(drained.found.len(), 3);
    assert_eq!(
        drained.notices,
        ["user 1 has more than 2 units that annotations select; the rest is passed over"]
    );
    let gone = drained.found[0].instance.path.to_string();
    scratch.remove(&gone);
    let (found, notices) = rest(&mut subtrees).await;
    assert_eq!((found.len(), found[&gone], notices), (2, false, vec![]));
    assert_eq!(subtrees.counts().instances, 3);
}

#[tokio::test]
async fn users_share_an_instance_when_there_are_no_more() {
    let scratch = Scratch::new("share");
    let mut subtrees = scratch.subtrees(Limits { ears: 1, ..Limits::default() });
    let users: Vec<String> =
        (1..=4).map(|uid| format!("user.slice/user-{uid}.slice/user@{uid}.service")).collect();
    users.iter().for_each(|user| scratch.make(user));
    let drained = subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
    assert_eq!(
        drained.notices,
        ["no inotify instance for user 2: 1 users have one. From now on users share one"]
    );
    assert_eq!(subtrees.ears.by_owner.len(), 3);
    users.iter().for_each(|user| scratch.make(&format!("{user}/x.service")));
    let (found, _) = rest(&mut subtrees).await;
    assert_eq!(found.len(), 4);
    subtrees.heal_overflow(Owner::Users, &mut News::default());
    assert_eq!(rest(&mut subtrees).await.0, BTreeMap::new());
    scratch.remove(&format!("{}/x.service", users[3]));
    scratch.remove(&users[3]);
    assert_eq!(rest(&mut subtrees).await.0, BTreeMap::from([(format!("{}/x.service", users[3]), false)]));
    assert_eq!(subtrees.ears.by_owner[&Owner::Users].watches.len(), 2);
}

#[tokio::test]
async fn a_directory_without_a_watch_is_scanned_and_watched_when_that_works() {
    let scratch = Scratch::new("unwatched");
    scratch.make(&format!("{A}/app.slice"));
    let mut subtrees = scratch.subtrees(Limits::default());
    subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
    assert!(!subtrees.has_unwatched());
    // As if the kernel had refused.
    let (user, slice) = (Manager::User(1), format!("{A}/app.slice"));
    let watch = subtrees.branches.get_mut(&user).unwrap().slices.get_mut(&slice).unwrap().take();
    subtrees.ears.by_owner.get_mut(&Owner::User(1)).unwrap().forget(watch);
    let mut news = News::default();
    for _ in 0..2 {
        subtrees.complain(user, &slice, "watched", &io::Error::from_raw_os_error(libc::ENOSPC), &mut news);
    }
    assert_eq!(news.notices.len(), 1);
    assert!(news.notices[0].ends_with("raise fs.inotify.max_user_watches"), "{:?}", news.notices);
    assert!(subtrees.has_unwatched());
    scratch.make(&format!("{slice}/x.service"));
    assert_eq!(rest(&mut subtrees).await.0, BTreeMap::new());
    assert_eq!(paths(&subtrees.rescan_unwatched()), [format!("{slice}/x.service")]);
    assert!(!subtrees.has_unwatched());
    scratch.remove(&format!("{slice}/x.service"));
    assert_eq!(rest(&mut subtrees).await.0.len(), 1);
}

#[tokio::test]
async fn nobody_waits_for_a_user_with_very_many_directories() {
    let scratch = Scratch::new("fair");
    scratch.make(A);
    scratch.make(B);
    let mut subtrees = scratch.subtrees(Limits::default());
    subtrees.follow(&select([(Whose::AnyUser, "x.service")]), &Users::new());
    for number in 0..3 * ENTRIES_AT_ONCE {
        scratch.make(&format!("{A}/{number}.service"));
    }
    scratch.make(&format!("{B}/x.service"));
    let drained = subtrees.drain();
    assert_eq!(paths(&drained), [format!("{B}/x.service")]);
    // A part of the events is left.
    tokio::time::timeout(Duration::ZERO, subtrees.ready()).await.unwrap().unwrap();
    rest(&mut subtrees).await;
    // So with a scan.
    subtrees.heal_overflow(Owner::User(1), &mut News::default());
    let mut drains = 0;
    while subtrees.branches.values().any(Branch::is_waiting) {
        tokio::time::timeout(Duration::ZERO, subtrees.ready()).await.unwrap().unwrap();
        subtrees.drain();
        drains += 1;
    }
    assert_eq!(drains, 4);
}

#[tokio::test]
async fn a_root_that_is_not_there_is_looked_for() {
    let scratch = Scratch::new("root");
    let mut subtrees = Subtrees::with_root(scratch.0.join("later")).unwrap();
    assert!(!subtrees.has_unwatched());
    subtrees.follow(&select([(Whose::System, "x.service")]), &Users::new());
    assert!(subtrees.has_unwatched());
    scratch.make("later/system.slice/x.service");
    assert_eq!(paths(&subtrees.rescan_unwatched()), ["system.slice/x.service"]);
    assert!(!subtrees.has_unwatched());
}
