//! `scnpm check`: a dry run. Loads the files where it touches nothing, needs no rights, and prints every diagnostic.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use super::Failure;
use crate::{
    cgroupfs::look,
    cli::{Check, Deny},
    findings::{self, Known},
    lint::Facts,
    load, log, machine,
    model::{CGROUP_ROOT, CgroupPath, Instance},
    policy::{
        Policy,
        files::Disk,
        hosts::{HostName, Hosts},
        parse,
    },
    report::{Report, UnitRow},
    text::{Diagnostic, Severity},
    trial::{self, Trial, Tried, Untried},
    units::selector::Users,
    watch::hosts::look_up,
};

/// The cgroups that every systemd machine has, whatever runs on it (systemd.special(7)).
const ALWAYS_THERE: [&str; 3] = ["init.scope", "system.slice", "user.slice"];

/// What the exit code 3 says.
const NOT_CHECKED: u8 = 3;

/// Runs it: exit code 0 without errors, 1 with errors, 3 if nothing could be loaded.
///
/// # Errors
/// A file that cannot be read.
pub fn run(options: &Check) -> Result<ExitCode, Failure> {
    if let Some(code) = options.explain {
        println!("{}", code.explanation());
        return Ok(ExitCode::SUCCESS);
    }
    let unreadable = |error| Failure { exit_code: NOT_CHECKED, ..Failure::new(error) };
    let mut policy = parse::read(&Disk, &options.files).map_err(unreadable)?;
    let (hosts, unresolved) = resolve(&policy, !options.no_dns);
    let exists: &dyn Fn(&CgroupPath) -> bool = match &options.root {
        Some(_) => &|path| ALWAYS_THERE.contains(&path.as_str()),
        None => &|path| look(path).is_some(),
    };
    let users = machine::users(&policy.user_names());
    let instances = if options.root.is_some() { vec![] } else { machine::instances(Path::new(CGROUP_ROOT)) };
    let instances: Vec<Instance> = instances.into_iter().map(|(instance, _)| instance).collect();
    let tried = load_for_real(options, &mut policy, &hosts, &unresolved, (&instances, &users), exists);
    let units = machine::units(options.root.as_deref().unwrap_or(Path::new("/")), &policy.units());
    let facts = Facts { units: Some(&units), ruleset: tried.ruleset.as_ref() };
    let unknown = policy.user_names().into_iter().filter(|name| !users.contains_key(*name));
    let unknown = unknown.map(|name| (name.to_owned(), format!("there is no user `{name}`"))).collect();
    let known = Known { refused: &tried.diagnostics, facts, unknown: &unknown, unresolved: &unresolved };
    let diagnostics = findings::all(&policy, &known);
    let report = Report {
        files: options.files.iter().map(|path| path.display().to_string()).collect(),
        policy: &policy,
        diagnostics: &diagnostics,
        units: UnitRow::all(&policy, |annotation| {
            annotation.statement.paths().any(exists)
                || units.runs(&annotation.unit)
                || instances.iter().any(|instance| annotation.selectors.select(instance, &users))
        }),
        dispatch: options.dispatch.then(|| load::script(&policy, &hosts, &instances, &users).to_string()),
        untried: tried.untried,
    };
    // A reader that has seen enough is no failure.
    let _ = print(options, &report);
    Ok(exit_code(options, &report))
}

fn load_for_real(
    options: &Check,
    policy: &mut Policy,
    hosts: &Hosts,
    unresolved: &BTreeMap<HostName, String>,
    (instances, users): (&[Instance], &Users),
    exists: &dyn Fn(&CgroupPath) -> bool,
) -> Tried {
    let mut hosts = hosts.clone();
    hosts.extend(trial::stand_in_hosts(unresolved.keys().cloned()));
    let mut interfaces = machine::interfaces();
    interfaces.extend(options.interface.iter().cloned());
    let dns = !options.no_dns;
    Trial {
        files: &options.files,
        policy,
        hosts: &hosts,
        instances,
        users,
        exists,
        interfaces: &interfaces,
        dns,
    }
    .run()
}

/// The addresses of the annotations' host names, and why some have none.
fn resolve(policy: &Policy, dns: bool) -> (Hosts, BTreeMap<HostName, String>) {
    let mut known = Hosts::new();
    let mut failed = BTreeMap::new();
    for host in policy.host_names() {
        match if dns { look_up(&host) } else { Err("--no-dns".to_owned()) } {
            Ok(addresses) => drop(known.insert(host, addresses)),
            Err(why) => drop(failed.insert(host, why)),
        }
    }
    (known, failed)
}

/// Prints the report to stdout; with `--dispatch` the script goes there, and the report to stderr.
fn print(options: &Check, report: &Report<'_>) -> io::Result<()> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    match (&report.dispatch, options.format) {
        (Some(script), format) if format != crate::cli::Format::Json => {
            write!(stdout.lock(), "{script}")?;
            report.write(format, log::colour_on(&stderr), &mut stderr.lock())
        }
        (_, format) => report.write(format, log::colour_on(&stdout), &mut io::BufWriter::new(stdout.lock())),
    }
}

fn exit_code(options: &Check, report: &Report<'_>) -> ExitCode {
    let is_denied = |diagnostic: &Diagnostic| {
        options.deny.contains(&Deny::Warnings) || options.deny.contains(&Deny::Code(diagnostic.code))
    };
    let fails = |diagnostic: &Diagnostic| diagnostic.severity() == Severity::Error || is_denied(diagnostic);
    match &report.untried {
        _ if report.diagnostics.iter().any(fails) => ExitCode::FAILURE,
        Some(Untried::Everything(_)) => ExitCode::from(NOT_CHECKED),
        _ => ExitCode::SUCCESS,
    }
}
