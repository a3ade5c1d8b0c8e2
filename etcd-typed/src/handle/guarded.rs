//! Writes that are applied only while guards are held. All writes of handles, and all reads that
//! decide what is written, pass through this file, which adds the conditions of the guards.
//!
//! `guarded_by` on a builder adds the guard to the builder's own [`Context`], so every commit of
//! the builder has the condition. A read that decides what is written also requires the guard. So
//! the guard was held at the revision of the read, even if nothing is written afterwards.
//!
//! The handle of a field in an enum variant has the same kind of condition: the enum must still
//! have that variant.

use std::sync::Arc;

use bytes::Bytes;

use super::{Context, SharedContext};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::queue::{Claim, Guard};
use crate::revision::Revision;
use crate::schema::{self, Table, Tree};
use crate::store::{Committed, Compare, Condition, Op, OpResult, Range, RangeReply, Span, Txn};

/// A condition on the tag of an enum: the enum must have a certain variant.
#[derive(Clone, Debug)]
pub(crate) struct TagClaim {
    /// The key of the tag.
    key: Key,
    /// The schema of the enum.
    table: &'static Table,
    /// The index of the variant in the table.
    variant: usize,
}

impl TagClaim {
    /// Creates the condition that the enum in this directory has this variant.
    pub(super) fn new(directory: &Key, table: &'static Table, variant: usize) -> Self {
        Self { key: table.tag().map_or_else(|| directory.clone(), |tag| directory.descend(tag.segment)), table, variant }
    }

    /// Returns the tag in the form that this library writes.
    fn written(&self) -> Bytes {
        Bytes::from_static(self.table.tag_of(self.variant).unwrap_or_default().as_bytes())
    }

    fn compare(&self, stored: Bytes) -> Compare {
        Compare::key(&self.key, Condition::Value(stored))
    }

    /// Returns the tag in its stored form, from the answer to a read.
    ///
    /// # Errors
    ///
    /// `Conflict` if the enum does not have this variant.
    fn stored(&self, reply: &RangeReply) -> Result<Bytes> {
        let stored = reply.kvs.first().map(|kv| &kv.value);
        if let Some(stored) = stored.filter(|stored| self.table.variant(stored) == Some(self.variant)) {
            return Ok(stored.clone());
        }
        let name = self.table.tag_of(self.variant).unwrap_or_default();
        let now = stored.map_or_else(|| "does not exist".to_owned(), |stored| format!("is `{}`", String::from_utf8_lossy(stored).trim()));
        let message = format!("this handle is for the variant `{name}`, and the tag {} {now}", self.key);
        Err(Error::new(ErrorKind::Conflict, message))
    }
}

impl Context {
    /// Returns a copy whose writes also require that this guard is held.
    pub(crate) fn guarded_by(&self, guard: &Guard) -> SharedContext {
        let mut context = self.clone();
        context.claims.push(guard.claim().clone());
        Arc::new(context)
    }

    /// Returns a copy of this context for the handles of a variant's fields. Their writes also
    /// require that the enum has this variant.
    pub(super) fn within_variant(&self, tag: TagClaim) -> SharedContext {
        let mut context = self.clone();
        context.tags.push(tag);
        Arc::new(context)
    }

    /// Returns a copy of this context whose writes also check the guards and enum variants that
    /// `other` checks.
    pub(super) fn with_guards_of(self: &Arc<Self>, other: &Self) -> SharedContext {
        if !other.is_guarded() {
            return self.clone();
        }
        let mut context = Self::clone(self);
        context.claims.extend(other.claims.iter().cloned());
        let is_new = |tag: &&TagClaim| !self.tags.iter().any(|own| own.key == tag.key && own.variant == tag.variant);
        context.tags.extend(other.tags.iter().filter(is_new).cloned());
        Arc::new(context)
    }

    /// Returns true if writes check guards or enum variants.
    pub(super) fn is_guarded(&self) -> bool {
        !self.claims.is_empty() || self.is_in_variant()
    }

    /// Returns whether the handle belongs to a field of an enum variant.
    pub(super) fn is_in_variant(&self) -> bool {
        !self.tags.is_empty()
    }

    /// Returns the conditions that the guards and the enum variants add to a transaction.
    pub(super) fn guard_compares(&self) -> Vec<Compare> {
        let tags = self.tags.iter().map(|tag| tag.compare(tag.written()));
        self.claims.iter().flat_map(Claim::compares).chain(tags).collect()
    }

