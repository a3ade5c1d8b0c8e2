//! How do several workers agree on which worker does the job, and which worker continues when that
//! worker dies?
//!
//! ```text
//! cargo run --example leader                                  # three workers in one program, on the embedded store
//! cargo run --example leader -- etcd://127.0.0.1:2379         # one worker: run it in three terminals
//! cargo run --example leader -- etcd2://127.0.0.1:2379 anna   # the same on the v2 keys API, with a name
//! ```
//!
//! Stop the leader with Ctrl-C or `kill -9`. The leader then cannot resign, and another worker
//! leads when the leader's time to live has passed. On v3, `etcdctl elect --listen
//! /etcd-typed/leader` shows the leader, and `etcdctl elect /etcd-typed/leader me` adds a candidate
//! to the same queue.
//!
//! An old leader may still act briefly after a new leader has taken over: any time may pass between
//! its last check of the leadership and its next action. So writes to etcd are guarded by the
//! leadership (on v3 and in memory) and are refused without it. Other systems get the fence, a
//! number that grows with each leader, and refuse a fence that is smaller than the largest fence
//! they have seen.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::{Client, Election, Entry, ErrorKind, Guard, Result};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The time for which the leadership remains after the leader has died. The time is short to make
/// the example quick. In a real program, choose a longer time: an outage of etcd that lasts longer
/// than this time also ends the leadership.
const TTL: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(address) = arguments.next() else { return play().await };
    let name = arguments.next().unwrap_or_else(|| format!("worker-{}", std::process::id()));
    let worker = Worker::new(&name, &Client::connect(&address).await?)?;
    // `follow` and `lead` run until one of them fails.
    tokio::try_join!(worker.follow(), worker.lead(usize::MAX))?;
    Ok(())
}

struct Worker {
    name: String,
    /// The value of each candidate is its name.
    election: Election<String>,
    /// The number of jobs that were done, by all leaders.
    done: Entry<u64>,
}

impl Worker {
    fn new(name: &str, client: &Client) -> Result<Self> {
        let election = client.election("/etcd-typed/leader").ttl(TTL);
        Ok(Self { name: name.to_owned(), election, done: client.entry("/etcd-typed/jobs")? })
    }

    /// Does jobs while this worker leads, and waits while another worker leads.
    async fn lead(&self, jobs: usize) -> Result<()> {
        self.election.lead(&self.name, |leader| async move { self.work(&leader, jobs).await }).await?
    }

    /// Does the jobs. If the leadership is lost, `lead` drops this future at its current await
    /// point.
    async fn work(&self, leader: &Guard, jobs: usize) -> Result<()> {
        println!("{}: leads, fence {}", self.name, leader.fence());
        for _ in 0..jobs {
            sleep(Duration::from_millis(300)).await;
            println!("{}: job {}, fence {}", self.name, self.count(leader).await?, leader.fence());
        }
        Ok(())
    }

    /// Counts a job, only if this worker still leads: the count of a newer leader is never overwritten.
    async fn count(&self, leader: &Guard) -> Result<u64> {
        let more = |done: Option<u64>| Some(done.unwrap_or(0) + 1);
        let done = match self.done.modify(more).guarded_by(leader).await {
            // v2 has no transaction over two keys. The worker can only check its leadership before
            // the write, and may lose the leadership in between.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                leader.verify().await?;
                self.done.modify(more).await?
            }
            counted => counted?,
        };
        Ok(done.map_or(0, |done| *done))
    }

    /// Prints each change of the leader. A client that must find the leader would do the same.
    async fn follow(&self) -> Result<()> {
        let mut changes = self.election.observe().await?;
        while let Some(leader) = changes.next().await {
            match leader? {
                Some(leader) => println!("{}: sees that {} leads", self.name, leader.value),
                None => println!("{}: sees that nobody leads", self.name),
            }
        }
        Ok(())
    }
}

/// Runs three workers with three jobs each. The operator deposes the second worker when it leads
/// for the first time.
async fn play() -> Result<(), Box<dyn Error>> {
    let store = MemoryStore::new();
    let operator = Worker::new("operator", &Client::with_store(store.clone()))?;
    let mut changes = operator.election.observe().await?;
    let mut workers = JoinSet::new();
    for (before, name) in ["anna", "ben", "carl"].into_iter().enumerate() {
        let worker = Worker::new(name, &Client::with_store(store.clone()))?;
        workers.spawn(async move { worker.lead(3).await });
        while operator.election.candidates().await?.len() <= before {
            sleep(Duration::from_millis(1)).await;
        }
    }
    let mut deposed = 0;
    while !workers.is_empty() {
        tokio::select! {
            Some(change) = changes.next() => match change? {
                Some(leader) if leader.value == "ben" && deposed == 0 => {
                    deposed = operator.election.depose(&leader.value).await?;
                    println!("operator: ben is deposed");
                }
                Some(leader) => println!("operator: {} leads", leader.value),
                None => println!("operator: nobody leads"),
            },
            Some(done) = workers.join_next() => done??,
        }
    }
    Ok(())
}
