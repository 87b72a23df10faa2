//! `scnpm replay`: what a state log says, and where today's engine would decide otherwise.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    process::ExitCode,
};

use super::{Failure, output};
use crate::{
    cli::Replay as Options,
    record::{Entry, Replay, SEPARATOR, Step},
};

/// Runs it: exit code 0 if today's engine decides the same everywhere, else 1.
///
/// # Errors
/// The file cannot be read, or a line of it is none of a state log; exit code 3. The output cannot be written.
pub fn run(options: &Options) -> Result<ExitCode, Failure> {
    let failure =
        |text: String| Failure { exit_code: 3, ..Failure::new(format!("{}:{text}", options.file.display())) };
    let file = File::open(&options.file).map_err(|error| failure(format!(" {error}")))?;
    let mut replayed = Ok(0);
    output(|out| {
        let (result, written) = replay(BufReader::new(file), out, options.differences);
        replayed = result;
        written
    })?;
    match replayed.map_err(failure)? {
        0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::from(1)),
    }
}

/// Replays a log and prints its lines, or only `differences`, as long as they can be written. How many of them are decided
/// otherwise today; or the number of the line that cannot be read or is none of a state log, and why.
pub fn replay(
    log: impl BufRead,
    mut out: impl Write,
    differences: bool,
) -> (Result<usize, String>, io::Result<()>) {
    let (mut replay, mut different, mut number) = (Replay::default(), 0, 0);
    for line in log.lines() {
        number += 1;
        let entry = line.map_err(|error| format!("{number}: {error}")).and_then(|line| {
            let wrong = |error| format!("{number}: no line of a state log: {error}");
            Ok((Entry::parse(&line).map_err(wrong)?, line))
        });
        let (entry, line) = match entry {
            Ok(entry) => entry,
            Err(error) => return (Err(harmless(&error)), Ok(())),
        };
        let today = replay.step(&entry);
        let seen = line.split_once(SEPARATOR).map_or_else(|| entry.words(), |(words, _)| harmless(words));
        let printed = match today {
            None if differences => Ok(()),
            None => writeln!(out, "{number}: {seen}"),
            Some(today) => {
                different += 1;
                let today = Entry { at: entry.at, step: Step::Actions(today) }.words();
                writeln!(out, "{number}: {seen}\n{number}: today: {today}")
            }
        };
        if printed.is_err() {
            return (Ok(different), printed);
        }
    }
    let last = match different {
        0 => Ok(()),
        _ => writeln!(out, "{different} of {number} lines are decided otherwise today"),
    };
    (Ok(different), last)
}

/// The words of a log, in a line. Whoever sends a log may have other things in it than words.
fn harmless(words: &str) -> String {
    words.replace(char::is_control, " ")
}
