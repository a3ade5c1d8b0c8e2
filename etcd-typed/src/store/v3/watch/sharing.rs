//! One server watch and all its readers. A new reader joins an existing server watch if that watch
//! can yield everything after the reader's start revision, once and in order. [`Sharing`] decides
//! this, without a connection, a clock or a task.
//!
//! - Each reader has its own position, and gets only the changes after that position. So a reader
//!   may join in the middle, and may be ahead of the watch.
//! - The watch keeps recent batches for readers that join a moment later, because other clients may
//!   write between the read of a span and its watch.
//! - If the server of the watch is not known to have reached the reader's start revision, the
//!   reader does not join at once. The reader first gets a separate watch. The creation of that
//!   watch shows whether the server lags, or was restored and has another history. Then the reader
//!   moves to the shared watch ([`Sharing::take_over`]).
//! - A reader that needs its first event at once does not join a watch that is still behind
//!   (`machine.rs` explains the server's loop of 100 ms).

use std::collections::{HashMap, VecDeque};
use std::mem::discriminant;
use std::sync::Arc;
use std::task::Waker;

use tokio::sync::oneshot;

use super::queue::{Queue, size};
use crate::error::Error;
use crate::revision::Revision;
use crate::store::v3::status::{Failure, Row};
use crate::store::{Batch, WatchFrom, WatchItem};

/// The number of a reader, unique within the client.
pub(super) type ReaderId = u64;

/// The limits on batches kept for later readers, in number and bytes. They must cover the time
/// between a read and its watch.
const MOST_RECENT: usize = 64;
const MOST_RECENT_BYTES: usize = 256 * 1024;

/// How many revisions a resuming reader may be ahead of a watch that is still behind, to join that
/// watch. A server sends this many revisions at once.
const NEAR: u64 = 1000;

/// Reports to a reader, once, whether its watch was established. An error without a failure means
/// that the reader should try another watch.
pub(super) type EstablishedSender = oneshot::Sender<Result<(), Option<Failure>>>;

/// The outcome of an attempt to join a watch.
#[derive(Debug)]
pub(super) enum Join {
    /// The reader receives items from now on.
    Reads,
    /// The reader waits until the watch is established, and then receives items.
    Waits,
    /// The watch cannot serve this reader.
    Refused(EstablishedSender),
}

/// The readers of a server watch, and the batches kept for later readers.
#[derive(Debug)]
pub(super) struct Sharing {
    /// The start that the watch was created with.
    from: WatchFrom,
    stage: Stage,
    readers: HashMap<ReaderId, Reader>,
    /// All changes up to this revision were yielded, or precede the watch.
    last: Revision,
    /// `recent` contains everything that was yielded after this revision.
    floor: Revision,
    recent: VecDeque<Arc<Batch>>,
    recent_bytes: usize,
    /// Whether batches are kept for later readers. False while only one reader has asked for this
    /// watch, because a kept batch costs memory.
    keeps: bool,
    /// The value of `last` at the previous call of [`Self::age`].
    looked_at: Revision,
}

#[derive(Debug)]
struct Reader {
    queue: Arc<Queue>,
    /// The reader gets only changes after this revision.
    last: Revision,
    from: WatchFrom,
    /// Tells the reader that the watch is established. `None` afterwards.
    established: Option<EstablishedSender>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    /// The server was at this revision when it created the watch.
    Established(Revision),
    Ended,
}

impl Sharing {
    /// Returns the state of a watch that is about to be created for this reader.
    pub(super) fn new(from: WatchFrom, reader: ReaderId, queue: Arc<Queue>, established: EstablishedSender) -> Self {
        let last = from.revision();
        let readers = HashMap::from([(reader, Reader { queue, last, from, established: Some(established) })]);
        Self {
            from,
            stage: Stage::Pending,
            readers,
            last,
            floor: last,
            recent: VecDeque::new(),
            recent_bytes: 0,
            keeps: false,
            looked_at: last,
        }
    }

