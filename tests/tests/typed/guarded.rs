//! Writes with `guarded_by`. Every kind of write commits while the guard is held, and fails with
//! `GuardLost` once the guard is lost. The guard costs no additional request, and a conflict is not
//! reported as a lost guard. Most tests run with the memory store and with a real v3 server, since
//! these could differ; v2 refuses such writes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the figures of a run are its result")]

#[macro_use]
mod writes;

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

use self::writes::{IntoStoreError, UNCHANGING_WRITES, WRITES, Write, seen};

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

/// What [`interfering`] does before it passes on a commit.
enum BeforeCommit {
    Nothing,
    /// The commit waits.
    Wait(Arc<Notify>),
    /// Another client commits this transaction.
    Commit(Txn),
}

/// The actions that [`interfering`] performs before the next commits: one action before each
/// commit, in this order.
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

    /// Restores the keys with which every case starts.
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

    /// Returns all keys except those of locks, each with its value, creation revision and
    /// modification revision.
    async fn stored(&self) -> BTreeMap<String, (Bytes, Revision, Revision)> {
        let nodes = self.other.directory(&format!("/{}", self.env)).unwrap().list_recursive().await.unwrap().into_inner();
        let values = nodes.into_iter().filter_map(|node| Some((node.path, node.value?)));
        values.map(|(path, value)| (path, (value.to_vec().into(), value.created(), value.modified()))).collect()
    }

    async fn foreign(&self, ops: Vec<Op>) -> Committed {
        self.other.store().commit(Txn::new(ops)).await.unwrap()
    }

    /// Sets what happens before each of the next commits of `client`.
    fn before_commits(&self, before: impl Into<VecDeque<BeforeCommit>>) {
        *self.before.lock().unwrap() = before.into();
    }

    fn requests(&self) -> u64 {
        self.counting.take().total()
    }
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

mod late;
mod lost;

cases! {
    held_guard_costs_no_request
    unchanging_write_checks_guard
    conflict_is_not_reported_as_lost_guard
    refused_write_ends_while_held
    write_under_two_guards_needs_both
    leader_guards_writes_until_it_resigns
    guard_counts_against_operation_limit
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
            refused(bench.client.transaction().expect(&there, Expect::value(&5)).write(new.set(&1)).guarded_by(guard).await.map(drop)),
            refused(bench.client.transaction().expect_unchanged(&dir, &stale).write(new.set(&1)).guarded_by(guard).await.map(drop)),
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

    // If the guard is lost and another condition fails too, the write returns `GuardLost`. Each
    // write has a guard that has not noticed its loss yet.
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
                bench.client.transaction().expect(&there, Expect::value(&5)).write(new.set(&1)).guarded_by(&lock).await.map(drop)
            }),
            8 => Box::pin(async {
                bench.client.transaction().expect_unchanged(&dir, &stale).write(new.set(&1)).guarded_by(&lock).await.map(drop)
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

/// A refused write marks its guard as lost, which ends `while_held`. The guard's client can read
/// and watch in this test.
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
        let transaction = bench.client.transaction().write(bench.entry("sum").set(&1));
        entries.iter().take(count).fold(transaction, |transaction, entry| transaction.expect(entry, Expect::Absent))
    };
    expecting(126).guarded_by(&lock).await.unwrap();
    assert_eq!(expecting(127).guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::TooManyOperations);
    expecting(127).await.unwrap();
    // If a condition fails, the transaction reads the key of each condition, and the guard's key.
    bench.entry("e125").set(&1).await.unwrap();
    assert_eq!(expecting(126).guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(lock.is_held());
}

/// v2 has no transaction over two keys. A guarded write is refused without a request.
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

/// Stores that support guarded writes do not have directories as nodes.
#[tokio::test]
async fn guarded_directory_call_returns_usual_error_with_memory_store() {
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
