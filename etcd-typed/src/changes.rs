//! Typed change streams: from the steps of a watch to typed changes, one item for each revision. How a watch goes on when a server does not
//! is `watch.rs`; which change is of which field is `schema.rs`.

mod entry;
mod mirror;
mod one;

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;

pub use self::entry::{EntryChanges, WatchingEntry};
pub(crate) use self::mirror::{Mirror, Touch};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::retry::RetryPolicy;
use crate::revision::Revision;
use crate::schema::{Delta, Tree, Update};
use crate::store::{BoxFuture, Span, Store};
use crate::telemetry::Pattern;
use crate::version::Versioned;
use crate::watch::{Follow, Interruption, Reason, Snapshot, Start, Step};

/// A change stream to be had: await it, or say first where it [starts](Self::since).
///
/// From `watch()` of a directory or a map. Awaiting it reads the present state (two requests: that, and the watch) and fails as a read does.
#[must_use = "a watch begins when it is awaited"]
pub struct Watching<C, T> {
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    directory: Key,
    start: Start,
    typed: Typed<C, T>,
}

/// The typed changes of a directory: an endless stream of [`Update`]s, each with all changes of one revision.
///
/// It goes on by itself through restarts of servers, dead members and cut connections, and loses and doubles nothing while the server keeps its
/// history. Where the history is gone (compaction, v2's window of 1000 events, a server that was restored or emptied), the next item is the
/// difference between what was seen and what is there now, with [`Update::resynced`] set.
///
/// One loss may pass unnoticed on v2, which answers no questions about the past: a server that came back empty and was written to beyond the
/// index that was seen, before this client reached it again.
///
/// # Items
///
/// - `Ok(update)`: revisions ascend, except that after a server lost history a resynced update may be of an earlier one than was seen.
/// - `Err` of kind [`Decode`](ErrorKind::Decode): what was written at [`Error::key`] is not a value of the type. It comes after the
///   other changes of its revision, and the stream goes on; the next good change at that key has no `old`.
/// - any other `Err` is the last item. `PermissionDenied`, `Unauthenticated` and `Unsupported`: the server refused every attempt to resume the
///   stream for [`RetryPolicy::call_timeout`], so a right that is revoked and soon granted again ends no stream. (A stream that is not interrupted
///   loses nothing by a revoked right: the server goes on with watches that it has.) `NotADirectory`, `IsADirectory`, `InvalidKey`, `InvalidUrl` and
///   `TooLarge` come at once. Everything else is waited for, a certificate that no endpoint is trusted with (`Tls`) too;
///   [`interruption`](Self::interruption) shows it.
///
/// A revision that touches nothing of the schema gives no item. A stream that nobody polls costs no requests.
#[must_use = "a watch goes on only while it is polled"]
pub struct Changes<C, T> {
    steps: Steps,
    mirror: Mirror,
    typed: Typed<C, T>,
    /// What is left of the revision that is being delivered.
    ready: VecDeque<Result<Update<C>>>,
}

/// What makes the steps of a watch typed.
pub(crate) struct Typed<C, T> {
    pattern: Pattern,
    changes: Arc<MakeChanges<C>>,
    state: Arc<MakeState<T>>,
}

type MakeChanges<C> = dyn Fn(&mut Delta<'_>, &mut Vec<C>) + Send + Sync;
type MakeState<T> = dyn Fn(&Key, &Tree, Revision) -> Result<Versioned<T>> + Send + Sync;

impl<C, T> Typed<C, T> {
    /// `pattern` stands for the directory in metrics and events; `changes` adds the typed changes of what was touched; `state` reads the whole directory.
    pub(crate) fn new(
        pattern: Pattern,
        changes: impl Fn(&mut Delta<'_>, &mut Vec<C>) + Send + Sync + 'static,
        state: impl Fn(&Key, &Tree, Revision) -> Result<Versioned<T>> + Send + Sync + 'static,
    ) -> Self {
        Self { pattern, changes: Arc::new(changes), state: Arc::new(state) }
    }
}

impl<C, T> Watching<C, T> {
    pub(crate) fn new(store: Arc<dyn Store>, retry: RetryPolicy, directory: Key, typed: Typed<C, T>) -> Self {
        Self { store, retry, directory, start: Start::Now, typed }
    }

    /// Starts with the changes after this past revision, instead of now.
    ///
    /// Where the store has that revision no more, the first item is the present state as changes from nothing, with
    /// [`Update::resynced`] set. A store that cannot read the past (v2) knows the changes after it and not the state as of it; see
    /// [`Changes::current`].
    ///
    /// A revision that the store has not reached yet belongs to another history: of another store,
    /// or of this one before it was restored or emptied. The stream does not wait for that
    /// revision, as a watch of etcd does, because it would miss every change until then. Its first
    /// item is the present state with [`Update::resynced`] set, too. Every later change follows,
    /// also at revisions that are not above the one asked for.
    pub fn since(mut self, revision: impl Into<Revision>) -> Self {
        self.start = Start::Since(revision.into());
        self
    }
}

impl<C: 'static, T: 'static> IntoFuture for Watching<C, T> {
    type Output = Result<Changes<C, T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { store, retry, directory, start, typed } = self;
            let mut steps = Steps::new(store, &retry, Span::Below(directory.clone()), typed.pattern, start);
            let begun = retry.one_call(poll_fn(|cx| steps.poll_begun(cx))).await.map_err(|error| error.at(&directory))?;
            let mirror = match begun {
                Begun::At(snapshot) => Mirror::new_in_turns(directory, snapshot).await,
                Begun::Unknown(revision) => Mirror::unknown(directory, revision),
            };
            Ok(Changes { steps, mirror, typed, ready: VecDeque::new() })
        })
    }
}