    /// Adds a reader that starts at `from`, if this watch can serve it. `reached` is the newest
    /// revision that the watch's server was seen at. The caller must wake the `wakers`.
    pub(super) fn join(
        &mut self,
        from: WatchFrom,
        reached: Revision,
        reader: ReaderId,
        queue: &Arc<Queue>,
        established: EstablishedSender,
        wakers: &mut Vec<Waker>,
    ) -> Join {
        let mut joined = Reader { queue: Arc::clone(queue), last: from.revision(), from, established: None };
        match self.stage {
            Stage::Ended => return Join::Refused(established),
            Stage::Pending => {
                let alike = discriminant(&from) == discriminant(&self.from);
                if !alike || from.revision() < self.from.revision() || !self.is_near(from.revision()) {
                    return Join::Refused(established);
                }
                self.keeps = true;
                joined.established = Some(established);
                self.readers.insert(reader, joined);
                return Join::Waits;
            }
            Stage::Established(created_at) => {
                let soon = self.last >= created_at || (matches!(from, WatchFrom::Resumed(_)) && self.is_near(from.revision()));
                if from.revision() > reached || !soon {
                    return Join::Refused(established);
                }
            }
        }
        // Keep batches from now on even if this reader came too late, because the next reader may
        // come in time.
        self.keeps = true;
        if from.revision() < self.floor {
            if !matches!(from, WatchFrom::Live(_)) {
                return Join::Refused(established);
            }
            joined.last = self.last;
            wakers.extend(joined.queue.push(WatchItem::Skipped(self.last)).waker);
        }
        self.catch_up(&mut joined, wakers);
        // This is the only message on the channel, and the caller holds its receiver.
        let _ = established.send(Ok(()));
        self.readers.insert(reader, joined);
        Join::Reads
    }

    /// Records that the server has created the watch at this revision. Returns false if that
    /// revision is too old for all waiting readers.
    pub(super) fn stand(&mut self, created_at: Revision) -> bool {
        self.stage = Stage::Established(created_at);
        // If the watch asked for a later revision than its server has reached, its last item says
        // that the server is behind. All waiting readers start at the requested revision or later,
        // so they stay and get this item too.
        let behind = self.from.revision() > created_at;
        self.readers.retain(|_, reader| {
            let proven = behind || reader.from.revision() <= created_at;
            if let Some(established) = reader.established.take() {
                // If the caller gave up, dropping its reader removes it anyway.
                let _ = established.send(if proven { Ok(()) } else { Err(None) });
            }
            proven
        });
        self.end_without_readers()
    }

    /// Delivers an item to all readers that need it. Returns false if no reader is left.
    pub(super) fn deliver(&mut self, item: WatchItem, wakers: &mut Vec<Waker>) -> bool {
        match item {
            WatchItem::Batch(batch) => self.deliver_batch(batch, wakers),
            WatchItem::Progress(to) => {
                self.last = self.last.max(to);
                for reader in self.readers.values_mut().filter(|reader| reader.last < to) {
                    reader.last = to;
                    wakers.extend(reader.queue.push(WatchItem::Progress(to)).waker);
                }
            }
            WatchItem::Skipped(to) => {
                self.last = to;
                self.floor = to;
                for reader in self.readers.values_mut().filter(|reader| reader.last < to) {
                    reader.last = to;
                    wakers.extend(reader.queue.push(WatchItem::Skipped(to)).waker);
                }
            }
            WatchItem::HistoryLost { oldest } => {
                for (_, reader) in self.readers.drain() {
                    wakers.extend(if oldest.is_some_and(|oldest| reader.last >= oldest) {
                        // The server still has the changes that this reader needs. Only the watch
                        // was too far behind.
                        reader.queue.fail(Error::from(Failure::new(Row::Severed, "the watch had to go back to what is compacted")))
                    } else {
                        reader.queue.push(WatchItem::HistoryLost { oldest }).waker
                    });
                }
            }
            last @ (WatchItem::Behind(_) | WatchItem::Lagged) => {
                for (_, reader) in self.readers.drain() {
                    wakers.extend(reader.queue.push(last.clone()).waker);
                }
            }
        }
        self.end_without_readers()
    }

    /// Ends the watch with an error. Readers that wait until the watch is established get the error
    /// from that wait, and the other readers from their queues.
    pub(super) fn fail(&mut self, failure: &Failure, wakers: &mut Vec<Waker>) {
        self.stage = Stage::Ended;
        for (_, reader) in self.readers.drain() {
            match reader.established {
                Some(established) => {
                    // The caller may have given up.
                    let _ = established.send(Err(Some(failure.clone())));
                }
                None => wakers.extend(reader.queue.fail(failure.clone().into())),
            }
        }
    }

    /// Ends a watch that will not be created, without an error. Waiting readers try another watch.
    pub(super) fn turn_away(&mut self) {
        self.stage = Stage::Ended;
        for (_, reader) in self.readers.drain() {
            if let Some(established) = reader.established {
                // The caller may have given up.
                let _ = established.send(Err(None));
            }
        }
    }

