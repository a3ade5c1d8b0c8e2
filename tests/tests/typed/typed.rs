//! Every method of the handles, on every store. If v2 does not support a call, the tests assert
//! that it refuses the call. `semantics.rs` tests the rules that do not depend on the store.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod entries;
mod structs;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use etcd_typed::{
    Change, Client, Entry, ErrorKind, EtcdSchema, EtcdValue, Expect, Json, Keyed, Previous, Revision, Schema, StatsKind, Update,
};

/// A service's settings, with every kind of field.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/app", rename_all = "kebab-case", change(Clone, PartialEq))]
struct App {
    /// Requests per second.
    #[etcd(default = 100)]
    rate_limit: u32,
    timeout: Duration,
    banner: Option<String>,
    level: Level,
    #[etcd(json)]
    features: Vec<String>,
    #[etcd(dir)]
    database: Database,
    #[etcd(dir)]
    regions: BTreeMap<String, Region>,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

#[derive(EtcdValue, Clone, Copy, Debug, PartialEq)]
enum Level {
    Debug,
    Info,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(change(Clone, PartialEq))]
struct Database {
    host: String,
    pool: u16,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(change(Clone, PartialEq))]
struct Region {
    replicas: u8,
}

fn app() -> App {
    App {
        rate_limit: 250,
        timeout: Duration::from_secs(90),
        banner: Some("Sale!".to_owned()),
        level: Level::Info,
        features: vec!["a".to_owned(), "b".to_owned()],
        database: Database { host: "db".to_owned(), pool: 8 },
        regions: BTreeMap::from([("eu".to_owned(), Region { replicas: 3 }), ("us west".to_owned(), Region { replicas: 2 })]),
        quotas: BTreeMap::from([("acme".to_owned(), 1000), ("a/b".to_owned(), 5)]),
    }
}

/// A client that has its own namespace in each test.
struct Bench {
    client: Client,
}

impl Bench {
    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }

    fn app(&self) -> AppDir {
        AppDir::open(&self.client, "prod").unwrap()
    }

    /// Writes [`app`] and returns the handle.
    async fn filled(&self) -> AppDir {
        let dir = self.app();
        dir.set(&app()).non_atomic().await.unwrap();
        dir
    }

    fn entry(&self) -> Entry<u32> {
        self.client.entry("/entry").unwrap()
    }
}

etcd_typed_tests::on_every_store! { "typed":
    map_entries_have_handles
    map_is_set_read_and_streamed
    watch_of_map_reports_entry_names
    stream_continues_after_bad_value
    directory_is_listed_and_deleted
    empty_directory_needs_store_support
    watch_of_directory_reports_raw_values
    transaction_on_several_handles_is_atomic
    stale_reads_return_value
    status_members_and_stats_answer
}

async fn map_entries_have_handles(bench: Bench) {
    let dir = bench.filled().await;
    assert_eq!(dir.regions.keys().await.unwrap(), ["eu", "us west"]);
    assert_eq!(*dir.regions.get().await.unwrap(), app().regions);
    let asia = dir.regions.dir("asia").unwrap();
    asia.set(&Region { replicas: 1 }).await.unwrap();
    assert_eq!(dir.get().await.unwrap().regions.len(), 3);
    asia.delete().non_atomic().await.unwrap();
    assert_eq!(dir.regions.keys().await.unwrap(), ["eu", "us west"]);
    dir.quotas.entry("a/b").unwrap().modify(|n| n.map(|n| n + 1)).await.unwrap();
    assert_eq!(dir.get().await.unwrap().quotas["a/b"], 6);
}

async fn map_is_set_read_and_streamed(bench: Bench) {
    let map = bench.client.entries::<u32, String>("/numbers").unwrap();
    assert!(map.get().await.unwrap().is_empty());
    let all: BTreeMap<u32, String> = (0..20).map(|n| (n, format!("value {n}"))).collect();
    map.set(&all).non_atomic().await.unwrap();
    assert_eq!(*map.get().await.unwrap(), all);
    let mut pages = map.stream_in_pages_of(7);
    let mut streamed = BTreeMap::new();
    while let Some(item) = pages.next().await {
        let (key, value) = item.unwrap();
        streamed.insert(key, value.into_inner());
    }
    assert_eq!(streamed, all);
    let one = BTreeMap::from([(3, "three".to_owned())]);
    map.set(&one).non_atomic().await.unwrap();
    assert_eq!(*map.get().await.unwrap(), one);
}

