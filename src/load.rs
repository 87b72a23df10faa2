//! Policy to kernel: compile, try, blame, leave out, try again.
//!
//! One transaction takes away what an earlier load left and puts the whole dispatch in place, with the elements that are
//! due. When nft refuses it, the annotations that its complaints lead to are left out and the others are tried again.
//!
//! Elements in users' own sets have our mark in the kernel, so that any load, also that of another process, knows what to
//! take away, and that everything else is the user's.

mod again;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
};

use litemap::LiteMap;
use serde_json::Value;

use crate::{
    dispatch::{self, Dispatch, HostSet, Levels, Line, Pattern, Script, leftovers::Listing, pattern::level},
    findings::{self, Refusal},
    gather::Gather,
    model::{AnnotationId, CgroupId, CgroupPath, Instance, Row, SetRef, TableRef, UnitName, UnitState},
    nft::{
        Complaint, ElementChange, Kernel,
        complaint::{self, Kind},
        is_passing, words_of,
    },
    policy::{Policy, hosts::Hosts},
    text::Span,
    units::selector::{Index, Users, selected},
};
pub use again::{Again, is_repeatable, tables};

/// How often a load is tried again because the machine changed under it.
const TRIES: usize = 8;

/// After so many refused loads annotations are tried in small groups.
const ROUNDS_TOGETHER: usize = 3;

/// How many annotations are tried together then: the kernel takes milliseconds to undo a script that was only tried,
/// however long it is, and nft is quick to refuse a short one.
const GROUP: usize = 16;

/// What is to be loaded, and what the machine looks like.
pub struct Load<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The addresses of its host names.
    pub hosts: &'a Hosts,
    /// Whether to flush the chains that annotations name.
    pub flush: bool,
    /// Whether it is loaded again as it was. What is in a table that is gone is left out then without asking nft, which
    /// takes a while: as a rule somebody is about to load the table again.
    pub is_repair: bool,
    /// Whether nothing is loaded if nft refuses any of it.
    pub is_strict: bool,
    /// Looks at a cgroup.
    pub look: &'a dyn Fn(&CgroupPath) -> Option<CgroupId>,
    /// Looks at all cgroups that exist.
    pub alive: &'a dyn Fn() -> io::Result<BTreeSet<CgroupId>>,
    /// The state of a unit of the system's manager, if it is known.
    pub state: &'a dyn Fn(&UnitName) -> Option<UnitState>,
    /// The cgroups of units that selectors select.
    pub instances: &'a [Instance],
    /// The users whom selectors name.
    pub users: &'a Users,
}

/// What is in the kernel now.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What is to be kept true.
    pub rows: Vec<Row>,
    /// What is to be made of units as they come.
    pub patterns: Vec<Pattern>,
    /// What patterns make of each instance that there is.
    pub instances: Vec<(Instance, Vec<Row>)>,
    /// The elements that went in with it, by the number of the row, through `rows` and then `instances`.
    pub installed: Vec<(usize, Option<CgroupId>)>,
    /// What nft refused, in the order of the files.
    pub refusals: Vec<Refusal>,
    /// The sets of host names that went in with it.
    pub hosts: Vec<HostSet>,
    /// How many maps, sets, chains and counters it made.
    pub objects: usize,
    /// What it was loaded into, without what is ours, as libnftables lists it.
    pub ruleset: Value,
    /// Whether elements that should be gone are still there, since the kernel could not delete them for now.
    pub unfinished: bool,
    /// Whether it is what was there before, made again without nft.
    pub is_repeated: bool,
}

/// Nothing was loaded, and no annotation is to blame.
#[derive(Debug)]
pub struct LoadError {
    /// nft's words.
    pub words: String,
    /// Whether it may succeed in a moment.
    pub passing: bool,
    /// The annotations that nft refuses, if that is why.
    pub refusals: Vec<Refusal>,
}

impl LoadError {
    fn of(complaints: &[Complaint]) -> Self {
        let passing = complaints.iter().any(Complaint::is_passing);
        Self { words: complaint::words(complaints), passing, refusals: vec![] }
    }
}

/// The text that a policy is loaded as, without elements, while there are these instances of its units.
pub fn script(policy: &Policy, hosts: &Hosts, instances: &[Instance], users: &Users) -> Dispatch {
    script_without(policy, &BTreeSet::new(), hosts, instances, users)
}

