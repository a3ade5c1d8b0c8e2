//! Calls and drops outside of a tokio runtime never panic. A call that needs a runtime returns
//! `Unsupported`; the memory store needs one only when it has to wait.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use etcd_typed::store::StatsKind;
use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Error, ErrorKind, EtcdSchema, Revision};
use tokio::runtime::{Builder, Runtime};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(20);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, without a runtime.
fn outside<T>(name: &str, future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    let begun = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(begun.elapsed() < LIMIT, "{name} does not return");
        thread::park_timeout(Duration::from_millis(100));
    }
}

fn background() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Limits {
    low: u32,
    #[etcd(entries)]
    notes: BTreeMap<String, u32>,
}

type Call<'c> = (&'static str, Pin<Box<dyn Future<Output = Result<(), Error>> + 'c>>);

/// Boxes each call with its name.
macro_rules! calls {
    ($($name:literal => $call:expr),* $(,)?) => {
        vec![$(($name, Box::pin(async { $call.await.map(drop) }) as Pin<Box<dyn Future<Output = Result<(), Error>> + '_>>)),*]
    };
}

/// Makes every call outside of a runtime.
fn check_all(address: &str, needs_runtime: bool) {
    let runtime = background();
    let client = runtime.block_on(Client::connect(address)).unwrap();
    let ttl = Duration::from_secs(30);
    let entry = client.entry::<u32>("/outside/entry").unwrap();
    let map = client.entries::<String, u32>("/outside/map").unwrap();
    let limits = client.dir::<Limits>("/outside/limits").unwrap();
    let dirs = client.dirs::<String, Limits>("/outside/dirs").unwrap();
    let directory = client.directory("/outside").unwrap();
    let (lock, election) = (client.lock("/outside/lock").ttl(ttl), client.election::<u32>("/outside/election").ttl(ttl));
    let (values, value) = (BTreeMap::from([("a".to_owned(), 1)]), Limits { low: 1, notes: BTreeMap::new() });
    let structs = BTreeMap::from([("a".to_owned(), value.clone())]);
    let (held, leading, tokened, published, lease, seen, seen_limits) = runtime.block_on(async {
        entry.set(&1).await.unwrap();
        limits.set(&value).non_atomic().await.unwrap();
        (
            client.lock("/outside/held").ttl(ttl).acquire().await.unwrap(),
            client.election::<u32>("/outside/leading").ttl(ttl).campaign(&1).await.unwrap(),
            client.lock("/outside/tokened").ttl(ttl),
            client.entry::<u32>("/outside/published").unwrap().publish(&1).ttl(ttl).await.unwrap(),
            client.lease(ttl).await.unwrap(),
            entry.get().await.unwrap().unwrap(),
            limits.get().await.unwrap(),
        )
    });
    let token = runtime.block_on(async { tokened.acquire().await.unwrap().into_token() });
    let leader_token = runtime.block_on(async { client.election::<u32>("/outside/t").ttl(ttl).campaign(&1).await.unwrap().into_token() });
    let calls: Vec<Call<'_>> = calls! {
        "connect" => Client::connect(address),
        "status" => client.status(),
        "members" => client.members(),
        "stats" => client.stats(StatsKind::Store),
        "lease" => client.lease(ttl),
        "get" => entry.get(),
        "get_or_default" => entry.get_or_default(),
        "exists" => entry.exists(),
        "set" => entry.set(&2),
        "set with a ttl" => entry.set(&2).ttl(ttl),
        "create" => client.entry::<u32>("/outside/new").unwrap().create(&2),
        "replace" => entry.replace(&2),
        "compare_and_swap" => entry.compare_and_swap(&seen, &2),
        "modify" => entry.modify(|n| n),
        "delete" => client.entry::<u32>("/outside/none").unwrap().delete(),
        "publish" => client.entry::<u32>("/outside/other").unwrap().publish(&2),
        "watch an entry" => entry.watch(),
        "watch an entry since" => entry.watch().since(Revision::new(1)),
        "live of an entry" => entry.live(),
        "wait_for" => entry.wait_for(|_| true),
        "set under a guard" => entry.set(&2).guarded_by(&held),
        "get a struct" => limits.get(),
        "exists of a struct" => limits.exists(),
        "set a struct" => limits.set(&value).non_atomic(),
        "update" => limits.update(|limits| limits.low += 1),
        "create a struct" => limits.create(&value),
        "compare_and_swap a struct" => limits.compare_and_swap(&seen_limits, &value),
        "diff" => limits.diff(&value),
        "check" => limits.check(),
        "wait for a struct" => limits.wait_for(|_| true),
        "watch a struct" => limits.watch(),
        "live of a struct" => limits.live(),
        "delete a struct" => client.dir::<Limits>("/outside/none").unwrap().delete(),
        "get a map" => map.get(),
        "set a map" => map.set(&values).non_atomic(),
        "diff of a map" => map.diff(&values),
        "check of a map" => map.check(),
        "watch a map" => map.watch(),
        "live of a map" => map.live(),
        "get structs" => dirs.get(),
        "keys" => dirs.keys(),
        "set structs" => dirs.set(&structs).non_atomic(),
        "diff of structs" => dirs.diff(&structs),
        "check of structs" => dirs.check(),
        "live of structs" => dirs.live(),
        "list" => directory.list(),
        "list_recursive" => directory.list_recursive(),
        "exists of a directory" => directory.exists(),
        "create a directory" => client.directory("/outside/made").unwrap().create(),
        "delete_recursive" => client.directory("/outside/gone").unwrap().delete_recursive(),
        "watch a directory" => directory.watch(),
        "transaction" => client.transaction().write(entry.set(&3)),
        "acquire" => lock.acquire(),
        "try_acquire" => lock.try_acquire(),
        "acquire_within" => lock.acquire_within(ttl),
        "holder" => lock.holder(),
        "queue" => lock.queue(),
        "strays" => lock.strays(),
        "adopt" => tokened.adopt(&token),
        "renew" => tokened.renew(&token, ttl),
        "release_token" => tokened.release_token(&token),
        "campaign" => election.campaign(&1),
        "try_campaign" => election.try_campaign(&1),
        "campaign_within" => election.campaign_within(&1, ttl),
        "lead" => election.lead(&1, |_| async {}),
        "leader" => election.leader(),
        "candidates" => election.candidates(),
        "observe" => election.observe(),
        "depose" => election.depose(&1),
        "adopt a leadership" => client.election::<u32>("/outside/t").adopt(&leader_token),
        "proclaim" => leading.proclaim(&2),
        "verify" => held.verify(),
    };
    for (name, call) in calls {
        if needs_runtime {
            let error = outside(name, call).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
            // If the store does not support the call at all, the error gives that reason instead.
            let other_reason = name == "stats" || address.starts_with("etcd2");
            assert!(other_reason || error.to_string().contains("within a tokio runtime"), "{name}: {error}");
        } else if let Err(error) = outside(name, call) {
            let kind = error.kind();
            let others = [ErrorKind::AlreadyExists, ErrorKind::Conflict, ErrorKind::GuardLost];
            assert!(kind == ErrorKind::Unsupported || others.contains(&kind), "{name}: {error}");
        }
    }
    if needs_runtime {
        let page = outside("stream", async { map.stream().next().await }).unwrap();
        assert_eq!(page.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    // The runtime still drives the background tasks while other threads use the handles.
    assert!(held.is_held() && leading.is_held() && lease.is_held() && published.is_published());
    outside("while_held", held.while_held(async {})).unwrap();
    let _ = outside("release", held.release());
    let _ = outside("resign", leading.resign());
    let _ = outside("revoke", lease.revoke());
    let _ = outside("publish another", published.set(&2));
    let _ = outside("withdraw", published.withdraw());
}

#[test]
fn calls_without_runtime_never_panic_with_memory_store() {
    check_all("memory:", false);
}

#[test]
fn calls_without_runtime_are_unsupported_on_v3() {
    let runtime = background();
    let etcd = runtime.block_on(Etcd::start());
    check_all(&etcd.url_v3(), true);
}

#[test]
fn calls_without_runtime_are_unsupported_on_v2() {
    let runtime = background();
    let etcd = runtime.block_on(Etcd::start());
    check_all(&etcd.url_v2(), true);
}

/// Uses and drops guards and streams outside of the runtime on which they were created, while that
/// runtime exists or after its end.
fn check_kept(address: &str, runtime_ends: bool) {
    let runtime = background();
    let ttl = Duration::from_secs(30);
    let (client, held, leading, published, lease, mut live, subscription, mut changes, mut one, mut leaders) = runtime.block_on(async {
        let client = Client::connect(address).await.unwrap();
        let entry = client.entry::<u32>("/kept/entry").unwrap();
        let live = entry.live().await.unwrap();
        let subscription = live.on_change(|_| {});
        let held = client.lock("/kept/lock").ttl(ttl).acquire().await.unwrap();
        let election = client.election::<u32>("/kept/election").ttl(ttl);
        let leading = election.campaign(&1).await.unwrap();
        let published = client.entry::<u32>("/kept/published").unwrap().publish(&1).ttl(ttl).await.unwrap();
        let lease = client.lease(ttl).await.unwrap();
        let changes = client.entries::<String, u32>("/kept").unwrap().watch().await.unwrap();
        let leaders = election.observe().await.unwrap();
        let one = entry.watch().await.unwrap();
        (client, held, leading, published, lease, live, subscription, changes, one, leaders)
    });
    let runtime = if runtime_ends {
        runtime.shutdown_timeout(Duration::from_secs(5));
        None
    } else {
        Some(runtime)
    };
    let unsupported = |error: Error| assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    unsupported(outside("changes", changes.next()).unwrap().unwrap_err());
    unsupported(outside("changes of an entry", one.next()).unwrap().unwrap_err());
    outside("leaders", leaders.next()).unwrap().unwrap();
    unsupported(outside("leaders", leaders.next()).unwrap().unwrap_err());
    if runtime_ends {
        assert_eq!(outside("changed", live.changed()).map(drop).unwrap_err().kind(), ErrorKind::Unavailable);
        outside("lost", held.lost());
        outside("lost lease", lease.lost());
    } else {
        outside("wait_for_revision", live.wait_for_revision(live.revision())).unwrap();
    }
    let _ = (live.status(), live.staleness(), live.get().as_ref(), client.namespace());
    let _again = live.on_change(|_| {});
    drop((held, leading, published, lease, subscription));
    drop((changes, one, leaders, live));
    // A later runtime can use the client.
    let later = runtime.unwrap_or_else(background);
    later.block_on(async {
        client.entry::<u32>("/kept/entry").unwrap().set(&5).await.unwrap();
        client.lock("/kept/other").ttl(ttl).acquire().await.unwrap().release().await.unwrap();
    });
    drop(client);
}

#[test]
fn guards_and_streams_never_panic_outside_runtime_with_memory_store() {
    check_kept("memory:", false);
    check_kept("memory:", true);
}

#[test]
fn guards_and_streams_never_panic_outside_runtime_on_v2_and_v3() {
    let runtime = background();
    let etcd = runtime.block_on(Etcd::start());
    for address in [etcd.url_v3(), etcd.url_v2()] {
        check_kept(&address, false);
        check_kept(&address, true);
    }
}

/// A stream that was polled outside of a runtime loses no change.
#[test]
fn stream_continues_within_runtime_with_memory_store() {
    let runtime = background();
    let client = runtime.block_on(Client::connect("memory:")).unwrap();
    let entry = client.entry::<u32>("/a").unwrap();
    let mut changes = runtime.block_on(entry.watch().into_future()).unwrap();
    outside("next", changes.next()).unwrap().unwrap_err();
    runtime.block_on(async {
        entry.set(&7).await.unwrap();
        assert_eq!(changes.next().await.unwrap().unwrap().new, Some(7));
    });
}

#[test]
fn faults_without_runtime_never_panic_with_memory_store() {
    let store = MemoryStore::new();
    let client = Client::with_store(store.clone());
    let entry = client.entry::<u32>("/a").unwrap();
    store.faults().delay(Calls::Reads, Duration::from_secs(1));
    assert_eq!(outside("get", entry.get()).unwrap_err().kind(), ErrorKind::Unsupported);
    store.faults().clear();
    // After this many conflicts a modify waits before its next attempt. Without a runtime it cannot
    // wait and returns the conflict.
    outside("modify", entry.set(&1).into_future()).unwrap();
    let conflicted = entry.modify(|n| {
        outside("another", entry.set(&n.unwrap_or_default()).into_future()).unwrap();
        n.map(|n| n + 1)
    });
    assert_eq!(outside("modify", conflicted.into_future()).unwrap_err().kind(), ErrorKind::Conflict);
    store.faults().stop();
    assert_eq!(outside("get", entry.get()).unwrap_err().kind(), ErrorKind::Unavailable);
}
