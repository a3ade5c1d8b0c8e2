//! The behaviour of the store when servers are gone, frozen, silent, full, or not etcd.

use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::connect::ConnectOptions;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Consistency, Op, Range, Span, Store, Txn, Watch, WatchFrom};
use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{Client, Error, ErrorKind, LeaseId, Revision};
use etcd_typed_tests::certificates::Files;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{PATIENCE, delete, key, options, put, store, write};

/// Returns options for one address that limit each call to half a second.
fn quick(endpoint: &str) -> ConnectOptions {
    let mut options = options([endpoint]);
    options.retry.call_timeout = Duration::from_millis(500);
    options.retry.read_attempt_timeout = Duration::from_millis(200);
    options
}

async fn failed_write(store: &V3Store) -> Error {
    let error = timeout(PATIENCE, store.commit(put(&key("/a"), "1"))).await.expect("an answer").unwrap_err();
    assert_eq!(error.key(), Some(&key("/a")));
    error
}

async fn failed_read(store: &V3Store) -> Error {
    let error = timeout(PATIENCE, store.range(Range::of(Span::Key(key("/a"))))).await.expect("an answer").unwrap_err();
    assert!(!error.may_have_applied(), "a read has no outcome: {error}");
    error
}

#[tokio::test]
async fn unsent_write_is_not_applied() {
    let store = V3Store::new(&quick("127.0.0.1:1")).unwrap();
    let error = failed_write(&store).await;
    assert_eq!((error.kind(), error.may_have_applied(), error.is_retryable()), (ErrorKind::Unavailable, false, true), "{error}");
    assert_eq!(failed_read(&store).await.kind(), ErrorKind::Unavailable);
    let conditional = Txn::new(vec![Op::delete(&key("/a")), Op::delete(&key("/b"))]).compares(Vec::new()).otherwise(Vec::new());
    assert!(!store.commit(conditional).await.unwrap_err().may_have_applied());
}

#[tokio::test]
async fn write_with_lost_answer_is_sent_once() {
    let etcd = Etcd::start().await;
    let direct = store(&etcd.endpoint());
    let proxy = Proxy::to(etcd.endpoint()).await;
    let cut_off = V3Store::new(&quick(&proxy.endpoint())).unwrap();
    let a = key("/a");
    write(&cut_off, &a, "0").await;

    proxy.set(Mode::StallAnswers).await;
    let error = failed_write(&cut_off).await;
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Timeout, true), "{error}");
    let applied = direct.range(Range::of(Span::Key(a.clone()))).await.unwrap().kvs.remove(0);
    assert_eq!((applied.value, applied.version), (Bytes::from("1"), Some(2)), "the write was applied once");

    // The connection is cut while the write waits for its answer.
    let write = tokio::spawn(async move { (failed_write(&cut_off).await, cut_off) });
    let arrived =
        timeout(PATIENCE, async { while direct.range(Range::of(Span::Key(key("/a")))).await.unwrap().kvs.remove(0).version != Some(3) {} });
    arrived.await.expect("the write arrives");
    proxy.cut();
    let (error, cut_off) = write.await.unwrap();
    assert!(error.may_have_applied(), "{error}");

    // A read changes nothing, so the client sends it again.
    proxy.set(Mode::Pass).await;
    let reply = cut_off.range(Range::of(Span::Key(a))).await.unwrap();
    assert_eq!(reply.kvs.first().and_then(|kv| kv.version), Some(3));
}

#[tokio::test]
async fn calls_move_to_other_endpoint() {
    let etcd = Etcd::start().await;
    let first = Proxy::to(etcd.endpoint()).await;
    let second = Proxy::to(etcd.endpoint()).await;
    let store = V3Store::new(&options([first.endpoint().as_str(), second.endpoint().as_str()])).unwrap();
    let a = key("/a");
    write(&store, &a, "0").await;
    assert_eq!((first.accepted(), second.accepted()), (1, 0), "one endpoint, one connection");
    first.set(Mode::Refuse).await;
    first.cut();
    // A write during the cut could have an unknown outcome, so the test reads first. The read moves
    // to the other endpoint, and later calls use that endpoint too.
    store.range(Range::of(Span::Key(a.clone()))).await.unwrap();
    for value in 1..=20 {
        write(&store, &a, value.to_string()).await;
    }
    assert_eq!(second.accepted(), 1);
    let lease = LeaseId::random();
    store.grant(lease, Duration::from_secs(5)).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    let watch = Watch::new(Span::Key(a), WatchFrom::Listed(Revision::new(1)));
    assert!(store.watch(watch).await.is_ok());
    assert_eq!(second.accepted(), 3, "calls, leases and watches have one connection each");
}

