//! The examples in the section "Leader/Election module" of the README of Etcd.jl. Only servers
//! before 0.5 had this module. This library uses a queue of keys, which is possible on every
//! server.

use std::time::Duration;

use etcd_typed::{Election, ErrorKind};
use tokio::time::timeout;

use super::bed::Bed;

on_every_store! { set_leader, set_leader_again, get_leader, get_leader_without_leader, delete_leader, delete_leader_with_other_name, leader_expires_after_ttl }

const MINUTE: Duration = Duration::from_secs(60);

fn my_cluster(bed: &Bed) -> Election<String> {
    bed.client.election("/my-cluster").ttl(MINUTE)
}

async fn leader(bed: &Bed) -> Option<String> {
    my_cluster(bed).leader().await.unwrap().map(|leader| leader.value)
}

/// `set_leader(etcd, "my-cluster", name="leader-1", ttl=60)` returns the index `"1853"`. No task
/// keeps the leadership alive.
async fn set_leader(bed: Bed) {
    let leader = my_cluster(&bed).campaign(&"leader-1".to_owned()).await.unwrap();
    let index = leader.fence();
    let token = leader.into_token();
    let seen = my_cluster(&bed).leader().await.unwrap().unwrap();
    assert_eq!((seen.value.as_str(), seen.fence, seen.token()), ("leader-1", index, token.clone()));
    // Setting the leader again before it expires renews its time to live.
    let renewed = my_cluster(&bed).renew(&token, MINUTE).await.unwrap();
    assert_eq!((renewed.fence(), self::leader(&bed).await.as_deref()), (index, Some("leader-1")));
}

/// For another name, `set_leader` "blocks until ttl expires or until it is released", as the lock
/// module does.
async fn set_leader_again(bed: Bed) {
    let election = my_cluster(&bed);
    let first = election.campaign(&"leader-1".to_owned()).await.unwrap();
    let late = election.campaign_within(&"leader-2".to_owned(), Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    let waiting = tokio::spawn({
        let election = election.clone();
        async move { election.campaign(&"leader-2".to_owned()).await.unwrap() }
    });
    let fence = first.fence();
    first.resign().await.unwrap();
    let second = timeout(MINUTE, waiting).await.expect("in time").unwrap();
    assert!(second.fence() > fence);
    assert_eq!(leader(&bed).await.as_deref(), Some("leader-2"));
    second.resign().await.unwrap();
}

/// `get_leader(etcd, "my-cluster")`: `"leader-1"`.
async fn get_leader(bed: Bed) {
    let _leader = my_cluster(&bed).campaign(&"leader-1".to_owned()).await.unwrap();
    assert_eq!(leader(&bed).await.as_deref(), Some("leader-1"));
}

async fn get_leader_without_leader(bed: Bed) {
    assert_eq!(leader(&bed).await, None);
}

/// `delete_leader(etcd, "my-cluster", name="leader-1")`.
async fn delete_leader(bed: Bed) {
    let _token = my_cluster(&bed).campaign(&"leader-1".to_owned()).await.unwrap().into_token();
    assert_eq!(my_cluster(&bed).depose(&"leader-1".to_owned()).await.unwrap(), 1);
    assert_eq!(leader(&bed).await, None);
}

async fn delete_leader_with_other_name(bed: Bed) {
    let _leader = my_cluster(&bed).campaign(&"leader-1".to_owned()).await.unwrap();
    assert_eq!(my_cluster(&bed).depose(&"leader-2".to_owned()).await.unwrap(), 0);
    assert_eq!(leader(&bed).await.as_deref(), Some("leader-1"));
}

/// The leadership expires after its time to live.
async fn leader_expires_after_ttl(bed: Bed) {
    let election = my_cluster(&bed).ttl(Duration::from_secs(2));
    let mut changes = election.observe().await.unwrap();
    let _token = election.campaign(&"leader-1".to_owned()).await.unwrap().into_token();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let item = timeout(MINUTE, changes.next()).await.expect("in time").expect("the stream has not ended").unwrap();
        seen.push(item.map(|leader| leader.value));
    }
    assert_eq!(seen, [None, Some("leader-1".to_owned()), None]);
}
