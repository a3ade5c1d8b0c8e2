//! Take a place below a directory, wait until it is the first, give it up: the queue that locks and elections are made of, on every store.
//!
//! A contender has a key of its own below the queue's prefix, attached to a lease; the contender whose key was created first holds the queue. Prefix and
//! order are those of the Go package `concurrency`: the prefix is the queue's name and a `/`, byte for byte, and every key below it that has a lease is in
//! the queue, whatever the rest of its name is. So Go's locks and elections, `etcdctl lock`, `etcdctl elect`, the server's own lock and election services
//! (which name a key by its lease in hexadecimal) and the elections of Node's `etcd3` (in decimal) share the queue. The decisions are in [`place`], which
//! is pure; [`waiter`] carries them out. What is held then is a [`Guard`], and what hands it to another process a [`Token`].

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
use crate::retry::{RetryPolicy, until};
use crate::revision::{LeaseId, Revision};
use crate::runtime;
use crate::store::{Capabilities, Compare, Condition, KeyValue, Op, Range, Span, Store, Txn};
use crate::telemetry;

/// What to do about a name that is refused on v2.
const PATHS_ONLY: &str =
    "on etcd v2 a lock or an election is a directory: name it by a path such as `/locks/migrate`, or use etcd v3, where any text is a name";

/// Something that one at a time may have: the queue of one directory.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) lessor: Arc<Lessor>,
    /// The queue's name below the client's namespace. Every key that begins with this and a `/` is below it.
    pub(crate) directory: Key,
    /// The time to live of the leases that are asked for.
    pub(crate) ttl: Duration,
    /// What it is, in metrics and messages.
    pub(crate) kind: &'static str,
}

impl Turn {
    /// The queue of this name below a namespace: the two as one text, byte for byte, as Go's `clientv3/namespace` and `concurrency` have it. On a store
    /// whose directories are things of their own (v2) it is a directory, so the name must be a path.
    pub(crate) fn named(lessor: Arc<Lessor>, namespace: &Key, name: &str, kind: &'static str) -> Result<Self, KeyError> {
        const NAMELESS: &str = "a lock or an election needs a name";
        if name.is_empty() {
            return Err(KeyError::new(name, NAMELESS));
        }
        let directory = if lessor.store().capabilities().directories {
            let path = Key::parse(name).and_then(|path| if path.is_root() { Err(KeyError::new(name, NAMELESS)) } else { Ok(path) });
            namespace.join(&path.map_err(|error| error.advise(PATHS_ONLY))?)
        } else {
            namespace.then(name)
        };
        Ok(Self { lessor, directory, ttl: TTL, kind })
    }

    /// Waits until it is ours, through outages, but for one that is there from the start.
    ///
    /// Whoever loses the place while waiting begins anew at the end of the queue. Dropping the future gives the place up: the lease goes, and with it
    /// the key, whether it is there already or is about to be.
    pub(crate) async fn take(&self, value: Bytes) -> Result<Guard> {
        let begun = Instant::now();
        let mut backoff = self.lessor.retry().backoff();
        // To have a lease and to enter the queue is one call.
        let mut deadline = self.retry().deadline();
        let mut lease = until(deadline, self.lessor.take(self.ttl)).await;
        let mut waited = false;
        loop {
            match self.attempt(lease, &value, Patience::Wait, deadline).await {
                Ok(End::First(guard)) => {
                    telemetry::turn_taken(self.kind, begun.elapsed());
                    return Ok(*guard);
                }
                Ok(End::Busy | End::Gone) => waited = true,
                Err(error) if waited && error.is_outage() => {}
                Err(error) => return Err(error),
            }
            sleep(backoff.next_delay()).await;
            deadline = self.retry().deadline();
            // Not a spare one: if the server has forgotten one, it has forgotten all.
            lease = until(deadline, self.lessor.grant(self.ttl)).await;
        }
    }

    /// Takes it if nobody has it and nobody waits for it; none if somebody does.
    pub(crate) async fn try_take(&self, value: Bytes) -> Result<Option<Guard>> {
        self.retry().one_call(self.try_to_take(value)).await
    }

