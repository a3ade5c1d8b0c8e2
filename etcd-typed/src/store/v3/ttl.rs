//! Leases for writes with a time to live. Each such write needs a lease, and the lease stays on the
//! server for its whole time.
//!
//! To need fewer leases, the client grants a lease slightly longer than requested, and writes with
//! the same time to live share the lease during the extra time. No key expires earlier than its
//! write asked for. Kubernetes does the same for its events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout_at;

use super::attempt::Core;
use super::kv::NewLease;
use super::{lease, spawn};
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::LeaseId;
use crate::telemetry;

/// The time to live divided by this number is the extra time of its lease. Writes share the lease
/// during the extra time.
const SURPLUS: i64 = 20;

/// The shortest time to live, in seconds, whose lease is shared. Shorter leases end soon anyway,
/// and their extra time would be noticeable.
const SHORTEST: i64 = 300;

/// The maximum number of writes that share a lease. When the lease ends, all its keys are deleted
/// in one revision.
const SHARES: u32 = 1000;

/// The shared leases of one runtime, by time to live in seconds. An entry is locked while its lease
/// is granted, so that concurrent writes share it. The map is per runtime, because a runtime that
/// is not driven would keep the lock.
#[derive(Debug, Default)]
pub(super) struct TtlLeases(Mutex<HashMap<i64, Slot>>);

type Slot = Arc<tokio::sync::Mutex<Option<SharedLease>>>;

#[derive(Debug)]
struct SharedLease {
    id: LeaseId,
    /// When the lease was requested.
    asked: Moment,
    /// How many writes use the lease. Writes that gave the lease back do not count.
    shares: u32,
}

/// The lease that a write is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) id: LeaseId,
    seconds: i64,
    /// True if the lease was granted for an earlier write. The lease may have ended since without
    /// this client knowing.
    pub(super) is_old: bool,
}

impl TtlLeases {
    /// Returns a lease with at least the requested time left.
    ///
    /// # Errors
    ///
    /// The errors of a grant. Nothing was written.
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
        *shared = Some(SharedLease { id, asked, shares: 1 });
        Ok(Given { id, seconds, is_old: false })
    }

    /// Gives back a lease to which no key was attached for this write. If no other write uses the
    /// lease, it is revoked in the background.
    pub(super) fn give_back(&self, core: &Arc<Core>, given: Given) {
        let slot = self.slots().get(&given.seconds).cloned();
        let Some(slot) = slot else { return revoke(core, given.id) };
        // If the entry is locked, another write is using the lease or granting the next one. This
        // lease then expires by itself.
        let Ok(mut shared) = slot.try_lock() else { return };
        if let Some(lease) = shared.as_mut().filter(|lease| lease.id == given.id) {
            lease.shares -= 1;
            if lease.shares == 0 {
                *shared = None;
                revoke(core, given.id);
            }
        }
    }

    /// Removes a lease that no longer exists on the server.
    pub(super) async fn forget(&self, given: Given) {
        let slot = self.slots().get(&given.seconds).cloned();
        if let Some(slot) = slot {
            slot.lock().await.take_if(|shared| shared.id == given.id);
        }
    }

    fn slot(&self, seconds: i64) -> Slot {
        let mut slots = self.slots();
        if !slots.contains_key(&seconds) && slots.len() == slots.capacity() {
            // Before the map grows, remove the entries that are no longer useful.
            let now = Moment::now();
            slots.retain(|seconds, slot| {
                let is_over = |shared: &SharedLease| now.since(shared.asked) >= time(seconds / SURPLUS);
                Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|shared| !shared.as_ref().is_none_or(is_over))
            });
        }
        slots.entry(seconds).or_default().clone()
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Slot>> {
        // No code panics while it holds the lock, so a poisoned lock still guards consistent data.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn time(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

/// Revokes a lease in the background. If that fails, the lease expires by itself.
fn revoke(core: &Arc<Core>, id: LeaseId) {
    let core = Arc::clone(core);
    spawn(async move {
        if let Err(error) = lease::revoke(&core, id).await {
            telemetry::lease_not_revoked(id, &error);
        }
    });
}
