//! Runs the example `leader` as a user would. The leader's process is killed, and another worker
//! takes over.

use std::process::Stdio;
use std::time::Instant;

use etcd_typed::Client;
use etcd_typed::testing::Etcd;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::*;

/// The time to live that the example sets.
const TTL: Duration = Duration::from_secs(3);
/// The election timeout of a server with default flags.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Worker processes and the lines that they print.
struct Workers {
    address: String,
    processes: Vec<Child>,
    log: mpsc::UnboundedSender<String>,
    lines: mpsc::UnboundedReceiver<String>,
    said: Vec<String>,
}

impl Workers {
    fn at(address: String) -> Self {
        let (log, lines) = mpsc::unbounded_channel();
        Self { address, processes: Vec::new(), log, lines, said: Vec::new() }
    }

    fn start(&mut self, name: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leader"));
        command.args([&self.address, name]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let log = self.log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = log.send(line);
            }
        });
        self.processes.push(process);
    }

    /// Waits for the first line, from line `from` on, that `wanted` accepts.
    async fn says<T>(&mut self, from: usize, wanted: impl Fn(&str) -> Option<T>) -> T {
        let line = async {
            let mut at = from;
            loop {
                while let Some(line) = self.said.get(at) {
                    if let Some(found) = wanted(line) {
                        return found;
                    }
                    at += 1;
                }
                self.said.push(self.lines.recv().await.expect("the sender is kept"));
            }
        };
        timeout(LIMIT, line).await.expect("a worker prints such a line in time")
    }

    /// Waits for the first worker that leads, from line `from` on. Returns its name and its fence.
    async fn leads(&mut self, from: usize) -> (String, u64) {
        self.says(from, |line| {
            let (name, fence) = line.split_once(": leads, fence ")?;
            Some((name.to_owned(), fence.parse().unwrap()))
        })
        .await
    }
}

#[tokio::test]
async fn v3_worker_takes_over_from_killed_leader() {
    let etcd = Etcd::start().await;
    worker_takes_over_from_killed_leader(etcd.url_v3()).await;
}

#[tokio::test]
async fn v2_worker_takes_over_from_killed_leader() {
    let etcd = Etcd::start().await;
    worker_takes_over_from_killed_leader(etcd.url_v2()).await;
}

async fn worker_takes_over_from_killed_leader(address: String) {
    const NAMES: [&str; 4] = ["anna", "ben", "carl", "dora"];
    let election = Client::connect(&address).await.unwrap().election("/etcd-typed/leader");
    let mut workers = Workers::at(address.clone());
    for name in NAMES {
        workers.start(name);
    }
    let (mut leader, mut fence) = workers.leads(0).await;
    eventually(async || values(&election).await.len() == NAMES.len()).await;
    let mut took = Vec::new();
    for _ in 1..NAMES.len() {
        let place = NAMES.iter().position(|name| *name == leader).unwrap();
        while let Ok(line) = workers.lines.try_recv() {
            workers.said.push(line);
        }
        let from = workers.said.len();
        workers.processes[place].kill().await.unwrap();
        let killed = Instant::now();
        let (next, next_fence) = workers.leads(from).await;
        took.push(killed.elapsed());
        assert!(next != leader && next_fence > fence, "{next} leads after {leader}");
        workers.says(from, |line| line.ends_with(&format!("sees that {next} leads")).then_some(())).await;
        (leader, fence) = (next, next_fence);
    }
    println!("{address}: after a leader with a time to live of {TTL:?} was killed, another worker led within {took:?}");
    // Other programs on the machine may delay some of the rounds. The quickest round shows the time
    // that the library takes.
    let quickest = took.iter().min().unwrap();
    assert!(*quickest <= TTL + ELECTION_TIMEOUT, "{took:?}");
}

#[tokio::test]
async fn memory_three_workers_take_turns() {
    let run = Command::new(env!("CARGO_BIN_EXE_leader")).output();
    let output = timeout(LIMIT, run).await.expect("the example ends in time").unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let terms: Vec<(&str, u64)> =
        printed.lines().filter_map(|line| line.split_once(": leads, fence ")).map(|(name, fence)| (name, fence.parse().unwrap())).collect();
    let names: Vec<_> = terms.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["anna", "ben", "carl", "ben"], "{printed}");
    assert!(terms.windows(2).all(|pair| pair[0].1 < pair[1].1), "{printed}");
    // Each job is done once and under growing fences, however far the deposed leader got.
    let jobs: Vec<(usize, u64)> = printed
        .lines()
        .filter_map(|line| line.split_once(": job ")?.1.split_once(", fence "))
        .map(|(job, fence)| (job.parse().unwrap(), fence.parse().unwrap()))
        .collect();
    assert!(jobs.len() >= 9 && jobs.iter().map(|(job, _)| *job).eq(1..=jobs.len()), "{printed}");
    assert!(jobs.is_sorted_by_key(|(_, fence)| *fence), "{printed}");
    assert!(printed.contains("ben is deposed"), "{printed}");
}
