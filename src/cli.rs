//! The command line: clap types only.

mod values;

use std::{ffi::OsString, path::PathBuf, str::FromStr, time::Duration};

use clap::{
    Args, CommandFactory, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
};

use crate::{
    model::{ChainRef, Source, WITH_PORTS},
    text::{Code, UnknownCode, nearest::nearest},
};
pub use values::{Destination, delay, seconds};
use values::{chain, prefixes, seconds_of_a_day};

/// Where nft keeps its ruleset, and so where annotations are looked for.
pub const DEFAULT_FILE: &str = "/etc/nftables.conf";

/// Where systemd-resolved tells what it answers.
pub const RESOLVED_MONITOR: &str = "/run/systemd/resolve/io.systemd.Resolve.Monitor";

/// Where the daemon is asked.
pub const CONTROL_SOCKET: &str = "/run/scnpm/control";

/// Keeps nftables rules in step with the systemd units that they name.
///
/// Write a rule with `socket cgroupv2` as a comment in nftables.conf, with its unit in front. scnpm loads such rules, follows
/// units as they start and stop, and keeps the rules in the kernel right.
#[derive(Debug, Parser)]
#[command(
    name = "scnpm",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_precedence_over_arg = true
)]
#[command(after_help = "\
Exit status: 0 done, or ended by a signal, 1 something failed, 2 wrong usage, 6 no file, no nft or no rights. Each command has its own: scnpm COMMAND --help.
Signals: SIGHUP reads the files again; SIGTERM and SIGINT end the daemon; its rules stay in the kernel.")]
pub struct Cli {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run.
    #[command(flatten)]
    pub daemon: Daemon,
}

impl Cli {
    /// Itself, unless a file that does not exist is nearly a subcommand, or options do not go together.
    ///
    /// # Errors
    /// Which one, or why not.
    pub fn meant(self) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        command.build();
        if let Some(Command::Status(Status { watch: true, format, .. })) = &self.command
            && format.is_metrics()
        {
            let message =
                "metrics are not printed again with --watch: what collects them asks when it wants them";
            let status =
                command.find_subcommand_mut("status").unwrap_or_else(|| unreachable!("it was called"));
            return Err(status.error(ErrorKind::ArgumentConflict, message));
        }
        let known: Vec<&str> =
            command.get_subcommands().filter(|one| !one.is_hide_set()).map(clap::Command::get_name).collect();
        let files = self.daemon.files.iter().filter(|file| self.command.is_none() && !file.exists());
        let mut slips =
            files.filter_map(|file| Some((file.to_str()?, nearest(file.to_str()?, known.clone())?)));
        let Some((name, meant)) = slips.next() else { return Ok(self) };
        let message = format!("there is no file `{name}`: did you mean `scnpm {meant}`?");
        Err(command.error(ErrorKind::InvalidSubcommand, message))
    }
}

/// A subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check files without changing anything: load them in a sandbox, and print every error and warning
    Check(Check),
    /// List the units that run on this machine, or print annotations for them
    Units(Units),
    /// Show whether the whole policy is in force
    Status(Status),
    /// Show units with their traffic, connections and refusals in the terminal; allow what is refused for a while
    Top(Top),
    /// Explain why packets of a process, a unit or a socket pass or not
    Explain(Explain),
    /// Wait until the rules for a unit or cgroup are in the kernel
    Wait(Wait),
    /// Run a command in a scope of its own, once its rules are in the kernel
    Run(Run),
    /// Have desktop menus start each application by `scnpm run` (scnpm-launchers.service)
    Launchers(Launchers),
    /// Tell the daemon to read its files again, and print what is wrong with them
    Reload(Reload),
    /// List what was refused, by unit and destination, with the annotation that would allow it
    Denied(Denied),
    /// Allow packets for a while that would be refused, or stop allowing them
    Allow(Allow),
    /// Record what a unit does, and print the annotations that allow it
    Learn(Learn),
    /// Show desktop notifications when your applications are refused (scnpm-notify.service)
    Notify(Notify),
    /// Replay a state log, and show where this version decides differently
    Replay(Replay),
    /// Look names up for whoever connects to the socket that is the standard input (scnpm-names.service)
    #[command(hide = true)]
    ServeNames,
    /// Answer systemd-report(1) on the connection that is the standard input (scnpm-report.socket)
    #[command(hide = true)]
    ServeMetrics(Reach),
    /// Write drop-ins for units that wait for their rules (systemd.generator(7), packaging/scnpm-generator)
    #[command(hide = true)]
    Generate(Generate),
    /// Print what a shell may complete a command line with (packaging/scnpm.bash, _scnpm and scnpm.fish)
    #[command(hide = true)]
    Complete(Complete),
}

