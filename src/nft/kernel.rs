//! The kernel's nftables as the rest of the program sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{
    FileComplaint, complaint, json,
    libnftables::Libnftables,
    message::{RawElement, RawKey},
    netlink::{Netlink, SetKind},
    probe::{Missing, no_nf_tables},
};
use crate::{
    model::{CgroupId, CgroupPath, Data, Element, Key, PREFIX, SetRef},
    policy::hosts::Addresses,
    watch::cgroups::look,
};

/// What nft says of a script, with its place in the script where it names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Line (from 1), first and last column (from 1) in the script.
    pub place: Option<(usize, usize, usize)>,
    /// nft's own words, without the place and without the echoed line.
    pub words: String,
}

/// Why a batch of elements was not added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddError {
    /// The elements that are in the kernel all the same.
    pub added: Vec<Element>,
    /// Those whose cgroup vanished meanwhile (expected: nothing to report).
    pub vanished: Vec<Element>,
    /// Those that nft refused, with its words.
    pub refused: Vec<(Element, String)>,
}

/// The kernel's nftables.
pub trait Kernel {
    /// Runs a script in nft's native syntax as one transaction; with `check`, only tries it.
    ///
    /// # Errors
    /// What nft says of it, one by one. Nothing of the script is in force then.
    fn run(&mut self, script: &str, check: bool) -> Result<(), Vec<Complaint>>;

    /// The ruleset as libnftables' JSON, without the elements of sets.
    ///
    /// # Errors
    /// nft's words.
    fn list(&mut self) -> Result<serde_json::Value, Vec<Complaint>>;

    /// Adds elements in one transaction; when it fails, without those that it fails by.
    ///
    /// # Errors
    /// What became of each element.
    fn add(&mut self, elements: &[Element]) -> Result<(), AddError>;

    /// Removes the only element of each of these gates, in one transaction. One that is gone is fine.
    ///
    /// # Errors
    /// nft's words.
    fn close(&mut self, gates: &[SetRef]) -> Result<(), Vec<Complaint>>;

    /// Deletes cgroup elements by id, each by itself if need be. One that is gone is fine.
    ///
    /// # Errors
    /// The first real failure.
    fn delete(&mut self, elements: &[(SetRef, CgroupId)]) -> io::Result<()>;

    /// Empties a set of addresses and fills it with these ranges, in one transaction. Without `is_interval` each must be a
    /// single address.
    ///
    /// # Errors
    /// The kernel's; the set is as it was then.
    fn fill(&mut self, set: &SetRef, is_interval: bool, content: &[Addresses]) -> io::Result<()>;

    /// The cgroup ids in a set or map whose key is a cgroup.
    ///
    /// # Errors
    /// `NotFound` for no such set.
    fn ids(&mut self, set: &SetRef) -> io::Result<BTreeSet<CgroupId>>;

    /// Gives back the memory that loading and listing took, when there is none of it for a while.
    fn release_memory(&mut self) {}
}

/// The running kernel, in the network namespace that it was opened in.
///
/// Elements whose set is known to have cgroups for keys go through nfnetlink by cgroup id: before libnftables adds
/// one it reads all sets, on Debian 12 all chains too, and the elements of every interval set (1.2 s with a
/// blocklist of 100,000 ranges, where nfnetlink takes 20 µs). What needs nft's data types, and what the kernel
/// refuses, goes through libnftables, which has the words.
#[derive(Debug)]
pub struct Nftables {
    library: Libnftables,
    netlink: Netlink,
}

impl Nftables {
    /// Opens libnftables and a socket of our own.
    ///
    /// # Errors
    /// What is missing.
    pub fn open() -> Result<Self, Missing> {
        let netlink = Netlink::open().map_err(|error| no_nf_tables(&error))?;
        Ok(Self { library: Libnftables::open()?, netlink })
    }

    /// Loads a file and what it includes as one transaction, as `nft -f` does.
    ///
    /// # Errors
    /// nft's words with their places.
    pub fn load_file(&mut self, path: &str) -> Result<(), Vec<FileComplaint>> {
        self.library.run_file(path)
    }

