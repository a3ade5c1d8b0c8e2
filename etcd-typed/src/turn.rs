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
use crate::lease::Lessor;
use crate::revision::{LeaseId, Revision};
use crate::store::{Capabilities, KeyValue, Range, Span, Store};
use crate::telemetry;

/// The time to live of a lease where none is asked for.
const TTL: Duration = Duration::from_secs(15);

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

    /// Waits until it is ours.
    ///
    /// Whoever loses the place while waiting begins anew at the end of the queue. Dropping the future gives the place up: the lease goes, and with it
    /// the key, whether it is there already or is about to be.
    pub(crate) async fn take(&self, value: Bytes) -> Result<Guard> {
        let begun = Instant::now();
        let mut backoff = self.lessor.retry().backoff();
        loop {
            if let End::First(guard) = self.attempt(&value, Patience::Wait).await? {
                telemetry::turn_taken(self.kind, begun.elapsed());
                return Ok(guard);
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// Takes it if nobody has it and nobody waits for it; none if somebody does.
    pub(crate) async fn try_take(&self, value: Bytes) -> Result<Option<Guard>> {
        let begun = Instant::now();
        let mut backoff = self.lessor.retry().backoff();
        loop {
            match self.attempt(&value, Patience::None).await? {
                End::First(guard) => {
                    telemetry::turn_taken(self.kind, begun.elapsed());
                    return Ok(Some(guard));
                }
                End::Busy => return Ok(None),
                End::Gone => sleep(backoff.next_delay()).await,
            }
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

    async fn attempt(&self, value: &Bytes, patience: Patience) -> Result<End> {
        let lease = self.lessor.take(self.ttl).await.map_err(|error| error.at(&self.directory))?;
        Waiter::new(self, lease).run(value, patience).await.map_err(|error| error.at(&self.directory))
    }

    /// Who has it and who waits for it, in their order, as of one revision.
    pub(crate) async fn queue(&self) -> Result<Vec<Contender>> {
        let reply = self.store().range(Range::of(Span::Below(self.directory.clone()))).await.map_err(|error| error.at(&self.directory))?;
        let capabilities = self.store().capabilities();
        let mut queue: Vec<_> = reply.kvs.into_iter().filter_map(|kv| Contender::of(&self.directory, kv, capabilities)).collect();
        queue.sort_by_key(|contender| contender.fence);
        Ok(queue)
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.lessor.store()
    }
}

/// Somebody who has it or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) key: Key,
    /// When the key came to be.
    pub(crate) fence: Revision,
    /// Where the store does not tell leases, the one that the key has the name of.
    pub(crate) lease: LeaseId,
    pub(crate) value: Bytes,
}

impl Contender {
    fn of(directory: &Key, kv: KeyValue, capabilities: &Capabilities) -> Option<Self> {
        let named = name(directory, &kv, capabilities)?;
        let lease = kv.lease.or_else(|| LeaseId::new(u64::from_str_radix(named, 16).ok()?))?;
        Some(Self { key: directory.descend(named), fence: kv.created, lease, value: kv.value })
    }
}

/// Whether a key stands in the queue of a directory.
pub(crate) fn is_contender(directory: &Key, kv: &KeyValue, capabilities: &Capabilities) -> bool {
    name(directory, kv, capabilities).is_some()
}

/// The name of a key that stands in the queue of a directory: it is right below it, has the name of a lease, and goes by itself. Everything else there is
/// somebody else's business, is never waited for and never deleted.
fn name<'k>(directory: &Key, kv: &'k KeyValue, capabilities: &Capabilities) -> Option<&'k str> {
    // v2 tells no leases; it tells what time a key has left.
    let expires = if capabilities.transactions { kv.lease.is_some() } else { kv.ttl.is_some() };
    let hexadecimal = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    directory.below(&kv.key).filter(|name| expires && hexadecimal(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tasks wait for their turn. That they can is seen by the compiler; what waits has a stream in it, which may move between threads and not be shared.
    #[test]
    fn whoever_waits_may_be_a_task() {
        fn sendable<T: Send>(_: T) {}
        let _ = |turn: &'static Turn| {
            sendable(turn.take(Bytes::new()));
            sendable(turn.try_take(Bytes::new()));
            sendable(turn.take_within(Bytes::new(), Duration::ZERO));
        };
    }
}
