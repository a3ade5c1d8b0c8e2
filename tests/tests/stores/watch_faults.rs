//! A watcher connects through a proxy, and a writer connects directly. The server is killed and
//! restarted, and the watcher's connections are cut, again and again. The watcher must see exactly
//! the writer's history, in order, each change once, without a resync. (For v2, see
//! `v2_store/v2/faults.rs`.)

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use etcd_typed::testing::{Etcd, Proxy};
use etcd_typed::{Client, Entry, EtcdSchema, Expect, Revision};
use etcd_typed_tests::checks::{Counted, Told, whole};
use tokio::task::JoinHandle;

/// Writes the figures of a run to standard error without the test harness, which would hide the
/// output of a passing test.
macro_rules! show {
    ($($figures:tt)*) => {{
        let mut log = std::io::stderr();
        writeln!(log, $($figures)*).unwrap()
    }};
}

/// Two keys that are always written together, with the same number.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/pair", change(Clone, PartialEq))]
struct Pair {
    #[etcd(default)]
    left: u64,
    #[etcd(default)]
    right: u64,
}

/// How often the server is killed, and how often the watcher's connections are cut.
struct Faults {
    kills: u64,
    cuts: u64,
}

const WAIT: Duration = Duration::from_secs(60);

/// Starts a task that writes 1, 2, 3, … until `stop` is set, and returns the last number. After a
/// write with an unknown outcome, the task reads the counter. `write` must not write a number
/// twice.
fn writer(
    client: Client,
    write: fn(Client, u64) -> Writing,
    counter: Entry<u64>,
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut next = 1;
        while !stop.load(Ordering::Relaxed) {
            let done = match write(client.clone(), next).await {
                Ok(_) => true,
                Err(error) if error.may_have_applied() => read_until_answered(&counter).await == Some(next),
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    false
                }
            };
            if done {
                written.store(next, Ordering::Relaxed);
                next += 1;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        next - 1
    })
}

type Writing = std::pin::Pin<Box<dyn Future<Output = etcd_typed::Result<Revision>> + Send>>;

/// Returns the condition of a write: the counter has the previous number. A member that is about to
/// lose its leadership may apply a write late, when the writer has already read the counter and
/// repeated the write. The condition makes the second of these two attempts fail.
fn after(before: &u64) -> Expect<'_, u64> {
    if *before == 0 { Expect::Absent } else { Expect::value(before) }
}

/// Treats a conflict as success if the counter already has this number, because then an earlier
/// attempt wrote the number.
fn once(n: u64, outcome: etcd_typed::Result<Revision>) -> etcd_typed::Result<Revision> {
    match outcome {
        Err(error) if error.current::<u64>().is_some_and(|now| **now == n) => Ok(Revision::ZERO),
        other => other,
    }
}

