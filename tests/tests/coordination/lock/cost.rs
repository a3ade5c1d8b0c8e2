//! How many store calls a lock takes, and on v2 how many requests the server counts.

use std::sync::Arc;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::{CountingStore, Counts, Etcd};
use etcd_typed::{Client, Lock, NamedLock, StatsKind};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// The default time to live.
const TTL: Duration = Duration::from_secs(15);

/// A client whose store calls are counted.
struct CountedClient {
    client: Client,
    counting: CountingStore,
}

impl CountedClient {
    fn beside(client: &Client) -> Self {
        let counting = CountingStore::new(Arc::clone(client.store()));
        Self { client: Client::with_store(counting.clone()), counting }
    }

    /// Creates a client that has a spare lease and no background work.
    async fn warm(client: &Client) -> Self {
        let counted = Self::beside(client);
        counted.client.lock("/warm").acquire().await.unwrap().release().await.unwrap();
        counted.counting.take();
        counted
    }

    fn lock(&self) -> NamedLock {
        self.client.lock("/cost/x")
    }

    /// Starts to wait for the lock, and returns when the waiter watches its predecessor.
    async fn waits(&self) -> JoinHandle<Lock> {
        let lock = self.lock();
        let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
        timeout(LIMIT, async {
            while self.counting.counts().watch == 0 {
                sleep(Duration::from_millis(10)).await;
            }
            // The start of the watch causes one more check of the queue.
            sleep(Duration::from_millis(300)).await;
        })
        .await
        .expect("the waiter watches in time");
        waiter
    }
}

fn memory() -> Client {
    Client::with_store(MemoryStore::new())
}

