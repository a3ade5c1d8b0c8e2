//! Views with `or_snapshot`, which start from their last good state on disk if the server cannot be
//! reached. Runs on the embedded store with faults and paused time, and on real servers that start
//! later.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod files;
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::testing::{CountingStore, Etcd};
use etcd_typed::{Cause, Client, ErrorKind, EtcdSchema, Live, LiveStatus, ProblemKind, RetryPolicy, Revision};
use etcd_typed_tests::waiting::{soon, until, until_live};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Limits {
    #[etcd(validate = under_a_thousand)]
    rate: u32,
    name: String,
    raw: Option<Bytes>,
    #[etcd(flatten)]
    login: Login,
    #[etcd(dir)]
    pools: BTreeMap<String, Pool>,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Login {
    #[etcd(secret, allow_debug, alias = "old_token")]
    token: Option<String>,
    #[etcd(secret, allow_debug, default = 1234)]
    pin: u32,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Pool {
    size: u16,
    #[etcd(secret, allow_debug)]
    password: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "validations take references")]
fn under_a_thousand(rate: &u32) -> Result<(), &'static str> {
    if *rate < 1000 { Ok(()) } else { Err("a thousand is too much") }
}

const SECRETS: [&str; 3] = ["hunter2", "987654321", "open-sesame"];

fn limits() -> Limits {
    Limits {
        rate: 100,
        name: "\"größe\"\n".to_owned(),
        raw: Some(Bytes::from_static(b"\xff\x00\xfe")),
        login: Login { token: Some(SECRETS[0].to_owned()), pin: SECRETS[1].parse().unwrap() },
        pools: BTreeMap::from([("a/b".to_owned(), Pool { size: 4, password: Some(SECRETS[2].to_owned()) })]),
        quotas: BTreeMap::from([("acme".to_owned(), 5), ("_x".to_owned(), 6)]),
    }
}

/// Returns the limits as they are read from a file, which contains no secrets.
fn limits_without_secrets() -> Limits {
    let mut limits = limits();
    limits.login = Login { token: None, pin: 1234 };
    limits.pools.values_mut().for_each(|pool| pool.password = None);
    limits
}

/// A time that is longer than any backoff and than the interval at which a view verifies that it is
/// up to date. Time is paused.
const LONG: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(10);

struct Bench {
    store: MemoryStore,
    counting: CountingStore,
    client: Client,
    files: TempDir,
}

fn bench() -> Bench {
    let store = MemoryStore::new();
    let counting = CountingStore::new(Arc::new(store.clone()));
    Bench { store, client: Client::with_store(counting.clone()), counting, files: TempDir::new().unwrap() }
}

impl Bench {
    fn dir(&self) -> LimitsDir {
        self.client.dir::<Limits>("/app").unwrap()
    }

    fn path(&self) -> PathBuf {
        self.files.path().join("limits.json")
    }

    async fn put(&self, path: &str, text: &str) -> Revision {
        self.client.entry::<String>(path).unwrap().set(&text.to_owned()).await.unwrap()
    }

    /// Stores the limits, waits until a view has saved them, and stops the server. Returns the
    /// revision in the file.
    async fn kept(&self) -> Revision {
        self.dir().set(&limits()).await.unwrap();
        let live = soon(self.dir().live().or_snapshot(self.path())).await.unwrap();
        until_kept(&self.path(), live.get().revision()).await;
        self.store.faults().stop();
        live.get().revision()
    }

    async fn view_from_disk(&self) -> Live<Limits> {
        soon(self.dir().live().or_snapshot(self.path())).await.unwrap()
    }
}

fn document(path: &Path) -> Option<Value> {
    let text = fs::read(path).ok()?;
    Some(serde_json::from_slice(&text).expect("an existing file is complete"))
}

fn revision_of(path: &Path) -> Option<u64> {
    document(path)?["revision"].as_u64()
}

async fn until_kept(path: &Path, revision: Revision) {
    until(|| revision_of(path) == Some(revision.get())).await;
}

