//! What systemd and user managers write to the journal about units.
//!
//! The entries are those that the original reads, and those about units that end by themselves. An entry
//! may be read half a second after it was written, since journald is slow to wake its readers:
//! [`Journal::drain`] right after another source spoke finds it at once.

use crate::gather::Gather;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use inotify::{Inotify, WatchMask};
use systemd::journal::{JournalRef, JournalWaitResult, OpenFilesOptions};

use super::{Heard, entry, inotify, readable::Readable, sigbus};

/// A reader of the machine's journal. Must be used within a tokio runtime.
#[derive(Default)]
pub struct Journal {
    open: Option<Open>,
    /// Where other files may come to be. Nothing only if it could not be watched.
    directories: Option<Directories>,
    /// Where to go on in other files.
    last: Start,
    /// Whether there is something to read, whatever the descriptors say.
    more: bool,
}

impl Journal {
    /// Waits until [`Self::drain`] may have something to read; if the journal is lost, until there may be
    /// one again. Dropping the future loses nothing.
    pub async fn ready(&self) {
        if self.more {
            return;
        }
        let ready = async |readable: Option<&Readable>| match readable {
            Some(readable) => readable.ready().await,
            None => std::future::pending().await,
        };
        tokio::select! {
            () = ready(self.open.as_ref().map(|open| &open.readable)) => {}
            () = ready(self.directories.as_ref().map(|directories| &directories.readable)) => {}
        }
    }

    /// Reads all new entries, in their order and without blocking. After very many it stops early, and [`Self::ready`]
    /// is ready at once. A journal that is not open is opened where reading ended, one that became unreadable at its end.
    ///
    /// # Errors
    /// There is no journal, or none that may be read; the next call tries once more.
    pub fn drain(&mut self) -> io::Result<Vec<Heard>> {
        let mut heard = Vec::new();
        match self.read(&mut heard) {
            Ok(true) => return Ok(heard),
            Ok(false) => {}
            // What could not be read may be so again.
            Err(_) => self.last = Start::Tail,
        }
        self.close();
        self.open()?;
        heard.push(Heard::Resumed);
        Ok(heard)
    }

