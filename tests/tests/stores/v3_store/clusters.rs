//! A new cluster replaces the server at the same address, as after a restore from a backup. No
//! failed write reaches the new cluster, and every part of the client recovers.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_typed::store::v3::V3Store;
use etcd_typed::store::{Range, Span, Store, Watch, WatchFrom, WatchItem};
use etcd_typed::testing::{Cluster, Etcd, Mode, Proxy};
use etcd_typed::{Client, Entry, ErrorKind, LostReason, Revision};
use etcd_typed_tests::waiting::until_live;
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{PATIENCE, key, options, put, store, write};

const PAUSE: Duration = Duration::from_millis(5);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Writes 0, 1, 2 and so on to one key until `end` is signalled. Returns the numbers whose writes
/// were acknowledged.
async fn count_up(entry: Entry<u64>, mut end: oneshot::Receiver<()>) -> BTreeSet<u64> {
    let mut acknowledged = BTreeSet::new();
    for number in 0.. {
        if entry.set(&number).await.is_ok() {
            acknowledged.insert(number);
        }
        if end.try_recv().is_ok() {
            break;
        }
        sleep(PAUSE).await;
    }
    acknowledged
}

/// Returns all values that were ever written to a key of this server.
async fn written(endpoint: &str, path: &str) -> BTreeSet<u64> {
    let direct = store(endpoint);
    let now = direct.range(Range::of(Span::Key(key(path)))).await.unwrap();
    let watch = Watch::new(Span::Key(key(path)), WatchFrom::Resumed(Revision::new(1)));
    let mut history = direct.watch(watch).await.unwrap();
    let mut values = BTreeSet::new();
    let newest: u64 = std::str::from_utf8(&now.kvs[0].value).unwrap().parse().unwrap();
    while !values.contains(&newest) {
        let item = soon("the history", history.next()).await.unwrap().unwrap();
        let WatchItem::Batch(batch) = item else { continue };
        values.extend(batch.events.iter().map(|event| match event {
            etcd_typed::store::Event::Put { kv, .. } => std::str::from_utf8(&kv.value).unwrap().parse::<u64>().unwrap(),
            other => panic!("{other:?}"),
        }));
    }
    values
}

/// Several clients write, because it is random which requests are in flight when the server ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_writes_never_reach_a_new_cluster() {
    let mut etcd = Etcd::start().await;
    let mut writers = Vec::new();
    for number in 0..4 {
        let entry = Client::connect(&etcd.url_v3()).await.unwrap().entry::<u64>(&format!("/counted/{number}")).unwrap();
        entry.set(&0).await.unwrap();
        let (end, ended) = oneshot::channel();
        writers.push((entry.clone(), end, tokio::spawn(count_up(entry, ended))));
    }
    for token in ["restored", "restored-again"] {
        sleep(PAUSE * 20).await;
        etcd.terminate().await;
        etcd.wipe_as(token).await;
        for (entry, ..) in &writers {
            soon("the recovery of a client", async { while entry.get().await.ok().flatten().is_none() {} }).await;
        }
    }
    for (number, (_, end, writer)) in writers.into_iter().enumerate() {
        end.send(()).unwrap();
        let acknowledged = writer.await.unwrap();
        let written = written(&etcd.endpoint(), &format!("/counted/{number}")).await;
        let failed: Vec<_> = written.difference(&acknowledged).collect();
        assert!(failed.is_empty(), "the new cluster committed writes that had failed: {failed:?}");
    }
}

#[derive(etcd_typed::EtcdSchema, Clone, Debug, PartialEq)]
struct Settings {
    limit: u64,
}

/// When the client reconnects, the revision of the new cluster is already larger than that of the
/// former cluster. A key may also have the value that the client saw last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_recovers_in_new_cluster() {
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let client = Client::connect(&format!("etcd://{}", proxy.addr())).await.unwrap();
    let dir = client.dir::<Settings>("/app").unwrap();
    dir.limit.set(&1).await.unwrap();
    let (mut view, mut changes) = (dir.live().await.unwrap(), dir.watch().await.unwrap());
    let named = client.lock("/locks/a").ttl(Duration::from_secs(600));
    let held = named.acquire().await.unwrap();
    let service = client.entry::<u64>("/services/a").unwrap();
    let published = service.publish(&7).ttl(Duration::from_secs(3)).await.unwrap();
    // Give the lock and the published value time to start watching their keys.
    sleep(Duration::from_millis(300)).await;

    for (token, limit) in [("restored", 2), ("restored-again", 3)] {
        proxy.set(Mode::Refuse).await;
        proxy.cut();
        etcd.wipe_as(token).await;
        let direct = Client::connect(&etcd.url_v3()).await.unwrap().dir::<Settings>("/app").unwrap();
        for _ in 0..50 {
            direct.limit.set(&limit).await.unwrap();
        }
        proxy.set(Mode::Pass).await;
        soon("the view's new state", async { while view.changed().await.unwrap().limit != limit {} }).await;
        until_live(&view).await;
        soon("the resync", async { while !changes.next().await.unwrap().unwrap().resynced {} }).await;
        soon("the published value", async {
            while service.get().await.unwrap().is_none_or(|value| *value != 7) {
                sleep(PAUSE).await;
            }
        })
        .await;
    }
    let lost = soon("the loss of the lock", held.lost()).await;
    assert!(matches!(lost.reason(), LostReason::KeyDeleted | LostReason::Revoked), "{lost}");
    assert!(!held.is_held());
    let next = soon("the lock in the new cluster", named.acquire()).await.unwrap();
    next.verify().await.unwrap();
    next.release().await.unwrap();
    assert!(published.is_published());
    dir.limit.set(&9).await.unwrap();
    soon("the change at the end", async { while view.changed().await.unwrap().limit != 9 {} }).await;
}

fn store_of(cluster: &Cluster) -> V3Store {
    let endpoints: Vec<String> = cluster.members().iter().map(Etcd::endpoint).collect();
    V3Store::new(&options(endpoints.iter().map(String::as_str))).unwrap()
}

/// Two members are restored while the third member of the former cluster still answers.
#[tokio::test]
async fn client_accepts_new_cluster_only_with_majority() {
    let mut cluster = Etcd::cluster(3).await;
    let store = store_of(&cluster);
    write(&store, &key("/a"), "old").await;
    for member in 0..2 {
        cluster.member(member).forget("restored").await;
        cluster.member(member).launch().await;
    }
    for member in 0..2 {
        cluster.member(member).ready().await;
    }
    for number in 0..5 {
        let error = store.commit(put(&key("/a"), number.to_string())).await.unwrap_err();
        assert!(error.may_have_applied() || error.kind() == ErrorKind::Server || error.is_retryable(), "{error}");
    }
    assert_eq!(store.history(), 0, "a member of the former cluster still answers");
    let direct = super::store(&cluster.member(0).endpoint());
    assert_eq!(direct.range(Range::of(Span::Key(key("/a")))).await.unwrap().kvs, [], "no write reached the new cluster");

    cluster.member(2).forget("restored").await;
    soon("the first write to the new cluster", async {
        while store.commit(put(&key("/a"), "new")).await.is_err() {
            sleep(PAUSE).await;
        }
    })
    .await;
    assert_eq!(store.history(), 1, "two of three agree, and the third is down");
    cluster.member(2).launch().await;
    cluster.member(2).ready().await;
    for _ in 0..10 {
        write(&store, &key("/a"), "new").await;
    }
    assert_eq!(store.history(), 1);
}
