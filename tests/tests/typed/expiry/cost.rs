//! The number of leases and requests that it costs to keep an expiry. Runs on the memory store.

use super::*;

/// A write with a time to live that needs several transactions attaches all keys to one lease.
#[tokio::test(start_paused = true)]
async fn transactions_of_one_write_share_lease_with_memory_store() {
    let bench = Bench { client: Client::connect("memory:").await.unwrap() };
    let map = bench.client.entries::<u32, u32>("/map").unwrap();
    map.set(&(0..300).map(|n| (n, n)).collect()).ttl(LONG).non_atomic().await.unwrap();
    let ends = bench.ends("/map").await;
    assert_eq!(ends.len(), 300);
    assert!(ends.iter().all(|end| *end == ends[0] && end.expires()));
}

/// A write that keeps the lease costs no additional request if the key has no lease. If the key has
/// a lease, the write costs at most one additional request.
#[tokio::test]
async fn keeping_expiry_costs_at_most_one_request_with_memory_store() {
    let counting = CountingStore::new(std::sync::Arc::new(MemoryStore::new()));
    let client = Client::with_store(counting.clone());
    let dir = client.dir::<Service>("/services/a").unwrap();
    let cost = |commit| assert_eq!(counting.take(), Counts { commit, ..Counts::default() });
    dir.set(&service()).await.unwrap();
    counting.take();
    for (set, note) in [(2, "a"), (3, "b")] {
        dir.load.set(&set).await.unwrap();
        cost(1);
        dir.note.set(&note.to_owned()).await.unwrap();
        cost(1);
        // A struct is read before it is written.
        dir.limits.set(&Limits { low: 1, high: None }).await.unwrap();
        assert_eq!(counting.take(), Counts { range: 1, commit: 1, ..Counts::default() });
        dir.tags.entry(note).unwrap().set(&note.to_owned()).await.unwrap();
        cost(1);
        client.transaction().write(dir.load.set(&set)).write(dir.weight.set(&set)).await.unwrap();
        cost(1);
    }
    let lease = client.lease(LONG).await.unwrap();
    dir.set(&service()).lease(&lease).await.unwrap();
    counting.take();
    let seen = dir.get().await.unwrap();
    counting.take();
    dir.compare_and_swap(&seen, &Service { load: 9, ..service() }).await.unwrap();
    cost(1);
    let load = dir.load.get().await.unwrap();
    counting.take();
    dir.load.compare_and_swap(&load, &10).await.unwrap();
    cost(1);
    dir.load.set(&11).await.unwrap();
    cost(2);
    dir.note.create(&"c".to_owned()).await.unwrap();
    cost(2);
}

/// If the lease ends while an update runs, no key is left.
#[tokio::test]
async fn lease_ending_during_update_leaves_no_key_with_memory_store() {
    let store = MemoryStore::new();
    let bench = Bench { client: Client::with_store(store.clone()) };
    let (dir, lease) = bench.leased().await;
    let ends = std::sync::atomic::AtomicBool::new(true);
    let end = || {
        if ends.swap(false, std::sync::atomic::Ordering::Relaxed) {
            assert!(store.faults().expire(lease.id()));
        }
    };
    let error = dir
        .update(|service| {
            end();
            service.note = Some("x".into());
        })
        .changed_fields_only()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "the struct does not exist any more: {error}");
    assert_eq!(bench.stored("/services").await, []);
}
