//! Lines with fields for the journal (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>), which nobody waits for: a journald that
//! hangs must not hold up the loop. What it does not take is counted, and the number is the next line.

use std::{
    fmt, io,
    os::unix::net::UnixDatagram,
    sync::atomic::{AtomicUsize, Ordering},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

const SOCKET: &str = "/run/systemd/journal/socket";

/// How many bytes of a value are sent. A datagram that is too large would be refused.
const LONGEST: usize = 32 * 1024;

/// Sends each event to the journal.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: String,
    lost: AtomicUsize,
}

impl Journal {
    /// # Errors
    /// There is no journal to write to.
    pub(super) fn open() -> io::Result<Self> {
        Self::at(SOCKET)
    }

    fn at(path: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // journald ignores what is empty.
        socket.send_to(&[], path)?;
        Ok(Self { socket, path: path.to_owned(), lost: AtomicUsize::new(0) })
    }

    fn send(&self, entry: &Entry) {
        if self.socket.send_to(&entry.0, &self.path).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let mut entry = Entry::new(Level::WARN);
            entry.put("message", &format!("{lost} lines are missing here: the journal did not take them"));
            self.send(&entry);
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::new(*event.metadata().level());
        event.record(&mut entry);
        self.send(&entry);
    }
}

/// A line and its fields, as journald takes them.
struct Entry(Vec<u8>);

impl Entry {
    fn new(level: Level) -> Self {
        // systemd.exec(5), `SyslogLevel=`.
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "5",
            Level::DEBUG => "6",
            Level::TRACE => "7",
        };
        let mut entry = Self(Vec::with_capacity(256));
        entry.put("priority", priority);
        entry.put("syslog_identifier", "scnpm");
        entry
    }

    fn put(&mut self, name: &str, value: &str) {
        let value = &value.as_bytes()[..value.len().min(LONGEST)];
        self.0.extend(name.to_ascii_uppercase().bytes());
        self.0.push(b'\n');
        self.0.extend((value.len() as u64).to_le_bytes());
        self.0.extend(value);
        self.0.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// A journal at a socket of the test's own.
    fn journal(name: &str) -> (UnixDatagram, Journal) {
        let path = std::env::temp_dir().join(format!("scnpm-journal-{name}-{}", std::process::id()));
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(path.to_str().unwrap()).unwrap();
        assert_eq!(journald.recv(&mut [0; 8]).unwrap(), 0);
        journald.set_nonblocking(true).unwrap();
        (journald, journal)
    }

    fn lines(journald: &UnixDatagram) -> Vec<String> {
        let mut buffer = vec![0; 2 * LONGEST];
        let read = || {
            journald
                .recv(&mut buffer)
                .ok()
                .map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        std::iter::from_fn(read).collect()
    }

    #[test]
    fn fields_are_what_the_event_has() {
        let (journald, journal) = journal("fields");
        let unit: Option<&str> = None;
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            tracing::warn!(unit, cgroup = "a \"b\"\nMESSAGE=c", rule_line = 7, "in {}", "words");
        });
        let field =
            |name: &str, value: &str| format!("{name}\n{}\0\0\0\0\0\0\0{value}\n", value.len() as u8 as char);
        let expected = [
            field("PRIORITY", "4"),
            field("SYSLOG_IDENTIFIER", "scnpm"),
            field("MESSAGE", "in words"),
            field("CGROUP", "a \"b\"\nMESSAGE=c"),
            field("RULE_LINE", "7"),
        ];
        assert_eq!(lines(&journald), [expected.concat()]);
    }

    #[test]
    fn journal_that_hangs_is_not_waited_for_and_says_later_what_is_missing() {
        let (journald, journal) = journal("hangs");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
            for number in 0..10_000 {
                tracing::info!("line {number} {}", "x".repeat(3 * LONGEST));
            }
            let taken = lines(&journald).len();
            assert!((1..10_000).contains(&taken), "{taken} lines");
            tracing::info!("again");
            let last = lines(&journald);
            assert!(last[0].contains("again"), "{last:?}");
            assert!(last[1].contains(&format!("{} lines are missing here", 10_000 - taken)), "{last:?}");
        });
    }
}
