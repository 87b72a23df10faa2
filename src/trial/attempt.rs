//! One round: a process of its own enters a [`room`], loads, says what came of it and ends.
#![allow(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, PipeReader, PipeWriter, Read},
    net::IpAddr,
};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::room;
use crate::{
    cgroupfs::look,
    dispatch::Pattern,
    effects::{self, Failed},
    engine::{Add, Commit},
    findings::Refusal,
    load::Load,
    model::{CgroupPath, Instance, Key, Row, RowId, SetRef},
    nft::{Complaint, FileComplaint, Nftables, libnftables::Libnftables},
    policy::{Policy, Statement, hosts::Hosts},
    text::Diagnostic,
    units::selector::Users,
};

/// What a round begins with.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempt {
    /// Interfaces to make.
    pub(super) interfaces: BTreeSet<String>,
    /// The cgroups that exist for the files.
    pub(super) cgroups: BTreeSet<CgroupPath>,
    /// Whether these are all that the files may mean.
    pub(super) has_all_cgroups: bool,
    /// The addresses of host names, besides those in /etc/hosts.
    pub(super) hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Texts to read in place of files.
    pub(super) blanks: BTreeMap<String, String>,
    /// The texts of what is no file and can be read only once, such as /dev/stdin, by its name.
    pub(super) streams: BTreeMap<String, String>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// Nothing can be loaded here.
    Impossible(String),
    /// nft refuses the files.
    Refused(Vec<FileComplaint>),
    /// nft takes the files.
    Loaded {
        /// What they make, as libnftables lists it.
        ruleset: serde_json::Value,
        /// What nft refuses of the annotations.
        diagnostics: Vec<Diagnostic>,
    },
}

/// What is loaded behind the files.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) policy: &'a Policy,
    pub(super) hosts: &'a Hosts,
    pub(super) instances: &'a [Instance],
    pub(super) users: &'a Users,
}

impl Attempt {
    /// Loads the files, and then the policy with an element for each annotation.
    pub(super) fn run(&self, files: &[String], subject: &Subject<'_>) -> Report {
        in_a_process(|| self.load(files, subject)).unwrap_or_else(Report::Impossible)
    }

    /// What libnftables says of the files' syntax where it cannot reach a kernel. Nothing is loaded.
    pub(super) fn syntax(&self, files: &[String]) -> Vec<FileComplaint> {
        let parse = || {
            let Ok(mut library) = Libnftables::open() else { return vec![] };
            files.iter().filter_map(|file| library.try_file(file).err()).flatten().collect()
        };
        let mut complaints: Vec<FileComplaint> = in_a_process(parse).unwrap_or_default();
        complaints.retain(|complaint| complaint.kind.is_syntax());
        complaints
    }

    fn load(&self, files: &[String], subject: &Subject<'_>) -> Report {
        let Subject { policy, hosts, instances, users } = *subject;
        if let Err(error) = room::enter(self) {
            return Report::Impossible(error.to_string());
        }
        let mut kernel = match Nftables::open() {
            Ok(kernel) => kernel,
            Err(missing) => return Report::Impossible(missing.to_string()),
        };
        for file in files {
            if let Err(complaints) = kernel.load_file(&room::name_of(file, self)) {
                return Report::Refused(complaints);
            }
        }
        let (of_rules, of_elements) = paths(policy);
        room::make_cgroups(of_rules.union(&of_elements).copied());
        // What goes into our own maps is added after the load: with it, libnftables reads all elements of all sets.
        let is_there = |path: &CgroupPath| look(path).filter(|_| of_elements.contains(path));
        let load = Load {
            policy,
            hosts,
            flush: false,
            is_repair: false,
            is_strict: false,
            look: &is_there,
            alive: &|| Ok(BTreeSet::new()),
            state: &|_| None,
            instances,
            users,
        };
        match load.run(&mut kernel) {
            Ok(loaded) => {
                let refused = loaded.refusals.iter();
                let mut diagnostics: Vec<Diagnostic> =
                    refused.map(|refusal| refusal.diagnostic(policy)).collect();
                let rows: Vec<Row> =
                    loaded.rows.into_iter().chain(loaded.patterns.iter().flat_map(examples)).collect();
                room::make_cgroups(rows.iter().flat_map(|row| row.condition.paths()));
                diagnostics.extend(refused_elements(&mut kernel, &rows, policy));
                Report::Loaded { ruleset: loaded.ruleset, diagnostics }
            }
            Err(error) => Report::Impossible(format!("nft refuses the policy: {}", error.words.join("; "))),
        }
    }
}

/// The cgroups that a policy's annotations name: in rules, and in elements.
fn paths(policy: &Policy) -> (BTreeSet<&CgroupPath>, BTreeSet<&CgroupPath>) {
    let (mut of_rules, mut of_elements) = (BTreeSet::new(), BTreeSet::new());
    for (_, annotation) in policy.iter() {
        match &annotation.statement {
            Statement::Rule(rule) => of_rules.extend(rule.paths()),
            Statement::Element(element) => of_elements.extend(element.elements.iter().map(|(path, ..)| path)),
        }
    }
    (of_rules, of_elements)
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
    let rows: BTreeMap<(&SetRef, &Key), &Row> =
        ours.map(|row| ((&row.element.set, &row.element.key), row)).collect();
    let add = |(number, row): (u64, &&Row)| Add {
        row: RowId(number),
        element: row.element.clone(),
        id: row.element.key.cgroup().and_then(look),
    };
    let add: Vec<Add> = (0..).zip(rows.values()).map(add).collect();
    let done = effects::commit(kernel, &Commit { add, delete: vec![] }, &look);
    let diagnostic = |failed: &Failed| {
        let row = rows.values().nth(usize::try_from(failed.row.0).ok()?)?;
        let complaint: Complaint = Complaint::unplaced(&*failed.words);
        Some(Refusal::new(*row.annotations.first()?, None, &complaint).diagnostic(policy))
    };
    done.failures.iter().filter_map(diagnostic).collect()
}

/// Runs something in a child of this process, which must have one thread only.
fn in_a_process<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> T) -> Result<T, String> {
    let (reader, writer) = io::pipe().map_err(|error| error.to_string())?;
    // SAFETY: there is no other thread whose locks the child could miss.
    match unsafe { fork() }.map_err(|error| format!("no process can be made: {}", error.desc()))? {
        ForkResult::Child => {
            drop(reader);
            report(writer, &work())
        }
        ForkResult::Parent { child } => {
            drop(writer);
            read(reader, child)
        }
    }
}

/// Ends this process without what its parent has registered for its end.
fn report<T: Serialize>(writer: PipeWriter, value: &T) -> ! {
    let code = i32::from(serde_json::to_writer(io::BufWriter::new(writer), value).is_err());
    // SAFETY: _exit(2) only ends the process.
    unsafe { libc::_exit(code) }
}

fn read<T: DeserializeOwned>(mut reader: PipeReader, child: Pid) -> Result<T, String> {
    let mut bytes = Vec::new();
    let read = reader.read_to_end(&mut bytes);
    let end = waitpid(child, None);
    match (read, end) {
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
