//! Waiting until a file descriptor that somebody else owns has something to read.
#![allow(unsafe_code)]

use std::{
    future::poll_fn,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    task::{Context, Poll},
};

use tokio::io::{Interest, unix::AsyncFd};

/// The readiness of a file descriptor. Keeps a duplicate, so it does not matter when the owner closes
/// the original.
#[derive(Debug)]
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Watches a non-blocking file descriptor. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The descriptor can't be duplicated, or not be polled.
    pub fn of(fd: &impl AsRawFd) -> io::Result<Self> {
        // SAFETY: it is borrowed for this call only; a number that is not open cannot be duplicated.
        let duplicate = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }.try_clone_to_owned()?;
        // SAFETY: an OwnedFd stays open and the same until the AsyncFd, which owns it, is dropped.
        Ok(Self(unsafe { AsyncFd::register_with_interest(duplicate, Interest::READABLE) }?))
    }

    /// Waits until there is something to read. Dropping the future loses nothing; it stays ready until a
    /// [`Self::read`] says `WouldBlock`.
    pub async fn ready(&self) {
        poll_fn(|cx| self.poll_ready(cx)).await;
    }

    /// The same for who polls by hand. Only the last task that polled is woken.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(cx).map(|ready| {
            if let Ok(mut ready) = ready {
                ready.retain_ready();
            }
        })
    }

    /// Calls `read` if the descriptor is known to be ready, and notes when it would block.
    ///
    /// # Errors
    /// `WouldBlock`, by itself or by `read`; and what else `read` says.
    pub fn read<R>(&self, read: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.0.try_io(Interest::READABLE, |_| read())
    }
}
