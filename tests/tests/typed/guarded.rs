//! Writes with `guarded_by`. Every kind of write commits while the guard is held and fails with
//! `GuardLost` once it is lost. The guard costs no additional request, and a conflict is not
//! reported as a lost guard. Most tests run on memory and on a real v3 server, since these could
//! differ; v2 refuses such writes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures of a run are its result")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use etcd_typed::store::memory::{Calls, MemoryStore};
use etcd_typed::store::{BoxFuture, Committed, Expiry, Op, Range, Span, Store, Txn};
use etcd_typed::testing::{Call, CountingStore, Etcd, HookedStore, Reply};
use etcd_typed::{
    Client, Error, ErrorKind, EtcdSchema, Expect, Guard, Key, LeaseId, Lock, LostReason, Result, Revision, UpdateError, Versioned,
};
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// The time to live of guards. No guard needs a keep-alive during a test.
const TTL: Duration = Duration::from_secs(120);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/plain")]
struct Plain {
    limit: u32,
    note: Option<String>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/mapped")]
struct Mapped {
    limit: u32,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
#[etcd(prefix = "/{env}/moved")]
struct Moved {
    #[etcd(alias = "old")]
    limit: u32,
}

fn plain() -> Plain {
    Plain { limit: 1, note: Some("x".into()) }
}

fn mapped(entries: u64) -> Mapped {
    Mapped { limit: 1, quotas: quotas(entries) }
}

fn quotas(entries: u64) -> BTreeMap<String, u64> {
    (0..entries).map(|n| (format!("q{n:03}"), n)).collect()
}

/// What happens before a commit of [`interfering`] is passed on.
enum BeforeCommit {
    Nothing,
    /// The commit waits.
    Wait(Arc<Notify>),
    /// Another client commits this transaction.
    Commit(Txn),
}

/// What happens before each of the next commits, in this order.
type BeforeCommits = Arc<Mutex<VecDeque<BeforeCommit>>>;

/// Wraps a store so that another client interferes before its next commits.
fn interfering(store: &Arc<dyn Store>, before: &BeforeCommits) -> HookedStore {
    let before = before.clone();
    HookedStore::new(store.clone(), move |call, store| {
        let before = if matches!(call, Call::Commit(_)) { before.lock().unwrap().pop_front() } else { None };
        async move {
            match before {
                Some(BeforeCommit::Wait(gate)) => gate.notified().await,
                Some(BeforeCommit::Commit(txn)) => drop(store.commit(txn).await?),
                Some(BeforeCommit::Nothing) | None => {}
            }
            call.send(&store).await
        }
    })
}

/// Wraps a store so that its reads and watches never answer. Its guards then learn only from refused
/// writes that they are lost.
fn deaf(store: &Arc<dyn Store>) -> HookedStore {
    HookedStore::new(store.clone(), |call, store| async move {
        if matches!(call, Call::Range(_) | Call::Watch(_)) { std::future::pending().await } else { call.send(&store).await }
    })
}

/// A store with three clients.
struct Bench {
    /// The client whose writes are guarded and counted.
    client: Client,
    counting: CountingStore,
    /// What happens before the next commits of `client`.
    before: BeforeCommits,
    /// The client that holds the lock. Its store is deaf.
    holder: Client,
    /// Another client, which interferes.
    other: Client,
    env: String,
}

impl Bench {
    fn of(other: Client) -> Self {
        static CASES: AtomicU64 = AtomicU64::new(0);
        let before = BeforeCommits::default();
        let counting = CountingStore::new(Arc::new(interfering(other.store(), &before)));
        let client = Client::with_store(counting.clone());
        let holder = Client::with_store(deaf(other.store()));
        Self { client, counting, before, holder, other, env: format!("guarded-{}", CASES.fetch_add(1, Ordering::Relaxed)) }
    }

    async fn memory() -> Self {
        Self::of(Client::with_store(MemoryStore::new()))
    }

    async fn v3() -> Self {
        Self::of(Client::connect(&etcd_typed_tests::shared("guarded").await.url_v3()).await.unwrap())
    }

    fn path(&self, path: &str) -> String {
        format!("/{}/{path}", self.env)
    }

    fn plain(&self) -> PlainDir {
        PlainDir::open(&self.client, &self.env).unwrap()
    }

    fn mapped(&self) -> MappedDir {
        MappedDir::open(&self.client, &self.env).unwrap()
    }

    fn moved(&self) -> MovedDir {
        MovedDir::open(&self.client, &self.env).unwrap()
    }

    fn entry(&self, name: &str) -> etcd_typed::Entry<u32> {
        self.client.entry(&self.path(name)).unwrap()
    }

    async fn lock(&self) -> Lock {
        self.lock_named("one").await
    }

    async fn lock_named(&self, name: &str) -> Lock {
        self.holder.lock(&format!("/locks/{}/{name}", self.env)).ttl(TTL).acquire().await.unwrap()
    }

    /// Restores the keys that every case starts with.
    async fn fill(&self) {
        let other = &self.other;
        other.directory(&format!("/{}", self.env)).unwrap().delete_recursive().await.unwrap();
        PlainDir::open(other, &self.env).unwrap().set(&plain()).await.unwrap();
        MappedDir::open(other, &self.env).unwrap().set(&mapped(3)).await.unwrap();
        other.entry::<u32>(&self.path("moved/old")).unwrap().set(&1).await.unwrap();
        other.entry::<u32>(&self.path("there")).unwrap().set(&1).await.unwrap();
        let plains = BTreeMap::from([("eu".to_owned(), plain())]);
        other.dirs::<String, Plain>(&self.path("plains")).unwrap().set(&plains).await.unwrap();
    }

