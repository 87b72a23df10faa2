//! A policy from a text, without files.

use std::{
    io,
    path::{Path, PathBuf},
};

use scnpm::policy::{Policy, files::Files, parse};

struct Text<'a>(&'a str);

impl Files for Text<'_> {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(self.0.as_bytes().to_vec())
    }

    fn glob(&self, _: &str) -> Vec<PathBuf> {
        vec![]
    }
}

/// What a file `nftables.conf` with this text says.
pub fn of(text: &str) -> Policy {
    parse::read(&Text(text), &[Path::new("nftables.conf")]).expect("a text can be read")
}
