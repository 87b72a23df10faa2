//! GNOME Shell forks an application in its own service and has it moved into a scope some milliseconds later, once. What is
//! in another scope by then is taken out of that.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use nix::unistd::getppid;

/// How long the move is waited for: it has been seen to take 140 ms.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often is looked.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits for the move if it was GNOME Shell that started this process.
pub(super) fn wait_until_moved() {
    let shell = getppid();
    let is_shell = fs::read(format!("/proc/{shell}/comm")).is_ok_and(|name| name == b"gnome-shell\n");
    let cgroup = |process: &str| fs::read(format!("/proc/{process}/cgroup")).ok();
    let end = Instant::now() + PATIENCE;
    let first = cgroup(&shell.to_string()).filter(|_| is_shell);
    while first.is_some() && cgroup("self") == first && Instant::now() < end {
        thread::sleep(PAUSE);
    }
}
