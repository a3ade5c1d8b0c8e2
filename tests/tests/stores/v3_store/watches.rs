//! Watches on real servers.

use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Batch, Event, Op, Range, Span, Store, Txn, Watch, WatchFrom, WatchItem, WatchStream};
use etcd_typed::testing::{Etcd, Proxy};
use etcd_typed::{ErrorKind, Key, Revision};
use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

use super::raw::Admin;
use super::{PATIENCE, delete, key, metric_of, options, put, store, write};

/// The metric with the number of watches on the server.
pub(super) const WATCHERS: &str = "etcd_debugging_mvcc_watcher_total";

pub(super) async fn watch(store: &V3Store, span: Span, from: WatchFrom) -> WatchStream {
    store.watch(Watch::new(span, from)).await.unwrap()
}

pub(super) async fn next(stream: &mut WatchStream) -> WatchItem {
    timeout(PATIENCE, stream.next()).await.expect("an item in time").expect("an item").expect("no error")
}

pub(super) async fn batch(stream: &mut WatchStream) -> Batch {
    match next(stream).await {
        WatchItem::Batch(batch) => batch,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn ends(stream: &mut WatchStream) -> bool {
    timeout(PATIENCE, stream.next()).await.expect("an end in time").is_none()
}

/// Returns `path=value` for a put, and `path` for a delete.
fn text(event: &Event) -> String {
    match event {
        Event::Put { kv, .. } => format!("{}={}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value)),
        Event::Delete { key, .. } => String::from_utf8_lossy(key).into_owned(),
    }
}

pub(super) fn texts(batch: &Batch) -> Vec<String> {
    batch.events.iter().map(text).collect()
}

pub(super) async fn until_metric(etcd: &Etcd, name: &str, wanted: f64) {
    let reached = timeout(PATIENCE, async {
        while metric_of(etcd, name).await != wanted {
            sleep(Duration::from_millis(20)).await;
        }
    });
    reached.await.unwrap_or_else(|_| panic!("{name} does not become {wanted}"));
}

#[tokio::test]
async fn watch_yields_whole_revisions_in_order() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let (app, a, b) = (key("/app"), key("/app/a"), key("/app/b"));
    let listed = write(&store, &a, "0").await;
    let mut stream = watch(&store, Span::Below(app.clone()), WatchFrom::Listed(Revision::new(listed))).await;
    let mut single = watch(&store, Span::Key(b.clone()), WatchFrom::Listed(Revision::new(listed))).await;
    write(&store, &key("/apple"), "not below /app").await;
    write(&store, &app, "not below itself").await;
    let txn = Txn::new(vec![Op::put(&a, Bytes::from("1")), Op::put(&b, Bytes::from("2"))]);
    let both = store.commit(txn).await.unwrap().revision;
    let gone = store.commit(delete(&a)).await.unwrap().revision;

    let first = batch(&mut stream).await;
    assert_eq!((first.revision, texts(&first)), (both, vec!["/app/a=1".to_owned(), "/app/b=2".to_owned()]));
    let second = batch(&mut stream).await;
    assert_eq!((second.revision, texts(&second)), (gone, vec!["/app/a".to_owned()]));
    let only = batch(&mut single).await;
    assert_eq!((only.revision, texts(&only)), (both, vec!["/app/b=2".to_owned()]));
}

#[tokio::test]
async fn writes_between_list_and_watch_are_seen() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let a = key("/app/a");
    let listed = write(&store, &a, "0").await;
    write(&store, &a, "1").await;
    store.commit(delete(&a)).await.unwrap();
    for from in [WatchFrom::Listed(Revision::new(listed)), WatchFrom::Resumed(Revision::new(listed))] {
        let mut stream = watch(&store, Span::Below(key("/app")), from).await;
        assert_eq!(texts(&batch(&mut stream).await), ["/app/a=1"], "{from:?}");
        assert_eq!(texts(&batch(&mut stream).await), ["/app/a"], "{from:?}");
    }
}

#[tokio::test]
async fn watch_from_zero_sees_whole_history() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let a = key("/app/a");
    write(&store, &a, "0").await;
    for from in [WatchFrom::Listed(Revision::ZERO), WatchFrom::Resumed(Revision::ZERO), WatchFrom::Resumed(Revision::new(1))] {
        let mut stream = watch(&store, Span::Key(a.clone()), from).await;
        assert_eq!(texts(&batch(&mut stream).await), ["/app/a=0"], "{from:?}");
    }
}

