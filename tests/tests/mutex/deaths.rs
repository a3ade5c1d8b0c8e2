//! What becomes of a lock whose holder, or whose waiters, are gone from one moment to the next.

use std::time::{Duration, Instant};

use etcd_typed::testing::{Cluster, CountingStore, Etcd};
use etcd_typed::{Client, Lock, NamedLock};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::contender::directory;
use super::ground::{Campaign, Ground};
use super::record::Creed;
use super::{ALONE, campaign, locks, show};

const NAME: &str = "one";

fn keeping(tasks: usize, processes: usize, ttl: u64) -> Campaign {
    Campaign { processes, tasks, locks: locks(&[(NAME, ttl)]), creed: Creed::Keeping, ..campaign("etcd", 0) }
}

fn lock(client: &Client, ttl: Duration) -> NamedLock {
    client.lock(&directory(NAME)).ttl(ttl)
}

/// Waits until so many stand in the queue.
async fn stands(lock: &NamedLock, count: usize) {
    let begun = Instant::now();
    loop {
        // A server with a thousand guests may be late with an answer.
        let stand = lock.queue().await.map(|queue| queue.len());
        if stand.as_ref().is_ok_and(|stand| *stand == count) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{stand:?} in the queue, not {count}");
        // To count many costs the server more than they do.
        sleep(Duration::from_millis(if count < 10 { 20 } else { 250 })).await;
    }
}

/// From the death of the process that has the lock until it is ours; then the lock is given up.
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
    // The lease ends at most half a second after its time, which starts again under another leader. Twice that, for a machine that has other things to do.
    let time = if with_leader { 2 * ttl + Duration::from_secs(4) } else { ttl + Duration::from_millis(500) };
    let taken = timeout(2 * time, waiting).await.expect("the lock of a dead process is free in time").unwrap().unwrap();
    let freed = died.elapsed();
    taken.release().await.unwrap();
    if let Some(leader) = leader {
        cluster.member(leader).restart().await;
    }
    freed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_the_lock_of_a_dead_process_is_free_after_its_time_to_live() {
    let _alone = ALONE.lock().await;
    let freed = freed(&mut Etcd::cluster(1).await, false).await;
    show(format_args!("time to live 3 s: free {freed:.2?} after the death of the process that had it"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_the_lock_of_a_process_killed_together_with_the_leader_is_free_soon_after() {
    let _alone = ALONE.lock().await;
    let freed = freed(&mut Etcd::cluster(3).await, true).await;
    show(format_args!("time to live 3 s: free {freed:.2?} after the death of the process that had it and of the member that led"));
}

/// Somebody who survives, and what it asks of the store.
struct Survivor {
    asks: CountingStore,
    waiting: JoinHandle<etcd_typed::Result<Lock>>,
}

impl Survivor {
    async fn queue_up(etcd: &Etcd, ttl: Duration) -> Self {
        let client = Client::connect(&etcd.url_v3()).await.unwrap();
        let asks = CountingStore::new(client.store().clone());
        let lock = lock(&Client::with_store(asks.clone()), ttl);
        Self { asks, waiting: tokio::spawn(async move { lock.acquire().await }) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f28_a_thousand_waiters_die_at_once() {
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
    let earlier = Survivor::queue_up(etcd, ttl).await;
    stands(&lock, 2 + HALF).await;
    let mut second = ground.start(1);
    stands(&lock, 2 + 2 * HALF).await;
    let later = Survivor::queue_up(etcd, ttl).await;
    stands(&lock, 3 + 2 * HALF).await;

    let before = [earlier.asks.take(), later.asks.take()];
    ground.kill(&mut first).await;
    ground.kill(&mut second).await;
    let died = Instant::now();
    stands(&lock, 3).await;
    let gone = died.elapsed();
    let asked = [&earlier, &later].map(|survivor| survivor.asks.counts());
    assert!(held.is_held(), "who had the lock has it");
    assert!(!earlier.waiting.is_finished() && !later.waiting.is_finished());

    held.release().await.unwrap();
    let taken = earlier.waiting.await.unwrap().unwrap();
    assert!(!later.waiting.is_finished(), "first come, first served");
    taken.verify().await.unwrap();
    taken.release().await.unwrap();
    later.waiting.await.unwrap().unwrap().release().await.unwrap();
    client.status().await.unwrap();
    show(format_args!(
        "1000 waiters died, gone from the queue {gone:.2?} later; meanwhile the two others asked {asked:?} (to get there: {before:?})"
    ));
    for asked in asked {
        // Each looks when the one before it vanishes; in whatever order a thousand do, that is seldom the same one's turn.
        assert!(asked.commit + asked.range + asked.watch <= 200, "{asked:?}");
    }
}
