//! The decisions of a watch: what to ask the store next, what to yield, and what an answer means.
//! The engine has no socket, clock or task, so tests can check every rule by passing in events.
//! `watch.rs` carries the decisions out.

use crate::error::{Error, ErrorKind};
use crate::revision::Revision;
use crate::store::{Batch, Range, RangeReply, Span, WatchFrom, WatchItem};
use crate::telemetry::{self, Pattern};
use crate::watch::anchor::Anchor;
use crate::watch::{Reason, Snapshot, Start, Step};

/// The next action that the engine wants from its caller. It stays the same until
/// [`Engine::handle`] gets the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Close the open watch, if any, and send this read. The answer is [`Input::Read`].
    Read(Range),
    /// Send this read, and keep the watch that was just opened. The answer is [`Input::Read`].
    Check(Range),
    /// Open a watch from this revision. The answer is [`Input::Opened`].
    Open(WatchFrom),
    /// Take the next item of the open watch. The answer is [`Input::Item`].
    Item,
    /// Wait before the next attempt. The answer is [`Input::Waited`].
    Wait,
    /// Do nothing: the watch has ended.
    Nothing,
}

/// The answer to a [`Want`], or an event.
#[derive(Debug)]
pub(crate) enum Input {
    /// The answer to a read.
    Read(Result<RangeReply, Error>),
    /// The watch is open, or could not be opened.
    Opened(Result<(), Error>),
    /// An item of the open watch, or `None` if it just ended.
    Item(Option<Result<WatchItem, Error>>),
    /// The wait is over.
    Waited,
    /// The watch is still being opened, but the first step must not wait any longer.
    Overdue,
    /// The store now belongs to another cluster. This replaces the answer to the current want.
    Moved,
}

/// The state of one watch.
///
/// Invariant: `delivered <= resume`. A batch at or below `delivered` was yielded before (or is part
/// of the snapshot) and is always dropped. So the batches between two resets are ordered and never
/// repeated.
#[derive(Debug)]
pub(crate) struct Engine {
    span: Span,
    pattern: Pattern,
    past_revisions: bool,
    phase: Phase,
    /// The revision of the last batch or snapshot.
    delivered: Revision,
    /// The revision up to which all changes were yielded. A broken watch is resumed from this
    /// revision.
    resume: Revision,
    /// True after a snapshot was read. From then on, temporary failures do not end the watch.
    started: bool,
    /// True after a step was yielded or a watch was opened. Before that, a refusal ends the watch
    /// at once, as it ends a read.
    begun: bool,
    /// True after the server has reported progress before it sent all changes up to that revision.
    /// From then on, progress is ignored.
    progress_lies: bool,
    anchor: Anchor,
    trouble: Option<Error>,
}

/// The phase of a watch.
#[derive(Debug)]
enum Phase {
    /// The engine reads the span, at the past revision `at` or now.
    Listing { reason: Reason, at: Option<Revision> },
    /// The engine opens a watch. It holds the snapshot back until the first attempt to open the
    /// watch has ended. So a slow reader cannot delay the watch after the list, and a caller that
    /// gets the first snapshot knows that the watch is permitted.
    Opening { from: WatchFrom, check: bool, held: Option<Box<Snapshot>> },
    /// The resumed watch is open, and a read checks whether the server still has the history that
    /// the watch saw.
    Checking,
    /// The engine takes items from the open watch. `fresh`: the watch was opened right after a
    /// list. `moved`: the watch has yielded an item.
    Following { fresh: bool, moved: bool },
    /// A server is at an earlier revision than the watch has seen. A linearizable read checks
    /// whether the whole cluster is.
    Confirming,
    /// The engine waits before the next attempt.
    Waiting(Then),
    /// The watch has ended.
    Ended,
}

/// The action after a wait.
#[derive(Clone, Copy, Debug)]
enum Then {
    List(Reason),
    Open,
}

