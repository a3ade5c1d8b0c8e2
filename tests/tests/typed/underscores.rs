//! Names that begin with `_`. They are stored unchanged on v3 and in memory, and with an escaped
//! `_` on v2. Names that an earlier version of this library escaped on v3 are still read.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::{Client, EtcdSchema, Live};
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until a view shows a state that satisfies `wanted`.
async fn until<T: Send + Sync + 'static>(live: &mut Live<T>, wanted: impl Fn(&T) -> bool) {
    let wait = async {
        while !wanted(&live.get()) {
            live.changed().await.unwrap();
        }
    };
    timeout(LIMIT, wait).await.expect("the view shows it in time");
}

#[derive(Clone, Debug, PartialEq, EtcdSchema)]
struct Server {
    host: String,
    #[etcd(default = 80)]
    port: u16,
}

#[derive(Clone, Debug, PartialEq, EtcdSchema)]
struct Fleet {
    #[etcd(entries)]
    files: BTreeMap<String, u8>,
    #[etcd(dir)]
    servers: BTreeMap<String, Server>,
}

#[derive(Clone, Debug, PartialEq, EtcdSchema)]
#[etcd(prefix = "/tenants/{tenant}/{part}/config")]
struct Tenant {
    size: u8,
}

struct Bench {
    client: Client,
}

fn server(host: &str) -> Server {
    Server { host: host.to_owned(), port: 80 }
}

fn fleet(file: u8, host: &str) -> Fleet {
    Fleet { files: BTreeMap::from([("_a".to_owned(), file)]), servers: BTreeMap::from([("_s".to_owned(), server(host))]) }
}

impl Bench {
    /// Whether the store hides names that begin with `_`.
    fn hides(&self) -> bool {
        self.client.store().capabilities().directories
    }

    /// Returns the stored form of a name that begins with `_`.
    fn stored(&self, name: &str) -> String {
        if self.hides() { name.replace("_", "%5F") } else { name.to_owned() }
    }

    async fn put(&self, path: &str, value: &str) {
        self.client.entry(path).unwrap().set(&value.to_owned()).await.unwrap();
    }

    async fn value(&self, path: &str) -> Option<String> {
        self.client.entry::<String>(path).unwrap().get().await.unwrap().map(|value| value.into_inner())
    }

    async fn paths(&self, directory: &str) -> Vec<String> {
        let nodes = self.client.directory(directory).unwrap().list_recursive().await.unwrap().into_inner();
        nodes.into_iter().filter(|node| !node.is_directory()).map(|node| node.path).collect()
    }

    fn fleet(&self) -> FleetDir {
        self.client.dir::<Fleet>("/fleet").unwrap()
    }

    /// Writes what an earlier version of this library stored.
    async fn write_older(&self) {
        self.put("/fleet/files/%5Fa", "1").await;
        self.put("/fleet/servers/%5Fs/host", "h").await;
        self.put("/fleet/servers/%5Fs/port", "80").await;
    }
}

etcd_typed_tests::on_every_store! { "underscores":
    map_key_is_stored_in_form_of_store
    struct_with_maps_is_stored_in_form_of_store
    prefix_parameter_is_stored_in_form_of_store
    escaped_entry_is_read
    escaped_struct_is_read
    views_and_watches_follow_both_forms
    entry_with_both_names_exists_once
    removal_of_entry_with_both_names_removes_both
    reserved_name_is_no_entry
}

async fn map_key_is_stored_in_form_of_store(bench: Bench) {
    let map = bench.client.entries::<String, u8>("/map").unwrap();
    map.entry("_default.toml").unwrap().set(&1).await.unwrap();
    assert_eq!(bench.paths("/map").await, [bench.stored("_default.toml")]);
    let entry = bench.client.directory("/map").unwrap().entry::<u8>("_default.toml");
    assert_eq!(entry.get().await.unwrap().as_deref(), Some(&1));
    let mut wanted = BTreeMap::from([("_default.toml".to_owned(), 1)]);
    assert_eq!(map.get().await.unwrap().into_inner(), wanted);
    assert!(map.diff(&wanted).await.unwrap().is_empty());
    assert!(map.check().await.unwrap().problems.is_empty());
    wanted.insert("_x".to_owned(), 2);
    map.set(&wanted).non_atomic().await.unwrap();
    assert_eq!(map.get().await.unwrap().into_inner(), wanted);
    assert_eq!(bench.paths("/map").await, ["_default.toml", "_x"].map(|name| bench.stored(name)));
    map.entry("_x").unwrap().delete().await.unwrap();
    assert_eq!(bench.paths("/map").await, [bench.stored("_default.toml")]);
}

