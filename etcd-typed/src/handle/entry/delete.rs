//! Deletes one key: the type that [`Entry::delete`](super::Entry::delete) and
//! [`Entry::compare_and_delete`](super::Entry::compare_and_delete) return.

use std::fmt;
use std::future::IntoFuture;

use super::{Entry, Expected, Found, Previous, Written};
use crate::error::{ErrorKind, Result};
use crate::handle::expiry::RequestedExpiry;
use crate::queue::Guard;
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::store::{BoxFuture, Compare, Condition, Expiry, Op, Span, Txn};

/// A deletion of one key. The deletion runs when it is awaited, and returns the
/// [previous](Previous) value.
#[must_use = "a deletion does nothing until it is awaited"]
pub struct EntryDelete<T> {
    pub(super) entry: Entry<T>,
    /// The condition. If `None`, any value is deleted.
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

impl<T: Send + Sync + 'static> Entry<T> {
    /// Deletes the field's keys if the value is as expected, on stores where a transaction covers
    /// only one key.
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

    /// Deletes the field's keys one by one, aliases first. The key in `expected` is deleted only if
    /// it has not changed.
    pub(super) async fn delete_each(&self, expected: Option<Found>) -> Result<Previous<T>> {
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
            // Aliases come first here. Returns the value that a read would have returned: that of
            // the first key that exists, in the order of `keys`.
            let previous = self.previous_from(at, committed);
            was = if previous.existed() { previous } else { was };
        }
        Ok(was)
    }
}
