//! `BorrowedLease`: a lease that the caller keeps, to which locks, candidacies and published values
//! attach their keys. These guards delete their own keys, and never end the lease.
//!
//! A request with an unknown outcome may create a key after its guard is gone. The end of the lease
//! would delete that key, but the lease may live for months. So a [`Removal`] deletes the key
//! repeatedly, after longer and longer waits, until the lease ends or [`LATEST`] has passed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::owners::Owned;
use super::{Lease, LeasePool, Validity};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::retry::RetryPolicy;
use crate::revision::LeaseId;
use crate::runtime::{self, sleep};
use crate::store::{Compare, Condition, Op, Store, Txn};

/// How long after its last request the server may still create a key. No connection and no server
/// delays a request for longer.
const LATEST: Duration = Duration::from_secs(3600);

/// The data of a caller's lease that a guard needs. It does not keep the lease alive.
#[derive(Clone)]
pub(crate) struct BorrowedLease {
    id: LeaseId,
    ttl: Duration,
    validity: Validity,
    /// Whether the lease may live on after the caller has dropped its guard, because another
    /// component granted it.
    adopted: bool,
}

impl BorrowedLease {
    pub(crate) fn of(lease: &Lease) -> Self {
        Self { id: lease.id, ttl: lease.ttl, validity: lease.validity.clone(), adopted: lease.adopted }
    }

    pub(crate) fn id(&self) -> LeaseId {
        self.id
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(crate) fn validity(&self) -> &Validity {
        &self.validity
    }

    /// Checks that a key can be attached to the lease.
    ///
    /// # Errors
    ///
    /// `Unsupported` on v2 and outside of a runtime. `LeaseLost` if the lease has ended.
    pub(crate) fn check(&self, store: &dyn Store) -> Result<()> {
        let capabilities = store.capabilities();
        if !capabilities.transactions {
            let message = format!(
                "{} has no leases that guards can share; leave out `.lease`, and choose the time to live with `.ttl`",
                capabilities.name
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if !runtime::is_here() {
            return Err(Error::without_runtime());
        }
        self.validity.tend();
        match self.validity.reason() {
            Some(reason) => Err(self.validity.loss(reason).into()),
            None => Ok(()),
        }
    }

    /// Whether the server has ended the lease, or soon will.
    fn is_over(&self) -> bool {
        !self.adopted && self.validity.reason().is_some()
    }
}

impl fmt::Debug for BorrowedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BorrowedLease").field("id", &self.id).field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// Deletes a key of a borrowed lease.
pub(crate) struct Removal {
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    lease: BorrowedLease,
    key: Key,
    /// Whether a request with an unknown outcome may still create the key.
    late: bool,
}

impl Removal {
    pub(crate) fn new(pool: &LeasePool, lease: &BorrowedLease, key: &Key, late: bool) -> Self {
        Self { store: pool.roaming().clone(), retry: pool.retry().clone(), lease: lease.clone(), key: key.clone(), late }
    }

    /// Deletes the key, repeatedly if it may be created later. Stops when `wanted` returns false.
    pub(crate) async fn run(self, wanted: impl Fn() -> bool) {
        let Self { store, retry, lease, key, late } = self;
        let begun = Instant::now();
        let mut backoff = retry.backoff();
        let mut wait = retry.first_delay;
        while wanted() && !lease.is_over() {
            let compares = vec![Compare::key(&key, Condition::Lease(lease.id))];
            let delete = Txn { compares, then: vec![Op::delete(&key)], otherwise: Vec::new() };
            let answer = store.commit(delete).await;
            let is_late = begun.elapsed() >= LATEST;
            match answer {
                Ok(_) if !late || is_late => return,
                // The wait doubles each time. So if the key appears after some time, it is deleted
                // after twice that time at most.
                Ok(_) => {
                    sleep(wait).await;
                    wait *= 2;
                }
                // This client no longer keeps the lease alive.
                Err(_) if is_late && lease.validity.reason().is_some() => return,
                // Even a refusal is retried: an operator may grant the right again.
                Err(_) => sleep(backoff.next_delay()).await,
            }
        }
    }
}

/// A guard's entry in [`Owners`]. Dropping an `Ownership` removes the entry. If no other guard has
/// the key, and the key may exist, the drop also deletes the key.
pub(crate) struct Ownership {
    pool: Arc<LeasePool>,
    lease: BorrowedLease,
    key: Key,
    number: u64,
    newest: watch::Receiver<bool>,
    /// Whether the key is known to be deleted, or belongs to another guard.
    gone: bool,
}

impl Ownership {
    pub(super) fn new(pool: &Arc<LeasePool>, lease: &BorrowedLease, key: &Key) -> Self {
        let (sender, newest) = watch::channel(true);
        let number = pool.owners().with(|owners| {
            let owned = owners.entry((lease.id, key.clone())).or_default();
            if let Some((_, before)) = owned.guards.last() {
                before.send_replace(false);
            }
            let number = owned.next;
            owned.next += 1;
            owned.guards.push((number, sender));
            number
        });
        Self { pool: pool.clone(), lease: lease.clone(), key: key.clone(), number, newest, gone: false }
    }

    pub(crate) fn is_newest(&self) -> bool {
        *self.newest.borrow()
    }

    /// Returns a channel whose value says whether this is the newest guard of the key.
    pub(crate) fn newest(&self) -> watch::Receiver<bool> {
        self.newest.clone()
    }

    /// Records that a request with an unknown outcome may still write the key.
    pub(crate) fn doubt(&self) {
        self.pool.owners().with(|owners| owners.entry(self.at()).or_default().in_doubt = true);
    }

    /// Records that the key is deleted or belongs to another guard.
    pub(super) fn leave(&mut self) {
        self.gone = true;
    }

    fn at(&self) -> (LeaseId, Key) {
        (self.lease.id, self.key.clone())
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        let at = self.at();
        let removed = self.pool.owners().with(|owners| {
            let owned = owners.get_mut(&at)?;
            owned.in_doubt |= !self.gone;
            owned.guards.retain(|(number, _)| *number != self.number);
            if let Some((_, newest)) = owned.guards.last() {
                newest.send_if_modified(|newest| !std::mem::replace(newest, true));
                return None;
            }
            if !owned.in_doubt {
                owners.remove(&at);
                return None;
            }
            Some(owned.next)
        });
        let Some(next) = removed else { return };
        let (removal, pool) = (Removal::new(&self.pool, &self.lease, &self.key, true), Arc::downgrade(&self.pool));
        self.pool.runtimes().spawn(async move {
            // The removal stops when a newer guard has published at the key. If the client is
            // dropped, no newer guard can come.
            let is_idle = |owned: &Owned| owned.guards.is_empty() && owned.next == next;
            removal.run(|| pool.upgrade().is_none_or(|pool| pool.owners().with(|owners| owners.get(&at).is_some_and(is_idle)))).await;
            if let Some(pool) = pool.upgrade() {
                pool.owners().with(|owners| {
                    owners.remove_entry(&at).filter(|(_, owned)| !is_idle(owned)).map(|(at, owned)| owners.insert(at, owned))
                });
            }
        });
    }
}
