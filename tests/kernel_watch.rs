//! The cgroup source on the kernel's own cgroupfs. Needs root: each test mounts cgroup2 in a mount
//! namespace of its own thread, and works below a directory of its own.

use std::{
    collections::BTreeSet,
    fs,
    future::poll_fn,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use scnpm::{
    cgroupfs::look,
    model::{CGROUP_ROOT, CgroupId, CgroupPath},
    watch::cgroups::{Cgroups, Seen},
};

/// A directory of cgroupfs, removed with all below it when dropped.
struct Top(String);

impl Top {
    fn new(test: &str) -> Self {
        let name = format!("scnpm-test-{test}-{}", std::process::id());
        unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root: unshare(CLONE_NEWNS)");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("make / private");
        match mount(Some("none"), CGROUP_ROOT, Some("cgroup2"), MsFlags::empty(), none) {
            // Busy with the same.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => panic!("mount cgroup2: {error}"),
        }
        let top = Self(name);
        top.make("");
        top
    }

    fn directory(&self, below: &str) -> PathBuf {
        Path::new(CGROUP_ROOT).join(&self.0).join(below)
    }

    /// Below the directory, not below the root of all cgroups: there others make cgroups, too.
    fn path(&self, below: &str) -> CgroupPath {
        below.parse().unwrap()
    }

    fn cgroups(&self) -> Cgroups {
        Cgroups::with_root(self.directory(""))
    }

    fn make(&self, below: &str) {
        fs::create_dir_all(self.directory(below)).unwrap();
    }

    fn remove(&self, below: &str) {
        fs::remove_dir(self.directory(below)).unwrap();
    }

    fn id(&self, below: &str) -> Option<CgroupId> {
        let metadata = fs::metadata(self.directory(below)).unwrap();
        Some(CgroupId(metadata.ino()))
    }

    fn look(&self, below: &str) -> Option<CgroupId> {
        look(&format!("{}/{below}", self.0).parse().unwrap())
    }

    fn seen(&self, below: &str, id: Option<CgroupId>) -> Seen {
        Seen { path: self.path(below), id }
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        remove_tree(self.directory(""));
    }
}

/// cgroupfs has files that can't be unlinked, so only directories are removed.
fn remove_tree(directory: PathBuf) {
    let Ok(entries) = fs::read_dir(&directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

fn follow<const N: usize>(top: &Top, below: [&str; N]) -> Cgroups {
    let mut cgroups = top.cgroups();
    cgroups.follow(below.iter().map(|below| top.path(below)).collect());
    cgroups
}

/// What comes within a time that is far longer than inotify needs.
async fn next(cgroups: &mut Cgroups) -> Vec<Seen> {
    tokio::time::timeout(Duration::from_secs(5), poll_fn(|cx| cgroups.poll_ready(cx)))
        .await
        .expect("no event came");
    cgroups.drain().seen
}

/// All that comes until nothing comes for a while.
async fn rest(cgroups: &mut Cgroups) -> (Vec<Seen>, u32) {
    let (mut seen, mut wakes) = (Vec::new(), 0);
    while tokio::time::timeout(Duration::from_millis(100), poll_fn(|cx| cgroups.poll_ready(cx))).await.is_ok()
    {
        seen.extend(cgroups.drain().seen);
        wakes += 1;
    }
    (seen, wakes)
}

#[tokio::test]
async fn a_nested_cgroup_is_seen_as_it_appears_and_disappears() {
    let top = Top::new("nested");
    let mut cgroups = follow(&top, ["a.slice/b.service", "a.slice"]);
    top.make("a.slice");
    assert_eq!(
        next(&mut cgroups).await,
        [top.seen("a.slice", top.id("a.slice")), top.seen("a.slice/b.service", None)]
    );
    top.make("a.slice/b.service");
    let id = top.id("a.slice/b.service");
    assert_eq!(next(&mut cgroups).await, [top.seen("a.slice/b.service", id)]);
    assert_eq!(top.look("a.slice/b.service"), id);
    top.remove("a.slice/b.service");
    assert_eq!(next(&mut cgroups).await, [top.seen("a.slice/b.service", None)]);
    top.remove("a.slice");
    assert_eq!(next(&mut cgroups).await, [top.seen("a.slice", None), top.seen("a.slice/b.service", None)]);
    assert_eq!(rest(&mut cgroups).await.0, []);
}

#[tokio::test]
async fn what_exists_already_is_found_at_once() {
    let top = Top::new("exists");
    top.make("a/b");
    let mut cgroups = top.cgroups();
    let paths = BTreeSet::from(["a", "a/b", "a/c"].map(|below| top.path(below)));
    let expected = [top.seen("a", top.id("a")), top.seen("a/b", top.id("a/b")), top.seen("a/c", None)];
    assert_eq!(cgroups.follow(paths).seen, expected);
    assert_eq!(cgroups.rescan().seen, expected);
}

#[tokio::test]
async fn a_cgroup_made_again_before_anybody_looked_is_seen_with_its_newest_id() {
    let top = Top::new("again");
    top.make("a/b");
    let mut cgroups = follow(&top, ["a/b"]);
    let old = top.id("a/b");
    for _ in 0..5 {
        top.remove("a/b");
        top.make("a/b");
    }
    assert_ne!(top.id("a/b"), old);
    assert_eq!(next(&mut cgroups).await, [top.seen("a/b", top.id("a/b"))]);
}

#[tokio::test]
async fn an_ancestor_made_again_before_anybody_looked_is_watched_again() {
    let top = Top::new("ancestor");
    top.make("a/b");
    let mut cgroups = follow(&top, ["a/b"]);
    for _ in 0..3 {
        top.remove("a/b");
        top.remove("a");
        top.make("a");
        assert_eq!(next(&mut cgroups).await, [top.seen("a/b", None)]);
        top.make("a/b");
        assert_eq!(next(&mut cgroups).await, [top.seen("a/b", top.id("a/b"))]);
    }
}

#[tokio::test]
async fn ancestors_made_in_one_go_lead_to_the_cgroup() {
    let top = Top::new("burst");
    let mut cgroups = follow(&top, ["a/b/c/d"]);
    for _ in 0..50 {
        // Another thread makes them while this one follows, so that every step can be the one missed.
        let paths = ["a/b/c/d", "a/b/c", "a/b", "a"].map(|below| top.directory(below));
        let maker = std::thread::spawn({
            // The new thread inherits this one's mount namespace.
            let deepest = paths[0].clone();
            move || fs::create_dir_all(deepest).unwrap()
        });
        let mut last = None;
        let deadline = Instant::now() + Duration::from_secs(5);
        while last.is_none() && Instant::now() < deadline {
            last = next(&mut cgroups).await.into_iter().next_back().and_then(|seen| seen.id);
        }
        maker.join().unwrap();
        assert_eq!(last, top.id("a/b/c/d"));
        paths.iter().for_each(|path| fs::remove_dir(path).unwrap());
        assert_eq!(rest(&mut cgroups).await.0.pop(), Some(top.seen("a/b/c/d", None)));
    }
}

#[tokio::test]
async fn none_of_2000_cgroups_made_in_a_burst_is_lost() {
    let top = Top::new("many");
    let names: Vec<String> = (0..2000).map(|number| format!("s.slice/u{number}.service")).collect();
    let mut cgroups = top.cgroups();
    cgroups.follow(names.iter().map(|name| top.path(name)).collect());
    names.iter().for_each(|name| top.make(name));
    let start = Instant::now();
    let (seen, wakes) = rest(&mut cgroups).await;
    println!("{} in {wakes} drains, {:?}", seen.len(), start.elapsed() - Duration::from_millis(100));
    let found: BTreeSet<CgroupPath> =
        seen.into_iter().filter(|seen| seen.id.is_some()).map(|seen| seen.path).collect();
    assert_eq!(found.len(), 2000);
    names.iter().for_each(|name| top.remove(name));
    let gone: BTreeSet<CgroupPath> = rest(&mut cgroups)
        .await
        .0
        .into_iter()
        .filter(|seen| seen.id.is_none())
        .map(|seen| seen.path)
        .collect();
    assert_eq!(gone.len(), 2000);
}

#[tokio::test]
async fn an_overflow_of_the_queue_ends_in_a_look_at_everything() {
    let top = Top::new("overflow");
    let limit: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let mut cgroups = follow(&top, ["a", "b"]);
    for number in 0..limit / 2 + 10 {
        let name = format!("foreign{number}");
        top.make(&name);
        top.remove(&name);
    }
    top.make("b"); // its event is dropped
    poll_fn(|cx| cgroups.poll_ready(cx)).await;
    let start = Instant::now();
    let drained = loop {
        let drained = cgroups.drain();
        if !drained.notices.is_empty() {
            break drained;
        }
        assert_eq!(drained.seen, []);
    };
    println!("{limit} foreign events drained in {:?}", start.elapsed());
    assert_eq!(drained.seen, [top.seen("a", None), top.seen("b", top.id("b"))]);
    top.make("a");
    assert_eq!(next(&mut cgroups).await, [top.seen("a", top.id("a"))]);
}

#[tokio::test]
async fn files_are_no_cgroups() {
    let top = Top::new("files");
    assert!(top.directory("cgroup.procs").exists());
    assert_eq!(top.look("cgroup.procs"), None);
    let mut cgroups = top.cgroups();
    let paths = BTreeSet::from(["cgroup.procs", "cgroup.procs/x"].map(|below| top.path(below)));
    let drained = cgroups.follow(paths);
    assert!(drained.seen.iter().all(|seen| seen.id.is_none()));
    assert_eq!(drained.notices, [""; 0]);
}

#[tokio::test]
async fn directories_that_lead_nowhere_wake_nobody() {
    let top = Top::new("foreign");
    top.make("a/b");
    top.make("other");
    let mut cgroups = follow(&top, ["a/b"]);
    for _ in 0..100 {
        // Inside of a followed cgroup, and beside all that is followed.
        for name in ["a/b/c", "other/x"] {
            top.make(name);
            top.remove(name);
        }
    }
    assert_eq!(rest(&mut cgroups).await, (vec![], 0));
    // A foreign name in a watched directory wakes, and is not looked at.
    top.make("a/foreign");
    assert_eq!(rest(&mut cgroups).await, (vec![], 1));
}

#[tokio::test]
async fn paths_are_followed_and_left_by_a_reload() {
    let top = Top::new("reload");
    let mut cgroups = follow(&top, ["a/x", "b/x"]);
    top.make("a");
    cgroups.follow(BTreeSet::from([top.path("b/x"), top.path("c")]));
    rest(&mut cgroups).await;
    top.make("a/x");
    top.make("b/x");
    top.make("c");
    let expected = [top.seen("b/x", top.id("b/x")), top.seen("c", top.id("c"))];
    assert_eq!(next(&mut cgroups).await, expected);
}

#[tokio::test]
async fn each_of_200_restarts_is_seen_by_itself() {
    let top = Top::new("latency");
    let mut cgroups = follow(&top, ["a/b"]);
    top.make("a");
    next(&mut cgroups).await;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..200 {
        let directory = top.directory("a/b");
        let maker = std::thread::spawn(move || -> io::Result<Instant> {
            let start = Instant::now();
            fs::create_dir(directory)?;
            Ok(start)
        });
        let seen = next(&mut cgroups).await;
        let end = Instant::now();
        assert_eq!(seen, [top.seen("a/b", top.id("a/b"))]);
        times.push(end - maker.join().unwrap().unwrap());
        top.remove("a/b");
        next(&mut cgroups).await;
    }
    times.sort();
    println!("mkdir begun to cgroup seen: median {:?}, p99 {:?}", times[100], times[198]);
}