async fn read_until_answered(counter: &Entry<u64>) -> Option<u64> {
    loop {
        match counter.get().await {
            Ok(value) => return value.map(etcd_typed::Versioned::into_inner),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
}

/// Cuts the connections and kills the server in turn. After each fault the writer must make
/// progress before the next fault.
async fn torment(etcd: &mut Etcd, proxy: &Proxy, faults: &Faults, written: &AtomicU64) {
    let progress = async |more: u64| {
        let goal = written.load(Ordering::Relaxed) + more;
        while written.load(Ordering::Relaxed) < goal {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    for round in 0..faults.kills.max(faults.cuts) {
        if round < faults.cuts {
            proxy.cut();
            tokio::time::timeout(WAIT, progress(10)).await.expect("the writer makes progress after a cut");
        }
        if round < faults.kills {
            etcd.kill().await;
            etcd.restart().await;
            tokio::time::timeout(WAIT, progress(10)).await.expect("the writer makes progress after a restart");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_watcher_sees_whole_history_despite_kills() {
    v3_watcher_sees_whole_history(&Faults { kills: 50, cuts: 50 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn v3_watcher_sees_whole_history_despite_cuts() {
    v3_watcher_sees_whole_history(&Faults { kills: 0, cuts: 50 }).await;
}

async fn v3_watcher_sees_whole_history(faults: &Faults) {
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.endpoint()).await;
    let direct = Client::connect(&etcd.url_v3()).await.unwrap();
    let watching = Client::connect(&format!("etcd://{}", proxy.addr())).await.unwrap();

    let pair = PairDir::open(&watching).unwrap();
    let mut changes = pair.watch().await.unwrap();
    let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let write = |client: Client, n: u64| -> Writing {
        Box::pin(async move {
            let pair = PairDir::open(&client)?;
            let before = n - 1;
            once(n, client.transaction().expect(&pair.left, after(&before)).write(pair.left.set(&n)).write(pair.right.set(&n)).await)
        })
    };
    let counter = PairDir::open(&direct).unwrap().left.clone();
    let writer = writer(direct, write, counter, written.clone(), stop.clone());
    let watcher = tokio::spawn(async move {
        let mut counted = Counted::default();
        // The writer writes zero at the end.
        while let Some(update) = changes.next().await {
            let update = update.unwrap();
            let [PairChange::Left(left), PairChange::Right(right)] = &update.changes[..] else { panic!("half a revision: {update:?}") };
            whole(left.new, right.new).and(whole(left.old, right.old)).unwrap();
            if left.new == Some(0) {
                assert!(!update.resynced && update.revision.get() > counted.revision(), "{update:?}");
                break;
            }
            let told = Told { revision: update.revision.get(), resynced: update.resynced, old: left.old, new: left.new };
            counted.tell(told).unwrap_or_else(|violation| panic!("{violation}: {update:?}"));
        }
        (counted.last, counted.told)
    });
    torment(&mut etcd, &proxy, faults, &written).await;
    stop.store(true, Ordering::Relaxed);
    let total = writer.await.unwrap();
    let direct = Client::connect(&etcd.url_v3()).await.unwrap();
    PairDir::open(&direct).unwrap().set(&Pair { left: 0, right: 0 }).await.unwrap();
    let (last, seen) = tokio::time::timeout(WAIT, watcher).await.expect("the watcher catches up").unwrap();
    show!("v3: {} kills, {} cuts, {total} transactions written, {seen} seen, last {last}", faults.kills, faults.cuts);
    assert_eq!((last, seen), (total, total));
}

/// The watcher knows the addresses of all three members of a cluster. The members are killed and
/// restarted, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watcher_survives_kills_of_every_member() {
    let mut cluster = Etcd::cluster(3).await;
    let client = Client::connect(&cluster.url_v3()).await.unwrap();
    let watching = Client::connect(&cluster.url_v3()).await.unwrap();
    let mut changes = watching.entry::<u64>("/counter").unwrap().watch().await.unwrap();
    let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let write = |client: Client, n: u64| -> Writing {
        Box::pin(async move {
            let counter = client.entry::<u64>("/counter")?;
            let before = n - 1;
            once(n, counter.compare_and_swap(after(&before), &n).await)
        })
    };
    let counter = client.entry::<u64>("/counter").unwrap();
    let writer = writer(client.clone(), write, counter.clone(), written.clone(), stop.clone());
    let watcher = tokio::spawn(async move {
        let mut counted = Counted::default();
        while let Some(change) = changes.next().await {
            let change = change.unwrap();
            if change.new == Some(0) {
                assert!(!change.resynced, "{change:?}");
                break;
            }
            let told = Told { revision: change.revision.get(), resynced: change.resynced, old: change.old, new: change.new };
            counted.tell(told).unwrap_or_else(|violation| panic!("{violation}: {change:?}"));
        }
        counted.last
    });
    for round in 0..6 {
        let member = cluster.member(round % 3);
        member.kill().await;
        let goal = written.load(Ordering::Relaxed) + 5;
        let progress = async {
            while written.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT, progress).await.expect("two of three members are a quorum");
        member.restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    let total = writer.await.unwrap();
    counter.set(&0).await.unwrap();
    let last = tokio::time::timeout(WAIT, watcher).await.expect("the watcher catches up").unwrap();
    show!("cluster: 6 members killed, {total} values written, last seen {last}");
    assert_eq!(last, total);
}
