//! `Lease`: a lease that is kept alive as long as its guard lives. Where leases come from is [`lessor`]; how long one is safe to trust
//! is [`life`]; which of their keys stand in queues is [`standing`], and how a first place is given up is [`last`].

mod last;
mod later;
mod lessor;
mod life;
mod shared;
mod standing;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub(crate) use self::last::{Joined, Last};
pub(crate) use self::later::Begin;
use self::lessor::IDLE;
pub(crate) use self::lessor::Lessor;
use self::life::EndsWith;
pub(crate) use self::life::Life;
pub use self::life::{Lost, LostReason};
pub(crate) use self::shared::Share;
use self::standing::Standing;
pub(crate) use self::standing::{Before, Rank};
use crate::clock::{FAR, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::retry::{RetryPolicy, until};
use crate::revision::{LeaseId, Revision};
use crate::runtime::{self, Patience, Runtimes, Task, sleep, sleep_until};
use crate::store::Store;
use crate::telemetry;

/// The time to live of a lock, a leadership and a published value where none is asked for.
pub(crate) const TTL: Duration = Duration::from_secs(15);

/// Names that are tried for a lease, each after one that some other lease has.
const NAMES: u32 = 4;

/// A lease. Keys that are written with it (`.lease(&lease)`) vanish when it ends: when the guard is dropped, or revoked, or when the server
/// could not be told in time that it is still wanted.
///
/// A task of its own keeps it alive, three times within its time to live. Dropping the guard revokes it in the background as well as
/// possible; if that fails the keys vanish when the time to live has passed.
///
/// # Runtimes
///
/// The task moves when its runtime ends; see [`Client`](crate::Client). A runtime that exists but is not driven (a current-thread runtime outside of `block_on`)
/// keeps no lease alive, and nothing tells the client so. Whoever asks [`is_held`](Self::is_held), or waits for [`lost`](Self::lost), on another runtime takes the
/// task there when it is late. A lease of which nothing is asked is lost.
///
/// # When it is lost
///
/// When the server says that it does not know it, or when the server said nothing for so long that it may have ended it: the time to live
/// counts from the moment *before* the last answered request was sent, less a margin of a tenth of it (half a second at least, half of it at most), on a clock
/// that goes on while the machine sleeps. That is decided by looking at the clock whenever it is asked, so a program that was frozen is not told
/// otherwise when it wakes. What is lost stays lost, whatever the network does later.
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
    /// What the server granted.
    ttl: Duration,
    /// What was asked for, of which a server may give more.
    asked: Duration,
    store: Arc<dyn Store>,
    life: Life,
    /// To the task that keeps it alive. When it is dropped, the task revokes the lease and ends.
    orders: mpsc::UnboundedSender<Order>,
    /// Of a lease that may outlive its client: the runtimes that its task can go to.
    runtimes: Option<Arc<Runtimes>>,
    /// Of the key that stands in a queue with it.
    standing: Option<Standing>,
}

/// What the task of a lease is told.
enum Order {
    /// Commit this, which makes an end of all that needs the lease, and then keep the lease as a spare one if it may be.
    Finish { last: Box<Last>, lease: Lease, reusable: bool },
    /// Revoke it and say what became of that.
    Revoke(oneshot::Sender<Result<()>>),
    /// End without revoking it: somebody else goes on. Its time starts a last time.
    Leave,
}

impl Lease {
    /// The task that is to keep the lease alive also asks for it: a caller who is dropped while he waits then leaves nothing behind, since the task knows
    /// what it was given, and that nobody wants it.
    async fn grant(lessor: &Arc<Lessor>, asked: Duration) -> Result<Self> {
        if !runtime::is_here() {
            return Err(Error::without_runtime());
        }
        let store = lessor.roaming().clone();
        let (orders, received) = mpsc::unbounded_channel();
        let (answer, answered) = oneshot::channel();
        let prepared = lessor.runtimes().prepare();
        // The task is not a part of the caller's call, and is to end with it.
        let deadline = lessor.retry().deadline();
        let applicant = Applicant { lessor: Arc::downgrade(lessor), store: store.clone(), retry: lessor.retry().clone(), asked, deadline };
        let task = prepared.task();
        prepared.start(applicant.run(task, received, answer));
        let gone = |_| Error::new(ErrorKind::Unavailable, "the runtime ended before a lease was had").outcome_unknown();
        let (id, ttl, life) = answered.await.map_err(gone)??;
        Ok(Self { id, ttl, asked, store, life, orders, runtimes: None, standing: None })
    }

