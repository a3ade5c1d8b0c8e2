//! `Guard`: what the holder of a lock or leadership has, and the conditions of a guarded write.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::contender::Rank;
use super::hold::Hold;
use super::member::Member;
use super::release::Release;
use super::{ContenderQueue, Token};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::lease::{DelayedStart, Lease, Lost, LostReason};
use crate::retry::{RetryPolicy, answer_until};
use crate::revision::{LeaseId, Revision};
use crate::runtime::{self, Runtimes, Task, sleep, sleep_until};
use crate::store::{Committed, Compare, Condition, Event, Expiry, KeyValue, Op, OpResult, Range, RangeReply, Span, Store, Txn};
use crate::telemetry::{self, Pattern};
use crate::watch::{Follow, Reason, Start, Step};

/// How long a guard is held before its key is watched. Most guards are released sooner, and cost no
/// watch.
const SETTLED: Duration = Duration::from_millis(100);

/// The label for the keys of guards in metrics and events.
const PATTERN: Pattern = "guard";

/// The common part of a [`Lock`](crate::Lock) and a [`Leader`](crate::Leader); both deref to it.
///
/// A guard is held as long as its key exists and its lease is kept alive by a background task. Once
/// a guard is no longer held, it is never held again.
///
/// Another task watches the key, and reads it while it cannot be watched. If the server refuses
/// both for a whole time to live of the lease, because a right was revoked or the password changed,
/// the guard is lost ([`LostReason::Unverified`]): the key may be gone, and there may be another
/// holder.
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
///   time as long as clocks run at nearly the same speed and the program is not paused in between.
///   The margin for the clocks is a tenth of the time to live, at least half a second.
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
    /// Whether all requests under the lease were answered.
    clean: bool,
    watching: Arc<Watching>,
}

/// The condition of a guarded write: the key exists, was created at the guard's fence, and is
/// attached to its lease. The revision alone is not enough, since a server that was emptied may
/// create a key at the same revision again.
#[derive(Clone)]
pub(crate) struct Claim {
    key: Key,
    fence: Revision,
    lease: LeaseId,
    hold: Hold,
    /// Whether the store shows leases. A v2 store knows only which keys this client attached to
    /// which lease.
    transactions: bool,
}

impl Claim {
    /// The compares for a transaction. On a store without transactions over several keys they work
    /// only in a request about the guard's own key.
    pub(crate) fn compares(&self) -> Vec<Compare> {
        let created = self.transactions.then_some(Condition::Created(self.fence));
        let conditions = created.into_iter().chain([Condition::Lease(self.lease)]);
        conditions.map(|condition| Compare::key(&self.key, condition)).collect()
    }

    /// The read for a transaction whose compares failed, so that [`holds`](Self::holds) can tell
    /// whether this claim was the reason.
    pub(crate) fn look(&self) -> Op {
        Op::Get(Span::Key(self.key.clone()))
    }

    /// Returns whether the key is as the claim says. If not, the guard is lost.
    pub(crate) fn holds(&self, reply: &RangeReply) -> bool {
        let why = self.why_lost(reply.kvs.first());
        if let Some(why) = why {
            self.hold.lose(why);
        }
        why.is_none()
    }

    /// Returns why the guard is lost, from the key that was read.
    fn why_lost(&self, found: Option<&KeyValue>) -> Option<LostReason> {
        match found {
            None => Some(LostReason::KeyDeleted),
            Some(kv) if kv.created == self.fence && (kv.lease == Some(self.lease) || self.is_untold(kv)) => None,
            Some(_) => Some(LostReason::TakenOver),
        }
    }

    /// Whether the store does not show the key's lease. On a store that shows leases, a key without
    /// one was detached.
    fn is_untold(&self, kv: &KeyValue) -> bool {
        !self.transactions && kv.lease.is_none()
    }

