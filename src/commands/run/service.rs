//! `--service`: the manager runs the command, this process passes signals on and ends as it ends.

use std::{
    env,
    ffi::OsString,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    process::ExitCode,
    time::Duration,
};

use nix::unistd::Uid;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};
use zbus::Fd;

use super::{
    FAILED, Failure,
    answer::{Ended, Heard},
    manager::{Manager, Property, Value},
    sigpipe,
};
use crate::{cli::Run, units::escape::escape};

use crate::model::printable;

/// What the manager tells each service by itself (systemd.exec(5)).
const OF_THE_MANAGER: [&str; 14] = [
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MAINPID",
    "MANAGERPID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "NOTIFY_SOCKET",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// What root's services are told. Everybody can read the environment of the system's units.
const OF_ROOT: [&str; 9] =
    ["COLORTERM", "HOME", "LANG", "LANGUAGE", "LOGNAME", "NO_COLOR", "PATH", "TERM", "USER"];

/// Exit statuses by which the manager says that it could not even execute a program (systemd.exec(5)).
const OF_EXECUTION: std::ops::RangeInclusive<u8> = 200..=245;

/// How long after a failed start the manager may take to say how its process has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is special of the service. Its own process is this program once more, which becomes the command.
pub(super) fn properties(options: &Run) -> Result<Vec<Property<'static>>, Failure> {
    let program = utf8(env::current_exe().map_err(|error| failed(&error))?.into())?;
    let directory = utf8(env::current_dir().map_err(|error| failed(&error))?.into())?;
    let socket = utf8(options.reach.socket.clone().into())?;
    let command = (program.clone(), words(options, program, socket), false);
    let mut properties = vec![
        ("Type", Value::from("exec")),
        ("ExecStart", Value::from(vec![command])),
        ("IgnoreSIGPIPE", Value::from(sigpipe::was_ignored())),
        ("WorkingDirectory", Value::from(directory)),
        ("Environment", Value::from(environment(env::vars_os(), Uid::effective().is_root()))),
    ];
    let streams = [
        ("StandardInputFileDescriptor", std::io::stdin().as_fd().try_clone_to_owned()),
        ("StandardOutputFileDescriptor", std::io::stdout().as_fd().try_clone_to_owned()),
        ("StandardErrorFileDescriptor", std::io::stderr().as_fd().try_clone_to_owned()),
    ];
    for (name, stream) in streams {
        properties.push((name, Value::Fd(Fd::Owned(stream.map_err(|error| failed(&error))?))));
    }
    Ok(properties)
}

fn failed(error: &std::io::Error) -> Failure {
    Failure::new(format!("the service cannot be described: {error}"))
}

fn utf8(text: OsString) -> Result<String, Failure> {
    text.into_string().map_err(|text| {
        let shown = printable(&text.to_string_lossy());
        Failure::new(format!("systemd takes no path that is not UTF-8: {shown}"))
    })
}

/// The command line of the service. systemd takes UTF-8 only and puts variables in for `$`, so the command is escaped.
fn words(options: &Run, program: String, socket: String) -> Vec<String> {
    let mut words = vec![program, "run".to_owned(), "--inside".to_owned(), "--socket".to_owned(), socket];
    words.extend(options.wait.then(|| "--wait".to_owned()));
    words.extend(options.no_wait.then(|| "--no-wait".to_owned()));
    words.push("--".to_owned());
    words.extend(options.command.iter().map(|word| escape(word.as_bytes())));
    words
}

/// The caller's variables, as far as systemd takes them.
fn environment(all: impl Iterator<Item = (OsString, OsString)>, is_root: bool) -> Vec<String> {
    let strings = all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let is_name = |name: &str| {
        !name.starts_with(|first: char| first.is_ascii_digit())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let is_told = |name: &str| match is_root {
        true => OF_ROOT.contains(&name) || name.starts_with("LC_"),
        false => !OF_THE_MANAGER.contains(&name),
    };
    let told = strings.filter(|(name, _)| !name.is_empty() && is_name(name) && is_told(name));
    told.map(|(name, value)| format!("{name}={value}")).collect()
}

/// How things stand with a service.
#[derive(Debug, Default)]
struct Course {
    job: Option<String>,
    state: Option<String>,
    main: Option<Ended>,
}

impl Course {
    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Job(result) => self.job = self.job.take().or(Some(result)),
            Heard::State(state) => self.state = Some(state),
            Heard::Main(ended) => self.main = Some(ended),
            Heard::Accepted(_) | Heard::Refused(..) => {}
        }
    }

    fn is_over(&self) -> bool {
        self.job.is_some()
            && self.state.as_deref().is_some_and(|state| matches!(state, "inactive" | "failed"))
    }

    /// The exit status: the command's, or that of scnpm if it was never run.
    fn exit_code(&self) -> u8 {
        self.main.and_then(Ended::exit_code).unwrap_or(FAILED)
    }
}

/// Waits until the service has ended; its exit status. Signals that are to end this process go to all of its.
pub(super) async fn follow(mut manager: Manager, unit: &str, job: Vec<Heard>) -> Result<ExitCode, Failure> {
    let mut course = Course::default();
    job.into_iter().for_each(|heard| course.take(heard));
    if course.job.as_deref() != Some("done") {
        return ended_at_once(manager, unit, course).await;
    }
    let on = |kind| signal(kind).map_err(Failure::new);
    let (mut hangup, mut interrupt) = (on(SignalKind::hangup())?, on(SignalKind::interrupt())?);
    let (mut quit, mut terminate) = (on(SignalKind::quit())?, on(SignalKind::terminate())?);
    while !course.is_over() {
        let number = tokio::select! {
            heard = manager.next(None, unit) => {
                heard?.into_iter().for_each(|heard| course.take(heard));
                continue;
            }
            number = next(&mut hangup, libc::SIGHUP) => number,
            number = next(&mut interrupt, libc::SIGINT) => number,
            number = next(&mut quit, libc::SIGQUIT) => number,
            number = next(&mut terminate, libc::SIGTERM) => number,
        };
        manager.kill(unit, number).await?;
    }
    Ok(ExitCode::from(course.exit_code()))
}

/// A process that has ended before the manager has seen that it was executed makes the start fail, which it did not.
async fn ended_at_once(mut manager: Manager, unit: &str, mut course: Course) -> Result<ExitCode, Failure> {
    let over = async {
        while course.main.and_then(Ended::exit_code).is_none() {
            manager.next(None, unit).await?.into_iter().for_each(|heard| course.take(heard));
        }
        Ok::<_, Failure>(())
    };
    // Without an answer the process was never there.
    timeout(PATIENCE, over).await.unwrap_or(Ok(()))?;
    match course.main.and_then(Ended::exit_code) {
        Some(status) if !OF_EXECUTION.contains(&status) => Ok(ExitCode::from(status)),
        _ => Err(not_started(unit)),
    }
}

async fn next(signal: &mut Signal, number: i32) -> i32 {
    signal.recv().await;
    number
}

fn not_started(unit: &str) -> Failure {
    let user = if Uid::effective().is_root() { "" } else { "--user " };
    Failure::new(format!("systemd could not start {unit}: `journalctl {user}-u {unit}` says why"))
}
