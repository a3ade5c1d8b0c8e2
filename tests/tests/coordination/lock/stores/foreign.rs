//! Keys that other programs write, replace or delete below a lock, and servers that lose all keys.

use super::*;

on_every_store! { "locks":
    foreign_keys_do_not_affect_lock
    waiter_waits_for_foreign_leased_keys
    deleted_key_loses_lock
    recreated_key_loses_lock
    overwritten_key_loses_lock
    revoked_lease_loses_lock
    waiter_with_deleted_key_queues_again
}

/// Fault F26: other programs write keys near the queue, or into its directory.
async fn foreign_keys_do_not_affect_lock(bench: Bench) {
    let lease = bench.client.lease(Duration::from_secs(60)).await.unwrap();
    let with = Some(lease.id());
    let mut foreign = vec![
        ("/x/README", None),
        // Keys whose names look like lease ids, and a deeper key.
        ("/x/beef", None),
        ("/x/694d9a1b2c3d4e5f", None),
        ("/x/sub/README", None),
        // Keys of locks whose names start alike.
        ("/x2/beef", with),
        ("/xbeef", with),
    ];
    if !bench.transactions() {
        // Where the store has no leases, the name of a key decides whether it is in the queue.
        foreign.extend([("/x/BEEF", with), ("/x/held by hand", with), ("/x/sub/beef", with)]);
    }
    for (path, lease) in &foreign {
        bench.write(path, *lease).await;
    }
    assert_eq!(bench.lock().queue().await.unwrap(), vec![]);
    let strays = async || bench.lock().strays().await.unwrap().into_iter().map(|key| key.to_string()).collect::<Vec<_>>();
    let below = foreign.iter().filter(|(path, _)| path.starts_with("/x/")).map(|(path, _)| format!("{}{path}", bench.client.namespace()));
    let mut below: Vec<_> = below.collect();
    below.sort();
    assert_eq!(strays().await, below);
    let lock = bench.lock().try_acquire().await.unwrap().expect("the lock is free");
    // Foreign keys written later affect neither the holder nor the waiter.
    let waiter = tokio::spawn({
        let lock = bench.lock();
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    for (path, lease) in &foreign {
        bench.write(path, *lease).await;
    }
    assert_eq!(strays().await, below);
    lock.verify().await.unwrap();
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    lock.release().await.unwrap();
    let lock = waiter.await.unwrap();
    lock.verify().await.unwrap();
    drop(lock);
    bench.queued(0).await;
    for (path, lease) in foreign {
        if lease.is_some() && !bench.transactions() {
            // On v2 this key was written with a short time to live, so it may be gone.
            continue;
        }
        let still = bench.client.entry::<String>(path).unwrap().get().await.unwrap();
        assert_eq!(still.as_deref().map(String::as_str), Some("foreign"), "{path}");
    }
}

async fn waiter_waits_for_foreign_leased_keys(bench: Bench) {
    if !bench.transactions() {
        // v2 has no leases: see `foreign_keys_do_not_affect_lock`.
        return;
    }
    for path in ["/x/3392796194549682947", "/x/BEEF", "/x/held by hand", "/x/sub/beef", "/x/_hidden", "/x/ü"] {
        let lease = bench.client.lease(Duration::from_secs(60)).await.unwrap();
        bench.write(path, Some(lease.id())).await;
        let holder = bench.lock().holder().await.unwrap().expect("the foreign key holds the lock");
        assert_eq!((holder.key.to_string(), holder.lease), (format!("{}{path}", bench.client.namespace()), lease.id()));
        assert!(bench.lock().try_acquire().await.unwrap().is_none(), "{path}");
        assert_eq!(bench.lock().acquire_within(WHILE).await.unwrap_err().kind(), ErrorKind::Timeout, "{path}");
        let waiter = tokio::spawn({
            let lock = bench.lock();
            async move { acquire(&lock).await }
        });
        bench.queued(2).await;
        assert!(!waiter.is_finished(), "{path}");
        lease.revoke().await.unwrap();
        waiter.await.unwrap().release().await.unwrap();
    }
}

/// Fault F27: an administrator deletes the key of the holder.
async fn deleted_key_loses_lock(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    bench.delete(lock.key()).await;
    // The lease is still kept alive. The watch sees the deletion.
    assert_eq!(lost(lock).await, LostReason::KeyDeleted);
    // Before the watch has started, the first check sees the deletion.
    let lock = acquire(&bench.lock()).await;
    bench.delete(lock.key()).await;
    let error = lock.verify().await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(lock.key())));
    assert!(!lock.is_held());
    assert_eq!(lost(lock).await, LostReason::KeyDeleted);
    // A release also reports that the key was deleted.
    let lock = acquire(&bench.lock()).await;
    bench.delete(lock.key()).await;
    assert_eq!(lock.release().await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert!(bench.lock().try_acquire().await.unwrap().is_some());
}

async fn recreated_key_loses_lock(bench: Bench) {
    for settled in [Duration::ZERO, WHILE] {
        let lock = acquire(&bench.lock()).await;
        sleep(settled).await;
        let theirs = bench.client.lease(Duration::from_secs(60)).await.unwrap();
        bench.delete(lock.key()).await;
        bench.write(lock.key().as_str().strip_prefix(bench.client.namespace().as_str()).unwrap(), Some(theirs.id())).await;
        let reason = lost(lock).await;
        // The watch sees the deletion first.
        assert!(matches!(reason, LostReason::KeyDeleted | LostReason::TakenOver | LostReason::Revoked), "{reason}");
        // The new key has a lease, so it is in the queue until its lease ends.
        drop(theirs);
        bench.queued(0).await;
    }
}

async fn overwritten_key_loses_lock(bench: Bench) {
    for settled in [Duration::ZERO, WHILE] {
        let lock = acquire(&bench.lock()).await;
        sleep(settled).await;
        let path = lock.key().as_str().strip_prefix(bench.client.namespace().as_str()).unwrap().to_owned();
        let key = lock.key().clone();
        // The write removes the lease from the key. Except on v2, the create revision stays the
        // same.
        bench.write(&path, None).await;
        assert_eq!(lost(lock).await, LostReason::TakenOver);
        // The key no longer belongs to this library, so it is not deleted and is not in the queue.
        assert!(bench.client.entry::<String>(&path).unwrap().exists().await.unwrap());
        assert!(bench.lock().try_acquire().await.unwrap().is_some());
        bench.delete(&key).await;
    }
}

async fn revoked_lease_loses_lock(bench: Bench) {
    for settled in [Duration::ZERO, WHILE] {
        let lock = acquire(&bench.lock()).await;
        sleep(settled).await;
        bench.client.store().revoke(lock.lease_id()).await.unwrap();
        let reason = lost(lock).await;
        assert!(matches!(reason, LostReason::KeyDeleted | LostReason::Revoked), "{reason}");
        bench.queued(0).await;
    }
}

async fn waiter_with_deleted_key_queues_again(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let named = bench.lock().ttl(Duration::from_secs(2));
    let waiter = tokio::spawn(async move { acquire(&named).await });
    bench.queued(2).await;
    let place = bench.lock().queue().await.unwrap().remove(1);
    bench.delete(&place.key).await;
    // The waiter notices the deletion within a third of its time to live, and enters the queue
    // again as the last.
    bench.queued(2).await;
    let again = bench.lock().queue().await.unwrap().remove(1);
    assert!(again.fence > place.fence && again.lease != place.lease);
    lock.release().await.unwrap();
    assert_eq!(waiter.await.unwrap().fence(), again.fence);
}

/// Promise L8: when a server comes back empty, with the same ids and soon at the same revision,
/// every earlier guard is lost.
async fn wiped_server_loses_all_locks(mut etcd: Etcd, address: &str) {
    let client = Client::connect(address).await.unwrap();
    let named = client.lock("/x").ttl(Duration::from_secs(5));
    let (watched, waiter) = (
        acquire(&named).await,
        tokio::spawn({
            let named = named.clone();
            async move { acquire(&named).await }
        }),
    );
    sleep(WHILE).await;
    etcd.wipe().await;
    lost(watched).await;
    // The waiter enters the queue again, as does every other client.
    let next = waiter.await.unwrap();
    next.verify().await.unwrap();
    next.release().await.unwrap();
    assert!(named.try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn v3_wiped_server_loses_all_locks() {
    let etcd = Etcd::start().await;
    let address = etcd.url_v3();
    wiped_server_loses_all_locks(etcd, &address).await;
}

#[tokio::test]
async fn v2_wiped_server_loses_all_locks() {
    let etcd = Etcd::start().await;
    let address = etcd.url_v2();
    wiped_server_loses_all_locks(etcd, &address).await;
}

#[tokio::test]
async fn memory_wiped_store_loses_all_locks() {
    let store = MemoryStore::new();
    let client = Client::with_store(store.clone());
    let first = acquire(&client.lock("/x")).await;
    let spare = acquire(&client.lock("/y")).await;
    spare.release().await.unwrap();
    store.faults().wipe();
    // The acquire finds that the spare lease no longer exists, and replaces it.
    let y = timeout(LIMIT, client.lock("/y").acquire()).await.expect("in time").unwrap();
    y.verify().await.unwrap();
    // Write a forged key at a revision that is not smaller than the fence. A check of the create
    // revision alone could mistake this key for the lock's own key.
    let forged = first.key().clone();
    let lease = LeaseId::random();
    client.store().grant(lease, LIMIT).await.unwrap();
    let put = Op::Put { key: forged, value: "".into(), expiry: Expiry::With(lease), previous: false };
    let made = client.store().commit(Txn::new(vec![put])).await.unwrap();
    assert!(made.revision >= first.fence(), "{} {}", made.revision, first.fence());
    assert_eq!(first.verify().await.unwrap_err().kind(), ErrorKind::GuardLost);
    lost(first).await;
}
