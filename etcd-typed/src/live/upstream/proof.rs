//! `Proof`: the periodic reads that show whether the mirror has everything that the server has.
//!
//! A linearizable read returns the revision of the store. If the mirror has this revision, it has
//! everything that the store had when the read was sent. All views of a client share this read, see
//! [`Heads`].
//!
//! If the mirror is behind, the missing events may still be on their way, or only keys of other
//! directories may have changed. So after a moment the task asks the store which keys of the
//! directory were modified after the mirror's revision, and how many keys the directory has. If no
//! key was modified and the number of keys is equal, the mirror is complete. This answer is small
//! even for a million keys, but the server reads the whole directory for it. So the task sends this
//! request less often for a large directory, see [`period`]. The v3 store combines these requests
//! of many views into one. A store that has no such request (v2) lists the directory instead.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::heads::{Changes, EVERY, Head, HeadStep, Heads, Reading};
use crate::changes::Mirror;
use crate::error::{Error, Result};
use crate::revision::Revision;
use crate::runtime::sleep_until;
use crate::store::{BoxFuture, Range, RangeReply, Span, Store};

/// The time that is added to [`EVERY`] for each key of the directory. The sum is the time between
/// two reads of the whole directory. etcd reads a million keys a second, so these reads take 0.1 %
/// of its time.
const FOR_EACH_KEY: Duration = Duration::from_millis(1);
/// The delay between a failed request and the next attempt.
const AGAIN: Duration = Duration::from_secs(1);
/// If a directory is due to be read within this time, it is read now, so that the reads of several
/// views fall on the same beat.
const TOGETHER: Duration = Duration::from_secs(1);
/// The time for which the task waits for events that may be on their way, before it asks the store
/// for changed keys.
const ARRIVES: Duration = Duration::from_millis(50);
/// The number of listings, [`BETWEEN_LISTINGS`] apart, that may differ from a mirror that receives
/// no event. After that the watch counts as broken.
const LISTINGS: u32 = 5;
/// The time between two listings that differ from the mirror.
const BETWEEN_LISTINGS: Duration = Duration::from_secs(1);

/// Returns the longest time between two proofs that the mirror of a directory with this number of
/// keys is current. Proofs are that far apart if other directories of the store change all the
/// time.
pub(super) fn period(keys: u64) -> Duration {
    EVERY.saturating_add(FOR_EACH_KEY.saturating_mul(u32::try_from(keys).unwrap_or(u32::MAX)))
}

pub(super) struct Proof {
    store: Arc<dyn Store>,
    span: Span,
    heads: Arc<Heads>,
    changes: Changes,
    phase: Phase,
    /// The time at which the mirror last got a newer revision.
    moved: Instant,
    /// The time at which the next proof begins.
    due: Instant,
    /// The time at which the last request was sent for which the server reads the whole directory.
    read_at: Option<Instant>,
    /// The revision that a caller waits for, and the time at which the task asks the store for it.
    wanted: Option<(Instant, Revision)>,
    /// True if a caller waits for the proof.
    urgent: bool,
    /// True if the server may have been restored or replaced, so that its history differs from the
    /// mirror's. Then equal revisions prove nothing, and the task lists all keys.
    doubts: bool,
}

enum Phase {
    Idle,
    Reading {
        asked: Instant,
        /// The revision that the mirror had when the request was sent.
        from: Revision,
        question: Question,
        /// The number of requests for the contents of the directory that this proof has sent,
        /// including this one.
        listings: u32,
        /// Set if this view reads for all views of the client, which wait for the answer.
        shared: Option<Reading>,
        reply: BoxFuture<'static, Result<RangeReply>>,
    },
    /// The store has reached the revision `head`, and the mirror has not.
    Behind {
        asked: Instant,
        head: Revision,
        listings: u32,
        until: Instant,
    },
}

