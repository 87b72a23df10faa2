//! `scnpm status`: is it in force?

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use super::{
    Failure,
    asking::{NOT_ASKED, PATIENCE, failure, status_with_refusals},
    now, output, output_to,
};
use crate::{
    cli::{self, StatusFormat},
    control::{
        client::{Client, Error},
        message::{GetStatus, Status},
    },
    report::{
        openmetrics::{self, Dialect},
        status,
    },
};

/// Runs it: exit code 0 if all is in force, else 1. With metrics 0 either way: they say what is not.
///
/// # Errors
/// The daemon cannot be asked, or nothing matches.
pub fn run(options: &cli::Status) -> Result<ExitCode, Failure> {
    if options.watch {
        return watch(options).map_err(|error| no(error, options))?;
    }
    let dialect = match options.format {
        StatusFormat::Text | StatusFormat::Json => None,
        StatusFormat::Openmetrics => Some(Dialect::OpenMetrics),
        StatusFormat::Prometheus => Some(Dialect::Prometheus),
    };
    match (ask(options), dialect) {
        (Ok(status), None) => {
            print(options, |out| show(&status, options, out))?;
            Ok(exit_code(&status))
        }
        (Ok(status), Some(dialect)) => {
            print(options, |out| openmetrics::write(Some(&status), dialect, out))?;
            Ok(ExitCode::SUCCESS)
        }
        (Err(error), dialect) => {
            let failure = no(error, options);
            if let Some(dialect) = dialect.filter(|_| failure.exit_code == NOT_ASKED) {
                print(options, |out| openmetrics::write(None, dialect, out))?;
            }
            Err(failure)
        }
    }
}

fn ask(options: &cli::Status) -> Result<Status, Error> {
    let mut client = Client::connect(&options.reach.socket)?;
    client.limit(Some(PATIENCE))?;
    let ask = GetStatus { unit: options.unit.clone() };
    match options.format {
        StatusFormat::Text | StatusFormat::Json => Ok(client.call(&ask)?.status),
        StatusFormat::Openmetrics | StatusFormat::Prometheus => status_with_refusals(&mut client, &ask),
    }
}

fn watch(options: &cli::Status) -> Result<Result<ExitCode, Failure>, Error> {
    let mut client = Client::connect(&options.reach.socket)?;
    client.limit(Some(PATIENCE))?;
    client.watch(&GetStatus { unit: options.unit.clone() })?;
    loop {
        let (reply, more) = client.reply::<GetStatus>()?;
        // What follows may take any time.
        client.limit(None)?;
        let is_screen = io::stdout().is_terminal() && options.format == StatusFormat::Text;
        let printed = output(|out| {
            if is_screen {
                // To the top of an empty screen (console_codes(4)).
                write!(out, "\x1b[H\x1b[2J")?;
            }
            show(&reply.status, options, out)
        });
        if let Err(failure) = printed {
            return Ok(Err(failure));
        }
        if !more {
            return Ok(Ok(exit_code(&reply.status)));
        }
    }
}

fn no(error: Error, options: &cli::Status) -> Failure {
    let is_no_unit = matches!(&error, Error::Refused(name, _) if name == "NoSuchUnit");
    let failure = failure(error, &options.reach.socket);
    if is_no_unit { Failure { exit_code: 1, ..failure } } else { failure }
}

fn exit_code(status: &Status) -> ExitCode {
    if status.in_force { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(status: &Status, options: &cli::Status, out: &mut dyn Write) -> io::Result<()> {
    if options.format == StatusFormat::Json {
        // The version changes when a program that reads the object would have to.
        let object = serde_json::to_value(status)?;
        let mut object = object.as_object().cloned().unwrap_or_default();
        let daemon = object.insert("version".to_owned(), 1.into()).unwrap_or_default();
        object.insert("daemon".to_owned(), daemon);
        match options.watch {
            true => serde_json::to_writer(&mut *out, &object)?,
            false => serde_json::to_writer_pretty(&mut *out, &object)?,
        }
        return writeln!(out);
    }
    status::write(status, now(), options.unit.is_some(), out)
}

/// Prints it, or writes the file that was asked for.
fn print(options: &cli::Status, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    match &options.output {
        Some(file) if file.as_os_str() != "-" => replace(file, write),
        _ => output(write),
    }
}

/// Writes a file: whole, or not at all. Who reads it meanwhile has what was there before.
fn replace(file: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    // What a link leads to is replaced, not the link.
    let place = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    if fs::metadata(&place).is_ok_and(|found| !found.is_file()) {
        return Err(Failure::new(format!("{} is not a regular file: name one for --output", file.display())));
    }
    let new = place.with_extension(format!("new.{}", std::process::id()));
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "there is no such directory",
            io::ErrorKind::PermissionDenied => {
                "you may not write there: run it as root, or name another file"
            }
            _ => return Failure::new(format!("{} cannot be written: {error}", file.display())),
        };
        Failure::new(format!("{} cannot be written: {hint}", file.display()))
    };
    // One that was left by a process of the same number.
    let _ = fs::remove_file(&new);
    let stream = File::create_new(&new).map_err(failed)?;
    let done = output_to(stream, write).and_then(|()| fs::rename(&new, &place).map_err(failed));
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_replaced_whole_or_not_at_all() {
        let directory = std::env::temp_dir().join(format!("scnpm-status-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let file = directory.join("a.prom");
        replace(&file, |out| writeln!(out, "first")).unwrap();
        replace(&file, |out| writeln!(out, "second")).unwrap();
        replace(&file, |out| {
            writeln!(out, "third")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(fs::read_to_string(&file).unwrap(), "second\n");
        let names: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a.prom"], "what is left");
        for (name, word) in [(".", "not a regular file"), ("none/a.prom", "no such directory")] {
            let failure = replace(&directory.join(name), |_| Ok(())).unwrap_err();
            assert!(failure.message.contains(word), "{failure:?}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
