//! `Proof`: finds out that the server has nothing which the mirror has not.
//!
//! A linearizable read says at which revision the store is. If the mirror is there, it has everything that there was when the read was sent. The views of a client share this read, see
//! [`Heads`]. If the mirror is not there, then what the store did since may be on its way, or may be in other directories. So after a moment the store is asked what was modified in the
//! directory since the mirror's revision, and how many keys there are: nothing, and as many as the mirror has, is a proof. That answer is as small for a million keys as for one, but the
//! server still reads the directory for it; so it is asked for less often of a large one, see [`period`]. The v3 store sends the questions of many views as one request. A store that
//! cannot answer the question (v2) lists the directory instead.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::heads::{Changes, EVERY, Head, Heads, Reading, Turn};
use crate::changes::Mirror;
use crate::error::{Error, Result};
use crate::revision::Revision;
use crate::runtime::sleep_until;
use crate::store::{BoxFuture, Range, RangeReply, Span, Store};

/// The time that is added to that for each key, before the server has to read the directory again. etcd reads a million keys a second, so that takes 0.1 % of its time.
const FOR_EACH_KEY: Duration = Duration::from_millis(1);
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// A directory is read up to so much earlier than its period says, together with those of other views.
const TOGETHER: Duration = Duration::from_secs(1);
/// What is on its way is given this time to arrive before it is asked for.
const ARRIVES: Duration = Duration::from_millis(50);
/// So many times, with the time between them, a listing may differ from a mirror that hears of nothing.
const LISTINGS: u32 = 5;
const BETWEEN_LISTINGS: Duration = Duration::from_secs(1);
/// How often a directory with so many keys is proved at least, on a store where something else is written all the time.
pub(super) fn period(keys: u64) -> Duration {
    EVERY.saturating_add(FOR_EACH_KEY.saturating_mul(u32::try_from(keys).unwrap_or(u32::MAX)))
}

pub(super) struct Proof {
    store: Arc<dyn Store>,
    span: Span,
    heads: Arc<Heads>,
    changes: Changes,
    phase: Phase,
    /// When the mirror last moved on, as far as this knows.
    moved: Instant,
    /// When the next one is to be begun.
    due: Instant,
    /// When the server was last made to read the whole directory.
    read_at: Option<Instant>,
    /// Somebody waits for this revision, and it is asked for from this time on.
    wanted: Option<(Instant, Revision)>,
    /// Somebody waits for the proof.
    urgent: bool,
    /// Revisions prove nothing, only a listing does.
    doubts: bool,
}

enum Phase {
    Idle,
    Reading {
        asked: Instant,
        /// How far the mirror was then.
        from: Revision,
        question: Question,
        /// How many times what is in the directory was asked for, with this one.
        listings: u32,
        /// Other views wait for the answer as well.
        shared: Option<Reading>,
        reply: BoxFuture<'static, Result<RangeReply>>,
    },
    /// The store is at `head`, and the mirror is not.
    Behind {
        asked: Instant,
        head: Revision,
        listings: u32,
        until: Instant,
    },
}

/// What the store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// How far it is. The range that is read for it has one possible key: etcd counts all keys of a range, whatever the limit.
    Head,
    /// Which keys of the directory were modified since the mirror's revision, and how many keys there are.
    Modified,
    /// All keys. It is asked in doubt about the history, which revisions do not tell, and where there is no other question.
    All,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing yet.
    Open,
    /// When this was asked, the mirror had everything; and up to this revision nothing else happened in it.
    Proved { asked: Instant, revision: Revision },
    /// The store has another history than the mirror, or does not tell it what happens.
    Disproved,
    /// The store could not be asked.
    Failed(Error),
}

impl Proof {
    pub(super) fn new(store: Arc<dyn Store>, span: Span, heads: Arc<Heads>) -> Self {
        let now = Instant::now();
        let (due, changes) = (heads.beat_after(now), heads.subscribe());
        Self { store, span, heads, changes, phase: Phase::Idle, moved: now, due, read_at: None, wanted: None, urgent: false, doubts: false }
    }

    /// The mirror has another revision, or may have.
    pub(super) fn moved(&mut self) {
        self.moved = Instant::now();
    }

    /// Somebody waits for a proof.
    pub(super) fn ask(&mut self) {
        self.due = Instant::now();
        self.urgent = true;
    }

    /// The watch tells of what a listing had, or of another history: that is to be found out now, by another listing.
    pub(super) fn doubt(&mut self) {
        self.doubts = true;
        self.ask();
    }

    /// Whether that is still to be found out.
    pub(super) fn doubts(&self) -> bool {
        self.doubts
    }

    /// The mirror was made anew.
    pub(super) fn believe(&mut self) {
        self.doubts = false;
    }

