//! `Lease`: a lease that is kept alive while its guard lives. [`pool`] supplies leases, and
//! [`validity`] computes how long a lease is safe to trust. [`shared`] attaches the keys of several
//! owners to one lease of the client, and [`borrowed`] attaches keys to a lease that the caller
//! keeps.

mod adopt;
mod borrowed;
mod delayed_start;
mod key_lease;
mod owners;
mod pool;
mod shared;
mod validity;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use self::adopt::AdoptLease;
pub(crate) use self::borrowed::{BorrowedLease, Ownership, Removal};
pub(crate) use self::delayed_start::DelayedStart;
pub(crate) use self::key_lease::KeyLease;
use self::pool::IDLE;
pub(crate) use self::pool::LeasePool;
use self::shared::Share;
use self::validity::EndsWith;
pub(crate) use self::validity::Validity;
pub use self::validity::{Lost, LostReason};
use crate::clock::{FAR, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::retry::{RetryPolicy, until};
use crate::revision::LeaseId;
use crate::runtime::{self, Patience, Runtimes, Task, sleep, sleep_until};
use crate::store::{BoxFuture, Store};
use crate::telemetry;

/// The default time to live of locks, leaderships and published values.
pub(crate) const TTL: Duration = Duration::from_secs(15);

/// How many random IDs are tried for a new lease. The next ID is tried when the server already has
/// a lease with the one before.
const NAMES: u32 = 4;

/// The guard of a lease. Keys that are written with the lease (`.lease(&lease)`) are deleted when
/// the lease ends: when the guard is dropped or revoked, or when the client could not renew the
/// lease in time. Locks, elections and published values use a lease of the client. With their
/// `.lease(&lease)` they use this lease instead, and end with it.
///
/// A background task renews the lease three times within its time to live. Dropping the guard
/// revokes the lease in the background; if that fails, the keys are deleted when the time to live
/// has passed.
///
/// # Runtimes
///
/// The task moves to another runtime when its runtime ends; see [`Client`](crate::Client). A
/// runtime that exists but is not driven (a current-thread runtime outside of `block_on`) keeps no
/// lease alive, and the client gets no sign of it. A call of [`is_held`](Self::is_held) or
/// [`lost`](Self::lost) on another runtime moves a task that is late to that runtime. Without such
/// a call the lease is lost.
///
/// # When a lease is lost
///
/// A lease is lost when the server says that it does not know the lease, or when the server has not
/// answered for so long that it may have ended the lease. The time to live counts from the moment
/// *before* the last answered request was sent. A margin of a tenth is subtracted (at least half a
/// second, at most half of the time to live). The clock continues while the machine sleeps, and
/// every check reads it, so a program that was frozen sees the loss as soon as it wakes. A lost
/// lease stays lost, even if the network recovers.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> etcd_typed::Result<()> {
/// # let client = etcd_typed::Client::connect("memory:").await?;
/// use std::time::Duration;
///
/// let lease = client.lease(Duration::from_secs(10)).await?;
/// let here = client.entry::<String>("/nodes/a")?;
/// here.set(&"10.0.0.7".to_owned()).lease(&lease).await?;
/// lease.revoke().await?;
/// assert!(!here.exists().await?);
/// # Ok(()) }
/// ```
#[must_use = "a lease ends when its guard is dropped"]
pub struct Lease {
    id: LeaseId,
    /// The time to live that the server granted.
    ttl: Duration,
    /// The time to live that the client asked for. A server may grant a longer one.
    asked: Duration,
    store: Arc<dyn Store>,
    validity: Validity,
    /// Sends orders to the task that keeps the lease alive. When this sender is dropped, the task
    /// revokes the lease and ends.
    orders: mpsc::UnboundedSender<Order>,
    /// The runtimes that the task can move to, for a lease that may outlive its client.
    runtimes: Option<Arc<Runtimes>>,
    /// Whether another component granted the lease.
    adopted: bool,
}

/// An order to the task of a lease.
enum Order {
    /// Run this future to its end. The future owns the lease, which no call uses any more.
    Finish(BoxFuture<'static, ()>),
    /// Revoke the lease and send back the result.
    Revoke(oneshot::Sender<Result<()>>),
    /// End without revoking: another process takes over. Renew the lease one last time.
    Leave,
}

impl Lease {
    /// Starts the background task, which requests the lease, and waits for the grant. If the
    /// caller's future is dropped while it waits, the task knows the lease and revokes it.
    async fn grant(pool: &Arc<LeasePool>, asked: Duration) -> Result<Self> {
        if !runtime::is_here() {
            return Err(Error::without_runtime());
        }
        let store = pool.roaming().clone();
        let (orders, received) = mpsc::unbounded_channel();
        let (answer, answered) = oneshot::channel();
        let prepared = pool.runtimes().prepare();
        // The task is not part of the caller's call, so it gets the deadline of that call.
        let deadline = pool.retry().deadline();
        let applicant = Applicant { pool: Arc::downgrade(pool), store: store.clone(), retry: pool.retry().clone(), asked, deadline };
        let task = prepared.task();
        prepared.start(applicant.run(task, received, answer));
        let gone = |_| Error::new(ErrorKind::Unavailable, "the runtime ended before the lease was granted").outcome_unknown();
        let (id, ttl, validity) = answered.await.map_err(gone)??;
        Ok(Self { id, ttl, asked, store, validity, orders, runtimes: None, adopted: false })
    }

    /// Lets the lease's task move to other runtimes even after the client is dropped.
    pub(crate) fn by_itself(mut self, pool: &LeasePool) -> Self {
        self.runtimes = Some(pool.runtimes().clone());
        self
    }

    /// The lease's ID, for `.lease(&lease)` and for tools.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The time to live that the server granted.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// True if the lease is held: by the clock, the server cannot have ended it yet. Sends no
    /// request. Once false, the result stays false.
    #[must_use]
    pub fn is_held(&self) -> bool {
        if let Some(runtimes) = &self.runtimes {
            runtimes.note();
        }
        self.validity.tend();
        self.validity.is_held()
    }

    /// How long [`is_held`](Self::is_held) stays true without another answer from the server. Zero
    /// once the lease is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.validity.remaining()
    }

    /// Waits until the lease is lost, and returns why.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn lost(&self) -> Lost {
        self.validity.lost().await
    }

    /// Revokes the lease and waits for the answer. All its keys are deleted.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout` and others: the keys are then deleted when the time to live has
    /// passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future revokes the lease in the background.
    pub async fn revoke(self) -> Result<()> {
        self.end().await
    }

    /// Revokes the lease as [`revoke`](Self::revoke) does, for a lease with several owners.
    async fn end(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        // The lease's task must revoke the lease; otherwise the task would report its end as a
        // loss.
        if self.order(Order::Revoke(answer))
            && let Some(Ok(result)) = self.task().attend(PATIENCE, answered).await
        {
            return result;
        }
        self.store.revoke(self.id).await
    }

    pub(crate) fn validity(&self) -> &Validity {
        &self.validity
    }

    /// Runs `last` in the background, in the task that keeps the lease alive. `last` gets the
    /// lease, and makes the last request that needs it. The lease is revoked if `last` drops it.
    pub(crate) fn finish<F: Future<Output = ()> + Send + 'static>(self, last: impl FnOnce(Self) -> F) {
        let (orders, task) = (self.orders.clone(), self.task().clone());
        self.validity.set_wanted(false);
        // If the task has ended, sending fails and the lease runs out.
        let _ = orders.send(Order::Finish(Box::pin(last(self))));
        task.come_here();
    }

    /// Stops renewing the lease without revoking it, for another process that knows its ID.
    pub(crate) fn leave(self) {
        self.order(Order::Leave);
    }

    /// Sends the last order. The task moves to this runtime, since its own may not be driven.
    fn order(&self, order: Order) -> bool {
        self.validity.set_wanted(false);
        let sent = self.orders.send(order).is_ok();
        self.task().come_here();
        sent
    }

    /// Returns the task that keeps the lease alive.
    fn task(&self) -> &Task {
        self.validity.task()
    }
}

