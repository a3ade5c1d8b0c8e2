//! `Transaction`: typed conditions and typed writes over any handles, in one atomic commit.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use super::Shared;
use super::dir::Dir;
use super::entry::{Entry, holds};
use super::plan::{Owner, unchanged};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::{LeaseId, Revision};
use crate::schema::{self, Schema};
use crate::store::{BoxFuture, Compare, Expiry, Op, OpResult, RangeReply, Span, Txn};
use crate::telemetry::Operation;
use crate::turn::Guard;
use crate::version::{Expect, Versioned};

/// Conditions and writes that happen together or not at all; from [`Client::transaction`](crate::Client::transaction). It is sent when it is
/// awaited; the answer is its revision.
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
///     .set(&from, &(*anna - 30))
///     .set(&to, &(*bert + 30))
///     .await?;
/// assert_eq!(*to.get().await?.unwrap(), 30);
///
/// // What was read is out of date now.
/// let conflict = client.transaction().expect(&from, &anna).set(&from, &0).await.unwrap_err();
/// assert_eq!(conflict.kind(), ErrorKind::Conflict);
/// assert_eq!(conflict.current::<i64>().map(|now| **now), Some(70));
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// Of a handle's value (`Invalid`, `Encode`) before anything is sent. `Conflict` names the first key that is not as expected, and
/// [`Error::current`] is its value. `TooManyOperations`. `Unsupported` on v2, unless all is about one key. `Invalid` when one key is written twice.
#[must_use = "a transaction does nothing until it is awaited"]
pub struct Transaction {
    context: Shared,
    compares: Vec<Compare>,
    /// What to ask when they do not hold, and who understands the answer.
    looks: Vec<(Span, Verdict)>,
    ops: Vec<Op>,
    /// The first thing that was wrong while it was put together.
    error: Option<Error>,
}

/// The conflict that an answer shows; none when what it is about is as expected.
type Verdict = Box<dyn FnOnce(RangeReply) -> Option<Error> + Send>;

impl Transaction {
    pub(crate) fn new(context: Shared) -> Self {
        Self { context, compares: Vec::new(), looks: Vec::new(), ops: Vec::new(), error: None }
    }

    /// Only if this key is as expected. Of a field with aliases it is the field's own key, and with [`Expect::Absent`] all of them.
    pub fn expect<'e, T: Send + Sync + 'static>(mut self, entry: &Entry<T>, expected: impl Into<Expect<'e, T>>) -> Self {
        let condition = match entry.condition(expected.into()) {
            Ok(condition) => condition,
            Err(error) => return self.failed(error),
        };
        self.compares.extend(entry.expectation(condition.clone()));
        let entry = entry.clone();
        let span = Span::Key(entry.key().clone());
        let verdict = move |reply: RangeReply| {
            if holds(&condition, reply.kvs.first()) {
                return None;
            }
            let error = Error::new(ErrorKind::Conflict, "").at(entry.key());
            Some(match entry.present(reply) {
                Some(current) => error.with_current(current),
                None => error,
            })
        };
        self.looks.push((span, Box::new(verdict)));
        self
    }

    /// Only if nothing below this struct's directory changed, appeared or vanished since it was read.
    pub fn expect_unchanged<S: Schema>(mut self, dir: &Dir<S>, seen: &Versioned<S>) -> Self {
        let basis = seen.versions.basis.clone();
        self.compares.extend(unchanged(dir.key(), seen.revision(), &basis));
        let (dir, revision) = (dir.clone(), seen.revision());
        let span = Span::Below(dir.key().clone());
        let verdict = move |reply: RangeReply| {
            let tree = schema::tree(dir.key(), reply.kvs);
            let same = tree.values().all(|stored| stored.modified <= revision) && basis.iter().all(|(key, _)| tree.contains_key(key));
            if same {
                return None;
            }
            let error = Error::new(ErrorKind::Conflict, "").at(dir.key());
            Some(match schema::decode::<S>(dir.key(), &tree, reply.revision) {
                Ok(current) => error.with_current(current),
                Err(_) => error,
            })
        };
        self.looks.push((span, Box::new(verdict)));
        self
    }

    /// Writes a value.
    pub fn set<T: Send + Sync + 'static>(self, entry: &Entry<T>, value: &T) -> Self {
        self.put(entry, value, Expiry::Never)
    }

    /// Writes a value that vanishes by itself after this time.
    pub fn set_for<T: Send + Sync + 'static>(self, entry: &Entry<T>, value: &T, ttl: Duration) -> Self {
        self.put(entry, value, Expiry::After(ttl))
    }

    /// Writes a value that vanishes with this lease.
    pub fn set_with_lease<T: Send + Sync + 'static>(self, entry: &Entry<T>, value: &T, lease: impl Into<LeaseId>) -> Self {
        self.put(entry, value, Expiry::With(lease.into()))
    }

    /// Writes a whole struct, and deletes the keys of its fields that are none.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a struct with maps: which entries must go depends on what is stored. [`Dir::update`] does that.
    pub fn set_dir<S: Schema>(mut self, dir: &Dir<S>, value: &S) -> Self {
        let owner = Owner::Struct(S::TABLE);
        if owner.has_maps() {
            let message = "which entries of its maps must go depends on what is stored; use `update` on the directory, or set fields";
            return self.failed(Error::new(ErrorKind::Unsupported, message).at(dir.key()));
        }
        match schema::encode(dir.key(), value) {
            Ok(encoded) => {
                self.ops.extend(owner.overwrite(encoded).into_ops(dir.key(), Expiry::Never));
                self
            }
            Err(error) => self.failed(error),
        }
    }

    /// Deletes a key, with the aliases of its field; that there is none is no error.
    pub fn delete<T: Send + Sync + 'static>(mut self, entry: &Entry<T>) -> Self {
        self.ops.extend(entry.deletes());
        self
    }

    /// Only while this guard is held, whatever else is expected; see [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`; nothing was written. `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.context = self.context.guarded_by(guard);
        self
    }

    fn put<T: Send + Sync + 'static>(mut self, entry: &Entry<T>, value: &T, expiry: Expiry) -> Self {
        match entry.encode(value) {
            Ok(value) => {
                self.ops.push(Op::Put { key: entry.key().clone(), value, expiry, previous: false });
                self
            }
            Err(error) => self.failed(error),
        }
    }

    fn failed(mut self, error: Error) -> Self {
        self.error.get_or_insert(error);
        self
    }

    async fn commit(self) -> Result<Revision> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let (spans, verdicts): (Vec<Span>, Vec<Verdict>) = self.looks.into_iter().unzip();
        let otherwise = spans.into_iter().map(Op::Get).collect();
        let committed = self.context.commit(Txn { compares: self.compares, then: self.ops, otherwise }).await?;
        if committed.succeeded {
            return Ok(committed.revision);
        }
        let replies = committed.results.into_iter().filter_map(|result| match result {
            OpResult::Get(reply) => Some(reply),
            OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => None,
        });
        let conflict = verdicts.into_iter().zip(replies).find_map(|(verdict, reply)| verdict(reply));
        Err(conflict.unwrap_or_else(|| Error::new(ErrorKind::Conflict, "")))
    }
}

impl IntoFuture for Transaction {
    type Output = Result<Revision>;
    type IntoFuture = BoxFuture<'static, Result<Revision>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(Operation::new("commit", "transaction").run(self.commit()))
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("compares", &self.compares.len()).field("operations", &self.ops.len()).finish_non_exhaustive()
    }
}