async fn watch_of_map_reports_entry_names(bench: Bench) {
    let map = bench.client.entries::<String, u32>("/map").unwrap();
    let mut changes = map.watch().await.unwrap();
    assert!(changes.current().unwrap().is_empty());
    map.entry("../x").unwrap().set(&1).await.unwrap();
    let update = changes.next().await.unwrap().unwrap();
    let [Keyed { key, change }] = &update.changes[..] else { panic!("{update:?}") };
    assert_eq!((key.as_str(), change.new), ("../x", Some(1)));
    assert_eq!(*changes.current().unwrap(), BTreeMap::from([("../x".to_owned(), 1)]));
}

async fn stream_continues_after_bad_value(bench: Bench) {
    let dir = bench.filled().await;
    let mut changes = dir.watch().await.unwrap();
    let raw = bench.client.entry::<String>("/prod/app/rate-limit").unwrap();
    let revision = raw.set(&"many".to_owned()).await.unwrap();
    let error = changes.next().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Decode, Some(raw.key())));
    assert!(error.to_string().contains(&revision.to_string()), "{error}");
    assert_eq!(dir.rate_limit.get().await.unwrap_err().kind(), ErrorKind::Decode);
    assert_eq!(dir.get().await.unwrap_err().problems().len(), 1);
    dir.rate_limit.set(&5).await.unwrap();
    let update = changes.next().await.unwrap().unwrap();
    assert!(matches!(&update.changes[..], [AppChange::RateLimit(Change { old: None, new: Some(5), .. })]), "{update:?}");
}

