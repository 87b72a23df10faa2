//! Subtrees of managers on the kernel's own cgroupfs. Needs root. Each test has a hierarchy of its own below a cgroup of
//! its own.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use common::sandbox::{self, Sandbox};
use scnpm::{
    cgroupfs::look_at,
    model::{CgroupId, Instance, Manager, UnitName},
    units::selector::{Selector, Selectors, Users, Which, Whose},
    watch::subtrees::{Drained, Subtrees},
};

/// The clock of all.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

const ALICE: &str = "user.slice/user-1000.slice/user@1000.service";
const BOB: &str = "user.slice/user-1001.slice/user@1001.service";

/// A hierarchy, as cgroups.
struct Top(PathBuf);

impl Top {
    fn make(&self, path: &str) {
        fs::create_dir_all(self.0.join(path)).unwrap_or_else(|error| panic!("mkdir {path}: {error}"));
    }

    fn remove(&self, path: &str) {
        fs::remove_dir(self.0.join(path)).unwrap_or_else(|error| panic!("rmdir {path}: {error}"));
    }

    /// Removes a cgroup with all below it.
    fn remove_all(&self, path: &str) {
        fn remove_below(directory: PathBuf) {
            for entry in fs::read_dir(&directory).unwrap().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove_below(entry.path());
                }
            }
            fs::remove_dir(directory).unwrap();
        }
        remove_below(self.0.join(path));
    }

    fn id(&self, path: &str) -> Option<CgroupId> {
        look_at(&self.0.join(path)).unwrap()
    }

    fn slices(&self) -> usize {
        fn count(directory: PathBuf) -> usize {
            let entries = fs::read_dir(directory).unwrap().flatten();
            let slices = entries.filter(|entry| entry.path().extension() == Some(OsStr::new("slice")));
            slices.map(|slice| 1 + count(slice.path())).sum()
        }
        count(self.0.clone())
    }
}

/// Runs a test with a hierarchy and a runtime.
fn run(test: impl AsyncFnOnce(&Top) + Send + 'static) {
    sandbox::run(move |sandbox: &Sandbox| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(&Top(sandbox.directory())));
    });
}

fn select<const N: usize>(selectors: [(Whose, Which); N]) -> BTreeSet<Selectors> {
    let selectors = selectors.into_iter().map(|(whose, which)| Selector { whose, which });
    BTreeSet::from([Selectors(selectors.collect())])
}

fn glob(text: &str) -> Which {
    Which::Glob(text.into())
}

/// Follows what selectors select, as the daemon does, until there is nothing more to do.
fn follow<const N: usize>(top: &Top, selectors: [(Whose, Which); N]) -> (Subtrees, Reported) {
    let (selectors, users) = (select(selectors), Users::new());
    let mut subtrees = Subtrees::with_root(top.0.clone()).unwrap();
    let known = subtrees.instances_of(&selectors, &users);
    let known: Vec<Instance> = known.into_iter().map(|(instance, _)| instance).collect();
    let mut heard = Reported::default();
    heard.hear(subtrees.follow(&selectors, &users, &known));
    let began = *BEGAN;
    while is_due(&subtrees, began) {
        heard.hear(subtrees.drain(began.elapsed()));
    }
    (subtrees, heard)
}

fn is_due(subtrees: &Subtrees, began: Instant) -> bool {
    subtrees.due().is_some_and(|at| at <= began.elapsed())
}

/// Whether the kernel has something within so many milliseconds.
async fn has_events(subtrees: &Subtrees, millis: u64) -> bool {
    let ready = std::future::poll_fn(|cx| subtrees.poll_ready(cx));
    tokio::time::timeout(Duration::from_millis(millis), ready).await.is_ok()
}

/// What is there after all that was told, until nothing comes for a while.
#[derive(Default)]
struct Reported {
    now: BTreeMap<String, CgroupId>,
    gone: Vec<String>,
    notices: Vec<String>,
}

