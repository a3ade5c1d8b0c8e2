//! Writes one key: the types that [`Entry::set`](super::Entry::set) and
//! [`Entry::modify`](super::Entry::modify) return.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

use super::{Entry, Expected, Written};
use crate::error::{ErrorKind, Result};
use crate::handle::expiry::{EnclosingExpiry, RequestedExpiry};
use crate::queue::Guard;
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::revision::{LeaseId, Revision};
use crate::schema::Stored;
use crate::store::{BoxFuture, Committed, Expiry, KeyValue, Op, Txn};
use crate::version::{Versioned, Versions};

/// A write of one key. The write runs when it is awaited.
#[must_use = "a write does nothing until it is awaited"]
pub struct EntryWrite<T, O> {
    pub(in crate::handle) entry: Entry<T>,
    /// The name of the handle's method, for metrics and events.
    pub(in crate::handle) op: &'static str,
    pub(in crate::handle) parts: Result<(Bytes, Option<Expected>)>,
    pub(in crate::handle) requested: RequestedExpiry,
    pub(in crate::handle) previous: bool,
    /// The error kind if the condition does not hold.
    pub(in crate::handle) refusal: ErrorKind,
    pub(in crate::handle) finish: fn(&Entry<T>, Committed) -> O,
}

impl<T, O> EntryWrite<T, O> {
    /// Lets the value expire after this time, unless the key is written again before.
    /// [`Expiry::After`] describes how exact the time is.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::After(ttl));
        self
    }

    /// Attaches the value to this lease.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if the lease no longer exists.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::With(lease.into()));
        self
    }

    /// Stores the value without expiry, whatever [expiry](Entry#expiry) the key had.
    pub fn permanent(mut self) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::Never);
        self
    }

    /// Applies the write only while this guard is held: a [`Lock`](crate::Lock) or a leadership on
    /// the same store.
    ///
    /// The commit requires that the guard's key exists, has the creation revision of this guard,
    /// and is attached to its lease. The server checks this at the revision of the write,
    /// independent of clocks and networks, so a former holder can no longer write. If the write has
    /// several guards, all of them must be held.
    ///
    /// The check costs no extra request, since the answer to a refused write also shows whether the
    /// guard was held. If the guard was lost and another condition failed too, the error is
    /// `GuardLost`. Each guard adds two conditions and one read to the transaction.
    ///
    /// If the write has to read first (such as [`modify`](Entry::modify)), the read also requires
    /// the guard. So even if nothing needs to be written, the write returns `Ok` only if the guard
    /// was held. Such a read must fit into one answer (64 MiB on v3).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # use etcd_typed::ErrorKind;
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// let limit = client.entry::<u32>("/app/limit")?;
    /// let lock = client.lock("/locks/limits").acquire().await?;
    /// limit.set(&1).guarded_by(&lock).await?;
    ///
    /// // An operator breaks the lock by deleting its key.
    /// client.directory("/locks")?.delete_recursive().await?;
    /// let error = limit.set(&2).guarded_by(&lock).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::GuardLost);
    /// assert_eq!(**limit.get().await?.as_ref().unwrap(), 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `GuardLost` if the guard is not held: nothing was written. If the client already knows this
    /// (by the clock, or since the guard was released), nothing is sent.
    ///
    /// `Unsupported` on v2, which has no transaction over two keys, before anything is sent. On v2,
    /// [`Guard::verify`] checks the guard before a write, and [`Guard::while_held`] stops a writer
    /// when the guard is lost. With both, a write may still be applied shortly after the guard is
    /// lost.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.entry.context = self.entry.context.guarded_by(guard);
        self
    }
}

impl<T: Send + Sync + 'static, O: 'static> IntoFuture for EntryWrite<T, O> {
    type Output = Result<O>;
    type IntoFuture = BoxFuture<'static, Result<O>>;

