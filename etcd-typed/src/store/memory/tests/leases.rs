//! Tests of leases and of keys that expire.

use super::*;

#[tokio::test(start_paused = true)]
async fn watch_sees_lease_expire_in_one_revision() {
    let store = MemoryStore::new();
    let begun = Instant::now();
    assert_eq!(store.grant(lease(1), 3600 * SECOND).await.unwrap(), 3600 * SECOND);
    for path in ["/d/b", "/d/a"] {
        write_until(&store, path, "1", Expiry::With(lease(1))).await.unwrap();
    }
    let mut stream = watch(&store, "/d", 3).await;
    // From here on the test makes no call to the store: awaiting the watch is enough for the
    // expiry.
    let WatchItem::Batch(batch) = stream.next().await.unwrap().unwrap() else { panic!("no batch") };
    assert_eq!((batch.revision.get(), batch.events.len()), (4, 2));
    assert!(batch.events.iter().all(|event| matches!(event, Event::Delete { previous: Some(_), .. })));
    assert_eq!(begun.elapsed().as_secs(), 3600);
    assert_eq!(store.time_to_live(lease(1)).await.unwrap(), None);
    assert_eq!(store.keep_alive(lease(1)).await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[tokio::test(start_paused = true)]
async fn call_after_expiry_does_not_see_key() {
    let store = MemoryStore::new();
    write_until(&store, "/a", "1", Expiry::After(Duration::from_millis(2500))).await.unwrap();
    let attached = read(&store, "/a").await.unwrap().lease.unwrap();
    assert_eq!(store.time_to_live(attached).await.unwrap(), Some(3 * SECOND), "rounded up");
    sleep(3 * SECOND - Duration::from_millis(1)).await;
    assert!(read(&store, "/a").await.is_some());
    sleep(Duration::from_millis(1)).await;
    assert_eq!(store.status().await.unwrap().revision.get(), 3);
    assert_eq!(read(&store, "/a").await, None);
}

#[tokio::test(start_paused = true)]
async fn lease_granted_during_watch_expires_on_time() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    let waits = tokio::spawn(async move {
        let begun = Instant::now();
        change(&mut stream).await;
        (change(&mut stream).await, begun.elapsed().as_secs())
    });
    tokio::task::yield_now().await;
    write_until(&store, "/a", "1", Expiry::After(5 * SECOND)).await.unwrap();
    assert_eq!(waits.await.unwrap(), (delete_event(3, "/a"), 5));
}

#[tokio::test(start_paused = true)]
async fn kept_alive_lease_does_not_expire() {
    let store = MemoryStore::new();
    store.grant(lease(1), SECOND).await.unwrap();
    write_until(&store, "/a", "1", Expiry::With(lease(1))).await.unwrap();
    for _ in 0..10 {
        sleep(SECOND).await;
        assert_eq!(store.keep_alive(lease(1)).await.unwrap(), 2 * SECOND, "the shortest time that is granted");
    }
    assert!(read(&store, "/a").await.is_some());
    assert_eq!(store.time_to_live(lease(1)).await.unwrap(), Some(2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn rewritten_key_is_detached_from_old_lease() {
    let store = MemoryStore::new();
    write_until(&store, "/a", "1", Expiry::After(2 * SECOND)).await.unwrap();
    write_until(&store, "/b", "1", Expiry::After(2 * SECOND)).await.unwrap();
    write(&store, "/a", "2").await.unwrap();
    write_until(&store, "/b", "2", Expiry::After(9 * SECOND)).await.unwrap();
    sleep(8 * SECOND).await;
    assert!(read(&store, "/a").await.is_some_and(|kv| kv.lease.is_none()));
    assert!(read(&store, "/b").await.is_some());
    assert_eq!(store.status().await.unwrap().revision.get(), 5, "the end of a lease without keys makes no revision");
    sleep(SECOND).await;
    assert!(read(&store, "/b").await.is_none());
}

#[tokio::test]
async fn repeated_revoke_deletes_keys_once() {
    let store = MemoryStore::new();
    store.grant(lease(1), 60 * SECOND).await.unwrap();
    for path in ["/a", "/b"] {
        write_until(&store, path, "1", Expiry::With(lease(1))).await.unwrap();
    }
    store.revoke(lease(1)).await.unwrap();
    store.revoke(lease(1)).await.unwrap();
    let left = store.range(Range::of(Span::Below(Key::root()))).await.unwrap();
    assert_eq!((left.revision.get(), left.kvs.len()), (4, 0));
}

#[tokio::test]
async fn puts_with_same_ttl_share_lease() {
    let store = MemoryStore::new();
    let put = |path, ttl| Op::Put { key: key(path), value: "1".into(), expiry: Expiry::After(ttl), previous: false };
    let then = vec![put("/a", 60 * SECOND), put("/b", 60 * SECOND), put("/c", 90 * SECOND)];
    store.commit(Txn { then, ..Txn::default() }).await.unwrap();
    let of = async |path| read(&store, path).await.unwrap().lease.unwrap();
    assert_eq!(of("/a").await, of("/b").await);
    assert_ne!(of("/a").await, of("/c").await);
}

#[tokio::test]
async fn too_long_ttl_is_refused() {
    let store = MemoryStore::new();
    let error = write_until(&store, "/a", "1", Expiry::After(Duration::MAX)).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Invalid, Some(&key("/a"))));
    assert_eq!(store.grant(lease(1), Duration::MAX).await.unwrap_err().kind(), ErrorKind::Invalid);
    // The longest time to live that is granted neither overflows nor expires at once.
    store.grant(lease(1), Duration::from_secs(9_000_000_000)).await.unwrap();
    assert!(store.time_to_live(lease(1)).await.unwrap().is_some());
}
