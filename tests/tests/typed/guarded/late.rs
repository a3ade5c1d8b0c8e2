//! Writes that arrive after their guard is lost.

use super::*;

cases! {
    lost_guard_ends_retries
    every_step_checks_guard
    released_guard_refuses_pending_writes
    write_of_earlier_hold_is_refused
}

/// The first attempt fails with a conflict. The guard is lost before the second attempt.
async fn lost_guard_ends_retries(bench: Bench) {
    // A non-atomic write reads again after a conflict.
    let kinds: &[(&str, Write)] = writes! {
        "modify": |bench| bench.mapped().limit.modify(|n| n.map(|n| n + 1));
        "update": |bench| bench.mapped().update(|mapped| mapped.limit += 1);
        "update, in steps": |bench| bench.mapped().update(|mapped| mapped.limit += 1).non_atomic();
        "set of a map": |bench| bench.mapped().quotas.set(&quotas(2));
        "delete": |bench| bench.mapped().delete();
    };
    for (name, write) in kinds {
        bench.fill().await;
        let lock = bench.lock().await;
        let (limit, quota) = (Key::parse(&bench.path("mapped/limit")).unwrap(), Key::parse(&bench.path("mapped/quotas/q000")).unwrap());
        let conflict = Txn::new(vec![Op::put(&limit, "70".into()), Op::put(&quota, "71".into())]);
        let delete = Txn::new(vec![Op::delete(lock.key())]);
        bench.requests();
        bench.before_commits([BeforeCommit::Nothing, BeforeCommit::Commit(conflict), BeforeCommit::Commit(delete)]);
        let error = timeout(LIMIT, write(&bench, Some(&lock))).await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(lock.key())), "{name}: {error}");
        let counts = bench.counting.take();
        assert_eq!((counts.commit, counts.total()), (3, 3), "{name}");
        let now = MappedDir::open(&bench.other, &bench.env).unwrap().get().await.unwrap();
        assert_eq!((now.limit, now.quotas["q000"], now.quotas.len()), (70, 71, 3), "{name}");
    }
}

async fn every_step_checks_guard(bench: Bench) {
    bench.fill().await;
    let lock = bench.lock().await;
    let delete = Txn::new(vec![Op::delete(lock.key())]);
    // The read and the first step pass, and the guard is lost before the second step.
    bench.before_commits([BeforeCommit::Nothing, BeforeCommit::Nothing, BeforeCommit::Commit(delete)]);
    bench.requests();
    // No entry has its stored value, so each is written.
    let all: BTreeMap<String, u64> = quotas(300).into_iter().map(|(key, value)| (key, value + 1_000)).collect();
    let error = bench.mapped().quotas.set(&all).non_atomic().guarded_by(&lock).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(lock.key())));
    assert_eq!(bench.requests(), 3);
    let written: Vec<&str> = error.written().iter().filter_map(|key| key.segments().last()).collect();
    let expected: Vec<&String> = all.keys().take(126).collect();
    assert_eq!(written, expected, "128 operations minus the two conditions of the guard");
    let stored = MappedDir::open(&bench.other, &bench.env).unwrap().quotas.get().await.unwrap();
    assert_eq!(stored.len(), 126);

    let again = bench.lock_named("again").await;
    bench.mapped().quotas.set(&quotas(300)).non_atomic().guarded_by(&again).await.unwrap();
    assert_eq!(bench.requests(), 4, "one read, and 300 entries in steps of 126");
    assert_eq!(MappedDir::open(&bench.other, &bench.env).unwrap().quotas.get().await.unwrap().len(), 300);
}

