//! Writes under guards. Every request of a handle that decides or does a write passes through this
//! file and requires that its guards are held.
//!
//! `guarded_by` on a builder adds the guard to the builder's own [`Context`]. So no commit can miss
//! the guard. A read that decides a write is from a revision at which the guard was held, even if
//! nothing is written afterwards.

use std::sync::Arc;

use super::{Context, SharedContext};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::queue::{Claim, Guard};
use crate::revision::Revision;
use crate::schema::{self, Tree};
use crate::store::{Committed, Compare, Op, OpResult, Range, RangeReply, Span, Txn};

impl Context {
    /// Returns a copy whose writes also require that this guard is held.
    pub(crate) fn guarded_by(&self, guard: &Guard) -> SharedContext {
        let mut context = self.clone();
        context.claims.push(guard.claim().clone());
        Arc::new(context)
    }

    /// Returns the context with the guards of another one in addition.
    pub(super) fn with_guards_of(self: &Arc<Self>, other: &Self) -> SharedContext {
        if !other.is_guarded() {
            return self.clone();
        }
        let mut context = Self::clone(self);
        context.claims.extend(other.claims.iter().cloned());
        Arc::new(context)
    }

    pub(super) fn is_guarded(&self) -> bool {
        !self.claims.is_empty()
    }

    /// The conditions that the guards add to a transaction.
    pub(super) fn guard_compares(&self) -> Vec<Compare> {
        self.claims.iter().flat_map(Claim::compares).collect()
    }

    /// Checks that the guards may still be held, and that the store can check them in the
    /// transaction of the write.
    ///
    /// # Errors
    ///
    /// `GuardLost`. `Unsupported` if the store has no transactions.
    pub(super) fn check_guards(&self) -> Result<()> {
        let capabilities = self.store.capabilities();
        if self.is_guarded() && !capabilities.transactions {
            let message = format!(
                "{} has no transaction over two keys, so a write cannot require that a guard is held; `verify()` checks the guard before a \
                 write and `while_held` stops the writer (both leave a short gap), or use etcd v3",
                capabilities.name
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        self.claims.iter().try_for_each(Claim::check)
    }

    /// Sends the transaction of a write, with the conditions of the guards. A lost guard is an
    /// error. So if the result says that a condition failed, it is one of the write's own
    /// conditions.
    ///
    /// # Errors
    ///
    /// `GuardLost` if a guard was not held, whether or not other conditions failed. The same answer
    /// shows this, so it is from the same revision.
    pub(crate) async fn commit(&self, mut txn: Txn) -> Result<Committed> {
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
            // A caller without conditions of its own does not look at `succeeded`, so this must be
            // an error.
            None => Err(Error::new(ErrorKind::Server, "a write was refused although its only condition, a guard, holds")),
        }
    }

    /// Reads a whole span for a decision about a write. The read is never stale, whatever the
    /// client is set to.
    ///
    /// # Errors
    ///
    /// The errors of [`commit`](Self::commit).
    pub(super) async fn read_to_write(&self, span: Span) -> Result<RangeReply> {
        if !self.is_guarded() {
            return self.asked().range(Range::of(span)).await;
        }
        let committed = self.commit(Txn { then: vec![Op::Get(span)], ..Txn::default() }).await?;
        match committed.results.into_iter().next() {
            Some(OpResult::Get(reply)) => Ok(reply),
            _ => Err(Error::new(ErrorKind::Server, "the answer to a read contains no result")),
        }
    }

    /// Like [`read_to_write`](Self::read_to_write), for everything below a directory.
    pub(super) async fn read_below(&self, directory: &Key) -> Result<(Tree, Revision)> {
        let reply = self.read_to_write(Span::Below(directory.clone())).await.map_err(|error| error.at(directory))?;
        Ok((schema::tree_in_steps(directory, reply.kvs).await, reply.revision))
    }
}
