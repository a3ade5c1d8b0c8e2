//! Grants, renews, queries and revokes leases, over the connection for leases.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::Core;
use super::how::How;
use super::kv::{lease_number, seconds};
use super::status::{Failure, NOT_ALLOWED, Row};
use super::wire::{
    LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_REVOKE, LEASE_TIME_TO_LIVE, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
};
use crate::error::{Error, ErrorKind, Result};
use crate::retry::until;
use crate::revision::LeaseId;

/// Implements [`Store::grant`](crate::store::Store::grant).
pub(super) async fn grant(core: &Arc<Core>, id: LeaseId, ttl: Duration) -> Result<Duration> {
    let asked = seconds(ttl);
    let deadline = core.retry.deadline();
    // Whether an earlier attempt of this call may have created the lease.
    let mut ours = false;
    loop {
        let request = LeaseGrantRequest { ttl: asked, id: lease_number(id) };
        match core.call_until(&LEASE_GRANT, How::LEASE, request, deadline).await {
            Ok(answer) if answer.error.is_empty() => return Ok(time(answer.ttl)),
            Ok(answer) => return Err(Error::new(ErrorKind::Server, format!("lease {id}: {}", answer.error))),
            Err(failure) if failure.row == Row::LeaseExists => {
                ours |= failure.may_have_applied;
                // No earlier attempt can have created the lease, so it belongs to another client.
                if !ours {
                    return Err(failure.into());
                }
                // An earlier attempt created the lease. Renewing it restores its full time.
                match until(deadline, keep_alive(core, id)).await {
                    Ok(granted) if granted < Duration::from_secs(asked.unsigned_abs()) => {
                        return Err(Error::new(
                            ErrorKind::AlreadyExists,
                            format!("lease {id} exists, with a shorter time to live than requested"),
                        ));
                    }
                    // The lease expired while the client waited for the answer. The server answers
                    // `LeaseLost` after it has removed the lease, so the id is free again.
                    Err(error) if error.kind() == ErrorKind::LeaseLost => {
                        if Instant::now() >= deadline {
                            let late = format!("lease {id} expired before its grant was answered, in every attempt");
                            return Err(Error::new(ErrorKind::Timeout, late).caused_by(error));
                        }
                    }
                    kept => return kept,
                }
            }
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// Implements [`Store::keep_alive`](crate::store::Store::keep_alive). Each renewal uses its own
/// short stream, so that an error for one lease does not affect others.
pub(super) async fn keep_alive(core: &Arc<Core>, id: LeaseId) -> Result<Duration> {
    let answer = core.call(&LEASE_KEEP_ALIVE, How::LEASE, LeaseKeepAliveRequest { id: lease_number(id) }).await;
    let answer = answer.map_err(|failure| of_lease(id, failure))?;
    // For a lease that does not exist, the server answers with a time of zero.
    if answer.ttl <= 0 { Err(Error::new(ErrorKind::LeaseLost, format!("lease {id} does not exist"))) } else { Ok(time(answer.ttl)) }
}

/// Implements [`Store::revoke`](crate::store::Store::revoke).
pub(super) async fn revoke(core: &Arc<Core>, id: LeaseId) -> Result<()> {
    match core.call(&LEASE_REVOKE, How::REVOKE, LeaseRevokeRequest { id: lease_number(id) }).await {
        Ok(_) | Err(Failure { row: Row::LeaseNotFound, .. }) => Ok(()),
        Err(failure) => Err(of_lease(id, failure)),
    }
}

/// Returns the error of a renewal or revocation. Both need the right to write all keys attached to
/// the lease.
fn of_lease(id: LeaseId, failure: Failure) -> Error {
    let error = Error::from(failure);
    let words = format!("the user may not write a key that is attached to lease {id}");
    let message = error.message().replace(NOT_ALLOWED, &words);
    error.with_message(message)
}

/// Implements [`Store::time_to_live`](crate::store::Store::time_to_live).
pub(super) async fn time_to_live(core: &Arc<Core>, id: LeaseId) -> Result<Option<Duration>> {
    let how = How { write: false, ..How::LEASE };
    match core.call(&LEASE_TIME_TO_LIVE, how, LeaseTimeToLiveRequest { id: lease_number(id) }).await {
        // For a lease that does not exist, the server answers with a time of -1.
        Ok(answer) => Ok((answer.ttl >= 0).then(|| time(answer.ttl))),
        Err(Failure { row: Row::LeaseNotFound, .. }) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

fn time(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
