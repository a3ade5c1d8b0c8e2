//! Faults that hit a publisher at a chosen moment, with the embedded store and paused time.

use std::sync::{Arc, Mutex};

use etcd_typed::Key;
use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::store::{Op, Range, Span, Store, Txn};
use etcd_typed::testing::{CountingStore, Counts};
use etcd_typed_tests::yielding::yielding;
use futures_util::FutureExt;

use super::*;

const TEN: Duration = Duration::from_secs(10);

struct Faulty {
    store: MemoryStore,
    entry: Entry<u64>,
}

fn faulty() -> Faulty {
    let store = MemoryStore::new();
    let entry = Client::with_store(store.clone()).entry("/services/a").unwrap();
    Faulty { store, entry }
}

#[tokio::test(start_paused = true)]
async fn idle_published_value_costs_only_keep_alives() {
    let store = CountingStore::new(Arc::new(MemoryStore::new()));
    let entry = Client::with_store(store.clone()).entry::<u64>("/services/a").unwrap();
    let published = entry.publish(&1).ttl(TEN).await.unwrap();
    assert_eq!(store.take(), Counts { grant: 1, commit: 1, ..Counts::default() });
    sleep(TEN / 10).await;
    assert_eq!(store.take(), Counts { range: 1, watch: 1, ..Counts::default() }, "the read and the watch of its key");
    sleep(30 * TEN).await;
    let counts = store.take();
    assert!((85..=95).contains(&counts.keep_alive), "{counts:?}");
    assert_eq!(counts.total(), counts.keep_alive, "{counts:?}");
    for value in 2..5 {
        published.set(&value).await.unwrap();
        assert_eq!(store.take(), Counts { commit: 1, ..Counts::default() });
    }
    sleep(TEN / 10).await;
    published.withdraw().await.unwrap();
    assert_eq!(store.take(), Counts { revoke: 1, ..Counts::default() });
    sleep(10 * TEN).await;
    assert_eq!(store.take(), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn short_outage_causes_no_deletion() {
    let Faulty { store, entry } = faulty();
    let published = entry.publish(&1).ttl(TEN).await.unwrap();
    let before = entry.get().await.unwrap().unwrap();
    let mut changes = entry.watch().await.unwrap();
    store.faults().stop();
    until(|| !published.is_published()).await;
    assert_eq!(reason(&published), Some(LostReason::Expired));
    sleep(6 * TEN).await;
    let PublishedStatus::Missing { since, error: Some(error), .. } = published.status() else { panic!("{:?}", published.status()) };
    assert_eq!((error.kind(), error.key()), (ErrorKind::Unavailable, Some(entry.key())));
    assert!(since.elapsed() < LIMIT, "`since` is a time of the real clock");
    assert!(
        published.status().to_string().contains("no answer came within its time to live; not put back yet: "),
        "{}",
        published.status()
    );
    let told = serde_json::to_value(published.status()).unwrap();
    assert_eq!((&told["status"], &told["reason"]), (&"missing".into(), &"no answer came within its time to live".into()));
    assert!(told["for_seconds"].is_f64() && told["error"].as_str().is_some_and(|error| error.starts_with("/services/a: ")), "{told}");
    assert_eq!(published.set(&2).await.unwrap_err().kind(), ErrorKind::Unavailable);
    store.faults().start();
    until(|| published.is_published()).await;
    assert_eq!(serde_json::to_string(&published.status()).unwrap(), r#"{"status":"published"}"#);
    let after = entry.get().await.unwrap().unwrap();
    assert!(*after == 2 && after.lease() != before.lease(), "the newest value, with a new lease");
    assert_eq!(next(&mut changes).await, Some(2), "the value was never missing");
    sleep(6 * TEN).await;
    assert!(published.is_published() && changes.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn value_is_put_back_after_lease_expires() {
    let Faulty { store, entry } = faulty();
    let published = entry.publish(&1).ttl(TEN).await.unwrap();
    let mut changes = entry.watch().await.unwrap();
    // All keep-alives fail until the server has ended the lease.
    store.faults().fail(Calls::Leases, 10_000, ErrorKind::Unavailable);
    assert_eq!(next(&mut changes).await, None);
    assert_eq!(reason(&published), Some(LostReason::Expired));
    store.faults().clear();
    assert_eq!(next(&mut changes).await, Some(1));
    until(|| published.is_published()).await;
}

#[tokio::test(start_paused = true)]
async fn value_is_put_back_on_emptied_server() {
    let Faulty { store, entry } = faulty();
    let filler = Client::with_store(store.clone()).entry::<u64>("/filler").unwrap();
    let published = entry.publish(&1).ttl(TEN).await.unwrap();
    for n in 0..5 {
        // The revision of the wiped server is below, at or above the revision at which the value
        // was seen.
        for value in 0..3 * n {
            filler.set(&value).await.unwrap();
        }
        published.set(&n).await.unwrap();
        store.faults().wipe();
        until(|| entry.get().now_or_never().is_some_and(|read| read.unwrap().is_some_and(|now| *now == n))).await;
        until(|| published.is_published()).await;
        sleep(3 * TEN).await;
        assert!(published.is_published(), "{}", published.status());
    }
    // The value of another client on a wiped server is left alone. Once it is deleted, the
    // published value is put back.
    store.faults().wipe();
    entry.set(&99).await.unwrap();
    until(|| reason(&published).is_some()).await;
    sleep(3 * TEN).await;
    assert_eq!(entry.get().await.unwrap().unwrap().into_inner(), 99);
    store.faults().wipe();
    entry.set(&98).await.unwrap();
    sleep(3 * TEN).await;
    assert_eq!(entry.get().await.unwrap().unwrap().into_inner(), 98);
    entry.delete().await.unwrap();
    until(|| published.is_published()).await;
}

/// After any faults, no older value replaces a newer value, and in the end the newest value exists.
#[tokio::test(start_paused = true)]
async fn losses_never_bring_back_old_value() {
    for seed in 0..20 {
        let mut random = random_below(seed);
        let Faulty { store, entry } = faulty();
        let published = entry.publish(&0).ttl(TEN).await.unwrap();
        let mut changes = entry.watch().await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = seen.clone();
        let watching = tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                all.lock().unwrap().extend(change.unwrap().new);
            }
        });
        for value in 1..=30_u64 {
            let faults = store.faults();
            match random(8) {
                0 => drop(entry.delete().await),
                1 => {
                    let lease = entry.get().await.ok().flatten().and_then(|now| now.lease());
                    lease.map(|lease| faults.expire(lease));
                }
                2 => faults.lose_reply(Calls::Commits, 1 + random(2)),
                3 => faults.lose_request(Calls::Commits, 1 + random(2)),
                4 => faults.apply_late(1, Duration::from_millis(random(3000) as u64)),
                5 => faults.fail(Calls::Leases, 1 + random(3), ErrorKind::Unavailable),
                6 => {
                    faults.stop();
                    sleep(Duration::from_millis(random(30_000) as u64)).await;
                    faults.start();
                }
                _ => faults.drop_connections(),
            }
            drop(published.set(&value).await);
            sleep(Duration::from_millis(random(2000) as u64)).await;
        }
        store.faults().clear();
        sleep(3 * TEN).await;
        assert!(published.is_published(), "seed {seed}: {}", published.status());
        assert_eq!(entry.get().await.unwrap().unwrap().into_inner(), 30, "seed {seed}");
        let seen = seen.lock().unwrap().clone();
        assert!(seen.len() > 10 && seen.is_sorted(), "seed {seed}: {seen:?}");
        published.withdraw().await.unwrap();
        sleep(3 * TEN).await;
        assert_eq!(entry.get().await.unwrap(), None, "seed {seed}");
        watching.abort();
    }
}

/// A put gets no answer and is applied later, after a newer value was written, at a moment when the
/// key does not exist.
#[tokio::test(start_paused = true)]
async fn delayed_put_never_replaces_newer_value() {
    const LATE: Duration = Duration::from_secs(5);
    let Faulty { store, entry } = faulty();
    let published = entry.publish(&1).ttl(6 * TEN).await.unwrap();
    entry.set(&99).ttl(TEN).await.unwrap();
    until(|| reason(&published) == Some(LostReason::TakenOver)).await;
    let other = entry.get().await.unwrap().unwrap().lease().unwrap();
    store.faults().apply_late(1, LATE);
    store.faults().expire(other);
    while !matches!(published.status(), PublishedStatus::Missing { error: Some(_), .. }) {
        sleep(Duration::from_millis(1)).await;
    }
    let sent = tokio::time::Instant::now();
    published.set(&2).await.unwrap();
    let mut changes = entry.watch().await.unwrap();
    // The deletion comes so late that the delayed put is applied before the value is put back.
    tokio::time::sleep_until(sent + LATE - Duration::from_millis(6)).await;
    entry.delete().await.unwrap();
    assert_eq!(next(&mut changes).await, None);
    assert_eq!(next(&mut changes).await, Some(2));
    assert!(sent.elapsed() > LATE, "the delayed put was applied");
    sleep(6 * TEN).await;
    assert!(published.is_published() && changes.next().now_or_never().is_none());
}

/// Returns a random number generator that returns numbers below a limit.
fn random_below(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn repeated_deletions_are_put_back_with_backoff() {
    let Faulty { entry, .. } = faulty();
    let published = entry.publish(&1).ttl(TEN).await.unwrap();
    let begun = tokio::time::Instant::now();
    for _ in 0..40 {
        shows(&entry, Some(1)).await;
        entry.delete().await.unwrap();
    }
    shows(&entry, Some(1)).await;
    // From the eighth wait on, the backoff is at its maximum of 2 s, of which jitter removes at
    // most half. So each of the more than 30 later waits takes at least 1 s.
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    until(|| published.is_published()).await;

    // After a while without deletions, the backoff starts anew.
    sleep(TEN).await;
    let begun = tokio::time::Instant::now();
    entry.delete().await.unwrap();
    shows(&entry, Some(1)).await;
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn refused_watch_is_retried() {
    let Faulty { store, entry } = faulty();
    store.faults().fail(Calls::Watches, 20, ErrorKind::PermissionDenied);
    let published = entry.publish(&1).ttl(TEN).await.unwrap();
    entry.delete().await.unwrap();
    until(|| entry.get().now_or_never().is_some_and(|read| read.unwrap().is_some())).await;
    until(|| published.is_published()).await;
}

#[tokio::test(start_paused = true)]
async fn unverified_value_counts_as_missing() {
    let Faulty { store, entry } = faulty();
    let published = entry.publish(&1).ttl(TEN).await.unwrap();
    for calls in [Calls::Reads, Calls::Commits, Calls::Watches] {
        store.faults().fail(calls, usize::MAX, ErrorKind::PermissionDenied);
    }
    store.faults().drop_connections();
    until(|| reason(&published) == Some(LostReason::Unverified)).await;
    store.faults().clear();
    until(|| published.is_published()).await;
    assert_eq!(entry.get().await.unwrap().map(|read| *read), Some(1));
    // The task watches the key again, and notices the deletion.
    entry.delete().await.unwrap();
    shows(&entry, Some(1)).await;
}

#[tokio::test(start_paused = true)]
async fn temporary_refusal_leaves_value_published() {
    let Faulty { store, entry } = faulty();
    let published = entry.publish(&1).ttl(TEN).await.unwrap();
    store.faults().fail(Calls::Watches, 3, ErrorKind::PermissionDenied);
    store.faults().drop_connections();
    sleep(TEN).await;
    assert!(published.is_published());
    entry.delete().await.unwrap();
    shows(&entry, Some(1)).await;
}

#[tokio::test(start_paused = true)]
async fn failed_publish_leaves_no_key() {
    for fault in 0..4 {
        let Faulty { store, entry } = faulty();
        let faults = store.faults();
        match fault {
            0 => faults.fail(Calls::Leases, 1, ErrorKind::Unavailable),
            1 => faults.fail(Calls::Commits, 1, ErrorKind::NoSpace),
            2 => faults.lose_reply(Calls::Commits, 1),
            _ => faults.apply_late(1, TEN),
        }
        let error = entry.publish(&1).ttl(6 * TEN).await.unwrap_err();
        assert_eq!(error.key(), Some(entry.key()), "{error}");
        sleep(2 * TEN).await;
        assert_eq!(entry.get().await.unwrap(), None, "fault {fault}");
    }
}

/// Polls the future at most `times` times, and drops the future if it has not completed.
async fn poll_times<F: IntoFuture>(future: F, times: usize) -> Option<F::Output> {
    let mut future = Box::pin(future.into_future());
    for _ in 0..times {
        if let Some(output) = future.as_mut().now_or_never() {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test(start_paused = true)]
async fn cancelled_call_leaves_no_key_or_lease() {
    let mut completed = false;
    for times in 0..100 {
        let inner = MemoryStore::new();
        let (store, granted) = yielding(&inner, Duration::ZERO);
        let entry = Client::with_store(store).entry::<u64>("/services/a").unwrap();
        completed = poll_times(entry.publish(&1).ttl(6 * TEN), times).await.is_some();
        // Waits for less than the time to live, so that the key cannot have disappeared by itself.
        sleep(TEN).await;
        let below = inner.range(Range::of(Span::Below(Key::root()))).await.unwrap();
        assert!(below.kvs.is_empty(), "after {times} polls");
        for lease in granted.ids() {
            assert_eq!(inner.time_to_live(lease).await.unwrap(), None, "after {times} polls");
        }
        if completed {
            assert!(times > 4, "{times}");
            break;
        }
    }
    assert!(completed);

    // Also drop the future while the value is put back, set and withdrawn.
    for times in 0..20 {
        for what in 0..3 {
            let inner = MemoryStore::new();
            let (store, granted) = yielding(&inner, Duration::ZERO);
            let entry = Client::with_store(store).entry::<u64>("/services/a").unwrap();
            let published = entry.publish(&1).ttl(6 * TEN).await.unwrap();
            match what {
                0 => {
                    let delete = Txn::new(vec![Op::delete(entry.key())]);
                    inner.commit(delete).await.unwrap();
                    sleep(Duration::from_millis(20)).await;
                    poll_times(std::future::pending::<()>(), times).await;
                    drop(published);
                }
                1 => {
                    poll_times(published.set(&2), times).await;
                    drop(published);
                }
                _ => drop(poll_times(published.withdraw(), times).await),
            }
            sleep(TEN).await;
            let below = inner.range(Range::of(Span::Below(Key::root()))).await.unwrap();
            assert!(below.kvs.is_empty(), "case {what}, after {times} polls");
            for lease in granted.ids() {
                assert_eq!(inner.time_to_live(lease).await.unwrap(), None, "case {what}, after {times} polls");
            }
        }
    }
}

#[test]
fn guard_may_be_used_without_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let own = runtime();
    let store = MemoryStore::new();
    let entry = Client::with_store(store).entry::<u64>("/services/a").unwrap();
    let publish = || own.block_on(entry.publish(&1).ttl(TTL).into_future()).unwrap();
    let (dropped, withdrawn, asked) = (publish(), publish(), publish());
    drop(own);
    assert_eq!(reason(&asked), None, "the time to live has not passed, and another runtime may keep the lease alive");
    drop(dropped);
    let error = withdrawn.withdraw().now_or_never().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Unavailable, Some(entry.key())));
    assert!(asked.set(&2).now_or_never().unwrap().unwrap_err().may_have_applied());
    runtime().block_on(shows(&entry, Some(2)));
    drop(asked);
    runtime().block_on(shows(&entry, None));

    let error = entry.publish(&1).into_future().now_or_never().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test(start_paused = true)]
async fn status_counts_paused_time() {
    const HOUR: Duration = Duration::from_secs(3600);
    let Faulty { store, entry } = faulty();
    let published = entry.publish(&1).ttl(TEN).await.unwrap();
    store.faults().stop();
    until(|| !published.is_published()).await;
    sleep(HOUR).await;
    let status = published.status();
    let seconds = serde_json::to_value(&status).unwrap()["for_seconds"].as_f64().unwrap();
    assert!(seconds >= 3600.0 && status.to_string().starts_with("missing for 360"), "{status}");
    assert!(status.missing_for().unwrap() >= HOUR);
}

#[test]
fn value_without_runtime_is_missing_after_ttl() {
    let paused = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let entry = Client::with_store(MemoryStore::new()).entry::<u64>("/services/a").unwrap();
    let own = paused();
    let published = own.block_on(entry.publish(&1).ttl(TTL).into_future()).unwrap();
    drop(own);
    // No task keeps the lease alive. Outside of a runtime, the library uses the real clock.
    std::thread::sleep(TTL);
    let missing = || published.status().missing_for().expect("the time to live has passed");
    let first = missing();
    std::thread::sleep(Duration::from_millis(20));
    assert!(missing() >= first + Duration::from_millis(20));
}
