//! `Validity`: until when a lease is safe to trust, and why the lease was lost. All code that
//! depends on a lease checks its validity here.

use std::fmt;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Moment;
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::revision::LeaseId;
use crate::runtime::{Patience, Task, current, sleep};
use crate::telemetry;

/// The longest wait between two looks at the clock. Timers stop while the machine sleeps, so a
/// timer for the whole time could fire too late.
const LOOK: Duration = Duration::from_secs(1);

/// Whether a lease is held. Shared by the lease's guard, its task, and all code that depends on the
/// lease.
#[derive(Clone)]
pub(crate) struct Validity(Arc<Inner>);

struct Inner {
    lease: LeaseId,
    state: watch::Sender<State>,
    /// The task that keeps the lease alive.
    task: Task,
    /// Whether anything depends on the lease. The end of a spare lease is not reported as a loss.
    wanted: AtomicBool,
    /// The error of the last attempt to renew the lease, if none has succeeded since.
    met: Mutex<Option<Arc<Error>>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The server keeps the lease at least this long after the request was sent.
    Kept {
        sent: Moment,
        safe: Duration,
    },
    Lost(LostReason),
}

impl State {
    fn remaining(self) -> Duration {
        match self {
            Self::Kept { sent, safe } => safe.saturating_sub(Moment::now().since(sent)),
            Self::Lost(_) => Duration::ZERO,
        }
    }

    /// Returns whether a renewal should have been answered by now.
    fn is_overdue(self) -> bool {
        matches!(self, Self::Kept { safe, .. } if self.remaining() < safe / 2)
    }
}

/// Returns how long a lease with this time to live is safe to trust after its last answered request
/// was sent.
///
/// The margin covers clocks that run at different speeds, and the time between a look at the clock
/// and the action. On v2 it also covers the difference between the clocks of two members, since v2
/// stores the clock time at which a key expires.
pub(super) fn safe(ttl: Duration) -> Duration {
    ttl.saturating_sub((ttl / 10).max(Duration::from_millis(500)).min(ttl / 2))
}

impl Validity {
    pub(super) fn begin(lease: LeaseId, sent: Moment, ttl: Duration, task: Task) -> Self {
        let (state, _) = watch::channel(State::Kept { sent, safe: safe(ttl) });
        Self(Arc::new(Inner { lease, state, task, wanted: AtomicBool::new(true), met: Mutex::default() }))
    }

    pub(crate) fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    pub(crate) fn remaining(&self) -> Duration {
        // `extend` reads the clock under the same lock, so a lease that was found expired is never
        // extended.
        self.0.state.borrow().remaining()
    }

    /// Returns why the lease is lost, or `None` while it is held.
    pub(crate) fn reason(&self) -> Option<LostReason> {
        let state = *self.0.state.borrow();
        match state {
            State::Lost(reason) => Some(reason),
            state if state.remaining().is_zero() => Some(self.why_expired()),
            State::Kept { .. } => None,
        }
    }

