//! How a view notices changes that its watch does not report, and how it reports the age of its
//! state.

use super::*;

#[tokio::test(start_paused = true)]
async fn view_of_map_follows_wiped_server() {
    let bench = bench();
    let map = bench.client.entries::<String, u64>("/quotas").unwrap();
    for n in 0..5 {
        map.entry("a").unwrap().set(&n).await.unwrap();
    }
    let mut live = soon(map.live()).await.unwrap();
    bench.store.faults().wipe();
    let written = map.entry("b").unwrap().set(&7).await.unwrap();
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!(seen.iter().map(|(key, n)| (key.as_str(), *n)).collect::<Vec<_>>(), [("b", 7)]);
    assert_eq!((seen.revision(), seen.modified()), (written, written));
}

#[tokio::test(start_paused = true)]
async fn view_without_server_reports_staleness() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    sleep(LONG).await;
    assert!(live.staleness() < Duration::from_secs(11), "regular reads prove that the view is up to date: {:?}", live.staleness());
    bench.store.faults().stop();
    let (cause, good) = until_degraded(&live).await;
    let Cause::Interrupted(error) = cause else { panic!("{cause:?}") };
    assert_eq!((error.kind(), good), (ErrorKind::Unavailable, live.revision()));
    sleep(LONG).await;
    assert!(live.staleness() >= LONG);
    assert_eq!(**live.get(), limits());
    bench.store.faults().start();
    dir.pool.size.set(&9).await.unwrap();
    assert_eq!(soon(live.changed()).await.unwrap().pool.size, 9);
    until_live(&live).await;
    sleep(Duration::from_secs(11)).await;
    assert!(live.staleness() < Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn refused_watch_degrades_view_until_allowed() {
    let bench = bench();
    let (dir, live) = bench.open().await;
    bench.store.faults().fail(Calls::Watches, 3, ErrorKind::PermissionDenied);
    bench.store.faults().drop_connections();
    // The view reports the cut connection before the refusal.
    soon(async {
        while !matches!(until_degraded(&live).await.0, Cause::Interrupted(error) if error.kind() == ErrorKind::PermissionDenied) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let written = dir.pool.size.set(&9).await.unwrap();
    until_live(&live).await;
    assert_eq!(soon(live.wait_for_revision(written)).await.unwrap().pool.size, 9);
}

#[tokio::test(start_paused = true)]
async fn view_shows_newest_state_after_compaction() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    bench.store.faults().fail(Calls::Watches, 2, ErrorKind::Unavailable);
    bench.store.faults().drop_connections();
    for size in 10..20 {
        dir.pool.size.set(&size).await.unwrap();
    }
    dir.quotas.entry("acme").unwrap().delete().await.unwrap();
    bench.store.faults().compact();
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!((seen.pool.size, seen.quotas.len()), (19, 0), "the newest state, without those in between");
    until_live(&live).await;
    assert_eq!(live.rewound(), None);
}

#[tokio::test(start_paused = true)]
async fn wiped_server_is_reported_as_rewound() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    for size in 10..20 {
        dir.pool.size.set(&size).await.unwrap();
    }
    while soon(live.changed()).await.unwrap().pool.size != 19 {}
    let before = live.revision();
    bench.store.faults().wipe();
    dir.set(&limits()).await.unwrap();
    let seen = soon(live.changed()).await.unwrap();
    assert!(seen.revision() < before && seen.pool.size == 4, "{seen:?}");
    let rewound = live.rewound().expect("the view reports that the revision went back");
    assert_eq!((rewound.from, rewound.to), (before, seen.revision()));
    assert_eq!(live.revision(), seen.revision());
}

#[tokio::test(start_paused = true)]
async fn view_reads_while_watch_fails() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    bench.store.faults().fail(Calls::Watches, usize::MAX, ErrorKind::Unavailable);
    bench.store.faults().drop_connections();
    for size in [9, 10] {
        dir.pool.size.set(&size).await.unwrap();
        assert_eq!(soon(live.changed()).await.unwrap().pool.size, size);
    }
    assert!(!live.status().is_live());
    bench.store.faults().clear();
    until_live(&live).await;
}

