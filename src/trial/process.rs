//! Work in a process of its own, which ends with this one or when its time is over.
#![allow(unsafe_code)]

use std::{
    io::{self, Read},
    time::Duration,
};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, alarm, fork, getpid, getppid},
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// How long a process has. A file with 100,000 intervals takes a second.
const TIME: Duration = Duration::from_secs(60);

/// Why there is no result.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Lost {
    /// It had too little time, or nothing would ever end it.
    #[error("nft did not come to an end within {} seconds, as if it waited for something", .0.as_secs())]
    Late(Duration),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Runs something in a child of this process, which must have one thread only.
pub(super) fn run<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> T) -> Result<T, Lost> {
    run_within(TIME, work)
}

/// The same with a time limit, for whoever has one thread only.
///
/// # Errors
/// Why there is no result.
pub fn run_within<T: Serialize + DeserializeOwned>(
    time: Duration,
    work: impl FnOnce() -> T,
) -> Result<T, Lost> {
    let failed = |words: String| Lost::Failed(words);
    let (mut reader, writer) = io::pipe().map_err(|error| failed(error.to_string()))?;
    let parent = getpid();
    // SAFETY: there is no other thread whose locks the child could miss.
    let fork =
        unsafe { fork() }.map_err(|error| failed(format!("no process can be made: {}", error.desc())))?;
    let ForkResult::Parent { child } = fork else {
        drop(reader);
        let is_bound = bind(parent, time).is_ok();
        let is_written = is_bound && serde_json::to_writer(io::BufWriter::new(writer), &work()).is_ok();
        // SAFETY: _exit(2) only ends the process, without what its parent has registered for its end.
        unsafe { libc::_exit(i32::from(!is_written)) }
    };
    drop(writer);
    let mut bytes = Vec::new();
    let read = reader.read_to_end(&mut bytes);
    match (read, waitpid(child, None)) {
        (Ok(_), Ok(WaitStatus::Exited(_, 0))) => {
            serde_json::from_slice(&bytes).map_err(|error| failed(format!("the trial's report: {error}")))
        }
        (_, Ok(WaitStatus::Signaled(_, Signal::SIGALRM, _))) => Err(Lost::Late(time)),
        (_, Ok(WaitStatus::Signaled(_, signal, _))) => {
            Err(failed(format!("libnftables does not survive the file (signal {})", signal as i32)))
        }
        (_, Ok(status)) => Err(failed(format!("the trial ended early ({status:?})"))),
        (_, Err(error)) => Err(failed(format!("the trial is lost: {}", error.desc()))),
    }
}

/// Has this process end with its parent, also if that is killed, and by SIGALRM when its time is over.
fn bind(parent: Pid, time: Duration) -> nix::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(nix::Error::ESRCH);
    }
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGALRM, SigHandler::SigDfl) }?;
    sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from(Signal::SIGALRM)), None)?;
    alarm::set(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::unistd::pause;

    use super::*;

    #[test]
    fn result_comes_back() {
        assert_eq!(run(|| vec![1, 2]), Ok(vec![1, 2]));
    }

    #[test]
    fn what_never_ends_is_ended() {
        let time = Duration::from_secs(1);
        let waits: Result<(), Lost> = run_within(time, || {
            loop {
                pause();
            }
        });
        assert_eq!(waits, Err(Lost::Late(time)));
        let works: Result<(), Lost> = run_within(time, || {
            loop {
                std::hint::spin_loop();
            }
        });
        assert_eq!(works, Err(Lost::Late(time)));
    }
}
