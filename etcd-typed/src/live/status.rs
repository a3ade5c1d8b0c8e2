//! The status of a live view.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::error::{Error, Problem};
use crate::key::Key;
use crate::revision::Revision;
use crate::runtime::elapsed;

/// Whether a [`Live`](crate::Live) view follows the server.
///
/// `Display` is one line for a log. `Serialize` is an object for a health endpoint: `status` is
/// `live`, `partial` or `degraded`. `degraded` comes with `cause` (`rejected`, `snapshot`,
/// `interrupted` or `ended`), `reason` (a line of text), `for_seconds`, `last_good_revision` and
/// `problems`, each with `key`, `kind`, `reason` and `revision`. `partial` comes with `for_seconds`
/// and `problems`. All have `snapshot_failure`, an object with `reason` and `for_seconds`, while the
/// view's file does not hold its state.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LiveStatus {
    /// The view shows what is stored, as far as the server has reported.
    Live,
    /// As `Live`, but the file of the view (`or_snapshot`, with the feature `snapshot`) does not
    /// hold its state. The view itself is not affected.
    Unsaved(SnapshotFailure),
    /// As `Live`, except for bad entries of the map: an entry that was good before has its last good
    /// value, and the others are left out. Only for a view [per
    /// entry](crate::Viewing::per_entry).
    #[non_exhaustive]
    Partial {
        /// Since when the view has had bad entries without a pause, on tokio's clock.
        since: Instant,
        /// Every problem of every bad entry, by key.
        problems: Arc<[Problem]>,
        /// Set while the view's file does not hold the state.
        snapshot_failure: Option<SnapshotFailure>,
    },
    /// The view shows the last good state; the server may have a newer one.
    #[non_exhaustive]
    Degraded {
        /// When the view became degraded, on tokio's clock; see
        /// [`degraded_for`](LiveStatus::degraded_for).
        since: Instant,
        /// What is wrong. Of several causes, the one that does not pass by itself.
        cause: Cause,
        /// The state of the view includes all changes up to this revision.
        last_good_revision: Revision,
        /// The problems of the bad entries in that state, if the view is [per
        /// entry](crate::Viewing::per_entry).
        bad_entries: Arc<[Problem]>,
        /// Set while the view's file does not hold the state.
        snapshot_failure: Option<SnapshotFailure>,
    },
}

/// The file of a view does not hold its state. The write is repeated until it succeeds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SnapshotFailure {
    /// When the state arrived that the file does not hold, on tokio's clock.
    pub since: Instant,
    /// The error of the latest attempt.
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

/// What the writer reports about a view's file. Clones share one report.
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

    /// The file has not held the state since then, or since an earlier report.
    #[cfg(feature = "snapshot")]
    pub(super) fn set(&self, since: Instant, error: io::Error) {
        let mut failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = failure.as_ref().map_or(since, |failure| failure.since);
        *failure = Some(SnapshotFailure { since, error: Arc::new(error) });
    }
}