    async fn try_to_take(&self, value: Bytes) -> Result<Option<Guard>> {
        let (begun, deadline) = (Instant::now(), self.retry().deadline());
        let mut backoff = self.lessor.retry().backoff();
        let mut lease = self.lessor.take(self.ttl).await;
        loop {
            match self.attempt(lease, &value, Patience::None, deadline).await? {
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
        if !runtime::is_here() {
            return Err(Error::without_runtime().at(&self.directory));
        }
        let late = |_| Error::new(ErrorKind::Timeout, format!("the {} was not to be had within {time:?}", self.kind)).at(&self.directory);
        tokio::time::timeout(time, self.take(value)).await.map_err(late)?
    }

    /// `deadline`: until then the key is to be made.
    async fn attempt(&self, lease: Result<Lease>, value: &Bytes, patience: Patience, deadline: Instant) -> Result<End> {
        let attempt = async { Waiter::new(self, lease?, deadline).run(value, patience).await };
        attempt.await.map_err(|error| error.at(&self.directory))
    }

    /// Who has it and who waits for it, in their order, as of one revision. Without those whose
    /// time is over.
    pub(crate) async fn queue(&self) -> Result<Vec<Contender>> {
        let (queue, over) = self.all().await?;
        Ok(queue.into_iter().filter(|contender| !over.contains(&contender.key)).collect())
    }

    /// Who has it; none also while the time of the first is over and the server still has its key:
    /// whoever is next does not have it yet.
    pub(crate) async fn first(&self) -> Result<Option<Contender>> {
        let (queue, over) = self.all().await?;
        Ok(queue.into_iter().next().filter(|first| !over.contains(&first.key)))
    }

    /// All in the queue, in their order, and the keys of those whose time is over.
    async fn all(&self) -> Result<(Vec<Contender>, Vec<Key>)> {
        let capabilities = self.store().capabilities();
        let (mut queue, mut over) = (Vec::new(), Vec::new());
        for kv in self.read().await? {
            let is_over = kv.is_over();
            if let Some(contender) = Contender::of(&self.directory, kv, capabilities) {
                over.extend(is_over.then(|| contender.key.clone()));
                queue.push(contender);
            }
        }
        queue.sort_by(|one, other| one.order().cmp(&other.order()));
        Ok((queue, over))
    }

    /// The keys below the queue's prefix that are not in the queue, in the order of their bytes.
    pub(crate) async fn strays(&self) -> Result<Vec<Key>> {
        let capabilities = self.store().capabilities();
        let strays = self.read().await?.into_iter().filter(|kv| !is_contender(&self.directory, kv, capabilities));
        Ok(strays.map(|kv| Key::stored(&kv.key)).collect())
    }

    async fn read(&self) -> Result<Vec<KeyValue>> {
        let reply = self.store().range(Range::of(Span::Below(self.directory.clone()))).await.map_err(|error| error.at(&self.directory))?;
        self.report_strays(&reply.kvs);
        Ok(reply.kvs)
    }

    /// Says, once for each queue and client, that a queue has keys below its prefix that are not in it.
    pub(crate) fn report_strays(&self, kvs: &[KeyValue]) {
        let capabilities = self.store().capabilities();
        let found = kvs.iter().any(|kv| !is_contender(&self.directory, kv, capabilities));
        if found && self.lessor.standings().is_first_report(&self.directory) {
            telemetry::strays_found(self.kind, &self.directory);
        }
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
    /// What a key below a queue's prefix stands for; none for a key that is not in the queue.
    pub(crate) fn of(directory: &Key, kv: KeyValue, capabilities: &Capabilities) -> Option<Self> {
        let lease = lease_of(directory, &kv, capabilities)?;
        Some(Self { key: Key::stored(&kv.key), fence: kv.created, modified: kv.modified, lease, value: Bytes::copy_from_slice(&kv.value) })
    }

    /// By what contenders are ordered. Keys that one transaction created are as old as each other; the order of their bytes then decides, so that every
    /// client of this library sees one order, and one holder. (Go's `concurrency` takes all of them for the first.)
    pub(crate) fn order(&self) -> (Revision, &[u8]) {
        (self.fence, self.key.as_bytes())
    }

    /// Whether this is the same, with the same value.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.key, self.fence, self.lease, &self.value) == (&other.key, other.fence, other.lease, &other.value)
    }
}

/// Whether a key below a queue's prefix is in the queue.
pub(crate) fn is_contender(directory: &Key, kv: &KeyValue, capabilities: &Capabilities) -> bool {
    lease_of(directory, kv, capabilities).is_some()
}

/// The lease by which a key below a queue's prefix is in the queue: the key vanishes with it. A key that does not vanish by itself would be waited for for
/// ever, so it is not in the queue; it is not deleted either.
fn lease_of(directory: &Key, kv: &KeyValue, capabilities: &Capabilities) -> Option<LeaseId> {
    if capabilities.transactions {
        return kv.lease;
    }
    // v2 does not tell leases, only what time a key has left. The name of the lease is that of the key, which only this library writes so.
    let name = directory.below(&kv.key)?;
    let lease = u64::from_str_radix(name, 16).ok().and_then(LeaseId::new)?;
    (lease.to_string() == name && kv.ttl.is_some()).then_some(lease)
}
