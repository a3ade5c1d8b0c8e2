//! The server is replaced by a backup between the read and the transaction of a write. The writer
//! must notice the backup, although every key in it is older than the read. The tests use the
//! memory store: they delay its commits, and meanwhile empty the store and write the keys of the
//! backup.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::Duration;

use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::{Client, ErrorKind, EtcdSchema, Versioned};
use tokio::time::sleep;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/restored")]
struct Target {
    counter: u64,
    note: Option<String>,
    #[etcd(entries)]
    entries: BTreeMap<String, u64>,
}

impl Target {
    fn of(counter: u64, entries: u64) -> Self {
        let entries = (0..entries).map(|n| (format!("n{n}"), counter + n)).collect();
        Self { counter, note: (counter == 1).then(|| "first".to_owned()), entries }
    }
}

/// The state in the backup. It has keys that no later state has.
fn backup() -> Target {
    Target::of(1, 3)
}

/// The state before the backup is restored.
fn newest() -> Target {
    Target::of(5, 1)
}

struct Bench {
    store: MemoryStore,
    dir: TargetDir,
}

impl Bench {
    /// A store whose state is newer than the backup.
    async fn new() -> Self {
        let store = MemoryStore::new();
        let dir = TargetDir::open(&Client::with_store(store.clone())).unwrap();
        dir.set(&backup()).await.unwrap();
        for counter in 2..5 {
            dir.set(&Target::of(counter, 2)).await.unwrap();
        }
        dir.set(&newest()).await.unwrap();
        Self { store, dir }
    }

    /// Performs a write. The backup is restored before its first transaction.
    async fn restore_during<W: IntoFuture>(&self, write: W) -> W::Output {
        self.store.faults().delay(Calls::Commits, Duration::from_secs(1));
        let restore = async {
            sleep(Duration::from_millis(500)).await;
            self.store.faults().clear();
            self.store.faults().wipe();
            self.dir.set(&backup()).await.unwrap();
        };
        tokio::join!(write.into_future(), restore).0
    }

