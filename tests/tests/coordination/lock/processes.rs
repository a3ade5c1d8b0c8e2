//! Holders whose runtime stands still, or whose process starts others and dies.

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

/// Only a test that fails waits for it.
const LIMIT: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(2);

/// F31: the only worker of a runtime does not run tasks until another client, on a thread of its own, has got the lock.
async fn blocked_holder(holder: Client, other: Client) {
    let lock = holder.lock("/blocked").ttl(TTL).acquire().await.unwrap();
    let (sender, acquired) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let lock = other.lock("/blocked").ttl(Duration::from_secs(60)).acquire().await.unwrap();
            sender.send(lock.fence()).unwrap();
            // The lease is long enough for the rest of the test.
            let _ = released.recv();
            lock.verify().await.unwrap();
        });
    });
    let next = acquired.recv_timeout(LIMIT).expect("the lease of the blocked holder ends");
    // No task has run since, and none runs between these lines.
    assert!(!lock.is_held() && lock.remaining().is_zero());
    assert!(next > lock.fence());
    let guarded = holder.entry::<u64>("/guarded").unwrap();
    assert_eq!(guarded.set(&1).guarded_by(&lock).await.unwrap_err().kind(), ErrorKind::GuardLost);
    timeout(LIMIT, lock.lost()).await.expect("it is lost");
    assert!(!lock.is_held());
    assert_eq!(guarded.get().await.unwrap(), None);
    release.send(()).unwrap();
    other.join().unwrap();
}

#[tokio::test]
async fn blocked_runtime_does_not_hold_a_lock_too_long_in_memory() {
    let store = MemoryStore::new();
    blocked_holder(Client::with_store(store.clone()), Client::with_store(store)).await;
}

#[tokio::test]
async fn blocked_runtime_does_not_hold_a_lock_too_long() {
    let etcd = Etcd::start().await;
    let client = async || Client::connect(&etcd.url_v3()).await.unwrap();
    blocked_holder(client().await, client().await).await;
}

/// F33: a process that was started by the holder, and inherits what a process inherits, lives on.
#[tokio::test]
async fn lock_of_a_dead_process_is_free_though_its_child_lives() {
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
        let line = timeout(LIMIT, lines.next_line()).await.expect("in time").unwrap().expect("it has a lock and a child");
        if let Some((_, child)) = line.split_once("CHILD ") {
            break child.parse().unwrap();
        }
    };
    let lock = Client::connect(&etcd.url_v3()).await.unwrap().lock("/dead-process");
    assert!(lock.try_acquire().await.unwrap().is_none());
    holder.kill().await.unwrap();
    let taken = timeout(LIMIT, lock.acquire()).await.expect("nobody keeps the lease alive").unwrap();
    let ended = Command::new("sh").arg("-c").arg(format!("kill {child}")).status().await.unwrap();
    assert!(ended.success(), "the child has outlived the lease");
    taken.release().await.unwrap();
}

#[tokio::test]
#[ignore = "no test of its own: lock_of_a_dead_process_is_free_though_its_child_lives runs it"]
#[allow(clippy::print_stdout, reason = "it tells its parent of its child")]
async fn holder_that_starts_a_process() {
    let address = std::env::var("LOCK_OF_DEAD_PROCESS_AT").expect("it is started by a test");
    let client = Client::connect(&address).await.unwrap();
    let _lock = client.lock("/dead-process").ttl(TTL).acquire().await.unwrap();
    // It waits for the test, which ends it, or for its own end.
    let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
    println!("CHILD {}", child.id().unwrap());
    child.wait().await.unwrap();
}

/// F33: the keep-alives of a guard whose runtime ended are those of one runtime, not of two.
#[test]
fn lease_of_a_moved_guard_is_kept_alive_once_in_memory() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let store = CountingStore::new(std::sync::Arc::new(MemoryStore::new()));
    let client = Client::with_store(store.clone());
    let lock = runtime().block_on(async { client.lock("/moved").ttl(TTL).acquire().await.unwrap() });
    let second = runtime();
    second.block_on(async {
        // Its runtime has ended. Here it goes on.
        lock.verify().await.unwrap();
        tokio::time::sleep(TTL).await;
        store.take();
        tokio::time::sleep(10 * TTL).await;
        assert!(lock.is_held());
        let kept = store.counts().keep_alive;
        assert!((20..=40).contains(&kept), "ten times the time to live, three or so in each: {kept}");
    });
}
