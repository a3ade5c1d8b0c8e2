//! Maps that are read per entry: a bad entry does not affect the other entries. The tests run on
//! every store. Tests with files and paused time run on the memory store.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::{Cause, Client, DirMap, EntryMap, ErrorKind, EtcdSchema, LiveStatus, Problem, ProblemKind, Revision};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(validate = in_order)]
struct Pool {
    low: u32,
    #[etcd(default = 10)]
    high: u32,
}

fn in_order(pool: &Pool) -> Result<(), String> {
    if pool.low <= pool.high { Ok(()) } else { Err("low is above high".to_owned()) }
}

struct Bench {
    client: Client,
}

impl Bench {
    fn ports(&self) -> EntryMap<String, u16> {
        self.client.entries("/ports").unwrap()
    }

    fn pools(&self) -> DirMap<String, Pool> {
        self.client.dirs("/pools").unwrap()
    }

    /// Writes text at any key, as a user does with another tool.
    async fn put(&self, path: &str, text: &str) -> Revision {
        self.client.entry::<String>(path).unwrap().set(&text.to_owned()).await.unwrap()
    }

    async fn delete(&self, path: &str) {
        self.client.entry::<String>(path).unwrap().delete().await.unwrap();
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

fn map<V: Clone, const N: usize>(entries: [(&str, V); N]) -> BTreeMap<String, V> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Returns the last segments of the keys with problems, in order.
fn names(problems: &[Problem]) -> Vec<&str> {
    let mut names: Vec<_> = problems.iter().map(|problem| problem.key.as_str().rsplit('/').next().unwrap()).collect();
    names.sort_unstable();
    names
}

etcd_typed_tests::on_every_store! { "per-entry":
    bad_entries_do_not_prevent_start
    bad_entry_keeps_last_good_value
    deleted_bad_entry_disappears
    bad_struct_keeps_last_good_value
    check_lists_bad_entries
    get_per_entry_leaves_bad_entries_out
    current_per_entry_leaves_bad_entries_out
}

async fn bad_entries_do_not_prevent_start(bench: Bench) {
    bench.put("/ports/a", "1").await;
    bench.put("/ports/b", "tcp:2").await;
    assert_eq!(soon(bench.ports().live()).await.map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    let live = soon(bench.ports().live().per_entry()).await.unwrap();
    assert_eq!(**live.get(), map([("a", 1)]));
    let status = live.status();
    assert!(matches!(status, LiveStatus::Partial { .. }) && status.is_live() && status.degraded_for().is_none(), "{status}");
    assert_eq!((names(status.problems()), status.problems()[0].kind), (vec!["b"], ProblemKind::Undecodable));
    assert!(status.problems()[0].revision.is_some() && status.to_string().contains("/ports/b: "), "{status}");
    let shown = serde_json::to_value(&status).unwrap();
    assert_eq!((shown["status"].as_str(), shown["problems"].as_array().unwrap().len()), (Some("partial"), 1));

    let written = bench.put("/ports/b", "2").await;
    assert_eq!(**soon(live.wait_for_revision(written)).await.unwrap(), map([("a", 1), ("b", 2)]));
    assert!(matches!(live.status(), LiveStatus::Live));
}

async fn bad_entry_keeps_last_good_value(bench: Bench) {
    bench.put("/ports/a", "1").await;
    bench.put("/ports/b", "2").await;
    let live = soon(bench.ports().live().per_entry()).await.unwrap();
    // Entry `a` becomes bad, the new entry `c` is bad, and the new entry `d` is good.
    bench.put("/ports/a", "one").await;
    bench.put("/ports/c", "three").await;
    let written = bench.put("/ports/d", "4").await;
    assert_eq!(**soon(live.wait_for_revision(written)).await.unwrap(), map([("a", 1), ("b", 2), ("d", 4)]));
    assert_eq!(names(live.status().problems()), ["a", "c"]);
    // `wait_for_revision` also succeeds for the revision of a bad value.
    let written = bench.put("/ports/d", "four").await;
    assert_eq!(**soon(live.wait_for_revision(written)).await.unwrap(), map([("a", 1), ("b", 2), ("d", 4)]));
    assert!(live.revision() >= written);

    bench.put("/ports/a", "11").await;
    let written = bench.put("/ports/c", "3").await;
    assert_eq!(**soon(live.wait_for_revision(written)).await.unwrap(), map([("a", 11), ("b", 2), ("c", 3), ("d", 4)]));
    assert_eq!(names(live.status().problems()), ["d"]);
}

async fn deleted_bad_entry_disappears(bench: Bench) {
    bench.put("/ports/a", "1").await;
    let live = soon(bench.ports().live().per_entry()).await.unwrap();
    bench.put("/ports/a", "one").await;
    until(|| !live.status().problems().is_empty()).await;
    assert_eq!(**live.get(), map([("a", 1)]));
    bench.delete("/ports/a").await;
    until(|| live.get().is_empty()).await;
    assert!(matches!(live.status(), LiveStatus::Live));
    // When the key is written again with a bad value, the view does not show the value from before
    // the deletion.
    bench.put("/ports/a", "one").await;
    until(|| !live.status().problems().is_empty()).await;
    assert!(live.get().is_empty());
}

async fn bad_struct_keeps_last_good_value(bench: Bench) {
    for (key, text) in [("a/low", "1"), ("b/low", "2"), ("c/low", "no"), ("c/high", "-")] {
        bench.put(&format!("/pools/{key}"), text).await;
    }
    let live = soon(bench.pools().live().per_entry()).await.unwrap();
    let pool = |low, high| Pool { low, high };
    assert_eq!(**live.get(), map([("a", pool(1, 10)), ("b", pool(2, 10))]));
    assert_eq!(names(live.status().problems()), ["high", "low"]);
    // The validation of the whole struct refuses entry `a`.
    bench.put("/pools/a/low", "11").await;
    let written = bench.put("/pools/b/low", "3").await;
    assert_eq!(**soon(live.wait_for_revision(written)).await.unwrap(), map([("a", pool(1, 10)), ("b", pool(3, 10))]));
    assert_eq!(names(live.status().problems()), ["a", "high", "low"]);
    let written = bench.put("/pools/a/high", "12").await;
    assert_eq!(**soon(live.wait_for_revision(written)).await.unwrap(), map([("a", pool(11, 12)), ("b", pool(3, 10))]));
    bench.delete("/pools/c/low").await;
    bench.delete("/pools/c/high").await;
    until(|| matches!(live.status(), LiveStatus::Live)).await;
}

async fn check_lists_bad_entries(bench: Bench) {
    bench.put("/ports/a", "1").await;
    bench.put("/ports/b", "two").await;
    let check = bench.ports().check().await.unwrap();
    assert_eq!(names(&check.problems), ["b"]);
}

async fn get_per_entry_leaves_bad_entries_out(bench: Bench) {
    for (key, text) in [("ports/a", "1"), ("ports/b", "two"), ("pools/a/low", "1"), ("pools/b/low", "two")] {
        bench.put(&format!("/{key}"), text).await;
    }
    assert_eq!(bench.ports().get().await.unwrap_err().kind(), ErrorKind::Invalid);
    let ports = bench.ports().get_per_entry().await.unwrap();
    assert_eq!((&ports.entries, names(&ports.problems)), (&map([("a", 1)]), vec!["b"]));
    let pools = bench.pools().get_per_entry().await.unwrap();
    assert_eq!((&pools.entries, names(&pools.problems)), (&map([("a", Pool { low: 1, high: 10 })]), vec!["low"]));
    assert!(ports.revision() > Revision::ZERO && pools.modified() > ports.modified());
}

async fn current_per_entry_leaves_bad_entries_out(bench: Bench) {
    bench.put("/ports/a", "1").await;
    bench.put("/ports/b", "two").await;
    bench.put("/pools/a/low", "1").await;
    bench.put("/pools/b/low", "two").await;
    let mut ports = soon(bench.ports().watch().per_entry()).await.unwrap();
    assert_eq!(*ports.current().unwrap(), map([("a", 1)]));
    assert_eq!(soon(bench.ports().watch()).await.unwrap().current().unwrap_err().kind(), ErrorKind::Invalid);
    let pools = soon(bench.pools().watch().per_entry()).await.unwrap();
    assert_eq!(*pools.current().unwrap(), map([("a", Pool { low: 1, high: 10 })]));
    // A bad value yields an error, and the stream continues.
    bench.put("/ports/c", "three").await;
    bench.put("/ports/b", "2").await;
    assert_eq!(soon(ports.next()).await.unwrap().unwrap_err().kind(), ErrorKind::Decode);
    assert_eq!(soon(ports.next()).await.unwrap().unwrap().changes.len(), 1);
    assert_eq!(*ports.current().unwrap(), map([("a", 1), ("b", 2)]));
}

/// A key whose name this library never writes is a bad entry too.
#[tokio::test(start_paused = true)]
async fn foreign_key_is_left_out_in_memory() {
    use bytes::Bytes;
    use etcd_typed::Key;
    use etcd_typed::store::{Expiry, Op, Store, Txn};

    let store = MemoryStore::new();
    let bench = Bench { client: Client::with_store(store.clone()) };
    bench.put("/ports/a", "1").await;
    let key = Key::parse("/ports/50%").unwrap();
    let put = Op::Put { key, value: Bytes::from_static(b"5"), expiry: Expiry::Never, previous: false };
    store.commit(Txn::new(vec![put])).await.unwrap();
    let live = soon(bench.ports().live().per_entry()).await.unwrap();
    assert_eq!(**live.get(), map([("a", 1)]));
    assert_eq!((names(live.status().problems()), live.status().problems()[0].kind), (vec!["50%"], ProblemKind::ForeignKey));
    let read = bench.ports().get_per_entry().await.unwrap();
    assert_eq!((&read.entries, names(&read.problems)), (&map([("a", 1)]), vec!["50%"]));
}

/// After lost history the watch starts again from the current state. The view still has the last
/// good values.
#[tokio::test(start_paused = true)]
async fn last_good_value_survives_lost_history_in_memory() {
    let store = MemoryStore::new();
    let bench = Bench { client: Client::with_store(store.clone()) };
    bench.put("/ports/a", "1").await;
    bench.put("/ports/b", "2").await;
    bench.put("/pools/a/low", "1").await;
    let ports = soon(bench.ports().live().per_entry()).await.unwrap();
    let pools = soon(bench.pools().live().per_entry()).await.unwrap();
    store.faults().fail(Calls::Watches, 3, ErrorKind::Unavailable);
    store.faults().drop_connections();
    for (key, text) in [("/ports/a", "one"), ("/ports/c", "3"), ("/pools/a/low", "one")] {
        bench.put(key, text).await;
    }
    bench.delete("/ports/b").await;
    store.faults().compact();
    until(|| ports.get().contains_key("c") && !ports.get().contains_key("b") && !pools.status().problems().is_empty()).await;
    assert_eq!(**ports.get(), map([("a", 1), ("c", 3)]));
    assert_eq!(**pools.get(), map([("a", Pool { low: 1, high: 10 })]));
}

/// A server that was emptied and written again has a lower revision. The view then reads all
/// entries again.
#[tokio::test(start_paused = true)]
async fn last_good_value_survives_rewound_history_in_memory() {
    let store = MemoryStore::new();
    let bench = Bench { client: Client::with_store(store.clone()) };
    for n in 0..9 {
        bench.put("/ports/a", &n.to_string()).await;
    }
    bench.put("/ports/b", "2").await;
    let live = soon(bench.ports().live().per_entry()).await.unwrap();
    store.faults().wipe();
    bench.put("/ports/a", "one").await;
    bench.put("/ports/c", "3").await;
    until(|| live.get().contains_key("c") && !live.get().contains_key("b")).await;
    assert_eq!(**live.get(), map([("a", 8), ("c", 3)]));
    assert_eq!(names(live.status().problems()), ["a"]);
    assert!(live.rewound().is_some());
}

/// The file contains the last good value of a bad entry. A view that starts from the file shows
/// this value.
#[tokio::test(start_paused = true)]
async fn snapshot_file_contains_last_good_values_with_memory_store() {
    let store = MemoryStore::new();
    let bench = Bench { client: Client::with_store(store.clone()) };
    let files = TempDir::new().unwrap();
    let (ports_file, pools_file) = (files.path().join("ports.json"), files.path().join("pools.json"));
    for (key, text) in [("ports/a", "1"), ("ports/b", "2"), ("ports/c", "no"), ("pools/a/low", "1"), ("pools/a/high", "5")] {
        bench.put(&format!("/{key}"), text).await;
    }
    let live = soon(bench.ports().live().per_entry().or_snapshot(&ports_file)).await.unwrap();
    let pools = soon(bench.pools().live().per_entry().or_snapshot(&pools_file)).await.unwrap();
    bench.put("/ports/a", "one").await;
    bench.put("/pools/a/low", "one").await;
    bench.put("/pools/a/high", "7").await;
    bench.put("/pools/b/low", "2").await;
    let written = bench.put("/ports/d", "4").await;
    soon(live.wait_for_revision(written)).await.unwrap();
    soon(pools.wait_for_revision(written)).await.unwrap();
    let holds = |path: &std::path::Path, text: &str| fs::read_to_string(path).is_ok_and(|content| content.contains(text));
    until(|| holds(&ports_file, "\"d\"") && holds(&pools_file, "b/low")).await;
    drop((live, pools));

    store.faults().stop();
    let live = soon(bench.ports().live().per_entry().or_snapshot(&ports_file)).await.unwrap();
    let pools = soon(bench.pools().live().per_entry().or_snapshot(&pools_file)).await.unwrap();
    assert!(matches!(live.status(), LiveStatus::Degraded { cause: Cause::Snapshot(_), .. }), "{}", live.status());
    assert_eq!(**live.get(), map([("a", 1), ("b", 2), ("d", 4)]));
    assert_eq!(**pools.get(), map([("a", Pool { low: 1, high: 5 }), ("b", Pool { low: 2, high: 10 })]));
    // A view of the whole map must not start from such a file, which may lack entries.
    let whole = soon(bench.ports().live().or_snapshot(&ports_file)).await.map(drop).unwrap_err();
    assert!(whole.to_string().contains("per entry"), "{whole}");

    // When the server is available again, the view and the file still have the last good values
    // from the file.
    store.faults().start();
    until(|| names(live.status().problems()) == ["a", "c"]).await;
    assert_eq!(**live.get(), map([("a", 1), ("b", 2), ("d", 4)]));
    bench.put("/pools/a/low", "4").await;
    bench.put("/ports/e", "5").await;
    until(|| holds(&ports_file, "\"e\"") && pools.get().get("a") == Some(&Pool { low: 4, high: 7 })).await;
    until(|| holds(&pools_file, "\"7\"")).await;
    drop((live, pools));
    store.faults().stop();
    let live = soon(bench.ports().live().per_entry().or_snapshot(&ports_file)).await.unwrap();
    assert_eq!(**live.get(), map([("a", 1), ("b", 2), ("d", 4), ("e", 5)]));
    let pools = soon(bench.pools().live().per_entry().or_snapshot(&pools_file)).await.unwrap();
    assert_eq!(pools.get().get("a"), Some(&Pool { low: 4, high: 7 }));
}