/// Records that the end of the lease is now intended, so that it is not reported as a loss.
impl Drop for Lease {
    fn drop(&mut self) {
        self.validity.set_wanted(false);
    }
}

impl From<&Lease> for LeaseId {
    fn from(lease: &Lease) -> Self {
        lease.id
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).field("ttl", &self.ttl).field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

/// How long a lease's task may go without being polled. It wakes for every order, and at least once
/// a second.
const PATIENCE: Patience = Patience { first: Duration::from_millis(500), then: Duration::from_secs(5) };

/// The task of a lease that was not granted yet.
struct Applicant {
    pool: Weak<LeasePool>,
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    asked: Duration,
    deadline: Instant,
}

/// A lease that was granted.
type Granted = (LeaseId, Duration, Validity);

impl Applicant {
    async fn run(self, task: Task, mut orders: mpsc::UnboundedReceiver<Order>, answer: oneshot::Sender<Result<Granted>>) {
        let Self { pool, store, retry, asked, deadline } = self;
        let mut names = NAMES;
        loop {
            let id = LeaseId::random();
            let sent = Moment::now();
            match until(deadline, store.grant(id, asked)).await {
                Ok(ttl) => {
                    let ttl = ttl.min(FAR);
                    let validity = Validity::begin(id, sent, ttl, task);
                    let over = validity.clone().ends_with_this();
                    // If the caller's future was dropped, the sender of `orders` is gone too, and
                    // the keeper below ends.
                    let _ = answer.send(Ok((id, ttl, validity.clone())));
                    let keeper = LeaseKeeper { store, retry, pool, id, ttl, validity, manner: Manner::Own, _over: over };
                    keeper.run(sent, &mut orders).await;
                    return;
                }
                // The ID belongs to another client's lease. If this client used it, both clients
                // would hold the same locks.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && names > 1 => names -= 1,
                Err(error) => {
                    let unsure = error.may_have_applied();
                    let _ = answer.send(Err(error));
                    if unsure {
                        revoke(&*store, &retry, id, asked).await;
                    }
                    return;
                }
            }
        }
    }
}

/// The task that keeps one lease alive.
struct LeaseKeeper {
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    pool: Weak<LeasePool>,
    id: LeaseId,
    ttl: Duration,
    validity: Validity,
    manner: Manner,
    /// Marks the lease as lost when the task ends, for whatever reason.
    _over: EndsWith,
}

/// What a [`LeaseKeeper`] does for its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Renews the lease, and revokes it at the end.
    Own,
    /// Renews a lease of another component, and does not revoke it at the end.
    Renew,
    /// Only asks the server how long a lease of another component has left.
    Observe,
}

