//! Performing a transaction: the leases it needs, the request, and giving back the leases that it turned out not to need.

use std::sync::Arc;
use std::time::Duration;

use super::call::{Core, How};
use super::join::Reads;
use super::kv::{self, NewLease, Plan, Request};
use super::wire::{DELETE_RANGE, PUT, TXN};
use super::{lease, rights, spawn};
use crate::error::{Error, Result};
use crate::store::{Capabilities, Committed, Txn};
use crate::telemetry;

/// [`Store::commit`](crate::store::Store::commit).
pub(super) async fn commit(reads: &Arc<Reads>, capabilities: &Capabilities, txn: &Txn) -> Result<Committed> {
    let core = reads.core();
    let at = |error: Error| match kv::only_key(txn) {
        Some(key) => error.at(key),
        None => error,
    };
    let Plan { request, leases } = kv::plan(txn, capabilities.max_operations, capabilities.max_value).map_err(at)?;
    let outcome = if leases.is_empty() {
        perform(reads, request).await
    } else {
        // Boxed: few writes need a lease first.
        Box::pin(core.retry.one_call(with_leases(reads, request, &leases))).await
    };
    match outcome {
        Ok(committed) => Ok(committed),
        // Boxed: it is rare, and thousands of calls may wait.
        Err(error) => Err(at(Box::pin(rights::explained(core, txn, error)).await)),
    }
}

/// Performs a request after making the leases that it names.
async fn with_leases(reads: &Arc<Reads>, request: Request, leases: &[NewLease]) -> Result<Committed> {
    let core = reads.core();
    for (made, lease) in leases.iter().enumerate() {
        if let Err(error) = lease::grant(core, lease.id, Duration::from_secs(lease.seconds.unsigned_abs())).await {
            // A lease that may have been made after all runs out by itself; no key was written.
            give_back(core, leases.iter().take(made + 1));
            return Err(known(error));
        }
    }
    let outcome = perform(reads, request).await;
    match &outcome {
        Ok(committed) => give_back(core, leases.iter().filter(|lease| lease.then != committed.succeeded)),
        Err(error) if !error.may_have_applied() => give_back(core, leases),
        Err(_) => {}
    }
    outcome
}

async fn perform(reads: &Arc<Reads>, request: Request) -> Result<Committed> {
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

/// Ends leases in the background. Where that fails they run out by themselves.
fn give_back<'l>(core: &Arc<Core>, leases: impl IntoIterator<Item = &'l NewLease>) {
    for lease in leases {
        let (core, id) = (Arc::clone(core), lease.id);
        spawn(async move {
            if let Err(error) = lease::revoke(&core, id).await {
                telemetry::lease_not_revoked(id, &error);
            }
        });
    }
}

/// The error of a grant as the error of the transaction that was never sent.
fn known(error: Error) -> Error {
    if !error.may_have_applied() {
        return error;
    }
    Error::new(error.kind(), "the lease for the time to live could not be had").caused_by(error)
}
