//! Writes of a whole struct. `set` does not write keys that already have their value, and `seed`
//! creates only missing keys. A struct may have more keys than one transaction accepts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod enums;
mod large;
mod over;
mod races;
mod seeds;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::store::{Range, Span};
use etcd_typed::testing::{Call, CountingStore, Counts, HookedStore};
use etcd_typed::{Client, Error, ErrorKind, EtcdSchema, ProblemKind, Revision};

/// A time to live that does not end during a test.
const LONG: Duration = Duration::from_secs(3_600);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct App {
    name: String,
    limit: u32,
    note: Option<String>,
    #[etcd(default = 8, alias = "old_pool")]
    pool: u16,
    #[etcd(dir)]
    backup: Option<Db>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Db {
    host: String,
    tls: Option<bool>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Mapped {
    limit: u32,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
    #[etcd(dir)]
    regions: BTreeMap<String, Db>,
}

/// A struct whose part expires with it.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Service {
    address: String,
    #[etcd(dir)]
    database: Db,
}

fn db(host: &str) -> Db {
    Db { host: host.to_owned(), tls: Some(true) }
}

fn app() -> App {
    App { name: "a".to_owned(), limit: 1, note: None, pool: 4, backup: None }
}

fn mapped() -> Mapped {
    Mapped {
        limit: 1,
        quotas: BTreeMap::from([("x".to_owned(), 1), ("_y".to_owned(), 2)]),
        regions: BTreeMap::from([("eu".to_owned(), db("e")), ("us".to_owned(), db("u"))]),
    }
}

struct Bench {
    client: Client,
}

impl Bench {
    /// Returns the revision at which each key below the directory was last written.
    async fn keys(&self, directory: &str) -> BTreeMap<String, Revision> {
        let span = Span::Below(self.client.directory(directory).unwrap().key().clone());
        let kvs = self.client.store().range(Range::of(span.clone())).await.unwrap().kvs;
        let relative = |key: &[u8]| span.key().below(key).expect("a valid path").to_owned();
        kvs.iter().map(|kv| (relative(&kv.key), kv.modified)).collect()
    }

    async fn put(&self, key: &str, value: &str) {
        self.client.entry::<String>(key).unwrap().set(&value.to_owned()).await.unwrap();
    }

    /// Returns the keys that were written since `before`, and the number of keys that were deleted.
    async fn changed(&self, directory: &str, before: &BTreeMap<String, Revision>) -> (Vec<String>, usize) {
        let now = self.keys(directory).await;
        let deleted = before.keys().filter(|key| !now.contains_key(*key)).count();
        (now.into_iter().filter(|(key, at)| before.get(key) != Some(at)).map(|(key, _)| key).collect(), deleted)
    }
}

etcd_typed_tests::on_every_store! { "whole-structs":
    set_writes_only_differences
    set_of_maps_writes_only_differences
    set_without_difference_writes_nothing
    set_replaces_what_watchers_see
    set_overwrites_other_expiry
    absent_struct_is_not_found
}

async fn set_writes_only_differences(bench: Bench) {
    let dir = bench.client.dir::<App>("/app").unwrap();
    let first = App { note: Some("n".to_owned()), backup: Some(db("b")), ..app() };
    dir.set(&first).non_atomic().await.unwrap();
    bench.put("/app/foreign/key", "x").await;
    let before = bench.keys("/app").await;
    assert_eq!(before.len(), 7);
    let next = App { limit: 2, note: None, backup: Some(Db { tls: None, ..db("b") }), ..first };
    match bench.client.store().capabilities().transactions {
        true => dir.set(&next).await.unwrap(),
        false => dir.set(&next).non_atomic().await.unwrap(),
    };
    assert_eq!(bench.changed("/app", &before).await, (vec!["limit".to_owned()], 2));
    assert_eq!(*dir.get().await.unwrap(), next);

    // Removing an optional struct also deletes the keys below it that are not in the schema.
    bench.put("/app/backup/foreign", "x").await;
    let before = bench.keys("/app").await;
    dir.set(&App { backup: None, ..next }).non_atomic().await.unwrap();
    assert_eq!(bench.changed("/app", &before).await, (vec![], 2));
}

async fn set_of_maps_writes_only_differences(bench: Bench) {
    let dir = bench.client.dir::<Mapped>("/app").unwrap();
    dir.set(&mapped()).non_atomic().await.unwrap();
    let before = bench.keys("/app").await;
    let mut next = mapped();
    next.quotas.insert("x".to_owned(), 7);
    next.regions.remove("us");
    match bench.client.store().capabilities().transactions {
        true => dir.set(&next).await.unwrap(),
        false => dir.set(&next).non_atomic().await.unwrap(),
    };
    assert_eq!(bench.changed("/app", &before).await, (vec!["quotas/x".to_owned()], 2));
    assert_eq!(*dir.get().await.unwrap(), next);

    let before = bench.keys("/app").await;
    next.quotas.insert("z".to_owned(), 9);
    dir.quotas.set(&next.quotas).non_atomic().await.unwrap();
    assert_eq!(bench.changed("/app", &before).await, (vec!["quotas/z".to_owned()], 0));
    let before = bench.keys("/app").await;
    dir.regions.set(&BTreeMap::from([("eu".to_owned(), Db { tls: Some(false), ..db("e") })])).non_atomic().await.unwrap();
    assert_eq!(bench.changed("/app", &before).await, (vec!["regions/eu/tls".to_owned()], 0));
}

async fn set_without_difference_writes_nothing(bench: Bench) {
    let (dir, maps) = (bench.client.dir::<App>("/app").unwrap(), bench.client.dir::<Mapped>("/maps").unwrap());
    let first = dir.set(&app()).non_atomic().await.unwrap();
    maps.set(&mapped()).non_atomic().await.unwrap();
    let before = (bench.keys("/app").await, bench.keys("/maps").await);
    let again = dir.set(&app()).permanent().non_atomic().await.unwrap();
    assert!(again >= first, "{again} is before {first}");
    maps.set(&mapped()).non_atomic().await.unwrap();
    if bench.client.store().capabilities().transactions {
        dir.set(&app()).await.unwrap();
        dir.set(&app()).permanent().await.unwrap();
        maps.set(&mapped()).await.unwrap();
    }
    assert_eq!((bench.keys("/app").await, bench.keys("/maps").await), before);
}

async fn set_replaces_what_watchers_see(bench: Bench) {
    let dir = bench.client.dir::<App>("/app").unwrap();
    dir.set(&app()).non_atomic().await.unwrap();
    let mut changes = dir.watch().await.unwrap();
    dir.set(&App { limit: 7, ..app() }).non_atomic().await.unwrap();
    let update = changes.next().await.expect("a change").unwrap();
    assert!(matches!(&update.changes[..], [AppChange::Limit(change)] if change.new == Some(7)), "{update:?}");
}

/// A key that expires at another time than the struct counts as different.
async fn set_overwrites_other_expiry(bench: Bench) {
    let dir = bench.client.dir::<App>("/app").unwrap();
    dir.set(&app()).ttl(LONG).non_atomic().await.unwrap();
    let before = bench.keys("/app").await;
    dir.set(&app()).ttl(LONG).non_atomic().await.unwrap();
    assert_eq!(bench.changed("/app", &before).await.0.len(), 3, "`ttl` writes every key");
    dir.set(&app()).non_atomic().await.unwrap();
    for key in ["name", "limit", "pool"] {
        let value = bench.client.entry::<String>(&format!("/app/{key}")).unwrap().get().await.unwrap().unwrap();
        assert_eq!((value.lease(), value.ttl()), (None, None), "{key}");
    }
    dir.limit.set(&1).ttl(LONG).await.unwrap();
    let before = bench.keys("/app").await;
    dir.set(&app()).non_atomic().await.unwrap();
    assert_eq!(bench.changed("/app", &before).await, (vec!["limit".to_owned()], 0));
}

async fn absent_struct_is_not_found(bench: Bench) {
    let dir = bench.client.dir::<App>("/app").unwrap();
    let absent = dir.get().await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    assert_eq!(absent.key(), Some(dir.key()));
    let missing: Vec<_> = absent.problems().iter().map(|problem| (&problem.key, problem.kind)).collect();
    assert_eq!(missing, [(dir.name.key(), ProblemKind::Missing), (dir.limit.key(), ProblemKind::Missing)]);
    assert_eq!(dir.live().await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(dir.update(|_| ()).changed_fields_only().await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(dir.check().await.unwrap().problems.len(), 2);

    // Keys that are not in the schema do not make the struct exist.
    bench.put("/app/foreign", "x").await;
    assert_eq!(dir.get().await.unwrap_err().kind(), ErrorKind::NotFound);
    // Any key of the schema does, also an alias, a key with a default, and a key in an optional
    // struct. The struct is then incomplete.
    for key in ["old_pool", "pool", "note", "backup/tls"] {
        bench.put(&format!("/app/{key}"), "1").await;
        assert_eq!(dir.get().await.unwrap_err().kind(), ErrorKind::Invalid, "{key}");
        bench.client.entry::<Bytes>(&format!("/app/{key}")).unwrap().delete().await.unwrap();
    }
    assert_eq!(dir.get().await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn struct_without_required_key_is_never_absent_with_memory_store() {
    #[derive(EtcdSchema, Debug)]
    struct Soft {
        #[etcd(default = 8)]
        pool: u16,
    }
    let client = Client::connect("memory:").await.unwrap();
    assert_eq!(client.dir::<Soft>("/soft").unwrap().get().await.unwrap().pool, 8);
}
