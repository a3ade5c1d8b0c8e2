//! `Watching`: the task that watches the key of a guard, and ends the guard when the key changes.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::ContenderQueue;
use super::claim::Claim;
use crate::error::{Error, ErrorKind};
use crate::lease::{DelayedStart, LostReason};
use crate::retry::RetryPolicy;
use crate::runtime::{Runtimes, Task, sleep};
use crate::store::{Event, Range, Span, Store, Txn};
use crate::telemetry::{self, Pattern};
use crate::watch::{Follow, Reason, Start, Step};

/// How long a guard is held before its key is watched. Most guards are released sooner, and cost no
/// watch.
const SETTLED: Duration = Duration::from_millis(100);

/// The label for the keys of guards in metrics and events.
const PATTERN: Pattern = "guard";

/// The task that watches a guard's key, once it has started. Dropping this ends the task.
#[derive(Default)]
pub(super) struct Watching(OnceLock<Task>);

/// Starts the task that watches a guard's key once the guard has been held for [`SETTLED`], unless
/// the guard ended before.
struct Watchful {
    watching: Weak<Watching>,
    store: Arc<dyn Store>,
    retry: RetryPolicy,
    claim: Claim,
    ttl: Duration,
    /// The runtimes of the client. Weak, since the client owns this value.
    runtimes: Weak<Runtimes>,
}

impl DelayedStart for Watchful {
    fn is_wanted(&self) -> bool {
        self.watching.strong_count() > 0 && self.claim.hold.reason().is_none()
    }

    fn begin(self: Box<Self>) {
        let Self { watching, store, retry, claim, ttl, runtimes } = *self;
        // Only this line sets the cell. If the guard is dropped meanwhile, dropping `watching` here
        // ends the task.
        if let (Some(watching), Some(runtimes)) = (watching.upgrade(), runtimes.upgrade()) {
            let _ = watching.0.set(runtimes.spawn(watch(store, retry, claim, ttl)));
        }
    }
}

impl Watching {
    pub(super) fn start_delayed(queue: &ContenderQueue, claim: &Claim, ttl: Duration) -> Arc<Self> {
        let watching = Arc::new(Self::default());
        let (store, retry, claim) = (queue.roaming().clone(), queue.lease_pool.retry().clone(), claim.clone());
        let runtimes = queue.lease_pool.runtimes();
        let watchful = Watchful { watching: Arc::downgrade(&watching), store, retry, claim, ttl, runtimes: Arc::downgrade(runtimes) };
        queue.lease_pool.delayed_starts().begin(SETTLED, runtimes, watchful);
        watching
    }

    pub(super) fn end(&self) {
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

/// Watches a guard's key. Ends the guard when the key changed, or when the store has refused to
/// show the key for the lease's time to live.
///
/// In an outage the guard is lost with its lease. A refusal needs a separate limit: renewing a
/// lease needs no right to the key, so the lease may be kept alive forever while the client may not
/// read the key.
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

/// A result of [`look`].
enum Look {
    Step(Step),
    /// The watch ended.
    Ended(Error),
    /// The watch was interrupted for a while.
    Blind,
}

/// Waits for the next step of a watch. Returns `Blind` when the watch has been interrupted for
/// `patience`.
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

/// Returns why the guard is lost, from a step of the watch on its key, or `None` if it is not lost.
async fn seen(step: &Step, claim: &Claim, store: &dyn Store) -> Option<LostReason> {
    let mut written = false;
    let why = match step {
        // If the server was restored from a backup, the key may look the same, although this guard
        // did not acquire the lock in the server's present history.
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
