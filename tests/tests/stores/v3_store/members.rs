//! Members that are added, replaced and removed, and members that lag so far that they install a
//! snapshot.

use std::sync::Arc;
use std::time::Duration;

use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Consistency, Range, Span, Store};
use etcd_typed::testing::{Cluster, Etcd};
use etcd_typed::{Client, ErrorKind};
use etcd_typed_tests::checks::{Counted, Told};
use etcd_typed_tests::waiting::soon;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{key, options, put, store, write};

/// Fault F23: a learner refuses all requests except stale reads.
#[tokio::test]
async fn learner_is_skipped() {
    let mut cluster = Etcd::cluster(1).await;
    let learner = cluster.add_learner().await.endpoint();
    let voter = cluster.member(0).endpoint();
    write(&store(&voter), &key("/a"), "1").await;

    let alone = store(&learner);
    let stale = Range::of(Span::Key(key("/a"))).consistency(Consistency::Stale);
    soon(async { while alone.range(stale.clone()).await.unwrap().kvs.is_empty() {} }).await;
    let mut options = options([learner.as_str()]);
    options.retry.call_timeout = Duration::from_secs(1);
    let alone = V3Store::new(&options).unwrap();
    let error = alone.range(Range::of(Span::Key(key("/a")))).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("learner"), "{error}");
    let error = alone.commit(put(&key("/a"), "2")).await.unwrap_err();
    assert!(error.is_retryable() && !error.may_have_applied() && error.to_string().contains("learner"), "{error}");

    // The client tries the learner first.
    let client = Client::connect(&format!("etcd://{learner},{voter}")).await.unwrap();
    let entry = client.entry::<u64>("/entry").unwrap();
    let mut changes = entry.watch().await.unwrap();
    entry.set(&7).await.unwrap();
    assert_eq!(soon(changes.next()).await.unwrap().unwrap().new, Some(7));
    let ttl = Duration::from_secs(2);
    let lock = client.lock("/lock").ttl(ttl).acquire().await.unwrap();
    let published = client.entry::<u64>("/service").unwrap().publish(&1).ttl(ttl).await.unwrap();
    timeout(2 * ttl, lock.lost()).await.expect_err("the lease is kept alive");
    lock.verify().await.unwrap();
    assert!(published.is_published());
    assert!(client.members().await.unwrap().iter().any(|member| member.learner));
}

/// Fault F23: the member that serves a client is replaced. The new member first joins as a learner,
/// as etcd's documentation recommends.
#[tokio::test]
async fn streams_and_guards_survive_member_replacement() {
    let mut cluster = Etcd::cluster(1).await;
    cluster.add_learner().await;
    // The address lists both members from the start, because a client's address is not updated when
    // the cluster changes.
    let client = Client::connect(&cluster.url_v3()).await.unwrap();
    let entry = client.entry::<u64>("/entry").unwrap();
    entry.set(&1).await.unwrap();
    let (mut changes, mut view) = (entry.watch().await.unwrap(), entry.live().await.unwrap());
    let lock = client.lock("/lock").acquire().await.unwrap();
    let published = client.entry::<u64>("/service").unwrap().publish(&1).await.unwrap();

    cluster.promote(1).await;
    let mut counted = Counted::from(1);
    let mut wrote = 1;
    for removed in [false, true] {
        if removed {
            cluster.remove(0).await;
        }
        for _ in 0..5 {
            wrote += 1;
            // A write during the removal may fail with an unknown outcome. The test repeats it with
            // the same value.
            soon(async { while entry.set(&wrote).await.is_err() {} }).await;
        }
        while counted.last < wrote {
            let change = soon(changes.next()).await.unwrap().unwrap();
            // A repeated write of the same value is not counted.
            if change.new != change.old {
                let told = Told { revision: change.revision.get(), resynced: change.resynced, old: change.old, new: change.new };
                counted.tell(told).unwrap();
            }
        }
        soon(async {
            while **view.get() != Some(wrote) {
                view.changed().await.unwrap();
            }
        })
        .await;
        lock.verify().await.unwrap();
        assert!(published.is_published());
    }
    let other = Client::connect(&cluster.url_v3()).await.unwrap();
    assert!(other.lock("/lock").try_acquire().await.unwrap().is_none());
    assert_eq!(other.entry::<u64>("/service").unwrap().get().await.unwrap().as_deref(), Some(&1));
}

