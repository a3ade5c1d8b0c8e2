//! A live view under many faults. A writer changes all fields of a struct in each transaction, and
//! two threads read the view as fast as they can. Meanwhile the server is killed, compacted,
//! disconnected and restored from backups. No reader ever sees a state with parts of two
//! transactions.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use etcd_typed::testing::{Etcd, Proxy};
use etcd_typed::{Client, EtcdSchema, Live, Revision, Versioned};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// The number of writes between two faults.
const WRITES: u64 = 10;

/// A struct whose fields can all be computed from the counter. The number of keys varies, since
/// optional fields, entries and regions come and go.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/fire")]
struct Target {
    counter: u64,
    double: u64,
    text: String,
    even: Option<bool>,
    #[etcd(dir)]
    inner: Inner,
    #[etcd(dir)]
    sometimes: Option<Inner>,
    #[etcd(entries)]
    entries: BTreeMap<String, u64>,
    #[etcd(dir)]
    regions: BTreeMap<String, Inner>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Inner {
    next: u64,
    negative: i64,
}

impl Target {
    fn of(counter: u64) -> Self {
        let name = |n: u64| format!("n{n}");
        Self {
            counter,
            double: counter * 2,
            text: counter.to_string(),
            even: counter.is_multiple_of(2).then_some(true),
            inner: Inner::of(counter),
            sometimes: counter.is_multiple_of(3).then(|| Inner::of(counter)),
            entries: (0..counter % 5).map(|n| (name(n), counter + n)).collect(),
            regions: (0..counter % 3).map(|n| (name(n), Inner::of(counter))).collect(),
        }
    }

