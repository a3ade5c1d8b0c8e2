//! Keys whose time to live has run out. The server still lists such a key for up to half a second,
//! and during that time a refresh would keep the key alive.

use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::{Compare, Condition, Expiry, KeyValue, Op, Range, Span, Txn};
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Key, LeaseId};
use tokio::time::sleep;

use super::launch;

/// Starts a server and two clients. The second client plays a program that stopped.
async fn two() -> (Etcd, Client, Client) {
    let etcd = launch(Etcd::builder()).await;
    let client = Client::connect(&etcd.url_v2()).await.unwrap();
    let gone = Client::connect(&etcd.url_v2()).await.unwrap();
    (etcd, client, gone)
}

fn write(key: &Key, ttl: u64, compares: Vec<Compare>) -> Txn {
    let put = Op::Put { key: key.clone(), value: Bytes::from("gone"), expiry: Expiry::After(Duration::from_secs(ttl)), previous: false };
    Txn::new(vec![put]).compares(compares).otherwise(Vec::new())
}

async fn find(client: &Client, key: &Key) -> Option<KeyValue> {
    client.store().range(Range::of(Span::Key(key.clone()))).await.unwrap().kvs.into_iter().next()
}

/// Returns a contender's key below this name that has expired but that the server still lists.
async fn over(client: &Client, gone: &Client, name: &str) -> (Key, KeyValue) {
    loop {
        let key = Key::parse(&format!("{name}/{}", LeaseId::random())).unwrap();
        gone.store().commit(write(&key, 1, Vec::new())).await.unwrap();
        while let Some(kv) = find(client, &key).await {
            if kv.ttl == Some(Duration::ZERO) {
                return (key, kv);
            }
            sleep(Duration::from_millis(5)).await;
        }
        // The server removed the key between two reads. Try again.
    }
}

/// Refreshes the key, like a program that was frozen and continues. Returns whether the key still
/// existed unchanged.
async fn refresh(gone: &Client, key: &Key, kv: &KeyValue) -> bool {
    let unchanged = vec![Compare::key(key, Condition::Modified(kv.modified))];
    gone.store().commit(write(key, 60, unchanged)).await.unwrap().succeeded
}

#[tokio::test]
async fn expired_key_holds_no_lock_or_leadership() {
    let (_etcd, client, gone) = two().await;
    over(&client, &gone, "/lock").await;
    assert_eq!(client.lock("/lock").holder().await.unwrap(), None);
    assert_eq!(client.lock("/lock").queue().await.unwrap(), []);
    over(&client, &gone, "/election").await;
    assert!(client.election::<String>("/election").leader().await.unwrap().is_none());
}

#[tokio::test]
async fn late_refresh_does_not_renew_expired_lock() {
    let (_etcd, client, gone) = two().await;
    let (key, kv) = over(&client, &gone, "/lock").await;
    let lock = client.lock("/lock").try_acquire().await.unwrap().expect("the lock is free");
    assert!(!refresh(&gone, &key, &kv).await, "another client holds the lock");
    lock.verify().await.unwrap();
    assert_eq!(client.lock("/lock").queue().await.unwrap().len(), 1);
}

#[tokio::test]
async fn refresh_in_time_keeps_lock() {
    let (_etcd, client, gone) = two().await;
    loop {
        let (key, kv) = over(&client, &gone, "/lock").await;
        if refresh(&gone, &key, &kv).await {
            assert!(client.lock("/lock").try_acquire().await.unwrap().is_none());
            assert_eq!(client.lock("/lock").holder().await.unwrap().unwrap().key, key);
            return;
        }
    }
}