    async fn now(&self) -> Versioned<Target> {
        self.dir.get().await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn set_leaves_no_key_of_restored_backup() {
    let bench = Bench::new().await;
    let value = Target::of(6, 1);
    bench.restore_during(bench.dir.set(&value)).await.unwrap();
    assert_eq!(*bench.now().await, value);
}

#[tokio::test(start_paused = true)]
async fn set_after_deletions_leaves_no_key_of_restored_backup() {
    let bench = Bench::new().await;
    // The update leaves only keys that equal those of the backup.
    bench.store.faults().wipe();
    bench.dir.set(&backup()).await.unwrap();
    bench.dir.update(|value| value.entries.clear()).await.unwrap();
    let value = Target::of(6, 0);
    bench.restore_during(bench.dir.set(&value)).await.unwrap();
    assert_eq!(*bench.now().await, value);
}

#[tokio::test(start_paused = true)]
async fn create_leaves_no_key_of_restored_backup() {
    let bench = Bench::new().await;
    bench.dir.delete().await.unwrap();
    let created = bench.restore_during(bench.dir.create(&Target::of(6, 1))).await;
    assert_eq!(created.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(*bench.now().await, backup());
}

#[tokio::test(start_paused = true)]
async fn update_starts_from_restored_backup() {
    let bench = Bench::new().await;
    bench.restore_during(bench.dir.update(|value| value.counter += 10)).await.unwrap();
    assert_eq!(*bench.now().await, Target { counter: 11, ..backup() });
}

#[tokio::test(start_paused = true)]
async fn changed_fields_update_starts_from_restored_backup() {
    let bench = Bench::new().await;
    bench.restore_during(bench.dir.update(|value| value.counter += 10).changed_fields_only()).await.unwrap();
    assert_eq!(*bench.now().await, Target { counter: 11, ..backup() });
}

#[tokio::test(start_paused = true)]
async fn compare_and_swap_conflicts_with_restored_backup() {
    let bench = Bench::new().await;
    let seen = bench.now().await;
    let swapped = bench.restore_during(bench.dir.compare_and_swap(&seen, &Target::of(6, 1))).await;
    assert_eq!(swapped.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(*bench.now().await, backup());
}

#[tokio::test(start_paused = true)]
async fn compare_and_delete_conflicts_with_restored_backup() {
    let bench = Bench::new().await;
    let seen = bench.now().await;
    let deleted = bench.restore_during(bench.dir.compare_and_delete(&seen)).await;
    assert_eq!(deleted.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(*bench.now().await, backup());
}

#[tokio::test(start_paused = true)]
async fn delete_leaves_no_key_of_restored_backup() {
    let bench = Bench::new().await;
    bench.restore_during(bench.dir.delete()).await.unwrap();
    let left = Client::with_store(bench.store.clone()).directory("/restored").unwrap().list().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn transaction_condition_conflicts_with_restored_backup() {
    let bench = Bench::new().await;
    let seen = bench.now().await;
    let client = Client::with_store(bench.store.clone());
    let mark = client.entry::<String>("/mark").unwrap();
    let transaction = client.transaction().expect_unchanged(&bench.dir, &seen).write(mark.set(&"x".to_owned()));
    let committed = bench.restore_during(transaction).await;
    assert_eq!(committed.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(!mark.exists().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn setting_map_leaves_no_key_of_restored_backup() {
    let bench = Bench::new().await;
    let entries: BTreeMap<String, u64> = [("n0".to_owned(), 9)].into();
    bench.restore_during(bench.dir.entries.set(&entries)).await.unwrap();
    assert_eq!(*bench.now().await, Target { entries, ..backup() });
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/restored")]
struct Plain {
    counter: u64,
    limit: u64,
    note: Option<String>,
}

/// A `set` leaves out keys that already have their value. In the backup they have another value.
#[tokio::test(start_paused = true)]
async fn set_without_maps_replaces_restored_backup() {
    let bench = Bench::new().await;
    let dir = PlainDir::open(&Client::with_store(bench.store.clone())).unwrap();
    dir.set(&Plain { counter: 5, limit: 2, note: None }).await.unwrap();
    let value = Plain { counter: 6, limit: 2, note: None };
    bench.restore_during(dir.set(&value)).await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), value);
}

/// The map is empty when `seed` reads it, apart from a key that is no entry. In the backup the map
/// has entries.
#[tokio::test(start_paused = true)]
async fn seed_leaves_map_of_restored_backup() {
    let bench = Bench::new().await;
    let client = Client::with_store(bench.store.clone());
    bench.dir.set(&Target::of(5, 0)).await.unwrap();
    client.entry::<u64>("/restored/entries/foreign/key").unwrap().set(&1).await.unwrap();
    bench.restore_during(bench.dir.seed(&Target::of(6, 9))).await.unwrap();
    assert_eq!(*bench.now().await, backup());
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
enum Storage {
    Local { path: String, size: Option<u64> },
    S3 { path: String, bucket: String },
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/files")]
struct Files {
    #[etcd(dir)]
    storage: Storage,
}

/// The keys that the update writes or deletes are the same in the backup. A key that the new variant
/// leaves as it is has another revision there.
#[tokio::test(start_paused = true)]
async fn switch_leaves_no_key_of_restored_backup() {
    let store = MemoryStore::new();
    let client = Client::with_store(store.clone());
    let (dir, foreign) = (FilesDir::open(&client).unwrap(), client.entry::<u64>("/files/storage/foreign").unwrap());
    let local = Files { storage: Storage::Local { path: "old".to_owned(), size: None } };
    let s3 = Storage::S3 { path: "new".to_owned(), bucket: "b".to_owned() };
    let restore = async || {
        store.faults().wipe();
        dir.set(&local).await.unwrap();
    };
    restore().await;
    dir.storage.local.path.set("new").await.unwrap();
    store.faults().delay(Calls::Commits, Duration::from_secs(1));
    let update = dir.update(|files| files.storage = s3.clone()).changed_fields_only();
    let restored = async {
        sleep(Duration::from_millis(500)).await;
        store.faults().clear();
        restore().await;
        foreign.set(&1).await.unwrap();
    };
    let (updated, ()) = tokio::join!(update.into_future(), restored);
    assert_eq!(updated.unwrap().storage, s3);
    assert_eq!((foreign.get().await.unwrap().is_none(), &dir.get().await.unwrap().storage), (true, &s3));
}
