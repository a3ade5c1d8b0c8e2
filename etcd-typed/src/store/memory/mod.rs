//! The embedded store: [`MemoryStore`], a multi-version store in this process that behaves as etcd v3 does.
//!
//! One file per concern, from the inside out: `state.rs` is keys and history, `txn.rs` what a transaction may hold, `lease.rs` the leases,
//! `engine.rs` these together as a machine without a clock; `shared.rs` puts a lock and the clock around it, `watch.rs` follows the
//! history, `fault.rs` is what tests break. This file is the handle and the [`Store`] that it is.

mod engine;
mod fault;
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

pub use self::fault::{Calls, Faults};

use self::fault::{Call, Effect, late, lost};
use self::shared::{Inner, Shared};
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

/// A store in this process, with the semantics of etcd v3: for tests, for examples, and for programs that want its model without a server.
///
/// The value is a handle; its clones are the same store, which ends with the last of them (and the last open watch).
///
/// # What it keeps to
///
/// - Every transaction that changes something has its own [`Revision`](crate::Revision), the first one 2; all its changes are of that revision.
/// - The past can be read and watched as far as the history reaches: by default 100,000 changes, or 256 MiB of them if that is
///   less; [`keep_history`](Self::keep_history) sets the number. Older history is compacted away at every write.
/// - The limits of an etcd server with default flags: 128 compares or operations, requests of 1.5 MiB, leases of 2 s at least.
///   [`with_limits`](Self::with_limits) changes the first two.
/// - A lease ends to the instant that its time is up, its keys in one revision. (A server takes up to half a second more.)
/// - Nothing is kept on disk.
///
/// # Time
///
/// It reads tokio's clock and has no task of its own: what is due happens when the store is next called or while a watch is awaited. In a
/// test with paused time (`#[tokio::test(start_paused = true)]`) a lease of an hour ends as soon as everybody waits. A runtime with its
/// timers enabled is needed to await a watch or a delayed call, and for nothing else; without one those answer `Unsupported`.
///
/// # Faults
///
/// [`faults`](Self::faults) makes it fail on purpose: lost replies, dropped connections, compaction, a server that is away or was emptied.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    /// Of this handle.
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

/// The stores that have a name and a handle.
static NAMED: Mutex<BTreeMap<String, Weak<Shared>>> = Mutex::new(BTreeMap::new());

impl MemoryStore {
    /// An empty store of its own.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared::new()), capabilities: CAPABILITIES }
    }

    /// The store of this name in this process: all who name it share it. It comes to be, empty, with the first handle and ends with the last one.
    #[must_use]
    pub fn named(name: &str) -> Self {
        // Nothing panics under this lock.
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = named.get(name).and_then(Weak::upgrade) {
            return Self { shared, capabilities: CAPABILITIES };
        }
        named.retain(|_, shared| shared.strong_count() > 0);
        let store = Self::new();
        named.insert(name.to_owned(), Arc::downgrade(&store.shared));
        store
    }

    /// The same store with other limits for what is committed through this handle: operations in one transaction, and bytes of a whole request. They are what
    /// etcd's flags `--max-txn-ops` and `--max-request-bytes` are. Other handles keep theirs.
    #[must_use]
    pub fn with_limits(mut self, max_operations: usize, max_request_bytes: usize) -> Self {
        self.capabilities.max_operations = max_operations;
        self.capabilities.max_value = max_request_bytes;
        self
    }

    fn limits(&self) -> Limits {
        Limits { operations: self.capabilities.max_operations, request: self.capabilities.max_value }
    }

    /// Keeps the history of so many changes (default: 100,000), from now on and for all handles. The newest revision is kept whole whatever the
    /// number.
    pub fn keep_history(&self, changes: usize) {
        self.shared.with(|inner, _| inner.engine.state.set_limit(HistoryLimit { changes, ..inner.engine.state.limit() }));
    }

    /// What makes this store fail on purpose. For all handles of it.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults { shared: Arc::clone(&self.shared) }
    }

    /// Lets a call meet its faults and, if none forbids it, performs it. All calls go through here.
    async fn call<T>(&self, call: Call, perform: impl FnOnce(&mut Inner, Instant) -> Result<T> + Send) -> Result<T> {
        self.call_or_late(call, perform, |_, _| {}).await
    }

    /// [`call`](Self::call) for the one call that can be performed later.
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
            // Before sending, as the contract has it; nothing in the store changes the answer.
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

    fn identity(&self) -> Identity {
        Identity { cluster: Some(format!("{:x}", self.shared.id)), endpoints: Vec::new() }
    }

    fn stats(&self, _which: StatsKind) -> BoxFuture<'_, Result<Stats>> {
        Box::pin(async { Err(Error::new(ErrorKind::Unsupported, "memory keeps no statistics; `status()` has its revision")) })
    }
}
