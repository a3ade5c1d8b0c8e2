//! `Faults`: injects failures for tests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::fault_plan::{Calls, Effect, End, FaultPlan};
use super::shared::SharedState;
use crate::error::ErrorKind;
use crate::revision::{LeaseId, Revision};

/// Makes a [`MemoryStore`](super::MemoryStore) fail like a server or a network. Returned by
/// [`MemoryStore::faults`](super::MemoryStore::faults).
///
/// Each call to the store goes through these steps:
///
/// 1. The call waits for the [`delay`](Self::delay) set for this kind of call.
/// 2. While the server is [stopped](Self::stop), the call ends with `Unavailable`.
/// 3. The call takes one fault off the queue: the oldest one, added by [`fail`](Self::fail),
///    [`lose_request`](Self::lose_request), [`lose_reply`](Self::lose_reply) or
///    [`apply_late`](Self::apply_late), that applies to this kind of call. If a test adds two lost
///    replies and then a refusal, the next three calls get them in this order.
///
/// A fault replaces the final result of a call, after all retries: the memory store itself never
/// retries. A delayed call normally waits for the whole delay. If the call is part of a client call
/// with a time limit ([`RetryPolicy::call_timeout`](crate::RetryPolicy::call_timeout)), the limit
/// cuts the delay short; the call then ends with `Timeout` and is not performed.
///
/// ```
/// use etcd_typed::ErrorKind;
/// use etcd_typed::store::memory::{Calls, MemoryStore};
/// use etcd_typed::store::{Op, Range, Span, Store, Txn};
/// use etcd_typed::{Key, Result};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store = MemoryStore::new();
/// let key = Key::parse("/a")?;
///
/// store.faults().lose_reply(Calls::Commits, 1);
/// let write = Txn::new(vec![Op::put(&key, "1".into())]);
/// let error = store.commit(write).await.unwrap_err();
/// assert!(error.kind() == ErrorKind::Unavailable && error.may_have_applied());
///
/// let read = store.range(Range::of(Span::Key(key))).await?;
/// assert_eq!(read.kvs.len(), 1); // It was applied.
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Faults {
    pub(super) shared: Arc<SharedState>,
}

impl Faults {
    /// Makes the next `count` calls of any kind end with `Unavailable`, without performing them.
    /// This is a shorthand for [`fail`](Self::fail).
    pub fn fail_next(&self, count: usize) {
        self.fail(Calls::All, count, ErrorKind::Unavailable);
    }

    /// Makes the next `count` of these calls end with an error of this kind, without performing
    /// them. The error of a write says that it was not applied.
    pub fn fail(&self, calls: Calls, count: usize, kind: ErrorKind) {
        self.add(calls, count, Effect::Fail(kind));
    }

    /// Makes the next `count` of these calls end with `Unavailable`, without performing them. The
    /// error of a write says that the outcome is unknown.
    pub fn lose_request(&self, calls: Calls, count: usize) {
        self.add(calls, count, Effect::LoseRequest);
    }

    /// Performs the next `count` of these calls, but makes them end with `Unavailable`. The error
    /// of a write says that the outcome is unknown. If the store refuses such a call, the caller
    /// gets the refusal. A watch whose reply is lost is not opened.
    pub fn lose_reply(&self, calls: Calls, count: usize) {
        self.add(calls, count, Effect::LoseReply);
    }

    /// Makes the next `count` commits end at once with `Unavailable`, and applies them after this
    /// time. The error says that the outcome is unknown. The compares are checked only then. A
    /// server that hung with the request in its log behaves like this.
    pub fn apply_late(&self, count: usize, after: Duration) {
        self.add(Calls::Commits, count, Effect::ApplyLate(after));
    }

    /// Delays these calls by this time, from now on. A call waits before any other fault applies to
    /// it. A later delay for the same `calls` replaces the earlier one, and zero removes it. If two
    /// delays apply to a call, it waits for the longer one. A call that is dropped while it waits
    /// is not performed.
    pub fn delay(&self, calls: Calls, delay: Duration) {
        self.shared.with(|inner, _| inner.plan.delay(calls, delay));
    }

    /// Sets whether replies to [`Range::keys_only`](crate::store::Range::keys_only) lack the
    /// leases, as on etcd since 3.7 (etcd issue 22209).
    pub fn hide_leases_of_keys_only(&self, hide: bool) {
        self.shared.with(|inner, _| inner.hides_leases = hide);
    }

    /// Removes all queued faults and all delays. Does not [start](Self::start) a stopped server.
    /// Commits that wait to be [applied late](Self::apply_late) are still applied.
    pub fn clear(&self) {
        self.shared.with(|inner, _| inner.plan = FaultPlan::default());
    }

    /// Compacts all history before the newest revision. Older revisions can no longer be read, and
    /// a watch that has not reached the newest revision ends with
    /// [`HistoryLost`](crate::store::WatchItem::HistoryLost).
    pub fn compact(&self) {
        self.shared.with(|inner, _| inner.engine.state.compact(inner.engine.state.revision()));
    }

    /// Compacts the history before this revision, which itself can still be read. A future revision
    /// counts as the newest. Compacted history does not come back.
    pub fn compact_to(&self, revision: Revision) {
        self.shared.with(|inner, _| inner.engine.state.compact(revision));
    }

    /// Ends a lease now, as if it had expired: its keys vanish in one revision. Returns whether the
    /// lease existed.
    pub fn expire(&self, lease: LeaseId) -> bool {
        self.shared.with(|inner, _| {
            let there = inner.engine.leases.check(lease).is_ok();
            inner.engine.revoke(lease);
            there
        })
    }

    /// Cuts every open watch, which then yields only an `Unavailable` error. A new watch that
    /// starts at the last revision of a cut watch gets the changes that the cut watch did not
    /// yield.
    pub fn drop_connections(&self) {
        self.shared.with(|inner, _| inner.end_watches(End::Dropped));
    }

    /// Ends every open watch with [`Lagged`](crate::store::WatchItem::Lagged). A watch of this
    /// store never lags on its own.
    pub fn lag_watches(&self) {
        self.shared.with(|inner, _| inner.end_watches(End::Lagged));
    }

    /// Stops the server. Open watches are [cut](Self::drop_connections), and all calls end with
    /// `Unavailable` and are not performed until the server is [started](Self::start). No data is
    /// lost, and no lease expires meanwhile.
    pub fn stop(&self) {
        self.shared.with(|inner, _| inner.stop());
    }

    /// Starts the server again with all its data. Every lease has its whole time to live again, as
    /// after the restart of an etcd server.
    pub fn start(&self) {
        self.shared.with(|inner, now| inner.start(now));
    }

    /// Empties the store: it loses its keys, history, leases, and the commits that wait to be
    /// [applied late](Self::apply_late). The store is at revision 1 again but keeps its cluster id,
    /// like an etcd server whose data was removed. Open watches are [cut](Self::drop_connections).
    /// A new watch that starts above the new revision gets
    /// [`Behind`](crate::store::WatchItem::Behind).
    pub fn wipe(&self) {
        self.shared.with(|inner, _| inner.wipe());
    }

    fn add(&self, calls: Calls, count: usize, effect: Effect) {
        self.shared.with(|inner, _| inner.plan.add(calls, count, effect));
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}
