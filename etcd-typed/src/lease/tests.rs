use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::client::Client;
use crate::clock::tests::suspend;
use crate::store::memory::{Calls, MemoryStore};

const TTL: Duration = Duration::from_secs(10);

#[test]
fn lease_needs_a_runtime() {
    let client = Client::connect("memory:").now_or_never().unwrap().unwrap();
    let error = client.lease(TTL).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("within a tokio runtime"), "{error}");
}

#[test]
fn waiting_without_runtime_loses_lease() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let lease = runtime.block_on(async { Client::connect("memory:").await.unwrap().lease(TTL).await.unwrap() });
    assert!(lease.lost().now_or_never().is_none());
    drop(runtime);
    assert!(lease.is_held(), "its time has not passed, and another runtime may come before that");
    // Without a runtime no timer would wake the waiter.
    assert_eq!(lease.lost().now_or_never().unwrap().reason(), LostReason::NotKeptAlive);
    assert!(!lease.is_held());
}

/// A forked process, or a process in a cloned machine, has the random generator state of the
/// original.
#[test]
fn lease_names_differ_in_copied_processes() {
    let drawn = [(); 2].map(|()| {
        fastrand::seed(7);
        LeaseId::random()
    });
    assert_ne!(drawn[0], drawn[1]);
}

