//! Typed change streams: convert the steps of a watch to typed changes, one item per revision.
//! `watch.rs` keeps a watch running when a server fails. `schema.rs` decides which change belongs
//! to which field.

mod entry;
mod mirror;
mod one_key;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;

pub use self::entry::{EntryChanges, WatchingEntry};
pub(crate) use self::mirror::{Mirror, StepChanges};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::retry::RetryPolicy;
use crate::revision::Revision;
use crate::schema::{Delta, Tree, Update};
use crate::store::{BoxFuture, Span, Store};
use crate::telemetry::Pattern;
use crate::version::Versioned;
use crate::watch::{Follow, Interruption, Reason, Snapshot, Start, Step};

/// A change stream that is not started yet. Await it to start, after optionally choosing an earlier
/// [start](Self::since).
///
/// Returned by `watch()` on a directory or a map. Awaiting it sends one request for the current
/// state and one for the watch, and fails like a read.
#[must_use = "a watch does nothing until it is awaited"]
pub struct Watching<C, T> {
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    directory: Key,
    start: Start,
    typed: Typed<C, T>,
}

/// The typed changes of a directory: an endless stream of [`Update`]s, each with all changes of one
/// revision.
///
/// The stream survives server restarts, failed members and broken connections. It neither loses nor
/// repeats changes while the server keeps its history. If the history is gone (compaction, the v2
/// window of 1000 events, a server that was restored or emptied), the next item is the difference
/// between the last known state and the current one, with [`Update::resynced`] set.
///
/// On v2, which keeps no past states, one loss may go unnoticed: the server restarts empty, and
/// before the client reconnects, new writes bring the index beyond the last index that the client
/// saw.
///
/// # Items
///
/// - `Ok(update)`: revisions ascend. Only a resynced update, after a server has lost history, may
///   have an earlier revision than the item before it.
/// - `Err` of kind [`Decode`](ErrorKind::Decode): the value written at [`Error::key`] is not a
///   value of the type. This item follows the other changes of its revision. The stream continues;
///   the next valid change of that key has no `old`.
/// - Any other `Err` is the last item. `PermissionDenied`, `Unauthenticated` and `Unsupported` come
///   if the server has refused every attempt to resume the stream for
///   [`RetryPolicy::call_timeout`]; a right that is revoked and granted again within that time does
///   not end the stream. (A revoked right has no effect on an uninterrupted stream, since the
///   server continues existing watches.) `NotADirectory`, `IsADirectory`, `InvalidKey`,
///   `InvalidUrl` and `TooLarge` come at once. All other errors are retried, including `Tls`;
///   [`interruption`](Self::interruption) shows them.
///
/// A revision that changes nothing in the schema yields no item. A stream that is not polled sends
/// no requests.
#[must_use = "a watch makes progress only while it is polled"]
pub struct Changes<C, T> {
    steps: Steps,
    mirror: Mirror,
    typed: Typed<C, T>,
    /// The remaining items of the current revision.
    ready: VecDeque<Result<Update<C>>>,
}

/// The functions that convert a watch's steps to typed values.
pub(crate) struct Typed<C, T> {
    pattern: Pattern,
    changes: Arc<MakeChanges<C>>,
    state: Arc<MakeState<T>>,
    /// Reads a map, leaving out its bad entries.
    per_entry: Option<Arc<MakeState<T>>>,
}

