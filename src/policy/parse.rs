//! Files to a policy.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{annotation::Policy, files::Files};

/// A file named on the command line that cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// Reads files, and what they include, as one policy.
///
/// # Errors
/// The first file of `paths` that cannot be read.
pub fn read(files: &dyn Files, paths: &[&Path]) -> Result<Policy, Unreadable> {
    let _ = (files, paths);
    todo!()
}
