//! `Dir::seed`, which creates the missing keys of a struct.

use super::*;

etcd_typed_tests::on_every_store! { "seeds":
    seed_creates_only_missing_fields
    seed_fills_only_empty_maps
    seed_of_optional_struct_completes_it
}

/// Seeds the directory, in one transaction if the store has transactions. Returns the names of the
/// written keys.
pub(super) async fn seed<S: EtcdSchema>(bench: &Bench, dir: &etcd_typed::Dir<S>, value: &S) -> Vec<String> {
    let seeded = match bench.client.store().capabilities().transactions {
        true => dir.seed(value).await.unwrap(),
        false => dir.seed(value).non_atomic().await.unwrap(),
    };
    assert_eq!(seeded.is_empty(), seeded.written.is_empty());
    let prefix = dir.key().as_str();
    seeded.written.iter().map(|key| key.as_str().strip_prefix(prefix).expect("a key of the struct")[1..].to_owned()).collect()
}

async fn seed_creates_only_missing_fields(bench: Bench) {
    let dir = bench.client.dir::<App>("/app").unwrap();
    let value = App { note: Some("n".to_owned()), ..app() };
    bench.put("/app/limit", "7").await;
    bench.put("/app/old_pool", "9").await;
    bench.put("/app/foreign", "x").await;
    let before = bench.keys("/app").await;
    assert_eq!(seed(&bench, &dir, &value).await, ["name", "note"]);
    assert_eq!(bench.changed("/app", &before).await, (vec!["name".to_owned(), "note".to_owned()], 0));
    assert_eq!(*dir.get().await.unwrap(), App { limit: 7, pool: 9, ..value.clone() });
    let before = bench.keys("/app").await;
    assert_eq!(seed(&bench, &dir, &App { limit: 99, ..value.clone() }).await, [""; 0]);
    assert_eq!(bench.keys("/app").await, before);

    // `seed` creates a deleted required key again, and keeps a value that cannot be read.
    dir.name.delete().await.unwrap();
    bench.put("/app/limit", "many").await;
    assert_eq!(seed(&bench, &dir, &value).await, ["name"]);
    assert_eq!(dir.get().await.unwrap_err().problems().len(), 1);
}

async fn seed_fills_only_empty_maps(bench: Bench) {
    let dir = bench.client.dir::<Mapped>("/app").unwrap();
    let written = seed(&bench, &dir, &mapped()).await;
    assert_eq!(written.len(), 7, "{written:?}");
    assert_eq!(*dir.get().await.unwrap(), mapped());
    dir.quotas.entry("x").unwrap().delete().await.unwrap();
    dir.regions.dir("us").unwrap().delete().non_atomic().await.unwrap();
    dir.limit.delete().await.unwrap();
    assert_eq!(seed(&bench, &dir, &mapped()).await, ["limit"]);
    let now = dir.get().await.unwrap();
    assert_eq!((now.quotas.len(), now.regions.len()), (1, 1));

    // A map counts as empty if its directory has only keys that are not entries.
    dir.quotas.set(&BTreeMap::new()).non_atomic().await.unwrap();
    bench.put("/app/quotas/foreign/key", "x").await;
    assert_eq!(seed(&bench, &dir, &mapped()).await.len(), 2);
}

async fn seed_of_optional_struct_completes_it(bench: Bench) {
    let dir = bench.client.dir::<App>("/app").unwrap();
    bench.put("/app/backup/host", "operator").await;
    let value = App { backup: Some(db("seed")), ..app() };
    assert_eq!(seed(&bench, &dir, &value).await, ["backup/tls", "limit", "name", "pool"]);
    assert_eq!(*dir.get().await.unwrap(), App { backup: Some(db("operator")), ..app() });
    let section = bench.client.dir::<App>("/other").unwrap().backup;
    assert_eq!(seed(&bench, &section, &db("h")).await, ["host", "tls"]);
}

#[tokio::test]
async fn seed_costs_one_read_and_one_transaction_with_memory_store() {
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    let client = Client::with_store(counting.clone());
    let cost = |range, commit| assert_eq!(counting.take(), Counts { range, commit, ..Counts::default() });
    let dir = client.dir::<Mapped>("/app").unwrap();
    dir.seed(&mapped()).await.unwrap();
    cost(1, 1);
    assert!(dir.seed(&mapped()).await.unwrap().is_empty());
    cost(1, 0);
}

