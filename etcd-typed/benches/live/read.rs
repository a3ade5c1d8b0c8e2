//! Measures what a read costs.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use etcd_typed::{Client, EtcdSchema, Live};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::{Effort, median};

/// The number of reads between two reads of the clock. Reading the clock costs as much as some dozen
/// reads of the fastest kind.
const BATCH: u32 = 4_000;
/// The number of reads between two increments of the counter that shows the other thread that this
/// thread is running.
const STEP: u32 = 500;
/// The number of valid batches that a measurement needs. On a shared machine, two threads often do not
/// run at the same time. So a batch of one of two threads is valid only if the other thread made half
/// to twice as many steps in the same time.
const WANTED: usize = 20;
/// The maximum duration of a measurement, as a multiple of its planned duration. A measurement
/// without enough valid batches then ends.
const PATIENCE: u32 = 20;
/// The pause between two writes of the writer.
const PERIOD: Duration = Duration::from_millis(1);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Config {
    #[etcd(default = 100)]
    rate_limit: u32,
    #[etcd(default = 200)]
    burst: u32,
    banner: Option<String>,
}

static PLAIN: Config = Config { rate_limit: 100, burst: 200, banner: None };
static ONCE: OnceLock<Config> = OnceLock::new();

/// A way to read the same field of the same struct.
struct Peer {
    name: &'static str,
    /// Creates the function with which one thread reads.
    reads: Box<dyn Fn() -> Timed>,
}

/// Reads for this duration, while another thread may read too, and returns the nanoseconds of one
/// read. The arguments are the duration, the steps of this thread, and those of the other thread.
type Timed = Box<dyn FnMut(Duration, &Steps, Option<&Steps>) -> f64 + Send>;

/// The number of steps that a thread has made. Aligned, so that no other data is on the same cache
/// line.
#[repr(align(128))]
#[derive(Default)]
struct Steps(AtomicU32);

impl Peer {
    fn new<R: FnMut() -> u32 + Send + 'static>(name: &'static str, reader: impl Fn() -> R + 'static) -> Self {
        Self { name, reads: Box::new(move || timed(reader())) }
    }
}

/// Creates the function that measures one kind of read. `timed` is generic, so that the read is
/// inlined into the loop. The function returns the median of the batches, so that an interrupted
/// batch does not count.
fn timed(mut read: impl FnMut() -> u32 + Send + 'static) -> Timed {
    Box::new(move |duration, own, other| {
        let steps_of_other = || other.map_or(u32::MAX, |other| other.0.load(Ordering::Relaxed));
        let began = Instant::now();
        let mut batches = Vec::with_capacity(4_096);
        loop {
            let (before, start) = (steps_of_other(), Instant::now());
            for _ in 0..BATCH / STEP {
                for _ in 0..STEP {
                    black_box(read());
                }
                own.0.fetch_add(1, Ordering::Relaxed);
            }
            let (after, end) = (steps_of_other(), Instant::now());
            if other.is_none() || (BATCH / STEP / 2..=BATCH / STEP * 2).contains(&(after - before)) {
                batches.push((end - start).as_secs_f64() * 1e9 / f64::from(BATCH));
            }
            let passed = end - began;
            if passed >= duration && batches.len() >= WANTED || passed >= duration * PATIENCE {
                return median(batches);
            }
        }
    })
}

/// All values that are read, and the handles that write them.
struct Bench {
    runtime: Runtime,
    dir: ConfigDir,
    live: Live<Config>,
    swap: Arc<ArcSwap<Config>>,
    watch: watch::Sender<Config>,
    lock: Arc<RwLock<Arc<Config>>>,
}

