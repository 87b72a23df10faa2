//! An nftables in memory, for tests of what is pure. It takes the transactions that the kernel takes, refuses what the kernel
//! refuses in the same words, and carries a transaction out as a whole or not at all.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io,
    rc::Rc,
};

use scnpm::{
    dispatch::{MARK, Script, leftovers::Listing},
    model::{Addresses, CgroupId, CgroupPath, ChainRef, Data, Element, SetRef, TableRef},
    nft::{Complaint, ElementChange, Kernel, words_of},
};
use serde_json::{Value, json};

/// What an element is found by once it is in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyInKernel {
    /// A cgroup, dead or alive.
    Cgroup(CgroupId),
    /// Every packet.
    Everything,
}

/// What an element leads to, in nft's words, and whether it has our mark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InKernel {
    /// What it leads to, in a map.
    pub data: Option<String>,
    /// Whether it has our mark.
    pub is_marked: bool,
}

/// The elements of a set.
pub type Elements = BTreeMap<KeyInKernel, InKernel>;

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
        // The root is the first.
        hierarchy.last = hierarchy.last.max(1) + 1;
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

    /// The ids of all that exist.
    pub fn alive(&self) -> std::collections::BTreeSet<CgroupId> {
        self.0.borrow().ids.values().copied().collect()
    }
}

/// A table's chains with their rules, each with its handle, and its sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The rules' texts, in order.
    pub chains: BTreeMap<String, Vec<(u64, String)>>,
    /// What stands behind a set's name (`{ type cgroupsv2; }`), and its elements.
    pub sets: BTreeMap<String, (String, Elements)>,
    /// Named counters, each with a number that no other has had.
    pub counters: BTreeMap<String, u64>,
}

impl Table {
    /// Whether no rule refers to an object by a word and the one before it.
    fn not_in_use(&self, refers: impl Fn(&str, &str) -> bool) -> Result<(), &'static str> {
        let rules = self.chains.values().flatten().map(|(_, text)| text.as_str());
        let data = self.sets.values().flat_map(|(_, elements)| elements.values());
        let is_used = rules.chain(data.filter_map(|value| value.data.as_deref())).any(|text| {
            let words: Vec<&str> = std::iter::once("").chain(text.split(' ')).collect();
            words.windows(2).any(|pair| refers(pair[1], pair[0]))
        });
        if is_used { Err("Could not process rule: Device or resource busy") } else { Ok(()) }
    }
}

/// A kernel in memory.
#[derive(Debug, Default)]
pub struct Fake {
    /// Its cgroups.
    pub cgroups: Cgroups,
    /// What is in it.
    pub tables: BTreeMap<TableRef, Table>,
    /// How many transactions were committed.
    pub transactions: usize,
    /// Words that it does not understand, each with what it says of them, as of a rule that nft refuses.
    pub refusals: Vec<(String, String)>,
    /// Errors of the next changes of elements, and of the next transactions in nft's words.
    pub faults: VecDeque<i32>,
    last_handle: u64,
}

impl Fake {
    /// Without tables, over these cgroups.
    pub fn new(cgroups: Cgroups) -> Self {
        Self { cgroups, ..Self::default() }
    }

