//! `scnpm complete`: what a shell may complete a command line with. The first line that it prints says how to go on:
//!
//! ```text
//! words        with one of the words below, each with a tab and a few words about it behind it, or just as it is for bash
//! files        with a file's name
//! command N    as of another command's line, which begins at this word (at this character for bash), from 0
//! ```
//!
//! It is quiet whatever goes wrong, and asks nobody who may keep it waiting.

mod candidates;
mod line;

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, ValueHint};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, ValueCompleter};
use nix::unistd::Uid;

use super::{Failure, output};
use crate::{
    cli::{Cli, Complete, DEFAULT_FILE, Shell},
    gather::Gather,
    machine,
    model::{CGROUP_ROOT, Instance},
    policy::{Policy, files::Disk, parse},
};
use candidates::{Candidates, UserNames};
use line::Line;

/// More are not shown.
const MOST: usize = 1000;

/// Where a command begins that has more words before it is not looked for.
const MOST_OPTIONS: usize = 32;

/// What an argument may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of any manager's that runs, or the policy's selectors.
    Unit,
    /// One that has a file.
    UnitFile,
    App,
    Slice,
    CgroupPath,
    Chain,
    Code,
    /// The same, or `warnings`.
    Denied,
    Interface,
    File,
    Command,
}

/// The arguments of each subcommand that the machine knows of, by clap's names for them.
const KINDS: &[(&str, &str, Kind)] = &[
    ("", "reload_with_unit", Kind::UnitFile),
    ("", "reapply_with_unit", Kind::UnitFile),
    ("check", "deny", Kind::Denied),
    ("check", "explain", Kind::Code),
    ("check", "interface", Kind::Interface),
    ("units", "pattern", Kind::Unit),
    ("units", "chain", Kind::Chain),
    ("status", "unit", Kind::Unit),
    ("top", "filter", Kind::Unit),
    ("explain", "subject", Kind::Unit),
    ("learn", "unit", Kind::Unit),
    ("learn", "chain", Kind::Chain),
    ("learn", "command", Kind::Command),
    ("wait", "unit", Kind::Unit),
    ("wait", "cgroup", Kind::CgroupPath),
    ("run", "app", Kind::App),
    ("run", "slice", Kind::Slice),
    ("run", "command", Kind::Command),
];

/// Runs it.
///
/// # Errors
/// The output cannot be written.
pub fn run(options: &Complete) -> Result<ExitCode, Failure> {
    let words: Vec<String> = options.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let lines = match (options.shell, &words[..]) {
        (Shell::Bash, [line, typed]) => {
            let line = Line::read(line);
            let place = |word: usize| line.starts.get(word).copied().unwrap_or_default();
            lines(&answer(&line.words), place, |word, _| line.completed(word, typed))
        }
        (Shell::Bash, _) => return Ok(ExitCode::SUCCESS),
        (Shell::Zsh | Shell::Fish, words) => {
            lines(&answer(words), |word| word, |word, about| Some(format!("{word}\t{about}")))
        }
    };
    output(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))?;
    Ok(ExitCode::SUCCESS)
}

/// How a line may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// Words, and what they are.
    Words(Vec<(String, String)>),
    Files,
    /// From this word on it is a command.
    Command(usize),
}

fn lines(
    answer: &Answer,
    place: impl FnOnce(usize) -> usize,
    shown: impl Fn(&str, &str) -> Option<String>,
) -> Vec<String> {
    match answer {
        Answer::Words(words) => {
            let words = words.iter().filter_map(|(word, about)| shown(word, about));
            std::iter::once("words".to_owned()).chain(words.take(MOST)).collect()
        }
        Answer::Files => vec!["files".to_owned()],
        Answer::Command(word) => vec![format!("command {}", place(*word))],
    }
}

