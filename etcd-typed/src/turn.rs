//! Take a place below a directory, wait until it is the first, give it up: the queue that locks and elections are made of, on every store.
//!
//! A contender has a key of its own in the directory, attached to a lease of its own; first is whose key came to be first. The layout is that of the
//! Go package `concurrency`, so its users and `etcdctl lock` and `etcdctl elect` stand in the same queue. The decisions are in [`place`], which is pure;
//! [`waiter`] carries them out. What is held then is a [`Guard`], and what hands it to another process a [`Token`].

mod guard;
mod hold;
mod place;
mod token;
mod waiter;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

pub(crate) use self::guard::Claim;
pub use self::guard::Guard;
pub use self::token::{Token, TokenError};
use self::waiter::{End, Patience, Waiter};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyError};
use crate::lease::{Lease, Lessor, TTL};
use crate::retry::RetryPolicy;
use crate::revision::{LeaseId, Revision};
use crate::schema::{self, Stored, Tree};
use crate::store::{Capabilities, Compare, Condition, KeyValue, Op, Range, Span, Store, Txn};
use crate::telemetry;

/// Something that one at a time may have: the queue of one directory.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) lessor: Arc<Lessor>,
    pub(crate) directory: Key,
    /// The time to live of the leases that are asked for.
    pub(crate) ttl: Duration,
    /// What it is, in metrics and messages.
    pub(crate) kind: &'static str,
}

impl Turn {
    /// The queue of this name below a namespace.
    pub(crate) fn named(lessor: Arc<Lessor>, namespace: &Key, name: &str, kind: &'static str) -> Result<Self, KeyError> {
        let name = Key::parse(name)?;
        if name.is_root() {
            return Err(KeyError::new(name.as_str(), "a lock or an election needs a name"));
        }
        Ok(Self { lessor, directory: namespace.join(&name), ttl: TTL, kind })
    }

    /// Waits until it is ours, through outages, but for one that is there from the start.
    ///
    /// Whoever loses the place while waiting begins anew at the end of the queue. Dropping the future gives the place up: the lease goes, and with it
    /// the key, whether it is there already or is about to be.
    pub(crate) async fn take(&self, value: Bytes) -> Result<Guard> {
        let begun = Instant::now();
        let mut backoff = self.lessor.retry().backoff();
        let mut lease = self.lessor.take(self.ttl).await;
        let mut waited = false;
        loop {
            match self.attempt(lease, &value, Patience::Wait).await {
                Ok(End::First(guard)) => {
                    telemetry::turn_taken(self.kind, begun.elapsed());
                    return Ok(*guard);
                }
                Ok(End::Busy | End::Gone) => waited = true,
                Err(error) if waited && error.is_retryable() => {}
                Err(error) => return Err(error),
            }
            sleep(backoff.next_delay()).await;
            // Not a spare one: if the server has forgotten one, it has forgotten all.
            lease = self.lessor.grant(self.ttl).await;
        }
    }

    /// Takes it if nobody has it and nobody waits for it; none if somebody does.
    pub(crate) async fn try_take(&self, value: Bytes) -> Result<Option<Guard>> {
        let begun = Instant::now();
        let mut backoff = self.lessor.retry().backoff();
        let mut lease = self.lessor.take(self.ttl).await;
        loop {
            match self.attempt(lease, &value, Patience::None).await? {
                End::First(guard) => {
                    telemetry::turn_taken(self.kind, begun.elapsed());
                    return Ok(Some(*guard));
                }
                End::Busy => return Ok(None),
                End::Gone => sleep(backoff.next_delay()).await,
            }
            lease = self.lessor.grant(self.ttl).await;
        }
    }

    /// [`take`](Self::take), but not for longer than this.
    ///
    /// # Errors
    ///
    /// `Timeout`.
    pub(crate) async fn take_within(&self, value: Bytes, time: Duration) -> Result<Guard> {
        let late = |_| Error::new(ErrorKind::Timeout, format!("the {} was not to be had within {time:?}", self.kind)).at(&self.directory);
        tokio::time::timeout(time, self.take(value)).await.map_err(late)?
    }

