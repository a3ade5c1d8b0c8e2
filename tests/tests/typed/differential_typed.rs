//! Makes the same random calls on handles of the memory store and of a real server. Answers, errors
//! and typed changes must be equal. `differential.rs` does the same one layer below, on stores.
//!
//! Both stores receive the same writes from their first revision on, so their revisions are equal
//! too.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, EtcdSchema, Expect, Result, Versioned};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::time::timeout;

/// Every expected change arrives within this time; only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Shop {
    #[etcd(default = 7)]
    limit: u32,
    #[etcd(alias = "title")]
    name: String,
    note: Option<String>,
    #[etcd(dir)]
    database: Option<Database>,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
    #[etcd(dir)]
    regions: BTreeMap<String, Database>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Database {
    host: String,
    #[etcd(default = 4)]
    pool: u16,
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    Absent,
    Present,
    Value(u32),
    Seen,
}

/// A call on the struct, on a field or on a map, or a write of a client that does not know the
/// schema.
#[derive(Clone, Debug)]
enum Call {
    Get,
    Exists,
    Check,
    Diff(Shop),
    Set(Shop),
    Create(Shop),
    SwapSeen(Shop),
    DeleteSeen,
    Delete,
    Update(Shop),
    UpdateOneField(u32),
    SetInSteps(Shop),
    LimitGet,
    LimitSet(u32),
    LimitCreate(u32),
    LimitReplace(u32),
    LimitSwap(u32),
    LimitCompareAndSwap(Expected, u32),
    LimitCompareAndDelete(Expected),
    LimitDelete,
    LimitModify(Option<u32>),
    NameModify(String),
    NameDelete,
    QuotaSet(String, u64),
    QuotasSet(BTreeMap<String, u64>),
    RegionsGet,
    RegionDelete(String),
    Foreign(&'static str, Option<&'static str>),
    List,
    Transaction(Expected, u32),
    TransactionOnSeen(u32),
}

const NAMES: [&str; 4] = ["a", "b/c", "_d", ""];

fn shop() -> impl Strategy<Value = Shop> {
    let text = || prop_oneof![Just(String::new()), Just("x".to_owned()), Just("y z".to_owned())];
    let database = || (text(), 0_u16..3).prop_map(|(host, pool)| Database { host, pool });
    let key = || proptest::sample::select(&NAMES[..]).prop_map(str::to_owned);
    (
        0_u32..3,
        text(),
        proptest::option::of(text()),
        proptest::option::of(database()),
        proptest::collection::btree_map(key(), 0_u64..3, 0..4),
        proptest::collection::btree_map(key(), database(), 0..3),
    )
        .prop_map(|(limit, name, note, database, quotas, regions)| Shop { limit, name, note, database, quotas, regions })
}

fn call() -> impl Strategy<Value = Call> {
    let expected = || prop_oneof![1 => Just(Expected::Absent), 1 => Just(Expected::Present), 1 => (0_u32..3).prop_map(Expected::Value), 3 => Just(Expected::Seen)];
    let key = || proptest::sample::select(&NAMES[..]).prop_map(str::to_owned);
    let foreign = (
        proptest::sample::select(
            &["title", "name", "limit", "note", "unknown", "database/pool", "quotas/a", "quotas/50%", "quotas/_x", "regions/a/host"][..],
        ),
        proptest::option::weighted(0.7, proptest::sample::select(&["1", "x", "2 "][..])),
    );
    let whole = prop_oneof![
        4 => Just(Call::Get),
        1 => Just(Call::Exists),
        1 => Just(Call::Check),
        1 => shop().prop_map(Call::Diff),
        2 => shop().prop_map(Call::Set),
        2 => shop().prop_map(Call::Create),
        2 => shop().prop_map(Call::SwapSeen),
        1 => Just(Call::DeleteSeen),
        1 => Just(Call::Delete),
        2 => shop().prop_map(Call::Update),
        1 => (0_u32..3).prop_map(Call::UpdateOneField),
        1 => shop().prop_map(Call::SetInSteps),
    ];
    let field = prop_oneof![
        Just(Call::LimitGet),
        (0_u32..3).prop_map(Call::LimitSet),
        (0_u32..3).prop_map(Call::LimitCreate),
        (0_u32..3).prop_map(Call::LimitReplace),
        (0_u32..3).prop_map(Call::LimitSwap),
        (expected(), 0_u32..3).prop_map(|(expected, n)| Call::LimitCompareAndSwap(expected, n)),
        expected().prop_map(Call::LimitCompareAndDelete),
        Just(Call::LimitDelete),
        proptest::option::of(0_u32..3).prop_map(Call::LimitModify),
        Just(Call::NameModify("m".to_owned())),
        Just(Call::NameDelete),
    ];
    let other = prop_oneof![
        1 => (key(), 0_u64..3).prop_map(|(key, n)| Call::QuotaSet(key, n)),
        1 => proptest::collection::btree_map(key(), 0_u64..3, 0..4).prop_map(Call::QuotasSet),
        1 => Just(Call::RegionsGet),
        1 => key().prop_map(Call::RegionDelete),
        3 => foreign.prop_map(|(path, value)| Call::Foreign(path, value)),
        1 => Just(Call::List),
        1 => (expected(), 0_u32..3).prop_map(|(expected, n)| Call::Transaction(expected, n)),
        1 => (0_u32..3).prop_map(Call::TransactionOnSeen),
    ];
    prop_oneof![4 => whole, 3 => field, 3 => other]
}

