//! Between the task that reads a stream and the reader of one watch: a queue that never makes the task wait.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};
use crate::store::{Batch, Event, WatchItem};

/// Batches that are kept for a reader.
const MOST_BATCHES: usize = 1024;
/// Bytes of keys and values that are kept for a reader; a single batch may be larger.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What a reader has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Result<WatchItem>>,
    batches: usize,
    bytes: usize,
    /// Nothing comes after what is there.
    ended: bool,
    reader: Option<Waker>,
}

impl Queue {
    /// Adds an item. False when the reader has too much to read already: the queue then ends with [`WatchItem::Lagged`].
    pub(super) fn push(&self, item: WatchItem) -> bool {
        let mut state = self.state();
        if state.ended {
            return false;
        }
        let mut room = true;
        match &item {
            WatchItem::Batch(batch) => {
                let size = size(batch);
                room = state.batches < MOST_BATCHES && (state.batches == 0 || state.bytes.saturating_add(size) <= MOST_BYTES);
                if room {
                    state.batches += 1;
                    state.bytes = state.bytes.saturating_add(size);
                    state.items.push_back(Ok(item));
                } else {
                    state.items.push_back(Ok(WatchItem::Lagged));
                    state.ended = true;
                }
            }
            // Only the newest is worth reading.
            WatchItem::Progress(_) => {
                if matches!(state.items.back(), Some(Ok(WatchItem::Progress(_)))) {
                    state.items.pop_back();
                }
                state.items.push_back(Ok(item));
            }
            // The first item, and there is one.
            WatchItem::Skipped(_) => state.items.push_back(Ok(item)),
            WatchItem::HistoryLost { .. } | WatchItem::Behind(_) | WatchItem::Lagged => {
                state.items.push_back(Ok(item));
                state.ended = true;
            }
        }
        wake(state);
        room
    }

    /// Ends with this error.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.state();
        if !state.ended {
            state.items.push_back(Err(error));
            state.ended = true;
        }
        wake(state);
    }

    /// The next item; none after the last.
    pub(super) fn poll_next(&self, context: &Context<'_>) -> Poll<Option<Result<WatchItem>>> {
        let mut state = self.state();
        match state.items.pop_front() {
            Some(item) => {
                if let Ok(WatchItem::Batch(batch)) = &item {
                    state.batches = state.batches.saturating_sub(1);
                    state.bytes = state.bytes.saturating_sub(size(batch));
                }
                Poll::Ready(Some(item))
            }
            None if state.ended => Poll::Ready(None),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

fn size(batch: &Batch) -> usize {
    batch.events.iter().map(|event| event.key().len() + if let Event::Put { kv, .. } = event { kv.value.len() } else { 0 }).sum()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;

    use super::*;
    use crate::revision::Revision;

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
    fn w8_too_many_batches_end_with_lagged_after_what_was_kept() {
        let queue = Queue::default();
        for revision in 1..=1024 {
            assert!(queue.push(batch(revision, 1)));
        }
        assert!(!queue.push(batch(1025, 1)));
        assert!(!queue.push(batch(1026, 1)), "and nothing comes after it");
        let (items, ended) = drain(&queue);
        assert!(ended);
        assert_eq!(items.len(), 1025);
        assert_eq!(items.get(1023), Some(&batch(1024, 1)));
        assert_eq!(items.last(), Some(&WatchItem::Lagged));
    }

    #[test]
    fn w8_too_many_bytes_end_with_lagged_but_one_large_batch_does_not() {
        let queue = Queue::default();
        assert!(queue.push(batch(1, MOST_BYTES + 1)));
        assert!(!queue.push(batch(2, 1)));
        assert_eq!(drain(&queue), (vec![batch(1, MOST_BYTES + 1), WatchItem::Lagged], true));
    }

    #[test]
    fn what_was_read_makes_room() {
        let queue = Queue::default();
        for revision in 1..=5000 {
            assert!(queue.push(batch(revision, 10_000)));
            assert_eq!(drain(&queue), (vec![batch(revision, 10_000)], false));
        }
    }

    #[test]
    fn only_the_newest_progress_is_kept() {
        let queue = Queue::default();
        for revision in 1..=5000 {
            assert!(queue.push(WatchItem::Progress(Revision::new(revision))));
        }
        assert_eq!(drain(&queue), (vec![WatchItem::Progress(Revision::new(5000))], false));
    }
}
