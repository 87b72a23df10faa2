//! What to say when the daemon cannot be asked, or says no.

use std::{fs, path::Path, time::Duration};

use super::{
    Failure,
    whose::{Whose, user_names},
};
use crate::{
    control::{
        client::{Client, Error},
        message::{GetRefusals, GetStatus, Status},
    },
    gather::Gather,
    machine,
    model::printable,
};

/// The exit code where the daemon does not run or cannot be asked.
pub(super) const NOT_ASKED: u8 = 3;

/// How long the daemon may take for an answer that it has.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How things stand, with the packets of each unit that are recorded as refused, if any chain records.
pub(super) fn status_with_refusals(client: &mut Client, ask: &GetStatus) -> Result<Status, Error> {
    let mut status = client.call(ask)?.status;
    let refusals = match client.call(&GetRefusals::default()) {
        Ok(reply) => reply.refusals,
        Err(Error::Refused(..)) => return Ok(status),
        Err(error) => return Err(error),
    };
    let names = user_names(&status.units);
    let users = machine::users(&names.iter().map(String::as_str).gather());
    let whose = Whose::of(&status.units, users);
    for (number, unit) in status.units.iter_mut().enumerate() {
        unit.refused_packets = whose.is_selector(number).then_some(0);
    }
    for refusal in &refusals {
        for number in whose.of_refusal(refusal) {
            *status.units[number].refused_packets.get_or_insert(0) += refusal.packets;
        }
    }
    Ok(status)
}

/// As a failure: what is wrong, and what to do.
pub(super) fn failure(error: Error, socket: &Path) -> Failure {
    let socket = socket.display();
    let message = match error {
        Error::NotRunning => match other_daemon() {
            Some(process) => format!(
                "process {process} is a daemon, but does not answer at {socket}: it is an older one, or was started with \
                 another --control; restart it with `systemctl restart scnpm`, or say --socket"
            ),
            None => format!(
                "the daemon does not run (nobody answers at {socket}): start it with `systemctl start scnpm`"
            ),
        },
        Error::NotPermitted => format!("{socket} may not be opened by this user: run it as root"),
        Error::Late => "the daemon does not answer in time: see `systemctl status scnpm`".to_owned(),
        Error::Ended => "the daemon ended while it was asked: see `journalctl -u scnpm`".to_owned(),
        Error::Older => {
            "the daemon that runs is of another version and does not know this: restart it with `systemctl restart scnpm`"
                .to_owned()
        }
        Error::Refused(name, words) => match name.as_str() {
            "NoSuchUnit" => format!(
                "no annotation applies to `{}`: `scnpm status` lists the units, `scnpm units` what runs",
                printable(&words)
            ),
            _ => words,
        },
        Error::Failed(words) => words,
    };
    Failure { message, exit_code: NOT_ASKED }
}

/// A process that seems to be a daemon of ours.
fn other_daemon() -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    processes
        .into_iter()
        .find(|process| is_daemon(process))
        .and_then(|path| path.file_name()?.to_str()?.parse().ok())
}

/// Whether a directory of /proc is that of a process that was started as `scnpm` without a subcommand.
fn is_daemon(process: &Path) -> bool {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let is_scnpm = words.next().is_some_and(|name| name == "scnpm" || name.ends_with("/scnpm"));
    is_scnpm && words.next().is_some_and(|first| first.starts_with('-') || first.contains(['/', '.']))
}
