//! `Lock` on every store: who holds it, who waits, how a holder learns that it lost the lock, and
//! how a lock is handed over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::store::{Expiry, Op, Txn};
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Error, ErrorKind, Key, LeaseId, Lock, LostReason, NamedLock, Token};
use etcd_typed_tests::on_every_store;
use tokio::time::{sleep, timeout};

on_every_store! { "locks":
    lock_has_one_holder_at_a_time
    try_acquire_returns_at_once
    acquire_within_times_out
    waiters_acquire_in_arrival_order
    lock_is_not_reentrant
    dropping_guard_releases_lock
    dropping_guard_outside_runtime_releases_lock
    queue_lists_holder_and_waiters
    foreign_keys_do_not_affect_lock
    waiter_waits_for_foreign_leased_keys
    deleted_key_loses_lock
    recreated_key_loses_lock
    overwritten_key_loses_lock
    revoked_lease_loses_lock
    waiter_with_deleted_key_queues_again
    cancelled_waiter_wakes_no_other
    token_hands_lock_over
    adoption_loses_lock_for_former_holder
    abandoned_lock_is_free_after_ttl
    abandoned_lock_can_be_renewed_and_released
    token_is_valid_for_one_grant
    token_of_waiter_gives_no_lock
    dropped_acquires_leave_no_key
    keep_alive_does_not_change_key
}

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a test waits to see that something does not happen.
const WHILE: Duration = Duration::from_millis(300);

struct Bench {
    client: Client,
}

impl Bench {
    fn lock(&self) -> NamedLock {
        self.client.lock("/x")
    }

    /// Whether the store has transactions and leases. v2 has neither.
    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }

    /// Another client. On v2 it knows none of this client's leases.
    async fn foreigner(&self) -> Client {
        match self.client.store().capabilities().name {
            "etcd v2" => Client::connect(&etcd_typed_tests::shared("locks").await.url_v2()).await.unwrap(),
            "etcd v3" => Client::connect(&etcd_typed_tests::shared("locks").await.url_v3()).await.unwrap(),
            _ => self.client.clone(),
        }
    }

    /// Writes a key as another client, with a lease or a time to live.
    async fn write(&self, path: &str, lease: Option<LeaseId>) {
        let key = Key::parse(&format!("{}{path}", self.client.namespace())).unwrap();
        let expiry = match lease {
            None => Expiry::Never,
            Some(lease) if self.transactions() => Expiry::With(lease),
            Some(_) => Expiry::After(Duration::from_secs(5)),
        };
        let put = Op::Put { key, value: "foreign".into(), expiry, previous: false };
        self.foreigner().await.store().commit(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    }

    /// Deletes a key as another client.
    async fn delete(&self, key: &Key) {
        let delete = Txn { then: vec![Op::delete(key)], ..Txn::default() };
        self.foreigner().await.store().commit(delete).await.unwrap();
    }

    /// Waits until the queue has this many keys.
    async fn queued(&self, count: usize) {
        eventually(async || self.lock().queue().await.unwrap().len() == count).await;
    }
}

async fn eventually(check: impl AsyncFn() -> bool) {
    let until = async {
        while !check().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, until).await.expect("the condition becomes true in time");
}

async fn acquire(lock: &NamedLock) -> Lock {
    timeout(LIMIT, lock.acquire()).await.expect("in time").expect("the lock")
}

