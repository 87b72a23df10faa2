//! `scnpm check`: a dry run. Loads the files in namespaces of its own, needs no rights, and prints every diagnostic.

use std::{io, path::PathBuf, process::ExitCode};

use super::{
    Failure,
    examine::{Found, Machine, Texts},
    fix, note, output, output_to, proof,
};
use crate::{
    cli::{Check, Deny, Format},
    load, log,
    policy::{Policy, files::STDIN},
    report::{Report, UnitRow},
    text::{Diagnostic, Severity},
    trial::Untried,
    units::selector::selected,
};

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
    let machine = Machine::new(options, &files);
    let mut found = match machine.examine(&Texts::default()) {
        Ok(found) => found,
        Err(why) => return unreadable(options, &files, why),
    };
    let texts = Texts::of(&found.policy.sources);
    if options.fix {
        let left = fix::run(&machine, options.write, found, texts)?;
        return Ok(exit_code(options, &left));
    }
    proof::keep_good(&machine, &texts, &mut found);
    let Found { policy, users, units, diagnostics, .. } = &found;
    let running = selected(policy.annotations.iter().map(|one| &one.selectors), &machine.instances, users);
    let report = Report {
        files: shown(&files),
        policy,
        diagnostics,
        units: UnitRow::all(policy, |annotation| {
            annotation.statement.paths().any(|path| machine.exists(path))
                || units.runs(&annotation.unit)
                || running.contains_key(&annotation.selectors)
        }),
        dispatch: options
            .dispatch
            .then(|| load::script(policy, &found.hosts, &machine.instances, users).to_string()),
        untried: found.untried.as_ref(),
    };
    print(&report, options.format)?;
    Ok(exit_code(options, &found))
}

fn exit_code(options: &Check, found: &Found) -> ExitCode {
    let fails = |diagnostic: &Diagnostic| {
        let denials = [Deny::Warnings, Deny::Code(diagnostic.code)];
        diagnostic.severity() == Severity::Error || options.deny.iter().any(|one| denials.contains(one))
    };
    match &found.untried {
        _ if found.diagnostics.iter().any(fails) => ExitCode::FAILURE,
        Some(_) => ExitCode::from(NOT_CHECKED),
        None => ExitCode::SUCCESS,
    }
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
        untried: Some(&Untried::Unreadable(why)),
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
    if let (Format::Short, Some(why @ Untried::Everything(_))) = (format, report.untried) {
        note(why);
    }
    Ok(())
}
