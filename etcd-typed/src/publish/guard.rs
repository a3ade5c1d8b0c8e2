//! `Published`: the guard of a published value, with its type.

use std::fmt;

use bytes::Bytes;

use super::{Publication, PublishedStatus};
use crate::error::Result;
use crate::key::Key;
use crate::revision::Revision;
use crate::telemetry::{Operation, Pattern};

/// The guard of a published value. The value stays in the store while this guard exists. Created by
/// [`Entry::publish`](crate::Entry::publish).
///
/// # When the value is lost
///
/// While this guard exists, the value is published again, with the backoff of the
/// [`RetryPolicy`](crate::RetryPolicy). While the value is missing, [`status`](Self::status)
/// returns since when the value is missing, why, and the error of the latest attempt to put it
/// back. The metrics and events in [`telemetry`](crate::telemetry) report the same. If the server
/// still has the value under a lease that this client has given up, the client overwrites the
/// value, and readers see no gap. (v2 does not report leases, so on v2 the value disappears and
/// comes back.)
///
/// If the caller chose the lease ([`Publish::lease`](crate::Publish::lease)), the value is put back
/// while that lease lives. When the lease ends, the value stays missing.
///
/// An idle guard costs one watch. Up to a hundred values with the same time to live share a lease,
/// which costs three keep-alives within the time to live. If an operator revokes that lease, all
/// these values disappear for a moment.
///
/// # When the guard is dropped
///
/// The value is deleted in the background if the key still holds this guard's value. If the
/// deletion fails (no runtime is left, or the server does not answer), the value disappears when
/// the time to live has passed. [`withdraw`](Self::withdraw) waits for the deletion and returns its
/// result.
#[must_use = "the value is withdrawn when this guard is dropped"]
pub struct Published<T> {
    publication: Publication,
    pattern: Pattern,
    /// Validates and encodes a value, as the handle of the key does.
    encode: Box<dyn Fn(&T) -> Result<Bytes> + Send + Sync>,
}

impl<T: Send + Sync + 'static> Published<T> {
    pub(crate) fn new(publication: Publication, pattern: Pattern, encode: impl Fn(&T) -> Result<Bytes> + Send + Sync + 'static) -> Self {
        Self { publication, pattern, encode: Box::new(encode) }
    }

    fn operation(&self, op: &'static str) -> Operation {
        Operation::new(op, self.pattern)
    }

    /// The key, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        self.publication.key()
    }

    /// True if the value is published, by the clock and by what this client knows. Sends no
    /// request.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.status().is_published()
    }

    /// Returns the status: whether the value is published, and the reason if it is not. Sends no
    /// request.
    #[must_use]
    pub fn status(&self) -> PublishedStatus {
        self.publication.status()
    }

    /// Publishes another value from now on, with the same lease. Returns a revision at which the
    /// value is stored. A value with the same stored form is not written again.
    ///
    /// # Errors
    ///
    /// The errors of [`Entry::set`](crate::Entry::set), and `Conflict` while the key holds the
    /// value of another client. `LeaseLost` if the value is on a lease of the caller that has
    /// ended; in this case the value does not come back. If the error is about the value itself
    /// (`Invalid`, `Encode`, `TooLarge`, `Unsupported`), the old value stays published. After every
    /// other error the new value is still published as soon as possible.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future makes no difference: the new value is still published.
    pub async fn set(&self, value: &T) -> Result<Revision> {
        let value = (self.encode)(value);
        self.operation("set").run(async { self.publication.set(value?).await }).await
    }

    /// Deletes the value if the key still holds this guard's value, and waits for the answer.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, …: the value disappears when the time to live has passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws the value in the background.
    pub async fn withdraw(self) -> Result<()> {
        self.operation("withdraw").run(self.publication.withdraw()).await
    }
}

impl<T> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { publication, .. } = self;
        f.debug_struct("Published").field("key", publication.key()).field("status", &publication.status()).finish_non_exhaustive()
    }
}