    /// Runs commands that are expected to be good.
    ///
    /// # Panics
    /// If they are not.
    pub fn load<'a>(&mut self, commands: impl IntoIterator<Item = &'a str>) {
        self.run(&Script::of(commands), false).expect("a good ruleset");
    }

    /// The elements of a set.
    pub fn set(&self, set: &SetRef) -> Option<&Elements> {
        self.tables.get(&set.table)?.sets.get(&*set.name).map(|(_, elements)| elements)
    }

    /// The rules of a chain.
    pub fn rules(&self, chain: &ChainRef) -> Vec<&str> {
        let rules = self.tables.get(&chain.table).and_then(|table| table.chains.get(&*chain.name));
        rules.into_iter().flatten().map(|(_, text)| text.as_str()).collect()
    }

    fn set_mut<'a>(tables: &'a mut BTreeMap<TableRef, Table>, set: &SetRef) -> io::Result<&'a mut Elements> {
        let table = tables.get_mut(&set.table);
        let set = table.and_then(|table| table.sets.get_mut(&*set.name));
        set.map(|(_, elements)| elements).ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Kernel for Fake {
    fn run(&mut self, script: &Script, check: bool) -> Result<(), Vec<Complaint>> {
        if let Some(errno) = self.faults.pop_front() {
            let words = words_of(&io::Error::from_raw_os_error(errno));
            return Err(vec![Complaint::unplaced(words)]);
        }
        let mut trial =
            Trial { cgroups: &self.cgroups, tables: self.tables.clone(), handle: self.last_handle };
        let mut complaints = Vec::new();
        for (number, line) in (1..).zip(&script.lines) {
            let text = line.to_string();
            let refused = self.refusals.iter().find_map(|(word, words)| {
                text.find(word.as_str()).map(|start| (start + 1, start + word.len(), words.clone()))
            });
            let wrong = refused.or_else(|| Some((1, text.len(), trial.command(&text).err()?)));
            let complaint = |(first, last, words)| Complaint::new(Some((number, first, last)), words);
            complaints.extend(wrong.map(complaint));
        }
        let (tables, handle) = (trial.tables, trial.handle);
        if !complaints.is_empty() {
            return Err(complaints);
        }
        if !check {
            (self.tables, self.last_handle) = (tables, handle);
            self.transactions += 1;
        }
        Ok(())
    }

    fn fill(&mut self, _: &SetRef, _: bool, _: &[Addresses]) -> io::Result<()> {
        self.transactions += 1;
        Ok(())
    }

    fn list(&mut self) -> Result<Listing, Vec<Complaint>> {
        let mut all = Vec::new();
        for (table, content) in &self.tables {
            let (family, name) = (table.family.to_string(), &table.name);
            all.push(json!({"table": {"family": family, "name": name}}));
            for chain in content.chains.keys() {
                all.push(json!({"chain": {"family": family, "table": name, "name": chain}}));
            }
            for (set, (specification, _)) in &content.sets {
                let kind = if specification.contains(" : ") { "map" } else { "set" };
                let key = specification.trim_start_matches("{ type ").split([' ', ';']).next();
                all.push(json!({kind: {"family": family, "table": name, "name": set, "type": key}}));
            }
            for counter in content.counters.keys() {
                all.push(json!({"counter": {"family": family, "table": name, "name": counter}}));
            }
            for (chain, rules) in &content.chains {
                for (handle, text) in rules {
                    let words: Vec<&str> = text.split(' ').collect();
                    let targets = words.windows(2).filter(|pair| pair[0] == "jump" || pair[0] == "goto");
                    let mut expressions: Vec<Value> =
                        targets.map(|pair| json!({pair[0]: {"target": pair[1]}})).collect();
                    expressions
                        .extend(words.iter().filter(|word| word.starts_with('@')).map(|word| json!(word)));
                    all.push(
                        json!({"rule": {"family": family, "table": name, "chain": chain, "handle": handle,
                        "expr": expressions}}),
                    );
                }
            }
        }
        Ok(all.into_iter().collect())
    }

    fn change(&mut self, changes: &[ElementChange<'_>]) -> io::Result<()> {
        if let Some(errno) = self.faults.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let mut tables = self.tables.clone();
        for change in changes {
            match change {
                ElementChange::Add { set, id, data } => {
                    let key = id.map_or(KeyInKernel::Everything, KeyInKernel::Cgroup);
                    let value = InKernel { data: data.map(Data::to_string), is_marked: !set.is_ours() };
                    let known = Self::set_mut(&mut tables, set)?.entry(key).or_insert_with(|| value.clone());
                    if known.data != value.data {
                        return Err(io::ErrorKind::AlreadyExists.into());
                    }
                }
                ElementChange::Delete { set, id: Some(id) } => {
                    let gone = Self::set_mut(&mut tables, set)?.remove(&KeyInKernel::Cgroup(*id));
                    gone.ok_or(io::ErrorKind::NotFound)?;
                }
                ElementChange::Delete { set, id: None } => Self::set_mut(&mut tables, set)?.clear(),
            }
        }
        self.tables = tables;
        self.transactions += 1;
        Ok(())
    }

    fn elements(&mut self, set: &SetRef) -> io::Result<BTreeMap<CgroupId, bool>> {
        let elements = self.set(set).ok_or(io::ErrorKind::NotFound)?;
        let id = |(key, value): (&KeyInKernel, &InKernel)| match key {
            KeyInKernel::Cgroup(id) => Some((*id, value.is_marked)),
            KeyInKernel::Everything => None,
        };
        Ok(elements.iter().filter_map(id).collect())
    }

    fn needs_words(&mut self, element: &Element) -> bool {
        matches!(element.data, Some(Data::Value(_)))
    }
}

/// A transaction under way, on a copy.
struct Trial<'a> {
    cgroups: &'a Cgroups,
    tables: BTreeMap<TableRef, Table>,
    handle: u64,
}

