//! `scnpm serve-metrics`: what systemd-report(1) asks, a process for each connection.

use std::{
    io::{self, ErrorKind, Read, Write, stdin},
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};

use super::{Failure, asking::PATIENCE};
use crate::{
    cli::Reach,
    control::{
        client::{Client, Error},
        message::{GetStatus, Status},
        wire::{Inbox, NoCall},
    },
    report::systemd,
};

/// Serves the connection that is the standard input, as systemd's `StandardInput=socket` makes it.
///
/// # Errors
/// It is no such connection, or this process may not become the user at its other end.
pub fn run(reach: &Reach) -> Result<ExitCode, Failure> {
    let stream = UnixStream::from(stdin().as_fd().try_clone_to_owned().map_err(Failure::new)?);
    become_peer(&stream)?;
    match serve(stream, || ask(reach).ok()) {
        // Who asks may go at any time.
        Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            Err(Failure::new(error))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Becomes the user at the other end, so that the daemon tells what that user may know.
fn become_peer(stream: &UnixStream) -> Result<(), Failure> {
    let peer = getsockopt(stream, PeerCredentials).map_err(|_| {
        Failure::new(
            "the standard input is no connection: `systemctl enable --now scnpm-report.socket` has it served",
        )
    })?;
    let (user, group) = (Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid()));
    if user == Uid::effective() {
        return Ok(());
    }
    let changed = setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user));
    changed.map_err(|error| Failure::new(format!("cannot become user {user}: {}", error.desc())))
}

fn ask(reach: &Reach) -> Result<Status, Error> {
    let mut client = Client::connect(&reach.socket)?;
    client.limit(Some(PATIENCE))?;
    Ok(client.call(&GetStatus::default())?.status)
}

/// Answers calls until there are no more, or something is none.
fn serve(mut stream: UnixStream, status: impl Fn() -> Option<Status>) -> io::Result<()> {
    let mut inbox = Inbox::default();
    let mut buffer = [0; 4096];
    loop {
        match inbox.call() {
            Ok(Some(call)) => {
                let answers = systemd::answers(&call, &status);
                let owed = answers.iter().filter(|_| !call.oneway);
                owed.into_iter().try_for_each(|answer| stream.write_all(answer))?;
            }
            Ok(None) => match stream.read(&mut buffer)? {
                0 => return Ok(()),
                count => inbox.push(&buffer[..count]),
            },
            Err(NoCall) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_answered_in_turn_until_there_are_no_more() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let info = b"{\"method\": \"org.varlink.service.GetInfo\"}\0";
        let list = b"{\"method\": \"io.systemd.Metrics.List\", \"more\": true}\0";
        let silent = b"{\"method\": \"io.systemd.Metrics.List\", \"more\": true, \"oneway\": true}\0";
        client.write_all(&[&info[..], silent, list, b"none\0", list].concat()).unwrap();
        serve(server, || None).unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).unwrap();
        let answers: Vec<&str> = all.split_terminator('\0').collect();
        assert!(answers[0].contains("io.systemd.Metrics"), "{answers:?}");
        assert_eq!(answers[1..], [r#"{"parameters":{"name":"io.scnpm.Up","value":0}}"#]);
    }
}
