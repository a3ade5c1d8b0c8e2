//! Futures of lock calls are dropped at every possible point, or replies are lost. Afterwards no
//! key, no lease and no second holder remains. These tests use the memory store with paused time
//! and exact faults.

mod refusals;
mod replies;

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use etcd_typed::store::memory::{Calls, Faults, MemoryStore};
use etcd_typed::store::{Range, Span, Store, Txn};
use etcd_typed::{Client, ErrorKind, Key, Lock, LostReason, NamedLock, Result, Token};
use etcd_typed_tests::yielding::{Granted, yielding};
use futures_util::future::join;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep, timeout};

/// The maximum number of polls. No future in these tests needs more.
const POLLS: usize = 200;

/// A store with two clients: `client`, whose futures are dropped, and `other`.
struct Bench {
    memory: MemoryStore,
    /// The leases that `client` asked for.
    granted: Granted,
    client: Client,
    other: Client,
}

impl Bench {
    fn new() -> Self {
        Self::with_watches(Duration::ZERO)
    }

    fn with_watches(late: Duration) -> Self {
        let memory = MemoryStore::new();
        let (store, granted) = yielding(&memory, late);
        Self { client: Client::with_store(store), other: Client::with_store(memory.clone()), memory, granted }
    }

    fn lock(&self) -> NamedLock {
        self.client.lock("/x")
    }

    fn theirs(&self) -> NamedLock {
        self.other.lock("/x")
    }

    async fn keys(&self) -> Vec<String> {
        let below = Span::Below(Key::parse("/x").unwrap());
        let kvs = self.memory.range(Range::of(below)).await.unwrap().kvs;
        kvs.into_iter().map(|kv| String::from_utf8(kv.key.into()).unwrap()).collect()
    }

    /// Checks that the dropped future has left no key and no lease, even after late writes were
    /// applied.
    async fn nothing_is_left(self, what: &str) {
        self.memory.faults().clear();
        sleep(Duration::from_secs(5)).await;
        assert_eq!(self.keys().await, Vec::<String>::new(), "{what}");
        let free = self.theirs().try_acquire().await.unwrap();
        free.unwrap_or_else(|| panic!("{what}: the lock is not free")).release().await.unwrap();
        // The leases that are still alive are spare leases, which end with the client.
        let Self { memory, granted, client, other } = self;
        drop(client);
        sleep(Duration::from_secs(1)).await;
        for lease in granted.ids() {
            assert_eq!(memory.time_to_live(lease).await.unwrap(), None, "{what}: {lease}");
        }
        drop(other);
    }
}

/// Polls a future at most `times` times, runs background tasks in between, and then drops the
/// future. Returns its output if it completed.
async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..times {
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
            return Some(done);
        }
        for _ in 0..3 {
            yield_now().await;
        }
        // Skips the short delays between attempts, but not the waits for other holders.
        advance(Duration::from_millis(20)).await;
    }
    None
}

/// The faults that hit the calls of the dropped future.
const FAULTS: [(&str, fn(&Faults)); 8] = [
    ("no fault", |_| {}),
    ("the reply to the create is lost", |faults| faults.lose_reply(Calls::Commits, 1)),
    ("two replies to commits are lost", |faults| faults.lose_reply(Calls::Commits, 2)),
    ("the create is lost", |faults| faults.lose_request(Calls::Commits, 1)),
    ("the create is applied late", |faults| faults.apply_late(1, Duration::from_secs(3))),
    ("two creates are applied late", |faults| faults.apply_late(2, Duration::from_millis(50))),
    ("the reply to the grant is lost", |faults| faults.lose_reply(Calls::Leases, 1)),
    ("the grant is refused", |faults| faults.fail(Calls::Leases, 1, ErrorKind::Unavailable)),
];

