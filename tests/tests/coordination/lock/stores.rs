//! `Lock` on every store: who has it, who waits, who loses it and how he learns that, and how it is handed over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::store::{Expiry, Op, Txn};
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Error, ErrorKind, Key, LeaseId, Lock, LostReason, NamedLock, Token};
use etcd_typed_tests::on_every_store;
use tokio::time::{sleep, timeout};

on_every_store! { "locks":
    one_at_a_time
    a_try_neither_waits_nor_stays
    waiting_may_have_an_end
    first_come_first_served
    it_is_not_reentrant
    dropping_a_guard_releases_it
    dropping_a_guard_where_there_is_no_runtime_releases_it
    who_has_it_and_who_waits
    keys_of_others_are_nobodys_business
    leased_keys_of_others_are_waited_for
    a_deleted_key_is_a_lost_lock
    a_key_that_was_made_anew_is_a_lost_lock
    a_key_that_was_written_by_others_is_a_lost_lock
    a_revoked_lease_is_a_lost_lock
    a_waiter_whose_key_was_deleted_waits_on
    a_waiter_in_the_middle_may_go
    a_lock_is_handed_over_by_its_token
    whoever_held_it_before_knows_that_it_was_adopted
    a_lock_that_is_left_is_free_after_its_time
    a_lock_that_is_left_can_be_renewed_and_released
    a_token_is_for_one_grant_of_one_lock
    a_token_of_somebody_who_waits_gives_no_lock
    whoever_is_dropped_at_any_time_is_gone
    keeping_it_alive_is_no_change_of_its_key
}

/// Long enough for whatever comes at all; only a test that fails waits for it.
const LIMIT: Duration = Duration::from_secs(60);
/// How long something is given to happen that must not.
const WHILE: Duration = Duration::from_millis(300);

struct Bench {
    client: Client,
}

impl Bench {
    fn lock(&self) -> NamedLock {
        self.client.lock("/x")
    }

    /// Whether the store has transactions and leases; v2 has not.
    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }

    /// Somebody else, who on v2 knows nothing of this client's leases.
    async fn foreigner(&self) -> Client {
        match self.client.store().capabilities().name {
            "etcd v2" => Client::connect(&etcd_typed_tests::shared("locks").await.url_v2()).await.unwrap(),
            "etcd v3" => Client::connect(&etcd_typed_tests::shared("locks").await.url_v3()).await.unwrap(),
            _ => self.client.clone(),
        }
    }

    /// Somebody else writes a key, with a lease or a time to live.
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

    /// Somebody else deletes a key.
    async fn delete(&self, key: &Key) {
        let delete = Txn { then: vec![Op::delete(key)], ..Txn::default() };
        self.foreigner().await.store().commit(delete).await.unwrap();
    }

    /// Waits until so many stand in the queue.
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
    timeout(LIMIT, until).await.expect("it comes to be so");
}

async fn acquire(lock: &NamedLock) -> Lock {
    timeout(LIMIT, lock.acquire()).await.expect("in time").expect("the lock")
}

