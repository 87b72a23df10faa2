//! `scnpm run`: a command in a unit of its own, once the rules for that are in the kernel.
//!
//! ```text
//! find the command ──► manager: a scope with this process in it ──► daemon: wait ──► become the command
//!                             └ --service: a service that runs `scnpm run --inside` ──► the same two steps there
//!                             └ --cage: the same, but the command is a child, so that refusals are printed when it has ended
//! ```

mod answer;
mod cage;
mod certain;
mod child;
mod manager;
mod program;
mod service;
mod shell;
mod sigpipe;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
    process::ExitCode,
};

use nix::unistd::Uid;

use super::{Failure, block_on};
use crate::{
    cli::Run,
    model::printable,
    units::{escape::unescape, transient},
};
use manager::{Manager, Started, Unit, Value};
use program::Program;

/// The exit status if scnpm itself failed, as of env(1), nice(1) and timeout(1).
const FAILED: u8 = 125;

/// How often this process enters a scope if it is taken out of it.
const TRIES: usize = 3;

/// Runs it. A scope's command takes this process over.
///
/// # Errors
/// The command was not run: exit code 125, 126 or 127.
pub fn run(options: &Run) -> Result<ExitCode, Failure> {
    let run = match options {
        _ if options.inside => run_inside,
        _ if options.service => run_service,
        _ if options.cage.is_some() => cage::run,
        _ => run_in_scope,
    };
    run(options).map_err(|failure| Failure { exit_code: failure.exit_code.max(FAILED), ..failure })
}

fn run_in_scope(options: &Run) -> Result<ExitCode, Failure> {
    let program = find(&options.command)?;
    enter(&units(options, "scope")?, |cgroup| certain::of_rules(options, cgroup))?;
    Err(program.execute())
}

/// Puts this process into the first of these scopes whose name nobody has, and does what is to be done there. Returns its
/// cgroup, in which this process still is then.
fn enter(units: &[Unit], then: impl Fn(&str) -> Result<(), Failure>) -> Result<String, Failure> {
    // Whoever has started this process may move it once more.
    shell::wait_until_moved();
    for _ in 0..TRIES {
        let own = Value::from(vec![std::process::id()]);
        let Started { unit, .. } =
            block_on(async { Manager::connect().await?.start(units, vec![("PIDs", own)]).await })?;
        let entered = cgroup()?;
        if !is_of(&entered, &unit) {
            continue;
        }
        then(&entered)?;
        if cgroup()? == entered {
            return Ok(entered);
        }
    }
    Err(Failure::new(format!(
        "this process does not stay in its scope: it is in {}, where another program has moved it",
        printable(&cgroup()?)
    )))
}

fn run_service(options: &Run) -> Result<ExitCode, Failure> {
    find(&options.command)?;
    let units = units(options, "service")?;
    block_on(async {
        let mut manager = Manager::connect().await?;
        manager.subscribe(&units).await?;
        let Started { unit, job } = manager.start(&units, service::properties(options)?).await?;
        service::follow(manager, &unit, job).await
    })
}

/// What the service's own process does.
fn run_inside(options: &Run) -> Result<ExitCode, Failure> {
    let words: Vec<OsString> =
        options.command.iter().map(|word| OsString::from_vec(unescape(word.as_bytes()))).collect();
    let program = find(&words)?;
    certain::of_rules(options, &cgroup()?)?;
    Err(program.execute())
}

fn find(words: &[OsString]) -> Result<Program<'_>, Failure> {
    Program::find(words, env::var_os("PATH").as_deref())
}

/// The unit that is asked for: names of which the first is taken that nobody has, and what is the same for all.
fn units(options: &Run, kind: &str) -> Result<Vec<Unit>, Failure> {
    let names = match (&options.unit, &options.app) {
        _ if options.cage.is_some() => {
            numbered(|number| transient::of_cage(options.cage.as_deref().unwrap_or_default(), number))?
        }
        (Some(name), _) => vec![transient::unit(name, kind).map_err(Failure::new)?],
        (None, Some(id)) => of_application(&transient::application_id(id).map_err(Failure::new)?, kind)?,
        (None, None) => {
            let name = options.command.first().and_then(|command| Path::new(command).file_name());
            of_application(name.unwrap_or_default().as_bytes(), kind)?
        }
    };
    let default = match options.cage {
        Some(_) => "cage.slice",
        None if Uid::effective().is_root() => "system.slice",
        None => "app.slice",
    };
    let slice = transient::slice(options.slice.as_deref().unwrap_or(default)).map_err(Failure::new)?;
    let description = description(&options.command);
    let unit = |name| Unit { name, slice: slice.clone(), description: description.clone() };
    Ok(names.into_iter().map(unit).collect())
}

/// Names with this process's number. Processes that outlived an earlier one with the same number may still have the first.
fn of_application(id: &[u8], kind: &str) -> Result<Vec<String>, Failure> {
    numbered(|number| transient::of_application(id, number, kind))
}

fn numbered(name: impl Fn(u32) -> Result<String, String>) -> Result<Vec<String>, Failure> {
    let own = std::process::id();
    let numbers = (0..10).map(|again| if again == 0 { own } else { own * 10 + again });
    numbers.map(|number| name(number).map_err(Failure::new)).collect()
}

/// The command as `systemctl status` shows it.
fn description(words: &[OsString]) -> String {
    const LONGEST: usize = 200;
    let words = words.join(OsStr::new(" "));
    printable(&words.to_string_lossy()).chars().take(LONGEST).collect()
}

/// Whether a cgroup is the one that systemd makes for a unit. It may put a `_` in front (`cg_escape`).
fn is_of(cgroup: &str, unit: &str) -> bool {
    let name = cgroup.rsplit('/').next().unwrap_or_default();
    name == unit || name.strip_prefix('_') == Some(unit)
}

/// The cgroup of this process, below the root of the hierarchy.
fn cgroup() -> Result<String, Failure> {
    const FILE: &str = "/proc/self/cgroup";
    let text = fs::read(FILE).map_err(|error| Failure::new(format!("{FILE} cannot be read: {error}")))?;
    let text = String::from_utf8_lossy(&text);
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    path.map(str::to_owned)
        .ok_or_else(|| Failure::new("this machine has no cgroup v2, which rules for units need"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manager_is_told_of_the_command_has_no_control_characters_and_an_end() {
        let words =
            |words: &[&[u8]]| words.iter().map(|word| OsString::from_vec(word.to_vec())).collect::<Vec<_>>();
        assert_eq!(description(&words(&[b"a", b"b\nc\xff"])), "a b\u{fffd}c\u{fffd}");
        assert_eq!(description(&words(&[&[b'x'; 999]])).len(), 200);
    }

    #[test]
    fn there_are_other_names_if_one_is_taken() {
        let names = of_application(b"mail", "scope").unwrap();
        let own = std::process::id();
        assert_eq!(names[0], format!("app-scnpm-mail-{own}.scope"));
        assert_eq!(names[1], format!("app-scnpm-mail-{own}1.scope"));
    }

    #[test]
    fn cgroups_of_units_are_told() {
        assert!(is_of("a.slice/b.scope", "b.scope") && is_of("a.slice/_memory.scope", "memory.scope"));
        assert!(
            !is_of("a.slice/xb.scope", "b.scope") && !is_of("b.scope/a", "b.scope") && !is_of("", "b.scope")
        );
    }

    #[test]
    fn every_process_has_a_cgroup() {
        assert!(!cgroup().unwrap().starts_with('/'));
    }
}
