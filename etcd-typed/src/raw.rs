//! Untyped operations on keys of arbitrary bytes. They use the same store calls as the typed layer,
//! and give the same guarantees.
//!
//! Use [`Client::raw`](crate::Client::raw) for keys that are not paths (`dms.rpc/7587`, binary
//! keys, `//` within a key), and for layers with their own format: the key-value backend of a
//! database, a queue, a migration. For values with a type, use the handles of
//! [`Client`](crate::Client).
//!
//! - A key is one or more bytes of any value. The client puts its
//!   [namespace](crate::ClientBuilder::namespace) before every key, byte for byte, and removes it
//!   from the keys in answers.
//! - A read is repeated on another endpoint after a failure. A write is repeated only when it
//!   cannot have been applied, so it is applied at most once;
//!   [`may_have_applied`](crate::Error::may_have_applied) says whether the outcome of a failed
//!   write is unknown.
//! - Reads of single keys share requests when many run at once.
//!   [`stale_reads`](crate::Client::stale_reads) also applies to these reads.
//! - Writes accept guards of locks and elections (`guarded_by`).
//! - A watch resumes by itself, without a gap. If the server has lost history, the watch reports
//!   the difference between the last known state and the current one.
//!
//! The keys of v2 are paths, and v2 has no ranges. On v2 every call returns `Unsupported`, before
//! anything is sent.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
//! use etcd_typed::Client;
//! use etcd_typed::raw::{Condition, Keys};
//!
//! let client = Client::builder("memory:").namespace("v1").connect().await?;
//! let raw = client.raw();
//! raw.put("dms.rpc/7587", "10.0.0.1").await?; // the key `v1dms.rpc/7587`
//! raw.put([0xff, 0], vec![1, 2]).await?;
//!
//! let found = raw.get("dms.rpc/7587").await?.expect("the key was written");
//! assert_eq!((&found.key[..], &found.value[..]), (&b"dms.rpc/7587"[..], &b"10.0.0.1"[..]));
//! let page = raw.range(Keys::prefix("dms.rpc/")).limit(100).await?;
//! assert_eq!((page.kvs.len(), page.more), (1, false));
//!
//! let swap = raw.transaction().when("dms.rpc/7587", Condition::Modified(found.modified)).put("dms.rpc/7587", "10.0.0.2");
//! assert!(swap.await?.succeeded);
//! assert_eq!(raw.delete_range(..).await?.deleted, 2);
//! # Ok(()) }
//! ```
//!
//! # Errors
//!
//! Every call may return `Unavailable`, `Timeout`, `Unauthenticated`, `PermissionDenied` or
//! `Server`. A call returns `InvalidKey` for the empty key, `Invalid` for a range whose end is not
//! after its start, and `Unsupported` on v2; in these cases nothing was sent. A write may return
//! `TooLarge`, `NoSpace`, `LeaseLost` for a lease that does not exist, and `GuardLost`; in these
//! cases nothing was written. Each method lists its additional errors.
//!
//! # Cancel safety
//!
//! Dropping the future of a read is safe. A write whose future was dropped may have been applied.

mod keys;
mod transaction;
mod watch;

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;

pub use self::keys::Keys;
pub use self::transaction::RawTransaction;
pub use self::watch::{RawChanges, RawUpdate, RawWatching};
pub use crate::store::{Committed, Condition, Event, Expiry, KeyValue, OpResult, Operand, Order, RangeReply, Relation, SortBy};

use self::keys::{Outside, stored};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::SharedContext;
use crate::key::Key;
use crate::queue::Guard;
use crate::revision::{LeaseId, Revision};
use crate::store::{BoxFuture, Op, Range, Span, Txn};
use crate::telemetry::Operation;

/// The label of these operations in metrics and events.
const PATTERN: &str = "raw";

/// Untyped operations on keys of arbitrary bytes, created by [`Client::raw`](crate::Client::raw).
/// The [module page](self) has the rules for all methods.
#[derive(Clone, Debug)]
pub struct Raw {
    context: SharedContext,
    namespace: Key,
}

impl Raw {
    pub(crate) fn new(context: SharedContext, namespace: Key) -> Self {
        Self { context, namespace }
    }

