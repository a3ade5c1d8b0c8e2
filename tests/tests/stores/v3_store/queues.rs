//! What queues of locks and elections are made of, on a real server: the newest keys of a directory, and watches that start at once. What
//! all stores do of it is in the conformance suite.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Batch, Event, Op, OpResult, RangeReply, Span, Store, Txn, Watch, WatchFrom, WatchItem, WatchStream};
use etcd_typed::testing::Etcd;
use etcd_typed::{ErrorKind, Revision};
use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{PATIENCE, delete, key, store, write};

async fn newest(store: &V3Store, before: Option<u64>, limit: usize) -> RangeReply {
    let op = Op::Newest { below: key("/q"), before: before.map(Revision::new), limit };
    let committed = store.commit(Txn { then: vec![op], ..Txn::default() }).await.unwrap();
    match <[OpResult; 1]>::try_from(committed.results) {
        Ok([OpResult::Get(reply)]) => reply,
        other => panic!("{other:?}"),
    }
}

async fn watch(store: &V3Store, from: WatchFrom) -> WatchStream {
    store.watch(Watch { span: Span::Below(key("/app")), from }).await.unwrap()
}

async fn next(stream: &mut WatchStream) -> WatchItem {
    timeout(PATIENCE, stream.next()).await.expect("an item in time").expect("an item").expect("no error")
}

async fn batch(stream: &mut WatchStream) -> Batch {
    match next(stream).await {
        WatchItem::Batch(batch) => batch,
        other => panic!("{other:?}"),
    }
}

/// Writes keys that nobody watches until it is told to stop.
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
async fn no_key_came_to_be_before_the_first_write() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    // The revision of an empty store is 1. For a server the bound "at or before 0" is none at all.
    assert_eq!(write(&store, &key("/q/a"), "1").await, 2);
    for before in [0, 1, 2] {
        let reply = newest(&store, Some(before), 1).await;
        assert!(reply.kvs.is_empty() && !reply.more, "before {before}: {reply:?}");
    }
    for before in [3, u64::MAX] {
        assert_eq!(newest(&store, Some(before), 1).await.kvs.len(), 1, "before {before}");
    }
    let error =
        store.commit(Txn { then: vec![Op::Newest { below: key("/q"), before: None, limit: 0 }], ..Txn::default() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "for a server a limit of zero is none: {error}");
}

#[tokio::test]
async fn the_keys_of_others_come_as_they_are_stored() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    // The directory with a slash, two names that are no names, and bytes that are no text: `/q/`, `/q//x`, `/q/` and a zero, `/q/` and 0xff.
    for stored in ["L3Ev", "L3EvL3g=", "L3EvAA==", "L3Ev/w=="] {
        etcd.call("/v3/kv/put", &format!(r#"{{"key": "{stored}", "value": "eA=="}}"#)).await;
    }
    let reply = newest(&store, None, 9).await;
    let seen: Vec<&Bytes> = reply.kvs.iter().map(|kv| &kv.key).collect();
    assert_eq!(seen, [&b"/q/\xff"[..], b"/q/\0", b"/q//x"]);
}

#[tokio::test]
async fn a_live_watch_says_what_it_skipped_and_one_at_rest_says_nothing() {
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
    // A history that is lost is none that it looks for.
    etcd.compact().await;
    let mut compacted = watch(&store, WatchFrom::Live(Revision::new(start))).await;
    assert_eq!(next(&mut compacted).await, WatchItem::Skipped(Revision::new(next_write)));
    let gone = store.commit(delete(&a)).await.unwrap().revision;
    let last = batch(&mut compacted).await;
    assert!(last.revision == gone && matches!(last.events[..], [Event::Delete { .. }]), "{last:?}");
}

/// The server says where it is, and enters the watch a moment later; what is written between the two is not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_watches_that_start_among_writes_have_no_gap() {
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
        let WatchItem::Skipped(from) = next(&mut stream).await else { panic!("the store had moved on") };
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

/// A store that has moved on serves a watch that goes back from a loop, and one that does not with the write. In turns, so that whatever else
/// the machine does is the same for both.
#[tokio::test]
async fn the_first_event_of_a_live_watch_does_not_wait_for_the_servers_loop() {
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
    measured.await.expect("writes that are quicker than the server's loop");
    stop.store(true, Ordering::SeqCst);
    noise.await.unwrap();
    let (listed, live) = (median(listed), median(live));
    println!("from the write to its event: {listed:?} after a list, {live:?} live");
    assert!(listed > 10 * live, "{listed:?} after a list, {live:?} live");
}

/// How long after its acknowledgement the first write is seen by a watch of a store that has moved on. None if the write itself took
/// so long that the loop may have come round meanwhile.
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
