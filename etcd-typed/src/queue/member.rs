//! `Member`: the lease of a contender, and the registration of its key for the hand-over.

use std::sync::Arc;
use std::time::Duration;

use super::hand_over::{HandOver, Registration};
use super::release::{Handed, Release};
use crate::error::Result;
use crate::key::Key;
use crate::lease::{BorrowedLease, Lease, LeasePool, Removal, Validity};
use crate::revision::{LeaseId, Revision};
use crate::store::{Committed, Store};

/// The lease of a contender, with the registration of its key. Dropping a `Member` revokes the
/// contender's own lease, which deletes the key. If the lease belongs to the caller, dropping the
/// `Member` deletes only the key.
pub(super) struct Member {
    lease: MemberLease,
    /// `None` for a key that another process created.
    registration: Option<Registration>,
    /// True if all requests that create the key were answered. If not, the server may still apply
    /// an unanswered request later, while the lease lives.
    clean: bool,
}

/// The outcome of a request that creates the key of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Created,
    NotCreated,
    Unknown,
}

impl Sent {
    pub(super) fn of(answer: &Result<Committed>) -> Self {
        match answer {
            Ok(committed) if committed.succeeded => Self::Created,
            Err(error) if error.may_have_applied() => Self::Unknown,
            Ok(_) | Err(_) => Self::NotCreated,
        }
    }
}

/// The lease of a contender.
enum MemberLease {
    /// A lease that no other contender has at the same time.
    Own(Lease),
    /// A lease that the caller keeps, and the key that is attached to it.
    Borrowed(BorrowedKey),
}

/// A key of a borrowed lease. Dropping it deletes the key in the background.
struct BorrowedKey {
    lease_pool: Arc<LeasePool>,
    lease: BorrowedLease,
    /// `None` until the contender has a key.
    key: Option<Key>,
    may_exist: bool,
    /// Whether an unanswered request may create the key after it was deleted.
    late: bool,
}

impl Member {
    /// `clean` says whether all requests under the lease were answered.
    pub(super) fn new(lease: Lease, clean: bool) -> Self {
        Self { lease: MemberLease::Own(lease), registration: None, clean }
    }

    pub(super) fn borrowing(lease_pool: &Arc<LeasePool>, lease: &BorrowedLease) -> Self {
        let borrowed = BorrowedKey { lease_pool: lease_pool.clone(), lease: lease.clone(), key: None, may_exist: false, late: false };
        Self { lease: MemberLease::Borrowed(borrowed), registration: None, clean: true }
    }

    /// Returns the name of the key in its queue. On a borrowed lease the name differs in each
    /// attempt, since a program may join a queue twice with one lease, and Go's `concurrency` uses
    /// the lease's id alone.
    pub(super) fn name(&self) -> String {
        match &self.lease {
            MemberLease::Own(lease) => lease.id().to_string(),
            MemberLease::Borrowed(_) => format!("{}{BORROWED}{}", self.lease_id(), LeaseId::random()),
        }
    }

    pub(super) fn lease_id(&self) -> LeaseId {
        match &self.lease {
            MemberLease::Own(lease) => lease.id(),
            MemberLease::Borrowed(borrowed) => borrowed.lease.id(),
        }
    }

    pub(super) fn ttl(&self) -> Duration {
        match &self.lease {
            MemberLease::Own(lease) => lease.ttl(),
            MemberLease::Borrowed(borrowed) => borrowed.lease.ttl(),
        }
    }

    pub(super) fn validity(&self) -> &Validity {
        match &self.lease {
            MemberLease::Own(lease) => lease.validity(),
            MemberLease::Borrowed(borrowed) => borrowed.lease.validity(),
        }
    }

    pub(super) fn is_borrowed(&self) -> bool {
        matches!(self.lease, MemberLease::Borrowed(_))
    }

    /// Registers a key that is about to join the queue of a directory, attached to the lease. The
    /// key stays registered until the lease is returned or dropped.
    pub(super) fn enter(&mut self, hand_over: &Arc<HandOver>, directory: &Key, key: &Key) {
        // Ends the old registration first: it may have the same key.
        self.registration = None;
        self.registration = Some(hand_over.enter(directory, key, self.validity()));
        if let MemberLease::Borrowed(borrowed) = &mut self.lease {
            borrowed.key = Some(key.clone());
        }
    }

