//! Live views of the memory store, with injected faults and paused time: the states that a view
//! shows and refuses, its reports, and its cost in store calls. `live_servers.rs` and
//! `live_fire.rs` test views of real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod following;
mod freshness;

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::store::{BoxFuture, WatchItem};
use etcd_typed::testing::{Call, CountingStore, HookedStore, Reply};
use etcd_typed::{Cause, Client, ErrorKind, EtcdSchema, Live, LiveStatus, ProblemKind, Result, Revision};
use etcd_typed_tests::waiting::{soon, until_live};
use futures_util::{FutureExt, StreamExt};
use tokio::time::{sleep, timeout};

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(validate = in_order)]
struct Limits {
    #[etcd(default = 1)]
    low: u32,
    #[etcd(default = 10, validate = under_a_thousand)]
    high: u32,
    name: String,
    #[etcd(dir)]
    pool: Pool,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Pool {
    size: u16,
    #[etcd(alias = "old_wait")]
    wait: Option<u32>,
}

fn in_order(limits: &Limits) -> Result<(), String> {
    if limits.low <= limits.high { Ok(()) } else { Err("low is above high".to_owned()) }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "validations take references")]
fn under_a_thousand(high: &u32) -> Result<(), &'static str> {
    if *high < 1000 { Ok(()) } else { Err("a thousand is too much") }
}

fn limits() -> Limits {
    let quotas = BTreeMap::from([("acme".to_owned(), 5)]);
    Limits { low: 1, high: 10, name: "a".to_owned(), pool: Pool { size: 4, wait: None }, quotas }
}

/// A time limit that is longer than any backoff and than the time between two reads that prove a
/// view up to date. Time is paused.
const LONG: Duration = Duration::from_secs(120);

/// The size and the cost of the answers to reads.
#[derive(Debug, Default)]
struct Answers {
    /// The largest number of keys in one answer.
    largest: AtomicUsize,
    /// The number of reads for which the server must read a whole directory.
    of_all: AtomicUsize,
}

impl Answers {
    fn take(&self) -> (usize, usize) {
        (self.largest.swap(0, Ordering::SeqCst), self.of_all.swap(0, Ordering::SeqCst))
    }
}

/// Wraps a store so that its watches never report progress, as on etcd before 3.4.25. While `mute` is
/// set, the watches do not report changes either, which no server should do.
fn silent(store: &CountingStore, mute: &Arc<AtomicBool>, answers: &Arc<Answers>) -> HookedStore {
    let (mute, answers) = (mute.clone(), answers.clone());
    HookedStore::new(Arc::new(store.clone()), move |call, store| {
        let (mute, answers) = (mute.clone(), answers.clone());
        if matches!(&call, Call::Range(range) if range.until.is_none()) {
            answers.of_all.fetch_add(1, Ordering::SeqCst);
        }
        async move {
            let reply = call.send(&store).await?;
            if let Reply::Range(reply) = &reply {
                answers.largest.fetch_max(reply.kvs.len(), Ordering::SeqCst);
            }
            let Reply::Watch(items) = reply else { return Ok(reply) };
            let passes = move |item: &Result<WatchItem>| match item {
                Ok(WatchItem::Progress(_)) => false,
                Ok(WatchItem::Batch(_)) => !mute.load(Ordering::SeqCst),
                _ => true,
            };
            Ok(Reply::Watch(items.filter(move |item| std::future::ready(passes(item))).boxed()))
        }
    })
}

struct Bench {
    mute: Arc<AtomicBool>,
    store: MemoryStore,
    counting: CountingStore,
    answers: Arc<Answers>,
    client: Client,
}

fn bench() -> Bench {
    let store = MemoryStore::new();
    let counting = CountingStore::new(Arc::new(store.clone()));
    let mute = Arc::new(AtomicBool::new(false));
    let answers = Arc::<Answers>::default();
    let client = Client::with_store(silent(&counting, &mute, &answers));
    Bench { mute, store, counting, answers, client }
}

impl Bench {
    fn dir(&self) -> LimitsDir {
        self.client.dir::<Limits>("/app").unwrap()
    }

