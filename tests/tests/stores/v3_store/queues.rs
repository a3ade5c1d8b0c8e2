//! The store operations that locks and elections use for their queues, on a real server: reads of
//! the newest keys of a directory, and live watches. The conformance suite has the tests that apply
//! to all stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Event, Op, OpResult, RangeReply, Span, Store, Txn, Watch, WatchFrom, WatchItem, WatchStream};
use etcd_typed::testing::Etcd;
use etcd_typed::{ErrorKind, Revision};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::watches::{batch, next};
use super::{PATIENCE, delete, key, store, write};

async fn newest(store: &V3Store, before: Option<u64>, limit: usize) -> RangeReply {
    let op = Op::Newest { below: key("/q"), before: before.map(Revision::new), limit };
    let committed = store.commit(Txn::new(vec![op])).await.unwrap();
    match <[OpResult; 1]>::try_from(committed.results) {
        Ok([OpResult::Get(reply)]) => reply,
        other => panic!("{other:?}"),
    }
}

async fn watch(store: &V3Store, from: WatchFrom) -> WatchStream {
    store.watch(Watch::new(Span::Below(key("/app")), from)).await.unwrap()
}

/// Writes keys that no test watches until `stop` is set.
fn noise(etcd: &Etcd, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (store, stop) = (store(&etcd.endpoint()), Arc::clone(stop));
    tokio::spawn(async move {
        while !stop.load(Ordering::SeqCst) {
            write(&store, &key("/noise"), "x").await;
            sleep(Duration::from_millis(1)).await;
        }
    })
}

#[tokio::test]
async fn newest_before_first_write_is_empty() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    // The revision of an empty store is 1. The server would treat the bound "at or before 0" as no
    // bound.
    assert_eq!(write(&store, &key("/q/a"), "1").await, 2);
    for before in [0, 1, 2] {
        let reply = newest(&store, Some(before), 1).await;
        assert!(reply.kvs.is_empty() && !reply.more, "before {before}: {reply:?}");
    }
    for before in [3, u64::MAX] {
        assert_eq!(newest(&store, Some(before), 1).await.kvs.len(), 1, "before {before}");
    }
    let error = store.commit(Txn::new(vec![Op::Newest { below: key("/q"), before: None, limit: 0 }])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "the server would treat a limit of zero as no limit: {error}");
}

#[tokio::test]
async fn newest_returns_non_utf8_keys() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    // Writes the directory with a trailing slash, two keys that are not valid paths, and a key that
    // is not text: `/q/`, `/q//x`, `/q/` with a zero byte, and `/q/` with 0xff.
    for stored in ["L3Ev", "L3EvL3g=", "L3EvAA==", "L3Ev/w=="] {
        etcd.call("/v3/kv/put", &format!(r#"{{"key": "{stored}", "value": "eA=="}}"#)).await;
    }
    let reply = newest(&store, None, 9).await;
    let seen: Vec<&Bytes> = reply.kvs.iter().map(|kv| &kv.key).collect();
    assert_eq!(seen, [&b"/q/\xff"[..], b"/q/\0", b"/q//x"]);
}

#[tokio::test]
async fn live_watch_reports_skipped_revisions() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let a = key("/app/a");
    let start = write(&store, &a, "0").await;
    store.commit(delete(&a)).await.unwrap();
    let now = write(&store, &key("/elsewhere"), "1").await;
    let mut skipping = watch(&store, WatchFrom::Live(Revision::new(start))).await;
    let mut early = watch(&store, WatchFrom::Live(Revision::ZERO)).await;
    let mut resting = watch(&store, WatchFrom::Live(Revision::new(now))).await;
    let next_write = write(&store, &a, "2").await;
    assert_eq!(next(&mut skipping).await, WatchItem::Skipped(Revision::new(now)));
    assert_eq!(next(&mut early).await, WatchItem::Skipped(Revision::new(now)));
    for stream in [&mut skipping, &mut early, &mut resting] {
        assert_eq!(batch(stream).await.revision.get(), next_write);
    }
    // A live watch does not need the history that was compacted.
    etcd.compact().await;
    let mut compacted = watch(&store, WatchFrom::Live(Revision::new(start))).await;
    assert_eq!(next(&mut compacted).await, WatchItem::Skipped(Revision::new(next_write)));
    let gone = store.commit(delete(&a)).await.unwrap().revision;
    let last = batch(&mut compacted).await;
    assert!(last.revision == gone && matches!(last.events[..], [Event::Delete { .. }]), "{last:?}");
}

