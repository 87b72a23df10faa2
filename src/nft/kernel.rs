//! The kernel's nftables as the rest of the program sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{
    Complaint, FileComplaint, complaint,
    libnftables::Libnftables,
    message::{RawElement, RawKey},
    netlink::{Content, Generation, Netlink},
    probe::no_nf_tables,
    recording::{Recording, Surroundings},
};
use crate::{
    dispatch::{Script, is_identifier, leftovers::Listing},
    explain::ruleset::Ruleset,
    gather::Gather,
    model::{Addresses, CgroupId, Count, CounterRef, Data, Element, SetRef, TableRef},
};

/// A change of one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementChange<'a> {
    /// Put it in.
    Add {
        /// The set or map. In one that is not ours, the element gets our mark.
        set: &'a SetRef,
        /// The id of its cgroup; none for the element of a gate.
        id: Option<CgroupId>,
        /// What it leads to: a verdict, not a value.
        data: Option<&'a Data>,
    },
    /// Take it out, whatever it leads to.
    Delete {
        /// The set or map.
        set: &'a SetRef,
        /// The id of its cgroup; none for the element of a gate.
        id: Option<CgroupId>,
    },
}

impl<'a> ElementChange<'a> {
    pub(super) fn is_addition(&self) -> bool {
        matches!(self, Self::Add { .. })
    }

    pub(super) fn is_of_cgroup(&self) -> bool {
        matches!(self, Self::Add { id: Some(_), .. } | Self::Delete { id: Some(_), .. })
    }

    pub(super) fn raw(&self) -> RawElement<'a> {
        let (set, id, data) = match *self {
            Self::Add { set, id, data } => (set, id, data),
            Self::Delete { set, id } => (set, id, None),
        };
        RawElement { set, key: id.map_or(RawKey::AllMarks, RawKey::Cgroup), data }
    }
}

/// The kernel's nftables.
pub trait Kernel {
    /// Runs a script as one transaction; with `check`, only tries it.
    ///
    /// # Errors
    /// What nft says of it, one by one. Nothing of the script is in force then.
    fn run(&mut self, script: &Script, check: bool) -> Result<(), Vec<Complaint>>;

    /// The ruleset, without the elements of sets.
    ///
    /// # Errors
    /// nft's words.
    fn list(&mut self) -> Result<Listing, Vec<Complaint>>;

