//! `scnpm explain`: why packets of a process, a unit or a socket pass or not.

mod known;
mod packet;
mod probe;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
};

use litemap::LiteMap;
use nix::unistd::geteuid;

use self::{
    known::{Known, or_as_root},
    packet::Question,
};
use super::{Failure, output, units};
use crate::{
    cgroupfs,
    cli::Explain,
    explain::{
        Answer, Block, Cgroup, Judge, Outcome, Process, ShownProcess, ShownSocket, Socket, containers,
        facts::Place,
        ruleset::Ruleset,
        subject::{Protocol, Subject, destination},
    },
    gather::{Gather, sort_by_key},
    log::colour_on,
    machine::{self, processes},
    model::{CGROUP_ROOT, CgroupId, CgroupPath, Instance, Location, SetRef},
    nft::{Kernel, Nftables, probe as lack, sock_diag},
    report::{explain as shown, units::Row},
    units::shared,
};

/// How many units are explained at most.
const MOST_SUBJECTS: usize = 8;
/// How many processes and sockets of each are shown at most.
const MOST_SHOWN: usize = 12;
/// The exit status if it cannot be told what becomes of a packet.
const UNKNOWN: u8 = 3;

/// Runs it.
///
/// # Errors
/// What is not there, cannot be read, or is wrong with the command line.
pub fn run(options: &Explain) -> Result<ExitCode, Failure> {
    let usage = |message: String| Failure { message, exit_code: 2 };
    let subject = Subject::parse(&options.subject).map_err(usage)?;
    let to = options.to.as_deref().map(destination).transpose().map_err(usage)?;
    let protocol = Protocol::parse(&options.proto).map_err(usage)?;
    lack::require_cgroup2(Path::new(CGROUP_ROOT)).map_err(Failure::new)?;

    let machine = Machine::read()?;
    let mut notes = Vec::new();
    let known = Known::read(options, &machine.instances, &mut notes)?;
    let (taken_for, found) = machine.find(&subject, &known, &mut notes)?;
    let mut kernel = kernel(&mut notes);
    let mut ruleset = kernel.as_mut().and_then(|kernel| match kernel.ruleset() {
        Ok(ruleset) => Some(ruleset),
        Err(words) => {
            notes.push(format!("the ruleset cannot be read: {words}"));
            None
        }
    });
    let subjects: Vec<Block> =
        found.iter().map(|one| machine.block(one, &known, ruleset.as_ref(), kernel.as_mut())).collect();
    let asks = to.is_some();
    let packet = match (to, kernel.as_mut(), ruleset.as_mut()) {
        (Some((host, port)), Some(kernel), Some(ruleset)) => {
            let question = Question { host, port, protocol, sends: !options.no_probe };
            Some(machine.packet(&found, &known, ruleset, kernel, question)?)
        }
        (Some(_), ..) => {
            notes
                .push(format!("what becomes of a packet cannot be told without the ruleset{}", or_as_root()));
            None
        }
        (None, ..) => None,
    };
    let outcome = packet.as_ref().map(|packet| packet.path.outcome);
    let files = known.policy.sources.files.iter().map(|file| file.path.clone()).collect();
    let answer = Answer { version: 1, taken_for, files, subjects, packet, notes };
    let colour = colour_on(&std::io::stdout());
    output(
        |out| if options.json { shown::write_json(&answer, out) } else { shown::write(&answer, colour, out) },
    )?;
    Ok(match outcome {
        Some(Outcome::Refused) => ExitCode::FAILURE,
        Some(Outcome::Unknown) => ExitCode::from(UNKNOWN),
        None if asks => ExitCode::from(UNKNOWN),
        Some(Outcome::Passes) | None => ExitCode::SUCCESS,
    })
}

/// The kernel's nftables, if they may be read.
fn kernel(notes: &mut Vec<String>) -> Option<Nftables> {
    let lacking = lack::require_net_admin();
    if lacking.is_err() && !geteuid().is_root() {
        notes.push("what is in the kernel is not shown: run it as root".to_owned());
        return None;
    }
    match lacking.and_then(|()| Nftables::open()) {
        Ok(kernel) => Some(kernel),
        Err(words) => {
            notes.push(format!("what is in the kernel is not shown: {words}"));
            None
        }
    }
}

