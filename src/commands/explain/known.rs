//! What the files say, and the daemon of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::geteuid;

use crate::{
    cli::{DEFAULT_FILE, Explain},
    commands::Failure,
    control::{
        client::{Client, Error},
        message::{GetStatus, Status},
    },
    dispatch::Dispatch,
    gather::{Gather, Ordered},
    load, machine,
    model::{HostName, Hosts, Instance, Location},
    policy::{Policy, files::Disk, parse},
    units::selector::Users,
};

/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the policy says, and how it is loaded.
pub(super) struct Known {
    pub(super) policy: Policy,
    pub(super) dispatch: Dispatch,
    pub(super) users: Users,
    pub(super) refused: BTreeMap<Location, String>,
}

impl Known {
    pub(super) fn read(
        options: &Explain,
        instances: &[Instance],
        notes: &mut Vec<String>,
    ) -> Result<Self, Failure> {
        let status = status(options).unwrap_or_else(|words| {
            notes.push(words);
            Status::default()
        });
        let policy = policy(options, &status, notes)?;
        notes.extend(not_as_loaded(options, &status));
        let users = machine::users(&policy.user_names());
        let refused = refused(&policy, &status);
        let is_refused = |span| refused.contains_key(&policy.sources.location(span));
        let left_out = policy.iter().filter(|(_, one)| is_refused(one.unit_span)).map(|(id, _)| id).gather();
        let dispatch = load::script_without(&policy, &left_out, &hosts(&status), instances, &users);
        Ok(Self { policy, dispatch, users, refused })
    }
}

/// What the files say.
fn policy(options: &Explain, status: &Status, notes: &mut Vec<String>) -> Result<Policy, Failure> {
    if !options.file.is_empty() {
        return parse::read(&Disk, &options.file).map_err(Failure::new);
    }
    let files = if status.files.is_empty() { vec![DEFAULT_FILE] } else { not_included(status) };
    Ok(parse::read(&Disk, &files).unwrap_or_else(|error| {
        notes.push(format!("no annotations are known: {error}{}", or_as_root()));
        Policy::default()
    }))
}

/// What to do for those who are not root.
pub(super) fn or_as_root() -> &'static str {
    if geteuid().is_root() { "" } else { ": run it as root" }
}

/// The daemon's files without those that others of them include, which are read with these.
fn not_included(status: &Status) -> Vec<&str> {
    let files: Vec<&str> = status.files.iter().map(|file| file.path.as_str()).collect();
    let included = files.iter().filter_map(|file| parse::read(&Disk, &[file]).ok());
    let included: BTreeSet<String> =
        included.flat_map(|policy| policy.sources.files.into_iter().skip(1)).map(|file| file.path).gather();
    files.into_iter().filter(|file| !included.contains(*file)).collect()
}

/// What makes the annotations of the files others than those that the daemon has loaded.
fn not_as_loaded(options: &Explain, status: &Status) -> Option<String> {
    let changed = status.files.iter().find(|file| file.changed);
    if let Some(words) = &status.load_error {
        return Some(format!("the daemon could not load the files, and keeps what it had before: {words}"));
    }
    if status.on_trial_ms.is_some() {
        return Some("the policy is on trial: `scnpm reload` keeps or ends it".to_owned());
    }
    if let Some(file) = changed {
        return Some(format!(
            "{} has changed since the daemon loaded it: annotations are shown as the file has them now, and \
             `scnpm reload` loads it",
            file.path
        ));
    }
    let is_loaded = |path: &PathBuf| status.files.iter().any(|file| Path::new(&file.path) == path);
    let other = options.file.iter().find(|path| !status.files.is_empty() && !is_loaded(path))?;
    Some(format!("the daemon has not loaded {}", other.display()))
}

/// What the daemon says, or why it says nothing.
fn status(options: &Explain) -> Result<Status, String> {
    let ask = || -> Result<Status, Error> {
        let mut client = Client::connect(&options.reach.socket)?;
        client.limit(Some(PATIENCE))?;
        Ok(client.call(&GetStatus::default())?.status)
    };
    let instead = if options.file.is_empty() {
        format!(": {DEFAULT_FILE} is read instead of its files")
    } else {
        String::new()
    };
    ask().map_err(|error| match error {
        Error::NotRunning => {
            format!("the daemon does not run, so nothing keeps elements up to date{instead}")
        }
        Error::NotPermitted => {
            format!("the daemon may not be asked at {}{instead}", options.reach.socket.display())
        }
        Error::Older => format!("the daemon is an older one: restart scnpm.service{instead}"),
        Error::Late | Error::Ended => format!("the daemon does not answer{instead}"),
        Error::Refused(_, words) | Error::Failed(words) => {
            format!("the daemon does not answer: {words}{instead}")
        }
    })
}

/// The errors that the daemon has found, by the annotation that they are in.
fn refused(policy: &Policy, status: &Status) -> BTreeMap<Location, String> {
    let mut refused = BTreeMap::new();
    for annotation in &policy.annotations {
        let place = policy.sources.location(annotation.unit_span);
        let last = policy.sources.line(annotation.span.file, annotation.span.end);
        let of_it = |line: usize| line >= place.line && line <= last;
        let mut errors =
            status.findings.iter().filter(|one| one.severity == "error" && one.file == place.file);
        if let Some(error) = errors.find(|one| of_it(one.line)) {
            refused.insert(place, format!("{} ({})", error.message, error.code));
        }
    }
    refused
}

fn hosts(status: &Status) -> Hosts {
    let mut hosts = Hosts::new();
    for host in &status.hosts {
        for address in host.addresses.iter().filter_map(|text| text.parse::<std::net::IpAddr>().ok()) {
            let name = HostName { name: host.name.clone(), v6: address.is_ipv6() };
            hosts.entry(name).or_default().put(address);
        }
    }
    hosts
}
