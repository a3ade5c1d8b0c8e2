//! Times to live of keys, and the leases that the store builds from them.

use super::*;

#[tokio::test]
async fn reads_report_remaining_ttl() {
    let etcd = launch(Etcd::builder()).await;
    let store = connect(etcd.port());
    let a = key("/a");
    let put = |ttl| Op::Put { key: a.clone(), value: text("v"), expiry: Expiry::After(ttl), previous: false };
    store.commit(write(put(Duration::from_secs(100)))).await.unwrap();
    let ttl = async || store.range(Range::of(Span::Key(a.clone()))).await.unwrap().kvs.first().map(|kv| kv.ttl);
    assert!(ttl().await.unwrap().unwrap() <= Duration::from_secs(100));
    // This time to live is far above what the server's clock can count. If it were sent unchanged,
    // the key would never expire, or expire at once.
    store.commit(write(put(Duration::MAX))).await.unwrap();
    assert!(ttl().await.unwrap().unwrap() > Duration::from_secs(3_000_000_000));
    store.commit(write(Op::put(&a, text("v")))).await.unwrap();
    assert_eq!(ttl().await, Some(None));
    store.commit(write(put(Duration::from_millis(1)))).await.unwrap();
    timeout(LIMIT, async {
        while get(&store, &a).await.is_some() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the key expires");
}

#[tokio::test]
async fn lease_keeps_and_deletes_its_keys() {
    let etcd = launch(Etcd::builder()).await;
    let store = connect(etcd.port());
    let (a, b) = (key("/a"), key("/b"));
    let id = LeaseId::random();
    let with = |key: &Key, id| write(Op::Put { key: key.clone(), value: text("v"), expiry: Expiry::With(id), previous: false });
    assert_eq!(store.commit(with(&a, id)).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(store.keep_alive(id).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(store.time_to_live(id).await.unwrap(), None);

    let ttl = Duration::from_secs(2);
    assert_eq!(store.grant(id, ttl).await.unwrap(), ttl);
    assert_eq!(store.grant(id, ttl).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(store.grant(id, LIMIT).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let created = store.commit(with(&a, id)).await.unwrap().revision;
    store.commit(with(&b, id)).await.unwrap();
    let held = Txn::new(vec![Op::Get(Span::Key(a.clone()))]).compares(vec![Compare::key(&a, Condition::Lease(id))]).otherwise(vec![]);
    // The loop takes longer than the keys would live without keep-alives.
    for _ in 0..8 {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(store.keep_alive(id).await.unwrap(), ttl);
        assert!(store.commit(held.clone()).await.unwrap().succeeded);
    }
    let kept = store.range(Range::of(Span::Key(a.clone()))).await.unwrap();
    assert_eq!((kept.kvs[0].created, get(&store, &b).await.as_deref()), (created, Some("v")));
    assert!(store.time_to_live(id).await.unwrap().is_some());

    // In a condition, the store accepts the key's revision from before the keep-alives.
    let swap = |revision, value| {
        let mut swap = put_if(&a, Condition::Modified(revision), value);
        swap.then = vec![Op::Put { key: a.clone(), value: text(value), expiry: Expiry::With(id), previous: false }];
        swap
    };
    assert!(kept.kvs[0].modified > created);
    let swapped = store.commit(swap(created, "w")).await.unwrap();
    assert!(swapped.succeeded);
    store.keep_alive(id).await.unwrap();
    assert!(!store.commit(swap(created, "x")).await.unwrap().succeeded);
    assert!(!store.commit(delete_if(&a, Condition::Modified(kept.kvs[0].modified))).await.unwrap().succeeded);
    assert!(store.commit(swap(swapped.revision, "v")).await.unwrap().succeeded);

    // A key that another client has written is not deleted with the lease.
    let other = connect(etcd.port());
    put(&other, &b, "theirs").await;
    assert_eq!(store.keep_alive(id).await.unwrap(), ttl);
    store.revoke(id).await.unwrap();
    store.revoke(id).await.unwrap();
    assert_eq!((get(&store, &a).await, get(&store, &b).await.as_deref()), (None, Some("theirs")));
    assert_eq!(store.keep_alive(id).await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[tokio::test]
async fn lease_ends_when_others_delete_last_key() {
    let etcd = launch(Etcd::builder()).await;
    let (store, other) = (connect(etcd.port()), connect(etcd.port()));
    let a = key("/a");
    let with = |id| write(Op::Put { key: a.clone(), value: text("v"), expiry: Expiry::With(id), previous: false });
    let (first, second) = (LeaseId::random(), LeaseId::random());
    store.grant(first, LIMIT).await.unwrap();
    store.commit(with(first)).await.unwrap();
    other.commit(write(Op::delete(&a))).await.unwrap();
    assert_eq!(store.keep_alive(first).await.unwrap_err().kind(), ErrorKind::LeaseLost);

    store.grant(second, LIMIT).await.unwrap();
    store.commit(with(second)).await.unwrap();
    store.commit(write(Op::delete(&a))).await.unwrap();
    assert!(store.keep_alive(second).await.is_ok());
    // Another client creates the key again with the same value. The lease does not include that
    // key.
    store.commit(with(second)).await.unwrap();
    other.commit(write(Op::delete(&a))).await.unwrap();
    put(&other, &a, "v").await;
    assert_eq!(store.keep_alive(second).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(get(&store, &a).await.as_deref(), Some("v"));
}

#[tokio::test]
async fn keep_alive_refreshes_key_of_unanswered_put() {
    let etcd = launch(Etcd::builder()).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let store = {
        let mut options = ConnectOptions::new(vec![endpoint(proxy.addr().port())]);
        options.retry.call_timeout = Duration::from_secs(3);
        V2Store::new(options).unwrap()
    };
    let a = key("/a");
    let id = LeaseId::random();
    store.grant(id, LIMIT).await.unwrap();
    put(&store, &key("/connected"), "").await;
    proxy.set(Mode::StallAnswers).await;
    let lost = write(Op::Put { key: a.clone(), value: text("nonce"), expiry: Expiry::With(id), previous: false });
    let error = store.commit(lost).await.unwrap_err();
    assert!(error.may_have_applied(), "{error}");
    proxy.set(Mode::Pass).await;
    proxy.cut();
    let before = store.range(Range::of(Span::Key(a.clone()))).await.unwrap();
    assert_eq!(&before.kvs[0].value[..], b"nonce");
    store.keep_alive(id).await.unwrap();
    let after = store.range(Range::of(Span::Key(a.clone()))).await.unwrap();
    assert!(after.kvs[0].modified > before.kvs[0].modified && after.kvs[0].created == before.kvs[0].created);
    store.revoke(id).await.unwrap();
    assert_eq!(get(&store, &a).await, None);
}
