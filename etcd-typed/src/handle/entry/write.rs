//! Writing one key: what [`Entry::set`](super::Entry::set) and [`Entry::modify`](super::Entry::modify) return.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

use super::{Entry, Found, holds};
use crate::error::{ErrorKind, Result};
use crate::retry::Backoff;
use crate::revision::{LeaseId, Revision};
use crate::schema::Stored;
use crate::store::{BoxFuture, Committed, Condition, Expiry, Op, Txn};
use crate::turn::Guard;
use crate::version::Versioned;

/// A write of one key that happens when it is awaited.
#[must_use = "a write does nothing until it is awaited"]
pub struct EntryWrite<T, O> {
    pub(super) entry: Entry<T>,
    /// The method of the handle.
    pub(super) op: &'static str,
    pub(super) parts: Result<(Bytes, Option<Condition>)>,
    pub(super) expiry: Expiry,
    pub(super) previous: bool,
    /// What it means that the condition does not hold.
    pub(super) refusal: ErrorKind,
    pub(super) finish: fn(&Entry<T>, Committed) -> O,
}

impl<T, O> EntryWrite<T, O> {
    /// The value vanishes by itself after this time, unless it is written again before. See [`Expiry::After`] for how exact that is.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Expiry::After(ttl);
        self
    }

    /// The value vanishes with this lease.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the lease is not there any more.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.expiry = Expiry::With(lease.into());
        self
    }

    /// Only while this guard is held: a [`Lock`](crate::Lock) or the leadership, of the same store.
    ///
    /// The commit carries the conditions that the guard's key is there, came to be when the guard was given, and is attached to its lease. So it
    /// is true of the revision of the write, whatever clocks and networks do, and a holder of the past writes nothing any more. A second guard
    /// comes on top of the first.
    ///
    /// It costs no request: the same answer tells a lost guard from a conflict, and where both is the case it is `GuardLost`. In a transaction it takes two
    /// conditions and one read. A write that reads first (such as [`modify`](Entry::modify)) reads under the guard too, so that also one that finds nothing
    /// to be written answers `Ok` only if the guard was held; what it reads must fit into one answer (64 MiB on v3).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # use etcd_typed::ErrorKind;
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// let limit = client.entry::<u32>("/app/limit")?;
    /// let lock = client.lock("/locks/limits").acquire().await?;
    /// limit.set(&1).guarded_by(&lock).await?;
    ///
    /// // An operator breaks the lock: he deletes its key.
    /// client.directory("/locks")?.delete_recursive().await?;
    /// let error = limit.set(&2).guarded_by(&lock).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::GuardLost);
    /// assert_eq!(**limit.get().await?.as_ref().unwrap(), 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// `GuardLost` when it is not held; nothing was written. When that is known here (by the clock, or since the guard was released) nothing is sent.
    /// `Unsupported` on v2, which has no transaction over two keys, before anything is sent: [`Guard::verify`] asks before a write there, and
    /// [`Guard::while_held`] stops what writes, with a moment in between.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.entry.context = self.entry.context.guarded_by(guard);
        self
    }
}

impl<T: Send + Sync + 'static, O: 'static> IntoFuture for EntryWrite<T, O> {
    type Output = Result<O>;
    type IntoFuture = BoxFuture<'static, Result<O>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(Entry::<T>::operation(self.op).run(self.run()))
    }
}

impl<T: Send + Sync + 'static, O: 'static> EntryWrite<T, O> {
    async fn run(self) -> Result<O> {
        let (value, condition) = self.parts?;
        let entry = self.entry;
        let put = Op::Put { key: entry.key.clone(), value, expiry: self.expiry, previous: self.previous };
        let Some(condition) = condition else {
            let mut then = vec![put];
            if self.previous {
                then.extend(entry.look().into_iter().skip(1));
            }
            let committed = entry.commit(Txn { then, ..Txn::default() }).await?;
            return Ok((self.finish)(&entry, committed));
        };
        if !entry.together() {
            // The aliases cannot be in the transaction: they are looked at first, and the key is then to be as it was found.
            let (found, revision) = entry.find_to_write().await?;
            let compares = match &found {
                found if !holds(&condition, found.as_ref().map(|found| &found.kv)) => {
                    return Err(entry.refused(self.refusal, found.clone(), revision));
                }
                Some(found) => entry.compares(found.at, Condition::Modified(found.kv.modified)),
                None => entry.compares(entry.aliases.len(), Condition::Absent),
            };
            let committed = entry.commit(Txn { compares, then: vec![put], otherwise: entry.look() }).await?;
            return entry.finished(committed, self.refusal, self.finish);
        }
        let committed = entry.commit_if(condition, vec![put]).await?;
        entry.finished(committed, self.refusal, self.finish)
    }
}

