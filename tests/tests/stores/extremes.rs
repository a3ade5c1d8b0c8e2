//! Sets every duration and count of every builder to zero and to its maximum. Each call succeeds or
//! is refused with a reason, and no call panics.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::store::connect::{ConnectOptions, Endpoint};
use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::store::v2::V2Store;
use etcd_typed::store::v3::V3Store;
use etcd_typed::testing::{Etcd, Proxy};
use etcd_typed::{Client, ClientBuilder, Error, ErrorKind, EtcdSchema, Revision};
use futures_util::StreamExt;
use tokio::time::timeout;

const ENDLESS: Duration = Duration::MAX;
/// The limit of every wait. With the memory store, time is paused, so waiting costs nothing.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Limits {
    low: u32,
    #[etcd(entries)]
    notes: BTreeMap<String, u32>,
}

/// A function that sets one option of the client to a duration.
type Set = fn(ClientBuilder, Duration) -> ClientBuilder;

fn with_retry(builder: ClientBuilder, change: impl FnOnce(&mut etcd_typed::RetryPolicy)) -> ClientBuilder {
    let mut retry = etcd_typed::RetryPolicy::default();
    change(&mut retry);
    builder.retry(retry)
}

/// Options that limit how long something may take. With zero, no call could succeed.
const LIMITS: [(&str, Set); 5] = [
    ("call_timeout", |builder, time| with_retry(builder, |retry| retry.call_timeout = time)),
    ("read_attempt_timeout", |builder, time| with_retry(builder, |retry| retry.read_attempt_timeout = time)),
    ("connect_timeout", ClientBuilder::connect_timeout),
    ("keep_alive interval", |builder, time| builder.keep_alive(time, Duration::from_secs(2))),
    ("keep_alive timeout", |builder, time| builder.keep_alive(Duration::from_secs(5), time)),
];

/// Options that set a delay. Zero is a short delay.
const WAITS: [(&str, Set); 2] = [
    ("first_delay", |builder, time| with_retry(builder, |retry| retry.first_delay = time)),
    ("max_delay", |builder, time| with_retry(builder, |retry| retry.max_delay = time)),
];

/// Returns builders that each have one option at an extreme, and one builder with all durations at
/// their maximum.
fn extreme_builders(address: &str) -> Vec<(String, ClientBuilder)> {
    let mut builders: Vec<_> = LIMITS
        .iter()
        .chain(&WAITS)
        .map(|(name, set)| (format!("{name} endless"), set(Client::builder(address), ENDLESS)))
        .chain(WAITS.iter().map(|(name, set)| (format!("{name} zero"), set(Client::builder(address), Duration::ZERO))))
        .collect();
    for budget in [0, u32::MAX] {
        builders.push((format!("budget {budget}"), with_retry(Client::builder(address), |retry| retry.conflict_budget = budget)));
    }
    builders.push(("operations".to_owned(), Client::builder(address).max_operations(usize::MAX)));
    let all = with_retry(Client::builder(address), |retry| {
        *retry = etcd_typed::RetryPolicy::new()
            .call_timeout(ENDLESS)
            .read_attempt_timeout(ENDLESS)
            .first_delay(ENDLESS)
            .max_delay(ENDLESS)
            .conflict_budget(u32::MAX);
    });
    builders.push(("all".to_owned(), all.connect_timeout(ENDLESS).keep_alive(ENDLESS, ENDLESS)));
    builders
}

/// Makes one call of each kind, on keys below `dir`.
async fn use_everything(client: &Client, dir: &str, transactions: bool) {
    let entry = client.entry::<u32>(&format!("{dir}/entry")).unwrap();
    entry.set(&1).await.unwrap();
    entry.modify(|n| Some(n.unwrap_or(0) + 1)).await.unwrap();
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&2));
    let live = entry.live().await.unwrap();
    let mut changes = entry.watch().await.unwrap();
    let written = entry.set(&3).await.unwrap();
    assert_eq!(**live.wait_for_revision(written).await.unwrap(), Some(3));
    assert_eq!(changes.next().await.unwrap().unwrap().new, Some(3));
    if transactions {
        let limits = client.dir::<Limits>(&format!("{dir}/limits")).unwrap();
        limits.set(&Limits { low: 1, notes: BTreeMap::new() }).await.unwrap();
        limits.update(|limits| limits.low += 1).await.unwrap();
        assert_eq!(limits.get().await.unwrap().low, 2);
    }
    let lease = client.lease(Duration::from_secs(5)).await.unwrap();
    entry.set(&4).lease(&lease).await.unwrap();
    lease.revoke().await.unwrap();
    let lock = client.lock(&format!("{dir}/lock"));
    let held = lock.acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none());
    held.release().await.unwrap();
    lock.acquire_within(ENDLESS).await.unwrap().release().await.unwrap();
    let election = client.election::<String>(&format!("{dir}/election"));
    election.campaign_within(&"me".to_owned(), ENDLESS).await.unwrap().resign().await.unwrap();
    let published = client.entry::<u32>(&format!("{dir}/published")).unwrap().publish(&1).await.unwrap();
    published.set(&2).await.unwrap();
    published.withdraw().await.unwrap();
}