    /// Writes text, as a user does with another tool.
    async fn put(&self, path: &str, text: &str) -> Revision {
        self.client.entry::<String>(path).unwrap().set(&text.to_owned()).await.unwrap()
    }

    async fn open(&self) -> (LimitsDir, Live<Limits>) {
        let dir = self.dir();
        dir.set(&limits()).await.unwrap();
        let live = soon(dir.live()).await.unwrap();
        (dir, live)
    }
}

async fn until_degraded<T: Send + Sync + 'static>(live: &Live<T>) -> (Cause, Revision) {
    soon(async {
        loop {
            if let LiveStatus::Degraded { cause, last_good_revision, .. } = live.status() {
                return (cause, last_good_revision);
            }
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn view_shows_each_transaction_as_whole() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    assert_eq!(**live.get(), limits());
    let revision = dir.update(|limits| (limits.low, limits.high, limits.pool.size) = (20, 30, 50)).await.unwrap().revision();
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!((seen.low, seen.high, seen.pool.size), (20, 30, 50));
    assert_eq!((seen.revision(), live.revision()), (revision, revision));
    assert_eq!(*live.get(), dir.get().await.unwrap(), "with the revisions of all keys");
}

#[tokio::test(start_paused = true)]
async fn state_of_view_can_be_compared_and_swapped() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let mut wanted = limits();
    wanted.quotas.insert("b".to_owned(), 7);
    let revision = dir.compare_and_swap(&live.get(), &wanted).await.unwrap();
    let stale = live.get().clone();
    assert_eq!(**soon(live.wait_for_revision(revision)).await.unwrap(), wanted);
    dir.pool.size.set(&1).await.unwrap();
    assert_eq!(dir.compare_and_swap(&stale, &wanted).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn invalid_value_is_reported_and_not_shown() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let good = live.get().clone();
    for (path, text, kind, reason) in [
        ("/app/low", "many", ProblemKind::Undecodable, "invalid digit"),
        ("/app/high", "5000", ProblemKind::Rejected, "a thousand is too much"),
        ("/app/low", "11", ProblemKind::Rejected, "low is above high"),
        ("/app/pool/size", "-1", ProblemKind::Undecodable, "invalid digit"),
        ("/app/quotas/b", "x", ProblemKind::Undecodable, "invalid digit"),
    ] {
        let before = live.revision();
        let written = bench.put(path, text).await;
        let error = soon(live.wait_for_revision(written)).await.unwrap_err();
        assert_eq!((error.kind(), error.problems().len()), (ErrorKind::Invalid, 1), "{error}");
        let status = live.status();
        let LiveStatus::Degraded { cause: Cause::Rejected(problems), last_good_revision, .. } = &status else { panic!("{status:?}") };
        let problem = &problems[0];
        assert_eq!((problem.kind, problem.revision, *last_good_revision), (kind, Some(written), before));
        assert!(problem.reason.contains(reason) || problem.key.as_str() == "/app", "{problem}");
        assert_eq!((&**live.get(), live.revision(), status.problems().len()), (&**good, before, 1));
        // After the value is corrected, the view becomes live again by itself.
        let set = dir.set(&limits()).await.unwrap();
        assert_eq!(**soon(live.wait_for_revision(set)).await.unwrap(), limits());
        assert!(live.status().is_live());
    }
    let deleted = bench.client.entry::<String>("/app/name").unwrap();
    deleted.delete().await.unwrap();
    let (cause, _) = until_degraded(&live).await;
    let Cause::Rejected(problems) = cause else { panic!("{cause:?}") };
    assert_eq!((problems[0].kind, problems[0].key.as_str()), (ProblemKind::Missing, "/app/name"));
    assert!(problems[0].revision.is_some(), "the revision at which the key was found missing");
    assert_eq!(live.get().name, "a");
}

#[tokio::test(start_paused = true)]
async fn corrected_value_shows_later_changes() {
    let bench = bench();
    let (_, mut live) = bench.open().await;
    bench.put("/app/low", "bad").await;
    let second = bench.put("/app/high", "20").await;
    soon(live.wait_for_revision(second)).await.unwrap_err();
    let mended = bench.put("/app/low", "2").await;
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!((seen.low, seen.high, seen.revision()), (2, 20, mended));
}

#[tokio::test(start_paused = true)]
async fn own_write_is_shown_despite_later_invalid_write() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let own = dir.pool.size.set(&9).await.unwrap();
    let bad = bench.put("/app/low", "many").await;
    soon(live.wait_for_revision(bad)).await.unwrap_err();
    assert_eq!(soon(live.wait_for_revision(own)).await.unwrap().pool.size, 9, "the state contains the own write");
    let behind_it = bench.put("/app/name", "b").await;
    soon(live.wait_for_revision(behind_it)).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn view_of_unreadable_state_fails() {
    let bench = bench();
    let error = soon(bench.dir().live()).await.unwrap_err();
    assert_eq!((error.kind(), error.problems().len()), (ErrorKind::NotFound, 2), "{error}");
    bench.put("/app/name", "a").await;
    bench.put("/app/pool/size", "4").await;
    bench.put("/app/high", "0").await;
    let error = soon(bench.dir().live()).await.unwrap_err();
    assert_eq!(error.problems()[0].kind, ProblemKind::Rejected, "{error}");
    bench.store.faults().stop();
    assert_eq!(soon(bench.dir().live()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    bench.store.faults().start();
    bench.store.faults().fail(Calls::Reads, 1, ErrorKind::PermissionDenied);
    assert_eq!(soon(bench.dir().live()).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    bench.put("/app/high", "10").await;
    assert_eq!(soon(bench.dir().live()).await.unwrap().get().name, "a", "earlier failures do not matter");
}

#[tokio::test(start_paused = true)]
async fn view_costs_one_read_and_one_watch() {
    let bench = bench();
    bench.dir().set(&limits()).await.unwrap();
    bench.counting.take();
    let live = soon(bench.dir().live()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let counts = bench.counting.take();
    assert_eq!((counts.range, counts.watch, counts.total()), (1, 1, 2));
    assert!(live.staleness() < Duration::from_secs(2));
    let again = soon(bench.dir().live()).await.unwrap();
    assert_eq!((bench.counting.take().total(), again.status().is_live()), (1, true), "one read shows that nothing changed");
}

#[tokio::test(start_paused = true)]
async fn badly_escaped_map_name_is_reported() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let quotas = soon(dir.quotas.live()).await.unwrap();
    let written = bench.put("/app/quotas/50%", "x").await;
    for error in [soon(live.wait_for_revision(written)).await.unwrap_err(), soon(quotas.wait_for_revision(written)).await.unwrap_err()] {
        let kinds: Vec<_> = error.problems().iter().map(|problem| (problem.kind, problem.key.as_str(), problem.revision)).collect();
        let key = "/app/quotas/50%";
        assert_eq!(kinds, [(ProblemKind::ForeignKey, key, Some(written)), (ProblemKind::Undecodable, key, Some(written))]);
    }
    bench.client.entry::<String>("/app/quotas/50%").unwrap().delete().await.unwrap();
    until_live(&live).await;
    until_live(&quotas).await;
}

#[tokio::test(start_paused = true)]
async fn views_of_one_directory_share_watch() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    assert_eq!(bench.counting.take().watch, 1);
    let mut others = Vec::new();
    for _ in 0..100 {
        others.push(soon(dir.live()).await.unwrap());
    }
    let clones = others.clone();
    let pools = soon(bench.client.dir::<Pool>("/app/pool").unwrap().live()).await.unwrap();
    assert_eq!(bench.counting.counts().watch, 1, "one more watch, for the other directory");
    let written = dir.pool.size.set(&9).await.unwrap();
    for live in others.iter().chain(&clones).chain([&live]) {
        assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().pool.size, 9);
    }
    assert_eq!(soon(pools.wait_for_revision(written)).await.unwrap().size, 9);
    drop((live, others, clones, pools));
    bench.counting.take();
    sleep(LONG).await;
    dir.pool.size.set(&10).await.unwrap();
    assert_eq!(bench.counting.take().range, 0, "without a view nothing is read");
    assert_eq!(soon(dir.live()).await.unwrap().get().pool.size, 10);
    assert_eq!(bench.counting.take().watch, 1, "a new view starts a new watch");
}

#[tokio::test(start_paused = true)]
async fn view_of_entry_equals_get() {
    let bench = bench();
    let (dir, _live) = bench.open().await;
    let mut size = soon(dir.pool.size.live()).await.unwrap();
    assert_eq!(**size.get(), Some(4));
    let read = dir.pool.size.get().await.unwrap().unwrap();
    assert_eq!((size.get().modified(), size.get().created()), (read.modified(), read.created()));
    dir.pool.size.delete().await.unwrap();
    assert_eq!(**soon(size.changed()).await.unwrap(), None);
    let written = bench.put("/app/pool/size", "x").await;
    assert_eq!(soon(size.wait_for_revision(written)).await.unwrap_err().problems()[0].key.as_str(), "/app/pool/size");
    assert_eq!(soon(dir.pool.size.live()).await.unwrap_err().kind(), ErrorKind::Decode);

    let mut wait = soon(dir.pool.wait.live()).await.unwrap();
    assert_eq!(**wait.get(), None);
    bench.put("/app/pool/old_wait", "7").await;
    assert_eq!(**soon(wait.changed()).await.unwrap(), Some(7));
    bench.put("/app/pool/wait", "8").await;
    assert_eq!(**soon(wait.changed()).await.unwrap(), Some(8));
    dir.pool.wait.delete().await.unwrap();
    let now = dir.pool.wait.get().await.unwrap();
    assert_eq!(**soon(wait.changed()).await.unwrap(), now.map(etcd_typed::Versioned::into_inner));
}

#[tokio::test(start_paused = true)]
async fn view_of_map_follows_its_entries() {
    let bench = bench();
    let map = bench.client.entries::<String, u64>("/quotas").unwrap();
    let mut live = soon(map.live()).await.unwrap();
    assert!(live.get().is_empty());
    map.set(&(0..100).map(|n| (format!("k{n:02}"), n)).collect()).await.unwrap();
    assert_eq!(soon(live.changed()).await.unwrap().len(), 100, "one transaction is one state");
    let before = live.get().clone();
    map.entry("k50").unwrap().set(&7).await.unwrap();
    assert_eq!(soon(live.changed()).await.unwrap().get("k50"), Some(&7));
    assert_eq!(before.get("k50"), Some(&50), "a state does not change");
    map.entry("k50").unwrap().delete().await.unwrap();
    map.entry("a/b").unwrap().set(&1).await.unwrap();
    bench.put("/quotas/_etcd-typed", "x").await;
    bench.put("/quotas/deeper/x", "x").await;
    let last = bench.put("/other", "x").await;
    let seen = soon(live.wait_for_revision(last)).await.unwrap();
    assert_eq!(seen.iter().map(|(key, n)| (key.clone(), *n)).collect::<BTreeMap<_, _>>(), map.get().await.unwrap().into_inner());
    let some = (Bound::Included("k10"), Bound::Excluded("k12"));
    assert_eq!(seen.range::<str, _>(some).map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["k10", "k11"]);
    assert_eq!((seen.keys().next().unwrap().as_str(), seen.values().last(), seen.contains_key("k50")), ("a/b", Some(&99), false));
}

#[tokio::test(start_paused = true)]
async fn map_with_invalid_entry_keeps_former_state() {
    let bench = bench();
    let map = bench.client.entries::<String, u64>("/quotas").unwrap();
    map.set(&BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)])).await.unwrap();
    let live = soon(map.live()).await.unwrap();
    let text = |name: &str| bench.client.entry::<String>(&format!("/quotas/{name}")).unwrap();
    let written = bench
        .client
        .transaction()
        .write(text("a").set(&"10".to_owned()))
        .write(text("b").set(&"x".to_owned()))
        .write(text("50%").set(&"1".to_owned()))
        .await
        .unwrap();
    let error = soon(live.wait_for_revision(written)).await.unwrap_err();
    assert_eq!(error.problems().iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), ["/quotas/50%", "/quotas/b"]);
    assert_eq!(live.get().get("a"), Some(&1), "the state never shows a part of a transaction");
    text("b").delete().await.unwrap();
    text("50%").delete().await.unwrap();
    until_live(&live).await;
    assert_eq!(live.get().iter().map(|(key, n)| (key.as_str(), *n)).collect::<Vec<_>>(), [("a", 10)]);
}

