//! Keys that are written with one lease or time to live expire together, however they are changed
//! afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod cost;
mod random;

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::store::{KeyValue, Range, Span};
use etcd_typed::testing::{CountingStore, Counts, Etcd};
use etcd_typed::{Client, Entry, ErrorKind, EtcdSchema, Expect, Lease, LeaseId};
use etcd_typed_tests::on_every_store;
use tokio::time::sleep;

const LONG: Duration = Duration::from_secs(60);

/// A struct with every kind of field that can hold a key.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Service {
    address: String,
    load: u32,
    #[etcd(default = 1)]
    weight: u32,
    #[etcd(alias = "remark")]
    note: Option<String>,
    #[etcd(dir)]
    limits: Option<Limits>,
    #[etcd(entries)]
    tags: BTreeMap<String, String>,
    #[etcd(dir)]
    zones: BTreeMap<String, Limits>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Limits {
    #[etcd(default = 10)]
    low: u32,
    high: Option<u32>,
}

/// A struct with services that have a lease each.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Registry {
    name: String,
    #[etcd(dir)]
    services: BTreeMap<String, Service>,
}

fn service() -> Service {
    Service {
        address: "10.0.0.1".into(),
        load: 1,
        weight: 1,
        note: None,
        limits: None,
        tags: BTreeMap::from([("rack".into(), "7".into())]),
        zones: BTreeMap::new(),
    }
}

struct Bench {
    client: Client,
}

impl Bench {
    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }

    fn service(&self) -> ServiceDir {
        self.client.dir::<Service>("/services/a").unwrap()
    }

    async fn leased(&self) -> (ServiceDir, Lease) {
        let (dir, lease) = (self.service(), self.client.lease(LONG).await.unwrap());
        dir.set(&service()).lease(&lease).non_atomic().await.unwrap();
        (dir, lease)
    }

    async fn stored(&self, directory: &str) -> Vec<KeyValue> {
        let key = self.client.dir::<Limits>(directory).unwrap().key().clone();
        self.client.store().range(Range::of(Span::Below(key))).await.unwrap().kvs
    }

    /// Returns how each key below the directory expires.
    async fn ends(&self, directory: &str) -> Vec<End> {
        self.stored(directory).await.iter().map(End::of).collect()
    }

    /// Asserts that all keys of the service are attached to this lease.
    #[track_caller]
    fn all_with<'b>(&'b self, lease: &'b Lease) -> impl Future<Output = ()> + 'b {
        let caller = std::panic::Location::caller();
        async move {
            let ends = self.ends("/services/a").await;
            assert!(!ends.is_empty() && ends.iter().all(|end| *end == End::With(lease.id())), "{ends:?} at {caller}");
        }
    }

    async fn end_of<T: Send + Sync + 'static>(&self, entry: &Entry<T>) -> Option<End> {
        let reply = self.client.store().range(Range::of(Span::Key(entry.key().clone()))).await.unwrap();
        reply.kvs.first().map(End::of)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Never,
    With(LeaseId),
    /// The key has its own time to live (v2).
    Within,
}

impl End {
    fn of(kv: &KeyValue) -> Self {
        match (kv.lease, kv.ttl) {
            (Some(lease), _) => Self::With(lease),
            (None, Some(_)) => Self::Within,
            (None, None) => Self::Never,
        }
    }

    fn expires(self) -> bool {
        self != Self::Never
    }
}

on_every_store! { "expiry":
    update_keeps_lease
    swap_keeps_lease
    named_lease_applies_to_every_key
    field_writes_keep_lease
    writes_of_nested_parts_keep_lease
    transaction_keeps_lease
    map_entries_keep_their_own_leases
    struct_without_lease_stays_permanent
    ttl_of_one_key_does_not_spread
    single_entry_keeps_lease_only_in_modify
    modify_applies_named_lease_to_unchanged_value
    update_applies_named_lease_to_unchanged_struct
    permanent_removes_expiry
    frequent_writes_keep_ttl
    modified_published_value_can_be_withdrawn
}

/// Updates the struct with one transaction, or with `non_atomic` on v2, which has no transactions.
async fn update(bench: &Bench, dir: &ServiceDir, f: impl Fn(&mut Service) + Send + Sync) {
    if bench.transactions() {
        dir.update(&f).await.unwrap();
        dir.update(&f).changed_fields_only().await.unwrap();
    } else {
        dir.update(&f).non_atomic().await.unwrap();
    }
}

