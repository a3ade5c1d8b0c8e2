//! Live views on every store: memory, v3 and v2. Rules that do not depend on the store are in
//! `without_server/live.rs`, and views of servers with many faults in `live_fire.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etcd_typed::testing::{CountingStore, Etcd};
use etcd_typed::{Cause, Client, ErrorKind, EtcdSchema, Live, LiveStatus, ProblemKind, Revision};
use etcd_typed_tests::waiting::{soon, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

const POLL: Duration = Duration::from_millis(5);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(validate = in_order)]
struct Limits {
    low: u32,
    #[etcd(default = 10)]
    high: u32,
    name: Option<String>,
    #[etcd(dir)]
    pool: Pool,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Pool {
    size: u16,
}

fn in_order(limits: &Limits) -> Result<(), String> {
    if limits.low <= limits.high { Ok(()) } else { Err("low is above high".to_owned()) }
}

fn limits() -> Limits {
    Limits { low: 1, high: 10, name: None, pool: Pool { size: 4 }, quotas: BTreeMap::from([("acme".to_owned(), 5)]) }
}

/// A client that has its own namespace in each test.
struct Bench {
    client: Client,
}

impl Bench {
    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }

    async fn open(&self) -> (LimitsDir, Live<Limits>) {
        let dir = self.client.dir::<Limits>("/app").unwrap();
        dir.set(&limits()).non_atomic().await.unwrap();
        let live = soon(dir.live()).await.unwrap();
        (dir, live)
    }

    /// Writes text, as a user does with another tool.
    async fn put(&self, path: &str, text: &str) -> Revision {
        self.client.entry::<String>(path).unwrap().set(&text.to_owned()).await.unwrap()
    }
}

etcd_typed_tests::on_every_store! { "live":
    view_shows_each_revision_as_a_whole
    wait_for_revision_covers_all_keys
    invalid_value_is_reported_and_not_shown
    view_of_entry_shows_value_or_none
    view_of_map_follows_its_entries
    view_of_struct_map_follows_its_structs
    selected_part_wakes_when_it_changes
    views_of_one_directory_share_watch
}

async fn view_shows_each_revision_as_a_whole(bench: Bench) {
    let (dir, live) = bench.open().await;
    let mut wanted = Limits { low: 5, high: 6, ..limits() };
    wanted.pool.size = 7;
    wanted.quotas.insert("new".to_owned(), 8);
    let before = live.get().revision();
    let written = dir.set(&wanted).non_atomic().await.unwrap();
    let now = soon(live.wait_for_revision(written)).await.unwrap();
    assert_eq!(**now, wanted);
    assert_eq!(now.modified(), dir.get().await.unwrap().modified());
    let mut states: Vec<_> = live.history().into_iter().filter(|state| state.revision() > before).collect();
    assert!(states.is_sorted_by_key(|state| state.revision()), "{states:?}");
    // A write of an equal value gives a new state with the same content.
    states.dedup_by(|b, a| ***a == ***b);
    let changed = |state: &Limits| {
        let [old, new] = [&limits(), state];
        [old.low != new.low, old.high != new.high, old.pool != new.pool, old.quotas != new.quotas]
            .into_iter()
            .filter(|changed| *changed)
            .count()
    };
    let expected: Vec<usize> = if bench.transactions() { vec![4] } else { vec![1, 2, 3, 4] };
    assert_eq!(states.iter().map(|state| changed(state)).collect::<Vec<_>>(), expected, "{states:?}");
}

async fn wait_for_revision_covers_all_keys(bench: Bench) {
    let (dir, live) = bench.open().await;
    for low in 2..6 {
        let written = dir.low.set(&low).await.unwrap();
        assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().low, low);
        let elsewhere = bench.put("/other", "x").await;
        assert_eq!(soon(live.wait_for_revision(elsewhere)).await.unwrap().low, low);
        assert!(live.revision() >= elsewhere);
    }
    assert!(live.status().is_live());
    assert_eq!(live.rewound(), None);
}