    /// The port that our changes of elements come from, for [`super::RulesetMonitor::open`].
    pub fn port(&self) -> u32 {
        self.netlink.port()
    }
}

impl Kernel for Nftables {
    fn run(&mut self, script: &str, check: bool) -> Result<(), Vec<Complaint>> {
        self.library.run_script(script, check)
    }

    fn list(&mut self) -> Result<serde_json::Value, Vec<Complaint>> {
        self.library.list()
    }

    fn add(&mut self, elements: &[Element]) -> Result<(), AddError> {
        let Self { library, netlink } = self;
        add_what_can_be(elements, &|path| look(path).is_some(), &mut |part| {
            if let Some(raw) = raw(part, netlink) {
                match netlink.add(&raw) {
                    Ok(()) => return Ok(()),
                    Err(error) => tracing::debug!("nfnetlink: {error}; trying libnftables"),
                }
            }
            if part.iter().any(has_vanished) {
                return Err("the cgroup vanished".to_owned());
            }
            library.run_json(&json::add(part)).map_err(|complaints| complaint::words(&complaints))
        })
    }

    fn close(&mut self, gates: &[SetRef]) -> Result<(), Vec<Complaint>> {
        self.netlink.flush(gates).map_err(|error| vec![Complaint { place: None, words: error.to_string() }])
    }

    fn delete(&mut self, elements: &[(SetRef, CgroupId)]) -> io::Result<()> {
        self.netlink.delete(elements)
    }

    fn fill(&mut self, set: &SetRef, is_interval: bool, content: &[Addresses]) -> io::Result<()> {
        self.netlink.fill(set, is_interval, content)
    }

    fn ids(&mut self, set: &SetRef) -> io::Result<BTreeSet<CgroupId>> {
        self.netlink.ids(set)
    }

    fn release_memory(&mut self) {
        self.library.release_memory();
    }
}

/// Adds all elements whose cgroup exists in one transaction; when that fails, as many as possible in as few as
/// possible. `attempt` adds all that it is given or nothing, and has the words for it.
pub(super) fn add_what_can_be(
    elements: &[Element],
    exists: &impl Fn(&CgroupPath) -> bool,
    attempt: &mut impl FnMut(&[Element]) -> Result<(), String>,
) -> Result<(), AddError> {
    let mut outcome = AddError { added: Vec::new(), vanished: Vec::new(), refused: Vec::new() };
    settle(elements.to_vec(), exists, attempt, &mut outcome);
    if outcome.vanished.is_empty() && outcome.refused.is_empty() { Ok(()) } else { Err(outcome) }
}

fn settle(
    elements: Vec<Element>,
    exists: &impl Fn(&CgroupPath) -> bool,
    attempt: &mut impl FnMut(&[Element]) -> Result<(), String>,
    outcome: &mut AddError,
) {
    let is_there = |element: &Element| match &element.key {
        Key::Cgroup(path) => exists(path),
        Key::Everything => true,
    };
    let (mut there, gone): (Vec<_>, Vec<_>) = elements.into_iter().partition(is_there);
    outcome.vanished.extend(gone);
    if there.is_empty() {
        return;
    }
    match attempt(&there) {
        Ok(()) => outcome.added.append(&mut there),
        Err(_) if !there.iter().all(is_there) => settle(there, exists, attempt, outcome),
        Err(words) if there.len() == 1 => {
            outcome.refused.extend(there.into_iter().map(|element| (element, words.clone())));
        }
        Err(_) => {
            let second = there.split_off(there.len() / 2);
            settle(there, exists, attempt, outcome);
            settle(second, exists, attempt, outcome);
        }
    }
}

