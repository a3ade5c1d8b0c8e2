//! Compares the memory store with a real server: random sequences of operations return the same
//! answers and the same events on both.
//!
//! Both stores get the same writes in the same order, so their revisions differ only by a constant.
//! The test chooses the ids of the leases that it grants. For a write with a time to live the store
//! chooses the id, so only the existence of that lease is compared.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::memory::MemoryStore;
use etcd_typed::store::{
    Batch, Committed, Compare, Condition, Consistency, Event, Expiry, KeyValue, Op, OpResult, Range, RangeReply, Span, Store, Txn, Watch,
    WatchFrom, WatchItem,
};
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, ErrorKind, Key, LeaseId, Result, Revision};
use futures_util::StreamExt;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(30);

/// The keys of the operations: each text is appended to the case's directory. The last two make the
/// directory itself and a neighbour of it.
const NAMES: [&str; 7] = ["/a", "/b", "/sub/x", "/sub/y", "/sub", "", "x"];

#[derive(Clone, Copy, Debug)]
enum Spot {
    Key(usize),
    Below,
    BelowSub,
}

/// A revision that is computed when the step runs.
#[derive(Clone, Copy, Debug)]
enum At {
    Zero,
    Now,
    Back(u64),
    Ahead(u64),
    ModifiedOf(usize),
    CreatedOf(usize),
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Absent,
    Present,
    Created(At),
    Modified(At),
    Value(usize),
    Lease(u64),
    UnchangedSince(At),
}

#[derive(Clone, Copy, Debug)]
enum Life {
    Never,
    After,
    With(u64),
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Get(Spot),
    Newest { below: Spot, before: Option<At>, limit: usize },
    Put { key: usize, value: usize, life: Life, previous: bool },
    Delete { spot: Spot, previous: bool },
    MakeDir,
}

#[derive(Clone, Debug)]
enum Step {
    Read {
        spot: Spot,
        at: Option<At>,
        modified_after: Option<At>,
        limit: Option<usize>,
        after: Option<usize>,
        until: Option<usize>,
        keys_only: bool,
        stale: bool,
    },
    Commit {
        compares: Vec<(Spot, Asked)>,
        then: Vec<Act>,
        otherwise: Vec<Act>,
    },
    Grant {
        lease: u64,
        seconds: u64,
    },
    KeepAlive(u64),
    Revoke(u64),
    TimeToLive(u64),
    Compact(u64),
}

const VALUES: [&[u8]; 4] = [b"", b"1", b"2", b"\xff\x00"];

/// The bounds of pages: keys that a case may write, and texts before, between and after them.
const BORDERS: [&[u8]; 7] = [b"", b"/a", b"/b", b"/sub/x", b"/sub/x\x00", b"/z", b"/\xff"];

