//! A `set` during which another client writes, on the memory store.

use super::*;

/// Runs a `set`. Between its read and its first transaction, `rival` writes. Returns the
/// transactions that the `set` sent.
async fn raced<F: AsyncFn(&Client)>(before: AsyncFnOf<'_>, rival: F, set: AsyncFnOf<'_>) -> Vec<etcd_typed::store::Txn> {
    let memory = MemoryStore::new();
    let other = Client::with_store(memory.clone());
    before(other.clone()).await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let reached = Arc::new(tokio::sync::Notify::new());
    let sent = Arc::new(std::sync::Mutex::new(Vec::new()));
    let store = {
        let (gate, reached, sent) = (gate.clone(), reached.clone(), sent.clone());
        HookedStore::new(Arc::new(memory), move |call, store| {
            let (gate, reached, sent) = (gate.clone(), reached.clone(), sent.clone());
            async move {
                if let Call::Commit(txn) = &call {
                    sent.lock().unwrap().push(txn.clone());
                    reached.notify_one();
                    gate.acquire().await.unwrap().forget();
                }
                call.send(&store).await
            }
        })
    };
    let writing = set(Client::with_store(store));
    let racing = async {
        reached.notified().await;
        rival(&other).await;
        gate.add_permits(100);
    };
    tokio::join!(writing, racing);
    sent.lock().unwrap().clone()
}

type AsyncFnOf<'f> = &'f dyn Fn(Client) -> futures_util::future::BoxFuture<'static, ()>;

fn stored(client: Client, value: App) -> futures_util::future::BoxFuture<'static, ()> {
    Box::pin(async move {
        client.dir::<App>("/app").unwrap().set(&value).await.unwrap();
    })
}

/// If another client writes a key during a `set`, the result is still the value of the `set`. The
/// failure branch of a transaction contains no write.
#[tokio::test]
async fn set_overwrites_concurrent_write_with_memory_store() {
    let value = App { limit: 2, ..app() };
    for key in ["name", "pool", "old_pool", "note", "backup/host", "backup/tls", "limit"] {
        let sent = raced(
            &|client| stored(client, app()),
            async |other| {
                other.entry::<String>(&format!("/app/{key}")).unwrap().set(&"9".to_owned()).await.unwrap();
            },
            &|client| {
                let value = value.clone();
                Box::pin(async move {
                    let dir = client.dir::<App>("/app").unwrap();
                    dir.set(&value).await.unwrap();
                    assert_eq!(*dir.get().await.unwrap(), value);
                    let leftover = client.directory("/app").unwrap().list_recursive().await.unwrap();
                    let left: Vec<_> = leftover.iter().filter(|node| node.path == "backup/tls" || node.path == "note").collect();
                    assert!(left.is_empty(), "{left:?}");
                })
            },
        )
        .await;
        // The write of an alias is no conflict while the field's own key exists.
        let conflicts = !matches!(key, "old_pool" | "limit");
        assert_eq!(sent.len(), if conflicts { 2 } else { 1 }, "{key}: {sent:?}");
        assert_eq!(sent[0].then.len(), 1, "{key}");
        for txn in &sent {
            assert!(txn.otherwise.iter().all(|op| matches!(op, etcd_typed::store::Op::Get(_))), "{txn:?}");
        }
    }
}

#[tokio::test]
async fn set_restores_key_deleted_meanwhile_with_memory_store() {
    let value = App { limit: 2, ..app() };
    let sent = raced(
        &|client| stored(client, app()),
        async |other| drop(other.entry::<Bytes>("/app/name").unwrap().delete().await.unwrap()),
        &|client| stored(client, value.clone()),
    )
    .await;
    assert_eq!(sent.len(), 2);
}

#[tokio::test]
async fn unknown_key_does_not_conflict_with_set_with_memory_store() {
    let value = App { limit: 2, ..app() };
    let sent = raced(
        &|client| stored(client, app()),
        async |other| {
            other.entry::<u8>("/app/locks/a").unwrap().set(&1).await.unwrap();
        },
        &|client| stored(client, value.clone()),
    )
    .await;
    assert_eq!((sent.len(), sent[0].then.len()), (1, 1));
}

#[tokio::test]
async fn set_removes_map_entries_added_meanwhile_with_memory_store() {
    for key in ["quotas/new", "regions/new/host", "regions/eu/tls", "limit"] {
        let mut value = mapped();
        value.quotas.insert("x".to_owned(), 7);
        let expected = value.clone();
        raced(
            &|client| {
                Box::pin(async move {
                    client.dir::<Mapped>("/app").unwrap().set(&mapped()).await.unwrap();
                })
            },
            async |other| {
                other.entry::<String>(&format!("/app/{key}")).unwrap().set(&"false".to_owned()).await.unwrap();
            },
            &|client| {
                let value = value.clone();
                Box::pin(async move {
                    let dir = client.dir::<Mapped>("/app").unwrap();
                    dir.set(&value).await.unwrap();
                    assert_eq!(*dir.get().await.unwrap(), value, "{key}");
                })
            },
        )
        .await;
        assert_eq!(expected.quotas["x"], 7);
    }
}