    fn into_future(self) -> Self::IntoFuture {
        let retry = self.entry.context.retry.clone();
        Box::pin(self.entry.operation(self.op).run(retry.one_call(self.run())))
    }
}

impl<T: Send + Sync + 'static, O: 'static> EntryWrite<T, O> {
    async fn run(self) -> Result<O> {
        let (value, expected) = self.parts?;
        let entry = self.entry;
        let ops = |expiry| {
            let mut ops = vec![Op::Put { key: entry.key.clone(), value: value.clone(), expiry, previous: self.previous }];
            if self.previous {
                ops.extend(entry.look().into_iter().skip(1));
            }
            ops
        };
        if expected.is_none() && !entry.keeps(self.requested) {
            let committed = entry.commit(Txn { then: ops(self.requested.or_never()), ..Txn::default() }).await?;
            return Ok((self.finish)(&entry, committed));
        }
        match entry.write_if(expected.as_ref(), self.requested, ops).await? {
            Written::Done(committed) => Ok((self.finish)(&entry, committed)),
            Written::Refused(found, revision) => Err(entry.refused(self.refusal, found, revision)),
        }
    }
}

impl<T, O> fmt::Debug for EntryWrite<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryWrite").field("entry", &self.entry).field("expiry", &self.requested).finish_non_exhaustive()
    }
}

/// A read-modify-write of one key. The operation runs when it is awaited.
#[must_use = "a write does nothing until it is awaited"]
pub struct EntryModify<'f, T> {
    pub(super) entry: Entry<T>,
    pub(super) f: Box<dyn Fn(Option<T>) -> Option<T> + Send + 'f>,
    pub(super) requested: RequestedExpiry,
}

impl<T> EntryModify<'_, T> {
    /// Lets the value expire after this time, whether `f` changes it or not.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::After(ttl));
        self
    }

    /// Attaches the value to this lease, whether `f` changes it or not.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if the lease no longer exists.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::With(lease.into()));
        self
    }

    /// Stores the value without expiry, whatever [expiry](Entry#expiry) the key had.
    pub fn permanent(mut self) -> Self {
        self.requested = RequestedExpiry::Named(Expiry::Never);
        self
    }

    /// Applies the write only while this guard is held; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`: nothing was written, and `f` is not run again. `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.entry.context = self.entry.context.guarded_by(guard);
        self
    }
}

impl<'f, T: Send + Sync + 'static> IntoFuture for EntryModify<'f, T> {
    type Output = Result<Option<Versioned<T>>>;
    type IntoFuture = BoxFuture<'f, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let retry = self.entry.context.retry.clone();
        Box::pin(self.entry.operation("modify").run(retry.one_call(self.run())))
    }
}

