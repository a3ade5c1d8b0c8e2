//! Rules of handles that do not depend on the store. Runs on the embedded store, with its faults
//! and paused time. The methods on every store are in `typed.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::store::{Consistency, Op, Range, Span, Store, Txn};
use etcd_typed::testing::{Call, CountingStore, HookedStore};
use etcd_typed::{Client, EntryMap, Error, ErrorKind, EtcdSchema, Expect, Key, LeaseId, RetryPolicy, UpdateError};
use futures_util::FutureExt;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/app")]
struct App {
    limit: u32,
    #[etcd(alias = "title", alias = "heading")]
    name: Option<String>,
    #[etcd(dir)]
    database: Option<Database>,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Database {
    host: String,
    #[etcd(default = 4)]
    pool: u16,
}

fn app() -> App {
    App {
        limit: 1,
        name: Some("n".into()),
        database: Some(Database { host: "db".into(), pool: 8 }),
        quotas: BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]),
    }
}

struct Bench {
    store: MemoryStore,
    client: Client,
    app: AppDir,
}

impl Bench {
    fn new() -> Self {
        let store = MemoryStore::new();
        let client = Client::with_store(store.clone());
        let app = AppDir::open(&client).unwrap();
        Self { store, client, app }
    }

    async fn filled() -> Self {
        let bench = Self::new();
        bench.app.set(&app()).await.unwrap();
        bench
    }

    async fn write(&self, path: &str, value: &str) {
        self.client.entry::<String>(path).unwrap().set(&value.to_owned()).await.unwrap();
    }

    /// Writes within a closure that cannot wait; the embedded store answers at once.
    fn write_now(&self, path: &str, value: &str) {
        self.write(path, value).now_or_never().expect("the memory store does not wait");
    }

    async fn delete(&self, path: &str) {
        self.client.entry::<String>(path).unwrap().delete().await.unwrap();
    }

