//! How do several workers agree on the one that does the job, and who goes on when it dies?
//!
//! ```text
//! cargo run --example leader                                  # three workers in one program, on the embedded store
//! cargo run --example leader -- etcd://127.0.0.1:2379         # one worker: run it in three terminals
//! cargo run --example leader -- etcd2://127.0.0.1:2379 anna   # the same on the v2 keys API, with a name
//! ```
//!
//! End the one that leads, with Ctrl-C or `kill -9`: it dies without a word, and when its time to live has passed another one leads. On v3
//! `etcdctl elect --listen /etcd-typed/leader` shows who does, and `etcdctl elect /etcd-typed/leader me` stands in the same queue.
//!
//! What a leader cannot promise is that it never acts when another leads already: between its last look at the clock and the act any time may pass. So each
//! job is done under the fence, a number that grows with each leader: whoever takes the job refuses a smaller one than it has seen. What is written to etcd
//! itself can be made to depend on the leadership, on v3 and in memory: `entry.set(&value).guarded_by(&leader)`.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use etcd_typed::store::memory::MemoryStore;
use etcd_typed::{Client, Election, Guard, Result};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long the leadership outlives a leader that died. So short only to be seen: an outage that is longer costs it.
const TTL: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(address) = arguments.next() else { return play().await };
    let name = arguments.next().unwrap_or_else(|| format!("worker-{}", std::process::id()));
    let election = election(&Client::connect(&address).await?);
    // Neither ends but with an error.
    tokio::try_join!(follow(&name, &election), lead(&name, &election, usize::MAX))?;
    Ok(())
}

/// The value of each candidate is its name.
fn election(client: &Client) -> Election<String> {
    client.election("/etcd-typed/leader").ttl(TTL)
}

/// Does the jobs whenever this worker leads.
async fn lead(name: &str, election: &Election<String>, jobs: usize) -> Result<()> {
    election.lead(&name.to_owned(), |leader| async move { work(name, &leader, jobs).await }).await
}

/// Is stopped where it waits when the leadership is lost.
async fn work(name: &str, leader: &Guard, jobs: usize) {
    println!("{name}: leads, fence {}", leader.fence());
    for job in 1..=jobs {
        sleep(Duration::from_millis(300)).await;
        println!("{name}: job {job}, fence {}", leader.fence());
    }
}

/// Says who leads, for whoever has to know where the leader is.
async fn follow(name: &str, election: &Election<String>) -> Result<()> {
    let mut changes = election.observe().await?;
    while let Some(leader) = changes.next().await {
        match leader? {
            Some(leader) => println!("{name}: sees that {} leads", leader.value),
            None => println!("{name}: sees that nobody leads"),
        }
    }
    Ok(())
}

/// Three workers with three jobs each; the second is put out of office when it leads for the first time.
async fn play() -> Result<(), Box<dyn Error>> {
    let store = MemoryStore::new();
    let election = election(&Client::with_store(store.clone()));
    let mut changes = election.observe().await?;
    let mut workers = JoinSet::new();
    for (stand, name) in ["anna", "ben", "carl"].into_iter().enumerate() {
        let theirs = self::election(&Client::with_store(store.clone()));
        workers.spawn(async move { lead(name, &theirs, 3).await });
        while election.candidates().await?.len() <= stand {
            sleep(Duration::from_millis(1)).await;
        }
    }
    let mut deposed = 0;
    while !workers.is_empty() {
        tokio::select! {
            Some(change) = changes.next() => match change? {
                Some(leader) if leader.value == "ben" && deposed == 0 => {
                    deposed = election.depose(&leader.value).await?;
                    println!("ben is deposed, and stands again");
                }
                Some(leader) => println!("{} leads", leader.value),
                None => println!("nobody leads"),
            },
            Some(done) = workers.join_next() => done??,
        }
    }
    Ok(())
}
