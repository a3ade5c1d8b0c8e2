//! Elections. Files: what they do on every store, what that costs, who else stands in the queue (`etcdctl elect`), and workers whose leader is killed. What
//! needs a store that fails when it should is beside the code, in memory on paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it counted")]

mod cost;
mod etcdctl;
mod stores;
mod workers;

use std::time::Duration;

use etcd_typed::{Candidate, Election, EtcdValue, Leader, LeaderChanges, Result, Revision};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Long enough for whatever comes at all; only a test that fails waits for it.
const LIMIT: Duration = Duration::from_secs(60);

fn text(text: &str) -> String {
    text.to_owned()
}

async fn eventually(check: impl AsyncFn() -> bool) {
    let until = async {
        while !check().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, until).await.expect("it comes to be so");
}

/// The values of who leads and who waits, in their order.
async fn values(election: &Election<String>) -> Vec<String> {
    election.candidates().await.unwrap().into_iter().map(|candidate| candidate.value.unwrap()).collect()
}

/// Who leads, without waiting for long.
async fn campaign(election: &Election<String>, value: &str) -> Leader<String> {
    timeout(LIMIT, election.campaign(&text(value))).await.expect("in time").unwrap()
}

/// Somebody stands, and waits.
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
    timeout(LIMIT, waiting).await.expect("it leads in the end").unwrap()
}

async fn next<T: EtcdValue>(changes: &mut LeaderChanges<T>) -> Result<Option<Candidate<T>>> {
    timeout(LIMIT, changes.next()).await.expect("it comes").expect("the stream goes on")
}

/// The value and the fence of who leads, as the next item says.
async fn told(changes: &mut LeaderChanges<String>) -> Option<(String, Revision)> {
    next(changes).await.unwrap().map(|leader| (leader.value, leader.fence))
}
