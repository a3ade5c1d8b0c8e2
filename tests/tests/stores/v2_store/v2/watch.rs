//! Watches of the v2 store on a real server: what they yield, how they end, and that a resumed
//! watch misses no change.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::connect::{ConnectOptions, Endpoint};
use etcd_typed::store::v2::V2Store;
use etcd_typed::store::{Event, Expiry, Op, Span, StatsKind, Store, Txn, Watch, WatchFrom, WatchItem, WatchStream};
use etcd_typed::testing::{CountingStore, Etcd, Mode, Proxy};
use etcd_typed::{Client, ErrorKind, Key, Result, Revision};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};

use super::{cluster, launch};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// Returns options with short intervals for idle watches.
fn options(ports: &[u16]) -> ConnectOptions {
    let endpoint = |port: &u16| Endpoint { host: "127.0.0.1".to_owned(), port: *port };
    let mut options = ConnectOptions::new(ports.iter().map(endpoint).collect());
    options.keep_alive_interval = Duration::from_millis(200);
    options.progress_interval = Duration::from_millis(400);
    options.retry.read_attempt_timeout = Duration::from_millis(500);
    options
}

fn connect(port: u16) -> V2Store {
    V2Store::new(options(&[port])).expect("a store")
}

fn key(path: &str) -> Key {
    Key::parse(path).expect("a key")
}

async fn commit(store: &V2Store, op: Op) -> Revision {
    store.commit(Txn::new(vec![op])).await.expect("a write").revision
}

async fn put(store: &V2Store, path: &str, value: &str) -> Revision {
    commit(store, Op::put(&key(path), Bytes::copy_from_slice(value.as_bytes()))).await
}

async fn delete_below(store: &V2Store, path: &str) -> Revision {
    commit(store, Op::Delete { span: Span::Below(key(path)), previous: false }).await
}

async fn watch(store: &V2Store, span: Span, after: Revision) -> WatchStream {
    store.watch(Watch::new(span, WatchFrom::Listed(after))).await.expect("a watch")
}

fn below(path: &str) -> Span {
    Span::Below(key(path))
}

async fn next(stream: &mut WatchStream) -> Option<Result<WatchItem>> {
    timeout(LIMIT, stream.next()).await.expect("an item in time")
}

/// Returns the next change as a short text. Skips progress items.
async fn change(stream: &mut WatchStream) -> String {
    loop {
        match next(stream).await.expect("an item").expect("no error") {
            WatchItem::Progress(_) => {}
            WatchItem::Batch(batch) => {
                let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                let [event] = batch.events.as_slice() else { panic!("{batch:?}") };
                return match event {
                    Event::Put { kv, .. } => {
                        assert_eq!(kv.modified, batch.revision);
                        format!("{}={}", text(&kv.key), text(&kv.value))
                    }
                    Event::Delete { key, directory, .. } => format!("-{}{}", text(key), if *directory { "/" } else { "" }),
                };
            }
            other => return format!("{other:?}"),
        }
    }
}

/// Returns the last item of a watch, and checks that no item follows.
async fn last(mut stream: WatchStream) -> Result<WatchItem> {
    loop {
        match next(&mut stream).await.expect("no silent end") {
            Ok(WatchItem::Batch(_) | WatchItem::Progress(_)) => {}
            last => {
                assert!(next(&mut stream).await.is_none());
                return last;
            }
        }
    }
}

#[tokio::test]
async fn past_and_new_changes_come_in_order() {
    let etcd = launch(Etcd::builder()).await;
    let store = connect(etcd.port());
    let start = put(&store, "/other", "x").await;
    put(&store, "/app/a", "1").await;
    put(&store, "/app/_hidden/x", "h").await;
    put(&store, "/apple", "no").await;
    put(&store, "/app/dir/b c", "2").await;
    let mut all = watch(&store, below("/app"), start).await;
    let mut one = watch(&store, Span::Key(key("/app/a")), start).await;
    put(&store, "/app/_hidden/x", "h").await;
    put(&store, "/app/a", "3").await;
    commit(&store, Op::MakeDir { key: key("/app/empty"), ttl: None }).await;
    commit(&store, Op::delete(&key("/app/a"))).await;
    let mut root = watch(&store, Span::Below(Key::root()), start).await;
    for expected in ["/app/a=1", "/apple=no", "/app/dir/b c=2", "/app/a=3", "-/app/a"] {
        assert_eq!(change(&mut root).await, expected);
    }
    for expected in ["/app/a=1", "/app/dir/b c=2", "/app/a=3", "-/app/a"] {
        assert_eq!(change(&mut all).await, expected);
    }
    for expected in ["/app/a=1", "/app/a=3", "-/app/a"] {
        assert_eq!(change(&mut one).await, expected);
    }
}