    /// Returns the end of the safe time, or now if that is earlier. Returns `None` if the lease was
    /// lost for another reason.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        match *self.0.state.borrow() {
            State::Kept { sent, safe } => sent.after(safe).map(|end| end.min(Instant::now())),
            State::Lost(_) => None,
        }
    }

    fn why_expired(&self) -> LostReason {
        if self.0.task.was_stranded() {
            return LostReason::NotKeptAlive;
        }
        // A refusal is an answer, so the lease was not lost by an outage.
        match self.met().as_deref() {
            Some(error) if !error.is_retryable() => LostReason::Unverified,
            _ => LostReason::Expired,
        }
    }

    /// Records that an attempt to renew the lease failed.
    pub(super) fn meet(&self, error: Error) {
        *self.met() = Some(Arc::new(error));
    }

    /// Returns the error of the last renewal, if the lease was lost because no renewal succeeded.
    pub(crate) fn cause(&self, reason: LostReason) -> Option<Arc<Error>> {
        matches!(reason, LostReason::Expired | LostReason::Unverified).then(|| self.met().clone()).flatten()
    }

    fn met(&self) -> MutexGuard<'_, Option<Arc<Error>>> {
        // No code panics while it holds this lock, so the data of a poisoned lock is consistent.
        self.0.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the server answered a request that was sent at this moment. Has no effect if
    /// the lease has expired.
    pub(super) fn extend(&self, sent: Moment, ttl: Duration) {
        self.0.state.send_modify(|state| {
            // Code that finds an expired lease calls `lose`, which reports it.
            if !state.remaining().is_zero() {
                *state = State::Kept { sent, safe: safe(ttl) };
                *self.met() = None;
                self.0.task.settle();
            }
        });
    }

    /// Moves the lease's task to this runtime if a renewal is overdue, since the task's own runtime
    /// may not be driven.
    pub(crate) fn tend(&self) {
        let state = *self.0.state.borrow();
        if state.is_overdue() {
            self.0.task.come_here();
        }
    }

    /// Sets whether anything depends on the lease. If nothing does, its end is not reported.
    pub(crate) fn set_wanted(&self, wanted: bool) {
        self.0.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Marks the lease as lost. If the lease was lost before, the earlier reason stays.
    pub(crate) fn lose(&self, reason: LostReason) {
        let mut told = None;
        self.0.state.send_if_modified(|state| {
            let State::Kept { .. } = state else { return false };
            let reason = if state.remaining().is_zero() { self.why_expired() } else { reason };
            *state = State::Lost(reason);
            told = Some(reason);
            true
        });
        if let Some(cause) = told.and_then(LostReason::cause)
            && self.0.wanted.load(Ordering::Relaxed)
        {
            telemetry::lease_lost(self.0.lease, cause);
        }
    }

    /// Waits until the lease is lost. Checks the clock on every poll, so a late poll sees the loss
    /// too.
    pub(crate) async fn lost(&self) -> Lost {
        let mut passed = pin!(self.passed());
        let reason = poll_fn(|cx| {
            if let Some(reason) = self.reason() {
                return Poll::Ready(reason);
            }
            passed.as_mut().poll(cx)
        })
        .await;
        // The lease's task also marks the loss, but not while it has no runtime.
        self.lose(reason);
        self.loss(reason)
    }

    /// Returns the loss of the lease for this reason.
    pub(crate) fn loss(&self, reason: LostReason) -> Lost {
        Lost { lease: self.0.lease, key: None, reason, cause: self.cause(reason) }
    }

    async fn passed(&self) -> LostReason {
        let mut state = self.0.state.subscribe();
        loop {
            if let Some(reason) = self.reason() {
                return reason;
            }
            let now = *state.borrow_and_update();
            self.tend();
            let look = async {
                // Outside of a runtime no timer works, so only the lease's task looks at the clock.
                if current().is_some() { sleep(now.remaining().min(LOOK)).await } else { pending().await }
            };
            let news = async {
                tokio::select! {
                    biased;
                    _ = state.changed() => {}
                    () = look => {}
                }
            };
            if self.0.task.attend(Patience { first: LOOK * 2, then: LOOK * 2 }, news).await.is_none() {
                // No runtime is left, so no task would notice that the time has passed.
                self.lose(LostReason::NotKeptAlive);
            }
        }
    }

    /// The task that keeps the lease alive.
    pub(crate) fn task(&self) -> &Task {
        &self.0.task
    }

    /// Returns a value that marks the lease as lost when it is dropped.
    pub(super) fn ends_with_this(self) -> EndsWith {
        EndsWith(self)
    }
}

/// Marks the lease as lost when it is dropped.
pub(super) struct EndsWith(Validity);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.lose(LostReason::NotKeptAlive);
    }
}

impl fmt::Debug for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validity").field("lease", &self.0.lease).field("remaining", &self.remaining()).finish()
    }
}

