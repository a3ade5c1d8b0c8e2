//! Watches: many of one client share a stream. `machine.rs` decides, `queue.rs` keeps what a reader has not taken; here are the streams, their tasks
//! and the tokens.

mod machine;
mod queue;
mod stream;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::auth::{Auth, Session};
use super::call::{Core, How, NAME};
use super::kv::bounds;
use super::status::{Failure, Row};
use super::wire::{RANGE, RangeRequest};
use crate::error::{Error, Result};
use crate::store::{Watch, WatchItem, WatchStream};
use crate::telemetry;
use machine::Token;
use queue::Queue;

/// Watches on one stream. More would gain little: 10 000 on one cost 2 MB here.
const WATCHES_PER_STREAM: usize = 1000;

/// How often one call goes to another stream: for a stream that ended meanwhile, and for a token that was refused.
const STREAMS_PER_CALL: u32 = 4;

/// All watches of a client.
#[derive(Debug)]
pub(super) struct Watches {
    core: Arc<Core>,
    progress_interval: Duration,
    streams: Mutex<Vec<Handle>>,
    last_token: AtomicU64,
}

/// A stream, as the watches that want to join see it.
#[derive(Clone, Debug)]
struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    /// Watches that are on it or on their way.
    watches: Arc<AtomicUsize>,
    /// Of the session that it was opened with: a stream keeps its token.
    generation: u64,
}

/// What a stream's task is told.
#[derive(Debug)]
enum Command {
    Add {
        token: Token,
        watch: Watch,
        queue: Arc<Queue>,
        /// Told once when the watch stands, or why it does not. Dropped when the stream ended before it took the command.
        standing: oneshot::Sender<Result<(), Failure>>,
    },
    Remove(Token),
}

impl Watches {
    pub(super) fn new(core: Arc<Core>, progress_interval: Duration) -> Self {
        Self { core, progress_interval, streams: Mutex::default(), last_token: AtomicU64::new(0) }
    }

    /// [`Store::watch`](crate::store::Store::watch).
    pub(super) async fn watch(&self, watch: Watch) -> Result<WatchStream> {
        self.establish(&watch).await.map_err(|failure| Error::from(failure).at(watch.span.key()))
    }

    async fn establish(&self, watch: &Watch) -> Result<WatchStream, Failure> {
        let deadline = Instant::now() + self.core.retry.call_timeout;
        let mut streams = 0;
        loop {
            let session = Auth::session(&self.core, deadline).await?;
            let stream = self.stream(&session);
            let failure = match self.join(&stream, watch, deadline).await {
                Ok(following) => return Ok(Box::pin(following)),
                Err(failure) => failure,
            };
            streams += 1;
            match failure.map(|failure| (failure.row, failure)) {
                _ if Instant::now() >= deadline => return Err(Failure::new(Row::TimedOut, "the watch was not created in time")),
                // The stream ended because its last watch did, just before this one came.
                None if streams < STREAMS_PER_CALL => {}
                None => return Err(Failure::new(Row::Severed, "the watch streams end before a watch is on them")),
                Some((Row::TokenRefused, failure)) if self.core.auth.has_credentials() && streams < STREAMS_PER_CALL => {
                    telemetry::repeated(NAME, "Watch", failure.row.verdict().kind, failure.words());
                    Auth::renew(&self.core, &session, deadline).await?;
                }
                // 3.4 and early 3.5 say this of a token that expired, too. A call for the same keys tells which it is, and renews the token.
                Some((Row::PermissionDenied, failure)) if self.core.auth.has_credentials() && streams < 2 => {
                    self.may_read(watch).await.map_err(|_| failure)?;
                    self.retire(&stream);
                }
                Some((_, failure)) => return Err(failure),
            }
        }
    }

    /// A stream of this session that takes another watch; a new one if there is none.
    fn stream(&self, session: &Session) -> Handle {
        let mut streams = self.streams();
        streams.retain(|stream| !stream.commands.is_closed());
        let joined = streams
            .iter()
            .find(|stream| stream.generation == session.generation && stream.watches.load(Ordering::Relaxed) < WATCHES_PER_STREAM);
        if let Some(stream) = joined {
            stream.watches.fetch_add(1, Ordering::Relaxed);
            return stream.clone();
        }
        let (commands, wishes) = mpsc::unbounded_channel();
        let handle = Handle { commands, watches: Arc::new(AtomicUsize::new(1)), generation: session.generation };
        let watches = Arc::clone(&handle.watches);
        tokio::spawn(stream::run(Arc::clone(&self.core), session.token.clone(), wishes, watches, self.progress_interval));
        streams.push(handle.clone());
        handle
    }

    /// Takes no new watches on this stream; those that it has stay.
    fn retire(&self, stream: &Handle) {
        self.streams().retain(|other| !other.commands.same_channel(&stream.commands));
    }

    /// Puts a watch on a stream and waits until it stands. An error without a failure: the stream had ended.
    async fn join(&self, stream: &Handle, watch: &Watch, deadline: Instant) -> Result<Following, Option<Failure>> {
        let token = self.last_token.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::default());
        let (standing, stands) = oneshot::channel();
        let add = Command::Add { token, watch: watch.clone(), queue: Arc::clone(&queue), standing };
        stream.commands.send(add).map_err(|_| None)?;
        // From here on a caller that gives up takes the watch back, by dropping it.
        let following = Following { queue, token, commands: stream.commands.clone() };
        match timeout_at(deadline, stands).await {
            Ok(Ok(Ok(()))) => Ok(following),
            Ok(Ok(Err(failure))) => Err(Some(failure)),
            Ok(Err(_)) => Err(None),
            Err(_) => {
                self.retire(stream);
                Err(None)
            }
        }
    }

    async fn may_read(&self, watch: &Watch) -> Result<(), Failure> {
        let (key, range_end) = bounds(&watch.span);
        let request = RangeRequest { key, range_end, count_only: true, ..RangeRequest::default() };
        self.core.call(&RANGE, How::READ, request).await.map(drop)
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch in a reader's hands. Dropping it ends it on the server.
struct Following {
    queue: Arc<Queue>,
    token: Token,
    commands: mpsc::UnboundedSender<Command>,
}

impl Stream for Following {
    type Item = Result<WatchItem>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.poll_next(context)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // A task that has ended has no watches any more.
        let _ = self.commands.send(Command::Remove(self.token));
    }
}