    async fn attempt(&self, lease: Result<Lease>, value: &Bytes, patience: Patience) -> Result<End> {
        let attempt = async { Waiter::new(self, lease?).run(value, patience).await };
        attempt.await.map_err(|error| error.at(&self.directory))
    }

    /// Who has it and who waits for it, in their order, as of one revision.
    pub(crate) async fn queue(&self) -> Result<Vec<Contender>> {
        let reply = self.store().range(Range::of(Span::Below(self.directory.clone()))).await.map_err(|error| error.at(&self.directory))?;
        let (tree, capabilities) = (schema::tree(&self.directory, reply.kvs), self.store().capabilities());
        let mut queue: Vec<_> =
            standing(&tree, capabilities).filter_map(|(name, stored)| Contender::of(&self.directory, name, stored)).collect();
        queue.sort_by_key(|contender| contender.fence);
        Ok(queue)
    }

    /// Deletes the key of a contender who stands as it was read. Whether it was there.
    pub(crate) async fn remove(&self, contender: &Contender) -> Result<bool> {
        let conditions = [Condition::Created(contender.fence), Condition::Value(contender.value.clone())];
        let compares = conditions.map(|condition| Compare::key(&contender.key, condition)).into();
        let txn = Txn { compares, then: vec![Op::delete(&contender.key)], otherwise: Vec::new() };
        Ok(self.store().commit(txn).await.map_err(|error| error.at(&contender.key))?.succeeded)
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        self.lessor.retry()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.lessor.store()
    }

    /// The store for what may be polled on another runtime later.
    pub(crate) fn roaming(&self) -> &Arc<dyn Store> {
        self.lessor.roaming()
    }
}

/// Somebody who has it or waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) key: Key,
    /// When the key came to be.
    pub(crate) fence: Revision,
    /// When it was last written.
    pub(crate) modified: Revision,
    /// Where the store does not tell leases, the one that the key has the name of.
    pub(crate) lease: LeaseId,
    pub(crate) value: Bytes,
}

impl Contender {
    /// The one who has it, from all that is below a queue's directory.
    pub(crate) fn first(directory: &Key, tree: &Tree, capabilities: &Capabilities) -> Option<Self> {
        let (name, stored) = standing(tree, capabilities).min_by_key(|(_, stored)| stored.created)?;
        Self::of(directory, name, stored)
    }

    /// Whether this is the same, with the same value.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.key, self.fence, self.lease, &self.value) == (&other.key, other.fence, other.lease, &other.value)
    }

    fn of(directory: &Key, name: &str, stored: &Stored) -> Option<Self> {
        let lease = stored.lease.or_else(|| LeaseId::new(u64::from_str_radix(name, 16).ok()?))?;
        let key = directory.descend(name);
        Some(Self { key, fence: stored.created, modified: stored.modified, lease, value: stored.value.clone() })
    }
}

/// Those of the keys below a queue's directory that stand in it.
fn standing<'t>(tree: &'t Tree, capabilities: &Capabilities) -> impl Iterator<Item = (&'t String, &'t Stored)> {
    tree.iter().filter(|(name, stored)| stands(name, stored.lease, stored.ttl, capabilities))
}

/// Whether a key stands in the queue of a directory.
pub(crate) fn is_contender(directory: &Key, kv: &KeyValue, capabilities: &Capabilities) -> bool {
    directory.below(&kv.key).is_some_and(|name| stands(name, kv.lease, kv.ttl, capabilities))
}

/// Whether a key of this name below its directory stands in a queue: it is right below it, has the name of a lease, and goes by itself. Everything else
/// there is somebody else's business, is never waited for and never deleted.
fn stands(name: &str, lease: Option<LeaseId>, ttl: Option<Duration>, capabilities: &Capabilities) -> bool {
    let lease_id = u64::from_str_radix(name, 16).ok().and_then(LeaseId::new);
    let named = lease_id.is_some_and(|id| id.to_string() == name);
    // v2 tells no leases; it tells what time a key has left.
    named && if capabilities.transactions { lease.is_some() } else { ttl.is_some() }
}
