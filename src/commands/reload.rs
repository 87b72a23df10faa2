//! `scnpm reload`: the daemon reads its files again, and says what is wrong with them.

use std::{
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Failure, asking::failure, note, output};
use crate::{
    cli::{self, Format},
    control::{
        client::{Client, Error},
        message::{Confirm, Method, Nothing, Reload, Reloaded, Revert},
    },
    log,
    model::printable,
    report::reload as report,
};

/// How long a load may take: nft needs a minute for the largest files.
const PATIENCE: Duration = Duration::from_secs(90);

/// The exit code for who may not.
const NOT_PERMITTED: u8 = 4;

/// Runs it: exit code 0, or 1 if the old policy stays or comes back.
///
/// # Errors
/// The daemon cannot be asked, or does not let this user.
pub fn run(options: &cli::Reload) -> Result<ExitCode, Failure> {
    if options.confirm {
        let Nothing {} = ask(options, &Confirm {})?;
        note("the new policy stays");
        return Ok(ExitCode::SUCCESS);
    }
    let trial = options.trial;
    let color = options.format == Format::Full && log::colour_on(&io::stdout());
    let try_ms = trial.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    let reloaded = ask(options, &Reload { try_ms, color })?;
    output(|out| report::write(&reloaded, options.format, out))?;
    if !reloaded.loaded {
        return Err(Failure::new(format!("the old policy stays: {}", why(&reloaded))));
    }
    match trial {
        Some(limit) => confirm(options, limit),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn ask<M: Method>(options: &cli::Reload, method: &M) -> Result<M::Reply, Failure> {
    let socket = &options.reach.socket;
    let answer = Client::connect(socket).and_then(|mut client| {
        client.limit(Some(PATIENCE))?;
        client.call(method)
    });
    answer.map_err(|error| match error {
        Error::Refused(name, message) if name == "NotPermitted" => {
            Failure { message, exit_code: NOT_PERMITTED }
        }
        Error::Refused(_, message) => Failure::new(message),
        other => failure(other, socket),
    })
}

/// Why the old policy stays. What was printed above is not said again.
fn why(reloaded: &Reloaded) -> String {
    match reloaded.findings.iter().filter(|one| one.severity == "error").count() {
        0 => printable(reloaded.words.as_deref().unwrap_or_default()),
        1 => "the files have an error".to_owned(),
        errors => format!("the files have {errors} errors"),
    }
}

/// Asks whether the new policy is to stay. Without an answer the daemon goes back by itself.
fn confirm(options: &cli::Reload, limit: Duration) -> Result<ExitCode, Failure> {
    let seconds = limit.as_secs_f64();
    let mut err = io::stderr();
    let _ = write!(err, "The new policy is in force. It goes back in {seconds} s. Keep it? [y/N] ");
    let _ = err.flush();
    let answer = answer(limit);
    if !io::stdin().is_terminal() || matches!(answer, Answer::Nobody | Answer::Late) {
        // Nobody has ended the line.
        let _ = writeln!(err);
    }
    match answer {
        Answer::Yes => {
            let Nothing {} = ask(options, &Confirm {})?;
            note("the new policy stays");
            return Ok(ExitCode::SUCCESS);
        }
        Answer::No => {
            let Nothing {} = ask(options, &Revert {})?;
            note("the old policy is back");
        }
        Answer::Nobody => {
            note(
                "nobody can be asked here: say `scnpm reload --confirm` in time, or the old policy comes back",
            );
        }
        Answer::Late => {
            note("nobody said yes in time: the old policy is back");
        }
    }
    Ok(ExitCode::FAILURE)
}

/// What is said to a new policy.
enum Answer {
    Yes,
    No,
    /// The standard input has ended.
    Nobody,
    /// The time is over.
    Late,
}

/// What the standard input says.
fn answer(limit: Duration) -> Answer {
    let (stdin, until) = (io::stdin(), Instant::now() + limit);
    let is_there = || {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).is_ok_and(|ready| ready > 0)
    };
    // A signal may end the wait too early.
    while !is_there() {
        if Instant::now() >= until {
            return Answer::Late;
        }
    }
    let mut line = String::new();
    match stdin.read_line(&mut line) {
        Ok(0) | Err(_) => Answer::Nobody,
        Ok(_) if matches!(line.trim(), "y" | "Y" | "yes") => Answer::Yes,
        Ok(_) => Answer::No,
    }
}