/// Waits until a guard is lost, and checks that it says so everywhere.
async fn lost(lock: Lock) -> LostReason {
    let lost = timeout(LIMIT, lock.lost()).await.expect("in time");
    assert_eq!((lost.key(), lost.lease()), (Some(lock.key()), lock.lease_id()));
    assert_eq!((lock.is_held(), lock.remaining()), (false, Duration::ZERO));
    assert_eq!(Error::from(lost.clone()).kind(), ErrorKind::GuardLost);
    assert_eq!(lock.verify().await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(lock.while_held(async { panic!("it runs without the lock") }).await, Err::<(), _>(lost.clone()));
    assert_eq!(lock.release().await.unwrap_err().kind(), ErrorKind::GuardLost);
    lost.reason()
}

async fn one_at_a_time(bench: Bench) {
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
    // Another lock is another lock.
    let (x, y) = (acquire(&bench.lock()).await, acquire(&bench.client.lock("/y")).await);
    assert_ne!(x.lease_id(), y.lease_id());
}

async fn a_try_neither_waits_nor_stays(bench: Bench) {
    let lock = bench.lock().try_acquire().await.unwrap().expect("nobody has it");
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    assert_eq!(bench.lock().queue().await.unwrap().len(), 1);
    lock.release().await.unwrap();
    // The try that found it taken does not stand in the way of the next one.
    let lock = bench.lock().try_acquire().await.unwrap().expect("nobody has it any more");
    let waiter = tokio::spawn({
        let lock = bench.lock();
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    lock.release().await.unwrap();
    assert!(waiter.await.unwrap().is_held());
}

async fn waiting_may_have_an_end(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let error = bench.lock().acquire_within(WHILE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("waiting for the lock timed out after 300ms"), "{error}");
    // Whoever gave up has left the queue.
    bench.queued(1).await;
    lock.release().await.unwrap();
    let lock = bench.lock().acquire_within(LIMIT).await.unwrap();
    assert!(lock.is_held());
}

async fn first_come_first_served(bench: Bench) {
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

async fn it_is_not_reentrant(bench: Bench) {
    let named = bench.lock();
    let lock = acquire(&named).await;
    assert!(named.try_acquire().await.unwrap().is_none());
    assert_eq!(named.clone().acquire_within(WHILE).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(lock.is_held());
}

async fn dropping_a_guard_releases_it(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let fence = lock.fence();
    drop(lock);
    let lock = acquire(&bench.lock()).await;
    assert!(lock.fence() > fence);
    // One that has been held long enough to be watched.
    sleep(WHILE).await;
    drop(lock);
    bench.queued(0).await;
}

async fn dropping_a_guard_where_there_is_no_runtime_releases_it(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    std::thread::spawn(move || drop(lock)).join().unwrap();
    bench.queued(0).await;
}

async fn who_has_it_and_who_waits(bench: Bench) {
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

/// F26.
async fn keys_of_others_are_nobodys_business(bench: Bench) {
    let lease = bench.client.lease(Duration::from_secs(60)).await.unwrap();
    let with = Some(lease.id());
    let mut foreign = vec![
        ("/x/README", None),
        // The name of a lease, and none.
        ("/x/beef", None),
        ("/x/694d9a1b2c3d4e5f", None),
        ("/x/sub/README", None),
        // The locks of names that begin alike.
        ("/x2/beef", with),
        ("/xbeef", with),
    ];
    if !bench.transactions() {
        // Where no leases are told a key is in the queue by its name.
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
    let lock = bench.lock().try_acquire().await.unwrap().expect("nobody has it");
    // Newer ones do no harm either, neither to who holds it nor to who waits.
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
            // On v2 it has a short time to live.
            continue;
        }
        let still = bench.client.entry::<String>(path).unwrap().get().await.unwrap();
        assert_eq!(still.as_deref().map(String::as_str), Some("foreign"), "{path}");
    }
}

async fn leased_keys_of_others_are_waited_for(bench: Bench) {
    if !bench.transactions() {
        // v2 tells no leases: `keys_of_others_are_nobodys_business`.
        return;
    }
    for path in ["/x/3392796194549682947", "/x/BEEF", "/x/held by hand", "/x/sub/beef", "/x/_hidden", "/x/ü"] {
        let lease = bench.client.lease(Duration::from_secs(60)).await.unwrap();
        bench.write(path, Some(lease.id())).await;
        let holder = bench.lock().holder().await.unwrap().expect("somebody holds it");
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

/// F27.
async fn a_deleted_key_is_a_lost_lock(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    bench.delete(lock.key()).await;
    // Its lease is still kept alive; the watch sees it.
    assert_eq!(lost(lock).await, LostReason::KeyDeleted);
    // Before the watch is there, the first look does.
    let lock = acquire(&bench.lock()).await;
    bench.delete(lock.key()).await;
    let error = lock.verify().await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(lock.key())));
    assert!(!lock.is_held());
    assert_eq!(lost(lock).await, LostReason::KeyDeleted);
    // Or the release.
    let lock = acquire(&bench.lock()).await;
    bench.delete(lock.key()).await;
    assert_eq!(lock.release().await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert!(bench.lock().try_acquire().await.unwrap().is_some());
}

async fn a_key_that_was_made_anew_is_a_lost_lock(bench: Bench) {
    for settled in [Duration::ZERO, WHILE] {
        let lock = acquire(&bench.lock()).await;
        sleep(settled).await;
        let theirs = bench.client.lease(Duration::from_secs(60)).await.unwrap();
        bench.delete(lock.key()).await;
        bench.write(lock.key().as_str().strip_prefix(bench.client.namespace().as_str()).unwrap(), Some(theirs.id())).await;
        let reason = lost(lock).await;
        // Who watches sees that it was deleted first.
        assert!(matches!(reason, LostReason::KeyDeleted | LostReason::TakenOver | LostReason::Revoked), "{reason}");
        // That key has the name and the looks of a contender.
        drop(theirs);
        bench.queued(0).await;
    }
}

async fn a_key_that_was_written_by_others_is_a_lost_lock(bench: Bench) {
    for settled in [Duration::ZERO, WHILE] {
        let lock = acquire(&bench.lock()).await;
        sleep(settled).await;
        let path = lock.key().as_str().strip_prefix(bench.client.namespace().as_str()).unwrap().to_owned();
        let key = lock.key().clone();
        // Without its lease. It is the same key as far as its creation goes, but on v2.
        bench.write(&path, None).await;
        assert_eq!(lost(lock).await, LostReason::TakenOver);
        // It is not ours any more, so it stays, and does not stand in the queue.
        assert!(bench.client.entry::<String>(&path).unwrap().exists().await.unwrap());
        assert!(bench.lock().try_acquire().await.unwrap().is_some());
        bench.delete(&key).await;
    }
}

async fn a_revoked_lease_is_a_lost_lock(bench: Bench) {
    for settled in [Duration::ZERO, WHILE] {
        let lock = acquire(&bench.lock()).await;
        sleep(settled).await;
        bench.client.store().revoke(lock.lease_id()).await.unwrap();
        let reason = lost(lock).await;
        assert!(matches!(reason, LostReason::KeyDeleted | LostReason::Revoked), "{reason}");
        bench.queued(0).await;
    }
}

async fn a_waiter_whose_key_was_deleted_waits_on(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let named = bench.lock().ttl(Duration::from_secs(2));
    let waiter = tokio::spawn(async move { acquire(&named).await });
    bench.queued(2).await;
    let place = bench.lock().queue().await.unwrap().remove(1);
    bench.delete(&place.key).await;
    // It finds out within a third of its lease's time, and begins anew at the end.
    bench.queued(2).await;
    let again = bench.lock().queue().await.unwrap().remove(1);
    assert!(again.fence > place.fence && again.lease != place.lease);
    lock.release().await.unwrap();
    assert_eq!(waiter.await.unwrap().fence(), again.fence);
}

async fn a_waiter_in_the_middle_may_go(bench: Bench) {
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
    // The last one now waits for the first waiter, and is not woken by the holder.
    lock.release().await.unwrap();
    let second = waiters.remove(0).await.unwrap();
    sleep(WHILE).await;
    assert!(!last.is_finished());
    second.release().await.unwrap();
    assert!(last.await.unwrap().is_held());
}

async fn a_lock_is_handed_over_by_its_token(bench: Bench) {
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

async fn whoever_held_it_before_knows_that_it_was_adopted(bench: Bench) {
    let foreigner = bench.foreigner().await;
    let path = if foreigner.namespace().is_root() { format!("{}/x", bench.client.namespace()) } else { "/x".to_owned() };
    for settled in [Duration::ZERO, WHILE] {
        // With the same words: on v2 the key then looks the same as before.
        let (named, theirs) = (bench.lock().info("same"), foreigner.lock(&path).info("same"));
        let before = acquire(&named).await;
        sleep(settled).await;
        let token = named.holder().await.unwrap().unwrap().token();
        let after = theirs.adopt(&token).await.unwrap();
        if settled.is_zero() {
            // Else it is the watch that tells.
            assert_eq!(before.verify().await.unwrap_err().kind(), ErrorKind::GuardLost);
        }
        let reason = lost(before).await;
        assert!(matches!(reason, LostReason::TakenOver | LostReason::Revoked), "{reason}");
        // What becomes of the one before does it no harm.
        sleep(WHILE).await;
        after.verify().await.unwrap();
        assert!(after.is_held());
        after.release().await.unwrap();
    }
}

async fn a_lock_that_is_left_is_free_after_its_time(bench: Bench) {
    let lock = acquire(&bench.lock().ttl(Duration::from_secs(2))).await;
    let _token = lock.into_token();
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    let lock = acquire(&bench.lock()).await;
    lock.verify().await.unwrap();
}

async fn a_lock_that_is_left_can_be_renewed_and_released(bench: Bench) {
    let named = bench.lock().ttl(Duration::from_secs(2));
    let token = acquire(&named).await.into_token();
    let renewed = named.renew(&token, Duration::from_secs(60)).await.unwrap();
    assert_eq!((renewed.key(), renewed.fence()), (token.key(), token.fence()));
    assert_ne!(renewed.lease_id(), token.lease_id());
    // It outlives the time that it had.
    sleep(Duration::from_millis(3500)).await;
    let holder = named.holder().await.unwrap().unwrap();
    assert_eq!((&holder.key, holder.fence), (token.key(), token.fence()));
    // The one before is of no use any more. v2 knows no leases, and so not which one is the later.
    if bench.transactions() {
        assert_eq!(named.release_token(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
        assert_eq!(named.adopt(&token).await.unwrap_err().kind(), ErrorKind::GuardLost);
        assert_eq!(named.renew(&token, LIMIT).await.unwrap_err().kind(), ErrorKind::GuardLost);
        assert_eq!(holder.token(), renewed);
    }
    named.release_token(&renewed).await.unwrap();
    assert_eq!(named.holder().await.unwrap(), None);
    assert_eq!(named.release_token(&renewed).await.unwrap_err().kind(), ErrorKind::GuardLost);
    // Who still holds it learns that it was released.
    let lock = acquire(&named).await;
    named.release_token(&named.holder().await.unwrap().unwrap().token()).await.unwrap();
    let reason = lost(lock).await;
    assert!(matches!(reason, LostReason::KeyDeleted | LostReason::Revoked), "{reason}");
}

async fn a_token_is_for_one_grant_of_one_lock(bench: Bench) {
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

async fn a_token_of_somebody_who_waits_gives_no_lock(bench: Bench) {
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

/// L7, with the times of a real server. The exact points are tried in memory.
async fn whoever_is_dropped_at_any_time_is_gone(bench: Bench) {
    for round in 0..40_u64 {
        let lock = acquire(&bench.lock()).await;
        let mut waiters = Vec::new();
        for number in 0..4 {
            // What is left of one of these would outlast the test.
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

async fn keeping_it_alive_is_no_change_of_its_key(bench: Bench) {
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
    // It came and it went, and in three seconds nothing was in between.
    let [came, went] = [&seen[0], &seen[1]].map(|update| update.changes.len());
    assert_eq!((came, went), (1, 1), "{seen:?}");
    assert!(seen[0].changes[0].change.new.is_some() && seen[1].changes[0].change.new.is_none(), "{seen:?}");
}

async fn each_namespace_has_its_own_locks(address: &str) {
    let client = async |namespace| Client::builder(address).namespace(namespace).connect().await.unwrap();
    let (outer, inner) = (client("/spaces").await, client("/spaces/inner").await);
    let lock = acquire(&outer.lock("/x")).await;
    let theirs = inner.lock("/x").try_acquire().await.unwrap().expect("another lock");
    assert!(theirs.key().as_str().starts_with("/spaces/inner/x/"));
    assert!(outer.lock("/inner/x").try_acquire().await.unwrap().is_none(), "the same key by another name");
    assert_eq!(inner.lock("/x").release_token(&lock.into_token()).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn v3_each_namespace_has_its_own_locks() {
    each_namespace_has_its_own_locks(&etcd_typed_tests::shared("locks").await.url_v3()).await;
}

#[tokio::test]
async fn v2_each_namespace_has_its_own_locks() {
    each_namespace_has_its_own_locks(&etcd_typed_tests::shared("locks").await.url_v2()).await;
}

#[tokio::test]
async fn memory_each_namespace_has_its_own_locks() {
    each_namespace_has_its_own_locks("memory:locks-of-namespaces").await;
}

/// A guard that outlives its runtime can be asked, released and dropped, and goes on on the next one.
fn outlives_its_runtime(address: &str) {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let address = address.to_owned();
    let (client, lock, other) = first.block_on(async {
        let client = Client::builder(&address).namespace("/outlives").connect().await.unwrap();
        let (lock, other) = (acquire(&client.lock("/x")).await, acquire(&client.lock("/y")).await);
        // Long enough to be watched.
        sleep(WHILE).await;
        (client, lock, other)
    });
    drop(first);
    assert!(lock.is_held());
    drop(other);
    let second = runtime();
    second.block_on(async {
        lock.verify().await.unwrap();
        // The one that was dropped without a runtime is released now.
        acquire(&client.lock("/y")).await.release().await.unwrap();
        lock.release().await.unwrap();
    });
    drop((client, second));
}

/// The server runs in a runtime of its own.
fn guard_may_outlive_its_runtime(address: impl Fn(&Etcd) -> String) {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let etcd = servers.block_on(Etcd::start());
    outlives_its_runtime(&address(&etcd));
    servers.block_on(async move { drop(etcd) });
}

#[test]
fn memory_guard_may_outlive_its_runtime() {
    outlives_its_runtime("memory:");
}

#[test]
fn v3_guard_may_outlive_its_runtime() {
    guard_may_outlive_its_runtime(Etcd::url_v3);
}

#[test]
fn v2_guard_may_outlive_its_runtime() {
    guard_may_outlive_its_runtime(Etcd::url_v2);
}

/// L8: a server that comes back empty, with the same ids and soon at the same revision, has no holder of before.
async fn a_wiped_server_has_no_holder_of_before(mut etcd: Etcd, address: &str) {
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
    // Whoever waited for it begins anew, and so does everybody else.
    let next = waiter.await.unwrap();
    next.verify().await.unwrap();
    next.release().await.unwrap();
    assert!(named.try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn v3_a_wiped_server_has_no_holder_of_before() {
    let etcd = Etcd::start().await;
    let address = etcd.url_v3();
    a_wiped_server_has_no_holder_of_before(etcd, &address).await;
}

#[tokio::test]
async fn v2_a_wiped_server_has_no_holder_of_before() {
    let etcd = Etcd::start().await;
    let address = etcd.url_v2();
    a_wiped_server_has_no_holder_of_before(etcd, &address).await;
}

#[tokio::test]
async fn a_wiped_memory_has_no_holder_of_before() {
    let store = MemoryStore::new();
    let client = Client::with_store(store.clone());
    let first = acquire(&client.lock("/x")).await;
    let spare = acquire(&client.lock("/y")).await;
    spare.release().await.unwrap();
    store.faults().wipe();
    // A spare lease that is not there any more is one more round.
    let y = timeout(LIMIT, client.lock("/y").acquire()).await.expect("in time").unwrap();
    y.verify().await.unwrap();
    // A key that looks the same to who asks only when it was made.
    let forged = first.key().clone();
    let lease = LeaseId::random();
    client.store().grant(lease, LIMIT).await.unwrap();
    let put = Op::Put { key: forged, value: "".into(), expiry: Expiry::With(lease), previous: false };
    let made = client.store().commit(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    assert!(made.revision >= first.fence(), "{} {}", made.revision, first.fence());
    assert_eq!(first.verify().await.unwrap_err().kind(), ErrorKind::GuardLost);
    lost(first).await;
}
