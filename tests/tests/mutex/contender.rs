//! A contender acquires a lock, writes under it, gives it up in one of many ways, and starts again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::{Compare, Condition, Op, OpResult, Span, Txn};
use etcd_typed::{Client, Error, ErrorKind, Json, Key, Lease, LeaseId, Lock, NamedLock, Result, Revision};
use fastrand::Rng;
use futures_util::FutureExt as _;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::broken;
use super::record::{Behaviour, Event, Log, Mark, Outcome};

/// The data that all contenders of a process share.
#[derive(Clone)]
pub(crate) struct Contenders {
    pub(crate) process: usize,
    pub(crate) client: Client,
    pub(crate) log: Arc<Log>,
    pub(crate) locks: Arc<BTreeMap<String, Duration>>,
    pub(crate) behaviour: Behaviour,
    /// The lease for all locks of the process, in a campaign in which the locks share a lease.
    pub(crate) lease: Option<Arc<Mutex<Option<Arc<Lease>>>>>,
    /// Set when the contenders must finish. Each then acquires its lock a last time and releases
    /// the lock.
    pub(crate) finish: Arc<AtomicBool>,
}

/// The directory of the locks.
pub(crate) const LOCKS: &str = "/mutex/locks/";
/// The directory of the keys that the locks guard.
pub(crate) const COUNTERS: &str = "/mutex/counters/";

fn counter(lock: &str) -> Key {
    Key::parse(&format!("{COUNTERS}{lock}")).unwrap()
}

pub(crate) fn directory(lock: &str) -> String {
    format!("{LOCKS}{lock}")
}

impl Contenders {
    /// Runs this many tasks for each lock until all of them have finished.
    pub(crate) async fn run(self, tasks: usize, seed: u64) {
        let mut rng = Rng::with_seed(seed);
        let mut all = JoinSet::new();
        for lock in self.locks.keys() {
            for _ in 0..tasks {
                let contender = Contender { all: self.clone(), lock: lock.clone(), rng: rng.fork(), stale: None };
                all.spawn(contender.run());
            }
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
    }
}

struct Contender {
    all: Contenders,
    lock: String,
    rng: Rng,
    /// The condition for guarded writes of a lock that the contender held earlier. A late write
    /// uses it.
    stale: Option<Claim>,
}

/// A held lock: either a lock of the library or a lock with a defect.
enum Guard {
    Correct(Box<Lock>),
    Broken(broken::Guard),
}

/// The key, fence and lease that a guarded write checks.
#[derive(Clone, Debug)]
struct Claim {
    key: Key,
    fence: Revision,
    lease: LeaseId,
}

/// The period in which `is_held()` was true.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// A time after the first check that returned true.
    from: Option<u64>,
    /// A time before the last check that returned true.
    until: u64,
}

