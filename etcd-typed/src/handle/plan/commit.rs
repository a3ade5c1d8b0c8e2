//! Sends a write plan in one transaction, or in as many transactions as necessary.

use std::time::Duration;

use super::{Atomicity, Removal, WritePlan, place};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::Context;
use crate::handle::expiry::EnclosingExpiry;
use crate::key::Key;
use crate::revision::{LeaseId, Revision};
use crate::store::{Committed, Compare, Condition, Expiry, Op, Span, Txn};

impl Context {
    /// Runs a write of many keys with its time limit. An atomic write is one call with one limit.
    /// Each step of a non-atomic write has its own limit, since the number of steps depends on the
    /// number of keys.
    pub(in crate::handle) async fn limited<F: Future>(&self, atomicity: Atomicity, write: F) -> F::Output {
        match atomicity {
            Atomicity::Atomic => self.retry.one_call(write).await,
            Atomicity::NonAtomic => write.await,
        }
    }

    /// Returns an error if the store cannot perform a write in one transaction, before anything is
    /// sent. If the write is too large, the error contains `advice` for the caller.
    pub(in crate::handle) fn check_atomic(&self, directory: &Key, compares: &[Compare], operations: usize, advice: &str) -> Result<()> {
        self.check_guards().map_err(|error| error.at(directory))?;
        let capabilities = self.store.capabilities();
        let single_key = operations <= 1 && compares.iter().all(|compare| matches!(compare.span, Span::Key(_)));
        if !capabilities.transactions && !single_key {
            let message =
                format!("{} has no transaction over several keys; `.non_atomic()` writes key by key, or use etcd v3", capabilities.name);
            return Err(Error::new(ErrorKind::Unsupported, message).at(directory));
        }
        let limit = capabilities.max_operations;
        let guards = self.guard_compares().len();
        let conditions = compares.len() + guards;
        let theirs = if guards == 0 { String::new() } else { format!(" ({guards} of them the guard's)") };
        if operations > limit || conditions > limit {
            let message = format!(
                "{operations} operations under {conditions} conditions{theirs}, and one transaction takes {limit} of each (server flag \
                 `--max-txn-ops`, `max_operations` on the client); {advice}",
            );
            return Err(Error::new(ErrorKind::TooManyOperations, message).at(directory));
        }
        Ok(())
    }

    /// Returns whether one transaction accepts this many conditions in addition to those of the
    /// guards.
    pub(in crate::handle) fn has_room_for(&self, conditions: usize) -> bool {
        conditions <= self.room_for_conditions()
    }

    /// Returns the number of conditions that one transaction accepts in addition to those of the
    /// guards.
    pub(in crate::handle) fn room_for_conditions(&self) -> usize {
        self.store.capabilities().max_operations.saturating_sub(self.guard_compares().len())
    }

    /// Sends a plan in one transaction. If a condition fails, updates `enclosing_expiry` from the
    /// answer.
    pub(in crate::handle) async fn commit_plan(
        &self,
        directory: &Key,
        plan: WritePlan,
        mut compares: Vec<Compare>,
        mut otherwise: Vec<Op>,
        enclosing_expiry: &mut EnclosingExpiry,
        advice: &str,
    ) -> Result<Committed> {
        self.check_atomic(directory, &compares, plan.len(), advice)?;
        let depends = plan.depends_on(enclosing_expiry);
        if depends && !self.store.capabilities().transactions {
            enclosing_expiry.read(self).await.map_err(|error| error.at(directory))?;
        } else if depends {
            compares.extend(enclosing_expiry.compares());
            otherwise.extend(enclosing_expiry.looks());
            self.check_atomic(directory, &compares, plan.len(), advice)?;
        }
        let txn = Txn { compares, then: plan.into_ops(directory, enclosing_expiry), otherwise };
        let committed = self.commit(txn).await.map_err(|error| error.at(directory))?;
        if depends && !committed.succeeded {
            enclosing_expiry.learn(&committed.results);
        }
        Ok(committed)
    }

