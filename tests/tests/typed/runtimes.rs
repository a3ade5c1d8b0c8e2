//! A client is used on several runtimes, some of which end or are no longer driven. Locks, views,
//! streams and published values continue.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::{CountingStore, Etcd, Proxy};
use etcd_typed::{Client, Election, EntryMap, Live, LiveMap, LiveStatus, LostReason};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

/// One second longer than the shortest time to live that servers grant, because on a busy machine a
/// keep-alive may take a while. Such a lease counts as held for 2.5 s after a keep-alive.
const TTL: Duration = Duration::from_secs(3);
/// After this time a lease without keep-alives is lost, and the server has ended it.
const LONG: Duration = Duration::from_secs(6);
/// The limit of every wait. It is shorter than the 10 s after which a hanging call gives up.
const LIMIT: Duration = Duration::from_secs(8);

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A server, with the runtime that it needs.
struct Server {
    runtime: Runtime,
    etcd: Option<Etcd>,
}

impl Server {
    fn start() -> Self {
        let runtime = multi_thread();
        let etcd = runtime.block_on(Etcd::start());
        Self { runtime, etcd: Some(etcd) }
    }

    fn etcd(&self) -> &Etcd {
        self.etcd.as_ref().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let etcd = self.etcd.take();
        self.runtime.block_on(async move { drop(etcd) });
    }
}

fn connect(runtime: &Runtime, address: &str) -> Client {
    runtime.block_on(async { Client::connect(address).await.unwrap() })
}

/// Runs `case` on a memory store.
fn in_memory(case: impl Fn(&str)) {
    case("memory:");
}

fn on_v3(case: impl Fn(&str)) {
    let server = Server::start();
    case(&server.etcd().url_v3());
}

fn on_v2(case: impl Fn(&str)) {
    let server = Server::start();
    case(&server.etcd().url_v2());
}

/// Makes each case a test on every store.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[test]
            fn $case() {
                super::in_memory(super::$case);
            })*
        }
        mod v3 {
            $(#[test]
            fn $case() {
                super::on_v3(super::$case);
            })*
        }
        mod v2 {
            $(#[test]
            fn $case() {
                super::on_v2(super::$case);
            })*
        }
    };
}

cases! {
    spare_lease_moves_to_runtime_that_takes_it,
    guard_moves_when_its_runtime_ends,
    guard_is_released_after_its_runtime_ended,
    guard_survives_gaps_between_runtimes,
    threads_with_own_runtimes_keep_their_locks,
    view_continues_when_its_first_runtime_ends,
    view_continues_on_next_runtime,
    published_value_stays_when_its_runtime_ends,
    leader_and_observer_continue_when_runtime_ends,
    change_stream_continues_on_other_runtime,
    undriven_runtime_blocks_no_call,
    undriven_runtime_blocks_no_watch,
    undriven_runtime_blocks_no_view,
    undriven_runtime_gives_up_spare_lease,
}

fn spare_lease_moves_to_runtime_that_takes_it(address: &str) {
    for (first, main) in [(current_thread(), multi_thread()), (multi_thread(), current_thread())] {
        let client = connect(&first, address);
        let spare = first.block_on(async {
            let lock = client.lock("/spare").ttl(TTL).acquire().await.unwrap();
            let id = lock.lease_id();
            lock.release().await.unwrap();
            id
        });
        main.block_on(async {
            let lock = client.lock("/main").ttl(TTL).acquire().await.unwrap();
            assert_eq!(lock.lease_id(), spare);
            tokio::task::spawn_blocking(move || drop(first)).await.unwrap();
            sleep(LONG).await;
            assert!(lock.is_held());
            lock.verify().await.unwrap();
            lock.release().await.unwrap();
        });
    }
}

