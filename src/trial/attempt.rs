//! One round: a process of its own enters a [`room`], loads, says what came of it and ends.
#![allow(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    net::IpAddr,
};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Trial, room};
use crate::{
    cgroupfs::look,
    dispatch::Pattern,
    effects::{self, Failed},
    engine::{Add, Commit},
    findings::Refusal,
    load::{Load, LoadError},
    model::{CgroupPath, Key, Row, RowId, SetRef, TableRef},
    nft::{Complaint, FileComplaint, Nftables, libnftables::Libnftables},
    policy::{Policy, Statement},
    text::Diagnostic,
};

/// What a round begins with.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempt {
    /// Interfaces to make.
    pub(super) interfaces: BTreeSet<String>,
    /// The cgroups that exist for the files.
    pub(super) cgroups: BTreeSet<CgroupPath>,
    /// The addresses of host names, besides those in /etc/hosts. Where there is none, stand-ins are taken.
    pub(super) hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Texts to read in place of files.
    pub(super) blanks: BTreeMap<String, String>,
    /// The texts of what is no file and can be read only once, such as /dev/stdin, by its name.
    pub(super) streams: BTreeMap<String, String>,
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
    },
}

impl Attempt {
    /// Loads the files, and then the policy with an element for each annotation.
    ///
    /// # Errors
    /// Why nothing can be loaded here.
    pub(super) fn run(&self, files: &[String], trial: &Trial<'_>) -> Result<Report, String> {
        in_a_process(|| self.load(files, trial)).flatten()
    }

    fn load(&self, files: &[String], trial: &Trial<'_>) -> Result<Report, String> {
        room::enter(self).map_err(|error| error.to_string())?;
        let mut kernel = Nftables::open().map_err(|missing| missing.to_string())?;
        for file in files {
            if let Err(complaints) = kernel.load_file(&room::name_of(file, self)) {
                return Ok(Report::Refused(complaints));
            }
        }
        let policy = &*trial.policy;
        let statements = || policy.annotations.iter().map(|annotation| &annotation.statement);
        room::make_cgroups(statements().flat_map(Statement::paths));
        // What goes into our own maps is added after the load: with it, libnftables reads all elements of all sets.
        let elements = statements().filter(|statement| matches!(statement, Statement::Element(_)));
        let of_elements: BTreeSet<&CgroupPath> = elements.flat_map(Statement::paths).collect();
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
        let words = |error: LoadError| format!("nft refuses the policy: {}", error.words);
        let loaded = load.run(&mut kernel).map_err(words)?;
        let rows: Vec<Row> =
            loaded.rows.into_iter().chain(loaded.patterns.iter().flat_map(examples)).collect();
        room::make_cgroups(rows.iter().flat_map(|row| row.condition.paths()));
        let mut ruleset = loaded.ruleset;
        list_verdicts(&mut kernel, &mut ruleset);
        let refusals = loaded.refusals.iter().map(|refusal| refusal.diagnostic(policy));
        let diagnostics = refusals.chain(refused_elements(&mut kernel, &rows, policy)).collect();
        Ok(Report::Loaded { ruleset, diagnostics })
    }
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
pub(super) fn syntax(files: &[String]) -> Vec<FileComplaint> {
    let parse = || {
        let Ok(mut library) = Libnftables::open() else { return vec![] };
        let complaints = files.iter().filter_map(|file| library.run_file(file, true).err()).flatten();
        complaints.filter(|complaint| complaint.kind.is_syntax()).collect()
    };
    in_a_process(parse).unwrap_or_default()
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
        ours.map(|row| ((&row.element.set, &row.element.key), row)).collect();
    let rows: BTreeMap<RowId, &Row> = (0..).map(RowId).zip(once.into_values()).collect();
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

/// Runs something in a child of this process, which must have one thread only.
fn in_a_process<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> T) -> Result<T, String> {
    let (mut reader, writer) = io::pipe().map_err(|error| error.to_string())?;
    // SAFETY: there is no other thread whose locks the child could miss.
    let fork = unsafe { fork() }.map_err(|error| format!("no process can be made: {}", error.desc()))?;
    let ForkResult::Parent { child } = fork else {
        drop(reader);
        let written = serde_json::to_writer(io::BufWriter::new(writer), &work());
        // SAFETY: _exit(2) only ends the process, without what its parent has registered for its end.
        unsafe { libc::_exit(i32::from(written.is_err())) }
    };
    drop(writer);
    let mut bytes = Vec::new();
    let read = reader.read_to_end(&mut bytes);
    match (read, waitpid(child, None)) {
        (Ok(_), Ok(WaitStatus::Exited(_, 0))) => {
            serde_json::from_slice(&bytes).map_err(|error| format!("the trial's report: {error}"))
        }
        (_, Ok(WaitStatus::Signaled(_, signal, _))) => {
            Err(format!("libnftables does not survive the file (signal {})", signal as i32))
        }
        (_, Ok(status)) => Err(format!("the trial ended early ({status:?})")),
        (_, Err(error)) => Err(format!("the trial is lost: {}", error.desc())),
    }
}
