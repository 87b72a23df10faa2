//! `scnpm run`: to be written.

use std::process::ExitCode;

use super::Failure;
use crate::cli::Run;

/// Runs it.
///
/// # Errors
/// It is not there yet.
pub fn run(_options: &Run) -> Result<ExitCode, Failure> {
    Err(Failure::new("not there yet"))
}
