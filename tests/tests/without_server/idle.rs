//! The cost of an idle client. The number of its calls depends on the locks, values and views that
//! the client holds now, and not on those that it held before. The tests use the memory store with
//! paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use etcd_typed::store::memory::{Calls, Faults, MemoryStore};
use etcd_typed::testing::{CountingStore, Counts};
use etcd_typed::{Client, ErrorKind, Live};
use futures_util::future::{join_all, try_join_all};
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(15);
/// A minute consists of `THIRDS` thirds of the time to live. A lease is renewed once in each third.
const MINUTE: Duration = Duration::from_secs(60);
const THIRDS: u64 = 12;
/// The largest number of spare leases that are kept alive.
const SPARE: u64 = 16;

fn client() -> (Client, CountingStore) {
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    (Client::with_store(counting.clone()), counting)
}

fn client_and_faults() -> (Client, CountingStore, Faults) {
    let memory = MemoryStore::new();
    let faults = memory.faults();
    let counting = CountingStore::new(Arc::new(memory));
    (Client::with_store(counting.clone()), counting, faults)
}

/// Waits until the background work of earlier calls has finished. Then returns the number of calls
/// in an idle minute.
async fn idle(counting: &CountingStore) -> Counts {
    sleep(TTL).await;
    counting.take();
    sleep(MINUTE).await;
    counting.take()
}

/// Asserts that the calls of a minute are the keep-alives of so many leases, and no others. One
/// keep-alive more or less per lease is allowed.
fn assert_kept(calls: Counts, leases: u64) {
    assert!((leases * (THIRDS - 1)..=leases * (THIRDS + 1)).contains(&calls.keep_alive), "{leases} leases: {calls:?}");
    assert_eq!(Counts { keep_alive: 0, ..calls }, Counts::default(), "{leases} leases");
}

/// Acquires `count` locks and releases them. `ttl` returns the time to live of each lock.
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

/// Opens views of `count` entries, one after the other within `time`.
async fn views(client: &Client, count: u64, time: Duration) -> Vec<Live<Option<u64>>> {
    let mut views = Vec::new();
    for n in 0..count {
        views.push(client.entry::<u64>(&format!("/views/{n}")).unwrap().live().await.unwrap());
        sleep(time / u32::try_from(count).unwrap()).await;
    }
    views
}

fn assert_proved(views: &[Live<Option<u64>>]) {
    for view in views {
        assert!(view.status().is_live(), "{}", view.status());
        assert!(view.staleness() < view.proof_period() + Duration::from_secs(1), "{:?}", view.staleness());
    }
}

#[tokio::test(start_paused = true)]
async fn many_idle_views_cost_as_much_as_one() {
    for count in [1, 10, 500] {
        let (client, counting) = client();
        let views = views(&client, count, TTL).await;
        let calls = idle(&counting).await;
        // One read every ten seconds. One read more or less is allowed.
        assert!((5..=7).contains(&calls.range), "{count} views: {calls:?}");
        assert_eq!(Counts { range: 0, ..calls }, Counts::default(), "{count} views");
        assert_proved(&views);
    }
}

/// A little less than the time between two reads that prove that the views are up to date.
const BEFORE_PROOF: Duration = Duration::from_millis(9900);
const A_LITTLE: Duration = Duration::from_millis(200);

/// Returns a hundred views that were proved up to date just now. The next such read is in ten
/// seconds.
async fn proved_views(client: &Client, counting: &CountingStore) -> Vec<Live<Option<u64>>> {
    let views = views(client, 100, Duration::ZERO).await;
    counting.take();
    while counting.counts().range == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    counting.take();
    views
}

fn stale(views: &[Live<Option<u64>>]) -> usize {
    views.iter().filter(|view| view.staleness() > A_LITTLE).count()
}

#[tokio::test(start_paused = true)]
async fn view_without_read_right_does_not_delay_others() {
    let (client, counting, faults) = client_and_faults();
    let views = proved_views(&client, &counting).await;
    sleep(BEFORE_PROOF).await;
    faults.fail(Calls::Reads, 1, ErrorKind::PermissionDenied);
    sleep(A_LITTLE).await;
    assert_eq!((stale(&views), counting.take().range), (1, 2), "the next one reads");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(counting.take().range, 1, "it tries again");
    assert_proved(&views);
}

#[tokio::test(start_paused = true)]
async fn views_dropped_during_read_do_not_delay_others() {
    let (client, counting, faults) = client_and_faults();
    let mut views = proved_views(&client, &counting).await;
    sleep(BEFORE_PROOF).await;
    // The delay is shorter than the time that a view waits for another view's read.
    faults.delay(Calls::Reads, Duration::from_millis(900));
    sleep(A_LITTLE).await;
    assert_eq!(counting.take().range, 1);
    while counting.counts().range == 0 {
        assert!(views.len() > 1, "one of them reads");
        drop(views.remove(0));
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_secs(1)).await;
    assert!(views.iter().all(|view| view.staleness() < Duration::from_secs(2)));
    assert_eq!(counting.take().range, 1);
}

#[tokio::test(start_paused = true)]
async fn views_read_from_silent_server_once_a_second() {
    let (client, counting, faults) = client_and_faults();
    let views = proved_views(&client, &counting).await;
    faults.delay(Calls::Reads, Duration::from_secs(30));
    sleep(Duration::from_secs(30)).await;
    let calls = counting.take();
    assert!((15..=21).contains(&calls.range), "{calls:?}");
    assert!(views.iter().all(|view| view.staleness() >= Duration::from_secs(29)), "nothing is proved without an answer");
    faults.clear();
    // The last read that is under way ends within thirty seconds.
    sleep(MINUTE).await;
    assert_proved(&views);
}

#[tokio::test(start_paused = true)]
async fn views_retry_stopped_server_once_a_second() {
    let (client, counting, faults) = client_and_faults();
    let views = proved_views(&client, &counting).await;
    faults.stop();
    sleep(MINUTE).await;
    let calls = counting.take();
    assert!((50..=61).contains(&calls.range), "{calls:?}");
    assert!(views.iter().all(|view| view.staleness() >= MINUTE && !view.status().is_live()));
    faults.start();
    sleep(MINUTE).await;
    assert_proved(&views);
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
