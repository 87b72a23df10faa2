//! SIGPIPE as it came. Rust ignores it before `main`, and gives it its default action in what it executes.
#![allow(unsafe_code)]

use std::{
    io,
    mem::MaybeUninit,
    os::unix::process::CommandExt,
    process::Command,
    ptr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

static WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// The C library calls what is in this section before `main` (ELF, `DT_INIT_ARRAY`).
// SAFETY: a function of C's that needs nothing of Rust's runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = look;

extern "C" fn look() {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: `action` is valid for the call, which fills it in if it succeeds.
    let is_ignored = unsafe {
        libc::sigaction(libc::SIGPIPE, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    };
    WAS_IGNORED.store(is_ignored, Relaxed);
}

/// Whether the caller has this process ignore it.
pub(super) fn was_ignored() -> bool {
    WAS_IGNORED.load(Relaxed)
}

/// Has a command ignore it if the caller does.
pub(super) fn pass_on(command: &mut Command) {
    if !was_ignored() {
        return;
    }
    let ignore = || match
        // SAFETY: no handler of ours is set; signal(2) is async-signal-safe.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) }
    {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    // SAFETY: what is called is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(ignore);
    }
}
