//! A contender: takes a lock, does something under it, gives it up in one of many ways, and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::{Compare, Condition, Op, OpResult, Span, Txn};
use etcd_typed::{Client, Error, ErrorKind, Json, Key, LeaseId, Lock, NamedLock, Result, Revision};
use fastrand::Rng;
use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::broken;
use super::record::{Creed, Event, Log, Mark, Outcome};

/// One process of contenders.
#[derive(Clone)]
pub(crate) struct Contenders {
    pub(crate) process: usize,
    pub(crate) client: Client,
    pub(crate) log: Arc<Log>,
    pub(crate) locks: Arc<BTreeMap<String, Duration>>,
    pub(crate) creed: Creed,
    /// Whether they are to finish: each takes its lock a last time, in order.
    pub(crate) finish: Arc<AtomicBool>,
}

/// Below are the directories of the locks.
pub(crate) const LOCKS: &str = "/mutex/locks/";
/// Below is what the locks guard.
pub(crate) const COUNTERS: &str = "/mutex/counters/";

fn counter(lock: &str) -> Key {
    Key::parse(&format!("{COUNTERS}{lock}")).unwrap()
}

pub(crate) fn directory(lock: &str) -> String {
    format!("{LOCKS}{lock}")
}

impl Contenders {
    /// Contends with so many tasks for each lock, until all of them have finished.
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
    /// A lock that was had before.
    stale: Option<Claim>,
}

/// A lock that is had, by the library or by one of the defects.
enum Guard {
    Sound(Lock),
    Broken(broken::Guard),
}

/// What a guarded write is conditioned on.
#[derive(Clone, Debug)]
struct Claim {
    key: Key,
    fence: Revision,
    lease: LeaseId,
}

/// When `is_held()` was true.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// After it was seen first.
    from: Option<u64>,
    /// Before it was seen last.
    until: u64,
}

