//! Reading a directory of any size yields to other tasks. The tests count the values that are
//! decoded between two polls of another task.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;

use bytes::Bytes;
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::store::{Op, Store, Txn};
use etcd_typed::{Client, EtcdSchema, EtcdValue, Key, ValueError};
use futures_util::FutureExt;
use tokio::task::{JoinHandle, yield_now};

const ROWS: usize = 20_000;
/// The largest allowed number of values that are decoded without a yield. It is three times the
/// number after which decoding yields, since a struct in a map starts before its map yields.
const MOST: usize = 3 * 256;

thread_local! {
    /// The number of values decoded since the other task ran, and the largest such number.
    static DECODED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// A number that counts its decodes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Counted(u32);

impl EtcdValue for Counted {
    const TYPE: &'static str = "counted";

    fn encode(&self) -> Result<Bytes, ValueError> {
        self.0.encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, ValueError> {
        let (now, most) = DECODED.get();
        DECODED.set((now + 1, most.max(now + 1)));
        u32::decode(bytes).map(Self)
    }
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Table {
    name: String,
    #[etcd(entries)]
    rows: BTreeMap<String, Counted>,
    #[etcd(dir)]
    inner: Inner,
    #[etcd(dir)]
    parts: BTreeMap<u32, Part>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Inner {
    #[etcd(entries)]
    more: HashMap<String, Counted>,
    note: Option<String>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Part {
    number: Counted,
    #[etcd(entries)]
    rows: BTreeMap<u32, Counted>,
}

/// A task that runs whenever the thread is free.
fn other() -> JoinHandle<()> {
    tokio::spawn(async {
        loop {
            let (_, most) = DECODED.get();
            DECODED.set((0, most));
            yield_now().await;
        }
    })
}

/// Runs `work` and asserts that it never decodes more than [`MOST`] values without a yield.
async fn assert_yields<T>(name: &str, work: impl Future<Output = T>) -> T {
    yield_now().await;
    DECODED.set((0, 0));
    let done = work.await;
    let (_, most) = DECODED.get();
    assert!(most > 0 && most <= MOST, "{name}: {most} values are decoded without a yield");
    done
}

async fn put_all(store: &MemoryStore, keys: impl Iterator<Item = (String, String)>) {
    let ops: Vec<_> = keys.map(|(key, value)| Op::put(&Key::parse(&key).unwrap(), value.into())).collect();
    for some in ops.chunks(100) {
        store.commit(Txn::new(some.to_vec())).await.unwrap();
    }
}

async fn filled() -> (MemoryStore, Client) {
    let store = MemoryStore::new();
    let rows = |below: &'static str, count: usize| (0..count).map(move |n| (format!("/table/{below}/{n:06}"), n.to_string()));
    put_all(&store, [("/table/name".to_owned(), "a".to_owned())].into_iter()).await;
    put_all(&store, rows("rows", ROWS).chain(rows("inner/more", ROWS))).await;
    // Many small structs, and one struct with many keys.
    let part = |part: u32, count: u32| {
        let rows = (0..count).map(move |n| (format!("/table/parts/{part}/rows/{n}"), n.to_string()));
        [(format!("/table/parts/{part}/number"), part.to_string())].into_iter().chain(rows)
    };
    put_all(&store, (0..2000).flat_map(|number| part(number, 3)).chain(part(5000, 5000)).chain(part(6000, 0))).await;
    let client = Client::with_store(store.clone());
    (store, client)
}

#[tokio::test]
async fn large_reads_yield_to_other_tasks() {
    let (_store, client) = filled().await;
    let other = other();
    let dir = client.dir::<Table>("/table").unwrap();
    let table = assert_yields("get", dir.get()).await.unwrap();
    assert_eq!((table.rows.len(), table.inner.more.len(), table.parts.len()), (ROWS, ROWS, 2002));
    assert_eq!(
        (table.rows["012345"].clone(), table.parts[&5000].rows.len(), table.parts[&7].number.clone()),
        (Counted(12345), 5000, Counted(7))
    );
    let parts = client.dirs::<u32, Part>("/table/parts").unwrap();
    assert_eq!(*assert_yields("get of a map of structs", parts.get()).await.unwrap(), table.parts);
    let rows = client.entries::<String, Counted>("/table/rows").unwrap();
    assert_eq!(*assert_yields("get of a map of values", rows.get()).await.unwrap(), table.rows);
    other.abort();
}

#[tokio::test]
async fn large_views_yield_to_other_tasks() {
    let (_store, client) = filled().await;
    let other = other();
    let dir = client.dir::<Table>("/table").unwrap();
    let live = assert_yields("live", dir.live().into_future()).await.unwrap();
    let name = client.entry::<String>("/table/name").unwrap();
    let renamed = async {
        let written = name.set(&"b".to_owned()).await.unwrap();
        live.wait_for_revision(written).await.unwrap()
    };
    assert_eq!(assert_yields("a change of a field", renamed).await.name, "b");
    let parts = client.dirs::<u32, Part>("/table/parts").unwrap();
    let live = assert_yields("live of a map of structs", parts.live().into_future()).await.unwrap();
    assert_eq!(live.get().len(), 2002);
    let rows = client.entries::<String, Counted>("/table/rows").unwrap();
    let live = assert_yields("live of a map of values", rows.live().into_future()).await.unwrap();
    assert_eq!(live.get().len(), ROWS);
    other.abort();
}

/// Cancels the read at a yield.
#[tokio::test]
async fn large_read_can_be_cancelled() {
    let (_store, client) = filled().await;
    let dir = client.dir::<Table>("/table").unwrap();
    for polls in [1, 2, 10, 100] {
        let mut read = Box::pin(dir.get());
        for _ in 0..polls {
            assert!(read.as_mut().now_or_never().is_none(), "the read is still running after {polls} polls");
        }
    }
    assert_eq!(dir.get().await.unwrap().rows.len(), ROWS);
}

/// The error of a large struct lists all problems, like that of a small struct.
#[tokio::test]
async fn large_read_lists_all_problems() {
    let (store, client) = filled().await;
    let bad = ["rows/000007", "rows/019999", "inner/more/000300", "parts/5000/rows/4999", "parts/9/number"];
    put_all(&store, bad.iter().map(|key| (format!("/table/{key}"), "none".to_owned()))).await;
    client.entry::<String>("/table/name").unwrap().delete().await.unwrap();
    let error = client.dir::<Table>("/table").unwrap().get().await.unwrap_err();
    let mut found: Vec<_> = error.problems().iter().map(|problem| problem.key.to_string()).collect();
    let mut expected: Vec<_> = bad.iter().chain(&["name"]).map(|key| format!("/table/{key}")).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}
