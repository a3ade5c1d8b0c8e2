//! Leases for writes that name a time to live. Each such write needs a lease, and a lease stays on
//! the server for its whole time.
//!
//! So a lease is made a little longer than it was asked for, and writes of the same time to live
//! share it while that surplus lasts. No key ends sooner than its write says. (Kubernetes does the
//! same for its events.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout_at;

use super::call::Core;
use super::kv::NewLease;
use super::{lease, spawn};
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::LeaseId;
use crate::telemetry;

/// The part of a time to live for which its lease is shared, and by which the lease is longer: a
/// twentieth.
const SURPLUS: i64 = 20;

/// The shortest time to live in seconds whose lease is shared. A lease of a shorter one is soon
/// gone, and its surplus would be seen.
const SHORTEST: i64 = 300;

/// Writes that share a lease at most. All keys of a lease are deleted in one revision when it ends.
const SHARES: u32 = 1000;

/// The leases that writes of one runtime share, by their time to live in seconds. An entry is
/// locked while its lease is made, so that writes at the same time share it; a lock must not be
/// held by a runtime that is not driven.
#[derive(Debug, Default)]
pub(super) struct TtlLeases(Mutex<HashMap<i64, Slot>>);

type Slot = Arc<tokio::sync::Mutex<Option<Shared>>>;

#[derive(Debug)]
struct Shared {
    id: LeaseId,
    /// The lease is as old as this.
    asked: Moment,
    /// Writes that were given it, without those that gave it back.
    shares: u32,
}

/// A lease that a write was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) id: LeaseId,
    seconds: i64,
    /// The lease may have ended since it was made, without this client knowing it.
    pub(super) is_old: bool,
}

impl TtlLeases {
    /// A lease with at least so much time left.
    ///
    /// # Errors
    ///
    /// Those of a grant. Nothing was written.
    pub(super) async fn take(&self, core: &Arc<Core>, new: &NewLease) -> Result<Given> {
        let NewLease { id, seconds, .. } = *new;
        let surplus = seconds / SURPLUS;
        if seconds < SHORTEST {
            lease::grant(core, id, time(seconds)).await.inspect_err(|_| revoke(core, id))?;
            return Ok(Given { id, seconds, is_old: false });
        }
        let slot = self.slot(seconds);
        let late = |_| Error::new(ErrorKind::Timeout, "another write waits for the same lease, and the server does not answer");
        let mut shared = timeout_at(core.retry.deadline(), slot.lock()).await.map_err(late)?;
        if let Some(shared) = &mut *shared
            && shared.shares < SHARES
            && Moment::now().since(shared.asked) < time(surplus)
        {
            shared.shares += 1;
            return Ok(Given { id: shared.id, seconds, is_old: true });
        }
        let asked = Moment::now();
        lease::grant(core, id, time(seconds.saturating_add(surplus))).await.inspect_err(|_| revoke(core, id))?;
        *shared = Some(Shared { id, asked, shares: 1 });
        Ok(Given { id, seconds, is_old: false })
    }

    /// No key was attached for this write. A lease that no other write was given is ended in the
    /// background.
    pub(super) fn give_back(&self, core: &Arc<Core>, given: Given) {
        let slot = self.slots().get(&given.seconds).cloned();
        let Some(slot) = slot else { return revoke(core, given.id) };
        // While it is locked, another write takes it, or makes the next one; then it runs out.
        let Ok(mut shared) = slot.try_lock() else { return };
        if let Some(lease) = shared.as_mut().filter(|lease| lease.id == given.id) {
            lease.shares -= 1;
            if lease.shares == 0 {
                *shared = None;
                revoke(core, given.id);
            }
        }
    }

    /// The server does not have this lease.
    pub(super) async fn forget(&self, given: Given) {
        let slot = self.slots().get(&given.seconds).cloned();
        if let Some(slot) = slot {
            slot.lock().await.take_if(|shared| shared.id == given.id);
        }
    }

    fn slot(&self, seconds: i64) -> Slot {
        let mut slots = self.slots();
        if !slots.contains_key(&seconds) && slots.len() == slots.capacity() {
            // Before the map grows, what is of no use any more goes.
            let now = Moment::now();
            slots.retain(|seconds, slot| {
                let is_over = |shared: &Shared| now.since(shared.asked) >= time(seconds / SURPLUS);
                Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|shared| !shared.as_ref().is_none_or(is_over))
            });
        }
        slots.entry(seconds).or_default().clone()
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Slot>> {
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn time(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

/// Ends a lease in the background. Where that fails it runs out by itself.
fn revoke(core: &Arc<Core>, id: LeaseId) {
    let core = Arc::clone(core);
    spawn(async move {
        if let Err(error) = lease::revoke(&core, id).await {
            telemetry::lease_not_revoked(id, &error);
        }
    });
}