/// The first attempt to grant a lease gets no answer. The second attempt finds that the lease
/// exists, at the moment when it expires.
#[tokio::test]
async fn lease_expired_before_answer_is_granted_again() {
    let etcd = Etcd::start().await;
    let deaf = Proxy::to(etcd.endpoint()).await;
    let mut options = options([deaf.endpoint().as_str(), etcd.endpoint().as_str()]);
    let ttl = Duration::from_secs(2);
    // A server removes a lease within half a second after the lease has expired. Until then, the
    // server reports that the lease exists.
    options.retry.read_attempt_timeout = ttl + Duration::from_millis(20);
    let stores: Vec<V3Store> = (0..4).map(|_| V3Store::new(&options).unwrap()).collect();
    for store in &stores {
        store.time_to_live(LeaseId::random()).await.unwrap();
    }
    deaf.set(Mode::StallAnswers).await;
    // Several stores, because it is random which of the leases the server still has.
    for granted in join_all(stores.iter().map(|store| store.grant(LeaseId::random(), ttl))).await {
        assert_eq!(granted.unwrap(), ttl);
    }
}

#[tokio::test]
async fn silent_endpoint_is_skipped() {
    let etcd = Etcd::start().await;
    let silent = Proxy::to(etcd.endpoint()).await;
    silent.set(Mode::Stall).await;
    let mut options = options([silent.endpoint().as_str(), etcd.endpoint().as_str()]);
    options.connect_timeout = Duration::from_millis(300);
    options.retry.read_attempt_timeout = Duration::from_millis(300);
    // The store sends no write to an endpoint that has never answered, so the write goes to the
    // second endpoint.
    write(&V3Store::new(&options).unwrap(), &key("/a"), "1").await;
    let reader = V3Store::new(&options).unwrap();
    assert_eq!(reader.range(Range::of(Span::Key(key("/a")))).await.unwrap().kvs.len(), 1);
}

#[tokio::test]
async fn reads_succeed_while_one_member_is_down() {
    let mut cluster = Etcd::cluster(3).await;
    let endpoints: Vec<String> = cluster.members().iter().map(Etcd::endpoint).collect();
    let store = V3Store::new(&options(endpoints.iter().map(String::as_str))).unwrap();
    let a = key("/a");
    assert_eq!(store.members().await.unwrap().len(), 3);
    write(&store, &a, "0").await;
    let mut written = 1;
    for index in 0..3 {
        if index == 0 {
            cluster.member(index).kill().await;
        } else {
            cluster.member(index).terminate().await;
        }
        // A read must succeed. A write may fail only if it may have been applied.
        for value in 0..10 {
            store.range(Range::of(Span::Key(a.clone()))).await.unwrap();
            match store.commit(put(&a, value.to_string())).await {
                Ok(_) => written += 1,
                Err(error) => assert!(error.may_have_applied(), "{error}"),
            }
        }
        cluster.member(index).restart().await;
    }
    assert!(written > 20, "{written}");
    let version = store.range(Range::of(Span::Key(a))).await.unwrap().kvs.remove(0).version.unwrap();
    assert!(version >= written, "{written} acknowledged, {version} stored");
}

#[tokio::test]
async fn isolated_member_serves_only_stale_reads() {
    let mut cluster = Etcd::cluster(3).await;
    let endpoint = cluster.member(0).endpoint();
    let all = V3Store::new(&options([endpoint.as_str()])).unwrap();
    write(&all, &key("/a"), "1").await;
    cluster.member(1).kill().await;
    cluster.member(2).kill().await;
    // The member needs an election timeout to notice that it is alone. Until then, the outcome of a
    // write is unknown.
    let mut options = options([endpoint.as_str()]);
    options.retry.call_timeout = Duration::from_secs(5);
    let alone = V3Store::new(&options).unwrap();
    let error = failed_read(&alone).await;
    assert!(error.is_retryable(), "{error}");
    let error = failed_write(&alone).await;
    assert!(error.is_retryable() && !error.may_have_applied(), "{error}");
    let stale = Range::of(Span::Key(key("/a"))).consistency(Consistency::Stale);
    assert_eq!(alone.range(stale).await.unwrap().kvs.len(), 1);
}

#[tokio::test]
async fn endpoints_of_two_clusters_are_refused() {
    let mut first = Etcd::start().await;
    let second = Etcd::start().await;
    let mut options = options([first.endpoint().as_str(), second.endpoint().as_str()]);
    options.retry.call_timeout = Duration::from_secs(3);
    let store = V3Store::new(&options).unwrap();
    write(&store, &key("/a"), "1").await;
    first.kill().await;
    // A write during the kill could have an unknown outcome, so the test reads first.
    assert_eq!(failed_read(&store).await.kind(), ErrorKind::Server);
    let error = failed_write(&store).await;
    assert_eq!((error.kind(), error.may_have_applied()), (ErrorKind::Server, false), "{error}");
    assert!(error.to_string().contains("must be of one"), "{error}");
    assert_eq!(super::store(&second.endpoint()).status().await.unwrap().revision, Revision::new(1));
}