#[tokio::test(start_paused = true)]
async fn silent_watch_is_detected() {
    let bench = bench();
    let (dir, mut live) = bench.open().await;
    bench.mute.store(true, Ordering::SeqCst);
    dir.pool.size.set(&9).await.unwrap();
    dir.quotas.entry("acme").unwrap().delete().await.unwrap();
    let seen = soon(live.changed()).await.unwrap();
    assert_eq!((seen.pool.size, seen.quotas.len()), (9, 0));
    dir.name.set(&"b".to_owned()).await.unwrap();
    let written = dir.name.delete().await.unwrap().unwrap();
    let before = live.revision();
    // `wait_for_revision` does not wait for the silent watch either.
    assert!(written.modified() > before);
    assert_eq!(soon(live.wait_for_revision(written.modified())).await.unwrap_err().problems()[0].kind, ProblemKind::Missing);
}

/// The views share one read, which does not prove that a view with an older state is up to date.
#[tokio::test(start_paused = true)]
async fn one_silent_watch_of_many_is_detected() {
    let bench = bench();
    let mut views = Vec::new();
    for n in 0..50 {
        views.push(soon(bench.client.entry::<u32>(&format!("/values/{n}")).unwrap().live()).await.unwrap());
        sleep(Duration::from_millis(300)).await;
    }
    bench.mute.store(true, Ordering::SeqCst);
    for silent in [3, 40] {
        bench.counting.take();
        bench.client.entry::<u32>(&format!("/values/{silent}")).unwrap().set(&7).await.unwrap();
        let written = tokio::time::Instant::now();
        while **views[silent].get() != Some(7) {
            assert!(views[silent].staleness() + Duration::from_millis(1) >= written.elapsed(), "it is not called current");
            sleep(Duration::from_millis(10)).await;
        }
        assert!(written.elapsed() < Duration::from_secs(17), "a period, and five listings a second apart");
        assert_eq!(bench.counting.take().watch, 1, "the other watches go on");
    }
}

#[tokio::test(start_paused = true)]
async fn idle_directory_of_busy_store_stays_fresh() {
    let bench = bench();
    let (_, live) = bench.open().await;
    bench.counting.take();
    for _ in 0..100 {
        bench.put("/other", "x").await;
        sleep(Duration::from_secs(1)).await;
        assert!(live.staleness() < Duration::from_secs(11), "{:?}", live.staleness());
    }
    let counts = bench.counting.take();
    assert!(counts.range <= 22 && counts.watch == 0, "two requests per ten seconds: {counts:?}");
}