/// The same without the annotations that are refused.
pub fn script_without(
    policy: &Policy,
    refused: &BTreeSet<AnnotationId>,
    hosts: &Hosts,
    instances: &[Instance],
    users: &Users,
) -> Dispatch {
    dispatch::compile(policy, refused, hosts, &levels(policy, instances, users))
}

/// The units of the system's manager whose state its rules depend on.
pub fn units_with_state(policy: &Policy) -> BTreeSet<UnitName> {
    let rows = script(policy, &Hosts::new(), &[], &Users::new()).rows;
    rows.iter().filter_map(|row| row.condition.unit().cloned()).gather()
}

/// The levels at which there are instances of the units that `socket cgroupv2 unit` stands for.
fn levels(policy: &Policy, instances: &[Instance], users: &Users) -> Levels {
    let with_units = policy.iter().filter(|(_, annotation)| annotation.units_match().is_some());
    let selected = selected(with_units.map(|(_, annotation)| &annotation.selectors), instances, users);
    let levels = |instances: Vec<&Instance>| instances.into_iter().map(|one| level(&one.path)).gather();
    selected.into_iter().map(|(selectors, instances)| (selectors.clone(), levels(instances))).gather()
}

/// One try: what goes into the kernel, and for whom.
#[derive(Default)]
struct Attempt {
    objects: usize,
    patterns: Vec<Pattern>,
    hosts: Vec<HostSet>,
    /// The rows that are known ahead, and behind them those that patterns make of each instance.
    rows: Vec<Row>,
    instances: Vec<(Instance, Range<usize>)>,
    /// The rows that are due, by their number, and their cgroups' ids.
    due: Vec<(usize, Option<CgroupId>)>,
    script: Script,
    /// How many lines take away what is old, and how many of the dispatch follow before the elements.
    removal: usize,
    fixed: usize,
    /// For each line with an element, its place in `due`, and whether it deletes an earlier one. Lines behind these have many.
    elements: Vec<(usize, bool)>,
}

impl Attempt {
    /// The cgroup whose element a line of the script is about, and whether it deletes it.
    fn element(&self, line: usize) -> Option<(&CgroupPath, bool)> {
        let (at, is_deletion) = self.elements.get(line.checked_sub(self.removal + self.fixed + 1)?)?;
        let (number, _) = self.due.get(*at)?;
        Some((self.rows[*number].element.key.cgroup()?, *is_deletion))
    }

    /// What is in the kernel now, with these elements.
    fn loaded(self, installed: Vec<(usize, Option<CgroupId>)>, blamed: Blamed) -> Loaded {
        let left_out = blamed.left_out();
        let stays = |annotations: &[AnnotationId]| annotations.iter().any(|id| !left_out.contains(id));
        let Self { objects, mut patterns, hosts, rows, instances, .. } = self;
        // Refused rows go, so those behind them move up.
        let mut kept = 0..;
        let moved: Vec<Option<usize>> =
            rows.iter().map(|row| if stays(&row.annotations) { kept.next() } else { None }).collect();
        let installed = installed.into_iter().filter_map(|(number, id)| Some((moved[number]?, id))).collect();
        patterns.retain(|pattern| stays(&pattern.annotations));
        let mut rows = rows.into_iter();
        let mut take = |count: usize| -> Vec<Row> {
            rows.by_ref().take(count).filter(|row| stays(&row.annotations)).collect()
        };
        let named = instances.first().map_or(moved.len(), |(_, rows)| rows.start);
        Loaded {
            rows: take(named),
            patterns,
            instances: instances.into_iter().map(|(instance, rows)| (instance, take(rows.len()))).collect(),
            installed,
            hosts,
            objects,
            refusals: blamed.refused.into_iter().map(|(_, one)| one).collect(),
            ..Loaded::default()
        }
    }

    /// Whether a complaint is about a line with many elements, so that nobody knows which of them it is about.
    fn is_of_many(&self, complaint: &Complaint) -> bool {
        let before = self.removal + self.fixed + self.elements.len();
        complaint.place.is_some_and(|(line, ..)| line > before)
    }
}

/// The elements in users' own sets that have our mark.
pub type Marked = BTreeMap<SetRef, BTreeSet<CgroupId>>;

