//! A guard whose watch, reads or keep-alives are refused.

use super::*;

/// The first reads of the guard's watch fail.
#[tokio::test(start_paused = true)]
async fn guard_watches_key_after_failed_reads() {
    let bench = Bench::new();
    let lock = bench.lock().acquire().await.unwrap();
    bench.memory.faults().fail(Calls::Reads, 3, ErrorKind::Unavailable);
    sleep(Duration::from_secs(1)).await;
    let gone = Txn::new(vec![etcd_typed::store::Op::delete(lock.key())]);
    bench.memory.commit(gone).await.unwrap();
    let lost = timeout(Duration::from_millis(100), lock.lost()).await.expect("the loss is seen at once");
    assert_eq!(lost.reason(), LostReason::KeyDeleted);
}

/// Deletes the key of a lock without its guard, as an administrator may.
async fn delete_key(bench: &Bench, lock: &Lock) {
    let gone = Txn::new(vec![etcd_typed::store::Op::delete(lock.key())]);
    bench.memory.commit(gone).await.unwrap();
}

/// Acquires a lock and waits until its key is watched. Then makes the store refuse all watches.
async fn refused_lock(bench: &Bench, kind: ErrorKind) -> Lock {
    let lock = bench.lock().ttl(Duration::from_secs(30)).acquire().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    bench.memory.faults().fail(Calls::Watches, usize::MAX, kind);
    bench.memory.faults().drop_connections();
    lock
}

#[tokio::test(start_paused = true)]
async fn guard_notices_deletion_after_refusal_ends() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::Unauthenticated, ErrorKind::Unsupported, ErrorKind::Tls, ErrorKind::Server] {
        for refused_for in [2, 20] {
            let bench = Bench::new();
            let lock = refused_lock(&bench, kind).await;
            bench.memory.faults().fail(Calls::Reads, usize::MAX, kind);
            sleep(Duration::from_secs(refused_for)).await;
            delete_key(&bench, &lock).await;
            let other = bench.lock().acquire().await.unwrap();
            assert!(lock.is_held(), "the guard cannot know yet");
            bench.memory.faults().clear();
            let lost = timeout(Duration::from_secs(3), lock.lost()).await.expect("the loss is seen when the key can be read again");
            assert_eq!(lost.reason(), LostReason::KeyDeleted);
            other.verify().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn guard_survives_temporary_refusal() {
    let bench = Bench::new();
    let lock = refused_lock(&bench, ErrorKind::PermissionDenied).await;
    for _ in 0..3 {
        bench.memory.faults().fail(Calls::All, usize::MAX, ErrorKind::PermissionDenied);
        sleep(Duration::from_secs(10)).await;
        bench.memory.faults().clear();
        sleep(Duration::from_secs(15)).await;
        lock.verify().await.unwrap();
    }
    delete_key(&bench, &lock).await;
    timeout(Duration::from_secs(1), lock.lost()).await.expect("the key is watched again");
}

#[tokio::test(start_paused = true)]
async fn guard_reads_key_while_watch_is_refused() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::Unavailable, ErrorKind::Tls] {
        let bench = Bench::new();
        let lock = refused_lock(&bench, kind).await;
        sleep(Duration::from_secs(300)).await;
        lock.verify().await.unwrap();
        delete_key(&bench, &lock).await;
        let lost = timeout(Duration::from_secs(11), lock.lost()).await.expect("the loss is seen within a third of the time to live");
        assert_eq!(lost.reason(), LostReason::KeyDeleted, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn guard_is_lost_after_ttl_without_verification() {
    let bench = Bench::new();
    let begun = Instant::now();
    let lock = refused_lock(&bench, ErrorKind::PermissionDenied).await;
    bench.memory.faults().fail(Calls::Reads, usize::MAX, ErrorKind::PermissionDenied);
    let lost = timeout(Duration::from_secs(60), lock.lost()).await.expect("the guard is lost although its lease is kept alive");
    assert_eq!(lost.reason(), LostReason::Unverified);
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    // The lost guard revokes its lease, so the next holder does not have to wait for its end.
    timeout(Duration::from_secs(3), bench.lock().acquire()).await.unwrap().unwrap().release().await.unwrap();
}

/// A waiter whose requests fail with a TLS error keeps waiting, and acquires the lock when requests
/// succeed again.
#[tokio::test(start_paused = true)]
async fn waiter_survives_bad_certificate() {
    let bench = Bench::new();
    let first = bench.lock().acquire().await.unwrap();
    let lock = bench.lock();
    let waiting = tokio::spawn(async move { lock.acquire().await });
    sleep(Duration::from_secs(1)).await;
    bench.memory.faults().fail(Calls::Commits, 3, ErrorKind::Tls);
    bench.memory.faults().drop_connections();
    sleep(Duration::from_secs(30)).await;
    bench.memory.faults().clear();
    first.release().await.unwrap();
    timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap().unwrap().release().await.unwrap();
}

/// A server that refuses a request has answered it, so the reason is `Unverified` and not
/// `Expired`. A TLS error counts as a refusal.
#[tokio::test(start_paused = true)]
async fn lost_lock_reports_refused_keep_alive() {
    for (kind, reason) in [
        (ErrorKind::PermissionDenied, LostReason::Unverified),
        (ErrorKind::Unauthenticated, LostReason::Unverified),
        (ErrorKind::Tls, LostReason::Unverified),
        (ErrorKind::Unavailable, LostReason::Expired),
        (ErrorKind::Timeout, LostReason::Expired),
    ] {
        let bench = Bench::new();
        let lock = bench.lock().acquire().await.unwrap();
        bench.memory.faults().fail(Calls::Leases, usize::MAX, kind);
        let lost = timeout(Duration::from_secs(120), lock.lost()).await.expect("the lease runs out in time");
        assert_eq!((lost.reason(), lost.cause().map(etcd_typed::Error::kind)), (reason, Some(kind)), "{lost}");
        let cause = lost.cause().unwrap().to_string();
        assert!(lost.to_string().ends_with(&cause), "{lost}");
        let error = lock.verify().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GuardLost);
        assert!(error.to_string().contains(&cause) && std::error::Error::source(&error).is_some(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_lock_reports_refused_key_read() {
    let bench = Bench::new();
    let lock = refused_lock(&bench, ErrorKind::PermissionDenied).await;
    bench.memory.faults().fail(Calls::Reads, usize::MAX, ErrorKind::PermissionDenied);
    let lost = timeout(Duration::from_secs(60), lock.lost()).await.unwrap();
    assert_eq!((lost.reason(), lost.cause().map(etcd_typed::Error::kind)), (LostReason::Unverified, Some(ErrorKind::PermissionDenied)));
}

/// An error after which a keep-alive succeeded is not the cause of a later loss.
#[tokio::test(start_paused = true)]
async fn lost_lock_ignores_earlier_refusals() {
    let bench = Bench::new();
    let lock = bench.lock().acquire().await.unwrap();
    bench.memory.faults().fail(Calls::Leases, 1, ErrorKind::PermissionDenied);
    sleep(Duration::from_secs(60)).await;
    delete_key(&bench, &lock).await;
    let lost = timeout(Duration::from_secs(60), lock.lost()).await.unwrap();
    assert!(lost.reason() == LostReason::KeyDeleted && lost.cause().is_none(), "{lost}");
}