/// Options of `scnpm generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// Files with annotations (repeatable)
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    pub file: Vec<PathBuf>,

    /// The directory for drop-ins
    #[arg(value_name = "NORMAL")]
    pub normal: PathBuf,

    /// The other directories that systemd passes to a generator
    #[arg(value_name = "EARLY LATE", num_args = 0..=2)]
    pub others: Vec<PathBuf>,
}

/// Options of `scnpm complete`.
#[derive(Debug, Args)]
pub struct Complete {
    /// The shell
    pub shell: Shell,

    /// All words up to the cursor, `scnpm` first. Of bash: the line up to the cursor, and the part of its last word that bash
    /// will replace
    #[arg(last = true)]
    pub words: Vec<OsString>,
}

/// A shell that completes command lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash(1)
    Bash,
    /// zsh(1)
    Zsh,
    /// fish(1)
    Fish,
}

/// Options of the daemon.
#[derive(Debug, Args)]
pub struct Daemon {
    /// Files with annotations
    #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
    pub files: Vec<PathBuf>,

    /// Flush the chains that annotations name, at start and at every reload
    #[arg(short, long)]
    pub flush: bool,

    /// Read the files again and load them when a job of this unit is done; like SIGHUP (repeatable)
    #[arg(short = 'u', long, value_name = "UNIT")]
    pub reload_with_unit: Vec<String>,

    /// Load the policy again without reading the files when a job of this unit is done (repeatable)
    #[arg(short = 'a', long, value_name = "UNIT")]
    pub reapply_with_unit: Vec<String>,

    /// Load the files again when they change, unless they have errors
    #[arg(long)]
    pub watch_config: bool,

    /// Shortest time between two loads of the policy, in milliseconds; new cgroups never wait for it
    #[arg(short, long, value_name = "MS", default_value_t = 300)]
    pub cooldown: u64,

    /// Log every change
    #[arg(short, long)]
    pub debug: bool,

    /// Where to learn about changes
    #[arg(long, value_name = "SOURCES", value_delimiter = ',', default_value = "cgroup,dbus,journal")]
    pub sources: Vec<Source>,

    /// Ask the service at this socket for the names of hosts and users (scnpm-names.socket)
    #[arg(long, value_name = "SOCKET")]
    pub names: Option<PathBuf>,

    /// Where to read systemd-resolved's answers, for sets that are filled with the addresses of names (scnpm-answers.socket)
    #[arg(long, value_name = "SOCKET", default_value = RESOLVED_MONITOR)]
    pub answers: PathBuf,

    /// Where to make the control socket; if this is empty, there is none
    #[arg(long, value_name = "SOCKET", default_value = CONTROL_SOCKET, value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub control: PathBuf,

    /// Write every event and every decision to this file, for `scnpm replay`; the file before it is kept as FILE.1
    #[arg(long, value_name = "FILE")]
    pub state_log: Option<PathBuf>,

    /// Remove everything that scnpm put into the kernel, and exit
    #[arg(long)]
    pub clean: bool,
}

impl ValueEnum for Source {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Cgroup => "cgroupfs, by inotify(7)",
            Self::Dbus => "systemd's signals on the system bus",
            Self::Journal => "the journal, by sd-journal(3)",
        };
        Some(PossibleValue::new(self.as_str()).help(help))
    }
}