    /// The same lease, whose task finds other runtimes as long as the lease lives, and not only as long as the client does.
    pub(crate) fn by_itself(mut self, lessor: &Lessor) -> Self {
        self.runtimes = Some(lessor.runtimes().clone());
        self
    }

    /// Its name, for `.lease(&lease)` and for tools.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The time to live that the server granted.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether the server cannot have ended it yet, as far as clocks tell; no request is sent. Once false it stays false.
    #[must_use]
    pub fn is_held(&self) -> bool {
        if let Some(runtimes) = &self.runtimes {
            runtimes.note();
        }
        self.life.tend();
        self.life.is_held()
    }

    /// For how long [`is_held`](Self::is_held) stays true without another word from the server; zero once the lease is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.life.remaining()
    }

    /// Waits until the lease is lost, and says why.
    ///
    /// # Cancel safety
    ///
    /// Dropping it costs nothing.
    pub async fn lost(&self) -> Lost {
        self.life.lost().await
    }

    /// Ends the lease and waits for the answer; all its keys vanish.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, …: the keys then vanish when the time to live has passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping it revokes the lease in the background.
    pub async fn revoke(self) -> Result<()> {
        self.end().await
    }

    /// Ends the lease as [`revoke`](Self::revoke) does, for one of several owners.
    async fn end(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        // By its task, which else would take the end for a loss.
        if self.order(Order::Revoke(answer))
            && let Some(Ok(result)) = self.task().attend(PATIENCE, answered).await
        {
            return result;
        }
        self.store.revoke(self.id).await
    }

    /// A key that is attached to it is about to stand in the queue of this directory, until the lease is given back or ends.
    pub(crate) fn enter(&mut self, lessor: &Lessor, directory: &Key, key: &Key) {
        // First the end of what was: that may have the same key.
        self.standing = None;
        self.standing = Some(lessor.standings().enter(directory, key, &self.life));
    }

    /// The key came to be then.
    pub(crate) fn entered(&self, created: Revision) {
        if let Some(standing) = &self.standing {
            standing.made(created);
        }
    }

    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// Commits `last` in the background, after which nothing needs the lease any more. If that goes well, and `reusable`, it becomes a spare one; else it
    /// is revoked.
    pub(crate) fn finish(self, last: Last, reusable: bool) {
        let (orders, task) = (self.orders.clone(), self.task().clone());
        self.life.set_wanted(false);
        // Without a task there is nobody who could: the lease runs out.
        let _ = orders.send(Order::Finish { last: Box::new(last), lease: self, reusable });
        task.come_here();
    }

    /// Lets it run out, for somebody who knows its name to go on with.
    pub(crate) fn leave(self) {
        self.order(Order::Leave);
    }

    /// The last order. The task carries it out on this runtime: the one it is on may not be driven.
    fn order(&self, order: Order) -> bool {
        self.life.set_wanted(false);
        let sent = self.orders.send(order).is_ok();
        self.task().come_here();
        sent
    }

    /// The task that keeps it alive.
    fn task(&self) -> &Task {
        self.life.task()
    }
}

