//! `scnpm serve-names`: the service that may use the network, so that the daemon need not.

use std::{
    io::stdin,
    os::{fd::AsFd, unix::net::UnixListener},
    process::ExitCode,
};

use super::Failure;
use crate::names::serve;

/// Serves the listening socket that is the standard input, as systemd's `StandardInput=socket` makes it.
///
/// # Errors
/// It is no such socket.
pub fn run() -> Result<ExitCode, Failure> {
    let listener = UnixListener::from(stdin().as_fd().try_clone_to_owned().map_err(Failure::new)?);
    let served = serve(&listener);
    served.map_err(|error| Failure::new(format!("the standard input is no listening socket: {error}")))?;
    Ok(ExitCode::SUCCESS)
}