impl Contender {
    async fn run(mut self) {
        if self.all.creed == Creed::Keeping {
            let _kept = loop {
                match self.acquire().await {
                    Ok(kept) => break kept,
                    // So many at once may be more than the server answers in time.
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

    /// Takes the lock in one of the ways there are. None: it was not to be had like that.
    async fn take(&mut self) -> Result<Option<Guard>> {
        let moment = Duration::from_millis(self.rng.u64(0..60));
        let broken = matches!(self.all.creed, Creed::Trusting | Creed::Overlong | Creed::Hasty | Creed::Forgetful);
        match self.rng.u32(0..100) {
            0..10 => match timeout(moment, self.acquire()).await {
                Ok(taken) => taken.map(Some),
                Err(_) => {
                    self.left("cancelled".to_owned()).await;
                    Ok(None)
                }
            },
            10..14 if !broken => {
                let taken = self.named().try_acquire().await?;
                if taken.is_none() {
                    self.left("busy".to_owned()).await;
                }
                Ok(taken.map(Guard::Sound))
            }
            14..18 if !broken => self.named().acquire_within(moment * 10).await.map(|lock| Some(Guard::Sound(lock))),
            _ => self.acquire().await.map(Some),
        }
    }

    async fn acquire(&self) -> Result<Guard> {
        let (creed, ttl) = (self.all.creed, self.ttl());
        match creed {
            Creed::Sound | Creed::Unwritten | Creed::Unguarded | Creed::Keeping => self.named().acquire().await.map(Guard::Sound),
            Creed::Trusting | Creed::Overlong | Creed::Hasty | Creed::Forgetful => {
                let directory = Key::parse(&directory(&self.lock)).unwrap();
                broken::Guard::acquire(self.all.client.store(), &directory, ttl, creed).await.map(Guard::Broken)
            }
        }
    }

    fn named(&self) -> NamedLock {
        self.all.client.lock(&directory(&self.lock)).ttl(self.ttl())
    }

    fn ttl(&self) -> Duration {
        self.all.locks[&self.lock]
    }

    async fn left(&self, why: String) {
        self.all.log.say(&Event::Left { why });
        sleep(Duration::from_millis(20)).await;
    }

    /// Works under the lock and gives it up. The last time, it is given up in order.
    async fn have(&mut self, guard: Guard, waited: Duration, last: bool) {
        let mut seen = Seen::default();
        seen.look(&guard, &self.all.log);
        let claim = guard.claim();
        let fence = claim.fence.get();
        self.all.log.say(&Event::Granted { lock: self.lock.clone(), fence, waited });
        let writes = self.all.creed != Creed::Unwritten;

        let before = if writes { self.count_before(&claim).await } else { None };
        seen.look(&guard, &self.all.log);
        // A process that is killed has said so much.
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
        // Who does not have it any more writes all the same: at once, while it is being given up, or after it was had once more.
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
            (Guard::Sound(lock), 650..998) if !last => drop(lock),
            // It goes away without a word, and leaves the lock behind.
            (Guard::Sound(lock), 998..) if !last => drop(lock.into_token()),
            (Guard::Sound(lock), _) => match lock.release().await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::GuardLost => {}
                Err(error) => self.left(format!("release: {:?}", error.kind())).await,
            },
        }
    }

    /// What is counted so far, as of a write of our own: a member of 3.4 that was stopped answers a mere read from what it had (etcd issue 20418).
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

    /// Counts, as users do where there is a lock of the library.
    async fn count(&mut self, guard: &Guard, claim: &Claim, count: u64) {
        let lock = match guard {
            Guard::Sound(lock) if self.all.creed == Creed::Sound => lock,
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

    /// Counts, or with nothing to count says only that we were here.
    async fn commit(&mut self, claim: &Claim, count: u64, late: bool, mut then: Vec<Op>) -> (Outcome, Vec<OpResult>) {
        let mark = Mark { process: self.all.process, fence: claim.fence.get(), count, nonce: self.rng.u64(..) };
        let key = if count == 0 { counter(&format!("{}/visits", self.lock)) } else { counter(&self.lock) };
        then.push(Op::put(&key, Bytes::from(serde_json::to_vec(&mark).unwrap())));
        let compares = if self.all.creed == Creed::Unguarded { Vec::new() } else { claim.compares() };
        let (outcome, results) = match self.all.client.store().commit(Txn { compares, then, otherwise: Vec::new() }).await {
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

/// What a contender wrote.
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
            Self::Sound(lock) => Claim { key: lock.key().clone(), fence: lock.fence(), lease: lock.lease_id() },
            Self::Broken(guard) => Claim { key: guard.key().clone(), fence: guard.fence(), lease: guard.lease() },
        }
    }

    fn is_held(&self) -> bool {
        match self {
            Self::Sound(lock) => lock.is_held(),
            Self::Broken(guard) => guard.is_held(),
        }
    }

    /// Holds it for so long, or until it is lost.
    async fn hold(&self, time: Duration, seen: &mut Seen, log: &Log) {
        let work = async {
            let begun = Instant::now();
            while begun.elapsed() < time {
                sleep(Duration::from_millis(5).min(time)).await;
                seen.look(self, log);
            }
        };
        match self {
            Self::Sound(lock) => {
                let _ = lock.while_held(work).await;
            }
            Self::Broken(_) => work.await,
        }
    }

    /// Why it is lost, if it is.
    fn lost(&self) -> Option<String> {
        let Self::Sound(lock) = self else { return None };
        (!lock.is_held()).then(|| lock.lost().now_or_never().map_or_else(|| "unsaid".to_owned(), |lost| format!("{:?}", lost.reason())))
    }
}

impl Seen {
    /// The times are taken on the far sides of the look, so that it was held from the one to the other, however long a look takes.
    fn look(&mut self, guard: &Guard, log: &Log) {
        let before = log.now();
        if guard.is_held() {
            self.until = before;
            self.from.get_or_insert_with(|| log.now());
        }
    }
}