#[tokio::test(start_paused = true)]
async fn view_of_struct_map_follows_its_structs() {
    let bench = bench();
    let map = bench.client.dirs::<String, Limits>("/apps").unwrap();
    let mut live = soon(map.live()).await.unwrap();
    map.dir("x").unwrap().set(&limits()).await.unwrap();
    assert_eq!(soon(live.changed()).await.unwrap().get("x"), Some(&limits()));
    map.dir("y").unwrap().set(&limits()).await.unwrap();
    map.dir("x").unwrap().update(|limits| (limits.low, limits.high) = (5, 6)).await.unwrap();
    let written = bench.put("/apps/foreign/thing", "x").await;
    let seen = soon(live.wait_for_revision(written)).await.unwrap();
    assert_eq!((seen.len(), seen.get("x").unwrap().high, seen.get("y").unwrap().high), (2, 6, 10));
    let bad = bench.put("/apps/x/high", "2000").await;
    let error = soon(live.wait_for_revision(bad)).await.unwrap_err();
    assert_eq!((error.problems()[0].key.as_str(), error.problems()[0].kind), ("/apps/x/high", ProblemKind::Rejected));
    map.dir("x").unwrap().delete().await.unwrap();
    until_live(&live).await;
    assert_eq!(live.get().keys().collect::<Vec<_>>(), ["y"]);
}

