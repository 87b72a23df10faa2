//! A network and a mount namespace for one test, with the machine's cgroup hierarchy at /sys/fs/cgroup.
//!
//! Needs root. Without it the test fails and says so: a kernel test that is left out is not passed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use scnpm::model::{CGROUP_ROOT, CgroupId, CgroupPath};

/// The inside of the namespaces.
pub struct Sandbox {
    top: String,
}

/// libnftables promises nothing about threads, so one sandbox at a time.
static TURN: Mutex<()> = Mutex::new(());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Runs a test inside, in a thread of its own, since a thread never leaves its namespaces again.
pub fn run(test: impl FnOnce(&Sandbox) + Send + 'static) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = thread::spawn(move || test(&Sandbox::enter())).join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Sandbox {
    fn enter() -> Self {
        assert!(geteuid().is_root(), "the kernel tests need root: run them with sudo");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("no new namespaces");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("the mounts cannot be made private");
        match mount(Some("none"), CGROUP_ROOT, Some("cgroup2"), MsFlags::empty(), None::<&str>) {
            // Busy with the same.
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => panic!("no cgroup2 mount: {error}"),
        }
        succeed(Command::new("ip").args(["link", "set", "lo", "up"]));
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let sandbox = Self { top: format!("scnpm-test-{}-{count}", std::process::id()) };
        fs::create_dir(sandbox.directory()).expect("no cgroup for the test");
        sandbox
    }

    /// The cgroup that all others of the test are in.
    pub fn directory(&self) -> PathBuf {
        Path::new(CGROUP_ROOT).join(&self.top)
    }

    /// The path of a cgroup of the test, which need not exist.
    pub fn path(&self, name: &str) -> CgroupPath {
        format!("{}/{name}", self.top).parse().expect("no path")
    }

    /// Makes a cgroup and tells its path and id.
    pub fn make(&self, name: &str) -> (CgroupPath, CgroupId) {
        let path = self.path(name);
        fs::create_dir(path.directory()).unwrap_or_else(|error| panic!("mkdir {path}: {error}"));
        let id = CgroupId(fs::metadata(path.directory()).expect("no inode number").ino());
        (path, id)
    }

    /// Removes a cgroup.
    pub fn remove(&self, path: &CgroupPath) {
        fs::remove_dir(path.directory()).unwrap_or_else(|error| panic!("rmdir {path}: {error}"));
    }

    /// Runs the nft program inside, as somebody else would, and tells what it prints.
    pub fn nft(&self, arguments: &[&str]) -> String {
        succeed(Command::new("nft").args(arguments))
    }

    /// Loads a ruleset with the nft program.
    pub fn load(&self, ruleset: &str) {
        let file = std::env::temp_dir().join(format!("{}.nft", self.top));
        fs::write(&file, ruleset).expect("no ruleset file");
        succeed(Command::new("nft").arg("-f").arg(&file));
        fs::remove_file(&file).expect("the ruleset file is gone");
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        remove_tree(&self.directory());
    }
}

/// Runs a program to its end and tells what it prints.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// cgroupfs has files that cannot be removed, so directories only.
pub fn remove_tree(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}
