//! Whether something is published, as its task and those who ask see it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use crate::error::Error;
use crate::lease::{Life, LostReason};
use crate::runtime::{Task, elapsed};
use crate::telemetry::{Pattern, PublishedTelemetry};

/// Whether a [`Published`](crate::Published) value is there.
///
/// `Display` is one line for a log. `Serialize` is an object for a health endpoint: `status` is `published` or `missing`, and of the latter there are also
/// `reason`, `for_seconds` and `error`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PublishedStatus {
    /// It is there, as far as the server has told, and its lease is held by the clock.
    Published,
    /// It is not there, or may not be, and is put back as soon as it can be.
    #[non_exhaustive]
    Missing {
        /// When it was lost, on tokio's clock: see [`missing_for`](PublishedStatus::missing_for).
        since: std::time::Instant,
        /// How it was lost: its lease ended, its key was deleted, the server refuses to show the key ([`Unverified`](LostReason::Unverified)), or somebody
        /// else's value is there ([`TakenOver`](LostReason::TakenOver)), in whose place it is put when that goes away.
        reason: LostReason,
        /// What the latest attempt to put it back has met.
        error: Option<Arc<Error>>,
    },
}

impl PublishedStatus {
    /// Whether it is there.
    #[must_use]
    pub fn is_published(&self) -> bool {
        matches!(self, Self::Published)
    }

    /// Returns how long the value has been missing, or `None` while it is published.
    ///
    /// The time is tokio's, so a test with paused time sees an outage of an hour last an hour. `since.elapsed()` reads the system's clock.
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

/// What a guard and its task share.
pub(super) struct Shared {
    state: Mutex<State>,
    telemetry: PublishedTelemetry,
}

enum State {
    /// With a lease of this life.
    There(Life),
    Missing {
        since: Instant,
        reason: LostReason,
        error: Option<Arc<Error>>,
    },
}

impl Shared {
    pub(super) fn new(pattern: Pattern, life: &Life) -> Self {
        Self { state: Mutex::new(State::There(life.clone())), telemetry: PublishedTelemetry::new(pattern) }
    }

    /// `abandoned`: its task is gone.
    pub(super) fn status(&self, abandoned: bool) -> PublishedStatus {
        let missing = |since: Instant, reason, error| PublishedStatus::Missing { since: since.into_std(), reason, error };
        match &*self.state() {
            State::Missing { since, reason, error } => {
                missing(*since, if abandoned { LostReason::NotKeptAlive } else { *reason }, error.clone())
            }
            State::There(_) if abandoned => missing(Instant::now(), LostReason::NotKeptAlive, None),
            State::There(life) => match life.reason() {
                // Its task is about to notice.
                Some(reason) => missing(life.ended_at().unwrap_or_else(Instant::now), reason, None),
                None => PublishedStatus::Published,
            },
        }
    }

    /// A runtime has taken the task, or the last one has lost it.
    pub(super) fn task_moved(&self, task: &Task) {
        self.telemetry.stranded(|| task.is_stranded());
    }

    /// It is there, with a lease of this life. Whether it was missing until now.
    pub(super) fn found(&self, life: &Life) -> bool {
        match std::mem::replace(&mut *self.state(), State::There(life.clone())) {
            State::There(_) => false,
            State::Missing { since, reason, .. } => {
                self.telemetry.put_back(cause(reason), since.elapsed());
                true
            }
        }
    }

    /// It is not there. Of several reasons the first counts, until it is there again. Whether it was there until now.
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

    /// Somebody else's value is there, as this error says for whoever missed it for another reason.
    pub(super) fn taken(&self, error: impl Fn() -> Error) {
        if !self.lost(LostReason::TakenOver)
            && let State::Missing { reason, error: latest, .. } = &mut *self.state()
        {
            *latest = (*reason != LostReason::TakenOver).then(|| Arc::new(error()));
        }
    }

    /// An attempt to have it there failed.
    pub(super) fn failed(&self, error: &Error) {
        self.telemetry.not_put(error);
        if let State::Missing { error: latest, .. } = &mut *self.state() {
            *latest = Some(Arc::new(error.again()));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As a label.
fn cause(reason: LostReason) -> &'static str {
    reason.cause().unwrap_or("not_kept_alive")
}