const MISSING: &str = "Could not process rule: No such file or directory";
const SYNTAX: &str = "syntax error, unexpected string";

impl Trial<'_> {
    /// The error is what nft says of the command.
    fn command(&mut self, text: &str) -> Result<(), String> {
        let mut parts = text.splitn(5, ' ');
        let [verb, object, family, table, rest] = [(); 5].map(|()| parts.next().unwrap_or_default());
        if verb == "redefine" {
            return Ok(());
        }
        let table = TableRef { family: family.parse().map_err(|()| SYNTAX)?, name: table.into() };
        if object == "table" {
            self.tables.entry(table).or_default();
            return Ok(());
        }
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let content = self.tables.get_mut(&table).ok_or("No such file or directory")?;
        match (verb, object) {
            ("add", "chain") => drop(content.chains.entry(name.to_owned()).or_default()),
            ("add", "set" | "map") => {
                content.sets.entry(name.to_owned()).or_insert_with(|| (rest.to_owned(), Elements::new()));
            }
            ("add", "counter") => {
                self.handle += 1;
                content.counters.entry(name.to_owned()).or_insert(self.handle);
            }
            ("delete", "counter") => {
                content.not_in_use(|word, _| word.trim_matches('"') == name)?;
                content.counters.remove(name).ok_or(MISSING)?;
            }
            ("flush", "chain") => content.chains.get_mut(name).ok_or(MISSING)?.clear(),
            ("flush", "set" | "map") => content.sets.get_mut(name).ok_or(MISSING)?.1.clear(),
            ("delete", "chain") => {
                content.not_in_use(|word, before| (before == "jump" || before == "goto") && word == name)?;
                content.chains.remove(name).ok_or(MISSING)?;
            }
            ("delete", "set" | "map") => {
                content.not_in_use(|word, _| word.strip_prefix('@') == Some(name))?;
                content.sets.remove(name).ok_or(MISSING)?;
            }
            ("delete", "rule") => {
                let handle = rest.strip_prefix("handle ").and_then(|handle| handle.parse::<u64>().ok());
                let rules = content.chains.get_mut(name).ok_or(MISSING)?;
                let at = rules.iter().position(|(other, _)| Some(*other) == handle).ok_or(MISSING)?;
                rules.remove(at);
            }
            ("add" | "insert", "rule") => {
                let mut sets = rest.split(' ').filter_map(|word| word.strip_prefix('@'));
                if sets.any(|set| !content.sets.contains_key(set)) {
                    return Err("No such file or directory".to_owned());
                }
                let words: Vec<&str> = rest.split(' ').collect();
                let mut counters = words.windows(3).filter(|three| three[..2] == ["counter", "name"]);
                if counters.any(|three| !content.counters.contains_key(three[2].trim_matches('"'))) {
                    return Err("No such file or directory".to_owned());
                }
                self.handle += 1;
                let rules = content.chains.get_mut(name).ok_or("No such file or directory")?;
                let at = if verb == "insert" { 0 } else { rules.len() };
                rules.insert(at, (self.handle, rest.to_owned()));
            }
            ("add" | "delete", "element") => {
                self.all_elements(verb, &SetRef { table, name: name.into() }, rest)?;
            }
            _ => return Err(SYNTAX.to_owned()),
        }
        Ok(())
    }

    /// `{ "PATH" comment "scnpm" : DATA, … }`
    fn all_elements(&mut self, verb: &str, set: &SetRef, text: &str) -> Result<(), String> {
        let inner = text.trim_start_matches("{ ").trim_end_matches(" }");
        inner.split(", \"").try_for_each(|element| self.element(verb, set, element))
    }

    fn element(&mut self, verb: &str, set: &SetRef, inner: &str) -> Result<(), String> {
        let (key, data) = match inner.split_once(" : ") {
            Some((key, data)) => (key, Some(data.to_owned())),
            None => (inner, None),
        };
        let mark = format!(" comment \"{MARK}\"");
        let is_marked = key.ends_with(&mark);
        let key = match key.trim_end_matches(&mark).trim_matches('"') {
            "0-4294967295" => KeyInKernel::Everything,
            "." => KeyInKernel::Cgroup(CgroupId(1)),
            path => {
                let id = path.trim_start_matches('/').parse().ok().and_then(|path| self.cgroups.id(&path));
                KeyInKernel::Cgroup(id.ok_or("cgroupv2 path fails: No such file or directory")?)
            }
        };
        let elements = Fake::set_mut(&mut self.tables, set).map_err(|_| "No such file or directory")?;
        if verb == "delete" {
            return elements.remove(&key).map(drop).ok_or_else(|| MISSING.to_owned());
        }
        let known = elements.entry(key).or_insert_with(|| InKernel { data: data.clone(), is_marked });
        if known.data == data { Ok(()) } else { Err("Could not process rule: File exists".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use scnpm::model::Family;

    use super::*;

    fn set() -> SetRef {
        SetRef { table: TableRef { family: Family::Inet, name: "filter".into() }, name: "scnpm.out.1".into() }
    }

    fn fake() -> Fake {
        let mut fake = Fake::default();
        fake.load(["add table inet filter", "add map inet filter scnpm.out.1 { type cgroupsv2 : verdict; }"]);
        fake
    }

    fn refusal(fake: &mut Fake, commands: &[&str]) -> Vec<(Option<usize>, String)> {
        let complaints = fake.run(&Script::of(commands.iter().copied()), false).unwrap_err();
        complaints.into_iter().map(|one| (one.place.map(|(line, ..)| line), one.words)).collect()
    }

    #[test]
    fn a_transaction_is_carried_out_as_a_whole_or_not_at_all() {
        let mut fake = fake();
        let before = fake.tables.clone();
        let found = refusal(&mut fake, &["add chain inet filter a", "add rule inet filter b accept"]);
        assert_eq!(found, [(Some(2), "No such file or directory".to_owned())]);
        assert_eq!(fake.tables, before);
        let (id, accept, drop) = (Some(CgroupId(7)), Some(&Data::Accept), Some(&Data::Drop));
        let set = set();
        fake.change(&[ElementChange::Add { set: &set, id, data: accept }]).unwrap();
        let other = ElementChange::Add { set: &set, id: Some(CgroupId(8)), data: accept };
        let error = fake.change(&[other, ElementChange::Add { set: &set, id, data: drop }]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fake.set(&set).unwrap().len(), 1);
    }

    #[test]
    fn what_is_in_use_is_not_deleted() {
        let mut fake = fake();
        fake.load(["add chain inet filter a", "add chain inet filter b"]);
        fake.load([
            "add rule inet filter a socket cgroupv2 level 1 vmap @scnpm.out.1",
            "add rule inet filter a jump b",
        ]);
        for object in ["map inet filter scnpm.out.1", "chain inet filter b"] {
            let found = refusal(&mut fake, &[&format!("delete {object}")]);
            assert_eq!(found[0].1, "Could not process rule: Device or resource busy");
        }
        fake.load([
            "flush chain inet filter a",
            "delete map inet filter scnpm.out.1",
            "delete chain inet filter b",
        ]);
    }

    #[test]
    fn a_set_that_is_gone_refuses_elements() {
        let set = SetRef { name: "gone".into(), ..set() };
        let mut fake = fake();
        let change = ElementChange::Delete { set: &set, id: None };
        assert_eq!(fake.change(&[change]).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fake.elements(&set).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
