//! One watch over etcd v2 while its server is killed and its connections are cut, under a writer: it yields the writer's history.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::connect::{ConnectOptions, Endpoint};
use etcd_typed::store::v2::V2Store;
use etcd_typed::store::{Op, Range, Span, Store, Txn};
use etcd_typed::testing::{Etcd, Proxy};
use etcd_typed::{Client, Key};
use tokio::time::{sleep, timeout};

const CUTS: usize = 45;
const KILLS: usize = 15;

/// Only a test that fails waits for it.
const LIMIT: Duration = Duration::from_secs(120);

/// Writes until it is written once: a put whose outcome is unknown is looked up before it is sent again, by its only writer.
async fn write_once(store: &V2Store, key: &Key, value: &str) {
    let op = || Op::put(key, Bytes::copy_from_slice(value.as_bytes()));
    loop {
        match store.commit(Txn { then: vec![op()], ..Txn::default() }).await {
            Ok(_) => return,
            Err(error) if !error.may_have_applied() => assert!(error.is_retryable(), "{error:?}"),
            Err(_) => loop {
                if let Ok(found) = store.range(Range::of(Span::Key(key.clone()))).await {
                    if found.kvs.first().is_some_and(|kv| kv.value == value.as_bytes()) {
                        return;
                    }
                    break;
                }
            },
        }
    }
}

#[tokio::test]
async fn w2_w4_a_watch_yields_the_history_over_kills_and_cuts() {
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let client = Client::connect(&format!("etcd2://{}", proxy.endpoint())).await.unwrap();
    let mut changes = client.directory("/app").unwrap().watch().await.unwrap();

    let port = etcd.port();
    let done = Arc::new(AtomicBool::new(false));
    let finished = done.clone();
    let writer = tokio::spawn(async move {
        let store = V2Store::new(ConnectOptions::new(vec![Endpoint { host: "127.0.0.1".to_owned(), port }])).unwrap();
        let mut written = Vec::new();
        while !finished.load(Ordering::Relaxed) {
            let (name, value) = (format!("k{}", written.len() % 7), written.len().to_string());
            write_once(&store, &Key::parse("/app").unwrap().child(&name), &value).await;
            written.push((name, value));
            sleep(Duration::from_millis(1)).await;
        }
        write_once(&store, &Key::parse("/app/end").unwrap(), "").await;
        written
    });
    let watcher = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            let update = changes.next().await;
            let update = update.expect("no end").expect("no error");
            assert!(!update.resynced, "{update:?}");
            for keyed in update.changes {
                if keyed.key == "end" {
                    return seen;
                }
                seen.push((keyed.key, String::from_utf8(keyed.change.new.expect("a put").to_vec()).unwrap()));
            }
        }
    });

    for fault in 0..CUTS + KILLS {
        sleep(Duration::from_millis(50)).await;
        if fault % 4 == 3 {
            etcd.kill().await;
            etcd.restart().await;
        } else {
            proxy.cut();
        }
    }
    done.store(true, Ordering::Relaxed);
    let written = timeout(LIMIT, writer).await.expect("the writer ends").unwrap();
    let seen = timeout(LIMIT, watcher).await.expect("the watcher ends").unwrap();
    // Past the capture of a test that passes, so that the figures are in every log.
    writeln!(std::io::stderr(), "v2: {CUTS} cuts, {KILLS} kills: {} writes, {} changes seen", written.len(), seen.len()).unwrap();
    assert_eq!(seen, written);
}
