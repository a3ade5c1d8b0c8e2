//! Tests of watches and of what wakes them.

use super::*;

#[tokio::test(start_paused = true)]
async fn watch_yields_past_then_new_changes() {
    let store = MemoryStore::new();
    write(&store, "/d/a", "1").await.unwrap();
    write(&store, "/d/a", "2").await.unwrap();
    let mut past = watch(&store, "/d", 0).await;
    let mut listed = store.watch(Watch { span: Span::Key(key("/d/a")), from: WatchFrom::Listed(Revision::new(3)) }).await.unwrap();
    assert_eq!(change(&mut past).await, put_event(2, "/d/a", "1"));
    assert_eq!(change(&mut past).await, put_event(3, "/d/a", "2"));
    nothing_for(SECOND, past.next()).await;
    nothing_for(SECOND, listed.next()).await;
    let waits = tokio::spawn(async move { (change(&mut past).await, change(&mut listed).await) });
    tokio::task::yield_now().await;
    write(&store, "/d/a", "3").await.unwrap();
    assert_eq!(waits.await.unwrap(), (put_event(4, "/d/a", "3"), put_event(4, "/d/a", "3")));
}

#[tokio::test(start_paused = true)]
async fn slow_reader_misses_nothing() {
    let store = MemoryStore::new();
    let mut slow = watch(&store, "/", 1).await;
    for _ in 0..10_000 {
        write(&store, "/a", "1").await.unwrap();
    }
    for revision in 2..10_002 {
        assert_eq!(change(&mut slow).await.0, revision);
    }
    nothing_for(SECOND, slow.next()).await;
}

#[tokio::test(start_paused = true)]
async fn progress_items_of_idle_watch_are_limited() {
    let store = MemoryStore::new();
    let mut idle = watch(&store, "/idle", 1).await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            // First writes more changes at once than one search looks at, then one change every
            // tenth of a second.
            for _ in 0..9_000 {
                write(&store, "/busy", "1").await.unwrap();
            }
            for _ in 0..100 {
                write(&store, "/busy", "1").await.unwrap();
                sleep(SECOND / 10).await;
            }
        }
    });
    let mut told = Vec::new();
    while let Ok(Some(item)) = timeout(5 * SECOND, idle.next()).await {
        let Ok(WatchItem::Progress(revision)) = item else { panic!("{item:?}") };
        told.push(revision.get());
    }
    writer.await.unwrap();
    assert!(told.is_sorted() && told.last() == Some(&9_101), "{told:?}");
    assert!((9..=13).contains(&told.len()), "at most one progress item a second for ten seconds: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn watch_finds_change_after_long_history() {
    let store = MemoryStore::new();
    for _ in 0..20_000 {
        write(&store, "/busy", "1").await.unwrap();
    }
    write(&store, "/d/a", "1").await.unwrap();
    let begun = Instant::now();
    assert_eq!(change(&mut watch(&store, "/d", 1).await).await.0, 20_002);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn expiry_is_not_delayed_by_progress_interval() {
    let store = MemoryStore::new();
    write_until(&store, "/d/a", "1", Expiry::After(2 * SECOND)).await.unwrap();
    let begun = Instant::now();
    let mut stream = watch(&store, "/d", 2).await;
    for (time, told) in [(1500, true), (1600, false)] {
        nothing_for(Duration::from_millis(time) - begun.elapsed(), stream.next()).await;
        write(&store, "/busy", "1").await.unwrap();
        assert_eq!(stream.next().now_or_never().is_some(), told, "the second progress item has to wait");
    }
    assert_eq!(change(&mut stream).await, delete_event(5, "/d/a"));
    assert_eq!(begun.elapsed(), 2 * SECOND);
}

#[tokio::test]
async fn watch_from_compacted_revision_reports_loss() {
    let store = MemoryStore::new();
    for _ in 0..5 {
        write(&store, "/a", "1").await.unwrap();
    }
    store.faults().compact_to(Revision::new(4));
    let mut early = watch(&store, "/", 3).await;
    assert_eq!(last_item(&mut early).await.unwrap(), WatchItem::HistoryLost { oldest: Some(Revision::new(4)) });
    let mut kept = watch(&store, "/", 4).await;
    assert_eq!(change(&mut kept).await.0, 5);
}

#[tokio::test]
async fn watch_from_future_revision_reports_behind() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 7).await;
    assert_eq!(last_item(&mut stream).await.unwrap(), WatchItem::Behind(Revision::new(1)));
}

/// A write made after the watch opened, but before its first read, is yielded.
#[tokio::test]
async fn watch_yields_writes_before_first_poll() {
    let store = MemoryStore::new();
    let mut stream = watch(&store, "/", 1).await;
    write(&store, "/a", "1").await.unwrap();
    assert_eq!(change(&mut stream).await, put_event(2, "/a", "1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_see_writes_of_other_threads() {
    const WRITERS: usize = 4;
    const WRITES: u64 = 500;
    let store = MemoryStore::new();
    let mut watchers = Vec::new();
    for _ in 0..4 {
        let mut stream = watch(&store, "/", 1).await;
        watchers.push(tokio::spawn(async move {
            for revision in 2..2 + WRITERS as u64 * WRITES {
                assert_eq!(change(&mut stream).await.0, revision);
            }
        }));
    }
    for writer in 0..WRITERS {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..WRITES {
                write(&store, &format!("/{writer}"), "1").await.unwrap();
                tokio::task::yield_now().await;
            }
        });
    }
    for watcher in watchers {
        timeout(60 * SECOND, watcher).await.expect("a watch that was not woken").unwrap();
    }
}
