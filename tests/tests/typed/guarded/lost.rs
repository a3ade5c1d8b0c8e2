//! Writes under a guard whose key was deleted, replaced or detached.

use super::*;

cases! {
    deleted_key_stops_every_write
    revoked_lease_stops_every_write
    foreign_key_stops_every_write
    recreated_key_stops_every_write
    other_lease_stops_every_write
    detached_key_stops_every_write
}

/// For each kind of write, ends the lock with `take_away` and checks that one request refuses the
/// write, and that the write changes nothing.
async fn every_write_is_refused(bench: &Bench, take_away: impl AsyncFn(&Bench, &Lock), why: LostReason) {
    for (name, write) in WRITES {
        bench.fill().await;
        let lock = bench.lock().await;
        take_away(bench, &lock).await;
        let before = bench.stored().await;
        bench.requests();
        assert!(lock.is_held(), "{name}: the holder has not learned of the loss yet");
        let error = write(bench, Some(&lock)).await.unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(lock.key())), "{name}: {error}");
        assert_eq!(bench.requests(), 1, "{name}");
        assert!(!error.may_have_applied() && error.written().is_empty(), "{name}: {error}");
        assert!(!lock.is_held(), "{name}");
        assert_eq!(lock.lost().await.reason(), why, "{name}");
        // The guard knows of its loss now, so the next write is refused without a request.
        assert_eq!(write(bench, Some(&lock)).await.unwrap_err().kind(), ErrorKind::GuardLost, "{name}");
        assert_eq!(bench.requests(), 0, "{name}");
        assert_eq!(bench.stored().await, before, "{name}");
        bench.foreign(vec![Op::delete(lock.key())]).await;
    }
}

async fn deleted_key_stops_every_write(bench: Bench) {
    let take_away = async |bench: &Bench, lock: &Lock| drop(bench.foreign(vec![Op::delete(lock.key())]).await);
    every_write_is_refused(&bench, take_away, LostReason::KeyDeleted).await;
}

async fn revoked_lease_stops_every_write(bench: Bench) {
    let take_away = async |bench: &Bench, lock: &Lock| bench.other.store().revoke(lock.lease_id()).await.unwrap();
    every_write_is_refused(&bench, take_away, LostReason::KeyDeleted).await;
}

/// Another client deletes the guard's key and creates the key again without a lease.
async fn foreign_key_stops_every_write(bench: Bench) {
    let take_away = async |bench: &Bench, lock: &Lock| {
        bench.foreign(vec![Op::delete(lock.key())]).await;
        bench.foreign(vec![Op::put(lock.key(), "mine".into())]).await;
    };
    every_write_is_refused(&bench, take_away, LostReason::TakenOver).await;
}

/// The new key is attached to the guard's own lease, but its creation revision differs.
async fn recreated_key_stops_every_write(bench: Bench) {
    let take_away = async |bench: &Bench, lock: &Lock| {
        bench.foreign(vec![Op::delete(lock.key())]).await;
        bench.foreign(vec![put_with(lock.key(), lock.lease_id())]).await;
    };
    every_write_is_refused(&bench, take_away, LostReason::TakenOver).await;
}

async fn other_lease_stops_every_write(bench: Bench) {
    let lease = bench.other.lease(Duration::from_secs(60)).await.unwrap();
    let take_away = async |bench: &Bench, lock: &Lock| drop(bench.foreign(vec![put_with(lock.key(), lease.id())]).await);
    every_write_is_refused(&bench, take_away, LostReason::TakenOver).await;
}

/// A put without a lease detaches the key from its lease. The creation revision stays.
async fn detached_key_stops_every_write(bench: Bench) {
    let take_away = async |bench: &Bench, lock: &Lock| drop(bench.foreign(vec![Op::put(lock.key(), "mine".into())]).await);
    every_write_is_refused(&bench, take_away, LostReason::TakenOver).await;
}

fn put_with(key: &Key, lease: LeaseId) -> Op {
    Op::Put { key: key.clone(), value: "mine".into(), expiry: Expiry::With(lease), previous: false }
}

/// A server that lost its data assigns the same revisions again. The keys of the former and the
/// next holder then have the same creation revision, but different leases.
async fn wiped(bench: &Bench, wipe: impl AsyncFnOnce()) {
    let lock = bench.lock().await;
    bench.entry("there").set(&1).guarded_by(&lock).await.unwrap();
    wipe().await;
    let lease = bench.other.lease(Duration::from_secs(60)).await.unwrap();
    let filler = Key::parse("/filler").unwrap();
    while bench.foreign(vec![Op::put(&filler, "".into())]).await.revision.next() < lock.fence() {}
    bench.foreign(vec![put_with(lock.key(), lease.id())]).await;
    let found = bench.other.store().range(Range::of(Span::Key(lock.key().clone()))).await.unwrap();
    assert_eq!(found.kvs[0].created, lock.fence(), "both keys have the same creation revision");
    let error = bench.entry("there").set(&2).guarded_by(&lock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuardLost);
    assert_eq!(lock.lost().await.reason(), LostReason::TakenOver);
    assert_eq!(bench.entry("there").get().await.unwrap(), None);
}

#[tokio::test]
async fn wiped_store_refuses_old_guard_with_memory_store() {
    let store = MemoryStore::new();
    let bench = Bench::of(Client::with_store(store.clone()));
    bench.fill().await;
    wiped(&bench, async || store.faults().wipe()).await;
}

#[tokio::test]
async fn wiped_server_refuses_old_guard_on_v3() {
    let mut etcd = Etcd::start().await;
    let bench = Bench::of(Client::connect(&etcd.url_v3()).await.unwrap());
    bench.fill().await;
    wiped(&bench, async || etcd.wipe().await).await;
}
