//! Read-modify-writes beside a writer that never stops, and beside each other: how many attempts one success takes, and that none fails.

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
    /// What is modified.
    ours: u32,
    /// What is written all the time.
    theirs: u32,
}

/// How a modifier counts up.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Of the key that is written.
    Modify,
    /// Of the struct, of which another field is written.
    Update,
    /// The same where the store has no transaction: the field that is written.
    UpdateField,
    /// A transaction that the caller repeats with what a conflict showed.
    Transaction,
}

/// Writes a key again and again until it is told to stop.
fn writer(client: &Client, interval: Duration, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (entry, stop) = (client.entry::<u32>("/counters/theirs").unwrap(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n = (n + 1) % 1000;
            entry.set(&n).await.unwrap();
            // As no clock of two machines is the same.
            sleep(interval.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        }
    })
}

/// Counts up so many times; adds the attempts that it took.
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
                    let write = client.transaction().expect_unchanged(&dir, &seen).set(&dir.ours, &(seen.ours + 1));
                    match write.await {
                        Ok(_) => break Ok(()),
                        Err(error) => seen = error.current::<Counters>().expect("a conflict shows what is there").clone(),
                    }
                }
            }
        }
        .unwrap_or_else(|error| panic!("{way:?}: {error:?}"));
    }
}

/// Attempts for each success of two modifiers beside a writer.
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

/// Here every request takes a millisecond, so that the number depends on nothing else.
#[tokio::test(start_paused = true)]
async fn few_attempts_are_enough_beside_a_steady_writer_memory() {
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
async fn few_attempts_are_enough_beside_a_steady_writer_v3() {
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
async fn few_attempts_are_enough_beside_a_steady_writer_v2() {
    let etcd = Etcd::start().await;
    let client = Client::connect(&etcd.url_v2()).await.unwrap();
    for way in [Way::Modify, Way::UpdateField] {
        for interval in INTERVALS {
            let each = attempts_of_two(&client, way, interval, 100).await;
            assert!(each <= 3.0, "{way:?} beside a writer each {interval:?}: {each} attempts");
        }
    }
}

/// Whoever modifies a published value keeps its lease, and so changes what the publisher wants to replace.
#[tokio::test(start_paused = true)]
async fn publisher_prevails_beside_a_steady_modifier() {
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
