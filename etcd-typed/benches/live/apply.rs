//! Measures what a change of one key costs a view, from the write to the new state, by the number of
//! entries.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use etcd_typed::{Client, Entry, EtcdSchema, Live};
use tokio::runtime::Runtime;

use crate::{Effort, median};

/// The limit for the ratio of allocations per change between the largest and the smallest map. If a
/// change copied the map, the ratio would be over a hundred.
const ALLOCATIONS: f64 = 5.0;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Quotas {
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Region {
    replicas: u64,
    name: String,
}

/// A view of a separate store, and the entry that the benchmark changes.
struct Bench {
    kind: &'static str,
    size: u32,
    entry: Entry<u64>,
    view: Box<dyn Following>,
    next: u64,
}

trait Following {
    /// Waits for a newer state.
    fn follow(&mut self, runtime: &Runtime);
}

impl<T: Send + Sync + 'static> Following for Live<T> {
    fn follow(&mut self, runtime: &Runtime) {
        black_box(runtime.block_on(self.changed()).unwrap());
    }
}

/// No view follows, so that only the write is measured.
struct Nobody;

impl Following for Nobody {
    fn follow(&mut self, _: &Runtime) {}
}

impl Bench {
    /// One benchmark of each kind for maps of this size. The first one is the write without a view.
    async fn all(size: u32) -> [Self; 4] {
        let names = || (0..size).map(|n| format!("customer-{n:06}"));
        let changed = format!("customer-{:06}", size / 2);
        let values: BTreeMap<_, _> = names().map(|name| (name, 7)).collect();
        let mut benches = Vec::new();
        for kind in ["the write alone", "EntryMap"] {
            let map = Client::connect("memory:").await.unwrap().entries::<String, u64>("/quotas").unwrap();
            map.set(&values).non_atomic().await.unwrap();
            let view: Box<dyn Following> = if kind == "EntryMap" { Box::new(map.live().await.unwrap()) } else { Box::new(Nobody) };
            benches.push(Self { kind, size, entry: map.entry(&changed).unwrap(), view, next: 0 });
        }

        let dirs = Client::connect("memory:").await.unwrap().dirs::<String, Region>("/regions").unwrap();
        let regions = names().map(|name| (name.clone(), Region { replicas: 7, name })).collect();
        dirs.set(&regions).non_atomic().await.unwrap();
        let entry = dirs.dir(&changed).unwrap().replicas.clone();
        let dirs = Self { kind: "DirMap", size, entry, view: Box::new(dirs.live().await.unwrap()), next: 0 };

        let dir = Client::connect("memory:").await.unwrap().dir::<Quotas>("/app").unwrap();
        dir.set(&Quotas { quotas: values }).non_atomic().await.unwrap();
        let entry = dir.quotas.entry(&changed).unwrap();
        let dir = Self { kind: "Dir with a BTreeMap", size, entry, view: Box::new(dir.live().await.unwrap()), next: 0 };

        let [alone, entries] = benches.try_into().ok().expect("two were made");
        [alone, entries, dirs, dir]
    }

    /// Makes one change, and waits until the view shows it.
    fn change(&mut self, runtime: &Runtime) {
        self.next += 1;
        runtime.block_on(self.entry.set(&self.next).into_future()).unwrap();
        self.view.follow(runtime);
    }

    /// The median time of a change, in microseconds.
    fn measure(&mut self, runtime: &Runtime, duration: Duration) -> f64 {
        let began = Instant::now();
        let mut each = Vec::new();
        while each.len() < 3 || began.elapsed() < duration {
            let start = Instant::now();
            self.change(runtime);
            each.push(start.elapsed().as_secs_f64() * 1e6);
        }
        median(each)
    }

    /// The median number of allocations of a change. The runtime has only this thread, so that no
    /// allocation is missed.
    fn allocations(&mut self, runtime: &Runtime) -> f64 {
        let counts = (0..15).map(|_| allocation_counter::measure(|| self.change(runtime)).count_total as f64);
        median(counts.collect())
    }
}

pub(crate) fn run(effort: &Effort) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut benches: Vec<_> = effort.sizes.iter().flat_map(|size| runtime.block_on(Bench::all(*size))).collect();
    let mut measured = vec![Vec::new(); benches.len()];
    for _ in 0..effort.rounds {
        for (bench, measured) in benches.iter_mut().zip(&mut measured) {
            measured.push(bench.measure(&runtime, effort.applying));
        }
    }
    let medians: Vec<f64> = measured.into_iter().map(median).collect();
    let allocations: Vec<f64> = benches.iter_mut().map(|bench| bench.allocations(&runtime)).collect();

    println!("µs (allocations) from the write of one key to the state that has it, median of {} rounds", effort.rounds);
    print!("| {:<19} |", "");
    effort.sizes.iter().for_each(|size| print!(" {:>16} |", format!("{size} entries")));
    println!(" {:>18} |", "largest / smallest");
    println!("|{}|{}|{}|", "-".repeat(21), vec!["-".repeat(18); effort.sizes.len()].join("|"), "-".repeat(20));
    for kind in benches.iter().map(|bench| bench.kind).take(4) {
        let of_kind: Vec<_> = (0..benches.len()).filter(|at| benches[*at].kind == kind).collect();
        debug_assert!(of_kind.iter().map(|at| benches[*at].size).eq(effort.sizes.iter().copied()));
        let ratio = |of: &[f64]| of[of_kind[of_kind.len() - 1]] / of[of_kind[0]];
        print!("| {kind:<19} |");
        of_kind.iter().for_each(|at| print!(" {:>16} |", format!("{:.1} ({:.0})", medians[*at], allocations[*at])));
        println!(" {:>18} |", format!("{:.1} ({:.1})", ratio(&medians), ratio(&allocations)));
        if ["EntryMap", "DirMap"].contains(&kind) {
            assert!(ratio(&allocations) < ALLOCATIONS, "{kind}: what a change allocates grows with the map");
        }
    }
}