async fn struct_with_maps_is_stored_in_form_of_store(bench: Bench) {
    let dir = bench.fleet();
    dir.set(&fleet(1, "h")).non_atomic().await.unwrap();
    let names = ["files/_a", "servers/_s/host", "servers/_s/port"].map(|name| bench.stored(name));
    assert_eq!(bench.paths("/fleet").await, names);
    assert_eq!(*dir.get().await.unwrap(), fleet(1, "h"));
    assert_eq!(*dir.servers.dir("_s").unwrap().get().await.unwrap(), server("h"));
    dir.update(|fleet| fleet.servers.get_mut("_s").unwrap().host = "i".to_owned()).non_atomic().await.unwrap();
    assert_eq!((bench.paths("/fleet").await, dir.get().await.unwrap().into_inner()), (names.to_vec(), fleet(1, "i")));
    assert_eq!(dir.check().await.unwrap().problems, []);
    // On a store that shows such names, `_b` of another program is an entry of the map, and
    // `_other` is an unknown key.
    bench.put("/fleet/files/_b", "2").await;
    bench.put("/fleet/_other", "3").await;
    let shown = usize::from(!bench.hides());
    assert_eq!(dir.files.get().await.unwrap().len(), 1 + shown);
    let problems = dir.check().await.unwrap().problems;
    assert_eq!(problems.iter().map(|problem| problem.key.as_str().ends_with("/fleet/_other")).collect::<Vec<_>>(), vec![true; shown]);
}

async fn prefix_parameter_is_stored_in_form_of_store(bench: Bench) {
    let tenant = TenantDir::open(&bench.client, "_t", "p").unwrap();
    let name = bench.stored("_t");
    assert!(tenant.key().as_str().ends_with(&format!("/tenants/{name}/p/config")), "{}", tenant.key());
    tenant.set(&Tenant { size: 1 }).await.unwrap();
    assert_eq!(bench.value(&format!("/tenants/{name}/p/config/size")).await.as_deref(), Some("1"));
    // A directory that an earlier version of this library wrote.
    bench.put("/tenants/%5Fu/%5Fv/config/size", "2").await;
    let older = TenantDir::open(&bench.client, "_u", "_v").unwrap();
    assert_eq!((older.get().await.unwrap().size, older.size.get().await.unwrap().as_deref()), (2, Some(&2)));
    older.size.set(&3).await.unwrap();
    assert_eq!((older.get().await.unwrap().size, older.size.get().await.unwrap().as_deref()), (3, Some(&3)));
    older.delete().non_atomic().await.unwrap();
    assert!(!older.exists().await.unwrap());
}

async fn escaped_entry_is_read(bench: Bench) {
    bench.write_older().await;
    let files = bench.client.entries::<String, u8>("/fleet/files").unwrap();
    let entry = files.entry("_a").unwrap();
    let wanted = BTreeMap::from([("_a".to_owned(), 1)]);
    assert_eq!((entry.get().await.unwrap().as_deref(), files.get().await.unwrap().into_inner()), (Some(&1), wanted.clone()));
    assert!(files.check().await.unwrap().problems.is_empty());
    assert_eq!(entry.modify(|value| value.map(|value| value + 1)).await.unwrap().as_deref(), Some(&2));
    assert_eq!((entry.get().await.unwrap().as_deref(), files.get().await.unwrap().get("_a")), (Some(&2), Some(&2)));
    entry.delete().await.unwrap();
    assert_eq!((entry.get().await.unwrap(), files.get().await.unwrap().len()), (None, 0));

    bench.write_older().await;
    files.set(&wanted).non_atomic().await.unwrap();
    assert_eq!(bench.paths("/fleet/files").await, [bench.stored("_a")]);
    assert_eq!(files.get().await.unwrap().into_inner(), wanted);
}

async fn escaped_struct_is_read(bench: Bench) {
    let dir = bench.fleet();
    let handle = dir.servers.dir("_s").unwrap();
    bench.write_older().await;
    let seen = dir.get().await.unwrap();
    assert_eq!(*seen, fleet(1, "h"));
    assert_eq!(dir.servers.keys().await.unwrap(), ["_s"]);
    assert_eq!((handle.get().await.unwrap().into_inner(), handle.exists().await.unwrap()), (server("h"), true));
    assert_eq!(handle.host.get().await.unwrap().as_deref().map(String::as_str), Some("h"));
    assert_eq!(dir.check().await.unwrap().problems, []);

    // A write of the whole struct moves the entry to its new keys, even if the write does not
    // change the entry.
    let swap = Fleet { files: BTreeMap::new(), ..fleet(1, "i") };
    dir.compare_and_swap(&seen, &swap).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), swap);
    let paths = ["servers/_s/host", "servers/_s/port"].map(|name| bench.stored(name));
    assert_eq!(bench.paths("/fleet").await, paths);
    dir.update(|fleet| fleet.servers.clear()).non_atomic().await.unwrap();
    assert_eq!(bench.paths("/fleet").await, [""; 0]);

    bench.write_older().await;
    let updated = dir.update(|fleet| fleet.files.clear()).non_atomic().await.unwrap();
    assert_eq!((updated.into_inner(), dir.get().await.unwrap().into_inner()), (without_files(), without_files()));
    handle.delete().non_atomic().await.unwrap();
    assert_eq!((handle.exists().await.unwrap(), bench.paths("/fleet").await), (false, Vec::<String>::new()));
}