/// Makes the calls on one store.
struct Player {
    client: Client,
    directory: String,
    shop: ShopDir,
    /// The result of the last read.
    seen: Option<Versioned<Shop>>,
    seen_limit: Option<Versioned<u32>>,
}

impl Player {
    fn new(client: &Client, directory: &str) -> Self {
        let shop = client.dir::<Shop>(directory).unwrap();
        Self { client: client.clone(), directory: directory.to_owned(), shop, seen: None, seen_limit: None }
    }

    /// Makes the call and returns its answer as text.
    async fn play(&mut self, call: &Call) -> String {
        let shop = self.shop.clone();
        let limit = &shop.limit;
        match call.clone() {
            Call::Get => {
                let read = shop.get().await;
                self.seen = read.as_ref().ok().cloned();
                told(read)
            }
            Call::Exists => told(shop.exists().await),
            Call::Check => told(shop.check().await),
            Call::Diff(value) => told(shop.diff(&value).await),
            Call::Set(value) => told(shop.set(&value).await),
            Call::Create(value) => told(shop.create(&value).await),
            Call::SwapSeen(value) => match &self.seen {
                Some(seen) => told(shop.compare_and_swap(seen, &value).await),
                None => String::new(),
            },
            Call::DeleteSeen => match &self.seen {
                Some(seen) => told(shop.compare_and_delete(seen).await),
                None => String::new(),
            },
            Call::Delete => told(shop.delete().await),
            Call::Update(value) => {
                let updated = shop.update(|shop| *shop = value.clone()).await;
                self.seen = updated.as_ref().ok().cloned();
                told(updated)
            }
            Call::UpdateOneField(n) => told(shop.update(|shop| shop.limit = n).changed_fields_only().await),
            Call::SetInSteps(value) => told(shop.set(&value).non_atomic().await),
            Call::LimitGet => {
                let read = limit.get().await;
                self.seen_limit = read.as_ref().ok().cloned().flatten();
                told(read)
            }
            Call::LimitSet(n) => told(limit.set(&n).await),
            Call::LimitCreate(n) => told(limit.create(&n).await),
            Call::LimitReplace(n) => told(limit.replace(&n).await),
            Call::LimitSwap(n) => told(limit.swap(&n).await),
            Call::LimitCompareAndSwap(expected, n) => {
                let value = value_of(expected);
                told(limit.compare_and_swap(self.expect(expected, &value), &n).await)
            }
            Call::LimitCompareAndDelete(expected) => {
                let value = value_of(expected);
                told(limit.compare_and_delete(self.expect(expected, &value)).await)
            }
            Call::LimitDelete => told(limit.delete().await),
            Call::LimitModify(to) => told(limit.modify(|_| to).await),
            Call::NameModify(more) => told(shop.name.modify(|name| name.map(|name| name + &more)).await),
            Call::NameDelete => told(shop.name.delete().await),
            Call::QuotaSet(key, n) => told(shop.quotas.entry(&key).unwrap().set(&n).await),
            Call::QuotasSet(quotas) => told(shop.quotas.set(&quotas).await),
            Call::RegionsGet => told(shop.regions.get().await),
            Call::RegionDelete(key) => told(shop.regions.dir(&key).unwrap().delete().await),
            Call::Foreign(path, value) => {
                let entry = self.client.entry::<String>(&format!("{}/{path}", self.directory)).unwrap();
                match value {
                    Some(value) => told(entry.set(&value.to_owned()).await),
                    None => told(entry.delete().await),
                }
            }
            Call::List => told(self.client.directory(&self.directory).unwrap().list_recursive().await),
            Call::Transaction(expected, n) => {
                let value = value_of(expected);
                let transaction = self.client.transaction().expect(limit, self.expect(expected, &value));
                told(transaction.write(limit.set(&n)).delete(&shop.note).write(shop.quotas.entry("t").unwrap().set(&1)).await)
            }
            Call::TransactionOnSeen(n) => match &self.seen {
                Some(seen) => told(self.client.transaction().expect_unchanged(&shop, seen).write(limit.set(&n)).await),
                None => String::new(),
            },
        }
    }