    /// All keys except those of locks, with value, creation revision and modification revision.
    async fn stored(&self) -> BTreeMap<String, (Bytes, Revision, Revision)> {
        let nodes = self.other.directory(&format!("/{}", self.env)).unwrap().list_recursive().await.unwrap().into_inner();
        let values = nodes.into_iter().filter_map(|node| Some((node.path, node.value?)));
        values.map(|(path, value)| (path, (value.to_vec().into(), value.created(), value.modified()))).collect()
    }

    async fn foreign(&self, ops: Vec<Op>) -> Committed {
        self.other.store().commit(Txn { then: ops, ..Txn::default() }).await.unwrap()
    }

    /// Sets what happens before each of the next commits of `client`.
    fn before_commits(&self, before: impl Into<VecDeque<BeforeCommit>>) {
        *self.before.lock().unwrap() = before.into();
    }

    fn requests(&self) -> u64 {
        self.counting.take().total()
    }
}

/// One kind of write, with or without a guard; its answer is dropped.
type Write = for<'a> fn(&'a Bench, Option<&'a Guard>) -> BoxFuture<'a, Result<()>>;

macro_rules! writes {
    ($($name:literal: |$bench:ident| $write:expr;)*) => {
        &[$(($name, |$bench, guard| Box::pin(async move {
            let write = $write;
            match guard {
                Some(guard) => write.guarded_by(guard).await,
                None => write.await,
            }
            .map(drop)
            .map_err(IntoStoreError::into_store_error)
        }))),*]
    };
}

/// Returns the store's error from a write whose closure may refuse, too.
trait IntoStoreError {
    fn into_store_error(self) -> Error;
}

impl IntoStoreError for Error {
    fn into_store_error(self) -> Error {
        self
    }
}

impl IntoStoreError for UpdateError<Error> {
    fn into_store_error(self) -> Error {
        match self {
            Self::Store(error) | Self::Refused(error) => error,
        }
    }
}

/// Every kind of write. Each changes something that [`Bench::fill`] wrote.
const WRITES: &[(&str, Write)] = writes! {
    "entry set": |bench| bench.entry("there").set(&2);
    "entry set, new": |bench| bench.entry("new").set(&2);
    "entry set, with a time to live": |bench| bench.entry("there").set(&2).ttl(Duration::from_secs(60));
    "entry create": |bench| bench.entry("new").create(&2);
    "entry replace": |bench| bench.entry("there").replace(&2);
    "entry swap": |bench| bench.entry("there").swap(&2);
    "entry compare_and_swap": |bench| bench.entry("there").compare_and_swap(Expect::value(&1), &2);
    "entry delete": |bench| bench.entry("there").delete();
    "entry compare_and_delete": |bench| bench.entry("there").compare_and_delete(Expect::value(&1));
    "entry modify": |bench| bench.entry("there").modify(|n| n.map(|n| n + 1));
    "entry modify to nothing": |bench| bench.entry("there").modify(|_| None);
    "entry of a map": |bench| bench.mapped().quotas.entry("q000").unwrap().set(&9);
    "alias set": |bench| bench.moved().limit.set(&2);
    "alias delete": |bench| bench.moved().limit.delete();
    "alias modify": |bench| bench.moved().limit.modify(|n| n.map(|n| n + 1));
    "dir set": |bench| bench.plain().set(&Plain { limit: 2, note: None });
    "dir set, in steps": |bench| bench.plain().set(&Plain { limit: 2, note: None }).non_atomic();
    "dir set, with maps": |bench| bench.mapped().set(&mapped(2));
    "dir set, with maps, in steps": |bench| bench.mapped().set(&mapped(2)).non_atomic();
    "dir create": |bench| bench.client.dir::<Plain>(&bench.path("new")).unwrap().create(&plain());
    "dir create, in steps": |bench| bench.client.dir::<Plain>(&bench.path("new")).unwrap().create(&plain()).non_atomic();
    "dir create, with maps": |bench| bench.client.dir::<Mapped>(&bench.path("new")).unwrap().create(&mapped(2));
    "dir compare_and_swap": |bench| bench.plain().compare_and_swap(&seen(bench).await, &Plain { limit: 2, note: None });
    "dir compare_and_swap, in steps": |bench| bench.plain().compare_and_swap(&seen(bench).await, &Plain { limit: 2, note: None }).non_atomic();
    "dir delete": |bench| bench.plain().delete();
    "dir delete, in steps": |bench| bench.mapped().delete().non_atomic();
    "dir compare_and_delete": |bench| bench.plain().compare_and_delete(&seen(bench).await);
    "dir compare_and_delete, in steps": |bench| bench.plain().compare_and_delete(&seen(bench).await).non_atomic();
    "dir update": |bench| bench.mapped().update(|mapped| mapped.limit += 1);
    "dir update, changed fields": |bench| bench.mapped().update(|mapped| mapped.limit += 1).changed_fields_only();
    "dir update, in steps": |bench| bench.mapped().update(|mapped| mapped.limit += 1).non_atomic();
    "dir try_update": |bench| bench.mapped().try_update(|mapped| { mapped.limit += 1; Ok::<_, Error>(()) });
    "entries set": |bench| bench.mapped().quotas.set(&quotas(2));
    "entries set, in steps": |bench| bench.mapped().quotas.set(&quotas(2)).non_atomic();
    "dirs set": |bench| bench.client.dirs::<String, Plain>(&bench.path("plains")).unwrap().set(&BTreeMap::new());
    "dirs set, in steps": |bench| bench.client.dirs::<String, Plain>(&bench.path("plains")).unwrap().set(&BTreeMap::new()).non_atomic();
    "directory delete_recursive": |bench| bench.client.directory(&bench.path("mapped")).unwrap().delete_recursive();
    "transaction set": |bench| bench.client.transaction().set(&bench.entry("there"), &2);
    "transaction set_dir, delete": |bench| bench.client.transaction().set_dir(&bench.plain(), &plain()).delete(&bench.entry("there"));
    "transaction expect": |bench| bench.client.transaction().expect(&bench.entry("there"), Expect::Present).set(&bench.entry("new"), &2);
};

/// Writes that change nothing, because the stored state is already the wanted one.
const UNCHANGING_WRITES: &[(&str, Write)] = writes! {
    "entry modify": |bench| bench.entry("there").modify(|n| n);
    "entry modify of nothing": |bench| bench.entry("new").modify(|n| n);
    "entry delete": |bench| bench.entry("new").delete();
    "dir update": |bench| bench.mapped().update(|_| {});
    "dir update, in steps": |bench| bench.mapped().update(|_| {}).non_atomic();
    "dir delete": |bench| bench.client.dir::<Plain>(&bench.path("new")).unwrap().delete();
    "dir delete, in steps": |bench| bench.client.dir::<Plain>(&bench.path("new")).unwrap().delete().non_atomic();
    "entries set": |bench| bench.client.entries::<String, u64>(&bench.path("new")).unwrap().set(&BTreeMap::new());
    "entries set, in steps": |bench| bench.client.entries::<String, u64>(&bench.path("new")).unwrap().set(&BTreeMap::new()).non_atomic();
    "transaction": |bench| bench.client.transaction();
};

/// Reads the struct with a client whose requests are not counted.
async fn seen(bench: &Bench) -> Versioned<Plain> {
    PlainDir::open(&bench.other, &bench.env).unwrap().get().await.unwrap()
}

macro_rules! cases {
    ($($case:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Bench::memory().await).await;
            })*
        }