    /// Reads what is open; whether that is still what there is to be read.
    fn read(&mut self, heard: &mut Vec<Heard>) -> io::Result<bool> {
        let (Some(open), Some(directories)) = (&mut self.open, &mut self.directories) else {
            // There may have been no file for a moment.
            return Ok(false);
        };
        let (last, more) = (&mut self.last, &mut self.more);
        guarded(|| {
            // Before libsystemd notices that a file was renamed, and closes it.
            *more = read(&mut open.journal, last, heard)?;
            if *more {
                return Ok(true);
            }
            let is_stirred = directories.is_stirred();
            let change = open.journal.process()?;
            // libsystemd has read its inotify descriptor to the end.
            let _ = open.readable.read(|| io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
            match change {
                JournalWaitResult::Nop if !is_stirred => {}
                _ if list().map_or(true, |now| changed(&open.files, &open.refused, &now)) => {
                    return Ok(false);
                }
                // What was written since the first look has woken nobody.
                _ => *more = read(&mut open.journal, last, heard)?,
            }
            Ok(true)
        })
    }

    /// Opens the files that there are now.
    fn open(&mut self) -> io::Result<()> {
        let directories = match &mut self.directories {
            Some(directories) => directories,
            none => none.insert(Directories::new()?),
        };
        // First the watch, then the look.
        directories.is_stirred();
        directories.watch(false)?;
        let files = list()?;
        directories.watch(!files.is_empty())?;
        let (journal, refused, last) = guarded(|| open(&files, &self.last))?;
        directories.watch(!refused.is_empty())?;
        let readable = Readable::of(&journal.fd()?)?;
        self.open = Some(Open { journal, readable, files, refused });
        self.last = last;
        // What was written since it was opened has woken nobody.
        self.more = true;
        Ok(())
    }

    fn close(&mut self) {
        self.more = false;
        // Closing a file may read its header.
        let _ = sigbus::guarded(|| self.open = None);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// Bounds the time that a flood of entries can hold the daemon.
const ENTRIES_AT_ONCE: usize = 1000;

/// Enough for a unit's name, of at most 255 bytes, and for what matters of a message.
const DATA_THRESHOLD: usize = 1024;

const ROOTS: [&str; 2] = ["/run/log/journal", "/var/log/journal"];

/// A file that journald writes to: its path and inode.
type File = (PathBuf, u64);

/// Files with size and time of the last change, which are looked at if libsystemd refuses one.
type Files = BTreeMap<File, (u64, SystemTime)>;

/// An open journal: the files as they were when it was opened.
struct Open {
    journal: systemd::Journal,
    readable: Readable,
    files: Files,
    refused: BTreeSet<File>,
}

/// Where to begin to read.
#[derive(Debug, Clone, Default)]
enum Start {
    Head,
    /// After the entry of this cursor.
    After(String),
    #[default]
    Tail,
}

/// Runs what reads journal files. An error if one of them was truncated meanwhile.
fn guarded<R>(read: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    match sigbus::guarded(read)? {
        (result, false) => result,
        (_, true) => Err(io::Error::other("a journal file was truncated while it was read")),
    }
}

/// Watches the directories for other files. libsystemd only watches those of the files that it has opened.
struct Directories {
    inotify: Inotify,
    readable: Readable,
}

impl Directories {
    fn new() -> io::Result<Self> {
        let (inotify, readable) = inotify()?;
        Ok(Self { inotify, readable })
    }

    /// Watches those that exist, perhaps also for what is written: a file may be refused whose header is still to come.
    /// An error if the kernel has no watch for us: then libsystemd, which does not say so, has none either.
    fn watch(&self, with_writes: bool) -> io::Result<()> {
        let mut mask = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::ATTRIB | WatchMask::ONLYDIR;
        mask.set(WatchMask::MODIFY, with_writes);
        for root in ROOTS {
            let above = Path::new(root).ancestors().map(Path::to_path_buf);
            for directory in above.chain(machine_directory(root).ok()) {
                // Those that don't exist are seen to appear in those that do.
                if_readable(self.inotify.watches().add(directory, mask))?;
            }
        }
        Ok(())
    }

    /// Whether something happened since the last call.
    fn is_stirred(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let mut stirred = false;
        while self.readable.read(|| self.inotify.read_events(&mut buffer).map(|_| ())).is_ok() {
            stirred = true;
        }
        stirred
    }
}

fn machine_directory(root: &str) -> io::Result<PathBuf> {
    let machine = fs::read_to_string("/etc/machine-id")?;
    Ok(Path::new(root).join(machine.trim()))
}

/// The files that this machine's journald writes to and that may be read: the system's and each user's,
/// whose manager logs there. Not the archived ones, each of which would take 300 kB of memory.
fn list() -> io::Result<Files> {
    let mut files = Files::new();
    for root in ROOTS {
        let Some(entries) = if_readable(fs::read_dir(machine_directory(root)?))? else { continue };
        for entry in entries.flatten().filter(|entry| is_online(entry.file_name().as_encoded_bytes())) {
            files.extend(if_readable(file(entry.path()))?);
        }
    }
    Ok(files)
}

/// Nothing for what is not there or may not be read; an error says nothing about what there is.
fn if_readable<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(None)
        }
        result => result.map(Some),
    }
}

fn file(path: PathBuf) -> io::Result<(File, (u64, SystemTime))> {
    let metadata = fs::File::open(&path)?.metadata()?;
    Ok(((path, metadata.ino()), (metadata.size(), metadata.modified()?)))
}

/// Whether there are other files now than were opened, or refused ones that changed.
fn changed(opened: &Files, refused: &BTreeSet<File>, now: &Files) -> bool {
    !opened.keys().eq(now.keys()) || refused.iter().any(|file| opened.get(file) != now.get(file))
}

/// Archived files have an `@` in their names, and a `~` at the end if they were not closed well.
fn is_online(name: &[u8]) -> bool {
    name.ends_with(b".journal") && !name.contains(&b'@')
}