    fn expect<'a>(&'a self, expected: Expected, value: &'a u32) -> Expect<'a, u32> {
        match expected {
            Expected::Absent => Expect::Absent,
            Expected::Present => Expect::Present,
            Expected::Value(_) => Expect::value(value),
            Expected::Seen => Expect::from(&self.seen_limit),
        }
    }
}

fn value_of(expected: Expected) -> u32 {
    if let Expected::Value(n) = expected { n } else { 0 }
}

fn told<T: Debug>(result: Result<T>) -> String {
    match result {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!(
            "{:?} at {:?}, perhaps applied: {}, problems: {:?}, there is: {:?} {:?}, written: {:?}",
            error.kind(),
            error.key(),
            error.may_have_applied(),
            error.problems(),
            error.current::<Shop>(),
            error.current::<u32>(),
            error.written(),
        ),
    }
}

/// Writes to the store with the smaller revision until both revisions are equal. They differ only
/// after a failed run.
async fn equalize_revisions(memory: &Client, server: &Client) {
    loop {
        let (at, other) = (memory.status().await.unwrap().revision, server.status().await.unwrap().revision);
        let behind = match at.cmp(&other) {
            std::cmp::Ordering::Equal => return,
            std::cmp::Ordering::Less => memory,
            std::cmp::Ordering::Greater => server,
        };
        behind.entry::<u32>("/filler").unwrap().set(&0).await.unwrap();
    }
}

/// Returns the typed changes up to the last write, which writes [`END`].
async fn changes(mut changes: etcd_typed::Changes<ShopChange, Shop>) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let item = timeout(LIMIT, changes.next()).await.expect("a change in time").expect("the stream goes on");
        let text = match item {
            Ok(update) => format!("{update:?}"),
            Err(error) => format!("{:?} at {:?}: {:?}", error.kind(), error.key(), error.problems()),
        };
        let last = text.contains(END);
        seen.push(text);
        if last {
            seen.push(told(changes.current()));
            return seen;
        }
    }
}

const END: &str = "the end";

#[test]
fn embedded_store_answers_like_server() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_etcd, server) = runtime.block_on(async {
        let etcd = Etcd::start().await;
        let client = Client::connect(&etcd.url_v3()).await.expect("a client");
        (etcd, client)
    });
    let memory = Client::with_store(MemoryStore::new());
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, max_shrink_iters: 200, ..Config::default() });
    let number = std::cell::Cell::new(0);
    let result = runner.run(&proptest::collection::vec(call(), 30..60), |calls| {
        number.set(number.get() + 1);
        let directory = format!("/case-{}", number.get());
        runtime.block_on(async {
            equalize_revisions(&memory, &server).await;
            let (mut on_memory, mut on_server) = (Player::new(&memory, &directory), Player::new(&server, &directory));
            let watches = (on_memory.shop.watch().await.unwrap(), on_server.shop.watch().await.unwrap());
            let watches = (tokio::spawn(changes(watches.0)), tokio::spawn(changes(watches.1)));
            for call in &calls {
                let (told, expected) = (on_memory.play(call).await, on_server.play(call).await);
                prop_assert_eq!(told, expected, "answers of memory and of the server to {:?}", call);
            }
            let end = Call::NameModify(END.to_owned());
            for last in [Call::Foreign("name", Some("x")), end] {
                let (told, expected) = (on_memory.play(&last).await, on_server.play(&last).await);
                prop_assert_eq!(told, expected, "answers of memory and of the server to {:?}", last);
            }
            prop_assert_eq!(watches.0.await.unwrap(), watches.1.await.unwrap(), "changes on memory and on the server");
            Ok(())
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
