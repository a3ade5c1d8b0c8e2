//! `Life`: until when a lease is safe to trust, and why it is not any more. Everything that depends on a lease asks here.

use std::fmt;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Moment;
use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::revision::LeaseId;
use crate::runtime::{Patience, Task, current, sleep};
use crate::telemetry;

/// The longest that somebody waits for the end of a lease without a look at the clock: timers stand still while the machine sleeps.
const LOOK: Duration = Duration::from_secs(1);

/// Shared by the lease's guard, its task, and all that depend on it.
#[derive(Clone)]
pub(crate) struct Life(Arc<Inner>);

struct Inner {
    lease: LeaseId,
    state: watch::Sender<State>,
    /// The task that keeps the lease alive.
    task: Task,
    /// Whether anything depends on the lease. The end of a spare lease is no loss.
    wanted: AtomicBool,
    /// What the attempts to keep it alive have met since the last one that went well, newest last.
    met: Mutex<Option<Arc<Error>>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The server keeps it for at least so long after the request was sent.
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

    /// Whether the server should have been asked by now, and should have answered.
    fn is_overdue(self) -> bool {
        matches!(self, Self::Kept { safe, .. } if self.remaining() < safe / 2)
    }
}

/// How long after it was asked for a lease of this time is safe to trust.
///
/// What is taken off is for clocks that do not run alike (that of a member, and on v2 those of two members, since a time to live is the clock time at which it ends), and
/// for the time between looking at the clock and acting on it.
pub(super) fn safe(ttl: Duration) -> Duration {
    ttl.saturating_sub((ttl / 10).max(Duration::from_millis(500)).min(ttl / 2))
}

impl Life {
    pub(super) fn begin(lease: LeaseId, sent: Moment, ttl: Duration, task: Task) -> Self {
        let (state, _) = watch::channel(State::Kept { sent, safe: safe(ttl) });
        Self(Arc::new(Inner { lease, state, task, wanted: AtomicBool::new(true), met: Mutex::default() }))
    }

    pub(crate) fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    pub(crate) fn remaining(&self) -> Duration {
        // The clock is read under the lock, as it is in `extend`: what was said to be over is never extended.
        self.0.state.borrow().remaining()
    }

    /// Why it is lost, if it is.
    pub(crate) fn reason(&self) -> Option<LostReason> {
        let state = *self.0.state.borrow();
        match state {
            State::Lost(reason) => Some(reason),
            state if state.remaining().is_zero() => Some(self.why_expired()),
            State::Kept { .. } => None,
        }
    }

    /// Returns when its time was over, for a lease that is not held any more; `None` if it was lost before.
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
        // A server that refuses has answered.
        match self.met().as_deref() {
            Some(error) if !error.is_retryable() => LostReason::Unverified,
            _ => LostReason::Expired,
        }
    }

    /// An attempt to keep it alive has failed.
    pub(super) fn meet(&self, error: Error) {
        *self.met() = Some(Arc::new(error));
    }

    /// What the attempts to keep it alive met, where it was lost since none went well.
    pub(crate) fn cause(&self, reason: LostReason) -> Option<Arc<Error>> {
        matches!(reason, LostReason::Expired | LostReason::Unverified).then(|| self.met().clone()).flatten()
    }

    fn met(&self) -> MutexGuard<'_, Option<Arc<Error>>> {
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        self.0.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server has answered a request that was sent then. Too late is too late.
    pub(super) fn extend(&self, sent: Moment, ttl: Duration) {
        self.0.state.send_modify(|state| {
            // That it is over is told by `lose`, which whoever finds out calls.
            if !state.remaining().is_zero() {
                *state = State::Kept { sent, safe: safe(ttl) };
                *self.met() = None;
                self.0.task.settle();
            }
        });
    }

    /// Takes the task to this runtime if it does not do its work on its own, which may be one that nobody drives.
    pub(crate) fn tend(&self) {
        let state = *self.0.state.borrow();
        if state.is_overdue() {
            self.0.task.come_here();
        }
    }

    /// Whether anything depends on the lease from now on. If not, its end is told to nobody.
    pub(crate) fn set_wanted(&self, wanted: bool) {
        self.0.wanted.store(wanted, Ordering::Relaxed);
    }

    /// It is over, for this reason unless there was one before.
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

    /// Waits until it is over. It is known at the first look after that, however late this is polled.
    pub(crate) async fn lost(&self) -> Lost {
        let mut passed = pin!(self.passed());
        let reason = poll_fn(|cx| {
            if let Some(reason) = self.reason() {
                return Poll::Ready(reason);
            }
            passed.as_mut().poll(cx)
        })
        .await;
        // The task tells it too, unless no runtime has the task.
        self.lose(reason);
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
                // Without a runtime there are no timers. The task looks at the clock then.
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
                // There is no runtime at all, so nobody would notice when its time has passed.
                self.lose(LostReason::NotKeptAlive);
            }
        }
    }

    /// The task that keeps the lease alive.
    pub(crate) fn task(&self) -> &Task {
        &self.0.task
    }

    /// When what is returned is dropped, it is over.
    pub(super) fn ends_with_this(self) -> EndsWith {
        EndsWith(self)
    }
}

