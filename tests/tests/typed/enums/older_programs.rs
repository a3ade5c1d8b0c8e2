//! Programs of two versions share a store. The older program reads a variant that it does not know.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::{Client, ErrorKind, EtcdSchema, Expect, ProblemKind};
use tokio::time::timeout;

/// The schema of the older program.
mod old {
    use super::{BTreeMap, EtcdSchema};

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) struct App {
        pub(super) name: String,
        #[etcd(dir)]
        pub(super) storage: Storage,
    }

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) enum Storage {
        Local { path: String },
    }

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) struct Open {
        pub(super) name: String,
        #[etcd(dir)]
        pub(super) storage: OpenStorage,
        #[etcd(dir)]
        pub(super) pools: BTreeMap<String, OpenStorage>,
    }

    /// Like `Storage`, with a variant for those of newer programs.
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    pub(super) enum OpenStorage {
        Local {
            path: String,
        },
        #[etcd(other)]
        Other,
    }
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct New {
    name: String,
    #[etcd(dir)]
    storage: Storage,
    #[etcd(dir)]
    pools: BTreeMap<String, Storage>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
enum Storage {
    Local { path: String },
    S3 { bucket: String },
}

fn new(storage: Storage) -> New {
    New { name: "app".to_owned(), pools: BTreeMap::from([("a".to_owned(), storage.clone())]), storage }
}

fn local() -> Storage {
    Storage::Local { path: "/x".to_owned() }
}

fn s3() -> Storage {
    Storage::S3 { bucket: "b".to_owned() }
}

async fn client() -> Client {
    Client::connect("memory:").await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn unknown_variant_keeps_last_good_state_of_view_with_memory_store() {
    let client = client().await;
    let (new_dir, old_dir) = (client.dir::<New>("/app").unwrap(), client.dir::<old::App>("/app").unwrap());
    new_dir.set(&new(local())).await.unwrap();
    let mut live = old_dir.live().await.unwrap();
    new_dir.update(|app| app.storage = s3()).await.unwrap();
    timeout(Duration::from_secs(1), live.changed()).await.unwrap_err();
    assert_eq!(live.get().storage, old::Storage::Local { path: "/x".to_owned() });
    let error = old_dir.get().await.unwrap_err();
    assert_eq!((error.kind(), error.problems()[0].kind), (ErrorKind::Invalid, ProblemKind::Undecodable));
    assert_eq!(error.problems()[0].reason, "not `local`");
    // An `update` of the older program does not overwrite a variant that it cannot read.
    assert_eq!(old_dir.update(|app| app.name = "old".to_owned()).await.unwrap_err().kind(), ErrorKind::Invalid);
    new_dir.update(|app| app.storage = Storage::Local { path: "/y".to_owned() }).await.unwrap();
    assert_eq!(live.changed().await.unwrap().storage, old::Storage::Local { path: "/y".to_owned() });
}

#[tokio::test]
async fn unknown_tag_is_read_as_other_variant_with_memory_store() {
    let client = client().await;
    let (new_dir, open) = (client.dir::<New>("/app").unwrap(), client.dir::<old::Open>("/app").unwrap());
    new_dir.set(&new(s3())).await.unwrap();
    let read = open.get().await.unwrap();
    assert_eq!((&read.storage, &read.pools["a"]), (&old::OpenStorage::Other, &old::OpenStorage::Other));

    // An update that does not change the enum keeps the unknown variant, in the struct and in the
    // map.
    let updated = open.update(|app| app.name = "old".to_owned()).await.unwrap();
    assert_eq!(updated.storage, old::OpenStorage::Other);
    open.update(|app| drop(app.pools.insert("b".to_owned(), old::OpenStorage::Local { path: "/b".to_owned() }))).await.unwrap();
    let now = new_dir.get().await.unwrap();
    assert_eq!((now.name.as_str(), &now.storage, &now.pools["a"], now.pools.len()), ("old", &s3(), &s3(), 2));

    // A write of the variant `Other` is refused, since it would destroy the stored fields.
    let lease = client.lease(Duration::from_secs(60)).await.unwrap();
    let refused = [
        open.set(&updated).await.unwrap_err(),
        open.compare_and_swap(&open.get().await.unwrap(), &updated).await.unwrap_err(),
        open.update(|app| app.name = "leased".to_owned()).lease(&lease).await.unwrap_err(),
        open.storage.set(&old::OpenStorage::Other).await.unwrap_err(),
        open.update(|app| drop(app.pools.insert("b".to_owned(), old::OpenStorage::Other))).await.unwrap_err(),
        open.pools.set(&updated.pools).await.unwrap_err(),
    ];
    for (at, error) in refused.iter().enumerate() {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{at}: {error}");
        assert_eq!(error.problems()[0].kind, ProblemKind::Unencodable, "{at}");
    }
    assert_eq!(*new_dir.get().await.unwrap(), *now);

    // A change to a known variant removes the fields of the unknown variant.
    open.update(|app| app.storage = old::OpenStorage::Local { path: "/z".to_owned() }).await.unwrap();
    let keys = client.directory("/app/storage").unwrap().list_recursive().await.unwrap();
    assert_eq!(keys.iter().map(|node| node.path.as_str()).collect::<Vec<_>>(), ["kind", "path"]);
}

#[tokio::test]
async fn change_contains_unknown_tag_with_memory_store() {
    let client = client().await;
    let (new_dir, open) = (client.dir::<Storage>("/s").unwrap(), client.dir::<old::OpenStorage>("/s").unwrap());
    new_dir.set(&local()).await.unwrap();
    let mut changes = open.watch().await.unwrap();
    new_dir.set(&s3()).await.unwrap();
    let update = changes.next().await.unwrap().unwrap();
    let old::OpenStorageChange::Variant(change) = &update.changes[0] else { panic!("{update:?}") };
    assert_eq!((change.old.as_deref(), change.new.as_deref()), (Some("local"), Some("s3")));
    assert!(matches!(&update.changes[1..], [old::OpenStorageChange::Local(_)]), "{update:?}");
}

/// `get_per_entry` leaves out a map entry whose variant this program does not know.
#[tokio::test]
async fn unknown_variant_is_reported_for_its_entry_with_memory_store() {
    let client = client().await;
    let new_map = client.dirs::<String, Storage>("/pools").unwrap();
    new_map.set(&BTreeMap::from([("a".to_owned(), local()), ("b".to_owned(), s3())])).await.unwrap();
    let old_map = client.dirs::<String, old::Storage>("/pools").unwrap();
    let read = old_map.get_per_entry().await.unwrap();
    assert_eq!(read.entries.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(read.problems.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), ["/pools/b/kind"]);
    assert_eq!(old_map.keys().await.unwrap(), ["a", "b"]);
}

/// A strict enum refuses keys that no variant has. Keys of variants that are not stored are
/// allowed.
#[tokio::test]
async fn strict_enum_refuses_unknown_keys_with_memory_store() {
    #[derive(EtcdSchema, Debug, PartialEq)]
    #[etcd(strict)]
    enum Strict {
        Local { path: String },
        S3 { bucket: String },
    }

    let client = client().await;
    let dir = client.dir::<Strict>("/s").unwrap();
    dir.set(&Strict::Local { path: "/x".to_owned() }).await.unwrap();
    client.entry("/s/bucket").unwrap().set("b").await.unwrap();
    assert_eq!(*dir.get().await.unwrap(), Strict::Local { path: "/x".to_owned() });
    client.entry("/s/typo").unwrap().set("b").await.unwrap();
    assert_eq!(dir.get().await.unwrap_err().problems()[0].kind, ProblemKind::Unknown);
}

/// A write first runs the validation of the enum and that of the struct in its variant.
#[tokio::test]
async fn write_validates_enum_and_its_variant_with_memory_store() {
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    #[etcd(validate = allowed)]
    enum Checked {
        Low { limit: u8 },
        High(High),
    }

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    #[etcd(validate = even)]
    struct High {
        #[etcd(range = 1..=100)]
        limit: u8,
    }

    fn allowed(value: &Checked) -> Result<(), &'static str> {
        if matches!(value, Checked::Low { limit: 0 }) { Err("too low") } else { Ok(()) }
    }

    fn even(value: &High) -> Result<(), &'static str> {
        if value.limit.is_multiple_of(2) { Ok(()) } else { Err("odd") }
    }

    let dir = client().await.dir::<Checked>("/c").unwrap();
    let reasons = async |value: &Checked| -> Vec<String> {
        let error = dir.set(value).await.unwrap_err();
        error.problems().iter().map(|problem| problem.reason.clone()).collect()
    };
    assert_eq!(reasons(&Checked::Low { limit: 0 }).await, ["too low"]);
    assert_eq!(reasons(&Checked::High(High { limit: 3 })).await, ["odd"]);
    assert_eq!(reasons(&Checked::High(High { limit: 102 })).await.len(), 1);
    dir.set(&Checked::High(High { limit: 2 })).await.unwrap();
    let two = 2;
    assert!(dir.high.limit.compare_and_swap(Expect::value(&two), &4).await.is_ok());
}