/// If many instances seed at once, only one of them writes each key.
#[tokio::test]
async fn concurrent_seeds_write_each_key_once_with_memory_store() {
    let memory = MemoryStore::new();
    let seeds = (0..20_u64).map(|number| {
        let dir = Client::with_store(memory.clone()).dir::<Mapped>("/app").unwrap();
        async move {
            let mut value = Mapped { limit: u32::try_from(number).unwrap(), ..mapped() };
            value.quotas.insert(format!("of-{number}"), number);
            tokio::task::yield_now().await;
            if number % 2 == 0 { dir.seed(&value).await.unwrap() } else { dir.seed(&value).non_atomic().await.unwrap() }
        }
    });
    let seeded = futures_util::future::join_all(seeds).await;
    let mut written: Vec<_> = seeded.iter().flat_map(|seeded| &seeded.written).collect();
    let count = written.len();
    written.sort();
    written.dedup();
    assert_eq!(written.len(), count);
    let now = Client::with_store(memory).dir::<Mapped>("/app").unwrap().get().await.unwrap();
    assert_eq!(now.quotas.len(), 3);
}

/// Another client creates a key between the read and the transaction of the `seed`.
#[tokio::test]
async fn seed_keeps_keys_of_another_client_with_memory_store() {
    for key in ["limit", "quotas/z", "regions/ap/host"] {
        let memory = MemoryStore::new();
        let other = Client::with_store(memory.clone());
        let rival = other.clone();
        let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let store = HookedStore::new(Arc::new(memory), move |call, store| {
            let (rival, first) = (rival.clone(), first.clone());
            async move {
                if matches!(call, Call::Commit(_)) && first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                    rival.entry::<String>(&format!("/app/{key}"))?.set(&"7".to_owned()).await?;
                }
                call.send(&store).await
            }
        });
        let dir = Client::with_store(store).dir::<Mapped>("/app").unwrap();
        let seeded = dir.seed(&mapped()).await.unwrap();
        let now = dir.get().await.unwrap().into_inner();
        let (limit, quotas, regions) = match key {
            "limit" => (7, mapped().quotas, mapped().regions),
            "quotas/z" => (1, BTreeMap::from([("z".to_owned(), 7)]), mapped().regions),
            _ => (1, mapped().quotas, BTreeMap::from([("ap".to_owned(), Db { host: "7".to_owned(), tls: None })])),
        };
        assert_eq!(now, Mapped { limit, quotas, regions }, "{key}");
        assert!(!seeded.written.iter().any(|written| written.as_str() == format!("/app/{key}")));
        assert_eq!(*other.dir::<Mapped>("/app").unwrap().get().await.unwrap(), now);
    }
}

#[tokio::test]
async fn seed_attaches_new_keys_to_struct_lease_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let dir = client.dir::<App>("/app").unwrap();
    let lease = client.lease(LONG).await.unwrap();
    dir.set(&app()).lease(&lease).await.unwrap();
    let seeded = dir.seed(&App { note: Some("n".to_owned()), ..app() }).await.unwrap();
    assert_eq!(seeded.written.len(), 1);
    assert_eq!(dir.note.get().await.unwrap().unwrap().lease(), Some(lease.id()));
    dir.note.delete().await.unwrap();
    dir.seed(&App { note: Some("n".to_owned()), ..app() }).permanent().await.unwrap();
    assert_eq!(dir.note.get().await.unwrap().unwrap().lease(), None);
}

#[tokio::test]
async fn seed_under_lost_guard_is_refused_with_memory_store() {
    let client = Client::connect("memory:").await.unwrap();
    let lock = client.lock("/locks/a").acquire().await.unwrap();
    let dir = client.dir::<App>("/app").unwrap();
    dir.seed(&app()).guarded_by(&lock).await.unwrap();
    client.directory("/locks").unwrap().delete_recursive().await.unwrap();
    assert_eq!(dir.seed(&app()).guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::GuardLost);
}

#[tokio::test]
async fn seed_refuses_invalid_value_with_memory_store() {
    #[derive(EtcdSchema, Debug)]
    struct Limits {
        #[etcd(range = 1..=10)]
        rate: u32,
    }
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    let dir = Client::with_store(counting.clone()).dir::<Limits>("/limits").unwrap();
    assert_eq!(dir.seed(&Limits { rate: 11 }).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(counting.take().total(), 0);
}

#[tokio::test]
async fn seed_needs_non_atomic_on_v2() {
    let etcd = etcd_typed_tests::shared("seeds").await;
    let dir = Client::connect(&etcd.url_v2()).await.unwrap().dir::<App>("/refused").unwrap();
    let refused = dir.seed(&app()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains(".non_atomic()"), "{refused}");
    assert!(!dir.exists().await.unwrap());
}