impl Reported {
    fn hear(&mut self, drained: Drained) {
        let paths: BTreeSet<_> = drained.found.iter().map(|found| found.instance.path.clone()).collect();
        assert_eq!(paths.len(), drained.found.len(), "a path was told twice");
        assert!(drained.found.is_sorted());
        for found in drained.found {
            let path = found.instance.path.to_string();
            match found.id {
                Some(id) => drop(self.now.insert(path, id)),
                None => {
                    self.now.remove(&path);
                    self.gone.push(path);
                }
            }
        }
        self.notices.extend(drained.notices);
    }

    /// Hears all until nothing comes for a while.
    async fn rest(&mut self, subtrees: &mut Subtrees) {
        let began = *BEGAN;
        while is_due(subtrees, began) || has_events(subtrees, 100).await {
            self.hear(subtrees.drain(began.elapsed()));
        }
    }

    /// The same, and what waits until it is its users' turn.
    async fn rest_of_all(&mut self, subtrees: &mut Subtrees) {
        self.rest(subtrees).await;
        while let Some(at) = subtrees.due() {
            tokio::time::sleep(at.saturating_sub(BEGAN.elapsed())).await;
            self.rest(subtrees).await;
        }
    }

    /// As [`Self::rest`], and what is looked at once a second, too.
    async fn rest_of_a_second(&mut self, subtrees: &mut Subtrees) {
        self.rest(subtrees).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        self.rest(subtrees).await;
    }

    fn paths(&self) -> Vec<&str> {
        self.now.keys().map(String::as_str).collect()
    }
}

#[test]
fn watches_are_as_many_as_slices_and_only_the_selected_is_kept() {
    run(async |top| {
        for slice in 0..20 {
            for scope in 0..50 {
                top.make(&format!("s.slice/s-{slice}.slice/u{scope}.scope/inner.slice"));
                top.make(&format!("{ALICE}/app.slice/app-{slice}.slice/u{scope}.scope/inner.slice"));
            }
        }
        top.make(&format!("{ALICE}/app.slice/app-x-1.scope"));
        let (subtrees, heard) = follow(top, [(Whose::Anybody, glob("app-x-*.scope"))]);
        assert_eq!(heard.paths(), [format!("{ALICE}/app.slice/app-x-1.scope")]);
        let counts = subtrees.counts();
        // The slices outside the manager, those inside, the manager and the root.
        let inside = 1 + 20;
        assert_eq!(counts.watches, top.slices() + inside + 2);
        assert_eq!((counts.instances, counts.managers), (1, 2));
        // What is in units wakes nobody.
        top.make(&format!("{ALICE}/app.slice/app-x-1.scope/below.scope"));
        top.make("s.slice/s-1.slice/u1.scope/inner.slice/x.scope");
        assert!(!has_events(&subtrees, 50).await);
    });
}

