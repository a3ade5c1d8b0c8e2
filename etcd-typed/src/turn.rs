//! Take a place below a directory, wait until it is the first, give it up: the queue that locks and elections are made of, on every store.
//!
//! A contender has a key of its own in the directory, attached to a lease of its own; first is whose key came to be first. The layout is that of the
//! Go package `concurrency`, so its users and `etcdctl lock` and `etcdctl elect` stand in the same queue. The decisions are in [`place`], which is pure;
//! [`waiter`] carries them out. What is held then is a [`Guard`], and what hands it to another process a [`Token`].

mod guard;
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
use crate::key::Key;
use crate::lease::Lessor;
use crate::store::{Capabilities, KeyValue, Range, Span, Store};
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
    pub(crate) async fn queue(&self) -> Result<Vec<KeyValue>> {
        let reply = self.store().range(Range::of(Span::Below(self.directory.clone()))).await.map_err(|error| error.at(&self.directory))?;
        Ok(self.contenders(reply.kvs))
    }

    /// Those of the directory's keys that stand in the queue, in their order.
    pub(crate) fn contenders(&self, kvs: Vec<KeyValue>) -> Vec<KeyValue> {
        let capabilities = self.store().capabilities();
        let mut queue: Vec<KeyValue> = kvs.into_iter().filter(|kv| is_contender(&self.directory, kv, capabilities)).collect();
        queue.sort_by_key(|kv| kv.created);
        queue
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.lessor.store()
    }
}

/// Whether a key stands in the queue of a directory: it is right below it, has the name of a lease, and goes by itself. Everything else there is
/// somebody else's business, is never waited for and never deleted.
pub(crate) fn is_contender(directory: &Key, kv: &KeyValue, capabilities: &Capabilities) -> bool {
    let named = directory
        .below(&kv.key)
        .is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    // v2 tells no leases; it tells what time a key has left.
    named && if capabilities.transactions { kv.lease.is_some() } else { kv.ttl.is_some() }
}
