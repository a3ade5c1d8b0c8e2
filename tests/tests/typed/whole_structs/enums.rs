//! `seed`, `live().over(base)` and `set` of a struct with an enum.

use etcd_typed::FieldSource;

use super::*;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Backup {
    name: String,
    #[etcd(dir)]
    storage: Storage,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
enum Storage {
    Local {
        path: String,
        #[etcd(default = 3)]
        copies: u8,
    },
    S3 {
        path: String,
        bucket: String,
        #[etcd(entries)]
        labels: BTreeMap<String, u8>,
    },
}

fn local(path: &str) -> Backup {
    Backup { name: "n".to_owned(), storage: Storage::Local { path: path.to_owned(), copies: 5 } }
}

fn s3(path: &str) -> Backup {
    let labels = BTreeMap::from([("a".to_owned(), 1)]);
    Backup { name: "n".to_owned(), storage: Storage::S3 { path: path.to_owned(), bucket: "b".to_owned(), labels } }
}

etcd_typed_tests::on_every_store! { "enums":
    seed_writes_variant_where_none_is_stored
    seed_leaves_stored_variant_of_enum
    view_over_base_follows_stored_variant
}

async fn seed_writes_variant_where_none_is_stored(bench: Bench) {
    let dir = bench.client.dir::<Backup>("/app").unwrap();
    let written = seeds::seed(&bench, &dir, &s3("p")).await;
    assert_eq!(written, ["name", "storage/bucket", "storage/kind", "storage/labels/a", "storage/path"]);
    assert_eq!(*dir.get().await.unwrap(), s3("p"));
    assert_eq!(seeds::seed(&bench, &dir, &s3("q")).await, [""; 0]);

    // If the stored enum has the same variant as the value, `seed` writes the missing fields of the
    // variant.
    bench.put("/other/storage/kind", "local").await;
    bench.put("/other/storage/path", "p").await;
    let dir = bench.client.dir::<Backup>("/other").unwrap();
    assert_eq!(seeds::seed(&bench, &dir, &local("q")).await, ["name", "storage/copies"]);
    assert_eq!(*dir.get().await.unwrap(), local("p"));
}

async fn seed_leaves_stored_variant_of_enum(bench: Bench) {
    let dir = bench.client.dir::<Backup>("/app").unwrap();
    // The stored variant is incomplete, and both variants have a path. `seed` does not complete the
    // stored variant.
    bench.put("/app/storage/kind", "local").await;
    assert_eq!(seeds::seed(&bench, &dir, &s3("p")).await, ["name"]);
    let error = dir.get().await.unwrap_err();
    assert_eq!(error.problems().len(), 1, "{error}");
    assert_eq!(error.problems()[0].key, *dir.storage.local.path.key());
}

async fn view_over_base_follows_stored_variant(bench: Bench) {
    let dir = bench.client.dir::<Backup>("/app").unwrap();
    let live = dir.live().over(s3("base")).await.unwrap();
    assert_eq!(**live.get(), s3("base"));
    let keys = |source| {
        let sources = live.sources();
        let of_source = sources.iter().filter(|field| field.source == source);
        of_source.map(|field| field.key.as_str().split_once("/app/").expect("a field").1.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(FieldSource::Base), ["name", "storage/bucket", "storage/kind", "storage/labels", "storage/path"]);
    bench.put("/app/storage/path", "store").await;
    bench.put("/app/storage/kind", "local").await;
    let is_local = |backup: &Backup| matches!(backup.storage, Storage::Local { .. });
    let mut reader = live.clone();
    while !is_local(&reader.get()) {
        reader.changed().await.unwrap();
    }
    let expected = Backup { storage: Storage::Local { path: "store".to_owned(), copies: 3 }, ..local("") };
    assert_eq!(**live.get(), expected);
    assert_eq!(
        (keys(FieldSource::Base), keys(FieldSource::Store)),
        (vec!["name".to_owned()], ["copies", "kind", "path"].map(|key| format!("storage/{key}")).to_vec())
    );
}

#[tokio::test(start_paused = true)]
async fn set_of_enum_writes_only_differences_in_memory() {
    let client = Client::with_store(MemoryStore::new());
    let dir = client.dir::<Backup>("/app").unwrap();
    dir.set(&s3("p")).await.unwrap();
    let mut watch = dir.watch().await.unwrap();
    dir.set(&s3("q")).await.unwrap();
    let update = watch.next().await.unwrap().unwrap();
    assert_eq!(update.changes.len(), 1, "{update:?}");
    // A change to another variant does not write a key that has the same value in both variants.
    let path = dir.storage.local.path.key().clone();
    let before = client.store().range(Range::of(Span::Key(path.clone()))).await.unwrap().kvs;
    dir.set(&local("q")).await.unwrap();
    assert_eq!(client.store().range(Range::of(Span::Key(path))).await.unwrap().kvs, before);
    assert_eq!(*dir.get().await.unwrap(), local("q"));
}