fn answer(words: &[String]) -> Answer {
    let Some((last, before)) = words.split_last() else { return Answer::Words(vec![]) };
    let tag =
        |candidate: &CompletionCandidate| candidate.get_tag().map(ToString::to_string).unwrap_or_default();
    let has =
        |found: &[CompletionCandidate], mark: &str| found.iter().any(|candidate| tag(candidate) == mark);
    let begins_command = |at: &usize| has(&candidates_for(&words[..=*at]), COMMAND);
    // Only this subcommand has a command behind it.
    let is_run = before.get(1).is_some_and(|name| name == "run");
    if let Some(at) = (2..words.len()).filter(|_| is_run).take(MOST_OPTIONS).find(begins_command) {
        return Answer::Command(at);
    }
    let found = candidates_for(words);
    // Options are many, and asked for by their dash.
    let is_wanted = |word: &str| !word.starts_with('-') || last.starts_with('-');
    let word = |candidate: &CompletionCandidate| {
        let about = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        let about = about.lines().next().unwrap_or_default().to_owned();
        (candidate.get_value().to_string_lossy().into_owned(), about)
    };
    let values = found.iter().filter(|candidate| tag(candidate) != FILES).map(word);
    let values: Vec<(String, String)> = values.filter(|(word, _)| is_wanted(word)).collect();
    if values.is_empty() && has(&found, FILES) { Answer::Files } else { Answer::Words(values) }
}

fn candidates_for(words: &[String]) -> Vec<CompletionCandidate> {
    let arguments = words.iter().map(OsString::from).collect();
    clap_complete::engine::complete(&mut command(), arguments, words.len() - 1, None).unwrap_or_default()
}

/// What marks that a file's name or a command belongs here.
const FILES: &str = "files";
const COMMAND: &str = "command";

/// The command line's definition with what the machine knows of its arguments.
fn command() -> clap::Command {
    let mut command = with_completers(Cli::command().disable_help_subcommand(true), "");
    let names: Vec<String> = command.get_subcommands().map(|one| one.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(&name, |one| with_completers(one, &name));
    }
    command
}

fn with_completers(command: clap::Command, name: &str) -> clap::Command {
    command.mut_args(|argument| {
        let known = KINDS.iter().find(|(of, id, _)| *of == name && *id == argument.get_id().as_str());
        let is_path = argument.get_value_hint() == ValueHint::AnyPath;
        match known.map(|(.., kind)| *kind).or(is_path.then_some(Kind::File)) {
            Some(kind) => argument.add(ArgValueCompleter::new(kind)),
            None => argument,
        }
    })
}

impl ValueCompleter for Kind {
    fn complete(&self, typed: &OsStr) -> Vec<CompletionCandidate> {
        let typed = typed.to_string_lossy();
        let mark = |tag: &'static str| vec![CompletionCandidate::new("").tag(Some(tag.into()))];
        match self {
            Self::Command | Self::File if typed.starts_with('-') => vec![],
            Self::Command => mark(COMMAND),
            Self::File => mark(FILES),
            _ => {
                let found = self.found().into_iter().filter(|(word, _)| word.starts_with(&*typed));
                let candidate =
                    |(word, about): (String, String)| CompletionCandidate::new(word).help(Some(about.into()));
                found.map(candidate).collect()
            }
        }
    }
}

impl Kind {
    fn found(self) -> Candidates {
        match self {
            Self::Unit => candidates::units(&running(), &user_names(), &policy()),
            Self::UnitFile => {
                let names = machine::units(Path::new("/"), &Default::default()).files.into_keys();
                let names = names.filter(|name| !name.0.contains("@."));
                names.map(|name| (name.to_string(), "unit".to_owned())).gather()
            }
            Self::App => candidates::apps(&machine::installed_apps(), &running()),
            Self::Slice => candidates::slices(&running(), Uid::current().as_raw()),
            Self::CgroupPath => candidates::paths(&running()),
            Self::Chain => candidates::chains(&policy()),
            Self::Code => candidates::codes(),
            Self::Denied => {
                let all = ("warnings".to_owned(), "all warnings".to_owned());
                candidates::codes()
                    .into_iter()
                    .filter(|(code, _)| code.starts_with('W'))
                    .chain([all])
                    .gather()
            }
            Self::Interface => {
                machine::interfaces().into_iter().map(|name| (name, "interface".to_owned())).gather()
            }
            Self::File | Self::Command => Candidates::new(),
        }
    }
}

