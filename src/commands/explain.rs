//! `scnpm explain`: to be written.

use std::process::ExitCode;

use super::Failure;
use crate::cli::Explain;

/// Runs it.
///
/// # Errors
/// It is not there yet.
pub fn run(_options: &Explain) -> Result<ExitCode, Failure> {
    Err(Failure::new("not there yet"))
}
