//! `scnpm check`: what would be loaded, and every mistake. Changes nothing and needs no rights.

use std::{
    collections::BTreeSet,
    io::{IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use super::Failure;
use crate::{
    cli::Check,
    load, log,
    policy::{
        Code, Mistake, Policy, Severity,
        files::Disk,
        hosts::{self, Hosts},
        parse,
    },
};

/// Runs it: exit code 0 for no mistake, 1 for any error.
///
/// # Errors
/// A file that cannot be read.
pub fn run(options: &Check) -> Result<ExitCode, Failure> {
    let paths: Vec<&Path> = options.files.iter().map(|path| path.as_path()).collect();
    let policy = parse::read(&Disk, &paths).map_err(Failure::new)?;
    let (hosts, unresolved) = resolve(&policy);
    let dispatch = load::script(&policy, &hosts);
    let mut mistakes = policy.mistakes.clone();
    for (_, names) in &dispatch.unresolved {
        for name in names {
            let why =
                unresolved.iter().find(|(host, _)| *host == name.host).map_or("", |(_, why)| why.as_str());
            let message = format!("the host name `{}` cannot be resolved here: {why}", name.host.name);
            let help = "the annotation is left out until it can be; the daemon tries again and again";
            mistakes.push(Mistake::new(Code::Unresolved, name.span, message).help(help));
        }
    }
    mistakes.sort_by_key(|mistake| mistake.span);
    let stdout = std::io::stdout();
    let mut out = stdout.lock();
    let _ = write!(out, "{dispatch}");
    let _ = out.flush();
    for mistake in &mistakes {
        eprintln!("{}", mistake.render(&policy.sources, log::colour_on_stderr()));
    }
    if policy.annotations.is_empty() && mistakes.is_empty() && std::io::stderr().is_terminal() {
        eprintln!("scnpm: no annotation in these files");
    }
    let failed = mistakes.iter().any(|mistake| mistake.severity() == Severity::Error);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn resolve(policy: &Policy) -> (Hosts, Vec<(hosts::HostName, String)>) {
    let wanted: BTreeSet<hosts::HostName> =
        policy.iter().flat_map(|(_, annotation)| hosts::wanted(policy, annotation)).collect();
    let mut known = Hosts::new();
    let mut failed = Vec::new();
    for host in wanted {
        match crate::watch::hosts::look_up_now(&host) {
            Ok(addresses) => drop(known.insert(host, addresses)),
            Err(why) => failed.push((host, why)),
        }
    }
    (known, failed)
}
