//! `scnpm generate`: a systemd generator that has units wait for their rules. Whatever goes wrong, nothing is written, it is
//! said, and the boot goes on.

mod drop_ins;

use std::{
    collections::BTreeSet,
    env,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use nix::unistd::Uid;

use crate::{
    cli::Generate,
    machine,
    model::{UnitName, printable},
    policy::{files::Disk, parse},
    units::waiting::{self, CannotWait},
};
use drop_ins::Manager;

/// A drop-in's name.
const NAME: &str = "50-scnpm-wait.conf";

/// Writes the drop-ins.
pub fn run(options: &Generate) -> ExitCode {
    // systemd.generator(7), "ENVIRONMENT".
    let is_users = env::var_os("SYSTEMD_SCOPE").is_some_and(|scope| scope == "user");
    let name = env::var("USER").ok();
    let manager = match is_users {
        true => Manager::User(Uid::current().as_raw(), name.as_deref()),
        false => Manager::System,
    };
    // systemd waits for generators: nobody may ever write into a pipe.
    if let Some(file) = options.file.iter().find(|file| file.exists() && !file.is_file()) {
        say(manager, &format!("{}: it is not a regular file: no unit waits for its rules", file.display()));
        return ExitCode::SUCCESS;
    }
    let policy = match parse::read(&Disk, &options.file) {
        Ok(policy) => policy,
        // There is no policy to be waited for.
        Err(unreadable) if unreadable.error.kind() == io::ErrorKind::NotFound => return ExitCode::SUCCESS,
        Err(unreadable) => {
            say(manager, &format!("{unreadable}: no unit waits for its rules"));
            return ExitCode::SUCCESS;
        }
    };
    for unit in without_early(drop_ins::wanted(&policy, manager), manager) {
        if let Err(error) = write(&options.normal, &unit, &drop_ins::text(&unit, manager)) {
            say(
                manager,
                &format!("{unit} does not wait for its rules: its drop-in cannot be written: {error}"),
            );
        }
    }
    ExitCode::SUCCESS
}

/// Without those that scnpm may have to wait for itself: the boot would stand still.
fn without_early(mut wanted: BTreeSet<UnitName>, manager: Manager<'_>) -> BTreeSet<UnitName> {
    if wanted.is_empty() || manager != Manager::System {
        return wanted;
    }
    // An instance starts when its template says.
    let concerns = |drop_in: &UnitName, unit: &UnitName| {
        waiting::concerns(drop_in, unit) || unit.0.contains("@.") && waiting::concerns(unit, drop_in)
    };
    let is_meant = |unit: &UnitName| wanted.iter().any(|drop_in| concerns(drop_in, unit));
    let early = machine::early_units(Path::new("/"), is_meant);
    wanted.retain(|drop_in| {
        let found = early.iter().find(|unit| concerns(drop_in, unit));
        if let Some(unit) = found {
            say(manager, &format!("{unit} does not wait for its rules: {}", CannotWait::Early));
        }
        found.is_none()
    });
    wanted
}

fn write(normal: &Path, unit: &UnitName, text: &str) -> io::Result<()> {
    let directory = normal.join(format!("{unit}.d"));
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(NAME), text)
}

/// Says what is wrong: in the kernel's log, since there may be no journal yet, or to stderr.
fn say(manager: Manager<'_>, words: &str) {
    let line = format!("<4>scnpm-generator: {}\n", printable(words));
    let kernel = OpenOptions::new().write(true).open("/dev/kmsg");
    let written = match kernel {
        Ok(mut log) if manager == Manager::System => log.write_all(line.as_bytes()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    if written.is_err() {
        let _ = io::stderr().write_all(line.trim_start_matches("<4>").as_bytes());
    }
}
