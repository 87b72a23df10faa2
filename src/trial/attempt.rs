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
    load::{self, Load},
    model::{Binding, CgroupPath, Element, Instance, Key, SetRef},
    nft::{FileComplaint, Kernel, Nftables, libnftables::Libnftables},
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
        complaints.retain(|complaint| complaint.words.starts_with("syntax error"));
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
        let load =
            Load { policy, hosts, flush: false, look: &is_there, active: &|_, _| false, instances, users };
        match load.run(&mut kernel) {
            Ok(loaded) => {
                let mut diagnostics = loaded.diagnostics;
                let examples = loaded.patterns.iter().flat_map(examples);
                let bindings: Vec<Binding> = loaded.bindings.into_iter().chain(examples).collect();
                room::make_cgroups(bindings.iter().flat_map(|binding| binding.condition.paths()));
                diagnostics.extend(refused_elements(&mut kernel, &bindings, policy));
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

/// An element for each target of a pattern, as if there were an instance.
fn examples(pattern: &Pattern) -> impl Iterator<Item = Binding> {
    pattern.targets.iter().filter_map(|target| {
        let level = usize::try_from(target.level.unwrap_or(1)).ok()?;
        let path = vec!["scnpm"; level].join("/").parse().ok()?;
        Some(pattern.binding(target, &path))
    })
}

/// Adds an element to each of our own maps and sets for each cgroup and gate, as if all units ran.
fn refused_elements(kernel: &mut Nftables, bindings: &[Binding], policy: &Policy) -> Vec<Diagnostic> {
    let ours = bindings.iter().filter(|binding| binding.element.set.is_ours());
    let elements: BTreeMap<(&SetRef, &Key), &Binding> =
        ours.map(|binding| ((&binding.element.set, &binding.element.key), binding)).collect();
    let all: Vec<Element> = elements.values().map(|binding| binding.element.clone()).collect();
    let Err(error) = kernel.add(&all) else { return vec![] };
    let diagnostic = |(element, words): &(Element, String)| {
        let binding = elements.get(&(&element.set, &element.key))?;
        let (_, annotation) = policy
            .iter()
            .find(|(_, annotation)| policy.sources.location(annotation.unit_span) == binding.location)?;
        Some(load::refusal(annotation, None, words))
    };
    error.refused.iter().filter_map(diagnostic).collect()
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
