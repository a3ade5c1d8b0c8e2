//! Equal watches of one client share one watch on the server, and their readers notice no
//! difference. The tests count the server's watches by a metric of the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Range, Span, Store, Watch, WatchFrom, WatchItem, WatchStream};
use etcd_typed::testing::Etcd;
use etcd_typed::{ErrorKind, Revision};
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::watches::{WATCHERS, until_metric};
use super::{PATIENCE, key, metric_of, store, write};

async fn watch(store: &V3Store, path: &str, from: WatchFrom) -> WatchStream {
    store.watch(Watch::new(Span::Key(key(path)), from)).await.unwrap()
}

/// Returns the revision of the next batch.
async fn next(stream: &mut WatchStream) -> Revision {
    match timeout(PATIENCE, stream.next()).await.expect("an item in time").expect("an item").expect("no error") {
        WatchItem::Batch(batch) => batch.revision,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn equal_watches_share_one_server_watch() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let first = write(&store, &key("/app/a"), "0").await;
    let listed = WatchFrom::Listed(Revision::new(first));
    // Half of the watches start at the same time, and the other half start one after the other.
    let mut streams = join_all((0..500).map(|_| watch(&store, "/app/a", listed))).await;
    for _ in 0..500 {
        streams.push(watch(&store, "/app/a", listed).await);
    }
    assert_eq!(metric_of(&etcd, WATCHERS).await, 1.0);
    let second = write(&store, &key("/app/a"), "1").await;
    for stream in &mut streams {
        assert_eq!(next(stream).await.get(), second);
    }
    let mut last = streams.swap_remove(700);
    drop(streams);
    let third = write(&store, &key("/app/a"), "2").await;
    assert_eq!(next(&mut last).await.get(), third);
    assert_eq!(metric_of(&etcd, WATCHERS).await, 1.0);
    drop(last);
    until_metric(&etcd, WATCHERS, 0.0).await;
    // A watch of the key that is opened later starts a new server watch.
    let mut again = watch(&store, "/app/a", WatchFrom::Listed(Revision::new(third))).await;
    let fourth = write(&store, &key("/app/a"), "3").await;
    assert_eq!(next(&mut again).await.get(), fourth);
}

#[tokio::test]
async fn writes_elsewhere_do_not_prevent_watch_sharing() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let mut streams = Vec::new();
    for number in 0..100 {
        // Each watch starts at a revision that the earlier watches of the key have not reached.
        let listed = WatchFrom::Listed(Revision::new(write(&store, &key("/elsewhere"), number.to_string()).await));
        streams.push(watch(&store, "/app/a", listed).await);
    }
    until_metric(&etcd, WATCHERS, 1.0).await;
    for value in 0..10 {
        let written = write(&store, &key("/app/a"), value.to_string()).await;
        for stream in &mut streams {
            assert_eq!(next(stream).await.get(), written);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_shared_during_writes_miss_nothing() {
    const READERS: usize = 300;
    const BATCHES: usize = 50;
    let etcd = Etcd::start().await;
    let shared = Arc::new(store(&etcd.endpoint()));
    write(&shared, &key("/app/a"), "first").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = |path: &'static str| {
        let (store, stop) = (store(&etcd.endpoint()), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut written = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                written.push(Revision::new(write(&store, &key(path), "x").await));
            }
            written
        })
    };
    let (a, other) = (writer("/app/a"), writer("/app/b"));
    let reader = |number: usize| {
        let store = Arc::clone(&shared);
        async move {
            let listed = store.range(Range::of(Span::Key(key("/app/a")))).await.unwrap().revision;
            if number.is_multiple_of(3) {
                sleep(Duration::from_micros(number as u64 * 50)).await;
            }
            let from = if number.is_multiple_of(2) { WatchFrom::Listed(listed) } else { WatchFrom::Resumed(listed) };
            let mut stream = watch(&store, "/app/a", from).await;
            let mut seen = Vec::new();
            while seen.len() < BATCHES {
                seen.push(next(&mut stream).await);
            }
            (listed, seen)
        }
    };
    let mut readers = Vec::new();
    for number in 0..READERS {
        readers.push(tokio::spawn(reader(number)));
        sleep(Duration::from_micros(300)).await;
    }
    let readers = join_all(readers).await;
    stop.store(true, Ordering::SeqCst);
    let written = a.await.unwrap();
    other.await.unwrap();
    for read in readers {
        let (listed, seen) = read.unwrap();
        let expected: Vec<_> = written.iter().copied().filter(|revision| *revision > listed).take(BATCHES).collect();
        assert_eq!(seen, expected, "after {listed}");
    }
}

#[tokio::test]
async fn shared_watches_resume_as_one_after_kill() {
    let mut etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let first = Revision::new(write(&store, &key("/app/a"), "0").await);
    let mut streams = join_all((0..200).map(|_| watch(&store, "/app/a", WatchFrom::Listed(first)))).await;
    let second = Revision::new(write(&store, &key("/app/a"), Bytes::from("1")).await);
    etcd.restart().await;
    for stream in &mut streams {
        assert_eq!(next(stream).await, second);
        let broken = timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(broken.kind(), ErrorKind::Unavailable);
        assert!(timeout(PATIENCE, stream.next()).await.unwrap().is_none());
    }
    let third = Revision::new(write(&store, &key("/app/a"), "2").await);
    let mut streams = join_all((0..200).map(|_| watch(&store, "/app/a", WatchFrom::Resumed(second)))).await;
    for stream in &mut streams {
        assert_eq!(next(stream).await, third);
    }
    assert_eq!(metric_of(&etcd, WATCHERS).await, 1.0);
}
