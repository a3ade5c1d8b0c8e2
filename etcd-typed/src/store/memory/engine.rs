//! The store as a machine without a clock: history and leases together, moved on by calls that name the time. Nothing here waits.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::lease::{self, Leases};
use super::state::{HistoryLimit, State};
use super::txn;
use crate::error::Result;
use crate::revision::{LeaseId, Revision};
use crate::store::{Committed, Expiry, Op, OpResult, Txn};

/// What one store holds.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) state: State,
    pub(super) leases: Leases,
    /// Transactions that were answered with an error and are applied later all the same (a fault), by when.
    late: Vec<(Instant, Txn)>,
}

impl Engine {
    pub(super) fn new(limit: HistoryLimit) -> Self {
        Self { state: State::new(limit), leases: Leases::default(), late: Vec::new() }
    }

    /// Does all that was due by now, in the order and at the time it was due.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(due) = self.next_deadline().filter(|due| *due <= now) {
            match self.leases.first_end() {
                Some((end, id)) if end <= due => self.revoke(id),
                _ => {
                    if let Some(index) = self.late.iter().position(|(at, _)| *at == due) {
                        let (_, txn) = self.late.remove(index);
                        // It was answered already; that it is refused now is one of the things that may become of it.
                        let _ = self.commit(&txn, txn::Limits::NONE, due);
                    }
                }
            }
        }
    }

    /// When the store changes next by itself.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let lease = self.leases.first_end().map(|(end, _)| end);
        let late = self.late.iter().map(|(at, _)| *at).min();
        [lease, late].into_iter().flatten().min()
    }

    /// See [`Store::commit`](crate::store::Store::commit).
    pub(super) fn commit(&mut self, txn: &Txn, limits: txn::Limits, now: Instant) -> Result<Committed> {
        txn::check(txn, limits)?;
        let succeeded = txn.compares.iter().all(|compare| txn::holds(&self.state, compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        // All that can fail comes before the first write.
        let leases = self.leases_of(ops, now)?;
        let mut write = self.state.write();
        let results = ops.iter().map(|op| match op {
            Op::Get(span) => OpResult::Get(write.get(span)),
            Op::Newest { below, before, limit } => OpResult::Get(write.newest(below, *before, *limit)),
            Op::Put { key, value, expiry, previous } => {
                let lease = match expiry {
                    Expiry::Never => None,
                    Expiry::With(lease) => Some(*lease),
                    Expiry::After(ttl) => leases.get(ttl).copied(),
                };
                let before = write.put(key.as_bytes(), value.clone(), lease);
                OpResult::Put(before.filter(|_| *previous))
            }
            Op::Delete { span, previous } => {
                let before = write.delete(span);
                OpResult::Delete { deleted: before.len() as u64, previous: if *previous { before } else { Vec::new() } }
            }
            // `txn::check` refused them.
            Op::MakeDir { .. } | Op::UpdateDir { .. } | Op::RemoveDir { .. } => OpResult::Done,
        });
        let results = results.collect();
        let (revision, moved) = write.finish();
        self.leases.moved(moved);
        Ok(Committed { revision, succeeded, results })
    }

    /// Applies a transaction at a later time.
    pub(super) fn commit_late(&mut self, txn: Txn, at: Instant) {
        self.late.push((at, txn));
    }

    /// Ends a lease; all its keys vanish in one revision.
    pub(super) fn revoke(&mut self, id: LeaseId) {
        let Some(keys) = self.leases.remove(id) else { return };
        let mut write = self.state.write();
        for key in keys {
            write.delete_key(&key);
        }
        write.finish();
    }

    /// The newest revision and the next deadline: when they are the same, nobody who waits has anything to see.
    pub(super) fn mark(&self) -> (Revision, Option<Instant>) {
        (self.state.revision(), self.next_deadline())
    }

    /// Makes sure that the leases of these puts are there. Puts with the same time to live share a lease, so they vanish together.
    fn leases_of(&mut self, ops: &[Op], now: Instant) -> Result<HashMap<Duration, LeaseId>> {
        let puts = || ops.iter().filter_map(|op| if let Op::Put { key, expiry, .. } = op { Some((key, *expiry)) } else { None });
        for (key, expiry) in puts() {
            match expiry {
                Expiry::Never => Ok(()),
                Expiry::With(lease) => self.leases.check(lease),
                Expiry::After(ttl) => lease::granted(ttl).map(drop),
            }
            .map_err(|error| error.at(key))?;
        }
        let mut made = HashMap::new();
        for (_, expiry) in puts() {
            if let Expiry::After(ttl) = expiry
                && !made.contains_key(&ttl)
            {
                made.insert(ttl, self.leases.grant_unnamed(ttl, now)?);
            }
        }
        Ok(made)
    }
}
