//! Counts the bytes that the client keeps allocated. The client runs completely on the counting
//! thread; the server is another process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, EtcdSchema};
use futures_util::future::join_all;
use tokio::runtime::{Builder, Runtime};

const KB: usize = 1 << 10;
const MB: usize = 1 << 20;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Returns the number of bytes that `work` allocates and does not free, and the largest number of
/// bytes that are allocated at once while it runs.
fn kept_and_most(runtime: &Runtime, work: impl Future<Output = ()>) -> (usize, usize) {
    let mut work = Some(work);
    let counted = allocation_counter::measure(|| runtime.block_on(work.take().unwrap()));
    (usize::try_from(counted.bytes_current).unwrap_or(0), usize::try_from(counted.bytes_max).unwrap_or(usize::MAX))
}

fn large() -> Bytes {
    Bytes::from(vec![b'L'; 10 * KB])
}

/// Updates many small entries, with a large event before each update. All keys are below one
/// directory. The view must not keep the messages of the large events in memory.
fn view_keeps_only_its_values(address: &str, runtime: &Runtime) {
    const ENTRIES: usize = 2000;
    let client = runtime.block_on(Client::connect(address)).unwrap();
    let map = client.entries::<String, Bytes>("/view").unwrap();
    let names: Vec<_> = (0..ENTRIES).map(|n| format!("entry-{n:05}")).collect();
    let live = runtime.block_on(async {
        for some in names.chunks(100) {
            join_all(some.iter().map(|name| map.entry(name).unwrap().set(&Bytes::from_static(b"before")).into_future())).await;
        }
        map.live().history(0).await.unwrap()
    });
    let update = async {
        let mut last = None;
        for name in &names {
            map.entry(&"large".to_owned()).unwrap().set(&large()).await.unwrap();
            last = Some(map.entry(name).unwrap().set(&Bytes::from_static(b"after!")).await.unwrap());
        }
        live.wait_for_revision(last.unwrap()).await.unwrap();
    };
    let (kept, _) = kept_and_most(runtime, update);
    assert!(kept < ENTRIES * 400, "{kept} bytes are kept for {ENTRIES} updates");
}

#[test]
fn view_keeps_only_its_values_on_v3() {
    let runtime = runtime();
    let etcd = runtime.block_on(Etcd::start());
    view_keeps_only_its_values(&etcd.url_v3(), &runtime);
}

#[test]
fn view_keeps_only_its_values_on_v2() {
    let runtime = runtime();
    let etcd = runtime.block_on(Etcd::start());
    view_keeps_only_its_values(&etcd.url_v2(), &runtime);
}

/// Writes small values to many directories, whose watches are not read, and large values to another
/// directory, whose watch is read. The unread watches must not keep the large events in memory.
fn unread_watches_keep_only_their_events(address: &str, runtime: &Runtime) {
    const WATCHES: usize = 20;
    const EVENTS: usize = 60;
    let client = runtime.block_on(Client::connect(address)).unwrap();
    let map = |name: &str| client.entries::<String, Bytes>(name).unwrap();
    let (unread, mut read) = runtime.block_on(async {
        let unread = join_all((0..WATCHES).map(|n| map(&format!("/unread/{n}")).watch().into_future())).await;
        (unread.into_iter().map(Result::unwrap).collect::<Vec<_>>(), map("/read").watch().await.unwrap())
    });
    let write = async {
        for n in 0..EVENTS {
            for watch in 0..WATCHES {
                map("/read").entry(&"a".to_owned()).unwrap().set(&large()).await.unwrap();
                map(&format!("/unread/{watch}")).entry(&format!("entry-{n}")).unwrap().set(&Bytes::from(vec![b's'; 80])).await.unwrap();
                read.next().await.unwrap().unwrap();
            }
        }
    };
    let (kept, _) = kept_and_most(runtime, write);
    assert!(kept < WATCHES * EVENTS * 600, "{kept} bytes are kept for {} events", WATCHES * EVENTS);
    drop(unread);
}

