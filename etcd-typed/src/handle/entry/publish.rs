//! [`Entry::publish`] and its builder. `publish.rs` keeps the value published.

use std::any::type_name;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

use super::{AsValue, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::lease::{BorrowedLease, Lease, TTL};
use crate::publish::{Published, Target};
use crate::store::BoxFuture;

impl<T: Send + Sync + 'static> Entry<T> {
    /// Publishes the value for as long as the returned guard exists: an address in a service
    /// registry, a load figure, a heartbeat.
    ///
    /// The key is attached to a lease, and exists when this returns. Up to a hundred values that a
    /// client publishes with the same time to live share one lease (except on v2); each can be
    /// published and withdrawn separately. A task keeps the lease alive. [`Publish::lease`] attaches
    /// the value to a lease that the caller keeps. If the value is lost (an
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
    /// On a lease of the caller, the key alone is deleted in the background.
    pub fn publish(&self, value: impl AsValue<T>) -> Publish<T> {
        Publish { entry: self.clone(), value: value.lend(|value| self.encode(value)), ttl: TTL, lease: None }
    }
}

/// A value that is published when this is awaited; created by [`Entry::publish`].
#[must_use = "nothing is published until it is awaited"]
pub struct Publish<T> {
    entry: Entry<T>,
    value: Result<Bytes>,
    ttl: Duration,
    lease: Option<BorrowedLease>,
}

impl<T> Publish<T> {
    /// Sets how long the value remains after its publisher has failed. Default: 15 s. The server
    /// raises it to its minimum (2 s with default flags). Fractions of a second are rounded up. The
    /// lease is renewed three times within that time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Attaches the value to this lease, which the caller keeps and may use for other values, locks
    /// and candidacies. The time to live is that of the lease; [`ttl`](Self::ttl) has no effect.
    ///
    /// The value is lost for good when the lease ends: [`Published::status`] then tells why, and
    /// `set` returns `LeaseLost`. A value whose key alone is deleted is put back with the same lease.
    /// The end of the guard deletes the value and keeps the lease.
    ///
    /// If the program publishes twice at one key with one lease, the later value is stored until its
    /// guard ends; then the earlier one is put back. Two programs that share an adopted lease must
    /// not publish at one key: each would replace the value of the other.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// use std::time::Duration;
    ///
    /// let lease = client.lease(Duration::from_secs(10)).await?;
    /// let (address, load) = (client.entry::<String>("/nodes/a/address")?, client.entry::<f64>("/nodes/a/load")?);
    /// let address = address.publish("10.0.0.7:80").lease(&lease).await?;
    /// let load = load.publish(&0.0).lease(&lease).await?;
    /// let lock = client.lock("/locks/migrate").lease(&lease).acquire().await?;
    /// assert_eq!(lock.lease_id(), lease.id());
    ///
    /// lock.release().await?; // the lease and the two values stay
    /// assert!(lease.is_held() && address.is_published() && load.is_published());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `LeaseLost` if the lease has ended. `Unsupported` on v2, which has no leases that guards can
    /// share; use [`ttl`](Self::ttl) there.
    pub fn lease(mut self, lease: &Lease) -> Self {
        self.lease = Some(BorrowedLease::of(lease));
        self
    }
}

impl<T: Send + Sync + 'static> IntoFuture for Publish<T> {
    type Output = Result<Published<T>>;
    type IntoFuture = BoxFuture<'static, Result<Published<T>>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { entry, value, ttl, lease } = self;
        let operation = entry.operation("publish");
        let work = async move {
            if entry.context.is_in_variant() {
                let message =
                    "a field of one variant of an enum cannot be published, since the variant may change; publish a key of its own";
                return Err(Error::new(ErrorKind::Unsupported, message).at(&entry.key));
            }
            let (lease_pool, key) = (entry.context.lease_pool.clone(), entry.key.clone());
            let target = Target { lease_pool, key, ttl, lease, pattern: entry.context.pattern(type_name::<T>()) };
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
