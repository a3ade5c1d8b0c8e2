//! The setting of a campaign: servers, processes of contenders, a proxy between each process and
//! each server, and the faults that hit them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use etcd_typed::store::{Batch, Op, Span, Store, Txn, Watch, WatchFrom, WatchItem};
use etcd_typed::testing::{Cluster, Mode, Proxy};
use etcd_typed::{Client, Key, Revision};
use etcd_typed_tests::checks::has_faithless_leaders;
use fastrand::Rng;
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::check::{Evidence, Violation};
use super::contender::directory;
use super::record::{Behaviour, Event, Orders, machine_time, nanoseconds};

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a server that was stopped and continues may still end leases, although another member
/// leads.
const FAITHLESS: Duration = Duration::from_secs(5);

/// The settings of a campaign, which is one run of contenders under faults.
#[derive(Clone, Debug)]
pub(crate) struct Campaign {
    pub(crate) scheme: &'static str,
    pub(crate) seed: u64,
    pub(crate) time: Duration,
    pub(crate) processes: usize,
    pub(crate) tasks: usize,
    pub(crate) locks: BTreeMap<String, Duration>,
    pub(crate) behaviour: Behaviour,
    pub(crate) servers: &'static [ServerFault],
    pub(crate) clients: &'static [ClientFault],
}

/// A fault of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServerFault {
    Killed,
    /// The server is paused for about as long as the leases of the locks last.
    Stopped,
    /// The server is cut off, so that no client reaches the server.
    CutOff,
}

/// A fault of a contender process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClientFault {
    /// The process is killed, and another process takes its place.
    Killed,
    /// The process is paused for about as long as the leases of the locks last.
    Stopped,
    /// The process reaches no server.
    CutOff,
    /// The process reaches the servers but gets no answers.
    Deafened,
    /// The connections of the process are reset.
    Reset,
}

/// A running campaign: the proxies and clients of its servers, and the logs of its processes.
pub(crate) struct Ground {
    campaign: Campaign,
    /// Whether servers of this version may end leases that they had confirmed.
    has_faithless_leaders: bool,
    files: tempfile::TempDir,
    /// The proxies of each process, one for each server.
    proxies: Vec<Vec<Proxy>>,
    directs: Vec<Client>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    logs: BTreeMap<usize, PathBuf>,
    killed: BTreeSet<usize>,
    faithless: Vec<(u64, u64)>,
    faults: BTreeMap<String, usize>,
}

/// A running process of contenders.
pub(crate) struct Contenders {
    child: Child,
    process: usize,
}

impl Ground {
    pub(crate) async fn of(cluster: &Cluster, campaign: Campaign) -> Self {
        let endpoints: Vec<String> = cluster.members().iter().map(|etcd| etcd.endpoint()).collect();
        let mut proxies = Vec::new();
        for _ in 0..campaign.processes {
            let mut row = Vec::new();
            for endpoint in &endpoints {
                row.push(Proxy::to(endpoint.as_str()).await);
            }
            proxies.push(row);
        }
        let client = |endpoint: &String| Client::builder(&format!("{}://{endpoint}", campaign.scheme)).connect_lazy().unwrap();
        Self {
            has_faithless_leaders: cluster.members().iter().any(|etcd| has_faithless_leaders(etcd.version())),
            files: tempfile::TempDir::new().unwrap(),
            directs: endpoints.iter().map(client).collect(),
            proxies,
            campaign,
            state: RefCell::default(),
        }
    }

    /// Runs the contenders under faults, then removes all faults and lets the contenders finish.
    /// Returns the evidence, and the violations that the run itself found.
    pub(crate) async fn contend(&self, cluster: &mut Cluster) -> (Evidence, Vec<Violation>) {
        let mut all: Vec<Contenders> = (0..self.campaign.processes).map(|place| self.start(place)).collect();
        let end = Instant::now() + self.campaign.time;
        let mut rng = Rng::with_seed(self.campaign.seed);
        let (servers, clients) = (rng.fork(), rng.fork());
        tokio::join!(self.trouble_servers(cluster, servers, end), self.trouble_clients(&mut all, clients, end), sleep_until(end));

        let mut violations = Vec::new();
        for contenders in all {
            violations.extend(self.finish(contenders).await);
        }
        violations.extend(self.left_behind().await);
        let history = if self.campaign.behaviour == Behaviour::LockOnly { None } else { Some(self.history().await) };
        let state = self.state.borrow();
        let said = state.logs.iter().map(|(process, path)| (*process, read(&std::fs::read_to_string(path).unwrap()))).collect();
        (Evidence { said, killed: state.killed.clone(), history, faithless: state.faithless.clone() }, violations)
    }

