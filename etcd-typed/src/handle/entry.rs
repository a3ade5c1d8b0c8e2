//! `Entry<T>`: the handle of one key.

mod conditional;
mod delete;
mod publish;
mod write;

use std::any::type_name;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use self::conditional::{Expected, SeenExpiry, Written, holds};
pub use self::delete::EntryDelete;
pub use self::publish::Publish;
pub use self::write::{EntryModify, EntryWrite};
use super::SharedContext;
use super::expiry::{EnclosingExpiry, EnclosingStruct, RequestedExpiry};
use super::previous::Previous;
use crate::changes::{EntryChanges, WatchingEntry};
use crate::error::{Error, ErrorKind, Problem, ProblemKind, Result};
use crate::key::Key;
use crate::live::{EntryView, Viewing};
use crate::revision::Revision;
use crate::schema::{Fallback, Stored};
use crate::store::{Committed, Compare, Condition, Consistency, KeyValue, Op, OpResult, Range, RangeReply, Span, Txn};
use crate::telemetry::{self, Operation};
use crate::value::{Codec, contained};
use crate::version::{Expect, Versioned, Versions};

/// A handle to one key with values of type `T`.
///
/// An entry comes from a field of a derived handle (`cfg.rate_limit`), from
/// [`EntryMap::entry`](crate::EntryMap::entry), or from [`Client::entry`](crate::Client::entry).
/// Cloning is cheap, and all methods take `&self`.
///
/// # Errors
///
/// Every method that sends a request may return `Unavailable`, `Timeout`, `Unauthenticated`,
/// `PermissionDenied` or `Server`. Each method lists its additional errors. For a write,
/// [`may_have_applied`](Error::may_have_applied) returns whether the outcome is unknown.
///
/// # Cancel safety
///
/// Dropping the future of a read is safe. If the future of a write is dropped, the server may still
/// apply the write.
///
/// # Expiry
///
/// A write can set when the value expires, with `ttl` or `lease`, or that it never expires, with
/// `permanent`. Without these:
///
/// - [`modify`](Self::modify) changes the value and keeps its expiry.
/// - A write of a struct's field, through the handle of the struct or of a map in it, also keeps
///   the expiry. So all keys of a struct that was written with one lease stay attached to that
///   lease. A new key is attached to the lease of a required field. If the struct has no required
///   field, the new key is attached to the lease that all fields with a default share, provided
///   that all of them exist.
/// - Other writes of a standalone entry, from [`Client::entry`](crate::Client::entry) or
///   [`Client::entries`](crate::Client::entries), store a value that never expires, like a put of
///   etcd.
///
/// Keeping the expiry costs no extra request if nothing expires. It costs one more request if the
/// write first has to find out the expiry. On v2, which has no conditions on other keys, a field is
/// read before it is set.
///
/// On v3 a write with `ttl` creates a lease, which stays on the server until its time has passed.
/// If the time is five minutes or longer, writes with the same time share leases and may expire up
/// to one twentieth later; see [`Expiry::After`](crate::store::Expiry::After). For a key that is
/// written often, such as a heartbeat, [`publish`](Self::publish) costs less, and so does
/// `.lease(&lease)` with a lease from [`Client::lease`](crate::Client::lease). Do not revoke a
/// lease that you found at a key, since other keys may be attached to it.
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
/// // Another write came first: the error contains the current value.
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
    pub(super) context: SharedContext,
    key: Key,
    /// The keys that are read, in this order, if the field's own key does not exist.
    aliases: Vec<Key>,
    codec: Codec<T>,
    /// The value of the field if no key exists.
    default: Fallback<T>,
    /// The enclosing struct, if there is one.
    enclosing: Option<Arc<EnclosingStruct>>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        let Self { context, key, aliases, codec, default, enclosing } = self;
        Self {
            context: context.clone(),
            key: key.clone(),
            aliases: aliases.clone(),
            codec: *codec,
            default: *default,
            enclosing: enclosing.clone(),
        }
    }
}

impl<T> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("type", &self.codec.type_name).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Entry<T> {
    pub(crate) fn new(context: SharedContext, key: Key, codec: Codec<T>) -> Self {
        Self { context, key, aliases: Vec::new(), codec, default: Fallback::None, enclosing: None }
    }

    pub(super) fn with_aliases(mut self, aliases: Vec<Key>) -> Self {
        self.aliases = aliases;
        self
    }

    pub(super) fn with_default(mut self, default: Fallback<T>) -> Self {
        self.default = default;
        self
    }

