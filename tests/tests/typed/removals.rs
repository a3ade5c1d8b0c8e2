//! An entry of a map of structs, or an optional directory, is removed with all keys below it. Keys
//! that an older program left behind do not make an entry or a directory exist. A write of a struct
//! that would be stored without any key is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod leftovers;
mod presence;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::CountingStore;
use etcd_typed::{Client, ErrorKind, EtcdSchema, Previous, ProblemKind};
use futures_util::FutureExt;

use self::leftovers::write_leftovers;

/// The schema of an older program.
mod old {
    use super::{BTreeMap, EtcdSchema};

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) struct App {
        pub(super) name: String,
        #[etcd(dir)]
        pub(super) backup: Option<Db>,
        #[etcd(dir)]
        pub(super) regions: BTreeMap<String, Db>,
    }

    /// A struct without maps, so that a write of it needs no read.
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) struct Plain {
        pub(super) name: String,
        #[etcd(dir)]
        pub(super) backup: Option<Db>,
    }

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) struct Db {
        pub(super) host: String,
    }
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct App {
    name: String,
    #[etcd(dir)]
    backup: Option<Db>,
    #[etcd(dir)]
    regions: BTreeMap<String, Db>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Db {
    #[etcd(alias = "server")]
    host: String,
    #[etcd(default = true)]
    tls: bool,
    note: Option<String>,
    #[etcd(entries)]
    tags: BTreeMap<String, u8>,
}

fn db(host: &str) -> Db {
    Db { host: host.to_owned(), tls: false, note: Some("n".to_owned()), tags: BTreeMap::from([("t".to_owned(), 1)]) }
}

fn old_db(host: &str) -> old::Db {
    old::Db { host: host.to_owned() }
}

fn app() -> App {
    App { name: "app".to_owned(), backup: Some(db("b")), regions: BTreeMap::from([("eu".to_owned(), db("e")), ("us".to_owned(), db("u"))]) }
}

struct Bench {
    client: Client,
}

impl Bench {
    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }

    fn app(&self) -> AppDir {
        self.client.dir::<App>("/app").unwrap()
    }

    fn old(&self) -> old::AppDir {
        self.client.dir::<old::App>("/app").unwrap()
    }

    async fn put(&self, path: &str, value: &str) {
        self.client.entry(path).unwrap().set(&value.to_owned()).await.unwrap();
    }

    async fn delete(&self, path: &str) {
        self.client.entry::<Bytes>(path).unwrap().delete().await.unwrap();
    }

    async fn exists(&self, path: &str) -> bool {
        self.client.entry::<Bytes>(path).unwrap().exists().await.unwrap()
    }

    /// Writes the app as the newer program does, and unknown keys below each directory, some with
    /// hidden names.
    async fn filled(&self) {
        self.app().set(&app()).non_atomic().await.unwrap();
        for directory in ["", "/backup", "/regions/us", "/regions/eu"] {
            for name in ["unknown/deep", "_locks/x"] {
                self.put(&format!("/app{directory}/{name}"), "x").await;
            }
        }
    }

    /// Returns the keys that a listing shows below a directory.
    async fn below(&self, directory: &str) -> Vec<String> {
        let nodes = self.client.directory(directory).unwrap().list_recursive().await.unwrap();
        nodes.into_iter().filter(|node| node.value.is_some()).map(|node| node.path).collect()
    }

    /// Asserts that nothing is below `removed`, hidden keys included, and that its neighbour
    /// `stays` is unchanged.
    async fn is_gone(&self, removed: &str, stays: &str, how: &str) {
        assert_eq!(self.below(removed).await, [""; 0], "{how}");
        assert!(!self.exists(&format!("{removed}/_locks/x")).await, "{how}");
        assert_eq!(self.below(stays).await.iter().filter(|path| !path.starts_with('_')).count(), 5, "{how}");
        assert!(self.exists(&format!("{stays}/_locks/x")).await, "{how}");
        assert!(self.exists("/app/_locks/x").await && self.exists("/app/unknown/deep").await, "{how}");
    }
}

