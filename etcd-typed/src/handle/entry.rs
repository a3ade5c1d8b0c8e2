//! `Entry<T>`: one key.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

use super::Shared;
use crate::changes::{EntryChanges, WatchingEntry};
use crate::error::{Error, ErrorKind, Problem, ProblemKind, Result};
use crate::key::Key;
use crate::retry::Backoff;
use crate::revision::{LeaseId, Revision};
use crate::schema::Stored;
use crate::store::{BoxFuture, Committed, Compare, Condition, Expiry, KeyValue, Op, OpResult, RangeReply, Span, Txn};
use crate::value::Codec;
use crate::version::{Expect, Versioned};

/// One key with values of type `T`.
///
/// From a field of a derived handle (`cfg.rate_limit`), from [`EntryMap::entry`](crate::EntryMap::entry), or from
/// [`Client::entry`](crate::Client::entry). Cheap to clone; all methods take `&self`.
///
/// # Errors
///
/// Every method that talks to the store may answer with `Unavailable`, `Timeout`, `Unauthenticated`, `PermissionDenied` or `Server`; the
/// methods name what they add to these. A write's error says by [`may_have_applied`](Error::may_have_applied) whether the outcome is unknown.
///
/// # Cancel safety
///
/// Dropping the future of a read costs nothing. A write whose future was dropped may have been applied.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// use etcd_typed::{Client, ErrorKind, Expect};
///
/// let client = Client::connect("memory:").await?;
/// let limit = client.entry::<u32>("/app/rate_limit")?;
///
/// assert_eq!(limit.get().await?, None);
/// limit.set(&250).await?;
/// let seen = limit.get().await?;
/// limit.compare_and_swap(&seen, &300).await?;
///
/// // Somebody else was faster: the error carries what is there now.
/// let conflict = limit.compare_and_swap(&seen, &350).await.unwrap_err();
/// assert_eq!(conflict.kind(), ErrorKind::Conflict);
/// assert_eq!(conflict.current::<u32>().map(|now| **now), Some(300));
///
/// limit.compare_and_swap(Expect::value(&300), &400).await?;
/// limit.modify(|n| n.map(|n| n + 1)).await?;
/// assert_eq!(limit.delete().await?.as_deref(), Some(&401));
/// # Ok(()) }
/// ```
pub struct Entry<T> {
    context: Shared,
    key: Key,
    /// Keys that are read when the first is not there.
    aliases: Vec<Key>,
    codec: Codec<T>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self { context: self.context.clone(), key: self.key.clone(), aliases: self.aliases.clone(), codec: self.codec }
    }
}

impl<T> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("type", &self.codec.type_name).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Entry<T> {
    pub(crate) fn new(context: Shared, key: Key, codec: Codec<T>) -> Self {
        Self { context, key, aliases: Vec::new(), codec }
    }

    pub(crate) fn with_aliases(mut self, aliases: Vec<Key>) -> Self {
        self.aliases = aliases;
        self
    }

    /// The key, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The value, or none.
    ///
    /// A default of the struct's field is not used here: none means that no key is there.
    ///
    /// # Errors
    ///
    /// `Decode` when what is stored is not a `T`. `IsADirectory` (v2).
    pub async fn get(&self) -> Result<Option<Versioned<T>>> {
        let reply = self.context.read(Span::Key(self.key.clone()), false).await.map_err(|error| error.at(&self.key))?;
        match self.one(reply)? {
            Some(found) => Ok(Some(found)),
            None => self.alias().await,
        }
    }