    /// Marks the handle as part of this struct.
    pub(super) fn within(mut self, enclosing: Option<Arc<EnclosingStruct>>) -> Self {
        self.enclosing = enclosing;
        self
    }

    /// Returns the key, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Reads the value. Returns `None` if the key does not exist.
    ///
    /// This method ignores the default of a struct's field;
    /// [`get_or_default`](Self::get_or_default) uses it. If the field's own key does not exist, the
    /// first alias that exists is read. All other methods except [`watch`](Self::watch) fall back
    /// to the aliases in the same way. The base value of a live view
    /// ([`over`](crate::Viewing::over)) is ignored too.
    ///
    /// # Errors
    ///
    /// `Decode` if the stored value is not a `T`. `IsADirectory` (v2).
    pub async fn get(&self) -> Result<Option<Versioned<T>>> {
        let work = async {
            let (found, revision) = self.find(self.context.reads).await?;
            found.map(|found| self.decode(found, revision)).transpose()
        };
        self.operation("get").run(self.context.retry.one_call(work)).await
    }

    /// Reads the value, or returns the field's default if no key exists. Returns `None` if the
    /// field has no default either. A read of the whole struct returns the same value for the
    /// field.
    ///
    /// For a default, [`Versioned::modified`] is zero. A
    /// [`compare_and_swap`](Self::compare_and_swap) with it requires that the key still does not
    /// exist.
    ///
    /// # Errors
    ///
    /// The errors of [`get`](Self::get).
    pub async fn get_or_default(&self) -> Result<Option<Versioned<T>>> {
        let work = async {
            let (found, revision) = self.find(self.context.reads).await?;
            match found {
                Some(found) => self.decode(found, revision).map(Some),
                None => Ok(self.default()?.map(|value| self.versioned(value, Versions { revision, ..Versions::default() }))),
            }
        };
        self.operation("get").run(self.context.retry.one_call(work)).await
    }

