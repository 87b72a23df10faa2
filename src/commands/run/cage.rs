//! `--cage`: a command in a scope that the policy has a cage for. It runs only while the cage is in force, and what it was refused
//! is said when it has ended.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};

use super::{
    Failure, certain,
    child::{self, Signals},
    enter, find, units,
};
use crate::{
    cli::Run,
    commands::{block_on, note, now},
    control::{
        client::{Client, Error},
        message::{GetRefusals, GetStatus, Refusal, Status, Unit},
    },
    gather::Gather,
    machine,
    model::{CGROUP_ROOT, Manager, printable},
    report::denied,
    text::nearest::nearest,
    units::{
        selector::{Selectors, Users, Which},
        transient,
    },
};

/// How long the daemon may take for an answer that it has.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may be away before it is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// How long after killing processes it is looked whether there are others, and for how long at most before the end.
const KILL_PAUSE: Duration = Duration::from_millis(10);
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The most refusals that are printed.
const MOST: usize = 20;

/// Runs it.
pub(super) fn run(options: &Run) -> Result<ExitCode, Failure> {
    let program = find(&options.command)?;
    let name = transient::cage_name(options.cage.as_deref().unwrap_or_default()).map_err(Failure::new)?;
    let caller = Caller::new();
    caller.look_for(options, name)?;
    let cgroup = enter(&units(options, "scope")?, |cgroup| certain::of_cage(options, cgroup))?;
    let begun = now();
    let is_gone = caller.watch(options, name, &cgroup)?;
    let status = block_on(async {
        let signals = Signals::take()?;
        signals.wait_for(program.spawn()?).await
    })?;
    if is_gone.load(Relaxed) {
        // The command may be the first that was killed, and who looks after the cage ends with this process.
        kill_all(&Path::new(CGROUP_ROOT).join(&cgroup));
        return Err(Failure::new(format!(
            "the cage {} is no longer in force: its processes were killed",
            shown(name)
        )));
    }
    say_what_was_refused(options, name, &cgroup, begun);
    Ok(child::end_as(status))
}

/// Whose cages are meant.
struct Caller {
    manager: Manager,
    users: Users,
}

impl Caller {
    fn new() -> Self {
        let uid = Uid::effective();
        let name = machine::user_name(uid.as_raw());
        Self {
            manager: if uid.is_root() { Manager::System } else { Manager::User(uid.as_raw()) },
            users: name.map(|name| (name, uid.as_raw())).into_iter().gather(),
        }
    }

    /// There must be such a cage.
    fn look_for(&self, options: &Run, name: &str) -> Result<(), Failure> {
        let asked = Client::connect(&options.reach.socket).and_then(|mut client| {
            client.limit(Some(PATIENCE))?;
            client.call(&GetStatus { unit: Some("cage:".to_owned()) })
        });
        let status = match asked {
            Ok(reply) => reply.status,
            Err(Error::Refused(error, _)) if error == "NoSuchUnit" => Status::default(),
            Err(error) => {
                let doubt = certain::doubt(Err(error)).unwrap_or_default();
                return Err(Failure::new(format!("the command was not run: {doubt}")));
            }
        };
        let cages = self.cages(&status);
        if cages.contains(name) {
            return Ok(());
        }
        Err(Failure::new(match self.refused(&status).contains(name) {
            true => format!("nft refuses rules of the cage {}: `scnpm status` says which", shown(name)),
            false => unknown(name, &cages, self.manager),
        }))
    }

    /// The names of the cages that a status tells of, but for those of which nft refuses something.
    fn cages(&self, status: &Status) -> BTreeSet<String> {
        self.named(&status.units).difference(&self.refused(status)).cloned().gather()
    }

    fn refused(&self, status: &Status) -> BTreeSet<String> {
        self.named(status.units.iter().filter(|unit| unit.refused > 0))
    }

    fn named<'a>(&self, units: impl IntoIterator<Item = &'a Unit>) -> BTreeSet<String> {
        let units = units.into_iter();
        let selectors = units.filter_map(|unit| Selectors::parse(&unit.name).ok()).flat_map(|all| all.0);
        let own = selectors.filter(|one| one.whose.owns(self.manager, &self.users));
        own.filter_map(|one| if let Which::Cage(name) = one.which { Some(name) } else { None }).gather()
    }

    /// Looks after the cage on a thread of its own. If it is no longer in force, all processes in the cgroup but this one are
    /// killed, and this becomes true. While the daemon is away its rules stay as they are.
    fn watch(&self, options: &Run, name: &str, cgroup: &str) -> Result<Arc<AtomicBool>, Failure> {
        let whose = match self.manager {
            Manager::System => "system".to_owned(),
            Manager::User(uid) => uid.to_string(),
        };
        let ask = GetStatus { unit: Some(format!("{whose}:cage:{name}")) };
        let (socket, name, cgroup) = (options.reach.socket.clone(), name.to_owned(), cgroup.to_owned());
        let caller = Self { manager: self.manager, users: self.users.clone() };
        let is_gone = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_gone);
        let work = move || {
            while !caller.is_missing(&socket, &ask, &name) {
                thread::sleep(PAUSE);
            }
            told.store(true, Relaxed);
            let directory = Path::new(CGROUP_ROOT).join(cgroup);
            // Until this process ends: the command may be yet to start.
            loop {
                kill_others(&directory);
                thread::sleep(KILL_PAUSE);
            }
        };
        thread::Builder::new().name("cage".to_owned()).spawn(work).map_err(Failure::new)?;
        Ok(is_gone)
    }

    /// Hears how things stand until the daemon goes, or the cage.
    fn is_missing(&self, socket: &Path, ask: &GetStatus, name: &str) -> bool {
        let Ok(mut client) = Client::connect(socket) else { return false };
        if client.watch(ask).is_err() {
            return false;
        }
        loop {
            match client.reply::<GetStatus>() {
                Ok((reply, _)) if !self.cages(&reply.status).contains(name) => return true,
                Ok((_, true)) => {}
                Err(Error::Refused(error, _)) => return error == "NoSuchUnit",
                Ok((_, false)) | Err(_) => return false,
            }
        }
    }
}