    /// Whether there is a value, of whatever type.
    pub async fn exists(&self) -> Result<bool> {
        for key in std::iter::once(&self.key).chain(&self.aliases) {
            let reply = self.context.read(Span::Key(key.clone()), true).await.map_err(|error| error.at(key))?;
            if !reply.kvs.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the value, whatever is there. The answer is the revision of the write.
    ///
    /// # Errors
    ///
    /// `Invalid` when the field's validation rejects the value, `Encode` when it has no stored form, `TooLarge`, `NoSpace`; all of them before or
    /// instead of a write.
    pub fn set(&self, value: &T) -> EntryWrite<T, Revision> {
        self.write(value, Ok(None), Self::written)
    }

    /// Writes the value if there is none.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `AlreadyExists`; then [`Error::current`] is the value that is there.
    pub fn create(&self, value: &T) -> EntryWrite<T, Revision> {
        let mut write = self.write(value, Ok(Some(Condition::Absent)), Self::written);
        write.refusal = ErrorKind::AlreadyExists;
        write
    }

    /// Writes the value if there is one.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `NotFound`.
    pub fn replace(&self, value: &T) -> EntryWrite<T, Revision> {
        let mut write = self.write(value, Ok(Some(Condition::Present)), Self::written);
        write.refusal = ErrorKind::NotFound;
        write
    }

    /// Writes the value and gives the one that was there, if it was a `T`.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn swap(&self, value: &T) -> EntryWrite<T, Option<Versioned<T>>> {
        let mut write = self.write(value, Ok(None), Self::previous);
        write.previous = true;
        write
    }

    /// Writes the value if the key is as expected: as it was read (`&Versioned<T>`, `&Option<Versioned<T>>`), or as an [`Expect`] says.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `Conflict`; then [`Error::current`] is the value that is there, from the same round trip (on v2, from a
    /// second one).
    pub fn compare_and_swap<'e>(&self, expected: impl Into<Expect<'e, T>>, value: &T) -> EntryWrite<T, Revision> {
        self.write(value, self.condition(expected.into()).map(Some), Self::written)
    }

    /// Deletes the key and gives the value that was there, if it was a `T`. That there was none is no error.
    pub async fn delete(&self) -> Result<Option<Versioned<T>>> {
        // A field that is read from an alias would otherwise still be there.
        let mut then: Vec<Op> = self.aliases.iter().map(Op::delete).collect();
        if !self.context.store.capabilities().transactions {
            for alias in std::mem::take(&mut then) {
                self.commit(Txn { then: vec![alias], ..Txn::default() }).await?;
            }
        }
        then.insert(0, Op::Delete { span: Span::Key(self.key.clone()), previous: true });
        let committed = self.commit(Txn { then, ..Txn::default() }).await?;
        Ok(self.previous(committed))
    }

