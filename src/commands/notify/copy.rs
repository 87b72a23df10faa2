//! The clipboard, by a program that the desktop has for it: what is copied belongs to a window, and so somebody has to have one.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::unistd::{AccessFlags, access};

/// How long it may take. These programs go to the background once they have the clipboard.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// The programs with their arguments, and the variable that says that their display is there.
const PROGRAMS: [(&str, &str, &[&str]); 3] = [
    ("WAYLAND_DISPLAY", "wl-copy", &[]),
    ("DISPLAY", "xclip", &["-in", "-selection", "clipboard"]),
    ("DISPLAY", "xsel", &["--input", "--clipboard"]),
];

/// A program that copies.
#[derive(Debug, Clone)]
pub(super) struct Copier {
    path: PathBuf,
    arguments: &'static [&'static str],
}

impl Copier {
    /// The first that is there.
    pub(super) fn find() -> Option<Self> {
        let directories = env::var_os("PATH")?;
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let usable = PROGRAMS.iter().filter(|(display, ..)| is_set(display));
        let mut found = usable.filter_map(|(_, name, arguments)| {
            let mut paths = env::split_paths(&directories).map(|directory| directory.join(name));
            Some(Self { path: paths.find(|path| is_program(path))?, arguments })
        });
        found.next()
    }

    /// Copies a text; returns once that is done.
    ///
    /// # Errors
    /// Why not. The program itself says more on stderr.
    pub(super) fn copy(&self, text: &str) -> Result<(), String> {
        let name = self.path.display();
        let failed = |error| format!("{name} does not run: {error}");
        let mut command = Command::new(&self.path);
        command.args(self.arguments).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        // It says itself what is wrong if it does not read.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
        let status = ended(&mut child).map_err(failed)?;
        match status {
            Some(true) => Ok(()),
            Some(false) => Err(format!("{name} has failed: see journalctl --user -u scnpm-notify")),
            None => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(format!("{name} did not get the clipboard in {} s", PATIENCE.as_secs()))
            }
        }
    }
}

/// Whether it has ended well, once it has ended in time.
fn ended(child: &mut Child) -> std::io::Result<Option<bool>> {
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status.success())),
            None if Instant::now() >= end => return Ok(None),
            None => thread::sleep(PAUSE),
        }
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}
