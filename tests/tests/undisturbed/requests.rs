//! What one client costs a server: every message on the wire, of requests and on streams, counted by the server itself. What a call of a handle
//! costs is in `round_trips.rs`; here it is what calls share, and what goes on after them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_typed::testing::Etcd;
use etcd_typed::{Client, EtcdSchema, NamedLock};
use futures_util::future::{join_all, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Long enough for whatever comes at all; only a test that fails waits for it.
const LIMIT: Duration = Duration::from_secs(60);
/// Of leases: so long that none has to be kept alive before the test is over.
const TTL: Duration = Duration::from_secs(600);

#[derive(EtcdSchema, Clone, Debug, PartialEq)]
struct Settings {
    #[etcd(default = 100)]
    limit: u32,
    #[etcd(entries)]
    quotas: BTreeMap<String, u64>,
}

/// A server of its own, so that nobody else is counted, and a client.
struct Wire {
    etcd: Etcd,
    client: Client,
    dir: SettingsDir,
    /// At the last look.
    before: Messages,
}

/// How many there were of each kind.
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

    /// Those that the server got since the last look.
    async fn since(&self) -> Messages {
        let now = received(&self.etcd).await.into_iter();
        now.map(|(kind, count)| (kind.clone(), count - self.before.get(&kind).unwrap_or(&0))).filter(|(_, count)| *count > 0).collect()
    }

    /// Whether the server bears that reads are joined: before 3.5.7 those of that line do not (etcd issues 14110 and 14891).
    fn joins(&self) -> bool {
        let patch = self.etcd.version().strip_prefix("3.5.").map(|patch| patch.parse::<u32>().expect("a version"));
        patch.is_none_or(|patch| patch >= 7)
    }

    /// In the beginning a client that is busy has to learn the server's version, too.
    async fn learn(&mut self, reads: u64) {
        let learned = async { while self.reads_at_once(reads).await > reads {} };
        timeout(LIMIT, learned).await.expect("it learns it");
    }

    /// The messages of so many reads at the same time.
    async fn reads_at_once(&mut self, reads: u64) -> u64 {
        for read in join_all((0..reads).map(|_| self.dir.limit.get())).await {
            assert_eq!(read.unwrap().as_deref(), Some(&1));
        }
        self.all().await
    }

    /// How many these were, which is a look.
    async fn all(&mut self) -> u64 {
        let before: u64 = self.before.values().sum();
        self.before = received(&self.etcd).await;
        self.before.values().sum::<u64>() - before
    }

    /// These have come since the last look, or come soon; and nothing else has. What comes later is too much for the next look.
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

/// How many messages of each kind the server has received. A server of 3.6 or later counts the end of a stream as one more, which is taken off here:
/// it has a counter of the streams that ended, too.
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

/// The sums of a counter for each method, over the lines that have this label.
fn counted(metrics: &str, counter: &str, label: &str) -> Messages {
    let mut counts = Messages::new();
    for line in metrics.lines().filter(|line| line.starts_with(counter) && line.contains(label)) {
        let kind = line.split_once(r#"grpc_method=""#).and_then(|(_, rest)| rest.split_once('"')).expect("a method").0;
        let count: u64 = line.rsplit_once(' ').expect("a count").1.parse().expect("a number");
        *counts.entry(kind.to_owned()).or_default() += count;
    }
    counts
}

/// Each lists for itself, so that it knows what it starts from. The second one of the same span asks for no watch, whether it is a stream of changes or a view.
#[tokio::test]
async fn watches_and_views_of_the_same_are_one_watch() {
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
async fn a_view_is_a_list_and_a_watch() {
    let mut wire = Wire::new().await;
    let mut view = wire.dir.live().await.unwrap();
    wire.gets([("Range", 1), ("Watch", 1)]).await;
    for limit in 2..12 {
        wire.dir.limit.set(&limit).await.unwrap();
        while view.changed().await.unwrap().limit != limit {}
    }
    // A field is set on the condition that its struct does not expire.
    wire.gets([("Txn", 10)]).await;
}

#[tokio::test]
async fn a_publication_is_a_lease_a_write_and_a_watch() {
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

/// Contenders of one client: who waits costs a request to stand in the queue, all of them together one watch; and a hand-over is one request.
#[tokio::test]
async fn a_hand_over_within_a_client_is_one_request() {
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

/// The same where all want it all the time.
#[tokio::test]
async fn a_lock_that_many_want_costs_little_more_than_a_request_for_each_time_that_one_has_it() {
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
    // Each has to stand in the queue at first, and the last ones have fewer and fewer beside them; then there are the watch, and the list before it.
    let most = CONTENDERS * TIMES * 6 / 5;
    let messages = wire.all().await;
    assert!(messages <= most, "{messages} messages");
}

/// A lock, after which the client has so many leases to spare.
async fn warm(wire: &mut Wire, leases: u64) -> NamedLock {
    let acquire = async |number| wire.client.lock(&format!("/warm/{number}")).ttl(TTL).acquire().await.unwrap();
    for held in join_all((0..leases).map(acquire)).await {
        held.release().await.unwrap();
    }
    wire.gets([("LeaseGrant", leases), ("Txn", 2 * leases)]).await;
    wire.client.lock("/locks/a").ttl(TTL)
}

/// One that finds nothing in flight, and all others together.
#[tokio::test]
async fn reads_at_once_are_two_requests() {
    let mut wire = Wire::new().await;
    let joins = wire.joins();
    wire.learn(64).await;
    for _ in 0..10 {
        let requests = wire.reads_at_once(64).await;
        assert!(requests == if joins { 2 } else { 64 }, "{requests} requests for 64 reads");
    }
}

/// Callers that ask again and again: those who were answered together ask again together.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reads_of_eight_callers_are_a_third_of_the_requests_at_most() {
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