etcd_typed_tests::on_every_store! { "removals":
    removed_entry_takes_all_keys_below
    removed_optional_directory_takes_all_keys_below
    set_without_maps_removes_optional_directory
    removal_by_older_program_is_complete
    delete_of_struct_keeps_unknown_keys
    required_directory_and_flattened_struct_keep_unknown_keys
    diff_lists_removed_keys
    removal_conflicts_with_added_keys
    unreadable_previous_value_is_reported
}

async fn removed_entry_takes_all_keys_below(bench: Bench) {
    let (dir, atomic) = (bench.old(), bench.transactions());
    let ways = ["set", "set map", "update", "update fields", "swap", "delete", "delete seen", "guarded"];
    for (way, in_steps) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        if !atomic && (!in_steps || way == "guarded") {
            continue;
        }
        bench.filled().await;
        let seen = dir.get().await.unwrap();
        let mut without = (*seen).clone();
        let removed = without.regions.remove("us").unwrap();
        let us = dir.regions.dir("us").unwrap();
        let remove = |app: &mut old::App| drop(app.regions.remove("us"));
        match way {
            "set" if in_steps => drop(dir.set(&without).non_atomic().await.unwrap()),
            "set" => drop(dir.set(&without).await.unwrap()),
            "set map" if in_steps => drop(dir.regions.set(&without.regions).non_atomic().await.unwrap()),
            "set map" => drop(dir.regions.set(&without.regions).await.unwrap()),
            "update" | "update fields" => {
                let update = dir.update(remove);
                let update = if in_steps { update.non_atomic() } else { update };
                let updated = if way == "update" { update.await } else { update.changed_fields_only().await }.unwrap();
                assert_eq!(*updated, without, "{way}");
                // The returned value serves for a compare-and-swap without another read.
                let swap = dir.compare_and_swap(&updated, &old::App { name: "new".to_owned(), ..without.clone() });
                if atomic { swap.await } else { swap.non_atomic().await }.unwrap();
                without.name = "new".to_owned();
            }
            "swap" if in_steps => drop(dir.compare_and_swap(&seen, &without).non_atomic().await.unwrap()),
            "swap" => drop(dir.compare_and_swap(&seen, &without).await.unwrap()),
            "delete" => {
                let was = if in_steps { us.delete().non_atomic().await } else { us.delete().await }.unwrap();
                assert_eq!(was.as_deref(), Some(&removed));
            }
            "delete seen" => {
                let delete = us.compare_and_delete(&us.get().await.unwrap());
                let was = if in_steps { delete.non_atomic().await } else { delete.await }.unwrap();
                assert_eq!(was.as_deref(), Some(&removed));
            }
            _ => {
                let lock = bench.client.lock("/locks/removals").acquire().await.unwrap();
                let set = dir.regions.set(&without.regions).guarded_by(&lock);
                if in_steps { set.non_atomic().await } else { set.await }.unwrap();
                lock.release().await.unwrap();
            }
        }
        bench.is_gone("/app/regions/us", "/app/regions/eu", way).await;
        assert_eq!(*dir.get().await.unwrap(), without, "{way}");
        assert_eq!(bench.app().get().await.unwrap().regions["eu"], db("e"), "{way}");
    }
}

async fn removed_optional_directory_takes_all_keys_below(bench: Bench) {
    let (dir, atomic) = (bench.old(), bench.transactions());
    for (way, in_steps) in
        ["set", "update", "update fields", "swap", "delete", "delete seen"].into_iter().flat_map(|way| [(way, false), (way, true)])
    {
        if !in_steps && !atomic {
            continue;
        }
        bench.filled().await;
        let seen = dir.get().await.unwrap();
        let without = old::App { backup: None, ..(*seen).clone() };
        match way {
            "set" if in_steps => drop(dir.set(&without).non_atomic().await.unwrap()),
            "set" => drop(dir.set(&without).await.unwrap()),
            "update" | "update fields" => {
                let update = dir.update(|app| app.backup = None);
                let update = if in_steps { update.non_atomic() } else { update };
                if way == "update" { update.await } else { update.changed_fields_only().await }.unwrap();
            }
            "swap" if in_steps => drop(dir.compare_and_swap(&seen, &without).non_atomic().await.unwrap()),
            "swap" => drop(dir.compare_and_swap(&seen, &without).await.unwrap()),
            _ => {
                let backup = dir.backup.get().await.unwrap();
                let delete = if way == "delete" { dir.backup.delete() } else { dir.backup.compare_and_delete(&backup) };
                let was = if in_steps { delete.non_atomic().await } else { delete.await }.unwrap();
                assert_eq!(was.as_deref(), Some(&old_db("b")));
            }
        }
        bench.is_gone("/app/backup", "/app/regions/eu", way).await;
        assert_eq!(*dir.get().await.unwrap(), without, "{way}");
        assert_eq!(bench.app().get().await.unwrap().backup, None, "{way}");
    }
}