fn unknown(name: &str, cages: &BTreeSet<String>, manager: Manager) -> String {
    let name_shown = shown(name);
    if cages.is_empty() {
        let whose = if manager == Manager::System { "system" } else { "user" };
        return format!(
            "the policy has no cage that you may use: in nftables.conf, annotations for `{whose}:cage:{}` make one; docs/cage.md \
             has an example",
            printable(name)
        );
    }
    let list: Vec<String> = cages.iter().map(|cage| printable(cage)).collect();
    let hint = nearest(name, cages.iter().map(String::as_str));
    let hint = hint.map_or(".".to_owned(), |hint| format!(", did you mean {}?", shown(hint)));
    format!("the policy has no cage {name_shown}{hint} There are: {}", list.join(", "))
}

/// Kills until there is nothing left to kill: what is killed may start others meanwhile. What the kernel does not let go of within the
/// limit, which runs no further, is not waited for.
fn kill_all(directory: &Path) {
    let end = Instant::now() + KILL_LIMIT;
    while kill_others(directory) && Instant::now() < end {
        thread::sleep(KILL_PAUSE);
    }
}

/// Kills all processes in a cgroup and below but this one, as far as the user may; whether there was one.
fn kill_others(directory: &Path) -> bool {
    let mut was_one = false;
    for process in processes(directory) {
        was_one |= kill(process, Signal::SIGKILL).is_ok();
    }
    was_one
}

fn processes(directory: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        open.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found.retain(|process| *process != Pid::this());
    found
}

/// Says what was refused since then, on stderr.
fn say_what_was_refused(options: &Run, name: &str, cgroup: &str, begun: u64) {
    let ask = GetRefusals { unit: Some(cgroup.to_owned()), since: Some(begun) };
    let asked = Client::connect(&options.reach.socket).and_then(|mut client| {
        client.limit(Some(PATIENCE))?;
        client.call(&ask)
    });
    let refusals: Vec<Refusal> = match asked {
        Ok(reply) => reply.refusals,
        Err(Error::Refused(error, _)) if error == "NotRecorded" => {
            return note(
                "what the cage refused is not recorded: `# scnpm: record refusals` in the policy has it kept",
            );
        }
        Err(error) => {
            let doubt = certain::doubt(Err(error)).unwrap_or_default();
            return note(format!("what the cage refused cannot be said: {doubt}"));
        }
    };
    if !refusals.is_empty() {
        note(format!(
            "the command was refused this in the cage {}, and the line below each would let it out:",
            shown(name)
        ));
        let last = &refusals[refusals.len().saturating_sub(MOST)..];
        let mut out = io::stderr().lock();
        let _ = denied::write_short(last, &mut out);
        if refusals.len() > MOST {
            let unit = cgroup.rsplit('/').next().unwrap_or_default();
            let _ = writeln!(out, "  and {} more: scnpm denied '{}'", refusals.len() - MOST, printable(unit));
        }
    }
}

fn shown(name: &str) -> String {
    format!("`{}`", printable(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cages_for_the_caller_that_are_in_force_count() {
        let unit = |name: &str, refused| Unit { name: name.to_owned(), refused, ..Unit::default() };
        let units = vec![
            unit("user:cage:all", 0),
            unit("alice:cage:hers", 0),
            unit("1000:cage:number,system:cage:both", 0),
            unit("bob:cage:his", 0),
            unit("user:cage:broken", 1),
            unit("user:app:cage:x", 0),
        ];
        let status = Status { units, ..Status::default() };
        let cages = |manager| {
            let users = Users::from([("alice".to_owned(), 1000)]);
            Caller { manager, users }.cages(&status).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(cages(Manager::User(1000)), ["all", "hers", "number"]);
        assert_eq!(cages(Manager::System), ["both"]);
    }

    #[test]
    fn unknown_cage_leads_to_those_that_there_are() {
        let cages = BTreeSet::from(["agent".to_owned(), "build".to_owned()]);
        assert_eq!(
            unknown("biuld", &cages, Manager::User(1)),
            "the policy has no cage `biuld`, did you mean `build`? There are: agent, build"
        );
        assert_eq!(
            unknown("xyz", &cages, Manager::System),
            "the policy has no cage `xyz`. There are: agent, build"
        );
        assert!(unknown("x", &BTreeSet::new(), Manager::System).contains("`system:cage:x`"));
        assert!(unknown("x", &BTreeSet::new(), Manager::User(1)).contains("`user:cage:x`"));
    }
}
