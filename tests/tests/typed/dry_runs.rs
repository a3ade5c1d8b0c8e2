//! `diff` and `check` on every store: the contents of their reports. A write must change exactly
//! the keys that its diff listed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, ErrorKind, EtcdSchema, ProblemKind, Shown};
use etcd_typed_tests::server;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::{Builder, Runtime};

/// A struct with every kind of field, some of them secret.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(validate = in_order)]
struct App {
    #[etcd(alias = "minimum", validate = even)]
    low: u8,
    #[etcd(default = 8)]
    high: u8,
    #[etcd(alias = "title")]
    banner: Option<String>,
    raw: Option<Bytes>,
    #[etcd(flatten)]
    login: Login,
    #[etcd(dir)]
    database: Option<Database>,
    #[etcd(dir)]
    regions: BTreeMap<String, Database>,
    #[etcd(entries, validate = even)]
    quotas: BTreeMap<String, u8>,
    #[etcd(entries, secret, allow_debug)]
    tokens: BTreeMap<String, String>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Login {
    user: String,
    #[etcd(secret, allow_debug, alias = "old_password")]
    password: Option<String>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Database {
    host: String,
    #[etcd(secret, allow_debug, default = 4)]
    pin: u8,
}

fn even(value: &u8) -> Result<(), String> {
    if value.is_multiple_of(2) { Ok(()) } else { Err(format!("{value} is odd")) }
}

fn in_order(app: &App) -> Result<(), &'static str> {
    if app.low <= app.high { Ok(()) } else { Err("`low` is above `high`") }
}

/// Returns a struct with a value for every field. The bytes are not UTF-8 if the store can keep
/// such values.
fn app_on(client: &Client) -> App {
    App {
        low: 2,
        high: 4,
        banner: None,
        raw: Some(bytes_on(client)),
        login: Login { user: "me".to_owned(), password: Some("hunter1".to_owned()) },
        database: Some(Database { host: "db".to_owned(), pin: 1 }),
        regions: BTreeMap::from([("eu".to_owned(), Database { host: "eu".to_owned(), pin: 2 })]),
        quotas: BTreeMap::from([("acme".to_owned(), 2), ("a/b".to_owned(), 4)]),
        tokens: BTreeMap::from([("x".to_owned(), "hunter3".to_owned())]),
    }
}

fn bytes_on(client: &Client) -> Bytes {
    if client.store().capabilities().binary_values { Bytes::from_static(b"\xff\x00") } else { Bytes::from_static(b"text") }
}

/// The client of one test.
struct Bench {
    client: Client,
}

impl Bench {
    fn value(&self) -> App {
        app_on(&self.client)
    }

    fn app(&self) -> AppDir {
        self.client.dir::<App>("/app").unwrap()
    }

    async fn filled(&self) -> AppDir {
        let dir = self.app();
        dir.set(&self.value()).non_atomic().await.unwrap();
        dir
    }

    async fn put(&self, path: &str, value: &str) {
        self.client.entry::<String>(path).unwrap().set(&value.to_owned()).await.unwrap();
    }

