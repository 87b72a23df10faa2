//! What systemd-resolved answers, from its monitor: the Varlink interface io.systemd.Resolve.Monitor, which systemd 252 and later
//! have for root.

use std::{collections::VecDeque, io, path::Path};

use tokio::net::UnixStream;

use crate::answers::Reply;

/// What is asked for: all answers from now on; and those in the cache, which systemd 254 and later tell.
const SUBSCRIBE: &[u8] =
    b"{\"method\":\"io.systemd.Resolve.Monitor.SubscribeQueryResults\",\"parameters\":{},\"more\":true}\0";
const DUMP: &[u8] = b"{\"method\":\"io.systemd.Resolve.Monitor.DumpCache\",\"parameters\":{}}\0";

/// The longest message, in bytes: an answer of 4,096 addresses has some 2 MiB at most, and a cache has 4,096 entries. What is longer
/// is passed over.
const LONGEST: usize = 8 << 20;

/// How much is read before the caller has its turn, in bytes.
const AT_ONCE: usize = 256 << 10;

/// A connection to the monitor.
#[derive(Debug)]
pub struct Answers {
    live: Connection,
    cache: Option<Connection>,
}

impl Answers {
    /// Connects. What is answered from now on is told, and what is in the cache.
    ///
    /// # Errors
    /// Nobody listens there, or not to us.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let live = Connection::open(path, SUBSCRIBE).await?;
        let cache = Connection::open(path, DUMP).await.ok();
        Ok(Self { live, cache })
    }

    /// Waits for messages. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The connection is at its end.
    pub async fn next(&mut self) -> io::Result<Vec<Reply>> {
        let Self { live, cache } = self;
        tokio::select! {
            biased;
            read = live.read() => read,
            read = of_cache(cache) => {
                // There is one answer, if the interface has this at all.
                *cache = None;
                let mut replies = read.unwrap_or_default();
                replies.retain(|reply| matches!(reply, Reply::Cache(_)));
                Ok(replies)
            }
        }
    }
}

async fn of_cache(cache: &mut Option<Connection>) -> io::Result<Vec<Reply>> {
    match cache {
        Some(connection) => connection.read().await,
        None => std::future::pending().await,
    }
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    buffer: Messages,
}

impl Connection {
    async fn open(path: &Path, call: &[u8]) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        stream.writable().await?;
        // A new socket has room for this.
        match stream.try_write(call)? {
            written if written == call.len() => Ok(Self { stream, buffer: Messages::default() }),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Whole messages, at least one.
    async fn read(&mut self) -> io::Result<Vec<Reply>> {
        let mut replies = Vec::new();
        while replies.is_empty() {
            self.stream.readable().await?;
            let (mut bytes, mut taken) = (vec![0; 64 << 10], 0);
            while taken < AT_ONCE {
                match self.stream.try_read(&mut bytes) {
                    Ok(0) if replies.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(0) => break,
                    Ok(count) => {
                        taken += count;
                        let messages = self.buffer.take(&bytes[..count]);
                        replies.extend(messages.iter().filter_map(|message| Reply::of(message).ok()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(replies)
    }
}

/// Bytes to messages, each of which ends with a NUL.
#[derive(Debug, Default)]
struct Messages {
    begun: Vec<u8>,
    /// Whether what has begun is too long.
    is_passed_over: bool,
}

impl Messages {
    fn take(&mut self, bytes: &[u8]) -> VecDeque<Vec<u8>> {
        let mut whole = VecDeque::new();
        let mut parts = bytes.split(|byte| *byte == 0).peekable();
        while let Some(part) = parts.next() {
            if self.begun.len() + part.len() > LONGEST {
                self.is_passed_over = true;
                self.begun = Vec::new();
            }
            if !self.is_passed_over {
                self.begun.extend(part);
            }
            if parts.peek().is_some() {
                let message = std::mem::take(&mut self.begun);
                if !std::mem::take(&mut self.is_passed_over) {
                    whole.push_back(message);
                }
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let text = b"one\0two\0\0three\0fo";
        for size in 1..=text.len() {
            let mut messages = Messages::default();
            let found: Vec<Vec<u8>> = text.chunks(size).flat_map(|part| messages.take(part)).collect();
            assert_eq!(found, [&b"one"[..], b"two", b"", b"three"], "{size}");
            assert_eq!(messages.begun, b"fo");
        }
    }

    #[test]
    fn what_is_too_long_is_passed_over_and_not_kept() {
        let mut messages = Messages::default();
        let part = vec![b'x'; 1 << 20];
        for _ in 0..64 {
            assert!(messages.take(&part).is_empty());
            assert!(messages.begun.capacity() <= 4 * LONGEST);
        }
        assert_eq!(messages.take(b"x\0next\0"), [b"next".to_vec()]);
    }
}