        mod v3 {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Bench::v3().await).await;
            })*
        }
    };
}

cases! {
    held_guard_costs_no_request
    unchanging_write_checks_guard
    deleted_key_stops_every_write
    revoked_lease_stops_every_write
    foreign_key_stops_every_write
    recreated_key_stops_every_write
    other_lease_stops_every_write
    detached_key_stops_every_write
    conflict_is_not_reported_as_lost_guard
    refused_write_ends_while_held
    write_under_two_guards_needs_both
    leader_guards_writes_until_it_resigns
    lost_guard_ends_retries
    every_step_checks_guard
    guard_counts_against_operation_limit
    released_guard_refuses_pending_writes
    write_of_earlier_hold_is_refused
}

async fn held_guard_costs_no_request(bench: Bench) {
    for (name, write) in WRITES {
        bench.fill().await;
        let before = bench.stored().await;
        bench.requests();
        write(&bench, None).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let (plainly, written) = (bench.requests(), bench.stored().await);
        assert!(plainly > 0 && written != before, "{name}");

        bench.fill().await;
        let lock = bench.lock().await;
        let before = bench.stored().await;
        bench.requests();
        write(&bench, Some(&lock)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bench.requests(), plainly, "{name}");
        let written_under_it = bench.stored().await;
        assert_ne!(written_under_it, before, "{name}");
        let values = |stored: BTreeMap<String, (Bytes, Revision, Revision)>| {
            stored.into_iter().map(|(path, (value, ..))| (path, value)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(values(written_under_it), values(written), "{name}: a guarded write stores the same values");
        lock.release().await.unwrap();
    }
}

async fn unchanging_write_checks_guard(bench: Bench) {
    for (name, write) in UNCHANGING_WRITES {
        bench.fill().await;
        let lock = bench.lock().await;
        let before = bench.stored().await;
        bench.requests();
        write(&bench, None).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let plainly = bench.requests();
        write(&bench, Some(&lock)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bench.requests(), plainly, "{name}");
        bench.foreign(vec![Op::delete(lock.key())]).await;
        assert_eq!(write(&bench, Some(&lock)).await.unwrap_err().kind(), ErrorKind::GuardLost, "{name}");
        assert_eq!(bench.stored().await, before, "{name}");
    }
}

/// For each kind of write, takes the guard away and checks that the write is refused by one request
/// and changes nothing.
async fn every_write_is_refused(bench: &Bench, take_away: impl AsyncFn(&Bench, &Lock), why: LostReason) {
    for (name, write) in WRITES {
        bench.fill().await;
        let lock = bench.lock().await;
        take_away(bench, &lock).await;
        let before = bench.stored().await;
        bench.requests();
        assert!(lock.is_held(), "{name}: the holder has not learned of the loss yet");
        let error = write(bench, Some(&lock)).await.unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(lock.key())), "{name}: {error}");
        assert_eq!(bench.requests(), 1, "{name}");
        assert!(!error.may_have_applied() && error.written().is_empty(), "{name}: {error}");
        assert!(!lock.is_held(), "{name}");
        assert_eq!(lock.lost().await.reason(), why, "{name}");
        // The guard knows of its loss now, so the next write is refused without a request.
        assert_eq!(write(bench, Some(&lock)).await.unwrap_err().kind(), ErrorKind::GuardLost, "{name}");
        assert_eq!(bench.requests(), 0, "{name}");
        assert_eq!(bench.stored().await, before, "{name}");
        bench.foreign(vec![Op::delete(lock.key())]).await;
    }
}

async fn deleted_key_stops_every_write(bench: Bench) {
    let take_away = async |bench: &Bench, lock: &Lock| drop(bench.foreign(vec![Op::delete(lock.key())]).await);
    every_write_is_refused(&bench, take_away, LostReason::KeyDeleted).await;
}

