//! `scnpm status`: is it in force?

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Failure,
    asking::{PATIENCE, failure},
    output,
};
use crate::{
    cli,
    control::{
        client::{Client, Error},
        message::{GetStatus, Status},
    },
    report::status,
};

/// Runs it: exit code 0 if all is in force, else 1.
///
/// # Errors
/// The daemon cannot be asked, or nothing matches.
pub fn run(options: &cli::Status) -> Result<ExitCode, Failure> {
    let socket = &options.reach.socket;
    let no = |error| {
        let is_no_unit = matches!(&error, Error::Refused(name, _) if name == "NoSuchUnit");
        let failure = failure(error, socket);
        if is_no_unit { Failure { exit_code: 1, ..failure } } else { failure }
    };
    let ask = GetStatus { unit: options.unit.clone() };
    let mut client = Client::connect(socket).map_err(no)?;
    client.limit(Some(PATIENCE)).map_err(no)?;
    if !options.watch {
        let status = client.call(&ask).map_err(no)?.status;
        show(&status, options)?;
        return Ok(exit_code(&status));
    }
    client.watch(&ask).map_err(no)?;
    loop {
        let (reply, more) = client.reply::<GetStatus>().map_err(no)?;
        // What follows may take any time.
        client.limit(None).map_err(no)?;
        if io::stdout().is_terminal() && !options.json {
            // To the top of an empty screen (console_codes(4)).
            output(|out| write!(out, "\x1b[H\x1b[2J"))?;
        }
        show(&reply.status, options)?;
        if !more {
            return Ok(exit_code(&reply.status));
        }
    }
}

fn exit_code(status: &Status) -> ExitCode {
    if status.in_force { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(status: &Status, options: &cli::Status) -> Result<(), Failure> {
    output(|out| {
        if options.json {
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        status::write(status, u64::try_from(now).unwrap_or(u64::MAX), options.unit.is_some(), out)
    })
}
