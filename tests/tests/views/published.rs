//! Published values. Each value exists while its guard exists, is put back when it is lost, and
//! never overwrites the value of another client.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod embedded;
mod example;
mod servers;
mod sharing;

use std::time::Duration;

use etcd_typed::{Client, Entry, EntryChanges, ErrorKind, EtcdSchema, LostReason, Published, PublishedStatus};
use etcd_typed_tests::waiting::{soon, until};
use tokio::time::{sleep, timeout};

/// The limit of every wait. It is longer than any backoff and any time to live. Only a failing test
/// waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// The shortest time to live that servers grant.
const TTL: Duration = Duration::from_secs(2);
/// A time in which competing publishers would have written again.
const QUIET: Duration = Duration::from_secs(1);

struct Bench {
    client: Client,
}

impl Bench {
    fn entry(&self) -> Entry<u64> {
        self.client.entry("/services/a").unwrap()
    }

    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }
}

/// Waits until the entry has this value.
async fn shows(entry: &Entry<u64>, value: Option<u64>) {
    soon(entry.wait_for(|now| now.copied() == value)).await.unwrap();
}

/// Returns the value after the next change.
async fn next(changes: &mut EntryChanges<u64>) -> Option<u64> {
    soon(changes.next()).await.expect("the stream goes on").expect("no error").new
}

fn reason(published: &Published<u64>) -> Option<LostReason> {
    match published.status() {
        PublishedStatus::Missing { reason, .. } => Some(reason),
        _ => None,
    }
}

async fn published_value_exists_until_withdrawn(bench: Bench) {
    let entry = bench.entry();
    let published = entry.publish(&1).ttl(TTL).await.unwrap();
    assert!(published.is_published() && published.key() == entry.key());
    let read = entry.get().await.unwrap().unwrap();
    assert_eq!(*read, 1);
    assert!(read.lease().is_some() || read.ttl().is_some_and(|ttl| ttl <= TTL), "the value expires by itself: {read:?}");
    // Waits longer than the time to live.
    sleep(2 * TTL).await;
    assert!(published.is_published());
    assert_eq!(entry.get().await.unwrap().unwrap().into_inner(), 1);
    published.withdraw().await.unwrap();
    assert_eq!(entry.get().await.unwrap(), None, "withdraw returns after the deletion");
}

async fn drop_withdraws_in_background(bench: Bench) {
    let entry = bench.entry();
    drop(entry.publish(&1).await.unwrap());
    // The limit is shorter than the default time to live of 15 s, after which the value would
    // vanish by itself.
    timeout(Duration::from_secs(10), entry.wait_for(|now| now.is_none())).await.unwrap().unwrap();
}

async fn deleted_value_is_put_back_each_time(bench: Bench) {
    let entry = bench.entry();
    let mut changes = entry.watch().await.unwrap();
    let published = entry.publish(&0).ttl(TTL).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(0));
    for value in 1..=8 {
        published.set(&value).await.unwrap();
        assert_eq!(next(&mut changes).await, Some(value));
        entry.delete().await.unwrap();
        assert_eq!(next(&mut changes).await, None);
        assert_eq!(next(&mut changes).await, Some(value), "the newest value");
        until(|| published.is_published()).await;
    }
    published.withdraw().await.unwrap();
    assert_eq!(next(&mut changes).await, None);
}

async fn set_keeps_lease_and_skips_equal_value(bench: Bench) {
    let entry = bench.entry();
    let published = entry.publish(&1).ttl(TTL).await.unwrap();
    let first = entry.get().await.unwrap().unwrap();
    let mut changes = entry.watch().await.unwrap();
    let revision = published.set(&2).await.unwrap();
    let second = entry.get().await.unwrap().unwrap();
    assert_eq!((*second, second.lease(), second.created()), (2, first.lease(), first.created()));
    assert_eq!(second.modified(), revision);
    assert_eq!(next(&mut changes).await, Some(2));
    published.set(&2).await.unwrap();
    published.set(&3).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(3), "the second 2 was not written");
    published.withdraw().await.unwrap();
}

