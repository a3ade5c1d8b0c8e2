//! Connections on which one direction stalls or ends, slow connections, and clients that have one
//! hanging connection.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_typed::store::{Range, Span, Store};
use etcd_typed::testing::{Etcd, Mode, Proxy};
use etcd_typed::{Client, Entry, Lock};
use etcd_typed_tests::checks::{Counted, Told};
use etcd_typed_tests::waiting::soon;
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{key, put, store, write};

/// The interval at which the client pings a silent connection, and the time limit for the answer.
const CHECK: Duration = Duration::from_secs(1);
/// A time to live that is longer than it takes to detect a dead connection.
const LEASE: Duration = Duration::from_secs(6);

/// A client that holds a lock and watches a counter through a proxy, and a client without a proxy
/// that increments the counter.
struct Scene {
    _etcd: Etcd,
    proxy: Proxy,
    client: Client,
    direct: Client,
    lock: Lock,
    watcher: JoinHandle<Counted>,
    counter: Entry<u64>,
}

impl Scene {
    async fn new() -> Self {
        let etcd = Etcd::builder().flag("--grpc-keepalive-min-time", "500ms").start().await;
        let proxy = Proxy::to(etcd.endpoint()).await;
        let direct = Client::connect(&etcd.url_v3()).await.unwrap();
        let client = Client::builder(&format!("etcd://{}", proxy.endpoint())).keep_alive(CHECK, CHECK).connect().await.unwrap();
        let lock = client.lock("/lock").ttl(LEASE).acquire().await.unwrap();
        let mut changes = client.entry::<u64>("/counter").unwrap().watch().await.unwrap();
        let watcher = tokio::spawn(async move {
            let mut counted = Counted::default();
            while let Some(change) = changes.next().await {
                let change = change.unwrap();
                if change.new.is_none() {
                    break;
                }
                let told = Told { revision: change.revision.get(), resynced: change.resynced, old: change.old, new: change.new };
                counted.tell(told).unwrap_or_else(|violation| panic!("{violation}: {change:?}"));
            }
            counted
        });
        let counter = direct.entry::<u64>("/counter").unwrap();
        let scene = Self { _etcd: etcd, proxy, client, direct, lock, watcher, counter };
        // After this, all three connections exist, and the guard watches its key.
        scene.count(3).await;
        sleep(Duration::from_secs(1)).await;
        scene
    }

    /// Increments the counter through the direct client.
    async fn count(&self, times: u64) {
        for _ in 0..times {
            self.counter.modify(|count| Some(count.unwrap_or(0) + 1)).await.unwrap();
        }
    }

    /// Checks that the client can write, that its guard is held, and that its watch saw each change
    /// once.
    async fn assert_whole(self, what: &str) {
        self.count(3).await;
        let entry = self.client.entry::<u64>("/entry").unwrap();
        soon(async { while entry.set(&7).await.is_err() {} }).await;
        self.lock.verify().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(self.direct.lock("/lock").try_acquire().await.unwrap().is_none(), "{what}");
        let count = self.counter.get().await.unwrap().unwrap().into_inner();
        self.counter.delete().await.unwrap();
        let counted = soon(self.watcher).await.unwrap();
        counted.end(count).unwrap_or_else(|violation| panic!("{what}: {violation}"));
        self.lock.release().await.unwrap();
    }
}

/// Fault F8 in both directions: if the request or the answer of an increment hangs, the caller
/// cannot know whether the increment was applied. No increment is applied twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_apply_at_most_once_while_connection_stalls() {
    let etcd = Etcd::start().await;
    let proxy = Arc::new(Proxy::to(etcd.endpoint()).await);
    let direct = Client::connect(&etcd.url_v3()).await.unwrap().entry::<u64>("/sum").unwrap();
    let client = Client::builder(&format!("etcd://{}", proxy.endpoint()))
        .retry(etcd_typed::RetryPolicy::new().call_timeout(Duration::from_millis(700)))
        .connect()
        .await
        .unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let stalls = tokio::spawn({
        let (proxy, over) = (Arc::clone(&proxy), Arc::clone(&over));
        async move {
            for round in 0..6 {
                sleep(Duration::from_millis(100)).await;
                proxy.set(if round % 2 == 0 { Mode::StallRequests } else { Mode::StallAnswers }).await;
                sleep(Duration::from_millis(900)).await;
                if round % 3 == 0 {
                    proxy.cut();
                }
                proxy.set(Mode::Pass).await;
            }
            over.store(true, Ordering::Relaxed);
        }
    });
    let adders = (0..4).map(|_| {
        let (sum, over) = (client.entry::<u64>("/sum").unwrap(), Arc::clone(&over));
        tokio::spawn(async move {
            let (mut done, mut unknown) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                match sum.modify(|sum| Some(sum.unwrap_or(0) + 1)).await {
                    Ok(_) => done += 1,
                    Err(error) if error.may_have_applied() => unknown += 1,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
                sleep(Duration::from_millis(5)).await;
            }
            (done, unknown)
        })
    });
    let adders = soon(join_all(adders)).await;
    stalls.await.unwrap();
    // Requests that hung may still arrive.
    sleep(Duration::from_secs(1)).await;
    let (done, unknown) = adders.into_iter().map(Result::unwrap).fold((0, 0), |sum, adder| (sum.0 + adder.0, sum.1 + adder.1));
    let sum = direct.get().await.unwrap().unwrap().into_inner();
    println!("{done} additions, {unknown} in doubt, {sum} made");
    assert!((done..=done + unknown).contains(&sum) && unknown > 0, "{done} {unknown} {sum}");
}

