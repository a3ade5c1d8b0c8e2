//! One server watch and all who read it. Whoever wants a span from a revision on joins a watch that the server has already, if everything
//! after that revision can reach him from it, once and in order. [`Sharing`] decides; no connection, no clock and no task is in it.
//!
//! - A reader has a place of his own: what is not newer than it is not for him, so he may join in the middle, and may be ahead of the watch.
//! - What the watch yielded lately is kept for who joins a moment later: between the read of a span and the watch of it others write.
//! - Who names a revision that the watch's server was not seen to have reached does not join unproven. He gets a watch of his own, whose creation
//!   tells whether that server lags, or has another history; after it he is moved over ([`Sharing::take_over`]).
//! - Who wants his first event at once does not join a watch that is still behind (see `machine.rs` on the server's loop of 100 ms).

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

/// A reader's name. No two readers of a client have the same, in whichever watch.
pub(super) type ReaderId = u64;

/// Batches that are kept for who joins later, and their bytes. It is the time between a read and its watch that they must cover.
const MOST_RECENT: usize = 64;
const MOST_RECENT_BYTES: usize = 256 * 1024;

/// How far ahead of a watch a reader may be that joins while the watch is still behind: what a server sends in one go.
const NEAR: u64 = 1000;

/// Told once: the watch stands, or why it does not. An error without a failure: look for another watch.
pub(super) type Standing = oneshot::Sender<Result<(), Option<Failure>>>;

/// What becomes of somebody who wants to read.
#[derive(Debug)]
pub(super) enum Join {
    /// He reads.
    Reads,
    /// He reads when the watch stands, and is told so.
    Waits,
    /// This watch cannot serve him.
    Refused(Standing),
}

/// Who reads a watch, and what of it is kept for others.
#[derive(Debug)]
pub(super) struct Sharing {
    /// What the watch was created for.
    from: WatchFrom,
    stage: Stage,
    readers: HashMap<ReaderId, Reader>,
    /// Everything up to here was yielded, or was there before the watch.
    last: Revision,
    /// What was yielded after this revision is in `recent`.
    floor: Revision,
    recent: VecDeque<Arc<Batch>>,
    recent_bytes: usize,
    /// Nothing is kept for a watch that nobody else has asked for: it pins the messages that it came in.
    keeps: bool,
    /// `last` when it was looked at for the last time, see [`Self::age`].
    looked_at: Revision,
}

#[derive(Debug)]
struct Reader {
    queue: Arc<Queue>,
    /// What is not newer is not for him.
    last: Revision,
    from: WatchFrom,
    /// Until the watch stands.
    standing: Option<Standing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    /// The server was here when it created the watch.
    Standing(Revision),
    Ended,
}