async fn update_keeps_lease(bench: Bench) {
    let (dir, lease) = bench.leased().await;
    update(&bench, &dir, |service| service.load = 5).await;
    bench.all_with(&lease).await;
    update(&bench, &dir, |service| {
        service.note = Some("new".into());
        service.limits = Some(Limits { low: 3, high: Some(4) });
        service.tags.insert("row".into(), "3".into());
        service.zones.insert("b".into(), Limits { low: 1, high: None });
    })
    .await;
    assert_eq!(bench.stored("/services/a").await.len(), 9);
    bench.all_with(&lease).await;
    lease.revoke().await.unwrap();
    assert_eq!(bench.stored("/services").await, [], "every key is gone");
}

async fn swap_keeps_lease(bench: Bench) {
    let (dir, lease) = bench.leased().await;
    let swapped = Service { load: 2, note: Some("new".into()), ..service() };
    let swap = async |value: &Service| {
        let seen = dir.get().await.unwrap();
        if bench.transactions() { dir.compare_and_swap(&seen, value).await } else { dir.compare_and_swap(&seen, value).non_atomic().await }
    };
    swap(&swapped).await.unwrap();
    bench.all_with(&lease).await;
    // The value that an update returns serves for a compare-and-swap without another read.
    if bench.transactions() {
        assert_eq!(dir.get().await.unwrap().lease(), Some(lease.id()));
        let updated = dir.update(|service| service.load += 1).await.unwrap();
        assert_eq!(updated.lease(), Some(lease.id()));
        dir.compare_and_swap(&updated, &Service { weight: 9, ..swapped.clone() }).await.unwrap();
        bench.all_with(&lease).await;
    }
    // A key that has another lease than the rest keeps it. New keys get the lease of the rest.
    let other = bench.client.lease(LONG).await.unwrap();
    dir.weight.set(&2).lease(&other).await.unwrap();
    swap(&Service { weight: 3, load: 7, limits: Some(Limits { low: 1, high: None }), ..swapped }).await.unwrap();
    assert_eq!(bench.end_of(&dir.weight).await, Some(End::With(other.id())));
    assert_eq!(bench.end_of(&dir.load).await, Some(End::With(lease.id())));
    assert_eq!(bench.end_of(&dir.limits.low).await, Some(End::With(lease.id())));
}

async fn named_lease_applies_to_every_key(bench: Bench) {
    let (dir, _first) = bench.leased().await;
    let (second, third) = (bench.client.lease(LONG).await.unwrap(), bench.client.lease(LONG).await.unwrap());
    let seen = dir.get().await.unwrap();
    dir.compare_and_swap(&seen, &Service { load: 2, ..service() }).lease(&second).non_atomic().await.unwrap();
    bench.all_with(&second).await;
    dir.update(|service| service.load = 3).lease(&third).non_atomic().await.unwrap();
    bench.all_with(&third).await;
    dir.update(|service| service.load = 4).ttl(LONG).non_atomic().await.unwrap();
    let ends = bench.ends("/services/a").await;
    assert!(ends.iter().all(|end| end.expires() && *end != End::With(third.id()) && *end == ends[0]), "{ends:?}");
    let gone = bench.client.lease(LONG).await.unwrap();
    let id = gone.id();
    gone.revoke().await.unwrap();
    let error = dir.update(|service| service.load = 5).lease(id).non_atomic().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
}