    /// Deletes the key if it is as expected, and gives the value that was there, if it was a `T`.
    ///
    /// # Errors
    ///
    /// `Conflict`; then [`Error::current`] is the value that is there.
    pub async fn compare_and_delete<'e>(&self, expected: impl Into<Expect<'e, T>>) -> Result<Option<Versioned<T>>> {
        let compares = vec![Compare::key(&self.key, self.condition(expected.into())?)];
        let then = vec![Op::Delete { span: Span::Key(self.key.clone()), previous: true }];
        let committed = self.commit(Txn { compares, then, otherwise: self.look() }).await?;
        if committed.succeeded { Ok(self.previous(committed)) } else { Err(self.refused(ErrorKind::Conflict, committed)) }
    }

    /// Reads, applies `f` and writes the result if the key is still as it was read; else starts again with what is there now. `f` gets none when
    /// there is no value and gives none to delete it. The answer is what is stored then.
    ///
    /// `f` may run several times; what is stored is `f` of the value that it replaced. A result with the same stored form is not written again.
    /// A conflict costs no extra read, and a wait with jitter before the next try.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set); `Decode` when what is stored is not a `T`; `Conflict` when the budget of
    /// [`RetryPolicy::conflict_budget`](crate::RetryPolicy::conflict_budget) is used up.
    pub fn modify<'f>(&self, f: impl Fn(Option<T>) -> Option<T> + Send + 'f) -> EntryModify<'f, T> {
        EntryModify { entry: self.clone(), f: Box::new(f), expiry: Expiry::Never }
    }

    /// The changes of the key from now on, as a stream that mends itself; await it, or set where it starts first.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// let limit = client.entry::<u32>("/app/rate_limit")?;
    /// let mut changes = limit.watch().await?;
    /// limit.set(&250).await?;
    /// let change = changes.next().await.expect("the stream goes on")?;
    /// assert_eq!((change.old, change.new), (None, Some(250)));
    /// # Ok(()) }
    /// ```
    pub fn watch(&self) -> WatchingEntry<T> {
        WatchingEntry::new(self.context.store.clone(), self.context.retry.clone(), self.key.clone(), self.codec)
    }

    /// Waits until the value (none: there is none) satisfies `wanted`, and gives it. It looks at the value that is there now first.
    ///
    /// A value that is not a `T` satisfies nothing.
    ///
    /// # Errors
    ///
    /// Those that end a [`watch`](Self::watch).
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn wait_for(&self, wanted: impl Fn(Option<&T>) -> bool) -> Result<Option<Versioned<T>>> {
        let mut changes: EntryChanges<T> = self.watch().await?;
        loop {
            match changes.current() {
                Ok(current) if wanted(current.as_deref()) => return Ok(current),
                _ => {}
            }
            match changes.next().await {
                Some(Err(error)) if error.kind() != ErrorKind::Decode => return Err(error),
                Some(_) => {}
                None => return Err(Error::new(ErrorKind::Unavailable, "the watch ended").at(&self.key)),
            }
        }
    }

    /// The value of the first alias that is there.
    async fn alias(&self) -> Result<Option<Versioned<T>>> {
        for key in &self.aliases {
            let reply = self.context.read(Span::Key(key.clone()), false).await.map_err(|error| error.at(key))?;
            if let Some(found) = self.one(reply)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The stored form, validated.
    pub(super) fn encode(&self, value: &T) -> Result<Bytes> {
        self.codec.validate(value).map_err(|reason| {
            let problem = Problem { key: self.key.clone(), kind: ProblemKind::Rejected, reason: reason.to_string(), revision: None };
            Error::from_problems(vec![problem])
        })?;
        self.codec.encode(value).map_err(|reason| Error::new(ErrorKind::Encode, reason.to_string()).at(&self.key))
    }

    pub(super) fn condition(&self, expected: Expect<'_, T>) -> Result<Condition> {
        Ok(match expected {
            Expect::Absent => Condition::Absent,
            Expect::Present => Condition::Present,
            Expect::Revision(revision) => Condition::Modified(revision),
            Expect::Value(value) => {
                let bytes = self.codec.encode(value);
                Condition::Value(bytes.map_err(|reason| Error::new(ErrorKind::Encode, reason.to_string()).at(&self.key))?)
            }
        })
    }

    /// What is there now, as a `T`; none also where it is not one.
    pub(super) fn present(&self, reply: RangeReply) -> Option<Versioned<T>> {
        self.one(reply).ok().flatten()
    }

    fn one(&self, reply: RangeReply) -> Result<Option<Versioned<T>>> {
        let revision = reply.revision;
        reply.kvs.into_iter().next().map(|kv| self.decode(kv, revision)).transpose()
    }

    fn decode(&self, kv: KeyValue, revision: Revision) -> Result<Versioned<T>> {
        let stored = Stored::from(kv);
        match self.codec.decode(&stored.value) {
            Ok(value) => Ok(Versioned::new(value, stored.versions(revision))),
            Err(reason) => {
                let message = format!("{reason} (revision {})", stored.modified);
                Err(Error::new(ErrorKind::Decode, message).at(&self.key))
            }
        }
    }

    fn write<O>(&self, value: &T, condition: Result<Option<Condition>>, finish: fn(&Self, Committed) -> O) -> EntryWrite<T, O> {
        let parts = self.encode(value).and_then(|bytes| Ok((bytes, condition?)));
        EntryWrite { entry: self.clone(), parts, expiry: Expiry::Never, previous: false, refusal: ErrorKind::Conflict, finish }
    }

    fn written(&self, committed: Committed) -> Revision {
        committed.revision
    }

    fn previous(&self, committed: Committed) -> Option<Versioned<T>> {
        let previous = match committed.results.into_iter().next()? {
            OpResult::Put(previous) => previous?,
            OpResult::Delete { previous, .. } => previous.into_iter().next()?,
            OpResult::Get(_) | OpResult::Done => return None,
        };
        self.decode(previous, committed.revision).inspect_err(|error| tracing::warn!(%error, "the value that was there")).ok()
    }

    /// What a compare that failed asks for, so that the answer carries the current value.
    fn look(&self) -> Vec<Op> {
        vec![Op::Get(Span::Key(self.key.clone()))]
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.context.store.commit(txn).await.map_err(|error| error.at(&self.key))
    }

    fn refused(&self, kind: ErrorKind, committed: Committed) -> Error {
        let error = Error::new(kind, "").at(&self.key);
        match self.seen(committed) {
            Some(current) if kind != ErrorKind::NotFound => error.with_current(current),
            _ => error,
        }
    }

    fn seen(&self, committed: Committed) -> Option<Versioned<T>> {
        self.present(look_result(committed)?)
    }
}

/// The answer to the one read of a refused transaction.
fn look_result(committed: Committed) -> Option<RangeReply> {
    match committed.results.into_iter().next()? {
        OpResult::Get(reply) => Some(reply),
        OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
    }
}

/// A write of one key that happens when it is awaited.
#[must_use = "a write does nothing until it is awaited"]
pub struct EntryWrite<T, O> {
    entry: Entry<T>,
    parts: Result<(Bytes, Option<Condition>)>,
    expiry: Expiry,
    previous: bool,
    /// What it means that the condition does not hold.
    refusal: ErrorKind,
    finish: fn(&Entry<T>, Committed) -> O,
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
}

impl<T: Send + Sync + 'static, O: 'static> IntoFuture for EntryWrite<T, O> {
    type Output = Result<O>;
    type IntoFuture = BoxFuture<'static, Result<O>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (value, condition) = self.parts?;
            let entry = self.entry;
            let put = Op::Put { key: entry.key.clone(), value, expiry: self.expiry, previous: self.previous };
            let mut txn = Txn { then: vec![put], ..Txn::default() };
            if let Some(condition) = condition {
                txn.compares.push(Compare::key(&entry.key, condition));
                txn.otherwise = entry.look();
            }
            let committed = entry.commit(txn).await?;
            if committed.succeeded { Ok((self.finish)(&entry, committed)) } else { Err(entry.refused(self.refusal, committed)) }
        })
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
    entry: Entry<T>,
    f: Box<dyn Fn(Option<T>) -> Option<T> + Send + 'f>,
    expiry: Expiry,
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
}