impl Load<'_> {
    /// Loads it.
    ///
    /// # Errors
    /// If nft refuses it for something that no annotation is to blame for; the kernel holds what it held then.
    pub fn run(&self, kernel: &mut dyn Kernel) -> Result<Loaded, LoadError> {
        let mut blamed = Blamed::default();
        let mut rounds = 0;
        let mut together = true;
        let levels = levels(self.policy, self.instances, self.users);
        for _ in 0..TRIES + self.policy.annotations.len() {
            let listing = kernel.list().map_err(|complaints| LoadError::of(&complaints))?;
            if self.is_repair {
                blamed.leave_out_absent(self.policy, &listing.tables());
            }
            let marked = marked(kernel, &listing).map_err(|error| LoadError {
                words: words_of(&error),
                passing: is_passing(&error),
                refusals: vec![],
            })?;
            let dispatch = dispatch::compile(self.policy, &blamed.left_out(), self.hosts, &levels);
            let removal = self.removal(&listing, &dispatch, &blamed);
            let attempt = self.attempt(removal, dispatch, &marked, &blamed, together);
            let complaints = match kernel.run(&attempt.script, false) {
                Ok(()) => return Ok(self.loaded(kernel, attempt, &marked, blamed, listing.others)),
                Err(complaints) => complaints,
            };
            let is_of_none =
                |complaint: &Complaint| complaint.is_passing() || complaint.kind == Kind::TooLong;
            if complaints.iter().any(is_of_none) {
                return Err(LoadError::of(&complaints));
            }
            if complaints.iter().any(|complaint| attempt.is_of_many(complaint)) {
                together = false;
                continue;
            }
            rounds += 1;
            let progress = self.blame(&complaints, &attempt, &mut blamed);
            // What is allowed for a while is in no file, and keeps none from being loaded.
            let is_of_a_file = |id: &AnnotationId| self.policy.annotation(*id).left.is_none();
            if self.is_strict && blamed.refused.keys().any(is_of_a_file) {
                blamed.refused.retain(|id, _| is_of_a_file(id));
                let words = blamed.words(self.policy);
                let refusals = blamed.refused.into_iter().map(|(_, one)| one).collect();
                return Err(LoadError { words, passing: false, refusals });
            }
            if progress == Progress::None || rounds == ROUNDS_TOGETHER {
                let before = blamed.refused.len();
                let all: Vec<AnnotationId> = self.policy.iter().map(|(id, _)| id).collect();
                for group in all.chunks(GROUP) {
                    self.try_group(kernel, group, &levels, &mut blamed);
                }
                if progress == Progress::None && blamed.refused.len() == before {
                    return Err(LoadError::of(&complaints));
                }
            }
        }
        let words = "the ruleset changes faster than it can be loaded".to_owned();
        Err(LoadError { words, passing: true, refusals: vec![] })
    }

    /// What takes away the old and, behind it, puts a dispatch in place with the elements that are due: those of a set of
    /// ours together, or each in a line of its own, so that it can be blamed.
    fn attempt(
        &self,
        mut script: Script,
        dispatch: Dispatch,
        marked: &Marked,
        blamed: &Blamed,
        together: bool,
    ) -> Attempt {
        let Dispatch { script: fixed, mut rows, patterns, hosts, objects, .. } = dispatch;
        let objects = objects.len();
        let instances = self.add_instances(&mut rows, &patterns);
        let due = self.due(&rows, blamed);
        let (removal, fixed_lines) = (script.lines.len(), fixed.lines.len());
        script.lines.extend(fixed.lines);
        let mut elements = Vec::new();
        let mut ours: BTreeMap<&SetRef, Vec<&Row>> = BTreeMap::new();
        for (at, (number, id)) in due.iter().enumerate() {
            let row = &rows[*number];
            if together && row.element.set.is_ours() {
                ours.entry(&row.element.set).or_default().push(row);
                continue;
            }
            let has_mark = |id: &CgroupId| marked.get(&row.element.set).is_some_and(|ids| ids.contains(id));
            if row.element.data.is_some() && id.as_ref().is_some_and(has_mark) {
                // It may lead to something else now.
                script.lines.push(dispatch::deletion(row));
                elements.push((at, true));
            }
            script.lines.push(dispatch::addition(row));
            elements.push((at, false));
        }
        script.lines.extend(ours.into_iter().map(|(set, rows)| dispatch::additions(set, &rows)));
        let fixed = fixed_lines;
        Attempt { objects, patterns, hosts, rows, instances, due, script, removal, fixed, elements }
    }

    /// Adds the rows that patterns make of each instance. Returns which.
    fn add_instances(&self, rows: &mut Vec<Row>, patterns: &[Pattern]) -> Vec<(Instance, Range<usize>)> {
        let mut instances = Vec::new();
        let index = Index::of(patterns.iter().map(|pattern| &pattern.selectors));
        for instance in self.instances {
            let first = rows.len();
            let candidates = index.candidates(&instance.unit).into_iter().map(|number| &patterns[number]);
            let selecting = candidates.filter(|one| one.selectors.select(instance, self.users));
            rows.extend(selecting.flat_map(|pattern| pattern.rows(&instance.path)));
            instances.push((instance.clone(), first..rows.len()));
        }
        instances
    }

    /// The rows that are due, each element once, with the id of its cgroup.
    fn due(&self, rows: &[Row], blamed: &Blamed) -> Vec<(usize, Option<CgroupId>)> {
        let mut names = BTreeSet::new();
        let mut due = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let cgroup = row.element.key.cgroup();
            let id = cgroup.and_then(self.look);
            // As a rule the condition is about the same cgroup, which is looked at once.
            let look = |path: &CgroupPath| if cgroup == Some(path) { id } else { (self.look)(path) };
            let exists = |path: &CgroupPath| !blamed.late.contains(path) && look(path).is_some();
            let is_there = cgroup.is_none() || id.is_some();
            if is_there
                && row.condition.holds(exists, self.state)
                && names.insert((&row.element.set, &row.element.key))
            {
                due.push((number, id));
            }
        }
        due
    }

    /// What goes before the new dispatch: the old one's end, and the flush.
    fn removal(&self, listing: &Listing, dispatch: &Dispatch, blamed: &Blamed) -> Script {
        // Our rules in a chain that is not flushed, since all its annotations are refused, go one by one.
        let flushed = match self.flush {
            true => dispatch::chains(self.policy, &blamed.left_out()),
            false => BTreeMap::new(),
        };
        let flush = |(chain, ids): (_, &Vec<_>)| Line::new(format!("flush chain {chain}")).of(ids);
        let mut script = Script { lines: flushed.iter().map(flush).collect() };
        script.lines.extend(listing.removal(&flushed.into_keys().gather(), &dispatch.objects).lines);
        script
    }

    fn loaded(
        &self,
        kernel: &mut dyn Kernel,
        attempt: Attempt,
        marked: &Marked,
        mut blamed: Blamed,
        ruleset: Value,
    ) -> Loaded {
        let (installed, is_right) = self.installed(kernel, &attempt);
        let is_swept = self.sweep(kernel, &attempt, &installed, marked);
        self.try_absent_elements(kernel, &attempt, &mut blamed);
        let unfinished = !(is_right && is_swept);
        Loaded { ruleset, unfinished, ..attempt.loaded(installed, blamed) }
    }

    /// Takes out of users' own sets what is not of this load.
    fn sweep(
        &self,
        kernel: &mut dyn Kernel,
        attempt: &Attempt,
        installed: &[(usize, Option<CgroupId>)],
        marked: &Marked,
    ) -> bool {
        let mut wanted = Marked::new();
        for (number, id) in installed {
            let set = &attempt.rows[*number].element.set;
            if let Some(id) = id.filter(|_| !set.is_ours()) {
                wanted.entry(set.clone()).or_default().insert(id);
            }
        }
        sweep(kernel, self.policy, &wanted, marked, self.alive)
    }

    /// What went in. libnftables looks paths up by itself; ids are never used again, so an id that is the same before and
    /// after is the one that went in. A set with another one is put right at once, if the kernel can.
    fn installed(
        &self,
        kernel: &mut dyn Kernel,
        attempt: &Attempt,
    ) -> (Vec<(usize, Option<CgroupId>)>, bool) {
        let is_sure = |(number, id): &(usize, Option<CgroupId>)| {
            id.is_none() || attempt.rows[*number].element.key.cgroup().and_then(self.look) == *id
        };
        let (sure, unsure): (Vec<_>, Vec<_>) = attempt.due.iter().copied().partition(is_sure);
        let mut is_right = true;
        for (number, _) in &unsure {
            let set = &attempt.rows[*number].element.set;
            let of_set = |(other, id): &(usize, Option<CgroupId>)| {
                id.filter(|_| attempt.rows[*other].element.set == *set)
            };
            let right: BTreeSet<CgroupId> = sure.iter().filter_map(of_set).gather();
            let elements = kernel.elements(set);
            is_right &= !elements.as_ref().is_err_and(is_passing);
            let strays = elements
                .unwrap_or_default()
                .into_iter()
                .filter(|(id, is_marked)| (*is_marked || set.is_ours()) && !right.contains(id));
            is_right &= delete(kernel, set, strays.map(|(id, _)| id));
        }
        (sure, is_right)
    }

    /// Tries the elements of users' own sets whose cgroup does not exist with the root cgroup in its place, so that a
    /// missing set or a wrong type is known now.
    fn try_absent_elements(&self, kernel: &mut dyn Kernel, attempt: &Attempt, blamed: &mut Blamed) {
        let due: BTreeSet<usize> = attempt.due.iter().map(|(number, _)| *number).gather();
        for (number, row) in attempt.rows.iter().enumerate() {
            if row.element.set.is_ours() || due.contains(&number) {
                continue;
            }
            if let Err(complaints) = kernel.run(&dispatch::stand_in(&row.element), true) {
                for id in &row.annotations {
                    blamed.add(*id, None, &complaints[0]);
                }
            }
        }
    }

    /// Leaves out the annotations that complaints lead to, and the elements whose cgroup just vanished.
    fn blame(&self, complaints: &[Complaint], attempt: &Attempt, blamed: &mut Blamed) -> Progress {
        let mut progress = Progress::None;
        let mut of_the_table = None;
        for complaint in complaints {
            let Some((number, first, last)) = complaint.place else { continue };
            let Some(line) = attempt.script.line(number) else { continue };
            if complaint.kind.is_of_the_table() {
                // Whoever is to blame for the table comes first, and then others of the same wrong hook. The rest is tried
                // again.
                let mut annotations = line.annotations.iter().map(|id| self.policy.annotation(*id));
                let chain = annotations.find_map(findings::chain_of_cgroups);
                let chain = chain.filter(|_| complaint.kind == Kind::Unsupported);
                match of_the_table {
                    None => of_the_table = Some(chain),
                    Some(first) if first == chain && chain.is_some() => {}
                    Some(_) => continue,
                }
            }
            let element = attempt.element(number);
            if number <= attempt.removal && line.annotations.is_empty()
                || element.is_some_and(|(_, deletes)| deletes)
            {
                progress = progress.max(Progress::MachineChanged);
                continue;
            }
            if let Some((path, _)) = element
                && complaint.kind == Kind::CgroupMissing
            {
                let is_new = blamed.late.insert(path.clone());
                progress = progress.max(if is_new { Progress::Blamed } else { Progress::None });
                continue;
            }
            let origin = line.origin(first, last);
            for id in &line.annotations {
                // What stands in a variable's definition is nobody's own.
                let is_own =
                    |place: &Span| self.policy.annotation_at(*place).is_none_or(|found| found == *id);
                if blamed.add(*id, origin.filter(is_own), complaint) {
                    progress = Progress::Blamed;
                }
            }
        }
        progress
    }

    /// Finds all annotations of a group that nft refuses, without any effect.
    fn try_group(
        &self,
        kernel: &mut dyn Kernel,
        group: &[AnnotationId],
        levels: &Levels,
        blamed: &mut Blamed,
    ) {
        let is_refused = |id: &AnnotationId| blamed.refused.contains_key(id);
        let group: Vec<AnnotationId> = group.iter().copied().filter(|id| !is_refused(id)).collect();
        let others = self.policy.iter().map(|(id, _)| id).filter(|id| !group.contains(id)).gather();
        let dispatch = dispatch::compile(self.policy, &others, self.hosts, levels);
        let attempt = self.attempt(Script::default(), dispatch, &Marked::new(), blamed, false);
        let Err(complaints) = kernel.run(&attempt.script, true) else { return };
        match (self.blame(&complaints, &attempt, blamed), &group[..]) {
            (Progress::Blamed, _) => self.try_group(kernel, &group, levels, blamed),
            (_, []) => {}
            (_, [id]) => drop(blamed.add(*id, None, &complaints[0])),
            _ => {
                let (first, second) = group.split_at(group.len() / 2);
                self.try_group(kernel, first, levels, blamed);
                self.try_group(kernel, second, levels, blamed);
            }
        }
    }
}