/// Options of `scnpm replay`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 this version decides the same, 1 it does not, or the output cannot be written, 2 wrong usage, 3 the \
file is not a state log.")]
pub struct Replay {
    /// A file that `--state-log` wrote
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Show only what is decided differently
    #[arg(long)]
    pub differences: bool,
}

/// Options of `scnpm check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 no errors (there may be warnings), 1 errors, something that --deny names, or the output cannot be written, 2 wrong \
usage, 3 the files could not be checked. With --fix, only what the fixes do not mend counts.
A comment `# scnpm: allow(W004)` above a line or an annotation silences a warning there.")]
pub struct Check {
    /// Files to load, in this order, with their annotations; `-` is the standard input
    #[arg(value_name = "FILE", required_unless_present = "explain")]
    pub files: Vec<PathBuf>,

    /// How to print what is found
    #[arg(long, value_name = "FORMAT", default_value = "full", default_value_if("json", "true", "json"))]
    pub format: Format,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,

    /// Print the nft script that the annotations become; what is found goes to the standard error
    #[arg(long)]
    pub dispatch: bool,

    /// Treat all warnings (`warnings`), or those with this code, as errors (repeatable)
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    pub deny: Vec<Deny>,

    /// Do not look up host names
    #[arg(long)]
    pub no_dns: bool,

    /// Assume that an interface of this name exists at boot (repeatable)
    #[arg(long, value_name = "NAME")]
    pub interface: Vec<String>,

    /// Look for unit files below this directory; what runs on this machine is ignored then
    #[arg(long, value_name = "DIRECTORY")]
    pub root: Option<PathBuf>,

    /// Print all fixes as a unified diff instead of the findings
    #[arg(long, conflicts_with_all = ["format", "json", "dispatch", "explain"])]
    pub fix: bool,

    /// Apply the fixes to the files; each file is kept as FILE~
    #[arg(long, requires = "fix")]
    pub write: bool,

    /// Explain a code, and do nothing else
    #[arg(long, value_name = "CODE")]
    pub explain: Option<Code>,
}

/// How `scnpm check` prints what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// With the lines of the files and a table of units
    Full,
    /// One line for each error or warning
    Short,
    /// One JSON object
    Json,
}

/// What `scnpm check` takes for an error besides errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// All warnings.
    Warnings,
    /// Those of one kind.
    Code(Code),
}

impl FromStr for Deny {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "warnings" { Ok(Self::Warnings) } else { text.parse().map(Self::Code) }
    }
}

/// Options of `scnpm units`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 done, 1 nothing matches or something failed, 2 wrong usage.
For example, `scnpm units --annotate firefox` prints the annotation for that application.")]
pub struct Units {
    /// A selector as in annotations, such as `alice:app:firefox`, `system:*.service` or a unit's name; or a user; or a part of
    /// a name or path, in upper or lower case
    #[arg(value_name = "PATTERN")]
    pub pattern: Option<String>,

    /// The unit that this process is in, and the annotation for it
    #[arg(long, value_name = "PID", conflicts_with = "pattern")]
    pub pid: Option<u32>,

    /// Print one JSON object
    #[arg(long, conflicts_with = "annotate")]
    pub json: bool,

    /// Files whose annotations are shown beside their units (repeatable) [default: /etc/nftables.conf]
    #[arg(long, value_name = "FILE")]
    pub file: Vec<PathBuf>,

    /// Print an annotation to copy for each unit, and one for each application of a user
    #[arg(long)]
    pub annotate: bool,

    /// Also print the annotation with level and path for each unit
    #[arg(long, requires = "annotate")]
    pub explicit: bool,

    /// The chain for the annotations, such as `inet filter services` [default: that of the first annotation]
    #[arg(long, value_name = "CHAIN", requires = "annotate")]
    pub chain: Option<String>,
}

/// How to reach the daemon.
#[derive(Debug, Args)]
pub struct Reach {
    /// The daemon's control socket
    #[arg(long, value_name = "SOCKET", default_value = CONTROL_SOCKET)]
    pub socket: PathBuf,
}

