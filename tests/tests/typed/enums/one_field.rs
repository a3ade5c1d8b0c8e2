//! A write through the handle of one variant requires that the stored enum has this variant.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::CountingStore;
use etcd_typed::{Client, ErrorKind, EtcdSchema, Expect, Result};
use futures_util::FutureExt;

use super::{Ftp, Quota, Storage, StorageDir, ftp, local, s3};

struct Bench {
    client: Client,
}

impl Bench {
    fn storage(&self) -> StorageDir {
        self.client.dir::<Storage>("/storage").unwrap()
    }

    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }
}

etcd_typed_tests::on_every_store! { "enums-field":
    field_of_present_variant_is_written
    field_of_other_variant_conflicts
    tag_in_another_form_counts
    transaction_requires_the_variant
}

async fn field_of_present_variant_is_written(bench: Bench) {
    if !bench.transactions() {
        return;
    }
    let storage = bench.storage();
    storage.set(&s3("p")).await.unwrap();
    storage.s3.path.set("q").await.unwrap();
    storage.s3.region.delete().await.unwrap();
    storage.s3.labels.entry("b").unwrap().set(&2).await.unwrap();
    storage.s3.quota.files.modify(|files| Some(files.unwrap_or(1) + 1)).await.unwrap();
    storage.s3.quota.update(|quota| quota.bytes = 9).await.unwrap();
    let seen = storage.s3.path.get().await.unwrap();
    storage.s3.path.compare_and_swap(&seen, "r").await.unwrap();
    let Storage::S3 { path, region, labels, quota, .. } = storage.get().await.unwrap().into_inner() else { panic!("still S3") };
    assert_eq!((path.as_str(), region, labels.len()), ("r", None, 2));
    assert_eq!(quota, Quota { bytes: 9, files: Some(2) });

    storage.set(&ftp()).await.unwrap();
    storage.ftp.update(|ftp| ftp.host = "other".to_owned()).await.unwrap();
    storage.ftp.mirrors.dir("n").unwrap().set(&Quota { bytes: 1, files: None }).await.unwrap();
    storage.ftp.mirrors.dir("m").unwrap().delete().await.unwrap();
    let Storage::Ftp(Ftp { host, mirrors }) = storage.get().await.unwrap().into_inner() else { panic!("still Ftp") };
    assert_eq!((host.as_str(), mirrors.keys().map(String::as_str).collect::<Vec<_>>()), ("other", vec!["n"]));
}

async fn field_of_other_variant_conflicts(bench: Bench) {
    if !bench.transactions() {
        return;
    }
    let storage = bench.storage();
    for value in [Some(local("/x")), None] {
        match &value {
            Some(value) => drop(storage.set(value).await.unwrap()),
            None => drop(storage.delete().await.unwrap()),
        }
        let StorageDir { s3, ftp, .. } = &storage;
        let keys = async || -> Vec<String> {
            let nodes = bench.client.directory("/storage").unwrap().list_recursive().await.unwrap().into_inner();
            nodes.into_iter().map(|node| format!("{}={:?}", node.path, node.value.as_deref())).collect()
        };
        let before = keys().await;
        let path = "q".to_owned();
        let absent = Quota { bytes: 1, files: None };
        let outcomes: Vec<Result<()>> = vec![
            s3.path.set("q").await.map(drop),
            s3.path.create("q").await.map(drop),
            s3.path.replace("q").await.map(drop),
            s3.path.swap("q").await.map(drop),
            s3.path.compare_and_swap(Expect::value(&path), "q").await.map(drop),
            s3.path.delete().await.map(drop),
            s3.path.compare_and_delete(Expect::value(&path)).await.map(drop),
            s3.path.modify(|_| Some("q".to_owned())).await.map(drop),
            s3.path.modify(|path| path).await.map(drop),
            s3.labels.entry("b").unwrap().set(&2).await.map(drop),
            s3.labels.set(&[("b".to_owned(), 2)].into()).await.map(drop),
            s3.quota.set(&absent).await.map(drop),
            s3.quota.create(&absent).await.map(drop),
            s3.quota.bytes.set(&1).await.map(drop),
            s3.quota.delete().await.map(drop),
            ftp.set(&Ftp { host: "h".to_owned(), mirrors: [].into() }).await.map(drop),
            ftp.set(&Ftp { host: "h".to_owned(), mirrors: [].into() }).non_atomic().await.map(drop),
            ftp.host.set("h").await.map(drop),
            ftp.mirrors.dir("m").unwrap().set(&absent).await.map(drop),
            ftp.mirrors.dir("m").unwrap().delete().await.map(drop),
            bench.client.transaction().write(s3.path.set("q")).await.map(drop),
            bench.client.transaction().delete(&s3.path).await.map(drop),
            bench.client.transaction().set_dir(&s3.quota, &absent).await.map(drop),
        ];
        for (at, outcome) in outcomes.into_iter().enumerate() {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{at}: {error}");
        }
        assert_eq!(keys().await, before);
        let error = s3.path.set("q").await.unwrap_err().to_string();
        let now = if value.is_some() { "is `local`" } else { "does not exist" };
        assert!(error.contains("for the variant `s3`") && error.contains(now), "{error}");
    }
}

/// Another program may have written the tag as an alias, or with spaces or a line end around it.
async fn tag_in_another_form_counts(bench: Bench) {
    if !bench.transactions() {
        return;
    }
    let storage = bench.storage();
    storage.set(&s3("p")).await.unwrap();
    for form in ["aws", "s3\n", " aws "] {
        bench.client.entry("/storage/kind").unwrap().set(form).await.unwrap();
        storage.s3.path.set("q").await.unwrap();
        let error = storage.s3.path.create("r").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "the other conditions still count");
        assert_eq!(error.current::<String>().map(|now| (**now).clone()), Some("q".to_owned()));
        assert_eq!(storage.local.path.set(&PathBuf::from("/x")).await.unwrap_err().kind(), ErrorKind::Conflict);
        let kept = bench.client.entry::<String>("/storage/kind").unwrap().get().await.unwrap().unwrap();
        assert_eq!(*kept, form);
    }
}