/// How a [`LeaseKeeper`] ends.
enum End {
    /// The lease is not wanted any more, or not safe to trust: revoke it.
    Unwanted,
    /// The server does not have the lease, or another process takes over.
    Nothing,
}

impl LeaseKeeper {
    async fn run(mut self, sent: Moment, orders: &mut mpsc::UnboundedReceiver<Order>) {
        if let End::Unwanted = self.keep(sent, orders).await
            && self.manner == Manner::Own
        {
            revoke(&*self.store, &self.retry, self.id, self.ttl).await;
        }
    }

    async fn keep(&mut self, sent: Moment, orders: &mut mpsc::UnboundedReceiver<Order>) -> End {
        let mut backoff = self.retry.backoff();
        let mut next = third(sent, self.ttl);
        let mut tidy = Instant::now() + IDLE;
        loop {
            tokio::select! {
                // Orders come before renewals, since an order may end the lease.
                biased;
                order = orders.recv() => match order {
                    None => return End::Unwanted,
                    Some(Order::Leave) => {
                        // Renews the lease one last time, so that the next process has more time. A
                        // failure does no harm.
                        let _ = self.store.keep_alive(self.id).await;
                        return End::Nothing;
                    }
                    Some(Order::Revoke(answer)) => {
                        let revoked = self.retry.one_call(self.store.revoke(self.id)).await;
                        let end = if revoked.is_ok() { End::Nothing } else { End::Unwanted };
                        let _ = answer.send(revoked);
                        return end;
                    }
                    Some(Order::Finish(last)) => last.await,
                },
                lost = self.validity.lost() => {
                    self.validity.lose(lost.reason());
                    return End::Unwanted;
                }
                (sent, answer) = self.attempt(next) => {
                    let Some(answer) = answer else { return End::Unwanted };
                    let remaining = self.validity.remaining();
                    telemetry::lease_remaining(remaining);
                    match answer {
                        Ok(granted) => {
                            let granted = granted.min(FAR);
                            self.validity.extend(sent, granted);
                            backoff.reset();
                            next = third(sent, granted);
                        }
                        Err(error) if error.kind() == ErrorKind::LeaseLost => {
                            self.validity.lose(LostReason::Revoked);
                            return End::Nothing;
                        }
                        Err(error) => {
                            telemetry::lease_attempt_failed(self.id, remaining, &error);
                            self.validity.meet(error);
                            // Retries more often as the end of the lease comes closer, so that the
                            // lease survives an outage that ends just in time.
                            let soon = (remaining / 4).max(self.retry.first_delay);
                            next = Instant::now() + backoff.next_delay().min(soon);
                        }
                    }
                }
                () = sleep_until(tidy) => {
                    if let Some(pool) = self.pool.upgrade() {
                        pool.retire();
                    }
                    tidy = Instant::now() + IDLE / 4;
                }
            }
        }
    }

    /// Waits until `at`, and then tries to renew the lease. Returns the time at which the request
    /// was sent, and its answer. The answer is `None` if the lease is a spare one that the pool
    /// does not need. Cancel-safe.
    async fn attempt(&self, at: Instant) -> (Moment, Option<Result<Duration>>) {
        sleep_until(at).await;
        let sent = Moment::now();
        if self.pool.upgrade().is_some_and(|pool| pool.dismiss(self.id)) {
            return (sent, None);
        }
        let answer = match self.manner {
            Manner::Own | Manner::Renew => self.store.keep_alive(self.id).await,
            Manner::Observe => adopt::remaining(&*self.store, self.id).await,
        };
        (sent, Some(answer))
    }
}

/// Returns the time of the next renewal: a third of the time to live after the last answered
/// request was sent.
fn third(sent: Moment, ttl: Duration) -> Instant {
    Instant::now() + (ttl / 3).saturating_sub(Moment::now().since(sent))
}

/// Revokes a lease. Repeats the request until it succeeds or the time to live has passed. The lease
/// is not renewed after the start of this call, so it has run out by then.
async fn revoke(store: &dyn Store, retry: &RetryPolicy, id: LeaseId, ttl: Duration) {
    let begun = Moment::now();
    let mut backoff = retry.backoff();
    while let Err(error) = store.revoke(id).await {
        telemetry::lease_not_revoked(id, &error);
        let delay = backoff.next_delay();
        if !(error.is_outage() || error.may_have_applied()) || Moment::now().since(begun) + delay >= ttl {
            return;
        }
        sleep(delay).await;
    }
}

#[cfg(test)]
mod tests;
