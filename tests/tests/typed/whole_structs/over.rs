//! Live views of a struct over a base: `live().over(base)`.

use etcd_typed::{FieldSource, Live};
use tokio::time::timeout;

use super::*;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Config {
    name: String,
    #[etcd(default = 100, range = 1..=1000, alias = "rate")]
    limit: u32,
    #[serde(default = "banner")]
    banner: Option<String>,
    #[etcd(secret, allow_debug)]
    token: Option<String>,
    #[etcd(dir)]
    backup: Option<Db>,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
    #[etcd(dir)]
    regions: BTreeMap<String, Db>,
}

fn banner() -> Option<String> {
    Some("hello".to_owned())
}

fn base() -> Config {
    Config {
        name: "file".to_owned(),
        limit: 50,
        banner: None,
        token: Some("hunter2".to_owned()),
        backup: Some(db("file")),
        quotas: BTreeMap::from([("_f".to_owned(), 1)]),
        regions: BTreeMap::from([("eu".to_owned(), db("file"))]),
    }
}

/// Returns the keys of the fields whose value is from the store.
fn stored(live: &Live<Config>) -> Vec<String> {
    let sources = live.sources();
    assert_eq!(sources.len(), 8);
    let stored = sources.iter().filter(|field| field.source == FieldSource::Store);
    stored.map(|field| field.key.as_str().rsplit_once("/config/").expect("a field").1.to_owned()).collect()
}

etcd_typed_tests::on_every_store! { "over":
    view_over_base_follows_each_field
}

async fn view_over_base_follows_each_field(bench: Bench) {
    let dir = bench.client.dir::<Config>("/config").unwrap();
    let live = dir.live().over(base()).await.unwrap();
    assert_eq!(**live.get(), base());
    assert_eq!(stored(&live), [""; 0]);
    let mut expected = base();
    let seen = async |written: Revision, expected: &Config| {
        let state = timeout(Duration::from_secs(30), live.wait_for_revision(written)).await.expect("in time").unwrap();
        assert_eq!(**state, *expected);
    };

    let written = dir.limit.set(&250).await.unwrap();
    expected.limit = 250;
    seen(written, &expected).await;
    // If the store has an entry of a map, the whole map is read from the store.
    let written = dir.quotas.entry("s").unwrap().set(&2).await.unwrap();
    expected.quotas = BTreeMap::from([("s".to_owned(), 2)]);
    seen(written, &expected).await;
    // The fields of an optional struct are overridden one by one.
    let written = dir.backup.host.set(&"store".to_owned()).await.unwrap();
    expected.backup = Some(db("store"));
    seen(written, &expected).await;
    let written = dir.banner.set(&"sale".to_owned()).await.unwrap();
    expected.banner = Some("sale".to_owned());
    seen(written, &expected).await;
    assert_eq!(stored(&live), ["backup/host", "banner", "limit", "quotas"]);

    // A field whose key is deleted has the value of the base, not the default of the schema.
    dir.quotas.entry("s").unwrap().delete().await.unwrap();
    dir.banner.delete().await.unwrap();
    dir.limit.delete().await.unwrap();
    let written = dir.backup.host.delete().await.unwrap();
    assert!(written.is_some());
    let mut live = live.clone();
    timeout(Duration::from_secs(30), async {
        while **live.get() != base() {
            live.changed().await.unwrap();
        }
    })
    .await
    .expect("in time");
    assert_eq!(stored(&live), [""; 0]);

    // Reads outside of the view do not use the base.
    assert_eq!(dir.get().await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(dir.name.get().await.unwrap().is_none());
}

#[tokio::test]
async fn invalid_base_is_refused_before_any_request_with_memory_store() {
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    let dir = Client::with_store(counting.clone()).dir::<Config>("/config").unwrap();
    let refused = dir.live().over(&Config { limit: 0, ..base() }).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert_eq!(refused.problems()[0].key.as_str(), "/config/limit");
    assert_eq!(counting.take().total(), 0);
}

#[tokio::test]
async fn invalid_stored_value_keeps_last_state_over_base_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<Config>("/config").unwrap();
    let live = dir.live().over(base()).await.unwrap();
    let written = client.entry::<String>("/config/rate").unwrap().set(&"lots".to_owned()).await.unwrap();
    assert!(live.wait_for_revision(written).await.is_err());
    assert_eq!((live.get().limit, stored(&live).len()), (50, 0));
    assert_eq!(live.status().problems().len(), 1);
    let written = client.entry::<String>("/config/rate").unwrap().set(&"7".to_owned()).await.unwrap();
    assert_eq!(live.wait_for_revision(written).await.unwrap().limit, 7);
    assert_eq!(stored(&live), ["limit"]);
}

/// A state of the view can be used in a compare-and-swap, which writes only the differences from
/// that state.
#[tokio::test]
async fn swap_of_state_over_base_writes_differences_with_memory_store() {
    let bench = Bench { client: Client::connect("memory:").await.unwrap() };
    let dir = bench.client.dir::<Config>("/config").unwrap();
    dir.name.set(&"store".to_owned()).await.unwrap();
    let live = dir.live().over(Config { banner: Some("file".to_owned()), ..base() }).await.unwrap();
    let seen = live.get();
    let mut next = seen.clone().into_arc().as_ref().clone().into_inner();
    next.limit = 7;
    dir.compare_and_swap(&seen, &next).await.unwrap();
    assert_eq!(bench.keys("/config").await.into_keys().collect::<Vec<_>>(), ["limit", "name"]);
    // The old state is out of date now, also for a field that it had from the base.
    next.limit = 8;
    assert_eq!(dir.compare_and_swap(&seen, &next).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn view_over_base_starts_from_snapshot_with_memory_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let memory = MemoryStore::new();
    let dir = Client::with_store(memory.clone()).dir::<Config>("/config").unwrap();
    let live = dir.live().over(base()).or_snapshot(&path).await.unwrap();
    let written = dir.limit.set(&250).await.unwrap();
    live.wait_for_revision(written).await.unwrap();
    let is_kept = || std::fs::read_to_string(&path).is_ok_and(|text| text.contains("250"));
    timeout(Duration::from_secs(30), async {
        while !is_kept() {
            tokio::time::sleep(Duration::from_millis(5)).await
        }
    })
    .await
    .expect("in time");
    assert!(!std::fs::read_to_string(&path).unwrap().contains("hunter2"));
    drop(live);
    memory.faults().stop();
    let live = dir.live().over(base()).or_snapshot(&path).await.unwrap();
    assert_eq!(**live.get(), Config { limit: 250, ..base() });
    assert_eq!(stored(&live), ["limit"]);
}
