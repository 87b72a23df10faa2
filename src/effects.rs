//! What the engine wants done to the kernel's nftables, done; and what became of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use crate::{
    cgroupfs,
    engine::{Commit, Outcome},
    log,
    model::{Binding, CGROUP_ROOT, CgroupId, CgroupPath, Element, Key, SetRef},
    nft::{AddError, Kernel},
};

/// Looks at a cgroup.
pub type Look<'a> = &'a dyn Fn(&CgroupPath) -> Option<CgroupId>;

/// Carries a commit out: additions first, they are what somebody waits for.
pub fn commit(kernel: &mut dyn Kernel, commit: &Commit, look: Look<'_>) -> Vec<(Element, Outcome)> {
    let mut outcomes = add(kernel, &commit.add, look);
    outcomes.extend(close(kernel, &commit.close));
    outcomes.extend(delete(kernel, &commit.delete));
    outcomes
}

/// Deletes from a set all ids but `keep`; in a user's own set only those that no cgroup has any more.
///
/// # Errors
/// As [`Kernel::ids`] and [`Kernel::delete`], and if a cgroup cannot be read; a set that is gone is no error.
pub fn sweep(kernel: &mut dyn Kernel, set: &SetRef, keep: &BTreeSet<CgroupId>) -> io::Result<usize> {
    let mut strays = match kernel.ids(set) {
        Ok(ids) => &ids - keep,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    if !set.is_ours() && !strays.is_empty() {
        strays = &strays - &alive()?;
    }
    let elements: Vec<(SetRef, CgroupId)> = strays.into_iter().map(|id| (set.clone(), id)).collect();
    if !elements.is_empty() {
        kernel.delete(&elements)?;
    }
    Ok(elements.len())
}

fn add(kernel: &mut dyn Kernel, bindings: &[Binding], look: Look<'_>) -> Vec<(Element, Outcome)> {
    let id = |binding: &Binding| path(binding).and_then(look);
    let before: Vec<Option<CgroupId>> = bindings.iter().map(id).collect();
    let is_there = |(binding, id): &(&Binding, &Option<CgroupId>)| path(binding).is_none() || id.is_some();
    let wanted = bindings.iter().zip(&before).filter(is_there);
    let elements: Vec<Element> = wanted.map(|(binding, _)| binding.element.clone()).collect();
    let failed = match elements.is_empty() {
        true => AddError { added: vec![], vanished: vec![], refused: vec![] },
        false => match kernel.add(&elements) {
            Ok(()) => AddError { added: elements, vanished: vec![], refused: vec![] },
            Err(error) => error,
        },
    };
    let added: BTreeSet<&Element> = failed.added.iter().collect();
    let refused: BTreeMap<&Element, &String> =
        failed.refused.iter().map(|(element, words)| (element, words)).collect();
    let outcome = |(binding, before): (&Binding, Option<CgroupId>)| {
        let element = &binding.element;
        let outcome = if added.contains(element) {
            log::element("added", binding, before);
            match path(binding) {
                Some(path) => Outcome::Added { before, after: look(path) },
                None => Outcome::Opened,
            }
        } else if let Some(words) = refused.get(element) {
            if element.set.is_ours() && is_gone(kernel, &element.set) {
                return (element.clone(), Outcome::Failed);
            }
            log::refused(binding, words);
            Outcome::Refused
        } else {
            Outcome::Vanished
        };
        (element.clone(), outcome)
    };
    bindings.iter().zip(before).map(outcome).collect()
}

/// The cgroup that a binding's element is found by; a gate's has none.
fn path(binding: &Binding) -> Option<&CgroupPath> {
    match &binding.element.key {
        Key::Cgroup(path) => Some(path),
        Key::Everything => None,
    }
}

/// Whether somebody took a set away. The news of it leads to a load, which puts everything back.
fn is_gone(kernel: &mut dyn Kernel, set: &SetRef) -> bool {
    kernel.ids(set).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn close(kernel: &mut dyn Kernel, bindings: &[Binding]) -> Vec<(Element, Outcome)> {
    if bindings.is_empty() {
        return vec![];
    }
    let gates: Vec<SetRef> = bindings.iter().map(|binding| binding.element.set.clone()).collect();
    let outcome = match kernel.close(&gates) {
        Ok(()) => Outcome::Closed,
        Err(complaints) => {
            tracing::error!("nft does not close a rule: {}", complaints[0].words);
            Outcome::Failed
        }
    };
    bindings.iter().for_each(|binding| log::element("closed", binding, None));
    bindings.iter().map(|binding| (binding.element.clone(), outcome.clone())).collect()
}

fn delete(kernel: &mut dyn Kernel, dead: &[(Binding, CgroupId)]) -> Vec<(Element, Outcome)> {
    if dead.is_empty() {
        return vec![];
    }
    let elements: Vec<(SetRef, CgroupId)> =
        dead.iter().map(|(binding, id)| (binding.element.set.clone(), *id)).collect();
    let done = kernel.delete(&elements);
    if let Err(error) = &done {
        tracing::error!("an element of a cgroup that is gone cannot be deleted: {error}");
    }
    let outcome = |(binding, id): &(Binding, CgroupId)| {
        log::element("deleted", binding, Some(*id));
        (binding.element.clone(), if done.is_ok() { Outcome::Deleted(*id) } else { Outcome::Failed })
    };
    dead.iter().map(outcome).collect()
}

/// The ids of all cgroups that exist.
fn alive() -> io::Result<BTreeSet<CgroupId>> {
    let root = Path::new(CGROUP_ROOT);
    let below = cgroupfs::walk(root, usize::MAX).map(|found| found.map(|(_, id)| id));
    cgroupfs::look_at(root)?.into_iter().map(Ok).chain(below).collect()
}
