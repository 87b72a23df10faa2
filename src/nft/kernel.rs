//! The kernel's nftables as the rest of the program sees them.

use std::{collections::BTreeSet, io};

use crate::model::{CgroupId, Element, SetRef};

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

    /// The cgroup ids in a set or map whose key is a cgroup.
    ///
    /// # Errors
    /// `NotFound` for no such set.
    fn ids(&mut self, set: &SetRef) -> io::Result<BTreeSet<CgroupId>>;
}

/// The running kernel.
#[derive(Debug)]
pub struct Nftables {}
