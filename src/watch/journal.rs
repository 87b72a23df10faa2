//! What systemd and user managers write to the journal about units.
//!
//! The entries are those that the original reads, and those about units that end by themselves. An entry
//! may be read half a second after it was written, since journald is slow to wake its readers:
//! [`Journal::drain`] right after another source spoke finds it at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use inotify::{Inotify, WatchMask};
use systemd::journal::{JournalRef, JournalWaitResult, OpenFilesOptions};

use super::{readable::Readable, sigbus};
use crate::model::UnitName;

/// A reader of the machine's journal, at its end.
pub struct Journal {
    state: State,
}

enum State {
    Open(Open),
    /// There is nothing to read, and this wakes when there may be.
    Lost(Option<Directories>),
}

/// What an entry says about a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEvent {
    /// The unit.
    pub unit: UnitName,
    /// Whether a user manager says so: then it is a unit of that user, who can say what he likes.
    pub user: bool,
    /// What happened.
    pub kind: Kind,
}

/// What happened to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something.
    Changed,
    /// One of its jobs has the result `done`.
    JobDone,
    /// It was neither `inactive` nor `failed` when the entry was written.
    Active,
    /// It was `inactive` or `failed` when the entry was written; or about to be restarted by `Restart=`,
    /// which the journal says only afterwards.
    Inactive,
}

/// What [`Journal::drain`] read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// In the order of the entries.
    pub events: Vec<JournalEvent>,
    /// Whether the journal had to be opened again, and entries may have been missed.
    pub resumed: bool,
}

impl Journal {
    /// Opens the journal at its end. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// There is no journal, or none that may be read.
    pub fn open() -> io::Result<Self> {
        Ok(Self { state: State::Open(Open::new(Start::Tail)?) })
    }

    /// A journal that is lost, for who could not open it and wants to read it once it is there.
    pub fn lost() -> Self {
        let directories = Directories::new().ok();
        if let Some(directories) = &directories
            && list().is_ok_and(|files| !files.is_empty())
        {
            directories.watch_writes();
        }
        Self { state: State::Lost(directories) }
    }

    /// Waits until [`Self::drain`] may have something to read; if the journal is lost, until there may be
    /// one again. Dropping the future loses nothing.
    pub async fn ready(&self) {
        let ready = match &self.state {
            State::Open(open) => open.ready().await,
            State::Lost(Some(directories)) => directories.readable.ready().await,
            State::Lost(None) => Err(io::ErrorKind::NotConnected.into()),
        };
        if ready.is_err() {
            std::future::pending().await
        }
    }

    /// Reads all new entries, without blocking. After very many it stops early, and [`Self::ready`] is
    /// ready at once. A journal that became unreadable is opened again, at its end.
    ///
    /// # Errors
    ///
    /// It is lost and can't be opened again; the next call tries once more.
    pub fn drain(&mut self) -> io::Result<Drained> {
        let mut drained = Drained::default();
        let start = match &mut self.state {
            State::Open(open) => match open.drain(&mut drained.events) {
                Ok(None) => return Ok(drained),
                Ok(Some(start)) => start,
                // What could not be read may be so again.
                Err(_) => Start::Tail,
            },
            State::Lost(_) => Start::Tail,
        };
        // First the watch, then the look. This closes the journal, too.
        *self = Self::lost();
        self.state = State::Open(Open::new(start)?);
        drained.resumed = true;
        Ok(drained)
    }
}

/// Bounds the time that a flood of entries can hold the daemon.
const ENTRIES_AT_ONCE: usize = 1000;

/// Enough for a unit's name, of at most 255 bytes, and for what matters of a message.
const DATA_THRESHOLD: usize = 1024;

const ROOTS: [&str; 2] = ["/run/log/journal", "/var/log/journal"];

/// A file that journald writes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    path: PathBuf,
    inode: u64,
}

/// Size and time of the last change, for a file that libsystemd refuses: its header may be still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

type Files = BTreeMap<Name, Stamp>;

/// An open journal: the files as they were when it was opened.
struct Open {
    /// Always there, except while it is dropped.
    journal: Option<systemd::Journal>,
    readable: Readable,
    directories: Directories,
    files: Files,
    refused: BTreeSet<Name>,
    /// Where to go on in other files.
    last: Start,
    /// Whether there is something to read, whatever the descriptors say.
    more: bool,
    /// Whether the files are to be compared in the next round.
    fresh: bool,
}

