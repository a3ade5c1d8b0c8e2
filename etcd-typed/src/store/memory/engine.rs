//! The store as a state machine without a clock: history and leases together. The caller passes the
//! current time, and no function waits.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::lease::{self, Leases};
use super::state::{HistoryLimit, State};
use super::txn;
use crate::error::Result;
use crate::revision::{LeaseId, Revision};
use crate::store::{Committed, Expiry, Op, OpResult, Txn};

/// The content of one store.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) state: State,
    pub(super) leases: Leases,
    /// Transactions to apply later, each with its time. A fault delayed them, and their callers
    /// already got an error.
    late: Vec<(Instant, Txn)>,
}

impl Engine {
    pub(super) fn new(limit: HistoryLimit) -> Self {
        Self { state: State::new(limit), leases: Leases::default(), late: Vec::new() }
    }

    /// Ends the leases and applies the late transactions that are due at `now`, in the order of
    /// their times.
    pub(super) fn advance(&mut self, now: Instant) {
        while let Some(due) = self.next_deadline().filter(|due| *due <= now) {
            match self.leases.first_end() {
                Some((end, id)) if end <= due => self.revoke(id),
                _ => {
                    if let Some(index) = self.late.iter().position(|(at, _)| *at == due) {
                        let (_, txn) = self.late.remove(index);
                        // The caller already got an error that leaves the outcome open, so a
                        // refusal needs no report.
                        let _ = self.commit(&txn, txn::Limits::NONE, due);
                    }
                }
            }
        }
    }

    /// Returns the time at which the store next changes without a call.
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
        // Everything that can fail comes before the first write.
        let leases = self.leases_of(ops, now)?;
        let mut write = self.state.write();
        let results = ops.iter().map(|op| match op {
            Op::Get(span) => OpResult::Get(write.get(span)),
            Op::Page { span, limit, order } => OpResult::Get(write.page(span, *limit, *order)),
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
            // `txn::check` has refused transactions with these operations.
            Op::MakeDir { .. } | Op::UpdateDir { .. } | Op::RemoveDir { .. } => OpResult::Done,
        });
        let results = results.collect();
        let (revision, moved) = write.finish();
        self.leases.moved(moved);
        Ok(Committed { revision, succeeded, results })
    }

    /// Schedules a transaction to be applied at a later time.
    pub(super) fn commit_late(&mut self, txn: Txn, at: Instant) {
        self.late.push((at, txn));
    }

    /// Ends a lease. All its keys vanish in one revision.
    pub(super) fn revoke(&mut self, id: LeaseId) {
        let Some(keys) = self.leases.remove(id) else { return };
        let mut write = self.state.write();
        for key in keys {
            write.delete_key(&key);
        }
        write.finish();
    }

    /// Returns the newest revision and the next deadline. While both stay the same, no waiting
    /// watch has anything to do.
    pub(super) fn mark(&self) -> (Revision, Option<Instant>) {
        (self.state.revision(), self.next_deadline())
    }

    /// Checks the leases of these puts and grants new ones for puts with a time to live. Puts with
    /// the same time to live share a lease, so their keys vanish together.
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