/// Promise L7: drops the future of `take` after each possible number of polls.
async fn dropped_anywhere(held: bool, take: impl AsyncFn(NamedLock) -> Result<Option<Lock>>) {
    for (fault, set) in FAULTS {
        for times in 0.. {
            let what = format!("{fault}, held: {held}, polled {times} times");
            let bench = Bench::new();
            let holder = match held {
                true => Some(bench.theirs().acquire().await.unwrap()),
                false => None,
            };
            set(&bench.memory.faults());
            let done = polled(times, take(bench.lock())).await;
            bench.memory.faults().clear();
            if let Some(holder) = holder {
                holder.verify().await.unwrap();
                assert!(!matches!(done, Some(Ok(Some(_)))), "{what}: a second holder");
                // The holder must not wait for the dropped future.
                holder.release().await.unwrap();
            }
            let is_done = done.is_some();
            if let Some(Ok(Some(lock))) = done {
                lock.verify().await.unwrap();
                drop(lock);
            }
            bench.nothing_is_left(&what).await;
            if is_done || times > 40 && held {
                break;
            }
            assert!(times < POLLS, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_acquire_leaves_no_key_or_lease() {
    for held in [false, true] {
        dropped_anywhere(held, async |lock| lock.acquire().await.map(Some)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_try_acquire_leaves_no_key_or_lease() {
    for held in [false, true] {
        dropped_anywhere(held, async |lock| lock.try_acquire().await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_acquire_within_leaves_no_key_or_lease() {
    for held in [false, true] {
        // With the short time, the call times out before it is dropped. With the long time, the
        // call is still waiting.
        for time in [Duration::from_millis(200), Duration::from_secs(600)] {
            dropped_anywhere(held, async |lock| lock.acquire_within(time).await.map(Some)).await;
        }
    }
}

/// The holder releases the lock, and the waiter is dropped while it takes over.
#[tokio::test(start_paused = true)]
async fn waiter_dropped_during_takeover_leaves_nothing() {
    for (fault, set) in FAULTS.iter().filter(|(name, _)| !name.contains("grant")) {
        for times in 0.. {
            let what = format!("{fault}, polled {times} times after the release");
            let bench = Bench::new();
            let holder = bench.theirs().acquire().await.unwrap();
            let lock = bench.lock();
            let mut waiting = Box::pin(async move { lock.acquire().await });
            assert!(polled(30, &mut waiting).await.is_none());
            set(&bench.memory.faults());
            drop(holder);
            let done = polled(times, waiting).await;
            let is_done = done.is_some();
            drop(done);
            bench.nothing_is_left(&what).await;
            if is_done {
                break;
            }
            assert!(times < POLLS, "{what}");
        }
    }
}

/// Whatever happens to the future of a release, the lock is held until the release is applied, and
/// is free afterwards.
#[tokio::test(start_paused = true)]
async fn dropped_release_still_releases() {
    for (fault, set) in FAULTS {
        for times in 0.. {
            let what = format!("{fault}, release polled {times} times");
            let bench = Bench::new();
            let lock = bench.lock().acquire().await.unwrap();
            set(&bench.memory.faults());
            let done = polled(times, lock.release()).await;
            if let Some(done) = &done {
                assert!(done.is_ok(), "{what}: {done:?}");
            }
            let is_done = done.is_some();
            bench.nothing_is_left(&what).await;
            if is_done {
                break;
            }
            assert!(times < POLLS, "{what}");
        }
    }
}

/// If a write overtakes the creation of a watch, the server serves that watch from a loop that runs
/// every 100 ms. A waiter with such a watch does not wait for the loop.
#[tokio::test(start_paused = true)]
async fn slow_watch_does_not_delay_waiter() {
    const LATE: Duration = Duration::from_millis(90);
    for held in [1, 5, 10] {
        let bench = Bench::with_watches(LATE);
        let holder = bench.theirs().acquire().await.unwrap();
        let (lock, begun) = (bench.lock(), Instant::now());
        let waiting = tokio::spawn(async move { lock.acquire().await });
        sleep(Duration::from_millis(held)).await;
        holder.release().await.unwrap();
        let lock = waiting.await.unwrap().unwrap();
        assert!(begun.elapsed() < LATE / 3, "{:?}", begun.elapsed());
        lock.release().await.unwrap();
        bench.nothing_is_left("slow watches").await;
    }
}

/// Acquires a lock and leaves the client a spare lease, so that one request may release the lock
/// and acquire it again.
async fn joined_by_another(bench: &Bench) -> Lock {
    let elsewhere = bench.client.lock("/y").acquire().await.unwrap();
    let lock = bench.lock().acquire().await.unwrap();
    elsewhere.release().await.unwrap();
    lock
}

#[tokio::test(start_paused = true)]
async fn acquire_survives_dropped_release_in_same_request() {
    for (fault, set) in FAULTS {
        for times in 0.. {
            let what = format!("{fault}, release polled {times} times");
            let bench = Bench::new();
            let lock = joined_by_another(&bench).await;
            let (fence, next) = (lock.fence(), bench.lock());
            set(&bench.memory.faults());
            let (mut joining, mut joined) = (Box::pin(async move { next.acquire().await }), None);
            let joins = async { joined = Some(joining.as_mut().await) };
            let done = polled(times, join(joins, lock.release())).await;
            bench.memory.faults().clear();
            if let Some(((), released)) = &done {
                assert!(released.is_ok(), "{what}: {released:?}");
            }
            let is_done = done.is_some();
            let joined = match joined {
                Some(joined) => joined,
                None => timeout(Duration::from_secs(60), joining).await.expect("the lock becomes free in time"),
            };
            let joined = joined.unwrap();
            assert!(joined.fence() > fence, "{what}");
            joined.verify().await.unwrap();
            drop(joined);
            bench.nothing_is_left(&what).await;
            if is_done {
                break;
            }
            assert!(times < POLLS, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn acquire_dropped_in_shared_release_leaves_nothing() {
    for (fault, set) in FAULTS {
        for times in 0.. {
            let what = format!("{fault}, acquire polled {times} times");
            let bench = Bench::new();
            let lock = joined_by_another(&bench).await;
            set(&bench.memory.faults());
            let (mut releasing, mut released) = (Box::pin(lock.release()), None);
            let releases = async { released = Some(releasing.as_mut().await) };
            let next = bench.lock();
            let done = polled(times, join(async move { next.acquire().await }, releases)).await;
            bench.memory.faults().clear();
            let is_done = done.is_some();
            drop(done);
            let released = match released {
                Some(released) => released,
                None => releasing.await,
            };
            assert!(released.is_ok(), "{what}: {released:?}");
            bench.nothing_is_left(&what).await;
            if is_done {
                break;
            }
            assert!(times < POLLS, "{what}");
        }
    }
}

/// After the future of an adoption was dropped, either the token is still valid or the lock is
/// free. No hidden holder remains.
#[tokio::test(start_paused = true)]
async fn dropped_adopt_leaves_token_or_free_lock() {
    for (fault, set) in FAULTS {
        for times in 0.. {
            let what = format!("{fault}, adoption polled {times} times");
            let bench = Bench::new();
            let token = bench.theirs().acquire().await.unwrap().into_token();
            sleep(Duration::from_secs(1)).await;
            set(&bench.memory.faults());
            let done = polled(times, bench.lock().adopt(&token)).await;
            bench.memory.faults().clear();
            let is_done = done.is_some();
            if let Some(Ok(lock)) = done {
                lock.verify().await.unwrap();
                lock.release().await.unwrap();
            }
            sleep(Duration::from_secs(5)).await;
            if let Err(error) = bench.theirs().release_token(&token).await {
                assert_eq!(error.kind(), ErrorKind::GuardLost, "{what}");
            }
            bench.nothing_is_left(&what).await;
            if is_done {
                break;
            }
            assert!(times < POLLS, "{what}");
        }
    }
}
