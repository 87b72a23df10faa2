//! `scnpm check`: a dry run. Loads the files where it touches nothing, needs no rights, and prints every diagnostic.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use super::{Failure, note, output, output_to};
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
        files::{ForUser, STDIN},
        hosts::{HostName, Hosts},
        parse,
    },
    report::{Report, UnitRow},
    text::{Diagnostic, Severity},
    trial::{Trial, Untried},
    units::selector::selected,
};

/// The cgroups that every systemd machine has, whatever runs on it (systemd.special(7)).
const ALWAYS_THERE: [&str; 3] = ["init.scope", "system.slice", "user.slice"];

/// What the exit code 3 says.
const NOT_CHECKED: u8 = 3;

/// Runs it: exit code 0 without errors, 1 with errors, 3 if nothing could be loaded.
///
/// # Errors
/// A file that cannot be read, and nothing else was asked for; output that cannot be written.
pub fn run(options: &Check) -> Result<ExitCode, Failure> {
    if let Some(code) = options.explain {
        output(|out| writeln!(out, "{}", code.explanation()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let files: Vec<PathBuf> =
        options.files.iter().map(|file| if file == "-" { STDIN.into() } else { file.clone() }).collect();
    let disk = ForUser::default();
    let read = parse::read(&disk, &files);
    if let Some(path) = disk.denied.into_inner() {
        let why = format!("{}: Permission denied: run it as root", path.display());
        return unreadable(options, &files, why);
    }
    let mut policy = match read {
        Ok(policy) => policy,
        Err(error) => return unreadable(options, &files, error.to_string()),
    };
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
        files: &files,
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
    let running = selected(policy.annotations.iter().map(|one| &one.selectors), &instances, &users);
    let report = Report {
        files: shown(&files),
        policy: &policy,
        diagnostics: &diagnostics,
        units: UnitRow::all(&policy, |annotation| {
            annotation.statement.paths().any(exists)
                || units.runs(&annotation.unit)
                || running.contains_key(&annotation.selectors)
        }),
        dispatch: options.dispatch.then(|| load::script(&policy, &hosts, &instances, &users).to_string()),
        untried: tried.untried,
    };
    print(&report, options.format)?;
    let fails = |diagnostic: &Diagnostic| {
        let denials = [Deny::Warnings, Deny::Code(diagnostic.code)];
        diagnostic.severity() == Severity::Error || options.deny.iter().any(|one| denials.contains(one))
    };
    Ok(match &report.untried {
        _ if diagnostics.iter().any(fails) => ExitCode::FAILURE,
        Some(_) => ExitCode::from(NOT_CHECKED),
        None => ExitCode::SUCCESS,
    })
}

/// What is said where there is nothing to check.
fn unreadable(options: &Check, files: &[PathBuf], why: String) -> Result<ExitCode, Failure> {
    if options.format != Format::Json {
        return Err(Failure { exit_code: NOT_CHECKED, ..Failure::new(why) });
    }
    let report = Report {
        files: shown(files),
        policy: &Policy::default(),
        diagnostics: &[],
        units: vec![],
        untried: Some(Untried::Unreadable(why)),
        dispatch: None,
    };
    print(&report, options.format)?;
    Ok(ExitCode::from(NOT_CHECKED))
}

fn shown(files: &[PathBuf]) -> Vec<String> {
    files.iter().map(|path| path.display().to_string()).collect()
}

/// To the standard output; where that is for the script that was asked for, the rest to stderr.
fn print(report: &Report<'_>, format: Format) -> Result<(), Failure> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    match &report.dispatch {
        Some(script) if format != Format::Json => {
            output(|out| write!(out, "{script}"))?;
            output_to(stderr.lock(), |out| report.write(format, log::colour_on(&stderr), out))?;
        }
        _ => output(|out| report.write(format, log::colour_on(&stdout), out))?,
    }
    // One line for each error or warning, and nothing else, is what goes to the output.
    if let (Format::Short, Some(why @ Untried::Everything(_))) = (format, &report.untried) {
        note(why);
    }
    Ok(())
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