impl<T, O> fmt::Debug for EntryWrite<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryWrite").field("entry", &self.entry).field("expiry", &self.expiry).finish_non_exhaustive()
    }
}

/// A read-modify-write of one key that happens when it is awaited.
#[must_use = "a write does nothing until it is awaited"]
pub struct EntryModify<'f, T> {
    pub(super) entry: Entry<T>,
    pub(super) f: Box<dyn Fn(Option<T>) -> Option<T> + Send + 'f>,
    pub(super) expiry: Expiry,
}

impl<T> EntryModify<'_, T> {
    /// The value that is written vanishes by itself after this time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Expiry::After(ttl);
        self
    }

    /// The value that is written vanishes with this lease.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.expiry = Expiry::With(lease.into());
        self
    }

    /// Only while this guard is held; see [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`; nothing was written, and `f` is not run again. `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.entry.context = self.entry.context.guarded_by(guard);
        self
    }
}

impl<'f, T: Send + Sync + 'static> IntoFuture for EntryModify<'f, T> {
    type Output = Result<Option<Versioned<T>>>;
    type IntoFuture = BoxFuture<'f, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(Entry::<T>::operation("modify").run(self.run()))
    }
}

impl<T: Send + Sync + 'static> EntryModify<'_, T> {
    async fn run(self) -> Result<Option<Versioned<T>>> {
        let Self { entry, f, expiry } = self;
        let operation = Entry::<T>::operation("modify");
        let context = entry.context.clone();
        let (mut found, mut revision) = entry.find_to_write().await?;
        let mut backoff: Backoff = context.retry.backoff();
        for _ in 0..=context.retry.conflict_budget {
            let current = found.clone().map(|found| entry.decode(found, revision)).transpose()?;
            let wanted = f(current.map(Versioned::into_inner));
            let bytes = wanted.as_ref().map(|value| entry.encode(value)).transpose()?;

            let stored = found.map(|found| (found.at, found.kv));
            let then = match (&bytes, &stored) {
                (Some(bytes), Some((_, kv))) if kv.value == *bytes => Vec::new(),
                (Some(bytes), _) => vec![Op::Put { key: entry.key.clone(), value: bytes.clone(), expiry, previous: false }],
                (None, Some((at, kv))) if !entry.together() => {
                    match entry.delete_each(Some(Found { at: *at, kv: kv.clone() })).await {
                        Err(error) if error.kind() == ErrorKind::Conflict => {}
                        deleted => return deleted.map(|_| None),
                    }
                    operation.conflict();
                    tokio::time::sleep(backoff.next_delay()).await;
                    (found, revision) = entry.find_to_write().await?;
                    continue;
                }
                (None, Some(_)) => entry.deletes(),
                (None, None) => Vec::new(),
            };
            let now = |value: T, revision: Revision, modified: Revision| {
                let mut versions = stored.clone().map(|(_, kv)| Stored::from(kv).versions(revision)).unwrap_or_default();
                if modified != versions.modified {
                    versions.version = if stored.is_some() { versions.version.map(|n| n + 1) } else { None };
                    versions.created = if stored.is_some() { versions.created } else { modified };
                    (versions.lease, versions.ttl) = (None, None);
                }
                (versions.revision, versions.modified) = (revision, modified);
                Versioned::new(value, versions).secret(entry.codec.is_secret())
            };
            if then.is_empty() {
                return Ok(wanted.map(|value| now(value, revision, stored.as_ref().map_or(revision, |(_, kv)| kv.modified))));
            }
            let compares = match &stored {
                Some((at, kv)) => entry.compares(*at, Condition::Modified(kv.modified)),
                None => entry.compares(entry.aliases.len(), Condition::Absent),
            };
            let committed = entry.commit(Txn { compares, then, otherwise: entry.look() }).await?;
            if committed.succeeded {
                return Ok(wanted.map(|value| now(value, committed.revision, committed.revision)));
            }
            operation.conflict();
            (found, revision) = if entry.together() {
                let revision = committed.revision;
                (entry.seen(committed), revision)
            } else {
                entry.find_to_write().await?
            };
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Err(match found.and_then(|found| entry.decode(found, revision).ok()) {
            Some(current) => entry.worn_out().with_current(current),
            None => entry.worn_out(),
        })
    }
}

impl<T> fmt::Debug for EntryModify<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryModify").field("entry", &self.entry).finish_non_exhaustive()
    }
}
