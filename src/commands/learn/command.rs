//! `-- COMMAND`: runs a command in the unit that is learnt of, by `scnpm run`.

use std::{
    env,
    ffi::OsString,
    io,
    os::{
        fd::AsFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User},
};
use tokio::sync::oneshot;

use super::Failure;
use crate::units::selector::{Selector, Selectors, Which, Whose};

/// What runs `words` in the unit that the selectors are for, which are made to say whose it is.
pub(super) fn prepare(
    selectors: &mut Selectors,
    words: &[OsString],
    socket: &Path,
) -> Result<Command, Failure> {
    let [selector] = &mut selectors.0[..] else {
        return Err(wrong("a command can be run in one unit only: name one"));
    };
    let user = owner(selector)?;
    let program = env::current_exe().map_err(Failure::new)?;
    let mut command = match &user {
        None => Command::new(program),
        Some(user) => {
            let mut command = Command::new("runuser");
            command.args(["-u", &user.name, "--"]).arg(program);
            command.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name);
            command.env("XDG_RUNTIME_DIR", format!("/run/user/{}", user.uid));
            command
        }
    };
    command.arg("run").arg("--socket").arg(socket);
    match &selector.which {
        Which::App(id) => command.args(["--app", id]),
        Which::Cage(id) => command.args(["--cage", id]),
        Which::Unit(unit) if unit.0.ends_with(".scope") => command.args(["--unit", &unit.0]),
        Which::Unit(unit) if unit.0.ends_with(".service") => command.args(["--service", "--unit", &unit.0]),
        Which::Unit(_) | Which::Glob(_) => {
            return Err(wrong(
                "a command runs in a scope, a service or an application: name one such as app:mail or mail.scope",
            ));
        }
    };
    // Without a daemon there is nothing to wait for.
    if UnixStream::connect(socket).is_err() {
        command.arg("--no-wait");
    }
    command.arg("--").args(words);
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(Failure::new)?;
    command.stdout(Stdio::from(stderr));
    Ok(command)
}

/// The user whose manager runs it; none for the system's. An application is that of whom sudo(8) was called by.
fn owner(selector: &mut Selector) -> Result<Option<User>, Failure> {
    let caller = env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()).filter(|uid| *uid != 0);
    if selector.whose == Whose::Anybody {
        selector.whose = match (&selector.which, caller) {
            (Which::App(_), Some(uid)) => Whose::Uid(uid),
            _ => Whose::System,
        };
    }
    let user = match &selector.whose {
        Whose::System | Whose::Anybody => return Ok(None),
        Whose::AnyUser => return Err(wrong("say which user is to run the command, such as alice:app:mail")),
        Whose::Uid(uid) => User::from_uid(Uid::from_raw(*uid)),
        Whose::User(name) => User::from_name(name),
    };
    user.ok().flatten().map(Some).ok_or_else(|| wrong("there is no such user"))
}

fn wrong(message: &str) -> Failure {
    Failure { exit_code: super::FAILED, ..Failure::new(message) }
}

/// The exit status as a shell has it.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let signal = || status.signal().map_or(i32::from(super::FAILED), |number| 128 + number);
    u8::try_from(status.code().unwrap_or_else(signal)).unwrap_or(super::FAILED)
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    end: Option<oneshot::Receiver<io::Result<ExitStatus>>>,
    status: Option<io::Result<ExitStatus>>,
}

impl Child {
    pub(super) fn start(mut command: Command) -> Result<Self, Failure> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child =
            command.spawn().map_err(|error| Failure::new(format!("{name} cannot be run: {error}")))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(Failure::new)?);
        let (said, end) = oneshot::channel();
        thread::Builder::new().spawn(move || drop(said.send(child.wait()))).map_err(Failure::new)?;
        Ok(Self { pid, end: Some(end), status: None })
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) {
        if let Some(end) = &mut self.end {
            let status = end.await;
            self.status = Some(status.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())));
            self.end = None;
        }
    }

    /// Passes a signal on that it has not had from the terminal.
    pub(super) fn pass(&self, number: i32) {
        if number != libc::SIGINT
            && self.end.is_some()
            && let Ok(signal) = Signal::try_from(number)
        {
            let _ = kill(self.pid, signal);
        }
    }

    /// Waits for its end; how it ended.
    pub(super) fn wait(&mut self) -> Result<ExitStatus, Failure> {
        if let Some(end) = self.end.take() {
            self.status = Some(end.blocking_recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())));
        }
        let status = self.status.take().unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()));
        status.map_err(|error| Failure::new(format!("how the command ended is not known: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The command line of what runs `true` in a unit, behind the program, and whose annotations are for.
    fn prepared(unit: &str) -> Result<(Vec<String>, String), u8> {
        let mut selectors = Selectors::parse(unit).unwrap();
        let words = ["true".into(), "--app".into()];
        let command = prepare(&mut selectors, &words, Path::new("/nonexistent/control"));
        let command = command.map_err(|failure| failure.exit_code)?;
        let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
        let words = words.skip_while(|word| word != "run").collect();
        Ok((words, selectors.to_string()))
    }

    #[test]
    fn command_runs_in_the_unit_that_is_learnt_of() {
        let run = |more: &[&str]| {
            let words = ["run", "--socket", "/nonexistent/control"].iter().chain(more);
            words
                .chain(&["--no-wait", "--", "true", "--app"])
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let system = |unit: &str| format!("system:{unit}");
        assert_eq!(prepared("a.scope"), Ok((run(&["--unit", "a.scope"]), system("a.scope"))));
        assert_eq!(
            prepared("system:a.service"),
            Ok((run(&["--service", "--unit", "a.service"]), system("a.service")))
        );
        assert_eq!(prepared("root:app:x"), Ok((run(&["--app", "x"]), "root:app:x".to_owned())));
        for wrong in ["a.scope,b.scope", "a.slice", "a-*.scope", "user:app:x", "no-such-user-here:app:x"] {
            assert_eq!(prepared(wrong), Err(super::super::FAILED), "{wrong}");
        }
    }

    #[test]
    fn exit_status_is_that_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(libc::SIGTERM)), 143);
    }
}
