//! The queue of locks and elections, on every store: join the queue of a directory, wait to be the
//! first, leave.
//!
//! Each contender has its own key below the queue's prefix, attached to a lease. The contender
//! whose key was created first is the holder. Prefix and order are those of the Go package
//! `concurrency`: the prefix is the queue's name and a `/`, byte for byte, and every key below it
//! that has a lease is in the queue, whatever the rest of its name is. So the queue is shared with
//! Go's locks and elections, `etcdctl lock`, `etcdctl elect`, the server's own lock and election
//! services (which name a key by its lease in hexadecimal) and the elections of Node's `etcd3` (in
//! decimal). [`place`] makes the decisions and is pure; [`waiter`] carries them out. The holder has
//! a [`Guard`]; a [`Token`] hands it to another process. [`hand_over`] saves requests between
//! contenders of the same client.

mod claim;
mod contender;
mod guard;
mod hand_over;
mod hold;
mod key_watch;
mod member;
mod place;
mod release;
mod take_over;
mod token;
mod waiter;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

pub(crate) use self::claim::Claim;
pub(crate) use self::contender::Contender;
use self::contender::is_contender;
pub use self::guard::Guard;
pub(crate) use self::hand_over::HandOver;
use self::member::Member;
pub use self::token::{Token, TokenError};
use self::waiter::{End, Patience, Waiter};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, KeyError};
use crate::lease::{BorrowedLease, LeasePool, TTL};
use crate::retry::{RetryPolicy, until};
use crate::runtime;
use crate::store::{Compare, Condition, KeyValue, Op, Range, Span, Store, Txn};
use crate::telemetry;

/// The advice for a name that is refused on v2.
const PATHS_ONLY: &str =
    "on etcd v2 a lock or an election is a directory: name it by a path such as `/locks/migrate`, or use etcd v3, where any text is a name";

/// The queue of one directory, which has one holder at a time.
#[derive(Clone, Debug)]
pub(crate) struct ContenderQueue {
    pub(crate) lease_pool: Arc<LeasePool>,
    pub(crate) hand_over: Arc<HandOver>,
    /// The queue's name, with the client's namespace. The prefix of the queue is this and a `/`.
    pub(crate) directory: Key,
    /// The time to live that new leases ask for.
    pub(crate) ttl: Duration,
    /// The lease that the caller keeps for the keys. If it is `None`, each key gets its own lease.
    pub(crate) lease: Option<BorrowedLease>,
    /// `lock` or `election`, for metrics and messages.
    pub(crate) kind: &'static str,
}

impl ContenderQueue {
    /// Returns the queue with this name below a namespace. The two are joined as text, byte for
    /// byte, as in Go's `clientv3/namespace` and `concurrency`. On a store with real directories
    /// (v2) the queue is a directory, so the name must be a path.
    pub(crate) fn named(
        lease_pool: Arc<LeasePool>,
        hand_over: Arc<HandOver>,
        namespace: &Key,
        name: &str,
        kind: &'static str,
    ) -> Result<Self, KeyError> {
        const NAMELESS: &str = "a lock or an election needs a name";
        if name.is_empty() {
            return Err(KeyError::new(name, NAMELESS));
        }
        let directory = if lease_pool.store().capabilities().directories {
            let path = Key::parse(name).and_then(|path| if path.is_root() { Err(KeyError::new(name, NAMELESS)) } else { Ok(path) });
            namespace.join(&path.map_err(|error| error.advise(PATHS_ONLY))?)
        } else {
            namespace.then(name)
        };
        Ok(Self { lease_pool, hand_over, directory, ttl: TTL, lease: None, kind })
    }

    /// Waits to become the holder, through outages. An error in the first attempt is returned.
    ///
    /// A waiter that loses its place starts again at the end of the queue. Dropping the future
    /// leaves the queue: the lease is revoked, which deletes the key, even a key whose request is
    /// still on its way.
    pub(crate) async fn acquire(&self, value: Bytes) -> Result<Guard> {
        let begun = Instant::now();
        let mut backoff = self.lease_pool.retry().backoff();
        // One call's time limit covers both getting the lease and joining the queue.
        let mut deadline = self.retry().deadline();
        let mut member = until(deadline, self.member(true)).await;
        let mut waited = false;
        loop {
            match self.attempt(member, &value, Patience::Wait, deadline).await {
                Ok(End::First(guard)) => {
                    telemetry::queue_front_reached(self.kind, begun.elapsed());
                    return Ok(*guard);
                }
                Ok(End::Busy | End::Gone) => waited = true,
                Err(error) if waited && error.is_outage() => {}
                Err(error) => return Err(error),
            }
            sleep(backoff.next_delay()).await;
            deadline = self.retry().deadline();
            // The next attempt takes a new lease and no spare one: if the server has forgotten one
            // lease, it has forgotten all.
            member = until(deadline, self.member(false)).await;
        }
    }

