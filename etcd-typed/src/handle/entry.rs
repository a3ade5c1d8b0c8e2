//! `Entry<T>`: one key.

mod delete;
mod publish;
mod write;

use std::any::type_name;
use std::fmt;
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;

pub use self::delete::EntryDelete;
pub use self::publish::{Publish, Published};
pub use self::write::{EntryModify, EntryWrite};
use super::Shared;
use super::expiry::{Home, Surroundings, Wish};
use super::previous::Previous;
use crate::changes::{EntryChanges, WatchingEntry};
use crate::error::{Error, ErrorKind, Problem, ProblemKind, Result};
use crate::key::Key;
use crate::live::{EntryView, Viewing};
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::revision::{LeaseId, Revision};
use crate::schema::Stored;
use crate::store::{Committed, Compare, Condition, Consistency, Expiry, KeyValue, Op, OpResult, Range, RangeReply, Span, Txn};
use crate::telemetry::{self, Operation};
use crate::value::{Codec, contained};
use crate::version::{Expect, Versioned, Versions};

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
/// # Expiry
///
/// A write can name when the value expires, with `ttl` or `lease`, or that it never does, with `permanent`. One that names nothing:
///
/// - [`modify`](Self::modify) changes the value and leaves the expiry as it is.
/// - Every write of a struct's field, through the handle of the struct or of a map in it, leaves it as it is, too: a struct that was written with one
///   lease stays attached to it as a whole. Where the key is not there yet it is attached to the lease that the struct has: that of a
///   required field. (A struct without required fields has one if all its fields with defaults are there and agree.)
/// - Other writes of an entry that stands alone, from [`Client::entry`](crate::Client::entry) or [`Client::entries`](crate::Client::entries), write a value that never expires, as
///   a put of etcd does.
///
/// It costs no request where nothing expires, and one more where the expiry that is there was not known. On v2, which has no conditions on other
/// keys, a field is read before it is set.
///
/// On v3 a write with `ttl` makes a lease, which stays on the server for its whole time. From five
/// minutes on, writes with the same time to live share leases and may end a twentieth later; see
/// [`Expiry::After`]. For a key that is written often, as a sign of life, `.lease(&lease)` with a
/// lease from [`Client::lease`](crate::Client::lease), or [`publish`](Self::publish), costs less.
/// Do not revoke a lease that was found at a key: other keys may be attached to it.
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
    /// What the field's value is where no key is.
    default: Option<fn() -> T>,
    /// The struct that it is a part of.
    home: Option<Arc<Home>>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        let Self { context, key, aliases, codec, default, home } = self;
        Self { context: context.clone(), key: key.clone(), aliases: aliases.clone(), codec: *codec, default: *default, home: home.clone() }
    }
}

impl<T> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &self.key).field("type", &self.codec.type_name).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Entry<T> {
    pub(crate) fn new(context: Shared, key: Key, codec: Codec<T>) -> Self {
        Self { context, key, aliases: Vec::new(), codec, default: None, home: None }
    }

    pub(super) fn with_aliases(mut self, aliases: Vec<Key>) -> Self {
        self.aliases = aliases;
        self
    }

    pub(super) fn with_default(mut self, default: Option<fn() -> T>) -> Self {
        self.default = default;
        self
    }

    /// As a part of this struct.
    pub(super) fn within(mut self, home: Option<Arc<Home>>) -> Self {
        self.home = home;
        self
    }

    /// The key, from the root of the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The value, or none.
    ///
    /// A default of the struct's field is not used here: none means that no key is there. [`get_or_default`](Self::get_or_default) uses it. A
    /// field with aliases is read from the first alias where its own key is not there, and every other method takes that for its value as well,
    /// but for [`watch`](Self::watch), which follows the field's own key alone.
    ///
    /// # Errors
    ///
    /// `Decode` when what is stored is not a `T`. `IsADirectory` (v2).
    pub async fn get(&self) -> Result<Option<Versioned<T>>> {
        let work = async {
            let (found, revision) = self.find(self.context.reads).await?;
            found.map(|found| self.decode(found, revision)).transpose()
        };
        Self::operation("get").run(self.context.retry.one_call(work)).await
    }

