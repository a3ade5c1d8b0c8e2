//! The queue between the task of a stream and one reader. The queue never makes the task wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};
use crate::revision::Revision;
use crate::store::{Batch, Event, WatchItem};

/// The maximum number of buffered batches.
const MOST_BATCHES: usize = 1024;
/// The maximum bytes of buffered batches. A single batch may be larger.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// The maximum bytes of buffered batches for a section of a long history (see [`super::replay`]).
/// The limit is smaller, because one reader has a queue for each open section.
const MOST_BYTES_OF_SECTION: usize = 1024 * 1024;

/// The items that a reader has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// The last revision that the reader wants.
    until: Option<Revision>,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Kept>,
    batches: usize,
    bytes: usize,
    /// True if no more items are added.
    ended: bool,
    reader: Option<Waker>,
}

#[derive(Debug)]
enum Kept {
    Item(Result<WatchItem>),
    /// A batch with its size in bytes.
    Batch(Batch, usize),
    /// A batch that is shared with other readers. Each reader copies the batch when it takes it
    /// from the queue, but the keys and values are never copied.
    Shared(Arc<Batch>, usize),
}

/// The outcome of adding an item. The caller must wake the waker, and must hold no lock then.
#[derive(Debug)]
#[must_use]
pub(super) struct Pushed {
    /// False if the queue is full or has ended. A full queue ends with [`WatchItem::Lagged`].
    pub(super) taken: bool,
    pub(super) waker: Option<Waker>,
}

impl Queue {
    /// Returns a queue that ends at a revision. The first item at or after the revision ends the
    /// queue. If that item is after the revision, the reader gets progress up to the revision
    /// instead.
    pub(super) fn until(until: Option<Revision>) -> Self {
        Self { until, ..Self::default() }
    }

    /// Adds an item.
    pub(super) fn push(&self, item: WatchItem) -> Pushed {
        match item {
            WatchItem::Batch(batch) => {
                let bytes = size(&batch);
                self.push_batch(batch, bytes)
            }
            WatchItem::Progress(to) => match self.until {
                Some(until) if to >= until => self.end_at(until),
                _ => self.state().put(item),
            },
            item => self.state().put(item),
        }
    }

    /// Adds a batch of this size.
    pub(super) fn push_batch(&self, batch: Batch, bytes: usize) -> Pushed {
        self.put_batch(batch.revision, Kept::Batch(batch, bytes), bytes)
    }

    /// Adds a shared batch of this size.
    pub(super) fn push_shared(&self, batch: &Arc<Batch>, bytes: usize) -> Pushed {
        self.put_batch(batch.revision, Kept::Shared(Arc::clone(batch), bytes), bytes)
    }

    fn put_batch(&self, revision: Revision, kept: Kept, bytes: usize) -> Pushed {
        match self.until {
            Some(until) if revision > until => self.end_at(until),
            Some(until) if revision == until => {
                let mut state = self.state();
                let pushed = state.put_batch(kept, bytes, self.most_bytes());
                state.ended = true;
                Pushed { taken: false, ..pushed }
            }
            _ => self.state().put_batch(kept, bytes, self.most_bytes()),
        }
    }

    fn most_bytes(&self) -> usize {
        if self.until.is_some() { MOST_BYTES_OF_SECTION } else { MOST_BYTES }
    }

    /// Ends the queue, with progress up to this revision.
    fn end_at(&self, revision: Revision) -> Pushed {
        let mut state = self.state();
        let pushed = state.put(WatchItem::Progress(revision));
        state.ended = true;
        Pushed { taken: false, ..pushed }
    }

    /// Ends the queue with this error.
    pub(super) fn fail(&self, error: Error) -> Option<Waker> {
        let mut state = self.state();
        if state.ended {
            return None;
        }
        state.items.push_back(Kept::Item(Err(error)));
        state.ended = true;
        state.reader.take()
    }

