//! The process of a lock's holder, or the processes of many waiters, are killed. Another waiter
//! must then acquire the lock in time.

use std::time::{Duration, Instant};

use etcd_typed::testing::{Cluster, CountingStore, Etcd};
use etcd_typed::{Client, Lock, NamedLock};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::contender::directory;
use super::ground::{Campaign, Ground};
use super::record::Behaviour;
use super::{ALONE, campaign, locks, show};

const NAME: &str = "one";

fn keeping(tasks: usize, processes: usize, ttl: u64) -> Campaign {
    Campaign { processes, tasks, locks: locks(&[(NAME, ttl)]), behaviour: Behaviour::KeepsLock, ..campaign("etcd", 0) }
}

fn lock(client: &Client, ttl: Duration) -> NamedLock {
    client.lock(&directory(NAME)).ttl(ttl)
}

/// Waits until the queue has this many keys.
async fn stands(lock: &NamedLock, count: usize) {
    let begun = Instant::now();
    loop {
        // A server with a thousand waiters may answer late.
        let stand = lock.queue().await.map(|queue| queue.len());
        if stand.as_ref().is_ok_and(|stand| *stand == count) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{stand:?} in the queue, not {count}");
        // Listing a long queue often would load the server more than the waiters do.
        sleep(Duration::from_millis(if count < 10 { 20 } else { 250 })).await;
    }
}

/// Kills the process that holds the lock. Returns the time until the next acquire succeeds, and
/// releases the lock.
async fn freed(cluster: &mut Cluster, with_leader: bool) -> Duration {
    const TTL: u64 = 3;
    let ttl = Duration::from_secs(TTL);
    let ground = Ground::of(cluster, keeping(1, 1, TTL)).await;
    let client = Client::connect(&cluster.url_v3()).await.unwrap();
    let mut holder = ground.start(0);
    let lock = lock(&client, ttl);
    stands(&lock, 1).await;
    let waiting = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    stands(&lock, 2).await;
    let leader = ground.leader().await.filter(|_| with_leader);
    let died = Instant::now();
    ground.kill(&mut holder).await;
    if let Some(leader) = leader {
        cluster.member(leader).kill().await;
    }
    // The lease expires at most half a second after its time to live, which starts again under a
    // new leader. The limit is twice that, for a busy machine.
    let time = if with_leader { 2 * ttl + Duration::from_secs(4) } else { ttl + Duration::from_millis(500) };
    let taken = timeout(2 * time, waiting).await.expect("the lock of the dead process becomes free in time").unwrap().unwrap();
    let freed = died.elapsed();
    taken.release().await.unwrap();
    if let Some(leader) = leader {
        cluster.member(leader).restart().await;
    }
    freed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_of_dead_process_is_free_after_ttl() {
    let _alone = ALONE.lock().await;
    let freed = freed(&mut Etcd::cluster(1).await, false).await;
    show(format_args!("time to live 3 s: lock free {freed:.2?} after the death of its process"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_is_free_after_holder_and_leader_are_killed() {
    let _alone = ALONE.lock().await;
    let freed = freed(&mut Etcd::cluster(3).await, true).await;
    show(format_args!("time to live 3 s: lock free {freed:.2?} after the death of its process and of the leader"));
}

/// A waiter that is not killed, and the store that counts its calls.
struct SurvivingWaiter {
    asks: CountingStore,
    waiting: JoinHandle<etcd_typed::Result<Lock>>,
}

impl SurvivingWaiter {
    async fn queue_up(etcd: &Etcd, ttl: Duration) -> Self {
        let client = Client::connect(&etcd.url_v3()).await.unwrap();
        let asks = CountingStore::new(client.store().clone());
        let lock = lock(&Client::with_store(asks.clone()), ttl);
        Self { asks, waiting: tokio::spawn(async move { lock.acquire().await }) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_survives_death_of_thousand_waiters() {
    const HALF: usize = 500;
    const TTL: u64 = 10;
    let _alone = ALONE.lock().await;
    let ttl = Duration::from_secs(TTL);
    let cluster = Etcd::cluster(1).await;
    let etcd = &cluster.members()[0];
    let ground = Ground::of(&cluster, keeping(HALF, 2, TTL)).await;
    let client = Client::connect(&etcd.url_v3()).await.unwrap();
    let lock = lock(&client, ttl);

    let held = lock.acquire().await.unwrap();
    let mut first = ground.start(0);
    stands(&lock, 1 + HALF).await;
    let earlier = SurvivingWaiter::queue_up(etcd, ttl).await;
    stands(&lock, 2 + HALF).await;
    let mut second = ground.start(1);
    stands(&lock, 2 + 2 * HALF).await;
    let later = SurvivingWaiter::queue_up(etcd, ttl).await;
    stands(&lock, 3 + 2 * HALF).await;

    let before = [earlier.asks.take(), later.asks.take()];
    ground.kill(&mut first).await;
    ground.kill(&mut second).await;
    let died = Instant::now();
    stands(&lock, 3).await;
    let gone = died.elapsed();
    let asked = [&earlier, &later].map(|survivor| survivor.asks.counts());
    assert!(held.is_held(), "the holder still has the lock");
    assert!(!earlier.waiting.is_finished() && !later.waiting.is_finished());

    held.release().await.unwrap();
    let taken = earlier.waiting.await.unwrap().unwrap();
    assert!(!later.waiting.is_finished(), "the waiters acquire in arrival order");
    taken.verify().await.unwrap();
    taken.release().await.unwrap();
    later.waiting.await.unwrap().unwrap().release().await.unwrap();
    client.status().await.unwrap();
    show(format_args!(
        "1000 waiters died and left the queue within {gone:.2?}; store calls of the two others meanwhile {asked:?}, before {before:?}"
    ));
    for asked in asked {
        // A waiter checks the queue when its predecessor's key disappears. A thousand keys
        // disappear in any order, so a survivor rarely has to check again soon.
        assert!(asked.commit + asked.range + asked.watch <= 200, "{asked:?}");
    }
}
