//! Elections: behaviour on every store (`stores`), cost in requests (`cost`), `etcdctl elect` in
//! the same queue (`etcdctl`), and worker processes whose leader is killed (`workers`). Tests that
//! inject failures of the store are next to the code, on the memory store with paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it counted")]

mod cost;
mod etcdctl;
mod stores;
mod workers;

use std::time::Duration;

use etcd_typed::{Candidate, Election, EtcdValue, Leader, LeaderChanges, Result, Revision};
use etcd_typed_tests::waiting::eventually;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The limit of every wait. Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

fn text(text: &str) -> String {
    text.to_owned()
}

/// Returns the values of the leader and of the waiting candidates, in queue order.
async fn values(election: &Election<String>) -> Vec<String> {
    election.candidates().await.unwrap().into_iter().map(|candidate| candidate.value.unwrap()).collect()
}

/// Campaigns, and fails if that takes too long.
async fn campaign(election: &Election<String>, value: &str) -> Leader<String> {
    timeout(LIMIT, election.campaign(&text(value))).await.expect("in time").unwrap()
}

/// Starts a campaign and returns once its candidate is the last in the queue.
async fn stand(election: &Election<String>, value: &str) -> JoinHandle<Leader<String>> {
    let (standing, value) = (election.clone(), text(value));
    let waiting = tokio::spawn({
        let value = value.clone();
        async move { standing.campaign(&value).await.unwrap() }
    });
    eventually(async || values(election).await.last() == Some(&value)).await;
    waiting
}

async fn led(waiting: JoinHandle<Leader<String>>) -> Leader<String> {
    timeout(LIMIT, waiting).await.expect("the candidate leads in time").unwrap()
}

async fn next<T: EtcdValue>(changes: &mut LeaderChanges<T>) -> Result<Option<Candidate<T>>> {
    timeout(LIMIT, changes.next()).await.expect("an item in time").expect("the stream has not ended")
}

/// Returns the value and the fence of the leader in the stream's next item, or `None` if there is
/// no leader.
async fn told(changes: &mut LeaderChanges<String>) -> Option<(String, Revision)> {
    next(changes).await.unwrap().map(|leader| (leader.value, leader.fence))
}