    /// Reads one key. Returns `None` if the key does not exist.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<KeyValue>> {
        let span = stored(&self.namespace, key.as_ref()).map(Span::Key);
        let mut page = RawRange { range: span.map(|span| self.now(span)), op: "get", raw: self.clone() }.await?;
        Ok(page.kvs.pop())
    }

    /// Reads the keys of a range at one revision, in byte order.
    ///
    /// # Errors
    ///
    /// `HistoryLost` if the requested revision is compacted, or if the store has not reached it.
    /// `Invalid` for a limit of zero.
    pub fn range(&self, keys: impl Into<Keys>) -> RawRange {
        let span = keys.into().within(&self.namespace);
        RawRange { range: span.map(|span| self.now(span)), op: "range", raw: self.clone() }
    }

    /// Writes a value. Without [`lease`](RawPut::lease) or [`ttl`](RawPut::ttl) the key never
    /// expires afterwards, even if it was attached to a lease before.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> RawPut {
        let op = stored(&self.namespace, key.as_ref()).map(|key| Op::put(&key, value.into()));
        RawPut { raw: self.clone(), op }
    }

    /// Deletes one key. A key that does not exist is not an error.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> RawDelete {
        let span = stored(&self.namespace, key.as_ref()).map(Span::Key);
        RawDelete { raw: self.clone(), span, previous: false, op: "delete" }
    }

    /// Deletes the keys of a range, in one revision. `..` deletes all keys of the namespace.
    pub fn delete_range(&self, keys: impl Into<Keys>) -> RawDelete {
        let span = keys.into().within(&self.namespace);
        RawDelete { raw: self.clone(), span, previous: false, op: "delete_range" }
    }

    /// Starts a transaction: conditions, operations that are performed if all conditions hold, and
    /// operations that are performed otherwise.
    pub fn transaction(&self) -> RawTransaction {
        RawTransaction::new(self.clone())
    }

    /// Watches the keys of a range from now on.
    pub fn watch(&self, keys: impl Into<Keys>) -> RawWatching {
        RawWatching::new(self.clone(), keys.into().within(&self.namespace))
    }

    fn now(&self, span: Span) -> Range {
        Range { consistency: self.context.reads, ..Range::of(span) }
    }

    fn outside(&self) -> Outside {
        Outside::of(&self.namespace)
    }

    /// Returns an error if the store has only keys that are paths.
    fn check(&self) -> Result<()> {
        let capabilities = self.context.store.capabilities();
        if capabilities.transactions && capabilities.past_revisions && !capabilities.directories {
            return Ok(());
        }
        let message = format!("{} has no byte keys and no ranges of them: use the typed handles, or etcd v3", capabilities.name);
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Sends a transaction, and removes the namespace from the keys in the answer.
    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.check()?;
        let outside = self.outside();
        let committed = self.context.retry.one_call(self.context.commit(txn)).await?;
        let result = |result| match result {
            OpResult::Get(reply) => OpResult::Get(RangeReply { kvs: outside.kvs(reply.kvs), ..reply }),
            OpResult::Put(previous) => OpResult::Put(previous.map(|kv| outside.kv(kv))),
            OpResult::Delete { deleted, previous } => OpResult::Delete { deleted, previous: outside.kvs(previous) },
            OpResult::Done => OpResult::Done,
        };
        Ok(Committed { results: committed.results.into_iter().map(result).collect(), ..committed })
    }
}

fn operation(op: &'static str) -> Operation {
    Operation::new(op, PATTERN)
}

/// The answer to a read of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawPage {
    /// The revision of the read. Another read [`at`](RawRange::at) this revision shows the same
    /// state.
    pub revision: Revision,
    /// The keys that were found.
    pub kvs: Vec<KeyValue>,
    /// True if the range has more keys than the limit.
    pub more: bool,
}

/// A read of a range. It runs when it is awaited.
#[must_use = "a read does nothing until it is awaited"]
#[derive(Debug)]
pub struct RawRange {
    raw: Raw,
    range: Result<Range>,
    op: &'static str,
}

impl RawRange {
    fn with(mut self, change: impl FnOnce(&mut Range)) -> Self {
        self.range = self.range.map(|mut range| {
            change(&mut range);
            range
        });
        self
    }

    /// Limits the number of keys; the limit must be at least one. Without a limit, all keys are
    /// read at one revision, in as many requests as necessary. To read the next page, start the
    /// range after the last key, at the same [revision](Self::at).
    pub fn limit(self, keys: usize) -> Self {
        self.with(|range| range.limit = Some(keys))
    }

    /// Sets the order of the keys, which also decides which keys a limit cuts off. Default: ascending
    /// keys. With any other order and a limit, the server reads and sorts the whole range.
    pub fn order(self, order: Order) -> Self {
        self.with(|range| range.order = order)
    }

    /// Reads at this past revision.
    pub fn at(self, revision: impl Into<Revision>) -> Self {
        let revision = revision.into();
        self.with(|range| range.revision = Some(revision))
    }

    /// Leaves out the values. The answer may also lack the leases: etcd 3.7 and later do not read
    /// the leases without the values.
    pub fn keys_only(self) -> Self {
        self.with(|range| range.keys_only = true)
    }

