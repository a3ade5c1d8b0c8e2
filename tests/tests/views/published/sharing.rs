//! Published values with the same time to live share a lease. Sharing saves requests, and the loss
//! or withdrawal of one value does not affect the others. The tests use paused time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use etcd_typed::store::Store;
use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::testing::{CountingStore, Counts};
use etcd_typed::{LeaseId, Result};
use futures_util::future::try_join_all;

use super::*;

const TEN: Duration = Duration::from_secs(10);

struct Values {
    store: MemoryStore,
    counting: CountingStore,
    client: Client,
}

impl Values {
    fn new() -> Self {
        let store = MemoryStore::new();
        let counting = CountingStore::new(Arc::new(store.clone()));
        Self { store, client: Client::with_store(counting.clone()), counting }
    }

    fn entry(&self, n: u64) -> Entry<u64> {
        self.client.entry(&format!("/services/{n}")).unwrap()
    }

    async fn publish(&self, n: u64) -> Result<Published<u64>> {
        self.entry(n).publish(&n).ttl(TEN).await
    }

    async fn published(&self, count: u64) -> Vec<Published<u64>> {
        try_join_all((0..count).map(|n| self.publish(n))).await.unwrap()
    }

    /// Returns the leases of those of the first `count` values that exist.
    async fn leases(&self, count: u64) -> BTreeSet<LeaseId> {
        let mut leases = BTreeSet::new();
        for n in 0..count {
            leases.extend(self.entry(n).get().await.unwrap().map(|now| now.lease().expect("a lease")));
        }
        leases
    }

    /// Returns how many of the first `count` values exist.
    async fn there(&self, count: u64) -> u64 {
        let mut there = 0;
        for n in 0..count {
            there += u64::from(self.entry(n).exists().await.unwrap());
        }
        there
    }
}

#[tokio::test(start_paused = true)]
async fn values_with_equal_ttl_share_lease() {
    let values = Values::new();
    let published = values.published(20).await;
    assert_eq!(values.counting.take(), Counts { grant: 1, commit: 20, ..Counts::default() });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(values.leases(20).await.len(), 1);
    values.counting.take();
    sleep(3 * TEN).await;
    let idle = values.counting.take();
    assert!((8..=10).contains(&idle.keep_alive), "{idle:?}");
    assert_eq!(Counts { keep_alive: 0, ..idle }, Counts::default());
    // Another time to live needs another lease, and a lease has at most a hundred keys.
    let _other = values.entry(20).publish(&20).ttl(2 * TEN).await.unwrap();
    assert_eq!(values.leases(21).await.len(), 2);
    let _more = try_join_all((21..300).map(|n| values.publish(n))).await.unwrap();
    assert_eq!(values.leases(300).await.len(), 4);
    drop(published);
}

#[tokio::test(start_paused = true)]
async fn withdrawal_keeps_other_values() {
    let values = Values::new();
    let mut published = values.published(5).await;
    let mut changes = values.entry(0).watch().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    values.counting.take();
    published.pop().unwrap().withdraw().await.unwrap();
    assert_eq!(values.counting.take(), Counts { commit: 1, ..Counts::default() });
    drop(published.pop());
    sleep(3 * TEN).await;
    assert_eq!((values.there(5).await, published.len()), (3, 3));
    assert!(published.iter().all(Published::is_published));
    assert!(timeout(TEN, changes.next()).await.is_err(), "the other values do not change");
    // Withdrawing the last value ends the lease.
    let lease = values.leases(5).await.pop_first().unwrap();
    for value in published {
        value.withdraw().await.unwrap();
    }
    assert_eq!(values.store.time_to_live(lease).await.unwrap(), None);
    assert_eq!(values.there(5).await, 0);
}

#[tokio::test(start_paused = true)]
async fn two_publishers_of_one_key_use_separate_leases() {
    let values = Values::new();
    let first = values.publish(0).await.unwrap();
    let lease = values.leases(1).await;
    let second = values.publish(0).await.unwrap();
    assert_ne!(values.leases(1).await, lease);
    until(|| reason(&first) == Some(LostReason::TakenOver)).await;
    assert!(second.is_published());
    drop(second);
    until(|| first.is_published()).await;
}

#[tokio::test(start_paused = true)]
async fn lost_lease_is_replaced_by_one_new_lease() {
    let values = Values::new();
    let published = values.published(30).await;
    let lease = values.leases(30).await.pop_first().unwrap();
    values.counting.take();
    assert!(values.store.faults().expire(lease));
    until(|| published.iter().all(Published::is_published)).await;
    sleep(TEN).await;
    assert_eq!((values.there(30).await, values.leases(30).await.len()), (30, 1));
    assert_eq!(values.counting.take().grant, 1);
}

