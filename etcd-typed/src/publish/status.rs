//! The status of a published value, shared by its task and its guard.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use crate::error::Error;
use crate::lease::{LostReason, Validity};
use crate::runtime::{Task, elapsed};
use crate::telemetry::{Pattern, PublishedTelemetry};

/// Whether a [`Published`](crate::Published) value is in the store.
///
/// `Display` is one line for a log. `Serialize` is an object for a health endpoint: `status` is
/// `published` or `missing`; `missing` comes with `reason`, `for_seconds` and `error`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PublishedStatus {
    /// The value is in the store, as far as the server has reported, and its lease is held by the
    /// clock.
    Published,
    /// The value is missing or may be missing. It is put back as soon as possible.
    #[non_exhaustive]
    Missing {
        /// When the value was lost, on tokio's clock; see
        /// [`missing_for`](PublishedStatus::missing_for).
        since: std::time::Instant,
        /// Why the value was lost: its lease ended, its key was deleted, the server refuses to show
        /// the key ([`Unverified`](LostReason::Unverified)), or the key holds another publisher's
        /// value ([`TakenOver`](LostReason::TakenOver)). In the last case this value is put back
        /// when the other value is deleted.
        reason: LostReason,
        /// The error of the latest attempt to put the value back.
        error: Option<Arc<Error>>,
    },
}

impl PublishedStatus {
    /// Whether the value is published.
    #[must_use]
    pub fn is_published(&self) -> bool {
        matches!(self, Self::Published)
    }

    /// Returns how long the value has been missing, or `None` while it is published.
    ///
    /// The time is tokio's, so with paused time a test can advance it. `since.elapsed()` reads the
    /// system's clock instead.
    #[must_use]
    pub fn missing_for(&self) -> Option<Duration> {
        match self {
            Self::Published => None,
            Self::Missing { since, .. } => Some(elapsed(*since)),
        }
    }
}

impl fmt::Display for PublishedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published => f.write_str("published"),
            Self::Missing { since, reason, error } => {
                write!(f, "missing for {} s: {reason}", elapsed(*since).as_secs())?;
                error.iter().try_for_each(|error| write!(f, "; not put back yet: {error}"))
            }
        }
    }
}

impl Serialize for PublishedStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(tag = "status", rename_all = "snake_case")]
        enum Shown {
            Published,
            Missing { reason: String, for_seconds: f64, error: Option<String> },
        }
        let shown = match self {
            Self::Published => Shown::Published,
            Self::Missing { since, reason, error } => Shown::Missing {
                reason: reason.to_string(),
                for_seconds: elapsed(*since).as_secs_f64(),
                error: error.as_ref().map(ToString::to_string),
            },
        };
        shown.serialize(serializer)
    }
}

/// Shared by a guard and its task.
pub(super) struct SharedStatus {
    state: Mutex<State>,
    telemetry: PublishedTelemetry,
}

enum State {
    /// The value is in the store, with a lease of this validity.
    There(Validity),
    Missing {
        since: Instant,
        reason: LostReason,
        error: Option<Arc<Error>>,
    },
}

impl SharedStatus {
    pub(super) fn new(pattern: Pattern, validity: &Validity) -> Self {
        Self { state: Mutex::new(State::There(validity.clone())), telemetry: PublishedTelemetry::new(pattern) }
    }

    /// Returns the status for the caller. `abandoned` says that the task has ended.
    pub(super) fn status(&self, abandoned: bool) -> PublishedStatus {
        let missing = |since: Instant, reason, error| PublishedStatus::Missing { since: since.into_std(), reason, error };
        match &*self.state() {
            State::Missing { since, reason, error } => {
                missing(*since, if abandoned { LostReason::NotKeptAlive } else { *reason }, error.clone())
            }
            State::There(_) if abandoned => missing(Instant::now(), LostReason::NotKeptAlive, None),
            State::There(validity) => match validity.reason() {
                // The lease was lost, and the task has not noticed it yet.
                Some(reason) => missing(validity.ended_at().unwrap_or_else(Instant::now), reason, None),
                None => PublishedStatus::Published,
            },
        }
    }

    /// Reports whether the task has a runtime. Called when a runtime took over the task, and when
    /// the last runtime ended.
    pub(super) fn task_moved(&self, task: &Task) {
        self.telemetry.stranded(|| task.is_stranded());
    }

    /// Records that the value is in the store, attached to a lease with this `validity`. Returns
    /// whether the value was missing until now.
    pub(super) fn found(&self, validity: &Validity) -> bool {
        match std::mem::replace(&mut *self.state(), State::There(validity.clone())) {
            State::There(_) => false,
            State::Missing { since, reason, .. } => {
                self.telemetry.put_back(cause(reason), since.elapsed());
                true
            }
        }
    }

    /// Records that the value is missing. The first reason stays until the value is back. Returns
    /// whether the value was in the store until now.
    pub(super) fn lost(&self, reason: LostReason) -> bool {
        let first = {
            let mut state = self.state();
            let first = matches!(*state, State::There(_));
            if first {
                *state = State::Missing { since: Instant::now(), reason, error: None };
            }
            first
        };
        if first {
            self.telemetry.missing(cause(reason));
        }
        first
    }

    /// Records that the key holds another publisher's value. If the value was already missing for
    /// another reason, `error` says that the key is taken.
    pub(super) fn taken(&self, error: impl Fn() -> Error) {
        if !self.lost(LostReason::TakenOver)
            && let State::Missing { reason, error: latest, .. } = &mut *self.state()
        {
            *latest = (*reason != LostReason::TakenOver).then(|| Arc::new(error()));
        }
    }

    /// Records that an attempt to put the value failed.
    pub(super) fn failed(&self, error: &Error) {
        self.telemetry.not_put(error);
        if let State::Missing { error: latest, .. } = &mut *self.state() {
            *latest = Some(Arc::new(error.again()));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds this lock, so the data of a poisoned lock is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the metric label of a reason.
fn cause(reason: LostReason) -> &'static str {
    reason.cause().unwrap_or("not_kept_alive")
}
