//! `scnpm reload`: to be written.

use std::process::ExitCode;

use super::Failure;
use crate::cli::Reload;

/// Runs it.
///
/// # Errors
/// It is not there yet.
pub fn run(_options: &Reload) -> Result<ExitCode, Failure> {
    Err(Failure::new("not there yet"))
}
