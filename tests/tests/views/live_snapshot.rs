//! Views with `or_snapshot`, which start from their last good state on disk if the server cannot be
//! reached. Runs on the embedded store with faults and paused time, and on real servers that start
//! later.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

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
    #[etcd(secret, alias = "old_token")]
    token: Option<String>,
    #[etcd(secret, default = 1234)]
    pin: u32,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Pool {
    size: u16,
    #[etcd(secret)]
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

/// The limits as they are read from a file, which contains no secrets.
fn limits_without_secrets() -> Limits {
    let mut limits = limits();
    limits.login = Login { token: None, pin: 1234 };
    limits.pools.values_mut().for_each(|pool| pool.password = None);
    limits
}

/// A time that is longer than any backoff and than the time between two proofs of a view. Time is
/// paused.
const LONG: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(10);

async fn soon<T>(wait: impl IntoFuture<Output = T>) -> T {
    timeout(LONG, wait).await.expect("this happens in time")
}

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
    soon(async {
        while revision_of(path) != Some(revision.get()) {
            sleep(TICK).await;
        }
    })
    .await;
}

async fn until_live<T: Send + Sync + 'static>(live: &Live<T>) {
    soon(async {
        while !live.status().is_live() {
            sleep(TICK).await;
        }
    })
    .await;
}

