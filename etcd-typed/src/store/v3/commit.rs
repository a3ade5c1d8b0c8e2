//! Performs a transaction: grants the leases it needs, sends the request, and gives back leases
//! that were not used.

use std::sync::Arc;

use super::coalesce::CoalescedReads;
use super::how::How;
use super::kv::{self, NewLease, Request, RequestPlan};
use super::rights;
use super::ttl::TtlLeases;
use super::wire::{DELETE_RANGE, PUT, TXN};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::LeaseId;
use crate::store::{Capabilities, Committed, Txn};

/// The maximum number of attempts of a write whose shared lease no longer exists on the server.
const ATTEMPTS: u32 = 3;

/// Implements [`Store::commit`](crate::store::Store::commit).
pub(super) async fn commit(reads: &Arc<CoalescedReads>, ttls: &TtlLeases, capabilities: &Capabilities, txn: &Txn) -> Result<Committed> {
    let core = reads.core();
    let at = |error: Error| match kv::only_key(txn) {
        Some(key) => error.at(key),
        None => error,
    };
    let RequestPlan { request, leases } = kv::plan(txn, capabilities.max_operations, capabilities.max_value).map_err(at)?;
    let outcome = if leases.is_empty() {
        perform(reads, request).await
    } else {
        // Boxed, because few writes need a lease first.
        Box::pin(core.retry.one_call(with_leases(reads, ttls, request, &leases))).await
    };
    match outcome {
        Ok(committed) => Ok(committed),
        // Boxed, because errors are rare, and this code would enlarge the futures of thousands of
        // waiting calls.
        Err(error) => Err(at(Box::pin(rights::explained(core, txn, error)).await)),
    }
}

/// Performs a request with granted leases in place of the planned ones.
async fn with_leases(reads: &Arc<CoalescedReads>, ttls: &TtlLeases, request: Request, leases: &[NewLease]) -> Result<Committed> {
    let core = reads.core();
    let (mut request, mut leases) = (request, leases.to_vec());
    let mut more = ATTEMPTS;
    loop {
        more -= 1;
        let mut given = Vec::with_capacity(leases.len());
        for new in &leases {
            match ttls.take(core, new).await {
                Ok(lease) => {
                    request.put_in_place(new.id, lease.id);
                    given.push(lease);
                }
                Err(error) => {
                    given.into_iter().for_each(|lease| ttls.give_back(core, lease));
                    return Err(known(error));
                }
            }
        }
        let outcome = perform(reads, request.clone()).await;
        let is_needed = |new: &NewLease| match &outcome {
            Ok(committed) => new.then == committed.succeeded,
            Err(error) => error.may_have_applied(),
        };
        match &outcome {
            // A shared lease has expired, or the server has lost it. Nothing was written.
            Err(error) if more > 0 && error.kind() == ErrorKind::LeaseLost && given.iter().any(|lease| lease.is_old) => {
                for (new, lease) in leases.iter_mut().zip(given) {
                    ttls.forget(lease).await;
                    new.id = LeaseId::random();
                    request.put_in_place(lease.id, new.id);
                }
            }
            _ => {
                let unused = leases.iter().zip(given).filter(|(new, _)| !is_needed(new));
                unused.for_each(|(_, lease)| ttls.give_back(core, lease));
                return outcome;
            }
        }
    }
}

async fn perform(reads: &Arc<CoalescedReads>, request: Request) -> Result<Committed> {
    let core = reads.core();
    match request {
        Request::Range(request) => Ok(kv::range_committed(Arc::clone(reads).range(How::READ, request).await?)),
        Request::Put(request) => Ok(kv::put_committed(core.call(&PUT, How::WRITE, request).await?)),
        Request::Delete(request) => Ok(kv::delete_committed(core.call(&DELETE_RANGE, How::WRITE, request).await?)),
        Request::Txn { request, reads_only } => {
            if reads_only {
                reads.expect_read_txn();
            }
            let how = if reads_only { How::READ } else { How::WRITE };
            kv::txn_committed(core.call(&TXN, how, request.clone()).await?, &request)
        }
    }
}

/// Turns the error of a grant into the error of the transaction, which was never sent.
fn known(error: Error) -> Error {
    if !error.may_have_applied() {
        return error;
    }
    Error::new(error.kind(), "the lease for the time to live could not be granted").caused_by(error)
}
