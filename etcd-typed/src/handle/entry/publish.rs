//! [`Entry::publish`] and its builder. The task in `publish.rs` keeps the value published.

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
    /// Publishes the value while the returned guard exists. Examples are an address in a service
    /// registry, a load figure, and a heartbeat.
    ///
    /// The key is attached to a lease, and exists when the future returns. Up to a hundred values
    /// that a client publishes with the same time to live share one lease (except on v2); each can
    /// be published and withdrawn separately. A task keeps the lease alive. [`Publish::lease`]
    /// attaches the value to a lease of the caller instead.
    ///
    /// If the value is lost (by an outage longer than the time to live, a revoked lease, a deleted
    /// key, or an emptied server), the task publishes it again with a new lease as soon as
    /// possible, and as often as needed; see [`Published`].
    ///
    /// The first write overwrites any existing value, since a restarted service must not wait until
    /// the lease of its previous run expires. A lost value is written *again* only if the key does
    /// not exist. If two clients publish at one key, the later value is stored, and the earlier
    /// publisher waits until that value disappears.
    ///
    /// A field's value is validated and encoded as by [`set`](Self::set), and a `secret` stays
    /// hidden. Like every write, `publish` writes the field's own key and leaves its aliases. When
    /// the field's own key disappears, the field is read from an alias again.
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
    /// The errors of [`set`](Self::set). `Unsupported` outside of a tokio runtime, and for a field
    /// of one variant of an enum.
    ///
    /// After an error nothing stays published. If the outcome of the write is unknown, the client
    /// moves the other values of the lease to another lease, and then revokes the lease in the
    /// background.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point leaves nothing behind: the client revokes the lease in the
    /// background as soon as no other value is attached to it, and the server deletes the key with
    /// the lease. If the caller gave a lease, only the key is deleted. v2 has no leases: if a v2
    /// server applies the write after the drop, the key stays for the time to live.
    pub fn publish(&self, value: impl AsValue<T>) -> Publish<T> {
        Publish { entry: self.clone(), value: value.lend(|value| self.encode(value)), ttl: TTL, lease: None }
    }
}

/// A publication of a value; created by [`Entry::publish`]. The value is published when the
/// `Publish` is awaited.
#[must_use = "nothing is published until it is awaited"]
pub struct Publish<T> {
    entry: Entry<T>,
    value: Result<Bytes>,
    ttl: Duration,
    lease: Option<BorrowedLease>,
}

impl<T> Publish<T> {
    /// Sets the time to live: how long the value remains after its publisher has failed. The
    /// default is 15 s. The server raises a shorter time to its minimum (2 s with default flags).
    /// Fractions of a second are rounded up. The task renews the lease three times within the time
    /// to live.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Attaches the value to this lease, which the caller keeps and may use for other values, locks
    /// and candidacies. The value has the time to live of the lease; [`ttl`](Self::ttl) has no
    /// effect.
    ///
    /// When the lease ends, the value is not published again: [`Published::status`] returns the
    /// reason, and `set` returns `LeaseLost`. If only the key is deleted, the value is published
    /// again with the same lease. When the guard is dropped or withdrawn, the value is deleted and
    /// the lease stays.
    ///
    /// If a program publishes twice at one key with one lease, the later value is stored until its
    /// guard ends; then the earlier value is published again. Two programs that share an adopted
    /// lease must not publish at one key: each would replace the value of the other.
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
