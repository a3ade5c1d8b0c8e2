//! `etcdctl` reads the values that a derived struct writes, and writes values that the struct
//! reads. The tests use v3 and v2 (`ETCDCTL_API=2`, which the etcdctl of etcd 3.4 and 3.5
//! supports).
//!
//! The environment variable `ETCDCTL_BIN` is the path of the tool. If the variable is not set, the
//! tests run `etcdctl` from the `PATH`, and fail if it does not exist.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::process::{Output, Stdio};
use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, ErrorKind, EtcdSchema, EtcdValue};
use etcd_typed_tests::etcdctl;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod v2 {
            $(#[tokio::test] async fn $name() { super::$name(super::Bench::start(super::Api::V2).await).await; })+
        }
        mod v3 {
            $(#[tokio::test] async fn $name() { super::$name(super::Bench::start(super::Api::V3).await).await; })+
        }
    };
}

on_both! {
    struct_reads_values_of_etcdctl, etcdctl_reads_values_of_struct, values_may_end_with_newline, typed_durations_are_read,
    maps_accept_unusual_keys, foreign_map_names_are_reported, mistyped_keys_are_found, bad_values_are_named_and_repaired, keys_deleted_by_etcdctl_are_gone, watch_yields_changes_of_etcdctl,
    etcdctl_watch_shows_changes_of_client, client_compare_and_swap_notices_etcdctl, etcdctl_compare_and_swap_notices_client, ttls_work_in_both_directions,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/checkout")]
struct Checkout {
    #[etcd(default = 100)]
    rate_limit: u32,
    timeout: Duration,
    banner: Option<String>,
    level: Level,
    #[etcd(json)]
    features: Features,
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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Features {
    beta: bool,
    names: Vec<String>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Database {
    host: String,
    pool: u16,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Region {
    replicas: u8,
}

fn checkout() -> Checkout {
    Checkout {
        rate_limit: 250,
        timeout: Duration::from_secs(90),
        banner: Some("50 % off – today!".to_owned()),
        level: Level::Debug,
        features: Features { beta: true, names: vec!["a b".to_owned(), "\"ü\"".to_owned()] },
        database: Database { host: "db.local".to_owned(), pool: 16 },
        regions: BTreeMap::from([("eu".to_owned(), Region { replicas: 3 }), ("us west".to_owned(), Region { replicas: 1 })]),
        quotas: BTreeMap::from([("acme".to_owned(), 1000), ("größe".to_owned(), 7)]),
    }
}

/// The keys and values of [`checkout`], as a person types them.
const TYPED: &[(&str, &str)] = &[
    ("/prod/checkout/banner", "50 % off – today!"),
    ("/prod/checkout/database/host", "db.local"),
    ("/prod/checkout/database/pool", "16"),
    ("/prod/checkout/features", r#"{"beta":true,"names":["a b","\"ü\""]}"#),
    ("/prod/checkout/level", "debug"),
    ("/prod/checkout/quotas/acme", "1000"),
    ("/prod/checkout/quotas/größe", "7"),
    ("/prod/checkout/rate_limit", "250"),
    ("/prod/checkout/regions/eu/replicas", "3"),
    ("/prod/checkout/regions/us west/replicas", "1"),
    ("/prod/checkout/timeout", "1m30s"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    V2,
    V3,
}

/// An empty server, a client of this library, and `etcdctl`.
struct Bench {
    client: Client,
    ctl: Etcdctl,
    _server: Etcd,
}

impl Bench {
    async fn start(api: Api) -> Self {
        let server = Etcd::start().await;
        let url = if api == Api::V2 { server.url_v2() } else { server.url_v3() };
        Self { client: Client::connect(&url).await.unwrap(), ctl: Etcdctl { api, endpoint: server.endpoint() }, _server: server }
    }

    fn checkout(&self) -> CheckoutDir {
        CheckoutDir::open(&self.client, "prod").unwrap()
    }

    async fn type_everything(&self) {
        for (key, value) in TYPED {
            self.ctl.put(key, value).await;
        }
    }
}

/// `etcdctl`, for one of the two APIs.
struct Etcdctl {
    api: Api,
    endpoint: String,
}

impl Etcdctl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::from(etcdctl());
        match self.api {
            Api::V2 => command.env("ETCDCTL_API", "2").arg("--no-sync").arg(format!("--endpoints=http://{}", self.endpoint)),
            Api::V3 => command.arg(format!("--endpoints={}", self.endpoint)),
        };
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap_or_else(|error| {
            panic!(
                "cannot run etcdctl: {error}. This test needs etcd's command-line client: install it (Debian, Ubuntu: `apt-get install \
                 etcd-client`), or name its binary in the environment variable ETCDCTL_BIN"
            )
        })
    }

    async fn try_run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self.spawn(arguments);
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        timeout(LIMIT, child.wait_with_output()).await.expect("etcdctl ends").unwrap()
    }

    async fn run_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.try_run(arguments, input).await;
        assert!(output.status.success(), "etcdctl {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> String {
        self.run_with(arguments, "").await
    }

    async fn put(&self, key: &str, value: &str) {
        let verb = if self.api == Api::V2 { "set" } else { "put" };
        self.run(&[verb, "--", key, value]).await;
    }

    /// Writes a value from standard input, as in `echo 8080 | etcdctl set /port`.
    async fn pipe(&self, key: &str, value: &str) {
        let verb = if self.api == Api::V2 { "set" } else { "put" };
        self.run_with(&[verb, "--", key], value).await;
    }

    /// Returns the output of `etcdctl get` for a key, without the newline at its end, or `None` if
    /// the key does not exist.
    async fn get(&self, key: &str) -> Option<String> {
        let output = match self.api {
            Api::V2 => self.try_run(&["get", "--quorum", key], "").await,
            Api::V3 => self.try_run(&["get", "--print-value-only", key], "").await,
        };
        let printed = String::from_utf8(output.stdout).unwrap();
        let missing = if self.api == Api::V2 { output.status.code() == Some(4) } else { printed.is_empty() };
        assert!(output.status.success() || missing, "{}", String::from_utf8_lossy(&output.stderr));
        (!missing).then(|| printed.strip_suffix('\n').unwrap().to_owned())
    }

    async fn delete(&self, key: &str) {
        let verb = if self.api == Api::V2 { "rm" } else { "del" };
        self.run(&[verb, key]).await;
    }

    async fn delete_below(&self, directory: &str) {
        match self.api {
            Api::V2 => self.run(&["rm", "--recursive", directory]).await,
            Api::V3 => self.run(&["del", "--prefix", &format!("{directory}/")]).await,
        };
    }

    /// Returns all keys below a directory that have a value, in order.
    async fn keys(&self, directory: &str) -> Vec<String> {
        let printed = match self.api {
            Api::V2 => self.run(&["ls", "--recursive", "-p", directory]).await,
            Api::V3 => self.run(&["get", "--prefix", "--keys-only", &format!("{directory}/")]).await,
        };
        // v2 marks directories with a slash at the end. v3 prints an empty line after each key.
        let mut keys: Vec<String> = printed.lines().filter(|line| !line.is_empty() && !line.ends_with('/')).map(str::to_owned).collect();
        keys.sort_unstable();
        keys
    }
}

async fn struct_reads_values_of_etcdctl(bench: Bench) {
    bench.type_everything().await;
    assert_eq!(bench.checkout().get().await.unwrap().into_inner(), checkout());
    // Without the struct's optional keys, and with JSON on several lines.
    bench.ctl.delete("/prod/checkout/banner").await;
    bench.ctl.delete("/prod/checkout/rate_limit").await;
    bench.ctl.put("/prod/checkout/features", "{\n  \"names\": [],\n  \"beta\": false\n}").await;
    let expected = Checkout { banner: None, rate_limit: 100, features: Features { beta: false, names: Vec::new() }, ..checkout() };
    assert_eq!(bench.checkout().get().await.unwrap().into_inner(), expected);
}

async fn etcdctl_reads_values_of_struct(bench: Bench) {
    bench.checkout().set(&checkout()).non_atomic().await.unwrap();
    assert_eq!(bench.ctl.keys("/prod/checkout").await, TYPED.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    for (key, value) in TYPED {
        assert_eq!(bench.ctl.get(key).await.as_deref(), Some(*value), "{key}");
    }
    // A write removes the keys that the struct no longer has, and keeps foreign keys.
    bench.ctl.put("/prod/checkout/notes", "by hand").await;
    let smaller = Checkout { banner: None, quotas: BTreeMap::new(), ..checkout() };
    bench.checkout().set(&smaller).non_atomic().await.unwrap();
    for gone in ["/prod/checkout/banner", "/prod/checkout/quotas/acme", "/prod/checkout/quotas/größe"] {
        assert_eq!(bench.ctl.get(gone).await, None, "{gone}");
    }
    assert_eq!(bench.ctl.get("/prod/checkout/notes").await.as_deref(), Some("by hand"));
}

/// `echo 16 | etcdctl put …` writes values that end with a newline.
async fn values_may_end_with_newline(bench: Bench) {
    for (key, value) in TYPED {
        bench.ctl.pipe(key, &format!("{value}\n")).await;
    }
    let now = bench.checkout().get().await.unwrap().into_inner();
    // In a text, the newline is part of the value. All other types ignore the newline.
    let expected = Checkout {
        banner: Some("50 % off – today!\n".to_owned()),
        database: Database { host: "db.local\n".to_owned(), pool: 16 },
        ..checkout()
    };
    assert_eq!(now, expected);
    // The client writes the values back without the newline, except for texts.
    bench.checkout().set(&now).non_atomic().await.unwrap();
    assert_eq!(bench.ctl.get("/prod/checkout/database/pool").await.as_deref(), Some("16"));
    assert_eq!(bench.ctl.get("/prod/checkout/database/host").await.as_deref(), Some("db.local\n"));
}

async fn typed_durations_are_read(bench: Bench) {
    bench.type_everything().await;
    let timeout = &bench.checkout().timeout;
    let (second, millisecond) = (Duration::from_secs(1), Duration::from_millis(1));
    let typed = [
        ("30s", 30 * second, "30s"),
        ("90s", 90 * second, "1m30s"),
        ("1m30s", 90 * second, "1m30s"),
        ("1m 30s", 90 * second, "1m30s"),
        ("2h", 7200 * second, "2h"),
        ("250ms", 250 * millisecond, "250ms"),
        ("1day", 86_400 * second, "24h"),
        ("0s", Duration::ZERO, "0s"),
    ];
    for (text, duration, written) in typed {
        bench.ctl.put("/prod/checkout/timeout", text).await;
        assert_eq!(timeout.get().await.unwrap().unwrap().into_inner(), duration, "{text}");
        timeout.set(&duration).await.unwrap();
        assert_eq!(bench.ctl.get("/prod/checkout/timeout").await.as_deref(), Some(written));
    }
    for wrong in ["30", "soon", "", "-30s"] {
        bench.ctl.put("/prod/checkout/timeout", wrong).await;
        let error = timeout.get().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{wrong:?}");
        assert!(error.to_string().contains("/prod/checkout/timeout"), "{error}");
    }
}

async fn maps_accept_unusual_keys(bench: Bench) {
    // A name that is valid in a path is stored unchanged. Names that would leave their segment are
    // escaped. On v2, names that would be hidden are escaped too.
    let odd = [
        ("two words", "two words"),
        (":keyword", ":keyword"),
        ("größe", "größe"),
        ("日本", "日本"),
        ("q?x#y&z=1+2", "q?x#y&z=1+2"),
        ("a/b", "a%2Fb"),
        ("50%", "50%25"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("_hidden", if bench.ctl.api == Api::V2 { "%5Fhidden" } else { "_hidden" }),
        ("", "%"),
        ("line\nbreak", "line%0Abreak"),
    ];
    let quotas = &bench.checkout().quotas;
    for (at, (name, segment)) in (1..).zip(odd) {
        let key = format!("/prod/checkout/quotas/{segment}");
        quotas.entry(name).unwrap().set(&at).await.unwrap();
        assert_eq!(bench.ctl.get(&key).await, Some(at.to_string()), "{name:?}");
        bench.ctl.put(&key, &(at + 100).to_string()).await;
        assert_eq!(*quotas.entry(name).unwrap().get().await.unwrap().unwrap(), at + 100, "{name:?}");
    }
    let expected: BTreeMap<String, u64> = (101..).zip(odd).map(|(value, (name, _))| (name.to_owned(), value)).collect();
    assert_eq!(quotas.get().await.unwrap().into_inner(), expected);
    assert_eq!(bench.ctl.keys("/prod/checkout/quotas").await.len(), odd.len());
    // The names of directories are stored in the same way.
    let regions = &bench.checkout().regions;
    for (name, segment) in odd {
        bench.ctl.put(&format!("/prod/checkout/regions/{segment}/replicas"), "3").await;
        assert_eq!(*regions.dir(name).unwrap().replicas.get().await.unwrap().unwrap(), 3, "{name:?}");
    }
    let mut names: Vec<String> = odd.map(|(name, _)| name.to_owned()).to_vec();
    names.sort_unstable();
    assert_eq!(regions.keys().await.unwrap(), names);
}

async fn foreign_map_names_are_reported(bench: Bench) {
    let quotas = &bench.checkout().quotas;
    bench.ctl.put("/prod/checkout/quotas/acme", "1000").await;
    // Reserved names and deeper keys are not entries. On v2, every name that begins with `_` is
    // reserved, because v2 hides such keys.
    let reserved = if bench.ctl.api == Api::V2 { "/prod/checkout/quotas/_note" } else { "/prod/checkout/quotas/_etcd-typed" };
    bench.ctl.put(reserved, "not a number").await;
    bench.ctl.put("/prod/checkout/quotas/deeper/acme", "not a number").await;
    assert_eq!(quotas.get().await.unwrap().into_inner(), BTreeMap::from([("acme".to_owned(), 1000)]));
    // No map key is stored under this name, so the name cannot be an entry. A read reports the name
    // as a problem.
    bench.ctl.put("/prod/checkout/quotas/50%", "1").await;
    let error = quotas.get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let problems: Vec<String> = error.problems().iter().map(|problem| problem.key.to_string()).collect();
    assert_eq!(problems, ["/prod/checkout/quotas/50%"]);
    bench.ctl.delete("/prod/checkout/quotas/50%").await;
    // A write of the whole map does not change foreign keys either.
    quotas.set(&BTreeMap::from([("new".to_owned(), 5)])).non_atomic().await.unwrap();
    assert_eq!(bench.ctl.get("/prod/checkout/quotas/acme").await, None);
    for foreign in [reserved, "/prod/checkout/quotas/deeper/acme"] {
        assert_eq!(bench.ctl.get(foreign).await.as_deref(), Some("not a number"), "{foreign}");
    }
}

async fn mistyped_keys_are_found(bench: Bench) {
    bench.type_everything().await;
    let dir = bench.checkout();
    assert!(dir.check().await.unwrap().is_empty());
    bench.ctl.put("/prod/checkout/rate-limit", "250").await;
    bench.ctl.put("/prod/checkout/regions/eu/replica", "3").await;
    let mut expected =
        vec!["/prod/checkout/rate-limit: not a key of the schema", "/prod/checkout/regions/eu/replica: not a key of the schema"];
    if bench.ctl.api == Api::V3 {
        // v2 reads this path as `/prod/checkout/rate_limit`.
        bench.ctl.put("/prod/checkout//rate_limit", "250").await;
        expected.push("/prod/checkout: a key below it is not a valid path: \"/prod/checkout//rate_limit\"");
    }
    let check = dir.check().await.unwrap();
    let problems: Vec<_> = check.problems.iter().map(|problem| format!("{}: {}", problem.key, problem.reason)).collect();
    assert_eq!(problems, expected);
}

async fn bad_values_are_named_and_repaired(bench: Bench) {
    bench.type_everything().await;
    bench.ctl.put("/prod/checkout/rate_limit", "many").await;
    bench.ctl.put("/prod/checkout/features", "{\"beta\": tru").await;
    bench.ctl.put("/prod/checkout/regions/eu/replicas", "-1").await;
    bench.ctl.delete("/prod/checkout/level").await;
    let error = bench.checkout().get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let mut wrong: Vec<String> = error.problems().iter().map(|problem| problem.key.to_string()).collect();
    wrong.sort_unstable();
    let expected = ["features", "level", "rate_limit", "regions/eu/replicas"].map(|key| format!("/prod/checkout/{key}"));
    assert_eq!(wrong, expected);
    for (key, value) in TYPED.iter().filter(|(key, _)| expected.iter().any(|wrong| wrong == key)) {
        bench.ctl.put(key, value).await;
    }
    assert_eq!(bench.checkout().get().await.unwrap().into_inner(), checkout());
}

async fn keys_deleted_by_etcdctl_are_gone(bench: Bench) {
    bench.type_everything().await;
    let dir = bench.checkout();
    bench.ctl.delete("/prod/checkout/banner").await;
    assert_eq!(dir.banner.get().await.unwrap(), None);
    bench.ctl.delete_below("/prod/checkout/regions/eu").await;
    assert_eq!(dir.regions.keys().await.unwrap(), ["us west"]);
    bench.ctl.delete_below("/prod/checkout").await;
    assert!(!dir.exists().await.unwrap());
    // The other way round, `etcdctl` does not find keys that the client deleted.
    bench.type_everything().await;
    assert_eq!(dir.delete().non_atomic().await.unwrap().into_value().unwrap().into_inner(), checkout());
    for (key, _) in TYPED {
        assert_eq!(bench.ctl.get(key).await, None, "{key}");
    }
}

async fn watch_yields_changes_of_etcdctl(bench: Bench) {
    bench.type_everything().await;
    let dir = bench.checkout();
    let mut changes = dir.watch().await.unwrap();
    bench.ctl.put("/prod/checkout/rate_limit", "300").await;
    bench.ctl.put("/prod/checkout/notes", "of no field").await;
    bench.ctl.pipe("/prod/checkout/regions/asia/replicas", "2\n").await;
    bench.ctl.put("/prod/checkout/quotas/acme", "lots").await;
    bench.ctl.delete("/prod/checkout/banner").await;
    let mut next = async || timeout(LIMIT, changes.next()).await.expect("a change in time").expect("the stream has not ended");

    let update = next().await.unwrap();
    assert!(matches!(&update.changes[..], [CheckoutChange::RateLimit(c)] if (c.old, c.new) == (Some(250), Some(300))), "{update:?}");
    let update = next().await.unwrap();
    let [CheckoutChange::Regions(region)] = &update.changes[..] else { panic!("{update:?}") };
    assert!(region.key == "asia" && matches!(&region.change, RegionChange::Replicas(c) if c.is_created() && c.new == Some(2)));
    // A bad value yields an error with the value's key, and the stream continues.
    let bad = next().await.unwrap_err();
    assert_eq!((bad.kind(), bad.key().unwrap().as_str()), (ErrorKind::Decode, "/prod/checkout/quotas/acme"));
    let update = next().await.unwrap();
    assert!(matches!(&update.changes[..], [CheckoutChange::Banner(c)] if c.is_deleted() && c.old.is_some()), "{update:?}");
}

async fn etcdctl_watch_shows_changes_of_client(bench: Bench) {
    let dir = bench.checkout();
    let first = dir.rate_limit.set(&250).await.unwrap();
    // The watch starts at a past index, so the tool may start late.
    let mut watching = match bench.ctl.api {
        Api::V2 => bench.ctl.spawn(&["watch", "--recursive", "--forever", "--after-index", &first.to_string(), "/prod/checkout"]),
        Api::V3 => bench.ctl.spawn(&["watch", "--prefix", "--rev", &first.next().to_string(), "/prod/checkout/"]),
    };
    dir.timeout.set(&Duration::from_secs(30)).await.unwrap();
    dir.regions.dir("us west").unwrap().replicas.set(&3).await.unwrap();
    dir.rate_limit.compare_and_swap(etcd_typed::Expect::value(&250), &300).await.unwrap();

    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for (key, value) in [("timeout", "30s"), ("regions/us west/replicas", "3"), ("rate_limit", "300")] {
        for part in [key, value] {
            // The output differs between the APIs, but both print the key before the value.
            loop {
                let line = timeout(LIMIT, lines.next_line()).await.expect("a line in time").unwrap().expect("etcdctl has not ended");
                if line.ends_with(part) {
                    break;
                }
            }
        }
    }
    watching.kill().await.unwrap();
}

async fn client_compare_and_swap_notices_etcdctl(bench: Bench) {
    let limit = &bench.checkout().rate_limit;
    limit.set(&250).await.unwrap();
    let seen = limit.get().await.unwrap();
    // A write of the same value creates a new revision.
    bench.ctl.put("/prod/checkout/rate_limit", "250").await;
    let conflict = limit.compare_and_swap(&seen, &300).await.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
    let current = conflict.current::<u32>().unwrap();
    assert!(**current == 250 && current.modified() > seen.unwrap().modified());
    limit.compare_and_swap(current, &300).await.unwrap();
    assert_eq!(bench.ctl.get("/prod/checkout/rate_limit").await.as_deref(), Some("300"));
    bench.ctl.delete("/prod/checkout/rate_limit").await;
    limit.create(&1).await.unwrap();
    // Two stored texts compare equal if they decode to the same value.
    bench.ctl.pipe("/prod/checkout/rate_limit", "2\n").await;
    assert_eq!(limit.compare_and_swap(etcd_typed::Expect::value(&1), &3).await.unwrap_err().kind(), ErrorKind::Conflict);
    limit.compare_and_swap(etcd_typed::Expect::value(&2), &3).await.unwrap();
    assert_eq!(*limit.get().await.unwrap().unwrap(), 3);
}

async fn etcdctl_compare_and_swap_notices_client(bench: Bench) {
    let key = "/prod/checkout/rate_limit";
    let limit = &bench.checkout().rate_limit;
    let first = limit.set(&250).await.unwrap();
    let second = limit.set(&250).await.unwrap();
    for (revision, succeeds) in [(first, false), (second, true)] {
        let swapped = match bench.ctl.api {
            Api::V2 => bench.ctl.try_run(&["set", "--swap-with-index", &revision.to_string(), key, "300"], "").await.status.success(),
            Api::V3 => {
                let transaction = format!("mod(\"{key}\") = \"{revision}\"\n\nput {key} 300\n\n\n");
                bench.ctl.run_with(&["txn"], &transaction).await.starts_with("SUCCESS")
            }
        };
        assert_eq!(swapped, succeeds);
        assert_eq!(*limit.get().await.unwrap().unwrap(), if succeeds { 300 } else { 250 });
    }
}

async fn ttls_work_in_both_directions(bench: Bench) {
    let key = "/prod/checkout/rate_limit";
    let limit = &bench.checkout().rate_limit;
    let minute = Duration::from_secs(60);
    if bench.ctl.api == Api::V2 {
        bench.ctl.run(&["set", "--ttl", "60", key, "250"]).await;
        let left = limit.get().await.unwrap().unwrap().ttl().expect("the value expires");
        assert!(left > Duration::ZERO && left <= minute, "{left:?}");
        limit.set(&250).ttl(minute).await.unwrap();
        let printed = bench.ctl.run(&["-o", "extended", "get", key]).await;
        let left: u64 = printed.lines().find_map(|line| line.strip_prefix("TTL: ")).unwrap().parse().unwrap();
        assert!((1..=60).contains(&left), "{printed}");
        return;
    }
    let granted = bench.ctl.run(&["lease", "grant", "60"]).await;
    // The tool pads a short id with zeros, and also accepts it without them.
    let lease = granted.split_whitespace().nth(1).unwrap().trim_start_matches('0');
    bench.ctl.run(&["put", &format!("--lease={lease}"), key, "250"]).await;
    assert_eq!(limit.get().await.unwrap().unwrap().lease().map(|lease| lease.to_string()).as_deref(), Some(lease));
    // The tool shows a lease that the client granted.
    let ours = bench.client.lease(minute).await.unwrap();
    limit.set(&300).lease(&ours).await.unwrap();
    let printed = bench.ctl.run(&["lease", "timetolive", "--keys", &ours.id().to_string()]).await;
    assert!(printed.contains("granted with TTL(60s)") && printed.contains(key), "{printed}");
    bench.ctl.run(&["lease", "revoke", &ours.id().to_string()]).await;
    assert_eq!(limit.get().await.unwrap(), None);
}

/// Tests the commands that only the v2 tool has: they make and remove directories, and create keys.
#[tokio::test]
async fn v2_directories_are_shared_with_etcdctl() {
    let bench = Bench::start(Api::V2).await;
    let directory = bench.client.directory("/prod/checkout").unwrap();
    bench.ctl.run(&["mkdir", "/prod/checkout"]).await;
    assert!(directory.exists().await.unwrap() && directory.list().await.unwrap().is_empty());
    assert_eq!(directory.create().await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    // The struct does not exist yet, although its directory does.
    assert!(!bench.checkout().exists().await.unwrap());

    directory.directory("quotas").create().await.unwrap();
    bench.ctl.run(&["mk", "/prod/checkout/rate_limit", "250"]).await;
    assert_eq!(bench.ctl.run(&["ls", "--sort", "-p", "/prod/checkout"]).await, "/prod/checkout/quotas/\n/prod/checkout/rate_limit\n");
    let listed = directory.list().await.unwrap();
    assert_eq!(
        listed.iter().map(|node| (node.path.as_str(), node.is_directory())).collect::<Vec<_>>(),
        [("quotas", true), ("rate_limit", false)]
    );
    assert!(bench.checkout().quotas.get().await.unwrap().is_empty());

    // A `create` of either program fails if the other program has created the key.
    let limit = &bench.checkout().rate_limit;
    let exists = limit.create(&1).await.unwrap_err();
    assert_eq!((exists.kind(), exists.current::<u32>().map(|now| **now)), (ErrorKind::AlreadyExists, Some(250)));
    bench.checkout().level.create(&Level::Info).await.unwrap();
    assert!(!bench.ctl.try_run(&["mk", "/prod/checkout/level", "debug"], "").await.status.success());
    assert_eq!(bench.ctl.get("/prod/checkout/level").await.as_deref(), Some("info"));

    // Now a value exists at a path where the struct has a directory.
    bench.ctl.run(&["rmdir", "/prod/checkout/quotas"]).await;
    assert!(!directory.directory("quotas").exists().await.unwrap());
    bench.ctl.put("/prod/checkout/quotas", "a value").await;
    let error = bench.checkout().quotas.entry("acme").unwrap().set(&1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotADirectory, "{error}");
    assert_eq!(bench.checkout().quotas.get().await.unwrap_err().kind(), ErrorKind::NotADirectory);
}
