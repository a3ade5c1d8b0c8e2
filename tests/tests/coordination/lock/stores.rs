//! `Lock` on every store: holders and waiters, how a holder learns that the lock is lost, and how a
//! lock is handed over.

mod foreign;
mod tokens;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::store::{Expiry, Op, Txn};
use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Error, ErrorKind, Key, LeaseId, Lock, LostReason, NamedLock, Token};
use etcd_typed_tests::on_every_store;
use etcd_typed_tests::waiting::eventually;
use tokio::time::{sleep, timeout};

on_every_store! { "locks":
    lock_has_one_holder_at_a_time
    try_acquire_returns_at_once
    acquire_within_times_out
    waiters_acquire_in_arrival_order
    lock_is_not_reentrant
    dropping_guard_releases_lock
    dropping_guard_outside_runtime_releases_lock
    queue_lists_holder_and_waiters
    cancelled_waiter_wakes_no_other
    dropped_acquires_leave_no_key
    keep_alive_does_not_change_key
}

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a test waits to see that something does not happen.
const WHILE: Duration = Duration::from_millis(300);

struct Bench {
    client: Client,
}

impl Bench {
    fn lock(&self) -> NamedLock {
        self.client.lock("/x")
    }

    /// Returns true if the store has transactions and leases. v2 has neither.
    fn transactions(&self) -> bool {
        self.client.store().capabilities().transactions
    }

    /// Returns another client. On v2, that client knows none of this client's leases.
    async fn foreigner(&self) -> Client {
        match self.client.store().capabilities().name {
            "etcd v2" => Client::connect(&etcd_typed_tests::shared("locks").await.url_v2()).await.unwrap(),
            "etcd v3" => Client::connect(&etcd_typed_tests::shared("locks").await.url_v3()).await.unwrap(),
            _ => self.client.clone(),
        }
    }

    /// Writes a key through another client. With `lease`, the key gets that lease, or on v2 a time
    /// to live.
    async fn write(&self, path: &str, lease: Option<LeaseId>) {
        let key = Key::parse(&format!("{}{path}", self.client.namespace())).unwrap();
        let expiry = match lease {
            None => Expiry::Never,
            Some(lease) if self.transactions() => Expiry::With(lease),
            Some(_) => Expiry::After(Duration::from_secs(5)),
        };
        let put = Op::Put { key, value: "foreign".into(), expiry, previous: false };
        self.foreigner().await.store().commit(Txn::new(vec![put])).await.unwrap();
    }

    /// Deletes a key through another client.
    async fn delete(&self, key: &Key) {
        let delete = Txn::new(vec![Op::delete(key)]);
        self.foreigner().await.store().commit(delete).await.unwrap();
    }

    /// Waits until the queue has this many keys.
    async fn queued(&self, count: usize) {
        eventually(async || self.lock().queue().await.unwrap().len() == count).await;
    }
}

async fn acquire(lock: &NamedLock) -> Lock {
    timeout(LIMIT, lock.acquire()).await.expect("in time").expect("the lock")
}

/// Waits until a guard is lost, and checks that all its methods report the loss.
async fn lost(lock: Lock) -> LostReason {
    let lost = timeout(LIMIT, lock.lost()).await.expect("in time");
    assert_eq!((lost.key(), lost.lease()), (Some(lock.key()), lock.lease_id()));
    assert_eq!((lock.is_held(), lock.remaining()), (false, Duration::ZERO));
    assert_eq!(Error::from(lost.clone()).kind(), ErrorKind::GuardLost);
    assert_eq!(lock.verify().await.unwrap_err().kind(), ErrorKind::GuardLost);
    assert_eq!(lock.while_held(async { panic!("the work runs without the lock") }).await, Err::<(), _>(lost.clone()));
    assert_eq!(lock.release().await.unwrap_err().kind(), ErrorKind::GuardLost);
    lost.reason()
}

async fn lock_has_one_holder_at_a_time(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    assert!(lock.is_held());
    assert!(lock.remaining() > Duration::from_secs(10) && lock.remaining() <= Duration::from_secs(15), "{:?}", lock.remaining());
    lock.verify().await.unwrap();
    assert_eq!(lock.key().as_str(), format!("{}/x/{}", bench.client.namespace(), lock.lease_id()));
    assert_eq!(lock.while_held(async { 7 }).await, Ok(7));
    let mut fence = lock.fence();
    lock.release().await.unwrap();
    assert_eq!(bench.lock().holder().await.unwrap(), None);
    for _ in 0..5 {
        let lock = acquire(&bench.lock()).await;
        assert!(lock.fence() > fence);
        fence = lock.fence();
        lock.release().await.unwrap();
    }
    // Locks with different names are independent.
    let (x, y) = (acquire(&bench.lock()).await, acquire(&bench.client.lock("/y")).await);
    assert_ne!(x.lease_id(), y.lease_id());
}