/// Checks that acquire and release take one request each.
async fn uncontended(client: Client) {
    let counted = CountedClient::warm(&client).await;
    for _ in 0..3 {
        let lock = counted.lock().acquire().await.unwrap();
        assert_eq!(counted.counting.take(), Counts { commit: 1, ..Counts::default() });
        lock.release().await.unwrap();
        assert_eq!(counted.counting.take(), Counts { commit: 1, ..Counts::default() });
    }
    // The first acquire also grants a lease.
    let cold = CountedClient::beside(&client);
    let lock = cold.lock().acquire().await.unwrap();
    assert_eq!(cold.counting.take(), Counts { commit: 1, grant: 1, ..Counts::default() });
    // A failed `try_acquire` writes nothing.
    assert!(counted.lock().try_acquire().await.unwrap().is_none());
    assert_eq!(counted.counting.take(), Counts { commit: 1, ..Counts::default() });
    lock.verify().await.unwrap();
    assert_eq!(cold.counting.take(), Counts { commit: 1, ..Counts::default() });
    lock.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn memory_free_lock_takes_two_requests() {
    uncontended(memory()).await;
}

#[tokio::test]
async fn v3_free_lock_takes_two_requests() {
    let etcd = Etcd::start().await;
    uncontended(Client::connect(&etcd.url_v3()).await.unwrap()).await;
}

/// Checks that a waiter takes over with one request.
async fn handed_over(client: Client) {
    let (first, second) = (CountedClient::warm(&client).await, CountedClient::warm(&client).await);
    let lock = first.lock().acquire().await.unwrap();
    let waiter = second.waits().await;
    let Counts { range, commit, watch, grant, revoke, .. } = second.counting.take();
    assert!((1..=2).contains(&commit), "{commit}");
    assert_eq!((range, watch, grant, revoke), (0, 1, 0, 0));
    lock.release().await.unwrap();
    let lock = timeout(LIMIT, waiter).await.expect("in time").unwrap();
    assert_eq!(second.counting.take(), Counts { commit: 1, ..Counts::default() });
    lock.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn memory_waiter_takes_over_in_one_request() {
    handed_over(memory()).await;
}

#[tokio::test]
async fn v3_waiter_takes_over_in_one_request() {
    let etcd = Etcd::start().await;
    handed_over(Client::connect(&etcd.url_v3()).await.unwrap()).await;
}

/// v2 has no transaction that creates a key and reads the directory, so acquire takes two requests.
/// Release takes one request, which requires that the key still has the index that this client
/// knows.
#[tokio::test]
async fn v2_lock_takes_three_requests() {
    let etcd = Etcd::start().await;
    let client = Client::connect(&etcd.url_v2()).await.unwrap();
    let (first, second) = (CountedClient::warm(&client).await, CountedClient::warm(&client).await);
    let requests = async || {
        let stats = client.stats(StatsKind::Store).await.unwrap();
        let names = ["getsSuccess", "createSuccess", "compareAndDeleteSuccess", "deleteSuccess", "updateSuccess", "compareAndSwapSuccess"];
        // Failed reads are not counted: the server itself causes them when it checks, with each
        // request, whether authentication is on.
        let failures = ["createFail", "compareAndDeleteFail", "deleteFail", "updateFail", "compareAndSwapFail"];
        (names.map(|name| stats.counter(name).unwrap()), failures.map(|name| stats.counter(name).unwrap()))
    };
    let before = requests().await;
    let lock = first.lock().acquire().await.unwrap();
    let held = requests().await;
    assert_eq!(first.counting.take(), Counts { commit: 1, range: 1, ..Counts::default() });
    lock.release().await.unwrap();
    let free = requests().await;
    assert_eq!(first.counting.take(), Counts { commit: 1, ..Counts::default() });
    let rise = |from: &([u64; 6], [u64; 5]), to: &([u64; 6], [u64; 5])| -> [u64; 6] { std::array::from_fn(|at| to.0[at] - from.0[at]) };
    assert_eq!(rise(&before, &held), [1, 1, 0, 0, 0, 0]);
    assert_eq!(rise(&held, &free), [0, 0, 1, 0, 0, 0]);
    assert_eq!(before.1, free.1);

    let lock = first.lock().acquire().await.unwrap();
    let waiter = second.waits().await;
    second.counting.take();
    lock.release().await.unwrap();
    let lock = timeout(LIMIT, waiter).await.expect("in time").unwrap();
    assert_eq!(second.counting.take(), Counts { range: 1, ..Counts::default() });
    // Release also takes one request after a keep-alive has changed the index of the key.
    client.store().keep_alive(lock.lease_id()).await.unwrap();
    let held = requests().await;
    lock.release().await.unwrap();
    assert_eq!(rise(&held, &requests().await), [0, 0, 1, 0, 0, 0]);
}

/// A waiter costs one watch, and a keep-alive and a check of the queue per third of the time to
/// live.
#[tokio::test(start_paused = true)]
async fn waiter_checks_queue_three_times_per_ttl() {
    let client = memory();
    let (first, second) = (CountedClient::warm(&client).await, CountedClient::warm(&client).await);
    let lock = first.lock().acquire().await.unwrap();
    let waiter = second.waits().await;
    second.counting.take();
    sleep(20 * TTL).await;
    assert_eq!(second.counting.take(), Counts { commit: 60, keep_alive: 60, ..Counts::default() });
    // The holder costs one read and one watch after its acquire, and a keep-alive per third of the
    // time to live.
    assert_eq!(first.counting.take(), Counts { commit: 1, range: 1, watch: 1, keep_alive: 60, ..Counts::default() });
    drop(lock);
    assert!(waiter.await.unwrap().is_held());
}

/// Promise L5: a release wakes only the next waiter.
#[tokio::test(start_paused = true)]
async fn release_wakes_only_next_waiter() {
    let client = memory();
    let holder = CountedClient::warm(&client).await;
    let mut lock = holder.lock().acquire().await.unwrap();
    let mut waiters = Vec::new();
    for _ in 0..16 {
        let counted = CountedClient::warm(&client).await;
        let waiter = counted.waits().await;
        waiters.push((counted, waiter));
    }
    while !waiters.is_empty() {
        // Discard the calls that timers have made.
        for (counted, _) in &waiters {
            counted.counting.take();
        }
        lock.release().await.unwrap();
        let (next, waiter) = waiters.remove(0);
        lock = waiter.await.unwrap();
        assert_eq!(next.counting.take(), Counts { commit: 1, ..Counts::default() });
        for (counted, waiter) in &waiters {
            assert!(!waiter.is_finished());
            assert_eq!(counted.counting.take(), Counts::default());
        }
    }
    lock.release().await.unwrap();
}

/// An unused lease is kept alive for about a minute, even if its keep-alives are rarer than that,
/// and is then revoked.
#[tokio::test(start_paused = true)]
async fn unused_leases_are_revoked() {
    for ttl in [Duration::from_secs(5), TTL, Duration::from_secs(24 * 3600)] {
        let client = memory();
        let counted = CountedClient::beside(&client);
        let locks: Vec<_> = (0..8).map(|number| counted.client.lock(&format!("/{number}")).ttl(ttl)).collect();
        let mut held = Vec::new();
        for lock in &locks {
            held.push(lock.acquire().await.unwrap());
        }
        let ids: Vec<_> = held.iter().map(|lock| lock.lease_id()).collect();
        for lock in held {
            lock.release().await.unwrap();
        }
        let alive = async || {
            let mut alive = 0;
            for id in &ids {
                alive += usize::from(client.store().time_to_live(*id).await.unwrap().is_some());
            }
            alive
        };
        sleep(Duration::from_secs(55)).await;
        assert_eq!(alive().await, 8, "{ttl:?}");
        sleep(Duration::from_secs(25)).await;
        assert_eq!(alive().await, 0, "{ttl:?}");
        let calls = counted.counting.take();
        sleep(Duration::from_secs(3600)).await;
        assert_eq!((calls.revoke, counted.counting.take()), (8, Counts::default()), "{ttl:?}");
    }
}