    /// Returns whether the key exists, even if its value is not a `T`.
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
        self.operation("exists").run(self.context.retry.one_call(work)).await
    }

    /// Writes the value unconditionally. Returns the revision of the write. An entry of a `String`
    /// also accepts a `&str`: `name.set("x")`.
    ///
    /// A field of a struct keeps its [expiry](Self#expiry). A standalone entry never expires after
    /// this write, unless the write sets a lease or a time to live.
    ///
    /// # Errors
    ///
    /// `Invalid` if the value fails the field's validation, `Encode` if it has no stored form,
    /// `TooLarge`, `NoSpace`. In all of these cases nothing was written.
    pub fn set(&self, value: impl AsValue<T>) -> EntryWrite<T, Revision> {
        self.write("set", value, Ok(None), Self::written)
    }

    /// Writes the value if the key does not exist.
    ///
    /// # Errors
    ///
    /// The errors of [`set`](Self::set). `AlreadyExists`, with the current value in
    /// [`Error::current`].
    pub fn create(&self, value: impl AsValue<T>) -> EntryWrite<T, Revision> {
        let mut write = self.write("create", value, Ok(Some(Condition::Absent.into())), Self::written);
        write.refusal = ErrorKind::AlreadyExists;
        write
    }

    /// Writes the value if the key exists.
    ///
    /// # Errors
    ///
    /// The errors of [`set`](Self::set), and `NotFound`.
    pub fn replace(&self, value: impl AsValue<T>) -> EntryWrite<T, Revision> {
        let mut write = self.write("replace", value, Ok(Some(Condition::Present.into())), Self::written);
        write.refusal = ErrorKind::NotFound;
        write
    }

    /// Writes the value and returns the [previous](Previous) one.
    ///
    /// # Errors
    ///
    /// The errors of [`set`](Self::set).
    pub fn swap(&self, value: impl AsValue<T>) -> EntryWrite<T, Previous<T>> {
        let mut write = self.write("swap", value, Ok(None), Self::previous);
        write.previous = true;
        write
    }

    /// Writes the value if the key is in the expected state: as it was read (`&Versioned<T>`,
    /// `&Option<Versioned<T>>`), or as described by an [`Expect`].
    ///
    /// # Errors
    ///
    /// The errors of [`set`](Self::set). `Conflict`, with the current value in [`Error::current`].
    /// The current value is part of the server's answer (on v2, it takes a second request).
    pub fn compare_and_swap<'e>(&self, expected: impl Into<Expect<'e, T>>, value: impl AsValue<T>) -> EntryWrite<T, Revision> {
        self.write("compare_and_swap", value, self.expected(expected.into()).map(Some), Self::written)
    }

    /// Deletes the key and returns the [previous](Previous) value. If the key does not exist, this
    /// is not an error.
    pub fn delete(&self) -> EntryDelete<T> {
        EntryDelete { entry: self.clone(), expected: Ok(None) }
    }

    /// Deletes the key if it is in the expected state, and returns the [previous](Previous) value.
    ///
    /// # Errors
    ///
    /// `Conflict`, with the current value in [`Error::current`].
    pub fn compare_and_delete<'e>(&self, expected: impl Into<Expect<'e, T>>) -> EntryDelete<T> {
        EntryDelete { entry: self.clone(), expected: self.expected(expected.into()).map(Some) }
    }

    /// Reads the value, applies `f`, and writes the result if the key has not changed since the
    /// read. Otherwise `modify` starts again with the current value. If no value exists, `f`
    /// receives the field's default, or `None` without a default. If `f` returns `None`, the key is
    /// deleted. Returns the value that is stored afterwards.
    ///
    /// `f` may run several times; the stored result is always `f` of the value that it replaces. If
    /// `f` returns the value that was read, nothing is written, even if this library would store
    /// the value in another form (a stored `+7` stays while the value is 7). A modification that
    /// sets a different expiry is written in any case. Otherwise the value keeps its
    /// [expiry](Self#expiry). The base value of a live view ([`over`](crate::Viewing::over)) is
    /// ignored.
    ///
    /// The answer to a conflict contains the current value, so the next attempt follows at once,
    /// without another read. After every fourth attempt `modify` waits, with jitter, and reads the
    /// value again.
    ///
    /// # Errors
    ///
    /// The errors of [`set`](Self::set). `Decode` if the stored value is not a `T`. `Conflict` when
    /// the budget in [`RetryPolicy::conflict_budget`](crate::RetryPolicy::conflict_budget) is used
    /// up.
    pub fn modify<'f>(&self, f: impl Fn(Option<T>) -> Option<T> + Send + 'f) -> EntryModify<'f, T> {
        EntryModify { entry: self.clone(), f: Box::new(f), requested: RequestedExpiry::Keep }
    }

    /// Watches the changes of the key from now on, as a stream that reconnects by itself. Await the
    /// result, or first set where the watch starts. The watch reports changes of the field's own
    /// key only. A watch of the struct's directory also reports changes of the aliases.
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
        let Self { context, key, codec, default, .. } = self;
        WatchingEntry::new(context.lease_pool.roaming().clone(), context.retry.clone(), key.clone(), *codec)
            .with_default(*default)
            .with_pattern(context.pattern(type_name::<T>()))
    }

    /// Opens an always-current view of the value (`None` if the key does not exist); see
    /// [`Live`](crate::Live). The view shows what [`get`](Self::get) would return, without the
    /// field's default. A view of the whole struct includes defaults.
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
        // An entry is never the root, so it has a parent.
        let directory = self.key.parent().unwrap_or_else(Key::root);
        let span = if self.aliases.is_empty() { Span::Key(self.key.clone()) } else { Span::Below(directory.clone()) };
        let keys = self.keys().filter_map(|key| Some(directory.below(key.as_str().as_bytes())?.to_owned())).collect();
        self.context.view(span, &directory, self.context.pattern(type_name::<T>()), EntryView::new(keys, self.codec))
    }

    /// Waits until the value satisfies `wanted`, and returns the value. `wanted` receives `None` if
    /// neither a value nor a default exists. The current value is checked first.
    ///
    /// A value that cannot be decoded never satisfies `wanted`.
    ///
    /// # Errors
    ///
    /// The errors that end a [`watch`](Self::watch).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future is safe.
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

    pub(super) fn operation(&self, op: &'static str) -> Operation {
        Operation::new(op, self.context.pattern(type_name::<T>()))
    }

    /// Returns the structs that decide when a new key expires. `None` for a standalone entry.
    pub(super) fn enclosing_expiry(&self) -> Option<EnclosingExpiry> {
        self.enclosing.as_ref().map(|enclosing| EnclosingExpiry::of(Some(enclosing), &self.key))
    }

    /// Returns the field's own key, followed by its aliases.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.key).chain(&self.aliases)
    }

    fn transactional(&self) -> bool {
        self.context.store.capabilities().transactions
    }

    /// Returns whether one transaction can cover all keys of the field.
    fn together(&self) -> bool {
        self.aliases.is_empty() || self.transactional()
    }

    /// Like [`find`](Self::find), for a read that a write depends on.
    async fn find_to_write(&self) -> Result<(Option<Found>, Revision)> {
        if self.context.is_guarded() { self.find_in_one().await } else { self.find(Consistency::Linearizable).await }
    }

    /// Returns the first of the field's keys that exists, and the revision of the read.
    ///
    /// If the store and the consistency allow it, one transaction reads all keys at one revision.
    /// Otherwise the read could miss a value that another client moves from an alias to the field's
    /// own key.
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

    /// Like [`find`](Self::find), always in one transaction.
    async fn find_in_one(&self) -> Result<(Option<Found>, Revision)> {
        let committed = self.commit(Txn { then: self.look(), ..Txn::default() }).await?;
        let revision = committed.revision;
        Ok((self.seen(committed), revision))
    }

    /// Validates and encodes a value.
    pub(super) fn encode(&self, value: &T) -> Result<Bytes> {
        self.codec.validate(value).map_err(|reason| {
            let problem = Problem { key: self.key.clone(), kind: ProblemKind::Rejected, reason: reason.to_string(), revision: None };
            Error::from_problems(vec![problem])
        })?;
        self.codec.encode(value).map_err(|reason| Error::new(ErrorKind::Encode, reason.to_string()).at(&self.key))
    }

    pub(super) fn expected(&self, expected: Expect<'_, T>) -> Result<Expected> {
        Ok(match expected {
            Expect::Absent => Condition::Absent.into(),
            Expect::Present => Condition::Present.into(),
            Expect::Revision(revision) => Condition::Modified(revision).into(),
            Expect::Value(value) => {
                let bytes = self.codec.encode(value);
                Condition::Value(bytes.map_err(|reason| Error::new(ErrorKind::Encode, reason.to_string()).at(&self.key))?).into()
            }
            Expect::Seen { modified, lease, ttl } => {
                Expected { condition: Condition::Modified(modified), seen: Some(SeenExpiry { lease, has_ttl: ttl.is_some() }) }
            }
        })
    }

    /// Returns whether a condition holds for a stored value. Values are compared after decoding, so
    /// two stored forms of one value are equal.
    pub(super) fn holds(&self, condition: &Condition, kv: Option<&KeyValue>) -> bool {
        match (condition, kv) {
            (Condition::Value(value), Some(kv)) => self.codec.is_same(value, &kv.value),
            (condition, kv) => holds(condition, kv),
        }
    }

    fn versioned(&self, value: T, versions: Versions) -> Versioned<T> {
        Versioned::new(value, versions).secret(self.codec.is_secret())
    }

    /// Returns the default of the field, if it has one.
    fn default(&self) -> Result<Option<T>> {
        let value = contained("the default", || Ok(self.default.value()));
        value.map_err(|reason| Error::new(ErrorKind::Invalid, self.codec.masked(reason).to_string()).at(&self.key))
    }

    /// Returns whether `bytes` is the stored form of the field's default.
    fn is_default(&self, bytes: &Bytes) -> bool {
        matches!(self.default(), Ok(Some(value)) if self.codec.form(&value).is_ok_and(|stored| stored == *bytes))
    }

    /// Returns the value in the answer to a read. `None` if the key does not exist or its value is
    /// not a `T`.
    pub(super) fn present(&self, reply: RangeReply) -> Option<Versioned<T>> {
        let kv = reply.kvs.into_iter().next()?;
        self.decode(Found { at: 0, kv }, reply.revision).ok()
    }

    /// Decodes a value that was read at the key with index `at` in [`keys`](Self::keys).
    pub(super) fn read_as(&self, at: usize, kv: KeyValue, revision: Revision) -> Result<Versioned<T>> {
        self.decode(Found { at, kv }, revision)
    }

    fn decode(&self, found: Found, revision: Revision) -> Result<Versioned<T>> {
        let stored = Stored::from(found.kv);
        match self.codec.decode(&stored.value) {
            Ok(value) => Ok(self.versioned(value, stored.versions(revision))),
            Err(reason) => {
                let message = format!("{reason} (revision {})", stored.modified);
                Err(Error::new(ErrorKind::Decode, message).at(self.keys().nth(found.at).unwrap_or(&self.key)))
            }
        }
    }

    fn write<O>(
        &self,
        op: &'static str,
        value: impl AsValue<T>,
        expected: Result<Option<Expected>>,
        finish: fn(&Self, Committed) -> O,
    ) -> EntryWrite<T, O> {
        let parts = value.lend(|value| self.encode(value)).and_then(|bytes| Ok((bytes, expected?)));
        EntryWrite {
            entry: self.clone(),
            op,
            parts,
            requested: RequestedExpiry::Keep,
            previous: false,
            refusal: ErrorKind::Conflict,
            finish,
        }
    }

    fn written(&self, committed: Committed) -> Revision {
        committed.revision
    }

    /// Returns the value of the first key that a write replaced or deleted.
    fn previous(&self, committed: Committed) -> Previous<T> {
        self.previous_from(0, committed)
    }

    /// Like [`previous`](Self::previous), for results that begin with the key at index `first`.
    fn previous_from(&self, first: usize, committed: Committed) -> Previous<T> {
        let revision = committed.revision;
        let found = committed.results.into_iter().zip(first..).find_map(|(result, at)| {
            let kv = match result {
                OpResult::Put(previous) => previous?,
                OpResult::Delete { previous, .. } => previous.into_iter().next()?,
                OpResult::Get(alias) => alias.kvs.into_iter().next()?,
                OpResult::Done => return None,
            };
            Some(Found { at, kv })
        });
        match found.map(|found| self.decode(found, revision)) {
            None => Previous::Nothing,
            Some(Ok(value)) => Previous::Value(value),
            Some(Err(error)) => {
                telemetry::previous_undecodable(self.context.pattern(type_name::<T>()));
                Previous::Unreadable(error)
            }
        }
    }

    /// Returns deletions of every key of the field. If an alias were left, reads would use its
    /// value.
    pub(super) fn deletes(&self) -> Vec<Op> {
        self.keys().map(|key| Op::Delete { span: Span::Key(key.clone()), previous: true }).collect()
    }

    /// Returns the reads that a transaction performs if its conditions fail, so that the answer
    /// contains the current value. Without transactions only one key can be read.
    fn look(&self) -> Vec<Op> {
        let keys = if self.transactional() { usize::MAX } else { 1 };
        self.keys().take(keys).map(|key| Op::Get(Span::Key(key.clone()))).collect()
    }

    /// Returns the conditions that the key at index `at` is the first key of the field that exists,
    /// and that `condition` holds for this key. Without transactions, returns only the condition on
    /// the field's own key.
    fn compares(&self, at: usize, condition: Condition) -> Vec<Compare> {
        let absent = self.keys().take(at).map(|key| Compare::key(key, Condition::Absent));
        let is = self.keys().nth(at).map(|key| Compare::key(key, condition));
        let transactions = self.transactional();
        absent.chain(is).filter(|compare| transactions || compare.span.key() == &self.key).collect()
    }

    /// Returns the conditions of a first transaction, before the current state is known. They check
    /// the field's own key, and for `Absent` also the aliases.
    pub(super) fn expectation(&self, condition: Condition) -> Vec<Compare> {
        match condition {
            Condition::Absent => self.compares(self.aliases.len(), Condition::Absent),
            _ => self.compares(0, condition),
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.context.commit(txn).await.map_err(|error| error.at(&self.key))
    }

    fn worn_out(&self) -> Error {
        Error::new(ErrorKind::Conflict, "other writers were faster on every attempt; try again later").at(&self.key)
    }

    fn refused(&self, kind: ErrorKind, found: Option<Found>, revision: Revision) -> Error {
        let error = Error::new(kind, "").at(&self.key);
        match found.and_then(|found| self.decode(found, revision).ok()) {
            Some(current) if kind != ErrorKind::NotFound => error.with_current(current),
            _ => error,
        }
    }

    /// Returns the first key that exists, from the answers to [`look`](Self::look), which other
    /// answers may follow.
    fn seen(&self, committed: Committed) -> Option<Found> {
        committed.results.into_iter().take(1 + self.aliases.len()).enumerate().find_map(|(at, result)| match result {
            OpResult::Get(reply) => Some(Found { at, kv: reply.kvs.into_iter().next()? }),
            OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
        })
    }
}

/// A value that the methods of an [`Entry<T>`](Entry) accept: `&T`, or a `&str` for a `String`.
#[diagnostic::on_unimplemented(message = "`{Self}` is not a value of an `Entry<{T}>`", label = "expected a `&{T}`")]
pub trait AsValue<T> {
    /// Calls `f` with the value.
    #[doc(hidden)]
    fn lend<R>(self, f: impl FnOnce(&T) -> R) -> R;
}

impl<T> AsValue<T> for &T {
    #[inline]
    fn lend<R>(self, f: impl FnOnce(&T) -> R) -> R {
        f(self)
    }
}

impl AsValue<String> for &str {
    fn lend<R>(self, f: impl FnOnce(&String) -> R) -> R {
        f(&self.to_owned())
    }
}

/// A stored value, and the index of the field's key that holds it.
#[derive(Clone, Debug)]
struct Found {
    at: usize,
    kv: KeyValue,
}
