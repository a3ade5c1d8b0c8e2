//! `Transaction`: typed conditions and typed writes on any handles, in one atomic commit.

mod reads;

use std::fmt;
use std::future::IntoFuture;

use bytes::Bytes;

pub use self::reads::{Reads, TransactionReads};
use super::SharedContext;
use super::dir::Dir;
use super::directory::{Directory, Sweep};
use super::entry::{Entry, EntryWrite};
use super::expiry::{EnclosingExpiry, RequestedExpiry, found_in, same_expiry};
use super::plan::unchanged;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::queue::Guard;
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::revision::Revision;
use crate::schema::{self, Schema};
use crate::store::{BoxFuture, Committed, Compare, Condition, Expiry, KeyValue, Op, OpResult, Range, RangeReply, Span, Txn};
use crate::telemetry::Operation;
use crate::version::{Expect, Versioned};

/// Conditions and writes that are committed atomically; created by
/// [`Client::transaction`](crate::Client::transaction). The transaction is sent when it is awaited,
/// and returns its revision.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// use etcd_typed::{Client, ErrorKind};
///
/// let client = Client::connect("memory:").await?;
/// let from = client.entry::<i64>("/accounts/anna")?;
/// let to = client.entry::<i64>("/accounts/bert")?;
/// from.set(&100).await?;
/// to.set(&0).await?;
///
/// let (anna, bert) = (from.get().await?.unwrap(), to.get().await?.unwrap());
/// client.transaction()
///     .expect(&from, &anna)
///     .expect(&to, &bert)
///     .write(from.set(&(*anna - 30)))
///     .write(to.set(&(*bert + 30)))
///     .await?;
/// assert_eq!(*to.get().await?.unwrap(), 30);
///
/// // `anna` is out of date now.
/// let conflict = client.transaction().expect(&from, &anna).write(from.set(&0)).await.unwrap_err();
/// assert_eq!(conflict.kind(), ErrorKind::Conflict);
/// assert_eq!(conflict.current::<i64>().map(|now| **now), Some(70));
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// `Invalid` or `Encode` for a value, before anything is sent. `Conflict` with the first key that
/// is not in the expected state; [`Error::current`] is the value of that key. `Invalid` if one key
/// is written twice. `TooManyOperations`. `Unsupported` on v2, unless the transaction uses only one
/// key.
#[must_use = "a transaction does nothing until it is awaited"]
pub struct Transaction {
    context: SharedContext,
    expectations: Vec<Expectation>,
    ops: Vec<Op>,
    parts: Vec<Part>,
    /// The directories to delete with everything below them.
    sweeps: Vec<Sweep>,
    /// The first error of a builder method. The transaction returns it instead of being sent.
    error: Option<Error>,
}

/// A condition of the caller.
struct Expectation {
    compares: Vec<Compare>,
    /// The read that the transaction performs if a condition fails.
    look: Op,
    judge: Judge,
}

/// Evaluates the answer to [`Expectation::look`]. Returns an error if the caller's condition does
/// not hold. Otherwise returns the compares for the next attempt.
type Judge = Box<dyn Fn(RangeReply) -> Result<Vec<Compare>> + Send>;

/// Puts to a part of a struct (one field, or a whole nested struct) that keep the existing expiry.
struct Part {
    /// The indexes of the puts in [`Transaction::ops`].
    ops: std::ops::Range<usize>,
    /// The keys from which the field is read. Empty for a whole struct.
    keys: Vec<Key>,
    enclosing_expiry: EnclosingExpiry,
    /// The first of `keys` that exists, or `Some(None)` if none exists. The outer `None` means that
    /// the keys were not read yet: the first attempt assumes that nothing expires.
    found: Option<Option<KeyValue>>,
}

impl Part {
    fn expiry(&self) -> Expiry {
        match &self.found {
            None => Expiry::Never,
            Some(Some(found)) => found.expiry(),
            Some(None) => self.enclosing_expiry.expiry(),
        }
    }