fn spot() -> impl Strategy<Value = Spot> {
    prop_oneof![4 => (0..NAMES.len()).prop_map(Spot::Key), 2 => Just(Spot::Below), 1 => Just(Spot::BelowSub)]
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![
        1 => Just(At::Zero),
        2 => Just(At::Now),
        3 => (0_u64..6).prop_map(At::Back),
        1 => (1_u64..3).prop_map(At::Ahead),
        4 => (0..NAMES.len()).prop_map(At::ModifiedOf),
        2 => (0..NAMES.len()).prop_map(At::CreatedOf),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        2 => Just(Asked::Absent),
        3 => Just(Asked::Present),
        2 => at().prop_map(Asked::Created),
        4 => at().prop_map(Asked::Modified),
        3 => (0..VALUES.len()).prop_map(Asked::Value),
        1 => (0_u64..3).prop_map(Asked::Lease),
        3 => at().prop_map(Asked::UnchangedSince),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let life = prop_oneof![6 => Just(Life::Never), 1 => Just(Life::After), 2 => (0_u64..3).prop_map(Life::With)];
    prop_oneof![
        2 => spot().prop_map(Act::Get),
        3 => (spot(), proptest::option::of(at()), 0_usize..4).prop_map(|(below, before, limit)| Act::Newest { below, before, limit }),
        8 => (0..NAMES.len(), 0..VALUES.len(), life, any::<bool>())
            .prop_map(|(key, value, life, previous)| Act::Put { key, value, life, previous }),
        3 => (spot(), any::<bool>()).prop_map(|(spot, previous)| Act::Delete { spot, previous }),
        1 => Just(Act::MakeDir),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let acts = |most| proptest::collection::vec(act(), 0..most);
    let read = (
        spot(),
        proptest::option::of(at()),
        proptest::option::of(at()),
        proptest::option::of(0_usize..4),
        proptest::option::of(0..BORDERS.len()),
        proptest::option::of(0..BORDERS.len()),
        any::<bool>(),
        any::<bool>(),
    );
    prop_oneof![
        6 => read.prop_map(|(spot, at, modified_after, limit, after, until, keys_only, stale)| {
            Step::Read { spot, at, modified_after, limit, after, until, keys_only, stale }
        }),
        6 => act().prop_map(|act| Step::Commit { compares: Vec::new(), then: vec![act], otherwise: Vec::new() }),
        8 => (proptest::collection::vec((spot(), asked()), 0..3), acts(4), acts(3))
            .prop_map(|(compares, then, otherwise)| Step::Commit { compares, then, otherwise }),
        2 => (0_u64..3, 100_u64..103).prop_map(|(lease, seconds)| Step::Grant { lease, seconds }),
        1 => (0_u64..3).prop_map(Step::KeepAlive),
        1 => (0_u64..3).prop_map(Step::Revoke),
        1 => (0_u64..3).prop_map(Step::TimeToLive),
        1 => (0_u64..8).prop_map(Step::Compact),
    ]
}

/// One of the two stores in a case.
struct Side {
    store: Arc<dyn Store>,
    /// How far the revisions of this store are ahead of the memory store's.
    ahead: u64,
}

/// A generated case, which uses its own directory on both stores.
struct Case {
    directory: Key,
    number: u64,
    memory: Side,
    server: Side,
}

/// An answer that is compared between both stores. `normal` converts revisions to the memory
/// store's, and replaces lease ids that a store chose with a fixed one.
trait Comparable: Sized {
    fn normal(self, side: &Side, case: &Case) -> Self;
}

impl Comparable for Revision {
    fn normal(self, side: &Side, _: &Case) -> Self {
        if self == Self::ZERO { self } else { Self::new(self.get().checked_sub(side.ahead).expect("no revision is before the first")) }
    }
}

impl Comparable for KeyValue {
    fn normal(mut self, side: &Side, case: &Case) -> Self {
        let named = |id: LeaseId| if (0..3).any(|lease| case.lease(lease) == id) { id } else { LeaseId::new(1).unwrap() };
        self.created = self.created.normal(side, case);
        self.modified = self.modified.normal(side, case);
        self.lease = self.lease.map(named);
        self
    }
}

impl Comparable for RangeReply {
    fn normal(mut self, side: &Side, case: &Case) -> Self {
        self.revision = self.revision.normal(side, case);
        self.kvs = self.kvs.normal(side, case);
        self
    }
}

impl<T: Comparable> Comparable for Vec<T> {
    fn normal(self, side: &Side, case: &Case) -> Self {
        self.into_iter().map(|item| item.normal(side, case)).collect()
    }
}

impl Comparable for Committed {
    fn normal(mut self, side: &Side, case: &Case) -> Self {
        let result = |result| match result {
            OpResult::Get(reply) => OpResult::Get(reply.normal(side, case)),
            OpResult::Put(previous) => OpResult::Put(previous.map(|kv| kv.normal(side, case))),
            OpResult::Delete { deleted, previous } => OpResult::Delete { deleted, previous: previous.normal(side, case) },
            OpResult::Done => OpResult::Done,
        };
        self.revision = self.revision.normal(side, case);
        self.results = self.results.into_iter().map(result).collect();
        self
    }
}

impl Comparable for WatchItem {
    fn normal(self, side: &Side, case: &Case) -> Self {
        let event = |event| match event {
            // Only some servers report the earlier value, and no code relies on it.
            Event::Put { kv, .. } => Event::Put { kv: kv.normal(side, case), previous: None },
            Event::Delete { key, directory, .. } => Event::Delete { key, directory, previous: None },
        };
        match self {
            Self::Batch(Batch { revision, events, .. }) => {
                Self::Batch(Batch::new(revision.normal(side, case), events.into_iter().map(event).collect()))
            }
            Self::Skipped(revision) => Self::Skipped(revision.normal(side, case)),
            Self::HistoryLost { oldest } => Self::HistoryLost { oldest: oldest.map(|oldest| oldest.normal(side, case)) },
            other => other,
        }
    }
}

fn outcome<T: Comparable>(result: Result<T>, side: &Side, case: &Case) -> Result<T, (ErrorKind, bool)> {
    result.map(|answer| answer.normal(side, case)).map_err(|error| (error.kind(), error.may_have_applied()))
}

impl Case {
    async fn new(number: u64, memory: &MemoryStore, server: &Arc<dyn Store>) -> Self {
        let memory: Arc<dyn Store> = Arc::new(memory.clone());
        let ahead = revision(&**server).await.get() - revision(&*memory).await.get();
        let directory = Key::parse(&format!("/case-{number}")).unwrap();
        Self { directory, number, memory: Side { store: memory, ahead: 0 }, server: Side { store: Arc::clone(server), ahead } }
    }

    fn key(&self, name: usize) -> Key {
        Key::parse(&format!("{}{}", self.directory, NAMES[name])).unwrap()
    }

    fn lease(&self, lease: u64) -> LeaseId {
        LeaseId::new(1000 + 10 * self.number + lease).unwrap()
    }

    fn span(&self, spot: Spot) -> Span {
        match spot {
            Spot::Key(name) => Span::Key(self.key(name)),
            Spot::Below => Span::Below(self.directory.clone()),
            Spot::BelowSub => Span::Below(self.directory.child("sub")),
        }
    }

    /// Computes the revision, as the memory store counts revisions.
    async fn revision(&self, at: At) -> Revision {
        let now = revision(&*self.memory.store).await;
        let of = async |name: usize, which: fn(&KeyValue) -> Revision| {
            let reply = self.memory.store.range(Range::of(Span::Key(self.key(name)))).await.unwrap();
            reply.kvs.first().map_or(now, which)
        };
        match at {
            At::Zero => Revision::ZERO,
            At::Now => now,
            At::Back(count) => Revision::new(now.get().saturating_sub(count).max(1)),
            At::Ahead(count) => Revision::new(now.get() + count),
            At::ModifiedOf(name) => of(name, |kv| kv.modified).await,
            At::CreatedOf(name) => of(name, |kv| kv.created).await,
        }
    }

    async fn condition(&self, asked: Asked, side: &Side) -> Condition {
        let at = async |at| shifted(self.revision(at).await, side);
        match asked {
            Asked::Absent => Condition::Absent,
            Asked::Present => Condition::Present,
            Asked::Created(revision) => Condition::Created(at(revision).await),
            Asked::Modified(revision) => Condition::Modified(at(revision).await),
            Asked::Value(value) => Condition::Value(Bytes::from_static(VALUES[value])),
            Asked::Lease(lease) => Condition::Lease(self.lease(lease)),
            Asked::UnchangedSince(revision) => Condition::UnchangedSince(at(revision).await),
        }
    }

    async fn op(&self, act: Act, side: &Side) -> Op {
        match act {
            Act::Get(spot) => Op::Get(self.span(spot)),
            Act::Newest { below, before, limit } => {
                let before = match before {
                    Some(at) => Some(shifted(self.revision(at).await, side)),
                    None => None,
                };
                Op::Newest { below: self.span(below).key().clone(), before, limit }
            }
            Act::Put { key, value, life, previous } => {
                let expiry = match life {
                    Life::Never => Expiry::Never,
                    Life::After => Expiry::After(Duration::from_millis(999_500)),
                    Life::With(lease) => Expiry::With(self.lease(lease)),
                };
                Op::Put { key: self.key(key), value: Bytes::from_static(VALUES[value]), expiry, previous }
            }
            Act::Delete { spot, previous } => Op::Delete { span: self.span(spot), previous },
            Act::MakeDir => Op::MakeDir { key: self.directory.child("made"), ttl: None },
        }
    }

    /// Runs the step on both stores and compares the answers.
    async fn run(&self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Read { spot, at, modified_after, limit, after, until, keys_only, stale } => {
                let revision = async |at: &Option<At>| match at {
                    Some(at) => Some(self.revision(*at).await),
                    None => None,
                };
                let (at, modified_after) = (revision(at).await, revision(modified_after).await);
                let range = |side: &Side| {
                    Range::of(self.span(*spot))
                        .revision(at.map(|at| shifted(at, side)))
                        .limit(*limit)
                        .after(after.map(|after| [self.directory.as_str().as_bytes(), BORDERS[after]].concat().into()))
                        .until(until.map(|until| [self.directory.as_str().as_bytes(), BORDERS[until]].concat().into()))
                        .keys_only(*keys_only)
                        .modified_after(modified_after.map(|after| shifted(after, side)))
                        .consistency(if *stale { Consistency::Stale } else { Consistency::Linearizable })
                };
                self.same(async |side| outcome(side.store.range(range(side)).await, side, self)).await
            }
            Step::Commit { compares, then, otherwise } => {
                // Both transactions are built before either store changes.
                let (memory, server) =
                    (self.txn(compares, then, otherwise, &self.memory).await, self.txn(compares, then, otherwise, &self.server).await);
                let memory = outcome(self.memory.store.commit(memory).await, &self.memory, self);
                let server = outcome(self.server.store.commit(server).await, &self.server, self);
                prop_assert_eq!(memory, server);
                Ok(())
            }
            Step::Grant { lease, seconds } => {
                let ttl = Duration::from_millis(seconds * 1000 - 500);
                self.same(async |side| side.store.grant(self.lease(*lease), ttl).await.map_err(|error| error.kind())).await
            }
            Step::KeepAlive(lease) => {
                self.same(async |side| side.store.keep_alive(self.lease(*lease)).await.map_err(|error| error.kind())).await
            }
            Step::Revoke(lease) => self.same(async |side| side.store.revoke(self.lease(*lease)).await.map_err(|error| error.kind())).await,
            Step::TimeToLive(lease) => {
                self.same(async |side| {
                    side.store.time_to_live(self.lease(*lease)).await.map(|left| left.is_some()).map_err(|error| error.kind())
                })
                .await
            }
            // Compaction needs the server itself, so the test does it.
            Step::Compact(_) => Ok(()),
        }
    }

    async fn txn(&self, compares: &[(Spot, Asked)], then: &[Act], otherwise: &[Act], side: &Side) -> Txn {
        let mut txn = Txn::default();
        for act in then {
            txn.then.push(self.op(*act, side).await);
        }
        for act in otherwise {
            txn.otherwise.push(self.op(*act, side).await);
        }
        for (spot, asked) in compares {
            txn.compares.push(Compare::new(self.span(*spot), self.condition(*asked, side).await));
        }
        txn
    }

    async fn same<T: PartialEq + std::fmt::Debug>(&self, ask: impl AsyncFn(&Side) -> T) -> Result<(), TestCaseError> {
        let (memory, server) = (ask(&self.memory).await, ask(&self.server).await);
        prop_assert_eq!(memory, server);
        Ok(())
    }

    /// Opens the same watch on both stores. The returned tasks collect the items up to the end
    /// marker.
    #[allow(clippy::async_yields_async, reason = "both watches are open before anything is collected")]
    async fn watches(self: &Arc<Self>, spot: Spot, from: fn(Revision) -> WatchFrom, after: Revision) -> [JoinHandle<Vec<WatchItem>>; 2] {
        let open = async |pick: fn(&Self) -> &Side| {
            let side = pick(self);
            let watch = Watch::new(self.span(spot), from(shifted(after, side)));
            let mut items = side.store.watch(watch).await.expect("a watch");
            let case = Arc::clone(self);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                loop {
                    let item = timeout(LIMIT, items.next()).await.expect("in time").expect("no silent end").expect("no error");
                    if matches!(item, WatchItem::Progress(_)) {
                        continue;
                    }
                    let last = match &item {
                        WatchItem::Batch(batch) => batch.events.iter().any(is_end),
                        _ => true,
                    };
                    seen.push(item.normal(pick(&case), &case));
                    if last {
                        return seen;
                    }
                }
            })
        };
        [open(|case| &case.memory).await, open(|case| &case.server).await]
    }

    /// Writes the end marker to two keys. Every watched span includes at least one of them.
    async fn end(&self) -> Result<(), TestCaseError> {
        let end = |name| Op::put(&self.key(name), Bytes::from_static(END));
        let txn = Txn::new(vec![end(0), end(2)]);
        self.same(async |side| outcome(side.store.commit(txn.clone()).await, side, self)).await
    }
}

