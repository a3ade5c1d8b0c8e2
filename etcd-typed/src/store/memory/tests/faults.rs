//! One test for each fault.

use super::*;

#[tokio::test]
async fn fail_next_refuses_next_calls() {
    let store = MemoryStore::new();
    store.faults().fail_next(2);
    let error = write(&store, "/a", "1").await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Unavailable, false));
    assert_eq!(store.status().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(read(&store, "/a").await, None);
}

#[tokio::test]
async fn fail_affects_only_chosen_calls() {
    let store = MemoryStore::new();
    let faults = store.faults();
    faults.fail(Calls::Commits, 1, ErrorKind::NoSpace);
    faults.fail(Calls::Watches, 1, ErrorKind::PermissionDenied);
    faults.fail(Calls::Leases, 1, ErrorKind::Timeout);
    faults.fail(Calls::Reads, 1, ErrorKind::Unauthenticated);
    assert!(store.members().await.is_ok());
    let asked = Watch { span: Span::Below(Key::root()), from: WatchFrom::Resumed(Revision::new(1)) };
    assert_eq!(store.watch(asked.clone()).await.err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
    assert!(store.watch(asked).await.is_ok());
    let error = store.range(Range::of(Span::Key(key("/a")))).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Unauthenticated, Some(&key("/a"))));
    assert_eq!(store.time_to_live(lease(1)).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(write(&store, "/a", "1").await.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(write(&store, "/a", "1").await.unwrap().revision.get(), 2);
}

#[tokio::test]
async fn write_with_lost_request_is_not_applied() {
    let store = MemoryStore::new();
    store.faults().lose_request(Calls::Commits, 1);
    let error = write(&store, "/a", "1").await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Unavailable, true));
    assert_eq!(read(&store, "/a").await, None);
}

#[tokio::test]
async fn write_with_lost_reply_is_applied() {
    let store = MemoryStore::new();
    store.faults().lose_reply(Calls::Commits, 1);
    let error = write(&store, "/a", "1").await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Unavailable, true));
    assert_eq!(value(&store, "/a").await, Some("1".into()));
    store.faults().lose_reply(Calls::KeepAlives, 1);
    store.faults().lose_reply(Calls::Leases, 2);
    assert!(store.grant(lease(1), 9 * SECOND).await.unwrap_err().may_have_applied());
    // The keep-alive takes the oldest fault that applies to it: `KeepAlives`.
    assert!(!store.keep_alive(lease(1)).await.unwrap_err().may_have_applied());
    assert!(store.revoke(lease(1)).await.is_err());
    assert_eq!(store.time_to_live(lease(1)).await.unwrap(), None, "it was revoked");
}

#[tokio::test]
async fn refused_call_with_lost_reply_returns_refusal() {
    let store = MemoryStore::new();
    store.faults().lose_reply(Calls::Commits, 1);
    let error = write_until(&store, "/a", "1", Expiry::With(lease(1))).await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::LeaseLost, false));
}

#[tokio::test(start_paused = true)]
async fn late_commit_is_applied_after_delay() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    store.faults().apply_late(2, 7 * SECOND);
    assert!(write_until(&store, "/a", "late", Expiry::After(3 * SECOND)).await.unwrap_err().may_have_applied());
    let guarded = Txn {
        compares: vec![Compare::key(&key("/b"), Condition::Absent)],
        then: vec![Op::put(&key("/b"), "late".into())],
        ..Txn::default()
    };
    assert!(store.commit(guarded).await.unwrap_err().may_have_applied());
    assert_eq!(read(&store, "/a").await, None);
    write(&store, "/b", "early").await.unwrap();
    let begun = Instant::now();
    assert_eq!(change(&mut stream).await, put_event(2, "/b", "early"));
    assert_eq!(change(&mut stream).await, put_event(3, "/a", "late"), "a watch sees it without a call");
    assert_eq!(begun.elapsed(), 7 * SECOND);
    assert_eq!(change(&mut stream).await, delete_event(4, "/a"), "its time to live starts when the put is applied");
    assert_eq!(begun.elapsed(), 10 * SECOND);
    assert_eq!(value(&store, "/b").await, Some("early".into()), "its compare failed at that time");
}

