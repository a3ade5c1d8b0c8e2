//! The examples in the section "Locking module" of the README of Etcd.jl. Only servers before 0.5
//! had this module, which gave each member of the queue an index. This library uses a queue of
//! keys. The fence corresponds to the index, and a token identifies a holder in later calls.

use std::time::Duration;

use etcd_typed::{ErrorKind, NamedLock, Revision, Token};
use tokio::time::{sleep, timeout};

use super::bed::Bed;

on_every_store! { lock_retrieve, lock_retrieve_of_free_lock, lock_acquire, lock_acquire_without_waiting, lock_renew, lock_release, lock_expires_after_ttl }

fn mylock(bed: &Bed, ttl: u64) -> NamedLock {
    bed.client.lock("/mylock").ttl(Duration::from_secs(ttl))
}

/// `lock_retrieve(etcd, "mylock")`: returns the index of the holder, and the token that
/// `lock_renew` and `lock_release` need.
async fn retrieve(bed: &Bed) -> Option<(Revision, Token)> {
    mylock(bed, 100).holder().await.unwrap().map(|holder| (holder.fence, holder.token()))
}

/// `curl -L http://127.0.0.1:4001/mod/v2/lock/mylock -XPOST -d ttl=100`: acquires the lock without
/// keeping it alive.
async fn post(bed: &Bed, ttl: u64) -> Token {
    mylock(bed, ttl).acquire().await.unwrap().into_token()
}

/// "lock_retrieve gets the lock index of the lock."
async fn lock_retrieve(bed: Bed) {
    let theirs = post(&bed, 100).await;
    assert_eq!(retrieve(&bed).await, Some((theirs.fence(), theirs)));
}

async fn lock_retrieve_of_free_lock(bed: Bed) {
    assert_eq!(retrieve(&bed).await, None);
    let token = post(&bed, 100).await;
    mylock(&bed, 100).release_token(&token).await.unwrap();
    assert_eq!(retrieve(&bed).await, None);
}

/// `lock_acquire(etcd, "mylock", ttl=100)`: "blocks until ttl for lock expires or until lock is
/// released", and returns a larger index, such as `"1878"` after `"1876"`.
async fn lock_acquire(bed: Bed) {
    let theirs = post(&bed, 100).await;
    let waiting = tokio::spawn({
        let lock = mylock(&bed, 100);
        async move { lock.acquire().await.unwrap() }
    });
    while mylock(&bed, 100).queue().await.unwrap().len() < 2 {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(!waiting.is_finished());
    assert_eq!(retrieve(&bed).await.unwrap().0, theirs.fence());
    mylock(&bed, 100).release_token(&theirs).await.unwrap();
    let ours = timeout(Duration::from_secs(60), waiting).await.expect("in time").unwrap();
    assert!(ours.fence() > theirs.fence());
    assert_eq!(retrieve(&bed).await.unwrap().0, ours.fence());
}

/// The parameter `timeout` of the module: 0 tries once, other numbers are seconds.
async fn lock_acquire_without_waiting(bed: Bed) {
    let _theirs = post(&bed, 100).await;
    assert!(mylock(&bed, 100).try_acquire().await.unwrap().is_none());
    let late = mylock(&bed, 100).acquire_within(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
}

/// `lock_renew(etcd, "mylock", index=1885, ttl=60)`.
async fn lock_renew(bed: Bed) {
    let token = post(&bed, 2).await;
    let renewed = mylock(&bed, 2).renew(&token, Duration::from_secs(60)).await.unwrap();
    sleep(Duration::from_secs(4)).await;
    assert_eq!(retrieve(&bed).await.unwrap().0, token.fence());
    mylock(&bed, 2).release_token(&renewed).await.unwrap();
    let unknown = mylock(&bed, 2).renew(&renewed, Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::GuardLost);
}

/// `lock_release(etcd, "mylock", index=1890)`.
async fn lock_release(bed: Bed) {
    post(&bed, 100).await;
    let (_, token) = retrieve(&bed).await.unwrap();
    mylock(&bed, 100).release_token(&token).await.unwrap();
    assert_eq!(retrieve(&bed).await, None);
    let unknown = mylock(&bed, 100).release_token(&token).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::GuardLost);
    // The holder of a lock releases the lock without an index.
    let ours = mylock(&bed, 100).acquire().await.unwrap();
    ours.release().await.unwrap();
    assert_eq!(retrieve(&bed).await, None);
}

async fn lock_expires_after_ttl(bed: Bed) {
    let theirs = post(&bed, 2).await;
    let ours = timeout(Duration::from_secs(60), mylock(&bed, 100).acquire()).await.expect("in time").unwrap();
    assert!(ours.fence() > theirs.fence());
}