fn is_refused(name: &str, refused: Result<(), Error>) {
    let error = refused.expect_err(name);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{name}: {error}");
    assert!(error.to_string().contains(name) && error.to_string().contains("zero"), "{name}: {error}");
}

#[tokio::test]
async fn error_for_zero_limit_includes_option_name() {
    for address in ["memory:", "etcd://127.0.0.1:1", "etcd2://127.0.0.1:1"] {
        for (name, set) in LIMITS {
            is_refused(name, set(Client::builder(address), Duration::ZERO).connect_lazy().map(drop));
        }
        is_refused("max_operations", Client::builder(address).max_operations(0).connect_lazy().map(drop));
    }
    let mut options = ConnectOptions::new(vec![Endpoint { host: "127.0.0.1".to_owned(), port: 1 }]);
    options.progress_interval = Duration::ZERO;
    is_refused("progress_interval", V3Store::new(&options).map(drop));
    is_refused("progress_interval", V2Store::new(options).map(drop));
}

#[tokio::test(start_paused = true)]
async fn memory_calls_succeed_with_extreme_options() {
    for (name, builder) in extreme_builders("memory:") {
        let client = builder.connect().await.unwrap();
        timeout(LIMIT, use_everything(&client, "/extremes", true)).await.expect(&name);
    }
}

#[tokio::test]
async fn v3_calls_succeed_with_extreme_options() {
    let etcd = etcd_typed_tests::shared("extremes").await;
    for (number, (name, builder)) in extreme_builders(&etcd.url_v3()).into_iter().enumerate() {
        let client = builder.connect().await.unwrap();
        timeout(LIMIT, use_everything(&client, &format!("/extremes/{number}"), true)).await.expect(&name);
    }
}

#[tokio::test]
async fn v2_calls_succeed_with_extreme_options() {
    let etcd = etcd_typed_tests::shared("extremes").await;
    for (number, (name, builder)) in extreme_builders(&etcd.url_v2()).into_iter().enumerate() {
        let client = builder.connect().await.unwrap();
        timeout(LIMIT, use_everything(&client, &format!("/extremes/{number}"), false)).await.expect(&name);
    }
}

/// Calls every builder that takes a time to live.
async fn every_ttl(client: &Client, ttl: Duration, transactions: bool) -> Vec<(&'static str, Result<(), Error>)> {
    let entry = |name: &str| client.entry::<u32>(&format!("/ttl/{name}")).unwrap();
    entry("modify").set(&1).await.unwrap();
    let mut results = vec![
        ("lease", client.lease(ttl).await.map(drop)),
        ("set", entry("set").set(&1).ttl(ttl).await.map(drop)),
        ("create", entry(&format!("create{}", ttl.as_nanos())).create(&1).ttl(ttl).await.map(drop)),
        ("modify", entry("modify").modify(|n| Some(n.unwrap_or(0) + 1)).ttl(ttl).await.map(drop)),
        ("publish", entry("publish").publish(&1).ttl(ttl).await.map(drop)),
        ("lock", client.lock("/ttl/lock").ttl(ttl).acquire().await.map(drop)),
        ("try lock", client.lock("/ttl/trylock").ttl(ttl).try_acquire().await.map(drop)),
        ("election", client.election::<u32>("/ttl/election").ttl(ttl).campaign(&1).await.map(drop)),
    ];
    if transactions {
        let limits = client.dir::<Limits>("/ttl/limits").unwrap();
        let value = Limits { low: 1, notes: BTreeMap::from([("a".to_owned(), 1)]) };
        limits.set(&value).await.unwrap();
        let map = client.entries::<String, u32>("/ttl/map").unwrap();
        results.extend([
            ("struct", limits.set(&value).ttl(ttl).await.map(drop)),
            ("update", limits.update(|limits| limits.low += 1).ttl(ttl).await.map(drop)),
            ("map", map.set(&BTreeMap::from([("a".to_owned(), 1)])).ttl(ttl).await.map(drop)),
            ("transaction", client.transaction().write(entry("transaction").set(&1).ttl(ttl)).await.map(drop)),
        ]);
    } else {
        let directory = client.directory(&format!("/ttl/directory{}", ttl.as_nanos())).unwrap();
        results.push(("directory", directory.create().ttl(ttl).await.map(drop)));
    }
    results
}

