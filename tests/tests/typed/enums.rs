//! An enum with data is stored as a directory. The tag says which variant's fields are read.
//! Writing another variant removes all keys below the directory. Writing one field requires that
//! the stored variant has this field.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod changes;
mod names;
mod older_programs;
mod one_field;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::CountingStore;
use etcd_typed::{Client, ErrorKind, EtcdSchema, Previous, ProblemKind, Schema};

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
enum Storage {
    /// A directory of this machine.
    Local {
        path: PathBuf,
        #[etcd(default = true)]
        sync: bool,
        #[etcd(dir)]
        quota: Option<Quota>,
    },
    #[etcd(alias = "aws")]
    S3 {
        path: String,
        #[etcd(secret, allow_debug)]
        key: String,
        #[etcd(alias = "location")]
        region: Option<String>,
        #[etcd(entries)]
        labels: BTreeMap<String, u8>,
        #[etcd(dir)]
        quota: Quota,
    },
    Ftp(Ftp),
    Nothing,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Quota {
    bytes: u64,
    files: Option<u64>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Ftp {
    host: String,
    #[etcd(dir)]
    mirrors: BTreeMap<String, Quota>,
}

/// A struct with the enum in every place.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct App {
    name: String,
    #[etcd(dir)]
    main: Storage,
    #[etcd(dir)]
    backup: Option<Storage>,
    #[etcd(dir)]
    pools: BTreeMap<String, Storage>,
    #[etcd(flatten)]
    cache: Cache,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(tag = "cache")]
enum Cache {
    Off,
    Memory {
        entries: u32,
    },
    Disk {
        folder: String,
        #[etcd(dir)]
        disk: Quota,
    },
}

fn local(path: &str) -> Storage {
    Storage::Local { path: path.into(), sync: false, quota: None }
}

fn s3(path: &str) -> Storage {
    Storage::S3 {
        path: path.to_owned(),
        key: "hunter2".to_owned(),
        region: Some("eu".to_owned()),
        labels: BTreeMap::from([("a".to_owned(), 1)]),
        quota: Quota { bytes: 5, files: None },
    }
}

fn ftp() -> Storage {
    let mirrors = BTreeMap::from([("m".to_owned(), Quota { bytes: 7, files: Some(1) })]);
    Storage::Ftp(Ftp { host: "h".to_owned(), mirrors })
}

fn app() -> App {
    App {
        name: "app".to_owned(),
        main: local("/main"),
        backup: Some(s3("b")),
        pools: BTreeMap::from([("a".to_owned(), ftp()), ("b".to_owned(), Storage::Nothing)]),
        cache: Cache::Memory { entries: 3 },
    }
}

struct Bench {
    client: Client,
}

impl Bench {
    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }

    fn storage(&self) -> StorageDir {
        self.client.dir::<Storage>("/storage").unwrap()
    }

    fn app(&self) -> AppDir {
        self.client.dir::<App>("/app").unwrap()
    }

    async fn put(&self, path: &str, value: &str) {
        self.client.entry(path).unwrap().set(&value.to_owned()).await.unwrap();
    }

    /// Returns the keys below a directory, with their values.
    async fn below(&self, directory: &str) -> Vec<String> {
        let nodes = self.client.directory(directory).unwrap().list_recursive().await.unwrap();
        let shown = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
        nodes.into_iter().filter_map(|node| Some(format!("{}={}", node.path, shown(node.value.as_ref()?)))).collect()
    }

    async fn set(&self, value: &Storage) {
        self.storage().set(value).non_atomic().await.unwrap();
    }
}

/// Writes keys that no variant has, some with hidden names, as a program of another version might.
async fn unknown_keys(bench: &Bench, directory: &str) {
    for name in ["unknown", "deep/er/unknown", "_hidden"] {
        bench.put(&format!("{directory}/{name}"), "x").await;
    }
}

etcd_typed_tests::on_every_store! { "enums":
    every_variant_reads_back
    nested_enums_read_back
    tag_alone_decides
    missing_fields_are_named
    switch_removes_everything_below
    same_variant_keeps_unknown_keys
    switch_of_flattened_enum_keeps_neighbours
    switches_in_maps_and_optional_directories
    conditional_writes_compare_the_whole_enum
    check_lists_keys_of_other_variants
    diff_shows_what_a_switch_deletes
    create_and_delete_follow_the_tag
}

