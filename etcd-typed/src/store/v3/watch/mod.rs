//! Watches. Equal watches of one client share one watch on the server, and all server watches share
//! a few streams.
//!
//! `machine.rs` decides what a stream does, and `sharing.rs` which readers share a server watch.
//! `queue.rs` buffers items for a reader, and `replay.rs` reads a long history. This file manages
//! the streams, their tasks and the tokens.

mod machine;
mod queue;
mod replay;
mod shared_watches;
mod sharing;
mod stream;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::NAME;
use super::attempt::Core;
use super::cluster::Origin;
use super::how::How;
use super::kv::bounds;
use super::rights;
use super::session::{Auth, Session};
use super::spawn;
use super::status::{Failure, Repeat, Row};
use super::wire::{RANGE, RangeRequest};
use crate::error::Result;
use crate::retry::RetryPolicy;
use crate::revision::Revision;
use crate::store::{BoxFuture, Span, Watch, WatchFrom, WatchStream};
use crate::telemetry;
use machine::Token;
use replay::{Permit, Replay};
use shared_watches::{Following, SharedWatch, SharedWatches, Stands};

/// The maximum number of server watches on one stream. A larger number would gain little: 10,000
/// watches on one stream cost 2 MB in this client.
const WATCHES_PER_STREAM: usize = 1000;

/// How often one call tries another watch or stream because the previous one ended meanwhile.
const STREAMS_PER_CALL: u32 = 4;

/// The longest wait before a refused watch is tried again, unless the watch waits for a login.
const LONGEST_DELAY: Duration = Duration::from_millis(100);

/// All watches of a client.
#[derive(Debug)]
pub(super) struct Watches {
    core: Arc<Core>,
    progress_interval: Duration,
    streams: Mutex<Vec<Handle>>,
    shared_watches: Arc<SharedWatches>,
    /// The last number given to a watch or a reader.
    last_name: AtomicU64,
    /// How many long histories are being read.
    replays: Arc<AtomicUsize>,
}

/// The handle of a stream, for watches that want to use the stream.
#[derive(Clone, Debug)]
struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    /// The number of server watches on the stream, including those about to be added.
    watches: Arc<AtomicUsize>,
    /// The newest revision that the server has reported.
    reached: Arc<AtomicU64>,
    /// True if the stream accepts no new watches. Existing watches stay.
    retired: Arc<AtomicBool>,
    /// The generation of the session that opened the stream. A stream keeps its token.
    generation: u64,
    /// The history that the watches of the stream belong to.
    origin: Origin,
}

impl Handle {
    /// Returns whether a watch may be added to the stream, or a reader to one of its watches. A
    /// stream of a former cluster may not have noticed its end yet, and would yield changes that
    /// the current cluster never had.
    fn is_open(&self) -> bool {
        !self.commands.is_closed() && !self.retired.load(Ordering::Relaxed) && self.origin.is_current()
    }

    fn is(&self, other: &Self) -> bool {
        self.commands.same_channel(&other.commands)
    }

    fn reached(&self) -> Revision {
        Revision::new(self.reached.load(Ordering::Relaxed))
    }
}

/// The part of a history that a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    All,
    /// A section of a long history: the revisions up to this one, or all later revisions if `None`.
    /// The section has its own server watch, which other readers do not share.
    Section(Option<Revision>),
}

impl Part {
    fn until(self) -> Option<Revision> {
        match self {
            Self::All => None,
            Self::Section(until) => until,
        }
    }
}

/// A command for the task of a stream.
#[derive(Debug)]
enum Command {
    Add(Arc<SharedWatch>),
    Remove(Token),
    /// The creation of a watch was not answered in time, so requests on the connection of the
    /// stream may be lost.
    Doubt,
}

impl Watches {
    pub(super) fn new(core: Arc<Core>, progress_interval: Duration) -> Self {
        Self {
            core,
            progress_interval,
            streams: Mutex::default(),
            shared_watches: Arc::default(),
            last_name: AtomicU64::new(0),
            replays: Arc::default(),
        }
    }