impl<T: Send + Sync + 'static> EntryModify<'_, T> {
    async fn run(self) -> Result<Option<Versioned<T>>> {
        let Self { entry, f, requested } = self;
        let operation = entry.operation("modify");
        let mut enclosing_expiry = EnclosingExpiry::of(entry.enclosing.as_ref(), &entry.key);
        let mut retry = OptimisticRetry::new(&entry.context.retry);
        let (mut found, mut revision) = entry.find_to_write().await?;
        loop {
            let current = found.clone().map(|found| entry.decode(found, revision)).transpose()?;
            let current = match current {
                Some(current) => Some(current.into_inner()),
                None => entry.default()?,
            };
            let wanted = f(current);
            let bytes = wanted.as_ref().map(|value| entry.encode(value)).transpose()?;
            // Only a new key needs the expiry of the enclosing struct.
            let adds = found.is_none() && bytes.is_some() && requested == RequestedExpiry::Keep;
            if adds && !entry.transactional() {
                enclosing_expiry.read(&entry.context).await?;
            }
            let expiry = match (requested, &found) {
                (RequestedExpiry::Named(expiry), _) => expiry,
                (RequestedExpiry::Keep, Some(found)) => found.kv.expiry(),
                (RequestedExpiry::Keep, None) => enclosing_expiry.expiry(),
            };
            let then = match (bytes, &found) {
                (Some(bytes), Some(found)) if is_so(requested, &found.kv) && entry.codec.is_same(&bytes, &found.kv.value) => Vec::new(),
                (Some(bytes), None) if requested == RequestedExpiry::Keep && entry.is_default(&bytes) => Vec::new(),
                (Some(value), _) => vec![Op::Put { key: entry.key.clone(), value, expiry, previous: false }],
                (None, Some(_)) => entry.deletes(),
                (None, None) => Vec::new(),
            };
            if then.is_empty() {
                let versions = found.map_or_else(Versions::default, |found| Stored::from(found.kv).versions(revision));
                return Ok(wanted.map(|value| entry.versioned(value, Versions { revision, ..versions })));
            }
            let committed = if wanted.is_none() && !entry.together() {
                match entry.delete_each(found.clone()).await {
                    Ok(_) => return Ok(None),
                    Err(error) if error.kind() == ErrorKind::Conflict => None,
                    Err(error) => return Err(error),
                }
            } else {
                let mut compares = entry.as_found(found.as_ref());
                let mut otherwise = entry.look();
                if adds && entry.transactional() {
                    compares.extend(enclosing_expiry.compares());
                    otherwise.extend(enclosing_expiry.looks());
                }
                match entry.commit(Txn { compares, then, otherwise }).await {
                    Ok(committed) => Some(committed),
                    // The kept lease no longer exists.
                    Err(error) if error.kind() == ErrorKind::LeaseLost && requested == RequestedExpiry::Keep => None,
                    Err(error) => return Err(error),
                }
            };
            if let Some(Committed { succeeded: true, revision, .. }) = committed {
                return Ok(wanted.map(|value| entry.versioned(value, after_write(found.map(|found| found.kv), revision, expiry))));
            }
            operation.conflict();
            let shown = committed.filter(|_| entry.together()).map(|committed| {
                enclosing_expiry.learn(&committed.results);
                let revision = committed.revision;
                (entry.seen(committed), revision)
            });
            let read = async {
                enclosing_expiry.forget();
                entry.find_to_write().await
            };
            match retry.after_conflict(shown, read).await? {
                AfterConflict::Retry(now) => (found, revision) = now,
                AfterConflict::GiveUp(shown) => {
                    let (found, revision) = shown.unwrap_or((found, revision));
                    return Err(match found.and_then(|found| entry.decode(found, revision).ok()) {
                        Some(current) => entry.worn_out().with_current(current),
                        None => entry.worn_out(),
                    });
                }
            }
        }
    }
}

/// Returns whether the key already has the expiry that the write asks for.
fn is_so(requested: RequestedExpiry, kv: &KeyValue) -> bool {
    match requested {
        RequestedExpiry::Keep => true,
        RequestedExpiry::Named(Expiry::Never) => kv.lease.is_none() && kv.ttl.is_none(),
        RequestedExpiry::Named(Expiry::With(lease)) => kv.lease == Some(lease),
        // A time to live starts again with each write.
        RequestedExpiry::Named(Expiry::After(_)) => false,
    }
}

/// Returns the metadata of a value that replaced `before`.
fn after_write(before: Option<KeyValue>, revision: Revision, expiry: Expiry) -> Versions {
    let lease = if let Expiry::With(lease) = expiry { Some(lease) } else { None };
    let ttl = if let Expiry::After(ttl) = expiry { Some(ttl) } else { None };
    let (created, version) = before.map_or((revision, None), |kv| (kv.created, kv.version.map(|version| version + 1)));
    Versions { revision, created, modified: revision, version, lease, ttl, ..Versions::default() }
}

impl<T> fmt::Debug for EntryModify<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryModify").field("entry", &self.entry).finish_non_exhaustive()
    }
}