    /// Returns how often each fault happened.
    pub(crate) fn faults(&self) -> BTreeMap<String, usize> {
        self.state.borrow().faults.clone()
    }

    /// Starts a contender process that uses the proxies of this place.
    pub(crate) fn start(&self, place: usize) -> Contenders {
        let mut state = self.state.borrow_mut();
        let process = state.logs.len();
        let path = self.files.path().join(process.to_string());
        let endpoints: Vec<String> = self.proxies[place].iter().map(Proxy::endpoint).collect();
        let orders = Orders {
            process,
            address: format!("{}://{}", self.campaign.scheme, endpoints.join(",")),
            log: path.to_str().unwrap().to_owned(),
            seed: self.campaign.seed.wrapping_add(process as u64),
            tasks: self.campaign.tasks,
            locks: self.campaign.locks.clone(),
            behaviour: self.campaign.behaviour,
        };
        state.logs.insert(process, path);
        let child = Command::new(env!("CARGO_BIN_EXE_contenders"))
            .arg(serde_json::to_string(&orders).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Contenders { child, process }
    }

    async fn trouble_servers(&self, cluster: &mut Cluster, mut rng: Rng, end: Instant) {
        let count = cluster.members().len();
        while !self.campaign.servers.is_empty() && Instant::now() < end {
            sleep(Duration::from_millis(rng.u64(500..3000))).await;
            let fault = self.campaign.servers[rng.usize(..self.campaign.servers.len())];
            let leader = self.leader().await;
            let victim = leader.filter(|_| rng.bool()).unwrap_or_else(|| rng.usize(..count));
            let leads = if leader == Some(victim) { " leader" } else { "" };
            self.note(format!("server{leads} {fault:?}"));
            match fault {
                ServerFault::Killed => {
                    cluster.member(victim).kill().await;
                    sleep(Duration::from_millis(rng.u64(200..2500))).await;
                    cluster.member(victim).restart().await;
                }
                ServerFault::Stopped => {
                    cluster.member(victim).pause();
                    sleep(self.long(&mut rng)).await;
                    let now = machine_time();
                    cluster.member(victim).resume();
                    if self.has_faithless_leaders {
                        self.state.borrow_mut().faithless.push((now, now + nanoseconds(FAITHLESS)));
                    }
                }
                ServerFault::CutOff => {
                    let refuses = rng.bool();
                    for row in &self.proxies {
                        row[victim].set(if refuses { Mode::Refuse } else { Mode::Stall }).await;
                        if refuses {
                            row[victim].cut();
                        }
                    }
                    sleep(self.long(&mut rng)).await;
                    for row in &self.proxies {
                        row[victim].set(Mode::Pass).await;
                    }
                }
            }
        }
    }

    async fn trouble_clients(&self, all: &mut [Contenders], mut rng: Rng, end: Instant) {
        while !self.campaign.clients.is_empty() && Instant::now() < end {
            sleep(Duration::from_millis(rng.u64(500..3000))).await;
            let fault = self.campaign.clients[rng.usize(..self.campaign.clients.len())];
            let place = rng.usize(..all.len());
            self.note(format!("client {fault:?}"));
            match fault {
                ClientFault::Killed => {
                    self.kill(&mut all[place]).await;
                    all[place] = self.start(place);
                }
                ClientFault::Stopped => all[place].stop(self.long(&mut rng)).await,
                ClientFault::CutOff | ClientFault::Deafened => {
                    let mode = if fault == ClientFault::CutOff { Mode::Stall } else { Mode::StallAnswers };
                    self.way_of(place, mode).await;
                    sleep(self.long(&mut rng)).await;
                    self.way_of(place, Mode::Pass).await;
                }
                ClientFault::Reset => {
                    for proxy in &self.proxies[place] {
                        proxy.cut();
                    }
                }
            }
        }
    }

    /// Returns a random duration between 0.3 and 1.3 times the longest time to live.
    fn long(&self, rng: &mut Rng) -> Duration {
        let longest = self.campaign.locks.values().max().copied().unwrap_or_default();
        longest.mul_f64(0.3 + rng.f64())
    }

    async fn way_of(&self, place: usize, mode: Mode) {
        for proxy in &self.proxies[place] {
            proxy.set(mode).await;
        }
    }

    pub(crate) async fn kill(&self, contenders: &mut Contenders) {
        contenders.child.kill().await.unwrap();
        self.state.borrow_mut().killed.insert(contenders.process);
    }

    fn note(&self, fault: String) {
        *self.state.borrow_mut().faults.entry(fault).or_default() += 1;
    }

    pub(crate) async fn leader(&self) -> Option<usize> {
        for (index, direct) in self.directs.iter().enumerate() {
            let status = timeout(Duration::from_millis(500), direct.status()).await;
            if let Ok(Ok(status)) = status
                && status.member.is_some()
                && status.member == status.leader
            {
                return Some(index);
            }
        }
        None
    }

    /// Lets each contender of a process acquire its lock once more, and waits until the process
    /// ends. If the process does not end in time, returns the queues that still have keys.
    async fn finish(&self, mut contenders: Contenders) -> Vec<Violation> {
        let mut input = contenders.child.stdin.take().unwrap();
        input.write_all(b"finish\n").await.unwrap();
        match timeout(LIMIT, contenders.child.wait()).await {
            Ok(ended) => {
                assert!(ended.unwrap().success(), "process {} failed", contenders.process);
                Vec::new()
            }
            Err(_) => {
                let forgotten = self.forgotten().await;
                self.kill(&mut contenders).await;
                forgotten
            }
        }
    }

    /// Waits until all queues are empty. Returns the queues that still have keys at the time limit.
    async fn left_behind(&self) -> Vec<Violation> {
        let begun = Instant::now();
        loop {
            let forgotten = self.forgotten().await;
            if forgotten.is_empty() || begun.elapsed() > LIMIT {
                return forgotten;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns a violation for each queue that is not empty.
    async fn forgotten(&self) -> Vec<Violation> {
        let mut forgotten = Vec::new();
        for lock in self.campaign.locks.keys() {
            let queue = self.directs[0].lock(&directory(lock)).queue().await.unwrap();
            if !queue.is_empty() {
                let queue = queue.into_iter().map(|holder| format!("{} {}", holder.fence, holder.key)).collect();
                forgotten.push(Violation::Forgotten { lock: lock.clone(), queue });
            }
        }
        forgotten
    }

    async fn history(&self) -> Vec<Batch> {
        history(self.directs[0].store().as_ref()).await
    }
}

/// Returns the whole history of a store that was never compacted.
pub(crate) async fn history(store: &dyn Store) -> Vec<Batch> {
    let end = Op::put(&Key::parse("/mutex/end").unwrap(), "here".into());
    let end = store.commit(Txn::new(vec![end])).await.unwrap().revision;
    let mut batches = Vec::new();
    while batches.last().is_none_or(|batch: &Batch| batch.revision < end) {
        let from = batches.last().map_or(Revision::new(1), |batch| batch.revision);
        let watch = Watch::new(Span::Below(Key::parse("/mutex").unwrap()), WatchFrom::Resumed(from));
        let mut items = store.watch(watch).await.unwrap();
        while let Some(Ok(item)) = items.next().await {
            match item {
                WatchItem::Batch(batch) => {
                    let last = batch.revision >= end;
                    batches.push(batch);
                    if last {
                        break;
                    }
                }
                WatchItem::HistoryLost { .. } | WatchItem::Skipped(_) => panic!("{item:?}"),
                WatchItem::Progress(_) | WatchItem::Behind(_) | WatchItem::Lagged => {}
            }
        }
    }
    batches
}

/// Parses the log of a process.
pub(crate) fn read(text: &str) -> Vec<Event> {
    // A process that was killed may have written only half of its last line.
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

impl Contenders {
    /// Pauses the process for this time. A separate shell resumes the process, even if the test has
    /// ended.
    pub(crate) async fn stop(&self, time: Duration) {
        let Some(id) = self.child.id() else { return };
        let script = format!("kill -STOP {id} && sleep {:.3} && kill -CONT {id}", time.as_secs_f64());
        let done = Command::new("sh").arg("-c").arg(script).stdin(Stdio::null()).status().await.unwrap();
        assert!(done.success());
    }
}