async fn directory_is_listed_and_deleted(bench: Bench) {
    bench.filled().await;
    let directory = bench.client.directory("/prod/app").unwrap();
    let paths: Vec<_> = directory.list().await.unwrap().iter().map(|node| (node.path.clone(), node.is_directory())).collect();
    let expected = [
        ("banner", false),
        ("database", true),
        ("features", false),
        ("level", false),
        ("quotas", true),
        ("rate-limit", false),
        ("regions", true),
        ("timeout", false),
    ];
    assert_eq!(paths, expected.map(|(path, directory)| (path.to_owned(), directory)));
    let all = directory.list_recursive().await.unwrap();
    let value = all.iter().find(|node| node.path == "database/pool").unwrap().value.as_ref().unwrap();
    assert_eq!(&***value, b"8");
    assert!(all.iter().any(|node| node.path == "regions/eu" && node.is_directory()));
    assert_eq!(directory.delete().await.unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    assert!(directory.exists().await.unwrap());
    assert!(directory.delete_recursive().await.unwrap() > 0);
    assert!(!directory.exists().await.unwrap());
    assert_eq!(directory.delete().await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(directory.delete_recursive().await.unwrap(), 0);
}

async fn empty_directory_needs_store_support(bench: Bench) {
    let directory = bench.client.directory("/own").unwrap();
    if !bench.client.store().capabilities().directories {
        for refused in [directory.create().await, directory.update().ttl(Duration::from_secs(60)).await] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.key(), Some(directory.key()));
        }
        return;
    }
    directory.create().await.unwrap();
    assert!(directory.exists().await.unwrap());
    assert!(directory.list().await.unwrap().is_empty());
    assert_eq!(directory.create().await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let updated = directory.update().ttl(Duration::from_secs(60)).await;
    if bench.client.status().await.unwrap().version.starts_with("3.5.") {
        // etcd 3.5 answers every update of a directory with an error.
        assert_eq!(updated.unwrap_err().kind(), ErrorKind::Unsupported);
    } else {
        updated.unwrap();
        let above = bench.client.directory("/").unwrap().list().await.unwrap();
        assert!(above.iter().any(|node| node.path == "own" && node.directory_ttl.is_some()), "{above:?}");
    }
    directory.delete().await.unwrap();
    assert_eq!(directory.update().await.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn watch_of_directory_reports_raw_values(bench: Bench) {
    let directory = bench.client.directory("/raw").unwrap();
    let mut changes = directory.watch().await.unwrap();
    directory.entry::<u32>("a").set(&1).await.unwrap();
    directory.directory("deeper").entry::<u32>("b").set(&2).await.unwrap();
    for (path, value) in [("a", "1"), ("deeper/b", "2")] {
        let update = changes.next().await.unwrap().unwrap();
        assert_eq!(update.changes[0].key, path);
        assert_eq!(update.changes[0].change.new.as_deref(), Some(value.as_bytes()));
    }
    directory.delete_recursive().await.unwrap();
    let gone = changes.next().await.unwrap().unwrap();
    assert_eq!(gone.changes.len(), 2, "{gone:?}");
    assert!(gone.changes.iter().all(|change| change.change.is_deleted()));
}

async fn transaction_on_several_handles_is_atomic(bench: Bench) {
    let dir = bench.filled().await;
    let other = bench.entry();
    let limit = dir.rate_limit.get().await.unwrap();
    let transfer =
        bench.client.transaction().expect(&dir.rate_limit, &limit).write(dir.rate_limit.set(&1)).write(other.set(&2)).delete(&dir.banner);
    if !bench.transactions() {
        assert_eq!(transfer.await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(*dir.get().await.unwrap(), app());
        // A transaction on one key works like the method of that entry.
        bench.client.transaction().expect(&dir.rate_limit, &limit).write(dir.rate_limit.set(&1)).await.unwrap();
        assert_eq!(dir.rate_limit.get().await.unwrap().as_deref(), Some(&1));
        return;
    }
    let revision = transfer.await.unwrap();
    assert_eq!(dir.rate_limit.get().await.unwrap().unwrap().modified(), revision);
    assert_eq!(other.get().await.unwrap().unwrap().modified(), revision);
    assert_eq!(dir.banner.get().await.unwrap(), None);
    let error =
        bench.client.transaction().expect(&other, Expect::value(&2)).expect(&dir.rate_limit, &limit).delete(&other).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Conflict, Some(dir.rate_limit.key())));
    assert_eq!(error.current::<u32>().map(|now| **now), Some(1));
    assert!(other.exists().await.unwrap());
}

async fn stale_reads_return_value(bench: Bench) {
    let entry = bench.entry();
    entry.set(&1).await.unwrap();
    let stale = bench.client.stale_reads().entry::<u32>("/entry").unwrap();
    assert_eq!(stale.get().await.unwrap().as_deref(), Some(&1));
    // The read of a read-modify-write is never stale.
    assert_eq!(stale.modify(|n| n.map(|n| n + 1)).await.unwrap().as_deref(), Some(&2));
}

async fn status_members_and_stats_answer(bench: Bench) {
    bench.entry().set(&1).await.unwrap();
    let status = bench.client.status().await.unwrap();
    assert_eq!(status.store, bench.client.store().capabilities().name);
    assert!(status.revision > Revision::ZERO && !status.version.is_empty());
    assert_eq!(bench.client.members().await.unwrap().len(), 1);
    let stats = bench.client.stats(StatsKind::Store).await;
    match bench.client.store().capabilities().name {
        "etcd v2" => assert!(stats.unwrap().counter("setsSuccess").unwrap() > 0),
        _ => {
            let error = stats.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("status()"), "{error}");
        }
    }
}

#[test]
fn description_lists_all_fields() {
    let text = App::describe().to_string();
    for line in [
        "App in /{env}/app",
        "A service's settings, with every kind of field.",
        "rate-limit  unsigned integer, default 100",
        "Requests per second.",
        "banner  text, optional",
        "level  one of `debug`, `info`",
        "features  JSON",
        "database/pool  unsigned integer",
        "regions/<text>/replicas  unsigned integer",
        "quotas/<text>  unsigned integer",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}
