//! `Proof`: finds out that the server has nothing which the mirror has not.
//!
//! A linearizable read says at which revision the store is. If the mirror is there, it has everything that there was when the read was sent. If it is not, then what the store did
//! since may be on its way, or may be none of the directory's. So after a moment the store is asked what was modified in the directory since the mirror's revision, and how many keys there
//! are: nothing, and as many as the mirror has, is a proof. That answer is as small for a million keys as for one, but the server still reads the directory for it; so it is asked for
//! less often of a large one, see [`period`]. A store that cannot answer it (v2) lists the directory instead.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::changes::Mirror;
use crate::error::{Error, Result};
use crate::revision::Revision;
use crate::runtime::sleep_until;
use crate::store::{BoxFuture, Range, RangeReply, Span, Store};

/// How often the store is asked how far it is, with nobody waiting.
const EVERY: Duration = Duration::from_secs(10);
/// The time that is added to that for each key, before the server has to read the directory again. etcd reads a million keys a second, so that takes 0.1 % of its time.
const FOR_EACH_KEY: Duration = Duration::from_millis(1);
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
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
    phase: Phase,
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
    pub(super) fn new(store: Arc<dyn Store>, span: Span) -> Self {
        Self { store, span, phase: Phase::Idle, due: Instant::now() + EVERY, read_at: None, wanted: None, urgent: false, doubts: false }
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
                self.rest(EVERY);
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
                let wait = self.wait(mirror);
                if !self.has_past() && !self.urgent && wanted.is_none() && !wait.is_zero() {
                    // There is no question but that for all of the directory.
                    self.rest(wait);
                } else if due == self.due || wanted.is_some_and(|(_, revision)| revision > mirror.revision()) {
                    self.urgent |= wanted.is_some();
                    self.read(mirror, 0);
                }
                Outcome::Open
            }
            Phase::Reading { asked, from, question, listings, reply } => {
                let reply = reply.await;
                let (asked, from, question, listings) = (*asked, *from, *question, *listings);
                self.judge(mirror, asked, from, question, listings, reply)
            }
            Phase::Behind { until, listings, .. } => {
                sleep_until(*until).await;
                let listings = *listings;
                let wait = self.wait(mirror);
                if listings == 0 && self.has_past() && !self.urgent && !self.doubts && !wait.is_zero() {
                    self.rest(EVERY.min(wait));
                } else if listings >= LISTINGS {
                    self.rest(EVERY);
                    self.doubts = false;
                    return Outcome::Disproved;
                } else {
                    self.read(mirror, listings + 1);
                }
                Outcome::Open
            }
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
                self.rest(AGAIN);
                return Outcome::Failed(error);
            }
        };
        let head = reply.revision;
        if head < from {
            self.rest(EVERY);
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
            self.rest(EVERY);
            self.doubts = false;
            return Outcome::Proved { asked, revision: head };
        }
        let wait = if listings > 0 { BETWEEN_LISTINGS } else { ARRIVES };
        self.phase = Phase::Behind { asked, head, listings, until: Instant::now() + wait };
        Outcome::Open
    }

    /// Asks how far the store is, and if that was not enough what was modified.
    fn read(&mut self, mirror: &Mirror, listings: u32) {
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
        if question != Question::Head {
            self.read_at = Some(Instant::now());
        }
        let store = self.store.clone();
        let reply = Box::pin(async move { store.range(range).await });
        self.phase = Phase::Reading { asked: Instant::now(), from, question, listings, reply };
    }

    /// How long to wait before the server has to read the whole directory again, if nobody waits for it.
    fn wait(&self, mirror: &Mirror) -> Duration {
        self.read_at.map_or(Duration::ZERO, |at| period(mirror.count()).saturating_sub(at.elapsed()))
    }

    fn has_past(&self) -> bool {
        self.store.capabilities().past_revisions
    }

    fn rest(&mut self, delay: Duration) {
        self.phase = Phase::Idle;
        self.urgent = false;
        self.due = Instant::now() + delay;
    }
}

/// The first key that a span may have.
fn first_key(span: &Span) -> Bytes {
    match span {
        Span::Key(key) => Bytes::copy_from_slice(key.as_bytes()),
        Span::Below(directory) => [directory.prefix().as_bytes(), &[0]].concat().into(),
    }
}