#[tokio::test]
async fn watch_notices_compacted_delete() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let a = key("/app/a");
    let first = write(&store, &a, "0").await;
    write(&store, &a, "1").await;
    let gone = store.commit(delete(&a)).await.unwrap().revision.get();
    Admin::of(&etcd.endpoint()).compact(gone).await;
    // A watcher that saw the revision before the delete must learn of the delete. If the store
    // asked for changes from `gone` on, 3.4.23 and 3.5.1 would silently omit the delete.
    for seen in [first, gone - 1] {
        for from in [WatchFrom::Listed(Revision::new(seen)), WatchFrom::Resumed(Revision::new(seen))] {
            let mut stream = watch(&store, Span::Below(key("/app")), from).await;
            let oldest = Some(Revision::new(gone));
            assert_eq!(next(&mut stream).await, WatchItem::HistoryLost { oldest }, "{from:?}");
            assert!(ends(&mut stream).await);
        }
    }
    let mut stream = watch(&store, Span::Below(key("/app")), WatchFrom::Resumed(Revision::new(gone))).await;
    write(&store, &a, "2").await;
    assert_eq!(texts(&batch(&mut stream).await), ["/app/a=2"]);
}

#[tokio::test]
async fn watch_of_wiped_server_reports_behind() {
    let mut etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let a = key("/app/a");
    let mut last = 0;
    for value in 0..5 {
        last = write(&store, &a, value.to_string()).await;
    }
    let mut stream = watch(&store, Span::Key(a.clone()), WatchFrom::Listed(Revision::new(last))).await;
    etcd.wipe().await;
    let broken = timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::Unavailable, "{broken}");
    assert!(ends(&mut stream).await);
    for from in [WatchFrom::Listed(Revision::new(last)), WatchFrom::Resumed(Revision::new(last))] {
        let mut stream = eventually(&store, Span::Key(a.clone()), from).await;
        assert_eq!(next(&mut stream).await, WatchItem::Behind(Revision::new(1)), "{from:?}");
        assert!(ends(&mut stream).await);
    }
}

