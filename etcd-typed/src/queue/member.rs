//! `Member`: the lease of a contender, and the registration of its key for the hand-over.

use std::sync::Arc;

use super::hand_over::{HandOver, Registration};
use super::release::{Handed, Release};
use crate::key::Key;
use crate::lease::{Lease, LeasePool};
use crate::revision::Revision;
use crate::store::Store;

/// Dropping it revokes the lease, which deletes the key.
pub(super) struct Member {
    pub(super) lease: Lease,
    /// `None` for a key that another process created.
    registration: Option<Registration>,
}

impl Member {
    pub(super) fn new(lease: Lease) -> Self {
        Self { lease, registration: None }
    }

    /// Registers a key, attached to the lease, that is about to join the queue of a directory. It
    /// stays registered until the lease is returned or dropped.
    pub(super) fn enter(&mut self, hand_over: &Arc<HandOver>, directory: &Key, key: &Key) {
        // Ends the old registration first: it may have the same key.
        self.registration = None;
        self.registration = Some(hand_over.enter(directory, key, self.lease.validity()));
    }

    /// Records the revision at which the key was created.
    pub(super) fn entered(&self, created: Revision) {
        if let Some(registration) = &self.registration {
            registration.made(created);
        }
    }

    /// Returns the lease to the pool as a spare one. No key is attached to it, and none will be by
    /// past requests. `handed` is for the contender that waited for the key.
    pub(super) fn put_back(self, lease_pool: &LeasePool, hand_over: &HandOver, handed: Option<Handed>) {
        let Self { lease, registration } = self;
        // This must happen before the lease becomes a spare one, because another queue may take it
        // then.
        match handed {
            Some(handed) => hand_over.hand_on(registration, handed),
            None => drop(registration),
        }
        lease_pool.put(lease);
    }

    /// Commits `release` in the background. If that succeeds and the lease is `reusable`, it becomes
    /// a spare one; otherwise it is revoked.
    pub(super) fn release(self, release: Release, lease_pool: &Arc<LeasePool>, hand_over: Arc<HandOver>, reusable: bool) {
        let Self { lease, registration } = self;
        // Weak, since the pool may own the task that runs this.
        let (store, lease_pool): (Arc<dyn Store>, _) = (lease_pool.roaming().clone(), Arc::downgrade(lease_pool));
        lease.finish(|lease| async move {
            let member = Self { lease, registration };
            let done = release.commit(&*store).await.ok().filter(|done| done.succeeded);
            match (lease_pool.upgrade(), done) {
                (Some(lease_pool), Some(done)) if reusable => member.put_back(&lease_pool, &hand_over, done.handed),
                // Dropping the lease revokes it, which deletes its keys, even if the commit failed.
                _ => drop(member),
            }
        });
    }
}
