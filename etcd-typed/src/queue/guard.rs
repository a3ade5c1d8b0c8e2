//! `Guard`: the value that the holder of a lock or a leadership owns.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::ContenderQueue;
use super::claim::Claim;
use super::contender::Rank;
use super::hold::Hold;
use super::key_watch::Watching;
use super::member::Member;
use super::release::Release;
use super::token::Token;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::lease::{Lost, LostReason};
use crate::retry::answer_until;
use crate::revision::{LeaseId, Revision};
use crate::runtime::{self, sleep_until};
use crate::store::{Committed, Expiry, Op, OpResult, Txn};

/// The common part of a [`Lock`](crate::Lock) and a [`Leader`](crate::Leader); both deref to it.
///
/// A guard is held while its key exists and a background task keeps its lease alive. Once a guard
/// is no longer held, it is never held again.
///
/// Another task watches the key. While the watch does not work, the task reads the key. If the
/// server refuses both for a whole time to live of the lease, because a right was revoked or the
/// password changed, the guard is lost ([`LostReason::Unverified`]): the key may be gone, and there
/// may be another holder.
///
/// # What a guard guarantees
///
/// The store has one holder at a time. But no clock and no network can guarantee that a program
/// *acts* only while it is the holder. Between the last check and the act any time may pass (a
/// pause of the process, a page fault, a slow disk). In that time the lease may run out and another
/// process may become the holder. So:
///
/// - Write to the store with `.guarded_by(&guard)`, which commits only while the key still belongs
///   to this guard. This needs no assumption about time.
/// - Send [`fence`](Self::fence), which grows from holder to holder, with every write to another
///   system, and let that system refuse a smaller fence than it has seen.
/// - [`is_held`](Self::is_held) and [`while_held`](Self::while_held) use the clock. They stop in
///   time if clocks run at nearly the same speed and the program is not paused in between. The
///   margin for the clocks is a tenth of the time to live, at least half a second.
///
/// # Runtimes
///
/// A guard outlives the runtime on which it was acquired; see [`Client`](crate::Client). If that
/// runtime exists but is not driven, a call on another runtime keeps the guard alive:
/// [`is_held`](Self::is_held), [`lost`](Self::lost), or a write under the guard. Without such a
/// call the guard is lost.
#[must_use = "a guard is released when it is dropped"]
pub struct Guard {
    queue: ContenderQueue,
    claim: Claim,
    /// `None` once the guard was released.
    member: Mutex<Option<Member>>,
    watching: Arc<Watching>,
}

impl Guard {
    /// Creates the guard for a `key` that was created at `fence`, is attached to the lease of
    /// `member`, and is the first in the queue.
    pub(super) fn new(queue: &ContenderQueue, key: Key, fence: Revision, member: Member) -> Self {
        let transactions = queue.store().capabilities().transactions;
        let hold = if member.is_borrowed() { Hold::within(member.validity(), &queue.hand_over, &key) } else { Hold::of(member.validity()) };
        let claim = Claim { key, fence, lease: member.lease_id(), hold, transactions };
        let watching = Watching::start_delayed(queue, &claim, member.ttl());
        Self { queue: queue.clone(), claim, member: Mutex::new(Some(member)), watching }
    }

    /// The fencing token: larger than that of every earlier holder, within one history of the
    /// store. It is the revision at which the guard's key was created (on v2 its `createdIndex`).
    #[must_use]
    pub fn fence(&self) -> Revision {
        self.claim.fence
    }

