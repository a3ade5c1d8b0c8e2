//! Rules of the handles that do not depend on the store. The tests use the memory store, with
//! injected faults and paused time. `typed.rs` tests the methods on every store.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod conflicts;
mod pages;

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

    /// Writes from a closure that cannot wait. The memory store answers at once.
    fn write_now(&self, path: &str, value: &str) {
        self.write(path, value).now_or_never().expect("the memory store does not wait");
    }

    async fn delete(&self, path: &str) {
        self.client.entry::<String>(path).unwrap().delete().await.unwrap();
    }

    /// Returns the keys below `/app`, with their values.
    async fn stored(&self) -> BTreeMap<String, String> {
        let reply = self.store.range(Range::of(Span::Below(self.app.key().clone()))).await.unwrap();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        reply.kvs.iter().map(|kv| (text(&kv.key)["/app/".len()..].to_owned(), text(&kv.value))).collect()
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
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
async fn create_is_refused_only_for_schema_keys() {
    for path in ["/app/limit", "/app/name", "/app/title", "/app/database/pool", "/app/quotas/x"] {
        let bench = Bench::new();
        bench.write(path, "1").await;
        for refused in [bench.app.create(&app()).await, bench.app.create(&app()).non_atomic().await] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::AlreadyExists, "{path}");
        }
        assert_eq!(bench.stored().await.len(), 1);
    }
    for path in ["/app", "/app/unknown", "/app/database/unknown", "/app/quotas/_etcd-typed", "/app/quotas/x/deeper", "/apple/limit"] {
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
    bench.write("/app/quotas/_etcd-typed", "foreign").await;
    bench.write("/app/quotas/a/deeper", "foreign").await;
    bench.write("/app/database/unknown", "foreign").await;
    let smaller = App { limit: 2, name: None, database: None, quotas: BTreeMap::from([("b".to_owned(), 3)]) };
    bench.app.set(&smaller).await.unwrap();
    // An optional directory is removed with all keys below it.
    let left = [("limit", "2"), ("quotas/b", "3"), ("quotas/_etcd-typed", "foreign"), ("quotas/a/deeper", "foreign")];
    assert_eq!(bench.stored().await, map(&left));
    bench.write("/app/database/unknown", "foreign").await;
    assert_eq!(*bench.app.get().await.unwrap(), smaller, "unknown keys do not make an optional directory exist");
    bench.app.quotas.set(&BTreeMap::new()).await.unwrap();
    assert_eq!(bench.stored().await.len(), 4);
    bench.app.delete().await.unwrap();
    assert_eq!(bench.stored().await, map(&[("quotas/_etcd-typed", "foreign"), ("quotas/a/deeper", "foreign")]));
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
    // Writing the field keeps its aliases for older programs. Removing the field deletes its
    // aliases too.
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
    let refused = bench.client.transaction().expect(name, Expect::Absent).write(name.set(&text("x"))).await.unwrap_err();
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

#[tokio::test]
async fn read_before_write_is_never_stale() {
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
