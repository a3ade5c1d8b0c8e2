//! Publishing one key: what [`Entry::publish`] returns.

use std::any::type_name;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

use super::Entry;
use crate::error::Result;
use crate::key::Key;
use crate::lease::TTL;
use crate::published::{Publication, PublishedStatus, Target};
use crate::revision::Revision;
use crate::store::BoxFuture;

impl<T: Send + Sync + 'static> Entry<T> {
    /// Puts the value there as long as what it returns lives, and no longer: an address in a registry of services, a load, a sign of life.
    ///
    /// It is attached to a lease, and is there when this is answered. Up to a hundred values that a
    /// client publishes with the same time to live share a lease (except on v2); each comes and
    /// goes by itself. A task keeps the lease alive; if the value is lost all the same (an outage
    /// longer than the time to live, a revoked lease, a deleted key, an emptied server) it is put
    /// back with a new lease, as soon as that can be done and as often as it is needed: see
    /// [`Published`].
    ///
    /// It is put whatever is there, since a service that is started again must not wait for the lease of its former self. It is only ever put *back* where
    /// nothing is: of two who publish at one key the later one is there, and the other waits until it goes away.
    ///
    /// A field's value is checked and stored as [`set`](Self::set) does it, a `secret` stays one, and aliases are left alone: like every write it goes to the field's own
    /// key, and when that is gone the field is read from an alias again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// use std::time::Duration;
    /// use etcd_typed::Client;
    ///
    /// let client = Client::connect("memory:").await?;
    /// let services = client.entries::<String, String>("/services/checkout")?;
    /// let mut live = services.live().await?; // who looks for services
    ///
    /// let a = services.entry("a")?.publish(&"10.0.0.7:8080".to_owned()).ttl(Duration::from_secs(5)).await?;
    /// assert_eq!(live.changed().await?.len(), 1);
    ///
    /// a.set(&"10.0.0.7:8081".to_owned()).await?;
    /// assert_eq!(live.changed().await?.get("a").map(String::as_str), Some("10.0.0.7:8081"));
    ///
    /// services.entry("a")?.delete().await?; // somebody deletes it: it comes back
    /// while !live.changed().await?.contains_key("a") {}
    ///
    /// a.withdraw().await?; // or drop it
    /// assert!(live.changed().await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Of awaiting it: as [`set`](Self::set), and `Unsupported` outside of a tokio runtime. Then
    /// nothing is published, or nothing that stays: where the outcome is unknown, the other values
    /// of the lease are attached to another one, and it is revoked in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point leaves nothing: the lease is revoked in the background as
    /// soon as no other value is attached to it, and the key goes with it. (On v2, which has no
    /// leases, a write that a server applies later than that stays for the time to live.)
    pub fn publish(&self, value: &T) -> Publish<T> {
        Publish { entry: self.clone(), value: self.encode(value), ttl: TTL }
    }
}

/// A value that is published when this is awaited; from [`Entry::publish`].
#[must_use = "nothing is published until it is awaited"]
pub struct Publish<T> {
    entry: Entry<T>,
    value: Result<Bytes>,
    ttl: Duration,
}

impl<T> Publish<T> {
    /// How long the value outlives a publisher who vanished. Default: 15 s. At least the server's shortest lease (2 s with default flags); fractions
    /// of a second are rounded up. It is kept alive three times within that time.
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
        let work = async move {
            let (lessor, key) = (entry.context.lessor.clone(), entry.key.clone());
            let target = Target { lessor, key, ttl, pattern: type_name::<T>() };
            let publication = entry.context.retry.one_call(target.publish(value?)).await?;
            Ok(Published { entry, publication })
        };
        Box::pin(Entry::<T>::operation("publish").run(work))
    }
}

impl<T> fmt::Debug for Publish<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publish").field("entry", &self.entry).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// A value that is there as long as this lives; from [`Entry::publish`].
///
/// # When it is lost
///
/// It is put back with the backoff of the [`RetryPolicy`](crate::RetryPolicy), for as long as this lives; nothing ends that. Until then
/// [`status`](Self::status) says since when it is missing, why, and what the latest attempt met; so do the metrics and events of
/// [`telemetry`](crate::telemetry). While the server still has it under a lease that this side has given up, it is put over it, and nobody sees a
/// gap (on v2, which tells no leases, it vanishes and comes back).
///
/// What it costs while nothing happens: one watch, and the keep-alives of a lease, three within the
/// time to live, which up to a hundred values of the same time to live share. An operator who
/// revokes that lease takes all of them away for a moment.
///
/// # When it is dropped
///
/// It is deleted in the background if it is still this one's; if that cannot be done (no runtime is left, the server does not answer) it vanishes when
/// the time to live has passed. [`withdraw`](Self::withdraw) waits for the answer and tells it.
#[must_use = "what is published is withdrawn when its guard is dropped"]
pub struct Published<T> {
    entry: Entry<T>,
    publication: Publication,
}

impl<T: Send + Sync + 'static> Published<T> {
    /// The key, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.entry.key
    }

    /// Whether it is there, by the clock and by what is known; no request is sent.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.status().is_published()
    }

    /// Whether it is there, and if not why; no request is sent.
    #[must_use]
    pub fn status(&self) -> PublishedStatus {
        self.publication.status()
    }

    /// Publishes another value from now on, with the same lease. The answer is a revision as of which it is there. One that has the same stored form as
    /// what is there is not written again.
    ///
    /// # Errors
    ///
    /// As [`Entry::set`]; and `Conflict` while somebody else's value is there. Where it says what is wrong with the value (`Invalid`, `Encode`, `TooLarge`,
    /// `Unsupported`) the one before stays. After every other error the new one is put there all the same, as soon as it can be.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing about that.
    pub async fn set(&self, value: &T) -> Result<Revision> {
        let value = self.entry.encode(value);
        Entry::<T>::operation("set").run(async { self.publication.set(value?).await }).await
    }

    /// Deletes the value if it is still this one's, and waits for the answer.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, …: it vanishes when the time to live has passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping it withdraws the value in the background.
    pub async fn withdraw(self) -> Result<()> {
        Entry::<T>::operation("withdraw").run(self.publication.withdraw()).await
    }
}

impl<T> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.publication.status();
        f.debug_struct("Published").field("entry", &self.entry).field("status", &status).finish_non_exhaustive()
    }
}
