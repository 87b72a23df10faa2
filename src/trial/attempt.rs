//! One round: a process of its own enters a [`room`], loads, says what came of it and ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use litemap::LiteMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Trial,
    process::{self, Lost},
    room,
};
use crate::{
    cgroupfs::look,
    dispatch::Pattern,
    effects::{self, Failed},
    engine::{Add, Commit},
    findings::Refusal,
    gather::Gather,
    load::{Load, LoadError},
    model::{CgroupPath, Key, Row, RowId, SetRef, TableRef},
    nft::{Complaint, FileComplaint, Kernel, Nftables, libnftables::Libnftables},
    policy::{Policy, Statement},
    text::Diagnostic,
};

/// What a round begins with.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempt {
    /// Interfaces to make.
    pub(super) interfaces: BTreeSet<String>,
    /// Those that annotations name, which are made after the files are loaded.
    pub(super) interfaces_later: BTreeSet<String>,
    /// The cgroups that exist for the files.
    pub(super) cgroups: BTreeSet<CgroupPath>,
    /// The addresses of host names, besides those in /etc/hosts. Where there is none, stand-ins are taken.
    pub(super) hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Texts to read in place of files.
    pub(super) blanks: LiteMap<String, String>,
    /// The texts of what is no file and can be read only once, such as /dev/stdin, by its name.
    pub(super) streams: LiteMap<String, String>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// nft refuses the files.
    Refused(Vec<FileComplaint>),
    /// nft takes the files.
    Loaded {
        /// What they make, as libnftables lists it.
        ruleset: Value,
        /// What nft refuses of the annotations.
        diagnostics: Vec<Diagnostic>,
        /// What nft refuses of the files when they are loaded once more, on top of all that.
        again: Vec<FileComplaint>,
    },
}

impl Attempt {
    /// Loads the files, and then the policy with an element for each annotation.
    ///
    /// # Errors
    /// Why nothing can be loaded here.
    pub(super) fn run(&self, files: &[String], trial: &Trial<'_>) -> Result<Report, Lost> {
        process::run(|| self.load(files, trial))?.map_err(Lost::Failed)
    }

    fn load(&self, files: &[String], trial: &Trial<'_>) -> Result<Report, String> {
        let in_user_namespace = room::enter(self).map_err(|error| error.to_string())?;
        let mut kernel = Nftables::open().map_err(|missing| missing.to_string())?;
        if let Err(complaints) = self.load_files(&mut kernel, files) {
            return refused(complaints, in_user_namespace).map(Report::Refused);
        }
        room::make_interfaces(&self.interfaces_later).map_err(|error| error.to_string())?;
        let policy = &*trial.policy;
        let statements = || policy.annotations.iter().map(|annotation| &annotation.statement);
        room::make_cgroups(statements().flat_map(Statement::paths));
        // What goes into our own maps is added after the load: with it, libnftables reads all elements of all sets.
        let elements = statements().filter(|statement| matches!(statement, Statement::Element(_)));
        let of_elements: BTreeSet<&CgroupPath> = elements.flat_map(Statement::paths).gather();
        let load = Load {
            policy,
            hosts: &trial.hosts,
            flush: false,
            is_repair: false,
            is_strict: false,
            look: &|path| look(path).filter(|_| of_elements.contains(path)),
            alive: &|| Ok(BTreeSet::new()),
            state: &|_| None,
            instances: trial.instances,
            users: trial.users,
        };
        let words = |error: LoadError| {
            let complaint: Complaint = Complaint::unplaced(error.words);
            denied(&complaint, in_user_namespace)
                .unwrap_or(format!("nft refuses the policy: {}", complaint.words))
        };
        let loaded = load.run(&mut kernel).map_err(words)?;
        let rows: Vec<Row> =
            loaded.rows.into_iter().chain(loaded.patterns.iter().flat_map(examples)).collect();
        room::make_cgroups(rows.iter().flat_map(|row| row.condition.paths()));
        let mut ruleset = loaded.ruleset;
        list_verdicts(&mut kernel, &mut ruleset);
        let refusals = loaded.refusals.iter().map(|refusal| refusal.diagnostic(policy));
        let diagnostics = refusals.chain(refused_elements(&mut kernel, &rows, policy)).collect();
        // Without what was done without, it says nothing of the files.
        let is_whole = self.blanks.is_empty();
        // As another process would, whose socket is another one.
        kernel.release_memory();
        let again = if is_whole { self.load_files(&mut kernel, files) } else { Ok(()) };
        let again = refused(again.err().unwrap_or_default(), in_user_namespace)?;
        Ok(Report::Loaded { ruleset, diagnostics, again })
    }

