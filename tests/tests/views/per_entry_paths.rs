//! Per-entry views of maps whose keys have several segments, and of maps with names that begin with
//! `_`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::{Client, DirMap, EntryMap, ErrorKind, EtcdSchema, LiveMap, LiveStatus, Problem, ProblemKind, Revision};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

type Instance = (String, String, u64);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Pool {
    low: u32,
    #[etcd(default = 10)]
    high: u32,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(strict)]
struct Exact {
    size: u32,
}

struct Bench {
    client: Client,
}

impl Bench {
    fn instances(&self) -> EntryMap<Instance, u16> {
        self.client.entries("/instances").unwrap()
    }

    fn pools(&self) -> DirMap<(String, u8), Pool> {
        self.client.dirs("/pools").unwrap()
    }

    fn ports(&self) -> EntryMap<String, u16> {
        self.client.entries("/ports").unwrap()
    }

    /// Returns true if the store hides names that begin with `_`.
    fn hides(&self) -> bool {
        self.client.store().capabilities().directories
    }

    /// Writes text at any key, as a user does with another tool.
    async fn put(&self, path: &str, text: &str) -> Revision {
        self.client.entry::<String>(path).unwrap().set(&text.to_owned()).await.unwrap()
    }

    async fn delete(&self, path: &str) -> Revision {
        self.client.entry::<String>(path).unwrap().delete().await.unwrap();
        self.put("/elsewhere", "x").await
    }
}

async fn soon<T>(wait: impl IntoFuture<Output = T>) -> T {
    timeout(LIMIT, wait).await.expect("this happens in time")
}

async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            sleep(POLL).await;
        }
    })
    .await;
}

fn instance(ns: &str, component: &str, id: u64) -> Instance {
    (ns.to_owned(), component.to_owned(), id)
}

/// Returns the keys with problems, relative to this directory, in order.
fn below<'p>(directory: &str, problems: &'p [Problem]) -> Vec<&'p str> {
    let mut paths: Vec<_> = problems.iter().map(|problem| problem.key.as_str().split_once(directory).unwrap().1).collect();
    paths.sort_unstable();
    paths
}

