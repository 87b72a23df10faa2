//! `scnpm check`: a dry run. Loads the files where it touches nothing, needs no rights, and prints every diagnostic.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::{
    Failure,
    examine::{Found, Machine, Texts},
    fix, proof,
};
use crate::{
    cli::{Check, Deny, Format},
    load, log,
    report::{Report, UnitRow},
    text::{Diagnostic, Severity},
    trial::Untried,
};

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
    let machine = Machine::new(options, &options.files);
    let mut found = machine.examine(&Texts::default()).map_err(unreadable)?;
    let texts = Texts::of(&found.policy.sources);
    if options.fix {
        let left = fix::run(&machine, options.write, found, texts)?;
        return Ok(exit_code(options, &left));
    }
    proof::keep_good(&machine, &texts, &mut found);
    let Found { policy, users, units, diagnostics, .. } = &found;
    let report = Report {
        files: options.files.iter().map(|path| path.display().to_string()).collect(),
        policy,
        diagnostics,
        units: UnitRow::all(policy, |annotation| {
            annotation.statement.paths().any(|path| machine.exists(path))
                || units.runs(&annotation.unit)
                || machine.instances.iter().any(|instance| annotation.selectors.select(instance, users))
        }),
        dispatch: options
            .dispatch
            .then(|| load::script(policy, &found.hosts, &machine.instances, users).to_string()),
        untried: found.untried.as_ref(),
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
    Ok(exit_code(options, &found))
}

fn exit_code(options: &Check, found: &Found) -> ExitCode {
    let fails = |diagnostic: &Diagnostic| {
        let denials = [Deny::Warnings, Deny::Code(diagnostic.code)];
        diagnostic.severity() == Severity::Error || options.deny.iter().any(|one| denials.contains(one))
    };
    match &found.untried {
        _ if found.diagnostics.iter().any(fails) => ExitCode::FAILURE,
        Some(Untried::Everything(_)) => ExitCode::from(NOT_CHECKED),
        _ => ExitCode::SUCCESS,
    }
}