async fn every_variant_reads_back(bench: Bench) {
    let storage = bench.storage();
    for value in [local("/x"), s3("p"), ftp(), Storage::Nothing, s3("q"), local("/y")] {
        bench.set(&value).await;
        assert_eq!(*storage.get().await.unwrap(), value);
        assert!(storage.exists().await.unwrap());
        if bench.transactions() {
            storage.set(&value).await.unwrap();
            assert_eq!(*storage.get().await.unwrap(), value);
        }
    }
    bench.set(&s3("p")).await;
    let keys = ["key=hunter2", "kind=s3", "labels/a=1", "path=p", "quota/bytes=5", "region=eu"];
    assert_eq!(bench.below("/storage").await, keys);
}

async fn nested_enums_read_back(bench: Bench) {
    let dir = bench.app();
    dir.set(&app()).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), app());
    assert_eq!(*dir.backup.get().await.unwrap(), s3("b"));
    assert_eq!(*dir.pools.dir("a").unwrap().get().await.unwrap(), ftp());
    assert_eq!(dir.pools.keys().await.unwrap(), ["a", "b"]);
    let pools = dir.pools.get_per_entry().await.unwrap();
    assert_eq!((pools.entries.clone(), pools.problems.len()), (app().pools, 0));
    let live = dir.live().await.unwrap();
    assert_eq!(**live.get(), app());
}

async fn tag_alone_decides(bench: Bench) {
    bench.set(&local("/x")).await;
    bench.put("/storage/key", "other").await;
    bench.put("/storage/labels/b", "no number").await;
    assert_eq!(*bench.storage().get().await.unwrap(), local("/x"));
    bench.put("/storage/kind", " nothing\n").await;
    assert_eq!(*bench.storage().get().await.unwrap(), Storage::Nothing);
}

async fn missing_fields_are_named(bench: Bench) {
    bench.put("/storage/kind", "aws").await;
    let error = bench.storage().get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let named: Vec<_> = error.problems().iter().map(|problem| (problem.key.to_string(), problem.kind)).collect();
    let missing = |name: &str| (format!("{}/{name}", bench.storage().key()), ProblemKind::Missing);
    assert_eq!(named, ["path", "key", "quota/bytes"].map(missing));

    bench.put("/storage/kind", "azure").await;
    let problems = bench.storage().get().await.unwrap_err().problems().to_vec();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].kind, ProblemKind::Undecodable);
    assert_eq!(problems[0].reason, "not one of `local`, `s3`, `ftp`, `nothing`");

    bench.client.entry::<Bytes>("/storage/kind").unwrap().delete().await.unwrap();
    bench.put("/storage/path", "p").await;
    let problems = bench.storage().get().await.unwrap_err().problems().to_vec();
    assert_eq!((problems.len(), problems[0].kind), (1, ProblemKind::Missing));
    assert!(problems[0].key.to_string().ends_with("/kind"), "{problems:?}");
}

async fn switch_removes_everything_below(bench: Bench) {
    let storage = bench.storage();
    for way in ["set", "set in steps", "update", "update in steps", "update fields", "swap", "swap in steps"] {
        if !bench.transactions() && !way.ends_with("in steps") {
            continue;
        }
        bench.set(&s3("p")).await;
        unknown_keys(&bench, "/storage").await;
        bench.put("/storage/location", "old alias").await;
        bench.put("/storage/host", "of another variant").await;
        let seen = storage.get().await.unwrap();
        let switch = |value: &mut Storage| *value = local("/new");
        match way {
            "set" => drop(storage.set(&local("/new")).await.unwrap()),
            "set in steps" => drop(storage.set(&local("/new")).non_atomic().await.unwrap()),
            "update" => drop(storage.update(switch).await.unwrap()),
            "update in steps" => drop(storage.update(switch).non_atomic().await.unwrap()),
            "update fields" => drop(storage.update(switch).changed_fields_only().await.unwrap()),
            "swap" => drop(storage.compare_and_swap(&seen, &local("/new")).await.unwrap()),
            _ => drop(storage.compare_and_swap(&seen, &local("/new")).non_atomic().await.unwrap()),
        }
        assert_eq!(bench.below("/storage").await, ["kind=local", "path=/new", "sync=false"], "{way}");
        if bench.transactions() {
            assert!(!bench.client.entry::<Bytes>("/storage/_hidden").unwrap().exists().await.unwrap(), "{way}");
        }
    }
}