async fn revoked_lease_stops_every_write(bench: Bench) {
    let take_away = async |bench: &Bench, lock: &Lock| bench.other.store().revoke(lock.lease_id()).await.unwrap();
    every_write_is_refused(&bench, take_away, LostReason::KeyDeleted).await;
}

/// Another client puts a key of its own, without a lease, at the guard's place.
async fn foreign_key_stops_every_write(bench: Bench) {
    let take_away = async |bench: &Bench, lock: &Lock| {
        bench.foreign(vec![Op::delete(lock.key())]).await;
        bench.foreign(vec![Op::put(lock.key(), "mine".into())]).await;
    };
    every_write_is_refused(&bench, take_away, LostReason::TakenOver).await;
}

/// The new key is attached to the guard's own lease, but its creation revision differs.
async fn recreated_key_stops_every_write(bench: Bench) {
    let take_away = async |bench: &Bench, lock: &Lock| {
        bench.foreign(vec![Op::delete(lock.key())]).await;
        bench.foreign(vec![put_with(lock.key(), lock.lease_id())]).await;
    };
    every_write_is_refused(&bench, take_away, LostReason::TakenOver).await;
}

async fn other_lease_stops_every_write(bench: Bench) {
    let lease = bench.other.lease(Duration::from_secs(60)).await.unwrap();
    let take_away = async |bench: &Bench, lock: &Lock| drop(bench.foreign(vec![put_with(lock.key(), lease.id())]).await);
    every_write_is_refused(&bench, take_away, LostReason::TakenOver).await;
}

/// A put by hand detaches the lease; the creation revision stays.
async fn detached_key_stops_every_write(bench: Bench) {
    let take_away = async |bench: &Bench, lock: &Lock| drop(bench.foreign(vec![Op::put(lock.key(), "mine".into())]).await);
    every_write_is_refused(&bench, take_away, LostReason::TakenOver).await;
}

fn put_with(key: &Key, lease: LeaseId) -> Op {
    Op::Put { key: key.clone(), value: "mine".into(), expiry: Expiry::With(lease), previous: false }
}

/// A server that lost its data assigns the same revisions again. The keys of the former and the
/// next holder then have the same creation revision, and only their lease IDs differ.
async fn wiped(bench: &Bench, wipe: impl AsyncFnOnce()) {
    let lock = bench.lock().await;
    bench.entry("there").set(&1).guarded_by(&lock).await.unwrap();
    wipe().await;
    let lease = bench.other.lease(Duration::from_secs(60)).await.unwrap();
    let filler = Key::parse("/filler").unwrap();
    while bench.foreign(vec![Op::put(&filler, "".into())]).await.revision.next() < lock.fence() {}
    bench.foreign(vec![put_with(lock.key(), lease.id())]).await;
    let found = bench.other.store().range(Range::of(Span::Key(lock.key().clone()))).await.unwrap();
    assert_eq!(found.kvs[0].created, lock.fence(), "both keys have the same creation revision");
    let error = bench.entry("there").set(&2).guarded_by(&lock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuardLost);
    assert_eq!(lock.lost().await.reason(), LostReason::TakenOver);
    assert_eq!(bench.entry("there").get().await.unwrap(), None);
}

#[tokio::test]
async fn wiped_store_refuses_old_guard_on_memory() {
    let store = MemoryStore::new();
    let bench = Bench::of(Client::with_store(store.clone()));
    bench.fill().await;
    wiped(&bench, async || store.faults().wipe()).await;
}

#[tokio::test]
async fn wiped_server_refuses_old_guard_on_v3() {
    let mut etcd = Etcd::start().await;
    let bench = Bench::of(Client::connect(&etcd.url_v3()).await.unwrap());
    bench.fill().await;
    wiped(&bench, async || etcd.wipe().await).await;
}

