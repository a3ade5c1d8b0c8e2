//! Metrics and events that report faults, with real servers behind a proxy that breaks connections.

use std::time::Duration;

use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{Client, RetryPolicy};
use etcd_typed_tests::waiting::until;
use tokio::time::timeout;

use crate::listener::Listener;
use crate::{CHECKOUT, CheckoutDir, planted};

const WAIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn v3_reports_retries_resyncs_and_leases() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let listener = Listener::new();
    let direct = Client::connect(&etcd.url_v3()).await.unwrap();
    let client = Client::connect(&format!("etcd://{}", proxy.addr())).await.unwrap();
    let written = CheckoutDir::open(&direct, "planted").unwrap();
    let dir = CheckoutDir::open(&client, "planted").unwrap();
    written.set(&planted()).await.unwrap();
    let mut changes = dir.watch().await.unwrap();

    // A read whose connection is refused is retried until it succeeds.
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    let retries = |op, cause| listener.value("etcd_typed_retries_total", &[("store", "v3"), ("op", op), ("cause", cause)]);
    let (read, ()) = tokio::join!(dir.get(), async {
        until(|| retries("Range", "unavailable") >= 2.0).await;
        proxy.set(Mode::Pass).await;
    });
    assert_eq!(read.unwrap().into_inner(), planted());
    let told = listener.events("sent again");
    let reads = told.iter().filter(|event| event.fields["op"] == "Range" && event.within.is_some());
    for event in reads {
        let within = event.within.as_ref().unwrap();
        assert_eq!((within["op"].as_str(), within["pattern"].as_str()), ("get", CHECKOUT));
    }

    // The watch is disconnected, and the changes that it missed are compacted before it reconnects.
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    for rate_limit in 0..10 {
        written.rate_limit.set(&rate_limit).await.unwrap();
    }
    etcd.compact().await;
    let (update, ()) = tokio::join!(timeout(WAIT, changes.next()), async {
        let interruptions = || listener.series().into_iter().any(|series| series.name == "etcd_typed_watch_interruptions_total");
        until(interruptions).await;
        proxy.set(Mode::Pass).await;
    });
    assert!(update.unwrap().unwrap().unwrap().resynced);
    assert_eq!(listener.value("etcd_typed_resyncs_total", &[("pattern", CHECKOUT), ("cause", "history_lost")]), 1.0);
    assert!(!listener.events("resynced").is_empty());

    let lease = client.lease(Duration::from_secs(3)).await.unwrap();
    until(|| !listener.values("etcd_typed_lease_remaining_seconds", &[]).is_empty()).await;
    let left = listener.values("etcd_typed_lease_remaining_seconds", &[]);
    assert!(left.iter().all(|left| (0.0..=3.0).contains(left)), "{left:?}");
    lease.revoke().await.unwrap();
    listener.check();
}

#[tokio::test]
async fn v2_reports_retries_by_http_method() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let listener = Listener::new();
    let client = Client::builder(&format!("etcd2://{}", proxy.addr())).retry(RetryPolicy::default()).connect().await.unwrap();
    let limit = CheckoutDir::open(&client, "planted").unwrap().rate_limit.clone();
    // Without `permanent`, a set on v2 would first GET the struct's time to live.
    let set = async |n| limit.set(&n).permanent().await;
    set(1).await.unwrap();
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    let retries = |op| listener.value("etcd_typed_retries_total", &[("store", "v2"), ("op", op), ("cause", "unavailable")]);
    let (read, written, ()) = tokio::join!(limit.get(), set(2), async {
        until(|| retries("GET") >= 1.0 && retries("PUT") >= 1.0).await;
        proxy.set(Mode::Pass).await;
    });
    assert!(read.unwrap().is_some());
    written.unwrap();
    listener.check();
}
