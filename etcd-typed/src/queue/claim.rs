//! `Claim`: the condition of a guarded write.

use super::hold::Hold;
use crate::error::Error;
use crate::error::Result;
use crate::key::Key;
use crate::lease::{Lost, LostReason};
use crate::revision::{LeaseId, Revision};
use crate::store::{Compare, Condition, KeyValue, Op, RangeReply, Span};

/// The condition of a guarded write: the guard's key exists, was created at the guard's fence, and
/// is attached to the guard's lease. The revision alone is not enough, since a server that was
/// emptied may create a key at the same revision again.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(super) key: Key,
    pub(super) fence: Revision,
    pub(super) lease: LeaseId,
    pub(super) hold: Hold,
    /// Whether the store has transactions over several keys. Such a store also shows leases; a v2
    /// store knows only which keys this client attached to which lease.
    pub(super) transactions: bool,
}

impl Claim {
    /// Returns the compares for a transaction. On a store without transactions over several keys
    /// they work only in a request about the guard's own key.
    pub(crate) fn compares(&self) -> Vec<Compare> {
        let created = self.transactions.then_some(Condition::Created(self.fence));
        let conditions = created.into_iter().chain([Condition::Lease(self.lease)]);
        conditions.map(|condition| Compare::key(&self.key, condition)).collect()
    }

    /// Returns the read for a transaction whose compares failed. [`holds`](Self::holds) takes the
    /// result and decides whether this claim's condition failed.
    pub(crate) fn look(&self) -> Op {
        Op::Get(Span::Key(self.key.clone()))
    }

    /// Returns true if the key that was read meets this condition. Otherwise marks the guard as
    /// lost.
    pub(crate) fn holds(&self, reply: &RangeReply) -> bool {
        let why = self.why_lost(reply.kvs.first());
        if let Some(why) = why {
            self.hold.lose(why);
        }
        why.is_none()
    }

    /// Returns why the guard is lost, from the key that was read.
    pub(super) fn why_lost(&self, found: Option<&KeyValue>) -> Option<LostReason> {
        match found {
            None => Some(LostReason::KeyDeleted),
            Some(kv) if kv.created == self.fence && (kv.lease == Some(self.lease) || self.is_untold(kv)) => None,
            Some(_) => Some(LostReason::TakenOver),
        }
    }

    /// True for every key of a store that does not show leases. On a store that shows leases, a key
    /// without a lease was detached from it.
    fn is_untold(&self, kv: &KeyValue) -> bool {
        !self.transactions && kv.lease.is_none()
    }

    /// Checks by the clock, without a request, that the guard is held.
    ///
    /// # Errors
    ///
    /// `GuardLost`.
    pub(crate) fn check(&self) -> Result<()> {
        self.hold.tend();
        match self.hold.reason() {
            Some(why) => Err(self.lost_since(why)),
            None => Ok(()),
        }
    }

    /// Returns the error of a guard that is not held.
    pub(crate) fn lost(&self) -> Error {
        self.lost_since(self.hold.reason().unwrap_or(LostReason::KeyDeleted))
    }

    pub(super) fn lost_since(&self, why: LostReason) -> Error {
        self.loss(why).into()
    }

    pub(super) fn loss(&self, why: LostReason) -> Lost {
        Lost::of(self.lease, &self.key, why, self.hold.cause(why))
    }
}