/// Repeats `watch` until it succeeds, because the store makes one attempt.
async fn eventually(store: &V3Store, span: Span, from: WatchFrom) -> WatchStream {
    let attempts = async {
        loop {
            match store.watch(Watch::new(span.clone(), from)).await {
                Ok(stream) => return stream,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, attempts).await.expect("a watch in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_yields_whole_history_despite_kills() {
    const WRITES: u64 = 3000;
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let through_proxy = V3Store::new(&options([proxy.endpoint().as_str()])).unwrap();
    let span = Span::Below(key("/app"));

    let endpoint = etcd.endpoint();
    let writer = tokio::spawn(async move {
        let store = store(&endpoint);
        let mut written = Vec::new();
        for number in 0..WRITES {
            let mut then = vec![Op::put(&key(&format!("/app/{}", number % 7)), Bytes::from(number.to_string()))];
            if number % 3 == 0 {
                then.push(Op::put(&key("/app/also"), Bytes::from(number.to_string())));
            }
            let txn = Txn::new(then);
            // A write with an unknown outcome may or may not appear in the history.
            if let Ok(committed) = store.commit(txn).await {
                written.push((committed.revision, number));
            }
        }
        written
    });
    let watcher = tokio::spawn(async move {
        let mut seen: Vec<Batch> = Vec::new();
        let mut breaks = 0;
        let mut last = Revision::ZERO;
        loop {
            let mut stream = eventually(&through_proxy, Span::Below(key("/app")), WatchFrom::Resumed(last)).await;
            while let Some(item) = timeout(PATIENCE, stream.next()).await.expect("an item in time") {
                match item {
                    Ok(WatchItem::Batch(batch)) => {
                        last = batch.revision;
                        let end = batch.events.iter().any(|event| text(event) == "/app/end=end");
                        seen.push(batch);
                        if end {
                            return (seen, breaks);
                        }
                    }
                    Ok(WatchItem::Progress(revision)) => last = last.max(revision),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => {
                        assert!(error.is_retryable(), "{error}");
                        breaks += 1;
                    }
                }
            }
        }
    });
    let mut faults = 0;
    while !writer.is_finished() {
        sleep(Duration::from_millis(60)).await;
        if faults % 4 == 3 {
            etcd.restart().await;
        } else if faults % 4 == 1 {
            proxy.cut_after(200);
        } else {
            proxy.cut();
        }
        faults += 1;
    }
    let written = writer.await.unwrap();
    let direct = store(&etcd.endpoint());
    let end = timeout(PATIENCE, async {
        loop {
            if let Ok(committed) = direct.commit(put(&key("/app/end"), "end")).await {
                return committed.revision;
            }
        }
    });
    let end = end.await.unwrap();
    let (seen, breaks) = timeout(PATIENCE, watcher).await.expect("the watcher sees the end").unwrap();
    println!("{faults} faults, {breaks} breaks, {} of {WRITES} writes acknowledged, {} revisions seen", written.len(), seen.len());
    assert!(breaks >= 5, "the faults must have hit the watch: {breaks}");

    // Reads the whole history again without faults, as the expected result.
    let mut stream = watch(&direct, span.clone(), WatchFrom::Resumed(Revision::ZERO)).await;
    let mut truth = Vec::new();
    while truth.last().is_none_or(|batch: &Batch| batch.revision < end) {
        truth.push(batch(&mut stream).await);
    }
    assert!(seen == truth, "{} batches seen, {} in the history", seen.len(), truth.len());
    for (revision, number) in written {
        let found = truth.iter().find(|batch| batch.revision == revision).expect("an acknowledged write is in the history");
        assert!(texts(found).iter().any(|text| text.ends_with(&format!("={number}"))));
    }
}

#[tokio::test]
async fn dropped_watches_end_on_server() {
    const WATCHES: usize = 300;
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let listed = WatchFrom::Listed(Revision::new(write(&store, &key("/app/a"), "0").await));
    let mut streams = Vec::new();
    for number in 0..WATCHES {
        streams.push(watch(&store, Span::Key(key(&format!("/app/{number}"))), listed).await);
    }
    assert_eq!(metric_of(&etcd, "etcd_debugging_mvcc_watch_stream_total").await, 1.0);
    assert_eq!(metric_of(&etcd, WATCHERS).await, 300.0);
    let keep = streams.split_off(WATCHES - 1);
    drop(streams);
    until_metric(&etcd, WATCHERS, 1.0).await;
    drop(keep);
    until_metric(&etcd, "etcd_debugging_mvcc_watch_stream_total", 0.0).await;
    // The next watch opens a new stream.
    let mut stream = watch(&store, Span::Key(key("/app/a")), listed).await;
    write(&store, &key("/app/a"), "1").await;
    assert_eq!(texts(&batch(&mut stream).await), ["/app/a=1"]);
}

#[tokio::test]
async fn repeated_watches_leave_nothing_on_server() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let listed = WatchFrom::Listed(Revision::new(write(&store, &key("/app/a"), "0").await));
    let mut kept = watch(&store, Span::Key(key("/app/a")), listed).await;
    for round in 0..2000 {
        let opened = watch(&store, Span::Key(key("/app/b")), listed).await;
        if round % 2 == 0 {
            // This watch is dropped while it is created.
            let second = store.watch(Watch::new(Span::Key(key("/app/b")), listed));
            drop(timeout(Duration::from_micros(50), second).await);
        }
        drop(opened);
    }
    until_metric(&etcd, WATCHERS, 1.0).await;
    write(&store, &key("/app/a"), "1").await;
    assert_eq!(texts(&batch(&mut kept).await), ["/app/a=1"]);
}

#[tokio::test]
async fn only_slow_reader_lags() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    let a = key("/app/a");
    let first = write(&store, &a, "0").await;
    let listed = WatchFrom::Listed(Revision::new(first));
    let mut idle = watch(&store, Span::Key(a.clone()), listed).await;
    let mut busy = watch(&store, Span::Key(a.clone()), listed).await;
    let lease = etcd_typed::LeaseId::random();
    store.grant(lease, Duration::from_secs(60)).await.unwrap();
    // The values total 30 MB. That is more than the client buffers for a reader, and more than the
    // flow-control windows of a connection.
    let value = Bytes::from(vec![b'x'; 100_000]);
    for number in 1..=300 {
        let revision = write(&store, &a, value.clone()).await;
        assert_eq!(batch(&mut busy).await.revision, Revision::new(first + number), "{revision}");
        if number % 50 == 0 {
            store.keep_alive(lease).await.unwrap();
        }
    }
    let mut kept = 0;
    loop {
        match next(&mut idle).await {
            WatchItem::Batch(batch) => {
                kept += 1;
                assert_eq!(batch.revision, Revision::new(first + kept));
            }
            WatchItem::Lagged => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(ends(&mut idle).await);
    assert!((1..300).contains(&kept), "{kept}");
    // The caller resumes after the last batch that it saw.
    let mut again = watch(&store, Span::Key(a.clone()), WatchFrom::Resumed(Revision::new(first + kept))).await;
    for number in kept + 1..=300 {
        assert_eq!(batch(&mut again).await.revision, Revision::new(first + number));
    }
}

#[tokio::test]
async fn fragmented_replay_misses_nothing() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    // Each revision has two keys of 600 kB, so a fragment (2 MB) ends in the middle of a revision.
    let value = Bytes::from(vec![b'y'; 600_000]);
    for _ in 0..40 {
        let then = vec![Op::put(&key("/app/a"), value.clone()), Op::put(&key("/app/b"), value.clone())];
        store.commit(Txn::new(then)).await.unwrap();
    }
    let now = store.range(Range::of(Span::Key(key("/app/a")))).await.unwrap().revision;
    let mut stream = watch(&store, Span::Below(key("/app")), WatchFrom::Resumed(Revision::ZERO)).await;
    for revision in 2..=now.get() {
        let batch = batch(&mut stream).await;
        let keys: Vec<&Bytes> = batch.events.iter().map(Event::key).collect();
        assert_eq!((batch.revision.get(), keys), (revision, vec![&Bytes::from("/app/a"), &Bytes::from("/app/b")]));
    }
}

#[tokio::test]
async fn watch_of_frozen_server_ends() {
    let etcd = Etcd::start().await;
    let mut options = options([etcd.endpoint().as_str()]);
    options.keep_alive_interval = Duration::from_secs(5);
    let store = V3Store::new(&options).unwrap();
    let listed = WatchFrom::Listed(Revision::new(write(&store, &key("/app/a"), "0").await));
    let mut stream = watch(&store, Span::Below(key("/app")), listed).await;
    etcd.pause();
    let error = timeout(PATIENCE, stream.next()).await.expect("the watch ends in time").unwrap().unwrap_err();
    etcd.resume();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(ends(&mut stream).await);
}

#[tokio::test]
async fn watch_without_server_fails_as_unavailable() {
    let store = store("127.0.0.1:1");
    let wanted = Watch::new(Span::Key(Key::root().child("a")), WatchFrom::Listed(Revision::new(1)));
    let error = store.watch(wanted).await.err().expect("no server listens");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!error.may_have_applied());
}

#[tokio::test]
async fn watch_at_isolated_member_ends() {
    let mut cluster = Etcd::cluster(3).await;
    let store = store(&cluster.member(0).endpoint());
    let listed = WatchFrom::Listed(Revision::new(write(&store, &key("/app/a"), "0").await));
    let mut stream = watch(&store, Span::Below(key("/app")), listed).await;
    cluster.member(1).kill().await;
    cluster.member(2).kill().await;
    // Without the request header `hasleader`, the watch would be silent forever.
    let error = timeout(PATIENCE, stream.next()).await.expect("the watch ends in time").unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("no leader"), "{error}");
}
