//! Live views on the embedded store, with its faults and on paused time: what a view shows and
//! refuses, what it reports, and what it costs the store. Views of real servers are in
//! `live_servers.rs` and `live_fire.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

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

/// A time that is longer than any backoff and than the time between two proofs of a view. Time is
/// paused.
const LONG: Duration = Duration::from_secs(120);

async fn soon<T>(wait: impl IntoFuture<Output = T>) -> T {
    timeout(LONG, wait).await.expect("this happens in time")
}

/// What the reads returned.
#[derive(Debug, Default)]
struct Answers {
    /// The largest number of keys in one answer.
    largest: AtomicUsize,
    /// The number of reads for which a server reads a whole directory.
    of_all: AtomicUsize,
}

impl Answers {
    fn take(&self) -> (usize, usize) {
        (self.largest.swap(0, Ordering::SeqCst), self.of_all.swap(0, Ordering::SeqCst))
    }
}

/// Wraps a store so that its watches never report progress, as on etcd before 3.4.25. While `mute` is
/// set, they do not even report changes, which no server should do.
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

async fn until_live<T: Send + Sync + 'static>(live: &Live<T>) {
    soon(async {
        while !live.status().is_live() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
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
async fn state_of_view_serves_compare_and_swap() {
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
        // After the value is corrected, the view is live again by itself.
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
async fn own_write_is_shown_despite_later_rejection() {
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
    assert_eq!((error.kind(), error.problems().len()), (ErrorKind::Invalid, 2), "{error}");
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
async fn wait_for_revision_covers_other_keys() {
    let bench = bench();
    let (_, live) = bench.open().await;
    let elsewhere = bench.put("/other", "x").await;
    bench.counting.take();
    assert_eq!(**soon(live.wait_for_revision(elsewhere)).await.unwrap(), limits());
    assert!(live.revision() >= elsewhere);
    let counts = bench.counting.take();
    assert!(counts.range <= 2 && counts.watch == 0, "one read for the store's revision, one for the keys: {counts:?}");
    // A change that the watch has reported needs no request.
    let own = bench.put("/app/low", "3").await;
    bench.counting.take();
    assert_eq!(soon(live.wait_for_revision(own)).await.unwrap().low, 3);
    assert_eq!(bench.counting.take().total(), 0);
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
async fn view_never_shows_states_before_awaited_revision() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    // A key is created and deleted while the watch is cut. A read proves that nothing differs
    // before the watch reports the two changes.
    bench.store.faults().fail(Calls::Watches, 5, ErrorKind::Unavailable);
    bench.store.faults().drop_connections();
    dir.pool.wait.set(&7).await.unwrap();
    dir.pool.wait.delete().await.unwrap();
    let last = bench.put("/other", "x").await;
    assert_eq!(**soon(live.wait_for_revision(last)).await.unwrap(), limits());
    assert!(!live.status().is_live());
    until_live(&live).await;
    assert!(timeout(LONG, live.changed()).await.is_err(), "{:?}", live.history());
    let written = dir.pool.wait.set(&8).await.unwrap();
    assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().pool.wait, Some(8));
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
async fn view_of_map_follows_wiped_server() {
    let bench = bench();
    let map = bench.client.entries::<String, u64>("/quotas").unwrap();
    for n in 0..5 {
        map.entry("a").unwrap().set(&n).await.unwrap();
    }
    let mut live = soon(map.live()).await.unwrap();
    bench.store.faults().wipe();
    let written = map.entry("b").unwrap().set(&7).await.unwrap();
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!(seen.iter().map(|(key, n)| (key.as_str(), *n)).collect::<Vec<_>>(), [("b", 7)]);
    assert_eq!((seen.revision(), seen.modified()), (written, written));
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
async fn new_view_is_no_older_than_its_call() {
    let bench = bench();
    let (dir, first) = bench.open().await;
    // The watch is cut and not resumed, so the first view is behind and reports that.
    bench.store.faults().fail(Calls::Watches, 3, ErrorKind::Unavailable);
    bench.store.faults().drop_connections();
    dir.pool.size.set(&9).await.unwrap();
    let (cause, _) = until_degraded(&first).await;
    assert!(matches!(cause, Cause::Interrupted(_)), "{cause:?}");
    assert_eq!(first.get().pool.size, 4);
    assert_eq!(soon(dir.live()).await.unwrap().get().pool.size, 9);
    until_live(&first).await;
    assert_eq!(first.get().pool.size, 9);
}

#[tokio::test(start_paused = true)]
async fn view_without_server_reports_staleness() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    sleep(LONG).await;
    assert!(live.staleness() < Duration::from_secs(11), "regular reads prove that the view is up to date: {:?}", live.staleness());
    bench.store.faults().stop();
    let (cause, good) = until_degraded(&live).await;
    let Cause::Interrupted(error) = cause else { panic!("{cause:?}") };
    assert_eq!((error.kind(), good), (ErrorKind::Unavailable, live.revision()));
    sleep(LONG).await;
    assert!(live.staleness() >= LONG);
    assert_eq!(**live.get(), limits());
    bench.store.faults().start();
    dir.pool.size.set(&9).await.unwrap();
    assert_eq!(soon(live.changed()).await.unwrap().pool.size, 9);
    until_live(&live).await;
    sleep(Duration::from_secs(11)).await;
    assert!(live.staleness() < Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn refused_watch_degrades_view_until_allowed() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    bench.store.faults().fail(Calls::Watches, 3, ErrorKind::PermissionDenied);
    bench.store.faults().drop_connections();
    // The view reports the cut connection before the refusal.
    soon(async {
        while !matches!(until_degraded(&live).await.0, Cause::Interrupted(error) if error.kind() == ErrorKind::PermissionDenied) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let written = dir.pool.size.set(&9).await.unwrap();
    until_live(&live).await;
    assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().pool.size, 9);
}

#[tokio::test(start_paused = true)]
async fn view_shows_newest_state_after_compaction() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    bench.store.faults().fail(Calls::Watches, 2, ErrorKind::Unavailable);
    bench.store.faults().drop_connections();
    for size in 10..20 {
        dir.pool.size.set(&size).await.unwrap();
    }
    dir.quotas.entry("acme").unwrap().delete().await.unwrap();
    bench.store.faults().compact();
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!((seen.pool.size, seen.quotas.len()), (19, 0), "the newest state, without those in between");
    until_live(&live).await;
    assert_eq!(live.rewound(), None);
}

#[tokio::test(start_paused = true)]
async fn wiped_server_is_reported_as_rewound() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    for size in 10..20 {
        dir.pool.size.set(&size).await.unwrap();
    }
    while soon(live.changed()).await.unwrap().pool.size != 19 {}
    let before = live.revision();
    bench.store.faults().wipe();
    dir.set(&limits()).await.unwrap();
    let seen = soon(live.changed()).await.unwrap();
    assert!(seen.revision() < before && seen.pool.size == 4, "{seen:?}");
    let rewound = live.rewound().expect("the view reports that the revision went back");
    assert_eq!((rewound.from, rewound.to), (before, seen.revision()));
    assert_eq!(live.revision(), seen.revision());
}

#[tokio::test(start_paused = true)]
async fn view_reads_while_watch_fails() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    bench.store.faults().fail(Calls::Watches, usize::MAX, ErrorKind::Unavailable);
    bench.store.faults().drop_connections();
    for size in [9, 10] {
        dir.pool.size.set(&size).await.unwrap();
        assert_eq!(soon(live.changed()).await.unwrap().pool.size, size);
    }
    assert!(!live.status().is_live());
    bench.store.faults().clear();
    until_live(&live).await;
}

#[tokio::test(start_paused = true)]
async fn silent_watch_is_detected() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    bench.mute.store(true, Ordering::SeqCst);
    dir.pool.size.set(&9).await.unwrap();
    dir.quotas.entry("acme").unwrap().delete().await.unwrap();
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!((seen.pool.size, seen.quotas.len()), (9, 0));
    dir.name.set(&"b".to_owned()).await.unwrap();
    let written = dir.name.delete().await.unwrap().unwrap();
    let before = live.revision();
    // `wait_for_revision` does not wait for the silent watch either.
    assert!(written.modified() > before);
    assert_eq!(soon(live.wait_for_revision(written.modified())).await.unwrap_err().problems()[0].kind, ProblemKind::Missing);
}

/// The read that the views share proves nothing of a view that is behind it.
#[tokio::test(start_paused = true)]
async fn one_silent_watch_of_many_is_detected() {
    let bench = bench();
    let mut views = Vec::new();
    for n in 0..50 {
        views.push(soon(bench.client.entry::<u32>(&format!("/values/{n}")).unwrap().live()).await.unwrap());
        sleep(Duration::from_millis(300)).await;
    }
    bench.mute.store(true, Ordering::SeqCst);
    for silent in [3, 40] {
        bench.counting.take();
        bench.client.entry::<u32>(&format!("/values/{silent}")).unwrap().set(&7).await.unwrap();
        let written = tokio::time::Instant::now();
        while **views[silent].get() != Some(7) {
            assert!(views[silent].staleness() + Duration::from_millis(1) >= written.elapsed(), "it is not called current");
            sleep(Duration::from_millis(10)).await;
        }
        assert!(written.elapsed() < Duration::from_secs(17), "a period, and five listings a second apart");
        assert_eq!(bench.counting.take().watch, 1, "the other watches go on");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_directory_of_busy_store_stays_fresh() {
    let bench = bench();
    let (_, live) = bench.open().await;
    bench.counting.take();
    for _ in 0..100 {
        bench.put("/other", "x").await;
        sleep(Duration::from_secs(1)).await;
        assert!(live.staleness() < Duration::from_secs(11), "{:?}", live.staleness());
    }
    let counts = bench.counting.take();
    assert!(counts.range <= 22 && counts.watch == 0, "two requests per ten seconds: {counts:?}");
}

/// The answers of these reads do not grow with the directory, and the larger it is, the less often
/// the server reads it.
#[tokio::test(start_paused = true)]
async fn large_idle_directory_of_busy_store_stays_fresh() {
    for keys in [0, 5, 10_001, 40_000] {
        let bench = bench();
        let map = bench.client.entries::<u32, u32>("/long").unwrap();
        map.set(&(0..keys).map(|n| (n, n)).collect()).non_atomic().await.unwrap();
        let live = soon(map.live()).await.unwrap();
        let period = Duration::from_secs(10) + Duration::from_millis(keys.into());
        assert_eq!(live.proof_period(), period);
        sleep(LONG).await;
        assert!(live.staleness() < Duration::from_secs(11), "if the store does not change, its revision is proof enough");
        bench.answers.take();
        const SECONDS: u32 = 300;
        let mut stalest = Duration::ZERO;
        for _ in 0..SECONDS {
            bench.put("/other", "x").await;
            sleep(Duration::from_secs(1)).await;
            stalest = stalest.max(live.staleness());
        }
        assert!(stalest < period + Duration::from_secs(1), "{keys} keys: {stalest:?}");
        let (largest, of_all) = bench.answers.take();
        let most = usize::try_from(SECONDS / u32::try_from(period.as_secs()).unwrap()).unwrap() + 1;
        assert!(largest <= 1 && of_all <= most, "{keys} keys: an answer with {largest} keys, {of_all} reads of the directory");
        // `wait_for_revision` does not wait for the end of the period.
        let elsewhere = bench.put("/other", "y").await;
        assert_eq!(soon(live.wait_for_revision(elsewhere)).await.unwrap().len(), keys as usize);
        assert!(live.staleness() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn every_unreported_change_is_detected() {
    type Change = fn(etcd_typed::EntryMap<u32, u32>) -> BoxFuture<'static, Result<()>>;
    let changes: [(&str, Change, u32); 4] = [
        ("one more", |map| Box::pin(async move { map.entry(&9)?.set(&9).await.map(drop) }), 6),
        ("one less", |map| Box::pin(async move { map.entry(&1)?.delete().await.map(drop) }), 4),
        ("another", |map| Box::pin(async move { map.entry(&1)?.set(&7).await.map(drop) }), 5),
        (
            "one for another",
            |map| {
                Box::pin(async move {
                    map.entry(&1)?.delete().await?;
                    map.entry(&9)?.set(&9).await.map(drop)
                })
            },
            5,
        ),
    ];
    for (name, change, keys) in changes {
        let bench = bench();
        let map = bench.client.entries::<u32, u32>("/map").unwrap();
        map.set(&(0..5).map(|n| (n, n)).collect()).await.unwrap();
        let mut live = soon(map.live()).await.unwrap();
        bench.mute.store(true, Ordering::SeqCst);
        change(map.clone()).await.unwrap();
        let seen = timeout(LONG, live.changed()).await.unwrap_or_else(|_| panic!("{name} is not found")).unwrap();
        assert_eq!(
            (seen.len(), &**seen),
            (keys as usize, &soon(map.get()).await.unwrap().iter().map(|(k, v)| (*k, *v)).collect()),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn changed_returns_newest_of_several_changes() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    for size in 10..20 {
        let written = dir.pool.size.set(&size).await.unwrap();
        soon(live.wait_for_revision(written)).await.unwrap();
    }
    assert_eq!(soon(live.changed()).await.unwrap().pool.size, 19);
    assert!(timeout(LONG, live.changed()).await.is_err(), "every change was returned");
    let mut late = live.clone();
    dir.pool.size.set(&20).await.unwrap();
    assert_eq!((soon(live.changed()).await.unwrap().pool.size, soon(late.changed()).await.unwrap().pool.size), (20, 20));
    let sizes: Vec<_> = live.history().iter().map(|state| state.pool.size).collect();
    assert_eq!(sizes, [12, 13, 14, 15, 16, 17, 18, 19, 20], "eight former states and the current one");
    assert!(live.history().is_sorted_by_key(|state| state.revision()));
    let short = soon(dir.live().history(1)).await.unwrap();
    for size in [21, 22, 23] {
        let written = dir.pool.size.set(&size).await.unwrap();
        soon(short.wait_for_revision(written)).await.unwrap();
    }
    assert_eq!(short.history().iter().map(|state| state.pool.size).collect::<Vec<_>>(), [22, 23]);
}

#[tokio::test(start_paused = true)]
async fn stream_yields_current_then_newest_state() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let mut stream = live.stream();
    assert_eq!(soon(StreamExt::next(&mut stream)).await.unwrap().pool.size, 4);
    for size in 10..20 {
        let written = dir.pool.size.set(&size).await.unwrap();
        soon(live.wait_for_revision(written)).await.unwrap();
    }
    drop(live);
    assert_eq!(soon(stream.next()).await.unwrap().pool.size, 19, "states in between are skipped");
    dir.pool.size.set(&20).await.unwrap();
    assert_eq!(soon(stream.next()).await.unwrap().pool.size, 20, "the stream keeps the view");
}

#[tokio::test(start_paused = true)]
async fn selected_part_wakes_only_when_it_changes() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let mut pool = live.select(|limits| &limits.pool);
    let mut name = live.select(|limits| limits.name.as_str());
    for low in 2..5 {
        let written = dir.low.set(&low).await.unwrap();
        soon(live.wait_for_revision(written)).await.unwrap();
    }
    assert!(timeout(LONG, pool.changed()).await.is_err());
    dir.pool.size.set(&9).await.unwrap();
    let part = soon(pool.changed()).await.unwrap();
    assert_eq!((part.size, part.whole().low), (9, 4));
    assert!(timeout(LONG, name.changed()).await.is_err());
    let written = dir.name.set(&"b".to_owned()).await.unwrap();
    soon(live.wait_for_revision(written)).await.unwrap();
    assert_eq!((&*name.get(), &*soon(name.changed()).await.unwrap()), ("b", "b"));
}

#[tokio::test(start_paused = true)]
async fn callback_runs_until_subscription_is_dropped() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::new(AtomicUsize::new(0));
    let sizes = seen.clone();
    let guard = live.on_change(move |limits| sizes.lock().unwrap().push(limits.pool.size));
    let panics = live.on_change(|_| panic!("a failing callback (this message is expected in the output)"));
    let count = calls.clone();
    let other = live.on_change(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    for size in [5, 6] {
        let written = dir.pool.size.set(&size).await.unwrap();
        soon(live.wait_for_revision(written)).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    drop(guard);
    let written = dir.pool.size.set(&7).await.unwrap();
    soon(live.wait_for_revision(written)).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!((seen.lock().unwrap().as_slice(), calls.load(Ordering::SeqCst)), ([5, 6].as_slice(), 3));
    drop((panics, other));
}

#[tokio::test(start_paused = true)]
async fn reader_returns_newest_state() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    let mut reader = live.reader();
    assert_eq!(reader.get().pool.size, 4);
    let written = dir.pool.size.set(&9).await.unwrap();
    let held = live.get();
    soon(live.wait_for_revision(written)).await.unwrap();
    assert_eq!((reader.get().pool.size, held.pool.size), (9, 4), "a held state does not change");
    assert_eq!(held.into_arc().pool.size, 4);
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
    bench.put("/quotas/_hidden", "x").await;
    bench.put("/quotas/deeper/x", "x").await;
    let last = bench.put("/other", "x").await;
    let seen = soon(live.wait_for_revision(last)).await.unwrap();
    assert_eq!(seen.iter().map(|(key, n)| (key.clone(), *n)).collect::<BTreeMap<_, _>>(), map.get().await.unwrap().into_inner());
    let some = (Bound::Included("k10"), Bound::Excluded("k12"));
    assert_eq!(seen.range::<str, _>(some).map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["k10", "k11"]);
    assert_eq!((seen.keys().next().unwrap().as_str(), seen.values().last(), seen.contains_key("k50")), ("a/b", Some(&99), false));
}

/// Counts how often a task was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn wait_for_revision_wakes_once_reached() {
    let bench = bench();
    let map = bench.client.entries::<String, u64>("/quotas").unwrap();
    let live = soon(map.live()).await.unwrap();
    let goal = live.revision().get() + 5;
    let (first, last) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    let mut waits_for_first = pin!(live.wait_for_revision(goal - 2));
    let mut waits_for_last = pin!(live.wait_for_revision(goal));
    let waker = Waker::from(first.clone());
    assert!(waits_for_first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let waker = Waker::from(last.clone());
    assert!(waits_for_last.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let count = |woken: &Woken| woken.0.load(Ordering::Relaxed);
    for written in 1..=5 {
        let revision = map.entry("k").unwrap().set(&written).await.unwrap();
        while live.revision() < revision {
            sleep(Duration::from_millis(1)).await;
        }
        if written == 3 {
            assert_eq!(soon(waits_for_first.as_mut()).await.unwrap().get("k"), Some(&3));
            // This woke both tasks; the second one polls again.
            assert_eq!((count(&first), count(&last)), (1, 1));
            let waker = Waker::from(last.clone());
            assert!(waits_for_last.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    assert_eq!((count(&first), count(&last)), (1, 2));
    assert_eq!(soon(waits_for_last).await.unwrap().get("k"), Some(&5));
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
        .set(&text("a"), &"10".to_owned())
        .set(&text("b"), &"x".to_owned())
        .set(&text("50%"), &"1".to_owned())
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
fn view_without_runtime_continues_on_next() {
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
async fn debug_shows_directory_and_status_only() {
    let bench = bench();
    let (_, live) = bench.open().await;
    let text = format!("{live:?} {:?} {:?}", live.stream(), live.reader());
    assert!(text.contains("/app") && text.contains("Live") && !text.contains("acme"), "{text}");
    assert_eq!(format!("{:?}", live.get()), format!("{:?}", live.get().deref()));
}

#[tokio::test(start_paused = true)]
async fn status_counts_paused_time() {
    const HOUR: Duration = Duration::from_secs(3600);
    let store = MemoryStore::new();
    let client = Client::with_store(store.clone());
    let entry = client.entry::<u64>("/a").unwrap();
    entry.set(&1).await.unwrap();
    let mut changes = entry.watch().await.unwrap();
    changes.next().now_or_never();
    let live = entry.live().await.unwrap();
    store.faults().stop();
    while live.status().is_live() {
        sleep(Duration::from_millis(1)).await;
    }
    timeout(HOUR, changes.next()).await.unwrap_err();
    let status = live.status();
    let LiveStatus::Degraded { since, .. } = &status else { panic!("{status}") };
    assert!(tokio::time::Instant::from_std(*since).elapsed() >= HOUR, "{status}");
    let seconds = serde_json::to_value(&status).unwrap()["for_seconds"].as_f64().unwrap();
    assert!(seconds >= 3600.0 && status.to_string().starts_with("degraded for 360"), "{status}");
    assert!(status.degraded_for().unwrap() >= HOUR);
    assert!(changes.interruption().unwrap().lasted() >= HOUR);

    // The times of a rejected value and of a rewound history also follow the paused clock.
    store.faults().start();
    while !live.status().is_live() {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(live.status().degraded_for(), None);
    client.entry::<String>("/a").unwrap().set(&"x".to_owned()).await.unwrap();
    while live.status().is_live() {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(HOUR).await;
    assert!(live.status().degraded_for().unwrap() >= HOUR, "{}", live.status());
    store.faults().wipe();
    while live.rewound().is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(HOUR).await;
    let at = live.rewound().unwrap().at;
    assert!(tokio::time::Instant::from_std(at).elapsed() >= HOUR);
}