    /// Removes a reader. Returns true if it was the last one, which ends the watch.
    pub(super) fn leave(&mut self, reader: ReaderId) -> bool {
        self.readers.remove(&reader).is_some() && !self.end_without_readers()
    }

    /// Takes over all readers of another watch of the same span and server, unless these readers
    /// need changes that this watch can no longer yield, or would have to wait for it. Returns true
    /// if the readers moved; the other watch has then ended.
    pub(super) fn take_over(&mut self, other: &mut Self, wakers: &mut Vec<Waker>) -> bool {
        let (Stage::Established(created_at), Stage::Established(others_created_at)) = (self.stage, other.stage) else {
            return false;
        };
        let behind = self.last < created_at;
        let slower = behind && (other.last >= others_created_at || other.readers.values().any(|reader| !self.is_near(reader.last)));
        if slower || other.readers.values().any(|reader| reader.last < self.floor) {
            // Keep batches for later readers.
            self.keeps = true;
            return false;
        }
        self.keeps = true;
        for (id, mut reader) in other.readers.drain() {
            self.catch_up(&mut reader, wakers);
            self.readers.insert(id, reader);
        }
        other.stage = Stage::Ended;
        true
    }

    /// Drops the batches that were already kept at the previous call. Called at intervals.
    pub(super) fn age(&mut self) {
        while self.recent.front().is_some_and(|batch| batch.revision <= self.looked_at) {
            self.forget_oldest();
        }
        self.keeps = self.keeps && (self.readers.len() > 1 || !self.recent.is_empty());
        self.looked_at = self.last;
    }

    fn deliver_batch(&mut self, batch: Batch, wakers: &mut Vec<Waker>) {
        let revision = batch.revision;
        self.last = self.last.max(revision);
        let bytes = size(&batch);
        let mut slow = Vec::new();
        if self.keeps {
            let batch = Arc::new(batch);
            for (&id, reader) in self.readers.iter_mut().filter(|(_, reader)| reader.last < revision) {
                reader.last = revision;
                let pushed = reader.queue.push_shared(&batch, bytes);
                wakers.extend(pushed.waker);
                if !pushed.taken {
                    slow.push(id);
                }
            }
            self.keep(batch, bytes);
        } else {
            self.floor = revision;
            // There is at most one reader: when a second one joins, the watch starts to keep
            // batches.
            if let Some((&id, reader)) = self.readers.iter_mut().find(|(_, reader)| reader.last < revision) {
                reader.last = revision;
                let pushed = reader.queue.push_batch(batch, bytes);
                wakers.extend(pushed.waker);
                if !pushed.taken {
                    slow.push(id);
                }
            }
        }
        for id in slow {
            self.readers.remove(&id);
        }
    }

    fn keep(&mut self, batch: Arc<Batch>, bytes: usize) {
        self.recent.push_back(batch);
        self.recent_bytes = self.recent_bytes.saturating_add(bytes);
        while self.recent.len() > MOST_RECENT || self.recent_bytes > MOST_RECENT_BYTES {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(batch) = self.recent.pop_front() {
            self.floor = batch.revision;
            self.recent_bytes = self.recent_bytes.saturating_sub(size(&batch));
        }
    }

    /// Gives a reader the kept batches after its position.
    fn catch_up(&self, reader: &mut Reader, wakers: &mut Vec<Waker>) {
        for batch in self.recent.iter().filter(|batch| batch.revision > reader.last) {
            // A queue has room for more than is kept here. If a queue refuses a batch, the queue
            // has ended, and its reader is removed with the next batch.
            wakers.extend(reader.queue.push_shared(batch, size(batch)).waker);
        }
        if let Some(newest) = self.recent.back() {
            reader.last = reader.last.max(newest.revision);
        }
    }

    pub(super) fn has_one_reader(&self) -> bool {
        self.readers.len() == 1
    }

    fn is_near(&self, revision: Revision) -> bool {
        revision.get().saturating_sub(self.last.get()) <= NEAR
    }

    /// Ends the watch if it has no reader. Returns whether it continues.
    fn end_without_readers(&mut self) -> bool {
        if self.readers.is_empty() {
            self.stage = Stage::Ended;
        }
        self.stage != Stage::Ended
    }
}

#[cfg(test)]
mod tests;