/// The question that the task asks the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Asks for the revision of the store. The request reads a range in which only one key is
    /// possible, because etcd counts all keys of a range, whatever the limit.
    Head,
    /// Asks which keys of the directory were modified after the mirror's revision, and how many
    /// keys the directory has.
    Modified,
    /// Asks for all keys. Used if the server may have been restored or replaced, which revisions do
    /// not show, and for stores that cannot answer the other questions.
    All,
}

/// The result of a step of a proof.
#[derive(Debug)]
pub(super) enum Outcome {
    /// There is no result yet.
    Open,
    /// The mirror has everything that the store had at the time `asked`, and every change in the
    /// directory up to `revision`.
    Proved { asked: Instant, revision: Revision },
    /// The mirror is wrong: the server was restored or replaced, or the watch misses events.
    Disproved,
    /// The request to the store failed.
    Failed(Error),
}

impl Proof {
    pub(super) fn new(store: Arc<dyn Store>, span: Span, heads: Arc<Heads>) -> Self {
        let now = Instant::now();
        let (due, changes) = (heads.beat_after(now), heads.subscribe());
        Self { store, span, heads, changes, phase: Phase::Idle, moved: now, due, read_at: None, wanted: None, urgent: false, doubts: false }
    }

    /// Called after the mirror or its revision has changed.
    pub(super) fn moved(&mut self) {
        self.moved = Instant::now();
    }

    /// Begins a proof now, because a caller waits for it.
    pub(super) fn ask(&mut self) {
        self.due = Instant::now();
        self.urgent = true;
    }

    /// Called when the watch delivers an event at a revision that a listing already covers. Either
    /// the listing already contained the event, or the server was restored or replaced and now has
    /// another history. Begins a new listing, which shows which of the two is true.
    pub(super) fn doubt(&mut self) {
        self.doubts = true;
        self.ask();
    }

    /// Returns true if the store may have another history than the mirror.
    pub(super) fn doubts(&self) -> bool {
        self.doubts
    }

    /// Called after the mirror was read again from the store. The mirror then has the same history
    /// as the store.
    pub(super) fn believe(&mut self) {
        self.doubts = false;
    }

    /// Called when a caller waits for this revision.
    pub(super) fn want(&mut self, revision: Revision) {
        let (at, wanted) = self.wanted.unwrap_or_else(|| (Instant::now() + ARRIVES, revision));
        self.wanted = Some((at, wanted.max(revision)));
    }

    /// Called when the mirror has reached this revision.
    pub(super) fn seen(&mut self, revision: Revision) -> Outcome {
        match &mut self.phase {
            _ if self.doubts => Outcome::Open,
            Phase::Behind { asked, head, .. } if revision >= *head => {
                let asked = *asked;
                self.rest();
                Outcome::Proved { asked, revision }
            }
            // The watch delivers events, so the count of listings starts again.
            Phase::Behind { listings, .. } => {
                *listings = (*listings).min(1);
                Outcome::Open
            }
            _ => Outcome::Open,
        }
    }

    /// Continues the proof until a step of it has an outcome. The future is cancel safe.
    pub(super) async fn next(&mut self, mirror: Option<&Mirror>) -> Outcome {
        let Some(mirror) = mirror else { return pending().await };
        match &mut self.phase {
            Phase::Idle => {
                let due = self.wanted.map_or(self.due, |(at, _)| at.min(self.due));
                sleep_until(due).await;
                let wanted = self.wanted.take();
                self.urgent |= wanted.is_some_and(|(_, revision)| revision > mirror.revision());
                if self.urgent {
                    self.read(mirror, 0, None);
                    Outcome::Open
                } else if due == self.due {
                    self.ask_together(mirror).await
                } else {
                    Outcome::Open
                }
            }
            Phase::Reading { asked, from, question, listings, shared, reply } => {
                let reply = reply.await;
                match (shared.take(), &reply) {
                    (Some(shared), Ok(reply)) => shared.answered(reply.revision),
                    // The error of any other question may concern only this directory.
                    (Some(shared), Err(error)) if *question == Question::Head => shared.failed(error),
                    (_, _) => {}
                }
                let (asked, from, question, listings) = (*asked, *from, *question, *listings);
                self.judge(mirror, asked, from, question, listings, reply)
            }
            Phase::Behind { asked, until, listings, .. } => {
                sleep_until(*until).await;
                let (asked, listings) = (*asked, *listings);
                let wait = self.wait(mirror);
                let has_read = self.read_at.is_some_and(|at| at >= asked);
                if !has_read && !self.urgent && !self.doubts && !wait.is_zero() {
                    self.rest_for(wait);
                } else if listings >= LISTINGS {
                    self.rest();
                    self.doubts = false;
                    return Outcome::Disproved;
                } else {
                    self.read(mirror, listings + 1, None);
                }
                Outcome::Open
            }
        }
    }

