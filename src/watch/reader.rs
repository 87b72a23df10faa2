//! The journal's reader, on a thread of its own: to open a file of the journal can take longer than a service takes to
//! send its first packet.

use std::{io, thread};

use tokio::{runtime, sync::mpsc};

use super::{Heard, journal::Journal, pages};

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
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let work = move || runtime.block_on(run(nudged, sender));
    thread::Builder::new().name("journal".to_owned()).stack_size(STACK).spawn(work)?;
    Ok((nudge, read))
}

/// Ends when nobody listens any more.
async fn run(mut nudged: mpsc::Receiver<()>, sender: mpsc::Sender<Vec<Heard>>) {
    let mut is_lost = false;
    let mut journal = Journal::default();
    // What was written before is none of ours.
    let mut read = journal.drain().map(|_| Vec::new());
    loop {
        let was_lost = std::mem::replace(&mut is_lost, read.is_err());
        let news = match read {
            Ok(news) => news,
            Err(error) if !was_lost => vec![Heard::Lost(error.to_string())],
            Err(_) => Vec::new(),
        };
        if !news.is_empty() && sender.send(news).await.is_err() {
            return;
        }
        pages::release_journals();
        tokio::select! {
            () = journal.ready() => {}
            nudge = nudged.recv() => if nudge.is_none() { return },
        }
        read = journal.drain();
    }
}
