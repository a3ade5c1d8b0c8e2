//! Transactions on keys of arbitrary bytes.

use std::fmt;
use std::future::IntoFuture;

use bytes::Bytes;

use super::keys::{Keys, stored};
use super::{Raw, operation};
use crate::error::{Error, Result};
use crate::queue::Guard;
use crate::store::{BoxFuture, Committed, Compare, Condition, Expiry, Op, Order, Span, Txn};

/// A transaction on keys of arbitrary bytes, created by [`Raw::transaction`].
///
/// The server checks all conditions at one revision. If all hold, it performs the operations before
/// [`otherwise`](Self::otherwise), and if not, the operations after it. The operations run in
/// order, all or nothing. A read sees the effects of earlier operations in the same list. The
/// transaction is sent when it is awaited.
///
/// A failed condition is not an error: [`succeeded`](Committed::succeeded) is then false, and the
/// results are those of the operations after [`otherwise`](Self::otherwise). In addition to the
/// errors of the [module page](super), a transaction returns `TooManyOperations` above the server's
/// limit (128 by default), and `Invalid` for two writes of one key in the same list. In both cases
/// nothing was written.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// # let raw = etcd_typed::Client::connect("memory:").await?.raw();
/// use etcd_typed::raw::{Condition, OpResult};
///
/// let create = || raw.transaction().when("k", Condition::Absent).put("k", "1").otherwise().get("k");
/// assert!(create().await?.succeeded);
/// let second = create().await?;
/// assert!(!second.succeeded);
/// assert!(matches!(&second.results[..], [OpResult::Get(found)] if found.kvs[0].value == "1"));
/// # Ok(()) }
/// ```
#[must_use = "a transaction does nothing until it is awaited"]
pub struct RawTransaction {
    raw: Raw,
    txn: Txn,
    /// True after a call of `otherwise`: operations are then added to the second list.
    otherwise: bool,
    /// The first invalid key or range.
    refused: Option<Error>,
}

impl RawTransaction {
    pub(super) fn new(raw: Raw) -> Self {
        Self { raw, txn: Txn::default(), otherwise: false, refused: None }
    }

    /// Adds a condition on one key.
    pub fn when(self, key: impl AsRef<[u8]>, condition: Condition) -> Self {
        let span = stored(&self.raw.namespace, key.as_ref()).map(Span::Key);
        self.compare(span, condition)
    }

    /// Adds a condition that every key of a range must meet.
    ///
    /// # Errors
    ///
    /// `Invalid` for a condition that only a single key can meet: a range accepts only `Absent`,
    /// `UnchangedSince`, `NeverExpires` and `Compared`.
    pub fn when_all(self, keys: impl Into<Keys>, condition: Condition) -> Self {
        let span = keys.into().within(&self.raw.namespace);
        self.compare(span, condition)
    }

    /// Adds the operations of later calls to the list that is performed if a condition fails.
    pub fn otherwise(mut self) -> Self {
        self.otherwise = true;
        self
    }

    /// Reads one key. The result is an [`OpResult::Get`](super::OpResult::Get).
    pub fn get(self, key: impl AsRef<[u8]>) -> Self {
        let span = stored(&self.raw.namespace, key.as_ref()).map(Span::Key);
        self.op(span.map(Op::Get))
    }

    /// Reads all keys of a range.
    pub fn range(self, keys: impl Into<Keys>) -> Self {
        let span = keys.into().within(&self.raw.namespace);
        self.op(span.map(Op::Get))
    }

    /// Reads at most `limit` keys of a range, in this order. A limit of zero is refused with
    /// `Invalid`.
    pub fn page(self, keys: impl Into<Keys>, limit: usize, order: Order) -> Self {
        let span = keys.into().within(&self.raw.namespace);
        self.op(span.map(|span| Op::Page { span, limit, order }))
    }

    /// Writes a value that never expires.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        self.put_with(key, value, Expiry::Never)
    }

    /// Writes a value that expires with a lease or after a time.
    pub fn put_with(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>, expiry: Expiry) -> Self {
        let key = stored(&self.raw.namespace, key.as_ref());
        self.op(key.map(|key| Op::Put { key, value: value.into(), expiry, previous: false }))
    }

    /// Deletes one key.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        let span = stored(&self.raw.namespace, key.as_ref()).map(Span::Key);
        self.op(span.map(|span| Op::Delete { span, previous: false }))
    }

    /// Deletes the keys of a range.
    pub fn delete_range(self, keys: impl Into<Keys>) -> Self {
        let span = keys.into().within(&self.raw.namespace);
        self.op(span.map(|span| Op::Delete { span, previous: false }))
    }

    /// Makes the latest write or deletion also return the previous values.
    pub fn previous(mut self) -> Self {
        if let Some(Op::Put { previous, .. } | Op::Delete { previous, .. }) = self.list().last_mut() {
            *previous = true;
        }
        self
    }

    /// Applies the transaction only while this guard is held, as an additional condition; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.raw.context = self.raw.context.guarded_by(guard);
        self
    }

    fn list(&mut self) -> &mut Vec<Op> {
        if self.otherwise { &mut self.txn.otherwise } else { &mut self.txn.then }
    }

    fn op(mut self, op: Result<Op>) -> Self {
        match op {
            Ok(op) => self.list().push(op),
            Err(error) => self.refuse(error),
        }
        self
    }

    fn compare(mut self, span: Result<Span>, condition: Condition) -> Self {
        match span {
            Ok(span) => self.txn.compares.push(Compare { span, condition }),
            Err(error) => self.refuse(error),
        }
        self
    }

    fn refuse(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }
}

impl IntoFuture for RawTransaction {
    type Output = Result<Committed>;
    type IntoFuture = BoxFuture<'static, Result<Committed>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { raw, txn, refused, .. } = self;
        Box::pin(operation("transaction").run(async move {
            match refused {
                Some(error) => raw.check().and(Err(error)),
                None => raw.commit(txn).await,
            }
        }))
    }
}

impl fmt::Debug for RawTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawTransaction").field("raw", &self.raw).finish_non_exhaustive()
    }
}
