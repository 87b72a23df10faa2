//! The journal's reader, on a thread of its own: to open a file of the journal can take longer than a service takes to
//! send its first packet.

use std::{
    io,
    task::{Context, Poll},
    thread,
};

use tokio::{runtime, sync::mpsc};

use super::{
    journal::{Drained, Journal, JournalEvent},
    pages,
};

/// Something read, or about the journal itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Entries about units, in their order.
    Events(Vec<JournalEvent>),
    /// The journal was opened again: entries may have been missed.
    Resumed,
    /// It cannot be read, for this reason. It is read again once it can be.
    Lost(String),
}

/// The thread, as the daemon has it.
#[derive(Debug)]
pub struct Reader {
    nudges: mpsc::Sender<()>,
    read: mpsc::Receiver<Read>,
}

/// Enough for libsystemd, in bytes.
const STACK: usize = 512 * 1024;

impl Reader {
    /// Starts it.
    ///
    /// # Errors
    /// The system has no thread or no file descriptor left.
    pub fn spawn() -> io::Result<Self> {
        let (nudges, nudged) = mpsc::channel(1);
        let (sender, read) = mpsc::channel(64);
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(STACK)
            .spawn(move || runtime.block_on(run(nudged, sender)))?;
        Ok(Self { nudges, read })
    }

    /// Has it look now: another source spoke, and journald wakes its readers late. Does not block.
    pub fn nudge(&self) {
        let _ = self.nudges.try_send(());
    }

    /// What it has read next. Nothing for ever once the thread has ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        match self.read.poll_recv(cx) {
            Poll::Ready(Some(read)) => Poll::Ready(read),
            _ => Poll::Pending,
        }
    }
}

/// Ends when nobody listens any more.
async fn run(mut nudged: mpsc::Receiver<()>, sender: mpsc::Sender<Read>) {
    let mut is_lost = false;
    let mut journal = match Journal::open() {
        Ok(journal) => journal,
        Err(error) => {
            is_lost = true;
            let _ = sender.send(Read::Lost(error.to_string())).await;
            Journal::lost()
        }
    };
    loop {
        pages::release_journals();
        tokio::select! {
            () = journal.ready() => {}
            nudge = nudged.recv() => if nudge.is_none() { return },
        }
        let news = match journal.drain() {
            Ok(Drained { events, resumed }) => {
                is_lost = false;
                let events = (!events.is_empty()).then_some(Read::Events(events));
                [events, resumed.then_some(Read::Resumed)]
            }
            Err(error) => {
                let first = !std::mem::replace(&mut is_lost, true);
                [first.then(|| Read::Lost(error.to_string())), None]
            }
        };
        for news in news.into_iter().flatten() {
            if sender.send(news).await.is_err() {
                return;
            }
        }
    }
}
