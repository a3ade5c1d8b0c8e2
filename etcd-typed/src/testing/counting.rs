//! `CountingStore`: counts the calls of another store, so that tests can assert "one round trip".

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::Result;
use crate::revision::LeaseId;
use crate::store::{
    BoxFuture, Capabilities, Committed, Identity, Member, Range, RangeReply, Stats, StatsKind, Status, Store, Txn, Watch, WatchStream,
};

/// Passes every call on and counts it. Clones share their counts: pass one to
/// [`Client::with_store`](crate::Client::with_store), and read the counts from the other.
///
/// It counts calls of the store, not the requests inside one call (further pages of a large range,
/// repetitions).
#[derive(Clone, Debug)]
pub struct CountingStore {
    inner: Arc<dyn Store>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    range: AtomicU64,
    commit: AtomicU64,
    watch: AtomicU64,
    grant: AtomicU64,
    keep_alive: AtomicU64,
    revoke: AtomicU64,
    time_to_live: AtomicU64,
    status: AtomicU64,
    members: AtomicU64,
    stats: AtomicU64,
}

/// How often each method of a [`CountingStore`] was called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of [`Store::range`].
    pub range: u64,
    /// Calls of [`Store::commit`].
    pub commit: u64,
    /// Calls of [`Store::watch`].
    pub watch: u64,
    /// Calls of [`Store::grant`].
    pub grant: u64,
    /// Calls of [`Store::keep_alive`].
    pub keep_alive: u64,
    /// Calls of [`Store::revoke`].
    pub revoke: u64,
    /// Calls of [`Store::time_to_live`].
    pub time_to_live: u64,
    /// Calls of [`Store::status`].
    pub status: u64,
    /// Calls of [`Store::members`].
    pub members: u64,
    /// Calls of [`Store::stats`].
    pub stats: u64,
}

impl Counts {
    /// The number of all calls.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { range, commit, watch, grant, keep_alive, revoke, time_to_live, status, members, stats } = *self;
        range + commit + watch + grant + keep_alive + revoke + time_to_live + status + members + stats
    }
}

impl CountingStore {
    /// Wraps a store and counts its calls.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, counters: Arc::default() }
    }

    /// Returns the calls since the beginning, or since the last [`take`](Self::take).
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.each(|counter| counter.load(Ordering::SeqCst))
    }

    /// Returns the calls so far, and starts again at zero.
    pub fn take(&self) -> Counts {
        self.each(|counter| counter.swap(0, Ordering::SeqCst))
    }

    fn each(&self, read: impl Fn(&AtomicU64) -> u64) -> Counts {
        Counts {
            range: read(&self.counters.range),
            commit: read(&self.counters.commit),
            watch: read(&self.counters.watch),
            grant: read(&self.counters.grant),
            keep_alive: read(&self.counters.keep_alive),
            revoke: read(&self.counters.revoke),
            time_to_live: read(&self.counters.time_to_live),
            status: read(&self.counters.status),
            members: read(&self.counters.members),
            stats: read(&self.counters.stats),
        }
    }
}

/// Counts a call when it is made, whatever its result.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

#[deny(clippy::missing_trait_methods, reason = "a method that is not passed on would not be counted")]
impl Store for CountingStore {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply>> {
        count(&self.counters.range);
        self.inner.range(range)
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>> {
        count(&self.counters.commit);
        self.inner.commit(txn)
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream>> {
        count(&self.counters.watch);
        self.inner.watch(watch)
    }

    fn grant(&self, id: LeaseId, ttl: Duration) -> BoxFuture<'_, Result<Duration>> {
        count(&self.counters.grant);
        self.inner.grant(id, ttl)
    }

    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Duration>> {
        count(&self.counters.keep_alive);
        self.inner.keep_alive(id)
    }

    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<()>> {
        count(&self.counters.revoke);
        self.inner.revoke(id)
    }

    fn time_to_live(&self, id: LeaseId) -> BoxFuture<'_, Result<Option<Duration>>> {
        count(&self.counters.time_to_live);
        self.inner.time_to_live(id)
    }

    fn status(&self) -> BoxFuture<'_, Result<Status>> {
        count(&self.counters.status);
        self.inner.status()
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>> {
        count(&self.counters.members);
        self.inner.members()
    }

    fn stats(&self, which: StatsKind) -> BoxFuture<'_, Result<Stats>> {
        count(&self.counters.stats);
        self.inner.stats(which)
    }

    fn history(&self) -> u64 {
        self.inner.history()
    }

    fn unreachable_since(&self, began: std::time::Instant) -> Option<crate::Error> {
        self.inner.unreachable_since(began)
    }

    fn identity(&self) -> Identity {
        self.inner.identity()
    }
}
