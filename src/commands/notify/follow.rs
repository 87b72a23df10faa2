//! Following what is refused, on a thread of its own, also while the daemon is away.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use super::Event;
use crate::{
    commands::asking::failure,
    control::{
        client::{Client, Error},
        message::GetRefusals,
    },
};

/// The pauses before it is tried again to reach the daemon.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How much may be told twice, in microseconds, so that nothing is left out: the kernel's times are in milliseconds.
const OVERLAP: u64 = 2_000_000;

/// Tells of what is refused from a time on, in microseconds since 1970, for as long as somebody listens.
///
/// # Errors
/// There can be no thread.
pub(super) fn spawn(socket: PathBuf, since: u64, events: UnboundedSender<Event>) -> std::io::Result<()> {
    thread::Builder::new()
        .name("refusals".to_owned())
        .spawn(move || follow(&socket, since, &events))
        .map(drop)
}

fn follow(socket: &Path, mut since: u64, events: &UnboundedSender<Event>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut is_there = false;
        let ended = listen(socket, &mut since, &mut is_there, events);
        if is_there {
            pause = FIRST_PAUSE;
        }
        let Err(error) = ended else { return };
        let says_no = matches!(error, Error::Refused(..));
        let why = failure(error, socket).message;
        if events.send(Event::Away { says_no, why }).is_err() {
            return;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Until nobody listens, or until the connection ends.
fn listen(
    socket: &Path,
    since: &mut u64,
    is_there: &mut bool,
    events: &UnboundedSender<Event>,
) -> Result<(), Error> {
    let mut client = Client::connect(socket)?;
    client.watch(&GetRefusals { unit: None, since: Some(*since) })?;
    loop {
        let (reply, more) = client.reply::<GetRefusals>()?;
        *is_there = true;
        let last = reply.refusals.iter().map(|refusal| refusal.at).max().unwrap_or_default();
        *since = last.saturating_sub(OVERLAP).max(*since);
        if events.send(Event::Refused(reply.refusals)).is_err() {
            return Ok(());
        }
        if !more {
            return Err(Error::Ended);
        }
    }
}
