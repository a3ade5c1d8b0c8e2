//! Counts the allocations of a get and of a set. Everything runs on the counting thread, so all
//! allocations of the client count, including those of the connection's task.
//!
//! The cost is the smallest count of several runs, since some runs also grow a buffer or a table,
//! or handle a due timer. The bounds are the counts with rustc 1.95 and the versions in
//! `Cargo.lock` (5, 10, 23 and 35 in memory; 18, 21, 36 and 54 on v3), plus a tenth, which other
//! versions may need.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Entry, EtcdSchema};
use tokio::runtime::{Builder, Runtime};

const REPETITIONS: usize = 50;

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Limits {
    low: u32,
    high: u32,
    name: String,
    note: Option<String>,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Returns the smallest number of allocations of several runs.
fn least(runtime: &Runtime, operation: impl AsyncFn()) -> u64 {
    let count = |_| allocation_counter::measure(|| runtime.block_on(operation())).count_total;
    (0..REPETITIONS).map(count).min().unwrap()
}

/// The number of allocations of a get and a set, for one key and for a struct with four keys.
struct Allocations {
    get: u64,
    set: u64,
    get_struct: u64,
    set_struct: u64,
}

fn of(runtime: &Runtime, client: &Client) -> Allocations {
    let entry: Entry<u32> = client.entry("/allocations/limit").unwrap();
    let dir = client.dir::<Limits>("/allocations/limits").unwrap();
    let limits = Limits { low: 1, high: 2, name: "a name".to_owned(), note: Some("a note".to_owned()) };
    let set = least(runtime, async || _ = entry.set(&7).await.unwrap());
    let get = least(runtime, async || assert_eq!(entry.get().await.unwrap().as_deref(), Some(&7)));
    let set_struct = least(runtime, async || _ = dir.set(&limits).await.unwrap());
    let get_struct = least(runtime, async || assert_eq!(*dir.get().await.unwrap(), limits));
    Allocations { get, set, get_struct, set_struct }
}

impl Allocations {
    fn assert_at_most(&self, most: &Self) {
        let of = |Self { get, set, get_struct, set_struct }: &Self| [*get, *set, *get_struct, *set_struct];
        let (these, most) = (of(self), of(most));
        assert!(
            these.iter().zip(&most).all(|(one, most)| one <= most),
            "get, set, get of a struct, set of a struct: {these:?} allocations, more than {most:?}"
        );
    }
}

#[test]
fn allocations_are_bounded_with_memory_store() {
    let runtime = runtime();
    let client = runtime.block_on(Client::connect("memory:")).unwrap();
    of(&runtime, &client).assert_at_most(&Allocations { get: 6, set: 11, get_struct: 25, set_struct: 38 });
}

#[test]
fn allocations_are_bounded_on_v3() {
    let runtime = runtime();
    let etcd = runtime.block_on(Etcd::start());
    let client = runtime.block_on(Client::connect(&etcd.url_v3())).unwrap();
    of(&runtime, &client).assert_at_most(&Allocations { get: 20, set: 23, get_struct: 39, set_struct: 58 });
}