    /// Records that a request that creates the key is about to be sent.
    pub(super) fn sending(&mut self) {
        if let MemberLease::Borrowed(borrowed) = &mut self.lease {
            (borrowed.may_exist, borrowed.late) = (true, true);
        }
    }

    /// Records the outcome of the request that creates the key. A request that was not sent is
    /// `NotCreated`.
    pub(super) fn sent(&mut self, outcome: Sent) {
        self.clean &= outcome != Sent::Unknown;
        if let MemberLease::Borrowed(borrowed) = &mut self.lease {
            (borrowed.may_exist, borrowed.late) = (!self.clean || outcome == Sent::Created, !self.clean);
        }
    }

    /// Records the revision at which the key was created.
    pub(super) fn entered(&self, created: Revision) {
        if let Some(registration) = &self.registration {
            registration.made(created);
        }
    }

    /// Records that the guard is released, so that the end of its own lease is not reported as a
    /// loss.
    pub(super) fn set_unwanted(&self) {
        if let MemberLease::Own(lease) = &self.lease {
            lease.validity().set_wanted(false);
        }
    }

    /// Ends the membership after the key was deleted, or was never created. The contender's own
    /// lease becomes a spare lease if all requests were answered; otherwise it is revoked. `handed`
    /// is passed to the contender that waited for the key.
    pub(super) fn put_back(self, lease_pool: &LeasePool, hand_over: &HandOver, handed: Option<Handed>) {
        let Self { lease, registration, clean } = self;
        let lease = match lease {
            MemberLease::Own(lease) if clean && lease.is_held() => Some(lease),
            MemberLease::Own(_) => return,
            MemberLease::Borrowed(mut borrowed) => {
                borrowed.may_exist = !clean;
                None
            }
        };
        // The registration must end before the lease becomes a spare one, since another queue may
        // then take the lease.
        match handed {
            Some(handed) => hand_over.hand_on(registration, handed),
            None => drop(registration),
        }
        if let Some(lease) = lease {
            lease_pool.put(lease);
        }
    }

    /// Commits `release` in the background. If that succeeds, the contender's own lease becomes a
    /// spare lease; otherwise it is revoked.
    pub(super) fn release(self, release: Release, lease_pool: &Arc<LeasePool>, hand_over: Arc<HandOver>) {
        let Self { lease, registration, clean } = self;
        // Weak, since the pool may own the task that runs this.
        let (store, weak): (Arc<dyn Store>, _) = (lease_pool.roaming().clone(), Arc::downgrade(lease_pool));
        let last = async move |lease| {
            let member = Self { lease, registration, clean };
            let done = release.commit(&*store).await.ok().filter(|done| done.succeeded);
            match (weak.upgrade(), done) {
                (Some(lease_pool), Some(done)) => member.put_back(&lease_pool, &hand_over, done.handed),
                // Dropping the member deletes the key, even if the commit failed.
                _ => drop(member),
            }
        };
        match lease {
            MemberLease::Own(lease) => lease.finish(|lease| last(MemberLease::Own(lease))),
            // The caller may have attached other keys to the lease, so the lease's task must go on
            // renewing it. The release runs in another task.
            borrowed @ MemberLease::Borrowed(_) => drop(lease_pool.runtimes().spawn(last(borrowed))),
        }
    }

    /// Keeps the key for another process. The contender's own lease is no longer renewed.
    pub(super) fn leave(self) {
        match self.lease {
            MemberLease::Own(lease) => lease.leave(),
            MemberLease::Borrowed(mut borrowed) => borrowed.may_exist = false,
        }
    }
}

impl Drop for BorrowedKey {
    fn drop(&mut self) {
        if let Some(key) = self.key.take().filter(|_| self.may_exist) {
            let removal = Removal::new(&self.lease_pool, &self.lease, &key, self.late);
            self.lease_pool.runtimes().spawn(removal.run(|| true));
        }
    }
}

/// Separates the lease's id from the random rest of a key's name, if the lease may have other keys.
const BORROWED: char = '-';

/// Returns whether a key in a queue has a lease that may have other keys. The key's name shows
/// this.
pub(super) fn is_on_borrowed_lease(key: &Key) -> bool {
    let name = key.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let Some((lease, rest)) = std::str::from_utf8(name).ok().and_then(|name| name.split_once(BORROWED)) else { return false };
    [lease, rest].iter().all(|number| u64::from_str_radix(number, 16).is_ok())
}
