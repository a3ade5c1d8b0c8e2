//! [`Entry::publish`] and its builder. `publish.rs` keeps the value published.

use std::any::type_name;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

use super::{AsValue, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::lease::TTL;
use crate::publish::{Published, Target};
use crate::store::BoxFuture;

impl<T: Send + Sync + 'static> Entry<T> {
    /// Publishes the value for as long as the returned guard exists: an address in a service
    /// registry, a load figure, a heartbeat.
    ///
    /// The key is attached to a lease, and exists when this returns. Up to a hundred values that a
    /// client publishes with the same time to live share one lease (except on v2); each can be
    /// published and withdrawn separately. A task keeps the lease alive. If the value is lost (an
    /// outage longer than the time to live, a revoked lease, a deleted key, an emptied server), the
    /// task publishes it again with a new lease as soon as possible, and as often as needed; see
    /// [`Published`].
    ///
    /// The first write overwrites any existing value, since a restarted service must not wait for
    /// the lease of its previous run. A lost value is written *again* only if the key does not
    /// exist. If two clients publish at one key, the later value is stored, and the earlier
    /// publisher waits until it disappears.
    ///
    /// A field's value is validated and encoded as by [`set`](Self::set), and a `secret` stays
    /// hidden. Like every write, this writes the field's own key and leaves its aliases. When that
    /// key disappears, the field is read from an alias again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// use std::time::Duration;
    /// use etcd_typed::Client;
    ///
    /// let client = Client::connect("memory:").await?;
    /// let services = client.entries::<String, String>("/services/checkout")?;
    /// let mut live = services.live().per_entry().await?; // a client that looks for services
    ///
    /// let a = services.entry("a")?.publish(&"10.0.0.7:8080".to_owned()).ttl(Duration::from_secs(5)).await?;
    /// assert_eq!(live.changed().await?.len(), 1);
    ///
    /// a.set(&"10.0.0.7:8081".to_owned()).await?;
    /// assert_eq!(live.changed().await?.get("a").map(String::as_str), Some("10.0.0.7:8081"));
    ///
    /// services.entry("a")?.delete().await?; // another client deletes it: it comes back
    /// while !live.changed().await?.contains_key("a") {}
    ///
    /// a.withdraw().await?; // or drop it
    /// assert!(live.changed().await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`set`](Self::set), and `Unsupported` outside of a tokio runtime, and for a field
    /// of one variant of an enum. After an
    /// error nothing stays published. If the outcome is unknown, the lease is revoked in the
    /// background, after the other values of the lease have moved to another one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point leaves nothing behind: the lease is revoked in the
    /// background as soon as no other value is attached to it, and the key is deleted with it. (v2
    /// has no leases. A write that a v2 server applies after the drop stays for the time to live.)
    pub fn publish(&self, value: impl AsValue<T>) -> Publish<T> {
        Publish { entry: self.clone(), value: value.lend(|value| self.encode(value)), ttl: TTL }
    }
}

/// A value that is published when this is awaited; created by [`Entry::publish`].
#[must_use = "nothing is published until it is awaited"]
pub struct Publish<T> {
    entry: Entry<T>,
    value: Result<Bytes>,
    ttl: Duration,
}

impl<T> Publish<T> {
    /// Sets how long the value remains after its publisher has failed. Default: 15 s. The server
    /// raises it to its minimum (2 s with default flags). Fractions of a second are rounded up. The
    /// lease is renewed three times within that time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }
}

impl<T: Send + Sync + 'static> IntoFuture for Publish<T> {
    type Output = Result<Published<T>>;
    type IntoFuture = BoxFuture<'static, Result<Published<T>>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { entry, value, ttl } = self;
        let operation = entry.operation("publish");
        let work = async move {
            if entry.context.is_in_variant() {
                let message =
                    "a field of one variant of an enum cannot be published, since the variant may change; publish a key of its own";
                return Err(Error::new(ErrorKind::Unsupported, message).at(&entry.key));
            }
            let (lease_pool, key) = (entry.context.lease_pool.clone(), entry.key.clone());
            let target = Target { lease_pool, key, ttl, pattern: entry.context.pattern(type_name::<T>()) };
            let publication = entry.context.retry.one_call(target.publish(value?)).await?;
            Ok(Published::new(publication, type_name::<T>(), move |value| entry.encode(value)))
        };
        Box::pin(operation.run(work))
    }
}

impl<T> fmt::Debug for Publish<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish").field("entry", &self.entry).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