#[tokio::test]
async fn full_server_still_allows_reads_and_deletes() {
    let etcd = Etcd::builder().flag("--quota-backend-bytes", "3000000").start().await;
    let store = store(&etcd.endpoint());
    let mut full = None;
    for number in 0..100 {
        if let Err(error) = store.commit(put(&key(&format!("/{number}")), vec![b'x'; 500_000])).await {
            full = Some(error);
            break;
        }
    }
    assert_eq!(full.expect("the server fills up").kind(), ErrorKind::NoSpace);
    assert_eq!(store.range(Range::of(Span::Key(key("/0")))).await.unwrap().kvs.len(), 1);
    store.commit(delete(&key("/0"))).await.unwrap();
    assert!(!store.status().await.unwrap().errors.is_empty(), "the alarm is shown");
}

/// Fault F14: a server that can no longer write to its disk exits, as if it had been killed. The
/// test limits each file of the server to 64 MiB instead of filling a disk.
#[tokio::test]
async fn full_disk_loses_no_acknowledged_write() {
    let files = Files::new();
    let program = Etcd::shared().await.binary().to_owned();
    // `ulimit -f` counts blocks of 512 bytes.
    let script = files.put("script", format!("#!/bin/sh\nulimit -f 131072\nexec '{}' \"$@\"\n", program.display()).as_bytes());
    // Another process writes the program, because a file that is open for writing cannot be
    // executed. If this process wrote the file, a child process that another test starts at that
    // moment could inherit the open file.
    let full = script.with_file_name("etcd");
    let installed = std::process::Command::new("install").arg(&script).arg(&full).status().unwrap();
    assert!(installed.success(), "{installed}");
    let mut etcd = Etcd::builder().binary(&full).start().await;

    let client = Client::connect(&etcd.url_v3()).await.unwrap();
    let lock = client.lock("/lock").ttl(Duration::from_secs(60)).acquire().await.unwrap();
    let counter = client.entry::<u64>("/counter").unwrap();
    let mut changes = counter.watch().await.unwrap();
    counter.set(&1).await.unwrap();
    let store = store(&etcd.endpoint());
    let mut acknowledged = 0;
    let error = loop {
        assert!(acknowledged < 200, "the disk fills up in time");
        match store.commit(put(&key("/filler"), vec![b'x'; 1_400_000])).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    println!("{acknowledged} writes, then: {error}");
    assert!(error.is_retryable() && error.may_have_applied(), "{error}");
    timeout(PATIENCE, async {
        while etcd.is_running() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the server ends");

    // The server restarts without the limit on its files.
    etcd.upgrade(program).await;
    let version = store.range(Range::of(Span::Key(key("/filler")))).await.unwrap().kvs.remove(0).version.unwrap();
    assert!((acknowledged..=acknowledged + 1).contains(&version), "{acknowledged} acknowledged, {version} stored");
    lock.verify().await.unwrap();
    counter.set(&2).await.unwrap();
    for value in [1, 2] {
        let change = timeout(PATIENCE, changes.next()).await.expect("in time").unwrap().unwrap();
        assert_eq!((change.new, change.resynced), (Some(value), false));
    }
}

/// Starts a server that gives the same answer on every connection.
async fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 64];
            let _ = connection.read(&mut request).await;
            let _ = connection.write_all(answer).await;
        }
    });
    address
}

#[tokio::test]
async fn error_says_that_server_is_not_etcd_v3() {
    // An HTTP/1.1 server, such as an etcd that has only the v2 API.
    let address = answering(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    let error = failed_read(&V3Store::new(&quick(&address)).unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::Server, "{error}");
    assert!(error.to_string().contains("is it an etcd v3 server") && error.to_string().contains("etcd2://"), "{error}");
    // A server that closes the connection.
    let address = answering(b"").await;
    assert_eq!(failed_read(&V3Store::new(&quick(&address)).unwrap()).await.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn store_is_created_without_reaching_server() {
    assert_eq!(V3Store::new(&options([])).unwrap_err().kind(), ErrorKind::InvalidUrl);
    assert_eq!(V3Store::new(&options(["not a host:2379"])).unwrap_err().kind(), ErrorKind::InvalidUrl);
    let store = V3Store::new(&options(["127.0.0.1:1"])).unwrap();
    assert_eq!(store.capabilities().name, "etcd v3");
}
