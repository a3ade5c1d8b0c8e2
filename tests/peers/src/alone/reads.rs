//! The time to read a field of the current configuration, on one thread and on two threads at once.
//! Nothing is written meanwhile.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use etcd_typed::{Client, EtcdSchema, Live};
use tokio::sync::watch;

use super::Alone;
use crate::cases::{Better, Bound, Column, Goal, Table, median};
use crate::page::Row;
use crate::{Result, progress};

const OURS_GET: &str = "etcd-typed, live.get()";
const OURS_READER: &str = "etcd-typed, live.reader()";
const CONFIG: &str = "config, get";
const PEERS: &[&str] =
    &[OURS_GET, OURS_READER, "arc-swap, load", "arc-swap, Cache", "std, RwLock of an Arc, read and clone", "tokio, watch, borrow", CONFIG];

/// The number of steps in a batch. A thread reads the clock once for each batch, and counts each
/// step where the other thread can read the count.
const STEPS: u32 = 8;
/// The number of reads in a step.
const READS: u32 = 500;
/// Two threads count as running at the same time if neither makes more than this many times as many
/// steps as the other.
const UNFAIR: u32 = 4;
/// The time for which a peer is measured in each round, on one thread and on two.
const EACH: Duration = Duration::from_millis(60);
/// A measurement may take at most `PATIENCE * EACH`. On a busy machine the two threads do not
/// always run at the same time, so a measurement may need more time than `EACH` to get enough
/// batches.
const PATIENCE: u32 = 100;
/// The number of batches that a measurement needs.
const ENOUGH: usize = 20;

const RATE_LIMIT: u32 = 100;

#[derive(EtcdSchema, Clone, Debug)]
struct Settings {
    #[etcd(default = RATE_LIMIT)]
    rate_limit: u32,
    #[etcd(default = 16)]
    pool: u64,
    banner: Option<String>,
}

pub(super) fn reads() -> Alone {
    let column = |title: &str| Column { title: title.to_owned(), better: Better::Lower };
    let count = |who, column, count| Goal { who, column, bound: Bound::Count(count) };
    let table = Table {
        title: "live reads in memory: one field of the current value".to_owned(),
        columns: ["ns on 1 thread", "ns on 2 threads", "2 threads / 1 thread"].map(column).into(),
        baseline: CONFIG,
        goals: vec![
            count(OURS_GET, "ns on 1", 20.0),
            count(OURS_GET, "2 threads", 2.0),
            count(OURS_READER, "ns on 1", 2.0),
            count(OURS_READER, "ns on 2", 2.0),
            count(OURS_READER, "2 threads", 2.0),
        ],
    };
    Alone { table, peers: PEERS, measure, long: false }
}

fn measure(rounds: usize) -> Result<Vec<Row>> {
    // The view's tasks run on this runtime, because the caller's runtime must not be blocked.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let live = runtime.block_on(async { Client::connect("memory:").await?.dir::<Settings>("/app")?.live().await })?;
    let peers = peers(&live)?;
    let mut rows: Vec<Row> = PEERS.iter().map(|peer| Row { peer, rounds: Vec::new() }).collect();
    for round in 0..rounds {
        let mut order: Vec<_> = peers.iter().zip(&mut rows).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (peer, row) in order {
            let (one, two) = (on_one_thread(peer)?, on_two_threads(peer)?);
            progress(format_args!("live reads, round {}, {}: {one:.2}", round + 1, row.peer));
            row.rounds.push(vec![one, two, two / one]);
        }
    }
    Ok(rows)
}

/// A function that creates the function with which a thread reads.
type Peer = Box<dyn Fn() -> Reading>;
/// Reads repeatedly, at the same time as another thread if there is one, and returns the
/// nanoseconds of one read.
type Reading = Box<dyn FnMut(&Thread, Option<&Thread>) -> Result<f64> + Send>;

/// The state that one thread shows the other, on a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Thread {
    /// The steps that the thread has made.
    steps: AtomicU32,
    /// Whether the thread has been measured. The thread continues to read until the other thread
    /// has been measured too.
    measured: AtomicBool,
}