impl Engine {
    pub(crate) fn new(span: Span, pattern: Pattern, past_revisions: bool, start: Start) -> Self {
        let (revision, phase) = match start {
            Start::Now => (Revision::ZERO, Phase::Listing { reason: Reason::Start, at: None }),
            Start::Since(revision) if past_revisions && revision > Revision::ZERO => {
                (revision, Phase::Listing { reason: Reason::Start, at: Some(revision) })
            }
            Start::Since(revision) => {
                // At revision zero the state is known to be empty. (A read with revision zero would
                // return the current state.)
                let held = Snapshot { revision, kvs: Vec::new(), known: revision == Revision::ZERO, reason: Reason::Start };
                (revision, Phase::Opening { from: WatchFrom::Resumed(revision), check: false, held: Some(Box::new(held)) })
            }
        };
        let started = matches!(phase, Phase::Opening { .. });
        let (delivered, resume) = (revision, revision);
        let (anchor, trouble) = (Anchor::Unknown, None);
        Self { span, pattern, past_revisions, phase, delivered, resume, started, begun: false, progress_lies: false, anchor, trouble }
    }

    /// Returns the watched span.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// Returns the label for the span in metrics and events.
    pub(crate) fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// Returns the action that the caller must carry out now.
    #[inline]
    pub(crate) fn want(&self) -> Want {
        match &self.phase {
            Phase::Listing { at, .. } => Want::Read(Range { revision: *at, ..Range::of(self.span.clone()) }),
            Phase::Opening { from, .. } => Want::Open(*from),
            Phase::Checking => Want::Check(self.anchor.range(&self.span, self.past_revisions.then_some(self.resume))),
            Phase::Following { .. } => Want::Item,
            Phase::Confirming => {
                let cheap = self.past_revisions;
                Want::Read(Range { limit: cheap.then_some(1), keys_only: cheap, ..Range::of(self.span.clone()) })
            }
            Phase::Waiting(_) => Want::Wait,
            Phase::Ended => Want::Nothing,
        }
    }

    /// Whether the first step is known, but held back until the watch is open.
    pub(crate) fn is_holding(&self) -> bool {
        !self.begun && matches!(&self.phase, Phase::Opening { held: Some(_), .. })
    }

    /// Returns the error that interrupts the watch, or `None` while the watch works.
    pub(crate) fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    /// Whether the watch is interrupted by a refusal.
    pub(crate) fn is_refused(&self) -> bool {
        self.trouble().is_some_and(|error| is_refusal(error.kind()))
    }

    /// Ends a watch that the server has refused for too long. The refusal is its last item.
    pub(crate) fn give_up(&mut self) -> Option<Result<Step, Error>> {
        let error = self.trouble.take()?;
        self.fail(error)
    }

    /// Handles the answer to the current want. If this returns an error, the watch has ended.
    ///
    /// An input that does not answer the current want would be a bug in the caller, and is ignored.
    #[inline]
    pub(crate) fn handle(&mut self, input: Input) -> Option<Result<Step, Error>> {
        match (std::mem::replace(&mut self.phase, Phase::Ended), input) {
            (Phase::Listing { reason, at }, Input::Read(answer)) => self.listed(reason, at, answer),
            (Phase::Opening { from, check, held }, Input::Opened(answer)) => self.opened(from, check, held, answer),
            (Phase::Checking, Input::Read(answer)) => self.checked(answer),
            (Phase::Following { fresh, moved }, Input::Item(item)) => self.item(fresh, moved, item),
            (Phase::Confirming, Input::Read(answer)) => self.confirmed(answer),
            (Phase::Opening { from, check, held: Some(snapshot) }, Input::Overdue) => {
                let error = Error::new(ErrorKind::Timeout, "the watch was not created in time");
                telemetry::watch_attempt_failed(self.pattern, self.resume, &error);
                self.trouble = Some(error.at(self.span.key()));
                self.begun = true;
                self.phase = Phase::Opening { from, check, held: None };
                Some(Ok(Step::Reset(*snapshot)))
            }
            (phase, Input::Moved) => {
                self.phase = self.moved(phase);
                None
            }
            (Phase::Waiting(then), Input::Waited) => {
                self.phase = match then {
                    Then::List(reason) => Phase::Listing { reason, at: None },
                    Then::Open => self.reopening(),
                };
                None
            }
            (phase, _) => {
                self.phase = phase;
                None
            }
        }
    }

    /// Returns the phase after the store has moved to another cluster: the span is read again,
    /// since the watch has seen another history. If no snapshot was yielded yet, the new snapshot
    /// keeps its reason.
    fn moved(&self, phase: Phase) -> Phase {
        let reason = match &phase {
            Phase::Ended => return phase,
            Phase::Listing { .. } if !self.started => return phase,
            Phase::Opening { held: Some(snapshot), .. } => snapshot.reason,
            Phase::Listing { reason, .. } => *reason,
            _ => Reason::Rewound,
        };
        let reason = if reason == Reason::Start { reason } else { Reason::Rewound };
        Phase::Listing { reason, at: None }
    }