fn guard_moves_when_its_runtime_ends(address: &str) {
    let ends: [fn(Runtime); 3] = [drop, Runtime::shutdown_background, |runtime| runtime.shutdown_timeout(Duration::from_millis(10))];
    let main = current_thread();
    let guards: Vec<_> = ends
        .into_iter()
        .enumerate()
        .map(|(number, end)| {
            let own = multi_thread();
            let client = connect(&own, address);
            let guard = own.block_on(async { client.lock(&format!("/own/{number}")).ttl(TTL).acquire().await.unwrap() });
            // Any use of the guard or its client on another runtime moves the guard's task there.
            main.block_on(async { assert!(guard.is_held()) });
            end(own);
            (client, guard)
        })
        .collect();
    main.block_on(async {
        sleep(LONG).await;
        for (client, guard) in guards {
            assert!(guard.is_held());
            guard.verify().await.unwrap();
            // The guard's key is still watched, too.
            let key = guard.key().as_str();
            client.entry::<String>(key).unwrap().delete().await.unwrap();
            assert_eq!(timeout(LIMIT, guard.lost()).await.expect("the loss is reported").reason(), LostReason::KeyDeleted);
        }
    });
}

fn guard_is_released_after_its_runtime_ended(address: &str) {
    let (own, main) = (current_thread(), current_thread());
    let client = connect(&own, address);
    let lock = client.lock("/x").ttl(Duration::from_secs(60));
    let [released, dropped] = ["/a", "/b"].map(|name| own.block_on(client.lock(name).ttl(Duration::from_secs(60)).acquire()).unwrap());
    main.block_on(async { assert!(lock.try_acquire().await.unwrap().is_some()) });
    drop(own);
    main.block_on(async {
        released.release().await.unwrap();
        drop(dropped);
        for name in ["/a", "/b"] {
            let next = client.lock(name).ttl(TTL);
            drop(timeout(LIMIT, next.acquire()).await.expect("the lock was released").unwrap());
        }
    });
}

fn guard_survives_gaps_between_runtimes(address: &str) {
    let mut own = current_thread();
    let client = connect(&own, address);
    let guard = own.block_on(async { client.lock("/x").ttl(Duration::from_secs(4)).acquire().await.unwrap() });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        drop(own);
        std::thread::sleep(Duration::from_millis(500));
        own = current_thread();
        own.block_on(async {
            assert!(guard.is_held());
            guard.verify().await.unwrap();
            // Gives the background tasks on this runtime time to run.
            sleep(Duration::from_millis(50)).await;
        });
    }
    own.block_on(async { guard.release().await.unwrap() });
}

