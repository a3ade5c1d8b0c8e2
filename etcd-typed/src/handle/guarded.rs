//! Writes under guards: what a handle sends to decide or to do a write goes through here, and on the condition that its guards are held.
//!
//! A builder's `guarded_by` gives it a [`Context`] of its own with the guard in it. So no way to a commit can miss the guard, and a read that decides
//! a write is as of a revision at which the guard was held, whether anything is written after it or not.

use std::sync::Arc;

use super::{Context, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Committed, Compare, Op, OpResult, Range, RangeReply, Span, Txn};
use crate::turn::{Claim, Guard};

impl Context {
    /// The same, for writes that are also on the condition that this guard is held.
    pub(super) fn guarded_by(&self, guard: &Guard) -> Shared {
        let mut context = self.clone();
        context.claims.push(guard.claim().clone());
        Arc::new(context)
    }

    pub(super) fn is_guarded(&self) -> bool {
        !self.claims.is_empty()
    }

    /// What the guards add to the conditions of a transaction.
    pub(super) fn guard_compares(&self) -> Vec<Compare> {
        self.claims.iter().flat_map(Claim::compares).collect()
    }

    /// That the guards may be held, and that the store can say so in the transaction that writes.
    ///
    /// # Errors
    ///
    /// `GuardLost`. `Unsupported` without transactions.
    pub(super) fn check_guards(&self) -> Result<()> {
        let capabilities = self.store.capabilities();
        if self.is_guarded() && !capabilities.transactions {
            let message = format!(
                "{} has no transaction over two keys, so nothing can be written on the condition that a guard's key is still the guard's; `verify()` \
                 asks before a write and `while_held` stops what writes (both leave a moment in between), or use etcd v3",
                capabilities.name
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        self.claims.iter().try_for_each(Claim::check)
    }

    /// Sends a transaction of a write. That it did not succeed, its guards do not account for.
    ///
    /// # Errors
    ///
    /// `GuardLost` when a guard was not held, whatever else did not hold: of the same revision and from the same answer.
    pub(super) async fn commit(&self, mut txn: Txn) -> Result<Committed> {
        if !self.is_guarded() {
            return self.asked().commit(txn).await;
        }
        self.check_guards()?;
        let conditional = !txn.compares.is_empty();
        txn.compares.extend(self.guard_compares());
        txn.otherwise.extend(self.claims.iter().map(Claim::look));
        let mut committed = self.asked().commit(txn).await?;
        if committed.succeeded {
            return Ok(committed);
        }
        let looks = committed.results.split_off(committed.results.len().saturating_sub(self.claims.len()));
        let lost = self.claims.iter().zip(&looks).find(|(claim, look)| match look {
            OpResult::Get(reply) => !claim.holds(reply),
            OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => false,
        });
        match lost {
            Some((claim, _)) => Err(claim.lost()),
            None if conditional => Ok(committed),
            // Whoever sends no condition does not ask whether it held.
            None => Err(Error::new(ErrorKind::Server, "a write was refused although its only condition, a guard, holds")),
        }
    }

    /// Reads a whole span so that a write can be decided by it: never stale, whatever the client's reads are.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit) under guards.
    pub(super) async fn read_to_write(&self, span: Span) -> Result<RangeReply> {
        if !self.is_guarded() {
            return self.asked().range(Range::of(span)).await;
        }
        let committed = self.commit(Txn { then: vec![Op::Get(span)], ..Txn::default() }).await?;
        match committed.results.into_iter().next() {
            Some(OpResult::Get(reply)) => Ok(reply),
            _ => Err(Error::new(ErrorKind::Server, "the answer to a read has nothing that was read")),
        }
    }
}