    fn listed(&mut self, reason: Reason, at: Option<Revision>, answer: Result<RangeReply, Error>) -> Option<Result<Step, Error>> {
        let mut reply = match answer {
            Ok(reply) => reply,
            Err(error) if error.kind() == ErrorKind::HistoryLost && at.is_some() => {
                // The revision is compacted or in the future. A list of the current state shows
                // which of the two is true.
                self.phase = Phase::Listing { reason: Reason::HistoryLost, at: None };
                return None;
            }
            // Before the first snapshot this is an ordinary read, which the store has already
            // repeated within the limits of the policy.
            Err(error) if !self.started => return self.fail(error),
            Err(error) => return self.broken(error, Then::List(reason)),
        };
        if matches!(self.span, Span::Key(_)) {
            reply.make_compact();
        }
        let revision = at.unwrap_or(reply.revision);
        // The read is linearizable. So if the server is at an earlier revision than the watch has
        // seen, the server was restored or replaced.
        let reason = if revision < self.resume { Reason::Rewound } else { reason };
        if reason != Reason::Start {
            telemetry::resynced(self.pattern, reason.words(), revision, self.resume);
        }
        self.delivered = revision;
        self.resume = revision;
        self.anchor = Anchor::of(&reply.kvs, &self.span);
        let snapshot = Snapshot { revision, kvs: reply.kvs, known: true, reason };
        let from = if at.is_some() { WatchFrom::Resumed(revision) } else { WatchFrom::Listed(revision) };
        self.started = true;
        self.phase = Phase::Opening { from, check: false, held: Some(Box::new(snapshot)) };
        None
    }

    fn opened(
        &mut self,
        from: WatchFrom,
        check: bool,
        held: Option<Box<Snapshot>>,
        answer: Result<(), Error>,
    ) -> Option<Result<Step, Error>> {
        match answer {
            Ok(()) if check => self.phase = Phase::Checking,
            Ok(()) => self.follow(matches!(from, WatchFrom::Listed(_))),
            Err(error) if error.kind() == ErrorKind::HistoryLost => self.history_lost(matches!(from, WatchFrom::Listed(_)), error),
            Err(error) => {
                if let failed @ Some(_) = self.broken(error, Then::Open) {
                    return failed;
                }
            }
        }
        let snapshot = held?;
        self.begun = true;
        Some(Ok(Step::Reset(*snapshot)))
    }

    fn checked(&mut self, answer: Result<RangeReply, Error>) -> Option<Result<Step, Error>> {
        match answer {
            Ok(reply) if self.anchor.contradicts(&reply, self.resume, self.past_revisions) => {
                self.phase = Phase::Listing { reason: Reason::Rewound, at: None };
            }
            Ok(reply) => {
                self.anchor.adopt(&reply, self.resume, &self.span);
                self.follow(false);
            }
            // The check was not possible, so nothing is known yet. If the history was lost, the
            // watch itself will report that.
            Err(error) if proves_nothing(error.kind()) => self.follow(false),
            Err(error) => return self.broken(error, Then::Open),
        }
        None
    }

    fn confirmed(&mut self, answer: Result<RangeReply, Error>) -> Option<Result<Step, Error>> {
        match answer {
            Ok(reply) if reply.revision < self.resume => {
                self.phase = Phase::Listing { reason: Reason::Rewound, at: None };
                None
            }
            Ok(_) => self.broken(Error::new(ErrorKind::Unavailable, "the member that answered lags behind"), Then::Open),
            Err(error) => self.broken(error, Then::Open),
        }
    }