async fn released_guard_refuses_pending_writes(bench: Bench) {
    bench.fill().await;
    let before = bench.stored().await;
    let lock = bench.lock().await;
    let write = bench.entry("there").set(&2).guarded_by(&lock);
    let update = bench.plain().update(|plain| plain.limit = 9).guarded_by(&lock);
    lock.release().await.unwrap();
    let next = bench.lock().await;
    bench.requests();
    assert_eq!(write.await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(update.await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(bench.requests(), 0);

    let write = bench.entry("there").set(&2).guarded_by(&next);
    let _token = next.into_token();
    assert_eq!(write.await.unwrap_err().kind(), ErrorKind::GuardLost, "the token's next owner holds the lock");
    assert_eq!(bench.requests(), 0);
    assert_eq!(bench.stored().await, before);
}

/// The caller sends the write while it holds the lock. The write arrives after the same client has
/// acquired the lock again, with the same lease and at the same key.
async fn write_of_earlier_hold_is_refused(bench: Bench) {
    bench.fill().await;
    let before = bench.stored().await;
    let lock = bench.lock().await;
    let (key, lease) = (lock.key().clone(), lock.lease_id());
    let gate = Arc::new(Notify::new());
    bench.before_commits([BeforeCommit::Wait(Arc::clone(&gate))]);
    let mut write = polled(bench.entry("there").set(&2).guarded_by(&lock).into_future());
    lock.release().await.unwrap();
    let next = bench.lock().await;
    assert_eq!((next.key(), next.lease_id()), (&key, lease));
    gate.notify_one();
    let error = timeout(LIMIT, &mut write).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuardLost);
    assert_eq!(bench.stored().await, before);
    next.verify().await.unwrap();
    bench.entry("there").set(&3).guarded_by(&next).await.unwrap();
}

/// Polls the future once, which must not complete it, and returns it.
fn polled<T>(mut future: BoxFuture<'static, T>) -> BoxFuture<'static, T> {
    assert!((&mut future).now_or_never().is_none(), "the write waits at the gate");
    future
}

/// After the guard's time has passed by the local clock, another client may hold the lock.
#[tokio::test(start_paused = true)]
async fn expired_guard_sends_nothing_with_memory_store() {
    let store = MemoryStore::new();
    let bench = Bench::of(Client::with_store(store.clone()));
    bench.fill().await;
    for (name, write) in WRITES.iter().chain(UNCHANGING_WRITES) {
        let lock = bench.lock().await;
        let before = bench.stored().await;
        store.faults().fail(Calls::KeepAlives, usize::MAX, ErrorKind::Unavailable);
        tokio::time::sleep(TTL).await;
        store.faults().clear();
        assert!(!lock.is_held());
        bench.requests();
        assert_eq!(write(&bench, Some(&lock)).await.unwrap_err().kind(), ErrorKind::GuardLost, "{name}");
        assert_eq!((bench.requests(), bench.stored().await), (0, before), "{name}");
    }
}

/// A server that hung applies the write after its caller has given up. The server compares the
/// guard at that time.
#[tokio::test(start_paused = true)]
async fn late_write_compares_guard_when_applied_with_memory_store() {
    for held in [true, false] {
        let store = MemoryStore::new();
        let bench = Bench::of(Client::with_store(store.clone()));
        let lock = bench.lock().await;
        store.faults().apply_late(1, Duration::from_secs(2));
        let error = bench.entry("there").set(&2).guarded_by(&lock).await.unwrap_err();
        assert!(error.may_have_applied() && lock.is_held(), "{error}");
        if !held {
            bench.foreign(vec![Op::delete(lock.key())]).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(bench.entry("there").get().await.unwrap().as_deref(), held.then_some(&2));
    }
}

/// Wraps a store and keeps the answers to its commits.
fn recording(store: &Arc<dyn Store>, answers: &Arc<Mutex<Vec<Committed>>>) -> Arc<dyn Store> {
    let answers = answers.clone();
    Arc::new(HookedStore::new(store.clone(), move |call, store| {
        let answers = answers.clone();
        async move {
            let reply = call.send(&store).await?;
            if let Reply::Commit(committed) = &reply {
                answers.lock().unwrap().push(committed.clone());
            }
            Ok(reply)
        }
    }))
}

/// Wraps a store and delays each commit by 0 to 11 ms.
fn delaying_commits(store: &Arc<dyn Store>) -> HookedStore {
    let commits = AtomicU64::new(0);
    HookedStore::new(store.clone(), move |call, store| {
        let delay = if matches!(call, Call::Commit(_)) { commits.fetch_add(1, Ordering::Relaxed) % 12 } else { 0 };
        async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            call.send(&store).await
        }
    })
}

/// Former holders continue to write until a write is refused. Some of their writes arrive while the
/// next holder has the lock. The history of the value shows that no late write was applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn former_holders_never_write_again() {
    const ROUNDS: usize = 100;
    const WRITERS: usize = 6;
    const LAGGARDS: usize = 3;
    let bench = Bench::v3().await;
    let answers = Arc::<Mutex<Vec<Committed>>>::default();
    let recording = recording(bench.other.store(), &answers);
    let owner = Client::with_store(delaying_commits(&recording)).entry::<u64>(&bench.path("owner")).unwrap();
    let begun = bench.foreign(vec![Op::put(owner.key(), "0".into())]).await.revision;
    // The revisions at which each holder got the lock and lost it.
    let mut holders: Vec<(Revision, Revision)> = Vec::new();
    let (mut writers, mut laggards) = (Vec::new(), Vec::new());
    let arrive = async |laggards: &mut Vec<(Arc<Notify>, BoxFuture<'static, Result<Revision>>)>| {
        for (gate, write) in laggards.drain(..) {
            gate.notify_one();
            assert_eq!(timeout(LIMIT, write).await.unwrap().unwrap_err().kind(), ErrorKind::GuardLost);
        }
    };
    for round in 0..ROUNDS {
        let lock = Arc::new(bench.lock().await);
        let mut late = std::mem::take(&mut laggards);
        for _ in 0..LAGGARDS {
            let gate = Arc::new(Notify::new());
            let gated = interfering(&recording, &Arc::new(Mutex::new([BeforeCommit::Wait(Arc::clone(&gate))].into())));
            let owner = Client::with_store(gated).entry::<u64>(owner.key().as_str()).unwrap();
            laggards.push((gate, polled(owner.set(&lock.fence().get()).guarded_by(&lock).into_future())));
        }
        for _ in 0..WRITERS {
            let (lock, owner) = (Arc::clone(&lock), owner.clone());
            writers.push(tokio::spawn(async move {
                let mut revisions = Vec::new();
                loop {
                    match owner.set(&lock.fence().get()).guarded_by(&lock).await {
                        Ok(revision) => revisions.push(revision),
                        Err(error) => return (lock.fence(), revisions, error),
                    }
                }
            }));
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
        // The late writes of the previous holder arrive now.
        arrive(&mut late).await;
        // Another client ends this hold, by deleting the key or by revoking the lease.
        let end = if round % 2 == 0 {
            bench.foreign(vec![Op::delete(lock.key())]).await.revision
        } else {
            bench.other.store().revoke(lock.lease_id()).await.unwrap();
            bench.other.store().range(Range::of(Span::Key(lock.key().clone()))).await.unwrap().revision
        };
        holders.push((lock.fence(), end));
    }
    arrive(&mut laggards).await;
    let end_of = |fence: u64| holders.iter().find(|(other, _)| other.get() == fence).unwrap().1;
    let mut written = 0;
    for writer in writers {
        let (fence, revisions, error) = timeout(LIMIT, writer).await.unwrap().unwrap();
        assert_eq!(error.kind(), ErrorKind::GuardLost, "{error}");
        assert!(revisions.iter().all(|revision| fence < *revision && *revision < end_of(fence.get())), "{fence}: {revisions:?}");
        written += revisions.len();
    }
    let mut history = bench.other.entry::<u64>(&bench.path("owner")).unwrap().watch().since(begun).await.unwrap();
    let mut last = 0;
    for _ in 0..written {
        let change = timeout(LIMIT, history.next()).await.unwrap().unwrap().unwrap();
        let fence = change.new.unwrap();
        assert!(last <= fence && change.revision < end_of(fence), "{fence} after {last}, at {}", change.revision);
        last = fence;
    }
    // A write that is refused while the lock is held was sent by a former holder.
    let answers = answers.lock().unwrap();
    let refused: Vec<Revision> = answers.iter().filter(|answer| !answer.succeeded).map(|answer| answer.revision).collect();
    let late = refused.iter().filter(|at| holders.iter().any(|(fence, end)| fence <= at && *at < end)).count();
    println!(
        "{ROUNDS} holders, {written} writes under their guards, {} refused, {late} of them while the next one had the lock",
        refused.len()
    );
    assert!(written > ROUNDS && late >= LAGGARDS * (ROUNDS - 1), "{written} {late}");
    assert!(holders.windows(2).all(|pair| pair[0].0 < pair[1].0));
}
