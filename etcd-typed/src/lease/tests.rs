use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::client::Client;
use crate::clock::tests::suspend;
use crate::store::memory::{Calls, MemoryStore};

const TTL: Duration = Duration::from_secs(10);

#[test]
fn without_a_runtime_there_is_no_lease() {
    let client = Client::connect("memory:").now_or_never().unwrap().unwrap();
    let error = client.lease(TTL).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("within a tokio runtime"), "{error}");
}

#[test]
fn lease_without_a_runtime_is_lost_to_a_waiter_without_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let lease = runtime.block_on(async { Client::connect("memory:").await.unwrap().lease(TTL).await.unwrap() });
    assert!(lease.lost().now_or_never().is_none());
    drop(runtime);
    assert!(lease.is_held(), "its time has not passed, and there may be another runtime before that");
    // Here there is no clock that would wake the waiter.
    assert_eq!(lease.lost().now_or_never().unwrap().reason(), LostReason::NotKeptAlive);
    assert!(!lease.is_held());
}

/// A clone of the machine, or a fork, has the same generator in its process.
#[test]
fn lease_names_differ_where_the_process_was_copied() {
    let drawn = [(); 2].map(|()| {
        fastrand::seed(7);
        LeaseId::random()
    });
    assert_ne!(drawn[0], drawn[1]);
}

