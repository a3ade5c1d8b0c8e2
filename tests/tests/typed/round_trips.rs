//! The cost of each call of a handle, in store calls, which are counted, and in requests to a
//! server, according to the server's metrics.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::{CountingStore, Counts, Etcd};
use etcd_typed::{Client, ErrorKind, EtcdSchema, Expect, Versioned};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

/// A struct without maps: the schema determines all of its keys.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/plain")]
struct Plain {
    name: String,
    limit: u32,
    note: Option<String>,
    #[etcd(dir)]
    database: Database,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Database {
    pool: u16,
    #[etcd(default = 5432)]
    port: u16,
}

/// A struct with maps: its keys depend on the stored entries.
#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/mapped")]
struct Mapped {
    limit: u32,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
    #[etcd(dir)]
    regions: BTreeMap<String, Database>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/moved")]
struct Moved {
    #[etcd(alias = "old")]
    limit: u32,
}

fn plain_value() -> Plain {
    Plain { name: "n".into(), limit: 1, note: Some("x".into()), database: Database { pool: 4, port: 1 } }
}

fn mapped_value(entries: u64) -> Mapped {
    let quotas = (0..entries).map(|n| (format!("q{n}"), n)).collect();
    Mapped { limit: 1, quotas, regions: BTreeMap::from([("eu".to_owned(), Database { pool: 1, port: 2 })]) }
}

/// A client whose calls of the store are counted, and another one whose calls are not.
struct Bench {
    counting: CountingStore,
    client: Client,
    other: Client,
    env: String,
}

impl Bench {
    fn of(other: Client) -> Self {
        static CASES: AtomicU64 = AtomicU64::new(0);
        let counting = CountingStore::new(Arc::clone(other.store()));
        let client = Client::with_store(counting.clone());
        Self { counting, client, other, env: format!("case-{}", CASES.fetch_add(1, Ordering::Relaxed)) }
    }

    async fn memory() -> Self {
        Self::of(Client::with_store(MemoryStore::new()))
    }

    async fn v3() -> Self {
        Self::of(Client::connect(&etcd_typed_tests::shared("round-trips").await.url_v3()).await.expect("a client"))
    }

    async fn v2() -> Self {
        Self::of(Client::connect(&etcd_typed_tests::shared("round-trips").await.url_v2()).await.expect("a client"))
    }

    /// Asserts that exactly so many reads and transactions were made since the last call of this
    /// function.
    #[track_caller]
    fn cost(&self, range: u64, commit: u64) {
        assert_eq!(self.counting.take(), Counts { range, commit, ..Counts::default() });
    }

    fn plain(&self) -> PlainDir {
        PlainDir::open(&self.client, &self.env).unwrap()
    }

    fn mapped(&self) -> MappedDir {
        MappedDir::open(&self.client, &self.env).unwrap()
    }

    /// The directories of `plain` and `mapped`, opened by the client whose calls are not counted.
    fn others(&self) -> (PlainDir, MappedDir) {
        (PlainDir::open(&self.other, &self.env).unwrap(), MappedDir::open(&self.other, &self.env).unwrap())
    }
}

/// Makes another client write from within a closure that cannot wait, in the first `times` runs of
/// that closure.
struct Interference<'a, F> {
    runs: AtomicU64,
    times: u64,
    write: &'a F,
}

impl<'a, F: AsyncFn()> Interference<'a, F> {
    fn of(times: u64, write: &'a F) -> Self {
        Self { runs: AtomicU64::new(0), times, write }
    }

    fn run(&self) {
        if self.runs.fetch_add(1, Ordering::SeqCst) < self.times {
            block_in_place(|| Handle::current().block_on((self.write)()));
        }
    }

    fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

macro_rules! cases {
    ($($case:ident)*) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $case() {
                super::$case(&super::Bench::memory().await).await;
            })*
        }

        mod v3 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $case() {
                super::$case(&super::Bench::v3().await).await;
            })*
        }
    };
}

cases! {
    read_is_one_request
    write_of_key_is_one_request
    conflict_includes_current_value
    modify_costs_one_more_request_per_conflict
    alias_costs_no_further_request
    set_of_struct_reads_at_most_once
    create_and_swap_of_struct_are_one_request
    update_costs_one_more_request_per_conflict
    delete_of_struct_is_two_requests
    transaction_is_one_request
    too_large_write_sends_nothing
    non_atomic_write_is_one_request_per_step
    stream_is_one_request_per_page
    watch_is_two_requests
}