    /// Returns the next item, or none after the last one.
    pub(super) fn poll_next(&self, context: &Context<'_>) -> Poll<Option<Result<WatchItem>>> {
        let mut state = self.state();
        let kept = match state.items.pop_front() {
            Some(kept) => kept,
            None if state.ended => return Poll::Ready(None),
            None => {
                let before = state.reader.replace(context.waker().clone());
                drop(state);
                // Dropping a waker may run foreign code, so it happens outside the lock.
                drop(before);
                return Poll::Pending;
            }
        };
        if let Kept::Batch(_, bytes) | Kept::Shared(_, bytes) = &kept {
            state.batches = state.batches.saturating_sub(1);
            state.bytes = state.bytes.saturating_sub(*bytes);
        }
        drop(state);
        Poll::Ready(Some(match kept {
            Kept::Item(item) => item,
            Kept::Batch(batch, _) => Ok(WatchItem::Batch(batch)),
            Kept::Shared(batch, _) => Ok(WatchItem::Batch(Arc::unwrap_or_clone(batch))),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put_batch(&mut self, kept: Kept, bytes: usize, most_bytes: usize) -> Pushed {
        if self.ended {
            return Pushed { taken: false, waker: None };
        }
        let taken = self.batches < MOST_BATCHES && (self.batches == 0 || self.bytes.saturating_add(bytes) <= most_bytes);
        if taken {
            self.batches += 1;
            self.bytes = self.bytes.saturating_add(bytes);
            self.items.push_back(kept);
        } else {
            self.items.push_back(Kept::Item(Ok(WatchItem::Lagged)));
            self.ended = true;
        }
        Pushed { taken, waker: self.reader.take() }
    }

    fn put(&mut self, item: WatchItem) -> Pushed {
        if self.ended {
            return Pushed { taken: false, waker: None };
        }
        match &item {
            // Only the newest progress matters.
            WatchItem::Progress(_) => {
                if matches!(self.items.back(), Some(Kept::Item(Ok(WatchItem::Progress(_))))) {
                    self.items.pop_back();
                }
            }
            WatchItem::HistoryLost { .. } | WatchItem::Behind(_) | WatchItem::Lagged => self.ended = true,
            // `Skipped` is the first item and occurs once.
            WatchItem::Skipped(_) => {}
            // Batches go through `put_batch`.
            WatchItem::Batch(_) => {}
        }
        self.items.push_back(Kept::Item(Ok(item)));
        Pushed { taken: true, waker: self.reader.take() }
    }
}

/// Returns the memory of a batch in bytes: the events, and the buffer with their keys and values.
pub(super) fn size(batch: &Batch) -> usize {
    let bytes = |event: &Event| event.key().len() + if let Event::Put { kv, .. } = event { kv.value.len() } else { 0 };
    batch.events.iter().map(|event| size_of::<Event>() + bytes(event)).sum()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;

    use super::*;

    fn batch(revision: u64, bytes: usize) -> WatchItem {
        let event = Event::Delete { key: Bytes::from(vec![b'k'; bytes]), directory: false, previous: None };
        WatchItem::Batch(Batch { revision: Revision::new(revision), events: vec![event] })
    }

    fn drain(queue: &Queue) -> (Vec<WatchItem>, bool) {
        let context = Context::from_waker(Waker::noop());
        let mut items = Vec::new();
        loop {
            match queue.poll_next(&context) {
                Poll::Ready(Some(item)) => items.push(item.unwrap()),
                Poll::Ready(None) => return (items, true),
                Poll::Pending => return (items, false),
            }
        }
    }

    #[test]
    fn too_many_batches_end_queue_with_lagged() {
        let queue = Queue::default();
        for revision in 1..=1024 {
            assert!(queue.push(batch(revision, 1)).taken);
        }
        assert!(!queue.push(batch(1025, 1)).taken);
        assert!(!queue.push(batch(1026, 1)).taken, "nothing follows `Lagged`");
        let (items, ended) = drain(&queue);
        assert!(ended);
        assert_eq!(items.len(), 1025);
        assert_eq!(items.get(1023), Some(&batch(1024, 1)));
        assert_eq!(items.last(), Some(&WatchItem::Lagged));
    }

    #[test]
    fn too_many_bytes_end_queue_with_lagged() {
        let queue = Queue::default();
        assert!(queue.push(batch(1, MOST_BYTES + 1)).taken);
        assert!(!queue.push(batch(2, 1)).taken);
        assert_eq!(drain(&queue), (vec![batch(1, MOST_BYTES + 1), WatchItem::Lagged], true));
    }

    #[test]
    fn replay_section_queue_is_smaller_than_watch_queue() {
        let (section, all) = (Queue::until(Some(Revision::new(7))), Queue::until(None));
        for revision in 1..=2 {
            let large = || batch(revision, MOST_BYTES_OF_SECTION);
            assert!(all.push(large()).taken);
            assert_eq!(section.push(large()).taken, revision == 1);
        }
    }

    #[test]
    fn reading_makes_room_in_queue() {
        let queue = Queue::default();
        for revision in 1..=5000 {
            assert!(queue.push(batch(revision, 10_000)).taken);
            assert_eq!(drain(&queue), (vec![batch(revision, 10_000)], false));
        }
    }

    #[test]
    fn queue_ends_at_given_revision() {
        for (last, expected) in [
            (batch(7, 1), batch(7, 1)),
            (batch(9, 1), WatchItem::Progress(Revision::new(7))),
            (WatchItem::Progress(Revision::new(8)), WatchItem::Progress(Revision::new(7))),
            (WatchItem::Progress(Revision::new(7)), WatchItem::Progress(Revision::new(7))),
        ] {
            let queue = Queue::until(Some(Revision::new(7)));
            assert!(queue.push(batch(6, 1)).taken);
            assert!(!queue.push(last).taken);
            assert!(!queue.push(batch(10, 1)).taken);
            assert_eq!(drain(&queue), (vec![batch(6, 1), expected], true));
        }
    }

    #[test]
    fn only_newest_progress_is_kept() {
        let queue = Queue::default();
        for revision in 1..=5000 {
            assert!(queue.push(WatchItem::Progress(Revision::new(revision))).taken);
        }
        assert_eq!(drain(&queue), (vec![WatchItem::Progress(Revision::new(5000))], false));
    }
}