/// Options of `scnpm status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 all is in force, 1 something is not, 2 wrong usage, 3 the daemon does not run or cannot be asked. \
With metrics it is 0 whether or not all is in force.")]
pub struct Status {
    /// Only units that match: a unit's name, a selector such as `alice:app:firefox`, or a part of a name
    #[arg(value_name = "UNIT")]
    pub unit: Option<String>,

    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text", default_value_if("json", "true", "json"))]
    pub format: StatusFormat,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,

    /// Print it again whenever it changes
    #[arg(short, long)]
    pub watch: bool,

    /// Write it to this file, which is replaced in one step; `-` is the standard output
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    pub output: Option<PathBuf>,

    /// How to reach the daemon.
    #[command(flatten)]
    pub reach: Reach,
}

/// How `scnpm status` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// One screen for people
    Text,
    /// One JSON object; with --watch one per line
    Json,
    /// Metrics as OpenMetrics 1.0
    Openmetrics,
    /// The same metrics in the text format of Prometheus, which node_exporter reads
    Prometheus,
}

impl StatusFormat {
    /// Whether it is for what collects metrics.
    pub fn is_metrics(self) -> bool {
        matches!(self, Self::Openmetrics | Self::Prometheus)
    }
}

/// Options of `scnpm top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 ended with q or Ctrl-C, 1 the terminal fails, or this scnpm was built without `top`, 2 wrong usage, or there is \
no terminal, 3 the daemon does not run or cannot be asked.
Keys: ? shows them all. Without colours if NO_COLOR is set.")]
pub struct Top {
    /// Begin with only those units and refusals that contain this text; the key / changes it
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,

    /// How often to read counters and sockets; all other changes are shown at once
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = delay)]
    pub delay: Duration,

    /// How to reach the daemon.
    #[command(flatten)]
    pub reach: Reach,
}

/// Options of `scnpm explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 explained, 1 there is no such process, unit or socket, or something failed, 2 wrong usage. \
With --to: 0 the packet passes, 1 it does not, 3 it could not be found out.")]
pub struct Explain {
    /// A process ID, a unit or selector, a port, or a socket's local address as ADDRESS:PORT
    #[arg(value_name = "WHAT")]
    pub subject: String,

    /// Say which rule decides about a packet to this host and port. Root's scnpm sends one: a child process enters the cgroup,
    /// takes the user of the first process there, and opens a connection or sends an empty datagram, which the kernel traces
    #[arg(long, value_name = "HOST:PORT")]
    pub to: Option<String>,

    /// Send no packet: read the rules instead, which does not always give an answer
    #[arg(long, requires = "to")]
    pub no_probe: bool,

    /// The protocol of that packet: tcp, udp
    #[arg(long, value_name = "PROTOCOL", requires = "to", default_value = "tcp")]
    pub proto: String,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// Files with annotations (repeatable) [default: those of the daemon, or /etc/nftables.conf]
    #[arg(long, value_name = "FILE")]
    pub file: Vec<PathBuf>,

    /// How to reach the daemon.
    #[command(flatten)]
    pub reach: Reach,
}

/// Options of `scnpm wait`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 the rules are in the kernel, or no annotation names the unit; 1 the kernel or nft refuses a rule; 2 wrong usage; \
3 the daemon does not run or cannot be asked; 4 the time is up.")]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct Wait {
    /// A unit or selector: all of its cgroups that exist
    #[arg(value_name = "UNIT", group = "what")]
    pub unit: Option<String>,

    /// A cgroup's path, as `socket cgroupv2` takes it or below /sys/fs/cgroup
    #[arg(long, value_name = "PATH", group = "what")]
    pub cgroup: Option<String>,

    /// The cgroup of the calling process
    #[arg(long = "self", group = "what")]
    pub own: bool,

    /// The longest time to wait
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub timeout: Duration,

    /// Fail if the daemon does not run (the default)
    #[arg(long)]
    pub or_fail: bool,

    /// Go on if the daemon does not run: print that, with exit status 0
    #[arg(long, conflicts_with = "or_fail")]
    pub or_continue: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// How to reach the daemon.
    #[command(flatten)]
    pub reach: Reach,
}