    /// Sends a plan in as many transactions as necessary. `condition` returns the condition of each
    /// key, if it has one. Returns each key with the revision at which it was written.
    ///
    /// # Errors
    ///
    /// Each error lists the keys that were written before the error. `Conflict` if a condition does
    /// not hold.
    pub(in crate::handle) async fn commit_non_atomic(
        &self,
        directory: &Key,
        plan: WritePlan,
        condition: impl Fn(&str) -> Option<Condition>,
        enclosing_expiry: &mut EnclosingExpiry,
    ) -> Result<Vec<(String, Revision)>> {
        self.check_guards().map_err(|error| error.at(directory))?;
        let transactions = self.store.capabilities().transactions;
        let depends = plan.depends_on(enclosing_expiry);
        let asks = depends && transactions;
        if depends && !asks {
            enclosing_expiry.read(self).await.map_err(|error| error.at(directory))?;
        }
        let (around, looks) = if asks { (enclosing_expiry.compares(), enclosing_expiry.looks()) } else { (Vec::new(), Vec::new()) };
        let on_key = |key: &String| Some(Compare::key(&directory.descend(key), condition(key)?));
        let on_directory = |removal: &Removal| {
            let below = Span::Below(place(directory, &removal.directory));
            Some(Compare { span: below, condition: Condition::UnchangedSince(removal.since?) })
        };
        let conditions: Vec<Option<Compare>> = plan.own_keys().map(on_key).chain(plan.removals.iter().map(on_directory)).collect();
        let keys: Vec<String> = plan.keys().cloned().collect();
        let conditional = conditions.iter().any(Option::is_some);
        let follows: Vec<bool> = plan.puts.iter().map(|put| put.expiry.is_none()).collect();
        let mut ops = plan.into_ops(directory, enclosing_expiry);
        self.share_leases(&mut ops).await.map_err(|error| error.at(directory))?;
        let (mut around, mut written): (_, Vec<(String, Revision)>) = (around, Vec::new());
        while !ops.is_empty() {
            // Conditions and operations have the same limit, and each key has at most one
            // condition. If the keys have conditions, those on the enclosing structs come in
            // addition, and fewer operations fit.
            let beside = if conditional { &around[..] } else { &[] };
            let rest = ops.split_off(self.fitting(&ops, beside));
            let step = std::mem::replace(&mut ops, rest);
            let steps = written.len()..written.len() + step.len();
            let keys = keys.get(steps.clone()).unwrap_or_default();
            let of_step: Vec<Compare> = conditions.get(steps).unwrap_or_default().iter().flatten().cloned().collect();
            let outcome = match &step[..] {
                [Op::Delete { span: Span::Below(removed), .. }] if !transactions => self.remove(removed, !of_step.is_empty()).await,
                _ => {
                    let compares = of_step.into_iter().chain(around.clone()).collect();
                    self.commit(Txn { compares, then: step.clone(), otherwise: looks.clone() }).await
                }
            };
            let failure = match outcome {
                Ok(committed) if committed.succeeded => {
                    written.extend(keys.iter().map(|relative| (relative.clone(), committed.revision)));
                    continue;
                }
                // The write had wrongly assumed that nothing expires.
                Ok(committed) if asks && enclosing_expiry.learn(&committed.results) => {
                    ops = step.into_iter().chain(std::mem::take(&mut ops)).collect();
                    for (op, follows) in ops.iter_mut().zip(follows.iter().skip(written.len())) {
                        if let (Op::Put { expiry, .. }, true) = (op, *follows) {
                            *expiry = enclosing_expiry.expiry();
                        }
                    }
                    around = enclosing_expiry.compares();
                    continue;
                }
                Ok(_) => Error::new(ErrorKind::Conflict, ""),
                Err(error) => error,
            };
            let first = keys.first().map_or_else(|| directory.clone(), |relative| place(directory, relative));
            let written = written.iter().map(|(relative, _)| place(directory, relative)).collect();
            return Err(failure.at(&first).after_writing(written));
        }
        Ok(written)
    }

    /// Removes a directory with all its contents, on stores where a transaction cannot have
    /// conditions on the keys in it (v2).
    ///
    /// With `only_empty`, the removal fails if a listing of the directory shows a key. The listing
    /// does not show keys that v2 hides, so these are removed with the directory. A key that
    /// another client writes between the listing and the removal is removed too.
    async fn remove(&self, directory: &Key, only_empty: bool) -> Result<Committed> {
        let mut looked = Committed { revision: Revision::ZERO, succeeded: true, results: Vec::new() };
        if only_empty {
            match self.commit(Txn { then: vec![Op::RemoveDir { key: directory.clone() }], ..Txn::default() }).await {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
                Err(error) if is_no_directory(&error) => return Ok(looked),
                removed => return removed,
            }
            let reply = self.read_to_write(Span::Below(directory.clone())).await?;
            if !reply.kvs.is_empty() {
                return Ok(Committed { succeeded: false, ..looked });
            }
            looked.revision = reply.revision;
        }
        let then = vec![Op::Delete { span: Span::Below(directory.clone()), previous: false }];
        match self.commit(Txn { then, ..Txn::default() }).await {
            Err(error) if is_no_directory(&error) => Ok(looked),
            removed => removed,
        }
    }

    /// If the puts need several transactions, grants one lease for each time to live and attaches
    /// the puts to it. In one transaction, the store does the same.
    async fn share_leases(&self, ops: &mut [Op]) -> Result<()> {
        if !self.store.capabilities().transactions || self.fitting(ops, &[]) == ops.len() {
            return Ok(());
        }
        let mut made: Vec<(Duration, LeaseId)> = Vec::new();
        for op in ops {
            let Op::Put { expiry, .. } = op else { continue };
            let Expiry::After(ttl) = *expiry else { continue };
            let id = match made.iter().find(|(other, _)| *other == ttl) {
                Some((_, id)) => *id,
                None => {
                    let id = LeaseId::random();
                    self.asked().grant(id, ttl).await?;
                    made.push((ttl, id));
                    id
                }
            };
            *expiry = Expiry::With(id);
        }
        Ok(())
    }

    /// Returns how many of the operations fit into one transaction, by number and size, together
    /// with these conditions and those of the guards. Returns at least one.
    fn fitting(&self, ops: &[Op], conditions: &[Compare]) -> usize {
        // A generous estimate of the bytes that an operation and its condition take in a request,
        // without their keys and the value.
        const OVERHEAD: usize = 64;
        let capabilities = self.store.capabilities();
        let mut conditions = conditions.to_vec();
        conditions.extend(self.guard_compares());
        let most = if capabilities.transactions { capabilities.max_operations.saturating_sub(conditions.len()) } else { 1 };
        let mut size = OVERHEAD + conditions.iter().map(|compare| OVERHEAD + 2 * compare.span.key().as_str().len()).sum::<usize>();
        let fits = |op: &&Op| {
            size += OVERHEAD
                + match op {
                    Op::Put { key, value, .. } => 2 * key.as_str().len() + value.len(),
                    _ => 0,
                };
            size <= capabilities.max_value
        };
        ops.iter().take(most).take_while(fits).count().max(1)
    }
}

/// Returns the highest revision of several writes, or `without` if nothing was written.
pub(in crate::handle) fn last(written: &[(String, Revision)], without: Revision) -> Revision {
    written.iter().map(|(_, revision)| *revision).max().unwrap_or(without)
}

/// Returns whether the error means that the directory does not exist.
fn is_no_directory(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
