//! Leases: made, kept alive, asked about, ended. Each is one call on the connection for leases.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::call::{Core, How};
use super::kv::{lease_number, seconds};
use super::status::{Failure, NOT_ALLOWED, Row};
use super::wire::{
    LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_REVOKE, LEASE_TIME_TO_LIVE, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest,
};
use crate::error::{Error, ErrorKind, Result};
use crate::retry::until;
use crate::revision::LeaseId;

/// [`Store::grant`](crate::store::Store::grant).
pub(super) async fn grant(core: &Arc<Core>, id: LeaseId, ttl: Duration) -> Result<Duration> {
    let asked = seconds(ttl);
    let deadline = core.retry.deadline();
    // Whether an attempt may have made it.
    let mut ours = false;
    loop {
        let request = LeaseGrantRequest { ttl: asked, id: lease_number(id) };
        match core.call_until(&LEASE_GRANT, How::LEASE, request, deadline).await {
            Ok(answer) if answer.error.is_empty() => return Ok(time(answer.ttl)),
            Ok(answer) => return Err(Error::new(ErrorKind::Server, format!("lease {id}: {}", answer.error))),
            Err(failure) if failure.row == Row::LeaseExists => {
                ours |= failure.may_have_applied;
                // The first attempt to make it found it, so it is another client's.
                if !ours {
                    return Err(failure.into());
                }
                // An earlier attempt has made it. Its time starts again, as if it were made now.
                match until(deadline, keep_alive(core, id)).await {
                    Ok(granted) if granted < Duration::from_secs(asked.unsigned_abs()) => {
                        return Err(Error::new(ErrorKind::AlreadyExists, format!("lease {id} exists, with less time than asked for")));
                    }
                    // It ran out while the answer was waited for, and the name is free again: the server answers this when it has removed it.
                    Err(error) if error.kind() == ErrorKind::LeaseLost => {
                        if Instant::now() >= deadline {
                            let late = format!("lease {id} ran out, again and again, before the answer that it was made");
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

/// [`Store::keep_alive`](crate::store::Store::keep_alive): a short stream for each, so that an error of one lease ends nothing else.
pub(super) async fn keep_alive(core: &Arc<Core>, id: LeaseId) -> Result<Duration> {
    let answer = core.call(&LEASE_KEEP_ALIVE, How::LEASE, LeaseKeepAliveRequest { id: lease_number(id) }).await;
    let answer = answer.map_err(|failure| of_lease(id, failure))?;
    // The server answers a time of zero for a lease that is not there.
    if answer.ttl <= 0 { Err(Error::new(ErrorKind::LeaseLost, format!("lease {id} is not there"))) } else { Ok(time(answer.ttl)) }
}

/// [`Store::revoke`](crate::store::Store::revoke).
pub(super) async fn revoke(core: &Arc<Core>, id: LeaseId) -> Result<()> {
    match core.call(&LEASE_REVOKE, How::REVOKE, LeaseRevokeRequest { id: lease_number(id) }).await {
        Ok(_) | Err(Failure { row: Row::LeaseNotFound, .. }) => Ok(()),
        Err(failure) => Err(of_lease(id, failure)),
    }
}

/// Who keeps a lease alive or ends it needs the right to write all keys that are attached to it.
fn of_lease(id: LeaseId, failure: Failure) -> Error {
    let error = Error::from(failure);
    let words = format!("the user may not write a key that is attached to lease {id}");
    let message = error.message().replace(NOT_ALLOWED, &words);
    error.with_message(message)
}

/// [`Store::time_to_live`](crate::store::Store::time_to_live).
pub(super) async fn time_to_live(core: &Arc<Core>, id: LeaseId) -> Result<Option<Duration>> {
    let how = How { write: false, ..How::LEASE };
    match core.call(&LEASE_TIME_TO_LIVE, how, LeaseTimeToLiveRequest { id: lease_number(id) }).await {
        // The server answers -1 for a lease that is not there.
        Ok(answer) => Ok((answer.ttl >= 0).then(|| time(answer.ttl))),
        Err(Failure { row: Row::LeaseNotFound, .. }) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

fn time(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