    /// Returns only keys that were written after this revision.
    pub fn modified_after(self, revision: impl Into<Revision>) -> Self {
        let revision = revision.into();
        self.with(|range| range.modified_after = Some(revision))
    }

    /// Counts the keys of the range instead of reading them. A limit has no effect.
    ///
    /// # Errors
    ///
    /// The errors of [`Raw::range`].
    pub async fn count(self) -> Result<u64> {
        let (_, reply) = self.with(|range| (range.count_only, range.limit) = (true, None)).run("count").await?;
        Ok(reply.count.unwrap_or_default())
    }

    async fn run(self, op: &'static str) -> Result<(Outside, RangeReply)> {
        let Self { raw, range, .. } = self;
        let work = async {
            raw.check()?;
            raw.context.retry.one_call(raw.context.asked().range(range?)).await
        };
        Ok((raw.outside(), operation(op).run(work).await?))
    }
}

impl IntoFuture for RawRange {
    type Output = Result<RawPage>;
    type IntoFuture = BoxFuture<'static, Result<RawPage>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let op = self.op;
            let (outside, reply) = self.run(op).await?;
            Ok(RawPage { revision: reply.revision, kvs: outside.kvs(reply.kvs), more: reply.more })
        })
    }
}

/// The answer to a [`RawPut`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawWritten {
    /// The revision of the write.
    pub revision: Revision,
    /// The previous value, if it was requested and existed.
    pub previous: Option<KeyValue>,
}

/// A write of one key. It runs when it is awaited.
#[must_use = "a write does nothing until it is awaited"]
pub struct RawPut {
    raw: Raw,
    op: Result<Op>,
}

impl RawPut {
    fn with(mut self, change: impl FnOnce(&mut Expiry, &mut bool)) -> Self {
        if let Ok(Op::Put { expiry, previous, .. }) = &mut self.op {
            change(expiry, previous);
        }
        self
    }

    /// Attaches the key to this lease.
    pub fn lease(self, lease: impl Into<LeaseId>) -> Self {
        self.with(|expiry, _| *expiry = Expiry::With(lease.into()))
    }

    /// Lets the key expire after this time; see [`Expiry::After`] for the cost.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|expiry, _| *expiry = Expiry::After(ttl))
    }

    /// Makes the write also return the previous value.
    pub fn previous(self) -> Self {
        self.with(|_, previous| *previous = true)
    }

    /// Applies the write only while this guard is held; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.raw.context = self.raw.context.guarded_by(guard);
        self
    }
}

impl IntoFuture for RawPut {
    type Output = Result<RawWritten>;
    type IntoFuture = BoxFuture<'static, Result<RawWritten>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { raw, op } = self;
        Box::pin(operation("put").run(async move {
            let committed = raw.commit(Txn { then: vec![op?], ..Txn::default() }).await?;
            let previous = match committed.results.into_iter().next() {
                Some(OpResult::Put(previous)) => previous,
                _ => None,
            };
            Ok(RawWritten { revision: committed.revision, previous })
        }))
    }
}

impl fmt::Debug for RawPut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawPut").field("raw", &self.raw).finish_non_exhaustive()
    }
}

/// The answer to a [`RawDelete`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawDeleted {
    /// The revision of the deletion, or of the store if no key existed.
    pub revision: Revision,
    /// The number of deleted keys.
    pub deleted: u64,
    /// The deleted values, if they were requested, in byte order of their keys.
    pub previous: Vec<KeyValue>,
}

/// A deletion of one key or of a range. It runs when it is awaited.
#[must_use = "a deletion does nothing until it is awaited"]
#[derive(Debug)]
pub struct RawDelete {
    raw: Raw,
    span: Result<Span>,
    previous: bool,
    op: &'static str,
}

impl RawDelete {
    /// Makes the deletion also return the deleted values.
    pub fn previous(mut self) -> Self {
        self.previous = true;
        self
    }

    /// Applies the deletion only while this guard is held; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by). If the range contains the guard's
    /// own key, the deletion ends the guard.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.raw.context = self.raw.context.guarded_by(guard);
        self
    }
}

impl IntoFuture for RawDelete {
    type Output = Result<RawDeleted>;
    type IntoFuture = BoxFuture<'static, Result<RawDeleted>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { raw, span, previous, op } = self;
        Box::pin(operation(op).run(async move {
            let committed = raw.commit(Txn { then: vec![Op::Delete { span: span?, previous }], ..Txn::default() }).await?;
            let (deleted, previous) = match committed.results.into_iter().next() {
                Some(OpResult::Delete { deleted, previous }) => (deleted, previous),
                _ => (0, Vec::new()),
            };
            Ok(RawDeleted { revision: committed.revision, deleted, previous })
        }))
    }
}
