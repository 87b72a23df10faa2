//! One file per subcommand; an error is a line for the user and an exit code.

pub mod check;
pub mod clean;
mod examine;
mod fix;
mod proof;
pub mod replay;
pub mod serve_names;
pub mod units;

use std::fmt::Display;

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