async fn same_variant_keeps_unknown_keys(bench: Bench) {
    let storage = bench.storage();
    bench.set(&s3("p")).await;
    bench.put("/storage/unknown", "x").await;
    bench.put("/storage/host", "of another variant").await;
    let updated = storage.update(|value| *value = s3("q")).non_atomic().await.unwrap();
    assert_eq!(*updated, s3("q"));
    assert!(bench.below("/storage").await.contains(&"host=of another variant".to_owned()), "another program may just switch");
    bench.set(&s3("r")).await;
    let keys = bench.below("/storage").await;
    assert!(keys.contains(&"unknown=x".to_owned()) && !keys.iter().any(|key| key.starts_with("host")), "{keys:?}");
}

async fn switch_of_flattened_enum_keeps_neighbours(bench: Bench) {
    let dir = bench.app();
    dir.set(&app()).non_atomic().await.unwrap();
    bench.put("/app/unknown", "x").await;
    let disk = || Cache::Disk { folder: "f".to_owned(), disk: Quota { bytes: 1, files: Some(2) } };
    dir.cache.set(&disk()).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), App { cache: disk(), ..app() });
    dir.update(|app| app.cache = Cache::Off).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), App { cache: Cache::Off, ..app() });
    let keys = bench.below("/app").await;
    assert!(keys.contains(&"unknown=x".to_owned()) && keys.contains(&"cache=off".to_owned()), "{keys:?}");
    assert!(!keys.iter().any(|key| ["entries", "folder", "disk"].iter().any(|name| key.starts_with(name))), "{keys:?}");
}

async fn switches_in_maps_and_optional_directories(bench: Bench) {
    let dir = bench.app();
    let mut value = app();
    dir.set(&value).non_atomic().await.unwrap();
    for directory in ["main", "backup", "pools/a", "pools/b"] {
        unknown_keys(&bench, &format!("/app/{directory}")).await;
    }
    value.main = Storage::Nothing;
    value.backup = Some(ftp());
    value.pools.insert("a".to_owned(), local("/a"));
    value.pools.insert("c".to_owned(), s3("c"));
    dir.set(&value).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), value);
    let keys = bench.below("/app").await;
    let unknown: Vec<_> = keys.iter().filter(|key| key.contains("unknown")).collect();
    assert_eq!(unknown, ["pools/b/deep/er/unknown=x", "pools/b/unknown=x"], "only the entry that was not switched");

    value.backup = None;
    value.pools.insert("c".to_owned(), Storage::Nothing);
    value.pools.remove("b");
    dir.update(|app| *app = value.clone()).non_atomic().await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), value);
    dir.pools.set(&BTreeMap::from([("c".to_owned(), ftp())])).non_atomic().await.unwrap();
    assert_eq!(*dir.pools.get().await.unwrap(), BTreeMap::from([("c".to_owned(), ftp())]));
    let keys = bench.below("/app").await;
    assert!(!keys.iter().any(|key| key.contains("unknown") || key.starts_with("backup") || key.starts_with("pools/b")), "{keys:?}");
}

async fn conditional_writes_compare_the_whole_enum(bench: Bench) {
    let storage = bench.storage();
    bench.set(&s3("p")).await;
    let seen = storage.get().await.unwrap();
    storage.update(|value| *value = local("/x")).non_atomic().await.unwrap();
    let swap = storage.compare_and_swap(&seen, &s3("q"));
    let conflict = if bench.transactions() { swap.await } else { swap.non_atomic().await }.unwrap_err();
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
    assert_eq!(conflict.current::<Storage>().map(|now| (**now).clone()), Some(local("/x")));
    let refused = storage.create(&ftp()).non_atomic().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    assert_eq!(*storage.get().await.unwrap(), local("/x"));
}

