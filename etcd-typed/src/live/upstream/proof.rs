//! `Proof`: finds out that the server has nothing which the mirror has not.
//!
//! A linearizable read says at which revision the store is. Is the mirror there, it has everything that there was when the read was sent. Is it
//! not, then what the store did since may be on its way, or may be none of the directory's: after a moment the keys of the directory are listed,
//! without values, and compared.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::changes::Mirror;
use crate::error::{Error, Result};
use crate::revision::Revision;
use crate::runtime::sleep_until;
use crate::store::{BoxFuture, Range, RangeReply, Span, Store};

/// How often it is proved with nobody asking.
const EVERY: Duration = Duration::from_secs(10);
/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// What is on its way is given this time to arrive before it is asked for.
const ARRIVES: Duration = Duration::from_millis(50);
/// So many times, with the time between them, a listing may differ from a mirror that hears of nothing.
const LISTINGS: u32 = 5;
const BETWEEN_LISTINGS: Duration = Duration::from_secs(1);
/// A directory with more keys is listed only if somebody waits.
const LONG: usize = 10_000;

pub(super) struct Proof {
    store: Arc<dyn Store>,
    span: Span,
    phase: Phase,
    /// When the next one is to be begun.
    due: Instant,
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
        Self { store, span, phase: Phase::Idle, due: Instant::now() + EVERY, wanted: None, urgent: false, doubts: false }
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
                if due == self.due || wanted.is_some_and(|(_, revision)| revision > mirror.revision()) {
                    self.urgent |= wanted.is_some();
                    self.read(mirror, 0);
                }
                Outcome::Open
            }
            Phase::Reading { asked, from, listings, reply } => {
                let reply = reply.await;
                let (asked, from, listings) = (*asked, *from, *listings);
                self.judge(mirror, asked, from, listings, reply)
            }
            Phase::Behind { until, listings, .. } => {
                sleep_until(*until).await;
                let listings = *listings;
                if listings == 0 && !self.urgent && mirror.tree().len() > LONG {
                    self.rest(EVERY);
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

    fn judge(&mut self, mirror: &Mirror, asked: Instant, from: Revision, listings: u32, reply: Result<RangeReply>) -> Outcome {
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
        let listed = !reply.more;
        let arrived = mirror.revision() >= head && !self.doubts;
        if arrived || listed && mirror.agrees(&reply.kvs, !self.has_past()) {
            self.rest(EVERY);
            self.doubts = false;
            return Outcome::Proved { asked, revision: head };
        }
        let wait = if listings > 0 { BETWEEN_LISTINGS } else { ARRIVES };
        self.phase = Phase::Behind { asked, head, listings, until: Instant::now() + wait };
        Outcome::Open
    }

    /// Reads how far the store is; with a listing of the directory, if there were some already.
    fn read(&mut self, mirror: &Mirror, listings: u32) {
        // Without past revisions there is no page of a listing either, and the values come with it in any case.
        let head_only = listings == 0 && !self.doubts && self.has_past();
        let range = Range { keys_only: self.has_past(), limit: head_only.then_some(1), ..Range::of(self.span.clone()) };
        let store = self.store.clone();
        let reply = Box::pin(async move { store.range(range).await });
        self.phase = Phase::Reading { asked: Instant::now(), from: mirror.revision(), listings, reply };
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
