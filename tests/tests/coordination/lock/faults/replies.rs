//! Locks on a store whose replies are lost.

use super::*;

/// A lock that was acquired despite lost replies has one key, and no other lock uses its lease.
#[tokio::test(start_paused = true)]
async fn lost_reply_creates_no_second_key() {
    for (fault, set) in FAULTS.iter().filter(|(name, _)| !name.contains("grant")) {
        let bench = Bench::new();
        // A spare lease exists, so that the fault hits the create.
        let spare = bench.lock().acquire().await.unwrap();
        let spare_id = spare.lease_id();
        spare.release().await.unwrap();
        set(&bench.memory.faults());
        let lock = bench.lock().acquire().await.unwrap_or_else(|error| panic!("{fault}: {error}"));
        lock.verify().await.unwrap();
        assert_eq!(bench.keys().await, [lock.key().as_str()], "{fault}");
        assert_eq!(lock.lease_id(), spare_id, "{fault}");
        lock.release().await.unwrap();
        assert_eq!(bench.keys().await, Vec::<String>::new(), "{fault}");
        // If the create got no answer, the client revokes the lease and does not use it again. A
        // create that is applied late then finds no lease.
        let clean = *fault == "no fault";
        let next = bench.lock().acquire().await.unwrap();
        assert_eq!(next.lease_id() == spare_id, clean, "{fault}");
        next.release().await.unwrap();
        bench.nothing_is_left(fault).await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiter_survives_lost_replies_to_its_checks() {
    for calls in [Calls::Commits, Calls::Watches, Calls::All] {
        let bench = Bench::new();
        let holder = bench.theirs().acquire().await.unwrap();
        let waiter = tokio::spawn({
            let lock = bench.lock();
            async move { lock.acquire().await.unwrap() }
        });
        sleep(Duration::from_secs(1)).await;
        bench.memory.faults().drop_connections();
        bench.memory.faults().lose_reply(calls, 5);
        sleep(Duration::from_secs(1)).await;
        bench.memory.faults().clear();
        holder.release().await.unwrap();
        let lock = timeout(Duration::from_secs(10), waiter).await.expect("the waiter gets its turn").unwrap();
        lock.verify().await.unwrap();
        lock.release().await.unwrap();
        bench.nothing_is_left(&format!("{calls:?}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiter_survives_outage_longer_than_lease() {
    let bench = Bench::new();
    let holder = bench.theirs().acquire().await.unwrap();
    let waiter = tokio::spawn({
        let lock = bench.lock();
        async move { lock.acquire().await.unwrap() }
    });
    sleep(Duration::from_secs(1)).await;
    bench.memory.faults().stop();
    assert_eq!(holder.lost().await.reason(), LostReason::Expired);
    sleep(Duration::from_secs(300)).await;
    assert!(!waiter.is_finished());
    bench.memory.faults().start();
    // The restarted server gives all leases their whole time again. The former holder releases the
    // lock as soon as it reaches the server.
    let lock = timeout(Duration::from_secs(60), waiter).await.expect("the waiter gets its turn").unwrap();
    lock.verify().await.unwrap();
    drop(holder);
    lock.verify().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn expired_spare_lease_is_replaced() {
    let bench = Bench::new();
    for other in ["/a", "/b", "/c"] {
        let _spare = bench.client.lock(other).acquire().await.unwrap();
    }
    let locks = [bench.client.lock("/a").acquire().await.unwrap(), bench.client.lock("/b").acquire().await.unwrap()];
    let ids = locks.each_ref().map(|lock| lock.lease_id());
    for lock in locks {
        lock.release().await.unwrap();
    }
    for id in ids {
        assert!(bench.memory.faults().expire(id));
    }
    let before = Instant::now();
    let lock = bench.lock().acquire().await.unwrap();
    assert!(!ids.contains(&lock.lease_id()));
    assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
    lock.release().await.unwrap();
    assert!(bench.lock().try_acquire().await.unwrap().is_some());
    let token = bench.lock().acquire().await.unwrap().into_token();
    bench.lock().adopt(&token).await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn release_with_lost_reply_succeeds() {
    for lost in [1, 2, 3] {
        let bench = Bench::new();
        let lock = bench.lock().acquire().await.unwrap();
        bench.memory.faults().lose_reply(Calls::Commits, lost);
        lock.release().await.unwrap();
        bench.nothing_is_left("released").await;

        let bench = Bench::new();
        let token = bench.lock().acquire().await.unwrap().into_token();
        bench.memory.faults().lose_reply(Calls::Commits, lost);
        bench.lock().release_token(&token).await.unwrap();
        bench.nothing_is_left("released by its token").await;

        let bench = Bench::new();
        bench.memory.faults().lose_reply(Calls::Commits, 1);
        // A lost reply to the create says nothing about the release.
        let lock = bench.lock().acquire().await.unwrap();
        bench.memory.faults().expire(lock.lease_id());
        assert_eq!(lock.release().await.unwrap_err().kind(), ErrorKind::GuardLost);
    }
    // While the server is stopped, the release returns an error. The lock is free when the server
    // is back.
    let bench = Bench::new();
    let lock = bench.lock().acquire().await.unwrap();
    bench.memory.faults().stop();
    assert_eq!(lock.release().await.unwrap_err().kind(), ErrorKind::Unavailable);
    bench.memory.faults().start();
    sleep(Duration::from_secs(3)).await;
    bench.nothing_is_left("released while the server was away").await;
}

#[tokio::test(start_paused = true)]
async fn lost_revocation_is_repeated() {
    let bench = Bench::new();
    let lock = bench.lock().acquire().await.unwrap();
    // The release and three revocations are lost.
    bench.memory.faults().lose_request(Calls::All, 4);
    drop(lock);
    sleep(Duration::from_secs(1)).await;
    bench.nothing_is_left("dropped").await;
}

#[tokio::test(start_paused = true)]
async fn handover_survives_lost_replies() {
    for lost in [0, 1, 2] {
        let bench = Bench::new();
        let lock = bench.lock().acquire().await.unwrap();
        let fence = lock.fence();
        let token: Token = lock.into_token();
        sleep(Duration::from_secs(1)).await;
        bench.memory.faults().lose_reply(Calls::Commits, lost);
        let token = bench.lock().renew(&token, Duration::from_secs(30)).await.unwrap();
        bench.memory.faults().clear();
        bench.memory.faults().lose_request(Calls::Commits, lost);
        let lock = bench.lock().adopt(&token).await.unwrap();
        bench.memory.faults().clear();
        assert_eq!(lock.fence(), fence);
        lock.verify().await.unwrap();
        lock.release().await.unwrap();
        bench.nothing_is_left("handed over").await;
    }
}