const END: &[u8] = b"the end";

fn is_end(event: &Event) -> bool {
    matches!(event, Event::Put { kv, .. } if kv.value == END)
}

async fn revision(store: &dyn Store) -> Revision {
    store.range(Range::of(Span::Key(Key::root()))).await.expect("an answer").revision
}

fn shifted(revision: Revision, side: &Side) -> Revision {
    if revision == Revision::ZERO { revision } else { Revision::new(revision.get() + side.ahead) }
}

async fn same_items(watches: [JoinHandle<Vec<WatchItem>>; 2]) -> Result<(), TestCaseError> {
    let [memory, server] = watches;
    let (memory, server) = (memory.await.expect("no panic"), server.await.expect("no panic"));
    prop_assert_eq!(memory, server);
    Ok(())
}

async fn compact(etcd: &Etcd, revision: Revision) {
    let answer = etcd.call("/v3/kv/compaction", &format!("{{\"revision\": {revision}}}")).await;
    assert!(answer.contains("header"), "{answer}");
}

#[test]
fn embedded_store_agrees_with_server() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (etcd, server) = runtime.block_on(async {
        let etcd = Etcd::start().await;
        let client = Client::connect(&etcd.url_v3()).await.expect("a client");
        (etcd, Arc::clone(client.store()))
    });
    let memory = MemoryStore::new();
    memory.faults().hide_leases_of_keys_only(etcd.is_at_least(3, 7));
    let mut runner = TestRunner::new(Config { cases: 80, failure_persistence: None, max_shrink_iters: 200, ..Config::default() });
    let number = std::cell::Cell::new(0);
    let compacted = std::cell::Cell::new(Revision::ZERO);
    let sequences = (proptest::collection::vec(step(), 30..60), 0_u64..20);
    let result = runner.run(&sequences, |(steps, back)| {
        number.set(number.get() + 1);
        runtime.block_on(async {
            let case = Arc::new(Case::new(number.get(), &memory, &server).await);
            let start = case.revision(At::Now).await;
            let below = case.watches(Spot::Below, WatchFrom::Listed, start).await;
            let one = case.watches(Spot::Key(0), WatchFrom::Listed, start).await;
            // No other client writes, so the server has nothing to skip.
            let live = case.watches(Spot::BelowSub, WatchFrom::Live, start).await;
            for step in &steps {
                case.run(step).await.map_err(|error| TestCaseError::fail(format!("{error} of {step:?}")))?;
                if let Step::Compact(back) = step {
                    let to = case.revision(At::Back(*back)).await;
                    if to > compacted.get() {
                        memory.faults().compact_to(to);
                        compact(&etcd, shifted(to, &case.server)).await;
                        compacted.set(to);
                    }
                }
            }
            let late = case.revision(At::Back(back)).await;
            case.end().await?;
            same_items(below).await?;
            same_items(one).await?;
            same_items(live).await?;
            let mut resumed = Vec::new();
            for spot in [Spot::Below, Spot::BelowSub, Spot::Key(0)] {
                resumed.push(case.watches(spot, WatchFrom::Resumed, late).await);
            }
            for watches in resumed {
                same_items(watches).await?;
            }
            for lease in 0..3 {
                case.run(&Step::Revoke(lease)).await?;
            }
            Ok(())
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