    /// Checks that the guard is held, by the clock.
    ///
    /// # Errors
    ///
    /// `GuardLost`.
    pub(crate) fn check(&self) -> Result<()> {
        self.hold.tend();
        match self.hold.reason() {
            Some(why) => Err(self.lost_since(why)),
            None => Ok(()),
        }
    }

    /// The error of a guard that is not held.
    pub(crate) fn lost(&self) -> Error {
        self.lost_since(self.hold.reason().unwrap_or(LostReason::KeyDeleted))
    }

    fn lost_since(&self, why: LostReason) -> Error {
        self.loss(why).into()
    }

    fn loss(&self, why: LostReason) -> Lost {
        Lost::of(self.lease, &self.key, why, self.hold.cause(why))
    }
}

impl Guard {
    /// `key` was created at `fence`, is attached to the lease, and is the first.
    pub(super) fn new(queue: &ContenderQueue, key: Key, fence: Revision, member: Member, clean: bool) -> Self {
        let lease = &member.lease;
        let transactions = queue.store().capabilities().transactions;
        let claim = Claim { key, fence, lease: lease.id(), hold: Hold::of(lease.validity()), transactions };
        let watching = Watching::start_delayed(queue, &claim, lease);
        Self { queue: queue.clone(), claim, member: Mutex::new(Some(member)), clean, watching }
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

    /// The lease that the key is attached to. Do not attach other keys to it: after a clean release
    /// it serves the next guard of this client. For your own keys get a lease from
    /// [`Client::lease`](crate::Client::lease).
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        self.claim.lease
    }

    /// Whether the guard is held, by the clock and by what this client knows. Sends no request.
    /// Once false, it stays false.
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

    /// Asks the store whether the guard is still held: whether the key exists, is the one that was
    /// created, and is attached to the lease, as of one revision not older than this call. If so it
    /// is still the first, since later keys never come before it.
    ///
    /// # Errors
    ///
    /// `GuardLost` if it is not held, or was lost before. `Unavailable`, `Timeout` and other
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

    /// Runs `work` as long as the guard is held. When it is lost, `work` is dropped at its current
    /// await point.
    ///
    /// The clock is checked before each poll of `work`, so it does not continue after a pause in
    /// which the lease may have run out. Code that blocks its thread cannot be stopped.
    ///
    /// # Errors
    ///
    /// [`Lost`] tells why; it converts to an [`Error`] of kind `GuardLost`.
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

    /// The condition for writes that are guarded by this guard.
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

    /// Ends the guard because the key is not its own any more; the answer shows the key.
    fn lost_by(&self, committed: &Committed) -> Error {
        let found = match committed.results.first() {
            Some(OpResult::Get(reply)) => reply.kvs.first(),
            _ => None,
        };
        // On v2 another client may have written its own value to the key.
        self.claim.hold.lose(self.claim.why_lost(found).unwrap_or(LostReason::TakenOver));
        self.claim.lost()
    }

