//! Writes that conflict with another write, or whose reply is lost.

use super::*;

#[tokio::test(start_paused = true)]
async fn concurrent_updates_lose_nothing() {
    let bench = Bench::filled().await;
    // Without the delay each task would finish before the next one starts.
    bench.store.faults().delay(Calls::Commits, Duration::from_millis(5));
    let tasks: Vec<_> = (0..20_u32)
        .map(|task| {
            let app = bench.app.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    match task % 4 {
                        0 => drop(app.update(|app| app.limit += 1).await.unwrap()),
                        1 => drop(app.update(|app| app.limit += 1).changed_fields_only().await.unwrap()),
                        2 => drop(app.limit.modify(|n| n.map(|n| n + 1)).await.unwrap()),
                        _ => loop {
                            let seen = app.limit.get().await.unwrap();
                            let next = seen.as_deref().unwrap() + 1;
                            match app.limit.compare_and_swap(&seen, &next).await {
                                Ok(_) => break,
                                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
                            }
                        },
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(bench.app.get().await.unwrap().limit, 1 + 20 * 10);
}

#[tokio::test(start_paused = true)]
async fn last_conflict_returns_current_value() {
    let retry = RetryPolicy::new().conflict_budget(2);
    let client = Client::builder("memory:").retry(retry).connect().await.unwrap();
    let limit = client.entry::<u32>("/app/limit").unwrap();
    limit.set(&0).await.unwrap();
    let runs = Mutex::new(0);
    let busy = |n: u32| {
        *runs.lock().unwrap() += 1;
        limit.set(&(n + 100)).into_future().now_or_never().unwrap().unwrap();
        n + 1
    };
    let conflict = limit.modify(|n| n.map(busy)).await.unwrap_err();
    assert_eq!((conflict.kind(), conflict.current::<u32>().map(|now| **now)), (ErrorKind::Conflict, Some(300)));
    assert_eq!(*runs.lock().unwrap(), 3, "one attempt and two more");
    let app = client.dir::<Limited>("/app").unwrap();
    let conflict = app.update(|app| app.limit = busy(app.limit)).await.unwrap_err();
    assert_eq!((conflict.kind(), *runs.lock().unwrap()), (ErrorKind::Conflict, 6));
    assert_eq!(limit.get().await.unwrap().as_deref(), Some(&600), "neither call wrote anything");
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Limited {
    limit: u32,
}

#[tokio::test(start_paused = true)]
async fn changed_fields_only_update_ignores_writes_to_other_keys() {
    for (path, value) in [("/app/quotas/c", "9"), ("/app/limit", "50"), ("/app/unknown", "x")] {
        let bench = Bench::filled().await;
        let runs = Mutex::new(0);
        let update = |app: &mut App| {
            *runs.lock().unwrap() += 1;
            if *runs.lock().unwrap() == 1 {
                bench.write_now(path, value);
            }
            app.limit += 1;
        };
        let after = bench.app.update(update).await.unwrap();
        assert_eq!(*runs.lock().unwrap(), 2, "{path}");
        assert_eq!(*bench.app.get().await.unwrap(), *after);

        let bench = Bench::filled().await;
        *runs.lock().unwrap() = 0;
        let update = |app: &mut App| {
            *runs.lock().unwrap() += 1;
            if *runs.lock().unwrap() == 1 {
                bench.write_now(path, value);
            }
            app.limit += 1;
        };
        bench.app.update(update).changed_fields_only().await.unwrap();
        assert_eq!(*runs.lock().unwrap(), if path == "/app/limit" { 2 } else { 1 }, "{path}");
        let now = bench.app.get().await.unwrap();
        assert_eq!(now.limit, if path == "/app/limit" { 51 } else { 2 });
        assert_eq!(now.quotas.get("c").copied(), (path == "/app/quotas/c").then_some(9), "the other client's write stays");
    }
}

#[tokio::test]
async fn swap_of_struct_detects_every_change() {
    for (path, value) in [
        ("/app/limit", Some("5")),
        ("/app/limit", Some("1")),
        ("/app/database/pool", None),
        ("/app/database/host", Some("other")),
        ("/app/quotas/a", None),
        ("/app/quotas/c", Some("3")),
        ("/app/name", None),
        ("/app/title", Some("t")),
        ("/app/unknown", Some("x")),
    ] {
        let bench = Bench::filled().await;
        let seen = bench.app.get().await.unwrap();
        match value {
            Some(value) => bench.write(path, value).await,
            None => bench.delete(path).await,
        }
        let stored = bench.stored().await;
        let now = bench.app.get().await.unwrap();
        for conflict in [
            bench.app.compare_and_swap(&seen, &App { limit: 9, ..app() }).await.map(drop),
            bench.app.compare_and_swap(&seen, &seen).await.map(drop),
            bench.app.compare_and_delete(&seen).await.map(drop),
            bench.client.transaction().expect_unchanged(&bench.app, &seen).write(bench.app.limit.set(&9)).await.map(drop),
        ] {
            let conflict = conflict.expect_err(path);
            assert_eq!((conflict.kind(), conflict.key()), (ErrorKind::Conflict, Some(bench.app.key())), "{path}");
            assert_eq!(conflict.current::<App>().map(|current| (**current).clone()), Some((*now).clone()), "{path}");
        }
        assert_eq!(bench.stored().await, stored, "nothing was written");
        bench.app.compare_and_swap(&now, &App { limit: 9, ..app() }).await.unwrap();
        assert_eq!(*bench.app.get().await.unwrap(), App { limit: 9, ..app() });
    }
}

#[tokio::test]
async fn swap_writes_only_differences() {
    let bench = Bench::filled().await;
    let seen = bench.app.get().await.unwrap();
    let wanted = App { limit: 2, quotas: BTreeMap::from([("a".to_owned(), 1), ("c".to_owned(), 3)]), ..app() };
    let at = bench.app.compare_and_swap(&seen, &wanted).await.unwrap();
    let reply = bench.store.range(Range::of(Span::Below(bench.app.key().clone()))).await.unwrap();
    let written: Vec<_> = reply.kvs.iter().filter(|kv| kv.modified == at).map(|kv| kv.key.clone()).collect();
    assert_eq!(written, ["/app/limit", "/app/quotas/c"]);
    assert_eq!(*bench.app.get().await.unwrap(), wanted);
}

#[tokio::test]
async fn failed_transaction_names_first_conflicting_key() {
    let bench = Bench::filled().await;
    let (limit, name) = (&bench.app.limit, &bench.app.name);
    let b = bench.app.quotas.entry("b").unwrap();
    let before = bench.stored().await;
    let conflict = bench
        .client
        .transaction()
        .expect(limit, Expect::value(&1))
        .expect(&b, Expect::value(&9))
        .expect(name, Expect::Absent)
        .write(limit.set(&5))
        .delete(&b)
        .await
        .unwrap_err();
    assert_eq!((conflict.kind(), conflict.key()), (ErrorKind::Conflict, Some(b.key())));
    assert_eq!(conflict.current::<u64>().map(|now| **now), Some(2));
    let twice = bench.client.transaction().write(limit.set(&5)).write(limit.set(&6)).await.unwrap_err();
    assert_eq!((twice.kind(), twice.may_have_applied()), (ErrorKind::Invalid, false));
    let mapped = bench.client.transaction().set_dir(&bench.app, &app()).await.unwrap_err();
    assert_eq!(mapped.kind(), ErrorKind::Unsupported);
    assert!(mapped.to_string().contains("update"), "{mapped}");
    assert_eq!(bench.stored().await, before);
    let at = bench.client.transaction().expect(limit, Expect::value(&1)).write(limit.set(&5)).delete(&b).await.unwrap();
    assert_eq!(limit.get().await.unwrap().map(|now| (*now, now.modified())), Some((5, at)));
    assert!(!b.exists().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn write_with_lost_reply_is_not_repeated() {
    let bench = Bench::filled().await;
    for applied in [false, true] {
        for write in ["set", "create", "update", "delete", "transaction", "modify"] {
            let bench = if write == "create" { Bench::new() } else { Bench::filled().await };
            let before = bench.client.status().await.unwrap().revision;
            match applied {
                true => bench.store.faults().lose_reply(Calls::Commits, 1),
                false => bench.store.faults().lose_request(Calls::Commits, 1),
            }
            let error = match write {
                "set" => bench.app.limit.set(&9).await.map(drop),
                "create" => bench.app.create(&app()).await.map(drop),
                "update" => bench.app.update(|app| app.limit = 9).await.map(drop),
                "delete" => bench.app.delete().await.map(drop),
                "transaction" => bench.client.transaction().write(bench.app.limit.set(&9)).await.map(drop),
                _ => bench.app.limit.modify(|_| Some(9)).await.map(drop),
            };
            let error = error.expect_err(write);
            assert!(error.kind() == ErrorKind::Unavailable && error.may_have_applied(), "{write}: {error}");
            let writes = bench.client.status().await.unwrap().revision.get() - before.get();
            assert_eq!(writes, u64::from(applied), "{write}");
        }
    }
    bench.store.faults().fail(Calls::Reads, 1, ErrorKind::Timeout);
    let error = bench.app.update(|app| app.limit = 9).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Timeout && !error.may_have_applied());
}

#[tokio::test]
async fn failed_non_atomic_write_lists_written_keys() {
    let bench = Bench::filled().await;
    let many = App { quotas: (0..300).map(|n| (format!("q{n:03}"), n)).collect(), ..app() };
    // After the read, another client writes a key of the second step.
    let error = bench
        .app
        .update(|app| {
            bench.write_now("/app/quotas/q200", "77");
            *app = many.clone();
        })
        .non_atomic()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let written: Vec<_> = error.written().iter().map(|key| key.as_str().to_owned()).collect();
    assert_eq!(written.len(), 128);
    assert_eq!(written.first().map(String::as_str), Some("/app/quotas/q000"));
    let stored = bench.stored().await;
    assert!(written.iter().all(|key| stored.contains_key(&key["/app/".len()..])));
    assert!(!stored.contains_key("quotas/q201") && stored.contains_key("quotas/a"), "later steps were not taken");
}