    /// The value, or the field's default where no key is there, or none where it has no default either: what a read of the struct has in the
    /// field.
    ///
    /// Of a default [`Versioned::modified`] is zero. A [`compare_and_swap`](Self::compare_and_swap) with it expects that there is still no key.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn get_or_default(&self) -> Result<Option<Versioned<T>>> {
        let work = async {
            let (found, revision) = self.find(self.context.reads).await?;
            match found {
                Some(found) => self.decode(found, revision).map(Some),
                None => Ok(self.default()?.map(|value| self.versioned(value, Versions { revision, ..Versions::default() }))),
            }
        };
        Self::operation("get").run(self.context.retry.one_call(work)).await
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
        Self::operation("exists").run(self.context.retry.one_call(work)).await
    }

    /// Writes the value, whatever is there. The answer is the revision of the write.
    ///
    /// A field of a struct keeps its [expiry](Self#expiry). An entry that stands alone never expires from then on, unless the write names a lease
    /// or a time to live.
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
        let mut write = self.write("create", value, Ok(Some(Condition::Absent.into())), Self::written);
        write.refusal = ErrorKind::AlreadyExists;
        write
    }

    /// Writes the value if there is one.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), and `NotFound`.
    pub fn replace(&self, value: &T) -> EntryWrite<T, Revision> {
        let mut write = self.write("replace", value, Ok(Some(Condition::Present.into())), Self::written);
        write.refusal = ErrorKind::NotFound;
        write
    }

    /// Writes the value and returns the [previous](Previous) one.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub fn swap(&self, value: &T) -> EntryWrite<T, Previous<T>> {
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
        self.write("compare_and_swap", value, self.expected(expected.into()).map(Some), Self::written)
    }

    /// Deletes the key and returns the [previous](Previous) value. A key that does not exist is no error.
    pub fn delete(&self) -> EntryDelete<T> {
        EntryDelete { entry: self.clone(), expected: Ok(None) }
    }

    /// Deletes the key if it is as expected, and returns the [previous](Previous) value.
    ///
    /// # Errors
    ///
    /// `Conflict`; then [`Error::current`] is the value that is there.
    pub fn compare_and_delete<'e>(&self, expected: impl Into<Expect<'e, T>>) -> EntryDelete<T> {
        EntryDelete { entry: self.clone(), expected: self.expected(expected.into()).map(Some) }
    }

    /// Reads, applies `f` and writes the result if the key is still as it was read; else starts again with what is there now. `f` gets the
    /// field's default when there is no value, or none where it has no default, and gives none to delete the key. The answer is what is stored then.
    ///
    /// `f` may run several times; what is stored is `f` of the value that it replaced. A result
    /// that equals the value which was read is not written, in whatever form that value is stored
    /// (`+7` stays as it is while the value is 7), unless the write names when it expires and that
    /// is not so already. What is written keeps its [expiry](Self#expiry).
    ///
    /// The value that a conflict shows is tried at once, without a read. After every fourth attempt there is a wait, with jitter, and the value is
    /// read anew.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set); `Decode` when what is stored is not a `T`; `Conflict` when the budget of
    /// [`RetryPolicy::conflict_budget`](crate::RetryPolicy::conflict_budget) is used up.
    pub fn modify<'f>(&self, f: impl Fn(Option<T>) -> Option<T> + Send + 'f) -> EntryModify<'f, T> {
        EntryModify { entry: self.clone(), f: Box::new(f), wish: Wish::Keep }
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
        let Self { context, key, codec, default, .. } = self;
        WatchingEntry::new(context.lessor.roaming().clone(), context.retry.clone(), key.clone(), *codec).with_default(*default)
    }

    /// The value as an always-current view (none: there is no key); see [`Live`](crate::Live). It is what [`get`](Self::get) would read, so
    /// without the field's default, which a view of the struct has.
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

    /// Waits until the value (none: there is none, and the field has no default) satisfies `wanted`, and gives it. It looks at the value that is
    /// there now first.
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

    /// What tells when a write of a part of a struct expires; none of an entry that stands alone.
    pub(super) fn surroundings(&self) -> Option<Surroundings> {
        self.home.as_ref().map(|home| Surroundings::of(Some(home), &self.key))
    }

    /// The field's own key and then its aliases.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
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

    /// Whether a condition holds of what is there. Equal values are equal, whatever form of the value is stored.
    pub(super) fn holds(&self, condition: &Condition, kv: Option<&KeyValue>) -> bool {
        match (condition, kv) {
            (Condition::Value(value), Some(kv)) => self.codec.is_same(value, &kv.value),
            (condition, kv) => holds(condition, kv),
        }
    }

    fn versioned(&self, value: T, versions: Versions) -> Versioned<T> {
        Versioned::new(value, versions).secret(self.codec.is_secret())
    }

    /// The field's default, where it has one.
    fn default(&self) -> Result<Option<T>> {
        let value = self.default.map(|default| contained("the default", || Ok(default()))).transpose();
        value.map_err(|reason| Error::new(ErrorKind::Invalid, self.codec.masked(reason).to_string()).at(&self.key))
    }

    /// Whether this is the stored form of the field's default.
    fn is_default(&self, bytes: &Bytes) -> bool {
        matches!(self.default(), Ok(Some(value)) if self.codec.form(&value).is_ok_and(|stored| stored == *bytes))
    }

    /// What is there now, as a `T`; none also where it is not one.
    pub(super) fn present(&self, reply: RangeReply) -> Option<Versioned<T>> {
        let kv = reply.kvs.into_iter().next()?;
        self.decode(Found { at: 0, kv }, reply.revision).ok()
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
        value: &T,
        expected: Result<Option<Expected>>,
        finish: fn(&Self, Committed) -> O,
    ) -> EntryWrite<T, O> {
        let parts = self.encode(value).and_then(|bytes| Ok((bytes, expected?)));
        EntryWrite { entry: self.clone(), op, parts, wish: Wish::Keep, previous: false, refusal: ErrorKind::Conflict, finish }
    }

    fn written(&self, committed: Committed) -> Revision {
        committed.revision
    }

    /// The value of the first key that a write replaced or deleted.
    fn previous(&self, committed: Committed) -> Previous<T> {
        self.previous_from(0, committed)
    }

    /// The same of operations on the field's keys from this one on.
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
                telemetry::previous_undecodable(type_name::<T>());
                Previous::Unreadable(error)
            }
        }
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

    /// Whether a write keeps the expiry of what it changes. (That `modify` does it decides by itself.)
    fn keeps(&self, wish: Wish) -> bool {
        wish == Wish::Keep && self.home.is_some()
    }

    /// Performs the operations if the value that is read is as expected, with the expiry that they are to give it.
    ///
    /// What is not known is guessed: that the value is at the field's own key, that its stored form is ours, and that nothing expires. A refused
    /// transaction shows what is so instead; then it takes two.
    async fn write_if(&self, expected: Option<&Expected>, wish: Wish, ops: impl Fn(Expiry) -> Vec<Op>) -> Result<Written> {
        let mut wish = wish;
        if let (true, Some(Expected { seen: Some(seen), .. })) = (self.keeps(wish), expected) {
            match (seen.lease, self.transactional()) {
                // What was not written since is attached to it still.
                (Some(lease), true) => wish = Wish::Named(Expiry::With(lease)),
                (None, false) if !seen.has_ttl => wish = Wish::Named(Expiry::Never),
                _ => {}
            }
        }
        let keeps = self.keeps(wish);
        if !self.transactional() && (keeps || !self.aliases.is_empty()) {
            return self.read_and_write_if(expected, wish, ops).await;
        }
        let mut surroundings = if keeps { Surroundings::of(self.home.as_ref(), &self.key) } else { Surroundings::default() };
        let mut retry = OptimisticRetry::new(&self.context.retry);
        let mut known: Option<Option<Found>> = None;
        loop {
            let mut compares = match (&known, expected) {
                (None, Some(Expected { condition, .. })) => self.expectation(condition.clone()),
                (None, None) => Vec::new(),
                (Some(Some(Found { at, kv: KeyValue { lease: Some(lease), .. } })), None) => self.compares(*at, Condition::Lease(*lease)),
                (Some(Some(found)), _) => self.compares(found.at, Condition::Modified(found.kv.modified)),
                (Some(None), _) => self.compares(self.aliases.len(), Condition::Absent),
            };
            if keeps && known.is_none() {
                compares.extend(self.keys().map(|key| Compare::key(key, Condition::NeverExpires)));
            }
            if keeps && known.as_ref().is_none_or(Option::is_none) && expected.is_none_or(|it| it.condition == Condition::Absent) {
                compares.extend(surroundings.compares());
            }
            let expiry = match &known {
                Some(Some(found)) if keeps => found.kv.expiry(),
                Some(None) if keeps => surroundings.expiry(),
                _ => wish.or_never(),
            };
            let otherwise = self.look().into_iter().chain(surroundings.looks()).collect();
            let committed = self.commit(Txn { compares, then: ops(expiry), otherwise }).await?;
            if committed.succeeded {
                return Ok(Written::Done(committed));
            }
            surroundings.learn(&committed.results);
            let revision = committed.revision;
            let found = self.seen(committed);
            if expected.is_some_and(|expected| !self.holds(&expected.condition, found.as_ref().map(|found| &found.kv))) {
                return Ok(Written::Refused(found, revision));
            }
            match retry.after_conflict(Some(Some(found)), ready(Ok::<_, Error>(None))).await? {
                AfterConflict::Retry(now) => known = now,
                AfterConflict::GiveUp(now) => return Ok(Written::Refused(now.flatten().flatten(), revision)),
            }
            if known.is_none() {
                surroundings.forget();
            }
        }
    }

    /// [`write_if`](Self::write_if) where a transaction is about one key alone: whatever decides is read first, and the key is then to be as it was
    /// found.
    async fn read_and_write_if(&self, expected: Option<&Expected>, wish: Wish, ops: impl Fn(Expiry) -> Vec<Op>) -> Result<Written> {
        let keeps = self.keeps(wish);
        let mut retry = OptimisticRetry::new(&self.context.retry);
        let (mut found, mut revision) = self.find_to_write().await?;
        loop {
            if expected.is_some_and(|expected| !self.holds(&expected.condition, found.as_ref().map(|found| &found.kv))) {
                return Ok(Written::Refused(found, revision));
            }
            let expiry = match &found {
                Some(found) if keeps => found.kv.expiry(),
                None if keeps => self.expiry_around().await?,
                _ => wish.or_never(),
            };
            let compares = self.as_found(found.as_ref());
            match self.commit(Txn { compares, then: ops(expiry), otherwise: self.look() }).await {
                Ok(committed) if committed.succeeded => return Ok(Written::Done(committed)),
                // The lease that was kept is over.
                Err(error) if error.kind() != ErrorKind::LeaseLost || !keeps => return Err(error),
                Ok(_) | Err(_) => {}
            }
            match retry.after_conflict(None, self.find_to_write()).await? {
                AfterConflict::Retry(now) => (found, revision) = now,
                AfterConflict::GiveUp(_) => return Ok(Written::Refused(found, revision)),
            }
        }
    }

    /// When the struct around the key expires, read where it cannot be guessed.
    async fn expiry_around(&self) -> Result<Expiry> {
        let mut surroundings = Surroundings::of(self.home.as_ref(), &self.key);
        surroundings.read(&self.context).await?;
        Ok(surroundings.expiry())
    }

    /// That the key is as it was found.
    fn as_found(&self, found: Option<&Found>) -> Vec<Compare> {
        match found {
            Some(found) => self.compares(found.at, Condition::Modified(found.kv.modified)),
            None => self.compares(self.aliases.len(), Condition::Absent),
        }
    }

    /// Deletes what is as expected where a transaction is about one key alone.
    async fn delete_one_by_one(&self, expected: Option<&Expected>) -> Result<Previous<T>> {
        let Some(Expected { condition, .. }) = expected else { return self.delete_each(None).await };
        let mut retry = OptimisticRetry::new(&self.context.retry);
        let (mut found, mut revision) = self.find_to_write().await?;
        loop {
            if !self.holds(condition, found.as_ref().map(|found| &found.kv)) {
                return Err(self.refused(ErrorKind::Conflict, found, revision));
            }
            match self.delete_each(found.clone()).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                deleted => return deleted,
            }
            match retry.after_conflict(None, self.find_to_write()).await? {
                AfterConflict::Retry(now) => (found, revision) = now,
                AfterConflict::GiveUp(_) => return Err(self.refused(ErrorKind::Conflict, found, revision)),
            }
        }
    }

    /// Deletes key by key, the aliases first; the field's own key, or the alias that was found, only if it is still the same.
    async fn delete_each(&self, expected: Option<Found>) -> Result<Previous<T>> {
        let mut was = Previous::Nothing;
        for (at, key) in self.keys().enumerate().collect::<Vec<_>>().into_iter().rev() {
            let expected = expected.as_ref().filter(|found| found.at == at);
            let compares = expected.map(|found| Compare::key(key, Condition::Modified(found.kv.modified))).into_iter().collect();
            let then = vec![Op::Delete { span: Span::Key(key.clone()), previous: true }];
            let committed = self.commit(Txn { compares, then, otherwise: vec![Op::Get(Span::Key(key.clone()))] }).await?;
            if !committed.succeeded {
                let revision = committed.revision;
                return Err(self.refused(ErrorKind::Conflict, self.seen(committed), revision));
            }
            // The first key that exists is the one that a read would have used.
            let previous = self.previous_from(at, committed);
            was = if previous.existed() { previous } else { was };
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

    /// The first of the keys that the answers to [`look`](Self::look) show; others may come after them.
    fn seen(&self, committed: Committed) -> Option<Found> {
        committed.results.into_iter().take(1 + self.aliases.len()).enumerate().find_map(|(at, result)| match result {
            OpResult::Get(reply) => Some(Found { at, kv: reply.kvs.into_iter().next()? }),
            OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
        })
    }
}

/// What a write expects to find.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) condition: Condition,
    /// What is known of when that expires, if it was read.
    seen: Option<SeenExpiry>,
}