#[tokio::test(start_paused = true)]
async fn name_that_exists_is_not_taken_for_our_own() {
    let (store, client) = memory();
    store.faults().fail(Calls::Leases, 2, ErrorKind::AlreadyExists);
    let lease = client.lease(TTL).await.unwrap();
    assert!(store.time_to_live(lease.id()).await.unwrap().is_some());
    // A store that says so of every name is out of order.
    store.faults().fail(Calls::Leases, usize::MAX, ErrorKind::AlreadyExists);
    assert_eq!(client.lease(TTL).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

/// What is left of [`TTL`] when the margin is taken off: a tenth.
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
fn the_margin_is_a_tenth_and_half_a_second_at_least_and_half_at_most() {
    use super::life::safe;
    for (ttl, left) in [(0, 0), (500, 250), (1000, 500), (2000, 1500), (5000, 4500), (10_000, 9000), (60_000, 54_000)] {
        assert_eq!(safe(Duration::from_millis(ttl)), Duration::from_millis(left), "{ttl}");
    }
}

/// L3.
#[tokio::test(start_paused = true)]
async fn without_an_answer_it_is_over_when_its_time_less_the_margin_has_passed() {
    let (store, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    store.faults().stop();
    pass(SAFE - MOMENT).await;
    assert!(lease.is_held() && lease.remaining() <= MOMENT, "{:?}", lease.remaining());
    assert!(lease.lost().now_or_never().is_none());
    pass(MOMENT).await;
    assert_eq!((lease.is_held(), lease.remaining()), (false, Duration::ZERO));
    assert_eq!(lease.lost().now_or_never().unwrap().reason(), LostReason::Expired);
    // The server is there again and gave every lease its whole time anew; what is over stays over, and is ended there too.
    store.faults().start();
    assert!(store.time_to_live(lease.id()).await.unwrap().is_some());
    pass(Duration::from_secs(3)).await;
    assert!(!lease.is_held());
    assert_eq!(lease.lost().await.reason(), LostReason::Expired);
    assert_eq!(store.time_to_live(lease.id()).await.unwrap(), None);
}

/// Whoever waits for it wakes at that time, and not at the next look at another clock.
#[tokio::test(start_paused = true)]
async fn who_waits_for_its_end_wakes_in_time() {
    let (store, client) = memory();
    let begun = Instant::now();
    let lease = client.lease(TTL).await.unwrap();
    store.faults().stop();
    lease.lost().await;
    assert!((SAFE..SAFE + MOMENT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn it_is_kept_alive_three_times_within_its_time() {
    let (store, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    for _ in 0..1000 {
        pass(Duration::from_millis(100)).await;
        assert!(lease.remaining() >= SAFE - TTL / 3 - MOMENT, "{:?}", lease.remaining());
    }
    assert!(store.time_to_live(lease.id()).await.unwrap().unwrap() >= TTL - TTL / 3 - MOMENT);
}

#[tokio::test(start_paused = true)]
async fn its_time_runs_from_when_the_answered_request_was_sent() {
    let (store, client) = memory();
    // The grant.
    store.faults().delay(Calls::Leases, Duration::from_secs(3));
    let lease = client.lease(TTL).await.unwrap();
    let left = SAFE - Duration::from_secs(3);
    assert!(lease.remaining() <= left && lease.remaining() > left - MOMENT, "{:?}", lease.remaining());
    // A third of the time after that was sent a keep-alive is, and is answered two seconds later.
    store.faults().delay(Calls::Leases, Duration::from_secs(2));
    pass(TTL / 3 - Duration::from_secs(3) + Duration::from_secs(2) + MOMENT).await;
    let left = SAFE - Duration::from_secs(2);
    assert!(lease.remaining() <= left && lease.remaining() > left - 3 * MOMENT, "{:?}", lease.remaining());
    // None after it is answered in time.
    store.faults().delay(Calls::Leases, Duration::from_secs(3600));
    pass(left - 4 * MOMENT).await;
    assert!(lease.is_held());
    pass(4 * MOMENT).await;
    assert!(!lease.is_held());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_too_late_is_none() {
    let (_, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    let (life, sent) = (lease.life().clone(), Moment::now());
    tokio::time::advance(SAFE).await;
    assert!(!life.is_held());
    // The keep-alive was sent in time, the server did it, and says that there is time.
    life.extend(sent, TTL);
    life.extend(Moment::now(), TTL);
    assert!(!life.is_held());
    assert_eq!(life.reason(), Some(LostReason::Expired));
    life.lose(LostReason::Revoked);
    assert_eq!(life.reason(), Some(LostReason::Expired));
}

/// F17.
#[tokio::test(start_paused = true)]
async fn after_a_suspend_it_is_over_at_the_first_look() {
    let (store, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    suspend(SAFE);
    assert!(!lease.is_held());
    assert_eq!(lease.lost().now_or_never().unwrap().reason(), LostReason::Expired);
    // The task wakes later, finds it over, and ends it on the server.
    pass(Duration::from_secs(4)).await;
    assert!(!lease.is_held());
    assert_eq!(store.time_to_live(lease.id()).await.unwrap(), None);

    // A short one is survived.
    let lease = client.lease(TTL).await.unwrap();
    suspend(Duration::from_secs(5));
    assert!(lease.remaining() <= Duration::from_secs(4));
    pass(Duration::from_secs(4)).await;
    assert!(lease.is_held());
}

/// Whoever only waits sees it too, though his timer stood still.
#[tokio::test(start_paused = true)]
async fn who_waits_for_its_end_sees_a_suspend_within_a_second() {
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
async fn what_the_server_grants_counts() {
    let (store, client) = memory();
    let lease = client.lease(Duration::from_millis(300)).await.unwrap();
    assert_eq!(lease.ttl(), Duration::from_secs(2));
    assert!(lease.remaining() > Duration::from_millis(1400) && lease.remaining() <= Duration::from_millis(1500));
    pass(Duration::from_secs(60)).await;
    assert!(lease.is_held());
    assert!(store.time_to_live(lease.id()).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_its_time_is_survived() {
    let (store, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    pass(Duration::from_secs(3)).await;
    store.faults().stop();
    pass(Duration::from_secs(5)).await;
    store.faults().start();
    pass(Duration::from_secs(3)).await;
    assert!(lease.is_held());
    // One that the server has ended is over at the next keep-alive.
    store.faults().expire(lease.id());
    assert_eq!(lease.lost().await.reason(), LostReason::Revoked);
}

#[tokio::test(start_paused = true)]
async fn its_task_ends_with_it() {
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
    // The lock's lease is a spare one now, which ends with the client.
    drop(client);
    pass(Duration::from_secs(1)).await;
    assert_eq!(tasks(), before);
    for id in ids {
        assert_eq!(store.time_to_live(id).await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn to_revoke_it_is_one_request_and_no_loss() {
    let (store, client) = memory();
    let lease = client.lease(TTL).await.unwrap();
    let life = lease.life().clone();
    lease.revoke().await.unwrap();
    pass(MOMENT).await;
    assert_eq!(life.reason(), Some(LostReason::NotKeptAlive), "the words of an end that was wanted");
    // When it is not heard the task goes on.
    let lease = client.lease(TTL).await.unwrap();
    let id = lease.id();
    store.faults().fail(Calls::Leases, 2, ErrorKind::Unavailable);
    assert_eq!(lease.revoke().await.unwrap_err().kind(), ErrorKind::Unavailable);
    pass(Duration::from_secs(1)).await;
    assert_eq!(store.time_to_live(id).await.unwrap(), None);
}