    fn compares(&self) -> Vec<Compare> {
        let of_keys = |condition: Condition| self.keys.iter().map(move |key| Compare::key(key, condition.clone()));
        match &self.found {
            None => of_keys(Condition::NeverExpires).chain(self.enclosing_expiry.compares()).collect(),
            Some(Some(found)) => {
                let at = self.keys.iter().find(|key| key.as_str().as_bytes() == found.key);
                at.map(|key| same_expiry(key, found)).into_iter().collect()
            }
            Some(None) => of_keys(Condition::Absent).chain(self.enclosing_expiry.compares()).collect(),
        }
    }

    fn looks(&self) -> impl Iterator<Item = Op> {
        self.keys.iter().map(|key| Op::Get(Span::Key(key.clone()))).chain(self.enclosing_expiry.looks())
    }

    fn learn(&mut self, results: &[OpResult]) {
        self.found = Some(self.keys.iter().find_map(|key| found_in(results, key).cloned()));
        self.enclosing_expiry.learn(results);
    }

    fn forget(&mut self) {
        self.found = None;
        self.enclosing_expiry.forget();
    }
}

impl Transaction {
    pub(crate) fn new(context: SharedContext) -> Self {
        Self { context, expectations: Vec::new(), ops: Vec::new(), parts: Vec::new(), sweeps: Vec::new(), error: None }
    }

    /// Requires that the key is in the expected state. For a field with aliases, only the field's
    /// own key is checked; [`Expect::Absent`] also checks its aliases.
    pub fn expect<'e, T: Send + Sync + 'static>(mut self, entry: &Entry<T>, expected: impl Into<Expect<'e, T>>) -> Self {
        let condition = match entry.expected(expected.into()) {
            Ok(expected) => expected.condition,
            Err(error) => return self.failed(error),
        };
        self.require(entry.clone(), condition, ErrorKind::Conflict);
        self
    }

