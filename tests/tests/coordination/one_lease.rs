//! A process that keeps one lease for all its published values, locks and candidacies.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod in_memory;

use std::time::Duration;

use etcd_typed::{Client, ErrorKind, Lease, LeaseId, Lock, LostReason, NamedLock, Published};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a test waits to see that something does not happen.
const WHILE: Duration = Duration::from_millis(300);
const TTL: Duration = Duration::from_secs(10);

struct Bench {
    client: Client,
}

etcd_typed_tests::on_every_store! { "one-lease":
    guards_end_by_themselves_and_with_lease
    two_places_of_one_queue_exclude_each_other
    adopted_lease_outlives_its_guards
    token_keeps_shared_lease
    lost_key_ends_one_guard
}

impl Bench {
    /// Returns a lease that guards can share. Returns `None` on v2, after a check that v2 refuses
    /// such guards.
    async fn lease(&self) -> Option<Lease> {
        let lease = self.client.lease(TTL).await.unwrap();
        if self.client.store().capabilities().transactions {
            return Some(lease);
        }
        let value = self.client.entry::<u32>("/refused").unwrap();
        let election = self.client.election::<u32>("/refused").lease(&lease);
        let refusals = [
            value.publish(&1).lease(&lease).await.unwrap_err(),
            self.client.lock("/refused").lease(&lease).acquire().await.unwrap_err(),
            self.client.lock("/refused").lease(&lease).try_acquire().await.unwrap_err(),
            election.campaign(&1).await.unwrap_err(),
            election.lead(&1, |_| async {}).await.unwrap_err(),
        ];
        for error in refusals {
            assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("`.ttl`"), "{error}");
        }
        assert!(!value.exists().await.unwrap() && self.client.lock("/refused").queue().await.unwrap().is_empty());
        None
    }

    async fn granted(&self) -> LeaseId {
        let id = LeaseId::random();
        self.client.store().grant(id, TTL).await.unwrap();
        id
    }

    async fn is_there(&self, lease: LeaseId) -> bool {
        self.client.store().time_to_live(lease).await.unwrap().is_some()
    }

    async fn publish(&self, n: u32, lease: &Lease) -> Published<u32> {
        self.client.entry(&format!("/values/{n}")).unwrap().publish(&n).lease(lease).await.unwrap()
    }

    /// Waits until the queue of a lock has `count` keys.
    async fn queued(&self, lock: &NamedLock, count: usize) {
        until(async || lock.queue().await.unwrap().len() == count).await;
    }

    /// Starts a task that acquires the lock, and returns when its key is in the queue. `ahead` is
    /// the number of keys before it.
    async fn waits(&self, lock: &NamedLock, ahead: usize) -> JoinHandle<etcd_typed::Result<Lock>> {
        let waiter = lock.clone();
        let waits = tokio::spawn(async move { waiter.acquire().await });
        self.queued(lock, ahead + 1).await;
        waits
    }
}

async fn until(mut reached: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !reached().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, wait).await.expect("it is reached in time");
}

