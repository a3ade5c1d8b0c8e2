//! `Guard`: what whoever is first holds, and what a write is conditioned on that is guarded by it.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::hold::Hold;
use super::{Token, Turn};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::lease::{Begin, Last, Lease, Lost, LostReason, Rank};
use crate::retry::{RetryPolicy, answer_until};
use crate::revision::{LeaseId, Revision};
use crate::runtime::{self, Runtimes, Task, sleep, sleep_until};
use crate::store::{Committed, Compare, Condition, Event, Expiry, KeyValue, Op, OpResult, Range, RangeReply, Span, Store, Txn};
use crate::telemetry::{self, Pattern};
use crate::watch::{Follow, Reason, Start, Step};

/// How long a guard is held before its key is watched: most are released before, and cost no watch.
const SETTLED: Duration = Duration::from_millis(100);

/// What stands for the keys of guards in metrics and events.
const PATTERN: Pattern = "guard";

/// What a [`Lock`](crate::Lock) and a [`Leader`](crate::Leader) have in common; both deref to it.
///
/// It is held as long as its key is there and its lease is kept alive, which a task in the background sees to. A guard that is not held any more never is
/// again.
///
/// Another task watches the key, and reads it while it cannot be watched. If the server refuses both for a whole time to live of the lease, because a right was
/// revoked or the password was changed, the guard is lost ([`LostReason::Unverified`]): the key may be gone, and another holder may be there.
///
/// # What it promises, and what it cannot
///
/// The store gives it to one at a time. But no clock and no network can promise that a program *acts* only while it holds it: between the
/// last look and the act any time may pass (a pause of the process, a page fault, a slow disk), in which the lease runs out and somebody else is given it. So:
///
/// - What is written to the store goes through `.guarded_by(&guard)`, which commits only while the key is still this guard's. That holds without any
///   assumption about time.
/// - What is written elsewhere carries [`fence`](Self::fence), which grows from holder to holder, and the other side refuses a smaller one than it has
///   seen.
/// - [`is_held`](Self::is_held) and [`while_held`](Self::while_held) go by the clock and stop in time as long as clocks run nearly alike
///   (a tenth of the time to live, at least half a second, is left for their difference) and the program is not stopped in between.
///
/// # Runtimes
///
/// A guard outlives the runtime on which it was acquired; see [`Client`](crate::Client). If that runtime exists but is not driven, the guard is kept by whoever
/// asks [`is_held`](Self::is_held), waits for [`lost`](Self::lost) or writes under it on another one. A guard of which nothing is asked is lost then.
#[must_use = "a guard is released when it is dropped"]
pub struct Guard {
    turn: Turn,
    claim: Claim,
    /// None once it is given up.
    lease: Mutex<Option<Lease>>,
    /// Whether all that was sent under the lease was also answered.
    clean: bool,
    watching: Arc<Watching>,
}

/// What a guarded write is conditioned on: that the key is there, made when the guard was given, and attached to its lease. (A server that was emptied may
/// make a key at the same revision again, so the revision alone would not do.)
#[derive(Clone)]
pub(crate) struct Claim {
    key: Key,
    fence: Revision,
    lease: LeaseId,
    hold: Hold,
    /// Whether the store tells leases; v2 knows only which keys we have attached to which.
    transactions: bool,
}

impl Claim {
    /// What a transaction compares. Without transactions over several keys only for one that is about the guard's own key.
    pub(crate) fn compares(&self) -> Vec<Compare> {
        let created = self.transactions.then_some(Condition::Created(self.fence));
        let conditions = created.into_iter().chain([Condition::Lease(self.lease)]);
        conditions.map(|condition| Compare::key(&self.key, condition)).collect()
    }

    /// What a transaction whose compares failed reads, so that [`holds`](Self::holds) can tell whether it was for this claim.
    pub(crate) fn look(&self) -> Op {
        Op::Get(Span::Key(self.key.clone()))
    }

    /// Whether the key is as it should be. If not, the guard is lost from now on.
    pub(crate) fn holds(&self, reply: &RangeReply) -> bool {
        let why = self.why_lost(reply.kvs.first());
        if let Some(why) = why {
            self.hold.lose(why);
        }
        why.is_none()
    }

