//! Obstacles between a client and a server: etcd's `grpc-proxy`, nginx, stream limits, connections
//! on which only one direction works, and other protocols.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Compare, Condition, Op, Range, Span, Store, Txn, Watch, WatchFrom, WatchItem};
use etcd_typed::testing::{Etcd, Proxy};
use etcd_typed::{Client, ErrorKind, LeaseId, Revision};
use etcd_typed_tests::between::Between;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::watches::{batch, ends, next, texts, watch};
use super::{PATIENCE, key, options, put, store, write};

fn at(revision: u64) -> WatchFrom {
    WatchFrom::Resumed(Revision::new(revision))
}

// ---- etcd's grpc-proxy ----

#[tokio::test]
async fn lock_stays_held_through_grpc_proxy() {
    let etcd = Etcd::start().await;
    let proxy = Between::grpc_proxy(&etcd);
    let client = || async { Client::connect(&format!("etcd://{}", proxy.endpoint())).await.unwrap() };
    let (holder, waiter, direct) = (client().await, client().await, Client::connect(&etcd.url_v3()).await.unwrap());
    let ttl = Duration::from_secs(2);
    let guard = holder.lock("/x").ttl(ttl).acquire().await.unwrap();
    let waits = tokio::spawn(async move { waiter.lock("/x").ttl(ttl).acquire().await.unwrap() });
    timeout(10 * ttl, guard.lost()).await.expect_err("the lock is not lost");
    assert!(guard.is_held() && !waits.is_finished());
    assert!(direct.lock("/x").ttl(ttl).try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    let next = timeout(PATIENCE, waits).await.expect("the waiter acquires in time").unwrap();
    assert!(next.is_held());
}

#[tokio::test]
async fn grpc_proxy_gets_no_progress_request() {
    let etcd = Etcd::start().await;
    let mut proxy = Between::grpc_proxy(&etcd);
    let mut options = options([proxy.endpoint().as_str()]);
    options.progress_interval = Duration::from_millis(50);
    let store = V3Store::new(&options).unwrap();
    let listed = write(&store, &key("/a"), "0").await;
    let mut stream = watch(&store, Span::Key(key("/a")), at(listed)).await;
    sleep(20 * options.progress_interval).await;
    write(&store, &key("/a"), "1").await;
    assert_eq!(texts(&batch(&mut stream).await), ["/a=1"]);
    assert!(proxy.is_running() && !proxy.log().contains("not supported request"), "{}", proxy.log());
}

/// The proxy opens one watch on the server for all client watches of the same keys. The proxy
/// itself answers the requests that create these watches.
#[tokio::test]
async fn grpc_proxy_watches_learn_server_revision() {
    let etcd = Etcd::start().await;
    let proxy = Between::grpc_proxy(&etcd);
    let (first, second) = (store(&proxy.endpoint()), store(&proxy.endpoint()));
    let span = Span::Key(key("/a"));
    let listed = write(&first, &key("/a"), "0").await;
    let mut of_first = watch(&first, span.clone(), at(listed)).await;
    let written = write(&first, &key("/a"), "1").await;
    assert_eq!(texts(&batch(&mut of_first).await), ["/a=1"]);
    let mut shared = watch(&second, span.clone(), at(written)).await;
    let mut listed = watch(&second, span.clone(), WatchFrom::Listed(Revision::new(written))).await;
    let mut live = watch(&second, span.clone(), WatchFrom::Live(Revision::new(written))).await;
    let mut ahead = watch(&store(&proxy.endpoint()), span, at(written + 100)).await;
    assert_eq!(next(&mut ahead).await, WatchItem::Behind(Revision::new(written)));
    assert!(ends(&mut ahead).await);
    write(&first, &key("/a"), "2").await;
    for stream in [&mut of_first, &mut shared, &mut listed, &mut live] {
        assert_eq!(texts(&batch(stream).await), ["/a=2"]);
    }
}

/// When a watch has lost its history, the proxy keeps its own side of the watch. If a later watch
/// of the same key shared that, the later watch would get no events.
#[tokio::test]
async fn grpc_proxy_watch_gets_events_after_lost_history() {
    let etcd = Etcd::start().await;
    let proxy = Between::grpc_proxy(&etcd);
    let store = store(&proxy.endpoint());
    // This watch keeps the stream to the proxy open.
    let other = watch(&store, Span::Key(key("/b")), WatchFrom::Live(Revision::ZERO)).await;
    let mut last = 0;
    for value in 0..5 {
        last = write(&store, &key("/a"), value.to_string()).await;
    }
    etcd.compact().await;
    for round in 0..3 {
        let mut lost = watch(&store, Span::Key(key("/a")), at(1)).await;
        assert!(matches!(next(&mut lost).await, WatchItem::HistoryLost { .. }));
        let mut stream = watch(&store, Span::Key(key("/a")), at(last)).await;
        last = write(&store, &key("/a"), format!("after {round}")).await;
        assert_eq!(texts(&batch(&mut stream).await), [format!("/a=after {round}")]);
    }
    drop(other);
}

// ---- nginx ----

/// nginx sends a GOAWAY after every 1,000 requests, while other requests are in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nginx: run it by its name with `--ignored`"]
async fn create_through_nginx_is_applied_once() {
    const WRITERS: usize = 50;
    const EACH: usize = 400;
    let etcd = Etcd::start().await;
    let nginx = Between::nginx(&etcd);
    let store = Arc::new(store(&nginx.endpoint()));
    let writers = (0..WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0..EACH {
                let new = key(&format!("/created/{writer}-{number}"));
                let absent = Compare::new(Span::Key(new.clone()), Condition::Absent);
                let create = Txn::new(vec![Op::put(&new, "1".into())]).compares(vec![absent]);
                let committed = store.commit(create).await.unwrap_or_else(|error| panic!("{new}: {error}"));
                assert!(committed.succeeded, "{new} was created before");
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    let direct = super::store(&etcd.endpoint());
    let created = direct.range(Range::of(Span::Below(key("/created")))).await.unwrap();
    assert_eq!(created.kvs.len(), WRITERS * EACH);
    assert!(created.kvs.iter().all(|kv| kv.version == Some(1)), "each was written once");
    println!("{} creates through nginx", created.kvs.len());
}

/// Watches and leases survive the connections that nginx closes.
#[tokio::test]
#[ignore = "needs nginx: run it by its name with `--ignored`"]
async fn watch_through_nginx_misses_nothing() {
    let etcd = Etcd::start().await;
    let nginx = Between::nginx(&etcd);
    let store = store(&nginx.endpoint());
    let lease = LeaseId::random();
    store.grant(lease, Duration::from_secs(60)).await.unwrap();
    let mut last = write(&store, &key("/a"), "0").await;
    let mut kept = watch(&store, Span::Key(key("/a")), at(last)).await;
    for number in 0..1500 {
        store.keep_alive(lease).await.unwrap();
        // Each round watches another key, which creates a new watch on the same stream.
        drop(watch(&store, Span::Key(key(&format!("/{number}"))), at(last)).await);
        last = write(&store, &key("/a"), number.to_string()).await;
        assert_eq!(batch(&mut kept).await.revision, Revision::new(last));
    }
}

// ---- Limits of streams ----

#[tokio::test]
async fn one_server_stream_carries_thousands_of_watches() {
    const WATCHES: usize = 2_100;
    let etcd = Etcd::builder().flag("--max-concurrent-streams", "1").start().await;
    let store = store(&etcd.endpoint());
    let listed = write(&store, &key("/a"), "0").await;
    let paths: Vec<String> = (0..WATCHES).map(|number| format!("/app/{number}")).collect();
    let opened = join_all(paths.iter().map(|path| watch(&store, Span::Key(key(path)), at(listed)))).await;
    let lease = LeaseId::random();
    for path in &paths {
        write(&store, &key(path), "1").await;
    }
    // Each connection has only one stream at a time, so calls are sent one after the other. Lease
    // requests have another connection.
    store.grant(lease, Duration::from_secs(60)).await.unwrap();
    for kept in join_all((0..20).map(|_| store.keep_alive(lease))).await {
        kept.unwrap();
    }
    for (path, mut stream) in paths.iter().zip(opened) {
        assert_eq!(texts(&batch(&mut stream).await), [format!("{path}=1")]);
    }
}

// ---- Connections that work in one direction only ----

/// The events of an older watch keep arriving. They do not show that the server still receives the
/// request that creates a new watch.
#[tokio::test]
async fn new_watch_avoids_connection_that_loses_requests() {
    let etcd = Etcd::builder().flag("--grpc-keepalive-min-time", "10ms").start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let direct = store(&etcd.endpoint());
    let mut options = options([proxy.endpoint().as_str()]);
    (options.keep_alive_interval, options.keep_alive_timeout) = (Duration::from_millis(500), Duration::from_secs(2));
    let store = V3Store::new(&options).unwrap();
    let listed = write(&direct, &key("/old"), "0").await;
    let mut old = watch(&store, Span::Key(key("/old")), at(listed)).await;
    let heard = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&heard);
    let reads = tokio::spawn(async move {
        let mut last = listed;
        loop {
            let revision = batch(&mut old).await.revision.get();
            assert!(revision > last);
            last = revision;
            counts.fetch_add(1, Ordering::SeqCst);
        }
    });
    let endpoint = etcd.endpoint();
    let writes = tokio::spawn(async move {
        let store = super::store(&endpoint);
        loop {
            write(&store, &key("/old"), "again").await;
            sleep(Duration::from_millis(10)).await;
        }
    });
    while heard.load(Ordering::SeqCst) < 10 {
        sleep(Duration::from_millis(10)).await;
    }
    let connections = proxy.accepted();
    proxy.lose_requests();
    let mut new = timeout(PATIENCE, watch(&store, Span::Key(key("/new")), at(listed))).await.expect("a watch");
    write(&direct, &key("/new"), "1").await;
    assert_eq!(texts(&batch(&mut new).await), ["/new=1"]);
    assert_eq!(proxy.accepted(), connections + 1, "one new connection, and the old one is kept");
    let before = heard.load(Ordering::SeqCst);
    while heard.load(Ordering::SeqCst) < before + 10 {
        assert!(!reads.is_finished() && !writes.is_finished());
        sleep(Duration::from_millis(10)).await;
    }
    reads.abort();
    writes.abort();
}

/// The request that creates a watch gets no answer, and pings are too rare to detect the broken
/// connection.
#[tokio::test]
async fn watch_after_unanswered_one_uses_new_connection() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let direct = store(&etcd.endpoint());
    let mut options = options([proxy.endpoint().as_str()]);
    options.keep_alive_interval = Duration::from_secs(600);
    options.retry.call_timeout = Duration::from_secs(1);
    let store = V3Store::new(&options).unwrap();
    let listed = write(&direct, &key("/old"), "0").await;
    let mut old = watch(&store, Span::Key(key("/old")), at(listed)).await;
    let connections = proxy.accepted();
    proxy.lose_requests();
    let lost = store.watch(Watch::new(Span::Key(key("/new")), at(listed))).await.err().expect("no answer");
    assert_eq!(lost.kind(), ErrorKind::Timeout, "{lost}");
    let mut new = watch(&store, Span::Key(key("/new")), at(listed)).await;
    write(&direct, &key("/new"), "1").await;
    assert_eq!(texts(&batch(&mut new).await), ["/new=1"]);
    assert_eq!(proxy.accepted(), connections + 1);
    write(&direct, &key("/old"), "1").await;
    assert_eq!(texts(&batch(&mut old).await), ["/old=1"]);
}

// ---- Servers without HTTP/2 ----

/// Starts a server that answers the first bytes of each connection with `answer`.
async fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 24];
            let _ = connection.read_exact(&mut request).await;
            let _ = connection.write_all(answer).await;
            // Unread bytes would end the connection with a reset, which may overtake the answer.
            let _ = connection.shutdown().await;
            let _ = connection.read_to_end(&mut Vec::new()).await;
        }
    });
    address
}

#[tokio::test]
async fn write_to_server_of_other_protocol_is_not_applied() {
    let cases: [(&str, &[u8], ErrorKind, &str); 3] = [
        ("HTTP/1", b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", ErrorKind::Server, "does not speak HTTP/2"),
        ("TLS", b"\x15\x03\x01\0\x02\x02\x28", ErrorKind::Tls, "the server speaks TLS: use the scheme `etcds://`"),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1\r\n", ErrorKind::Server, "does not speak HTTP/2"),
    ];
    for (name, answer, kind, cause) in cases {
        let mut options = options([answering(answer).await.as_str()]);
        options.retry.call_timeout = Duration::from_secs(2);
        let error = V3Store::new(&options).unwrap().commit(put(&key("/a"), "1")).await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_applied()), (kind, false), "{name}: {error}");
        assert!(error.to_string().contains(cause), "{name}: {error}");
    }
}