/// Options of `scnpm denied`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file says where refusals are recorded: `# scnpm: record refusals in inet filter refused`, with the chain `refused` empty and \
called in front of the last `reject` or `drop`. A refusal stays recorded for an hour after its last packet. Root sees those of \
all units, other users those of their own.
Exit status: 0 also if nothing was refused; 2 wrong usage; 3 the daemon does not run, cannot be asked or records nothing.")]
pub struct Denied {
    /// Only this unit, selector or application, or what is below this cgroup
    #[arg(value_name = "UNIT")]
    pub unit: Option<String>,

    /// Also print what is refused from now on
    #[arg(short, long)]
    pub follow: bool,

    /// Only what was refused within this time, such as 30s, 10min or 1h
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub since: Option<Duration>,

    /// Print addresses and ports as numbers
    #[arg(short, long)]
    pub numeric: bool,

    /// Print one JSON object; with --follow one per line, whenever there is something new
    #[arg(long)]
    pub json: bool,

    /// How to reach the daemon.
    #[command(flatten)]
    pub reach: Reach,
}

/// Options of `scnpm allow`.
#[derive(Debug, Args)]
#[command(after_help = "\
The kernel itself ends what is allowed, even if the daemon no longer runs. If the unit restarts, it stays allowed for the time \
that is left. `scnpm status` lists it. The file has to say where refusals are recorded, see \
scnpm-denied(8). Users other than root can allow something to their own units only, and only if polkit permits it \
(io.scnpm.allow).
Exit status: 0 done; 1 not permitted or not possible; 2 wrong usage; 3 the daemon does not run, cannot be asked or records nothing.
For example, `scnpm allow postfix.service 192.0.2.1:25 --for 10min` or `scnpm allow alice:app:firefox example.org`.")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["unit", "undo"]))]
pub struct Allow {
    /// A unit or selector
    #[arg(value_name = "UNIT", requires = "destination")]
    pub unit: Option<String>,

    /// The destination: an address, a prefix or a host name, with a port if only that is meant, such as 192.0.2.1:25, 10.0.0.0/8,
    /// [2001:db8::1]:443 or example.org:443
    #[arg(value_name = "DEST[:PORT]")]
    pub destination: Option<Destination>,

    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "5min", value_parser = seconds)]
    pub time: Duration,

    /// Only this protocol [default: all; with a port tcp and udp]
    #[arg(long, value_name = "PROTOCOL", value_parser = PossibleValuesParser::new(WITH_PORTS.into_iter().chain(["icmp"])))]
    pub protocol: Option<String>,

    /// Packets that come in from there; the port is a port of the unit
    #[arg(long = "in")]
    pub inward: bool,

    /// Print the annotation that allows it for good, and where it goes; change nothing
    #[arg(long, conflicts_with_all = ["time", "undo"])]
    pub forever: bool,

    /// Stop allowing: everything, or the one with this number in `scnpm status`
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, conflicts_with_all = ["unit", "time", "protocol", "inward"])]
    #[allow(clippy::option_option)]
    pub undo: Option<Option<u64>>,

    /// How to reach the daemon.
    #[command(flatten)]
    pub reach: Reach,
}

/// Options of `scnpm notify`.
#[derive(Debug, Args)]
#[command(after_help = "\
It runs until the session bus ends, best as a user service: `systemctl --user enable --now scnpm-notify.service`. There is one \
notification an hour for each application and destination. If there are many in a minute, one notification gives the number. What was \
refused before the start is not shown. \"Allow\" does what scnpm-allow(8) does, if polkit permits it (io.scnpm.allow). \"Copy\" needs \
wl-copy, xclip or xsel; without them the rule is shown.
Exit status: 1 there is no session bus, or it has ended; 2 wrong usage.")]
pub struct Notify {
    /// How long "Allow" allows it
    #[arg(long = "for", value_name = "TIME", default_value = "5min", value_parser = seconds_of_a_day)]
    pub time: Duration,