async fn invalid_value_is_reported_and_not_shown(bench: Bench) {
    let (dir, live) = bench.open().await;
    for (path, text, key, kind, reason) in [
        ("/app/low", "x", "/app/low", ProblemKind::Undecodable, "invalid digit"),
        ("/app/low", "11", "/app", ProblemKind::Rejected, "low is above high"),
        ("/app/quotas/b", "-1", "/app/quotas/b", ProblemKind::Undecodable, "invalid digit"),
        ("/app/quotas/50%", "1", "/app/quotas/50%", ProblemKind::ForeignKey, "escaped"),
    ] {
        let good = live.revision();
        let written = bench.put(path, text).await;
        let error = soon(live.wait_for_revision(written)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let status = live.status();
        let LiveStatus::Degraded { cause: Cause::Rejected(problems), last_good_revision, .. } = &status else { panic!("{status:?}") };
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.key.as_str().ends_with(key) && problem.reason.contains(reason), "{problem}");
        assert_eq!((problem.kind, problem.revision, *last_good_revision), (kind, Some(written), good));
        assert_eq!((&**live.get(), live.revision()), (&limits(), good));
        // After the value is corrected, the view is live again by itself.
        let mended = match path {
            "/app/low" => dir.low.set(&1).await.unwrap(),
            _ => {
                bench.client.entry::<String>(path).unwrap().delete().await.unwrap();
                bench.put("/other", "x").await
            }
        };
        assert_eq!(**soon(live.wait_for_revision(mended)).await.unwrap(), limits());
        assert!(live.status().is_live());
    }
    dir.low.delete().await.unwrap();
    until(|| !live.status().is_live()).await;
    let status = live.status();
    assert_eq!(status.problems().iter().map(|problem| problem.kind).collect::<Vec<_>>(), [ProblemKind::Missing], "{status:?}");
    dir.set(&limits()).non_atomic().await.unwrap();
    until(|| live.status().is_live()).await;
}

async fn view_of_entry_shows_value_or_none(bench: Bench) {
    let entry = bench.client.entry::<u32>("/entry").unwrap();
    let mut live = soon(entry.live()).await.unwrap();
    assert_eq!(**live.get(), None);
    let written = entry.set(&1).await.unwrap();
    let now = soon(live.changed()).await.unwrap();
    assert_eq!((**now, now.modified(), now.created()), (Some(1), written, written));
    entry.delete().await.unwrap();
    assert_eq!(**soon(live.changed()).await.unwrap(), None);
    let bad = bench.put("/entry", "x").await;
    assert_eq!(soon(live.wait_for_revision(bad)).await.unwrap_err().problems().len(), 1);
    assert_eq!(**live.get(), None);
    let good = entry.set(&2).await.unwrap();
    assert_eq!(**soon(live.wait_for_revision(good)).await.unwrap(), Some(2));
}

async fn view_of_map_follows_its_entries(bench: Bench) {
    let map = bench.client.entries::<String, u64>("/quotas").unwrap();
    let live = soon(map.live()).await.unwrap();
    assert!(live.get().is_empty(), "the directory does not exist");
    let wanted: BTreeMap<String, u64> = (0..30).map(|n| (format!("k {n:02}/x"), n)).collect();
    let written = map.set(&wanted).non_atomic().await.unwrap();
    let now = soon(live.wait_for_revision(written)).await.unwrap();
    assert_eq!(now.iter().map(|(key, quota)| (key.clone(), *quota)).collect::<BTreeMap<_, _>>(), wanted);
    map.entry("k 07/x").unwrap().delete().await.unwrap();
    let elsewhere = bench.put("/other", "x").await;
    let later = soon(live.wait_for_revision(elsewhere)).await.unwrap();
    assert_eq!((later.len(), later.get("k 07/x"), now.get("k 07/x")), (29, None, Some(&7)));
    let whole = bench.client.directory("/quotas").unwrap();
    whole.delete_recursive().await.unwrap();
    until(|| live.get().is_empty()).await;
}