/// What the machine says.
struct Machine {
    instances: Vec<Instance>,
    units: Vec<(Instance, CgroupId)>,
    by_path: BTreeMap<CgroupPath, CgroupId>,
    by_id: BTreeMap<CgroupId, CgroupPath>,
    root: Option<CgroupId>,
    sockets: Vec<Socket>,
    processes: Vec<Process>,
    network: Option<u64>,
}

/// One thing that was asked for.
struct Found {
    name: String,
    place: Place,
    processes: Vec<Process>,
    sockets: Vec<Socket>,
    notes: Vec<String>,
}

impl Machine {
    fn read() -> Result<Self, Failure> {
        let root = Path::new(CGROUP_ROOT);
        let units = machine::instances(root);
        let cgroups = cgroupfs::walk(root, usize::MAX).flatten();
        let by_path: BTreeMap<CgroupPath, CgroupId> = cgroups
            .filter_map(|(path, id)| Some((path.strip_prefix(root).ok()?.to_str()?.parse().ok()?, id)))
            .gather();
        let sockets = sock_diag::sockets()
            .map_err(|error| Failure::new(format!("the sockets cannot be read: {error}")))?;
        Ok(Self {
            instances: units.iter().map(|(instance, _)| instance.clone()).collect(),
            units,
            by_id: by_path.iter().map(|(path, id)| (*id, path.clone())).gather(),
            by_path,
            root: cgroupfs::look_at(root).ok().flatten(),
            sockets,
            processes: processes::all(),
            network: processes::own_network(),
        })
    }

    /// What was asked for, and what it was taken for.
    fn find(
        &self,
        subject: &Subject,
        known: &Known,
        notes: &mut Vec<String>,
    ) -> Result<(&'static str, Vec<Found>), Failure> {
        let found = match subject {
            Subject::Pid(pid) => vec![self.process(*pid).ok_or_else(|| no_process(*pid))?],
            Subject::Number(number) => match (self.process(*number), u16::try_from(*number)) {
                (Some(found), port) => {
                    if port.is_ok_and(|port| !self.at(&[], port).is_empty()) {
                        notes.push(format!(
                            "{number} is a process and a port: this is the process, :{number} is the port"
                        ));
                    }
                    vec![found]
                }
                (None, Ok(port)) => {
                    notes.push(format!("there is no process {number}: it was taken for a port"));
                    return Ok(("port", self.port(&[], port)?));
                }
                (None, Err(_)) => return Err(no_process(*number)),
            },
            Subject::Port(addresses, port) => self.port(addresses, *port)?,
            Subject::Unit(name) => self.unit(name, known, notes)?,
        };
        Ok((subject.kind(), found))
    }

    fn process(&self, pid: u32) -> Option<Found> {
        let process = processes::process(pid)?;
        let mut notes = Vec::new();
        if let Some(leader) = process.thread_of {
            notes.push(format!("{pid} is a thread of process {leader}"));
        }
        if process.is_zombie() {
            notes.push("it has ended, and waits for its parent to notice: it sends nothing".to_owned());
        }
        if process.is_kernels {
            notes.push(
                "it is a thread of the kernel: packets of the kernel have no socket of a cgroup".to_owned(),
            );
        }
        let sockets = match &process.sockets {
            Some(inodes) => self.sockets.iter().filter(|one| inodes.contains(&one.inode)).cloned().collect(),
            None if process.is_zombie() => vec![],
            None => {
                notes.push(
                    "its sockets may not be read, so those of its cgroup are shown: run it as root"
                        .to_owned(),
                );
                let id = process.cgroup.path().and_then(|path| self.by_path.get(path));
                self.sockets
                    .iter()
                    .filter(|one| one.cgroup.is_some() && one.cgroup.as_ref() == id)
                    .cloned()
                    .collect()
            }
        };
        let name = format!("process {pid} ({})", process.name);
        Some(Found { name, place: process.cgroup.clone(), processes: vec![process], sockets, notes })
    }

    /// The sockets at a port.
    fn at(&self, addresses: &[std::net::IpAddr], port: u16) -> Vec<&Socket> {
        let is_there = |one: &&Socket| {
            let ip = one.local.ip().to_canonical();
            one.protocol != "raw"
                && one.local.port() == port
                && (addresses.is_empty() || ip.is_unspecified() || addresses.contains(&ip))
        };
        self.sockets.iter().filter(is_there).collect()
    }

