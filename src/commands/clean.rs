//! `scnpm --clean`: takes everything of ours out of the kernel.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, thread, time::Duration};

use super::Failure;
use crate::{
    cgroupfs::alive,
    load,
    nft::{Kernel, Nftables, complaint, probe},
    policy::{files::Disk, parse},
};

/// How often it is tried, and with which pauses: others may change the ruleset between the look and the deletion.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Runs it: objects named `scnpm.*`, rules that refer to them, and the elements in users' own sets that have our mark; and
/// of the sets that the annotations of `files` name those of cgroups that are gone.
///
/// # Errors
/// If nftables cannot be reached or refuses it.
pub fn run(files: &[PathBuf]) -> Result<ExitCode, Failure> {
    let mut kernel = Nftables::open().map_err(Failure::new)?;
    probe::require_net_admin().map_err(Failure::new)?;
    for _ in 1..TRIES {
        if clean(&mut kernel, files).is_ok() {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(PAUSE);
    }
    clean(&mut kernel, files).map(|()| ExitCode::SUCCESS)
}

fn clean(kernel: &mut Nftables, files: &[PathBuf]) -> Result<(), Failure> {
    let words = |complaints: Vec<_>| Failure::new(format!("nft: {}", complaint::words(&complaints)));
    let listing = kernel.list().map_err(words)?;
    let script = listing.removal(&BTreeSet::new(), &BTreeSet::new());
    if !script.lines.is_empty() {
        kernel.run(&script, false).map_err(words)?;
    }
    let policy = parse::read(&Disk, files).unwrap_or_default();
    let marked = load::marked(kernel, &listing).map_err(Failure::new)?;
    match load::sweep(kernel, &policy, &load::Marked::new(), &marked, &alive) {
        true => Ok(()),
        false => Err(Failure::new("not all elements could be deleted, try again")),
    }
}