#[derive(Clone, Copy, Debug)]
struct SeenExpiry {
    lease: Option<LeaseId>,
    has_ttl: bool,
}

impl From<Condition> for Expected {
    fn from(condition: Condition) -> Self {
        Self { condition, seen: None }
    }
}

/// What became of a write.
enum Written {
    Done(Committed),
    /// This was there instead of what was expected, at this revision.
    Refused(Option<Found>, Revision),
}

/// A value and which of the field's keys it is at.
#[derive(Clone, Debug)]
struct Found {
    at: usize,
    kv: KeyValue,
}

/// Whether a condition on one key holds of what is there, byte for byte.
fn holds(condition: &Condition, kv: Option<&KeyValue>) -> bool {
    match condition {
        Condition::Absent => kv.is_none(),
        Condition::Present => kv.is_some(),
        Condition::Created(revision) => kv.is_some_and(|kv| kv.created == *revision),
        Condition::Modified(revision) => kv.is_some_and(|kv| kv.modified == *revision),
        Condition::Value(value) => kv.is_some_and(|kv| kv.value == *value),
        Condition::Lease(lease) => kv.is_some_and(|kv| kv.lease == Some(*lease)),
        Condition::UnchangedSince(revision) => kv.is_none_or(|kv| kv.modified <= *revision),
        Condition::NeverExpires => kv.is_none_or(|kv| kv.lease.is_none() && kv.ttl.is_none()),
    }
}