#[test]
fn twenty_thousand_cgroups_cost_little() {
    run(async |top| {
        for slice in 0..20 {
            for scope in 0..500 {
                top.make(&format!("s.slice/s-{slice}.slice/u{scope}.scope"));
                top.make(&format!("{ALICE}/app.slice/app-{slice}.slice/u{scope}.scope"));
            }
        }
        let resident = || -> usize {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let (before, start) = (resident(), Instant::now());
        let (subtrees, _) = follow(top, [(Whose::Anybody, glob("u1*.scope"))]);
        println!("{:?}, {} kB more, {:?}", start.elapsed(), resident() - before, subtrees.counts());
        assert_eq!(subtrees.counts().instances, 2 * 20 * 111);
        assert!(resident() - before < 20_000);
    });
}

#[test]
fn what_two_users_do_at_once_ends_in_the_right_set() {
    run(async |top| {
        for user in [ALICE, BOB] {
            top.make(&format!("{user}/app.slice"));
        }
        let (mut subtrees, mut heard) = follow(top, [(Whose::AnyUser, glob("app-*.scope"))]);
        let makers = [(ALICE, 7_u64), (BOB, 11)].map(|(user, seed)| {
            let app = top.0.join(user).join("app.slice");
            thread::spawn(move || {
                // xorshift64
                let mut random = seed;
                for _ in 0..6000 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let number = random % 1000;
                    let kind = if number.is_multiple_of(2) { "app" } else { "other" };
                    let directory = app.join(format!("{kind}-{number}.scope"));
                    if fs::remove_dir(&directory).is_err() {
                        fs::create_dir(&directory).unwrap();
                    }
                }
            })
        });
        while makers.iter().any(|maker| !maker.is_finished()) {
            if is_due(&subtrees, *BEGAN) || has_events(&subtrees, 10).await {
                heard.hear(subtrees.drain(BEGAN.elapsed()));
            }
        }
        makers.into_iter().for_each(|maker| maker.join().unwrap());
        heard.rest_of_all(&mut subtrees).await;
        let mut expected = BTreeMap::new();
        for user in [ALICE, BOB] {
            for number in 0..1000 {
                let path = format!("{user}/app.slice/app-{number}.scope");
                expected.extend(top.id(&path).map(|id| (path, id)));
            }
        }
        assert!(expected.len() > 100);
        assert_eq!(heard.now, expected);
        assert_eq!(subtrees.counts().instances, expected.len());
        assert_eq!(heard.notices, [""; 0]);
    });
}

#[test]
fn hostile_names_are_passed_over() {
    run(async |top| {
        top.make(&format!("{ALICE}/app.slice"));
        top.make("system.slice");
        top.make(BOB);
        let everything = [(Whose::Uid(1001), glob("*")), (Whose::System, glob("*.service"))];
        let (mut subtrees, mut heard) = follow(top, everything);
        let before = heard.now.clone();
        let watches = subtrees.counts().watches;
        let long = "x".repeat(255);
        // The kernel itself refuses newlines.
        let names: [&[u8]; 12] = [
            b"a\"b.scope",
            b"a'b.scope",
            b"a b.scope",
            b"a;b.scope",
            b"\xff\xfe.scope",
            b"..scope",
            b"...",
            b"..\\.scope.",
            b"{ }.slice",
            b"\xff.slice",
            b"-.slice",
            long.as_bytes(),
        ];
        for user in [ALICE, BOB] {
            for name in names {
                fs::create_dir(top.0.join(user).join(OsStr::from_bytes(name))).unwrap();
            }
        }
        // Alice, who is not followed as a user, does as if she were Bob or the system.
        for path in [
            "system.slice/evil.service",
            "evil.service",
            "user.slice/user-1001.slice/user@1001.service/app.slice/evil.scope",
            "user@1001.service/app.slice/evil.scope",
            "a-b.slice/evil.service",
        ] {
            top.make(&format!("{ALICE}/{path}"));
        }
        heard.rest(&mut subtrees).await;
        assert_eq!(heard.now, before);
        assert_eq!(subtrees.counts().watches, watches);
        // Bob may imitate as he likes: what is his is his, and what is in units is nobody's.
        for path in [
            "system.slice/x.service",
            "user.slice/user-1000.slice/user@1000.service/app.slice/x.scope",
            "a-b.slice/x.service",
            "a.slice/b.slice/x.service",
            "x.service/app.slice/x.scope",
        ] {
            top.make(&format!("{BOB}/{path}"));
        }
        while is_due(&subtrees, *BEGAN) || has_events(&subtrees, 100).await {
            let drained = subtrees.drain(BEGAN.elapsed());
            assert!(drained.found.iter().all(|found| found.instance.manager == Manager::User(1001)));
            heard.hear(drained);
        }
        let new: Vec<&str> = heard.paths().into_iter().filter(|path| !before.contains_key(*path)).collect();
        let expected = [
            "a.slice",
            "system.slice",
            "system.slice/x.service",
            "user.slice",
            "user.slice/user-1000.slice",
            "user.slice/user-1000.slice/user@1000.service",
            "x.service",
        ];
        assert_eq!(new, expected.map(|path| format!("{BOB}/{path}")));
    });
}

