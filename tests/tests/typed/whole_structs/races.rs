//! A `set` while another client writes, on the memory store.

use super::*;

/// Runs a `set` while `rival` writes between its read and its first transaction. Returns the
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

/// Whatever another client writes in between, the result is the value of the `set`, and the failure
/// branch of a transaction contains no write.
#[tokio::test]
async fn conflict_overwrites_every_key_on_memory() {
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
        // Aliases are left where they are while their field has its own key.
        let conflicts = !matches!(key, "old_pool" | "limit");
        assert_eq!(sent.len(), if conflicts { 2 } else { 1 }, "{key}: {sent:?}");
        assert_eq!(sent[0].then.len(), 1, "{key}");
        for txn in &sent {
            assert!(txn.otherwise.iter().all(|op| matches!(op, etcd_typed::store::Op::Get(_))), "{txn:?}");
        }
    }
}

#[tokio::test]
async fn deleted_key_is_written_again_on_memory() {
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
async fn keys_of_other_programs_are_no_conflict_on_memory() {
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
async fn set_of_maps_removes_entries_of_rivals_on_memory() {
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
async fn lost_guard_stops_set_before_it_overwrites_on_memory() {
    let memory = MemoryStore::new();
    let other = Client::with_store(memory.clone());
    stored(other.clone(), app()).await;
    let lock = other.lock("/locks/a").acquire().await.unwrap();
    let rival = other.clone();
    let commits = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let store = HookedStore::new(Arc::new(memory), move |call, store| {
        let (rival, commits) = (rival.clone(), commits.clone());
        async move {
            // The first transaction is the read under the guard.
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
async fn cost_of_set_is_a_read_and_a_transaction_on_memory() {
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

/// A part of a struct with a lease is attached to that lease, and left out if it is already.
#[tokio::test]
async fn part_of_leased_struct_is_left_out_on_memory() {
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

    // The struct loses its lease, and then its part does.
    let lease_of = async |key: &str| bench.client.entry::<String>(key).unwrap().get().await.unwrap().unwrap().lease();
    dir.address.set(&"b".to_owned()).permanent().await.unwrap();
    dir.database.set(&db("d")).await.unwrap();
    assert_eq!((lease_of("/service/database/host").await, lease_of("/service/database/tls").await), (None, None));
    // The struct gets one, although no key of its part has any.
    dir.address.set(&"b".to_owned()).lease(&lease).await.unwrap();
    dir.database.set(&db("d")).await.unwrap();
    assert_eq!(lease_of("/service/database/host").await, Some(lease.id()));
    assert_eq!(lease_of("/service/database/tls").await, Some(lease.id()));
}

#[tokio::test]
async fn set_without_right_to_read_overwrites_on_memory() {
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
async fn set_with_too_many_conditions_overwrites_on_memory() {
    // Five conditions are necessary, on three keys that are left out and on two that are absent, and
    // those of the guard.
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
