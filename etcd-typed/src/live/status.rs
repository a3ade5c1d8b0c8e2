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

/// The status of a [`Live`](crate::Live) view, which says whether the view follows the server.
///
/// `Display` writes one line for a log. `Serialize` writes an object for a health endpoint:
/// `status` is `live`, `partial` or `degraded`. `degraded` comes with `cause` (`rejected`,
/// `snapshot`, `interrupted` or `ended`), `reason` (a line of text), `for_seconds`,
/// `last_good_revision` and `problems`, each with `key`, `kind`, `reason` and `revision`. `partial`
/// comes with `for_seconds` and `problems`. All have `snapshot_failure`, an object with `reason`
/// and `for_seconds`, while the view's file does not hold its state.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LiveStatus {
    /// The view shows the stored state, including every change that the server has reported.
    Live,
    /// Like `Live`, but the view's file (`or_snapshot`, with the feature `snapshot`) does not hold
    /// the view's state. The view itself is not affected.
    Unsaved(SnapshotFailure),
    /// Like `Live`, except for bad entries of the map. An entry that was good before has its last
    /// good value; the other bad entries are left out. This status occurs only for a view [per
    /// entry](crate::Viewing::per_entry).
    #[non_exhaustive]
    Partial {
        /// The time since which the view has always had at least one bad entry, on tokio's clock.
        since: Instant,
        /// Every problem of every bad entry, by key.
        problems: Arc<[Problem]>,
        /// The failure of the view's file, while the file does not hold the state.
        snapshot_failure: Option<SnapshotFailure>,
    },
    /// The view shows the last good state; the server may have a newer one.
    #[non_exhaustive]
    Degraded {
        /// The time at which the view became degraded, on tokio's clock; see
        /// [`degraded_for`](LiveStatus::degraded_for).
        since: Instant,
        /// The cause. If there are several causes, this is the one that does not go away by itself.
        cause: Cause,
        /// The revision up to which the view's state includes all changes.
        last_good_revision: Revision,
        /// The problems of the bad entries in that state, if the view is [per
        /// entry](crate::Viewing::per_entry).
        bad_entries: Arc<[Problem]>,
        /// The failure of the view's file, while the file does not hold the state.
        snapshot_failure: Option<SnapshotFailure>,
    },
}

/// A failure to keep a view's state in its file. The write is repeated until it succeeds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SnapshotFailure {
    /// The time at which the first state arrived that the file does not hold, on tokio's clock.
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

/// The last failure that the writer of a view's file reported, if it is not repaired. All clones
/// share it.
#[derive(Clone, Debug, Default)]
pub(super) struct FileStatus(Arc<Mutex<Option<SnapshotFailure>>>);

impl FileStatus {
    pub(super) fn failure(&self) -> Option<SnapshotFailure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that the file holds the state.
    #[cfg(feature = "snapshot")]
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Records that the file has not held the state since `since`, or since the time of an earlier
    /// report.
    #[cfg(feature = "snapshot")]
    pub(super) fn set(&self, since: Instant, error: io::Error) {
        let mut failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = failure.as_ref().map_or(since, |failure| failure.since);
        *failure = Some(SnapshotFailure { since, error: Arc::new(error) });
    }
}

impl LiveStatus {
    /// Returns whether the view follows the server. The result is also true if the view's file does
    /// not hold its state, and if a view [per entry](crate::Viewing::per_entry) has bad entries.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live | Self::Unsaved(_) | Self::Partial { .. })
    }

    /// Returns the time since when the view's file does not hold its state, and the reason. Returns
    /// `None` if the file holds the state, or if the view has no file.
    ///
    /// Writes are about a second apart or more, and a failure is reported only after an attempt to
    /// write has failed.
    #[must_use]
    pub fn snapshot_failure(&self) -> Option<&SnapshotFailure> {
        match self {
            Self::Live => None,
            Self::Unsaved(failure) => Some(failure),
            Self::Partial { snapshot_failure, .. } | Self::Degraded { snapshot_failure, .. } => snapshot_failure.as_ref(),
        }
    }

    /// Sets the failure of the view's file in this status.
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
    /// The time is measured with tokio's clock, so a test with paused time can advance it.
    /// `since.elapsed()` reads the system's clock instead.
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

/// The reason why a view is degraded. Each cause ends by itself when the problem is solved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The stored state does not decode, lacks a required field or fails a validation. Lists each
    /// key with its revision and the reason.
    Rejected(Arc<[Problem]>),
    /// The view started from a file (`or_snapshot`, with the feature `snapshot`), and the server
    /// has given no state yet. The view repeats the read; this is the error of the latest attempt.
    Snapshot(Arc<Error>),
    /// The watch is interrupted: the server cannot be reached, or refuses the watch. The view
    /// repeats the attempt; this is its latest error.
    Interrupted(Arc<Error>),
    /// No runtime runs the view's task: its runtime ended, and the client has not been used on
    /// another runtime since. The next use of the client or the view within a runtime repairs this.
    /// The cause is the same if a function of the schema panicked: then create a new view.
    Ended,
}

impl Cause {
    /// Returns the kind of the cause as one word, for tools.
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

/// The source of one field in a view [over a base](crate::Viewing::over).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FieldStatus {
    /// The key of the field, or the directory of a map.
    pub key: Key,
    /// The source of the field's value.
    pub source: FieldSource,
}

/// The source of a value in a view [over a base](crate::Viewing::over). `Display` and `Serialize`
/// write its name in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FieldSource {
    /// The store has a key of the field.
    Store,
    /// The store has no key of the field, so the value comes from the base.
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

/// An event in which a server came back with an older history than the view had seen, because the
/// server was restored or emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewound {
    /// The time at which the view noticed the older history, on tokio's clock.
    pub at: Instant,
    /// The newest revision that the view had seen before.
    pub from: Revision,
    /// The server's revision when it came back.
    pub to: Revision,
}
