//! What the process asks of the system: to be on time, since a service may send its first packet a millisecond after its
//! cgroup appears, and little memory.
#![allow(unsafe_code)]

use std::io;

/// Puts this process ahead of ordinary ones, unless whoever started it did: the lowest real-time priority, which what it
/// starts does not inherit. A nice value would not do: systemd gives every service a session of its own, and between
/// sessions it does not count (sched(7), autogroup).
///
/// # Errors
/// The system's; without CAP_SYS_NICE it takes an RLIMIT_RTPRIO of 1.
pub(super) fn raise_priority() -> io::Result<()> {
    // SAFETY: sched_getscheduler has no preconditions.
    let policy = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
    if [libc::SCHED_RR, libc::SCHED_FIFO].contains(&policy) {
        return Ok(());
    }
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: `lowest` is valid for the call, which keeps no pointer to it.
    match unsafe {
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const lowest)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The number of mimalloc's option for how long it keeps pages that are free, in ms (mimalloc.h of version 2,
/// "mi_option_purge_delay").
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Has C libraries share one heap over all threads. With a heap for each, what a thread has needed once for a moment stays
/// with the process. And has Rust's heap keep no pages that are free: much is needed for a moment and not again.
pub(super) fn share_the_heaps() {
    // SAFETY: these only set numbers; at this point there is one thread.
    unsafe {
        #[cfg(target_env = "gnu")]
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libmimalloc_sys::mi_option_set(PURGE_DELAY, 0);
    }
}

/// Gives memory that is not in use back to the system: that of C libraries, and what this thread has freed. Other threads
/// are not to wait for it.
pub(super) fn trim() {
    // SAFETY: these only return pages that nothing is in (malloc_trim(3); mimalloc.h, "mi_collect").
    unsafe {
        #[cfg(target_env = "gnu")]
        libc::malloc_trim(0);
        libmimalloc_sys::mi_collect(true);
    }
}