/// Returns the kind of server error that a view from disk reports.
fn reported_error<T: Send + Sync + 'static>(live: &Live<T>) -> Option<ErrorKind> {
    match live.status() {
        LiveStatus::Degraded { cause: Cause::Snapshot(error), .. } => Some(error.kind()),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn view_starts_from_disk_and_follows_server_later() {
    let bench = bench();
    let revision = bench.kept().await;
    let mut live = bench.view_from_disk().await;
    assert_eq!(**live.get(), limits_without_secrets());
    let LiveStatus::Degraded { last_good_revision, .. } = live.status() else { panic!("{:?}", live.status()) };
    assert_eq!((reported_error(&live), last_good_revision, live.revision()), (Some(ErrorKind::Unavailable), revision, revision));
    assert!(timeout(LONG, live.changed()).await.is_err(), "nothing changed");
    assert_eq!(reported_error(&live), Some(ErrorKind::Unavailable));
    assert!(live.staleness() >= LONG);

    bench.store.faults().start();
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!((&**seen, seen.revision()), (&limits(), revision), "the stored limits with their secrets");
    until_live(&live).await;
    assert_eq!(live.rewound(), None);
    let written = bench.dir().rate.set(&7).await.unwrap();
    assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().rate, 7);
    until_kept(&bench.path(), written).await;
    assert_eq!(live.history().iter().map(|state| state.rate).collect::<Vec<_>>(), [100, 100, 7]);
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_view_starts_from_disk() {
    let bench = bench();
    bench.put("/n/old", "7").await;
    bench.put("/map/a", "1").await;
    bench.put("/map/b%2Fc", "2").await;
    bench.put("/map/_etcd-typed", "3").await;
    bench.put("/map/deeper/x", "4").await;
    bench.put("/pools/x/size", "5").await;
    bench.put("/pools/x/password", SECRETS[0]).await;
    bench.put("/pools/x/foreign", "6").await;

    #[derive(EtcdSchema, Debug)]
    #[allow(dead_code, reason = "only its handle is used")]
    struct Aliased {
        #[etcd(alias = "old")]
        new: Option<u32>,
    }
    let value = bench.client.dir::<Aliased>("/n").unwrap().new.clone();
    let none = bench.client.entry::<u32>("/none").unwrap();
    let map = bench.client.entries::<String, u64>("/map").unwrap();
    let pools = bench.client.dirs::<String, Pool>("/pools").unwrap();
    let file = |name: &str| bench.files.path().join(name);
    {
        let first = soon(value.live().or_snapshot(file("value"))).await.unwrap();
        let second = soon(none.live().or_snapshot(file("none"))).await.unwrap();
        let third = soon(map.live().or_snapshot(file("map"))).await.unwrap();
        let fourth = soon(pools.live().or_snapshot(file("pools"))).await.unwrap();
        let revision = first.get().revision();
        for name in ["value", "none", "map", "pools"] {
            until_kept(&file(name), revision).await;
        }
        assert_eq!((second.get().revision(), third.get().revision(), fourth.get().revision()), (revision, revision, revision));
    }
    let read = value.get().await.unwrap().unwrap();
    bench.store.faults().stop();

    let mut first = soon(value.live().or_snapshot(file("value"))).await.unwrap();
    assert_eq!((**first.get(), first.get().modified(), first.get().version()), (Some(7), read.modified(), read.version()));
    let second = soon(none.live().or_snapshot(file("none"))).await.unwrap();
    assert_eq!(**second.get(), None);
    let mut third = soon(map.live().or_snapshot(file("map"))).await.unwrap();
    assert_eq!(third.get().iter().map(|(key, n)| (key.as_str(), *n)).collect::<Vec<_>>(), [("a", 1), ("b/c", 2)]);
    let mut fourth = soon(pools.live().or_snapshot(file("pools"))).await.unwrap();
    assert_eq!(fourth.get().get("x"), Some(&Pool { size: 5, password: None }));
    for kind in [reported_error(&first), reported_error(&second), reported_error(&third), reported_error(&fourth)] {
        assert_eq!(kind, Some(ErrorKind::Unavailable));
    }

    bench.store.faults().start();
    assert_eq!(**soon(first.changed()).await.unwrap(), Some(7));
    assert_eq!(soon(third.changed()).await.unwrap().len(), 2);
    assert!(soon(fourth.changed()).await.unwrap().get("x").unwrap().password.is_some());
    map.entry("a").unwrap().delete().await.unwrap();
    let last = pools.dir("x").unwrap().size.set(&6).await.unwrap();
    assert_eq!(soon(third.wait_for_revision(last)).await.unwrap().keys().collect::<Vec<_>>(), ["b/c"]);
    until_kept(&file("pools"), last).await;
    soon(async {
        while document(&file("map")).unwrap()["entries"].as_object().unwrap().len() != 1 {
            sleep(TICK).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refused_read_never_falls_back_to_disk() {
    let bench = bench();
    bench.kept().await;
    bench.store.faults().start();
    for kind in [
        ErrorKind::Unauthenticated,
        ErrorKind::PermissionDenied,
        ErrorKind::Tls,
        ErrorKind::InvalidUrl,
        ErrorKind::InvalidKey,
        ErrorKind::Unsupported,
        ErrorKind::NotADirectory,
        ErrorKind::IsADirectory,
        ErrorKind::TooLarge,
        ErrorKind::NotFound,
        ErrorKind::Server,
        // An error without problems is not about a stored value.
        ErrorKind::Invalid,
        ErrorKind::Decode,
    ] {
        bench.store.faults().fail(Calls::Reads, 1, kind);
        let error = soon(bench.dir().live().or_snapshot(bench.path())).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(!error.to_string().contains("limits.json"), "{error}");
    }
    for kind in [ErrorKind::Unavailable, ErrorKind::Timeout] {
        bench.store.faults().fail(Calls::Reads, 1, kind);
        let live = bench.view_from_disk().await;
        assert_eq!((live.get().login.token.as_deref(), reported_error(&live)), (None, Some(kind)));
        until_live(&live).await;
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_after_server_returns_is_reported() {
    let bench = bench();
    bench.kept().await;
    let live = bench.view_from_disk().await;
    bench.store.faults().fail(Calls::Reads, 3, ErrorKind::Unauthenticated);
    bench.store.faults().start();
    soon(async {
        while reported_error(&live) != Some(ErrorKind::Unauthenticated) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(live.get().rate, 100);
    until_live(&live).await;
}

#[tokio::test(start_paused = true)]
async fn invalid_stored_state_falls_back_to_disk() {
    let bench = bench();
    let revision = bench.kept().await;
    bench.store.faults().start();
    bench.put("/app/rate", "5000").await;
    let bad = bench.put("/app/quotas/acme", "many").await;
    let error = soon(bench.dir().live().or_snapshot(bench.files.path().join("none"))).await.unwrap_err();
    assert_eq!((error.kind(), error.problems().len()), (ErrorKind::Invalid, 2));
    assert!(error.to_string().contains("nothing to start from"), "{error}");

    let mut live = bench.view_from_disk().await;
    assert_eq!(**live.get(), limits_without_secrets());
    let is_reported = |live: &Live<Limits>| {
        let status = live.status();
        let kinds: Vec<_> = status.problems().iter().map(|problem| problem.kind).collect();
        assert_eq!(kinds, [ProblemKind::Rejected, ProblemKind::Undecodable], "{status:?}");
    };
    is_reported(&live);
    let error = soon(live.wait_for_revision(bad)).await.unwrap_err();
    assert_eq!(error.problems().len(), 2);
    is_reported(&live);
    assert_eq!((live.revision(), revision_of(&bench.path())), (revision, Some(revision.get())));

    bench.put("/app/rate", "1").await;
    bench.put("/app/quotas/acme", "2").await;
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!((seen.rate, seen.quotas["acme"], seen.login.token.as_deref()), (1, 2, Some(SECRETS[0])));
    until_live(&live).await;

    let value = bench.client.entry::<u64>("/app/quotas/acme").unwrap();
    let path = bench.files.path().join("acme");
    let kept = soon(value.live().or_snapshot(&path)).await.unwrap();
    until_kept(&path, kept.get().revision()).await;
    drop((kept, live));
    bench.put("/app/quotas/acme", "many").await;
    let live = soon(value.live().or_snapshot(&path)).await.unwrap();
    assert_eq!((**live.get(), live.status().problems().len()), (Some(2), 1), "an entry reports another kind of error");
}

#[tokio::test(start_paused = true)]
async fn wiped_server_is_reported_as_rewound() {
    let bench = bench();
    for n in 0..100 {
        bench.put("/other", &n.to_string()).await;
    }
    let kept = bench.kept().await;
    let mut live = bench.view_from_disk().await;
    bench.store.faults().wipe();
    bench.store.faults().start();
    let written = bench.dir().set(&Limits { rate: 1, ..limits() }).await.unwrap();
    // A view of a directory with required fields shows nothing while the wiped server has none of
    // them.
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!((seen.rate, seen.revision()), (1, written));
    assert!(written < kept && live.revision() == written);
    let rewound = live.rewound().expect("the view reports that the revision went back");
    assert_eq!(rewound.from, kept);
    assert!(rewound.to <= written);
    until_kept(&bench.path(), written).await;
}

#[tokio::test(start_paused = true)]
async fn dropped_view_from_disk_sends_no_requests() {
    let bench = bench();
    bench.kept().await;
    let live = bench.view_from_disk().await;
    let clone = live.clone();
    drop((live, clone));
    bench.counting.take();
    sleep(LONG).await;
    assert_eq!(bench.counting.take().total(), 0);
}

#[tokio::test(start_paused = true)]
async fn new_view_starts_from_disk_despite_degraded_view() {
    let bench = bench();
    bench.dir().set(&limits()).await.unwrap();
    let old = bench.view_from_disk().await;
    until_kept(&bench.path(), old.get().revision()).await;
    bench.store.faults().stop();
    let new = bench.view_from_disk().await;
    assert_eq!((reported_error(&new), &**new.get()), (Some(ErrorKind::Unavailable), &limits_without_secrets()));
    assert_eq!(**old.get(), limits());
    bench.store.faults().start();
    let written = bench.dir().rate.set(&9).await.unwrap();
    for live in [&old, &new] {
        until_live(live).await;
        assert_eq!(**soon(live.wait_for_revision(written)).await.unwrap(), Limits { rate: 9, ..limits() });
    }
}
