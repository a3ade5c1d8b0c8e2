//! Deletes one key: the results of [`Entry::delete`](super::Entry::delete) and
//! [`Entry::compare_and_delete`](super::Entry::compare_and_delete).

use std::fmt;
use std::future::IntoFuture;

use super::{Entry, Expected, Previous, Written};
use crate::error::{ErrorKind, Result};
use crate::handle::expiry::RequestedExpiry;
use crate::queue::Guard;
use crate::store::{BoxFuture, Expiry, Txn};

/// A deletion of one key. It runs when it is awaited and returns the [previous](Previous) value.
#[must_use = "a deletion does nothing until it is awaited"]
pub struct EntryDelete<T> {
    pub(super) entry: Entry<T>,
    /// The condition. `None` deletes any value.
    pub(super) expected: Result<Option<Expected>>,
}

impl<T> EntryDelete<T> {
    /// Applies the deletion only while this guard is held; see
    /// [`EntryWrite::guarded_by`](crate::EntryWrite::guarded_by).
    ///
    /// # Errors
    ///
    /// `GuardLost`: nothing was deleted. `Unsupported` on v2.
    pub fn guarded_by(mut self, guard: &Guard) -> Self {
        self.entry.context = self.entry.context.guarded_by(guard);
        self
    }
}

impl<T: Send + Sync + 'static> EntryDelete<T> {
    async fn run(self) -> Result<Previous<T>> {
        let (entry, expected) = (self.entry, self.expected?);
        if !entry.together() {
            return entry.delete_one_by_one(expected.as_ref()).await;
        }
        if expected.is_none() {
            let committed = entry.commit(Txn { then: entry.deletes(), ..Txn::default() }).await?;
            return Ok(entry.previous(committed));
        }
        match entry.write_if(expected.as_ref(), RequestedExpiry::Named(Expiry::Never), |_| entry.deletes()).await? {
            Written::Done(committed) => Ok(entry.previous(committed)),
            Written::Refused(found, revision) => Err(entry.refused(ErrorKind::Conflict, found, revision)),
        }
    }
}

impl<T: Send + Sync + 'static> IntoFuture for EntryDelete<T> {
    type Output = Result<Previous<T>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let op = if matches!(self.expected, Ok(None)) { "delete" } else { "compare_and_delete" };
        let retry = self.entry.context.retry.clone();
        Box::pin(self.entry.operation(op).run(retry.one_call(self.run())))
    }
}

impl<T> fmt::Debug for EntryDelete<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryDelete").field("entry", &self.entry).finish_non_exhaustive()
    }
}