    /// Why the guard is lost, from what is at its key.
    fn why_lost(&self, found: Option<&KeyValue>) -> Option<LostReason> {
        match found {
            None => Some(LostReason::KeyDeleted),
            Some(kv) if kv.created == self.fence && (kv.lease == Some(self.lease) || self.is_untold(kv)) => None,
            Some(_) => Some(LostReason::TakenOver),
        }
    }

    /// Whether the store says nothing of a key's lease. Where it tells leases, it says by that that somebody detached the key.
    fn is_untold(&self, kv: &KeyValue) -> bool {
        !self.transactions && kv.lease.is_none()
    }

    /// That the guard is held by the clock.
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
    /// `key` came to be at `fence` and is attached to the lease; nobody is before it.
    pub(super) fn new(turn: &Turn, key: Key, fence: Revision, lease: Lease, clean: bool) -> Self {
        let transactions = turn.store().capabilities().transactions;
        let claim = Claim { key, fence, lease: lease.id(), hold: Hold::of(lease.life()), transactions };
        let watching = Watching::later(turn, &claim, &lease);
        Self { turn: turn.clone(), claim, lease: Mutex::new(Some(lease)), clean, watching }
    }

    /// The fencing token: larger than that of every holder before, within one history of the store. It is the revision at which the guard's key came
    /// to be (on v2 its `createdIndex`).
    #[must_use]
    pub fn fence(&self) -> Revision {
        self.claim.fence
    }