    fn port(&self, addresses: &[std::net::IpAddr], port: u16) -> Result<Vec<Found>, Failure> {
        let mut found: Vec<Found> = Vec::new();
        for socket in self.at(addresses, port) {
            for place in self.holders(socket) {
                match found.iter_mut().find(|one| one.place == place) {
                    Some(same) => same.sockets.push(socket.clone()),
                    None => found.push(self.at_port(port, place, socket)),
                }
            }
        }
        for one in &mut found {
            let pids: Vec<u32> =
                one.sockets.iter().flat_map(|socket| self.owners(socket)).map(|owner| owner.pid).gather();
            let is_its = |process: &&Process| pids.contains(&process.pid) && process.cgroup == one.place;
            one.processes = self.processes.iter().filter(is_its).cloned().collect();
        }
        if found.is_empty() {
            let of = if addresses.is_empty() { String::new() } else { " and address".to_owned() };
            let message = format!(
                "no socket in this network namespace has the local port {port}{of}: `ss -tulnp` lists those that listen"
            );
            return Err(Failure::new(message));
        }
        Ok(found)
    }

    fn at_port(&self, port: u16, place: Place, socket: &Socket) -> Found {
        let is_known = socket.inode == 0 || self.owners(socket).next().is_some();
        let note = "whose socket it is may not be read: run it as root".to_owned();
        Found {
            name: format!("port {port}"),
            place,
            processes: vec![],
            sockets: vec![socket.clone()],
            notes: if is_known { vec![] } else { vec![note] },
        }
    }

