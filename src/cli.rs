//! The command line: clap types only.

mod asking;
mod files;
mod values;

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Args, CommandFactory, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, PossibleValue, TypedValueParser},
    error::ErrorKind,
};

use crate::{model::Source, text::nearest::nearest};
pub use asking::{
    Allow, Denied, Explain, Learn, Notify, Reach, Reload, Run, Status, StatusFormat, Top, Wait,
};
pub use files::{Check, Complete, Deny, Format, Generate, Launchers, Replay, Shell, Units};
pub use values::{Destination, delay, seconds};

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
    use crate::text::Code;

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