    /// Releases the guard and waits for the answer. Its other owners see at once that it is no
    /// longer held.
    pub(crate) async fn release(&self) -> Result<()> {
        let before = self.claim.hold.reason();
        // From here on dropping the lease revokes it, which also deletes the key.
        let Some(member) = self.let_go() else { return Err(self.claim.lost()) };
        if let Some(why) = before {
            // The lease's task revokes it, if it still exists.
            return Err(self.claim.lost_since(why));
        }
        let retry = self.queue.lease_pool.retry();
        let deadline = retry.deadline();
        let mut backoff = retry.backoff();
        let mut sent_before = false;
        loop {
            let error = match answer_until(deadline, self.request().commit(&**self.queue.store())).await {
                Ok(released) if released.succeeded => {
                    // The key was the guard's until now, so the server knew the lease. A concurrent
                    // keep-alive may have found the key gone, which on v2 looks like a lost lease;
                    // this deletion is the cause. Whether the guard was safe until now depends on
                    // the clock.
                    if let Some(why) = member.lease.validity().reason().filter(|why| *why != LostReason::Revoked) {
                        return Err(self.claim.lost_since(why));
                    }
                    if self.clean && !sent_before && member.lease.is_held() {
                        member.put_back(&self.queue.lease_pool, &self.queue.hand_over, released.handed);
                    }
                    return Ok(());
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
            member.release(self.request(), &self.queue.lease_pool, self.queue.hand_over.clone(), self.clean);
        }
        self.watching.end();
    }

    /// Stops renewing the lease, for the owner of the token.
    pub(crate) fn into_token(self) -> Token {
        if let Some(member) = self.let_go() {
            member.lease.leave();
        }
        Token::new(self.claim.key.clone(), self.claim.fence, self.claim.lease)
    }

    /// Ends the guard and returns its lease. From now on its other owners cannot end the lease,
    /// which may serve another guard. Returns `None` if the guard was released before.
    fn let_go(&self) -> Option<Member> {
        self.claim.hold.release();
        // No code panics while it holds this lock, so the data of a poisoned lock is consistent.
        let member = self.member.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        member.lease.validity().set_wanted(false);
        Some(member)
    }

    /// The request that deletes the guard's key, and that also serves waiters of this client.
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

/// The task that watches a guard's key, once it has started. Dropping this ends the task.
#[derive(Default)]
struct Watching(OnceLock<Task>);

/// Starts the watching task when the guard has been held for a while, unless it ended.
struct Watchful {
    watching: Weak<Watching>,
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    claim: Claim,
    ttl: Duration,
    /// The client's. Weak, since the client owns this value.
    runtimes: Weak<Runtimes>,
}

impl DelayedStart for Watchful {
    fn is_wanted(&self) -> bool {
        self.watching.strong_count() > 0 && self.claim.hold.reason().is_none()
    }

    fn begin(self: Box<Self>) {
        let Self { watching, store, retry, claim, ttl, runtimes } = *self;
        // No other code sets the cell. If the guard is dropped meanwhile, dropping `watching` here
        // ends the task.
        if let (Some(watching), Some(runtimes)) = (watching.upgrade(), runtimes.upgrade()) {
            let _ = watching.0.set(runtimes.spawn(watch(store, retry, claim, ttl)));
        }
    }
}

impl Watching {
    fn start_delayed(queue: &ContenderQueue, claim: &Claim, lease: &Lease) -> Arc<Self> {
        let watching = Arc::new(Self::default());
        let (store, retry, claim) = (queue.roaming().clone(), queue.lease_pool.retry().clone(), claim.clone());
        let (ttl, runtimes) = (lease.ttl(), queue.lease_pool.runtimes());
        let watchful = Watchful { watching: Arc::downgrade(&watching), store, retry, claim, ttl, runtimes: Arc::downgrade(runtimes) };
        queue.lease_pool.delayed_starts().begin(SETTLED, runtimes, watchful);
        watching
    }

    fn end(&self) {
        if let Some(task) = self.0.get() {
            task.end();
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.end();
    }
}

/// Watches a guard's key. Ends the guard when the key changed, or when the store refuses to show it
/// for the lease's time to live.
///
/// In an outage the lease decides. But a lease needs no right to the key: it may be kept alive
/// forever while the key cannot be seen.
async fn watch(store: Arc<dyn Store>, retry: RetryPolicy, claim: Claim, ttl: Duration) {
    let span = Span::Key(claim.key.clone());
    let mut backoff = retry.backoff();
    let mut refused_since: Option<Instant> = None;
    loop {
        let mut follow = Follow::new(store.clone(), &retry, span.clone(), PATTERN, Start::Now);
        let mut follows = true;
        while follows {
            let why = match look(&mut follow, ttl / 3).await {
                Look::Step(step) => {
                    backoff.reset();
                    refused_since = None;
                    seen(&step, &claim, &*store).await
                }
                blind => {
                    if let Look::Ended(error) = blind {
                        telemetry::watch_refused(PATTERN, &error, false);
                        follows = false;
                    }
                    match store.range(Range::of(span.clone())).await {
                        Ok(reply) => {
                            refused_since = None;
                            claim.why_lost(reply.kvs.first())
                        }
                        Err(error) if error.is_outage() => None,
                        Err(error) => {
                            let refused_for = refused_since.get_or_insert_with(Instant::now).elapsed();
                            if refused_for >= ttl {
                                return claim.hold.lose_by(LostReason::Unverified, error);
                            }
                            None
                        }
                    }
                }
            };
            if let Some(why) = why {
                return claim.hold.lose(why);
            }
        }
        sleep(backoff.next_delay()).await;
    }
}

/// One result of following a key.
enum Look {
    Step(Step),
    /// The watch ended.
    Ended(Error),
    /// The watch was interrupted for a while.
    Blind,
}

/// Waits for the next step of a watch, or returns `Blind` when it was interrupted for `patience`.
async fn look(follow: &mut Follow, patience: Duration) -> Look {
    let mut blind = None;
    poll_fn(|cx| {
        if let Poll::Ready(step) = follow.poll_step(cx) {
            return Poll::Ready(match step {
                Some(Ok(step)) => Look::Step(step),
                Some(Err(error)) => Look::Ended(error),
                None => Look::Ended(Error::new(ErrorKind::Unavailable, "the watch ended without a reason")),
            });
        }
        if follow.interruption().is_none() {
            blind = None;
            return Poll::Pending;
        }
        let blind = blind.get_or_insert_with(|| Box::pin(sleep(patience)));
        blind.as_mut().poll(cx).map(|()| Look::Blind)
    })
    .await
}

/// Returns why the guard is lost, from a step of the watch of its key.
async fn seen(step: &Step, claim: &Claim, store: &dyn Store) -> Option<LostReason> {
    let mut written = false;
    let why = match step {
        // In another history, such as a restored backup, the key may look the same. But in that
        // history this guard may not have acquired the lock.
        Step::Reset(snapshot) => {
            claim.why_lost(snapshot.kvs.first()).or((snapshot.reason == Reason::Rewound).then_some(LostReason::Revoked))
        }
        Step::Batch(batch) => batch.events.iter().find_map(|event| match event {
            Event::Put { kv, .. } => {
                written = true;
                claim.why_lost(Some(kv))
            }
            Event::Delete { .. } => Some(LostReason::KeyDeleted),
        }),
        Step::Progress(_) => None,
    };
    if why.is_some() || !written || claim.transactions {
        return why;
    }
    // v2 shows no leases: only this client's store knows whether this client wrote the value.
    let txn = Txn { compares: claim.compares(), then: Vec::new(), otherwise: Vec::new() };
    let foreign = store.commit(txn).await.is_ok_and(|committed| !committed.succeeded);
    foreign.then_some(LostReason::TakenOver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    /// A guarded write may still use the claim of a lock after its release. It must not end the
    /// lease, which the next lock uses.
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

    /// On v2 a keep-alive during the deletion of the guard's key takes the lease for lost.
    #[tokio::test(start_paused = true)]
    async fn keep_alive_during_release_is_no_loss() {
        let store = crate::store::memory::MemoryStore::new();
        let client = Client::with_store(store.clone());
        let lock = client.lock("/x").acquire().await.unwrap();
        let lease = lock.lease_id();
        // The next keep-alive is due after a third of 15 s, while the release waits for its answer.
        sleep(Duration::from_millis(4900)).await;
        store.faults().fail(crate::store::memory::Calls::KeepAlives, 1, ErrorKind::LeaseLost);
        store.faults().delay(crate::store::memory::Calls::Commits, Duration::from_millis(200));
        lock.release().await.unwrap();
        let next = client.lock("/x").acquire().await.unwrap();
        assert_ne!(next.lease_id(), lease, "a lease that may be gone serves no other guard");
        next.release().await.unwrap();
    }

    /// Work under a lock must not be polled after a pause in which the lock may have got another
    /// holder.
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