    /// Gets the revision of the store in a read that all views of the client share.
    async fn ask_together(&mut self, mirror: &Mirror) -> Outcome {
        // On a store without past revisions this read lists the whole directory, so it is sent only
        // once per period.
        let wait = if self.has_past() { Duration::ZERO } else { self.wait(mirror) };
        loop {
            self.changes.see();
            match self.heads.step(self.due, wait.is_zero()) {
                HeadStep::Known(head) => return self.compare(mirror, head),
                HeadStep::Read(reading) => self.read(mirror, 0, Some(reading)),
                HeadStep::Wait => {
                    self.changes.wait().await;
                    continue;
                }
                HeadStep::Failed(at) => self.due = at + AGAIN,
                HeadStep::Nobody => self.rest_for(wait),
            }
            return Outcome::Open;
        }
    }

    /// Compares the mirror with the head of the store.
    fn compare(&mut self, mirror: &Mirror, head: Head) -> Outcome {
        let Head { asked, revision } = head;
        if revision > mirror.revision() {
            self.phase = Phase::Behind { asked, head: revision, listings: 0, until: Instant::now() + ARRIVES };
            Outcome::Open
        } else if revision < mirror.revision() && self.moved <= asked {
            // The mirror already had a later revision before the head was read, so the store may
            // have another history. Only an answer to this view's own request proves that.
            self.read(mirror, 0, None);
            Outcome::Open
        } else {
            self.rest();
            Outcome::Proved { asked, revision }
        }
    }

