//! `scnpm --clean`: takes everything of ours out of the kernel.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use super::Failure;
use crate::{
    cgroupfs::alive,
    load,
    nft::{Kernel, Nftables, complaint, probe},
    policy::{files::Disk, parse},
};

/// Runs it: objects named `scnpm.*`, rules that refer to them, and the elements in users' own sets that have our mark; and
/// of the sets that the annotations of `files` name those of cgroups that are gone.
///
/// # Errors
/// If nftables cannot be reached or refuses it.
pub fn run(files: &[PathBuf]) -> Result<ExitCode, Failure> {
    let mut kernel = Nftables::open().map_err(Failure::new)?;
    probe::require_net_admin().map_err(Failure::new)?;
    let words = |complaints: Vec<_>| Failure::new(format!("nft: {}", complaint::words(&complaints)));
    let listing = kernel.list().map_err(words)?;
    let script = listing.removal(&BTreeSet::new(), &BTreeSet::new());
    if !script.lines.is_empty() {
        kernel.run(&script, false).map_err(words)?;
    }
    let policy = parse::read(&Disk, files).unwrap_or_default();
    let marked = load::marked(&mut kernel, &listing).map_err(Failure::new)?;
    match load::sweep(&mut kernel, &policy, &load::Marked::new(), &marked, &alive) {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure::new("not all elements could be deleted, try again")),
    }
}