#[tokio::test]
async fn open_watch_sees_every_later_write() {
    let etcd = launch(Etcd::builder()).await;
    let store = connect(etcd.port());
    let mut start = put(&store, "/app/a", "0").await;
    for round in 0..50 {
        let mut stream = watch(&store, below("/app"), start).await;
        start = put(&store, "/app/a", &round.to_string()).await;
        assert_eq!(change(&mut stream).await, format!("/app/a={round}"));
    }
}

#[tokio::test]
async fn removed_directory_is_one_event() {
    let etcd = launch(Etcd::builder()).await;
    let store = connect(etcd.port());
    let start = put(&store, "/top/app/dir/a", "1").await;
    put(&store, "/top/app/dir/deep/b", "1").await;
    let mut all = watch(&store, below("/top/app"), start).await;
    let mut one = watch(&store, Span::Key(key("/top/app/dir/a")), start).await;
    // The text of this path is a prefix of the watched paths, but its segments are not.
    put(&store, "/top/ap/x", "1").await;
    delete_below(&store, "/top/ap").await;
    delete_below(&store, "/top/app/dir").await;
    put(&store, "/top/app/dir/a", "2").await;
    delete_below(&store, "/top").await;
    for expected in ["/top/app/dir/deep/b=1", "-/top/app/dir/", "/top/app/dir/a=2", "-/top/"] {
        assert_eq!(change(&mut all).await, expected);
    }
    for expected in ["-/top/app/dir/", "/top/app/dir/a=2", "-/top/"] {
        assert_eq!(change(&mut one).await, expected);
    }
    commit(&store, Op::MakeDir { key: key("/top/app/short"), ttl: Some(Duration::from_secs(1)) }).await;
    put(&store, "/top/app/short/x", "1").await;
    let lasting = Op::Put { key: key("/top/app/y"), value: Bytes::new(), expiry: Expiry::After(Duration::from_secs(2)), previous: false };
    commit(&store, lasting).await;
    for expected in ["/top/app/short/x=1", "/top/app/y=", "-/top/app/short/", "-/top/app/y"] {
        assert_eq!(change(&mut all).await, expected);
    }
}

#[tokio::test]
async fn watch_before_event_window_reports_loss() {
    let etcd = launch(Etcd::builder()).await;
    let store = connect(etcd.port());
    let start = put(&store, "/app/a", "1").await;
    for _ in 0..1001 {
        put(&store, "/other", "x").await;
    }
    let lost = last(watch(&store, below("/app"), start).await).await.unwrap();
    assert_eq!(lost, WatchItem::HistoryLost { oldest: Some(Revision::new(start.get() + 2)) });
    let newest = put(&store, "/app/a", "2").await;
    let mut again = watch(&store, below("/app"), newest.previous()).await;
    assert_eq!(change(&mut again).await, "/app/a=2");
}

#[tokio::test]
async fn idle_watch_survives_event_window() {
    let etcd = launch(Etcd::builder()).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let (direct, store) = (connect(etcd.port()), connect(proxy.addr().port()));
    let start = put(&direct, "/app/a", "1").await;
    let mut stream = watch(&store, below("/app"), start).await;
    let mut newest = start;
    for _ in 0..1500 {
        newest = put(&direct, "/other", "x").await;
    }
    // No change is below the watched directory, but the watch reports progress in steps up to the
    // last write.
    let mut yielded = start;
    while yielded < newest {
        match next(&mut stream).await.unwrap().unwrap() {
            WatchItem::Progress(revision) => {
                assert!(revision > yielded, "{revision} after {yielded}");
                yielded = revision;
            }
            other => panic!("{other:?}"),
        }
    }
    proxy.cut();
    assert!(last(stream).await.unwrap_err().is_retryable());
    put(&direct, "/app/a", "2").await;
    let mut resumed = watch(&store, below("/app"), yielded).await;
    assert_eq!(change(&mut resumed).await, "/app/a=2");
}