    /// Checks, without a request, that no guard is known to be lost, and that the store can check
    /// guards and enum variants in the transaction of a write.
    ///
    /// # Errors
    ///
    /// `GuardLost`. `Unsupported` if the store has no transactions.
    pub(super) fn check_guards(&self) -> Result<()> {
        let capabilities = self.store.capabilities();
        if self.is_guarded() && !capabilities.transactions {
            let what = match self.claims.is_empty() {
                true => {
                    "the enum has this variant; write the whole enum with `.non_atomic()`, with `update` or `set` of the handle of its \
                     directory, or use etcd v3"
                }
                false => {
                    "a guard is held; `verify()` checks the guard before a write and `while_held` stops the writer (both leave a short \
                     gap), or use etcd v3"
                }
            };
            let message = format!("{} has no transaction over two keys, so a write cannot require that {what}", capabilities.name);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        self.claims.iter().try_for_each(Claim::check)
    }

    /// Sends the transaction of a write, with the conditions for guards and enum variants added.
    /// Returns an error if one of the added conditions fails. So a result that is not `succeeded`
    /// means that one of the write's own conditions has failed.
    ///
    /// # Errors
    ///
    /// `GuardLost` if a guard was not held, even if other conditions failed too. `Conflict` if an
    /// enum has another variant. The failed transaction itself reads the guards and tags, so the
    /// error describes the same revision.
    pub(crate) async fn commit(&self, mut txn: Txn) -> Result<Committed> {
        if !self.is_guarded() {
            return self.asked().commit(txn).await;
        }
        self.check_guards()?;
        let conditional = !txn.compares.is_empty();
        txn.compares.extend(self.claims.iter().flat_map(Claim::compares));
        txn.otherwise.extend(self.claims.iter().map(Claim::look));
        if !self.is_in_variant() {
            let mut committed = self.asked().commit(txn).await?;
            if !committed.succeeded {
                self.check_refused(&mut committed)?;
            }
            return has_reason(committed, conditional);
        }
        txn.otherwise.extend(self.tags.iter().map(|tag| Op::Get(Span::Key(tag.key.clone()))));
        let own = txn.compares.len();
        let mut stored: Vec<Bytes> = self.tags.iter().map(TagClaim::written).collect();
        loop {
            txn.compares.truncate(own);
            txn.compares.extend(self.tags.iter().zip(&stored).map(|(tag, stored)| tag.compare(stored.clone())));
            let mut committed = self.asked().commit(txn.clone()).await?;
            if committed.succeeded {
                return Ok(committed);
            }
            let looks = committed.results.split_off(committed.results.len().saturating_sub(self.tags.len()));
            self.check_refused(&mut committed)?;
            let found = self.tags.iter().zip(&looks).map(|(tag, look)| match look {
                OpResult::Get(reply) => tag.stored(reply),
                OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => Ok(tag.written()),
            });
            let found = found.collect::<Result<Vec<_>>>()?;
            if found == stored {
                return has_reason(committed, conditional);
            }
            // The tag is stored in another form: as an alias, or with white space.
            stored = found;
        }
    }

    /// Removes the reads of the guards from the answer to a refused transaction, and checks them.
    ///
    /// # Errors
    ///
    /// `GuardLost` if a guard was not held.
    fn check_refused(&self, committed: &mut Committed) -> Result<()> {
        let looks = committed.results.split_off(committed.results.len().saturating_sub(self.claims.len()));
        let lost = self.claims.iter().zip(&looks).find(|(claim, look)| match look {
            OpResult::Get(reply) => !claim.holds(reply),
            OpResult::Put(_) | OpResult::Delete { .. } | OpResult::Done => false,
        });
        match lost {
            Some((claim, _)) => Err(claim.lost()),
            None => Ok(()),
        }
    }

    /// Reads a whole span, for a write that depends on it. The read is never stale, even if the
    /// client allows stale reads.
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

    /// Like [`read_to_write`](Self::read_to_write), for all keys below a directory.
    pub(super) async fn read_below(&self, directory: &Key) -> Result<(Tree, Revision)> {
        let reply = self.read_to_write(Span::Below(directory.clone())).await.map_err(|error| error.at(directory))?;
        Ok((schema::tree_in_steps(directory, reply.kvs).await, reply.revision))
    }
}

/// Returns the answer to a transaction whose guards are held. `conditional` is true if the caller
/// has conditions of its own. Other callers do not check `succeeded`, so they get an error if the
/// write was refused.
fn has_reason(committed: Committed, conditional: bool) -> Result<Committed> {
    if committed.succeeded || conditional {
        return Ok(committed);
    }
    Err(Error::new(ErrorKind::Server, "a write was refused although its only conditions, a guard or the tag of an enum, hold"))
}