async fn read_is_one_request(bench: &Bench) {
    let (plain, mapped) = (bench.plain(), bench.mapped());
    bench.others().0.set(&plain_value()).await.unwrap();
    bench.others().1.set(&mapped_value(100)).await.unwrap();
    plain.get().await.unwrap();
    bench.cost(1, 0);
    assert_eq!(mapped.get().await.unwrap().quotas.len(), 100);
    bench.cost(1, 0);
    assert_eq!(mapped.quotas.get().await.unwrap().len(), 100);
    bench.cost(1, 0);
    mapped.regions.get().await.unwrap();
    bench.cost(1, 0);
    assert_eq!(mapped.regions.keys().await.unwrap(), ["eu"]);
    bench.cost(1, 0);
    plain.limit.get().await.unwrap();
    bench.cost(1, 0);
    assert!(plain.exists().await.unwrap());
    bench.cost(1, 0);
    assert!(plain.limit.exists().await.unwrap());
    bench.cost(1, 0);
    bench.client.directory(plain.key().as_str()).unwrap().list_recursive().await.unwrap();
    bench.cost(1, 0);
}

async fn write_of_key_is_one_request(bench: &Bench) {
    let limit = bench.plain().limit;
    limit.create(&1).await.unwrap();
    bench.cost(0, 1);
    limit.set(&2).await.unwrap();
    bench.cost(0, 1);
    limit.replace(&3).await.unwrap();
    bench.cost(0, 1);
    assert_eq!(limit.swap(&4).await.unwrap().as_deref(), Some(&3));
    bench.cost(0, 1);
    let seen = limit.get().await.unwrap();
    bench.cost(1, 0);
    limit.compare_and_swap(&seen, &5).await.unwrap();
    bench.cost(0, 1);
    limit.compare_and_swap(Expect::value(&5), &6).await.unwrap();
    bench.cost(0, 1);
    assert_eq!(limit.compare_and_delete(Expect::value(&6)).await.unwrap().as_deref(), Some(&6));
    bench.cost(0, 1);
    assert_eq!(limit.delete().await.unwrap(), None);
    bench.cost(0, 1);
}

async fn conflict_includes_current_value(bench: &Bench) {
    let limit = bench.plain().limit;
    bench.others().0.limit.set(&7).await.unwrap();
    let now = |error: etcd_typed::Error| (error.kind(), error.current::<u32>().map(|now| **now));
    assert_eq!(now(limit.create(&1).await.unwrap_err()), (ErrorKind::AlreadyExists, Some(7)));
    bench.cost(0, 1);
    assert_eq!(now(limit.compare_and_swap(Expect::value(&1), &2).await.unwrap_err()), (ErrorKind::Conflict, Some(7)));
    bench.cost(0, 1);
    assert_eq!(now(limit.compare_and_swap(&None::<Versioned<u32>>, &2).await.unwrap_err()), (ErrorKind::Conflict, Some(7)));
    bench.cost(0, 1);
    assert_eq!(now(limit.compare_and_delete(Expect::revision(1)).await.unwrap_err()), (ErrorKind::Conflict, Some(7)));
    bench.cost(0, 1);
    bench.others().0.limit.delete().await.unwrap();
    assert_eq!(now(limit.compare_and_swap(Expect::Present, &2).await.unwrap_err()), (ErrorKind::Conflict, None));
    bench.cost(0, 1);
    assert_eq!(now(limit.replace(&2).await.unwrap_err()), (ErrorKind::NotFound, None));
    bench.cost(0, 1);
}

async fn modify_costs_one_more_request_per_conflict(bench: &Bench) {
    let limit = bench.plain().limit;
    let others = bench.others().0.limit;
    limit.modify(|n| Some(n.unwrap_or(0) + 1)).await.unwrap();
    bench.cost(1, 1);
    limit.modify(|n| n).await.unwrap();
    bench.cost(1, 0);
    for conflicts in 1..=3 {
        let before = *others.get().await.unwrap().unwrap();
        let write = async || drop(others.modify(|n| n.map(|n| n + 100)).await.unwrap());
        let interference = Interference::of(conflicts, &write);
        let after = limit
            .modify(|n| {
                interference.run();
                n.map(|n| n + 1)
            })
            .await
            .unwrap();
        assert_eq!(after.as_deref(), Some(&(before + 100 * u32::try_from(conflicts).unwrap() + 1)));
        assert_eq!(interference.runs(), conflicts + 1);
        bench.cost(1, 1 + conflicts);
    }
    limit.modify(|_| None).await.unwrap();
    bench.cost(1, 1);
    limit.modify(|_| None).await.unwrap();
    bench.cost(1, 0);
}