    /// Returns the whole key of a path, with the client's namespace.
    fn full(&self, path: &str) -> String {
        self.client.directory(path).unwrap().key().to_string()
    }
}

etcd_typed_tests::on_every_store! { "dry":
    diff_lists_what_set_would_change
    diff_of_map_lists_entries
    diff_of_invalid_value_is_refused
    check_of_valid_struct_is_empty
    check_lists_all_problems
    check_of_map_lists_entries
}

async fn diff_lists_what_set_would_change(bench: Bench) {
    let dir = bench.app();
    let everything = dir.diff(&bench.value()).await.unwrap();
    assert_eq!(everything.differences.len(), 12);
    assert!(everything.differences.iter().all(|difference| difference.is_created() && !difference.is_modified()));

    let dir = bench.filled().await;
    let same = dir.diff(&bench.value()).await.unwrap();
    assert!(same.is_empty() && same.to_string().is_empty(), "{same}");

    bench.put("/app/foreign", "stays").await;
    let seen = dir.get().await.unwrap();
    let mut value = bench.value();
    value.high = 6;
    value.banner = Some(" Sale!\n".to_owned());
    value.raw = None;
    value.login.password = Some("hunter2".to_owned());
    value.database = None;
    value.regions.get_mut("eu").unwrap().pin = 9;
    value.quotas.remove("a/b");
    value.tokens = BTreeMap::from([("y".to_owned(), "hunter4".to_owned())]);
    let diff = dir.diff(&value).await.unwrap();
    let binary = bench.client.store().capabilities().binary_values;
    let expected = [
        "+ banner: \" Sale!\\n\"",
        "- database/host: db",
        "- database/pin: ***",
        "~ high: 4 -> 6",
        "~ password: *** -> ***",
        "- quotas/a%2Fb: 4",
        if binary { "- raw: b\"\\xff\\x00\"" } else { "- raw: text" },
        "~ regions/eu/pin: *** -> ***",
        "- tokens/x: ***",
        "+ tokens/y: ***",
    ];
    let lines: Vec<_> = diff.to_string().lines().map(|line| line.replace(&format!("{}/", bench.full("/app")), "")).collect();
    assert_eq!(lines, expected);
    assert!(diff.revision >= seen.revision());
    assert_eq!(*dir.get().await.unwrap(), bench.value());
    let raw = diff.differences.iter().find(|difference| difference.key == *dir.raw.key()).unwrap();
    assert_eq!(raw.old, Some(if binary { Shown::Bytes(bytes_on(&bench.client)) } else { Shown::Text("text".to_owned()) }));
    assert!(raw.is_deleted());
    let high = diff.differences.iter().find(|difference| difference.key == *dir.high.key()).unwrap();
    assert_eq!((&high.old, &high.new), (&Some(Shown::Text("4".to_owned())), &Some(Shown::Text("6".to_owned()))));
    assert!(high.is_modified());
    assert!(!format!("{diff:?}").contains("hunter"), "{diff:?}");

    // While the field's own key exists, its aliases are not read, so `set` leaves them. If the
    // field is `None` in the new struct, `set` deletes the aliases too. If the aliases stayed, the
    // next read would take the field's value from one of them.
    bench.put("/app/title", "old").await;
    assert_eq!(dir.diff(&bench.value()).await.unwrap().to_string(), format!("- {}: old\n", bench.full("/app/title")));
    value.banner = Some("new".to_owned());
    let diff = dir.diff(&value).await.unwrap();
    assert!(
        diff.to_string().starts_with(&format!("+ {}: new\n", bench.full("/app/banner"))) && !diff.to_string().contains("title"),
        "{diff}"
    );
}

async fn diff_of_map_lists_entries(bench: Bench) {
    let dir = bench.filled().await;
    bench.put("/app/quotas/deeper/x", "stays").await;
    let diff = dir.quotas.diff(&BTreeMap::from([("acme".to_owned(), 6), ("new".to_owned(), 2)])).await.unwrap();
    let quotas = bench.full("/app/quotas");
    assert_eq!(diff.to_string(), format!("- {quotas}/a%2Fb: 4\n~ {quotas}/acme: 2 -> 6\n+ {quotas}/new: 2\n"));

    let diff = dir.tokens.diff(&BTreeMap::from([("x".to_owned(), "hunter9".to_owned())])).await.unwrap();
    assert_eq!(diff.to_string(), format!("~ {}: *** -> ***\n", bench.full("/app/tokens/x")));
    assert_eq!(diff.differences[0].old, Some(Shown::Secret));

    let us = Database { host: "us".to_owned(), pin: 2 };
    let diff = dir.regions.diff(&BTreeMap::from([("us".to_owned(), us)])).await.unwrap();
    let regions = bench.full("/app/regions");
    let expected = format!("- {regions}/eu/host: eu\n- {regions}/eu/pin: ***\n+ {regions}/us/host: us\n+ {regions}/us/pin: ***\n");
    assert_eq!(diff.to_string(), expected);
}

async fn diff_of_invalid_value_is_refused(bench: Bench) {
    let dir = bench.app();
    let bad = App { low: 5, ..bench.value() };
    let (refused, written) = (dir.diff(&bad).await.unwrap_err(), dir.set(&bad).await.unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert_eq!(refused.problems(), written.problems());
    assert_eq!(refused.problems().len(), 2);
    let error = dir.quotas.diff(&BTreeMap::from([("x".to_owned(), 3)])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

async fn check_of_valid_struct_is_empty(bench: Bench) {
    let dir = bench.filled().await;
    // An alias beside the field's own key is not read. The reserved name is not reported.
    bench.put("/app/minimum", "odd").await;
    bench.put("/app/_etcd-typed/x", "1").await;
    let seen = dir.get().await.unwrap();
    let check = dir.check().await.unwrap();
    assert!(check.is_empty(), "{check}");
    assert!(check.revision >= seen.revision() && check.to_string().is_empty());
    assert!(dir.quotas.check().await.unwrap().is_empty());
    assert!(dir.regions.check().await.unwrap().is_empty());
    assert!(dir.tokens.check().await.unwrap().is_empty());
    assert!(dir.database.check().await.unwrap().is_empty());
    assert!(dir.login.check().await.unwrap().problems.iter().all(|problem| problem.kind == ProblemKind::Unknown));
}

async fn check_lists_all_problems(bench: Bench) {
    let dir = bench.filled().await;
    dir.low.delete().await.unwrap();
    dir.login.user.delete().await.unwrap();
    for (path, value) in [
        ("minimum", "5"),
        ("old_password", "unread"),
        ("hihg", "1"),
        ("database/pin", "hunter2"),
        ("database/hots", "db"),
        ("regions/eu/pni", "1"),
        ("regions/us/pin", "1"),
        ("regions/none/deeper/x", "1"),
        ("quotas/x", "3"),
        ("quotas/50%", "2"),
        ("quotas/deeper/x", "2"),
        ("tokens/x", "hunter5"),
    ] {
        bench.put(&format!("/app/{path}"), value).await;
    }
    let check = dir.check().await.unwrap();
    let expected = [
        "Rejected minimum: 5 is odd",
        "Missing user: missing (text)",
        "Undecodable database/pin: *** (a secret: the reason is not shown)",
        "ForeignKey quotas/50%: the key's name is not escaped as this library does it: write `50%25`",
        "Rejected quotas/x: 3 is odd",
        "Unknown database/hots: not a key of the schema",
        "Unknown hihg: not a key of the schema",
        "Unknown quotas/deeper/x: not a key of the schema",
        "Unknown regions/eu/pni: not a key of the schema",
        "Unknown regions/none/deeper/x: not a key of the schema",
        "Unknown regions/us/pin: left over and not read: the entry `regions/us` lacks its required key `host`; delete the entry, or write the missing key",
    ];
    let directory = dir.key().clone();
    let mut problems = Vec::new();
    for problem in &check.problems {
        let relative = directory.below(problem.key.as_str().as_bytes()).unwrap();
        let entry = bench.client.entry::<Bytes>(&format!("/app/{relative}")).unwrap();
        let written = entry.get().await.unwrap().map(|stored| stored.modified());
        assert_eq!(problem.revision, written, "{problem}");
        problems.push(format!("{:?} {relative}: {}", problem.kind, problem.reason));
    }
    assert_eq!(problems, expected);
    assert_eq!(check.to_string().lines().count(), expected.len());

    // When no field has a problem, the struct's own validation runs.
    for path in ["hihg", "database/hots", "regions/eu/pni", "regions/us/pin", "regions/none/deeper/x", "quotas/50%", "quotas/deeper/x"] {
        bench.client.entry::<String>(&format!("/app/{path}")).unwrap().delete().await.unwrap();
    }
    dir.set(&bench.value()).non_atomic().await.unwrap();
    let newest = {
        bench.put("/app/high", "1").await;
        dir.high.get().await.unwrap().unwrap().modified()
    };
    let check = dir.check().await.unwrap();
    assert_eq!(check.problems.len(), 1, "{check}");
    assert_eq!((check.problems[0].kind, &check.problems[0].key), (ProblemKind::Rejected, dir.key()));
    // The struct contains secrets, which its validation error could show.
    assert_eq!(check.problems[0].reason, "*** (the struct has a secret in it: the reason is not shown)");
    assert_eq!(check.problems[0].revision, Some(newest));
    assert!(dir.get().await.is_ok(), "reading does not validate");
}

async fn check_of_map_lists_entries(bench: Bench) {
    let dir = bench.filled().await;
    bench.put("/app/quotas/x", "3").await;
    bench.put("/app/quotas/y", "many").await;
    bench.put("/app/quotas/deeper/x", "2").await;
    let kinds = |check: etcd_typed::Check| check.problems.into_iter().map(|problem| problem.kind).collect::<Vec<_>>();
    assert_eq!(kinds(dir.quotas.check().await.unwrap()), [ProblemKind::Rejected, ProblemKind::Undecodable, ProblemKind::Unknown]);
    bench.put("/app/regions/us/pin", "1").await;
    bench.put("/app/regions/us/pni", "1").await;
    assert_eq!(kinds(dir.regions.check().await.unwrap()), [ProblemKind::Unknown, ProblemKind::Unknown]);
    bench.put("/app/regions/us/host", "us").await;
    assert_eq!(kinds(dir.regions.check().await.unwrap()), [ProblemKind::Unknown]);
    // A check of a single entry reports the missing key.
    assert_eq!(kinds(dir.regions.dir("new").unwrap().check().await.unwrap()), [ProblemKind::Missing]);
}

fn value(bytes: Bytes) -> impl Strategy<Value = App> {
    let text = || prop_oneof![Just(String::new()), Just("x".to_owned()), Just("y\nz".to_owned())];
    let database = || (text(), 0_u8..3).prop_map(|(host, pin)| Database { host, pin });
    let key = || proptest::sample::select(&["a", "b/c", "_d", "", ".."][..]).prop_map(str::to_owned);
    let login = (text(), proptest::option::of(text())).prop_map(|(user, password)| Login { user, password });
    (
        (0_u8..3).prop_map(|n| 2 * n),
        4_u8..7,
        proptest::option::of(text()),
        proptest::option::of(Just(bytes)),
        login,
        proptest::option::of(database()),
        proptest::collection::btree_map(key(), database(), 0..3),
        proptest::collection::btree_map(key(), (0_u8..3).prop_map(|n| 2 * n), 0..4),
        proptest::collection::btree_map(key(), text(), 0..3),
    )
        .prop_map(|(low, high, banner, raw, login, database, regions, quotas, tokens)| App {
            low,
            high,
            banner,
            raw,
            login,
            database,
            regions,
            quotas,
            tokens,
        })
}

/// Writes of other clients: aliases, unknown keys, bad values and bad names.
fn others() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let path = proptest::sample::select(
        &[
            "low",
            "minimum",
            "high",
            "banner",
            "title",
            "old_password",
            "foreign",
            "database/host",
            "database/pin",
            "database/x",
            "regions/a/host",
            "regions/a/x",
            "regions/new/pin",
            "regions/%2f/host",
            "quotas/a",
            "quotas/b%2Fc",
            "quotas/50%",
            "quotas/deeper/x",
            "tokens/a",
            "tokens/z",
        ][..],
    );
    proptest::collection::vec((path, proptest::sample::select(&["2", "x", "4\n"][..])), 0..12)
}

/// Returns every key below the directory, with its value.
async fn stored(client: &Client, directory: &str) -> BTreeMap<String, Bytes> {
    let nodes = client.directory(directory).unwrap().list_recursive().await.unwrap();
    nodes.into_iter().filter_map(|node| Some((node.path, node.value?.into_inner()))).collect()
}

/// For random stored keys and a random new value, a set writes and deletes exactly the keys that
/// the diff listed. Afterwards a check reports only unknown keys and foreign names.
fn set_changes_what_diff_listed(runtime: &Runtime, client: &Client, cases: u32) {
    let number = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() });
    let bytes = || bytes_on(client);
    let result = runner.run(&(proptest::option::of(value(bytes())), others(), value(bytes())), |(before, others, value)| {
        number.set(number.get() + 1);
        let directory = format!("/case-{}", number.get());
        runtime.block_on(async {
            let dir = client.dir::<App>(&directory).unwrap();
            if let Some(before) = before {
                dir.set(&before).non_atomic().await.unwrap();
            }
            for (path, value) in others {
                let entry = client.entry::<String>(&format!("{directory}/{path}")).unwrap();
                entry.set(&value.to_owned()).await.unwrap();
            }
            let before = stored(client, &directory).await;
            let diff = dir.diff(&value).await.unwrap();
            prop_assert_eq!(&stored(client, &directory).await, &before, "a diff writes nothing");
            dir.set(&value).non_atomic().await.unwrap();
            let after = stored(client, &directory).await;

            let relative = |key: &etcd_typed::Key| dir.key().below(key.as_str().as_bytes()).unwrap().to_owned();
            let told: BTreeMap<_, _> = diff.differences.iter().map(|d| (relative(&d.key), (d.old.is_some(), d.new.is_some()))).collect();
            let keys = before.keys().chain(after.keys());
            let done: BTreeMap<_, _> = keys
                .filter(|key| before.get(*key) != after.get(*key))
                .map(|key| (key.clone(), (before.contains_key(key), after.contains_key(key))))
                .collect();
            prop_assert_eq!(&told, &done, "keys in the diff and keys that changed");
            for difference in &diff.differences {
                let key = relative(&difference.key);
                for (shown, stored) in [(&difference.old, before.get(&key)), (&difference.new, after.get(&key))] {
                    match (shown, stored) {
                        (None, None) => {}
                        (Some(Shown::Text(text)), Some(stored)) => {
                            prop_assert_eq!(text.as_bytes(), &stored[..]);
                            prop_assert!(!key.ends_with("/x"), "{} may be a secret of another version", key);
                        }
                        (Some(Shown::Bytes(bytes)), Some(stored)) => prop_assert_eq!(bytes, stored),
                        (Some(Shown::Secret), Some(_)) => {
                            prop_assert!(
                                key.contains("password") || key.contains("pin") || key.starts_with("tokens/") || key.ends_with("/x"),
                                "{}",
                                key
                            );
                        }
                        other => return Err(TestCaseError::fail(format!("{key}: {other:?}"))),
                    }
                }
            }
            prop_assert!(dir.diff(&value).await.unwrap().is_empty(), "after the set there is no difference");
            // A set keeps unknown keys. It also keeps names in a map that are not the stored form
            // of a map key, with the keys below them. There must be no other problem.
            let problems = dir.check().await.unwrap().problems;
            let foreign: Vec<_> =
                problems.iter().filter(|problem| problem.kind == ProblemKind::ForeignKey).map(|problem| problem.key.clone()).collect();
            for problem in &problems {
                let is_foreign = foreign.iter().any(|key| *key == problem.key || key.below(problem.key.as_str().as_bytes()).is_some());
                prop_assert!(is_foreign || problem.kind == ProblemKind::Unknown, "{}", problem);
            }
            Ok(())
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn set_applies_changes_that_diff_listed_with_memory_store() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime.block_on(Client::connect("memory:")).unwrap();
    set_changes_what_diff_listed(&runtime, &client, 300);
}

#[test]
fn set_changes_what_diff_listed_on_v3() {
    let (runtime, _etcd, client) = server(Etcd::url_v3);
    set_changes_what_diff_listed(&runtime, &client, 40);
}

#[test]
fn set_changes_what_diff_listed_on_v2() {
    let (runtime, _etcd, client) = server(Etcd::url_v2);
    set_changes_what_diff_listed(&runtime, &client, 20);
}