/// Takes elements with our mark out of users' own sets, unless they are wanted; and of the sets that a policy names, those
/// of cgroups that are gone, if all cgroups can be looked at: they match nothing, and an earlier version left them without a
/// mark. Returns whether the kernel could do all of it.
pub fn sweep(
    kernel: &mut dyn Kernel,
    policy: &Policy,
    wanted: &Marked,
    marked: &Marked,
    alive: &dyn Fn() -> io::Result<BTreeSet<CgroupId>>,
) -> bool {
    let none = BTreeSet::new();
    let wanted = |set: &SetRef| wanted.get(set).unwrap_or(&none);
    let mut is_done = true;
    for (set, ids) in marked {
        is_done &= delete(kernel, set, ids.difference(wanted(set)).copied());
    }
    let mut known = None;
    for set in dispatch::hosting(policy).1 {
        let elements = kernel.elements(&set);
        is_done &= !elements.as_ref().is_err_and(is_passing);
        let of_others = elements.unwrap_or_default().into_keys().filter(|id| !wanted(&set).contains(id));
        let strays: Vec<CgroupId> = of_others.collect();
        if !strays.is_empty() {
            let Ok(alive) = known.get_or_insert_with(alive) else { return is_done };
            is_done &= delete(kernel, &set, strays.into_iter().filter(|id| !alive.contains(id)));
        }
    }
    is_done
}