    /// The cgroups of the processes that have a socket, without that of a manager which keeps it for a unit; where it
    /// was made, if those processes are not known.
    fn holders(&self, socket: &Socket) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for owner in self.owners(socket) {
            if !places.contains(&owner.cgroup) {
                places.push(owner.cgroup.clone());
            }
        }
        if places.iter().any(|place| !is_managers(place)) {
            places.retain(|place| !is_managers(place));
        }
        if places.is_empty() { vec![self.place_of(socket)] } else { places }
    }

    /// Where a socket was made.
    fn place_of(&self, socket: &Socket) -> Place {
        match socket.cgroup {
            id @ Some(_) if id == self.root => Place::Root,
            id => id.and_then(|id| self.by_id.get(&id)).cloned().map_or(Place::Unknown, Place::In),
        }
    }

    fn owners<'a>(&'a self, socket: &'a Socket) -> impl Iterator<Item = &'a Process> {
        let has_it =
            |one: &&Process| one.sockets.as_ref().is_some_and(|sockets| sockets.contains(&socket.inode));
        self.processes.iter().filter(move |one| socket.inode != 0 && has_it(one))
    }

    fn unit(&self, name: &str, known: &Known, notes: &mut Vec<String>) -> Result<Vec<Found>, Failure> {
        let rows =
            units::matching(units::rows(self.units.clone(), &known.policy), Some(name), machine::users);
        if rows.len() > MOST_SUBJECTS {
            notes.push(format!(
                "{} more units match: name one of them, see `scnpm units`",
                rows.len() - MOST_SUBJECTS
            ));
        }
        let of_name = containers::named(name, &self.processes, self.by_path.keys());
        if rows.is_empty() && !of_name.is_empty() {
            let of_name = of_name.into_iter().take(MOST_SUBJECTS);
            return Ok(of_name.map(|path| self.of_cgroup(format!("container {name}"), path)).collect());
        }
        if rows.is_empty() {
            let judged = self.judge(known, None, &LiteMap::new(), |judge| judge.of_absent(name));
            if judged.is_empty()
                && let Some(words) = units::in_units_of_others(name, &self.processes)
            {
                return Err(Failure::new(words));
            }
            if judged.is_empty() {
                return Err(Failure::new(format!(
                    "no unit that has a cgroup matches `{}`, and no annotation names it: `scnpm units` lists all that run",
                    shown::text(name)
                )));
            }
            let notes = vec!["it has no cgroup: it does not run".to_owned()];
            return Ok(vec![Found {
                name: name.to_owned(),
                place: Place::Unknown,
                processes: vec![],
                sockets: vec![],
                notes,
            }]);
        }
        Ok(rows.into_iter().take(MOST_SUBJECTS).map(|row| self.of_row(&row)).collect())
    }

    fn of_row(&self, row: &Row) -> Found {
        self.of_cgroup(row.instance.unit.to_string(), &row.instance.path)
    }

    fn of_cgroup(&self, name: String, path: &CgroupPath) -> Found {
        let is_in = |one: &&Process| one.cgroup.path().is_some_and(|of| of.is_within(path));
        let processes: Vec<Process> = self.processes.iter().filter(is_in).cloned().collect();
        let inodes: BTreeSet<u64> =
            processes.iter().filter_map(|one| one.sockets.as_ref()).flatten().copied().gather();
        let is_its = |one: &&Socket| {
            inodes.contains(&one.inode)
                || one.cgroup.and_then(|id| self.by_id.get(&id)).is_some_and(|of| of.is_within(path))
        };
        let sockets = self.sockets.iter().filter(is_its).cloned().collect();
        Found { name, place: Place::In(path.clone()), processes, sockets, notes: vec![] }
    }

    fn judge<T>(
        &self,
        known: &Known,
        ruleset: Option<&Ruleset>,
        elements: &LiteMap<SetRef, Option<BTreeSet<CgroupId>>>,
        ask: impl FnOnce(&Judge<'_>) -> T,
    ) -> T {
        ask(&Judge {
            policy: &known.policy,
            dispatch: &known.dispatch,
            users: &known.users,
            cgroups: &self.by_path,
            elements,
            counted: &|set, path| ruleset.and_then(|ruleset| ruleset.counted(set, path)),
            refused: &known.refused,
            unreached: &|rule| ruleset.and_then(|ruleset| ruleset.unreached(&rule.chain)),
        })
    }

    fn block(
        &self,
        found: &Found,
        known: &Known,
        ruleset: Option<&Ruleset>,
        kernel: Option<&mut Nftables>,
    ) -> Block {
        let mut notes = found.notes.clone();
        let (annotations, other_annotations) = match &found.place {
            Place::In(path) | Place::Gone(path) => {
                let sets = self.judge(known, ruleset, &LiteMap::new(), |judge| judge.sets(path));
                let elements = kernel.map_or_else(LiteMap::new, |kernel| elements(kernel, sets));
                self.judge(known, ruleset, &elements, |judge| judge.all(path))
            }
            Place::Root => {
                notes.push(
                    "it is at the root of the hierarchy of cgroups, which no rule can match".to_owned(),
                );
                (vec![], known.policy.of_units().count())
            }
            Place::Unknown => {
                let near = self.judge(known, ruleset, &LiteMap::new(), |judge| judge.of_absent(&found.name));
                let others = known.policy.of_units().count() - near.len();
                (near, others)
            }
        };
        if let Place::In(path) = &found.place
            && let Some(instance) = Instance::in_which(path)
            && let Some(why) = shared::why(&instance)
        {
            let is_in = |one: &&Process| one.cgroup.path().is_some_and(|of| of.is_within(&instance.path));
            let others = self.processes.iter().filter(is_in).count().saturating_sub(1);
            notes.push(format!("it {}", shared::with_others(&instance.unit.0, others, why)));
        }
        if let Place::Gone(path) = &found.place {
            notes.push(format!("{path} was removed: no new element can be made for it"));
        }
        let is_elsewhere = |one: &&Process| one.network.is_some() && one.network != self.network;
        if let Some(Process { pid, .. }) = found.processes.iter().find(is_elsewhere) {
            let it = if found.processes.iter().all(|one| is_elsewhere(&one)) { "it" } else { "a part of it" };
            notes.push(format!(
                "{it} is in another network namespace, whose packets these rules do not see: `nsenter --target {pid} --net scnpm explain …` looks there"
            ));
        }
        let of_network = containers::of_network(&found.processes, self.network, &self.processes);
        let has_sockets_here = of_network.is_none();
        notes.extend(of_network);
        let (Place::In(path) | Place::Gone(path)) = &found.place else {
            return self.block_of(found, None, annotations, other_annotations, known, notes);
        };
        notes.extend(containers::outside(path, &found.processes, self.by_path.keys()));
        notes.extend(containers::lasting(path).filter(|_| has_sockets_here));
        let cgroup = Cgroup::of(path, self.by_path.get(path).copied());
        self.block_of(found, Some(cgroup), annotations, other_annotations, known, notes)
    }

    fn block_of(
        &self,
        found: &Found,
        cgroup: Option<Cgroup>,
        annotations: Vec<crate::explain::About>,
        other_annotations: usize,
        known: &Known,
        notes: Vec<String>,
    ) -> Block {
        let processes = found.processes.iter().take(MOST_SHOWN).map(process).collect();
        let mut sockets: Vec<&Socket> = found.sockets.iter().collect();
        // Listeners first.
        sort_by_key(&mut sockets, |one| (one.remote.is_some(), one.protocol, one.local, one.remote));
        Block {
            name: found.name.clone(),
            cgroup,
            more_processes: found.processes.len().saturating_sub(MOST_SHOWN),
            more_sockets: sockets.len().saturating_sub(MOST_SHOWN),
            processes,
            sockets: sockets.into_iter().take(MOST_SHOWN).map(|one| self.socket(one, found, known)).collect(),
            annotations,
            other_annotations,
            notes,
        }
    }

    fn socket(&self, socket: &Socket, found: &Found, known: &Known) -> ShownSocket {
        let owners: Vec<&Process> = self.owners(socket).collect();
        // A manager keeps the sockets of its socket units, too.
        let is_its = |owner: &&&Process| found.processes.iter().any(|process| process.pid == owner.pid);
        let owner = owners.iter().find(is_its).or(owners.first());
        let place = owner.map_or(&found.place, |owner| &owner.cgroup);
        let own = match place {
            Place::Root => self.root,
            place => place.path().and_then(|path| self.by_path.get(path)).copied(),
        };
        let is_elsewhere = own.is_some() && socket.cgroup.is_some() && socket.cgroup != own;
        let made = self.place_of(socket);
        let words = is_elsewhere.then(|| self.made_in(&made, socket.cgroup, known));
        ShownSocket {
            protocol: socket.protocol,
            local: socket.local.to_string(),
            remote: socket.remote.map(|remote| remote.to_string()),
            state: socket.state_words(),
            uid: socket.uid,
            pids: owners.iter().map(|owner| owner.pid).collect(),
            cgroup: match &made {
                Place::In(path) => Some(path.to_string()),
                Place::Root => Some("/".to_owned()),
                Place::Gone(_) | Place::Unknown => None,
            },
            cgroup_id: socket.cgroup,
            made_elsewhere: is_elsewhere,
            words,
        }
    }

    /// What there is to say of a socket that was made elsewhere.
    fn made_in(&self, place: &Place, id: Option<CgroupId>, known: &Known) -> String {
        match place {
            Place::In(path) => {
                let there = self.judge(known, None, &LiteMap::new(), |judge| judge.matching(path));
                let there: Vec<String> = there.iter().map(Location::to_string).collect();
                let there = match there.as_slice() {
                    [] => "no annotation matches that".to_owned(),
                    there => format!("that is matched by {}", there.join(", ")),
                };
                format!("made in {path}{}, which rules see: {there}", maker(path))
            }
            Place::Root => "made in the root of the hierarchy of cgroups, which no rule matches".to_owned(),
            Place::Gone(_) | Place::Unknown => format!(
                "made in a cgroup that is gone (id {}): no rule matches it until its program makes a new one",
                id.map_or(0, |id| id.0)
            ),
        }
    }
}

