//! `Lessor`: where the leases of a client come from. What was released and still lives is kept as a spare one for a while, so that the next lock
//! costs no request for a lease.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Lease;
use super::last::Handed;
use super::later::Later;
use super::shared::SharedLeases;
use super::standing::Standings;
use crate::error::{Error, Result};
use crate::retry::RetryPolicy;
use crate::revision::LeaseId;
use crate::runtime::{self, Runtimes};
use crate::store::{Store, roaming};

/// How long a spare lease is kept alive for nobody.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// How many spare leases are kept alive, whatever their times to live. What a burst of releases
/// leaves beyond that may be taken again until it would have to be kept alive, and is revoked then:
/// so many locks that are acquired and released over and over cost no grants, and a program that
/// once had many costs the server little.
const MOST: usize = 16;

/// One for all clones of a client.
pub(crate) struct Lessor {
    store: Arc<dyn Store>,
    /// The same, for tasks.
    roaming: Arc<dyn Store>,
    retry: RetryPolicy,
    spares: Mutex<Vec<Spare>>,
    shared: SharedLeases,
    standings: Arc<Standings>,
    later: Arc<Later>,
    /// Dropped after the spare leases, whose tasks it may have.
    runtimes: Arc<Runtimes>,
}

struct Spare {
    lease: Lease,
    since: Instant,
}

impl Lessor {
    pub(crate) fn new(store: Arc<dyn Store>, retry: RetryPolicy, runtimes: Arc<Runtimes>) -> Self {
        let roaming = roaming(store.clone(), &runtimes);
        Self {
            store,
            roaming,
            retry,
            spares: Mutex::default(),
            shared: SharedLeases::default(),
            standings: Arc::default(),
            later: Arc::default(),
            runtimes,
        }
    }

    /// The store, for callers, who use the client on the current runtime.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.runtimes.note();
        &self.store
    }

    /// The store for tasks.
    pub(crate) fn roaming(&self) -> &Arc<dyn Store> {
        &self.roaming
    }

    pub(crate) fn runtimes(&self) -> &Arc<Runtimes> {
        &self.runtimes
    }

    pub(crate) fn standings(&self) -> &Arc<Standings> {
        &self.standings
    }

    pub(super) fn shared(&self) -> &SharedLeases {
        &self.shared
    }

    pub(crate) fn later(&self) -> &Arc<Later> {
        &self.later
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// A lease that nobody else has, a spare one if there is one.
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

    /// A new lease.
    pub(crate) async fn grant(self: &Arc<Self>, ttl: Duration) -> Result<Lease> {
        Lease::grant(self, ttl).await
    }

    /// Keeps a lease that nothing is attached to any more, nor ever will be. `handed` is for whoever waited for its key.
    pub(crate) fn put(&self, mut lease: Lease, handed: Option<Handed>) {
        // Before anybody can take it, and stand with it somewhere else.
        match (lease.standing.take(), handed) {
            (standing, Some(handed)) => self.standings.hand_on(standing, handed),
            (standing, None) => drop(standing),
        }
        lease.life.set_wanted(false);
        self.with(|spares| spares.push(Spare { lease, since: Instant::now() }));
    }

    /// Gives up the spare leases that nobody took for long.
    pub(super) fn retire(&self) {
        // They are dropped after the lock is given back.
        let over = |spare: &mut Spare| spare.since.elapsed() >= IDLE || !spare.lease.is_held();
        drop(self.with(|spares| spares.extract_if(.., over).collect::<Vec<_>>()));
    }

    /// Gives up this lease if it is a spare one and there are enough that were used later.
    pub(super) fn dismiss(&self, id: LeaseId) -> bool {
        let one_too_many = self.with(|spares| {
            let at = spares.iter().position(|spare| spare.lease.id == id)?;
            let later = spares.len() - at - 1;
            (later >= MOST).then(|| spares.remove(at))
        });
        one_too_many.is_some()
    }

    /// The one that was used last: the others may retire.
    fn take_spare(&self, ttl: Duration) -> Option<Lease> {
        // Most of its time must be there yet, or the lock that is made with it would hang on one answer.
        let fit = |spare: &Spare| spare.lease.asked == ttl && spare.lease.remaining() >= spare.lease.ttl() / 2;
        let spare = self.with(|spares| {
            let near = spares.iter().rposition(|spare| fit(spare) && spare.lease.task().is_here());
            let at = near.or_else(|| spares.iter().rposition(fit))?;
            Some(spares.remove(at))
        })?;
        // The runtime that it was kept alive on may end, or may not be driven, before this one.
        spare.lease.task().come_here();
        spare.lease.life.set_wanted(true);
        Some(spare.lease)
    }

    fn with<R>(&self, f: impl FnOnce(&mut Vec<Spare>) -> R) -> R {
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        f(&mut self.spares.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Lessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lessor").field("spares", &self.with(|spares| spares.len())).finish_non_exhaustive()
    }
}