impl<'f, T: Send + Sync + 'static> IntoFuture for EntryModify<'f, T> {
    type Output = Result<Option<Versioned<T>>>;
    type IntoFuture = BoxFuture<'f, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { entry, f, expiry } = self;
            let context = entry.context.clone();
            let mut reply = context.read_to_write(Span::Key(entry.key.clone())).await.map_err(|error| error.at(&entry.key))?;
            let mut backoff: Backoff = context.retry.backoff();
            for _ in 0..=context.retry.conflict_budget {
                let revision = reply.revision;
                let stored = reply.kvs.into_iter().next();
                let current = match stored.clone() {
                    Some(kv) => Some(entry.decode(kv, revision)?),
                    // Without aliases this asks nobody.
                    None => entry.alias().await?,
                };
                let wanted = f(current.map(Versioned::into_inner));
                let bytes = wanted.as_ref().map(|value| entry.encode(value)).transpose()?;

                let condition = stored.as_ref().map_or(Condition::Absent, |kv| Condition::Modified(kv.modified));
                let op = match &bytes {
                    Some(bytes) if stored.as_ref().is_some_and(|kv| kv.value == *bytes) => None,
                    Some(bytes) => Some(Op::Put { key: entry.key.clone(), value: bytes.clone(), expiry, previous: false }),
                    None => stored.as_ref().map(|_| Op::delete(&entry.key)),
                };
                let now = |value: T, revision: Revision, modified: Revision| {
                    let mut versions = stored.clone().map(|kv| Stored::from(kv).versions(revision)).unwrap_or_default();
                    if modified != versions.modified {
                        versions.version = if stored.is_some() { versions.version.map(|n| n + 1) } else { None };
                        versions.created = if stored.is_some() { versions.created } else { modified };
                        (versions.lease, versions.ttl) = (None, None);
                    }
                    (versions.revision, versions.modified) = (revision, modified);
                    Versioned::new(value, versions)
                };
                let Some(op) = op else {
                    return Ok(wanted.map(|value| now(value, revision, stored.as_ref().map_or(revision, |kv| kv.modified))));
                };
                let compares = vec![Compare::key(&entry.key, condition)];
                let committed = entry.commit(Txn { compares, then: vec![op], otherwise: entry.look() }).await?;
                if committed.succeeded {
                    return Ok(wanted.map(|value| now(value, committed.revision, committed.revision)));
                }
                reply = look_result(committed).unwrap_or_default();
                tokio::time::sleep(backoff.next_delay()).await;
            }
            let error = Error::new(ErrorKind::Conflict, "others wrote it faster, again and again").at(&entry.key);
            Err(match entry.present(reply) {
                Some(current) => error.with_current(current),
                None => error,
            })
        })
    }
}

impl<T> fmt::Debug for EntryModify<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryModify").field("entry", &self.entry).finish_non_exhaustive()
    }
}