fn threads_with_own_runtimes_keep_their_locks(address: &str) {
    const THREADS: usize = 12;
    let main = multi_thread();
    let client = connect(&main, address);
    let together = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (client, together) = (client.clone(), together.clone());
            std::thread::spawn(move || {
                // This runtime leaves a spare lease, which any of the threads may take.
                current_thread().block_on(async {
                    let lock = client.lock(&format!("/first/{number}")).ttl(TTL).acquire().await.unwrap();
                    lock.release().await.unwrap();
                });
                together.wait();
                current_thread().block_on(async {
                    let lock = client.lock(&format!("/second/{number}")).ttl(TTL).acquire().await.unwrap();
                    // The threads finish one after the other.
                    let held = lock.while_held(sleep(LONG / 2 + LONG * number as u32 / THREADS as u32)).await;
                    held.unwrap_or_else(|lost| panic!("{number}: {lost}"));
                    lock.release().await.unwrap();
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

type Limits = EntryMap<String, u64>;

async fn shows(live: &mut Live<LiveMap<String, u64>>, limits: &Limits, value: u64) {
    limits.entry("a").unwrap().set(&value).await.unwrap();
    let is_shown = async {
        while live.get().get("a") != Some(&value) {
            live.changed().await.unwrap();
        }
    };
    timeout(LIMIT, is_shown).await.unwrap_or_else(|_| panic!("{value} is not shown: {:?}", live.status()));
}

fn view_continues_when_its_first_runtime_ends(address: &str) {
    for (first, main) in [(current_thread(), multi_thread()), (multi_thread(), current_thread())] {
        let client = connect(&main, address);
        let limits: Limits = client.entries("/limits").unwrap();
        let (first_view, mut view) =
            (first.block_on(async { limits.live().await.unwrap() }), main.block_on(async { limits.live().await.unwrap() }));
        let told = Arc::new(OnceLock::new());
        let _calls = first_view.on_change({
            let told = told.clone();
            move |state| {
                if state.get("a") == Some(&2) {
                    let _ = told.set(());
                }
            }
        });
        main.block_on(shows(&mut view, &limits, 1));
        drop((first_view, first));
        main.block_on(async {
            shows(&mut view, &limits, 2).await;
            let still_called = async {
                while told.get().is_none() {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(LIMIT, still_called).await.expect("the callback is called on the other runtime");
            let is_live = async {
                while !view.status().is_live() {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(LIMIT, is_live).await.expect("the view is live again");
        });
    }
}

fn view_continues_on_next_runtime(address: &str) {
    let own = current_thread();
    let client = connect(&own, address);
    let limits: Limits = client.entries("/limits").unwrap();
    let mut view = own.block_on(async { limits.live().await.unwrap() });
    own.block_on(shows(&mut view, &limits, 1));
    drop(own);
    assert!(matches!(view.status(), LiveStatus::Degraded { .. }));
    assert_eq!(view.get().get("a"), Some(&1));
    for value in 2..4 {
        current_thread().block_on(shows(&mut view, &limits, value));
    }
}

fn published_value_stays_when_its_runtime_ends(address: &str) {
    let (own, main) = (multi_thread(), current_thread());
    let client = connect(&main, address);
    let entry = client.entry::<u64>("/services/a").unwrap();
    let published = own.block_on(async { entry.publish(&1).ttl(TTL).await.unwrap() });
    drop(own);
    main.block_on(async {
        sleep(LONG).await;
        assert!(published.is_published());
        assert_eq!(entry.get().await.unwrap().as_deref(), Some(&1));
        published.set(&2).await.unwrap();
        assert_eq!(entry.get().await.unwrap().as_deref(), Some(&2));
        published.withdraw().await.unwrap();
        assert_eq!(entry.get().await.unwrap().as_deref(), None);
    });
}

fn leader_and_observer_continue_when_runtime_ends(address: &str) {
    let (own, main) = (current_thread(), multi_thread());
    let client = connect(&main, address);
    let election: Election<u64> = client.election("/leader").ttl(TTL);
    let (leader, mut observed) = own.block_on(async {
        let leader = election.campaign(&1).await.unwrap();
        let mut observed = election.observe().await.unwrap();
        assert_eq!(observed.next().await.unwrap().unwrap().map(|candidate| candidate.value), Some(1));
        // The stream waits for the next leader, with timers of this runtime.
        assert!(timeout(Duration::from_millis(50), observed.next()).await.is_err());
        (leader, observed)
    });
    drop(own);
    main.block_on(async {
        sleep(LONG).await;
        assert!(leader.is_held());
        leader.proclaim(&2).await.unwrap();
        let next = timeout(LIMIT, observed.next()).await.expect("the stream goes on").unwrap().unwrap();
        assert_eq!(next.map(|candidate| candidate.value), Some(2));
        leader.resign().await.unwrap();
    });
}

fn change_stream_continues_on_other_runtime(address: &str) {
    let (own, main) = (current_thread(), multi_thread());
    let client = connect(&own, address);
    let entry = client.entry::<u64>("/a").unwrap();
    let mut changes = own.block_on(async {
        entry.set(&1).await.unwrap();
        let mut changes = entry.watch().await.unwrap();
        entry.set(&2).await.unwrap();
        while changes.next().await.unwrap().unwrap().new != Some(2) {}
        // The stream waits for the next change, with timers of this runtime.
        assert!(timeout(Duration::from_millis(50), changes.next()).await.is_err());
        changes
    });
    drop(own);
    main.block_on(async {
        entry.set(&3).await.unwrap();
        let goes_on = async { while changes.next().await.unwrap().unwrap().new != Some(3) {} };
        timeout(LIMIT, goes_on).await.expect("the stream goes on");
    });
}

/// Every call on another runtime gets its answer, including the first call.
fn undriven_runtime_blocks_no_call(address: &str) {
    let (undriven, driven) = (current_thread(), current_thread());
    let client = connect(&undriven, address);
    let entry = client.entry::<u64>("/a").unwrap();
    undriven.block_on(async {
        entry.set(&1).await.unwrap();
        client.lock("/other").acquire().await.unwrap().release().await.unwrap();
        // These reads are in flight when the runtime stops being driven.
        for _ in 0..100 {
            let entry = entry.clone();
            tokio::spawn(async move { entry.get().await });
        }
        tokio::task::yield_now().await;
    });
    driven.block_on(async {
        for value in 2..5 {
            timeout(LIMIT, entry.set(&value)).await.expect("a write is answered").unwrap();
            let reads = (0..50).map(|_| entry.get());
            for read in timeout(LIMIT, futures_util::future::join_all(reads)).await.expect("reads are answered") {
                assert_eq!(read.unwrap().as_deref(), Some(&value));
            }
            drop(timeout(LIMIT, client.lease(TTL)).await.expect("a lease is granted").unwrap());
        }
    });
}

fn undriven_runtime_blocks_no_watch(address: &str) {
    let (undriven, driven) = (current_thread(), current_thread());
    let client = connect(&undriven, address);
    let entry = client.entry::<u64>("/a").unwrap();
    let watch = || async {
        let mut changes = entry.watch().await.unwrap();
        entry.set(&fastrand::u64(..)).await.unwrap();
        changes.next().await.unwrap().unwrap();
        changes
    };
    let _unread = undriven.block_on(watch());
    drop(driven.block_on(async { timeout(LIMIT, watch()).await.expect("this runtime has a watch of its own") }));
}

fn undriven_runtime_blocks_no_view(address: &str) {
    let (undriven, driven) = (current_thread(), current_thread());
    let client = connect(&undriven, address);
    let limits: Limits = client.entries("/limits").unwrap();
    let _first = undriven.block_on(async { limits.live().await.unwrap() });
    driven.block_on(async {
        let mut view = timeout(LIMIT, limits.live().into_future()).await.expect("the view begins").unwrap();
        shows(&mut view, &limits, 1).await;
    });
}

fn undriven_runtime_gives_up_spare_lease(address: &str) {
    let (undriven, driven) = (current_thread(), current_thread());
    let client = connect(&undriven, address);
    undriven.block_on(async { client.lock("/x").ttl(TTL).acquire().await.unwrap().release().await.unwrap() });
    driven.block_on(async {
        let lock = client.lock("/y").ttl(TTL).acquire().await.unwrap();
        sleep(LONG).await;
        assert!(lock.is_held());
        lock.release().await.unwrap();
    });
}

/// A guard whose runtime is no longer driven is kept alive by the runtime on which a task waits for
/// its loss.
#[test]
fn waiting_for_loss_moves_guard_from_undriven_runtime() {
    let (undriven, driven) = (current_thread(), current_thread());
    let client = connect(&undriven, "memory:");
    let guard = undriven.block_on(async { client.lock("/x").ttl(TTL).acquire().await.unwrap() });
    driven.block_on(async {
        assert!(timeout(LONG, guard.lost()).await.is_err());
        guard.release().await.unwrap();
    });
}

#[test]
fn guard_without_runtime_is_lost_after_ttl() {
    let own = current_thread();
    let client = connect(&own, "memory:");
    let guard = own.block_on(async { client.lock("/x").ttl(TTL).acquire().await.unwrap() });
    drop(own);
    std::thread::sleep(TTL);
    assert!(!guard.is_held());
    current_thread().block_on(async {
        assert_eq!(guard.lost().await.reason(), LostReason::NotKeptAlive);
    });
}

#[test]
fn paused_runtime_keeps_lease_of_ended_runtime() {
    let main = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let client = Client::with_store(MemoryStore::new());
    let own = current_thread();
    let spare = own.block_on(async {
        let lock = client.lock("/own").acquire().await.unwrap();
        let id = lock.lease_id();
        lock.release().await.unwrap();
        id
    });
    main.block_on(async {
        let lock = client.lock("/main").acquire().await.unwrap();
        assert_eq!(lock.lease_id(), spare);
        std::thread::spawn(move || drop(own)).join().unwrap();
        sleep(Duration::from_secs(600)).await;
        lock.verify().await.unwrap();
        lock.release().await.unwrap();
    });
}

/// Several tests of a program share a static client, and each test has its own runtime.
#[test]
fn static_client_serves_successive_runtimes() {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    let server = Server::start();
    let address = server.etcd().url_v3();
    for number in 0..6 {
        let runtime = if number % 2 == 0 { current_thread() } else { multi_thread() };
        runtime.block_on(async {
            if CLIENT.get().is_none() {
                let _ = CLIENT.set(Client::connect(&address).await.unwrap());
            }
            let client = CLIENT.get().unwrap();
            let limits: Limits = client.entries("/limits").unwrap();
            let mut view = timeout(LIMIT, limits.live().into_future()).await.expect("a view").unwrap();
            shows(&mut view, &limits, number).await;
            let lock = client.lock("/x").ttl(TTL).acquire().await.unwrap();
            assert!(lock.while_held(sleep(TTL / 2)).await.is_ok());
            if number % 3 == 0 {
                lock.release().await.unwrap();
            }
        });
    }
}

#[test]
fn each_runtime_has_its_own_three_connections() {
    let server = Server::start();
    let proxy = server.runtime.block_on(Proxy::to(server.etcd().endpoint()));
    let address = format!("etcd://{}", proxy.endpoint());
    let use_all = |client: Client| async move {
        let limits: Limits = client.entries("/limits").unwrap();
        let mut view = limits.live().await.unwrap();
        for value in 0..20 {
            shows(&mut view, &limits, fastrand::u64(..)).await;
            client.lock(&format!("/{value}")).acquire().await.unwrap().release().await.unwrap();
        }
    };
    let (one, other) = (multi_thread(), current_thread());
    let client = connect(&one, &address);
    one.block_on(use_all(client.clone()));
    assert_eq!(proxy.accepted(), 3, "one connection for calls, one for watches, one for leases");
    other.block_on(use_all(client.clone()));
    assert!(proxy.accepted() <= 6, "{}", proxy.accepted());
    server.runtime.block_on(async move { drop(proxy) });
}

/// After a burst of releases the client keeps at most 16 spare leases alive.
#[tokio::test(start_paused = true)]
async fn burst_of_releases_leaves_few_spare_leases() {
    const LOCKS: u64 = 100;
    const MOST: u64 = 16;
    let counting = CountingStore::new(Client::connect("memory:").await.unwrap().store().clone());
    let client = Client::with_store(counting.clone());
    let burst = || async {
        let locks = futures_util::future::join_all((0..LOCKS).map(|number| {
            let lock = client.lock(&format!("/{number}"));
            async move { lock.acquire().await.unwrap() }
        }));
        for lock in locks.await {
            lock.release().await.unwrap();
        }
    };
    burst().await;
    assert_eq!(counting.take().grant, LOCKS);
    // A second burst at once reuses all leases.
    burst().await;
    assert_eq!(counting.take().grant, 0);
    sleep(Duration::from_secs(50)).await;
    let counts = counting.take();
    assert_eq!(counts.revoke, LOCKS - MOST);
    // One keep-alive per 5 s, since the time to live is 15 s.
    assert!(counts.keep_alive <= MOST * 10, "{counts:?}");
    burst().await;
    assert_eq!(counting.take().grant, LOCKS - MOST);
}
