//! Decides which cluster a client belongs to, and when the client moves to another one.
//!
//! Every answer of etcd contains a cluster id, and the first answer decides which cluster a client
//! belongs to. A server that was restored or emptied comes back at the same address with another
//! cluster id. An endpoint of another cluster that was listed by mistake looks the same. To find
//! out which of the two happened, a client asks all of its endpoints ([`agreed`]):
//!
//! - If all endpoints that answer send the same new id, and they are more than half of the list,
//!   the cluster was replaced. The client moves to the new cluster, and everything it knew of the
//!   former history is void ([`Cluster::history`]).
//! - Otherwise the client does not use the endpoint. So a client keeps its cluster while members
//!   are restored one after another and an old member still answers. A client also keeps its
//!   cluster when one of two endpoints belongs to another cluster and the right one is down.
//!
//! Once a client belongs to a cluster, it writes no key over a connection before an answer over
//! that connection has shown the cluster id (`attempt.rs`). If the client saw another cluster id
//! only in the answer to the write, that cluster would already have applied the write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::runtime::PerRuntime;

/// How long the client waits after a survey without agreement before it asks all endpoints again.
pub(super) const SURVEY_PAUSE: Duration = Duration::from_millis(100);

/// The cluster that a client belongs to.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// The id of the cluster; 0 until the first answer.
    id: AtomicU64,
    history: Arc<AtomicU64>,
    /// The lock is held by the call that asks all endpoints. The value is the time at which they
    /// last failed to agree. Each runtime has its own lock, because a call on a runtime that is not
    /// driven would block the others.
    pub(super) survey: PerRuntime<Mutex<Option<Instant>>>,
}

/// The history in which an object, such as a watch stream, was created.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    history: u64,
    current: Arc<AtomicU64>,
}

/// The id of the cluster that last answered over a connection; 0 before the first answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Behind(Arc<AtomicU64>);

impl Cluster {
    /// Returns the id of the cluster; 0 until the first answer.
    pub(super) fn id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    /// Returns whether an answer of this cluster is accepted. The first answer decides.
    pub(super) fn admits(&self, id: u64) -> bool {
        match self.id() {
            0 => self.id.compare_exchange(0, id, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|first| first == id, |_| true),
            known => known == id,
        }
    }

    /// Moves the client to this cluster, which has a new history.
    pub(super) fn move_to(&self, id: u64) {
        // A call on another runtime may have moved the client already.
        if self.id.swap(id, Ordering::Relaxed) != id {
            // A reader that sees the new number also sees the new id.
            self.history.fetch_add(1, Ordering::Release);
        }
    }

    /// Returns how often the client has moved to another cluster. Revisions, leases and watches
    /// from before the last move are void.
    pub(super) fn history(&self) -> u64 {
        self.history.load(Ordering::Acquire)
    }

    /// Returns the current history, for an object that is created now.
    pub(super) fn present(&self) -> Origin {
        Origin { history: self.history(), current: Arc::clone(&self.history) }
    }
}

impl Origin {
    /// Returns whether the client still has this history.
    pub(super) fn is_current(&self) -> bool {
        self.current.load(Ordering::Acquire) == self.history
    }
}

impl Behind {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, id: u64) {
        // Most answers repeat the known id, and a store would invalidate the cache line for other
        // callers.
        if self.get() != id {
            self.0.store(id, Ordering::Relaxed);
        }
    }
}

/// Returns the cluster that a client of cluster `known` moves to. `named` has the cluster id that
/// each endpoint sent, or `None` if the endpoint did not answer.
pub(super) fn agreed(known: u64, named: &[Option<u64>]) -> Option<u64> {
    let mut answers = named.iter().flatten();
    let new = *answers.next()?;
    let unanimous = answers.all(|id| *id == new);
    let majority = named.iter().flatten().count() * 2 > named.len();
    (unanimous && majority && new != known).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Option<u64> = Some(1);
    const NEW: Option<u64> = Some(2);
    const OTHER: Option<u64> = Some(3);

    #[test]
    fn first_answer_decides_the_cluster() {
        let cluster = Cluster::default();
        let origin = cluster.present();
        assert!(cluster.admits(7) && cluster.admits(7) && !cluster.admits(8));
        assert_eq!((cluster.id(), cluster.history()), (7, 0));
        assert!(origin.is_current());
        cluster.move_to(8);
        assert!(!origin.is_current() && cluster.present().is_current());
        assert!(cluster.admits(8) && !cluster.admits(7));
        assert_eq!((cluster.id(), cluster.history()), (8, 1));
    }

    #[test]
    fn client_moves_if_unanimous_majority_sends_new_id() {
        for (named, moves) in [
            (&[NEW][..], true),
            (&[None], false),
            (&[OLD], false),
            (&[NEW, NEW], true),
            // The other endpoint may be down for a moment and still belong to the old cluster.
            (&[NEW, None], false),
            (&[OLD, NEW], false),
            (&[NEW, OTHER], false),
            (&[NEW, NEW, NEW], true),
            // A member that is gone for good does not block the client.
            (&[None, NEW, NEW], true),
            (&[None, None, NEW], false),
            // In the next cases, members are restored one after another.
            (&[NEW, OLD, OLD], false),
            (&[NEW, NEW, OLD], false),
            (&[NEW, OTHER, NEW], false),
            (&[None, NEW, OLD], false),
            (&[None, OLD, OLD], false),
            (&[NEW, NEW, None, None], false),
            (&[NEW, NEW, NEW, None, None], true),
        ] {
            assert_eq!(agreed(1, named), if moves { NEW } else { None }, "{named:?}");
        }
    }
}
