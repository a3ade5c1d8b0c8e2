//! The leases that the store grants on a real server for writes with a time to live.

use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Compare, Condition, Expiry, Op, Range, Span, Store, Txn};
use etcd_typed::testing::Etcd;
use etcd_typed::{ErrorKind, LeaseId};
use futures_util::future::join_all;

use super::{key, metric_of, store};

const HOUR: Duration = Duration::from_secs(3600);

fn expiring(name: &str, ttl: Duration) -> Txn {
    let put = Op::Put { key: key(name), value: Bytes::from("v"), expiry: Expiry::After(ttl), previous: false };
    Txn::new(vec![put])
}

async fn granted(etcd: &Etcd) -> f64 {
    metric_of(etcd, "etcd_debugging_lease_granted_total").await
}

async fn lease_of(store: &V3Store, name: &str) -> LeaseId {
    store.range(Range::of(Span::Key(key(name)))).await.unwrap().kvs[0].lease.expect("a lease")
}

#[tokio::test]
async fn writes_with_same_ttl_share_lease() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    for _ in 0..100 {
        store.commit(expiring("/one", HOUR)).await.unwrap();
    }
    assert_eq!(granted(&etcd).await, 1.0);
    join_all((0..100).map(|n| store.commit(expiring(&format!("/many/{n}"), HOUR))))
        .await
        .into_iter()
        .for_each(|write| drop(write.unwrap()));
    assert_eq!(granted(&etcd).await, 1.0);
    let left = store.time_to_live(lease_of(&store, "/one").await).await.unwrap().unwrap();
    assert!(left >= HOUR, "the key lives at least as long as requested: {left:?}");
    assert!(left <= HOUR + HOUR / 20, "{left:?}");
    // A write with another time to live gets another lease.
    store.commit(expiring("/one", HOUR * 2)).await.unwrap();
    assert_eq!(granted(&etcd).await, 2.0);
}

#[tokio::test]
async fn concurrent_first_writes_share_lease() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    join_all((0..50).map(|n| store.commit(expiring(&format!("/many/{n}"), HOUR)))).await.into_iter().for_each(|write| drop(write.unwrap()));
    assert_eq!(granted(&etcd).await, 1.0);
}

/// A short time to live has a lease of exactly that length, so the lease is not shared.
#[tokio::test]
async fn short_ttl_is_exact() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    for (number, ttl) in [10, 60, 299].map(Duration::from_secs).into_iter().enumerate() {
        for _ in 0..3 {
            store.commit(expiring("/one", ttl)).await.unwrap();
        }
        assert_eq!(granted(&etcd).await, 3.0 * (number + 1) as f64);
        let left = store.time_to_live(lease_of(&store, "/one").await).await.unwrap().unwrap();
        assert!(left <= ttl, "{left:?}");
    }
}

#[tokio::test]
async fn revoked_shared_lease_is_replaced() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    store.commit(expiring("/one", HOUR)).await.unwrap();
    let first = lease_of(&store, "/one").await;
    store.revoke(first).await.unwrap();
    store.commit(expiring("/one", HOUR)).await.unwrap();
    assert_ne!(lease_of(&store, "/one").await, first);
    // A write with a lease that the caller chose still fails if that lease has ended.
    let mut both = expiring("/one", HOUR);
    both.then.push(Op::Put { key: key("/two"), value: Bytes::new(), expiry: Expiry::With(first), previous: false });
    assert_eq!(store.commit(both).await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

/// A refused write leaves no lease behind, and does not revoke the lease of another key.
#[tokio::test]
async fn refused_write_keeps_shared_lease() {
    let etcd = Etcd::start().await;
    let store = store(&etcd.endpoint());
    store.commit(expiring("/one", HOUR)).await.unwrap();
    let lease = lease_of(&store, "/one").await;
    for _ in 0..10 {
        let refused = expiring("/two", HOUR).compares(vec![Compare::key(&key("/one"), Condition::Absent)]);
        assert!(!store.commit(refused).await.unwrap().succeeded);
    }
    assert_eq!(granted(&etcd).await, 1.0);
    assert!(store.time_to_live(lease).await.unwrap().is_some());
    assert_eq!(lease_of(&store, "/one").await, lease);
}