/// The error of the server that a view from disk reports.
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
    bench.put("/map/_hidden", "3").await;
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
async fn refusal_by_returned_server_is_reported() {
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
async fn rejected_state_is_never_saved() {
    let bench = bench();
    bench.dir().set(&limits()).await.unwrap();
    let live = bench.view_from_disk().await;
    until_kept(&bench.path(), live.get().revision()).await;
    // These writes come within the second after a save, in which the view does not save again.
    let good = bench.dir().rate.set(&101).await.unwrap();
    let bad = bench.put("/app/rate", "5000").await;
    soon(live.wait_for_revision(bad)).await.unwrap_err();
    until_kept(&bench.path(), good).await;
    sleep(LONG).await;
    assert_eq!(document(&bench.path()).unwrap()["entries"]["rate"]["value"], "101");
    let mended = bench.put("/app/rate", "102").await;
    until_kept(&bench.path(), mended).await;
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
async fn unusable_file_fails_like_missing_file() {
    let bench = bench();
    bench.kept().await;
    let good = fs::read(bench.path()).unwrap();
    let mut files = vec![
        (Vec::new(), "damaged"),
        (b"hunter2".to_vec(), "damaged"),
        (b"[]".to_vec(), "damaged"),
        (br#"{"password": "hunter2"}"#.to_vec(), "damaged"),
        (br#"{"etcd_typed_snapshot": "hunter2"}"#.to_vec(), "damaged"),
        (vec![0xff; 4096], "damaged"),
        (vec![b'['; 100_000], "damaged"),
        (good.repeat(2), "damaged"),
    ];
    // The file is cut off at every length but the last, which lacks only the final newline.
    files.extend((0..good.len() - 1).map(|length| (good[..length].to_vec(), "damaged")));
    let edits: [(&str, Value, &str); 12] = [
        ("/etcd_typed_snapshot", json!(2), "its format is 2"),
        ("/etcd_typed_snapshot", json!(null), "damaged"),
        ("/store", json!("etcd v3"), "it belongs to the struct Limits in /app (etcd v3)"),
        ("/directory", json!("/apple"), "in /apple"),
        ("/view", json!("the struct Pool"), "the struct Pool in /app"),
        ("/revision", json!(-1), "damaged"),
        ("/revision", json!("hunter2"), "damaged"),
        ("/entries/rate", json!("hunter2"), "damaged"),
        ("/entries/rate/value", json!([256]), "damaged"),
        // Values that the schema does not accept.
        ("/entries/rate/value", json!("5000"), "a thousand is too much"),
        ("/entries/rate/value", json!("hunter2"), "invalid digit"),
        ("/entries", json!({}), "missing"),
    ];
    for (pointer, value, reason) in edits {
        let mut document: Value = serde_json::from_slice(&good).unwrap();
        *document.pointer_mut(pointer).expect("the file has this field") = value;
        files.push((document.to_string().into_bytes(), reason));
    }
    for (bytes, reason) in files {
        fs::write(bench.path(), &bytes).unwrap();
        let error = soon(bench.dir().live().or_snapshot(bench.path())).await.unwrap_err();
        let (text, shown) = (error.to_string(), String::from_utf8_lossy(&bytes).into_owned());
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{shown}");
        assert!(text.contains(reason) && text.contains("limits.json"), "{text}: {shown}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    fs::remove_file(bench.path()).unwrap();
    let error = soon(bench.dir().live().or_snapshot(bench.path())).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("No such file"), "{error}");
    fs::create_dir(bench.path()).unwrap();
    let error = soon(bench.dir().live().or_snapshot(bench.path())).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("directory"), "{error}");
    fs::remove_dir(bench.path()).unwrap();

    // A view of another struct in the same directory.
    fs::write(bench.path(), &good).unwrap();
    let pool = bench.client.dir::<Pool>("/app").unwrap();
    let error = soon(pool.live().or_snapshot(bench.path())).await.unwrap_err();
    assert!(error.to_string().contains("not to the struct Pool in /app"), "{error}");
    assert_eq!(bench.view_from_disk().await.get().rate, 100, "the view of its own struct accepts the file");
}

#[tokio::test(start_paused = true)]
async fn file_of_another_value_is_refused() {
    let bench = bench();
    let (a, b) = (bench.client.entry::<u32>("/n/a").unwrap(), bench.client.entry::<u32>("/n/b").unwrap());
    let revision = a.set(&1).await.unwrap();
    let live = soon(a.live().or_snapshot(bench.path())).await.unwrap();
    until_kept(&bench.path(), revision).await;
    drop(live);
    bench.store.faults().stop();
    let error = soon(b.live().or_snapshot(bench.path())).await.unwrap_err();
    assert!(error.to_string().contains("the value `a`"), "{error}");
    let map = bench.client.entries::<String, u32>("/n").unwrap();
    soon(map.live().or_snapshot(bench.path())).await.unwrap_err();
    assert_eq!(**soon(a.live().or_snapshot(bench.path())).await.unwrap().get(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn secrets_are_never_saved() {
    let bench = bench();
    bench.put("/app/old_token", SECRETS[0]).await;
    bench.kept().await;
    for file in fs::read_dir(bench.files.path()).unwrap() {
        let text = String::from_utf8_lossy(&fs::read(file.unwrap().path()).unwrap()).into_owned();
        assert!(text.contains("\"quotas/acme\"") && !SECRETS.iter().any(|secret| text.contains(secret)), "{text}");
    }
    // A view ignores values in the file whose fields became secret after it was written.
    let mut document = document(&bench.path()).unwrap();
    for key in ["token", "old_token", "pools/a%2Fb/password"] {
        document["entries"][key] = json!({"value": "hunter2", "created": 1, "modified": 1});
    }
    fs::write(bench.path(), document.to_string()).unwrap();
    let live = bench.view_from_disk().await;
    assert_eq!(**live.get(), limits_without_secrets());
}

#[tokio::test(start_paused = true)]
async fn snapshot_of_required_secret_is_refused() {
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Required {
        name: String,
        #[etcd(secret, rename = "pass-word")]
        password: String,
    }
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Nested {
        #[etcd(flatten)]
        limits: Pool,
        #[etcd(dir)]
        login: Option<Required>,
    }
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Maps {
        #[etcd(dir)]
        logins: BTreeMap<String, Required>,
    }
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Entries {
        #[etcd(entries, secret)]
        tokens: BTreeMap<String, String>,
    }
    #[derive(EtcdSchema)]
    #[allow(dead_code, reason = "only its table is used")]
    struct Flat {
        #[etcd(flatten)]
        tokens: Entries,
    }
    let bench = bench();
    let client = &bench.client;
    let path = || bench.files.path().join("refused");
    let required = client.dir::<Required>("/r").unwrap();
    required.set(&Required { name: "me".to_owned(), password: SECRETS[0].to_owned() }).await.unwrap();
    bench.counting.take();
    let tokens = client.dir::<Entries>("/e").unwrap().tokens.clone();
    let refusals = [
        (soon(required.live().or_snapshot(path())).await.err(), "`pass-word`"),
        (soon(client.dir::<Nested>("/n").unwrap().live().or_snapshot(path())).await.err(), "`login/pass-word`"),
        (soon(client.dir::<Maps>("/m").unwrap().live().or_snapshot(path())).await.err(), "`logins/<text>/pass-word`"),
        (soon(client.dir::<Entries>("/e").unwrap().live().or_snapshot(path())).await.err(), "`tokens/<text>`"),
        (soon(client.dir::<Flat>("/f").unwrap().live().or_snapshot(path())).await.err(), "`tokens/<text>`"),
        (soon(client.dirs::<String, Required>("/d").unwrap().live().or_snapshot(path())).await.err(), "`<text>/pass-word`"),
        (soon(required.password.live().or_snapshot(path())).await.err(), "`pass-word`"),
        (soon(bench.dir().login.token.live().or_snapshot(path())).await.err(), "`token`"),
        (soon(tokens.live().or_snapshot(path())).await.err(), "`<text>`"),
    ];
    for (error, place) in refusals {
        let error = error.expect("the view is refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(place) && error.to_string().contains("Option"), "{place}: {error}");
    }
    assert_eq!(bench.counting.take().total(), 0, "refused without any request");
    assert_eq!(soon(required.live()).await.unwrap().get().password, SECRETS[0], "without a snapshot the view works");
    assert!(!path().exists());
}

#[tokio::test(start_paused = true)]
async fn compare_and_swap_of_saved_state_keeps_secrets() {
    let bench = bench();
    bench.kept().await;
    let live = bench.view_from_disk().await;
    let seen = live.get().into_arc();
    bench.store.faults().start();
    let wanted = Limits { rate: 5, ..(**seen).clone() };
    bench.dir().compare_and_swap(&seen, &wanted).await.unwrap();
    let stored = bench.dir().get().await.unwrap();
    assert_eq!(*stored, Limits { rate: 5, ..limits() });
    assert_eq!(bench.dir().compare_and_swap(&seen, &wanted).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn file_is_saved_about_once_per_second() {
    let bench = bench();
    bench.dir().set(&limits()).await.unwrap();
    let live = bench.view_from_disk().await;
    until_kept(&bench.path(), live.get().revision()).await;
    let mut seen = BTreeSet::new();
    let mut last = Revision::ZERO;
    for rate in 0..300 {
        last = bench.dir().rate.set(&rate).await.unwrap();
        seen.extend(revision_of(&bench.path()));
        sleep(TICK).await;
    }
    assert!(seen.len() >= 3 && seen.len() <= 6, "saves within 3 seconds: {seen:?}");
    // The last state is saved even after the view was dropped.
    drop(live);
    until_kept(&bench.path(), last).await;
    assert_eq!(fs::read_dir(bench.files.path()).unwrap().count(), 1, "no temporary file is left");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(bench.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test(start_paused = true)]
async fn unwritable_file_does_not_stop_view() {
    let bench = bench();
    bench.dir().set(&limits()).await.unwrap();
    let directory = bench.files.path().join("later");
    let path = directory.join("limits.json");
    let live = soon(bench.dir().live().or_snapshot(&path)).await.unwrap();
    let written = bench.dir().rate.set(&1).await.unwrap();
    assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().rate, 1);
    sleep(LONG).await;
    assert!(live.status().is_live() && !directory.exists());
    fs::create_dir(&directory).unwrap();
    let written = bench.dir().rate.set(&2).await.unwrap();
    until_kept(&path, written).await;
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
async fn new_view_starts_from_disk_beside_degraded_one() {
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

#[tokio::test(start_paused = true)]
async fn concurrent_writers_keep_file_complete() {
    let bench = bench();
    bench.dir().set(&limits()).await.unwrap();
    let first = bench.view_from_disk().await;
    until_kept(&bench.path(), first.get().revision()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (path, stopped) = (bench.path(), stop.clone());
    let reader = std::thread::spawn(move || {
        let mut reads = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            assert!(document(&path).expect("the file always exists")["entries"]["rate"]["value"].is_string());
            reads += 1;
        }
        reads
    });
    let mut views = vec![first];
    for _ in 0..7 {
        views.push(bench.view_from_disk().await);
    }
    let mut last = Revision::ZERO;
    for rate in 0..30 {
        last = bench.dir().rate.set(&rate).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().expect("every read found a complete file") > 0);
    assert_eq!(revision_of(&bench.path()), Some(last.get()));
    assert_eq!(fs::read_dir(bench.files.path()).unwrap().count(), 1);
}

fn lazy(url: &str) -> Client {
    let retry = RetryPolicy { call_timeout: Duration::from_millis(500), ..RetryPolicy::default() };
    Client::builder(url).retry(retry).connect_lazy().unwrap()
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Small {
    rate: u32,
    #[etcd(secret)]
    token: Option<String>,
}

/// With a real server: it stops, a program starts without it, and it returns on the same port.
/// Later it stops again and loses all data.
async fn view_starts_before_server(url: fn(&Etcd) -> String) {
    let mut etcd = Etcd::start().await;
    let files = TempDir::new().unwrap();
    let path = files.path().join("small.json");
    let client = lazy(&url(&etcd));
    let dir = client.dir::<Small>("/later").unwrap();
    dir.rate.set(&1).await.unwrap();
    dir.token.set(&SECRETS[0].to_owned()).await.unwrap();
    let live = dir.live().or_snapshot(&path).await.unwrap();
    let kept = live.get().revision();
    until_kept(&path, kept).await;
    drop((live, client));
    etcd.terminate().await;

    let client = lazy(&url(&etcd));
    let dir = client.dir::<Small>("/later").unwrap();
    let none = dir.live().or_snapshot(files.path().join("none")).await.unwrap_err();
    assert!(none.is_retryable() && none.to_string().contains("nothing to start from"), "{none}");
    let mut live = soon(dir.live().or_snapshot(&path)).await.unwrap();
    assert_eq!((live.get().rate, live.get().token.clone(), live.revision()), (1, None, kept));
    assert!(matches!(reported_error(&live), Some(ErrorKind::Unavailable | ErrorKind::Timeout)), "{:?}", live.status());

    etcd.restart().await;
    assert_eq!(soon(live.changed()).await.unwrap().token.as_deref(), Some(SECRETS[0]));
    until_live(&live).await;
    let written = dir.rate.set(&2).await.unwrap();
    assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().rate, 2);
    assert_eq!(live.rewound(), None);
    for _ in 0..20 {
        dir.rate.set(&3).await.unwrap();
    }
    let written = dir.rate.set(&4).await.unwrap();
    soon(live.wait_for_revision(written)).await.unwrap();
    until_kept(&path, written).await;
    drop((live, client));
    etcd.terminate().await;

    let client = lazy(&url(&etcd));
    let dir = client.dir::<Small>("/later").unwrap();
    let mut live = soon(dir.live().or_snapshot(&path)).await.unwrap();
    assert_eq!((live.get().rate, live.revision()), (4, written));
    etcd.wipe().await;
    let anew = dir.rate.set(&5).await.unwrap();
    assert_eq!(soon(live.changed()).await.unwrap().rate, 5);
    until_live(&live).await;
    let rewound = live.rewound().expect("the view reports that the revision went back");
    assert!(rewound.from == written && rewound.to <= anew && live.revision() < written, "{rewound:?}");
}

#[tokio::test]
async fn view_starts_before_v3_server() {
    view_starts_before_server(Etcd::url_v3).await;
}

#[tokio::test]
async fn view_starts_before_v2_server() {
    view_starts_before_server(Etcd::url_v2).await;
}

#[tokio::test]
async fn refused_login_never_falls_back_to_disk() {
    // A low bcrypt cost, because on a busy machine a login with the default cost takes longer than
    // these calls may.
    let mut etcd = Etcd::builder().flag("--bcrypt-cost", "4").start().await;
    let files = TempDir::new().unwrap();
    let path = files.path().join("small.json");
    {
        let dir = lazy(&etcd.url_v3()).dir::<Small>("/login").unwrap();
        dir.rate.set(&1).await.unwrap();
        let live = dir.live().or_snapshot(&path).await.unwrap();
        until_kept(&path, live.get().revision()).await;
    }
    for (call, body) in [
        ("user/add", r#"{"name": "root", "password": "root"}"#),
        ("role/add", r#"{"name": "root"}"#),
        ("user/grant", r#"{"user": "root", "role": "root"}"#),
        ("user/add", r#"{"name": "anna", "password": "secret"}"#),
        ("enable", "{}"),
    ] {
        let answer = etcd.call(&format!("/v3/auth/{call}"), body).await;
        assert!(answer.contains("header"), "{call}: {answer}");
    }
    let endpoint = etcd.endpoint();
    let view = |login: &str| lazy(&format!("etcd://{login}{endpoint}")).dir::<Small>("/login").unwrap().live().or_snapshot(&path);
    for (login, kinds) in [
        ("", &[ErrorKind::Unauthenticated, ErrorKind::PermissionDenied][..]),
        ("root:wrong@", &[ErrorKind::Unauthenticated]),
        ("nobody:root@", &[ErrorKind::Unauthenticated]),
        // This user can log in, but may read nothing.
        ("anna:secret@", &[ErrorKind::PermissionDenied]),
    ] {
        let error = soon(view(login)).await.unwrap_err();
        assert!(kinds.contains(&error.kind()), "{login}: {error}");
    }
    assert_eq!(soon(view("root:root@")).await.unwrap().get().rate, 1);

    // While the server is stopped, the view starts from disk. When it is back and refuses the
    // login, the view reports that.
    etcd.terminate().await;
    let live = soon(view("root:wrong@")).await.unwrap();
    assert!(matches!(reported_error(&live), Some(ErrorKind::Unavailable | ErrorKind::Timeout)), "{:?}", live.status());
    etcd.restart().await;
    soon(async {
        while reported_error(&live) != Some(ErrorKind::Unauthenticated) {
            sleep(TICK).await;
        }
    })
    .await;
    assert_eq!(live.get().rate, 1);
}

#[test]
fn example_starts_without_server() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_start_without_a_server")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = shown.lines().collect();
    let degraded = r#"without a server: Checkout { rate_limit: 250, banner: Some("Sale!"), token: None } (degraded)"#;
    let back = r#"the server is back: Checkout { rate_limit: 300, banner: Some("Sale!"), token: Some(***) } (live)"#;
    assert!(lines.contains(&degraded) && lines.contains(&back), "{shown}");
    assert!(lines.iter().any(|line| line.starts_with("a view without a file: /prod/checkout: unavailable")), "{shown}");
}
