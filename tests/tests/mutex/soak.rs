//! A soak test: clients of a cluster lock, write, watch, view and publish for a quarter of an hour
//! while members and connections fail. `tests/soak/run` runs it.
//!
//! The work of the clients is in `work.rs`, the faults are in `faults.rs`, the counts are in
//! `record.rs`, and the checks are in `etcd_typed_tests::checks`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod faults;
mod record;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_typed::testing::{Cluster, Etcd, Proxy};
use tokio::time::{sleep, timeout};

use self::record::{Memory, Record, show};
use self::work::Work;

const CLIENTS: usize = 3;
/// How long the clients may take to recover after the last fault.
const CALM: Duration = Duration::from_secs(90);

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a quarter of an hour: tests/soak/run"]
async fn soak() {
    let time = Duration::from_secs(from_env("SOAK_SECONDS", 900));
    let seed = from_env("SOAK_SEED", fastrand::u64(..1_000_000));
    let mut cluster = Etcd::cluster(3).await;
    show(format_args!("etcd {}, {time:?}, seed {seed}", cluster.member(0).version()));
    let proxies = proxies(&cluster).await;
    let record = Arc::new(Record::default());
    let work = Work::start(&cluster, &proxies, &record).await;

    let memory = tokio::spawn(Memory::measure(Arc::clone(&record), time));
    faults::trouble(&mut cluster, &proxies, &record, seed, Instant::now() + time).await;
    let memory = memory.await.unwrap();
    show(format_args!("calm: {record}"));
    if timeout(CALM, work.end(&record)).await.is_err() {
        record.violation("the clients did not end in time".to_owned());
    }
    for member in cluster.members() {
        nothing_is_left(member, &record).await;
    }
    show(format_args!("end: {record}"));
    memory.show();
    for violation in record.violations() {
        show(format_args!("VIOLATION {violation}"));
    }
    assert!(record.violations().is_empty(), "seed {seed}");
    assert!(memory.is_flat(), "seed {seed}: {memory:?}");
}

/// Starts the proxies of each client, one for each member.
async fn proxies(cluster: &Cluster) -> Vec<Vec<Proxy>> {
    let mut proxies = Vec::new();
    for _ in 0..CLIENTS {
        let mut row = Vec::new();
        for member in cluster.members() {
            row.push(Proxy::to(member.endpoint()).await);
        }
        proxies.push(row);
    }
    proxies
}

/// Waits until the member has no key, no lease and no watch. A key that is left over is deleted
/// when its lease expires.
async fn nothing_is_left(member: &Etcd, record: &Record) {
    let begun = Instant::now();
    loop {
        // Lists all keys of the store.
        let keys = member.call("/v3/kv/range", r#"{"key": "AA==", "range_end": "AA==", "keys_only": true}"#).await;
        let leases = member.call("/v3/lease/leases", "{}").await;
        let watchers = watchers(member).await;
        let is_clean = !keys.contains("\"kvs\"") && leases.contains("header") && !leases.contains("\"ID\"") && watchers == 0.0;
        if is_clean {
            return show(format_args!("{}: no key, no lease, no watch is left after {:.1?}", member.endpoint(), begun.elapsed()));
        }
        if begun.elapsed() > CALM {
            return record.violation(format!("left on {}: {keys}, {leases}, {watchers} watches", member.endpoint()));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn watchers(member: &Etcd) -> f64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = tokio::net::TcpStream::connect(member.endpoint()).await.unwrap();
    connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    connection.read_to_string(&mut page).await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total ")).expect("the server has this metric");
    line.parse().unwrap()
}
