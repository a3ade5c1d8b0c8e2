//! Guards on one lease: their cost in requests, and injected faults. The tests use the memory store
//! with paused time.

use std::sync::Arc;

use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::store::{Op, Txn};
use etcd_typed::testing::{CountingStore, Counts};
use etcd_typed::{Entry, Key};
use futures_util::future::try_join_all;

use super::*;

struct Faulty {
    store: MemoryStore,
    counting: CountingStore,
    bench: Bench,
}

impl Faulty {
    fn new() -> Self {
        let store = MemoryStore::new();
        let counting = CountingStore::new(Arc::new(store.clone()));
        Self { store, bench: Bench { client: Client::with_store(counting.clone()) }, counting }
    }

    async fn lease(&self) -> Lease {
        self.bench.client.lease(TTL).await.unwrap()
    }

    fn entry(&self, n: u32) -> Entry<u32> {
        self.bench.client.entry(&format!("/values/{n}")).unwrap()
    }

    /// Returns the number of keys in the store.
    async fn keys(&self) -> usize {
        self.bench.client.directory("/").unwrap().list().await.unwrap().len()
    }
}

#[tokio::test(start_paused = true)]
async fn values_and_guards_on_one_lease_cost_one_grant() {
    let faulty = Faulty::new();
    let lease = faulty.lease().await;
    let values = try_join_all((0..20).map(|n| faulty.entry(n).publish(&n).lease(&lease).into_future())).await.unwrap();
    assert_eq!(faulty.counting.take(), Counts { grant: 1, commit: 20, ..Counts::default() });
    let names: Vec<_> = (0..5).map(|n| faulty.bench.client.lock(&format!("/locks/{n}")).lease(&lease)).collect();
    let locks = try_join_all(names.iter().map(NamedLock::acquire)).await.unwrap();
    let leader = faulty.bench.client.election("/e").lease(&lease).campaign(&1_u32).await.unwrap();
    assert_eq!(faulty.counting.take(), Counts { commit: 6, ..Counts::default() });
    // Waits until each guard watches its key.
    sleep(Duration::from_secs(1)).await;
    faulty.counting.take();
    sleep(3 * TTL).await;
    let idle = faulty.counting.take();
    assert!((8..=10).contains(&idle.keep_alive), "{idle:?}");
    assert_eq!(Counts { keep_alive: 0, ..idle }, Counts::default());
    for lock in locks {
        lock.release().await.unwrap();
    }
    leader.resign().await.unwrap();
    for value in values {
        value.withdraw().await.unwrap();
    }
    assert_eq!(faulty.counting.take(), Counts { commit: 26, ..Counts::default() });
    lease.revoke().await.unwrap();
    sleep(3 * TTL).await;
    assert_eq!((faulty.counting.take(), faulty.keys().await), (Counts { revoke: 1, ..Counts::default() }, 0));
}

#[tokio::test(start_paused = true)]
async fn each_guard_reports_end_of_shared_lease() {
    let faulty = Faulty::new();
    let lease = faulty.lease().await;
    let value = faulty.entry(0).publish(&0).lease(&lease).await.unwrap();
    let lock = faulty.bench.client.lock("/l").lease(&lease).acquire().await.unwrap();
    let election = faulty.bench.client.election::<u32>("/e").lease(&lease);
    let leads = tokio::spawn(async move { election.lead(&1, |_| std::future::pending::<()>()).await });
    sleep(Duration::from_secs(1)).await;
    assert!(faulty.store.faults().expire(lease.id()));
    assert_eq!(lease.lost().await.reason(), LostReason::Revoked);
    assert!(matches!(lock.lost().await.reason(), LostReason::Revoked | LostReason::KeyDeleted));
    assert_eq!(timeout(LIMIT, leads).await.unwrap().unwrap().unwrap_err().kind(), ErrorKind::LeaseLost);
    until(async || !value.is_published()).await;
    let missing = value.status().to_string();
    assert!(missing.contains("the server no longer knows its lease") || missing.contains("its key was deleted"), "{missing}");
    let error = value.set(&1).await.unwrap_err();
    assert!(error.kind() == ErrorKind::LeaseLost && error.key().is_some_and(|key| key.as_str() == "/values/0"), "{error}");
    // After the end of the lease no request is sent, and no key is created again.
    sleep(Duration::from_secs(1)).await;
    faulty.counting.take();
    sleep(3 * TTL).await;
    assert_eq!((faulty.counting.take(), faulty.keys().await), (Counts::default(), 0));
    value.withdraw().await.unwrap();
}