#[test]
fn users_come_and_go() {
    run(async |top| {
        let (mut subtrees, mut heard) = follow(top, [(Whose::AnyUser, glob("app-*.scope"))]);
        assert_eq!(subtrees.counts().watches, 1);
        let app = format!("{ALICE}/app.slice/app-a-1.scope");
        for _ in 0..3 {
            top.make(&app);
            heard.rest(&mut subtrees).await;
            assert_eq!(heard.now, BTreeMap::from([(app.clone(), top.id(&app).unwrap())]));
            // Lingering: no session, and the same manager.
            top.make("user.slice/user-1000.slice/session-1.scope");
            top.remove("user.slice/user-1000.slice/session-1.scope");
            heard.rest(&mut subtrees).await;
            assert_eq!(heard.paths(), [app.as_str()]);
            assert_eq!(subtrees.counts().watches, 5);
            // The end: at first the manager, then the user's slice, then all.
            top.remove_all(ALICE);
            heard.rest(&mut subtrees).await;
            let gone = std::mem::take(&mut heard.gone);
            assert_eq!((heard.paths(), gone), (vec![], vec![app.clone()]));
            assert_eq!((subtrees.counts().watches, subtrees.counts().managers), (3, 1));
            top.remove("user.slice/user-1000.slice");
            heard.rest(&mut subtrees).await;
            assert_eq!(subtrees.counts().watches, 2);
            top.remove("user.slice");
            heard.rest(&mut subtrees).await;
            assert_eq!(subtrees.counts().watches, 1);
        }
        // So quickly that nobody looks meanwhile.
        top.make(&app);
        heard.rest(&mut subtrees).await;
        let old = top.id(&app);
        top.remove_all("user.slice");
        top.make(&app);
        heard.rest(&mut subtrees).await;
        assert_ne!(top.id(&app), old);
        assert_eq!(heard.now, BTreeMap::from([(app.clone(), top.id(&app).unwrap())]));
        assert_eq!(subtrees.counts().watches, 5);
        assert_eq!(heard.notices, [""; 0]);
    });
}

#[test]
fn a_cgroup_made_again_is_told_once_with_its_newest_id() {
    run(async |top| {
        let path = "a.slice/a-b.slice/x.scope";
        top.make(path);
        let (mut subtrees, heard) = follow(top, [(Whose::System, Which::Unit(UnitName("x.scope".into())))]);
        assert_eq!(heard.paths(), [path]);
        for _ in 0..5 {
            top.remove(path);
            top.make(path);
        }
        let mut heard = Reported::default();
        heard.rest(&mut subtrees).await;
        assert_eq!(heard.now, BTreeMap::from([(path.to_owned(), top.id(path).unwrap())]));
        // So with all that it is in.
        top.remove_all("a.slice");
        top.make(path);
        let mut heard = Reported::default();
        heard.rest(&mut subtrees).await;
        assert_eq!(heard.now, BTreeMap::from([(path.to_owned(), top.id(path).unwrap())]));
        top.remove(path);
        heard.rest(&mut subtrees).await;
        assert_eq!(heard.gone, [path]);
    });
}