async fn check_lists_keys_of_other_variants(bench: Bench) {
    let storage = bench.storage();
    bench.set(&s3("p")).await;
    assert!(storage.check().await.unwrap().is_empty());
    for name in ["sync", "mirrors/m/bytes", "unknown", "location"] {
        bench.put(&format!("/storage/{name}"), "1").await;
    }
    let check = storage.check().await.unwrap();
    let shown: Vec<_> = check.problems.iter().map(|problem| (problem.key.to_string(), problem.reason.as_str())).collect();
    let at = |name: &str| format!("{}/{name}", storage.key());
    let expected = [
        (at("mirrors/m/bytes"), "not read: it is a key of the variant `ftp`, and `kind` is `s3`; delete the key"),
        (at("sync"), "not read: it is a key of the variant `local`, and `kind` is `s3`; delete the key"),
        (at("unknown"), "not a key of the schema"),
    ];
    assert_eq!(shown, expected);
    assert!(check.problems.iter().all(|problem| problem.kind == ProblemKind::Unknown));
}

async fn diff_shows_what_a_switch_deletes(bench: Bench) {
    bench.set(&s3("p")).await;
    bench.put("/storage/unknown", "x").await;
    let root = bench.storage().key().to_string();
    let diff = bench.storage().diff(&local("p")).await.unwrap().to_string().replace(&root, "");
    let lines = [
        "- /key: ***",
        "~ /kind: s3 -> local",
        "- /labels/a: 1",
        "- /quota/bytes: 5",
        "- /region: eu",
        "+ /sync: false",
        "- /unknown: ***",
    ];
    assert_eq!(diff.lines().collect::<Vec<_>>(), lines);
    assert!(bench.storage().diff(&s3("p")).await.unwrap().is_empty());
}

async fn create_and_delete_follow_the_tag(bench: Bench) {
    let storage = bench.storage();
    bench.put("/storage/path", "left over").await;
    bench.put("/storage/host", "left over").await;
    assert!(!storage.exists().await.unwrap());
    storage.create(&local("/x")).non_atomic().await.unwrap();
    assert_eq!(bench.below("/storage").await, ["kind=local", "path=/x", "sync=false"]);
    bench.put("/storage/host", "left over").await;
    let Previous::Value(was) = storage.delete().non_atomic().await.unwrap() else { panic!("there was a value") };
    assert_eq!(*was, local("/x"));
    assert_eq!(bench.below("/storage").await, [""; 0]);
    if bench.transactions() {
        bench.put("/storage/host", "left over").await;
        storage.create(&s3("p")).await.unwrap();
        assert_eq!(*storage.get().await.unwrap(), s3("p"));
        assert_eq!(bench.below("/storage").await.len(), 6);
    }
}

#[test]
fn description_lists_variants_and_their_fields() {
    let shown = Storage::describe().to_string();
    for line in [
        "kind  one of `local`, `s3`, `ftp`, `nothing`",
        "  variant Local: `local`",
        "    A directory of this machine.",
        "  variant S3: `s3` or `aws`",
        "key  text, secret",
        "quota/  Quota, optional",
        "quota/bytes  unsigned integer",
        "mirrors/<text>/files  unsigned integer, optional",
    ] {
        assert!(shown.lines().any(|other| other == line), "{line} in\n{shown}");
    }
    let table = serde_json::to_value(Storage::describe()).unwrap();
    assert_eq!(table["fields"][0]["segment"], "kind");
    assert_eq!(table["fields"][2]["kind"]["variant"]["tags"], serde_json::json!(["s3", "aws"]));
}

/// On a store with transactions, a change to another variant costs a read and a transaction.
#[tokio::test]
async fn variant_change_costs_two_requests_with_memory_store() {
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    let client = Client::with_store(counting.clone());
    let storage = client.dir::<Storage>("/storage").unwrap();
    storage.set(&s3("p")).await.unwrap();
    counting.take();
    storage.set(&local("/x")).await.unwrap();
    assert_eq!(counting.take().total(), 2);
    storage.update(|value| *value = ftp()).await.unwrap();
    assert_eq!(counting.take().total(), 2);
    let seen = storage.get().await.unwrap();
    counting.take();
    storage.compare_and_swap(&seen, &s3("p")).await.unwrap();
    assert_eq!(counting.take().total(), 2);
}