/// The elements that have our mark in all sets of cgroups that are not ours.
///
/// # Errors
/// The kernel's, if it passes. A set that cannot be read, or is gone since the ruleset was listed, has none.
pub fn marked(kernel: &mut dyn Kernel, listing: &Listing) -> io::Result<Marked> {
    let mut marked = Marked::new();
    for set in listing.sets_of_cgroups() {
        let elements = match kernel.elements(&set) {
            Err(error) if !is_passing(&error) => continue,
            elements => elements?,
        };
        let ids: BTreeSet<CgroupId> =
            elements.into_iter().filter(|(_, is_marked)| *is_marked).map(|(id, _)| id).gather();
        if !ids.is_empty() {
            marked.insert(set, ids);
        }
    }
    Ok(marked)
}

/// Takes elements out of a set, and says what could not be. Returns whether none of them may be deleted in a moment.
fn delete(kernel: &mut dyn Kernel, set: &SetRef, ids: impl Iterator<Item = CgroupId>) -> bool {
    let mut is_done = true;
    for id in ids {
        match kernel.change(&[ElementChange::Delete { set, id: Some(id) }]) {
            Ok(()) => tracing::debug!("deleted the element {id} from {set}"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is_passing(&error) => {
                tracing::warn!("the element {id} cannot be deleted from {set} for now: {error}");
                is_done = false;
            }
            Err(error) => tracing::error!("the element {id} cannot be deleted from {set}: {error}"),
        }
    }
    is_done
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    None,
    MachineChanged,
    Blamed,
}

/// What goes into no further try.
#[derive(Debug, Default)]
struct Blamed {
    /// Annotations that nft refuses.
    refused: LiteMap<AnnotationId, Refusal>,
    /// Cgroups that vanished meanwhile; if they come again, the engine adds their elements.
    late: BTreeSet<CgroupPath>,
}

impl Blamed {
    fn add(&mut self, id: AnnotationId, place: Option<Span>, complaint: &Complaint) -> bool {
        let is_new = !self.refused.contains_key(&id);
        self.refused.entry(id).or_insert_with(|| Refusal::new(id, place, complaint));
        is_new
    }

    /// Leaves out what is in no table that there is.
    fn leave_out_absent(&mut self, policy: &Policy, tables: &BTreeSet<TableRef>) {
        let absent = policy.iter().filter(|(_, annotation)| !tables.contains(annotation.statement.table()));
        let complaint = Complaint::<()>::new(None, words_of(&io::Error::from_raw_os_error(libc::ENOENT)));
        for (id, _) in absent {
            self.refused.entry(id).or_insert_with(|| Refusal::new(id, None, &complaint));
        }
    }

    /// What nft says of each, with its place.
    fn words(&self, policy: &Policy) -> String {
        let short = |refusal: &Refusal| refusal.diagnostic(policy).short(&policy.sources);
        self.refused.values().map(short).collect::<Vec<_>>().join("; ")
    }

    fn left_out(&self) -> BTreeSet<AnnotationId> {
        self.refused.keys().copied().gather()
    }
}