    /// How to reach the daemon.
    #[command(flatten)]
    pub reach: Reach,
}

/// Options of `scnpm learn`.
#[derive(Debug, Args)]
#[command(after_help = "\
The kernel records packets, whether allowed or refused, until the time is up, the command ends, or you press Ctrl-C. Nothing is \
changed: the annotations are printed, with a comment above where something is uncertain. The output of the command goes to the \
standard error. Needs root.
Exit status: 0 done, 1 the unit did nothing or something failed, 2 wrong usage. With a command, that of the command; 125 if scnpm \
itself failed, 126 the command cannot be run, 127 there is no such command.
For example, `scnpm learn postfix.service --for 10min` or `scnpm learn alice:app:mail -- thunderbird`.")]
pub struct Learn {
    /// A unit or selector, such as postfix.service or alice:app:firefox
    #[arg(value_name = "UNIT")]
    pub unit: String,

    /// How long [default: until Ctrl-C, or the command has ended]
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    pub time: Option<Duration>,

    /// Also record what goes over the loopback interface
    #[arg(long)]
    pub loopback: bool,

    /// Write networks instead of addresses, with this prefix length for IPv4 and 64 for IPv6, or with both as 24,56
    #[arg(long, value_name = "LENGTH", value_parser = prefixes)]
    pub group_by_prefix: Option<(u8, u8)>,

    /// Write host names instead of their addresses
    #[arg(long)]
    pub names: bool,

    /// The chain for the annotations, such as `inet filter services` [default: the one in which refusals are recorded, or that
    /// of the first annotation]
    #[arg(long, value_name = "CHAIN", value_parser = chain)]
    pub chain: Option<ChainRef>,

    /// Files to take the chain from (repeatable) [default: /etc/nftables.conf]
    #[arg(long, value_name = "FILE")]
    pub file: Vec<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// How to reach the daemon, whose rules the command waits for.
    #[command(flatten)]
    pub reach: Reach,

    /// Run this command in the unit, as `scnpm run` does, and record until it ends
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
}

/// Options of `scnpm run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: that of the command; 125 if scnpm itself failed, 126 the command cannot be run, 127 there is no such command. \
With --service 128 and the signal's number if a signal ended it.
For example, `scnpm run --app mail -- thunderbird` runs it with the rules for `alice:app:mail`.")]
pub struct Run {
    /// The id of the application: the scope is named app-scnpm-ID-PID.scope [default: the command's name]
    #[arg(long, value_name = "ID", conflicts_with = "unit")]
    pub app: Option<String>,

    /// The scope's or service's name, with or without its type
    #[arg(long, value_name = "NAME")]
    pub unit: Option<String>,

    /// The slice to put it into [default: app.slice; for root system.slice]
    #[arg(long, value_name = "SLICE")]
    pub slice: Option<String>,

    /// Have the manager run it as a service instead of in a scope
    #[arg(long)]
    pub service: bool,

    /// Run it in a cage that the policy defines: it reaches only what the policy names; at the end, print what was refused
    #[arg(long, value_name = "NAME", conflicts_with_all = ["app", "unit", "service", "no_wait"])]
    pub cage: Option<String>,

    /// Fail, rather than warn, if it is not certain that its rules are in the kernel
    #[arg(long)]
    pub wait: bool,

    /// Do not wait for its rules
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,

    /// What a service that `--service` made runs: the words of the command are escaped
    #[arg(long, hide = true)]
    pub inside: bool,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,

    /// How to reach the daemon.
    #[command(flatten)]
    pub reach: Reach,
}

/// Options of `scnpm launchers`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 done, 1 there is no place for the copies or they cannot be written, 2 wrong usage.
It copies the .desktop files of the menus to scnpm/applications in XDG_RUNTIME_DIR, with `scnpm run` in front of each command. \
Desktops read them if $XDG_RUNTIME_DIR/scnpm comes first in XDG_DATA_DIRS, which scnpm-launchers.service sees to.")]
pub struct Launchers {
    /// Start no application unless its rules are in the kernel, as `scnpm run --wait` does
    #[arg(long)]
    pub wait: bool,