async fn set_without_maps_removes_optional_directory(bench: Bench) {
    let dir = bench.client.dir::<old::Plain>("/app").unwrap();
    let without = old::Plain { name: "app".to_owned(), backup: None };
    for way in ["set", "set in steps", "transaction"] {
        if way != "set in steps" && !bench.transactions() {
            continue;
        }
        bench.filled().await;
        match way {
            "set" => drop(dir.set(&without).await.unwrap()),
            "set in steps" => drop(dir.set(&without).non_atomic().await.unwrap()),
            _ => drop(bench.client.transaction().set_dir(&dir, &without).await.unwrap()),
        }
        bench.is_gone("/app/backup", "/app/regions/eu", way).await;
    }
}

/// A user reported this: an older program removes an entry that a newer program wrote.
async fn removal_by_older_program_is_complete(bench: Bench) {
    bench.filled().await;
    let live = bench.app().live().await.unwrap();
    bench.old().regions.dir("us").unwrap().delete().non_atomic().await.unwrap();
    bench.old().backup.delete().non_atomic().await.unwrap();
    let wanted = App { backup: None, regions: BTreeMap::from([("eu".to_owned(), db("e"))]), ..app() };
    assert_eq!(*bench.app().get().await.unwrap(), wanted);
    let update = bench.app().update(|app| app.name = "new".to_owned());
    let written = if bench.transactions() { update.await } else { update.non_atomic().await }.unwrap().modified();
    assert_eq!(live.wait_for_revision(written).await.unwrap().regions, wanted.regions);
    assert_eq!(bench.app().live().await.unwrap().get().regions, wanted.regions);
    assert!(live.status().is_live());
}

async fn delete_of_struct_keeps_unknown_keys(bench: Bench) {
    bench.filled().await;
    let was = bench.old().delete().non_atomic().await.unwrap();
    assert_eq!(was.as_deref().map(|app| app.regions.len()), Some(2));
    for gone in ["/app/backup", "/app/regions"] {
        assert_eq!(bench.below(gone).await, [""; 0], "entries and optional directories are removed with all below them");
    }
    assert!(!bench.exists("/app/backup/_locks/x").await && !bench.exists("/app/regions/us/_locks/x").await);
    assert!(bench.exists("/app/_locks/x").await && bench.exists("/app/unknown/deep").await);
    assert!(!bench.exists("/app/name").await);

    // A handle that was opened by path does not know that its directory is an entry of a map.
    bench.filled().await;
    bench.client.dir::<old::Db>("/app/regions/us").unwrap().delete().non_atomic().await.unwrap();
    assert!(bench.exists("/app/regions/us/_locks/x").await && bench.exists("/app/regions/us/tls").await);
    assert!(!bench.exists("/app/regions/us/host").await);
    assert_eq!(bench.app().regions.keys().await.unwrap(), ["eu"], "leftover keys do not make an entry");
}

async fn required_directory_and_flattened_struct_keep_unknown_keys(bench: Bench) {
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct Outer {
        #[etcd(dir)]
        inner: old::Db,
        #[etcd(dir)]
        entries: BTreeMap<String, Entry>,
    }
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    struct Entry {
        port: u16,
        #[etcd(flatten)]
        db: old::Db,
    }
    let dir = bench.client.dir::<Outer>("/outer").unwrap();
    let entries = BTreeMap::from([("x".to_owned(), Entry { port: 1, db: old_db("a") })]);
    dir.set(&Outer { inner: old_db("a"), entries }).non_atomic().await.unwrap();
    bench.put("/outer/inner/unknown", "x").await;
    dir.inner.delete().non_atomic().await.unwrap();
    assert_eq!(bench.below("/outer/inner").await, ["unknown"]);
    dir.entries.dir("x").unwrap().db.delete().non_atomic().await.unwrap();
    assert_eq!(bench.below("/outer/entries/x").await, ["port"]);
}