/// Opens those of the files that libsystemd does not refuse. Also returns the others, and where to go on if nothing is
/// read.
fn open(files: &Files, start: &Start) -> io::Result<(systemd::Journal, BTreeSet<File>, Start)> {
    if files.is_empty() {
        let text = "no journal in /run/log/journal or /var/log/journal that may be read \
                    (is the process in the group systemd-journal?)";
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let mut refused = BTreeSet::new();
    let mut journal = match open_files(files.keys()) {
        Ok(journal) => journal,
        Err(_) => {
            // One bad file spoils the call for all.
            refused = files.keys().filter(|file| open_files([*file]).is_err()).cloned().gather();
            open_files(files.keys().filter(|file| !refused.contains(file)))?
        }
    };
    // Before the first look, so that no change goes unnoticed.
    journal.fd()?;
    journal.set_data_threshold(DATA_THRESHOLD)?;
    journal.match_add("SYSLOG_IDENTIFIER", "systemd")?.match_add("_SYSTEMD_UNIT", "init.scope")?;
    journal.match_or()?;
    journal.match_add("SYSLOG_IDENTIFIER", "systemd")?.match_add("_SYSTEMD_USER_UNIT", "init.scope")?;
    let last = seek(&mut journal, start)?;
    Ok((journal, refused, last))
}

fn open_files<'a>(files: impl IntoIterator<Item = &'a File>) -> io::Result<systemd::Journal> {
    let paths = files.into_iter().map(|(path, _)| CString::new(path.as_os_str().as_encoded_bytes()));
    let paths: Vec<CString> = paths.collect::<Result<_, _>>()?;
    if paths.is_empty() {
        return Err(io::Error::other("libsystemd can read none of the journal's files"));
    }
    Ok(OpenFilesOptions::default().open_files(&paths)?)
}

fn seek(journal: &mut JournalRef, start: &Start) -> systemd::Result<Start> {
    match start {
        Start::Head => journal.seek_head()?,
        Start::After(cursor) => {
            journal.seek_cursor(cursor.as_str())?;
            // The entry itself was read before, if it is in these files.
            if journal.next()? == 0 || !journal.test_cursor(cursor.as_str())? {
                journal.seek_cursor(cursor.as_str())?;
            }
        }
        Start::Tail => {
            journal.seek_tail()?;
            // The tail is no place to go on from: the last entry is, or the head if there is none.
            if journal.previous()? == 0 {
                journal.seek_head()?;
                return Ok(Start::Head);
            }
            return Ok(Start::After(journal.cursor()?));
        }
    }
    Ok(start.clone())
}

/// Reads the new entries; says whether there may be more.
fn read(journal: &mut JournalRef, last: &mut Start, heard: &mut Vec<Heard>) -> io::Result<bool> {
    let mut count = 0;
    while count < ENTRIES_AT_ONCE && journal.next()? > 0 {
        count += 1;
        heard.extend(entry::heard(|name| field(journal, name))?);
    }
    if count > 0 {
        *last = Start::After(journal.cursor()?);
    }
    Ok(count == ENTRIES_AT_ONCE)
}

fn field(journal: &mut JournalRef, name: &CStr) -> io::Result<Option<String>> {
    let value = journal.get_data(name)?;
    Ok(value.and_then(|field| Some(String::from_utf8_lossy(field.value()?).into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_opened_again_when_they_changed() {
        let file = |inode| (PathBuf::from("/x/system.journal"), inode);
        let files = |inode, size| Files::from([(file(inode), (size, SystemTime::UNIX_EPOCH))]);
        let none = BTreeSet::new();
        assert!(!changed(&files(1, 1), &none, &files(1, 2)));
        assert!(changed(&files(1, 1), &none, &files(2, 1)));
        assert!(changed(&files(1, 1), &none, &Files::new()));
        let refused = BTreeSet::from([file(1)]);
        assert!(!changed(&files(1, 1), &refused, &files(1, 1)));
        assert!(changed(&files(1, 1), &refused, &files(1, 2)));
    }

    #[test]
    fn archived_files_are_not_read() {
        assert!(is_online(b"system.journal"));
        assert!(is_online(b"user-1000.journal"));
        assert!(!is_online(b"system@0b-01-06.journal"));
        assert!(!is_online(b"user-1000@0006-0f.journal~"));
        assert!(!is_online(b"fss"));
    }
}