    /// Make the copies and exit, without following changes
    #[arg(long)]
    pub once: bool,
}

/// Options of `scnpm reload`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 loaded, 1 there are errors or the old policy stays, 2 wrong usage, 3 the daemon does not run or cannot be \
asked, 4 not allowed.")]
pub struct Reload {
    /// Go back to the old policy after this time, unless --confirm comes first
    #[arg(long = "try", value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30", value_parser = seconds)]
    pub trial: Option<Duration>,

    /// Keep the policy that --try loaded, and do nothing else
    #[arg(long, conflicts_with_all = ["trial", "format", "json"])]
    pub confirm: bool,

    /// How to print what is found
    #[arg(long, value_name = "FORMAT", default_value = "full", default_value_if("json", "true", "json"))]
    pub format: Format,

    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,

    /// How to reach the daemon.
    #[command(flatten)]
    pub reach: Reach,
}

/// The name of `scnpm run`, whose arguments are for another command, too.
const RUN: &str = "run";

/// The name of `scnpm learn`, of which that is true if there is a `--`.
const LEARN: &str = "learn";

/// Whether the arguments are for another command, too.
fn runs_another(arguments: &[OsString]) -> bool {
    arguments
        .get(1)
        .is_some_and(|name| name == RUN || name == LEARN && arguments.iter().any(|word| word == "--"))
}

/// The exit status for a command line that is wrong. All below 125 are left to the command that is run.
pub fn wrong_usage(arguments: &[OsString]) -> u8 {
    if runs_another(arguments) { 125 } else { 2 }
}

