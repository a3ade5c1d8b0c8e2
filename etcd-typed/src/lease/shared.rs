//! `Share`: one lease for the keys of several owners, who come and go. Each deletes its own key;
//! the lease ends with the last of them.
//!
//! A request whose outcome is unknown may make a key after its owner is gone, and nothing but the
//! end of the lease would end that key. So an owner who leaves without knowing that its key is gone
//! retires the lease: the others attach their keys to another one, and the last to go ends it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Id;
use tokio::sync::watch;

use super::{Lease, Lessor};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::runtime::{self, current, sleep_until};

/// The keys of one lease at most: so many are lost together when it ends, and are attached anew
/// when it is retired.
const MEMBERS: usize = 100;

/// The lease that the next key may be attached to, by its time to live and for each runtime: an
/// entry is locked while its lease is made, and a runtime that is not driven must not hold up
/// another one.
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
    /// How many of the owners wait for its end.
    waiting: usize,
    /// No further key may join.
    closed: bool,
}

/// The part that one key has in a lease.
pub(crate) struct Share {
    group: Arc<Group>,
    key: Key,
    waits: bool,
    /// Nothing of this owner is attached to the lease, nor ever will be.
    gone: bool,
}

impl SharedLeases {
    fn slot(&self, ttl: Duration) -> Slot {
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (ttl, current());
        if !slots.contains_key(&at) {
            // A slot stays while it, or its lease, is in use.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|group| group.strong_count() > 0));
        }
        slots.entry(at).or_default().clone()
    }
}

impl Share {
    /// A share in a lease with this time to live, for a key that has none in it yet.
    ///
    /// # Errors
    ///
    /// Those of a grant.
    pub(crate) async fn of(lessor: &Arc<Lessor>, ttl: Duration, key: &Key) -> Result<Self> {
        if !runtime::is_here() {
            return Err(Error::without_runtime().at(key));
        }
        if !lessor.roaming().capabilities().transactions {
            // v2 has no leases: the client refreshes each key by itself, so sharing saves nothing.
            return Ok(Group::new(lessor.grant(ttl).await?).first(key));
        }
        let slot = lessor.shared().slot(ttl);
        let mut group = tokio::select! {
            biased;
            group = slot.lock() => group,
            () = sleep_until(lessor.retry().deadline()) => {
                return Err(Error::new(ErrorKind::Timeout, "another key waits for the same lease, and the server does not answer"));
            }
        };
        if let Some(share) = group.upgrade().and_then(|group| group.join(key)) {
            return Ok(share);
        }
        let new = Group::new(lessor.grant(ttl).await?);
        *group = Arc::downgrade(&new);
        Ok(new.first(key))
    }

    /// Becomes true when the lease is retired: its owners must attach their keys to another one.
    pub(crate) fn retired(&self) -> watch::Receiver<bool> {
        self.group.retired.subscribe()
    }

    /// Nothing of this owner is attached to the lease any more, nor ever will be.
    pub(crate) fn leave(mut self) {
        self.gone = true;
    }

    /// Ends the lease if that costs no other owner its key. Else the others are told to leave it,
    /// and this owner waits; false.
    ///
    /// # Errors
    ///
    /// Those of a revocation.
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

    /// The key is attached to the lease after all, so this owner does not wait for its end.
    pub(crate) fn stay(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.group.members().waiting -= 1;
        }
    }

    /// Whether no other key is attached to the lease. If so, none will be.
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

    /// None where there is no place, or not enough time: a key would hang on one answer.
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
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
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
            // The last one to go ends it; see `Lease`'s own drop.
            self.group.members().closed = true;
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("lease", &self.group.lease).field("key", &self.key).finish_non_exhaustive()
    }
}
