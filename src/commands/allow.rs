//! `scnpm allow`: lets packets through for a while, or says what to write to let them through for good.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use nix::unistd::{Uid, User};

use super::{
    Failure,
    asking::{NOT_ASKED, failure},
    note, output,
};
use crate::{
    cli::{self, Destination},
    control::{
        client::{Client, Error},
        message::{Allow, Disallow, GetStatus},
    },
    model::{ChainRef, Direction, printable},
    policy::{
        admission::{Peers, Wrong},
        files::Disk,
        parse,
    },
    report::status::ago,
    units::selector::{Selectors, Whose},
};

/// How long polkit may ask the user for a password, and the load take behind that.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs it.
///
/// # Errors
/// It is not permitted or not possible; the daemon cannot be asked.
pub fn run(options: &cli::Allow) -> Result<ExitCode, Failure> {
    if let Some(number) = options.undo {
        return undo(options, number);
    }
    let (Some(unit), Some(destination)) = (&options.unit, &options.destination) else {
        return Err(Failure {
            exit_code: 2,
            ..Failure::new("say which unit and where to: see `scnpm allow --help`")
        });
    };
    let selectors = selectors(unit)?;
    if options.forever {
        return forever(options, &selectors, destination);
    }
    let ask = Allow {
        unit: selectors.to_string(),
        address: destination.host.clone(),
        protocol: options.protocol.clone(),
        port: destination.port,
        direction: Some(direction(options)),
        for_ms: u64::try_from(options.time.as_millis()).unwrap_or(u64::MAX),
    };
    let allowance = client(options)?.call(&ask).map_err(|error| no(error, options))?.allowance;
    output(|out| {
        let left = ago(allowance.left_ms.div_ceil(1000) * 1_000_000);
        writeln!(
            out,
            "allowed for {left} (number {}): {}",
            allowance.number,
            printable(&allowance.annotation)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn undo(options: &cli::Allow, number: Option<u64>) -> Result<ExitCode, Failure> {
    let ended = client(options)?.call(&Disallow { number }).map_err(|error| no(error, options))?.ended;
    match ended {
        0 => note("nothing is allowed for a while"),
        1 => note("ended 1"),
        more => note(format!("ended {more}")),
    }
    Ok(ExitCode::SUCCESS)
}

fn client(options: &cli::Allow) -> Result<Client, Failure> {
    let mut client = Client::connect(&options.reach.socket).map_err(|error| no(error, options))?;
    client.limit(Some(PATIENCE)).map_err(|error| no(error, options))?;
    Ok(client)
}

/// What keeps it from being done.
fn no(error: Error, options: &cli::Allow) -> Failure {
    let exit_code = match &error {
        Error::Refused(name, _) if name != "NotRecorded" => 1,
        _ => NOT_ASKED,
    };
    let invalid = match &error {
        Error::Failed(name) if name.ends_with("InvalidParameter") => {
            Some("it is not a unit, address, protocol or port")
        }
        _ => None,
    };
    let failure = failure(error, &options.reach.socket);
    match invalid {
        Some(words) => Failure { message: words.to_owned(), exit_code: 2 },
        None => Failure { exit_code, ..failure },
    }
}

fn direction(options: &cli::Allow) -> Direction {
    if options.inward { Direction::In } else { Direction::Out }
}

/// The units, with numbers in place of the names of users: the daemon need not look them up.
fn selectors(text: &str) -> Result<Selectors, Failure> {
    let wrong = |message: String| Failure { message, exit_code: 2 };
    let mut selectors = super::selectors(text)?;
    for selector in &mut selectors.0 {
        if let Whose::User(name) = &selector.whose {
            selector.whose = match User::from_name(name) {
                Ok(Some(user)) => Whose::Uid(user.uid.as_raw()),
                _ => return Err(wrong(format!("there is no user `{}`", printable(name)))),
            };
        }
        if selector.whose == Whose::Anybody && !Uid::effective().is_root() {
            selector.whose = Whose::Uid(Uid::effective().as_raw());
        }
    }
    Ok(selectors)
}

/// Prints what to write, and where.
fn forever(options: &cli::Allow, selectors: &Selectors, to: &Destination) -> Result<ExitCode, Failure> {
    let status = client(options)?.call(&GetStatus { unit: None }).map_err(|error| no(error, options))?.status;
    let files: Vec<PathBuf> = status.files.iter().map(|file| PathBuf::from(&file.path)).collect();
    let policy = parse::read(&Disk, &files).map_err(Failure::new)?;
    let chains: Vec<ChainRef> = policy.records().map(|(_, chain)| chain.clone()).collect();
    let Some((first, _)) = policy.records().next() else {
        let message = "the files do not say where refusals are recorded, so there is no chain to allow anything in: see \
                       scnpm-denied(8)";
        return Err(Failure { message: message.to_owned(), exit_code: NOT_ASKED });
    };
    let peers = Peers {
        direction: direction(options),
        address: &to.host,
        protocol: options.protocol.as_deref(),
        port: to.port,
    };
    let mut named = selectors.clone();
    for selector in &mut named.0 {
        if selector.whose == Whose::Anybody {
            selector.whose = Whose::System;
        }
    }
    let admissions = peers.admissions(&named, &chains).map_err(|wrong| Failure {
        exit_code: 2,
        ..Failure::new(match wrong {
            Wrong::Address => "it is not an address, prefix or host name",
            Wrong::Protocol => "it is not a protocol that can be named here",
            Wrong::Port => "it is not a port, or the protocol has none",
            Wrong::Chains => "no chain that records refusals is for such addresses",
        })
    })?;
    output(|out| admissions.iter().try_for_each(|one| writeln!(out, "# {one}")))?;
    let file = printable(&policy.sources.location(policy.annotation(first).unit_span).file);
    note(format!("write it into {file}, in a line of its own, then run `scnpm reload`"));
    Ok(ExitCode::SUCCESS)
}
