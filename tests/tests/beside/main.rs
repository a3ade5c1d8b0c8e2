//! Locks and elections shared with clients in other languages: Go's `concurrency` package and
//! Node's `etcd3`. Sessions end normally or are killed. `tests/beside/run` builds those clients and
//! runs these tests. (`etcdctl`, which uses Go's client too, is tested in
//! `tests/tests/coordination`.)

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, Election, Lease, NamedLock, Token};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a test waits to see that something does not happen.
const WHILE: Duration = Duration::from_millis(400);
/// Namespaces in several forms.
const NAMESPACES: [&str; 6] = ["", "v1", "dynamo:/", "prod.", "/prod", "a//b"];
/// The time to live of every session, in seconds.
const TTL: &str = "3";

/// The client library that a contender uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    Go,
    Node,
}

use Kind::{Go, Node, Ours};

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Releases,
    IsKilled,
}

/// Returns the path of a program that `tests/beside/run` has built.
fn built(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/beside").join(path);
    assert!(path.exists(), "{} does not exist: run these tests with `tests/beside/run`", path.display());
    path
}

/// Returns the command line of a contender. Node's client puts `election/` before the names of
/// elections.
fn command(kind: Kind, endpoint: &str, what: &str, name: &str) -> Command {
    let mut command = match kind {
        Ours => Command::new(env!("CARGO_BIN_EXE_contender")),
        Go => Command::new(built("go")),
        Node => {
            let mut command = Command::new("node");
            command.arg(built("node/contender.js"));
            command
        }
    };
    let name = if kind == Node { name.strip_prefix("election/").expect("a name that Node can have") } else { name };
    command.args([endpoint, what, name]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

/// A process that holds the queue or waits in it.
#[derive(Debug)]
struct Contender {
    kind: Kind,
    process: Child,
    /// The standard input of the process. When it is closed, the process releases the queue.
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Contender {
    /// Returns the next line that the process prints, or `None` if it prints none within this time.
    async fn says(&mut self, within: Duration) -> Option<String> {
        let line = timeout(within, self.lines.next_line()).await.ok()?;
        Some(line.unwrap().unwrap_or_else(|| panic!("{:?} ended without output", self.kind)))
    }

    /// Waits until the process holds the queue and returns its key.
    async fn holds(&mut self) -> String {
        let line = self.says(LIMIT).await.unwrap_or_else(|| panic!("{:?} does not hold the queue", self.kind));
        line.strip_prefix("holds ").unwrap_or_else(|| panic!("{line}")).to_owned()
    }

    async fn waits(&mut self) {
        let said = self.says(WHILE).await;
        assert_eq!(said, None, "{:?} does not wait", self.kind);
    }

    async fn ends(mut self, end: End) {
        match end {
            End::Releases => {
                drop(self.input.take());
                assert_eq!(self.says(LIMIT).await.as_deref(), Some("released"));
            }
            End::IsKilled => self.process.kill().await.unwrap(),
        }
    }
}

/// The queue of a lock or an election, and this library's handles to the queue.
struct Queue {
    etcd: Etcd,
    what: &'static str,
    /// The name of the queue for other clients.
    name: String,
    client: Client,
    lock: NamedLock,
    election: Election<String>,
}

impl Queue {
    async fn of(what: &'static str, name: &str) -> Self {
        Self::within("", Etcd::start().await, what, name).await
    }

    /// Opens the queue with this name. This library's client uses the namespace.
    async fn within(namespace: &str, etcd: Etcd, what: &'static str, name: &str) -> Self {
        let client = Client::builder(&etcd.url_v3()).namespace(namespace).connect().await.unwrap();
        let (lock, election) = (client.lock(name), client.election(name));
        Self { etcd, what, name: format!("{namespace}{name}"), client, lock, election }
    }

    /// Starts a contender and waits until the queue has `queued` keys.
    async fn enters(&self, kind: Kind, value: &str, queued: usize) -> Contender {
        self.enters_with(self.command(kind), kind, value, queued).await
    }

    /// Starts a contender that uses Go's client and a lease of this library.
    async fn go_enters_on(&self, lease: &Lease, queued: usize) -> Contender {
        let mut command = self.command(Go);
        command.env("LEASE", lease.id().to_string());
        self.enters_with(command, Go, "go", queued).await
    }

    fn command(&self, kind: Kind) -> Command {
        command(kind, &self.etcd.endpoint(), self.what, &self.name)
    }

    async fn enters_with(&self, mut command: Command, kind: Kind, value: &str, queued: usize) -> Contender {
        let mut process = command.args([TTL, value]).spawn().unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        let input = process.stdin.take();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        self.has(queued).await;
        Contender { kind, process, input, lines }
    }

    /// Waits until the queue has this many keys.
    async fn has(&self, queued: usize) {
        let wait = async {
            while self.keys().await.len() != queued {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{:?} does not get {queued} keys", self.name));
    }

    /// Starts a task that acquires the lock or leads, and then returns its token.
    fn waits(&self) -> JoinHandle<Token> {
        let (what, lock, election) = (self.what, self.lock.clone(), self.election.clone());
        tokio::spawn(async move {
            match what {
                "lock" => lock.acquire().await.unwrap().into_token(),
                _ => election.campaign(&"ours".to_owned()).await.unwrap().into_token(),
            }
        })
    }

    /// Returns the keys of the queue in order, as this library lists them. A lock and an election
    /// with the same name share one queue.
    async fn keys(&self) -> Vec<String> {
        let keys: Vec<_> = self.lock.queue().await.unwrap().into_iter().map(|holder| holder.key.to_string()).collect();
        if self.what == "elect" {
            let candidates = self.election.candidates().await.unwrap();
            assert!(candidates.len().abs_diff(keys.len()) <= 1, "at most one may come or go between the two reads");
        }
        keys
    }

    /// Checks that `second` waits while `first` holds the queue, and takes over when `first` ends.
    async fn hands_over(&self, first: Kind, second: Kind, end: End) {
        let story = format!("{first:?} {end:?}, {second:?} is next, {:?}", self.name);
        let mut holder = self.enters(first, "first", 1).await;
        let key = holder.holds().await;
        assert!(key.starts_with(&format!("{}/", self.name)), "{story}: {key}");
        assert_eq!(self.keys().await, [key.as_str()], "{story}");
        let mut waiter = self.enters(second, "second", 2).await;
        assert_eq!(self.keys().await.first(), Some(&key), "{story}");
        assert!(self.lock.try_acquire().await.unwrap().is_none(), "{story}");
        waiter.waits().await;
        holder.ends(end).await;
        let next = waiter.holds().await;
        assert_ne!(next, key);
        assert_eq!(self.keys().await, [next], "{story}");
        waiter.ends(End::Releases).await;
        assert_eq!(self.keys().await, Vec::<String>::new(), "{story}");
    }
}

#[tokio::test]
#[ignore = "needs Go and Node: tests/beside/run"]
async fn lock_is_shared_with_go() {
    for name in ["/beside/lock", "/beside/lock/", "lock", "/", "dlock:x", "größe 1"] {
        let queue = Queue::of("lock", name).await;
        for (first, second) in [(Ours, Go), (Go, Ours)] {
            queue.hands_over(first, second, End::Releases).await;
        }
    }
}

/// The prefix of the queue is the namespace followed by the name, byte for byte. Either client may
/// be the first in the queue.
#[tokio::test]
#[ignore = "needs Go and Node: tests/beside/run"]
async fn queues_of_any_namespace_are_shared_with_go() {
    for what in ["lock", "elect"] {
        for namespace in NAMESPACES {
            for name in ["/x", "__metasrv_election"] {
                let queue = Queue::within(namespace, Etcd::start().await, what, name).await;
                let mut go = queue.enters(Go, "go", 1).await;
                let key = go.holds().await;
                assert!(key.starts_with(&format!("{namespace}{name}/")), "{key}");
                assert!(queue.lock.try_acquire().await.unwrap().is_none(), "{key}");
                let ours = queue.waits();
                queue.has(2).await;
                go.ends(End::Releases).await;
                let token = timeout(LIMIT, ours).await.unwrap_or_else(|_| panic!("not after {key}")).unwrap();
                let mut go = queue.enters(Go, "go", 2).await;
                go.waits().await;
                queue.lock.release_token(&token).await.unwrap();
                go.holds().await;
                go.ends(End::Releases).await;
                queue.has(0).await;
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs Go and Node: tests/beside/run"]
async fn keys_of_any_namespace_are_shared_with_go() {
    let etcd = Etcd::start().await;
    let go = async |arguments: &[&str]| {
        let output = Command::new(built("go")).arg(etcd.endpoint()).args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for namespace in NAMESPACES {
        let client = Client::builder(&etcd.url_v3()).namespace(namespace).connect().await.unwrap();
        for path in ["/instances/1", "/servers/_default.toml", "/__metasrv"] {
            let (entry, key) = (client.entry::<String>(path).unwrap(), format!("{namespace}{path}"));
            entry.set(&format!("ours of {key}")).await.unwrap();
            assert_eq!(go(&["get", &key]).await, format!("value ours of {key}\n"));
            go(&["put", &key, "theirs"]).await;
            assert_eq!(entry.get().await.unwrap().unwrap().as_str(), "theirs");
        }
        // Keys that are not paths.
        for rest in ["plain", "//a", "_x/", "é "] {
            let key = format!("{namespace}{rest}");
            client.raw().put(rest, "ours").await.unwrap();
            assert_eq!(go(&["get", &key]).await, "value ours\n", "{key:?}");
            go(&["put", &key, "theirs"]).await;
            assert_eq!(client.raw().get(rest).await.unwrap().unwrap().value, "theirs", "{key:?}");
        }
    }
}

/// Go's client uses only the lease's ID as the name of its key, and treats an existing key with
/// this name as its own. So this library uses another name for keys on a shared lease.
#[tokio::test]
#[ignore = "needs Go and Node: tests/beside/run"]
async fn go_session_on_our_lease_shares_queue() {
    for what in ["lock", "elect"] {
        let queue = Queue::of(what, "/beside/one-lease").await;
        let lease = queue.client.lease(Duration::from_secs(60)).await.unwrap();
        let lock = queue.lock.clone().lease(&lease);
        let ours = lock.acquire().await.unwrap();
        let mut go = queue.go_enters_on(&lease, 2).await;
        go.waits().await;
        ours.release().await.unwrap();
        assert_eq!(go.holds().await, format!("{}/{}", queue.name, lease.id()));
        assert!(lock.try_acquire().await.unwrap().is_none());
        let waiter = tokio::spawn(async move { lock.acquire().await.unwrap() });
        queue.has(2).await;
        assert!(!waiter.is_finished());
        go.ends(End::Releases).await;
        let ours = timeout(LIMIT, waiter).await.unwrap().unwrap();
        assert_eq!(ours.lease_id(), lease.id());
        ours.verify().await.unwrap();
        ours.release().await.unwrap();
        assert!(lease.is_held() && queue.keys().await.is_empty());
    }
}

#[tokio::test]
#[ignore = "needs Go and Node: tests/beside/run"]
async fn other_client_takes_over_from_killed_holder() {
    let queue = Queue::of("lock", "/beside/lock/").await;
    for (first, second) in [(Ours, Go), (Go, Ours)] {
        queue.hands_over(first, second, End::IsKilled).await;
    }
}

#[tokio::test]
#[ignore = "needs Go and Node: tests/beside/run"]
async fn election_is_shared_with_go_and_node() {
    for name in ["election/beside", "election/beside/"] {
        let queue = Queue::of("elect", name).await;
        for (first, second) in [(Ours, Go), (Go, Ours), (Ours, Node), (Node, Ours), (Go, Node), (Node, Go)] {
            queue.hands_over(first, second, End::Releases).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs Go and Node: tests/beside/run"]
async fn other_client_takes_over_from_killed_leader() {
    let queue = Queue::of("elect", "election/beside").await;
    for (first, second) in [(Ours, Go), (Go, Ours), (Ours, Node), (Node, Ours)] {
        queue.hands_over(first, second, End::IsKilled).await;
    }
}

#[tokio::test]
#[ignore = "needs Go and Node: tests/beside/run"]
async fn all_clients_list_and_observe_each_other() {
    let queue = Queue::of("elect", "election/beside").await;
    let mut changes = queue.election.observe().await.unwrap();
    let mut next = async || timeout(LIMIT, changes.next()).await.expect("in time").unwrap().unwrap().map(|leader| leader.value);
    assert_eq!(next().await, None);
    let mut contenders = Vec::new();
    for (place, kind) in [Node, Go, Ours].into_iter().enumerate() {
        contenders.push(queue.enters(kind, &format!("{kind:?}"), place + 1).await);
    }
    let values: Vec<_> = queue.election.candidates().await.unwrap().into_iter().map(|candidate| candidate.value.unwrap()).collect();
    assert_eq!(values, ["Node", "Go", "Ours"]);
    let mut observers = Vec::new();
    for kind in [Go, Node] {
        let mut process = command(kind, &queue.etcd.endpoint(), "observe", &queue.name).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        observers.push(Contender { kind, input: process.stdin.take(), process, lines });
    }
    for mut contender in contenders {
        contender.holds().await;
        let value = format!("{:?}", contender.kind);
        assert_eq!(next().await.as_deref(), Some(value.as_str()));
        assert_eq!(queue.election.leader().await.unwrap().unwrap().value, value);
        for observer in &mut observers {
            assert_eq!(observer.says(LIMIT).await, Some(format!("leader {value}")), "{:?} observes", observer.kind);
        }
        contender.ends(End::Releases).await;
    }
    assert_eq!(next().await, None);
}

/// Six contenders campaign. In each round the leader is killed or resigns, and a new contender that
/// uses the same client library enters.
#[tokio::test]
#[ignore = "needs Go and Node: tests/beside/run"]
async fn election_has_one_leader_while_sessions_end() {
    let queue = Queue::of("elect", "election/storm").await;
    let kinds = [Ours, Node, Go, Node, Ours, Go];
    let mut contenders = Vec::new();
    for (place, kind) in kinds.into_iter().enumerate() {
        contenders.push(queue.enters(kind, "x", place + 1).await);
    }
    for round in 0..12 {
        let mut leader = contenders.remove(0);
        let key = leader.holds().await;
        assert_eq!(queue.keys().await.first(), Some(&key), "round {round}");
        assert_eq!(queue.election.leader().await.unwrap().unwrap().key.as_str(), key);
        // All other contenders wait while one leads.
        for other in &mut contenders {
            let said = other.says(Duration::from_millis(20)).await;
            assert_eq!(said, None, "round {round}: {:?} leads beside {:?}", other.kind, leader.kind);
        }
        let kind = leader.kind;
        leader.ends(if round % 2 == 0 { End::IsKilled } else { End::Releases }).await;
        timeout(LIMIT, async {
            while queue.keys().await.contains(&key) {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the session of the leader ends in time");
        contenders.push(queue.enters(kind, "x", kinds.len()).await);
    }
}
