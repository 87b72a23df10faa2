//! One file per subcommand; an error is a line for the user and an exit code.

pub mod allow;
mod asking;
pub mod check;
pub mod clean;
pub mod complete;
pub mod denied;
mod examine;
pub mod explain;
mod fix;
pub mod generate;
pub mod launchers;
pub mod learn;
pub mod notify;
mod proof;
pub mod reload;
pub mod replay;
pub mod run;
pub mod serve_metrics;
pub mod serve_names;
pub mod status;
pub mod top;
pub mod units;
pub mod wait;
mod whose;

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{model::printable, units::selector::Selectors};

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong, and what to do.
    pub message: String,
    /// The exit code for it.
    pub exit_code: u8,
}

impl Failure {
    /// With this message.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), exit_code: 1 }
    }
}

/// Writes to the standard output. A reader that has seen enough is no failure.
///
/// # Errors
/// Anything else that keeps it from being written, such as a full disk.
pub fn output(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    output_to(io::stdout().lock(), write)
}

/// The same for any other stream.
///
/// # Errors
/// The same.
pub fn output_to(
    stream: impl Write,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(stream);
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            // Otherwise what is still in there is tried again.
            drop(out.into_parts());
            let text = error.to_string();
            let words = text.split(" (os error ").next().unwrap_or_default();
            Err(Failure::new(format!("the output cannot be written: {words}")))
        }
        _ => Ok(()),
    }
}

/// Prints the help that was asked for, or what is wrong with the command line, with this exit status then.
///
/// # Errors
/// The help cannot be written.
pub fn usage(usage: &clap::Error, wrong_usage: u8) -> Result<ExitCode, Failure> {
    let printed = usage.print();
    if usage.exit_code() != 0 {
        return Ok(ExitCode::from(wrong_usage));
    }
    // Some of it may still wait in the stream's buffer.
    output(|out| printed.and_then(|()| out.flush()))?;
    Ok(ExitCode::SUCCESS)
}

/// The units that somebody names.
///
/// # Errors
/// It is no selector.
fn selectors(text: &str) -> Result<Selectors, Failure> {
    Selectors::parse(text).map_err(|(_, error)| Failure {
        exit_code: 2,
        ..Failure::new(format!(
            "`{}`: {error}; write a unit such as postfix.service, or a selector such as alice:app:firefox",
            printable(text)
        ))
    })
}

/// Now, in microseconds since 1970.
fn now() -> u64 {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A time in microseconds.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Says something beside the output, if stderr can be written to.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "note: {text}");
}

/// Runs a future on this thread. What it left behind, such as a look-up that hangs, is not waited for.
///
/// # Errors
/// The future's own, or that there can be no runtime.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}
