//! Published values on real servers: revoked leases, outages and wiped servers.

use etcd_typed::Published;
use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed_tests::etcdctl;

use super::*;

async fn published_through(proxy: &Proxy) -> (Entry<u64>, Published<u64>) {
    let client = Client::connect(&format!("etcd://{}", proxy.addr())).await.unwrap();
    let entry = client.entry::<u64>("/services/a").unwrap();
    let published = entry.publish(&1).ttl(TTL).await.unwrap();
    (entry, published)
}

#[tokio::test]
async fn value_returns_after_etcdctl_revokes_lease() {
    let etcd = Etcd::start().await;
    let entry = Client::connect(&etcd.url_v3()).await.unwrap().entry::<u64>("/services/a").unwrap();
    let published = entry.publish(&1).await.unwrap();
    let mut changes = entry.watch().await.unwrap();
    let lease = entry.get().await.unwrap().unwrap().lease().unwrap();
    let revoke = ["--endpoints", &etcd.endpoint(), "lease", "revoke", &lease.to_string()];
    let output = etcdctl().args(revoke).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(next(&mut changes).await, None);
    assert_eq!(next(&mut changes).await, Some(1));
    until(|| published.is_published()).await;
}

#[tokio::test]
async fn value_returns_after_outage_longer_than_ttl() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let (entry, published) = published_through(&proxy).await;
    let direct = Client::connect(&etcd.url_v3()).await.unwrap().entry::<u64>("/services/a").unwrap();
    let mut changes = direct.watch().await.unwrap();
    for mode in [Mode::Refuse, Mode::Stall] {
        proxy.set(mode).await;
        proxy.cut();
        assert_eq!(next(&mut changes).await, None, "the server has ended the lease");
        assert!(!published.is_published(), "the publisher knows of the loss before the server");
        until(|| matches!(published.status(), PublishedStatus::Missing { error: Some(_), .. })).await;
        proxy.set(Mode::Pass).await;
        proxy.cut();
        assert_eq!(next(&mut changes).await, Some(1));
        until(|| published.is_published()).await;
    }
    assert_eq!(entry.get().await.unwrap().unwrap().into_inner(), 1);
    // The value of a client that wrote meanwhile is not overwritten.
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    assert_eq!(next(&mut changes).await, None);
    direct.set(&2).await.unwrap();
    proxy.set(Mode::Pass).await;
    assert_eq!(next(&mut changes).await, Some(2));
    assert!(timeout(TTL + QUIET, changes.next()).await.is_err());
    direct.delete().await.unwrap();
    assert_eq!(next(&mut changes).await, None);
    assert_eq!(next(&mut changes).await, Some(1));
}

async fn value_returns_on_emptied_server(mut etcd: Etcd, address: &str) {
    let entry = Client::connect(address).await.unwrap().entry::<u64>("/services/a").unwrap();
    let published = entry.publish(&1).ttl(TTL).await.unwrap();
    etcd.wipe().await;
    soon(async {
        while entry.get().await.unwrap().is_none_or(|now| *now != 1) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    until(|| published.is_published()).await;
    sleep(TTL + QUIET).await;
    assert!(published.is_published() && entry.get().await.unwrap().is_some());
}

#[tokio::test]
async fn v3_value_returns_on_emptied_server() {
    let etcd = Etcd::start().await;
    let address = etcd.url_v3();
    value_returns_on_emptied_server(etcd, &address).await;
}

#[tokio::test]
async fn v2_value_returns_on_emptied_server() {
    let etcd = Etcd::start().await;
    let address = etcd.url_v2();
    value_returns_on_emptied_server(etcd, &address).await;
}

#[tokio::test]
async fn v2_refresh_causes_no_event() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let client = Client::connect(&format!("etcd2://{}", proxy.addr())).await.unwrap();
    let direct = Client::connect(&etcd.url_v2()).await.unwrap().entry::<u64>("/services/a").unwrap();
    let mut changes = direct.watch().await.unwrap();
    let entry = client.entry::<u64>("/services/a").unwrap();
    let published = entry.publish(&1).ttl(TTL).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(1));
    assert!(timeout(3 * TTL, changes.next()).await.is_err(), "refreshing the time to live causes no event");
    assert!(published.is_published());
    proxy.set(Mode::Refuse).await;
    proxy.cut();
    assert_eq!(next(&mut changes).await, None);
    proxy.set(Mode::Pass).await;
    assert_eq!(next(&mut changes).await, Some(1));
    assert!(timeout(2 * TTL, changes.next()).await.is_err());
    assert!(published.is_published());
}