/// Where to begin to read.
#[derive(Debug, Clone)]
enum Start {
    Head,
    /// After the entry of this cursor.
    After(String),
    Tail,
}

impl Open {
    fn new(start: Start) -> io::Result<Self> {
        let directories = Directories::new()?;
        let files = list()?;
        let (opened, faulted) = sigbus::guarded(|| open(&files, start))?;
        let (journal, refused, last) = opened?;
        if faulted {
            return Err(truncated());
        }
        let readable = Readable::of(&journal.fd()?)?;
        if !refused.is_empty() {
            directories.watch_writes();
        }
        // What happened since it was opened has woken nobody.
        let (journal, more, fresh) = (Some(journal), true, true);
        Ok(Self { journal, readable, directories, files, refused, last, more, fresh })
    }

    async fn ready(&self) -> io::Result<()> {
        if self.more {
            return Ok(());
        }
        tokio::select! {
            ready = self.readable.ready() => ready,
            ready = self.directories.readable.ready() => ready,
        }
    }

    /// Says where to go on reading if other files are to be read from now on.
    fn drain(&mut self, events: &mut Vec<JournalEvent>) -> io::Result<Option<Start>> {
        let journal = self.journal.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let (readable, files, refused) = (&self.readable, &self.files, &self.refused);
        let (last, more) = (&mut self.last, &mut self.more);
        let compare = self.directories.is_stirred() | self.fresh;
        self.fresh = false;
        let (changed, faulted) = sigbus::guarded(|| -> io::Result<bool> {
            // Before libsystemd notices that a file was renamed, and closes it.
            *more = read(journal, last, events)?;
            if *more {
                self.fresh = compare;
                return Ok(false);
            }
            match process(journal, readable)? {
                JournalWaitResult::Nop if !compare => Ok(false),
                _ if changed(files, refused, &list()?) => Ok(true),
                // What was written since the first look has woken nobody.
                _ => {
                    *more = read(journal, last, events)?;
                    Ok(false)
                }
            }
        })?;
        if faulted {
            return Err(truncated());
        }
        Ok(changed?.then(|| self.last.clone()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let journal = self.journal.take();
        // Closing a file may read its header.
        let _ = sigbus::guarded(|| drop(journal));
    }
}

fn truncated() -> io::Error {
    io::Error::other("a journal file was truncated while it was read")
}

fn no_journal() -> io::Error {
    let text = "no journal in /run/log/journal or /var/log/journal that may be read \
                (is the process in the group systemd-journal?)";
    io::Error::new(io::ErrorKind::NotFound, text)
}

/// Watches the directories for other files. libsystemd only watches those of the files that it has opened.
struct Directories {
    inotify: Inotify,
    readable: Readable,
}

const DIRECTORY_EVENTS: WatchMask =
    WatchMask::CREATE.union(WatchMask::MOVED_TO).union(WatchMask::ATTRIB).union(WatchMask::ONLYDIR);

impl Directories {
    fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let readable = Readable::of(&inotify)?;
        let directories = Self { inotify, readable };
        directories.watch(DIRECTORY_EVENTS);
        Ok(directories)
    }

    /// Watches also for what is written: a file that may be read was refused; perhaps its header is still
    /// to come.
    fn watch_writes(&self) {
        self.watch(DIRECTORY_EVENTS | WatchMask::MODIFY);
    }

    fn watch(&self, mask: WatchMask) {
        for root in ROOTS {
            let above = Path::new(root).ancestors().map(Path::to_path_buf);
            for directory in above.chain(machine_directory(root).ok()) {
                // Those that don't exist are seen to appear in those that do.
                let _ = self.inotify.watches().add(directory, mask);
            }
        }
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
        let Ok(entries) = fs::read_dir(machine_directory(root)?) else { continue };
        let online = entries.flatten().filter(|entry| is_online(entry.file_name().as_encoded_bytes()));
        files.extend(online.filter_map(|entry| name(entry.path()).ok()));
    }
    Ok(files)
}

fn name(path: PathBuf) -> io::Result<(Name, Stamp)> {
    let metadata = fs::File::open(&path)?.metadata()?;
    let (size, seconds, nanoseconds) = (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
    Ok((Name { path, inode: metadata.ino() }, Stamp { size, seconds, nanoseconds }))
}

/// Whether there are other files now than were opened, or refused ones that changed.
fn changed(opened: &Files, refused: &BTreeSet<Name>, now: &Files) -> bool {
    !opened.keys().eq(now.keys()) || refused.iter().any(|name| opened.get(name) != now.get(name))
}

/// Archived files have an `@` in their names, and a `~` at the end if they were not closed well.
fn is_online(name: &[u8]) -> bool {
    name.ends_with(b".journal") && !name.contains(&b'@')
}

/// Opens those of the files that libsystemd does not refuse.
fn open(files: &Files, start: Start) -> io::Result<(systemd::Journal, BTreeSet<Name>, Start)> {
    if files.is_empty() {
        return Err(no_journal());
    }
    let mut refused = BTreeSet::new();
    let mut journal = match open_files(files.keys()) {
        Ok(journal) => journal,
        Err(_) => {
            // One bad file spoils the call for all.
            refused = files.keys().filter(|name| open_files([*name]).is_err()).cloned().collect();
            open_files(files.keys().filter(|name| !refused.contains(name)))?
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

fn open_files<'a>(names: impl IntoIterator<Item = &'a Name>) -> io::Result<systemd::Journal> {
    let paths = names.into_iter().map(|name| CString::new(name.path.as_os_str().as_encoded_bytes()));
    let paths: Vec<CString> = paths.collect::<Result<_, _>>()?;
    if paths.is_empty() {
        return Err(io::Error::other("libsystemd can read none of the journal's files"));
    }
    Ok(OpenFilesOptions::default().open_files(&paths)?)
}

/// Returns where to go on if nothing is read.
fn seek(journal: &mut JournalRef, start: Start) -> systemd::Result<Start> {
    match &start {
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
    Ok(start)
}

/// Lets libsystemd notice what happened to the files.
fn process(journal: &mut JournalRef, readable: &Readable) -> io::Result<JournalWaitResult> {
    let mut change = None;
    let _ = readable.read(|| -> io::Result<()> {
        change = Some(journal.process());
        // libsystemd reads its inotify descriptor to the end.
        Err(io::ErrorKind::WouldBlock.into())
    });
    Ok(change.unwrap_or_else(|| journal.process())?)
}

/// Reads the new entries; says whether there may be more.
fn read(journal: &mut JournalRef, last: &mut Start, events: &mut Vec<JournalEvent>) -> io::Result<bool> {
    let mut count = 0;
    while count < ENTRIES_AT_ONCE && journal.next()? > 0 {
        count += 1;
        let system = field(journal, c"_SYSTEMD_UNIT")?.as_deref() == Some("init.scope");
        let entry = Entry {
            user: !system,
            // Any user can write UNIT=; only systemd itself is in the system's init.scope.
            unit: field(journal, if system { c"UNIT" } else { c"USER_UNIT" })?,
            job_result: field(journal, c"JOB_RESULT")?,
            message_id: field(journal, c"MESSAGE_ID")?,
            message: field(journal, c"MESSAGE")?,
        };
        events.extend(events_of(entry));
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

/// What matters of an entry.
#[derive(Debug, Default)]
struct Entry {
    user: bool,
    unit: Option<String>,
    job_result: Option<String>,
    message_id: Option<String>,
    message: Option<String>,
}

/// A unit that is about to be `activating` (SD_MESSAGE_UNIT_STARTING).
const STARTING: &str = "7d4958e842da4a758f6c1cdc7b36dcc5";
/// A start job is done (SD_MESSAGE_UNIT_STARTED).
const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
/// A stop job, or the first half of a restart job, is done (SD_MESSAGE_UNIT_STOPPED).
const STOPPED: &str = "9d1aaa27d60140bd96365438aad20286";
/// A unit ended well (SD_MESSAGE_UNIT_SUCCESS). User managers say so at debug level only.
const SUCCESS: &str = "7ad2d189f7e94e70a38c781354912448";
/// A unit ended badly (SD_MESSAGE_UNIT_FAILURE_RESULT).
const FAILURE: &str = "d9b373ed55a64feb8242e02dbe79a49c";

fn events_of(entry: Entry) -> Vec<JournalEvent> {
    let Some(name) = entry.unit else { return Vec::new() };
    let done = entry.job_result.as_deref() == Some("done");
    let state = match entry.message_id.as_deref() {
        Some(STARTING) => Some(Kind::Active),
        Some(STARTED) => entry.message.is_some_and(|text| says_active(&text)).then_some(Kind::Active),
        Some(STOPPED | SUCCESS | FAILURE) => Some(Kind::Inactive),
        _ => None,
    };
    let first = if done { Kind::JobDone } else { Kind::Changed };
    let kinds = [Some(first), state].into_iter().flatten();
    kinds.map(|kind| JournalEvent { unit: UnitName(name.clone().into()), user: entry.user, kind }).collect()
}

/// Whether a done start job left the unit active. It did not if a condition was not met, and perhaps not
/// if a Type=oneshot service `Finished`: that was `activating` before, and if it is inactive now,
/// another entry says so. The texts are not translated.
fn says_active(message: &str) -> bool {
    const WORDS: [&str; 8] =
        ["Activated", "Created", "Found", "Listening", "Mounted", "Reached", "Set", "Started"];
    let word = message.split(' ').next().unwrap_or_default();
    WORDS.contains(&word) && !message.contains(" skipped")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an entry of systemd's says about `a.service`.
    fn kinds(job_result: &str, message_id: &str, message: &str) -> Vec<Kind> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let entry = Entry {
            user: false,
            unit: some("a.service"),
            job_result: some(job_result),
            message_id: some(message_id),
            message: some(message),
        };
        events_of(entry).into_iter().map(|events| events.kind).collect()
    }

    #[test]
    fn started_unit_is_active() {
        use Kind::*;
        assert_eq!(kinds("done", STARTED, "Started a.service - A."), [JobDone, Active]);
        assert_eq!(kinds("done", STARTED, "Created slice a.slice."), [JobDone, Active]);
        assert_eq!(kinds("", STARTING, "Starting a.service..."), [Changed, Active]);
    }

    #[test]
    fn done_start_job_alone_does_not_make_a_unit_active() {
        use Kind::*;
        let skipped = "a.service was skipped because of an unmet condition check (ConditionPathExists=/x).";
        assert_eq!(kinds("done", STARTED, skipped), [JobDone]);
        let skipped = "Started - A skipped, unmet condition check ConditionPathExists=/x";
        assert_eq!(kinds("done", STARTED, skipped), [JobDone]);
        assert_eq!(kinds("done", STARTED, "Finished a.service - A."), [JobDone]);
        assert_eq!(kinds("done", STARTED, ""), [JobDone]);
    }

    #[test]
    fn ended_unit_is_inactive() {
        use Kind::*;
        assert_eq!(kinds("done", STOPPED, "Stopped a.service."), [JobDone, Inactive]);
        assert_eq!(kinds("", SUCCESS, "a.service: Deactivated successfully."), [Changed, Inactive]);
        assert_eq!(kinds("", FAILURE, "a.service: Failed with result 'exit-code'."), [Changed, Inactive]);
    }

    #[test]
    fn other_entries_only_say_that_something_happened() {
        use Kind::*;
        assert_eq!(kinds("", "", "a.service: Sent signal SIGKILL to main process 1 (x)."), [Changed]);
        assert_eq!(kinds("failed", "be02cf6855d2428ba40df7e9d022f03d", "Failed to start a."), [Changed]);
        assert_eq!(kinds("done", "7b05ebc668384222baa8881179cfda54", "Reloaded a.service."), [JobDone]);
    }

    #[test]
    fn entries_without_a_unit_say_nothing() {
        let entry = Entry { message_id: Some(STARTED.into()), ..Entry::default() };
        assert_eq!(events_of(entry), []);
    }

    #[test]
    fn files_are_opened_again_when_they_changed() {
        let name = |inode| Name { path: "/x/system.journal".into(), inode };
        let stamp = |size| Stamp { size, seconds: 0, nanoseconds: 0 };
        let files = |inode, size| Files::from([(name(inode), stamp(size))]);
        let none = BTreeSet::new();
        assert!(!changed(&files(1, 1), &none, &files(1, 2)));
        assert!(changed(&files(1, 1), &none, &files(2, 1)));
        assert!(changed(&files(1, 1), &none, &Files::new()));
        let refused = BTreeSet::from([name(1)]);
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

    #[test]
    fn units_of_users_are_marked() {
        let entry = Entry { user: true, unit: Some("a.scope".into()), ..Entry::default() };
        let events = JournalEvent { unit: UnitName("a.scope".into()), user: true, kind: Kind::Changed };
        assert_eq!(events_of(entry), [events]);
    }
}