async fn try_acquire_returns_at_once(bench: Bench) {
    let lock = bench.lock().try_acquire().await.unwrap().expect("the lock is free");
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    assert_eq!(bench.lock().queue().await.unwrap().len(), 1);
    lock.release().await.unwrap();
    // A failed try leaves no key that the next try would wait for.
    let lock = bench.lock().try_acquire().await.unwrap().expect("the lock is free again");
    let waiter = tokio::spawn({
        let lock = bench.lock();
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    lock.release().await.unwrap();
    assert!(waiter.await.unwrap().is_held());
}

async fn acquire_within_times_out(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let error = bench.lock().acquire_within(WHILE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("waiting for the lock timed out after 300ms"), "{error}");
    // The waiter that gave up has left the queue.
    bench.queued(1).await;
    lock.release().await.unwrap();
    let lock = bench.lock().acquire_within(LIMIT).await.unwrap();
    assert!(lock.is_held());
}

async fn waiters_acquire_in_arrival_order(bench: Bench) {
    let order = Arc::new(Mutex::new(Vec::new()));
    let first = acquire(&bench.lock()).await;
    let mut waiters = Vec::new();
    for number in 0..6 {
        let (lock, order) = (bench.lock().info(number.to_string()), Arc::clone(&order));
        waiters.push(tokio::spawn(async move {
            let lock = acquire(&lock).await;
            lock.verify().await.unwrap();
            order.lock().unwrap().push((number, lock.fence()));
            lock.release().await.unwrap();
        }));
        bench.queued(number + 2).await;
    }
    let queue = bench.lock().queue().await.unwrap();
    assert_eq!(queue[0].fence, first.fence());
    let expected: Vec<_> = queue[1..].iter().map(|waiter| (waiter.info.parse().unwrap(), waiter.fence)).collect();
    assert_eq!(expected.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(expected.is_sorted_by(|(_, one), (_, next)| one < next));
    first.release().await.unwrap();
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), expected);
}

async fn lock_is_not_reentrant(bench: Bench) {
    let named = bench.lock();
    let lock = acquire(&named).await;
    assert!(named.try_acquire().await.unwrap().is_none());
    assert_eq!(named.clone().acquire_within(WHILE).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(lock.is_held());
}

async fn dropping_guard_releases_lock(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let fence = lock.fence();
    drop(lock);
    let lock = acquire(&bench.lock()).await;
    assert!(lock.fence() > fence);
    // Also drop a guard that watches its key. The watch starts a moment after the acquire.
    sleep(WHILE).await;
    drop(lock);
    bench.queued(0).await;
}

async fn dropping_guard_outside_runtime_releases_lock(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    std::thread::spawn(move || drop(lock)).join().unwrap();
    bench.queued(0).await;
}

async fn queue_lists_holder_and_waiters(bench: Bench) {
    assert_eq!((bench.lock().holder().await.unwrap(), bench.lock().queue().await.unwrap()), (None, vec![]));
    let lock = acquire(&bench.lock()).await;
    let waiter = tokio::spawn({
        let lock = bench.lock().info("the nightly job");
        async move { acquire(&lock).await }
    });
    bench.queued(2).await;
    let queue = bench.lock().queue().await.unwrap();
    let holder = bench.lock().holder().await.unwrap().unwrap();
    assert_eq!(holder, queue[0]);
    assert_eq!((&holder.key, holder.fence, holder.lease), (lock.key(), lock.fence(), lock.lease_id()));
    let process = holder.process.as_ref().unwrap();
    assert_eq!(process.pid, std::process::id());
    assert!(process.name.starts_with(env!("CARGO_CRATE_NAME")) && !process.host.is_empty(), "{process}");
    assert!(process.since.starts_with("20") && process.since.ends_with('Z'), "{process}");
    assert_eq!((queue[1].info.as_str(), &queue[1].process), ("the nightly job", &None));
    assert!(queue[1].fence > holder.fence);
    lock.release().await.unwrap();
    let lock = waiter.await.unwrap();
    assert_eq!(bench.lock().holder().await.unwrap().unwrap(), queue[1]);
    lock.release().await.unwrap();
}

async fn cancelled_waiter_wakes_no_other(bench: Bench) {
    let lock = acquire(&bench.lock()).await;
    let mut waiters = Vec::new();
    for count in 2..=4 {
        let named = bench.lock();
        waiters.push(tokio::spawn(async move { acquire(&named).await }));
        bench.queued(count).await;
    }
    let last = waiters.pop().unwrap();
    waiters.remove(1).abort();
    bench.queued(3).await;
    // The last waiter now waits for the first waiter, so a release by the holder does not wake it.
    lock.release().await.unwrap();
    let second = waiters.remove(0).await.unwrap();
    sleep(WHILE).await;
    assert!(!last.is_finished());
    second.release().await.unwrap();
    assert!(last.await.unwrap().is_held());
}

/// Promise L7 with the timing of a real server. The tests of `faults` on the memory store drop
/// futures at exact points.
async fn dropped_acquires_leave_no_key(bench: Bench) {
    for round in 0..40_u64 {
        let lock = acquire(&bench.lock()).await;
        let mut waiters = Vec::new();
        for number in 0..4 {
            // With this time to live, a leftover key would outlast the test.
            let named = bench.lock().ttl(Duration::from_secs(600));
            waiters.push(tokio::spawn(async move {
                let _ = timeout(Duration::from_micros(37 * (round * 4 + number)), named.acquire()).await;
                let _ = timeout(Duration::from_micros(53 * (round * 4 + number)), named.try_acquire()).await;
            }));
        }
        if round % 2 == 0 {
            lock.release().await.unwrap();
        } else {
            drop(lock);
        }
        for waiter in waiters {
            waiter.await.unwrap();
        }
    }
    bench.queued(0).await;
}

async fn keep_alive_does_not_change_key(bench: Bench) {
    let foreigner = bench.foreigner().await;
    let path = if foreigner.namespace().is_root() { bench.client.namespace().as_str() } else { "/" };
    let mut changes = foreigner.directory(path).unwrap().watch().await.unwrap();
    let lock = acquire(&bench.lock().ttl(Duration::from_secs(2))).await;
    sleep(Duration::from_secs(3)).await;
    lock.verify().await.unwrap();
    lock.release().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(timeout(LIMIT, changes.next()).await.expect("in time").unwrap().unwrap());
    }
    // In three seconds the key was created and deleted, with no change in between.
    let [came, went] = [&seen[0], &seen[1]].map(|update| update.changes.len());
    assert_eq!((came, went), (1, 1), "{seen:?}");
    assert!(seen[0].changes[0].change.new.is_some() && seen[1].changes[0].change.new.is_none(), "{seen:?}");
}

async fn namespaces_have_separate_locks(address: &str) {
    let client = async |namespace| Client::builder(address).namespace(namespace).connect().await.unwrap();
    let (outer, inner) = (client("/spaces").await, client("/spaces/inner").await);
    let lock = acquire(&outer.lock("/x")).await;
    let theirs = inner.lock("/x").try_acquire().await.unwrap().expect("the namespaces have different locks");
    assert!(theirs.key().as_str().starts_with("/spaces/inner/x/"));
    assert!(outer.lock("/inner/x").try_acquire().await.unwrap().is_none(), "both names have the same key");
    assert_eq!(inner.lock("/x").release_token(&lock.into_token()).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn v3_namespaces_have_separate_locks() {
    namespaces_have_separate_locks(&etcd_typed_tests::shared("locks").await.url_v3()).await;
}

#[tokio::test]
async fn v2_namespaces_have_separate_locks() {
    namespaces_have_separate_locks(&etcd_typed_tests::shared("locks").await.url_v2()).await;
}

#[tokio::test]
async fn memory_namespaces_have_separate_locks() {
    namespaces_have_separate_locks("memory:locks-of-namespaces").await;
}

/// Checks that a guard whose runtime has ended can be queried, released and dropped, and that the
/// guard continues on the next runtime.
fn outlives_its_runtime(address: &str) {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let address = address.to_owned();
    let (client, lock, other) = first.block_on(async {
        let client = Client::builder(&address).namespace("/outlives").connect().await.unwrap();
        let (lock, other) = (acquire(&client.lock("/x")).await, acquire(&client.lock("/y")).await);
        // Waits until the guard watches its key.
        sleep(WHILE).await;
        (client, lock, other)
    });
    drop(first);
    assert!(lock.is_held());
    drop(other);
    let second = runtime();
    second.block_on(async {
        lock.verify().await.unwrap();
        // The guard that was dropped without a runtime is released now.
        acquire(&client.lock("/y")).await.release().await.unwrap();
        lock.release().await.unwrap();
    });
    drop((client, second));
}

/// Runs the check with a server that has its own runtime.
fn guard_outlives_its_runtime(address: impl Fn(&Etcd) -> String) {
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let etcd = servers.block_on(Etcd::start());
    outlives_its_runtime(&address(&etcd));
    servers.block_on(async move { drop(etcd) });
}

#[test]
fn memory_guard_outlives_its_runtime() {
    outlives_its_runtime("memory:");
}

#[test]
fn v3_guard_outlives_its_runtime() {
    guard_outlives_its_runtime(Etcd::url_v3);
}

#[test]
fn v2_guard_outlives_its_runtime() {
    guard_outlives_its_runtime(Etcd::url_v2);
}