    /// The key that stands for the guard in the store.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.claim.key
    }

    /// The lease that the key is attached to. Attach nothing else to it: after a clean release it serves the next guard of this client. For keys of your own ask
    /// for one of your own, by [`Client::lease`](crate::Client::lease).
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        self.claim.lease
    }

    /// Whether it is held, by the clock and by what is known; no request is sent. Once false it stays false.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.turn.lessor.runtimes().note();
        self.claim.hold.tend();
        !self.remaining().is_zero()
    }

    /// For how long [`is_held`](Self::is_held) stays true without another word from the server; zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.claim.hold.remaining()
    }

    /// Waits until the guard is lost, and says why.
    ///
    /// That somebody deleted the key is noticed by a watch, which begins a tenth of a second after the guard was acquired.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn lost(&self) -> Lost {
        let reason = self.claim.hold.lost().await;
        self.claim.loss(reason)
    }

    /// Asks the store whether the guard is still held: whether the key is there, is the one that was made, and is attached to the lease, as of one
    /// revision not older than this call. That it was the first then follows, since nothing comes before it later.
    ///
    /// # Errors
    ///
    /// `GuardLost` when it is not, or was lost before. `Unavailable`, `Timeout`, …: it could not be asked; the guard is as it was.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn verify(&self) -> Result<()> {
        self.claim.check()?;
        // Where the store tells leases the key alone tells all: a plain read on the wire, for what `Waiter::look_at_once` says. v2 must compare.
        let txn = if self.claim.transactions {
            Txn { then: vec![self.claim.look()], ..Txn::default() }
        } else {
            Txn { compares: self.claim.compares(), then: Vec::new(), otherwise: vec![self.claim.look()] }
        };
        let committed = self.turn.retry().one_call(self.turn.store().commit(txn)).await.map_err(|error| error.at(&self.claim.key))?;
        let holds = match committed.results.first() {
            Some(OpResult::Get(reply)) if self.claim.transactions => self.claim.holds(reply),
            _ => committed.succeeded,
        };
        if holds { self.claim.check() } else { Err(self.lost_by(&committed)) }
    }

    /// Runs `work` as long as the guard is held. When it is lost, `work` is dropped where it waits.
    ///
    /// The clock is looked at each time before `work` goes on, so it does not after a pause in which the lease may have run out. What blocks its
    /// thread cannot be stopped.
    ///
    /// # Errors
    ///
    /// [`Lost`] says why; it turns into an [`Error`] of kind `GuardLost`.
    ///
    /// # Cancel safety
    ///
    /// That of `work`, which is dropped with it.
    pub async fn while_held<F: Future>(&self, work: F) -> Result<F::Output, Lost> {
        tokio::select! {
            biased;
            lost = self.lost() => Err(lost),
            output = work => Ok(output),
        }
    }

    /// What a write that is guarded by this is conditioned on.
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Writes the value of the guard's key, if it is still the guard's.
    pub(crate) async fn write(&self, value: Bytes) -> Result<Revision> {
        self.claim.check()?;
        let put = Op::Put { key: self.claim.key.clone(), value, expiry: Expiry::With(self.claim.lease), previous: false };
        let txn = Txn { compares: self.claim.compares(), then: vec![put], otherwise: vec![self.claim.look()] };
        let committed = match self.turn.retry().one_call(self.turn.store().commit(txn)).await {
            Ok(committed) => committed,
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                self.claim.hold.lose(LostReason::Revoked);
                return Err(self.claim.lost());
            }
            Err(error) => return Err(error.at(&self.claim.key)),
        };
        if committed.succeeded { Ok(committed.revision) } else { Err(self.lost_by(&committed)) }
    }

    /// The key is not the guard's any more; the answer shows what it is.
    fn lost_by(&self, committed: &Committed) -> Error {
        let found = match committed.results.first() {
            Some(OpResult::Get(reply)) => reply.kvs.first(),
            _ => None,
        };
        // On v2 somebody may have written a value of his own to it.
        self.claim.hold.lose(self.claim.why_lost(found).unwrap_or(LostReason::TakenOver));
        self.claim.lost()
    }

    /// Gives it up and waits for the answer. Whoever shares it sees at once that it is not held any more.
    pub(crate) async fn release(&self) -> Result<()> {
        let before = self.claim.hold.reason();
        // From here on dropping this revokes the lease, which also deletes the key.
        let Some(lease) = self.let_go() else { return Err(self.claim.lost()) };
        if let Some(why) = before {
            // Its task revokes it, if there is anything left of it.
            return Err(self.claim.lost_since(why));
        }
        let retry = self.turn.lessor.retry();
        let deadline = retry.deadline();
        let mut backoff = retry.backoff();
        let mut sent_before = false;
        loop {
            let error = match answer_until(deadline, self.last().commit(&**self.turn.store())).await {
                Ok(left) if left.succeeded => {
                    // The key was the guard's until now, so the server knew the lease. A keep-alive at the same time may have found the key gone, which on v2 means
                    // that the lease is gone; this deletion is the reason. Whether the guard was safe all the time is for the clock to say.
                    if let Some(why) = lease.life().reason().filter(|why| *why != LostReason::Revoked) {
                        return Err(self.claim.lost_since(why));
                    }
                    if self.clean && !sent_before && lease.is_held() {
                        self.turn.lessor.put(lease, left.handed);
                    }
                    return Ok(());
                }
                // An earlier copy of this may have done it.
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

    /// Gives it up in the background.
    pub(crate) fn release_unseen(&self) {
        if let Some(lease) = self.let_go() {
            lease.finish(self.last(), self.clean);
        }
        self.watching.end();
    }

    /// Leaves it as it is, for whoever has the token.
    pub(crate) fn into_token(self) -> Token {
        if let Some(lease) = self.let_go() {
            lease.leave();
        }
        Token::new(self.claim.key.clone(), self.claim.fence, self.claim.lease)
    }

    /// It is not held any more, and nobody else who has to do with it can harm its lease, which may serve another guard from now on. None if that was so
    /// before.
    fn let_go(&self) -> Option<Lease> {
        self.claim.hold.release();
        // Nothing panics while it is held, so what a poisoned lock guards is whole.
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        lease.life().set_wanted(false);
        Some(lease)
    }

    /// Deletes the key if it is the guard's, with all that the same request can do for others of this client.
    fn last(&self) -> Last {
        let Claim { key, fence, .. } = &self.claim;
        let (next, joining) = match self.claim.transactions {
            true => self.turn.lessor.standings().leaving(&self.turn.directory, key),
            false => (None, None),
        };
        Last { rank: Rank { key: key.clone(), created: *fence }, compares: self.claim.compares(), next, joining }
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

/// The task that watches a guard's key, once there is one. It ends with this.
#[derive(Default)]
struct Watching(OnceLock<Task>);

/// What begins when the guard has been held for a while, if it is held then.
struct Watchful {
    watching: Weak<Watching>,
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    claim: Claim,
    ttl: Duration,
    /// The client's, which has this.
    runtimes: Weak<Runtimes>,
}

impl Begin for Watchful {
    fn is_wanted(&self) -> bool {
        self.watching.strong_count() > 0 && self.claim.hold.reason().is_none()
    }

    fn begin(self: Box<Self>) {
        let Self { watching, store, retry, claim, ttl, runtimes } = *self;
        // Nobody else sets it, and who drops the guard meanwhile leaves the end of it to this one.
        if let (Some(watching), Some(runtimes)) = (watching.upgrade(), runtimes.upgrade()) {
            let _ = watching.0.set(runtimes.spawn(watch(store, retry, claim, ttl)));
        }
    }
}

impl Watching {
    fn later(turn: &Turn, claim: &Claim, lease: &Lease) -> Arc<Self> {
        let watching = Arc::new(Self::default());
        let (store, retry, claim) = (turn.roaming().clone(), turn.lessor.retry().clone(), claim.clone());
        let (ttl, runtimes) = (lease.ttl(), turn.lessor.runtimes());
        let watchful = Watchful { watching: Arc::downgrade(&watching), store, retry, claim, ttl, runtimes: Arc::downgrade(runtimes) };
        turn.lessor.later().begin(SETTLED, runtimes, watchful);
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

/// Watches a guard's key, and ends the guard when the key is not as it was made, or when the store refuses to show it for the time to live of the lease.
///
/// In an outage, the lease decides. But a lease needs no right to the key: it may be kept alive for ever while the key cannot be seen.
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

/// What comes of following a key.
enum Look {
    Step(Step),
    /// The watch ended.
    Ended(Error),
    /// The watch was interrupted for a while.
    Blind,
}

/// The next step of a watch, or that it has not been followed for `patience`.
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

/// Why the guard is lost, from what a watch of its key says.
async fn seen(step: &Step, claim: &Claim, store: &dyn Store) -> Option<LostReason> {
    let mut written = false;
    let why = match step {
        // A key of another history may look the same, as in a restored backup; that it was given to this guard is not part of that history.
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
    // v2 tells no leases: only its store knows whether that was written by us.
    let txn = Txn { compares: claim.compares(), then: Vec::new(), otherwise: Vec::new() };
    let foreign = store.commit(txn).await.is_ok_and(|committed| !committed.succeeded);
    foreign.then_some(LostReason::TakenOver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    /// What a guarded write still had of a lock when it was released must not end the lease that the next one has.
    #[tokio::test(start_paused = true)]
    async fn what_is_found_out_of_a_released_guard_is_not_held_against_its_lease() {
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

    /// On v2 a keep-alive that meets the deletion of the guard's key takes the lease for gone.
    #[tokio::test(start_paused = true)]
    async fn keep_alive_that_meets_the_release_is_no_loss() {
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

    /// F15: what runs under a lock is not asked to go on after a pause in which the lock may have gone to somebody else.
    #[tokio::test(start_paused = true)]
    async fn work_is_dropped_before_it_goes_on_after_a_pause() {
        use std::cell::Cell;
        use std::future::poll_fn;
        use std::task::Poll;

        use futures_util::FutureExt;

        let client = Client::connect("memory:").await.unwrap();
        let lock = client.lock("/x").acquire().await.unwrap();
        let polls = Cell::new(0);
        // Work that is always ready to go on.
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
    async fn work_is_dropped_where_it_waits_when_the_lock_is_lost() {
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
        // The watch tells it, not the next keep-alive.
        assert!(begun.elapsed() < Duration::from_secs(101), "{:?}", begun.elapsed());
    }
}
