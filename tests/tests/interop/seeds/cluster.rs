//! The examples in the sections "Get all machines in the cluster" and "Getting Etcd stats" of the
//! README of Etcd.jl.

use etcd_typed::testing::{Cluster, Etcd};
use etcd_typed::{Client, StatsKind};

use super::bed::{Bed, assert_refused};

on_every_store! { machines, stats_store, stats_self, stats_leader }

/// `machines(etcd)` with one server returns the address with which the server was started.
async fn machines(bed: Bed) {
    let members = bed.client.members().await.unwrap();
    let [member] = members.as_slice() else { panic!("one member: {members:?}") };
    assert!(!member.id.is_empty() && !member.name.is_empty() && !member.learner, "{member:?}");
    // The embedded store has no client address.
    assert_eq!(member.client_urls, bed.endpoint().map(|endpoint| format!("http://{endpoint}")).as_slice());
}

/// `machines(etcd)` with three members, as the README shows it.
async fn machines_of_cluster(cluster: &Cluster, url: &str) {
    let mut expected: Vec<String> = cluster.members().iter().map(|member| format!("http://{}", member.endpoint())).collect();
    expected.sort_unstable();
    let client = Client::connect(url).await.unwrap();
    let mut machines: Vec<String> = client.members().await.unwrap().into_iter().flat_map(|member| member.client_urls).collect();
    machines.sort_unstable();
    assert_eq!(machines, expected);
}

#[tokio::test]
async fn v3_members_list_addresses_of_cluster() {
    let cluster = Etcd::cluster(3).await;
    machines_of_cluster(&cluster, &cluster.url_v3()).await;
}

#[tokio::test]
async fn v2_members_list_addresses_of_cluster() {
    let cluster = Etcd::cluster(3).await;
    machines_of_cluster(&cluster, &cluster.url_v2()).await;
}

/// `stats(etcd, "store")`.
async fn stats_store(bed: Bed) {
    if !bed.has_directories() {
        assert_refused(bed.client.stats(StatsKind::Store).await, &bed, "status()");
        return;
    }
    let before = bed.client.stats(StatsKind::Store).await.unwrap();
    // All counters that the README prints.
    let names = [
        "getsSuccess",
        "updateFail",
        "watchers",
        "setsSuccess",
        "setsFail",
        "expireCount",
        "compareAndSwapSuccess",
        "getsFail",
        "deleteSuccess",
        "createFail",
        "createSuccess",
        "compareAndDeleteSuccess",
        "deleteFail",
        "compareAndSwapFail",
        "updateSuccess",
        "compareAndDeleteFail",
    ];
    for name in names {
        assert!(before.counter(name).is_some(), "{name}");
    }
    assert_eq!(before.counter("noSuchCounter"), None);

    let bar = bed.text("/foo/bar");
    bar.set(&"Hello World".to_owned()).await.unwrap();
    bar.create(&"Hello World".to_owned()).await.unwrap_err();
    bar.delete().await.unwrap();
    let after = bed.client.stats(StatsKind::Store).await.unwrap();
    for name in ["setsSuccess", "createFail", "deleteSuccess"] {
        // The server also writes its own version and name to this store.
        assert!(after.counter(name) > before.counter(name), "{name}");
    }
}

/// `stats(etcd, "self")`.
async fn stats_self(bed: Bed) {
    if !bed.has_directories() {
        assert_refused(bed.client.stats(StatsKind::Member).await, &bed, "status()");
        return;
    }
    let stats = bed.client.stats(StatsKind::Member).await.unwrap();
    let [member] = <[_; 1]>::try_from(bed.client.members().await.unwrap()).unwrap();
    assert_eq!(stats.get::<String>("name").unwrap(), member.name);
    assert_eq!(stats.get::<String>("id").unwrap(), member.id);
    assert_eq!(stats.get::<String>("state").unwrap(), "StateLeader");
}

/// The followers in a leader's statistics, by id.
type Followers = std::collections::BTreeMap<String, serde_json::Value>;

/// `stats(etcd, "leader")`.
async fn stats_leader(bed: Bed) {
    if !bed.has_directories() {
        assert_refused(bed.client.stats(StatsKind::Leader).await, &bed, "status()");
        return;
    }
    let stats = bed.client.stats(StatsKind::Leader).await.unwrap();
    assert_eq!(stats.get::<String>("leader"), bed.client.status().await.unwrap().leader);
    assert!(stats.get::<Followers>("followers").unwrap().is_empty());
}

/// Only the leader has these statistics. The client finds the leader, whichever member comes first
/// in the client's address.
#[tokio::test]
async fn v2_leader_stats_are_found_in_cluster() {
    let cluster = Etcd::cluster(3).await;
    let endpoints = cluster.url_v2().trim_start_matches("etcd2://").to_owned();
    let mut order: Vec<&str> = endpoints.split(',').collect();
    for _ in 0..3 {
        order.rotate_left(1);
        let client = Client::connect(&format!("etcd2://{}", order.join(","))).await.unwrap();
        let stats = client.stats(StatsKind::Leader).await.unwrap();
        assert_eq!(stats.get::<Followers>("followers").unwrap().len(), 2);
    }
}