/// Returns the index of a member that is not the leader.
async fn follower(cluster: &Cluster) -> usize {
    for (index, member) in cluster.members().iter().enumerate() {
        let status = store(&member.endpoint()).status().await.unwrap();
        if status.member != status.leader {
            return index;
        }
    }
    panic!("no member is a follower");
}

/// Fault F24, promises W1 and W2. A member that has missed more entries than the others keep
/// installs their snapshot. etcd 3.4.23 then repeats changes on watches that were open before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installed_snapshot_repeats_no_change() {
    const WRITERS: usize = 100;
    // Together, the writers write more than the 5,000 entries that the other members keep in
    // addition to a snapshot.
    const EACH: usize = 60;
    let mut cluster = Etcd::builder().flag("--snapshot-count", "100").cluster(3).await;
    let lagging = follower(&cluster).await;
    let others = cluster.members().iter().enumerate().filter(|(index, _)| *index != lagging).map(|(_, member)| member.endpoint());
    let others = Client::connect(&format!("etcd://{}", others.collect::<Vec<_>>().join(","))).await.unwrap();
    let watching = Client::connect(&cluster.member(lagging).url_v3()).await.unwrap();
    let counter = others.entry::<u64>("/counter").unwrap();
    let mut changes = watching.entry::<u64>("/counter").unwrap().watch().await.unwrap();
    let mut counted = Counted::default();
    let mut value = 0;
    let mut count = async |writes: u64| {
        for _ in 0..writes {
            value += 1;
            counter.set(&value).await.unwrap();
        }
        value
    };
    let mut sees = async |goal: u64| {
        while counted.last < goal {
            let change = soon(changes.next()).await.unwrap().unwrap();
            let told = Told { revision: change.revision.get(), resynced: change.resynced, old: change.old, new: change.new };
            counted.tell(told).unwrap_or_else(|violation| panic!("{violation}: {change:?}"));
        }
    };
    let goal = count(20).await;
    sees(goal).await;

    cluster.member(lagging).pause();
    let store = Arc::new(store_of_all(&cluster, lagging));
    let writers = (0..WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0..EACH {
                write(&store, &key(&format!("/elsewhere/{writer}")), number.to_string()).await;
            }
        })
    });
    let (goal, _) = tokio::join!(count(100), join_all(writers));
    cluster.member(lagging).resume();
    sees(goal).await;
    let goal = count(20).await;
    sees(goal).await;
    soon(async {
        while !installed_a_snapshot(&cluster.member(lagging).log()) {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(watching.entry::<u64>("/counter").unwrap().get().await.unwrap().as_deref(), Some(&goal));
}

fn store_of_all(cluster: &Cluster, but: usize) -> V3Store {
    let endpoints = cluster.members().iter().enumerate().filter(|(index, _)| *index != but).map(|(_, member)| member.endpoint());
    V3Store::new(&options(endpoints.collect::<Vec<_>>().iter().map(String::as_str))).unwrap()
}

/// Returns true if the log says that the member has installed a snapshot. etcd 3.4 uses another
/// message than later versions.
fn installed_a_snapshot(log: &str) -> bool {
    log.contains("finished applying incoming snapshot") || log.contains("applied snapshot")
}

#[tokio::test]
async fn removed_member_is_skipped() {
    let mut cluster = Etcd::cluster(1).await;
    cluster.add_learner().await;
    cluster.promote(1).await;
    let former = cluster.member(0).endpoint();
    let store = V3Store::new(&options([former.as_str(), cluster.member(1).endpoint().as_str()])).unwrap();
    write(&store, &key("/a"), "1").await;
    cluster.remove(0).await;
    // A write during the removal could have an unknown outcome, so the test reads first.
    soon(async { while store.range(Range::of(Span::Key(key("/a")))).await.is_err() {} }).await;
    write(&store, &key("/a"), "2").await;
    let gone = V3Store::new(&{
        let mut options = options([former.as_str()]);
        options.retry.call_timeout = Duration::from_secs(1);
        options
    });
    assert_eq!(gone.unwrap().range(Range::of(Span::Key(key("/a")))).await.unwrap_err().kind(), ErrorKind::Unavailable);
}