/// Returns the peers, in the order of `PEERS`.
fn peers(live: &Live<Settings>) -> Result<Vec<Peer>> {
    let settings = Settings::clone(&live.get());
    let shared = Arc::new(ArcSwap::from_pointee(settings.clone()));
    let lock = Arc::new(RwLock::new(Arc::new(settings.clone())));
    let (_, watched) = watch::channel(settings);
    let config = config::Config::builder().set_default("rate_limit", RATE_LIMIT)?.set_default("pool", 16)?.build()?;
    let (got, read, cached) = (live.clone(), live.clone(), shared.clone());
    Ok(vec![
        peer(move || {
            let live = got.clone();
            move || live.get().rate_limit
        }),
        peer(move || {
            let mut reader = read.reader();
            move || reader.get().rate_limit
        }),
        peer(move || {
            let shared = shared.clone();
            move || shared.load().rate_limit
        }),
        peer(move || {
            let mut cache = Cache::new(cached.clone());
            move || cache.load().rate_limit
        }),
        peer(move || {
            let lock = lock.clone();
            // No thread panics while it holds the lock.
            move || lock.read().map_or(0, |settings| settings.clone().rate_limit)
        }),
        peer(move || {
            let watched = watched.clone();
            move || watched.borrow().rate_limit
        }),
        peer(move || {
            let config = config.clone();
            move || config.get::<u32>("rate_limit").unwrap_or(0)
        }),
    ])
}

fn peer<R: FnMut() -> u32 + Send + 'static>(reader: impl Fn() -> R + 'static) -> Peer {
    Box::new(move || reading(reader()))
}

/// Returns a loop that reads. This function is generic, so that each kind of read is compiled into
/// its own loop.
///
/// The loop returns the median of the batches, so that interrupted batches have no influence. If
/// the two threads hardly ever ran at the same time, the loop returns NaN, and the page shows "not
/// measured".
fn reading(mut read: impl FnMut() -> u32 + Send + 'static) -> Reading {
    Box::new(move |own, other| {
        let steps_of_other = || other.map_or(0, |other| other.steps.load(Ordering::Relaxed));
        let began = Instant::now();
        let mut batches = Vec::new();
        loop {
            let (before, start) = (steps_of_other(), Instant::now());
            let mut right = true;
            for _ in 0..STEPS {
                for _ in 0..READS {
                    right &= black_box(read()) == RATE_LIMIT;
                }
                own.steps.fetch_add(1, Ordering::Relaxed);
            }
            let took = start.elapsed();
            if !right {
                return Err("a read returned a wrong value".into());
            }
            // With two threads, a batch counts only if the other thread read meanwhile and this
            // thread was not interrupted for long.
            if other.is_none() || (STEPS / UNFAIR..=STEPS * UNFAIR).contains(&(steps_of_other() - before)) {
                batches.push(took.as_secs_f64() * 1e9 / f64::from(STEPS * READS));
            }
            let passed = began.elapsed();
            own.measured.fetch_or(passed >= EACH && batches.len() >= ENOUGH, Ordering::Relaxed);
            let all_measured = [Some(own), other].into_iter().flatten().all(|one| one.measured.load(Ordering::Relaxed));
            if all_measured {
                return Ok(median(batches));
            }
            if passed >= EACH * PATIENCE {
                own.measured.store(true, Ordering::Relaxed);
                return Ok(f64::NAN);
            }
        }
    })
}

fn on_one_thread(peer: &Peer) -> Result<f64> {
    peer()(&Thread::default(), None)
}

fn on_two_threads(peer: &Peer) -> Result<f64> {
    let [first, second] = [Thread::default(), Thread::default()];
    let start = Barrier::new(2);
    let both = thread::scope(|scope| {
        let both = [(&first, &second), (&second, &first)].map(|(own, other)| {
            let (mut reading, start) = (peer(), &start);
            scope.spawn(move || {
                start.wait();
                reading(own, Some(other))
            })
        });
        both.map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    });
    let [one, other] = both;
    Ok((one? + other?) / 2.0)
}
