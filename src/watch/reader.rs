//! The journal's reader, on a thread of its own: to open a file of the journal can take longer than a service takes to
//! send its first packet.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use tokio::{runtime, sync::mpsc, time::sleep};

use super::{Heard, journal::Journal, pages, with_remedy};

/// How often a journal that is lost is tried again at least: the kernel may have refused a watch for new files.
const RETRY: Duration = Duration::from_secs(5);

/// How long a loss is not worth a word: while files are rotated, there may be none for a moment.
const GRACE: Duration = Duration::from_secs(1);

/// Enough for libsystemd, in bytes.
const STACK: usize = 512 * 1024;

/// Starts the thread. It looks now if it is told so, by `try_send`: another source spoke, and journald wakes its readers
/// late. What it has read comes in portions.
///
/// # Errors
/// The system has no thread or no file descriptor left.
pub fn spawn() -> io::Result<(mpsc::Sender<()>, mpsc::Receiver<Vec<Heard>>)> {
    let (nudge, nudged) = mpsc::channel(1);
    let (sender, read) = mpsc::channel(64);
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let work = move || runtime.block_on(run(nudged, sender));
    thread::Builder::new().name("journal".to_owned()).stack_size(STACK).spawn(work)?;
    Ok((nudge, read))
}

/// A journal that cannot be read.
struct Loss {
    since: Instant,
    is_told: bool,
}

impl Loss {
    fn new() -> Self {
        Self { since: Instant::now(), is_told: false }
    }

    /// What to say of it, once.
    fn tell(&mut self, error: &io::Error) -> Vec<Heard> {
        if self.is_told || self.since.elapsed() < GRACE {
            return vec![];
        }
        self.is_told = true;
        vec![Heard::Lost(with_remedy(error))]
    }

    /// When to try again, if nothing happens before.
    fn pause(&self) -> Duration {
        if self.is_told { RETRY } else { GRACE }
    }
}

/// Ends when nobody listens any more.
async fn run(mut nudged: mpsc::Receiver<()>, sender: mpsc::Sender<Vec<Heard>>) {
    let mut loss: Option<Loss> = None;
    let mut journal = Journal::default();
    // What happened before it was open was heard by nobody, and this says so.
    let mut read = journal.drain();
    loop {
        let news = match read {
            Ok(news) => {
                loss = None;
                news
            }
            Err(error) => loss.get_or_insert_with(Loss::new).tell(&error),
        };
        if !news.is_empty() && sender.send(news).await.is_err() {
            return;
        }
        pages::release_journals();
        tokio::select! {
            () = journal.ready() => {}
            nudge = nudged.recv() => if nudge.is_none() { return },
            () = sleep(loss.as_ref().map_or(RETRY, Loss::pause)), if loss.is_some() => {}
        }
        read = journal.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_and_not_if_it_is_short() {
        let (error, mut loss) = (io::Error::from_raw_os_error(libc::ENOSPC), Loss::new());
        assert_eq!((loss.tell(&error), loss.pause()), (vec![], GRACE));
        loss.since -= GRACE;
        let told = loss.tell(&error);
        assert!(
            matches!(&told[..], [Heard::Lost(why)] if why.ends_with("; raise fs.inotify.max_user_watches")),
            "{told:?}"
        );
        assert_eq!((loss.tell(&error), loss.pause()), (vec![], RETRY));
    }
}
