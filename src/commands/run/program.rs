//! The command: found before anything is done for it, and then what this process becomes.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use nix::unistd::{AccessFlags, eaccess};

use super::{Failure, sigpipe};

use crate::model::printable;

/// Where execvp(3) looks without PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A command that was found.
#[derive(Debug)]
pub(super) struct Program<'a> {
    file: PathBuf,
    words: &'a [OsString],
}

impl<'a> Program<'a> {
    /// Finds it as execvp(3) does.
    pub(super) fn find(words: &'a [OsString], path: Option<&OsStr>) -> Result<Self, Failure> {
        let name = words.first().map_or(OsStr::new(""), |word| word);
        let files: Vec<PathBuf> = if name.is_empty() {
            vec![]
        } else if name.as_bytes().contains(&b'/') {
            vec![name.into()]
        } else {
            env::split_paths(path.unwrap_or(OsStr::new(DEFAULT_PATH)))
                .map(|directory| directory.join(name))
                .collect()
        };
        if let Some(file) = files.iter().find(|file| unfit(file).is_none()) {
            return Ok(Self { file: file.clone(), words });
        }
        let unfit = files.iter().find_map(|file| unfit(file).filter(|(code, _)| *code == CANNOT_RUN));
        let (exit_code, what) = unfit.unwrap_or((
            NOT_FOUND,
            match name.as_bytes().contains(&b'/') {
                true => "there is no such file",
                false => "there is no such command: look how it is written, or write its path",
            },
        ));
        Err(Failure { message: format!("`{}`: {what}", shown(name)), exit_code })
    }

    /// Becomes it, with the signals as they came. Returns only if that failed.
    pub(super) fn execute(&self) -> Failure {
        let error = self.command().exec();
        self.failure(&error)
    }

    /// Starts it as a child, with the signals as they came.
    pub(super) fn spawn(&self) -> Result<Child, Failure> {
        self.command().spawn().map_err(|error| self.failure(&error))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.file);
        sigpipe::pass_on(&mut command);
        command.arg0(&self.words[0]).args(&self.words[1..]);
        command
    }

    fn failure(&self, error: &io::Error) -> Failure {
        let (exit_code, hint) = match error.kind() {
            // The file is there, so this is about what it names in its first line.
            ErrorKind::NotFound => (NOT_FOUND, ", or its interpreter is missing"),
            _ => (CANNOT_RUN, ""),
        };
        let message = format!("`{}` cannot be run: {error}{hint}", shown(&self.words[0]));
        Failure { message, exit_code }
    }
}

/// Exit statuses of env(1) and of shells.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Why a file cannot be run, if that is so.
fn unfit(file: &Path) -> Option<(u8, &'static str)> {
    match file.metadata() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Some((CANNOT_RUN, "its directory may not be entered"))
        }
        Err(_) => Some((NOT_FOUND, "there is no such file")),
        Ok(metadata) if metadata.is_dir() => Some((CANNOT_RUN, "it is a directory: write the command in it")),
        Ok(metadata) if !metadata.is_file() => Some((CANNOT_RUN, "it is not a file that can be run")),
        Ok(_) if eaccess(file, AccessFlags::X_OK).is_err() => {
            Some((CANNOT_RUN, "it may not be executed: chmod +x makes it so, if it is a program"))
        }
        Ok(_) => None,
    }
}

fn shown(name: &OsStr) -> String {
    printable(&name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::ffi::OsStringExt};

    use super::*;

    fn find(name: &str, path: &str) -> Result<PathBuf, (u8, String)> {
        let words = [OsString::from(name)];
        let found = Program::find(&words, Some(OsStr::new(path)));
        found.map(|program| program.file).map_err(|failure| (failure.exit_code, failure.message))
    }

    #[test]
    fn commands_are_found_as_by_execvp() {
        let top = env::temp_dir().join(format!("scnpm-program-{}", std::process::id()));
        for directory in ["a/tool", "b", "c"] {
            fs::create_dir_all(top.join(directory)).unwrap();
        }
        fs::write(top.join("b/tool"), "no program").unwrap();
        fs::copy("/bin/true", top.join("c/tool")).unwrap();
        let path = |names: &[&str]| {
            names.iter().map(|name| format!("{}/{name}", top.display())).collect::<Vec<_>>().join(":")
        };
        assert_eq!(
            find("tool", &path(&["a", "b", "missing", "c"])),
            Ok(top.join("c/tool")),
            "what is no program is skipped"
        );
        for (name, path, exit_code, words) in [
            ("tool", path(&["a"]), 126, "directory"),
            ("tool", path(&["missing", "b"]), 126, "chmod"),
            ("tool", path(&["missing"]), 127, "no such command"),
            ("tool", String::new(), 127, "no such command"),
            ("", path(&["c"]), 127, "no such command"),
            ("a\u{1b}[31m", path(&["c"]), 127, "`a\u{fffd}[31m`"),
            (path(&["b/tool"]).as_str(), String::new(), 126, "chmod"),
            (path(&["b/none"]).as_str(), String::new(), 127, "no such file"),
            (path(&["b/tool/x"]).as_str(), String::new(), 127, "no such file"),
            ("/dev/null", String::new(), 126, "not a file that can be run"),
            ("/", String::new(), 126, "directory"),
        ] {
            let (code, message) = find(name, &path).unwrap_err();
            assert!(code == exit_code && message.contains(words), "{name}: {code} {message}");
        }
        assert_eq!(find(&path(&["c/tool"]), "/bin"), Ok(top.join("c/tool")));
        fs::remove_dir_all(top).unwrap();
        let words = [OsString::from("true")];
        assert!(Program::find(&words, None).is_ok(), "without PATH");
        let words = [OsString::from_vec(b"\xff".to_vec())];
        assert!(Program::find(&words, None).unwrap_err().message.contains('\u{fffd}'));
    }
}
