//! `scnpm status`: to be written.

use std::process::ExitCode;

use super::Failure;
use crate::cli::Status;

/// Runs it.
///
/// # Errors
/// It is not there yet.
pub fn run(_options: &Status) -> Result<ExitCode, Failure> {
    Err(Failure::new("not there yet"))
}