#[tokio::test]
async fn lost_guard_stops_set_before_it_overwrites_with_memory_store() {
    let memory = MemoryStore::new();
    let other = Client::with_store(memory.clone());
    stored(other.clone(), app()).await;
    let lock = other.lock("/locks/a").acquire().await.unwrap();
    let rival = other.clone();
    let commits = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let store = HookedStore::new(Arc::new(memory), move |call, store| {
        let (rival, commits) = (rival.clone(), commits.clone());
        async move {
            // The first transaction is the read under the guard. The rival acts before the second
            // one.
            if matches!(call, Call::Commit(_)) && commits.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
                rival.directory("/locks").unwrap().delete_recursive().await?;
                rival.entry::<String>("/app/name")?.set(&"rival".to_owned()).await?;
            }
            call.send(&store).await
        }
    });
    let dir = Client::with_store(store).dir::<App>("/app").unwrap();
    let lost = dir.set(&App { limit: 2, ..app() }).guarded_by(&lock).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::GuardLost);
    let now = other.dir::<App>("/app").unwrap().get().await.unwrap();
    assert_eq!((now.name.as_str(), now.limit), ("rival", 1));
}

fn counting() -> (CountingStore, Client) {
    let counting = CountingStore::new(Arc::new(MemoryStore::new()));
    (counting.clone(), Client::with_store(counting))
}

#[tokio::test]
async fn set_costs_one_read_and_one_transaction_with_memory_store() {
    let (counting, client) = counting();
    let cost = |range, commit| assert_eq!(counting.take(), Counts { range, commit, ..Counts::default() });
    let dir = client.dir::<App>("/app").unwrap();
    dir.set(&app()).await.unwrap();
    cost(1, 1);
    dir.set(&app()).await.unwrap();
    cost(1, 0);
    dir.set(&App { limit: 9, ..app() }).permanent().await.unwrap();
    cost(1, 1);
    let lease = client.lease(LONG).await.unwrap();
    counting.take();
    dir.set(&app()).lease(&lease).await.unwrap();
    cost(0, 1);
}

/// A `set` of a nested struct attaches its keys to the lease of the outer struct. It does not write
/// keys that already have their value and that lease.
#[tokio::test]
async fn setting_nested_struct_keeps_struct_lease_with_memory_store() {
    let bench = Bench { client: Client::connect("memory:").await.unwrap() };
    let dir = bench.client.dir::<Service>("/service").unwrap();
    let service = Service { address: "a".to_owned(), database: db("d") };
    let lease = bench.client.lease(LONG).await.unwrap();
    dir.set(&service).lease(&lease).await.unwrap();
    let before = bench.keys("/service").await;
    dir.database.set(&db("d")).await.unwrap();
    assert_eq!(bench.keys("/service").await, before);
    dir.database.set(&Db { tls: Some(false), ..db("d") }).await.unwrap();
    assert_eq!(bench.changed("/service", &before).await, (vec!["database/tls".to_owned()], 0));

    // The outer struct becomes permanent, and the next `set` makes its part permanent too.
    let lease_of = async |key: &str| bench.client.entry::<String>(key).unwrap().get().await.unwrap().unwrap().lease();
    dir.address.set(&"b".to_owned()).permanent().await.unwrap();
    dir.database.set(&db("d")).await.unwrap();
    assert_eq!((lease_of("/service/database/host").await, lease_of("/service/database/tls").await), (None, None));
    // The outer struct gets a lease again, and the next `set` attaches its part to that lease.
    dir.address.set(&"b".to_owned()).lease(&lease).await.unwrap();
    dir.database.set(&db("d")).await.unwrap();
    assert_eq!(lease_of("/service/database/host").await, Some(lease.id()));
    assert_eq!(lease_of("/service/database/tls").await, Some(lease.id()));
}

#[tokio::test]
async fn set_without_right_to_read_writes_all_keys_with_memory_store() {
    let memory = MemoryStore::new();
    let other = Client::with_store(memory.clone());
    let store = HookedStore::new(Arc::new(memory), |call, store| async move {
        match call {
            Call::Range(_) => Err(Error::new(ErrorKind::PermissionDenied, "no right to read")),
            call => call.send(&store).await,
        }
    });
    let dir = Client::with_store(store).dir::<App>("/app").unwrap();
    dir.set(&App { note: Some("n".to_owned()), ..app() }).await.unwrap();
    dir.set(&app()).await.unwrap();
    assert_eq!(*other.dir::<App>("/app").unwrap().get().await.unwrap(), app());
}

#[tokio::test]
async fn set_with_too_many_conditions_writes_all_keys_with_memory_store() {
    // To write only the difference, the transaction needs a condition on each of three unchanged
    // keys and two absent keys, and those of the guard.
    for (limit, written) in [(6, 4), (10, 1)] {
        let bench = Bench { client: Client::with_store(MemoryStore::new().with_limits(limit, 1_000_000)) };
        let lock = bench.client.lock("/locks/a").acquire().await.unwrap();
        let dir = bench.client.dir::<App>("/app").unwrap();
        let first = App { backup: Some(Db { tls: None, ..db("b") }), ..app() };
        dir.set(&first).guarded_by(&lock).await.unwrap();
        let before = bench.keys("/app").await;
        dir.set(&App { limit: 2, ..first }).guarded_by(&lock).await.unwrap();
        assert_eq!(bench.changed("/app", &before).await.0.len(), written, "limit {limit}");
    }
}