    /// Adds a condition on one key. `refusal` is the error kind if the condition does not hold.
    fn require<T: Send + Sync + 'static>(&mut self, entry: Entry<T>, condition: Condition, refusal: ErrorKind) {
        let compares = entry.expectation(condition.clone());
        let look = Op::Get(Span::Key(entry.key().clone()));
        let judge = move |reply: RangeReply| {
            let found = reply.kvs.first();
            if entry.holds(&condition, found) {
                // The stored form of the value may differ from the form that this library writes.
                return Ok(match (&condition, found) {
                    (Condition::Value(_), Some(kv)) => entry.expectation(Condition::Value(kv.value.clone())),
                    _ => entry.expectation(condition.clone()),
                });
            }
            let error = Error::new(refusal, "").at(entry.key());
            Err(match entry.present(reply) {
                Some(current) if refusal != ErrorKind::NotFound => error.with_current(current),
                _ => error,
            })
        };
        self.expectations.push(Expectation { compares, look, judge: Box::new(judge) });
    }

    /// Requires that nothing below this struct's directory was changed, added or deleted since
    /// `seen` was read.
    pub fn expect_unchanged<S: Schema>(mut self, dir: &Dir<S>, seen: &Versioned<S>) -> Self {
        let basis = seen.versions.basis.clone();
        let compares = unchanged(dir.key(), seen.revision(), &basis);
        let (dir, revision) = (dir.clone(), seen.revision());
        let look = Op::Get(Span::Below(dir.key().clone()));
        let judge = move |reply: RangeReply| {
            let tree = schema::tree(dir.key(), reply.kvs);
            let is_there = |(key, at): &(String, Revision)| tree.get(key).is_some_and(|stored| stored.modified == *at);
            let same = tree.values().all(|stored| stored.modified <= revision) && basis.iter().all(is_there);
            if same {
                return Ok(unchanged(dir.key(), revision, &basis));
            }
            let error = Error::new(ErrorKind::Conflict, "").at(dir.key());
            Err(match schema::decode::<S>(dir.key(), &tree, reply.revision) {
                Ok(current) => error.with_current(current),
                Err(_) => error,
            })
        };
        self.expectations.push(Expectation { compares, look, judge: Box::new(judge) });
        self
    }

    /// Requires that the directory contains no key. Keys of other programs that are not valid paths
    /// count too. For a typed handle, use [`Client::directory`](crate::Client::directory) with its
    /// path.
    ///
    /// # Errors
    ///
    /// `Conflict` with the key of the directory. `Unsupported` on v2, which has no such condition;
    /// create a key in the directory with [`Entry::create`] instead.
    pub fn expect_empty(mut self, dir: &Directory) -> Self {
        let key = dir.key().clone();
        if !self.context.store.capabilities().transactions {
            let message = "etcd v2 cannot require that a directory is empty; `create` a key that all writers agree on, or use etcd v3";
            return self.failed(Error::new(ErrorKind::Unsupported, message).at(&key));
        }
        let compares = vec![Compare::below(&key, Condition::Absent)];
        // One key is enough to see that the directory is not empty.
        let look = Op::Newest { below: key.clone(), before: None, limit: 1 };
        let again = compares.clone();
        let judge = move |reply: RangeReply| match reply.kvs.first() {
            None => Ok(again.clone()),
            Some(kv) => {
                let name = String::from_utf8_lossy(&kv.key).into_owned();
                Err(Error::new(ErrorKind::Conflict, format!("the directory is not empty: it contains {name}")).at(&key))
            }
        };
        self.expectations.push(Expectation { compares, look, judge: Box::new(judge) });
        self
    }

    /// Adds a write of one key: `.write(entry.set(&value))`. The options of the write apply
    /// (`.ttl(…)`, `.lease(…)`, `.permanent()`, `.guarded_by(…)`). The condition of
    /// [`create`](Entry::create), [`replace`](Entry::replace) or
    /// [`compare_and_swap`](Entry::compare_and_swap) becomes a condition of the transaction. If the
    /// condition does not hold, the transaction returns the error of the write, such as
    /// `AlreadyExists`.
    ///
    /// As with [`Entry::set`], a field of a struct keeps its [expiry](Entry#expiry) unless the
    /// write sets another one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// # use std::time::Duration;
    /// # let client = etcd_typed::Client::connect("memory:").await?;
    /// let owner = client.entry::<String>("/jobs/7/owner")?;
    /// let state = client.entry::<String>("/jobs/7/state")?;
    /// client.transaction()
    ///     .write(owner.create("worker-3").ttl(Duration::from_secs(60)))
    ///     .write(state.set("running"))
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn write<T: Send + Sync + 'static>(mut self, write: EntryWrite<T, Revision>) -> Self {
        let EntryWrite { entry, parts, requested, refusal, .. } = write;
        match parts {
            Ok((value, expected)) => {
                self.context = self.context.with_guards_of(&entry.context);
                if let Some(expected) = expected {
                    self.require(entry.clone(), expected.condition, refusal);
                }
                self.put(&entry, value, requested);
                self
            }
            Err(error) => self.failed(error),
        }
    }

    /// Writes a whole struct, and deletes the keys of its fields that are `None`. As with
    /// [`Dir::set`], the struct never expires afterwards. If it is part of another struct, it
    /// expires with that struct.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a struct with maps or enums, since the keys to delete depend on the stored
    /// keys. Use [`Dir::update`] instead.
    pub fn set_dir<S: Schema>(mut self, dir: &Dir<S>, value: &S) -> Self {
        let owner = dir.owner();
        if owner.depends_on_stored() {
            let message = "the keys to delete from its maps and enums depend on what is stored; use `update` on the directory, or set \
                           single fields";
            return self.failed(Error::new(ErrorKind::Unsupported, message).at(dir.key()));
        }
        match dir.encode(value) {
            Ok(encoded) => {
                self.context = self.context.with_guards_of(&dir.context);
                let from = self.ops.len();
                self.ops.extend(owner.overwrite(encoded).into_ops(dir.key(), &EnclosingExpiry::default()));
                let enclosing_expiry = EnclosingExpiry::of(dir.enclosing(), dir.key());
                if !enclosing_expiry.is_empty() {
                    self.parts.push(Part { ops: from..self.ops.len(), keys: Vec::new(), enclosing_expiry, found: None });
                }
                self
            }
            Err(error) => self.failed(error),
        }
    }

    /// Deletes a key, and the aliases of its field. If the key does not exist, this is not an
    /// error.
    pub fn delete<T: Send + Sync + 'static>(mut self, entry: &Entry<T>) -> Self {
        self.context = self.context.with_guards_of(&entry.context);
        self.ops.extend(entry.deletes());
        self
    }

    /// Deletes everything below the directory that a recursive listing shows, as
    /// [`Directory::delete_recursive`] does. The transaction first reads the names of these keys.
    /// If another client writes a key below the directory in between, the transaction starts again.
    /// The transaction must not have another write to a key below the directory.
    ///
    /// # Errors
    ///
    /// The errors of [`Directory::delete_recursive`]. On v2 the transaction must have no other
    /// condition or operation.
    pub fn delete_recursive(mut self, dir: &Directory) -> Self {
        self.sweeps.push(Sweep::new(dir));
        self
    }

    /// Reads the value in the same transaction, at its revision and after the operations that were
    /// added before this read. [`reads`](Self::reads) returns the value.
    pub fn get<T: Send + Sync + 'static>(mut self, entry: &Entry<T>) -> Self {
        self.ops.extend(entry.keys().map(|key| Op::Get(Span::Key(key.clone()))));
        self
    }

    /// Reads the whole struct in the same transaction, as [`get`](Self::get) does for a value.
    pub fn get_dir<S: Schema>(mut self, dir: &Dir<S>) -> Self {
        self.ops.push(Op::Get(Span::Below(dir.key().clone())));
        self
    }

    /// Makes the transaction return the results of its reads together with the revision.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
    /// use etcd_typed::Client;
    ///
    /// let client = Client::connect("memory:").await?;
    /// let (job, owner) = (client.entry::<String>("/jobs/7")?, client.entry::<String>("/owners/7")?);
    /// job.set(&"resize".to_owned()).await?;
    ///
    /// let job_and_owner = client.transaction().write(owner.set("me")).get(&job).get(&owner).reads().await?;
    /// assert_eq!(job_and_owner.get(&job)?.as_deref().map(String::as_str), Some("resize"));
    /// assert_eq!(job_and_owner.get(&owner)?.as_deref().map(String::as_str), Some("me"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of the [transaction](Self). `Unsupported` on v2. If a value cannot be decoded,
    /// the transaction is committed nevertheless, and [`Reads::get`] returns the error.
    pub fn reads(self) -> TransactionReads {
        TransactionReads(self)
    }

    /// Applies the transaction only while this guard is held, in addition to the other conditions;
    /// see [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`: nothing was written. `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.context = self.context.guarded_by(guard);
        self
    }

    fn put<T: Send + Sync + 'static>(&mut self, entry: &Entry<T>, value: Bytes, requested: RequestedExpiry) {
        if let (RequestedExpiry::Keep, Some(enclosing_expiry)) = (requested, entry.enclosing_expiry()) {
            let at = self.ops.len();
            self.parts.push(Part { ops: at..at + 1, keys: entry.keys().cloned().collect(), enclosing_expiry, found: None });
        }
        self.ops.push(Op::Put { key: entry.key().clone(), value, expiry: requested.or_never(), previous: false });
    }

    fn failed(mut self, error: Error) -> Self {
        self.error.get_or_insert(error);
        self
    }

    /// Sends the transaction until it succeeds. Returns an error if a condition of the caller does
    /// not hold, or if the retry budget is used up.
    async fn commit(&mut self) -> Result<Committed> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let transactions = self.context.store.capabilities().transactions;
        let mut retry = OptimisticRetry::new(&self.context.retry);
        loop {
            for sweep in &mut self.sweeps {
                sweep.read(&self.context).await?;
            }
            // Without transactions, the store refuses several operations before anything is sent.
            if !transactions && self.ops.len() == 1 {
                self.read_parts().await?;
            }
            let committed = self.context.commit(self.txn(transactions)).await?;
            if committed.succeeded {
                return Ok(committed);
            }
            let replies = committed.results.iter().filter_map(|result| match result {
                OpResult::Get(reply) => Some(reply),
                OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
            });
            for (expectation, reply) in self.expectations.iter_mut().zip(replies) {
                expectation.compares = (expectation.judge)(reply.clone())?;
            }
            self.parts.iter_mut().for_each(|part| part.learn(&committed.results));
            match retry.after_conflict(Some(true), async { Ok::<_, Error>(false) }).await? {
                AfterConflict::Retry(true) => {}
                AfterConflict::Retry(false) => self.parts.iter_mut().for_each(Part::forget),
                AfterConflict::GiveUp(_) => {
                    return Err(Error::new(ErrorKind::Conflict, "other writers were faster on every attempt; try again later"));
                }
            }
        }
    }

    /// Reads the values that decide when the written parts expire. Called on stores (v2) where a
    /// transaction cannot have conditions on these values.
    async fn read_parts(&mut self) -> Result<()> {
        for part in &mut self.parts {
            let mut found = None;
            for key in &part.keys {
                let reply = self.context.asked().range(Range::of(Span::Key(key.clone()))).await.map_err(|error| error.at(key))?;
                found = found.or_else(|| reply.kvs.into_iter().next());
            }
            part.enclosing_expiry.read(&self.context).await?;
            part.found = Some(found);
        }
        Ok(())
    }

    fn txn(&self, transactions: bool) -> Txn {
        let mut compares: Vec<Compare> = self.expectations.iter().flat_map(|expectation| expectation.compares.clone()).collect();
        let mut otherwise: Vec<Op> = self.expectations.iter().map(|expectation| expectation.look.clone()).collect();
        let mut then = self.ops.clone();
        for sweep in &self.sweeps {
            then.extend(sweep.deletes());
            compares.extend(sweep.compares());
        }
        for part in &self.parts {
            let of_one_key = |compare: &Compare| {
                transactions || self.ops.iter().any(|op| matches!(op, Op::Put { key, .. } if compare.span.key() == key))
            };
            let more = part.compares().into_iter().filter(of_one_key).filter(|compare| !compares.contains(compare)).collect::<Vec<_>>();
            compares.extend(more);
            if transactions {
                let more = part.looks().filter(|look| !otherwise.contains(look)).collect::<Vec<_>>();
                otherwise.extend(more);
            }
            for op in then.get_mut(part.ops.clone()).unwrap_or_default() {
                if let Op::Put { expiry, .. } = op {
                    *expiry = part.expiry();
                }
            }
        }
        Txn { compares, then, otherwise }
    }
}

impl IntoFuture for Transaction {
    type Output = Result<Revision>;
    type IntoFuture = BoxFuture<'static, Result<Revision>>;

    fn into_future(mut self) -> Self::IntoFuture {
        let retry = self.context.retry.clone();
        let commit = async move { self.commit().await.map(|committed| committed.revision) };
        Box::pin(Operation::new("commit", "transaction").run(async move { retry.one_call(commit).await }))
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("expectations", &self.expectations.len())
            .field("operations", &self.ops.len())
            .finish_non_exhaustive()
    }
}
