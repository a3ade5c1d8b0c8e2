//! `Entry<T>`: one key.

mod delete;
mod publish;
mod write;

use std::any::type_name;
use std::fmt;

use bytes::Bytes;

pub use self::delete::EntryDelete;
pub use self::publish::{Publish, Published};
pub use self::write::{EntryModify, EntryWrite};
use super::Shared;
use crate::changes::{EntryChanges, WatchingEntry};
use crate::error::{Error, ErrorKind, Problem, ProblemKind, Result};
use crate::key::Key;
use crate::live::{EntryView, Viewing};
use crate::revision::Revision;
use crate::schema::Stored;
use crate::store::{Committed, Compare, Condition, Consistency, Expiry, KeyValue, Op, OpResult, Range, RangeReply, Span, Txn};
use crate::telemetry::{self, Operation};
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
    /// A default of the struct's field is not used here: none means that no key is there. A field with aliases is read from the first alias
    /// where its own key is not there, and every other method takes that for its value as well, but for [`watch`](Self::watch), which
    /// follows the field's own key alone.
    ///
    /// # Errors
    ///
    /// `Decode` when what is stored is not a `T`. `IsADirectory` (v2).
    pub async fn get(&self) -> Result<Option<Versioned<T>>> {
        let work = async {
            let (found, revision) = self.find(self.context.reads).await?;
            found.map(|found| self.decode(found, revision)).transpose()
        };
        Self::operation("get").run(work).await
    }

    /// Whether there is a value, of whatever type.
    pub async fn exists(&self) -> Result<bool> {
        let work = async {
            for key in self.keys() {
                let reply = self.context.read(Span::Key(key.clone()), true).await.map_err(|error| error.at(key))?;
                if !reply.kvs.is_empty() {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        Self::operation("exists").run(work).await
    }

    /// Writes the value, whatever is there. The answer is the revision of the write.
    ///
    /// # Errors
    ///
    /// `Invalid` when the field's validation rejects the value, `Encode` when it has no stored form, `TooLarge`, `NoSpace`; all of them before or
    /// instead of a write.
    pub fn set(&self, value: &T) -> EntryWrite<T, Revision> {
        self.write("set", value, Ok(None), Self::written)
    }

    /// Writes the value if there is none.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `AlreadyExists`; then [`Error::current`] is the value that is there.
    pub fn create(&self, value: &T) -> EntryWrite<T, Revision> {
        let mut write = self.write("create", value, Ok(Some(Condition::Absent)), Self::written);
        write.refusal = ErrorKind::AlreadyExists;
        write
    }

    /// Writes the value if there is one.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `NotFound`.
    pub fn replace(&self, value: &T) -> EntryWrite<T, Revision> {
        let mut write = self.write("replace", value, Ok(Some(Condition::Present)), Self::written);
        write.refusal = ErrorKind::NotFound;
        write
    }

    /// Writes the value and gives the one that was there, if it was a `T`.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn swap(&self, value: &T) -> EntryWrite<T, Option<Versioned<T>>> {
        let mut write = self.write("swap", value, Ok(None), Self::previous);
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
        self.write("compare_and_swap", value, self.condition(expected.into()).map(Some), Self::written)
    }

    /// Deletes the key and gives the value that was there, if it was a `T`. That there was none is no error.
    pub fn delete(&self) -> EntryDelete<T> {
        EntryDelete { entry: self.clone(), condition: Ok(None) }
    }

    /// Deletes the key if it is as expected, and gives the value that was there, if it was a `T`.
    ///
    /// # Errors
    ///
    /// `Conflict`; then [`Error::current`] is the value that is there.
    pub fn compare_and_delete<'e>(&self, expected: impl Into<Expect<'e, T>>) -> EntryDelete<T> {
        EntryDelete { entry: self.clone(), condition: self.condition(expected.into()).map(Some) }
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

    /// The changes of the key from now on, as a stream that mends itself; await it, or set where it starts first. It follows the field's own
    /// key alone; the watch of the struct's directory follows the aliases too.
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
        WatchingEntry::new(self.context.lessor.roaming().clone(), self.context.retry.clone(), self.key.clone(), self.codec)
    }

    /// The value as an always-current view (none: there is no value); see [`Live`](crate::Live). Of a field with aliases it is what
    /// [`get`](Self::get) would read.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// let limit = client.entry::<u32>("/app/rate_limit")?;
    /// let mut live = limit.live().await?;
    /// limit.set(&250).await?;
    /// assert_eq!(**live.changed().await?, Some(250));
    /// # Ok(()) }
    /// ```
    pub fn live(&self) -> Viewing<Option<T>> {
        // An entry has a name, so it has a parent.
        let directory = self.key.parent().unwrap_or_else(Key::root);
        let span = if self.aliases.is_empty() { Span::Key(self.key.clone()) } else { Span::Below(directory.clone()) };
        let keys = self.keys().filter_map(|key| Some(directory.below(key.as_str().as_bytes())?.to_owned())).collect();
        self.context.view(span, &directory, type_name::<T>(), EntryView::new(keys, self.codec))
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

    pub(super) fn operation(op: &'static str) -> Operation {
        Operation::new(op, type_name::<T>())
    }

    /// The field's own key and then its aliases.
    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.key).chain(&self.aliases)
    }

    fn transactional(&self) -> bool {
        self.context.store.capabilities().transactions
    }

    /// Whether one transaction can be about all keys of the field.
    fn together(&self) -> bool {
        self.aliases.is_empty() || self.transactional()
    }

    /// [`find`](Self::find), so that a write can be decided by it.
    async fn find_to_write(&self) -> Result<(Option<Found>, Revision)> {
        if self.context.is_guarded() { self.find_in_one().await } else { self.find(Consistency::Linearizable).await }
    }

    /// The first of the keys that is there, and as of which revision. Where it can be asked so, all keys are looked at in one revision: a value that
    /// moves from an alias to the field's own key is never missed.
    async fn find(&self, consistency: Consistency) -> Result<(Option<Found>, Revision)> {
        if !self.aliases.is_empty() && self.transactional() && consistency == Consistency::Linearizable {
            return self.find_in_one().await;
        }
        let mut revision = Revision::ZERO;
        for (at, key) in self.keys().enumerate() {
            let range = Range { consistency, ..Range::of(Span::Key(key.clone())) };
            let reply = self.context.asked().range(range).await.map_err(|error| error.at(key))?;
            revision = reply.revision;
            if let Some(kv) = reply.kvs.into_iter().next() {
                return Ok((Some(Found { at, kv }), revision));
            }
        }
        Ok((None, revision))
    }

    /// [`find`](Self::find), in one transaction.
    async fn find_in_one(&self) -> Result<(Option<Found>, Revision)> {
        let committed = self.commit(Txn { then: self.look(), ..Txn::default() }).await?;
        let revision = committed.revision;
        Ok((self.seen(committed), revision))
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
        let kv = reply.kvs.into_iter().next()?;
        self.decode(Found { at: 0, kv }, reply.revision).ok()
    }

    fn decode(&self, found: Found, revision: Revision) -> Result<Versioned<T>> {
        let stored = Stored::from(found.kv);
        match self.codec.decode(&stored.value) {
            Ok(value) => Ok(Versioned::new(value, stored.versions(revision)).secret(self.codec.is_secret())),
            Err(reason) => {
                let message = format!("{reason} (revision {})", stored.modified);
                Err(Error::new(ErrorKind::Decode, message).at(self.keys().nth(found.at).unwrap_or(&self.key)))
            }
        }
    }

    fn write<O>(
        &self,
        op: &'static str,
        value: &T,
        condition: Result<Option<Condition>>,
        finish: fn(&Self, Committed) -> O,
    ) -> EntryWrite<T, O> {
        let parts = self.encode(value).and_then(|bytes| Ok((bytes, condition?)));
        EntryWrite { entry: self.clone(), op, parts, expiry: Expiry::Never, previous: false, refusal: ErrorKind::Conflict, finish }
    }

    fn finished<O>(&self, committed: Committed, refusal: ErrorKind, finish: fn(&Self, Committed) -> O) -> Result<O> {
        if committed.succeeded {
            return Ok(finish(self, committed));
        }
        let revision = committed.revision;
        Err(self.refused(refusal, self.seen(committed), revision))
    }

    fn written(&self, committed: Committed) -> Revision {
        committed.revision
    }

    /// The value of the first key that a write replaced or deleted.
    fn previous(&self, committed: Committed) -> Option<Versioned<T>> {
        let revision = committed.revision;
        let found = committed.results.into_iter().enumerate().find_map(|(at, result)| {
            let kv = match result {
                OpResult::Put(previous) => previous?,
                OpResult::Delete { previous, .. } => previous.into_iter().next()?,
                OpResult::Get(alias) => alias.kvs.into_iter().next()?,
                OpResult::Done => return None,
            };
            Some(Found { at, kv })
        })?;
        self.decode(found, revision).inspect_err(|_| telemetry::previous_undecodable(type_name::<T>())).ok()
    }

    /// Deletes every key of the field: it would otherwise be read from the next alias.
    pub(super) fn deletes(&self) -> Vec<Op> {
        self.keys().map(|key| Op::Delete { span: Span::Key(key.clone()), previous: true }).collect()
    }

    /// What a compare that failed asks for, so that the answer carries the current value. Without transactions it can only ask for the one key.
    fn look(&self) -> Vec<Op> {
        let keys = if self.transactional() { usize::MAX } else { 1 };
        self.keys().take(keys).map(|key| Op::Get(Span::Key(key.clone()))).collect()
    }

    /// That the key that is read is the one at `at`, and is so.
    fn compares(&self, at: usize, condition: Condition) -> Vec<Compare> {
        let absent = self.keys().take(at).map(|key| Compare::key(key, Condition::Absent));
        let is = self.keys().nth(at).map(|key| Compare::key(key, condition));
        let transactions = self.transactional();
        absent.chain(is).filter(|compare| transactions || compare.span.key() == &self.key).collect()
    }

    /// What a transaction that knows of no answer yet compares: the field's own key, and that no alias is there where none should be.
    pub(super) fn expectation(&self, condition: Condition) -> Vec<Compare> {
        match condition {
            Condition::Absent => self.compares(self.aliases.len(), Condition::Absent),
            _ => self.compares(0, condition),
        }
    }

    /// Performs the operations if the value that is read is as it should be. Whether it is read from the field's own key or from an alias is known only
    /// after the first answer, so with an alias it takes two.
    async fn commit_if(&self, condition: Condition, then: Vec<Op>) -> Result<Committed> {
        let compares = self.expectation(condition.clone());
        let committed = self.commit(Txn { compares, then: then.clone(), otherwise: self.look() }).await?;
        if committed.succeeded || self.aliases.is_empty() {
            return Ok(committed);
        }
        match self.seen(committed.clone()) {
            Some(found) if found.at > 0 && holds(&condition, Some(&found.kv)) => {
                let compares = self.compares(found.at, Condition::Modified(found.kv.modified));
                self.commit(Txn { compares, then, otherwise: self.look() }).await
            }
            _ => Ok(committed),
        }
    }

    /// Deletes key by key, the aliases first; the field's own key, or the alias that was found, only if it is still the same.
    async fn delete_each(&self, expected: Option<Found>) -> Result<Option<Versioned<T>>> {
        let mut was = None;
        for (at, key) in self.keys().enumerate().collect::<Vec<_>>().into_iter().rev() {
            let expected = expected.as_ref().filter(|found| found.at == at);
            let compares = expected.map(|found| Compare::key(key, Condition::Modified(found.kv.modified))).into_iter().collect();
            let then = vec![Op::Delete { span: Span::Key(key.clone()), previous: true }];
            let committed = self.commit(Txn { compares, then, otherwise: vec![Op::Get(Span::Key(key.clone()))] }).await?;
            if !committed.succeeded {
                let revision = committed.revision;
                return Err(self.refused(ErrorKind::Conflict, self.seen(committed), revision));
            }
            was = self.previous(committed).or(was);
        }
        Ok(was)
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.context.commit(txn).await.map_err(|error| error.at(&self.key))
    }

    fn worn_out(&self) -> Error {
        Error::new(ErrorKind::Conflict, "others wrote it faster, again and again").at(&self.key)
    }

    fn refused(&self, kind: ErrorKind, found: Option<Found>, revision: Revision) -> Error {
        let error = Error::new(kind, "").at(&self.key);
        match found.and_then(|found| self.decode(found, revision).ok()) {
            Some(current) if kind != ErrorKind::NotFound => error.with_current(current),
            _ => error,
        }
    }

    /// The first of the keys that the answers to [`look`](Self::look) show.
    fn seen(&self, committed: Committed) -> Option<Found> {
        committed.results.into_iter().enumerate().find_map(|(at, result)| match result {
            OpResult::Get(reply) => Some(Found { at, kv: reply.kvs.into_iter().next()? }),
            OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
        })
    }
}

/// A value and which of the field's keys it is at.
#[derive(Clone, Debug)]
struct Found {
    at: usize,
    kv: KeyValue,
}

/// Whether a condition on one key holds of what is there.
pub(super) fn holds(condition: &Condition, kv: Option<&KeyValue>) -> bool {
    match condition {
        Condition::Absent => kv.is_none(),
        Condition::Present => kv.is_some(),
        Condition::Created(revision) => kv.is_some_and(|kv| kv.created == *revision),
        Condition::Modified(revision) => kv.is_some_and(|kv| kv.modified == *revision),
        Condition::Value(value) => kv.is_some_and(|kv| kv.value == *value),
        Condition::Lease(lease) => kv.is_some_and(|kv| kv.lease == Some(*lease)),
        Condition::UnchangedSince(revision) => kv.is_none_or(|kv| kv.modified <= *revision),
    }
}
