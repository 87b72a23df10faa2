//! Surviving SIGBUS while libsystemd reads a journal file that is truncated under it.
//!
//! As systemd does it itself (`src/shared/sigbus.c`): the page that is no longer there becomes one of
//! zeros, the read goes on, finds nonsense, and the file is given up afterwards. Outside of [`guarded`]
//! a SIGBUS does what it always does.
#![allow(unsafe_code)]

use std::{
    io, ptr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
};

use libc::{c_int, c_void, siginfo_t};
use nix::{
    errno::Errno,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

/// Runs `read`, which reads from mapped files. Says whether a page of one was missing; then what `read`
/// returned is not to be relied on. Calls don't nest, and only one thread may make them at a time.
///
/// # Errors
/// The signal handler could not be installed; `read` was not run.
pub fn guarded<R>(read: impl FnOnce() -> R) -> io::Result<(R, bool)> {
    (*PAGE_SIZE.get_or_init(install))?;
    FAULTED.store(false, Ordering::SeqCst);
    // SAFETY: gettid has no preconditions.
    READER.store(unsafe { libc::gettid() }, Ordering::SeqCst);
    let result = read();
    READER.store(0, Ordering::SeqCst);
    Ok((result, FAULTED.load(Ordering::SeqCst)))
}

/// The thread that is inside of [`guarded`], or 0.
static READER: AtomicI32 = AtomicI32::new(0);
static FAULTED: AtomicBool = AtomicBool::new(false);
/// Known once the signal handler is installed; or why that could not be.
static PAGE_SIZE: OnceLock<Result<usize, Errno>> = OnceLock::new();

fn install() -> Result<usize, Errno> {
    let action = SigAction::new(SigHandler::SigAction(on_sigbus), SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handler calls only what signal-safety(7) allows and mmap(2).
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    // SAFETY: sysconf has no preconditions.
    Ok(usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096))
}

extern "C" fn on_sigbus(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel hands a valid siginfo_t to an SA_SIGINFO handler, and si_addr is set for
    // BUS_ADRERR, where alone it is used.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // SAFETY: gettid has no preconditions.
    let reading = READER.load(Ordering::SeqCst) == unsafe { libc::gettid() };
    if reading && code == libc::BUS_ADRERR && put_zeros(address) {
        FAULTED.store(true, Ordering::SeqCst);
    } else {
        // What it does without a handler, once this one has returned: until then it is blocked.
        // SAFETY: signal(2) and raise(3) are async-signal-safe.
        unsafe {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            libc::raise(libc::SIGBUS);
        }
    }
}

/// Puts a page of zeros where the missing page is.
fn put_zeros(address: usize) -> bool {
    let Some(Ok(page_size)) = PAGE_SIZE.get().copied() else { return false };
    let page = address / page_size * page_size;
    // SAFETY: the page belongs to a file mapping (nothing else gives BUS_ADRERR) and has no contents that
    // anybody could still read. errno is put back, since the interrupted code may be about to read it.
    let mapped = unsafe {
        let errno = *libc::__errno_location();
        let mapped = libc::mmap(
            ptr::with_exposed_provenance_mut(page),
            page_size,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        *libc::__errno_location() = errno;
        mapped
    };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsRawFd};

    use super::*;

    /// A mapping of a file of one page, and the file.
    fn mapped() -> (*const u8, std::fs::File, usize) {
        let path = std::env::temp_dir().join(format!("scnpm-sigbus-{}", std::process::id()));
        let mut file =
            std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.as_mut().unwrap();
        std::fs::remove_file(&path).unwrap();
        // SAFETY: sysconf has no preconditions.
        let size = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        file.write_all(&vec![7; size]).unwrap();
        // SAFETY: a new mapping of an open file.
        let page = unsafe {
            libc::mmap(ptr::null_mut(), size, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(page, libc::MAP_FAILED);
        (page.cast(), file.try_clone().unwrap(), size)
    }

    #[test]
    fn a_truncated_file_reads_as_zeros_and_is_noticed() {
        let (page, file, size) = mapped();
        // SAFETY: the page is mapped.
        let read = || unsafe { page.add(size / 2).read_volatile() };
        assert_eq!(guarded(read).unwrap(), (7, false));
        file.set_len(0).unwrap();
        assert_eq!(guarded(read).unwrap(), (0, true));
        assert_eq!(guarded(read).unwrap(), (0, false));
    }
}