#[test]
fn an_overflow_ends_in_a_look_at_everything_of_that_user() {
    run(async |top| {
        let limit: usize =
            fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        let stays = format!("{ALICE}/app.slice/app-stays.scope");
        let goes = format!("{ALICE}/app.slice/app-goes.scope");
        let other = format!("{BOB}/app.slice/app-other.scope");
        for path in [&stays, &goes, &other] {
            top.make(path);
        }
        let (mut subtrees, mut heard) = follow(top, [(Whose::AnyUser, glob("app-*.scope"))]);
        for number in 0..limit / 2 + 10 {
            let name = format!("{ALICE}/app.slice/{number}.scope");
            top.make(&name);
            top.remove(&name);
        }
        // Their events are dropped.
        let comes = format!("{ALICE}/app.slice/app-comes.slice/app-comes.scope");
        top.make(&comes);
        top.remove(&goes);
        // Bob need not wait for Alice's.
        top.remove(&other);
        for _ in 0..2 {
            heard.hear(subtrees.drain(BEGAN.elapsed()));
        }
        assert_eq!(heard.gone, [other.as_str()]);
        heard.rest(&mut subtrees).await;
        assert_eq!(heard.paths(), [comes.as_str(), stays.as_str()]);
        assert_eq!(
            heard.notices,
            ["inotify events of user 1000 overflowed (so far: 1); all its cgroups are looked at"]
        );
        top.remove(&comes);
        heard.rest(&mut subtrees).await;
        assert_eq!(heard.paths(), [stays.as_str()]);
    });
}

#[test]
fn a_user_with_too_many_slices_is_told_of_and_the_others_are_served() {
    run(async |top| {
        top.make(ALICE);
        top.make(BOB);
        let (mut subtrees, mut heard) = follow(top, [(Whose::AnyUser, glob("app-*.scope"))]);
        for number in 0..1100 {
            top.make(&format!("{ALICE}/s{number}.slice"));
        }
        // The root, user.slice, two of users, two managers.
        heard.rest(&mut subtrees).await;
        assert_eq!(subtrees.counts().watches, 6 + 1024);
        assert_eq!(heard.notices, ["user 1000 has more than 1024 slices; the rest is passed over"]);
        let scope = format!("{BOB}/app.slice/app-x.scope");
        top.make(&scope);
        top.make(&format!("{ALICE}/s1099.slice/app-x.scope"));
        heard.rest(&mut subtrees).await;
        assert_eq!(heard.paths(), [scope.as_str()]);
        for number in 0..100 {
            top.remove(&format!("{ALICE}/s{number}.slice"));
        }
        heard.rest_of_a_second(&mut subtrees).await;
        assert_eq!(heard.paths(), [&format!("{ALICE}/s1099.slice/app-x.scope"), &scope]);
        assert_eq!(heard.notices.len(), 1);
    });
}

#[test]
fn a_user_who_floods_does_not_keep_others_from_being_served() {
    run(async |top| {
        for user in [ALICE, BOB] {
            top.make(&format!("{user}/app.slice"));
        }
        let (mut subtrees, mut heard) = follow(top, [(Whose::AnyUser, glob("app-*.scope"))]);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let app = top.0.join(ALICE).join("app.slice");
        let flooder = thread::spawn(move || {
            let mut number = 0;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let directory = app.join(format!("app-{}.slice", number % 500));
                fs::create_dir(&directory).unwrap();
                fs::remove_dir(&directory).unwrap();
                number += 1;
            }
            number
        });
        let scope = format!("{BOB}/app.slice/app-x.scope");
        for _ in 0..50 {
            let mut drains = 0;
            for exists in [true, false] {
                if exists {
                    top.make(&scope)
                } else {
                    top.remove(&scope)
                }
                while heard.now.contains_key(&scope) != exists {
                    if is_due(&subtrees, *BEGAN) || has_events(&subtrees, 1000).await {
                        heard.hear(subtrees.drain(BEGAN.elapsed()));
                    }
                    drains += 1;
                }
            }
            assert!(drains <= 4, "Bob waited for {drains} drains");
        }
        drop(stop);
        println!("{} cgroups made meanwhile", flooder.join().unwrap());
        heard.rest(&mut subtrees).await;
        assert_eq!(heard.now, BTreeMap::new());
    });
}