async fn view_of_struct_map_follows_its_structs(bench: Bench) {
    let map = bench.client.dirs::<String, Limits>("/apps").unwrap();
    let live = soon(map.live()).await.unwrap();
    let written = map.dir("x").unwrap().set(&limits()).non_atomic().await.unwrap();
    assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().get("x"), Some(&limits()));
    let bad = bench.put("/apps/x/low", "11").await;
    assert_eq!(soon(live.wait_for_revision(bad)).await.unwrap_err().problems()[0].reason, "low is above high");
    assert_eq!(live.get().get("x"), Some(&limits()));
    map.dir("x").unwrap().delete().non_atomic().await.unwrap();
    until(|| live.get().is_empty()).await;
}

async fn selected_part_wakes_when_it_changes(bench: Bench) {
    let (dir, live) = bench.open().await;
    let mut pool = live.select(|limits| &limits.pool);
    dir.low.set(&2).await.unwrap();
    dir.pool.size.set(&9).await.unwrap();
    let part = soon(pool.changed()).await.unwrap();
    assert_eq!((part.size, part.whole().low), (9, 2));
}

async fn views_of_one_directory_share_watch(bench: Bench) {
    let counting = CountingStore::new(bench.client.store().clone());
    let client = Client::with_store(counting.clone());
    let dir = client.dir::<Limits>(&format!("{}/counted", bench.client.namespace())).unwrap();
    dir.set(&limits()).non_atomic().await.unwrap();
    let mut views = Vec::new();
    for _ in 0..50 {
        views.push(soon(dir.live()).await.unwrap());
    }
    let written = dir.pool.size.set(&9).await.unwrap();
    for live in &views {
        assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().pool.size, 9);
    }
    assert_eq!(counting.take().watch, 1);
    drop(views);
    soon(dir.live()).await.unwrap();
    assert_eq!(counting.take().watch, 1, "the first watch has ended, so that a new one starts");
}

#[tokio::test]
async fn v3_view_of_idle_directory_stays_fresh() {
    stays_fresh(etcd_typed_tests::shared("live").await.url_v3()).await;
}

#[tokio::test]
async fn v2_view_of_idle_directory_stays_fresh() {
    stays_fresh(etcd_typed_tests::shared("live").await.url_v2()).await;
}

async fn stays_fresh(address: String) {
    let bench = Bench { client: Client::builder(&address).namespace("/live-idle").connect().await.unwrap() };
    let (_, live) = bench.open().await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = {
        let (entry, stop) = (bench.client.entry::<u32>("/busy").unwrap(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                entry.set(&1).await.unwrap();
                sleep(Duration::from_millis(20)).await;
            }
        })
    };
    // Staleness rises, and falls each time the view verifies that it is up to date.
    for _ in 0..2 {
        let (before, since) = (live.revision(), Instant::now());
        let stale = live.staleness();
        until(|| live.staleness() < stale + since.elapsed() / 2).await;
        until(|| live.revision() > before).await;
    }
    assert!(live.status().is_live());
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
}