impl Bench {
    fn new() -> Self {
        ONCE.get_or_init(|| PLAIN.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (dir, live) = runtime.block_on(async {
            let client = Client::connect("memory:").await.unwrap();
            let dir = client.dir::<Config>("/app").unwrap();
            let live = dir.live().await.unwrap();
            (dir, live)
        });
        let swap = Arc::new(ArcSwap::from_pointee(PLAIN.clone()));
        let lock = Arc::new(RwLock::new(Arc::new(PLAIN.clone())));
        Self { runtime, dir, live, swap, watch: watch::Sender::new(PLAIN.clone()), lock }
    }

    fn peers(&self) -> Vec<Peer> {
        let (live, reader, swap, cached, full) =
            (self.live.clone(), self.live.clone(), self.swap.clone(), self.swap.clone(), self.swap.clone());
        let (watched, lock) = (self.watch.subscribe(), self.lock.clone());
        vec![
            Peer::new("plain static", || || black_box(&PLAIN).rate_limit),
            Peer::new("OnceLock", || || black_box(&ONCE).get().unwrap().rate_limit),
            Peer::new("live.reader().get()", move || {
                let mut reader = reader.reader();
                move || reader.get().rate_limit
            }),
            Peer::new("arc-swap Cache::load", move || {
                let mut cache = Cache::new(cached.clone());
                move || cache.load().rate_limit
            }),
            Peer::new("live.get()", move || {
                let live = live.clone();
                move || live.get().rate_limit
            }),
            Peer::new("arc-swap load", move || {
                let swap = swap.clone();
                move || swap.load().rate_limit
            }),
            Peer::new("arc-swap load_full", move || {
                let swap = full.clone();
                move || swap.load_full().rate_limit
            }),
            Peer::new("tokio watch borrow", move || {
                let watched = watched.clone();
                move || watched.borrow().rate_limit
            }),
            Peer::new("RwLock<Arc> read, clone", move || {
                let lock = lock.clone();
                move || {
                    let config = lock.read().unwrap().clone();
                    config.rate_limit
                }
            }),
        ]
    }

    /// Writes to all values until `stop` is set; to the live view through the store. Counts the writes
    /// in `writes`.
    fn write(&self, stop: &AtomicBool, writes: &AtomicU64) {
        for limit in (0..1_000).cycle() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            self.runtime.block_on(self.dir.rate_limit.set(&limit).into_future()).unwrap();
            let config = Config { rate_limit: limit, ..PLAIN.clone() };
            self.swap.store(Arc::new(config.clone()));
            *self.lock.write().unwrap() = Arc::new(config.clone());
            self.watch.send_replace(config);
            writes.fetch_add(1, Ordering::Relaxed);
            thread::sleep(PERIOD);
        }
    }
}

/// Returns the duration of a read in nanoseconds, on one thread or on two threads at the same time.
fn measure(peer: &Peer, threads: usize, duration: Duration) -> f64 {
    if threads == 1 {
        return (peer.reads)()(duration, &Steps::default(), None);
    }
    let readers = [(peer.reads)(), (peer.reads)()];
    let steps = [Steps::default(), Steps::default()];
    let [first, second] = &steps;
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let both = readers.into_iter().zip([(first, second), (second, first)]).map(|(mut read, (own, other))| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                read(duration, own, Some(other))
            })
        });
        let both: Vec<_> = both.collect();
        both.into_iter().map(|thread| thread.join().unwrap()).sum::<f64>() / 2.0
    })
}

/// The allocations of a batch of reads on this thread.
fn allocations(peer: &Peer) -> u64 {
    let (mut read, steps) = ((peer.reads)(), Steps::default());
    // The first read of a thread may allocate thread-local data.
    read(Duration::ZERO, &steps, None);
    allocation_counter::measure(|| _ = black_box(read(Duration::ZERO, &steps, None))).count_total
}

pub(crate) fn run(effort: &Effort) {
    let bench = Bench::new();
    let peers = bench.peers();
    let nothing = Peer::new("nothing", || || 0);
    for peer in &peers {
        // The timing itself allocates the same for all peers.
        assert_eq!(allocations(peer), allocations(&nothing), "{}: {BATCH} reads", peer.name);
    }

    // For each peer: one thread without and with a writer, then two threads without and with a writer.
    let mut measured = vec![[const { Vec::new() }; 4]; peers.len()];
    let writes = AtomicU64::new(0);
    let mut writing = Duration::ZERO;
    for _ in 0..effort.rounds {
        for written in [false, true] {
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let began = Instant::now();
                if written {
                    scope.spawn(|| bench.write(&stop, &writes));
                }
                for (peer, measured) in peers.iter().zip(&mut measured) {
                    for threads in [1, 2] {
                        measured[(threads - 1) * 2 + usize::from(written)].push(measure(peer, threads, effort.reading));
                    }
                }
                if written {
                    writing += began.elapsed();
                }
                stop.store(true, Ordering::Relaxed);
            });
        }
    }

    let rate = writes.load(Ordering::Relaxed) as f64 / writing.as_secs_f64();
    println!(
        "ns for a read of one field (times that of a plain static), median of {} rounds; the writer writes {rate:.0} times a second",
        effort.rounds
    );
    println!("no read allocates");
    println!(
        "| {:<23} | {:>15} | {:>15} | {:>15} | {:>15} | {:>13} |",
        "", "1 thread", "and a writer", "2 threads", "and a writer", "2 threads / 1"
    );
    println!("|{}|{}|{}|", "-".repeat(25), vec!["-".repeat(17); 4].join("|"), "-".repeat(15));
    let medians: Vec<[f64; 4]> = measured.into_iter().map(|each| each.map(median)).collect();
    for (peer, each) in peers.iter().zip(&medians) {
        let [one, one_written, two, two_written] = [0, 1, 2, 3].map(|at| format!("{:.1} ({:.1})", each[at], each[at] / medians[0][at]));
        println!("| {:<23} | {one:>15} | {one_written:>15} | {two:>15} | {two_written:>15} | {:>13.1} |", peer.name, each[2] / each[0]);
    }
    println!();
}