    /// Becomes the holder if the queue is empty; otherwise returns `None`.
    pub(crate) async fn try_acquire(&self, value: Bytes) -> Result<Option<Guard>> {
        self.retry().one_call(self.try_to_acquire(value)).await
    }

    async fn try_to_acquire(&self, value: Bytes) -> Result<Option<Guard>> {
        let (begun, deadline) = (Instant::now(), self.retry().deadline());
        let mut backoff = self.lease_pool.retry().backoff();
        let mut member = self.member(true).await;
        loop {
            match self.attempt(member, &value, Patience::None, deadline).await? {
                End::First(guard) => {
                    telemetry::queue_front_reached(self.kind, begun.elapsed());
                    return Ok(Some(*guard));
                }
                End::Busy => return Ok(None),
                End::Gone => sleep(backoff.next_delay()).await,
            }
            member = self.member(false).await;
        }
    }

    /// Does what [`acquire`](Self::acquire) does, with a time limit.
    ///
    /// # Errors
    ///
    /// The errors of `acquire`, and `Timeout` if the caller did not become the holder in time.
    pub(crate) async fn acquire_within(&self, value: Bytes, time: Duration) -> Result<Guard> {
        if !runtime::is_here() {
            return Err(Error::without_runtime().at(&self.directory));
        }
        let late =
            |_| Error::new(ErrorKind::Timeout, format!("waiting for the {} timed out after {time:?}", self.kind)).at(&self.directory);
        tokio::time::timeout(time, self.acquire(value)).await.map_err(late)?
    }

    /// Returns a contender that has no key yet. It uses the caller's lease if there is one, and
    /// otherwise its own lease. `spare` allows a spare lease of the pool.
    async fn member(&self, spare: bool) -> Result<Member> {
        if let Some(lease) = &self.lease {
            lease.check(&**self.store())?;
            return Ok(Member::borrowing(&self.lease_pool, lease));
        }
        let own = if spare { self.lease_pool.take(self.ttl).await } else { self.lease_pool.grant(self.ttl).await };
        own.map(|lease| Member::new(lease, true))
    }

    /// Makes one attempt to become the holder. The key must be created before `deadline`.
    async fn attempt(&self, member: Result<Member>, value: &Bytes, patience: Patience, deadline: Instant) -> Result<End> {
        let attempt = async { Waiter::new(self, member?, deadline).run(value, patience).await };
        attempt.await.map_err(|error| error.at(&self.directory))
    }

    /// Returns the holder and the waiters in the order of the queue, as of one revision, without
    /// contenders whose time to live has passed.
    pub(crate) async fn contenders(&self) -> Result<Vec<Contender>> {
        let (queue, over) = self.all().await?;
        Ok(queue.into_iter().filter(|contender| !over.contains(&contender.key)).collect())
    }

    /// Returns the holder, or `None` if there is none. While the server still has the first key
    /// after its time to live has passed, the next contender does not hold the queue yet, so this
    /// returns `None` too.
    pub(crate) async fn first(&self) -> Result<Option<Contender>> {
        let (queue, over) = self.all().await?;
        Ok(queue.into_iter().next().filter(|first| !over.contains(&first.key)))
    }

    /// Returns all contenders in order, and the keys of those whose time to live has passed.
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

    /// Returns the keys below the queue's prefix that are not in the queue, in byte order.
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

    /// Reports, once for each queue and client, that there are keys below the prefix that are not
    /// in the queue.
    pub(crate) fn report_strays(&self, kvs: &[KeyValue]) {
        let capabilities = self.store().capabilities();
        let found = kvs.iter().any(|kv| !is_contender(&self.directory, kv, capabilities));
        if found && self.hand_over.is_first_report(&self.directory) {
            telemetry::strays_found(self.kind, &self.directory);
        }
    }

    /// Deletes a contender's key unless the key changed since it was read. Returns whether the key
    /// was deleted.
    pub(crate) async fn remove(&self, contender: &Contender) -> Result<bool> {
        let conditions = [Condition::Created(contender.fence), Condition::Value(contender.value.clone())];
        let compares = conditions.map(|condition| Compare::key(&contender.key, condition)).into();
        let txn = Txn { compares, then: vec![Op::delete(&contender.key)], otherwise: Vec::new() };
        Ok(self.store().commit(txn).await.map_err(|error| error.at(&contender.key))?.succeeded)
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        self.lease_pool.retry()
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.lease_pool.store()
    }

    /// The store for futures that may later be polled on another runtime.
    pub(crate) fn roaming(&self) -> &Arc<dyn Store> {
        self.lease_pool.roaming()
    }
}
