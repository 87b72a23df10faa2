//! `scnpm launchers`: copies of the menus' .desktop files that start each application by `scnpm run`, kept current.
//!
//! ```text
//! XDG_DATA_DIRS: DIRECTORY/applications/*.desktop ──► entry ──► $XDG_RUNTIME_DIR/scnpm/applications/*.desktop
//!        └ inotify, and every few minutes ──► once more
//! ```

mod entry;

use std::{
    collections::BTreeMap,
    env, fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use inotify::{Inotify, WatchMask};
use litemap::LiteMap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sd_notify::NotifyState;

use super::Failure;
use crate::{cli::Launchers, gather::Gather, units::selector::write_app_id};

/// Where applications are if nothing else is said (XDG Base Directory Specification).
const DEFAULT_DIRECTORIES: &str = "/usr/local/share:/usr/share";

/// After a change: packages change many files at about the same time.
const PAUSE: Duration = Duration::from_millis(300);

/// When all is looked at even if nothing was heard, since directories that are yet to be made are not watched.
const LOOK: Duration = Duration::from_secs(300);

/// No .desktop file is larger, in bytes.
const LONGEST: u64 = 1 << 20;

/// Runs it: with `--once` until the copies are made, else for ever.
///
/// # Errors
/// There is no place for the copies, or they cannot be written.
pub fn run(options: &Launchers) -> Result<ExitCode, Failure> {
    let place = directory().ok_or_else(|| {
        Failure::new("XDG_RUNTIME_DIR is not set, which the copies belong into: start it in a user's session")
    })?;
    let copies = Copies { command: command(options)?, place };
    loop {
        // What changes while all is looked at is heard of afterwards.
        let mut inotify = Inotify::init().map_err(Failure::new)?;
        let applications = copies.sources();
        for directory in applications.iter().flat_map(|top| directories(top)) {
            // One that is gone by now was heard of as well, or is seen later.
            let _ = inotify.watches().add(directory, CHANGES);
        }
        let number = copies.make(&applications)?;
        if options.once {
            return Ok(ExitCode::SUCCESS);
        }
        tracing::info!("{number} launchers start their application by `scnpm run`");
        // Without systemd there is nobody to be told.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        wait(&mut inotify)?;
        thread::sleep(PAUSE);
    }
}

const CHANGES: WatchMask = WatchMask::CREATE
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVE)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::ATTRIB);

/// Until something has changed, or it is time to look.
fn wait(inotify: &mut Inotify) -> Result<(), Failure> {
    let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::NONE);
    poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], timeout).map_err(Failure::new)?;
    Ok(())
}

/// Where the copies belong. `RUNTIME_DIRECTORY` is systemd's for a service that has one, which removes it at the end.
fn directory() -> Option<PathBuf> {
    let own = || Some(PathBuf::from(env::var_os("XDG_RUNTIME_DIR")?).join("scnpm"));
    let top = env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from).or_else(own)?;
    top.is_absolute().then(|| top.join("applications"))
}

/// What comes in front of an application's id and `--`.
fn command(options: &Launchers) -> Result<Vec<String>, Failure> {
    let program = env::current_exe().map_err(Failure::new)?;
    let program = program.to_str().filter(|path| !path.contains(char::is_control));
    let program = program.ok_or_else(|| Failure::new("no launcher can have the path of scnpm"))?;
    let wait: &[&str] = if options.wait { &["--wait"] } else { &[] };
    Ok([&[program, "run"], wait, &["--app"]].concat().into_iter().map(str::to_owned).collect())
}

struct Copies {
    command: Vec<String>,
    place: PathBuf,
}

impl Copies {
    /// The directories of applications, those first that come first for desktops.
    fn sources(&self) -> Vec<PathBuf> {
        let variable = env::var_os("XDG_DATA_DIRS").filter(|list| !list.is_empty());
        let list = variable.unwrap_or_else(|| DEFAULT_DIRECTORIES.into());
        let all = env::split_paths(&list).map(|directory| directory.join("applications"));
        all.filter(|directory| directory.is_absolute() && *directory != self.place).collect()
    }

    /// Makes the copies what they are to be; their number.
    fn make(&self, applications: &[PathBuf]) -> Result<usize, Failure> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| Failure::new(format!("{}: {error}", path.display()))
        };
        fs::create_dir_all(&self.place).map_err(failed(&self.place))?;
        let wanted: LiteMap<String, String> = entries(applications)
            .into_iter()
            .filter_map(|(id, path)| Some((format!("{id}.desktop"), self.copy(&id, &path)?)))
            .gather();
        for (name, text) in &wanted {
            let path = self.place.join(name);
            if fs::read(&path).is_ok_and(|present| present == text.as_bytes()) {
                continue;
            }
            // Whoever reads it finds it whole.
            let new = self.place.join(format!(".{name}.new"));
            fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(failed(&path))?;
        }
        for present in fs::read_dir(&self.place).map_err(failed(&self.place))?.flatten() {
            if present.file_name().to_str().is_none_or(|name| !wanted.contains_key(name)) {
                fs::remove_file(present.path()).map_err(failed(&present.path()))?;
            }
        }
        Ok(wanted.len())
    }

    fn copy(&self, id: &str, path: &Path) -> Option<String> {
        let metadata = fs::metadata(path).ok()?;
        let text =
            fs::read_to_string(path).ok().filter(|_| metadata.is_file() && metadata.len() <= LONGEST)?;
        let id = write_app_id(id.as_bytes());
        let words: Vec<&str> = self.command.iter().map(String::as_str).chain([&*id, "--"]).collect();
        entry::prefixed(&text, &entry::command(&words))
    }
}

/// The .desktop files by the applications' ids, of each the one that comes first.
fn entries(applications: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for top in applications {
        for directory in directories(top) {
            for file in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = file.path();
                let below =
                    path.strip_prefix(top).ok().and_then(Path::to_str).map(|below| below.replace('/', "-"));
                if let Some(id) = below.as_deref().and_then(|name| name.strip_suffix(".desktop")) {
                    found.entry(id.to_owned()).or_insert(path);
                }
            }
        }
    }
    found
}

/// A directory and all that are in it; of links to directories only the first one's.
fn directories(top: &Path) -> Vec<PathBuf> {
    let mut all = vec![top.to_owned()];
    let mut at = 0;
    while let Some(directory) = all.get(at) {
        let inside = fs::read_dir(directory).into_iter().flatten().flatten();
        let below = inside.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let below: Vec<PathBuf> = below.map(|entry| entry.path()).collect();
        all.extend(below);
        at += 1;
    }
    all
}
