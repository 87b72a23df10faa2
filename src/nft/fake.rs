//! An nftables in memory, for tests of what is pure.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
};

use super::{AddError, Complaint, Kernel, kernel::add_what_can_be};
use crate::{
    model::{CgroupId, CgroupPath, Data, Element, Key, SetRef},
    policy::hosts::Addresses,
};

/// What an element is found by once it is in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyInKernel {
    /// A cgroup, dead or alive.
    Cgroup(CgroupId),
    /// Every packet.
    Everything,
}

/// A simulated cgroup hierarchy. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Cgroups(Rc<RefCell<Hierarchy>>);

#[derive(Debug, Default)]
struct Hierarchy {
    ids: BTreeMap<CgroupPath, CgroupId>,
    last: u64,
}

impl Cgroups {
    /// Makes a cgroup, unless it exists, and tells its id. Ids are never used again. Parents are not made.
    pub fn make(&self, path: &CgroupPath) -> CgroupId {
        let mut hierarchy = self.0.borrow_mut();
        if let Some(id) = hierarchy.ids.get(path) {
            return *id;
        }
        hierarchy.last += 1;
        let id = CgroupId(hierarchy.last);
        hierarchy.ids.insert(path.clone(), id);
        id
    }

    /// Removes a cgroup; one that is gone is fine.
    pub fn remove(&self, path: &CgroupPath) {
        self.0.borrow_mut().ids.remove(path);
    }

    /// Its id, if it exists.
    pub fn id(&self, path: &CgroupPath) -> Option<CgroupId> {
        self.0.borrow().ids.get(path).copied()
    }
}

/// A kernel of sets and elements alone. Scripts are only written down; the sets that they would make are
/// declared by [`Fake::declare`].
#[derive(Debug, Default)]
pub struct Fake {
    /// Its cgroups.
    pub cgroups: Cgroups,
    /// What is in it.
    pub sets: BTreeMap<SetRef, BTreeMap<KeyInKernel, Option<Data>>>,
    /// The scripts that ran for real, in order.
    pub scripts: Vec<String>,
    /// How many transactions were tried, scripts and refused ones included.
    pub transactions: usize,
    /// Refuses these elements, with these words.
    pub refusals: BTreeMap<Element, String>,
}

impl Fake {
    /// Without sets, over these cgroups.
    pub fn new(cgroups: Cgroups) -> Self {
        Self { cgroups, ..Self::default() }
    }

    /// Makes an empty set, unless there is one.
    pub fn declare(&mut self, set: SetRef) {
        self.sets.entry(set).or_default();
    }

    /// One transaction: all of them, or none and the words why.
    fn attempt(&mut self, elements: &[Element]) -> Result<(), String> {
        self.transactions += 1;
        let mut sets = self.sets.clone();
        for element in elements {
            if let Some(words) = self.refusals.get(element) {
                return Err(words.clone());
            }
            let key = match &element.key {
                Key::Everything => KeyInKernel::Everything,
                Key::Cgroup(path) => KeyInKernel::Cgroup(
                    self.cgroups.id(path).ok_or("cgroupv2 path fails: No such file or directory")?,
                ),
            };
            let set = sets.get_mut(&element.set).ok_or("No such file or directory")?;
            if set.insert(key, element.data.clone()).is_some_and(|before| before != element.data) {
                return Err("Could not process rule: File exists".to_owned());
            }
        }
        self.sets = sets;
        Ok(())
    }
}

impl Kernel for Fake {
    fn run(&mut self, script: &str, check: bool) -> Result<(), Vec<Complaint>> {
        if !check {
            self.transactions += 1;
            self.scripts.push(script.to_owned());
        }
        Ok(())
    }

    fn list(&mut self) -> Result<serde_json::Value, Vec<Complaint>> {
        let sets = self.sets.keys().map(|set| {
            let (family, table, name) = (set.table.family.as_str(), &set.table.name, &set.name);
            serde_json::json!({"set": {"family": family, "table": table, "name": name}})
        });
        Ok(serde_json::json!({"nftables": sets.collect::<Vec<_>>()}))
    }

