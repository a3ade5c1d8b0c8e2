//! Locks and elections on a cluster during a rolling upgrade. Two members run one minor version and
//! one runs the next (`mixed_cluster` in `tests/src/lib.rs`). Each client is connected to one
//! member, because members of different versions may answer differently. For example, a read
//! without values returns the leases of keys on 3.6, but not on 3.7 (etcd issue 22209).
//!
//! The test of mutual exclusion on a mixed cluster is in `mutex`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use etcd_typed::testing::{Cluster, Etcd};
use etcd_typed::{Client, ErrorKind};
use etcd_typed_tests::{mixed_cluster, next_etcd};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a test waits to see that something does not happen.
const A_WHILE: Duration = Duration::from_millis(200);
const MEMBERS: usize = 3;

/// Returns one client for each member, connected to that member only.
async fn clients(cluster: &Cluster) -> Vec<Client> {
    let mut clients = Vec::new();
    for member in cluster.members() {
        clients.push(Client::connect(&member.url_v3()).await.unwrap());
    }
    clients
}

/// Returns all pairs of members, also of a member with itself.
fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..MEMBERS).flat_map(|one| (0..MEMBERS).map(move |other| (one, other)))
}

/// Waits until a client sees this many keys in the queue of a lock.
async fn queue_has(places: usize, client: &Client, name: &str) {
    let lock = client.lock(name);
    let reached = async {
        while lock.queue().await.unwrap().len() != places {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, reached).await.expect("the member shows this queue in time");
}

async fn in_time<T>(task: JoinHandle<T>) -> T {
    timeout(LIMIT, task).await.expect("in time").unwrap()
}

#[tokio::test]
#[ignore = "needs two etcd lines: ETCD_BIN names one and ETCD_NEXT_BIN the next"]
async fn mixed_cluster_lock_has_one_holder() {
    let cluster = mixed_cluster(MEMBERS).await;
    let clients = clients(&cluster).await;
    for (one, other) in pairs() {
        let name = format!("/locks/{one}-{other}");
        let held = timeout(LIMIT, clients[one].lock(&name).acquire()).await.expect("in time").unwrap();
        let contender = clients[other].lock(&name);
        assert!(contender.try_acquire().await.unwrap().is_none(), "member {other} grants the lock that member {one} has granted");
        let within = contender.acquire_within(A_WHILE).await.unwrap_err();
        assert_eq!(within.kind(), ErrorKind::Timeout, "{within}");
        // The key of the waiter that gave up is deleted in the background.
        for client in &clients {
            queue_has(1, client, &name).await;
        }
        let waiting = tokio::spawn(async move { contender.acquire().await.unwrap() });
        for client in &clients {
            queue_has(2, client, &name).await;
        }
        assert!(!waiting.is_finished() && held.is_held());
        held.release().await.unwrap();
        let next = in_time(waiting).await;
        next.verify().await.unwrap();
        next.release().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs two etcd lines: ETCD_BIN names one and ETCD_NEXT_BIN the next"]
async fn mixed_cluster_election_has_one_leader() {
    let cluster = mixed_cluster(MEMBERS).await;
    let clients = clients(&cluster).await;
    for (one, other) in pairs() {
        let election = |member: usize| clients[member].election::<String>(&format!("/elections/{one}-{other}"));
        let first = timeout(LIMIT, election(one).campaign(&"first".to_owned())).await.expect("in time").unwrap();
        let candidate = election(other);
        assert!(candidate.try_campaign(&"other".to_owned()).await.unwrap().is_none(), "a leader at member {one} and one at {other}");
        let waiting = tokio::spawn(async move { candidate.campaign(&"second".to_owned()).await.unwrap() });
        for member in 0..MEMBERS {
            while election(member).candidates().await.unwrap().len() < 2 {
                sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(election(member).leader().await.unwrap().expect("a leader").value, "first");
        }
        assert!(!waiting.is_finished() && first.is_held());
        let fence = first.fence();
        first.resign().await.unwrap();
        let second = in_time(waiting).await;
        second.verify().await.unwrap();
        assert!(second.fence() > fence);
        for member in 0..MEMBERS {
            assert_eq!(election(member).leader().await.unwrap().expect("a leader").value, "second");
        }
        second.resign().await.unwrap();
    }
}

/// All members are upgraded, one after the other. A lock and a leadership that were acquired before
/// stay valid, and after each step no other client can acquire them.
#[tokio::test]
#[ignore = "needs two etcd lines: ETCD_BIN names one and ETCD_NEXT_BIN the next"]
async fn mixed_cluster_guards_survive_rolling_upgrade() {
    let mut cluster = Etcd::cluster(MEMBERS).await;
    let client = Client::connect(&cluster.url_v3()).await.unwrap();
    let held = client.lock("/locks/rolling").ttl(LIMIT).acquire().await.unwrap();
    let leader = client.election::<u32>("/elections/rolling").ttl(LIMIT).campaign(&1).await.unwrap();
    for member in 0..MEMBERS {
        cluster.member(member).upgrade(next_etcd()).await;
        held.verify().await.unwrap();
        leader.verify().await.unwrap();
        let clients = clients(&cluster).await;
        let made_now = format!("/locks/made-after-{member}");
        let fresh = timeout(LIMIT, clients[member].lock(&made_now).acquire()).await.expect("in time").unwrap();
        for client in &clients {
            for name in ["/locks/rolling", &made_now] {
                let refused = client.lock(name).acquire_within(A_WHILE).await.expect_err("another client has the lock");
                assert_eq!(refused.kind(), ErrorKind::Timeout, "{name} after the upgrade of member {member}: {refused}");
            }
            let candidate = client.election::<u32>("/elections/rolling");
            let refused = candidate.campaign_within(&2, A_WHILE).await.expect_err("another client leads");
            assert_eq!(refused.kind(), ErrorKind::Timeout, "after the upgrade of member {member}: {refused}");
        }
        fresh.release().await.unwrap();
    }
    held.release().await.unwrap();
    leader.resign().await.unwrap();
}
