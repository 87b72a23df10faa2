//! `scnpm wait`: to be written.

use std::process::ExitCode;

use super::Failure;
use crate::cli::Wait;

/// Runs it.
///
/// # Errors
/// It is not there yet.
pub fn run(_options: &Wait) -> Result<ExitCode, Failure> {
    Err(Failure::new("not there yet"))
}
