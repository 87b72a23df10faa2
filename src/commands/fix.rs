//! `scnpm check --fix`: what all good fixes change, as a diff or in the files.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use super::{
    Failure,
    examine::{Found, Machine, Texts},
    note, output, proof,
};
use crate::{
    policy::{
        files::{Disk, Files},
        parse,
    },
    text::{Severity, SourceFile},
};

/// How often fixes are applied, each time to what those before have left.
const ROUNDS: usize = 16;

/// Prints the diff, or writes the files; what is found in the files with the fixes.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn run(
    machine: &Machine<'_>,
    is_to_write: bool,
    mut found: Found,
    mut texts: Texts,
) -> Result<Found, Failure> {
    let stream = machine.files.iter().find(|file| is_to_write && !file.is_file());
    if let Some(file) = stream {
        let message = format!("{}: --write is for regular files", file.display());
        return Err(Failure { exit_code: 2, ..Failure::new(message) });
    }
    let mut files = found.policy.sources.files.clone();
    let mut fixed = 0;
    for _ in 0..ROUNDS {
        let Some(group) = proof::good(machine, &texts, &found).next() else { break };
        texts = proof::with(&texts, &found, &group);
        found = machine.examine(&texts).map_err(Failure::new)?;
        fixed += group.len();
    }
    files.retain(|file| texts.text(file).is_some_and(|text| text != file.marked(&file.text)));
    if is_to_write {
        write(machine.files, &files, &texts)?;
    } else {
        let mut diffs = files.iter().filter_map(|file| Some(diff(file, texts.text(file)?)));
        output(|out| diffs.try_for_each(|diff| write!(out, "{diff}")))?;
    }
    let count = |severity| found.diagnostics.iter().filter(|one| one.severity() == severity).count();
    let left: Vec<String> = [Severity::Error, Severity::Warning]
        .map(|severity| (count(severity), severity))
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, severity)| format!("{count} {severity}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    let fixed = if fixed == 0 { "nothing to fix".to_owned() } else { format!("{fixed} fixed") };
    note(format!(
        "{fixed}, {} left",
        if left.is_empty() { "nothing".to_owned() } else { left.join(" and ") }
    ));
    Ok(found)
}

fn diff(file: &SourceFile, text: &str) -> String {
    let mut options = diffy::DiffOptions::new();
    options.set_original_filename(file.path.clone()).set_modified_filename(file.path.clone());
    options.create_patch(&file.marked(&file.text), text).to_string()
}

/// Writes all files, or none if one cannot be.
fn write(named: &[PathBuf], files: &[SourceFile], texts: &Texts) -> Result<(), Failure> {
    let changes = files.iter().filter_map(|file| Some(Change::new(file, texts.text(file)?)));
    let changes: Vec<Change> = changes.collect::<Result<_, _>>()?;
    for change in &changes {
        let backup = change.back_up(named)?;
        note(format!("{}: what it was before is in {}", change.file.display(), backup.display()));
    }
    changes.into_iter().try_for_each(Change::commit)
}

/// A file's new text, beside the file.
struct Change {
    /// As the user names it.
    file: PathBuf,
    /// Where it is.
    place: PathBuf,
    before: Vec<u8>,
    /// The new file, until it has the old one's name.
    new: Option<PathBuf>,
}

impl Change {
    fn new(file: &SourceFile, text: &str) -> Result<Self, Failure> {
        let path = PathBuf::from(&file.path);
        let failed = |error: io::Error| Failure::new(format!("{}: {error}", file.path));
        let place = fs::canonicalize(&path).map_err(failed)?;
        let before = fs::read(&place).map_err(failed)?;
        if before != file.marked(&file.text).as_bytes() {
            return Err(Failure::new(format!("{}: it has changed meanwhile", file.path)));
        }
        let new = beside(&place, &format!(".{}.scnpm-{}", name(&place), std::process::id()));
        write_new(&new, text.as_bytes(), &place).map_err(failed)?;
        Ok(Self { file: path, place, before, new: Some(new) })
    }

    /// Keeps what was there before in a file of its own, which nothing is in that is needed.
    fn back_up(&self, files: &[PathBuf]) -> Result<PathBuf, Failure> {
        let name = name(&self.place);
        let numbered = (1..).map(|number| format!("{name}.~{number}~"));
        for name in std::iter::once(format!("{name}~")).chain(numbered) {
            for name in [name.clone(), format!(".{name}")] {
                let backup = beside(&self.place, &name);
                match write_new(&backup, &self.before, &self.place) {
                    // A pattern of an `include` may match it.
                    Ok(()) if is_read(&backup, files) => fs::remove_file(&backup),
                    Ok(()) => return Ok(backup),
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                    Err(_) if fs::read(&backup).is_ok_and(|text| text == self.before) => return Ok(backup),
                    Err(_) => break,
                }
                .map_err(|error| Failure::new(format!("{}: {error}", backup.display())))?;
            }
        }
        unreachable!("there is always another number")
    }

    fn commit(mut self) -> Result<(), Failure> {
        let Some(new) = self.new.take() else { return Ok(()) };
        fs::rename(&new, &self.place)
            .and_then(|()| File::open(self.place.parent().unwrap_or(Path::new("/")))?.sync_all())
            .map_err(|error| Failure::new(format!("{}: {error}", self.file.display())))
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        if let Some(new) = &self.new {
            let _ = fs::remove_file(new);
        }
    }
}

/// Whether a file is among those that are read.
fn is_read(file: &Path, files: &[PathBuf]) -> bool {
    let is_it = |source: &SourceFile| Disk.identity(Path::new(&source.path)) == file;
    parse::read(&Disk, files).is_ok_and(|policy| policy.sources.files.iter().any(is_it))
}

/// Makes a file that has the mode and the owner of another one.
fn write_new(path: &Path, text: &[u8], like: &Path) -> io::Result<()> {
    let like = fs::metadata(like)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file
        .write_all(text)
        .and_then(|()| fchown(&file, Some(like.uid()), Some(like.gid())))
        .and_then(|()| file.set_permissions(Permissions::from_mode(like.mode() & 0o7777)))
        .and_then(|()| file.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(path)))
}

fn beside(place: &Path, name: &str) -> PathBuf {
    place.with_file_name(name)
}

fn name(place: &Path) -> String {
    place.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