#[test]
fn view_without_runtime_continues_on_next_runtime() {
    let bench = bench();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (dir, mut live) = runtime.block_on(bench.open());
    drop(runtime);
    assert!(matches!(live.status(), LiveStatus::Degraded { cause: Cause::Ended, .. }));
    assert_eq!(live.get().name, "a");
    let called = Arc::new(AtomicU32::new(0));
    let counts = called.clone();
    let guard = live.on_change(move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
    });
    // Without a runtime no change can arrive, so these calls fail at once.
    let changed = live.changed().now_or_never().unwrap().unwrap_err();
    let reached = live.wait_for_revision(u64::MAX).now_or_never().unwrap().unwrap_err();
    assert_eq!([changed.kind(), reached.kind()], [ErrorKind::Unavailable; 2]);
    assert_eq!(live.stream().count().now_or_never(), Some(1), "the current state");
    let another = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    another.block_on(async {
        dir.name.set(&"b".to_owned()).await.unwrap();
        assert_eq!(live.changed().await.unwrap().name, "b");
        while called.load(Ordering::SeqCst) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(live.status().is_live(), "{}", live.status());
    });
    drop(guard);
}

#[test]
fn view_outside_runtime_is_refused() {
    let bench = bench();
    let error = bench.dir().live().into_future().now_or_never().expect("at once").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}

#[test]
fn views_are_send_and_sync() {
    fn is_send_and_sync<T: Send + Sync + 'static>() {}
    is_send_and_sync::<Live<Limits>>();
    is_send_and_sync::<etcd_typed::Snapshot<Limits>>();
    is_send_and_sync::<etcd_typed::Selected<Limits, str>>();
    is_send_and_sync::<etcd_typed::Subscription>();
    fn is_send<T: Send>() {}
    is_send::<etcd_typed::Reader<Limits>>();
    is_send::<etcd_typed::LiveStream<Limits>>();
    is_send::<etcd_typed::Viewing<Limits>>();
}

#[tokio::test(start_paused = true)]
async fn debug_of_view_shows_only_directory_and_status() {
    let bench = bench();
    let (_, live) = bench.open().await;
    let text = format!("{live:?} {:?} {:?}", live.stream(), live.reader());
    assert!(text.contains("/app") && text.contains("Live") && !text.contains("acme"), "{text}");
    assert_eq!(format!("{:?}", live.get()), format!("{:?}", live.get().deref()));
}