/// One operation deletes all keys of the old variant, also a large map.
#[tokio::test]
async fn removing_variant_with_large_map_is_one_transaction_with_memory_store() {
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    let client = Client::with_store(counting.clone());
    let dir = client.dir::<App>("/app").unwrap();
    let mut large = s3("large");
    if let Storage::S3 { labels, .. } = &mut large {
        labels.extend((0..=255).map(|n| (n.to_string(), n)));
    }
    dir.set(&App { main: large.clone(), ..app() }).non_atomic().await.unwrap();
    assert_eq!(dir.get().await.unwrap().main, large);
    let live = dir.main.live().await.unwrap();
    assert_eq!(**live.get(), large);
    counting.take();
    dir.set(&app()).await.unwrap();
    let counts = counting.take();
    assert_eq!((counts.range, counts.commit), (1, 1));
    assert_eq!(*dir.get().await.unwrap(), app());
}

/// The type parameters of the enum are the types of a field and of a variant.
#[tokio::test]
async fn generic_enum_is_read_back_with_memory_store() {
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    #[etcd(tag = "of")]
    enum Of<T, S> {
        Value {
            value: T,
            #[etcd(default)]
            count: u8,
        },
        Plain {
            plain: u8,
        },
        Struct(Box<S>),
        Skipped {
            #[etcd(skip)]
            skipped: u8,
        },
    }

    let client = Client::connect("memory:").await.unwrap();
    let of = client.dir::<Of<String, Quota>>("/of").unwrap();
    for value in [
        Of::Value { value: "v".to_owned(), count: 1 },
        Of::Struct(Box::new(Quota { bytes: 1, files: None })),
        Of::Plain { plain: 2 },
        Of::Skipped { skipped: 0 },
    ] {
        of.set(&value).await.unwrap();
        assert_eq!(*of.get().await.unwrap(), value);
    }
    of.set(&Of::Struct(Box::new(Quota { bytes: 1, files: None }))).await.unwrap();
    of.clone().r#struct.bytes.set(&2).await.unwrap();
    assert_eq!(of.value.clone().count.set(&2).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(format!("{:?}", of.value).starts_with("OfValueDir"), "{:?}", of.value);
}

/// On v2 a write has several steps. Until the last step, which writes the tag, the enum has its old
/// variant.
#[tokio::test]
async fn tag_is_written_after_the_fields_on_v2() {
    let etcd = etcd_typed_tests::shared("enums").await;
    let client = Client::builder(&etcd.url_v2()).namespace("/enums-order").connect().await.unwrap();
    let bench = Bench { client };
    bench.set(&s3("p")).await;
    bench.set(&local("/x")).await;
    let modified = async |name: &str| {
        let key = format!("/storage/{name}");
        bench.client.entry::<String>(&key).unwrap().get().await.unwrap().unwrap().modified()
    };
    let (kind, path, sync) = (modified("kind").await, modified("path").await, modified("sync").await);
    assert!(path < kind && sync < kind, "{path} {sync} {kind}");
    let error = bench.storage().set(&s3("p")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = bench.storage().local.path.set(&PathBuf::from("/y")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("`.non_atomic()`"), "{error}");
}

/// A field that is written later expires together with the rest of the enum.
#[tokio::test]
async fn new_field_gets_tag_lease_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let storage = client.dir::<Storage>("/storage").unwrap();
    let lease = client.lease(Duration::from_secs(60)).await.unwrap();
    storage
        .set(&Storage::S3 {
            path: "p".into(),
            key: "k".into(),
            region: None,
            labels: BTreeMap::new(),
            quota: Quota { bytes: 1, files: None },
        })
        .lease(&lease)
        .await
        .unwrap();
    storage.s3.region.set("eu").await.unwrap();
    assert_eq!(storage.s3.region.get().await.unwrap().unwrap().lease(), Some(lease.id()));
    storage.update(|value| *value = local("/x")).await.unwrap();
    assert_eq!(storage.get().await.unwrap().lease(), Some(lease.id()));
}