/// The loss of a lease, a lock or a leadership. Converts to an [`Error`] of kind
/// [`GuardLost`](ErrorKind::GuardLost), or [`LeaseLost`](ErrorKind::LeaseLost) for a lease without
/// a guard.
///
/// `Display` is one line with the reason and the cause. Two values are equal if lease, key and
/// reason are equal.
#[derive(Clone, Debug)]
pub struct Lost {
    lease: LeaseId,
    key: Option<Key>,
    reason: LostReason,
    cause: Option<Arc<Error>>,
}

impl PartialEq for Lost {
    fn eq(&self, other: &Self) -> bool {
        (self.lease, &self.key, self.reason) == (other.lease, &other.key, other.reason)
    }
}

impl Eq for Lost {}

impl Lost {
    /// Why the lease or guard was lost.
    #[must_use]
    pub fn reason(&self) -> LostReason {
        self.reason
    }

    /// The error of the last attempt to renew the lease or to read the key, if the reason is
    /// [`Expired`](LostReason::Expired) or [`Unverified`](LostReason::Unverified). Examples: a
    /// refused password, a missing right, a bad certificate, a failed connection.
    #[must_use]
    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_deref()
    }

    /// The guard's key, or `None` for a lease without a guard.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// The lease that was lost.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// Returns the loss of the guard with this key.
    pub(crate) fn of(lease: LeaseId, key: &Key, reason: LostReason, cause: Option<Arc<Error>>) -> Self {
        Self { lease, key: Some(key.clone()), reason, cause }
    }

    /// Returns the reason with its cause, for a message.
    fn why(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{}: {cause}", self.reason),
            None => self.reason.to_string(),
        }
    }
}

/// Why a lease, a lock or a leadership is [`Lost`]. `Display` writes a text for people, and
/// `Serialize` writes the name in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LostReason {
    /// No answer came within the safe time. The server may have ended the lease, and may be about
    /// to make another client the holder.
    Expired,
    /// The server does not know the lease: it was revoked, it ran out, or the server was emptied or
    /// restored.
    Revoked,
    /// Somebody deleted the guard's key.
    KeyDeleted,
    /// Another client owns the key: the key was handed over, or deleted and created again.
    TakenOver,
    /// The server refused to renew the lease, or to show the key, for a whole time to live: a right
    /// was revoked, the credentials are no longer valid, or a certificate is refused. So the lease
    /// may have ended, or another holder may own the key. [`Lost::cause`] is the last refusal.
    Unverified,
    /// No runtime was left to keep the lease alive: its runtime ended, and the client was not used
    /// on another runtime before the time to live passed.
    NotKeptAlive,
    /// The caller ended the guard: the lock was released, or the leadership was resigned or handed
    /// over.
    Released,
}

impl LostReason {
    /// Returns the label for metrics, or `None` for an intended end.
    pub(crate) fn cause(self) -> Option<&'static str> {
        match self {
            Self::Expired => Some("expired"),
            Self::Revoked => Some("gone"),
            Self::KeyDeleted => Some("key_deleted"),
            Self::TakenOver => Some("taken_over"),
            Self::Unverified => Some("unverified"),
            Self::NotKeptAlive => Some("not_kept_alive"),
            Self::Released => None,
        }
    }
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "no answer came within its time to live",
            Self::Revoked => "the server no longer knows its lease",
            Self::KeyDeleted => "its key was deleted",
            Self::TakenOver => "its key belongs to another client now",
            Self::Unverified => "the server refuses to keep its lease alive or to show its key",
            Self::NotKeptAlive => "it was not kept alive: its runtime ended, and the client was not used on another one",
            Self::Released => "it was released",
        })
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{key}: lost: {}", self.why()),
            None => write!(f, "lease {}: lost: {}", self.lease, self.why()),
        }
    }
}

impl std::error::Error for Lost {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Self {
        let why = lost.why();
        let error = match lost.key {
            Some(key) => Self::new(ErrorKind::GuardLost, why).at(&key),
            None => Self::new(ErrorKind::LeaseLost, format!("lease {}: {why}", lost.lease)),
        };
        match lost.cause {
            Some(cause) => error.caused_by(cause),
            None => error,
        }
    }
}