#[tokio::test(start_paused = true)]
async fn existing_lease_name_is_not_reused() {
    let (store, client) = memory();
    store.faults().fail(Calls::Leases, 2, ErrorKind::AlreadyExists);
    let lease = client.lease(TTL).await.unwrap();
    assert!(store.time_to_live(lease.id()).await.unwrap().is_some());
    // A store that refuses every name is broken.
    store.faults().fail(Calls::Leases, usize::MAX, ErrorKind::AlreadyExists);
    assert_eq!(client.lease(TTL).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

/// [`TTL`] without its margin of a tenth.
const SAFE: Duration = Duration::from_secs(9);
const MOMENT: Duration = Duration::from_millis(10);

fn memory() -> (MemoryStore, Client) {
    let store = MemoryStore::new();
    (store.clone(), Client::with_store(store))
}

async fn pass(time: Duration) {
    sleep(time).await;
}

#[test]
fn safety_margin_is_bounded_tenth_of_ttl() {
    use super::validity::safe;
    for (ttl, left) in [(0, 0), (500, 250), (1000, 500), (2000, 1500), (5000, 4500), (10_000, 9000), (60_000, 54_000)] {
        assert_eq!(safe(Duration::from_millis(ttl)), Duration::from_millis(left), "{ttl}");
    }
}

#[tokio::test(start_paused = true)]
async fn unrenewed_lease_is_lost_before_its_ttl() {
    let (store, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    store.faults().stop();
    pass(SAFE - MOMENT).await;
    assert!(lease.is_held() && lease.remaining() <= MOMENT, "{:?}", lease.remaining());
    assert!(lease.lost().now_or_never().is_none());
    pass(MOMENT).await;
    assert_eq!((lease.is_held(), lease.remaining()), (false, Duration::ZERO));
    assert_eq!(lease.lost().now_or_never().unwrap().reason(), LostReason::Expired);
    // The server returns and restarts the time of every lease. The lost lease stays lost, and its
    // task revokes it.
    store.faults().start();
    assert!(store.time_to_live(lease.id()).await.unwrap().is_some());
    pass(Duration::from_secs(3)).await;
    assert!(!lease.is_held());
    assert_eq!(lease.lost().await.reason(), LostReason::Expired);
    assert_eq!(store.time_to_live(lease.id()).await.unwrap(), None);
}

/// A waiter wakes exactly at the end of the time, not at the next periodic look at the clock.
#[tokio::test(start_paused = true)]
async fn waiter_wakes_when_lease_expires() {
    let (store, client) = memory();
    let begun = Instant::now();
    let lease = client.lease(TTL).await.unwrap();
    store.faults().stop();
    lease.lost().await;
    assert!((SAFE..SAFE + MOMENT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn lease_is_renewed_three_times_per_ttl() {
    let (store, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    for _ in 0..1000 {
        pass(Duration::from_millis(100)).await;
        assert!(lease.remaining() >= SAFE - TTL / 3 - MOMENT, "{:?}", lease.remaining());
    }
    assert!(store.time_to_live(lease.id()).await.unwrap().unwrap() >= TTL - TTL / 3 - MOMENT);
}

#[tokio::test(start_paused = true)]
async fn ttl_counts_from_sending_the_request() {
    let (store, client) = memory();
    // Delays the grant.
    store.faults().delay(Calls::Leases, Duration::from_secs(3));
    let lease = client.lease(TTL).await.unwrap();
    let left = SAFE - Duration::from_secs(3);
    assert!(lease.remaining() <= left && lease.remaining() > left - MOMENT, "{:?}", lease.remaining());
    // A keep-alive is sent a third of the time to live after the grant was sent, and is answered
    // two seconds later.
    store.faults().delay(Calls::Leases, Duration::from_secs(2));
    pass(TTL / 3 - Duration::from_secs(3) + Duration::from_secs(2) + MOMENT).await;
    let left = SAFE - Duration::from_secs(2);
    assert!(lease.remaining() <= left && lease.remaining() > left - 3 * MOMENT, "{:?}", lease.remaining());
    // No later keep-alive is answered in time.
    store.faults().delay(Calls::Leases, Duration::from_secs(3600));
    pass(left - 4 * MOMENT).await;
    assert!(lease.is_held());
    pass(4 * MOMENT).await;
    assert!(!lease.is_held());
}

#[tokio::test(start_paused = true)]
async fn late_answer_does_not_extend_lease() {
    let (_, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    let (validity, sent) = (lease.validity().clone(), Moment::now());
    tokio::time::advance(SAFE).await;
    assert!(!validity.is_held());
    // The keep-alive was sent in time and the server applied it, but its answer comes too late.
    validity.extend(sent, TTL);
    validity.extend(Moment::now(), TTL);
    assert!(!validity.is_held());
    assert_eq!(validity.reason(), Some(LostReason::Expired));
    validity.lose(LostReason::Revoked);
    assert_eq!(validity.reason(), Some(LostReason::Expired));
}

#[tokio::test(start_paused = true)]
async fn suspend_ends_lease_at_first_check() {
    let (store, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    suspend(SAFE);
    assert!(!lease.is_held());
    assert_eq!(lease.lost().now_or_never().unwrap().reason(), LostReason::Expired);
    // The task wakes later, finds the lease expired, and revokes it on the server.
    pass(Duration::from_secs(4)).await;
    assert!(!lease.is_held());
    assert_eq!(store.time_to_live(lease.id()).await.unwrap(), None);

    // A short suspend is survived.
    let lease = client.lease(TTL).await.unwrap();
    suspend(Duration::from_secs(5));
    assert!(lease.remaining() <= Duration::from_secs(4));
    pass(Duration::from_secs(4)).await;
    assert!(lease.is_held());
}

/// The waiter's timer stops while the machine sleeps.
#[tokio::test(start_paused = true)]
async fn waiter_sees_suspend_within_a_second() {
    let (store, client) = memory();
    let lease = client.lease(Duration::from_secs(3600)).await.unwrap();
    store.faults().stop();
    let waiting = async {
        lease.lost().await;
        Instant::now()
    };
    let asleep = async {
        pass(Duration::from_secs(10)).await;
        suspend(Duration::from_secs(7200));
        Instant::now()
    };
    let (seen, suspended) = tokio::join!(waiting, asleep);
    assert!(seen - suspended <= Duration::from_secs(1) + MOMENT, "{:?}", seen - suspended);
}

#[tokio::test(start_paused = true)]
async fn lease_uses_granted_ttl_not_requested_one() {
    let (store, client) = memory();
    let lease = client.lease(Duration::from_millis(300)).await.unwrap();
    assert_eq!(lease.ttl(), Duration::from_secs(2));
    assert!(lease.remaining() > Duration::from_millis(1400) && lease.remaining() <= Duration::from_millis(1500));
    pass(Duration::from_secs(60)).await;
    assert!(lease.is_held());
    assert!(store.time_to_live(lease.id()).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn lease_survives_short_outage() {
    let (store, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    pass(Duration::from_secs(3)).await;
    store.faults().stop();
    pass(Duration::from_secs(5)).await;
    store.faults().start();
    pass(Duration::from_secs(3)).await;
    assert!(lease.is_held());
    // A lease that the server ended is lost at the next keep-alive.
    store.faults().expire(lease.id());
    assert_eq!(lease.lost().await.reason(), LostReason::Revoked);
}

#[tokio::test(start_paused = true)]
async fn task_ends_with_its_lease() {
    let (store, client) = memory();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (dropped, revoked) = (client.lease(TTL).await.unwrap(), client.lease(TTL).await.unwrap());
    let (lost, left) = (client.lease(TTL).await.unwrap(), client.lease(TTL).await.unwrap());
    let lock = client.lock("/x").acquire().await.unwrap();
    pass(Duration::from_secs(1)).await;
    assert!(tasks() > before + 4);
    store.faults().expire(lost.id());
    let ids = [dropped.id(), revoked.id(), lock.lease_id()];
    drop((dropped, lock));
    revoked.revoke().await.unwrap();
    left.leave();
    assert_eq!(lost.lost().await.reason(), LostReason::Revoked);
    // The lock's lease is now a spare one, which ends with the client.
    drop(client);
    pass(Duration::from_secs(1)).await;
    assert_eq!(tasks(), before);
    for id in ids {
        assert_eq!(store.time_to_live(id).await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn revoked_lease_is_not_reported_as_lost() {
    let (store, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    let validity = lease.validity().clone();
    lease.revoke().await.unwrap();
    pass(MOMENT).await;
    assert_eq!(validity.reason(), Some(LostReason::NotKeptAlive), "the reason of an intended end");
    // If the request fails, the task repeats it.
    let lease = client.lease(TTL).await.unwrap();
    let id = lease.id();
    store.faults().fail(Calls::Leases, 2, ErrorKind::Unavailable);
    assert_eq!(lease.revoke().await.unwrap_err().kind(), ErrorKind::Unavailable);
    pass(Duration::from_secs(1)).await;
    assert_eq!(store.time_to_live(id).await.unwrap(), None);
}
