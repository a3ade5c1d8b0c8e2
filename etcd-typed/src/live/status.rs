//! What a live view says of itself.

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Problem};
use crate::revision::Revision;

/// Whether a [`Live`](crate::Live) view follows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LiveStatus {
    /// What is stored is what the view shows, as far as the server has told.
    Live,
    /// The view shows the last good state, and the server may have another.
    #[non_exhaustive]
    Degraded {
        /// Since when there has been anything wrong.
        since: Instant,
        /// What is wrong; of several things the one that time alone does not mend.
        cause: Cause,
        /// Everything up to this revision is in the state that the view shows.
        last_good_revision: Revision,
    },
}

impl LiveStatus {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live)
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

/// Why a view is degraded. All of them but the last end by themselves when what they name is mended.
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
    /// The runtime that the view was made in is gone, or a function of the schema panicked: nothing keeps the view current any more. Make a new one.
    Ended,
}

/// The server came back with an older history than was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rewound {
    /// When it was noticed.
    pub at: Instant,
    /// The revision that had been seen.
    pub from: Revision,
    /// The revision that the server had then.
    pub to: Revision,
}