/// The server reports its revision and registers the watch a moment later. Changes written between
/// the two are not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_watches_have_no_gap_at_start() {
    const WATCHES: usize = 200;
    const BATCHES: usize = 20;
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let start = WatchFrom::Live(Revision::new(write(&store, &key("/app/a"), "start").await));
    write(&store, &key("/app/a"), "moved on").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = |writer| {
        let (store, stop) = (super::store(&etcd.endpoint()), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut written = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                written.push(Revision::new(write(&store, &key(&format!("/app/{writer}")), "x").await));
            }
            written
        })
    };
    let writers: Vec<_> = (0..4).map(writer).collect();
    let mut seen = Vec::new();
    for _ in 0..WATCHES {
        let mut stream = watch(&store, start).await;
        let WatchItem::Skipped(from) = next(&mut stream).await else { panic!("the store has newer revisions") };
        let mut revisions = Vec::new();
        while revisions.len() < BATCHES {
            revisions.push(batch(&mut stream).await.revision);
        }
        seen.push((from, revisions));
    }
    stop.store(true, Ordering::SeqCst);
    let mut written = Vec::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    written.sort_unstable();
    for (from, revisions) in seen {
        let expected: Vec<_> = written.iter().copied().filter(|revision| *revision > from).take(BATCHES).collect();
        assert_eq!(revisions, expected, "after {from}");
    }
}

/// The server serves a watch that starts at a past revision from a periodic loop. The events of a
/// live watch are sent together with the write. The test measures the two kinds in turns, so that
/// other load on the machine affects both alike.
#[tokio::test]
async fn live_watch_gets_events_without_polling_delay() {
    const ROUNDS: usize = 15;
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let stop = Arc::new(AtomicBool::new(false));
    let noise = noise(&etcd, &stop);
    let (mut listed, mut live) = (Vec::new(), Vec::new());
    let measured = timeout(PATIENCE, async {
        while listed.len() < ROUNDS || live.len() < ROUNDS {
            listed.extend(first_event(&store, WatchFrom::Listed).await);
            live.extend(first_event(&store, WatchFrom::Live).await);
        }
    });
    measured.await.expect("enough writes are faster than the server's loop");
    stop.store(true, Ordering::SeqCst);
    noise.await.unwrap();
    let (listed, live) = (median(listed), median(live));
    println!("from the write to its event: {listed:?} after a list, {live:?} live");
    assert!(listed > 10 * live, "{listed:?} after a list, {live:?} live");
}

/// Returns the time from the acknowledgement of a write to its event, on a watch that starts before
/// the store's newest revision. Returns `None` if the write took so long that the server's loop may
/// have run meanwhile.
async fn first_event(store: &V3Store, from: fn(Revision) -> WatchFrom) -> Option<Duration> {
    let a = key("/app/a");
    let listed = write(store, &a, "before").await;
    write(store, &key("/noise"), "at least one").await;
    let mut stream = watch(store, from(Revision::new(listed))).await;
    let begun = Instant::now();
    let write = async { (write(store, &a, "first").await, Instant::now()) };
    let event = async {
        let batch = loop {
            match next(&mut stream).await {
                WatchItem::Batch(batch) => break batch,
                WatchItem::Skipped(_) => {}
                other => panic!("{other:?}"),
            }
        };
        (batch.revision.get(), Instant::now())
    };
    let ((written, acknowledged), (seen, arrived)) = tokio::join!(write, event);
    assert_eq!(seen, written);
    (acknowledged - begun < Duration::from_millis(30)).then(|| arrived.saturating_duration_since(acknowledged))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