async fn guards_end_by_themselves_and_with_lease(bench: Bench) {
    let Some(lease) = bench.lease().await else { return };
    let (locks, election) = (["/a", "/b", "/c"].map(|name| bench.client.lock(name).lease(&lease)), bench.client.election("/e"));
    let [a, b, c] = [locks[0].acquire().await.unwrap(), locks[1].acquire().await.unwrap(), locks[2].acquire().await.unwrap()];
    let leader = election.lease(&lease).campaign(&7_u32).await.unwrap();
    let values = [bench.publish(0, &lease).await, bench.publish(1, &lease).await, bench.publish(2, &lease).await];
    for guard in [&*a, &*b, &*c, &*leader] {
        assert!(guard.lease_id() == lease.id() && guard.is_held());
        guard.verify().await.unwrap();
    }
    let now = bench.client.entry::<u32>("/values/0").unwrap().get().await.unwrap().unwrap();
    assert_eq!((*now, now.lease()), (0, Some(lease.id())));

    // A release, a drop and a withdrawal delete one key each.
    let [zero, one, two] = values;
    a.release().await.unwrap();
    zero.withdraw().await.unwrap();
    assert!(locks[0].queue().await.unwrap().is_empty() && !bench.client.entry::<u32>("/values/0").unwrap().exists().await.unwrap());
    drop((b, one));
    bench.queued(&locks[1], 0).await;
    until(async || !bench.client.entry::<u32>("/values/1").unwrap().exists().await.unwrap()).await;
    assert!(lease.is_held() && bench.is_there(lease.id()).await);
    assert!(c.is_held() && leader.is_held() && two.is_published());
    c.verify().await.unwrap();
    leader.proclaim(&8).await.unwrap();
    two.set(&20).await.unwrap();
    bench.client.entry::<u32>("/guarded").unwrap().set(&1).guarded_by(&c).await.unwrap();

    // The end of the lease also ends the wait for a lock that another guard holds.
    let other = bench.client.lock("/d").acquire().await.unwrap();
    let waiter = bench.waits(&bench.client.lock("/d").lease(&lease), 1).await;
    lease.revoke().await.unwrap();
    for guard in [&*c, &*leader] {
        let lost = timeout(LIMIT, guard.lost()).await.unwrap();
        assert_eq!(lost.key(), Some(guard.key()), "{lost}");
    }
    assert_eq!(timeout(LIMIT, waiter).await.unwrap().unwrap().unwrap_err().kind(), ErrorKind::LeaseLost);
    until(async || !two.is_published()).await;
    assert_eq!(two.set(&21).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    sleep(WHILE).await;
    assert!(!bench.client.entry::<u32>("/values/2").unwrap().exists().await.unwrap(), "no other lease takes its place");
    assert_eq!(c.release().await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(other.fence(), bench.client.lock("/d").holder().await.unwrap().unwrap().fence);
}

async fn two_places_of_one_queue_exclude_each_other(bench: Bench) {
    let Some(lease) = bench.lease().await else { return };
    let lock = bench.client.lock("/twice").lease(&lease);
    let first = lock.acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none());
    assert_eq!(lock.acquire_within(WHILE).await.unwrap_err().kind(), ErrorKind::Timeout);
    bench.queued(&lock, 1).await;

    let second = bench.waits(&lock, 1).await;
    // The third contender has its own lease, and the fourth has the shared lease.
    let third = bench.waits(&bench.client.lock("/twice"), 2).await;
    let fourth = bench.waits(&lock, 3).await;
    sleep(WHILE).await;
    assert!(!second.is_finished());
    let fence = first.fence();
    first.release().await.unwrap();
    let second = timeout(LIMIT, second).await.unwrap().unwrap().unwrap();
    assert!(second.fence() > fence && second.lease_id() == lease.id());
    sleep(WHILE).await;
    assert!(!third.is_finished() && !fourth.is_finished());
    drop(second);
    let third = timeout(LIMIT, third).await.unwrap().unwrap().unwrap();
    assert_ne!(third.lease_id(), lease.id());
    third.release().await.unwrap();
    let fourth = timeout(LIMIT, fourth).await.unwrap().unwrap().unwrap();
    // A waiter that gives up leaves the queue. The shared lease stays.
    let fifth = bench.waits(&lock, 1).await;
    fifth.abort();
    bench.queued(&lock, 1).await;
    fourth.release().await.unwrap();
    assert!(lock.queue().await.unwrap().is_empty() && lease.is_held() && bench.is_there(lease.id()).await);
}

async fn adopted_lease_outlives_its_guards(bench: Bench) {
    if bench.lease().await.is_none() {
        return;
    }
    for kept_by_other in [false, true] {
        let id = bench.granted().await;
        let adopt = bench.client.adopt_lease(id);
        let lease = if kept_by_other { adopt.kept_by_other().await.unwrap() } else { adopt.await.unwrap() };
        let (lock, value) = (bench.client.lock("/adopted").lease(&lease), bench.publish(3, &lease).await);
        let first = lock.acquire().await.unwrap();
        assert_eq!(first.lease_id(), id);
        let second = bench.waits(&lock, 1).await;
        first.release().await.unwrap();
        let second = timeout(LIMIT, second).await.unwrap().unwrap().unwrap();
        // The program gives up the adopted lease. The other component's lease lives on, but the
        // guards in this program are lost, and their keys are deleted when the guards are dropped.
        drop(lease);
        let lost = timeout(LIMIT, second.lost()).await.unwrap();
        assert_eq!(lost.reason(), LostReason::NotKeptAlive);
        until(async || !value.is_published()).await;
        assert_eq!(lock.acquire().await.unwrap_err().kind(), ErrorKind::LeaseLost);
        drop((second, value));
        bench.queued(&lock, 0).await;
        until(async || !bench.client.entry::<u32>("/values/3").unwrap().exists().await.unwrap()).await;
        assert!(bench.is_there(id).await, "the lease belongs to the other component");
        bench.client.store().revoke(id).await.unwrap();
    }
}

async fn token_keeps_shared_lease(bench: Bench) {
    let Some(lease) = bench.lease().await else { return };
    let (lock, value) = (bench.client.lock("/token").lease(&lease), bench.publish(4, &lease).await);
    let plain = bench.client.lock("/token");
    // The lock stays on the shared lease until another guard takes it over with a new lease.
    let first = lock.acquire().await.unwrap();
    let (fence, token) = (first.fence(), first.into_token());
    assert_eq!(lock.adopt(&token).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let adopted = plain.adopt(&token).await.unwrap();
    assert!(adopted.fence() == fence && adopted.lease_id() != lease.id());
    adopted.release().await.unwrap();

    // A held lock can be released and renewed by its token.
    let second = lock.acquire().await.unwrap();
    plain.release_token(&plain.holder().await.unwrap().unwrap().token()).await.unwrap();
    assert_eq!(timeout(LIMIT, second.lost()).await.unwrap().reason(), LostReason::KeyDeleted);
    let third = lock.acquire().await.unwrap();
    let token = plain.renew(&third.into_token(), TTL).await.unwrap();
    plain.release_token(&token).await.unwrap();
    assert!(lock.queue().await.unwrap().is_empty());
    assert!(lease.is_held() && bench.is_there(lease.id()).await && value.is_published());
}

async fn lost_key_ends_one_guard(bench: Bench) {
    let Some(lease) = bench.lease().await else { return };
    let (lock, other) = (bench.client.lock("/deleted").lease(&lease), bench.client.lock("/other").lease(&lease));
    let (first, kept) = (lock.acquire().await.unwrap(), other.acquire().await.unwrap());
    let (value, waiter) = (bench.publish(5, &lease).await, bench.waits(&lock, 1).await);
    // Waits until both guards watch their keys.
    sleep(WHILE).await;
    bench.client.directory("/").unwrap().delete_recursive().await.unwrap();
    assert_eq!(timeout(LIMIT, first.lost()).await.unwrap().reason(), LostReason::KeyDeleted);
    assert_eq!(timeout(LIMIT, kept.lost()).await.unwrap().reason(), LostReason::KeyDeleted);
    assert!(lease.is_held() && bench.is_there(lease.id()).await);
    // The waiter joins the queue again, and the value is put back, with the same lease.
    let second = timeout(LIMIT, waiter).await.unwrap().unwrap().unwrap();
    assert_eq!(second.lease_id(), lease.id());
    until(async || value.is_published() && bench.client.entry::<u32>("/values/5").unwrap().exists().await.unwrap()).await;
    let now = bench.client.entry::<u32>("/values/5").unwrap().get().await.unwrap().unwrap();
    assert_eq!(now.lease(), Some(lease.id()));
    assert_eq!(first.release().await.unwrap_err().kind(), ErrorKind::GuardLost);
    second.release().await.unwrap();
}