    fn load_files(&self, kernel: &mut Nftables, files: &[String]) -> Result<(), Vec<FileComplaint>> {
        files.iter().try_for_each(|file| kernel.load_file(&room::name_of(file, self)))
    }
}

/// The complaints, unless one may be due to the lack of rights in a user namespace.
fn refused(complaints: Vec<FileComplaint>, in_user_namespace: bool) -> Result<Vec<FileComplaint>, String> {
    complaints.iter().find_map(|complaint| denied(complaint, in_user_namespace)).map_or(Ok(complaints), Err)
}

/// What to say of what may be due to the lack of rights.
fn denied<P>(complaint: &Complaint<P>, in_user_namespace: bool) -> Option<String> {
    let is_denied = in_user_namespace && complaint.kind.needs_rights();
    is_denied.then(|| format!("nft needs root's rights for it ({}): run it as root", complaint.words))
}

/// Adds the elements of maps of verdicts to a listing: they say which chains are called. Those of a map that rules fill are
/// not known ahead.
fn list_verdicts(kernel: &mut Nftables, ruleset: &mut Value) {
    let objects = ruleset["nftables"].as_array_mut().into_iter().flatten();
    for map in objects.filter_map(|object| object.get_mut("map")) {
        let flags = map["flags"].to_string();
        let is_filled_by_rules = ["dynamic", "timeout"].iter().any(|flag| flags.contains(flag));
        if map["map"] == "verdict"
            && !is_filled_by_rules
            && let Some(elements) = set_of(map).and_then(|map| kernel.elements_of(&map))
        {
            map["elem"] = elements;
        }
    }
}

fn set_of(map: &Value) -> Option<SetRef> {
    let table =
        TableRef { family: map["family"].as_str()?.parse().ok()?, name: map["table"].as_str()?.into() };
    Some(SetRef { table, name: map["name"].as_str()?.into() })
}

/// What libnftables says of the files' syntax where it cannot reach a kernel. Nothing is loaded.
pub(super) fn syntax(files: &[String], streams: &LiteMap<String, String>) -> Vec<FileComplaint> {
    let parse = || {
        let Ok(mut library) = Libnftables::open() else { return vec![] };
        let mut check = |file: &String| match streams.get(file) {
            Some(text) => library.check_text(text, file),
            None => library.run_file(file, true),
        };
        let complaints = files.iter().filter_map(|file| check(file).err()).flatten();
        complaints.filter(|complaint| complaint.kind.is_syntax()).collect()
    };
    process::run(parse).unwrap_or_default()
}

/// A row for each target of a pattern, as if there were an instance.
fn examples(pattern: &Pattern) -> impl Iterator<Item = Row> {
    pattern.targets.iter().filter_map(|target| {
        let level = usize::try_from(target.level.unwrap_or(1)).ok()?;
        let path = vec!["scnpm"; level].join("/").parse().ok()?;
        Some(pattern.row(target, &path))
    })
}

/// Adds an element to each of our own maps and sets for each cgroup and gate, as if all units ran.
fn refused_elements(kernel: &mut Nftables, rows: &[Row], policy: &Policy) -> Vec<Diagnostic> {
    let ours = rows.iter().filter(|row| row.element.set.is_ours());
    let once: BTreeMap<(&SetRef, &Key), &Row> =
        ours.map(|row| ((&row.element.set, &row.element.key), row)).gather();
    let rows: BTreeMap<RowId, &Row> = (0..).map(RowId).zip(once.into_values()).gather();
    let add = |(id, row): (&RowId, &&Row)| Add {
        row: *id,
        element: row.element.clone(),
        id: row.element.key.cgroup().and_then(look),
    };
    let commit = Commit { add: rows.iter().map(add).collect(), delete: vec![] };
    let diagnostic = |failed: Failed| {
        let complaint: Complaint = Complaint::unplaced(failed.words);
        Some(Refusal::new(*rows[&failed.row].annotations.first()?, None, &complaint).diagnostic(policy))
    };
    effects::commit(kernel, &commit, &look).failures.into_iter().filter_map(diagnostic).collect()
}