async fn field_writes_keep_lease(bench: Bench) {
    let (dir, lease) = bench.leased().await;
    dir.load.set(&2).await.unwrap();
    bench.all_with(&lease).await;
    assert_eq!(dir.load.swap(&3).await.unwrap().as_deref(), Some(&2));
    dir.load.replace(&4).await.unwrap();
    dir.load.modify(|n| n.map(|n| n + 1)).await.unwrap();
    bench.all_with(&lease).await;
    let seen = dir.load.get().await.unwrap();
    dir.load.compare_and_swap(&seen, &6).await.unwrap();
    dir.load.compare_and_swap(Expect::value(&6), &7).await.unwrap();
    dir.load.compare_and_swap(Expect::Present, &8).await.unwrap();
    bench.all_with(&lease).await;
    assert_eq!(dir.load.get().await.unwrap().as_deref(), Some(&8));

    // Each of these writes creates the key.
    for write in 0..5 {
        match write {
            0 => drop(dir.note.set(&"0".to_owned()).await.unwrap()),
            1 => drop(dir.note.create(&"1".to_owned()).await.unwrap()),
            2 => drop(dir.note.swap(&"2".to_owned()).await.unwrap()),
            3 => drop(dir.note.modify(|_| Some("3".to_owned())).await.unwrap()),
            _ => drop(dir.note.compare_and_swap(Expect::Absent, &"4".to_owned()).await.unwrap()),
        }
        assert_eq!(dir.note.get().await.unwrap().as_deref(), Some(&write.to_string()));
        bench.all_with(&lease).await;
        assert_eq!(dir.note.create(&"5".to_owned()).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        dir.note.delete().await.unwrap();
        assert_eq!(dir.note.replace(&"5".to_owned()).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    // A value that moves from the alias keeps its lease.
    let alias = bench.client.entry::<String>("/services/a/remark").unwrap();
    alias.set(&"old".to_owned()).lease(&lease).await.unwrap();
    dir.note.modify(|note| note.map(|note| note + "er")).await.unwrap();
    assert_eq!(dir.note.get().await.unwrap().as_deref(), Some(&"older".to_owned()));
    bench.all_with(&lease).await;

    lease.revoke().await.unwrap();
    assert_eq!(bench.stored("/services").await, []);
}

async fn writes_of_nested_parts_keep_lease(bench: Bench) {
    let (dir, lease) = bench.leased().await;
    let limits = Limits { low: 1, high: Some(2) };
    dir.limits.set(&limits).non_atomic().await.unwrap();
    bench.all_with(&lease).await;
    dir.limits.high.set(&3).await.unwrap();
    dir.limits.low.modify(|_| Some(4)).await.unwrap();
    dir.limits.delete().non_atomic().await.unwrap();
    dir.limits.create(&limits).non_atomic().await.unwrap();
    bench.all_with(&lease).await;
    dir.limits.high.delete().await.unwrap();
    dir.limits.update(|limits| limits.high = Some(5)).changed_fields_only().await.unwrap();
    dir.tags.entry("new").unwrap().set(&"x".to_owned()).await.unwrap();
    dir.tags.entry("rack").unwrap().set(&"8".to_owned()).await.unwrap();
    bench.all_with(&lease).await;
    dir.tags.set(&BTreeMap::from([("other".to_owned(), "y".to_owned())])).non_atomic().await.unwrap();
    dir.zones.dir("z").unwrap().low.set(&1).await.unwrap();
    bench.all_with(&lease).await;
    dir.zones.set(&BTreeMap::from([("b".to_owned(), limits.clone())])).non_atomic().await.unwrap();
    dir.zones.dir("c").unwrap().set(&limits).non_atomic().await.unwrap();
    bench.all_with(&lease).await;
    if bench.transactions() {
        dir.limits.set(&limits).await.unwrap();
        dir.limits.delete().await.unwrap();
        dir.limits.create(&limits).await.unwrap();
        dir.limits.delete().await.unwrap();
        dir.tags.set(&BTreeMap::new()).await.unwrap();
        dir.tags.set(&BTreeMap::from([("other".to_owned(), "y".to_owned())])).await.unwrap();
        dir.zones.dir("d").unwrap().set(&limits).await.unwrap();
        bench.all_with(&lease).await;
    }
    lease.revoke().await.unwrap();
    assert_eq!(bench.stored("/services").await, []);
}

async fn transaction_keeps_lease(bench: Bench) {
    let (dir, lease) = bench.leased().await;
    bench.client.transaction().write(dir.load.set(&5)).await.unwrap();
    bench.client.transaction().write(dir.note.set(&"x".to_owned())).await.unwrap();
    bench.all_with(&lease).await;
    let seen = dir.load.get().await.unwrap();
    if bench.transactions() {
        let transaction =
            bench.client.transaction().expect(&dir.load, &seen).write(dir.load.set(&6)).write(dir.weight.set(&2)).delete(&dir.note);
        transaction
            .set_dir(&dir.limits, &Limits { low: 1, high: None })
            .write(dir.tags.entry("t").unwrap().set(&"u".to_owned()))
            .await
            .unwrap();
        bench.all_with(&lease).await;
        let error = bench.client.transaction().expect(&dir.load, &seen).write(dir.load.set(&7)).await.unwrap_err();
        assert_eq!((error.kind(), error.current::<u32>().map(|now| **now)), (ErrorKind::Conflict, Some(6)));
    }
    bench.client.transaction().expect(&dir.load, Expect::Present).write(dir.load.set(&8)).await.unwrap();
    bench.all_with(&lease).await;
}

async fn map_entries_keep_their_own_leases(bench: Bench) {
    let registry = bench.client.dir::<Registry>("/registry").unwrap();
    registry.name.set(&"r".to_owned()).await.unwrap();
    let leases = [bench.client.lease(LONG).await.unwrap(), bench.client.lease(LONG).await.unwrap()];
    for (name, lease) in ["a", "b"].iter().zip(&leases) {
        registry.services.dir(*name).unwrap().set(&service()).lease(lease).non_atomic().await.unwrap();
    }
    let change = |registry: &mut Registry| {
        for service in registry.services.values_mut() {
            service.load += 1;
            service.note = Some("x".into());
        }
        registry.services.insert("c".into(), service());
    };
    if bench.transactions() { registry.update(change).await } else { registry.update(change).non_atomic().await }.unwrap();
    for (name, end) in [("a", End::With(leases[0].id())), ("b", End::With(leases[1].id())), ("c", End::Never)] {
        let ends = bench.ends(&format!("/registry/services/{name}")).await;
        assert!(ends.len() >= 4 && ends.iter().all(|other| *other == end), "{name}: {ends:?}");
    }
    assert_eq!(bench.end_of(&registry.name).await, Some(End::Never));
    registry.services.dir("a").unwrap().limits.low.set(&1).await.unwrap();
    let [first, _second] = leases;
    first.revoke().await.unwrap();
    assert_eq!(registry.get().await.unwrap().services.keys().collect::<Vec<_>>(), ["b", "c"]);
}

async fn struct_without_lease_stays_permanent(bench: Bench) {
    let (dir, lease) = bench.leased().await;
    // A set of the whole struct without `.lease` makes all keys permanent.
    dir.set(&service()).non_atomic().await.unwrap();
    dir.load.set(&2).await.unwrap();
    dir.note.set(&"x".to_owned()).await.unwrap();
    update(&bench, &dir, |service| service.limits = Some(Limits { low: 1, high: None })).await;
    let ends = bench.ends("/services/a").await;
    assert!(ends.iter().all(|end| *end == End::Never), "{ends:?}");
    lease.revoke().await.unwrap();
    assert_eq!(dir.get().await.unwrap().load, 2);
}

async fn ttl_of_one_key_does_not_spread(bench: Bench) {
    let dir = bench.service();
    dir.set(&service()).non_atomic().await.unwrap();
    // One key gets a temporary value, which expires.
    dir.weight.set(&9).ttl(LONG).await.unwrap();
    dir.note.set(&"x".to_owned()).await.unwrap();
    update(&bench, &dir, |service| service.limits = Some(Limits { low: 1, high: None })).await;
    update(&bench, &dir, |service| service.weight = 8).await;
    assert!(bench.end_of(&dir.weight).await.unwrap().expires());
    for end in [bench.end_of(&dir.note).await, bench.end_of(&dir.limits.low).await, bench.end_of(&dir.load).await] {
        assert_eq!(end, Some(End::Never));
    }
    // A struct whose fields all have defaults behaves in the same way.
    let limits = bench.client.dir::<Limits>("/limits").unwrap();
    limits.low.set(&5).ttl(LONG).await.unwrap();
    limits.high.set(&6).ttl(LONG).await.unwrap();
    limits.high.delete().await.unwrap();
    let two = bench.client.dir::<Two>("/two").unwrap();
    two.a.set(&1).ttl(LONG).await.unwrap();
    two.c.set(&1).await.unwrap();
    assert_eq!(bench.end_of(&two.c).await, Some(End::Never));
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Two {
    #[etcd(default)]
    a: u32,
    #[etcd(default)]
    b: u32,
    c: Option<u32>,
}

async fn single_entry_keeps_lease_only_in_modify(bench: Bench) {
    let (entry, lease) = (bench.client.entry::<u32>("/alone").unwrap(), bench.client.lease(LONG).await.unwrap());
    for write in 0..5 {
        entry.set(&1).lease(&lease).await.unwrap();
        entry.modify(|n| n.map(|n| n + 1)).await.unwrap();
        entry.modify(|_| Some(2)).await.unwrap();
        assert_eq!(bench.end_of(&entry).await, Some(End::With(lease.id())));
        let seen = entry.get().await.unwrap();
        match write {
            0 => drop(entry.set(&3).await.unwrap()),
            1 => drop(entry.replace(&3).await.unwrap()),
            2 => drop(entry.swap(&3).await.unwrap()),
            3 => drop(entry.compare_and_swap(&seen, &3).await.unwrap()),
            _ => drop(bench.client.transaction().write(entry.set(&3)).await.unwrap()),
        }
        assert_eq!(bench.end_of(&entry).await, Some(End::Never));
        entry.modify(|n| n.map(|n| n + 1)).await.unwrap();
        assert_eq!(bench.end_of(&entry).await, Some(End::Never));
    }
    let map = bench.client.entries::<String, u32>("/map").unwrap();
    map.entry("a").unwrap().set(&1).lease(&lease).await.unwrap();
    map.entry("a").unwrap().set(&2).await.unwrap();
    assert_eq!(bench.end_of(&map.entry("a").unwrap()).await, Some(End::Never));
}

async fn modify_applies_named_lease_to_unchanged_value(bench: Bench) {
    let (entry, lease) = (bench.client.entry::<u32>("/heartbeat").unwrap(), bench.client.lease(LONG).await.unwrap());
    entry.set(&1).await.unwrap();
    entry.modify(|n| n).lease(&lease).await.unwrap();
    assert_eq!(bench.end_of(&entry).await, Some(End::With(lease.id())));
    let before = entry.get().await.unwrap().unwrap().modified();
    let unchanged = entry.modify(|n| n).lease(&lease).await.unwrap().unwrap();
    assert_eq!(unchanged.modified(), before, "the value has this lease already");
    entry.modify(|n| n).ttl(LONG).await.unwrap();
    let end = bench.end_of(&entry).await.unwrap();
    assert!(end.expires() && end != End::With(lease.id()));
    entry.modify(|n| n).permanent().await.unwrap();
    assert_eq!(bench.end_of(&entry).await, Some(End::Never));
    lease.revoke().await.unwrap();
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&1));
}

async fn update_applies_named_lease_to_unchanged_struct(bench: Bench) {
    let (dir, first) = bench.leased().await;
    let lease = bench.client.lease(LONG).await.unwrap();
    dir.update(|_| ()).lease(&lease).non_atomic().await.unwrap();
    bench.all_with(&lease).await;
    first.revoke().await.unwrap();
    let before = dir.get().await.unwrap();
    assert_eq!(
        dir.update(|_| ()).lease(&lease).non_atomic().await.unwrap().modified(),
        before.modified(),
        "the keys have this lease already"
    );
    let renewed = dir.update(|_| ()).ttl(LONG).non_atomic().await.unwrap();
    assert!(renewed.modified() > before.modified());
    let ends = bench.ends("/services/a").await;
    assert!(ends.iter().all(|end| end.expires() && *end != End::With(lease.id())), "{ends:?}");
}

async fn permanent_removes_expiry(bench: Bench) {
    let (dir, lease) = bench.leased().await;
    dir.load.set(&2).permanent().await.unwrap();
    assert_eq!(bench.end_of(&dir.load).await, Some(End::Never));
    dir.update(|_| ()).permanent().non_atomic().await.unwrap();
    let ends = bench.ends("/services/a").await;
    assert!(ends.iter().all(|end| *end == End::Never), "{ends:?}");
    lease.revoke().await.unwrap();
    assert_eq!(dir.get().await.unwrap().load, 2);
}

/// Frequent writes neither prolong nor shorten the time to live, and all keys expire together.
async fn frequent_writes_keep_ttl(bench: Bench) {
    let (dir, alone) = (bench.service(), bench.client.entry::<u32>("/alone").unwrap());
    dir.set(&service()).ttl(Duration::from_secs(6)).non_atomic().await.unwrap();
    alone.set(&0).ttl(Duration::from_secs(6)).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut written = 0;
    loop {
        sleep(Duration::from_millis(200)).await;
        let updated = dir.update(|service| service.load += 1).changed_fields_only().await;
        let modified = alone.modify(|n| n.map(|n| n + 1)).await.unwrap();
        match (updated, modified) {
            (Ok(_), Some(_)) => written += 1,
            (Ok(_), None) | (Err(_), Some(_)) if begun.elapsed() < Duration::from_secs(30) => {}
            (Err(error), None) => {
                assert_eq!(error.kind(), ErrorKind::NotFound);
                break;
            }
            _ => panic!("the struct does not expire"),
        }
    }
    assert!(written >= 5, "the struct expired after only {written} writes");
    // On v2 each key has its own time to live, in whole seconds.
    for _ in 0..100 {
        if bench.stored("/").await.is_empty() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("keys are left: {:?}", bench.stored("/").await);
}

async fn modified_published_value_can_be_withdrawn(bench: Bench) {
    let entry = bench.client.entry::<u32>("/published").unwrap();
    let published = entry.publish(&1).await.unwrap();
    entry.modify(|n| n.map(|n| n + 1)).await.unwrap();
    published.set(&3).await.unwrap();
    assert!(bench.end_of(&entry).await.unwrap().expires());
    published.withdraw().await.unwrap();
    assert_eq!(entry.get().await.unwrap(), None);
}
