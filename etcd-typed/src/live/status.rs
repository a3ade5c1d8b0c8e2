//! What a live view says of itself.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::error::{Error, Problem};
use crate::revision::Revision;
use crate::runtime::elapsed;

/// Whether a [`Live`](crate::Live) view follows.
///
/// `Display` is one line for a log. `Serialize` is an object for a health endpoint: `status` is `live` or `degraded`, and of the latter there are also
/// `cause` (`rejected`, `snapshot`, `interrupted` or `ended`), `reason` (the line), `for_seconds`, `last_good_revision` and `problems`, each with `key`, `kind`,
/// `reason` and `revision`. Either has `snapshot_failure`, an object of `reason` and `for_seconds`, while the view's file does not hold its state.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LiveStatus {
    /// What is stored is what the view shows, as far as the server has told.
    Live,
    /// The same, and the file of the view (`or_snapshot`, with the feature `snapshot`) does not hold its state. The view itself is as good as with `Live`.
    Unsaved(SnapshotFailure),
    /// The view shows the last good state, and the server may have another.
    #[non_exhaustive]
    Degraded {
        /// When the view became degraded, on tokio's clock: see [`degraded_for`](LiveStatus::degraded_for).
        since: Instant,
        /// What is wrong; of several things the one that time alone does not mend.
        cause: Cause,
        /// Everything up to this revision is in the state that the view shows.
        last_good_revision: Revision,
        /// The file of the view does not hold this state.
        snapshot_failure: Option<SnapshotFailure>,
    },
}

/// The file of a view does not hold its state. Writing it is tried again and again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SnapshotFailure {
    /// When the state came that the file does not hold, on tokio's clock.
    pub since: Instant,
    /// What the latest attempt met.
    pub error: Arc<io::Error>,
}

impl fmt::Display for SnapshotFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not kept on disk for {} s: {}", elapsed(self.since).as_secs(), self.error)
    }
}

impl Serialize for SnapshotFailure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            reason: String,
            for_seconds: f64,
        }
        Shown { reason: self.error.to_string(), for_seconds: elapsed(self.since).as_secs_f64() }.serialize(serializer)
    }
}

/// What a view's writer tells of its file; clones are of the same file.
#[derive(Clone, Debug, Default)]
pub(super) struct FileStatus(Arc<Mutex<Option<SnapshotFailure>>>);

impl FileStatus {
    pub(super) fn failure(&self) -> Option<SnapshotFailure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file holds the state.
    #[cfg(feature = "snapshot")]
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The file has not held the state since then, or since what was told before.
    #[cfg(feature = "snapshot")]
    pub(super) fn set(&self, since: Instant, error: io::Error) {
        let mut failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = failure.as_ref().map_or(since, |failure| failure.since);
        *failure = Some(SnapshotFailure { since, error: Arc::new(error) });
    }
}

impl LiveStatus {
    /// Returns whether the view follows. A file that does not hold its state does not matter here.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live | Self::Unsaved(_))
    }

    /// Returns since when and why the file of the view does not hold its state; `None` if it does, or if the view has no file.
    ///
    /// The same state is not written more than about once a second, and is not reported before an attempt has failed.
    #[must_use]
    pub fn snapshot_failure(&self) -> Option<&SnapshotFailure> {
        match self {
            Self::Live => None,
            Self::Unsaved(failure) => Some(failure),
            Self::Degraded { snapshot_failure, .. } => snapshot_failure.as_ref(),
        }
    }

    /// The same, with what is wrong with the file.
    pub(super) fn with_file(self, failure: Option<SnapshotFailure>) -> Self {
        match (self, failure) {
            (Self::Live, Some(failure)) => Self::Unsaved(failure),
            (Self::Degraded { since, cause, last_good_revision, .. }, snapshot_failure) => {
                Self::Degraded { since, cause, last_good_revision, snapshot_failure }
            }
            (status, _) => status,
        }
    }

    /// Returns how long the view has been degraded, or `None` while it is live.
    ///
    /// The time is tokio's, so a test with paused time sees an outage of an hour last an hour. `since.elapsed()` reads the system's clock.
    #[must_use]
    pub fn degraded_for(&self) -> Option<Duration> {
        match self {
            Self::Live | Self::Unsaved(_) => None,
            Self::Degraded { since, .. } => Some(elapsed(*since)),
        }
    }

    /// Everything that is wrong with what is stored now, by key; empty unless the cause is [`Cause::Rejected`].
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Degraded { cause: Cause::Rejected(problems), .. } => problems,
            _ => &[],
        }
    }
}

impl fmt::Display for LiveStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::Unsaved(failure) => write!(f, "live; {failure}"),
            Self::Degraded { since, cause, last_good_revision, snapshot_failure } => {
                write!(f, "degraded for {} s, at revision {last_good_revision}: {cause}", elapsed(*since).as_secs())?;
                snapshot_failure.iter().try_for_each(|failure| write!(f, "; {failure}"))
            }
        }
    }
}

impl Serialize for LiveStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(tag = "status", rename_all = "snake_case")]
        enum Shown<'s> {
            Live {
                #[serde(skip_serializing_if = "Option::is_none")]
                snapshot_failure: Option<&'s SnapshotFailure>,
            },
            Degraded {
                cause: &'static str,
                reason: String,
                for_seconds: f64,
                last_good_revision: Revision,
                problems: &'s [Problem],
                #[serde(skip_serializing_if = "Option::is_none")]
                snapshot_failure: Option<&'s SnapshotFailure>,
            },
        }
        let snapshot_failure = self.snapshot_failure();
        let shown = match self {
            Self::Live | Self::Unsaved(_) => Shown::Live { snapshot_failure },
            Self::Degraded { since, cause, last_good_revision, .. } => Shown::Degraded {
                cause: cause.name(),
                reason: cause.to_string(),
                for_seconds: elapsed(*since).as_secs_f64(),
                last_good_revision: *last_good_revision,
                problems: self.problems(),
                snapshot_failure,
            },
        };
        shown.serialize(serializer)
    }
}

/// Why a view is degraded. Each ends by itself when what it names is mended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// What is stored does not decode, misses a required field or fails a validation: each key, the revision, and the reason.
    Rejected(Arc<[Problem]>),
    /// The view was started from a file (`or_snapshot`, with the feature `snapshot`), and there is no state of the server's yet. It is asked again and
    /// again; this is what the latest attempt met.
    Snapshot(Arc<Error>),
    /// The server cannot be followed at the moment, or refuses it. It is tried again and again; this is what the latest attempt met.
    Interrupted(Arc<Error>),
    /// No runtime keeps the view current: the runtime that did has ended, and the client was not used on another one since. The next use of the client, or of the view,
    /// within a runtime mends it. Or a function of the schema panicked; then make a new view.
    Ended,
}

impl Cause {
    /// One word for tools.
    fn name(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::Snapshot(_) => "snapshot",
            Self::Interrupted(_) => "interrupted",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(problems) => {
                for (n, problem) in problems.iter().enumerate() {
                    let between = if n == 0 { "" } else { "; " };
                    write!(f, "{between}{problem}")?;
                }
                Ok(())
            }
            Self::Snapshot(error) => write!(f, "a state from disk: {error}"),
            Self::Interrupted(error) => error.fmt(f),
            Self::Ended => f.write_str("no runtime keeps it current, or a function of the schema panicked"),
        }
    }
}

/// The server came back with an older history than was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewound {
    /// When it was noticed, on tokio's clock.
    pub at: Instant,
    /// The revision that had been seen.
    pub from: Revision,
    /// The revision that the server had then.
    pub to: Revision,
}