    /// The guard's key in the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.claim.key
    }

    /// The lease that the key is attached to. Unless you passed this lease to `.lease`, do not
    /// attach other keys to it: after a clean release the lease serves the next guard of this
    /// client. For other keys get a lease from [`Client::lease`](crate::Client::lease).
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        self.claim.lease
    }

    /// True if the guard is held, by the clock and by what this client knows. Sends no request.
    /// Once false, the result stays false.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.queue.lease_pool.runtimes().note();
        self.claim.hold.tend();
        !self.remaining().is_zero()
    }

    /// How long [`is_held`](Self::is_held) stays true without another answer from the server. Zero
    /// once the guard is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.claim.hold.remaining()
    }

    /// Waits until the guard is lost, and returns why.
    ///
    /// If somebody deletes the key, a watch notices it. The watch begins a tenth of a second after
    /// the guard was acquired.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn lost(&self) -> Lost {
        let reason = self.claim.hold.lost().await;
        self.claim.loss(reason)
    }

    /// Asks the store whether the guard is still held: whether the key exists, was created by this
    /// guard, and is attached to the lease, as of one revision not older than this call. Such a key
    /// is still the first in the queue, since later keys never come before it.
    ///
    /// # Errors
    ///
    /// `GuardLost` if the guard is not held, or was lost before. `Unavailable`, `Timeout` and other
    /// errors: the check failed; the guard is unchanged.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn verify(&self) -> Result<()> {
        self.claim.check()?;
        // On a store that shows leases, reading the key is enough. That read is not sent as a
        // transaction, for the reason given at `Waiter::look_at_once`. v2 needs compares.
        let txn = if self.claim.transactions {
            Txn { then: vec![self.claim.look()], ..Txn::default() }
        } else {
            Txn { compares: self.claim.compares(), then: Vec::new(), otherwise: vec![self.claim.look()] }
        };
        let committed = self.queue.retry().one_call(self.queue.store().commit(txn)).await.map_err(|error| error.at(&self.claim.key))?;
        let holds = match committed.results.first() {
            Some(OpResult::Get(reply)) if self.claim.transactions => self.claim.holds(reply),
            _ => committed.succeeded,
        };
        if holds { self.claim.check() } else { Err(self.lost_by(&committed)) }
    }

    /// Runs `work` while the guard is held. When the guard is lost, `work` is dropped at its
    /// current await point.
    ///
    /// The clock is checked before each poll of `work`, so `work` does not continue after a pause
    /// in which the lease may have run out. Code that blocks its thread cannot be stopped.
    ///
    /// # Errors
    ///
    /// [`Lost`] contains the reason; it converts to an [`Error`] of kind `GuardLost`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `work` too.
    pub async fn while_held<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        tokio::select! {
            biased;
            lost = self.lost() => Err(lost),
            output = work => Ok(output),
        }
    }

    /// Returns the condition for writes that are guarded by this guard.
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Writes the value of the guard's key, if the key still belongs to the guard.
    pub(crate) async fn write(&self, value: Bytes) -> Result<Revision> {
        self.claim.check()?;
        let put = Op::Put { key: self.claim.key.clone(), value, expiry: Expiry::With(self.claim.lease), previous: false };
        let txn = Txn { compares: self.claim.compares(), then: vec![put], otherwise: vec![self.claim.look()] };
        let committed = match self.queue.retry().one_call(self.queue.store().commit(txn)).await {
            Ok(committed) => committed,
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                self.claim.hold.lose(LostReason::Revoked);
                return Err(self.claim.lost());
            }
            Err(error) => return Err(error.at(&self.claim.key)),
        };
        if committed.succeeded { Ok(committed.revision) } else { Err(self.lost_by(&committed)) }
    }

    /// Marks the guard as lost after an answer that its key changed, and returns the error. The
    /// answer contains the key.
    fn lost_by(&self, committed: &Committed) -> Error {
        let found = match committed.results.first() {
            Some(OpResult::Get(reply)) => reply.kvs.first(),
            _ => None,
        };
        // On v2 another client may have written its own value to the key.
        self.claim.hold.lose(self.claim.why_lost(found).unwrap_or(LostReason::TakenOver));
        self.claim.lost()
    }

    /// Releases the guard and waits for the answer. Every owner of a clone of the guard's `Arc`
    /// sees at once that the guard is no longer held.
    pub(crate) async fn release(&self) -> Result<()> {
        let before = self.claim.hold.reason();
        // From here on dropping the member deletes the key.
        let Some(member) = self.let_go() else { return Err(self.claim.lost()) };
        if let Some(why) = before {
            // The key is deleted in the background, if it still exists.
            return Err(self.claim.lost_since(why));
        }
        let retry = self.queue.lease_pool.retry();
        let deadline = retry.deadline();
        let mut backoff = retry.backoff();
        let mut sent_before = false;
        loop {
            let error = match answer_until(deadline, self.request().commit(&**self.queue.store())).await {
                Ok(released) if released.succeeded => {
                    // The key was the guard's until now, so the server knew the lease. On v2 a
                    // concurrent keep-alive that finds the key deleted reports a lost lease
                    // (`Revoked`). This release deleted the key, so that reason is ignored. A lease
                    // that ran out by the clock still counts as lost.
                    let lost = member.validity().reason().filter(|why| *why != LostReason::Revoked);
                    // The guard's own lease is not reused if a request has an unknown outcome.
                    if member.is_borrowed() || !(sent_before || lost.is_some()) {
                        member.put_back(&self.queue.lease_pool, &self.queue.hand_over, released.handed);
                    }
                    return lost.map_or(Ok(()), |why| Err(self.claim.lost_since(why)));
                }
                // An earlier copy of this request may have deleted the key.
                Ok(_) if sent_before => return Ok(()),
                Ok(_) => return Err(self.claim.lost_since(LostReason::KeyDeleted)),
                Err(error) => error,
            };
            sent_before |= error.may_have_applied();
            let next = Instant::now() + backoff.next_delay();
            if !(error.may_have_applied() || error.is_retryable()) || next >= deadline || !runtime::is_here() {
                return Err(error.at(&self.claim.key));
            }
            sleep_until(next).await;
        }
    }

    /// Releases the guard in the background.
    pub(crate) fn release_unseen(&self) {
        if let Some(member) = self.let_go() {
            member.release(self.request(), &self.queue.lease_pool, self.queue.hand_over.clone());
        }
        self.watching.end();
    }

    /// Ends the guard but keeps its key, and returns the token for the key. A lease that belongs to
    /// the guard is no longer renewed.
    pub(crate) fn into_token(self) -> Token {
        if let Some(member) = self.let_go() {
            member.leave();
        }
        Token::new(self.claim.key.clone(), self.claim.fence, self.claim.lease)
    }

    /// Ends the guard and returns its lease and key. From now on a write that still has the guard's
    /// [`Claim`] cannot end the lease, which may serve another guard. Returns `None` if the guard
    /// was released before.
    fn let_go(&self) -> Option<Member> {
        self.claim.hold.release();
        // No code panics while it holds this lock, so the data of a poisoned lock is consistent.
        let member = self.member.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        member.set_unwanted();
        Some(member)
    }

    /// Returns the request that deletes the guard's key. It also serves waiters of this client.
    fn request(&self) -> Release {
        let Claim { key, fence, .. } = &self.claim;
        let (next, joining) = match self.claim.transactions {
            true => self.queue.hand_over.leaving(&self.queue.directory, key),
            false => (None, None),
        };
        Release { rank: Rank { key: key.clone(), created: *fence }, compares: self.claim.compares(), next, joining }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.release_unseen();
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("key", &self.claim.key)
            .field("fence", &self.claim.fence)
            .field("remaining", &self.remaining())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::runtime::sleep;
    use crate::store::RangeReply;

    /// After the release of a lock, a guarded write may still have the lock's claim. Checking this
    /// claim must not end the lease, which the client's next lock uses.
    #[tokio::test(start_paused = true)]
    async fn released_guard_does_not_end_reused_lease() {
        let client = Client::connect("memory:").await.unwrap();
        let first = client.lock("/a").acquire().await.unwrap();
        let claim = first.claim().clone();
        first.release().await.unwrap();
        let second = client.lock("/b").acquire().await.unwrap();
        assert_eq!(second.lease_id(), claim.lease, "the spare one");

        assert_eq!(claim.check().unwrap_err().kind(), ErrorKind::GuardLost);
        assert!(!claim.holds(&RangeReply::default()));
        assert!(second.is_held());
        second.verify().await.unwrap();
        second.release().await.unwrap();
    }

    /// On v2, a keep-alive that is sent while the release deletes the guard's key fails with
    /// `LeaseLost`.
    #[tokio::test(start_paused = true)]
    async fn failed_keep_alive_during_release_is_not_reported() {
        let store = crate::store::memory::MemoryStore::new();
        let client = Client::with_store(store.clone());
        let lock = client.lock("/x").acquire().await.unwrap();
        let lease = lock.lease_id();
        // The first keep-alive is due after 5 s, a third of the default time to live of 15 s. The
        // release takes from 4.9 s to 5.1 s, so the keep-alive fails during the release.
        sleep(Duration::from_millis(4900)).await;
        store.faults().fail(crate::store::memory::Calls::KeepAlives, 1, ErrorKind::LeaseLost);
        store.faults().delay(crate::store::memory::Calls::Commits, Duration::from_millis(200));
        lock.release().await.unwrap();
        let next = client.lock("/x").acquire().await.unwrap();
        assert_ne!(next.lease_id(), lease, "a lease that may be gone serves no other guard");
        next.release().await.unwrap();
    }

    /// During a pause of the process another holder may acquire the lock.
    #[tokio::test(start_paused = true)]
    async fn work_is_not_polled_after_a_pause() {
        use std::cell::Cell;
        use std::future::poll_fn;
        use std::task::Poll;

        use futures_util::FutureExt;

        let client = Client::connect("memory:").await.unwrap();
        let lock = client.lock("/x").acquire().await.unwrap();
        let polls = Cell::new(0);
        // This work is ready at every poll.
        let work = poll_fn(|cx| {
            polls.set(polls.get() + 1);
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        let mut held = Box::pin(lock.while_held(work));
        for _ in 0..3 {
            assert!(held.as_mut().now_or_never().is_none());
        }
        assert_eq!(polls.get(), 3);
        crate::clock::tests::suspend(Duration::from_secs(20));
        let lost = held.as_mut().now_or_never().expect("it is over").unwrap_err();
        assert_eq!((lost.reason(), lost.key()), (LostReason::Expired, Some(lock.key())));
        assert_eq!(polls.get(), 3);
        assert_eq!(lock.verify().await.unwrap_err().kind(), ErrorKind::GuardLost);
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_dropped_when_lock_is_lost() {
        struct Tells<'a>(&'a std::cell::Cell<bool>);
        impl Drop for Tells<'_> {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }

        let store = crate::store::memory::MemoryStore::new();
        let client = Client::with_store(store.clone());
        let lock = client.lock("/x").acquire().await.unwrap();
        let dropped = std::cell::Cell::new(false);
        let work = async {
            let _tells = Tells(&dropped);
            sleep(Duration::from_secs(3600)).await;
        };
        let ends = async {
            sleep(Duration::from_secs(100)).await;
            store.faults().expire(lock.lease_id());
        };
        let begun = Instant::now();
        let (lost, ()) = tokio::join!(lock.while_held(work), ends);
        assert!(matches!(lost.unwrap_err().reason(), LostReason::KeyDeleted | LostReason::Revoked));
        assert!(dropped.get());
        // The watch reports the loss, not the next keep-alive.
        assert!(begun.elapsed() < Duration::from_secs(101), "{:?}", begun.elapsed());
    }
}