    /// Returns true if all fields match the counter. Compares without creating another value.
    fn is_whole(&self) -> bool {
        let counter = self.counter;
        let is_inner = |inner: &Inner| (inner.next, inner.negative) == (counter + 1, -counter.cast_signed());
        self.double == counter * 2
            && self.text.parse() == Ok(counter)
            && self.even.is_some() == counter.is_multiple_of(2)
            && is_inner(&self.inner)
            && self.sometimes.is_some() == counter.is_multiple_of(3)
            && self.sometimes.iter().chain(self.regions.values()).all(is_inner)
            && self.regions.len() as u64 == counter % 3
            && self.entries.len() as u64 == counter % 5
            && self.entries.values().zip(counter..).all(|(entry, expected)| *entry == expected)
    }
}

impl Inner {
    fn of(counter: u64) -> Self {
        Self { next: counter + 1, negative: -counter.cast_signed() }
    }
}

/// A writer with a direct connection to the server.
struct Writer {
    /// While a test holds this lock, the writer does not write.
    gate: Mutex<()>,
    written: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

impl Writer {
    async fn write(&self, dir: TargetDir) {
        for counter in 1.. {
            let _turn = self.gate.lock().await;
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            match dir.set(&Target::of(counter)).await {
                Ok(_) => self.written.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    assert!(error.is_retryable() || error.may_have_applied(), "{error}");
                    self.failed.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }

    async fn gets_on(&self) {
        let goal = self.written.load(Ordering::Relaxed) + WRITES;
        let gets_on = async {
            while self.written.load(Ordering::Relaxed) < goal {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(LIMIT, gets_on).await.expect("the writer makes progress");
    }
}

/// What one reader saw.
#[derive(Default)]
struct Sight {
    reads: u64,
    states: u64,
    /// The number of times the revision went back.
    rewinds: u64,
    last: Revision,
}

impl Sight {
    fn look(&mut self, state: &Versioned<Target>) {
        assert!(state.is_whole(), "parts of two transactions: {state:?}");
        self.reads += 1;
        self.states += u64::from(state.revision() != self.last);
        self.rewinds += u64::from(state.revision() < self.last);
        self.last = state.revision();
    }
}

/// Reads in bursts with pauses, so that the server gets processor time.
fn read(stop: &AtomicBool, mut burst: impl FnMut(&mut Sight)) -> Sight {
    let mut sight = Sight::default();
    while !stop.load(Ordering::Relaxed) {
        burst(&mut sight);
        thread::sleep(Duration::from_millis(1));
    }
    sight
}

const BURST: usize = 2000;

#[derive(Debug, Default)]
struct Faults {
    kills: u64,
    cuts: u64,
    compactions: u64,
    restores: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_never_mixes_transactions_despite_kills() {
    let mut etcd = Etcd::start().await;
    let fire = Fire::start(&etcd).await;
    let mut faults = Faults::default();
    for round in 0..12 {
        fire.writer.gets_on().await;
        match round % 3 {
            0 => {
                etcd.kill().await;
                etcd.restart().await;
                faults.kills += 1;
            }
            1 => {
                fire.proxy.cut();
                etcd.compact().await;
                (faults.cuts, faults.compactions) = (faults.cuts + 1, faults.compactions + 1);
            }
            _ => {
                for _ in 0..5 {
                    fire.proxy.cut();
                    sleep(Duration::from_millis(20)).await;
                }
                faults.cuts += 5;
            }
        }
        fire.writer.gets_on().await;
        fire.agrees().await;
    }
    for sight in fire.end(&faults).await {
        assert_eq!(sight.rewinds, 0);
    }
}

/// A backup is restored to a single server. The server is first stopped in an orderly way, because
/// some versions of etcd lose acknowledged writes when a single member is killed (etcd issue
/// 14370).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_never_mixes_transactions_after_restored_backup() {
    let mut etcd = Etcd::start().await;
    let fire = Fire::start(&etcd).await;
    let mut faults = Faults::default();
    for round in 0..3 {
        fire.writer.gets_on().await;
        let backup = Backup::take(&mut etcd, &format!("backup-{round}")).await;
        fire.writer.gets_on().await;
        fire.agrees().await;
        fire.proxy.cut();
        etcd.compact().await;
        fire.writer.gets_on().await;
        fire.agrees().await;
        // In the first two rounds, the view sees a server at a lower revision. In the last round,
        // the server may already be ahead again.
        let held = if round < 2 { Some(fire.writer.gate.lock().await) } else { None };
        let (before, rewound) = (fire.live.revision(), fire.live.rewound());
        backup.restore(&mut etcd).await;
        (faults.restores, faults.compactions, faults.cuts) = (faults.restores + 1, faults.compactions + 1, faults.cuts + 1);
        if held.is_some() {
            let told = async {
                while fire.live.rewound() == rewound {
                    sleep(Duration::from_millis(5)).await;
                }
                fire.live.rewound().expect("the view was rewound")
            };
            let rewound = timeout(LIMIT, told).await.expect("the view reports that the revision went back");
            assert!(rewound.to < rewound.from && rewound.from >= before, "{rewound:?} from {before}");
            assert!(fire.live.revision() < before, "{:?}", fire.live);
        }
        drop(held);
        fire.writer.gets_on().await;
        fire.agrees().await;
    }
    for sight in fire.end(&faults).await {
        assert!(sight.rewinds <= faults.restores, "the revision went back {} times", sight.rewinds);
    }
}

/// A view behind a proxy, with its readers and the writer.
struct Fire {
    proxy: Proxy,
    direct: TargetDir,
    live: Live<Target>,
    writer: Arc<Writer>,
    writing: tokio::task::JoinHandle<()>,
    stop: Arc<AtomicBool>,
    readers: [thread::JoinHandle<Sight>; 2],
}

impl Fire {
    async fn start(etcd: &Etcd) -> Self {
        let proxy = Proxy::to(etcd.endpoint()).await;
        let direct = TargetDir::open(&Client::connect(&etcd.url_v3()).await.unwrap()).unwrap();
        let viewing = TargetDir::open(&Client::connect(&format!("etcd://{}", proxy.endpoint())).await.unwrap()).unwrap();
        direct.set(&Target::of(0)).await.unwrap();
        let live = viewing.live().await.unwrap();

        let stop = Arc::new(AtomicBool::new(false));
        let getting = {
            let (live, stop) = (live.clone(), stop.clone());
            thread::spawn(move || read(&stop, |sight| (0..BURST).for_each(|_| sight.look(&live.get()))))
        };
        let reading = {
            let (mut reader, stop) = (live.reader(), stop.clone());
            thread::spawn(move || read(&stop, |sight| (0..BURST).for_each(|_| sight.look(reader.get()))))
        };
        let writer = Writer { gate: Mutex::new(()), written: AtomicU64::new(0), failed: AtomicU64::new(0), stop: AtomicBool::new(false) };
        let writer = Arc::new(writer);
        let writing = {
            let (writer, dir) = (writer.clone(), direct.clone());
            tokio::spawn(async move { writer.write(dir).await })
        };
        Self { proxy, direct, live, writer, writing, stop, readers: [getting, reading] }
    }

    async fn agrees(&self) {
        agrees(&self.live, &self.direct, &self.writer).await;
    }

    /// Ends the writer and the readers, and prints the counts.
    async fn end(self, faults: &Faults) -> [Sight; 2] {
        self.writer.stop.store(true, Ordering::Relaxed);
        timeout(LIMIT, self.writing).await.expect("the writer ends").unwrap();
        self.stop.store(true, Ordering::Relaxed);
        let [getting, reading] = self.readers.map(|reader| reader.join().expect("no reader saw parts of two transactions"));
        // Write to stderr directly, since the test harness hides what a passing test prints.
        let mut log = std::io::stderr();
        writeln!(
            log,
            "live: {} + {} reads of {} and {} states, {} transactions ({} failed), {faults:?}, 0 violations",
            getting.reads,
            reading.reads,
            getting.states,
            reading.states,
            self.writer.written.load(Ordering::Relaxed),
            self.writer.failed.load(Ordering::Relaxed),
        )
        .unwrap();
        assert!(getting.reads.min(reading.reads) > 10_000, "both readers had processor time");
        [getting, reading]
    }
}

/// Keeps the writer from writing, and waits until the view is live and shows what a read returns.
async fn agrees(live: &Live<Target>, dir: &TargetDir, writer: &Writer) {
    let _held = writer.gate.lock().await;
    // A write with an unknown outcome may still be applied.
    let agreed = async {
        loop {
            let read = dir.get().await;
            let state = live.get().into_arc();
            if live.status().is_live() && read.is_ok_and(|read| *read == **state && read.modified() == state.modified()) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(LIMIT, agreed).await.is_err() {
        panic!("{live:?} does not agree with {:?}", dir.get().await);
    }
    let read = dir.get().await.unwrap();
    let reached = timeout(LIMIT, live.wait_for_revision(read.revision())).await.expect("the view reaches the revision").unwrap();
    assert_eq!((&**reached, reached.modified()), (&*read, read.modified()));
}

/// A copy of a server's data. The copy is in the server's folder, so that it is deleted with the
/// folder.
struct Backup(PathBuf);

impl Backup {
    async fn take(etcd: &mut Etcd, name: &str) -> Self {
        let backup = etcd.data_dir().with_file_name(name);
        etcd.terminate().await;
        copy(&etcd.data_dir(), &backup);
        etcd.restart().await;
        Self(backup)
    }

    async fn restore(self, etcd: &mut Etcd) {
        etcd.terminate().await;
        fs::remove_dir_all(etcd.data_dir()).unwrap();
        fs::rename(self.0, etcd.data_dir()).unwrap();
        etcd.restart().await;
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}
