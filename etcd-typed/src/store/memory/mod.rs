//! The embedded store: [`MemoryStore`], a multi-version store in this process that behaves like
//! etcd v3.
//!
//! Each file has one concern. From the inside out: `state.rs` holds keys and history, `txn.rs`
//! checks transactions, and `lease.rs` holds the leases. `engine.rs` combines them into a state
//! machine without a clock, and `shared.rs` adds the lock and the clock. `watch.rs` follows the
//! history, and `fault.rs` injects faults for tests. This file holds the handle and its [`Store`]
//! implementation.

mod engine;
mod fault;
mod fault_plan;
mod lease;
#[cfg(test)]
mod model;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod txn;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{self, Instant};

pub use self::fault::Faults;
pub use self::fault_plan::Calls;

use self::fault_plan::{Call, Effect, late, lost};
use self::shared::{Inner, SharedState};
use self::state::HistoryLimit;
use self::txn::Limits;
use self::watch::Cursor;
use super::{
    BoxFuture, Capabilities, Committed, Identity, Member, Range, RangeReply, Stats, StatsKind, Status, Store, Txn, Watch, WatchStream,
};
use crate::clock::FAR;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::call_ends;
use crate::revision::LeaseId;
use crate::runtime;

/// A store in this process with the semantics of etcd v3, for tests, for examples, and for programs
/// that want etcd's data model without a server.
///
/// The value is a handle, and clones share the same store. The store is dropped with its last
/// handle and its last open watch.
///
/// # Semantics
///
/// - Every transaction that changes something gets its own [`Revision`](crate::Revision), and all
///   its changes carry that revision. The first one is 2.
/// - The past can be read and watched as far as the history reaches. By default the history holds
///   100,000 changes, or fewer if they exceed 256 MiB. [`keep_history`](Self::keep_history) sets
///   the number. Every write compacts the history beyond this limit.
/// - The limits are those of an etcd server with default flags: 128 compares or operations,
///   requests of 1.5 MiB, and leases of at least 2 s. [`with_limits`](Self::with_limits) changes
///   the first two.
/// - A lease expires exactly when its time is up, and all its keys vanish in one revision. An etcd
///   server takes up to half a second longer.
/// - Nothing is stored on disk.
/// # Time
///
/// The store reads tokio's clock and runs no task. Changes that are due, such as an expiry, are
/// made when the store is next called, or while a watch is awaited. In a test with paused time
/// (`#[tokio::test(start_paused = true)]`), a lease of an hour expires as soon as all tasks wait.
/// Awaiting a watch or a delayed call needs a runtime with timers enabled; without one, these calls
/// return `Unsupported`. No other call needs a runtime.
/// # Faults
///
/// [`faults`](Self::faults) makes the store fail on purpose: lost replies, dropped connections,
/// compaction, and a server that is down or was emptied.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<SharedState>,
    /// The limits of this handle; other handles may have different ones.
    capabilities: Capabilities,
}

const CAPABILITIES: Capabilities = Capabilities {
    name: "memory",
    transactions: true,
    max_operations: Limits::DEFAULT.operations,
    max_value: Limits::DEFAULT.request,
    past_revisions: true,
    binary_values: true,
    directories: false,
};

/// The named stores that still have a handle.
static NAMED: Mutex<BTreeMap<String, Weak<SharedState>>> = Mutex::new(BTreeMap::new());