    /// Makes changes of elements in one transaction.
    ///
    /// # Errors
    /// The first of the kernel's; nothing is changed then. `NotFound` if a set, or what is to be deleted, is not there.
    fn change(&mut self, changes: &[ElementChange<'_>]) -> io::Result<()>;

    /// Empties a set of addresses and fills it with these ranges, in one transaction. Without `is_interval` each must be a
    /// single address.
    ///
    /// # Errors
    /// The kernel's; the set is as it was then.
    fn fill(&mut self, set: &SetRef, is_interval: bool, content: &[Addresses]) -> io::Result<()>;

    /// The cgroup ids in a set or map whose key is a cgroup, and whether each has our mark.
    ///
    /// # Errors
    /// `NotFound` for no such set.
    fn elements(&mut self, set: &SetRef) -> io::Result<BTreeMap<CgroupId, bool>>;

    /// Whether only libnftables can make an element of it: its value has one of nft's data types, or the set is
    /// a user's and more than one of cgroups.
    fn needs_words(&mut self, element: &Element) -> bool;

    /// What is in these tables besides what is ours, and the generation that it is of.
    ///
    /// # Errors
    /// The kernel's.
    fn surroundings(&mut self, _tables: &BTreeSet<TableRef>) -> io::Result<(u32, Surroundings)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes what was recorded again, with elements, in one transaction, if the ruleset is still this generation.
    ///
    /// # Errors
    /// The first of the kernel's; nothing is changed then.
    fn repeat(&mut self, _: u32, _: &Recording, _elements: &[ElementChange<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives back the memory that loading and listing took, when there is none of it for a while.
    fn release_memory(&mut self) {}
}

/// Whether what failed may succeed in a moment: the kernel was short of something, or busy.
pub fn is_passing(error: &io::Error) -> bool {
    use libc::{EAGAIN, EBUSY, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let passing = [EAGAIN, EBUSY, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM];
    error.kind() == io::ErrorKind::TimedOut
        || error.raw_os_error().is_some_and(|errno| passing.contains(&errno))
}

/// An error of the kernel's in the words that libnftables has for it.
pub fn words_of(error: &io::Error) -> String {
    let text = error.to_string();
    format!("Could not process rule: {}", text.split(" (os error ").next().unwrap_or_default())
}

/// The running kernel, in the network namespace that it was opened in.
///
/// Elements go through nfnetlink by cgroup id: before libnftables adds one it reads all sets, on Debian 12 all chains
/// too, and the elements of every interval set (1.2 s with a blocklist of 100,000 ranges, where nfnetlink takes 20 µs).
#[derive(Debug)]
pub struct Nftables {
    library: Libnftables,
    netlink: Netlink,
    transactions: u32,
}

impl Nftables {
    /// Opens libnftables and a socket of our own.
    ///
    /// # Errors
    /// What is missing.
    pub fn open() -> Result<Self, String> {
        let netlink = Netlink::open().map_err(|error| no_nf_tables(&error))?;
        Ok(Self { library: Libnftables::open()?, netlink, transactions: 0 })
    }

    /// Loads a file and what it includes as one transaction, as `nft -f` does.
    ///
    /// # Errors
    /// nft's words with their places.
    pub fn load_file(&mut self, path: &str) -> Result<(), Vec<FileComplaint>> {
        self.library.run_file(path, false)
    }

    /// The elements of a map as libnftables-json(5) has them; none if it cannot be listed.
    pub fn elements_of(&mut self, map: &SetRef) -> Option<serde_json::Value> {
        self.library.elements(map, true)
    }

    /// Takes in what is in the sets and maps that rules look something up in.
    pub fn know_sets(&mut self, ruleset: &mut Ruleset) {
        for set in ruleset.unknown_sets_of_rules() {
            if let Some(elements) = self.library.elements(&set, ruleset.is_map(&set)) {
                ruleset.know(set, elements);
            }
        }
    }

    /// The ruleset as it is loaded, with verdict maps' elements. Of tables that only their owner can change, it has the text
    /// alone: libnftables 1.0.6 lists their flags as what happens to be in memory.
    ///
    /// # Errors
    /// nft's words.
    pub fn ruleset(&mut self) -> Result<Ruleset, String> {
        let words = |complaints: Vec<Complaint>| complaint::words(&complaints);
        let tables = self.netlink.tables().map_err(|error| words_of(&error))?;
        let text = self.library.listing("list ruleset", false).map_err(words)?;
        let mut listings = Vec::new();
        for table in tables.iter().filter(|table| !table.is_owned && is_identifier(&table.table.name)) {
            let json = self.library.listing(&format!("list table {}", table.table), true).map_err(words)?;
            listings.push(serde_json::from_str(&json).map_err(|error| error.to_string())?);
        }
        let mut ruleset = Ruleset::of(&listings, &text);
        let unread = tables.iter().filter(|table| table.is_owned || !is_identifier(&table.table.name));
        ruleset.unread = unread.map(|table| table.table.clone()).gather();
        for map in
            ruleset.unknown_sets().into_iter().filter(|map| ruleset.is_of_verdicts(map)).collect::<Vec<_>>()
        {
            if let Some(elements) = self.elements_of(&map) {
                ruleset.know(map, elements);
            }
        }
        Ok(ruleset)
    }

    /// The tables that everybody may change, as libnftables-json(5) lists them; none if that cannot be had.
    pub fn listed(&mut self) -> Option<serde_json::Value> {
        let mut all = Vec::new();
        for table in self.netlink.tables().ok()? {
            if table.is_owned || !is_identifier(&table.table.name) {
                continue;
            }
            let json = self.library.listing(&format!("list table {}", table.table), true).ok()?;
            let mut listing: serde_json::Value = serde_json::from_str(&json).ok()?;
            all.append(listing["nftables"].as_array_mut()?);
        }
        Some(serde_json::json!({ "nftables": all }))
    }

    /// The ruleset's generation, and this thread as nf_tables names it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn generation(&mut self) -> io::Result<Generation> {
        self.netlink.generation()
    }

    /// How many generations others have made, from some number on. None if it cannot be known.
    pub fn generations_of_others(&mut self) -> Option<u32> {
        // Each transaction that changes something makes one.
        Some(self.generation().ok()?.id.wrapping_sub(self.transactions))
    }

    /// What is in a set or map.
    ///
    /// # Errors
    /// The kernel's; `NotFound` for no such set.
    pub fn content(&mut self, set: &SetRef) -> io::Result<Content> {
        self.netlink.content(set)
    }

    /// The sets and maps that rules look something up in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn looked_up(&mut self) -> io::Result<BTreeSet<SetRef>> {
        self.netlink.looked_up()
    }

    /// Our counters, and what they have counted. They go on from there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn counters(&mut self) -> io::Result<BTreeMap<CounterRef, Count>> {
        self.netlink.counters()
    }

    fn count<E>(&mut self, outcome: Result<(), E>) -> Result<(), E> {
        self.transactions = self.transactions.wrapping_add(u32::from(outcome.is_ok()));
        outcome
    }
}

impl Kernel for Nftables {
    fn run(&mut self, script: &Script, check: bool) -> Result<(), Vec<Complaint>> {
        let outcome = self.library.run_script(&script.to_string(), check);
        if check { outcome } else { self.count(outcome) }
    }

    fn list(&mut self) -> Result<Listing, Vec<Complaint>> {
        let tables = self.netlink.tables().map_err(|error| vec![Complaint::unplaced(words_of(&error))])?;
        if !tables.iter().any(|table| table.is_owned) {
            return self.library.list(&["list ruleset".to_owned()]);
        }
        // Nobody but its owner can change a table that is owned, whatever is in it; and libnftables 1.0.6 lists the flags of
        // such a table as what happens to be in memory.
        let ours = tables.iter().filter(|table| !table.is_owned && is_identifier(&table.table.name));
        let commands: Vec<String> = ours.map(|table| format!("list table {}", table.table)).collect();
        self.library.list(&commands)
    }

    fn change(&mut self, changes: &[ElementChange<'_>]) -> io::Result<()> {
        let outcome = self.netlink.change(changes);
        self.count(outcome)
    }

    fn surroundings(&mut self, tables: &BTreeSet<TableRef>) -> io::Result<(u32, Surroundings)> {
        // What changes behind it is found when the generation is named.
        let generation = self.netlink.generation()?.id;
        Ok((generation, self.netlink.surroundings(tables)?))
    }

    fn repeat(
        &mut self,
        generation: u32,
        recording: &Recording,
        elements: &[ElementChange<'_>],
    ) -> io::Result<()> {
        let outcome = self.netlink.repeat(generation, recording, elements);
        self.count(outcome)
    }

    fn elements(&mut self, set: &SetRef) -> io::Result<BTreeMap<CgroupId, bool>> {
        self.netlink.elements(set)
    }

    fn fill(&mut self, set: &SetRef, is_interval: bool, content: &[Addresses]) -> io::Result<()> {
        let outcome = self.netlink.fill(set, is_interval, content);
        self.count(outcome)
    }

    fn needs_words(&mut self, element: &Element) -> bool {
        let Element { set, data, .. } = element;
        matches!(data, Some(Data::Value(_)))
            || (!set.is_ours() && !self.netlink.is_set_of_cgroups(set).unwrap_or_default())
    }

    fn release_memory(&mut self) {
        self.library.release_memory();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_and_haste_pass_and_refusals_stand() {
        let error = io::Error::from_raw_os_error;
        for errno in [libc::ENOMEM, libc::EBUSY, libc::EINTR, libc::ENOBUFS, libc::EAGAIN] {
            assert!(is_passing(&error(errno)), "{errno}");
        }
        for errno in [libc::EEXIST, libc::ENOENT, libc::EINVAL, libc::EOPNOTSUPP, libc::ENFILE + 1000] {
            assert!(!is_passing(&error(errno)), "{errno}");
        }
        assert!(is_passing(&io::ErrorKind::TimedOut.into()));
    }
}
