//! The one way in which the parser reads: real files, or a test's.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Reads files and expands globs.
pub trait Files {
    /// A file's bytes.
    ///
    /// # Errors
    /// As [`std::fs::read`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The files that a glob(7) pattern matches, sorted.
    fn glob(&self, pattern: &str) -> Vec<PathBuf>;
}

/// The machine's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;
