//! The cost of an idle client: the calls grow with what it holds now, not with what it held before.
//! On the memory store with paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use etcd_typed::Client;
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::{CountingStore, Counts};
use futures_util::future::{join_all, try_join_all};
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(15);
/// Contains twelve thirds of the time to live; a lease is kept alive once per third.
const MINUTE: Duration = Duration::from_secs(60);
const THIRDS: u64 = 12;
/// The largest number of spare leases that are kept alive.
const SPARE: u64 = 16;

fn client() -> (Client, CountingStore) {
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    (Client::with_store(counting.clone()), counting)
}

/// The calls in an idle minute, after the background work of earlier calls has finished.
async fn idle(counting: &CountingStore) -> Counts {
    sleep(TTL).await;
    counting.take();
    sleep(MINUTE).await;
    counting.take()
}

/// Asserts that so many leases were kept alive in a minute, and that there were no other calls. A
/// keep-alive may fall on either side of the minute.
fn assert_kept(calls: Counts, leases: u64) {
    assert!((leases * (THIRDS - 1)..=leases * (THIRDS + 1)).contains(&calls.keep_alive), "{leases} leases: {calls:?}");
    assert_eq!(Counts { keep_alive: 0, ..calls }, Counts::default(), "{leases} leases");
}

/// Acquires so many locks and releases them. `ttl` gives the time to live of each lock.
async fn acquire_and_release(client: &Client, count: u64, ttl: impl Fn(u64) -> Duration) {
    let acquire = async |n| client.lock(&format!("/locks/{n}")).ttl(ttl(n)).acquire().await;
    let held = try_join_all((0..count).map(acquire)).await.unwrap();
    join_all(held.into_iter().map(|lock| lock.release())).await.into_iter().for_each(Result::unwrap);
}

#[tokio::test(start_paused = true)]
async fn many_released_locks_keep_few_leases() {
    for (name, ttl) in [("one ttl", (|_| TTL) as fn(u64) -> Duration), ("many", |n| TTL + Duration::from_secs(n % 500))] {
        let (client, counting) = client();
        acquire_and_release(&client, 2000, ttl).await;
        let calls = idle(&counting).await;
        // A spare lease is revoked one minute after its release.
        assert!(calls.keep_alive <= SPARE * THIRDS, "{name}: {calls:?}");
        assert_eq!((calls.range, calls.commit, calls.watch, calls.grant), (0, 0, 0, 0), "{name}: {calls:?}");
        sleep(MINUTE).await;
        // A spare lease with a long time to live is revoked when its first keep-alive would be due.
        sleep(Duration::from_secs(600)).await;
        assert_eq!(idle(&counting).await, Counts::default(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn held_locks_cost_only_keep_alives() {
    let (client, counting) = client();
    acquire_and_release(&client, 500, |_| TTL).await;
    let acquire = async |n| client.lock(&format!("/held/{n}")).ttl(TTL).acquire().await;
    let held = try_join_all((0..50).map(acquire)).await.unwrap();
    sleep(2 * MINUTE).await;
    assert_kept(idle(&counting).await, 50);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn withdrawn_values_cost_nothing() {
    let (client, counting) = client();
    let publish = async |n| client.entry::<u64>(&format!("/services/{n}"))?.publish(&n).ttl(TTL).await;
    let mut published = try_join_all((0..200).map(publish)).await.unwrap();
    // Up to a hundred values share a lease.
    assert_kept(idle(&counting).await, 2);
    let kept = published.split_off(190);
    join_all(published.into_iter().map(|value| value.withdraw())).await.into_iter().for_each(Result::unwrap);
    assert_kept(idle(&counting).await, 1);
    drop(kept);
    assert_eq!(idle(&counting).await, Counts::default());
}

#[tokio::test(start_paused = true)]
async fn dropped_views_and_streams_cost_nothing() {
    let (client, counting) = client();
    let mut views = Vec::new();
    let mut streams = Vec::new();
    for n in 0..100 {
        views.push(client.entry::<u64>(&format!("/views/{n}")).unwrap().live().await.unwrap());
        streams.push(client.entry::<u64>(&format!("/streams/{n}")).unwrap().watch().await.unwrap());
    }
    drop(views);
    let left = idle(&counting).await;
    assert_eq!(left, Counts::default(), "a stream costs no calls");
    drop(streams);
}