    /// Implements [`Store::watch`](crate::store::Store::watch).
    pub(super) async fn watch(self: Arc<Self>, watch: Watch) -> Result<WatchStream> {
        watch.span.check()?;
        let following = self.establish(&watch, Part::All).await.map_err(|failure| rights::unreadable(&watch.span, failure.into()))?;
        if let WatchFrom::Resumed(start) = watch.from
            && following.shared.stream.reached().get().saturating_sub(start.get()) > replay::FAR
            && following.is_alone()
            && let Some(permit) = Permit::of(&self.replays)
        {
            let stream = following.shared.stream.clone();
            let sections = Sections { watches: self, span: watch.span, stream };
            return Ok(Box::pin(Replay::new(sections, start, Box::pin(following), permit)));
        }
        Ok(Box::pin(following))
    }

    /// Waits until a watch is established, and returns a reader of the watch.
    async fn establish(&self, watch: &Watch, part: Part) -> Result<Following, Failure> {
        let began = Instant::now();
        let deadline = self.core.retry.deadline();
        let mut backoff = RetryPolicy { max_delay: LONGEST_DELAY, ..self.core.retry.clone() }.backoff();
        let mut next_attempt = Instant::now();
        let mut turned_away = 0;
        let mut refusing_endpoints = 0;
        loop {
            // If two shared watches have turned a reader away, the reader gets a separate watch.
            let alone = turned_away > 1 || part != Part::All;
            let (following, stands) = match self.shared_watches.reader(watch, self.name(), alone, part, |_| Err(())) {
                Ok(reader) => reader,
                Err(()) => {
                    // Boxed, like the code below: thousands of callers may wait here, and nearly
                    // all of them join an existing watch.
                    let session = Box::pin(Auth::session(&self.core, deadline)).await?;
                    self.create(watch, alone, part, &session)
                }
            };
            // If the caller gives up here, dropping its reader removes the reader from the watch.
            let failure = match timeout_at(deadline, stands).await {
                Ok(Ok(Ok(()))) => {
                    self.core.auth.has_served(following.shared.stream.generation);
                    return Ok(following);
                }
                Ok(Ok(Err(failure))) => failure,
                Ok(Err(_)) => None,
                Err(_) => {
                    self.retire(&following.shared.stream);
                    let _ = following.shared.stream.commands.send(Command::Doubt);
                    None
                }
            };
            let stream = following.shared.stream.clone();
            drop(following);
            if Instant::now() >= deadline {
                return Err(match failure {
                    Some(failure) => failure.after_giving_up(self.core.retry.call_timeout),
                    None => self.core.out_of_time(began, "the watch was not created"),
                });
            }
            let Some(failure) = failure else {
                // Either the stream ended with its last watch just before this reader came, or the
                // reader joined a watch that was not established yet, and its server then turned
                // out to be behind the reader's revision.
                turned_away += 1;
                if turned_away < STREAMS_PER_CALL {
                    continue;
                }
                return Err(Failure::new(Row::Severed, "the watch streams end before a watch is on them"));
            };
            if failure.row.verdict().repeat == Repeat::Elsewhere {
                // The stream has marked its endpoint as failed, so the next attempt asks another
                // endpoint.
                refusing_endpoints += 1;
                if refusing_endpoints >= self.core.endpoints.count() {
                    return Err(failure);
                }
            } else {
                // If a login resolves the refusal, no further wait is needed, because the login
                // takes time anyway. The new token must be used at once, because it is valid only
                // for milliseconds while users and roles change all the time.
                if !self.is_mended_by_login(&failure) {
                    sleep_until(next_attempt).await;
                    next_attempt = Instant::now() + backoff.next_delay();
                }
                if next_attempt >= deadline || !Box::pin(self.is_allowed(watch, &stream, &failure, deadline)).await? {
                    return Err(failure);
                }
                // A stream keeps its token, so the next attempt needs another stream.
                self.retire(&stream);
            }
            telemetry::repeated(NAME, "Watch", failure.row.verdict().kind, failure.words());
        }
    }