async fn conflict_is_not_reported_as_lost_guard(bench: Bench) {
    bench.fill().await;
    let stale = seen(&bench).await;
    PlainDir::open(&bench.other, &bench.env).unwrap().limit.set(&7).await.unwrap();
    let (there, new, dir) = (bench.entry("there"), bench.entry("new"), bench.plain());
    let refused = async |guard: &Guard| {
        let refused = |result: Result<(), Error>| {
            assert_eq!(bench.requests(), 1);
            let error = result.unwrap_err();
            (error.kind(), error.key().cloned(), error.current::<u32>().map(|now| **now), error.current::<Plain>().map(|now| now.limit))
        };
        bench.requests();
        [
            refused(there.create(&2).guarded_by(guard).await.map(drop)),
            refused(new.replace(&2).guarded_by(guard).await.map(drop)),
            refused(there.compare_and_swap(Expect::value(&5), &2).guarded_by(guard).await.map(drop)),
            refused(there.compare_and_delete(Expect::value(&5)).guarded_by(guard).await.map(drop)),
            refused(dir.create(&plain()).guarded_by(guard).await.map(drop)),
            refused(dir.compare_and_swap(&stale, &plain()).guarded_by(guard).await.map(drop)),
            refused(dir.compare_and_swap(&stale, &plain()).non_atomic().guarded_by(guard).await.map(drop)),
            refused(bench.client.transaction().expect(&there, Expect::value(&5)).set(&new, &1).guarded_by(guard).await.map(drop)),
            refused(bench.client.transaction().expect_unchanged(&dir, &stale).set(&new, &1).guarded_by(guard).await.map(drop)),
            refused(bench.client.directory(&bench.path("mapped")).unwrap().delete().guarded_by(guard).await.map(drop)),
        ]
    };
    let lock = bench.lock().await;
    let (there_key, dir_key) = (Some(there.key().clone()), Some(dir.key().clone()));
    let expected = [
        (ErrorKind::AlreadyExists, there_key.clone(), Some(1), None),
        (ErrorKind::NotFound, Some(new.key().clone()), None, None),
        (ErrorKind::Conflict, there_key.clone(), Some(1), None),
        (ErrorKind::Conflict, there_key.clone(), Some(1), None),
        (ErrorKind::AlreadyExists, dir_key.clone(), None, None),
        (ErrorKind::Conflict, dir_key.clone(), None, Some(7)),
        (ErrorKind::Conflict, dir_key.clone(), None, Some(7)),
        (ErrorKind::Conflict, there_key, Some(1), None),
        (ErrorKind::Conflict, dir_key, None, Some(7)),
        (ErrorKind::DirectoryNotEmpty, Some(Key::parse(&bench.path("mapped")).unwrap()), None, None),
    ];
    assert_eq!(refused(&lock).await, expected);
    assert!(lock.is_held());

    // A lost guard takes precedence over a conflict. Each write has a guard that does not know of
    // its loss yet.
    let before = bench.stored().await;
    for at in 0..expected.len() {
        let lock = bench.lock_named(&format!("both-{at}")).await;
        bench.foreign(vec![Op::delete(lock.key())]).await;
        let write: BoxFuture<'_, Result<()>> = match at {
            0 => Box::pin(async { there.create(&2).guarded_by(&lock).await.map(drop) }),
            1 => Box::pin(async { new.replace(&2).guarded_by(&lock).await.map(drop) }),
            2 => Box::pin(async { there.compare_and_swap(Expect::value(&5), &2).guarded_by(&lock).await.map(drop) }),
            3 => Box::pin(async { there.compare_and_delete(Expect::value(&5)).guarded_by(&lock).await.map(drop) }),
            4 => Box::pin(async { dir.create(&plain()).guarded_by(&lock).await.map(drop) }),
            5 => Box::pin(async { dir.compare_and_swap(&stale, &plain()).guarded_by(&lock).await.map(drop) }),
            6 => Box::pin(async { dir.compare_and_swap(&stale, &plain()).non_atomic().guarded_by(&lock).await.map(drop) }),
            7 => Box::pin(async {
                bench.client.transaction().expect(&there, Expect::value(&5)).set(&new, &1).guarded_by(&lock).await.map(drop)
            }),
            8 => Box::pin(async {
                bench.client.transaction().expect_unchanged(&dir, &stale).set(&new, &1).guarded_by(&lock).await.map(drop)
            }),
            _ => Box::pin(async { bench.client.directory(&bench.path("mapped")).unwrap().delete().guarded_by(&lock).await.map(drop) }),
        };
        bench.requests();
        let error = write.await.unwrap_err();
        assert_eq!((error.kind(), error.key(), bench.requests()), (ErrorKind::GuardLost, Some(lock.key()), 1), "{at}");
        assert!(error.current::<u32>().is_none() && error.current::<Plain>().is_none());
    }
    assert_eq!(bench.stored().await, before);
}

/// A write that is refused tells its guard of the loss, which ends `while_held`. The client is not
/// deaf here.
async fn refused_write_ends_while_held(bench: Bench) {
    bench.fill().await;
    let lock = bench.other.lock(&format!("/locks/{}/told", bench.env)).acquire().await.unwrap();
    let running = lock.while_held(std::future::pending::<()>());
    let refused = async {
        bench.foreign(vec![Op::delete(lock.key())]).await;
        bench.entry("there").set(&2).guarded_by(&lock).await.unwrap_err()
    };
    let (lost, refused) = timeout(LIMIT, async { tokio::join!(running, refused) }).await.unwrap();
    assert_eq!((lost.unwrap_err().reason(), refused.kind()), (LostReason::KeyDeleted, ErrorKind::GuardLost));
}

async fn write_under_two_guards_needs_both(bench: Bench) {
    bench.fill().await;
    let (one, two) = (bench.lock_named("one").await, bench.lock_named("two").await);
    let there = bench.entry("there");
    bench.requests();
    there.set(&2).guarded_by(&one).guarded_by(&two).await.unwrap();
    assert_eq!(bench.requests(), 1);
    let conflict = there.compare_and_swap(Expect::value(&1), &3).guarded_by(&one).guarded_by(&two).await.unwrap_err();
    assert_eq!((conflict.kind(), conflict.current::<u32>().map(|now| **now)), (ErrorKind::Conflict, Some(2)));
    bench.foreign(vec![Op::delete(one.key())]).await;
    let lost = there.compare_and_swap(Expect::value(&1), &3).guarded_by(&one).guarded_by(&two).await.unwrap_err();
    assert_eq!((lost.kind(), lost.key()), (ErrorKind::GuardLost, Some(one.key())));
    assert!(two.is_held() && !one.is_held());
    there.set(&4).guarded_by(&two).await.unwrap();
    bench.foreign(vec![Op::delete(two.key())]).await;
    let three = bench.lock_named("three").await;
    let lost = there.set(&5).guarded_by(&three).guarded_by(&two).await.unwrap_err();
    assert_eq!((lost.kind(), lost.key()), (ErrorKind::GuardLost, Some(two.key())));
    assert_eq!(there.get().await.unwrap().as_deref(), Some(&4));
}

