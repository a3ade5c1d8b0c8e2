//! Published values: there as long as their guard lives, put back whenever they are lost, and never fought for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod embedded;
mod example;
mod servers;
mod sharing;

use std::time::Duration;

use etcd_typed::{Client, Entry, EntryChanges, ErrorKind, EtcdSchema, LostReason, Published, PublishedStatus};
use tokio::time::{sleep, timeout};

/// Long enough for any backoff and time to live; only a test that fails waits for it.
const LIMIT: Duration = Duration::from_secs(60);
/// The shortest that servers grant.
const TTL: Duration = Duration::from_secs(2);
/// In which whoever fights would have written.
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

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("it comes to it")
}

async fn until(what: impl Fn() -> bool) {
    soon(async {
        while !what() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Waits until this is what is there.
async fn shows(entry: &Entry<u64>, value: Option<u64>) {
    soon(entry.wait_for(|now| now.copied() == value)).await.unwrap();
}

/// What the next change says is there.
async fn next(changes: &mut EntryChanges<u64>) -> Option<u64> {
    soon(changes.next()).await.expect("no end").expect("no error").new
}

fn reason(published: &Published<u64>) -> Option<LostReason> {
    match published.status() {
        PublishedStatus::Missing { reason, .. } => Some(reason),
        _ => None,
    }
}

async fn it_is_there_until_it_is_withdrawn(bench: Bench) {
    let entry = bench.entry();
    let published = entry.publish(&1).ttl(TTL).await.unwrap();
    assert!(published.is_published() && published.key() == entry.key());
    let read = entry.get().await.unwrap().unwrap();
    assert_eq!(*read, 1);
    assert!(read.lease().is_some() || read.ttl().is_some_and(|ttl| ttl <= TTL), "it goes by itself: {read:?}");
    // Longer than its time to live.
    sleep(2 * TTL).await;
    assert!(published.is_published());
    assert_eq!(entry.get().await.unwrap().unwrap().into_inner(), 1);
    published.withdraw().await.unwrap();
    assert_eq!(entry.get().await.unwrap(), None, "as soon as it is answered");
}

async fn dropped_it_is_withdrawn_in_the_background(bench: Bench) {
    let entry = bench.entry();
    drop(entry.publish(&1).await.unwrap());
    // Sooner than the time to live of 15 s that is the default, or the limit would have to be longer.
    timeout(Duration::from_secs(10), entry.wait_for(|now| now.is_none())).await.unwrap().unwrap();
}

async fn a_value_that_is_deleted_comes_back_as_often_as_that_is(bench: Bench) {
    let entry = bench.entry();
    let mut changes = entry.watch().await.unwrap();
    let published = entry.publish(&0).ttl(TTL).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(0));
    for value in 1..=8 {
        published.set(&value).await.unwrap();
        assert_eq!(next(&mut changes).await, Some(value));
        entry.delete().await.unwrap();
        assert_eq!(next(&mut changes).await, None);
        assert_eq!(next(&mut changes).await, Some(value), "the newest");
        until(|| published.is_published()).await;
    }
    published.withdraw().await.unwrap();
    assert_eq!(next(&mut changes).await, None);
}

async fn a_newer_value_has_the_same_lease_and_the_same_is_not_written_again(bench: Bench) {
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
    assert_eq!(next(&mut changes).await, Some(3), "and no second 2");
    published.withdraw().await.unwrap();
}

async fn of_two_publishers_the_later_one_is_there_and_the_other_takes_over(bench: Bench) {
    let entry = bench.entry();
    // It is put over a value that was there before as well.
    entry.set(&0).await.unwrap();
    let mut changes = entry.watch().await.unwrap();
    let first = entry.publish(&1).ttl(TTL).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(1));
    let second = entry.publish(&2).ttl(TTL).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(2));
    until(|| reason(&first) == Some(LostReason::TakenOver)).await;

    // Nobody writes, whatever time passes.
    assert!(timeout(TTL + QUIET, changes.next()).await.is_err());
    assert!(second.is_published() && !first.is_published());
    let refused = first.set(&11).await.unwrap_err();
    assert_eq!((refused.kind(), refused.key()), (ErrorKind::Conflict, Some(entry.key())));
    second.set(&22).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(22));
    assert!(timeout(QUIET, changes.next()).await.is_err());

    second.withdraw().await.unwrap();
    assert_eq!(next(&mut changes).await, None);
    assert_eq!(next(&mut changes).await, Some(11), "the newest, as it was to be");
    until(|| first.is_published()).await;

    // A value of somebody who does not publish, and nothing is deleted that is not ours.
    entry.set(&5).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(5));
    until(|| !first.is_published()).await;
    first.withdraw().await.unwrap();
    assert!(timeout(QUIET, changes.next()).await.is_err());
    assert_eq!(entry.get().await.unwrap().unwrap().into_inner(), 5);
}

async fn a_revoked_lease_is_one_that_is_lost(bench: Bench) {
    let entry = bench.entry();
    let mut changes = entry.watch().await.unwrap();
    let published = entry.publish(&1).ttl(TTL).await.unwrap();
    assert_eq!(next(&mut changes).await, Some(1));
    if !bench.transactions() {
        // v2 knows no leases: nobody has the name of ours to revoke it by.
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

async fn a_field_is_checked_masked_and_written_to_its_own_key(bench: Bench) {
    let node = bench.client.dir::<Node>("/node").unwrap();
    let refused = node.port.publish(&4711).await.unwrap_err();
    assert_eq!((refused.kind(), node.port.exists().await.unwrap()), (ErrorKind::Invalid, false));
    let published = node.port.publish(&47).await.unwrap();
    let refused = published.set(&4711).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(!format!("{refused:?} {refused} {published:?}").contains("47"), "{refused:?} {published:?}");
    assert_eq!(node.port.get().await.unwrap().unwrap().into_inner(), 47, "the one before stays");

    let alias = bench.client.entry::<String>("/node/was").unwrap();
    alias.set(&"old".to_owned()).await.unwrap();
    let name = node.name.publish(&"new".to_owned()).await.unwrap();
    assert_eq!(node.name.get().await.unwrap().unwrap().into_inner(), "new");
    name.withdraw().await.unwrap();
    assert_eq!(node.name.get().await.unwrap().unwrap().into_inner(), "old");
}

async fn a_value_that_is_too_large_leaves_the_one_before(bench: Bench) {
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
    it_is_there_until_it_is_withdrawn
    dropped_it_is_withdrawn_in_the_background
    a_value_that_is_deleted_comes_back_as_often_as_that_is
    a_newer_value_has_the_same_lease_and_the_same_is_not_written_again
    of_two_publishers_the_later_one_is_there_and_the_other_takes_over
    a_revoked_lease_is_one_that_is_lost
    a_field_is_checked_masked_and_written_to_its_own_key
    a_value_that_is_too_large_leaves_the_one_before
}