/// Several values share a lease. A put with an unknown outcome may still be applied later, and then
/// only the end of that lease deletes the key. So the library ends the lease. Before that, it moves
/// the other values to a new lease without a gap.
#[tokio::test(start_paused = true)]
async fn put_with_unknown_outcome_leaves_no_value() {
    for late in [0, 1, 100, 3000] {
        let values = Values::new();
        let published = values.published(5).await;
        let lease = values.leases(5).await;
        let mut changes = values.client.directory("/services").unwrap().watch().await.unwrap();
        values.store.faults().apply_late(1, Duration::from_millis(late));
        let error = values.publish(5).await.unwrap_err();
        assert!(error.may_have_applied(), "{error}");
        sleep(3 * TEN).await;
        assert_eq!((values.there(5).await, values.there(6).await), (5, 5), "late by {late} ms");
        let now = values.leases(5).await;
        assert!(now.len() == 1 && now != lease, "late by {late} ms: {now:?}");
        assert_eq!(values.store.time_to_live(*lease.first().unwrap()).await.unwrap(), None);
        assert!(published.iter().all(Published::is_published));
        while let Ok(Some(update)) = timeout(TEN, changes.next()).await {
            let gone: Vec<_> =
                update.unwrap().changes.into_iter().filter(|keyed| keyed.change.is_deleted()).map(|keyed| keyed.key).collect();
            assert!(gone.iter().all(|key| key == "5"), "late by {late} ms: {gone:?}");
        }
    }
}

/// Each of several values has a put with an unknown outcome. All these values wait for the end of
/// their shared lease.
#[tokio::test(start_paused = true)]
async fn values_with_unknown_puts_do_not_block_each_other() {
    let values = Values::new();
    let published = values.published(4).await;
    for n in 0..4 {
        values.entry(n).delete().await.unwrap();
    }
    values.store.faults().lose_request(Calls::Commits, 4);
    sleep(3 * TEN).await;
    assert_eq!(values.there(4).await, 4);
    assert!(published.iter().all(Published::is_published));
}

/// After random faults, each value exists in the end, no old value comes back, and withdrawn values
/// do not return.
#[tokio::test(start_paused = true)]
async fn values_survive_random_faults() {
    const COUNT: usize = 6;
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let values = Values::new();
        let mut published: Vec<Option<Published<u64>>> = values.published(COUNT as u64).await.into_iter().map(Some).collect();
        let seen: Arc<Mutex<Vec<(usize, u64)>>> = Arc::default();
        for n in 0..COUNT {
            let (mut changes, seen) = (values.entry(n as u64).watch().await.unwrap(), seen.clone());
            tokio::spawn(async move {
                while let Some(Ok(change)) = changes.next().await {
                    if let Some(value) = change.new.filter(|value| *value >= 100) {
                        seen.lock().unwrap().push((n, value));
                    }
                }
            });
        }
        let mut last = [0; COUNT];
        for value in 100..160_u64 {
            let n = random.usize(..COUNT);
            let (faults, entry) = (values.store.faults(), values.entry(n as u64));
            match random.u8(..9) {
                0 => drop(entry.delete().await),
                1 => {
                    let lease = entry.get().await.ok().flatten().and_then(|now| now.lease());
                    lease.map(|lease| faults.expire(lease));
                }
                2 => faults.lose_reply(Calls::Commits, random.usize(1..3)),
                3 => faults.lose_request(Calls::Commits, random.usize(1..3)),
                4 => faults.apply_late(1, Duration::from_millis(random.u64(..3000))),
                5 => faults.fail(Calls::Leases, random.usize(1..3), ErrorKind::Unavailable),
                6 => {
                    faults.stop();
                    sleep(Duration::from_millis(random.u64(..20_000))).await;
                    faults.start();
                }
                7 => {
                    // The value is dropped or withdrawn, with any outcome, and published again
                    // below.
                    match published[n].take() {
                        Some(value) if random.bool() => drop(value.withdraw().await),
                        value => drop(value),
                    }
                    sleep(Duration::from_millis(random.u64(..500))).await;
                }
                _ => faults.drop_connections(),
            }
            match &published[n] {
                Some(published) => drop(published.set(&value).await),
                None => published[n] = values.entry(n as u64).publish(&value).ttl(TEN).await.ok(),
            }
            last[n] = value;
            sleep(Duration::from_millis(random.u64(..1500))).await;
        }
        values.store.faults().clear();
        sleep(6 * TEN).await;
        for (n, published) in published.iter().enumerate() {
            let there = values.entry(n as u64).get().await.unwrap().map(|now| *now);
            let expected = published.as_ref().map(|_| last[n]).filter(|last| *last > 0);
            if published.is_none() || expected.is_some() {
                assert_eq!(there, expected, "seed {seed}, value {n}: {:?}", published.as_ref().map(Published::status));
            }
        }
        for n in 0..COUNT {
            let seen: Vec<u64> = seen.lock().unwrap().iter().filter(|(of, _)| *of == n).map(|(_, value)| *value).collect();
            assert!(seen.is_sorted(), "seed {seed}, value {n}: {seen:?}");
        }
        let leases = values.leases(COUNT as u64).await;
        drop(published);
        sleep(6 * TEN).await;
        assert_eq!(values.there(COUNT as u64).await, 0, "seed {seed}");
        for lease in leases {
            assert_eq!(values.store.time_to_live(lease).await.unwrap(), None, "seed {seed}");
        }
    }
}