/// The server does not know a lease of another cluster, or a lease that another client has just
/// revoked.
#[tokio::test(start_paused = true)]
async fn unknown_lease_is_refused_at_once() {
    let (here, elsewhere) = (Faulty::new(), Faulty::new());
    let lease = elsewhere.lease().await;
    assert_eq!(here.entry(0).publish(&0).lease(&lease).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    let lock = here.bench.client.lock("/l").lease(&lease);
    assert_eq!(lock.acquire().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(lock.try_acquire().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert!(lease.is_held() && here.keys().await == 0);
}

/// The server applies a request with an unknown outcome after its contender has gone. The shared
/// lease does not end, so the client must delete the late key.
#[tokio::test(start_paused = true)]
async fn late_key_is_deleted_while_lease_lives() {
    for late in [0, 1, 100, 3000, 60_000] {
        for cancelled in [false, true] {
            let faulty = Faulty::new();
            let lease = faulty.lease().await;
            let lock = faulty.bench.client.lock("/l").lease(&lease);
            faulty.store.faults().apply_late(usize::MAX, Duration::from_millis(late));
            let attempt = async {
                if cancelled { drop(timeout(Duration::from_millis(5), lock.acquire()).await) } else { drop(lock.try_acquire().await) }
            };
            timeout(LIMIT, attempt).await.unwrap();
            faulty.store.faults().clear();
            // The key is deleted after twice the time by which it was late, at most.
            sleep(Duration::from_millis(2 * late) + TTL).await;
            assert_eq!(faulty.keys().await, 0, "late by {late} ms, cancelled {cancelled}");
            lock.acquire().await.unwrap().release().await.unwrap();
            assert!(lease.is_held() && faulty.bench.is_there(lease.id()).await);
        }
    }
}

/// The answer to the request that creates the key is lost, and the server applies a copy of the
/// request after the release.
#[tokio::test(start_paused = true)]
async fn key_created_after_release_is_deleted() {
    let faulty = Faulty::new();
    let lease = faulty.lease().await;
    let lock = faulty.bench.client.lock("/l").lease(&lease);
    faulty.store.faults().apply_late(1, Duration::from_secs(2));
    lock.acquire().await.unwrap().release().await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!((faulty.keys().await, lease.is_held()), (0, true));
}

/// If a guard has its own lease, its key is deleted at the latest when that lease ends. On a shared
/// lease the deletion must reach the server, even if the guard was lost because the program gave up
/// a lease that it had adopted.
#[tokio::test(start_paused = true)]
async fn release_during_outage_deletes_key_afterwards() {
    for (drops, gives_up_lease) in [(false, false), (true, false), (true, true)] {
        let faulty = Faulty::new();
        let other = faulty.bench.client.lease(6 * TTL).await.unwrap();
        let mut lease = Some(faulty.bench.client.adopt_lease(other.id()).await.unwrap());
        let id = other.id();
        let lock = faulty.bench.client.lock("/l").lease(lease.as_ref().unwrap());
        let held = lock.acquire().await.unwrap();
        let value = faulty.entry(0).publish(&0).lease(lease.as_ref().unwrap()).await.unwrap();
        faulty.store.faults().stop();
        if gives_up_lease {
            drop(lease.take());
            held.lost().await;
        }
        if drops {
            drop((held, value));
        } else {
            assert!(held.release().await.is_err());
            assert!(value.withdraw().await.is_err());
        }
        sleep(TTL).await;
        faulty.store.faults().start();
        sleep(TTL).await;
        assert_eq!((faulty.keys().await, faulty.bench.is_there(id).await), (0, true), "dropped: {drops}, lease given up: {gives_up_lease}");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_guard_wakes_waiter_of_same_client() {
    let faulty = Faulty::new();
    let lease = faulty.bench.client.lease(12 * TTL).await.unwrap();
    let lock = faulty.bench.client.lock("/l").lease(&lease);
    let first = lock.acquire().await.unwrap();
    let second = faulty.bench.waits(&lock, 1).await;
    let begun = tokio::time::Instant::now();
    let deleted = Txn::new(vec![Op::delete(&Key::parse(first.key().as_str()).unwrap())]);
    faulty.bench.client.store().commit(deleted).await.unwrap();
    let _second = second.await.unwrap().unwrap();
    assert!(begun.elapsed() < TTL, "it waited for its periodic look: {:?}", begun.elapsed());
    assert!(!first.is_held() && lease.is_held());
}

/// Two values at one key have the same lease, so the lease does not show which of them is stored.
/// The newest value must be stored.
#[tokio::test(start_paused = true)]
async fn newest_of_two_values_at_one_key_is_stored() {
    let faulty = Faulty::new();
    let lease = faulty.lease().await;
    let stored = async || faulty.entry(0).get().await.unwrap().map(|now| *now);
    let first = faulty.entry(0).publish(&1).lease(&lease).await.unwrap();
    let second = faulty.entry(0).publish(&2).lease(&lease).await.unwrap();
    sleep(TTL).await;
    assert!(second.is_published() && !first.is_published());
    assert_eq!((stored().await, first.set(&10).await.unwrap_err().kind()), (Some(2), ErrorKind::Conflict));
    // The two guards do not overwrite each other's value.
    faulty.counting.take();
    sleep(TTL).await;
    assert_eq!(faulty.counting.take().commit, 0);
    second.withdraw().await.unwrap();
    until(async || first.is_published()).await;
    assert_eq!(stored().await, Some(10));
    // Dropping an older guard does not delete the newer value.
    let third = faulty.entry(0).publish(&3).lease(&lease).await.unwrap();
    drop(first);
    sleep(TTL).await;
    assert!(third.is_published() && stored().await == Some(3));
    drop(third);
    let fourth = faulty.entry(0).publish(&4).lease(&lease).await.unwrap();
    sleep(TTL).await;
    assert!(fourth.is_published() && stored().await == Some(4));
    fourth.withdraw().await.unwrap();
    assert_eq!(stored().await, None);
}

#[tokio::test(start_paused = true)]
async fn failed_publish_leaves_no_value_on_living_lease() {
    for late in [0, 1, 100, 3000, 60_000] {
        let faulty = Faulty::new();
        let lease = faulty.lease().await;
        faulty.store.faults().apply_late(1, Duration::from_millis(late));
        let error = faulty.entry(0).publish(&1).lease(&lease).await.unwrap_err();
        assert!(error.may_have_applied(), "{error}");
        if late == 3000 {
            // A value that is published after the failure stays, although the earlier write may
            // still be applied.
            let next = faulty.entry(0).publish(&2).lease(&lease).await.unwrap();
            sleep(2 * TTL).await;
            assert!(next.is_published() && faulty.entry(0).get().await.unwrap().as_deref() == Some(&2));
            next.withdraw().await.unwrap();
        }
        sleep(Duration::from_millis(2 * late) + TTL).await;
        assert_eq!((faulty.keys().await, lease.is_held()), (0, true), "late by {late} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_end_with_guards_and_lease() {
    let faulty = Faulty::new();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let lease = faulty.lease().await;
    let lock = faulty.bench.client.lock("/l").lease(&lease);
    faulty.store.faults().lose_reply(Calls::Commits, 1);
    let held = lock.acquire().await.unwrap();
    let value = faulty.entry(0).publish(&1).lease(&lease).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    drop((held, value));
    sleep(TTL).await;
    lease.revoke().await.unwrap();
    // A task that waits to delete a late key ends at its next attempt.
    sleep(2 * TTL).await;
    assert_eq!(tasks(), before);
}

/// After random faults each published value exists, and withdrawn values do not return, although
/// their lease lives on.
#[tokio::test(start_paused = true)]
async fn values_on_one_lease_survive_random_faults() {
    const COUNT: usize = 4;
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let faulty = Faulty::new();
        let lease = faulty.bench.client.lease(Duration::from_secs(7200)).await.unwrap();
        let mut values: [(Option<Published<u32>>, u32); COUNT] = std::array::from_fn(|_| (None, 0));
        for value in 1..60_u32 {
            let n = random.usize(..COUNT);
            let (faults, entry) = (faulty.store.faults(), faulty.entry(n as u32));
            match random.u8(..8) {
                0 => drop(entry.delete().await),
                1 => faults.lose_reply(Calls::Commits, random.usize(1..3)),
                2 => faults.lose_request(Calls::Commits, random.usize(1..3)),
                3 => faults.apply_late(1, Duration::from_millis(random.u64(..3000))),
                4 => {
                    faults.stop();
                    sleep(Duration::from_millis(random.u64(..20_000))).await;
                    faults.start();
                }
                5 | 6 => match values[n].0.take() {
                    Some(published) if random.bool() => drop(published.withdraw().await),
                    published => drop(published),
                },
                _ => faults.drop_connections(),
            }
            values[n].1 = value;
            match &values[n].0 {
                Some(published) => drop(published.set(&value).await),
                None => values[n].0 = entry.publish(&value).lease(&lease).await.ok(),
            }
            sleep(Duration::from_millis(random.u64(..1500))).await;
        }
        faulty.store.faults().clear();
        sleep(12 * TTL).await;
        for (n, (published, last)) in values.iter().enumerate() {
            let now = faulty.entry(n as u32).get().await.unwrap().map(|now| *now);
            assert_eq!(now, published.as_ref().map(|_| *last), "seed {seed}, value {n}: {:?}", published.as_ref().map(Published::status));
        }
        drop(values);
        sleep(12 * TTL).await;
        assert_eq!((faulty.keys().await, lease.is_held()), (0, true), "seed {seed}");
    }
}