/// From here on its end is meant.
impl Drop for Lease {
    fn drop(&mut self) {
        self.life.set_wanted(false);
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

/// How long the task of a lease may go without being polled: it wakes when it is told something, and at least each second.
const PATIENCE: Patience = Patience { first: Duration::from_millis(500), then: Duration::from_secs(5) };

/// The task of one lease, before it has it.
struct Applicant {
    lessor: Weak<Lessor>,
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    asked: Duration,
    deadline: Instant,
}

/// A lease that was had.
type Granted = (LeaseId, Duration, Life);

impl Applicant {
    async fn run(self, task: Task, mut orders: mpsc::UnboundedReceiver<Order>, answer: oneshot::Sender<Result<Granted>>) {
        let Self { lessor, store, retry, asked, deadline } = self;
        let mut names = NAMES;
        loop {
            let id = LeaseId::random();
            let sent = Moment::now();
            match until(deadline, store.grant(id, asked)).await {
                Ok(ttl) => {
                    let ttl = ttl.min(FAR);
                    let life = Life::begin(id, sent, ttl, task);
                    let over = life.clone().ends_with_this();
                    // If nobody waits for it, nobody sends orders either.
                    let _ = answer.send(Ok((id, ttl, life.clone())));
                    let keeper = Keeper { store, retry, lessor, id, ttl, life, _over: over };
                    keeper.run(sent, &mut orders).await;
                    return;
                }
                // Somebody else's, and it must not be taken for ours: two would hold what one holds.
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
struct Keeper {
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    lessor: Weak<Lessor>,
    id: LeaseId,
    ttl: Duration,
    life: Life,
    /// However the task ends, nobody keeps the lease alive after it.
    _over: EndsWith,
}

/// How a [`Keeper`] ends.
enum End {
    /// Nobody wants the lease any more, or it is not safe to trust: it is to be revoked.
    Unwanted,
    /// The server does not have it, or it is left to somebody else.
    Nothing,
}

impl Keeper {
    async fn run(mut self, sent: Moment, orders: &mut mpsc::UnboundedReceiver<Order>) {
        if let End::Unwanted = self.keep(sent, orders).await {
            revoke(&*self.store, &self.retry, self.id, self.ttl).await;
        }
    }

    async fn keep(&mut self, sent: Moment, orders: &mut mpsc::UnboundedReceiver<Order>) -> End {
        let mut backoff = self.retry.backoff();
        let mut next = third(sent, self.ttl);
        let mut tidy = Instant::now() + IDLE;
        loop {
            tokio::select! {
                // First what is wanted: what an order ends needs no more time.
                biased;
                order = orders.recv() => match order {
                    None => return End::Unwanted,
                    Some(Order::Leave) => {
                        // Best effort: whoever goes on has the more time for it.
                        let _ = self.store.keep_alive(self.id).await;
                        return End::Nothing;
                    }
                    Some(Order::Revoke(answer)) => {
                        let revoked = self.retry.one_call(self.store.revoke(self.id)).await;
                        let end = if revoked.is_ok() { End::Nothing } else { End::Unwanted };
                        let _ = answer.send(revoked);
                        return end;
                    }
                    Some(Order::Finish { last, lease, reusable }) => self.finish(*last, lease, reusable).await,
                },
                lost = self.life.lost() => {
                    self.life.lose(lost.reason());
                    return End::Unwanted;
                }
                (sent, answer) = self.attempt(next) => {
                    let Some(answer) = answer else { return End::Unwanted };
                    let remaining = self.life.remaining();
                    telemetry::lease_remaining(remaining);
                    match answer {
                        Ok(granted) => {
                            let granted = granted.min(FAR);
                            self.life.extend(sent, granted);
                            backoff.reset();
                            next = third(sent, granted);
                        }
                        Err(error) if error.kind() == ErrorKind::LeaseLost => {
                            self.life.lose(LostReason::Revoked);
                            return End::Nothing;
                        }
                        Err(error) => {
                            telemetry::lease_attempt_failed(self.id, remaining, &error);
                            self.life.meet(error);
                            // Ever sooner, so that an outage that ends just before the lease does not cost it.
                            let soon = (remaining / 4).max(self.retry.first_delay);
                            next = Instant::now() + backoff.next_delay().min(soon);
                        }
                    }
                }
                () = sleep_until(tidy) => {
                    if let Some(lessor) = self.lessor.upgrade() {
                        lessor.retire();
                    }
                    tidy = Instant::now() + IDLE / 4;
                }
            }
        }
    }

    /// One attempt to keep it alive, at its time; and when it was sent. None: it is one spare lease too many. To be dropped at will.
    async fn attempt(&self, at: Instant) -> (Moment, Option<Result<Duration>>) {
        sleep_until(at).await;
        let sent = Moment::now();
        if self.lessor.upgrade().is_some_and(|lessor| lessor.dismiss(self.id)) {
            return (sent, None);
        }
        (sent, Some(self.store.keep_alive(self.id).await))
    }

    async fn finish(&self, last: Last, lease: Lease, reusable: bool) {
        let done = last.commit(&*self.store).await.ok().filter(|done| done.succeeded);
        match (self.lessor.upgrade(), done) {
            (Some(lessor), Some(done)) if reusable => lessor.put(lease, done.handed),
            // Its keys go with it, whatever became of the commit.
            _ => drop(lease),
        }
    }
}

/// When a third of the time has passed since the last answered request was sent.
fn third(sent: Moment, ttl: Duration) -> Instant {
    Instant::now() + (ttl / 3).saturating_sub(Moment::now().since(sent))
}

/// Ends a lease as well as possible: until it is done, or the time to live has passed since it was last kept alive, which is now at the latest.
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