async fn leader_guards_writes_until_it_resigns(bench: Bench) {
    let leader = bench.other.election::<u32>(&format!("/elections/{}", bench.env)).campaign(&7).await.unwrap();
    let there = bench.entry("there");
    there.set(&1).guarded_by(&leader).await.unwrap();
    leader.proclaim(&8).await.unwrap();
    there.set(&2).guarded_by(&leader).await.unwrap();
    let late = there.set(&3).guarded_by(&leader);
    leader.resign().await.unwrap();
    assert_eq!(late.await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(there.get().await.unwrap().as_deref(), Some(&2));
}

/// The first attempt fails with a conflict, and the guard is lost before the second.
async fn lost_guard_ends_retries(bench: Bench) {
    // A non-atomic write reads again after a conflict.
    let kinds: &[(&str, Write)] = writes! {
        "modify": |bench| bench.mapped().limit.modify(|n| n.map(|n| n + 1));
        "update": |bench| bench.mapped().update(|mapped| mapped.limit += 1);
        "update, in steps": |bench| bench.mapped().update(|mapped| mapped.limit += 1).non_atomic();
        "set of a map": |bench| bench.mapped().quotas.set(&quotas(2));
        "delete": |bench| bench.mapped().delete();
    };
    for (name, write) in kinds {
        bench.fill().await;
        let lock = bench.lock().await;
        let (limit, quota) = (Key::parse(&bench.path("mapped/limit")).unwrap(), Key::parse(&bench.path("mapped/quotas/q000")).unwrap());
        let conflict = Txn { then: vec![Op::put(&limit, "70".into()), Op::put(&quota, "71".into())], ..Txn::default() };
        let delete = Txn { then: vec![Op::delete(lock.key())], ..Txn::default() };
        bench.requests();
        bench.before_commits([BeforeCommit::Nothing, BeforeCommit::Commit(conflict), BeforeCommit::Commit(delete)]);
        let error = timeout(LIMIT, write(&bench, Some(&lock))).await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(lock.key())), "{name}: {error}");
        let counts = bench.counting.take();
        assert_eq!((counts.commit, counts.total()), (3, 3), "{name}");
        let now = MappedDir::open(&bench.other, &bench.env).unwrap().get().await.unwrap();
        assert_eq!((now.limit, now.quotas["q000"], now.quotas.len()), (70, 71, 3), "{name}");
    }
}

async fn every_step_checks_guard(bench: Bench) {
    bench.fill().await;
    let lock = bench.lock().await;
    let delete = Txn { then: vec![Op::delete(lock.key())], ..Txn::default() };
    // The read and the first step pass, and the guard is lost before the second step.
    bench.before_commits([BeforeCommit::Nothing, BeforeCommit::Nothing, BeforeCommit::Commit(delete)]);
    bench.requests();
    let all = quotas(300);
    let error = bench.mapped().quotas.set(&all).non_atomic().guarded_by(&lock).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::GuardLost, Some(lock.key())));
    assert_eq!(bench.requests(), 3);
    let written: Vec<&str> = error.written().iter().filter_map(|key| key.segments().last()).collect();
    let expected: Vec<&String> = all.keys().take(126).collect();
    assert_eq!(written, expected, "128 operations minus the two conditions of the guard");
    let stored = MappedDir::open(&bench.other, &bench.env).unwrap().quotas.get().await.unwrap();
    assert_eq!(stored.len(), 126);

    let again = bench.lock_named("again").await;
    bench.mapped().quotas.set(&all).non_atomic().guarded_by(&again).await.unwrap();
    assert_eq!(bench.requests(), 4, "one read, and 300 entries in steps of 126");
    assert_eq!(MappedDir::open(&bench.other, &bench.env).unwrap().quotas.get().await.unwrap().len(), 300);
}

