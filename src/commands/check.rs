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
    cli::{Check, Deny, Format},
    findings::{self, Known},
    lint::Facts,
    load, log, machine,
    model::{CGROUP_ROOT, CgroupPath, Instance},
    names::Names,
    policy::{
        Policy,
        files::ForUser,
        hosts::{HostName, Hosts},
        parse,
    },
    report::{Report, UnitRow},
    text::{Diagnostic, Severity},
    trial::{Trial, Untried},
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
    let files = ForUser::default();
    let read = parse::read(&files, &options.files).map_err(unreadable);
    if let Some(path) = files.denied.into_inner() {
        let message = format!("{}: Permission denied: run it as root", path.display());
        return Err(Failure { message, exit_code: NOT_CHECKED });
    }
    let mut policy = read?;
    let (hosts, unresolved) = resolve(&policy, !options.no_dns);
    let exists: &dyn Fn(&CgroupPath) -> bool = match &options.root {
        Some(_) => &|path| ALWAYS_THERE.contains(&path.as_str()),
        None => &|path| look(path).is_some(),
    };
    let users = machine::users(&policy.user_names());
    let instances = if options.root.is_some() { vec![] } else { machine::instances(Path::new(CGROUP_ROOT)) };
    let instances: Vec<Instance> = instances.into_iter().map(|(instance, _)| instance).collect();
    let interfaces = machine::interfaces();
    let at_boot = interfaces.iter().filter(|name| machine::is_interface_at_boot(name));
    let at_boot = at_boot.chain(&options.interface).cloned().collect();
    let tried = Trial {
        files: &options.files,
        policy: &mut policy,
        hosts: hosts.clone(),
        instances: &instances,
        users: &users,
        exists,
        interfaces: &interfaces,
        interfaces_at_boot: &at_boot,
        dns: !options.no_dns,
    }
    .run();
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
    let (stdout, stderr) = (io::stdout(), io::stderr());
    // A reader that has seen enough is no failure.
    let _ = match &report.dispatch {
        Some(script) if options.format != Format::Json => write!(stdout.lock(), "{script}")
            .and_then(|()| report.write(options.format, log::colour_on(&stderr), &mut stderr.lock())),
        _ => {
            let mut out = io::BufWriter::new(stdout.lock());
            report.write(options.format, log::colour_on(&stdout), &mut out)
        }
    };
    let fails = |diagnostic: &Diagnostic| {
        let denials = [Deny::Warnings, Deny::Code(diagnostic.code)];
        diagnostic.severity() == Severity::Error || options.deny.iter().any(|one| denials.contains(one))
    };
    Ok(match &report.untried {
        _ if diagnostics.iter().any(fails) => ExitCode::FAILURE,
        Some(Untried::Everything(_)) => ExitCode::from(NOT_CHECKED),
        _ => ExitCode::SUCCESS,
    })
}

/// The addresses of the annotations' host names, and why some have none.
fn resolve(policy: &Policy, dns: bool) -> (Hosts, BTreeMap<HostName, String>) {
    let mut known = Hosts::new();
    let mut failed = BTreeMap::new();
    for host in policy.host_names() {
        match if dns { Names::Here.host(&host) } else { Err("--no-dns".to_owned()) } {
            Ok(addresses) => drop(known.insert(host, addresses)),
            Err(why) => drop(failed.insert(host, why)),
        }
    }
    (known, failed)
}
