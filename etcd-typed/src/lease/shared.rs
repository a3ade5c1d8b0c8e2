//! `Share`: one lease for the keys of several owners, which come and go. Each owner deletes its own
//! key; the last owner ends the lease.
//!
//! A request with an unknown outcome may create a key after its owner is gone. Only the end of the
//! lease deletes that key. So an owner that leaves without knowing that its key is deleted retires
//! the lease: the other owners attach their keys to another lease, and the last owner to leave ends
//! the retired one.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Id;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Lease;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::runtime::{current, sleep_until};

/// The maximum number of keys of one lease. All of them are lost when the lease ends, and all are
/// attached to another lease when it is retired.
const MEMBERS: usize = 100;

/// The lease that the next key may be attached to, for each time to live and runtime. An entry is
/// locked while its lease is requested. Each runtime has its own entries, so that an undriven
/// runtime does not block another one.
#[derive(Default)]
pub(super) struct SharedLeases(Mutex<HashMap<(Duration, Option<Id>), Slot>>);

type Slot = Arc<tokio::sync::Mutex<Weak<Group>>>;

/// A lease and the keys that are attached to it.
struct Group {
    lease: Lease,
    members: Mutex<Members>,
    /// Whether the owners must attach their keys to another lease.
    retired: watch::Sender<bool>,
}

#[derive(Default)]
struct Members {
    keys: HashSet<Key>,
    /// How many of the owners wait for the end of the lease.
    waiting: usize,
    /// True if no further key may join the lease.
    closed: bool,
}

/// One key's membership in a shared lease.
pub(crate) struct Share {
    group: Arc<Group>,
    key: Key,
    waits: bool,
    /// True if this owner's key is not attached to the lease, and no request can still attach the
    /// key.
    gone: bool,
}

impl SharedLeases {
    fn slot(&self, ttl: Duration) -> Slot {
        // No code panics while it holds this lock, so the data of a poisoned lock is consistent.
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (ttl, current());
        if !slots.contains_key(&at) {
            // A slot stays while it or its lease is in use.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|group| group.strong_count() > 0));
        }
        slots.entry(at).or_default().clone()
    }

    /// Returns a share in the current lease with this time to live. Uses `grant` to get a new lease
    /// if the current one is full, has ended, or already has the key.
    pub(super) async fn share(
        &self,
        ttl: Duration,
        key: &Key,
        deadline: Instant,
        grant: impl Future<Output = Result<Lease>>,
    ) -> Result<Share> {
        let slot = self.slot(ttl);
        let mut group = tokio::select! {
            biased;
            group = slot.lock() => group,
            () = sleep_until(deadline) => {
                return Err(Error::new(ErrorKind::Timeout, "another key waits for the same lease, and the server does not answer"));
            }
        };
        if let Some(share) = group.upgrade().and_then(|group| group.join(key)) {
            return Ok(share);
        }
        let new = Group::new(grant.await?);
        *group = Arc::downgrade(&new);
        Ok(new.first(key))
    }
}

impl Share {
    /// Returns the share of a key that does not share this lease with other keys.
    pub(super) fn alone(lease: Lease, key: &Key) -> Self {
        Group::new(lease).first(key)
    }

    /// Returns a channel whose value becomes true when the lease is retired. The owners must then
    /// attach their keys to another lease.
    pub(crate) fn retired(&self) -> watch::Receiver<bool> {
        self.group.retired.subscribe()
    }

    /// Leaves the lease. This owner's key must not be attached to the lease, and no request may
    /// still attach it.
    pub(crate) fn leave(mut self) {
        self.gone = true;
    }

    /// Marks this owner as waiting for the end of the lease. If all owners wait, ends the lease and
    /// returns true. Otherwise retires the lease, so that the others leave it, and returns false.
    ///
    /// # Errors
    ///
    /// The errors of a revocation.
    pub(crate) async fn end(&mut self) -> Result<bool> {
        if !std::mem::replace(&mut self.waits, true) {
            self.group.members().waiting += 1;
        }
        let alone = {
            let mut members = self.group.members();
            members.closed |= members.keys.len() == members.waiting;
            members.keys.len() == members.waiting
        };
        if !alone {
            self.group.retire();
            return Ok(false);
        }
        self.group.lease.end().await?;
        self.gone = true;
        Ok(true)
    }

    /// Records that the key is attached to the lease after all, so that this owner no longer waits
    /// for the end of the lease.
    pub(crate) fn stay(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.group.members().waiting -= 1;
        }
    }

    /// Returns whether no other key is attached to the lease. If so, closes the lease for other
    /// keys.
    pub(crate) fn is_sole(&self) -> bool {
        let mut members = self.group.members();
        let sole = members.keys.len() == 1;
        members.closed |= sole;
        sole
    }
}

impl Group {
    fn new(lease: Lease) -> Arc<Self> {
        Arc::new(Self { lease, members: Mutex::default(), retired: watch::Sender::new(false) })
    }

    fn first(self: &Arc<Self>, key: &Key) -> Share {
        self.members().keys.insert(key.clone());
        Share { group: self.clone(), key: key.clone(), waits: false, gone: false }
    }

    /// Returns a share for the key. Returns `None` if the lease is full or closed, already has the
    /// key, or has so little time left that a single lost answer could end it.
    fn join(self: &Arc<Self>, key: &Key) -> Option<Share> {
        let fit = self.lease.remaining() >= self.lease.ttl() / 2;
        {
            let mut members = self.members();
            if members.closed || !fit || members.keys.len() >= MEMBERS || !members.keys.insert(key.clone()) {
                return None;
            }
        }
        Some(Share { group: self.clone(), key: key.clone(), waits: false, gone: false })
    }

    fn retire(&self) {
        self.members().closed = true;
        self.retired.send_replace(true);
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // No code panics while it holds this lock, so the data of a poisoned lock is consistent.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Share {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.group.lease
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let others = {
            let mut members = self.group.members();
            members.keys.remove(&self.key);
            members.waiting -= usize::from(self.waits);
            !members.keys.is_empty()
        };
        if !self.gone {
            self.group.retire();
        } else if !others {
            // Dropping the last share drops the lease, which ends it.
            self.group.members().closed = true;
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("lease", &self.group.lease).field("key", &self.key).finish_non_exhaustive()
    }
}