/// Checks that a time to live of zero is replaced by the shortest that the store grants, and that
/// the maximum is granted or fails with `Invalid`.
async fn ttls_are_granted_or_refused(client: &Client, transactions: bool) {
    for ttl in [Duration::ZERO, Duration::from_nanos(1), ENDLESS] {
        for (name, result) in timeout(LIMIT, every_ttl(client, ttl, transactions)).await.expect("every call ends") {
            match result {
                Ok(()) => {}
                Err(error) => assert!(ttl == ENDLESS && error.kind() == ErrorKind::Invalid, "{name} {ttl:?}: {error}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn memory_grants_or_refuses_extreme_ttls() {
    ttls_are_granted_or_refused(&Client::connect("memory:").await.unwrap(), true).await;
}

#[tokio::test]
async fn v3_grants_or_refuses_extreme_ttls() {
    let etcd = Etcd::start().await;
    ttls_are_granted_or_refused(&Client::connect(&etcd.url_v3()).await.unwrap(), true).await;
}

#[tokio::test]
async fn v2_grants_or_refuses_extreme_ttls() {
    let etcd = Etcd::start().await;
    ttls_are_granted_or_refused(&Client::connect(&etcd.url_v2()).await.unwrap(), false).await;
}

#[tokio::test(start_paused = true)]
async fn memory_store_accepts_extreme_counts() {
    for count in [0, usize::MAX] {
        let store = MemoryStore::new();
        store.keep_history(count);
        let faults = store.faults();
        let client = Client::with_store(store.clone());
        let map = client.entries::<String, u32>("/map").unwrap();
        map.set(&BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)])).await.unwrap();
        assert_eq!(map.stream_in_pages_of(count).count().await, 2);
        let live = map.live().history(count).await.unwrap();
        let written = map.entry(&"a".to_owned()).unwrap().set(&3).await.unwrap();
        live.wait_for_revision(written).await.unwrap();
        assert_eq!(live.history().len(), if count == 0 { 1 } else { 2 });
        faults.fail_next(count);
        assert_eq!(map.get().await.is_err(), count > 0);
        faults.clear();
        faults.lose_reply(Calls::Commits, count);
        faults.lose_request(Calls::Reads, count);
        faults.apply_late(count, ENDLESS);
        faults.clear();
        faults.delay(Calls::Reads, ENDLESS);
        timeout(LIMIT, map.get()).await.unwrap_err();
        faults.delay(Calls::Reads, Duration::ZERO);
        faults.apply_late(1, ENDLESS);
        map.entry(&"a".to_owned()).unwrap().set(&4).await.unwrap_err();
        faults.compact_to(Revision::new(u64::MAX));
        map.get().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn extreme_revisions_never_panic_in_memory() {
    revisions_are_safe(&Client::connect("memory:").await.unwrap()).await;
}

#[tokio::test]
async fn extreme_revisions_never_panic_on_v2_and_v3() {
    let etcd = etcd_typed_tests::shared("extremes").await;
    for address in [etcd.url_v3(), etcd.url_v2()] {
        revisions_are_safe(&Client::connect(&address).await.unwrap()).await;
    }
}

/// Checks that no call panics. A call may wait for a revision that never comes.
async fn revisions_are_safe(client: &Client) {
    let moment = Duration::from_millis(500);
    let entry = client.entry::<u32>("/revisions/entry").unwrap();
    entry.set(&1).await.unwrap();
    let live = entry.live().await.unwrap();
    for revision in [0, u64::MAX].map(Revision::new) {
        let _ = timeout(moment, live.wait_for_revision(revision)).await;
        let _ = timeout(moment, async { entry.watch().since(revision).await.map(drop) }).await;
        let _ =
            timeout(moment, async { client.entries::<String, u32>("/revisions").unwrap().watch().since(revision).await.map(drop) }).await;
    }
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&1));
}

#[tokio::test]
async fn endless_proxy_delay_blocks_calls() {
    let etcd = etcd_typed_tests::shared("extremes").await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let client = Client::builder(&format!("etcd://{}", proxy.endpoint())).connect().await.unwrap();
    proxy.delay(ENDLESS);
    timeout(Duration::from_millis(300), client.status()).await.unwrap_err();
    proxy.delay(Duration::ZERO);
    proxy.cut_after(u64::MAX);
    proxy.cut();
    client.status().await.unwrap();
}