/// The life is over when this is dropped.
pub(super) struct EndsWith(Life);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.lose(LostReason::NotKeptAlive);
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Life").field("lease", &self.0.lease).field("remaining", &self.remaining()).finish()
    }
}

/// What was held is not held any more: a lease, a lock, the leadership. It becomes an [`Error`] of kind
/// [`GuardLost`](ErrorKind::GuardLost), or [`LeaseLost`](ErrorKind::LeaseLost) for a lease by itself.
///
/// `Display` is one line with the reason and the cause. Two are equal if lease, key and reason are.
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
    /// Why.
    #[must_use]
    pub fn reason(&self) -> LostReason {
        self.reason
    }

    /// The error of the last attempt to keep the lease alive, or to see the key, where such errors are why it is lost
    /// ([`Expired`](LostReason::Expired), [`Unverified`](LostReason::Unverified)): a refused password, a missing right, a certificate, a connection that
    /// could not be made.
    #[must_use]
    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_deref()
    }

    /// The key that stood for it; none for a lease by itself.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// The lease.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// What was held by this key.
    pub(crate) fn of(lease: LeaseId, key: &Key, reason: LostReason, cause: Option<Arc<Error>>) -> Self {
        Self { lease, key: Some(key.clone()), reason, cause }
    }

    /// The reason with the cause.
    fn why(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{}: {cause}", self.reason),
            None => self.reason.to_string(),
        }
    }
}

/// Why something is [`Lost`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LostReason {
    /// No answer came within the time that is safe: the server may have ended the lease, and may be about to give what it stood for to another.
    Expired,
    /// The server does not know the lease: it was revoked, it ran out, or the server was emptied or restored.
    Revoked,
    /// The key that stood for it was deleted by somebody.
    KeyDeleted,
    /// The key that stands for it is somebody else's: it was handed over, or made anew.
    TakenOver,
    /// The server refused to keep the lease alive, or to show its key, for a whole time to live: a right was revoked, the credentials are not good any more, or
    /// a certificate is refused. So the lease may have ended, or the key may be another holder's. [`Lost::cause`] is the last refusal.
    Unverified,
    /// No runtime was left to keep it alive: the one it was acquired on ended, and the client was used on no other one before its time had passed.
    NotKeptAlive,
    /// It was given up: the lock was released, the leadership resigned or handed over.
    Released,
}

impl LostReason {
    /// As a label; none for an end that was meant.
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
            Self::Revoked => "the server does not know its lease any more",
            Self::KeyDeleted => "its key was deleted",
            Self::TakenOver => "its key is somebody else's now",
            Self::Unverified => "the server refuses to keep its lease alive or to show its key",
            Self::NotKeptAlive => "it was not kept alive: its runtime has ended, and the client was used on no other one",
            Self::Released => "it was given up",
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