    fn judge(
        &mut self,
        mirror: &Mirror,
        asked: Instant,
        from: Revision,
        question: Question,
        listings: u32,
        reply: Result<RangeReply>,
    ) -> Outcome {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                self.phase = Phase::Idle;
                self.urgent = false;
                self.due = Instant::now() + AGAIN;
                return Outcome::Failed(error);
            }
        };
        let head = reply.revision;
        if head < from {
            self.rest();
            self.doubts = false;
            return Outcome::Disproved;
        }
        let arrived = mirror.revision() >= head && !self.doubts;
        let agrees = match question {
            Question::Head => false,
            // No key in the store was modified after the mirror's revision, so the mirror has every
            // key that the store has. The numbers of keys are equal, so the mirror has no other
            // keys.
            Question::Modified => reply.kvs.is_empty() && reply.count == Some(mirror.count()) && !self.doubts,
            Question::All => mirror.agrees(&reply.kvs, !self.has_past()),
        };
        if arrived || agrees {
            self.rest();
            self.doubts = false;
            return Outcome::Proved { asked, revision: head };
        }
        let wait = if listings > 0 { BETWEEN_LISTINGS } else { ARRIVES };
        self.phase = Phase::Behind { asked, head, listings, until: Instant::now() + wait };
        Outcome::Open
    }

    /// Sends the request for this stage of the proof: first for the head of the store, then for the
    /// modified keys.
    fn read(&mut self, mirror: &Mirror, listings: u32, shared: Option<Reading>) {
        let question = match listings {
            _ if self.doubts || !self.has_past() => Question::All,
            0 => Question::Head,
            _ => Question::Modified,
        };
        let (from, all) = (mirror.revision(), Range::of(self.span.clone()));
        let range = match question {
            Question::Head => Range { keys_only: true, limit: Some(1), until: Some(first_key(&self.span)), ..all },
            Question::Modified => Range { keys_only: true, limit: Some(1), modified_after: Some(from), ..all },
            Question::All => Range { keys_only: self.has_past(), ..all },
        };
        let asked = shared.as_ref().map_or_else(Instant::now, Reading::asked);
        if question != Question::Head {
            self.read_at = Some(asked);
        }
        let store = self.store.clone();
        let reply = Box::pin(async move { store.range(range).await });
        self.phase = Phase::Reading { asked, from, question, listings, shared, reply };
    }

    /// Returns the delay before the next read of the whole directory, if no caller waits for it.
    fn wait(&self, mirror: &Mirror) -> Duration {
        let wait = self.read_at.map_or(Duration::ZERO, |at| period(mirror.count()).saturating_sub(at.elapsed()));
        if wait < TOGETHER { Duration::ZERO } else { wait }
    }

    fn has_past(&self) -> bool {
        self.store.capabilities().past_revisions
    }

    /// Ends this proof. The next one begins at the next beat.
    fn rest(&mut self) {
        self.phase = Phase::Idle;
        self.urgent = false;
        self.due = self.heads.beat_after(Instant::now());
    }

    /// Ends this proof. The next one begins after this time, but no later than the next beat.
    fn rest_for(&mut self, wait: Duration) {
        self.rest();
        self.due = self.due.min(self.heads.second_before(Instant::now() + wait));
    }
}

/// Returns the first key that can exist in a span.
fn first_key(span: &Span) -> Bytes {
    match span {
        Span::Key(key) | Span::Between { start: key, .. } => Bytes::copy_from_slice(key.as_bytes()),
        Span::Below(directory) => [directory.prefix().as_bytes(), &[0]].concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::store::memory::MemoryStore;
    use crate::watch::{Reason, Snapshot};

    fn mirror(revision: u64) -> Mirror {
        let start = Snapshot { revision: Revision::new(revision), kvs: Vec::new(), known: true, reason: Reason::Start };
        Mirror::new(Key::parse("/a").unwrap(), start)
    }

    async fn outcome(proof: &mut Proof, mirror: &Mirror) -> Outcome {
        loop {
            match proof.next(Some(mirror)).await {
                Outcome::Open => {}
                outcome => return outcome,
            }
        }
    }

    /// Returns an empty store, whose revision is 1, and the proofs of two views of it.
    fn bench() -> (Arc<dyn Store>, [Proof; 2]) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let heads = Arc::new(Heads::new());
        let proof = || Proof::new(store.clone(), Span::Below(Key::parse("/a").unwrap()), heads.clone());
        let proofs = [proof(), proof()];
        (store, proofs)
    }

    #[tokio::test(start_paused = true)]
    async fn every_view_detects_lost_history() {
        let (_, [mut one, mut other]) = bench();
        let mirror = mirror(7);
        let outcomes = tokio::join!(outcome(&mut one, &mirror), outcome(&mut other, &mirror));
        assert!(matches!(outcomes, (Outcome::Disproved, Outcome::Disproved)), "{outcomes:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn shared_read_proves_mirror_with_newer_revision() {
        let (_, [mut one, mut other]) = bench();
        let began = Instant::now();
        assert!(matches!(outcome(&mut one, &mirror(1)).await, Outcome::Proved { .. }));
        tokio::time::advance(Duration::from_millis(1)).await;
        other.moved();
        let Outcome::Proved { asked, revision } = outcome(&mut other, &mirror(2)).await else { panic!("the view is not proved") };
        assert_eq!((asked.duration_since(began), revision), (EVERY, Revision::new(1)), "the proof has the time of the request");
    }
}
