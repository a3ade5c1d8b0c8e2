//! What a lock costs: calls of the store, counted, and on v2 the requests as the server counts them.

use std::sync::Arc;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::{CountingStore, Counts, Etcd};
use etcd_typed::{Client, Lock, NamedLock, StatsKind};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Long enough for whatever comes at all; only a test that fails waits for it.
const LIMIT: Duration = Duration::from_secs(60);
/// The default time to live.
const TTL: Duration = Duration::from_secs(15);

/// Somebody whose calls are counted.
struct Somebody {
    client: Client,
    counting: CountingStore,
}

impl Somebody {
    fn beside(client: &Client) -> Self {
        let counting = CountingStore::new(Arc::clone(client.store()));
        Self { client: Client::with_store(counting.clone()), counting }
    }

    /// With a lease to spare, after everything that was in the background.
    async fn warm(client: &Client) -> Self {
        let somebody = Self::beside(client);
        somebody.client.lock("/warm").acquire().await.unwrap().release().await.unwrap();
        somebody.counting.take();
        somebody
    }

    fn lock(&self) -> NamedLock {
        self.client.lock("/cost/x")
    }

    /// Begins to wait; returns when he waits for his predecessor.
    async fn waits(&self) -> JoinHandle<Lock> {
        let lock = self.lock();
        let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
        timeout(LIMIT, async {
            while self.counting.counts().watch == 0 {
                sleep(Duration::from_millis(10)).await;
            }
            // A look that the watch asks for at its start.
            sleep(Duration::from_millis(300)).await;
        })
        .await
        .expect("he waits");
        waiter
    }
}

fn memory() -> Client {
    Client::with_store(MemoryStore::new())
}

/// One request to have it and one to give it back.
async fn uncontended(client: Client) {
    let somebody = Somebody::warm(&client).await;
    for _ in 0..3 {
        let lock = somebody.lock().acquire().await.unwrap();
        assert_eq!(somebody.counting.take(), Counts { commit: 1, ..Counts::default() });
        lock.release().await.unwrap();
        assert_eq!(somebody.counting.take(), Counts { commit: 1, ..Counts::default() });
    }
    // The first one also costs its lease.
    let cold = Somebody::beside(&client);
    let lock = cold.lock().acquire().await.unwrap();
    assert_eq!(cold.counting.take(), Counts { commit: 1, grant: 1, ..Counts::default() });
    // A try that is in vain writes nothing.
    assert!(somebody.lock().try_acquire().await.unwrap().is_none());
    assert_eq!(somebody.counting.take(), Counts { commit: 1, ..Counts::default() });
    lock.verify().await.unwrap();
    assert_eq!(cold.counting.take(), Counts { commit: 1, ..Counts::default() });
    lock.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn memory_uncontended() {
    uncontended(memory()).await;
}

#[tokio::test]
async fn v3_uncontended() {
    let etcd = Etcd::start().await;
    uncontended(Client::connect(&etcd.url_v3()).await.unwrap()).await;
}

/// One look, after which it is his.
async fn handed_over(client: Client) {
    let (first, second) = (Somebody::warm(&client).await, Somebody::warm(&client).await);
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
async fn memory_handed_over() {
    handed_over(memory()).await;
}

#[tokio::test]
async fn v3_handed_over() {
    let etcd = Etcd::start().await;
    handed_over(Client::connect(&etcd.url_v3()).await.unwrap()).await;
}

/// v2 has no transaction that makes a key and reads the directory: two requests to have it. To give it back is one, conditioned on the index that
/// this process knows.
#[tokio::test]
async fn v2_uncontended_and_handed_over() {
    let etcd = Etcd::start().await;
    let client = Client::connect(&etcd.url_v2()).await.unwrap();
    let (first, second) = (Somebody::warm(&client).await, Somebody::warm(&client).await);
    let requests = async || {
        let stats = client.stats(StatsKind::Store).await.unwrap();
        let names = ["getsSuccess", "createSuccess", "compareAndDeleteSuccess", "deleteSuccess", "updateSuccess", "compareAndSwapSuccess"];
        // The reads that fail are the server's own: with each request it looks whether authentication is on.
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
    // Also after the keep-alives have moved its index.
    client.store().keep_alive(lock.lease_id()).await.unwrap();
    let held = requests().await;
    lock.release().await.unwrap();
    assert_eq!(rise(&held, &requests().await), [0, 0, 1, 0, 0, 0]);
}

/// Waiting costs a watch, and for each third of the time to live a keep-alive and a look.
#[tokio::test(start_paused = true)]
async fn waiting_costs_a_look_each_third_of_the_time() {
    let client = memory();
    let (first, second) = (Somebody::warm(&client).await, Somebody::warm(&client).await);
    let lock = first.lock().acquire().await.unwrap();
    let waiter = second.waits().await;
    second.counting.take();
    sleep(20 * TTL).await;
    assert_eq!(second.counting.take(), Counts { commit: 60, keep_alive: 60, ..Counts::default() });
    // And holding it a keep-alive, after the list and the watch that it began with.
    assert_eq!(first.counting.take(), Counts { commit: 1, range: 1, watch: 1, keep_alive: 60, ..Counts::default() });
    drop(lock);
    assert!(waiter.await.unwrap().is_held());
}

/// L5.
#[tokio::test(start_paused = true)]
async fn one_release_wakes_one_of_many() {
    let client = memory();
    let holder = Somebody::warm(&client).await;
    let mut lock = holder.lock().acquire().await.unwrap();
    let mut waiters = Vec::new();
    for _ in 0..16 {
        let somebody = Somebody::warm(&client).await;
        let waiter = somebody.waits().await;
        waiters.push((somebody, waiter));
    }
    while !waiters.is_empty() {
        // What comes with time is behind us.
        for (somebody, _) in &waiters {
            somebody.counting.take();
        }
        lock.release().await.unwrap();
        let (next, waiter) = waiters.remove(0);
        lock = waiter.await.unwrap();
        assert_eq!(next.counting.take(), Counts { commit: 1, ..Counts::default() });
        for (somebody, waiter) in &waiters {
            assert!(!waiter.is_finished());
            assert_eq!(somebody.counting.take(), Counts::default());
        }
    }
    lock.release().await.unwrap();
}

/// Spare leases are kept alive for nobody for a minute, also where their own keep-alives are rare; then they are ended.
#[tokio::test(start_paused = true)]
async fn spare_leases_retire() {
    for ttl in [Duration::from_secs(5), TTL, Duration::from_secs(24 * 3600)] {
        let client = memory();
        let somebody = Somebody::beside(&client);
        let locks: Vec<_> = (0..8).map(|number| somebody.client.lock(&format!("/{number}")).ttl(ttl)).collect();
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
        let calls = somebody.counting.take();
        sleep(Duration::from_secs(3600)).await;
        assert_eq!((calls.revoke, somebody.counting.take()), (8, Counts::default()), "{ttl:?}");
    }
}
