//! The derived change enum: each key's change is reported as the variant of its field.

use std::collections::{BTreeMap, HashMap};

use etcd_typed::{Changes, Client, EtcdSchema, Keyed};

use super::{memory, put};

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(change(Clone, PartialEq))]
struct All {
    #[etcd(alias = "old")]
    leaf: Option<u8>,
    #[etcd(json)]
    json: Option<Vec<u8>>,
    #[etcd(dir)]
    dir: Option<Inner>,
    #[etcd(dir)]
    dirs: BTreeMap<String, Inner>,
    #[etcd(entries)]
    entries: HashMap<u8, u8>,
    #[etcd(flatten)]
    flat: Flat,
    #[etcd(skip)]
    skipped: u8,
    #[etcd(secret, allow_debug)]
    pin: Option<u16>,
    #[etcd(entries, secret, allow_debug)]
    tokens: BTreeMap<String, u16>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(change(Clone, PartialEq))]
struct Inner {
    a: u8,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(change(Clone, PartialEq))]
struct Flat {
    beside: Option<u8>,
}

async fn watched() -> (Client, Changes<AllChange, All>) {
    let client = memory().await;
    let changes = client.dir::<All>("/a").unwrap().watch().await.unwrap();
    (client, changes)
}

/// Writes the key and returns its one change.
async fn change(client: &Client, changes: &mut Changes<AllChange, All>, key: &str, value: &str) -> AllChange {
    put(client, key, value).await;
    let update = changes.next().await.unwrap().unwrap();
    match <[AllChange; 1]>::try_from(update.changes) {
        Ok([change]) => change,
        Err(other) => panic!("{key} is {other:?}"),
    }
}

#[tokio::test]
async fn change_of_each_field_has_its_own_variant() {
    let (client, mut changes) = watched().await;
    let mut next = async |key, value| change(&client, &mut changes, key, value).await;
    assert!(matches!(next("/a/leaf", "1").await, AllChange::Leaf(c) if c.is_created() && c.new == Some(1)));
    assert!(matches!(next("/a/leaf", "2").await, AllChange::Leaf(c) if c.old == Some(1) && c.new == Some(2)));
    assert!(matches!(next("/a/json", "[1]").await, AllChange::Json(c) if c.new == Some(vec![1])));
    assert!(matches!(next("/a/dir/a", "3").await, AllChange::Dir(InnerChange::A(c)) if c.new == Some(3)));
    let change = next("/a/dirs/x%2Fy/a", "4").await;
    assert!(matches!(change, AllChange::Dirs(Keyed { key, change: InnerChange::A(c) }) if key == "x/y" && c.new == Some(4)));
    assert!(matches!(next("/a/entries/7", "5").await, AllChange::Entries(Keyed { key: 7, change: c }) if c.new == Some(5)));
    assert!(matches!(next("/a/beside", "6").await, AllChange::Flat(FlatChange::Beside(c)) if c.new == Some(6)));
}

#[tokio::test]
async fn change_of_alias_is_reported_as_change_of_field() {
    let (client, mut changes) = watched().await;
    let old = change(&client, &mut changes, "/a/old", "1").await;
    assert!(matches!(old, AllChange::Leaf(c) if c.is_created() && c.key.as_str() == "/a/old"));
    let own = change(&client, &mut changes, "/a/leaf", "2").await;
    assert!(matches!(own, AllChange::Leaf(c) if c.old == Some(1) && c.new == Some(2) && c.key.as_str() == "/a/leaf"));
}

#[tokio::test]
async fn secret_is_masked_in_changes() {
    let (client, mut changes) = watched().await;
    let pin = change(&client, &mut changes, "/a/pin", "4711").await;
    let token = change(&client, &mut changes, "/a/tokens/me", "4711").await;
    for (change, place) in [(pin, "Pin(Change { key: Key(/a/pin), old: None, new: Some(***)"), (token, "Tokens(Keyed { key: \"me\"")] {
        let shown = format!("{change:?}");
        assert!(shown.starts_with(place) && shown.contains("Some(***)") && !shown.contains("4711"), "{shown}");
    }
}
