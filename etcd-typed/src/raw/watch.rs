//! Watches of ranges of keys of arbitrary bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{IntoFuture, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;

use super::keys::Outside;
use super::{PATTERN, Raw};
use crate::changes::{Begun, Steps};
use crate::error::Result;
use crate::revision::Revision;
use crate::store::{Batch, BoxFuture, Event, KeyValue, Span};
use crate::watch::{Interruption, Reason, Snapshot, Start, Step};

/// A watch that is not started yet, created by [`Raw::watch`]. Await it to start.
#[must_use = "a watch does nothing until it is awaited"]
pub struct RawWatching {
    raw: Raw,
    span: Result<Span>,
    start: Start,
}

impl RawWatching {
    pub(super) fn new(raw: Raw, span: Result<Span>) -> Self {
        Self { raw, span, start: Start::Now }
    }

    /// Starts with the changes after this past revision, instead of now. If the store no longer has
    /// that revision, or has not reached it, the first item is the current state, with
    /// [`RawUpdate::resynced`] set.
    pub fn since(mut self, revision: impl Into<Revision>) -> Self {
        self.start = Start::Since(revision.into());
        self
    }
}

impl IntoFuture for RawWatching {
    type Output = Result<RawChanges>;
    type IntoFuture = BoxFuture<'static, Result<RawChanges>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { raw, span, start } = self;
            raw.check()?;
            let (outside, context) = (raw.outside(), &raw.context);
            let mut steps = Steps::new(context.lease_pool.roaming().clone(), &context.retry, span?, PATTERN, start);
            let begun = context.retry.one_call(poll_fn(|cx| steps.poll_begun(cx))).await?;
            let (revision, state) = match begun {
                Begun::At(snapshot) => (snapshot.revision, snapshot.kvs),
                Begun::Unknown(revision) => (revision, Vec::new()),
            };
            let known = state.iter().map(|kv| (kv.key.clone(), kv.modified)).collect();
            Ok(RawChanges { steps, outside, revision, state, known })
        })
    }
}

impl fmt::Debug for RawWatching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawWatching").field("span", &self.span).field("start", &self.start).finish_non_exhaustive()
    }
}

/// All changes of one revision to a watched range.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawUpdate {
    /// The revision of the changes. If `resynced`, the revision of the state after the changes.
    pub revision: Revision,
    /// The changes, in the order of the transaction. No key occurs twice. `previous` is always
    /// `None`.
    pub events: Vec<Event>,
    /// True if the server lost history (by compaction or a restore). The changes are then the
    /// difference from the last known state: a put for each key that is new or was written since,
    /// and a deletion for each key that no longer exists. The watch may have missed values in
    /// between.
    pub resynced: bool,
}

/// The changes of a range of keys, from [`Raw::watch`]: one item for each revision that changed the
/// range.
///
/// The stream survives lost connections, restarted servers and compaction. Between two resyncs the
/// revisions ascend, and no change is missing or repeated. An error is the last item; the same
/// errors as for [`Changes`](crate::Changes) end the stream. The stream keeps the names of the
/// watched keys in memory, to compute the difference after lost history. A stream that is not
/// polled sends no requests.
#[must_use = "a watch makes progress only while it is polled"]
pub struct RawChanges {
    steps: Steps,
    outside: Outside,
    revision: Revision,
    /// The keys at the start of the stream. Empty after the first item.
    state: Vec<KeyValue>,
    /// The latest modification of each key in the range, by stored key.
    known: BTreeMap<Bytes, Revision>,
}

impl RawChanges {
    /// Returns the revision up to which the stream has returned all changes. Before the first item
    /// this is the revision at which the stream started.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns the keys of the range at the start of the stream, and removes them from the stream.
    /// The first item follows this state without a gap. Returns nothing after the first item, at
    /// the second call, and if the stream started [since](RawWatching::since) a revision that can
    /// no longer be read.
    pub fn take_state(&mut self) -> Vec<KeyValue> {
        self.outside.kvs(std::mem::take(&mut self.state))
    }

    /// Returns the next item. `None` only after an error.
    ///
    /// # Errors
    ///
    /// See [the type](Self). Outside of a tokio runtime the call returns `Unsupported` and changes
    /// nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<RawUpdate>> {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Returns why the stream cannot receive changes from the store at the moment. `None` while it
    /// can. An interrupted stream keeps trying.
    #[must_use]
    pub fn interruption(&self) -> Option<Interruption<'_>> {
        self.steps.interruption()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RawUpdate>>> {
        loop {
            let update = match ready!(self.steps.poll_step(cx)) {
                Some(Ok(Step::Batch(batch))) => self.follow(batch),
                Some(Ok(Step::Reset(snapshot))) => self.resync(snapshot),
                Some(Ok(Step::Progress(revision))) => {
                    self.revision = self.revision.max(revision);
                    continue;
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            self.state = Vec::new();
            self.revision = update.revision;
            let events = update.events.into_iter().map(|event| self.outside.event(event)).collect();
            return Poll::Ready(Some(Ok(RawUpdate { events, ..update })));
        }
    }

    fn follow(&mut self, batch: Batch) -> RawUpdate {
        for event in &batch.events {
            match event {
                Event::Put { kv, .. } => self.known.insert(kv.key.clone(), kv.modified),
                Event::Delete { key, .. } => self.known.remove(key),
            };
        }
        let without_previous = |event| match event {
            Event::Put { kv, .. } => Event::Put { kv, previous: None },
            Event::Delete { key, directory, .. } => Event::Delete { key, directory, previous: None },
        };
        RawUpdate { revision: batch.revision, events: batch.events.into_iter().map(without_previous).collect(), resynced: false }
    }

    fn resync(&mut self, snapshot: Snapshot) -> RawUpdate {
        let now: BTreeMap<Bytes, Revision> = snapshot.kvs.iter().map(|kv| (kv.key.clone(), kv.modified)).collect();
        let known = std::mem::replace(&mut self.known, now);
        // If the server was restored or emptied, a key may have another value at the same revision.
        let is_new = |kv: &KeyValue| snapshot.reason == Reason::Rewound || known.get(&kv.key) != Some(&kv.modified);
        let gone = known.keys().filter(|key| !self.known.contains_key(*key));
        let gone: Vec<Event> = gone.map(|key| Event::Delete { key: key.clone(), directory: false, previous: None }).collect();
        let puts = snapshot.kvs.into_iter().filter(is_new).map(|kv| Event::Put { kv, previous: None });
        RawUpdate { revision: snapshot.revision, events: gone.into_iter().chain(puts).collect(), resynced: true }
    }
}

impl Stream for RawChanges {
    type Item = Result<RawUpdate>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

/// Every future and stream that is polled is boxed, so the fields need no pinning.
impl Unpin for RawChanges {}

impl fmt::Debug for RawChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawChanges").field("revision", &self.revision).finish_non_exhaustive()
    }
}