type MakeChanges<C> = dyn Fn(&mut Delta<'_>, &mut Vec<C>) + Send + Sync;
type MakeState<T> = dyn Fn(&Key, &Tree, Revision) -> Result<Versioned<T>> + Send + Sync;

impl<C, T> Typed<C, T> {
    /// `pattern` is the directory's label in metrics and events. `changes` converts the changed
    /// keys of one step to typed changes. `state` decodes the whole directory.
    pub(crate) fn new(
        pattern: Pattern,
        changes: impl Fn(&mut Delta<'_>, &mut Vec<C>) + Send + Sync + 'static,
        state: impl Fn(&Key, &Tree, Revision) -> Result<Versioned<T>> + Send + Sync + 'static,
    ) -> Self {
        Self { pattern, changes: Arc::new(changes), state: Arc::new(state), per_entry: None }
    }

    /// Adds the function that reads a map, leaving out its bad entries.
    pub(crate) fn per_entry(self, state: impl Fn(&Key, &Tree, Revision) -> Versioned<T> + Send + Sync + 'static) -> Self {
        let state = move |directory: &Key, tree: &Tree, revision| Ok(state(directory, tree, revision));
        Self { per_entry: Some(Arc::new(state)), ..self }
    }
}

impl<C, T> Watching<C, T> {
    pub(crate) fn new(store: Arc<dyn Store>, retry: RetryPolicy, directory: Key, typed: Typed<C, T>) -> Self {
        Self { store, retry, directory, start: Start::Now, typed }
    }

    /// Starts with the changes after this past revision, instead of now.
    ///
    /// If the store no longer has that revision, the first item contains the current state: a
    /// change without an old value for each existing key, with [`Update::resynced`] set. A store
    /// that cannot read the past (v2) returns the changes after the revision, but not the state at
    /// the revision; see [`Changes::current`].
    ///
    /// A revision that the store has not reached yet comes from another history: the caller got the
    /// revision from another store, or from this store before it was restored or emptied. A watch
    /// of etcd would wait for that revision and miss every change until then. This stream does not
    /// wait: its first item is the current state, again with [`Update::resynced`] set. All later
    /// changes follow, even if their revisions are not above the requested one.
    pub fn since(mut self, revision: impl Into<Revision>) -> Self {
        self.start = Start::Since(revision.into());
        self
    }
}

impl<C, K, V> Watching<C, BTreeMap<K, V>> {
    /// Makes [`Changes::current`] leave bad entries out of the map, instead of failing. See
    /// [`Viewing::per_entry`](crate::Viewing::per_entry) for a live view with a similar rule.
    ///
    /// The items of the stream stay the same: a bad value is an `Err` of kind `Decode` with the
    /// key. The stream yields no item for a value that was already bad when the stream started;
    /// [`check`](crate::EntryMap::check) lists such values.
    pub fn per_entry(mut self) -> Self {
        if let Some(state) = &self.typed.per_entry {
            self.typed.state = state.clone();
        }
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
                Begun::At(snapshot) => Mirror::new_in_steps(directory, snapshot).await,
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
    /// Returns the next item; see [the type](Self). `None` only after the last item.
    ///
    /// # Errors
    ///
    /// `Decode` for a value that is not of its type; the stream continues. Any other error is the
    /// last item. Outside of a tokio runtime the call returns `Unsupported` and changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Update<C>>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Returns the typed state after all items returned so far, at one revision. Before the first
    /// item it is the state at the stream's start. Decoding is synchronous and takes 3 µs per key.
    ///
    /// # Errors
    ///
    /// The errors of a read of the directory: `Invalid` with every key that is missing or cannot be
    /// decoded, or `NotFound` if no key of a struct exists and some are required. `HistoryLost` while the state is unknown, because the stream started
    /// [since](Watching::since) a revision that can no longer be read.
    pub fn current(&self) -> Result<Versioned<T>> {
        let mirror = &self.mirror;
        if !mirror.is_complete() {
            return Err(start_unknown(mirror.directory()));
        }
        (self.typed.state)(mirror.directory(), mirror.tree(), mirror.revision())
    }

    /// Returns why the stream cannot receive changes from the store at the moment. `None` while it
    /// can. An interrupted stream keeps trying.
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

    /// Creates the items for one step.
    fn make(&mut self, touch: &StepChanges) {
        let &StepChanges { revision, resynced, ref changed } = touch;
        let mirror = &self.mirror;
        let mut problems = Vec::new();
        let mut changes = Vec::new();
        let complete = mirror.is_complete();
        let mut delta = Delta::new(mirror.directory(), mirror.tree(), changed, revision, resynced, complete, &mut problems);
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

/// `Changes` is always `Unpin`: every future and stream that it polls is boxed.
impl<C, T> Unpin for Changes<C, T> {}

impl<C, T> fmt::Debug for Changes<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mirror = &self.mirror;
        f.debug_struct("Changes").field("directory", mirror.directory()).field("revision", &mirror.revision()).finish_non_exhaustive()
    }
}

/// The steps of a watch, with its start separate from the later steps.
pub(crate) struct Steps {
    follow: Follow,
    start: Start,
    /// The current state, which becomes the first step. Set if the history at the requested start
    /// is gone.
    lost: Option<Box<Snapshot>>,
}

/// The state at the start of a stream.
pub(crate) enum Begun {
    At(Snapshot),
    /// The stream starts at this revision, whose state cannot be read.
    Unknown(Revision),
}

impl Steps {
    pub(crate) fn new(store: Arc<dyn Store>, retry: &RetryPolicy, span: Span, pattern: Pattern, start: Start) -> Self {
        Self { follow: Follow::new(store, retry, span, pattern, start), start, lost: None }
    }

    /// Polls the watch until the state at the start of the stream is known.
    pub(crate) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Result<Begun>> {
        let first = loop {
            match ready!(self.follow.poll_step(cx)) {
                Some(Ok(Step::Reset(snapshot))) => break snapshot,
                // The first step is always a reset.
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

    pub(crate) fn interruption(&self) -> Option<Interruption<'_>> {
        self.follow.interruption()
    }

    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Step>>> {
        match self.lost.take() {
            Some(snapshot) => Poll::Ready(Some(Ok(Step::Reset(*snapshot)))),
            None => self.follow.poll_step(cx),
        }
    }
}

/// Returns the error of [`Changes::current`] while the state is unknown.
fn start_unknown(key: &Key) -> Error {
    let message = "the state at the revision that the watch started from cannot be read; later changes are still delivered";
    Error::new(ErrorKind::HistoryLost, message).at(key)
}

#[cfg(test)]
mod tests;