/// Fault F8 with a lost request: the write never reaches the server, but the caller cannot know
/// that.
#[tokio::test]
async fn lost_write_has_unknown_outcome() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let mut options = super::options([proxy.endpoint().as_str()]);
    options.retry.call_timeout = Duration::from_millis(500);
    let cut_off = etcd_typed::store::v3::V3Store::new(&options).unwrap();
    write(&cut_off, &key("/a"), "0").await;
    proxy.lose_requests();
    let error = soon(cut_off.commit(put(&key("/a"), "1"))).await.unwrap_err();
    assert!(error.may_have_applied(), "{error}");
    let kv = store(&etcd.endpoint()).range(Range::of(Span::Key(key("/a")))).await.unwrap().kvs.remove(0);
    assert_eq!(kv.version, Some(1));
}

/// Promise L3: the holder's requests do not reach the server, but the server's messages still reach
/// the holder.
#[tokio::test]
async fn guard_is_lost_before_lock_is_acquired_again() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let ttl = Duration::from_secs(2);
    let client = Client::connect(&format!("etcd://{}", proxy.endpoint())).await.unwrap();
    let lock = client.lock("/lock").ttl(ttl).acquire().await.unwrap();
    proxy.set(Mode::StallRequests).await;
    let direct = Client::connect(&etcd.url_v3()).await.unwrap();
    let next = soon(direct.lock("/lock").ttl(ttl).acquire()).await.unwrap();
    assert!(!lock.is_held());
    assert!(next.fence() > lock.fence());
    proxy.set(Mode::Pass).await;
    let guarded = client.entry::<u64>("/guarded").unwrap();
    guarded.set(&1).guarded_by(&lock).await.unwrap_err();
    assert!(!lock.is_held());
    next.verify().await.unwrap();
    assert_eq!(direct.entry::<u64>("/guarded").unwrap().get().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_direction_loses_no_guard_or_change() {
    let stalled = async |mode| {
        let scene = Scene::new().await;
        scene.proxy.set(mode).await;
        scene.count(5).await;
        // Waits longer than the client needs to detect a silent connection.
        sleep(3 * CHECK).await;
        scene.count(5).await;
        scene.proxy.set(Mode::Pass).await;
        scene.assert_whole(&format!("{mode:?}")).await;
    };
    tokio::join!(stalled(Mode::StallRequests), stalled(Mode::StallAnswers));
}

/// Fault F10: one side stops sending on a connection, and the other side may still send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_closed_connections_lose_no_guard_or_change() {
    let half_closed = async |what: &str, close: fn(&Proxy)| {
        let scene = Scene::new().await;
        for _ in 0..5 {
            scene.count(2).await;
            close(&scene.proxy);
            sleep(Duration::from_millis(200)).await;
        }
        scene.assert_whole(what).await;
    };
    tokio::join!(half_closed("answers", Proxy::end_answers), half_closed("requests", Proxy::end_requests));
}

/// Fault F10: one of the client's connections hangs, as on a dead path through a load balancer. The
/// test runs once for each of the three connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_connection_loses_no_guard_or_change() {
    let dead = async |connection| {
        let scene = Scene::new().await;
        let connections = scene.proxy.accepted();
        assert_eq!(connections, 3, "for calls, leases and watches");
        scene.proxy.hold(Some(connection));
        let entry = scene.client.entry::<u64>("/entry").unwrap();
        let begun = Instant::now();
        while begun.elapsed() < LEASE + Duration::from_secs(2) {
            scene.count(1).await;
            soon(async { while entry.get().await.is_err() {} }).await;
            assert!(scene.lock.is_held(), "connection {connection}");
            sleep(Duration::from_millis(200)).await;
        }
        scene.assert_whole(&format!("connection {connection}")).await;
    };
    tokio::join!(dead(0), dead(1), dead(2));
}

/// Fault F10: connections that are limited to 50 kB/s carry long answers and watches that are not
/// read. Leases are kept alive because they have their own connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_connection_loses_no_guard_or_change() {
    let scene = Scene::new().await;
    let ttl = Duration::from_secs(2);
    let short = scene.client.lock("/short").ttl(ttl).acquire().await.unwrap();
    let long = |number: u64| scene.direct.entry::<String>(&format!("/long/{number}")).unwrap();
    let mut unread = Vec::new();
    for _ in 0..4 {
        unread.push(scene.client.entries::<String, String>("/long").unwrap().watch().await.unwrap());
    }
    scene.proxy.limit(NonZeroU32::new(50_000));
    for number in 0..4 {
        long(number).set(&"x".repeat(50_000)).await.unwrap();
    }
    let whole = scene.client.entries::<String, String>("/long").unwrap();
    let (read, lost) = tokio::join!(whole.get(), timeout(3 * ttl, short.lost()));
    assert_eq!(read.unwrap().len(), 4);
    lost.expect_err("the lease is kept alive");
    assert!(short.is_held());
    scene.proxy.limit(None);
    short.release().await.unwrap();
    drop(unread);
    scene.assert_whole("slow").await;
}