impl Contender {
    async fn run(mut self) {
        if self.all.behaviour == Behaviour::KeepsLock {
            let _kept = loop {
                match self.acquire().await {
                    Ok(kept) => break kept,
                    // A thousand waiters start at once, so the server may not answer in time.
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            };
            return std::future::pending().await;
        }
        while !self.all.finish.load(Ordering::Relaxed) {
            let begun = Instant::now();
            match self.take().await {
                Ok(Some(guard)) => self.have(guard, begun.elapsed(), false).await,
                Ok(None) => {}
                Err(error) => self.left(format!("{:?}", error.kind())).await,
            }
        }
        loop {
            let begun = Instant::now();
            match self.acquire().await {
                Ok(guard) => {
                    self.have(guard, begun.elapsed(), true).await;
                    return self.all.log.say(&Event::Done);
                }
                Err(error) => self.left(format!("{:?}", error.kind())).await,
            }
        }
    }

    /// Acquires the lock by a random method. Returns `None` if that method did not acquire the
    /// lock.
    async fn take(&mut self) -> Result<Option<Guard>> {
        let moment = Duration::from_millis(self.rng.u64(0..60));
        let broken = matches!(
            self.all.behaviour,
            Behaviour::TrustsKeepAlive | Behaviour::TrustsTooLong | Behaviour::SkipsCheck | Behaviour::NeverContinues
        );
        match self.rng.u32(0..100) {
            0..10 => match timeout(moment, self.acquire()).await {
                Ok(taken) => taken.map(Some),
                Err(_) => {
                    self.left("cancelled".to_owned()).await;
                    Ok(None)
                }
            },
            10..14 if !broken => {
                let taken = self.named().await?.try_acquire().await?;
                if taken.is_none() {
                    self.left("busy".to_owned()).await;
                }
                Ok(taken.map(|lock| Guard::Correct(Box::new(lock))))
            }
            14..18 if !broken => self.named().await?.acquire_within(moment * 10).await.map(|lock| Some(Guard::Correct(Box::new(lock)))),
            _ => self.acquire().await.map(Some),
        }
    }

    async fn acquire(&self) -> Result<Guard> {
        let (behaviour, ttl) = (self.all.behaviour, self.ttl());
        match behaviour {
            Behaviour::Correct | Behaviour::LockOnly | Behaviour::Unguarded | Behaviour::KeepsLock => {
                self.named().await?.acquire().await.map(|lock| Guard::Correct(Box::new(lock)))
            }
            Behaviour::TrustsKeepAlive | Behaviour::TrustsTooLong | Behaviour::SkipsCheck | Behaviour::NeverContinues => {
                let directory = Key::parse(&directory(&self.lock)).unwrap();
                broken::Guard::acquire(self.all.client.store(), &directory, ttl, behaviour).await.map(Guard::Broken)
            }
        }
    }

    async fn named(&self) -> Result<NamedLock> {
        let named = self.all.client.lock(&directory(&self.lock)).ttl(self.ttl());
        let Some(lease) = &self.all.lease else { return Ok(named) };
        let mut lease = lease.lock().await;
        let lease = match &mut *lease {
            Some(lease) if lease.is_held() => lease,
            lost => lost.insert(Arc::new(self.all.client.lease(Duration::from_secs(2)).await?)),
        };
        Ok(named.lease(lease))
    }

    fn ttl(&self) -> Duration {
        self.all.locks[&self.lock]
    }

    async fn left(&self, why: String) {
        self.all.log.say(&Event::Left { why });
        sleep(Duration::from_millis(20)).await;
    }

    /// Works under the lock and then gives the lock up. If `last` is set, the contender calls
    /// `release`.
    async fn have(&mut self, guard: Guard, waited: Duration, last: bool) {
        let mut seen = Seen::default();
        seen.look(&guard, &self.all.log);
        let claim = guard.claim();
        let fence = claim.fence.get();
        self.all.log.say(&Event::Granted { lock: self.lock.clone(), fence, waited });
        let writes = self.all.behaviour != Behaviour::LockOnly;

        let before = if writes { self.count_before(&claim).await } else { None };
        seen.look(&guard, &self.all.log);
        // Report now, because the process may be killed later.
        self.held(fence, seen);
        let hold = match self.rng.u32(0..1000) {
            0..700 => Duration::ZERO,
            700..995 => Duration::from_millis(self.rng.u64(1..20)),
            _ => self.ttl().mul_f64(self.rng.f64() * 1.5),
        };
        guard.hold(hold, &mut seen, &self.all.log).await;
        if let Some(before) = before {
            self.count(&guard, &claim, before + 1).await;
        }
        seen.look(&guard, &self.all.log);
        self.held(fence, seen);

        if let Some(why) = guard.lost() {
            self.all.log.say(&Event::Lost { why });
        }
        self.give_up(guard, last).await;
        // Write under a lock that was given up: either at once, while the lock may still be being
        // released, or later, after another acquire.
        let late = if self.rng.bool() { Some(claim) } else { self.stale.replace(claim) };
        if let Some(late) = late.filter(|_| writes) {
            self.commit(&late, 0, true, Vec::new()).await;
        }
    }

    fn held(&self, fence: u64, seen: Seen) {
        if let Some(from) = seen.from.filter(|from| *from <= seen.until) {
            self.all.log.say(&Event::Held { lock: self.lock.clone(), fence, from, until: seen.until });
        }
    }

    async fn give_up(&mut self, guard: Guard, last: bool) {
        match (guard, self.rng.u32(0..1000)) {
            (Guard::Broken(guard), _) => guard.release().await,
            (Guard::Correct(lock), 650..998) if !last => drop(lock),
            // Abandons the lock without releasing it. Not with a shared lease, on which the lock
            // would stay held while the process runs.
            (Guard::Correct(lock), 998..) if !last && self.all.lease.is_none() => drop(lock.into_token()),
            (Guard::Correct(lock), _) => match lock.release().await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::GuardLost => {}
                Err(error) => self.left(format!("release: {:?}", error.kind())).await,
            },
        }
    }

    /// Returns the last count. The count is read in the same transaction as a write, because a
    /// member of 3.4 that was stopped answers a plain read from its old state (etcd issue 20418).
    async fn count_before(&mut self, claim: &Claim) -> Option<u64> {
        let (outcome, results) = self.commit(claim, 0, false, vec![Op::Get(Span::Key(counter(&self.lock)))]).await;
        if !matches!(outcome, Outcome::Committed(_)) {
            return None;
        }
        match results.into_iter().next() {
            Some(OpResult::Get(reply)) => Some(reply.kvs.first().map_or(0, |kv| mark(&kv.value).count)),
            other => panic!("no answer to a read: {other:?}"),
        }
    }

