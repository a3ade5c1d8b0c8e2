//! If the closure of a `modify` or `update` changes nothing, nothing is written, in whatever form
//! the value is stored. The tests use the memory store.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::store::{Op, Range, Span, Store, Txn};
use etcd_typed::{Client, EtcdSchema, EtcdValue, Json, Key, Revision};

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Numbers {
    count: i64,
    #[etcd(default = 1)]
    weight: u32,
    timeout: Duration,
    #[etcd(json)]
    labels: BTreeMap<String, u32>,
}

/// Stored forms that other programs write and that differ from this library's own.
const FOREIGN: [(&str, &str); 4] = [("count", "+7"), ("weight", "007"), ("timeout", "90s"), ("labels", r#"{ "b": 2, "a": 1 }"#)];

async fn foreign() -> (MemoryStore, Client) {
    let store = MemoryStore::new();
    for (name, text) in FOREIGN {
        let put = Op::put(&Key::parse(&format!("/n/{name}")).unwrap(), text.into());
        store.commit(Txn::new(vec![put])).await.unwrap();
    }
    (store.clone(), Client::with_store(store))
}

/// Returns the revision of the store, and the stored texts.
async fn stored(store: &MemoryStore) -> (Revision, Vec<String>) {
    let reply = store.range(Range::of(Span::Below(Key::parse("/n").unwrap()))).await.unwrap();
    (reply.revision, reply.kvs.iter().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap()).collect())
}

async fn modify<T: EtcdValue + Send + Sync + 'static>(client: &Client, name: &str) {
    let entry = client.entry::<T>(&format!("/n/{name}")).unwrap();
    let read = entry.get().await.unwrap().unwrap();
    let answered = entry.modify(|value| value).await.unwrap().unwrap();
    assert_eq!((answered.modified(), answered.version()), (read.modified(), read.version()), "{name}");
}

#[tokio::test]
async fn unchanged_value_keeps_its_stored_form() {
    let (store, client) = foreign().await;
    let before = stored(&store).await;
    modify::<i64>(&client, "count").await;
    modify::<u32>(&client, "weight").await;
    modify::<Duration>(&client, "timeout").await;
    modify::<Json<BTreeMap<String, u32>>>(&client, "labels").await;
    let dir = client.dir::<Numbers>("/n").unwrap();
    dir.count.modify(|count| count).await.unwrap();
    dir.update(|_| {}).await.unwrap();
    dir.update(|numbers| numbers.weight = 7).await.unwrap();
    assert_eq!(stored(&store).await, before);
}

#[tokio::test]
async fn changed_value_is_rewritten_in_own_form() {
    let (store, client) = foreign().await;
    client.entry::<i64>("/n/count").unwrap().modify(|count| count.map(|count| count + 1)).await.unwrap();
    client.dir::<Numbers>("/n").unwrap().update(|numbers| numbers.weight += 1).await.unwrap();
    let (_, values) = stored(&store).await;
    assert!(values.contains(&"8".to_owned()) && values.contains(&"90s".to_owned()), "{values:?}");
}

#[tokio::test]
async fn explicit_ttl_is_written_for_unchanged_value() {
    let (store, client) = foreign().await;
    let count = client.entry::<i64>("/n/count").unwrap();
    let before = stored(&store).await;
    count.modify(|count| count).permanent().await.unwrap();
    assert_eq!(stored(&store).await, before, "the key has no lease anyway");
    count.modify(|count| count).ttl(Duration::from_secs(60)).await.unwrap();
    assert_ne!(stored(&store).await.0, before.0);
}