fn shown<K: Ord + Clone, V: Clone>(live: &LiveMap<K, V>) -> BTreeMap<K, V> {
    live.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

etcd_typed_tests::on_every_store! { "per-entry-paths":
    bad_entry_of_several_levels_keeps_last_good_value
    bad_struct_of_several_levels_keeps_last_good_value
    plain_name_replaces_escaped_name
    plain_directory_replaces_escaped_directory
}

async fn bad_entry_of_several_levels_keeps_last_good_value(bench: Bench) {
    let (a, b) = (instance("ns", "a/b", 1), instance("ns", "x", 2));
    let map = bench.instances();
    map.entry(&a).unwrap().set(&1).await.unwrap();
    bench.put("/instances/ns/x/07", "7").await;
    bench.put("/instances/ns/short", "8").await;
    assert_eq!(map.get().await.unwrap_err().kind(), ErrorKind::Invalid);
    let live = soon(map.live().per_entry()).await.unwrap();
    assert_eq!((shown(&live.get()), below("/instances/", live.status().problems())), ([(a.clone(), 1)].into(), vec!["ns/x/07"]));
    assert_eq!(live.status().problems()[0].kind, ProblemKind::ForeignKey);

    bench.put("/instances/ns/a%2Fb/1", "one").await;
    let written = map.entry(&b).unwrap().set(&2).await.unwrap();
    let wanted = BTreeMap::from([(a.clone(), 1), (b.clone(), 2)]);
    assert_eq!(shown(&soon(live.wait_for_revision(written)).await.unwrap()), wanted);
    assert_eq!(below("/instances/", live.status().problems()), ["ns/a%2Fb/1", "ns/x/07"]);
    let read = map.get_per_entry().await.unwrap();
    assert_eq!((&read.entries, below("/instances/", &read.problems)), (&[(b.clone(), 2)].into(), vec!["ns/a%2Fb/1", "ns/x/07"]));
    let changes = soon(map.watch().per_entry()).await.unwrap();
    assert_eq!(*changes.current().unwrap(), read.entries);

    bench.delete("/instances/ns/a%2Fb/1").await;
    bench.delete("/instances/ns/x/07").await;
    until(|| matches!(live.status(), LiveStatus::Live)).await;
    assert_eq!(shown(&live.get()), [(b, 2)].into());
}

async fn bad_struct_of_several_levels_keeps_last_good_value(bench: Bench) {
    let (a, b) = (("eu/1".to_owned(), 7), ("us".to_owned(), 8));
    let pool = |low| Pool { low, high: 10 };
    for (key, text) in [("eu%2F1/7/low", "1"), ("us/8/low", "no"), ("us/low", "no")] {
        bench.put(&format!("/pools/{key}"), text).await;
    }
    let live = soon(bench.pools().live().per_entry()).await.unwrap();
    assert_eq!((shown(&live.get()), below("/pools/", live.status().problems())), ([(a.clone(), pool(1))].into(), vec!["us/8/low"]));
    bench.put("/pools/eu%2F1/7/low", "no").await;
    let written = bench.put("/pools/us/8/low", "2").await;
    let wanted = BTreeMap::from([(a.clone(), pool(1)), (b.clone(), pool(2))]);
    assert_eq!(shown(&soon(live.wait_for_revision(written)).await.unwrap()), wanted);
    let read = bench.pools().get_per_entry().await.unwrap();
    assert_eq!((&read.entries, below("/pools/", &read.problems)), (&[(b.clone(), pool(2))].into(), vec!["eu%2F1/7/low"]));
    let changes = soon(bench.pools().watch().per_entry()).await.unwrap();
    assert_eq!(*changes.current().unwrap(), read.entries);
    bench.delete("/pools/eu%2F1/7/low").await;
    until(|| matches!(live.status(), LiveStatus::Live)).await;
    assert_eq!(shown(&live.get()), [(b, pool(2))].into());
}

async fn plain_name_replaces_escaped_name(bench: Bench) {
    if bench.hides() {
        return;
    }
    let map = bench.ports();
    let one = |value| BTreeMap::from([("_a".to_owned(), value)]);
    bench.put("/ports/%5Fa", "1").await;
    bench.put("/ports/_a", "2").await;
    let live = soon(map.live().per_entry()).await.unwrap();
    assert_eq!((shown(&live.get()), live.status().problems().len()), (one(2), 0));
    // The value at the escaped key is not read, so it cannot be bad.
    let written = bench.put("/ports/%5Fa", "bad").await;
    assert_eq!(shown(&soon(live.wait_for_revision(written)).await.unwrap()), one(2));
    assert!(matches!(live.status(), LiveStatus::Live), "{}", live.status());
    let read = map.get_per_entry().await.unwrap();
    assert_eq!((&read.entries, &read.problems[..]), (&one(2), &[][..]));
    assert_eq!((map.get().await.unwrap().into_inner(), map.check().await.unwrap().problems), (one(2), vec![]));
    assert_eq!(*soon(map.watch().per_entry()).await.unwrap().current().unwrap(), one(2));

    // If the value at the plain key is bad, the value at the escaped key does not replace it.
    bench.put("/ports/%5Fa", "1").await;
    let written = bench.put("/ports/_a", "bad").await;
    assert_eq!(shown(&soon(live.wait_for_revision(written)).await.unwrap()), one(2));
    assert_eq!(below("/ports/", live.status().problems()), ["_a"]);
    let read = map.get_per_entry().await.unwrap();
    assert_eq!((read.entries.len(), below("/ports/", &read.problems)), (0, vec!["_a"]));
    assert_eq!(soon(map.watch().per_entry()).await.unwrap().current().unwrap().len(), 0);
    assert_eq!(below("/ports/", map.get().await.unwrap_err().problems()), ["_a"]);
    let written = bench.delete("/ports/_a").await;
    assert_eq!(shown(&soon(live.wait_for_revision(written)).await.unwrap()), one(1));
    assert!(matches!(live.status(), LiveStatus::Live), "{}", live.status());
}

async fn plain_directory_replaces_escaped_directory(bench: Bench) {
    if bench.hides() {
        return;
    }
    let map = bench.client.dirs::<(String, u8), Pool>("/pools").unwrap();
    let key = ("_a".to_owned(), 1);
    let pool = |low| BTreeMap::from([(("_a".to_owned(), 1), Pool { low, high: 10 })]);
    bench.put("/pools/%5Fa/1/low", "1").await;
    // A struct does not exist without its required key.
    bench.put("/pools/_a/1/high", "10").await;
    let live = soon(map.live().per_entry()).await.unwrap();
    assert_eq!((shown(&live.get()), map.get().await.unwrap().into_inner()), (pool(1), pool(1)));
    let mut changes = soon(map.watch()).await.unwrap();
    bench.put("/pools/%5Fa/1/low", "2").await;
    assert_eq!(soon(changes.next()).await.unwrap().unwrap().changes[0].key, key);
    bench.put("/pools/_a/1/low", "3").await;
    let written = bench.put("/pools/%5Fa/1/low", "bad").await;
    assert_eq!(shown(&soon(live.wait_for_revision(written)).await.unwrap()), pool(3));
    assert!(matches!(live.status(), LiveStatus::Live), "{}", live.status());
    let read = map.get_per_entry().await.unwrap();
    assert_eq!((&read.entries, &read.problems[..]), (&pool(3), &[][..]));
    assert_eq!((map.get().await.unwrap().into_inner(), map.keys().await.unwrap()), (pool(3), vec![key.clone()]));
    assert_eq!(*soon(map.watch().per_entry()).await.unwrap().current().unwrap(), pool(3));
    assert_eq!(map.check().await.unwrap().problems, []);
}

/// A strict struct also refuses an unknown key whose name begins with `_`, except for the reserved
/// name. The name of the map entry itself may begin with `_`.
#[tokio::test(start_paused = true)]
async fn strict_struct_refuses_unknown_underscore_name_in_memory() {
    let bench = Bench { client: Client::with_store(MemoryStore::new()) };
    let map = bench.client.dirs::<(String, String), Exact>("/exact").unwrap();
    for path in ["ns/_s/size", "ns/_s/_etcd-typed/x", "ns/%5Fs/size", "ns/%5Fs/odd", "ns/t/size"] {
        bench.put(&format!("/exact/{path}"), "1").await;
    }
    let live = soon(map.live().per_entry()).await.unwrap();
    let keys = |live: &LiveMap<(String, String), Exact>| live.keys().map(|(_, name)| name.clone()).collect::<Vec<_>>();
    assert_eq!((keys(&live.get()), live.status().problems().len(), map.get().await.unwrap().len()), (vec!["_s".into(), "t".into()], 0, 2));
    let written = bench.put("/exact/ns/_s/_odd", "2").await;
    soon(live.wait_for_revision(written)).await.unwrap();
    assert_eq!(below("/exact/", live.status().problems()), ["ns/_s/_odd"]);
    let read = map.get_per_entry().await.unwrap();
    assert_eq!((read.entries.len(), below("/exact/", &read.problems)), (1, vec!["ns/_s/_odd"]));
    assert_eq!(below("/exact/", map.get().await.unwrap_err().problems()), ["ns/_s/_odd"]);
    bench.delete("/exact/ns/_s/_odd").await;
    until(|| matches!(live.status(), LiveStatus::Live)).await;
}

/// After a rewound history the view reads all entries again. An entry that is stored at the escaped
/// key also keeps its last good value.
#[tokio::test(start_paused = true)]
async fn last_good_escaped_entry_survives_rewound_history_in_memory() {
    let store = MemoryStore::new();
    let bench = Bench { client: Client::with_store(store.clone()) };
    for low in 0..9 {
        bench.put("/ports/%5Fa", &low.to_string()).await;
        bench.put("/pools/%5Fa/1/low", &low.to_string()).await;
    }
    let (ports, pools) = (soon(bench.ports().live().per_entry()).await.unwrap(), soon(bench.pools().live().per_entry()).await.unwrap());
    store.faults().wipe();
    for (key, text) in [("/ports/%5Fa", "one"), ("/ports/c", "3"), ("/pools/%5Fa/1/low", "one")] {
        bench.put(key, text).await;
    }
    until(|| ports.get().contains_key("c") && !pools.status().problems().is_empty()).await;
    assert_eq!(shown(&ports.get()), BTreeMap::from([("_a".to_owned(), 8), ("c".to_owned(), 3)]));
    assert_eq!(pools.get().get(&("_a".to_owned(), 1)), Some(&Pool { low: 8, high: 10 }));
}

/// While the value at the plain key is bad, the file keeps the value that the view shows, also if
/// the value at the escaped key changes.
#[tokio::test(start_paused = true)]
async fn file_contains_last_good_escaped_entry_in_memory() {
    let store = MemoryStore::new();
    let bench = Bench { client: Client::with_store(store.clone()) };
    let files = TempDir::new().unwrap();
    let file = files.path().join("ports.json");
    bench.put("/ports/%5Fa", "1").await;
    let live = soon(bench.ports().live().per_entry().or_snapshot(&file)).await.unwrap();
    bench.put("/ports/_a", "bad").await;
    bench.put("/ports/%5Fa", "9").await;
    let written = bench.put("/ports/d", "4").await;
    soon(live.wait_for_revision(written)).await.unwrap();
    let wanted = BTreeMap::from([("_a".to_owned(), 1), ("d".to_owned(), 4)]);
    assert_eq!((shown(&live.get()), below("/ports/", live.status().problems())), (wanted.clone(), vec!["_a"]));
    until(|| fs::read_to_string(&file).is_ok_and(|content| content.contains("\"d\""))).await;
    drop(live);
    store.faults().stop();
    let live = soon(bench.ports().live().per_entry().or_snapshot(&file)).await.unwrap();
    assert_eq!(shown(&live.get()), wanted);
}
