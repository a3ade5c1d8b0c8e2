//! `etcdctl lock` shares the queue of a lock with this library on v3. Other `etcdctl` commands take
//! the lock away from its holder.
//!
//! The environment variable `ETCDCTL_BIN` is the path of the tool. If the variable is not set, the
//! tests run `etcdctl` from the `PATH`, and fail if it does not exist.

use std::process::Stdio;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Lock, LostReason, NamedLock};
use etcd_typed_tests::etcdctl;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::names::NAMES;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a test waits to see that something does not happen.
const WHILE: Duration = Duration::from_millis(500);

struct Bench {
    client: Client,
    /// The text before every name of this client.
    namespace: &'static str,
    name: &'static str,
    endpoint: String,
}

impl Bench {
    async fn of(name: &'static str) -> Self {
        Self::at(etcd_typed_tests::shared("locks").await, name).await
    }

    async fn at(etcd: &Etcd, name: &'static str) -> Self {
        Self::within("", etcd, name).await
    }

    async fn within(namespace: &'static str, etcd: &Etcd, name: &'static str) -> Self {
        let client = Client::builder(&etcd.url_v3()).namespace(namespace).connect().await.unwrap();
        Self { client, namespace, name, endpoint: etcd.endpoint() }
    }

    fn lock(&self) -> NamedLock {
        self.client.lock(self.name)
    }

    async fn acquire(&self) -> Lock {
        timeout(LIMIT, self.lock().acquire()).await.expect("in time").unwrap()
    }

    async fn waits(&self, queued: usize) -> JoinHandle<Lock> {
        let lock = self.lock();
        let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
        self.queued(queued).await;
        waiter
    }