async fn alias_costs_no_further_request(bench: &Bench) {
    let moved = MovedDir::open(&bench.client, &bench.env).unwrap();
    let old = bench.other.entry::<u32>(&format!("/{}/moved/old", bench.env)).unwrap();
    old.set(&1).await.unwrap();
    assert_eq!(moved.limit.get().await.unwrap().as_deref(), Some(&1));
    bench.cost(0, 1);
    assert_eq!(moved.get().await.unwrap().limit, 1);
    bench.cost(1, 0);
    moved.limit.set(&2).await.unwrap();
    bench.cost(0, 1);
    moved.limit.compare_and_swap(Expect::value(&2), &3).await.unwrap();
    bench.cost(0, 1);
    moved.limit.delete().await.unwrap();
    bench.cost(0, 1);
    // The first answer shows that the value is at the alias.
    old.set(&1).await.unwrap();
    moved.limit.replace(&2).await.unwrap();
    bench.cost(0, 2);
}

async fn set_of_struct_reads_at_most_once(bench: &Bench) {
    let (plain, mapped) = (bench.plain(), bench.mapped());
    plain.set(&plain_value()).await.unwrap();
    bench.cost(1, 1);
    plain.set(&Plain { note: None, ..plain_value() }).await.unwrap();
    bench.cost(1, 1);
    plain.set(&Plain { note: None, ..plain_value() }).await.unwrap();
    bench.cost(1, 0);
    mapped.set(&mapped_value(3)).await.unwrap();
    bench.cost(1, 1);
    mapped.set(&mapped_value(1)).await.unwrap();
    bench.cost(1, 1);
    assert_eq!(*mapped.get().await.unwrap(), mapped_value(1));
    bench.cost(1, 0);
    mapped.quotas.set(&BTreeMap::from([("a".to_owned(), 1)])).await.unwrap();
    bench.cost(1, 1);
    mapped.regions.set(&BTreeMap::new()).await.unwrap();
    bench.cost(1, 1);
}

