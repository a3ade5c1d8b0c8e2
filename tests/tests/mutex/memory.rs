//! Contenders on the memory store with paused time and the store's own faults. The same seed
//! repeats the same run.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_typed::store::memory::{Calls, Faults, MemoryStore};
use etcd_typed::{Client, ErrorKind};
use fastrand::Rng;
use tokio::time::{Instant, sleep, timeout};

use super::check::{Evidence, Figures, Violation, check};
use super::contender::{Contenders, directory};
use super::ground::{history, read};
use super::record::{Behaviour, Event, Log, Places, nanoseconds};
use super::{from_env, locks, show};

const CLIENTS: usize = 3;

/// How long faults are injected. `LIMIT` is the longest wait after the last fault. Both are
/// measured by the paused clock.
const TIME: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(60);

/// Runs one campaign from a seed.
async fn contend(seed: u64, behaviour: Behaviour, shared_leases: bool) -> (Figures, Vec<Violation>) {
    // The library takes its random numbers from the same seed.
    fastrand::seed(seed);
    START.set(Some(Instant::now()));
    let mut rng = Rng::with_seed(seed);
    let store = MemoryStore::new();
    store.keep_history(usize::MAX);
    let locks = Arc::new(locks(&[("long", 5), ("short", 2)]));
    let finish = Arc::new(AtomicBool::new(false));
    let heap = Heap::default();
    let log = Arc::new(Log::new(heap.clone(), tokio_time));
    let _places = tracing::subscriber::set_default(Places(log.clone()));
    let mut all = Vec::new();
    for process in 0..CLIENTS {
        let client = Client::with_store(store.clone());
        let contenders = Contenders {
            process,
            client,
            log: log.clone(),
            locks: locks.clone(),
            behaviour,
            lease: shared_leases.then(Arc::default),
            finish: finish.clone(),
        };
        all.push(tokio::spawn(contenders.run(3, rng.u64(..))));
    }
    trouble(&store.faults(), &mut rng).await;
    finish.store(true, Ordering::Relaxed);

    let mut violations = Vec::new();
    for mut contenders in all {
        match timeout(LIMIT, &mut contenders).await {
            Ok(ended) => ended.unwrap(),
            Err(_) => {
                contenders.abort();
                violations.push(Violation::Forgotten { lock: String::new(), queue: Vec::new() });
            }
        }
    }
    // Waits until abandoned locks have expired.
    sleep(TIME).await;
    let client = Client::with_store(store.clone());
    for lock in locks.keys() {
        let queue = client.lock(&directory(lock)).queue().await.unwrap();
        if !queue.is_empty() {
            let queue = queue.iter().map(|holder| holder.key.to_string()).collect();
            violations.push(Violation::Forgotten { lock: lock.clone(), queue });
        }
    }
    let said = [(0, heap.read())].into();
    let history = Some(history(&store).await);
    let (figures, seen) = check(&Evidence { said, history, ..Evidence::default() });
    violations.extend(seen);
    (figures, violations)
}

/// Injects one fault after the other, and removes all of them at the end.
async fn trouble(faults: &Faults, rng: &mut Rng) {
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        let few = rng.usize(1..6);
        let calls = *rng.choice(&[Calls::All, Calls::Commits, Calls::Reads, Calls::Leases, Calls::KeepAlives, Calls::Watches]).unwrap();
        match rng.u32(0..10) {
            0 => faults.fail(calls, few, ErrorKind::Unavailable),
            1 => faults.lose_request(calls, few),
            2 | 3 => faults.lose_reply(calls, few),
            4 => faults.apply_late(few, Duration::from_millis(rng.u64(1..4000))),
            5 => faults.drop_connections(),
            6 => faults.lag_watches(),
            7 => faults.delay(calls, Duration::from_millis(rng.u64(1..2500))),
            8 => {
                faults.stop();
                sleep(Duration::from_millis(rng.u64(1..4000))).await;
                faults.start();
            }
            // All keep-alives are lost, mostly for longer than the short leases live.
            _ => {
                faults.lose_request(Calls::KeepAlives, usize::MAX);
                sleep(Duration::from_millis(rng.u64(1000..6000))).await;
                faults.clear();
            }
        }
        sleep(Duration::from_millis(rng.u64(1..1000))).await;
        if rng.bool() {
            faults.clear();
            // Without a delay the store would answer in zero time, which no real store does.
            faults.delay(Calls::All, Duration::from_millis(1));
        }
    }
    faults.clear();
    faults.delay(Calls::All, Duration::from_millis(1));
}

thread_local! {
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Returns the time since the run on this thread began, in nanoseconds.
fn tokio_time() -> u64 {
    nanoseconds(START.get().unwrap().elapsed())
}

/// A log in memory, in place of a file.
#[derive(Clone, Default)]
struct Heap(Arc<Mutex<Vec<u8>>>);

impl Heap {
    fn read(&self) -> Vec<Event> {
        read(std::str::from_utf8(&self.0.lock().unwrap()).unwrap())
    }
}

impl Write for Heap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn mutual_exclusion_survives_any_fault() {
    survives(false).await;
}

/// All tasks of a process queue with one lease.
#[tokio::test(start_paused = true)]
async fn mutual_exclusion_survives_any_fault_on_shared_leases() {
    survives(true).await;
}

async fn survives(shared_leases: bool) {
    let first = from_env("MUTEX_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let seeds = from_env("MUTEX_SEEDS").unwrap_or(2);
    for seed in first..first + seeds {
        let (figures, violations) = contend(seed, Behaviour::Correct, shared_leases).await;
        show(format_args!("memory, seed {seed}, shared leases {shared_leases}: {figures}; {} violations", violations.len()));
        assert!(violations.is_empty(), "seed {seed}: {:#?}", &violations[..violations.len().min(10)]);
        assert!(figures.grants >= 100, "seed {seed}: {figures}");
    }
}

/// Returns the violations that the checker finds for contenders with this defect.
async fn violations_of(behaviour: Behaviour) -> Vec<Violation> {
    contend(1, behaviour, false).await.1
}

#[tokio::test(start_paused = true)]
async fn checker_detects_unguarded_writes() {
    let seen = violations_of(Behaviour::Unguarded).await;
    assert!(seen.iter().any(|violation| matches!(violation, Violation::NotTheFirst { .. })), "{seen:?}");
    assert!(seen.iter().any(|violation| matches!(violation, Violation::FenceWentBack { .. })), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn checker_detects_holder_that_trusts_keep_alive() {
    let seen = violations_of(Behaviour::TrustsKeepAlive).await;
    assert!(seen.iter().any(|violation| matches!(violation, Violation::HeldTwice { .. })), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn checker_detects_lease_trusted_too_long() {
    let seen = violations_of(Behaviour::TrustsTooLong).await;
    assert!(seen.iter().any(|violation| matches!(violation, Violation::HeldTwice { .. })), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn checker_detects_lock_taken_without_recheck() {
    let seen = violations_of(Behaviour::SkipsCheck).await;
    assert!(seen.iter().any(|violation| matches!(violation, Violation::NotTheFirst { .. })), "{seen:?}");
    assert!(seen.iter().any(|violation| matches!(violation, Violation::HeldTwice { .. })), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn checker_detects_waiter_that_never_acquires() {
    let seen = violations_of(Behaviour::NeverContinues).await;
    assert!(seen.iter().any(|violation| matches!(violation, Violation::Forgotten { .. })), "{seen:?}");
}