    fn etcdctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::from(etcdctl());
        command.arg(format!("--endpoints={}", self.endpoint)).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) {
        let output = timeout(LIMIT, self.etcdctl(arguments).output()).await.expect("etcdctl ends in time").expect("an etcdctl");
        assert!(output.status.success(), "etcdctl {arguments:?}: {output:?}");
    }

    /// Starts `etcdctl lock` and waits until the queue has `queued` keys.
    async fn tool(&self, queued: usize) -> Tool {
        let mut child = self.etcdctl(&["lock", "--ttl=2", &format!("{}{}", self.namespace, self.name)]).spawn().expect("an etcdctl");
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        self.queued(queued).await;
        Tool { child, output }
    }

    async fn queued(&self, count: usize) {
        timeout(LIMIT, async {
            while self.lock().queue().await.unwrap().len() != count {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the queue gets this length in time");
    }
}

/// A running `etcdctl lock`. It prints its key when it has the lock, and releases the lock when it
/// is interrupted.
struct Tool {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Tool {
    async fn has_it(&mut self) -> String {
        timeout(LIMIT, self.output.next_line()).await.expect("in time").unwrap().expect("its key")
    }

    async fn has_it_not(&mut self) {
        assert!(timeout(WHILE, self.output.next_line()).await.is_err(), "etcdctl has the lock");
    }

    async fn gives_it_up(mut self) {
        let pid = self.child.id().expect("etcdctl runs").to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
        timeout(LIMIT, self.child.wait()).await.expect("etcdctl ends in time").unwrap();
    }
}

#[tokio::test]
async fn client_acquires_after_etcdctl_releases() {
    let bench = Bench::of("/interop/theirs").await;
    let mut tool = bench.tool(1).await;
    let key = tool.has_it().await;
    let holder = bench.lock().holder().await.unwrap().unwrap();
    assert_eq!((holder.key.as_str(), holder.info.as_str(), &holder.process), (key.as_str(), "", &None));
    assert!(key.ends_with(&format!("/{}", holder.lease)), "{key}");
    assert!(bench.lock().try_acquire().await.unwrap().is_none());
    let waiter = bench.waits(2).await;
    sleep(WHILE).await;
    assert!(!waiter.is_finished());
    tool.gives_it_up().await;
    let lock = timeout(LIMIT, waiter).await.expect("in time").unwrap();
    assert!(lock.fence() > holder.fence);
    lock.verify().await.unwrap();
}

#[tokio::test]
async fn etcdctl_acquires_after_client_releases() {
    let bench = Bench::of("/interop/ours").await;
    let lock = bench.acquire().await;
    let mut tool = bench.tool(2).await;
    tool.has_it_not().await;
    let fence = lock.fence();
    lock.release().await.unwrap();
    let key = tool.has_it().await;
    let holder = bench.lock().holder().await.unwrap().unwrap();
    assert_eq!(holder.key.as_str(), key);
    assert!(holder.fence > fence);
    tool.gives_it_up().await;
    bench.queued(0).await;
}

#[tokio::test]
async fn queue_shared_with_etcdctl_keeps_arrival_order() {
    let bench = Bench::of("/interop/mixed").await;
    let first = bench.acquire().await;
    let mut second = bench.tool(2).await;
    let third = bench.waits(3).await;
    let mut fourth = bench.tool(4).await;
    let fifth = bench.waits(5).await;
    let queue = bench.lock().queue().await.unwrap();
    assert!(queue.is_sorted_by(|one, next| one.fence < next.fence));
    second.has_it_not().await;
    first.release().await.unwrap();
    assert_eq!(second.has_it().await, queue[1].key.as_str());
    fourth.has_it_not().await;
    assert!(!third.is_finished());
    second.gives_it_up().await;
    let third = timeout(LIMIT, third).await.expect("in time").unwrap();
    assert_eq!(third.fence(), queue[2].fence);
    fourth.has_it_not().await;
    drop(third);
    assert_eq!(fourth.has_it().await, queue[3].key.as_str());
    assert!(!fifth.is_finished());
    fourth.gives_it_up().await;
    assert_eq!(timeout(LIMIT, fifth).await.expect("in time").unwrap().fence(), queue[4].fence);
}

#[tokio::test]
async fn lock_taken_away_by_etcdctl_is_lost() {
    let bench = Bench::of("/interop/taken").await;
    let lock = bench.acquire().await;
    bench.run(&["lease", "revoke", &lock.lease_id().to_string()]).await;
    let lost = timeout(LIMIT, lock.lost()).await.expect("in time");
    assert!(matches!(lost.reason(), LostReason::KeyDeleted | LostReason::Revoked), "{lost}");
    let lock = bench.acquire().await;
    bench.run(&["del", lock.key().as_str()]).await;
    assert_eq!(timeout(LIMIT, lock.lost()).await.expect("in time").reason(), LostReason::KeyDeleted);
    // This library does not queue behind a key without a lease. `etcdctl lock` would wait for such
    // a key forever.
    let lock = bench.acquire().await;
    bench.run(&["put", lock.key().as_str(), "mine"]).await;
    assert_eq!(timeout(LIMIT, lock.lost()).await.expect("in time").reason(), LostReason::TakenOver);
    assert!(bench.lock().try_acquire().await.unwrap().is_some());
    bench.run(&["del", "--prefix", "/interop/taken/"]).await;
    let lock = bench.acquire().await;
    assert!(lock.is_held());
}

/// With each of these names, both clients use the same queue, whichever acquires first.
#[tokio::test]
async fn etcdctl_shares_locks_of_any_name() {
    let etcd = Etcd::start().await;
    shares_locks(&etcd, NAMES.map(|name| ("", name)).as_slice()).await;
}

/// The prefix of the queue is the namespace followed by the name, byte for byte.
#[tokio::test]
async fn etcdctl_shares_locks_of_any_namespace() {
    let etcd = Etcd::start().await;
    let names = ["v1", "dynamo:/", "prod.", "/prod", "a//b", "ü/"].map(|namespace| [(namespace, "/x"), (namespace, "__metasrv")]);
    shares_locks(&etcd, &[names.concat(), vec![("", "__metasrv_election"), ("__metasrv", "_election")]].concat()).await;
}

async fn shares_locks(etcd: &Etcd, names: &[(&'static str, &'static str)]) {
    for &(namespace, name) in names {
        let bench = Bench::within(namespace, etcd, name).await;
        let name = format!("{namespace}{name}");
        let mut tool = bench.tool(1).await;
        let key = tool.has_it().await;
        assert!(key.starts_with(&format!("{name}/")), "{name:?}: {key}");
        assert_eq!(bench.lock().holder().await.unwrap().unwrap().key.as_str(), key);
        assert!(bench.lock().try_acquire().await.unwrap().is_none(), "{name:?}: two hold the lock");
        let waiter = bench.waits(2).await;
        tool.gives_it_up().await;
        let lock = timeout(LIMIT, waiter).await.expect("in time").unwrap();
        let mut tool = bench.tool(2).await;
        assert!(timeout(WHILE / 4, tool.output.next_line()).await.is_err(), "{name:?}: two hold the lock");
        lock.release().await.unwrap();
        tool.has_it().await;
        tool.gives_it_up().await;
        bench.queued(0).await;
    }
}

#[tokio::test]
async fn client_takes_over_from_killed_etcdctl() {
    let bench = Bench::of("/interop/killed/").await;
    let mut tool = bench.tool(1).await;
    tool.has_it().await;
    let waiter = bench.waits(2).await;
    tool.child.kill().await.unwrap();
    let lock = timeout(LIMIT, waiter).await.expect("in time").unwrap();
    lock.verify().await.unwrap();
    bench.queued(1).await;
}