/// The size of the answers does not depend on the size of the directory. The larger the directory
/// is, the less often the server must read it.
#[tokio::test(start_paused = true)]
async fn large_idle_directory_of_busy_store_stays_fresh() {
    for keys in [0, 5, 10_001, 40_000] {
        let bench = bench();
        let map = bench.client.entries::<u32, u32>("/long").unwrap();
        map.set(&(0..keys).map(|n| (n, n)).collect()).non_atomic().await.unwrap();
        let live = soon(map.live()).await.unwrap();
        let period = Duration::from_secs(10) + Duration::from_millis(keys.into());
        assert_eq!(live.proof_period(), period);
        sleep(LONG).await;
        assert!(live.staleness() < Duration::from_secs(11), "if the store does not change, its revision is proof enough");
        bench.answers.take();
        const SECONDS: u32 = 300;
        let mut stalest = Duration::ZERO;
        for _ in 0..SECONDS {
            bench.put("/other", "x").await;
            sleep(Duration::from_secs(1)).await;
            stalest = stalest.max(live.staleness());
        }
        assert!(stalest < period + Duration::from_secs(1), "{keys} keys: {stalest:?}");
        let (largest, of_all) = bench.answers.take();
        let most = usize::try_from(SECONDS / u32::try_from(period.as_secs()).unwrap()).unwrap() + 1;
        assert!(largest <= 1 && of_all <= most, "{keys} keys: an answer with {largest} keys, {of_all} reads of the directory");
        // `wait_for_revision` does not wait for the next periodic read.
        let elsewhere = bench.put("/other", "y").await;
        assert_eq!(soon(live.wait_for_revision(elsewhere)).await.unwrap().len(), keys as usize);
        assert!(live.staleness() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn every_unreported_change_is_detected() {
    type Change = fn(etcd_typed::EntryMap<u32, u32>) -> BoxFuture<'static, Result<()>>;
    let changes: [(&str, Change, u32); 4] = [
        ("one more", |map| Box::pin(async move { map.entry(&9)?.set(&9).await.map(drop) }), 6),
        ("one less", |map| Box::pin(async move { map.entry(&1)?.delete().await.map(drop) }), 4),
        ("another", |map| Box::pin(async move { map.entry(&1)?.set(&7).await.map(drop) }), 5),
        (
            "one for another",
            |map| {
                Box::pin(async move {
                    map.entry(&1)?.delete().await?;
                    map.entry(&9)?.set(&9).await.map(drop)
                })
            },
            5,
        ),
    ];
    for (name, change, keys) in changes {
        let bench = bench();
        let map = bench.client.entries::<u32, u32>("/map").unwrap();
        map.set(&(0..5).map(|n| (n, n)).collect()).await.unwrap();
        let mut live = soon(map.live()).await.unwrap();
        bench.mute.store(true, Ordering::SeqCst);
        change(map.clone()).await.unwrap();
        let seen = timeout(LONG, live.changed()).await.unwrap_or_else(|_| panic!("{name} is not found")).unwrap();
        assert_eq!(
            (seen.len(), &**seen),
            (keys as usize, &soon(map.get()).await.unwrap().iter().map(|(k, v)| (*k, *v)).collect()),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn status_counts_paused_time() {
    const HOUR: Duration = Duration::from_secs(3600);
    let store = MemoryStore::new();
    let client = Client::with_store(store.clone());
    let entry = client.entry::<u64>("/a").unwrap();
    entry.set(&1).await.unwrap();
    let mut changes = entry.watch().await.unwrap();
    changes.next().now_or_never();
    let live = entry.live().await.unwrap();
    store.faults().stop();
    while live.status().is_live() {
        sleep(Duration::from_millis(1)).await;
    }
    timeout(HOUR, changes.next()).await.unwrap_err();
    let status = live.status();
    let LiveStatus::Degraded { since, .. } = &status else { panic!("{status}") };
    assert!(tokio::time::Instant::from_std(*since).elapsed() >= HOUR, "{status}");
    let seconds = serde_json::to_value(&status).unwrap()["for_seconds"].as_f64().unwrap();
    assert!(seconds >= 3600.0 && status.to_string().starts_with("degraded for 360"), "{status}");
    assert!(status.degraded_for().unwrap() >= HOUR);
    assert!(changes.interruption().unwrap().lasted() >= HOUR);

    // The times of a rejected value and of a rewound history also follow the paused clock.
    store.faults().start();
    while !live.status().is_live() {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(live.status().degraded_for(), None);
    client.entry::<String>("/a").unwrap().set(&"x".to_owned()).await.unwrap();
    while live.status().is_live() {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(HOUR).await;
    assert!(live.status().degraded_for().unwrap() >= HOUR, "{}", live.status());
    store.faults().wipe();
    while live.rewound().is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(HOUR).await;
    let at = live.rewound().unwrap().at;
    assert!(tokio::time::Instant::from_std(at).elapsed() >= HOUR);
}