async fn create_and_swap_of_struct_are_one_request(bench: &Bench) {
    let (plain, mapped) = (bench.plain(), bench.mapped());
    plain.create(&plain_value()).await.unwrap();
    bench.cost(0, 1);
    assert_eq!(plain.create(&plain_value()).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    bench.cost(0, 1);
    mapped.create(&mapped_value(2)).await.unwrap();
    bench.cost(0, 1);
    let seen = plain.get().await.unwrap();
    bench.cost(1, 0);
    plain.compare_and_swap(&seen, &Plain { limit: 2, ..plain_value() }).await.unwrap();
    bench.cost(0, 1);
    let conflict = plain.compare_and_swap(&seen, &Plain { limit: 3, ..plain_value() }).await.unwrap_err();
    bench.cost(0, 1);
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
    let current = conflict.current::<Plain>().expect("the stored struct");
    assert_eq!(**current, Plain { limit: 2, ..plain_value() });
    // The value in the conflict serves for a compare-and-swap without another read.
    plain.compare_and_swap(current, &Plain { limit: 3, ..plain_value() }).await.unwrap();
    bench.cost(0, 1);
}

async fn update_costs_one_more_request_per_conflict(bench: &Bench) {
    let (plain, mapped) = (bench.plain(), bench.mapped());
    let (others, _) = bench.others();
    others.set(&plain_value()).await.unwrap();
    bench.others().1.set(&mapped_value(2)).await.unwrap();
    plain.update(|p| p.limit += 1).await.unwrap();
    bench.cost(1, 1);
    plain.update(|p| p.limit += 1).changed_fields_only().await.unwrap();
    bench.cost(1, 1);
    plain.update(|_| ()).await.unwrap();
    bench.cost(1, 0);
    mapped.update(|m| m.quotas.retain(|key, _| key != "q0")).await.unwrap();
    bench.cost(1, 1);
    for conflicts in 1..=2 {
        let before = others.get().await.unwrap().limit;
        let write = async || drop(others.limit.modify(|n| n.map(|n| n + 100)).await.unwrap());
        let interference = Interference::of(conflicts, &write);
        let after = plain
            .update(|p| {
                interference.run();
                p.limit += 1;
            })
            .await
            .unwrap();
        assert_eq!(after.limit, before + 100 * u32::try_from(conflicts).unwrap() + 1);
        bench.cost(1, 1 + conflicts);
    }
    // The value that an update returns also serves for a compare-and-swap without another read.
    let now = plain.update(|p| p.note = None).await.unwrap();
    bench.cost(1, 1);
    plain.compare_and_swap(&now, &plain_value()).await.unwrap();
    bench.cost(0, 1);
}

async fn delete_of_struct_is_two_requests(bench: &Bench) {
    let mapped = bench.mapped();
    bench.others().1.set(&mapped_value(2)).await.unwrap();
    assert_eq!(mapped.delete().await.unwrap().as_deref(), Some(&mapped_value(2)));
    bench.cost(1, 1);
    assert_eq!(mapped.delete().await.unwrap(), None);
    bench.cost(1, 0);
    bench.others().1.set(&mapped_value(2)).await.unwrap();
    let seen = mapped.get().await.unwrap();
    bench.cost(1, 0);
    mapped.compare_and_delete(&seen).await.unwrap();
    bench.cost(1, 1);
}

async fn transaction_is_one_request(bench: &Bench) {
    let plain = bench.plain();
    let transaction = || bench.client.transaction().expect(&plain.limit, Expect::Absent).set_dir(&plain, &plain_value());
    transaction().await.unwrap();
    bench.cost(0, 1);
    let conflict = transaction().await.unwrap_err();
    assert_eq!((conflict.key(), conflict.current::<u32>().map(|now| **now)), (Some(plain.limit.key()), Some(1)));
    bench.cost(0, 1);
}

async fn too_large_write_sends_nothing(bench: &Bench) {
    let mapped = bench.mapped();
    let refused = mapped.set(&mapped_value(200)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooManyOperations);
    bench.cost(0, 0);
    // The advice names only options that the call has.
    let advice = |refused: &etcd_typed::Error| {
        (refused.to_string().contains(".non_atomic()"), refused.to_string().contains(".changed_fields_only()"))
    };
    assert_eq!(advice(&refused), (true, false));
    let refused = mapped.create(&mapped_value(200)).await.unwrap_err();
    assert_eq!((refused.kind(), advice(&refused)), (ErrorKind::TooManyOperations, (true, false)));
    let refused = mapped.quotas.set(&mapped_value(200).quotas).await.unwrap_err();
    assert_eq!((refused.kind(), advice(&refused)), (ErrorKind::TooManyOperations, (true, false)));
    bench.cost(0, 0);
    assert!(!mapped.exists().await.unwrap());
}

async fn non_atomic_write_is_one_request_per_step(bench: &Bench) {
    let mapped = bench.mapped();
    // 300 entries, the limit and the two fields of the region, in transactions of 128.
    mapped.set(&mapped_value(300)).non_atomic().await.unwrap();
    bench.cost(1, 3);
    let refused = mapped.update(|m| m.limit += 1).await.unwrap_err();
    assert!(refused.to_string().contains(".changed_fields_only()"), "{refused}");
    bench.cost(1, 0);
    mapped.update(|m| m.quotas.retain(|_, n| *n >= 200)).non_atomic().await.unwrap();
    bench.cost(1, 2);
    mapped.delete().non_atomic().await.unwrap();
    bench.cost(1, 1);
    mapped.create(&mapped_value(10)).non_atomic().await.unwrap();
    bench.cost(1, 1);
    bench.plain().set(&plain_value()).non_atomic().await.unwrap();
    bench.cost(1, 1);
}

async fn stream_is_one_request_per_page(bench: &Bench) {
    let mapped = bench.mapped();
    bench.others().1.set(&mapped_value(10)).await.unwrap();
    let mut pages = mapped.quotas.stream_in_pages_of(4);
    let mut count = 0;
    while let Some(item) = pages.next().await {
        item.unwrap();
        count += 1;
    }
    assert_eq!(count, 10);
    bench.cost(3, 0);
}

async fn watch_is_two_requests(bench: &Bench) {
    let mut changes = bench.plain().watch().await.unwrap();
    assert_eq!(bench.counting.take(), Counts { range: 1, watch: 1, ..Counts::default() });
    bench.others().0.set(&plain_value()).await.unwrap();
    changes.next().await.expect("the stream goes on").unwrap();
    bench.cost(0, 0);
}

/// On v2 each key is one request. A write of several keys is refused without any request, unless it
/// is `non_atomic`.
#[tokio::test]
async fn v2_write_is_one_request_per_key() {
    let bench = Bench::v2().await;
    let (plain, mapped) = (bench.plain(), bench.mapped());
    for refused in [
        plain.set(&plain_value()).await.unwrap_err(),
        plain.create(&plain_value()).await.unwrap_err(),
        mapped.set(&mapped_value(1)).await.unwrap_err(),
        mapped.quotas.set(&BTreeMap::new()).await.unwrap_err(),
        bench.client.transaction().write(plain.limit.set(&1)).write(plain.name.set(&String::new())).await.unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(refused.to_string().contains("non_atomic"), "{refused}");
    }
    assert_eq!(bench.counting.take().range, 0);
    assert!(!plain.exists().await.unwrap() && !mapped.exists().await.unwrap());
    bench.counting.take();

    plain.set(&plain_value()).non_atomic().await.unwrap();
    bench.cost(1, 5);
    assert_eq!(*plain.get().await.unwrap(), plain_value());
    bench.cost(1, 0);
    plain.update(|p| p.limit += 1).await.expect_err("its condition covers all keys");
    bench.counting.take();
    plain.update(|p| p.limit += 1).changed_fields_only().await.expect("one key");
    bench.cost(1, 1);
    let now = plain.update(|p| (p.limit, p.database.pool) = (9, 9)).non_atomic().await.unwrap();
    bench.cost(1, 2);
    // On v2 each key has its own revision; the returned value contains the revisions of all keys.
    plain
        .compare_and_swap(&now, &Plain { limit: 10, database: Database { pool: 10, port: 10 }, ..now.clone().into_inner() })
        .non_atomic()
        .await
        .unwrap();
    bench.cost(1, 3);
    plain.delete().non_atomic().await.unwrap();
    bench.cost(1, 5);
}

/// Reads the number of requests from the server's metrics.
#[tokio::test]
async fn v3_server_receives_one_request_per_call() {
    let etcd = Etcd::start().await;
    let client = Client::connect(&etcd.url_v3()).await.unwrap();
    let mapped = MappedDir::open(&client, "wire").unwrap();
    let requests = async || -> BTreeMap<String, u64> {
        let mut stream = TcpStream::connect(etcd.endpoint()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).await.unwrap();
        let unary = metrics.lines().filter(|line| line.starts_with("grpc_server_handled_total") && line.contains(r#"grpc_type="unary""#));
        let mut requests = BTreeMap::new();
        for line in unary {
            let method = line.split_once(r#"grpc_method=""#).and_then(|(_, rest)| rest.split_once('"')).expect("a method").0;
            let count: u64 = line.rsplit_once(' ').expect("a count").1.parse().expect("a number");
            *requests.entry(method.to_owned()).or_default() += count;
        }
        requests
    };
    let mut before = requests().await;
    let mut sent = async || -> BTreeMap<String, u64> {
        let now = requests().await;
        let since = now.iter().map(|(method, count)| (method.clone(), count - before.get(method).unwrap_or(&0)));
        let since = since.filter(|(_, count)| *count > 0).collect();
        before = now;
        since
    };
    let one = |method: &str| BTreeMap::from([(method.to_owned(), 1)]);

    client.entry::<u32>("/wire").unwrap().set(&1).await.unwrap();
    assert_eq!(sent().await, one("Put"));
    // A write of a field keeps the field's lease, so it is a transaction with the condition that
    // the key has no lease.
    mapped.limit.set(&1).await.unwrap();
    assert_eq!(sent().await, one("Txn"));
    mapped.limit.get().await.unwrap();
    assert_eq!(sent().await, one("Range"));
    mapped.limit.compare_and_swap(Expect::value(&1), &2).await.unwrap();
    assert_eq!(sent().await, one("Txn"));
    mapped.limit.compare_and_swap(Expect::value(&1), &2).await.unwrap_err();
    assert_eq!(sent().await, one("Txn"));
    mapped.limit.delete().await.unwrap();
    assert_eq!(sent().await, one("DeleteRange"));
    mapped.create(&mapped_value(100)).await.unwrap();
    assert_eq!(sent().await, one("Txn"));
    assert_eq!(mapped.get().await.unwrap().quotas.len(), 100);
    assert_eq!(sent().await, one("Range"));
    mapped.update(|m| m.limit += 1).changed_fields_only().await.unwrap();
    assert_eq!(sent().await, BTreeMap::from([("Range".to_owned(), 1), ("Txn".to_owned(), 1)]));
    mapped.limit.set(&1).ttl(Duration::from_secs(100)).await.unwrap();
    assert_eq!(sent().await, BTreeMap::from([("LeaseGrant".to_owned(), 1), ("Put".to_owned(), 1)]));
}
