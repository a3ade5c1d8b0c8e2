//! A watch of the memory store: a cursor in the history. The watch reads its items directly from
//! the history, so a slow reader needs no buffer. Without faults, a watch fails only if unread
//! changes are compacted.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{self, Instant};

use super::fault_plan::End;
use super::shared::{Inner, SharedState};
use super::state::Next;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;
use crate::runtime;
use crate::store::{Span, WatchItem, WatchStream};

/// The minimum time between two progress items.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How many changes a watch looks at before it yields the lock and the thread.
const SEARCH_BUDGET: usize = 4096;

/// The position of one watch.
#[derive(Debug)]
pub(super) struct Cursor {
    shared: Arc<SharedState>,
    signal: watch::Receiver<()>,
    span: Span,
    connections: u64,
    /// The cursor has looked at everything up to this revision.
    position: Revision,
    /// Everything up to this revision was yielded, as batches or as progress.
    reported: Revision,
    progress_at: Option<Instant>,
}

enum Step {
    Yield(Result<WatchItem>),
    Again,
    /// Wait for a change, or until this time.
    Wait(Option<Instant>),
}

impl Cursor {
    pub(super) fn new(shared: &Arc<SharedState>, inner: &Inner, span: Span, after: Revision) -> Self {
        Self {
            shared: Arc::clone(shared),
            signal: shared.subscribe(),
            span,
            connections: inner.connections(),
            position: after,
            reported: after,
            progress_at: None,
        }
    }

    /// Turns the cursor into a stream. The stream ends after its first item that is neither a batch
    /// nor a progress item.
    pub(super) fn into_stream(self) -> WatchStream {
        Box::pin(stream::unfold(Some(self), async |cursor| {
            let mut cursor = cursor?;
            let item = cursor.next().await;
            let goes_on = matches!(item, Ok(WatchItem::Batch(_) | WatchItem::Progress(_)));
            Some((item, goes_on.then_some(cursor)))
        }))
    }

    async fn next(&mut self) -> Result<WatchItem> {
        loop {
            // This comes before `step` reads the store, so that any later change triggers the
            // signal.
            self.signal.mark_unchanged();
            let shared = Arc::clone(&self.shared);
            match shared.with(|inner, now| self.step(inner, now)) {
                Step::Yield(item) => return item,
                Step::Again => tokio::task::yield_now().await,
                Step::Wait(_) if !runtime::is_here() => return Err(Error::without_runtime()),
                // `shared` owns the sender and still exists here, so `changed` never fails.
                Step::Wait(None) => drop(self.signal.changed().await),
                Step::Wait(Some(until)) => drop(time::timeout_at(until, self.signal.changed()).await),
            }
        }
    }

    fn step(&mut self, inner: &Inner, now: Instant) -> Step {
        match inner.ended(self.connections) {
            Some(End::Dropped) => return Step::Yield(Err(Error::new(ErrorKind::Unavailable, "the connection was dropped (a fault)"))),
            Some(End::Lagged) => return Step::Yield(Ok(WatchItem::Lagged)),
            None => {}
        }
        let state = &inner.engine.state;
        let newest = state.revision();
        if newest < self.position {
            return Step::Yield(Ok(WatchItem::Behind(newest)));
        }
        match state.next(&self.span, self.position, SEARCH_BUDGET) {
            Next::Lost => return Step::Yield(Ok(WatchItem::HistoryLost { oldest: Some(state.compacted()) })),
            Next::Batch(batch) => {
                self.position = batch.revision;
                self.reported = batch.revision;
                return Step::Yield(Ok(WatchItem::Batch(batch)));
            }
            Next::NothingUpTo(revision) => self.position = revision,
        }
        if self.position < newest {
            return Step::Again;
        }
        let deadline = inner.engine.next_deadline();
        if self.reported == self.position {
            return Step::Wait(deadline);
        }
        let due = self.progress_at.map_or(now, |last| last + PROGRESS_INTERVAL);
        if due > now {
            return Step::Wait(Some(deadline.map_or(due, |deadline| deadline.min(due))));
        }
        self.reported = self.position;
        self.progress_at = Some(now);
        Step::Yield(Ok(WatchItem::Progress(self.position)))
    }
}