async fn guard_counts_against_operation_limit(bench: Bench) {
    let lock = bench.lock().await;
    let dir = bench.mapped();
    let others = MappedDir::open(&bench.other, &bench.env).unwrap();
    // Each write has 126 conditions: no key was changed, and each of the 125 keys exists (the limit
    // and 124 quotas).
    others.set(&mapped(124)).await.unwrap();
    let seen = others.get().await.unwrap();
    dir.compare_and_swap(&seen, &Mapped { limit: 2, ..mapped(124) }).guarded_by(&lock).await.unwrap();
    dir.update(|mapped| mapped.limit = 3).guarded_by(&lock).await.unwrap();

    others.set(&mapped(125)).await.unwrap();
    let seen = others.get().await.unwrap();
    bench.requests();
    let error = dir.compare_and_swap(&seen, &Mapped { limit: 2, ..mapped(125) }).guarded_by(&lock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooManyOperations);
    assert!(error.to_string().contains("1 operations under 129 conditions (2 of them the guard's)"), "{error}");
    assert_eq!(bench.requests(), 0);
    let error = dir.update(|mapped| mapped.limit = 3).guarded_by(&lock).await.unwrap_err();
    assert_eq!((error.kind(), bench.requests()), (ErrorKind::TooManyOperations, 1), "the read is made before");
    dir.compare_and_swap(&seen, &Mapped { limit: 2, ..mapped(125) }).await.unwrap();

    let entries: Vec<_> = (0..127).map(|n| bench.entry(&format!("e{n}"))).collect();
    let expecting = |count: usize| {
        let transaction = bench.client.transaction().set(&bench.entry("sum"), &1);
        entries.iter().take(count).fold(transaction, |transaction, entry| transaction.expect(entry, Expect::Absent))
    };
    expecting(126).guarded_by(&lock).await.unwrap();
    assert_eq!(expecting(127).guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::TooManyOperations);
    expecting(127).await.unwrap();
    // On failure the transaction reads as many keys as it has conditions, and one for the guard.
    bench.entry("e125").set(&1).await.unwrap();
    assert_eq!(expecting(126).guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(lock.is_held());
}

async fn released_guard_refuses_pending_writes(bench: Bench) {
    bench.fill().await;
    let before = bench.stored().await;
    let lock = bench.lock().await;
    let write = bench.entry("there").set(&2).guarded_by(&lock);
    let update = bench.plain().update(|plain| plain.limit = 9).guarded_by(&lock);
    lock.release().await.unwrap();
    let next = bench.lock().await;
    bench.requests();
    assert_eq!(write.await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(update.await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(bench.requests(), 0);

    let write = bench.entry("there").set(&2).guarded_by(&next);
    let _token = next.into_token();
    assert_eq!(write.await.unwrap_err().kind(), ErrorKind::GuardLost, "the token's next owner holds the lock");
    assert_eq!(bench.requests(), 0);
    assert_eq!(bench.stored().await, before);
}

/// The write is sent while the lock is held. It arrives after the same client has acquired the lock
/// again, with the same lease and at the same key.
async fn write_of_earlier_hold_is_refused(bench: Bench) {
    bench.fill().await;
    let before = bench.stored().await;
    let lock = bench.lock().await;
    let (key, lease) = (lock.key().clone(), lock.lease_id());
    let gate = Arc::new(Notify::new());
    bench.before_commits([BeforeCommit::Wait(Arc::clone(&gate))]);
    let mut write = polled(bench.entry("there").set(&2).guarded_by(&lock).into_future());
    lock.release().await.unwrap();
    let next = bench.lock().await;
    assert_eq!((next.key(), next.lease_id()), (&key, lease));
    gate.notify_one();
    let error = timeout(LIMIT, &mut write).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GuardLost);
    assert_eq!(bench.stored().await, before);
    next.verify().await.unwrap();
    bench.entry("there").set(&3).guarded_by(&next).await.unwrap();
}

/// Polls the future once, which must not complete it, and returns it.
fn polled<T>(mut future: BoxFuture<'static, T>) -> BoxFuture<'static, T> {
    assert!((&mut future).now_or_never().is_none(), "the write waits at the gate");
    future
}

/// Once its deadline has passed by the local clock, a guard lets no write through, since another
/// client may hold the lock by then.
#[tokio::test(start_paused = true)]
async fn expired_guard_sends_nothing_on_memory() {
    let store = MemoryStore::new();
    let bench = Bench::of(Client::with_store(store.clone()));
    bench.fill().await;
    for (name, write) in WRITES.iter().chain(UNCHANGING_WRITES) {
        let lock = bench.lock().await;
        let before = bench.stored().await;
        store.faults().fail(Calls::KeepAlives, usize::MAX, ErrorKind::Unavailable);
        tokio::time::sleep(TTL).await;
        store.faults().clear();
        assert!(!lock.is_held());
        bench.requests();
        assert_eq!(write(&bench, Some(&lock)).await.unwrap_err().kind(), ErrorKind::GuardLost, "{name}");
        assert_eq!((bench.requests(), bench.stored().await), (0, before), "{name}");
    }
}

/// A server that hung applies the write after its caller has given up. The guard is compared at
/// that time.
#[tokio::test(start_paused = true)]
async fn late_write_compares_guard_when_applied_on_memory() {
    for held in [true, false] {
        let store = MemoryStore::new();
        let bench = Bench::of(Client::with_store(store.clone()));
        let lock = bench.lock().await;
        store.faults().apply_late(1, Duration::from_secs(2));
        let error = bench.entry("there").set(&2).guarded_by(&lock).await.unwrap_err();
        assert!(error.may_have_applied() && lock.is_held(), "{error}");
        if !held {
            bench.foreign(vec![Op::delete(lock.key())]).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(bench.entry("there").get().await.unwrap().as_deref(), held.then_some(&2));
    }
}

/// v2 has no transaction over two keys. A guarded write sends nothing, not even a read.
#[tokio::test]
async fn v2_refuses_guarded_writes() {
    let bench = Bench::of(Client::connect(&etcd_typed_tests::shared("guarded").await.url_v2()).await.unwrap());
    let lock = bench.other.lock(&format!("/locks/{}", bench.env)).acquire().await.unwrap();
    bench.entry("there").set(&1).await.unwrap();
    PlainDir::open(&bench.other, &bench.env).unwrap().set(&plain()).non_atomic().await.unwrap();
    let before = bench.stored().await;
    let directories: &[(&str, Write)] = writes! {
        "directory create": |bench| bench.client.directory(&bench.path("made")).unwrap().create();
        "directory update": |bench| bench.client.directory(&bench.path("plain")).unwrap().update().ttl(Duration::from_secs(60));
        "directory delete": |bench| bench.client.directory(&bench.path("plain")).unwrap().delete();
    };
    for (name, write) in WRITES.iter().chain(UNCHANGING_WRITES).chain(directories) {
        bench.requests();
        let error = write(&bench, Some(&lock)).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {text}");
        for words in ["etcd v2", "two keys", "`verify()`", "`while_held`", "etcd v3"] {
            assert!(text.contains(words), "{name}: {text}");
        }
        assert_eq!(bench.requests(), 0, "{name}");
        assert!(lock.is_held(), "{name}");
    }
    lock.verify().await.unwrap();
    assert_eq!(bench.stored().await, before);
}

/// No store that can compare a guard has directories as nodes of their own.
#[tokio::test]
async fn guard_keeps_error_of_directory_calls_on_memory() {
    let bench = Bench::memory().await;
    let lock = bench.lock().await;
    let directory = bench.client.directory("/d").unwrap();
    let error = directory.create().guarded_by(&lock).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unsupported, directory.create().await.unwrap_err().to_string()));
    assert_eq!(directory.delete().guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::NotFound);
    bench.foreign(vec![Op::delete(lock.key())]).await;
    assert_eq!(directory.delete().guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(directory.create().guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::GuardLost);
}

/// Wraps a store and keeps the answers to its commits.
fn recording(store: &Arc<dyn Store>, answers: &Arc<Mutex<Vec<Committed>>>) -> Arc<dyn Store> {
    let answers = answers.clone();
    Arc::new(HookedStore::new(store.clone(), move |call, store| {
        let answers = answers.clone();
        async move {
            let reply = call.send(&store).await?;
            if let Reply::Commit(committed) = &reply {
                answers.lock().unwrap().push(committed.clone());
            }
            Ok(reply)
        }
    }))
}

/// Wraps a store and delays each commit by 0 to 11 ms.
fn delaying_commits(store: &Arc<dyn Store>) -> HookedStore {
    let commits = AtomicU64::new(0);
    HookedStore::new(store.clone(), move |call, store| {
        let delay = if matches!(call, Call::Commit(_)) { commits.fetch_add(1, Ordering::Relaxed) % 12 } else { 0 };
        async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            call.send(&store).await
        }
    })
}

/// Former holders go on writing until they are refused, and some of their writes arrive while the
/// next holder has the lock. The history of the value shows that none of these was applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn former_holders_never_write_again() {
    const ROUNDS: usize = 100;
    const WRITERS: usize = 6;
    const LAGGARDS: usize = 3;
    let bench = Bench::v3().await;
    let answers = Arc::<Mutex<Vec<Committed>>>::default();
    let recording = recording(bench.other.store(), &answers);
    let owner = Client::with_store(delaying_commits(&recording)).entry::<u64>(&bench.path("owner")).unwrap();
    let begun = bench.foreign(vec![Op::put(owner.key(), "0".into())]).await.revision;
    // The revisions at which each holder got the lock and lost it.
    let mut holders: Vec<(Revision, Revision)> = Vec::new();
    let (mut writers, mut laggards) = (Vec::new(), Vec::new());
    let arrive = async |laggards: &mut Vec<(Arc<Notify>, BoxFuture<'static, Result<Revision>>)>| {
        for (gate, write) in laggards.drain(..) {
            gate.notify_one();
            assert_eq!(timeout(LIMIT, write).await.unwrap().unwrap_err().kind(), ErrorKind::GuardLost);
        }
    };
    for round in 0..ROUNDS {
        let lock = Arc::new(bench.lock().await);
        let mut late = std::mem::take(&mut laggards);
        for _ in 0..LAGGARDS {
            let gate = Arc::new(Notify::new());
            let gated = interfering(&recording, &Arc::new(Mutex::new([BeforeCommit::Wait(Arc::clone(&gate))].into())));
            let owner = Client::with_store(gated).entry::<u64>(owner.key().as_str()).unwrap();
            laggards.push((gate, polled(owner.set(&lock.fence().get()).guarded_by(&lock).into_future())));
        }
        for _ in 0..WRITERS {
            let (lock, owner) = (Arc::clone(&lock), owner.clone());
            writers.push(tokio::spawn(async move {
                let mut revisions = Vec::new();
                loop {
                    match owner.set(&lock.fence().get()).guarded_by(&lock).await {
                        Ok(revision) => revisions.push(revision),
                        Err(error) => return (lock.fence(), revisions, error),
                    }
                }
            }));
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
        // The late writes of the holder before arrive now.
        arrive(&mut late).await;
        // Another client ends this hold, by deleting the key or by revoking the lease.
        let end = if round % 2 == 0 {
            bench.foreign(vec![Op::delete(lock.key())]).await.revision
        } else {
            bench.other.store().revoke(lock.lease_id()).await.unwrap();
            bench.other.store().range(Range::of(Span::Key(lock.key().clone()))).await.unwrap().revision
        };
        holders.push((lock.fence(), end));
    }
    arrive(&mut laggards).await;
    let end_of = |fence: u64| holders.iter().find(|(other, _)| other.get() == fence).unwrap().1;
    let mut written = 0;
    for writer in writers {
        let (fence, revisions, error) = timeout(LIMIT, writer).await.unwrap().unwrap();
        assert_eq!(error.kind(), ErrorKind::GuardLost, "{error}");
        assert!(revisions.iter().all(|revision| fence < *revision && *revision < end_of(fence.get())), "{fence}: {revisions:?}");
        written += revisions.len();
    }
    let mut history = bench.other.entry::<u64>(&bench.path("owner")).unwrap().watch().since(begun).await.unwrap();
    let mut last = 0;
    for _ in 0..written {
        let change = timeout(LIMIT, history.next()).await.unwrap().unwrap().unwrap();
        let fence = change.new.unwrap();
        assert!(last <= fence && change.revision < end_of(fence), "{fence} after {last}, at {}", change.revision);
        last = fence;
    }
    // A write that is refused while the lock is held was sent by a former holder.
    let answers = answers.lock().unwrap();
    let refused: Vec<Revision> = answers.iter().filter(|answer| !answer.succeeded).map(|answer| answer.revision).collect();
    let late = refused.iter().filter(|at| holders.iter().any(|(fence, end)| fence <= at && *at < end)).count();
    println!(
        "{ROUNDS} holders, {written} writes under their guards, {} refused, {late} of them while the next one had the lock",
        refused.len()
    );
    assert!(written > ROUNDS && late >= LAGGARDS * (ROUNDS - 1), "{written} {late}");
    assert!(holders.windows(2).all(|pair| pair[0].0 < pair[1].0));
}