impl Sharing {
    /// A watch that is about to be created, for this reader.
    pub(super) fn new(from: WatchFrom, reader: ReaderId, queue: Arc<Queue>, standing: Standing) -> Self {
        let last = from.revision();
        let readers = HashMap::from([(reader, Reader { queue, last, from, standing: Some(standing) })]);
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

    /// Somebody wants to read from here. `reached`: the watch's server was seen to be there. `wakers`: to be called.
    pub(super) fn join(
        &mut self,
        from: WatchFrom,
        reached: Revision,
        reader: ReaderId,
        queue: &Arc<Queue>,
        standing: Standing,
        wakers: &mut Vec<Waker>,
    ) -> Join {
        let mut joined = Reader { queue: Arc::clone(queue), last: from.revision(), from, standing: None };
        match self.stage {
            Stage::Ended => return Join::Refused(standing),
            Stage::Pending => {
                let alike = discriminant(&from) == discriminant(&self.from);
                if !alike || from.revision() < self.from.revision() || !self.is_near(from.revision()) {
                    return Join::Refused(standing);
                }
                self.keeps = true;
                joined.standing = Some(standing);
                self.readers.insert(reader, joined);
                return Join::Waits;
            }
            Stage::Standing(created_at) => {
                let soon = self.last >= created_at || (matches!(from, WatchFrom::Resumed(_)) && self.is_near(from.revision()));
                if from.revision() > reached || !soon {
                    return Join::Refused(standing);
                }
            }
        }
        // From now on, even if this one comes too late: the next may not.
        self.keeps = true;
        if from.revision() < self.floor {
            if !matches!(from, WatchFrom::Live(_)) {
                return Join::Refused(standing);
            }
            joined.last = self.last;
            wakers.extend(joined.queue.push(WatchItem::Skipped(self.last)).waker);
        }
        self.catch_up(&mut joined, wakers);
        // It is the first message on this channel, and its receiver is the caller.
        let _ = standing.send(Ok(()));
        self.readers.insert(reader, joined);
        Join::Reads
    }

    /// The server has created the watch, and was at this revision then. False when that is too far back for everybody who waited.
    pub(super) fn stand(&mut self, created_at: Revision) -> bool {
        self.stage = Stage::Standing(created_at);
        // A watch that names a later revision than its server has reached is told that the server is behind; that is the last that it hears. Others
        // that joined in hear it too, if it is true for them.
        let behind = self.from.revision() > created_at;
        self.readers.retain(|_, reader| {
            let proven = behind || reader.from.revision() <= created_at;
            if let Some(standing) = reader.standing.take() {
                // A caller that gave up has dropped his reader, and that is told by itself.
                let _ = standing.send(if proven { Ok(()) } else { Err(None) });
            }
            proven
        });
        self.end_without_readers()
    }

    /// What the watch yields, to all whom it concerns. False when nobody reads it any more.
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
                        // What he has not seen is still there; only this watch had not come so far.
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

    /// The watch failed: its last word to all. Who is still waiting for it to stand is told instead of his reader.
    pub(super) fn fail(&mut self, failure: &Failure, wakers: &mut Vec<Waker>) {
        self.stage = Stage::Ended;
        for (_, reader) in self.readers.drain() {
            match reader.standing {
                Some(standing) => {
                    // A caller that gave up wants to know nothing.
                    let _ = standing.send(Err(Some(failure.clone())));
                }
                None => wakers.extend(reader.queue.fail(failure.clone().into())),
            }
        }
    }

    /// The watch will not be created, for no fault of anybody: who waits looks for another.
    pub(super) fn turn_away(&mut self) {
        self.stage = Stage::Ended;
        for (_, reader) in self.readers.drain() {
            if let Some(standing) = reader.standing {
                // As above.
                let _ = standing.send(Err(None));
            }
        }
    }

    /// A reader goes. True when he was the last: the watch has ended then.
    pub(super) fn leave(&mut self, reader: ReaderId) -> bool {
        self.readers.remove(&reader).is_some() && !self.end_without_readers()
    }

    /// Takes all readers of another watch of the same span and the same server, if nothing is between what they have and what this one still yields.
    /// The other has ended then.
    pub(super) fn take_over(&mut self, other: &mut Self, wakers: &mut Vec<Waker>) -> bool {
        let (Stage::Standing(created_at), Stage::Standing(others_created_at)) = (self.stage, other.stage) else {
            return false;
        };
        let behind = self.last < created_at;
        let slower = behind && (other.last >= others_created_at || other.readers.values().any(|reader| !self.is_near(reader.last)));
        if slower || other.readers.values().any(|reader| reader.last < self.floor) {
            // For whoever comes next.
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

    /// To be called now and then: what was kept since the time before the last one is kept no longer.
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
            // There is one at most: whoever joins makes the watch keep.
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

    /// Gives a reader what was yielded after his place.
    fn catch_up(&self, reader: &mut Reader, wakers: &mut Vec<Waker>) {
        for batch in self.recent.iter().filter(|batch| batch.revision > reader.last) {
            // A queue takes more than is kept here. One that does not take it has ended, and its reader leaves with the next batch.
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

    /// Whether anybody is left.
    fn end_without_readers(&mut self) -> bool {
        if self.readers.is_empty() {
            self.stage = Stage::Ended;
        }
        self.stage != Stage::Ended
    }
}

#[cfg(test)]
mod tests;