fn running() -> Vec<Instance> {
    machine::instances(Path::new(CGROUP_ROOT)).into_iter().map(|(instance, _)| instance).collect()
}

fn policy() -> Policy {
    parse::read(&Disk, &[DEFAULT_FILE]).unwrap_or_default()
}

/// Those of /etc/passwd: whoever else knows names may be slow to answer.
fn user_names() -> UserNames {
    let text = fs::read("/etc/passwd").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let user = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.clone().nth(2)?.parse().ok()?, fields.next()?.to_owned()))
    };
    text.lines().filter_map(user).gather()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(words: &[&str]) -> Answer {
        answer(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    fn words(line: &[&str]) -> Vec<String> {
        match after(line) {
            Answer::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn each_argument_in_the_table_exists() {
        let mut command = Cli::command();
        command.build();
        for (name, id, _) in KINDS {
            let of = if name.is_empty() { Some(&command) } else { command.find_subcommand(name) };
            let has = |of: &clap::Command| of.get_arguments().any(|argument| argument.get_id() == *id);
            assert!(of.is_some_and(has), "{name} {id}");
        }
    }

    #[test]
    fn subcommands_and_options_are_those_of_the_command_line() {
        assert_eq!(words(&["scnpm", "st"]), ["status"]);
        assert_eq!(words(&["scnpm", "status", "--js"]), ["--json"]);
        assert_eq!(words(&["scnpm", "check", "--format", "s"]), ["short"]);
        assert_eq!(words(&["scnpm", "check", "--format=s"]), ["--format=short"]);
        assert!(words(&["scnpm", ""]).contains(&"reload".to_owned()));
        assert!(!words(&["scnpm", ""]).iter().any(|word| word.starts_with('-') || word == "serve-names"));
        assert_eq!(words(&["scnpm", "reload", ""]), [""; 0]);
    }

    #[test]
    fn codes_are_completed_behind_commas_too() {
        assert_eq!(words(&["scnpm", "check", "--explain", "W00"]).len(), 9);
        assert_eq!(words(&["scnpm", "check", "--deny", "warn"]), ["warnings"]);
        assert_eq!(words(&["scnpm", "check", "--deny", "W001,W00"])[0], "W001,W001");
        assert_eq!(words(&["scnpm", "check", "--deny=W001"]), ["--deny=W001"]);
    }

    #[test]
    fn files_are_left_to_the_shell() {
        for line in [
            &["scnpm", "/etc"][..],
            &["scnpm", "check", ""],
            &["scnpm", "check", "a.conf", "b"],
            &["scnpm", "check", "--root", ""],
            &["scnpm", "check", "--root=/e"],
            &["scnpm", "units", "--file", "x"],
            &["scnpm", "replay", ""],
        ] {
            assert_eq!(after(line), Answer::Files, "{line:?}");
        }
    }

    #[test]
    fn commands_are_left_to_the_shell_from_their_first_word_on() {
        assert_eq!(after(&["scnpm", "run", ""]), Answer::Command(2));
        assert_eq!(after(&["scnpm", "run", "fire"]), Answer::Command(2));
        assert_eq!(after(&["scnpm", "run", "--app", "x", "firefox", "-"]), Answer::Command(4));
        assert_eq!(after(&["scnpm", "run", "--", "firefox", "--new", "x"]), Answer::Command(3));
        assert_eq!(words(&["scnpm", "run", "--ap"]), ["--app"]);
    }

    #[test]
    fn nonsense_completes_to_nothing() {
        assert_eq!(after(&[]), Answer::Words(vec![]));
        assert_eq!(words(&["scnpm", "status", "x", "y", ""]), [""; 0]);
        assert_eq!(words(&["scnpm", "check", "--explain", "\u{1b}'$("]), [""; 0]);
    }
}