impl MemoryStore {
    /// Returns a new, empty store.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::new(SharedState::new()), capabilities: CAPABILITIES }
    }

    /// Returns the store with this name in this process. All handles with one name share the store.
    /// The first handle creates the store empty, and the store is dropped with the last handle.
    #[must_use]
    pub fn named(name: &str) -> Self {
        // Poisoning cannot happen: no code panics while it holds this lock.
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = named.get(name).and_then(Weak::upgrade) {
            return Self { shared, capabilities: CAPABILITIES };
        }
        named.retain(|_, shared| shared.strong_count() > 0);
        let store = Self::new();
        named.insert(name.to_owned(), Arc::downgrade(&store.shared));
        store
    }

    /// Changes the limits for commits through this handle: the number of operations in one
    /// transaction, and the bytes of a whole request. These limits correspond to etcd's flags
    /// `--max-txn-ops` and `--max-request-bytes`. Other handles keep their limits.
    #[must_use]
    pub fn with_limits(mut self, max_operations: usize, max_request_bytes: usize) -> Self {
        self.capabilities.max_operations = max_operations;
        self.capabilities.max_value = max_request_bytes;
        self
    }

    fn limits(&self) -> Limits {
        Limits { operations: self.capabilities.max_operations, request: self.capabilities.max_value }
    }

    /// Sets how many changes the history keeps (default: 100,000), from now on and for all handles.
    /// The newest revision is always kept as a whole.
    pub fn keep_history(&self, changes: usize) {
        self.shared.with(|inner, _| inner.engine.state.set_limit(HistoryLimit { changes, ..inner.engine.state.limit() }));
    }

    /// Returns the controls that make this store fail on purpose. They affect all handles.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults { shared: Arc::clone(&self.shared) }
    }

    /// Performs a call, unless a planned fault prevents the call or replaces its result. All calls
    /// go through this function.
    async fn call<T>(&self, call: Call, perform: impl FnOnce(&mut Inner, Instant) -> Result<T> + Send) -> Result<T> {
        self.call_or_late(call, perform, |_, _| {}).await
    }

    /// Like [`call`](Self::call), but a planned fault can also perform the call late. Only commits
    /// need that.
    async fn call_or_late<T>(
        &self,
        call: Call,
        perform: impl FnOnce(&mut Inner, Instant) -> Result<T> + Send,
        perform_late: impl FnOnce(&mut Inner, Instant) + Send,
    ) -> Result<T> {
        let delay = self.shared.with(|inner, _| inner.plan.delay_of(call));
        if !delay.is_zero() {
            if !runtime::is_here() {
                return Err(Error::without_runtime());
            }
            match call_ends() {
                Some(ends) if ends < Instant::now() + delay.min(FAR) => {
                    time::sleep_until(ends).await;
                    return Err(late(call));
                }
                _ => time::sleep(delay).await,
            }
        }
        self.shared.with(|inner, now| {
            inner.check_running()?;
            match inner.plan.meet(call) {
                None => perform(inner, now),
                Some(Effect::Fail(kind)) => Err(Error::new(kind, "the request was refused (a fault)")),
                Some(Effect::LoseRequest) => Err(lost(call, "the request was lost (a fault)")),
                Some(Effect::LoseReply) => perform(inner, now).and_then(|_| Err(lost(call, "the reply was lost (a fault)"))),
                Some(Effect::ApplyLate(after)) => {
                    if let Some(at) = now.checked_add(after) {
                        perform_late(inner, at);
                    }
                    Err(lost(call, "the reply did not come (a fault)"))
                }
            }
        })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("id", &format_args!("{:x}", self.shared.id)).finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeReply>> {
        Box::pin(async move {
            let key = range.span.key().clone();
            let read = self.call(Call::Range, move |inner, _| {
                let mut reply = inner.engine.state.range(&range)?;
                if range.keys_only && inner.hides_leases {
                    reply.kvs.iter_mut().for_each(|kv| kv.lease = None);
                }
                Ok(reply)
            });
            read.await.map_err(|error| error.at(&key))
        })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>> {
        Box::pin(async move {
            // The contract of `Store` asks for this check before a transaction is sent. The check
            // does not depend on the stored data.
            let limits = self.limits();
            txn::check(&txn, limits)?;
            let late = txn.clone();
            self.call_or_late(
                Call::Commit,
                move |inner, now| inner.engine.commit(&txn, limits, now),
                move |inner, at| inner.engine.commit_late(late, at),
            )
            .await
        })
    }

    fn watch(&self, watch: Watch) -> BoxFuture<'_, Result<WatchStream>> {
        Box::pin(async move {
            watch.span.check()?;
            let key = watch.span.key().clone();
            let cursor = self.call(Call::Watch, move |inner, _| Ok(Cursor::new(&self.shared, inner, watch.span, watch.from.revision())));
            Ok(cursor.await.map_err(|error| error.at(&key))?.into_stream())
        })
    }

    fn grant(&self, id: LeaseId, ttl: Duration) -> BoxFuture<'_, Result<Duration>> {
        Box::pin(self.call(Call::Grant, move |inner, now| inner.engine.leases.grant(id, ttl, now)))
    }

    fn keep_alive(&self, id: LeaseId) -> BoxFuture<'_, Result<Duration>> {
        Box::pin(self.call(Call::KeepAlive, move |inner, now| inner.engine.leases.keep_alive(id, now)))
    }

    fn revoke(&self, id: LeaseId) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.call(Call::Revoke, move |inner, _| {
            inner.engine.revoke(id);
            Ok(())
        }))
    }

    fn time_to_live(&self, id: LeaseId) -> BoxFuture<'_, Result<Option<Duration>>> {
        Box::pin(self.call(Call::TimeToLive, move |inner, now| Ok(inner.engine.leases.time_to_live(id, now))))
    }

    fn status(&self) -> BoxFuture<'_, Result<Status>> {
        let id = format!("{:x}", self.shared.id);
        Box::pin(self.call(Call::Status, move |inner, _| {
            Ok(Status {
                store: CAPABILITIES.name,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                revision: inner.engine.state.revision(),
                cluster: Some(id.clone()),
                member: Some(id.clone()),
                leader: Some(id),
                ..Status::default()
            })
        }))
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>> {
        let member = Member { id: format!("{:x}", self.shared.id), name: CAPABILITIES.name.to_owned(), ..Member::default() };
        Box::pin(self.call(Call::Members, move |_, _| Ok(vec![member])))
    }

    fn unreachable_since(&self, _began: std::time::Instant) -> Option<Error> {
        self.shared.with(|inner, _| inner.check_running()).err()
    }

    fn identity(&self) -> Identity {
        Identity { cluster: Some(format!("{:x}", self.shared.id)), endpoints: Vec::new() }
    }

    fn stats(&self, _which: StatsKind) -> BoxFuture<'_, Result<Stats>> {
        Box::pin(async { Err(Error::new(ErrorKind::Unsupported, "memory keeps no statistics; `status()` has its revision")) })
    }
}