impl LiveStatus {
    /// Returns whether the view follows the server. A file that does not hold its state, and bad
    /// entries of a view [per entry](crate::Viewing::per_entry), make no difference.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live | Self::Unsaved(_) | Self::Partial { .. })
    }

    /// Returns since when and why the view's file does not hold its state. Returns `None` if it
    /// does, or if the view has no file.
    ///
    /// Writes are at least about a second apart, and a failure is reported only after an attempt
    /// failed.
    #[must_use]
    pub fn snapshot_failure(&self) -> Option<&SnapshotFailure> {
        match self {
            Self::Live => None,
            Self::Unsaved(failure) => Some(failure),
            Self::Partial { snapshot_failure, .. } | Self::Degraded { snapshot_failure, .. } => snapshot_failure.as_ref(),
        }
    }

    /// Adds the failure of the view's file.
    pub(super) fn with_file(self, failure: Option<SnapshotFailure>) -> Self {
        match (self, failure) {
            (Self::Live, Some(failure)) => Self::Unsaved(failure),
            (Self::Partial { since, problems, .. }, snapshot_failure) => Self::Partial { since, problems, snapshot_failure },
            (Self::Degraded { since, cause, last_good_revision, bad_entries, .. }, snapshot_failure) => {
                Self::Degraded { since, cause, last_good_revision, bad_entries, snapshot_failure }
            }
            (status, _) => status,
        }
    }

    /// Returns how long the view has been degraded, or `None` while it is live or partial.
    ///
    /// The time is tokio's, so with paused time a test can advance it. `since.elapsed()` reads the
    /// system's clock instead.
    #[must_use]
    pub fn degraded_for(&self) -> Option<Duration> {
        match self {
            Self::Live | Self::Unsaved(_) | Self::Partial { .. } => None,
            Self::Degraded { since, .. } => Some(elapsed(*since)),
        }
    }

    /// Returns all problems of the stored values, by key: those of the rejected state if the cause
    /// is [`Cause::Rejected`], otherwise those of the bad entries of a view [per
    /// entry](crate::Viewing::per_entry).
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Degraded { cause: Cause::Rejected(problems), .. } | Self::Partial { problems, .. } => problems,
            Self::Degraded { bad_entries, .. } => bad_entries,
            Self::Live | Self::Unsaved(_) => &[],
        }
    }
}

impl fmt::Display for LiveStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::Unsaved(failure) => write!(f, "live; {failure}"),
            Self::Partial { since, problems, snapshot_failure } => {
                write!(f, "live except for bad entries, for {} s: {}", elapsed(*since).as_secs(), Problems(problems))?;
                snapshot_failure.iter().try_for_each(|failure| write!(f, "; {failure}"))
            }
            Self::Degraded { since, cause, last_good_revision, snapshot_failure, .. } => {
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
            Partial {
                for_seconds: f64,
                problems: &'s [Problem],
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
            Self::Partial { since, problems, .. } => {
                Shown::Partial { for_seconds: elapsed(*since).as_secs_f64(), problems, snapshot_failure }
            }
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

/// Why a view is degraded. Each cause ends by itself when the problem is solved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The stored state does not decode, lacks a required field or fails a validation: each key,
    /// the revision, and the reason.
    Rejected(Arc<[Problem]>),
    /// The view started from a file (`or_snapshot`, with the feature `snapshot`), and the server
    /// has given no state yet. The read is repeated; this is the error of the latest attempt.
    Snapshot(Arc<Error>),
    /// The server cannot be followed at the moment, or refuses. The attempt is repeated; this is
    /// its latest error.
    Interrupted(Arc<Error>),
    /// No runtime keeps the view current: its runtime ended, and the client was not used on another
    /// one since. The next use of the client or the view within a runtime repairs this. Or a
    /// function of the schema panicked: then create a new view.
    Ended,
}

impl Cause {
    /// The cause as one word, for tools.
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
            Self::Rejected(problems) => Problems(problems).fmt(f),
            Self::Snapshot(error) => write!(f, "a state from disk: {error}"),
            Self::Interrupted(error) => error.fmt(f),
            Self::Ended => f.write_str("no runtime keeps it current, or a function of the schema panicked"),
        }
    }
}

/// Displays problems in one line.
struct Problems<'p>(&'p [Problem]);

impl fmt::Display for Problems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            let between = if n == 0 { "" } else { "; " };
            write!(f, "{between}{problem}")?;
        }
        Ok(())
    }
}

/// Where a view [over a base](crate::Viewing::over) has one field from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FieldStatus {
    /// The key of the field, or the directory of a map.
    pub key: Key,
    /// Where the value comes from.
    pub source: FieldSource,
}

/// The source of a value in a view [over a base](crate::Viewing::over). `Display` and `Serialize` are
/// its name in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FieldSource {
    /// The store has a key of the field.
    Store,
    /// The store has no key of the field, so its value is that of the base.
    Base,
}

impl fmt::Display for FieldSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Store => "store",
            Self::Base => "base",
        })
    }
}

/// The server came back with an older history than the view had seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewound {
    /// When it was noticed, on tokio's clock.
    pub at: Instant,
    /// The revision that the view had seen.
    pub from: Revision,
    /// The revision of the server afterwards.
    pub to: Revision,
}