    /// Writes the count. With [`Behaviour::Correct`], the contender writes as users of the library
    /// do.
    async fn count(&mut self, guard: &Guard, claim: &Claim, count: u64) {
        let lock = match guard {
            Guard::Correct(lock) if self.all.behaviour == Behaviour::Correct => lock,
            _ => return drop(self.commit(claim, count, false, Vec::new()).await),
        };
        let mark = Mark { process: self.all.process, fence: claim.fence.get(), count, nonce: self.rng.u64(..) };
        let counter = self.all.client.entry::<Json<Mark>>(counter(&self.lock).as_str()).unwrap();
        let outcome = match counter.set(&Json(mark)).guarded_by(lock).await {
            Ok(revision) => Outcome::Committed(revision.get()),
            Err(error) => unwritten(&error),
        };
        self.all.log.say(&Event::Wrote { lock: self.lock.clone(), mark, late: false, outcome });
    }

    /// Writes the count by a store request. If `count` is zero, writes a visit instead.
    async fn commit(&mut self, claim: &Claim, count: u64, late: bool, mut then: Vec<Op>) -> (Outcome, Vec<OpResult>) {
        let mark = Mark { process: self.all.process, fence: claim.fence.get(), count, nonce: self.rng.u64(..) };
        let key = if count == 0 { counter(&format!("{}/visits", self.lock)) } else { counter(&self.lock) };
        then.push(Op::put(&key, Bytes::from(serde_json::to_vec(&mark).unwrap())));
        let compares = if self.all.behaviour == Behaviour::Unguarded { Vec::new() } else { claim.compares() };
        let (outcome, results) = match self.all.client.store().commit(Txn::new(then).compares(compares).otherwise(Vec::new())).await {
            Ok(committed) if committed.succeeded => (Outcome::Committed(committed.revision.get()), committed.results),
            Ok(_) => (Outcome::Refused("lost".to_owned()), Vec::new()),
            Err(error) => (unwritten(&error), Vec::new()),
        };
        self.all.log.say(&Event::Wrote { lock: self.lock.clone(), mark, late, outcome: outcome.clone() });
        (outcome, results)
    }
}

fn unwritten(error: &Error) -> Outcome {
    if error.may_have_applied() { Outcome::Unknown } else { Outcome::Refused(format!("{:?}", error.kind())) }
}

/// Decodes a value that a contender wrote.
pub(crate) fn mark(value: &[u8]) -> Mark {
    serde_json::from_slice(value).unwrap()
}

impl Claim {
    fn compares(&self) -> Vec<Compare> {
        [Condition::Created(self.fence), Condition::Lease(self.lease)].map(|condition| Compare::key(&self.key, condition)).into()
    }
}

impl Guard {
    fn claim(&self) -> Claim {
        match self {
            Self::Correct(lock) => Claim { key: lock.key().clone(), fence: lock.fence(), lease: lock.lease_id() },
            Self::Broken(guard) => Claim { key: guard.key().clone(), fence: guard.fence(), lease: guard.lease() },
        }
    }

    fn is_held(&self) -> bool {
        match self {
            Self::Correct(lock) => lock.is_held(),
            Self::Broken(guard) => guard.is_held(),
        }
    }

    /// Holds the lock for this long, or until the lock is lost.
    async fn hold(&self, time: Duration, seen: &mut Seen, log: &Log) {
        let work = async {
            let begun = Instant::now();
            while begun.elapsed() < time {
                sleep(Duration::from_millis(5).min(time)).await;
                seen.look(self, log);
            }
        };
        match self {
            Self::Correct(lock) => {
                let _ = lock.while_held(work).await;
            }
            Self::Broken(_) => work.await,
        }
    }

    /// Returns why the lock was lost, or `None` if it is still held.
    fn lost(&self) -> Option<String> {
        let Self::Correct(lock) = self else { return None };
        (!lock.is_held()).then(|| lock.lost().now_or_never().map_or_else(|| "no reason".to_owned(), |lost| format!("{:?}", lost.reason())))
    }
}

impl Seen {
    /// Checks whether the lock is held. Records a time after the first successful check and a time
    /// before the last one. The lock was held between these times, however long a check takes.
    fn look(&mut self, guard: &Guard, log: &Log) {
        let before = log.now();
        if guard.is_held() {
            self.until = before;
            self.from.get_or_insert_with(|| log.now());
        }
    }
}