fn no_process(pid: u32) -> Failure {
    Failure::new(format!("there is no process {pid}: it has ended, or `ps` shows another number"))
}

/// Whether a service manager is there.
fn is_managers(place: &Place) -> bool {
    place.path().and_then(|path| path.components().last()) == Some("init.scope")
}

/// Why a socket may have been made in a cgroup.
fn maker(path: &CgroupPath) -> &'static str {
    let last = path.components().last().unwrap_or_default();
    match last {
        "init.scope" => " (a manager, by socket activation)",
        _ if last.ends_with(".socket") => " (by socket activation)",
        _ if last.starts_with("session-") => " (a session)",
        _ => "",
    }
}

fn process(one: &Process) -> ShownProcess {
    ShownProcess {
        pid: one.pid,
        name: one.name.clone(),
        command: one.command.clone(),
        uid: one.uid,
        user: machine::user_name(one.uid),
    }
}

/// What is in these sets; nothing of those that cannot be read.
fn elements(kernel: &mut Nftables, sets: BTreeSet<SetRef>) -> LiteMap<SetRef, Option<BTreeSet<CgroupId>>> {
    let mut found = LiteMap::new();
    for set in sets {
        match kernel.elements(&set) {
            Ok(ids) => drop(found.insert(set, Some(ids.into_keys().gather()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => drop(found.insert(set, None)),
            Err(_) => {}
        }
    }
    found
}