/// Waits until a guard is lost, and checks that all its methods report the loss.
async fn lost(lock: Lock) -> LostReason {
    let lost = timeout(LIMIT, lock.lost()).await.expect("in time");
    assert_eq!((lost.key(), lost.lease()), (Some(lock.key()), lock.lease_id()));
    assert_eq!((lock.is_held(), lock.remaining()), (false, Duration::ZERO));
    assert_eq!(Error::from(lost.clone()).kind(), ErrorKind::GuardLost);
    assert_eq!(lock.verify().await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(lock.while_held(async { panic!("the work runs without the lock") }).await, Err::<(), _>(lost.clone()));
    assert_eq!(lock.release().await.unwrap_err().kind(), ErrorKind::GuardLost);
    lost.reason()
}

async fn lock_has_one_holder_at_a_time(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    assert!(lock.is_held());
    assert!(lock.remaining() > Duration::from_secs(10) && lock.remaining() <= Duration::from_secs(15), "{:?}", lock.remaining());
    lock.verify().await.unwrap();
    assert_eq!(lock.key().as_str(), format!("{}/x/{}", bench.client.namespace(), lock.lease_id()));
    assert_eq!(lock.while_held(async { 7 }).await, Ok(7));
    let mut fence = lock.fence();
    lock.release().await.unwrap();
    assert_eq!(bench.lock().holder().await.unwrap(), None);
    for _ in 0..5 {
        let lock = acquire(&bench.lock()).await;
        assert!(lock.fence() > fence);
        fence = lock.fence();
        lock.release().await.unwrap();
    }
    // Locks with different names are independent.
    let (x, y) = (acquire(&bench.lock()).await, acquire(&bench.client.lock("/y")).await);
    assert_ne!(x.lease_id(), y.lease_id());
}

async fn try_acquire_returns_at_once(bench: Bench) {
    let lock = bench.lock().try_acquire().await.unwrap().expect("the lock is free");
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    assert_eq!(bench.lock().queue().await.unwrap().len(), 1);
    lock.release().await.unwrap();
    // A failed try leaves no key that the next try would wait for.
    let lock = bench.lock().try_acquire().await.unwrap().expect("the lock is free again");
    let waiter = tokio::spawn({
        let lock = bench.lock();
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    lock.release().await.unwrap();
    assert!(waiter.await.unwrap().is_held());
}

async fn acquire_within_times_out(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let error = bench.lock().acquire_within(WHILE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("waiting for the lock timed out after 300ms"), "{error}");
    // The waiter that gave up has left the queue.
    bench.queued(1).await;
    lock.release().await.unwrap();
    let lock = bench.lock().acquire_within(LIMIT).await.unwrap();
    assert!(lock.is_held());
}

async fn waiters_acquire_in_arrival_order(bench: Bench) {
    let order = Arc::new(Mutex::new(Vec::new()));
    let first = acquire(&bench.lock()).await;
    let mut waiters = Vec::new();
    for number in 0..6 {
        let (lock, order) = (bench.lock().info(number.to_string()), Arc::clone(&order));
        waiters.push(tokio::spawn(async move {
            let lock = acquire(&lock).await;
            lock.verify().await.unwrap();
            order.lock().unwrap().push((number, lock.fence()));
            lock.release().await.unwrap();
        }));
        bench.queued(number + 2).await;
    }
    let queue = bench.lock().queue().await.unwrap();
    assert_eq!(queue[0].fence, first.fence());
    let expected: Vec<_> = queue[1..].iter().map(|waiter| (waiter.info.parse().unwrap(), waiter.fence)).collect();
    assert_eq!(expected.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(expected.is_sorted_by(|(_, one), (_, next)| one < next));
    first.release().await.unwrap();
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), expected);
}

async fn lock_is_not_reentrant(bench: Bench) {
    let named = bench.lock();
    let lock = acquire(&named).await;
    assert!(named.try_acquire().await.unwrap().is_none());
    assert_eq!(named.clone().acquire_within(WHILE).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(lock.is_held());
}

async fn dropping_guard_releases_lock(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let fence = lock.fence();
    drop(lock);
    let lock = acquire(&bench.lock()).await;
    assert!(lock.fence() > fence);
    // A guard that watches its key. The watch starts a moment after the acquire.
    sleep(WHILE).await;
    drop(lock);
    bench.queued(0).await;
}

async fn dropping_guard_outside_runtime_releases_lock(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    std::thread::spawn(move || drop(lock)).join().unwrap();
    bench.queued(0).await;
}

async fn queue_lists_holder_and_waiters(bench: Bench) {
    assert_eq!((bench.lock().holder().await.unwrap(), bench.lock().queue().await.unwrap()), (None, vec![]));
    let lock = acquire(&bench.lock()).await;
    let waiter = tokio::spawn({
        let lock = bench.lock().info("the nightly job");
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    let queue = bench.lock().queue().await.unwrap();
    let holder = bench.lock().holder().await.unwrap().unwrap();
    assert_eq!(holder, queue[0]);
    assert_eq!((&holder.key, holder.fence, holder.lease), (lock.key(), lock.fence(), lock.lease_id()));
    let process = holder.process.as_ref().unwrap();
    assert_eq!(process.pid, std::process::id());
    assert!(process.name.starts_with(env!("CARGO_CRATE_NAME")) && !process.host.is_empty(), "{process}");
    assert!(process.since.starts_with("20") && process.since.ends_with('Z'), "{process}");
    assert_eq!((queue[1].info.as_str(), &queue[1].process), ("the nightly job", &None));
    assert!(queue[1].fence > holder.fence);
    lock.release().await.unwrap();
    let lock = waiter.await.unwrap();
    assert_eq!(bench.lock().holder().await.unwrap().unwrap(), queue[1]);
    lock.release().await.unwrap();
}

/// Fault F26: other programs write keys near the queue, or into its directory.
async fn foreign_keys_do_not_affect_lock(bench: Bench) {
    let lease = bench.client.lease(Duration::from_secs(60)).await.unwrap();
    let with = Some(lease.id());
    let mut foreign = vec![
        ("/x/README", None),
        // Keys whose names look like lease ids, and a deeper key.
        ("/x/beef", None),
        ("/x/694d9a1b2c3d4e5f", None),
        ("/x/sub/README", None),
        // Keys of locks whose names start alike.
        ("/x2/beef", with),
        ("/xbeef", with),
    ];
    if !bench.transactions() {
        // Where the store has no leases, the name of a key decides whether it is in the queue.
        foreign.extend([("/x/BEEF", with), ("/x/held by hand", with), ("/x/sub/beef", with)]);
    }
    for (path, lease) in &foreign {
        bench.write(path, *lease).await;
    }
    assert_eq!(bench.lock().queue().await.unwrap(), vec![]);
    let strays = async || bench.lock().strays().await.unwrap().into_iter().map(|key| key.to_string()).collect::<Vec<_>>();
    let below = foreign.iter().filter(|(path, _)| path.starts_with("/x/")).map(|(path, _)| format!("{}{path}", bench.client.namespace()));
    let mut below: Vec<_> = below.collect();
    below.sort();
    assert_eq!(strays().await, below);
    let lock = bench.lock().try_acquire().await.unwrap().expect("the lock is free");
    // Foreign keys written later affect neither the holder nor the waiter.
    let waiter = tokio::spawn({
        let lock = bench.lock();
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    for (path, lease) in &foreign {
        bench.write(path, *lease).await;
    }
    assert_eq!(strays().await, below);
    lock.verify().await.unwrap();
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    lock.release().await.unwrap();
    let lock = waiter.await.unwrap();
    lock.verify().await.unwrap();
    drop(lock);
    bench.queued(0).await;
    for (path, lease) in foreign {
        if lease.is_some() && !bench.transactions() {
            // On v2 this key was written with a short time to live, so it may be gone.
            continue;
        }
        let still = bench.client.entry::<String>(path).unwrap().get().await.unwrap();
        assert_eq!(still.as_deref().map(String::as_str), Some("foreign"), "{path}");
    }
}

async fn waiter_waits_for_foreign_leased_keys(bench: Bench) {
    if !bench.transactions() {
        // v2 has no leases: see `foreign_keys_do_not_affect_lock`.
        return;
    }
    for path in ["/x/3392796194549682947", "/x/BEEF", "/x/held by hand", "/x/sub/beef", "/x/_hidden", "/x/ü"] {
        let lease = bench.client.lease(Duration::from_secs(60)).await.unwrap();
        bench.write(path, Some(lease.id())).await;
        let holder = bench.lock().holder().await.unwrap().expect("the foreign key holds the lock");
        assert_eq!((holder.key.to_string(), holder.lease), (format!("{}{path}", bench.client.namespace()), lease.id()));
        assert!(bench.lock().try_acquire().await.unwrap().is_none(), "{path}");
        assert_eq!(bench.lock().acquire_within(WHILE).await.unwrap_err().kind(), ErrorKind::Timeout, "{path}");
        let waiter = tokio::spawn({
            let lock = bench.lock();
            async move { acquire(&lock).await }
        });
        bench.queued(2).await;
        assert!(!waiter.is_finished(), "{path}");
        lease.revoke().await.unwrap();
        waiter.await.unwrap().release().await.unwrap();
    }
}

/// Fault F27: an administrator deletes the key of the holder.
async fn deleted_key_loses_lock(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    bench.delete(lock.key()).await;
    // The lease is still kept alive. The watch sees the deletion.
    assert_eq!(lost(lock).await, LostReason::KeyDeleted);
    // Before the watch has started, the first check sees the deletion.
    let lock = acquire(&bench.lock()).await;
    bench.delete(lock.key()).await;
    let error = lock.verify().await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(lock.key())));
    assert!(!lock.is_held());
    assert_eq!(lost(lock).await, LostReason::KeyDeleted);
    // A release also reports that the key was deleted.
    let lock = acquire(&bench.lock()).await;
    bench.delete(lock.key()).await;
    assert_eq!(lock.release().await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert!(bench.lock().try_acquire().await.unwrap().is_some());
}

async fn recreated_key_loses_lock(bench: Bench) {
    for settled in [Duration::ZERO, WHILE] {
        let lock = acquire(&bench.lock()).await;
        sleep(settled).await;
        let theirs = bench.client.lease(Duration::from_secs(60)).await.unwrap();
        bench.delete(lock.key()).await;
        bench.write(lock.key().as_str().strip_prefix(bench.client.namespace().as_str()).unwrap(), Some(theirs.id())).await;
        let reason = lost(lock).await;
        // The watch sees the deletion first.
        assert!(matches!(reason, LostReason::KeyDeleted | LostReason::TakenOver | LostReason::Revoked), "{reason}");
        // The new key has a lease, so it is in the queue until its lease ends.
        drop(theirs);
        bench.queued(0).await;
    }
}

async fn overwritten_key_loses_lock(bench: Bench) {
    for settled in [Duration::ZERO, WHILE] {
        let lock = acquire(&bench.lock()).await;
        sleep(settled).await;
        let path = lock.key().as_str().strip_prefix(bench.client.namespace().as_str()).unwrap().to_owned();
        let key = lock.key().clone();
        // The write removes the lease from the key. Except on v2, the create revision stays the
        // same.
        bench.write(&path, None).await;
        assert_eq!(lost(lock).await, LostReason::TakenOver);
        // The key no longer belongs to this library, so it is not deleted and is not in the queue.
        assert!(bench.client.entry::<String>(&path).unwrap().exists().await.unwrap());
        assert!(bench.lock().try_acquire().await.unwrap().is_some());
        bench.delete(&key).await;
    }
}

async fn revoked_lease_loses_lock(bench: Bench) {
    for settled in [Duration::ZERO, WHILE] {
        let lock = acquire(&bench.lock()).await;
        sleep(settled).await;
        bench.client.store().revoke(lock.lease_id()).await.unwrap();
        let reason = lost(lock).await;
        assert!(matches!(reason, LostReason::KeyDeleted | LostReason::Revoked), "{reason}");
        bench.queued(0).await;
    }
}

async fn waiter_with_deleted_key_queues_again(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let named = bench.lock().ttl(Duration::from_secs(2));
    let waiter = tokio::spawn(async move { acquire(&named).await });
    bench.queued(2).await;
    let place = bench.lock().queue().await.unwrap().remove(1);
    bench.delete(&place.key).await;
    // The waiter notices within a third of its time to live and enters the queue again at its end.
    bench.queued(2).await;
    let again = bench.lock().queue().await.unwrap().remove(1);
    assert!(again.fence > place.fence && again.lease != place.lease);
    lock.release().await.unwrap();
    assert_eq!(waiter.await.unwrap().fence(), again.fence);
}

async fn cancelled_waiter_wakes_no_other(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let mut waiters = Vec::new();
    for count in 2..=4 {
        let named = bench.lock();
        waiters.push(tokio::spawn(async move { acquire(&named).await }));
        bench.queued(count).await;
    }
    let last = waiters.pop().unwrap();
    waiters.remove(1).abort();
    bench.queued(3).await;
    // The last waiter now waits for the first waiter, so a release by the holder does not wake it.
    lock.release().await.unwrap();
    let second = waiters.remove(0).await.unwrap();
    sleep(WHILE).await;
    assert!(!last.is_finished());
    second.release().await.unwrap();
    assert!(last.await.unwrap().is_held());
}

async fn token_hands_lock_over(bench: Bench) {
    let lock = acquire(&bench.lock().info("first")).await;
    let (key, fence, lease) = (lock.key().clone(), lock.fence(), lock.lease_id());
    let waiter = tokio::spawn({
        let lock = bench.lock();
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    let text = lock.into_token().to_string();
    assert_eq!(text, format!("{key}@{fence}#{lease}"));
    let token: Token = serde_json::from_str(&serde_json::to_string(&text.parse::<Token>().unwrap()).unwrap()).unwrap();
    assert_eq!((token.key(), token.fence(), token.lease_id()), (&key, fence, lease));

    let adopted = bench.lock().info("second").adopt(&token).await.unwrap();
    assert_eq!((adopted.key(), adopted.fence()), (&key, fence));
    assert_ne!(adopted.lease_id(), lease);
    adopted.verify().await.unwrap();
    let holder = bench.lock().holder().await.unwrap().unwrap();
    assert_eq!((holder.key, holder.fence, holder.info.as_str()), (key, fence, "second"));
    sleep(WHILE).await;
    assert!(adopted.is_held() && !waiter.is_finished());
    adopted.release().await.unwrap();
    let next = waiter.await.unwrap();
    assert!(next.fence() > fence);
    assert_eq!(bench.lock().adopt(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
    next.verify().await.unwrap();
}

async fn adoption_loses_lock_for_former_holder(bench: Bench) {
    let foreigner = bench.foreigner().await;
    let path = if foreigner.namespace().is_root() { format!("{}/x", bench.client.namespace()) } else { "/x".to_owned() };
    for settled in [Duration::ZERO, WHILE] {
        // Both use the same info: on v2 the key then looks the same after the adoption.
        let (named, theirs) = (bench.lock().info("same"), foreigner.lock(&path).info("same"));
        let before = acquire(&named).await;
        sleep(settled).await;
        let token = named.holder().await.unwrap().unwrap().token();
        let after = theirs.adopt(&token).await.unwrap();
        if settled.is_zero() {
            // A guard that was held longer learns of the adoption from its watch.
            assert_eq!(before.verify().await.unwrap_err().kind(), ErrorKind::GuardLost);
        }
        let reason = lost(before).await;
        assert!(matches!(reason, LostReason::TakenOver | LostReason::Revoked), "{reason}");
        // Cleaning up after the former holder does not affect the new one.
        sleep(WHILE).await;
        after.verify().await.unwrap();
        assert!(after.is_held());
        after.release().await.unwrap();
    }
}

async fn abandoned_lock_is_free_after_ttl(bench: Bench) {
    let lock = acquire(&bench.lock().ttl(Duration::from_secs(2))).await;
    let _token = lock.into_token();
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    let lock = acquire(&bench.lock()).await;
    lock.verify().await.unwrap();
}

async fn abandoned_lock_can_be_renewed_and_released(bench: Bench) {
    let named = bench.lock().ttl(Duration::from_secs(2));
    let token = acquire(&named).await.into_token();
    let renewed = named.renew(&token, Duration::from_secs(60)).await.unwrap();
    assert_eq!((renewed.key(), renewed.fence()), (token.key(), token.fence()));
    assert_ne!(renewed.lease_id(), token.lease_id());
    // The lock outlives its first time to live.
    sleep(Duration::from_millis(3500)).await;
    let holder = named.holder().await.unwrap().unwrap();
    assert_eq!((&holder.key, holder.fence), (token.key(), token.fence()));
    // The earlier token is invalid now. v2 has no leases, so it cannot tell the two tokens apart.
    if bench.transactions() {
        assert_eq!(named.release_token(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
        assert_eq!(named.adopt(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
        assert_eq!(named.renew(&token, LIMIT).await.unwrap_err().kind(), ErrorKind::GuardLost);
        assert_eq!(holder.token(), renewed);
    }
    named.release_token(&renewed).await.unwrap();
    assert_eq!(named.holder().await.unwrap(), None);
    assert_eq!(named.release_token(&renewed).await.unwrap_err().kind(), ErrorKind::GuardLost);
    // A current holder learns that its lock was released by token.
    let lock = acquire(&named).await;
    named.release_token(&named.holder().await.unwrap().unwrap().token()).await.unwrap();
    let reason = lost(lock).await;
    assert!(matches!(reason, LostReason::KeyDeleted | LostReason::Revoked), "{reason}");
}

async fn token_is_valid_for_one_grant(bench: Bench) {
    let token = acquire(&bench.lock()).await.into_token();
    for other in ["/y", "/x/y"] {
        let other = bench.client.lock(other);
        assert_eq!(other.adopt(&token).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(other.renew(&token, LIMIT).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(other.release_token(&token).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    // The same key with another fence is another grant.
    let text = token.to_string();
    let other = text.replace(&format!("@{}#", token.fence()), &format!("@{}#", token.fence().next()));
    let other: Token = other.parse().unwrap();
    for error in [
        bench.lock().adopt(&other).await.unwrap_err(),
        bench.lock().renew(&other, LIMIT).await.unwrap_err(),
        bench.lock().release_token(&other).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(token.key())));
    }
    for nonsense in ["", "/x", "/x/1@2", "/x/1#2", "x@1#2", "/x/1@#2", "/x/1@2#", "/x/1@2#0", "/x/1@two#2", "/x/1@2#xyz", "/x/1@2#3#hex"] {
        assert!(nonsense.parse::<Token>().is_err(), "{nonsense}");
    }
    bench.lock().release_token(&token).await.unwrap();
}

async fn token_of_waiter_gives_no_lock(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let waiter = tokio::spawn({
        let lock = bench.lock();
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    let token = bench.lock().queue().await.unwrap()[1].token();
    assert_eq!(bench.lock().adopt(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(bench.lock().renew(&token, LIMIT).await.unwrap_err().kind(), ErrorKind::GuardLost);
    lock.verify().await.unwrap();
    lock.release().await.unwrap();
    assert_eq!(waiter.await.unwrap().fence(), token.fence());
}

/// Promise L7 with the timing of a real server. The tests of `faults` on the memory store drop
/// futures at exact points.
async fn dropped_acquires_leave_no_key(bench: Bench) {
    for round in 0..40_u64 {
        let lock = acquire(&bench.lock()).await;
        let mut waiters = Vec::new();
        for number in 0..4 {
            // With this time to live, a leftover key would outlast the test.
            let named = bench.lock().ttl(Duration::from_secs(600));
            waiters.push(tokio::spawn(async move {
                let _ = timeout(Duration::from_micros(37 * (round * 4 + number)), named.acquire()).await;
                let _ = timeout(Duration::from_micros(53 * (round * 4 + number)), named.try_acquire()).await;
            }));
        }
        if round % 2 == 0 {
            lock.release().await.unwrap();
        } else {
            drop(lock);
        }
        for waiter in waiters {
            waiter.await.unwrap();
        }
    }
    bench.queued(0).await;
}

async fn keep_alive_does_not_change_key(bench: Bench) {
    let foreigner = bench.foreigner().await;
    let path = if foreigner.namespace().is_root() { bench.client.namespace().as_str() } else { "/" };
    let mut changes = foreigner.directory(path).unwrap().watch().await.unwrap();
    let lock = acquire(&bench.lock().ttl(Duration::from_secs(2))).await;
    sleep(Duration::from_secs(3)).await;
    lock.verify().await.unwrap();
    lock.release().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(timeout(LIMIT, changes.next()).await.expect("in time").unwrap().unwrap());
    }
    // In three seconds the key was created and deleted, with no change in between.
    let [came, went] = [&seen[0], &seen[1]].map(|update| update.changes.len());
    assert_eq!((came, went), (1, 1), "{seen:?}");
    assert!(seen[0].changes[0].change.new.is_some() && seen[1].changes[0].change.new.is_none(), "{seen:?}");
}

async fn namespaces_have_separate_locks(address: &str) {
    let client = async |namespace| Client::builder(address).namespace(namespace).connect().await.unwrap();
    let (outer, inner) = (client("/spaces").await, client("/spaces/inner").await);
    let lock = acquire(&outer.lock("/x")).await;
    let theirs = inner.lock("/x").try_acquire().await.unwrap().expect("the namespaces have different locks");
    assert!(theirs.key().as_str().starts_with("/spaces/inner/x/"));
    assert!(outer.lock("/inner/x").try_acquire().await.unwrap().is_none(), "both names have the same key");
    assert_eq!(inner.lock("/x").release_token(&lock.into_token()).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn v3_namespaces_have_separate_locks() {
    namespaces_have_separate_locks(&etcd_typed_tests::shared("locks").await.url_v3()).await;
}

#[tokio::test]
async fn v2_namespaces_have_separate_locks() {
    namespaces_have_separate_locks(&etcd_typed_tests::shared("locks").await.url_v2()).await;
}

#[tokio::test]
async fn memory_namespaces_have_separate_locks() {
    namespaces_have_separate_locks("memory:locks-of-namespaces").await;
}

/// A guard whose runtime has ended can be queried, released and dropped. It continues on the next
/// runtime.
fn outlives_its_runtime(address: &str) {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let address = address.to_owned();
    let (client, lock, other) = first.block_on(async {
        let client = Client::builder(&address).namespace("/outlives").connect().await.unwrap();
        let (lock, other) = (acquire(&client.lock("/x")).await, acquire(&client.lock("/y")).await);
        // Waits until the guard watches its key.
        sleep(WHILE).await;
        (client, lock, other)
    });
    drop(first);
    assert!(lock.is_held());
    drop(other);
    let second = runtime();
    second.block_on(async {
        lock.verify().await.unwrap();
        // The guard that was dropped without a runtime is released now.
        acquire(&client.lock("/y")).await.release().await.unwrap();
        lock.release().await.unwrap();
    });
    drop((client, second));
}

/// Runs the server in a separate runtime.
fn guard_outlives_its_runtime(address: impl Fn(&Etcd) -> String) {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let etcd = servers.block_on(Etcd::start());
    outlives_its_runtime(&address(&etcd));
    servers.block_on(async move { drop(etcd) });
}

#[test]
fn memory_guard_outlives_its_runtime() {
    outlives_its_runtime("memory:");
}

#[test]
fn v3_guard_outlives_its_runtime() {
    guard_outlives_its_runtime(Etcd::url_v3);
}

#[test]
fn v2_guard_outlives_its_runtime() {
    guard_outlives_its_runtime(Etcd::url_v2);
}

/// Promise L8: when a server comes back empty, with the same ids and soon at the same revision,
/// every earlier guard is lost.
async fn wiped_server_loses_all_locks(mut etcd: Etcd, address: &str) {
    let client = Client::connect(address).await.unwrap();
    let named = client.lock("/x").ttl(Duration::from_secs(5));
    let (watched, waiter) = (
        acquire(&named).await,
        tokio::spawn({
            let named = named.clone();
            async move { acquire(&named).await }
        }),
    );
    sleep(WHILE).await;
    etcd.wipe().await;
    lost(watched).await;
    // The waiter enters the queue again, as does every other client.
    let next = waiter.await.unwrap();
    next.verify().await.unwrap();
    next.release().await.unwrap();
    assert!(named.try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn v3_wiped_server_loses_all_locks() {
    let etcd = Etcd::start().await;
    let address = etcd.url_v3();
    wiped_server_loses_all_locks(etcd, &address).await;
}

#[tokio::test]
async fn v2_wiped_server_loses_all_locks() {
    let etcd = Etcd::start().await;
    let address = etcd.url_v2();
    wiped_server_loses_all_locks(etcd, &address).await;
}

#[tokio::test]
async fn memory_wiped_store_loses_all_locks() {
    let store = MemoryStore::new();
    let client = Client::with_store(store.clone());
    let first = acquire(&client.lock("/x")).await;
    let spare = acquire(&client.lock("/y")).await;
    spare.release().await.unwrap();
    store.faults().wipe();
    // A spare lease that no longer exists is replaced in one more round.
    let y = timeout(LIMIT, client.lock("/y").acquire()).await.expect("in time").unwrap();
    y.verify().await.unwrap();
    // A forged key at a revision that is not smaller than the fence: a check of the create revision
    // alone could take it for the lock's own.
    let forged = first.key().clone();
    let lease = LeaseId::random();
    client.store().grant(lease, LIMIT).await.unwrap();
    let put = Op::Put { key: forged, value: "".into(), expiry: Expiry::With(lease), previous: false };
    let made = client.store().commit(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    assert!(made.revision >= first.fence(), "{} {}", made.revision, first.fence());
    assert_eq!(first.verify().await.unwrap_err().kind(), ErrorKind::GuardLost);
    lost(first).await;
}
