//! Options of the commands that read files and the machine.

use std::{ffi::OsString, path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};

use super::DEFAULT_FILE;
use crate::text::{Code, UnknownCode};

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