    /// Somebody waits for a revision.
    pub(super) fn want(&mut self, revision: Revision) {
        let (at, wanted) = self.wanted.unwrap_or_else(|| (Instant::now() + ARRIVES, revision));
        self.wanted = Some((at, wanted.max(revision)));
    }

    /// The mirror has come this far.
    pub(super) fn seen(&mut self, revision: Revision) -> Outcome {
        match &mut self.phase {
            _ if self.doubts => Outcome::Open,
            Phase::Behind { asked, head, .. } if revision >= *head => {
                let asked = *asked;
                self.rest();
                Outcome::Proved { asked, revision }
            }
            // It does hear of what happens.
            Phase::Behind { listings, .. } => {
                *listings = (*listings).min(1);
                Outcome::Open
            }
            _ => Outcome::Open,
        }
    }

    /// Goes on; cancelling it loses nothing.
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
                    // The other questions are about one directory, and so may be what they meet.
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

    /// Asks how far the store is, together with the other views of the client.
    async fn ask_together(&mut self, mirror: &Mirror) -> Outcome {
        // Where the question is for all of the directory, it is not asked too often.
        let wait = if self.has_past() { Duration::ZERO } else { self.wait(mirror) };
        loop {
            self.changes.see();
            match self.heads.turn(self.due, wait.is_zero()) {
                Turn::Known(head) => return self.compare(mirror, head),
                Turn::Read(reading) => self.read(mirror, 0, Some(reading)),
                Turn::Wait => {
                    self.changes.wait().await;
                    continue;
                }
                Turn::Failed(at) => self.due = at + AGAIN,
                Turn::Nobody => self.rest_for(wait),
            }
            return Outcome::Open;
        }
    }

    /// What it means for the mirror that the store is there.
    fn compare(&mut self, mirror: &Mirror, head: Head) -> Outcome {
        let Head { asked, revision } = head;
        if revision > mirror.revision() {
            self.phase = Phase::Behind { asked, head: revision, listings: 0, until: Instant::now() + ARRIVES };
            Outcome::Open
        } else if revision < mirror.revision() && self.moved <= asked {
            // The mirror was further already when that was asked: the store may have another history. To say so takes a question of one's own.
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
            // No key that is there is newer than the mirror, so all of them are in it; and they are as many.
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

    /// Asks how far the store is, and if that was not enough what was modified.
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

    /// How long to wait before the server has to read the whole directory again, if nobody waits for it.
    fn wait(&self, mirror: &Mirror) -> Duration {
        let wait = self.read_at.map_or(Duration::ZERO, |at| period(mirror.count()).saturating_sub(at.elapsed()));
        if wait < TOGETHER { Duration::ZERO } else { wait }
    }

    fn has_past(&self) -> bool {
        self.store.capabilities().past_revisions
    }

    /// Until the next beat.
    fn rest(&mut self) {
        self.phase = Phase::Idle;
        self.urgent = false;
        self.due = self.heads.beat_after(Instant::now());
    }

    /// For so long, or until the next beat.
    fn rest_for(&mut self, wait: Duration) {
        self.rest();
        self.due = self.due.min(self.heads.second_before(Instant::now() + wait));
    }
}

/// The first key that a span may have.
fn first_key(span: &Span) -> Bytes {
    match span {
        Span::Key(key) => Bytes::copy_from_slice(key.as_bytes()),
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

    /// An empty store, which is at revision 1, and two views of it.
    fn bench() -> (Arc<dyn Store>, [Proof; 2]) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let heads = Arc::new(Heads::new());
        let proof = || Proof::new(store.clone(), Span::Below(Key::parse("/a").unwrap()), heads.clone());
        let proofs = [proof(), proof()];
        (store, proofs)
    }

    #[tokio::test(start_paused = true)]
    async fn each_view_of_a_lost_history_is_disproved() {
        let (_, [mut one, mut other]) = bench();
        let mirror = mirror(7);
        let outcomes = tokio::join!(outcome(&mut one, &mirror), outcome(&mut other, &mirror));
        assert!(matches!(outcomes, (Outcome::Disproved, Outcome::Disproved)), "{outcomes:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn view_that_moved_on_after_the_question_is_proved() {
        let (_, [mut one, mut other]) = bench();
        let began = Instant::now();
        assert!(matches!(outcome(&mut one, &mirror(1)).await, Outcome::Proved { .. }));
        tokio::time::advance(Duration::from_millis(1)).await;
        other.moved();
        let Outcome::Proved { asked, revision } = outcome(&mut other, &mirror(2)).await else { panic!("it is not proved") };
        assert_eq!((asked.duration_since(began), revision), (EVERY, Revision::new(1)), "as of the question");
    }
}
