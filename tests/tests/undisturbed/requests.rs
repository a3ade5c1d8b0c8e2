//! How many messages one client sends to a server, in requests and on streams, as counted by the
//! server. `round_trips.rs` tests the cost of single calls. These tests cover requests that several
//! calls share, and messages that the client sends after a call has returned.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, EtcdSchema, NamedLock};
use futures_util::future::{join_all, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);
/// The time to live of leases: so long that none is kept alive during a test.
const TTL: Duration = Duration::from_secs(600);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Settings {
    #[etcd(default = 100)]
    limit: u32,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

/// A client and its own server, so that no other client is counted.
struct Wire {
    etcd: Etcd,
    client: Client,
    dir: SettingsDir,
    /// The counts at the last check.
    before: Messages,
}

/// The number of messages of each kind.
type Messages = BTreeMap<String, u64>;

impl Wire {
    async fn new() -> Self {
        let etcd = Etcd::start().await;
        let client = Client::connect(&etcd.url_v3()).await.unwrap();
        let dir = client.dir::<Settings>("/app").unwrap();
        dir.limit.set(&1).await.unwrap();
        let before = received(&etcd).await;
        Self { etcd, client, dir, before }
    }

    /// Returns the messages that the server has received since the last check.
    async fn since(&self) -> Messages {
        let now = received(&self.etcd).await.into_iter();
        now.map(|(kind, count)| (kind.clone(), count - self.before.get(&kind).unwrap_or(&0))).filter(|(_, count)| *count > 0).collect()
    }

    /// Returns true if it is safe for reads to share requests on this server. In etcd 3.5, that is
    /// safe from 3.5.7 on (etcd issues 14110 and 14891).
    fn joins(&self) -> bool {
        let patch = self.etcd.version().strip_prefix("3.5.").map(|patch| patch.parse::<u32>().expect("a version"));
        patch.is_none_or(|patch| patch >= 7)
    }

    /// Reads until the client knows the server's version. The client sends one extra request to
    /// learn the version.
    async fn learn(&mut self, reads: u64) {
        let learned = async { while self.reads_at_once(reads).await > reads {} };
        timeout(LIMIT, learned).await.expect("the client learns the version in time");
    }

    /// Starts this many reads at once and returns the number of messages that the server received.
    async fn reads_at_once(&mut self, reads: u64) -> u64 {
        for read in join_all((0..reads).map(|_| self.dir.limit.get())).await {
            assert_eq!(read.unwrap().as_deref(), Some(&1));
        }
        self.all().await
    }

    /// Returns the number of messages that the server has received since the last check. This call
    /// counts as a check.
    async fn all(&mut self) -> u64 {
        let before: u64 = self.before.values().sum();
        self.before = received(&self.etcd).await;
        self.before.values().sum::<u64>() - before
    }

    /// Waits until the server has received exactly these messages since the last check. Later
    /// messages count for the next check.
    async fn gets<const N: usize>(&mut self, wanted: [(&str, u64); N]) {
        let wanted: Messages = wanted.map(|(kind, count)| (kind.to_owned(), count)).into();
        let reached = async {
            while self.since().await != wanted {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(LIMIT, reached).await.is_err() {
            panic!("{:?}, and not {wanted:?}", self.since().await);
        }
        for (kind, count) in wanted {
            *self.before.entry(kind).or_default() += count;
        }
    }
}

/// Returns how many messages of each kind the server has received. From 3.6 on, a server counts the
/// end of a stream as another message. The server also counts the streams that ended, so this
/// function subtracts them.
async fn received(etcd: &Etcd) -> Messages {
    let mut stream = TcpStream::connect(etcd.endpoint()).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).await.unwrap();
    let mut messages = counted(&metrics, "grpc_server_msg_received_total{", "");
    if etcd.is_at_least(3, 6) {
        for (kind, ended) in counted(&metrics, "grpc_server_handled_total{", r#"grpc_type="bidi_stream""#) {
            messages.entry(kind).and_modify(|count| *count = count.saturating_sub(ended));
        }
    }
    messages
}

/// Returns the sum of a counter for each method, over the lines that contain this label.
fn counted(metrics: &str, counter: &str, label: &str) -> Messages {
    let mut counts = Messages::new();
    for line in metrics.lines().filter(|line| line.starts_with(counter) && line.contains(label)) {
        let kind = line.split_once(r#"grpc_method=""#).and_then(|(_, rest)| rest.split_once('"')).expect("a method").0;
        let count: u64 = line.rsplit_once(' ').expect("a count").1.parse().expect("a number");
        *counts.entry(kind.to_owned()).or_default() += count;
    }
    counts
}

/// Each watch sends its own list request, to learn its starting state. A second watch or view of
/// the same span sends no watch request.
#[tokio::test]
async fn equal_watches_and_views_share_one_watch() {
    let mut wire = Wire::new().await;
    let mut first = wire.dir.watch().await.unwrap();
    wire.gets([("Range", 1), ("Watch", 1)]).await;
    let mut second = wire.dir.watch().await.unwrap();
    wire.gets([("Range", 1)]).await;
    let more = try_join_all((0..100).map(|_| wire.dir.watch().into_future())).await.unwrap();
    wire.gets([("Range", 100)]).await;
    let mut view = wire.dir.live().await.unwrap();
    wire.gets([("Range", 1)]).await;

    wire.dir.limit.set(&7).await.unwrap();
    first.next().await.unwrap().unwrap();
    second.next().await.unwrap().unwrap();
    assert_eq!(view.changed().await.unwrap().limit, 7);
    for _ in 0..1_000 {
        assert_eq!(view.get().limit, 7);
    }
    drop((first, second, more));
    wire.gets([("Txn", 1)]).await;
}

#[tokio::test]
async fn view_costs_one_list_and_one_watch() {
    let mut wire = Wire::new().await;
    let mut view = wire.dir.live().await.unwrap();
    wire.gets([("Range", 1), ("Watch", 1)]).await;
    for limit in 2..12 {
        wire.dir.limit.set(&limit).await.unwrap();
        while view.changed().await.unwrap().limit != limit {}
    }
    // Each `set` of a field has the condition that its struct does not expire, so it is a
    // transaction.
    wire.gets([("Txn", 10)]).await;
}

#[tokio::test]
async fn publication_costs_lease_write_and_watch() {
    let mut wire = Wire::new().await;
    let published = wire.client.entry::<u32>("/services/a").unwrap().publish(&1).ttl(TTL).await.unwrap();
    wire.gets([("LeaseGrant", 1), ("Put", 1), ("Range", 1), ("Watch", 1)]).await;
    for value in 2..5 {
        published.set(&value).await.unwrap();
        wire.gets([("Txn", 1)]).await;
    }
    published.withdraw().await.unwrap();
    wire.gets([("LeaseRevoke", 1)]).await;
}

/// Contenders of one client: each waiter costs one request to enter the queue, all waiters share
/// one watch, and a handover costs one request.
#[tokio::test]
async fn handover_within_client_is_one_request() {
    let mut wire = Wire::new().await;
    let lock = warm(&mut wire, 8).await;
    let mut held = lock.acquire().await.unwrap();
    let wait = || {
        let lock = lock.clone();
        tokio::spawn(async move { lock.acquire().await.unwrap() })
    };
    let mut waiting = vec![wait()];
    wire.gets([("Range", 1), ("Txn", 2), ("Watch", 1)]).await;
    for _ in 0..5 {
        waiting.push(wait());
        wire.gets([("Txn", 1)]).await;
    }
    for next in waiting {
        held.release().await.unwrap();
        held = timeout(LIMIT, next).await.expect("in time").unwrap();
        wire.gets([("Txn", 1)]).await;
    }
    held.release().await.unwrap();
    wire.gets([("Txn", 1)]).await;
}

/// Contenders that acquire the lock again and again cost little more than one request per acquire.
#[tokio::test]
async fn contended_lock_costs_about_one_request_each() {
    const CONTENDERS: u64 = 8;
    const TIMES: u64 = 25;
    let mut wire = Wire::new().await;
    let lock = warm(&mut wire, CONTENDERS).await;
    let contend = |_| {
        let lock = lock.clone();
        tokio::spawn(async move {
            for _ in 0..TIMES {
                lock.acquire().await.unwrap().release().await.unwrap();
            }
        })
    };
    let contenders: Vec<_> = (0..CONTENDERS).map(contend).collect();
    for contender in contenders {
        timeout(LIMIT, contender).await.expect("in time").unwrap();
    }
    // Most acquires share a request with a release. The additional fifth is for the first acquire
    // of each contender, which needs a request to enter the queue, and for the end, when fewer
    // contenders remain. The client also sends one list and one watch.
    let most = CONTENDERS * TIMES * 6 / 5;
    let messages = wire.all().await;
    assert!(messages <= most, "{messages} messages");
}

/// Gives the client this many spare leases, and returns a lock of the client.
async fn warm(wire: &mut Wire, leases: u64) -> NamedLock {
    let acquire = async |number| wire.client.lock(&format!("/warm/{number}")).ttl(TTL).acquire().await.unwrap();
    for held in join_all((0..leases).map(acquire)).await {
        held.release().await.unwrap();
    }
    wire.gets([("LeaseGrant", leases), ("Txn", 2 * leases)]).await;
    wire.client.lock("/locks/a").ttl(TTL)
}

/// The first read finds no read in flight, so it is sent alone. All other reads share the second
/// request.
#[tokio::test]
async fn concurrent_reads_need_two_requests() {
    let mut wire = Wire::new().await;
    let joins = wire.joins();
    wire.learn(64).await;
    for _ in 0..10 {
        let requests = wire.reads_at_once(64).await;
        assert!(requests == if joins { 2 } else { 64 }, "{requests} requests for 64 reads");
    }
}

/// Callers that got a shared answer make their next reads at the same time. These reads share a
/// request again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn repeated_concurrent_reads_share_requests() {
    const CALLERS: u64 = 8;
    const EACH: u64 = 50;
    let mut wire = Wire::new().await;
    let joins = wire.joins();
    wire.learn(64).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let entry = wire.client.entry::<u32>(&format!("/callers/{caller}")).unwrap();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    assert!(entry.get().await.unwrap().is_none());
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let requests = wire.all().await;
    let most = if joins { CALLERS * EACH / 3 } else { CALLERS * EACH };
    assert!(requests <= most, "{requests} requests");
}
