//! Writes one key if its current value is as expected. A write that does not set an expiry keeps
//! the existing one.

use std::future::ready;

use super::{Entry, Found};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::expiry::{EnclosingExpiry, RequestedExpiry};
use crate::retry::{AfterConflict, OptimisticRetry};
use crate::revision::{LeaseId, Revision};
use crate::store::{Committed, Compare, Condition, Expiry, KeyValue, Op, Txn};

/// The state of a key that a write requires.
#[derive(Clone, Debug)]
pub(in crate::handle) struct Expected {
    pub(in crate::handle) condition: Condition,
    /// The expiry in an earlier read by the caller. `None` if the condition is not from such a
    /// read.
    pub(super) seen: Option<SeenExpiry>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SeenExpiry {
    pub(super) lease: Option<LeaseId>,
    pub(super) has_ttl: bool,
}

impl From<Condition> for Expected {
    fn from(condition: Condition) -> Self {
        Self { condition, seen: None }
    }
}

/// The outcome of a conditional write.
pub(super) enum Written {
    Done(Committed),
    /// The condition did not hold. Contains the value that was found instead, and the revision of
    /// that read.
    Refused(Option<Found>, Revision),
}

/// Returns whether a condition holds for a stored value. Values are compared byte for byte.
pub(super) fn holds(condition: &Condition, kv: Option<&KeyValue>) -> bool {
    match condition {
        Condition::Absent => kv.is_none(),
        Condition::Present => kv.is_some(),
        Condition::Created(revision) => kv.is_some_and(|kv| kv.created == *revision),
        Condition::Modified(revision) => kv.is_some_and(|kv| kv.modified == *revision),
        Condition::Value(value) => kv.is_some_and(|kv| kv.value == *value),
        Condition::Lease(lease) => kv.is_some_and(|kv| kv.lease == Some(*lease)),
        Condition::UnchangedSince(revision) => kv.is_none_or(|kv| kv.modified <= *revision),
        Condition::NeverExpires => kv.is_none_or(|kv| kv.lease.is_none() && kv.ttl.is_none()),
        Condition::Compared(relation, operand) => operand.relates(kv, *relation),
    }
}

impl<T: Send + Sync + 'static> Entry<T> {
    /// Returns whether a write keeps the existing expiry. Not used by `modify`, which keeps the
    /// expiry of standalone entries too.
    pub(super) fn keeps(&self, requested: RequestedExpiry) -> bool {
        requested == RequestedExpiry::Keep && self.enclosing.is_some()
    }

    /// Applies the operations if the current value is as expected. `ops` receives the expiry that
    /// its puts must set.
    ///
    /// The first transaction assumes that the value is at the field's own key, that the value is
    /// stored in the form that this library writes, and that nothing expires. If an assumption is
    /// wrong, the answer to the failed transaction contains the current state, and a second
    /// transaction uses that state.
    pub(super) async fn write_if(
        &self,
        expected: Option<&Expected>,
        requested: RequestedExpiry,
        ops: impl Fn(Expiry) -> Vec<Op>,
    ) -> Result<Written> {
        let mut requested = requested;
        if let (true, Some(Expected { seen: Some(seen), .. })) = (self.keeps(requested), expected) {
            match (seen.lease, self.transactional()) {
                // A key that was not written since the read is still attached to this lease.
                (Some(lease), true) => requested = RequestedExpiry::Named(Expiry::With(lease)),
                (None, false) if !seen.has_ttl => requested = RequestedExpiry::Named(Expiry::Never),
                _ => {}
            }
        }
        let keeps = self.keeps(requested);
        if !self.transactional() && (keeps || !self.aliases.is_empty()) {
            return self.read_and_write_if(expected, requested, ops).await;
        }
        let mut enclosing_expiry = if keeps { EnclosingExpiry::of(self.enclosing.as_ref(), &self.key) } else { EnclosingExpiry::default() };
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
                compares.extend(enclosing_expiry.compares());
            }
            let expiry = match &known {
                Some(Some(found)) if keeps => found.kv.expiry(),
                Some(None) if keeps => enclosing_expiry.expiry(),
                _ => requested.or_never(),
            };
            let otherwise = self.look().into_iter().chain(enclosing_expiry.looks()).collect();
            let committed = self.commit(Txn { compares, then: ops(expiry), otherwise }).await?;
            if committed.succeeded {
                return Ok(Written::Done(committed));
            }
            enclosing_expiry.learn(&committed.results);
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
                enclosing_expiry.forget();
            }
        }
    }

    /// Like [`write_if`](Self::write_if), on stores where a transaction covers only one key. Reads
    /// the value and its expiry first. The write then requires that the key has not changed.
    async fn read_and_write_if(
        &self,
        expected: Option<&Expected>,
        requested: RequestedExpiry,
        ops: impl Fn(Expiry) -> Vec<Op>,
    ) -> Result<Written> {
        let keeps = self.keeps(requested);
        let mut retry = OptimisticRetry::new(&self.context.retry);
        let (mut found, mut revision) = self.find_to_write().await?;
        loop {
            if expected.is_some_and(|expected| !self.holds(&expected.condition, found.as_ref().map(|found| &found.kv))) {
                return Ok(Written::Refused(found, revision));
            }
            let expiry = match &found {
                Some(found) if keeps => found.kv.expiry(),
                None if keeps => self.expiry_around().await?,
                _ => requested.or_never(),
            };
            let compares = self.as_found(found.as_ref());
            match self.commit(Txn { compares, then: ops(expiry), otherwise: self.look() }).await {
                Ok(committed) if committed.succeeded => return Ok(Written::Done(committed)),
                // The kept lease no longer exists.
                Err(error) if error.kind() != ErrorKind::LeaseLost || !keeps => return Err(error),
                Ok(_) | Err(_) => {}
            }
            match retry.after_conflict(None, self.find_to_write()).await? {
                AfterConflict::Retry(now) => (found, revision) = now,
                AfterConflict::GiveUp(_) => return Ok(Written::Refused(found, revision)),
            }
        }
    }

    /// Reads when the enclosing struct expires. Used on stores where a write cannot check an
    /// assumption about the expiry.
    async fn expiry_around(&self) -> Result<Expiry> {
        let mut enclosing_expiry = EnclosingExpiry::of(self.enclosing.as_ref(), &self.key);
        enclosing_expiry.read(&self.context).await?;
        Ok(enclosing_expiry.expiry())
    }

    /// Returns the conditions that the field has not changed since it was read as `found`.
    pub(super) fn as_found(&self, found: Option<&Found>) -> Vec<Compare> {
        match found {
            Some(found) => self.compares(found.at, Condition::Modified(found.kv.modified)),
            None => self.compares(self.aliases.len(), Condition::Absent),
        }
    }
}