/// The elements as the kernel has them, if all of them can be written without nft's data types.
fn raw<'a>(elements: &'a [Element], netlink: &mut Netlink) -> Option<Vec<RawElement<'a>>> {
    let foreign: BTreeSet<&SetRef> =
        elements.iter().map(|element| &element.set).filter(|set| !set.name.starts_with(PREFIX)).collect();
    let kinds: BTreeMap<&SetRef, SetKind> =
        foreign.into_iter().filter_map(|set| Some((set, netlink.set_kind(set).ok()?))).collect();
    elements.iter().map(|element| raw_element(element, &kinds)).collect()
}

/// `kinds` has what the users' own sets are for; ours are what we made them.
fn raw_element<'a>(element: &'a Element, kinds: &BTreeMap<&SetRef, SetKind>) -> Option<RawElement<'a>> {
    let Element { set, key, data } = element;
    let fits = match (key, data) {
        (_, Some(Data::Value(_))) => false,
        _ if set.name.starts_with(PREFIX) => true,
        (Key::Cgroup(_), None) => kinds.get(set) == Some(&SetKind::Cgroups),
        (Key::Cgroup(_), Some(_)) => kinds.get(set) == Some(&SetKind::CgroupVerdicts),
        (Key::Everything, _) => false,
    };
    let key = match key {
        Key::Cgroup(path) => RawKey::Cgroup(look(path)?),
        Key::Everything => RawKey::AllMarks,
    };
    fits.then_some(RawElement { set, key, data: data.as_ref() })
}

fn has_vanished(element: &Element) -> bool {
    matches!(&element.key, Key::Cgroup(path) if look(path).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, TableRef};

    fn element(path: &str) -> Element {
        let table = TableRef { family: Family::Inet, name: "filter".into() };
        let key = Key::Cgroup(path.parse().unwrap());
        Element { set: SetRef { table, name: "scnpm.out.1".into() }, key, data: None }
    }

    fn elements(paths: &[&str]) -> Vec<Element> {
        paths.iter().map(|path| element(path)).collect()
    }

    fn path_of(element: &Element) -> &str {
        match &element.key {
            Key::Cgroup(path) => path.as_str(),
            Key::Everything => "",
        }
    }

    #[test]
    fn what_exists_is_added_at_once_without_what_vanished() {
        let mut attempts = 0;
        let error =
            add_what_can_be(&elements(&["a", "gone", "b"]), &|path| path.as_str() != "gone", &mut |_| {
                attempts += 1;
                Ok(())
            })
            .unwrap_err();
        assert_eq!(attempts, 1);
        assert_eq!(error.added, elements(&["a", "b"]));
        assert_eq!(error.vanished, elements(&["gone"]));
        assert_eq!(error.refused, []);
    }

    #[test]
    fn a_cgroup_that_vanishes_during_the_attempt_costs_one_more() {
        let there = std::cell::Cell::new(true);
        let mut attempts = 0;
        let error = add_what_can_be(
            &elements(&["a", "b", "c"]),
            &|path| path.as_str() != "b" || there.get(),
            &mut |part| {
                attempts += 1;
                there.set(false);
                if part.iter().any(|element| path_of(element) == "b") { Err("no".to_owned()) } else { Ok(()) }
            },
        )
        .unwrap_err();
        assert_eq!(attempts, 2);
        assert_eq!(error.added, elements(&["a", "c"]));
        assert_eq!(error.vanished, elements(&["b"]));
    }

    #[test]
    fn culprits_are_found_and_the_others_are_added() {
        let error = add_what_can_be(&elements(&["a", "x", "b", "c", "y"]), &|_| true, &mut |part| {
            let bad = part.iter().map(path_of).find(|path| ["x", "y"].contains(path));
            bad.map_or(Ok(()), |path| Err(format!("{path} is bad")))
        })
        .unwrap_err();
        assert_eq!(error.added, elements(&["a", "b", "c"]));
        assert_eq!(
            error.refused,
            [(element("x"), "x is bad".to_owned()), (element("y"), "y is bad".to_owned())]
        );
    }

    #[test]
    fn nothing_to_add_is_no_transaction() {
        assert_eq!(add_what_can_be(&[], &|_| true, &mut |_| Err("called".to_owned())), Ok(()));
    }
}
