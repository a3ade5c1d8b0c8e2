//! `CountingStore`: counts the calls of another store, so that tests can assert how many requests
//! an operation sends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::hooked::{Call, Reply, store_around};
use crate::error::Result;
use crate::revision::LeaseId;
use crate::store::{
    BoxFuture, Capabilities, Committed, Identity, Member, Range, RangeReply, Stats, StatsKind, Status, Store, Txn, Watch, WatchStream,
};

/// Passes every call to another store and counts it. Clones share their counts: pass a clone to
/// [`Client::with_store`](crate::Client::with_store), and read the counts from the original.
///
/// It counts calls of the store's methods. One call may send several requests, for more pages of a
/// large range or to repeat a failed request.
#[derive(Clone, Debug)]
pub struct CountingStore {
    inner: Arc<dyn Store>,
    counts: Arc<Mutex<Counts>>,
}

/// The number of calls of each method of a [`CountingStore`].
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
    /// Returns the number of all calls.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { range, commit, watch, grant, keep_alive, revoke, time_to_live, status, members, stats } = *self;
        range + commit + watch + grant + keep_alive + revoke + time_to_live + status + members + stats
    }

    fn of(&mut self, call: &Call) -> &mut u64 {
        match call {
            Call::Range(_) => &mut self.range,
            Call::Commit(_) => &mut self.commit,
            Call::Watch(_) => &mut self.watch,
            Call::Grant { .. } => &mut self.grant,
            Call::KeepAlive(_) => &mut self.keep_alive,
            Call::Revoke(_) => &mut self.revoke,
            Call::TimeToLive(_) => &mut self.time_to_live,
            Call::Status => &mut self.status,
            Call::Members => &mut self.members,
            Call::Stats(_) => &mut self.stats,
        }
    }
}

impl CountingStore {
    /// Wraps a store and counts its calls.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// Returns the counts since the beginning, or since the last [`take`](Self::take).
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.locked()
    }

    /// Returns the counts so far, and resets them to zero.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut *self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call, whatever its result, and passes it to the inner store.
    fn around(&self, call: Call) -> impl Future<Output = Result<Reply>> + Send + use<> {
        *self.locked().of(&call) += 1;
        call.send(&self.inner)
    }
}

store_around!(CountingStore);