async fn first_publisher_takes_over_when_second_withdraws(bench: Bench) {
    let entry = bench.entry();
    // A publish overwrites an existing value.
    entry.set(&0).await.unwrap();
    let mut changes = entry.watch().await.unwrap();
    let first = entry.publish(&1).ttl(TTL).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(1));
    let second = entry.publish(&2).ttl(TTL).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(2));
    until(|| reason(&first) == Some(LostReason::TakenOver)).await;

    // Checks that neither publisher writes again.
    assert!(timeout(TTL + QUIET, changes.next()).await.is_err());
    assert!(second.is_published() && !first.is_published());
    let refused = first.set(&11).await.unwrap_err();
    assert_eq!((refused.kind(), refused.key()), (ErrorKind::Conflict, Some(entry.key())));
    second.set(&22).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(22));
    assert!(timeout(QUIET, changes.next()).await.is_err());

    second.withdraw().await.unwrap();
    assert_eq!(next(&mut changes).await, None);
    assert_eq!(next(&mut changes).await, Some(11), "the newest value of the first publisher");
    until(|| first.is_published()).await;

    // An ordinary write of another client takes over, too, and `withdraw` does not delete its
    // value.
    entry.set(&5).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(5));
    until(|| !first.is_published()).await;
    first.withdraw().await.unwrap();
    assert!(timeout(QUIET, changes.next()).await.is_err());
    assert_eq!(entry.get().await.unwrap().unwrap().into_inner(), 5);
}

async fn value_is_put_back_after_lease_is_revoked(bench: Bench) {
    let entry = bench.entry();
    let mut changes = entry.watch().await.unwrap();
    let published = entry.publish(&1).ttl(TTL).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(1));
    if !bench.transactions() {
        // v2 has no leases, so no client can revoke the lease that the library emulates.
        assert_eq!(entry.get().await.unwrap().unwrap().lease(), None);
        return;
    }
    for _ in 0..3 {
        let before = entry.get().await.unwrap().unwrap().lease().unwrap();
        bench.client.store().revoke(before).await.unwrap();
        assert_eq!(next(&mut changes).await, None);
        assert_eq!(next(&mut changes).await, Some(1));
        until(|| published.is_published()).await;
        assert_ne!(entry.get().await.unwrap().unwrap().lease(), Some(before));
    }
}

fn small(port: &u64) -> Result<(), String> {
    if *port < 100 { Ok(()) } else { Err(format!("{port} is not small")) }
}

#[derive(EtcdSchema)]
struct Node {
    #[etcd(validate = small, secret)]
    port: u64,
    #[etcd(alias = "was")]
    name: Option<String>,
}

async fn published_field_is_validated_and_masked(bench: Bench) {
    let node = bench.client.dir::<Node>("/node").unwrap();
    let refused = node.port.publish(&4711).await.unwrap_err();
    assert_eq!((refused.kind(), node.port.exists().await.unwrap()), (ErrorKind::Invalid, false));
    let published = node.port.publish(&47).await.unwrap();
    let refused = published.set(&4711).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(!format!("{refused:?} {refused} {published:?}").contains("47"), "{refused:?} {published:?}");
    assert_eq!(node.port.get().await.unwrap().unwrap().into_inner(), 47, "the former value stays");

    let alias = bench.client.entry::<String>("/node/was").unwrap();
    alias.set(&"old".to_owned()).await.unwrap();
    let name = node.name.publish(&"new".to_owned()).await.unwrap();
    assert_eq!(node.name.get().await.unwrap().unwrap().into_inner(), "new");
    name.withdraw().await.unwrap();
    assert_eq!(node.name.get().await.unwrap().unwrap().into_inner(), "old");
}

async fn too_large_value_leaves_former_value(bench: Bench) {
    let entry = bench.client.entry::<String>("/services/large").unwrap();
    let large = "x".repeat(8 << 20);
    let refused = entry.publish(&large).await.unwrap_err();
    assert_eq!((refused.kind(), entry.exists().await.unwrap()), (ErrorKind::TooLarge, false));
    let published = entry.publish(&"small".to_owned()).ttl(TTL).await.unwrap();
    assert_eq!(published.set(&large).await.unwrap_err().kind(), ErrorKind::TooLarge);
    entry.delete().await.unwrap();
    soon(entry.wait_for(|now| now.is_some_and(|now| now == "small"))).await.unwrap();
    published.withdraw().await.unwrap();
}

etcd_typed_tests::on_every_store! { "published":
    published_value_exists_until_withdrawn
    drop_withdraws_in_background
    deleted_value_is_put_back_each_time
    set_keeps_lease_and_skips_equal_value
    first_publisher_takes_over_when_second_withdraws
    value_is_put_back_after_lease_is_revoked
    published_field_is_validated_and_masked
    too_large_value_leaves_former_value
}
