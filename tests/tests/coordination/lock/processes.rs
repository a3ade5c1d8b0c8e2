//! Holders whose runtime is blocked, and holders whose process starts another process and dies.

use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::testing::{CountingStore, Etcd};
use etcd_typed::{Client, ErrorKind};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(2);

/// Fault F31: the only worker thread of a runtime is blocked until another client, on its own
/// thread, has the lock.
async fn blocked_holder(holder: Client, other: Client) {
    let lock = holder.lock("/blocked").ttl(TTL).acquire().await.unwrap();
    let (sender, acquired) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let lock = other.lock("/blocked").ttl(Duration::from_secs(60)).acquire().await.unwrap();
            sender.send(lock.fence()).unwrap();
            // The lease of this lock lasts for the rest of the test.
            let _ = released.recv();
            lock.verify().await.unwrap();
        });
    });
    let next = acquired.recv_timeout(LIMIT).expect("the lease of the blocked holder expires in time");
    // No task of the blocked runtime has run since the lease expired, and none runs before these
    // assertions.
    assert!(!lock.is_held() && lock.remaining().is_zero());
    assert!(next > lock.fence());
    let guarded = holder.entry::<u64>("/guarded").unwrap();
    assert_eq!(guarded.set(&1).guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::GuardLost);
    timeout(LIMIT, lock.lost()).await.expect("the lock is lost in time");
    assert!(!lock.is_held());
    assert_eq!(guarded.get().await.unwrap(), None);
    release.send(()).unwrap();
    other.join().unwrap();
}

#[tokio::test]
async fn memory_lock_is_lost_while_runtime_is_blocked() {
    let store = MemoryStore::new();
    blocked_holder(Client::with_store(store.clone()), Client::with_store(store)).await;
}

#[tokio::test]
async fn v3_lock_is_lost_while_runtime_is_blocked() {
    let etcd = Etcd::start().await;
    let client = async || Client::connect(&etcd.url_v3()).await.unwrap();
    blocked_holder(client().await, client().await).await;
}

/// Fault F33: the holder starts a process that inherits its resources and outlives it.
#[tokio::test]
async fn v3_child_process_does_not_keep_lock_alive() {
    let etcd = etcd_typed_tests::shared("locks").await;
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "lock::processes::holder_that_starts_a_process"])
        .env("LOCK_OF_DEAD_PROCESS_AT", etcd.url_v3())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let child: u32 = loop {
        let line = timeout(LIMIT, lines.next_line()).await.expect("in time").unwrap().expect("the holder has a lock and a child");
        if let Some((_, child)) = line.split_once("CHILD ") {
            break child.parse().unwrap();
        }
    };
    let lock = Client::connect(&etcd.url_v3()).await.unwrap().lock("/dead-process");
    assert!(lock.try_acquire().await.unwrap().is_none());
    holder.kill().await.unwrap();
    let taken = timeout(LIMIT, lock.acquire()).await.expect("the lease expires in time").unwrap();
    let ended = Command::new("sh").arg("-c").arg(format!("kill {child}")).status().await.unwrap();
    assert!(ended.success(), "the child still runs after the lease expired");
    taken.release().await.unwrap();
}

#[tokio::test]
#[ignore = "not a test itself: v3_child_process_does_not_keep_lock_alive runs it"]
#[allow(clippy::print_stdout, reason = "it tells its parent the id of its child")]
async fn holder_that_starts_a_process() {
    let address = std::env::var("LOCK_OF_DEAD_PROCESS_AT").expect("a test starts this process");
    let client = Client::connect(&address).await.unwrap();
    let _lock = client.lock("/dead-process").ttl(TTL).acquire().await.unwrap();
    // The child runs until the test kills it, at most a minute.
    let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
    println!("CHILD {}", child.id().unwrap());
    child.wait().await.unwrap();
}

/// Fault F33: when the guard's runtime has ended, exactly one other runtime sends its keep-alives.
#[test]
fn memory_moved_guard_is_kept_alive_by_one_task() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let store = CountingStore::new(std::sync::Arc::new(MemoryStore::new()));
    let client = Client::with_store(store.clone());
    let lock = runtime().block_on(async { client.lock("/moved").ttl(TTL).acquire().await.unwrap() });
    let second = runtime();
    second.block_on(async {
        // The first runtime has ended. The guard moves to the second runtime.
        lock.verify().await.unwrap();
        tokio::time::sleep(TTL).await;
        store.take();
        tokio::time::sleep(10 * TTL).await;
        assert!(lock.is_held());
        let kept = store.counts().keep_alive;
        assert!((20..=40).contains(&kept), "about three keep-alives in each of ten times to live: {kept}");
    });
}