/// While another client writes, each view asks the server whether the view's directory has changed.
/// The checks of many views share a request, except on servers that such a request can crash.
#[tokio::test]
async fn idle_views_share_requests_on_a_busy_server() {
    let etcd = Etcd::start().await;
    let client = Client::connect(&etcd.url_v3()).await.unwrap();
    let busy = Client::connect(&etcd.url_v3()).await.unwrap().entry::<u32>("/busy").unwrap();
    let writer = tokio::spawn(async move {
        loop {
            busy.set(&1).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    });
    let mut views = Vec::new();
    for n in 0..500 {
        let dir = client.dir::<Pool>(&format!("/views/{n}")).unwrap();
        dir.set(&Pool { size: 1 }).await.unwrap();
        views.push(soon(dir.live()).await.unwrap());
    }
    // During the first checks, the client learns the server's version.
    proved(&views).await;
    let before = reads(&etcd).await;
    proved(&views).await;
    let requests = reads(&etcd).await - before;
    writer.abort();
    let shares = !["3.5.0", "3.5.1", "3.5.2", "3.5.3", "3.5.4", "3.5.5", "3.5.6"].contains(&etcd.version());
    assert!(requests <= if shares { 50 } else { 1100 }, "{requests} requests");
}

/// Waits until each view has verified once more that it is up to date.
async fn proved(views: &[Live<Pool>]) {
    let since = Instant::now();
    for live in views {
        until(|| live.staleness() < since.elapsed()).await;
    }
}

/// Returns the number of read requests, from the server's metrics.
async fn reads(etcd: &Etcd) -> u64 {
    let started = async |method| {
        metric(
            etcd,
            &format!("grpc_server_started_total{{grpc_method=\"{method}\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}} "),
        )
        .await
    };
    started("Range").await + started("Txn").await
}

#[tokio::test]
async fn last_dropped_view_ends_watch() {
    let etcd = Etcd::start().await;
    let bench = Bench { client: Client::connect(&etcd.url_v3()).await.unwrap() };
    let (dir, live) = bench.open().await;
    let mut views = vec![live.clone()];
    for _ in 0..50 {
        views.push(soon(dir.live()).await.unwrap());
    }
    drop(live);
    assert_eq!(watchers(&etcd).await, 1);
    let (stream, subscription, part) = (views[0].stream(), views[1].on_change(|_| {}), views[2].select(|limits| &limits.pool));
    drop(views);
    assert_eq!(watchers(&etcd).await, 1, "a subscription keeps the watch");
    drop((stream, subscription, part));
    soon(async {
        while watchers(&etcd).await > 0 {
            sleep(POLL).await;
        }
    })
    .await;
}

/// Returns the number of watchers, from the server's metrics.
async fn watchers(etcd: &Etcd) -> u64 {
    metric(etcd, "etcd_debugging_mvcc_watcher_total ").await
}

async fn metric(etcd: &Etcd, name: &str) -> u64 {
    let mut stream = TcpStream::connect(etcd.endpoint()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).await.unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("the server has the metric");
    value.parse::<f64>().expect("a number") as u64
}

#[tokio::test]
async fn v3_view_survives_killed_and_paused_server() {
    let etcd = Etcd::start().await;
    let address = etcd.url_v3();
    outlives(etcd, &address).await;
}

#[tokio::test]
async fn v2_view_survives_killed_and_paused_server() {
    let etcd = Etcd::start().await;
    let address = etcd.url_v2();
    outlives(etcd, &address).await;
}

async fn outlives(mut etcd: Etcd, address: &str) {
    let bench = Bench { client: Client::connect(address).await.unwrap() };
    let (dir, live) = bench.open().await;
    for size in [5, 6] {
        if size == 5 {
            etcd.kill().await;
        } else {
            etcd.pause();
        }
        until(|| !live.status().is_live()).await;
        let status = live.status();
        let LiveStatus::Degraded { cause: Cause::Interrupted(error), last_good_revision, .. } = &status else { panic!("{status:?}") };
        assert!(error.is_retryable(), "{error}");
        assert_eq!(*last_good_revision, live.revision());
        assert_eq!(live.get().pool.size, size - 1, "the last good state stays");
        if size == 5 {
            etcd.restart().await;
        } else {
            etcd.resume();
        }
        until(|| live.status().is_live()).await;
        // A server that comes back may have no leader at first, so the write is repeated.
        let written = soon(async {
            loop {
                match dir.pool.size.set(&size).await {
                    Ok(revision) => return revision,
                    Err(error) => assert!(error.is_retryable() || error.may_have_applied(), "{error}"),
                }
            }
        })
        .await;
        assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().pool.size, size);
        until(|| live.status().is_live()).await;
    }
}
