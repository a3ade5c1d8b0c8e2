//! Read-modify-writes that compete with each other and with a writer that never stops: none fails,
//! and each needs few attempts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, ErrorKind, EtcdSchema};
use tokio::task::JoinHandle;
use tokio::time::sleep;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Counters {
    /// The field that the modifiers increment.
    ours: u32,
    /// The field that the writer sets all the time.
    theirs: u32,
}

/// How a modifier increments a field.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `modify` of the key that the writer sets.
    Modify,
    /// `update` of the struct; the writer sets another field.
    Update,
    /// `update` of the field that the writer sets, for stores without transactions.
    UpdateField,
    /// A transaction that is repeated with the value that the conflict reports.
    Transaction,
}

/// Sets a key repeatedly until `stop`.
fn writer(client: &Client, interval: Duration, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (entry, stop) = (client.entry::<u32>("/counters/theirs").unwrap(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n = (n + 1) % 1000;
            entry.set(&n).await.unwrap();
            // A varying interval, so that the writer and the modifiers do not run in step.
            sleep(interval.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        }
    })
}

/// Increments a field `times` times and adds the number of attempts to `attempts`.
async fn modifier(client: Client, way: Way, times: u32, attempts: Arc<AtomicU32>) {
    let dir = client.dir::<Counters>("/counters").unwrap();
    let once = || {
        attempts.fetch_add(1, Ordering::Relaxed);
    };
    for _ in 0..times {
        match way {
            Way::Modify => {
                let up = |n: Option<u32>| {
                    once();
                    n.map(|n| n + 1000)
                };
                dir.theirs.modify(up).await.map(drop)
            }
            Way::Update => {
                let up = |counters: &mut Counters| {
                    once();
                    counters.ours += 1;
                };
                dir.update(up).await.map(drop)
            }
            Way::UpdateField => {
                let up = |counters: &mut Counters| {
                    once();
                    counters.theirs += 1000;
                };
                dir.update(up).changed_fields_only().await.map(drop)
            }
            Way::Transaction => {
                let mut seen = dir.get().await.unwrap();
                loop {
                    once();
                    let write = client.transaction().expect_unchanged(&dir, &seen).write(dir.ours.set(&(seen.ours + 1)));
                    match write.await {
                        Ok(_) => break Ok(()),
                        Err(error) => seen = error.current::<Counters>().expect("the conflict reports the current value").clone(),
                    }
                }
            }
        }
        .unwrap_or_else(|error| panic!("{way:?}: {error:?}"));
    }
}

/// Runs two modifiers and a writer. Returns the modifiers' average number of attempts per success.
async fn attempts_of_two(client: &Client, way: Way, interval: Duration, times: u32) -> f64 {
    client.dir::<Counters>("/counters").unwrap().set(&Counters { ours: 0, theirs: 0 }).non_atomic().await.unwrap();
    let (stop, attempts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let writer = writer(client, interval, &stop);
    let modifiers = [0, 1].map(|_| tokio::spawn(modifier(client.clone(), way, times, Arc::clone(&attempts))));
    for modifier in modifiers {
        modifier.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    f64::from(attempts.load(Ordering::Relaxed)) / f64::from(2 * times)
}

const INTERVALS: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(5), Duration::from_millis(20)];

/// Each request takes 1 ms of paused time, so that the result depends on nothing else.
#[tokio::test(start_paused = true)]
async fn read_modify_writes_need_few_attempts_in_memory() {
    for way in [Way::Modify, Way::Update, Way::UpdateField, Way::Transaction] {
        for interval in INTERVALS {
            let store = MemoryStore::new();
            store.faults().delay(Calls::All, Duration::from_millis(1));
            let each = attempts_of_two(&Client::with_store(store), way, interval, 300).await;
            assert!(each <= 3.0, "{way:?} beside a writer each {interval:?}: {each} attempts");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_modify_writes_need_few_attempts_on_v3() {
    let etcd = Etcd::start().await;
    let client = Client::connect(&etcd.url_v3()).await.unwrap();
    for way in [Way::Modify, Way::Update, Way::UpdateField, Way::Transaction] {
        for interval in INTERVALS {
            let each = attempts_of_two(&client, way, interval, 100).await;
            assert!(each <= 3.0, "{way:?} beside a writer each {interval:?}: {each} attempts");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_modify_writes_need_few_attempts_on_v2() {
    let etcd = Etcd::start().await;
    let client = Client::connect(&etcd.url_v2()).await.unwrap();
    for way in [Way::Modify, Way::UpdateField] {
        for interval in INTERVALS {
            let each = attempts_of_two(&client, way, interval, 100).await;
            assert!(each <= 3.0, "{way:?} beside a writer each {interval:?}: {each} attempts");
        }
    }
}

/// A modify of a published value keeps the value's lease. The publisher's next `set` then conflicts
/// with the modified value.
#[tokio::test(start_paused = true)]
async fn publisher_succeeds_beside_steady_modifier_in_memory() {
    let store = MemoryStore::new();
    store.faults().delay(Calls::All, Duration::from_millis(1));
    let client = Client::with_store(store);
    let entry = client.entry::<u32>("/published").unwrap();
    for interval in INTERVALS {
        let published = entry.publish(&0).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let modifier = {
            let (entry, stop) = (entry.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    entry.modify(|n| n.map(|n| n + 1000)).await.unwrap();
                    sleep(interval.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                }
            })
        };
        let mut refused = 0;
        for n in 1..=200 {
            if let Err(error) = published.set(&n).await {
                assert_eq!(error.kind(), ErrorKind::Conflict);
                refused += 1;
            }
        }
        assert!(refused <= 2, "{refused} of 200 beside a modifier each {interval:?}");
        stop.store(true, Ordering::Relaxed);
        modifier.await.unwrap();
        published.withdraw().await.unwrap();
    }
}