#[tokio::test]
async fn watch_yields_whole_history_despite_kills() {
    let mut etcd = launch(Etcd::builder()).await;
    let store = connect(etcd.port());
    let mut yielded = put(&store, "/app/start", "x").await;
    let mut seen = Vec::new();
    let mut written = Vec::new();
    for round in 0..5 {
        let mut stream = watch(&store, below("/app"), yielded).await;
        for step in 0..20 {
            let value = format!("{round}-{step}");
            put(&store, "/app/a", &value).await;
            written.push(value);
        }
        etcd.kill().await;
        let error = loop {
            match next(&mut stream).await.expect("no silent end") {
                Ok(WatchItem::Batch(batch)) => {
                    assert!(batch.revision > yielded);
                    yielded = batch.revision;
                    for event in batch.events {
                        let Event::Put { kv, .. } = event else { panic!("{event:?}") };
                        seen.push(String::from_utf8(kv.value.to_vec()).unwrap());
                    }
                }
                Ok(WatchItem::Progress(revision)) => yielded = revision,
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(error.is_retryable(), "{error:?}");
        let refused = store.watch(Watch::new(below("/app"), WatchFrom::Resumed(yielded))).await;
        assert!(refused.err().expect("no server").is_retryable());
        etcd.restart().await;
    }
    let mut stream = watch(&store, below("/app"), yielded).await;
    while seen.len() < written.len() {
        let shown = change(&mut stream).await;
        seen.push(shown.strip_prefix("/app/a=").expect("a put").to_owned());
    }
    assert_eq!(seen, written);
}

#[tokio::test]
async fn watch_of_wiped_server_reports_behind() {
    let mut etcd = launch(Etcd::builder()).await;
    let store = connect(etcd.port());
    let mut start = Revision::ZERO;
    for _ in 0..20 {
        start = put(&store, "/app/a", "x").await;
    }
    etcd.wipe().await;
    match last(watch(&store, below("/app"), start).await).await.unwrap() {
        WatchItem::Behind(revision) => assert!(revision < start),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn watch_ends_when_server_or_network_stalls() {
    let etcd = launch(Etcd::builder()).await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let start = put(&connect(etcd.port()), "/app/a", "1").await;

    let stream = watch(&connect(proxy.addr().port()), below("/app"), start).await;
    proxy.set(Mode::Stall).await;
    assert!(last(stream).await.unwrap_err().is_retryable());

    let stream = watch(&connect(etcd.port()), below("/app"), start).await;
    etcd.pause();
    let ended = last(stream).await;
    etcd.resume();
    assert!(ended.unwrap_err().is_retryable());
}

#[tokio::test]
async fn watch_of_isolated_member_ends() {
    let mut cluster = cluster().await;
    let ports = [cluster.member(0).port(), cluster.member(1).port()];
    let store = V2Store::new(options(&ports)).unwrap();
    let start = put(&store, "/app/a", "1").await;
    let stream = watch(&store, below("/app"), start).await;
    cluster.member(1).pause();
    cluster.member(2).pause();
    let ended = last(stream).await;
    cluster.member(1).resume();
    cluster.member(2).resume();
    assert!(ended.unwrap_err().is_retryable());
    let mut resumed = resume(&store, start).await;
    put(&connect(ports[1]), "/app/a", "2").await;
    // Until the members have elected a leader again, the watch may end. Then the test resumes it.
    let batch = loop {
        match next(&mut resumed).await {
            Some(Ok(WatchItem::Progress(_))) => {}
            Some(Ok(WatchItem::Batch(batch))) => break batch,
            Some(Err(error)) if error.is_retryable() => resumed = resume(&store, start).await,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(batch.events.as_slice(), [Event::Put { kv, .. }] if kv.value == "2"), "{batch:?}");
}

/// Resumes the watch after `start` as soon as the server accepts it.
async fn resume(store: &V2Store, start: Revision) -> WatchStream {
    let deadline = Instant::now() + LIMIT;
    loop {
        match store.watch(Watch::new(below("/app"), WatchFrom::Resumed(start))).await {
            Ok(stream) => return stream,
            Err(error) => assert!(error.is_retryable() && Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn slow_reader_gets_buffered_batches_then_lagged() {
    let etcd = launch(Etcd::builder()).await;
    let store = connect(etcd.port());
    let start = put(&store, "/app/a", "x").await;
    let mut stream = watch(&store, below("/app"), start).await;
    let mut newest = start;
    for _ in 0..1200 {
        newest = put(&store, "/app/a", "x").await;
    }
    // When the server no longer counts a poll, the watch's task has stopped reading.
    no_watchers(&store).await;
    let mut yielded = start;
    let mut batches = 0;
    let end = loop {
        match next(&mut stream).await.unwrap().unwrap() {
            WatchItem::Batch(batch) => {
                assert_eq!(batch.revision, yielded.next());
                yielded = batch.revision;
                batches += 1;
            }
            WatchItem::Progress(_) => {}
            other => break other,
        }
    };
    assert_eq!(end, WatchItem::Lagged);
    assert!(yielded < newest && batches >= 1000, "{batches}");
    assert!(next(&mut stream).await.is_none());
    let mut resumed = watch(&store, below("/app"), yielded).await;
    assert_eq!(change(&mut resumed).await, "/app/a=x");
}

#[tokio::test]
async fn dropped_watch_ends_on_server() {
    let etcd = launch(Etcd::builder()).await;
    let store = connect(etcd.port());
    let start = put(&store, "/app/a", "x").await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(watch(&store, below("/app"), start).await);
    }
    assert!(watchers(&store).await >= 50);
    drop(streams);
    no_watchers(&store).await;
}

#[tokio::test]
async fn watch_without_v2_api_is_refused() {
    let etcd = Etcd::builder().v2(false).start().await;
    let refused = connect(etcd.port()).watch(Watch::new(below("/app"), WatchFrom::Listed(Revision::new(1)))).await;
    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Unsupported));
}

async fn watchers(store: &V2Store) -> u64 {
    store.stats(StatsKind::Store).await.unwrap().counter("watchers").expect("a number")
}

/// Waits until the server has counted no watch for so long that no watch can be between two polls.
async fn no_watchers(store: &V2Store) {
    timeout(LIMIT, async {
        let mut without = 0;
        while without < 25 {
            without = if watchers(store).await == 0 { without + 1 } else { 0 };
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the watches end");
}

#[tokio::test]
async fn key_refresh_does_not_change_live_view() {
    let etcd = launch(Etcd::builder()).await;
    // Idle watches make no requests of their own, so that only the live view reads.
    let mut patient = options(&[etcd.port()]);
    (patient.progress_interval, patient.keep_alive_interval) = (LIMIT, LIMIT);
    let store = CountingStore::new(Arc::new(V2Store::new(patient).expect("a store")));
    let client = Client::with_store(store.clone());
    let lease = client.lease(Duration::from_secs(60)).await.expect("a lease");
    let here = client.entry::<String>("/nodes/a").expect("an entry");
    here.set(&"10.0.0.7".to_owned()).lease(&lease).await.expect("a write");
    let nodes = client.entries::<String, String>("/nodes").expect("a map");
    let live = nodes.live().await.expect("a view");
    // The server counts a refresh as a modification, but reports it to no watch.
    let before = here.get().await.expect("a read").expect("a value").modified();
    store.keep_alive(lease.id()).await.expect("a refresh");
    let refreshed = here.get().await.expect("a read").expect("a value").modified();
    assert!(refreshed > before, "the refresh changes the index");
    store.take();
    let state = timeout(LIMIT, live.wait_for_revision(refreshed)).await.expect("in time").expect("a state");
    assert_eq!(state.get("a").map(String::as_str), Some("10.0.0.7"));
    let counts = store.take();
    assert!(counts.range <= 2 && counts.watch == 0, "the keys are unchanged, so no watch starts again: {counts:?}");
}