#[tokio::test(start_paused = true)]
async fn waiting_watch_sees_late_commit() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    let begun = Instant::now();
    let waits = tokio::spawn(async move { change(&mut stream).await });
    tokio::task::yield_now().await;
    store.faults().apply_late(1, 7 * SECOND);
    assert!(write(&store, "/a", "late").await.is_err());
    assert_eq!(waits.await.unwrap(), put_event(2, "/a", "late"));
    assert_eq!(begun.elapsed(), 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn delay_affects_only_chosen_calls() {
    let store = MemoryStore::new();
    store.faults().delay(Calls::Commits, 5 * SECOND);
    let begun = Instant::now();
    nothing_for(3 * SECOND, write(&store, "/a", "1")).await;
    assert_eq!(read(&store, "/a").await, None, "a call that was dropped while it waited is not performed");
    assert_eq!(begun.elapsed(), 3 * SECOND, "reads are not delayed");
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(begun.elapsed(), 8 * SECOND);
    store.faults().delay(Calls::Commits, Duration::ZERO);
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(begun.elapsed(), 8 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn clear_removes_queued_faults() {
    let store = MemoryStore::new();
    store.faults().fail_next(usize::MAX);
    store.faults().delay(Calls::All, 60 * SECOND);
    store.faults().clear();
    let begun = Instant::now();
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn compact_discards_older_history() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(change(&mut stream).await.0, 2);
    store.faults().compact();
    write(&store, "/a", "2").await.unwrap();
    assert_eq!(change(&mut stream).await.0, 3, "a watch that has seen everything continues");
    write(&store, "/a", "3").await.unwrap();
    store.faults().compact();
    assert_eq!(last_item(&mut stream).await.unwrap(), WatchItem::HistoryLost { oldest: Some(Revision::new(4)) });
    let past = Range { revision: Some(Revision::new(3)), ..Range::of(Span::Key(key("/a"))) };
    assert_eq!(store.range(past).await.unwrap_err().kind(), ErrorKind::HistoryLost);
    assert_eq!(value(&store, "/a").await, Some("3".into()));
}

#[tokio::test]
async fn compact_to_keeps_given_revision() {
    let store = MemoryStore::new();
    for _ in 0..3 {
        write(&store, "/a", "1").await.unwrap();
    }
    let oldest = async || {
        let mut stream = watch(&store, "/", 0).await;
        let item = stream.next().await.unwrap().unwrap();
        if let WatchItem::HistoryLost { oldest } = item { oldest.map(Revision::get) } else { None }
    };
    assert_eq!(oldest().await, None);
    for (to, expected) in [(3, 3), (2, 3), (99, 4)] {
        store.faults().compact_to(Revision::new(to));
        assert_eq!(oldest().await, Some(expected));
    }
}

#[tokio::test]
async fn expire_deletes_lease_and_keys() {
    let store = MemoryStore::new();
    store.grant(lease(1), 3600 * SECOND).await.unwrap();
    write_until(&store, "/a", "1", Expiry::With(lease(1))).await.unwrap();
    let mut stream = watch(&store, "/", 2).await;
    assert!(store.faults().expire(lease(1)));
    assert_eq!(change(&mut stream).await, delete_event(3, "/a"));
    assert!(!store.faults().expire(lease(1)));
    assert_eq!(store.keep_alive(lease(1)).await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[tokio::test]
async fn drop_connections_cuts_open_watches() {
    let store = MemoryStore::new();
    let mut waiting = watch(&store, "/", 1).await;
    let waiting = tokio::spawn(async move { last_item(&mut waiting).await });
    let mut unread = watch(&store, "/", 1).await;
    tokio::task::yield_now().await;
    store.faults().drop_connections();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable, "the fault wakes a waiting watch");
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(last_item(&mut unread).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let mut resumed = watch(&store, "/", 1).await;
    assert_eq!(change(&mut resumed).await, put_event(2, "/a", "1"));
}

#[tokio::test]
async fn lag_watches_ends_watches_with_lagged() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(change(&mut stream).await.0, 2);
    write(&store, "/a", "2").await.unwrap();
    store.faults().lag_watches();
    assert_eq!(last_item(&mut stream).await.unwrap(), WatchItem::Lagged);
    let mut again = watch(&store, "/", 2).await;
    assert_eq!(change(&mut again).await, put_event(3, "/a", "2"));
}

#[tokio::test(start_paused = true)]
async fn start_restores_data_and_leases() {
    let store = MemoryStore::new();
    write_until(&store, "/a", "1", Expiry::After(10 * SECOND)).await.unwrap();
    let attached = read(&store, "/a").await.unwrap().lease.unwrap();
    let mut stream = watch(&store, "/", 2).await;
    sleep(9 * SECOND).await;
    store.faults().stop();
    assert_eq!(last_item(&mut stream).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let error = write(&store, "/b", "1").await.unwrap_err();
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Unavailable, false));
    let asked = Watch { span: Span::Below(Key::root()), from: WatchFrom::Resumed(Revision::new(2)) };
    assert!(store.watch(asked).await.is_err() && store.keep_alive(attached).await.is_err() && store.status().await.is_err());
    sleep(3600 * SECOND).await;
    store.faults().start();
    store.faults().start();
    assert_eq!(store.time_to_live(attached).await.unwrap(), Some(10 * SECOND), "no lease expires meanwhile, and start renews each");
    let begun = Instant::now();
    let mut stream = watch(&store, "/", 2).await;
    assert_eq!(change(&mut stream).await, delete_event(3, "/a"));
    assert_eq!(begun.elapsed(), 10 * SECOND);
}

#[tokio::test]
async fn wipe_empties_store() {
    let store = MemoryStore::new();
    let cluster = store.status().await.unwrap().cluster;
    store.keep_history(3);
    store.grant(lease(1), 60 * SECOND).await.unwrap();
    for _ in 0..5 {
        write_until(&store, "/a", "1", Expiry::With(lease(1))).await.unwrap();
    }
    let mut open = watch(&store, "/", 6).await;
    store.faults().wipe();
    assert_eq!(last_item(&mut open).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let mut resumed = watch(&store, "/", 6).await;
    assert_eq!(last_item(&mut resumed).await.unwrap(), WatchItem::Behind(Revision::new(1)));
    assert_eq!(store.keep_alive(lease(1)).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(read(&store, "/a").await, None);
    let status = store.status().await.unwrap();
    assert_eq!((status.revision.get(), status.cluster), (1, cluster));
    assert_eq!(write(&store, "/a", "1").await.unwrap().revision.get(), 2);
}

/// `Faults` documents this order: first the delay, then the check for a stopped server, then the
/// queued faults. A call to a stopped server uses up no queued fault.
#[tokio::test(start_paused = true)]
async fn faults_apply_in_documented_order() {
    let store = MemoryStore::new();
    let faults = store.faults();
    faults.delay(Calls::All, SECOND);
    faults.lose_reply(Calls::Commits, 1);
    faults.fail(Calls::Commits, 1, ErrorKind::NoSpace);
    let mut call = pin!(write(&store, "/a", "0"));
    nothing_for(SECOND / 2, &mut call).await;
    faults.stop();
    assert!(!call.await.unwrap_err().may_have_applied(), "the server stopped during the delay");
    faults.start();
    assert!(write(&store, "/a", "1").await.unwrap_err().may_have_applied());
    assert_eq!(write(&store, "/a", "2").await.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(write(&store, "/a", "3").await.unwrap().revision.get(), 3);
}