fn without_files() -> Fleet {
    Fleet { files: BTreeMap::new(), ..fleet(1, "h") }
}

async fn views_and_watches_follow_both_forms(bench: Bench) {
    let dir = bench.fleet();
    bench.write_older().await;
    let (mut files, mut servers) = (dir.files.live().await.unwrap(), dir.servers.live().await.unwrap());
    assert_eq!((files.get().get("_a"), servers.get().get("_s")), (Some(&1), Some(&server("h"))));
    let mut changes = dir.files.watch().await.unwrap();
    if bench.hides() {
        return;
    }
    dir.files.entry("_a").unwrap().set(&2).await.unwrap();
    let update = changes.next().await.unwrap().unwrap();
    assert_eq!((update.changes[0].key.as_str(), update.changes[0].change.old, update.changes[0].change.new), ("_a", Some(1), Some(2)));
    assert_eq!(files.changed().await.unwrap().get("_a"), Some(&2));
    // The value at the escaped key is no longer read.
    bench.put("/fleet/files/%5Fa", "9").await;
    bench.put("/fleet/files/b", "3").await;
    let update = changes.next().await.unwrap().unwrap();
    assert_eq!(update.changes.iter().map(|keyed| keyed.key.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(changes.current().unwrap().get("_a"), Some(&2));
    bench.client.entry::<Bytes>("/fleet/files/_a").unwrap().delete().await.unwrap();
    let update = changes.next().await.unwrap().unwrap();
    assert_eq!((update.changes[0].change.old, update.changes[0].change.new), (Some(2), Some(9)));
    until(&mut files, |files| files.get("_a") == Some(&9)).await;
    dir.files.entry("_a").unwrap().delete().await.unwrap();
    until(&mut files, |files| files.get("_a").is_none()).await;
    let moved = BTreeMap::from([("_s".to_owned(), server("i"))]);
    dir.servers.set(&moved).await.unwrap();
    until(&mut servers, |servers| servers.get("_s") == Some(&server("i"))).await;
    dir.servers.dir("_s").unwrap().delete().await.unwrap();
    until(&mut servers, |servers| servers.is_empty()).await;
}

/// The key that begins with `_` is read. The escaped key is ignored, whatever it contains.
async fn entry_with_both_names_exists_once(bench: Bench) {
    if bench.hides() {
        return;
    }
    let dir = bench.fleet();
    dir.set(&fleet(2, "own")).await.unwrap();
    bench.put("/fleet/files/%5Fa", "not a number").await;
    bench.put("/fleet/servers/%5Fs/host", "older").await;
    bench.put("/fleet/servers/%5Fs/port", "not a number").await;
    assert_eq!((dir.get().await.unwrap().into_inner(), dir.check().await.unwrap().problems), (fleet(2, "own"), vec![]));
    assert_eq!(dir.servers.keys().await.unwrap(), ["_s"]);
    assert_eq!(dir.servers.get().await.unwrap().into_inner(), fleet(2, "own").servers);
    assert_eq!((**dir.live().await.unwrap().get()).clone(), fleet(2, "own"));
    for limit in [1, 2, 10] {
        bench.put("/fleet/files/%5Fb", "3").await;
        let mut pages = dir.files.stream_in_pages_of(limit);
        let mut read = Vec::new();
        while let Some(entry) = pages.next().await {
            let (key, value) = entry.unwrap();
            read.push((key, value.into_inner()));
        }
        assert_eq!(read, [("_b".to_owned(), 3), ("_a".to_owned(), 2)], "{limit}");
    }
}

async fn removal_of_entry_with_both_names_removes_both(bench: Bench) {
    if bench.hides() {
        return;
    }
    let dir = bench.fleet();
    let none = Fleet { files: BTreeMap::new(), servers: BTreeMap::new() };
    for way in ["swap", "update", "set"] {
        dir.set(&fleet(2, "own")).await.unwrap();
        bench.write_older().await;
        let seen = dir.get().await.unwrap();
        match way {
            "swap" => drop(dir.compare_and_swap(&seen, &none).await.unwrap()),
            "update" => drop(dir.update(|fleet| *fleet = none.clone()).await.unwrap()),
            _ => drop(dir.set(&none).await.unwrap()),
        }
        assert_eq!((bench.paths("/fleet").await, dir.get().await.unwrap().into_inner()), (Vec::<String>::new(), none.clone()), "{way}");
    }
}

async fn reserved_name_is_no_entry(bench: Bench) {
    let map = bench.client.entries::<String, u8>("/map").unwrap();
    bench.put("/map/_etcd-typed", "not a number").await;
    assert_eq!((map.get().await.unwrap().len(), map.check().await.unwrap().problems.len()), (0, 0));
    map.entry("_etcd-typed").unwrap().set(&1).await.unwrap();
    assert_eq!(map.get().await.unwrap().into_inner(), BTreeMap::from([("_etcd-typed".to_owned(), 1)]));
    assert_eq!(bench.value("/map/%5Fetcd-typed").await.as_deref(), Some("1"));
}