    fn item(&mut self, fresh: bool, moved: bool, item: Option<Result<WatchItem, Error>>) -> Option<Result<Step, Error>> {
        match item {
            Some(Ok(WatchItem::Batch(batch))) => {
                let step = self.batch(batch);
                self.phase = Phase::Following { fresh, moved: moved || step.is_some() };
                step.map(Ok)
            }
            Some(Ok(WatchItem::Progress(revision))) => {
                let ahead = revision > self.resume && !self.progress_lies;
                self.phase = Phase::Following { fresh, moved: moved || ahead };
                if ahead {
                    self.resume = revision;
                }
                ahead.then_some(Ok(Step::Progress(revision)))
            }
            // The engine never permits a watch to skip changes, so here changes are missing.
            Some(Ok(WatchItem::Skipped(_))) => {
                self.history_lost(fresh && !moved, Error::new(ErrorKind::HistoryLost, "the watch skipped changes"));
                None
            }
            Some(Ok(WatchItem::HistoryLost { .. })) => {
                self.history_lost(fresh && !moved, Error::new(ErrorKind::HistoryLost, "compacted while it was read"));
                None
            }
            Some(Ok(WatchItem::Behind(_))) => {
                self.phase = Phase::Confirming;
                None
            }
            // No change is lost while the server keeps its history, so reopen at once. Without an
            // item from this watch, reopening at once would be a busy loop; the next arm waits
            // instead.
            Some(Ok(WatchItem::Lagged)) if moved => {
                telemetry::watch_lagged(self.pattern);
                self.phase = self.reopening();
                None
            }
            Some(Ok(WatchItem::Lagged)) => self.broken(Error::new(ErrorKind::Unavailable, "the watch fell behind at once"), Then::Open),
            Some(Err(error)) if error.kind() == ErrorKind::HistoryLost => {
                self.history_lost(fresh && !moved, error);
                None
            }
            Some(Err(error)) => self.broken(error, Then::Open),
            None => self.broken(Error::new(ErrorKind::Unavailable, "the watch ended without a reason"), Then::Open),
        }
    }

    /// Returns the batch if it is new, and updates the revisions.
    fn batch(&mut self, batch: Batch) -> Option<Step> {
        if batch.revision <= self.delivered {
            // A resumed watch starts with the last batch that was seen, and etcd 3.4.23 replays old
            // history on an open stream (etcd issue 15271).
            telemetry::batch_dropped(self.pattern, batch.revision);
            return None;
        }
        if batch.revision <= self.resume {
            // The server reported progress beyond this change before it sent the change (etcd issue
            // 15220). Yield the batch: dropping it would lose the change.
            telemetry::progress_lied(self.pattern, batch.revision, self.resume);
            self.progress_lies = true;
        }
        self.delivered = batch.revision;
        self.resume = batch.revision;
        self.anchor.follow(&batch);
        Some(Step::Batch(batch))
    }

    fn follow(&mut self, fresh: bool) {
        self.begun = true;
        self.trouble = None;
        self.phase = Phase::Following { fresh, moved: false };
    }

    /// Reads the span again. Waits first if the span was just read, and the server has already lost
    /// the history after that read.
    fn history_lost(&mut self, again: bool, error: Error) {
        if again {
            self.trouble = Some(error.at(self.span.key()));
            self.phase = Phase::Waiting(Then::List(Reason::HistoryLost));
        } else {
            self.phase = Phase::Listing { reason: Reason::HistoryLost, at: None };
        }
    }

    /// Handles a failure: ends the watch, or waits before the next attempt.
    fn broken(&mut self, error: Error, then: Then) -> Option<Result<Step, Error>> {
        let refused = is_refusal(error.kind()) || error.kind() == ErrorKind::Tls;
        if is_permanent(error.kind()) || (refused && !self.begun) {
            return self.fail(error);
        }
        if refused {
            telemetry::watch_refused(self.pattern, &error, false);
        } else {
            telemetry::watch_attempt_failed(self.pattern, self.resume, &error);
        }
        self.trouble = Some(error.at(self.span.key()));
        self.phase = Phase::Waiting(then);
        None
    }

    fn fail(&mut self, error: Error) -> Option<Result<Step, Error>> {
        self.phase = Phase::Ended;
        Some(Err(error.at(self.span.key())))
    }

    fn reopening(&self) -> Phase {
        // At revision zero the watch has seen no history that could be checked.
        let check = self.resume > Revision::ZERO;
        Phase::Opening { from: WatchFrom::Resumed(self.resume), check, held: None }
    }
}

/// Whether an error of this kind ends a watch at once, because the same request would always fail
/// again.
fn is_permanent(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidKey | ErrorKind::InvalidUrl | ErrorKind::TooLarge)
}

/// Whether an error of this kind ends a watch if it lasts: only an administrator can fix the cause,
/// and may be about to do so. `Server` is not included, since proxies report it while servers
/// restart. `Tls` is not included, since certificates are renewed while servers run.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::Unauthenticated | ErrorKind::Unsupported)
}

/// Whether a check that failed with this error says nothing about the server's history: the
/// revision is compacted, or the key became a directory or was deleted.
fn proves_nothing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::HistoryLost | ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

#[cfg(test)]
mod tests;
