//! `scnpm wait`: certainty at the start of a program.

use std::{
    fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{Failure, asking::failure, note, output};
use crate::{
    cli,
    control::{
        client::{self, Error},
        message::{Wait, Waited},
    },
    model::{CGROUP_ROOT, CgroupPath, Location, printable},
    units::selector::Selectors,
};

/// The exit codes of a wrong argument, and for when the time is over.
const USAGE: u8 = 2;
const LATE: u8 = 4;

/// How long the daemon may take to be started anew.
const AWAY: Duration = Duration::from_secs(3);

/// Runs it: exit code 0, or 1 if something is refused and that is in the JSON object.
///
/// # Errors
/// Something is refused; the daemon cannot be asked; the time is over; there is no such cgroup that could be meant.
pub fn run(options: &cli::Wait) -> Result<ExitCode, Failure> {
    let begun = Instant::now();
    let Some(what) = what(options)? else { return Ok(ExitCode::SUCCESS) };
    let waited = match client::wait_for(&options.reach.socket, &what, options.timeout, AWAY) {
        Ok(waited) => waited,
        Err(Error::NotRunning) if options.or_continue => {
            note("the daemon does not run: going on without waiting");
            return Ok(ExitCode::SUCCESS);
        }
        Err(Error::Late) => {
            let seconds = options.timeout.as_secs_f64();
            let unit = options.unit.as_ref().map(|unit| format!(" {}", printable(unit))).unwrap_or_default();
            let message =
                format!("the rules are not in the kernel after {seconds} s: `scnpm status{unit}` says why");
            return Err(Failure { message, exit_code: LATE });
        }
        Err(error) => return Err(failure(error, &options.reach.socket)),
    };
    if options.json {
        print_json(&waited, begun)?;
    } else if let (true, Some(named)) =
        (waited.annotations.is_empty(), options.unit.as_ref().or(options.cgroup.as_ref()))
    {
        note(format!("no annotation applies to `{}`, so there is nothing to wait for", printable(named)));
    }
    match waited.refused.join("; ") {
        none if none.is_empty() => Ok(ExitCode::SUCCESS),
        _ if options.json => Ok(ExitCode::FAILURE),
        all => Err(Failure::new(format!(
            "nft or the kernel refuses rules, so mend the file, then `scnpm reload`: {}",
            printable(&all)
        ))),
    }
}

/// What is waited for; nothing in the root of all cgroups, which no rule matches.
fn what(options: &cli::Wait) -> Result<Option<Wait>, Failure> {
    let usage = |message: String| Failure { message, exit_code: USAGE };
    if let Some(unit) = &options.unit {
        Selectors::parse(unit).map_err(|(_, error)| usage(format!("`{}`: {error}", printable(unit))))?;
        return Ok(Some(Wait { unit: Some(unit.clone()), cgroup: None }));
    }
    let cgroup = match &options.cgroup {
        Some(path) => {
            let path = path.strip_prefix(CGROUP_ROOT).unwrap_or(path);
            let example = "write one such as system.slice/postfix.service";
            path.parse().map_err(|why| {
                usage(format!("`{}` is not a cgroup's path: {why}: {example}", printable(path)))
            })?
        }
        None => match own_cgroup()? {
            Some(path) => path,
            None => return Ok(None),
        },
    };
    Ok(Some(Wait { cgroup: Some(cgroup.to_string()), unit: None }))
}

/// The cgroup of this process (cgroups(7), `/proc/PID/cgroup`). None if it is the root of all.
///
/// # Errors
/// It has none in cgroup v2, or one outside of what can be seen here.
fn own_cgroup() -> Result<Option<CgroupPath>, Failure> {
    let text = fs::read_to_string("/proc/self/cgroup")
        .map_err(|error| Failure::new(format!("/proc/self/cgroup: {error}")))?;
    match text.lines().find_map(|line| line.strip_prefix("0::")) {
        Some("/") => Ok(None),
        path => path
            .and_then(|path| path.parse().ok())
            .map(Some)
            .ok_or_else(|| Failure::new("this process has no cgroup of its own that can be seen from here")),
    }
}

#[derive(Serialize)]
struct Object<'a> {
    version: u32,
    annotations: &'a [Location],
    refused: &'a [String],
    waited_ms: u128,
}

fn print_json(waited: &Waited, begun: Instant) -> Result<(), Failure> {
    let object = Object {
        version: 1,
        annotations: &waited.annotations,
        refused: &waited.refused,
        waited_ms: begun.elapsed().as_millis(),
    };
    output(|out| {
        serde_json::to_writer_pretty(&mut *out, &object)?;
        writeln!(out)
    })
}