/// Arguments as clap takes them: the original also took `-c:300` and `--cooldown:300`.
pub fn normalise(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const WITH_VALUE: [&str; 6] =
        ["-u", "-a", "-c", "--reload-with-unit", "--reapply-with-unit", "--cooldown"];
    let arguments: Vec<OsString> = arguments.collect();
    if runs_another(&arguments) {
        return arguments;
    }
    arguments
        .into_iter()
        .map(|argument| match argument.to_str().and_then(|text| text.split_once(':')) {
            Some((option, value)) if WITH_VALUE.contains(&option) => format!("{option}={value}").into(),
            _ => argument,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(normalise(line.split(' ').map(OsString::from))).expect(line)
    }

    #[test]
    fn definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_originals_command_lines_are_understood() {
        let cli = parse("scnpm -f -u nftables.service -a x.service -d -c 500 /etc/a.conf b.conf").daemon;
        assert!(cli.flush && cli.debug);
        assert_eq!(cli.reload_with_unit, ["nftables.service"]);
        assert_eq!(cli.reapply_with_unit, ["x.service"]);
        assert_eq!(cli.cooldown, 500);
        assert_eq!(cli.files, [PathBuf::from("/etc/a.conf"), PathBuf::from("b.conf")]);
        for same in ["-c=7", "-c:7", "--cooldown:7", "--cooldown=7", "-c 7", "--cooldown 7"] {
            assert_eq!(parse(&format!("scnpm {same} --flush a.conf")).daemon.cooldown, 7, "{same}");
        }
        let cli = parse("scnpm a.conf --reload-with-unit:a@b:c.service -u=d.service b.conf").daemon;
        assert_eq!(cli.reload_with_unit, ["a@b:c.service", "d.service"]);
        assert_eq!(cli.files.len(), 2);
    }

    #[test]
    fn control_socket_can_be_left_out() {
        for words in [vec!["scnpm", "--control=", "a.conf"], vec!["scnpm", "--control", "", "a.conf"]] {
            let cli = Cli::try_parse_from(normalise(words.into_iter().map(OsString::from))).unwrap().daemon;
            assert_eq!((cli.control, cli.files), (PathBuf::new(), vec![PathBuf::from("a.conf")]));
        }
    }

    #[test]
    fn without_a_file_the_usual_one_is_read() {
        let cli = parse("scnpm");
        assert_eq!(cli.daemon.files, [PathBuf::from(DEFAULT_FILE)]);
        assert_eq!(cli.daemon.sources, [Source::Cgroup, Source::Dbus, Source::Journal]);
        assert_eq!(parse("scnpm --sources journal").daemon.sources, [Source::Journal]);
    }

    #[test]
    fn buttons_allow_for_a_second_to_a_day() {
        let time = |text: &str| Cli::try_parse_from(["scnpm", "notify", "--for", text]).is_ok();
        assert_eq!(
            ["1s", "5min", "24h", "0", "0.9", "25h", "x"].map(time),
            [true, true, true, false, false, false, false]
        );
    }

    #[test]
    fn check_is_a_subcommand() {
        assert!(matches!(parse("scnpm check a.conf").command, Some(Command::Check(_))));
        assert!(Cli::try_parse_from(["scnpm", "check"]).is_err());
        let options = |line: &str| match parse(line).command {
            Some(Command::Check(options)) => options,
            _ => panic!("{line}"),
        };
        assert_eq!(options("scnpm check --json a.conf").format, Format::Json);
        assert_eq!(options("scnpm check --explain w004").explain, Some(Code::NearMiss));
        assert_eq!(
            options("scnpm check --deny warnings,W001 a.conf").deny,
            [Deny::Warnings, Deny::Code(Code::Level)]
        );
    }

    #[test]
    fn formats_of_the_status_exclude_each_other() {
        let options = |line: &str| match parse(line).meant().unwrap().command {
            Some(Command::Status(options)) => options,
            _ => panic!("{line}"),
        };
        assert_eq!(options("scnpm status").format, StatusFormat::Text);
        assert_eq!(options("scnpm status --json a.service").format, StatusFormat::Json);
        assert_eq!(options("scnpm status --format openmetrics").format, StatusFormat::Openmetrics);
        assert!(options("scnpm status --format json --watch").watch);
        for wrong in [
            "--json --format text",
            "--json --format json",
            "--format openmetric",
            "--format prometheus --watch",
            "--output a --watch",
        ] {
            let words = format!("scnpm status {wrong}");
            let error = Cli::try_parse_from(words.split(' ')).and_then(Cli::meant).err().unwrap();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }

    #[test]
    fn what_is_to_be_run_is_left_as_it_is() {
        let command = |line: &str| match parse(line).command {
            Some(Command::Run(options)) => options.command.join(OsStr::new(" ")),
            _ => panic!("{line}"),
        };
        for line in ["scnpm run --app a -- b -c:300 --wait", "scnpm run --app a b -c:300 --wait"] {
            assert_eq!(command(line), "b -c:300 --wait", "{line}");
        }
        assert_eq!(command("scnpm run -- --app -- b"), "--app -- b");
        for wrong in
            ["run", "run --ap a -- b", "run -x b", "run --app a --unit b c", "run --wait --no-wait b"]
        {
            let words: Vec<OsString> = format!("scnpm {wrong}").split(' ').map(OsString::from).collect();
            assert_eq!(wrong_usage(&words), 125);
            assert!(Cli::try_parse_from(words).is_err(), "{wrong}");
        }
        assert_eq!(wrong_usage(&["scnpm".into(), "check".into()]), 2);
    }

    #[test]
    fn units_is_a_subcommand() {
        let options = |line: &str| match parse(line).command {
            Some(Command::Units(options)) => options,
            _ => panic!("{line}"),
        };
        assert_eq!(options("scnpm units").pattern, None);
        assert_eq!(options("scnpm units --file a --file b x").file, [PathBuf::from("a"), PathBuf::from("b")]);
        assert!(options("scnpm units --annotate --explicit --chain a firefox").explicit);
        for wrong in ["units a b", "units --json --annotate", "units --explicit", "units --chain a"] {
            assert!(Cli::try_parse_from(format!("scnpm {wrong}").split(' ')).is_err(), "{wrong}");
        }
    }
}
