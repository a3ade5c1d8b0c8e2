//! `LeasePool`: supplies the leases of a client. When a lock is released, its lease is kept for a
//! while as a spare lease, so that the next lock needs no request for a lease.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Lease;
use super::delayed_start::DelayedStarts;
use super::owners::Owners;
use super::shared::{Share, SharedLeases};
use crate::error::{Error, Result};
use crate::key::Key;
use crate::retry::RetryPolicy;
use crate::revision::LeaseId;
use crate::runtime::{self, Runtimes};
use crate::store::{Store, roaming};

/// How long an unused spare lease is kept alive.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// How many spare leases are kept alive, over all times to live. A burst of releases may leave more
/// spare leases. The additional ones can be reused until their next renewal is due, and are then
/// revoked. So a program that acquires and releases many locks repeatedly needs no new leases, and
/// a program that once held many locks soon costs the server little.
const MOST: usize = 16;

/// Shared by all clones of a client.
pub(crate) struct LeasePool {
    store: Arc<dyn Store>,
    /// The same store, for background tasks.
    roaming: Arc<dyn Store>,
    retry: RetryPolicy,
    spares: Mutex<Vec<Spare>>,
    shared: SharedLeases,
    owners: Owners,
    delayed_starts: Arc<DelayedStarts>,
    /// Dropped after the spare leases, since it may own their tasks.
    runtimes: Arc<Runtimes>,
}

struct Spare {
    lease: Lease,
    since: Instant,
}

impl LeasePool {
    pub(crate) fn new(store: Arc<dyn Store>, retry: RetryPolicy, runtimes: Arc<Runtimes>) -> Self {
        let roaming = roaming(store.clone(), &runtimes);
        Self {
            store,
            roaming,
            retry,
            spares: Mutex::default(),
            shared: SharedLeases::default(),
            owners: Owners::default(),
            delayed_starts: Arc::default(),
            runtimes,
        }
    }

    /// Returns the store for calls on the current runtime.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.runtimes.note();
        &self.store
    }

    /// Returns the store for background tasks.
    pub(crate) fn roaming(&self) -> &Arc<dyn Store> {
        &self.roaming
    }

    pub(crate) fn runtimes(&self) -> &Arc<Runtimes> {
        &self.runtimes
    }

    pub(crate) fn delayed_starts(&self) -> &Arc<DelayedStarts> {
        &self.delayed_starts
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// The values that are published with leases of the caller.
    pub(super) fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Returns a lease that has no other user: a spare lease if there is one, otherwise a new one.
    pub(crate) async fn take(self: &Arc<Self>, ttl: Duration) -> Result<Lease> {
        if !runtime::is_here() {
            return Err(Error::without_runtime());
        }
        self.runtimes.note();
        match self.take_spare(ttl) {
            Some(spare) => Ok(spare),
            None => self.grant(ttl).await,
        }
    }

    /// Returns a new lease.
    pub(crate) async fn grant(self: &Arc<Self>, ttl: Duration) -> Result<Lease> {
        Lease::grant(self, ttl).await
    }

    /// Returns a share in a lease with this time to live, to which the key is not attached yet.
    ///
    /// # Errors
    ///
    /// The errors of a grant.
    pub(crate) async fn share(self: &Arc<Self>, ttl: Duration, key: &Key) -> Result<Share> {
        if !runtime::is_here() {
            return Err(Error::without_runtime().at(key));
        }
        if !self.roaming.capabilities().transactions {
            // v2 has no leases: the client refreshes each key by itself, so sharing saves nothing.
            return Ok(Share::alone(self.grant(ttl).await?, key));
        }
        self.shared.share(ttl, key, self.retry.deadline(), self.grant(ttl)).await
    }

    /// Keeps a lease as a spare one. No key may be attached to the lease, and no past request may
    /// still attach a key to it.
    pub(crate) fn put(&self, lease: Lease) {
        lease.validity.set_wanted(false);
        self.with(|spares| spares.push(Spare { lease, since: Instant::now() }));
    }

    /// Drops the spare leases that were unused for long.
    pub(super) fn retire(&self) {
        // The leases are dropped after the lock is released.
        let over = |spare: &mut Spare| spare.since.elapsed() >= IDLE || !spare.lease.is_held();
        drop(self.with(|spares| spares.extract_if(.., over).collect::<Vec<_>>()));
    }

    /// Removes this lease, and returns true, if it is a spare lease and enough other spare leases
    /// were used more recently.
    pub(super) fn dismiss(&self, id: LeaseId) -> bool {
        let one_too_many = self.with(|spares| {
            let at = spares.iter().position(|spare| spare.lease.id == id)?;
            let later = spares.len() - at - 1;
            (later >= MOST).then(|| spares.remove(at))
        });
        one_too_many.is_some()
    }

    /// Takes the most recently used spare lease, so that the others can retire.
    fn take_spare(&self, ttl: Duration) -> Option<Lease> {
        // Half of the time to live must be left; otherwise a single lost answer could end the lock.
        let fit = |spare: &Spare| spare.lease.asked == ttl && spare.lease.remaining() >= spare.lease.ttl() / 2;
        let spare = self.with(|spares| {
            let near = spares.iter().rposition(|spare| fit(spare) && spare.lease.task().is_here());
            let at = near.or_else(|| spares.iter().rposition(fit))?;
            Some(spares.remove(at))
        })?;
        // The task's own runtime may end before the current one, or may not be driven.
        spare.lease.task().come_here();
        spare.lease.validity.set_wanted(true);
        Some(spare.lease)
    }

    fn with<R>(&self, f: impl FnOnce(&mut Vec<Spare>) -> R) -> R {
        // No code panics while it holds this lock, so the data of a poisoned lock is consistent.
        f(&mut self.spares.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for LeasePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasePool").field("spares", &self.with(|spares| spares.len())).finish_non_exhaustive()
    }
}