    fn add(&mut self, elements: &[Element]) -> Result<(), AddError> {
        let cgroups = self.cgroups.clone();
        add_what_can_be(elements, &|path| cgroups.id(path).is_some(), &mut |part| self.attempt(part))
    }

    fn close(&mut self, gates: &[SetRef]) -> Result<(), Vec<Complaint>> {
        self.transactions += 1;
        for gate in gates {
            self.sets.entry(gate.clone()).and_modify(BTreeMap::clear);
        }
        Ok(())
    }

    fn delete(&mut self, elements: &[(SetRef, CgroupId)]) -> io::Result<()> {
        self.transactions += 1;
        for (set, id) in elements {
            self.sets.entry(set.clone()).and_modify(|keys| {
                keys.remove(&KeyInKernel::Cgroup(*id));
            });
        }
        Ok(())
    }

    fn fill(&mut self, _: &SetRef, _: bool, _: &[Addresses]) -> io::Result<()> {
        self.transactions += 1;
        Ok(())
    }

    fn ids(&mut self, set: &SetRef) -> io::Result<BTreeSet<CgroupId>> {
        let keys = self.sets.get(set).ok_or(io::ErrorKind::NotFound)?.keys();
        Ok(keys
            .filter_map(|key| match key {
                KeyInKernel::Cgroup(id) => Some(*id),
                KeyInKernel::Everything => None,
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, TableRef};

    fn set() -> SetRef {
        SetRef { table: TableRef { family: Family::Inet, name: "filter".into() }, name: "scnpm.out.1".into() }
    }

    fn path(text: &str) -> CgroupPath {
        text.parse().unwrap()
    }

    fn element(text: &str, data: Option<Data>) -> Element {
        Element { set: set(), key: Key::Cgroup(path(text)), data }
    }

    fn fake() -> Fake {
        let mut fake = Fake::default();
        fake.declare(set());
        fake
    }

    #[test]
    fn a_restarted_cgroup_has_a_new_id_and_the_old_element_stays() {
        let mut fake = fake();
        let old = fake.cgroups.make(&path("a"));
        fake.add(&[element("a", None)]).unwrap();
        fake.cgroups.remove(&path("a"));
        let new = fake.cgroups.make(&path("a"));
        fake.add(&[element("a", None)]).unwrap();
        assert_eq!(fake.ids(&set()).unwrap(), BTreeSet::from([old, new]));
        fake.delete(&[(set(), old), (set(), CgroupId(99))]).unwrap();
        assert_eq!(fake.ids(&set()).unwrap(), BTreeSet::from([new]));
        assert_eq!(fake.transactions, 3);
    }

    #[test]
    fn different_data_is_refused_and_the_rest_is_added() {
        let mut fake = fake();
        fake.cgroups.make(&path("a"));
        fake.cgroups.make(&path("b"));
        fake.add(&[element("a", Some(Data::Accept))]).unwrap();
        fake.add(&[element("a", Some(Data::Accept))]).unwrap();
        let error =
            fake.add(&[element("a", Some(Data::Drop)), element("b", None), element("c", None)]).unwrap_err();
        assert_eq!(error.added, [element("b", None)]);
        assert_eq!(error.vanished, [element("c", None)]);
        assert_eq!(error.refused.len(), 1);
    }

    #[test]
    fn a_set_that_is_gone_refuses_elements_and_forgives_deletions() {
        let mut fake = Fake::default();
        fake.cgroups.make(&path("a"));
        assert_eq!(fake.add(&[element("a", None)]).unwrap_err().refused.len(), 1);
        fake.delete(&[(set(), CgroupId(1))]).unwrap();
        fake.close(&[set()]).unwrap();
        assert_eq!(fake.ids(&set()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