    /// Returns whether a watch that was refused with `failure` may be created on another stream,
    /// because its token has expired, or users and roles have changed. Renews the session if
    /// needed.
    ///
    /// # Errors
    ///
    /// The error of the login or of the read.
    async fn is_allowed(&self, watch: &Watch, stream: &Handle, failure: &Failure, deadline: Instant) -> Result<bool, Failure> {
        match failure.row {
            _ if self.is_mended_by_login(failure) => {
                Auth::renew(&self.core, stream.generation, failure.row, deadline).await?;
                Ok(true)
            }
            Row::AuthChanged => Ok(true),
            // etcd 3.4 and early 3.5 return this error for an expired token too. A read of the same
            // keys shows which of the two it is, and renews the token.
            Row::PermissionDenied if self.core.auth.has_credentials() => match self.read(watch, deadline).await {
                Ok(()) => Ok(true),
                Err(refused) if refused.row == Row::PermissionDenied => Ok(false),
                Err(failure) => Err(failure),
            },
            _ => Ok(false),
        }
    }

    /// Returns whether the refused watch needs only a new token.
    fn is_mended_by_login(&self, failure: &Failure) -> bool {
        matches!(failure.row, Row::TokenRefused | Row::AuthChanged) && self.core.auth.has_credentials()
    }

    /// Returns a reader of a new watch, or of an existing one that was added meanwhile.
    fn create(&self, watch: &Watch, alone: bool, part: Part, session: &Session) -> (Following, Stands) {
        let mut sent = true;
        let created = self.shared_watches.reader::<Infallible>(watch, self.name(), alone, part, |new| {
            let shared = new.on(self.stream(session), self.name());
            sent = shared.stream.commands.send(Command::Add(Arc::clone(&shared))).is_ok();
            Ok(shared)
        });
        let Ok(reader) = created;
        if !sent {
            reader.0.shared.turn_away();
        }
        reader
    }

    /// Returns a stream of this session that has room for another watch. Opens a stream if none has
    /// room.
    fn stream(&self, session: &Session) -> Handle {
        let mut streams = self.streams();
        streams.retain(Handle::is_open);
        let joined = streams
            .iter()
            .find(|stream| stream.generation == session.generation && stream.watches.load(Ordering::Relaxed) < WATCHES_PER_STREAM);
        if let Some(stream) = joined {
            stream.watches.fetch_add(1, Ordering::Relaxed);
            return stream.clone();
        }
        let (commands, wishes) = mpsc::unbounded_channel();
        let handle = Handle {
            commands,
            watches: Arc::new(AtomicUsize::new(1)),
            reached: Arc::default(),
            retired: Arc::default(),
            generation: session.generation,
            origin: self.core.endpoints.cluster.present(),
        };
        let of_stream = stream::Watched::new(&self.shared_watches, &handle);
        let run = stream::run(Arc::clone(&self.core), session.token.clone(), wishes, of_stream, self.progress_interval);
        spawn(run);
        streams.push(handle.clone());
        handle
    }

    /// Stops adding watches to this stream. Existing watches stay.
    fn retire(&self, stream: &Handle) {
        stream.retired.store(true, Ordering::Relaxed);
        self.streams().retain(|other| !other.is(stream));
    }

    fn name(&self) -> u64 {
        self.last_name.fetch_add(1, Ordering::Relaxed)
    }

    async fn read(&self, watch: &Watch, deadline: Instant) -> Result<(), Failure> {
        let (key, range_end) = bounds(&watch.span);
        let request = RangeRequest { key, range_end, count_only: true, ..RangeRequest::default() };
        self.core.call_until(&RANGE, How::READ, request, deadline).await.map(drop)
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the watches that read a long history of `span` in sections. A section is a range of
/// revisions that is read by its own server watch, see [`replay`].
struct Sections {
    watches: Arc<Watches>,
    span: Span,
    /// The stream of the first section's watch. The server of this stream has reported the newest
    /// revision.
    stream: Handle,
}

impl replay::Source for Sections {
    fn newest(&self) -> Revision {
        self.stream.reached()
    }

    fn open(&self, start: Revision, until: Option<Revision>) -> BoxFuture<'static, Result<WatchStream>> {
        let watches = Arc::clone(&self.watches);
        let watch = Watch { span: self.span.clone(), from: WatchFrom::Resumed(start) };
        Box::pin(async move {
            let following =
                watches.establish(&watch, Part::Section(until)).await.map_err(|failure| rights::unreadable(&watch.span, failure.into()))?;
            Ok(Box::pin(following) as WatchStream)
        })
    }
}

#[cfg(test)]
mod tests;