    /// The keys below `/app`, with their values.
    async fn stored(&self) -> BTreeMap<String, String> {
        let reply = self.store.range(Range::of(Span::Below(self.app.key().clone()))).await.unwrap();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        reply.kvs.iter().map(|kv| (text(&kv.key)["/app/".len()..].to_owned(), text(&kv.value))).collect()
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn concurrent_updates_lose_nothing() {
    let bench = Bench::filled().await;
    // Without the delay each task would finish before the next one starts.
    bench.store.faults().delay(Calls::Commits, Duration::from_millis(5));
    let tasks: Vec<_> = (0..20_u32)
        .map(|task| {
            let app = bench.app.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    match task % 4 {
                        0 => drop(app.update(|app| app.limit += 1).await.unwrap()),
                        1 => drop(app.update(|app| app.limit += 1).changed_fields_only().await.unwrap()),
                        2 => drop(app.limit.modify(|n| n.map(|n| n + 1)).await.unwrap()),
                        _ => loop {
                            let seen = app.limit.get().await.unwrap();
                            let next = seen.as_deref().unwrap() + 1;
                            match app.limit.compare_and_swap(&seen, &next).await {
                                Ok(_) => break,
                                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
                            }
                        },
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(bench.app.get().await.unwrap().limit, 1 + 20 * 10);
}

#[tokio::test(start_paused = true)]
async fn last_conflict_returns_current_value() {
    let retry = RetryPolicy { conflict_budget: 2, ..RetryPolicy::default() };
    let client = Client::builder("memory:").retry(retry).connect().await.unwrap();
    let limit = client.entry::<u32>("/app/limit").unwrap();
    limit.set(&0).await.unwrap();
    let runs = Mutex::new(0);
    let busy = |n: u32| {
        *runs.lock().unwrap() += 1;
        limit.set(&(n + 100)).into_future().now_or_never().unwrap().unwrap();
        n + 1
    };
    let conflict = limit.modify(|n| n.map(busy)).await.unwrap_err();
    assert_eq!((conflict.kind(), conflict.current::<u32>().map(|now| **now)), (ErrorKind::Conflict, Some(300)));
    assert_eq!(*runs.lock().unwrap(), 3, "one attempt and two more");
    let app = client.dir::<Limited>("/app").unwrap();
    let conflict = app.update(|app| app.limit = busy(app.limit)).await.unwrap_err();
    assert_eq!((conflict.kind(), *runs.lock().unwrap()), (ErrorKind::Conflict, 6));
    assert_eq!(limit.get().await.unwrap().as_deref(), Some(&600), "neither call wrote anything");
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Limited {
    limit: u32,
}

#[tokio::test(start_paused = true)]
async fn changed_fields_only_update_ignores_writes_to_other_keys() {
    for (path, value) in [("/app/quotas/c", "9"), ("/app/limit", "50"), ("/app/unknown", "x")] {
        let bench = Bench::filled().await;
        let runs = Mutex::new(0);
        let update = |app: &mut App| {
            *runs.lock().unwrap() += 1;
            if *runs.lock().unwrap() == 1 {
                bench.write_now(path, value);
            }
            app.limit += 1;
        };
        let after = bench.app.update(update).await.unwrap();
        assert_eq!(*runs.lock().unwrap(), 2, "{path}");
        assert_eq!(*bench.app.get().await.unwrap(), *after);

        let bench = Bench::filled().await;
        *runs.lock().unwrap() = 0;
        let update = |app: &mut App| {
            *runs.lock().unwrap() += 1;
            if *runs.lock().unwrap() == 1 {
                bench.write_now(path, value);
            }
            app.limit += 1;
        };
        bench.app.update(update).changed_fields_only().await.unwrap();
        assert_eq!(*runs.lock().unwrap(), if path == "/app/limit" { 2 } else { 1 }, "{path}");
        let now = bench.app.get().await.unwrap();
        assert_eq!(now.limit, if path == "/app/limit" { 51 } else { 2 });
        assert_eq!(now.quotas.get("c").copied(), (path == "/app/quotas/c").then_some(9), "the other client's write stays");
    }
}

#[tokio::test]
async fn refused_update_writes_nothing() {
    let bench = Bench::filled().await;
    let before = bench.client.status().await.unwrap().revision;
    let refused = bench
        .app
        .try_update(|app| {
            app.limit = 7;
            Err("no")
        })
        .await;
    assert!(matches!(refused, Err(UpdateError::Refused("no"))));
    assert_eq!(bench.client.status().await.unwrap().revision, before);
    bench.app.limit.delete().await.unwrap();
    let unreadable = bench.app.try_update(|_| Ok::<(), &str>(())).await;
    assert!(matches!(unreadable, Err(UpdateError::Store(error)) if error.kind() == ErrorKind::Invalid));
}

#[tokio::test]
async fn swap_of_struct_detects_every_change() {
    for (path, value) in [
        ("/app/limit", Some("5")),
        ("/app/limit", Some("1")),
        ("/app/database/pool", None),
        ("/app/database/host", Some("other")),
        ("/app/quotas/a", None),
        ("/app/quotas/c", Some("3")),
        ("/app/name", None),
        ("/app/title", Some("t")),
        ("/app/unknown", Some("x")),
    ] {
        let bench = Bench::filled().await;
        let seen = bench.app.get().await.unwrap();
        match value {
            Some(value) => bench.write(path, value).await,
            None => bench.delete(path).await,
        }
        let stored = bench.stored().await;
        let now = bench.app.get().await.unwrap();
        for conflict in [
            bench.app.compare_and_swap(&seen, &App { limit: 9, ..app() }).await.map(drop),
            bench.app.compare_and_swap(&seen, &seen).await.map(drop),
            bench.app.compare_and_delete(&seen).await.map(drop),
            bench.client.transaction().expect_unchanged(&bench.app, &seen).set(&bench.app.limit, &9).await.map(drop),
        ] {
            let conflict = conflict.expect_err(path);
            assert_eq!((conflict.kind(), conflict.key()), (ErrorKind::Conflict, Some(bench.app.key())), "{path}");
            assert_eq!(conflict.current::<App>().map(|current| (**current).clone()), Some((*now).clone()), "{path}");
        }
        assert_eq!(bench.stored().await, stored, "nothing was written");
        bench.app.compare_and_swap(&now, &App { limit: 9, ..app() }).await.unwrap();
        assert_eq!(*bench.app.get().await.unwrap(), App { limit: 9, ..app() });
    }
}

#[tokio::test]
async fn swap_writes_only_differences() {
    let bench = Bench::filled().await;
    let seen = bench.app.get().await.unwrap();
    let wanted = App { limit: 2, quotas: BTreeMap::from([("a".to_owned(), 1), ("c".to_owned(), 3)]), ..app() };
    let at = bench.app.compare_and_swap(&seen, &wanted).await.unwrap();
    let reply = bench.store.range(Range::of(Span::Below(bench.app.key().clone()))).await.unwrap();
    let written: Vec<_> = reply.kvs.iter().filter(|kv| kv.modified == at).map(|kv| kv.key.clone()).collect();
    assert_eq!(written, ["/app/limit", "/app/quotas/c"]);
    assert_eq!(*bench.app.get().await.unwrap(), wanted);
}

#[tokio::test]
async fn create_is_refused_only_for_schema_keys() {
    for path in ["/app/limit", "/app/name", "/app/title", "/app/database/pool", "/app/quotas/x"] {
        let bench = Bench::new();
        bench.write(path, "1").await;
        for refused in [bench.app.create(&app()).await, bench.app.create(&app()).non_atomic().await] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::AlreadyExists, "{path}");
        }
        assert_eq!(bench.stored().await.len(), 1);
    }
    for path in ["/app", "/app/unknown", "/app/database/unknown", "/app/quotas/_hidden", "/app/quotas/x/deeper", "/apple/limit"] {
        let bench = Bench::new();
        bench.write(path, "foreign").await;
        bench.app.create(&app()).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(*bench.app.get().await.unwrap(), app());
        assert!(bench.client.entry::<String>(path).unwrap().exists().await.unwrap());
    }
}

#[tokio::test]
async fn set_deletes_keys_that_value_lacks() {
    let bench = Bench::filled().await;
    bench.write("/app/quotas/_hidden", "foreign").await;
    bench.write("/app/quotas/a/deeper", "foreign").await;
    bench.write("/app/database/unknown", "foreign").await;
    let smaller = App { limit: 2, name: None, database: None, quotas: BTreeMap::from([("b".to_owned(), 3)]) };
    bench.app.set(&smaller).await.unwrap();
    // An optional directory is removed with all keys below it.
    let left = [("limit", "2"), ("quotas/b", "3"), ("quotas/_hidden", "foreign"), ("quotas/a/deeper", "foreign")];
    assert_eq!(bench.stored().await, map(&left));
    bench.write("/app/database/unknown", "foreign").await;
    assert_eq!(*bench.app.get().await.unwrap(), smaller, "unknown keys do not make an optional directory exist");
    bench.app.quotas.set(&BTreeMap::new()).await.unwrap();
    assert_eq!(bench.stored().await.len(), 4);
    bench.app.delete().await.unwrap();
    assert_eq!(bench.stored().await, map(&[("quotas/_hidden", "foreign"), ("quotas/a/deeper", "foreign")]));
}

#[tokio::test]
async fn optional_struct_exists_with_required_key() {
    let bench = Bench::new();
    bench.write("/app/limit", "1").await;
    assert_eq!(bench.app.get().await.unwrap().database, None);
    bench.write("/app/database/pool", "2").await;
    assert_eq!(bench.app.get().await.unwrap().database, None);
    let check = bench.app.check().await.unwrap();
    assert_eq!(check.problems.len(), 1);
    assert_eq!(check.problems[0].key.as_str(), "/app/database/pool");
    let error = bench.app.database.get().await.unwrap_err();
    assert_eq!(error.problems().len(), 1);
    assert_eq!(error.problems()[0].key.as_str(), "/app/database/host");
    bench.write("/app/database/host", "h").await;
    bench.delete("/app/database/pool").await;
    assert_eq!(bench.app.get().await.unwrap().database, Some(Database { host: "h".into(), pool: 4 }));
    bench.app.update(|app| app.database = None).await.unwrap();
    assert_eq!(bench.stored().await, map(&[("limit", "1")]));
}

#[tokio::test]
async fn alias_is_read_without_own_key() {
    let bench = Bench::new();
    bench.write("/app/limit", "1").await;
    let name = async || bench.app.get().await.unwrap().name.clone();
    assert_eq!(name().await, None);
    for (path, read) in [("/app/heading", "h"), ("/app/title", "t"), ("/app/name", "n")] {
        bench.write(path, read).await;
        assert_eq!(name().await.as_deref(), Some(read));
        assert_eq!(bench.app.name.get().await.unwrap().as_deref().map(String::as_str), Some(read));
        assert!(bench.app.name.exists().await.unwrap());
    }
    // Writing the field leaves the aliases for older readers; removing it deletes all of them.
    bench.app.set(&App { name: Some("new".into()), ..(*bench.app.get().await.unwrap()).clone() }).await.unwrap();
    assert_eq!(bench.stored().await.len(), 4);
    let seen = bench.app.get().await.unwrap();
    bench.app.compare_and_swap(&seen, &App { name: None, ..(*seen).clone() }).await.unwrap();
    assert_eq!(bench.stored().await, map(&[("limit", "1")]));
    for write in ["update", "set", "swap in steps", "delete in steps"] {
        bench.write("/app/heading", "h").await;
        bench.write("/app/name", "n").await;
        let seen = bench.app.get().await.unwrap();
        let without = App { name: None, ..(*seen).clone() };
        match write {
            "update" => drop(bench.app.update(|app| app.name = None).await.unwrap()),
            "set" => drop(bench.app.set(&without).await.unwrap()),
            "swap in steps" => drop(bench.app.compare_and_swap(&seen, &without).non_atomic().await.unwrap()),
            _ => {
                bench.app.compare_and_delete(&seen).non_atomic().await.unwrap();
                bench.write("/app/limit", "1").await;
            }
        }
        assert_eq!(bench.stored().await, map(&[("limit", "1")]), "{write}");
    }
}

#[tokio::test]
async fn every_field_method_uses_alias_value() {
    let text = |value: &str| value.to_owned();
    let fresh = async || {
        let bench = Bench::new();
        bench.write("/app/title", "t").await;
        bench.write("/app/heading", "h").await;
        bench
    };
    let bench = fresh().await;
    let name = &bench.app.name;
    let current = |error: Error| (error.kind(), error.current::<String>().map(|now| (**now).clone()));
    assert_eq!(current(name.create(&text("x")).await.unwrap_err()), (ErrorKind::AlreadyExists, Some(text("t"))));
    assert_eq!(current(name.compare_and_swap(Expect::Absent, &text("x")).await.unwrap_err()), (ErrorKind::Conflict, Some(text("t"))));
    assert_eq!(
        current(name.compare_and_swap(Expect::value(&text("h")), &text("x")).await.unwrap_err()),
        (ErrorKind::Conflict, Some(text("t")))
    );
    assert_eq!(current(name.compare_and_delete(Expect::value(&text("h"))).await.unwrap_err()), (ErrorKind::Conflict, Some(text("t"))));
    let refused = bench.client.transaction().expect(name, Expect::Absent).set(name, &text("x")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert_eq!(bench.stored().await, map(&[("title", "t"), ("heading", "h")]));

    let seen = name.get().await.unwrap();
    name.compare_and_swap(&seen, &text("x")).await.unwrap();
    assert_eq!(bench.stored().await, map(&[("name", "x"), ("title", "t"), ("heading", "h")]));

    let bench = fresh().await;
    bench.app.name.replace(&text("x")).await.unwrap();
    assert_eq!(bench.app.name.get().await.unwrap().as_deref(), Some(&text("x")));

    let bench = fresh().await;
    assert_eq!(bench.app.name.swap(&text("x")).await.unwrap().as_deref(), Some(&text("t")));

    let bench = fresh().await;
    bench.app.name.modify(|name| name.map(|name| name + "!")).await.unwrap();
    assert_eq!(bench.app.name.get().await.unwrap().as_deref(), Some(&text("t!")));

    let bench = fresh().await;
    assert_eq!(bench.app.name.modify(|_| None).await.unwrap(), None);
    assert_eq!(bench.stored().await, BTreeMap::new());

    let bench = fresh().await;
    assert_eq!(bench.app.name.delete().await.unwrap().as_deref(), Some(&text("t")));
    assert_eq!(bench.stored().await, BTreeMap::new());

    let bench = fresh().await;
    let seen = bench.app.name.get().await.unwrap();
    assert_eq!(bench.app.name.compare_and_delete(&seen).await.unwrap().as_deref(), Some(&text("t")));
    assert_eq!(bench.stored().await, BTreeMap::new());

    let bench = fresh().await;
    bench.client.transaction().delete(&bench.app.name).await.unwrap();
    assert_eq!(bench.stored().await, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn expired_struct_leaves_permanent_keys() {
    let bench = Bench::new();
    bench.app.set(&app()).ttl(Duration::from_secs(60)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(*bench.app.get().await.unwrap(), app());
    bench.app.limit.set(&7).permanent().await.unwrap();
    bench.app.name.set(&"of the struct".to_owned()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.stored().await, map(&[("limit", "7")]));

    let lease = bench.client.lease(Duration::from_secs(30)).await.unwrap();
    bench.app.set(&app()).lease(&lease).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(*bench.app.get().await.unwrap(), app(), "the lease is kept alive");
    assert_eq!(bench.app.limit.get().await.unwrap().unwrap().lease(), Some(lease.id()));
    lease.revoke().await.unwrap();
    assert_eq!(bench.stored().await, BTreeMap::new());
    let lost = bench.app.set(&app()).lease(LeaseId::random()).await.unwrap_err();
    assert_eq!((lost.kind(), lost.may_have_applied()), (ErrorKind::LeaseLost, false));
}

#[tokio::test]
async fn failed_transaction_names_first_conflicting_key() {
    let bench = Bench::filled().await;
    let (limit, name) = (&bench.app.limit, &bench.app.name);
    let b = bench.app.quotas.entry("b").unwrap();
    let before = bench.stored().await;
    let conflict = bench
        .client
        .transaction()
        .expect(limit, Expect::value(&1))
        .expect(&b, Expect::value(&9))
        .expect(name, Expect::Absent)
        .set(limit, &5)
        .delete(&b)
        .await
        .unwrap_err();
    assert_eq!((conflict.kind(), conflict.key()), (ErrorKind::Conflict, Some(b.key())));
    assert_eq!(conflict.current::<u64>().map(|now| **now), Some(2));
    let twice = bench.client.transaction().set(limit, &5).set(limit, &6).await.unwrap_err();
    assert_eq!((twice.kind(), twice.may_have_applied()), (ErrorKind::Invalid, false));
    let mapped = bench.client.transaction().set_dir(&bench.app, &app()).await.unwrap_err();
    assert_eq!(mapped.kind(), ErrorKind::Unsupported);
    assert!(mapped.to_string().contains("update"), "{mapped}");
    assert_eq!(bench.stored().await, before);
    let at = bench.client.transaction().expect(limit, Expect::value(&1)).set(limit, &5).delete(&b).await.unwrap();
    assert_eq!(limit.get().await.unwrap().map(|now| (*now, now.modified())), Some((5, at)));
    assert!(!b.exists().await.unwrap());
}

#[tokio::test]
async fn stream_pages_share_one_revision() {
    let bench = Bench::new();
    let quotas = &bench.app.quotas;
    let before: BTreeMap<String, u64> = (0..100).map(|n| (format!("q{n:03}"), n)).collect();
    quotas.set(&before).await.unwrap();
    let mut pages = quotas.stream_in_pages_of(7);
    let mut read = BTreeMap::new();
    while let Some(item) = pages.next().await {
        let (key, value) = item.unwrap();
        read.insert(key, *value);
        // Keys that the listing has not reached yet are changed, deleted and created.
        let at = read.len();
        quotas.entry(&format!("q{:03}", at + 10)).unwrap().set(&1000).await.unwrap();
        quotas.entry(&format!("q{:03}", at + 11)).unwrap().delete().await.unwrap();
        quotas.entry(&format!("q{:03}x", at + 12)).unwrap().set(&1000).await.unwrap();
    }
    assert_eq!(read, before);
    // If history is compacted between pages, the stream ends with an error.
    let mut pages = quotas.stream_in_pages_of(7);
    pages.next().await.unwrap().unwrap();
    bench.write("/app/limit", "1").await;
    bench.store.faults().compact();
    let mut rest = Vec::new();
    while let Some(item) = pages.next().await {
        rest.push(item.map_err(|error| error.kind()).map(drop));
    }
    assert_eq!(rest.len(), 7);
    assert_eq!(rest.last(), Some(&Err(ErrorKind::HistoryLost)));
}

#[tokio::test(start_paused = true)]
async fn wait_for_ignores_unreadable_states() {
    let bench = Bench::new();
    let (app, limit) = (bench.app.clone(), bench.app.limit.clone());
    let whole = tokio::spawn(async move { app.wait_for(|app| app.limit >= 5).await });
    let one = tokio::spawn(async move { limit.wait_for(|limit| limit.is_some_and(|limit| *limit >= 5)).await });
    for value in ["4", "nine", "6"] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!whole.is_finished() && !one.is_finished(), "before {value}");
        bench.write("/app/limit", value).await;
    }
    assert_eq!(whole.await.unwrap().unwrap().limit, 6);
    assert_eq!(one.await.unwrap().unwrap().as_deref(), Some(&6));
}

#[tokio::test(start_paused = true)]
async fn write_with_lost_reply_is_not_repeated() {
    let bench = Bench::filled().await;
    for applied in [false, true] {
        for write in ["set", "create", "update", "delete", "transaction", "modify"] {
            let bench = if write == "create" { Bench::new() } else { Bench::filled().await };
            let before = bench.client.status().await.unwrap().revision;
            match applied {
                true => bench.store.faults().lose_reply(Calls::Commits, 1),
                false => bench.store.faults().lose_request(Calls::Commits, 1),
            }
            let error = match write {
                "set" => bench.app.limit.set(&9).await.map(drop),
                "create" => bench.app.create(&app()).await.map(drop),
                "update" => bench.app.update(|app| app.limit = 9).await.map(drop),
                "delete" => bench.app.delete().await.map(drop),
                "transaction" => bench.client.transaction().set(&bench.app.limit, &9).await.map(drop),
                _ => bench.app.limit.modify(|_| Some(9)).await.map(drop),
            };
            let error = error.expect_err(write);
            assert!(error.kind() == ErrorKind::Unavailable && error.may_have_applied(), "{write}: {error}");
            let writes = bench.client.status().await.unwrap().revision.get() - before.get();
            assert_eq!(writes, u64::from(applied), "{write}");
        }
    }
    bench.store.faults().fail(Calls::Reads, 1, ErrorKind::Timeout);
    let error = bench.app.update(|app| app.limit = 9).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Timeout && !error.may_have_applied());
}

#[tokio::test]
async fn failed_non_atomic_write_lists_written_keys() {
    let bench = Bench::filled().await;
    let many = App { quotas: (0..300).map(|n| (format!("q{n:03}"), n)).collect(), ..app() };
    // After the read, another client writes a key of the second step.
    let error = bench
        .app
        .update(|app| {
            bench.write_now("/app/quotas/q200", "77");
            *app = many.clone();
        })
        .non_atomic()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let written: Vec<_> = error.written().iter().map(|key| key.as_str().to_owned()).collect();
    assert_eq!(written.len(), 128);
    assert_eq!(written.first().map(String::as_str), Some("/app/quotas/q000"));
    let stored = bench.stored().await;
    assert!(written.iter().all(|key| stored.contains_key(&key["/app/".len()..])));
    assert!(!stored.contains_key("quotas/q201") && stored.contains_key("quotas/a"), "later steps were not taken");
}

#[tokio::test]
async fn stale_reads_never_decide_writes() {
    let reads = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&reads);
    let client = Client::with_store(HookedStore::new(Arc::new(MemoryStore::new()), move |call, store| {
        if let Call::Range(range) = &call {
            noted.lock().unwrap().push(range.consistency);
        }
        call.send(&store)
    }));
    let noted = || std::mem::take(&mut *reads.lock().unwrap());
    let stale = AppDir::open(&client.stale_reads()).unwrap();
    stale.set(&app()).await.unwrap();
    stale.update(|app| app.limit += 1).await.unwrap();
    stale.limit.modify(|n| n.map(|n| n + 1)).await.unwrap();
    stale.name.modify(|_| Some("x".into())).await.unwrap();
    stale.delete().await.unwrap();
    stale.create(&app()).non_atomic().await.unwrap();
    stale.quotas.set(&BTreeMap::new()).await.unwrap();
    let deciding = noted();
    assert!(deciding.len() >= 5 && deciding.iter().all(|read| *read == Consistency::Linearizable), "{deciding:?}");
    stale.get().await.unwrap();
    stale.exists().await.unwrap();
    stale.limit.get().await.unwrap();
    stale.name.get().await.unwrap();
    stale.limit.exists().await.unwrap();
    stale.quotas.get().await.unwrap();
    stale.quotas.stream().next().await;
    let seen = noted();
    assert!(seen.len() >= 7 && seen.iter().all(|read| *read == Consistency::Stale), "{seen:?}");
    AppDir::open(&client).unwrap().get().await.unwrap();
    assert_eq!(noted(), [Consistency::Linearizable]);
}

const ENTRIES: u32 = 60_100;

/// A store with these entries, a counting wrapper, and a map of them.
async fn map_of(names: impl Iterator<Item = String>) -> (MemoryStore, CountingStore, EntryMap<String, u32>) {
    let store = MemoryStore::new();
    let puts: Vec<_> = names.map(|name| Op::put(&Key::parse(&format!("/many/{name}")).unwrap(), "1".into())).collect();
    for then in puts.chunks(100) {
        store.commit(Txn { then: then.to_vec(), ..Txn::default() }).await.unwrap();
    }
    let counting = CountingStore::new(Arc::new(store.clone()));
    (store, counting.clone(), Client::with_store(counting).entries("/many").unwrap())
}

fn number(number: u32) -> String {
    format!("{number:05}")
}

/// A map with more entries than one page of a read. Each read takes 50 ms.
async fn map_of_many_pages() -> (MemoryStore, CountingStore, EntryMap<String, u32>) {
    let map = map_of((0..ENTRIES).map(number)).await;
    map.0.faults().delay(Calls::Reads, Duration::from_millis(50));
    map
}

/// Writes the first and the last entry in one transaction, while a read that just started waits for
/// the pages after the first one.
async fn write_between_pages(store: &MemoryStore) {
    tokio::time::sleep(Duration::from_millis(75)).await;
    let then = [0, ENTRIES - 1].map(|last| Op::put(&Key::parse(&format!("/many/{}", number(last))).unwrap(), "2".into())).into();
    store.commit(Txn { then, ..Txn::default() }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pages_of_map_share_one_revision() {
    let (store, counting, map) = map_of_many_pages().await;
    let begun = tokio::time::Instant::now();
    let (read, ()) = tokio::join!(map.get(), write_between_pages(&store));
    assert!(read.unwrap().into_inner() == (0..ENTRIES).map(|n| (number(n), 1)).collect());
    // One read gets the first page, and four concurrent reads get the others.
    assert_eq!((counting.counts().range, begun.elapsed().as_millis()), (1 + 4, 100));
}

#[tokio::test]
async fn map_with_uneven_names_is_read_completely() {
    let names = || (0..12_000).map(|n| format!("a{n:06}")).chain((0..60_000).map(|n| format!("zone-{n}")));
    let (_, counting, map) = map_of(names()).await;
    let read = map.get().await.unwrap();
    assert!(read.into_inner() == names().map(|name| (name, 1)).collect());
    // The reads: the first page, three bounded parts (two of them empty), and three pages of the
    // last part.
    assert_eq!(counting.counts().range, 1 + 4 + 2);
}

#[tokio::test(start_paused = true)]
async fn map_is_read_again_after_compaction() {
    let (store, counting, map) = map_of_many_pages().await;
    let compact = async {
        write_between_pages(&store).await;
        store.faults().compact();
    };
    let (read, ()) = tokio::join!(map.get(), compact);
    let value = |n| if n == 0 || n == ENTRIES - 1 { 2 } else { 1 };
    assert!(read.unwrap().into_inner() == (0..ENTRIES).map(|n| (number(n), value(n))).collect());
    assert_eq!(counting.counts().range, (1 + 4) + (1 + 4), "the first read's later pages are refused");
}