#[test]
fn unread_watches_keep_only_their_events_on_v3() {
    let runtime = runtime();
    let etcd = runtime.block_on(Etcd::start());
    unread_watches_keep_only_their_events(&etcd.url_v3(), &runtime);
}

#[test]
fn unread_watches_keep_only_their_events_on_v2() {
    let runtime = runtime();
    let etcd = runtime.block_on(Etcd::start());
    unread_watches_keep_only_their_events(&etcd.url_v2(), &runtime);
}

/// Writes more than the queue of a watch can hold: many large events, or transactions with many
/// small events.
fn unread_watch_bytes_are_bounded(address: &str, runtime: &Runtime, transactions: bool) {
    let client = runtime.block_on(Client::connect(address)).unwrap();
    let map = client.entries::<String, Bytes>("/bounded").unwrap();
    let mut changes = runtime.block_on(map.watch().into_future()).unwrap();
    let mut last = None;
    let write = async {
        for n in 0..30 {
            last = Some(map.entry(&format!("{n}")).unwrap().set(&Bytes::from(vec![b'L'; MB - KB])).await.unwrap());
        }
        if transactions {
            for round in 0..1500 {
                let mut transaction = client.transaction();
                for n in 0..100 {
                    transaction = transaction.write(map.entry(&format!("small-{n}")).unwrap().set(&Bytes::from(vec![b's'; round % 100])));
                }
                last = Some(transaction.await.unwrap());
            }
        }
    };
    let (kept, _) = kept_and_most(runtime, write);
    assert!(kept < 20 * MB, "{kept} bytes are kept");
    // The watch still reports the state up to the last write.
    runtime.block_on(async {
        while changes.current().unwrap().revision() < last.unwrap() {
            changes.next().await.unwrap().unwrap();
        }
        assert_eq!(changes.current().unwrap().len(), if transactions { 130 } else { 30 });
    });
}

#[test]
fn unread_watch_bytes_are_bounded_on_v3() {
    let runtime = runtime();
    let etcd = runtime.block_on(Etcd::start());
    unread_watch_bytes_are_bounded(&etcd.url_v3(), &runtime, true);
}

#[test]
fn unread_watch_bytes_are_bounded_on_v2() {
    let runtime = runtime();
    let etcd = runtime.block_on(Etcd::start());
    unread_watch_bytes_are_bounded(&etcd.url_v2(), &runtime, false);
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Table {
    name: String,
    #[etcd(entries)]
    rows: BTreeMap<String, String>,
}

/// In addition to the result, reading a map needs memory for its pages. Reading a whole struct
/// needs memory for the server's answer and for a tree of its keys.
#[test]
fn reads_take_few_extra_bytes() {
    const ROWS: usize = 60_000;
    let runtime = runtime();
    let etcd = runtime.block_on(Etcd::start());
    let client = runtime.block_on(Client::connect(&etcd.url_v3())).unwrap();
    let (dir, map) = (client.dir::<Table>("/table").unwrap(), client.entries::<String, String>("/table/rows").unwrap());
    let rows = (0..ROWS).map(|n| (format!("row-{n:08}"), "v".repeat(100))).collect();
    let table = Table { name: "table".to_owned(), rows };
    runtime.block_on(dir.set(&table).non_atomic().into_future()).unwrap();
    drop(table);
    let (mut rows, mut table) = (None, None);
    let (map_kept, map_most) = kept_and_most(&runtime, async { rows = Some(map.get().await.unwrap()) });
    drop(rows);
    let (dir_kept, dir_most) = kept_and_most(&runtime, async { table = Some(dir.get().await.unwrap()) });
    drop(table);
    assert!(map_most < map_kept + 12 * MB, "a map of {map_kept} bytes took {map_most}");
    assert!(dir_most < 3 * dir_kept, "a struct of {dir_kept} bytes took {dir_most}");
}