async fn diff_lists_removed_keys(bench: Bench) {
    bench.filled().await;
    let dir = bench.old();
    let without = old::App { name: "app".to_owned(), backup: None, regions: BTreeMap::from([("eu".to_owned(), old_db("e"))]) };
    let keys = |diff: &etcd_typed::Diff| -> Vec<String> {
        let relative = |key: &etcd_typed::Key| dir.key().below(key.as_bytes()).unwrap().to_owned();
        let keys = diff.differences.iter().filter(|difference| difference.is_deleted()).map(|difference| relative(&difference.key));
        keys.filter(|key| !key.contains("/_")).collect()
    };
    let below = |directory: &'static str| ["host", "note", "tags/t", "tls", "unknown/deep"].map(|name| format!("{directory}/{name}"));
    let diff = dir.diff(&without).await.unwrap();
    assert_eq!(keys(&diff), [below("backup"), below("regions/us")].concat());
    assert_eq!(diff.differences.iter().filter(|difference| !difference.is_deleted()).count(), 0);
    dir.set(&without).non_atomic().await.unwrap();
    assert!(dir.diff(&without).await.unwrap().is_empty());
}

async fn removal_conflicts_with_added_keys(bench: Bench) {
    let (dir, atomic) = (bench.old(), bench.transactions());
    for added in ["regions/us/host", "regions/us/tls", "regions/us/added"] {
        bench.filled().await;
        let (seen, us) = (dir.get().await.unwrap(), dir.regions.dir("us").unwrap());
        let seen_us = us.get().await.unwrap();
        bench.put(&format!("/app/{added}"), "true").await;
        let without = old::App { regions: BTreeMap::new(), ..(*seen).clone() };
        let swap = dir.compare_and_swap(&seen, &without);
        // A non-atomic write compares the keys of the schema that it read, but no unknown keys.
        let in_steps = added != "regions/us/host";
        if atomic {
            assert_eq!(swap.await.unwrap_err().kind(), ErrorKind::Conflict, "{added}");
            assert_eq!(us.compare_and_delete(&seen_us).await.unwrap_err().kind(), ErrorKind::Conflict, "{added}");
        } else if !in_steps {
            assert_eq!(swap.non_atomic().await.unwrap_err().kind(), ErrorKind::Conflict, "{added}");
            assert_eq!(us.compare_and_delete(&seen_us).non_atomic().await.unwrap_err().kind(), ErrorKind::Conflict, "{added}");
        }
        if atomic || !in_steps {
            assert!(bench.exists(&format!("/app/{added}")).await && bench.exists("/app/regions/us/_locks/x").await);
        }
    }
}

async fn unreadable_previous_value_is_reported(bench: Bench) {
    #[derive(EtcdSchema)]
    struct Fields {
        #[etcd(alias = "old")]
        limit: u32,
        #[etcd(secret)]
        pin: u32,
    }
    let dir = bench.client.dir::<Fields>("/fields").unwrap();
    let read = || dir.limit.get();
    assert!(matches!(dir.limit.swap(&1).await.unwrap(), Previous::Nothing));
    assert!(matches!(dir.limit.swap(&2).await.unwrap(), Previous::Value(value) if *value == 1));
    for way in ["swap", "delete", "delete seen"] {
        bench.put("/fields/limit", "many").await;
        let error = read().await.unwrap_err();
        let previous = match way {
            "swap" => dir.limit.swap(&3).await,
            "delete" => dir.limit.delete().await,
            _ => dir.limit.compare_and_delete(etcd_typed::Expect::Present).await,
        }
        .unwrap();
        assert!(previous.existed() && previous.is_none() && previous == None, "{way}");
        let Previous::Unreadable(told) = previous else { panic!("{way}") };
        assert_eq!((told.kind(), told.key(), told.to_string()), (ErrorKind::Decode, error.key(), error.to_string()), "{way}");
        assert!(!told.may_have_applied());
        assert_eq!(read().await.unwrap().as_deref(), (way == "swap").then_some(&3), "the write is applied");
    }
    assert!(!dir.limit.delete().await.unwrap().existed());
    // The alias is read if the field's own key is missing.
    bench.put("/fields/old", "many").await;
    let Previous::Unreadable(told) = dir.limit.delete().await.unwrap() else { panic!("the alias was not read") };
    assert!(told.key().unwrap().as_str().ends_with("/fields/old"), "{told}");
    bench.put("/fields/pin", "hunter2").await;
    let previous = dir.pin.delete().await.unwrap();
    assert!(previous.existed() && !format!("{previous:?}").contains("hunter2"), "{previous:?}");
}