impl<C, T> fmt::Debug for Watching<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching").field("directory", &self.directory).field("start", &self.start).finish_non_exhaustive()
    }
}

impl<C, T> Changes<C, T> {
    /// The next item; see [the type](Self). None only after the last one.
    ///
    /// # Errors
    ///
    /// `Decode` for a value that is none of its type, and the stream goes on; any other is the last item. A call outside of a tokio runtime answers `Unsupported`
    /// and changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Result<Update<C>>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// The typed state with every change in it that was delivered so far, all of one revision; before the first item, the state that the stream
    /// started from. It is decoded in one go, which takes 3 µs for each key.
    ///
    /// # Errors
    ///
    /// As of a read of the directory: `Invalid` with every key that is missing or undecodable. `HistoryLost` while the state is not known, because
    /// the stream started [since](Watching::since) a revision that could not be read any more.
    pub fn current(&self) -> Result<Versioned<T>> {
        let mirror = &self.mirror;
        if !mirror.is_complete() {
            return Err(start_unknown(mirror.directory()));
        }
        (self.typed.state)(mirror.directory(), mirror.tree(), mirror.revision())
    }

    /// What keeps the stream from following at the moment; none while it does. It goes on trying either way.
    #[must_use]
    pub fn interruption(&self) -> Option<Interruption<'_>> {
        self.steps.interruption()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Update<C>>>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Poll::Ready(Some(item));
            }
            match ready!(self.steps.poll_step(cx)) {
                Some(Ok(step)) => {
                    if let Some(touch) = self.mirror.apply(step) {
                        self.make(&touch);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// The items of what was touched.
    fn make(&mut self, touch: &Touch) {
        let &Touch { revision, resynced, ref touched } = touch;
        let mirror = &self.mirror;
        let mut problems = Vec::new();
        let mut changes = Vec::new();
        let complete = mirror.is_complete();
        let mut delta = Delta::new(mirror.directory(), mirror.tree(), touched, revision, resynced, complete, &mut problems);
        (self.typed.changes)(&mut delta, &mut changes);
        if !changes.is_empty() || resynced {
            self.ready.push_back(Ok(Update { revision, changes, resynced }));
        }
        self.ready.extend(problems.into_iter().map(|problem| Err(Error::undecodable(problem))));
    }
}

impl<C, T> Stream for Changes<C, T> {
    type Item = Result<Update<C>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

/// Nothing in it is pinned in place: what is polled is boxed.
impl<C, T> Unpin for Changes<C, T> {}

impl<C, T> fmt::Debug for Changes<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mirror = &self.mirror;
        f.debug_struct("Changes").field("directory", mirror.directory()).field("revision", &mirror.revision()).finish_non_exhaustive()
    }
}

/// The steps of a watch, after what it starts with.
struct Steps {
    follow: Follow,
    start: Start,
    /// The history that the stream was to start with is gone; this is what is there instead, and the first thing to tell.
    lost: Option<Box<Snapshot>>,
}

/// What a stream starts with.
enum Begun {
    At(Snapshot),
    /// What was there then cannot be read.
    Unknown(Revision),
}

impl Steps {
    fn new(store: Arc<dyn Store>, retry: &RetryPolicy, span: Span, pattern: Pattern, start: Start) -> Self {
        Self { follow: Follow::new(store, retry, span, pattern, start), start, lost: None }
    }

    /// What the stream starts with; to be asked for until it is there.
    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Result<Begun>> {
        let first = loop {
            match ready!(self.follow.poll_step(cx)) {
                Some(Ok(Step::Reset(snapshot))) => break snapshot,
                // A reset is the first step.
                Some(Ok(Step::Batch(_) | Step::Progress(_))) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(Error::new(ErrorKind::Unavailable, "the watch ended before it began"))),
            }
        };
        Poll::Ready(Ok(match self.start {
            Start::Since(revision) if first.reason != Reason::Start => {
                self.lost = Some(Box::new(first));
                Begun::Unknown(revision)
            }
            Start::Since(_) | Start::Now => Begun::At(first),
        }))
    }

    fn interruption(&self) -> Option<Interruption<'_>> {
        self.follow.interruption()
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Step>>> {
        match self.lost.take() {
            Some(snapshot) => Poll::Ready(Some(Ok(Step::Reset(*snapshot)))),
            None => self.follow.poll_step(cx),
        }
    }
}

/// What is there is not known yet.
fn start_unknown(key: &Key) -> Error {
    let message = "what was there at the revision that the watch started from cannot be read; the changes after it come all the same";
    Error::new(ErrorKind::HistoryLost, message).at(key)
}

#[cfg(test)]
mod tests;
