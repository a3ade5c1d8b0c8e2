//! `AdoptLease`: takes over a lease that another component granted.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Lease, LeaseKeeper, LeasePool, Manner, Validity};
use crate::clock::{FAR, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::LeaseId;
use crate::runtime;
use crate::store::{BoxFuture, Store};

/// Takes over a lease that another component granted; created by
/// [`Client::adopt_lease`](crate::Client::adopt_lease). It runs when it is awaited.
#[must_use = "a lease is adopted when this is awaited"]
pub struct AdoptLease {
    pool: Arc<LeasePool>,
    id: LeaseId,
    manner: Manner,
}

impl AdoptLease {
    pub(crate) fn new(pool: Arc<LeasePool>, id: LeaseId) -> Self {
        Self { pool, id, manner: Manner::Renew }
    }

    /// Lets the other component keep the lease alive. The guard only asks the server how long the
    /// lease has left, three times within that time, and reports the end of the lease.
    ///
    /// The server answers in whole seconds, and the guard subtracts a margin. So the other
    /// component must renew the lease while at least 3 s are left; otherwise the guard reports a
    /// loss too early.
    pub fn kept_by_other(mut self) -> Self {
        self.manner = Manner::Observe;
        self
    }

    async fn run(self) -> Result<Lease> {
        let Self { pool, id, manner } = self;
        if !runtime::is_here() {
            return Err(Error::without_runtime());
        }
        let store = pool.store();
        if !store.capabilities().transactions {
            let message =
                format!("{} has no leases that programs can share; give each key a time to live, or publish it", store.capabilities().name);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let sent = Moment::now();
        let ttl = match manner {
            Manner::Own | Manner::Renew => store.keep_alive(id).await?,
            Manner::Observe => remaining(&**store, id).await?,
        };
        let ttl = ttl.min(FAR);
        let (orders, mut received) = mpsc::unbounded_channel();
        let prepared = pool.runtimes().prepare();
        let validity = Validity::begin(id, sent, ttl, prepared.task());
        let (store, over) = (pool.roaming().clone(), validity.clone().ends_with_this());
        let (retry, from) = (pool.retry().clone(), Arc::downgrade(&pool));
        let keeper = LeaseKeeper { store: store.clone(), retry, pool: from, id, ttl, validity: validity.clone(), manner, _over: over };
        prepared.start(async move { keeper.run(sent, &mut received).await });
        let lease = Lease { id, ttl, asked: ttl, store, validity, orders, runtimes: None, adopted: true };
        Ok(lease.by_itself(&pool))
    }
}

/// Returns how long a lease has left.
///
/// # Errors
///
/// `LeaseLost` if the server does not know the lease.
pub(super) async fn remaining(store: &dyn Store, id: LeaseId) -> Result<Duration> {
    let left = store.time_to_live(id).await?;
    left.ok_or_else(|| Error::new(ErrorKind::LeaseLost, format!("the server does not know the lease {id}")))
}

impl IntoFuture for AdoptLease {
    type Output = Result<Lease>;
    type IntoFuture = BoxFuture<'static, Result<Lease>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for AdoptLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdoptLease").field("id", &self.id).field("manner", &self.manner).finish_non_exhaustive()
    }
}