/// v2 has no leases, so the client emulates them. A lease whose last entry is removed stays held,
/// and new entries can be attached to it.
#[tokio::test]
async fn removed_entry_keeps_lease_on_v2() {
    let etcd = etcd_typed_tests::shared("removals").await;
    let client = Client::builder(&etcd.url_v2()).namespace("/removals-lease").connect().await.unwrap();
    let lease = client.lease(Duration::from_secs(2)).await.unwrap();
    let map = client.dirs::<String, old::Db>("/services").unwrap();
    map.dir("a").unwrap().set(&old_db("a")).lease(&lease).non_atomic().await.unwrap();
    map.set(&BTreeMap::new()).non_atomic().await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(lease.is_held(), "{lease:?}");
    map.dir("b").unwrap().set(&old_db("b")).lease(&lease).non_atomic().await.unwrap();
    assert_eq!(map.keys().await.unwrap(), ["b"]);
}

/// An update that removes an entry runs again if a key was added to that entry, and only then.
#[tokio::test]
async fn update_detects_keys_added_to_removed_entry_with_memory_store() {
    let bench = Bench { client: Client::connect("memory:").await.unwrap() };
    for (added, runs) in [("regions/us/added", 2), ("regions/us/host", 2), ("regions/eu/added", 1), ("name", 1)] {
        bench.filled().await;
        let count = AtomicU32::new(0);
        let updated = bench.old().update(|app| {
            app.regions.remove("us");
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                bench.put(&format!("/app/{added}"), "x").now_or_never().expect("the memory store does not wait");
            }
        });
        updated.changed_fields_only().await.unwrap();
        assert_eq!(count.into_inner(), runs, "{added}");
        assert_eq!(bench.below("/app/regions/us").await, [""; 0], "{added}");
    }
}

#[tokio::test]
async fn large_entry_is_removed_by_one_operation_with_memory_store() {
    let counting = CountingStore::new(std::sync::Arc::new(MemoryStore::new()));
    let client = Client::with_store(counting.clone());
    let dir = client.dir::<App>("/app").unwrap();
    let large = Db { tags: (0..=255).map(|n| (n.to_string(), n)).collect(), ..db("large") };
    let with = App { regions: BTreeMap::from([("us".to_owned(), large)]), ..app() };
    let without = App { regions: BTreeMap::new(), ..app() };
    dir.set(&with).non_atomic().await.unwrap();
    counting.take();
    dir.set(&without).await.expect("one transaction");
    let counts = counting.take();
    assert_eq!((counts.range, counts.commit), (1, 1));
    dir.set(&with).non_atomic().await.unwrap();
    counting.take();
    dir.regions.set(&BTreeMap::new()).non_atomic().await.unwrap();
    assert_eq!(counting.take().commit, 1);
}

/// A swap that adds an entry is one request, unless leftover keys are at its place.
#[tokio::test]
async fn adding_entry_by_swap_is_one_request_with_memory_store() {
    let store = MemoryStore::new();
    let counting = CountingStore::new(std::sync::Arc::new(store.clone()));
    let (client, bench) = (Client::with_store(counting.clone()), Bench { client: Client::with_store(store) });
    let dir = client.dir::<App>("/app").unwrap();
    for (leftover, commits) in [(false, 1), (true, 2)] {
        let before = App { regions: BTreeMap::new(), ..app() };
        dir.set(&before).await.unwrap();
        if leftover {
            write_leftovers(&bench, "/app/regions/us").await;
        }
        let seen = dir.get().await.unwrap();
        counting.take();
        dir.compare_and_swap(&seen, &app()).await.unwrap();
        let counts = counting.take();
        assert_eq!((counts.range, counts.commit), (0, commits));
        assert_eq!(*dir.get().await.unwrap(), app());
    }
}