async fn transaction_requires_the_variant(bench: Bench) {
    if !bench.transactions() {
        return;
    }
    let storage = bench.storage();
    storage.set(&s3("p")).await.unwrap();
    let both = || bench.client.transaction().write(storage.s3.path.set("q")).write(storage.s3.key.set("k"));
    both().await.unwrap();
    let lock = bench.client.lock("/locks/storage").acquire().await.unwrap();
    storage.s3.path.set("r").guarded_by(&lock).await.unwrap();
    let error = storage.local.sync.set(&true).guarded_by(&lock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    lock.release().await.unwrap();
    storage.set(&local("/x")).await.unwrap();
    assert_eq!(both().await.unwrap_err().kind(), ErrorKind::Conflict);
    let whole = bench.client.transaction().set_dir(&storage, &s3("p")).await.unwrap_err();
    assert_eq!(whole.kind(), ErrorKind::Unsupported);
}

/// If another caller changes the variant during an update, the update runs again and leaves no key
/// of the old variant.
#[tokio::test]
async fn update_reruns_after_variant_change_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let storage = client.dir::<Storage>("/storage").unwrap();
    storage.set(&s3("p")).await.unwrap();
    let runs = AtomicU32::new(0);
    let updated = storage.update(|value| {
        if runs.fetch_add(1, Ordering::Relaxed) == 0 {
            storage.set(&local("/x")).into_future().now_or_never().expect("the memory store does not wait").unwrap();
        }
        match value {
            Storage::S3 { path, .. } => *path = "raced".to_owned(),
            Storage::Local { sync, .. } => *sync = true,
            _ => {}
        }
    });
    let updated = updated.changed_fields_only().await.unwrap();
    assert_eq!((runs.into_inner(), &*updated), (2, &Storage::Local { path: "/x".into(), sync: true, quota: None }));
    assert_eq!(*storage.get().await.unwrap(), *updated);
}

/// If a key is added to the old variant while an update changes the variant, the update runs again,
/// even with `changed_fields_only`.
#[tokio::test]
async fn variant_change_detects_added_keys_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let storage = client.dir::<Storage>("/storage").unwrap();
    storage.set(&s3("p")).await.unwrap();
    let runs = AtomicU32::new(0);
    let switch = storage.update(|value| {
        if runs.fetch_add(1, Ordering::Relaxed) == 0 {
            let label = storage.s3.labels.entry("added").unwrap();
            label.set(&1).into_future().now_or_never().expect("the memory store does not wait").unwrap();
        }
        *value = local("/x");
    });
    switch.changed_fields_only().await.unwrap();
    assert_eq!(runs.into_inner(), 2);
    let keys = client.directory("/storage").unwrap().list_recursive().await.unwrap();
    assert!(!keys.iter().any(|node| node.path.starts_with("labels")), "{keys:?}");
}

#[tokio::test]
async fn field_write_is_one_request_with_memory_store() {
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    let storage = Client::with_store(counting.clone()).dir::<Storage>("/storage").unwrap();
    storage.set(&s3("p")).await.unwrap();
    counting.take();
    storage.s3.path.set("q").await.unwrap();
    assert_eq!(counting.take().total(), 1);
    storage.local.path.set(&PathBuf::from("/x")).await.unwrap_err();
    assert_eq!(counting.take().total(), 1);
}

#[tokio::test]
async fn publishing_field_of_variant_is_refused_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let storage = client.dir::<Storage>("/storage").unwrap();
    storage.set(&s3("p")).await.unwrap();
    let error = storage.s3.path.publish("q").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// A field of an enum within a variant of another enum is written only if both enums have the
/// variants of its handle.
#[tokio::test]
async fn nested_field_write_requires_both_tags_with_memory_store() {
    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    enum Outer {
        A {
            #[etcd(dir)]
            inner: Inner,
        },
        B(Beside),
    }

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    enum Inner {
        X { x: u8 },
        Y { y: u8 },
    }

    #[derive(EtcdSchema, Clone, Debug, PartialEq)]
    #[etcd(tag = "beside")]
    enum Beside {
        X { x: u8 },
        Y { y: u8 },
    }

    let client = Client::connect("memory:").await.unwrap();
    let outer = client.dir::<Outer>("/outer").unwrap();
    outer.set(&Outer::A { inner: Inner::X { x: 1 } }).await.unwrap();
    outer.a.inner.x.x.set(&2).await.unwrap();
    assert_eq!(outer.a.inner.y.y.set(&2).await.unwrap_err().kind(), ErrorKind::Conflict);
    outer.a.inner.set(&Inner::Y { y: 3 }).await.unwrap();
    assert_eq!(*outer.get().await.unwrap(), Outer::A { inner: Inner::Y { y: 3 } });
    outer.set(&Outer::B(Beside::X { x: 4 })).await.unwrap();
    assert_eq!(outer.a.inner.set(&Inner::X { x: 1 }).await.unwrap_err().kind(), ErrorKind::Conflict);
    outer.b.set(&Beside::Y { y: 5 }).await.unwrap();
    outer.b.y.y.set(&6).await.unwrap();
    assert_eq!(*outer.get().await.unwrap(), Outer::B(Beside::Y { y: 6 }));
    let keys = client.directory("/outer").unwrap().list_recursive().await.unwrap();
    assert_eq!(keys.iter().map(|node| node.path.as_str()).collect::<Vec<_>>(), ["beside", "kind", "y"]);
}
