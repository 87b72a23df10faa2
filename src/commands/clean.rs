//! `scnpm --clean`: takes everything of ours out of the kernel.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::Failure;
use crate::{
    cgroupfs::look,
    dispatch::leftovers,
    effects,
    model::{CgroupId, CgroupPath, SetRef},
    nft::{Kernel, Nftables, probe},
    policy::{Statement, files::Disk, parse},
};

/// Runs it: objects named `scnpm.*`, rules that refer to them, and the elements that the annotations of `files` put into
/// users' own sets.
///
/// # Errors
/// If nftables cannot be reached or refuses it.
pub fn run(files: &[PathBuf]) -> Result<ExitCode, Failure> {
    let mut kernel = Nftables::open().map_err(Failure::new)?;
    probe::require_net_admin().map_err(Failure::new)?;
    let words = |complaints: Vec<crate::nft::Complaint>| {
        let words: Vec<String> = complaints.into_iter().map(|complaint| complaint.words).collect();
        Failure::new(format!("nft: {}", words.join("; ")))
    };
    let ruleset = kernel.list().map_err(words)?;
    let script = leftovers::removal(&ruleset, &BTreeSet::new(), &BTreeSet::new());
    if !script.lines.is_empty() {
        kernel.run(&script.to_string(), false).map_err(words)?;
    }
    clean_users_sets(&mut kernel, files);
    Ok(ExitCode::SUCCESS)
}

fn clean_users_sets(kernel: &mut dyn Kernel, files: &[PathBuf]) {
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let Ok(policy) = parse::read(&Disk, &paths) else { return };
    let mut elements: Vec<(SetRef, CgroupId)> = Vec::new();
    let mut sets = BTreeSet::new();
    for (_, annotation) in policy.iter() {
        if let Statement::Element(statement) = &annotation.statement {
            let id = |(path, ..): &(CgroupPath, _, _)| Some((statement.set.clone(), look(path)?));
            elements.extend(statement.elements.iter().filter_map(id));
            sets.insert(statement.set.clone());
        }
    }
    let deleted = match elements.is_empty() {
        true => Ok(()),
        false => kernel.delete(&elements),
    };
    let swept = sets.iter().try_for_each(|set| effects::sweep(kernel, set, &BTreeSet::new()).map(drop));
    if let Err(error) = deleted.and(swept) {
        tracing::warn!("elements in your own sets stay: {error}");
    }
}
