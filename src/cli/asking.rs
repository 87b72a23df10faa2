//! Options of the commands that ask the daemon.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::PossibleValuesParser};

use super::{
    CONTROL_SOCKET, Format,
    values::{Destination, chain, delay, prefixes, seconds, seconds_of_a_day},
};
use crate::model::{ChainRef, WITH_PORTS};

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
