//! A command as a child of this process: signals go on to it, and this process ends as it ends.
#![allow(unsafe_code)]

use std::{
    fs,
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    process::{Child, ExitCode, ExitStatus},
    thread,
};

use nix::{
    sys::signal::{Signal as Number, kill, raise},
    unistd::{Pid, getpgrp, tcgetpgrp},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};

use super::{FAILED, Failure};

/// What is passed on. What stops a process stops this one with the command, as a job of its terminal.
const PASSED_ON: [i32; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM];

/// Signals that came for a child that is about to be started.
pub(super) struct Signals(mpsc::UnboundedReceiver<i32>);

impl Signals {
    /// Begins to take signals, but for those that the caller has everybody ignore. What is executed gets back what they do.
    pub(super) fn take() -> Result<Self, Failure> {
        let ignored = ignored();
        let (sender, receiver) = mpsc::unbounded_channel();
        for number in PASSED_ON.into_iter().filter(|number| ignored >> (number - 1) & 1 == 0) {
            let stream = signal(SignalKind::from_raw(number)).map_err(Failure::new)?;
            tokio::spawn(pass_on(stream, number, sender.clone()));
        }
        Ok(Self(receiver))
    }

    /// How the child ends. Until then signals go on to it.
    pub(super) async fn wait_for(mut self, mut child: Child) -> Result<ExitStatus, Failure> {
        let process = Pid::from_raw(child.id().cast_signed());
        let (told, mut ended) = oneshot::channel();
        thread::Builder::new()
            .name("child".to_owned())
            .spawn(move || told.send(child.wait()))
            .map_err(Failure::new)?;
        loop {
            tokio::select! {
                ended = &mut ended => return ended.map_err(Failure::new)?.map_err(Failure::new),
                Some(number) = self.0.recv() => {
                    if !is_of_terminal(number) && let Ok(number) = Number::try_from(number) {
                        let _ = kill(process, number);
                    }
                }
            }
        }
    }
}

async fn pass_on(mut stream: Signal, number: i32, to: mpsc::UnboundedSender<i32>) {
    while stream.recv().await.is_some() && to.send(number).is_ok() {}
}

/// Whether the terminal sends such a signal to the command, too: to all processes in the foreground.
fn is_of_terminal(number: i32) -> bool {
    let is_in_foreground =
        io::stdin().is_terminal() && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp());
    matches!(number, libc::SIGINT | libc::SIGQUIT) && is_in_foreground
}

/// The signals that this process ignores, as bits.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

/// Ends as a child has ended: by the same signal, if it was one, but with no core of this process. Returns the exit status.
pub(super) fn end_as(status: ExitStatus) -> ExitCode {
    const SIGNAL: u8 = 128;
    if let Some(number) = status.signal() {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `none` is valid for the call; what is ended by the next line needs no core.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
        // SAFETY: no handler is set, and nothing runs that would need the old one.
        let _ = unsafe { libc::signal(number, libc::SIG_DFL) };
        if let Ok(signal) = Number::try_from(number) {
            let _ = raise(signal);
        }
        return u8::try_from(number).map_or(ExitCode::from(FAILED), |number| ExitCode::from(SIGNAL + number));
    }
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::from(FAILED), ExitCode::from)
}
